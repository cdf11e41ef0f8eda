/* devices/virtio/virtio_net.c - a network card.
 *
 * Model: queue 2n of pair n receives, 2n + 1 transmits; behind the pairs (behind the first, for a driver without F_MQ) one controls. Frames
 * to transmit are copied out of guest memory once, a batch at a time, by one thread at a time for each pair (`transmitting`), and sent with
 * no lock held, so pairs send side by side; work that the driver left to do and the peer does not accept is done in software
 * (net/offload.h). When the peer takes fewer, the rest goes back into the ring, with tx_pieces telling how much of the first went; the
 * peer's `ready` goes on. A frame that comes goes to the pair that its connection was last sent from (5.1.6.5.6), else to one by its
 * hash. Frames that come are written to the ring under the lock, in the sender's thread, and
 * shown to the driver a batch at a time; with no buffers left the sender keeps them, and a kick of the receive queue tells it. A card
 * whose driver is not up drops what comes; a paused one takes nothing.
 * Invariants: nothing but the registers outlives a pause; a frame is never half visible. The filter's tables are fixed in size: what does
 * not fit opens the filter. What port.accepts says follows from what the driver agreed to, and a frame with other work is dropped.
 * Source: Virtio 1.2 section 5.1 (5.1.3 features, 5.1.4 configuration, 5.1.6 operation, 5.1.6.5 control queue).
 */
#include <stdlib.h>

#include "devices/virtio/virtio.h"
#include "net/offload.h"

enum { RECEIVE, TRANSMIT, PAIR }; /* queue n of pair p: PAIR * p + n; of one pair control follows */
enum { PAIRS_MAX = 8, STEER = 256 };
enum { QUEUE_SIZE = 256, MAC = 6, TABLE = 64, VLANS = 4096, ARENA = 256 << 10, BATCHES_AT_ONCE = 64, CONTROL_MAX = 4096 };

enum {
    F_CSUM = 0,
    F_GUEST_CSUM = 1,
    F_CTRL_GUEST_OFFLOADS = 2,
    F_MTU = 3,
    F_MAC = 5,
    F_GUEST_TSO4 = 7,
    F_GUEST_TSO6 = 8,
    F_GUEST_ECN = 9,
    F_HOST_TSO4 = 11,
    F_HOST_TSO6 = 12,
    F_HOST_ECN = 13,
    F_MRG_RXBUF = 15,
    F_STATUS = 16,
    F_CTRL_VQ = 17,
    F_CTRL_RX = 18,
    F_CTRL_VLAN = 19,
    F_CTRL_RX_EXTRA = 20,
    F_GUEST_ANNOUNCE = 21,
    F_MQ = 22,
    F_CTRL_MAC_ADDR = 23,
    F_SPEED_DUPLEX = 63
};
#define BIT(f) (1ull << (f))
#define GUEST_OFFLOADS (BIT(F_GUEST_CSUM) | BIT(F_GUEST_TSO4) | BIT(F_GUEST_TSO6) | BIT(F_GUEST_ECN))
/* struct virtio_net_config */
enum { CONFIG_MAC = 0, CONFIG_STATUS = 6, CONFIG_PAIRS = 8, CONFIG_MTU = 10, CONFIG_SPEED = 12, CONFIG_DUPLEX = 16, CONFIG_SIZE = 20 };
enum { S_LINK_UP = 1, S_ANNOUNCE = 2, SPEED_MBIT = 10000, DUPLEX_FULL = 1 };
/* struct virtio_net_hdr */
enum {
    HDR_FLAGS = 0,
    HDR_GSO_TYPE = 1,
    HDR_LEN = 2,
    HDR_GSO_SIZE = 4,
    HDR_CSUM_START = 6,
    HDR_CSUM_OFFSET = 8,
    HDR_NUM_BUFFERS = 10,
    HDR_SIZE = 12
};
enum { HDR_F_NEEDS_CSUM = 1, GSO_NONE = 0, GSO_TCPV4 = 1, GSO_TCPV6 = 4, GSO_ECN = 0x80 };
/* control commands */
enum { CTRL_RX = 0, CTRL_MAC = 1, CTRL_VLAN = 2, CTRL_ANNOUNCE = 3, CTRL_MQ = 4, CTRL_GUEST_OFFLOADS = 5 };
enum { RX_PROMISC, RX_ALLMULTI, RX_ALLUNI, RX_NOMULTI, RX_NOUNI, RX_NOBCAST, RX_MODES };
enum {
    MAC_TABLE_SET = 0,
    MAC_ADDR_SET = 1,
    VLAN_ADD = 0,
    VLAN_DEL = 1,
    ANNOUNCE_ACK = 0,
    VQ_PAIRS_SET = 0,
    GUEST_OFFLOADS_SET = 0,
    CTRL_OK = 0,
    CTRL_ERR = 1
};
enum { VLAN_TAG_SIZE = 4 };

