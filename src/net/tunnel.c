/* tunnel.c - see tunnel.h.
 *
 * Invariants: `session` has who tries, and at most one who is up. Sessions begin, change and end in the loop's thread; other threads, which
 * send, find `up` under `lock`, write to it, and leave whatever goes wrong to the loop. `lock` covers the TLS sessions, `up`, `out` and
 * what is watched, and is never held while calling out. `pending` frames, read and not yet taken by the peer, are at [at, count), and
 * nothing is read while there are any.
 */
#include "net/tunnel.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/stream.h"
#include "net/uplink.h"
#include "tls/tls.h"

enum {
    SESSIONS = 4,
    ROUNDS = 4,
    OUT = 256 << 10,
    DATAGRAM_ROOM = DP_TLS_DATAGRAM_MAX,
    PATIENCE_MS = 10000,
    BACKOFF_MIN_MS = 250,
    BACKOFF_MAX_MS = 16000,
    LASTED_MS = 10000, /* a connection that was up for so long was a good one */
    KEEPALIVE_MS = 3000,
    DEAD_MS = 12000,
};
#define MS 1000000ull

enum phase { FREE, CONNECTING, SHAKING, UP };

struct session {
    struct dp_net_tunnel *t;
    enum phase phase;
    int fd;
    struct dp_tls_session *tls; /* NULL: not protected */
    struct dp_timer timer;
    uint64_t begun, deadline; /* deadline 0: none */
    uint32_t watched;
};

struct dp_net_tunnel {
    struct dp_net_port port;
    struct dp_loop *loop;
    struct dp_net_tunnel_options o;
    struct dp_tls *tls;
    int socket; /* UDP's, or the one that listens; -1: none */
    int kick_fd;
    struct session session[SESSIONS];
    struct dp_timer retry;
    uint64_t backoff;
    pthread_mutex_t lock;
    struct session *up;
    bool starved, broken, want_in; /* the peer waits for room; writing failed; reading is wanted */
    uint64_t heard, said;          /* UDP: when */
    size_t out_at, out_size;
    uint8_t *out;
    char why[sizeof((struct dp_error *)0)->text];
    atomic_bool kicked;
    _Atomic uint64_t in_count, out_count, lost, malformed, connections, failed, refused;
    /* the loop's thread only */
    unsigned at, count;
    struct dp_net_frame frame[DP_NET_BATCH];
    struct iovec part[DP_NET_BATCH];
    struct dp_net_stream *stream; /* TCP */
    uint8_t *datagrams;           /* UDP: DP_NET_BATCH * DATAGRAM_ROOM */
};

static uint64_t now(struct dp_net_tunnel *t) { return dp_clock_now(t->o.clock); }

/* ---- what is watched; under the lock ---- */

static void watch(struct session *s)
{
    struct dp_net_tunnel *t = s->t;
    uint32_t events = 0;
    if (s->phase == CONNECTING)
        events = EPOLLOUT;
    else if (s->phase == SHAKING)
        events = dp_tls_wants(s->tls) & EPOLLOUT ? EPOLLOUT : EPOLLIN;
    else
        events = (t->want_in ? EPOLLIN : 0) | (t->starved || t->out_size > t->out_at ? EPOLLOUT : 0);
    if (events == s->watched)
        return;
    s->watched = events;
    int rc = dp_loop_rewatch(t->loop, s->fd, events);
    (void)rc; /* it is watched, so this cannot fail */
}

static void want_in(struct dp_net_tunnel *t, bool yes)
{
    pthread_mutex_lock(&t->lock);
    t->want_in = yes;
    if (t->up)
        watch(t->up);
    pthread_mutex_unlock(&t->lock);
}

static void kick(struct dp_net_tunnel *t)
{
    ssize_t n = write(t->kick_fd, &(uint64_t){1}, 8);
    (void)n;
}

/* ---- to the connection; under the lock ---- */

