/* test_offload.c - checksums and segments against a plain model: what comes out, put together again, is what went in. */
#include <stdlib.h>

#include "tests/net/packets.h"
#include "tests/unit/test.h"

/* A TCP packet of the given kind in p; returns its size. *l4: where TCP begins. */
static uint32_t make(uint8_t *p, bool six, bool vlan, unsigned options, uint32_t payload, struct dp_random *r, uint32_t *l4)
{
    uint32_t l3 = 14, tcp = 20 + options * 4;
    for (unsigned i = 0; i < 66000; i++)
        p[i] = (uint8_t)dp_random_next(r);
    if (vlan) {
        put16(p + 12, 0x8100);
        l3 = 18;
    }
    put16(p + l3 - 2, six ? 0x86dd : 0x0800);
    uint8_t *ip = p + l3;
    if (six) { /* with a destination options header */
        ip[0] = 0x60;
        put16(ip + 4, 8 + tcp + payload);
        ip[6] = 60;
        ip[40] = 6;
        ip[41] = 0;
        *l4 = l3 + 48;
    } else {
        ip[0] = 0x46; /* four bytes of options */
        put16(ip + 2, 24 + tcp + payload);
        put16(ip + 6, 0x4000);
        ip[9] = 6;
        put16(ip + 10, 0);
        put16(ip + 10, ~packet_sum(0, ip, 24));
        *l4 = l3 + 24;
    }
    p[*l4 + 12] = (uint8_t)(tcp / 4 << 4);
    p[*l4 + 13] = T_CWR | T_ACK | T_PSH | T_FIN;
    return *l4 + tcp + payload;
}

static void check_sums(const uint8_t *p, uint32_t size, bool six, uint32_t l3, uint32_t l4)
{
    if (!six) {
        assert_int_equal(packet_sum(0, p + l3, l4 - l3), 0xffff);
        assert_int_equal(get16(p + l3 + 2), size - l3);
    } else {
        assert_int_equal(get16(p + l3 + 4), size - l3 - 40);
    }
    assert_int_equal(packet_sum(packet_pseudo(p + l3, six, 6, size - l4), p + l4, size - l4), 0xffff);
}

static void segments(void **state)
{
    struct dp_net_scratch *s = malloc(sizeof *s);
    uint8_t *p = malloc(66000);
    struct dp_random r;
    dp_random_seed(&r, 7);
    for (unsigned round = 0; round < 300; round++) {
        bool six = round & 1, vlan = round & 2;
        uint32_t l4, payload = dp_random_next(&r) % (round % 3 ? 65000 : 3000), mss = 1 + dp_random_next(&r) % (round % 5 ? 9000 : 20);
        unsigned options = dp_random_next(&r) % 11;
        uint32_t size = make(p, six, vlan, options, payload, &r, &l4), header = l4 + 20 + options * 4, l3 = vlan ? 18 : 14;
        struct iovec part[3] = {{p, 9}, {p + 9, 40}, {p + 49, size - 49}};
        struct dp_net_frame f = {.part = part,
                                 .parts = 3,
                                 .size = size,
                                 .work = DP_NET_CHECKSUM | DP_NET_ECN | (six ? DP_NET_TSO6 : DP_NET_TSO4),
                                 .checksum_start = l4,
                                 .checksum_offset = 16,
                                 .header_size = header,
                                 .segment_size = mss};
        uint32_t n = 0, done = 0, pieces = payload ? (payload + mss - 1) / mss : 1;
        for (unsigned got; (got = dp_net_complete(&f, n, s)); n += got)
            for (unsigned i = 0; i < got; i++) {
                const uint8_t *q = s->frame[i].part[0].iov_base;
                uint32_t bytes = s->frame[i].size - header;
                bool first = n + i == 0, last = n + i + 1 == pieces;
                assert_int_equal(s->frame[i].work, 0);
                assert_int_equal(s->frame[i].size, s->frame[i].part[0].iov_len);
                assert_int_equal(bytes, last ? payload - done : mss);
                assert_memory_equal(q + header, p + header + done, bytes);
                assert_int_equal(get32(q + l4 + 4), get32(p + l4 + 4) + done);
                assert_int_equal(q[l4 + 13], T_ACK | (first ? T_CWR : 0) | (last ? T_PSH | T_FIN : 0));
                if (!six)
                    assert_int_equal(get16(q + l3 + 4), (get16(p + l3 + 4) + n + i) & 0xffff);
                check_sums(q, s->frame[i].size, six, l3, l4);
                done += bytes;
            }
        assert_int_equal(n, pieces);
        assert_int_equal(done, payload);

        /* Whole, for an end that cuts nothing: only the sums; a driver may have left the lengths to us. */
        uint8_t *whole = s->input;
        dp_net_gather(&f, whole);
        put16(whole + l3 + (six ? 4 : 2), 0);
        assert_true(dp_net_finish_checksum(&f, whole));
        check_sums(whole, size, six, l3, l4);
        assert_memory_equal(whole + header, p + header, payload);
    }
    free(p);
    free(s);
}

