/* test_acpi_pm.c - PM1 events and control, PM timer with its carry, power button, power-off and reset. */
#include "devices/firmware/pm.h"
#include "tests/device/conformance.h"

struct pm_world {
    struct conformance_world base;
    struct dp_device *pm;
    bool sci;
    unsigned offs, resets;
};

static void set_sci(void *opaque, unsigned n, bool level) { ((struct pm_world *)opaque)->sci = level; }
static void request(void *opaque, enum dp_vm_request r, int status)
{
    struct pm_world *w = opaque;
    w->offs += r == DP_VM_POWEROFF;
    w->resets += r == DP_VM_RESET;
}

static void setup(struct pm_world *w, const char *timer32)
{
    struct dp_error e = {0};
    memset(w, 0, sizeof(*w));
    conformance_world_init(&w->base);
    w->base.env.vm = (struct dp_vm_sink){request, w};
    w->pm = dp_device_alloc(&dp_acpi_pm_class, "pm", &w->base.env);
    dp_acpi_pm_wire(w->pm, (struct dp_irq){set_sci, w, 9});
    assert_ok(dp_device_set(w->pm, "timer32", timer32, &e), e);
    assert_ok(dp_device_init(w->pm, &e), e);
    assert_ok(dp_device_map(w->pm, DP_ACPI_PM_WINDOW, DP_ACPI_PM_BASE, &e), e);
    assert_ok(dp_device_map(w->pm, DP_ACPI_PM_WINDOW_RESET, DP_ACPI_RESET_PORT, &e), e);
    dp_device_resume(w->pm);
}

static void teardown(struct pm_world *w)
{
    dp_device_free(w->pm);
    conformance_world_fini(&w->base);
}

#define WORLD(timer32)                                                                                                                     \
    struct pm_world w;                                                                                                                     \
    setup(&w, timer32)

static uint32_t in(struct pm_world *w, unsigned offset, unsigned size)
{
    return dp_space_load(w->base.env.ports, DP_ACPI_PM_BASE + offset, size);
}
static void out(struct pm_world *w, unsigned offset, uint32_t v, unsigned size)
{
    dp_space_store(w->base.env.ports, DP_ACPI_PM_BASE + offset, v, size);
}

static void events(void **state)
{
    WORLD("on");
    assert_int_equal(in(&w, 0, 4), 0);
    out(&w, 2, 0xffff, 2);
    assert_int_equal(in(&w, 2, 2), 0x721);
    out(&w, 3, 0x01, 1);
    assert_int_equal(in(&w, 2, 2), 0x121);
    out(&w, 0, 0x01000000, 4);
    assert_int_equal(in(&w, 0, 4), 0x01000000);
    dp_acpi_pm_power_button(w.pm);
    assert_true(w.sci);
    assert_int_equal(in(&w, 0, 2), 0x100);
    out(&w, 0, 0x00ff, 2); /* ones clear */
    assert_true(w.sci);
    out(&w, 1, 0x01, 1);
    assert_false(w.sci);
    assert_int_equal(in(&w, 0, 2), 0);
    out(&w, 2, 0, 2);
    dp_acpi_pm_power_button(w.pm);
    assert_false(w.sci);
    out(&w, 2, 0x100, 2);
    assert_true(w.sci);
    out(&w, 0, 0x100, 2);
    /* Held while paused. */
    dp_device_pause(w.pm);
    dp_acpi_pm_power_button(w.pm);
    assert_false(w.sci);
    dp_device_resume(w.pm);
    assert_true(w.sci);
    dp_device_reset(w.pm);
    assert_false(w.sci);
    /* General-purpose events: byte by byte, as systems access them. */
    out(&w, DP_ACPI_PM_GPE0, 0xffffffff, 4);
    assert_int_equal(in(&w, DP_ACPI_PM_GPE0, 4), 1 << (16 + DP_ACPI_GPE_PCI));
    dp_acpi_pm_gpe(w.pm, 5); /* there is none */
    assert_false(w.sci);
    dp_acpi_pm_gpe(w.pm, DP_ACPI_GPE_PCI);
    assert_true(w.sci);
    assert_int_equal(in(&w, DP_ACPI_PM_GPE0, 1), 1 << DP_ACPI_GPE_PCI);
    out(&w, DP_ACPI_PM_GPE0 + 2, 0, 1); /* masked while it is handled */
    assert_false(w.sci);
    out(&w, DP_ACPI_PM_GPE0 + 1, 0xff, 1);
    assert_int_equal(in(&w, DP_ACPI_PM_GPE0, 2), 1 << DP_ACPI_GPE_PCI);
    out(&w, DP_ACPI_PM_GPE0 + 2, 0xff, 1);
    assert_true(w.sci);
    out(&w, DP_ACPI_PM_GPE0, 0xff, 1);
    assert_false(w.sci);
    dp_device_pause(w.pm);
    dp_acpi_pm_gpe(w.pm, DP_ACPI_GPE_PCI);
    assert_false(w.sci);
    dp_device_resume(w.pm);
    assert_true(w.sci);
    teardown(&w);
}

