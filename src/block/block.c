/* block.c - the core of the block layer: opening, checking requests, completing them, draining.
 *
 * Model: see block.h. On its way to the engine a request passes what the user chose: caching, discard, zeros, limits (throttle.h).
 * Engines put finished requests on a list and make event_fd readable; whoever collects (the loop's watch, or a
 * drain) takes them off one by one and calls back with no lock held.
 * Invariants: in_flight counts a request from submit until its callback has returned, so a drain that sees 0 has seen the last callback.
 */
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "block/block_internal.h"
#include "block/file.h"
#include "block/image.h"
#include "block/throttle.h"

void dp_block_finish(struct dp_block *b, struct dp_block_request *r, bool signal)
{
    pthread_mutex_lock(&b->lock);
    r->next = NULL;
    *b->finished_tail = r;
    b->finished_tail = &r->next;
    pthread_mutex_unlock(&b->lock);
    if (!signal)
        return;
    /* Cannot fail for want of room before 2^64 - 1 completions; EINTR does not happen to an eventfd that does not block. */
    ssize_t ignored = write(b->event_fd, &(uint64_t){1}, 8);
    (void)ignored;
}

/* The guest sees an I/O error each time; the user is told once, with the reason that the guest cannot know. */
static void tell(struct dp_block *b, const struct dp_block_request *r)
{
    static const char *const names[] = { "read", "write", "flush", "discard", "write zeroes" };
    if (r->result == -ENOSPC || r->result == -EDQUOT) {
        if (b->trace && !atomic_exchange(&b->told_full, true))
            dp_trace_emit(b->trace, DP_TRACE_BLOCK, "disk %s: no space left on the host; the guest gets I/O errors until you make room",
                          b->path);
    } else if (b->trace && !atomic_exchange(&b->told_error, true)) {
        dp_trace_emit(b->trace, DP_TRACE_BLOCK, "disk %s: %s of %llu bytes at %llu failed: %s; the guest gets an I/O error (told once)",
                      b->path,
                      names[r->op], (unsigned long long)r->size, (unsigned long long)r->offset, strerror(-r->result));
    }
}

/* With caching that leaves nothing for a flush, what was written goes to the disk before its owner hears of it. */
static bool must_sync(const struct dp_block *b, const struct dp_block_request *r)
{
    bool through = b->cache == DP_BLOCK_WRITETHROUGH || b->cache == DP_BLOCK_DIRECTSYNC;
    return through && !r->result && !r->syncing && r->size && (r->op == DP_BLOCK_WRITE || r->op == DP_BLOCK_WRITE_ZEROES);
}

static void collect(struct dp_block *b)
{
    uint64_t count;
    ssize_t ignored = read(b->event_fd, &count, 8);
    (void)ignored;
    if (b->engine->reap)
        b->engine->reap(b);
    for (;;) {
        pthread_mutex_lock(&b->lock);
        struct dp_block_request *r = b->finished;
        if (r && !(b->finished = r->next))
            b->finished_tail = &b->finished;
        pthread_mutex_unlock(&b->lock);
        if (!r)
            return;
        if (must_sync(b, r)) {
            r->syncing = true;
            r->op = DP_BLOCK_FLUSH;
            b->engine->submit(b, r);
            continue;
        }
        free(r->bounce);
        r->bounce = NULL;
        r->op = r->asked;
        if (r->result)
            tell(b, r);
        r->done(r, r->result); /* r may be gone now */
        atomic_fetch_sub(&b->in_flight, 1);
    }
}

static void event_ready(void *opaque, int fd, uint32_t events)
{
    collect(opaque);
}

void dp_block_drain(struct dp_block *b)
{
    while (atomic_load(&b->in_flight)) {
        if (b->throttle)
            dp_throttle_release(b->throttle);
        collect(b);
        /* Another thread may have taken the event and be in the callback: look again soon even if nothing new comes. */
        if (atomic_load(&b->in_flight))
            poll(&(struct pollfd){ .fd = b->event_fd, .events = POLLIN }, 1, 2);
    }
}

