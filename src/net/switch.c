/* net/switch.c - see switch.h.
 *
 * A batch goes through in two steps. Under the lock each frame is judged (`judge`) and noted for the ports it goes to: a bit for the frame
 * in a word for the port. Without the lock each of those ports is sent its frames, with or without a tag (`shape`): the tag is a piece of
 * its own before the frame's bytes, which are never copied. What a port is sent was decided by the options of one moment: a batch carries
 * what it needs of them, and whoever changes options waits for the batches that began before (`settle`).
 */
#include "net/switch.h"

#include <pthread.h>
#include <stdlib.h>

#include "net/offload.h"
#include "net/switch_internal.h"

enum { MACS = 12, TAG = 4, TAGGED_HEADER = DP_NET_HEADER + TAG, DEI = 0x1000, VID = 0x0fff, PCP_SHIFT = 13 };
enum { ETHERTYPE_STAG = 0x88a8, ETHERTYPE_OLD_STAG = 0x9100, ACCEPTS = DP_NET_CHECKSUM | DP_NET_TSO4 | DP_NET_TSO6 | DP_NET_ECN };
enum { TSO = DP_NET_TSO4 | DP_NET_TSO6, WORDS = DP_SWITCH_PORTS / 64 };

/* How long an address must be where it moved to before it belongs there. In a shorter time a guest could make its neighbour's address its
 * own while that is silent, and have the neighbour blocked. */
#define HOME_NS (60 * DP_SWITCH_SECOND)

struct dp_switch_port {
    struct dp_switch *owner;
    struct dp_net_port net;
    struct dp_switch_port_options o;
    uint16_t id;
    bool plugged;
    uint8_t mirror_in, mirror_out; /* bit per mirror */
    struct dp_switch_bucket in, out, broadcasts, multicasts, unknowns;
    uint64_t blocked_until;
    uint64_t groups; /* security groups: bits; 0: not filtered */
    struct dp_switch_stats stats;
};

/* A batch under way. */
struct call {
    struct call *next, **link;
    pthread_t thread;
    uint64_t number;
};

struct scratch {
    struct scratch *next;
    struct dp_net_scratch s;
};

struct dp_switch {
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t left;  /* a batch is done, and somebody waits */
    struct dp_switch_options o;
    struct dp_switch_port *port[DP_SWITCH_PORTS], *mirror[DP_SWITCH_MIRRORS];
    struct dp_switch_port *used[DP_SWITCH_PORTS]; /* those that exist and are no mirrors, in no order */
    unsigned ports;
    struct dp_switch_table table;
    struct dp_switch_groups groups;
    struct dp_security *security; /* NULL: no port was ever in a group */
    struct call *calls;
    uint64_t numbers;
    unsigned waiters;
    struct scratch *scratch;
};

struct packet {
    const struct dp_net_frame *frame;
    const uint8_t *bytes; /* all of them */
    uint8_t *copy;        /* to be freed */
    uint32_t size;
    uint16_t type, network; /* behind the first tag */
    uint16_t vlan, tag;     /* the tag to leave with */
    bool tagged;            /* it came so */
    bool retag;             /* and leaves with another */
    bool tag_inside;
};

struct batch {
    struct call call;
    struct dp_switch *s;
    struct dp_switch_port *from;
    uint64_t now;
    unsigned count;
    struct packet packet[DP_NET_BATCH];
    uint64_t watched; /* frames for the mirrors of `from` */
    uint8_t mirror_in;
    struct dp_switch_port *mirror[DP_SWITCH_MIRRORS];
    dp_switch_set touched; /* ports with frames; the rest is valid for those */
    struct out {
        struct dp_switch_port *port;
        uint64_t frames;
        uint16_t untagged; /* the VLAN that leaves without a tag */
        uint8_t mirrors;
        uint32_t sent, lost;
        uint64_t bytes;
    } out[DP_SWITCH_PORTS];
};

const char *dp_switch_drop_name(enum dp_switch_drop d)
{
#define NAME(name, text) text,
    static const char *const names[] = {DP_SWITCH_DROPS(NAME)};
    return d < DP_SWITCH_DROP_COUNT ? names[d] : "?";
}

/* ---- who is in which VLAN ---- */

