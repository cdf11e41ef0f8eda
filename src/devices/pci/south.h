/* devices/pci/south.h - what south bridges have in common: PCI interrupts routed to ISA ones, and ACPI registers where configuration space
 * says.
 *
 * Model: parts of a bridge's device, under its lock, that read its configuration space when it has changed. PIRQs go to the ISA interrupt
 * that their
 * routing register names, several to one if it says so. The ACPI registers are another device (devices/firmware/pm.h). The machine has
 * them at 0x600,
 * where its tables say; they are where the bridge decodes them, too, where firmware wants them (OVMF on an i440FX: 0xb000).
 * Invariants: an ISA line is driven by the OR of the PIRQs that lead to it now; it falls when the last one goes elsewhere. One thread at a
 * time drives
 * or maps, and looks again for those who found it at it.
 */
#ifndef DP_PCI_SOUTH_H
#define DP_PCI_SOUTH_H

#include "devices/pci/pci.h"

enum { DP_SOUTH_PIRQS = 8, DP_SOUTH_IRQS = 16, DP_SOUTH_PIRQ_DISABLED = 0x80 };
struct dp_south_pirqs {
    struct dp_device *owner;
    const uint8_t *config;               /* its configuration space */
    unsigned count;
    uint8_t route[DP_SOUTH_PIRQS];       /* offsets of the routing registers */
    struct dp_irq irq[DP_SOUTH_IRQS];
    uint8_t level;                       /* bit per PIRQ; follows from the functions' state */
    uint16_t driven;                     /* ISA lines as last driven */
    bool driving, again;
};
/* No lock held. */
void dp_south_pirq_set(struct dp_south_pirqs *p, unsigned n, bool level);
void dp_south_pirqs_changed(struct dp_south_pirqs *p);

struct dp_south_pm {
    struct dp_device *owner;
    struct dp_device *registers;         /* of class dp_acpi_pm_class */
    const uint8_t *config;
    uint16_t (*where)(const uint8_t *config); /* port; 0: nowhere */
    uint32_t mapping;
    uint16_t mapped_at;
    bool busy, again;
};
/* No lock held. */
void dp_south_pm_changed(struct dp_south_pm *p);
void dp_south_pm_fini(struct dp_south_pm *p);

#endif