struct net_regs {
    struct dp_virtio_regs virtio;
    uint8_t mac[MAC];
    uint8_t rx_mode;            /* bit per RX_... */
    uint8_t table[TABLE * MAC]; /* unicast addresses, then multicast ones */
    uint8_t table_unicast, table_multicast;
    bool unicast_overflow, multicast_overflow;
    uint8_t vlan[VLANS / 8]; /* bit per VLAN that passes */
    uint64_t guest_offloads; /* of GUEST_OFFLOADS */
    bool announce;           /* the guest shall announce itself */
    uint32_t tx_pieces[PAIRS_MAX]; /* of the pair's next frame to transmit, that went already */
    uint8_t pairs;                 /* in use */
    uint8_t steer[STEER];          /* by flow: 1 + the pair it was last sent from; 0: none */
};

/* Belongs to whoever transmits from the pair, but for the two flags, which are under the lock. */
struct pair {
    bool transmitting, transmit_again;
    struct dp_virtio_request output;
    struct dp_net_frame frame[DP_NET_BATCH];
    struct iovec part[DP_NET_BATCH];
    struct dp_virtio_used sent[DP_NET_BATCH];
    struct dp_net_scratch scratch;
    uint8_t arena[ARENA];
};

struct virtio_net {
    struct dp_virtio_device base;
    struct net_regs regs;
    uint8_t mac[MAC]; /* the card's own */
    uint64_t mtu;     /* property; 0: not told */
    struct dp_net_port port;
    uint64_t pairs;    /* property */
    bool kick;         /* for `deferred`: there are buffers again */
    uint32_t transmit; /* likewise, a bit per pair: there may be frames to send */
    struct dp_virtio_request request, more; /* scratch of the receiving side and of control, under the lock */
    struct dp_virtio_used used[QUEUE_SIZE];
    uint8_t whole[DP_NET_FRAME_MAX]; /* likewise */
    struct pair *pair[PAIRS_MAX]; /* as many as the property says */
};

static int net_check(const void *regs, struct dp_error *e)
{
    const struct net_regs *r = regs;
    if (!r->pairs || r->pairs > PAIRS_MAX)
        return dp_error_set(e, -EINVAL, "%u pairs of network queues are impossible", r->pairs);
    return r->table_unicast + r->table_multicast <= TABLE
               ? 0
               : dp_error_set(e, -EINVAL, "a table of %u network addresses is impossible", r->table_unicast + r->table_multicast);
}

static void net_clamp(void *regs)
{
    struct net_regs *r = regs;
    r->table_unicast %= TABLE / 2;
    r->table_multicast %= TABLE / 2;
    r->pairs = r->pairs % PAIRS_MAX + 1;
}

static const struct dp_field net_fields[] = {
    DP_FIELD_STRUCT(struct net_regs, virtio, 1, &dp_virtio_regs_table),
    DP_FIELD_BYTES(struct net_regs, mac, 2),
    DP_FIELD_U8(struct net_regs, rx_mode, 3, 1 << RX_PROMISC, (1 << RX_MODES) - 1),
    DP_FIELD_BYTES(struct net_regs, table, 4),
    DP_FIELD_U8(struct net_regs, table_unicast, 5, 0, 0),
    DP_FIELD_U8(struct net_regs, table_multicast, 6, 0, 0),
    DP_FIELD_BOOL(struct net_regs, unicast_overflow, 7, false),
    DP_FIELD_BOOL(struct net_regs, multicast_overflow, 8, false),
    DP_FIELD_BYTES(struct net_regs, vlan, 9),
    DP_FIELD_U64(struct net_regs, guest_offloads, 10, 0, GUEST_OFFLOADS),
    DP_FIELD_BOOL(struct net_regs, announce, 11, false),
    /* One array in two fields: states of cards with one pair still load. */
    {"tx_pieces", 12, DP_KIND_U32, offsetof(struct net_regs, tx_pieces), 1, sizeof(uint32_t), 0, 0, NULL},
    DP_FIELD_U8(struct net_regs, pairs, 13, 1, 0),
    DP_FIELD_BYTES(struct net_regs, steer, 14),
    {"tx_pieces_more", 15, DP_KIND_U32, offsetof(struct net_regs, tx_pieces[1]), PAIRS_MAX - 1, sizeof(uint32_t), 0, 0, NULL},
};
static const struct dp_state_table net_table =
    DP_STATE_TABLE(struct net_regs, "virtio-net", net_fields, .check = net_check, .clamp = net_clamp);

static const struct dp_property net_properties[] = {
    {"mtu", "the largest packet that the guest shall use, told to it (0: not told)", DP_PROP_UINT, offsetof(struct virtio_net, mtu), 0, 0,
     65535},
    {"queues", "pairs of queues, 1 to 8", DP_PROP_UINT, offsetof(struct virtio_net, pairs), 1, 1, PAIRS_MAX},
};