static unsigned own_vlan(const struct dp_switch_port *p) { return p->o.vlan; }
static bool is_member(const struct dp_switch_port *p, unsigned vlan)
{
    return vlan == p->o.vlan || (p->o.mode == DP_SWITCH_TRUNK && p->o.allowed[vlan / 64] >> vlan % 64 & 1);
}
static bool may_talk(const struct dp_switch_port *a, const struct dp_switch_port *b)
{
    return (!a->o.isolated || b->o.uplink) && (!b->o.isolated || a->o.uplink);
}
static bool is_tag(unsigned type) { return type == DP_NET_ETHERTYPE_VLAN || type == ETHERTYPE_STAG || type == ETHERTYPE_OLD_STAG; }
static uint64_t key_of(unsigned vlan, const uint8_t *mac)
{
    return (uint64_t)vlan << 48 | (uint64_t)dp_net_ld16(mac) << 32 | (uint64_t)dp_net_ld16(mac + 2) << 16 | dp_net_ld16(mac + 4);
}

/* ---- judging; under the lock ---- */

static bool drop(struct dp_switch_port *p, enum dp_switch_drop why)
{
    p->stats.drop[why]++;
    return false;
}

static bool is_sound(const struct dp_net_frame *f)
{
    if (f->size < DP_NET_FRAME_MIN || f->size > DP_NET_FRAME_MAX || f->work & ~(uint32_t)ACCEPTS)
        return false;
    if (f->work & TSO && !f->segment_size)
        return false;
    /* Offsets move with the tag: they are in the frame, behind where a tag is. */
    return !(f->work & DP_NET_CHECKSUM) ||
           (f->checksum_start >= DP_NET_HEADER && f->checksum_start < f->size && f->checksum_start <= UINT16_MAX - TAG);
}

/* Finds the VLAN. */
static bool classify(struct dp_switch_port *in, struct packet *p)
{
    unsigned type = dp_net_ld16(p->bytes + MACS), vlan = own_vlan(in), pcp = in->o.pcp, dei = 0, first = 0;
    p->tagged = type == DP_NET_ETHERTYPE_VLAN;
    p->network = DP_NET_HEADER;
    if (p->tagged) {
        if (p->size < TAGGED_HEADER || (p->frame->work & DP_NET_CHECKSUM && p->frame->checksum_start < TAGGED_HEADER))
            return drop(in, DP_SWITCH_DROP_SIZE);
        first = dp_net_ld16(p->bytes + DP_NET_HEADER);
        type = dp_net_ld16(p->bytes + DP_NET_HEADER + 2);
        p->network = TAGGED_HEADER;
        dei = first & DEI;
        if (!in->o.force_pcp)
            pcp = first >> PCP_SHIFT;
        if (first & VID) {
            vlan = first & VID;
            if (in->o.mode == DP_SWITCH_ACCESS && !in->o.own_tag)
                return drop(in, DP_SWITCH_DROP_VLAN);
        }
    }
    p->type = (uint16_t)type;
    p->tag_inside = is_tag(type);
    if (!vlan || vlan > DP_SWITCH_VLAN_MAX || !is_member(in, vlan) || (p->tag_inside && in->o.mode == DP_SWITCH_ACCESS))
        return drop(in, DP_SWITCH_DROP_VLAN);
    p->vlan = (uint16_t)vlan;
    p->tag = (uint16_t)(pcp << PCP_SHIFT | dei | vlan);
    p->retag = p->tagged && p->tag != first;
    return true;
}

static void block(struct dp_switch *s, struct dp_switch_port *p, uint64_t now)
{
    p->blocked_until = now + s->o.block_ns;
    p->stats.blocks++;
    dp_switch_table_flush(&s->table, p->id);
    dp_switch_groups_flush(&s->groups, p->id);
    dp_trace_guest(s->o.trace,
                   "switch: port %s is blocked: an address moved to and from it %u times in a second (a loop, or two "
                   "machines with one address)",
                   p->o.name, s->o.flap_limit);
}

static bool is_blocked(const struct dp_switch_port *p, uint64_t now) { return p->blocked_until > now; }

/* Notes where the source is. False: the port is blocked now. */
static bool learn(struct dp_switch *s, struct dp_switch_port *in, uint64_t key, uint64_t now)
{
    struct dp_switch_entry *e = dp_switch_table_find(&s->table, key, now);
    if (DP_LIKELY(e && e->port == in->id)) {
        e->seen = now;
        return true;
    }
    if (!e) {
        if (!dp_switch_table_add(&s->table, key, in->id, in->o.mac_limit, now))
            in->stats.not_learnt++;
        return true;
    }
    if (now - e->window > DP_SWITCH_SECOND) {
        e->window = now;
        e->moves = 0;
        if (now - e->moved > HOME_NS)
            e->home = e->port;
    }
    e->moved = now;
    struct dp_switch_port *home = s->port[e->home], *newer = in->id != e->home ? in : s->port[e->port];
    if (++e->moves < s->o.flap_limit || s->o.no_loop_guard || !home || !newer) {
        if (s->table.by_port[in->id] >= in->o.mac_limit) {
            in->stats.not_learnt++;
        } else {
            dp_switch_table_move(&s->table, e, in->id);
            e->seen = now;
        }
        return true;
    }
    struct dp_switch_port *culprit = newer->o.uplink && !home->o.uplink ? home : newer;
    e->moves = 0;
    if (culprit != in)
        dp_switch_table_move(&s->table, e, in->id);
    block(s, culprit, now);
    return culprit != in || drop(in, DP_SWITCH_DROP_BLOCKED);
}

