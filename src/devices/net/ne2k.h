/* devices/net/ne2k.h - NE2000 network cards: the DP8390 controller with 16 KiB of memory, on ISA and (Realtek RTL8029, 10ec:8029) on PCI.
 *
 * Model: 32 ports: the controller's registers in pages at 00-0fh, the data port of its remote DMA at 10h-17h (1, 2 or 4 bytes wide),
 * reset at 18h-1fh. The card's own address space holds the PROM at 0 (each byte twice, which says "16 bits wide") and the ring memory
 * at 4000h-7fffh. Frames take no time. A header's byte count is that of the header and the frame, without FCS (drivers take it either
 * way; other emulators say the same). A full ring holds frames back (see nic.h) instead of losing them, so OVW does not happen.
 * Loopback (TCR) sends nothing and receives into the FIFO only, with the status bits the data sheet tells.
 * Left out: collisions and other errors of the wire, DMA without a wait (RTL8029's own configuration registers are storage).
 * Source: National Semiconductor DP8390D/NS32490D data sheet (1995), chapters 7-12; NE2000 schematics for the rest; Realtek RTL8029AS
 * data sheet (1997).
 */
#ifndef DP_NE2K_H
#define DP_NE2K_H

#include "devices/device.h"
#include "devices/pci/pci.h"
#include "net/net.h"

extern const struct dp_device_class dp_ne2k_isa_class; /* "ne2k-isa" */
extern const struct dp_device_class dp_ne2k_pci_class; /* "ne2k-pci" */
enum { DP_NE2K_WINDOW, DP_NE2K_PORTS = 32, DP_NE2K_ISA_PORT = 0x300, DP_NE2K_BAR = 0 };

/* Before dp_device_init. From then on the port may get its cable. */
void dp_ne2k_isa_wire(struct dp_device *d, const uint8_t mac[6], struct dp_irq irq);
struct dp_net_port *dp_ne2k_isa_port(struct dp_device *d);

void dp_ne2k_pci_wire(struct dp_device *d, const uint8_t mac[6]);
/* An option ROM, copied at init. */
void dp_ne2k_pci_rom(struct dp_device *d, const void *data, size_t size);
struct dp_net_port *dp_ne2k_pci_port(struct dp_device *d);
struct dp_pci_function *dp_ne2k_pci_function(struct dp_device *d);

#endif
