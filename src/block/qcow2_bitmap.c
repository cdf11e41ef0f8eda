/* qcow2_bitmap.c - persistent dirty bitmaps: which parts of the disk were written while a bitmap was enabled.
 *
 * Model: the directory is read when the image is opened; the bits of a bitmap when they are first needed. An enabled one (flag `auto`) is
 * marked in_use in the file, durably, before the first write that it records in memory; the mark goes away when its bits are stored: when
 * the image is closed, or something about bitmaps changes. After an unclean end the mark is there: the bitmap is inconsistent, for QEMU as
 * for doppel, and can only be removed. So is one that cannot be understood (its flags, its size): it is kept as it is, and marked if it
 * should have recorded. Storing writes bits, tables and the directory to new places, commits, switches the header to them, and gives the
 * old ones back; a crash leaks at worst, or (while the header is switched) loses the bitmaps, never has wrong ones count.
 * Bounds: BITMAPS_MAX, DIRECTORY_MAX, BITS_MAX bytes of bits in memory. Source: QEMU's docs/interop/qcow2.txt, "Bitmaps".
 */
#include <json.h>
#include <stdlib.h>

#include "block/qcow2.h"

enum { HEAD = 24, IN_USE = 1, AUTO = 2, COMPATIBLE = 4, TYPE_DIRTY = 1, GRANULARITY_MIN = 9, GRANULARITY_MAX = 31 };
enum { BITMAPS_MAX = 65535, DIRECTORY_MAX = 4 << 20, BITS_MAX = 256 << 20, EXTRA_MAX = 4096 };

struct qcow2_bitmap {
    char *name;
    uint64_t at; /* of its entry, in the file; 0: it has none yet */
    uint64_t table_offset;
    uint32_t table_size, flags;        /* as in the file */
    uint64_t new_at, new_table_offset; /* while it is stored */
    uint32_t new_table_size;
    uint8_t type, granularity_bits;
    uint8_t *extra;
    uint32_t extra_size;
    bool bad;       /* inconsistent, or not to be understood: stays as it is */
    bool marked;    /* in_use in the file, by this opening */
    bool changed;   /* bits are others than in the file */
    uint8_t *bits;  /* NULL: not loaded */
    uint64_t room;  /* bytes of bits: whole clusters */
    uint64_t count; /* of bits */
};

static uint32_t be32(const uint8_t *p) { return __builtin_bswap32(dp_ld32(p)); }
static uint64_t be64(const uint8_t *p) { return qcow2_be(dp_ld64(p)); }
static void st32(uint8_t *p, uint32_t v) { dp_st32(p, __builtin_bswap32(v)); }
static void st64(uint8_t *p, uint64_t v) { dp_st64(p, qcow2_be(v)); }

static uint64_t bits_needed(const struct qcow2_bitmap *b, uint64_t size) { return size ? ((size - 1) >> b->granularity_bits) + 1 : 0; }
static uint64_t clusters_needed(const struct qcow2 *q, uint64_t bits) { return bits ? (((bits - 1) >> 3) >> q->cluster_bits) + 1 : 0; }

/* ---- the directory ---- */

static bool usable(const struct qcow2 *q, const struct qcow2_bitmap *b)
{
    return !(b->flags & (IN_USE | ~(uint32_t)(AUTO | COMPATIBLE))) && (!b->extra_size || b->flags & COMPATIBLE) && b->type == TYPE_DIRTY &&
           b->granularity_bits >= GRANULARITY_MIN && b->granularity_bits <= GRANULARITY_MAX && b->table_offset &&
           b->table_size == clusters_needed(q, bits_needed(b, q->image.size));
}

