/* test_virtio_net.c - a network card as Linux drives it: frames both ways, with and without mergeable buffers, offloads, the filter and
 * the other control commands, a peer that is full, resets and pauses between.
 */
#include "net/offload.h"
#include "tests/device/virtio_driver.h"
#include "tests/net/packets.h"

enum { RX, TX, CTRL };
enum { SLOT = 3, KEEP = 300, HEADER = 12 };
enum {
    F_CSUM = 0,
    F_GUEST_CSUM = 1,
    F_CTRL_GUEST_OFFLOADS = 2,
    F_MTU = 3,
    F_GUEST_TSO4 = 7,
    F_HOST_TSO4 = 11,
    F_MRG_RXBUF = 15,
    F_CTRL_VQ = 17,
    F_MQ = 22
};
#define ALL ~0ull
#define WITHOUT(f) (ALL & ~(1ull << (f)))

struct peer { /* the other end of the cable */
    struct dp_net_port port;
    struct {
        uint8_t bytes[70000];
        uint32_t size, work;
    } * got;
    unsigned count, room, readies, links;
    void (*meanwhile)(void *opaque); /* runs within receive, as another thread might */
    void *opaque;
};

static unsigned peer_receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct peer *p = opaque;
    unsigned n = 0;
    if (p->meanwhile)
        p->meanwhile(p->opaque);
    for (; n < count && p->room && p->count < KEEP; n++, p->room--, p->count++) {
        p->got[p->count].size = frame[n].size;
        p->got[p->count].work = frame[n].work;
        dp_net_gather(&frame[n], p->got[p->count].bytes);
    }
    return n;
}
static void peer_ready(void *opaque) { ((struct peer *)opaque)->readies++; }
static void peer_link(void *opaque, bool up) { ((struct peer *)opaque)->links++; }
static const struct dp_net_end peer_end = {.receive = peer_receive, .ready = peer_ready, .link = peer_link};

struct rig {
    struct bus bus;
    struct peer peer;
    struct dp_device *adapter, *net;
    struct driver d;
    uint64_t data;
    unsigned control; /* the control queue */
};

static struct dp_device *make_net(const struct dp_device_env *env)
{
    struct dp_device *child = dp_device_alloc(&dp_virtio_net_class, "net", env);
    dp_virtio_net_wire(child, packet_mac);
    return child;
}

static void rig_init_pairs(struct rig *r, const char *pairs)
{
    struct dp_error e = {0};
    memset(r, 0, sizeof(*r));
    bus_init(&r->bus);
    r->net = make_net(&r->bus.w.env);
    assert_ok(dp_device_set(r->net, "mtu", "1400", &e), e);
    assert_ok(dp_device_set(r->net, "queues", pairs, &e), e);
    r->control = CTRL;
    r->adapter = bus_plug(&r->bus, r->net, SLOT);
    r->peer.room = KEEP;
    r->peer.got = calloc(KEEP, sizeof(*r->peer.got));
    dp_net_port_init(&r->peer.port, &peer_end, &r->peer, 0);
    assert_ok(dp_net_connect(dp_virtio_net_port(r->net), &r->peer.port, &e), e);
    dp_device_resume(r->adapter);
    driver_probe(&r->d, &r->bus, SLOT, 1);
    r->data = guest_alloc(&r->bus, 2 << 20);
}

static void rig_init(struct rig *r) { rig_init_pairs(r, "1"); }

static void rig_fini(struct rig *r)
{
    dp_device_free(r->adapter);
    assert_null(r->peer.port.peer);
    free(r->peer.got);
    bus_fini(&r->bus);
}

static uint64_t config(struct rig *r, unsigned at, unsigned size) { return dp_space_load(r->bus.w.env.memory, r->d.config + at, size); }

/* ---- the driver's side ---- */

static void send_buffer(struct rig *r, uint64_t at, uint32_t size)
{
    struct buffer v[] = {{at, HEADER, false}, {at + HEADER, size, false}};
    ring_add(&r->d, TX, v, 2, true);
}

/* A header and a frame at `at` of guest memory. */
static void put_frame(struct rig *r, uint64_t at, const uint8_t *frame, uint32_t size, unsigned flags, unsigned gso, unsigned mss,
                      unsigned start, unsigned offset)
{
    uint8_t *h = guest(&r->bus, at);
    memset(h, 0, HEADER);
    h[0] = flags;
    h[1] = gso;
    dp_st16(h + 2, 54);
    dp_st16(h + 4, mss);
    dp_st16(h + 6, start);
    dp_st16(h + 8, offset);
    memcpy(h + HEADER, frame, size);
}

static unsigned reap(struct rig *r, unsigned queue)
{
    unsigned n = 0;
    while (ring_used(&r->d, queue, NULL) >= 0)
        n++;
    return n;
}

