/* qcow2_write.c - changing a qcow2 image: writes in place, allocation, copy-on-write, zeros, discard.
 *
 * Model, invariants, source: qcow2.h. A cluster is written in place if all of it is there and it has no other references (COPIED). Any
 * other is given a new place, whole: what the request does not cover is read first, from wherever it is. Whole clusters in a row are
 * given places in a row and written at once. First the data goes out, then the entry changes, then what it referred to is released.
 * With extended L2 entries, too, a cluster becomes whole at its first write; subclusters are only read one by one.
 */
#include <stdlib.h>

#include "block/qcow2.h"

/* ---- entries ---- */

static bool has_place(struct qcow2_entry e) { return !(e.descriptor & QCOW2_COMPRESSED) && e.descriptor & QCOW2_OFFSET; }
static bool is_own(struct qcow2_entry e) { return has_place(e) && e.descriptor & QCOW2_COPIED; }

static bool is_in_place(const struct qcow2 *q, struct qcow2_entry e)
{
    return is_own(e) && (q->extended ? (uint32_t)e.bitmap == UINT32_MAX : !(e.descriptor & QCOW2_ZERO));
}

static uint64_t place(struct qcow2_entry e) { return e.descriptor & QCOW2_OFFSET; }

static int check_entry(struct qcow2 *q, struct qcow2_entry e)
{
    if (!has_place(e))
        return 0;
    if (place(e) & (q->cluster - 1) || place(e) < q->cluster || place(e) >= q->file_end)
        return qcow2_corrupt(q, "a cluster is not inside the file", place(e));
    return 0;
}

int qcow2_may_change(struct qcow2 *q)
{
    static const uint64_t none;
    if (q->failed)
        return -EIO;
    if (!q->clear_autoclear)
        return 0;
    int rc = qcow2_pwrite(q, &none, 8, 88);
    if (!rc)
        rc = dp_image_flush(q->image.file); /* nothing changes that a bitmap which is still valid should know of */
    q->clear_autoclear = rc != 0;
    return rc;
}

/* An L2 table for the disk's offset that may be changed. */
static int own_table(struct qcow2 *q, uint64_t offset, uint64_t *table)
{
    uint32_t i = offset >> (q->cluster_bits + q->l2_bits);
    uint64_t old = q->l1[i] & QCOW2_OFFSET, got;
    int rc = old ? qcow2_table_ok(q, old) : 0;
    *table = old;
    if (rc || (old && q->l1[i] & QCOW2_COPIED))
        return rc;
    if ((rc = qcow2_alloc(q, 1, table, &got)))
        return rc;
    qcow2_drop(q, *table);
    if (old)
        rc = qcow2_pread(q, q->bounce, q->cluster, old); /* shared, so never dirty in the cache */
    else
        memset(q->bounce, 0, q->cluster);
    if (!rc)
        rc = qcow2_pwrite(q, q->bounce, q->cluster, *table);
    if (rc) {
        qcow2_unalloc(q, *table, 1);
        return rc;
    }
    q->l1[i] = *table | QCOW2_COPIED;
    qcow2_l1_changed(q, i);
    return old ? qcow2_release(q, old, 1, false) : 0;
}

/* The slice that has the disk's offset, of a table that own_table gave, and where in it. */
static int entry_slice(struct qcow2 *q, uint64_t table, uint64_t offset, struct qcow2_slice **s, unsigned *at)
{
    uint64_t byte = (offset >> q->cluster_bits & ((1ull << q->l2_bits) - 1)) * qcow2_entry_bytes(q);
    *at = byte & ((1ull << q->slice_bits) - 1);
    return qcow2_slice(q, QCOW2_L2, table + byte - *at, s);
}

static int get_entry(struct qcow2 *q, uint64_t table, uint64_t offset, struct qcow2_entry *e)
{
    struct qcow2_slice *s;
    unsigned at;
    int rc = entry_slice(q, table, offset, &s, &at);
    if (rc)
        return rc;
    *e = qcow2_entry_get(q, s, at);
    return check_entry(q, *e);
}

