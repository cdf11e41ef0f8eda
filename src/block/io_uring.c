/* io_uring.c - the io engine on io_uring.
 *
 * Model: one ring per block. A step is one SQE whose user data is the request; the ring's eventfd is the block's, so completions arrive
 * like any other. What does not fit the ring waits on a list. reap digests completions and puts follow-up steps in at once.
 * Invariants: at most DEPTH steps are in the ring, so the completion queue (twice as long) cannot overflow. The ring is touched under the
 * lock only.
 * Source: io_uring(7), liburing 2.3.
 */
#include <liburing.h>
#include <stdlib.h>
#include <unistd.h>

#include "block/block_internal.h"

#define DEPTH 128

struct uring {
    struct io_uring ring;
    pthread_mutex_t lock;
    unsigned busy;                             /* steps in the ring */
    struct dp_block_request *waiting, **tail;  /* have no place in the ring yet */
};

/* Some containers let the set-up through and refuse what follows; old kernels lack operations. */
static bool can_all(struct io_uring *ring)
{
    static const int needed[] = { IORING_OP_READ, IORING_OP_WRITE, IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC,
                                  IORING_OP_FALLOCATE };
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    bool ok = probe != NULL;
    for (unsigned i = 0; ok && i < DP_ARRAY_LEN(needed); i++)
        ok = io_uring_opcode_supported(probe, needed[i]);
    io_uring_free_probe(probe);
    struct io_uring_cqe *cqe;
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    io_uring_prep_nop(sqe);
    if (!ok || io_uring_submit_and_wait(ring, 1) != 1 || io_uring_peek_cqe(ring, &cqe))
        return false;
    io_uring_cqe_seen(ring, cqe);
    return true;
}

static int uring_open(struct dp_block *b, struct dp_error *e)
{
    struct uring *u = calloc(1, sizeof(*u));
    if (!u)
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", b->path);
    int rc = io_uring_queue_init(DEPTH, &u->ring, 0);
    if (rc) {
        free(u);
        return dp_error_set(e, rc, "disk %s: io_uring is refused here: %s", b->path, strerror(-rc));
    }
    rc = can_all(&u->ring) ? io_uring_register_eventfd(&u->ring, b->event_fd) : -EOPNOTSUPP;
    if (rc) {
        io_uring_queue_exit(&u->ring);
        free(u);
        return dp_error_set(e, rc, "disk %s: io_uring lacks an operation here: %s", b->path, strerror(-rc));
    }
    io_uring_ring_dontfork(&u->ring);
    pthread_mutex_init(&u->lock, NULL);
    u->tail = &u->waiting;
    b->engine_data = u;
    return 0;
}

static void uring_close(struct dp_block *b)
{
    struct uring *u = b->engine_data;
    io_uring_queue_exit(&u->ring);
    pthread_mutex_destroy(&u->lock);
    free(u);
}

static void prepare(struct io_uring_sqe *sqe, struct dp_block *b, const struct dp_block_step *s)
{
    switch (s->call) {
    case DP_CALL_READ: io_uring_prep_read(sqe, b->fd, s->data, s->size, s->offset); break;
    case DP_CALL_WRITE: io_uring_prep_write(sqe, b->fd, s->data, s->size, s->offset); break;
    case DP_CALL_READV: io_uring_prep_readv(sqe, b->fd, s->iov, s->iov_count, s->offset); break;
    case DP_CALL_WRITEV: io_uring_prep_writev(sqe, b->fd, s->iov, s->iov_count, s->offset); break;
    case DP_CALL_DATASYNC: io_uring_prep_fsync(sqe, b->fd, IORING_FSYNC_DATASYNC); break;
    case DP_CALL_FALLOCATE: io_uring_prep_fallocate(sqe, b->fd, s->mode, s->offset, s->size); break;
    }
}

/* Lock held: moves waiting requests into the ring and tells the kernel. */
static void feed(struct dp_block *b, struct uring *u)
{
    while (u->waiting && u->busy < DEPTH) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
        if (!sqe)
            break;
        struct dp_block_request *r = u->waiting;
        if (!(u->waiting = r->next))
            u->tail = &u->waiting;
        struct dp_block_step s;
        dp_raw_step(b, r, &s);
        prepare(sqe, b, &s);
        io_uring_sqe_set_data(sqe, r);
        u->busy++;
    }
    /* What the kernel does not take for lack of memory (EAGAIN, EBUSY) stays in the submission queue; the next feed or reap submits it.
     * If nothing is in flight there will be no next one, so insist. */
    while (io_uring_submit(&u->ring) < 0 && io_uring_sq_ready(&u->ring) == u->busy && u->busy)
        usleep(1000);
}

static void enqueue(struct uring *u, struct dp_block_request *r)
{
    r->next = NULL;
    *u->tail = r;
    u->tail = &r->next;
}

static void uring_submit(struct dp_block *b, struct dp_block_request *r)
{
    struct uring *u = b->engine_data;
    pthread_mutex_lock(&u->lock);
    enqueue(u, r);
    feed(b, u);
    pthread_mutex_unlock(&u->lock);
}

static void uring_reap(struct dp_block *b)
{
    struct uring *u = b->engine_data;
    pthread_mutex_lock(&u->lock);
    struct io_uring_cqe *cqe;
    while (!io_uring_peek_cqe(&u->ring, &cqe)) {
        struct dp_block_request *r = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&u->ring, cqe);
        u->busy--;
        struct dp_block_step s; /* the same that was submitted: the request has not moved since */
        dp_raw_step(b, r, &s);
        if (dp_raw_result(b, r, &s, result))
            dp_block_finish(b, r, false);
        else
            enqueue(u, r);
    }
    if (u->waiting || io_uring_sq_ready(&u->ring))
        feed(b, u);
    pthread_mutex_unlock(&u->lock);
}

const struct dp_block_engine dp_block_uring = { "io_uring", uring_open, uring_close, uring_submit, uring_reap };
