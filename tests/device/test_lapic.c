/* test_lapic.c - registers, priorities, messages, local sources and the timer of the local APIC; races between threads. */
#include <sched.h>

#include "devices/intc/pic.h"
#include "tests/device/apic_world.h"

#define WORLD(adjust)                                                                                                                      \
    struct apic_world w;                                                                                                                   \
    apic_world_init(&w, adjust)

static void after_reset(void **state)
{
    WORLD(NULL);
    for (unsigned i = 0; i < WORLD_CPUS; i++) {
        struct dp_device *d = w.cpu[i];
        assert_int_equal(rd(d, 0x20), i << 24);
        assert_int_equal(rd(d, 0x30), 0x01050014);
        assert_int_equal(rd(d, 0x80), 0);
        assert_int_equal(rd(d, 0xe0), 0xffffffff);
        assert_int_equal(rd(d, 0xf0), 0xff);
        for (unsigned o = 0x320; o <= 0x370; o += 0x10)
            assert_int_equal(rd(d, o), 0x10000);
        assert_int_equal(rdmsr(d, 0x1b), 0xfee00800 | (i ? 0 : 0x100));
        assert_int_equal(take(&w, i), -1);
    }
    apic_world_fini(&w);
}

static void wire_as_firmware(unsigned i, struct dp_lapic_wires *wires) { wires->virtual_wire = wires->bsp; }

static void virtual_wire(void **state)
{
    WORLD(wire_as_firmware);
    assert_int_equal(rd(w.cpu[0], 0xf0), 0x1ff);
    assert_int_equal(rd(w.cpu[0], 0x350), 0x700);
    assert_int_equal(rd(w.cpu[0], 0x360), 0x400);
    assert_int_equal(rd(w.cpu[1], 0x350), 0x10000);
    apic_world_fini(&w);
}

static void priorities(void **state)
{
    WORLD(NULL);
    struct dp_device *d = w.cpu[0];
    enable(d);
    ipi(d, 0, 0x4031); /* arrives masked by nothing */
    assert_int_equal(w.note[0].intr, 1);
    ipi(d, 0, 0x4035);
    ipi(d, 0, 0x4081);
    assert_int_equal(rd(d, 0x210), 1 << 0x11 | 1 << 0x15);
    assert_int_equal(rd(d, 0x240), 1 << 1);
    assert_int_equal(take(&w, 0), 0x81);
    assert_int_equal(rd(d, 0xa0), 0x80);
    assert_int_equal(rd(d, 0x140), 1 << 1);
    assert_int_equal(take(&w, 0), -1); /* the rest has lower priority */
    ipi(d, 0, 0x408f);                 /* same class: waits */
    assert_int_equal(take(&w, 0), -1);
    ipi(d, 0, 0x40f0);
    assert_int_equal(take(&w, 0), 0xf0);
    eoi(d);
    assert_int_equal(rd(d, 0xa0), 0x80);
    eoi(d);
    assert_int_equal(rd(d, 0xa0), 0);
    expect(&w, 0, 0x8f);
    /* TPR holds classes up to its own back. */
    dp_lapic_tpr_write(d, 0x30);
    assert_int_equal(w.note[0].intr, 0);
    assert_int_equal(take(&w, 0), -1);
    assert_int_equal(rd(d, 0xa0), 0x30);
    assert_int_equal(rd(d, 0x90), 0x30); /* TPR 3 >= IRRV 3 and > ISRV 0 */
    wr(d, 0x80, 0x2f);
    assert_int_equal(dp_lapic_tpr_read(d), 0x2f);
    assert_int_equal(w.note[0].intr, 1);
    assert_int_equal(rd(d, 0x90), 0x30);
    expect(&w, 0, 0x35);
    expect(&w, 0, 0x31);
    expect(&w, 0, -1);
    eoi(d); /* nothing in service: nothing happens */
    /* A second message to a pending vector merges, to one in service waits. */
    wr(d, 0x80, 0);
    ipi(d, 0, 0x4041);
    ipi(d, 0, 0x4041);
    assert_int_equal(take(&w, 0), 0x41);
    ipi(d, 0, 0x4041);
    assert_int_equal(take(&w, 0), -1);
    eoi(d);
    expect(&w, 0, 0x41);
    expect(&w, 0, -1);
    apic_world_fini(&w);
}

static unsigned who(struct apic_world *w, int vector)
{
    unsigned mask = 0;
    for (unsigned i = 0; i < WORLD_CPUS; i++) {
        int v = take(w, i);
        if (v >= 0) {
            assert_int_equal(v, vector);
            eoi(w->cpu[i]);
            mask |= 1u << i;
        }
    }
    return mask;
}