static struct virtio_net *net_of(struct dp_virtio *v) { return DP_CONTAINER_OF(v, struct virtio_net, base.virtio); }

/* Lock held, for both: how many pairs the driver knows of, and where its control queue is. */
static unsigned pairs_known(const struct virtio_net *n) { return dp_virtio_has(&n->base.virtio, F_MQ) ? (unsigned)n->pairs : 1; }
static unsigned control_queue(const struct virtio_net *n) { return PAIR * pairs_known(n); }

/* Lock held: what peers may leave to do follows from what the driver can do. */
static void publish(struct virtio_net *n)
{
    uint64_t o = n->regs.guest_offloads;
    uint32_t accepts = o & BIT(F_GUEST_CSUM) ? DP_NET_CHECKSUM : 0;
    if (accepts)
        accepts |=
            (o & BIT(F_GUEST_TSO4) ? DP_NET_TSO4 : 0) | (o & BIT(F_GUEST_TSO6) ? DP_NET_TSO6 : 0) | (o & BIT(F_GUEST_ECN) ? DP_NET_ECN : 0);
    dp_net_set_accepts(&n->port, accepts);
}

/* ---- receiving; lock held ---- */

static bool in_table(const struct net_regs *r, unsigned first, unsigned count, const uint8_t *mac)
{
    for (unsigned i = first; i < first + count; i++)
        if (!memcmp(r->table + i * MAC, mac, MAC))
            return true;
    return false;
}

/* Does the filter let it pass? */
static bool wanted(const struct virtio_net *n, const struct dp_net_frame *f)
{
    static const uint8_t broadcast[MAC] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const struct net_regs *r = &n->regs;
    uint8_t h[DP_NET_HEADER + VLAN_TAG_SIZE];
    if (f->size < DP_NET_FRAME_MIN || f->size > DP_NET_FRAME_MAX || (f->work & ~n->port.accepts))
        return false;
    if (r->rx_mode & 1 << RX_PROMISC)
        return true;
    struct dp_net_frame start = {.part = f->part, .parts = f->parts, .size = DP_MIN(f->size, (uint32_t)sizeof(h))};
    dp_net_gather(&start, h);
    if (dp_virtio_has(&n->base.virtio, F_CTRL_VLAN) && start.size == sizeof(h) && dp_net_ld16(h + 12) == DP_NET_ETHERTYPE_VLAN) {
        unsigned id = dp_net_ld16(h + 14) & (VLANS - 1);
        if (!(r->vlan[id / 8] >> id % 8 & 1))
            return false;
    }
    if (!memcmp(h, broadcast, MAC))
        return !(r->rx_mode & 1 << RX_NOBCAST);
    if (h[0] & 1)
        return !(r->rx_mode & 1 << RX_NOMULTI) &&
               ((r->rx_mode & 1 << RX_ALLMULTI) || r->multicast_overflow || in_table(r, r->table_unicast, r->table_multicast, h));
    return !(r->rx_mode & 1 << RX_NOUNI) &&
           ((r->rx_mode & 1 << RX_ALLUNI) || r->unicast_overflow || !memcmp(h, r->mac, MAC) || in_table(r, 0, r->table_unicast, h));
}

/* The header of virtio's for a frame with that work; the frame's bytes may become a completed copy. False: it makes no sense. */
static bool make_header(struct virtio_net *n, const struct dp_net_frame *f, uint8_t h[HDR_SIZE], const struct iovec **part, unsigned *parts,
                        struct iovec *copy)
{
    memset(h, 0, HDR_SIZE);
    *part = f->part;
    *parts = f->parts;
    if (f->work & (DP_NET_TSO4 | DP_NET_TSO6)) {
        struct dp_net_layout l;
        dp_net_gather(f, n->whole);
        if (!dp_net_whole_tso(f, n->whole, &l))
            return false;
        enum { TCP_CHECKSUM = 16 };
        dp_st16(n->whole + l.transport + TCP_CHECKSUM, ~dp_net_fold(dp_net_pseudo_sum(n->whole, &l, l.end - l.transport)));
        *copy = (struct iovec){n->whole, f->size};
        *part = copy;
        *parts = 1;
        h[HDR_FLAGS] = HDR_F_NEEDS_CSUM;
        h[HDR_GSO_TYPE] = (f->work & DP_NET_TSO4 ? GSO_TCPV4 : GSO_TCPV6) | (f->work & DP_NET_ECN ? GSO_ECN : 0);
        dp_st16(h + HDR_LEN, l.payload);
        dp_st16(h + HDR_GSO_SIZE, f->segment_size);
        dp_st16(h + HDR_CSUM_START, l.transport);
        dp_st16(h + HDR_CSUM_OFFSET, TCP_CHECKSUM);
    } else if (f->work & DP_NET_CHECKSUM) {
        if ((uint32_t)f->checksum_start + f->checksum_offset + 2 > f->size)
            return false;
        h[HDR_FLAGS] = HDR_F_NEEDS_CSUM;
        dp_st16(h + HDR_CSUM_START, f->checksum_start);
        dp_st16(h + HDR_CSUM_OFFSET, f->checksum_offset);
    }
    return true;
}

