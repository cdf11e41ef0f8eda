/* block/live_layers.c - the layers of a disk in use: new ones on top, ranges of them that are merged, and which images they are.
 *
 * Model: live_internal.h. A layer changes between read and written by being closed and opened again alone, with what lies below it kept
 * open: so files that are not concerned keep their locks, and no request comes in between. Invariants: what a layer says of its backing
 * file is changed only when all that it then misses is on the disk, by one write of its header; so at each moment, also after kill -9, the
 * image that the disk was opened with makes the disk. Of a commit to a base that is not just below, the layers in between go on existing as
 * files, and are no use to anybody: their base is another. (docs/decisions/0009-disks-in-use.md)
 */
#include <libgen.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "block/live_internal.h"

/* ---- layers ---- */

static struct dp_image **slot(const struct dp_live *l, unsigned n)
{
    struct dp_image **s = l->image;
    for (; n && *s; n--)
        s = &(*s)->backing;
    return s;
}

struct dp_image *dp_live_layer(const struct dp_live *l, unsigned n) { return *slot(l, n); }

static unsigned depth_of(const struct dp_image *i)
{
    unsigned n = 0;
    for (; i; i = i->backing)
        n++;
    return n;
}

static void lose(struct dp_live *l, const struct dp_error *why)
{
    if (l->block->trace)
        dp_trace_emit(l->block->trace, DP_TRACE_BLOCK, "disk %s is lost: %s", l->path, why->text);
    dp_image_close(*l->image);
    *l->image = NULL;
}

static struct dp_image_options alone(const struct dp_live *l, const char *name, const char *format, bool readonly)
{
    return (struct dp_image_options){.name = name,
                                     .format = format,
                                     .readonly = readonly,
                                     .backing_anywhere = true, /* what it names has been opened before */
                                     .backing_later = true,
                                     .secret = l->block->secret,
                                     .trace = l->block->trace};
}

/* Opens layer n again, for reading or for writing; else it is as it was, or -ENOLINK: the disk is lost. */
static int reopen(struct dp_live *l, unsigned n, bool readonly, struct dp_error *e)
{
    struct dp_image **s = slot(l, n), *old = *s, *below = old->backing;
    bool before = old->readonly;
    int rc = dp_live_flush(old, e);
    char *name = rc ? NULL : strdup(old->name);
    if (rc || !name)
        return rc ? rc : dp_error_set(e, -ENOMEM, "out of memory");
    struct dp_image_options o = alone(l, name, old->format->name, readonly);
    old->backing = *s = NULL;
    dp_image_close(old); /* with its lock */
    if ((rc = dp_image_open(&o, s, e))) {
        struct dp_error lost = {0};
        *s = NULL;
        o.readonly = before;
        if (dp_image_open(&o, s, &lost)) {
            *s = NULL;
            dp_image_close(below);
            lose(l, &lost);
            below = NULL;
            rc = -ENOLINK;
        }
    }
    free(name);
    if (*l->image)
        (*s)->backing = below;
    return rc;
}

void dp_live_now_on(struct dp_live *l, const char *path, const char *format)
{
    char *names[2] = {strdup(path), strdup(format)};
    if (!names[0] || !names[1]) { /* what it is called is not worth losing a disk for */
        free(names[0]);
        free(names[1]);
        return;
    }
    free(l->path);
    free(l->format);
    l->path = names[0];
    l->format = names[1];
    l->anywhere = true; /* whom we made the top of a chain of ours */
}

/* By which name an image knows what is below it: relative when they lie beside each other, so that both can be moved. */
static char *name_for(const char *file, const char *below)
{
    if (strstr(below, "://"))
        return strdup(below);
    char *real = realpath(below, NULL), *a = strdup(file), *b = real ? strdup(real) : NULL, *name = NULL;
    char *folder = a ? realpath(dirname(a), NULL) : NULL;
    if (real && b && folder)
        name = strdup(strcmp(folder, dirname(b)) ? real : strrchr(real, '/') + 1);
    free(real);
    free(a);
    free(b);
    free(folder);
    return name;
}

/* ---- ranges of layers ---- */

