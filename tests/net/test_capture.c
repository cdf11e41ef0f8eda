/* tests/net/test_capture.c - pcapng read back block by block, a tap that changes nothing, and readers that do not read. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "net/capture.h"
#include "tests/net/switch_rig.h"

#define WALL_2000 946684800000000000ull

struct file {
    uint8_t *data;
    size_t size, at;
};
struct block {
    uint32_t type, size;
    const uint8_t *body; /* between type and length at both ends */
};

static struct file read_file(const char *path)
{
    struct file f = {malloc(64 << 20)};
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && f.data);
    for (ssize_t n; (n = read(fd, f.data + f.size, (64 << 20) - f.size)) > 0;)
        f.size += (size_t)n;
    close(fd);
    return f;
}

static bool next_block(struct file *f, struct block *b)
{
    if (f->at == f->size)
        return false;
    const uint8_t *p = f->data + f->at;
    assert_true(f->size - f->at >= 12);
    b->type = dp_ld32(p);
    uint32_t length = dp_ld32(p + 4);
    assert_true(length >= 12 && length % 4 == 0 && length <= f->size - f->at);
    assert_int_equal(dp_ld32(p + length - 4), length);
    b->body = p + 8;
    b->size = length - 12;
    f->at += length;
    return true;
}

/* An option's value behind `at`; NULL: it has none. */
static const uint8_t *option(const struct block *b, uint32_t at, unsigned code, unsigned *size)
{
    while (b->size - at >= 4 && dp_ld16(b->body + at)) {
        *size = dp_ld16(b->body + at + 2);
        assert_true(*size <= b->size - at - 4);
        if (dp_ld16(b->body + at) == code)
            return b->body + at + 4;
        at += 4 + DP_ALIGN_UP(*size, 4u);
    }
    return NULL;
}

static void expect_header(struct file *f, const char *name, const char *comment, uint32_t snap)
{
    struct block b;
    unsigned n;
    assert_true(next_block(f, &b));
    assert_int_equal(b.type, 0x0a0d0d0a);
    assert_memory_equal(b.body, "\x4d\x3c\x2b\x1a\1\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", 16);
    assert_memory_equal(option(&b, 16, 4, &n), "doppel", 6);
    if (comment)
        assert_memory_equal(option(&b, 16, 1, &n), comment, strlen(comment));
    assert_true(next_block(f, &b));
    assert_int_equal(b.type, 1);
    assert_int_equal(dp_ld16(b.body), 1);
    assert_int_equal(dp_ld32(b.body + 4), snap);
    assert_int_equal(*option(&b, 8, 9, &n), 9);
    if (name)
        assert_memory_equal(option(&b, 8, 2, &n), name, strlen(name));
}

static void expect_frame(struct file *f, const uint8_t *bytes, uint32_t kept, uint32_t size, uint64_t time, int flags, const char *comment,
                         uint64_t missed)
{
    struct block b;
    unsigned n;
    assert_true(next_block(f, &b));
    assert_int_equal(b.type, 6);
    assert_int_equal(dp_ld32(b.body), 0);
    assert_true(((uint64_t)dp_ld32(b.body + 4) << 32 | dp_ld32(b.body + 8)) == time);
    assert_int_equal(dp_ld32(b.body + 12), kept);
    assert_int_equal(dp_ld32(b.body + 16), size);
    assert_memory_equal(b.body + 20, bytes, kept);
    uint32_t at = 20 + DP_ALIGN_UP(kept, 4u);
    const uint8_t *value = option(&b, at, 2, &n);
    assert_true(flags ? value && dp_ld32(value) == (uint32_t)flags : !value);
    value = option(&b, at, 1, &n);
    assert_true(comment ? value && n == strlen(comment) && !memcmp(value, comment, n) : !value);
    value = option(&b, at, 4, &n);
    assert_true(missed ? value && dp_ld64(value) == missed : !value);
}

