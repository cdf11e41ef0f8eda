/* http.c - disks that a web server has (http://, https://), as a protocol of images: they are only read.
 *
 * Model: bytes come in blocks, and are kept: in a copy on this host's disk, if the user named a file for it (http_copy.c), else in memory,
 * CACHE blocks of them, the longest unused one giving way. What is read one piece after the other is fetched ahead, twice as far each
 * time. With a copy there is a thread, the *keeper*: it commits the copy once in a second, and with `fill` it fetches what is missing, over
 * a connection of its own, while the disk's user fetches nothing. Both may fetch the same block: they get the same.
 * Invariants: memory is bounded by CACHE blocks and two buffers. A copy that cannot be written any more (a full disk) is not needed to
 * read. A copy that is whole is used even if the server cannot be reached.
 * Source: http.h.
 */
#include <json.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <time.h>

#include "block/http.h"
#include "block/image_internal.h"

enum { CACHE = 256, BUFFER = 2 << 20, FILL = 1 << 20, PIECES = 64, FILL_REST_SECONDS = 5 };

struct slot {
    uint64_t block, used; /* used: when; 0: never */
    uint8_t *data;
};

struct http_image {
    struct dp_image image;
    struct dp_http *server; /* NULL: it cannot be reached, the copy is whole */
    struct dp_http_copy *copy;
    uint32_t block;
    uint8_t *buffer; /* what was fetched last */
    uint64_t buffer_at, buffer_size;
    uint64_t next, ahead; /* where the last fetch ended; how much more than needed it brought */
    struct slot slot[CACHE];
    uint64_t clock; /* of the slots */
    bool failing;
    atomic_bool told; /* that the copy cannot be written */
    /* the keeper */
    struct dp_http *filler; /* its connection; NULL: it does not fill */
    uint8_t *filler_buffer;
    pthread_t keeper;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake;
    bool locks, runs, stop, busy; /* busy: the user fetches */
};

static struct http_image *of(struct dp_image *i) { return (struct http_image *)i; }

static void tell(struct http_image *h, int code)
{
    if (h->image.trace && !atomic_exchange(&h->told, true))
        dp_trace_emit(h->image.trace, DP_TRACE_BLOCK, "disk %s: its copy cannot be written: %s; what it does not have is fetched each time",
                      h->image.name, strerror(-code));
}

/* ---- the cache ---- */

static const uint8_t *find(struct http_image *h, uint64_t block)
{
    for (unsigned n = 0; n < CACHE && h->slot[n].used; n++)
        if (h->slot[n].block == block) {
            h->slot[n].used = ++h->clock;
            return h->slot[n].data;
        }
    return NULL;
}

/* Without memory for it, it is not kept. Slots are taken in order, so that all in use are in front. */
static void remember(struct http_image *h, uint64_t block, const uint8_t *data, uint64_t size)
{
    struct slot *oldest = h->slot;
    for (unsigned n = 0; n < CACHE; n++) {
        struct slot *s = &h->slot[n];
        if (s->used && s->block == block)
            return;
        if (s->used < oldest->used)
            oldest = s;
        if (!s->used)
            break;
    }
    if (!oldest->data && !(oldest->data = malloc(h->block)))
        return;
    memcpy(oldest->data, data, size);
    oldest->block = block;
    oldest->used = ++h->clock;
}

static void store(struct http_image *h, uint64_t at, const uint8_t *data, uint64_t size)
{
    int rc = 0;
    if (h->copy)
        rc = dp_http_copy_put(h->copy, at, data, size);
    else
        for (uint64_t n = 0; n < size; n += h->block)
            remember(h, (at + n) / h->block, data + n, DP_MIN(size - n, (uint64_t)h->block));
    if (rc)
        tell(h, rc);
}

/* ---- fetching ---- */

static void set_busy(struct http_image *h, bool busy)
{
    if (!h->runs)
        return;
    pthread_mutex_lock(&h->lock);
    h->busy = busy;
    pthread_cond_signal(&h->wake);
    pthread_mutex_unlock(&h->lock);
}

