/* qcow2_open.c - opening a qcow2 image.
 *
 * Model, source: qcow2.h. The header is read once and every field is checked before it is used; what a table's entries say is checked where
 * they are used. Memory is bounded: L1 tables of a chain by QCOW2_L1_CHAIN_MAX entries, the refcount table (writable images only) by 8 MiB,
 * slices by 1 MiB for each image.
 */
#include <stdlib.h>

#include "block/qcow2.h"

enum { DIRTY = 1, CORRUPT = 2, EXTERNAL_DATA = 4, COMPRESSION = 8, EXTENDED_L2 = 16, KNOWN = 31 };
enum { HEAD_MAX = 65536 };
static const uint32_t BACKING_FORMAT = 0xe2792aca;

struct header {
    uint64_t backing_file_offset, size, l1_table_offset, refcount_table_offset, incompatible_features, autoclear_features;
    uint64_t snapshots_offset;
    uint32_t nb_snapshots;
    uint32_t version, backing_file_size, cluster_bits, crypt_method, l1_size, refcount_table_clusters, refcount_order, header_length;
    uint8_t compression_type;
    char backing_format[16];
};

static uint32_t be32(const uint8_t *p) { return __builtin_bswap32(dp_ld32(p)); }
static uint64_t be64(const uint8_t *p) { return qcow2_be(dp_ld64(p)); }

#define REFUSE(...) dp_error_set(e, -EINVAL, __VA_ARGS__)

/* Header extensions; head has bytes of the first cluster. */
static int parse_extensions(struct qcow2 *q, const uint8_t *head, uint64_t bytes, struct header *h, struct dp_error *e)
{
    uint64_t end = h->backing_file_offset > h->header_length ? DP_MIN(bytes, h->backing_file_offset) : bytes;
    for (uint64_t at = h->header_length; at + 8 <= end && be32(head + at);) {
        uint32_t type = be32(head + at), length = be32(head + at + 4);
        if (length > end - at - 8)
            return REFUSE("disk %s is damaged: a header extension is longer than the header", q->image.name);
        if (type == BACKING_FORMAT) {
            size_t n = DP_MIN((size_t)length, sizeof h->backing_format - 1);
            memcpy(h->backing_format, head + at + 8, n);
            h->backing_format[n] = 0;
        }
        at += 8 + DP_ALIGN_UP((uint64_t)length, 8);
    }
    return 0;
}

static int parse_header(struct qcow2 *q, const uint8_t *head, uint64_t bytes, struct header *h, struct dp_error *e)
{
    if (bytes < 72 || memcmp(head, "QFI\xfb", 4))
        return REFUSE("disk %s is not a qcow2 image; if it is raw, say format=raw", q->image.name);
    *h = (struct header){.version = be32(head + 4),
                         .backing_file_offset = be64(head + 8),
                         .backing_file_size = be32(head + 16),
                         .cluster_bits = be32(head + 20),
                         .size = be64(head + 24),
                         .crypt_method = be32(head + 32),
                         .l1_size = be32(head + 36),
                         .l1_table_offset = be64(head + 40),
                         .refcount_table_offset = be64(head + 48),
                         .refcount_table_clusters = be32(head + 56),
                         .nb_snapshots = be32(head + 60),
                         .snapshots_offset = be64(head + 64),
                         .refcount_order = 4,
                         .header_length = 72};
    if (h->version != 2 && h->version != 3)
        return REFUSE("disk %s: qcow2 version %u is not known; convert it with: qemu-img convert -O qcow2 %s NEW", q->image.name,
                      h->version, q->image.name);
    if (h->cluster_bits < 9 || h->cluster_bits > 21)
        return REFUSE("disk %s: clusters of 2^%u bytes are not possible (2^9 to 2^21 are); the image is damaged", q->image.name,
                      h->cluster_bits);
    if (h->version == 3) {
        if (bytes < 104)
            return REFUSE("disk %s is damaged: it ends within its header", q->image.name);
        h->incompatible_features = be64(head + 72);
        h->autoclear_features = be64(head + 88);
        h->refcount_order = be32(head + 96);
        h->header_length = be32(head + 100);
        if (h->header_length < 104 || h->header_length % 8 || h->header_length > 1u << h->cluster_bits || h->header_length > bytes)
            return REFUSE("disk %s is damaged: its header cannot be %u bytes long", q->image.name, h->header_length);
        h->compression_type = h->header_length > 104 ? head[104] : 0;
    }
    return 0;
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) { return a < b + b_size && b < a + a_size; }