static int put_entry(struct qcow2 *q, uint64_t table, uint64_t offset, struct qcow2_entry e)
{
    struct qcow2_slice *s;
    unsigned at;
    int rc = entry_slice(q, table, offset, &s, &at);
    if (rc)
        return rc;
    dp_st64(s->data + at, qcow2_be(e.descriptor));
    if (q->extended)
        dp_st64(s->data + at + 8, qcow2_be(e.bitmap));
    s->dirty = q->l2_dirty = true;
    return 0;
}

/* What e referred to has one reference less. */
static int release_entry(struct qcow2 *q, struct qcow2_entry e, bool punch)
{
    if (has_place(e))
        return qcow2_release(q, place(e), 1, punch);
    if (!(e.descriptor & QCOW2_COMPRESSED))
        return 0;
    unsigned x = 62 - (q->cluster_bits - 8);
    uint64_t at = e.descriptor & ((1ull << x) - 1) & 0x00ffffffffffffffull;
    uint64_t last = (at & ~511ull) + (((e.descriptor & (QCOW2_COMPRESSED - 1)) >> x) + 1) * 512 - 1;
    if (at < q->cluster || at >= q->file_end)
        return qcow2_corrupt(q, "a compressed cluster is not inside the file", at);
    return qcow2_release(q, at & ~(q->cluster - 1), (last >> q->cluster_bits) - (at >> q->cluster_bits) + 1, punch);
}

static struct qcow2_entry data_entry(const struct qcow2 *q, uint64_t offset)
{
    return (struct qcow2_entry){offset | QCOW2_COPIED, q->extended ? UINT32_MAX : 0};
}

/* ---- writing ---- */

/* Part of a cluster that cannot be written in place as it is. */
static int write_part(struct qcow2 *q, struct dp_cursor *c, uint64_t table, struct qcow2_entry old, uint64_t offset, uint64_t size)
{
    uint64_t within = offset & (q->cluster - 1), to = place(old), got;
    bool fresh = false, own = is_own(old);
    int rc = 0;
    if (!own) {
        if ((rc = qcow2_alloc(q, 1, &to, &got)))
            return rc;
        fresh = to >= q->image.file->size; /* the file has nothing there yet */
    }
    if (fresh && !q->image.backing && !old.descriptor && !old.bitmap) {
        rc = qcow2_transfer(q, c, true, to + within, size);
    } else {
        struct iovec v = {q->bounce, q->cluster};
        uint64_t start = offset - within, there = DP_MIN(q->cluster, q->image.size - start);
        memset(q->bounce + there, 0, q->cluster - there);
        rc = qcow2_read(q, &(struct dp_cursor){&v, 1, 0}, start, there);
        if (!rc) {
            dp_cursor_get(c, q->bounce + within, size);
            rc = qcow2_pwrite(q, q->bounce, q->cluster, to);
        }
    }
    if (!rc)
        rc = put_entry(q, table, offset, data_entry(q, to));
    if (rc && !own)
        qcow2_unalloc(q, to, 1);
    return rc || own ? rc : release_entry(q, old, false);
}

/* How many whole clusters from offset on, at most want, are not in place, within one slice. */
static int count_new(struct qcow2 *q, uint64_t table, uint64_t offset, uint64_t want, uint64_t *count)
{
    struct qcow2_slice *s;
    unsigned at;
    int rc = entry_slice(q, table, offset, &s, &at);
    for (*count = 0; !rc && *count < want && at < 1u << q->slice_bits; ++*count, at += qcow2_entry_bytes(q))
        if (is_in_place(q, qcow2_entry_get(q, s, at)))
            break;
    return rc;
}

