/* test_pit.c - the 8254's six modes tick by tick against the datasheet, latches, read-back, port 0x61, interrupts to the tick, what the speaker plays. */
#include "devices/timer/pit.h"
#include "tests/device/conformance.h"

struct pit_world {
    struct conformance_world base;
    struct dp_device *pit;
    bool line;
    unsigned rises;
};

static void set_line(void *opaque, unsigned n, bool level)
{
    struct pit_world *w = opaque;
    w->rises += level && !w->line;
    w->line = level;
}

static void setup(struct pit_world *w)
{
    struct dp_error e = {0};
    memset(w, 0, sizeof(*w));
    conformance_world_init(&w->base);
    w->pit = dp_device_alloc(&dp_pit_class, "pit", &w->base.env);
    dp_pit_wire(w->pit, (struct dp_irq){set_line, w, 0});
    assert_ok(dp_device_init(w->pit, &e), e);
    assert_ok(dp_device_map(w->pit, DP_PIT_WINDOW_COUNTERS, 0x40, &e), e);
    assert_ok(dp_device_map(w->pit, DP_PIT_WINDOW_SPEAKER, 0x61, &e), e);
    dp_device_resume(w->pit);
}

static void teardown(struct pit_world *w)
{
    dp_device_free(w->pit);
    conformance_world_fini(&w->base);
}

#define WORLD                                                                                                                              \
    struct pit_world w;                                                                                                                    \
    setup(&w)

static void out8(struct pit_world *w, unsigned port, uint8_t v) { dp_space_store(w->base.env.ports, port, v, 1); }
static uint8_t in8(struct pit_world *w, unsigned port) { return dp_space_load(w->base.env.ports, port, 1); }
static uint64_t now(struct pit_world *w) { return dp_clock_now(w->base.env.clock); }
static uint64_t tick_now(struct pit_world *w) { return (uint64_t)((unsigned __int128)now(w) * DP_PIT_HZ / 1000000000); }

/* Goes to the first ns of the n-th next tick. */
static void ticks(struct pit_world *w, uint64_t n)
{
    uint64_t tick = tick_now(w) + n, at = (uint64_t)(((unsigned __int128)tick * 1000000000 + DP_PIT_HZ - 1) / DP_PIT_HZ);
    if (at > now(w))
        dp_clock_advance(w->base.env.clock, at - now(w));
}

/* Mode and count (low, high) for counter n. */
static void program(struct pit_world *w, unsigned n, unsigned mode, uint16_t count)
{
    out8(w, 0x43, n << 6 | 0x30 | mode << 1);
    out8(w, 0x40 + n, (uint8_t)count);
    out8(w, 0x40 + n, count >> 8);
}

static uint16_t count(struct pit_world *w, unsigned n)
{
    uint8_t low = in8(w, 0x40 + n);
    return low | in8(w, 0x40 + n) << 8;
}

static uint8_t status(struct pit_world *w, unsigned n)
{
    out8(w, 0x43, 0xe0 | 2 << n);
    return in8(w, 0x40 + n);
}
static bool out(struct pit_world *w, unsigned n) { return status(w, n) & 0x80; }
static void gate(struct pit_world *w, bool on) { out8(w, 0x61, on); }

/* Counter 2's OUT over n ticks, first the present: '#' high, '_' low. */
static void trace(struct pit_world *w, const char *expected)
{
    char seen[80] = "";
    unsigned n = strlen(expected);
    for (unsigned i = 0; i < n; i++) {
        seen[i] = in8(w, 0x61) & 0x20 ? '#' : '_';
        assert_int_equal(seen[i] == '#', out(w, 2));
        ticks(w, 1);
    }
    assert_string_equal(seen, expected);
}

static void mode0(void **state)
{
    WORLD;
    gate(&w, true);
    program(&w, 2, 0, 4);
    trace(&w, "_____####"); /* loaded one tick after the write */
    program(&w, 2, 0, 4);
    ticks(&w, 1);
    assert_int_equal(count(&w, 2), 4);
    ticks(&w, 3);
    assert_int_equal(count(&w, 2), 1);
    ticks(&w, 1);
    assert_int_equal(count(&w, 2), 0);
    ticks(&w, 1);
    assert_int_equal(count(&w, 2), 0xffff); /* goes on */
    /* The gate holds the count. */
    program(&w, 2, 0, 6);
    ticks(&w, 3);
    gate(&w, false);
    assert_int_equal(count(&w, 2), 4);
    ticks(&w, 100);
    assert_int_equal(count(&w, 2), 4);
    gate(&w, true);
    trace(&w, "____##");
    /* A new count starts over; its first byte stops and lowers OUT. */
    program(&w, 2, 0, 3);
    ticks(&w, 10);
    out8(&w, 0x42, 5);
    trace(&w, "____");
    out8(&w, 0x42, 0);
    trace(&w, "______##");
    teardown(&w);
}

