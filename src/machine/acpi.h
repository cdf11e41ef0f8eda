/* machine/acpi.h - the ACPI tables of a PC, made from its wiring.
 *
 * Model: dp_acpi_build turns one description into one image that belongs at `base`: RSDP, FACS, DSDT, FADT, MADT, MCFG, RSDT, XSDT.
 * Without firmware
 * that is in 0xE0000-0xFFFFF, where systems look for the RSDP. With firmware, which chooses the place, base is 0 and the image tells where
 * its
 * pointers and checksums are. Source: ACPI 6.4 ch. 5 (tables), 5.6.6 (notifications), 6 (device identification, _CRS, _PRT, _EJ0), 7.4 (_S5); PCI
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
    uint64_t ecam_base; /* 0: none */
    uint8_t pci_last_bus;
    uint64_t mmio32_first, mmio32_last; /* windows for BARs; first > last: none */
    uint64_t mmio64_first, mmio64_last;
    unsigned (*pci_gsi)(unsigned device, unsigned pin); /* pin 1 = INTA */
    unsigned (*pci_irq)(unsigned device, unsigned pin); /* the same for systems that use the 8259s; NULL: they can use the above */
    uint16_t hotplug_port;  /* of devices/pci/hotplug.h's registers */
    uint32_t hotplug_slots; /* where cards may come and go; 0: nowhere */
    uint8_t hotplug_gpe;    /* the event that tells */
    uint16_t level_irqs; /* ISA interrupts below 16, but for the SCI, that are level-triggered and active high */
    uint64_t hpet_base;  /* 0: none */
    bool vga, i8042, floppy, printer;
    bool fw_cfg;         /* at its ports 0x510-0x51b */
    bool vmgenid;        /* the address in the DSDT is the loader's to fill in */
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

struct dp_acpi_image {
    struct dp_buffer data; /* the RSDP first */
    uint64_t rsdp;         /* its address */
    struct { uint32_t at, size; } pointer[24];
    struct { uint32_t at, from, size; } sum[16]; /* a byte that makes all bytes from there add up to 0 */
    unsigned pointers, sums;
    uint32_t vmgenid_at; /* where in the DSDT the 32-bit address of the generation id's page goes; 0: nowhere */
};
#define DP_ACPI_RSDP_SIZE 36
#define DP_ACPI_VMGENID_OFFSET 40 /* of the id in its page: behind what OVMF could take for the header of a table */

/* image is filled anew; its data are the caller's to release. */
int dp_acpi_build(const struct dp_acpi_config *c, uint64_t base, struct dp_acpi_image *image, struct dp_error *e) DP_MUST_CHECK;

#endif