static ssize_t put(struct session *s, const void *data, size_t size)
{
    if (s->tls)
        return dp_tls_write(s->tls, data, size, NULL);
    ssize_t n;
    do
        n = send(s->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static void fail_later(struct dp_net_tunnel *t)
{
    t->broken = true;
    kick(t);
}

static void flush(struct dp_net_tunnel *t)
{
    while (t->out_at < t->out_size && !t->broken) {
        ssize_t n = put(t->up, t->out + t->out_at, t->out_size - t->out_at);
        if (n == -EAGAIN)
            break;
        if (n <= 0) {
            fail_later(t);
            return;
        }
        t->out_at += (size_t)n;
    }
    if (t->out_at == t->out_size)
        t->out_at = t->out_size = 0;
}

static void gather(const struct dp_net_frame *f, uint8_t *to)
{
    for (unsigned i = 0; i < f->parts; i++) {
        memcpy(to, f->part[i].iov_base, f->part[i].iov_len);
        to += f->part[i].iov_len;
    }
}

static unsigned send_stream(struct dp_net_tunnel *t, const struct dp_net_frame *frame, unsigned count)
{
    unsigned done = 0;
    for (; done < count && !t->broken; done++) {
        const struct dp_net_frame *f = &frame[done];
        size_t need = DP_NET_STREAM_HEAD + f->size;
        if (f->work) { /* it had been accepted a moment ago */
            atomic_fetch_add(&t->lost, 1);
            continue;
        }
        if (OUT - t->out_size < need) {
            flush(t);
            memmove(t->out, t->out + t->out_at, t->out_size - t->out_at);
            t->out_size -= t->out_at;
            t->out_at = 0;
        }
        if (OUT - t->out_size < need)
            break;
        dp_net_stream_put_head(t->out + t->out_size, f->size);
        gather(f, t->out + t->out_size + DP_NET_STREAM_HEAD);
        t->out_size += need;
        atomic_fetch_add(&t->out_count, 1);
    }
    flush(t);
    return done;
}

static unsigned send_datagrams(struct dp_net_tunnel *t, const struct dp_net_frame *frame, unsigned count)
{
    unsigned done = 0;
    for (; done < count && !t->broken; done++) {
        const struct dp_net_frame *f = &frame[done];
        if (f->work || f->size > DP_TLS_DATAGRAM_MAX) {
            atomic_fetch_add(&t->lost, 1);
            continue;
        }
        gather(f, t->out);
        ssize_t n = put(t->up, t->out, f->size);
        if (n == -EAGAIN)
            break;
        if (n < 0)
            fail_later(t);
        atomic_fetch_add(n < 0 ? &t->lost : &t->out_count, 1);
        t->said = now(t);
    }
    return done;
}

static unsigned receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct dp_net_tunnel *t = opaque;
    unsigned done = count;
    pthread_mutex_lock(&t->lock);
    if (t->up && !t->broken)
        done = t->o.udp ? send_datagrams(t, frame, count) : send_stream(t, frame, count);
    if (!t->up || t->broken) {
        atomic_fetch_add(&t->lost, t->up ? count - done : count);
        done = count;
    }
    if (done < count)
        t->starved = true;
    if (t->up)
        watch(t->up);
    pthread_mutex_unlock(&t->lock);
    return done;
}

/* The peer, that took too few, has room again: any thread. */
static void ready(void *opaque)
{
    struct dp_net_tunnel *t = opaque;
    atomic_store(&t->kicked, true);
    kick(t);
}

static const struct dp_net_end tunnel_end = {receive, ready, NULL};

/* ---- sessions ---- */

static void begin_client(struct dp_net_tunnel *t);
static int begin_udp(struct dp_net_tunnel *t, struct dp_error *e);

static void say_why(struct dp_net_tunnel *t, const char *why)
{
    pthread_mutex_lock(&t->lock);
    snprintf(t->why, sizeof t->why, "%s", why);
    pthread_mutex_unlock(&t->lock);
}

/* Tries again: at once who waits for others, later who bothers them. */
static void again(struct dp_net_tunnel *t)
{
    if (t->o.udp && t->o.listen) {
        struct dp_error e = {0};
        if (begin_udp(t, &e))
            say_why(t, e.text);
        else
            return;
    } else if (t->o.listen) {
        return;
    }
    t->backoff = DP_MIN(DP_MAX(t->backoff * 2, BACKOFF_MIN_MS * MS), BACKOFF_MAX_MS * MS);
    dp_timer_arm(&t->retry, now(t) + t->backoff);
}

/* Ends a session. The loop's thread. */
static void leave(struct session *s)
{
    struct dp_net_tunnel *t = s->t;
    dp_timer_disarm(&s->timer);
    dp_loop_unwatch(t->loop, s->fd);
    pthread_mutex_lock(&t->lock);
    bool was_up = t->up == s, starved = was_up && t->starved;
    if (s->tls && was_up)
        dp_tls_close(s->tls);
    dp_tls_session_destroy(s->tls);
    if (s->fd != t->socket)
        close(s->fd);
    s->tls = NULL;
    s->phase = FREE;
    if (was_up) {
        t->up = NULL;
        t->starved = t->broken = false;
        t->out_at = t->out_size = 0;
        t->at = t->count = 0;
    }
    pthread_mutex_unlock(&t->lock);
    if (was_up && now(t) - s->begun > LASTED_MS * MS)
        t->backoff = 0;
    if (starved)
        dp_net_ready(&t->port);
}

static void cut(struct session *s, const char *why)
{
    struct dp_net_tunnel *t = s->t;
    if (s->phase != UP)
        atomic_fetch_add(&t->failed, 1);
    say_why(t, why);
    leave(s);
    again(t);
}

static void go_on(struct dp_net_tunnel *t);

static void come_up(struct session *s)
{
    struct dp_net_tunnel *t = s->t;
    for (unsigned i = 0; i < SESSIONS; i++)
        if (t->session[i].phase != FREE && &t->session[i] != s) {
            atomic_fetch_add(&t->refused, 1);
            leave(&t->session[i]);
        }
    s->begun = now(t);
    s->deadline = 0;
    atomic_fetch_add(&t->connections, 1);
    if (t->stream)
        dp_net_stream_reset(t->stream);
    pthread_mutex_lock(&t->lock);
    s->phase = UP;
    t->up = s;
    t->want_in = true;
    t->heard = t->said = s->begun;
    *t->why = 0;
    watch(s);
    pthread_mutex_unlock(&t->lock);
    if (t->o.udp)
        dp_timer_arm(&s->timer, s->begun + KEEPALIVE_MS * MS);
    else
        dp_timer_disarm(&s->timer);
    go_on(t); /* something may have come with the handshake's end */
}

static void shake(struct session *s)
{
    struct dp_net_tunnel *t = s->t;
    struct dp_error e = {0};
    pthread_mutex_lock(&t->lock);
    bool begun = s->tls && dp_tls_begun(s->tls);
    int rc = s->tls ? dp_tls_handshake(s->tls, &e) : 0;
    if (rc == -EAGAIN) {
        uint64_t left;
        if (!begun && dp_tls_begun(s->tls))
            s->deadline = now(t) + PATIENCE_MS * MS;
        uint64_t at = s->deadline;
        if (dp_tls_timeout(s->tls, &left))
            at = DP_MIN(at, now(t) + left);
        if (at)
            dp_timer_arm(&s->timer, at);
        watch(s);
    }
    pthread_mutex_unlock(&t->lock);
    if (!rc)
        come_up(s);
    else if (rc != -EAGAIN)
        cut(s, e.text);
}

static void set_alive(int fd)
{
    static const struct {
        int level, name, value;
    } option[] = {{IPPROTO_TCP, TCP_NODELAY, 1},   {SOL_SOCKET, SO_KEEPALIVE, 1}, {IPPROTO_TCP, TCP_KEEPIDLE, 5},
                  {IPPROTO_TCP, TCP_KEEPINTVL, 3}, {IPPROTO_TCP, TCP_KEEPCNT, 3}, {IPPROTO_TCP, TCP_USER_TIMEOUT, 15000}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(option); i++)
        if (setsockopt(fd, option[i].level, option[i].name, &option[i].value, sizeof option[i].value))
            return; /* such a kernel notices later */
}

static void on_event(void *opaque, int fd, uint32_t events)
{
    struct session *s = opaque;
    struct dp_net_tunnel *t = s->t;
    if (s->phase == CONNECTING) {
        int code = 0;
        socklen_t size = sizeof code;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size) || code) {
            char why[100];
            snprintf(why, sizeof why, "cannot connect: %s", strerror(code ? code : errno));
            cut(s, why);
            return;
        }
        pthread_mutex_lock(&t->lock);
        s->phase = SHAKING;
        pthread_mutex_unlock(&t->lock);
    }
    if (s->phase == SHAKING) {
        shake(s);
        return;
    }
    if (s->phase != UP)
        return;
    if (events & EPOLLOUT) {
        pthread_mutex_lock(&t->lock);
        flush(t);
        bool starved = t->starved && t->out_size - t->out_at < OUT / 2;
        t->starved = t->starved && !starved;
        watch(s);
        pthread_mutex_unlock(&t->lock);
        if (starved)
            dp_net_ready(&t->port);
    }
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP))
        go_on(t);
}

