/* qcow2_snapshot.c - internal snapshots: states of the disk that are kept in the image itself.
 *
 * Model: a snapshot is a copy of the L1 table; every L2 table and every cluster that it refers to has one reference more. What has more
 * than one is not written in place (no COPIED flag), so the disk's own tables part from the snapshot's as they change. Order, so that a
 * crash leaks at worst: references go up and the flags go away first (a commit); then the new list of snapshots is written to a new place;
 * then the header is switched to it; then, when one was deleted, references go down. Applying one switches the header to a copy of its L1
 * table. The snapshot's own copy of a VM's state (vm_state_size) is kept, never made. Source: QEMU's docs/interop/qcow2.txt, "Snapshots".
 */
#include <inttypes.h>
#include <stdlib.h>

#include "block/qcow2.h"

enum { HEAD = 40, EXTRA = 16, SNAPSHOTS_MAX = 65536, LIST_MAX = 64 << 20, EXTRA_MAX = 1024 };

struct snapshot {
    struct dp_image_snapshot about;
    uint64_t l1_offset;
    uint32_t l1_size;
    uint32_t extra_size;
    uint8_t extra[EXTRA_MAX];
};

static uint32_t be32(const uint8_t *p) { return __builtin_bswap32(dp_ld32(p)); }
static uint64_t be64(const uint8_t *p) { return qcow2_be(dp_ld64(p)); }
static void st32(uint8_t *p, uint32_t v) { dp_st32(p, __builtin_bswap32(v)); }
static void st64(uint8_t *p, uint64_t v) { dp_st64(p, qcow2_be(v)); }
static void st16(uint8_t *p, uint16_t v) { dp_st16(p, __builtin_bswap16(v)); }

/* ---- the list ---- */

static int read_one(struct qcow2 *q, uint64_t *at, struct snapshot *s)
{
    uint8_t h[HEAD];
    int rc = qcow2_pread(q, h, HEAD, *at);
    if (rc)
        return rc;
    uint32_t id = h[12] << 8 | h[13], name = h[14] << 8 | h[15];
    *s = (struct snapshot){.l1_offset = be64(h), .l1_size = be32(h + 8), .extra_size = be32(h + 36)};
    s->about.date_seconds = be32(h + 16);
    s->about.date_nanoseconds = be32(h + 20);
    s->about.vm_clock_ns = be64(h + 24);
    s->about.vm_state_size = be32(h + 32);
    s->about.disk_size = q->image.size;
    if (s->extra_size > EXTRA_MAX || id >= sizeof s->about.id || s->l1_size > QCOW2_L1_ENTRIES_MAX || s->l1_offset & (q->cluster - 1) ||
        (s->l1_size && s->l1_offset + s->l1_size * 8ull > q->file_end))
        return qcow2_corrupt(q, "a snapshot's entry cannot be", *at);
    uint32_t shown = DP_MIN(name, (uint32_t)sizeof s->about.name - 1);
    if ((rc = qcow2_pread(q, s->extra, s->extra_size, *at + HEAD)) || (rc = qcow2_pread(q, s->about.id, id, *at + HEAD + s->extra_size)) ||
        (rc = qcow2_pread(q, s->about.name, shown, *at + HEAD + s->extra_size + id)))
        return rc;
    if (s->extra_size >= 8 && be64(s->extra))
        s->about.vm_state_size = be64(s->extra);
    if (s->extra_size >= 16)
        s->about.disk_size = be64(s->extra + 8);
    *at = DP_ALIGN_UP(*at + HEAD + s->extra_size + id + name, 8);
    return 0;
}

