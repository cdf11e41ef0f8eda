/* fuzz_switch.c - hostile guests on the switch: frames of any size, tags and work left in them, made up or good ones with damage,
 * while ports change their options, come and go, fill and lose their carrier.
 *
 * Input: a byte per operation and its operands (see `operation`). What a port is sent must be what its options allow: no first tag on an
 * access port, on a trunk only those of its VLANs, and whole frames within bounds.
 */
#include <stdlib.h>

#include "net/switch.h"
#include "tests/net/packets.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OPERATIONS_MAX = 300, PORTS = 6, MIRROR = PORTS, TEMPLATE_MAX = 512 };

#define MUST(x)                                                                                                                            \
    do {                                                                                                                                   \
        if (x)                                                                                                                             \
            abort();                                                                                                                       \
    } while (0)

struct world;
struct station {
    struct world *w;
    struct dp_net_port net;
    struct dp_switch_port *port;
    struct dp_switch_port_options o;
    unsigned room;
};
struct world {
    struct dp_clock *clock;
    struct dp_switch *s;
    struct station st[PORTS + 1];
    uint32_t seen;
};
struct input {
    const uint8_t *at, *end;
};

static uint64_t take(struct input *in, unsigned n)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < n; i++)
        value |= (uint64_t)(in->at < in->end ? *in->at++ : 0) << i * 8;
    return value;
}

static void look(const struct station *st, const struct dp_net_frame *f)
{
    uint8_t *bytes = malloc(f->size);
    size_t sum = 0;
    MUST(f->size < DP_NET_FRAME_MIN || f->size > DP_NET_FRAME_MAX || !bytes || f->work & ~st->net.accepts);
    for (unsigned i = 0; i < f->parts; i++)
        sum += f->part[i].iov_len;
    MUST(sum != f->size);
    dp_net_gather(f, bytes);
    for (uint32_t i = 0; i < f->size; i++)
        st->w->seen += bytes[i];
    unsigned type = get16(bytes + 12), vlan = f->size >= 18 ? get16(bytes + 14) & 0xfff : 0;
    if (st->o.mode != DP_SWITCH_MIRROR) {
        if (type == 0x8100)
            MUST(st->o.mode != DP_SWITCH_TRUNK || f->size < 18 || vlan == st->o.vlan || !(st->o.allowed[vlan / 64] >> vlan % 64 & 1));
        else
            MUST((st->o.mode == DP_SWITCH_TRUNK && !st->o.vlan) || type == 0x88a8 || type == 0x9100);
    }
    free(bytes);
}

static unsigned receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct station *st = opaque;
    unsigned n = DP_MIN(count, st->room);
    for (unsigned i = 0; i < n; i++)
        look(st, &frame[i]);
    st->room -= n;
    return n;
}
static const struct dp_net_end end = {.receive = receive};

/* ---- frames ---- */

/* One that is good, or nearly. */
static uint32_t template(struct input *in, uint8_t *p, unsigned kind)
{
    static const uint8_t ip6[40] = {0x60, [5] = 40, 0, 255, 0xfe, 0x80, [23] = 1, 0xff, 2, [39] = 1};
    memset(p, 0, TEMPLATE_MAX);
    packet_udp(p, PACKET_GUEST, (unsigned)take(in, 1), PACKET_HOST, (unsigned)take(in, 1), "data", 4);
    switch (kind) {
    case 0: return 46;
    case 1: /* ARP, RARP */
        memcpy(p + 12, (uint8_t[]){8, 6, 0, 1, 8, 0, 6, 4, 0, (uint8_t)take(in, 1)}, 10);
        memcpy(p + 22, packet_mac, 6);
        return 60;
    case 2: /* IGMP, with records */
        memcpy(p, "\1\0\x5e\1\2\3", 6);
        p[23] = 2;
        p[34] = (uint8_t)(0x11 + take(in, 1) % 18);
        put16(p + 40, (unsigned)take(in, 1));
        for (unsigned i = 42; i < 90; i++)
            p[i] = (uint8_t)take(in, 1);
        return 90;
    case 3: /* ICMPv6: ND, or MLD behind a router alert */
    case 4:
        memcpy(p, "\x33\x33\0\1\2\3", 6);
        put16(p + 12, 0x86dd);
        memcpy(p + 14, ip6, 40);
        p[20] = kind == 3 ? 58 : 0;
        memcpy(p + 54, kind == 3 ? "\x86" : "\x3a\0\5\2\0\0\1\0", kind == 3 ? 1 : 8);
        for (unsigned i = kind == 3 ? 54 : 62; i < 110; i++)
            p[i] = (uint8_t)take(in, 1);
        return 110;
    case 5: /* TCP, to be cut */
        packet_tcp(p, 1, PACKET_HOST, 2, 3, 4, T_ACK, "0123456789abcdefghij", 20);
        return 74;
    default:
        for (unsigned i = 0; i < 64; i++)
            p[i] = (uint8_t)take(in, 1);
        return (uint32_t)take(in, 1) % 65;
    }
}

