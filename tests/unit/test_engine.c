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

/* The struct, its list of names and its use as an array agree. */
static void counters(void **state)
{
    struct dp_engine_counters c = {0}, sum = {0};
    uint64_t n = 0;
#define FILL(name, help) c.name = ++n;
    DP_ENGINE_COUNTERS(FILL)
    assert_int_equal(n, DP_ENGINE_COUNTER_COUNT);
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(dp_engine_counter_value(&c, i), i + 1);
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(dp_engine_counter_list[i].name, dp_engine_counter_list[j].name);
    }
    assert_string_equal(dp_engine_counter_list[c.exits_fault - 1].name, "exits_fault");
    dp_engine_counters_add(&sum, &c);
    dp_engine_counters_add(&sum, &c);
    assert_int_equal(sum.instructions, 2);
    assert_int_equal(sum.exits_fault, 2 * n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(choice), cmocka_unit_test(null_engine), cmocka_unit_test(counters)};
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
