/* test_ne2k.c - NE2000 cards by their drivers (Linux' 8390 family, packet drivers, BSD's ed): probing, the PROM, memory by remote DMA,
 * sending, the receive ring and its wrap, filters, loopback, the interrupt's edges, a full ring and a full wire, ISA and PCI; and what
 * every device must do.
 */
#include "devices/net/ne2k.h"
#include "tests/device/nic_rig.h"

enum {
    CR,
    PSTART,
    PSTOP,
    BNRY,
    TPSR,
    TSR = TPSR,
    TBCR0,
    TBCR1,
    FIFO = 6,
    ISR,
    RSAR0,
    RSAR1,
    RBCR0,
    RBCR1,
    RCR,
    RSR = RCR,
    TCR,
    DCR,
    CNTR1 = DCR,
    IMR,
    CNTR2 = IMR,
    DATA,
    RESET = 0x1f
};
enum { CURR = 7, MAR0 = 8 };
enum { STP = 1, STA = 2, TXP = 4, READ = 8, WRITE = 0x10, SEND = 0x18, ABORT = 0x20, PAGE1 = 0x40 };
enum { PRX = 1, PTX = 2, RDC = 0x40, RST = 0x80 };
enum { IO = 0x300, TX_PAGE = 0x40, START = 0x46, STOP = 0x80 };

struct rig {
    struct conformance_world w;
    struct dp_device *d;
    struct dp_pci_function *f; /* NULL: ISA */
    struct wire wire;
    bool level;
    unsigned rises, next;
    uint8_t frame[2000];
};

static void irq_set(void *opaque, unsigned n, bool level)
{
    struct rig *r = opaque;
    r->rises += level && !r->level;
    r->level = level;
}

static unsigned in(struct rig *r, unsigned reg) { return (unsigned)dp_space_load(r->w.env.ports, IO + reg, 1); }
static void out(struct rig *r, unsigned reg, unsigned v) { dp_space_store(r->w.env.ports, IO + reg, v, 1); }
static bool irq(struct rig *r) { return r->f ? rig_irq(r->f) : r->level; }

static struct dp_device *make_isa(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_ne2k_isa_class, "net0", env);
    dp_ne2k_isa_wire(d, rig_mac, (struct dp_irq){opaque ? irq_set : NULL, opaque, 9});
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static struct dp_device *make_pci(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_ne2k_pci_class, "net0", env);
    dp_ne2k_pci_wire(d, rig_mac);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void rig_init(struct rig *r, bool pci)
{
    struct dp_error e = {0};
    memset(r, 0, sizeof(*r));
    conformance_world_init(&r->w);
    r->d = pci ? make_pci(&r->w.env, NULL) : make_isa(&r->w.env, r);
    r->f = pci ? dp_ne2k_pci_function(r->d) : NULL;
    wire_init(&r->wire, pci ? dp_ne2k_pci_port(r->d) : dp_ne2k_isa_port(r->d));
    assert_ok(dp_device_map(r->d, DP_NE2K_WINDOW, IO, &e), e);
    dp_device_resume(r->d);
}

static void rig_fini(struct rig *r)
{
    dp_device_free(r->d);
    wire_clear(&r->wire);
    conformance_world_fini(&r->w);
}

static void remote(struct rig *r, unsigned at, unsigned size, unsigned op)
{
    out(r, CR, STA | ABORT);
    out(r, RBCR0, size & 0xff);
    out(r, RBCR1, size >> 8);
    out(r, RSAR0, at & 0xff);
    out(r, RSAR1, at >> 8);
    out(r, CR, STA | op);
}

static void copy_in(struct rig *r, unsigned at, uint8_t *to, unsigned size)
{
    remote(r, at, size, READ);
    for (unsigned i = 0; i < size; i += 2)
        dp_st16(to + i, (uint16_t)dp_space_load(r->w.env.ports, IO + DATA, 2));
    assert_true(in(r, ISR) & RDC);
    out(r, ISR, RDC);
}