static void destinations(void **state)
{
    WORLD(NULL);
    enable_all(&w);
    struct dp_device *d = w.cpu[0];
    ipi(d, 2, 0x4040);
    assert_int_equal(who(&w, 0x40), 4);
    ipi(d, 9, 0x4040);
    assert_int_equal(who(&w, 0x40), 0);
    ipi(d, 0xff, 0x4041);
    assert_int_equal(who(&w, 0x41), 0xf);
    /* Shorthands: self, all, others. */
    ipi(d, 9, 0x44042);
    assert_int_equal(who(&w, 0x42), 1);
    ipi(d, 9, 0x84042);
    assert_int_equal(who(&w, 0x42), 0xf);
    ipi(w.cpu[1], 9, 0xc4042);
    assert_int_equal(who(&w, 0x42), 0xd);
    /* Flat logical. */
    for (unsigned i = 0; i < WORLD_CPUS; i++)
        wr(w.cpu[i], 0xd0, 1u << (24 + i));
    ipi(d, 0x0a, 0x4843);
    assert_int_equal(who(&w, 0x43), 0xa);
    ipi(d, 0xff, 0x4843);
    assert_int_equal(who(&w, 0x43), 0xf);
    /* Cluster: processors 0, 1 in cluster 1 and 2, 3 in cluster 2. */
    for (unsigned i = 0; i < WORLD_CPUS; i++) {
        wr(w.cpu[i], 0xe0, 0x0fffffff);
        wr(w.cpu[i], 0xd0, (1 + i / 2) << 28 | 1u << (24 + i % 2));
    }
    ipi(d, 0x12, 0x4844);
    assert_int_equal(who(&w, 0x44), 2);
    ipi(d, 0x23, 0x4844);
    assert_int_equal(who(&w, 0x44), 0xc);
    ipi(d, 0xf1, 0x4844); /* every cluster */
    assert_int_equal(who(&w, 0x44), 5);
    /* A changed ID counts; a disabled APIC gets nothing. */
    wr(w.cpu[3], 0x20, 0x77000000);
    ipi(d, 3, 0x4045);
    assert_int_equal(who(&w, 0x45), 0);
    ipi(d, 0x77, 0x4045);
    assert_int_equal(who(&w, 0x45), 8);
    wr(w.cpu[3], 0xf0, 0xff);
    ipi(d, 0x77, 0x4045);
    assert_int_equal(who(&w, 0x45), 0);
    apic_world_fini(&w);
}

static void lowest_priority(void **state)
{
    WORLD(NULL);
    enable_all(&w);
    dp_lapic_tpr_write(w.cpu[0], 0x20);
    dp_lapic_tpr_write(w.cpu[1], 0x10);
    dp_lapic_tpr_write(w.cpu[2], 0x30);
    dp_lapic_tpr_write(w.cpu[3], 0x20);
    ipi(w.cpu[2], 0xff, 0x4150);
    assert_int_equal(who(&w, 0x50), 2);
    wr(w.cpu[1], 0xf0, 0xff); /* out of the arbitration */
    dp_lapic_tpr_write(w.cpu[3], 0x1f);
    ipi(w.cpu[2], 0xff, 0x4150);
    assert_int_equal(who(&w, 0x50), 8);
    ipi(w.cpu[3], 0, 0xc4150); /* others */
    assert_int_equal(who(&w, 0x50), 1);
    /* Equal ones take turns by vector. */
    enable_all(&w);
    for (unsigned i = 0; i < WORLD_CPUS; i++)
        dp_lapic_tpr_write(w.cpu[i], 0);
    for (unsigned v = 0x40; v < 0x48; v++) {
        ipi(w.cpu[0], 0xff, 0x4100 | v);
        assert_int_equal(who(&w, v), 1u << v % 4);
    }
    apic_world_fini(&w);
}

static void signals(void **state)
{
    WORLD(NULL);
    struct dp_device *d = w.cpu[0];
    enable(w.cpu[1]);
    ipi(w.cpu[1], 1, 0x4055);
    ipi(d, 1, 0x8500); /* level de-assert: nothing */
    assert_int_equal(w.note[1].init, 0);
    ipi(d, 1, 0xc500);
    assert_int_equal(w.note[1].init, 1);
    assert_int_equal(w.note[1].intr, 0);
    assert_int_equal(rd(w.cpu[1], 0xf0), 0xff); /* the APIC was reset, but for its id */
    assert_int_equal(rd(w.cpu[1], 0x20), 1 << 24);
    ipi(d, 1, 0x4500);
    assert_int_equal(w.note[1].init, 2);
    ipi(d, 1, 0x469a); /* SIPI, NMI and SMI reach APICs that are only software-disabled */
    assert_int_equal(w.note[1].sipi, 1);
    assert_int_equal(w.note[1].sipi_vector, 0x9a);
    ipi(d, 1, 0x4400);
    assert_int_equal(w.note[1].nmi, 1);
    ipi(d, 1, 0x4200);
    assert_int_equal(w.note[1].smi, 1);
    ipi(d, 0, 0xc4500);
    ipi(d, 0, 0xc4608);
    for (unsigned i = 0; i < WORLD_CPUS; i++) {
        assert_int_equal(w.note[i].init, i == 0 ? 0 : i == 1 ? 3 : 1);
        assert_int_equal(w.note[i].sipi, i == 0 ? 0 : i == 1 ? 2 : 1);
    }
    ipi(d, 0, 0x84500); /* all including self: refused */
    ipi(d, 0, 0x44608);
    assert_int_equal(w.note[0].init + w.note[0].sipi, 0);
    ipi(d, 1, 0x4300); /* reserved, ExtINT: nothing */
    ipi(d, 1, 0x4700);
    assert_int_equal(w.note[1].intr, 0);
    apic_world_fini(&w);
}