/* What is still to be written of a frame: pieces, and an offset into the first. */
struct rest {
    const struct iovec *part;
    unsigned parts;
    size_t offset;
};

static bool write_rest(struct dp_virtio *v, const struct dp_virtio_request *r, uint64_t at, uint64_t bytes, struct rest *rest)
{
    while (bytes) {
        while (rest->parts && rest->offset == rest->part->iov_len) {
            rest->part++;
            rest->parts--;
            rest->offset = 0;
        }
        if (!rest->parts)
            return false;
        uint64_t n = DP_MIN(bytes, rest->part->iov_len - rest->offset);
        if (dp_virtio_write(v, r, at, (uint8_t *)rest->part->iov_base + rest->offset, n) < n)
            return false;
        rest->offset += n;
        at += n;
        bytes -= n;
    }
    return true;
}

enum { DELIVERED, NO_BUFFERS };

/* The queue that a frame goes to. */
static unsigned steer(const struct virtio_net *n, const struct dp_net_frame *f)
{
    unsigned active = DP_MIN(pairs_known(n), (unsigned)n->regs.pairs);
    if (active == 1)
        return RECEIVE;
    uint32_t flow = dp_net_flow(f);
    unsigned pair = n->regs.steer[flow % STEER];
    return PAIR * (pair && pair <= active ? pair - 1 : flow % active) + RECEIVE;
}

/* Writes a frame into the queue's next buffers and notes them in n->used; all of them or none. */
static int deliver(struct virtio_net *n, unsigned queue, const struct dp_net_frame *f, unsigned *used)
{
    struct dp_virtio *v = &n->base.virtio;
    uint8_t header[HDR_SIZE];
    struct iovec copy;
    struct rest rest = {0};
    if (!make_header(n, f, header, &rest.part, &rest.parts, &copy))
        return DELIVERED;
    uint64_t total = HDR_SIZE + (uint64_t)f->size, done = 0;
    unsigned buffers = 0;
    int result = DELIVERED;
    while (done < total) {
        struct dp_virtio_request *r = buffers ? &n->more : &n->request;
        if (buffers == QUEUE_SIZE) {
            dp_trace_guest(n->base.device.env->trace, "%s: a frame of %u bytes is lost: all buffers together are too small",
                           n->base.device.id, f->size);
            break;
        }
        int got = *used + buffers < QUEUE_SIZE ? dp_virtio_pop(v, queue, r) : 0;
        if (got <= 0) {
            result = got ? DELIVERED : NO_BUFFERS; /* -1: there is no one to deliver it to */
            break;
        }
        n->used[*used + buffers++].head = r->head;
        uint64_t bytes = DP_MIN(total - done, r->in_bytes), skip = done ? 0 : HDR_SIZE;
        if (!r->in_bytes || bytes < skip) {
            dp_virtio_broken(v, "a receive buffer of %llu bytes", (unsigned long long)r->in_bytes);
            break;
        }
        if (bytes < total && !dp_virtio_has(v, F_MRG_RXBUF)) {
            dp_trace_guest(n->base.device.env->trace, "%s: a frame of %u bytes is lost: the driver's buffer has %llu", n->base.device.id,
                           f->size, (unsigned long long)r->in_bytes);
            break;
        }
        if ((skip && dp_virtio_write(v, r, 0, header, HDR_SIZE) < HDR_SIZE) || !write_rest(v, r, skip, bytes - skip, &rest)) {
            dp_virtio_broken(v, "a receive buffer is not in RAM");
            break;
        }
        n->used[*used + buffers - 1].written = bytes;
        done += bytes;
    }
    if (done < total) {
        while (buffers--)
            dp_virtio_unpop(v, queue);
        return result;
    }
    uint8_t count[2];
    dp_st16(count, dp_virtio_has(v, F_MRG_RXBUF) ? buffers : 1);
    dp_virtio_write(v, &n->request, HDR_NUM_BUFFERS, count, sizeof(count));
    *used += buffers;
    return DELIVERED;
}

static unsigned net_receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct virtio_net *n = opaque;
    struct dp_virtio *v = &n->base.virtio;
    unsigned taken = 0, used = 0, queue = RECEIVE;
    dp_virtio_lock(v);
    if (v->paused) {
        dp_virtio_unlock(v);
        return 0; /* resume says when */
    }
    while (taken < count && dp_virtio_running(v)) {
        if (!wanted(n, &frame[taken])) {
            taken++;
            continue;
        }
        unsigned next = steer(n, &frame[taken]);
        if (next != queue) {
            dp_virtio_push_all(v, queue, n->used, used);
            used = 0;
            queue = next;
        }
        if (deliver(n, queue, &frame[taken], &used) == DELIVERED) {
            taken++;
        } else if (used) { /* look again when the driver may have them back: that look also asks it for a kick */
            dp_virtio_push_all(v, queue, n->used, used);
            used = 0;
        } else {
            break;
        }
    }
    if (!dp_virtio_running(v))
        taken = count;
    dp_virtio_push_all(v, queue, n->used, used);
    dp_virtio_unlock(v);
    return taken;
}