static void copy_out(struct rig *r, unsigned at, const uint8_t *from, unsigned size)
{
    remote(r, at, size, WRITE);
    for (unsigned i = 0; i < size; i += 2)
        dp_space_store(r->w.env.ports, IO + DATA, dp_ld16(from + i), 2);
    assert_true(in(r, ISR) & RDC);
    out(r, ISR, RDC);
}

/* As Linux' NS8390_init. */
static void start(struct rig *r)
{
    out(r, CR, STP | ABORT);
    out(r, DCR, 0x49);
    out(r, RBCR0, 0);
    out(r, RBCR1, 0);
    out(r, RCR, 0x20);
    out(r, TCR, 2);
    out(r, TPSR, TX_PAGE);
    out(r, PSTART, START);
    out(r, BNRY, STOP - 1);
    out(r, PSTOP, STOP);
    out(r, ISR, 0xff);
    out(r, IMR, 0);
    out(r, CR, STP | ABORT | PAGE1);
    for (unsigned i = 0; i < 6; i++)
        out(r, 1 + i, rig_mac[i]);
    out(r, CURR, START);
    for (unsigned i = 0; i < 8; i++)
        out(r, MAR0 + i, 0);
    out(r, CR, STP | ABORT);
    out(r, ISR, 0xff);
    out(r, IMR, 0x3f);
    out(r, CR, STA | ABORT);
    out(r, TCR, 0);
    out(r, RCR, 4);
    r->next = START;
}

static void probe(void **state)
{
    for (unsigned pci = 0; pci < 2; pci++) {
        struct rig r;
        uint8_t prom[32];
        rig_init(&r, pci);
        assert_int_equal(in(&r, CR), STP | ABORT);
        out(&r, RESET, in(&r, RESET));
        assert_int_equal(in(&r, ISR) & RST, RST);
        out(&r, ISR, 0xff);
        out(&r, CR, STP | ABORT);
        out(&r, DCR, 0x48); /* bytes */
        out(&r, RCR, 0x20);
        out(&r, TCR, 2);
        remote(&r, 0, 32, READ);
        for (unsigned i = 0; i < 32; i++)
            prom[i] = (uint8_t)in(&r, DATA);
        assert_true(in(&r, ISR) & RDC);
        for (unsigned i = 0; i < 6; i++) {
            assert_int_equal(prom[2 * i], rig_mac[i]);
            assert_int_equal(prom[2 * i + 1], rig_mac[i]);
        }
        for (unsigned i = 28; i < 32; i++)
            assert_int_equal(prom[i], 0x57);
        if (pci) {
            assert_int_equal(in(&r, 10) << 8 | in(&r, 11), 0x5043); /* 'P', 'C' */
            assert_int_equal(dp_pci_config_read(r.f, 0, 4), 0x802910ec);
        }
        /* counters are 0, registers that only page 2 shows */
        assert_int_equal(in(&r, CNTR1), 0);
        out(&r, PSTART, 0x4c);
        out(&r, CR, STP | ABORT | 0x80);
        assert_int_equal(in(&r, PSTART), 0x4c);
        rig_fini(&r);
    }
}