/* One entry at p, which has left bytes; its size, 0: it cannot be. */
static uint64_t parse_entry(struct qcow2 *q, const uint8_t *p, uint64_t left, struct qcow2_bitmap *b)
{
    if (left < HEAD)
        return 0;
    uint64_t name = p[18] << 8 | p[19], extra = be32(p + 20), all = DP_ALIGN_UP(HEAD + extra + name, 8);
    if (!name || name > DP_IMAGE_NAME_MAX || extra > EXTRA_MAX || all > left)
        return 0;
    *b = (struct qcow2_bitmap){.table_offset = be64(p),
                               .table_size = be32(p + 8),
                               .flags = be32(p + 12),
                               .type = p[16],
                               .granularity_bits = p[17],
                               .extra_size = extra};
    b->name = strndup((const char *)p + HEAD + extra, name);
    if (!b->name || !*b->name || (extra && !(b->extra = malloc(extra)))) {
        free(b->name);
        return 0;
    }
    if (extra)
        memcpy(b->extra, p + HEAD, extra);
    if (b->table_offset & (q->cluster - 1) || b->table_offset >= q->file_end)
        b->table_offset = 0;
    b->bad = !usable(q, b);
    return all;
}

static void forget_all(struct qcow2 *q)
{
    for (uint32_t n = 0; n < q->bitmaps; n++) {
        free(q->bitmap[n].name);
        free(q->bitmap[n].bits);
        free(q->bitmap[n].extra);
    }
    free(q->bitmap);
    q->bitmap = NULL;
    q->bitmaps = 0;
}

int qcow2_bitmaps_open(struct qcow2 *q, uint32_t count, uint64_t offset, uint64_t size)
{
    if (!count || count > BITMAPS_MAX || size > DIRECTORY_MAX || size < (uint64_t)count * HEAD || offset & (q->cluster - 1) || !offset ||
        offset >= q->file_end || size > q->file_end - offset)
        return -EINVAL;
    uint8_t *d = malloc(size);
    int rc = d ? qcow2_pread(q, d, size, offset) : -ENOMEM;
    q->directory = offset;
    q->directory_size = size;
    for (uint64_t at = 0, n; !rc && q->bitmaps < count; at += n) {
        if (!(q->bitmaps & (q->bitmaps - 1))) { /* as many as there are, not as the header says */
            struct qcow2_bitmap *more = realloc(q->bitmap, DP_MAX(2 * q->bitmaps, 1u) * sizeof *more);
            if (!more) {
                rc = -ENOMEM;
                break;
            }
            q->bitmap = more;
        }
        if (!(n = parse_entry(q, d + at, size - at, &q->bitmap[q->bitmaps]))) {
            rc = -EINVAL;
            break;
        }
        q->bitmap[q->bitmaps++].at = offset + at;
    }
    free(d);
    if (rc) {
        forget_all(q);
        q->directory = 0;
    }
    return rc;
}

/* ---- bits ---- */

/* Bits from first to last. */
static void set_bits(struct qcow2_bitmap *b, uint64_t first, uint64_t last, bool value)
{
    uint8_t head = (uint8_t)(0xff << (first & 7)), tail = (uint8_t)(0xff >> (7 - (last & 7)));
    uint64_t from = first >> 3, to = last >> 3;
    if (from == to)
        head &= tail;
    b->bits[from] = value ? b->bits[from] | head : b->bits[from] & ~head;
    if (from == to)
        return;
    memset(b->bits + from + 1, value ? 0xff : 0, to - from - 1);
    b->bits[to] = value ? b->bits[to] | tail : b->bits[to] & ~tail;
}

static void change(struct qcow2_bitmap *b, uint64_t offset, uint64_t size, bool value)
{
    if (!b->count || !size || offset >> b->granularity_bits >= b->count)
        return;
    set_bits(b, offset >> b->granularity_bits, DP_MIN((offset + size - 1) >> b->granularity_bits, b->count - 1), value);
    b->changed = true;
}

