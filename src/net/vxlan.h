/* net/vxlan.h - a port that leads over UDP to other hosts: VXLAN with head-end replication.
 *
 * Model: one end of an overlay (a VTEP) for one VNI. Frames from the peer are wrapped (outer UDP by the host's kernel, 8 bytes of VXLAN)
 * and go to the remote end where their destination was seen, or, unknown or to a group, to all remote ends. Remote ends are static, or
 * learnt too: with `learn` frames from any address are taken, and who sent is a remote end until it was silent for AGE_SECONDS; without,
 * frames from others are dropped. What comes in never goes out again by the overlay: a loop of two ends of one network cannot be. The
 * switch sees one port: isolation, VLANs, limits are its business. Give guests an MTU 50 (IPv6: 70) bytes smaller than the host's.
 * Encryption is not VXLAN's: use it within an IPsec or WireGuard network of the hosts.
 * Invariants: tables are bounded; a frame that is wrapped has no work left; what comes from the wire is checked (flag, VNI, lengths).
 * Threads: created, destroyed and read in the loop's thread; the peer sends from any.
 * Source: RFC 7348 4.1, 4.2, 5.
 */
#ifndef DP_NET_VXLAN_H
#define DP_NET_VXLAN_H

#include "event/event.h"
#include "net/net.h"

struct sockaddr_storage;
struct dp_net_vxlan;

enum { DP_VXLAN_PORT = 4789, DP_VXLAN_REMOTES = 64, DP_VXLAN_VNI_MAX = 0xffffff };

struct dp_net_vxlan_options {
    struct dp_clock *clock;
    uint32_t vni;
    const char *local;                    /* "ADDRESS[:PORT]"; NULL: all IPv4 addresses, port 4789 */
    const char *remote[DP_VXLAN_REMOTES]; /* "ADDRESS[:PORT]" */
    unsigned remotes;
    bool learn;
};
struct dp_net_vxlan_stats {
    uint64_t in, out;
    uint64_t malformed, other_vni, stranger; /* dropped: no VXLAN, another VNI, from nobody that is a remote end */
    uint64_t lost;                           /* the host's network took them not */
    unsigned remotes, macs;
};

int dp_net_vxlan_create(struct dp_loop *l, const struct dp_net_vxlan_options *o, struct dp_net_vxlan **out,
                        struct dp_error *e) DP_MUST_CHECK;
void dp_net_vxlan_destroy(struct dp_net_vxlan *v); /* disconnects; NULL is fine */
struct dp_net_port *dp_net_vxlan_port(struct dp_net_vxlan *v);
void dp_net_vxlan_stats(struct dp_net_vxlan *v, struct dp_net_vxlan_stats *out);

#endif
