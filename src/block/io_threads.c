/* io_threads.c - the io engine for hosts that refuse io_uring: a few worker threads that make ordinary system calls.
 *
 * Model: one queue, workers started as they are needed, up to WORKERS. A worker carries a request out to its end.
 * Invariants: signals go to other threads; workers end only after the queue is empty (close comes after a drain).
 */
#include <signal.h>
#include <stdlib.h>

#include "block/block_internal.h"

#define WORKERS 4

struct pool {
    struct dp_block *block;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct dp_block_request *head, **tail;
    pthread_t thread[WORKERS];
    unsigned threads, idle, queued;
    bool stop;
};

static void carry_out(struct dp_block *b, struct dp_block_request *r)
{
    struct dp_block_step s;
    do
        dp_raw_step(b, r, &s);
    while (!dp_raw_result(b, r, &s, dp_raw_call(b, &s)));
    dp_block_finish(b, r, true);
}

static void *worker(void *opaque)
{
    struct pool *p = opaque;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->head && !p->stop) {
            p->idle++;
            pthread_cond_wait(&p->wake, &p->lock);
            p->idle--;
        }
        struct dp_block_request *r = p->head;
        if (!r)
            break;
        if (!(p->head = r->next))
            p->tail = &p->head;
        p->queued--;
        pthread_mutex_unlock(&p->lock);
        carry_out(p->block, r);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Lock held. Failure is no error as long as there is one worker. */
static int add_worker(struct pool *p)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&p->thread[p->threads], NULL, worker, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!rc)
        p->threads++;
    return -rc;
}

static int pool_open(struct dp_block *b, struct dp_error *e)
{
    struct pool *p = calloc(1, sizeof(*p));
    if (!p)
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", b->path);
    p->block = b;
    p->tail = &p->head;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    b->engine_data = p;
    pthread_mutex_lock(&p->lock);
    int rc = add_worker(p);
    pthread_mutex_unlock(&p->lock);
    if (rc) {
        b->engine->close(b);
        return dp_error_set(e, rc, "disk %s: cannot start a worker thread: %s", b->path, strerror(-rc));
    }
    return 0;
}

static void pool_close(struct dp_block *b)
{
    struct pool *p = b->engine_data;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->threads; i++)
        pthread_join(p->thread[i], NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

static void pool_submit(struct dp_block *b, struct dp_block_request *r)
{
    struct pool *p = b->engine_data;
    pthread_mutex_lock(&p->lock);
    *p->tail = r;
    p->tail = &r->next;
    p->queued++;
    if (p->queued > p->idle && p->threads < WORKERS)
        add_worker(p);
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

const struct dp_block_engine dp_block_threads = { "threads", pool_open, pool_close, pool_submit, NULL };