static void memory(void **state)
{
    static uint8_t to[0x4000], from[0x4000];
    struct rig r;
    rig_init(&r, false);
    for (unsigned i = 0; i < sizeof(to); i++)
        to[i] = (uint8_t)(i * 5 + (i >> 8));
    out(&r, DCR, 0x49);
    copy_out(&r, 0x4000, to, sizeof(to));
    copy_in(&r, 0x4000, from, sizeof(from));
    assert_memory_equal(to, from, sizeof(to));
    /* bytes, and double words as wide PCI drivers do */
    out(&r, DCR, 0x48);
    remote(&r, 0x4101, 5, READ);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(in(&r, DATA), to[0x101 + i]);
    assert_true(in(&r, ISR) & RDC);
    out(&r, DCR, 0x49);
    remote(&r, 0x4200, 8, READ);
    assert_int_equal(dp_space_load(r.w.env.ports, IO + DATA, 4), dp_ld32(to + 0x200));
    assert_int_equal(dp_space_load(r.w.env.ports, IO + DATA, 4), dp_ld32(to + 0x204));
    /* it wraps at the ring's end */
    out(&r, PSTART, 0x50);
    out(&r, PSTOP, 0x60);
    copy_in(&r, 0x5fe0, from, 64);
    assert_memory_equal(from, to + 0x1fe0, 32);
    assert_memory_equal(from + 32, to + 0x1000, 32);
    /* an NE1000 has memory at 2000h; this has none to be written there */
    copy_out(&r, 0x2000, to + 100, 32);
    copy_in(&r, 0x2000, from, 32);
    assert_memory_not_equal(from, to + 100, 32);
    rig_fini(&r);
}

static void transmit(void **state)
{
    for (unsigned pci = 0; pci < 2; pci++) {
        struct rig r;
        rig_init(&r, pci);
        start(&r);
        rig_frame(r.frame, rig_other, 300);
        copy_out(&r, TX_PAGE << 8, r.frame, 300);
        out(&r, TBCR0, 300 & 0xff);
        out(&r, TBCR1, 300 >> 8);
        out(&r, CR, STA | ABORT | TXP);
        assert_int_equal(r.wire.count, 1);
        assert_int_equal(r.wire.frame[0].size, 300);
        assert_memory_equal(r.wire.frame[0].data, r.frame, 300);
        assert_true(irq(&r));
        assert_int_equal(in(&r, ISR), PTX);
        assert_int_equal(in(&r, TSR) & 1, 1);
        assert_int_equal(in(&r, CR) & TXP, 0);
        out(&r, ISR, PTX);
        assert_false(irq(&r));
        /* a wire that is full */
        r.wire.room = 0;
        out(&r, CR, STA | ABORT | TXP);
        assert_int_equal(in(&r, CR) & TXP, TXP);
        out(&r, CR, STA | ABORT); /* cannot be taken back */
        assert_int_equal(in(&r, CR) & TXP, TXP);
        r.wire.room = 5;
        dp_net_ready(&r.wire.port);
        assert_int_equal(r.wire.count, 2);
        assert_int_equal(in(&r, CR) & TXP, 0);
        assert_true(irq(&r));
        rig_fini(&r);
    }
}

static void loopback(void **state)
{
    struct rig r;
    rig_init(&r, false);
    start(&r);
    rig_frame(r.frame, rig_mac, 64);
    copy_out(&r, TX_PAGE << 8, r.frame, 64);
    out(&r, DCR, 0x41);
    out(&r, TCR, 2);
    out(&r, TBCR0, 64);
    out(&r, TBCR1, 0);
    out(&r, CR, STA | ABORT | TXP);
    assert_int_equal(r.wire.count, 0);
    assert_int_equal(in(&r, ISR), PTX);
    assert_int_equal(in(&r, TSR), 0x53);
    assert_int_equal(in(&r, RSR), 2);
    assert_int_equal(in(&r, FIFO), r.frame[63]);
    uint32_t fcs = 0;
    for (unsigned i = 0; i < 4; i++)
        fcs |= in(&r, FIFO) << i * 8;
    assert_int_equal(fcs, rig_crc32(r.frame, 64));
    assert_int_equal(in(&r, FIFO), 68);
    rig_fini(&r);
}

/* As Linux does it: commands that say neither start nor stop. */
static unsigned current(struct rig *r)
{
    out(r, CR, ABORT | PAGE1);
    unsigned v = in(r, CURR);
    out(r, CR, ABORT);
    assert_int_equal(in(r, CR), STA | ABORT);
    return v;
}

