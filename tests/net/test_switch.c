/* tests/net/test_switch.c - every rule of the switch, by frames that stations send and get. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/net/switch_rig.h"

enum { TYPE = 0x88b5 /* local experiments (IEEE 802) */, ALL = 0xff };
#define ACCESS(v, ...) ((struct dp_switch_port_options){.vlan = (v), ##__VA_ARGS__})

static struct dp_switch_port_options trunk(unsigned native, unsigned a, unsigned b)
{
    struct dp_switch_port_options o = {.mode = DP_SWITCH_TRUNK, .vlan = (uint16_t)native};
    if (a)
        dp_switch_allow(&o, a);
    if (b)
        dp_switch_allow(&o, b);
    return o;
}

/* The station's next frame is exactly this. */
static void expect_bytes(struct station *st, const uint8_t *bytes, uint32_t size)
{
    assert_int_not_equal(st->first, st->count);
    struct kept *k = &st->got[st->first++ % STATION_FRAMES];
    assert_int_equal(k->size, size);
    assert_memory_equal(k->bytes, bytes, size);
    free(k->bytes);
}
static void expect_none(struct station *st) { assert_int_equal(st->first, st->count); }
static void expect(struct station *st, unsigned to, unsigned from, int64_t tag, int64_t inner)
{
    uint8_t bytes[128];
    expect_bytes(st, bytes, make_frame(bytes, to, from, tag, inner, TYPE, 46));
}
static void say(struct station *st, unsigned to, unsigned from, int64_t tag, int64_t inner)
{
    uint8_t bytes[128];
    send_bytes(st, bytes, make_frame(bytes, to, from, tag, inner, TYPE, 46));
}
static uint64_t drops(struct station *st, enum dp_switch_drop why)
{
    struct dp_switch_stats stats;
    dp_switch_port_stats(st->port, &stats);
    return stats.drop[why];
}
static void set(struct station *st, struct dp_switch_port_options o) { assert_int_equal(dp_switch_port_set(st->port, &o, NULL), 0); }

static void learning(void **state)
{
    struct rig r;
    rig_init(&r, (struct dp_switch_options){.table_size = 8});
    struct station *a = rig_add(&r, 0, ACCESS(0)), *b = rig_add(&r, 1, ACCESS(1)), *c = rig_add(&r, 2, ACCESS(1, .mac_limit = 3));
    uint8_t mac[6];
    say(a, 1, 0, NO_TAG, NO_TAG); /* unknown: everywhere but back */
    expect(b, 1, 0, NO_TAG, NO_TAG);
    expect(c, 1, 0, NO_TAG, NO_TAG);
    expect_none(a);
    say(b, 0, 1, NO_TAG, NO_TAG); /* known */
    expect(a, 0, 1, NO_TAG, NO_TAG);
    expect_none(c);
    mac_of(1, mac);
    assert_ptr_equal(dp_switch_find(r.s, 1, mac), b->port);
    assert_null(dp_switch_find(r.s, 2, mac));
    say(a, 0, 5, NO_TAG, NO_TAG); /* to its own side */
    assert_int_equal(drops(a, DP_SWITCH_DROP_LOCAL), 1);
    say(c, ALL, 1, NO_TAG, NO_TAG); /* it moved */
    assert_ptr_equal(dp_switch_find(r.s, 1, mac), c->port);
    dp_clock_advance(r.clock, 301 * SECOND);
    assert_null(dp_switch_find(r.s, 1, mac)); /* it aged */
    for (unsigned i = 0; i < 20; i++)
        say(c, ALL, 20 + i, NO_TAG, NO_TAG); /* no more than its share, and no more than there is room for */
    struct dp_switch_stats stats;
    dp_switch_port_stats(c->port, &stats);
    assert_int_equal(stats.macs, 3);
    assert_int_equal(stats.not_learnt, 17);
    assert_int_equal(stats.in_frames, 21);
    assert_int_equal(stats.in_bytes, 21 * 60);
    station_forget(a);
    say(a, 40, 6, NO_TAG, NO_TAG);
    say(a, ALL, 0, NO_TAG, NO_TAG);
    dp_net_set_link(&c->net, false); /* what was there is forgotten */
    mac_of(20, mac);
    assert_null(dp_switch_find(r.s, 1, mac));
    dp_switch_flush(r.s);
    dp_switch_port_stats(a->port, &stats);
    assert_int_equal(stats.macs, 0);
    rig_fini(&r);
}

static void bad_frames(void **state)
{
    struct rig r;
    rig_init(&r, (struct dp_switch_options){.mtu = 1500});
    struct station *a = rig_add(&r, 0, ACCESS(1)), *b = rig_add(&r, 1, ACCESS(1)), *t = rig_add(&r, 2, trunk(0, 1, 0));
    static uint8_t bytes[DP_NET_FRAME_MAX + 10];
    send_bytes(a, bytes, 0);
    make_frame(bytes, ALL, 0, NO_TAG, NO_TAG, TYPE, 65536);
    send_bytes(a, bytes, 13);
    send_bytes(a, bytes, DP_NET_FRAME_MAX + 1);
    assert_int_equal(drops(a, DP_SWITCH_DROP_SIZE), 3);
    send_bytes(a, bytes, DP_NET_FRAME_MAX);
    send_bytes(a, bytes, 1515);
    assert_int_equal(drops(b, DP_SWITCH_DROP_TOO_BIG), 2);
    send_bytes(a, bytes, 1514);
    expect_bytes(b, bytes, 1514);
    send_bytes(a, bytes, 14);
    expect_bytes(b, bytes, 14);
    station_forget(t);
    make_frame(bytes, ALL, 0, 1, NO_TAG, TYPE, 0);
    send_bytes(t, bytes, 17); /* half a tag */
    assert_int_equal(drops(t, DP_SWITCH_DROP_SIZE), 1);
    make_frame(bytes, ALL, 0, NO_TAG, NO_TAG, TYPE, 46);
    bytes[6] |= 1; /* a group sends */
    send_bytes(a, bytes, 60);
    memset(bytes + 6, 0, 6); /* nobody sends */
    send_bytes(a, bytes, 60);
    assert_int_equal(drops(a, DP_SWITCH_DROP_SOURCE), 2);
    mac_of(0, bytes + 6);
    for (unsigned i = 0; i < 17; i++) { /* spanning tree, pause, LLDP... stay on their cable */
        memcpy(bytes, (uint8_t[]){1, 0x80, 0xc2, 0, 0, (uint8_t)i}, 6);
        send_bytes(a, bytes, 60);
    }
    assert_int_equal(drops(a, DP_SWITCH_DROP_RESERVED), 16);
    expect_bytes(b, bytes, 60);
    expect_none(b);
    rig_fini(&r);
}

