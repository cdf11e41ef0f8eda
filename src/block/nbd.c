/* nbd.c - disks that an NBD server has (nbd://, nbds://, nbd+unix://, nbds+unix://), as a protocol of images, by libnbd.
 *
 * Model: one connection, one command at a time, each waited for PATIENCE seconds. A connection that breaks is made anew once, and the
 * command repeated (all of them may be), if the server still has the same disk. A server may have died with what was written and not
 * flushed: then the next flush says -EIO, once, for whoever wrote must know. Where a server takes only whole blocks (its minimum block
 * size), pieces of them are read, changed and written.
 * Invariants: no memory of the caller is used by a command that was given up (its connection is closed first). Sizes that the server says
 * are checked. Source: the NBD protocol; libnbd(3).
 */
#include <libnbd.h>
#include <stdlib.h>
#include <time.h>

#include "block/image_internal.h"

enum { PATIENCE = 30, COMMAND_MAX = 4 << 20, BLOCK_MAX = 1 << 20, ZERO_MAX = 1 << 30 };

struct nbd_image {
    struct dp_image image;
    struct nbd_handle *nbd; /* NULL: the connection broke */
    uint32_t block, most; /* sizes of commands: a multiple of, at most */
    bool readonly, can_flush, can_zero, can_trim, can_extents;
    bool unflushed, lost; /* something is written; and the server may have lost it */
    uint8_t *bounce;      /* one block, if those are larger than a byte */
};

static struct nbd_image *of(struct dp_image *i) { return (struct nbd_image *)i; }

static int code_of(void)
{
    int n = nbd_get_errno();
    return n ? -n : -EIO;
}

/* ---- connections ---- */

static void disconnect(struct nbd_image *n)
{
    nbd_close(n->nbd);
    n->nbd = NULL;
}

static int64_t seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec;
}

/* Until the connection is made, or a command's cookie is done. 0, or what went wrong. */
static int await(struct nbd_image *n, int64_t cookie)
{
    for (int64_t end = seconds() + PATIENCE;;) {
        int done = cookie < 0 ? nbd_aio_is_ready(n->nbd) : nbd_aio_command_completed(n->nbd, (uint64_t)cookie);
        if (done)
            return done > 0 ? 0 : code_of();
        if (nbd_aio_is_dead(n->nbd) || nbd_aio_is_closed(n->nbd))
            return -ENOTCONN;
        int rc = nbd_poll(n->nbd, 1000);
        if (rc < 0)
            return nbd_aio_is_dead(n->nbd) && cookie >= 0 ? -ENOTCONN : code_of();
        if (seconds() >= end)
            return -ETIMEDOUT;
    }
}

static int fail(struct nbd_image *n, int rc, struct dp_error *e)
{
    const char *why = nbd_get_error();
    dp_error_set(e, rc, "disk %.200s: %.250s", n->image.name, rc == -ETIMEDOUT ? "the server does not answer" : why ? why : strerror(-rc));
    return rc;
}

