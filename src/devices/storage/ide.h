/* devices/storage/ide.h - the IDE controller of a PIIX3 with ATA disks and ATAPI CD-ROM drives.
 *
 * Model: a PCI function (8086:7010) in compatibility mode: two channels at fixed ports with ISA interrupts 14 and 15, two drives each,
 * and a bus master in BAR 4. Drives are numbered 0-3: primary master, primary slave, secondary master, secondary slave. Every drive
 * has its own command block; writes reach both drives of a channel, the selected one answers. Images are read and written
 * asynchronously: a drive is BSY while its request is in the block layer. A failed read of an image is the drive's error (UNC, or
 * sense 3/11/00), and the VM goes on. A channel or master that is absent floats, with DD7 pulled down: 0x7f. An absent slave is
 * answered for by its master, with status 0.
 * Source: Intel 82371SB (PIIX3) data sheet 2.3, 3.2; SFF-8038i 1.0 (bus master); ATA/ATAPI-6 (T13 1410D) ch. 6-9; SFF-8020i and MMC-3
 * (packets).
 */
#ifndef DP_IDE_H
#define DP_IDE_H

#include "block/block.h"
#include "devices/device.h"
#include "devices/pci/pci.h"

#define DP_IDE_DRIVES 4
#define DP_IDE_BAR 4 /* of the bus master, which PCI maps */

extern const struct dp_device_class dp_ide_class; /* "ide-piix3" */
enum {
    DP_IDE_WINDOW_PRIMARY,           /* ports 0x1f0-0x1f7 */
    DP_IDE_WINDOW_PRIMARY_CONTROL,   /* port 0x3f6 */
    DP_IDE_WINDOW_SECONDARY,         /* ports 0x170-0x177 */
    DP_IDE_WINDOW_SECONDARY_CONTROL, /* port 0x376 */
    DP_IDE_WINDOW_BUS_MASTER,        /* 16 ports; not for the machine to map, BAR 4 does */
};

/* All of these before dp_device_init. Lines: [0] IRQ 14, [1] IRQ 15, active high, to be taken as edges. */
void dp_ide_wire(struct dp_device *d, const struct dp_irq irq[2]);
/* Blocks are not owned; they outlive the device (a medium: until it is changed). serial: 20 characters at most; NULL: made
 * from the number. */
void dp_ide_attach_disk(struct dp_device *d, unsigned drive, struct dp_block *block, const char *serial);
void dp_ide_attach_cdrom(struct dp_device *d, unsigned drive, struct dp_block *block /* NULL: no medium */);

/* The function, for the machine to plug after init. It has no interrupt pin. */
struct dp_pci_function *dp_ide_function(struct dp_device *d);

/* Puts another medium into a CD-ROM drive, or takes it out (NULL), at any time from any thread; the tray is closed afterwards. Returns with
 * nothing of the old block in use. -EBUSY when the guest has locked the drive: it is then told that somebody wants the medium
 * (GET EVENT STATUS NOTIFICATION). -EINVAL when there is no such drive. */
int dp_ide_change_medium(struct dp_device *d, unsigned drive, struct dp_block *block, struct dp_error *e) DP_MUST_CHECK;
/* Has the guest opened the tray (START STOP UNIT)? */
bool dp_ide_tray_open(struct dp_device *d, unsigned drive);

#endif
