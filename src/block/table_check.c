/* table_check.c - tables of blocks looked through: blocks that are nowhere, over one another, or of no use; and mended. Model: table.h.
 *
 * Blocks do not overlap, so at most one begins in each piece of the file of a block's size (a slot): one number for each slot is all there
 * is to remember, in the order of the file. Mending: an entry that points nowhere is emptied; of two blocks in one place the second gets a
 * copy; room that is of no use is filled by the blocks that lie last, whose bytes are on the disk before their entries change. So a repair
 * that was cut off can be begun again.
 */
#include <stdlib.h>

#include "block/table.h"

enum { SLOTS_MAX = 1 << 27 }; /* 8 TiB in blocks of 64 KiB */

struct slots {
    const struct dp_table_map *m;
    uint64_t limit, count, used, outside, overlaps, leaks;
    uint32_t *start; /* of each slot: 1 + where in it the block begins, in units from the map's base; 0: none does */
};

static uint64_t start_of(const struct slots *s, uint64_t k) { return s->m->base + (uint64_t)(s->start[k] - 1) * s->m->unit; }

/* False: another block is there, in part at least. */
static bool insert(struct slots *s, uint64_t at)
{
    uint64_t k = (at - s->m->base) / s->m->size;
    if (s->start[k] || (k && s->start[k - 1] && start_of(s, k - 1) + s->m->size > at) ||
        (s->start[k + 1] && start_of(s, k + 1) < at + s->m->size))
        return false;
    s->start[k] = 1 + (at - s->m->base) / s->m->unit;
    return true;
}

static bool is_outside(const struct dp_table_map *m, uint64_t limit, uint64_t at)
{
    return at == DP_TABLE_NOWHERE || at >= limit || at < m->base || (at - m->base) % m->unit;
}

/* The entry n, and n becomes the last of the group that is not there. */
static int fetch(const struct dp_table_map *m, uint64_t *n, uint64_t *at)
{
    int rc = m->get(m->owner, *n, at);
    if (!rc && *at == DP_TABLE_NO_GROUP) {
        *n += m->group - 1 - *n % m->group;
        *at = 0;
    }
    return rc;
}

int dp_table_end(const struct dp_table_map *m, uint64_t *end)
{
    uint64_t limit = m->limit ? m->limit : m->table->file->size;
    *end = m->base;
    for (uint64_t n = 0, at; n < m->count; n++) {
        int rc = fetch(m, &n, &at);
        if (rc)
            return rc;
        if (at && is_outside(m, limit, at))
            return -EIO;
        if (at)
            *end = DP_MAX(*end, at + m->size);
    }
    return 0;
}

static void report(struct dp_image_check *c, const struct dp_table_map *m, uint64_t n, uint64_t at, const char *what)
{
    char line[160];
    snprintf(line, sizeof line, "%s %llu of the disk is at byte %llu of the file, %s", m->name, (unsigned long long)n,
             (unsigned long long)at, what);
    if (c->report)
        c->report(c->opaque, line);
}

static int scan(struct dp_image *i, struct slots *s, struct dp_image_check *c)
{
    const struct dp_table_map *m = s->m;
    uint64_t at;
    int rc = 0;
    for (uint64_t n = 0; !rc && n < m->count; n++) {
        if (c->progress && n % 512 == 0)
            c->progress(c->opaque, n, m->count);
        if ((rc = fetch(m, &n, &at)) || !at)
            continue;
        s->used++;
        if (is_outside(m, s->limit, at)) {
            s->outside++;
            report(c, m, n, at, "where no block can be");
        } else if (!insert(s, at)) {
            s->overlaps++;
            report(c, m, n, at, "where another is too");
        }
    }
    return rc;
}

/* The next place for a block at `at` or behind it, before `end`; UINT64_MAX: there is none. */
static uint64_t next_room(const struct dp_table_map *m, uint64_t at, uint64_t end)
{
    for (at = DP_ALIGN_UP(at - m->base, m->align) + m->base; at + m->size <= end; at += m->align)
        if (!m->room || m->room(m->owner, at))
            return at;
    return UINT64_MAX;
}

struct walk {
    uint64_t at, slot; /* from where on to look for room; the first slot whose block may be behind that */
};

static struct walk begin(const struct slots *s)
{
    uint64_t k = 0;
    while (k < s->count && !s->start[k])
        k++;
    return (struct walk){s->m->dense ? s->m->base : k < s->count ? start_of(s, k) + s->m->size : s->limit, s->m->dense ? 0 : k + 1};
}

static uint64_t next_free(const struct slots *s, struct walk *w)
{
    for (;; w->slot++) {
        while (w->slot < s->count && !s->start[w->slot])
            w->slot++;
        uint64_t end = w->slot < s->count ? start_of(s, w->slot) : s->limit, at = next_room(s->m, w->at, end);
        if (at != UINT64_MAX) {
            w->at = at + s->m->size;
            return at;
        }
        if (w->slot >= s->count)
            return UINT64_MAX;
        w->at = end + s->m->size;
    }
}

