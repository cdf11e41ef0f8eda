/* test_e1000.c - the e1000 by its drivers: identification, EEPROM both ways, PHY, rings, filters, offload, VLANs, interrupts and their
 * mitigation, a wire that is full, a ring that is full, resets, pauses in the middle, and what every device must do.
 */
#include "devices/net/e1000.h"
#include "tests/device/nic_rig.h"

enum {
    CTRL = 0x0000,
    STATUS = 0x0008,
    EECD = 0x0010,
    EERD = 0x0014,
    MDIC = 0x0020,
    VET = 0x0038,
    ICR = 0x00c0,
    ITR = 0x00c4,
    ICS = 0x00c8,
    IMS = 0x00d0,
    IMC = 0x00d8,
    RCTL = 0x0100,
    TCTL = 0x0400,
    RDBAL = 0x2800,
    RDLEN = 0x2808,
    RDH = 0x2810,
    RDT = 0x2818,
    RDTR = 0x2820,
    RADV = 0x282c,
    TDBAL = 0x3800,
    TDLEN = 0x3808,
    TDH = 0x3810,
    TDT = 0x3818,
    TIDV = 0x3820,
    TADV = 0x382c,
    GPRC = 0x4074,
    GPTC = 0x4080,
    GORCL = 0x4088,
    GORCH = 0x408c,
    RXCSUM = 0x5000,
    MTA = 0x5200,
    RAL0 = 0x5400,
    RAH0 = 0x5404,
    VFTA = 0x5600
};
enum { TXDW = 1, TXQE = 2, LSC = 4, RXDMT0 = 0x10, RXT0 = 0x80 };
enum {
    MMIO = 0x10000000,
    IO = 0xc000,
    TX_RING = 0x10000,
    RX_RING = 0x20000,
    TX_DATA = 0x100000,
    RX_DATA = 0x200000,
    RING = 16,
    BUFFER = 2048
};
enum { EN = 2, UPE = 8, MPE = 0x10, LPE = 0x20, BAM = 0x8000, SECRC = 1 << 26 };
enum { EOP = 1, IFCS = 2, IC = 4, TSE = 4, RS = 8, DEXT = 0x20, VLE = 0x40, IDE = 0x80 };

struct rig {
    struct conformance_world w;
    struct dp_device *d;
    struct dp_pci_function *f;
    struct wire wire;
    unsigned tx, rx; /* next descriptors */
    uint8_t frame[WIRE_BYTES];
};

static uint32_t get(struct rig *r, unsigned reg) { return (uint32_t)dp_space_load(r->w.env.memory, MMIO + reg, 4); }
static void set(struct rig *r, unsigned reg, uint32_t v) { dp_space_store(r->w.env.memory, MMIO + reg, v, 4); }
static uint8_t *ram(struct rig *r, uint64_t at) { return r->w.ram->host + at; }

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_e1000_class, "net0", env);
    dp_e1000_wire(d, rig_mac);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void rig_init(struct rig *r)
{
    struct dp_error e = {0};
    memset(r, 0, sizeof(*r));
    conformance_world_init(&r->w);
    r->d = make(&r->w.env, NULL);
    r->f = dp_e1000_function(r->d);
    wire_init(&r->wire, dp_e1000_port(r->d));
    assert_ok(dp_device_map(r->d, DP_E1000_WINDOW_MEMORY, MMIO, &e), e);
    assert_ok(dp_device_map(r->d, DP_E1000_WINDOW_PORTS, IO, &e), e);
    dp_device_resume(r->d);
    dp_pci_config_write(r->f, DP_PCI_COMMAND, 7, 2);
}

static void rig_fini(struct rig *r)
{
    dp_device_free(r->d);
    wire_clear(&r->wire);
    conformance_world_fini(&r->w);
}

/* As a driver that is up: rings of 16, receive buffers given. */
static void start(struct rig *r)
{
    set(r, CTRL, 0x40);
    set(r, RDBAL, RX_RING);
    set(r, RDLEN, RING * 16);
    set(r, RDH, 0);
    for (unsigned i = 0; i < RING; i++)
        dp_st64(ram(r, RX_RING + i * 16), RX_DATA + i * BUFFER);
    set(r, RDT, RING - 1);
    set(r, RCTL, EN | BAM);
    set(r, TDBAL, TX_RING);
    set(r, TDLEN, RING * 16);
    set(r, TDH, 0);
    set(r, TDT, 0);
    set(r, TCTL, EN | 8);
    get(r, ICR);
    r->tx = r->rx = 0;
}

