/* image_ops.c - whole images compared, merged, detached from what is below, compacted, mapped, measured. Model: image_ops.h.
 *
 * Source of what measure says: QEMU, docs/interop/qcow2.txt: header, refcount table and blocks, L1 and L2 tables.
 */
#include <stdlib.h>

#include "block/file.h"
#include "block/image_ops.h"

static const struct dp_image_job no_job;

static bool stopped(const struct dp_image_job *job) { return job->stop && atomic_load(job->stop); }
static void tell(const struct dp_image_job *job, uint64_t done, uint64_t all)
{
    if (job->progress)
        job->progress(job->opaque, done, all);
}

static int interrupted(struct dp_error *e) { return dp_error_set(e, -EINTR, "interrupted"); }
static int cannot(const struct dp_image *i, const char *what, uint64_t at, int rc, struct dp_error *e)
{
    return dp_error_set(e, rc, "%s cannot be %s at offset %llu: %s", i->name, what, (unsigned long long)at, strerror(-rc));
}

static bool holds(const struct dp_extent *x) { return x->kind == DP_EXTENT_DATA || x->kind == DP_EXTENT_PACKED; }

/* As dp_image_extent_all, but a piece of no bytes is an error: no operation stands still. */
static int extent(struct dp_image *i, uint64_t offset, uint64_t size, bool all, struct dp_extent *x)
{
    int rc = all ? dp_image_extent_all(i, offset, size, x) : dp_image_extent(i, offset, size, x);
    return rc ? rc : x->size ? 0 : -EIO;
}

/* ---- compare ---- */

static uint64_t first_difference(const uint8_t *a, const uint8_t *b, uint64_t size)
{
    uint64_t n = 0;
    while (n < size && a[n] == b[n])
        n++;
    return n;
}

/* What only the longer disk has must be zeros. */
static int compare_rest(struct dp_image *i, uint64_t offset, uint8_t *data, const struct dp_image_job *job, enum dp_image_difference *d,
                        uint64_t *at, struct dp_error *e)
{
    while (offset < i->size) {
        struct dp_extent x;
        int rc = extent(i, offset, i->size - offset, true, &x);
        uint64_t n = holds(&x) ? DP_MIN(x.size, (uint64_t)DP_IMAGE_PIECE) : x.size;
        if (!rc && holds(&x))
            rc = dp_image_pread(i, data, n, offset);
        if (rc)
            return cannot(i, "read", offset, rc, e);
        if (stopped(job))
            return interrupted(e);
        if (holds(&x) && !dp_is_zero(data, n)) {
            uint64_t k = 0;
            while (!data[k])
                k++;
            *d = DP_IMAGE_OTHER_BYTES;
            *at = offset + k;
            return 0;
        }
        offset += n;
        tell(job, offset, i->size);
    }
    return 0;
}

static int compare_common(struct dp_image *a, struct dp_image *b, bool strict, uint8_t *pa, uint8_t *pb, const struct dp_image_job *job,
                          enum dp_image_difference *d, uint64_t *at, struct dp_error *e)
{
    uint64_t common = DP_MIN(a->size, b->size), all = DP_MAX(a->size, b->size);
    for (uint64_t o = 0; o < common;) {
        struct dp_extent x, y;
        int rc = extent(a, o, common - o, true, &x);
        if (rc)
            return cannot(a, "read", o, rc, e);
        if ((rc = extent(b, o, x.size, true, &y)))
            return cannot(b, "read", o, rc, e);
        if (stopped(job))
            return interrupted(e);
        uint64_t n = DP_MIN(x.size, y.size);
        if (strict && x.kind != y.kind) {
            *d = DP_IMAGE_OTHER_KIND;
            *at = o;
            return 0;
        }
        if (holds(&x) || holds(&y)) {
            n = DP_MIN(n, (uint64_t)DP_IMAGE_PIECE);
            if ((rc = dp_image_pread(a, pa, n, o)))
                return cannot(a, "read", o, rc, e);
            if ((rc = dp_image_pread(b, pb, n, o)))
                return cannot(b, "read", o, rc, e);
            if (memcmp(pa, pb, n)) {
                *d = DP_IMAGE_OTHER_BYTES;
                *at = o + first_difference(pa, pb, n);
                return 0;
            }
        }
        o += n;
        tell(job, o, all);
    }
    return 0;
}