/* ---- transmitting ---- */

/* What the driver's header leaves to do. A frame that makes no sense gets a size of 0, which is sent to nowhere. */
static void understand(struct virtio_net *n, const uint8_t h[HDR_SIZE], struct dp_net_frame *f)
{
    struct dp_virtio *v = &n->base.virtio;
    unsigned type = h[HDR_GSO_TYPE] & ~GSO_ECN;
    bool checksum = h[HDR_FLAGS] & HDR_F_NEEDS_CSUM, ecn = h[HDR_GSO_TYPE] & GSO_ECN;
    bool allowed = (!checksum || dp_virtio_has(v, F_CSUM)) && (!ecn || (type != GSO_NONE && dp_virtio_has(v, F_HOST_ECN)));
    f->checksum_start = dp_ld16(h + HDR_CSUM_START);
    f->checksum_offset = dp_ld16(h + HDR_CSUM_OFFSET);
    f->work = checksum ? DP_NET_CHECKSUM : 0;
    if (type != GSO_NONE) {
        f->header_size = dp_ld16(h + HDR_LEN);
        f->segment_size = dp_ld16(h + HDR_GSO_SIZE);
        f->work |= (type == GSO_TCPV4 ? DP_NET_TSO4 : DP_NET_TSO6) | (ecn ? DP_NET_ECN : 0);
        allowed &= checksum && f->segment_size &&
                   ((type == GSO_TCPV4 && dp_virtio_has(v, F_HOST_TSO4)) || (type == GSO_TCPV6 && dp_virtio_has(v, F_HOST_TSO6)));
    }
    if (allowed && f->size >= DP_NET_FRAME_MIN && f->size <= DP_NET_FRAME_MAX)
        return;
    dp_trace_guest(n->base.device.env->trace, "%s: a frame of %u bytes with flags 0x%x, segmentation %u is dropped", n->base.device.id,
                   f->size, h[HDR_FLAGS], h[HDR_GSO_TYPE]);
    f->size = f->work = 0;
}

/* Takes a pair's requests into its arena. Lock held. Returns how many. */
static unsigned take_batch(struct virtio_net *n, unsigned pair)
{
    struct dp_virtio *v = &n->base.virtio;
    struct pair *p = n->pair[pair];
    struct dp_virtio_request *r = &p->output;
    bool steering = pairs_known(n) > 1 && n->regs.pairs > 1;
    unsigned count = 0;
    size_t at = 0;
    while (count < DP_NET_BATCH && ARENA - at >= DP_NET_FRAME_MAX && dp_virtio_pop(v, PAIR * pair + TRANSMIT, r) > 0) {
        uint8_t header[HDR_SIZE];
        struct dp_net_frame *f = &p->frame[count];
        uint64_t size = r->out_bytes >= HDR_SIZE ? r->out_bytes - HDR_SIZE : 0;
        bool fits = size <= DP_NET_FRAME_MAX;
        p->sent[count] = (struct dp_virtio_used){r->head, 0};
        p->part[count] = (struct iovec){p->arena + at, fits ? size : 0};
        *f = (struct dp_net_frame){.part = &p->part[count], .parts = 1, .size = DP_MIN(size, UINT32_MAX)};
        count++;
        if (r->out_bytes < HDR_SIZE || dp_virtio_read(v, r, 0, header, HDR_SIZE) < HDR_SIZE ||
            (fits && dp_virtio_read(v, r, HDR_SIZE, p->arena + at, size) < size)) {
            dp_virtio_broken(v, "a frame of %llu bytes without a header, or not in RAM", (unsigned long long)r->out_bytes);
            f->size = 0;
            break;
        }
        understand(n, header, f);
        if (steering && f->size)
            n->regs.steer[dp_net_flow(f) % STEER] = (uint8_t)(pair + 1);
        at += f->size;
    }
    return count;
}

/* Sends a batch. False: nothing to do, or the peer is full. Lock held on entry and exit, not in between. */
static bool transmit_batch(struct virtio_net *n, unsigned pair)
{
    struct dp_virtio *v = &n->base.virtio;
    struct pair *p = n->pair[pair];
    unsigned count = take_batch(n, pair), queue = PAIR * pair + TRANSMIT;
    if (!count)
        return false;
    uint32_t pieces = n->regs.tx_pieces[pair];
    dp_virtio_unlock(v);
    unsigned sent = dp_net_send_complete(&n->port, p->frame, count, &pieces, &p->scratch);
    dp_virtio_lock(v);
    n->regs.tx_pieces[pair] = pieces; /* a reset waits for what is in flight, and clears it then */
    for (unsigned i = sent; i < count; i++)
        dp_virtio_unpop(v, queue);
    dp_virtio_push_all(v, queue, p->sent, sent);
    return sent == count;
}

