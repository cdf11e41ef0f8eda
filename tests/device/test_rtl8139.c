/* test_rtl8139.c - the RTL8139C+ by its drivers: C mode as DOS, BSD's rl and Linux' 8139too use it, C+ mode as 8139cp does; EEPROM,
 * configuration lock, filters, timer, loopback, a wire and rings that are full, accesses of all sizes, and what every device must do.
 */
#include "devices/net/rtl8139.h"
#include "tests/device/nic_rig.h"

enum {
    IDR0 = 0x00,
    MAR0 = 0x08,
    TSD0 = 0x10,
    TSAD0 = 0x20,
    RBSTART = 0x30,
    CR = 0x37,
    CAPR = 0x38,
    CBR = 0x3a,
    IMR = 0x3c,
    ISR = 0x3e,
    TCR = 0x40,
    RCR = 0x44,
    TCTR = 0x48,
    CR9346 = 0x50,
    CONFIG1 = 0x52,
    TIMER_INT = 0x54,
    MSR = 0x58,
    CONFIG3 = 0x59,
    TSAD = 0x60,
    BMCR = 0x62,
    BMSR = 0x64,
    TPPOLL = 0xd9,
    CPCR = 0xe0,
    RDSAR = 0xe4
};
enum { BUFE = 1, TE = 4, RE = 8, RST = 0x10, ROK = 1, TOK = 4, RXOVW = 0x10, LINK = 0x20, TIMEOUT = 0x4000 };
enum { AAP = 1, APM = 2, AM = 4, AB = 8, WRAP = 0x80 };
#define OWN (1u << 31)
#define EOR (1u << 30)
#define FS (1u << 29)
#define LS (1u << 28)
enum { LGSEN = 1 << 27, IPCS = 1 << 18, TCPCS = 1 << 16 };
enum {
    IO = 0xc000,
    MMIO = 0x10000000,
    RX_RING = 0x40000,
    TX_DATA = 0x100000,
    CP_TX = 0x20000,
    CP_RX = 0x21000,
    CP_DATA = 0x200000,
    TALLY = 0x30000
};

struct rig {
    struct conformance_world w;
    struct dp_device *d;
    struct dp_pci_function *f;
    struct wire wire;
    unsigned rx, tx;
    uint8_t frame[WIRE_BYTES];
};

static uint32_t get(struct rig *r, unsigned reg, unsigned size) { return (uint32_t)dp_space_load(r->w.env.ports, IO + reg, size); }
static void set(struct rig *r, unsigned reg, uint32_t v, unsigned size) { dp_space_store(r->w.env.ports, IO + reg, v, size); }
static uint8_t *ram(struct rig *r, uint64_t at) { return r->w.ram->host + at; }

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_rtl8139_class, "net0", env);
    dp_rtl8139_wire(d, rig_mac);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void rig_init(struct rig *r)
{
    struct dp_error e = {0};
    memset(r, 0, sizeof(*r));
    conformance_world_init(&r->w);
    r->d = make(&r->w.env, NULL);
    r->f = dp_rtl8139_function(r->d);
    wire_init(&r->wire, dp_rtl8139_port(r->d));
    assert_ok(dp_device_map(r->d, DP_RTL8139_WINDOW_PORTS, IO, &e), e);
    assert_ok(dp_device_map(r->d, DP_RTL8139_WINDOW_MEMORY, MMIO, &e), e);
    dp_device_resume(r->d);
    dp_pci_config_write(r->f, DP_PCI_COMMAND, 7, 2);
}

static void rig_fini(struct rig *r)
{
    dp_device_free(r->d);
    wire_clear(&r->wire);
    conformance_world_fini(&r->w);
}

static void start(struct rig *r, uint32_t rcr)
{
    set(r, CR, RST, 1);
    assert_int_equal(get(r, CR, 1) & RST, 0);
    set(r, RBSTART, RX_RING, 4);
    set(r, CR, TE | RE, 1);
    set(r, RCR, rcr, 4);
    set(r, TCR, 0x600, 4);
    set(r, IMR, ROK | TOK | RXOVW | LINK | TIMEOUT, 2);
    set(r, ISR, 0xffff, 2);
    r->rx = r->tx = 0;
}

