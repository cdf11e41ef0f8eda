/* fuzz_net_user.c - a hostile guest on the user network: bytes become frames, whole or damaged, with work left in them, and a card that is
 * full or not.
 *
 * Input: a byte per operation and its operands (see `operation`). The network is restricted: nothing that is made up here leaves this
 * process. What is tested is our side and, through it, libslirp's.
 */
#include <stdlib.h>

#include "net/user.h"
#include "tests/net/packets.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OPERATIONS_MAX = 100 };

struct world {
    struct dp_loop *loop;
    struct dp_clock *clock;
    struct dp_net_user *user;
    struct dp_net_port port;
    struct dp_net_scratch *scratch;
    unsigned room;
    uint32_t seen;
};
struct input {
    const uint8_t *at, *end;
};

#define MUST(x)                                                                                                                            \
    do {                                                                                                                                   \
        if (x)                                                                                                                             \
            abort();                                                                                                                       \
    } while (0)

static uint64_t take(struct input *in, unsigned n)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < n; i++)
        value |= (uint64_t)(in->at < in->end ? *in->at++ : 0) << i * 8;
    return value;
}

static unsigned card_receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct world *w = opaque;
    unsigned n = DP_MIN(count, w->room);
    w->room -= n;
    for (unsigned i = 0; i < n; i++) {
        MUST(frame[i].work || frame[i].size < DP_NET_FRAME_MIN || frame[i].size > 2000);
        dp_net_gather(&frame[i], w->scratch->input);
        w->seen = packet_sum(w->seen, w->scratch->input, frame[i].size);
    }
    return n;
}
static const struct dp_net_end card_end = {.receive = card_receive};

/* Frames that libslirp answers. */
static uint32_t sample(uint8_t *p, unsigned kind, struct input *in)
{
    static const uint8_t dhcp[] = {1, 1, 6, 0, 1, 2, 3, 4}, cookie[] = {0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255};
    static const char read[] = "\0\1doppel\0octet\0blksize\0"
                               "1400\0tsize\0"
                               "0",
                      name[] = "\1\2\1\0\0\1\0\0\0\0\0\0\3www\0\0\1\0\1";
    uint8_t b[300] = {0};
    switch (kind % 8) {
    case 0:
        packet_ethernet(p, (const uint8_t *)"\xff\xff\xff\xff\xff\xff", 0x0806);
        memcpy(p + 14, "\0\1\x08\0\6\4\0\1", 8);
        memcpy(p + 22, packet_mac, 6);
        put32(p + 28, PACKET_GUEST);
        put32(p + 38, PACKET_HOST);
        return 60;
    case 1:
        memcpy(b, dhcp, sizeof dhcp);
        memcpy(b + 28, packet_mac, 6);
        memcpy(b + 236, cookie, sizeof cookie);
        b[242] = (uint8_t)take(in, 1);
        return packet_udp(p, 0, 68, 0xffffffff, 67, b, sizeof b);
    case 2:
        return packet_udp(p, PACKET_GUEST, 4000, PACKET_HOST, 69, read, sizeof read);
    case 3:
        return packet_udp(p, PACKET_GUEST, 4000, PACKET_HOST, 69, "\0\4\0\1", 4);
    case 4:
        memset(p + 14, 0, 60);
        p[14 + packet_ip(p, PACKET_GUEST, PACKET_HOST, 1, 40) - 14] = 8;
        return 74;
    case 5: { /* neighbour or router solicitation, echo */
        packet_ethernet(p, (const uint8_t *)"\x33\x33\0\0\0\2", 0x86dd);
        uint8_t *ip = p + 14;
        memset(ip, 0, 80);
        ip[0] = 0x60;
        put16(ip + 4, 32);
        ip[6] = 58;
        ip[7] = 255;
        memcpy(ip + 8, "\xfe\xc0\0\0\0\0\0\0\x50\x54\0\xff\xfe\1\2\3\xfe\xc0\0\0\0\0\0\0\0\0\0\0\0\0\0\2", 32);
        static const uint8_t types[] = {135, 133, 128, 136, 134};
        ip[40] = types[take(in, 1) % sizeof types];
        memcpy(ip + 48, ip + 24, 16);
        put16(ip + 42, ~packet_sum(packet_pseudo(ip, true, 58, 32), ip + 40, 32));
        return 14 + 40 + 32;
    }
    case 6:
        return packet_udp(p, PACKET_GUEST, 546, PACKET_HOST + 1, 53, name, sizeof name);
    default:
        return packet_tcp(p, 5000, PACKET_HOST, (unsigned)take(in, 2), (uint32_t)take(in, 4), 0, (unsigned)take(in, 1), "text", 4);
    }
}