int dp_image_compare(struct dp_image *a, struct dp_image *b, bool strict, const struct dp_image_job *job, enum dp_image_difference *d,
                     uint64_t *at, struct dp_error *e)
{
    job = job ? job : &no_job;
    *d = DP_IMAGE_SAME;
    *at = 0;
    if (strict && a->size != b->size) {
        *d = DP_IMAGE_OTHER_SIZE;
        return 0;
    }
    uint8_t *data = aligned_alloc(4096, 2 * DP_IMAGE_PIECE);
    if (!data)
        return dp_error_set(e, -ENOMEM, "out of memory");
    int rc = compare_common(a, b, strict, data, data + DP_IMAGE_PIECE, job, d, at, e);
    if (!rc && *d == DP_IMAGE_SAME && a->size != b->size)
        rc = compare_rest(a->size > b->size ? a : b, DP_MIN(a->size, b->size), data, job, d, at, e);
    free(data);
    return rc;
}

/* ---- merge and detach ---- */

static int flush(struct dp_image *i, struct dp_error *e)
{
    int rc = dp_image_flush(i);
    return rc ? dp_error_set(e, rc, "%s cannot be written: %s", i->name, strerror(-rc)) : 0;
}

static int merge_piece(struct dp_image *top, struct dp_image *base, uint8_t *data, uint64_t o, uint64_t *size, struct dp_error *e)
{
    struct dp_extent x;
    int rc = extent(top, o, top->size - o, false, &x);
    *size = x.size;
    if (!rc && holds(&x)) {
        *size = DP_MIN(x.size, (uint64_t)DP_IMAGE_PIECE);
        rc = dp_image_pread(top, data, *size, o);
    }
    if (rc)
        return cannot(top, "read", o, rc, e);
    if (holds(&x))
        rc = dp_image_pwrite(base, data, *size, o);
    else if (x.kind == DP_EXTENT_ZEROS)
        rc = dp_image_zero(base, o, *size, DP_ZERO_UNMAP);
    return rc ? cannot(base, "written", o, rc, e) : 0;
}

int dp_image_merge(struct dp_image *top, struct dp_image *base, const struct dp_image_job *job, struct dp_error *e)
{
    job = job ? job : &no_job;
    int rc = 0;
    if (base->size < top->size)
        rc = base->format->resize ? base->format->resize(base, top->size, e)
                                  : dp_error_set(e, -ENOTSUP, "%s is smaller than %s, and %s images cannot grow here", base->name,
                                                 top->name, base->format->name);
    uint8_t *data = rc ? NULL : aligned_alloc(4096, DP_IMAGE_PIECE);
    if (!rc && !data)
        rc = dp_error_set(e, -ENOMEM, "out of memory");
    for (uint64_t o = 0, n = 0; !rc && o < top->size; o += n) {
        rc = stopped(job) ? interrupted(e) : merge_piece(top, base, data, o, &n, e);
        if (!rc)
            tell(job, o + n, top->size);
    }
    free(data);
    return rc ? rc : flush(base, e);
}

/* One piece that top takes from old: kept where below differs. Compared and written in parts of a cluster, at most 64 KiB. */
static int keep_differences(struct dp_image *top, struct dp_image *old, struct dp_image *below, uint8_t *data, uint64_t o, uint64_t size,
                            struct dp_error *e)
{
    uint8_t *a = data, *b = data + DP_IMAGE_PIECE;
    uint32_t cluster = top->format->cluster_size ? top->format->cluster_size(top) : 0;
    uint64_t part = cluster ? DP_MIN(cluster, 65536u) : 65536, run = 0, n = 0;
    int rc = 0;
    memset(a, 0, size);
    memset(b, 0, size);
    if (old && (rc = dp_image_pread(old, a, size, o)))
        return cannot(old, "read", o, rc, e);
    if (below && (rc = dp_image_pread(below, b, size, o)))
        return cannot(below, "read", o, rc, e);
    while (n < size) {
        uint64_t step = DP_MIN(part - (o + n) % part, size - n);
        bool same = !memcmp(a + n, b + n, step);
        if (!same)
            run += step, n += step;
        if (run && (same || n == size)) {
            uint64_t at = n - run;
            rc = dp_is_zero(a + at, run) ? dp_image_zero(top, o + at, run, 0) : dp_image_pwrite(top, a + at, run, o + at);
            if (rc)
                return cannot(top, "written", o + at, rc, e);
            run = 0;
        }
        if (same)
            n += step;
    }
    return 0;
}

