/* mirror.c - see mirror.h. */
#include "block/mirror.h"

#include <json.h>
#include <libgen.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>

#include "block/image_internal.h"

enum {
    HEADER = 4096,
    BITMAP_AT = 2 * HEADER,
    SECTOR = 512,
    NAME_MAX_BYTES = 1024,
    FORMAT_MAX_BYTES = 16,
    REGION_BITS_MIN = 16,
    REGION_BITS_MAX = 26,
    BITMAP_MAX = 16 << 20,
    SAMPLES = 64,
    SAMPLE = 64 << 10,
};
static const char magic[8] = "DPMIRROR";

struct mirror {
    struct dp_image image; /* first */
    uint64_t generation;
    unsigned region_bits;
    bool stale[2];
    char name[2][NAME_MAX_BYTES], format[2][FORMAT_MAX_BYTES];
    struct dp_image *half[2];    /* NULL: not opened */
    bool anywhere;               /* a half that is opened later may be in any folder */
    uint8_t *bits, *recent;      /* as in the file; written since the last flush */
    uint64_t bytes;              /* of each */
    bool torn;                   /* a write failed on both: bits stay until the next opening */
    bool waits;                  /* something since the last flush that found nothing to do */
    bool owes_header, owes_bits; /* what could not be written to the mirror's file: nothing changes until it is */
};

static struct mirror *of(struct dp_image *i) { return (struct mirror *)i; }
static uint64_t regions(uint64_t size, unsigned bits) { return (size >> bits) + ((size & ((1ull << bits) - 1)) != 0); }
static bool bit(const uint8_t *b, uint64_t n) { return b[n / 8] >> n % 8 & 1; }
static bool usable(const struct mirror *m, unsigned h) { return m->half[h] && !m->stale[h]; }
static int primary(const struct mirror *m) { return usable(m, 0) ? 0 : usable(m, 1) ? 1 : -1; }

static void tell(struct mirror *m, const char *what, unsigned h, int rc)
{
    if (m->image.trace)
        dp_trace_emit(m->image.trace, DP_TRACE_BLOCK, "mirror %s: %s %s (%s); it goes on with the other half: see doppel volume resync",
                      m->image.name, m->name[h], what, strerror(-rc));
}

/* ---- the file ---- */

static void encode(const struct mirror *m, uint8_t *p)
{
    memset(p, 0, HEADER);
    memcpy(p, magic, sizeof magic);
    dp_st32(p + 8, 1);
    dp_st32(p + 12, m->region_bits);
    dp_st64(p + 16, m->generation);
    dp_st64(p + 24, m->image.size);
    for (unsigned h = 0; h < 2; h++) {
        p[32 + h] = m->stale[h];
        memcpy(p + 64 + h * FORMAT_MAX_BYTES, m->format[h], FORMAT_MAX_BYTES);
        memcpy(p + 96 + h * NAME_MAX_BYTES, m->name[h], NAME_MAX_BYTES);
    }
    dp_st32(p + HEADER - 4, (uint32_t)crc32(0, p, HEADER - 4));
}

static bool decode(struct mirror *m, const uint8_t *p)
{
    if (memcmp(p, magic, sizeof magic) || dp_ld32(p + 8) != 1 || dp_ld32(p + HEADER - 4) != (uint32_t)crc32(0, p, HEADER - 4))
        return false;
    m->region_bits = dp_ld32(p + 12);
    m->generation = dp_ld64(p + 16);
    m->image.size = dp_ld64(p + 24);
    if (m->region_bits < REGION_BITS_MIN || m->region_bits > REGION_BITS_MAX || m->image.size > INT64_MAX / 2 || p[32] > 1 || p[33] > 1 ||
        (p[32] && p[33]))
        return false;
    for (unsigned h = 0; h < 2; h++) {
        m->stale[h] = p[32 + h];
        memcpy(m->format[h], p + 64 + h * FORMAT_MAX_BYTES, FORMAT_MAX_BYTES);
        memcpy(m->name[h], p + 96 + h * NAME_MAX_BYTES, NAME_MAX_BYTES);
        if (m->format[h][FORMAT_MAX_BYTES - 1] || m->name[h][NAME_MAX_BYTES - 1] || !*m->name[h])
            return false;
    }
    m->bytes = DP_ALIGN_UP(regions(m->image.size, m->region_bits) / 8 + 1, (uint64_t)HEADER);
    return m->bytes <= BITMAP_MAX;
}

