/* net/user.c - see user.h.
 * Source: libslirp 4.7's header; RFC 826, 791, 8200 for what is checked.
 *
 * libslirp is made for a loop around poll(): it says what it waits for (fill), and is told what came (poll). Here the loop is epoll's and
 * somebody else's, so after each call into libslirp `look` asks what it waits for now, puts that into an epoll of our own, which the loop
 * watches, and arms a timer; and `serve` asks again, polls without waiting, and tells it. Descriptors that libslirp closed in between are
 * thus never told of.
 */
#include "net/user.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/reassembly.h"

enum { IN_FRAMES = 512, IN_BYTES = 4 << 20, OUT_FRAMES = 1024, OUT_PAUSE = 256 /* of them: no more is read from sockets */, ARP_SIZE = 28 };
enum { DESCRIPTORS_KEPT = 128, DESCRIPTORS_MAX = 4096, OPENERS_AT_ONCE = 32 /* between two looks at how many there are */ };
enum { TCP_FLAGS = 13, TCP_SYN = 2, TCP_ACK = 16 };
#define MS 1000000ull

struct packet {
    struct packet *next;
    uint32_t size;
    uint8_t bytes[];
};
struct queue {
    struct packet *head, **tail;
    unsigned count;
    size_t bytes;
};

struct dp_net_user {
    struct dp_net_port port;
    struct dp_loop *loop;
    struct dp_clock *clock;
    struct dp_trace *trace;
    int kick; /* an eventfd: there is something to do, from any thread */
    pthread_mutex_t lock;
    struct queue in; /* to libslirp; under the lock */
    bool starved;    /* it took fewer than it was given; under the lock */
    /* The rest is the loop thread's. */
    Slirp *slirp;
    struct queue out; /* to the card */
    struct dp_net_reassembly fragments;
    struct dp_net_names *names; /* NULL: libslirp's */
    int epoll;
    bool watching;
    struct dp_timer deadline; /* when libslirp wants to be called at the latest */
    struct pollfd *poll;
    unsigned polls, poll_room;
    uint32_t *watched; /* events in our epoll, by descriptor; 0: not in it */
    unsigned watched_room;
    uint64_t lost;
    char made[DP_NET_FORWARDS][DP_NET_SOCKET_PATH]; /* unix sockets to be removed */
    unsigned made_count;
};

/* One of libslirp's timers. */
struct slirp_timer {
    struct dp_net_user *user;
    struct dp_timer timer;
    SlirpTimerCb fn;
    void *opaque;
};

/* ---- queues ---- */

static void queue_init(struct queue *q) { *q = (struct queue){.tail = &q->head}; }

static struct packet *append(struct queue *q, uint32_t size)
{
    struct packet *p = malloc(sizeof *p + size);
    if (!p)
        return NULL;
    p->next = NULL;
    p->size = size;
    *q->tail = p;
    q->tail = &p->next;
    q->count++;
    q->bytes += size;
    return p;
}

static void drop_head(struct queue *q)
{
    struct packet *p = q->head;
    q->head = p->next;
    if (!q->head)
        q->tail = &q->head;
    q->count--;
    q->bytes -= p->size;
    free(p);
}

static void kick(struct dp_net_user *u)
{
    uint64_t one = 1;
    ssize_t n = write(u->kick, &one, sizeof one);
    (void)n; /* a full counter kicks as well */
}

/* ---- to the card ---- */

static void flush(struct dp_net_user *u)
{
    while (u->out.count) {
        struct dp_net_frame frame[DP_NET_BATCH];
        struct iovec part[DP_NET_BATCH];
        unsigned n = 0;
        for (struct packet *p = u->out.head; p && n < DP_NET_BATCH; p = p->next, n++) {
            part[n] = (struct iovec){p->bytes, p->size};
            frame[n] = (struct dp_net_frame){.part = &part[n], .parts = 1, .size = p->size};
        }
        unsigned sent = dp_net_send(&u->port, frame, n);
        for (unsigned i = 0; i < sent; i++)
            drop_head(&u->out);
        if (sent < n)
            return;
    }
}

static ssize_t send_packet(const void *data, size_t size, void *opaque)
{
    struct dp_net_user *u = opaque;
    struct packet *p =
        size >= DP_NET_FRAME_MIN && size <= DP_NET_FRAME_MAX && u->out.count < OUT_FRAMES ? append(&u->out, (uint32_t)size) : NULL;
    if (p)
        memcpy(p->bytes, data, size);
    else
        u->lost++;
    return (ssize_t)size;
}

static void card_ready(void *opaque) { kick(opaque); }