/* The table of b as it is in the file. */
static int read_table(struct qcow2 *q, const struct qcow2_bitmap *b, uint64_t **out)
{
    uint64_t bytes = b->table_size * 8ull;
    *out = NULL;
    if (!b->table_offset || b->table_offset & (q->cluster - 1) || bytes > (uint64_t)BITS_MAX >> 6 || b->table_offset > q->file_end ||
        bytes > q->file_end - b->table_offset)
        return b->table_size ? -EINVAL : 0;
    if (!(*out = malloc(DP_MAX(bytes, 8))))
        return -ENOMEM;
    int rc = qcow2_pread(q, *out, bytes, b->table_offset);
    for (uint32_t i = 0; !rc && i < b->table_size; i++)
        (*out)[i] = qcow2_be((*out)[i]);
    return rc;
}

static bool cluster_ok(const struct qcow2 *q, uint64_t at) { return at >= q->cluster && !(at & (q->cluster - 1)) && at < q->file_end; }

/* Memory for the bits of a disk of size bytes, zeros. */
static int make_bits(struct qcow2 *q, struct qcow2_bitmap *b, uint64_t size)
{
    uint64_t count = bits_needed(b, size), room = clusters_needed(q, count) << q->cluster_bits, all = room;
    for (uint32_t n = 0; n < q->bitmaps; n++)
        all += q->bitmap[n].bits && &q->bitmap[n] != b ? q->bitmap[n].room : 0;
    if (all > (uint64_t)BITS_MAX)
        return -EFBIG;
    uint8_t *bits = calloc(1, DP_MAX(room, 1));
    if (!bits)
        return -ENOMEM;
    if (b->bits)
        memcpy(bits, b->bits, DP_MIN(room, b->room));
    free(b->bits);
    b->bits = bits;
    b->room = room;
    b->count = count;
    if (count & 7) /* what is behind the end is zeros */
        bits[count >> 3] &= (uint8_t)((1u << (count & 7)) - 1);
    if (room > (count + 7) >> 3)
        memset(bits + ((count + 7) >> 3), 0, room - ((count + 7) >> 3));
    return 0;
}

static int load(struct qcow2 *q, struct qcow2_bitmap *b)
{
    uint64_t *table;
    if (b->bits)
        return 0;
    int rc = read_table(q, b, &table);
    if (!rc)
        rc = make_bits(q, b, q->image.size);
    for (uint32_t i = 0; !rc && i < b->table_size; i++) {
        uint8_t *to = b->bits + ((uint64_t)i << q->cluster_bits);
        if (table[i] & ~1ull & ~QCOW2_OFFSET || (table[i] & QCOW2_OFFSET && (table[i] & 1 || !cluster_ok(q, table[i]))))
            rc = qcow2_corrupt(q, "an entry of a bitmap's table cannot be", table[i]);
        else if (table[i] & QCOW2_OFFSET)
            rc = qcow2_pread(q, to, q->cluster, table[i]);
        else if (table[i])
            memset(to, 0xff, q->cluster);
    }
    free(table);
    if (rc) {
        free(b->bits);
        b->bits = NULL;
        b->room = b->count = 0;
        return rc;
    }
    return make_bits(q, b, q->image.size); /* nothing is behind the end */
}

/* ---- recording ---- */

/* in_use into the file, for those of which what says so; durable at the return. */
static int mark(struct qcow2 *q, bool all)
{
    bool any = false;
    int rc = 0;
    for (uint32_t n = 0; !rc && n < q->bitmaps; n++) {
        struct qcow2_bitmap *b = &q->bitmap[n];
        uint8_t field[4];
        if (b->marked || !(all || b->flags & AUTO))
            continue;
        if (!b->bad && (load(q, b) || !b->bits)) {
            b->bad = true;
            if (q->image.trace)
                dp_trace_emit(q->image.trace, DP_TRACE_BLOCK,
                              "disk %s: bitmap '%.100s' cannot be read or is too large: it is inconsistent from now on", q->image.name,
                              b->name);
        }
        b->marked = true;
        if (b->flags & IN_USE)
            continue;
        b->flags |= IN_USE;
        st32(field, b->flags);
        if (b->at && !(rc = qcow2_pwrite(q, field, 4, b->at + 12)))
            any = true;
        if (rc) {
            b->marked = false;
            b->flags &= ~(uint32_t)IN_USE;
        }
    }
    if (!rc && any && (rc = dp_image_flush(q->image.file)))
        q->failed = true;
    return rc;
}