/* Receive buffers of a size at data + 1 MiB, 4 KiB apart. */
static void give(struct rig *r, unsigned count, uint32_t size)
{
    for (unsigned i = 0; i < count; i++) {
        struct buffer v = {r->data + (1 << 20) + (r->d.ring[RX].free % 64) * 4096, size, true};
        ring_add(&r->d, RX, &v, 1, false);
    }
    ring_kick(&r->d, RX);
}
static uint8_t *given(struct rig *r, unsigned n) { return guest(&r->bus, r->data + (1 << 20) + n % 64 * 4096); }

static unsigned arrive(struct rig *r, const void *bytes, uint32_t size)
{
    struct iovec part = {(void *)bytes, size};
    struct dp_net_frame f = {.part = &part, .parts = 1, .size = size};
    return dp_net_send(&r->peer.port, &f, 1);
}

static int command(struct rig *r, unsigned class, unsigned cmd, const void *data, uint32_t size)
{
    uint64_t at = r->data + (1 << 19), answer = at + 0x8000;
    uint8_t *h = guest(&r->bus, at);
    h[0] = class;
    h[1] = cmd;
    memcpy(h + 2, data, size);
    *guest(&r->bus, answer) = 0xaa;
    struct buffer v[] = {{at, 2, false}, {at + 2, size, false}, {answer, 1, true}};
    ring_add(&r->d, r->control, v, 3, true);
    ring_kick(&r->d, r->control);
    if (reap(r, r->control) != 1)
        return -1;
    return *guest(&r->bus, answer);
}

/* ---- tests ---- */

static void configuration(void **state)
{
    struct rig r;
    rig_init(&r);
    driver_start(&r.d, ALL, 0, true);
    assert_int_equal(r.d.queues, 3);
    assert_int_equal(r.d.features >> F_MTU & 1, 1);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(config(&r, i, 1), packet_mac[i]);
    assert_int_equal(config(&r, 6, 2), 1);
    assert_int_equal(config(&r, 8, 2), 1);
    assert_int_equal(config(&r, 10, 2), 1400);
    assert_int_equal(config(&r, 12, 4), 10000);
    assert_int_equal(config(&r, 16, 1), 1);
    unsigned generation = reg_read(&r.d, C_GENERATION, 1);
    dp_net_set_link(&r.peer.port, false);
    assert_int_equal(config(&r, 6, 2), 0);
    assert_int_equal(r.bus.msi_count[3], 1);
    assert_true(reg_read(&r.d, C_GENERATION, 1) != generation);
    dp_net_set_link(&r.peer.port, true);
    assert_int_equal(config(&r, 6, 2), 1);
    assert_int_equal(r.bus.msi_count[3], 2);
    /* After a migration. */
    dp_virtio_net_announce(r.net);
    assert_int_equal(config(&r, 6, 2), 3);
    assert_int_equal(command(&r, 3, 0, "", 0), 0);
    assert_int_equal(config(&r, 6, 2), 1);
    rig_fini(&r);
}

static void transmit(void **state)
{
    struct rig r;
    rig_init(&r);
    driver_start(&r.d, ALL, 0, true);
    uint8_t p[1600];
    for (unsigned i = 0; i < sizeof(p); i++)
        p[i] = i * 5 >> 2;
    for (unsigned i = 0; i < 200; i++) {
        put_frame(&r, r.data + i * 2048, p, 60 + i, 0, 0, 0, 0, 0);
        send_buffer(&r, r.data + i * 2048, 60 + i);
    }
    ring_kick(&r.d, TX);
    assert_int_equal(r.peer.count, 200);
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(r.peer.got[i].size, 60 + i);
        assert_memory_equal(r.peer.got[i].bytes, p, 60 + i);
    }
    assert_true(r.bus.msi_count[TX] <= 4); /* one for a batch */
    assert_int_equal(reap(&r, TX), 200);
    /* Too short and too long ones are lost, and come back; one without its header is an end to it. */
    struct buffer tiny = {r.data, HEADER + 13, false}, huge[] = {{r.data, 70000, false}}, none = {r.data, 11, false};
    memset(guest(&r.bus, r.data), 0, 100);
    r.peer.count = 0;
    ring_add(&r.d, TX, &tiny, 1, false);
    ring_add(&r.d, TX, huge, 1, false);
    send_buffer(&r, r.data, 64);
    ring_kick(&r.d, TX);
    assert_int_equal(r.peer.count, 1);
    assert_int_equal(reap(&r, TX), 3);
    ring_add(&r.d, TX, &none, 1, false);
    ring_kick(&r.d, TX);
    assert_true(driver_status(&r.d) & DP_VIRTIO_NEEDS_RESET);
    driver_start(&r.d, ALL, 0, true);
    struct buffer nowhere[] = {{r.data, HEADER, false}, {NO_DEVICE_HERE, 100, false}};
    ring_add(&r.d, TX, nowhere, 2, false);
    ring_kick(&r.d, TX);
    assert_true(driver_status(&r.d) & DP_VIRTIO_NEEDS_RESET);
    assert_int_equal(r.peer.count, 1);
    rig_fini(&r);
}

