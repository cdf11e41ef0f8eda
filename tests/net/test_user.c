/* test_user.c - the user network as a guest sees it: DHCP, ARP, ping, UDP, TCP by packets made by hand; forwards, TFTP, back-pressure,
 * nonsense.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net/user.h"
#include "tests/net/packets.h"
#include "tests/unit/test.h"

enum { KEEP = 600, MANY = 20000 };
struct world {
    struct dp_loop *loop;
    struct dp_clock *clock;
    struct dp_net_user *user;
    struct dp_net_port port; /* the guest's card */
    struct {
        uint8_t bytes[1600];
        uint32_t size;
    } got[KEEP];
    unsigned count, room, readies;
    void *sender;
};

static unsigned card_receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct world *w = opaque;
    unsigned n = 0;
    for (; n < count && w->count < w->room; n++, w->count++) {
        assert_int_equal(frame[n].work, 0);
        assert_true(frame[n].size <= sizeof w->got[0].bytes);
        dp_net_gather(&frame[n], w->got[w->count].bytes);
        w->got[w->count].size = frame[n].size;
    }
    return n;
}
static void card_ready(void *opaque) { ((struct world *)opaque)->readies++; }
static const struct dp_net_end card_end = {.receive = card_receive, .ready = card_ready};

static struct world *open_world(const struct dp_net_user_options *o)
{
    struct world *w = calloc(1, sizeof *w);
    struct dp_error e = {0};
    w->room = KEEP;
    assert_ok(dp_loop_create(&w->loop, &e), e);
    assert_ok(dp_clock_create_manual(&w->clock, &e), e);
    assert_ok(dp_net_user_create(w->loop, w->clock, NULL, o, &w->user, &e), e);
    dp_net_port_init(&w->port, &card_end, w, 0);
    assert_ok(dp_net_connect(&w->port, dp_net_user_port(w->user), &e), e);
    return w;
}

static void close_world(struct world *w)
{
    dp_net_user_destroy(w->user);
    assert_null(w->port.peer);
    dp_clock_destroy(w->clock);
    dp_loop_destroy(w->loop);
    free(w);
}

static void turn(struct world *w)
{
    dp_loop_poll(w->loop, 5);
    dp_clock_advance(w->clock, 5000000);
}

static unsigned send_frame(struct world *w, const void *bytes, uint32_t size)
{
    struct iovec part = {(void *)bytes, size};
    struct dp_net_frame f = {.part = &part, .parts = 1, .size = size};
    return dp_net_send(&w->port, &f, 1);
}

/* The next frame of an IP protocol (0: ARP), NULL when none comes; frames before it are forgotten. */
static uint8_t *next(struct world *w, unsigned protocol, uint32_t *size)
{
    static uint8_t out[1600];
    for (unsigned n = 0; n < 400; n++) {
        for (unsigned i = 0; i < w->count; i++) {
            const uint8_t *p = w->got[i].bytes;
            if (get16(p + 12) != (protocol ? 0x0800 : 0x0806) || (protocol && p[23] != protocol))
                continue;
            memcpy(out, p, sizeof out);
            *size = w->got[i].size;
            w->count -= i + 1;
            memmove(w->got, w->got + i + 1, w->count * sizeof w->got[0]);
            return out;
        }
        w->count = 0;
        turn(w);
    }
    return NULL;
}

static void send_arp(struct world *w, unsigned operation, uint32_t to)
{
    uint8_t p[60] = {0};
    packet_ethernet(p, (const uint8_t *)"\xff\xff\xff\xff\xff\xff", 0x0806);
    memcpy(p + 14, "\0\1\x08\0\6\4\0", 7);
    p[21] = (uint8_t)operation;
    memcpy(p + 22, packet_mac, 6);
    put32(p + 28, PACKET_GUEST);
    put32(p + 38, to);
    assert_int_equal(send_frame(w, p, sizeof p), 1);
}