int qcow2_bitmaps_record(struct qcow2 *q, uint64_t offset, uint64_t size)
{
    int rc = q->bitmaps ? mark(q, false) : 0;
    for (uint32_t n = 0; !rc && n < q->bitmaps; n++)
        if (q->bitmap[n].bits && q->bitmap[n].flags & AUTO && !q->bitmap[n].bad)
            change(&q->bitmap[n], offset, size, true);
    return rc;
}

/* ---- storing ---- */

/* Clusters in the file that are given back after the header has been switched. */
struct old {
    uint64_t *at;
    uint64_t count, room;
};

static int add_old(struct old *o, uint64_t at)
{
    if (o->count == o->room) {
        uint64_t *more = realloc(o->at, (o->room = DP_MAX(2 * o->room, (uint64_t)64)) * sizeof *more);
        if (!more)
            return -ENOMEM;
        o->at = more;
    }
    o->at[o->count++] = at;
    return 0;
}

static int add_old_row(struct qcow2 *q, struct old *o, uint64_t at, uint64_t bytes)
{
    int rc = 0;
    for (uint64_t n = 0; !rc && at && n < bytes; n += q->cluster)
        rc = add_old(o, at + n);
    return rc;
}

/* What b has in the file. What cannot be read or cannot be leaks. */
static int add_old_bitmap(struct qcow2 *q, struct old *o, const struct qcow2_bitmap *b)
{
    uint64_t *table;
    int rc = 0;
    if (!b->at || read_table(q, b, &table))
        return 0;
    for (uint32_t i = 0; !rc && table && i < b->table_size; i++)
        if (cluster_ok(q, table[i] & QCOW2_OFFSET))
            rc = add_old(o, table[i] & QCOW2_OFFSET);
    free(table);
    return rc ? rc : add_old_row(q, o, b->table_offset, b->table_size * 8ull);
}

/* Clusters in a row, where there is room for one, else behind the end. */
static int alloc_row(struct qcow2 *q, uint64_t bytes, uint64_t *at)
{
    uint64_t clusters = DP_MAX(DP_ALIGN_UP(bytes, q->cluster) >> q->cluster_bits, 1), got;
    int rc = clusters == 1 ? qcow2_alloc(q, 1, at, &got) : qcow2_alloc_row(q, clusters, at);
    for (uint64_t n = 0; !rc && n < clusters; n++)
        qcow2_drop(q, *at + (n << q->cluster_bits));
    return rc;
}

/* Bits and table to new places. */
static int store_bits(struct qcow2 *q, struct qcow2_bitmap *b)
{
    uint64_t size = clusters_needed(q, b->count), at = 0;
    uint64_t *table = calloc(DP_MAX(size, 1), 8);
    int rc = table ? 0 : -ENOMEM;
    for (uint64_t i = 0; !rc && i < size; i++) {
        const uint8_t *p = b->bits + (i << q->cluster_bits);
        bool same = !memcmp(p, p + 1, q->cluster - 1);
        if (same && (!*p || *p == 0xff)) {
            table[i] = qcow2_be(*p & 1);
        } else if (!(rc = alloc_row(q, q->cluster, &at))) {
            rc = qcow2_pwrite(q, p, q->cluster, at);
            table[i] = qcow2_be(at);
        }
    }
    if (!rc && !(rc = alloc_row(q, size * 8, &at)))
        rc = qcow2_pwrite(q, table, size * 8, at);
    free(table);
    b->new_table_offset = at;
    b->new_table_size = (uint32_t)size;
    return rc;
}

