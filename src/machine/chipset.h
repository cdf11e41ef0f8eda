/* machine/chipset.h - a PC's board with firmware: what pc_chipset.c (all that both boards have) and the boards (board_i440fx.c,
 * board_q35.c) share.
 *
 * Model: a board is a constant table: its bridges, how PCI interrupts are wired, its drives' controller, what ACPI and the boot order say
 * of it.
 */
#ifndef DP_MACHINE_CHIPSET_H
#define DP_MACHINE_CHIPSET_H

#include "machine/pam.h"
#include "machine/pc_internal.h"

struct board {
    uint64_t low_split, low_max; /* from so many bytes of memory on, so many of them are below 4 GiB */
    unsigned drives;             /* of struct dp_pc_firmware's */
    unsigned isa_slot;           /* of the ISA bridge */
    unsigned hpet_gsi;           /* the I/O APIC's inputs from there on are the HPET's: no device has them */
    void (*wire_pci)(struct dp_pc *pc);                      /* before pc->pci is initialised */
    int (*add_bridges)(struct dp_pc *pc, struct dp_error *e);
    int (*add_drives)(struct dp_pc *pc, struct dp_error *e);
    int (*change_medium)(struct dp_device *drives, unsigned n, struct dp_block *medium, struct dp_error *e); /* of a CD drive */
    void (*drive_path)(struct dp_buffer *order, unsigned n); /* a line of the boot order */
    void (*describe)(struct dp_pc *pc, struct dp_acpi_config *a);
};
extern const struct board board_i440fx, board_q35;

struct chipset {
    const struct board *board;
    struct pam pam;
    struct mch *mch;                     /* the Q35's */
    struct dp_ram *bios;
    struct dp_device *isa, *fw_cfg, *vga, *i8042, *fdc, *drives;
};

/* Windows of a device and where they go. */
struct chipset_place {
    unsigned window;
    uint64_t base;
};
/* Initialises a device and makes its windows appear. */
int chipset_start(struct dp_device *d, const struct chipset_place *places, unsigned count, struct dp_error *e) DP_MUST_CHECK;
#define CHIPSET_START(d, places, e) chipset_start(d, places, DP_ARRAY_LEN(places), e)

#endif
