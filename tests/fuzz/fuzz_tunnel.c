/* fuzz_tunnel.c - hostile streams of frames: net/stream.h beside a plain parser, in pieces of any size; the text of tunnels.
 *
 * Input: a byte that chooses: even: text of a tunnel; odd: a stream, whose pieces have sizes that the next byte seeds.
 */
#include <stdlib.h>

#include "net/stream.h"
#include "net/tunnel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                                                                                                                            \
    do {                                                                                                                                   \
        if (x)                                                                                                                             \
            abort();                                                                                                                       \
    } while (0)
enum { TEXT_MAX = 900 };

static void text(const uint8_t *data, size_t size)
{
    char t[TEXT_MAX + 1];
    struct dp_net_tunnel_options o;
    struct dp_error e = {0};
    size = DP_MIN(size, (size_t)TEXT_MAX);
    memcpy(t, data, size);
    t[size] = 0;
    bool udp = !strncmp(t, "udp=", 4);
    int rc = dp_net_tunnel_parse(t, &o, &e);
    MUST(rc < 0 && !*e.text);
    MUST(rc > 0 && udp && !*o.tls && !*o.psk); /* never without protection */
    MUST(strlen(t) > size);
}

/* The frame at *at of the whole stream, as the header says it: 1, 0 or -1. */
static int plain(const uint8_t *data, size_t size, size_t *at, size_t *begin, size_t *length)
{
    if (size - *at < 4)
        return 0;
    *length = (size_t)data[*at] << 24 | (size_t)data[*at + 1] << 16 | (size_t)data[*at + 2] << 8 | data[*at + 3];
    if (*length < 14 || *length > 65550)
        return -1;
    if (size - *at - 4 < *length)
        return 0;
    *begin = *at + 4;
    *at = *begin + *length;
    return 1;
}

static void stream(uint64_t seed, const uint8_t *data, size_t size)
{
    struct dp_net_stream *s = malloc(sizeof *s);
    struct dp_random r;
    size_t given = 0, at = 0, begin = 0, length = 0;
    MUST(!s);
    dp_random_seed(&r, seed);
    dp_net_stream_reset(s);
    for (;;) {
        const uint8_t *frame;
        uint32_t n;
        int rc, want;
        do {
            want = plain(data, given, &at, &begin, &length);
            rc = dp_net_stream_next(s, &frame, &n);
            MUST(want < 0 ? rc != -EPROTO : rc != want);
            MUST(rc == 1 && (n != length || memcmp(frame, data + begin, n)));
        } while (rc == 1);
        if (rc < 0 || given == size)
            break;
        size_t room, piece = 1 + dp_random_next(&r) % (seed & 1 ? 7 : 70000);
        uint8_t *to = dp_net_stream_room(s, &room);
        MUST(!room);
        piece = DP_MIN(DP_MIN(piece, room), size - given);
        memcpy(to, data + given, piece);
        dp_net_stream_added(s, piece);
        given += piece;
    }
    free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    if (data[0] & 1)
        stream(data[1], data + 2, size - 2);
    else
        text(data + 1, size - 1);
    return 0;
}