static void arp_and_ping(void **state)
{
    struct world *w = open_world(&(struct dp_net_user_options){0});
    uint32_t size;
    send_arp(w, 1, PACKET_HOST);
    uint8_t *a = next(w, 0, &size);
    assert_non_null(a);
    assert_int_equal(a[21], 2);
    assert_memory_equal(a + 22, packet_router_mac, 6);
    assert_int_equal(get32(a + 28), PACKET_HOST);
    uint8_t p[100];
    uint8_t *icmp = p + packet_ip(p, PACKET_GUEST, PACKET_HOST, 1, 40);
    memset(icmp, 0x5a, 40);
    icmp[0] = 8;
    icmp[1] = 0;
    put16(icmp + 2, 0);
    put16(icmp + 2, ~packet_sum(0, icmp, 40));
    send_frame(w, p, 74);
    uint8_t *r = next(w, 1, &size);
    assert_non_null(r);
    assert_int_equal(size, 74);
    assert_int_equal(r[34], 0);
    assert_int_equal(packet_sum(0, r + 34, 40), 0xffff);
    assert_memory_equal(r + 38, icmp + 4, 36);
    close_world(w);
}

static const uint8_t *dhcp_option(const uint8_t *p, uint32_t size, unsigned code)
{
    for (uint32_t at = 42 + 240; at + 1 < size && p[at] != 255; at += p[at] ? 2 + p[at + 1] : 1)
        if (p[at] == code)
            return p + at + 1;
    return NULL;
}

static void dhcp(void **state)
{
    struct dp_net_user_options o = {.hostname = "vm", .tftp = "/", .bootfile = "boot.ipxe"};
    struct world *w = open_world(&o);
    uint8_t b[300] = {1, 1, 6, 0}, p[400];
    uint32_t size;
    put32(b + 4, 0xdeadbeef);
    memcpy(b + 28, packet_mac, 6);
    memcpy(b + 236, "\x63\x82\x53\x63\x35\x01\x01\xff", 8);
    send_frame(w, p, packet_udp(p, 0, 68, 0xffffffff, 67, b, sizeof b));
    uint8_t *r = next(w, 17, &size);
    assert_non_null(r);
    assert_int_equal(get16(r + 36), 68);
    assert_int_equal(get32(r + 42 + 4), 0xdeadbeef);
    assert_int_equal(get32(r + 42 + 16), PACKET_GUEST);
    assert_string_equal((char *)r + 42 + 108, "boot.ipxe");
    assert_int_equal(dhcp_option(r, size, 53)[1], 2);
    assert_int_equal(get32(dhcp_option(r, size, 3) + 1), PACKET_HOST);
    assert_int_equal(get32(dhcp_option(r, size, 6) + 1), PACKET_HOST + 1);
    assert_memory_equal(dhcp_option(r, size, 12), "\x02vm", 3);
    close_world(w);
}

static int host_socket(int type, unsigned *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_true(fd >= 0 && !bind(fd, (struct sockaddr *)&a, n) && !getsockname(fd, (struct sockaddr *)&a, &n));
    *port = ntohs(a.sin_port);
    if (type == SOCK_STREAM)
        assert_int_equal(listen(fd, 5), 0);
    return fd;
}

static void udp(void **state)
{
    struct world *w = open_world(&(struct dp_net_user_options){0});
    unsigned port;
    int fd = host_socket(SOCK_DGRAM, &port);
    uint8_t p[200], text[64] = {0};
    struct sockaddr_in from;
    socklen_t n = sizeof from;
    uint32_t size;
    send_arp(w, 1, PACKET_HOST);
    send_frame(w, p, packet_udp(p, PACKET_GUEST, 4000, PACKET_HOST, port, "question", 8));
    ssize_t got = -1;
    for (unsigned i = 0; i < 200 && got < 0; i++) {
        turn(w);
        got = recvfrom(fd, text, sizeof text, 0, (struct sockaddr *)&from, &n);
    }
    assert_int_equal(got, 8);
    assert_memory_equal(text, "question", 8);
    assert_int_equal(sendto(fd, "answer!", 7, 0, (struct sockaddr *)&from, n), 7);
    uint8_t *r = next(w, 17, &size);
    assert_non_null(r);
    assert_int_equal(get32(r + 26), PACKET_HOST);
    assert_int_equal(get16(r + 36), 4000);
    assert_memory_equal(r + 42, "answer!", 7);
    close(fd);
    close_world(w);
}

