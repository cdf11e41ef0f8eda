/* net/switch_guard.c - does a port say it is somebody else? See switch.h.
 *
 * Model: pure functions of a port's options and one frame. Lengths inside the packet are not trusted, nor needed: TSO frames have none.
 * Invariants: what cannot be read cannot be judged, and is refused; nothing is read behind `size`.
 * Source: RFC 826, 5227 (ARP, probes from 0.0.0.0), 903 (RARP), 791, 2131 4.1 (ports of DHCP), 8200, 4861 4 (ND), 6980 (ND is never
 * fragmented), 4862 5.4 (:: while an address is tentative), 6105 (RA guard), 8415 7.2.
 */
#include "net/offload.h"
#include "net/switch_internal.h"

enum { ETHERTYPE_RARP = 0x8035, ARP_SIZE = 28, IP_SIZE = 20, IP6_SIZE = 40, MAC = 6, EXTENSIONS_MAX = 8 };
enum { IGMP_QUERY = 0x11, MLD_QUERY = 130, PROTOCOL_IGMP = 2 };
enum { PROTOCOL_UDP = 17, PROTOCOL_ICMP6 = 58, HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT = 44, DESTINATION = 60 };
enum { ROUTER_SOLICIT = 133, ROUTER_ADVERT, NEIGHBOR_SOLICIT, NEIGHBOR_ADVERT, REDIRECT };
enum { OPTION_SOURCE_LINK = 1, OPTION_TARGET_LINK = 2 };

static bool listed(const void *list, unsigned count, const uint8_t *address, size_t size)
{
    for (unsigned i = 0; i < count; i++)
        if (!memcmp((const uint8_t *)list + i * size, address, size))
            return true;
    return false;
}
static bool mac_ok(const struct dp_switch_port_options *o, const uint8_t *mac) { return !o->macs || listed(o->mac, o->macs, mac, MAC); }
static bool ip4_ok(const struct dp_switch_port_options *o, const uint8_t *ip) { return !o->guard_ip || listed(o->ip4, o->ip4s, ip, 4); }
static bool ip6_ok(const struct dp_switch_port_options *o, const uint8_t *ip) { return !o->guard_ip || listed(o->ip6, o->ip6s, ip, 16); }
static bool all_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

static bool guard_arp(const struct dp_switch_port_options *o, const uint8_t *frame, const uint8_t *arp, uint32_t size)
{
    if (size < ARP_SIZE || dp_net_ld16(arp) != 1 || dp_net_ld16(arp + 2) != DP_NET_ETHERTYPE_IP || arp[4] != MAC || arp[5] != 4)
        return false;
    if (!mac_ok(o, arp + 8) || memcmp(arp + 8, frame + MAC, MAC))
        return false;
    return all_zero(arp + 14, 4) || ip4_ok(o, arp + 14); /* a probe says nothing of its sender */
}

/* RARP is how hypervisors announce where a guest has moved: it may only name its own card. */
static bool guard_rarp(const struct dp_switch_port_options *o, const uint8_t *arp, uint32_t size)
{
    return size >= ARP_SIZE && dp_net_ld16(arp + 6) == 3 && mac_ok(o, arp + 8) && mac_ok(o, arp + 18) &&
           (all_zero(arp + 14, 4) || ip4_ok(o, arp + 14));
}

static bool guard_ip4(const struct dp_switch_port_options *o, const uint8_t *ip, uint32_t size)
{
    uint32_t header = size ? (ip[0] & 15) * 4u : 0;
    if (size < IP_SIZE || ip[0] >> 4 != 4 || header < IP_SIZE || header > size)
        return false;
    bool first = !(dp_net_ld16(ip + 6) & 0x1fff), udp = first && ip[9] == PROTOCOL_UDP && size - header >= 4;
    unsigned from = udp ? dp_net_ld16(ip + header) : 0, to = udp ? dp_net_ld16(ip + header + 2) : 0;
    if (o->no_server && udp && from == 67 && to == 68)
        return false;
    if (o->no_server && first && ip[9] == PROTOCOL_IGMP && size > header && ip[header] == IGMP_QUERY)
        return false;
    if (all_zero(ip + 12, 4)) /* who asks for an address has none */
        return !o->guard_ip || (udp && from == 68 && to == 67);
    return ip4_ok(o, ip + 12);
}