static int temporary(char *path)
{
    strcpy(path, "/tmp/doppel-capture-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    return fd;
}

static void tshark(const char *path)
{
    char command[200];
    if (system("command -v tshark > /dev/null 2>&1")) {
        print_message("tshark is not installed: not checked by it\n");
        return;
    }
    snprintf(command, sizeof command, "tshark -r %s -T fields -e vlan.id -e vlan.priority -e frame.comment > %s.txt 2>/dev/null", path,
             path);
    assert_int_equal(system(command), 0);
    strcat(strcpy(command, path), ".txt");
    struct file f = read_file(command);
    assert_non_null(memmem(f.data, f.size, "7\t5\t", 4));
    assert_non_null(memmem(f.data, f.size, "looked at", 9));
    free(f.data);
    unlink(command);
}

static void records(void **state)
{
    struct dp_clock *clock;
    struct dp_capture *c;
    char path[64];
    uint8_t bytes[128], udp[128];
    struct dp_capture_options o = {.interface = "net0", .comment = "a test", .snap = 100};
    assert_int_equal(dp_clock_create_manual(&clock, NULL), 0);
    assert_int_equal(dp_capture_create(clock, temporary(path), &o, &c, NULL), 0);
    uint32_t size = make_frame(bytes, 1, 0, 5 << 13 | 7, NO_TAG, 0x88b5, 45);
    struct iovec part[2] = {{bytes, 7}, {bytes + 7, size - 7}};
    struct dp_net_frame f = {.part = part, .parts = 2, .size = size};
    dp_clock_advance(clock, 5123456789);
    dp_capture_record(c, &f, DP_CAPTURE_INBOUND, "looked at");
    dp_clock_advance(clock, 1);
    f.size = 14;
    dp_capture_record(c, &f, DP_CAPTURE_UNKNOWN, NULL);
    part[1].iov_len = 121; /* more than is kept */
    f.size = 128;
    dp_capture_record(c, &f, DP_CAPTURE_OUTBOUND, NULL);
    uint32_t n = packet_udp(udp, PACKET_GUEST, 1, PACKET_HOST, 2, "ab", 2); /* a checksum left open is filled in */
    uint8_t open[128];
    memcpy(open, udp, n);
    put16(open + 40, packet_sum(packet_pseudo(open + 14, false, 17, 10), NULL, 0));
    struct iovec whole = {open, n};
    f = (struct dp_net_frame){.part = &whole, .parts = 1, .size = n, .work = DP_NET_CHECKSUM, .checksum_start = 34, .checksum_offset = 6};
    dp_capture_record(c, &f, DP_CAPTURE_UNKNOWN, NULL);
    struct dp_capture_stats stats;
    dp_capture_stats(c, &stats);
    assert_int_equal(stats.frames, 4);
    assert_int_equal(stats.error, 0);
    dp_capture_destroy(c);
    struct file in = read_file(path);
    assert_int_equal(in.size, stats.bytes);
    expect_header(&in, "net0", "a test", 100);
    expect_frame(&in, bytes, size, size, WALL_2000 + 5123456789, 1, "looked at", 0);
    expect_frame(&in, bytes, 14, 14, WALL_2000 + 5123456790, 0, NULL, 0);
    expect_frame(&in, bytes, 100, 128, WALL_2000 + 5123456790, 2, NULL, 0);
    expect_frame(&in, udp, n, n, WALL_2000 + 5123456790, 0, NULL, 0);
    assert_int_equal(in.at, in.size);
    tshark(path);
    free(in.data);
    unlink(path);
    dp_clock_destroy(clock);
}

/* What a mirror port shows: the tag that a trunk is sent, byte for byte. */
static void mirror(void **state)
{
    struct rig r;
    struct dp_capture *c;
    struct dp_switch_port *m;
    char path[64];
    rig_init(&r, (struct dp_switch_options){0});
    struct dp_switch_port_options trunk = {.mode = DP_SWITCH_TRUNK}, watching = {.mode = DP_SWITCH_MIRROR};
    dp_switch_allow(&trunk, 7);
    rig_add(&r, 0, (struct dp_switch_port_options){.vlan = 7, .pcp = 5});
    rig_add(&r, 1, trunk);
    assert_int_equal(dp_capture_create(r.clock, temporary(path), &(struct dp_capture_options){0}, &c, NULL), 0);
    assert_int_equal(dp_switch_port_create(r.s, &watching, &m, NULL), 0);
    assert_int_equal(dp_switch_port_connect(m, dp_capture_port(c), NULL), 0);
    assert_int_equal(dp_switch_mirror(r.st[1].port, m, false, true, NULL), 0);
    uint8_t bytes[64];
    uint32_t size = make_frame(bytes, 1, 0, NO_TAG, NO_TAG, 0x88b5, 46);
    send_bytes(&r.st[0], bytes, size);
    dp_switch_port_destroy(m);
    dp_capture_destroy(c);
    struct file in = read_file(path);
    expect_header(&in, NULL, NULL, 0);
    size = make_frame(bytes, 1, 0, 5 << 13 | 7, NO_TAG, 0x88b5, 46);
    expect_frame(&in, bytes, size, size, WALL_2000, 0, NULL, 0);
    assert_int_equal(in.at, in.size);
    free(in.data);
    unlink(path);
    rig_fini(&r);
}

struct card {
    struct station st;
    unsigned readies, links;
    bool up;
};
static void ready(void *opaque) { ((struct card *)opaque)->readies++; }
static void link_changed(void *opaque, bool up)
{
    ((struct card *)opaque)->up = up;
    ((struct card *)opaque)->links++;
}
static const struct dp_net_end card_end = {station_receive, ready, link_changed};

static void tap(void **state)
{
    struct dp_clock *clock;
    struct dp_capture *c;
    struct dp_capture_tap *t;
    static struct card a, b;
    char path[64];
    uint8_t bytes[64];
    static uint8_t large[5000], data[4000];
    assert_int_equal(dp_clock_create_manual(&clock, NULL), 0);
    assert_int_equal(dp_capture_create(clock, temporary(path), &(struct dp_capture_options){0}, &c, NULL), 0);
    assert_int_equal(dp_capture_tap_create(c, &t, NULL), 0);
    dp_net_port_init(&a.st.net, &card_end, &a, 0);
    dp_net_port_init(&b.st.net, &card_end, &b, DP_NET_TSO4);
    a.st.room = b.st.room = ~0u;
    assert_int_equal(dp_net_connect(&a.st.net, dp_capture_tap_port(t, 0), NULL), 0);
    assert_false(dp_net_link(&a.st.net)); /* to nowhere yet */
    assert_int_equal(dp_net_connect(&b.st.net, dp_capture_tap_port(t, 1), NULL), 0);
    assert_true(a.up && b.up);
    assert_int_equal(dp_net_peer_accepts(&a.st.net), DP_NET_TSO4);
    assert_int_equal(dp_net_peer_accepts(&b.st.net), 0);
    /* Frames, back-pressure and readiness. */
    uint32_t size = make_frame(bytes, 1, 0, NO_TAG, NO_TAG, 0x88b5, 46);
    struct iovec part = {bytes, size};
    struct dp_net_frame f[3] = {{&part, 1, size}, {&part, 1, size}, {&part, 1, size}};
    b.st.room = 2;
    assert_int_equal(dp_net_send(&a.st.net, f, 3), 2);
    dp_net_ready(&b.st.net);
    assert_int_equal(a.readies, 1);
    b.st.room = ~0u;
    assert_int_equal(dp_net_send(&a.st.net, f, 1), 1);
    assert_int_equal(dp_net_send(&b.st.net, f, 1), 1);
    assert_int_equal(b.st.total, 3);
    assert_int_equal(a.st.total, 1);
    /* Work: passed on, and done here when the far end has just given it up. */
    uint32_t n = packet_tcp(large, 1, PACKET_HOST, 80, 100, 0, T_ACK, data, sizeof data);
    struct iovec big = {large, n};
    struct dp_net_frame tso = {.part = &big, .parts = 1, .size = n, .work = DP_NET_TSO4, .checksum_start = 34, .checksum_offset = 16,
                               .header_size = 54, .segment_size = 1000};
    assert_int_equal(dp_net_send(&a.st.net, &tso, 1), 1);
    assert_int_equal(b.st.total, 4);
    dp_net_set_accepts(&b.st.net, 0);
    assert_int_equal(dp_net_send(&a.st.net, &tso, 1), 1);
    assert_int_equal(b.st.total, 8);
    assert_int_equal(dp_net_peer_accepts(&a.st.net), 0);
    /* The carrier of either end is the other's. */
    dp_net_set_link(&b.st.net, false);
    assert_false(a.up || dp_net_link(&a.st.net));
    dp_net_set_link(&a.st.net, false);
    dp_net_set_link(&b.st.net, true);
    assert_false(b.up);
    dp_net_set_link(&a.st.net, true);
    assert_true(a.up && b.up);
    assert_int_equal(dp_net_send(&b.st.net, f, 1), 1);
    assert_int_equal(a.st.total, 2);
    dp_net_disconnect(&b.st.net);
    assert_false(a.up);
    dp_capture_tap_destroy(t);
    dp_capture_destroy(c);
    struct file in = read_file(path);
    expect_header(&in, NULL, NULL, 0);
    for (unsigned i = 0; i < 4; i++)
        expect_frame(&in, bytes, size, size, WALL_2000, i < 3 ? 2 : 1, NULL, 0);
    packet_tcp_sum(large, n);
    for (unsigned i = 0; i < 2; i++)
        expect_frame(&in, large, n, n, WALL_2000, 2, NULL, 0);
    expect_frame(&in, bytes, size, size, WALL_2000, 1, NULL, 0);
    assert_int_equal(in.at, in.size);
    free(in.data);
    unlink(path);
    station_forget(&a.st);
    station_forget(&b.st);
    dp_clock_destroy(clock);
}

static void limits(void **state)
{
    struct dp_clock *clock;
    struct dp_capture *c;
    struct dp_capture_stats stats;
    char path[64];
    int pipes[2];
    static uint8_t bytes[60000];
    struct iovec part = {bytes, sizeof bytes};
    struct dp_net_frame f = {.part = &part, .parts = 1, .size = sizeof bytes};
    assert_int_equal(dp_clock_create_manual(&clock, NULL), 0);
    /* A file's size. */
    assert_int_equal(dp_capture_create(clock, temporary(path), &(struct dp_capture_options){.limit = 200000}, &c, NULL), 0);
    for (unsigned i = 0; i < 10; i++)
        dp_capture_record(c, &f, DP_CAPTURE_UNKNOWN, NULL);
    dp_capture_stats(c, &stats);
    assert_int_equal(stats.frames, 3);
    assert_int_equal(stats.missed, 7);
    assert_true(stats.bytes <= 200000);
    dp_capture_destroy(c);
    unlink(path);
    /* A reader that sleeps, then wakes: whole blocks, and how many were missed between them. */
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(dp_capture_create(clock, pipes[1], &(struct dp_capture_options){0}, &c, NULL), 0);
    for (unsigned i = 0; i < 300; i++)
        dp_capture_record(c, &f, DP_CAPTURE_UNKNOWN, NULL);
    dp_capture_stats(c, &stats);
    assert_in_range(stats.frames, 65, 145); /* one buffer, or two, and a pipe */
    assert_int_equal(stats.frames + stats.missed, 300);
    struct file in = {malloc(64 << 20)};
    while (in.size < stats.bytes) {
        ssize_t n = read(pipes[0], in.data + in.size, 65536);
        assert_true(n > 0);
        in.size += (size_t)n;
    }
    expect_header(&in, NULL, NULL, 0);
    uint64_t missed = 0;
    for (struct block b; next_block(&in, &b);) {
        unsigned n;
        const uint8_t *value = option(&b, 20 + sizeof bytes, 4, &n);
        missed += value ? dp_ld64(value) : 0;
    }
    assert_true(missed <= stats.missed);
    dp_capture_record(c, &f, DP_CAPTURE_UNKNOWN, NULL);
    dp_capture_destroy(c); /* nobody reads on: ends all the same */
    free(in.data);
    close(pipes[0]);
    /* A reader that is gone. */
    assert_int_equal(pipe(pipes), 0);
    close(pipes[0]);
    assert_int_equal(dp_capture_create(clock, pipes[1], &(struct dp_capture_options){0}, &c, NULL), 0);
    do
        dp_capture_stats(c, &stats);
    while (!stats.error);
    assert_int_equal(stats.error, -EPIPE);
    dp_capture_record(c, &f, DP_CAPTURE_UNKNOWN, NULL);
    dp_capture_stats(c, &stats);
    assert_int_equal(stats.missed, 1);
    dp_capture_destroy(c);
    dp_clock_destroy(clock);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records),
        cmocka_unit_test(mirror),
        cmocka_unit_test(tap),
        cmocka_unit_test(limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