/* Do the security groups of port p let the packet pass? peer: NULL: many. */
static bool is_allowed(struct batch *b, const struct packet *k, const struct dp_switch_port *p, const struct dp_switch_port *peer, bool out)
{
    struct dp_security_side side = {.port = p->id, .groups = p->groups, .peers = peer ? peer->groups : 0, .out = out};
    return DP_LIKELY(!p->groups) || dp_security_pass(b->s->security, &side, k->vlan, k->bytes, k->size, k->type, k->network, b->now);
}

/* Notes frame n for a port; what it refuses is counted there. */
static void add(struct batch *b, unsigned n, struct dp_switch_port *to)
{
    struct packet *p = &b->packet[n];
    bool untagged = p->vlan == own_vlan(to);
    if (is_blocked(to, b->now)) {
        drop(to, DP_SWITCH_DROP_BLOCKED);
        return;
    }
    if (untagged && p->tag_inside) {
        drop(to, DP_SWITCH_DROP_DOUBLE_TAG);
        return;
    }
    uint32_t behind = p->size - p->network, size = behind + (untagged ? DP_NET_HEADER : TAGGED_HEADER);
    if (size > DP_NET_FRAME_MAX || (b->s->o.mtu && behind > b->s->o.mtu && !(p->frame->work & TSO))) {
        drop(to, DP_SWITCH_DROP_TOO_BIG);
        return;
    }
    if (!is_allowed(b, p, to, b->from, false)) {
        drop(to, DP_SWITCH_DROP_SECURITY_IN);
        return;
    }
    if (!dp_switch_bucket_take(&to->out, size, b->now)) {
        drop(to, DP_SWITCH_DROP_RATE_OUT);
        return;
    }
    struct out *out = &b->out[to->id];
    uint64_t bit = 1ull << to->id % 64, *touched = &b->touched.bit[to->id / 64];
    if (!(*touched & bit)) {
        *touched |= bit;
        *out = (struct out){.port = to, .untagged = (uint16_t)own_vlan(to), .mirrors = to->mirror_out};
    }
    out->frames |= 1ull << n;
}

static void flood(struct batch *b, unsigned n, const dp_switch_set *set)
{
    struct dp_switch *s = b->s;
    for (unsigned i = 0; i < s->ports; i++) {
        struct dp_switch_port *to = s->used[i];
        if (to != b->from && to->plugged && is_member(to, b->packet[n].vlan) && may_talk(b->from, to) && dp_net_link(&to->net) &&
            (!set || set->bit[to->id / 64] >> to->id % 64 & 1))
            add(b, n, to);
    }
}

static bool judge(struct batch *b, unsigned n)
{
    struct dp_switch *s = b->s;
    struct dp_switch_port *in = b->from;
    struct packet *p = &b->packet[n];
    in->stats.in_frames++;
    in->stats.in_bytes += p->frame->size;
    if (in->o.mode == DP_SWITCH_MIRROR)
        return drop(in, DP_SWITCH_DROP_MIRROR);
    if (!p->bytes)
        return drop(in, DP_SWITCH_DROP_SIZE);
    if (is_blocked(in, b->now))
        return drop(in, DP_SWITCH_DROP_BLOCKED);
    b->watched |= 1ull << n;
    if (!classify(in, p))
        return false;
    if (!dp_switch_bucket_take(&in->in, p->size, b->now))
        return drop(in, DP_SWITCH_DROP_RATE_IN);
    const uint8_t *to = p->bytes, *from = p->bytes + 6;
    uint64_t target = key_of(p->vlan, to), source = key_of(p->vlan, from);
    if (from[0] & 1 || source << 16 == 0)
        return drop(in, DP_SWITCH_DROP_SOURCE);
    if (target << 16 >> 20 == 0x0180c200000)
        return drop(in, DP_SWITCH_DROP_RESERVED);
    if (!dp_switch_guard(&in->o, p->bytes, p->size, p->type, p->network))
        return drop(in, DP_SWITCH_DROP_SPOOF);
    if (!learn(s, in, source, b->now))
        return false;
    struct dp_switch_entry *e = to[0] & 1 ? NULL : dp_switch_table_find(&s->table, target, b->now);
    if (!is_allowed(b, p, in, e ? s->port[e->port] : NULL, true))
        return drop(in, DP_SWITCH_DROP_SECURITY_OUT);
    if (to[0] & 1) {
        dp_switch_set set;
        bool broadcast = target << 16 >> 16 == 0xffffffffffff;
        bool some = !broadcast && s->o.snooping &&
                    dp_switch_groups_route(&s->groups, in->id, p->vlan, p->bytes, p->size, p->type, p->network, b->now, &set);
        if (!dp_switch_bucket_take(broadcast ? &in->broadcasts : &in->multicasts, 1, b->now))
            return drop(in, DP_SWITCH_DROP_FLOOD);
        flood(b, n, some ? &set : NULL);
        return true;
    }
    struct dp_switch_port *there = e ? s->port[e->port] : NULL;
    if (there) {
        if (there == in)
            return drop(in, DP_SWITCH_DROP_LOCAL);
        if (!there->plugged || !is_member(there, p->vlan) || !may_talk(in, there))
            return drop(in, DP_SWITCH_DROP_ISOLATED);
        add(b, n, there);
        return true;
    }
    if (!dp_switch_bucket_take(&in->unknowns, 1, b->now))
        return drop(in, DP_SWITCH_DROP_FLOOD);
    flood(b, n, NULL);
    return true;
}

