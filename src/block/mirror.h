/* block/mirror.h - one disk on two images: reads from one, writes to both, goes on when one fails. The format `mirror` of image.h.
 *
 * Model: the format's file is small: which two images are the halves, which of them is *in date*, and a bit for each region (1 MiB) of the
 * disk in which they may differ. A region's bit is on the host's disk before either half is written there; it is taken away after both were
 * flushed. So after a crash only those regions are copied, from the first half to the second, when the mirror is opened for writing. A half
 * that fails is no longer in date, which is on the disk before the guest's write is done; from then on bits only come, until
 * dp_mirror_resync copies those regions to it. The last half in date is never given up: its errors are the guest's. File: two headers of
 * 4096 bytes, written in turn, each with a CRC, that of the greater generation counts; then the bitmap, least bit first. All numbers
 * little-endian: 0  "DPMIRROR"; 8 version 1 (32 bits); 12 log2 of the region's size (32); 16 generation (64); 24 bytes of the disk (64); 32
 * state of each half (8 and 8): 0 in date, 1 not; 64 and 80 format of each, 16 bytes; 96 and 1120 name of each, 1024 bytes; 4092 CRC-32 of
 * what is before. Names and formats end with zeros. Invariants: a name leads where a backing file's may (image.h); all fields are checked.
 * The halves have locks of their own (file.h).
 */
#ifndef DP_BLOCK_MIRROR_H
#define DP_BLOCK_MIRROR_H

#include "block/image_ops.h"

enum { DP_MIRROR_REGION_BITS = 20 };

struct dp_mirror_state {
    const char *name[2], *format[2];    /* as long as the image is open */
    bool in_date[2], there[2];          /* there: opened */
    uint64_t generation, region, dirty; /* bytes of one; how many may differ */
};
bool dp_mirror_state(const struct dp_image *i, struct dp_mirror_state *s); /* false: it is no mirror */
/* Both are in date afterwards. all: a half was replaced; it is made if it is missing. *copied: bytes. */
int dp_mirror_resync(struct dp_image *i, bool all, const struct dp_image_job *job, uint64_t *copied, struct dp_error *e) DP_MUST_CHECK;

#endif