int dp_image_detach(struct dp_image *top, struct dp_image *below, const struct dp_image_job *job, struct dp_error *e)
{
    job = job ? job : &no_job;
    uint8_t *data = aligned_alloc(4096, 2 * DP_IMAGE_PIECE);
    int rc = data ? 0 : dp_error_set(e, -ENOMEM, "out of memory");
    for (uint64_t o = 0, n = 0; !rc && o < top->size; o += n) {
        struct dp_extent x, y = {.size = top->size - o}, z = y;
        if ((rc = extent(top, o, top->size - o, false, &x))) {
            rc = cannot(top, "read", o, rc, e);
            break;
        }
        n = x.size;
        if (x.kind == DP_EXTENT_UNALLOCATED) {
            /* Where both have nothing there is nothing to read. */
            if ((top->backing && extent(top->backing, o, n, true, &y)) || (below && extent(below, o, n, true, &z)))
                rc = dp_error_set(e, -EIO, "the backing images of %s cannot be read", top->name);
            bool data_there = (top->backing && holds(&y)) || (below && holds(&z));
            n = DP_MIN(n, DP_MIN(y.size, z.size));
            if (data_there)
                n = DP_MIN(n, (uint64_t)DP_IMAGE_PIECE);
            if (!rc && data_there)
                rc = keep_differences(top, top->backing, below, data, o, n, e);
        }
        if (!rc && stopped(job))
            rc = interrupted(e);
        tell(job, o + n, top->size);
    }
    free(data);
    return rc ? rc : flush(top, e);
}

/* ---- compact ---- */

static int compact_piece(struct dp_image *i, const uint8_t *data, uint64_t o, uint64_t size, uint64_t part, uint64_t *freed)
{
    int rc = 0;
    for (uint64_t n = 0; !rc && n < size;) {
        uint64_t end = n;
        while (end < size) {
            uint64_t step = DP_MIN(part - (o + end) % part, size - end);
            /* Part of a cluster at an edge of what has data is no cluster. */
            bool whole = (o + end) % part == 0 && (step == part || o + end + step == i->size);
            if (!whole || !dp_is_zero(data + end, step))
                break;
            end += step;
        }
        if (end > n) {
            rc = dp_image_zero(i, o + n, end - n, DP_ZERO_UNMAP);
            *freed += end - n;
        }
        n = end;
        if (n < size)
            n += DP_MIN(part - (o + n) % part, size - n);
    }
    return rc;
}

int dp_image_compact(struct dp_image *i, const struct dp_image_job *job, uint64_t *freed, struct dp_error *e)
{
    job = job ? job : &no_job;
    *freed = 0;
    if (!i->format->zero || !i->format->extent)
        return dp_error_set(e, -ENOTSUP, "%s images cannot be compacted in place; convert makes a compact copy", i->format->name);
    uint32_t cluster = i->format->cluster_size ? i->format->cluster_size(i) : 0;
    uint64_t part = cluster ? cluster : 4096, piece = DP_MAX(part, (uint64_t)DP_IMAGE_PIECE);
    if (piece > 64u << 20)
        return dp_error_set(e, -ENOTSUP, "%s has clusters of %llu bytes: too large to be looked at", i->name, (unsigned long long)part);
    uint8_t *data = aligned_alloc(4096, piece);
    int rc = data ? 0 : dp_error_set(e, -ENOMEM, "out of memory");
    for (uint64_t o = 0, n = 0; !rc && o < i->size; o += n) {
        struct dp_extent x;
        if ((rc = extent(i, o, i->size - o, false, &x))) {
            rc = cannot(i, "read", o, rc, e);
            break;
        }
        n = x.size;
        if (x.kind == DP_EXTENT_DATA) {
            n = DP_MIN(n, piece - o % piece);
            if ((rc = dp_image_pread(i, data, n, o)))
                rc = cannot(i, "read", o, rc, e);
            else if ((rc = compact_piece(i, data, o, n, part, freed)))
                rc = cannot(i, "written", o, rc, e);
        }
        if (!rc && stopped(job))
            rc = interrupted(e);
        tell(job, o + n, i->size);
    }
    free(data);
    for (unsigned n = 0; !rc && n < 2; n++) /* the second writes what became free by the first */
        rc = flush(i, e);
    return rc;
}

