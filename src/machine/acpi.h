/* machine/acpi.h - the ACPI tables of a PC, made from its wiring.
 *
 * Model: dp_acpi_build turns one description into one image that belongs at `base` (in 0xE0000-0xFFFFF, where systems look for the RSDP):
 * RSDP, FACS, DSDT, FADT, MADT, MCFG, RSDT, XSDT. Source: ACPI 6.4 ch. 5 (tables), 6 (device identification, _CRS, _PRT), 7.4 (_S5); PCI
 * Firmware 3.0 section 4.1 (MCFG).
 */
#ifndef DP_MACHINE_ACPI_H
#define DP_MACHINE_ACPI_H

#include "base/base.h"

#define DP_ACPI_BASE 0xe0000ull
#define DP_ACPI_ROOM 0x20000ull

struct dp_acpi_config {
    unsigned cpus; /* APIC ids are 0..cpus-1 */
    uint32_t lapic_base, ioapic_base;
    uint8_t ioapic_id, sci_gsi;
    uint16_t pm_event, pm_control, pm_timer, gpe0, reset_port; /* I/O ports; the timer counts 32 bits, GPE0 has 4 bytes */
    uint8_t reset_value, s5_type;                              /* SLP_TYP that powers off */
    uint64_t ecam_base;
    uint8_t pci_last_bus;
    uint64_t mmio32_first, mmio32_last; /* windows for BARs; first > last: none */
    uint64_t mmio64_first, mmio64_last;
    unsigned (*pci_gsi)(unsigned device, unsigned pin); /* pin 1 = INTA */
    unsigned serial_count;
    struct {
        uint16_t port;
        uint8_t irq;
    } serial[4];
    unsigned reserved_count; /* ports of devices of doppel's own, so that no driver is put on them */
    struct {
        uint16_t port;
        uint8_t length;
    } reserved[4];
};

/* out gets the image for DP_ACPI_BASE; *rsdp the RSDP's address. */
int dp_acpi_build(const struct dp_acpi_config *c, struct dp_buffer *out, uint64_t *rsdp, struct dp_error *e) DP_MUST_CHECK;

#endif
