/* net/switch_security.h - security groups: what ports of a group may be sent and may send, with memory of connections.
 *
 * Model: a port in no group is not filtered. One in groups is sent only what a rule "in" of one of its groups allows, and sends only what a
 * rule "out" allows (all, if none of its groups has such rules). What belongs to a connection that was allowed passes in both directions:
 * packets of the same addresses, protocol and ports, later fragments of an allowed packet, and ICMP errors about it. ARP, neighbour and
 * router discovery (but no redirects), IGMP and MLD, and DHCP between client and server always pass: other options of ports guard those.
 * What is not IP, ARP or a frame of 802.1 is refused. Rules are not asked again for what is remembered: a connection that a removed rule
 * had allowed ends when it is silent. A peer is an address range, or a group: the ports that are in it (for "out" rules: that the frame is
 * for, if it is for one). Bounds: SESSIONS are remembered, a port may have a quarter of them; who has more loses its own oldest ones.
 * Threads: under the switch's mutex.
 * Source: RFC 791, 792, 8200, 4443, 9293, 768; RFC 4890 for what ICMPv6 is needed.
 */
#ifndef DP_NET_SWITCH_SECURITY_H
#define DP_NET_SWITCH_SECURITY_H

#include "base/base.h"

enum { DP_SECURITY_GROUPS = 64, DP_SECURITY_RULES = 64, DP_SECURITY_NAME = 32 };

struct dp_security_rule {
    bool out;
    uint8_t protocol;     /* 0: any; 1 is ICMP of both IPs */
    uint16_t first, last; /* ports of the one who is connected to; 0, 0: any. Of ICMP they mean nothing */
    uint8_t family;       /* of address: 4, 6; 0: none */
    uint8_t prefix, address[16];
    int peer; /* a group; -1: none */
};

struct dp_security;

struct dp_security *dp_security_create(void);    /* NULL: no memory */
void dp_security_destroy(struct dp_security *s); /* NULL is fine */
/* The number of a group; made, without rules, if it is not there. Negative errno: no room, or no name for one. */
int dp_security_group(struct dp_security *s, const char *name);
const char *dp_security_name(const struct dp_security *s, unsigned group); /* NULL: no such */
/* "in tcp 80-443 from 10.0.0.0/8; in icmp; out udp 53 to group dns; in any from group web": replaces the group's rules. */
int dp_security_set(struct dp_security *s, const char *group, const char *rules, struct dp_error *e) DP_MUST_CHECK;
const char *dp_security_text(const struct dp_security *s, unsigned group);

struct dp_security_side {
    unsigned port;   /* whose filter is asked */
    uint64_t groups; /* that it is in: bits */
    uint64_t peers;  /* of the other side; 0: none, or many */
    bool out;
};
/* May it pass? network is where what follows type begins. */
bool dp_security_pass(struct dp_security *s, const struct dp_security_side *side, unsigned vlan, const uint8_t *frame, uint32_t size,
                      unsigned type, uint32_t network, uint64_t now);
void dp_security_forget(struct dp_security *s, unsigned port); /* its connections */

#endif