static void on_timer(void *opaque)
{
    struct session *s = opaque;
    struct dp_net_tunnel *t = s->t;
    uint64_t time = now(t);
    if (s->phase == FREE)
        return;
    if (s->phase != UP) {
        if (s->deadline && time >= s->deadline)
            cut(s, "no answer in time: are addresses, keys and who listens right?");
        else if (s->phase == SHAKING)
            shake(s);
        return;
    }
    pthread_mutex_lock(&t->lock);
    bool dead = time - t->heard >= DEAD_MS * MS;
    if (!dead && time - t->said >= KEEPALIVE_MS * MS / 2) {
        ssize_t n = put(s, "", 1);
        t->said = n == 1 ? time : t->said;
    }
    pthread_mutex_unlock(&t->lock);
    if (dead)
        cut(s, "the other end is silent");
    else
        dp_timer_arm(&s->timer, time + KEEPALIVE_MS * MS);
}

/* A session on fd, which becomes its own unless it is the tunnel's. */
static int begin(struct dp_net_tunnel *t, struct session *s, int fd, enum phase phase, struct dp_error *e)
{
    int rc = t->tls ? dp_tls_session_create(t->tls, fd, &s->tls, e) : 0;
    if (!rc && (rc = dp_loop_watch(t->loop, fd, phase == CONNECTING ? EPOLLOUT : EPOLLIN, on_event, s))) {
        dp_error_set(e, rc, "cannot watch a connection: %s", strerror(-rc));
        dp_tls_session_destroy(s->tls);
        s->tls = NULL;
    }
    if (rc) {
        if (fd != t->socket)
            close(fd);
        return rc;
    }
    s->fd = fd;
    s->phase = phase;
    s->begun = now(t);
    s->watched = phase == CONNECTING ? EPOLLOUT : EPOLLIN;
    s->deadline = t->o.udp && t->o.listen ? 0 : s->begun + PATIENCE_MS * MS;
    if (s->deadline)
        dp_timer_arm(&s->timer, s->deadline);
    if (phase == SHAKING)
        shake(s);
    return 0;
}