/* All of them, and how many bytes they take in the file. */
static int read_list(struct qcow2 *q, struct snapshot **out, uint64_t *bytes, struct dp_error *e)
{
    uint64_t at = q->snapshots_offset;
    *out = NULL;
    *bytes = 0;
    if (!q->snapshots)
        return 0;
    if (q->snapshots > SNAPSHOTS_MAX || at & (q->cluster - 1) || !at || at >= q->file_end)
        return dp_error_set(e, -EINVAL, "disk %s is damaged: its list of snapshots is not inside the file", q->image.name);
    struct snapshot *list = NULL;
    int rc = 0;
    for (uint32_t i = 0; !rc && i < q->snapshots; i++) {
        if (!(i & (i - 1))) { /* as many as there are, not as the header says */
            struct snapshot *more = realloc(list, DP_MAX(2 * i, 1u) * sizeof *list);
            if (!more) {
                rc = -ENOMEM;
                break;
            }
            list = more;
        }
        rc = read_one(q, &at, &list[i]);
        if (!rc && at - q->snapshots_offset > LIST_MAX)
            rc = -EFBIG;
    }
    if (rc) {
        free(list);
        return dp_error_set(e, rc, "the snapshots of disk %s cannot be read: %s", q->image.name, strerror(-rc));
    }
    *out = list;
    *bytes = at - q->snapshots_offset;
    return 0;
}

static size_t entry_size(const struct snapshot *s)
{
    return DP_ALIGN_UP(HEAD + s->extra_size + strlen(s->about.id) + strlen(s->about.name), 8);
}

static void put_entry(uint8_t *p, const struct snapshot *s)
{
    size_t id = strlen(s->about.id), name = strlen(s->about.name);
    st64(p, s->l1_offset);
    st32(p + 8, s->l1_size);
    st16(p + 12, id);
    st16(p + 14, name);
    st32(p + 16, s->about.date_seconds);
    st32(p + 20, s->about.date_nanoseconds);
    st64(p + 24, s->about.vm_clock_ns);
    st32(p + 32, s->about.vm_state_size > UINT32_MAX ? 0 : s->about.vm_state_size);
    st32(p + 36, s->extra_size);
    memcpy(p + HEAD, s->extra, s->extra_size);
    memcpy(p + HEAD + s->extra_size, s->about.id, id);
    memcpy(p + HEAD + s->extra_size + id, s->about.name, name);
}

/* The list becomes this one, in a new place; old_bytes: of the old one, which is given back. */
static int write_list(struct qcow2 *q, const struct snapshot *list, uint32_t count, uint64_t old_bytes)
{
    uint64_t bytes = 0, old = q->snapshots_offset, at = 0;
    uint8_t field[12] = {0}, *all = NULL, *p; /* nb_snapshots, snapshots_offset: within one sector */
    int rc = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += entry_size(&list[i]);
    if (bytes > LIST_MAX)
        return -EFBIG;
    if (count) {
        if (!(p = all = calloc(1, bytes)))
            return -ENOMEM;
        for (uint32_t i = 0; i < count; p += entry_size(&list[i++]))
            put_entry(p, &list[i]);
        if (!(rc = qcow2_alloc_row(q, DP_ALIGN_UP(bytes, q->cluster) >> q->cluster_bits, &at)))
            rc = qcow2_pwrite(q, all, bytes, at);
        free(all);
    }
    if (rc || (rc = qcow2_commit(q)))
        return rc;
    st32(field, count);
    st64(field + 4, at);
    if ((rc = qcow2_pwrite(q, field, sizeof field, 60)) || (rc = dp_image_flush(q->image.file))) {
        q->failed = true; /* which list counts is unknown */
        return rc;
    }
    q->snapshots = count;
    q->snapshots_offset = at;
    return old_bytes ? qcow2_release(q, old, DP_ALIGN_UP(old_bytes, q->cluster) >> q->cluster_bits, true) : 0;
}

static struct snapshot *find(struct snapshot *list, uint32_t count, const char *what)
{
    for (uint32_t i = 0; i < count; i++) /* an id is tried first, as by qemu-img */
        if (!strcmp(list[i].about.id, what))
            return &list[i];
    for (uint32_t i = 0; i < count; i++)
        if (!strcmp(list[i].about.name, what))
            return &list[i];
    return NULL;
}

