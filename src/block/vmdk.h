/* block/vmdk.h - between vmdk_open.c (descriptor, headers), vmdk.c (reading, writing, checking) and vmdk_create.c.
 *
 * Model: a disk is a row of parts (VMware calls them extents): flat ones, a range of a file; zeros; and sparse ones, with a grain directory
 * (GD) of grain tables (GT) of the sectors where grains of the disk are. One file may hold it all (monolithicSparse, streamOptimized: the
 * descriptor stands in it), or a descriptor file names the files of the parts. What no part has is the parent's, named by the descriptor
 * and known by its content ID (CID), which whoever writes changes. streamOptimized grains are compressed and written once; ours have their
 * directory at the beginning, those of others often behind the grains, and a footer: nothing can be added to these.
 * A second directory (RGD) has grain tables that say the same. uncleanShutdown in the header says that they may not, until the image is
 * closed: who finds it set compares them.
 * Source: VMware, Virtual Disk Format 5.0 (2011): "The Descriptor File", "Hosted Sparse Extents", "Stream-Optimized Compressed Sparse
 * Extents"; QEMU, block/vmdk.c for the layout of what it makes.
 */
#ifndef DP_BLOCK_VMDK_H
#define DP_BLOCK_VMDK_H

#include "block/table.h"

enum { VMDK_SECTOR = 512, VMDK_PARTS_MAX = 100, VMDK_GRAIN_HEAD = 12, VMDK_NO_PARENT = -1 };
/* The header of a sparse part. */
enum { VMDK_VERSION = 4, VMDK_FLAGS = 8, VMDK_CAPACITY = 12, VMDK_GRAIN_SIZE = 20, VMDK_DESCRIPTOR = 28, VMDK_DESCRIPTOR_SIZE = 36 };
enum { VMDK_ENTRIES = 44, VMDK_RGD = 48, VMDK_GD = 56, VMDK_OVERHEAD = 64, VMDK_UNCLEAN = 72, VMDK_NEWLINES = 73, VMDK_ALGORITHM = 77 };
enum { VMDK_FLAG_NEWLINES = 1, VMDK_FLAG_RGD = 2, VMDK_FLAG_ZEROED = 4, VMDK_FLAG_PACKED = 1 << 16, VMDK_FLAG_MARKERS = 1 << 17 };
enum { VMDK_DEFLATE = 1, VMDK_TABLE_ENTRIES = 512 };
#define VMDK_MAGIC "KDMV"

enum vmdk_kind { VMDK_FLAT, VMDK_ZERO, VMDK_SPARSE };

struct vmdk_part {
    enum vmdk_kind kind;
    bool readonly, packed, zeroed; /* zeroed: entry 1 of a grain table means zeros */
    bool marked;                   /* packed grains begin with where they belong, and their size */
    bool was_unclean, unclean;     /* uncleanShutdown: was set when it was opened; is set by us */
    uint64_t first, size;          /* bytes of the disk */
    uint64_t start;                /* flat: where in the file; sparse: no grain is before */
    uint64_t gd, rgd;              /* bytes; rgd 0: there is no second one */
    uint64_t free;                 /* where the next grain goes; 0: not known yet */
    uint32_t grain, entries;       /* bytes; of a grain table */
    char *name;
    struct dp_image *file; /* the image's own, if it is that */
    struct dp_table table;
    uint8_t *plain, *scratch; /* packed: a grain unpacked, and room to pack one */
    uint64_t plain_at;        /* where that grain is; 0: none */
};

struct vmdk {
    struct dp_image image;
    unsigned parts;
    struct vmdk_part part[VMDK_PARTS_MAX];
    uint32_t cid, parent_cid;
    uint64_t cid_at;     /* its digits in the file; 0: nowhere */
    unsigned cid_digits; /* up to 8: some write no leading zeros, and there is no room for more */
    bool cid_changed;
    char type[32];
};

static inline struct vmdk *vmdk_of(struct dp_image *i) { return (struct vmdk *)i; }

bool vmdk_probe(const uint8_t *head, const uint8_t *tail, uint64_t length);
int vmdk_open(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e);
void vmdk_close(struct dp_image *i);
int vmdk_set_unclean(struct vmdk_part *p, bool on); /* in the header */
int vmdk_create(const struct dp_image_create *o, struct dp_error *e);
extern const struct dp_image_option vmdk_create_options[];

#endif