static uint8_t *tx_descriptor(struct rig *r) { return ram(r, TX_RING + r->tx++ % RING * 16); }
static void tx_go(struct rig *r) { set(r, TDT, r->tx % RING); }

static void legacy(struct rig *r, uint64_t at, unsigned size, unsigned cmd)
{
    uint8_t *d = tx_descriptor(r);
    memset(d, 0, 16);
    dp_st64(d, at);
    dp_st16(d + 8, (uint16_t)size);
    d[11] = (uint8_t)cmd;
}

static void context(struct rig *r, unsigned tucmd, unsigned payload, unsigned header, unsigned mss)
{
    uint8_t *d = tx_descriptor(r);
    memset(d, 0, 16);
    d[0] = 14;
    d[1] = 24;
    dp_st16(d + 2, 33);
    d[4] = 34;
    d[5] = 50;
    dp_st32(d + 8, payload | (tucmd | DEXT) << 24);
    d[13] = (uint8_t)header;
    dp_st16(d + 14, (uint16_t)mss);
}

static void data(struct rig *r, uint64_t at, unsigned size, unsigned cmd, unsigned popts, unsigned special)
{
    uint8_t *d = tx_descriptor(r);
    memset(d, 0, 16);
    dp_st64(d, at);
    dp_st32(d + 8, size | 1u << 20 | (cmd | DEXT) << 24);
    d[13] = (uint8_t)popts;
    dp_st16(d + 14, (uint16_t)special);
}

/* The next received descriptor, which must be done; NULL: it is not. */
static uint8_t *received(struct rig *r)
{
    uint8_t *d = ram(r, RX_RING + r->rx % RING * 16);
    if (!(d[12] & 1))
        return NULL;
    r->rx++;
    return d;
}

static void identity(void **state)
{
    struct rig r;
    rig_init(&r);
    assert_int_equal(dp_pci_config_read(r.f, 0, 4), 0x100e8086);
    assert_int_equal(dp_pci_config_read(r.f, 8, 4) >> 8, 0x020000);
    assert_int_equal(dp_pci_config_read(r.f, 0x2c, 4), 0x001e8086);
    assert_int_equal(get(&r, STATUS) & 0xc3, 0x83);
    assert_int_equal(get(&r, RAL0), 0x12005452);
    assert_int_equal(get(&r, RAH0), 0x80005634);
    /* the same by ports */
    dp_space_store(r.w.env.ports, IO, STATUS, 4);
    assert_int_equal(dp_space_load(r.w.env.ports, IO + 4, 4), get(&r, STATUS));
    dp_space_store(r.w.env.ports, IO, VET, 4);
    dp_space_store(r.w.env.ports, IO + 4, 0x9100, 4);
    assert_int_equal(get(&r, VET), 0x9100);
    rig_fini(&r);
}

static void lines(void *opaque, bool cs, bool sk, bool di) { set(opaque, EECD, 0x40 | (sk ? 1 : 0) | (cs ? 2 : 0) | (di ? 4 : 0)); }
static bool line(void *opaque) { return get(opaque, EECD) & 8; }

static void eeprom(void **state)
{
    struct rig r;
    uint16_t sum = 0;
    rig_init(&r);
    set(&r, EECD, 0x40);
    assert_int_equal(get(&r, EECD) & 0x1c0, 0x1c0); /* granted, present */
    for (unsigned i = 0; i < 64; i++) {
        set(&r, EERD, i << 8 | 1);
        uint32_t v = get(&r, EERD);
        assert_true(v & 0x10);
        sum += v >> 16;
        assert_int_equal(rig_eeprom(&r, lines, line, i), v >> 16);
        if (i < 3)
            assert_int_equal(v >> 16, dp_ld16(rig_mac + i * 2));
    }
    assert_int_equal(sum, 0xbaba);
    rig_fini(&r);
}

static uint32_t mdic(struct rig *r, uint32_t v)
{
    set(r, MDIC, v);
    return get(r, MDIC);
}

