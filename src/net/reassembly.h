/* net/reassembly.h - IPv4 packets from their fragments.
 *
 * Model: a few packets at a time are put together; one that is not whole after 30 s, or in whose way others are, is forgotten. A packet
 * whose fragments overlap, or end at two places, is forgotten too: no honest sender makes one.
 * Invariants: what was received of a packet does not overlap, so it is whole when as many bytes came as its last fragment says.
 * Source: RFC 791 3.2 (fragmentation and reassembly), RFC 1858 and 5722 (overlaps).
 */
#ifndef DP_NET_REASSEMBLY_H
#define DP_NET_REASSEMBLY_H

#include "net/offload.h"

enum { DP_NET_REASSEMBLED = 8 };

struct dp_net_reassembly { /* zeros at first; one thread */
    struct dp_net_datagram {
        uint8_t *bytes;         /* NULL: never used */
        uint8_t *had;           /* a bit for each 8 bytes of payload */
        bool used;
        uint8_t key[11];        /* addresses, protocol, ID */
        uint64_t since;
        uint32_t header;        /* of the first fragment, with Ethernet's; 0: not here yet */
        uint32_t end, received, total; /* payload: the last byte there is, bytes there are, bytes in all (0: unknown) */
    } datagram[DP_NET_REASSEMBLED];
};

bool dp_net_is_fragment(const uint8_t *frame, const struct dp_net_layout *l);
/* Takes a fragment, as dp_net_parse found it in an untagged frame; now: ns. Returns the whole packet in a frame, good until the next call;
 * NULL: something is missing, or wrong. */
uint8_t *dp_net_reassemble(struct dp_net_reassembly *r, const uint8_t *frame, const struct dp_net_layout *l, uint64_t now, uint32_t *size);
void dp_net_reassembly_fini(struct dp_net_reassembly *r);

#endif