static void tags(void **state)
{
    struct rig r;
    rig_init(&r, (struct dp_switch_options){0});
    struct station *a = rig_add(&r, 0, ACCESS(10, .pcp = 3)), *b = rig_add(&r, 1, ACCESS(10)), *c = rig_add(&r, 2, ACCESS(20)),
                   *t = rig_add(&r, 3, trunk(0, 10, 20)), *n = rig_add(&r, 4, trunk(10, 20, 0));
    uint8_t bytes[64], wire[64];
    say(a, ALL, 0, NO_TAG, NO_TAG);
    expect(b, ALL, 0, NO_TAG, NO_TAG);
    expect(t, ALL, 0, 3 << 13 | 10, NO_TAG);
    expect(n, ALL, 0, NO_TAG, NO_TAG); /* its native VLAN */
    expect_none(c);
    /* The tag by its bytes: IEEE 802.1Q-2018 9.4-9.6: TPID 81-00, then PCP in the three high bits, DEI, and 12 bits of VID. */
    say(a, ALL, 0, NO_TAG, NO_TAG);
    uint32_t size = make_frame(bytes, ALL, 0, NO_TAG, NO_TAG, TYPE, 46);
    memcpy(wire, bytes, 12);
    memcpy(wire + 12, "\x81\x00\x60\x0a", 4);
    memcpy(wire + 16, bytes + 12, size - 12);
    expect_bytes(t, wire, size + 4);
    station_forget(b);
    station_forget(n);
    say(t, ALL, 1, 5 << 13 | 0x1000 | 20, NO_TAG); /* PCP and DEI are kept */
    expect(c, ALL, 1, NO_TAG, NO_TAG);
    expect(n, ALL, 1, 5 << 13 | 0x1000 | 20, NO_TAG);
    expect_none(a);
    expect_none(b);
    say(t, ALL, 1, NO_TAG, NO_TAG); /* no native VLAN */
    say(t, ALL, 1, 7 << 13, NO_TAG);
    say(t, ALL, 1, 30, NO_TAG);
    say(t, ALL, 1, 0xfff, NO_TAG);
    say(c, ALL, 1, 20, NO_TAG); /* a tag at an access port */
    assert_int_equal(drops(t, DP_SWITCH_DROP_VLAN), 4);
    assert_int_equal(drops(c, DP_SWITCH_DROP_VLAN), 1);
    for (unsigned i = 0; i < 5; i++)
        expect_none(&r.st[i]);
    say(a, ALL, 0, 6 << 13, NO_TAG); /* only a priority */
    expect(b, ALL, 0, NO_TAG, NO_TAG);
    expect(t, ALL, 0, 6 << 13 | 10, NO_TAG);
    expect(n, ALL, 0, NO_TAG, NO_TAG);
    set(a, ACCESS(10, .pcp = 2, .force_pcp = true, .own_tag = true));
    say(a, ALL, 0, 6 << 13 | 10, NO_TAG); /* its own VLAN's, with a priority that it does not have */
    expect(b, ALL, 0, NO_TAG, NO_TAG);
    expect(t, ALL, 0, 2 << 13 | 10, NO_TAG);
    expect(n, ALL, 0, NO_TAG, NO_TAG);
    say(a, ALL, 0, 20, NO_TAG);
    assert_int_equal(drops(a, DP_SWITCH_DROP_VLAN), 1);
    /* Each VLAN learns for itself. */
    say(c, ALL, 0, NO_TAG, NO_TAG);
    station_forget(t);
    station_forget(n);
    say(t, 0, 9, 10, NO_TAG);
    expect(a, 0, 9, NO_TAG, NO_TAG);
    say(t, 0, 9, 20, NO_TAG);
    expect(c, 0, 9, NO_TAG, NO_TAG);
    for (unsigned i = 0; i < 5; i++)
        expect_none(&r.st[i]);
    rig_fini(&r);
}

