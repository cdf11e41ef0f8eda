/* vxlan.c - see vxlan.h.
 *
 * Invariants: remotes and the table of addresses are under `lock`, which is not held while sending. A table entry names a remote end by its
 * place and by its generation, so one that was forgotten is not found in another's place. Frames that the peer did not take are lost: an
 * overlay is a network.
 */
#include "net/vxlan.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/offload.h"
#include "net/uplink.h"

enum { HEADER = 8, FLAG_VNI = 0x08, ROOM = HEADER + DP_NET_FRAME_MAX + 4, MACS = 4096, WAYS = 4, BUFFER = 4 << 20, ROUNDS = 4 };
enum { AGE_SECONDS = 300, MAC_SIZE = 6 };

struct remote {
    struct sockaddr_storage address;
    unsigned size; /* 0: the place is free */
    bool fixed;
    uint32_t generation;
    uint64_t seen;
};

struct mac_entry {
    uint8_t mac[MAC_SIZE];
    uint16_t remote;
    uint32_t generation; /* of the remote end; 0: free */
    uint64_t seen;
};

struct dp_net_vxlan {
    struct dp_net_port port;
    struct dp_loop *loop;
    struct dp_clock *clock;
    int fd;
    uint32_t vni;
    bool learn;
    pthread_mutex_t lock;
    uint32_t generation;
    struct remote remote[DP_VXLAN_REMOTES];
    struct mac_entry table[MACS];
    _Atomic uint64_t in, out, malformed, other_vni, stranger, lost;
    /* the loop's thread only */
    struct mmsghdr message[DP_NET_BATCH];
    struct iovec read[DP_NET_BATCH];
    struct sockaddr_storage from[DP_NET_BATCH];
    struct dp_net_frame frame[DP_NET_BATCH];
    struct iovec part[DP_NET_BATCH];
    uint8_t *memory;
};

static bool is_group(const uint8_t *mac) { return mac[0] & 1; }

static uint64_t age_ns(void) { return AGE_SECONDS * 1000000000ull; }

/* ---- tables, under the lock ---- */

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
    if (a->ss_family != b->ss_family)
        return false;
    if (a->ss_family == AF_INET)
        return ((const struct sockaddr_in *)a)->sin_addr.s_addr == ((const struct sockaddr_in *)b)->sin_addr.s_addr;
    return !memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr, &((const struct sockaddr_in6 *)b)->sin6_addr, 16);
}

static bool alive(const struct remote *r, uint64_t now) { return r->size && (r->fixed || now - r->seen < age_ns()); }

/* The port that frames came from is any (it spreads the load over paths); answers go to the port of VXLAN, RFC 7348 5. */
static void set_port(struct sockaddr_storage *a, uint16_t port)
{
    if (a->ss_family == AF_INET)
        ((struct sockaddr_in *)a)->sin_port = htons(port);
    else
        ((struct sockaddr_in6 *)a)->sin6_port = htons(port);
}

static struct remote *find_remote(struct dp_net_vxlan *v, const struct sockaddr_storage *from, uint64_t now)
{
    for (unsigned i = 0; i < DP_VXLAN_REMOTES; i++)
        if (alive(&v->remote[i], now) && same_address(&v->remote[i].address, from))
            return &v->remote[i];
    return NULL;
}

static struct remote *add_remote(struct dp_net_vxlan *v, const struct sockaddr_storage *address, unsigned size, bool fixed, uint64_t now)
{
    for (unsigned i = 0; i < DP_VXLAN_REMOTES; i++)
        if (!alive(&v->remote[i], now)) {
            v->remote[i] = (struct remote){*address, size, fixed, ++v->generation, now};
            return &v->remote[i];
        }
    return NULL;
}

static struct mac_entry *bucket(struct dp_net_vxlan *v, const uint8_t *mac)
{
    uint32_t h = (dp_ld32(mac) * 0x9e3779b1u) ^ (dp_ld16(mac + 4) * 0x85ebca6bu);
    return &v->table[(h >> 8) % (MACS / WAYS) * WAYS];
}

static void learn(struct dp_net_vxlan *v, const uint8_t *mac, const struct remote *r, uint64_t now)
{
    struct mac_entry *b = bucket(v, mac), *victim = b;
    if (is_group(mac))
        return;
    for (unsigned i = 0; i < WAYS; i++) {
        if (b[i].generation && !memcmp(b[i].mac, mac, MAC_SIZE)) {
            victim = &b[i];
            break;
        }
        if (b[i].seen < victim->seen)
            victim = &b[i];
    }
    memcpy(victim->mac, mac, MAC_SIZE);
    victim->remote = (uint16_t)(r - v->remote);
    victim->generation = r->generation;
    victim->seen = now;
}

