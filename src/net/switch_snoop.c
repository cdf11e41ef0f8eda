/* net/switch_snoop.c - multicast groups: who wants what, learnt from IGMP and MLD. See switch.h.
 *
 * Model: memberships are (VLAN, group's Ethernet address, port), each with a time; routers are (VLAN, port), known by their queries. As
 * several groups share an Ethernet address, a port may get more than it asked for, never less. Leaving needs no work of ours: the querier
 * asks again, and who does not answer ages.
 * Invariants: bounded, in whole and by port; who cannot be noted loses nothing: the group's other members are forgotten, so that it is
 * flooded until there is room.
 * Source: RFC 4541 2.1-2.3 and 3, RFC 2236, 3376 4 (IGMP), 2710, 3810 5 (MLD).
 */
#include <sys/random.h>

#include "net/offload.h"
#include "net/switch_internal.h"

enum { PORT_GROUPS = DP_SWITCH_GROUPS / 4, PROTOCOL_IGMP = 2, PROTOCOL_ICMP6 = 58, IP6_SIZE = 40 };
enum { IGMP_QUERY = 0x11, IGMP_REPORT1 = 0x12, IGMP_REPORT2 = 0x16, IGMP_LEAVE = 0x17, IGMP_REPORT3 = 0x22 };
enum { MLD_QUERY = 130, MLD_REPORT1, MLD_DONE, MLD_REPORT2 = 143 };
#define MEMBER_NS (260 * DP_SWITCH_SECOND) /* RFC 3376 8.4 */
#define ROUTER_NS (255 * DP_SWITCH_SECOND) /* 8.5 */

void dp_switch_groups_init(struct dp_switch_groups *g)
{
    memset(g, 0, sizeof *g);
    if (getrandom(&g->seed, sizeof g->seed, 0) != sizeof g->seed)
        g->seed = (uintptr_t)g;
}

static uint16_t *bucket_of(struct dp_switch_groups *g, uint64_t key)
{
    uint64_t h = (key ^ g->seed) * 0xff51afd7ed558ccd;
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53;
    return &g->bucket[(h >> 40) % DP_SWITCH_GROUP_BUCKETS];
}

static void drop(struct dp_switch_groups *g, uint16_t *link)
{
    uint16_t n = *link;
    *link = g->member[n - 1].next;
    g->by_port[g->member[n - 1].port]--;
    g->member[n - 1].next = g->free;
    g->free = n;
}

/* Drops the members of one chain that `port`, `key` or time says; -1 and 0: whatever it is. */
static void prune(struct dp_switch_groups *g, uint16_t *link, int port, uint64_t key, uint64_t now)
{
    while (*link) {
        __typeof__(g->member[0]) *m = &g->member[*link - 1];
        if (m->port == port || (key && m->key == key) || m->until <= now)
            drop(g, link);
        else
            link = &m->next;
    }
}

void dp_switch_groups_flush(struct dp_switch_groups *g, unsigned port)
{
    for (unsigned i = 0; i < DP_SWITCH_GROUP_BUCKETS; i++)
        prune(g, &g->bucket[i], (int)port, 0, port < DP_SWITCH_PORTS ? 0 : UINT64_MAX);
    for (unsigned i = 0; i < DP_SWITCH_ROUTERS; i++)
        if (port >= DP_SWITCH_PORTS || g->router[i].port == port)
            g->router[i].until = 0;
}

static void join(struct dp_switch_groups *g, unsigned port, uint64_t key, uint64_t now)
{
    uint16_t *bucket = bucket_of(g, key);
    prune(g, bucket, -1, 0, now);
    for (uint16_t n = *bucket; n; n = g->member[n - 1].next)
        if (g->member[n - 1].key == key && g->member[n - 1].port == port) {
            g->member[n - 1].until = now + MEMBER_NS;
            return;
        }
    uint16_t n = g->free;
    if (g->by_port[port] >= PORT_GROUPS || (!n && g->fresh == DP_SWITCH_GROUPS)) {
        prune(g, bucket, -1, key, now); /* flooded from now on */
        return;
    }
    if (n)
        g->free = g->member[n - 1].next;
    else
        n = ++g->fresh;
    g->member[n - 1].key = key;
    g->member[n - 1].until = now + MEMBER_NS;
    g->member[n - 1].port = (uint16_t)port;
    g->member[n - 1].next = *bucket;
    *bucket = n;
    g->by_port[port]++;
}

static uint64_t group_key(unsigned vlan, const uint8_t *mac)
{
    uint64_t key = vlan;
    for (unsigned i = 0; i < 6; i++)
        key = key << 8 | mac[i];
    return key;
}

static void join_ip4(struct dp_switch_groups *g, unsigned port, unsigned vlan, const uint8_t *ip, uint64_t now)
{
    if (ip[0] >> 4 == 14)
        join(g, port, group_key(vlan, (const uint8_t[]){1, 0, 0x5e, ip[1] & 0x7f, ip[2], ip[3]}), now);
}
static void join_ip6(struct dp_switch_groups *g, unsigned port, unsigned vlan, const uint8_t *ip, uint64_t now)
{
    if (ip[0] == 0xff)
        join(g, port, group_key(vlan, (const uint8_t[]){0x33, 0x33, ip[12], ip[13], ip[14], ip[15]}), now);
}

