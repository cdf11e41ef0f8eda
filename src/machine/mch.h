/* machine/mch.h - the Q35's north bridge (MCH): PAM and SMRAM as in pam.h, and PCIEXBAR, which places configuration space in memory.
 *
 * Model: the function at 00:00.0 is the PCI host's own, made an MCH here. PCIEXBAR maps 256, 128 or 64 MiB, one for each bus, below RAM
 * and whatever
 * else the machine has there; buses but the first are empty. TOLUD, GGC and the like are kept as written. TSEG is no memory of its own:
 * ESMRAMC is kept,
 * and locked by D_LCK, but hides nothing.
 * Source: Intel 3 Series chipset datasheet (316966) 5.1 (5.1.16 PCIEXBAR, 5.1.26 SMRAM, 5.1.27 ESMRAMC).
 */
#ifndef DP_MACHINE_MCH_H
#define DP_MACHINE_MCH_H

#include "machine/pam.h"

#define MCH_ECAM_BASE 0xb0000000ull /* where SeaBIOS and OVMF put it, and the ACPI tables say it is */

struct mch {
    struct pam *pam;
    struct dp_pci_host *host;
    pthread_mutex_t lock; /* the mapping */
    uint32_t mapping;
    uint64_t mapped_at, mapped_size; /* 0: nowhere */
};

void mch_attach(struct mch *m, struct pam *pam, struct dp_device *host);
void mch_fini(struct mch *m); /* not attached is fine */

#endif