static uint64_t entry_bytes(const struct qcow2_bitmap *b) { return DP_ALIGN_UP(HEAD + b->extra_size + strlen(b->name), 8); }

/* The directory to a new place; at: where, 0 if there is none. */
static int store_directory(struct qcow2 *q, uint64_t *at, uint64_t *bytes)
{
    *at = *bytes = 0;
    for (uint32_t n = 0; n < q->bitmaps; n++)
        *bytes += entry_bytes(&q->bitmap[n]);
    if (!*bytes)
        return 0;
    uint8_t *all = *bytes <= (uint64_t)DIRECTORY_MAX ? calloc(1, *bytes) : NULL, *p = all;
    if (!all)
        return *bytes <= (uint64_t)DIRECTORY_MAX ? -ENOMEM : -EFBIG;
    int rc = alloc_row(q, *bytes, at);
    for (uint32_t n = 0; !rc && n < q->bitmaps; p += entry_bytes(&q->bitmap[n++])) {
        struct qcow2_bitmap *b = &q->bitmap[n];
        size_t name = strlen(b->name);
        st64(p, b->new_table_offset);
        st32(p + 8, b->new_table_size);
        st32(p + 12, b->bad ? b->flags : b->flags & ~(uint32_t)IN_USE);
        p[16] = b->type;
        p[17] = b->granularity_bits;
        p[18] = (uint8_t)(name >> 8);
        p[19] = (uint8_t)name;
        st32(p + 20, b->extra_size);
        if (b->extra_size)
            memcpy(p + HEAD, b->extra, b->extra_size);
        memcpy(p + HEAD + b->extra_size, b->name, name);
        b->new_at = *at + (uint64_t)(p - all);
    }
    if (!rc)
        rc = qcow2_pwrite(q, all, *bytes, *at);
    free(all);
    return rc;
}

static int write_autoclear(struct qcow2 *q, bool bitmaps)
{
    q->autoclear = (q->autoclear & ~(uint64_t)QCOW2_AUTO_BITMAPS) | (bitmaps ? QCOW2_AUTO_BITMAPS : 0);
    uint64_t field = qcow2_be(q->autoclear);
    int rc = qcow2_pwrite(q, &field, 8, 88);
    return rc ? rc : dp_image_flush(q->image.file);
}

/* The header's extension becomes the new directory's. The bit that says it is right is away meanwhile: the two may be in different sectors.
 */
static int switch_directory(struct qcow2 *q, uint64_t at, uint64_t bytes)
{
    uint8_t field[24] = {0};
    st32(field, q->bitmaps);
    st64(field + 8, bytes);
    st64(field + 16, at);
    int rc = write_autoclear(q, false);
    if (!rc)
        rc = qcow2_set_extension(q, QCOW2_EXTENSION_BITMAPS, field, at ? sizeof field : 0);
    if (!rc && at)
        rc = write_autoclear(q, true);
    return rc;
}

