/* qcow2_meta.c - the metadata of a qcow2 image: cached slices, refcounts, allocation, and the order in which all goes to the disk.
 *
 * Model, invariants, source: qcow2.h. Refcounts only go from 0 to 1 (a new cluster) and down: internal snapshots are respected, not made.
 * A new refcount block is the first cluster of the range it counts; a refcount table that is full moves to the first clusters behind the
 * range it covered, together with the blocks that count them.
 */
#include <stdlib.h>

#include "block/qcow2.h"

int qcow2_corrupt(struct qcow2 *q, const char *what, uint64_t offset)
{
    if (q->image.trace && !q->told_corrupt)
        dp_trace_emit(q->image.trace, DP_TRACE_BLOCK,
                      "disk %s is damaged: %s (0x%llx); copy what is left, and look with: doppel image check %s", q->image.name, what,
                      (unsigned long long)offset, q->image.name);
    q->told_corrupt = true;
    return -EIO;
}

static int barrier(struct qcow2 *q)
{
    int rc = dp_image_flush(q->image.file);
    if (rc)
        q->failed = true; /* the kernel may have dropped what it could not write: a second try would succeed and prove nothing */
    return rc;
}

/* ---- slices ---- */

static int write_slice(struct qcow2 *q, struct qcow2_slice *s)
{
    int rc = qcow2_pwrite(q, s->data, 1ull << q->slice_bits, s->offset);
    if (!rc)
        s->dirty = false;
    return rc;
}

int qcow2_slice(struct qcow2 *q, enum qcow2_kind kind, uint64_t offset, struct qcow2_slice **out)
{
    uint64_t number = offset >> q->slice_bits;
    struct qcow2_slice *set = q->slice[(number ^ number >> 6 ^ number >> 12) % QCOW2_SETS], *victim = set;
    for (unsigned i = 0; i < QCOW2_WAYS; i++) {
        if (set[i].offset == offset) {
            if (set[i].kind != kind)
                return qcow2_corrupt(q, "a table is an L2 table and a refcount block", offset);
            set[i].used = ++q->tick;
            *out = &set[i];
            return 0;
        }
        if (set[i].used < victim->used)
            victim = &set[i];
    }
    int rc = 0;
    if (victim->dirty && victim->kind == QCOW2_L2) { /* the commit loads slices of its own, but leaves no L2 slice dirty */
        rc = qcow2_commit(q);
        return rc ? rc : qcow2_slice(q, kind, offset, out);
    }
    if (victim->dirty) /* refcounts may be written at any time */
        rc = write_slice(q, victim);
    if (!rc && !victim->data && !(victim->data = malloc(1ull << q->slice_bits)))
        rc = -ENOMEM;
    if (rc)
        return rc;
    victim->offset = victim->used = 0;
    if ((rc = qcow2_pread(q, victim->data, 1ull << q->slice_bits, offset)))
        return rc;
    victim->offset = offset;
    victim->kind = kind;
    victim->used = ++q->tick;
    *out = victim;
    return 0;
}

void qcow2_drop(struct qcow2 *q, uint64_t offset)
{
    for (unsigned i = 0; i < QCOW2_SETS * QCOW2_WAYS; i++) {
        struct qcow2_slice *s = &q->slice[i / QCOW2_WAYS][i % QCOW2_WAYS];
        if (s->offset && s->offset - offset < q->cluster) {
            s->offset = s->used = 0;
            s->dirty = false;
        }
    }
}

/* ---- refcounts ---- */

static bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) { return a < b + b_size && b < a + a_size; }

int qcow2_table_ok(struct qcow2 *q, uint64_t offset)
{
    if (!offset || offset & (q->cluster - 1) || offset >= q->file_end)
        return qcow2_corrupt(q, "a table is not inside the file", offset);
    if (overlaps(offset, q->cluster, q->l1_offset, q->l1_size * 8ull))
        return qcow2_corrupt(q, "a table lies in the L1 table", offset);
    if (q->table && overlaps(offset, q->cluster, q->table_offset, q->table_size * 8ull))
        return qcow2_corrupt(q, "a table lies in the refcount table", offset);
    return 0;
}

/* The block that counts cluster number n: its offset, 0 if there is none. */
static int find_block(struct qcow2 *q, uint64_t n, uint64_t *offset)
{
    uint64_t i = n >> q->block_bits;
    *offset = i < q->table_size ? q->table[i] : 0;
    return *offset ? qcow2_table_ok(q, *offset) : 0;
}

