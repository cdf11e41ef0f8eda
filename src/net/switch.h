/* net/switch.h - a virtual switch: a VLAN bridge between ports (net.h), with the rules that keep guests apart.
 *
 * Model: each port has options. A frame that comes in is checked (size, loop guard, VLAN, rate, source, spoofing), belongs to one VLAN
 * from then on, teaches the table where its source is (each VLAN has a table of its own: independent learning), and goes to the port
 * that has its destination, or to all ports of the VLAN. It leaves an access port without a tag, a trunk with one, but for the trunk's
 * native VLAN. Offload work left in a frame goes on to ports that accept it and is done here for others.
 * A mirror port belongs to no VLAN: it is sent copies of what ports that it watches send (as it came, before any rule) and are sent.
 * Tags: 0x8100 is the switch's own. PCP and DEI are kept; an untagged frame has its port's PCP. VID 0 is the port's own VLAN. A second tag,
 * or 0x88a8 and 0x9100, is payload. It may never become the first: such frames are dropped on access ports and never leave untagged.
 * Isolated ports exchange frames with uplink ports only.
 * Multicast: with snooping, a group whose members reported themselves goes to them and to routers, while its VLAN has a querier; without
 * one nobody would renew reports, and all is flooded. 224.0.0.0/24, ff02::1 and solicited-node groups always are.
 * Loop guard: an address that moves between ports many times in a second has one of them blocked for a while: not the one where it came
 * first or has been for a minute, an uplink only if both are; so a guest that uses its neighbour's address loses its own port. A frame
 * that comes back to the switch on its sender's own stack more than DP_SWITCH_NEST times is dropped.
 * Back-pressure: none towards senders. A receiver that is full loses frames, counted.
 * Threads: any. One mutex covers all; it is held while frames are judged, never while they are sent, so two threads send at the same time.
 * Options, connections and ports change at any time: these calls return when no frame is under way by what was before (so they may not be
 * made from inside a port's receive). A peer's owner is quiet while it is connected and disconnected, as net.h says.
 * Invariants: a frame leaves only by ports that are members of its VLAN, or mirrors; its bytes but the tag are never changed. Everything a
 * guest can fill is bounded, also by port. Time is a dp_clock's.
 * State: none is saved; a table is learnt again.
 * Source: IEEE 802.1Q-2018 6.9 (tagging), 8.6 (forwarding), 8.7-8.8 (learning), 9.6 (tag control information); RFC 4541 (snooping);
 * RFC 826, 4861, 5227, 6105 (what is checked against spoofing).
 */
#ifndef DP_NET_SWITCH_H
#define DP_NET_SWITCH_H

#include "event/event.h"
#include "net/net.h"
#include "net/switch_security.h"

enum { DP_SWITCH_PORTS = 256, DP_SWITCH_MIRRORS = 8, DP_SWITCH_VLAN_MAX = 4094, DP_SWITCH_ADDRESSES = 8, DP_SWITCH_PORT_GROUPS = 4, DP_SWITCH_NEST = 4 };

struct dp_switch;
struct dp_switch_port;

/* All zero but the clock is a good beginning. */
struct dp_switch_options {
    struct dp_clock *clock;
    struct dp_trace *trace;      /* may be NULL */
    unsigned table_size;         /* addresses; 0: 8192 */
    uint64_t age_ns;             /* an address not seen for so long is forgotten; 0: 300 s */
    unsigned flap_limit;         /* moves in a second that block a port; 0: 10 */
    uint64_t block_ns;           /* for how long; 0: 10 s */
    bool no_loop_guard;          /* addresses may move as they like */
    bool snooping;
    uint32_t mtu;                /* bytes behind the header and the tag; frames that are larger, and not to be cut, are dropped; 0: any */
};

enum dp_switch_mode { DP_SWITCH_ACCESS, DP_SWITCH_TRUNK, DP_SWITCH_MIRROR };

struct dp_switch_rate {
    uint64_t bytes_per_second; /* 0: no limit */
    uint64_t burst;            /* bytes; 0: a tenth of a second's */
};

/* All zero is an access port in VLAN 1 without limits. */
struct dp_switch_port_options {
    char name[32];
    enum dp_switch_mode mode;
    uint16_t vlan;        /* access: its VLAN, 0: 1. Trunk: the native VLAN, 0: none, untagged frames are dropped */
    uint64_t allowed[64]; /* trunk: bit VID % 64 of word VID / 64; the native VLAN needs no bit */
    bool own_tag;         /* access: frames tagged with its own VLAN are taken */
    uint8_t pcp;          /* of frames that come untagged */
    bool force_pcp;       /* and of all others */
    bool isolated, uplink;
    struct dp_switch_rate in, out;
    uint32_t broadcasts, multicasts, unknowns; /* frames in a second that it may have flooded; 0: no limit */
    unsigned mac_limit;                        /* addresses that it may teach; 0: a quarter of the table */
    /* What it may say it is. No address: not checked. */
    uint8_t mac[DP_SWITCH_ADDRESSES][6];
    uint8_t ip4[DP_SWITCH_ADDRESSES][4];
    uint8_t ip6[DP_SWITCH_ADDRESSES][16];
    unsigned macs, ip4s, ip6s;
    bool guard_ip;  /* IP, ARP and ND only from those addresses, also when there are none; other protocols but RARP are dropped */
    char group[DP_SWITCH_PORT_GROUPS][DP_SECURITY_NAME]; /* security groups (switch_security.h) that it is in */
    unsigned groups;
    bool no_server; /* no DHCP answers, router advertisements and redirects, queries for multicast members */
};