static void checksums(void **state)
{
    struct dp_net_scratch *s = malloc(sizeof *s);
    uint8_t p[200];
    uint32_t size = packet_udp(p, PACKET_GUEST, 1000, PACKET_HOST, 2000, "odd", 3);
    uint16_t right = get16(p + 40);
    put16(p + 40, packet_sum(packet_pseudo(p + 14, false, 17, size - 34), NULL, 0));
    struct iovec part = {p, size};
    struct dp_net_frame f = {.part = &part, .parts = 1, .size = size, .work = DP_NET_CHECKSUM, .checksum_start = 34, .checksum_offset = 6};
    assert_int_equal(dp_net_complete(&f, 0, s), 1);
    assert_int_equal(get16((uint8_t *)s->frame[0].part[0].iov_base + 40), right);
    assert_int_equal(dp_net_complete(&f, 1, s), 0);
    /* An offset outside, a start outside, no work that fits what it is. */
    f.checksum_offset = size - 34 - 1;
    assert_int_equal(dp_net_complete(&f, 0, s), 0);
    f.checksum_offset = 6;
    f.checksum_start = 65535;
    assert_int_equal(dp_net_complete(&f, 0, s), 0);
    f.checksum_start = 34;
    f.work |= DP_NET_TSO4;
    f.segment_size = 100;
    assert_int_equal(dp_net_complete(&f, 0, s), 0); /* UDP */
    f.work = DP_NET_CHECKSUM | DP_NET_UFO;
    assert_int_equal(dp_net_complete(&f, 0, s), 0);
    free(s);
}

struct sink {
    struct dp_net_port port;
    unsigned room, frames;
    uint32_t work, bytes;
};
static unsigned sink_receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct sink *s = opaque;
    unsigned n = DP_MIN(count, s->room);
    s->room -= n;
    s->frames += n;
    for (unsigned i = 0; i < n; i++) {
        s->work |= frame[i].work;
        s->bytes += frame[i].size - 54;
    }
    return n;
}
static const struct dp_net_end sink_end = {.receive = sink_receive};

