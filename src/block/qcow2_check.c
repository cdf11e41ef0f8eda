/* qcow2_check.c - is a qcow2 image consistent? and its repair.
 *
 * Model: every reference from the header on is counted in memory, then compared with the refcounts in the file.
 *   A refcount that is too high is a leak: space is lost, nothing else. One that is too low, or a reference that cannot be, is a
 * corruption: a later write may damage something. Repair: leaks alone are mended in place. All: if a corruption was found, new refcount
 * structures with the counted values are written behind the end of the file and the header is switched to them; the COPIED flags are set
 * right. References that cannot be (outside the file, not aligned) stay, and are reported: what they meant is unknown. So does a cluster
 * with more references than the bits of a refcount can count. What a guest reads is not changed by any of this, so persistent bitmaps stay
 * valid. Memory: eight bytes for each cluster of the file, at most COUNTS_MAX clusters. Time: of what the file has. An L2 table is walked
 * once, with as many references as L1 tables have to it; holes of the file are passed over; and tables that are read for each snapshot
 * and bitmap are together no larger than the file (they have clusters of their own) nor than TABLES_MAX. Source: QEMU's
 * docs/interop/qcow2.txt.
 */
#include <stdlib.h>

#include "block/qcow2.h"

enum { SNAPSHOT_HEAD = 40, SNAPSHOTS_MAX = 65536, SNAPSHOT_BYTES_MAX = 64 << 20, BITMAPS_MAX = 65535, DIRECTORY_MAX = 64 << 20 };
#define COUNTS_MAX (1ull << 28)
#define TABLES_MAX (8ull << 30)
static const uint32_t BITMAPS = 0x23852875;

struct l1_place {
    uint64_t offset;
    uint32_t entries;
};

struct check {
    struct qcow2 *q;
    struct dp_image_check *c;
    uint32_t *count;  /* references of each cluster; saturates */
    uint32_t *tables; /* of those: how many are of L1 tables that are still to be followed */
    uint32_t weight;  /* a reference counts so often */
    struct l1_place *snapshot;
    uint32_t snapshots;
    uint64_t read; /* bytes of tables of snapshots and bitmaps */
    uint64_t clusters;
    uint8_t *leaked; /* a bit for each cluster whose refcount is too high */
    uint64_t *block; /* the refcount table, as it may be used: 0 for what cannot be */
    uint32_t blocks;
    bool rebuild;
    uint64_t impossible; /* references that cannot be: no repair knows what they meant */
    uint64_t last;       /* data cluster seen last: for fragmentation */
};

static uint32_t be32(const uint8_t *p) { return __builtin_bswap32(dp_ld32(p)); }
static uint64_t be64(const uint8_t *p) { return qcow2_be(dp_ld64(p)); }

