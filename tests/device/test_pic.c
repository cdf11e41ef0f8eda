/* test_pic.c - the 8259 pair: initialisation, priorities, all EOI commands, poll, ELCR, spurious requests, the way into a local APIC. */
#include "devices/intc/lapic.h"
#include "devices/intc/pic.h"
#include "tests/device/conformance.h"

struct pic_world {
    struct conformance_world base;
    struct dp_device *pic;
    bool intr;
};

static void set_intr(void *opaque, unsigned n, bool level) { ((struct pic_world *)opaque)->intr = level; }

static void out8(struct pic_world *w, unsigned port, uint8_t v) { dp_space_store(w->base.env.ports, port, v, 1); }
static uint8_t in8(struct pic_world *w, unsigned port) { return dp_space_load(w->base.env.ports, port, 1); }

/* As a PC does it: vectors 0x20 and 0x28; icw4 1 is 8086 mode. */
static void program(struct pic_world *w, uint8_t icw4)
{
    out8(w, 0x20, 0x11);
    out8(w, 0x21, 0x20);
    out8(w, 0x21, 0x04);
    out8(w, 0x21, icw4);
    out8(w, 0xa0, 0x11);
    out8(w, 0xa1, 0x28);
    out8(w, 0xa1, 0x02);
    out8(w, 0xa1, icw4 & ~0x10);
}

static void setup(struct pic_world *w)
{
    struct dp_error e = {0};
    memset(w, 0, sizeof(*w));
    conformance_world_init(&w->base);
    w->pic = dp_device_alloc(&dp_pic_class, "pic", &w->base.env);
    dp_pic_wire(w->pic, (struct dp_irq){set_intr, w, 0});
    assert_ok(dp_device_init(w->pic, &e), e);
    assert_ok(dp_device_map(w->pic, DP_PIC_WINDOW_MASTER, 0x20, &e), e);
    assert_ok(dp_device_map(w->pic, DP_PIC_WINDOW_SLAVE, 0xa0, &e), e);
    assert_ok(dp_device_map(w->pic, DP_PIC_WINDOW_ELCR, 0x4d0, &e), e);
    dp_device_resume(w->pic);
    program(w, 1);
}

static void teardown(struct pic_world *w)
{
    dp_device_free(w->pic);
    conformance_world_fini(&w->base);
}

#define WORLD                                                                                                                              \
    struct pic_world w;                                                                                                                    \
    setup(&w)

static void raise_irq(struct pic_world *w, unsigned n) { dp_pic_input(w->pic, n, true); }
static void lower_irq(struct pic_world *w, unsigned n) { dp_pic_input(w->pic, n, false); }
static int ack(struct pic_world *w)
{
    assert_true(w->intr);
    return dp_pic_ack(w->pic);
}
static uint8_t isr(struct pic_world *w, unsigned port)
{
    out8(w, port, 0x0b);
    uint8_t v = in8(w, port);
    out8(w, port, 0x0a);
    return v;
}

static void priorities(void **state)
{
    WORLD;
    raise_irq(&w, 5);
    raise_irq(&w, 3);
    assert_int_equal(in8(&w, 0x20), 0x28);
    assert_int_equal(ack(&w), 0x23);
    assert_int_equal(isr(&w, 0x20), 0x08);
    assert_int_equal(in8(&w, 0x20), 0x20);
    assert_false(w.intr); /* 5 waits for the end of 3 */
    raise_irq(&w, 1);
    assert_int_equal(ack(&w), 0x21);
    out8(&w, 0x20, 0x20);
    assert_int_equal(isr(&w, 0x20), 0x08);
    assert_false(w.intr);
    out8(&w, 0x20, 0x63); /* specific */
    assert_int_equal(ack(&w), 0x25);
    out8(&w, 0x20, 0x20);
    assert_false(w.intr);
    /* Edges: a level that stays up is one request. */
    assert_int_equal(in8(&w, 0x20), 0);
    lower_irq(&w, 5);
    raise_irq(&w, 5);
    out8(&w, 0x21, 0x20);
    assert_false(w.intr);
    assert_int_equal(in8(&w, 0x21), 0x20);
    out8(&w, 0x21, 0);
    assert_int_equal(ack(&w), 0x25);
    out8(&w, 0x20, 0x20);
    teardown(&w);
}