/* What is in memory becomes what is in the file; gone: one that is no longer there. */
static int store(struct qcow2 *q, const struct qcow2_bitmap *gone)
{
    struct old old = {0};
    uint64_t at = 0, bytes = 0;
    int rc = qcow2_may_change(q);
    if (!rc)
        rc = add_old_row(q, &old, q->directory, q->directory_size);
    if (!rc && gone)
        rc = add_old_bitmap(q, &old, gone);
    for (uint32_t n = 0; !rc && n < q->bitmaps; n++) {
        struct qcow2_bitmap *b = &q->bitmap[n];
        b->new_table_offset = b->table_offset;
        b->new_table_size = b->table_size;
        if (!b->bad && b->changed && !(rc = add_old_bitmap(q, &old, b)))
            rc = store_bits(q, b);
    }
    if (!rc)
        rc = store_directory(q, &at, &bytes);
    if (!rc)
        rc = qcow2_commit(q);
    if (!rc && (rc = switch_directory(q, at, bytes)))
        q->failed = true; /* which directory counts is unknown */
    if (!rc) {
        q->directory = at;
        q->directory_size = bytes;
    }
    for (uint32_t n = 0; !rc && n < q->bitmaps; n++) {
        struct qcow2_bitmap *b = &q->bitmap[n];
        b->at = b->new_at;
        b->table_offset = b->new_table_offset;
        b->table_size = b->new_table_size;
        if (!b->bad) {
            b->changed = b->marked = false;
            b->flags &= ~(uint32_t)IN_USE;
        }
    }
    for (uint64_t n = 0; !rc && n < old.count; n++)
        rc = qcow2_release(q, old.at[n], 1, true);
    for (unsigned n = 0; !rc && n < 2; n++) /* the second writes what became free by the first */
        rc = qcow2_commit(q);
    free(old.at);
    return rc;
}

void qcow2_bitmaps_close(struct qcow2 *q)
{
    bool any = false;
    for (uint32_t n = 0; n < q->bitmaps; n++)
        any = any || ((q->bitmap[n].marked || q->bitmap[n].changed) && !q->bitmap[n].bad);
    int rc = any && !q->image.readonly ? q->failed ? -EIO : store(q, NULL) : 0;
    if (rc && q->image.trace)
        dp_trace_emit(q->image.trace, DP_TRACE_BLOCK, "disk %s: its bitmaps could not be stored and are inconsistent now: %s",
                      q->image.name, strerror(-rc));
    forget_all(q);
}

/* ---- another size ---- */

int qcow2_bitmaps_before_resize(struct qcow2 *q) { return q->bitmaps ? mark(q, true) : 0; }

int qcow2_bitmaps_after_resize(struct qcow2 *q)
{
    for (uint32_t n = 0; n < q->bitmaps; n++) {
        struct qcow2_bitmap *b = &q->bitmap[n];
        if (b->bad)
            continue;
        if (make_bits(q, b, q->image.size))
            b->bad = true; /* its mark stays */
        b->changed = true;
    }
    return q->bitmaps ? store(q, NULL) : 0;
}

/* ---- what image.h offers ---- */

static struct qcow2_bitmap *find(struct qcow2 *q, const char *name)
{
    for (uint32_t n = 0; n < q->bitmaps; n++)
        if (!strcmp(q->bitmap[n].name, name))
            return &q->bitmap[n];
    return NULL;
}

/* One whose bits are in memory. */
static int get(struct qcow2 *q, const char *name, struct qcow2_bitmap **b, struct dp_error *e)
{
    if (!(*b = find(q, name)))
        return dp_error_set(e, -ENOENT, "disk %s has no bitmap '%.100s'; `doppel image info` lists them", q->image.name, name);
    if ((*b)->bad)
        return dp_error_set(e, -EINVAL, "bitmap '%.100s' of disk %s is inconsistent: it can only be removed", name, q->image.name);
    int rc = load(q, *b);
    return rc ? dp_error_set(e, rc, "bitmap '%.100s' of disk %s cannot be read: %s", name, q->image.name, strerror(-rc)) : 0;
}

static uint64_t dirty_bytes(const struct qcow2 *q, const struct qcow2_bitmap *b)
{
    uint64_t n = 0, rest = q->image.size & ((1ull << b->granularity_bits) - 1);
    for (uint64_t i = 0; i < b->room; i += 8)
        n += (uint64_t)__builtin_popcountll(dp_ld64(b->bits + i));
    n <<= b->granularity_bits;
    if (rest && b->count && b->bits[(b->count - 1) >> 3] >> ((b->count - 1) & 7) & 1)
        n -= (1ull << b->granularity_bits) - rest;
    return n;
}

