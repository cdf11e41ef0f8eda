/* nbd.c - disks that an NBD server has (nbd://, nbds://, nbd+unix://, nbds+unix://), as a protocol of images, by libnbd.
 *
 * Model: one connection, one command at a time (remote.h). The block size is the server's minimum.
 * Invariants: no memory of the caller is used by a command that was given up (its connection is closed first).
 * Source: the NBD protocol; libnbd(3).
 */
#include <libnbd.h>
#include <stdlib.h>

#include "block/image_internal.h"
#include "block/remote.h"

enum { COMMAND_MAX = 4 << 20, ZERO_MAX = 1 << 30 };

struct nbd_image {
    struct dp_remote remote;
    struct nbd_handle *nbd;
    bool readonly, can_flush, can_zero, can_trim, can_extents;
};

static struct nbd_image *of(struct dp_image *i) { return (struct nbd_image *)i; }
static struct nbd_image *of_remote(struct dp_remote *r) { return (struct nbd_image *)r; }

static int code_of(void)
{
    int n = nbd_get_errno();
    return n ? -n : -EIO;
}

/* ---- connections ---- */

static void disconnect(struct dp_remote *r)
{
    struct nbd_image *n = of_remote(r);
    nbd_close(n->nbd);
    n->nbd = NULL;
}

/* Until the connection is made, or a command's cookie is done. 0, or what went wrong. */
static int await(struct nbd_image *n, int64_t cookie, unsigned patience)
{
    for (int64_t end = dp_remote_now_ms() + patience * 1000ll;;) {
        int done = cookie < 0 ? nbd_aio_is_ready(n->nbd) : nbd_aio_command_completed(n->nbd, (uint64_t)cookie);
        if (done)
            return done > 0 ? 0 : code_of();
        if (nbd_aio_is_dead(n->nbd) || nbd_aio_is_closed(n->nbd))
            return -ENOTCONN;
        int rc = nbd_poll(n->nbd, 500);
        if (rc < 0)
            return nbd_aio_is_dead(n->nbd) && cookie >= 0 ? -ENOTCONN : code_of();
        if (dp_remote_now_ms() >= end)
            return -ETIMEDOUT;
    }
}

/* What libnbd says of TLS, and what to do about it. */
static const struct {
    const char *said, *means;
} tls_words[] = {
    {"certificate verification", "; the server's certificate is not for that host, or not of an authority that we believe: "
                                 "add ?tls-certificates=FOLDER, which has the ca-cert.pem that signed it"},
    {"gnutls_record_", "; does it want to know who we are? Add ?tls-certificates=FOLDER, which has client-cert.pem and client-key.pem"},
    {"requires TLS", "; the address begins with nbds then"},
};

static int fail(struct nbd_image *n, int rc, struct dp_error *e)
{
    const char *why = nbd_get_error(), *more = "";
    for (unsigned k = 0; why && k < DP_ARRAY_LEN(tls_words); k++)
        more = strstr(why, tls_words[k].said) ? tls_words[k].means : more;
    return dp_error_set(e, rc, "disk %.200s: %.200s%s", n->remote.image.name,
                        rc == -ETIMEDOUT ? "the server does not answer" : why ? why : strerror(-rc), more);
}

