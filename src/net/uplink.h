/* net/uplink.h - ways out of a network, opened as descriptors for net/datagram.h.
 *
 * tap: an interface of this host, made if it is not there (needs CAP_NET_ADMIN then) or one that its owner gave to this user; with a bridge
 * it becomes a port of it (also one of Open vSwitch, by `ovs-vsctl add-port BRIDGE TAP`). macvtap: an existing macvtap interface. packet:
 * all frames of an existing interface (AF_PACKET, needs CAP_NET_RAW), which becomes promiscuous; frames that the kernel itself sends there
 * are seen, too. udp: frames as datagrams to another doppel (or socat), neither protected (that is tunnel.h) nor fragmented by us. socket: a switch of another
 * process (net/network.h).
 * Source: tuntap.rst, packet(7), macvtap in if_link.h, netdevice(7).
 */
#ifndef DP_NET_UPLINK_H
#define DP_NET_UPLINK_H

#include "net/datagram.h"

int dp_net_open_tap(const char *interface, const char *bridge, struct dp_net_link *out,
                    struct dp_error *e) DP_MUST_CHECK; /* bridge: NULL: none */
int dp_net_open_macvtap(const char *interface, struct dp_net_link *out, struct dp_error *e) DP_MUST_CHECK;
int dp_net_open_packet(const char *interface, struct dp_net_link *out, struct dp_error *e) DP_MUST_CHECK;
/* "ADDRESS:PORT"; IPv6 addresses in brackets. */
int dp_net_open_udp(const char *local, const char *remote, struct dp_net_link *out, struct dp_error *e) DP_MUST_CHECK;

/* "tap=NAME[,bridge=NAME]", "macvtap=NAME", "packet=INTERFACE", "udp=LOCAL/REMOTE"; takes what it understands out of text. */
int dp_net_open_uplink(char *text, struct dp_net_link *out, struct dp_error *e) DP_MUST_CHECK;
/* Takes "key=value" or "key" out of a list of options; the value, "" for a flag; NULL: it is not there, or too long. */
char *dp_net_take_option(char *text, const char *key, char *value, size_t room);

/* "ADDRESS:PORT" or "ADDRESS" (then port). */
struct sockaddr_storage;
int dp_net_parse_address(const char *text, uint16_t port, struct sockaddr_storage *out, unsigned *size, struct dp_error *e) DP_MUST_CHECK;

#endif