int qcow2_bitmap_list(struct dp_image *i, struct dp_image_bitmap **out, unsigned *count, struct dp_error *e)
{
    struct qcow2 *q = (struct qcow2 *)i;
    *count = q->bitmaps;
    *out = calloc(DP_MAX(q->bitmaps, 1u), sizeof **out);
    if (!*out)
        return dp_error_set(e, -ENOMEM, "out of memory");
    for (uint32_t n = 0; n < q->bitmaps; n++) {
        struct qcow2_bitmap *b = &q->bitmap[n];
        struct dp_image_bitmap *to = &(*out)[n];
        snprintf(to->name, sizeof to->name, "%s", b->name);
        to->enabled = b->flags & AUTO;
        to->inconsistent = b->bad;
        to->granularity = b->granularity_bits < 63 ? 1ull << b->granularity_bits : 0;
        if (!b->bad && !load(q, b))
            to->dirty = dirty_bytes(q, b);
    }
    return 0;
}

int qcow2_bitmap_query(struct dp_image *i, const char *name, uint64_t offset, uint64_t *size, bool *dirty, struct dp_error *e)
{
    struct qcow2 *q = (struct qcow2 *)i;
    struct qcow2_bitmap *b;
    int rc = get(q, name, &b, e);
    if (rc)
        return rc;
    *dirty = false;
    *size = offset < i->size ? DP_MIN(*size, i->size - offset) : 0;
    if (!*size)
        return 0;
    uint64_t first = offset >> b->granularity_bits, end = ((offset + *size - 1) >> b->granularity_bits) + 1, n = first + 1;
    *dirty = b->bits[first >> 3] >> (first & 7) & 1;
    uint8_t whole = *dirty ? 0xff : 0;
    while (n < end && (b->bits[n >> 3] >> (n & 7) & 1) == *dirty)
        n += !(n & 7) && b->bits[n >> 3] == whole ? 8 : 1;
    *size = DP_MIN(*size, (n << b->granularity_bits) - offset);
    return 0;
}

int qcow2_bitmap_set(struct dp_image *i, const char *name, uint64_t offset, uint64_t size, bool dirty, struct dp_error *e)
{
    struct qcow2 *q = (struct qcow2 *)i;
    struct qcow2_bitmap *b;
    int rc = i->readonly ? dp_error_set(e, -EROFS, "disk %s is only read", i->name) : get(q, name, &b, e);
    if (rc)
        return rc;
    size = offset < i->size ? DP_MIN(size, i->size - offset) : 0;
    if (!dirty && size) { /* what is only partly in the range stays dirty */
        uint64_t unit = 1ull << b->granularity_bits, end = offset + size == i->size ? offset + size : (offset + size) & ~(unit - 1);
        uint64_t from = DP_ALIGN_UP(offset, unit);
        size = end > from ? end - from : 0;
        offset = from;
    }
    change(b, offset, size, dirty);
    return 0;
}

static int add(struct qcow2 *q, const char *name, uint64_t granularity, struct dp_error *e)
{
    uint64_t fit = DP_MIN(DP_MAX(q->cluster, (uint64_t)4096), (uint64_t)65536), g = granularity ? granularity : fit;
    size_t length = strlen(name);
    if (q->version < 3)
        return dp_error_set(e, -ENOTSUP, "disk %s is of version 2 (compat=0.10), which has no bitmaps", q->image.name);
    if (!length || length > DP_IMAGE_NAME_MAX)
        return dp_error_set(e, -EINVAL, "a bitmap's name has 1 to %d bytes", DP_IMAGE_NAME_MAX);
    if (g & (g - 1) || g < 1ull << GRANULARITY_MIN || g > 1ull << GRANULARITY_MAX)
        return dp_error_set(e, -EINVAL, "a bitmap's granularity is a power of two from 512 to 2G");
    if (find(q, name))
        return dp_error_set(e, -EEXIST, "disk %s has a bitmap '%.100s' already", q->image.name, name);
    if (q->bitmaps == BITMAPS_MAX)
        return dp_error_set(e, -E2BIG, "disk %s has %d bitmaps: remove one first", q->image.name, BITMAPS_MAX);
    struct qcow2_bitmap *more = realloc(q->bitmap, (q->bitmaps + 1ull) * sizeof *more);
    if (!more)
        return dp_error_set(e, -ENOMEM, "out of memory");
    q->bitmap = more;
    struct qcow2_bitmap *b = &q->bitmap[q->bitmaps];
    *b = (struct qcow2_bitmap){.type = TYPE_DIRTY, .granularity_bits = (uint8_t)__builtin_ctzll(g), .flags = AUTO, .changed = true};
    int rc = make_bits(q, b, q->image.size);
    if (rc)
        return dp_error_set(e, rc, "a bitmap of disk %s with a bit for each %llu bytes is too large: say a larger granularity",
                            q->image.name, (unsigned long long)g);
    if (!(b->name = strdup(name))) {
        free(b->bits);
        return dp_error_set(e, -ENOMEM, "out of memory");
    }
    q->bitmaps++;
    return 0;
}

