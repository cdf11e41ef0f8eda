/* test_engine.c - the choice of an engine, and what the null engine promises. */
#include "engine/engine.h"
#include "tests/unit/test.h"

static void choice(void **state)
{
    char why[300];
    struct dp_error e = {0};
    assert_ptr_equal(dp_engine_choose("null", why, sizeof(why), &e), dp_engine_find("null"));
    assert_string_equal(why, "as asked for");
    assert_null(dp_engine_choose("warp", why, sizeof(why), &e));
    assert_int_equal(e.code, -ENOENT);
    assert_non_null(strstr(e.text, "null"));
    if (!dp_engine_find("kvm")) {
        assert_null(dp_engine_choose("kvm", why, sizeof(why), &e));
        assert_int_equal(e.code, -ENOTSUP);
    }
    const struct dp_engine *best = dp_engine_choose("auto", why, sizeof(why), &e);
    if (dp_engine_find("interp")) {
        assert_non_null(best);
        assert_string_not_equal(best->name, "null");
        assert_non_null(strstr(why, best->name));
    }
}

static void null_engine(void **state)
{
    const struct dp_engine *n = dp_engine_find("null");
    struct dp_error e = {0};
    struct dp_engine_vm vm = {.cpu_count = 1};
    struct dp_engine_state *s = NULL;
    struct dp_cpu *cpu = NULL;
    struct dp_x86_bus bus = {0};
    assert_ok(n->probe(&e), e);
    assert_ok(n->vm_init(&vm, &s, &e), e);
    assert_ok(n->cpu_init(s, 0, &bus, &cpu, &e), e);
    struct dp_exit exit;
    n->run(cpu, 0, &exit);
    assert_int_equal(exit.kind, DP_EXIT_HALT);
    n->kick(cpu);
    n->run(cpu, 0, &exit);
    assert_int_equal(exit.kind, DP_EXIT_KICK);
    n->interrupt(cpu, DP_LINE_NMI, 0);
    n->run(cpu, 0, &exit);
    assert_int_equal(exit.kind, DP_EXIT_KICK);
    n->run(cpu, 0, &exit);
    assert_int_equal(exit.kind, DP_EXIT_HALT);
    struct x86_state a, b;
    n->pull(cpu, &a);
    a.r[X86_RIP] = 0x1234;
    n->push(cpu, &a);
    n->pull(cpu, &b);
    assert_int_equal(dp_state_diff(&x86_state_table, &a, &b, NULL), 0);
    assert_int_equal(n->breakpoint(cpu, 0, true), -ENOTSUP);
    struct dp_engine_counters counters;
    n->counters(cpu, &counters);
    assert_int_equal(counters.instructions, 0);
    n->cpu_fini(cpu);
    n->vm_fini(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(choice), cmocka_unit_test(null_engine)};
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
