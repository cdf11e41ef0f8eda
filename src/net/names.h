/* net/names.h - addresses and names on a network with NAT: DHCP and DNS for what its switch's ports are called.
 *
 * Model: libslirp (user.h) routes and forwards; what it cannot do for many machines is done here, before it: it leases 16 addresses, for
 * ever, and knows no names. Frames that come to the gateway are looked at: DHCP is answered, questions for names that belong here are
 * answered, all else passes on to libslirp (whose name server asks the host's).
 * A machine's name is its port's (the VM's --name): the joiner was let in by that name, and names of ports are unique. What a guest says
 * of its own name (DHCP option 12) is not believed. "web" and "web.NETWORK" are the address that was leased to port web, while something
 * is joined there; with several cards behind a port, the first one that the switch sees. Other names in NETWORK do not exist, and are not
 * asked outside. The same addresses backwards (PTR). AAAA: there is none, not an error: IPv6 addresses are the machines' own choice.
 * Addresses: .2 of the subnet is the gateway, .3 the name server, from .15 on they are leased, for an hour, at a place that the MAC says, so
 * that they are mostly the same after the network was started again. A lease stays its MAC's until the place is needed: it has run out, or
 * its port is gone. A reserved one is for a port, whatever its MAC.
 * Spoofing: who asks is who the switch says that has that MAC; the lease of a MAC whose port is still joined is not given to another port;
 * IPv4 and ARP from an address that is leased to another MAC goes no further. A port has at most DP_NET_NAMES_PER_PORT leases.
 * Hostile: every frame. Nothing is kept but leases, whose table is as large as the subnet.
 * Threads: one.
 * Source: RFC 2131 (3, 4.3), 2132 (DHCP); RFC 1035 (4), 6303 (what is not asked outside).
 */
#ifndef DP_NET_NAMES_H
#define DP_NET_NAMES_H

#include "event/event.h"
#include "net/offload.h"

enum { DP_NET_NAMES_ANSWER = 700, DP_NET_NAMES_PORT = 32, DP_NET_NAMES_PER_PORT = 16, DP_NET_NAMES_GATEWAY = 2, DP_NET_NAMES_SERVER = 3 };

struct dp_net_names;

struct dp_net_names_options {
    struct dp_clock *clock;
    uint32_t network; /* its address, as a number */
    unsigned prefix;  /* 16 to 27 */
    const char *domain;
    uint32_t mtu; /* told by DHCP; 0: not */
    bool internal; /* there is no way out: nobody else is asked for names, and no router is told */
    /* The port that has this MAC: NULL: none. */
    const char *(*port_of)(void *opaque, const uint8_t mac[6]);
    bool (*is_joined)(void *opaque, const char *port);
    void *opaque;
};

struct dp_net_names_stats {
    uint64_t answered; /* questions for names */
    uint64_t leased;   /* leases made or renewed */
    uint64_t spoofed;  /* frames with an address leased to another, DHCP in the name of another */
    uint64_t refused;  /* no lease: the port has too many, or there are no more */
};
struct dp_net_lease {
    uint32_t address;
    uint8_t mac[6];
    const char *port;
};

enum dp_net_names_verdict { DP_NET_NAMES_PASS, DP_NET_NAMES_DROP, DP_NET_NAMES_ANSWERED };

/* "10.1.0.0/24"; the address has no bits behind the prefix. */
int dp_net_names_parse_subnet(const char *text, uint32_t *network, unsigned *prefix, struct dp_error *e) DP_MUST_CHECK;
int dp_net_names_create(const struct dp_net_names_options *o, struct dp_net_names **out, struct dp_error *e) DP_MUST_CHECK;
void dp_net_names_destroy(struct dp_net_names *n); /* NULL is fine */
/* The address that whoever is joined as this port will have. */
int dp_net_names_reserve(struct dp_net_names *n, const char *port, uint32_t *address, struct dp_error *e) DP_MUST_CHECK;
/* A whole ARP or IP packet, untagged, with its layout. ANSWERED: the frame in answer is for its sender. */
enum dp_net_names_verdict dp_net_names_look(struct dp_net_names *n, const uint8_t *frame, const struct dp_net_layout *l,
                                            uint8_t answer[DP_NET_NAMES_ANSWER], uint32_t *answer_size);
void dp_net_names_stats(const struct dp_net_names *n, struct dp_net_names_stats *out);
/* The i-th lease from *i on that somebody holds; *i is then the next to ask for. False: no more. */
bool dp_net_names_lease(const struct dp_net_names *n, unsigned *i, struct dp_net_lease *out);

#endif
