/* machine/pc_internal.h - what the files of the PC share: pc.c (what every PC has), pc_chipset.c (boards with firmware). */
#ifndef DP_MACHINE_PC_INTERNAL_H
#define DP_MACHINE_PC_INTERNAL_H

#include "devices/intc/gsi.h"
#include "devices/intc/lapic.h"
#include "display/input_router.h"
#include "display/mux.h"
#include "machine/acpi.h"
#include "machine/pc.h"
#include "machine/pc_timers.h"

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

/* What people see and type into; pc_screen.c. */
struct pc_screen {
    struct dp_display_mux mux;      /* VGA, virtio-gpu */
    struct dp_input_router router;  /* PS/2, then what drivers may come for */
    unsigned functions;             /* of the virtio devices' slot */
};

/* A card that may go. */
struct pc_card {
    struct dp_device *device; /* the function's owner, in the machine's list; NULL: there is none */
    struct dp_net_port *port; /* its own; NULL: it is a disk */
    unsigned slot;
};

struct dp_pc {
    struct dp_pc_config config;
    struct dp_device_env env;
    struct dp_ram *ram;
    struct dp_space *smm_memory;       /* what processors in system management mode see; NULL: the same as others */
    uint64_t low, high;                /* bytes of RAM below and from 4 GiB up */
    uint64_t mmio64_start, mmio64_end; /* equal: none */
    struct dp_apic_bus apic_bus;
    struct dp_gsi_router router;
    struct pc_cpu *cpu;
    struct dp_device **device; /* all, in the order of making */
    unsigned device_count, device_capacity;
    struct dp_device *pci, *pvclock, *exit_status, *pm, *rtc, *coprocessor /* NULL: none */, *xhci /* NULL: no USB */, *balloon /* NULL: none */,
        *scsi /* NULL: none */, *hotplug;
    struct pc_card nic[DP_PC_NICS], disk[DP_PC_DISKS]; /* virtio disks */
    _Atomic uint32_t ejected_slots;    /* whose cards the guest has let go of, until they are taken out */
    uint8_t usb_port[DP_PC_USB];       /* as firmware counts them */
    struct pc_timers timers;           /* with a HPET */
    struct chipset *chipset;           /* NULL: no firmware */
    unsigned serial_count;
    struct pc_screen screen;
};

enum { SLOT_USB = 29, SLOT_SCREEN = 30, SLOT_ICH9 = 31 };
/* The PCI slot of a virtio disk. */
unsigned pc_disk_slot(const struct dp_pc *pc, unsigned n);
unsigned pc_scsi_slot(const struct dp_pc *pc); /* after them */
unsigned pc_nic_slot(const struct dp_pc *pc, unsigned n); /* of a card that is there from the start */
uint16_t pc_hotplug_port(const struct dp_pc *pc);
/* The description of the ACPI tables, of either board. */
void pc_acpi_config(struct dp_pc *pc, struct dp_acpi_config *a);

/* Makes a device and takes it into the machine's list; the caller wires and initialises it. NULL: no memory, e says so. */
struct dp_device *pc_add(struct dp_pc *pc, const struct dp_device_class *c, const char *id, struct dp_error *e);
/* child is made but not initialised; on success the machine owns the adapter that owns it, which is to be plugged. */
int pc_own_virtio(struct dp_pc *pc, struct dp_device *child, const char *id, struct dp_device **adapter, struct dp_error *e) DP_MUST_CHECK;

/* ---- pc_screen.c ---- */

void pc_screen_init(struct dp_pc *pc);
void pc_screen_fini(struct dp_pc *pc); /* after the devices, before the spaces */
int pc_screen_size(struct dp_pc *pc, struct dp_device *d, struct dp_error *e) DP_MUST_CHECK; /* of a graphics device, before its init */
int pc_screen_create(struct dp_pc *pc, struct dp_error *e) DP_MUST_CHECK; /* after the chipset and PCI */

/* ---- pc_chipset.c ---- */

struct chipset *chipset_new(enum dp_pc_board board);
/* Bytes of memory below 4 GiB. */
uint64_t chipset_low_memory(const struct dp_pc *pc);
/* Interrupt lines of the PCI bus, before pc->pci is initialised. They lead somewhere once the chipset is made. */
void chipset_wire_pci(struct dp_pc *pc);
bool chipset_display(struct dp_pc *pc, struct dp_display_source *out); /* false: there is no VGA */
struct dp_input_sink chipset_input(struct dp_pc *pc);
int chipset_change_medium(struct dp_pc *pc, bool cdrom, unsigned n, struct dp_block *medium, struct dp_error *e) DP_MUST_CHECK;
/* Memory below 1 MiB and ROMs; then the board's devices, after the interrupt controllers and pc->pci. */
int chipset_map(struct dp_pc *pc, struct dp_error *e) DP_MUST_CHECK;
int chipset_create(struct dp_pc *pc, struct dp_error *e) DP_MUST_CHECK;
void chipset_destroy(struct dp_pc *pc);
/* What firmware asks for, made anew with each reset. */
int chipset_boot(struct dp_pc *pc, struct dp_error *e) DP_MUST_CHECK;

#endif