/* ---- sending; without the lock ---- */

struct shapes {
    struct dp_net_frame frame[DP_NET_BATCH];
    struct iovec part[DP_NET_BATCH][2];
    uint8_t header[DP_NET_BATCH][MACS + TAG];
};

static void shift(struct dp_net_frame *f, int by)
{
    f->size = (uint32_t)((int)f->size + by);
    if (f->work & DP_NET_CHECKSUM)
        f->checksum_start = (uint16_t)(f->checksum_start + by);
    if (f->header_size >= TAGGED_HEADER || by > 0)
        f->header_size = (uint16_t)DP_MIN(f->header_size + by, UINT16_MAX);
}

/* The frame as it leaves, with its tag or without. */
static void shape(const struct packet *p, bool tagged, struct shapes *to, unsigned n, unsigned index)
{
    struct dp_net_frame *f = &to->frame[n];
    struct iovec *part = to->part[n];
    *f = *p->frame;
    f->part = part;
    f->parts = 1;
    part[0] = (struct iovec){(void *)p->bytes, p->size};
    if (tagged == p->tagged && !(tagged && p->retag))
        return;
    uint32_t rest = p->tagged ? MACS + TAG : MACS;
    f->parts = 2;
    part[1] = (struct iovec){(void *)(p->bytes + rest), p->size - rest};
    part[0].iov_len = MACS;
    if (tagged) {
        uint8_t *header = to->header[index];
        memcpy(header, p->bytes, MACS);
        dp_net_st16(header + MACS, DP_NET_ETHERTYPE_VLAN);
        dp_net_st16(header + MACS + 2, p->tag);
        part[0] = (struct iovec){header, MACS + TAG};
    }
    if (tagged != p->tagged)
        shift(f, tagged ? TAG : -TAG);
}

static struct scratch *get_scratch(struct dp_switch *s)
{
    pthread_mutex_lock(&s->lock);
    struct scratch *x = s->scratch;
    if (x)
        s->scratch = x->next;
    pthread_mutex_unlock(&s->lock);
    return x ? x : malloc(sizeof *x);
}

static void put_scratch(struct dp_switch *s, struct scratch *x)
{
    pthread_mutex_lock(&s->lock);
    x->next = s->scratch;
    s->scratch = x;
    pthread_mutex_unlock(&s->lock);
}

/* Sends n frames and returns how many went. */
static unsigned send_frames(struct dp_switch *s, struct dp_switch_port *to, const struct dp_net_frame *frame, unsigned n)
{
    uint32_t work = 0, progress = 0;
    for (unsigned i = 0; i < n; i++)
        work |= frame[i].work;
    if (DP_LIKELY(!(work & ~dp_net_peer_accepts(&to->net))))
        return dp_net_send(&to->net, frame, n);
    struct scratch *x = get_scratch(s);
    if (!x)
        return 0;
    unsigned sent = dp_net_send_complete(&to->net, frame, n, &progress, &x->s);
    put_scratch(s, x);
    return sent;
}

