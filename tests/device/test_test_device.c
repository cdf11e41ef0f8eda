/* test_test_device.c - registers and lines for test kernels. */
#include "devices/char/test_device.h"
#include "tests/device/conformance.h"

struct lines { bool level[DP_TEST_DEVICE_IRQS]; };
static void set_line(void *opaque, unsigned n, bool level) { ((struct lines *)opaque)->level[n] = level; }

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_test_device_class, "test", env);
    for (unsigned i = 0; opaque && i < DP_TEST_DEVICE_IRQS; i++)
        dp_test_device_wire(d, i, (struct dp_irq){set_line, opaque, i});
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void registers(void **state)
{
    struct conformance_world w;
    struct lines lines = {{false}};
    struct dp_error e = {0};
    conformance_world_init(&w);
    struct dp_device *d = make(&w.env, &lines);
    assert_ok(dp_device_map(d, DP_TEST_DEVICE_PORT, 0xe0, &e), e);
    assert_ok(dp_device_map(d, DP_TEST_DEVICE_FLUSH, 0xe4, &e), e);
    assert_ok(dp_device_map(d, DP_TEST_DEVICE_LINES, 0x2000, &e), e);
    assert_ok(dp_device_map(d, DP_TEST_DEVICE_MEMORY, 0xff000000, &e), e);
    dp_space_store(w.env.ports, 0xe0, 0x12345678, 4);
    dp_space_store(w.env.ports, 0xe1, 0xab, 1);
    dp_space_store(w.env.ports, 0xe4, 1, 4);
    assert_int_equal(dp_space_load(w.env.ports, 0xe0, 4), 0x1234ab78);
    assert_int_equal(dp_space_load(w.env.ports, 0xe2, 2), 0x1234);
    dp_space_store(w.env.memory, 0xff000ffc, 0x1122334455667788, 8);
    assert_true(dp_space_load(w.env.memory, 0xff000ffc, 8) == 0x1122334455667788);
    assert_int_equal(dp_space_load(w.env.memory, 0xff000ffd, 4), 0x44556677);
    assert_int_equal(dp_space_load(w.env.memory, 0xff00fff8, 8), 0);
    dp_space_store(w.env.ports, 0x200e, 1, 1);
    dp_space_store(w.env.ports, 0x2017, 1, 1);
    assert_true(lines.level[14] && lines.level[23] && !lines.level[15]);
    dp_space_store(w.env.ports, 0x200e, 0xfe, 1);
    assert_false(lines.level[14]);
    dp_space_store(w.env.ports, 0x200b, 1, 4); /* the bytes are for lines 11 to 14 */
    assert_true(lines.level[11] && !lines.level[12]);
    dp_device_reset(d);
    assert_true(!lines.level[11] && !lines.level[23]);
    assert_int_equal(dp_space_load(w.env.memory, 0xff000ffc, 4), 0);
    dp_device_free(d);
    conformance_world_fini(&w);
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(registers), cmocka_unit_test(conformance)};
    return cmocka_run_group_tests_name("test_device", tests, NULL, NULL);
}
