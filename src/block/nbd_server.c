/* nbd_server.c - see nbd_server.h.
 *
 * `in` has what was read and not yet used, `out` what is to be sent; both have room for the largest small request and more. A large piece
 * of data goes past them, straight between the socket and a buffer of its own.
 */
#include "block/nbd_server.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tls/tls.h"

enum { BUFFER = 256 << 10, SMALL = 64 << 10, OPTION_MAX = 64 << 10, EXTENTS_MAX = 1024, PAUSE_MS = 2000, GREETING_SECONDS = 10 };

/* negotiation */
#define NBD_MAGIC 0x4e42444d41474943ull
#define OPTION_MAGIC 0x49484156454f5054ull
#define REPLY_MAGIC 0x3e889045565a9ull
enum { FIXED_NEWSTYLE = 1, NO_ZEROES = 2 };
enum { OPT_EXPORT_NAME = 1, OPT_ABORT, OPT_LIST, OPT_STARTTLS = 5, OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY, OPT_LIST_META, OPT_SET_META };
enum { REP_ACK = 1, REP_SERVER, REP_INFO, REP_META };
enum { INFO_EXPORT = 0, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE };
#define REP_ERROR(n) (1u << 31 | (n))
enum { ERR_UNSUPPORTED = 1, ERR_POLICY, ERR_INVALID, ERR_TLS_REQUIRED = 5, ERR_UNKNOWN, ERR_TOO_BIG = 9 };
/* transmission */
enum {
    FLAG_HAS_FLAGS = 1,
    FLAG_READ_ONLY = 2,
    FLAG_FLUSH = 4,
    FLAG_FUA = 8,
    FLAG_TRIM = 32,
    FLAG_ZEROES = 64,
    FLAG_DF = 128,
    FLAG_MULTI = 256,
    FLAG_CACHE = 1024
};
enum { CMD_READ, CMD_WRITE, CMD_DISCONNECT, CMD_FLUSH, CMD_TRIM, CMD_CACHE, CMD_ZEROES, CMD_STATUS };
enum { CMD_FUA = 1, CMD_NO_HOLE = 2, CMD_DF = 4, CMD_REQ_ONE = 8 };
enum { REQUEST_MAGIC = 0x25609513, SIMPLE_MAGIC = 0x67446698, CHUNK_MAGIC = 0x668e33ef };
enum { CHUNK_NONE = 0, CHUNK_DATA = 1, CHUNK_STATUS = 5, CHUNK_ERROR = 32769, CHUNK_DONE = 1 };
enum { STATE_HOLE = 1, STATE_ZERO = 2, ALLOCATION = 1 /* our number of base:allocation */ };
enum { REQUEST_SIZE = 28, CHUNK_SIZE = 20, OPTION_HEAD = 16 };

struct dp_nbd_server {
    struct dp_image *image;
    const struct dp_tls *tls;
    char *name, *description;
    pthread_mutex_t lock; /* the image */
    uint64_t freed;       /* under lock: how often something may have been freed */
};

struct client {
    struct dp_nbd_server *s;
    int fd; /* does not block once there is TLS */
    struct dp_tls_session *tls;
    bool no_zeroes, structured, allocation; /* what was agreed on */
    time_t deadline;                        /* of the negotiation, CLOCK_MONOTONIC; 0: it is over */
    size_t in_at, in_size, out_size, ahead; /* ahead: up to here in `in`, what is to be read was told to the host */
    uint8_t *large;                         /* DP_NBD_REQUEST_MAX, when it is needed first */
    uint8_t in[BUFFER], out[BUFFER];
};

struct request {
    uint16_t flags, type;
    uint8_t cookie[8];
    uint64_t offset;
    uint32_t length;
};

static uint16_t be16(const uint8_t *p) { return __builtin_bswap16(dp_ld16(p)); }
static uint32_t be32(const uint8_t *p) { return __builtin_bswap32(dp_ld32(p)); }
static uint64_t be64(const uint8_t *p) { return __builtin_bswap64(dp_ld64(p)); }
static void st16(uint8_t *p, uint16_t v) { dp_st16(p, __builtin_bswap16(v)); }
static void st32(uint8_t *p, uint32_t v) { dp_st32(p, __builtin_bswap32(v)); }
static void st64(uint8_t *p, uint64_t v) { dp_st64(p, __builtin_bswap64(v)); }

/* ---- the socket; false: the connection is over ---- */