/* ---- what libslirp waits for ---- */

static int add_poll(int fd, int events, void *opaque)
{
    struct dp_net_user *u = opaque;
    if (u->polls == u->poll_room) {
        unsigned room = u->poll_room ? 2 * u->poll_room : 32;
        struct pollfd *more = realloc(u->poll, room * sizeof *more);
        if (!more)
            return -1;
        u->poll = more;
        u->poll_room = room;
    }
    u->poll[u->polls] = (struct pollfd){.fd = fd,
                                        .events = (events & SLIRP_POLL_IN ? POLLIN : 0) | (events & SLIRP_POLL_OUT ? POLLOUT : 0) |
                                                  (events & SLIRP_POLL_PRI ? POLLPRI : 0)};
    return (int)u->polls++;
}

static int get_revents(int index, void *opaque)
{
    struct dp_net_user *u = opaque;
    if (index < 0 || (unsigned)index >= u->polls)
        return 0;
    short r = u->poll[index].revents;
    return (r & POLLIN ? SLIRP_POLL_IN : 0) | (r & POLLOUT ? SLIRP_POLL_OUT : 0) | (r & POLLPRI ? SLIRP_POLL_PRI : 0) |
           (r & POLLERR ? SLIRP_POLL_ERR : 0) | (r & POLLHUP ? SLIRP_POLL_HUP : 0);
}

static uint32_t fill(struct dp_net_user *u)
{
    uint32_t timeout = UINT32_MAX;
    u->polls = 0;
    slirp_pollfds_fill(u->slirp, &timeout, add_poll, u);
    return timeout;
}

static bool watched_room(struct dp_net_user *u, int fd)
{
    if ((unsigned)fd < u->watched_room)
        return true;
    unsigned room = DP_MAX(2 * u->watched_room, (unsigned)fd + 64);
    uint32_t *more = realloc(u->watched, room * sizeof *more);
    if (!more)
        return false;
    memset(more + u->watched_room, 0, (room - u->watched_room) * sizeof *more);
    u->watched = more;
    u->watched_room = room;
    return true;
}

enum { SEEN = 1u << 30 }; /* in watched[]; no event of epoll's */

/* Our epoll becomes what is in u->poll. */
static void update_epoll(struct dp_net_user *u)
{
    for (unsigned i = 0; i < u->polls; i++) {
        int fd = u->poll[i].fd;
        uint32_t events = (uint32_t)u->poll[i].events; /* POLLIN, OUT and PRI are EPOLLIN, OUT and PRI */
        if (fd < 0 || !watched_room(u, fd))
            continue;
        if (u->watched[fd] & SEEN)
            events |= u->watched[fd] & ~SEEN;
        if ((u->watched[fd] & ~SEEN) != events || !events) {
            struct epoll_event ev = {.events = events, .data.fd = fd};
            if (epoll_ctl(u->epoll, EPOLL_CTL_MOD, fd, &ev) && epoll_ctl(u->epoll, EPOLL_CTL_ADD, fd, &ev))
                continue; /* closed */
        }
        u->watched[fd] = events | SEEN;
    }
    for (unsigned fd = 0; fd < u->watched_room; fd++) {
        if (u->watched[fd] && !(u->watched[fd] & SEEN)) {
            epoll_ctl(u->epoll, EPOLL_CTL_DEL, (int)fd, NULL);
            u->watched[fd] = 0;
        }
        u->watched[fd] &= ~SEEN;
    }
}

/* After anything: what libslirp waits for now. */
static void look(struct dp_net_user *u)
{
    uint32_t timeout = fill(u);
    bool watch = u->out.count < OUT_PAUSE;
    if (watch)
        update_epoll(u);
    if (watch != u->watching && !dp_loop_rewatch(u->loop, u->epoll, watch ? EPOLLIN : 0))
        u->watching = watch;
    if (timeout == UINT32_MAX)
        dp_timer_disarm(&u->deadline);
    else
        dp_timer_arm(&u->deadline, dp_clock_now(u->clock) + DP_MAX(timeout, 1u) * MS);
}

static void serve(struct dp_net_user *u)
{
    fill(u);
    int n = 0;
    if (u->out.count < OUT_PAUSE)
        n = poll(u->poll, u->polls, 0);
    slirp_pollfds_poll(u->slirp, n < 0, get_revents, u);
    flush(u);
    look(u);
}

static void sockets_ready(void *opaque, int fd, uint32_t events) { serve(opaque); }
static void deadline(void *opaque) { serve(opaque); }

/* ---- from the card ---- */