DP_PRINTF(2, 3) static void report(struct check *k, const char *format, ...)
{
    char line[256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    if (k->c->report)
        k->c->report(k->c->opaque, line);
}

/* ---- counting ---- */

/* A reference to bytes of the file. */
static void refer(struct check *k, uint64_t offset, uint64_t size, const char *what)
{
    struct qcow2 *q = k->q;
    uint64_t first = offset >> q->cluster_bits, end = size ? ((offset + size - 1) >> q->cluster_bits) + 1 : first;
    if (offset + size < offset || end > k->clusters) {
        report(k, "ERROR: %s at 0x%llx is not inside the file", what, (unsigned long long)offset);
        k->c->corruptions++;
        end = DP_MIN(end, k->clusters);
    }
    for (uint64_t n = first; n < end; n++)
        k->count[n] += DP_MIN(k->weight, UINT32_MAX - k->count[n]);
}

/* How many bytes of the file from `at` on are a hole: zeros, that need not be read. */
static uint64_t hole(struct check *k, uint64_t at, uint64_t size)
{
    struct dp_extent x;
    return dp_image_extent(k->q->image.file, at, size, &x) || x.kind != DP_EXTENT_ZEROS ? 0 : DP_MIN(x.size, size);
}

/* A table of so many bytes is read for a snapshot or a bitmap. */
static int afford(struct check *k, uint64_t bytes)
{
    k->read += bytes;
    if (k->read <= DP_MIN(k->clusters << k->q->cluster_bits, TABLES_MAX))
        return 0;
    report(k, "ERROR: the tables of snapshots and bitmaps are larger than the file");
    return -EFBIG;
}

/* May a table be there? Says so if not. */
static bool place_ok(struct check *k, uint64_t offset, const char *what)
{
    if (!(offset & (k->q->cluster - 1)) && offset >> k->q->cluster_bits < k->clusters)
        return true;
    report(k, "ERROR: %s at 0x%llx is %s", what, (unsigned long long)offset,
           offset & (k->q->cluster - 1) ? "not aligned" : "not inside the file");
    k->c->corruptions++;
    return false;
}

static void count_entry(struct check *k, struct qcow2_entry e, bool active)
{
    struct qcow2 *q = k->q;
    if (e.descriptor & QCOW2_COMPRESSED) {
        unsigned x = 62 - (q->cluster_bits - 8);
        uint64_t at = e.descriptor & ((1ull << x) - 1) & 0x00ffffffffffffffull;
        uint64_t size = (((e.descriptor & (QCOW2_COMPRESSED - 1)) >> x) + 1) * 512 - (at & 511);
        if (at >= q->cluster && at < k->clusters << q->cluster_bits) /* the last sector of the file may be cut short */
            size = DP_MIN(size, (k->clusters << q->cluster_bits) - at);
        refer(k, at, size, "a compressed cluster");
        if (active)
            k->c->compressed++, k->c->allocated++;
        return;
    }
    uint64_t at = e.descriptor & QCOW2_OFFSET;
    if (!at || !place_ok(k, at, "a cluster"))
        return;
    refer(k, at, q->cluster, "a cluster");
    if (!active)
        return;
    k->c->allocated++;
    if (k->last && at != k->last + q->cluster)
        k->c->fragmented++;
    k->last = at;
}

static int count_l2(struct check *k, uint64_t table, bool active)
{
    struct qcow2 *q = k->q;
    for (uint64_t at = 0; at < q->cluster;) {
        struct qcow2_slice *s;
        uint64_t skip = DP_ALIGN_DOWN(hole(k, table + at, q->cluster - at), 1ull << q->slice_bits);
        if (skip) {
            at += skip;
            continue;
        }
        int rc = qcow2_slice(q, QCOW2_L2, table + at, &s);
        if (rc)
            return rc;
        for (unsigned i = 0; i < 1u << q->slice_bits; i += qcow2_entry_bytes(q))
            count_entry(k, qcow2_entry_get(q, s, i), active);
        at += 1ull << q->slice_bits;
    }
    return 0;
}

/* The references to L2 tables; entries are as they are in memory of this machine. */
static void count_l1(struct check *k, const uint64_t *l1, uint64_t entries)
{
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t table = l1[i] & QCOW2_OFFSET, n = table >> k->q->cluster_bits;
        if (!table || !place_ok(k, table, "an L2 table"))
            continue;
        refer(k, table, k->q->cluster, "an L2 table");
        k->tables[n] += k->tables[n] < UINT32_MAX;
    }
}

/* What those L2 tables have that no other L1 table has led to: with the references of all. */
static int follow_l1(struct check *k, const uint64_t *l1, uint64_t entries, bool active)
{
    int rc = 0;
    for (uint64_t i = 0; !rc && i < entries; i++) {
        uint64_t table = l1[i] & QCOW2_OFFSET, n = table >> k->q->cluster_bits;
        if (active && k->c->progress && !(i & 63))
            k->c->progress(k->c->opaque, i, entries);
        if (table & (k->q->cluster - 1) || n >= k->clusters || !k->tables[n])
            continue;
        k->weight = k->tables[n];
        k->tables[n] = 0;
        rc = count_l2(k, table, active);
        k->weight = 1;
    }
    return rc;
}

