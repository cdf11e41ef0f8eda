/* test_rtc.c - time and formats, setting it, update cycle, alarm, periodic and update interrupts, NVRAM. */
#include <time.h>

#include "devices/timer/rtc.h"
#include "tests/device/conformance.h"

#define MS 1000000ull
#define S 1000000000ull

struct rtc_world {
    struct conformance_world base;
    struct dp_device *rtc;
    bool line;
};

static void set_line(void *opaque, unsigned n, bool level) { ((struct rtc_world *)opaque)->line = level; }

static void setup(struct rtc_world *w)
{
    struct dp_error e = {0};
    memset(w, 0, sizeof(*w));
    conformance_world_init(&w->base);
    w->rtc = dp_device_alloc(&dp_rtc_class, "rtc", &w->base.env);
    dp_rtc_wire(w->rtc, (struct dp_irq){set_line, w, 8});
    dp_rtc_set_nvram(w->rtc, 0x5f, 3);
    dp_rtc_set_nvram(w->rtc, 0x02, 99); /* no NVRAM */
    dp_rtc_set_memory(w->rtc, 3ull << 30, 5ull << 30);
    assert_ok(dp_device_init(w->rtc, &e), e);
    assert_ok(dp_device_map(w->rtc, DP_RTC_WINDOW, 0x70, &e), e);
    dp_device_resume(w->rtc);
}

static void teardown(struct rtc_world *w)
{
    dp_device_free(w->rtc);
    conformance_world_fini(&w->base);
}

#define WORLD                                                                                                                              \
    struct rtc_world w;                                                                                                                    \
    setup(&w)

static uint8_t get(struct rtc_world *w, uint8_t reg)
{
    dp_space_store(w->base.env.ports, 0x70, reg, 1);
    return dp_space_load(w->base.env.ports, 0x71, 1);
}

static void put(struct rtc_world *w, uint8_t reg, uint8_t v)
{
    dp_space_store(w->base.env.ports, 0x70, reg, 1);
    dp_space_store(w->base.env.ports, 0x71, v, 1);
}

static void advance(struct rtc_world *w, uint64_t ns) { dp_clock_advance(w->base.env.clock, ns); }

static const uint8_t time_regs[] = {DP_RTC_CENTURY, 9, 8, 7, 4, 2, 0, 6};

/* "20000101 000000 7" in hex digits of the registers. */
static void expect_time(struct rtc_world *w, const char *expected)
{
    char text[40] = "";
    for (unsigned i = 0; i < sizeof(time_regs); i++)
        sprintf(text + strlen(text), i == 7 ? " %x" : i == 4 ? " %02x" : "%02x", get(w, time_regs[i]));
    assert_string_equal(text, expected);
}

static void set_time(struct rtc_world *w, const uint8_t values[8])
{
    uint8_t b = get(w, 0xb);
    put(w, 0xb, b | 0x80);
    for (unsigned i = 0; i < 8; i++)
        put(w, time_regs[i], values[i]);
    put(w, 0xb, b & 0x7f);
}

static void time_and_formats(void **state)
{
    WORLD;
    assert_int_equal(get(&w, 0xa), 0x26);
    assert_int_equal(get(&w, 0xb), 0x02);
    assert_int_equal(get(&w, 0xd), 0x80);
    expect_time(&w, "20000101 000000 7");
    advance(&w, 59 * S + 999999999);
    expect_time(&w, "20000101 000059 7");
    advance(&w, 1);
    expect_time(&w, "20000101 000100 7");
    advance(&w, 59ull * 86400 * S + 13 * 3600 * S);
    expect_time(&w, "20000229 130100 3");
    put(&w, 0xb, 0x06); /* binary */
    expect_time(&w, "14000"
                    "21d 0d0100 3");
    put(&w, 0xb, 0x00); /* BCD, 12 hours */
    expect_time(&w, "20000229 810100 3");
    put(&w, 0xb, 0x04);
    expect_time(&w, "14000"
                    "21d 810100 3");
    put(&w, 0xb, 0x02);
    advance(&w, 86400 * S);
    expect_time(&w, "20000301 130100 4");
    /* The C library agrees on days all over the calendar. */
    for (unsigned i = 0; i < 400; i++) {
        uint64_t days = i * 37 + 5;
        time_t t = 946684800 + (time_t)(days * 86400);
        struct tm tm;
        gmtime_r(&t, &tm);
        uint64_t target = days * 86400 * S;
        if (target < dp_clock_now(w.base.env.clock))
            continue;
        advance(&w, target - dp_clock_now(w.base.env.clock));
        put(&w, 0xb, 0x06);
        assert_int_equal(get(&w, 7), tm.tm_mday);
        assert_int_equal(get(&w, 8), tm.tm_mon + 1);
        assert_int_equal(get(&w, 9), tm.tm_year % 100);
        assert_int_equal(get(&w, 6), tm.tm_wday + 1);
    }
    teardown(&w);
}