static void offloads(void **state)
{
    struct rig r;
    rig_init(&r);
    driver_start(&r.d, ALL, 0, true);
    static uint8_t p[70000], data[60000];
    uint8_t plain[100];
    uint32_t size = packet_udp(plain, PACKET_GUEST, 1, PACKET_HOST, 2, "data", 4);
    unsigned right = get16(plain + 40);
    put16(plain + 40, packet_pseudo(plain + 14, false, 17, 12) % 65535);
    put_frame(&r, r.data, plain, size, 1, 0, 0, 34, 6);
    /* A peer that can do nothing gets it done; one that can gets it as it is. */
    send_buffer(&r, r.data, size);
    ring_kick(&r.d, TX);
    assert_int_equal(r.peer.got[0].work, 0);
    assert_int_equal(get16(r.peer.got[0].bytes + 40), right);
    dp_net_set_accepts(&r.peer.port, DP_NET_CHECKSUM | DP_NET_TSO4);
    send_buffer(&r, r.data, size);
    ring_kick(&r.d, TX);
    assert_int_equal(r.peer.got[1].work, DP_NET_CHECKSUM);
    assert_memory_equal(r.peer.got[1].bytes, plain, size);
    uint32_t big = packet_tcp(p, 1, PACKET_HOST, 2, 100, 0, T_ACK, data, sizeof(data));
    put_frame(&r, r.data, p, big, 1, 1, 1000, 34, 16);
    send_buffer(&r, r.data, big);
    ring_kick(&r.d, TX);
    assert_int_equal(r.peer.got[2].work, DP_NET_CHECKSUM | DP_NET_TSO4);
    assert_int_equal(r.peer.got[2].size, big);
    /* Cut in software, in several goes because the peer is full, with a save and load between. */
    dp_net_set_accepts(&r.peer.port, 0);
    r.peer.count = 0;
    r.peer.room = 7;
    send_buffer(&r, r.data, big);
    send_buffer(&r, r.data, big);
    ring_kick(&r.d, TX);
    assert_int_equal(r.peer.count, 7);
    assert_int_equal(reap(&r, TX), 3);
    dp_device_pause(r.adapter);
    struct dp_buffer image = {0};
    struct dp_error e = {0};
    dp_device_save(r.net, &image);
    assert_ok(dp_device_load(r.net, image.data, image.size, NULL, &e), e);
    dp_buffer_fini(&image);
    r.peer.room = 60;
    dp_device_resume(r.adapter);
    assert_int_equal(r.peer.count, 67);
    assert_int_equal(reap(&r, TX), 1);
    r.peer.room = 1000;
    dp_net_ready(&r.peer.port);
    assert_int_equal(r.peer.count, 120);
    assert_int_equal(reap(&r, TX), 1);
    for (unsigned i = 0; i < 120; i++)
        assert_int_equal(get32(r.peer.got[i].bytes + 38), 100 + i % 60 * 1000);
    /* What makes no sense, or was not agreed on, is lost. */
    r.peer.count = 0;
    static const struct {
        unsigned flags, gso, mss, start, offset;
    } bad[] = {{1, 1, 0, 34, 16},    {0, 1, 1000, 34, 16}, {1, 3, 1000, 34, 6},  {1, 4, 1000, 34, 16},
               {1, 0, 0, 65535, 16}, {1, 0, 0, 34, 65535}, {1, 0x80, 0, 34, 16}, {1, 0x7f, 9, 34, 16}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++) {
        put_frame(&r, r.data, p, big, bad[i].flags, bad[i].gso, bad[i].mss, bad[i].start, bad[i].offset);
        send_buffer(&r, r.data, big);
        ring_kick(&r.d, TX);
        assert_int_equal(reap(&r, TX), 1);
    }
    assert_int_equal(r.peer.count, 0);
    driver_start(&r.d, WITHOUT(F_HOST_TSO4), 0, true);
    put_frame(&r, r.data, p, big, 1, 1, 1000, 34, 16);
    send_buffer(&r, r.data, big);
    ring_kick(&r.d, TX);
    assert_int_equal(r.peer.count, 0);
    assert_int_equal(driver_status(&r.d), 15);
    rig_fini(&r);
}

