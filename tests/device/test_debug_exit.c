/* test_debug_exit.c - isa-debug-exit and the exit-status latch. */
#include "devices/char/debug_exit.h"
#include "tests/device/conformance.h"

struct requests { unsigned n; enum dp_vm_request kind; int status; };

static void request(void *opaque, enum dp_vm_request r, int status)
{
    struct requests *q = opaque;
    *q = (struct requests){q->n + 1, r, status};
}

static void debug_exit(void **state)
{
    struct conformance_world w;
    struct requests q = {0};
    struct dp_error e = {0};
    conformance_world_init(&w);
    w.env.vm = (struct dp_vm_sink){request, &q};
    struct dp_device *d = dp_device_alloc(&dp_debug_exit_class, "exit", &w.env);
    assert_ok(dp_device_init(d, &e), e);
    assert_ok(dp_device_map(d, DP_DEBUG_EXIT_WINDOW, 0xf4, &e), e);
    dp_space_store(w.env.ports, 0xf4, 0x10, 1);
    assert_true(q.n == 1 && q.kind == DP_VM_EXIT && q.status == 0x21);
    dp_space_store(w.env.ports, 0xf4, 0x1234, 2);
    assert_true(q.n == 2 && q.status == 0x2469);
    dp_space_store(w.env.ports, 0xf4, 0, 4);
    assert_true(q.n == 3 && q.status == 1);
    dp_space_store(w.env.ports, 0xf4, 0xffffffff, 4);
    assert_true(q.n == 4 && q.status == -1);
    assert_int_equal(dp_space_load(w.env.ports, 0xf4, 4), 0xffffffff);
    assert_int_equal(q.n, 4);
    dp_device_free(d);
    conformance_world_fini(&w);
}

static struct dp_device *make_status(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_exit_status_class, "status", env);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void exit_status(void **state)
{
    struct conformance_world w;
    struct dp_error e = {0};
    conformance_world_init(&w);
    struct dp_device *d = make_status(&w.env, NULL);
    assert_ok(dp_device_map(d, DP_EXIT_STATUS_WINDOW, 0x520, &e), e);
    assert_int_equal(dp_exit_status_get(d), 0);
    dp_space_store(w.env.ports, 0x520, 0x1234, 2);
    assert_int_equal(dp_exit_status_get(d), 0x1234);
    dp_space_store(w.env.ports, 0x520, 0x56, 1);
    dp_space_store(w.env.ports, 0x521, 0x78, 1);
    assert_int_equal(dp_space_load(w.env.ports, 0x520, 2), 0x7856);
    assert_int_equal(dp_space_load(w.env.ports, 0x520, 4), 0xffff7856);
    dp_device_reset(d);
    assert_int_equal(dp_exit_status_get(d), 0);
    dp_device_free(d);
    conformance_world_fini(&w);
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make_status};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(debug_exit), cmocka_unit_test(exit_status), cmocka_unit_test(conformance)};
    return cmocka_run_group_tests_name("debug_exit", tests, NULL, NULL);
}