static int connect_(struct dp_remote *r, unsigned seconds, struct dp_error *e)
{
    struct nbd_image *n = of_remote(r);
    int rc = 0;
    if (!(n->nbd = nbd_create()))
        return fail(n, code_of(), e);
    if (nbd_set_uri_allow_local_file(n->nbd, true) || nbd_add_meta_context(n->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) ||
        nbd_aio_connect_uri(n->nbd, r->image.name))
        rc = code_of();
    if (!rc)
        rc = await(n, -1, seconds);
    int64_t size = rc ? -1 : nbd_get_size(n->nbd);
    if (!rc && size < 0)
        rc = code_of();
    if (rc) {
        rc = fail(n, rc, e);
        disconnect(r);
        return rc;
    }
    int64_t said = nbd_get_block_size(n->nbd, LIBNBD_SIZE_MINIMUM), most = nbd_get_block_size(n->nbd, LIBNBD_SIZE_MAXIMUM);
    r->image.size = (uint64_t)size;
    r->block = said > 0 ? (uint32_t)DP_MIN(said, (int64_t)DP_REMOTE_BLOCK_MAX + 1) : 1;
    r->most = most > 0 ? (uint32_t)DP_MIN(most, (int64_t)COMMAND_MAX) : COMMAND_MAX;
    r->most -= r->most % r->block;
    n->readonly = nbd_is_read_only(n->nbd) > 0;
    n->can_flush = nbd_can_flush(n->nbd) > 0;
    n->can_zero = nbd_can_zero(n->nbd) > 0;
    n->can_trim = nbd_can_trim(n->nbd) > 0;
    n->can_extents = nbd_can_meta_context(n->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
    return 0;
}

/* ---- commands ---- */

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

static int64_t send_(struct nbd_image *n, const struct dp_remote_command *c)
{
    switch (c->op) {
    case DP_REMOTE_READ:
        return nbd_aio_pread(n->nbd, c->data, c->size, c->offset, NBD_NULL_COMPLETION, 0);
    case DP_REMOTE_WRITE:
        return nbd_aio_pwrite(n->nbd, c->data, c->size, c->offset, NBD_NULL_COMPLETION, 0);
    case DP_REMOTE_ZERO:
        return nbd_aio_zero(n->nbd, c->size, c->offset, NBD_NULL_COMPLETION, c->flags & DP_ZERO_UNMAP ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
    case DP_REMOTE_DISCARD:
        return nbd_aio_trim(n->nbd, c->size, c->offset, NBD_NULL_COMPLETION, 0);
    case DP_REMOTE_FLUSH:
        return nbd_aio_flush(n->nbd, NBD_NULL_COMPLETION, 0);
    case DP_REMOTE_EXTENT:
        return nbd_aio_block_status(n->nbd, c->size, c->offset, (nbd_extent_callback){.callback = take_extent, .user_data = c->extent},
                                    NBD_NULL_COMPLETION, LIBNBD_CMD_FLAG_REQ_ONE);
    }
    return -1;
}

static int run(struct dp_remote *r, const struct dp_remote_command *c)
{
    struct nbd_image *n = of_remote(r);
    if (c->op == DP_REMOTE_FLUSH && !n->can_flush)
        return 0;
    int64_t cookie = send_(n, c);
    int rc = cookie < 0 ? code_of() : await(n, cookie, DP_REMOTE_PATIENCE);
    if (rc == -ETIMEDOUT)
        return rc;
    return rc == -ESHUTDOWN || nbd_aio_is_ready(n->nbd) <= 0 ? -ENOTCONN : rc; /* ESHUTDOWN: the server ends */
}

static const struct dp_remote_driver driver = {connect_, disconnect, run};

static int open_(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    int rc = dp_remote_open(&of(i)->remote, &driver, e);
    if (!rc && of(i)->readonly && !i->readonly)
        rc = dp_error_set(e, -EROFS, "disk %s: the server lets nobody write: add ,ro", i->name);
    return rc;
}

static void close_(struct dp_image *i)
{
    struct nbd_image *n = of(i);
    if (n->nbd && nbd_aio_is_ready(n->nbd) > 0)
        nbd_aio_disconnect(n->nbd, 0);
    dp_remote_close(&n->remote);
}

static int zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags)
{
    struct nbd_image *n = of(i);
    uint32_t block = n->remote.block;
    if (flags & DP_ZERO_DISCARD)
        return n->can_trim ? dp_remote_discard(&n->remote, offset, size, ZERO_MAX) : -ENOTSUP;
    if (!n->can_zero || offset % block || size % block)
        return -ENOTSUP;
    if (offset > i->size || size > i->size - offset)
        return -ENOSPC;
    int rc = 0;
    for (uint64_t k; !rc && size; offset += k, size -= k) {
        k = DP_MIN(size, (uint64_t)ZERO_MAX);
        rc = dp_remote_run(&n->remote, &(struct dp_remote_command){DP_REMOTE_ZERO, NULL, offset, k, flags, NULL});
    }
    return rc;
}

static int extent(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x)
{
    struct nbd_image *n = of(i);
    struct dp_extent said = {.kind = DP_EXTENT_DATA, .size = DP_MIN(size, (uint64_t)ZERO_MAX)};
    uint64_t block = n->remote.block, at = DP_ALIGN_DOWN(offset, block), skip = offset - at;
    uint64_t end = DP_ALIGN_UP(offset + said.size, block);
    *x = (struct dp_extent){.kind = DP_EXTENT_DATA, .size = size, .offset = offset, .has_offset = true};
    if (!n->can_extents)
        return 0;
    said.size = end - at;
    int rc = dp_remote_run(&n->remote, &(struct dp_remote_command){DP_REMOTE_EXTENT, NULL, at, end - at, 0, &said});
    if (rc)
        return rc;
    if (said.has_offset && said.size > skip) {
        x->kind = said.kind;
        x->size = DP_MIN(said.size - skip, size);
    }
    return 0;
}

const struct dp_image_format dp_image_nbd = {
    .name = "nbd",
    .summary = "a disk of an NBD server",
    .instance_size = sizeof(struct nbd_image),
    .scheme = "nbd",
    .open = open_,
    .close = close_,
    .read = dp_remote_read,
    .write = dp_remote_write,
    .zero = zero,
    .flush = dp_remote_flush,
    .extent = extent,
    .resize = dp_remote_resize,
};