static void lines(void *opaque, bool cs, bool sk, bool di) { set(opaque, CR9346, 0x80 | (cs ? 8 : 0) | (sk ? 4 : 0) | (di ? 2 : 0), 1); }
static bool line(void *opaque) { return get(opaque, CR9346, 1) & 1; }

static void eeprom_bits(struct rig *r, unsigned bits, unsigned count)
{
    for (unsigned i = count; i--;) {
        lines(r, true, false, bits >> i & 1);
        lines(r, true, true, bits >> i & 1);
    }
    lines(r, false, false, false);
}

static void identity(void **state)
{
    struct rig r;
    rig_init(&r);
    assert_int_equal(dp_pci_config_read(r.f, 0, 4), 0x813910ec);
    assert_int_equal(dp_pci_config_read(r.f, 8, 4), 0x02000020);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(get(&r, IDR0 + i, 1), rig_mac[i]);
    assert_int_equal(get(&r, TCR, 4) & 0x7cc00000, 0x74800000); /* 8139C+ */
    assert_int_equal(rig_eeprom(&r, lines, line, 0), 0x8129);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(rig_eeprom(&r, lines, line, 7 + i), dp_ld16(rig_mac + 2 * i));
    /* writing needs to be enabled */
    eeprom_bits(&r, 5u << 22 | 20u << 16 | 0xbeef, 25);
    assert_int_equal(rig_eeprom(&r, lines, line, 20), 0);
    eeprom_bits(&r, 4u << 6 | 0x30, 9);
    eeprom_bits(&r, 5u << 22 | 20u << 16 | 0xbeef, 25);
    assert_int_equal(rig_eeprom(&r, lines, line, 20), 0xbeef);
    eeprom_bits(&r, 7u << 6 | 20, 9); /* erase */
    assert_int_equal(rig_eeprom(&r, lines, line, 20), 0xffff);
    /* the same by memory, and of any size */
    assert_int_equal(dp_space_load(r.w.env.memory, MMIO + TCR, 4), get(&r, TCR, 4));
    assert_int_equal(get(&r, TCR + 3, 1), 0x74);
    assert_int_equal(get(&r, TCR + 2, 2), 0x7480);
    set(&r, MAR0, 0x44332211, 4);
    set(&r, MAR0 + 2, 0xaa, 1);
    assert_int_equal(get(&r, MAR0, 4), 0x44aa2211);
    set(&r, RCR, 0x0000f78f, 4);
    set(&r, RCR + 1, 0x12, 1);
    assert_int_equal(get(&r, RCR, 4), 0x0000128f);
    /* configuration is locked */
    uint32_t config3 = get(&r, CONFIG3, 1);
    set(&r, CR9346, 0, 1);
    set(&r, CONFIG3, config3 ^ 0x20, 1);
    assert_int_equal(get(&r, CONFIG3, 1), config3);
    set(&r, CR9346, 0xc0, 1);
    set(&r, CONFIG3, config3 ^ 0x20, 1);
    assert_int_equal(get(&r, CONFIG3, 1), config3 ^ 0x20);
    /* link */
    assert_int_equal(get(&r, MSR, 1) & 4, 0);
    assert_int_equal(get(&r, BMSR, 2) & 0x24, 0x24);
    set(&r, ISR, 0xffff, 2);
    set(&r, IMR, LINK, 2);
    dp_net_set_link(&r.wire.port, false);
    assert_true(rig_irq(r.f));
    assert_int_equal(get(&r, ISR, 2), LINK);
    assert_int_equal(get(&r, MSR, 1) & 4, 4);
    assert_int_equal(get(&r, BMSR, 2) & 0x24, 0);
    rig_fini(&r);
}

static void send_c(struct rig *r, uint32_t at, unsigned size)
{
    unsigned i = r->tx++ % 4;
    assert_true(get(r, TSD0 + i * 4, 4) & 0x2000);
    set(r, TSAD0 + i * 4, at, 4);
    set(r, TSD0 + i * 4, 0x80000 | size, 4);
}