static void receive(void **state)
{
    struct rig r;
    rig_init(&r);
    static uint8_t p[9000];
    uint32_t length = 0;
    for (unsigned i = 0; i < sizeof(p); i++)
        p[i] = i * 3 >> 1;
    assert_int_equal(arrive(&r, p, 100), 1); /* nobody is there: lost */
    driver_start(&r.d, ALL, 0, true);
    r.peer.readies = 0;
    assert_int_equal(arrive(&r, p, 100), 0); /* somebody is, without buffers: kept */
    give(&r, 3, 1536);
    assert_int_equal(r.peer.readies, 1);
    assert_int_equal(arrive(&r, p, 100), 1);
    assert_int_equal(ring_used(&r.d, RX, &length), 0);
    assert_int_equal(length, 112);
    assert_int_equal(dp_ld16(given(&r, 0) + 10), 1);
    assert_memory_equal(given(&r, 0) + 12, p, 100);
    assert_int_equal(r.bus.msi_count[RX], 1);
    /* One that needs more buffers than there are stays with its sender, and nothing of it is seen. */
    assert_int_equal(arrive(&r, p, 9000), 0);
    assert_int_equal(ring_used(&r.d, RX, &length), -1);
    give(&r, 8, 1536);
    assert_int_equal(r.peer.readies, 2);
    assert_int_equal(arrive(&r, p, 9000), 1);
    assert_int_equal(dp_ld16(given(&r, 1) + 10), 6);
    uint32_t done = 0;
    for (unsigned i = 1; i <= 6; i++) {
        assert_int_equal(ring_used(&r.d, RX, &length), i);
        unsigned skip = i == 1 ? 12 : 0;
        assert_memory_equal(given(&r, i) + skip, p + done, length - skip);
        done += length - skip;
    }
    assert_int_equal(done, 9000);
    assert_int_equal(r.bus.msi_count[RX], 2);
    /* A batch: as many as there is room for, one interrupt. */
    struct iovec part = {p, 64};
    struct dp_net_frame f[8];
    for (unsigned i = 0; i < 8; i++)
        f[i] = (struct dp_net_frame){.part = &part, .parts = 1, .size = 64};
    assert_int_equal(dp_net_send(&r.peer.port, f, 8), 4);
    assert_int_equal(reap(&r, RX), 4);
    assert_int_equal(r.bus.msi_count[RX], 3);
    /* Paused it takes nothing, then says when. */
    give(&r, 1, 1536);
    dp_device_pause(r.adapter);
    assert_int_equal(arrive(&r, p, 64), 0);
    unsigned before = r.peer.readies;
    dp_device_resume(r.adapter);
    assert_true(r.peer.readies > before);
    assert_int_equal(arrive(&r, p, 64), 1);
    /* One buffer for each frame: what does not fit is lost, the buffer stays. */
    driver_start(&r.d, WITHOUT(F_MRG_RXBUF), 0, true);
    give(&r, 1, 200);
    assert_int_equal(arrive(&r, p, 189), 1);
    assert_int_equal(ring_used(&r.d, RX, &length), -1);
    assert_int_equal(arrive(&r, p, 188), 1);
    assert_int_equal(ring_used(&r.d, RX, &length), 0);
    assert_int_equal(length, 200);
    /* A buffer without room for the header. */
    give(&r, 1, 11);
    assert_int_equal(arrive(&r, p, 64), 1);
    assert_true(driver_status(&r.d) & DP_VIRTIO_NEEDS_RESET);
    driver_start(&r.d, ALL, 0, true);
    struct buffer rom = {ROM_BASE, 1536, true};
    ring_add(&r.d, RX, &rom, 1, false);
    assert_int_equal(arrive(&r, p, 64), 1);
    assert_true(driver_status(&r.d) & DP_VIRTIO_NEEDS_RESET);
    /* Far too many buffers for a frame, and a smaller ring. */
    driver_start(&r.d, ALL, 16, true);
    for (unsigned i = 0; i < 16; i++)
        give(&r, 1, 16);
    assert_int_equal(arrive(&r, p, 2000), 0);
    assert_int_equal(arrive(&r, p, 200), 1);
    assert_int_equal(reap(&r, RX), 14);
    assert_int_equal(driver_status(&r.d), 15);
    rig_fini(&r);
}