static void mode1(void **state)
{
    WORLD;
    program(&w, 2, 1, 3);
    trace(&w, "####"); /* waits for a trigger */
    gate(&w, true);
    trace(&w, "#___###");
    gate(&w, false);
    gate(&w, true);
    ticks(&w, 3);
    gate(&w, false);
    gate(&w, true); /* retriggered in time */
    trace(&w, "____##");
    gate(&w, false);
    gate(&w, true);
    ticks(&w, 2);
    out8(&w, 0x42, 9); /* a new count counts from the next trigger */
    out8(&w, 0x42, 0);
    assert_true(status(&w, 2) & 0x40);
    trace(&w, "__###");
    teardown(&w);
}

static void mode2(void **state)
{
    WORLD;
    gate(&w, true);
    program(&w, 2, 2, 3);
    trace(&w, "###_##_##_##_");
    program(&w, 2, 6, 4); /* 6 is 2 */
    ticks(&w, 1);
    for (unsigned i = 0; i < 9; i++) {
        assert_int_equal(count(&w, 2), 4 - i % 4);
        ticks(&w, 1);
    }
    gate(&w, false); /* OUT high at once; the gate's edge reloads */
    trace(&w, "###");
    gate(&w, true);
    trace(&w, "####_###_");
    /* A new count waits for the end of the period. */
    program(&w, 2, 2, 6);
    ticks(&w, 3);
    out8(&w, 0x42, 2);
    out8(&w, 0x42, 0);
    assert_true(status(&w, 2) & 0x40);
    trace(&w, "###_#_#_");
    assert_false(status(&w, 2) & 0x40);
    teardown(&w);
}

static void mode3(void **state)
{
    WORLD;
    gate(&w, true);
    program(&w, 2, 3, 6);
    trace(&w, "####___###___");
    program(&w, 2, 7, 5); /* odd: the high half is longer */
    trace(&w, "####__###__#");
    program(&w, 2, 3, 6);
    ticks(&w, 1);
    for (unsigned i = 0; i < 7; i++) {
        assert_int_equal(count(&w, 2), 6 - i % 3 * 2);
        ticks(&w, 1);
    }
    program(&w, 2, 3, 5);
    ticks(&w, 1);
    static const uint8_t odd[] = {4, 2, 0, 4, 2, 4, 2, 0};
    for (unsigned i = 0; i < sizeof(odd); i++) {
        assert_int_equal(count(&w, 2), odd[i]);
        ticks(&w, 1);
    }
    gate(&w, false);
    trace(&w, "###");
    gate(&w, true);
    trace(&w, "####__###__");
    /* A new count waits for the end of the half. */
    program(&w, 2, 3, 8);
    ticks(&w, 2);
    out8(&w, 0x42, 4);
    out8(&w, 0x42, 0);
    trace(&w, "###__##__#");
    teardown(&w);
}

static void mode4(void **state)
{
    WORLD;
    gate(&w, true);
    program(&w, 2, 4, 3);
    trace(&w, "####_######");
    program(&w, 2, 4, 5);
    ticks(&w, 2);
    gate(&w, false);
    trace(&w, "####");
    gate(&w, true);
    trace(&w, "####_###");
    teardown(&w);
}

static void mode5(void **state)
{
    WORLD;
    program(&w, 2, 5, 3);
    trace(&w, "######");
    gate(&w, true);
    trace(&w, "####_####");
    gate(&w, false);
    gate(&w, true);
    ticks(&w, 2);
    gate(&w, false);
    gate(&w, true);
    trace(&w, "####_####");
    teardown(&w);
}