static void setting(void **state)
{
    WORLD;
    advance(&w, 400 * MS);
    set_time(&w, (const uint8_t[]){0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58, 1});
    expect_time(&w, "19991231 235958 6"); /* the weekday follows the date */
    advance(&w, 599 * MS);
    expect_time(&w, "19991231 235958 6");
    advance(&w, 1 * MS); /* the divider was not touched */
    expect_time(&w, "19991231 235959 6");
    advance(&w, 1000 * MS);
    expect_time(&w, "20000101 000000 7");
    /* SET: the time stands and its bytes are memory. */
    put(&w, 0xb, 0x82);
    advance(&w, 100 * S);
    expect_time(&w, "20000101 000000 7");
    put(&w, 0, 0x30);
    assert_int_equal(get(&w, 0), 0x30);
    assert_int_equal(get(&w, 0xa) & 0x80, 0);
    put(&w, 0xb, 0x02);
    expect_time(&w, "20000101 000030 7");
    /* The divider's reset: the first update comes half a second after. */
    put(&w, 0xa, 0x76);
    put(&w, 2, 0x15);
    advance(&w, 3333 * MS);
    put(&w, 0xa, 0x26);
    expect_time(&w, "20000101 001530 7");
    advance(&w, 500 * MS - 1);
    expect_time(&w, "20000101 001530 7");
    advance(&w, 1);
    expect_time(&w, "20000101 001531 7");
    /* Single bytes of a running clock; nonsense is brought into range. */
    put(&w, 4, 0x22);
    expect_time(&w, "20000101 221531 7");
    put(&w, DP_RTC_CENTURY, 0x35);
    put(&w, 9, 0x04);
    expect_time(&w, "35040101 221531 6");
    set_time(&w, (const uint8_t[]){0x20, 0x23, 0x02, 0x30, 0x12, 0x00, 0x00, 1});
    expect_time(&w, "20230302 120000 5");
    set_time(&w, (const uint8_t[]){0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff});
    get(&w, 8);
    set_time(&w, (const uint8_t[]){0, 0, 0, 0, 0, 0, 0, 0});
    expect_time(&w, "00001201 000000 6");
    /* 12-hour input. */
    put(&w, 0xb, 0x00);
    set_time(&w, (const uint8_t[]){0x20, 0x20, 0x06, 0x15, 0x92, 0x00, 0x00, 1}); /* 12 pm */
    put(&w, 0xb, 0x02);
    assert_int_equal(get(&w, 4), 0x12);
    put(&w, 0xb, 0x00);
    put(&w, 4, 0x12); /* 12 am */
    put(&w, 0xb, 0x02);
    assert_int_equal(get(&w, 4), 0x00);
    teardown(&w);
}

static void update_in_progress(void **state)
{
    WORLD;
    advance(&w, 999999999 - 2228000);
    assert_int_equal(get(&w, 0xa), 0x26);
    advance(&w, 1);
    assert_int_equal(get(&w, 0xa), 0xa6);
    advance(&w, 2227999);
    assert_int_equal(get(&w, 0xa), 0xa6);
    assert_int_equal(get(&w, 0), 0);
    assert_int_equal(get(&w, 0xc) & 0x10, 0);
    advance(&w, 1);
    assert_int_equal(get(&w, 0xa), 0x26);
    assert_int_equal(get(&w, 0), 1);
    assert_int_equal(get(&w, 0xc) & 0x10, 0x10); /* flags without enables do not interrupt */
    assert_int_equal(get(&w, 0xc), 0);
    assert_false(w.line);
    teardown(&w);
}

static void update_interrupt(void **state)
{
    WORLD;
    put(&w, 0xb, 0x12);
    advance(&w, 999999999);
    assert_false(w.line);
    advance(&w, 1);
    assert_true(w.line);
    advance(&w, 5 * S); /* stays until C is read */
    assert_true(w.line);
    assert_int_equal(get(&w, 0xc) & 0xb0, 0x90);
    assert_false(w.line);
    advance(&w, 999999999);
    assert_false(w.line);
    advance(&w, 1);
    assert_true(w.line);
    put(&w, 0xb, 0x82); /* SET clears UIE */
    assert_int_equal(get(&w, 0xb), 0x82);
    get(&w, 0xc);
    put(&w, 0xb, 0x92);
    assert_int_equal(get(&w, 0xb), 0x82);
    teardown(&w);
}

