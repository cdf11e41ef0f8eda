/* devices/storage/ahci.h - the SATA controller of an ICH9 in AHCI mode, with ATA disks and ATAPI CD-ROM drives.
 *
 * Model: a PCI function (8086:2922) with registers in BAR 5, six ports of one drive each, 32 command slots a port, INTx or MSI. Drives are
 * those of
 * drive.h; here are the registers, the command list and tables in guest memory, the FISes, and queued commands (NCQ), of which as many run
 * at a
 * time as the guest has issued. Software that wrote a command reads its results from the received FIS area and PxTFD.
 * An empty port has no device: PxSSTS.DET 0. Ports have no port multipliers, no staggered spin-up, no power states.
 * Source: Serial ATA AHCI 1.3.1; Serial ATA 2.6 ch. 10 (FISes), 13.6 (NCQ); Intel ICH9 datasheet 15 (D31:F2).
 */
#ifndef DP_AHCI_H
#define DP_AHCI_H

#include "block/block.h"
#include "devices/device.h"
#include "devices/pci/pci.h"

enum { DP_AHCI_PORTS = 6, DP_AHCI_BAR = 5 };
enum { DP_AHCI_WINDOW }; /* registers; not for the machine to map, BAR 5 does */

extern const struct dp_device_class dp_ahci_class; /* "ahci" */

/* Before dp_device_init. As the like of ide.h. */
void dp_ahci_attach_disk(struct dp_device *d, unsigned port, struct dp_block *block, const char *serial);
void dp_ahci_attach_cdrom(struct dp_device *d, unsigned port, struct dp_block *block /* NULL: no medium */);

/* The function, for the machine to plug after init. */
struct dp_pci_function *dp_ahci_function(struct dp_device *d);

/* As dp_ide_change_medium and dp_ide_tray_open. */
int dp_ahci_change_medium(struct dp_device *d, unsigned port, struct dp_block *block, struct dp_error *e) DP_MUST_CHECK;
bool dp_ahci_tray_open(struct dp_device *d, unsigned port);

#endif