static void reading(void **state)
{
    WORLD;
    program(&w, 0, 2, 0x1234);
    ticks(&w, 1);
    out8(&w, 0x43, 0x00); /* latch */
    ticks(&w, 0x100);
    out8(&w, 0x43, 0x00); /* a second latch is ignored */
    assert_int_equal(count(&w, 0), 0x1234);
    assert_int_equal(count(&w, 0), 0x1134);
    /* Status first, then the latched count. */
    out8(&w, 0x43, 0xc2);
    assert_int_equal(in8(&w, 0x40), 0xb4);
    assert_int_equal(count(&w, 0), 0x1134);
    /* Only low, only high. */
    out8(&w, 0x43, 0x14);
    out8(&w, 0x40, 0x80);
    ticks(&w, 1);
    assert_int_equal(in8(&w, 0x40), 0x80);
    ticks(&w, 1);
    assert_int_equal(in8(&w, 0x40), 0x7f);
    out8(&w, 0x43, 0x24);
    out8(&w, 0x40, 0x80);
    ticks(&w, 2);
    assert_int_equal(in8(&w, 0x40), 0x7f);
    /* Null count. */
    out8(&w, 0x43, 0x34);
    assert_int_equal(status(&w, 0), 0xf4);
    out8(&w, 0x40, 10);
    assert_int_equal(status(&w, 0), 0xf4);
    out8(&w, 0x40, 0);
    assert_int_equal(status(&w, 0), 0xf4);
    ticks(&w, 1);
    assert_int_equal(status(&w, 0), 0xb4);
    /* BCD. */
    out8(&w, 0x43, 0x35);
    out8(&w, 0x40, 0x00);
    out8(&w, 0x40, 0x10);
    ticks(&w, 1);
    assert_int_equal(count(&w, 0), 0x1000);
    ticks(&w, 1);
    assert_int_equal(count(&w, 0), 0x0999);
    ticks(&w, 998);
    assert_int_equal(count(&w, 0), 0x0001);
    ticks(&w, 1);
    assert_int_equal(count(&w, 0), 0x1000);
    out8(&w, 0x43, 0x31); /* zero is ten thousand */
    out8(&w, 0x40, 0);
    out8(&w, 0x40, 0);
    ticks(&w, 2);
    assert_int_equal(count(&w, 0), 0x9999);
    program(&w, 0, 0, 0); /* and 65536 */
    ticks(&w, 1);
    assert_int_equal(count(&w, 0), 0);
    ticks(&w, 1);
    assert_int_equal(count(&w, 0), 0xffff);
    assert_int_equal(in8(&w, 0x43), 0xff);
    /* Read-back of several counters. */
    program(&w, 1, 2, 18);
    out8(&w, 0x43, 0xec | 2); /* status of 0, 1 and 2 (0xe0 | 0xe) */
    assert_int_equal(in8(&w, 0x41) & 0x3f, 0x34);
    assert_int_equal(in8(&w, 0x40) & 0x3f, 0x30);
    teardown(&w);
}

static void port61(void **state)
{
    WORLD;
    out8(&w, 0x61, 0xff);
    assert_int_equal(in8(&w, 0x61) & 0x0f, 0x0f);
    uint8_t before = in8(&w, 0x61) & 0x10;
    dp_clock_advance(w.base.env.clock, 15085);
    assert_int_not_equal(in8(&w, 0x61) & 0x10, before);
    teardown(&w);
}

static void interrupts(void **state)
{
    WORLD;
    assert_false(w.line);
    program(&w, 0, 2, 1193);
    unsigned base = w.rises;
    uint64_t first = tick_now(&w) + 1; /* loaded */
    for (uint64_t i = 1; i <= 5000; i++) {
        uint64_t edge = first + i * 1193, at = (uint64_t)(((unsigned __int128)edge * 1000000000 + DP_PIT_HZ - 1) / DP_PIT_HZ);
        dp_clock_advance(w.base.env.clock, at - 1 - now(&w));
        assert_int_equal(w.rises - base, i - 1);
        dp_clock_advance(w.base.env.clock, 1);
        assert_int_equal(w.rises - base, i);
        assert_true(w.line);
    }
    /* A new period takes over at the end of the old one. */
    ticks(&w, 100);
    base = w.rises;
    out8(&w, 0x40, 2000 & 0xff);
    out8(&w, 0x40, 2000 >> 8);
    ticks(&w, 1092);
    assert_int_equal(w.rises - base, 0);
    ticks(&w, 1);
    assert_int_equal(w.rises - base, 1);
    ticks(&w, 1999);
    assert_int_equal(w.rises - base, 1);
    ticks(&w, 1);
    assert_int_equal(w.rises - base, 2);
    /* Square wave, changed in its high half: that half ends as it was, then comes the new low half. */
    program(&w, 0, 3, 2000);
    ticks(&w, 101);
    base = w.rises;
    out8(&w, 0x40, 1000 & 0xff);
    out8(&w, 0x40, 1000 >> 8);
    ticks(&w, 900 + 499);
    assert_int_equal(w.rises - base, 0);
    ticks(&w, 1);
    assert_int_equal(w.rises - base, 1);
    ticks(&w, 1000);
    assert_int_equal(w.rises - base, 2);
    /* Mode 0: low, high once. */
    program(&w, 0, 0, 500);
    assert_false(w.line);
    ticks(&w, 500);
    assert_false(w.line);
    ticks(&w, 1);
    assert_true(w.line);
    base = w.rises;
    dp_clock_advance(w.base.env.clock, 1000000000);
    assert_int_equal(w.rises, base);
    /* Mode 4: one strobe. */
    program(&w, 0, 4, 500);
    base = w.rises;
    ticks(&w, 501);
    assert_int_equal(w.rises - base, 0);
    ticks(&w, 1);
    assert_int_equal(w.rises - base, 1);
    dp_clock_advance(w.base.env.clock, 1000000000);
    assert_int_equal(w.rises - base, 1);
    /* Far too fast a period does not drown the host. */
    program(&w, 0, 2, 2);
    base = w.rises;
    dp_clock_advance(w.base.env.clock, 1000000000);
    assert_in_range(w.rises - base, 40000, 50001);
    /* Nothing while paused; missed periods are one. */
    program(&w, 0, 2, 1193);
    dp_device_pause(w.pit);
    base = w.rises;
    dp_clock_advance(w.base.env.clock, 10000000);
    assert_int_equal(w.rises, base);
    dp_device_resume(w.pit);
    assert_int_equal(w.rises - base, 1);
    teardown(&w);
}

