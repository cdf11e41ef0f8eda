/* qcow2.h - private to the qcow2 format: one image of a chain, and what its parts (open, map, metadata, write) offer each other.
 *
 * Model: all of this is synchronous and belongs to one thread at a time, as image.h says. There are no locks.
 *   Metadata is cached in slices of at most 4 KiB of L2 tables and refcount blocks; the L1 and the refcount table are in memory whole.
 *   Writes change the cache; qcow2_commit writes it back in the order that keeps the file consistent at each moment:
 *     A  refcounts, then a barrier (fdatasync), which makes guest data and the contents of new tables durable, too;
 *        entries of the refcount table, if new ones are there, and another barrier;
 *     B  L2 and L1 entries, and a barrier;
 *     C  what B no longer refers to is given back: its refcounts go down in the cache, to be written by a later A.
 * Invariants: on the host's disk no L1 or L2 entry refers to a cluster whose refcount there is lower than the number of its references: a
 * crash may leak clusters, nothing else. A freed cluster is not handed out before the entry that referred to it is gone from the disk.
 * A slice's pointer is valid until the next call that may load a slice. Everything read from the file is validated where it is used.
 * Source: QEMU's docs/interop/qcow2.txt (the format; names of fields are its).
 */
#ifndef DP_BLOCK_QCOW2_H
#define DP_BLOCK_QCOW2_H

#include "block/image_internal.h"

enum {
    QCOW2_SLICE_BITS = 12,
    QCOW2_SETS = 64,
    QCOW2_WAYS = 4,
    QCOW2_L1_ENTRIES_MAX = 4 << 20,  /* 32 MiB, as in QEMU */
    QCOW2_L1_CHAIN_MAX = 8 << 20,    /* entries of all L1 tables of a chain */
    QCOW2_TABLE_BYTES_MAX = 8 << 20, /* refcount table, as in QEMU */
    QCOW2_FREES_MAX = 4096,
    QCOW2_BEYOND_MAX = 1 << 20, /* clusters counted behind the end of the file */
};

#define QCOW2_COPIED (1ull << 63) /* the refcount is exactly 1: may be written in place */
#define QCOW2_COMPRESSED (1ull << 62)
#define QCOW2_ZERO 1ull
#define QCOW2_OFFSET 0x00fffffffffffe00ull
#define QCOW2_RESERVED 0x3f000000000001feull /* of a standard cluster descriptor */
#define QCOW2_SUBCLUSTERS 32

enum qcow2_kind { QCOW2_L2, QCOW2_REFCOUNT };
struct qcow2_slice {
    uint64_t offset; /* in the file; 0: empty */
    uint64_t used;
    enum qcow2_kind kind;
    bool dirty;
    uint8_t *data;
};

/* An L2 entry; bitmap is 0 without extended L2 entries. */
struct qcow2_entry {
    uint64_t descriptor, bitmap;
};

struct qcow2_free {
    uint64_t first, count;
    bool punch;
};

struct qcow2 {
    struct dp_image image; /* first */
    unsigned version, cluster_bits, refcount_order;
    bool extended, zstd;
    uint64_t cluster;                         /* bytes in one */
    unsigned l2_bits, slice_bits, block_bits; /* log2 of: entries of an L2 table; bytes of a slice; entries of a refcount block */
    uint64_t file_end;                        /* end of the last cluster known to be there */
    uint64_t *l1, l1_offset;
    uint32_t l1_size;        /* entries; the disk's size may need fewer */
    uint32_t table_clusters; /* of the refcount table in the file */
    uint64_t snapshots_offset;
    uint32_t snapshots; /* internal ones */
    bool marked_corrupt, marked_dirty;
    uint32_t l1_dirty_from, l1_dirty_to;
    struct qcow2_slice slice[QCOW2_SETS][QCOW2_WAYS];
    uint64_t tick;
    bool l2_dirty, refcount_dirty;
    uint8_t *bounce;           /* a cluster */
    uint8_t *packed, *plain;   /* compressed bytes; the cluster they became */
    uint64_t plain_descriptor; /* what plain holds; 0: nothing */
    void *packer; /* qcow2_pack.c */
    uint64_t pack_at;                /* where the next packed cluster goes, in one that has others; 0: into a new one */