static void phy(void **state)
{
    struct rig r;
    rig_init(&r);
    assert_int_equal(mdic(&r, 2u << 26 | 1 << 21 | 2 << 16) & 0x5000ffff, 0x10000141);
    assert_int_equal(mdic(&r, 2u << 26 | 1 << 21 | 3 << 16) & 0xfff0, 0x0c20);
    assert_int_equal(mdic(&r, 2u << 26 | 1 << 21 | 1 << 16) & 0x24, 0x24); /* negotiated, link */
    assert_int_equal(mdic(&r, 2u << 26 | 1 << 21 | 17 << 16) & 0xfc00, 0xac00);
    assert_true(mdic(&r, 2u << 26 | 2 << 21 | 1 << 16) & 1 << 30); /* nobody there */
    get(&r, ICR);
    mdic(&r, 1u << 26 | 1 << 21 | 0 << 16 | 0x1200 | 1 << 29); /* negotiate again, and tell */
    assert_int_equal(get(&r, ICR) & (LSC | 0x200), LSC | 0x200);
    /* the cable goes and comes */
    set(&r, IMS, LSC);
    dp_net_set_link(&r.wire.port, false);
    assert_true(rig_irq(r.f));
    assert_false(get(&r, STATUS) & 2);
    assert_int_equal(mdic(&r, 2u << 26 | 1 << 21 | 1 << 16) & 0x24, 0);
    assert_int_equal(get(&r, ICR) & LSC, LSC);
    assert_false(rig_irq(r.f));
    dp_net_set_link(&r.wire.port, true);
    assert_true(rig_irq(r.f) && (get(&r, STATUS) & 2));
    rig_fini(&r);
}

static void transmit(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    set(&r, IMS, TXDW);
    rig_frame(ram(&r, TX_DATA), rig_other, 200);
    legacy(&r, TX_DATA, 200, EOP | IFCS | RS);
    tx_go(&r);
    assert_int_equal(r.wire.count, 1);
    assert_int_equal(r.wire.frame[0].size, 200);
    assert_memory_equal(r.wire.frame[0].data, ram(&r, TX_DATA), 200);
    assert_int_equal(*ram(&r, TX_RING + 12), 1);
    assert_true(rig_irq(r.f));
    assert_int_equal(get(&r, ICR), TXDW | TXQE);
    assert_false(rig_irq(r.f));
    assert_int_equal(get(&r, TDH), 1);
    /* two pieces, one written back; a short frame is padded */
    rig_frame(ram(&r, TX_DATA), rig_other, 42);
    legacy(&r, TX_DATA, 14, IFCS);
    tx_go(&r);
    assert_int_equal(r.wire.count, 1); /* the rest is to come */
    legacy(&r, TX_DATA + 14, 28, EOP | IFCS | RS);
    tx_go(&r);
    assert_int_equal(r.wire.count, 2);
    assert_int_equal(r.wire.frame[1].size, 60);
    assert_memory_equal(r.wire.frame[1].data, ram(&r, TX_DATA), 42);
    assert_int_equal(*ram(&r, TX_RING + 16 + 12), 0);
    assert_int_equal(*ram(&r, TX_RING + 32 + 12), 1);
    /* around the ring, several at once */
    wire_clear(&r.wire);
    for (unsigned i = 0; i < 14; i++) {
        legacy(&r, TX_DATA, 100, EOP | IFCS | RS);
    }
    tx_go(&r);
    assert_int_equal(r.wire.count, 14);
    assert_int_equal(get(&r, TDH), r.tx % RING);
    assert_int_equal(get(&r, GPTC), 16);
    assert_int_equal(get(&r, GPTC), 0);
    rig_fini(&r);
}

