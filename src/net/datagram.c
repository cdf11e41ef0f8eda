/* datagram.c - see datagram.h.
 *
 * Invariants: `pending` frames, read and not yet taken by the peer, are at index [at, count) of the batch, and nothing is read while there
 * are any. The watch on the descriptor is changed by whoever has `lock`, which is never held while calling out.
 */
#include "net/datagram.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/offload.h"

enum { GOODBYE = 1 /* bytes; no frame is that short */ };
enum { HEADER = 10, ROOM = HEADER + DP_NET_FRAME_MAX + 4, ROUNDS = 4 /* batches read at a time: others want the loop, too */ };
/* struct virtio_net_hdr */
enum { HDR_FLAGS = 0, HDR_GSO_TYPE = 1, HDR_LEN = 2, HDR_GSO_SIZE = 4, HDR_CSUM_START = 6, HDR_CSUM_OFFSET = 8 };
enum { F_NEEDS_CSUM = 1, GSO_NONE = 0, GSO_TCPV4 = 1, GSO_UDP = 3, GSO_TCPV6 = 4, GSO_ECN = 0x80 };

struct dp_net_datagram {
    struct dp_net_port port;
    struct dp_loop *loop;
    struct dp_net_link link;
    void (*gone)(void *opaque);
    void *opaque;
    pthread_mutex_t lock;
    bool want_in, want_out, is_gone;
    bool dismissed; /* the loop's thread only */
    int kick_fd;        /* the peer has room again: the loop's thread goes on */
    atomic_bool kicked; /* likewise, for a thread that is about to wait */
    _Atomic uint64_t in, out, dropped, lost;
    /* the loop's thread only */
    unsigned at, count;
    uint32_t progress;
    struct dp_net_frame frame[DP_NET_BATCH];
    struct iovec part[DP_NET_BATCH];
    struct mmsghdr message[DP_NET_BATCH];
    struct iovec read[DP_NET_BATCH];
    uint8_t *memory; /* DP_NET_BATCH * ROOM */
    struct dp_net_scratch *scratch;
};

/* ---- headers ---- */

static void put_header(uint8_t *h, const struct dp_net_frame *f)
{
    memset(h, 0, HEADER);
    if (f->work & DP_NET_CHECKSUM) {
        h[HDR_FLAGS] = F_NEEDS_CSUM;
        dp_st16(h + HDR_CSUM_START, f->checksum_start);
        dp_st16(h + HDR_CSUM_OFFSET, f->checksum_offset);
    }
    uint8_t type = f->work & DP_NET_TSO4 ? GSO_TCPV4 : f->work & DP_NET_TSO6 ? GSO_TCPV6 : f->work & DP_NET_UFO ? GSO_UDP : GSO_NONE;
    if (!type)
        return;
    h[HDR_GSO_TYPE] = type | (f->work & DP_NET_ECN ? GSO_ECN : 0);
    dp_st16(h + HDR_LEN, f->header_size);
    dp_st16(h + HDR_GSO_SIZE, f->segment_size);
}

/* False: no sense. What is left to do is worked out again from the frame by whoever does it, so only the shape is checked. */
static bool take_header(const uint8_t *h, struct dp_net_frame *f)
{
    if (h[HDR_FLAGS] & F_NEEDS_CSUM) {
        f->work |= DP_NET_CHECKSUM;
        f->checksum_start = dp_ld16(h + HDR_CSUM_START);
        f->checksum_offset = dp_ld16(h + HDR_CSUM_OFFSET);
    }
    switch (h[HDR_GSO_TYPE] & ~GSO_ECN) {
    case GSO_NONE:
        return !h[HDR_GSO_TYPE];
    case GSO_TCPV4:
        f->work |= DP_NET_TSO4;
        break;
    case GSO_TCPV6:
        f->work |= DP_NET_TSO6;
        break;
    case GSO_UDP:
        f->work |= DP_NET_UFO;
        break;
    default:
        return false;
    }
    if (h[HDR_GSO_TYPE] & GSO_ECN)
        f->work |= DP_NET_ECN;
    f->header_size = dp_ld16(h + HDR_LEN);
    f->segment_size = dp_ld16(h + HDR_GSO_SIZE);
    return f->work & DP_NET_CHECKSUM && f->segment_size;
}

