/* worker.c - an image (image.h) as an engine of the block core: one worker thread for each.
 *
 * Model: requests queue up and the worker carries them out one after another, by ordinary system calls; so nothing of an image needs a
 * lock, and a request that allocates may take its steps in order (docs/decisions/0007-qcow2.md). Reads of what a local file holds as it
 * is, and plain flushes, may overlap (aside.c). What the image holds back is flushed
 * when a request says so, after a pause of COMMIT_SECONDS, and at the end. What is done to a disk in use (live.c) happens in the same
 * thread, between two requests: calls from outside, and the steps of a job, of which one comes after BURST requests at the latest.
 * Invariants: signals go to other threads; the worker ends only after the queue is empty (close comes after a drain). The image is changed
 * only by the worker's thread; it is NULL after a change of images went wrong, and then all requests fail.
 */
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "block/block_internal.h"
#include "block/image.h"

enum { COMMIT_SECONDS = 2, BURST = 4 };

struct call {
    int (*run)(void *opaque, struct dp_image **image);
    void *opaque;
    int result;
    bool done;
};

struct worker {
    struct dp_block *block;
    struct dp_image *image;
    pthread_mutex_t lock;
    pthread_cond_t wake, called;
    pthread_t thread;
    struct dp_block_request *head, **tail;
    struct call *call;
    bool stop;
    struct dp_aside *aside; /* NULL: none */
    /* of the worker's thread */
    const struct dp_worker_job *job;
    uint64_t step_at; /* CLOCK_MONOTONIC, ns: when the job's next step is due */
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int carry_out(struct worker *w, struct dp_block_request *r)
{
    struct dp_image *i = w->image;
    struct dp_cursor c = {r->iov, r->iov_count, 0};
    if (!i)
        return -EIO;
    uint64_t size = r->offset >= i->size ? 0 : DP_MIN(r->size, i->size - r->offset); /* a disk may end within its last sector */
    bool changes = r->op != DP_BLOCK_READ && r->op != DP_BLOCK_FLUSH;
    if (changes && w->job && w->job->before)
        w->job->before(w->job->opaque, &w->image, r->offset, size);
    int rc = -EINVAL;
    switch (r->op) {
    case DP_BLOCK_READ:
        return dp_image_read(i, &c, r->offset, r->size);
    case DP_BLOCK_WRITE:
        rc = dp_image_write(i, &c, r->offset, size);
        break;
    case DP_BLOCK_FLUSH:
        return dp_image_flush(i);
    case DP_BLOCK_DISCARD:
        rc = dp_image_zero(i, r->offset, size, DP_ZERO_UNMAP | DP_ZERO_DISCARD);
        break;
    case DP_BLOCK_WRITE_ZEROES:
        rc = dp_image_zero(i, r->offset, size, r->unmap ? DP_ZERO_UNMAP : 0);
        break;
    }
    if (changes && w->job && w->job->after) {
        w->job->after(w->job->opaque, &w->image, r->offset, size); /* what failed may be half done */
        if (w->step_at == UINT64_MAX)
            w->step_at = 0;
    }
    return rc;
}

/* Lock held: until something is to be done, or the time has come. */
static void await(struct worker *w, uint64_t until)
{
    const struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
    while (!w->head && !w->stop && !w->call) {
        if (until == UINT64_MAX)
            pthread_cond_wait(&w->wake, &w->lock);
        else if (now_ns() >= until || pthread_cond_timedwait(&w->wake, &w->lock, &t) == ETIMEDOUT)
            return;
    }
}

static void *work(void *opaque)
{
    struct worker *w = opaque;
    bool tried = false; /* to commit since the last request: an error is for a flush to report */
    uint64_t commit_at = 0;
    unsigned served = 0;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        bool dirty = w->image && !tried && dp_image_dirty(w->image);
        uint64_t step_at = w->job ? w->step_at : UINT64_MAX;
        await(w, DP_MIN(step_at, dirty ? commit_at : UINT64_MAX));
        struct dp_block_request *r = w->head;
        struct call *call = w->call;
        bool step = step_at != UINT64_MAX && (!r || served >= BURST) && now_ns() >= step_at;
        if (!r && !call && w->stop)
            break;
        if (r && !call && !step && !(w->head = r->next))
            w->tail = &w->head;
        pthread_mutex_unlock(&w->lock);
        bool frees = r && r->op != DP_BLOCK_READ && r->op != DP_BLOCK_FLUSH && (r->op != DP_BLOCK_WRITE || w->job);
        if (call || step || frees)
            dp_aside_wait(w->aside);
        if (call) {
            call->result = call->run(call->opaque, &w->image);
            tried = false;
        } else if (step) {
            w->step_at = w->job->step(w->job->opaque, &w->image);
            served = 0;
        } else if (r) {
            bool may = (r->op == DP_BLOCK_READ || r->op == DP_BLOCK_FLUSH) && w->image;
            if (!may || !dp_aside_take(w->aside, w->image, r)) {
                r->result = carry_out(w, r);
                dp_block_finish(w->block, r, true);
            }
            tried = false;
            served++;
            commit_at = now_ns() + COMMIT_SECONDS * 1000000000ull;
        } else if (dirty && now_ns() >= commit_at) {
            tried = dp_image_flush(w->image) != 0;
        }
        pthread_mutex_lock(&w->lock);
        if (call) {
            call->done = true;
            w->call = NULL;
            pthread_cond_broadcast(&w->called);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

int dp_worker_call(struct dp_block *b, int (*run)(void *opaque, struct dp_image **image), void *opaque)
{
    struct worker *w = b->engine_data;
    struct call call = {.run = run, .opaque = opaque};
    pthread_mutex_lock(&w->lock);
    while (w->call)
        pthread_cond_wait(&w->called, &w->lock);
    w->call = &call;
    pthread_cond_signal(&w->wake);
    while (!call.done)
        pthread_cond_wait(&w->called, &w->lock);
    pthread_mutex_unlock(&w->lock);
    return call.result;
}

void dp_worker_set_job(struct dp_block *b, const struct dp_worker_job *job)
{
    struct worker *w = b->engine_data;
    w->job = job;
    w->step_at = 0;
}

static void worker_fini(struct worker *w)
{
    dp_aside_close(w->aside);
    pthread_cond_destroy(&w->wake);
    pthread_cond_destroy(&w->called);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

static void suspect(const struct dp_block *b, struct dp_image *i)
{
    uint8_t head[DP_IMAGE_HEAD], tail[512] = {0};
    if (!dp_image_pread(i, head, sizeof head, 0) && (b->size < sizeof tail || !dp_image_pread(i, tail, sizeof tail, b->size - sizeof tail)))
        dp_block_suspect(b, head, tail);
}

static void worker_submit(struct dp_block *b, struct dp_block_request *r)
{
    struct worker *w = b->engine_data;
    pthread_mutex_lock(&w->lock);
    r->next = NULL;
    *w->tail = r;
    w->tail = &r->next;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

static void worker_reap(struct dp_block *b)
{
    struct worker *w = b->engine_data;
    dp_aside_reap(w->aside, false);
}

static int worker_open(struct dp_block *b, struct dp_error *e)
{
    struct worker *w = calloc(1, sizeof *w);
    if (!w)
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", b->path);
    w->block = b;
    w->tail = &w->head;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &attributes);
    pthread_cond_init(&w->called, NULL);
    pthread_condattr_destroy(&attributes);
    int rc = 0;
    if (b->image) {
        struct dp_image_options image = *b->image;
        image.trace = b->trace;
        rc = dp_image_open(&image, &w->image, e);
        if (!rc && !w->image->size)
            rc = dp_error_set(e, -EINVAL, "disk %s is empty; give it a size with: doppel image resize %s 4G", b->path, b->path);
        if (!rc)
            b->size = DP_ALIGN_UP(w->image->size, DP_BLOCK_SECTOR);
        if (!rc && !image.format && b->trace)
            suspect(b, w->image);
    }
    if (rc) {
        dp_image_close(w->image);
        worker_fini(w);
        return rc;
    }
    b->engine_data = w;
    w->aside = dp_aside_open(b, worker_submit);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = -pthread_create(&w->thread, NULL, work, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) {
        dp_image_close(w->image);
        worker_fini(w);
        return dp_error_set(e, rc, "disk %s: cannot start a thread: %s", b->path, strerror(-rc));
    }
    return 0;
}

static void worker_close(struct dp_block *b)
{
    struct worker *w = b->engine_data;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    dp_image_close(w->image);
    worker_fini(w);
}

const struct dp_block_engine dp_block_worker = {"worker", worker_open, worker_close, worker_submit, worker_reap};