static bool is_named(const struct dp_image *i, const char *name)
{
    struct stat a, b;
    return !strcmp(i->name, name) ||
           (!strstr(name, "://") && !stat(i->name, &a) && !stat(name, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino);
}

static int find_layer(const struct dp_live *l, const char *name, unsigned *n, struct dp_error *e)
{
    *n = 0;
    for (const struct dp_image *i = *l->image; i; i = i->backing, (*n)++)
        if (is_named(i, name))
            return 0;
    return dp_error_set(e, -ENOENT, "disk %s has no layer %.400s; see: doppel disk ls", l->path, name);
}

static int need_names(const struct dp_image *i, bool empties, struct dp_error *e)
{
    return i->format->set_backing && (!empties || i->format->empty)
               ? 0
               : dp_error_set(e, -ENOTSUP, "%s: what lies below %s images cannot be changed", i->name, i->format->name);
}

int dp_live_find_range(struct dp_live *l, const struct dp_job_options *o, struct dp_error *e)
{
    struct dp_live_job *j = &l->job;
    struct dp_image *top = *l->image;
    unsigned depth = depth_of(top);
    bool commit = j->kind == DP_JOB_COMMIT;
    int rc = 0;
    if (depth < 2)
        return dp_error_set(e, -EINVAL, "disk %s has no layer below: there is nothing to %s", l->path, dp_job_kind_name[j->kind]);
    if (top->readonly)
        return dp_error_set(e, -EROFS, "disk %s is used for reading only", l->path);
    if (o->top && !commit)
        return dp_error_set(e, -EINVAL, "a stream goes into the topmost layer: give the base only");
    j->first = 0;
    if (o->top && (rc = find_layer(l, o->top, &j->first, e)))
        return rc;
    j->base = commit ? j->first + 1 : depth;
    if (o->base && (rc = find_layer(l, o->base, &j->base, e)))
        return rc;
    if (j->base <= j->first || (commit && j->base == depth))
        return dp_error_set(e, -EINVAL, "disk %s: %s is not below %s: see doppel disk ls", l->path, o->base ? o->base : "nothing",
                            dp_live_layer(l, j->first)->name);
    if (!commit && j->base == 1)
        return dp_error_set(e, -EINVAL, "disk %s: nothing lies between the topmost layer and %s", l->path, o->base);
    return need_names(commit && j->first ? dp_live_layer(l, j->first - 1) : top, commit && !j->first, e);
}

int dp_live_extent(struct dp_image *i, const struct dp_image *base, uint64_t offset, uint64_t size, struct dp_extent *x)
{
    for (;;) {
        int rc = dp_image_extent(i, offset, size, x);
        if (rc || x->kind != DP_EXTENT_UNALLOCATED || !i->backing || i->backing == base)
            return rc;
        size = x->size;
        i = i->backing;
    }
}

int dp_live_open_base(struct dp_live *l, struct dp_error *e)
{
    struct dp_live_job *j = &l->job;
    int rc = reopen(l, j->base, false, e);
    if (rc)
        return rc;
    struct dp_image *base = dp_live_layer(l, j->base);
    if (base->size < (*l->image)->size)
        rc = base->format->resize ? base->format->resize(base, (*l->image)->size, e)
                                  : dp_error_set(e, -ENOTSUP, "%s is smaller than the disk and cannot grow", base->name);
    if (rc)
        dp_live_close_base(l);
    else
        j->to = base;
    return rc;
}

void dp_live_close_base(struct dp_live *l)
{
    struct dp_error e = {0};
    struct dp_image *base = *l->image ? dp_live_layer(l, l->job.base) : NULL;
    l->job.to = NULL;
    if (base && !base->readonly && reopen(l, l->job.base, true, &e) && *l->image && l->block->trace)
        dp_trace_emit(l->block->trace, DP_TRACE_BLOCK, "disk %s: a layer below stays open for writing: %s", l->path, e.text);
}

/* In the file: what lies below layer n is now layer `below`, or nothing. It is written if it was only read. */
static int set_below(struct dp_live *l, unsigned n, const struct dp_image *below, struct dp_error *e)
{
    struct dp_image *i = dp_live_layer(l, n);
    bool readonly = i->readonly;
    char *name = below ? name_for(i->name, below->name) : NULL;
    if (below && !name)
        return dp_error_set(e, -errno, "%s cannot be found: %s", below->name, strerror(errno));
    int rc = readonly ? reopen(l, n, false, e) : 0;
    if (!rc) {
        i = dp_live_layer(l, n);
        rc = i->format->set_backing(i, name, below ? below->format->name : NULL, e);
        if (!rc)
            rc = dp_live_flush(i, e);
        if (readonly) {
            struct dp_error again = {0};
            int back = reopen(l, n, true, &again);
            if (back && !rc)
                *e = again;
            rc = rc ? rc : back;
        }
    }
    free(name);
    return rc;
}

/* Layers from n to the one above base are closed. */
static void drop(struct dp_live *l, unsigned n, struct dp_image *base)
{
    struct dp_image **s = slot(l, n), *gone = *s, *last = gone;
    while (last->backing != base)
        last = last->backing;
    last->backing = NULL;
    *s = base;
    dp_image_close(gone);
}

int dp_live_finish_commit(struct dp_live *l, struct dp_error *e)
{
    struct dp_live_job *j = &l->job;
    struct dp_image *base = j->to;
    int rc = dp_live_flush(base, e);
    if (rc)
        return rc;
    if (j->first) {
        if ((rc = set_below(l, j->first - 1, base, e)))
            return rc;
        drop(l, j->first, base);
        j->base = j->first; /* where it is now */
        dp_live_close_base(l);
        return *l->image ? 0 : dp_error_set(e, -EIO, "disk %s is lost", l->path);
    }
    struct dp_image *top = *l->image;
    if (j->base > 1 && (rc = set_below(l, 0, base, e)))
        return rc;
    /* From here on the layer says what the base says, which is what the guest will write. */
    if ((rc = top->format->empty(top, e)) || (rc = dp_live_flush(top, e)))
        return rc;
    drop(l, 0, base);
    dp_live_now_on(l, base->name, base->format->name);
    return 0;
}

int dp_live_finish_stream(struct dp_live *l, struct dp_error *e)
{
    struct dp_image *base = dp_live_layer(l, l->job.base);
    int rc = dp_live_flush(*l->image, e);
    if (!rc)
        rc = set_below(l, 0, base, e);
    if (!rc)
        drop(l, 1, base);
    return rc;
}

/* ---- new layers ---- */

struct layer {
    struct dp_live *live;
    const char *file;
    struct dp_error *e;
};

/* The new file on top of what was the topmost one, which is only read from now on. */
static int put(void *opaque, struct dp_image **image)
{
    struct layer *s = opaque;
    struct dp_live *l = s->live;
    struct dp_image *trial = NULL, *top = NULL;
    int rc = dp_live_need_image(l, *image, s->e);
    l->image = image;
    if (rc || (rc = reopen(l, 0, true, s->e)))
        return rc;
    struct dp_image_options o = alone(l, s->file, "qcow2", true);
    o.backing_later = false; /* would the whole chain open, the next time? */
    if (!(rc = dp_image_open(&o, &trial, s->e)) && trial->size != (*image)->size)
        rc = dp_error_set(s->e, -EINVAL, "%s is not as large as the disk", s->file);
    dp_image_close(trial);
    o.backing_later = true;
    o.readonly = false;
    if (!rc)
        rc = dp_image_open(&o, &top, s->e);
    if (rc) {
        struct dp_error ignored = {0};
        if (reopen(l, 0, false, &ignored) && *image)
            lose(l, &ignored);
        return rc;
    }
    top->backing = *image;
    *image = top;
    return 0;
}

static int take_away(void *opaque, struct dp_image **image)
{
    struct layer *s = opaque;
    struct dp_image *top = *image;
    if (!top)
        return -EIO;
    s->live->image = image;
    *image = top->backing;
    top->backing = NULL;
    dp_image_close(top);
    int rc = reopen(s->live, 0, false, s->e);
    if (rc && *image)
        lose(s->live, s->e);
    return rc;
}

static int make_layer(const struct dp_live_snapshot *s, struct dp_error *e)
{
    struct dp_live *l = s->block->live;
    int rc = dp_live_need_no_job(l, e);
    if (!rc && s->block->readonly)
        rc = dp_error_set(e, -EROFS, "disk %s is used for reading only", l->path);
    if (!rc)
        rc = dp_live_must_be_new(s->file, e);
    if (rc)
        return rc;
    char *name = name_for(s->file, l->path);
    if (!name)
        return dp_error_set(e, -errno, "%s cannot be made: %s", s->file, strerror(errno));
    const char *const *encrypted = (const char *const[]){"encrypt.format=luks", NULL};
    rc = dp_image_create(&(struct dp_image_create){.name = s->file,
                                                   .format = "qcow2",
                                                   .option = s->block->secret ? encrypted : NULL,
                                                   .secret = s->block->secret,
                                                   .size = s->block->size,
                                                   .backing = name,
                                                   .backing_format = l->format,
                                                   .trace = s->block->trace},
                         e);
    free(name);
    return rc;
}

int dp_block_snapshot(const struct dp_live_snapshot *s, unsigned count, struct dp_error *e)
{
    unsigned made = 0, held = 0, done = 0;
    int rc = 0;
    for (; !rc && made < count; made += !rc)
        if (!(rc = dp_live_need_free_layers(s[made].block, e)) && !(rc = dp_live_get(s[made].block, e)))
            rc = make_layer(&s[made], e);
    for (; !rc && held < count; held++)
        dp_block_hold(s[held].block);
    for (; !rc && done < count; done += !rc)
        rc = dp_worker_call(s[done].block, put, &(struct layer){s[done].block->live, s[done].file, e});
    for (unsigned n = 0; rc && n < done; n++) { /* none or all */
        struct dp_error ignored = {0};
        if (dp_worker_call(s[n].block, take_away, &(struct layer){s[n].block->live, s[n].file, &ignored}))
            continue;
    }
    for (unsigned n = 0; n < count; n++) {
        if (!rc)
            dp_live_now_on(s[n].block->live, s[n].file, "qcow2");
        if (n < held)
            dp_block_go_on(s[n].block);
        if (rc && n < made)
            unlink(s[n].file);
    }
    return rc;
}

struct inside {
    struct dp_live *live;
    const char *name;
    struct dp_error *e;
};

static int snapshot_inside(void *opaque, struct dp_image **image)
{
    struct inside *s = opaque;
    struct dp_image *i = *image;
    struct timespec now;
    int rc = dp_live_need_image(s->live, i, s->e);
    if (rc)
        return rc;
    if (!i->format->snapshot_create || i->readonly)
        return dp_error_set(s->e, -ENOTSUP, "disk %s: %s", s->live->path,
                            i->readonly ? "it is used for reading only" : "only qcow2 images have snapshots inside; give --to FILE");
    struct dp_image_snapshot snapshot = {.disk_size = i->size};
    clock_gettime(CLOCK_REALTIME, &now);
    snapshot.date_seconds = (uint64_t)now.tv_sec;
    snapshot.date_nanoseconds = (uint64_t)now.tv_nsec;
    snprintf(snapshot.name, sizeof snapshot.name, "%s", s->name);
    return i->format->snapshot_create(i, &snapshot, s->e);
}

int dp_block_snapshot_inside(struct dp_block *b, const char *name, struct dp_error *e)
{
    struct dp_image_snapshot s;
    if (!*name || strlen(name) >= sizeof s.name)
        return dp_error_set(e, -EINVAL, "a snapshot's name has 1 to %zu bytes", sizeof s.name - 1);
    int rc = dp_live_need_free_layers(b, e);
    if (!rc)
        rc = dp_live_get(b, e);
    if (!rc)
        rc = dp_live_need_no_job(b->live, e);
    return rc ? rc : dp_worker_call(b, snapshot_inside, &(struct inside){b->live, name, e});
}

/* ---- what there is ---- */

struct listing {
    struct dp_block_layer *layer;
    unsigned count;
};

static int list(void *opaque, struct dp_image **image)
{
    struct listing *s = opaque;
    for (struct dp_image *i = *image; i && s->count < DP_IMAGE_DEPTH_MAX; i = i->backing) {
        struct dp_block_layer *l = &s->layer[s->count++];
        snprintf(l->file, sizeof l->file, "%s", i->name);
        l->format = i->format->name;
    }
    return 0;
}

unsigned dp_block_layers(struct dp_block *b, struct dp_block_layer layer[DP_IMAGE_DEPTH_MAX])
{
    struct listing s = {.layer = layer};
    if (b->fd < 0 && !dp_worker_call(b, list, &s))
        return s.count;
    snprintf(layer->file, sizeof layer->file, "%s", b->path);
    layer->format = "raw";
    return 1;
}