static int check_header(struct qcow2 *q, const struct header *h, uint64_t length, bool repair, struct dp_error *e)
{
    uint64_t cluster = 1ull << h->cluster_bits, l1_bytes = h->l1_size * 8ull, table_bytes = (uint64_t)h->refcount_table_clusters * cluster;
    if (h->incompatible_features & ~(uint64_t)KNOWN)
        return REFUSE("disk %s has features that doppel does not know (0x%llx); convert it with: qemu-img convert -O qcow2 %s NEW",
                      q->image.name, (unsigned long long)(h->incompatible_features & ~(uint64_t)KNOWN), q->image.name);
    if (h->crypt_method)
        return REFUSE("disk %s is encrypted, which doppel cannot read yet; convert it with: qemu-img convert", q->image.name);
    if (h->incompatible_features & EXTERNAL_DATA)
        return REFUSE("disk %s has its data in another file, which doppel cannot read yet; convert it: qemu-img convert -O qcow2 %s NEW",
                      q->image.name, q->image.name);
    if (!q->image.readonly && !repair && h->incompatible_features & (DIRTY | CORRUPT))
        return REFUSE("disk %s is marked as %s; repair it first with: doppel image check -r all %s", q->image.name,
                      h->incompatible_features & CORRUPT ? "damaged" : "not closed properly", q->image.name);
    if (!!(h->incompatible_features & COMPRESSION) != !!h->compression_type || h->compression_type > 1)
        return REFUSE("disk %s: compression type %u is not known (zlib and zstd are)", q->image.name, h->compression_type);
    if (h->incompatible_features & EXTENDED_L2 && h->cluster_bits < 14)
        return REFUSE("disk %s is damaged: extended L2 entries need clusters of 16 KiB or more", q->image.name);
    if (h->refcount_order > 6)
        return REFUSE("disk %s is damaged: refcounts of 2^%u bits are not possible", q->image.name, h->refcount_order);
    if (!h->size || h->size > INT64_MAX - cluster)
        return REFUSE("disk %s: a disk of %llu bytes is not possible; the image is damaged or empty", q->image.name,
                      (unsigned long long)h->size);
    if (h->l1_size > QCOW2_L1_ENTRIES_MAX || h->l1_table_offset & (cluster - 1) || !h->l1_table_offset || h->l1_table_offset > length ||
        l1_bytes > length - h->l1_table_offset)
        return REFUSE("disk %s is damaged: its L1 table (%u entries at 0x%llx) is not inside the file", q->image.name, h->l1_size,
                      (unsigned long long)h->l1_table_offset);
    if (!h->refcount_table_clusters || h->refcount_table_clusters > (uint32_t)QCOW2_TABLE_BYTES_MAX >> h->cluster_bits ||
        h->refcount_table_offset & (cluster - 1) || !h->refcount_table_offset || h->refcount_table_offset > length ||
        DP_ALIGN_DOWN(table_bytes, cluster) > DP_ALIGN_UP(length, cluster) - h->refcount_table_offset)
        return REFUSE("disk %s is damaged: its refcount table (%u clusters at 0x%llx) is not inside the file", q->image.name,
                      h->refcount_table_clusters, (unsigned long long)h->refcount_table_offset);
    if (overlap(h->l1_table_offset, DP_MAX(l1_bytes, 1), h->refcount_table_offset, table_bytes))
        return REFUSE("disk %s is damaged: its tables lie in one another", q->image.name);
    return 0;
}

/* size bytes of big-endian entries; the caller frees them. */
static int read_entries(struct qcow2 *q, uint64_t at, uint64_t count, uint64_t **out, struct dp_error *e)
{
    if (!(*out = malloc(DP_MAX(count, 1) * 8)))
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", q->image.name);
    int rc = qcow2_pread(q, *out, count * 8, at);
    if (rc)
        return dp_error_set(e, rc, "disk %s cannot be read: %s", q->image.name, strerror(-rc));
    for (uint64_t i = 0; i < count; i++)
        (*out)[i] = qcow2_be((*out)[i]);
    return 0;
}

/* Refcount blocks are aligned, in the file, and in no other table. */
static int check_table(struct qcow2 *q, bool repair, struct dp_error *e)
{
    for (uint32_t i = 0; i < q->table_size; i++) {
        uint64_t at = q->table[i];
        if (at && (at & (q->cluster - 1) || at >= q->file_end || overlap(at, q->cluster, q->l1_offset, q->l1_size * 8ull) ||
                   overlap(at, q->cluster, q->table_offset, q->table_size * 8ull))) {
            q->table[i] = 0;
            if (repair) /* the check looks at it again */
                continue;
            return REFUSE("disk %s is damaged: a refcount block cannot be at 0x%llx; try: doppel image check -r all %s", q->image.name,
                          (unsigned long long)at, q->image.name);
        }
    }
    if (!q->table[0] && !repair)
        return REFUSE("disk %s is damaged: its first refcount block is missing; try: doppel image check -r all %s", q->image.name,
                      q->image.name);
    return 0;
}