static void alarm(void **state)
{
    WORLD;
    get(&w, 0xc);
    put(&w, 1, 0x05);
    put(&w, 3, 0x02);
    put(&w, 5, 0x00);
    put(&w, 0xb, 0x22);
    advance(&w, 124 * S + 999999999);
    assert_false(w.line);
    advance(&w, 1);
    assert_true(w.line);
    assert_int_equal(get(&w, 0xc) & 0xa0, 0xa0);
    assert_false(w.line);
    advance(&w, 86399 * S);
    assert_false(w.line);
    advance(&w, 1 * S); /* a day later */
    assert_true(w.line);
    get(&w, 0xc);
    put(&w, 5, 0xff); /* every hour */
    advance(&w, 3599 * S);
    assert_false(w.line);
    advance(&w, 1 * S);
    assert_true(w.line);
    get(&w, 0xc);
    put(&w, 3, 0xc0); /* every minute */
    advance(&w, 60 * S);
    assert_true(w.line);
    get(&w, 0xc);
    put(&w, 1, 0xff); /* every second */
    advance(&w, 1 * S);
    assert_true(w.line);
    get(&w, 0xc);
    put(&w, 1, 0x77); /* never */
    advance(&w, 86400 * S);
    assert_false(w.line);
    assert_int_equal(get(&w, 0xc) & 0x20, 0);
    /* Changed time, afternoon in 12-hour form. */
    put(&w, 0xb, 0x20);
    put(&w, 1, 0x00);
    put(&w, 3, 0x30);
    put(&w, 5, 0x83);
    put(&w, 4, 0x83); /* 3 pm */
    put(&w, 2, 0x29);
    put(&w, 0, 0x59);
    get(&w, 0xc);
    advance(&w, 1 * S);
    assert_true(w.line);
    teardown(&w);
}

static void periodic(void **state)
{
    WORLD;
    static const struct {
        uint8_t rate;
        unsigned hz;
    } rates[] = {
        {1, 256}, {2, 128}, {3, 8192}, {4, 4096}, {6, 1024}, {10, 64}, {15, 2},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(rates); i++) {
        advance(&w, S - dp_clock_now(w.base.env.clock) % S);
        put(&w, 0xa, 0x20 | rates[i].rate);
        put(&w, 0xb, 0x42);
        get(&w, 0xc);
        uint64_t start = dp_clock_now(w.base.env.clock);
        for (uint64_t k = 1; k <= 2 * rates[i].hz; k++) {
            uint64_t at = start + (k * S + rates[i].hz - 1) / rates[i].hz;
            advance(&w, at - 1 - dp_clock_now(w.base.env.clock));
            assert_false(w.line);
            advance(&w, 1);
            assert_true(w.line);
            assert_int_equal(get(&w, 0xc) & 0xc0, 0xc0);
            assert_false(w.line);
        }
    }
    put(&w, 0xa, 0x20); /* rate 0: none */
    advance(&w, 10 * S);
    assert_false(w.line);
    put(&w, 0xa, 0x66); /* divider in reset: none */
    advance(&w, 10 * S);
    assert_false(w.line);
    /* Nothing while paused. */
    put(&w, 0xa, 0x26);
    get(&w, 0xc);
    dp_device_pause(w.rtc);
    advance(&w, 10 * S);
    assert_false(w.line);
    dp_device_resume(w.rtc);
    assert_true(w.line);
    teardown(&w);
}

static void nvram(void **state)
{
    WORLD;
    assert_int_equal(get(&w, 0x5f), 3);
    assert_int_equal(get(&w, 0x15) | get(&w, 0x16) << 8, 640);
    assert_int_equal(get(&w, 0x17) | get(&w, 0x18) << 8, 0xffff);
    assert_int_equal(get(&w, 0x34) | get(&w, 0x35) << 8, (3072 - 16) * 16);
    assert_int_equal(get(&w, 0x5b) | get(&w, 0x5c) << 8 | get(&w, 0x5d) << 16, 5 * 16384);
    put(&w, 0x40, 0xa5);
    assert_int_equal(get(&w, 0xc0), 0xa5); /* bit 7 of the index is the NMI mask */
    put(&w, 0xd, 0);
    assert_int_equal(get(&w, 0xd), 0x80);
    assert_int_equal(dp_space_load(w.base.env.ports, 0x70, 1), 0xff);
    dp_device_reset(w.rtc);
    assert_int_equal(get(&w, 0x40), 0);
    assert_int_equal(get(&w, 0x5f), 3);
    teardown(&w);
}

static uint64_t poke(struct dp_device *d, struct dp_random *r)
{
    const struct dp_window_ops *ops = d->class->windows[0].ops;
    uint64_t v = dp_random_next(r);
    ops->write(d, 0, v >> 8 & 15, 1);
    if (v & 1)
        return ops->read(d, 1, 1);
    ops->write(d, 1, v >> 16 & 0xff, 1);
    return 0;
}

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_rtc_class, "rtc0", env);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make, .poke = poke, .max_advance = 700 * MS};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_and_formats),
        cmocka_unit_test(setting),
        cmocka_unit_test(update_in_progress),
        cmocka_unit_test(update_interrupt),
        cmocka_unit_test(alarm),
        cmocka_unit_test(periodic),
        cmocka_unit_test(nvram),
        cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("rtc", tests, NULL, NULL);
}