int qcow2_bitmap_change(struct dp_image *i, enum dp_image_bitmap_op op, const char *name, uint64_t granularity, struct dp_error *e)
{
    struct qcow2 *q = (struct qcow2 *)i;
    struct qcow2_bitmap *b = NULL, gone = {0};
    if (i->readonly)
        return dp_error_set(e, -EROFS, "disk %s is only read", i->name);
    int rc = op == DP_IMAGE_BITMAP_ADD ? add(q, name, granularity, e)
             : op == DP_IMAGE_BITMAP_REMOVE
                 ? (b = find(q, name)) ? 0 : dp_error_set(e, -ENOENT, "disk %s has no bitmap '%.100s'", i->name, name)
             : op == DP_IMAGE_BITMAP_STORE ? 0
                                           : get(q, name, &b, e);
    if (rc)
        return rc;
    if (op == DP_IMAGE_BITMAP_REMOVE) {
        gone = *b;
        memmove(b, b + 1, (char *)(q->bitmap + q->bitmaps) - (char *)(b + 1));
        q->bitmaps--;
    } else if (op == DP_IMAGE_BITMAP_CLEAR) {
        change(b, 0, i->size, false);
    } else if (op == DP_IMAGE_BITMAP_ENABLE) {
        b->flags |= AUTO;
    } else if (op == DP_IMAGE_BITMAP_DISABLE) {
        b->flags &= ~(uint32_t)AUTO;
    }
    rc = store(q, op == DP_IMAGE_BITMAP_REMOVE ? &gone : NULL);
    if (rc && gone.name) {
        q->bitmap[q->bitmaps++] = gone;
    } else {
        free(gone.name);
        free(gone.bits);
        free(gone.extra);
    }
    return rc ? dp_error_set(e, rc, "the bitmaps of disk %s cannot be stored: %s", i->name, strerror(-rc)) : 0;
}

void qcow2_bitmaps_info(struct qcow2 *q, struct json_object *o)
{
    if (!q->bitmaps)
        return;
    struct json_object *list = json_object_new_array();
    for (uint32_t n = 0; n < q->bitmaps; n++) {
        const struct qcow2_bitmap *b = &q->bitmap[n];
        struct json_object *one = json_object_new_object(), *flags = json_object_new_array();
        if (b->flags & IN_USE)
            json_object_array_add(flags, json_object_new_string("in-use"));
        if (b->flags & AUTO)
            json_object_array_add(flags, json_object_new_string("auto"));
        json_object_object_add(one, "flags", flags);
        json_object_object_add(one, "name", json_object_new_string(b->name));
        json_object_object_add(one, "granularity", json_object_new_int64(b->granularity_bits < 63 ? 1ll << b->granularity_bits : 0));
        json_object_array_add(list, one);
    }
    json_object_object_add(o, "bitmaps", list);
}