static void hopping(void **state)
{
    struct rig r;
    rig_init(&r, (struct dp_switch_options){0});
    struct station *a = rig_add(&r, 0, ACCESS(1, .own_tag = true)), *b = rig_add(&r, 1, ACCESS(1)), *t = rig_add(&r, 2, trunk(1, 20, 0)),
                   *u = rig_add(&r, 3, trunk(0, 1, 20));
    static const int64_t outer[] = {1, 0, 0x88a8ll << 16 | 1, 0x88a8ll << 16 | 20, 0x9100ll << 16 | 1, 20};
    for (unsigned i = 0; i < DP_ARRAY_LEN(outer); i++) {
        say(a, ALL, 0, outer[i], 20);
        say(a, ALL, 0, outer[i], 0x88a8ll << 16 | 20);
    }
    assert_int_equal(drops(a, DP_SWITCH_DROP_VLAN), 12);
    say(a, ALL, 0, 0x88a8ll << 16 | 20, NO_TAG);
    assert_int_equal(drops(a, DP_SWITCH_DROP_VLAN), 13);
    for (unsigned i = 0; i < 4; i++)
        expect_none(&r.st[i]);
    /* A trunk may have tags inside; they never come out as the first. */
    say(u, ALL, 3, 1, 20);
    expect_none(t);
    expect_none(b);
    assert_int_equal(drops(t, DP_SWITCH_DROP_DOUBLE_TAG), 1);
    assert_int_equal(drops(b, DP_SWITCH_DROP_DOUBLE_TAG), 1);
    say(u, ALL, 3, 20, 1);
    expect(t, ALL, 3, 20, 1);
    say(t, ALL, 4, 0x88a8ll << 16 | 20, NO_TAG); /* untagged, by a customer's bridge: native */
    expect(u, ALL, 4, 1, 0x88a8ll << 16 | 20);
    expect_none(a);
    expect_none(b);
    rig_fini(&r);
}

static void isolation(void **state)
{
    struct rig r;
    rig_init(&r, (struct dp_switch_options){0});
    struct station *a = rig_add(&r, 0, ACCESS(1, .isolated = true)), *b = rig_add(&r, 1, ACCESS(1, .isolated = true)),
                   *c = rig_add(&r, 2, ACCESS(1)), *up = rig_add(&r, 3, ACCESS(1, .uplink = true));
    say(a, ALL, 0, NO_TAG, NO_TAG);
    expect(up, ALL, 0, NO_TAG, NO_TAG);
    say(c, ALL, 2, NO_TAG, NO_TAG);
    expect(up, ALL, 2, NO_TAG, NO_TAG);
    say(up, ALL, 3, NO_TAG, NO_TAG);
    expect(a, ALL, 3, NO_TAG, NO_TAG);
    expect(b, ALL, 3, NO_TAG, NO_TAG);
    expect(c, ALL, 3, NO_TAG, NO_TAG);
    say(b, 0, 1, NO_TAG, NO_TAG); /* a known address does not help */
    say(c, 0, 2, NO_TAG, NO_TAG);
    assert_int_equal(drops(b, DP_SWITCH_DROP_ISOLATED), 1);
    assert_int_equal(drops(c, DP_SWITCH_DROP_ISOLATED), 1);
    say(b, 3, 1, NO_TAG, NO_TAG);
    expect(up, 3, 1, NO_TAG, NO_TAG);
    for (unsigned i = 0; i < 4; i++)
        expect_none(&r.st[i]);
    rig_fini(&r);
}

static void mirrors(void **state)
{
    struct rig r;
    rig_init(&r, (struct dp_switch_options){0});
    struct station *a = rig_add(&r, 0, ACCESS(1)), *t = rig_add(&r, 1, trunk(0, 1, 2)),
                   *m = rig_add(&r, 2, (struct dp_switch_port_options){.mode = DP_SWITCH_MIRROR});
    struct dp_error e;
    assert_int_equal(dp_switch_mirror(a->port, t->port, true, true, &e), -EINVAL);
    assert_int_equal(dp_switch_mirror(m->port, m->port, true, true, &e), -EINVAL);
    assert_int_equal(dp_switch_mirror(a->port, m->port, true, false, &e), 0);
    assert_int_equal(dp_switch_mirror(t->port, m->port, false, true, &e), 0);
    say(a, ALL, 0, NO_TAG, NO_TAG);
    expect(t, ALL, 0, 1, NO_TAG);
    expect(m, ALL, 0, NO_TAG, NO_TAG); /* as it came */
    expect(m, ALL, 0, 1, NO_TAG);      /* and as it went */
    say(a, ALL, 0, 9, NO_TAG);         /* dropped, and seen */
    expect(m, ALL, 0, 9, NO_TAG);
    say(t, ALL, 1, 2, NO_TAG);
    say(m, ALL, 2, NO_TAG, NO_TAG);
    assert_int_equal(drops(m, DP_SWITCH_DROP_MIRROR), 1);
    assert_int_equal(dp_switch_mirror(a->port, m->port, false, false, &e), 0);
    say(a, ALL, 0, 9, NO_TAG);
    for (unsigned i = 0; i < 3; i++)
        expect_none(&r.st[i]);
    dp_switch_port_destroy(m->port);
    say(a, ALL, 0, NO_TAG, NO_TAG);
    expect(t, ALL, 0, 1, NO_TAG);
    rig_fini(&r);
}

static void rates(void **state)
{
    struct rig r;
    rig_init(&r, (struct dp_switch_options){0});
    struct station *a = rig_add(&r, 0, ACCESS(1, .in = {6000, 600})), *b = rig_add(&r, 1, ACCESS(1)),
                   *c = rig_add(&r, 2, ACCESS(1, .out = {3000, 60}));
    for (unsigned i = 0; i < 20; i++)
        say(a, ALL, 0, NO_TAG, NO_TAG);
    assert_int_equal(b->total, 10); /* the burst */
    assert_int_equal(drops(a, DP_SWITCH_DROP_RATE_IN), 10);
    assert_int_equal(c->total, 1);
    assert_int_equal(drops(c, DP_SWITCH_DROP_RATE_OUT), 9);
    for (unsigned i = 0; i < 100000; i++) { /* ten seconds in steps that are less than a byte */
        dp_clock_advance(r.clock, SECOND / 10000);
        if (i % 10 == 0)
            say(a, ALL, 0, NO_TAG, NO_TAG);
        if (i % 1000 == 0) {
            station_forget(b);
            station_forget(c);
        }
    }
    assert_in_range(b->total, 1009, 1012);
    assert_in_range(c->total, 500, 503);
    dp_clock_advance(r.clock, 3000000 * SECOND); /* nothing overflows, nothing is saved above the burst */
    uint64_t before = b->total;
    for (unsigned i = 0; i < 20; i++)
        say(a, ALL, 0, NO_TAG, NO_TAG);
    assert_int_equal(b->total - before, 10);
    rig_fini(&r);
}