/* How long is left to say what one wants: poll's milliseconds. */
static int patience(const struct client *c)
{
    struct timespec now;
    if (!c->deadline)
        return -1;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec < c->deadline ? (int)(c->deadline - now.tv_sec) * 1000 : 0;
}

/* Until TLS can go on; false: too long. (Who shuts the socket down wakes us.) */
static bool wait_tls(struct client *c)
{
    int n = poll(&(struct pollfd){.fd = c->fd, .events = dp_tls_wants(c->tls)}, 1, patience(c));
    return n > 0 || (n < 0 && errno == EINTR);
}

static bool send_all(struct client *c, const uint8_t *data, size_t size)
{
    while (size) {
        ssize_t n = c->tls ? dp_tls_write(c->tls, data, size, NULL) : send(c->fd, data, size, MSG_NOSIGNAL);
        if (c->tls ? n == -EAGAIN && wait_tls(c) : n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        data += n;
        size -= (size_t)n;
    }
    return true;
}

static bool flush_out(struct client *c)
{
    size_t n = c->out_size;
    c->out_size = 0;
    return send_all(c, c->out, n);
}

/* Room for n bytes of a reply, which is small. */
static uint8_t *reply_room(struct client *c, size_t n)
{
    if (c->out_size + n > BUFFER && !flush_out(c))
        return NULL;
    c->out_size += n;
    return c->out + c->out_size - n;
}

/* A client that pauses has what it wrote made safe. */
static void while_idle(struct client *c)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    pthread_mutex_lock(&c->s->lock);
    bool dirty = dp_image_dirty(c->s->image);
    pthread_mutex_unlock(&c->s->lock);
    if (!dirty || poll(&p, 1, PAUSE_MS))
        return;
    pthread_mutex_lock(&c->s->lock);
    int rc = dp_image_flush(c->s->image);
    pthread_mutex_unlock(&c->s->lock);
    (void)rc; /* who needs to know flushes */
}

/* Who takes long to say what he wants keeps others out: there is room for so many clients. False: too long. */
static bool in_time(struct client *c)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    int ms = patience(c);
    return ms < 0 || (ms && ((c->tls && dp_tls_pending(c->tls)) || poll(&p, 1, ms) > 0));
}

/* Some bytes; 0 or less: the connection is over. */
static ssize_t read_tls(struct client *c, uint8_t *to, size_t n)
{
    for (;;) {
        ssize_t got = dp_tls_read(c->tls, to, n, NULL);
        if (got != -EAGAIN)
            return got;
        if (!c->deadline)
            while_idle(c);
        if (!wait_tls(c))
            return -ETIMEDOUT;
    }
}