/* ---- the watch ---- */

static void watch(struct dp_net_datagram *d)
{
    uint32_t events = (d->want_in ? EPOLLIN : 0) | (d->want_out ? EPOLLOUT : 0);
    int rc = d->is_gone ? 0 : dp_loop_rewatch(d->loop, d->link.fd, events);
    (void)rc; /* it is watched, so this cannot fail */
}

static void want(struct dp_net_datagram *d, bool *what, bool yes)
{
    pthread_mutex_lock(&d->lock);
    if (*what != yes) {
        *what = yes;
        watch(d);
    }
    pthread_mutex_unlock(&d->lock);
}

/* ---- to the descriptor ---- */

static bool would_block(int code) { return code == EAGAIN || code == EWOULDBLOCK; }

/* One frame by a plain write: 1, or 0 if it would block. */
static unsigned write_one(struct dp_net_datagram *d, const struct iovec *v, unsigned parts)
{
    ssize_t n;
    do
        n = writev(d->link.fd, v, (int)parts);
    while (n < 0 && errno == EINTR);
    if (n < 0 && would_block(errno))
        return 0;
    atomic_fetch_add(n < 0 ? &d->lost : &d->out, 1);
    return 1;
}

static unsigned send_batch(struct dp_net_datagram *d, struct mmsghdr *m, unsigned count)
{
    unsigned done = 0;
    while (done < count && !d->link.is_socket) {
        if (!write_one(d, m[done].msg_hdr.msg_iov, (unsigned)m[done].msg_hdr.msg_iovlen))
            return done;
        done++;
    }
    while (done < count) {
        int n = sendmmsg(d->link.fd, m + done, count - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            atomic_fetch_add(&d->out, (uint64_t)n);
            done += (unsigned)n;
        } else if (errno == EINTR) {
            continue;
        } else if (would_block(errno)) {
            return done;
        } else { /* no buffers, too long for the way, nobody there: such things get lost on networks */
            atomic_fetch_add(&d->lost, 1);
            done++;
        }
    }
    return done;
}

static unsigned receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    enum { PARTS = 1024 };
    struct dp_net_datagram *d = opaque;
    struct mmsghdr message[DP_NET_BATCH];
    struct iovec part[PARTS];
    uint8_t header[DP_NET_BATCH][HEADER];
    unsigned done = 0;
    while (done < count) {
        unsigned n = 0, used = 0, skipped = 0;
        for (; n < DP_NET_BATCH && done + n < count; n++) {
            const struct dp_net_frame *f = &frame[done + n];
            if (f->work & ~d->link.accepts || f->parts >= PARTS) { /* it had been accepted a moment ago, or has absurdly many pieces */
                skipped = !n;
                break;
            }
            if (used + f->parts + 1 > PARTS)
                break;
            message[n] = (struct mmsghdr){.msg_hdr = {.msg_iov = part + used}};
            if (d->link.header) {
                put_header(header[n], f);
                part[used++] = (struct iovec){header[n], HEADER};
            }
            memcpy(part + used, f->part, f->parts * sizeof *part);
            used += f->parts;
            message[n].msg_hdr.msg_iovlen = (size_t)(part + used - message[n].msg_hdr.msg_iov);
        }
        atomic_fetch_add(&d->dropped, skipped);
        unsigned sent = send_batch(d, message, n);
        done += sent + skipped;
        if (sent < n) {
            want(d, &d->want_out, true);
            return done;
        }
    }
    return done;
}

/* ---- from the descriptor ---- */

static bool take_frame(struct dp_net_datagram *d, unsigned i, size_t size)
{
    struct dp_net_frame *f = &d->frame[d->count];
    uint8_t *bytes = d->memory + (size_t)i * ROOM;
    size_t skip = d->link.header ? HEADER : 0;
    *f = (struct dp_net_frame){.part = &d->part[d->count], .parts = 1};
    if (size < skip + DP_NET_FRAME_MIN || size > skip + DP_NET_FRAME_MAX || (skip && !take_header(bytes, f)))
        return false;
    f->size = (uint32_t)(size - skip);
    d->part[d->count++] = (struct iovec){bytes + skip, size - skip};
    return true;
}