static int connect_(struct nbd_image *n, struct dp_error *e)
{
    int rc = 0;
    if (!(n->nbd = nbd_create()))
        return fail(n, code_of(), e);
    if (nbd_set_uri_allow_local_file(n->nbd, true) || nbd_add_meta_context(n->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) ||
        nbd_aio_connect_uri(n->nbd, n->image.name))
        rc = code_of();
    if (!rc)
        rc = await(n, -1);
    int64_t size = rc ? -1 : nbd_get_size(n->nbd);
    if (!rc && size < 0)
        rc = code_of();
    if (rc) {
        fail(n, rc, e);
        disconnect(n);
        return rc;
    }
    int64_t said = nbd_get_block_size(n->nbd, LIBNBD_SIZE_MINIMUM), most = nbd_get_block_size(n->nbd, LIBNBD_SIZE_MAXIMUM);
    uint32_t block = said > 0 ? (uint32_t)DP_MIN(said, (int64_t)BLOCK_MAX + 1) : 1;
    if (n->block && ((uint64_t)size != n->image.size || block != n->block)) { /* not the first connection */
        disconnect(n);
        return dp_error_set(e, -ESTALE, "disk %s: the server has another disk now", n->image.name);
    }
    n->image.size = (uint64_t)size;
    n->block = block;
    n->most = DP_ALIGN_DOWN(most > 0 ? (uint32_t)DP_MIN(most, (int64_t)COMMAND_MAX) : COMMAND_MAX, block);
    n->readonly = nbd_is_read_only(n->nbd) > 0;
    n->can_flush = nbd_can_flush(n->nbd) > 0;
    n->can_zero = nbd_can_zero(n->nbd) > 0;
    n->can_trim = nbd_can_trim(n->nbd) > 0;
    n->can_extents = nbd_can_meta_context(n->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
    return 0;
}

static int open_(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    struct nbd_image *n = of(i);
    int rc = connect_(n, e);
    if (rc)
        return rc;
    if (n->block > BLOCK_MAX || n->block & (n->block - 1) || i->size % n->block || n->most < n->block || i->size > INT64_MAX)
        return dp_error_set(e, -EINVAL, "disk %s: the server's sizes (blocks of %u bytes) cannot be used", i->name, n->block);
    if (n->readonly && !i->readonly)
        return dp_error_set(e, -EROFS, "disk %s: the server lets nobody write: add ,ro", i->name);
    if (n->block > 1 && !(n->bounce = malloc(n->block)))
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", i->name);
    return 0;
}

static void close_(struct dp_image *i)
{
    struct nbd_image *n = of(i);
    if (n->nbd && nbd_aio_is_ready(n->nbd) > 0)
        nbd_aio_disconnect(n->nbd, 0);
    nbd_close(n->nbd);
    free(n->bounce);
}

/* ---- commands ---- */

struct command {
    enum { READ, WRITE, ZERO, TRIM, FLUSH, EXTENT } kind;
    void *data;
    uint64_t offset, size;
    uint32_t flags;
    struct dp_extent *extent;
};

static int take_extent(void *opaque, const char *context, uint64_t offset, uint32_t *entry, size_t count, int *error)
{
    struct dp_extent *x = opaque;
    if (count < 2 || strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) || x->has_offset)
        return 0;
    x->has_offset = true; /* it has been said */
    x->size = DP_MIN(x->size, (uint64_t)entry[0]);
    x->kind = entry[1] & LIBNBD_STATE_ZERO ? DP_EXTENT_ZEROS : DP_EXTENT_DATA;
    return 0;
}

static int64_t send_(struct nbd_image *n, const struct command *c)
{
    switch (c->kind) {
    case READ:
        return nbd_aio_pread(n->nbd, c->data, c->size, c->offset, NBD_NULL_COMPLETION, 0);
    case WRITE:
        return nbd_aio_pwrite(n->nbd, c->data, c->size, c->offset, NBD_NULL_COMPLETION, 0);
    case ZERO:
        return nbd_aio_zero(n->nbd, c->size, c->offset, NBD_NULL_COMPLETION, c->flags);
    case TRIM:
        return nbd_aio_trim(n->nbd, c->size, c->offset, NBD_NULL_COMPLETION, 0);
    case FLUSH:
        return nbd_aio_flush(n->nbd, NBD_NULL_COMPLETION, 0);
    case EXTENT:
        return nbd_aio_block_status(n->nbd, c->size, c->offset, (nbd_extent_callback){.callback = take_extent, .user_data = c->extent},
                                    NBD_NULL_COMPLETION, LIBNBD_CMD_FLAG_REQ_ONE);
    }
    return -1;
}

static int command(struct nbd_image *n, const struct command *c)
{
    struct dp_error e = {0};
    int rc = 0;
    for (unsigned attempt = 0; attempt < 2; attempt++) {
        if (!n->nbd && (rc = connect_(n, &e))) {
            if (n->image.trace)
                DP_TRACE(n->image.trace, DP_TRACE_BLOCK, "%s", e.text);
            return rc;
        }
        int64_t cookie = send_(n, c);
        rc = cookie < 0 ? code_of() : await(n, cookie);
        bool broken = rc == -ETIMEDOUT || rc == -ENOTCONN || !nbd_aio_is_ready(n->nbd);
        if (!broken)
            break;
        disconnect(n);
        n->lost = n->lost || n->unflushed;
        if (rc == -ETIMEDOUT)
            break;
        rc = rc ? rc : -EIO;
    }
    if (c->kind == WRITE || c->kind == ZERO || c->kind == TRIM)
        n->unflushed = true;
    return rc;
}

/* Part of one block, where the server takes only whole ones. */
static int piece(struct nbd_image *n, struct dp_cursor *c, bool write, uint64_t offset, uint64_t size)
{
    uint64_t at = DP_ALIGN_DOWN(offset, (uint64_t)n->block);
    int rc = command(n, &(struct command){READ, n->bounce, at, n->block, 0, NULL});
    if (rc || !write) {
        if (!rc)
            dp_cursor_put(c, n->bounce + (offset - at), size);
        return rc;
    }
    dp_cursor_get(c, n->bounce + (offset - at), size);
    return command(n, &(struct command){WRITE, n->bounce, at, n->block, 0, NULL});
}

