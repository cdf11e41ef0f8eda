/* devices/net/rtl8139.h - Realtek's RTL8139C+ fast Ethernet controller (PCI 10ec:8139, revision 20h).
 *
 * Model: 256 bytes of registers, as ports and as memory. Two ways to work: *C mode*, four transmit descriptors in registers and one
 * receive ring of bytes (RBSTART, read up to CAPR, written up to CBR); *C+ mode*, rings of 16-byte descriptors in memory, with
 * checksums, TCP segmentation and VLAN tags. Which one is CPCR's choice, for each direction. A 93C46 behind 9346CR, which also locks
 * the CONFIG registers; a PHY in registers whose negotiation takes no time. Frames take no time. A full ring holds frames back (see
 * nic.h); in C+ mode it also says RXOVW (there: no descriptor), as nobody need touch a register when descriptors are made free.
 * Left out: wake-up, flash, the high-priority ring of C+ mode, early receive and transmit interrupts, receiving one frame into several
 * C+ descriptors.
 * Source: Realtek RTL8139C(L) data sheet rev. 1.4, RTL8139C+ data sheet rev. 1.6, RTL8139 programming guide 0.1.
 */
#ifndef DP_RTL8139_H
#define DP_RTL8139_H

#include "devices/device.h"
#include "devices/pci/pci.h"
#include "net/net.h"

extern const struct dp_device_class dp_rtl8139_class; /* "rtl8139" */
enum { DP_RTL8139_WINDOW_PORTS, DP_RTL8139_WINDOW_MEMORY, DP_RTL8139_BAR_PORTS = 0, DP_RTL8139_BAR_MEMORY = 1 };

/* Before dp_device_init. From then on the port may get its cable. */
void dp_rtl8139_wire(struct dp_device *d, const uint8_t mac[6]);
/* An option ROM, copied at init. */
void dp_rtl8139_rom(struct dp_device *d, const void *data, size_t size);
struct dp_net_port *dp_rtl8139_port(struct dp_device *d);
struct dp_pci_function *dp_rtl8139_function(struct dp_device *d);

#endif
