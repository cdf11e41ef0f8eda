/* remote.c - what drivers of disks on servers share: model and invariants in remote.h. */
#include "block/remote.h"

#include <stdlib.h>
#include <time.h>

enum { RETRY = 20, RETRY_PAUSE_MS = 250, REST = 3, GLANCE = 3 /* seconds that looking for a server that is away may take */ };

int64_t dp_remote_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000ll + t.tv_nsec / 1000000;
}

/* ---- connections ---- */

static void disconnect(struct dp_remote *r)
{
    if (r->connected)
        r->driver->disconnect(r);
    r->connected = false;
}

static int connect_(struct dp_remote *r, unsigned seconds, struct dp_error *e)
{
    uint64_t size = r->image.size;
    uint32_t block = r->block, most = r->most;
    int rc = r->driver->connect(r, seconds, e);
    if (rc)
        return rc;
    r->connected = true;
    if (block && (r->image.size != size || r->block != block)) { /* not the first connection */
        rc = dp_error_set(e, -ESTALE, "disk %s: the server has another disk now", r->image.name);
    } else if (!r->block || r->block > DP_REMOTE_BLOCK_MAX || r->block & (r->block - 1) || r->image.size % r->block ||
               r->most < r->block || r->most % r->block || r->image.size > INT64_MAX) {
        rc = dp_error_set(e, -EINVAL, "disk %s: the server's sizes (blocks of %u bytes) cannot be used", r->image.name, r->block);
    }
    if (!rc)
        return 0;
    disconnect(r);
    r->image.size = size;
    r->block = block;
    r->most = most;
    return rc;
}

static void go_away(struct dp_remote *r, const char *why)
{
    if (!r->away && r->image.trace)
        dp_trace_emit(r->image.trace, DP_TRACE_BLOCK, "%.400s; the guest gets errors until its server is back", why);
    r->away = true;
    r->again_ms = dp_remote_now_ms() + REST * 1000;
}

static int reconnect(struct dp_remote *r)
{
    int64_t now = dp_remote_now_ms(), end = r->away ? now : now + RETRY * 1000;
    struct dp_error e = {0};
    if (r->away && now < r->again_ms)
        return -EIO;
    for (;;) {
        now = dp_remote_now_ms();
        int rc = connect_(r, r->away ? GLANCE : (unsigned)((end - now) / 1000 + 1), &e);
        if (!rc)
            break;
        if (rc == -ESTALE || rc == -EINVAL || rc == -EACCES || dp_remote_now_ms() >= end) {
            go_away(r, e.text);
            return -EIO;
        }
        nanosleep(&(struct timespec){.tv_nsec = RETRY_PAUSE_MS * 1000000}, NULL);
    }
    if (r->away && r->image.trace)
        dp_trace_emit(r->image.trace, DP_TRACE_BLOCK, "disk %s: its server is back", r->image.name);
    r->away = false;
    return 0;
}

int dp_remote_open(struct dp_remote *r, const struct dp_remote_driver *driver, struct dp_error *e)
{
    r->driver = driver;
    int rc = connect_(r, DP_REMOTE_PATIENCE, e);
    if (!rc && r->block > 1 && !(r->bounce = malloc(r->block)))
        rc = dp_error_set(e, -ENOMEM, "disk %s: out of memory", r->image.name);
    return rc;
}

void dp_remote_close(struct dp_remote *r)
{
    disconnect(r);
    free(r->bounce);
}

/* ---- commands ---- */

int dp_remote_run(struct dp_remote *r, const struct dp_remote_command *c)
{
    int rc = 0;
    for (unsigned attempt = 0; attempt < 2; attempt++) {
        if (!r->connected && (rc = reconnect(r)))
            break;
        rc = r->driver->run(r, c);
        if (rc != -ENOTCONN && rc != -ETIMEDOUT)
            break;
        disconnect(r);
        r->lost = r->lost || r->unflushed;
        if (rc == -ETIMEDOUT) {
            struct dp_error e = {0};
            (void)dp_error_set(&e, rc, "disk %.200s: the server does not answer", r->image.name);
            go_away(r, e.text);
            break;
        }
    }
    if (c->op == DP_REMOTE_WRITE || c->op == DP_REMOTE_ZERO || c->op == DP_REMOTE_DISCARD)
        r->unflushed = true;
    return rc == -ENOTCONN ? -EIO : rc;
}