/* ---- map and measure ---- */

int dp_image_map(struct dp_image *i, uint64_t offset, struct dp_extent *x, const struct dp_image **owner)
{
    int rc = extent(i, offset, i->size - offset, true, x);
    while (!rc && offset + x->size < i->size) {
        struct dp_extent next;
        rc = extent(i, offset + x->size, i->size - offset - x->size, true, &next);
        bool more = !rc && next.kind == x->kind && next.depth == x->depth && next.has_offset == x->has_offset &&
                    (!x->has_offset || next.offset == x->offset + x->size);
        if (!more)
            break;
        x->size += next.size;
    }
    const struct dp_image *at = i;
    for (unsigned n = 0; n < x->depth && at->backing; n++)
        at = at->backing;
    *owner = at;
    return rc;
}

/* Clusters that refcounts of `clusters` clusters and of themselves take: table and blocks, refcounts of 16 bits. */
static uint64_t refcount_clusters(uint64_t clusters, uint64_t cluster)
{
    uint64_t per_block = cluster / 2, blocks = 0, table = 0, last;
    do {
        last = blocks + table;
        blocks = (clusters + last + per_block - 1) / per_block;
        table = (blocks * 8 + cluster - 1) / cluster;
    } while (blocks + table != last);
    return blocks + table;
}

static uint64_t qcow2_bytes(uint64_t data, uint64_t disk, uint64_t cluster)
{
    uint64_t l2 = (disk / cluster + (disk % cluster != 0) + cluster / 8 - 1) / (cluster / 8);
    uint64_t l1 = (l2 * 8 + cluster - 1) / cluster;
    uint64_t clusters = 1 + l1 + l2 + data;
    return (clusters + refcount_clusters(clusters, cluster)) * cluster;
}

int dp_image_measure(struct dp_image *from, uint64_t size, const char *format, uint32_t cluster_size, uint64_t *required, uint64_t *full,
                     struct dp_error *e)
{
    bool raw = !strcmp(format, "raw");
    uint64_t cluster = cluster_size ? cluster_size : 65536, data = 0, last = UINT64_MAX;
    size = from ? DP_ALIGN_UP(from->size, (uint64_t)512) : size;
    if (!raw && strcmp(format, "qcow2"))
        return dp_error_set(e, -ENOTSUP, "how large %s images get is not known here; raw and qcow2 are", format);
    if (cluster < 512 || cluster > 2 << 20 || cluster & (cluster - 1) || size > (uint64_t)INT64_MAX)
        return dp_error_set(e, -EINVAL, "clusters are a power of 2 from 512 to 2M, disks at most 8 EiB");
    for (uint64_t o = 0, n = 0; from && !raw && o < from->size; o += n) {
        struct dp_extent x;
        int rc = extent(from, o, from->size - o, true, &x);
        if (rc)
            return cannot(from, "read", o, rc, e);
        n = x.size;
        if (!holds(&x))
            continue;
        uint64_t first = o / cluster, end = (o + n - 1) / cluster;
        data += end - first + (first != last);
        last = end;
    }
    uint64_t clusters = size / cluster + (size % cluster != 0);
    *full = raw ? size : qcow2_bytes(clusters, size, cluster);
    *required = raw ? size : *full - (clusters - data) * cluster; /* tables of a full disk: what qemu-img says, too */
    return 0;
}