static int write_new(struct qcow2 *q, struct dp_cursor *c, uint64_t table, uint64_t offset, uint64_t want, uint64_t *count)
{
    uint64_t to, done = 0;
    int rc = count_new(q, table, offset, want, count);
    if (rc || (rc = qcow2_alloc(q, *count, &to, count)))
        return rc;
    rc = qcow2_transfer(q, c, true, to, *count << q->cluster_bits);
    while (!rc && done < *count) {
        struct qcow2_entry old;
        uint64_t at = offset + (done << q->cluster_bits);
        if ((rc = get_entry(q, table, at, &old)) || (rc = put_entry(q, table, at, data_entry(q, to + (done << q->cluster_bits)))))
            break;
        done++;
        rc = release_entry(q, old, false);
    }
    if (rc)
        qcow2_unalloc(q, to + (done << q->cluster_bits), *count - done);
    return rc;
}

/* Bytes from offset on, at most size, that are in place and in a row in the file. */
static int count_in_place(struct qcow2 *q, uint64_t table, uint64_t offset, uint64_t size, uint64_t *bytes)
{
    struct qcow2_slice *s;
    unsigned at;
    int rc = entry_slice(q, table, offset, &s, &at);
    if (rc)
        return rc;
    uint64_t to = place(qcow2_entry_get(q, s, at));
    *bytes = q->cluster - (offset & (q->cluster - 1));
    while (*bytes < size && (at += qcow2_entry_bytes(q)) < 1u << q->slice_bits) {
        struct qcow2_entry e = qcow2_entry_get(q, s, at);
        if (!is_in_place(q, e) || place(e) != (to += q->cluster) || to >= q->file_end)
            break;
        *bytes += q->cluster;
    }
    *bytes = DP_MIN(*bytes, size);
    return 0;
}

int qcow2_write(struct qcow2 *q, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    int rc = qcow2_may_change(q);
    while (!rc && size) {
        uint64_t table, within = offset & (q->cluster - 1), n = DP_MIN(size, q->cluster - within);
        struct qcow2_entry e;
        if ((rc = own_table(q, offset, &table)) || (rc = get_entry(q, table, offset, &e)))
            return rc;
        if (is_in_place(q, e)) {
            if (!(rc = count_in_place(q, table, offset, size, &n)))
                rc = qcow2_transfer(q, c, true, place(e) + within, n);
        } else if (n == q->cluster) {
            if (!(rc = write_new(q, c, table, offset, size >> q->cluster_bits, &n)))
                n <<= q->cluster_bits;
        } else {
            rc = write_part(q, c, table, e, offset, n);
        }
        offset += n;
        size -= n;
    }
    return rc;
}

/* ---- zeros ---- */

/* A whole cluster (or the disk's last, cut short) becomes zeros, or for a discard whatever is cheap. *write: zeros must be written. */
static int zero_cluster(struct qcow2 *q, uint64_t offset, bool unmap, bool discard, bool *write)
{
    struct qcow2_entry old, to = {0};
    uint64_t table;
    bool flag = q->version >= 3; /* is there an entry that means zeros? */
    *write = false;
    if (!flag && q->image.backing) { /* without one what is below would shine through */
        *write = !discard;
        return 0;
    }
    int rc = own_table(q, offset, &table);
    if (rc || (rc = get_entry(q, table, offset, &old)))
        return rc;
    if (!q->image.backing && !old.descriptor && !old.bitmap)
        return 0; /* reads as zeros already */
    bool keep = is_own(old) && !unmap && flag;
    if (keep)
        to.descriptor = place(old) | QCOW2_COPIED;
    if (flag && (keep || q->image.backing)) {
        if (q->extended)
            to.bitmap = (uint64_t)UINT32_MAX << 32;
        else
            to.descriptor |= QCOW2_ZERO;
    }
    if (to.descriptor == old.descriptor && to.bitmap == old.bitmap)
        return 0;
    rc = put_entry(q, table, offset, to);
    return rc || keep ? rc : release_entry(q, old, true);
}