/* The next packet, as Linux' ei_receive takes it. 0: none. */
static unsigned take(struct rig *r, uint8_t *to, unsigned *status)
{
    uint8_t header[4];
    if (current(r) == r->next)
        return 0;
    copy_in(r, r->next << 8, header, 4);
    unsigned size = dp_ld16(header + 2) - 4u;
    copy_in(r, (r->next << 8) + 4, to, size + (size & 1));
    *status = header[0];
    r->next = header[1];
    out(r, BNRY, r->next == START ? STOP - 1 : r->next - 1);
    return size;
}

static void receive(void **state)
{
    uint8_t got[2000];
    unsigned status, rises;
    struct rig r;
    rig_init(&r, false);
    start(&r);
    for (unsigned n = 0; n < 200; n++) {
        unsigned size = 60 + n * 83 % 1455;
        rig_frame(r.frame, n % 3 ? rig_mac : rig_broadcast, size);
        r.frame[20] = (uint8_t)n;
        rises = r.rises;
        assert_true(wire_send(&r.wire, r.frame, size));
        assert_int_equal(r.rises, rises + 1);
        assert_int_equal(in(&r, ISR), PRX);
        /* another while the first is looked at: acknowledged together with it, so without an edge of its own */
        out(&r, ISR, PRX);
        assert_false(r.level);
        assert_int_equal(take(&r, got, &status), size);
        assert_memory_equal(got, r.frame, size);
        assert_int_equal(status, n % 3 ? 0x01 : 0x21);
    }
    assert_int_equal(take(&r, got, &status), 0);
    /* send packet: the remote DMA takes the packet at BNRY by itself */
    out(&r, BNRY, r.next);
    rig_frame(r.frame, rig_mac, 100);
    assert_true(wire_send(&r.wire, r.frame, 100));
    out(&r, CR, SEND);
    for (unsigned i = 0; i < 104; i += 2) {
        unsigned v = (unsigned)dp_space_load(r.w.env.ports, IO + DATA, 2);
        if (i >= 4)
            assert_int_equal(v, dp_ld16(r.frame + i - 4));
    }
    assert_true(in(&r, ISR) & RDC);
    assert_int_equal(in(&r, BNRY), current(&r));
    /* an edge for each time the level was low, even if nobody looked in between */
    out(&r, ISR, 0xff);
    rises = r.rises;
    assert_true(wire_send(&r.wire, r.frame, 100));
    out(&r, IMR, 0);
    out(&r, IMR, 0x3f);
    assert_int_equal(r.rises, rises + 2);
    rig_fini(&r);
}

static void full_ring(void **state)
{
    uint8_t got[2000];
    unsigned status, n = 0;
    struct rig r;
    rig_init(&r, true);
    start(&r);
    rig_frame(r.frame, rig_mac, 1500);
    for (; n < 40 && wire_send(&r.wire, r.frame, 1500); n++)
        out(&r, ISR, PRX);
    assert_int_equal(n, (STOP - START - 1) / 6);
    assert_int_equal(in(&r, ISR) & 0x10, 0);
    for (unsigned k = 0; k < 5; k++) { /* the sender is told when half of it is free */
        assert_int_equal(r.wire.ready, 0);
        assert_int_equal(take(&r, got, &status), 1500);
    }
    assert_int_equal(r.wire.ready, 1);
    for (unsigned k = 0; k < 5; k++) {
        assert_true(wire_send(&r.wire, r.frame, 1500));
        out(&r, ISR, PRX);
    }
    assert_false(wire_send(&r.wire, r.frame, 1500));
    for (unsigned k = 0; k < n; k++) {
        memset(got, 0, sizeof(got));
        assert_int_equal(take(&r, got, &status), 1500);
        assert_memory_equal(got, r.frame, 1500);
    }
    /* a stopped card loses */
    out(&r, CR, STP | ABORT);
    for (n = 0; n < 40; n++)
        assert_true(wire_send(&r.wire, r.frame, 1500));
    /* rings that are none */
    out(&r, CR, STA | ABORT);
    out(&r, PSTART, 0x90);
    assert_true(wire_send(&r.wire, r.frame, 1500));
    out(&r, PSTART, 0x00);
    assert_true(wire_send(&r.wire, r.frame, 1500));
    out(&r, PSTART, START);
    out(&r, PSTOP, START + 3);
    assert_true(wire_send(&r.wire, r.frame, 1500));
    rig_fini(&r);
}

