/* test_ioapic.c - redirection, level and edge pins, EOI from the processors' broadcast and by register, GSI routing. */
#include <sched.h>

#include "devices/intc/gsi.h"
#include "devices/intc/ioapic.h"
#include "devices/intc/pic.h"
#include "tests/device/apic_world.h"

struct io_world {
    struct apic_world w;
    struct dp_device *io;
};

static struct dp_device *make_on(const struct dp_device_env *env, struct dp_apic_bus *bus)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_ioapic_class, "ioapic0", env);
    dp_ioapic_wire(d, bus, 3);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void setup(struct io_world *x)
{
    struct dp_error e = {0};
    apic_world_init(&x->w, NULL);
    enable_all(&x->w);
    x->io = make_on(&x->w.base.env, &x->w.bus);
    assert_ok(dp_device_map(x->io, DP_IOAPIC_WINDOW, DP_IOAPIC_DEFAULT_BASE, &e), e);
    dp_device_resume(x->io);
}

static void teardown(struct io_world *x)
{
    dp_device_free(x->io);
    assert_null(x->w.bus.eoi);
    apic_world_fini(&x->w);
}

static uint32_t io_read(struct io_world *x, unsigned reg)
{
    dp_space_store(x->w.base.env.memory, DP_IOAPIC_DEFAULT_BASE, reg, 4);
    return dp_space_load(x->w.base.env.memory, DP_IOAPIC_DEFAULT_BASE + 0x10, 4);
}

static void io_write(struct io_world *x, unsigned reg, uint32_t value)
{
    dp_space_store(x->w.base.env.memory, DP_IOAPIC_DEFAULT_BASE, reg, 4);
    dp_space_store(x->w.base.env.memory, DP_IOAPIC_DEFAULT_BASE + 0x10, value, 4);
}

static void route(struct io_world *x, unsigned pin, uint8_t destination, uint32_t low)
{
    io_write(x, 0x11 + 2 * pin, (uint32_t)destination << 24);
    io_write(x, 0x10 + 2 * pin, low);
}

#define WORLD                                                                                                                              \
    struct io_world x;                                                                                                                     \
    setup(&x)
#define REMOTE_IRR 0x4000u

static void registers(void **state)
{
    WORLD;
    assert_int_equal(io_read(&x, 0), 3 << 24);
    assert_int_equal(io_read(&x, 1), 0x00170020);
    assert_int_equal(io_read(&x, 2), 3 << 24);
    io_write(&x, 0, 0xffffffff);
    assert_int_equal(io_read(&x, 0), 0x0f000000);
    for (unsigned i = 0; i < DP_IOAPIC_PINS; i++) {
        assert_int_equal(io_read(&x, 0x10 + 2 * i), 0x10000);
        assert_int_equal(io_read(&x, 0x11 + 2 * i), 0);
        io_write(&x, 0x10 + 2 * i, 0xffffffff);
        io_write(&x, 0x11 + 2 * i, 0xffffffff);
        assert_int_equal(io_read(&x, 0x10 + 2 * i), 0x1afff);
        assert_int_equal(io_read(&x, 0x11 + 2 * i), 0xff000000);
    }
    assert_int_equal(io_read(&x, 0x40), 0);
    assert_int_equal(io_read(&x, 0xff), 0);
    io_write(&x, 0xff, 0xffffffff);
    assert_int_equal(dp_space_load(x.w.base.env.memory, DP_IOAPIC_DEFAULT_BASE, 1), 0xff);
    assert_int_equal(dp_space_load(x.w.base.env.memory, DP_IOAPIC_DEFAULT_BASE + 0x20, 4), 0);
    teardown(&x);
}

static void edges(void **state)
{
    WORLD;
    route(&x, 4, 1, 0x00054);
    dp_ioapic_input(x.io, 4, true);
    dp_ioapic_input(x.io, 4, true);
    assert_int_equal(io_read(&x, 0x18) & REMOTE_IRR, 0);
    expect(&x.w, 1, 0x54);
    expect(&x.w, 1, -1);
    dp_ioapic_input(x.io, 4, false);
    dp_ioapic_input(x.io, 4, true);
    dp_ioapic_input(x.io, 4, false);
    expect(&x.w, 1, 0x54);
    route(&x, 4, 1, 0x10054); /* an edge while masked is lost */
    dp_ioapic_input(x.io, 4, true);
    route(&x, 4, 1, 0x00054);
    expect(&x.w, 1, -1);
    dp_ioapic_input(x.io, 4, false);
    dp_ioapic_input(x.io, 4, true);
    expect(&x.w, 1, 0x54);
    /* Other modes: NMI, lowest priority, logical destination. */
    route(&x, 5, 2, 0x00400);
    dp_ioapic_input(x.io, 5, true);
    assert_int_equal(x.w.note[2].nmi, 1);
    wr(x.w.cpu[3], 0xd0, 0x08000000);
    route(&x, 6, 8, 0x00956);
    dp_ioapic_input(x.io, 6, true);
    expect(&x.w, 3, 0x56);
    dp_ioapic_input(x.io, 24, true); /* no such pin */
    teardown(&x);
}