static void transmit(struct virtio_net *n, unsigned pair)
{
    struct dp_virtio *v = &n->base.virtio;
    struct pair *p = n->pair[pair];
    dp_virtio_lock(v);
    p->transmit_again = true;
    if (!p->transmitting) {
        p->transmitting = true;
        unsigned budget = BATCHES_AT_ONCE;
        while (p->transmit_again && budget) { /* set by who comes meanwhile: a kick, or the peer that has room again */
            p->transmit_again = false;
            while (budget && transmit_batch(n, pair))
                budget--;
        }
        p->transmitting = false;
        if (!budget)
            dp_virtio_more(v, PAIR * pair + TRANSMIT);
    }
    dp_virtio_unlock(v);
}

static void net_ready(void *opaque)
{
    struct virtio_net *n = opaque;
    dp_virtio_lock(&n->base.virtio);
    unsigned pairs = pairs_known(n);
    dp_virtio_unlock(&n->base.virtio);
    for (unsigned i = 0; i < pairs; i++)
        transmit(n, i);
}

static void net_link(void *opaque, bool up)
{
    struct virtio_net *n = opaque;
    dp_virtio_lock(&n->base.virtio);
    dp_virtio_config_changed(&n->base.virtio);
    dp_virtio_unlock(&n->base.virtio);
}

static const struct dp_net_end net_end = {.receive = net_receive, .ready = net_ready, .link = net_link};

/* ---- control; lock held ---- */

static uint8_t set_rx_mode(struct virtio_net *n, unsigned mode, const uint8_t *data, uint64_t size)
{
    if (size != 1 || mode >= RX_MODES || !dp_virtio_has(&n->base.virtio, mode <= RX_ALLMULTI ? F_CTRL_RX : F_CTRL_RX_EXTRA))
        return CTRL_ERR;
    n->regs.rx_mode = (n->regs.rx_mode & ~(1u << mode)) | (data[0] ? 1u << mode : 0);
    return CTRL_OK;
}

/* One list of addresses: a count and so many; returns the bytes it takes, 0 when they are not all there. */
static uint64_t take_list(struct net_regs *r, unsigned first, const uint8_t *data, uint64_t size, uint8_t *count, bool *overflow)
{
    uint64_t entries = size >= 4 ? dp_ld32(data) : UINT64_MAX;
    if (entries > (size - 4) / MAC && entries)
        return 0;
    *overflow = entries > TABLE - first;
    *count = *overflow ? 0 : entries;
    memcpy(r->table + first * MAC, data + 4, (size_t)*count * MAC);
    return 4 + entries * MAC;
}

static uint8_t set_table(struct virtio_net *n, const uint8_t *data, uint64_t size)
{
    struct net_regs next = n->regs;
    uint64_t at;
    if (size < 8)
        return CTRL_ERR;
    memset(next.table, 0, sizeof(next.table));
    if (!(at = take_list(&next, 0, data, size, &next.table_unicast, &next.unicast_overflow)) || size - at < 4 ||
        !take_list(&next, next.table_unicast, data + at, size - at, &next.table_multicast, &next.multicast_overflow))
        return CTRL_ERR;
    n->regs = next;
    return CTRL_OK;
}

static uint8_t set_vlan(struct virtio_net *n, unsigned command, const uint8_t *data, uint64_t size)
{
    unsigned id = size == 2 ? dp_ld16(data) : VLANS;
    if (id >= VLANS || command > VLAN_DEL || !dp_virtio_has(&n->base.virtio, F_CTRL_VLAN))
        return CTRL_ERR;
    uint8_t bit = 1u << id % 8;
    n->regs.vlan[id / 8] = command == VLAN_ADD ? n->regs.vlan[id / 8] | bit : n->regs.vlan[id / 8] & ~bit;
    return CTRL_OK;
}