/* A driver that acknowledges PRX after it looked for the last time: what comes in between must not stay without an interrupt. */
static void groups(void **state)
{
    uint8_t got[2000];
    unsigned status;
    struct rig r;
    rig_init(&r, true);
    start(&r);
    rig_frame(r.frame, rig_mac, 60);
    const struct iovec part = {r.frame, 60};
    struct dp_net_frame f[12];
    for (unsigned i = 0; i < 12; i++)
        f[i] = (struct dp_net_frame){.part = &part, .parts = 1, .size = 60};
    assert_int_equal(dp_net_send(&r.wire.port, f, 12), 8);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(take(&r, got, &status), 60);
    assert_int_equal(take(&r, got, &status), 0);
    assert_false(wire_send(&r.wire, r.frame, 60)); /* not now */
    out(&r, ISR, PRX);
    assert_int_equal(r.wire.ready, 2);
    assert_true(wire_send(&r.wire, r.frame, 60));
    assert_true(irq(&r));
    /* who does not acknowledge gets the next a while later; who polls, at once */
    assert_false(wire_send(&r.wire, r.frame, 60));
    dp_clock_advance(r.w.env.clock, 21000000);
    assert_int_equal(r.wire.ready, 3);
    assert_true(wire_send(&r.wire, r.frame, 60));
    assert_false(wire_send(&r.wire, r.frame, 60));
    out(&r, IMR, 0);
    assert_true(wire_send(&r.wire, r.frame, 60));
    assert_true(wire_send(&r.wire, r.frame, 60));
    rig_fini(&r);
}

static bool gets(struct rig *r, const uint8_t to[6])
{
    uint8_t got[2000];
    unsigned status;
    rig_frame(r->frame, to, 100);
    assert_true(wire_send(&r->wire, r->frame, 100));
    out(r, ISR, PRX);
    return take(r, got, &status) == 100;
}

static void filters(void **state)
{
    struct rig r;
    rig_init(&r, true);
    start(&r);
    assert_true(gets(&r, rig_mac));
    assert_true(gets(&r, rig_broadcast));
    assert_false(gets(&r, rig_other));
    assert_false(gets(&r, rig_multicast));
    out(&r, RCR, 0);
    assert_false(gets(&r, rig_broadcast));
    out(&r, RCR, 0x10);
    assert_true(gets(&r, rig_other));
    out(&r, RCR, 8);
    assert_false(gets(&r, rig_multicast));
    out(&r, CR, STA | ABORT | PAGE1);
    for (unsigned i = 0; i < 8; i++)
        out(&r, MAR0 + i, 0xff);
    out(&r, CR, STA | ABORT);
    assert_true(gets(&r, rig_multicast));
    out(&r, RCR, 0x20); /* monitor: counts */
    assert_false(gets(&r, rig_mac));
    assert_int_equal(in(&r, CNTR2), 1);
    assert_int_equal(in(&r, CNTR2), 0);
    rig_fini(&r);
}

static void conformance(void **state)
{
    const struct conformance isa = {.make = make_isa}, pci = {.make = make_pci};
    conformance_check(&isa);
    conformance_check(&pci);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(probe),    cmocka_unit_test(memory),  cmocka_unit_test(transmit),
        cmocka_unit_test(loopback), cmocka_unit_test(receive), cmocka_unit_test(full_ring),
        cmocka_unit_test(groups),   cmocka_unit_test(filters), cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
