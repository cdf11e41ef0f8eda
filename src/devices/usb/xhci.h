/* devices/usb/xhci.h - a USB 3 host controller (xHCI) with what is plugged into it: tablet, keyboard, mouse, storage.
 *
 * Model: a PCI function with four SuperSpeed ports (1-4) and four high-speed ports (5-8), 16 slots, MSI-X with 8 vectors or INTx.
 * Keyboards and pointers are high-speed devices, storage is SuperSpeed. Disks have the lower ports because OVMF, when told to boot from
 * USB, does not come to a disk behind a keyboard. There are no hubs, no streams, no isochronous endpoints, no scratchpad buffers.
 * Transfers take no time of their own: an endpoint does its TDs when its doorbell is rung, when its device has something to say, or when
 * the block layer is done. The frame number follows the VM's clock.
 * Source: Intel, eXtensible Host Controller Interface for Universal Serial Bus, revision 1.2 (2019), with section numbers in the code.
 */
#ifndef DP_XHCI_H
#define DP_XHCI_H

#include "devices/device.h"
#include "devices/pci/pci.h"

struct dp_block;

enum { DP_XHCI_PORTS = 8 };
enum dp_usb_kind { DP_USB_NONE, DP_USB_TABLET, DP_USB_KEYBOARD, DP_USB_MOUSE, DP_USB_STORAGE };

extern const struct dp_device_class dp_xhci_class; /* "xhci" */
enum { DP_XHCI_WINDOW }; /* what BAR 0 maps; not for the machine to map */

/* Before dp_device_init: plugs a device into the next port of its speed. block: of storage only, not owned, outlives the controller.
 * Returns the port, as firmware counts it (1-4, of the ports of that speed), or -errno. */
int dp_xhci_attach(struct dp_device *d, enum dp_usb_kind kind, struct dp_block *block, struct dp_error *e) DP_MUST_CHECK;

/* The function, for the machine to plug after init. */
struct dp_pci_function *dp_xhci_function(struct dp_device *d);

/* Input, any thread, as struct dp_input_sink has it. False: the guest has configured no such device, and nothing was done. */
bool dp_xhci_key(struct dp_device *d, unsigned code, bool down);
bool dp_xhci_motion(struct dp_device *d, int dx, int dy, int wheel, unsigned buttons);
bool dp_xhci_position(struct dp_device *d, unsigned x, unsigned y, int wheel, unsigned buttons);
/* Does the guest use such a device now? */
bool dp_xhci_listens(struct dp_device *d, enum dp_usb_kind kind);

#endif