static void sleep_and_reset(void **state)
{
    WORLD("on");
    assert_int_equal(in(&w, 4, 2), 1); /* SCI_EN */
    out(&w, 4, 0, 2);
    assert_int_equal(in(&w, 4, 2), 1);
    out(&w, 4, 0x3 << 10 | 1 << 13, 2); /* S3: there is none */
    assert_int_equal(w.offs, 0);
    assert_int_equal(in(&w, 4, 2), 0x0c01);
    out(&w, 4, DP_ACPI_S5_TYPE << 10, 2);
    assert_int_equal(w.offs, 0);
    out(&w, 4, DP_ACPI_S5_TYPE << 10 | 1 << 13, 2);
    assert_int_equal(w.offs, 1);
    assert_int_equal(in(&w, 4, 2), DP_ACPI_S5_TYPE << 10 | 1);
    out(&w, 5, DP_ACPI_S5_TYPE << 2 | 1 << 5, 1); /* by bytes */
    assert_int_equal(w.offs, 2);
    struct dp_space *p = w.base.env.ports;
    dp_space_store(p, 0xcf9, 0x02, 1);
    assert_int_equal(w.resets, 0);
    dp_space_store(p, 0xcf9, DP_ACPI_RESET_VALUE, 1);
    assert_int_equal(w.resets, 1);
    assert_int_equal(dp_space_load(p, 0xcf9, 1), 6);
    dp_space_store(p, 0xcf9, 0x0e, 1); /* not from 0 to 1 */
    assert_int_equal(w.resets, 1);
    teardown(&w);
}

static uint64_t tick_ns(uint64_t tick)
{
    return (uint64_t)(((unsigned __int128)tick * 1000000000 + DP_ACPI_PM_TIMER_HZ - 1) / DP_ACPI_PM_TIMER_HZ);
}
static void go(struct pm_world *w, uint64_t ns) { dp_clock_advance(w->base.env.clock, ns - dp_clock_now(w->base.env.clock)); }

static void timer(void **state)
{
    for (unsigned bits = 24; bits <= 32; bits += 8) {
        WORLD(bits == 32 ? "on" : "off");
        uint64_t half = 1ull << (bits - 1);
        assert_int_equal(in(&w, 8, 4), 0);
        go(&w, 1000000000);
        assert_int_equal(in(&w, 8, 4), 3579545);
        assert_int_equal(in(&w, 9, 1), 3579545 >> 8 & 0xff);
        out(&w, 2, 1, 2);
        for (uint64_t i = 1; i <= 4; i++) {
            go(&w, tick_ns(half * i) - 1);
            assert_false(w.sci);
            assert_int_equal(in(&w, 8, 4), (half * i - 1) & (2 * half - 1));
            assert_int_equal(in(&w, 0, 2), 0);
            go(&w, tick_ns(half * i));
            assert_true(w.sci);
            assert_int_equal(in(&w, 8, 4), half * i & (2 * half - 1));
            assert_int_equal(in(&w, 0, 2), 1);
            out(&w, 0, 1, 2);
            assert_false(w.sci);
        }
        out(&w, 2, 0, 2); /* without the enable the status comes all the same */
        go(&w, tick_ns(half * 5));
        assert_false(w.sci);
        assert_int_equal(in(&w, 0, 2), 1);
        teardown(&w);
    }
}

static uint64_t poke(struct dp_device *d, struct dp_random *r)
{
    dp_acpi_pm_power_button(d);
    return 0;
}

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_acpi_pm_class, "pm0", env);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make, .poke = poke, .max_advance = 1000000000};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events),
        cmocka_unit_test(sleep_and_reset),
        cmocka_unit_test(timer),
        cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("acpi_pm", tests, NULL, NULL);
}
