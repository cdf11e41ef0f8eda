/* raw.c - a raw image: a regular file or a block device of the host.
 *
 * Model: byte n of the disk is byte n of the file (file.h opens it). Here is the small state machine that turns a request into system
 * calls: a read or write goes on after a short transfer, the tail of the last sector that the file does not have gives zeros, zeroing
 * tries the cheap ways first (see `attempt`).
 * Source: fallocate(2).
 */
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/block_internal.h"

#define TRANSFER_MAX (1u << 30) /* bytes in one plain read or write: a result must fit an int */
#define RETRIES_MAX 100

/* Only read from; iovecs and SQEs want a pointer without const. */
static const uint8_t zeros[65536] __attribute__((aligned(4096)));

/* ---- O_DIRECT ---- */

/* What the kernel asks for: statx(2) STATX_DIOALIGN; where it cannot say, what has always been enough. Requests begin and end at the
 * guest's sectors, so memory only need be brought into line: by a bounce buffer. */
int dp_raw_direct(struct dp_block *b, struct dp_error *e)
{
    struct statx st;
    unsigned memory = 4096, offset = DP_BLOCK_SECTOR;
    if (fcntl(b->fd, F_SETFL, fcntl(b->fd, F_GETFL) | O_DIRECT))
        return dp_error_set(e, -errno, "disk %s: its file system has no O_DIRECT (%s); use cache=writeback", b->path, strerror(errno));
#ifdef STATX_DIOALIGN
    if (!statx(b->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) && (st.stx_mask & STATX_DIOALIGN) && st.stx_dio_mem_align) {
        memory = st.stx_dio_mem_align;
        offset = st.stx_dio_offset_align;
    }
#else
    (void)st;
#endif
    struct stat length;
    if (!fstat(b->fd, &length) && S_ISREG(length.st_mode) && length.st_size % DP_BLOCK_SECTOR)
        return dp_error_set(e, -EINVAL, "disk %s: %lld bytes are no whole sectors, which cache=none needs; use cache=writeback", b->path,
                            (long long)length.st_size);
    if (offset > DP_BLOCK_SECTOR)
        return dp_error_set(e, -EINVAL, "disk %s: the host's disk has sectors of %u bytes, too large for cache=none; use cache=writeback",
                            b->path, offset);
    b->align = DP_MAX(memory, DP_BLOCK_SECTOR);
    return 0;
}

int dp_raw_bounce(struct dp_block *b, struct dp_block_request *r)
{
    bool fits = r->op != DP_BLOCK_READ && r->op != DP_BLOCK_WRITE;
    for (unsigned i = 0; !fits && i < r->iov_count; i++) {
        if (((uintptr_t)r->iov[i].iov_base & (b->align - 1)) || r->iov[i].iov_len % DP_BLOCK_SECTOR)
            break;
        fits = i + 1 == r->iov_count;
    }
    void *p = NULL;
    if (!fits && posix_memalign(&p, DP_MAX(b->align, 4096u), DP_MIN(r->size, (uint64_t)DP_BLOCK_BOUNCE)))
        return -ENOMEM;
    r->bounce = p;
    return 0;
}

/* The next n bytes of the pieces, to or from the bounce buffer. */
static void bounce_copy(const struct dp_block_request *r, uint64_t n, bool in)
{
    uint64_t skip = r->iov_skip, done = 0;
    for (unsigned i = r->iov_at; i < r->iov_count && done < n; i++, skip = 0) {
        uint64_t take = DP_MIN(r->iov[i].iov_len - skip, n - done);
        uint8_t *piece = (uint8_t *)r->iov[i].iov_base + skip;
        memcpy(in ? piece : r->bounce + done, in ? r->bounce + done : piece, take);
        done += take;
    }
}

/* ---- steps ---- */

/* Ways to zero a range, tried in this order. A guest that allows unmapping starts with PUNCH. */
enum { ZERO_RANGE, ZERO_PUNCH, ZERO_WRITE };

static int zero_way(const struct dp_block_request *r) { return r->attempt + (r->unmap ? ZERO_PUNCH : ZERO_RANGE); }

static void transfer_step(const struct dp_block_request *r, struct dp_block_step *s)
{
    bool read = r->op == DP_BLOCK_READ;
    const struct iovec *v = &r->iov[r->iov_at];
    s->offset = r->offset + r->progress;
    if (r->bounce) {
        s->call = read ? DP_CALL_READ : DP_CALL_WRITE;
        s->data = r->bounce;
        s->size = DP_MIN(r->size - r->progress, (uint64_t)DP_BLOCK_BOUNCE);
        if (!read)
            bounce_copy(r, s->size, false);
        return;
    }
    /* in the middle of a piece: finish that one by itself, so that the array needs no copy */
    if (r->iov_skip || v->iov_len > TRANSFER_MAX) {
        s->call = read ? DP_CALL_READ : DP_CALL_WRITE;
        s->data = (uint8_t *)v->iov_base + r->iov_skip;
        s->size = DP_MIN(v->iov_len - r->iov_skip, TRANSFER_MAX);
        return;
    }
    s->call = read ? DP_CALL_READV : DP_CALL_WRITEV;
    s->iov = v;
    s->size = 0;
    unsigned n = 0;
    while (r->iov_at + n < r->iov_count && n < IOV_MAX && s->size + v[n].iov_len <= TRANSFER_MAX)
        s->size += v[n++].iov_len;
    s->iov_count = n;
}