/* What the header says from now on is on the disk before anything that relies on it. One that failed is written again to the same place. */
static int put_header(struct mirror *m)
{
    uint8_t p[HEADER];
    m->generation++;
    encode(m, p);
    int rc = dp_image_pwrite(m->image.file, p, HEADER, m->generation % 2 * HEADER);
    rc = rc ? rc : dp_image_flush(m->image.file);
    m->generation -= rc != 0;
    m->owes_header = rc;
    return rc;
}

/* Sectors of the bitmap that hold regions from..to (included). */
static int put_bits(struct mirror *m, uint64_t from, uint64_t to)
{
    uint64_t first = from / 8 / SECTOR * SECTOR, end = (to / 8 / SECTOR + 1) * SECTOR;
    return dp_image_pwrite(m->image.file, m->bits + first, end - first, BITMAP_AT + first);
}

static uint64_t count_bits(const struct mirror *m)
{
    uint64_t n = 0;
    for (uint64_t k = 0; k < m->bytes; k++)
        n += (unsigned)__builtin_popcount(m->bits[k]);
    return n;
}

/* The range is about to change: its bits are on the disk. */
static int intend(struct mirror *m, uint64_t offset, uint64_t size)
{
    uint64_t from = offset >> m->region_bits, to = (offset + size - 1) >> m->region_bits;
    bool new = false;
    int rc = m->owes_header ? put_header(m) : 0;
    if (rc)
        return rc;
    for (uint64_t n = from; n <= to; n++) {
        new = new || !bit(m->bits, n);
        m->bits[n / 8] |= 1u << n % 8;
        m->recent[n / 8] |= 1u << n % 8;
    }
    m->waits = true;
    if (!new && !m->owes_bits)
        return 0;
    rc = m->owes_bits ? put_bits(m, 0, m->bytes * 8 - 1) : put_bits(m, from, to);
    rc = rc ? rc : dp_image_flush(m->image.file);
    m->owes_bits = rc;
    return rc;
}

/* Both halves are flushed: what was not written lately is the same in both. Late on the disk does no harm. */
static int clear_bits(struct mirror *m, bool all)
{
    uint64_t first = UINT64_MAX, last = 0;
    for (uint64_t k = 0; k < m->bytes; k++) {
        uint8_t left = all ? 0 : m->bits[k] & m->recent[k];
        if (left != m->bits[k]) {
            first = DP_MIN(first, k);
            last = k;
        }
        m->bits[k] = left;
        m->recent[k] = 0;
    }
    return first == UINT64_MAX ? 0 : put_bits(m, first * 8, last * 8);
}

/* A half that failed. The last one stays. */
static int give_up(struct mirror *m, unsigned h, const char *what, int code)
{
    if (!usable(m, !h))
        return code;
    m->stale[h] = true;
    tell(m, what, h, code);
    return m->image.readonly ? 0 : put_header(m);
}

/* ---- using ---- */

static int read_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    struct mirror *m = of(i);
    struct dp_cursor again = *c;
    int h = primary(m);
    if (h < 0)
        return -EIO;
    int rc = dp_image_read(m->half[h], c, offset, size);
    if (!rc || !usable(m, !h))
        return rc;
    int other = dp_image_read(m->half[!h], &again, offset, size);
    if (other)
        return rc;
    *c = again;
    /* What cannot be read there is written again by the next resync. */
    if (!i->readonly && (other = intend(m, offset, size)))
        return other;
    return give_up(m, (unsigned)h, "cannot be read", rc);
}

static int change(struct mirror *m, const struct dp_cursor *c, uint64_t offset, uint64_t size, bool zero, unsigned flags)
{
    int rc = intend(m, offset, size), result[2] = {0};
    if (rc)
        return rc;
    for (unsigned h = 0; h < 2; h++) {
        struct dp_cursor mine = c ? *c : (struct dp_cursor){0};
        if (usable(m, h))
            result[h] = zero ? dp_image_zero(m->half[h], offset, size, flags) : dp_image_write(m->half[h], &mine, offset, size);
    }
    if (!result[0] && !result[1])
        return primary(m) < 0 ? -EIO : 0;
    if ((result[0] || !usable(m, 0)) && (result[1] || !usable(m, 1))) {
        m->torn = true;
        return result[0] ? result[0] : result[1];
    }
    unsigned bad = result[0] ? 0 : 1;
    return give_up(m, bad, "cannot be written", result[bad]);
}