/* What a mirror gets, and whether it took it, is counted there and nowhere else. */
static void send_mirrors(struct batch *b, unsigned mirrors, const struct dp_net_frame *frame, unsigned n)
{
    for (unsigned m = 0; mirrors >> m; m++) {
        struct dp_switch_port *to = mirrors >> m & 1 ? b->mirror[m] : NULL;
        if (!to)
            continue;
        unsigned sent = send_frames(b->s, to, frame, n);
        uint64_t bytes = 0;
        for (unsigned i = 0; i < sent; i++)
            bytes += frame[i].size;
        pthread_mutex_lock(&b->s->lock);
        to->stats.out_frames += sent;
        to->stats.out_bytes += bytes;
        to->stats.drop[DP_SWITCH_DROP_FULL] += n - sent;
        pthread_mutex_unlock(&b->s->lock);
    }
}

static void deliver(struct batch *b)
{
    struct shapes shapes;
    if (b->mirror_in && b->watched) {
        unsigned n = 0;
        for (uint64_t left = b->watched; left; left &= left - 1) {
            const struct packet *p = &b->packet[__builtin_ctzll(left)];
            shapes.frame[n] = *p->frame;
            shapes.frame[n].part = shapes.part[n];
            shapes.frame[n].parts = 1;
            shapes.part[n++][0] = (struct iovec){(void *)p->bytes, p->size};
        }
        send_mirrors(b, b->mirror_in, shapes.frame, n);
    }
    for (unsigned w = 0; w < WORDS; w++) {
        for (uint64_t ports = b->touched.bit[w]; ports; ports &= ports - 1) {
            struct out *out = &b->out[w * 64 + (unsigned)__builtin_ctzll(ports)];
            unsigned n = 0;
            for (uint64_t left = out->frames; left; left &= left - 1) {
                unsigned i = (unsigned)__builtin_ctzll(left);
                shape(&b->packet[i], b->packet[i].vlan != out->untagged, &shapes, n++, i);
            }
            out->sent = send_frames(b->s, out->port, shapes.frame, n);
            out->lost = n - out->sent;
            out->bytes = 0;
            for (unsigned i = 0; i < out->sent; i++)
                out->bytes += shapes.frame[i].size;
            if (out->mirrors)
                send_mirrors(b, out->mirrors, shapes.frame, n);
        }
    }
}

/* ---- a batch ---- */

/* False: this thread is inside the switch too often. */
static bool enter(struct batch *b)
{
    struct dp_switch *s = b->s;
    unsigned nest = 0;
    b->call.thread = pthread_self();
    for (struct call *c = s->calls; c; c = c->next)
        nest += pthread_equal(c->thread, b->call.thread) != 0;
    if (nest >= DP_SWITCH_NEST)
        return false;
    b->call.number = s->numbers++;
    b->call.next = s->calls;
    b->call.link = &s->calls;
    if (s->calls)
        s->calls->link = &b->call.next;
    s->calls = &b->call;
    return true;
}

static void leave(struct batch *b)
{
    struct dp_switch *s = b->s;
    *b->call.link = b->call.next;
    if (b->call.next)
        b->call.next->link = b->call.link;
    for (unsigned w = 0; w < WORDS; w++)
        for (uint64_t ports = b->touched.bit[w]; ports; ports &= ports - 1) {
            struct out *out = &b->out[w * 64 + (unsigned)__builtin_ctzll(ports)];
            out->port->stats.out_frames += out->sent;
            out->port->stats.out_bytes += out->bytes;
            out->port->stats.drop[DP_SWITCH_DROP_FULL] += out->lost;
        }
    if (s->waiters)
        pthread_cond_broadcast(&s->left);
}

/* Waits until the batches that are under way now are done. Under the lock. */
static void settle(struct dp_switch *s)
{
    uint64_t number = s->numbers;
    s->waiters++;
    for (;;) {
        struct call *c = s->calls;
        while (c && c->number >= number)
            c = c->next;
        if (!c)
            break;
        pthread_cond_wait(&s->left, &s->lock);
    }
    s->waiters--;
}

/* The frame's bytes in one piece; NULL: not sound. */
static void gather(struct packet *p, const struct dp_net_frame *f)
{
    p->frame = f;
    p->size = f->size;
    p->copy = NULL;
    p->bytes = NULL;
    if (!is_sound(f))
        return;
    if (DP_LIKELY(f->part[0].iov_len >= f->size)) {
        p->bytes = f->part[0].iov_base;
        return;
    }
    p->bytes = p->copy = malloc(f->size);
    if (p->copy)
        dp_net_gather(f, p->copy);
}