static void offload(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    /* checksums, here */
    uint32_t size = rig_tcp(ram(&r, TX_DATA), 100);
    uint16_t pseudo = rig_sum(ram(&r, TX_DATA + 26), 8, 6 + 120);
    ram(&r, TX_DATA)[50] = (uint8_t)(pseudo >> 8);
    ram(&r, TX_DATA)[51] = (uint8_t)pseudo;
    context(&r, 3, 0, 0, 0);
    data(&r, TX_DATA, size, EOP | IFCS | RS, 3, 0);
    tx_go(&r);
    assert_int_equal(r.wire.count, 1);
    assert_int_equal(r.wire.frame[0].size, size);
    assert_true(rig_ip_good(r.wire.frame[0].data) && rig_tcp_good(r.wire.frame[0].data, size));
    /* ... and there */
    dp_net_set_accepts(&r.wire.port, DP_NET_CHECKSUM);
    data(&r, TX_DATA, size, EOP | IFCS | RS, 3, 0);
    tx_go(&r);
    assert_int_equal(r.wire.frame[1].work, DP_NET_CHECKSUM);
    assert_int_equal(r.wire.frame[1].checksum_start, 34);
    assert_int_equal(r.wire.frame[1].checksum_offset, 16);
    assert_true(rig_ip_good(r.wire.frame[1].data));
    /* legacy descriptor with a checksum of its own */
    legacy(&r, TX_DATA, size, EOP | IFCS | RS | IC);
    uint8_t *d = ram(&r, TX_RING + (r.tx - 1) % RING * 16);
    d[10] = 50;
    d[13] = 34;
    dp_net_set_accepts(&r.wire.port, 0);
    tx_go(&r);
    assert_true(rig_tcp_good(r.wire.frame[2].data, size));
    /* segmentation, here: the length is left to the card */
    wire_clear(&r.wire);
    size = rig_tcp(ram(&r, TX_DATA), 5000);
    dp_st16(ram(&r, TX_DATA + 16), 0);
    context(&r, 3 | TSE, 5000, 54, 1460);
    data(&r, TX_DATA, 54, TSE | IFCS, 3, 0);
    data(&r, TX_DATA + 54, 5000, EOP | TSE | IFCS | RS, 3, 0);
    tx_go(&r);
    assert_int_equal(r.wire.count, 4);
    for (unsigned i = 0, at = 0; i < 4; i++) {
        const struct wire_frame *f = &r.wire.frame[i];
        assert_int_equal(f->size, 54 + (i < 3 ? 1460 : 5000 - 3 * 1460));
        assert_true(rig_ip_good(f->data) && rig_tcp_good(f->data, f->size));
        assert_memory_equal(f->data + 54, ram(&r, TX_DATA + 54 + at), f->size - 54);
        assert_int_equal(f->data[47], i < 3 ? 0x10 : 0x19); /* FIN and PSH are the last one's */
        assert_int_equal(f->data[40] << 8 | f->data[41], (0x3040 + at) & 0xffff);
        at += 1460;
    }
    /* ... and there */
    wire_clear(&r.wire);
    dp_net_set_accepts(&r.wire.port, DP_NET_CHECKSUM | DP_NET_TSO4);
    data(&r, TX_DATA, 54, TSE | IFCS, 3, 0);
    data(&r, TX_DATA + 54, 5000, EOP | TSE | IFCS | RS, 3, 0);
    tx_go(&r);
    assert_int_equal(r.wire.count, 1);
    assert_int_equal(r.wire.frame[0].size, 5054);
    assert_int_equal(r.wire.frame[0].work, DP_NET_CHECKSUM | DP_NET_TSO4);
    assert_int_equal(r.wire.frame[0].segment_size, 1460);
    assert_int_equal(r.wire.frame[0].header_size, 54);
    assert_true(rig_ip_good(r.wire.frame[0].data));
    rig_fini(&r);
}

/* A wire that takes some segments, and later the others: no segment twice. */
static void full_wire(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    rig_tcp(ram(&r, TX_DATA), 5000);
    context(&r, 3 | TSE, 5000, 54, 1460);
    data(&r, TX_DATA, 5054, EOP | TSE | IFCS | RS, 3, 0);
    rig_frame(ram(&r, TX_DATA + 8192), rig_other, 100);
    legacy(&r, TX_DATA + 8192, 100, EOP | IFCS | RS);
    r.wire.room = 2;
    tx_go(&r);
    assert_int_equal(r.wire.count, 2);
    assert_int_equal(get(&r, TDH), 1); /* the context went */
    /* a pause, and a state that goes elsewhere in the middle */
    dp_device_pause(r.d);
    dp_net_ready(&r.wire.port);
    assert_int_equal(r.wire.count, 2);
    dp_device_resume(r.d);
    r.wire.room = 100;
    dp_net_ready(&r.wire.port);
    assert_int_equal(r.wire.count, 5);
    uint32_t total = 0;
    for (unsigned i = 0; i < 4; i++)
        total += r.wire.frame[i].size - 54;
    assert_int_equal(total, 5000);
    assert_int_equal(get(&r, TDH), 3);
    rig_fini(&r);
}