/* ---- references ---- */

/* The clusters that an entry refers to. */
static uint64_t clusters_of(const struct qcow2 *q, uint64_t d, uint64_t *first)
{
    if (d & QCOW2_COMPRESSED) {
        unsigned x = 62 - (q->cluster_bits - 8);
        uint64_t at = d & ((1ull << x) - 1) & 0x00ffffffffffffffull;
        uint64_t last = (at & ~511ull) + (((d & (QCOW2_COMPRESSED - 1)) >> x) + 1) * 512 - 1;
        *first = at >> q->cluster_bits;
        return (last >> q->cluster_bits) - *first + 1;
    }
    *first = (d & QCOW2_OFFSET) >> q->cluster_bits;
    return d & QCOW2_OFFSET ? 1 : 0;
}

/* Calls fn for each run of clusters that l1 refers to: L2 tables and what is in them. */
static int each(struct qcow2 *q, const uint64_t *l1, uint32_t entries,
                int (*fn)(struct qcow2 *q, uint64_t first, uint64_t count, void *opaque), void *opaque)
{
    int rc = 0;
    for (uint32_t i = 0; !rc && i < entries; i++) {
        uint64_t table = l1[i] & QCOW2_OFFSET, first, n;
        if (!table)
            continue;
        rc = qcow2_table_ok(q, table);
        for (uint64_t at = 0; !rc && at < q->cluster; at += qcow2_entry_bytes(q)) {
            struct qcow2_slice *s;
            uint64_t slice = at & ~((1ull << q->slice_bits) - 1);
            if ((rc = qcow2_slice(q, QCOW2_L2, table + slice, &s))) /* again each time: fn may have thrown it out */
                break;
            if ((n = clusters_of(q, qcow2_be(dp_ld64(s->data + at - slice)), &first)))
                rc = fn(q, first, n, opaque);
        }
        if (!rc)
            rc = fn(q, table >> q->cluster_bits, 1, opaque);
    }
    return rc;
}

struct progress {
    uint64_t done, stop;
};

static int up(struct qcow2 *q, uint64_t first, uint64_t count, void *opaque)
{
    struct progress *p = opaque;
    int rc = 0;
    for (uint64_t i = 0; !rc && i < count; i++)
        if (!(rc = qcow2_add_refcount(q, first + i)))
            p->done++;
    return rc;
}

/* Takes back what `up` did before it failed. */
static int undo(struct qcow2 *q, uint64_t first, uint64_t count, void *opaque)
{
    struct progress *p = opaque;
    for (uint64_t i = 0; i < count; i++) {
        if (p->done == p->stop)
            return -ECANCELED;
        p->done++;
        qcow2_unalloc(q, (first + i) << q->cluster_bits, 1);
    }
    return 0;
}

static int down(struct qcow2 *q, uint64_t first, uint64_t count, void *opaque)
{
    return qcow2_release(q, first << q->cluster_bits, count, true);
}

static int add_references(struct qcow2 *q, const uint64_t *l1, uint32_t entries)
{
    struct progress p = {0};
    int rc = each(q, l1, entries, up, &p);
    if (rc) {
        struct progress back = {0, p.done};
        int ignored = each(q, l1, entries, undo, &back);
        (void)ignored; /* what is not taken back leaks */
    }
    return rc;
}