/* Zeros into part of a cluster, unless it reads as zeros already. */
static int zero_part(struct qcow2 *q, uint64_t offset, uint64_t size)
{
    static const uint8_t zeros[65536];
    int rc = 0;
    while (!rc && size) {
        struct qcow2_extent x;
        if ((rc = qcow2_map(q, offset, size, &x)))
            return rc;
        if (x.kind != QCOW2_ZEROS && (x.kind != QCOW2_UNALLOCATED || q->image.backing)) {
            x.size = DP_MIN(x.size, sizeof zeros);
            struct iovec v = {(void *)zeros, x.size};
            rc = qcow2_write(q, &(struct dp_cursor){&v, 1, 0}, offset, x.size);
        }
        offset += x.size;
        size -= x.size;
    }
    return rc;
}

int qcow2_write_zeroes(struct qcow2 *q, uint64_t offset, uint64_t size, bool unmap, bool discard)
{
    int rc = qcow2_may_change(q);
    while (!rc && size) {
        uint64_t within = offset & (q->cluster - 1), n = DP_MIN(size, q->cluster - within);
        if (!q->image.backing && !(q->l1[offset >> (q->cluster_bits + q->l2_bits)] & QCOW2_OFFSET)) { /* nothing there: zeros, all of it */
            uint64_t span = 1ull << (q->cluster_bits + q->l2_bits), rest = DP_MIN(size, span - (offset & (span - 1)));
            offset += rest;
            size -= rest;
            continue;
        }
        bool whole = !within && (n == q->cluster || offset + n == q->image.size), write = !whole && !discard;
        if (whole)
            rc = zero_cluster(q, offset, unmap || discard, discard, &write);
        if (!rc && write)
            rc = zero_part(q, offset, n);
        offset += n;
        size -= n;
    }
    return rc;
}

/* ---- whole tables ---- */

int qcow2_preallocate(struct qcow2 *q, uint64_t offset, uint64_t size)
{
    int rc = qcow2_may_change(q);
    while (!rc && size) {
        uint64_t table, want = ((size - 1) >> q->cluster_bits) + 1, count, to, got = 0;
        if ((rc = own_table(q, offset, &table)) || (rc = count_new(q, table, offset, want, &count)))
            return rc;
        if (!count) { /* it is there */
            count = 1;
        } else if (!(rc = qcow2_alloc(q, count, &to, &got))) {
            count = got;
            for (uint64_t i = 0; !rc && i < got; i++) /* no references are lost: nothing was there */
                rc = put_entry(q, table, offset + (i << q->cluster_bits), data_entry(q, to + (i << q->cluster_bits)));
        }
        size -= DP_MIN(size, count << q->cluster_bits);
        offset += count << q->cluster_bits;
    }
    return rc;
}

int qcow2_forget(struct qcow2 *q, uint64_t from, uint64_t to)
{
    int rc = 0;
    for (uint64_t n = from; !rc && n < to;) {
        uint64_t offset = n << q->cluster_bits, first = n >> q->l2_bits << q->l2_bits, table;
        uint32_t i = n >> q->l2_bits;
        uint64_t end = DP_MIN(to, first + (1ull << q->l2_bits));
        if (!(q->l1[i] & QCOW2_OFFSET)) {
            n = end;
            continue;
        }
        table = q->l1[i] & QCOW2_OFFSET;
        if ((rc = qcow2_table_ok(q, table)))
            return rc;
        for (; !rc && n < end; n++) {
            struct qcow2_entry old;
            if (!(rc = get_entry(q, table, n << q->cluster_bits, &old)) && (old.descriptor || old.bitmap) &&
                !(rc = own_table(q, offset, &table)) && !(rc = put_entry(q, table, n << q->cluster_bits, (struct qcow2_entry){0})))
                rc = release_entry(q, old, true);
        }
        if (!rc && first >= from) { /* nothing of it is left */
            q->l1[i] = 0;
            qcow2_l1_changed(q, i);
            rc = qcow2_release(q, table, 1, true);
        }
    }
    return rc;
}

