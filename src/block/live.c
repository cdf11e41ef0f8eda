/* block/live.c - see live.h.
 *
 * Model: struct dp_live is the loop's but for `job` and `bitmap`, which the worker's thread changes: the loop's thread looks at them within
 * calls only, and at `status` under the lock. A job's map has a bit for each chunk that is still to do; `left` counts them.
 */
#include "block/live.h"

#include <libgen.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "block/block_internal.h"
#include "block/image_ops.h"

enum { CHUNK_MIN = 64 << 10, STEP = 1 << 20, EXTENT_COST = 16 << 10 };
#define CHUNKS_MAX (1ull << 27)

const char *const dp_job_kind_name[] = {"commit", "stream", "mirror", "backup"};
const char *const dp_job_state_name[] = {"running", "ready", "done", "cancelled", "failed"};

struct bitmap {
    char name[DP_BITMAP_NAME_MAX + 1];
    uint8_t *bits;
};

struct job {
    bool active;
    enum dp_job_kind kind;
    struct dp_image *to; /* COMMIT: the backing image, which the tree closes */
    char *to_format;     /* MIRROR, for when it is completed */
    bool fresh;          /* nothing is in it where the walk has not been yet */
    uint8_t *map, *was;  /* was: of the bitmap, as it was when the job began */
    uint64_t left, at;   /* chunks */
    uint64_t rate;
    char *bitmap;
    uint8_t *buffer;
};

struct dp_live {
    struct dp_block *block;
    struct dp_worker_job hooks;
    struct dp_image **image; /* the worker's, while it is in one of our functions */
    uint64_t size, chunk, chunks;
    struct job job;
    struct bitmap bitmap[DP_BITMAPS_MAX];
    /* the topmost layer */
    char *path, *format;
    bool anywhere;
    pthread_mutex_t lock;
    bool has_status;
    struct dp_job_status status;
};

/* ---- maps ---- */

static size_t map_bytes(uint64_t chunks) { return DP_ALIGN_UP(chunks, 64) / 8; }
static bool is_set(const uint8_t *map, uint64_t n) { return map[n / 8] >> (n & 7) & 1; }

static void set_chunk(uint8_t *map, uint64_t n, uint64_t *left)
{
    *left += !is_set(map, n);
    map[n / 8] |= (uint8_t)(1u << (n & 7));
}

static void clear_chunk(uint8_t *map, uint64_t n, uint64_t *left)
{
    *left -= is_set(map, n);
    map[n / 8] &= (uint8_t) ~(1u << (n & 7));
}

static uint64_t count_chunks(const uint8_t *map, uint64_t chunks)
{
    uint64_t n = 0;
    for (size_t i = 0; i < map_bytes(chunks); i += 8)
        n += (uint64_t)__builtin_popcountll(dp_ld64(map + i));
    return n;
}

/* The first one that is set, from `at` on; there is one before the end, or before `at`. */
static uint64_t next_chunk(const struct dp_live *l, uint64_t at, bool *wrapped)
{
    const uint8_t *map = l->job.map;
    for (uint64_t n = at;;) {
        if (n >= l->chunks) {
            n = 0;
            *wrapped = true;
        }
        if (!(n & 63) && !dp_ld64(map + n / 8)) {
            n += 64;
            continue;
        }
        if (is_set(map, n))
            return n;
        n++;
    }
}

/* ---- how a job ends ---- */

static void set_state(struct dp_live *l, enum dp_job_state state)
{
    pthread_mutex_lock(&l->lock);
    l->status.state = state;
    pthread_mutex_unlock(&l->lock);
}

static void tell(struct dp_live *l)
{
    pthread_mutex_lock(&l->lock);
    l->status.all = l->size;
    l->status.done = l->size - DP_MIN(l->size, l->job.left * l->chunk);
    pthread_mutex_unlock(&l->lock);
}

static struct bitmap *find_bitmap(struct dp_live *l, const char *name)
{
    for (unsigned n = 0; n < DP_BITMAPS_MAX; n++)
        if (l->bitmap[n].bits && !strcmp(l->bitmap[n].name, name))
            return &l->bitmap[n];
    return NULL;
}

static void drop_bitmap(struct bitmap *b)
{
    free(b->bits);
    *b = (struct bitmap){0};
}