static void levels(void **state)
{
    WORLD;
    route(&x, 16, 0, 0x0a060); /* level, "active low": inputs are logical */
    dp_ioapic_input(x.io, 16, true);
    assert_int_equal(io_read(&x, 0x30), 0x0e060);
    assert_int_equal(take(&x.w, 0), 0x60);
    dp_ioapic_input(x.io, 16, true); /* a second device joins: nothing new */
    assert_int_equal(rd(x.w.cpu[0], 0x230), 0);
    eoi(x.w.cpu[0]); /* still asserted: again */
    assert_int_equal(take(&x.w, 0), 0x60);
    dp_ioapic_input(x.io, 16, false);
    eoi(x.w.cpu[0]);
    expect(&x.w, 0, -1);
    assert_int_equal(io_read(&x, 0x30), 0x0a060);
    /* Masked while asserted, then unmasked. */
    route(&x, 16, 0, 0x1a060);
    dp_ioapic_input(x.io, 16, true);
    expect(&x.w, 0, -1);
    route(&x, 16, 0, 0x0a060);
    assert_int_equal(take(&x.w, 0), 0x60);
    /* Masked in service: the EOI clears remote IRR and sends nothing. */
    io_write(&x, 0x30, 0x1a060);
    eoi(x.w.cpu[0]);
    assert_int_equal(io_read(&x, 0x30), 0x1a060);
    io_write(&x, 0x30, 0x0a060);
    assert_int_equal(take(&x.w, 0), 0x60);
    /* To edge and back clears a stuck remote IRR. */
    io_write(&x, 0x30, 0x12060);
    assert_int_equal(io_read(&x, 0x30), 0x12060);
    io_write(&x, 0x30, 0x1a060);
    dp_ioapic_input(x.io, 16, false);
    eoi(x.w.cpu[0]);
    /* Two pins with one vector: one EOI for both. */
    route(&x, 16, 0, 0x08061);
    route(&x, 17, 0, 0x08061);
    dp_ioapic_input(x.io, 16, true);
    dp_ioapic_input(x.io, 17, true);
    assert_int_equal(take(&x.w, 0), 0x61);
    dp_ioapic_input(x.io, 16, false);
    eoi(x.w.cpu[0]);
    assert_int_equal(take(&x.w, 0), 0x61);
    assert_int_equal(io_read(&x, 0x30), 0x08061);
    assert_int_equal(io_read(&x, 0x32), 0x0c061);
    dp_ioapic_input(x.io, 17, false);
    eoi(x.w.cpu[0]);
    /* The EOI of an edge interrupt with the same vector is not broadcast. */
    dp_ioapic_input(x.io, 16, true);
    assert_int_equal(take(&x.w, 0), 0x61);
    ipi(x.w.cpu[0], 0, 0x4081);
    assert_int_equal(take(&x.w, 0), 0x81);
    eoi(x.w.cpu[0]);
    assert_int_equal(io_read(&x, 0x30), 0x0c061);
    teardown(&x);
}

static void directed_eoi(void **state)
{
    WORLD;
    struct dp_device *d = x.w.cpu[0];
    wr(d, 0xf0, 0x11ff); /* suppress broadcasts */
    assert_int_equal(rd(d, 0xf0), 0x11ff);
    route(&x, 20, 0, 0x08070);
    dp_ioapic_input(x.io, 20, true);
    assert_int_equal(take(&x.w, 0), 0x70);
    eoi(d);
    assert_int_equal(io_read(&x, 0x38), 0x0c070);
    expect(&x.w, 0, -1);
    dp_space_store(x.w.base.env.memory, DP_IOAPIC_DEFAULT_BASE + 0x40, 0x71, 4);
    assert_int_equal(io_read(&x, 0x38), 0x0c070);
    dp_space_store(x.w.base.env.memory, DP_IOAPIC_DEFAULT_BASE + 0x40, 0x70, 4);
    assert_int_equal(take(&x.w, 0), 0x70);
    dp_ioapic_input(x.io, 20, false);
    eoi(d);
    dp_space_store(x.w.base.env.memory, DP_IOAPIC_DEFAULT_BASE + 0x40, 0x70, 4);
    assert_int_equal(io_read(&x, 0x38), 0x08070);
    teardown(&x);
}

static void nobody_takes_it(void **state)
{
    WORLD;
    route(&x, 16, 9, 0x08060); /* no such processor */
    dp_ioapic_input(x.io, 16, true);
    assert_int_equal(io_read(&x, 0x30), 0x08060); /* not stuck */
    io_write(&x, 0x30, 0x18060);
    route(&x, 16, 1, 0x08005); /* illegal vector */
    assert_int_equal(io_read(&x, 0x30), 0x08005);
    route(&x, 16, 1, 0x08060);
    assert_int_equal(take(&x.w, 1), 0x60);
    teardown(&x);
}