/* ---- the speaker ---- */

struct heard {
    int16_t sample[4 * DP_SOUND_HZ];
    uint64_t end; /* position after the last */
    unsigned calls;
};

static void listen(void *opaque, uint64_t position, const int16_t *samples, unsigned count)
{
    struct heard *h = opaque;
    assert_true(count && position >= h->end && position + count <= DP_ARRAY_LEN(h->sample)); /* in order, nothing twice */
    memcpy(h->sample + position, samples, count * sizeof(*samples));
    h->end = position + count;
    h->calls++;
}

static unsigned crossings(const struct heard *h, double from, double to)
{
    unsigned n = 0;
    for (unsigned i = (unsigned)(from * DP_SOUND_HZ) + 1; i < (unsigned)(to * DP_SOUND_HZ); i++)
        n += (h->sample[i] > 0) != (h->sample[i - 1] > 0);
    return n;
}

static void speaker(void **state)
{
    static struct heard h;
    WORLD;
    dp_device_free(w.pit);
    memset(&h, 0, sizeof h);
    struct dp_error e = {0};
    w.pit = dp_device_alloc(&dp_pit_class, "pit", &w.base.env);
    dp_pit_wire_speaker(w.pit, (struct dp_sound){listen, &h});
    assert_ok(dp_device_init(w.pit, &e), e);
    dp_space_destroy(w.base.env.ports);
    assert_ok(dp_space_create("ports", 0x10000, NULL, &w.base.env.ports, &e), e);
    assert_ok(dp_device_map(w.pit, DP_PIT_WINDOW_COUNTERS, 0x40, &e), e);
    assert_ok(dp_device_map(w.pit, DP_PIT_WINDOW_SPEAKER, 0x61, &e), e);
    dp_device_resume(w.pit);
    program(&w, 2, 3, 1193); /* 1000 Hz */
    dp_clock_advance(w.base.env.clock, 500000000);
    assert_int_equal(h.calls, 0); /* not let through */
    out8(&w, 0x61, 3);
    dp_clock_advance(w.base.env.clock, 1000000000);
    out8(&w, 0x61, 1); /* silence */
    dp_clock_advance(w.base.env.clock, 500000000);
    assert_in_range(h.calls, 15, 40);
    assert_in_range(h.end, 1.49 * DP_SOUND_HZ, 1.51 * DP_SOUND_HZ);
    assert_int_equal(crossings(&h, 0, 0.49), 0);
    assert_in_range(crossings(&h, 0.5, 1.5), 1995, 2002);
    /* Another pitch while it sounds, then a beat by hand: OUT is high in mode 3 while the gate is low. */
    out8(&w, 0x61, 3);
    program(&w, 2, 3, 2386);
    dp_clock_advance(w.base.env.clock, 500000000);
    assert_in_range(crossings(&h, 2.0, 2.49), 488, 493);
    out8(&w, 0x61, 0);
    for (unsigned i = 0; i < 100; i++) { /* 500 Hz */
        out8(&w, 0x61, 2);
        dp_clock_advance(w.base.env.clock, 1000000);
        out8(&w, 0x61, 0);
        dp_clock_advance(w.base.env.clock, 1000000);
    }
    assert_in_range(crossings(&h, 2.51, 2.69), 178, 182);
    out8(&w, 0x61, 3);
    dp_device_pause(w.pit);
    unsigned calls = h.calls;
    dp_clock_advance(w.base.env.clock, 300000000); /* a paused device makes no sound */
    assert_int_equal(h.calls, calls);
    dp_device_resume(w.pit);
    dp_clock_advance(w.base.env.clock, 200000000);
    assert_true(h.calls > calls);
    assert_int_equal(crossings(&h, 2.72, 2.98), 0);
    teardown(&w);
}

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_pit_class, "pit0", env);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make, .rounds = 200};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mode0),      cmocka_unit_test(mode1),       cmocka_unit_test(mode2),   cmocka_unit_test(mode3),
        cmocka_unit_test(mode4),      cmocka_unit_test(mode5),       cmocka_unit_test(reading), cmocka_unit_test(port61),
        cmocka_unit_test(interrupts), cmocka_unit_test(speaker),     cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("pit", tests, NULL, NULL);
}
