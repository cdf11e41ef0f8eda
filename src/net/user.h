/* net/user.h - the user network: a guest reaches what this process can reach, by libslirp, without any privilege.
 *
 * Model: one guest on a network of its own (or the switch's machines, see below), 10.0.2.0/24 and fec0::/64: .2 is the gateway and stands for this host, .3 the name server
 * (this host's), .15 the address that DHCP gives. TCP and UDP end here and go on as this process' sockets; ping works where the host
 * allows ICMP sockets. Forwards listen on the host. TFTP serves a folder, and DHCP names the file to boot. Frames that are not whole ARP
 * or IP packets never reach libslirp; fragments of IPv4 packets reach it as packets (reassembly.h), those of IPv6 it drops.
 * Threads: libslirp is called by the loop's thread only. Frames from a NIC, on any thread, wait in a bounded queue for it; frames to a NIC
 * that is full wait in another, and when that fills, sockets are not read.
 * Bounds: what could begin a connection is dropped while the process has 4,096 descriptors open, or all but 128 of those it may have.
 * Time: libslirp's clock is the VM's, so connections do not time out while the VM is paused.
 * State: none is saved. A restored VM finds its address again, its connections gone.
 * Invariants: no frame waits for ever: who took fewer than it was given calls dp_net_ready. All is created and destroyed by the loop's
 * thread.
 */
#ifndef DP_NET_USER_H
#define DP_NET_USER_H

#include "event/event.h"
#include "net/names.h"
#include "net/options.h"

struct dp_net_user;

int dp_net_user_create(struct dp_loop *l, struct dp_clock *c, struct dp_trace *t, const struct dp_net_user_options *o,
                       struct dp_net_user **out, struct dp_error *e) DP_MUST_CHECK;
void dp_net_user_destroy(struct dp_net_user *u); /* NULL is fine */
struct dp_net_port *dp_net_user_port(struct dp_net_user *u);
/* For many guests, whose addresses and names are somebody else's (names.h): libslirp sees only what that passes on. Before the first frame;
 * the loop's thread calls it. */
void dp_net_user_set_names(struct dp_net_user *u, struct dp_net_names *n);

#endif