static void sending(void **state)
{
    struct dp_net_scratch *s = malloc(sizeof *s);
    uint8_t *p = calloc(1, 70000), *data = calloc(1, 65000);
    struct sink a = {.room = 0}, b = {.room = 3};
    struct dp_error e = {0};
    uint32_t size = packet_tcp(p, 1, PACKET_HOST, 2, 0, 0, T_ACK, data, 60000), progress = 0;
    struct iovec part = {p, size};
    struct dp_net_frame big = {.part = &part,
                               .parts = 1,
                               .size = size,
                               .work = DP_NET_CHECKSUM | DP_NET_TSO4,
                               .checksum_start = 34,
                               .checksum_offset = 16,
                               .segment_size = 1000};
    struct dp_net_frame none = {.size = 0}, frame[] = {big, none, big};
    dp_net_port_init(&a.port, &sink_end, &a, 0);
    dp_net_port_init(&b.port, &sink_end, &b, 0);
    assert_int_equal(dp_net_connect(&a.port, &b.port, &e), 0);
    assert_int_equal(dp_net_send_complete(&a.port, frame, 3, &progress, s), 0);
    assert_int_equal(progress, 3);
    b.room = 58;
    assert_int_equal(dp_net_send_complete(&a.port, frame, 3, &progress, s), 2);
    assert_int_equal(progress, 1);
    b.room = 1000;
    assert_int_equal(dp_net_send_complete(&a.port, frame + 2, 1, &progress, s), 1);
    assert_int_equal(progress, 0);
    assert_int_equal(b.frames, 120);
    assert_int_equal(b.bytes, 120000);
    assert_int_equal(b.work, 0);
    /* Ends that do it themselves get it whole, but not with ECN that they do not know. */
    dp_net_set_accepts(&b.port, DP_NET_CHECKSUM | DP_NET_TSO4);
    b.frames = 0;
    assert_int_equal(dp_net_send_complete(&a.port, frame, 3, &progress, s), 3);
    assert_int_equal(b.frames, 2);
    frame[0].work |= DP_NET_ECN;
    assert_int_equal(dp_net_send_complete(&a.port, frame, 1, &progress, s), 1);
    assert_int_equal(b.frames, 62);
    free(p);
    free(data);
    free(s);
}

static uint32_t flow(const uint8_t *p, uint32_t size)
{
    struct iovec part[] = {{(void *)p, size / 2}, {(void *)(p + size / 2), size - size / 2}};
    return dp_net_flow(&(struct dp_net_frame){.part = part, .parts = 2, .size = size});
}

/* A connection has one number, both ways and behind tags; others have others; what is cut off has some number, or none. */
static void flows(void **state)
{
    uint8_t p[200], q[200], data[8] = {0}, other[] = {2, 0, 0, 0, 0, 9};
    uint32_t size = packet_tcp(p, 1000, PACKET_HOST, 2000, 1, 2, T_ACK, data, sizeof data), tagged = size + 4;
    uint32_t number = flow(p, size);
    assert_true(number);
    memcpy(q, p, size);
    memcpy(q + 26, p + 30, 4); /* addresses and ports change places */
    memcpy(q + 30, p + 26, 4);
    memcpy(q + 34, p + 36, 2);
    memcpy(q + 36, p + 34, 2);
    memcpy(q, other, sizeof other);
    assert_int_equal(flow(q, size), number);
    memcpy(q, p, 12);
    memcpy(q + 12, "\x81\x00\x00\x05", 4);
    memcpy(q + 16, p + 12, size - 12);
    assert_int_equal(flow(q, tagged), number);
    put16(p + 34, 1001);
    assert_true(flow(p, size) != number);
    uint32_t whole = flow(p, size);
    put16(p + 20, 0x2000); /* fragments have no ports that one could rely on: all of a packet's are one flow */
    uint32_t first = flow(p, size);
    put16(p + 20, 0x0010);
    put16(p + 34, 77);
    assert_int_equal(flow(p, size), first);
    assert_true(first != whole);
    put16(p + 12, 0x0806);
    assert_int_equal(flow(p, size), 0);
    uint32_t l4;
    struct dp_random r;
    uint8_t *big = malloc(66000);
    dp_random_seed(&r, 3);
    size = make(big, true, true, 0, 100, &r, &l4);
    assert_true(flow(big, size));
    for (uint32_t i = 0; i < size; i++) { /* ASan looks on */
        uint8_t *cut = malloc(i + 1);
        memcpy(cut, big, i);
        flow(cut, i);
        free(cut);
    }
    free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(segments), cmocka_unit_test(checksums), cmocka_unit_test(sending), cmocka_unit_test(flows)};
    return cmocka_run_group_tests_name("net-offload", tests, NULL, NULL);
}
