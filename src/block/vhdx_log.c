/* vhdx_log.c - the log of a vhdx image: the changes that were begun when its writer died. Model: vhdx.h.
 *
 * The log is a ring of entries, each at a multiple of 4 KiB with a checksum over all of it. The active sequence is the run of entries with
 * consecutive numbers, the last of which (the head) has the largest and names one of the run as the tail; from there to the head the
 * entries count. The head also says how long the file must be (FlushedFileOffset: or it was cut off) and how long it gets (LastFileOffset).
 * A log without a valid sequence is damage: who writes one begins it with a valid entry. Hostile logs: read once into memory (at most
 * VHDX_LOG_MAX), checksums are computed over at most CHECK_FACTOR times its length. Source: [MS-VHDX] 2.3.1 "Log Entry", 2.3.2 "Log
 * Sequence", 2.3.3 "Log Replay".
 */
#include <stdlib.h>

#include "block/vhdx.h"

enum { ENTRY_LENGTH = 8, TAIL = 12, SEQUENCE = 16, DESCRIPTORS = 24, GUID = 32, FLUSHED = 48, LAST = 56, ENTRY_HEAD = 64 };
enum { DESCRIPTOR = 32, HEADER_LOG_GUID = 48, CHECK_FACTOR = 4, PATCHES_MAX = VHDX_LOG_MAX / VHDX_PAGE, HEADERS_END = 192 << 10 };
#define FILE_MAX (128ull << 40) /* more than a disk of 64 TiB and all its tables */

static const uint8_t zeros[VHDX_PAGE];

struct scan {
    struct vhdx *v;
    uint8_t *entry;  /* the one at hand, in one piece */
    uint64_t budget; /* bytes that may still be looked at */
    size_t patches, pages;
    uint64_t flushed, last; /* of the head */
};

/* The entry at `at` into s->entry; its length, 0: there is none. */
static uint32_t take(struct scan *s, uint32_t at)
{
    struct vhdx *v = s->v;
    const uint8_t *p = v->log_data + at;
    uint32_t length = dp_ld32(p + ENTRY_LENGTH);
    uint64_t count = dp_ld32(p + DESCRIPTORS), heads = DP_ALIGN_UP(ENTRY_HEAD + count * DESCRIPTOR, (uint64_t)VHDX_PAGE);
    if (memcmp(p, "loge", 4) || !length || length % VHDX_PAGE || length > v->log_length || heads > length || !dp_ld64(p + SEQUENCE) ||
        memcmp(p + GUID, v->header + HEADER_LOG_GUID, 16) || dp_ld32(p + TAIL) % VHDX_PAGE || dp_ld32(p + TAIL) >= v->log_length)
        return 0;
    if (s->budget < length) {
        s->budget = 0;
        return 0;
    }
    s->budget -= length;
    uint32_t first = DP_MIN(length, v->log_length - at), sum = dp_ld32(p + 4);
    memcpy(s->entry, p, first);
    memcpy(s->entry + first, v->log_data, length - first);
    dp_st32(s->entry + 4, 0);
    return dp_crc32c(0, s->entry, length) == sum ? length : 0;
}

/* The active sequence: its last entry's tail, and how many entries there are from it. */
static unsigned find(struct scan *s, uint32_t *tail)
{
    struct vhdx *v = s->v;
    uint64_t best = 0;
    unsigned found = 0;
    for (uint64_t start = 0; start < v->log_length && s->budget;) {
        uint32_t at = start, length, last_tail = 0;
        uint64_t sequence = 0, covered = 0, run = 0, flushed = 0, last = 0;
        while (covered < v->log_length && (length = take(s, at)) && (!run || dp_ld64(s->entry + SEQUENCE) == sequence + 1)) {
            sequence = dp_ld64(s->entry + SEQUENCE);
            last_tail = dp_ld32(s->entry + TAIL);
            flushed = dp_ld64(s->entry + FLUSHED);
            last = dp_ld64(s->entry + LAST);
            covered += length;
            at = (at + length) % v->log_length;
            run++;
        }
        /* Is the tail one of the run's entries? */
        uint64_t left = run;
        uint32_t k = start;
        while (left && k != last_tail) {
            k = (k + dp_ld32(v->log_data + k + ENTRY_LENGTH)) % v->log_length;
            left--;
        }
        if (left && sequence > best) {
            best = sequence;
            s->flushed = flushed;
            s->last = last;
            found = left;
            *tail = last_tail;
        }
        start += run ? DP_MAX(covered, (uint64_t)VHDX_PAGE) : VHDX_PAGE;
    }
    return found;
}

static bool add(struct scan *s, uint64_t at, const uint8_t *data)
{
    if (s->patches == PATCHES_MAX)
        return false;
    s->v->patch[s->patches++] = (struct dp_table_patch){at, data};
    return true;
}

