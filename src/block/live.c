/* block/live.c - jobs and bitmaps, and growth. Model: live.h, live_internal.h. Layers: live_layers.c. */
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "block/image_ops.h"
#include "block/live_internal.h"

enum { CHUNK_MIN = 64 << 10, STEP = 1 << 20, EXTENT_COST = 16 << 10 };
#define CHUNKS_MAX (1ull << 27)

const char *const dp_job_kind_name[] = {"commit", "stream", "mirror", "backup"};
const char *const dp_job_state_name[] = {"running", "ready", "done", "cancelled", "failed"};

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

static struct dp_live_bitmap *find_bitmap(struct dp_live *l, const char *name)
{
    for (unsigned n = 0; n < DP_BITMAPS_MAX; n++)
        if (l->bitmap[n].bits && !strcmp(l->bitmap[n].name, name))
            return &l->bitmap[n];
    return NULL;
}

static void drop_bitmap(struct dp_live_bitmap *b)
{
    free(b->bits);
    *b = (struct dp_live_bitmap){0};
}

/* The job is over. Worker's thread, or there is none any more. */
static void end_job(struct dp_live *l, enum dp_job_state state, const struct dp_error *e)
{
    struct dp_live_job *j = &l->job;
    if (!j->active)
        return;
    struct dp_live_bitmap *b = j->bitmap ? find_bitmap(l, j->bitmap) : NULL;
    if (b && state != DP_JOB_DONE) { /* the backup is no use: the next one has to have it all */
        if (!j->was)
            drop_bitmap(b);
        for (size_t i = 0; j->was && i < map_bytes(l->chunks); i++)
            b->bits[i] |= j->was[i];
    }
    tell(l);
    if (j->kind == DP_JOB_COMMIT && state != DP_JOB_DONE)
        dp_live_close_base(l);
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
    *j = (struct dp_live_job){0};
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
    const struct dp_live_job *j = &l->job;
    struct dp_image *i = *l->image, *from = i;
    struct dp_extent x = {.kind = DP_EXTENT_UNALLOCATED, .size = *size};
    int rc;
    if (j->kind == DP_JOB_STREAM) {
        struct dp_image *base = dp_live_layer(l, j->base);
        rc = dp_image_extent(i, offset, *size, &x);
        bool below = !rc && x.kind == DP_EXTENT_UNALLOCATED && i->backing && i->backing != base;
        *size = x.size;
        if (below)
            rc = dp_live_extent(from = i->backing, base, offset, *size, &x);
        *action = !below || x.kind == DP_EXTENT_UNALLOCATED ? SKIP : !holds_nothing(&x) ? COPY : base ? ZERO : SKIP;
    } else if (j->kind == DP_JOB_COMMIT) {
        rc = dp_live_extent(from = dp_live_layer(l, j->first), j->to, offset, *size, &x);
        *action = x.kind == DP_EXTENT_UNALLOCATED ? SKIP : holds_nothing(&x) ? ZERO : COPY;
    } else {
        rc = dp_image_extent_all(i, offset, *size, &x);
        *action = holds_nothing(&x) ? ZERO : COPY;
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
    struct dp_live_job *j = &l->job;
    struct dp_image *from = dp_live_layer(l, j->kind == DP_JOB_COMMIT ? j->first : 0), *to = j->kind == DP_JOB_STREAM ? from : j->to;
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
        rc = action == COPY ? dp_image_pwrite(to, j->buffer, n, offset) : 0;
        if (action == ZERO) /* what a stream pulls up hides what the base has */
            rc = to == from ? dp_image_zero(to, offset, n, DP_ZERO_UNMAP) : dp_image_clear(to, offset, n);
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
    struct dp_live_job *j = &l->job;
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

int dp_live_flush(struct dp_image *i, struct dp_error *e)
{
    int rc = dp_image_flush(i);
    return rc ? dp_error_set(e, rc, "%s cannot be written: %s", i->name, strerror(-rc)) : 0;
}

/* Nothing is left. */
static int finish(struct dp_live *l, struct dp_error *e)
{
    switch (l->job.kind) {
    case DP_JOB_COMMIT:
        return dp_live_finish_commit(l, e);
    case DP_JOB_STREAM:
        return dp_live_finish_stream(l, e);
    case DP_JOB_MIRROR:
        set_state(l, DP_JOB_READY);
        return 0;
    case DP_JOB_BACKUP:
        return dp_live_flush(l->job.to, e);
    }
    return -EINVAL;
}

/* ---- in the worker's thread ---- */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t step(void *opaque, struct dp_image **image)
{
    struct dp_live *l = opaque;
    struct dp_live_job *j = &l->job;
    struct dp_error e = {0};
    uint64_t moved = 0;
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
    l->image = NULL;
    return !j->active || !j->left ? UINT64_MAX : j->rate ? now_ns() + moved * 1000000000ull / j->rate : 0;
}

static void before(void *opaque, struct dp_image **image, uint64_t offset, uint64_t size)
{
    struct dp_live *l = opaque;
    struct dp_live_job *j = &l->job;
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
    struct dp_live_job *j = &l->job;
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
    struct dp_live_job *j = &l->job;
    struct dp_error e = {0};
    uint64_t ignored = 0;
    if (!size)
        return;
    l->image = image;
    for (uint64_t n = offset / l->chunk; n <= (offset + size - 1) / l->chunk && n < l->chunks; n++) {
        if (j->active && ((j->kind == DP_JOB_COMMIT && !j->first) || j->kind == DP_JOB_MIRROR) && follow(l, n, offset, offset + size, &e))
            fail(l, &e);
        for (unsigned b = 0; b < DP_BITMAPS_MAX; b++)
            if (l->bitmap[b].bits)
                set_chunk(l->bitmap[b].bits, n, &ignored);
    }
    l->image = NULL;
}

/* ---- starting ---- */

int dp_live_get(struct dp_block *b, struct dp_error *e)
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

int dp_live_need_no_job(struct dp_live *l, struct dp_error *e)
{
    return runs(l) ? dp_error_set(e, -EBUSY, "disk %s: a job (%s) is at work: wait for its end, complete it, or cancel it", l->path,
                                  dp_job_kind_name[l->status.kind])
                   : 0;
}

/* Layers come, go or are opened again. */
int dp_live_need_free_layers(const struct dp_block *b, struct dp_error *e)
{
    return b->fixed ? dp_error_set(e, -EPERM, "disk %s: its layers stay as they are while it is used: %s", b->path, b->fixed) : 0;
}

int dp_live_need_image(const struct dp_live *l, const struct dp_image *i, struct dp_error *e)
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

static struct dp_live_bitmap *free_bitmap(struct dp_live *l)
{
    for (unsigned n = 0; n < DP_BITMAPS_MAX; n++)
        if (!l->bitmap[n].bits)
            return &l->bitmap[n];
    return NULL;
}

static int start_map(struct dp_live *l, const struct dp_job_options *o, struct dp_error *e)
{
    struct dp_live_job *j = &l->job;
    struct dp_live_bitmap *b = o->bitmap ? find_bitmap(l, o->bitmap) : NULL;
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
    struct dp_live_job *j = &l->job;
    struct dp_image *i = *image;
    enum dp_job_kind kind = s->o->kind;
    bool layers = kind == DP_JOB_COMMIT || kind == DP_JOB_STREAM;
    int rc = dp_live_need_image(l, i, s->e);
    if (!rc)
        rc = set_size(l, i->size, s->e);
    if (!rc && s->target && s->target->size < i->size)
        rc = dp_error_set(s->e, -ENOSPC, "%s is smaller than disk %s", s->target->name, l->path);
    if (rc)
        return rc;
    *j = (struct dp_live_job){.kind = kind, .to = s->target, .rate = s->o->rate, .fresh = s->target && !s->o->reuse && !s->o->backing};
    l->image = image;
    if (layers)
        rc = dp_live_find_range(l, s->o, s->e);
    if (!rc)
        rc = start_map(l, s->o, s->e);
    if (!rc && s->o->format && !(j->to_format = strdup(s->o->format)))
        rc = dp_error_set(s->e, -ENOMEM, "out of memory");
    if (!rc && kind == DP_JOB_COMMIT)
        rc = dp_live_open_base(l, s->e);
    l->image = NULL;
    if (rc) {
        free(j->map);
        free(j->was);
        free(j->bitmap);
        free(j->buffer);
        free(j->to_format);
        *j = (struct dp_live_job){0};
        return rc;
    }
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
int dp_live_must_be_new(const char *name, struct dp_error *e)
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
    int rc = o->reuse ? 0 : dp_live_must_be_new(o->target, e);
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
    int rc = copies ? 0 : dp_live_need_free_layers(b, e);
    if (!rc)
        rc = dp_live_get(b, e);
    if (!rc)
        rc = dp_live_need_no_job(b->live, e);
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
    return rc ? rc : dp_live_flush(l->job.to, e);
}

static int complete(void *opaque, struct dp_image **image)
{
    struct ending *c = opaque;
    struct dp_live *l = c->live;
    struct dp_live_job *j = &l->job;
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
        dp_live_now_on(l, j->to->name, j->to_format ? j->to_format : "raw");
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
    struct dp_live_job *j = &l->job;
    struct dp_error e = {0};
    if (!j->active)
        return dp_error_set(c->e, -EINVAL, "disk %s: there is no job", l->path);
    l->image = image;
    bool ready = l->status.state == DP_JOB_READY;
    int rc = ready ? make_whole(l, &e) : 0;
    if (rc) {
        *c->e = e;
        fail(l, &e);
    } else {
        end_job(l, ready ? DP_JOB_DONE : DP_JOB_CANCELLED, NULL);
    }
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
    int rc = dp_live_need_free_layers(b, e);
    return rc ? rc : end_by(b, complete, e);
}
int dp_block_job_cancel(struct dp_block *b, struct dp_error *e) { return end_by(b, cancel, e); }

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
    int rc = dp_live_need_image(g->live, i, g->e);
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
    int rc = dp_live_get(b, e);
    if (!rc)
        rc = dp_live_need_no_job(b->live, e);
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
    struct dp_live_bitmap *b = find_bitmap(a->live, a->name);
    if (b)
        drop_bitmap(b);
    return b ? 0 : -ENOENT;
}

int dp_block_bitmap_remove(struct dp_block *b, const char *name, struct dp_error *e)
{
    int rc = b->live ? dp_live_need_no_job(b->live, e) : -ENOENT;
    if (!rc)
        rc = dp_worker_call(b, remove_bitmap, &(struct named){b->live, name, 0, 0});
    return rc == -ENOENT ? dp_error_set(e, rc, "disk %s has no bitmap '%.63s'", b->path, name) : rc;
}

static int nth_bitmap(void *opaque, struct dp_image **image)
{
    struct named *a = opaque;
    unsigned n = a->n;
    for (unsigned k = 0; k < DP_BITMAPS_MAX; k++) {
        const struct dp_live_bitmap *b = &a->live->bitmap[k];
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
