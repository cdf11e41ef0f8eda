/* net/network.h - a network: a switch, the ports that virtual machines of other processes join by a unix socket, and its ways out.
 *
 * Model: one process serves one network (`doppel network create`); all happens in its loop's thread. The socket is SOCK_SEQPACKET. Who
 * connects sends one JSON object, {"join":"NAME","options":"vlan=10"} or {"capture":"NAME or *"} (with
 * "both":true * is also what ports are sent, not only what they send), and gets {"result":{...}} or
 * {"error":"..."}; after that each packet is a frame with struct virtio_net_hdr in front (datagram.h). The port is there as long as the
 * connection; who is thrown out is told so (dp_net_datagram_dismiss), as others join again when the network is back.
 * Who may what: a port that was declared has the declared options, whoever joins it. Another is made as the joiner asks if he is the
 * network's own user or root; anybody else gets the options for guests (declared as "*"), or is refused if there are none. Captures are for
 * the own user.
 * Options of a port, text: see dp_network_parse_port. Uplinks: "tap=NAME[,bridge=NAME]", "macvtap=NAME", "packet=INTERFACE",
 * "udp=LOCAL/REMOTE", tunnels (tunnel.h), "vxlan=VNI[,local=ADDRESS][,remote=ADDRESS]...[,learn]", then options of the port.
 * "nat[,subnet=ADDRESS/N][,internal][,no-host][,publish=[ADDRESS:]PORT:NAME:PORT[/udp]]...[,vlan=N]" is a gateway (user.h) with addresses and
 * names (names.h) for one VLAN. internal: there is no way out, but addresses, names, and what is published.
 * Invariants: names of ports are unique. What joiners send is hostile: one bounded packet before they are a port, frames after that.
 */
#ifndef DP_NET_NETWORK_H
#define DP_NET_NETWORK_H

#include "net/datagram.h"
#include "net/switch.h"

struct dp_network;
struct json_object;

enum { DP_NETWORK_HELLO_MAX = 4096 };

struct dp_network_options {
    struct dp_loop *loop;
    struct dp_switch_options switching; /* with the clock */
    const char *name;
};

/* "vlan=N", "trunk=N+N-N..." with "native=N", "pcp=N", "force-pcp", "own-tag", "isolated", "uplink", "mac=ADDRESS" and "ip=ADDRESS" (may be
 * repeated), "guard-ip", "no-server", "rate-in=BYTES", "rate-out=BYTES" (a second; K, M, G), "broadcasts=N", "multicasts=N", "unknowns=N",
 * "mac-limit=N", "group=NAME+NAME" (security groups); joined by commas. The name stays. */
int dp_network_parse_port(const char *text, struct dp_switch_port_options *o, struct dp_error *e) DP_MUST_CHECK;
#define DP_NETWORK_PORT_HELP                                                                                                               \
    "vlan=N | trunk=N+N-N[,native=N] [,pcp=N][,isolated][,mac=MAC][,ip=IP][,guard-ip][,no-server][,rate-in=BYTES][,rate-out=BYTES][,group=NAME]..."

int dp_network_create(const struct dp_network_options *o, struct dp_network **out, struct dp_error *e) DP_MUST_CHECK;
void dp_network_destroy(struct dp_network *n); /* NULL is fine */
/* Makes the socket at path; mode: who may connect (0600: the user). May be called more than once. */
int dp_network_listen(struct dp_network *n, const char *path, unsigned mode, struct dp_error *e) DP_MUST_CHECK;
/* Options of a port that somebody will join, or has joined; "*": of guests that are not declared. */
int dp_network_declare(struct dp_network *n, const char *port, const char *options, struct dp_error *e) DP_MUST_CHECK;
/* Rules of a security group (switch_security.h). */
int dp_network_set_group(struct dp_network *n, const char *group, const char *rules, struct dp_error *e) DP_MUST_CHECK;
int dp_network_add_uplink(struct dp_network *n, const char *port, const char *what, struct dp_error *e) DP_MUST_CHECK;
/* Takes away an uplink, or throws a joined port out; its declaration goes, too. */
int dp_network_remove(struct dp_network *n, const char *port, struct dp_error *e) DP_MUST_CHECK;
int dp_network_set_link(struct dp_network *n, const char *port, bool up, struct dp_error *e) DP_MUST_CHECK;
/* All about it: ports with their options and counters. */
struct json_object *dp_network_json(struct dp_network *n);

/* The other side: joins the network whose socket is at path. Waits for the answer, at most some seconds. mtu: 0 if it has none. */
int dp_network_join(const char *path, const char *port, const char *options, struct dp_net_link *out, uint32_t *mtu,
                    struct dp_error *e) DP_MUST_CHECK;
/* What a VM's card leads to: "network=NAME" or "switch=PATH", with "port=NAME" (or port) and a port's options, or an uplink's text.
 * Waits ms for an answer; 0: some seconds. */
int dp_net_open_way(const char *way, const char *port, unsigned ms, struct dp_net_link *out, uint32_t *mtu,
                    struct dp_error *e) DP_MUST_CHECK;
int dp_network_join_capture(const char *path, const char *port, bool both, struct dp_net_link *out, struct dp_error *e) DP_MUST_CHECK;

#endif