static int refcount_slice(struct qcow2 *q, uint64_t n, uint64_t block, struct qcow2_slice **s, uint64_t *bit)
{
    *bit = (n & ((1ull << q->block_bits) - 1)) << q->refcount_order;
    uint64_t byte = *bit >> 3 & ~((1ull << q->slice_bits) - 1);
    *bit -= byte << 3;
    return qcow2_slice(q, QCOW2_REFCOUNT, block + byte, s);
}

int qcow2_get_refcount(struct qcow2 *q, uint64_t n, uint64_t *value)
{
    uint64_t block, bit;
    struct qcow2_slice *s;
    *value = 0;
    int rc = find_block(q, n, &block);
    if (rc || !block)
        return rc;
    if ((rc = refcount_slice(q, n, block, &s, &bit)))
        return rc;
    const uint8_t *p = s->data + (bit >> 3);
    switch (q->refcount_order) {
    case 3:
        *value = *p;
        break;
    case 4:
        *value = __builtin_bswap16(dp_ld16(p));
        break;
    case 5:
        *value = __builtin_bswap32(dp_ld32(p));
        break;
    case 6:
        *value = qcow2_be(dp_ld64(p));
        break;
    default:
        *value = *p >> (bit & 7) & ((1u << (1u << q->refcount_order)) - 1);
    }
    return 0;
}

/* There is a block for n. */
static int set_refcount(struct qcow2 *q, uint64_t n, uint64_t value)
{
    uint64_t block, bit;
    struct qcow2_slice *s;
    int rc = find_block(q, n, &block);
    if (!rc && !block)
        rc = qcow2_corrupt(q, "a cluster in use is not counted", n << q->cluster_bits);
    if (rc || (rc = refcount_slice(q, n, block, &s, &bit)))
        return rc;
    uint8_t *p = s->data + (bit >> 3);
    switch (q->refcount_order) {
    case 3:
        *p = value;
        break;
    case 4:
        dp_st16(p, __builtin_bswap16(value));
        break;
    case 5:
        dp_st32(p, __builtin_bswap32(value));
        break;
    case 6:
        dp_st64(p, qcow2_be(value));
        break;
    default: {
        unsigned mask = (1u << (1u << q->refcount_order)) - 1;
        *p = (*p & ~(mask << (bit & 7))) | (unsigned)value << (bit & 7);
    }
    }
    s->dirty = q->refcount_dirty = true;
    if (!value && n < q->hint)
        q->hint = n;
    return 0;
}

/* One reference less. */
static int drop_refcount(struct qcow2 *q, uint64_t n, bool *now_free)
{
    uint64_t value;
    int rc = qcow2_get_refcount(q, n, &value);
    if (!rc && !value)
        rc = qcow2_corrupt(q, "a cluster in use has refcount 0", n << q->cluster_bits);
    *now_free = !rc && value == 1;
    if (*now_free && n == q->pack_at >> q->cluster_bits)
        q->pack_at = 0;
    return rc ? rc : set_refcount(q, n, value - 1);
}

/* ---- growing the refcount structures ---- */

static int write_zeros(struct qcow2 *q, uint64_t at, uint64_t size)
{
    static const uint8_t zeros[4096];
    int rc = 0;
    for (uint64_t n; !rc && size; at += n, size -= n) {
        n = DP_MIN(size, sizeof zeros);
        rc = qcow2_pwrite(q, zeros, n, at);
    }
    return rc;
}

static void include(uint32_t *from, uint32_t *to, uint32_t i)
{
    if (*from == *to)
        *from = i, *to = i + 1;
    *from = DP_MIN(*from, i);
    *to = DP_MAX(*to, i + 1);
}

static void table_changed(struct qcow2 *q, uint32_t i) { include(&q->table_dirty_from, &q->table_dirty_to, i); }
void qcow2_l1_changed(struct qcow2 *q, uint32_t i) { include(&q->l1_dirty_from, &q->l1_dirty_to, i); }

/* An empty block for the range of table entry i, at the cluster number n; it is in the table only in memory until the next commit. */
static int new_block(struct qcow2 *q, uint32_t i, uint64_t n)
{
    uint64_t offset = n << q->cluster_bits;
    qcow2_drop(q, offset);
    int rc = write_zeros(q, offset, q->cluster);
    if (rc)
        return rc;
    q->file_end = DP_MAX(q->file_end, offset + q->cluster);
    q->table[i] = offset;
    table_changed(q, i);
    return 0;
}

