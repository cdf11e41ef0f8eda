/* machine/pc_internal.h - what the files of the PC share: pc.c (what every PC has), pc_chipset.c (the i440FX's board with firmware). */
#ifndef DP_MACHINE_PC_INTERNAL_H
#define DP_MACHINE_PC_INTERNAL_H

#include "devices/intc/gsi.h"
#include "devices/intc/lapic.h"
#include "machine/acpi.h"
#include "machine/pc.h"

#define GiB (UINT64_C(1) << 30)
#define HOLE_START 0xa0000ull /* 640K: the VGA hole */
#define HOLE_END 0xc0000ull   /* from here shadow RAM, where ROMs would be; without firmware ACPI tables lie in it */
#define EXTENDED_START 0x100000ull
#define HIGH_RAM_START 0x100000000ull
#define IOAPIC_ID 0

struct pc_cpu {
    struct dp_pc *pc;
    unsigned index;
    struct dp_device *lapic;
    _Atomic int64_t tsc_offset; /* of the guest's TSC from the VM's */
};

struct dp_pc {
    struct dp_pc_config config;
    struct dp_device_env env;
    struct dp_ram *ram;
    uint64_t low, high;                /* bytes of RAM below 3 GiB and from 4 GiB up */
    uint64_t mmio64_start, mmio64_end; /* equal: none */
    struct dp_apic_bus apic_bus;
    struct dp_gsi_router router;
    struct pc_cpu *cpu;
    struct dp_device **device; /* all, in the order of making */
    unsigned device_count, device_capacity;
    struct dp_device *pci, *pvclock, *exit_status, *pm, *rtc;
    struct chipset *chipset;           /* NULL: no firmware */
    unsigned serial_count;
};

/* The PCI slot of a virtio disk. */
unsigned pc_disk_slot(const struct dp_pc *pc, unsigned n);
/* The description of the ACPI tables, of either board. */
void pc_acpi_config(struct dp_pc *pc, struct dp_acpi_config *a);

/* Makes a device and takes it into the machine's list; the caller wires and initialises it. NULL: no memory, e says so. */
struct dp_device *pc_add(struct dp_pc *pc, const struct dp_device_class *c, const char *id, struct dp_error *e);

/* ---- pc_chipset.c ---- */

struct chipset *chipset_new(void);
struct dp_display_source chipset_display(struct dp_pc *pc);
struct dp_input_sink chipset_input(struct dp_pc *pc);
int chipset_change_medium(struct dp_pc *pc, bool cdrom, unsigned n, struct dp_block *medium, struct dp_error *e) DP_MUST_CHECK;
/* Memory below 1 MiB and ROMs; then the board's devices, after the interrupt controllers and pc->pci. */
int chipset_map(struct dp_pc *pc, struct dp_error *e) DP_MUST_CHECK;
int chipset_create(struct dp_pc *pc, struct dp_error *e) DP_MUST_CHECK;
void chipset_destroy(struct dp_pc *pc);
/* What firmware asks for, made anew with each reset. */
int chipset_boot(struct dp_pc *pc, struct dp_error *e) DP_MUST_CHECK;
/* The ISA interrupt that a pin leads to, as firmware programs the routing. */
unsigned chipset_pci_irq(unsigned device, unsigned pin);
/* The wires of the PCI bus' four interrupt lines; they lead somewhere once the chipset is made. */
struct dp_irq chipset_pirq(struct dp_pc *pc, unsigned n);

#endif