static void send_frame(struct world *w, const uint8_t *p, uint32_t size, struct input *in)
{
    uint8_t flags = (uint8_t)take(in, 1);
    struct iovec part[2] = {{(void *)p, size / 3}, {(void *)(p + size / 3), size - size / 3}};
    struct dp_net_frame f = {.part = part, .parts = 2, .size = size};
    if (flags & 1)
        f.work = (uint32_t)take(in, 1) & 31;
    if (f.work) {
        f.checksum_start = flags & 2 ? (uint16_t)take(in, 2) : 34;
        f.checksum_offset = flags & 4 ? (uint16_t)take(in, 2) : 16;
        f.segment_size = (uint16_t)take(in, flags & 8 ? 1 : 2);
    }
    uint32_t progress = 0;
    dp_net_set_accepts(dp_net_user_port(w->user), flags & 16 ? 0 : DP_NET_CHECKSUM | DP_NET_TSO4 | DP_NET_TSO6 | DP_NET_ECN);
    dp_net_send_complete(&w->port, &f, 1, &progress, w->scratch);
}

static void operation(struct world *w, struct input *in)
{
    uint8_t p[2000] = {0};
    unsigned code = (unsigned)take(in, 1);
    uint32_t size;
    switch (code & 7) {
    case 0:
    case 1:
    case 2: /* a sample, with some bytes changed */
        size = sample(p, (unsigned)take(in, 1), in);
        for (unsigned n = code >> 3 & 7; n; n--)
            p[take(in, 1) % size] = (uint8_t)take(in, 1);
        send_frame(w, p, size - (code & 0x40 ? take(in, 1) % size : 0), in);
        break;
    case 3: /* anything behind an Ethernet header */
        size = 14 + take(in, 1);
        packet_ethernet(p, packet_router_mac, code & 8 ? 0x0800 : 0x86dd);
        p[14] = code & 8 ? 0x45 : 0x60;
        for (uint32_t i = code & 16 ? 14 : 15; i < size; i++)
            p[i] = (uint8_t)take(in, 1);
        send_frame(w, p, size, in);
        break;
    case 4:
        w->room = (unsigned)take(in, 1);
        dp_net_ready(&w->port);
        break;
    case 6: { /* a fragment of one of few packets */
        unsigned offset = (unsigned)take(in, code & 0x80 ? 2 : 1) & 0x1fff;
        unsigned bytes = (code >> 3 & 7) * 8 + (code & 0x40 ? (unsigned)take(in, 1) : 0);
        uint32_t at = packet_ip(p, PACKET_GUEST, PACKET_HOST, code & 0x20 ? 17 : 1, bytes);
        memset(p + at, 8, bytes);
        put16(p + 18, (unsigned)take(in, 1) & 3);
        put16(p + 20, ((unsigned)take(in, 1) & 1 ? 0x2000 : 0) | offset);
        put16(p + 24, 0);
        put16(p + 24, ~packet_sum(0, p + 14, 20));
        send_frame(w, p, at + bytes, in);
        break;
    }
    case 5:
        dp_clock_advance(w->clock, take(in, 2) * 1000000);
        break;
    default:
        dp_loop_poll(w->loop, 0);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {.room = 1000, .scratch = malloc(sizeof(struct dp_net_scratch))};
    struct input in = {data, data + size};
    struct dp_net_user_options o = {
        .restricted = true, .no_host = true, .hostname = "fuzz", .tftp = "/usr/share/doppel-has-no-such-folder", .bootfile = "boot"};
    unsigned first = (unsigned)take(&in, 1);
    if (first & 1)
        *o.tftp = 0;
    else
        snprintf(o.tftp, sizeof o.tftp, "/usr/share");
    MUST(!w.scratch || dp_loop_create(&w.loop, NULL) || dp_clock_create_manual(&w.clock, NULL));
    MUST(dp_net_user_create(w.loop, w.clock, NULL, &o, &w.user, NULL));
    dp_net_port_init(&w.port, &card_end, &w, 0);
    MUST(dp_net_connect(&w.port, dp_net_user_port(w.user), NULL));
    for (unsigned n = 0; n < OPERATIONS_MAX && in.at < in.end; n++)
        operation(&w, &in);
    dp_loop_poll(w.loop, 0);
    dp_net_user_destroy(w.user);
    dp_clock_destroy(w.clock);
    dp_loop_destroy(w.loop);
    free(w.scratch);
    return 0;
}