static void transmit(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r, APM | AB);
    rig_frame(ram(&r, TX_DATA), rig_other, 200);
    for (unsigned i = 0; i < 6; i++) {
        send_c(&r, TX_DATA, i % 2 ? 60 : 200);
        assert_int_equal(r.wire.count, i + 1);
        assert_int_equal(r.wire.frame[i].size, i % 2 ? 60 : 200);
        assert_memory_equal(r.wire.frame[i].data, ram(&r, TX_DATA), r.wire.frame[i].size);
        assert_int_equal(get(&r, TSD0 + i % 4 * 4, 4), 0x8a000 | (i % 2 ? 60 : 200));
        assert_true(rig_irq(r.f));
        assert_int_equal(get(&r, ISR, 2), TOK);
        set(&r, ISR, TOK, 2);
        assert_false(rig_irq(r.f));
    }
    assert_int_equal(get(&r, TSAD, 2), 0xf00f);
    /* a wire that is full; the four go in order when it has room, and only as long as there is room */
    r.wire.room = 0;
    for (unsigned i = 0; i < 4; i++)
        send_c(&r, TX_DATA, 100 + i);
    assert_int_equal(r.wire.count, 6);
    assert_int_equal(get(&r, TSAD, 2) & 15, 0);
    r.wire.room = 3;
    dp_net_ready(&r.wire.port);
    assert_int_equal(r.wire.count, 9);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(r.wire.frame[6 + i].size, 100 + i);
    /* a reset forgets the fourth */
    set(&r, CR, RST, 1);
    r.wire.room = 3;
    dp_net_ready(&r.wire.port);
    assert_int_equal(r.wire.count, 9);
    assert_int_equal(get(&r, TSD0, 4), 0x2000);
    rig_fini(&r);
}

/* The next packet of the ring of that size, as a driver copies it; returns its length without FCS, 0: none. */
static uint32_t receive_c(struct rig *r, uint32_t length, bool wraps, uint8_t *to, unsigned *status)
{
    if (get(r, CR, 1) & BUFE)
        return 0;
    uint32_t header = dp_ld32(ram(r, RX_RING + r->rx)), size = header >> 16;
    *status = header & 0xffff;
    for (uint32_t i = 0; i < size; i++) {
        uint32_t at = r->rx + 4 + i;
        to[i] = *ram(r, RX_RING + (wraps ? at % length : at));
    }
    r->rx = ((r->rx + size + 4 + 3) & ~3u) % length;
    set(r, CAPR, r->rx - 16, 2);
    return size - 4;
}

static void receive(void **state)
{
    static uint8_t got[WIRE_BYTES];
    struct rig r;
    unsigned status;
    for (unsigned mode = 0; mode < 6; mode++) {
        uint32_t length = 8192u << mode % 3;
        bool wraps = mode >= 3;
        rig_init(&r);
        start(&r, APM | AB | (wraps ? 0 : WRAP) | mode % 3 << 11);
        for (unsigned n = 0; n < 200; n++) {
            uint32_t size = 60 + n * 97 % 1455;
            rig_frame(r.frame, n % 3 ? rig_mac : rig_broadcast, size);
            r.frame[20] = (uint8_t)n;
            assert_true(wire_send(&r.wire, r.frame, size));
            assert_true(rig_irq(r.f));
            set(&r, ISR, ROK, 2);
            assert_false(rig_irq(r.f));
            assert_int_equal(receive_c(&r, length, wraps, got, &status), size);
            assert_memory_equal(got, r.frame, size);
            assert_int_equal(dp_ld32(got + size), rig_crc32(r.frame, size));
            assert_int_equal(status, n % 3 ? 0x4001 : 0x2001);
            assert_int_equal(get(&r, CBR, 2), r.rx);
        }
        assert_true(get(&r, CR, 1) & BUFE);
        rig_fini(&r);
    }
    /* full: the sender keeps it, and hears when there is room */
    rig_init(&r);
    start(&r, APM);
    rig_frame(r.frame, rig_mac, 1000);
    unsigned n = 0;
    for (; n < 20 && wire_send(&r.wire, r.frame, 1000); n++)
        ;
    assert_int_equal(n, 8);
    for (n = 0; !r.wire.ready; n++) /* the sender is told when there is room for several */
        assert_int_equal(receive_c(&r, 8192, true, got, &status), 1000);
    assert_int_equal(n, 6);
    for (; n; n--)
        assert_true(wire_send(&r.wire, r.frame, 1000));
    assert_false(wire_send(&r.wire, r.frame, 1000));
    rig_fini(&r);
}