static int check(const struct dp_block *b, const struct dp_block_request *r)
{
    if (r->op == DP_BLOCK_FLUSH)
        return 0;
    if (r->offset > b->size || r->size > b->size - r->offset)
        return -EIO;
    if (r->op != DP_BLOCK_READ && b->readonly)
        return -EROFS;
    if (r->op == DP_BLOCK_READ || r->op == DP_BLOCK_WRITE) {
        uint64_t left = r->size;
        for (unsigned i = 0; i < r->iov_count; i++) {
            if (!r->iov[i].iov_len || r->iov[i].iov_len > left)
                return -EINVAL;
            left -= r->iov[i].iov_len;
        }
        if (left)
            return -EINVAL;
    }
    return 0;
}

static bool all_zeros(const struct dp_block_request *r)
{
    for (unsigned i = 0; i < r->iov_count; i++) {
        const uint8_t *p = r->iov[i].iov_base;
        if (*p || memcmp(p, p + 1, r->iov[i].iov_len - 1))
            return false;
    }
    return true;
}

/* What the user wants of a request that is possible. True: nothing is left to do. */
static bool adapt(struct dp_block *b, struct dp_block_request *r)
{
    if (r->op == DP_BLOCK_FLUSH)
        return b->readonly || b->cache == DP_BLOCK_UNSAFE;
    if (r->op == DP_BLOCK_WRITE && b->detect_zeroes && all_zeros(r)) { /* the guest may change them meanwhile: then either was written */
        r->op = DP_BLOCK_WRITE_ZEROES;
        r->unmap = b->detect_zeroes == DP_BLOCK_DETECT_UNMAP;
    }
    if (b->discard_ignored)
        r->unmap = false;
    return !r->size || (r->op == DP_BLOCK_DISCARD && b->discard_ignored);
}

/* Who holds says so first and then looks at in_flight, where this request counts already: so one that finds nobody holding may go on, and keeps
 * the engine what it is. */
static void to_engine(void *opaque, struct dp_block_request *r)
{
    struct dp_block *b = opaque;
    bool held = atomic_load(&b->holding);
    if (held) {
        pthread_mutex_lock(&b->lock);
        if ((held = atomic_load(&b->holding))) {
            r->next = NULL;
            *b->held_tail = r;
            b->held_tail = &r->next;
            b->held_count++;
        }
        pthread_mutex_unlock(&b->lock);
    }
    if (!held)
        b->engine->submit(b, r);
}

/* ---- another engine ---- */

void dp_block_hold(struct dp_block *b)
{
    atomic_store(&b->holding, true);
    for (;;) {
        if (b->throttle)
            dp_throttle_release(b->throttle);
        collect(b);
        pthread_mutex_lock(&b->lock);
        bool idle = atomic_load(&b->in_flight) == b->held_count;
        pthread_mutex_unlock(&b->lock);
        if (idle)
            return;
        poll(&(struct pollfd){.fd = b->event_fd, .events = POLLIN}, 1, 2);
    }
}

void dp_block_go_on(struct dp_block *b)
{
    pthread_mutex_lock(&b->lock);
    struct dp_block_request *r = b->held;
    b->held = NULL;
    b->held_tail = &b->held;
    b->held_count = 0;
    atomic_store(&b->holding, false);
    pthread_mutex_unlock(&b->lock);
    for (struct dp_block_request *next; r; r = next) {
        next = r->next;
        b->engine->submit(b, r);
    }
}

void dp_block_submit(struct dp_block *b, struct dp_block_request *r)
{
    r->block = b;
    r->next = NULL;
    r->progress = r->iov_skip = 0;
    r->iov_at = 0;
    r->attempt = r->retries = 0;
    atomic_fetch_add(&b->in_flight, 1);
    r->syncing = false;
    r->asked = r->op;
    r->bounce = NULL;
    r->result = check(b, r);
    bool over = r->result || adapt(b, r);
    if (!over && b->align)
        over = (r->result = dp_raw_bounce(b, r));
    if (over)
        dp_block_finish(b, r, true);
    else if (b->throttle)
        dp_throttle_submit(b->throttle, r);
    else
        to_engine(b, r);
}

static int open_engine(struct dp_block *b, enum dp_block_io io, struct dp_error *e)
{
    if (io != DP_BLOCK_IO_THREADS) {
        b->engine = &dp_block_uring;
        int rc = b->engine->open(b, e);
        if (!rc || io == DP_BLOCK_IO_URING)
            return rc;
        DP_TRACE(b->trace, DP_TRACE_BLOCK, "disk %s: no io_uring here (%s), using threads", b->path, strerror(-rc));
    }
    b->engine = &dp_block_threads;
    return b->engine->open(b, e);
}