static void receive(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    set(&r, IMS, RXT0);
    rig_frame(r.frame, rig_mac, 300);
    assert_true(wire_send(&r.wire, r.frame, 300));
    assert_true(rig_irq(r.f));
    uint8_t *d = received(&r);
    assert_non_null(d);
    assert_int_equal(dp_ld16(d + 8), 304);
    assert_int_equal(d[12] & 3, 3);
    assert_int_equal(d[13], 0);
    assert_memory_equal(ram(&r, RX_DATA), r.frame, 300);
    assert_int_equal(dp_ld32(ram(&r, RX_DATA + 300)), rig_crc32(r.frame, 300));
    assert_int_equal(get(&r, ICR) & RXT0, RXT0);
    assert_false(rig_irq(r.f));
    assert_int_equal(get(&r, RDH), 1);
    /* without FCS; a short one is padded */
    set(&r, RCTL, EN | BAM | SECRC);
    rig_frame(r.frame, rig_broadcast, 42);
    assert_true(wire_send(&r.wire, r.frame, 42));
    d = received(&r);
    assert_int_equal(dp_ld16(d + 8), 60);
    assert_memory_equal(ram(&r, RX_DATA + BUFFER), r.frame, 42);
    assert_int_equal(*ram(&r, RX_DATA + BUFFER + 59), 0);
    /* long ones only if wanted, then over several buffers */
    rig_frame(r.frame, rig_mac, 4000);
    assert_true(wire_send(&r.wire, r.frame, 4000));
    assert_null(received(&r));
    set(&r, RCTL, EN | BAM | SECRC | LPE);
    assert_true(wire_send(&r.wire, r.frame, 4000));
    d = received(&r);
    assert_int_equal(dp_ld16(d + 8), 2048);
    assert_int_equal(d[12], 1);
    d = received(&r);
    assert_int_equal(dp_ld16(d + 8), 4000 - 2048);
    assert_int_equal(d[12] & 3, 3);
    assert_memory_equal(ram(&r, RX_DATA + 2 * BUFFER), r.frame, 4000);
    assert_int_equal(get(&r, GPRC), 3);
    assert_int_equal(get(&r, GORCL), 304 + 64 + 4004);
    assert_int_equal(get(&r, GORCH), 0);
    assert_int_equal(get(&r, GORCL), 0);
    rig_fini(&r);
}

static bool gets(struct rig *r, const uint8_t to[6])
{
    rig_frame(r->frame, to, 100);
    assert_true(wire_send(&r->wire, r->frame, 100));
    bool got = received(r) != NULL;
    set(r, RDT, (r->rx + RING - 1) % RING);
    if (got)
        memset(ram(r, RX_RING + (r->rx - 1) % RING * 16 + 8), 0, 8);
    return got;
}

static void filters(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    assert_true(gets(&r, rig_mac));
    assert_true(gets(&r, rig_broadcast));
    assert_false(gets(&r, rig_other));
    assert_false(gets(&r, rig_multicast));
    set(&r, RCTL, EN);
    assert_false(gets(&r, rig_broadcast));
    set(&r, RCTL, EN | UPE);
    assert_true(gets(&r, rig_other));
    assert_false(gets(&r, rig_multicast));
    set(&r, RCTL, EN | MPE);
    assert_true(gets(&r, rig_multicast));
    set(&r, RCTL, EN);
    unsigned hash = (rig_multicast[4] >> 4 | rig_multicast[5] << 4) & 0xfff; /* MO 0: bits 47-36 */
    set(&r, MTA + hash / 32 * 4, 1u << hash % 32);
    assert_true(gets(&r, rig_multicast));
    set(&r, RAL0 + 8, dp_ld32(rig_other));
    set(&r, RAH0 + 8, dp_ld16(rig_other + 4) | 1u << 31);
    assert_true(gets(&r, rig_other));
    set(&r, RCTL, 0);
    assert_false(gets(&r, rig_mac));
    set(&r, RCTL, EN);
    dp_pci_config_write(r.f, DP_PCI_COMMAND, 3, 2); /* no bus master */
    assert_false(gets(&r, rig_mac));
    rig_fini(&r);
}