static bool fill(struct client *c)
{
    if (!in_time(c))
        return false;
    memmove(c->in, c->in + c->in_at, c->in_size - c->in_at);
    c->in_size -= c->in_at;
    c->ahead -= DP_MIN(c->ahead, c->in_at);
    c->in_at = 0;
    for (;;) {
        ssize_t n = c->tls ? read_tls(c, c->in + c->in_size, BUFFER - c->in_size) : 0;
        if (c->tls) {
            c->in_size += (size_t)DP_MAX(n, 0);
            return n > 0;
        }
        n = recv(c->fd, c->in + c->in_size, BUFFER - c->in_size, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            while_idle(c);
            n = recv(c->fd, c->in + c->in_size, BUFFER - c->in_size, 0);
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        c->in_size += (size_t)n;
        return true;
    }
}

/* The next n bytes (at most BUFFER), valid until the next call; what is owed is sent before it waits. NULL: over. */
static const uint8_t *need(struct client *c, size_t n)
{
    while (c->in_size - c->in_at < n)
        if (!flush_out(c) || !fill(c))
            return NULL;
    c->in_at += n;
    return c->in + c->in_at - n;
}

/* The next n bytes into memory of their own. */
static bool receive(struct client *c, uint8_t *to, size_t n)
{
    size_t have = DP_MIN(n, c->in_size - c->in_at);
    memcpy(to, c->in + c->in_at, have);
    c->in_at += have;
    if (have < n && !flush_out(c))
        return false;
    while (have < n) {
        ssize_t got = c->tls ? read_tls(c, to + have, n - have) : recv(c->fd, to + have, n - have, MSG_WAITALL);
        if (!c->tls && got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        have += (size_t)got;
    }
    return true;
}

/* ---- negotiation ---- */

static bool option_reply(struct client *c, uint32_t option, uint32_t type, const void *data, uint32_t size)
{
    uint8_t *p = reply_room(c, 20 + size);
    if (!p)
        return false;
    st64(p, REPLY_MAGIC);
    st32(p + 8, option);
    st32(p + 12, type);
    st32(p + 16, size);
    if (size)
        memcpy(p + 20, data, size);
    return true;
}

static bool option_error(struct client *c, uint32_t option, uint32_t error, const char *why)
{
    return option_reply(c, option, REP_ERROR(error), why, strlen(why));
}

static uint16_t export_flags(const struct client *c)
{
    const struct dp_image *i = c->s->image;
    return FLAG_HAS_FLAGS | FLAG_FLUSH | FLAG_FUA | FLAG_MULTI | FLAG_CACHE | (c->structured ? FLAG_DF : 0) |
           (i->readonly ? FLAG_READ_ONLY : FLAG_TRIM | FLAG_ZEROES);
}

static bool is_export(const struct dp_nbd_server *s, const uint8_t *name, size_t size)
{
    return strlen(s->name) == size && !memcmp(s->name, name, size);
}

static bool send_info(struct client *c, uint32_t option, uint16_t type)
{
    struct dp_nbd_server *s = c->s;
    uint8_t data[14 + DP_NBD_NAME_MAX];
    st16(data, type);
    if (type == INFO_EXPORT) {
        st64(data + 2, s->image->size);
        st16(data + 10, export_flags(c));
        return option_reply(c, option, REP_INFO, data, 12);
    }
    if (type == INFO_BLOCK_SIZE) {
        uint32_t cluster = s->image->format->cluster_size ? s->image->format->cluster_size(s->image) : 0;
        st32(data + 2, 1);
        st32(data + 6, DP_MAX(4096u, DP_MIN(cluster, 65536u)));
        st32(data + 10, DP_NBD_REQUEST_MAX);
        return option_reply(c, option, REP_INFO, data, 14);
    }
    const char *text = type == INFO_NAME ? s->name : type == INFO_DESCRIPTION ? s->description : NULL;
    if (!text)
        return true; /* what is not known is not answered */
    size_t n = strlen(text);
    memcpy(data + 2, text, n);
    return option_reply(c, option, REP_INFO, data, 2 + n);
}

/* INFO and GO: 32 bits of length, the name, 16 bits of count, 16 bits each. *go: transmission follows. */
static bool option_info(struct client *c, uint32_t option, const uint8_t *data, uint32_t size, bool *go)
{
    uint32_t name = size >= 6 ? be32(data) : 0;
    if (size < 6 || name > size - 6 || be16(data + 4 + name) * 2u != size - 6 - name)
        return option_error(c, option, ERR_INVALID, "malformed");
    if (!is_export(c->s, data + 4, name))
        return option_error(c, option, ERR_UNKNOWN, "there is no such export");
    uint32_t count = be16(data + 4 + name);
    if (!send_info(c, option, INFO_EXPORT))
        return false;
    for (uint32_t i = 0; i < DP_MIN(count, 64u); i++) {
        uint16_t type = be16(data + 6 + name + i * 2);
        if (type != INFO_EXPORT && !send_info(c, option, type))
            return false;
    }
    *go = option == OPT_GO;
    return option_reply(c, option, REP_ACK, NULL, 0);
}

/* LIST_META and SET_META: the export's name, 32 bits of count, queries with 32 bits of length each. */
static bool option_meta(struct client *c, uint32_t option, const uint8_t *data, uint32_t size)
{
    static const char context[] = "base:allocation";
    uint32_t name = size >= 8 ? be32(data) : 0, at, count;
    if (option == OPT_SET_META)
        c->allocation = false;
    if (size < 8 || name > size - 8)
        return option_error(c, option, ERR_INVALID, "malformed");
    if (!is_export(c->s, data + 4, name))
        return option_error(c, option, ERR_UNKNOWN, "there is no such export");
    if (option == OPT_SET_META && !c->structured)
        return option_error(c, option, ERR_INVALID, "structured replies come first");
    count = be32(data + 4 + name);
    at = 8 + name;
    bool wanted = !count && option == OPT_LIST_META;
    while (count--) {
        uint32_t n = size - at >= 4 ? be32(data + at) : 0;
        if (size - at < 4 || n > size - at - 4)
            return option_error(c, option, ERR_INVALID, "malformed");
        wanted |= n == strlen(context) && !memcmp(data + at + 4, context, n);
        wanted |= option == OPT_LIST_META && n == 5 && !memcmp(data + at + 4, "base:", n);
        at += 4 + n;
    }
    if (wanted) {
        uint8_t answer[4 + sizeof context - 1];
        st32(answer, option == OPT_SET_META ? ALLOCATION : 0);
        memcpy(answer + 4, context, sizeof context - 1);
        c->allocation |= option == OPT_SET_META;
        if (!option_reply(c, option, REP_META, answer, sizeof answer))
            return false;
    }
    return option_reply(c, option, REP_ACK, NULL, 0);
}

static bool export_name(struct client *c, const uint8_t *data, uint32_t size)
{
    if (!is_export(c->s, data, size))
        return false;
    uint8_t *p = reply_room(c, c->no_zeroes ? 10 : 134);
    if (!p)
        return false;
    memset(p, 0, c->no_zeroes ? 10 : 134);
    st64(p, c->s->image->size);
    st16(p + 8, export_flags(c));
    return true;
}

static bool list(struct client *c)
{
    uint8_t data[4 + DP_NBD_NAME_MAX];
    size_t n = strlen(c->s->name);
    st32(data, n);
    memcpy(data + 4, c->s->name, n);
    return option_reply(c, OPT_LIST, REP_SERVER, data, 4 + n) && option_reply(c, OPT_LIST, REP_ACK, NULL, 0);
}

/* What was said without TLS counts no more, and nothing may have been said already that would seem to be said with it. */
static bool start_tls(struct client *c)
{
    int rc;
    if (!option_reply(c, OPT_STARTTLS, REP_ACK, NULL, 0) || !flush_out(c) || c->in_at != c->in_size || fcntl(c->fd, F_SETFL, O_NONBLOCK) ||
        dp_tls_session_create(c->s->tls, c->fd, &c->tls, NULL))
        return false;
    while ((rc = dp_tls_handshake(c->tls, NULL)) == -EAGAIN)
        if (!wait_tls(c))
            return false;
    c->structured = c->allocation = false;
    return !rc;
}

/* False: the connection is over. *go: requests follow. */
static bool option(struct client *c, uint32_t what, const uint8_t *data, uint32_t size, bool *go)
{
    if (c->s->tls && !c->tls && what != OPT_STARTTLS && what != OPT_ABORT)
        return what != OPT_EXPORT_NAME && option_error(c, what, ERR_TLS_REQUIRED, "TLS comes first");
    switch (what) {
    case OPT_EXPORT_NAME:
        return *go = export_name(c, data, size);
    case OPT_ABORT:
        if (option_reply(c, what, REP_ACK, NULL, 0))
            flush_out(c);
        return false;
    case OPT_LIST:
        return size ? option_error(c, what, ERR_INVALID, "malformed") : list(c);
    case OPT_INFO:
    case OPT_GO:
        return option_info(c, what, data, size, go);
    case OPT_STRUCTURED_REPLY:
        c->structured |= !size;
        return size ? option_error(c, what, ERR_INVALID, "malformed") : option_reply(c, what, REP_ACK, NULL, 0);
    case OPT_LIST_META:
    case OPT_SET_META:
        return option_meta(c, what, data, size);
    case OPT_STARTTLS:
        if (!c->s->tls)
            return option_error(c, what, ERR_UNSUPPORTED, "no TLS here");
        return size || c->tls ? option_error(c, what, ERR_INVALID, "malformed, or there is TLS already") : start_tls(c);
    default:
        return option_error(c, what, ERR_UNSUPPORTED, "not known");
    }
}

static bool negotiate(struct client *c)
{
    uint8_t *p = reply_room(c, 18);
    st64(p, NBD_MAGIC);
    st64(p + 8, OPTION_MAGIC);
    st16(p + 16, FIXED_NEWSTYLE | NO_ZEROES);
    const uint8_t *in = need(c, 4);
    if (!in || be32(in) & ~3u || !(be32(in) & FIXED_NEWSTYLE))
        return false;
    c->no_zeroes = be32(in) & NO_ZEROES;
    for (bool go = false; !go;) {
        if (!(in = need(c, OPTION_HEAD)) || be64(in) != OPTION_MAGIC)
            return false;
        uint32_t what = be32(in + 8), size = be32(in + 12);
        if (size > OPTION_MAX) /* no client of the protocol needs more */
            return false;
        if (!(in = need(c, size)) || !option(c, what, in, size, &go))
            return false;
    }
    return true;
}

/* ---- transmission ---- */

static uint32_t nbd_error(int rc)
{
    switch (rc) {
    case 0:
        return 0;
    case -EPERM:
    case -EACCES:
    case -EROFS:
        return 1;
    case -ENOMEM:
        return 12;
    case -EINVAL:
        return 22;
    case -EFBIG:
    case -EDQUOT:
    case -ENOSPC:
        return 28;
    case -EOVERFLOW:
        return 75;
    case -ENOTSUP:
        return 95;
    default:
        return 5;
    }
}

static void chunk(uint8_t *p, const struct request *r, uint16_t type, uint32_t size)
{
    st32(p, CHUNK_MAGIC);
    st16(p + 4, CHUNK_DONE);
    st16(p + 6, type);
    memcpy(p + 8, r->cookie, 8);
    st32(p + 16, size);
}

/* The answer of a request without data. */
static bool answer(struct client *c, const struct request *r, int rc)
{
    uint8_t *p;
    if (!c->structured) {
        if (!(p = reply_room(c, 16)))
            return false;
        st32(p, SIMPLE_MAGIC);
        st32(p + 4, nbd_error(rc));
        memcpy(p + 8, r->cookie, 8);
        return true;
    }
    size_t size = rc ? 6 : 0;
    if (!(p = reply_room(c, CHUNK_SIZE + size)))
        return false;
    chunk(p, r, rc ? CHUNK_ERROR : CHUNK_NONE, size);
    if (rc) {
        st32(p + CHUNK_SIZE, nbd_error(rc));
        st16(p + CHUNK_SIZE + 4, 0);
    }
    return true;
}

static uint8_t *large(struct client *c)
{
    if (!c->large)
        c->large = malloc(DP_NBD_REQUEST_MAX);
    return c->large;
}

static void parse(const uint8_t *in, struct request *r)
{
    *r = (struct request){.flags = be16(in + 4), .type = be16(in + 6), .offset = be64(in + 16), .length = be32(in + 24)};
    memcpy(r->cookie, in + 8, 8);
}

/* Lock held: what the next requests will read, as far as they are here, begins to come from the host's disk. */
static void look_ahead(struct client *c)
{
    struct request r;
    int fd;
    c->ahead = DP_MAX(c->ahead, c->in_at);
    for (size_t next; c->in_size - c->ahead >= REQUEST_SIZE && be32(c->in + c->ahead) == REQUEST_MAGIC; c->ahead = next) {
        parse(c->in + c->ahead, &r);
        next = c->ahead + REQUEST_SIZE;
        if (r.type == CMD_WRITE && r.length > c->in_size - next)
            return;
        next += r.type == CMD_WRITE ? r.length : 0;
        if (r.type == CMD_READ && r.length <= DP_NBD_REQUEST_MAX && dp_image_place(c->s->image, &r.offset, r.length, &fd))
            posix_fadvise(fd, (off_t)r.offset, r.length, POSIX_FADV_WILLNEED);
    }
}

/* All of it before the answer begins: an error could not be told afterwards. What is in the host's page cache is read under the lock; what
 * is not is waited for without it, so that the disk has several requests at once, and counts if nothing was freed meanwhile. */
static int read_disk(struct client *c, const struct request *r, uint8_t *data)
{
    struct dp_nbd_server *s = c->s;
    struct iovec v = {data, r->length};
    uint64_t at = r->offset;
    int fd = -1;
    pthread_mutex_lock(&s->lock);
    bool placed = dp_image_place(s->image, &at, r->length, &fd);
    ssize_t got = placed ? preadv2(fd, &v, 1, (off_t)at, RWF_NOWAIT) : -1;
    if (got == (ssize_t)r->length) {
        pthread_mutex_unlock(&s->lock);
        return 0;
    }
    if (placed && (got > 0 || (got < 0 && errno == EAGAIN))) {
        uint64_t freed = s->freed;
        look_ahead(c);
        pthread_mutex_unlock(&s->lock);
        got = pread(fd, data, r->length, (off_t)at);
        pthread_mutex_lock(&s->lock);
        placed = got == (ssize_t)r->length && freed == s->freed;
    } else {
        placed = false;
    }
    int rc = placed ? 0 : dp_image_pread(s->image, data, r->length, r->offset);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static bool read_(struct client *c, const struct request *r)
{
    uint32_t head = c->structured ? CHUNK_SIZE + 8 : 16;
    bool small = r->length <= SMALL;
    uint8_t *p = reply_room(c, head + (small ? r->length : 0)), *data = small ? p + head : large(c);
    if (!p)
        return false;
    if (!data)
        return c->out_size -= head, answer(c, r, -ENOMEM);
    int rc = read_disk(c, r, data);
    if (rc) {
        c->out_size -= head + (small ? r->length : 0);
        return answer(c, r, rc);
    }
    if (c->structured) {
        chunk(p, r, CHUNK_DATA, 8 + r->length);
        st64(p + CHUNK_SIZE, r->offset);
    } else {
        st32(p, SIMPLE_MAGIC);
        st32(p + 4, 0);
        memcpy(p + 8, r->cookie, 8);
    }
    return small || (flush_out(c) && send_all(c, data, r->length));
}

/* Lock held at the beginning, not at the end: a flush that is the file's alone is waited for without it. */
static int end_change(struct dp_nbd_server *s, bool flush, int rc)
{
    int fd = flush && !rc ? dp_image_flushed_by(s->image) : -1;
    if (flush && !rc && fd < 0)
        rc = dp_image_flush(s->image);
    pthread_mutex_unlock(&s->lock);
    return fd >= 0 && fdatasync(fd) ? -errno : rc;
}

static bool write_(struct client *c, const struct request *r, int rc)
{
    struct dp_nbd_server *s = c->s;
    const uint8_t *data;
    if (r->length <= SMALL) {
        if (!(data = need(c, r->length)))
            return false;
    } else {
        if (!large(c) || !receive(c, c->large, r->length)) /* without memory for it there is no way past the data */
            return false;
        data = c->large;
    }
    if (!rc) {
        pthread_mutex_lock(&s->lock);
        rc = end_change(s, r->flags & CMD_FUA, dp_image_pwrite(s->image, data, r->length, r->offset));
    }
    return answer(c, r, rc);
}

static bool change(struct client *c, const struct request *r)
{
    struct dp_nbd_server *s = c->s;
    unsigned flags = r->type == CMD_TRIM ? DP_ZERO_UNMAP | DP_ZERO_DISCARD : r->flags & CMD_NO_HOLE ? 0 : DP_ZERO_UNMAP;
    pthread_mutex_lock(&s->lock);
    bool flush = r->type == CMD_FLUSH || r->flags & CMD_FUA;
    s->freed += r->type != CMD_FLUSH;
    return answer(c, r, end_change(s, flush, r->type == CMD_FLUSH ? 0 : dp_image_zero(s->image, r->offset, r->length, flags)));
}

static uint32_t state_of(const struct dp_extent *x)
{
    return x->kind == DP_EXTENT_ZEROS ? STATE_HOLE | STATE_ZERO : x->kind == DP_EXTENT_UNALLOCATED ? STATE_HOLE | STATE_ZERO : 0;
}

static bool status(struct client *c, const struct request *r)
{
    struct dp_nbd_server *s = c->s;
    uint8_t extents[EXTENTS_MAX * 8];
    unsigned count = 0;
    int rc = !c->allocation || !r->length ? -EINVAL : 0;
    uint64_t at = r->offset, end = r->offset + r->length;
    pthread_mutex_lock(&s->lock);
    while (!rc && at < end && count < (r->flags & CMD_REQ_ONE ? 1 : EXTENTS_MAX)) {
        struct dp_extent x;
        if ((rc = dp_image_extent_all(s->image, at, end - at, &x)) || !x.size)
            break;
        uint32_t state = state_of(&x), size = DP_MIN(x.size, end - at);
        if (count && be32(extents + count * 8 - 4) == state) {
            st32(extents + count * 8 - 8, be32(extents + count * 8 - 8) + size);
        } else {
            st32(extents + count * 8, size);
            st32(extents + count++ * 8 + 4, state);
        }
        at += size;
    }
    pthread_mutex_unlock(&s->lock);
    if (rc || !count)
        return answer(c, r, rc ? rc : -EINVAL);
    uint8_t *p = reply_room(c, CHUNK_SIZE + 4 + count * 8);
    if (!p)
        return false;
    chunk(p, r, CHUNK_STATUS, 4 + count * 8);
    st32(p + CHUNK_SIZE, ALLOCATION);
    memcpy(p + CHUNK_SIZE + 4, extents, count * 8);
    return true;
}

/* What is wrong with a request. */
static int check(const struct client *c, const struct request *r)
{
    const struct dp_image *i = c->s->image;
    static const uint16_t flags[] = {[CMD_READ] = CMD_DF, [CMD_ZEROES] = CMD_NO_HOLE, [CMD_STATUS] = CMD_REQ_ONE};
    bool writes = r->type == CMD_WRITE || r->type == CMD_TRIM || r->type == CMD_ZEROES;
    if (r->type > CMD_STATUS || r->flags & ~(flags[r->type] | CMD_FUA)) /* FUA means nothing to a read, and is allowed */
        return -EINVAL;
    if (r->type == CMD_FLUSH)
        return r->offset || r->length ? -EINVAL : 0;
    if (writes && i->readonly)
        return -EPERM;
    if (r->offset > i->size || r->length > i->size - r->offset)
        return writes ? -ENOSPC : -EINVAL;
    return r->type == CMD_READ && r->length > DP_NBD_REQUEST_MAX ? -EOVERFLOW : 0;
}

/* False: the connection is over. */
static bool request(struct client *c)
{
    const uint8_t *in = need(c, REQUEST_SIZE);
    struct request r;
    if (!in || be32(in) != REQUEST_MAGIC)
        return false;
    parse(in, &r);
    int rc = check(c, &r);
    if (r.type == CMD_DISCONNECT)
        return false;
    if (r.type == CMD_WRITE)
        return r.length <= DP_NBD_REQUEST_MAX && write_(c, &r, rc);
    if (rc || (r.type == CMD_READ && !r.length))
        return answer(c, &r, rc);
    switch (r.type) {
    case CMD_READ:
        return read_(c, &r);
    case CMD_STATUS:
        return status(c, &r);
    case CMD_CACHE:
        return answer(c, &r, 0);
    default:
        return change(c, &r);
    }
}

void dp_nbd_serve(struct dp_nbd_server *s, int fd)
{
    static const int room = 4 << 20; /* of the socket, so that a large reply does not take turns with its reader */
    struct client *c = malloc(sizeof *c);
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room)) {
        int rc = setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
        (void)rc; /* what the host allows */
    }
    if (c) {
        c->s = s;
        c->fd = fd;
        c->tls = NULL;
        c->no_zeroes = c->structured = c->allocation = false;
        c->in_at = c->in_size = c->out_size = c->ahead = 0;
        c->large = NULL;
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        c->deadline = now.tv_sec + GREETING_SECONDS;
        bool agreed = negotiate(c);
        c->deadline = 0;
        while (agreed && request(c))
            ;
        flush_out(c);
        if (c->tls)
            dp_tls_close(c->tls);
        dp_tls_session_destroy(c->tls);
        pthread_mutex_lock(&s->lock);
        int rc = dp_image_dirty(s->image) ? dp_image_flush(s->image) : 0;
        (void)rc; /* who needs to know flushes */
        pthread_mutex_unlock(&s->lock);
        free(c->large);
        free(c);
    }
    close(fd);
}

int dp_nbd_server_create(const struct dp_nbd_options *o, struct dp_nbd_server **out, struct dp_error *e)
{
    const char *name = o->name ? o->name : "", *about = o->description ? o->description : "";
    if (strlen(name) > DP_NBD_NAME_MAX || strlen(about) > DP_NBD_NAME_MAX)
        return dp_error_set(e, -ENAMETOOLONG, "NBD: names and descriptions have at most %d bytes", DP_NBD_NAME_MAX);
    struct dp_nbd_server *s = calloc(1, sizeof *s);
    if (!s || !(s->name = strdup(name)) || (o->description && !(s->description = strdup(about)))) {
        dp_nbd_server_destroy(s);
        return dp_error_set(e, -ENOMEM, "NBD: out of memory");
    }
    s->image = o->image;
    s->tls = o->tls;
    pthread_mutex_init(&s->lock, NULL);
    *out = s;
    return 0;
}

void dp_nbd_server_destroy(struct dp_nbd_server *s)
{
    if (!s)
        return;
    if (s->image)
        pthread_mutex_destroy(&s->lock);
    free(s->name);
    free(s->description);
    free(s);
}