/* COPIED flags of the disk's own tables as the refcounts are now. */
static int set_flags(struct qcow2 *q)
{
    int rc = 0;
    uint64_t value;
    for (uint32_t i = 0; !rc && i < q->l1_size; i++) {
        uint64_t table = q->l1[i] & QCOW2_OFFSET;
        if (!table)
            continue;
        if ((rc = qcow2_get_refcount(q, table >> q->cluster_bits, &value)))
            return rc;
        uint64_t l1 = table | (value == 1 ? QCOW2_COPIED : 0);
        if (q->l1[i] != l1) {
            q->l1[i] = l1;
            qcow2_l1_changed(q, i);
        }
        for (uint64_t at = 0; !rc && at < q->cluster; at += qcow2_entry_bytes(q)) {
            struct qcow2_slice *s;
            uint64_t slice = at & ~((1ull << q->slice_bits) - 1), d;
            if ((rc = qcow2_slice(q, QCOW2_L2, table + slice, &s)))
                return rc;
            d = qcow2_be(dp_ld64(s->data + at - slice));
            if (d & QCOW2_COMPRESSED || !(d & QCOW2_OFFSET))
                continue;
            if ((rc = qcow2_get_refcount(q, (d & QCOW2_OFFSET) >> q->cluster_bits, &value)) || (!!(d & QCOW2_COPIED) == (value == 1)))
                continue;
            if ((rc = qcow2_slice(q, QCOW2_L2, table + slice, &s)))
                return rc;
            dp_st64(s->data + at - slice, qcow2_be(d ^ QCOW2_COPIED));
            s->dirty = q->l2_dirty = true;
        }
    }
    return rc;
}

/* ---- what can be done with them ---- */

int qcow2_snapshot_list(struct dp_image *i, struct dp_image_snapshot **out, unsigned *count, struct dp_error *e)
{
    struct qcow2 *q = (struct qcow2 *)i;
    struct snapshot *list;
    uint64_t bytes;
    int rc = read_list(q, &list, &bytes, e);
    *out = NULL;
    *count = q->snapshots;
    if (!rc && *count && !(*out = malloc(*count * sizeof **out)))
        rc = dp_error_set(e, -ENOMEM, "out of memory");
    for (unsigned n = 0; !rc && n < *count; n++)
        (*out)[n] = list[n].about;
    free(list);
    return rc;
}

/* Lists, and an own L1 table of the image, ready for a change. */
static int begin(struct qcow2 *q, struct snapshot **list, uint64_t *bytes, struct dp_error *e)
{
    if (q->has_data)
        return dp_error_set(e, -ENOTSUP, "disk %s has its data in another file, of which there are no snapshots", q->image.name);
    int rc = qcow2_may_change(q);
    if (!rc)
        rc = qcow2_commit(q);
    return rc ? dp_error_set(e, rc, "disk %s cannot be written: %s", q->image.name, strerror(-rc)) : read_list(q, list, bytes, e);
}

static int finish(struct qcow2 *q, struct snapshot *list, int rc, const char *what, struct dp_error *e)
{
    free(list);
    if (!rc)
        rc = qcow2_commit(q); /* gives back what became free; the next one writes that down */
    if (!rc)
        rc = qcow2_commit(q);
    if (rc == -EOVERFLOW)
        return dp_error_set(e, rc, "disk %s: its refcounts of %d bits cannot count one more snapshot", q->image.name,
                            1 << q->refcount_order);
    return rc ? dp_error_set(e, rc, "a snapshot of disk %s cannot be %s: %s", q->image.name, what, strerror(-rc)) : 0;
}

static int copy_l1(struct qcow2 *q, uint64_t *at)
{
    uint64_t bytes = q->l1_size * 8ull;
    uint64_t *l1 = malloc(DP_MAX(bytes, 8));
    int rc = l1 ? qcow2_alloc_row(q, DP_ALIGN_UP(DP_MAX(bytes, 1), q->cluster) >> q->cluster_bits, at) : -ENOMEM;
    for (uint32_t i = 0; !rc && i < q->l1_size; i++)
        l1[i] = qcow2_be(q->l1[i] & ~QCOW2_COPIED);
    if (!rc)
        rc = qcow2_pwrite(q, l1, bytes, *at);
    free(l1);
    return rc;
}

