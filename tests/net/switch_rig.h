/* switch_rig.h - stations around a switch, for tests: each keeps what it was sent. */
#ifndef DP_TESTS_SWITCH_RIG_H
#define DP_TESTS_SWITCH_RIG_H

#include <stdlib.h>

#include "net/switch.h"
#include "tests/net/packets.h"

#define SECOND 1000000000ull
enum { STATIONS = 16, STATION_FRAMES = 4096 };

struct kept {
    uint32_t size, work;
    uint16_t checksum_start, checksum_offset;
    uint8_t *bytes;
};
struct station {
    struct dp_net_port net;
    struct dp_switch_port *port;
    struct kept got[STATION_FRAMES];
    unsigned first, count, room /* ~0: as much as there is */;
    uint64_t total;
    struct dp_net_port *echo; /* sends each frame on from here, at once */
};
struct rig {
    struct dp_clock *clock;
    struct dp_switch *s;
    struct station st[STATIONS];
};

static unsigned station_receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct station *st = opaque;
    unsigned n = 0;
    for (; n < count && st->room; n++) {
        st->room -= st->room != ~0u;
        st->total++;
        if (st->count - st->first == STATION_FRAMES)
            abort();
        struct kept *k = &st->got[st->count++ % STATION_FRAMES];
        *k = (struct kept){frame[n].size, frame[n].work, frame[n].checksum_start, frame[n].checksum_offset, malloc(frame[n].size)};
        size_t sum = 0;
        for (unsigned i = 0; i < frame[n].parts; i++)
            sum += frame[n].part[i].iov_len;
        if (sum != frame[n].size || !k->bytes)
            abort();
        dp_net_gather(&frame[n], k->bytes);
        if (st->echo)
            dp_net_send(st->echo, &frame[n], 1);
    }
    return n;
}
static const struct dp_net_end station_end = {.receive = station_receive};

static inline void station_forget(struct station *st)
{
    for (; st->first != st->count; st->first++)
        free(st->got[st->first % STATION_FRAMES].bytes);
}

static inline void rig_init(struct rig *r, struct dp_switch_options o)
{
    memset(r, 0, sizeof *r);
    if (dp_clock_create_manual(&r->clock, NULL))
        abort();
    o.clock = r->clock;
    if (dp_switch_create(&o, &r->s, NULL))
        abort();
}

static inline struct station *rig_add(struct rig *r, unsigned n, struct dp_switch_port_options o)
{
    struct station *st = &r->st[n];
    snprintf(o.name, sizeof o.name, "p%u", n);
    st->room = ~0u;
    dp_net_port_init(&st->net, &station_end, st, 0);
    if (dp_switch_port_create(r->s, &o, &st->port, NULL) || dp_switch_port_connect(st->port, &st->net, NULL))
        abort();
    return st;
}

static inline void rig_fini(struct rig *r)
{
    dp_switch_destroy(r->s);
    for (unsigned i = 0; i < STATIONS; i++)
        station_forget(&r->st[i]);
    dp_clock_destroy(r->clock);
}

/* Station n's address; 0xff: everybody. */
static inline void mac_of(unsigned n, uint8_t *mac)
{
    static const uint8_t base[6] = {0x52, 0x54, 0, 0xaa, 0, 0};
    memcpy(mac, base, 6);
    mac[5] = (uint8_t)n;
    if (n == 0xff)
        memset(mac, 0xff, 6);
}

enum { NO_TAG = -1 };
/* An Ethernet frame with up to two tags (-1: none; high half of the number: ethertype, 0: 0x8100) and a payload that counts. */
static inline uint32_t make_frame(uint8_t *p, unsigned to, unsigned from, int64_t tag, int64_t inner, unsigned type, uint32_t payload)
{
    uint32_t at = 12;
    mac_of(to, p);
    mac_of(from, p + 6);
    for (int i = 0; i < 2; i++) {
        int64_t t = i ? inner : tag;
        if (t < 0)
            continue;
        put16(p + at, t >> 16 ? (unsigned)(t >> 16) : 0x8100);
        put16(p + at + 2, t & 0xffff);
        at += 4;
    }
    put16(p + at, type);
    at += 2;
    for (uint32_t i = 0; i < payload; i++)
        p[at + i] = (uint8_t)(i * 7 + type);
    return at + payload;
}

static inline void send_bytes(struct station *st, const uint8_t *bytes, uint32_t size)
{
    struct iovec part = {(void *)bytes, size};
    struct dp_net_frame f = {.part = &part, .parts = 1, .size = size};
    if (dp_net_send(&st->net, &f, 1) != 1)
        abort();
}

#endif