static void errors(void **state)
{
    WORLD(NULL);
    struct dp_device *d = w.cpu[0];
    enable_all(&w);
    wr(d, 0x370, 0xfe);
    ipi(d, 1, 0x400f);
    assert_int_equal(rd(d, 0x280), 0); /* not before a write */
    expect(&w, 0, 0xfe);
    wr(d, 0x280, 0);
    assert_int_equal(rd(d, 0x280), 0x20);
    assert_int_equal(rd(d, 0x280), 0x20);
    rd(d, 0x3c0); /* no such register */
    expect(&w, 0, 0xfe);
    wr(d, 0x040, 1);
    expect(&w, 0, -1); /* the same error again: no second interrupt until ESR was written */
    wr(d, 0x280, 0xff);
    assert_int_equal(rd(d, 0x280), 0x80);
    wr(d, 0x280, 0);
    assert_int_equal(rd(d, 0x280), 0);
    dp_apic_bus_msi(&w.bus, 0xfee01000, 0x0005);
    wr(w.cpu[1], 0x280, 0);
    assert_int_equal(rd(w.cpu[1], 0x280), 0x40);
    /* An error interrupt whose own vector is illegal ends there. */
    wr(d, 0x370, 0x03);
    rd(d, 0x3c0);
    wr(d, 0x280, 0);
    assert_int_equal(rd(d, 0x280), 0xc0);
    apic_world_fini(&w);
}

static void local_vectors(void **state)
{
    WORLD(NULL);
    struct dp_device *d = w.cpu[0];
    wr(d, 0x320, 0x20040); /* disabled: mask cannot be cleared */
    assert_int_equal(rd(d, 0x320), 0x30040);
    enable(d);
    wr(d, 0x320, 0xffffffff);
    assert_int_equal(rd(d, 0x320), 0x700ff);
    wr(d, 0x350, 0xffffffff);
    assert_int_equal(rd(d, 0x350), 0x1a7ff);
    wr(d, 0x360, 0xffffffff);
    assert_int_equal(rd(d, 0x360), 0x1a7ff);
    wr(d, 0x330, 0xffffffff);
    assert_int_equal(rd(d, 0x330), 0x107ff);
    wr(d, 0x340, 0xffffffff);
    assert_int_equal(rd(d, 0x340), 0x107ff);
    wr(d, 0x370, 0xffffffff);
    assert_int_equal(rd(d, 0x370), 0x100ff);
    wr(d, 0x350, 0x00041);
    wr(d, 0xf0, 0xff); /* software disable sets all masks */
    assert_int_equal(rd(d, 0x350), 0x10041);
    enable(d);
    assert_int_equal(rd(d, 0x350), 0x10041);

    /* LINT0: edge, level with remote IRR, NMI, SMI, INIT. */
    wr(d, 0x350, 0x00041);
    dp_lapic_lint(d, 0, true);
    dp_lapic_lint(d, 0, true);
    dp_lapic_lint(d, 0, false);
    expect(&w, 0, 0x41);
    expect(&w, 0, -1);
    wr(d, 0x350, 0x08042);
    dp_lapic_lint(d, 0, true);
    assert_int_equal(rd(d, 0x350), 0x0c042);
    assert_int_equal(take(&w, 0), 0x42);
    assert_int_equal(rd(d, 0x1a0), 1 << 2); /* TMR */
    eoi(d);
    assert_int_equal(take(&w, 0), 0x42); /* still asserted */
    dp_lapic_lint(d, 0, false);
    eoi(d);
    expect(&w, 0, -1);
    assert_int_equal(rd(d, 0x350), 0x08042);
    wr(d, 0x350, 0x18042);
    dp_lapic_lint(d, 0, true);
    expect(&w, 0, -1);
    wr(d, 0x350, 0x08042); /* unmasked while asserted */
    assert_int_equal(take(&w, 0), 0x42);
    dp_lapic_lint(d, 0, false);
    eoi(d);
    wr(d, 0x360, 0x400);
    dp_lapic_lint(d, 1, true);
    dp_lapic_lint(d, 1, false);
    assert_int_equal(w.note[0].nmi, 1);
    wr(d, 0x360, 0x200);
    dp_lapic_lint(d, 1, true);
    dp_lapic_lint(d, 1, false);
    assert_int_equal(w.note[0].smi, 1);
    wr(d, 0x360, 0x8043); /* level means nothing for LINT1 */
    dp_lapic_lint(d, 1, true);
    expect(&w, 0, 0x43);
    expect(&w, 0, -1);
    dp_lapic_lint(d, 1, false);
    wr(d, 0x360, 0x500);
    dp_lapic_lint(d, 1, true);
    assert_int_equal(w.note[0].init, 1);
    apic_world_fini(&w);
}

/* ---- ExtINT ---- */

static int fake_ack(void *opaque) { return ++*(int *)opaque; }
static int ack_calls;
static void wire_pic(unsigned i, struct dp_lapic_wires *wires)
{
    wires->pic_ack = fake_ack;
    wires->pic_opaque = &ack_calls;
}

static void external_interrupts(void **state)
{
    WORLD(wire_pic);
    struct dp_device *d = w.cpu[0];
    ack_calls = 0x30;
    enable(d);
    dp_lapic_lint(d, 0, true);
    assert_int_equal(w.note[0].intr, 0);
    wr(d, 0x350, 0x700);
    assert_int_equal(w.note[0].intr, 1);
    dp_lapic_tpr_write(d, 0xf0); /* priorities do not hold it back */
    assert_int_equal(take(&w, 0), 0x31);
    assert_int_equal(w.note[0].intr, 1); /* as long as the 8259 says so */
    dp_lapic_lint(d, 0, false);
    assert_int_equal(w.note[0].intr, 0);
    assert_int_equal(rd(d, 0x110), 0); /* never in service here */
    dp_lapic_lint(d, 0, true);
    wr(d, 0x350, 0x10700);
    assert_int_equal(w.note[0].intr, 0);
    /* Globally disabled: the pins are the processor's. */
    assert_true(dp_lapic_msr_write(d, 0x1b, 0xfee00100));
    assert_int_equal(w.note[0].intr, 1);
    assert_int_equal(take(&w, 0), 0x32);
    dp_lapic_lint(d, 1, true);
    assert_int_equal(w.note[0].nmi, 1);
    dp_lapic_lint(d, 0, false);
    dp_lapic_lint(d, 1, false);
    assert_true(dp_lapic_msr_write(d, 0x1b, 0xfee00900));
    /* As a message. */
    enable(d);
    dp_apic_bus_msi(&w.bus, 0xfee00000, 0x700);
    assert_int_equal(w.note[0].intr, 1);
    assert_int_equal(take(&w, 0), 0x33);
    assert_int_equal(w.note[0].intr, 0);
    apic_world_fini(&w);
}