static bool guard_nd(const struct dp_switch_port_options *o, const uint8_t *icmp, uint32_t size)
{
    unsigned type = icmp[0];
    if (type == ROUTER_ADVERT || type == REDIRECT || type == MLD_QUERY)
        return !o->no_server;
    if (type != ROUTER_SOLICIT && type != NEIGHBOR_SOLICIT && type != NEIGHBOR_ADVERT)
        return true;
    uint32_t at = type == ROUTER_SOLICIT ? 8 : 24;
    if (size < at || (type == NEIGHBOR_ADVERT && !ip6_ok(o, icmp + 8)))
        return false;
    /* To the end of the frame, not of the packet: what is padding is zeros, which end the options. */
    while (at + 8 <= size && icmp[at + 1]) {
        uint32_t length = icmp[at + 1] * 8u;
        if (length > size - at)
            return false;
        if ((icmp[at] == OPTION_SOURCE_LINK || icmp[at] == OPTION_TARGET_LINK) && !mac_ok(o, icmp + at + 2))
            return false;
        at += length;
    }
    return true;
}

static bool guard_ip6(const struct dp_switch_port_options *o, const uint8_t *ip, uint32_t size)
{
    if (size < IP6_SIZE || ip[0] >> 4 != 6)
        return false;
    uint32_t at = IP6_SIZE;
    unsigned protocol = ip[6];
    bool fragmented = false;
    for (unsigned n = 0; protocol == HOP_BY_HOP || protocol == ROUTING || protocol == DESTINATION || protocol == FRAGMENT; n++) {
        if (n == EXTENSIONS_MAX || size - at < 8)
            return false;
        if (protocol == FRAGMENT) {
            fragmented = true;
            if (dp_net_ld16(ip + at + 2) >> 3) {
                protocol = 59; /* what follows is not a header */
                break;
            }
        }
        uint32_t length = protocol == FRAGMENT ? 8 : (ip[at + 1] + 1u) * 8;
        protocol = ip[at];
        if (length > size - at)
            return false;
        at += length;
    }
    bool nobody = all_zero(ip + 8, 16);
    if (!nobody && !ip6_ok(o, ip + 8))
        return false;
    if (protocol == PROTOCOL_ICMP6) {
        bool nd = size > at && ip[at] >= ROUTER_SOLICIT && ip[at] <= REDIRECT;
        return size - at >= 4 && !(nd && fragmented) && guard_nd(o, ip + at, size - at);
    }
    if (protocol == PROTOCOL_UDP && o->no_server && size - at >= 4 && dp_net_ld16(ip + at) == 547 && dp_net_ld16(ip + at + 2) == 546)
        return false;
    return !nobody || !o->guard_ip;
}

/* LLC and another tag can carry IP that nobody looks at here. */
static bool is_wrapped(unsigned type) { return type < 0x600 || type == 0x8100 || type == 0x88a8 || type == 0x9100; }

bool dp_switch_guard(const struct dp_switch_port_options *o, const uint8_t *frame, uint32_t size, unsigned type, uint32_t network)
{
    if (!mac_ok(o, frame + MAC))
        return false;
    if (!o->macs && !o->guard_ip && !o->no_server)
        return true;
    const uint8_t *p = frame + network;
    size -= network;
    switch (type) {
    case DP_NET_ETHERTYPE_ARP: return (!o->macs && !o->guard_ip) || guard_arp(o, frame, p, size);
    case ETHERTYPE_RARP: return (!o->macs && !o->guard_ip) || guard_rarp(o, p, size);
    case DP_NET_ETHERTYPE_IP: return guard_ip4(o, p, size);
    case DP_NET_ETHERTYPE_IP6: return guard_ip6(o, p, size);
    default: return !o->guard_ip && !(o->no_server && is_wrapped(type));
    }
}