static void send_tcp(struct world *w, unsigned from, unsigned to, uint32_t sequence, uint32_t ack, unsigned flags, const void *data,
                     uint32_t n)
{
    uint8_t *p = malloc(70000);
    uint32_t size = packet_tcp(p, from, PACKET_HOST, to, sequence, ack, flags, data, n);
    struct iovec part = {p, size};
    /* Large ones whole, as a card with segmentation leaves them. */
    struct dp_net_frame f = {.part = &part,
                             .parts = 1,
                             .size = size,
                             .work = n > 1400 ? DP_NET_CHECKSUM | DP_NET_TSO4 : 0,
                             .checksum_start = 34,
                             .checksum_offset = 16,
                             .segment_size = 1400};
    if (!f.work)
        packet_tcp_sum(p, size);
    assert_int_equal(dp_net_send(&w->port, &f, 1), 1);
    free(p);
}

static void tcp(void **state)
{
    struct world *w = open_world(&(struct dp_net_user_options){0});
    unsigned port;
    int server = host_socket(SOCK_STREAM, &port), fd = -1;
    uint32_t size, mine = 1000, theirs;
    send_arp(w, 1, PACKET_HOST);
    send_tcp(w, 5000, port, mine++, 0, T_SYN, "", 0);
    uint8_t *r = next(w, 6, &size);
    assert_non_null(r);
    assert_int_equal(r[47], T_SYN | T_ACK);
    assert_int_equal(get32(r + 42), mine);
    assert_int_equal(packet_sum(packet_pseudo(r + 14, false, 6, size - 34), r + 34, size - 34), 0xffff);
    theirs = get32(r + 38) + 1;
    send_tcp(w, 5000, port, mine, theirs, T_ACK, "", 0);
    for (unsigned i = 0; i < 200 && fd < 0; i++) {
        turn(w);
        fd = accept4(server, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    }
    assert_true(fd >= 0);
    /* 40000 bytes in one frame. */
    static uint8_t data[40000], back[40000];
    for (unsigned i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 31 >> 3);
    send_tcp(w, 5000, port, mine, theirs, T_ACK | T_PSH, data, sizeof data);
    mine += sizeof data;
    size_t have = 0;
    for (unsigned i = 0; i < 400 && have < sizeof back; i++) {
        turn(w);
        ssize_t n = recv(fd, back + have, sizeof back - have, 0);
        have += n > 0 ? (size_t)n : 0;
    }
    assert_int_equal(have, sizeof back);
    assert_memory_equal(data, back, sizeof data);
    /* And back, acknowledged as it comes. */
    assert_int_equal(send(fd, data, sizeof data, 0), sizeof data);
    for (have = 0; have < sizeof data;) {
        r = next(w, 6, &size);
        assert_non_null(r);
        uint32_t n = get16(r + 16) - 20 - (r[46] >> 4) * 4;
        if (!n || get32(r + 38) != theirs)
            continue;
        assert_memory_equal(r + 34 + (r[46] >> 4) * 4, data + have, n);
        have += n;
        theirs += n;
        send_tcp(w, 5000, port, mine, theirs, T_ACK, "", 0);
    }
    close(fd);
    do
        assert_non_null(r = next(w, 6, &size));
    while (!(r[47] & T_FIN));
    close(server);
    close_world(w);
}

static void forwards(void **state)
{
    unsigned port, taken;
    int probe = host_socket(SOCK_STREAM, &port), held = host_socket(SOCK_STREAM, &taken);
    close(probe);
    struct dp_net_user_options o = {
        .forward = {{.host = "127.0.0.1", .host_port = (uint16_t)port, .guest_port = 80}}, .forwards = 1, .restricted = true};
    struct world *w = open_world(&o);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    uint32_t size;
    send_arp(w, 1, PACKET_HOST);
    turn(w);
    assert_true(!connect(fd, (struct sockaddr *)&a, sizeof a) || errno == EINPROGRESS);
    uint8_t *r = next(w, 6, &size);
    assert_non_null(r);
    assert_int_equal(r[47], T_SYN);
    assert_int_equal(get32(r + 30), PACKET_GUEST);
    assert_int_equal(get16(r + 36), 80);
    unsigned from = get16(r + 34);
    uint32_t theirs = get32(r + 38) + 1;
    send_tcp(w, 80, from, 77, theirs, T_SYN | T_ACK, "", 0);
    send_tcp(w, 80, from, 78, theirs, T_ACK | T_PSH, "welcome", 7);
    char text[8] = {0};
    ssize_t n = -1;
    for (unsigned i = 0; i < 200 && n < 0; i++) {
        turn(w);
        n = recv(fd, text, 7, 0);
    }
    assert_string_equal(text, "welcome");
    /* Restricted: the guest itself reaches nobody. */
    send_tcp(w, 5001, taken, 1, 0, T_SYN, "", 0);
    for (unsigned i = 0; i < 20; i++)
        turn(w);
    assert_true(accept(held, NULL, NULL) < 0);
    close(fd);
    close_world(w);

    struct dp_error e = {0};
    struct dp_loop *loop;
    struct dp_clock *clock;
    struct dp_net_user *u = NULL;
    assert_ok(dp_loop_create(&loop, &e), e);
    assert_ok(dp_clock_create_manual(&clock, &e), e);
    o.forward[0].host_port = (uint16_t)taken;
    assert_int_equal(dp_net_user_create(loop, clock, NULL, &o, &u, &e), -EADDRINUSE);
    assert_non_null(strstr(e.text, "another program listens there"));
    o.forwards = 0;
    snprintf(o.tftp, sizeof o.tftp, "/nowhere at all");
    assert_int_equal(dp_net_user_create(loop, clock, NULL, &o, &u, &e), -ENOENT);
    assert_null(u);
    dp_clock_destroy(clock);
    dp_loop_destroy(loop);
    close(held);
}

static void tftp(void **state)
{
    char folder[] = "/tmp/doppel-tftp-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    assert_int_equal(write(fd, "contents", 8), 8);
    close(fd);
    struct dp_net_user_options o = {0};
    snprintf(o.tftp, sizeof o.tftp, "%s", folder);
    struct world *w = open_world(&o);
    uint8_t p[200];
    uint32_t size;
    send_arp(w, 1, PACKET_HOST);
    send_frame(w, p, packet_udp(p, PACKET_GUEST, 4001, PACKET_HOST, 69, "\0\1file\0octet\0", 13));
    uint8_t *r = next(w, 17, &size);
    assert_non_null(r);
    assert_int_equal(get16(r + 42), 3);
    assert_memory_equal(r + 46, "contents", 8);
    send_frame(w, p, packet_udp(p, PACKET_GUEST, 4002, PACKET_HOST, 69, "\0\1../etc/passwd\0octet\0", 22));
    r = next(w, 17, &size);
    assert_non_null(r);
    assert_int_equal(get16(r + 42), 5); /* an error */
    close_world(w);
    unlink(path);
    rmdir(folder);
}

static void back_pressure(void **state)
{
    struct world *w = open_world(&(struct dp_net_user_options){0});
    uint32_t size;
    uint8_t p[100];
    send_arp(w, 1, PACKET_HOST);
    assert_non_null(next(w, 0, &size));
    /* The network is full while its thread does not run; then it says so. */
    uint8_t *icmp = p + packet_ip(p, PACKET_GUEST, PACKET_HOST, 1, 8);
    memcpy(icmp, "\x08\0\xf7\xff\0\0\0\0", 8);
    unsigned sent = 0;
    while (sent < 10000 && send_frame(w, p, 42))
        sent++;
    assert_in_range(sent, 100, 5000);
    assert_int_equal(w->readies, 0);
    w->room = 0; /* and the card is full */
    turn(w);
    turn(w);
    assert_true(w->readies > 0);
    assert_int_equal(w->count, 0);
    assert_int_equal(send_frame(w, p, 42), 1);
    w->room = KEEP;
    dp_net_ready(&w->port);
    turn(w);
    turn(w);
    assert_int_equal(w->count, sent + 1);
    close_world(w);
}

struct sender {
    struct world *w;
    unsigned sent;
    atomic_uint readies;
};
static void sender_ready(void *opaque) { atomic_fetch_add(&((struct sender *)((struct world *)opaque)->sender)->readies, 1); }
static const struct dp_net_end sender_end = {.receive = card_receive, .ready = sender_ready};

/* A card in a thread of its own, as a processor's. */
static void *send_many(void *opaque)
{
    struct sender *s = opaque;
    uint8_t p[100];
    uint8_t *icmp = p + packet_ip(p, PACKET_GUEST, PACKET_HOST, 1, 8);
    memcpy(icmp, "\x08\0\xf7\xff\0\0\0\0", 8);
    struct iovec part = {p, 42};
    struct dp_net_frame frame[8];
    for (unsigned i = 0; i < DP_ARRAY_LEN(frame); i++)
        frame[i] = (struct dp_net_frame){.part = &part, .parts = 1, .size = 42};
    while (s->sent < MANY) {
        unsigned before = atomic_load(&s->readies),
                 n = dp_net_send(&s->w->port, frame, DP_MIN(MANY - s->sent, (unsigned)DP_ARRAY_LEN(frame)));
        s->sent += n;
        while (!n && atomic_load(&s->readies) == before)
            usleep(50);
        dp_net_ready(&s->w->port);
    }
    return NULL;
}

static void threads(void **state)
{
    struct world *w = open_world(&(struct dp_net_user_options){0});
    struct sender s = {.w = w};
    pthread_t thread;
    uint32_t size;
    send_arp(w, 1, PACKET_HOST);
    assert_non_null(next(w, 0, &size));
    w->sender = &s;
    w->port.end = &sender_end;
    assert_int_equal(pthread_create(&thread, NULL, send_many, &s), 0);
    unsigned answers = 0;
    for (unsigned i = 0; i < 20000 && answers < MANY; i++) {
        turn(w);
        answers += w->count;
        w->count = 0;
        dp_net_ready(&w->port);
    }
    pthread_join(thread, NULL);
    assert_int_equal(s.sent, MANY);
    assert_int_equal(answers, MANY); /* none is lost: the network waits for the card, and the card for the network */
    close_world(w);
}

/* Nothing of this may reach libslirp, or do harm if it does. */
static void nonsense(void **state)
{
    struct world *w = open_world(&(struct dp_net_user_options){0});
    struct dp_random r;
    uint8_t p[2000], small[200];
    uint32_t size, udp = packet_udp(small, PACKET_GUEST, 4000, PACKET_HOST, 9, "text", 4);
    dp_random_seed(&r, 5);
    for (unsigned round = 0; round < 3000; round++) {
        uint32_t n = 14 + dp_random_next(&r) % 100;
        for (unsigned i = 0; i < n; i++)
            p[i] = (uint8_t)dp_random_next(&r);
        memcpy(p, small, dp_random_next(&r) % udp);
        if (round % 3)
            put16(p + 12, round % 3 == 1 ? 0x0806 : 0x86dd);
        if (!send_frame(w, p, n))
            turn(w);
    }
    turn(w);
    w->count = 0;
    send_arp(w, 1, PACKET_HOST);
    assert_non_null(next(w, 0, &size));
    close_world(w);
}

/* Fragments of an IPv4 packet never reach libslirp, which dies of some: they arrive there as a packet. */
static uint32_t make_fragment(uint8_t *p, unsigned protocol, unsigned id, unsigned offset, unsigned bytes, bool more, const uint8_t *whole)
{
    uint32_t at = packet_ip(p, PACKET_GUEST, PACKET_HOST, protocol, bytes);
    put16(p + 18, id);
    put16(p + 20, (more ? 0x2000 : 0) | offset / 8);
    put16(p + 24, 0);
    put16(p + 24, ~packet_sum(0, p + 14, 20));
    memcpy(p + at, whole + offset, bytes);
    return at + bytes;
}

static void fragments(void **state)
{
    enum { SIZE = 5000, PIECE = 1000, PIECES = SIZE / PIECE };
    static const uint8_t order[][PIECES] = {{0, 1, 2, 3, 4}, {4, 3, 2, 1, 0}, {2, 4, 0, 3, 1}};
    struct world *w = open_world(&(struct dp_net_user_options){0});
    static uint8_t whole[SIZE], got[SIZE], p[PIECE + 100], frame[SIZE + 100];
    unsigned port;
    int s = host_socket(SOCK_DGRAM, &port);
    for (unsigned i = 8; i < SIZE; i++)
        whole[i] = (uint8_t)(i * 7 + i / 256);
    uint32_t at = packet_udp(frame, PACKET_GUEST, 4000, PACKET_HOST, port, whole + 8, SIZE - 8) - SIZE;
    memcpy(whole, frame + at, 8);
    for (unsigned n = 0; n < DP_ARRAY_LEN(order); n++) {
        for (unsigned k = 0; k < PIECES; k++) {
            unsigned i = order[n][k];
            assert_int_equal(recv(s, got, SIZE, 0), -1);
            send_frame(w, p, make_fragment(p, 17, n, i * PIECE, PIECE, i + 1 < PIECES, whole));
            turn(w);
        }
        assert_int_equal(recv(s, got, SIZE, 0), SIZE - 8);
        assert_memory_equal(got, whole + 8, SIZE - 8);
    }
    /* what overlaps, ends twice, goes on behind the end, is too long, or never comes is nothing; more of them than are kept */
    for (unsigned i = 0; i < 40; i++) {
        send_frame(w, p, make_fragment(p, 17, 100 + i, 16, 40, false, whole));
        send_frame(w, p, make_fragment(p, 17, 100 + i, i & 1 ? 64 : 0, i & 2 ? 24 : 64, true, whole));
        send_frame(w, p, make_fragment(p, 17, 100 + i, i & 4 ? 16 : 0, 16, i & 8, whole));
        turn(w);
    }
    uint32_t last = make_fragment(p, 17, 500, 0, PIECE, false, whole);
    put16(p + 20, 0x1fff);
    put16(p + 24, 0);
    put16(p + 24, ~packet_sum(0, p + 14, 20));
    send_frame(w, p, last);
    turn(w);
    assert_int_equal(recv(s, got, SIZE, 0), -1);
    /* a half of a packet is forgotten after 30 s, and does not make one with what comes later */
    send_frame(w, p, make_fragment(p, 17, 600, 0, PIECE, true, whole));
    turn(w);
    dp_clock_advance(w->clock, 31000000000ull);
    for (unsigned i = 1; i < PIECES; i++)
        send_frame(w, p, make_fragment(p, 17, 600, i * PIECE, PIECE, i + 1 < PIECES, whole));
    turn(w);
    assert_int_equal(recv(s, got, SIZE, 0), -1);
    /* a large ping is answered by the host, in fragments */
    memset(whole, 0x5a, SIZE);
    whole[0] = 8;
    whole[1] = 0;
    put16(whole + 2, 0);
    put16(whole + 2, ~packet_sum(0, whole, SIZE));
    uint32_t size;
    send_arp(w, 1, PACKET_HOST);
    assert_non_null(next(w, 0, &size));
    for (unsigned i = 0; i < PIECES; i++)
        send_frame(w, p, make_fragment(p, 1, 700, i * PIECE, PIECE, i + 1 < PIECES, whole));
    assert_non_null(next(w, 1, &size));
    close(s);
    close_world(w);
}

/* A guest that opens more than this process may have open leaves the process its own. */
static void descriptors(void **state)
{
    enum { ALLOWED = 400, NEEDED = 64 };
    struct rlimit before, few;
    int own[NEEDED];
    uint8_t p[100];
    struct world *w = open_world(&(struct dp_net_user_options){0});
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = ALLOWED;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    for (unsigned i = 0; i < 2 * ALLOWED; i++) {
        send_frame(w, p, packet_udp(p, PACKET_GUEST, 10000 + i, PACKET_HOST, 9, "text", 4));
        if (i % 100 == 99)
            dp_loop_poll(w->loop, 5);
    }
    dp_loop_poll(w->loop, 5);
    for (unsigned i = 0; i < NEEDED; i++)
        assert_true((own[i] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0);
    for (unsigned i = 0; i < NEEDED; i++)
        close(own[i]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    /* and goes on when there are some again */
    unsigned port;
    int s = host_socket(SOCK_DGRAM, &port);
    send_frame(w, p, packet_udp(p, PACKET_GUEST, 9000, PACKET_HOST, port, "text", 4));
    turn(w);
    char text[8];
    assert_int_equal(recv(s, text, sizeof text, 0), 4);
    close(s);
    close_world(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arp_and_ping),  cmocka_unit_test(dhcp),     cmocka_unit_test(udp), cmocka_unit_test(descriptors), cmocka_unit_test(fragments),
        cmocka_unit_test(tcp),           cmocka_unit_test(forwards), cmocka_unit_test(tftp),
        cmocka_unit_test(back_pressure), cmocka_unit_test(threads),  cmocka_unit_test(nonsense),
    };
    return cmocka_run_group_tests_name("net-user", tests, NULL, NULL);
}
