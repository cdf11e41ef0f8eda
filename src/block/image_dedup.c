/* image_dedup.c - pieces of a disk that hold the same are stored once. Model: image_ops.h.
 *
 * Each piece that has data (a cluster; of a raw file 64 KiB) is read and hashed; a piece of the same hash that was met before is read again
 * and compared byte by byte, then the format lets both be one (`share`), or the file system does. The table of hashes is bounded: when it
 * is full, pieces are still compared with those that are in it. The hash needs no strength: who makes others collide finds them unequal,
 * and only the first of them in the table.
 */
#include <stdlib.h>

#include "block/image_ops.h"

enum { RAW_PART = 64 << 10, SLOTS_MIN = 1 << 12 };

struct slot {
    uint64_t hash, place; /* place: number of the piece, plus 1; 0: empty */
};
struct table {
    struct slot *slot;
    uint64_t slots, used, limit; /* slots: a power of 2; limit: most slots */
};

static uint64_t hash(const uint8_t *data, uint64_t size)
{
    uint64_t h = size * 0x9e3779b97f4a7c15ull;
    uint64_t n = 0;
    for (; n + 8 <= size; n += 8) {
        h = (h ^ dp_ld64(data + n)) * 0xff51afd7ed558ccdull;
        h ^= h >> 32;
    }
    for (; n < size; n++)
        h = (h ^ data[n]) * 0xff51afd7ed558ccdull;
    return h ^ h >> 29;
}

static struct slot *find(struct slot *slot, uint64_t slots, uint64_t h)
{
    uint64_t at = h & (slots - 1);
    while (slot[at].place && slot[at].hash != h)
        at = (at + 1) & (slots - 1);
    return &slot[at];
}

/* Where h is, or goes; NULL: it is not there and the table is full. */
static struct slot *lookup(struct table *t, uint64_t h)
{
    struct slot *s = find(t->slot, t->slots, h);
    if (s->place || t->used < t->slots / 4 * 3)
        return s;
    struct slot *more = t->slots * 2 <= t->limit ? calloc(t->slots * 2, sizeof *more) : NULL;
    if (!more)
        return NULL;
    for (uint64_t i = 0; i < t->slots; i++)
        if (t->slot[i].place)
            *find(more, t->slots * 2, t->slot[i].hash) = t->slot[i];
    free(t->slot);
    t->slot = more;
    t->slots *= 2;
    return find(more, t->slots, h);
}

static int fail(const struct dp_image *i, const char *what, uint64_t at, int rc, struct dp_error *e)
{
    return dp_error_set(e, rc, "%s cannot be %s at offset %llu: %s", i->name, what, (unsigned long long)at, strerror(-rc));
}

static int one_piece(struct dp_image *i, struct table *t, const uint8_t *data, uint8_t *other, uint64_t part, uint64_t offset,
                     uint64_t *shared, struct dp_error *e)
{
    uint64_t h = hash(data, part);
    struct slot *s = lookup(t, h);
    if (!s)
        return 0;
    if (!s->place) {
        *s = (struct slot){h, offset / part + 1};
        t->used++;
        return 0;
    }
    uint64_t before = (s->place - 1) * part;
    int rc = dp_image_pread(i, other, part, before);
    if (rc)
        return fail(i, "read", before, rc, e);
    if (memcmp(data, other, part))
        return 0;
    rc = i->format->share(i, before, offset);
    if (rc < 0)
        return rc == -EOPNOTSUPP ? dp_error_set(e, rc, "%s: its file system cannot share blocks (XFS and btrfs can)", i->name)
                                 : fail(i, "changed", offset, rc, e);
    if (!rc)
        *shared += part;
    else
        s->place = offset / part + 1; /* perhaps the next can be one with this */
    return 0;
}

int dp_image_dedup(struct dp_image *i, uint64_t memory, const struct dp_image_job *job, uint64_t *shared, struct dp_error *e)
{
    static const struct dp_image_job none;
    uint64_t part = i->format->cluster_size ? i->format->cluster_size(i) : RAW_PART, size = DP_MAX(part, (uint64_t)DP_IMAGE_PIECE);
    job = job ? job : &none;
    *shared = 0;
    if (!i->format->share || !i->format->extent)
        return dp_error_set(e, -ENOTSUP, "%s images cannot store equal pieces once; qcow2 ones can, raw ones on XFS and btrfs",
                            i->format->name);
    if (!part || size > 64u << 20)
        return dp_error_set(e, -ENOTSUP, "%s has clusters of %llu bytes: too large to be looked at", i->name, (unsigned long long)part);
    struct table t = {.slots = SLOTS_MIN, .limit = memory ? memory / sizeof(struct slot) : DP_DEDUP_MEMORY / sizeof(struct slot)};
    uint8_t *data = aligned_alloc(4096, size + DP_ALIGN_UP(part, (uint64_t)4096));
    t.slot = calloc(t.slots, sizeof *t.slot);
    int rc = data && t.slot ? 0 : dp_error_set(e, -ENOMEM, "out of memory");
    for (uint64_t o = 0, n = 0; !rc && o < i->size; o += n) {
        struct dp_extent x;
        rc = dp_image_extent(i, o, i->size - o, &x);
        if (!rc && !x.size)
            rc = -EIO;
        if (rc) {
            rc = fail(i, "read", o, rc, e);
            break;
        }
        n = x.size;
        if (x.kind == DP_EXTENT_DATA) {
            /* Whole pieces only: to the next one's beginning, or as many as are in a row. */
            uint64_t skip = (part - o % part) % part;
            n = skip ? DP_MIN(n, skip) : n < part ? n : DP_MIN(n / part * part, size / part * part);
            if (!skip && n >= part && (rc = dp_image_pread(i, data, n, o)))
                rc = fail(i, "read", o, rc, e);
            for (uint64_t at = 0; !rc && !skip && at + part <= n; at += part)
                rc = one_piece(i, &t, data + at, data + size, part, o + at, shared, e);
        }
        if (!rc && job->stop && atomic_load(job->stop))
            rc = dp_error_set(e, -EINTR, "interrupted");
        if (job->progress)
            job->progress(job->opaque, o + n, i->size);
    }
    free(t.slot);
    free(data);
    for (unsigned n = 0; (!rc || rc == -EINTR) && n < 2; n++) { /* the second writes what became free by the first */
        int flushed = dp_image_flush(i);
        if (flushed)
            rc = dp_error_set(e, flushed, "%s cannot be written: %s", i->name, strerror(-flushed));
    }
    return rc;
}