static int write_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    int rc = change(of(i), c, offset, size, false, 0);
    if (!rc)
        dp_cursor_skip(c, size);
    return rc;
}
static int zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags)
{
    return change(of(i), NULL, offset, size, true, flags);
}

static int flush(struct dp_image *i)
{
    struct mirror *m = of(i);
    int result[2] = {0}, owed = m->owes_header ? put_header(m) : 0;
    if (owed)
        return owed;
    for (unsigned h = 0; h < 2; h++)
        if (usable(m, h))
            result[h] = dp_image_flush(m->half[h]);
    bool bad[2] = {result[0] || !usable(m, 0), result[1] || !usable(m, 1)};
    if (bad[0] && bad[1]) {
        m->torn = true;
        return result[0] ? result[0] : result[1] ? result[1] : -EIO;
    }
    for (unsigned h = 0; h < 2; h++) {
        int rc = result[h] ? give_up(m, h, "cannot be flushed", result[h]) : 0;
        if (rc)
            return rc;
    }
    bool recent = false;
    for (uint64_t k = 0; k < m->bytes; k++)
        recent = recent || m->recent[k];
    m->waits = recent && !m->torn;
    if (m->stale[0] || m->stale[1] || !m->half[0] || !m->half[1] || m->torn) {
        memset(m->recent, 0, m->bytes);
        m->waits = false;
        return 0;
    }
    return clear_bits(m, false);
}

static bool dirty(const struct dp_image *i)
{
    const struct mirror *m = (const struct mirror *)i;
    return m->waits || (usable(m, 0) && dp_image_dirty(m->half[0])) || (usable(m, 1) && dp_image_dirty(m->half[1]));
}

static int extent(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x)
{
    struct mirror *m = of(i);
    int h = primary(m);
    if (h < 0)
        return -EIO;
    int rc = dp_image_extent_all(m->half[h], offset, size, x);
    x->kind = x->kind == DP_EXTENT_UNALLOCATED ? DP_EXTENT_ZEROS : x->kind == DP_EXTENT_PACKED ? DP_EXTENT_DATA : x->kind;
    x->has_offset = false;
    x->depth = 0;
    return rc;
}

/* ---- resync ---- */

static int copy_region(struct mirror *m, unsigned from, unsigned to, uint64_t region, uint8_t *data, uint64_t *copied)
{
    uint64_t start = region << m->region_bits, end = DP_MIN(start + (1ull << m->region_bits), m->image.size);
    for (uint64_t o = start, n; o < end; o += n) {
        struct dp_extent x;
        int rc = dp_image_extent_all(m->half[from], o, end - o, &x);
        if (!rc && !x.size)
            rc = -EIO;
        if (rc)
            return rc;
        bool holds = x.kind == DP_EXTENT_DATA || x.kind == DP_EXTENT_PACKED;
        n = holds ? DP_MIN(x.size, (uint64_t)DP_IMAGE_PIECE) : x.size;
        if (holds && (rc = dp_image_pread(m->half[from], data, n, o)))
            return rc;
        if ((rc = holds ? dp_image_pwrite(m->half[to], data, n, o) : dp_image_zero(m->half[to], o, n, DP_ZERO_UNMAP)))
            return rc;
        *copied += n;
    }
    return 0;
}

/* All regions that may differ; both halves are flushed. The bits stay. */
static int copy_dirty(struct mirror *m, unsigned from, const struct dp_image_job *job, uint64_t *copied, struct dp_error *e)
{
    uint8_t *data = aligned_alloc(4096, DP_IMAGE_PIECE);
    uint64_t all = regions(m->image.size, m->region_bits);
    int rc = data ? 0 : -ENOMEM;
    for (uint64_t n = 0; !rc && n < all; n++) {
        if (bit(m->bits, n))
            rc = copy_region(m, from, !from, n, data, copied);
        if (!rc && job && job->stop && atomic_load(job->stop))
            rc = -EINTR;
        if (job && job->progress)
            job->progress(job->opaque, DP_MIN((n + 1) << m->region_bits, m->image.size), m->image.size);
    }
    for (unsigned n = 0; !rc && n < 2; n++)
        rc = dp_image_flush(m->half[!from]);
    free(data);
    return rc ? dp_error_set(e, rc, "mirror %s: %s cannot be copied to %s: %s", m->image.name, m->name[from], m->name[!from],
                             rc == -EINTR ? "interrupted" : strerror(-rc))
              : 0;
}