/* The job is over. Worker's thread, or there is none any more. */
static void end_job(struct dp_live *l, enum dp_job_state state, const struct dp_error *e)
{
    struct job *j = &l->job;
    if (!j->active)
        return;
    struct bitmap *b = j->bitmap ? find_bitmap(l, j->bitmap) : NULL;
    if (b && state != DP_JOB_DONE) { /* the backup is no use: the next one has to have it all */
        if (!j->was)
            drop_bitmap(b);
        for (size_t i = 0; j->was && i < map_bytes(l->chunks); i++)
            b->bits[i] |= j->was[i];
    }
    tell(l);
    pthread_mutex_lock(&l->lock);
    l->status.state = state;
    if (e)
        l->status.error = *e;
    pthread_mutex_unlock(&l->lock);
    struct dp_trace *trace = l->block->trace;
    if (e && trace)
        dp_trace_emit(trace, DP_TRACE_BLOCK, "disk %s: %s failed: %s; the guest goes on as before", l->path, dp_job_kind_name[j->kind],
                      e->text);
    if (j->kind == DP_JOB_MIRROR || j->kind == DP_JOB_BACKUP)
        dp_image_close(j->to);
    free(j->to_format);
    free(j->map);
    free(j->was);
    free(j->bitmap);
    free(j->buffer);
    *j = (struct job){0};
}

static void fail(struct dp_live *l, struct dp_error *e) { end_job(l, DP_JOB_FAILED, e); }

/* ---- copying ---- */

static int cannot(const struct dp_image *i, const char *what, uint64_t at, int rc, struct dp_error *e)
{
    return dp_error_set(e, rc, "%s cannot be %s at %llu: %s", i->name, what, (unsigned long long)at, strerror(-rc));
}

static bool holds_nothing(const struct dp_extent *x) { return x->kind == DP_EXTENT_ZEROS || x->kind == DP_EXTENT_UNALLOCATED; }

/* What the job has to do with the piece at offset: *size is how long that goes on. */
enum action { SKIP, COPY, ZERO };
static int look(struct dp_live *l, uint64_t offset, uint64_t *size, enum action *action, struct dp_error *e)
{
    struct dp_image *i = *l->image, *from = i;
    struct dp_extent x = {.kind = DP_EXTENT_UNALLOCATED, .size = *size};
    int rc = l->job.kind == DP_JOB_COMMIT || l->job.kind == DP_JOB_STREAM ? dp_image_extent(i, offset, *size, &x)
                                                                          : dp_image_extent_all(i, offset, *size, &x);
    if (!rc && l->job.kind == DP_JOB_STREAM) {
        bool below = x.kind == DP_EXTENT_UNALLOCATED && i->backing;
        *size = x.size;
        from = i->backing;
        if (below)
            rc = dp_image_extent_all(from, offset, *size, &x);
        *action = below && !holds_nothing(&x) ? COPY : SKIP;
    } else if (!rc) {
        *action = l->job.kind == DP_JOB_COMMIT && x.kind == DP_EXTENT_UNALLOCATED ? SKIP : holds_nothing(&x) ? ZERO : COPY;
    }
    if (!rc && !x.size)
        rc = -EIO;
    if (rc)
        return cannot(from, "read", offset, rc, e);
    *size = DP_MIN(*size, x.size);
    return 0;
}

/* All of the range, whatever the map says. */
static int copy(struct dp_live *l, uint64_t offset, uint64_t size, struct dp_error *e)
{
    struct job *j = &l->job;
    struct dp_image *from = *l->image, *to = j->kind == DP_JOB_STREAM ? from : j->to;
    while (size) {
        enum action action = SKIP;
        uint64_t n = DP_MIN(size, (uint64_t)STEP);
        int rc = look(l, offset, &n, &action, e);
        if (rc)
            return rc;
        if (action == COPY && (rc = dp_image_pread(from, j->buffer, n, offset)))
            return cannot(from, "read", offset, rc, e);
        if (action == COPY && j->kind != DP_JOB_STREAM && dp_is_zero(j->buffer, n))
            action = ZERO;
        rc = action == COPY ? dp_image_pwrite(to, j->buffer, n, offset) : action == ZERO ? dp_image_clear(to, offset, n) : 0;
        if (rc)
            return cannot(to, "written", offset, rc, e);
        offset += n;
        size -= n;
    }
    return 0;
}

static uint64_t chunk_end(const struct dp_live *l, uint64_t n) { return DP_MIN((n + 1) * l->chunk, l->size); }