/* The block at `at`, which is not there, and the next ones, up to end if possible; into the buffer. */
static int fetch(struct http_image *h, uint64_t at, uint64_t end)
{
    struct dp_error e = {0};
    bool there;
    uint64_t size = DP_ALIGN_UP(DP_MIN(end - at, (uint64_t)BUFFER), (uint64_t)h->block);
    h->ahead = at != h->next ? 0 : h->ahead ? DP_MIN(h->ahead * 2, (uint64_t)BUFFER / 2) : h->block;
    size = DP_MIN(DP_MIN(size + DP_ALIGN_DOWN(h->ahead, (uint64_t)h->block), (uint64_t)BUFFER), h->image.size - at);
    if (h->copy)
        size = dp_http_copy_run(h->copy, at, size, &there);
    h->buffer_size = 0;
    set_busy(h, true);
    int rc = dp_http_get(h->server, at, size, h->buffer, &e);
    set_busy(h, false);
    if (rc && !h->failing && h->image.trace)
        dp_trace_emit(h->image.trace, DP_TRACE_BLOCK, "%s", e.text);
    h->failing = rc;
    if (rc)
        return rc;
    h->buffer_at = at;
    h->buffer_size = size;
    h->next = at + size;
    store(h, at, h->buffer, size);
    return 0;
}

static int read_copy(struct http_image *h, struct dp_cursor *c, uint64_t at, uint64_t size)
{
    while (size) {
        struct dp_cursor ahead = *c;
        struct iovec v[PIECES];
        uint64_t bytes = 0;
        int n = 0;
        while (n < PIECES && bytes < DP_MIN(size, 1ull << 30)) {
            v[n] = dp_cursor_take(&ahead, DP_MIN(size, 1ull << 30) - bytes);
            bytes += v[n++].iov_len;
        }
        ssize_t done = preadv(dp_http_copy_descriptor(h->copy), v, n, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done ? -errno : -EIO;
        dp_cursor_skip(c, (uint64_t)done);
        at += (uint64_t)done;
        size -= (uint64_t)done;
    }
    return 0;
}

static int read_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    struct http_image *h = of(i);
    int rc = 0;
    for (uint64_t n; !rc && size; offset += n, size -= n) {
        uint64_t at = DP_ALIGN_DOWN(offset, (uint64_t)h->block);
        const uint8_t *data = NULL;
        bool there = false;
        n = size;
        if (offset >= h->buffer_at && offset - h->buffer_at < h->buffer_size) {
            n = DP_MIN(size, h->buffer_size - (offset - h->buffer_at));
            data = h->buffer + (offset - h->buffer_at);
        } else if (h->copy) {
            n = dp_http_copy_run(h->copy, offset, size, &there);
        } else if ((data = find(h, offset / h->block))) {
            n = DP_MIN(size, h->block - (offset - at));
            data += offset - at;
        }
        if (data)
            dp_cursor_put(c, data, n);
        else if (there)
            rc = read_copy(h, c, offset, n);
        else
            rc = fetch(h, at, offset + size), n = 0;
    }
    return rc;
}

/* ---- the keeper ---- */

/* What is missing from *at on. False: nothing could be had. */
static bool fill(struct http_image *h, uint64_t *at)
{
    bool there = true;
    uint64_t size = 0;
    while (*at < h->image.size) {
        size = dp_http_copy_run(h->copy, *at, DP_MIN(h->image.size - *at, (uint64_t)FILL), &there);
        if (!there)
            break;
        *at += size;
    }
    if (*at >= h->image.size) { /* what could not be stored is tried again */
        *at = 0;
        return false;
    }
    int rc = dp_http_get(h->filler, *at, size, h->filler_buffer, NULL);
    if (!rc && (rc = dp_http_copy_put(h->copy, *at, h->filler_buffer, size)))
        tell(h, rc);
    if (!rc)
        *at += size;
    return !rc;
}

static void rest(struct http_image *h, unsigned seconds)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += seconds;
    pthread_cond_timedwait(&h->wake, &h->lock, &until);
}