static uint32_t add_tag(struct input *in, uint8_t *p, uint32_t size)
{
    static const uint16_t types[] = {0x8100, 0x88a8, 0x9100, 0x8100};
    if (size < 12)
        return size;
    memmove(p + 16, p + 12, size - 12);
    put16(p + 12, types[take(in, 1) % 4]);
    put16(p + 14, (unsigned)take(in, 2));
    return size + 4;
}

static void send(struct world *w, struct input *in)
{
    struct station *st = &w->st[take(in, 1) % (PORTS + 1)];
    unsigned how = (unsigned)take(in, 1), flags = (unsigned)take(in, 1);
    uint8_t p[TEMPLATE_MAX];
    uint32_t size = template(in, p, how & 7), whole;
    for (unsigned n = flags & 3; n; n--)
        size = add_tag(in, p, size);
    if (flags & 4) {
        p[4] = (uint8_t)take(in, 1);
        p[11] = (uint8_t)take(in, 1);
    }
    for (unsigned n = how >> 3 & 3; n; n--) /* damage */
        p[take(in, 1)] = (uint8_t)take(in, 1);
    if (flags & 8)
        size = (uint32_t)take(in, 1) % (size + 1);
    whole = flags & 16 ? size + (uint32_t)take(in, 2) : size;
    uint8_t *bytes = calloc(1, whole ? whole : 1); /* exactly so large: readers behind it are seen */
    MUST(!bytes);
    memcpy(bytes, p, size);
    uint32_t cut = flags & 32 ? (uint32_t)take(in, 1) % (whole + 1) : whole;
    struct iovec part[2] = {{bytes, cut}, {bytes + cut, whole - cut}};
    struct dp_net_frame f[DP_NET_BATCH + 3];
    f[0] = (struct dp_net_frame){.part = part, .parts = 2, .size = whole};
    if (flags & 64) {
        static const uint32_t works[] = {DP_NET_CHECKSUM, DP_NET_TSO4, DP_NET_TSO6, DP_NET_TSO4 | DP_NET_ECN, DP_NET_UFO, ~0u};
        f[0].work = works[take(in, 1) % DP_ARRAY_LEN(works)];
        f[0].checksum_start = (uint16_t)(flags & 128 ? take(in, 2) : 34);
        f[0].checksum_offset = (uint16_t)take(in, 1);
        f[0].header_size = (uint16_t)take(in, 1);
        f[0].segment_size = (uint16_t)(1 + take(in, 1) * 20);
    }
    unsigned count = how & 32 ? 1 + (unsigned)take(in, 1) % DP_ARRAY_LEN(f) : 1;
    for (unsigned i = 1; i < count; i++)
        f[i] = f[0];
    MUST(dp_net_send(&st->net, f, count) != count);
    free(bytes);
}

/* ---- ports ---- */

static struct dp_switch_port_options options(struct input *in, bool mirror)
{
    struct dp_switch_port_options o = {.name = "port"};
    unsigned flags = (unsigned)take(in, 2);
    o.mode = mirror ? DP_SWITCH_MIRROR : flags & 1 ? DP_SWITCH_TRUNK : DP_SWITCH_ACCESS;
    o.vlan = (uint16_t)(flags & 2 ? take(in, 2) & 0xfff : take(in, 1) & 3);
    for (unsigned i = 0; i < 4; i++)
        dp_switch_allow(&o, (unsigned)(flags & 4 ? take(in, 2) & 0xfff : 1 + i));
    o.own_tag = flags & 8;
    o.force_pcp = flags & 16;
    o.pcp = (uint8_t)(flags >> 5 & 7);
    o.isolated = flags >> 8 & 1;
    o.uplink = flags >> 9 & 1;
    if (flags & 1 << 10) {
        o.in = (struct dp_switch_rate){take(in, 4), take(in, 2)};
        o.out = (struct dp_switch_rate){take(in, 4), take(in, 2)};
        o.broadcasts = o.multicasts = o.unknowns = (uint32_t)take(in, 4);
        o.mac_limit = (unsigned)take(in, 1);
    }
    o.guard_ip = flags >> 11 & 1;
    o.no_server = flags >> 12 & 1;
    o.macs = o.ip4s = o.ip6s = flags >> 13 & 1;
    memcpy(o.mac[0], packet_mac, 6);
    put32(o.ip4[0], PACKET_GUEST);
    memcpy(o.ip6[0], "\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\1", 16);
    return o;
}