/* ---- timer ---- */

static void advance(struct apic_world *w, uint64_t ns) { dp_clock_advance(w->base.env.clock, ns); }

static void timer_one_shot(void **state)
{
    WORLD(NULL);
    struct dp_device *d = w.cpu[0];
    enable(d);
    wr(d, 0x320, 0xec);
    wr(d, 0x3e0, 0x3); /* by 16 */
    wr(d, 0x380, 1000);
    assert_int_equal(rd(d, 0x390), 1000);
    advance(&w, 15);
    assert_int_equal(rd(d, 0x390), 1000);
    advance(&w, 1);
    assert_int_equal(rd(d, 0x390), 999);
    advance(&w, 15983);
    assert_int_equal(rd(d, 0x390), 1);
    assert_int_equal(w.note[0].intr, 0);
    advance(&w, 1);
    assert_int_equal(rd(d, 0x390), 0);
    assert_int_equal(w.note[0].intr, 1);
    expect(&w, 0, 0xec);
    advance(&w, 1000000);
    expect(&w, 0, -1);
    assert_int_equal(rd(d, 0x380), 1000);
    /* Zero stops, masked counts on, a divider change keeps the count. */
    wr(d, 0x380, 100);
    wr(d, 0x380, 0);
    advance(&w, 100000);
    expect(&w, 0, -1);
    wr(d, 0x320, 0x100ec);
    wr(d, 0x380, 100);
    advance(&w, 1600);
    expect(&w, 0, -1);
    wr(d, 0x320, 0xec);
    wr(d, 0x380, 100);
    advance(&w, 800);
    assert_int_equal(rd(d, 0x390), 50);
    wr(d, 0x3e0, 0xb); /* by 1 */
    assert_int_equal(rd(d, 0x390), 50);
    advance(&w, 49);
    expect(&w, 0, -1);
    advance(&w, 1);
    expect(&w, 0, 0xec);
    static const struct {
        uint32_t value;
        unsigned by;
    } divide[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {0xa, 128}, {0xb, 1}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(divide); i++) {
        wr(d, 0x3e0, divide[i].value);
        wr(d, 0x380, 10);
        advance(&w, 10 * divide[i].by - 1);
        expect(&w, 0, -1);
        advance(&w, 1);
        expect(&w, 0, 0xec);
    }
    apic_world_fini(&w);
}

static void wire_slow_bus(unsigned i, struct dp_lapic_wires *wires) { wires->bus_hz = i ? 0 : 3000; }

static void timer_periodic(void **state)
{
    WORLD(wire_slow_bus);
    struct dp_device *d = w.cpu[1];
    enable(d);
    wr(d, 0x320, 0x200ec);
    wr(d, 0x3e0, 0xb);
    wr(d, 0x380, 1000000);
    for (unsigned i = 0; i < 20; i++) {
        advance(&w, 999999);
        expect(&w, 1, -1);
        advance(&w, 1);
        assert_int_equal(rd(d, 0x390), 1000000);
        expect(&w, 1, 0xec);
    }
    /* Missed periods are one interrupt, the phase stays. */
    dp_device_pause(d);
    advance(&w, 3500000);
    assert_int_equal(w.note[1].intr, 0);
    dp_device_resume(d);
    expect(&w, 1, 0xec);
    assert_int_equal(rd(d, 0x390), 500000);
    advance(&w, 499999);
    expect(&w, 1, -1);
    advance(&w, 1);
    expect(&w, 1, 0xec);
    /* To one-shot: the current period is the last; periodic again does not begin anew. */
    advance(&w, 300000);
    wr(d, 0x320, 0xec);
    assert_int_equal(rd(d, 0x390), 700000);
    advance(&w, 699999);
    expect(&w, 1, -1);
    assert_int_equal(rd(d, 0x390), 1);
    advance(&w, 1);
    expect(&w, 1, 0xec);
    advance(&w, 5000000);
    expect(&w, 1, -1);
    assert_int_equal(rd(d, 0x390), 0);
    wr(d, 0x320, 0x200ec);
    advance(&w, 5000000);
    expect(&w, 1, -1);
    assert_int_equal(rd(d, 0x390), 0);
    /* Periods that are no whole number of ns do not drift: the n-th of a 3 kHz bus comes at n/3000 s, rounded up. */
    d = w.cpu[0];
    enable(d);
    wr(d, 0x320, 0x200ed);
    wr(d, 0x3e0, 0xb);
    wr(d, 0x380, 1);
    uint64_t start = dp_clock_now(w.base.env.clock);
    for (uint64_t n = 1; n <= 3000; n++) {
        advance(&w, start + (n * 1000000000 + 2999) / 3000 - 1 - dp_clock_now(w.base.env.clock));
        expect(&w, 0, -1);
        advance(&w, 1);
        expect(&w, 0, 0xed);
    }
    /* A period of 1 ns costs the host no more than the smallest it grants. */
    d = w.cpu[1];
    wr(d, 0x320, 0x200ec);
    wr(d, 0x380, 1);
    advance(&w, 1000000000);
    expect(&w, 1, 0xec);
    apic_world_fini(&w);
}