static void floods(void **state)
{
    struct rig r;
    rig_init(&r, (struct dp_switch_options){0});
    struct station *a = rig_add(&r, 0, ACCESS(1, .broadcasts = 10, .multicasts = 20, .unknowns = 30)), *b = rig_add(&r, 1, ACCESS(1));
    uint8_t bytes[64];
    for (unsigned i = 0; i < 10; i++) {
        say(a, ALL, 0, NO_TAG, NO_TAG);
        say(a, 9, 0, NO_TAG, NO_TAG);
        make_frame(bytes, ALL, 0, NO_TAG, NO_TAG, TYPE, 46);
        memcpy(bytes, "\1\0\x5e\1\2\3", 6);
        send_bytes(a, bytes, 60);
    }
    assert_int_equal(b->total, 1 + 2 + 3); /* a tenth of a second's */
    assert_int_equal(drops(a, DP_SWITCH_DROP_FLOOD), 24);
    say(b, 0, 1, NO_TAG, NO_TAG);
    for (unsigned i = 0; i < 10; i++)
        say(a, 1, 0, NO_TAG, NO_TAG); /* not flooded, not limited */
    assert_int_equal(b->total, 16);
    dp_clock_advance(r.clock, 2 * SECOND);
    say(a, ALL, 0, NO_TAG, NO_TAG);
    assert_int_equal(b->total, 17);
    rig_fini(&r);
}

static void full(void **state)
{
    struct rig r;
    rig_init(&r, (struct dp_switch_options){0});
    struct station *a = rig_add(&r, 0, ACCESS(1)), *b = rig_add(&r, 1, ACCESS(1)), *c = rig_add(&r, 2, ACCESS(1));
    b->room = 2;
    uint8_t bytes[64];
    struct iovec part[2] = {{bytes, 20}, {bytes + 20, 40}}; /* a frame in pieces, too */
    struct dp_net_frame f[130];
    make_frame(bytes, ALL, 0, NO_TAG, NO_TAG, TYPE, 46);
    for (unsigned i = 0; i < 130; i++)
        f[i] = (struct dp_net_frame){.part = part, .parts = 2, .size = 60};
    assert_int_equal(dp_net_send(&a->net, f, 130), 130); /* senders never wait */
    assert_int_equal(b->total, 2);
    assert_int_equal(c->total, 130);
    expect_bytes(c, bytes, 60);
    struct dp_switch_stats stats;
    dp_switch_port_stats(b->port, &stats);
    assert_int_equal(stats.drop[DP_SWITCH_DROP_FULL], 128);
    assert_int_equal(stats.out_frames, 2);
    assert_int_equal(stats.out_bytes, 120);
    rig_fini(&r);
}

static void offload(void **state)
{
    struct rig r;
    rig_init(&r, (struct dp_switch_options){.mtu = 1500});
    struct station *a = rig_add(&r, 0, ACCESS(1)), *b = rig_add(&r, 1, ACCESS(1)), *t = rig_add(&r, 2, trunk(0, 1, 0));
    static uint8_t bytes[9000], data[8000];
    struct iovec part = {bytes, 0};
    /* A checksum left open: kept for who accepts it, at its place behind the tag; else done. */
    uint32_t size = packet_udp(bytes, PACKET_GUEST, 1000, PACKET_HOST, 2000, "hello", 5);
    uint8_t good[128];
    memcpy(good, bytes, size);
    put16(bytes + 40, packet_sum(packet_pseudo(bytes + 14, false, 17, 13), NULL, 0));
    part.iov_len = size;
    struct dp_net_frame f = {.part = &part, .parts = 1, .size = size, .work = DP_NET_CHECKSUM, .checksum_start = 34, .checksum_offset = 6};
    dp_net_set_accepts(&t->net, DP_NET_CHECKSUM);
    assert_int_equal(dp_net_send(&a->net, &f, 1), 1);
    expect_bytes(b, good, size);
    struct kept *k = &t->got[0];
    assert_int_equal(k->work, DP_NET_CHECKSUM);
    assert_int_equal(k->checksum_start, 38);
    assert_int_equal(k->checksum_offset, 6);
    assert_int_equal(k->size, size + 4);
    station_forget(t);
    dp_net_set_accepts(&t->net, 0); /* done here, behind a tag */
    assert_int_equal(dp_net_send(&a->net, &f, 1), 1);
    uint8_t wire[128];
    memcpy(wire, good, 12);
    memcpy(wire + 12, "\x81\0\0\1", 4);
    memcpy(wire + 16, good + 12, size - 12);
    expect_bytes(t, wire, size + 4);
    station_forget(b);
    /* A large segment, cut. */
    size = packet_tcp(bytes, 1000, PACKET_HOST, 80, 100, 0, T_ACK, data, sizeof data);
    part.iov_len = size;
    f = (struct dp_net_frame){.part = &part, .parts = 1, .size = size, .work = DP_NET_TSO4 | DP_NET_CHECKSUM, .checksum_start = 34,
                              .checksum_offset = 16, .header_size = 54, .segment_size = 1460};
    dp_net_set_accepts(&b->net, DP_NET_TSO4 | DP_NET_CHECKSUM);
    assert_int_equal(dp_net_send(&a->net, &f, 1), 1);
    assert_int_equal(b->count - b->first, 1); /* whole */
    assert_int_equal(t->count - t->first, 6);
    for (unsigned i = 0; i < 6; i++) {
        k = &t->got[(t->first + i) % STATION_FRAMES];
        assert_int_equal(k->size, i < 5 ? 18 + 40 + 1460 : 18 + 40 + 700);
        assert_memory_equal(k->bytes + 12, "\x81\0\0\1\x08\0", 6);
        assert_int_equal(packet_sum(packet_pseudo(k->bytes + 18, false, 6, k->size - 38), k->bytes + 38, k->size - 38), 0xffff);
    }
    /* Senseless work goes nowhere. */
    f.segment_size = 0;
    dp_net_send(&a->net, &f, 1);
    f = (struct dp_net_frame){.part = &part, .parts = 1, .size = 60, .work = DP_NET_CHECKSUM, .checksum_start = 60};
    dp_net_send(&a->net, &f, 1);
    f.checksum_start = 3;
    dp_net_send(&a->net, &f, 1);
    f = (struct dp_net_frame){.part = &part, .parts = 1, .size = 60, .work = DP_NET_UFO, .segment_size = 100};
    dp_net_send(&a->net, &f, 1);
    assert_int_equal(drops(a, DP_SWITCH_DROP_SIZE), 4);
    rig_fini(&r);
}