static void guest_offloads(void **state)
{
    struct rig r;
    rig_init(&r);
    struct dp_net_port *port = dp_virtio_net_port(r.net);
    static uint8_t p[60100], data[60000];
    uint32_t size = packet_tcp(p, 1, PACKET_HOST, 2, 100, 0, T_ACK, data, sizeof(data));
    struct iovec part = {p, size};
    struct dp_net_frame f = {.part = &part,
                             .parts = 1,
                             .size = size,
                             .work = DP_NET_CHECKSUM | DP_NET_TSO4,
                             .checksum_start = 34,
                             .checksum_offset = 16,
                             .segment_size = 1460};
    assert_int_equal(port->accepts, 0);
    driver_start(&r.d, ALL, 0, true);
    assert_int_equal(port->accepts, DP_NET_CHECKSUM | DP_NET_TSO4 | DP_NET_TSO6 | DP_NET_ECN);
    put16(p + 16, 0); /* left to whoever cuts it */
    give(&r, 60, 1536);
    assert_int_equal(dp_net_send(&r.peer.port, &f, 1), 1);
    const uint8_t *h = given(&r, 0);
    assert_int_equal(h[0], 1);
    assert_int_equal(h[1], 1);
    assert_int_equal(dp_ld16(h + 2), 54);
    assert_int_equal(dp_ld16(h + 4), 1460);
    assert_int_equal(dp_ld16(h + 6), 34);
    assert_int_equal(dp_ld16(h + 8), 16);
    assert_int_equal(get16(h + 12 + 16), size - 14);
    assert_int_equal(packet_sum(0, h + 12 + 14, 20), 0xffff);
    assert_int_equal(get16(h + 12 + 50), packet_sum(packet_pseudo(h + 12 + 14, false, 6, size - 34), NULL, 0));
    assert_int_equal(reap(&r, RX), dp_ld16(h + 10));
    /* The driver takes it back, as for XDP; what comes with work all the same is lost. */
    uint64_t some = 1 << F_GUEST_CSUM, none = 0, more = 1ull << 40;
    assert_int_equal(command(&r, 5, 0, &some, 8), 0);
    assert_int_equal(port->accepts, DP_NET_CHECKSUM);
    assert_int_equal(command(&r, 5, 0, &none, 8), 0);
    assert_int_equal(port->accepts, 0);
    assert_int_equal(command(&r, 5, 0, &more, 8), 1);
    assert_int_equal(command(&r, 5, 0, &none, 4), 1);
    assert_int_equal(dp_net_send(&r.peer.port, &f, 1), 1);
    assert_int_equal(reap(&r, RX), 0);
    driver_start(&r.d, WITHOUT(F_GUEST_TSO4) & WITHOUT(F_CTRL_GUEST_OFFLOADS), 0, true);
    assert_int_equal(port->accepts, DP_NET_CHECKSUM | DP_NET_TSO6 | DP_NET_ECN);
    assert_int_equal(command(&r, 5, 0, &none, 8), 1);
    driver_reset(&r.d);
    assert_int_equal(port->accepts, 0);
    rig_fini(&r);
}

/* Does a frame to that address pass? */
static bool passes(struct rig *r, const char *mac, int vlan)
{
    uint8_t p[64] = {0};
    memcpy(p, mac, 6);
    put16(p + 12, vlan < 0 ? 0x0800 : 0x8100);
    put16(p + 14, vlan < 0 ? 0 : 0xe000 | vlan);
    assert_int_equal(arrive(r, p, sizeof(p)), 1);
    unsigned n = reap(r, RX);
    give(r, n, 256);
    return n;
}

static void filter(void **state)
{
    static const char broadcast[] = "\xff\xff\xff\xff\xff\xff", mine[] = "\x52\x54\x00\x01\x02\x03", other[] = "\x52\x54\x00\x01\x02\x04",
                      group[] = "\x33\x33\0\0\0\1";
    struct rig r;
    rig_init(&r);
    driver_start(&r.d, ALL, 0, true);
    give(&r, 8, 256);
    assert_true(passes(&r, other, -1)); /* before the driver says otherwise */
    assert_int_equal(command(&r, 0, 0, "\0", 1), 0);
    assert_true(passes(&r, mine, -1) && passes(&r, broadcast, -1));
    assert_false(passes(&r, other, -1) || passes(&r, group, -1));
    assert_int_equal(command(&r, 1, 0, "\1\0\0\0\x52\x54\x00\x01\x02\x04\1\0\0\0\x33\x33\0\0\0\1", 20), 0);
    assert_true(passes(&r, other, -1) && passes(&r, group, -1));
    assert_int_equal(command(&r, 1, 0, "\0\0\0\0\0\0\0\0", 8), 0);
    assert_false(passes(&r, other, -1) || passes(&r, group, -1));
    assert_int_equal(command(&r, 0, 1, "\1", 1), 0);
    assert_true(passes(&r, group, -1));
    assert_int_equal(command(&r, 0, 3, "\1", 1), 0);
    assert_false(passes(&r, group, -1));
    assert_int_equal(command(&r, 0, 2, "\1", 1), 0);
    assert_true(passes(&r, other, -1));
    assert_int_equal(command(&r, 0, 5, "\1", 1), 0);
    assert_false(passes(&r, broadcast, -1));
    assert_int_equal(command(&r, 0, 4, "\1", 1), 0);
    assert_false(passes(&r, mine, -1));
    for (char i = 1; i < 6; i++)
        assert_int_equal(command(&r, 0, i, "\0", 1), 0);
    /* Another address; VLANs. */
    assert_int_equal(command(&r, 1, 1, other, 6), 0);
    assert_true(passes(&r, other, -1));
    assert_false(passes(&r, mine, -1));
    assert_int_equal(config(&r, 5, 1), 4);
    assert_false(passes(&r, other, 100));
    assert_int_equal(command(&r, 2, 0, "\x64\0", 2), 0);
    assert_true(passes(&r, other, 100));
    assert_int_equal(command(&r, 2, 1, "\x64\0", 2), 0);
    assert_false(passes(&r, other, 100));
    /* More addresses than fit: all pass. */
    uint8_t many[4 + 100 * 6 + 4] = {100};
    assert_int_equal(command(&r, 1, 0, many, sizeof(many)), 0);
    assert_true(passes(&r, mine, -1));
    assert_false(passes(&r, group, -1));
    /* Commands that are none. */
    assert_int_equal(command(&r, 0, 6, "\1", 1), 1);
    assert_int_equal(command(&r, 0, 0, "\1\1", 2), 1);
    assert_int_equal(command(&r, 1, 0, "\2\0\0\0\1\2\3\4\5\6\0\0\0\0", 14), 1);
    assert_int_equal(command(&r, 1, 0, "\xff\xff\xff\xff\0\0\0\0", 8), 1);
    assert_int_equal(command(&r, 1, 0, "", 0), 1);
    assert_int_equal(command(&r, 1, 1, mine, 5), 1);
    assert_int_equal(command(&r, 2, 0, "\0\x10", 2), 1);
    assert_int_equal(command(&r, 9, 0, "", 0), 1);
    assert_int_equal(driver_status(&r.d), 15);
    driver_start(&r.d, WITHOUT(F_CTRL_VQ), 0, true);
    assert_int_equal(command(&r, 0, 0, "\1", 1), -1);
    assert_int_equal(config(&r, 5, 1), 3); /* the card's own again */
    rig_fini(&r);
}

