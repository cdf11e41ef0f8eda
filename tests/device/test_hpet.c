/* test_hpet.c - the HPET on a manual clock: as Linux finds and uses it (one shot, periodic, legacy replacement), routes, level and edge,
 * messages, 32 and 64 bits, halting, deadlines to the nanosecond, pause, save; conformance.
 */
#include "devices/timer/hpet.h"
#include "tests/device/conformance.h"

enum { CAP = 0, CFG = 0x10, STS = 0x20, CNT = 0xf0, T0 = 0x100, CMP = 8, FSB = 16, STRIDE = 0x20 };
enum { LEVEL = 2, ENABLE = 4, PERIODIC = 8, SETVAL = 0x40, B32 = 0x100, FSB_ENABLE = 0x4000 };
#define ROUTE(n) ((uint64_t)(n) << 9)

struct rig {
    struct conformance_world w;
    struct dp_device *d;
    bool irq0, irq8, legacy, pin[DP_HPET_PINS];
    unsigned rises0, rises8, rises, messages;
    uint64_t rose_at, message[2];
    char order[64]; /* of changes with legacy: L l 0 o 8 e */
};

static void note(struct rig *r, char c)
{
    size_t n = strlen(r->order);
    if (n + 1 < sizeof(r->order))
        r->order[n] = c;
}

static void set_irq0(void *opaque, unsigned n, bool level)
{
    struct rig *r = opaque;
    assert_true(r->legacy);
    r->rises0 += level && !r->irq0;
    r->irq0 = level;
    if (level)
        r->rose_at = dp_clock_now(r->w.env.clock);
    note(r, level ? '0' : 'o');
}

static void set_irq8(void *opaque, unsigned n, bool level)
{
    struct rig *r = opaque;
    assert_true(r->legacy);
    r->rises8 += level && !r->irq8;
    r->irq8 = level;
}

static void set_legacy(void *opaque, unsigned n, bool level)
{
    struct rig *r = opaque;
    r->legacy = level;
    note(r, level ? 'L' : 'l');
}

static void set_pin(void *opaque, unsigned n, bool level)
{
    struct rig *r = opaque;
    assert_true(n >= 20 && n < 24);
    r->rises += level && !r->pin[n];
    r->pin[n] = level;
    if (level)
        r->rose_at = dp_clock_now(r->w.env.clock);
}

static void message(void *opaque, uint64_t address, uint32_t data)
{
    struct rig *r = opaque;
    r->messages++;
    r->message[0] = address;
    r->message[1] = data;
}