int qcow2_empty(struct dp_image *i, struct dp_error *e)
{
    struct qcow2 *q = (struct qcow2 *)i;
    int rc = qcow2_may_change(q);
    if (!rc)
        rc = qcow2_forget(q, 0, DP_ALIGN_UP(i->size, q->cluster) >> q->cluster_bits);
    if (!rc)
        rc = qcow2_commit(q);
    return rc ? dp_error_set(e, rc, "disk %s cannot be emptied: %s", i->name, strerror(-rc)) : 0;
}

/* ---- compressed clusters ---- */

/* A place for n bytes (fewer than a cluster): behind the last ones, if they go on into a cluster that follows, else in a new one. Each
 * cluster that is touched has one reference more. */
static int place_packed(struct qcow2 *q, size_t n, uint64_t *at)
{
    uint64_t last = q->pack_at >> q->cluster_bits, left = q->pack_at ? ((last + 1) << q->cluster_bits) - q->pack_at : 0, fresh, got;
    int rc = 0;
    if (n <= left && (rc = qcow2_add_refcount(q, last)) != -EOVERFLOW) {
        *at = q->pack_at;
    } else {
        if ((rc = qcow2_alloc(q, 1, &fresh, &got)))
            return rc;
        bool follows = left && fresh >> q->cluster_bits == last + 1 && !(rc = qcow2_add_refcount(q, last));
        *at = follows ? q->pack_at : fresh;
        rc = rc == -EOVERFLOW ? 0 : rc;
        if (rc)
            qcow2_unalloc(q, fresh, 1);
    }
    if (!rc)
        q->pack_at = (*at + n) & (q->cluster - 1) ? *at + n : 0;
    return rc;
}

/* Where no entry is. */
static int put_packed(struct qcow2 *q, uint64_t table, uint64_t offset, const uint8_t *packed, size_t n)
{
    uint64_t at;
    int rc = place_packed(q, n, &at);
    if (rc || (rc = qcow2_pwrite(q, packed, n, at)))
        return rc; /* what has a reference too many leaks */
    uint64_t sectors = ((at & 511) + n + 511) / 512, x = 62 - (q->cluster_bits - 8);
    return put_entry(q, table, offset, (struct qcow2_entry){QCOW2_COMPRESSED | (sectors - 1) << x | at, 0});
}

int qcow2_write_packed(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    struct qcow2 *q = (struct qcow2 *)i;
    struct dp_cursor plainly = *c;
    struct qcow2_entry old;
    uint64_t table;
    int rc = qcow2_may_change(q);
    if (!rc && (offset & (q->cluster - 1) || (size != q->cluster && offset + size != i->size)))
        rc = -EINVAL;
    if (rc || (!q->packed && !(q->packed = malloc(2 * q->cluster + 512))) || (!q->plain && !(q->plain = malloc(q->cluster))) ||
        (!q->packer && !(q->packer = qcow2_packer(i))))
        return rc ? rc : -ENOMEM;
    q->plain_descriptor = 0;
    dp_cursor_get(c, q->plain, size);
    memset(q->plain + size, 0, q->cluster - size);
    if ((rc = own_table(q, offset, &table)) || (rc = get_entry(q, table, offset, &old)))
        return rc;
    size_t n = qcow2_pack(q->packer, q->plain, q->packed);
    if (!n || old.descriptor || old.bitmap)
        return qcow2_write(q, &plainly, offset, size);
    return put_packed(q, table, offset, q->packed, n);
}

int qcow2_write_prepacked(struct dp_image *i, const uint8_t *packed, size_t n, uint64_t offset)
{
    struct qcow2 *q = (struct qcow2 *)i;
    struct qcow2_entry old;
    uint64_t table;
    int rc = qcow2_may_change(q);
    if (rc || offset & (q->cluster - 1) || offset >= i->size || !n || n >= q->cluster)
        return rc ? rc : -EINVAL;
    if ((rc = own_table(q, offset, &table)) || (rc = get_entry(q, table, offset, &old)))
        return rc;
    return old.descriptor || old.bitmap ? -EEXIST : put_packed(q, table, offset, packed, n);
}
