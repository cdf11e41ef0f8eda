/* qcow2.c - the qcow2 format: what it offers to image.h.
 *
 * Model, invariants, source: qcow2.h.
 */
#include "block/qcow2.h"

static struct qcow2 *of(struct dp_image *i) { return (struct qcow2 *)i; }

static bool probe(const uint8_t *head, const uint8_t *tail, uint64_t length) { return !memcmp(head, "QFI\xfb", 4); }

static int read_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) { return qcow2_read(of(i), c, offset, size); }
static int write_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) { return qcow2_write(of(i), c, offset, size); }

static int zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags)
{
    return qcow2_write_zeroes(of(i), offset, size, flags & DP_ZERO_UNMAP, flags & DP_ZERO_DISCARD);
}

/* A commit gives clusters back in its last step; a second one writes their refcounts. Who only wants his data safe needs the first. */
static int flush(struct dp_image *i) { return qcow2_commit(of(i)); }
static bool dirty(const struct dp_image *i) { return qcow2_is_dirty((const struct qcow2 *)i); }
static bool flush_is_plain(const struct dp_image *i)
{
    const struct qcow2 *q = (const struct qcow2 *)i;
    return !qcow2_is_dirty(q) && !q->failed && !q->has_data;
}

static int extent(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x)
{
    static const enum dp_extent_kind kinds[] = {[QCOW2_DATA] = DP_EXTENT_DATA,
                                                [QCOW2_PACKED] = DP_EXTENT_PACKED,
                                                [QCOW2_ZEROS] = DP_EXTENT_ZEROS,
                                                [QCOW2_UNALLOCATED] = DP_EXTENT_UNALLOCATED};
    struct qcow2_extent q;
    int rc = qcow2_map(of(i), offset, size, &q);
    if (!rc)
        *x = (struct dp_extent){
            .kind = kinds[q.kind], .size = q.size, .offset = q.offset, .has_offset = q.kind == QCOW2_DATA && !of(i)->encrypted};
    return rc;
}

static uint32_t cluster_size(const struct dp_image *i) { return 1u << ((const struct qcow2 *)i)->cluster_bits; }

const struct dp_image_format dp_image_qcow2 = {
    .name = "qcow2",
    .summary = "grows with its contents, has backing files, snapshots, compression",
    .instance_size = sizeof(struct qcow2),
    .probe = probe,
    .open = qcow2_open,
    .close = qcow2_close,
    .read = read_,
    .write = write_,
    .zero = zero,
    .flush = flush,
    .dirty = dirty,
    .flush_is_plain = flush_is_plain,
    .extent = extent,
    .cluster_size = cluster_size,
    .resize = qcow2_resize,
    .info = qcow2_info,
    .set_backing = qcow2_set_backing,
    .create = qcow2_create,
    .check = qcow2_check,
    .share = qcow2_share,
    .write_packed = qcow2_write_packed,
    .packer = qcow2_packer,
    .packer_free = qcow2_packer_free,
    .pack = qcow2_pack,
    .write_prepacked = qcow2_write_prepacked,
    .read_packed = qcow2_read_packed,
    .unpack = qcow2_unpack,
    .empty = qcow2_empty,
    .snapshot_list = qcow2_snapshot_list,
    .snapshot_create = qcow2_snapshot_create,
    .snapshot_apply = qcow2_snapshot_apply,
    .snapshot_delete = qcow2_snapshot_delete,
    .bitmap_list = qcow2_bitmap_list,
    .bitmap_query = qcow2_bitmap_query,
    .bitmap_set = qcow2_bitmap_set,
    .bitmap_change = qcow2_bitmap_change,
    .create_options = qcow2_create_options,
};