/* Was a half replaced? Then what the bitmap calls the same is not. */
static int check_samples(struct mirror *m, struct dp_error *e)
{
    uint64_t all = regions(m->image.size, m->region_bits), step = DP_MAX(all / SAMPLES, (uint64_t)1);
    uint8_t *data = malloc(2 * SAMPLE);
    int rc = data ? 0 : dp_error_set(e, -ENOMEM, "out of memory");
    for (uint64_t n = 0; !rc && n < all; n += step) {
        uint64_t o = n << m->region_bits, size = DP_MIN(m->image.size - o, (uint64_t)SAMPLE);
        if (bit(m->bits, n))
            continue;
        if ((rc = dp_image_pread(m->half[0], data, size, o)) || (rc = dp_image_pread(m->half[1], data + SAMPLE, size, o)))
            rc = dp_error_set(e, rc, "mirror %s cannot be read at offset %llu: %s", m->image.name, (unsigned long long)o, strerror(-rc));
        else if (memcmp(data, data + SAMPLE, size))
            rc = dp_error_set(e, -ESTALE, "mirror %s: the halves differ where neither was written: was %s replaced? Copy all with --all",
                              m->image.name, m->name[m->stale[0] ? 0 : 1]);
    }
    free(data);
    return rc;
}

static int open_half(struct mirror *m, unsigned h, const struct dp_image_options *o, struct dp_error *e)
{
    const struct dp_image_format *f = dp_image_format_named(m->format[h]);
    if (!f || f->scheme || f == &dp_image_mirror)
        return dp_error_set(e, -EINVAL, "mirror %s: half %s has a format that is not known or cannot be one", m->image.name, m->name[h]);
    int rc = dp_image_open_part(&m->image, m->name[h], f, o, &m->half[h], e);
    if (!rc && m->half[h]->size < m->image.size) {
        dp_image_close(m->half[h]);
        m->half[h] = NULL;
        rc = dp_error_set(e, -EINVAL, "mirror %s: half %s is smaller than the disk", m->image.name, m->name[h]);
    }
    return rc;
}

/* A half that is missing may be made only where one may be opened. */
static int check_place(const struct mirror *m, const char *path, struct dp_error *e)
{
    char *mine = realpath(m->image.name, NULL), *copy = strdup(path), *its = copy ? realpath(dirname(copy), NULL) : NULL;
    const char *folder = mine ? dirname(mine) : NULL;
    size_t n = folder ? strlen(folder) : 0;
    bool good = m->anywhere || (folder && its && !strncmp(its, folder, n) && (!its[n] || its[n] == '/' || n == 1));
    free(mine);
    free(copy);
    free(its);
    return good ? 0
                : dp_error_set(e, -EACCES, "mirror %s wants to make %s, outside its folder; if you trust it, add --backing-any",
                               m->image.name, path);
}