/* What the switch makes of them. */
static void keep_options(struct station *st, const struct dp_switch_port_options *o)
{
    st->o = *o;
    if (o->mode == DP_SWITCH_ACCESS && !o->vlan)
        st->o.vlan = 1;
}

static void make_port(struct world *w, unsigned n, const struct dp_switch_port_options *o)
{
    struct station *st = &w->st[n];
    struct dp_switch_port_options fallback = {.mode = n == MIRROR ? DP_SWITCH_MIRROR : DP_SWITCH_ACCESS, .vlan = 1};
    st->w = w;
    if (dp_switch_port_create(w->s, o, &st->port, NULL)) {
        o = &fallback;
        MUST(dp_switch_port_create(w->s, o, &st->port, NULL));
    }
    keep_options(st, o);
    MUST(dp_switch_port_connect(st->port, &st->net, NULL));
}

static void operation(struct world *w, struct input *in)
{
    unsigned op = (unsigned)take(in, 1) % 16, n;
    struct dp_switch_port_options o;
    struct dp_switch_stats stats;
    switch (op) {
    case 0:
        n = (unsigned)take(in, 1) % (PORTS + 1);
        o = options(in, n == MIRROR);
        if (!dp_switch_port_set(w->st[n].port, &o, NULL))
            keep_options(&w->st[n], &o);
        break;
    case 1:
        n = (unsigned)take(in, 1);
        MUST(dp_switch_mirror(w->st[n % PORTS].port, w->st[MIRROR].port, n >> 6 & 1, n >> 7, NULL));
        break;
    case 2: n = (unsigned)take(in, 1); dp_net_set_link(&w->st[n % (PORTS + 1)].net, n >> 7); break;
    case 3: dp_clock_advance(w->clock, take(in, 5)); break;
    case 4: n = (unsigned)take(in, 1); w->st[n % (PORTS + 1)].room = (unsigned)take(in, 1); break;
    case 5:
        n = (unsigned)take(in, 1) % (PORTS + 1);
        dp_switch_port_destroy(w->st[n].port);
        o = options(in, n == MIRROR);
        make_port(w, n, &o);
        break;
    case 6: dp_switch_flush(w->s); break;
    case 7: n = (unsigned)take(in, 1); dp_net_set_accepts(&w->st[n % (PORTS + 1)].net, n >> 3); break;
    case 8:
        for (n = 0; n <= PORTS; n++) {
            dp_switch_port_stats(w->st[n].port, &stats);
            w->st[n].room = ~0u;
            w->seen += stats.macs;
        }
        break;
    default: send(w, in);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    struct world w = {0};
    struct dp_switch_options so = {0};
    unsigned flags = (unsigned)take(&in, 1);
    MUST(dp_clock_create_manual(&w.clock, NULL));
    so.clock = w.clock;
    so.table_size = flags & 1 ? 4 : 64;
    so.snooping = flags & 2;
    so.no_loop_guard = flags & 4;
    so.mtu = flags & 8 ? 1500 : 0;
    MUST(dp_switch_create(&so, &w.s, NULL));
    for (unsigned i = 0; i <= PORTS; i++) {
        dp_net_port_init(&w.st[i].net, &end, &w.st[i], 0);
        w.st[i].room = ~0u;
        struct dp_switch_port_options o = {.mode = i == MIRROR ? DP_SWITCH_MIRROR : i & 1 ? DP_SWITCH_TRUNK : DP_SWITCH_ACCESS, .vlan = 1};
        dp_switch_allow(&o, 2);
        make_port(&w, i, &o);
    }
    for (unsigned i = 0; i < OPERATIONS_MAX && in.at < in.end; i++)
        operation(&w, &in);
    dp_switch_destroy(w.s);
    dp_clock_destroy(w.clock);
    return (int)(w.seen & 0);
}