/* How many were read; -1: the other end is gone. */
static int read_batch(struct dp_net_datagram *d)
{
    int n = 0;
    d->at = d->count = 0;
    if (d->link.is_socket) {
        do
            n = recvmmsg(d->link.fd, d->message, DP_NET_BATCH, MSG_DONTWAIT, NULL);
        while (n < 0 && errno == EINTR);
        if (n < 0)
            return would_block(errno) || errno == ECONNREFUSED || errno == ENETDOWN || errno == ENOBUFS ? 0 : -1;
        for (int i = 0; i < n; i++) {
            if (!d->message[i].msg_len && !d->link.accepts && !d->link.header)
                continue;               /* an empty datagram */
            if (!d->message[i].msg_len) /* a connection's end */
                return d->count ? n : -1;
            if (d->message[i].msg_len == GOODBYE && d->link.header) {
                d->dismissed = true;
                continue;
            }
            if ((d->message[i].msg_hdr.msg_flags & MSG_TRUNC) || !take_frame(d, (unsigned)i, d->message[i].msg_len))
                atomic_fetch_add(&d->dropped, 1);
        }
        return n;
    }
    for (; n < DP_NET_BATCH; n++) {
        ssize_t size = read(d->link.fd, d->read[n].iov_base, ROOM);
        if (size < 0 && errno == EINTR) {
            n--;
            continue;
        }
        if (size < 0)
            return n || would_block(errno) || errno == EIO /* a tap that is down */ ? n : -1;
        if (!take_frame(d, (unsigned)n, (size_t)size))
            atomic_fetch_add(&d->dropped, 1);
    }
    return n;
}

/* True: the peer has taken all. */
static bool deliver(struct dp_net_datagram *d)
{
    for (;;) {
        unsigned n = dp_net_send_complete(&d->port, d->frame + d->at, d->count - d->at, &d->progress, d->scratch);
        atomic_fetch_add(&d->in, n);
        d->at += n;
        if (d->at == d->count)
            return true;
        want(d, &d->want_in, false);
        if (!atomic_exchange(&d->kicked, false)) /* it got room between the two */
            return false;
    }
}

static void end(struct dp_net_datagram *d)
{
    pthread_mutex_lock(&d->lock);
    bool first = !d->is_gone;
    d->is_gone = true;
    pthread_mutex_unlock(&d->lock);
    if (!first)
        return;
    dp_loop_unwatch(d->loop, d->link.fd);
    dp_net_set_link(&d->port, false);
    if (d->gone)
        d->gone(d->opaque); /* may destroy d */
}

static void go_on(struct dp_net_datagram *d)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        if (!deliver(d))
            return;
        int n = read_batch(d);
        if (n < 0) {
            end(d);
            return;
        }
        if (!n)
            break;
    }
    if (deliver(d))
        want(d, &d->want_in, true);
}

static void on_event(void *opaque, int fd, uint32_t events)
{
    struct dp_net_datagram *d = opaque;
    if (events & EPOLLOUT) {
        want(d, &d->want_out, false);
        dp_net_ready(&d->port);
    }
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
        go_on(d);
}

static void on_kick(void *opaque, int fd, uint32_t events)
{
    struct dp_net_datagram *d = opaque;
    uint64_t count;
    ssize_t n = read(fd, &count, 8);
    (void)n;
    if (!d->is_gone)
        go_on(d);
}

/* The peer, that took too few, has room again: any thread. */
static void ready(void *opaque)
{
    struct dp_net_datagram *d = opaque;
    atomic_store(&d->kicked, true);
    ssize_t n = write(d->kick_fd, &(uint64_t){1}, 8);
    (void)n;
}

static const struct dp_net_end datagram_end = {receive, ready, NULL};

/* ---- life ---- */

struct dp_net_port *dp_net_datagram_port(struct dp_net_datagram *d) { return &d->port; }

void dp_net_datagram_stats(struct dp_net_datagram *d, struct dp_net_datagram_stats *out)
{
    *out = (struct dp_net_datagram_stats){d->in, d->out, d->dropped, d->lost};
}

