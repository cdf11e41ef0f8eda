/* qcow2_dedup.c - two clusters of a qcow2 image that hold the same become one.
 *
 * Model: qcow2.h. The cluster that stays has one reference more, neither entry has the COPIED flag any more (a write to either makes a copy
 * first, as after a snapshot), and the other cluster is released. qcow2_commit's order keeps that safe: the refcount is on the disk before
 * an entry relies on it, and the entry before what it referred to is given back. Nothing is done (1) where tables belong to a snapshot,
 * too, and where a cluster is compressed, zeros, or not all there.
 * When one of both is written, the other lacks the flag that it could have. That does no harm (a write to it makes one copy more), but
 * qemu-img check calls it an error; so the image's own tables are looked through when it is closed, if any cluster went from two references
 * to one. After kill -9 it is for the next such closing, or for a repair.
 * Source: QEMU's docs/interop/qcow2.txt, "Cluster mapping" (bit 63), "Host cluster management".
 */
#include "block/qcow2.h"

/* The entry of a cluster of the disk, and its slice; 1: not one that can be shared. */
static int find(struct qcow2 *q, uint64_t offset, struct qcow2_slice **s, unsigned *at, uint64_t *descriptor)
{
    uint64_t i = offset >> (q->cluster_bits + q->l2_bits), table = i < q->l1_size ? q->l1[i] & QCOW2_OFFSET : 0;
    if (!table || !(q->l1[i] & QCOW2_COPIED))
        return 1;
    uint64_t byte = (offset >> q->cluster_bits & ((1ull << q->l2_bits) - 1)) * qcow2_entry_bytes(q);
    *at = byte & ((1ull << q->slice_bits) - 1);
    int rc = qcow2_table_ok(q, table);
    if (rc || (rc = qcow2_slice(q, QCOW2_L2, table + byte - *at, s)))
        return rc;
    struct qcow2_entry e = qcow2_entry_get(q, *s, *at);
    uint64_t place = e.descriptor & QCOW2_OFFSET;
    *descriptor = e.descriptor;
    if (e.descriptor & QCOW2_COMPRESSED || !place || (q->extended ? e.bitmap != UINT32_MAX : e.descriptor & QCOW2_ZERO))
        return 1;
    if (place & (q->cluster - 1) || place < q->cluster || place >= q->file_end)
        return qcow2_corrupt(q, "a cluster is not inside the file", place);
    return 0;
}

static int put(struct qcow2 *q, uint64_t offset, uint64_t descriptor)
{
    struct qcow2_slice *s;
    unsigned at;
    uint64_t old;
    int rc = find(q, offset, &s, &at, &old);
    if (rc)
        return rc < 0 ? rc : -EIO;
    dp_st64(s->data + at, qcow2_be(descriptor));
    s->dirty = q->l2_dirty = true;
    return 0;
}

int qcow2_share(struct dp_image *i, uint64_t keep, uint64_t drop)
{
    struct qcow2 *q = (struct qcow2 *)i;
    struct qcow2_slice *s;
    unsigned at;
    uint64_t a, b;
    int rc = (keep | drop) & (q->cluster - 1) || q->has_data ? 1 : qcow2_may_change(q); /* nothing counts clusters of a data file */
    if (rc || (rc = find(q, keep, &s, &at, &a)) || (rc = find(q, drop, &s, &at, &b)))
        return rc;
    uint64_t place = a & QCOW2_OFFSET, other = b & QCOW2_OFFSET;
    if (place == other || !(b & QCOW2_COPIED)) /* already, or a snapshot has it */
        return 1;
    if ((rc = qcow2_add_refcount(q, place >> q->cluster_bits)))
        return rc == -EOVERFLOW ? 1 : rc;
    /* After the first entry the count is right whether the second follows or not. */
    if ((rc = put(q, keep, a & ~QCOW2_COPIED)) || (rc = put(q, drop, place))) {
        qcow2_unalloc(q, place, 1);
        return rc;
    }
    return qcow2_release(q, other, 1, true);
}

static int own_table_again(struct qcow2 *q, uint64_t table)
{
    int rc = qcow2_table_ok(q, table);
    for (uint64_t at = 0; !rc && at < q->cluster; at += qcow2_entry_bytes(q)) {
        struct qcow2_slice *s;
        uint64_t slice = at & ~((1ull << q->slice_bits) - 1), d, place, references;
        if ((rc = qcow2_slice(q, QCOW2_L2, table + slice, &s)))
            return rc;
        d = qcow2_be(dp_ld64(s->data + at - slice));
        place = d & QCOW2_OFFSET;
        if (d & (QCOW2_COMPRESSED | QCOW2_COPIED) || place < q->cluster || place & (q->cluster - 1) || place >= q->file_end)
            continue;
        if ((rc = qcow2_get_refcount(q, place >> q->cluster_bits, &references)) || references != 1)
            continue;
        if (!(rc = qcow2_slice(q, QCOW2_L2, table + slice, &s))) {
            dp_st64(s->data + at - slice, qcow2_be(d | QCOW2_COPIED));
            s->dirty = q->l2_dirty = true;
        }
    }
    return rc;
}

void qcow2_own_again(struct qcow2 *q)
{
    int rc = 0;
    if (!q->unshared || q->has_data || q->image.readonly || q->failed || q->told_corrupt || q->marked_corrupt)
        return;
    /* What is not done, for an error, another closing does. */
    for (uint32_t i = 0; !rc && i < q->l1_size; i++)
        if (q->l1[i] & QCOW2_COPIED && q->l1[i] & QCOW2_OFFSET)
            rc = own_table_again(q, q->l1[i] & QCOW2_OFFSET);
    if (!rc && q->l2_dirty)
        rc = qcow2_commit(q);
    DP_TRACE(q->image.trace, DP_TRACE_BLOCK, "disk %s: flags of clusters of its own again: %s", q->image.name, rc ? strerror(-rc) : "done");
}