static uint8_t control(struct virtio_net *n, unsigned class, unsigned command, const uint8_t *data, uint64_t size)
{
    struct dp_virtio *v = &n->base.virtio;
    switch (class) {
    case CTRL_RX:
        return set_rx_mode(n, command, data, size);
    case CTRL_MAC:
        if (command == MAC_TABLE_SET && dp_virtio_has(v, F_CTRL_RX))
            return set_table(n, data, size);
        if (command != MAC_ADDR_SET || size != MAC || !dp_virtio_has(v, F_CTRL_MAC_ADDR))
            return CTRL_ERR;
        memcpy(n->regs.mac, data, MAC);
        return CTRL_OK;
    case CTRL_VLAN:
        return set_vlan(n, command, data, size);
    case CTRL_ANNOUNCE:
        if (command != ANNOUNCE_ACK || !dp_virtio_has(v, F_GUEST_ANNOUNCE))
            return CTRL_ERR;
        n->regs.announce = false;
        return CTRL_OK;
    case CTRL_MQ: {
        unsigned pairs = size == 2 ? dp_ld16(data) : 0;
        if (command != VQ_PAIRS_SET || !dp_virtio_has(v, F_MQ) || !pairs || pairs > n->pairs)
            return CTRL_ERR;
        n->regs.pairs = (uint8_t)pairs;
        return CTRL_OK;
    }
    case CTRL_GUEST_OFFLOADS: {
        uint64_t offloads = size == 8 ? dp_ld64(data) : ~0ull;
        if (command != GUEST_OFFLOADS_SET || !dp_virtio_has(v, F_CTRL_GUEST_OFFLOADS) ||
            (offloads & ~(v->regs->driver_features & GUEST_OFFLOADS)))
            return CTRL_ERR;
        n->regs.guest_offloads = offloads;
        publish(n);
        return CTRL_OK;
    }
    default:
        return CTRL_ERR;
    }
}

static void control_all(struct virtio_net *n)
{
    struct dp_virtio *v = &n->base.virtio;
    struct dp_virtio_request *r = &n->request;
    unsigned queue = control_queue(n);
    for (unsigned budget = QUEUE_SIZE; dp_virtio_has(v, F_CTRL_VQ) && dp_virtio_pop(v, queue, r) > 0;) {
        uint8_t command[2 + CONTROL_MAX], ack = CTRL_ERR;
        uint64_t size = DP_MIN(r->out_bytes, sizeof(command));
        if (r->out_bytes < 2 || !r->in_bytes || dp_virtio_read(v, r, 0, command, size) < size)
            dp_virtio_broken(v, "a control command without a header or a place for the answer in RAM");
        else if (r->out_bytes <= sizeof(command))
            ack = control(n, command[0], command[1], command + 2, size - 2);
        if (ack)
            dp_trace_guest(n->base.device.env->trace, "%s: control command %u.%u is refused", n->base.device.id, size ? command[0] : 0,
                           size > 1 ? command[1] : 0);
        uint64_t written = dp_virtio_write(v, r, 0, &ack, 1);
        dp_virtio_push(v, queue, r->head, written);
        if (!--budget) {
            dp_virtio_more(v, queue);
            return;
        }
    }
}

/* ---- the virtio side ---- */

static void net_notify(struct dp_virtio *v, unsigned queue)
{
    struct virtio_net *n = net_of(v);
    if (queue == control_queue(n))
        control_all(n);
    if (queue >= control_queue(n)) /* those behind it are for drivers with F_MQ */
        return;
    if (queue % PAIR == RECEIVE)
        n->kick = true;
    else
        n->transmit |= 1u << queue / PAIR;
    v->deferred = true;
}

static void net_deferred(struct dp_virtio *v)
{
    struct virtio_net *n = net_of(v);
    dp_virtio_lock(v);
    bool kick = n->kick;
    uint32_t output = n->transmit;
    n->kick = false;
    n->transmit = 0;
    dp_virtio_unlock(v);
    if (kick)
        dp_net_ready(&n->port);
    for (unsigned i = 0; output >> i; i++)
        if (output >> i & 1)
            transmit(n, i);
}

static uint64_t net_features(struct dp_virtio *v)
{
    return BIT(F_CSUM) | BIT(F_GUEST_CSUM) | BIT(F_CTRL_GUEST_OFFLOADS) | BIT(F_MAC) | BIT(F_GUEST_TSO4) | BIT(F_GUEST_TSO6) |
           BIT(F_GUEST_ECN) | BIT(F_HOST_TSO4) | BIT(F_HOST_TSO6) | BIT(F_HOST_ECN) | BIT(F_MRG_RXBUF) | BIT(F_STATUS) | BIT(F_CTRL_VQ) |
           BIT(F_CTRL_RX) | BIT(F_CTRL_VLAN) | BIT(F_CTRL_RX_EXTRA) | BIT(F_GUEST_ANNOUNCE) | BIT(F_CTRL_MAC_ADDR) | BIT(F_SPEED_DUPLEX) |
           (net_of(v)->mtu ? BIT(F_MTU) : 0) | (net_of(v)->pairs > 1 ? BIT(F_MQ) : 0);
}

static void net_config_read(struct dp_virtio *v, uint32_t offset, void *data, uint32_t size)
{
    struct virtio_net *n = net_of(v);
    uint8_t c[CONFIG_SIZE] = {0};
    memcpy(c + CONFIG_MAC, n->regs.mac, MAC);
    dp_st16(c + CONFIG_STATUS, (dp_net_link(&n->port) ? S_LINK_UP : 0) | (n->regs.announce ? S_ANNOUNCE : 0));
    dp_st16(c + CONFIG_PAIRS, (uint16_t)n->pairs);
    dp_st16(c + CONFIG_MTU, n->mtu);
    dp_st32(c + CONFIG_SPEED, SPEED_MBIT);
    c[CONFIG_DUPLEX] = DUPLEX_FULL;
    memcpy(data, c + offset, size);
}

