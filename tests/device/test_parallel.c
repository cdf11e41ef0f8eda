/* test_parallel.c - printing as BIOS interrupt 17h, DOS and Linux do it: polled for nACK, polled for BUSY, by interrupts; back-pressure,
 * initialisation, what is no printing; conformance.
 */
#include "devices/char/parallel.h"
#include "tests/device/console_rig.h"

enum { BASE = 0x378, DATA = 0, STATUS = 1, CONTROL = 2, IDLE = 0xd8 };

static void rig_new(struct rig *r)
{
    rig_make(r, &dp_parallel_class, "parallel0");
    dp_parallel_wire(r->d, (struct dp_irq){rig_irq, r, RIG_LINE}, r->c);
    rig_start(r, DP_PARALLEL_WINDOW, BASE);
}

static void printed(struct rig *r, const char *text)
{
    assert_int_equal(dp_console_output(r->c)->size, strlen(text));
    assert_memory_equal(dp_console_output(r->c)->data, text, strlen(text));
}

/* Interrupt 17h, function 0; returns AH. */
static uint8_t bios_print(struct rig *r, char c)
{
    out(r, DATA, (uint8_t)c);
    uint8_t control = in(r, CONTROL);
    out(r, CONTROL, control | 1);
    out(r, CONTROL, control & ~1);
    for (unsigned i = 0; i < 100; i++) {
        uint8_t v = in(r, STATUS);
        if (!(v & 0x40))
            return v ^ 0x48;
    }
    return (in(r, STATUS) ^ 0x48) | 1;
}

static void bios(void **state)
{
    struct rig r;
    rig_new(&r);
    /* Detection: what is written reads back. */
    out(&r, CONTROL, in(&r, CONTROL) & 0xdf);
    out(&r, DATA, 0xaa);
    assert_int_equal(in(&r, DATA), 0xaa);
    /* Function 1: initialise. */
    uint8_t control = in(&r, CONTROL);
    out(&r, CONTROL, control & ~4);
    assert_int_equal(in(&r, STATUS) & 0x80, 0);
    out(&r, CONTROL, control | 4);
    assert_int_equal(in(&r, STATUS) ^ 0x48, 0x90); /* not busy, selected */
    for (const char *p = "hello\r\n"; *p; p++)
        assert_int_equal(bios_print(&r, *p), 0xd0); /* and acknowledged */
    printed(&r, "hello\r\n");
    assert_int_equal(in(&r, STATUS), IDLE);
    assert_int_equal(r.rises, 0);
    rig_free(&r);
}

static void polling_busy(void **state)
{
    struct rig r;
    rig_new(&r);
    for (const char *p = "DOS"; *p; p++) {
        assert_int_equal(in(&r, STATUS) & 0x80, 0x80);
        out(&r, DATA, (uint8_t)*p);
        out(&r, CONTROL, 0x0d);
        out(&r, CONTROL, 0x0c);
    }
    printed(&r, "DOS");
    /* Only the rise of STROBE prints, and only what is selected takes it (Linux negotiates IEEE 1284 unselected). */
    out(&r, CONTROL, 0x0c);
    out(&r, CONTROL, 0x0d);
    out(&r, CONTROL, 0x0f);
    out(&r, CONTROL, 0x0c);
    out(&r, CONTROL, 0x06);
    out(&r, CONTROL, 0x07);
    out(&r, CONTROL, 0x06);
    printed(&r, "DOSS");
    /* Reversed: nobody drives the lines. */
    out(&r, CONTROL, 0x2c);
    assert_int_equal(in(&r, DATA), 0xff);
    assert_int_equal(in(&r, CONTROL), 0xec);
    rig_free(&r);
}

static void interrupts(void **state)
{
    struct rig r;
    rig_new(&r);
    out(&r, CONTROL, 0x1c);
    for (unsigned i = 0; i < 3; i++) {
        out(&r, DATA, (uint8_t)('x' + i));
        out(&r, CONTROL, 0x1d);
        out(&r, CONTROL, 0x1c);
        assert_int_equal(r.rises, i + 1); /* an edge each, though nobody read the status */
    }
    assert_true(r.irq);
    in(&r, STATUS);
    assert_false(r.irq);
    bios_print(&r, '!');
    out(&r, CONTROL, 0x1c);
    out(&r, DATA, '.');
    out(&r, CONTROL, 0x1d);
    assert_true(r.irq);
    out(&r, CONTROL, 0x0c);
    assert_false(r.irq);
    printed(&r, "xyz!.");
    rig_free(&r);
}

static void back_pressure(void **state)
{
    struct rig r;
    rig_new(&r);
    dp_console_limit(r.c, 1);
    out(&r, CONTROL, 0x1c);
    assert_int_equal(bios_print(&r, 'a'), 0xd0);
    assert_int_equal(bios_print(&r, 'b') & 0x81, 1); /* busy: time out */
    unsigned rises = r.rises;
    assert_int_equal(bios_print(&r, 'c') & 0x81, 1); /* lost */
    dp_console_limit(r.c, 100);
    assert_int_equal(r.rises, rises + 1);
    assert_int_equal(in(&r, STATUS), IDLE & ~0x40);
    assert_int_equal(in(&r, STATUS), IDLE);
    printed(&r, "ab");

    /* INIT drops it. Pause holds it. */
    dp_console_limit(r.c, 0);
    bios_print(&r, 'd');
    out(&r, CONTROL, 0x08);
    out(&r, CONTROL, 0x0c);
    dp_console_limit(r.c, 100);
    dp_device_pause(r.d);
    out(&r, DATA, 'e');
    out(&r, CONTROL, 0x1d);
    printed(&r, "ab");
    struct dp_buffer saved = {0};
    dp_device_save(r.d, &saved);
    conformance_load(r.d, &saved);
    dp_buffer_fini(&saved);
    dp_device_resume(r.d);
    printed(&r, "abe");
    rig_free(&r);
}

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_parallel_class, "parallel0", env);
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
        cmocka_unit_test(bios),          cmocka_unit_test(polling_busy), cmocka_unit_test(interrupts),
        cmocka_unit_test(back_pressure), cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("parallel", tests, NULL, NULL);
}