static void loop_guard(void **state)
{
    struct rig r;
    rig_init(&r, (struct dp_switch_options){0});
    struct station *a = rig_add(&r, 0, ACCESS(1)), *b = rig_add(&r, 1, ACCESS(1)), *c = rig_add(&r, 2, ACCESS(1)),
                   *up = rig_add(&r, 3, ACCESS(1, .uplink = true));
    struct dp_switch_stats stats;
    say(a, ALL, 0, NO_TAG, NO_TAG);
    for (unsigned i = 0; i < 5; i++) { /* b says that it is a, who goes on */
        say(b, ALL, 0, NO_TAG, NO_TAG);
        say(a, ALL, 0, NO_TAG, NO_TAG);
    }
    dp_switch_port_stats(b->port, &stats);
    assert_true(stats.blocked && stats.blocks == 1);
    dp_switch_port_stats(a->port, &stats);
    assert_false(stats.blocked);
    station_forget(b);
    station_forget(c);
    say(a, ALL, 0, NO_TAG, NO_TAG); /* nothing to it, nothing from it */
    say(b, ALL, 1, NO_TAG, NO_TAG);
    expect_none(b);
    expect(c, ALL, 0, NO_TAG, NO_TAG);
    expect_none(c);
    assert_int_equal(drops(b, DP_SWITCH_DROP_BLOCKED), 3); /* one when it was blocked */
    dp_clock_advance(r.clock, 10 * SECOND + 1);
    say(b, ALL, 1, NO_TAG, NO_TAG);
    expect(c, ALL, 1, NO_TAG, NO_TAG);
    /* What is learnt first on a guest's port and is the uplink's. */
    say(c, ALL, 7, NO_TAG, NO_TAG);
    for (unsigned i = 0; i < 5; i++) {
        say(up, ALL, 7, NO_TAG, NO_TAG);
        say(c, ALL, 7, NO_TAG, NO_TAG);
    }
    dp_switch_port_stats(c->port, &stats);
    assert_true(stats.blocked);
    dp_switch_port_stats(up->port, &stats);
    assert_false(stats.blocked);
    /* Who is silent is not made a guest in its own house. */
    dp_clock_advance(r.clock, 100 * SECOND);
    say(a, ALL, 9, NO_TAG, NO_TAG);
    say(b, ALL, 9, NO_TAG, NO_TAG);
    dp_clock_advance(r.clock, 2 * SECOND);
    for (unsigned i = 0; i < 5; i++) {
        say(a, ALL, 9, NO_TAG, NO_TAG);
        say(b, ALL, 9, NO_TAG, NO_TAG);
    }
    dp_switch_port_stats(a->port, &stats);
    assert_false(stats.blocked);
    dp_switch_port_stats(b->port, &stats);
    assert_int_equal(stats.blocks, 2);
    dp_clock_advance(r.clock, 100 * SECOND);
    /* Who moves now and then is no loop. */
    for (unsigned i = 0; i < 50; i++) {
        say(i & 1 ? a : b, ALL, 8, NO_TAG, NO_TAG);
        dp_clock_advance(r.clock, SECOND / 5);
    }
    dp_switch_port_stats(b->port, &stats);
    assert_int_equal(stats.blocks, 2);
    rig_fini(&r);
}

/* Two switches joined by two cables. */
static void loop(void **state)
{
    struct rig r;
    rig_init(&r, (struct dp_switch_options){0});
    struct dp_switch_options o = {.clock = r.clock};
    struct dp_switch *other;
    struct dp_switch_port *near[2], *far[2];
    struct dp_switch_port_options access = ACCESS(1);
    struct station *a = rig_add(&r, 0, ACCESS(1)), *b = rig_add(&r, 1, ACCESS(1));
    assert_int_equal(dp_switch_create(&o, &other, NULL), 0);
    struct station pipe[4];
    memset(pipe, 0, sizeof pipe);
    for (unsigned i = 0; i < 2; i++) { /* stations that pass on: a cable */
        assert_int_equal(dp_switch_port_create(r.s, &access, &near[i], NULL), 0);
        assert_int_equal(dp_switch_port_create(other, &access, &far[i], NULL), 0);
        for (unsigned k = 0; k < 2; k++) {
            struct station *st = &pipe[i * 2 + k];
            st->room = ~0u;
            st->echo = &pipe[i * 2 + !k].net;
            dp_net_port_init(&st->net, &station_end, st, 0);
            assert_int_equal(dp_switch_port_connect(k ? far[i] : near[i], &st->net, NULL), 0);
        }
    }
    say(a, ALL, 0, NO_TAG, NO_TAG); /* ends */
    assert_true(b->total >= 1);
    for (unsigned i = 0; i < 20; i++)
        say(a, ALL, 0, NO_TAG, NO_TAG);
    struct dp_switch_stats stats[3];
    dp_switch_port_stats(a->port, &stats[0]);
    dp_switch_port_stats(near[0], &stats[1]);
    dp_switch_port_stats(near[1], &stats[2]);
    assert_false(stats[0].blocked);
    assert_true(stats[1].blocked || stats[2].blocked);
    uint64_t before = b->total;
    say(a, ALL, 0, NO_TAG, NO_TAG);
    assert_int_equal(b->total - before, 1);
    dp_switch_destroy(other);
    for (unsigned i = 0; i < 2; i++)
        dp_switch_port_destroy(near[i]);
    for (unsigned i = 0; i < 4; i++)
        station_forget(&pipe[i]);
    rig_fini(&r);
}

