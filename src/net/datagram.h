/* net/datagram.h - a port whose other end is a descriptor that carries whole frames: a unix socket to a switch, a tap, a packet socket, a
 * UDP tunnel.
 *
 * Model: what the peer sends is written to the descriptor, what is read from it is sent to the peer. With `header` each frame has struct
 * virtio_net_hdr (10 bytes, little-endian) in front, so checksums and segmentation can be left to do on both sides of it.
 * Back-pressure: a descriptor that would block makes the peer wait and is watched until it has room; a peer that takes too few makes the
 * descriptor wait.
 * What comes from the descriptor is hostile: its lengths and its header are checked, what makes no sense is dropped and counted.
 * A packet of one byte with a header's socket says goodbye: the other end closes, and does not want to see this one again.
 * Threads: created, destroyed and read in the loop's thread; the peer may send from any.
 * Source: virtio 1.2 5.1.6 (header); tuntap.rst; packet(7) PACKET_VNET_HDR; unix(7), udp(7).
 */
#ifndef DP_NET_DATAGRAM_H
#define DP_NET_DATAGRAM_H

#include "event/event.h"
#include "net/net.h"

struct dp_net_datagram;

struct dp_net_link { /* a descriptor and what it carries: net/uplink.h opens them */
    int fd;
    bool header;      /* virtio_net_hdr in front of each frame */
    bool is_socket;   /* recvmmsg and sendmmsg; else read and write */
    uint32_t accepts; /* DP_NET_...: work that may be left in what is written to it; needs the header */
};
struct dp_net_datagram_stats {
    uint64_t in, out, dropped /* no sense */, lost /* the descriptor refused them */;
};

/* Takes link->fd, also when it fails. gone: the other end closed it, called once (may be NULL); the port stays, and loses its carrier. */
int dp_net_datagram_create(struct dp_loop *l, const struct dp_net_link *link, void (*gone)(void *opaque), void *opaque,
                           struct dp_net_datagram **out, struct dp_error *e) DP_MUST_CHECK;
/* After `gone`: goes on with another descriptor of the same kind (taken, also when it fails), and has a carrier again. */
int dp_net_datagram_reopen(struct dp_net_datagram *d, const struct dp_net_link *link, struct dp_error *e) DP_MUST_CHECK;
bool dp_net_datagram_dismissed(const struct dp_net_datagram *d); /* the other end said goodbye before it closed */
void dp_net_datagram_dismiss(struct dp_net_datagram *d);         /* says goodbye, if there is room for it */
/* Makes a socket's kernel buffers large: as much as this user may. */
void dp_net_set_buffers(int fd, int size);
void dp_net_datagram_destroy(struct dp_net_datagram *d); /* disconnects; NULL is fine */
struct dp_net_port *dp_net_datagram_port(struct dp_net_datagram *d);
void dp_net_datagram_stats(struct dp_net_datagram *d, struct dp_net_datagram_stats *out);

#endif
