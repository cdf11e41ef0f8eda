/* test_debugcon.c - the debug console port, to a console and to the trace; conformance. */
#include "devices/char/debugcon.h"
#include "tests/device/conformance.h"

static void trace_line(void *opaque, const char *line)
{
    struct dp_buffer *b = opaque;
    dp_buffer_printf(b, "%s|", line);
}

static struct dp_device *make(const struct dp_device_env *env, void *console)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_debugcon_class, "debugcon", env);
    dp_debugcon_wire(d, console, DP_TRACE_BOOT);
    assert_ok(dp_device_init(d, &e), e);
    dp_device_resume(d);
    return d;
}

static void say(struct conformance_world *w, const char *text)
{
    assert_int_equal(dp_space_load(w->env.ports, DP_DEBUGCON_PORT, 1), 0xe9); /* as SeaBIOS looks for it */
    for (; *text; text++)
        dp_space_store(w->env.ports, DP_DEBUGCON_PORT, (uint8_t)*text, 1);
}

static void to_console(void **state)
{
    struct conformance_world w;
    struct dp_error e = {0};
    struct dp_console *c;
    conformance_world_init(&w);
    assert_ok(dp_console_open_memory(&c, &e), e);
    struct dp_device *d = make(&w.env, c);
    assert_ok(dp_device_map(d, DP_DEBUGCON_WINDOW, DP_DEBUGCON_PORT, &e), e);
    say(&w, "SeaBIOS\n");
    assert_int_equal(dp_console_output(c)->size, 8);
    assert_memory_equal(dp_console_output(c)->data, "SeaBIOS\n", 8);
    dp_console_limit(c, 2);
    say(&w, "abc");
    assert_int_equal(dp_console_output(c)->size, 10);
    dp_device_free(d);
    dp_console_close(c);
    conformance_world_fini(&w);
}

static void to_trace(void **state)
{
    struct conformance_world w;
    struct dp_error e = {0};
    struct dp_buffer text = {0};
    struct dp_trace trace = {.sink = trace_line, .opaque = &text};
    atomic_store(&trace.mask, 1u << DP_TRACE_BOOT);
    conformance_world_init(&w);
    w.env.trace = &trace;
    struct dp_device *d = make(&w.env, NULL);
    assert_ok(dp_device_map(d, DP_DEBUGCON_WINDOW, DP_DEBUGCON_PORT, &e), e);
    say(&w, "one\r\n\ntwo\33[0m");
    dp_buffer_append(&text, "", 1);
    assert_non_null(strstr((char *)text.data, "debugcon: one|"));
    assert_null(strstr((char *)text.data, "two"));
    say(&w, "\n");
    dp_buffer_append(&text, "", 1);
    text.size = 0;
    for (unsigned i = 0; i < 450; i++)
        say(&w, "x");
    dp_buffer_append(&text, "", 1);
    unsigned lines = 0;
    for (const char *p = (char *)text.data; (p = strchr(p, '|')); p++)
        lines++;
    assert_int_equal(lines, 2);
    dp_buffer_fini(&text);
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(to_console), cmocka_unit_test(to_trace), cmocka_unit_test(conformance)};
    return cmocka_run_group_tests_name("debugcon", tests, NULL, NULL);
}