static void guard_case(struct station *st, bool fine, const uint8_t *bytes, uint32_t size, struct station *other)
{
    uint64_t before = drops(st, DP_SWITCH_DROP_SPOOF);
    station_forget(other);
    send_bytes(st, bytes, size);
    assert_int_equal(drops(st, DP_SWITCH_DROP_SPOOF) - before, !fine);
    if (fine)
        expect_bytes(other, bytes, size);
    expect_none(other);
}

static uint32_t make_arp(uint8_t *p, const uint8_t *hardware, uint32_t ip)
{
    memset(p, 0, 60);
    packet_ethernet(p, (const uint8_t *)"\xff\xff\xff\xff\xff\xff", 0x0806);
    memcpy(p + 14, "\0\1\x08\0\6\4\0\1", 8);
    memcpy(p + 22, hardware, 6);
    put32(p + 28, ip);
    put32(p + 38, PACKET_HOST);
    return 60;
}

static uint32_t make_ip6(uint8_t *p, const uint8_t *from, unsigned next, const uint8_t *payload, uint32_t n)
{
    packet_ethernet(p, (const uint8_t *)"\x33\x33\0\0\0\1", 0x86dd);
    memset(p + 14, 0, 40);
    p[14] = 0x60;
    put16(p + 18, n);
    p[20] = (uint8_t)next;
    p[21] = 255;
    memcpy(p + 22, from, 16);
    memcpy(p + 38, "\xff\2\0\0\0\0\0\0\0\0\0\0\0\0\0\1", 16);
    memcpy(p + 54, payload, n);
    return 54 + n;
}

static void guard(void **state)
{
    static const uint8_t mine6[16] = {0xfe, 0x80, [15] = 1}, other6[16] = {0xfe, 0x80, [15] = 2}, none6[16];
    struct dp_switch_port_options o = ACCESS(1, .guard_ip = true, .no_server = true, .macs = 1, .ip4s = 1, .ip6s = 1);
    memcpy(o.mac[0], packet_mac, 6);
    put32(o.ip4[0], PACKET_GUEST);
    memcpy(o.ip6[0], mine6, 16);
    struct rig r;
    rig_init(&r, (struct dp_switch_options){.snooping = true});
    struct station *a = rig_add(&r, 0, o), *b = rig_add(&r, 1, ACCESS(1));
    uint8_t p[256], q[256], nd[64];
    uint32_t n = packet_udp(p, PACKET_GUEST, 5, PACKET_HOST, 6, "x", 1);
    guard_case(a, true, p, n, b);
    memcpy(q, p, n);
    q[11]++; /* another's address */
    guard_case(a, false, q, n, b);
    n = packet_udp(p, PACKET_GUEST + 1, 5, PACKET_HOST, 6, "x", 1);
    guard_case(a, false, p, n, b);
    n = packet_udp(p, 0, 68, 0xffffffff, 67, "x", 1); /* DHCP asks */
    guard_case(a, true, p, n, b);
    n = packet_udp(p, 0, 69, 0xffffffff, 67, "x", 1);
    guard_case(a, false, p, n, b);
    n = packet_udp(p, PACKET_GUEST, 67, 0xffffffff, 68, "x", 1); /* and does not answer */
    guard_case(a, false, p, n, b);
    n = packet_udp(p, PACKET_GUEST, 5, PACKET_HOST, 6, "x", 1);
    guard_case(a, false, p, 33, b); /* cut */
    p[14] = 0x44;
    guard_case(a, false, p, n, b);
    guard_case(a, true, p, make_arp(p, packet_mac, PACKET_GUEST), b);
    guard_case(a, true, p, make_arp(p, packet_mac, 0), b); /* a probe */
    guard_case(a, false, p, make_arp(p, packet_mac, PACKET_GUEST + 1), b);
    guard_case(a, false, p, make_arp(p, packet_router_mac, PACKET_GUEST), b);
    make_arp(p, packet_mac, PACKET_GUEST);
    guard_case(a, false, p, 41, b);
    make_arp(p, packet_mac, PACKET_GUEST);
    put16(p + 12, 0x8035); /* RARP announces itself */
    put16(p + 20, 3);
    memcpy(p + 32, packet_mac, 6);
    guard_case(a, true, p, 60, b);
    p[37]++;
    guard_case(a, false, p, 60, b);
    /* ND. A solicitation with its own link address, then another's; advertisements of what is not its own. */
    memset(nd, 0, sizeof nd);
    nd[0] = 135;
    memcpy(nd + 8, other6, 16);
    memcpy(nd + 24, "\1\1", 2);
    memcpy(nd + 26, packet_mac, 6);
    guard_case(a, true, p, make_ip6(p, mine6, 58, nd, 32), b);
    guard_case(a, false, p, make_ip6(p, other6, 58, nd, 32), b);
    nd[31]++;
    guard_case(a, false, p, make_ip6(p, mine6, 58, nd, 32), b);
    guard_case(a, true, p, make_ip6(p, none6, 58, nd, 24), b); /* duplicate address detection */
    nd[0] = 136;
    guard_case(a, false, p, make_ip6(p, mine6, 58, nd, 24), b);
    memcpy(nd + 8, mine6, 16);
    guard_case(a, true, p, make_ip6(p, mine6, 58, nd, 24), b);
    guard_case(a, false, p, make_ip6(p, mine6, 58, nd, 23), b);
    nd[0] = 134;
    guard_case(a, false, p, make_ip6(p, mine6, 58, nd, 24), b); /* no router */
    nd[0] = 130;
    guard_case(a, false, p, make_ip6(p, mine6, 58, nd, 24), b); /* no querier */
    packet_ip(p, PACKET_GUEST, 0xe0000001, 2, 8);
    p[34] = 0x11;
    guard_case(a, false, p, 42, b);
    p[34] = 0x16;
    guard_case(a, true, p, 42, b);
    /* An advertisement behind an extension header, and in a fragment. */
    memset(nd, 0, sizeof nd);
    nd[0] = 58;
    nd[8] = 134;
    guard_case(a, false, p, make_ip6(p, mine6, 60, nd, 40), b);
    guard_case(a, false, p, make_ip6(p, mine6, 44, nd, 40), b);
    nd[8] = 128;
    guard_case(a, true, p, make_ip6(p, mine6, 60, nd, 40), b);
    nd[1] = 200;
    guard_case(a, false, p, make_ip6(p, mine6, 60, nd, 40), b);
    n = make_frame(p, ALL, 0, NO_TAG, NO_TAG, TYPE, 46); /* what cannot be judged */
    memcpy(p + 6, packet_mac, 6);
    guard_case(a, false, p, n, b);
    /* Only addresses of cards. */
    o = ACCESS(1, .macs = 1);
    memcpy(o.mac[0], packet_mac, 6);
    set(a, o);
    guard_case(a, true, p, n, b);
    guard_case(a, true, p, packet_udp(p, 7, 5, 8, 6, "x", 1), b);
    guard_case(a, false, p, make_arp(p, packet_router_mac, 7), b);
    rig_fini(&r);
}