static void checksums(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    uint32_t size = rig_tcp(r.frame, 333);
    memcpy(r.frame, rig_mac, 6);
    rig_tcp_complete(r.frame, size);
    assert_true(wire_send(&r.wire, r.frame, size));
    assert_int_equal(received(&r)[12], 7); /* nothing was asked for: "ignore" */
    set(&r, RXCSUM, 0x300);
    assert_true(wire_send(&r.wire, r.frame, size));
    uint8_t *d = received(&r);
    assert_int_equal(d[12], 0x63);
    assert_int_equal(d[13], 0);
    r.frame[100] ^= 1;
    assert_true(wire_send(&r.wire, r.frame, size));
    d = received(&r);
    assert_int_equal(d[12], 0x63);
    assert_int_equal(d[13], 0x20);
    r.frame[25] ^= 1;
    assert_true(wire_send(&r.wire, r.frame, size));
    assert_int_equal(received(&r)[13], 0x60);
    rig_fini(&r);
}

static void vlan(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    set(&r, VET, 0x8100);
    set(&r, CTRL, 0x40 | 1 << 30);
    rig_frame(ram(&r, TX_DATA), rig_other, 100);
    data(&r, TX_DATA, 100, EOP | IFCS | RS | VLE, 0, 0x2005);
    tx_go(&r);
    assert_int_equal(r.wire.frame[0].size, 104);
    static const uint8_t tag[] = {0x81, 0x00, 0x20, 0x05, 0x88, 0xb5};
    assert_memory_equal(r.wire.frame[0].data + 12, tag, 6);
    assert_memory_equal(r.wire.frame[0].data + 16, ram(&r, TX_DATA + 12), 88);
    /* back: stripped, filtered */
    memcpy(r.frame, r.wire.frame[0].data, 104);
    memcpy(r.frame, rig_mac, 6);
    assert_true(wire_send(&r.wire, r.frame, 104));
    uint8_t *d = received(&r);
    assert_int_equal(dp_ld16(d + 8), 104); /* with FCS */
    assert_int_equal(d[12] & 8, 8);
    assert_int_equal(dp_ld16(d + 14), 0x2005);
    assert_memory_equal(ram(&r, RX_DATA + 12), r.frame + 16, 88);
    assert_int_equal(dp_ld32(ram(&r, RX_DATA + 100)), rig_crc32(r.frame, 104));
    set(&r, RCTL, EN | BAM | 1 << 18);
    assert_true(wire_send(&r.wire, r.frame, 104));
    assert_null(received(&r));
    set(&r, VFTA, 1 << 5);
    assert_true(wire_send(&r.wire, r.frame, 104));
    assert_non_null(received(&r));
    rig_fini(&r);
}

/* A ring without descriptors: frames stay with the sender, which hears when there is room. */
static void full_ring(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    rig_frame(r.frame, rig_mac, 100);
    unsigned n = 0;
    for (; n < 40 && wire_send(&r.wire, r.frame, 100); n++)
        ;
    assert_int_equal(n, RING - 1);
    assert_int_equal(get(&r, ICR) & RXDMT0, RXDMT0);
    assert_int_equal(r.wire.ready, 0);
    set(&r, RDT, 3);
    assert_int_equal(r.wire.ready, 1);
    for (n = 0; n < 40 && wire_send(&r.wire, r.frame, 100); n++)
        ;
    assert_int_equal(n, 4);
    set(&r, RCTL, 0); /* who does not receive loses */
    assert_int_equal(r.wire.ready, 2);
    assert_true(wire_send(&r.wire, r.frame, 100));
    /* while paused, too */
    dp_device_pause(r.d);
    assert_false(wire_send(&r.wire, r.frame, 100));
    dp_device_resume(r.d);
    assert_int_equal(r.wire.ready, 3);
    rig_fini(&r);
}