static void reset_meanwhile(void *opaque)
{
    struct rig *r = opaque;
    r->peer.meanwhile = NULL;
    reg_write(&r->d, C_STATUS, 0, 1);
    assert_int_equal(driver_status(&r->d), 15); /* not before what is in flight is back */
}

static void kick_meanwhile(void *opaque)
{
    struct rig *r = opaque;
    r->peer.meanwhile = NULL;
    send_buffer(r, r->data, 64);
    ring_kick(&r->d, TX);
}

static void meanwhile(void **state)
{
    struct rig r;
    rig_init(&r);
    driver_start(&r.d, ALL, 0, true);
    memset(guest(&r.bus, r.data), 0, 100);
    /* A kick while the peer takes a frame: sent after it, by the same thread. */
    r.peer.meanwhile = kick_meanwhile;
    r.peer.opaque = &r;
    send_buffer(&r, r.data, 60);
    ring_kick(&r.d, TX);
    assert_int_equal(r.peer.count, 2);
    assert_int_equal(r.peer.got[1].size, 64);
    assert_int_equal(reap(&r, TX), 2);
    /* A reset, with a peer that is full. */
    r.peer.meanwhile = reset_meanwhile;
    r.peer.room = 1;
    for (unsigned i = 0; i < 3; i++)
        send_buffer(&r, r.data, 60);
    ring_kick(&r.d, TX);
    assert_int_equal(driver_status(&r.d), 0);
    r.peer.room = 100;
    r.peer.count = 0;
    driver_start(&r.d, ALL, 0, true);
    dp_net_ready(&r.peer.port);
    assert_int_equal(r.peer.count, 0);
    send_buffer(&r, r.data, 60);
    ring_kick(&r.d, TX);
    assert_int_equal(r.peer.count, 1);
    /* More than one go. */
    driver_start(&r.d, ALL, 0, true);
    r.peer.room = 10000;
    for (unsigned i = 0; i < 250; i++)
        send_buffer(&r, r.data, 60);
    ring_kick(&r.d, TX);
    assert_int_equal(reap(&r, TX), 250);
    rig_fini(&r);
}

static struct dp_device *make_for_conformance(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = make_net(env);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static uint64_t poke(struct dp_device *d, struct dp_random *random)
{
    struct dp_virtio *v = dp_virtio_of(d);
    uint64_t pick = dp_random_next(random), seen;
    uint8_t bytes[20];
    if (pick % 7 == 6) {
        struct iovec part = {bytes, sizeof(bytes)};
        struct dp_net_frame f = {.part = &part, .parts = 1, .size = sizeof(bytes)};
        memset(bytes, pick >> 8, sizeof(bytes));
        return dp_virtio_net_port(d)->end->receive(dp_virtio_net_port(d)->opaque, &f, 1);
    }
    dp_virtio_lock(v);
    switch (pick % 7) {
    case 0:
        dp_virtio_set_status(v, pick >> 8 & 3 ? pick >> 16 & 0xff : 0);
        break;
    case 1:
        dp_virtio_notify(v, pick >> 8 & 3);
        break;
    case 2:
        dp_virtio_enable_queue(v, pick >> 8 & 3);
        break;
    case 3:
        v->regs->driver_features = pick >> 8 & 1 ? 1ull << 32 : pick;
        break;
    case 4:
        v->vclass->config_read(v, 0, bytes, sizeof(bytes));
        break;
    default:
        dp_virtio_config_changed(v);
        break;
    }
    seen = v->regs->status;
    if (pick % 7 == 4)
        for (unsigned i = 0; i < sizeof(bytes); i++)
            seen = seen * 31 + bytes[i];
    dp_virtio_unlock(v);
    return seen;
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make_for_conformance, .poke = poke};
    conformance_check(&c);
}