static void paused(void **state)
{
    WORLD;
    route(&x, 16, 0, 0x08060);
    route(&x, 4, 0, 0x00054);
    dp_device_pause(x.io);
    dp_ioapic_input(x.io, 16, true);
    dp_ioapic_input(x.io, 4, true);
    expect(&x.w, 0, -1);
    dp_device_resume(x.io);
    expect(&x.w, 0, 0x60);
    assert_int_equal(take(&x.w, 0), 0x60);
    dp_ioapic_input(x.io, 16, false);
    eoi(x.w.cpu[0]);
    expect(&x.w, 0, 0x54);
    expect(&x.w, 0, -1);
    teardown(&x);
}

static void gsi_routing(void **state)
{
    WORLD;
    struct dp_error e = {0};
    struct dp_device *pic = dp_device_alloc(&dp_pic_class, "pic", &x.w.base.env);
    assert_ok(dp_device_init(pic, &e), e);
    assert_ok(dp_device_map(pic, DP_PIC_WINDOW_MASTER, 0x20, &e), e);
    assert_ok(dp_device_map(pic, DP_PIC_WINDOW_SLAVE, 0xa0, &e), e);
    struct dp_gsi_router router = {x.io, pic};
    for (unsigned n = 0; n < DP_IOAPIC_PINS; n++)
        route(&x, n, 0, 0x40 + n);
    for (unsigned n = 0; n < 40; n++) {
        struct dp_irq irq = dp_gsi_irq(&router, n);
        dp_irq_set(&irq, true);
        unsigned irr = dp_space_load(x.w.base.env.ports, 0x20, 1) | dp_space_load(x.w.base.env.ports, 0xa0, 1) << 8;
        assert_int_equal(irr & ~4u, n < 16 && n != 2 ? 1u << n : 0);
        dp_irq_set(&irq, false);
        expect(&x.w, 0, n == 0 ? 0x42 : n < 24 && n != 2 ? (int)(0x40 + n) : -1);
    }
    dp_device_free(pic);
    teardown(&x);
}

/* ---- races: a level line goes up and down in one thread while a processor serves it ---- */

#define RACE_ROUNDS 20000
struct race {
    struct io_world *x;
    atomic_uint level, served;
    atomic_bool stop;
};

static void *race_serve(void *opaque)
{
    struct race *r = opaque;
    while (!atomic_load(&r->stop)) {
        if (!atomic_load(&r->x->w.note[0].intr)) {
            sched_yield();
            continue;
        }
        if (dp_lapic_interrupt_ack(r->x->w.cpu[0]) < 0)
            continue;
        if (atomic_exchange(&r->level, 0)) { /* the device is quiet before the EOI, as drivers do it */
            dp_ioapic_input(r->x->io, 16, false);
            atomic_fetch_add(&r->served, 1);
        }
        eoi(r->x->w.cpu[0]);
    }
    return NULL;
}

static void races(void **state)
{
    WORLD;
    struct race r = {.x = &x};
    pthread_t server;
    route(&x, 16, 0, 0x08060);
    pthread_create(&server, NULL, race_serve, &r);
    for (unsigned i = 1; i <= RACE_ROUNDS; i++) {
        atomic_store(&r.level, 1);
        dp_ioapic_input(x.io, 16, true);
        while (atomic_load(&r.served) < i)
            sched_yield();
    }
    atomic_store(&r.stop, true);
    pthread_join(server, NULL);
    assert_int_equal(r.served, RACE_ROUNDS);
    teardown(&x);
}

static uint64_t poke(struct dp_device *d, struct dp_random *r)
{
    uint64_t v = dp_random_next(r);
    const struct dp_window_ops *ops = d->class->windows[0].ops;
    if (v % 3 == 0) {
        dp_ioapic_input(d, v >> 8 & 31, v >> 16 & 1);
    } else {
        ops->write(d, 0, v >> 8 & 0x3f, 4);
        if (v % 3 == 1)
            return ops->read(d, 0x10, 4);
        ops->write(d, 0x10, v >> 32, 4);
    }
    return 0;
}

static struct dp_device *make(const struct dp_device_env *env, void *opaque) { return make_on(env, NULL); }

static void conformance(void **state)
{
    const struct conformance c = {.make = make, .poke = poke};
    conformance_check(&c);
}

static void hammer(void **state)
{
    WORLD;
    struct dp_random r;
    dp_random_seed(&r, 9);
    for (unsigned i = 0; i < 100000; i++) {
        poke(x.io, &r);
        unsigned n = dp_random_next(&r) % WORLD_CPUS;
        assert_int_equal(x.w.note[n].intr, dp_lapic_interrupt_pending(x.w.cpu[n]));
        if (dp_lapic_interrupt_ack(x.w.cpu[n]) >= 0 && dp_random_next(&r) % 4)
            eoi(x.w.cpu[n]);
        if (i % 1000 == 0)
            enable_all(&x.w);
    }
    teardown(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers),       cmocka_unit_test(edges),  cmocka_unit_test(levels),      cmocka_unit_test(directed_eoi),
        cmocka_unit_test(nobody_takes_it), cmocka_unit_test(paused), cmocka_unit_test(gsi_routing), cmocka_unit_test(races),
        cmocka_unit_test(conformance),     cmocka_unit_test(hammer),
    };
    return cmocka_run_group_tests_name("ioapic", tests, NULL, NULL);
}