/* Entries from..to - 1 of a table in memory to where it lies in the file. */
static int write_entries(struct qcow2 *q, const uint64_t *table, uint64_t at, uint32_t from, uint32_t to)
{
    uint64_t piece[512];
    int rc = 0;
    for (uint32_t n; !rc && from < to; from += n) {
        n = DP_MIN(to - from, (uint32_t)DP_ARRAY_LEN(piece));
        for (uint32_t i = 0; i < n; i++)
            piece[i] = qcow2_be(table[from + i]);
        rc = qcow2_pwrite(q, piece, n * 8ull, at + from * 8ull);
    }
    return rc;
}

static int grow_table(struct qcow2 *q)
{
    int rc = qcow2_commit(q); /* so that no L2 slice is dirty, whose eviction would commit in the middle of this */
    if (rc)
        return rc;
    uint64_t base = (uint64_t)q->table_size << q->block_bits; /* the first cluster that the table cannot count */
    uint64_t bytes = DP_ALIGN_UP(DP_MAX(q->table_size * 16ull, q->cluster), q->cluster), clusters = bytes >> q->cluster_bits, blocks = 1;
    while (clusters + blocks > blocks << q->block_bits)
        blocks++;
    if (bytes > QCOW2_TABLE_BYTES_MAX || (base + clusters + blocks) << q->cluster_bits > QCOW2_OFFSET || bytes / 8 < q->table_size + blocks)
        return -EFBIG;
    uint64_t *table = calloc(bytes / 8, 8), *old = q->table, old_offset = q->table_offset;
    uint32_t old_size = q->table_size;
    if (!table)
        return -ENOMEM;
    memcpy(table, old, old_size * 8ull);
    q->table = table;
    q->table_offset = base << q->cluster_bits;
    q->table_size = bytes / 8;
    q->table_clusters = clusters;
    q->file_end = DP_MAX(q->file_end, (base + clusters + blocks) << q->cluster_bits);
    for (uint64_t i = 0; !rc && i < blocks; i++)
        rc = new_block(q, old_size + i, base + clusters + i);
    for (uint64_t i = 0; !rc && i < clusters + blocks; i++)
        rc = set_refcount(q, base + i, 1);
    for (unsigned i = 0; !rc && i < QCOW2_SETS * QCOW2_WAYS; i++)
        if (q->slice[i / QCOW2_WAYS][i % QCOW2_WAYS].dirty)
            rc = write_slice(q, &q->slice[i / QCOW2_WAYS][i % QCOW2_WAYS]);
    if (!rc)
        rc = write_entries(q, table, q->table_offset, 0, q->table_size);
    if (!rc)
        rc = barrier(q);
    q->table_dirty_from = q->table_dirty_to = 0;
    if (!rc) {
        uint8_t field[12]; /* refcount_table_offset, refcount_table_clusters: within one sector */
        dp_st64(field, qcow2_be(q->table_offset));
        dp_st32(field + 8, __builtin_bswap32(clusters));
        rc = qcow2_pwrite(q, field, sizeof field, 48);
        if (!rc)
            rc = barrier(q);
        if (rc)
            q->failed = true; /* which table counts is unknown */
    }
    if (rc) {
        for (uint64_t i = 0; i < blocks; i++)
            qcow2_drop(q, (base + clusters + i) << q->cluster_bits);
        q->table = old;
        q->table_offset = old_offset;
        q->table_size = old_size;
        q->table_clusters = DP_ALIGN_UP(old_size * 8ull, q->cluster) >> q->cluster_bits;
        free(table);
        return rc;
    }
    free(old);
    for (uint64_t i = 0; !rc && i < DP_ALIGN_UP(old_size * 8ull, q->cluster) >> q->cluster_bits; i++) {
        bool ignored;
        rc = drop_refcount(q, (old_offset >> q->cluster_bits) + i, &ignored);
    }
    return rc;
}

/* ---- allocation ---- */

/* A damaged image may call clusters free that are not: what must not be overwritten is looked at once more. */
static int check_new(struct qcow2 *q, uint64_t offset, uint64_t size)
{
    bool bad = offset < q->cluster || overlaps(offset, size, q->l1_offset, q->l1_size * 8ull) ||
               overlaps(offset, size, q->table_offset, q->table_size * 8ull);
    for (uint32_t i = 0; !bad && i < q->l1_size; i++)
        bad = q->l1[i] && overlaps(offset, size, q->l1[i] & QCOW2_OFFSET, q->cluster);
    for (uint32_t i = 0; !bad && i < q->table_size; i++)
        bad = q->table[i] && overlaps(offset, size, q->table[i], q->cluster);
    return bad ? qcow2_corrupt(q, "a cluster that is counted as free is in use", offset) : 0;
}