static void timer_deadline(void **state)
{
    WORLD(NULL);
    struct dp_device *d = w.cpu[0];
    enable(d);
    assert_true(dp_lapic_msr_write(d, 0x6e0, 1000)); /* other mode: ignored */
    assert_int_equal(rdmsr(d, 0x6e0), 0);
    wr(d, 0x320, 0x400ee);
    advance(&w, 1000);
    assert_int_equal(world_tsc(&w.note[0]), 2500);
    assert_true(dp_lapic_msr_write(d, 0x6e0, 5000)); /* at 2000 ns */
    assert_int_equal(rdmsr(d, 0x6e0), 5000);
    advance(&w, 999);
    expect(&w, 0, -1);
    advance(&w, 1);
    expect(&w, 0, 0xee);
    assert_int_equal(rdmsr(d, 0x6e0), 0);
    assert_true(dp_lapic_msr_write(d, 0x6e0, 5001)); /* 2000.4 ns: at 2001 */
    expect(&w, 0, -1);
    advance(&w, 1);
    expect(&w, 0, 0xee);
    assert_true(dp_lapic_msr_write(d, 0x6e0, 17)); /* past: at once */
    expect(&w, 0, 0xee);
    assert_int_equal(rdmsr(d, 0x6e0), 0);
    assert_true(dp_lapic_msr_write(d, 0x6e0, 100000));
    assert_true(dp_lapic_msr_write(d, 0x6e0, 0));
    advance(&w, 100000);
    expect(&w, 0, -1);
    wr(d, 0x380, 77); /* counts are ignored */
    assert_int_equal(rd(d, 0x380), 0);
    assert_int_equal(rd(d, 0x390), 0);
    /* Leaving the mode disarms. */
    assert_true(dp_lapic_msr_write(d, 0x6e0, ~0ull));
    advance(&w, 1000);
    assert_int_equal(rdmsr(d, 0x6e0), ~0ull);
    wr(d, 0x320, 0x000ee);
    assert_int_equal(rdmsr(d, 0x6e0), 0);
    wr(d, 0x320, 0x400ee);
    /* The TSC jumps back: the deadline waits for the TSC, not for the host. */
    uint64_t tsc = world_tsc(&w.note[0]);
    assert_true(dp_lapic_msr_write(d, 0x6e0, tsc + 2500));
    w.note[0].tsc_offset -= 2500;
    advance(&w, 1000);
    expect(&w, 0, -1);
    advance(&w, 1000);
    expect(&w, 0, 0xee);
    /* Forward: known when told. */
    assert_true(dp_lapic_msr_write(d, 0x6e0, world_tsc(&w.note[0]) + 2500));
    w.note[0].tsc_offset += 5000;
    dp_lapic_tsc_changed(d);
    expect(&w, 0, 0xee);
    /* Masked: it expires unseen. */
    wr(d, 0x320, 0x500ee);
    assert_true(dp_lapic_msr_write(d, 0x6e0, world_tsc(&w.note[0]) + 2500));
    advance(&w, 1000);
    expect(&w, 0, -1);
    assert_int_equal(rdmsr(d, 0x6e0), 0);
    apic_world_fini(&w);
}

/* ---- modes ---- */

static void base_transitions(void **state)
{
    enum { OFF = 0, EXTD = 0x400, XAPIC = 0x800, X2APIC = 0xc00 };
    static const struct {
        unsigned from, to;
        bool legal;
    } step[] = {
        {OFF, OFF, true},    {OFF, XAPIC, true},     {OFF, X2APIC, false},   {OFF, EXTD, false},
        {XAPIC, OFF, true},  {XAPIC, XAPIC, true},   {XAPIC, X2APIC, true},  {XAPIC, EXTD, false},
        {X2APIC, OFF, true}, {X2APIC, XAPIC, false}, {X2APIC, X2APIC, true}, {X2APIC, EXTD, false},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(step); i++) {
        WORLD(NULL);
        struct dp_device *d = w.cpu[0];
        enable(d);
        dp_lapic_tpr_write(d, 0x50);
        if (step[i].from == OFF)
            assert_true(dp_lapic_msr_write(d, 0x1b, 0xfee00100));
        if (step[i].from == X2APIC)
            assert_true(dp_lapic_msr_write(d, 0x1b, 0xfee00d00));
        uint64_t before = rdmsr(d, 0x1b);
        assert_int_equal(dp_lapic_msr_write(d, 0x1b, 0xfee00100 | step[i].to), step[i].legal);
        assert_int_equal(rdmsr(d, 0x1b), step[i].legal ? 0xfee00100 | step[i].to : before);
        if (step[i].legal && step[i].to == OFF)
            assert_int_equal(dp_lapic_tpr_read(d), 0);
        if (step[i].from != OFF && step[i].to == X2APIC)
            assert_int_equal(rdmsr(d, 0x808), 0x50);
        apic_world_fini(&w);
    }
    WORLD(NULL);
    assert_false(dp_lapic_msr_write(w.cpu[0], 0x1b, 0xfee00a00)); /* reserved bits */
    assert_false(dp_lapic_msr_write(w.cpu[0], 0x1b, 0xfee00801));
    assert_false(dp_lapic_msr_write(w.cpu[0], 0x1b, 1ull << 40 | 0xfee00800));
    assert_true(dp_lapic_msr_write(w.cpu[0], 0x1b, 0x1234567800));
    assert_true(dp_lapic_msr_write(w.cpu[0], 0x1b, 0));
    assert_int_equal(dp_lapic_read(w.cpu[0], 0x20, 4), 0xffffffff);
    dp_lapic_write(w.cpu[0], 0xf0, 0x1ff, 4);
    dp_apic_bus_msi(&w.bus, 0xfee00000, 0x400);
    assert_int_equal(w.note[0].nmi, 0);
    apic_world_fini(&w);
}

