/* devices/virtio/virtio_scsi.h - disks and CD-ROM drives on a virtio SCSI controller: what a machine does with them.
 *
 * A unit is at a target (0 to 63) and a number there (LUN, 0 to 16383). Units may come and go while the guest runs: it is told by events.
 * All functions: after dp_device_init, no lock held; add, remove and change_medium in the loop's thread, or before the device runs.
 */
#ifndef DP_VIRTIO_SCSI_H
#define DP_VIRTIO_SCSI_H

#include "devices/device.h"

struct dp_block;

#define DP_VIRTIO_SCSI_UNITS 32
#define DP_VIRTIO_SCSI_CDROMS 4 /* of these */
#define DP_VIRTIO_SCSI_TARGETS 64
#define DP_VIRTIO_SCSI_LUNS 16384

struct dp_virtio_scsi_unit {
    struct dp_block *block; /* not owned; NULL: a CD-ROM drive without a disc */
    bool cdrom;
    unsigned target, lun;
    const char *serial; /* 36 characters at most, copied; NULL: one that tells the place */
    unsigned sector;    /* bytes of a disk's logical block: 512 or 4096; 0: 512 */
    bool write_through; /* the write cache is off until the guest turns it on */
};
int dp_virtio_scsi_add(struct dp_device *d, const struct dp_virtio_scsi_unit *u, struct dp_error *e) DP_MUST_CHECK;
/* Its commands end as aborted ones; when this returns, nothing uses the image. */
int dp_virtio_scsi_remove(struct dp_device *d, unsigned target, unsigned lun, struct dp_error *e) DP_MUST_CHECK;
/* As dp_ide_change_medium. */
int dp_virtio_scsi_change_medium(struct dp_device *d, unsigned target, unsigned lun, struct dp_block *block,
                                 struct dp_error *e) DP_MUST_CHECK;
/* The image has another size now: the guest is told. */
void dp_virtio_scsi_resized(struct dp_device *d, const struct dp_block *block);

#endif