int dp_mirror_resync(struct dp_image *i, bool all, const struct dp_image_job *job, uint64_t *copied, struct dp_error *e)
{
    struct mirror *m = of(i);
    int from = primary(m), rc = 0;
    *copied = 0;
    if (i->format != &dp_image_mirror || i->readonly)
        return dp_error_set(e, -EINVAL, "%s is no mirror that may be written", i->name);
    if (from < 0)
        return dp_error_set(e, -EIO, "mirror %s: no half that is in date is there", i->name);
    unsigned to = !from;
    if (!m->half[to]) {
        struct dp_image_chain chain = {.anywhere = m->anywhere};
        char *path = dp_image_beside(i->name, m->name[to]);
        bool missing = path && !strstr(m->name[to], "://") && access(path, F_OK) && errno == ENOENT;
        if (missing && all && !(rc = check_place(m, path, e)))
            rc = dp_image_create(&(struct dp_image_create){.name = path, .format = m->format[to], .size = i->size}, e);
        else if (missing && !all)
            rc = dp_error_set(e, -ENOENT, "mirror %s: half %s is missing: with --all it is made anew", i->name, m->name[to]);
        free(path);
        if (!rc) {
            char *real = realpath(i->name, NULL);
            chain.folder = real ? dirname(real) : NULL;
            i->chain = &chain;
            rc = open_half(m, to, &(struct dp_image_options){0}, e);
            i->chain = NULL;
            free(real);
        }
        if (rc)
            return rc;
    }
    if (all) {
        memset(m->bits, 0xff, m->bytes);
        uint64_t last = regions(i->size, m->region_bits);
        for (uint64_t n = last; n < m->bytes * 8; n++)
            m->bits[n / 8] &= ~(1u << n % 8);
        m->stale[to] = true;
        if ((rc = put_bits(m, 0, m->bytes * 8 - 1)) || (rc = put_header(m)))
            return dp_error_set(e, rc, "%s cannot be written: %s", i->name, strerror(-rc));
    } else if ((rc = check_samples(m, e))) {
        return rc;
    }
    if ((rc = copy_dirty(m, (unsigned)from, job, copied, e)))
        return rc;
    m->stale[to] = m->torn = false;
    if ((rc = put_header(m)) || (rc = clear_bits(m, true)) || (rc = dp_image_flush(i->file)))
        return dp_error_set(e, rc, "%s cannot be written: %s", i->name, strerror(-rc));
    return 0;
}

bool dp_mirror_state(const struct dp_image *i, struct dp_mirror_state *s)
{
    const struct mirror *m = (const struct mirror *)i;
    if (i->format != &dp_image_mirror)
        return false;
    *s = (struct dp_mirror_state){.generation = m->generation, .region = 1ull << m->region_bits, .dirty = count_bits(m)};
    for (unsigned h = 0; h < 2; h++) {
        s->name[h] = m->name[h];
        s->format[h] = m->format[h];
        s->in_date[h] = !m->stale[h];
        s->there[h] = m->half[h];
    }
    return true;
}

/* ---- opening ---- */

static int load(struct mirror *m, struct dp_error *e)
{
    struct dp_image *i = &m->image;
    uint8_t p[2 * HEADER];
    int rc = dp_image_pread(i->file, p, sizeof p, 0);
    if (rc)
        return dp_error_set(e, rc, "mirror %s cannot be read: %s", i->name, strerror(-rc));
    bool second = decode(m, p + HEADER);
    uint64_t generation = second ? m->generation : 0;
    bool first = decode(m, p);
    if (!first && !second)
        return dp_error_set(e, -EINVAL, "%s is no mirror, or its headers are damaged", i->name);
    if (second && (!first || generation > m->generation))
        decode(m, p + HEADER);
    m->bits = calloc(2, m->bytes);
    if (!m->bits)
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", i->name);
    m->recent = m->bits + m->bytes;
    if ((rc = dp_image_pread(i->file, m->bits, m->bytes, BITMAP_AT))) /* what the file lacks is zeros */
        return dp_error_set(e, rc, "mirror %s cannot be read: %s", i->name, strerror(-rc));
    for (uint64_t n = regions(i->size, m->region_bits); n < m->bytes * 8; n++)
        m->bits[n / 8] &= ~(1u << n % 8);
    return 0;
}

/* Errors that are no failure of a half, but of who opens it. */
static bool is_ours(int rc) { return rc == -EBUSY || rc == -EACCES || rc == -EPERM || rc == -EROFS || rc == -ENOMEM; }

static int open_(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    struct mirror *m = of(i);
    struct dp_error why[2] = {0};
    int rc = load(m, e);
    m->anywhere = i->chain && i->chain->anywhere;
    if (rc || o->alone)
        return rc;
    for (unsigned h = 0; h < 2; h++) {
        rc = m->stale[h] ? 0 : open_half(m, h, o, &why[h]);
        if (is_ours(rc))
            return dp_error_set(e, rc, "%s", why[h].text);
    }
    if (primary(m) < 0)
        return dp_error_set(e, -EIO, "mirror %s: no half that is in date can be opened: %s", i->name, why[m->stale[0] ? 1 : 0].text);
    for (unsigned h = 0; h < 2; h++)
        if (!m->stale[h] && !m->half[h] && (rc = give_up(m, h, "cannot be opened", why[h].code ? why[h].code : -EIO)))
            return dp_error_set(e, rc, "mirror %s cannot be written: %s", i->name, strerror(-rc));
    if (i->readonly || m->stale[0] || m->stale[1] || !count_bits(m))
        return 0;
    /* What was being written when it ended. */
    uint64_t copied = 0;
    if ((rc = copy_dirty(m, 0, NULL, &copied, e)))
        rc = give_up(m, 1, "cannot be brought in date", rc);
    else
        rc = clear_bits(m, true);
    return rc ? dp_error_set(e, rc, "mirror %s cannot be written: %s", i->name, strerror(-rc)) : 0;
}