int qcow2_snapshot_create(struct dp_image *i, const struct dp_image_snapshot *about, struct dp_error *e)
{
    struct qcow2 *q = (struct qcow2 *)i;
    struct snapshot *list, *more;
    uint64_t bytes, id = 0;
    int rc = begin(q, &list, &bytes, e);
    if (rc)
        return rc;
    for (uint32_t n = 0; n < q->snapshots; n++)
        id = DP_MAX(id, strtoull(list[n].about.id, NULL, 10));
    if (*about->id && find(list, q->snapshots, about->id))
        rc = dp_error_set(e, -EEXIST, "disk %s has a snapshot '%s' already", i->name, about->id);
    else if (q->snapshots == SNAPSHOTS_MAX)
        rc = dp_error_set(e, -E2BIG, "disk %s has %d snapshots: delete one first", i->name, SNAPSHOTS_MAX);
    else if (!(more = realloc(list, (q->snapshots + 1ull) * sizeof *list)))
        rc = dp_error_set(e, -ENOMEM, "out of memory");
    if (rc) {
        free(list);
        return rc;
    }
    list = more;
    struct snapshot *s = &list[q->snapshots];
    *s = (struct snapshot){.about = *about, .l1_size = q->l1_size, .extra_size = EXTRA};
    if (!*s->about.id)
        snprintf(s->about.id, sizeof s->about.id, "%" PRIu64, id + 1);
    st64(s->extra, s->about.vm_state_size);
    st64(s->extra + 8, i->size);
    if (!(rc = add_references(q, q->l1, q->l1_size)) && !(rc = set_flags(q)) && !(rc = qcow2_commit(q)) &&
        !(rc = copy_l1(q, &s->l1_offset)))
        rc = write_list(q, list, q->snapshots + 1, bytes);
    return finish(q, list, rc, "made", e);
}

static int read_l1(struct qcow2 *q, const struct snapshot *s, uint32_t entries, uint64_t **out)
{
    if (!(*out = calloc(DP_MAX(entries, 1u), 8)))
        return -ENOMEM;
    int rc = qcow2_pread(q, *out, s->l1_size * 8ull, s->l1_offset);
    for (uint32_t i = 0; !rc && i < s->l1_size; i++) {
        (*out)[i] = qcow2_be((*out)[i]) & ~QCOW2_COPIED;
        if ((*out)[i] & ~QCOW2_OFFSET || (*out)[i] & (q->cluster - 1))
            rc = qcow2_corrupt(q, "an entry of a snapshot's L1 table cannot be", s->l1_offset);
    }
    return rc;
}

static struct snapshot *named(struct qcow2 *q, struct snapshot *list, const char *what, struct dp_error *e)
{
    struct snapshot *s = find(list, q->snapshots, what);
    if (!s)
        dp_error_set(e, -ENOENT, "disk %s has no snapshot '%.100s'; `doppel image snapshot -l` lists them", q->image.name, what);
    return s;
}

int qcow2_snapshot_delete(struct dp_image *i, const char *what, struct dp_error *e)
{
    struct qcow2 *q = (struct qcow2 *)i;
    struct snapshot *list, *s;
    uint64_t bytes, *l1 = NULL;
    int rc = begin(q, &list, &bytes, e);
    if (rc)
        return rc;
    if (!(s = named(q, list, what, e))) {
        free(list);
        return -ENOENT;
    }
    struct snapshot gone = *s;
    memmove(s, s + 1, (char *)(list + q->snapshots) - (char *)(s + 1));
    if (!(rc = read_l1(q, &gone, gone.l1_size, &l1)) && !(rc = write_list(q, list, q->snapshots - 1, bytes)) &&
        !(rc = each(q, l1, gone.l1_size, down, NULL)) &&
        !(rc = qcow2_release(q, gone.l1_offset, DP_ALIGN_UP(gone.l1_size * 8ull, q->cluster) >> q->cluster_bits, true)) &&
        !(rc = qcow2_commit(q)))
        rc = set_flags(q);
    free(l1);
    return finish(q, list, rc, "deleted", e);
}