static void mitigation(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    set(&r, IMS, RXT0 | TXDW);
    set(&r, ITR, 1000); /* 256 us */
    dp_clock_advance(r.w.env.clock, 1000000);
    assert_true(gets(&r, rig_mac));
    assert_true(rig_irq(r.f));
    get(&r, ICR);
    assert_true(gets(&r, rig_mac));
    assert_false(rig_irq(r.f));
    dp_clock_advance(r.w.env.clock, 255000);
    assert_false(rig_irq(r.f));
    dp_clock_advance(r.w.env.clock, 2000);
    assert_true(rig_irq(r.f));
    get(&r, ICR);
    set(&r, ITR, 0);
    /* RDTR starts anew at each frame, RADV does not */
    set(&r, RDTR, 100);
    set(&r, RADV, 150);
    assert_true(gets(&r, rig_mac));
    assert_int_equal(get(&r, ICR) & RXT0, 0);
    dp_clock_advance(r.w.env.clock, 90000);
    assert_true(gets(&r, rig_mac));
    dp_clock_advance(r.w.env.clock, 50000);
    assert_int_equal(get(&r, ICR) & RXT0, 0);
    dp_clock_advance(r.w.env.clock, 20000);
    assert_true(rig_irq(r.f));
    assert_int_equal(get(&r, ICR) & RXT0, RXT0);
    assert_true(gets(&r, rig_mac));
    set(&r, RDTR, 1u << 31); /* flush */
    assert_int_equal(get(&r, ICR) & RXT0, RXT0);
    /* the same for what was sent */
    set(&r, TIDV, 10);
    rig_frame(ram(&r, TX_DATA), rig_other, 100);
    legacy(&r, TX_DATA, 100, EOP | IFCS | RS | IDE);
    tx_go(&r);
    assert_int_equal(get(&r, ICR) & TXDW, 0);
    dp_clock_advance(r.w.env.clock, 11000);
    assert_int_equal(get(&r, ICR) & TXDW, TXDW);
    rig_fini(&r);
}

static void soft_reset(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    set(&r, RAL0, 0x1234);
    set(&r, IMS, ~0u);
    set(&r, ICS, RXT0);
    assert_true(rig_irq(r.f));
    set(&r, CTRL, 1u << 26);
    assert_false(rig_irq(r.f));
    assert_int_equal(get(&r, CTRL) & 1u << 26, 0);
    assert_int_equal(get(&r, RCTL), 0);
    assert_int_equal(get(&r, IMS), 0);
    assert_int_equal(get(&r, RAL0), 0x12005452);
    assert_int_equal(dp_pci_config_read(r.f, DP_PCI_COMMAND, 2), 7);
    assert_int_equal(get(&r, STATUS) & 2, 2);
    rig_fini(&r);
}

/* What a hostile driver does: nothing of it may hang or crash. */
static void hostile(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    set(&r, TDT, 500);
    set(&r, TDLEN, 0);
    set(&r, TDT, 3);
    set(&r, TDLEN, RING * 16);
    set(&r, TDH, 0xffff);
    set(&r, TDH, 0);
    set(&r, TDBAL, 0xfffffff0);
    set(&r, TDBAL + 4, 0xffffffff);
    set(&r, TDT, 7);
    set(&r, TDBAL + 4, 0);
    set(&r, TDBAL, TX_RING);
    memset(ram(&r, TX_RING), 0, RING * 16); /* no EOP anywhere */
    set(&r, TDT, 6);
    set(&r, RDH, 0x7777);
    assert_false(wire_send(&r.wire, r.frame, 100) && received(&r));
    set(&r, RDLEN, 0);
    rig_frame(r.frame, rig_mac, 100);
    wire_send(&r.wire, r.frame, 100);
    set(&r, TDH, 0);
    set(&r, TDT, 0);
    r.tx = 0;
    context(&r, 3 | TSE, 0, 255, 1);
    data(&r, TX_DATA, 100, EOP | TSE, 3, 0); /* no TCP */
    context(&r, 3, 0, 0, 0);
    data(&r, TX_DATA, 0xfffff, EOP, 3, 0);
    data(&r, TX_DATA, 0, EOP | RS, 3, 0);
    wire_clear(&r.wire);
    tx_go(&r);
    assert_int_equal(r.wire.count, 0);
    assert_int_equal(get(&r, TDH), 5);
    rig_fini(&r);
}