    /* writable images only */
    uint64_t *table, table_offset; /* refcount table */
    uint32_t table_size;           /* entries */
    uint32_t table_dirty_from, table_dirty_to;
    uint64_t hint; /* no cluster below is free */
    struct qcow2_free *frees;
    unsigned free_count;
    bool clear_autoclear; /* before the first write */
    bool failed;          /* a barrier failed: what is on the disk is unknown */
    bool told_corrupt;
};

/* What a piece of the disk is: in the file at offset, in a compressed cluster, zeros, or what the backing file says. */
enum qcow2_extent_kind { QCOW2_DATA, QCOW2_PACKED, QCOW2_ZEROS, QCOW2_UNALLOCATED };
struct qcow2_extent {
    enum qcow2_extent_kind kind;
    uint64_t offset, size, descriptor;
};

/* qcow2_open.c */
int qcow2_open(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e) DP_MUST_CHECK;
void qcow2_close(struct dp_image *i);

/* qcow2_read.c */
int qcow2_transfer(struct qcow2 *q, struct dp_cursor *c, bool write, uint64_t at, uint64_t size) DP_MUST_CHECK; /* of the file */
int qcow2_map(struct qcow2 *q, uint64_t offset, uint64_t size, struct qcow2_extent *x) DP_MUST_CHECK;
int qcow2_read(struct qcow2 *q, struct dp_cursor *c, uint64_t offset, uint64_t size) DP_MUST_CHECK;
int qcow2_pread(struct qcow2 *q, void *data, uint64_t size, uint64_t at) DP_MUST_CHECK; /* past the end are zeros */
int qcow2_pwrite(struct qcow2 *q, const void *data, uint64_t size, uint64_t at) DP_MUST_CHECK;

/* qcow2_meta.c */
int qcow2_corrupt(struct qcow2 *q, const char *what, uint64_t offset) DP_COLD; /* says so once; -EIO */
int qcow2_slice(struct qcow2 *q, enum qcow2_kind kind, uint64_t offset, struct qcow2_slice **out) DP_MUST_CHECK;
void qcow2_drop(struct qcow2 *q, uint64_t offset);                  /* forgets slices of the cluster at offset */
int qcow2_table_ok(struct qcow2 *q, uint64_t offset) DP_MUST_CHECK; /* may a table of one cluster be there? */
int qcow2_alloc(struct qcow2 *q, uint64_t want, uint64_t *offset, uint64_t *got) DP_MUST_CHECK; /* 1 to want clusters in a row */
void qcow2_unalloc(struct qcow2 *q, uint64_t offset, uint64_t count); /* of what was allocated and is referred to by nothing */
int qcow2_release(struct qcow2 *q, uint64_t offset, uint64_t count, bool punch) DP_MUST_CHECK; /* one reference less, after the commit */
int qcow2_get_refcount(struct qcow2 *q, uint64_t n, uint64_t *value) DP_MUST_CHECK;            /* of cluster number n */
int qcow2_add_refcount(struct qcow2 *q, uint64_t n) DP_MUST_CHECK;                             /* -EOVERFLOW: its bits do not suffice */
int qcow2_alloc_row(struct qcow2 *q, uint64_t want, uint64_t *offset) DP_MUST_CHECK; /* want clusters in a row, at the end of the file */
void qcow2_l1_changed(struct qcow2 *q, uint32_t i);
/* From now on another L1 table, at a place of its own, and size are the disk's; the old one is given back. Takes l1 if it succeeds. */
int qcow2_switch_l1(struct qcow2 *q, uint64_t *l1, uint32_t entries, uint64_t at, uint64_t size) DP_MUST_CHECK;
int qcow2_commit(struct qcow2 *q) DP_MUST_CHECK;
bool qcow2_is_dirty(const struct qcow2 *q);