static int begin_udp(struct dp_net_tunnel *t, struct dp_error *e) { return begin(t, &t->session[0], t->socket, SHAKING, e); }

static void begin_client(struct dp_net_tunnel *t)
{
    struct sockaddr_storage to;
    struct dp_error e = {0};
    unsigned size;
    int rc = dp_net_parse_address(t->o.remote, 0, &to, &size, &e),
        fd = rc ? -1 : socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (!rc && (fd < 0 || (connect(fd, (struct sockaddr *)&to, size) && errno != EINPROGRESS))) {
        rc = dp_error_set(&e, -errno, "cannot connect: %s", strerror(errno));
        if (fd >= 0)
            close(fd);
    }
    if (!rc) {
        set_alive(fd);
        rc = begin(t, &t->session[0], fd, CONNECTING, &e);
    }
    if (rc) {
        atomic_fetch_add(&t->failed, 1);
        say_why(t, e.text);
        again(t);
    }
}

static void on_retry(void *opaque)
{
    struct dp_net_tunnel *t = opaque;
    struct dp_error e = {0};
    if (!t->o.udp)
        begin_client(t);
    else if (begin_udp(t, &e)) {
        say_why(t, e.text);
        again(t);
    }
}

static void on_accept(void *opaque, int listener, uint32_t events)
{
    struct dp_net_tunnel *t = opaque;
    struct session *s = NULL;
    struct dp_error e = {0};
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) { /* it stays, and would keep us busy */
            int rc = dp_loop_rewatch(t->loop, listener, 0);
            (void)rc;
            dp_timer_arm(&t->retry, now(t) + 1000 * MS);
        }
        return;
    }
    if (t->up) {
        atomic_fetch_add(&t->refused, 1);
        close(fd);
        return;
    }
    for (unsigned i = 0; i < SESSIONS; i++)
        if (t->session[i].phase == FREE || !s || (s->phase != FREE && t->session[i].begun < s->begun))
            s = &t->session[i];
    if (s->phase != FREE) { /* others connect and say nothing: the first of them makes room */
        atomic_fetch_add(&t->refused, 1);
        leave(s);
    }
    set_alive(fd);
    if (begin(t, s, fd, SHAKING, &e)) {
        atomic_fetch_add(&t->failed, 1);
        say_why(t, e.text);
    }
}