void dp_block_suspect(const struct dp_block *b, const uint8_t head[DP_IMAGE_HEAD], const uint8_t tail[512])
{
    const struct dp_image_format *f;
    for (unsigned i = 0; b->trace && (f = dp_image_format(i)); i++)
        if (f->probe && f->probe(head, tail, b->size)) {
            dp_trace_emit(b->trace, DP_TRACE_BLOCK,
                          "disk %s looks like a %s image and is used as raw; if it is one, add ,format=%s (else ,format=raw)", b->path,
                          f->name, f->name);
            return;
        }
}

static void suspect(const struct dp_block *b)
{
    uint8_t head[DP_IMAGE_HEAD] = {0}, tail[512] = {0};
    if (b->trace && pread(b->fd, head, sizeof head, 0) >= 0 &&
        (b->size <= sizeof tail || pread(b->fd, tail, sizeof tail, (off_t)(b->size - sizeof tail)) >= 0))
        dp_block_suspect(b, head, tail);
}

static int open_raw(struct dp_block *b, const struct dp_block_options *o, struct dp_error *e)
{
    struct dp_file f;
    int rc = dp_file_open(&(struct dp_file_options){.name = o->path, .readonly = o->readonly, .trace = o->trace}, &f, e);
    b->fd = f.fd;
    if (rc)
        return rc;
    if (!f.length)
        return dp_error_set(e, -EINVAL, "disk %s is empty; give it a size with: truncate -s 4G %s", b->path, b->path);
    if (f.length > INT64_MAX - DP_BLOCK_SECTOR)
        return dp_error_set(e, -EFBIG, "disk %s is too large", b->path);
    b->size = DP_ALIGN_UP(f.length, DP_BLOCK_SECTOR);
    if (!o->format)
        suspect(b);
    if ((b->cache == DP_BLOCK_NONE || b->cache == DP_BLOCK_DIRECTSYNC) && (rc = dp_raw_direct(b, e)))
        return rc;
    return open_engine(b, o->io, e);
}

struct reopening {
    struct dp_image_options image;
    struct dp_error *e;
    uint64_t size;
};

static int open_image(void *opaque, struct dp_image **image)
{
    struct reopening *o = opaque;
    int rc = dp_image_open(&o->image, image, o->e);
    if (!rc && DP_ALIGN_UP((*image)->size, DP_BLOCK_SECTOR) != o->size)
        rc = dp_error_set(o->e, -EINVAL, "disk %s: its size is not what it was", o->image.name);
    if (rc) {
        dp_image_close(*image);
        *image = NULL;
    }
    return rc;
}

int dp_block_use_worker(struct dp_block *b, struct dp_error *e)
{
    if (b->fd < 0)
        return 0;
    if (b->align)
        return dp_error_set(e, -EINVAL, "disk %s: this cannot be done while it is used with cache=none or directsync; use cache=writeback",
                            b->path);
    struct dp_block_options raw = {.path = b->path, .format = "raw", .readonly = b->readonly, .cache = b->cache, .io = b->io, .trace = b->trace};
    struct reopening o = {.image = {.name = b->path, .readonly = b->readonly, .trace = b->trace}, .e = e, .size = b->size};
    struct dp_error lost = {0};
    dp_block_hold(b);
    const struct dp_block_engine *old = b->engine;
    void *old_data = b->engine_data;
    b->engine = &dp_block_worker;
    int rc = b->engine->open(b, e); /* of no image yet: what can fail otherwise comes first */
    void *worker = b->engine_data;
    b->engine = old;
    b->engine_data = old_data;
    if (!rc) {
        old->close(b);
        close(b->fd); /* with its lock, which the image needs */
        b->fd = -1;
        b->engine = &dp_block_worker;
        b->engine_data = worker;
        rc = dp_worker_call(b, open_image, &o);
        if (rc && open_raw(b, &raw, &lost)) { /* all requests fail from now on */
            b->engine = &dp_block_worker;
            b->engine_data = worker;
            if (b->trace)
                dp_trace_emit(b->trace, DP_TRACE_BLOCK, "disk %s is lost: %s", b->path, lost.text);
        } else if (rc) {
            old = b->engine;
            old_data = b->engine_data;
            b->engine_data = worker;
            dp_block_worker.close(b);
            b->engine_data = old_data;
        }
        b->size = o.size;
    }
    dp_block_go_on(b);
    return rc;
}

