/* net/net.h - ports: where frames go in and come out. A NIC, the user network, a tap, the switch and a capture are all ends of ports.
 *
 * Model: a port is one end of a cable, embedded in its owner; dp_net_connect joins two. What one end sends the other end takes, in batches
 * and in order, on the sender's thread. Back-pressure is in the return value: an end that is full takes fewer frames than it was given,
 * and calls dp_net_ready when it has room again; the sender keeps what was not taken (a NIC leaves it in its ring) and goes on in its
 * `ready`.
 * Invariants: a frame is Ethernet without its FCS, DP_NET_FRAME_MIN to DP_NET_FRAME_MAX bytes; the receiver copies what it keeps before it
 * returns. A frame with work left to do (checksum, segmentation: virtio-net's header, whose meaning it has) is only sent to an end that
 * accepts that work: net/offload.h does it for ends that do not. With segmentation work left the TCP checksum field holds anything:
 * whoever does the work counts the pseudo-header itself. What an end accepts may change at any time (its driver was reset): it drops
 * frames that have work it accepts no more. Ends are connected and disconnected while both owners are quiet (paused, or not started).
 * Threads: any; no lock is held while calling an end, and an end may send while it is receiving (a switch): it must not hold its lock
 * then.
 * Source: IEEE 802.3-2018 3 (frame), virtio 1.2 5.1.6 (offloads).
 */
#ifndef DP_NET_H
#define DP_NET_H

#include <sys/uio.h>

#include "base/base.h"

enum { DP_NET_HEADER = 14, DP_NET_FRAME_MIN = DP_NET_HEADER, DP_NET_FRAME_MAX = 65550, DP_NET_BATCH = 64 };

/* What is left to do, of a frame; and, in `accepts`, what an end can do. */
enum { DP_NET_CHECKSUM = 1, DP_NET_TSO4 = 2, DP_NET_TSO6 = 4, DP_NET_UFO = 8, DP_NET_ECN = 16 };

struct dp_net_frame {
    const struct iovec *part; /* the bytes, in pieces; all of them valid and stable until the call returns */
    unsigned parts;
    uint32_t size; /* sum of the parts */
    /* 0: complete. DP_NET_CHECKSUM: the Internet checksum from checksum_start to the end goes to checksum_start + checksum_offset.
     * DP_NET_TSO4...: cut what follows the header_size bytes of headers into pieces of segment_size. */
    uint32_t work;
    uint16_t checksum_start, checksum_offset, header_size, segment_size;
};

struct dp_net_end {
    /* Takes frames from the first on and returns how many; the others were not touched. */
    unsigned (*receive)(void *opaque, const struct dp_net_frame *frame, unsigned count);
    /* The other end, that took fewer than it was given, has room again. May be NULL. */
    void (*ready)(void *opaque);
    /* The cable came or went, or the other end's carrier did. May be NULL. */
    void (*link)(void *opaque, bool up);
};

struct dp_net_port {
    const struct dp_net_end *end;
    void *opaque;             /* the owner's */
    uint32_t accepts;         /* DP_NET_...: what may be left to do in frames that this end is given; changed by dp_net_set_accepts */
    bool down;                /* its carrier is off: nothing passes */
    struct dp_net_port *peer; /* NULL: no cable */
};

void dp_net_port_init(struct dp_net_port *p, const struct dp_net_end *end, void *opaque, uint32_t accepts);
/* Joins two ports that have no cable. -EBUSY. */
int dp_net_connect(struct dp_net_port *a, struct dp_net_port *b, struct dp_error *e) DP_MUST_CHECK;
void dp_net_disconnect(struct dp_net_port *p); /* also when there is none */
/* Sends from p: the number of frames that went. Without a link all go, to nowhere. */
unsigned dp_net_send(struct dp_net_port *p, const struct dp_net_frame *frame, unsigned count);
/* p has room again after it took too few. */
void dp_net_ready(struct dp_net_port *p);
bool dp_net_link(const struct dp_net_port *p);
/* What the other end accepts: 0 without one. */
uint32_t dp_net_peer_accepts(const struct dp_net_port *p);
/* What p accepts from now on. Any thread. */
void dp_net_set_accepts(struct dp_net_port *p, uint32_t accepts);
/* Turns an end's carrier on or off, and tells both. */
void dp_net_set_link(struct dp_net_port *p, bool up);

#endif