static void *keep(void *opaque)
{
    struct http_image *h = opaque;
    struct timespec now, last = {0}, failed = {0};
    uint64_t at = 0;
    pthread_mutex_lock(&h->lock);
    while (!h->stop) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        bool filling = h->filler && !h->busy && now.tv_sec - failed.tv_sec >= FILL_REST_SECONDS && !dp_http_copy_whole(h->copy);
        if (!filling) {
            rest(h, 1);
            clock_gettime(CLOCK_MONOTONIC, &now);
        }
        bool commit = now.tv_sec != last.tv_sec;
        pthread_mutex_unlock(&h->lock);
        int rc = commit ? dp_http_copy_commit(h->copy) : 0;
        if (rc)
            tell(h, rc);
        if (commit)
            last = now;
        if (filling && !fill(h, &at))
            failed = now;
        pthread_mutex_lock(&h->lock);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

static int start_keeper(struct http_image *h, bool filling, struct dp_error *e)
{
    pthread_condattr_t attributes;
    sigset_t all, before;
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&h->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    h->locks = true;
    int rc = filling && h->server ? dp_http_clone(h->server, &h->filler, e) : 0;
    if (!rc && h->filler && !(h->filler_buffer = malloc(DP_MAX((uint32_t)FILL, h->block))))
        rc = dp_error_set(e, -ENOMEM, "disk %s: out of memory", h->image.name);
    if (rc)
        return rc;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = -pthread_create(&h->keeper, NULL, keep, h);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    h->runs = !rc;
    return rc ? dp_error_set(e, rc, "disk %s: cannot start a thread: %s", h->image.name, strerror(-rc)) : 0;
}

/* ---- opening ---- */

/* May the copy be used without the server? */
static bool unreachable(int rc) { return rc == -EHOSTUNREACH || rc == -ECONNREFUSED || rc == -ETIMEDOUT || rc == -EIO; }

static int open_copy(struct http_image *h, const struct dp_image_options *o, int server, struct dp_error *e)
{
    struct dp_error own = {0};
    if (h->image.chain->copied)
        return dp_error_set(e, -EINVAL, "copy=%s: two images of this disk come by HTTP, and only one can have it", o->copy);
    h->image.chain->copied = true;
    int rc = dp_http_copy_open(o->copy, h->server ? dp_http_identity(h->server) : NULL, h->image.trace, &h->copy, &own);
    if (rc && server) /* e says why the server cannot be asked */
        return server;
    if (rc) {
        if (e)
            *e = own;
        return rc;
    }
    if (server && h->image.trace)
        dp_trace_emit(h->image.trace, DP_TRACE_BLOCK, "disk %s: the server cannot be asked; %s is whole and is used", h->image.name,
                      o->copy);
    h->block = dp_http_copy_block(h->copy);
    h->image.size = dp_http_copy_size(h->copy);
    return start_keeper(h, o->fill, e);
}

static int open_(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    struct http_image *h = of(i);
    if (i->chain && i->chain->create)
        return dp_error_set(e, -EROFS, "%s: images cannot be made on a web server", i->name);
    if (!i->readonly)
        return dp_error_set(e, -EROFS,
                            "disk %.150s can only be read: add ,ro; or write to an image over it: `doppel image create -f qcow2 -b "
                            "%.150s -F "
                            "raw NEW.qcow2` makes one, to be used with ,format=qcow2,backing=any", i->name, i->name);
    if (o->fill && !o->copy)
        return dp_error_set(e, -EINVAL, "disk %s: fill= needs a file to fill: copy=FILE", i->name);
    if (!(h->buffer = malloc(BUFFER)))
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", i->name);
    h->block = DP_HTTP_BLOCK;
    h->next = UINT64_MAX;
    int rc = dp_http_open(i->name, &h->server, e);
    if (!rc)
        i->size = dp_http_identity(h->server)->size;
    if (o->copy && (!rc || unreachable(rc)))
        rc = open_copy(h, o, rc, e);
    return rc;
}

static void close_(struct dp_image *i)
{
    struct http_image *h = of(i);
    if (h->runs) {
        pthread_mutex_lock(&h->lock);
        h->stop = true;
        pthread_cond_signal(&h->wake);
        pthread_mutex_unlock(&h->lock);
        if (h->filler)
            dp_http_stop(h->filler);
        pthread_join(h->keeper, NULL);
    }
    if (h->locks) {
        pthread_cond_destroy(&h->wake);
        pthread_mutex_destroy(&h->lock);
    }
    dp_http_close(h->filler);
    dp_http_close(h->server);
    int rc = dp_http_copy_close(h->copy);
    if (rc)
        tell(h, rc);
    for (unsigned n = 0; n < CACHE; n++)
        free(h->slot[n].data);
    free(h->filler_buffer);
    free(h->buffer);
}

/* Which file of the server it is: what an interrupted copy is gone on with must be the same. */
static int info(struct dp_image *i, struct json_object *o)
{
    const struct dp_http_identity *id = of(i)->server ? dp_http_identity(of(i)->server) : NULL;
    if (id && id->etag[0])
        json_object_object_add(o, "etag", json_object_new_string(id->etag));
    if (id && id->modified[0])
        json_object_object_add(o, "last-modified", json_object_new_string(id->modified));
    return 0;
}

const struct dp_image_format dp_image_http = {
    .name = "http",
    .summary = "a file on a web server, read-only",
    .instance_size = sizeof(struct http_image),
    .scheme = "http",
    .open = open_,
    .close = close_,
    .read = read_,
    .info = info,
};
