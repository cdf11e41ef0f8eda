/* test_coprocessor.c - interrupt 13 as handlers for DOS use it: FERR#, port 0xf0, the next exception right after; while paused; over a save. */
#include "devices/intc/coprocessor.h"
#include "tests/device/conformance.h"

struct world {
    struct conformance_world base;
    struct dp_device *d;
    bool line;
    unsigned rises;
};

static void set_line(void *opaque, unsigned n, bool level)
{
    struct world *w = opaque;
    w->rises += level && !w->line;
    w->line = level;
}

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_coprocessor_class, "coprocessor", env);
    if (opaque)
        dp_coprocessor_wire(d, (struct dp_irq){set_line, opaque, 13});
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void test_latch(void **state)
{
    struct dp_error e = {0};
    struct world w = {0};
    conformance_world_init(&w.base);
    w.d = make(&w.base.env, &w);
    assert_ok(dp_device_map(w.d, DP_COPROCESSOR_WINDOW, 0xf0, &e), e);
    dp_device_resume(w.d);
    dp_coprocessor_ferr(w.d);
    assert_true(w.line);
    dp_coprocessor_ferr(w.d); /* the same exception, looked at again */
    assert_int_equal(w.rises, 1);
    dp_space_store(w.base.env.ports, 0xf1, 0, 1);
    assert_true(w.line);
    dp_space_store(w.base.env.ports, 0xf0, 0, 1);
    assert_false(w.line);
    dp_coprocessor_ferr(w.d);
    assert_int_equal(w.rises, 2);
    assert_int_equal(dp_space_load(w.base.env.ports, 0xf0, 1), 0xff);
    dp_device_pause(w.d);
    dp_space_store(w.base.env.ports, 0xf0, 0, 1);
    dp_coprocessor_ferr(w.d);
    assert_true(w.line && w.rises == 2); /* held */
    dp_device_resume(w.d);
    assert_int_equal(w.rises, 3); /* it fell in between */
    dp_device_reset(w.d);
    assert_false(w.line);
    dp_device_free(w.d);
    conformance_world_fini(&w.base);
}

static void test_conformance(void **state)
{
    const struct conformance c = {.make = make, .rounds = 20};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_latch), cmocka_unit_test(test_conformance)};
    return cmocka_run_group_tests_name("coprocessor", tests, NULL, NULL);
}