static void forward(struct dp_switch_port *in, const struct dp_net_frame *frame, unsigned count)
{
    struct batch b; /* what is not set here is set where it is used */
    b.s = in->owner;
    b.from = in;
    b.count = count;
    b.watched = 0;
    b.touched = (dp_switch_set){{0}};
    for (unsigned i = 0; i < count; i++)
        gather(&b.packet[i], &frame[i]);
    b.now = dp_clock_now(b.s->o.clock);
    pthread_mutex_lock(&b.s->lock);
    bool entered = enter(&b);
    if (entered) {
        for (unsigned i = 0; i < count; i++)
            judge(&b, i);
        b.mirror_in = in->mirror_in;
        for (unsigned i = 0; i < DP_SWITCH_MIRRORS; i++)
            b.mirror[i] = b.s->mirror[i] && b.s->mirror[i]->plugged ? b.s->mirror[i] : NULL;
    } else {
        in->stats.in_frames += count;
        in->stats.drop[DP_SWITCH_DROP_LOOP] += count;
    }
    pthread_mutex_unlock(&b.s->lock);
    if (entered) {
        deliver(&b);
        pthread_mutex_lock(&b.s->lock);
        leave(&b);
        pthread_mutex_unlock(&b.s->lock);
    }
    for (unsigned i = 0; i < count; i++)
        free(b.packet[i].copy);
}

static unsigned receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    for (unsigned done = 0; done < count; done += DP_NET_BATCH)
        forward(opaque, frame + done, DP_MIN(count - done, (unsigned)DP_NET_BATCH));
    return count;
}

static void forget(struct dp_switch_port *p)
{
    if (p->owner->security)
        dp_security_forget(p->owner->security, p->id);
    dp_switch_table_flush(&p->owner->table, p->id);
    dp_switch_groups_flush(&p->owner->groups, p->id);
}

static void link_changed(void *opaque, bool up)
{
    struct dp_switch_port *p = opaque;
    if (up)
        return;
    pthread_mutex_lock(&p->owner->lock);
    forget(p);
    pthread_mutex_unlock(&p->owner->lock);
}

static const struct dp_net_end end = {.receive = receive, .link = link_changed};

/* ---- configuration ---- */

int dp_switch_create(const struct dp_switch_options *o, struct dp_switch **out, struct dp_error *e)
{
    if (o->table_size > 1u << 24 || o->flap_limit > UINT16_MAX)
        return dp_error_set(e, -EINVAL, "switch: a table of at most 16777216 addresses and a flap limit of at most 65535, please");
    struct dp_switch *s = calloc(1, sizeof *s);
    if (!s)
        return dp_error_set(e, -ENOMEM, "switch: out of memory");
    s->o = *o;
    s->o.table_size = o->table_size ? o->table_size : 8192;
    s->o.age_ns = o->age_ns ? o->age_ns : 300 * DP_SWITCH_SECOND;
    s->o.flap_limit = o->flap_limit ? o->flap_limit : 10;
    s->o.block_ns = o->block_ns ? o->block_ns : 10 * DP_SWITCH_SECOND;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->left, NULL);
    dp_switch_groups_init(&s->groups);
    if (dp_switch_table_init(&s->table, s->o.table_size, s->o.age_ns)) {
        int rc = dp_error_set(e, -ENOMEM, "switch: out of memory for a table of %u addresses", s->o.table_size);
        dp_switch_destroy(s);
        return rc;
    }
    *out = s;
    return 0;
}

void dp_switch_destroy(struct dp_switch *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < DP_SWITCH_PORTS; i++)
        dp_switch_port_destroy(s->port[i]);
    for (struct scratch *x = s->scratch, *next; x; x = next) {
        next = x->next;
        free(x);
    }
    dp_switch_table_fini(&s->table);
    dp_security_destroy(s->security);
    pthread_cond_destroy(&s->left);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static int check_options(const struct dp_switch_port_options *o, struct dp_error *e)
{
    if (o->mode > DP_SWITCH_MIRROR)
        return dp_error_set(e, -EINVAL, "switch port %.31s: its mode is access, trunk or mirror", o->name);
    if (o->vlan > DP_SWITCH_VLAN_MAX)
        return dp_error_set(e, -EINVAL, "switch port %.31s: VLAN %u is not between 1 and 4094", o->name, o->vlan);
    if (o->pcp > 7)
        return dp_error_set(e, -EINVAL, "switch port %.31s: priority %u is not between 0 and 7", o->name, o->pcp);
    if (o->isolated && o->uplink)
        return dp_error_set(e, -EINVAL, "switch port %.31s: a port is isolated or an uplink, not both", o->name);
    if (o->macs > DP_SWITCH_ADDRESSES || o->ip4s > DP_SWITCH_ADDRESSES || o->ip6s > DP_SWITCH_ADDRESSES)
        return dp_error_set(e, -EINVAL, "switch port %.31s: at most %d addresses of a kind", o->name, DP_SWITCH_ADDRESSES);
    if (o->mode == DP_SWITCH_TRUNK && (o->allowed[0] & 1 || o->allowed[63] >> 63))
        return dp_error_set(e, -EINVAL, "switch port %.31s: VLANs 0 and 4095 are reserved", o->name);
    return 0;
}