int qcow2_snapshot_apply(struct dp_image *i, const char *what, struct dp_error *e)
{
    struct qcow2 *q = (struct qcow2 *)i;
    struct snapshot *list, *s;
    uint64_t bytes, *l1 = NULL, *old = NULL, at;
    int rc = begin(q, &list, &bytes, e);
    if (rc)
        return rc;
    if (!(s = named(q, list, what, e))) {
        free(list);
        return -ENOENT;
    }
    uint64_t size = s->about.disk_size, needed = size ? ((size - 1) >> (q->cluster_bits + q->l2_bits)) + 1 : 0;
    if (!size || size > INT64_MAX - q->cluster || needed > s->l1_size) {
        free(list);
        return dp_error_set(e, -EINVAL, "disk %s: snapshot '%.100s' says that the disk had %llu bytes, which cannot be", i->name, what,
                            (unsigned long long)size);
    }
    uint32_t entries = s->l1_size, old_entries = q->l1_size;
    bool resized = size != i->size;
    if ((rc = resized ? qcow2_bitmaps_before_resize(q) : 0) || (rc = qcow2_bitmaps_record(q, 0, i->size)))
        return finish(q, list, rc, "applied", e);
    if (!(old = malloc(DP_MAX(old_entries, 1u) * 8ull)))
        rc = -ENOMEM;
    else
        memcpy(old, q->l1, old_entries * 8ull);
    if (!rc && !(rc = read_l1(q, s, entries, &l1)) && !(rc = add_references(q, l1, entries)) &&
        !(rc = qcow2_alloc_row(q, DP_ALIGN_UP(entries * 8ull, q->cluster) >> q->cluster_bits, &at)) &&
        !(rc = qcow2_switch_l1(q, l1, entries, at, size))) {
        l1 = NULL;
        i->size = size;
        if (!(rc = each(q, old, old_entries, down, NULL)) && !(rc = qcow2_commit(q)))
            rc = set_flags(q);
        if (resized) { /* what it has that was not there before is another, too */
            int stored = qcow2_bitmaps_after_resize(q);
            if (!stored)
                stored = qcow2_bitmaps_record(q, 0, size);
            rc = rc ? rc : stored;
        }
    }
    free(l1);
    free(old);
    return finish(q, list, rc, "applied", e);
}

int qcow2_open_snapshot(struct qcow2 *q, const char *what, struct dp_error *e)
{
    struct snapshot *list, *s;
    uint64_t bytes, *l1 = NULL;
    int rc = q->has_data ? dp_error_set(e, -ENOTSUP, "disk %s has its data in another file, of which there are no snapshots", q->image.name)
                         : read_list(q, &list, &bytes, e);
    if (rc)
        return rc;
    if (!(s = named(q, list, what, e))) {
        free(list);
        return -ENOENT;
    }
    uint64_t size = s->about.disk_size, needed = size ? ((size - 1) >> (q->cluster_bits + q->l2_bits)) + 1 : 0;
    if (!size || size > INT64_MAX - q->cluster || needed > s->l1_size)
        rc = dp_error_set(e, -EINVAL, "disk %s: snapshot '%.100s' cannot have %llu bytes", q->image.name, what, (unsigned long long)size);
    else if ((rc = read_l1(q, s, s->l1_size, &l1)))
        dp_error_set(e, rc, "snapshot '%.100s' of disk %s cannot be read: %s", what, q->image.name, strerror(-rc));
    if (!rc) {
        free(q->l1);
        q->l1 = l1;
        q->l1_size = s->l1_size;
        q->l1_offset = s->l1_offset;
        q->image.size = size;
        l1 = NULL;
    }
    free(l1);
    free(list);
    return rc;
}