/* Part of one block. */
static int piece(struct dp_remote *r, struct dp_cursor *c, bool write, uint64_t offset, uint64_t size)
{
    uint64_t at = DP_ALIGN_DOWN(offset, (uint64_t)r->block);
    int rc = 0;
    if (!write || size != r->block)
        rc = dp_remote_run(r, &(struct dp_remote_command){DP_REMOTE_READ, r->bounce, at, r->block, 0, NULL});
    if (rc || !write) {
        if (!rc)
            dp_cursor_put(c, r->bounce + (offset - at), size);
        return rc;
    }
    dp_cursor_get(c, r->bounce + (offset - at), size);
    return dp_remote_run(r, &(struct dp_remote_command){DP_REMOTE_WRITE, r->bounce, at, r->block, 0, NULL});
}

static int transfer(struct dp_image *i, struct dp_cursor *c, bool write, uint64_t offset, uint64_t size)
{
    struct dp_remote *r = (struct dp_remote *)i;
    int rc = 0;
    if (offset > i->size || size > i->size - offset)
        return -ENOSPC;
    for (uint64_t k; !rc && size; offset += k, size -= k) {
        struct dp_cursor ahead = *c;
        struct iovec v = dp_cursor_take(&ahead, DP_MIN(size, (uint64_t)r->most));
        uint64_t to_block = r->block - offset % r->block;
        k = DP_ALIGN_DOWN((uint64_t)v.iov_len, (uint64_t)r->block);
        if (to_block != r->block || !k) { /* a piece may be in several places of memory */
            k = DP_MIN(size, to_block);
            rc = piece(r, c, write, offset, k);
        } else {
            rc = dp_remote_run(r, &(struct dp_remote_command){write ? DP_REMOTE_WRITE : DP_REMOTE_READ, v.iov_base, offset, k, 0, NULL});
            dp_cursor_skip(c, k);
        }
    }
    return rc;
}

int dp_remote_read(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) { return transfer(i, c, false, offset, size); }
int dp_remote_write(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) { return transfer(i, c, true, offset, size); }

int dp_remote_discard(struct dp_remote *r, uint64_t offset, uint64_t size, uint64_t most)
{
    if (offset > r->image.size || size > r->image.size - offset)
        return -ENOSPC;
    uint64_t end = DP_ALIGN_DOWN(offset + size, (uint64_t)r->block);
    int rc = 0;
    offset = DP_ALIGN_UP(offset, (uint64_t)r->block);
    for (uint64_t k; !rc && offset < end; offset += k) {
        k = DP_MIN(end - offset, most);
        rc = dp_remote_run(r, &(struct dp_remote_command){DP_REMOTE_DISCARD, NULL, offset, k, 0, NULL});
    }
    return rc;
}

int dp_remote_flush(struct dp_image *i)
{
    struct dp_remote *r = (struct dp_remote *)i;
    int rc = dp_remote_run(r, &(struct dp_remote_command){.op = DP_REMOTE_FLUSH});
    if (rc)
        return rc;
    bool lost = r->lost;
    r->unflushed = r->lost = false;
    if (lost && i->trace)
        dp_trace_emit(i->trace, DP_TRACE_BLOCK, "disk %s: the connection broke; what was written before and not flushed may be lost",
                      i->name);
    return lost ? -EIO : 0;
}

int dp_remote_resize(struct dp_image *i, uint64_t size, struct dp_error *e)
{
    return size <= i->size ? 0 : dp_error_set(e, -ENOSPC, "%s has %llu bytes: its size cannot be changed here", i->name,
                                              (unsigned long long)i->size);
}