static void x2apic(void **state)
{
    WORLD(NULL);
    struct dp_device *d = w.cpu[3];
    uint64_t v;
    assert_false(dp_lapic_msr_read(d, 0x802, &v)); /* not yet */
    assert_false(dp_lapic_msr_write(d, 0x80b, 0));
    for (unsigned i = 0; i < WORLD_CPUS; i++) {
        enable(w.cpu[i]);
        enter_x2apic(w.cpu[i]);
    }
    assert_int_equal(dp_lapic_read(d, 0x30, 4), 0xffffffff); /* the page is gone */
    assert_int_equal(rdmsr(d, 0x802), 3);
    assert_int_equal(rdmsr(d, 0x80d), 8);
    assert_int_equal(rdmsr(d, 0x803), 0x01050014);
    /* Which of the 256 can be read, and written with zero and with ones. */
    for (uint32_t reg = 0; reg < 0x100; reg++) {
        bool array = reg >= 0x10 && reg < 0x28, lvt = reg >= 0x32 && reg < 0x38;
        bool readable = array || lvt || reg == 2 || reg == 3 || reg == 8 || reg == 0xa || reg == 0xd || reg == 0xf || reg == 0x28 ||
                        reg == 0x30 || reg == 0x38 || reg == 0x39 || reg == 0x3e;
        bool writable =
            lvt || reg == 8 || reg == 0xb || reg == 0xf || reg == 0x28 || reg == 0x30 || reg == 0x38 || reg == 0x3e || reg == 0x3f;
        assert_int_equal(dp_lapic_msr_read(d, 0x800 + reg, &v), readable);
        assert_int_equal(dp_lapic_msr_write(d, 0x800 + reg, reg == 0xf ? 0x1ff : 0), writable);
        assert_false(dp_lapic_msr_write(d, 0x800 + reg, ~0ull));
        if (reg != 0x30)
            assert_false(dp_lapic_msr_write(d, 0x800 + reg, 1ull << 32));
    }
    assert_false(dp_lapic_msr_write(d, 0x80b, 1)); /* EOI and ESR: only zero */
    assert_false(dp_lapic_msr_write(d, 0x828, 1));
    assert_false(dp_lapic_msr_write(d, 0x808, 0x100));
    assert_false(dp_lapic_msr_write(d, 0x83f, 0x100));
    assert_false(dp_lapic_msr_write(d, 0x83e, 0x4));
    assert_false(dp_lapic_msr_write(d, 0x830, 1 << 13));
    assert_false(dp_lapic_msr_write(d, 0x830, 1 << 20));
    assert_false(dp_lapic_msr_write(d, 0x830, 1 << 16));
    assert_true(dp_lapic_msr_write(d, 0x835, 0x1f7ff)); /* read-only bits may be written */
    assert_false(dp_lapic_msr_read(d, 0x900, &v));
    assert_false(dp_lapic_msr_read(d, 0x1c, &v));
    dp_lapic_msr_write(d, 0x828, 0); /* the vectors of zero above were errors */
    dp_lapic_msr_write(d, 0x828, 0);
    assert_int_equal(rdmsr(d, 0x828), 0);
    /* Messages. EOI by MSR from here on. */
    assert_true(dp_lapic_msr_write(d, 0x83f, 0x61));
    assert_int_equal(take(&w, 3), 0x61);
    assert_true(dp_lapic_msr_write(d, 0x80b, 0));
    assert_int_equal(rdmsr(d, 0x813), 0);
    assert_true(dp_lapic_msr_write(d, 0x830, 1ull << 32 | 0x4062));
    assert_int_equal(rdmsr(d, 0x830), 1ull << 32 | 0x4062);
    assert_int_equal(take(&w, 1), 0x62);
    assert_true(dp_lapic_msr_write(d, 0x830, 0x0000000500000000 | 0x4863)); /* logical: members 0 and 2 of cluster 0 */
    assert_int_equal(take(&w, 0), 0x63);
    assert_int_equal(take(&w, 1), -1);
    assert_int_equal(take(&w, 2), 0x63);
    assert_true(dp_lapic_msr_write(d, 0x830, 0x0001000500000000 | 0x4874)); /* cluster 1 is empty */
    assert_int_equal(take(&w, 0), -1);
    assert_true(dp_lapic_msr_write(d, 0x830, 0xffffffff00000000 | 0x4074));
    for (unsigned i = 0; i < WORLD_CPUS; i++)
        assert_int_equal(take(&w, i), 0x74);
    assert_true(dp_lapic_msr_write(d, 0x830, 0x000000ff00000000 | 0x4084)); /* 0xff is one APIC here */
    assert_int_equal(take(&w, 0), -1);
    /* Eight-bit destinations still reach them. */
    dp_apic_bus_msi(&w.bus, 0xfee02000, 0x0095);
    assert_int_equal(take(&w, 2), 0x95);
    dp_apic_bus_msi(&w.bus, 0xfee06004, 0x00a5);
    assert_int_equal(take(&w, 0), -1);
    assert_int_equal(take(&w, 1), 0xa5);
    assert_int_equal(take(&w, 2), 0xa5);
    dp_apic_bus_msi(&w.bus, 0xfeeff000, 0x00b5);
    for (unsigned i = 0; i < WORLD_CPUS; i++)
        assert_int_equal(take(&w, i), 0xb5);
    /* INIT keeps the mode. */
    assert_true(dp_lapic_msr_write(w.cpu[0], 0x830, 3ull << 32 | 0x4500));
    assert_int_equal(rdmsr(d, 0x80f), 0xff);
    assert_int_equal(rdmsr(d, 0x802), 3);
    apic_world_fini(&w);
}