/* The changes of the entry at hand. False: it makes no sense. */
static bool apply(struct scan *s)
{
    const uint8_t *e = s->entry;
    uint64_t count = dp_ld32(e + DESCRIPTORS), length = dp_ld32(e + ENTRY_LENGTH), sequence = dp_ld64(e + SEQUENCE);
    uint64_t sector = DP_ALIGN_UP(ENTRY_HEAD + count * DESCRIPTOR, (uint64_t)VHDX_PAGE);
    for (uint64_t n = 0; n < count; n++) {
        const uint8_t *d = e + ENTRY_HEAD + n * DESCRIPTOR;
        uint64_t at = dp_ld64(d + 16);
        if (at % VHDX_PAGE || at < HEADERS_END || at > FILE_MAX || dp_ld64(d + 24) != sequence)
            return false;
        if (!memcmp(d, "zero", 4)) {
            uint64_t size = dp_ld64(d + 8);
            if (size % VHDX_PAGE || size > VHDX_LOG_MAX)
                return false;
            for (uint64_t k = 0; k < size; k += VHDX_PAGE)
                if (!add(s, at + k, zeros))
                    return false;
            continue;
        }
        const uint8_t *p = e + sector;
        if (memcmp(d, "desc", 4) || sector + VHDX_PAGE > length || memcmp(p, "data", 4) || dp_ld32(p + 4) != sequence >> 32 ||
            dp_ld32(p + VHDX_PAGE - 4) != (uint32_t)sequence)
            return false;
        uint8_t *page = s->v->log_pages + s->pages++ * VHDX_PAGE; /* entries do not overlap: there are at most as many as the log has */
        memcpy(page, d + 8, 8);
        memcpy(page + 8, p + 8, VHDX_PAGE - 12);
        memcpy(page + VHDX_PAGE - 4, d + 4, 4);
        if (!add(s, at, page))
            return false;
        sector += VHDX_PAGE;
    }
    return true;
}

static int by_place(const void *a, const void *b)
{
    const struct dp_table_patch *x = a, *y = b;
    return x->at != y->at ? (x->at < y->at ? -1 : 1) : 0;
}

/* Sorted, and of changes of one page the last only. (Insertion keeps the order; logs are short and mostly sorted.) */
static void settle(struct scan *s)
{
    struct dp_table_patch *p = s->v->patch;
    size_t n = 0;
    for (size_t k = 0; k < s->patches; k++) {
        struct dp_table_patch next = p[k];
        size_t low = 0, high = n;
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (by_place(&p[middle], &next) < 0)
                low = middle + 1;
            else
                high = middle;
        }
        if (low < n && p[low].at == next.at) {
            p[low] = next;
            continue;
        }
        memmove(p + low + 1, p + low, (n - low) * sizeof *p);
        p[low] = next;
        n++;
    }
    s->patches = n;
}

static int replay(struct scan *s, bool repair, struct dp_error *e)
{
    struct vhdx *v = s->v;
    struct dp_image *i = &v->image;
    uint32_t at = 0, length;
    unsigned count = find(s, &at);
    bool good = s->budget && s->last <= FILE_MAX;
    s->budget = good ? v->log_length : 0;
    v->log_lost = good && !count;
    if (v->log_lost && !repair)
        return dp_error_set(e, -EINVAL,
                            "disk %s was not closed, and nothing in its log is valid; drop it with: "
                            "doppel image check -f vhdx -r all %s",
                            i->name, i->name);
    if (v->log_lost)
        return 0;
    if (good && s->flushed > i->file->size)
        return dp_error_set(e, -EINVAL, "disk %s was cut off: %llu bytes are missing at least; copy it again", i->name,
                            (unsigned long long)(s->flushed - i->file->size));
    for (; good && count; count--)
        if ((good = (length = take(s, at)) && apply(s)))
            at = (at + length) % v->log_length;
    if (!good)
        return dp_error_set(e, -EINVAL, "disk %s was not closed, and its log is damaged: let Hyper-V repair it, or take a copy", i->name);
    settle(s);
    v->end = s->last;
    if (i->readonly) {
        v->table.patch = v->patch;
        v->table.patches = s->patches;
        return 0;
    }
    int rc = vhdx_mark(v, false);
    for (size_t n = 0; !rc && n < s->patches; n++)
        rc = dp_image_pwrite(i->file, v->patch[n].data, VHDX_PAGE, v->patch[n].at);
    if (!rc && s->last > i->file->size)
        rc = dp_image_zero(i->file, i->file->size, s->last - i->file->size, 0);
    if (!rc)
        rc = vhdx_end_log(v);
    return rc ? dp_error_set(e, rc, "disk %s: its log cannot be carried out: %s", i->name, strerror(-rc)) : 0;
}

int vhdx_replay(struct vhdx *v, bool repair, struct dp_error *e)
{
    struct dp_image *i = &v->image;
    struct scan s = {.v = v, .budget = (uint64_t)CHECK_FACTOR * v->log_length};
    if (v->log_length > VHDX_LOG_MAX)
        return dp_error_set(e, -ENOTSUP, "disk %s was not closed, and its log of %u bytes is too large: let Hyper-V open it once", i->name,
                            v->log_length);
    if (!v->log_length)
        return dp_error_set(e, -EINVAL, "disk %s is damaged: it has no log to be repaired from", i->name);
    v->log_data = malloc(v->log_length);
    v->log_pages = malloc(v->log_length);
    v->patch = malloc(PATCHES_MAX * sizeof *v->patch);
    s.entry = malloc(v->log_length);
    int rc = v->log_data && v->log_pages && v->patch && s.entry ? 0 : dp_error_set(e, -ENOMEM, "disk %s: out of memory", i->name);
    if (!rc && (rc = dp_image_pread(i->file, v->log_data, v->log_length, v->log)))
        dp_error_set(e, rc, "disk %s cannot be read: %s", i->name, strerror(-rc));
    if (!rc)
        rc = replay(&s, repair, e);
    free(s.entry);
    free(v->log_data);
    v->log_data = NULL;
    return rc;
}