/* Some of what is left; *moved: what it cost, in bytes. */
static int do_some(struct dp_live *l, uint64_t *moved, struct dp_error *e)
{
    struct job *j = &l->job;
    for (*moved = 0; j->left && *moved < STEP;) {
        bool wrapped = false;
        uint64_t n = next_chunk(l, j->at, &wrapped), offset = n * l->chunk, size = l->size - offset;
        enum action action = SKIP;
        j->fresh &= !wrapped;
        int rc = look(l, offset, &size, &action, e);
        if (rc)
            return rc;
        /* what is not there need not be looked at in chunks */
        uint64_t end = offset + size == l->size ? l->chunks : (offset + size) / l->chunk;
        bool skip = action == SKIP || (action == ZERO && j->fresh);
        if (skip && end > n) {
            for (j->at = end; n < end; n++)
                clear_chunk(j->map, n, &j->left);
            *moved += EXTENT_COST;
            continue;
        }
        for (end = n; end < l->chunks && is_set(j->map, end) && (end - n) * l->chunk < STEP; end++)
            clear_chunk(j->map, end, &j->left);
        size = chunk_end(l, end - 1) - offset;
        j->at = end;
        *moved += size;
        if ((rc = copy(l, offset, size, e)))
            return rc;
    }
    return 0;
}

static int do_all(struct dp_live *l, struct dp_error *e)
{
    int rc = 0;
    for (uint64_t moved; !rc && l->job.left;)
        rc = do_some(l, &moved, e);
    return rc;
}

static int flush(struct dp_image *i, struct dp_error *e)
{
    int rc = dp_image_flush(i);
    return rc ? dp_error_set(e, rc, "%s cannot be written: %s", i->name, strerror(-rc)) : 0;
}

/* ---- the ends of walks ---- */

static void now_on(struct dp_live *l, const char *path, const char *format)
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

static int finish_commit(struct dp_live *l, struct dp_error *e)
{
    struct dp_image *top = *l->image, *base = l->job.to;
    int rc = flush(base, e);
    /* From here on the layer says what the base says, which is what the guest will write. */
    if (!rc && !(rc = top->format->empty(top, e)))
        rc = flush(top, e);
    if (rc)
        return rc;
    *l->image = base;
    top->backing = NULL;
    dp_image_close(top);
    now_on(l, base->name, base->format->name);
    return 0;
}

static int finish_stream(struct dp_live *l, struct dp_error *e)
{
    struct dp_image *top = *l->image;
    int rc = flush(top, e);
    if (!rc)
        rc = top->format->set_backing(top, NULL, NULL, e);
    if (rc)
        return rc;
    dp_image_close(top->backing);
    top->backing = NULL;
    return 0;
}

/* Nothing is left. */
static int finish(struct dp_live *l, struct dp_error *e)
{
    switch (l->job.kind) {
    case DP_JOB_COMMIT:
        return finish_commit(l, e);
    case DP_JOB_STREAM:
        return finish_stream(l, e);
    case DP_JOB_MIRROR:
        set_state(l, DP_JOB_READY);
        return 0;
    case DP_JOB_BACKUP:
        return flush(l->job.to, e);
    }
    return -EINVAL;
}

/* ---- in the worker's thread ---- */