static void access_sizes(void **state)
{
    WORLD(NULL);
    struct dp_device *d = w.cpu[2];
    assert_int_equal(dp_lapic_read(d, 0x20, 4), 0x02000000);
    assert_int_equal(dp_lapic_read(d, 0x23, 1), 0x02);
    assert_int_equal(dp_lapic_read(d, 0x22, 2), 0x0200);
    assert_int_equal(dp_lapic_read(d, 0x20, 8), 0x02000000);
    assert_int_equal(dp_lapic_read(d, 0x24, 4), 0);
    dp_lapic_write(d, 0x80, 0x11, 1);
    dp_lapic_write(d, 0x84, 0x11, 4);
    dp_lapic_write(d, 0x1080, 0x11, 4);
    assert_int_equal(dp_lapic_tpr_read(d), 0);
    dp_lapic_write(d, 0x80, 0xffffffff00000011, 8);
    assert_int_equal(dp_lapic_tpr_read(d), 0x11);
    apic_world_fini(&w);
}

static void messages(void **state)
{
    WORLD(NULL);
    enable_all(&w);
    for (unsigned i = 0; i < WORLD_CPUS; i++)
        wr(w.cpu[i], 0xd0, 1u << (24 + i));
    dp_apic_bus_msi(&w.bus, 0xfee03000, 0x0041);
    assert_int_equal(who(&w, 0x41), 8);
    dp_apic_bus_msi(&w.bus, 0xfee0500c, 0x0042); /* logical with redirection hint: one of them */
    unsigned one = who(&w, 0x42);
    assert_true(one == 1 || one == 4);
    dp_apic_bus_msi(&w.bus, 0xfee05004, 0x0042);
    assert_int_equal(who(&w, 0x42), 5);
    dp_apic_bus_msi(&w.bus, 0xfee01000, 0x8043); /* level de-assert */
    assert_int_equal(who(&w, 0x43), 0);
    dp_apic_bus_msi(&w.bus, 0xfee01000, 0xc043);
    assert_int_equal(take(&w, 1), 0x43);
    assert_int_equal(rd(w.cpu[1], 0x1a0), 1 << 3);
    eoi(w.cpu[1]);
    dp_apic_bus_msi(&w.bus, 0xfee01000, 0x0043);
    assert_int_equal(rd(w.cpu[1], 0x1a0), 0);
    assert_int_equal(who(&w, 0x43), 2);
    dp_apic_bus_msi(&w.bus, 0xfef01000, 0x0043);
    dp_apic_bus_msi(&w.bus, 0x1fee01000, 0x0043);
    dp_apic_bus_msi(&w.bus, 0xfee01000, 0x0343); /* reserved mode */
    assert_int_equal(who(&w, 0x43), 0);
    dp_apic_bus_msi(&w.bus, 0xfee01000, 0x0400);
    assert_int_equal(w.note[1].nmi, 1);
    apic_world_fini(&w);
}

static void saved_and_restored(void **state)
{
    WORLD(NULL);
    struct dp_device *d = w.cpu[0];
    struct dp_buffer b = {0};
    struct dp_error e = {0};
    enable(d);
    wr(d, 0x320, 0x200ec);
    wr(d, 0x3e0, 0xb);
    wr(d, 0x380, 1000000);
    ipi(d, 0, 0x4055);
    advance(&w, 300000);
    for (unsigned i = 0; i < WORLD_CPUS; i++)
        dp_device_pause(w.cpu[i]);
    dp_device_save(d, &b);
    dp_device_reset(d);
    assert_int_equal(w.note[0].intr, 0);
    assert_ok(dp_device_load(d, b.data, b.size, NULL, &e), e);
    assert_int_equal(w.note[0].intr, 1);         /* the line is driven again */
    dp_apic_bus_msi(&w.bus, 0xfee00000, 0x0056); /* input is held while paused */
    dp_device_resume(d);
    expect(&w, 0, 0x56);
    expect(&w, 0, 0x55);
    advance(&w, 699999);
    expect(&w, 0, -1);
    advance(&w, 1);
    expect(&w, 0, 0xec);
    dp_buffer_fini(&b);
    apic_world_fini(&w);
}

/* ---- races: three threads send, one processor serves; nothing may get lost ---- */

#define RACE_MESSAGES 20000
struct race {
    struct apic_world *w;
    atomic_uint served[3];
    atomic_bool stop;
    unsigned me;
};
struct sender {
    struct race *race;
    unsigned n;
};

