/* machine/i440fx.h - the i440FX's north bridge: who answers between 0xA0000 and 0xFFFFF, RAM or the PCI bus.
 *
 * Model: the function at 00:00.0 is the PCI host's own, made an i440FX's here. Its PAM registers give each of 13 segments (twelve of 16 KiB from
 * 0xC0000, one of 64 KiB at 0xF0000) two bits: reads come from RAM or from PCI, where the BIOS ROM is; writes go to RAM or to PCI. SMRAM's D_OPEN
 * shows the RAM under the VGA hole to all; G_SMRAME to processors in system management mode, which see memory through a space of their own, so that
 * others may go on using the VGA meanwhile. D_CLS (data of the mode go to the VGA all the same) is not followed. D_LCK closes D_OPEN and keeps the
 * register until a reset. Mappings follow the registers.
 * Reads from ROM and writes to RAM together (a BIOS that copies itself in place) go through a register window.
 * Source: Intel 82441FX datasheet 3.2.16 (PAM), 3.2.18 (SMRAM).
 */
#ifndef DP_MACHINE_I440FX_H
#define DP_MACHINE_I440FX_H

#include "devices/pci/pci.h"

enum { I440FX_SEGMENTS = 13 };
struct i440fx {
    struct dp_space *memory, *smm_memory; /* smm_memory: over memory; NULL: none */
    struct dp_ram *ram, *rom; /* the ROM's end is that of the address space below 1 MiB */
    struct dp_pci_function *bridge;
    struct i440fx_segment {
        struct i440fx *owner;
        uint64_t base, size;
        uint32_t mapping;
        uint8_t bits; /* as mapped */
        bool mapped;
    } segment[I440FX_SEGMENTS];
    uint32_t smram_mapping, smm_mapping;
    bool smram_open, smm_shown;
    pthread_mutex_t lock; /* all that is mapped */
};

/* Maps as after a reset; before there is a bridge. */
int i440fx_init(struct i440fx *n, struct dp_space *memory, struct dp_space *smm_memory, struct dp_ram *ram, struct dp_ram *rom, struct dp_error *e) DP_MUST_CHECK;
void i440fx_attach(struct i440fx *n, struct dp_pci_function *bridge);
void i440fx_fini(struct i440fx *n);

#endif