/* An expansion ROM of two images comes to name the device it is on. */
static void rom(void **state)
{
    struct bus bus;
    struct dp_error e = {0};
    uint8_t image[3072] = {0}, sum = 0;
    bus_init(&bus);
    struct dp_device *net = make_net(&bus.w.env);
    assert_ok(dp_device_init(net, &e), e);
    struct dp_device *a = dp_virtio_pci_create("net-pci", &bus.w.env, net, dp_virtio_of(net), &e);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *p = image + i * 1024;
        memcpy(p, "\x55\xaa\x02", 3);
        dp_st16(p + 0x18, 0x40);
        memcpy(p + 0x40, "PCIR\xf4\x1a\x00\x10", 8);
        dp_st16(p + 0x50, 2);
        p[0x54] = i ? 3 : 0;
        p[0x55] = i ? 0x80 : 0;
    }
    for (unsigned i = 0; i < 1024; i++)
        sum += image[i];
    image[6] = -sum;
    assert_ok(dp_virtio_pci_rom(a, image, sizeof(image), &e), e);
    assert_ok(dp_pci_plug(dp_pci_host_of(bus.host), dp_virtio_pci_function(a), SLOT, &e), e);
    config_write(&bus, SLOT, 0x30, 0xfffff800, 4);
    assert_int_equal(config_read(&bus, SLOT, 0x30, 4), 0xfffff000);
    config_write(&bus, SLOT, 0x30, 0xe8000001, 4);
    config_write(&bus, SLOT, 4, 2, 2);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(dp_space_load(bus.w.env.memory, 0xe8000000 + i * 1024 + 0x44, 4), 0x10411af4);
    sum = 0;
    for (unsigned i = 0; i < 1024; i++)
        sum += dp_space_load(bus.w.env.memory, 0xe8000000 + i, 1);
    assert_int_equal(sum, 0);
    assert_int_equal(dp_space_load(bus.w.env.memory, 0xe8000000 + 3072, 4), 0);
    dp_device_free(a);
    bus_fini(&bus);
}

static void give_to(struct rig *r, unsigned queue, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct buffer v = {r->data + (1 << 20) + (queue * 16 + r->d.ring[queue].free % 16) * 2048, 1536, true};
        ring_add(&r->d, queue, &v, 1, false);
    }
    ring_kick(&r->d, queue);
}

