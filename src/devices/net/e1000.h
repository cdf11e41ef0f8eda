/* devices/net/e1000.h - Intel's 82540EM gigabit Ethernet controller (PCI 8086:100e).
 *
 * Model: 128 KiB of memory-mapped registers, also reachable through IOADDR and IODATA; a serial EEPROM (93C46) read by EERD or bit by
 * bit through EECD; an 88E1011 PHY behind MDIC, whose autonegotiation is done at once whenever there is a link. Descriptors are read
 * and written back when they are used: no caches, no thresholds. Frames take no time. All sent frames get a proper FCS and are padded,
 * whatever IFCS and PSP say (some small drivers set neither). Interrupts are mitigated by ITR, RDTR, RADV, TIDV and TADV on the VM
 * clock.
 * Offload: checksums and segmentation (TCP) as the context descriptors say, left to the other end if it can, else done here; received
 * IPv4, TCP and UDP checksums are verified. VLAN tags are inserted, stripped, filtered.
 * Left out: wake-up, flow control, flash, TCP segmentation of UDP, the packet buffer's memory and other diagnostics (plain storage or
 * zeros). A receive ring without descriptors holds frames back (see nic.h) instead of losing them, so RXO and missed packets are rare.
 * Source: Intel PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual (317453), chapters 3 (rings), 4 (PCI), 5
 * (EEPROM), 8 (PHY), 9 (VLAN), 13 (registers).
 */
#ifndef DP_E1000_H
#define DP_E1000_H

#include "devices/device.h"
#include "devices/pci/pci.h"
#include "net/net.h"

extern const struct dp_device_class dp_e1000_class; /* "e1000" */
enum { DP_E1000_WINDOW_MEMORY, DP_E1000_WINDOW_PORTS, DP_E1000_BAR_MEMORY = 0, DP_E1000_BAR_PORTS = 1 };

/* Before dp_device_init. From then on the port may get its cable. */
void dp_e1000_wire(struct dp_device *d, const uint8_t mac[6]);
/* An option ROM, copied at init. */
void dp_e1000_rom(struct dp_device *d, const void *data, size_t size);
struct dp_net_port *dp_e1000_port(struct dp_device *d);
struct dp_pci_function *dp_e1000_function(struct dp_device *d);

#endif
