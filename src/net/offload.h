/* net/offload.h - checksums and segmentation in software: for ends that accept less than the sender leaves to do.
 *
 * Model: a frame becomes one or more pieces, numbered from 0; any of them can be made again, so a sender that got rid of some keeps only a
 * number. Ends that accept the work get the frame as it is. Everything is worked out from a copy of the frame, whose own lengths are
 * trusted nowhere.
 * Invariants: pieces have no work left, lie within the scratch, and are at most DP_NET_FRAME_MAX bytes; a frame that makes no sense has no
 * pieces.
 * Source: RFC 1071 (checksum), RFC 791, RFC 8200, RFC 9293 (headers), RFC 3168 6.1.2 (CWR is the first segment's), virtio 1.2 5.1.6.2.
 */
#ifndef DP_NET_OFFLOAD_H
#define DP_NET_OFFLOAD_H

#include "net/net.h"

enum { DP_NET_ETHERTYPE_IP = 0x0800, DP_NET_ETHERTYPE_ARP = 0x0806, DP_NET_ETHERTYPE_VLAN = 0x8100, DP_NET_ETHERTYPE_IP6 = 0x86dd };
enum { DP_NET_PROTOCOL_TCP = 6, DP_NET_PROTOCOL_UDP = 17 };

static inline uint16_t dp_net_ld16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline void dp_net_st16(uint8_t *p, uint16_t v)
{
    p[0] = v >> 8;
    p[1] = (uint8_t)v;
}

/* Where a frame's headers are. */
struct dp_net_layout {
    uint16_t ethertype; /* after VLAN tags */
    uint8_t protocol;   /* of IP, after extension headers; 0: a later fragment, or not IP */
    uint32_t network;   /* offset of the network header */
    uint32_t transport; /* of what follows it and its options or extension headers */
    uint32_t payload;   /* of TCP's payload; else the same as transport */
    uint32_t end;       /* of the network packet, by its own length; at most the frame's size */
};
/* False: a header is cut off or its lengths cannot be. */
bool dp_net_parse(const uint8_t *frame, uint32_t size, struct dp_net_layout *out);

/* A number for the connection that a frame belongs to, the same in both directions; 0: it is of none (not IP). Looks at the first
 * bytes only, at no extension header of IPv6. */
uint32_t dp_net_flow(const struct dp_net_frame *f);

/* Sum of 16-bit words as they lie in memory; add sums freely, then fold. */
uint64_t dp_net_sum(const uint8_t *data, size_t size);
uint16_t dp_net_fold(uint64_t sum); /* the complement, to be stored as it lies in memory */
/* The pseudo-header's sum for TCP or UDP of that many bytes. */
uint64_t dp_net_pseudo_sum(const uint8_t *frame, const struct dp_net_layout *l, uint32_t bytes);
/* Copies a frame's bytes [0, size) out of its pieces. */
void dp_net_gather(const struct dp_net_frame *f, uint8_t *to);
/* A copy of a frame with segmentation work, made such that nothing but the TCP checksum is left open: drivers leave lengths and the IP
 * checksum to whoever cuts it. False: it makes no sense. */
bool dp_net_whole_tso(const struct dp_net_frame *f, uint8_t *bytes, struct dp_net_layout *l);
/* Does the checksum work of a whole frame in a copy of its bytes; segments of TSO stay as large as they are. False: makes no sense. */
bool dp_net_finish_checksum(const struct dp_net_frame *f, uint8_t *bytes);

struct dp_net_scratch { /* 200 KB: allocate it */
    struct dp_net_frame frame[DP_NET_BATCH];
    struct iovec part[DP_NET_BATCH];
    uint8_t input[DP_NET_FRAME_MAX];
    uint8_t output[2 * DP_NET_FRAME_MAX];
};

/* The pieces from number `first` on, as many as fit into s; 0: no more of them, or no sense. */
unsigned dp_net_complete(const struct dp_net_frame *f, uint32_t first, struct dp_net_scratch *s);
/* Sends from p, completing what its peer does not accept. Returns how many went wholly (what makes no sense goes to nowhere). *progress, of
 * the first frame, counts pieces that went before, and is updated: to be kept with a frame that has to be sent again, 0 for a fresh one. */
unsigned dp_net_send_complete(struct dp_net_port *p, const struct dp_net_frame *frame, unsigned count, uint32_t *progress,
                              struct dp_net_scratch *s);

#endif