static bool gets(struct rig *r, const uint8_t to[6])
{
    uint16_t before = (uint16_t)get(r, CBR, 2);
    rig_frame(r->frame, to, 100);
    assert_true(wire_send(&r->wire, r->frame, 100));
    uint16_t after = (uint16_t)get(r, CBR, 2);
    set(r, CAPR, after - 16u, 2);
    return before != after;
}

static void filters(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r, APM);
    assert_true(gets(&r, rig_mac));
    assert_false(gets(&r, rig_broadcast));
    assert_false(gets(&r, rig_other));
    set(&r, RCR, AB, 4);
    assert_true(gets(&r, rig_broadcast));
    assert_false(gets(&r, rig_mac));
    set(&r, RCR, AAP, 4);
    assert_true(gets(&r, rig_other));
    set(&r, RCR, AM, 4);
    set(&r, MAR0, 0, 4);
    set(&r, MAR0 + 4, 0, 4);
    assert_false(gets(&r, rig_multicast));
    unsigned hash = rig_crc32(rig_multicast, 6); /* as drivers compute it: most significant bits of the big-endian CRC */
    unsigned reversed = 0;
    for (unsigned i = 0; i < 32; i++)
        reversed |= (~hash >> i & 1) << (31 - i);
    hash = reversed >> 26;
    set(&r, MAR0 + hash / 32 * 4, 1u << hash % 32, 4);
    assert_true(gets(&r, rig_multicast));
    set(&r, CR, TE, 1);
    assert_false(gets(&r, rig_multicast));
    rig_fini(&r);
}

static void loopback(void **state)
{
    static uint8_t got[2000];
    struct rig r;
    unsigned status;
    rig_init(&r);
    start(&r, APM | AB);
    set(&r, TCR, 0x60600, 4);
    rig_frame(ram(&r, TX_DATA), rig_mac, 100);
    send_c(&r, TX_DATA, 100);
    assert_int_equal(r.wire.count, 0);
    assert_int_equal(get(&r, ISR, 2), ROK | TOK);
    assert_int_equal(receive_c(&r, 8192, true, got, &status), 100);
    assert_memory_equal(got, ram(&r, TX_DATA), 100);
    rig_fini(&r);
}

static void timer(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r, 0);
    set(&r, TCTR, 0, 4);
    set(&r, TIMER_INT, 33000, 4); /* 1 ms */
    dp_clock_advance(r.w.env.clock, 999000);
    assert_false(rig_irq(r.f));
    assert_in_range(get(&r, TCTR, 4), 32900, 33000);
    dp_clock_advance(r.w.env.clock, 2000);
    assert_true(rig_irq(r.f));
    assert_int_equal(get(&r, ISR, 2), TIMEOUT);
    set(&r, ISR, TIMEOUT, 2);
    dp_clock_advance(r.w.env.clock, 100000000);
    assert_false(rig_irq(r.f));
    set(&r, TCTR, 0, 4); /* starts over */
    dp_clock_advance(r.w.env.clock, 1001000);
    assert_true(rig_irq(r.f));
    rig_fini(&r);
}

/* ---- C+ mode ---- */

static void start_cp(struct rig *r)
{
    start(r, APM | AB);
    set(r, CR, 0, 1);
    set(r, CPCR, 0x2b, 2);
    set(r, RDSAR, CP_RX, 4);
    set(r, RDSAR + 4, 0, 4);
    set(r, TSAD0, CP_TX, 4);
    set(r, TSAD0 + 4, 0, 4);
    for (unsigned i = 0; i < 8; i++) {
        dp_st32(ram(r, CP_RX + i * 16), OWN | (i == 7 ? EOR : 0) | 1536);
        dp_st64(ram(r, CP_RX + i * 16 + 8), CP_DATA + i * 2048);
        dp_st32(ram(r, CP_TX + i * 16), i == 7 ? EOR : 0);
    }
    set(r, CR, TE | RE, 1);
}