int qcow2_alloc(struct qcow2 *q, uint64_t want, uint64_t *offset, uint64_t *got)
{
    uint64_t n = q->hint, count = 0, value, beyond = 0;
    int rc = 0;
    while (count < want) {
        uint64_t at = n + count, block;
        if (at >> q->block_bits >= q->table_size) {
            if (count)
                break;
            if ((rc = grow_table(q)))
                return rc;
            n = q->hint;
            continue;
        }
        if ((rc = find_block(q, at, &block)))
            return rc;
        if (!block) { /* everything from here to the end of the block's range is free */
            if (count)
                break;
            n = at & ~((1ull << q->block_bits) - 1);
            if ((rc = check_new(q, n << q->cluster_bits, q->cluster)) || (rc = new_block(q, n >> q->block_bits, n)) ||
                (rc = set_refcount(q, n, 1)))
                return rc;
            n++;
            continue;
        }
        if ((rc = qcow2_get_refcount(q, at, &value)))
            return rc;
        if (!value) {
            count++;
        } else {
            if (count)
                break;
            /* A crash may leave some that are counted and not there; a table made to be searched for hours has more. */
            if (n << q->cluster_bits >= q->file_end && ++beyond > QCOW2_BEYOND_MAX)
                return qcow2_corrupt(q, "clusters behind the end of the file are counted as used", n << q->cluster_bits);
            n++;
        }
    }
    if ((n + count) << q->cluster_bits > QCOW2_OFFSET)
        return -EFBIG;
    if ((rc = check_new(q, n << q->cluster_bits, count << q->cluster_bits)))
        return rc;
    for (uint64_t i = 0; i < count; i++) {
        if ((rc = set_refcount(q, n + i, 1))) {
            qcow2_unalloc(q, n << q->cluster_bits, i);
            return rc;
        }
    }
    q->hint = n + count;
    q->file_end = DP_MAX(q->file_end, q->hint << q->cluster_bits);
    *offset = n << q->cluster_bits;
    *got = count;
    return 0;
}

int qcow2_alloc_row(struct qcow2 *q, uint64_t want, uint64_t *offset)
{
    uint64_t base = q->file_end >> q->cluster_bits, blocks = 0, value;
    int rc = 0;
    /* The blocks that the row needs lie behind it, and may need one more for themselves. */
    for (uint64_t i = base >> q->block_bits; i <= (base + want + blocks) >> q->block_bits; i++) {
        while (!rc && i >= q->table_size)
            rc = grow_table(q);
        if (rc || q->file_end >> q->cluster_bits != base) /* the table has moved behind the end: so does the row */
            return rc ? rc : qcow2_alloc_row(q, want, offset);
        blocks += !q->table[i];
    }
    if ((base + want + blocks) << q->cluster_bits > QCOW2_OFFSET)
        return -EFBIG;
    q->file_end = (base + want + blocks) << q->cluster_bits;
    uint64_t next = base + want;
    for (uint64_t i = base >> q->block_bits; !rc && i <= (base + want + blocks) >> q->block_bits; i++)
        if (!q->table[i])
            rc = new_block(q, i, next++);
    for (uint64_t n = base; !rc && n < base + want + blocks; n++) {
        if (!(rc = qcow2_get_refcount(q, n, &value)) && value)
            rc = qcow2_corrupt(q, "clusters behind the end of the file are counted as used", n << q->cluster_bits);
        if (!rc)
            rc = set_refcount(q, n, 1);
    }
    *offset = base << q->cluster_bits;
    return rc;
}

int qcow2_add_refcount(struct qcow2 *q, uint64_t n)
{
    uint64_t value, max = q->refcount_order == 6 ? INT64_MAX : (1ull << (1u << q->refcount_order)) - 1;
    int rc = qcow2_get_refcount(q, n, &value);
    if (!rc && !value)
        rc = qcow2_corrupt(q, "a cluster in use has refcount 0", n << q->cluster_bits);
    return rc ? rc : value >= max ? -EOVERFLOW : set_refcount(q, n, value + 1);
}

int qcow2_switch_l1(struct qcow2 *q, uint64_t *l1, uint32_t entries, uint64_t at, uint64_t size)
{
    uint8_t field[24] = {0}; /* size, crypt_method, l1_size, l1_table_offset: within one sector */
    uint64_t old = q->l1_offset, clusters = DP_ALIGN_UP(q->l1_size * 8ull, q->cluster) >> q->cluster_bits;
    int rc = qcow2_commit(q);
    if (rc || (rc = write_entries(q, l1, at, 0, entries)) || (rc = barrier(q)) || (rc = qcow2_pread(q, field, sizeof field, 24)))
        return rc;
    dp_st64(field, qcow2_be(size));
    dp_st32(field + 12, __builtin_bswap32(entries));
    dp_st64(field + 16, qcow2_be(at));
    if ((rc = qcow2_pwrite(q, field, sizeof field, 24)) || (rc = barrier(q))) {
        q->failed = true; /* which table counts is unknown */
        return rc;
    }
    free(q->l1);
    q->l1 = l1;
    q->l1_size = entries;
    q->l1_offset = at;
    if (!clusters || !qcow2_release(q, old, clusters, true))
        rc = qcow2_commit(q);
    (void)rc; /* the new one counts: if the old one cannot be given back it leaks */
    return 0;
}