static struct remote *lookup(struct dp_net_vxlan *v, const uint8_t *mac, uint64_t now)
{
    struct mac_entry *b = bucket(v, mac);
    for (unsigned i = 0; i < WAYS; i++) {
        struct remote *r = &v->remote[b[i].remote];
        if (b[i].generation && !memcmp(b[i].mac, mac, MAC_SIZE) && now - b[i].seen < age_ns() && r->generation == b[i].generation &&
            alive(r, now))
            return r;
    }
    return NULL;
}

/* ---- out ---- */

struct destination {
    struct sockaddr_storage address;
    unsigned size;
};

static unsigned destinations(struct dp_net_vxlan *v, const uint8_t *mac, struct destination *to)
{
    uint64_t now = dp_clock_now(v->clock);
    unsigned n = 0;
    pthread_mutex_lock(&v->lock);
    struct remote *one = is_group(mac) ? NULL : lookup(v, mac, now);
    for (unsigned i = 0; i < DP_VXLAN_REMOTES; i++)
        if (one ? &v->remote[i] == one : alive(&v->remote[i], now))
            to[n++] = (struct destination){v->remote[i].address, v->remote[i].size};
    pthread_mutex_unlock(&v->lock);
    return n;
}

static void send_one(struct dp_net_vxlan *v, const struct dp_net_frame *f)
{
    enum { PARTS = 256 };
    struct destination to[DP_VXLAN_REMOTES];
    struct iovec part[PARTS];
    uint8_t head[HEADER] = {FLAG_VNI}, mac[MAC_SIZE];
    if (f->parts >= PARTS || f->work) { /* it was told that no work is done here */
        atomic_fetch_add(&v->lost, 1);
        return;
    }
    head[4] = (uint8_t)(v->vni >> 16);
    head[5] = (uint8_t)(v->vni >> 8);
    head[6] = (uint8_t)v->vni;
    part[0] = (struct iovec){head, HEADER};
    memcpy(part + 1, f->part, f->parts * sizeof *part);
    for (unsigned i = 0, got = 0; got < MAC_SIZE; i++) {
        size_t n = DP_MIN(f->part[i].iov_len, (size_t)(MAC_SIZE - got));
        memcpy(mac + got, f->part[i].iov_base, n);
        got += (unsigned)n;
    }
    unsigned count = destinations(v, mac, to);
    for (unsigned i = 0; i < count; i++) {
        struct msghdr m = {.msg_name = &to[i].address, .msg_namelen = to[i].size, .msg_iov = part, .msg_iovlen = f->parts + 1};
        ssize_t n;
        do
            n = sendmsg(v->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        atomic_fetch_add(n < 0 ? &v->lost : &v->out, 1);
    }
}

static unsigned receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        send_one(opaque, &frame[i]);
    return count;
}

static const struct dp_net_end vxlan_end = {receive, NULL, NULL};

/* ---- in ---- */

/* The frame in a datagram; false: it is none for us. */
static bool unwrap(struct dp_net_vxlan *v, const uint8_t *bytes, size_t size, const struct sockaddr_storage *from, unsigned from_size)
{
    if (size < HEADER + DP_NET_FRAME_MIN || size > HEADER + DP_NET_FRAME_MAX || !(bytes[0] & FLAG_VNI)) {
        atomic_fetch_add(&v->malformed, 1);
        return false;
    }
    if (((uint32_t)bytes[4] << 16 | (uint32_t)bytes[5] << 8 | bytes[6]) != v->vni) {
        atomic_fetch_add(&v->other_vni, 1);
        return false;
    }
    uint64_t now = dp_clock_now(v->clock);
    pthread_mutex_lock(&v->lock);
    struct remote *r = find_remote(v, from, now);
    if (!r && v->learn) {
        struct sockaddr_storage address = *from;
        set_port(&address, DP_VXLAN_PORT);
        r = add_remote(v, &address, from_size, false, now);
    }
    if (r) {
        r->seen = now;
        learn(v, bytes + HEADER + MAC_SIZE, r, now);
    }
    pthread_mutex_unlock(&v->lock);
    if (!r)
        atomic_fetch_add(&v->stranger, 1);
    return r;
}

static bool read_batch(struct dp_net_vxlan *v)
{
    for (unsigned i = 0; i < DP_NET_BATCH; i++)
        v->message[i].msg_hdr.msg_namelen = sizeof v->from[i];
    int n = recvmmsg(v->fd, v->message, DP_NET_BATCH, MSG_DONTWAIT, NULL);
    unsigned count = 0;
    for (int i = 0; i < n; i++) {
        uint8_t *bytes = v->read[i].iov_base;
        size_t size = v->message[i].msg_len;
        if (v->message[i].msg_hdr.msg_flags & MSG_TRUNC)
            size = 0;
        if (!unwrap(v, bytes, size, &v->from[i], v->message[i].msg_hdr.msg_namelen))
            continue;
        v->part[count] = (struct iovec){bytes + HEADER, size - HEADER};
        v->frame[count] = (struct dp_net_frame){.part = &v->part[count], .parts = 1, .size = (uint32_t)(size - HEADER)};
        count++;
    }
    atomic_fetch_add(&v->in, count);
    unsigned taken = count ? dp_net_send(&v->port, v->frame, count) : 0;
    atomic_fetch_add(&v->lost, count - taken);
    return n == DP_NET_BATCH;
}

