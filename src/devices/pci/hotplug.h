/* devices/pci/hotplug.h - how a system learns by ACPI of cards that are plugged into PCI slots while it runs, and gives them up.
 *
 * Model: five registers of 32 bits at 20 ports, for bus 0; a bit per slot. UP: something was plugged (reading all of it clears it). DOWN: the card
 * shall be taken out (set until it is). EJECT: writing a bit says that the system has let go of the card. REMOVABLE: slots whose card may
 * be taken out. BUS: which bus the others are about; 0 is the only one. The machine plugs and unplugs functions (pci.h) and tells this
 * device, which sets bits and raises an event (firmware/pm.h); what the guest ejects it tells the machine.
 * Invariants: only cards that may be taken out are ejected; a guest may do that unasked. Ejecting takes no card away by itself: the
 * machine does it when no processor is inside the card any more.
 * Source: QEMU's docs/specs/acpi_pci_hotplug.rst, and what its ACPI tables do (bus selector; UP cleared by reading); the methods that use
 * it are doppel's own (machine/acpi.c).
 */
#ifndef DP_PCI_HOTPLUG_H
#define DP_PCI_HOTPLUG_H

#include "devices/device.h"

enum { DP_PCI_HOTPLUG_UP = 0, DP_PCI_HOTPLUG_DOWN = 4, DP_PCI_HOTPLUG_EJECT = 8, DP_PCI_HOTPLUG_REMOVABLE = 12, DP_PCI_HOTPLUG_BUS = 16,
       DP_PCI_HOTPLUG_SIZE = 20 };
enum { DP_PCI_HOTPLUG_WINDOW };
#define DP_PCI_HOTPLUG_PORT 0xae00     /* where QEMU's i440FX has it */
#define DP_PCI_HOTPLUG_PORT_Q35 0x0cc0 /* ... and its Q35 */

extern const struct dp_device_class dp_pci_hotplug_class;

struct dp_pci_hotplug_wires {
    void (*event)(void *opaque);                 /* the guest shall look */
    void (*eject)(void *opaque, uint32_t slots); /* it has let go of cards; in the processor's thread, no lock held */
    void *opaque;
};
void dp_pci_hotplug_wire(struct dp_device *d, const struct dp_pci_hotplug_wires *wires); /* before dp_device_init */

/* Any thread, no lock held; while paused events are the sink's to hold. A card is in the slot that may be taken out; tell: it came just
 * now. */
void dp_pci_hotplug_plugged(struct dp_device *d, unsigned slot, bool tell);
void dp_pci_hotplug_ask(struct dp_device *d, unsigned slot);  /* the guest shall let go of it */
void dp_pci_hotplug_gone(struct dp_device *d, unsigned slot); /* nothing is in it any more */
uint32_t dp_pci_hotplug_asked(struct dp_device *d);           /* slots that the guest was asked for and has not let go of */
uint32_t dp_pci_hotplug_removable(struct dp_device *d);

#endif