void qcow2_unalloc(struct qcow2 *q, uint64_t offset, uint64_t count)
{
    bool ignored;
    for (uint64_t i = 0; i < count; i++)
        if (drop_refcount(q, (offset >> q->cluster_bits) + i, &ignored))
            return; /* leaked, which is harmless */
}

int qcow2_release(struct qcow2 *q, uint64_t offset, uint64_t count, bool punch)
{
    uint64_t first = offset >> q->cluster_bits;
    struct qcow2_free *last = q->free_count ? &q->frees[q->free_count - 1] : NULL;
    if (last && last->first + last->count == first && last->punch == punch) {
        last->count += count;
        return 0;
    }
    if (q->free_count == QCOW2_FREES_MAX) {
        int rc = qcow2_commit(q);
        if (rc)
            return rc;
    }
    q->frees[q->free_count++] = (struct qcow2_free){first, count, punch};
    return 0;
}

/* ---- commit ---- */

bool qcow2_is_dirty(const struct qcow2 *q)
{
    return q->l2_dirty || q->refcount_dirty || q->free_count || q->l1_dirty_from != q->l1_dirty_to ||
           q->table_dirty_from != q->table_dirty_to;
}

static int write_slices(struct qcow2 *q, enum qcow2_kind kind)
{
    int rc = 0;
    for (unsigned i = 0; !rc && i < QCOW2_SETS * QCOW2_WAYS; i++) {
        struct qcow2_slice *s = &q->slice[i / QCOW2_WAYS][i % QCOW2_WAYS];
        if (s->dirty && s->kind == kind)
            rc = write_slice(q, s);
    }
    return rc;
}

static void punch_hole(struct qcow2 *q, uint64_t first, uint64_t count)
{
    /* Giving space back is a kindness; a file system that cannot is as good. */
    int rc = count ? dp_image_zero(q->image.file, first << q->cluster_bits, count << q->cluster_bits, DP_ZERO_UNMAP | DP_ZERO_DISCARD) : 0;
    if (rc)
        DP_TRACE(q->image.trace, DP_TRACE_BLOCK, "disk %s: no hole punched: %s", q->image.name, strerror(-rc));
}

/* Step C. Loads and evicts refcount slices only: no L2 slice is dirty now. */
static int give_back(struct qcow2 *q)
{
    int rc = 0;
    while (!rc && q->free_count) {
        struct qcow2_free *f = &q->frees[q->free_count - 1];
        uint64_t run = 0;
        for (uint64_t i = 0; !rc && i < f->count; i++) {
            bool now_free;
            if ((rc = drop_refcount(q, f->first + i, &now_free)))
                break;
            if (now_free && f->punch) {
                run++;
            } else {
                punch_hole(q, f->first + i - run, run);
                run = 0;
            }
        }
        if (!rc)
            punch_hole(q, f->first + f->count - run, run);
        q->free_count--; /* on an error, too: the rest leaks */
    }
    return rc;
}

int qcow2_commit(struct qcow2 *q)
{
    if (q->failed)
        return -EIO;
    int rc = write_slices(q, QCOW2_REFCOUNT);
    if (rc || (rc = barrier(q)))
        return rc;
    q->refcount_dirty = false;
    if (q->table_dirty_from != q->table_dirty_to) {
        rc = write_entries(q, q->table, q->table_offset, q->table_dirty_from, q->table_dirty_to);
        if (rc || (rc = barrier(q)))
            return rc;
        q->table_dirty_from = q->table_dirty_to = 0;
    }
    if (q->l2_dirty || q->l1_dirty_from != q->l1_dirty_to) {
        if ((rc = write_slices(q, QCOW2_L2)) || (rc = write_entries(q, q->l1, q->l1_offset, q->l1_dirty_from, q->l1_dirty_to)) ||
            (rc = barrier(q)))
            return rc;
        q->l2_dirty = false;
        q->l1_dirty_from = q->l1_dirty_to = 0;
    }
    return give_back(q);
}