/* A copy of its own, by the driver's own way to new blocks. */
static int copy_out(struct dp_image *i, const struct dp_table_map *m, uint64_t n)
{
    uint64_t at = m->disk + n * m->bytes, size = at < i->size ? DP_MIN(m->bytes, i->size - at) : 0;
    uint8_t *data = malloc(size + 1);
    int rc = data ? dp_image_pread(i, data, size, at) : -ENOMEM;
    if (!rc && (i->readonly || (i->backing_name && !i->backing)))
        rc = -ENOTSUP;
    if (!rc && !(rc = m->set(m->owner, n, 0)))
        rc = dp_image_pwrite(i, data, size, at);
    free(data);
    return rc;
}

static int move(const struct dp_table_map *m, uint64_t n, uint64_t from, uint64_t to, uint8_t *data)
{
    int rc = dp_image_pread(m->table->file, data, m->size, from);
    if (!rc)
        rc = dp_image_pwrite(m->table->file, data, m->size, to);
    return rc ? rc : m->set(m->owner, n, to);
}

/* s: what was found. A second one of a place goes where room was lost, if there is such. */
static int mend(struct dp_image *i, const struct slots *s, struct dp_image_check *c)
{
    const struct dp_table_map *m = s->m;
    struct slots again = *s;
    struct walk w = begin(s);
    uint8_t *data = malloc(m->size);
    again.start = calloc(s->count + 2, sizeof *s->start);
    int rc = data && again.start ? 0 : -ENOMEM;
    for (uint64_t n = 0, at, to; !rc && n < m->count; n++) {
        if ((rc = fetch(m, &n, &at)) || !at)
            continue;
        if (is_outside(m, s->limit, at))
            rc = m->set(m->owner, n, 0);
        else if (insert(&again, at))
            continue;
        else if (!m->crowded && (to = next_free(s, &w)) != UINT64_MAX)
            rc = move(m, n, at, to, data);
        else
            rc = copy_out(i, m, n);
        c->corruptions_fixed += !rc;
        rc = rc == -ENOTSUP ? 0 : rc;
    }
    free(again.start);
    free(data);
    return rc ? rc : dp_image_flush(i);
}

/* Blocks from `from` on go where there is room before. */
static int move_down(struct slots *s, uint64_t from)
{
    const struct dp_table_map *m = s->m;
    struct walk w = begin(s);
    uint8_t *data = malloc(m->size);
    int rc = data ? 0 : -ENOMEM;
    for (uint64_t n = 0, at, to; !rc && n < m->count; n++) {
        if ((rc = fetch(m, &n, &at)) || !at || at < from)
            continue;
        to = next_free(s, &w);
        if (to >= from)
            break;
        rc = move(m, n, at, to, data);
    }
    free(data);
    if (!rc && !(rc = dp_table_commit(m->table)))
        rc = dp_image_flush(m->table->file);
    return rc;
}

/* From where on blocks are to be moved: as many as there is room for before. */
static uint64_t cut_at(const struct slots *s)
{
    struct walk w = begin(s);
    uint64_t at, from = UINT64_MAX;
    for (uint64_t last = s->count; (at = next_free(s, &w)) != UINT64_MAX; from = start_of(s, last)) {
        do {
            if (!last)
                return from;
            last--;
        } while (!s->start[last]);
        if (start_of(s, last) < at)
            break;
    }
    return from;
}

static uint64_t end_of(const struct slots *s)
{
    uint64_t k = s->count;
    while (k && !s->start[k - 1])
        k--;
    return k ? start_of(s, k - 1) + s->m->size : s->m->base;
}

static int look(struct dp_image *i, struct slots *s, struct dp_image_check *c)
{
    s->limit = s->m->limit ? s->m->limit : s->m->table->file->size;
    s->count = s->limit > s->m->base ? (s->limit - s->m->base) / s->m->size + 1 : 0;
    s->used = s->outside = s->overlaps = s->leaks = 0;
    free(s->start);
    s->start = NULL;
    if (s->count > SLOTS_MAX)
        return -EFBIG;
    if (!(s->start = calloc(s->count + 2, sizeof *s->start)))
        return -ENOMEM;
    int rc = scan(i, s, c);
    struct walk w = begin(s);
    while (!rc && !s->m->crowded && next_free(s, &w) != UINT64_MAX)
        s->leaks++;
    return rc;
}

int dp_table_check(struct dp_image *i, struct dp_table_map *m, struct dp_image_check *c, uint64_t *end)
{
    struct slots s = {.m = m};
    bool all = c->repair_all && !i->readonly, leaks = (c->repair_leaks || all) && !i->readonly;
    int rc = look(i, &s, c);
    if (!rc && all && (s.outside || s.overlaps) && !(rc = mend(i, &s, c))) {
        if (m->refresh)
            m->refresh(m);
        rc = look(i, &s, c);
    }
    if (!rc && leaks && s.leaks && !s.outside && !s.overlaps) {
        uint64_t from = cut_at(&s);
        c->leaks_fixed += s.leaks;
        if (from != UINT64_MAX && !(rc = move_down(&s, from)))
            rc = look(i, &s, c);
        s.leaks = 0;
    }
    c->corruptions += s.outside + s.overlaps;
    c->leaks += s.leaks;
    c->clusters += m->count;
    c->allocated += s.used;
    *end = end_of(&s);
    free(s.start);
    return rc;
}