static void on_accept_again(void *opaque)
{
    struct dp_net_tunnel *t = opaque;
    int rc = dp_loop_rewatch(t->loop, t->socket, EPOLLIN);
    (void)rc; /* it is watched, so this cannot fail */
}

/* ---- from the connection; the loop's thread ---- */

static ssize_t get(struct session *s, void *data, size_t size, struct dp_error *e)
{
    if (s->tls)
        return dp_tls_read(s->tls, data, size, e);
    ssize_t n;
    do
        n = recv(s->fd, data, size, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? (errno == EAGAIN ? -EAGAIN : dp_error_set(e, -errno, "%s", strerror(errno))) : n;
}

static void keep(struct dp_net_tunnel *t, const uint8_t *bytes, uint32_t size)
{
    t->part[t->count] = (struct iovec){(void *)bytes, size};
    t->frame[t->count] = (struct dp_net_frame){.part = &t->part[t->count], .parts = 1, .size = size};
    t->count++;
}

/* 1: there are frames; 0: not now; negative: it is over, e says why. */
static int read_stream(struct dp_net_tunnel *t, struct dp_error *e)
{
    const uint8_t *bytes;
    uint32_t size;
    int rc = 1;
    ssize_t n = 1;
    for (unsigned reads = 0;; reads++) {
        while (t->count < DP_NET_BATCH && (rc = dp_net_stream_next(t->stream, &bytes, &size)) == 1)
            keep(t, bytes, size);
        if (rc < 0 && !t->count) {
            atomic_fetch_add(&t->malformed, 1);
            return dp_error_set(e, rc, "what the other end sends are no frames");
        }
        if (t->count || reads == 64) /* 64 reads without a frame: the rest at the next round */
            return t->count ? 1 : 0;
        uint8_t *to = dp_net_stream_room(t->stream, (size_t *)&n);
        pthread_mutex_lock(&t->lock);
        n = get(t->up, to, (size_t)n, e);
        pthread_mutex_unlock(&t->lock);
        if (n == -EAGAIN)
            return 0;
        if (n <= 0)
            return n ? (int)n : dp_error_set(e, -EPIPE, "the other end has ended it");
        dp_net_stream_added(t->stream, (size_t)n);
    }
}

static int read_datagrams(struct dp_net_tunnel *t, struct dp_error *e)
{
    ssize_t n = 0;
    unsigned small = 0;
    pthread_mutex_lock(&t->lock);
    while (t->count < DP_NET_BATCH && small < DP_NET_BATCH) {
        uint8_t *to = t->datagrams + (size_t)t->count * DATAGRAM_ROOM;
        if ((n = get(t->up, to, DATAGRAM_ROOM, e)) <= 0)
            break;
        t->heard = now(t);
        if (n >= DP_NET_FRAME_MIN) {
            keep(t, to, (uint32_t)n);
            continue;
        }
        small++;
        if (n != 1) /* one byte: it is alive */
            atomic_fetch_add(&t->malformed, 1);
    }
    pthread_mutex_unlock(&t->lock);
    if (t->count || small)
        return 1; /* what ended it is found again */
    return n == -EAGAIN ? 0 : n ? (int)n : dp_error_set(e, -EPIPE, "the other end has ended it");
}

/* True: the peer has taken all. */
static bool deliver(struct dp_net_tunnel *t)
{
    for (;;) {
        unsigned n = dp_net_send(&t->port, t->frame + t->at, t->count - t->at);
        atomic_fetch_add(&t->in_count, n);
        t->at += n;
        if (t->at == t->count) {
            t->at = t->count = 0;
            return true;
        }
        want_in(t, false);
        if (!atomic_exchange(&t->kicked, false)) /* it got room between the two */
            return false;
    }
}

static void go_on(struct dp_net_tunnel *t)
{
    struct dp_error e = {0};
    int rc = 1;
    for (unsigned i = 0; i < ROUNDS && rc > 0; i++) {
        if (!t->up || !deliver(t))
            return;
        rc = t->stream ? read_stream(t, &e) : read_datagrams(t, &e);
    }
    if (rc < 0) {
        cut(t->up, e.text);
        return;
    }
    if (!t->up || !deliver(t)) /* sending may have had it end */
        return;
    want_in(t, true);
    pthread_mutex_lock(&t->lock);
    if (t->up && (rc > 0 || (t->up->tls && dp_tls_pending(t->up->tls)))) /* what was read already wakes nobody */
        kick(t);
    pthread_mutex_unlock(&t->lock);
}

static void on_kick(void *opaque, int fd, uint32_t events)
{
    struct dp_net_tunnel *t = opaque;
    uint64_t count;
    ssize_t n = read(fd, &count, 8);
    (void)n;
    pthread_mutex_lock(&t->lock);
    bool broken = t->up && t->broken;
    pthread_mutex_unlock(&t->lock);
    if (broken)
        cut(t->up, "the other end is gone");
    else if (t->up)
        go_on(t);
}

/* ---- life ---- */

struct dp_net_port *dp_net_tunnel_port(struct dp_net_tunnel *t) { return &t->port; }

void dp_net_tunnel_stats(struct dp_net_tunnel *t, struct dp_net_tunnel_stats *out)
{
    pthread_mutex_lock(&t->lock);
    *out = (struct dp_net_tunnel_stats){.up = t->up,
                                        .in = t->in_count,
                                        .out = t->out_count,
                                        .lost = t->lost,
                                        .malformed = t->malformed,
                                        .connections = t->connections,
                                        .failed = t->failed,
                                        .refused = t->refused};
    memcpy(out->why, t->why, sizeof out->why);
    pthread_mutex_unlock(&t->lock);
}

static int open_listener(struct dp_net_tunnel *t, struct dp_error *e)
{
    struct sockaddr_storage at;
    unsigned size;
    int on = 1, rc = dp_net_parse_address(t->o.local, 0, &at, &size, e);
    if (rc)
        return rc;
    t->socket = socket(at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (t->socket < 0 || setsockopt(t->socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) || bind(t->socket, (struct sockaddr *)&at, size) ||
        listen(t->socket, 2 * SESSIONS))
        return dp_error_set(e, -errno, "cannot listen on %s: %s", t->o.local, strerror(errno));
    rc = dp_loop_watch(t->loop, t->socket, EPOLLIN, on_accept, t);
    return rc ? dp_error_set(e, rc, "cannot watch %s: %s", t->o.local, strerror(-rc)) : 0;
}

static int open_udp(struct dp_net_tunnel *t, struct dp_error *e)
{
    struct dp_net_link link;
    int rc = dp_net_open_udp(t->o.local, t->o.remote, &link, e);
    if (rc)
        return rc;
    t->socket = link.fd;
    return begin_udp(t, e);
}

static int read_credentials(struct dp_net_tunnel *t, struct dp_error *e)
{
    const char *remote = t->o.remote;
    char host[80];
    if (!*t->o.tls && !*t->o.psk)
        return 0;
    snprintf(host, sizeof host, "%s", remote + (*remote == '['));
    char *end = *remote == '[' ? strchr(host, ']') : strrchr(host, ':');
    if (end)
        *end = 0;
    struct dp_tls_options o = {.folder = *t->o.tls ? t->o.tls : NULL,
                               .psk = *t->o.psk ? t->o.psk : NULL,
                               .server = t->o.listen,
                               .datagram = t->o.udp,
                               .peer = *t->o.tls_name ? t->o.tls_name
                                       : t->o.listen  ? NULL
                                                      : host};
    return dp_tls_create(&o, &t->tls, e);
}

int dp_net_tunnel_create(struct dp_loop *l, const struct dp_net_tunnel_options *o, struct dp_net_tunnel **out, struct dp_error *e)
{
    struct dp_net_tunnel *t = calloc(1, sizeof *t);
    struct sockaddr_storage address;
    unsigned size;
    if (!t)
        return dp_error_set(e, -ENOMEM, "no memory for a tunnel");
    t->loop = l;
    t->o = *o;
    t->socket = -1;
    t->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_init(&t->lock, NULL);
    dp_net_port_init(&t->port, &tunnel_end, t, 0);
    dp_timer_init(&t->retry, o->clock, o->listen && !o->udp ? on_accept_again : on_retry, t);
    for (unsigned i = 0; i < SESSIONS; i++) {
        t->session[i].t = t;
        dp_timer_init(&t->session[i].timer, o->clock, on_timer, &t->session[i]);
    }
    int rc = t->kick_fd < 0 ? -errno : dp_loop_watch(l, t->kick_fd, EPOLLIN, on_kick, t);
    if (rc)
        dp_error_set(e, rc, "cannot watch a tunnel: %s", strerror(-rc));
    if (!rc && (!(t->out = malloc(OUT)) || !(o->udp ? (void *)(t->datagrams = malloc((size_t)DP_NET_BATCH * DATAGRAM_ROOM))
                                                    : (void *)(t->stream = calloc(1, sizeof *t->stream)))))
        rc = dp_error_set(e, -ENOMEM, "no memory for a tunnel");
    if (!rc && !o->udp && !o->listen)
        rc = dp_net_parse_address(o->remote, 0, &address, &size, e);
    if (!rc && !(rc = read_credentials(t, e)) && (o->udp || o->listen))
        rc = o->udp ? open_udp(t, e) : open_listener(t, e);
    if (rc) {
        dp_net_tunnel_destroy(t);
        return rc;
    }
    if (!o->udp && !o->listen)
        begin_client(t);
    *out = t;
    return 0;
}

void dp_net_tunnel_destroy(struct dp_net_tunnel *t)
{
    if (!t)
        return;
    dp_net_disconnect(&t->port);
    dp_timer_fini(&t->retry);
    for (unsigned i = 0; i < SESSIONS; i++) {
        if (t->session[i].phase != FREE)
            leave(&t->session[i]);
        dp_timer_fini(&t->session[i].timer);
    }
    if (t->socket >= 0) {
        dp_loop_unwatch(t->loop, t->socket);
        close(t->socket);
    }
    if (t->kick_fd >= 0) {
        dp_loop_unwatch(t->loop, t->kick_fd);
        close(t->kick_fd);
    }
    dp_tls_destroy(t->tls);
    pthread_mutex_destroy(&t->lock);
    free(t->out);
    free(t->stream);
    free(t->datagrams);
    free(t);
}

/* ---- as text ---- */

int dp_net_tunnel_parse(char *text, struct dp_net_tunnel_options *o, struct dp_error *e)
{
    char address[160], flag[8];
    *o = (struct dp_net_tunnel_options){0};
    bool tcp = !strncmp(text, "tcp=", 4), protected = strstr(text, ",dtls=") || strstr(text, ",psk=");
    o->udp = !strncmp(text, "udp=", 4);
    if (!tcp && (!o->udp || !protected))
        return 0;
    if (!dp_net_take_option(text, tcp ? "tcp" : "udp", address, sizeof address))
        return dp_error_set(e, -EINVAL, "'%.40s...': the address is too long", text);
    o->listen = dp_net_take_option(text, "listen", flag, sizeof flag);
    const char *folder = dp_net_take_option(text, tcp ? "tls" : "dtls", o->tls, sizeof o->tls),
               *keys = dp_net_take_option(text, "psk", o->psk, sizeof o->psk),
               *name = dp_net_take_option(text, "tls-name", o->tls_name, sizeof o->tls_name);
    /* What is empty or too long must not become a tunnel without protection. */
    if ((folder && !*folder) || (keys && !*keys) || (name && !*name) || (!tcp && !folder && !keys))
        return dp_error_set(e, -EINVAL, "%s=%s: %s=FOLDER, psk=FILE and tls-name=NAME have 1 to %zu characters", tcp ? "tcp" : "udp",
                            address, tcp ? "tls" : "dtls", sizeof o->tls - 1);
    if (*o->tls && *o->psk)
        return dp_error_set(e, -EINVAL, "%s=%s: certificates or keys, not both", tcp ? "tcp" : "udp", address);
    if (*o->tls_name && !*o->tls)
        return dp_error_set(e, -EINVAL, "tls-name=%s: it is the name in a certificate: give %s=FOLDER", o->tls_name, tcp ? "tls" : "dtls");
    char *slash = tcp ? NULL : strchr(address, '/');
    if (o->udp && !slash)
        return dp_error_set(e, -EINVAL, "udp=%s: give udp=LOCAL:PORT/REMOTE:PORT", address);
    if (slash)
        *slash++ = 0;
    const char *local = o->udp || o->listen ? address : "", *remote = o->udp ? slash : o->listen ? "" : address;
    if (strlen(local) >= sizeof o->local || strlen(remote) >= sizeof o->remote)
        return dp_error_set(e, -EINVAL, "%s=%s: the address is too long", tcp ? "tcp" : "udp", address);
    strcpy(o->local, local);
    strcpy(o->remote, remote);
    return 1;
}