/* Under the lock: the numbers of a port's security groups. */
static int find_groups(struct dp_switch *s, const struct dp_switch_port_options *o, uint64_t *groups, struct dp_error *e)
{
    *groups = 0;
    if (o->groups > DP_SWITCH_PORT_GROUPS)
        return dp_error_set(e, -EINVAL, "switch port %.31s: at most %d security groups", o->name, DP_SWITCH_PORT_GROUPS);
    if (o->groups && !s->security && !(s->security = dp_security_create()))
        return dp_error_set(e, -ENOMEM, "switch: out of memory");
    for (unsigned i = 0; i < o->groups; i++) {
        int n = dp_security_group(s->security, o->group[i]);
        if (n < 0)
            return dp_error_set(e, n, "switch port %.31s: '%.31s' cannot be a security group", o->name, o->group[i]);
        *groups |= 1ull << n;
    }
    return 0;
}

/* Under the lock. */
static void set_options(struct dp_switch_port *p, const struct dp_switch_port_options *o)
{
    uint64_t now = dp_clock_now(p->owner->o.clock);
    p->o = *o;
    p->o.name[sizeof p->o.name - 1] = 0;
    if (o->mode == DP_SWITCH_ACCESS && !o->vlan)
        p->o.vlan = 1;
    if (!o->mac_limit)
        p->o.mac_limit = DP_MAX(p->owner->o.table_size / 4, 1u);
    dp_switch_bucket_init(&p->in, o->in.bytes_per_second, o->in.burst, now);
    dp_switch_bucket_init(&p->out, o->out.bytes_per_second, o->out.burst, now);
    dp_switch_bucket_init(&p->broadcasts, o->broadcasts, 0, now);
    dp_switch_bucket_init(&p->multicasts, o->multicasts, 0, now);
    dp_switch_bucket_init(&p->unknowns, o->unknowns, 0, now);
    p->blocked_until = 0;
}

static int add_port(struct dp_switch *s, struct dp_switch_port *p, struct dp_error *e)
{
    unsigned id = 0, mirror = 0;
    while (id < DP_SWITCH_PORTS && s->port[id])
        id++;
    if (id == DP_SWITCH_PORTS)
        return dp_error_set(e, -ENOSPC, "switch: it has %d ports already", DP_SWITCH_PORTS);
    if (p->o.mode == DP_SWITCH_MIRROR) {
        while (mirror < DP_SWITCH_MIRRORS && s->mirror[mirror])
            mirror++;
        if (mirror == DP_SWITCH_MIRRORS)
            return dp_error_set(e, -ENOSPC, "switch: it has %d mirror ports already", DP_SWITCH_MIRRORS);
        s->mirror[mirror] = p;
    } else {
        s->used[s->ports++] = p;
    }
    p->id = (uint16_t)id;
    s->port[id] = p;
    return 0;
}

int dp_switch_port_create(struct dp_switch *s, const struct dp_switch_port_options *o, struct dp_switch_port **out, struct dp_error *e)
{
    int error = check_options(o, e);
    if (error)
        return error;
    struct dp_switch_port *p = calloc(1, sizeof *p);
    if (!p)
        return dp_error_set(e, -ENOMEM, "switch: out of memory");
    p->owner = s;
    dp_net_port_init(&p->net, &end, p, ACCEPTS);
    pthread_mutex_lock(&s->lock);
    if (!(error = find_groups(s, o, &p->groups, e))) {
        set_options(p, o);
        error = add_port(s, p, e);
    }
    pthread_mutex_unlock(&s->lock);
    if (error) {
        free(p);
        return error;
    }
    *out = p;
    return 0;
}

void dp_switch_port_destroy(struct dp_switch_port *p)
{
    if (!p)
        return;
    struct dp_switch *s = p->owner;
    dp_switch_port_disconnect(p);
    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < s->ports; i++)
        if (s->used[i] == p)
            s->used[i] = s->used[--s->ports];
    for (unsigned m = 0; m < DP_SWITCH_MIRRORS; m++) {
        if (s->mirror[m] != p)
            continue;
        s->mirror[m] = NULL;
        for (unsigned i = 0; i < DP_SWITCH_PORTS; i++)
            if (s->port[i]) {
                s->port[i]->mirror_in &= (uint8_t) ~(1u << m);
                s->port[i]->mirror_out &= (uint8_t) ~(1u << m);
            }
    }
    s->port[p->id] = NULL;
    forget(p);
    settle(s);
    pthread_mutex_unlock(&s->lock);
    free(p);
}