static void add_router(struct dp_switch_groups *g, unsigned port, unsigned vlan, uint64_t now)
{
    unsigned place = 0;
    for (unsigned i = 0; i < DP_SWITCH_ROUTERS; i++) {
        if (g->router[i].vlan == vlan && g->router[i].port == port) {
            place = i;
            break;
        }
        if (g->router[i].until < g->router[place].until)
            place = i;
    }
    g->router[place].vlan = (uint16_t)vlan;
    g->router[place].port = (uint16_t)port;
    g->router[place].until = now + ROUTER_NS;
}

enum what { OTHER, QUERY, REPORT };

/* Record types: MODE_IS_INCLUDE, MODE_IS_EXCLUDE, CHANGE_TO_INCLUDE, CHANGE_TO_EXCLUDE, ALLOW_NEW_SOURCES, BLOCK_OLD_SOURCES. To include no
 * source is to leave. */
static bool is_joined(unsigned type, unsigned sources)
{
    return type == 2 || type == 4 || ((type == 1 || type == 3 || type == 5) && sources);
}

/* Version 3 and MLDv2 have the same form, but for the size of addresses. */
static void join_records(struct dp_switch_groups *g, unsigned port, unsigned vlan, const uint8_t *p, uint32_t size, bool six, uint64_t now)
{
    uint32_t address = six ? 16 : 4, at = 8;
    if (size < at)
        return;
    for (unsigned n = dp_net_ld16(p + 6); n && size - at >= 4 + address; n--) {
        const uint8_t *r = p + at;
        uint32_t sources = dp_net_ld16(r + 2), length = 4 + address + sources * address + r[1] * 4u;
        if (length > size - at)
            return;
        if (is_joined(r[0], sources))
            (six ? join_ip6 : join_ip4)(g, port, vlan, r + 4, now);
        at += length;
    }
}

static enum what look_igmp(struct dp_switch_groups *g, unsigned port, unsigned vlan, const uint8_t *ip, uint32_t size, uint64_t now)
{
    uint32_t header = size >= 20 ? (ip[0] & 15) * 4u : 0;
    if (header < 20 || ip[0] >> 4 != 4 || ip[9] != PROTOCOL_IGMP || size < header + 8 || dp_net_ld16(ip + 6) & 0x3fff)
        return OTHER;
    const uint8_t *igmp = ip + header;
    switch (igmp[0]) {
    case IGMP_QUERY:
        if (dp_ld32(ip + 12)) /* 0.0.0.0 is another switch's, that is no router */
            add_router(g, port, vlan, now);
        return QUERY;
    case IGMP_REPORT1:
    case IGMP_REPORT2: join_ip4(g, port, vlan, igmp + 4, now); return REPORT;
    case IGMP_REPORT3: join_records(g, port, vlan, igmp, size - header, false, now); return REPORT;
    case IGMP_LEAVE: return REPORT;
    default: return OTHER;
    }
}

/* MLD is always behind a hop-by-hop header with a router alert (RFC 2710 3). */
static enum what look_mld(struct dp_switch_groups *g, unsigned port, unsigned vlan, const uint8_t *ip, uint32_t size, uint64_t now)
{
    if (size < IP6_SIZE + 8 || ip[0] >> 4 != 6 || ip[6] != 0 || ip[IP6_SIZE] != PROTOCOL_ICMP6)
        return OTHER;
    uint32_t at = IP6_SIZE + (ip[IP6_SIZE + 1] + 1u) * 8;
    if (size < at + 8)
        return OTHER;
    const uint8_t *icmp = ip + at;
    size -= at;
    switch (icmp[0]) {
    case MLD_QUERY:
        if (size < 24)
            return OTHER;
        add_router(g, port, vlan, now);
        return QUERY;
    case MLD_REPORT1:
        if (size < 24)
            return OTHER;
        join_ip6(g, port, vlan, icmp + 8, now);
        return REPORT;
    case MLD_REPORT2: join_records(g, port, vlan, icmp, size, true, now); return REPORT;
    case MLD_DONE: return REPORT;
    default: return OTHER;
    }
}

bool dp_switch_groups_route(struct dp_switch_groups *g, unsigned port, unsigned vlan, const uint8_t *frame, uint32_t size, unsigned type,
                            uint32_t network, uint64_t now, dp_switch_set *to)
{
    enum what what = OTHER;
    if (type == DP_NET_ETHERTYPE_IP)
        what = look_igmp(g, port, vlan, frame + network, size - network, now);
    else if (type == DP_NET_ETHERTYPE_IP6)
        what = look_mld(g, port, vlan, frame + network, size - network, now);
    bool four = !memcmp(frame, "\1\0\x5e", 3), six = !memcmp(frame, "\x33\x33", 2);
    if (what == QUERY || (!four && !six))
        return false;
    memset(to, 0, sizeof *to);
    bool queried = false;
    for (unsigned i = 0; i < DP_SWITCH_ROUTERS; i++)
        if (g->router[i].until > now && g->router[i].vlan == vlan) {
            to->bit[g->router[i].port / 64] |= 1ull << g->router[i].port % 64;
            queried = true;
        }
    if (!queried)
        return false;
    if (what == REPORT) /* to routers only: hosts that hear each other's would keep silent (RFC 4541 2.1.1) */
        return true;
    if (four ? !(frame[3] | frame[4]) : frame[2] == 0xff || !memcmp(frame + 2, "\0\0\0\1", 4))
        return false;
    uint64_t key = group_key(vlan, frame);
    bool known = false;
    for (uint16_t n = *bucket_of(g, key); n; n = g->member[n - 1].next)
        if (g->member[n - 1].key == key && g->member[n - 1].until > now) {
            to->bit[g->member[n - 1].port / 64] |= 1ull << g->member[n - 1].port % 64;
            known = true;
        }
    return known;
}