/* Sockets are the process's descriptors, and a guest may open as many as it likes: some are kept for clients, disks and media. Each TCP
 * connection has buffers of 256 KiB besides, so there is a limit where the host has none. */
static bool descriptors_left(struct dp_net_user *u)
{
    struct rlimit limit;
    int lowest = fcntl(u->kick, F_DUPFD_CLOEXEC, 0);
    if (lowest < 0)
        return false;
    close(lowest);
    return lowest < DESCRIPTORS_MAX && (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur > (rlim_t)lowest + DESCRIPTORS_KEPT);
}

/* Perhaps the first of a connection. */
static bool opens(const uint8_t *bytes, const struct dp_net_layout *l)
{
    if (l->ethertype != DP_NET_ETHERTYPE_IP && l->ethertype != DP_NET_ETHERTYPE_IP6)
        return false;
    return l->protocol != DP_NET_PROTOCOL_TCP || (bytes[l->transport + TCP_FLAGS] & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* May libslirp see it: a whole ARP or IP packet? *size loses padding. */
static bool presentable(const uint8_t *bytes, uint32_t *size, struct dp_net_layout *l)
{
    if (!dp_net_parse(bytes, *size, l) || l->network != DP_NET_HEADER) /* it knows no VLANs */
        return false;
    if (l->ethertype == DP_NET_ETHERTYPE_ARP)
        return *size >= DP_NET_HEADER + ARP_SIZE;
    *size = l->end;
    return l->ethertype == DP_NET_ETHERTYPE_IP || l->ethertype == DP_NET_ETHERTYPE_IP6;
}

static unsigned receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct dp_net_user *u = opaque;
    unsigned taken = 0;
    pthread_mutex_lock(&u->lock);
    bool idle = !u->in.count;
    for (; taken < count; taken++) {
        const struct dp_net_frame *f = &frame[taken];
        if (f->size < DP_NET_FRAME_MIN || f->size > DP_NET_FRAME_MAX || (f->work & ~u->port.accepts))
            continue;
        if (u->in.count >= IN_FRAMES || u->in.bytes + f->size > IN_BYTES) {
            u->starved = true;
            break;
        }
        struct packet *p = append(&u->in, f->size);
        if (!p)
            continue; /* networks lose frames */
        dp_net_gather(f, p->bytes);
        if (!dp_net_finish_checksum(f, p->bytes))
            p->size = 0; /* passed over below; still counted in bytes, which only drop_head would miss */
    }
    pthread_mutex_unlock(&u->lock);
    if (idle && taken)
        kick(u);
    return taken;
}

static void kicked(void *opaque, int fd, uint32_t events)
{
    struct dp_net_user *u = opaque;
    uint64_t n;
    if (read(fd, &n, sizeof n) != sizeof n)
        return;
    pthread_mutex_lock(&u->lock);
    struct packet *p = u->in.head;
    bool starved = u->starved;
    u->starved = false;
    queue_init(&u->in);
    pthread_mutex_unlock(&u->lock);
    bool left = true;
    for (unsigned openers = 0; p;) {
        struct packet *next = p->next;
        uint32_t size = p->size;
        struct dp_net_layout l;
        uint8_t *bytes = p->bytes;
        bool good = size && presentable(bytes, &size, &l);
        /* libslirp 4.7 dies of a single fragment with an offset, so it sees none. */
        if (good && dp_net_is_fragment(bytes, &l))
            good = (bytes = dp_net_reassemble(&u->fragments, bytes, &l, dp_clock_now(u->clock), &size)) && presentable(bytes, &size, &l);
        if (good && u->names) {
            uint8_t answer[DP_NET_NAMES_ANSWER];
            uint32_t answer_size;
            enum dp_net_names_verdict v = dp_net_names_look(u->names, bytes, &l, answer, &answer_size);
            if (v == DP_NET_NAMES_ANSWERED)
                send_packet(answer, answer_size, u);
            good = v == DP_NET_NAMES_PASS;
        }
        if (good && opens(bytes, &l)) {
            if (openers++ % OPENERS_AT_ONCE == 0 && !(left = descriptors_left(u)))
                dp_trace_guest(u->trace, "user network: too many connections (4,096, or this host's limit of open files): no new ones");
            good = left;
        }
        if (good)
            slirp_input(u->slirp, bytes, (int)size);
        free(p);
        p = next;
    }
    flush(u);
    if (starved)
        dp_net_ready(&u->port);
    look(u);
}

static const struct dp_net_end end = {.receive = receive, .ready = card_ready};

/* ---- what libslirp calls ---- */

static void guest_error(const char *text, void *opaque) { dp_trace_guest(((struct dp_net_user *)opaque)->trace, "user network: %s", text); }
static int64_t clock_get_ns(void *opaque) { return (int64_t)dp_clock_now(((struct dp_net_user *)opaque)->clock); }

static void timer_due(void *opaque)
{
    struct slirp_timer *t = opaque;
    struct dp_net_user *u = t->user;
    t->fn(t->opaque);
    flush(u);
    look(u);
}

static void *timer_new(SlirpTimerCb fn, void *fn_opaque, void *opaque)
{
    struct dp_net_user *u = opaque;
    struct slirp_timer *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    *t = (struct slirp_timer){.user = u, .fn = fn, .opaque = fn_opaque};
    dp_timer_init(&t->timer, u->clock, timer_due, t);
    return t;
}

static void timer_free(void *timer, void *opaque)
{
    struct slirp_timer *t = timer;
    if (t)
        dp_timer_fini(&t->timer);
    free(t);
}

static void timer_mod(void *timer, int64_t ms, void *opaque)
{
    struct slirp_timer *t = timer;
    if (t)
        dp_timer_arm(&t->timer, (uint64_t)DP_MAX(ms, 0) * MS);
}

static void register_poll_fd(int fd, void *opaque) {}

/* It closes this one now. */
static void unregister_poll_fd(int fd, void *opaque)
{
    struct dp_net_user *u = opaque;
    if (fd < 0 || (unsigned)fd >= u->watched_room || !u->watched[fd])
        return;
    epoll_ctl(u->epoll, EPOLL_CTL_DEL, fd, NULL);
    u->watched[fd] = 0;
}

static void notify(void *opaque) { kick(opaque); }

static const SlirpCb callbacks = {
    .send_packet = send_packet,
    .guest_error = guest_error,
    .clock_get_ns = clock_get_ns,
    .timer_new = timer_new,
    .timer_free = timer_free,
    .timer_mod = timer_mod,
    .register_poll_fd = register_poll_fd,
    .unregister_poll_fd = unregister_poll_fd,
    .notify = notify,
};

/* ---- life ---- */

static struct in_addr ip4(const char *text)
{
    struct in_addr a = {0};
    inet_pton(AF_INET, text, &a);
    return a;
}

static struct in6_addr ip6(const char *text)
{
    struct in6_addr a = {0};
    inet_pton(AF_INET6, text, &a);
    return a;
}

/* Is it a socket that nobody listens at: left by one that died? */
static bool is_left_over(const struct sockaddr_un *a)
{
    struct stat st;
    if (lstat(a->sun_path, &st) || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool refused = fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof *a) && errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return refused;
}

static int add_unix_forward(struct dp_net_user *u, const struct dp_net_forward *f, struct dp_error *e)
{
    struct sockaddr_un from = {.sun_family = AF_UNIX};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = ip4(*f->guest ? f->guest : "10.0.2.15"), .sin_port = htons(f->guest_port)};
    strcpy(from.sun_path, f->path); /* of the same size */
    if (is_left_over(&from))
        unlink(f->path);
    errno = 0;
    if (slirp_add_hostxfwd(u->slirp, (struct sockaddr *)&from, sizeof from, (struct sockaddr *)&to, sizeof to, 0)) {
        int code = errno ? errno : EIO;
        return dp_error_set(e, -code, "cannot make the socket %s: %s%s", f->path, strerror(code),
                            code == EADDRINUSE ? "; it is in use, or something else: take another name" : "");
    }
    strcpy(u->made[u->made_count++], f->path);
    return 0;
}