static struct dp_device *rig_device(struct rig *r)
{
    struct dp_error e = {0};
    struct dp_hpet_wires wires = {.irq0 = {set_irq0, r, 0}, .irq8 = {set_irq8, r, 8}, .legacy = {set_legacy, r, 0}};
    for (unsigned n = 20; n < 24; n++)
        wires.pin[n] = (struct dp_irq){set_pin, r, n};
    struct dp_device *d = dp_device_alloc(&dp_hpet_class, "hpet", &r->w.env);
    dp_hpet_wire(d, &wires);
    assert_ok(dp_device_set(d, "msi", "on", &e), e);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void rig_new(struct rig *r)
{
    struct dp_error e = {0};
    memset(r, 0, sizeof(*r));
    conformance_world_init(&r->w);
    r->w.env.msi = (struct dp_msi_sink){message, r};
    r->d = rig_device(r);
    assert_ok(dp_device_map(r->d, DP_HPET_WINDOW, DP_HPET_BASE, &e), e);
    dp_device_resume(r->d);
    dp_clock_advance(r->w.env.clock, 12345);
}

static void rig_free(struct rig *r)
{
    dp_device_free(r->d);
    conformance_world_fini(&r->w);
}

static uint32_t get(struct rig *r, unsigned reg) { return (uint32_t)dp_space_load(r->w.env.memory, DP_HPET_BASE + reg, 4); }
static uint64_t get64(struct rig *r, unsigned reg) { return dp_space_load(r->w.env.memory, DP_HPET_BASE + reg, 8); }
static void put(struct rig *r, unsigned reg, uint64_t v) { dp_space_store(r->w.env.memory, DP_HPET_BASE + reg, v, 4); }
static void put64(struct rig *r, unsigned reg, uint64_t v) { dp_space_store(r->w.env.memory, DP_HPET_BASE + reg, v, 8); }
static void advance(struct rig *r, uint64_t ns) { dp_clock_advance(r->w.env.clock, ns); }

static void linux_probe(void **state)
{
    struct rig r;
    rig_new(&r);
    /* hpet_enable: the period, rubbish detection, a counter that counts. */
    assert_int_equal(get(&r, CAP + 4), 10000000);
    assert_int_equal(get(&r, CAP), DP_HPET_BLOCK_ID);
    assert_int_equal((get(&r, CAP) >> 8 & 31) + 1, DP_HPET_TIMERS);
    assert_true(get64(&r, CAP) == (10000000ull << 32 | DP_HPET_BLOCK_ID));
    assert_int_equal(get(&r, CFG), 0);
    for (unsigned n = 0; n < 3; n++) {
        assert_int_equal(get(&r, T0 + n * STRIDE), 0x8030);
        assert_int_equal(get(&r, T0 + n * STRIDE + 4), 0x00f00000);
        assert_true(get64(&r, T0 + n * STRIDE + CMP) == UINT64_MAX);
    }
    assert_int_equal(get(&r, T0 + 3 * STRIDE), 0);
    advance(&r, 1000);
    assert_int_equal(get(&r, CNT), 0); /* held */
    put(&r, CNT, 0);
    put(&r, CNT + 4, 0);
    put(&r, CFG, 1);
    uint64_t zero = dp_clock_now(r.w.env.clock);
    advance(&r, 1009);
    assert_int_equal(get(&r, CNT), 100);
    advance(&r, 1);
    assert_int_equal(get(&r, CNT), 101);

    /* hpet_clkevt_set_state_periodic with legacy replacement, 1000 Hz: timer 0, edge. */
    put(&r, CFG, 3);
    assert_true(r.legacy);
    put(&r, T0, ENABLE | PERIODIC | SETVAL | B32 | (get(&r, T0) & ~LEVEL));
    uint32_t start = get(&r, CNT);
    put(&r, T0 + CMP, start + 100000);
    advance(&r, 1000);
    put(&r, T0 + CMP, 100000);
    assert_int_equal(get(&r, T0 + CMP), start + 100000);
    assert_int_equal(get(&r, T0) & SETVAL, 0);
    uint64_t from = dp_clock_now(r.w.env.clock) - 1000;
    advance(&r, 998999);
    assert_int_equal(r.rises0, 0);
    advance(&r, 1);
    assert_int_equal(r.rises0, 1);
    assert_int_equal(r.rose_at, from + 1000000);
    assert_int_equal(get(&r, T0 + CMP), start + 200000);
    advance(&r, 10000000);
    assert_int_equal(r.rises0, 11);
    assert_int_equal(get(&r, STS), 0);
    /* Shutdown: no more. */
    put(&r, T0, get(&r, T0) & ~(ENABLE | SETVAL));
    assert_false(r.irq0);
    advance(&r, 10000000);
    assert_int_equal(r.rises0, 11);

    /* hpet_clkevt_set_next_event: one shot. */
    put(&r, T0, (get(&r, T0) & ~PERIODIC) | ENABLE | B32);
    uint32_t at = get(&r, CNT) + 5000;
    put(&r, T0 + CMP, at);
    advance(&r, 1000000);
    assert_int_equal(r.rises0, 12);
    assert_int_equal(r.rose_at, zero + at * 10ull);
    advance(&r, 100000000);
    assert_int_equal(r.rises0, 12);
    /* A count that has passed comes again after the wrap. */
    put(&r, T0 + CMP, get(&r, CNT) - 1);
    advance(&r, 42949672950 - 1000);
    assert_int_equal(r.rises0, 12);
    advance(&r, 1000);
    assert_int_equal(r.rises0, 13);
    /* The one it is at matches. */
    put(&r, T0 + CMP, get(&r, CNT));
    assert_int_equal(r.rises0, 14);
    rig_free(&r);
}

static void legacy(void **state)
{
    struct rig r;
    rig_new(&r);
    put(&r, T0, ENABLE | ROUTE(21));
    put(&r, T0 + STRIDE, ENABLE | LEVEL | ROUTE(22));
    put(&r, T0 + CMP, 100);
    put(&r, T0 + CMP + 4, 0);
    put(&r, T0 + STRIDE + CMP, 100);
    put(&r, T0 + STRIDE + CMP + 4, 0);
    put(&r, CFG, 1);
    advance(&r, 1000);
    assert_true(r.pin[21] && r.pin[22]);
    assert_int_equal(get(&r, STS), 2);
    put(&r, CFG, 3);
    assert_true(!r.pin[21] && !r.pin[22] && r.irq0 && r.irq8);
    assert_string_equal(r.order, "L0");
    put(&r, CFG, 1);
    assert_true(r.pin[21] && r.pin[22] && !r.irq0 && !r.irq8);
    assert_string_equal(r.order, "L0ol");
    put(&r, CFG, 3);
    dp_device_reset(r.d);
    assert_true(!r.pin[21] && !r.pin[22] && !r.irq0 && !r.irq8 && !r.legacy);
    rig_free(&r);
}

static void level_and_routes(void **state)
{
    struct rig r;
    rig_new(&r);
    unsigned t2 = T0 + 2 * STRIDE;
    put(&r, t2, ROUTE(20));
    assert_int_equal(get(&r, t2) >> 9 & 31, 20);
    put(&r, t2, ROUTE(3)); /* not offered */
    assert_int_equal(get(&r, t2) >> 9 & 31, 20);
    put(&r, t2, LEVEL | ROUTE(20));
    put64(&r, t2 + CMP, 50);
    put(&r, CFG, 1);
    advance(&r, 600);
    assert_int_equal(get(&r, STS), 4); /* without INT_ENB only the status */
    assert_int_equal(r.rises, 0);
    put(&r, t2, LEVEL | ENABLE | ROUTE(20));
    assert_true(r.pin[20]);
    put(&r, STS, 3);
    assert_true(r.pin[20]);
    put(&r, CFG, 0);
    assert_false(r.pin[20]);
    put(&r, CFG, 1);
    assert_true(r.pin[20]);
    put(&r, STS, 4);
    assert_false(r.pin[20]);
    assert_int_equal(get(&r, STS), 0);

    /* Level and periodic: one interrupt until it is acknowledged, at its exact time again afterwards. */
    put(&r, CFG, 0);
    put64(&r, CNT, 0);
    put(&r, t2, LEVEL | ENABLE | PERIODIC | SETVAL | ROUTE(23));
    put64(&r, t2 + CMP, 1000);
    put64(&r, t2 + CMP, 1000);
    put(&r, CFG, 1);
    uint64_t start = dp_clock_now(r.w.env.clock);
    r.rises = 0;
    advance(&r, 35000);
    assert_int_equal(r.rises, 1);
    assert_int_equal(r.rose_at, start + 10000);
    put(&r, STS, 4);
    advance(&r, 10000);
    assert_int_equal(r.rises, 2);
    assert_int_equal(r.rose_at, start + 40000);
    assert_int_equal(get(&r, t2 + CMP), 5000);
    rig_free(&r);
}

static void widths(void **state)
{
    struct rig r;
    rig_new(&r);
    /* 64 bits, written by halves with VAL_SET for each. */
    put(&r, CNT, 0xfffffff0);
    put(&r, CNT + 4, 1);
    put(&r, T0, ENABLE | PERIODIC | SETVAL | ROUTE(20));
    put(&r, T0 + CMP, 5);
    assert_int_equal(get(&r, T0) & SETVAL, 0);
    put(&r, T0, ENABLE | PERIODIC | SETVAL | ROUTE(20));
    put(&r, T0 + CMP + 4, 2);
    put64(&r, T0 + CMP, 0x300000000); /* the period only */
    assert_true(get64(&r, T0 + CMP) == 0x200000005);
    put(&r, CFG, 1);
    advance(&r, 209);
    assert_int_equal(r.rises, 0);
    assert_true(get64(&r, CNT) == 0x200000004);
    advance(&r, 1);
    assert_int_equal(r.rises, 1);
    assert_true(get64(&r, T0 + CMP) == 0x500000005);
    assert_int_equal(get(&r, CNT + 4), 2);
    /* 32 bits: the upper half is gone, and does not count. */
    put(&r, T0, ENABLE | B32 | ROUTE(20));
    assert_true(get64(&r, T0 + CMP) == 5);
    put64(&r, T0 + CMP, 0xabcd0000000f);
    assert_true(get64(&r, T0 + CMP) == 0xf);
    advance(&r, 1000);
    assert_int_equal(r.rises, 2);
    /* Periods of next to nothing do not eat the host: interrupts at least 20 us apart; the comparator keeps up. */
    put(&r, T0, ENABLE | PERIODIC | SETVAL | B32 | ROUTE(20));
    put(&r, T0 + CMP, get(&r, CNT) + 2);
    put(&r, T0 + CMP, 1);
    r.rises = 0;
    advance(&r, 1000000);
    assert_in_range(r.rises, 45, 55);
    assert_in_range(get(&r, T0 + CMP) - get(&r, CNT), 1, 1);
    put(&r, T0 + CMP, 0); /* no period at all */
    advance(&r, 1000000);
    rig_free(&r);
}

static void messages(void **state)
{
    struct rig r;
    rig_new(&r);
    put64(&r, T0 + STRIDE + FSB, 0xfee0100000004041);
    put(&r, T0 + STRIDE, ENABLE | FSB_ENABLE | B32);
    put(&r, T0 + STRIDE + CMP, 100);
    put(&r, CFG, 1);
    advance(&r, 1000);
    assert_int_equal(r.messages, 1);
    assert_int_equal(r.message[0], 0xfee01000);
    assert_int_equal(r.message[1], 0x4041);
    assert_int_equal(r.rises, 0);
    put(&r, T0 + STRIDE + CMP, get(&r, CNT) + 10);
    advance(&r, 100);
    assert_int_equal(r.messages, 2);
    rig_free(&r);

    /* Without the property there is no such thing. */
    memset(&r, 0, sizeof(r));
    conformance_world_init(&r.w);
    struct dp_error e = {0};
    r.d = dp_device_alloc(&dp_hpet_class, "hpet", &r.w.env);
    assert_ok(dp_device_init(r.d, &e), e);
    assert_ok(dp_device_map(r.d, DP_HPET_WINDOW, DP_HPET_BASE, &e), e);
    put(&r, T0, FSB_ENABLE);
    assert_int_equal(get64(&r, T0), 0x30);
    rig_free(&r);
}

static void pause_and_save(void **state)
{
    struct rig r;
    struct dp_buffer saved = {0};
    rig_new(&r);
    put(&r, T0, ENABLE | PERIODIC | SETVAL | B32 | ROUTE(20));
    put(&r, T0 + CMP, 10000);
    put(&r, T0 + CMP, 10000);
    put(&r, CFG, 1);
    advance(&r, 150000);
    assert_int_equal(r.rises, 1);
    dp_device_pause(r.d);
    advance(&r, 100000); /* a match that is found by resume */
    assert_int_equal(r.rises, 1);
    dp_device_save(r.d, &saved);
    dp_device_resume(r.d);
    assert_int_equal(r.rises, 2);
    dp_device_pause(r.d);

    /* Another device of another machine goes on from there: its line is high in the save. */
    struct dp_device *other = rig_device(&r);
    conformance_load(other, &saved);
    r.rises = 0;
    dp_device_resume(other);
    assert_int_equal(r.rises, 1);
    assert_true(r.pin[20]);
    advance(&r, 100000);
    assert_int_equal(r.rises, 2);
    dp_device_pause(other);
    dp_device_free(other);
    dp_buffer_fini(&saved);
    rig_free(&r);
}

static void nothing(void *opaque, unsigned n, bool level) { }

/* A processor that programs and acknowledges while time passes in another thread: no interrupt is lost, no line stays high. */
static void *passing(void *opaque)
{
    struct rig *r = opaque;
    for (unsigned i = 0; i < 20000; i++)
        dp_clock_advance(r->w.env.clock, 1000);
    return NULL;
}

static void threads(void **state)
{
    struct rig r;
    pthread_t time;
    rig_new(&r);
    put(&r, T0, LEVEL | ENABLE | PERIODIC | SETVAL | ROUTE(20));
    put64(&r, T0 + CMP, 3000);
    put64(&r, T0 + CMP, 3000);
    put(&r, CFG, 1);
    assert_int_equal(pthread_create(&time, NULL, passing, &r), 0);
    for (unsigned i = 0; i < 20000; i++) {
        if (get(&r, STS))
            put(&r, STS, 1);
        put(&r, T0 + STRIDE + CMP, get(&r, CNT) + i % 100);
    }
    pthread_join(time, NULL);
    put(&r, STS, 1);
    assert_false(r.pin[20]);
    unsigned rises = r.rises;
    advance(&r, 30000);
    assert_true(r.pin[20]);
    assert_int_equal(r.rises, rises + 1);
    rig_free(&r);
}

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_hpet_wires wires = {.irq0 = {nothing}, .irq8 = {nothing}, .legacy = {nothing}};
    for (unsigned n = 4; n < 24; n++)
        wires.pin[n].set = nothing;
    struct dp_device *d = dp_device_alloc(&dp_hpet_class, "hpet", env);
    dp_hpet_wire(d, &wires);
    assert_ok(dp_device_set(d, "msi", "on", &e), e);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linux_probe), cmocka_unit_test(legacy),         cmocka_unit_test(level_and_routes), cmocka_unit_test(widths),
        cmocka_unit_test(messages),    cmocka_unit_test(pause_and_save), cmocka_unit_test(threads),
        cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("hpet", tests, NULL, NULL);
}