static void close_(struct dp_image *i)
{
    struct mirror *m = of(i);
    dp_image_close(m->half[0]);
    dp_image_close(m->half[1]);
    free(m->bits);
}

static int resize(struct dp_image *i, uint64_t size, struct dp_error *e)
{
    struct mirror *m = of(i);
    struct mirror next = *m;
    uint8_t p[HEADER];
    if (!usable(m, 0) || !usable(m, 1))
        return dp_error_set(e, -EIO, "mirror %s: both halves must be in date to be resized: see doppel volume resync", i->name);
    next.image.size = size;
    encode(&next, p);
    uint8_t *bits = decode(&next, p) ? calloc(2, next.bytes) : NULL;
    if (!bits)
        return dp_error_set(e, -EINVAL, "mirror %s cannot be so large", i->name);
    int rc = 0;
    for (unsigned h = 0; !rc && h < 2 && (size > i->size); h++)
        rc = m->half[h]->format->resize ? m->half[h]->format->resize(m->half[h], size, e)
                                        : dp_error_set(e, -ENOTSUP, "%s cannot be resized", m->half[h]->name);
    if (!rc && ((rc = dp_image_flush(i)) || (rc = dp_image_flush(i))))
        dp_error_set(e, rc, "%s cannot be written: %s", i->name, strerror(-rc));
    if (rc) {
        free(bits);
        return rc;
    }
    memcpy(bits, m->bits, DP_MIN(m->bytes, next.bytes));
    free(m->bits);
    m->bits = bits;
    m->bytes = next.bytes;
    m->recent = bits + m->bytes;
    i->size = size;
    for (uint64_t n = regions(size, m->region_bits); n < m->bytes * 8; n++)
        m->bits[n / 8] &= ~(1u << n % 8);
    if ((rc = put_bits(m, 0, m->bytes * 8 - 1)) || (rc = put_header(m)))
        return dp_error_set(e, rc, "%s cannot be written: %s", i->name, strerror(-rc));
    for (unsigned h = 0; h < 2 && m->half[h]->size > size; h++)
        if (m->half[h]->format->resize && (rc = m->half[h]->format->resize(m->half[h], size, e)))
            return rc;
    return 0;
}

static int info(struct dp_image *i, struct json_object *o)
{
    struct dp_mirror_state s = {0};
    struct json_object *m = json_object_new_object(), *halves = json_object_new_array();
    dp_mirror_state(i, &s);
    for (unsigned h = 0; h < 2; h++) {
        struct json_object *j = json_object_new_object();
        json_object_object_add(j, "filename", json_object_new_string(s.name[h]));
        json_object_object_add(j, "format", json_object_new_string(s.format[h]));
        json_object_object_add(j, "in-date", json_object_new_boolean(s.in_date[h]));
        json_object_array_add(halves, j);
    }
    json_object_object_add(m, "generation", json_object_new_uint64(s.generation));
    json_object_object_add(m, "region-size", json_object_new_uint64(s.region));
    json_object_object_add(m, "regions-that-may-differ", json_object_new_uint64(s.dirty));
    json_object_object_add(m, "halves", halves);
    json_object_object_add(o, "mirror", m);
    return 0;
}

/* ---- making ---- */

static int make_half(struct mirror *m, unsigned h, bool *there, struct dp_error *e)
{
    struct dp_image_create make = {.format = m->format[h], .size = m->image.size};
    char *path = dp_image_beside(m->image.name, m->name[h]);
    int rc = path ? 0 : dp_error_set(e, -ENOMEM, "out of memory");
    *there = path && (strstr(m->name[h], "://") || !access(path, F_OK));
    make.name = path;
    if (!rc && *there && h)
        rc = dp_error_set(e, -EEXIST, "mirror: the second half %s is there already: remove it, it would be overwritten", m->name[h]);
    if (!rc && !*there)
        rc = dp_image_create(&make, e);
    free(path);
    return rc;
}