/* The backing image is only read again. */
static void close_base(struct dp_live *l, struct dp_image **image)
{
    struct dp_image *top = *image;
    struct dp_error lost = {0};
    char *name = top && top->backing && !top->backing->readonly ? strdup(top->backing->name) : NULL;
    if (!name)
        return;
    struct dp_image_options o = {
        .name = name, .format = top->backing->format->name, .readonly = true, .backing_anywhere = true, .trace = l->block->trace};
    dp_image_close(top->backing);
    top->backing = NULL;
    if (dp_image_open(&o, &top->backing, &lost)) {
        if (l->block->trace)
            dp_trace_emit(l->block->trace, DP_TRACE_BLOCK, "disk %s is lost: %s", l->path, lost.text);
        dp_image_close(top);
        *image = NULL;
    }
    free(name);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t step(void *opaque, struct dp_image **image)
{
    struct dp_live *l = opaque;
    struct job *j = &l->job;
    struct dp_error e = {0};
    uint64_t moved = 0;
    bool commit = j->kind == DP_JOB_COMMIT;
    if (!j->active || (!j->left && l->status.state == DP_JOB_READY))
        return UINT64_MAX;
    l->image = image;
    int rc = do_some(l, &moved, &e);
    tell(l);
    if (!rc && !j->left)
        rc = finish(l, &e);
    if (rc)
        fail(l, &e);
    else if (!j->left && j->kind != DP_JOB_MIRROR)
        end_job(l, DP_JOB_DONE, NULL);
    if (rc && commit)
        close_base(l, image);
    l->image = NULL;
    return !j->active || !j->left ? UINT64_MAX : j->rate ? now_ns() + moved * 1000000000ull / j->rate : 0;
}

static void before(void *opaque, struct dp_image **image, uint64_t offset, uint64_t size)
{
    struct dp_live *l = opaque;
    struct job *j = &l->job;
    struct dp_error e = {0};
    if (!j->active || j->kind != DP_JOB_BACKUP || !size)
        return;
    l->image = image;
    for (uint64_t n = offset / l->chunk; n <= (offset + size - 1) / l->chunk && n < l->chunks; n++)
        if (is_set(j->map, n)) {
            clear_chunk(j->map, n, &j->left);
            if (copy(l, n * l->chunk, chunk_end(l, n) - n * l->chunk, &e)) {
                fail(l, &e);
                break;
            }
        }
    l->image = NULL;
}

/* A write to what the walk is done with. It is copied again, by a later step, or at once if the job has a rate: the steps keep to that, and
 * would never be done with what a guest writes faster. */
static int follow(struct dp_live *l, uint64_t n, uint64_t from, uint64_t to, struct dp_error *e)
{
    struct job *j = &l->job;
    from = DP_MAX(from, n * l->chunk);
    to = DP_MIN(to, chunk_end(l, n));
    if (j->rate && !is_set(j->map, n))
        return copy(l, from, to - from, e);
    set_chunk(j->map, n, &j->left);
    return 0;
}

static void after(void *opaque, struct dp_image **image, uint64_t offset, uint64_t size)
{
    struct dp_live *l = opaque;
    struct job *j = &l->job;
    struct dp_error e = {0};
    uint64_t ignored = 0;
    if (!size)
        return;
    l->image = image;
    for (uint64_t n = offset / l->chunk; n <= (offset + size - 1) / l->chunk && n < l->chunks; n++) {
        if (j->active && (j->kind == DP_JOB_COMMIT || j->kind == DP_JOB_MIRROR) && follow(l, n, offset, offset + size, &e)) {
            bool commit = j->kind == DP_JOB_COMMIT;
            fail(l, &e);
            if (commit)
                close_base(l, image);
        }
        for (unsigned b = 0; b < DP_BITMAPS_MAX; b++)
            if (l->bitmap[b].bits)
                set_chunk(l->bitmap[b].bits, n, &ignored);
    }
    l->image = NULL;
}

/* ---- starting ---- */

static int get_live(struct dp_block *b, struct dp_error *e)
{
    int rc = dp_block_use_worker(b, e);
    if (rc || b->live)
        return rc;
    struct dp_live *l = calloc(1, sizeof *l);
    char *path = strdup(b->path), *format = strdup(b->format ? b->format : "raw");
    if (!l || !path || !format) {
        free(l);
        free(path);
        free(format);
        return dp_error_set(e, -ENOMEM, "out of memory");
    }
    l->block = b;
    l->path = path;
    l->format = format;
    l->anywhere = b->backing_anywhere;
    l->hooks = (struct dp_worker_job){step, before, after, l};
    pthread_mutex_init(&l->lock, NULL);
    b->live = l;
    return 0;
}

static bool runs(struct dp_live *l)
{
    pthread_mutex_lock(&l->lock);
    bool yes = l->has_status && l->status.state <= DP_JOB_READY;
    pthread_mutex_unlock(&l->lock);
    return yes;
}

static int need_no_job(struct dp_live *l, struct dp_error *e)
{
    return runs(l) ? dp_error_set(e, -EBUSY, "disk %s: a job (%s) is at work: wait for its end, complete it, or cancel it", l->path,
                                  dp_job_kind_name[l->status.kind])
                   : 0;
}

/* Layers come, go or are opened again. */
static int need_free_layers(const struct dp_block *b, struct dp_error *e)
{
    return b->fixed ? dp_error_set(e, -EPERM, "disk %s: its layers stay as they are while it is used: %s", b->path, b->fixed) : 0;
}

static int need_image(const struct dp_live *l, struct dp_image *i, struct dp_error *e)
{
    return i ? 0 : dp_error_set(e, -EIO, "disk %s is lost", l->path);
}

/* Makes the map fit the disk; bitmaps keep what they say. */
static int set_size(struct dp_live *l, uint64_t size, struct dp_error *e)
{
    uint64_t chunk = l->chunk ? l->chunk : CHUNK_MIN;
    while (!l->chunk && size / chunk >= CHUNKS_MAX)
        chunk *= 2;
    uint64_t chunks = (size + chunk - 1) / chunk;
    for (unsigned n = 0; n < DP_BITMAPS_MAX; n++) {
        uint8_t *bits = l->bitmap[n].bits && chunks > l->chunks ? realloc(l->bitmap[n].bits, map_bytes(chunks)) : NULL;
        if (bits) {
            memset(bits + map_bytes(l->chunks), 0, map_bytes(chunks) - map_bytes(l->chunks));
            l->bitmap[n].bits = bits;
        } else if (l->bitmap[n].bits && chunks > l->chunks) {
            return dp_error_set(e, -ENOMEM, "out of memory");
        }
    }
    l->size = size;
    l->chunk = chunk;
    l->chunks = chunks;
    return 0;
}

struct start {
    struct dp_live *live;
    const struct dp_job_options *o;
    struct dp_image *target;
    struct dp_error *e;
};

/* The backing image, until now only read, for writing. */
static int open_base(struct dp_live *l, struct dp_image *top, struct dp_error *e)
{
    struct dp_error lost = {0};
    char *name = strdup(top->backing->name);
    struct dp_image_options o = {.name = name, .format = top->backing->format->name, .backing_anywhere = true, .trace = l->block->trace};
    if (!name)
        return dp_error_set(e, -ENOMEM, "out of memory");
    dp_image_close(top->backing); /* with its lock */
    top->backing = NULL;
    int rc = dp_image_open(&o, &top->backing, e);
    if (!rc && top->backing->size < top->size) {
        rc = top->backing->format->resize ? top->backing->format->resize(top->backing, top->size, e)
                                          : dp_error_set(e, -ENOTSUP, "%s is smaller than the disk and cannot grow", name);
        if (rc) {
            dp_image_close(top->backing);
            top->backing = NULL;
        }
    }
    o.readonly = true;
    if (rc && dp_image_open(&o, &top->backing, &lost)) {
        top->backing = NULL;
        rc = -ENOLINK;
    }
    free(name);
    return rc;
}

static struct bitmap *free_bitmap(struct dp_live *l)
{
    for (unsigned n = 0; n < DP_BITMAPS_MAX; n++)
        if (!l->bitmap[n].bits)
            return &l->bitmap[n];
    return NULL;
}

static int start_map(struct dp_live *l, const struct dp_job_options *o, struct dp_error *e)
{
    struct job *j = &l->job;
    struct bitmap *b = o->bitmap ? find_bitmap(l, o->bitmap) : NULL;
    bool make = o->bitmap && !b;
    size_t bytes = map_bytes(l->chunks);
    if (make && !(b = free_bitmap(l)))
        return dp_error_set(e, -ENOSPC, "disk %s has %d bitmaps already", l->path, DP_BITMAPS_MAX);
    if (!(j->map = calloc(1, bytes)) || !(j->buffer = aligned_alloc(4096, STEP)) || (o->bitmap && !(j->bitmap = strdup(o->bitmap))) ||
        (b && !make && !(j->was = malloc(bytes))) || (make && !(b->bits = calloc(1, bytes))))
        return dp_error_set(e, -ENOMEM, "out of memory");
    if (make) {
        strcpy(b->name, o->bitmap);
    } else if (b) {
        memcpy(j->map, b->bits, bytes);
        memcpy(j->was, b->bits, bytes);
        memset(b->bits, 0, bytes);
    }
    for (uint64_t n = 0; (make || !b) && n < l->chunks; n++)
        set_chunk(j->map, n, &j->left);
    j->left = count_chunks(j->map, l->chunks);
    return 0;
}

static int start(void *opaque, struct dp_image **image)
{
    struct start *s = opaque;
    struct dp_live *l = s->live;
    struct job *j = &l->job;
    struct dp_image *i = *image;
    enum dp_job_kind kind = s->o->kind;
    bool layers = kind == DP_JOB_COMMIT || kind == DP_JOB_STREAM;
    int rc = need_image(l, i, s->e);
    if (!rc && layers && !i->backing)
        rc = dp_error_set(s->e, -EINVAL, "disk %s has no layer below: there is nothing to %s", l->path, dp_job_kind_name[kind]);
    if (!rc && layers && (i->readonly || !i->format->empty || !i->format->set_backing))
        rc = dp_error_set(s->e, -EROFS, "disk %s is used for reading only", l->path);
    if (!rc)
        rc = set_size(l, i->size, s->e);
    if (!rc && s->target && s->target->size < i->size)
        rc = dp_error_set(s->e, -ENOSPC, "%s is smaller than disk %s", s->target->name, l->path);
    if (rc)
        return rc;
    *j = (struct job){.kind = kind, .to = s->target, .rate = s->o->rate, .fresh = s->target && !s->o->reuse && !s->o->backing};
    rc = start_map(l, s->o, s->e);
    if (!rc && s->o->format && !(j->to_format = strdup(s->o->format)))
        rc = dp_error_set(s->e, -ENOMEM, "out of memory");
    if (!rc && kind == DP_JOB_COMMIT && (rc = open_base(l, i, s->e)) == -ENOLINK) {
        dp_image_close(i);
        *image = NULL;
    }
    if (rc) {
        free(j->map);
        free(j->was);
        free(j->bitmap);
        free(j->buffer);
        free(j->to_format);
        *j = (struct job){0};
        return rc;
    }
    if (kind == DP_JOB_COMMIT)
        j->to = i->backing;
    j->active = true;
    pthread_mutex_lock(&l->lock);
    l->has_status = true;
    l->status = (struct dp_job_status){.kind = kind, .state = DP_JOB_RUNNING, .all = l->size};
    const char *name = j->to ? j->to->name : "";
    snprintf(l->status.target, sizeof l->status.target, "%s", name);
    pthread_mutex_unlock(&l->lock);
    dp_worker_set_job(l->block, &l->hooks);
    return 0;
}

/* A file that is there and not empty is somebody's. */
static int must_be_new(const char *name, struct dp_error *e)
{
    struct stat st;
    if (!strstr(name, "://") && !stat(name, &st) && (!S_ISREG(st.st_mode) || st.st_size))
        return dp_error_set(e, -EEXIST, "%s is there already", name);
    return 0;
}

static int open_target(struct dp_block *b, const struct dp_job_options *o, struct dp_image **target, struct dp_error *e)
{
    struct dp_image_create c = {.name = o->target,
                                .format = o->format,
                                .size = b->size,
                                .backing = o->backing,
                                .backing_format = o->backing_format,
                                .trace = b->trace};
    int rc = o->reuse ? 0 : must_be_new(o->target, e);
    if (!rc && !o->reuse)
        rc = dp_image_create(&c, e);
    return rc ? rc
              : dp_image_open(
                    &(struct dp_image_options){.name = o->target, .format = o->format, .backing_anywhere = true, .trace = b->trace}, target,
                    e);
}

int dp_block_job_start(struct dp_block *b, const struct dp_job_options *o, struct dp_error *e)
{
    bool copies = o->kind == DP_JOB_MIRROR || o->kind == DP_JOB_BACKUP;
    struct start s = {.o = o, .e = e};
    if (o->bitmap && (strlen(o->bitmap) > DP_BITMAP_NAME_MAX || !*o->bitmap))
        return dp_error_set(e, -EINVAL, "a bitmap's name has 1 to %d bytes", DP_BITMAP_NAME_MAX);
    int rc = copies ? 0 : need_free_layers(b, e);
    if (!rc)
        rc = get_live(b, e);
    if (!rc)
        rc = need_no_job(b->live, e);
    if (!rc && copies)
        rc = open_target(b, o, &s.target, e);
    if (rc)
        return rc;
    s.live = b->live;
    if ((rc = dp_worker_call(b, start, &s)))
        dp_image_close(s.target);
    return rc;
}

bool dp_block_job_status(struct dp_block *b, struct dp_job_status *s)
{
    struct dp_live *l = b->live;
    if (!l)
        return false;
    pthread_mutex_lock(&l->lock);
    bool has = l->has_status;
    if (has)
        *s = l->status;
    pthread_mutex_unlock(&l->lock);
    return has;
}

struct ending {
    struct dp_live *live;
    struct dp_error *e;
};

/* The copy is made whole; what the guest writes waits. */
static int make_whole(struct dp_live *l, struct dp_error *e)
{
    int rc = do_all(l, e);
    return rc ? rc : flush(l->job.to, e);
}

static int complete(void *opaque, struct dp_image **image)
{
    struct ending *c = opaque;
    struct dp_live *l = c->live;
    struct job *j = &l->job;
    if (!j->active || j->kind != DP_JOB_MIRROR || l->status.state != DP_JOB_READY)
        return dp_error_set(c->e, -EINVAL, "disk %s: there is no mirror that is ready", l->path);
    l->image = image;
    struct dp_error e = {0};
    int rc = make_whole(l, &e);
    if (rc) {
        *c->e = e;
        fail(l, &e);
    } else {
        struct dp_image *old = *image;
        *image = j->to;
        now_on(l, j->to->name, j->to_format ? j->to_format : "raw");
        j->to = NULL;
        end_job(l, DP_JOB_DONE, NULL);
        dp_image_close(old);
    }
    l->image = NULL;
    return rc;
}

static int cancel(void *opaque, struct dp_image **image)
{
    struct ending *c = opaque;
    struct dp_live *l = c->live;
    struct job *j = &l->job;
    struct dp_error e = {0};
    if (!j->active)
        return dp_error_set(c->e, -EINVAL, "disk %s: there is no job", l->path);
    l->image = image;
    bool ready = l->status.state == DP_JOB_READY, commit = j->kind == DP_JOB_COMMIT;
    int rc = ready ? make_whole(l, &e) : 0;
    if (rc) {
        *c->e = e;
        fail(l, &e);
    } else {
        end_job(l, ready ? DP_JOB_DONE : DP_JOB_CANCELLED, NULL);
    }
    if (commit)
        close_base(l, image);
    l->image = NULL;
    return rc;
}

static int end_by(struct dp_block *b, int (*how)(void *, struct dp_image **), struct dp_error *e)
{
    if (!b->live)
        return dp_error_set(e, -EINVAL, "disk %s: there is no job", b->path);
    return dp_worker_call(b, how, &(struct ending){b->live, e});
}

int dp_block_job_complete(struct dp_block *b, struct dp_error *e)
{
    int rc = need_free_layers(b, e);
    return rc ? rc : end_by(b, complete, e);
}
int dp_block_job_cancel(struct dp_block *b, struct dp_error *e) { return end_by(b, cancel, e); }

/* ---- snapshots ---- */

struct swap {
    struct dp_image_options to, back;
    struct dp_error *e;
};

/* Another image in the place of this one. It is closed first, since both are parts of one chain and locks. */
static int swap(void *opaque, struct dp_image **image)
{
    struct swap *s = opaque;
    struct dp_error lost = {0};
    if (!*image)
        return dp_error_set(s->e, -EIO, "disk %s is lost", s->back.name);
    uint64_t size = (*image)->size;
    int rc = flush(*image, s->e);
    if (rc)
        return rc;
    dp_image_close(*image);
    *image = NULL;
    rc = dp_image_open(&s->to, image, s->e);
    if (!rc && (*image)->size != size) {
        rc = dp_error_set(s->e, -EINVAL, "%s is not as large as the disk", s->to.name);
        dp_image_close(*image);
        *image = NULL;
    }
    if (rc && dp_image_open(&s->back, image, &lost)) {
        *image = NULL;
        if (s->back.trace)
            dp_trace_emit(s->back.trace, DP_TRACE_BLOCK, "disk %s is lost: %s", s->back.name, lost.text);
    }
    return rc;
}

static struct dp_image_options top_options(const struct dp_live *l)
{
    return (struct dp_image_options){
        .name = l->path, .format = l->format, .readonly = l->block->readonly, .backing_anywhere = l->anywhere, .trace = l->block->trace};
}

/* By which name the new layer knows the old one: relative when they lie beside each other, so that both can be moved. */
static char *name_for(const char *file, const char *below)
{
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

static int make_layer(const struct dp_live_snapshot *s, struct dp_error *e)
{
    struct dp_live *l = s->block->live;
    int rc = need_no_job(l, e);
    if (!rc && s->block->readonly)
        rc = dp_error_set(e, -EROFS, "disk %s is used for reading only", l->path);
    if (!rc)
        rc = must_be_new(s->file, e);
    if (rc)
        return rc;
    char *name = strstr(l->path, "://") ? strdup(l->path) : name_for(s->file, l->path);
    if (!name)
        return dp_error_set(e, -errno, "%s cannot be made: %s", s->file, strerror(errno));
    rc = dp_image_create(&(struct dp_image_create){.name = s->file,
                                                   .format = "qcow2",
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
        if (!(rc = need_free_layers(s[made].block, e)) && !(rc = get_live(s[made].block, e)))
            rc = make_layer(&s[made], e);
    for (; !rc && held < count; held++)
        dp_block_hold(s[held].block);
    for (; !rc && done < count; done += !rc) {
        struct swap w = {.back = top_options(s[done].block->live), .e = e};
        w.to = w.back;
        w.to.name = s[done].file;
        w.to.format = "qcow2";
        w.to.backing_anywhere = true;
        rc = dp_worker_call(s[done].block, swap, &w);
    }
    for (unsigned n = 0; rc && n < done; n++) { /* none or all */
        struct dp_error ignored = {0};
        struct swap w = {.to = top_options(s[n].block->live), .e = &ignored};
        w.back = w.to;
        if (dp_worker_call(s[n].block, swap, &w))
            continue;
    }
    for (unsigned n = 0; n < count; n++) {
        if (!rc)
            now_on(s[n].block->live, s[n].file, "qcow2");
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
    int rc = need_image(s->live, i, s->e);
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
    int rc = need_free_layers(b, e);
    if (!rc)
        rc = get_live(b, e);
    if (!rc)
        rc = need_no_job(b->live, e);
    return rc ? rc : dp_worker_call(b, snapshot_inside, &(struct inside){b->live, name, e});
}

/* ---- the rest ---- */

struct growth {
    struct dp_live *live;
    uint64_t size;
    struct dp_error *e;
};

static int grow(void *opaque, struct dp_image **image)
{
    struct growth *g = opaque;
    struct dp_image *i = *image;
    int rc = need_image(g->live, i, g->e);
    if (!rc && i->readonly)
        rc = dp_error_set(g->e, -EROFS, "disk %s is used for reading only", g->live->path);
    if (!rc && !i->format->resize)
        rc = dp_error_set(g->e, -ENOTSUP, "%s images cannot be resized", i->format->name);
    if (!rc && !(rc = i->format->resize(i, g->size, g->e)) && g->live->chunk)
        rc = set_size(g->live, i->size, g->e);
    return rc;
}

int dp_block_resize(struct dp_block *b, uint64_t size, struct dp_error *e)
{
    if (size % DP_BLOCK_SECTOR || size <= b->size || size > INT64_MAX - DP_BLOCK_SECTOR)
        return dp_error_set(e, -EINVAL, "disk %s has %llu bytes; while it is used it can only grow, to a multiple of %u", b->path,
                            (unsigned long long)b->size, DP_BLOCK_SECTOR);
    int rc = get_live(b, e);
    if (!rc)
        rc = need_no_job(b->live, e);
    if (!rc)
        rc = dp_worker_call(b, grow, &(struct growth){b->live, size, e});
    if (rc)
        return rc;
    b->size = size;
    if (b->resized)
        b->resized(b->resized_opaque, b);
    return 0;
}

struct named {
    struct dp_live *live;
    const char *name;
    unsigned n;
    uint64_t bytes;
};

static int remove_bitmap(void *opaque, struct dp_image **image)
{
    struct named *a = opaque;
    struct bitmap *b = find_bitmap(a->live, a->name);
    if (b)
        drop_bitmap(b);
    return b ? 0 : -ENOENT;
}

int dp_block_bitmap_remove(struct dp_block *b, const char *name, struct dp_error *e)
{
    int rc = b->live ? need_no_job(b->live, e) : -ENOENT;
    if (!rc)
        rc = dp_worker_call(b, remove_bitmap, &(struct named){b->live, name, 0, 0});
    return rc == -ENOENT ? dp_error_set(e, rc, "disk %s has no bitmap '%.63s'", b->path, name) : rc;
}

static int nth_bitmap(void *opaque, struct dp_image **image)
{
    struct named *a = opaque;
    unsigned n = a->n;
    for (unsigned k = 0; k < DP_BITMAPS_MAX; k++) {
        const struct bitmap *b = &a->live->bitmap[k];
        if (!b->bits || n--)
            continue;
        a->bytes = DP_MIN(count_chunks(b->bits, a->live->chunks) * a->live->chunk, a->live->size);
        a->name = b->name;
        return 0;
    }
    return -ENOENT;
}

const char *dp_block_bitmap(struct dp_block *b, unsigned n, uint64_t *bytes)
{
    struct named a = {.live = b->live, .n = n};
    if (!b->live || dp_worker_call(b, nth_bitmap, &a))
        return NULL;
    *bytes = a.bytes;
    return a.name;
}

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

static int stop(void *opaque, struct dp_image **image)
{
    struct dp_live *l = opaque;
    struct dp_error e = {0};
    l->image = image;
    if (l->status.state == DP_JOB_READY && make_whole(l, &e))
        fail(l, &e);
    end_job(l, l->status.state == DP_JOB_READY ? DP_JOB_DONE : DP_JOB_CANCELLED, NULL);
    dp_worker_set_job(l->block, NULL);
    return 0;
}

void dp_live_stop(struct dp_block *b)
{
    int ignored = b->live ? dp_worker_call(b, stop, b->live) : 0;
    (void)ignored;
}

void dp_live_fini(struct dp_block *b)
{
    struct dp_live *l = b->live;
    if (!l)
        return;
    for (unsigned n = 0; n < DP_BITMAPS_MAX; n++)
        free(l->bitmap[n].bits);
    pthread_mutex_destroy(&l->lock);
    free(l->path);
    free(l->format);
    free(l);
}