static void cascade(void **state)
{
    WORLD;
    raise_irq(&w, 12);
    assert_int_equal(in8(&w, 0x20), 0x04);
    assert_int_equal(ack(&w), 0x2c);
    assert_int_equal(isr(&w, 0x20), 0x04);
    assert_int_equal(isr(&w, 0xa0), 0x10);
    raise_irq(&w, 8); /* higher in the slave, but the master is busy with input 2 */
    assert_false(w.intr);
    raise_irq(&w, 1);
    assert_int_equal(ack(&w), 0x21);
    out8(&w, 0x20, 0x20);
    out8(&w, 0x20, 0x20);
    assert_int_equal(ack(&w), 0x28);
    out8(&w, 0xa0, 0x20);
    out8(&w, 0x20, 0x20);
    assert_int_equal(isr(&w, 0xa0), 0x10);
    /* More requests of the slave each make a new edge at the master. */
    raise_irq(&w, 14);
    raise_irq(&w, 15);
    out8(&w, 0xa0, 0x20);
    assert_int_equal(ack(&w), 0x2e);
    out8(&w, 0xa0, 0x20);
    out8(&w, 0x20, 0x20);
    assert_int_equal(ack(&w), 0x2f);
    dp_pic_input(w.pic, 2, true); /* not an input */
    dp_pic_input(w.pic, 16, true);
    /* Special fully nested: the slave may interrupt itself. */
    program(&w, 0x11);
    lower_irq(&w, 12);
    lower_irq(&w, 8);
    raise_irq(&w, 12);
    assert_int_equal(ack(&w), 0x2c);
    raise_irq(&w, 8);
    assert_int_equal(ack(&w), 0x28);
    teardown(&w);
}

static void rotation(void **state)
{
    WORLD;
    out8(&w, 0x20, 0xc3); /* lowest priority: 3, so 4 is highest */
    raise_irq(&w, 0);
    raise_irq(&w, 4);
    raise_irq(&w, 3);
    assert_int_equal(ack(&w), 0x24);
    out8(&w, 0x20, 0xa0); /* rotate on EOI: now 5 first */
    assert_int_equal(ack(&w), 0x20);
    out8(&w, 0x20, 0xe0); /* rotate on specific EOI of 0: now 1 first */
    raise_irq(&w, 1);
    assert_int_equal(ack(&w), 0x21);
    out8(&w, 0x20, 0x20);
    assert_int_equal(ack(&w), 0x23);
    out8(&w, 0x20, 0x40); /* no operation */
    assert_int_equal(isr(&w, 0x20), 0x08);
    /* Automatic EOI, with and without rotation. */
    program(&w, 3);
    for (unsigned i = 0; i < 8; i++)
        lower_irq(&w, i);
    raise_irq(&w, 3);
    raise_irq(&w, 6);
    assert_int_equal(ack(&w), 0x23);
    assert_int_equal(isr(&w, 0x20), 0);
    assert_int_equal(ack(&w), 0x26);
    out8(&w, 0x20, 0x80);
    lower_irq(&w, 3);
    lower_irq(&w, 6);
    raise_irq(&w, 3);
    assert_int_equal(ack(&w), 0x23); /* now 4 first */
    lower_irq(&w, 3);
    raise_irq(&w, 3);
    raise_irq(&w, 6);
    assert_int_equal(ack(&w), 0x26);
    assert_int_equal(ack(&w), 0x23);
    out8(&w, 0x20, 0x00);
    lower_irq(&w, 6);
    raise_irq(&w, 6);
    lower_irq(&w, 5);
    raise_irq(&w, 5);
    assert_int_equal(ack(&w), 0x25); /* 4 still first */
    assert_int_equal(ack(&w), 0x26);
    teardown(&w);
}

static void special_mask(void **state)
{
    WORLD;
    raise_irq(&w, 1);
    assert_int_equal(ack(&w), 0x21);
    raise_irq(&w, 6);
    assert_false(w.intr);
    out8(&w, 0x21, 0x02); /* mask what is in service: lower ones still wait ... */
    assert_false(w.intr);
    out8(&w, 0x20, 0x68); /* ... until special mask mode */
    assert_int_equal(ack(&w), 0x26);
    out8(&w, 0x20, 0x20); /* non-specific EOI passes the masked one over */
    assert_int_equal(isr(&w, 0x20), 0x02);
    out8(&w, 0x20, 0x48);
    out8(&w, 0x20, 0x61);
    assert_int_equal(isr(&w, 0x20), 0);
    teardown(&w);
}

static void poll(void **state)
{
    WORLD;
    raise_irq(&w, 6);
    raise_irq(&w, 9);
    out8(&w, 0x20, 0x0c);
    assert_int_equal(in8(&w, 0x20), 0x82); /* the cascade is the highest */
    out8(&w, 0xa0, 0x0c);
    assert_int_equal(in8(&w, 0xa1), 0x81); /* either port */
    assert_int_equal(isr(&w, 0xa0), 0x02);
    out8(&w, 0xa0, 0x0c);
    assert_int_equal(in8(&w, 0xa0), 0);
    assert_int_equal(in8(&w, 0xa1), 0); /* the mask again */
    out8(&w, 0x20, 0x20);
    assert_int_equal(ack(&w), 0x26);
    teardown(&w);
}

static void spurious(void **state)
{
    WORLD;
    raise_irq(&w, 4);
    lower_irq(&w, 4); /* gone before the acknowledge */
    assert_false(w.intr);
    assert_int_equal(dp_pic_ack(w.pic), 0x27);
    assert_int_equal(isr(&w, 0x20), 0);
    /* Slave: its request vanishes while the master's latch is being served. */
    out8(&w, 0x4d1, 0x02);
    raise_irq(&w, 9);
    lower_irq(&w, 9);
    assert_int_equal(dp_pic_ack(w.pic), 0x27);
    teardown(&w);
}

