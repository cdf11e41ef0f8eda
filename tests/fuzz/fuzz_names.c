/* fuzz_names.c - a hostile guest before the addresses and names of a network with NAT (net/names.h).
 *
 * Input: operations. A byte: 0-1: a frame (its port, 16 bits of length, bytes); 2: what follows it in a good UDP packet to DHCP; 3: to DNS
 * by IPv4; 4: by IPv6; 5: time passes; 6: a port goes or comes; 7: an address is kept for a port.
 * What has to hold: answers are whole packets of their own size, and no two MACs have one address.
 */
#include "net/names.h"
#include "tests/fuzz/input.h"
#include "tests/net/packets.h"

enum { PORTS = 8, OPERATIONS_MAX = 200, ROOM = 1600, NETWORK = 0x0a010000 };

struct world {
    struct dp_loop *loop;
    struct dp_clock *clock;
    struct dp_net_names *names;
    unsigned gone;
};

static const char *const port_names[PORTS] = {"web", "WEB", "db", "a.b", "..", "home", "x", "abcdefghijklmnopqrstuvwxyz12345"};

static const char *port_of(void *opaque, const uint8_t mac[6])
{
    struct world *w = opaque;
    unsigned i = mac[5] % PORTS;
    return w->gone >> i & 1 ? NULL : port_names[i];
}
static bool is_joined(void *opaque, const char *port)
{
    struct world *w = opaque;
    for (unsigned i = 0; i < PORTS; i++)
        if (!strcmp(port, port_names[i]))
            return !(w->gone >> i & 1);
    return false;
}

static void look(struct world *w, const uint8_t *bytes, uint32_t size)
{
    struct dp_net_layout l;
    uint8_t *frame = malloc(size), answer[DP_NET_NAMES_ANSWER]; /* of its own, for the sanitizer */
    uint32_t n = 0;
    MUST(!frame);
    memcpy(frame, bytes, size);
    /* As user.c lets them through. */
    bool good = dp_net_parse(frame, size, &l) && l.network == DP_NET_HEADER &&
                (l.ethertype == DP_NET_ETHERTYPE_ARP ? size >= DP_NET_HEADER + 28
                                                     : l.ethertype == DP_NET_ETHERTYPE_IP || l.ethertype == DP_NET_ETHERTYPE_IP6);
    if (good && dp_net_names_look(w->names, frame, &l, answer, &n) == DP_NET_NAMES_ANSWERED) {
        MUST(n > sizeof answer || !dp_net_parse(answer, n, &l) || l.end != n || l.protocol != 17);
        MUST(packet_sum(packet_pseudo(answer + 14, l.ethertype == 0x86dd, 17, n - l.transport), answer + l.transport, n - l.transport) != 0xffff);
    }
    free(frame);
}

static void udp(struct world *w, unsigned kind, struct input *in)
{
    uint8_t data[300] = {0}, f[ROOM];
    unsigned size = (unsigned)take(in, 1), at = 0;
    uint8_t from = (uint8_t)take(in, 1);
    if (kind == 2) {
        memcpy(data, "\1\1\6", 3);
        memcpy(data + 28, (const uint8_t[6]){2, 0, 0, 0, 0, from}, 6);
        put32(data + 236, 0x63825363);
        at = 240;
    } else {
        memcpy(data, "\1\2\1\0\0\1", 6);
        at = 12;
    }
    size = DP_MIN(size, (unsigned)sizeof data - at);
    for (unsigned i = 0; i < size; i++)
        data[at + i] = (uint8_t)take(in, 1);
    uint32_t n = packet_udp(f, kind == 2 ? 0 : NETWORK + 200, kind == 2 ? 68 : 4000, kind == 2 ? 0xffffffff : NETWORK + 3, kind == 2 ? 67 : 53, data, at + size);
    if (kind == 4) { /* the same behind an IPv6 header */
        memmove(f + 54, f + 34, n - 34);
        put16(f + 12, 0x86dd);
        memset(f + 14, 0, 40);
        f[14] = 0x60;
        put16(f + 18, n - 34);
        f[20] = 17;
        f[21] = 64;
        memcpy(f + 22, "\xfe\xc0\0\0\0\0\0\0\x50\x54\0\xff\xfe\1\2\3\xfe\xc0\0\0\0\0\0\0\0\0\0\0\0\0\0\3", 32);
        n += 20;
    }
    memcpy(f + 6, (const uint8_t[6]){2, 0, 0, 0, 0, from}, 6);
    look(w, f, n);
}

static void check_leases(struct world *w)
{
    struct dp_net_lease l[300];
    unsigned n = 0;
    for (unsigned i = 0; n < DP_ARRAY_LEN(l) && dp_net_names_lease(w->names, &i, &l[n]); n++)
        for (unsigned k = 0; k < n; k++)
            MUST(l[k].address == l[n].address || !memcmp(l[k].mac, l[n].mac, 6));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {0};
    struct input in = {data, data + size};
    struct dp_error e = {0};
    uint32_t address;
    uint8_t f[ROOM];
    unsigned flags = (unsigned)take(&in, 1);
    MUST(dp_loop_create(&w.loop, &e) || dp_clock_create_manual(&w.clock, &e));
    struct dp_net_names_options o = {.clock = w.clock, .network = NETWORK, .prefix = flags & 1 ? 27 : 24, .domain = "home", .mtu = 1400, .internal = flags & 2,
                                     .port_of = port_of, .is_joined = is_joined, .opaque = &w};
    MUST(dp_net_names_create(&o, &w.names, &e));
    for (unsigned i = 0; i < OPERATIONS_MAX && in.at < in.end; i++) {
        unsigned code = (unsigned)take(&in, 1) & 7;
        if (code < 2) {
            uint32_t n = (uint32_t)take(&in, 2) % (ROOM + 1);
            for (uint32_t k = 0; k < n; k++)
                f[k] = (uint8_t)take(&in, 1);
            look(&w, f, n);
        } else if (code < 5) {
            udp(&w, code, &in);
        } else if (code == 5) {
            dp_clock_advance(w.clock, take(&in, 2) * 1000000000ull);
        } else if (code == 6) {
            w.gone ^= 1u << take(&in, 1) % PORTS;
        } else {
            MUST(dp_net_names_reserve(w.names, port_names[take(&in, 1) % PORTS], &address, &e) && !*e.text);
        }
    }
    check_leases(&w);
    dp_net_names_destroy(w.names);
    dp_clock_destroy(w.clock);
    dp_loop_destroy(w.loop);
    return 0;
}