static void send_cp(struct rig *r, uint64_t at, unsigned size, uint32_t flags, uint32_t tag)
{
    uint8_t *d = ram(r, CP_TX + r->tx % 8 * 16);
    dp_st32(d + 4, tag);
    dp_st64(d + 8, at);
    dp_st32(d, OWN | (r->tx % 8 == 7 ? EOR : 0) | flags | size);
    r->tx++;
}

static void transmit_cp(void **state)
{
    struct rig r;
    rig_init(&r);
    start_cp(&r);
    rig_frame(ram(&r, TX_DATA), rig_other, 300);
    for (unsigned n = 0; n < 10; n++) {
        send_cp(&r, TX_DATA, 100, FS, 0);
        send_cp(&r, TX_DATA + 100, 200, LS, 0);
        set(&r, TPPOLL, 0x40, 1);
        assert_int_equal(r.wire.count, n + 1);
        assert_int_equal(r.wire.frame[n].size, 300);
        assert_memory_equal(r.wire.frame[n].data, ram(&r, TX_DATA), 300);
        assert_int_equal(dp_ld32(ram(&r, CP_TX + (r.tx - 1) % 8 * 16)) & OWN, 0);
        assert_int_equal(dp_ld32(ram(&r, CP_TX + (r.tx - 2) % 8 * 16)) & OWN, 0);
        assert_int_equal(get(&r, ISR, 2) & TOK, TOK);
        set(&r, ISR, 0xffff, 2);
    }
    /* checksums, a tag */
    uint32_t size = rig_tcp(ram(&r, TX_DATA), 500);
    send_cp(&r, TX_DATA, size, FS | LS | IPCS | TCPCS, 0);
    set(&r, TPPOLL, 0x40, 1);
    assert_true(rig_ip_good(r.wire.frame[10].data) && rig_tcp_good(r.wire.frame[10].data, size));
    send_cp(&r, TX_DATA, size, FS | LS, 1 << 17 | 0x0520);
    set(&r, TPPOLL, 0x40, 1);
    static const uint8_t tag[] = {0x81, 0x00, 0x20, 0x05, 0x08, 0x00};
    assert_memory_equal(r.wire.frame[11].data + 12, tag, 6);
    /* segmentation */
    wire_clear(&r.wire);
    size = rig_tcp(ram(&r, TX_DATA), 4000);
    send_cp(&r, TX_DATA, size, FS | LS | LGSEN | 1400 << 16, 0);
    set(&r, TPPOLL, 0x40, 1);
    assert_int_equal(r.wire.count, 3);
    assert_int_equal(dp_ld32(ram(&r, CP_TX + (r.tx - 1) % 8 * 16)) & 0xfff0000, 0); /* errors, collisions */
    for (unsigned i = 0; i < 3; i++)
        assert_true(rig_ip_good(r.wire.frame[i].data) && rig_tcp_good(r.wire.frame[i].data, r.wire.frame[i].size));
    /* a full wire: the descriptors stay the card's */
    r.wire.room = 0;
    send_cp(&r, TX_DATA, 100, FS | LS, 0);
    set(&r, TPPOLL, 0x40, 1);
    assert_true(dp_ld32(ram(&r, CP_TX + (r.tx - 1) % 8 * 16)) & OWN);
    r.wire.room = 1;
    dp_net_ready(&r.wire.port);
    assert_int_equal(r.wire.count, 4);
    /* counters */
    dp_space_store(r.w.env.ports, IO + 0x14, 0, 4);
    dp_space_store(r.w.env.ports, IO + 0x10, TALLY | 8, 4);
    assert_int_equal(get(&r, 0x10, 4), TALLY);
    assert_int_equal(dp_ld64(ram(&r, TALLY)), 14);
    /* 64 that are the card's and have no end */
    for (unsigned i = 0; i < 8; i++)
        dp_st32(ram(&r, CP_TX + i * 16), OWN | 10);
    set(&r, TPPOLL, 0x40, 1);
    rig_fini(&r);
}

