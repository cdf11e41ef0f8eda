/* qcow2_read.c - reading a qcow2 image: bytes of the file, where a piece of the disk is, compressed clusters, the backing chain.
 *
 * Model, invariants, source: qcow2.h. qcow2_map finds the longest run it can describe without looking at a second slice.
 * The last compressed cluster that was unpacked is kept for who reads it piecemeal.
 */
#include <stdlib.h>

#include "block/qcow2.h"

/* ---- moving bytes ---- */

int qcow2_transfer(struct qcow2 *q, struct dp_cursor *c, bool write, uint64_t at, uint64_t size)
{
    return write ? dp_image_write(q->image.file, c, at, size) : dp_image_read(q->image.file, c, at, size);
}

int qcow2_pread(struct qcow2 *q, void *data, uint64_t size, uint64_t at) { return dp_image_pread(q->image.file, data, size, at); }
int qcow2_pwrite(struct qcow2 *q, const void *data, uint64_t size, uint64_t at) { return dp_image_pwrite(q->image.file, data, size, at); }

/* ---- mapping ---- */

/* What entry e says about the byte at within its cluster, and for how many bytes from there. */
static int entry_extent(struct qcow2 *q, struct qcow2_entry e, uint64_t at, struct qcow2_extent *x)
{
    *x = (struct qcow2_extent){.size = q->cluster - at, .descriptor = e.descriptor};
    if (e.descriptor & QCOW2_COMPRESSED) {
        if (e.descriptor & QCOW2_COPIED || e.bitmap)
            return qcow2_corrupt(q, "a compressed cluster has flags of another kind", e.descriptor);
        x->kind = QCOW2_PACKED;
        x->offset = at;
        return 0;
    }
    uint64_t offset = e.descriptor & QCOW2_OFFSET;
    bool zero = e.descriptor & QCOW2_ZERO;
    if (e.descriptor & QCOW2_RESERVED || (zero && (q->version < 3 || q->extended)) || (!offset && e.descriptor & QCOW2_COPIED))
        return qcow2_corrupt(q, "an L2 entry has reserved bits", e.descriptor);
    if (offset & (q->cluster - 1))
        return qcow2_corrupt(q, "a cluster is not aligned", offset);
    x->offset = offset + at;
    if (q->extended) {
        unsigned bits = q->cluster_bits - 5, i = at >> bits, n = 1;
        uint32_t data = e.bitmap, zeros = e.bitmap >> 32;
        if (data & zeros || (data && !offset))
            return qcow2_corrupt(q, "an L2 entry contradicts itself", e.bitmap);
        while (i + n < QCOW2_SUBCLUSTERS && !(((data >> i ^ data >> (i + n)) | (zeros >> i ^ zeros >> (i + n))) & 1))
            n++;
        x->kind = data >> i & 1 ? QCOW2_DATA : zeros >> i & 1 ? QCOW2_ZEROS : QCOW2_UNALLOCATED;
        x->size = ((uint64_t)(i + n) << bits) - at;
    } else {
        x->kind = zero ? QCOW2_ZEROS : offset ? QCOW2_DATA : QCOW2_UNALLOCATED;
    }
    return 0;
}

int qcow2_map(struct qcow2 *q, uint64_t offset, uint64_t size, struct qcow2_extent *x)
{
    uint64_t n = offset >> q->cluster_bits, per_table = 1ull << q->l2_bits, per_slice = (1ull << q->slice_bits) / qcow2_entry_bytes(q);
    uint64_t table = q->l1[n >> q->l2_bits] & QCOW2_OFFSET, at = offset & (q->cluster - 1);
    if (!table) {
        *x = (struct qcow2_extent){.kind = QCOW2_UNALLOCATED, .size = ((per_table - (n & (per_table - 1))) << q->cluster_bits) - at};
        x->size = DP_MIN(x->size, size);
        return 0;
    }
    int rc = qcow2_table_ok(q, table);
    struct qcow2_slice *s;
    unsigned first = n & (per_slice - 1);
    if (rc || (rc = qcow2_slice(q, QCOW2_L2, table + ((n & (per_table - 1) & ~(per_slice - 1)) * qcow2_entry_bytes(q)), &s)))
        return rc;
    rc = entry_extent(q, qcow2_entry_get(q, s, first * qcow2_entry_bytes(q)), at, x);
    if (!rc && at + x->size < q->cluster) /* ends with a subcluster */
        size = DP_MIN(size, x->size);
    for (unsigned i = first + 1; !rc && i < per_slice && x->size < size && x->kind != QCOW2_PACKED; i++) {
        struct qcow2_extent next;
        if (entry_extent(q, qcow2_entry_get(q, s, i * qcow2_entry_bytes(q)), 0, &next)) /* told when it is its turn */
            break;
        if (next.kind != x->kind || (x->kind == QCOW2_DATA && next.offset != x->offset + x->size))
            break;
        x->size += next.size;
        if (next.size != q->cluster)
            break;
    }
    x->size = DP_MIN(x->size, size);
    return rc;
}