static void take_header(struct qcow2 *q, const struct header *h, uint64_t length)
{
    q->version = h->version;
    q->cluster_bits = h->cluster_bits;
    q->cluster = 1ull << h->cluster_bits;
    q->refcount_order = h->refcount_order;
    q->extended = h->incompatible_features & EXTENDED_L2;
    q->zstd = h->compression_type == 1;
    q->image.size = h->size;
    q->l2_bits = h->cluster_bits - (q->extended ? 4 : 3);
    q->slice_bits = DP_MIN(h->cluster_bits, (unsigned)QCOW2_SLICE_BITS);
    q->block_bits = h->cluster_bits + 3 - h->refcount_order;
    q->file_end = DP_ALIGN_UP(length, q->cluster);
    q->l1_offset = h->l1_table_offset;
    q->table_offset = h->refcount_table_offset;
    q->table_clusters = h->refcount_table_clusters;
    q->snapshots = h->nb_snapshots;
    q->snapshots_offset = h->snapshots_offset;
    q->marked_dirty = h->incompatible_features & DIRTY;
    q->marked_corrupt = h->incompatible_features & CORRUPT;
    q->clear_autoclear = h->autoclear_features;
}

/* The head of the file, checked. */
static int read_header(struct qcow2 *q, struct header *h, bool repair, struct dp_error *e)
{
    uint64_t length = q->image.file->size, bytes = DP_MIN(length, (uint64_t)HEAD_MAX);
    uint8_t *head = malloc(HEAD_MAX);
    if (!head)
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", q->image.name);
    int rc = qcow2_pread(q, head, bytes, 0);
    if (rc)
        dp_error_set(e, rc, "disk %s cannot be read: %s", q->image.name, strerror(-rc));
    else if (!(rc = parse_header(q, head, bytes, h, e)) && !(rc = check_header(q, h, length, repair, e)))
        rc = parse_extensions(q, head, DP_MIN(bytes, 1ull << h->cluster_bits), h, e);
    free(head);
    return rc;
}

static int open_backing(struct qcow2 *q, const struct header *h, const struct dp_image_options *o, struct dp_error *e)
{
    char name[DP_IMAGE_NAME_MAX + 1] = "";
    if (!h->backing_file_offset)
        return 0;
    if (!h->backing_file_size || h->backing_file_size > DP_IMAGE_NAME_MAX || h->backing_file_offset > q->cluster ||
        h->backing_file_size > q->cluster - h->backing_file_offset)
        return REFUSE("disk %s is damaged: the name of its backing file is not in its header", q->image.name);
    int rc = qcow2_pread(q, name, h->backing_file_size, h->backing_file_offset);
    if (rc)
        return dp_error_set(e, rc, "disk %s cannot be read: %s", q->image.name, strerror(-rc));
    return dp_image_open_backing(&q->image, name, h->backing_format, o, e);
}

int qcow2_open(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    struct qcow2 *q = (struct qcow2 *)i;
    struct header h;
    int rc = read_header(q, &h, o->repair, e);
    if (rc)
        return rc;
    take_header(q, &h, i->file->size);
    uint64_t needed = ((h.size - 1) >> (q->cluster_bits + q->l2_bits)) + 1;
    if (needed > h.l1_size)
        return REFUSE("disk %s is damaged: its L1 table has %u entries and needs %llu", i->name, h.l1_size, (unsigned long long)needed);
    if ((i->chain->memory += h.l1_size * 8ull) > QCOW2_L1_CHAIN_MAX * 8ull)
        return REFUSE("disk %s: the tables of its chain of images are too large; merge some with: doppel image commit", i->name);
    q->l1_size = h.l1_size;
    if ((rc = read_entries(q, h.l1_table_offset, h.l1_size, &q->l1, e)))
        return rc;
    for (uint32_t n = 0; n < q->l1_size; n++)
        if (q->l1[n] & ~(QCOW2_OFFSET | QCOW2_COPIED) || q->l1[n] & QCOW2_OFFSET & (q->cluster - 1))
            return REFUSE("disk %s is damaged: entry %u of its L1 table is not possible; try: doppel image check -r all %s", i->name, n,
                          i->name);
    if (!i->readonly) {
        q->table_size = (uint64_t)h.refcount_table_clusters << q->cluster_bits >> 3;
        if ((rc = read_entries(q, h.refcount_table_offset, q->table_size, &q->table, e)) || (rc = check_table(q, o->repair, e)))
            return rc;
        if (!(q->bounce = malloc(q->cluster)) || !(q->frees = calloc(QCOW2_FREES_MAX, sizeof *q->frees)))
            return dp_error_set(e, -ENOMEM, "disk %s: out of memory", i->name);
    }
    if (o->snapshot && !i->readonly)
        return REFUSE("disk %s: a snapshot can only be read", i->name);
    if (o->snapshot && (rc = qcow2_open_snapshot(q, o->snapshot, e)))
        return rc;
    return open_backing(q, &h, o, e);
}

void qcow2_close(struct dp_image *i)
{
    struct qcow2 *q = (struct qcow2 *)i;
    for (unsigned n = 0; n < QCOW2_SETS * QCOW2_WAYS; n++)
        free(q->slice[n / QCOW2_WAYS][n % QCOW2_WAYS].data);
    qcow2_packer_free(q->packer);
    free(q->l1);
    free(q->table);
    free(q->frees);
    free(q->bounce);
    free(q->packed);
    free(q->plain);
}