static uint32_t make_igmp(uint8_t *p, uint32_t from, uint32_t to, const uint8_t *igmp, uint32_t n, unsigned source)
{
    packet_ip(p, from, to, 2, n);
    memcpy(p, (uint8_t[]){1, 0, 0x5e, to >> 16 & 0x7f, to >> 8 & 0xff, to & 0xff}, 6);
    mac_of(source, p + 6);
    memcpy(p + 34, igmp, n);
    return 34 + n;
}

static void snooping(void **state)
{
    struct rig r;
    rig_init(&r, (struct dp_switch_options){.snooping = true});
    struct station *a = rig_add(&r, 0, ACCESS(1)), *b = rig_add(&r, 1, ACCESS(1)), *c = rig_add(&r, 2, ACCESS(1)),
                   *router = rig_add(&r, 3, ACCESS(1));
    const uint8_t query[8] = {0x11, 100}, report2[8] = {0x16, 0, 0, 0, 239, 1, 2, 3};
    const uint8_t report3[16] = {0x22, [7] = 1, 4, 0, 0, 0, 239, 1, 2, 4}, leave3[16] = {0x22, [7] = 1, 3, 0, 0, 0, 239, 1, 2, 5};
    uint8_t p[128], data[64];
    uint32_t n, size = make_igmp(data, PACKET_GUEST, 0xef010203, report2, 8, 0);
    data[23] = 17; /* UDP to 239.1.2.3, near enough */
    n = make_igmp(p, PACKET_GUEST, 0xef010203, report2, 8, 1);
    send_bytes(b, p, n);
    send_bytes(a, data, size); /* no querier: to all */
    expect_bytes(c, p, n);
    expect_bytes(c, data, size);
    station_forget(a);
    station_forget(b);
    station_forget(router);
    n = make_igmp(p, PACKET_HOST, 0xe0000001, query, 8, 3);
    send_bytes(router, p, n);
    expect_bytes(a, p, n);
    station_forget(b);
    station_forget(c);
    send_bytes(a, data, size); /* b is a member, and the router hears all */
    expect_bytes(b, data, size);
    expect_bytes(router, data, size);
    expect_none(c);
    n = make_igmp(p, PACKET_GUEST, 0xe0000016, report3, 16, 2);
    send_bytes(c, p, n);
    n = make_igmp(p, PACKET_GUEST, 0xe0000016, leave3, 16, 2);
    send_bytes(c, p, n);
    expect_none(a); /* reports go to routers */
    expect_none(b);
    assert_int_equal(router->count - router->first, 2);
    station_forget(router);
    data[5] = 4; /* 239.1.2.4: c's */
    send_bytes(a, data, size);
    expect_none(b);
    expect_bytes(c, data, size);
    expect_bytes(router, data, size);
    data[5] = 5; /* nobody's: flooded */
    send_bytes(a, data, size);
    expect_bytes(b, data, size);
    expect_bytes(c, data, size);
    memcpy(data, "\1\0\x5e\0\0\xfb", 6); /* 224.0.0.251 */
    send_bytes(a, data, size);
    expect_bytes(b, data, size);
    expect_bytes(c, data, size);
    station_forget(router);
    /* MLD: a report for ff02::1:3, behind a router alert. */
    uint8_t mld[32] = {58, 0, 5, 2, 0, 0, 1, 0, 131}, lladdr[16] = {0xfe, 0x80, [15] = 9};
    memcpy(mld + 16, "\xff\2\0\0\0\0\0\0\0\0\0\0\0\1\0\3", 16);
    n = make_ip6(p, lladdr, 0, mld, 32);
    memcpy(p, "\x33\x33\0\1\0\3", 6);
    send_bytes(b, p, n);
    expect_none(c);
    station_forget(router);
    memcpy(data, "\x33\x33\0\1\0\3", 6);
    put16(data + 12, TYPE);
    send_bytes(a, data, size);
    expect_bytes(b, data, size);
    expect_none(c);
    /* Members age, and then queriers. */
    dp_clock_advance(r.clock, 261 * SECOND);
    send_bytes(a, data, size);
    expect_bytes(b, data, size);
    expect_bytes(c, data, size);
    rig_fini(&r);
}