/* qcow2_write.c */
int qcow2_write(struct qcow2 *q, struct dp_cursor *c, uint64_t offset, uint64_t size) DP_MUST_CHECK;
/* Makes a range read as zeros (discard: or anything else); unmap gives the space back. */
int qcow2_write_zeroes(struct qcow2 *q, uint64_t offset, uint64_t size, bool unmap, bool discard) DP_MUST_CHECK;
int qcow2_may_change(struct qcow2 *q) DP_MUST_CHECK; /* before anything else that writes */
/* Every cluster of a range that has no place gets one, whose contents are what the file has there. Nothing may be compressed there. */
int qcow2_preallocate(struct qcow2 *q, uint64_t offset, uint64_t size) DP_MUST_CHECK;
/* Clusters from..to - 1 of the disk are unallocated, and their tables given back. Nothing is behind to. */
int qcow2_forget(struct qcow2 *q, uint64_t from, uint64_t to) DP_MUST_CHECK;

/* One cluster of the disk, or its last piece, compressed, where nothing is yet; plainly if that does not make it smaller. */
int qcow2_write_packed(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) DP_MUST_CHECK;
int qcow2_empty(struct dp_image *i, struct dp_error *e) DP_MUST_CHECK;

/* As image.h says; prepacked: what qcow2_pack made. */
int qcow2_write_prepacked(struct dp_image *i, const uint8_t *packed, size_t n, uint64_t offset) DP_MUST_CHECK;
int qcow2_read_packed(struct dp_image *i, uint64_t offset, uint8_t *packed, size_t room, size_t *n) DP_MUST_CHECK;

/* qcow2_pack.c: as image.h says */
void *qcow2_packer(const struct dp_image *i);
void qcow2_packer_free(void *packer);
size_t qcow2_pack(void *packer, const uint8_t *plain, uint8_t *packed);
bool qcow2_unpack(void *packer, const uint8_t *packed, size_t n, uint8_t *plain);

/* qcow2_create.c */
int qcow2_create(const struct dp_image_create *o, struct dp_error *e) DP_MUST_CHECK;
int qcow2_set_backing(struct dp_image *i, const char *name, const char *format, struct dp_error *e) DP_MUST_CHECK;
int qcow2_resize(struct dp_image *i, uint64_t size, struct dp_error *e) DP_MUST_CHECK;
int qcow2_info(struct dp_image *i, struct json_object *o) DP_MUST_CHECK;
extern const struct dp_image_option qcow2_create_options[];

/* qcow2_check.c, qcow2_snapshot.c: as image.h says */
int qcow2_check(struct dp_image *i, struct dp_image_check *c, struct dp_error *e) DP_MUST_CHECK;
int qcow2_snapshot_list(struct dp_image *i, struct dp_image_snapshot **out, unsigned *count, struct dp_error *e) DP_MUST_CHECK;
int qcow2_snapshot_create(struct dp_image *i, const struct dp_image_snapshot *about, struct dp_error *e) DP_MUST_CHECK;
int qcow2_snapshot_apply(struct dp_image *i, const char *what, struct dp_error *e) DP_MUST_CHECK;
int qcow2_snapshot_delete(struct dp_image *i, const char *what, struct dp_error *e) DP_MUST_CHECK;
int qcow2_open_snapshot(struct qcow2 *q, const char *what, struct dp_error *e) DP_MUST_CHECK; /* of an image that is read only */

static inline uint64_t qcow2_be(uint64_t v) { return __builtin_bswap64(v); }
static inline unsigned qcow2_entry_bytes(const struct qcow2 *q) { return q->extended ? 16 : 8; }
static inline struct qcow2_entry qcow2_entry_get(const struct qcow2 *q, const struct qcow2_slice *s, unsigned at)
{
    return (struct qcow2_entry){qcow2_be(dp_ld64(s->data + at)), q->extended ? qcow2_be(dp_ld64(s->data + at + 8)) : 0};
}

#endif