static void levels(void **state)
{
    WORLD;
    out8(&w, 0x4d0, 0xff);
    out8(&w, 0x4d1, 0xff);
    assert_int_equal(in8(&w, 0x4d0), 0xf8);
    assert_int_equal(in8(&w, 0x4d1), 0xde);
    raise_irq(&w, 5);
    assert_int_equal(ack(&w), 0x25);
    out8(&w, 0x20, 0x20);
    assert_int_equal(ack(&w), 0x25); /* still asserted */
    lower_irq(&w, 5);
    out8(&w, 0x20, 0x20);
    assert_false(w.intr);
    raise_irq(&w, 10);
    assert_int_equal(ack(&w), 0x2a);
    out8(&w, 0xa0, 0x20);
    out8(&w, 0x20, 0x20);
    assert_int_equal(ack(&w), 0x2a);
    lower_irq(&w, 10);
    out8(&w, 0xa0, 0x20);
    out8(&w, 0x20, 0x20);
    assert_false(w.intr);
    raise_irq(&w, 10); /* ICW1 forgets edges, not levels */
    raise_irq(&w, 1);
    program(&w, 1);
    assert_int_equal(ack(&w), 0x2a);
    out8(&w, 0xa0, 0x20);
    out8(&w, 0x20, 0x20);
    lower_irq(&w, 10);
    assert_false(w.intr);
    teardown(&w);
}

static void initialisation(void **state)
{
    WORLD;
    out8(&w, 0x21, 0x55);
    out8(&w, 0x20, 0x12); /* single, no ICW4: one more word */
    assert_int_equal(in8(&w, 0x21), 0);
    out8(&w, 0x21, 0x7f);
    out8(&w, 0x21, 0xaa); /* a mask already */
    assert_int_equal(in8(&w, 0x21), 0xaa);
    raise_irq(&w, 0);
    assert_int_equal(ack(&w), 0x78);
    out8(&w, 0x20, 0x10); /* cascaded, no ICW4: two */
    out8(&w, 0x21, 0x40);
    out8(&w, 0x21, 0x04);
    out8(&w, 0x21, 0x0f);
    assert_int_equal(in8(&w, 0x21), 0x0f);
    teardown(&w);
}

/* ---- into the processor through LINT0 ---- */

static atomic_int cpu_line;
static void line(void *opaque, enum dp_lapic_line l, unsigned value)
{
    if (l == DP_LAPIC_INTR)
        atomic_store((atomic_int *)opaque, value);
}

static void virtual_wire(void **state)
{
    WORLD;
    struct dp_error e = {0};
    struct dp_apic_bus bus = {0};
    struct dp_device *lapic = dp_device_alloc(&dp_lapic_class, "lapic", &w.base.env);
    const struct dp_lapic_wires wires = {
        .bus = &bus,
        .cpu = {line, &cpu_line},
        .bsp = true,
        .virtual_wire = true,
        .pic_ack = dp_pic_ack,
        .pic_opaque = w.pic,
    };
    dp_lapic_wire(lapic, &wires);
    assert_ok(dp_device_init(lapic, &e), e);
    dp_device_resume(lapic);
    dp_pic_wire(w.pic, (struct dp_irq){dp_lapic_lint, lapic, 0});
    raise_irq(&w, 0);
    raise_irq(&w, 8);
    assert_int_equal(cpu_line, 1);
    assert_int_equal(dp_lapic_interrupt_ack(lapic), 0x20);
    assert_int_equal(cpu_line, 0);
    out8(&w, 0x20, 0x20);
    assert_int_equal(cpu_line, 1);
    assert_int_equal(dp_lapic_interrupt_ack(lapic), 0x28);
    assert_int_equal(cpu_line, 0);
    assert_int_equal(dp_lapic_interrupt_ack(lapic), -1);
    dp_pic_wire(w.pic, (struct dp_irq){0});
    dp_device_free(lapic);
    teardown(&w);
}

static uint64_t poke(struct dp_device *d, struct dp_random *r)
{
    uint64_t v = dp_random_next(r);
    if (v % 3 == 0)
        return dp_pic_ack(d);
    dp_pic_input(d, v >> 8 & 31, v >> 16 & 1);
    return 0;
}

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_pic_class, "pic0", env);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make, .poke = poke, .rounds = 200};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(priorities),   cmocka_unit_test(cascade),     cmocka_unit_test(rotation), cmocka_unit_test(special_mask),
        cmocka_unit_test(poll),         cmocka_unit_test(spurious),    cmocka_unit_test(levels),   cmocka_unit_test(initialisation),
        cmocka_unit_test(virtual_wire), cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("pic", tests, NULL, NULL);
}