#define DP_SWITCH_DROPS(X)                                                                                                                 \
    X(SIZE, "size")              /* too short, too long, or senseless work */                                                            \
    X(SOURCE, "source")          /* its source is a group or nobody */                                                                   \
    X(VLAN, "vlan")              /* a VLAN that the port is not in, or tags where none may be */                                          \
    X(RESERVED, "reserved")      /* for the bridge itself: 01-80-C2-00-00-0x */                                                           \
    X(SPOOF, "spoof")            /* it says it is somebody else, or a server */                                                          \
    X(SECURITY_OUT, "security-out") /* no rule lets its port send it */                                                                   \
    X(SECURITY_IN, "security-in")   /* out: no rule lets the receiver have it */                                                           \
    X(RATE_IN, "rate-in")                                                                                                                \
    X(RATE_OUT, "rate-out")                                                                                                              \
    X(FLOOD, "flood")            /* over the port's limit for what is flooded */                                                         \
    X(BLOCKED, "blocked")        /* by the loop guard */                                                                                 \
    X(LOOP, "loop")              /* it came back on its sender's stack */                                                                \
    X(LOCAL, "local")            /* its destination is where it came from */                                                             \
    X(ISOLATED, "isolated")      /* its destination is nothing that this port talks to */                                                \
    X(DOUBLE_TAG, "double-tag")  /* out: its second tag would become the first */                                                        \
    X(TOO_BIG, "too-big")        /* out: larger than the MTU, or than frames can be with a tag */                                        \
    X(FULL, "full")              /* out: the receiver took no more */                                                                    \
    X(MIRROR, "mirror")          /* a mirror port sent it */
#define DP_SWITCH_ENUM(name, text) DP_SWITCH_DROP_##name,
enum dp_switch_drop { DP_SWITCH_DROPS(DP_SWITCH_ENUM) DP_SWITCH_DROP_COUNT };

/* "In" is what the peer sent, "out" what it took. Frames with segmentation work count as one. */
struct dp_switch_stats {
    uint64_t in_frames, in_bytes, out_frames, out_bytes;
    uint64_t drop[DP_SWITCH_DROP_COUNT]; /* each on the port where it was decided: what says "out" above and RATE_OUT is the receiver's */
    uint64_t not_learnt;                 /* the table or the port's share of it was full */
    uint64_t blocks;                     /* times that the loop guard blocked the port */
    unsigned macs;                       /* addresses in the table now */
    bool blocked;                        /* now */
};
const char *dp_switch_drop_name(enum dp_switch_drop d);

int dp_switch_create(const struct dp_switch_options *o, struct dp_switch **out, struct dp_error *e) DP_MUST_CHECK;
void dp_switch_destroy(struct dp_switch *s); /* with its ports; NULL is fine */

int dp_switch_port_create(struct dp_switch *s, const struct dp_switch_port_options *o, struct dp_switch_port **out,
                          struct dp_error *e) DP_MUST_CHECK;
void dp_switch_port_destroy(struct dp_switch_port *p); /* disconnects; NULL is fine */
/* New options; what was learnt on the port is forgotten. A port stays a mirror, or none. */
int dp_switch_port_set(struct dp_switch_port *p, const struct dp_switch_port_options *o, struct dp_error *e) DP_MUST_CHECK;
/* The only ways to plug in and out: other ports' frames may be under way. */
int dp_switch_port_connect(struct dp_switch_port *p, struct dp_net_port *peer, struct dp_error *e) DP_MUST_CHECK;
void dp_switch_port_disconnect(struct dp_switch_port *p);
void dp_switch_port_stats(struct dp_switch_port *p, struct dp_switch_stats *out);
/* Rules of a security group, as text (dp_security_set). */
int dp_switch_set_group(struct dp_switch *s, const char *group, const char *rules, struct dp_error *e) DP_MUST_CHECK;
/* The i-th group: its name (NULL: no more) and a copy of its rules, which the caller frees. */
const char *dp_switch_group_name(struct dp_switch *s, unsigned i, char **rules);
/* Mirror port `to` is sent what `from` sends (in) and is sent (out). Both false: no more. -EINVAL: `to` is no mirror, or `from` is. */
int dp_switch_mirror(struct dp_switch_port *from, struct dp_switch_port *to, bool in, bool out, struct dp_error *e) DP_MUST_CHECK;

static inline void dp_switch_allow(struct dp_switch_port_options *o, unsigned vlan) { o->allowed[vlan / 64 & 63] |= 1ull << vlan % 64; }
/* The port that has an address in a VLAN; NULL: unknown. */
struct dp_switch_port *dp_switch_find(struct dp_switch *s, unsigned vlan, const uint8_t mac[6]);
/* Forgets all that was learnt: addresses and groups. */
void dp_switch_flush(struct dp_switch *s);

#endif