static void free_block(struct dp_block *b)
{
    if (b->secret)
        explicit_bzero(b->secret, strlen(b->secret));
    free(b->secret);
    free(b->path);
    free(b->format);
    free(b);
}

int dp_block_open(struct dp_loop *l, const struct dp_block_options *o, struct dp_block **out, struct dp_error *e)
{
    struct dp_block *b = calloc(1, sizeof(*b));
    if (!b)
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", o->path);
    b->loop = l;
    b->trace = o->trace;
    b->readonly = o->readonly;
    b->cache = o->cache;
    b->discard_ignored = o->discard_ignored;
    b->detect_zeroes = o->detect_zeroes;
    b->fd = b->event_fd = -1;
    b->finished_tail = &b->finished;
    b->held_tail = &b->held;
    b->backing_anywhere = o->backing_anywhere;
    b->io = o->io;
    b->fixed = o->of_volume ? "it is a volume, whose pool would not know; use doppel volume when the VM has ended"
               : o->copy    ? "it has a local copy (copy=)"
                            : NULL;
    pthread_mutex_init(&b->lock, NULL);

    int rc = 0;
    bool is_file = dp_image_is_file(o->path); /* else it is for the image layer */
    struct dp_image_options image = {.name = o->path, .format = o->format, .readonly = o->readonly, .backing_anywhere = o->backing_anywhere,
                                     .secret = o->secret,
                                     .copy = o->copy,
                                     .fill = o->fill,
                                     .trace = o->trace};
    if (!(b->path = strdup(o->path)) || (o->format && !(b->format = strdup(o->format))) ||
        (o->secret && !(b->secret = strdup(o->secret))))
        rc = dp_error_set(e, -ENOMEM, "disk %s: out of memory", o->path);
    else if ((b->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        rc = dp_error_set(e, -errno, "disk %s: cannot make an eventfd: %s", b->path, strerror(errno));
    else if (is_file && !o->copy && (!o->format || !strcmp(o->format, "raw")))
        rc = open_raw(b, o, e);
    else if (b->cache == DP_BLOCK_NONE || b->cache == DP_BLOCK_DIRECTSYNC)
        rc = dp_error_set(e, -EINVAL, "disk %s: cache=none and directsync are of raw images; use writeback or writethrough", b->path);
    else {
        b->engine = &dp_block_worker;
        b->image = &image;
        rc = b->engine->open(b, e);
        b->image = NULL;
    }
    const struct dp_throttle_limits none = {0}; /* with limits there is a clock */
    if (!rc && memcmp(&o->limits, &none, sizeof none) && (rc = dp_throttle_create(o->clock, &o->limits, to_engine, b, &b->throttle, e)))
        b->engine->close(b);
    if (!rc && l && (rc = dp_loop_watch(l, b->event_fd, EPOLLIN, event_ready, b))) {
        dp_error_set(e, rc, "disk %s: cannot watch for completions: %s", b->path, strerror(-rc));
        dp_throttle_destroy(b->throttle);
        b->engine->close(b);
    }
    if (!rc) {
        *out = b;
        return 0;
    }
    if (b->event_fd >= 0)
        close(b->event_fd);
    if (b->fd >= 0)
        close(b->fd);
    pthread_mutex_destroy(&b->lock);
    free_block(b);
    return rc;
}

void dp_block_close(struct dp_block *b)
{
    if (!b)
        return;
    dp_block_drain(b);
    if (b->loop)
        dp_loop_unwatch(b->loop, b->event_fd);
    dp_throttle_destroy(b->throttle);
    dp_live_stop(b);
    b->engine->close(b);
    dp_live_fini(b);
    close(b->event_fd);
    if (b->fd >= 0)
        close(b->fd); /* gives up the lock */
    pthread_mutex_destroy(&b->lock);
    free_block(b);
}

uint64_t dp_block_size(const struct dp_block *b) { return b->size; }
void dp_block_on_resize(struct dp_block *b, void (*resized)(void *opaque, struct dp_block *b), void *opaque)
{
    b->resized = resized;
    b->resized_opaque = opaque;
}
bool dp_block_readonly(const struct dp_block *b) { return b->readonly; }
const char *dp_block_io_name(const struct dp_block *b) { return b->engine->name; }