static int create(const struct dp_image_create *o, struct dp_error *e)
{
    static const char *const keys[2][2] = {{"first", "first_format"}, {"second", "second_format"}};
    struct mirror *m = calloc(1, sizeof *m);
    bool there[2] = {false};
    if (!m)
        return dp_error_set(e, -ENOMEM, "out of memory");
    m->image = (struct dp_image){.format = &dp_image_mirror, .name = (char *)o->name, .size = o->size};
    m->region_bits = DP_MIRROR_REGION_BITS;
    while (m->region_bits < REGION_BITS_MAX && regions(o->size, m->region_bits) / 8 > BITMAP_MAX / 2)
        m->region_bits++;
    int rc = o->backing ? dp_error_set(e, -EINVAL, "mirrors have no backing file, their halves may have") : 0;
    for (unsigned h = 0; !rc && h < 2; h++) {
        const char *name = dp_image_create_option(o, keys[h][0]), *format = dp_image_create_option(o, keys[h][1]);
        format = format ? format : "raw";
        const struct dp_image_format *f = dp_image_format_named(format);
        if (!name || !*name || strlen(name) >= NAME_MAX_BYTES)
            rc = dp_error_set(e, -EINVAL, "which images? doppel image create -f mirror -o first=a.raw,second=b.raw FILE SIZE");
        else if (!f || f->scheme || f == &dp_image_mirror || strlen(format) >= FORMAT_MAX_BYTES)
            rc = dp_error_set(e, -EINVAL, "a half of a mirror cannot be of format '%s'", format);
        else {
            snprintf(m->name[h], NAME_MAX_BYTES, "%s", name);
            snprintf(m->format[h], FORMAT_MAX_BYTES, "%s", format);
        }
    }
    uint8_t p[2 * HEADER];
    m->generation = 1;
    if (!rc) {
        encode(m, p);
        if (!decode(m, p))
            rc = dp_error_set(e, -EINVAL, "a mirror cannot be so large");
    }
    for (unsigned h = 0; !rc && h < 2; h++)
        rc = make_half(m, h, &there[h], e);
    uint8_t *bits = rc ? NULL : calloc(1, m->bytes);
    if (!rc && !bits)
        rc = dp_error_set(e, -ENOMEM, "out of memory");
    struct dp_image *file = NULL;
    if (!rc)
        rc = dp_image_create_file(o, &file, e);
    if (!rc) {
        /* A first half that was there has what the second is to get: with the first resync. */
        if (there[0]) {
            m->stale[1] = true;
            for (uint64_t n = 0; n < regions(o->size, m->region_bits); n++)
                bits[n / 8] |= 1u << n % 8;
        }
        encode(m, p);
        memcpy(p + HEADER, p, HEADER);
        if ((rc = dp_image_pwrite(file, bits, m->bytes, BITMAP_AT)) || (rc = dp_image_pwrite(file, p, sizeof p, 0)) ||
            (rc = dp_image_flush(file)))
            dp_error_set(e, rc, "%s cannot be written: %s", o->name, strerror(-rc));
        dp_image_close(file);
    }
    free(bits);
    free(m);
    return rc;
}

static bool probe(const uint8_t *head, const uint8_t *tail, uint64_t length) { return !memcmp(head, magic, sizeof magic); }

static const struct dp_image_option options[] = {
    {"first", "one image, relative to the mirror; what it has already, the mirror has (then: doppel volume resync)"},
    {"second", "the other image, which must not be there yet"},
    {"first_format", "raw when not said"},
    {"second_format", "raw when not said"},
    {0},
};

const struct dp_image_format dp_image_mirror = {
    .name = "mirror",
    .summary = "one disk on two images, either of which may fail",
    .instance_size = sizeof(struct mirror),
    .create_options = options,
    .probe = probe,
    .open = open_,
    .close = close_,
    .read = read_,
    .write = write_,
    .zero = zero,
    .flush = flush,
    .dirty = dirty,
    .extent = extent,
    .resize = resize,
    .info = info,
    .create = create,
};