static void receive_cp(void **state)
{
    struct rig r;
    rig_init(&r);
    start_cp(&r);
    for (unsigned n = 0; n < 20; n++) {
        uint8_t *d = ram(&r, CP_RX + n % 8 * 16);
        uint32_t size = rig_tcp(r.frame, n * 50);
        memcpy(r.frame, rig_mac, 6);
        rig_tcp_complete(r.frame, size);
        r.frame[30] ^= n == 3;
        assert_true(wire_send(&r.wire, r.frame, size));
        size = DP_MAX(size, 60u);
        assert_int_equal(dp_ld32(d), (n % 8 == 7 ? EOR : 0) | FS | LS | 1 << 25 | 1 << 16 | (n == 3 ? 0xa000 : 0) | (size + 4));
        assert_memory_equal(ram(&r, CP_DATA + n % 8 * 2048), r.frame, 54 + n * 50);
        assert_true(rig_irq(r.f));
        set(&r, ISR, 0xffff, 2);
        dp_st32(d, OWN | (n % 8 == 7 ? EOR : 0) | 1536);
    }
    /* tags */
    set(&r, CPCR, 0x6b, 2);
    rig_frame(r.frame, rig_mac, 100);
    memcpy(r.frame + 12, "\x81\x00\x20\x05", 4);
    assert_true(wire_send(&r.wire, r.frame, 100));
    assert_int_equal(dp_ld32(ram(&r, CP_RX + 4 * 16 + 4)), 0x10520);
    assert_int_equal(dp_ld32(ram(&r, CP_RX + 4 * 16)) & 0x1fff, 100);
    assert_memory_equal(ram(&r, CP_DATA + 4 * 2048 + 12), r.frame + 16, 84);
    /* full: said, kept, and tried again without a register touched */
    unsigned n = 0;
    for (; n < 20 && wire_send(&r.wire, r.frame, 100); n++)
        ;
    assert_int_equal(n, 7);
    assert_int_equal(get(&r, ISR, 2) & RXOVW, RXOVW);
    dp_st32(ram(&r, CP_RX + 4 * 16), OWN | 1536);
    dp_clock_advance(r.w.env.clock, 6000000);
    assert_int_equal(r.wire.ready, 1);
    assert_true(wire_send(&r.wire, r.frame, 100));
    assert_false(wire_send(&r.wire, r.frame, 100));
    dp_st32(ram(&r, CP_RX + 5 * 16), OWN | 20); /* too small: lost */
    set(&r, IMR, 1, 2);
    assert_int_equal(r.wire.ready, 2);
    assert_true(wire_send(&r.wire, r.frame, 100));
    rig_fini(&r);
}

/* Descriptors in ROM cannot be given back: whoever looks at them again and again must stop sometime. */
static void ring_in_rom(void **state)
{
    struct rig r;
    struct dp_error e = {0};
    uint32_t id;
    rig_init(&r);
    start_cp(&r);
    for (unsigned i = 0; i < 64; i++)
        dp_st32(ram(&r, CP_DATA + i * 16), OWN | (i % 2 ? LS : FS) | 0xffff);
    assert_ok(dp_space_map_ram(r.w.env.memory, 0xf0000000, r.w.ram, CP_DATA, 4096, true, 0, &id, &e), e);
    set(&r, TSAD0, 0xf0000000, 4);
    set(&r, TPPOLL, 0x40, 1);
    assert_int_equal(r.wire.count, 0);
    assert_true(get(&r, ISR, 2) & 8);
    rig_fini(&r);
}

static void adjust(void *regs)
{
    /* Two devices share the test's RAM: what one writes the other must not read. */
    struct { struct dp_pci_regs pci; } *r = regs;
    r->pci.config[DP_PCI_COMMAND] &= ~DP_PCI_COMMAND_MASTER;
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make, .adjust = adjust, .max_advance = 100000};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity),    cmocka_unit_test(transmit),   cmocka_unit_test(receive),
        cmocka_unit_test(filters),     cmocka_unit_test(loopback),   cmocka_unit_test(timer),
        cmocka_unit_test(transmit_cp), cmocka_unit_test(receive_cp), cmocka_unit_test(conformance),
        cmocka_unit_test(ring_in_rom),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