static void on_event(void *opaque, int fd, uint32_t events)
{
    for (unsigned i = 0; i < ROUNDS && read_batch(opaque); i++)
        ;
}

/* ---- life ---- */

struct dp_net_port *dp_net_vxlan_port(struct dp_net_vxlan *v) { return &v->port; }

void dp_net_vxlan_stats(struct dp_net_vxlan *v, struct dp_net_vxlan_stats *out)
{
    uint64_t now = dp_clock_now(v->clock);
    *out = (struct dp_net_vxlan_stats){
        .in = v->in, .out = v->out, .malformed = v->malformed, .other_vni = v->other_vni, .stranger = v->stranger, .lost = v->lost};
    pthread_mutex_lock(&v->lock);
    for (unsigned i = 0; i < DP_VXLAN_REMOTES; i++)
        out->remotes += alive(&v->remote[i], now);
    for (unsigned i = 0; i < MACS; i++)
        out->macs += v->table[i].generation && now - v->table[i].seen < age_ns();
    pthread_mutex_unlock(&v->lock);
}

static int open_socket(struct dp_net_vxlan *v, const struct dp_net_vxlan_options *o, struct dp_error *e)
{
    struct sockaddr_storage local;
    unsigned local_size;
    int rc = dp_net_parse_address(o->local ? o->local : "0.0.0.0", DP_VXLAN_PORT, &local, &local_size, e);
    if (rc)
        return rc;
    for (unsigned i = 0; i < o->remotes; i++) {
        struct sockaddr_storage a;
        unsigned n;
        if ((rc = dp_net_parse_address(o->remote[i], DP_VXLAN_PORT, &a, &n, e)))
            return rc;
        if (a.ss_family != local.ss_family)
            return dp_error_set(e, -EINVAL, "VXLAN: %s is of another family than the local address", o->remote[i]);
        if (!add_remote(v, &a, n, true, 0))
            return dp_error_set(e, -E2BIG, "VXLAN: at most %d remote ends", DP_VXLAN_REMOTES);
    }
    v->fd = socket(local.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (v->fd < 0 || bind(v->fd, (struct sockaddr *)&local, local_size))
        return dp_error_set(e, -errno, "VXLAN: cannot listen on %s, UDP port %d: %s", o->local ? o->local : "all addresses", DP_VXLAN_PORT,
                            strerror(errno));
    dp_net_set_buffers(v->fd, BUFFER);
    return 0;
}

int dp_net_vxlan_create(struct dp_loop *l, const struct dp_net_vxlan_options *o, struct dp_net_vxlan **out, struct dp_error *e)
{
    if (o->vni > DP_VXLAN_VNI_MAX)
        return dp_error_set(e, -EINVAL, "VXLAN: a VNI is 0 to %d", DP_VXLAN_VNI_MAX);
    if (!o->remotes && !o->learn)
        return dp_error_set(e, -EINVAL, "VXLAN: name a remote end (remote=ADDRESS), or learn them (learn)");
    struct dp_net_vxlan *v = calloc(1, sizeof *v);
    if (!v || !(v->memory = malloc((size_t)DP_NET_BATCH * ROOM))) {
        free(v);
        return dp_error_set(e, -ENOMEM, "no memory for a network port");
    }
    v->loop = l;
    v->clock = o->clock;
    v->vni = o->vni;
    v->learn = o->learn;
    v->fd = -1;
    pthread_mutex_init(&v->lock, NULL);
    dp_net_port_init(&v->port, &vxlan_end, v, 0);
    for (unsigned i = 0; i < DP_NET_BATCH; i++) {
        v->read[i] = (struct iovec){v->memory + (size_t)i * ROOM, ROOM};
        v->message[i].msg_hdr = (struct msghdr){.msg_iov = &v->read[i], .msg_iovlen = 1, .msg_name = &v->from[i]};
    }
    int rc = open_socket(v, o, e);
    if (!rc && (rc = dp_loop_watch(l, v->fd, EPOLLIN, on_event, v))) {
        close(v->fd);
        v->fd = -1;
        dp_error_set(e, rc, "VXLAN: cannot watch the socket: %s", strerror(-rc));
    }
    if (rc)
        dp_net_vxlan_destroy(v);
    else
        *out = v;
    return rc;
}

void dp_net_vxlan_destroy(struct dp_net_vxlan *v)
{
    if (!v)
        return;
    dp_net_disconnect(&v->port);
    if (v->fd >= 0) {
        dp_loop_unwatch(v->loop, v->fd);
        close(v->fd);
    }
    pthread_mutex_destroy(&v->lock);
    free(v->memory);
    free(v);
}