static void net_driver_ok(struct dp_virtio *v)
{
    struct virtio_net *n = net_of(v);
    n->regs.guest_offloads = v->regs->driver_features & GUEST_OFFLOADS;
    publish(n);
}

static void net_driver_reset(struct dp_virtio *v)
{
    struct virtio_net *n = net_of(v);
    dp_state_reset(&net_table, &n->regs);
    memcpy(n->regs.mac, n->mac, MAC);
    publish(n);
    n->kick = true; /* frames the peer held for the driver that went: they are dropped now */
    v->deferred = true;
}

static const struct dp_virtio_class net_virtio_class = {
    .device_id = 1,
    .pci_class = 0x020000,
    .queue_count = PAIR + 1,
    .queue_size = QUEUE_SIZE,
    .config_size = CONFIG_SIZE,
    .features = net_features,
    .config_read = net_config_read,
    .notify = net_notify,
    .reset = net_driver_reset,
    .driver_ok = net_driver_ok,
    .deferred = net_deferred,
};

/* ---- life cycle ---- */

static struct virtio_net *of_device(struct dp_device *d) { return DP_CONTAINER_OF(d, struct virtio_net, base.device); }
struct dp_net_port *dp_virtio_net_port(struct dp_device *d) { return &of_device(d)->port; }
void dp_virtio_net_wire(struct dp_device *d, const uint8_t mac[6]) { memcpy(of_device(d)->mac, mac, MAC); }

void dp_virtio_net_announce(struct dp_device *d)
{
    struct virtio_net *n = of_device(d);
    struct dp_virtio *v = &n->base.virtio;
    dp_virtio_lock(v);
    if (dp_virtio_has(v, F_GUEST_ANNOUNCE) && (v->regs->status & DP_VIRTIO_DRIVER_OK)) {
        n->regs.announce = true;
        dp_virtio_config_changed(v);
    }
    dp_virtio_unlock(v);
}

static void free_pairs(struct virtio_net *n)
{
    for (unsigned i = 0; i < PAIRS_MAX; i++)
        free(n->pair[i]);
}

static int net_init(struct dp_device *d, struct dp_error *e)
{
    struct virtio_net *n = of_device(d);
    if (n->mtu && n->mtu < 68)
        return dp_error_set(e, -EINVAL, "an MTU of %u is too small: give at least 68", (unsigned)n->mtu);
    for (unsigned i = 0; i < n->pairs; i++) {
        if ((n->pair[i] = malloc(sizeof(*n->pair[i])))) {
            n->pair[i]->transmitting = n->pair[i]->transmit_again = false;
            continue;
        }
        free_pairs(n);
        return dp_error_set(e, -ENOMEM, "no memory for a network card");
    }
    dp_virtio_init(&n->base.virtio, &net_virtio_class, &n->regs.virtio, d);
    n->base.virtio.queue_count = (uint16_t)(PAIR * n->pairs + 1);
    dp_net_port_init(&n->port, &net_end, n, 0);
    return 0;
}

static void net_fini(struct dp_device *d)
{
    struct virtio_net *n = of_device(d);
    dp_net_disconnect(&n->port);
    dp_virtio_pause(&n->base.virtio); /* until no thread transmits any more */
    dp_virtio_fini(&n->base.virtio);
    free_pairs(n);
}

static void net_reset(struct dp_device *d) { dp_virtio_reset(dp_virtio_of(d)); }
static void net_pause(struct dp_device *d) { dp_virtio_pause(dp_virtio_of(d)); }

static void net_resume(struct dp_device *d)
{
    dp_virtio_resume(dp_virtio_of(d));
    dp_net_ready(&of_device(d)->port); /* also when no driver is there to be told of */
}

static void net_post_load(struct dp_device *d)
{
    struct virtio_net *n = of_device(d);
    dp_virtio_lock(&n->base.virtio);
    publish(n);
    dp_virtio_unlock(&n->base.virtio);
    dp_virtio_post_load(&n->base.virtio);
}

const struct dp_device_class dp_virtio_net_class = {
    .name = "virtio-net",
    .summary = "network card (virtio 1.2)",
    .size = sizeof(struct virtio_net),
    .regs_offset = offsetof(struct virtio_net, regs),
    .state = &net_table,
    .properties = net_properties,
    .property_count = DP_ARRAY_LEN(net_properties),
    .init = net_init,
    .fini = net_fini,
    .reset = net_reset,
    .pause = net_pause,
    .resume = net_resume,
    .post_load = net_post_load,
};