static void *race_send(void *opaque)
{
    struct sender *s = opaque;
    for (unsigned i = 1; i <= RACE_MESSAGES; i++) {
        dp_apic_bus_msi(&s->race->w->bus, 0xfee00000, 0x40 + 0x20 * s->n);
        while (atomic_load(&s->race->served[s->n]) < i)
            sched_yield();
    }
    return NULL;
}

/* Looks only at the line, as an engine does. */
static void *race_serve(void *opaque)
{
    struct race *r = opaque;
    struct dp_device *d = r->w->cpu[0];
    unsigned turn = 0;
    while (!atomic_load(&r->stop)) {
        if (!atomic_load(&r->w->note[0].intr)) {
            sched_yield();
            continue;
        }
        int v = dp_lapic_interrupt_ack(d);
        if (v < 0)
            continue;
        if (++turn % 7 == 0) {
            dp_lapic_tpr_write(d, 0xf0);
            dp_lapic_tpr_write(d, 0);
        }
        eoi(d);
        atomic_fetch_add(&r->served[(v - 0x40) / 0x20], 1);
    }
    return NULL;
}

static void races(void **state)
{
    WORLD(NULL);
    struct race r = {.w = &w};
    struct sender s[3];
    pthread_t server, sender[3];
    enable(w.cpu[0]);
    pthread_create(&server, NULL, race_serve, &r);
    for (unsigned i = 0; i < 3; i++) {
        s[i] = (struct sender){&r, i};
        pthread_create(&sender[i], NULL, race_send, &s[i]);
    }
    for (unsigned i = 0; i < 3; i++)
        pthread_join(sender[i], NULL);
    atomic_store(&r.stop, true);
    pthread_join(server, NULL);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(r.served[i], RACE_MESSAGES);
    apic_world_fini(&w);
}

/* ---- hammer and conformance ---- */

static uint64_t clock_tsc(void *opaque) { return dp_clock_now(opaque) * 5 / 2; }

static uint64_t poke(struct dp_device *d, struct dp_random *r)
{
    uint64_t pick = dp_random_next(r), value = dp_random_next(r), out = 0;
    uint32_t msr = pick >> 40 & 7 ? 0x800 + (pick >> 16 & 0x3f) : pick >> 43 & 1 ? 0x1b : 0x6e0;
    if (pick >> 44 & 1)
        value &= 0xffff;
    if (msr == 0x1b)
        value = (value & 0xd00) | 0xfee00000;
    switch (pick % 12) {
    case 0:
    case 1:
        return dp_lapic_read(d, pick >> 16 & 0x3ff, 1u << (pick >> 32 & 3));
    case 2:
    case 3:
        dp_lapic_write(d, pick >> 16 & 0x3f0, value, 4);
        return 0;
    case 4:
        return dp_lapic_msr_read(d, msr, &out) + out * 2;
    case 5:
        return dp_lapic_msr_write(d, msr, value);
    case 6:
        return dp_lapic_interrupt_ack(d);
    case 7:
        dp_lapic_tpr_write(d, value);
        return 0;
    case 8:
        dp_lapic_lint(d, value & 1, value & 2);
        return 0;
    case 9:
        dp_lapic_write(d, 0xf0, 0x1ff, 4);
        return 0;
    case 10:
        dp_lapic_write(d, 0x300, 0x44000 | (value & 0xff), 4);
        return 0;
    default:
        return dp_lapic_interrupt_pending(d) | dp_lapic_tpr_read(d) << 1;
    }
}

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_lapic_class, "lapic0", env);
    const struct dp_lapic_wires wires = {.id = 5, .bsp = true, .tsc = clock_tsc, .tsc_opaque = env->clock, .tsc_khz = 2500000};
    dp_lapic_wire(d, &wires);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make, .poke = poke};
    conformance_check(&c);
}

static void hammer(void **state)
{
    struct dp_random r;
    WORLD(NULL);
    dp_random_seed(&r, 7);
    for (unsigned i = 0; i < 100000; i++) {
        unsigned n = dp_random_next(&r) % WORLD_CPUS;
        uint64_t v = dp_random_next(&r);
        if (v % 16 == 0)
            dp_apic_bus_msi(&w.bus, 0xfee00000 | (v >> 8 & 0xfffff), (uint32_t)(v >> 32));
        else if (v % 16 == 1)
            dp_lapic_msr_write(w.cpu[n], 0x1b, 0xfee00000 | (v >> 8 & 0xd00));
        else
            poke(w.cpu[n], &r);
        if (v % 64 == 2)
            advance(&w, v >> 8 & 0xffff);
        /* The line is the truth at every rest. */
        assert_int_equal(w.note[n].intr, dp_lapic_interrupt_pending(w.cpu[n]));
    }
    apic_world_fini(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(after_reset),
        cmocka_unit_test(virtual_wire),
        cmocka_unit_test(priorities),
        cmocka_unit_test(destinations),
        cmocka_unit_test(lowest_priority),
        cmocka_unit_test(signals),
        cmocka_unit_test(errors),
        cmocka_unit_test(local_vectors),
        cmocka_unit_test(external_interrupts),
        cmocka_unit_test(timer_one_shot),
        cmocka_unit_test(timer_periodic),
        cmocka_unit_test(timer_deadline),
        cmocka_unit_test(base_transitions),
        cmocka_unit_test(x2apic),
        cmocka_unit_test(access_sizes),
        cmocka_unit_test(messages),
        cmocka_unit_test(saved_and_restored),
        cmocka_unit_test(races),
        cmocka_unit_test(conformance),
        cmocka_unit_test(hammer),
    };
    return cmocka_run_group_tests_name("lapic", tests, NULL, NULL);
}