static int transfer(struct dp_image *i, struct dp_cursor *c, bool write, uint64_t offset, uint64_t size)
{
    struct nbd_image *n = of(i);
    int rc = 0;
    if (offset > i->size || size > i->size - offset)
        return -ENOSPC;
    while (!rc && size) {
        struct dp_cursor ahead = *c;
        struct iovec v = dp_cursor_take(&ahead, DP_MIN(size, (uint64_t)n->most));
        uint64_t to_block = n->block - offset % n->block, k = DP_ALIGN_DOWN((uint64_t)v.iov_len, (uint64_t)n->block);
        if (to_block != n->block || !k) { /* a piece may be in several places of memory */
            k = DP_MIN(size, to_block);
            rc = piece(n, c, write, offset, k);
        } else {
            rc = command(n, &(struct command){write ? WRITE : READ, v.iov_base, offset, k, 0, NULL});
            dp_cursor_skip(c, k);
        }
        offset += k;
        size -= k;
    }
    return rc;
}

static int read_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) { return transfer(i, c, false, offset, size); }
static int write_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) { return transfer(i, c, true, offset, size); }

static int zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags)
{
    struct nbd_image *n = of(i);
    bool discard = flags & DP_ZERO_DISCARD;
    if (discard ? !n->can_trim : !n->can_zero)
        return -ENOTSUP;
    if (offset > i->size || size > i->size - offset)
        return -ENOSPC;
    if (discard) { /* only what is whole blocks can be given up */
        uint64_t end = DP_ALIGN_DOWN(offset + size, (uint64_t)n->block);
        offset = DP_ALIGN_UP(offset, (uint64_t)n->block);
        size = end > offset ? end - offset : 0;
    } else if (offset % n->block || size % n->block) {
        return -ENOTSUP;
    }
    int rc = 0;
    for (uint64_t k; !rc && size; offset += k, size -= k) {
        k = DP_MIN(size, (uint64_t)ZERO_MAX);
        uint32_t how = flags & DP_ZERO_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE;
        rc = command(n, &(struct command){discard ? TRIM : ZERO, NULL, offset, k, discard ? 0 : how, NULL});
    }
    return rc;
}

static int flush(struct dp_image *i)
{
    struct nbd_image *n = of(i);
    int rc = n->can_flush ? command(n, &(struct command){.kind = FLUSH}) : 0;
    if (rc)
        return rc;
    bool lost = n->lost;
    n->unflushed = n->lost = false;
    if (lost && i->trace)
        dp_trace_emit(i->trace, DP_TRACE_BLOCK, "disk %s: the connection broke; what was written before and not flushed may be lost",
                      i->name);
    return lost ? -EIO : 0;
}

static int extent(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x)
{
    struct nbd_image *n = of(i);
    struct dp_extent said = {.kind = DP_EXTENT_DATA, .size = DP_MIN(size, (uint64_t)ZERO_MAX)};
    uint64_t at = DP_ALIGN_DOWN(offset, (uint64_t)n->block), skip = offset - at;
    uint64_t end = DP_ALIGN_UP(offset + said.size, (uint64_t)n->block);
    *x = (struct dp_extent){.kind = DP_EXTENT_DATA, .size = size, .offset = offset, .has_offset = true};
    if (!n->can_extents)
        return 0;
    said.size = end - at;
    int rc = command(n, &(struct command){EXTENT, NULL, at, end - at, 0, &said});
    if (rc)
        return rc;
    if (said.has_offset && said.size > skip) {
        x->kind = said.kind;
        x->size = DP_MIN(said.size - skip, size);
    }
    return 0;
}

static int resize(struct dp_image *i, uint64_t size, struct dp_error *e)
{
    return size <= i->size ? 0 : dp_error_set(e, -ENOSPC, "%s has %llu bytes: its size cannot be changed here", i->name,
                                              (unsigned long long)i->size);
}

const struct dp_image_format dp_image_nbd = {
    .name = "nbd",
    .summary = "a disk of an NBD server",
    .instance_size = sizeof(struct nbd_image),
    .scheme = "nbd",
    .open = open_,
    .close = close_,
    .read = read_,
    .write = write_,
    .zero = zero,
    .flush = flush,
    .extent = extent,
    .resize = resize,
};