static void bad_options(void **state)
{
    struct rig r;
    struct dp_error e;
    struct dp_switch_port *p;
    rig_init(&r, (struct dp_switch_options){0});
    struct station *a = rig_add(&r, 0, ACCESS(1));
    struct dp_switch_port_options bad[] = {ACCESS(4095), ACCESS(1, .pcp = 8), ACCESS(1, .isolated = true, .uplink = true),
                                           ACCESS(1, .macs = 9), ACCESS(1, .mode = 7), trunk(1, 4095, 2), trunk(1, 64 * 64, 0)};
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++) {
        assert_int_equal(dp_switch_port_create(r.s, &bad[i], &p, &e), -EINVAL);
        assert_int_equal(dp_switch_port_set(a->port, &bad[i], &e), -EINVAL);
    }
    struct dp_switch_port_options mirror = {.mode = DP_SWITCH_MIRROR}, access = ACCESS(1);
    assert_int_equal(dp_switch_port_set(a->port, &mirror, &e), -EINVAL);
    for (unsigned i = 0; i < DP_SWITCH_MIRRORS; i++)
        assert_int_equal(dp_switch_port_create(r.s, &mirror, &p, &e), 0);
    assert_int_equal(dp_switch_port_create(r.s, &mirror, &p, &e), -ENOSPC);
    for (unsigned i = 1 + DP_SWITCH_MIRRORS; i < DP_SWITCH_PORTS; i++)
        assert_int_equal(dp_switch_port_create(r.s, &access, &p, &e), 0);
    assert_int_equal(dp_switch_port_create(r.s, &access, &p, &e), -ENOSPC);
    assert_int_equal(dp_switch_port_connect(a->port, &a->net, &e), -EBUSY);
    assert_string_equal(dp_switch_drop_name(DP_SWITCH_DROP_RATE_OUT), "rate-out");
    rig_fini(&r);
}

/* Two senders, while ports come, go and change. */
static unsigned count_only(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        uint8_t bytes[64];
        dp_net_gather(&frame[i], bytes);
        if (bytes[17] != *(uint8_t *)opaque) /* the VLAN that the payload tells */
            abort();
    }
    return count;
}
static const struct dp_net_end counting = {.receive = count_only};
struct sender {
    struct dp_net_port net;
    uint8_t vlan;
    atomic_bool *stop;
};
static void *send_much(void *opaque)
{
    struct sender *x = opaque;
    uint8_t bytes[60];
    struct iovec part = {bytes, 60};
    struct dp_net_frame f[8];
    for (unsigned i = 0; i < 8; i++)
        f[i] = (struct dp_net_frame){.part = &part, .parts = 1, .size = 60};
    for (unsigned i = 0; !atomic_load(x->stop); i++) {
        make_frame(bytes, i & 1 ? ALL : 3, x->vlan, NO_TAG, NO_TAG, TYPE, 46);
        bytes[17] = x->vlan;
        dp_net_send(&x->net, f, 8);
    }
    return NULL;
}
static void threads(void **state)
{
    struct rig r;
    rig_init(&r, (struct dp_switch_options){0});
    atomic_bool stop = false;
    struct sender x[2];
    pthread_t thread[2];
    struct dp_switch_port *p[2], *q;
    for (unsigned i = 0; i < 2; i++) {
        x[i] = (struct sender){.vlan = (uint8_t)(1 + i), .stop = &stop};
        struct dp_switch_port_options o = ACCESS(1 + i);
        dp_net_port_init(&x[i].net, &counting, &x[i].vlan, 0);
        assert_int_equal(dp_switch_port_create(r.s, &o, &p[i], NULL), 0);
        assert_int_equal(dp_switch_port_connect(p[i], &x[i].net, NULL), 0);
        pthread_create(&thread[i], NULL, send_much, &x[i]);
    }
    for (unsigned i = 0; i < 300; i++) {
        struct dp_net_port net;
        uint8_t vlan = (uint8_t)(1 + i % 2);
        struct dp_switch_port_options o = ACCESS(vlan);
        dp_net_port_init(&net, &counting, &vlan, 0);
        assert_int_equal(dp_switch_port_create(r.s, &o, &q, NULL), 0);
        assert_int_equal(dp_switch_port_connect(q, &net, NULL), 0);
        struct timespec moment = {0, 100000};
        nanosleep(&moment, NULL);
        o.vlan = 4000;
        assert_int_equal(dp_switch_port_set(q, &o, NULL), 0);
        vlan ^= 3; /* nothing of the old one comes any more: it would abort */
        o.vlan = vlan;
        assert_int_equal(dp_switch_port_set(q, &o, NULL), 0);
        nanosleep(&moment, NULL);
        if (i & 1)
            dp_switch_port_disconnect(q);
        dp_switch_port_destroy(q);
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    rig_fini(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(learning), cmocka_unit_test(bad_frames), cmocka_unit_test(tags), cmocka_unit_test(hopping),
        cmocka_unit_test(isolation), cmocka_unit_test(mirrors), cmocka_unit_test(rates), cmocka_unit_test(floods), cmocka_unit_test(full),
        cmocka_unit_test(offload), cmocka_unit_test(loop_guard), cmocka_unit_test(loop), cmocka_unit_test(guard),
        cmocka_unit_test(snooping), cmocka_unit_test(bad_options), cmocka_unit_test(threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
