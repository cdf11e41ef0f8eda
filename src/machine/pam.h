/* machine/pam.h - who answers between 0xA0000 and 0xFFFFF, RAM or the PCI bus: the part of the north bridge that the i440FX and the Q35's
 * MCH share.
 *
 * Model: the function at 00:00.0 is the PCI host's own, made a certain chipset's by its board. Its PAM registers give each of 13 segments (twelve of 16 KiB
 * from 0xC0000, one of 64 KiB at 0xF0000) two bits: reads come from RAM or from PCI, where the BIOS ROM is; writes go to RAM or to PCI. SMRAM's D_OPEN
 * shows the RAM under the VGA hole to all; G_SMRAME to processors in system management mode, which see memory through a space of their own, so that
 * others may go on using the VGA meanwhile. D_CLS (data of the mode go to the VGA all the same) is not followed. D_LCK closes D_OPEN and keeps SMRAM (and what follows it
 * up to last_locked) as it is until a reset. Mappings follow the registers.
 * Reads from ROM and writes to RAM together (a BIOS that copies itself in place) go through a register window.
 * Source: Intel 82441FX datasheet 3.2.16 (PAM), 3.2.18 (SMRAM); Intel 3 Series chipset datasheet (316966) 5.1.18-5.1.26.
 */
#ifndef DP_MACHINE_PAM_H
#define DP_MACHINE_PAM_H

#include "devices/pci/pci.h"

enum { PAM_SEGMENTS = 13 };
struct pam {
    struct dp_space *memory, *smm_memory; /* smm_memory: over memory; NULL: none */
    struct dp_ram *ram, *rom; /* the ROM's end is that of the address space below 1 MiB */
    struct dp_pci_function *bridge;
    uint8_t pam0, smram, last_locked; /* registers in its configuration space */
    struct pam_segment {
        struct pam *owner;
        uint64_t base, size;
        uint32_t mapping;
        uint8_t bits; /* as mapped */
        bool mapped;
    } segment[PAM_SEGMENTS];
    uint32_t smram_mapping, smm_mapping;
    bool smram_open, smm_shown;
    pthread_mutex_t lock; /* all that is mapped */
};

/* Maps as after a reset; before there is a bridge. */
int pam_init(struct pam *n, struct dp_space *memory, struct dp_space *smm_memory, struct dp_ram *ram, struct dp_ram *rom, struct dp_error *e) DP_MUST_CHECK;
/* Where the registers are in the bridge. It is the caller who calls pam_changed (as config_changed, watching them) and pam_access (as config_access). */
void pam_attach(struct pam *n, struct dp_pci_function *bridge, uint8_t pam0, uint8_t smram, uint8_t last_locked);
void pam_changed(struct pam *n);
/* True: this is a write to registers that D_LCK keeps. */
bool pam_access(struct pam *n, unsigned offset, unsigned size, uint32_t *value, bool write);
void pam_fini(struct pam *n);

#endif