int dp_switch_port_set(struct dp_switch_port *p, const struct dp_switch_port_options *o, struct dp_error *e)
{
    int error = check_options(o, e);
    if (error)
        return error;
    if ((o->mode == DP_SWITCH_MIRROR) != (p->o.mode == DP_SWITCH_MIRROR))
        return dp_error_set(e, -EINVAL, "switch port %.31s: a port stays a mirror or none; make another port", p->o.name);
    pthread_mutex_lock(&p->owner->lock);
    uint64_t groups;
    if (!(error = find_groups(p->owner, o, &groups, e))) {
        p->groups = groups;
        set_options(p, o);
        forget(p);
        settle(p->owner);
    }
    pthread_mutex_unlock(&p->owner->lock);
    return error;
}

int dp_switch_port_connect(struct dp_switch_port *p, struct dp_net_port *peer, struct dp_error *e)
{
    int error = dp_net_connect(&p->net, peer, e);
    if (error)
        return error;
    pthread_mutex_lock(&p->owner->lock);
    p->plugged = true;
    pthread_mutex_unlock(&p->owner->lock);
    return 0;
}

void dp_switch_port_disconnect(struct dp_switch_port *p)
{
    pthread_mutex_lock(&p->owner->lock);
    p->plugged = false;
    settle(p->owner);
    pthread_mutex_unlock(&p->owner->lock);
    dp_net_disconnect(&p->net);
}

void dp_switch_port_stats(struct dp_switch_port *p, struct dp_switch_stats *out)
{
    struct dp_switch *s = p->owner;
    pthread_mutex_lock(&s->lock);
    *out = p->stats;
    out->macs = s->table.by_port[p->id];
    out->blocked = is_blocked(p, dp_clock_now(s->o.clock));
    pthread_mutex_unlock(&s->lock);
}

int dp_switch_set_group(struct dp_switch *s, const char *group, const char *rules, struct dp_error *e)
{
    pthread_mutex_lock(&s->lock);
    int rc = s->security || (s->security = dp_security_create()) ? dp_security_set(s->security, group, rules, e)
                                                                 : dp_error_set(e, -ENOMEM, "switch: out of memory");
    pthread_mutex_unlock(&s->lock);
    return rc;
}

const char *dp_switch_group_name(struct dp_switch *s, unsigned i, char **rules)
{
    pthread_mutex_lock(&s->lock);
    const char *name = s->security ? dp_security_name(s->security, i) : NULL; /* groups are never taken away */
    *rules = name ? strdup(dp_security_text(s->security, i)) : NULL;
    pthread_mutex_unlock(&s->lock);
    return name;
}

int dp_switch_mirror(struct dp_switch_port *from, struct dp_switch_port *to, bool in, bool out, struct dp_error *e)
{
    struct dp_switch *s = from->owner;
    unsigned m = 0;
    pthread_mutex_lock(&s->lock);
    while (m < DP_SWITCH_MIRRORS && s->mirror[m] != to)
        m++;
    bool fine = m < DP_SWITCH_MIRRORS && from->o.mode != DP_SWITCH_MIRROR;
    if (fine) {
        unsigned bit = 1u << m;
        from->mirror_in = (uint8_t)((from->mirror_in & ~bit) | (in ? bit : 0));
        from->mirror_out = (uint8_t)((from->mirror_out & ~bit) | (out ? bit : 0));
        settle(s);
    }
    pthread_mutex_unlock(&s->lock);
    if (fine)
        return 0;
    return dp_error_set(e, -EINVAL, "switch port %s cannot be watched by port %s: the second must be a mirror port, the first none",
                        from->o.name, to->o.name);
}

struct dp_switch_port *dp_switch_find(struct dp_switch *s, unsigned vlan, const uint8_t mac[6])
{
    pthread_mutex_lock(&s->lock);
    struct dp_switch_entry *e = dp_switch_table_find(&s->table, key_of(vlan, mac), dp_clock_now(s->o.clock));
    struct dp_switch_port *p = e ? s->port[e->port] : NULL;
    pthread_mutex_unlock(&s->lock);
    return p;
}

void dp_switch_flush(struct dp_switch *s)
{
    pthread_mutex_lock(&s->lock);
    dp_switch_table_flush(&s->table, DP_SWITCH_PORTS);
    dp_switch_groups_flush(&s->groups, DP_SWITCH_PORTS);
    pthread_mutex_unlock(&s->lock);
}