static int read_table(struct qcow2 *q, uint64_t at, uint64_t entries, uint64_t **out)
{
    if (!(*out = malloc(DP_MAX(entries, 1) * 8)))
        return -ENOMEM;
    int rc = qcow2_pread(q, *out, entries * 8, at);
    for (uint64_t i = 0; !rc && i < entries; i++)
        (*out)[i] = qcow2_be((*out)[i]);
    if (rc) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

static int count_snapshots(struct check *k)
{
    struct qcow2 *q = k->q;
    uint64_t at = q->snapshots_offset, start = at;
    if (!q->snapshots)
        return 0;
    if (q->snapshots > SNAPSHOTS_MAX || !place_ok(k, at, "the table of snapshots")) {
        report(k, "ERROR: %u snapshots cannot be", q->snapshots);
        k->c->corruptions++;
        return 0;
    }
    if (!(k->snapshot = calloc(q->snapshots, sizeof *k->snapshot)))
        return -ENOMEM;
    for (uint32_t i = 0; i < q->snapshots; i++) {
        uint8_t h[SNAPSHOT_HEAD];
        int rc = qcow2_pread(q, h, sizeof h, at);
        uint64_t *l1, offset = be64(h), size = be32(h + 8), id = h[12] << 8 | h[13], name = h[14] << 8 | h[15], extra = be32(h + 36);
        if (rc)
            return rc;
        at = DP_ALIGN_UP(at + SNAPSHOT_HEAD + extra + id + name, 8);
        if (at - start > SNAPSHOT_BYTES_MAX || size > QCOW2_L1_ENTRIES_MAX) {
            report(k, "ERROR: the table of snapshots is damaged");
            k->c->corruptions++;
            return 0;
        }
        if (size && !place_ok(k, offset, "a snapshot's L1 table"))
            continue;
        if ((rc = afford(k, size * 8)))
            return rc;
        refer(k, offset, size * 8, "a snapshot's L1 table");
        if ((rc = read_table(q, offset, size, &l1)))
            return rc;
        count_l1(k, l1, size);
        free(l1);
        k->snapshot[k->snapshots++] = (struct l1_place){offset, size};
    }
    refer(k, start, at - start, "the table of snapshots");
    return 0;
}

static int follow_snapshots(struct check *k)
{
    int rc = 0;
    for (uint32_t i = 0; !rc && i < k->snapshots; i++) {
        uint64_t *l1;
        if (!(rc = read_table(k->q, k->snapshot[i].offset, k->snapshot[i].entries, &l1))) {
            rc = follow_l1(k, l1, k->snapshot[i].entries, false);
            free(l1);
        }
    }
    return rc;
}

/* Persistent bitmaps: the directory that a header extension names, tables, data. */
static int count_directory(struct check *k, uint64_t directory, uint64_t size, uint32_t bitmaps)
{
    struct qcow2 *q = k->q;
    if (bitmaps > BITMAPS_MAX || size > DIRECTORY_MAX || !place_ok(k, directory, "the directory of bitmaps"))
        return 0;
    uint8_t *d = malloc(size + 24);
    int rc = d ? qcow2_pread(q, d, size, directory) : -ENOMEM;
    refer(k, directory, size, "the directory of bitmaps");
    for (uint64_t at = 0; !rc && bitmaps-- && at + 24 <= size;) {
        uint64_t *table, offset = be64(d + at), entries = be32(d + at + 8), name = d[at + 18] << 8 | d[at + 19], extra = be32(d + at + 20);
        at = DP_ALIGN_UP(at + 24 + extra + name, 8);
        if (entries > DIRECTORY_MAX / 8 || !place_ok(k, offset, "a bitmap's table"))
            continue;
        refer(k, offset, entries * 8, "a bitmap's table");
        table = NULL;
        if (!(rc = afford(k, entries * 8)))
            rc = read_table(q, offset, entries, &table);
        for (uint64_t i = 0; !rc && i < entries; i++)
            if (table[i] & QCOW2_OFFSET && place_ok(k, table[i] & QCOW2_OFFSET, "a bitmap's cluster"))
                refer(k, table[i] & QCOW2_OFFSET, q->cluster, "a bitmap's cluster");
        free(table);
    }
    free(d);
    return rc;
}

static int count_bitmaps(struct check *k)
{
    struct qcow2 *q = k->q;
    if (q->version < 3)
        return 0;
    uint8_t *h = malloc(q->cluster);
    int rc = h ? qcow2_pread(q, h, q->cluster, 0) : -ENOMEM;
    bool valid = !rc && be64(h + 88) & 1; /* else somebody wrote who does not know them: they no longer count */
    for (uint64_t at = valid ? be32(h + 100) : q->cluster; !rc && at + 8 <= q->cluster && be32(h + at);) {
        uint64_t size = be32(h + at + 4);
        if (at + 8 + size > q->cluster)
            break;
        if (be32(h + at) == BITMAPS && size >= 24)
            rc = count_directory(k, be64(h + at + 24), be64(h + at + 16), be32(h + at + 8));
        at += 8 + DP_ALIGN_UP(size, 8);
    }
    free(h);
    return rc;
}

/* The refcount structures themselves. */
static int count_refcounts(struct check *k)
{
    struct qcow2 *q = k->q;
    k->blocks = (uint64_t)q->table_clusters << q->cluster_bits >> 3;
    refer(k, q->table_offset, k->blocks * 8ull, "the refcount table");
    int rc = read_table(q, q->table_offset, k->blocks, &k->block);
    for (uint32_t i = 0; !rc && i < k->blocks; i++) {
        uint64_t at = k->block[i];
        if (!at)
            continue;
        if (!place_ok(k, at, "a refcount block") || k->count[at >> q->cluster_bits]) {
            if (k->count && !(at & (q->cluster - 1)) && at >> q->cluster_bits < k->clusters) {
                report(k, "ERROR: the refcount block at 0x%llx is something else, too", (unsigned long long)at);
                k->c->corruptions++;
            }
            k->block[i] = 0;
            k->rebuild = true;
            continue;
        }
        refer(k, at, q->cluster, "a refcount block");
    }
    return rc;
}

static int count_all(struct check *k)
{
    struct qcow2 *q = k->q;
    refer(k, 0, q->cluster, "the header");
    refer(k, q->l1_offset, q->l1_size * 8ull, "the L1 table");
    count_l1(k, q->l1, q->l1_size);
    int rc = count_snapshots(k);
    if (!rc)
        rc = follow_l1(k, q->l1, q->l1_size, true);
    if (!rc)
        rc = follow_snapshots(k);
    if (!rc)
        rc = count_bitmaps(k);
    k->impossible += k->c->corruptions;
    return rc ? rc : count_refcounts(k);
}

/* ---- comparing ---- */

static uint64_t value_at(const struct qcow2 *q, const uint8_t *block, uint64_t i)
{
    unsigned width = 1u << q->refcount_order;
    uint64_t v = 0;
    if (width < 8)
        return block[i * width / 8] >> (i * width & 7) & ((1u << width) - 1);
    for (unsigned b = 0; b < width / 8; b++)
        v = v << 8 | block[i * width / 8 + b];
    return v;
}

static void set_at(const struct qcow2 *q, uint8_t *block, uint64_t i, uint64_t v)
{
    unsigned width = 1u << q->refcount_order;
    if (width < 8) {
        unsigned mask = (1u << width) - 1, shift = i * width & 7;
        block[i * width / 8] = (uint8_t)((block[i * width / 8] & ~(mask << shift)) | (v & mask) << shift);
        return;
    }
    for (unsigned b = 0; b < width / 8; b++)
        block[i * width / 8 + b] = (uint8_t)(v >> (width - 8 - 8 * b));
}

static uint64_t max_refcount(const struct qcow2 *q)
{
    return q->refcount_order == 6 ? UINT64_MAX : (1ull << (1u << q->refcount_order)) - 1;
}

/* One cluster: what is stored and what was counted. True: the stored value is to be changed in place. */
static bool compare(struct check *k, uint64_t n, uint64_t stored, uint64_t counted)
{
    struct dp_image_check *c = k->c;
    if (counted > max_refcount(k->q) || counted == UINT32_MAX) {
        report(k, "ERROR cluster %llu has %llu references, which refcounts of %d bits cannot count", (unsigned long long)n,
               (unsigned long long)counted, 1 << k->q->refcount_order);
        c->corruptions++;
        k->impossible++;
        return false;
    }
    if (counted)
        c->end = (n + 1) << k->q->cluster_bits;
    if (stored == counted)
        return false;
    bool leak = stored > counted, mend = leak && (c->repair_leaks || c->repair_all);
    report(k, "%s cluster %llu refcount=%llu reference=%llu",
           mend   ? "Repairing"
           : leak ? "Leaked"
                  : "ERROR",
           (unsigned long long)n, (unsigned long long)stored, (unsigned long long)counted);
    if (leak) {
        c->leaks++;
        c->leaks_fixed += mend;
        if (n < k->clusters)
            k->leaked[n / 8] |= 1u << (n & 7);
    } else {
        c->corruptions++;
        k->rebuild = true;
    }
    return mend;
}

static int compare_all(struct check *k)
{
    struct qcow2 *q = k->q;
    uint64_t per = 1ull << q->block_bits, n = 0;
    uint8_t *buffer = malloc(q->cluster);
    int rc = buffer ? 0 : -ENOMEM;
    for (uint32_t i = 0; !rc && (i < k->blocks || n < k->clusters); i++) {
        uint64_t at = i < k->blocks ? k->block[i] : 0;
        bool changed = false;
        if (at && hole(k, at, q->cluster) == q->cluster) /* all are 0 */
            at = 0;
        if (at)
            rc = qcow2_pread(q, buffer, q->cluster, at);
        uint64_t some = at ? per : n < k->clusters ? DP_MIN(per, k->clusters - n) : 0; /* where nothing is stored and nothing counted */
        for (uint64_t j = 0; !rc && j < some; j++, n++) {
            uint64_t counted = n < k->clusters ? k->count[n] : 0, stored = at ? value_at(q, buffer, j) : 0;
            if (compare(k, n, stored, counted)) {
                set_at(q, buffer, j, counted);
                changed = true;
            }
        }
        if (!rc && changed) {
            rc = qcow2_pwrite(q, buffer, q->cluster, at);
            qcow2_drop(q, at);
        }
        n = (i + 1ull) << q->block_bits;
    }
    free(buffer);
    return rc;
}

/* ---- COPIED ---- */

/* Is the flag of an entry right? Gives what it should be. One that is missing costs a copy at the next write, nothing else, and cannot be
 * avoided where refcounts go down before flags are set, and a power cut comes between: it counts as a leak, and belongs to the leak
 * of that cluster if there is one. */
static bool flag_ok(struct check *k, uint64_t entry, uint64_t offset, const char *what, uint64_t *right)
{
    struct dp_image_check *c = k->c;
    uint64_t n = offset >> k->q->cluster_bits;
    *right = entry;
    if (!offset || offset & (k->q->cluster - 1) || n >= k->clusters)
        return true;
    bool one = k->count[n] == 1, mend = c->repair_all || (c->repair_leaks && one), known = one && k->leaked[n / 8] & 1u << (n & 7);
    if (one == !!(entry & QCOW2_COPIED))
        return true;
    *right = entry ^ QCOW2_COPIED;
    if (known)
        return !mend;
    report(k, "%s: %s at 0x%llx has %u reference%s and %s flag for one",
           mend  ? "Repairing"
           : one ? "Leaked"
                 : "ERROR",
           what, (unsigned long long)offset, k->count[n], one ? "" : "s", one ? "no" : "the");
    *(one ? &c->leaks : &c->corruptions) += 1;
    *(one ? &c->leaks_fixed : &c->corruptions_fixed) += mend;
    return !mend;
}

/* changed: some were set right, in the cache. */
static int check_flags(struct check *k, bool *changed)
{
    struct qcow2 *q = k->q;
    int rc = 0;
    for (uint32_t i = 0; !rc && i < q->l1_size; i++) {
        uint64_t table = q->l1[i] & QCOW2_OFFSET, right;
        if (!table || table & (q->cluster - 1) || table >> q->cluster_bits >= k->clusters)
            continue;
        if (!flag_ok(k, q->l1[i], table, "the L2 table", &right)) {
            q->l1[i] = right;
            qcow2_l1_changed(q, i);
            *changed = true;
        }
        if (k->tables[table >> q->cluster_bits]++) /* another entry led here, too */
            continue;
        for (uint64_t at = 0; !rc && at < q->cluster; at += 1ull << q->slice_bits) {
            struct qcow2_slice *s;
            if (hole(k, table + at, 1ull << q->slice_bits) == 1ull << q->slice_bits)
                continue;
            rc = qcow2_slice(q, QCOW2_L2, table + at, &s);
            for (unsigned j = 0; !rc && j < 1u << q->slice_bits; j += qcow2_entry_bytes(q)) {
                uint64_t d = qcow2_be(dp_ld64(s->data + j));
                if (!(d & QCOW2_COMPRESSED) && !flag_ok(k, d, d & QCOW2_OFFSET, "the cluster", &right)) {
                    dp_st64(s->data + j, qcow2_be(right));
                    s->dirty = q->l2_dirty = *changed = true;
                }
            }
        }
    }
    return rc;
}

/* ---- repair ---- */

/* New refcount structures behind the end: table, then blocks, which count themselves and no longer the old ones. */
static int rebuild(struct check *k)
{
    struct qcow2 *q = k->q;
    uint64_t max = max_refcount(q);
    for (uint32_t i = 0; i < k->blocks; i++)
        if (k->block[i])
            k->count[k->block[i] >> q->cluster_bits]--;
    uint64_t old = q->table_offset >> q->cluster_bits;
    for (uint64_t n = old; n < old + q->table_clusters && n < k->clusters; n++)
        k->count[n] -= k->count[n] > 0;
    uint64_t base = k->clusters, blocks = 1, table = 1, all;
    do {
        all = base + table + blocks;
        blocks = ((all - 1) >> q->block_bits) + 1;
        table = DP_ALIGN_UP(blocks * 8, q->cluster) >> q->cluster_bits;
    } while (base + table + blocks > all);
    if (table << q->cluster_bits > QCOW2_TABLE_BYTES_MAX)
        return -EFBIG;
    uint8_t *buffer = malloc(q->cluster), field[12];
    int rc = buffer ? 0 : -ENOMEM;
    for (uint64_t b = 0, n = 0; !rc && b < blocks; b++) {
        memset(buffer, 0, q->cluster);
        for (uint64_t j = 0; j < 1ull << q->block_bits && n < all; j++, n++)
            set_at(q, buffer, j, n >= base ? 1 : DP_MIN(k->count[n], max));
        rc = qcow2_pwrite(q, buffer, q->cluster, (base + table + b) << q->cluster_bits);
    }
    for (uint64_t t = 0, b = 0; !rc && t < table; t++) {
        memset(buffer, 0, q->cluster);
        for (uint64_t j = 0; j < q->cluster / 8 && b < blocks; j++, b++)
            dp_st64(buffer + j * 8, qcow2_be((base + table + b) << q->cluster_bits));
        rc = qcow2_pwrite(q, buffer, q->cluster, (base + t) << q->cluster_bits);
    }
    free(buffer);
    dp_st64(field, qcow2_be(base << q->cluster_bits));
    dp_st32(field + 8, __builtin_bswap32((uint32_t)table));
    if (rc || (rc = dp_image_flush(q->image.file)) || (rc = qcow2_pwrite(q, field, sizeof field, 48)) ||
        (rc = dp_image_flush(q->image.file)))
        return rc;
    q->failed = true; /* what this opening knows of the refcounts is old: nothing more is written by it */
    return 0;
}

/* Clears the marks of a damaged or not properly closed image. */
static int clear_marks(struct qcow2 *q)
{
    uint8_t field[8];
    if (!q->marked_corrupt && !q->marked_dirty)
        return 0;
    int rc = qcow2_pread(q, field, 8, 72);
    field[7] &= ~3u;
    if (!rc && !(rc = qcow2_pwrite(q, field, 8, 72)))
        rc = dp_image_flush(q->image.file);
    if (!rc)
        q->marked_corrupt = q->marked_dirty = false;
    return rc;
}

static int run(struct check *k)
{
    struct qcow2 *q = k->q;
    struct dp_image_check *c = k->c;
    c->clusters = DP_ALIGN_UP(q->image.size, q->cluster) >> q->cluster_bits;
    int rc = count_all(k);
    if (!rc)
        rc = compare_all(k);
    bool flags = false;
    if (!rc)
        rc = check_flags(k, &flags);
    if (rc || (!c->repair_all && !c->repair_leaks))
        return rc;
    if (c->repair_all && k->rebuild) {
        /* First what is in the file must be counted, then it may be said that it is not shared. */
        if ((rc = rebuild(k)))
            return rc;
        q->failed = false;
        q->refcount_dirty = false;
        for (unsigned i = 0; i < QCOW2_SETS * QCOW2_WAYS; i++) /* old refcounts must not be written over anything */
            if (q->slice[i / QCOW2_WAYS][i % QCOW2_WAYS].kind == QCOW2_REFCOUNT)
                q->slice[i / QCOW2_WAYS][i % QCOW2_WAYS].dirty = false;
        rc = flags ? qcow2_commit(q) : 0;
        q->failed = true;
        c->corruptions_fixed = c->corruptions - k->impossible;
        c->leaks_fixed = c->leaks;
        report(k, "The refcounts were written anew");
    } else {
        rc = flags ? qcow2_commit(q) : dp_image_flush(q->image.file);
    }
    if (!rc && c->corruptions_fixed == c->corruptions)
        rc = clear_marks(q);
    return rc;
}

int qcow2_check(struct dp_image *i, struct dp_image_check *c, struct dp_error *e)
{
    struct check k = {.q = (struct qcow2 *)i, .c = c, .weight = 1};
    k.clusters = DP_ALIGN_UP(i->file->size, k.q->cluster) >> k.q->cluster_bits;
    if (k.clusters > COUNTS_MAX)
        return dp_error_set(e, -EFBIG, "disk %s is too large a file to be checked (%llu clusters)", i->name,
                            (unsigned long long)k.clusters);
    int rc = i->readonly ? 0 : qcow2_commit(k.q);
    if (!rc && (!(k.count = calloc(k.clusters + 1, sizeof *k.count)) || !(k.tables = calloc(k.clusters + 1, sizeof *k.tables)) ||
                !(k.leaked = calloc(k.clusters / 8 + 1, 1))))
        rc = -ENOMEM;
    if (!rc)
        rc = run(&k);
    free(k.count);
    free(k.leaked);
    free(k.tables);
    free(k.snapshot);
    free(k.block);
    c->corruptions -= c->corruptions_fixed;
    c->leaks -= c->leaks_fixed;
    return rc ? dp_error_set(e, rc, "disk %s cannot be checked: %s", i->name, strerror(-rc)) : 0;
}
