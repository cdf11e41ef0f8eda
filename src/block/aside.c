/* aside.c - what of an image need not wait for its turn with the worker: reads of what a file of this host holds as it is, and flushes of
 * it.
 *
 * Model: the worker finds where the bytes of a read are: through the tables of each layer, down to one range of one file. What is in the
 * host's page cache it takes from there at once; for the rest it puts the read into a ring of this file's own, and goes on with the next
 * request. So reads that wait for the host's disk overlap, and nothing waits for a flush of an image whose tables are all written. What is
 * more complicated (compressed, encrypted, in pieces, zeros, on another host), and a read that did not go well here, the worker does
 * itself. Invariants: the ring is touched under the lock. Before clusters may be freed, or layers or jobs change, the worker waits until
 * nothing is under way (dp_aside_wait): bytes never become another cluster's while they are read. A plain write frees none: what it
 * replaces is kept by a snapshot, or is compressed. A flush tells of all writes that were over before it was submitted, which the worker
 * has done by then. Source: io_uring(7), liburing 2.3; preadv2(2) RWF_NOWAIT.
 */
#include <liburing.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>

#include "block/block_internal.h"
#include "block/file.h"
#include "block/image.h"

enum { DEPTH = 64, TRANSFER_MAX = 1 << 30 };

struct dp_aside {
    struct dp_block *block;
    void (*again)(struct dp_block *b, struct dp_block_request *r);
    struct io_uring ring;
    pthread_mutex_t lock;
    atomic_uint busy; /* operations in the ring */
    bool waits;       /* the file system cannot tell what is in memory: then the worker does all */
};

struct dp_aside *dp_aside_open(struct dp_block *b, void (*again)(struct dp_block *b, struct dp_block_request *r))
{
    struct dp_aside *a = b->io == DP_BLOCK_IO_THREADS ? NULL : calloc(1, sizeof *a);
    if (!a || io_uring_queue_init(DEPTH, &a->ring, 0)) {
        free(a);
        return NULL;
    }
    if (io_uring_register_eventfd(&a->ring, b->event_fd)) {
        io_uring_queue_exit(&a->ring);
        free(a);
        return NULL;
    }
    io_uring_ring_dontfork(&a->ring);
    pthread_mutex_init(&a->lock, NULL);
    a->block = b;
    a->again = again;
    return a;
}

void dp_aside_close(struct dp_aside *a)
{
    if (!a)
        return;
    io_uring_queue_exit(&a->ring);
    pthread_mutex_destroy(&a->lock);
    free(a);
}

static void finish(struct dp_aside *a, struct dp_block_request *r, int result, bool signal)
{
    r->result = result;
    dp_block_finish(a->block, r, signal);
}

/* False: the ring is full. */
static bool put(struct dp_aside *a, struct dp_block_request *r, int fd, uint64_t offset)
{
    pthread_mutex_lock(&a->lock);
    struct io_uring_sqe *sqe = atomic_load(&a->busy) < DEPTH ? io_uring_get_sqe(&a->ring) : NULL;
    if (sqe) {
        if (r->op == DP_BLOCK_READ)
            io_uring_prep_readv(sqe, fd, r->iov, r->iov_count, offset);
        else
            io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
        io_uring_sqe_set_data(sqe, r);
        atomic_fetch_add(&a->busy, 1);
        /* What the kernel does not take for want of memory stays in the queue: the worker insists, it has nothing better to do. */
        while (io_uring_submit(&a->ring) < 0)
            poll(NULL, 0, 1);
    }
    pthread_mutex_unlock(&a->lock);
    return sqe != NULL;
}

static bool take_read(struct dp_aside *a, const struct dp_image *i, struct dp_block_request *r)
{
    uint64_t offset = r->offset;
    int fd;
    if (a->waits || r->attempt || r->iov_count > IOV_MAX || r->size > TRANSFER_MAX || !dp_image_place(i, &offset, r->size, &fd))
        return false;
    ssize_t got = preadv2(fd, r->iov, (int)r->iov_count, (off_t)offset, RWF_NOWAIT);
    if (got == (ssize_t)r->size) {
        finish(a, r, 0, true);
        return true;
    }
    if (got < 0 && errno != EAGAIN) { /* EOPNOTSUPP; an error is the worker's to find again */
        a->waits = errno == EOPNOTSUPP;
        return false;
    }
    return put(a, r, fd, offset);
}

bool dp_aside_take(struct dp_aside *a, const struct dp_image *i, struct dp_block_request *r)
{
    if (!a)
        return false;
    if (r->op == DP_BLOCK_READ)
        return take_read(a, i, r);
    int fd = r->attempt ? -1 : dp_image_flushed_by(i);
    return fd >= 0 && put(a, r, fd, 0);
}

/* One that is over; false: the worker has to do it. An error of a flush the kernel tells once, so that it counts. */
static bool digest(const struct dp_block_request *r, int result)
{
    if (r->op == DP_BLOCK_READ)
        return result >= 0 && (uint64_t)result == r->size;
    return result != -EINTR && result != -EAGAIN && result != -ECANCELED;
}

void dp_aside_reap(struct dp_aside *a, bool signal)
{
    struct io_uring_cqe *cqe;
    if (!a || !atomic_load(&a->busy))
        return;
    pthread_mutex_lock(&a->lock);
    while (!io_uring_peek_cqe(&a->ring, &cqe)) {
        struct dp_block_request *r = io_uring_cqe_get_data(cqe);
        int result = cqe->res;
        io_uring_cqe_seen(&a->ring, cqe);
        if (digest(r, result)) {
            finish(a, r, r->op == DP_BLOCK_READ ? 0 : result, signal);
        } else {
            r->attempt = 1;
            a->again(a->block, r);
        }
        atomic_fetch_sub(&a->busy, 1);
    }
    pthread_mutex_unlock(&a->lock);
}

void dp_aside_wait(struct dp_aside *a)
{
    while (a && atomic_load(&a->busy)) {
        dp_aside_reap(a, true);
        if (atomic_load(&a->busy)) /* another thread may reap it: look again soon */
            poll(&(struct pollfd){.fd = a->ring.ring_fd, .events = POLLIN}, 1, 2);
    }
}