int dp_net_datagram_create(struct dp_loop *l, const struct dp_net_link *link, void (*gone)(void *opaque), void *opaque,
                           struct dp_net_datagram **out, struct dp_error *e)
{
    struct dp_net_datagram *d = calloc(1, sizeof *d);
    if (!d || !(d->memory = malloc((size_t)DP_NET_BATCH * ROOM)) || !(d->scratch = malloc(sizeof *d->scratch))) {
        if (d)
            free(d->memory);
        free(d);
        close(link->fd);
        return dp_error_set(e, -ENOMEM, "no memory for a network port");
    }
    d->loop = l;
    d->link = *link;
    d->gone = gone;
    d->opaque = opaque;
    d->want_in = true;
    pthread_mutex_init(&d->lock, NULL);
    for (unsigned i = 0; i < DP_NET_BATCH; i++) {
        d->read[i] = (struct iovec){d->memory + (size_t)i * ROOM, ROOM};
        d->message[i].msg_hdr = (struct msghdr){.msg_iov = &d->read[i], .msg_iovlen = 1};
    }
    dp_net_port_init(&d->port, &datagram_end, d, link->accepts);
    d->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int rc = d->kick_fd < 0 ? -errno : dp_loop_watch(l, d->kick_fd, EPOLLIN, on_kick, d);
    bool watched = !rc && !(rc = dp_loop_watch(l, link->fd, EPOLLIN, on_event, d));
    if (!watched) {
        d->is_gone = true;
        dp_net_datagram_destroy(d);
        return dp_error_set(e, rc, "cannot watch a network descriptor: %s", strerror(-rc));
    }
    *out = d;
    return 0;
}

int dp_net_datagram_reopen(struct dp_net_datagram *d, const struct dp_net_link *link, struct dp_error *e)
{
    int rc = 0;
    if (!d->is_gone || link->header != d->link.header || link->is_socket != d->link.is_socket)
        rc = dp_error_set(e, -EINVAL, "a network port that is in use, or of another kind, cannot go on with this descriptor");
    /* The number stays: a thread that is sending just now has the one or the other, never one that belongs to somebody else. */
    else if (dup3(link->fd, d->link.fd, O_CLOEXEC) < 0)
        rc = dp_error_set(e, -errno, "no descriptor: %s", strerror(errno));
    close(link->fd);
    if (rc)
        return rc;
    d->link.accepts = link->accepts;
    d->dismissed = false;
    pthread_mutex_lock(&d->lock);
    d->want_in = true;
    d->want_out = false;
    rc = dp_loop_watch(d->loop, d->link.fd, EPOLLIN, on_event, d);
    d->is_gone = rc;
    pthread_mutex_unlock(&d->lock);
    if (rc)
        return dp_error_set(e, rc, "cannot watch a network descriptor: %s", strerror(-rc));
    dp_net_set_accepts(&d->port, link->accepts);
    dp_net_set_link(&d->port, true);
    dp_net_ready(&d->port);
    return 0;
}

bool dp_net_datagram_dismissed(const struct dp_net_datagram *d) { return d->dismissed; }

void dp_net_datagram_dismiss(struct dp_net_datagram *d)
{
    ssize_t n = d->is_gone ? 0 : send(d->link.fd, "", GOODBYE, MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)n;
}

void dp_net_set_buffers(int fd, int size)
{
    static const struct {
        int force, plain;
    } option[] = {{SO_SNDBUFFORCE, SO_SNDBUF}, {SO_RCVBUFFORCE, SO_RCVBUF}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(option); i++)
        if (setsockopt(fd, SOL_SOCKET, option[i].force, &size, sizeof size) &&
            setsockopt(fd, SOL_SOCKET, option[i].plain, &size, sizeof size))
            return; /* the kernel's own sizes do, with more waiting */
}

void dp_net_datagram_destroy(struct dp_net_datagram *d)
{
    if (!d)
        return;
    dp_net_disconnect(&d->port);
    if (!d->is_gone)
        dp_loop_unwatch(d->loop, d->link.fd);
    d->is_gone = true;
    if (d->kick_fd >= 0) {
        dp_loop_unwatch(d->loop, d->kick_fd);
        close(d->kick_fd);
    }
    close(d->link.fd);
    pthread_mutex_destroy(&d->lock);
    free(d->memory);
    free(d->scratch);
    free(d);
}
