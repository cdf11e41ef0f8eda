/* worker.c - an image (image.h) as an engine of the block core: one worker thread for each.
 *
 * Model: requests queue up and the worker carries them out one after another, by ordinary system calls; so nothing of an image needs a
 * lock, and a request that allocates may take its steps in order (docs/decisions/0007-qcow2.md). What the image holds back is flushed
 * when a request says so, after a pause of COMMIT_SECONDS, and at the end.
 * Invariants: signals go to other threads; the worker ends only after the queue is empty (close comes after a drain).
 */
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "block/block_internal.h"
#include "block/image.h"

enum { COMMIT_SECONDS = 2 };

struct worker {
    struct dp_block *block;
    struct dp_image *image;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    struct dp_block_request *head, **tail;
    bool stop;
};

static int carry_out(struct dp_image *i, struct dp_block_request *r)
{
    struct dp_cursor c = {r->iov, r->iov_count, 0};
    uint64_t size = r->offset >= i->size ? 0 : DP_MIN(r->size, i->size - r->offset); /* a disk may end within its last sector */
    switch (r->op) {
    case DP_BLOCK_READ:
        return dp_image_read(i, &c, r->offset, r->size);
    case DP_BLOCK_WRITE:
        return dp_image_write(i, &c, r->offset, size);
    case DP_BLOCK_FLUSH:
        return dp_image_flush(i);
    case DP_BLOCK_DISCARD:
        return dp_image_zero(i, r->offset, size, DP_ZERO_UNMAP | DP_ZERO_DISCARD);
    case DP_BLOCK_WRITE_ZEROES:
        return dp_image_zero(i, r->offset, size, r->unmap ? DP_ZERO_UNMAP : 0);
    }
    return -EINVAL;
}

/* Lock held: until there is something to do; false when it took long. */
static bool await(struct worker *w, bool dirty)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += COMMIT_SECONDS;
    while (!w->head && !w->stop) {
        if (!dirty)
            pthread_cond_wait(&w->wake, &w->lock);
        else if (pthread_cond_timedwait(&w->wake, &w->lock, &until) == ETIMEDOUT)
            return false;
    }
    return true;
}

static void *work(void *opaque)
{
    struct worker *w = opaque;
    bool tried = false; /* to commit since the last request: an error is for a flush to report */
    pthread_mutex_lock(&w->lock);
    for (;;) {
        if (!await(w, !w->image->readonly && !tried && dp_image_dirty(w->image))) {
            pthread_mutex_unlock(&w->lock);
            tried = dp_image_flush(w->image) != 0;
            pthread_mutex_lock(&w->lock);
            continue;
        }
        struct dp_block_request *r = w->head;
        if (!r)
            break;
        if (!(w->head = r->next))
            w->tail = &w->head;
        pthread_mutex_unlock(&w->lock);
        tried = false;
        r->result = carry_out(w->image, r);
        dp_block_finish(w->block, r, true);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void worker_fini(struct worker *w)
{
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->lock);
    free(w);
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
    pthread_condattr_destroy(&attributes);
    struct dp_image_options image = *b->image;
    image.trace = b->trace;
    int rc = dp_image_open(&image, &w->image, e);
    if (!rc && !w->image->size)
        rc = dp_error_set(e, -EINVAL, "disk %s is empty; give it a size with: doppel image resize %s 4G", b->path, b->path);
    if (rc) {
        dp_image_close(w->image);
        worker_fini(w);
        return rc;
    }
    b->size = DP_ALIGN_UP(w->image->size, DP_BLOCK_SECTOR);
    b->engine_data = w;
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

const struct dp_block_engine dp_block_worker = {"worker", worker_open, worker_close, worker_submit, NULL};
