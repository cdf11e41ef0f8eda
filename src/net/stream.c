/* stream.c - see stream.h. */
#include "net/stream.h"

void dp_net_stream_reset(struct dp_net_stream *s)
{
    s->at = s->size = 0;
    s->broken = false;
}

uint8_t *dp_net_stream_room(struct dp_net_stream *s, size_t *room)
{
    if (s->at) {
        memmove(s->bytes, s->bytes + s->at, s->size - s->at);
        s->size -= s->at;
        s->at = 0;
    }
    *room = sizeof s->bytes - s->size;
    return s->bytes + s->size;
}

void dp_net_stream_added(struct dp_net_stream *s, size_t n) { s->size += n; }

int dp_net_stream_next(struct dp_net_stream *s, const uint8_t **frame, uint32_t *size)
{
    size_t have = s->size - s->at;
    if (s->broken)
        return -EPROTO;
    if (have < DP_NET_STREAM_HEAD)
        return 0;
    uint32_t n = __builtin_bswap32(dp_ld32(s->bytes + s->at));
    if (n < DP_NET_FRAME_MIN || n > DP_NET_FRAME_MAX) {
        s->broken = true;
        return -EPROTO;
    }
    if (have - DP_NET_STREAM_HEAD < n)
        return 0;
    *frame = s->bytes + s->at + DP_NET_STREAM_HEAD;
    *size = n;
    s->at += DP_NET_STREAM_HEAD + n;
    return 1;
}

void dp_net_stream_put_head(uint8_t head[DP_NET_STREAM_HEAD], uint32_t size) { dp_st32(head, __builtin_bswap32(size)); }
