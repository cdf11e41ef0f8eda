/* net/stream.h - frames in a stream of bytes: 32 bits of length, the most significant byte first, and the frame.
 *
 * Model: what was read is put where dp_net_stream_room says, and taken out frame by frame, each valid until the next room is asked for.
 * Invariants: the stream is hostile. What is kept is bounded by the buffer; a length that no frame has ends the stream for good, for
 * nothing says where the next one begins.
 * Source: QEMU's socket and stream netdev, which talk the same.
 */
#ifndef DP_NET_STREAM_H
#define DP_NET_STREAM_H

#include "net/net.h"

enum { DP_NET_STREAM_HEAD = 4, DP_NET_STREAM_BUFFER = 256 << 10 };

struct dp_net_stream {
    size_t at, size; /* what was read and not yet taken: [at, size) */
    bool broken;
    uint8_t bytes[DP_NET_STREAM_BUFFER];
};

void dp_net_stream_reset(struct dp_net_stream *s);
/* Where to put more, and how much (always some, once all whole frames are taken). Frames that were taken before are over. */
uint8_t *dp_net_stream_room(struct dp_net_stream *s, size_t *room);
void dp_net_stream_added(struct dp_net_stream *s, size_t n);
/* 1: the next frame. 0: it is not whole yet. -EPROTO: no frames are in this stream (any more). */
int dp_net_stream_next(struct dp_net_stream *s, const uint8_t **frame, uint32_t *size) DP_MUST_CHECK;
void dp_net_stream_put_head(uint8_t head[DP_NET_STREAM_HEAD], uint32_t size);

#endif