static void no_ring(void *opaque) { set(opaque, TDLEN, 0); }
static void shorter_ring(void *opaque) { set(opaque, TDLEN, 128); }
static void other_head(void *opaque) { set(opaque, TDH, 0xffff); }
static void other_ring(void *opaque) { set(opaque, TDBAL, RX_RING); }

/* Another processor changes the ring while a packet of it is on its way, outside the lock: no loop without end, no division by zero. */
static void ring_changes(void **state)
{
    static void (*const changes[])(void *) = {no_ring, shorter_ring, other_head, other_ring};
    for (unsigned i = 0; i < DP_ARRAY_LEN(changes); i++) {
        struct rig r;
        rig_init(&r);
        start(&r);
        rig_frame(ram(&r, TX_DATA), rig_other, 100);
        for (unsigned n = 0; n < 12; n++) {
            legacy(&r, TX_DATA, 100, EOP | RS);
            tx_go(&r);
        }
        assert_int_equal(r.wire.count, 12);
        r.wire.opaque = &r;
        r.wire.meanwhile = changes[i];
        legacy(&r, TX_DATA, 100, EOP | RS);
        tx_go(&r);
        assert_null(r.wire.meanwhile);
        /* and it works once the ring is one again */
        start(&r);
        wire_clear(&r.wire);
        legacy(&r, TX_DATA, 100, EOP | RS);
        tx_go(&r);
        assert_int_equal(r.wire.count, 1);
        rig_fini(&r);
    }
}

static void rom(void **state)
{
    struct conformance_world w;
    struct dp_error e = {0};
    static uint8_t image[3072] = {0x55, 0xaa, 6, [0x18] = 0x1c, [0x1c] = 'P', 'C', 'I', 'R'};
    uint8_t sum = 0;
    for (unsigned i = 100; i < sizeof(image); i++)
        image[i] = (uint8_t)(i * 31);
    for (unsigned i = 0; i < sizeof(image); i++)
        sum += image[i];
    image[99] = -sum;
    conformance_world_init(&w);
    struct dp_device *d = dp_device_alloc(&dp_e1000_class, "net0", &w.env), *host = dp_device_alloc(&dp_pci_host_class, "pci", &w.env);
    assert_ok(dp_device_init(host, &e), e);
    dp_e1000_wire(d, rig_mac);
    dp_e1000_rom(d, image, sizeof(image));
    assert_ok(dp_device_init(d, &e), e);
    assert_ok(dp_pci_plug(dp_pci_host_of(host), dp_e1000_function(d), 3, &e), e);
    dp_pci_config_write(dp_e1000_function(d), DP_PCI_ROM_ADDRESS, ~1u, 4);
    assert_int_equal(dp_pci_config_read(dp_e1000_function(d), DP_PCI_ROM_ADDRESS, 4), 0xfffff000);
    dp_pci_config_write(dp_e1000_function(d), DP_PCI_ROM_ADDRESS, MMIO | 1, 4);
    dp_pci_config_write(dp_e1000_function(d), DP_PCI_COMMAND, 2, 2);
    /* firmware finds this card's name in it, and a sum that is right */
    assert_int_equal(dp_space_load(w.env.memory, MMIO + 0x20, 4), 0x100e8086);
    sum = 0;
    for (unsigned i = 0; i < sizeof(image); i++)
        sum += (uint8_t)dp_space_load(w.env.memory, MMIO + i, 1);
    assert_int_equal(sum, 0);
    assert_int_equal(dp_space_load(w.env.memory, MMIO + 1000, 1), image[1000]);
    dp_device_free(d);
    dp_device_free(host);
    conformance_world_fini(&w);
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make, .max_advance = 100000};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity),   cmocka_unit_test(eeprom),    cmocka_unit_test(phy),       cmocka_unit_test(transmit),
        cmocka_unit_test(offload),    cmocka_unit_test(full_wire), cmocka_unit_test(receive),   cmocka_unit_test(filters),
        cmocka_unit_test(checksums),  cmocka_unit_test(vlan),      cmocka_unit_test(full_ring), cmocka_unit_test(mitigation),
        cmocka_unit_test(soft_reset), cmocka_unit_test(hostile),   cmocka_unit_test(rom),       cmocka_unit_test(conformance),
        cmocka_unit_test(ring_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