/* ---- compressed clusters ---- */

/* Where the bytes of a compressed cluster are; what is behind them belongs to others. */
static int packed_place(struct qcow2 *q, uint64_t descriptor, uint64_t *at, uint64_t *size)
{
    unsigned x = 62 - (q->cluster_bits - 8);
    *at = descriptor & ((1ull << x) - 1) & 0x00ffffffffffffffull;
    *size = (((descriptor & (QCOW2_COMPRESSED - 1)) >> x) + 1) * 512 - (*at & 511);
    return *at < q->cluster || *at >= q->file_end ? qcow2_corrupt(q, "a compressed cluster is not inside the file", *at) : 0;
}

/* The cluster that descriptor tells of into q->plain. */
static int unpack(struct qcow2 *q, uint64_t descriptor)
{
    uint64_t at, size;
    if (q->plain_descriptor == descriptor)
        return 0;
    int rc = packed_place(q, descriptor, &at, &size);
    if (rc)
        return rc;
    if (!q->packed && !(q->packed = malloc(2 * q->cluster + 512)))
        return -ENOMEM;
    if (!q->plain && !(q->plain = malloc(q->cluster)))
        return -ENOMEM;
    if (!q->packer && !(q->packer = qcow2_packer(&q->image)))
        return -ENOMEM;
    q->plain_descriptor = 0;
    if ((rc = qcow2_pread(q, q->packed, size, at)))
        return rc;
    if (!qcow2_unpack(q->packer, q->packed, size, q->plain))
        return qcow2_corrupt(q, "a compressed cluster cannot be unpacked", at);
    q->plain_descriptor = descriptor;
    return 0;
}

int qcow2_read_packed(struct dp_image *i, uint64_t offset, uint8_t *packed, size_t room, size_t *n)
{
    struct qcow2 *q = (struct qcow2 *)i;
    struct qcow2_extent x;
    uint64_t at, size;
    int rc = qcow2_map(q, offset, q->cluster, &x);
    if (rc || x.kind != QCOW2_PACKED || x.offset)
        return rc ? rc : -ENOTSUP;
    if ((rc = packed_place(q, x.descriptor, &at, &size)))
        return rc;
    if (size > room)
        return -ENOTSUP;
    *n = size;
    return qcow2_pread(q, packed, size, at);
}

/* ---- reading ---- */

int qcow2_read(struct qcow2 *q, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    while (size) {
        struct qcow2_extent x;
        int rc = qcow2_map(q, offset, size, &x);
        if (rc)
            return rc;
        switch (x.kind) {
        case QCOW2_DATA:
            rc = qcow2_transfer(q, c, false, x.offset, x.size);
            break;
        case QCOW2_PACKED:
            if (!(rc = unpack(q, x.descriptor)))
                dp_cursor_put(c, q->plain + x.offset, x.size);
            break;
        case QCOW2_ZEROS:
            dp_cursor_zero(c, x.size);
            break;
        case QCOW2_UNALLOCATED:
            if (q->image.backing)
                rc = dp_image_read(q->image.backing, c, offset, x.size);
            else
                dp_cursor_zero(c, x.size);
            break;
        }
        if (rc)
            return rc;
        offset += x.size;
        size -= x.size;
    }
    return 0;
}