static int add_service(struct dp_net_user *u, const struct dp_net_service *s, struct dp_error *e)
{
    struct in_addr a = ip4(s->guest);
    return slirp_add_unix(u->slirp, s->path, &a, s->port)
               ? dp_error_set(e, -EINVAL, "guestfwd=tcp:%s:%u: possible are 10.0.2.4 to 10.0.2.254, but for those that DHCP gives", s->guest,
                              s->port)
               : 0;
}

static int add_forward(struct dp_net_user *u, const struct dp_net_forward *f, struct dp_error *e)
{
    if (*f->path)
        return add_unix_forward(u, f, e);
    errno = 0;
    int rc = slirp_add_hostfwd(u->slirp, f->udp, ip4(*f->host ? f->host : "0.0.0.0"), f->host_port, ip4(*f->guest ? f->guest : "10.0.2.15"),
                               f->guest_port);
    if (!rc)
        return 0;
    int code = errno ? errno : EIO;
    return dp_error_set(e, -code, "cannot forward %s port %u of %s: %s%s", f->udp ? "UDP" : "TCP", f->host_port,
                        *f->host ? f->host : "this host", strerror(code),
                        code == EACCES       ? "; ports below 1024 are for root"
                        : code == EADDRINUSE ? "; another program listens there: take another port"
                                             : "");
}