void dp_raw_step(struct dp_block *b, const struct dp_block_request *r, struct dp_block_step *s)
{
    *s = (struct dp_block_step){ .offset = r->offset + r->progress, .size = r->size - r->progress };
    switch (r->op) {
    case DP_BLOCK_READ:
    case DP_BLOCK_WRITE:
        transfer_step(r, s);
        break;
    case DP_BLOCK_FLUSH:
        s->call = DP_CALL_DATASYNC;
        break;
    case DP_BLOCK_DISCARD:
        s->call = DP_CALL_FALLOCATE;
        s->mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        break;
    case DP_BLOCK_WRITE_ZEROES:
        s->call = DP_CALL_FALLOCATE;
        if (zero_way(r) == ZERO_RANGE)
            s->mode = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
        else if (zero_way(r) == ZERO_PUNCH)
            s->mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        else {
            s->call = DP_CALL_WRITE;
            s->data = (void *)zeros;
            s->size = DP_MIN(s->size, sizeof(zeros));
        }
        break;
    }
}

static void advance(struct dp_block_request *r, uint64_t n)
{
    r->progress += n;
    while (r->iov_at < r->iov_count && n >= r->iov[r->iov_at].iov_len - r->iov_skip) {
        n -= r->iov[r->iov_at].iov_len - r->iov_skip;
        r->iov_skip = 0;
        r->iov_at++;
    }
    r->iov_skip += n;
}

static void zero_rest(struct dp_block_request *r)
{
    for (; r->iov_at < r->iov_count; r->iov_at++, r->iov_skip = 0)
        memset((uint8_t *)r->iov[r->iov_at].iov_base + r->iov_skip, 0, r->iov[r->iov_at].iov_len - r->iov_skip);
    r->progress = r->size;
}

static bool over(struct dp_block_request *r, int result)
{
    r->result = result;
    return true;
}

bool dp_raw_result(struct dp_block *b, struct dp_block_request *r, const struct dp_block_step *s, int64_t result)
{
    /* ECANCELED: io_uring ends what a thread submitted when that thread (a vCPU) exits; another thread does it again. */
    if (result == -EINTR || result == -EAGAIN || result == -ECANCELED)
        return ++r->retries > RETRIES_MAX ? over(r, -EIO) : false;
    if (s->call == DP_CALL_FALLOCATE) {
        bool unsupported = result == -EOPNOTSUPP || result == -ENOSYS || result == -EINVAL || result == -ENODEV;
        if (unsupported && r->op == DP_BLOCK_DISCARD)
            return over(r, 0); /* discard is a hint: keeping the data is right, too */
        if (unsupported) {
            r->attempt++;
            return false;
        }
        return over(r, result < 0 ? (int)result : 0);
    }
    if (result < 0 || s->call == DP_CALL_DATASYNC)
        return over(r, (int)result);
    if (r->op == DP_BLOCK_WRITE_ZEROES)
        r->progress += result;
    else if (result) {
        if (r->bounce && r->op == DP_BLOCK_READ)
            bounce_copy(r, (uint64_t)result, true);
        advance(r, result);
    }
    else if (r->op == DP_BLOCK_READ && s->offset > b->size - DP_BLOCK_SECTOR)
        zero_rest(r); /* of a file that ends within its last sector */
    else if (r->op == DP_BLOCK_READ)
        return over(r, -EIO); /* the file is shorter than it was */
    if (!result && r->op != DP_BLOCK_READ)
        return over(r, -EIO); /* a write that writes nothing and says no reason */
    return r->progress == r->size ? over(r, 0) : false;
}

int64_t dp_raw_call(struct dp_block *b, const struct dp_block_step *s)
{
    ssize_t n = -1;
    switch (s->call) {
    case DP_CALL_READ: n = pread(b->fd, s->data, s->size, s->offset); break;
    case DP_CALL_WRITE: n = pwrite(b->fd, s->data, s->size, s->offset); break;
    case DP_CALL_READV: n = preadv(b->fd, s->iov, s->iov_count, s->offset); break;
    case DP_CALL_WRITEV: n = pwritev(b->fd, s->iov, s->iov_count, s->offset); break;
    case DP_CALL_DATASYNC: n = fdatasync(b->fd); break;
    case DP_CALL_FALLOCATE: n = fallocate(b->fd, s->mode, s->offset, s->size); break;
    }
    return n < 0 ? -errno : n;
}