static void queues(void **state)
{
    enum { PAIRS = 4, FLOWS = 40 };
    struct rig r;
    uint8_t p[PAIRS + FLOWS][200];
    uint32_t size = 0;
    rig_init_pairs(&r, "4");
    driver_start(&r.d, ALL, 16, true);
    r.control = 2 * PAIRS;
    assert_int_equal(r.d.queues, 2 * PAIRS + 1);
    assert_int_equal(r.d.features >> F_MQ & 1, 1);
    assert_int_equal(config(&r, 8, 2), PAIRS);
    for (unsigned i = 0; i < PAIRS + FLOWS; i++)
        size = packet_udp(p[i], PACKET_GUEST, 100 + i, PACKET_HOST, 7, "data", 4);
    for (unsigned i = 0; i < PAIRS; i++)
        give_to(&r, 2 * i, 16);
    /* One pair, until the driver asks for more. */
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(arrive(&r, p[i], size), 1);
    assert_int_equal(reap(&r, 0), 8);
    give_to(&r, 0, 8);
    assert_int_equal(command(&r, 4, 0, "\0\0", 2), 1);
    assert_int_equal(command(&r, 4, 0, "\5\0", 2), 1);
    assert_int_equal(command(&r, 4, 0, "\4", 1), 1);
    assert_int_equal(command(&r, 4, 1, "\4\0", 2), 1); /* RSS */
    assert_int_equal(command(&r, 4, 0, "\4\0", 2), 0);
    /* A connection comes to the pair that it is sent from, and moves with it. */
    for (unsigned round = 0; round < 2; round++)
        for (unsigned i = 0; i < PAIRS; i++) {
            unsigned pair = (i + round) % PAIRS;
            put_frame(&r, r.data, p[i], size, 0, 0, 0, 0, 0);
            struct buffer v[] = {{r.data, HEADER, false}, {r.data + HEADER, size, false}};
            ring_add(&r.d, 2 * pair + 1, v, 2, true);
            ring_kick(&r.d, 2 * pair + 1);
            assert_int_equal(reap(&r, 2 * pair + 1), 1);
            assert_memory_equal(r.peer.got[r.peer.count - 1].bytes, p[i], size);
            assert_int_equal(arrive(&r, p[i], size), 1);
            for (unsigned q = 0; q < PAIRS; q++)
                assert_int_equal(reap(&r, 2 * q), q == pair);
            give_to(&r, 2 * pair, 1);
        }
    /* In one batch, to all; also after a save and load. */
    for (unsigned round = 0; round < 2; round++) {
        struct iovec part[8];
        struct dp_net_frame f[8];
        for (unsigned i = 0; i < 8; i++) {
            part[i] = (struct iovec){p[i % PAIRS], size};
            f[i] = (struct dp_net_frame){.part = &part[i], .parts = 1, .size = size};
        }
        assert_int_equal(dp_net_send(&r.peer.port, f, 8), 8);
        for (unsigned q = 0; q < PAIRS; q++) {
            assert_int_equal(reap(&r, 2 * q), 2);
            give_to(&r, 2 * q, 2);
        }
        struct dp_buffer image = {0};
        struct dp_error e = {0};
        dp_device_pause(r.adapter);
        dp_device_save(r.net, &image);
        assert_ok(dp_device_load(r.net, image.data, image.size, NULL, &e), e);
        dp_buffer_fini(&image);
        dp_device_resume(r.adapter);
    }
    /* Those that nothing was sent of are spread. */
    unsigned used = 0;
    for (unsigned i = PAIRS; i < PAIRS + FLOWS; i++) {
        assert_int_equal(arrive(&r, p[i], size), 1);
        for (unsigned q = 0; q < PAIRS; q++)
            if (reap(&r, 2 * q)) {
                used |= 1u << q;
                give_to(&r, 2 * q, 1);
            }
    }
    assert_int_equal(used, 15);
    /* Fewer again: nothing comes to those that are not in use. */
    assert_int_equal(command(&r, 4, 0, "\2\0", 2), 0);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(arrive(&r, p[i], size), 1);
    assert_int_equal(reap(&r, 0) + reap(&r, 2), 8);
    /* A driver that knows of one pair has its control queue behind that; a reset is back at one. */
    r.control = CTRL;
    driver_start(&r.d, WITHOUT(F_MQ), 16, true);
    assert_int_equal(command(&r, 0, 0, "\1", 1), 0);
    assert_int_equal(command(&r, 4, 0, "\2\0", 2), 1);
    r.peer.count = 0;
    send_buffer(&r, r.data, size);
    ring_kick(&r.d, TX);
    assert_int_equal(r.peer.count, 1);
    struct buffer v = {r.data, HEADER + size, false};
    ring_add(&r.d, 3, &v, 1, false); /* a queue that is not */
    ring_kick(&r.d, 3);
    assert_int_equal(r.peer.count, 1);
    rig_fini(&r);
}

static void kick_other(void *opaque)
{
    struct rig *r = opaque;
    r->peer.meanwhile = NULL;
    struct buffer v[] = {{r->data, HEADER, false}, {r->data + HEADER, 64, false}};
    ring_add(&r->d, 3, v, 2, true);
    ring_kick(&r->d, 3);
    assert_int_equal(reap(r, 3), 1); /* it went while the first pair's was still on its way */
}

/* Pairs do not wait for one another; a peer that was full is told of by all. */
static void side_by_side(void **state)
{
    struct rig r;
    rig_init_pairs(&r, "2");
    driver_start(&r.d, ALL, 16, true);
    memset(guest(&r.bus, r.data), 0, 100);
    r.peer.meanwhile = kick_other;
    r.peer.opaque = &r;
    send_buffer(&r, r.data, 60);
    ring_kick(&r.d, TX);
    assert_int_equal(r.peer.count, 2);
    assert_int_equal(reap(&r, TX), 1);
    r.peer.room = 0;
    send_buffer(&r, r.data, 60);
    struct buffer v[] = {{r.data, HEADER, false}, {r.data + HEADER, 61, false}};
    ring_add(&r.d, 3, v, 2, true);
    ring_kick(&r.d, TX);
    ring_kick(&r.d, 3);
    assert_int_equal(reap(&r, TX) + reap(&r, 3), 0);
    r.peer.room = 10;
    dp_net_ready(&r.peer.port);
    assert_int_equal(reap(&r, TX), 1);
    assert_int_equal(reap(&r, 3), 1);
    assert_int_equal(r.peer.count, 4);
    rig_fini(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configuration), cmocka_unit_test(transmit),       cmocka_unit_test(offloads),
        cmocka_unit_test(receive),       cmocka_unit_test(guest_offloads), cmocka_unit_test(filter),
        cmocka_unit_test(meanwhile),     cmocka_unit_test(conformance),    cmocka_unit_test(rom),
        cmocka_unit_test(queues),        cmocka_unit_test(side_by_side),
    };
    return cmocka_run_group_tests_name("virtio-net", tests, NULL, NULL);
}