static int start(struct dp_net_user *u, const struct dp_net_user_options *o, struct dp_error *e)
{
    uint32_t network = o->network ? o->network : 0x0a000200, prefix = o->prefix ? o->prefix : 24;
    SlirpConfig c = {
        .version = 3,
        .restricted = o->restricted,
        .in_enabled = true,
        .vnetwork = {htonl(network)},
        .vnetmask = {htonl(~0u << (32 - prefix))},
        .vhost = {htonl(network + DP_NET_NAMES_GATEWAY)},
        .in6_enabled = true,
        .vprefix_addr6 = ip6("fec0::"),
        .vprefix_len = 64,
        .vhost6 = ip6("fec0::2"),
        .vhostname = *o->hostname ? o->hostname : NULL,
        .tftp_path = *o->tftp ? o->tftp : NULL,
        .bootfile = *o->bootfile ? o->bootfile : NULL,
        .vdhcp_start = {htonl(network + 15)},
        .vnameserver = {htonl(network + DP_NET_NAMES_SERVER)},
        .vnameserver6 = ip6("fec0::3"),
        .disable_host_loopback = o->no_host,
    };
    if (*o->tftp && access(o->tftp, R_OK | X_OK))
        return dp_error_set(e, -errno, "tftp=%s: %s", o->tftp, strerror(errno));
    u->epoll = epoll_create1(EPOLL_CLOEXEC);
    u->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (u->epoll < 0 || u->kick < 0)
        return dp_error_set(e, -errno, "cannot make the user network: %s", strerror(errno));
    if (!(u->slirp = slirp_new(&c, &callbacks, u)))
        return dp_error_set(e, -EINVAL, "libslirp refuses this network");
    int rc = 0;
    for (unsigned i = 0; !rc && i < o->forwards; i++)
        rc = add_forward(u, &o->forward[i], e);
    for (unsigned i = 0; !rc && i < o->services; i++)
        rc = add_service(u, &o->service[i], e);
    if (!rc && (dp_loop_watch(u->loop, u->kick, EPOLLIN, kicked, u) || dp_loop_watch(u->loop, u->epoll, EPOLLIN, sockets_ready, u)))
        rc = dp_error_set(e, -EIO, "cannot watch the user network");
    u->watching = true;
    if (!rc)
        look(u);
    return rc;
}

int dp_net_user_create(struct dp_loop *l, struct dp_clock *c, struct dp_trace *t, const struct dp_net_user_options *o,
                       struct dp_net_user **out, struct dp_error *e)
{
    struct dp_net_user *u = calloc(1, sizeof *u);
    if (!u)
        return dp_error_set(e, -ENOMEM, "no memory for a network");
    u->loop = l;
    u->clock = c;
    u->trace = t;
    u->epoll = u->kick = -1;
    queue_init(&u->in);
    queue_init(&u->out);
    pthread_mutex_init(&u->lock, NULL);
    dp_timer_init(&u->deadline, c, deadline, u);
    dp_net_port_init(&u->port, &end, u, DP_NET_CHECKSUM | DP_NET_TSO4 | DP_NET_TSO6 | DP_NET_ECN);
    int rc = start(u, o, e);
    if (rc)
        dp_net_user_destroy(u);
    else
        *out = u;
    return rc;
}

void dp_net_user_destroy(struct dp_net_user *u)
{
    if (!u)
        return;
    dp_net_disconnect(&u->port);
    if (u->kick >= 0)
        dp_loop_unwatch(u->loop, u->kick);
    if (u->epoll >= 0)
        dp_loop_unwatch(u->loop, u->epoll);
    if (u->slirp)
        slirp_cleanup(u->slirp);
    for (unsigned i = 0; i < u->made_count; i++)
        unlink(u->made[i]);
    dp_timer_fini(&u->deadline);
    while (u->in.head)
        drop_head(&u->in);
    while (u->out.head)
        drop_head(&u->out);
    if (u->kick >= 0)
        close(u->kick);
    if (u->epoll >= 0)
        close(u->epoll);
    pthread_mutex_destroy(&u->lock);
    dp_net_reassembly_fini(&u->fragments);
    free(u->poll);
    free(u->watched);
    free(u);
}

struct dp_net_port *dp_net_user_port(struct dp_net_user *u) { return &u->port; }
void dp_net_user_set_names(struct dp_net_user *u, struct dp_net_names *n) { u->names = n; }
