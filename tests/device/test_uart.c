/* test_uart.c - the 16550A on a manual clock and a memory console: interrupts and their clearing, FIFOs, timeout, loopback, modem
 * lines, back-pressure, pause, break, and what every device must do.
 */
#include "devices/char/uart.h"
#include "tests/device/console_rig.h"

enum { DATA, IER, IIR, FCR = IIR, LCR, MCR, LSR, MSR, SCR };
enum { BASE = 0x3f8, DTR = 1, RTS = 2, OUT2 = 8, LOOP = 0x10 };

static void rig_new(struct rig *r)
{
    rig_make(r, &dp_uart_class, "serial0");
    dp_uart_wire(r->d, (struct dp_irq){rig_irq, r, RIG_LINE}, r->c);
    rig_start(r, DP_UART_WINDOW, BASE);
}

static void registers(void **state)
{
    struct rig r;
    rig_new(&r);
    assert_int_equal(in(&r, IER), 0);
    assert_int_equal(in(&r, IIR), 1);
    assert_int_equal(in(&r, LCR), 0);
    assert_int_equal(in(&r, MCR), 0);
    assert_int_equal(in(&r, LSR), 0x60);
    assert_int_equal(in(&r, MSR), 0xb0);
    out(&r, SCR, 0x5a);
    assert_int_equal(in(&r, SCR), 0x5a);
    out(&r, IER, 0xff);
    assert_int_equal(in(&r, IER), 0x0f); /* autodetection relies on the high half */
    out(&r, MCR, 0xff);
    assert_int_equal(in(&r, MCR), 0x1f);
    out(&r, MCR, 0);
    out(&r, LCR, 0x83);
    out(&r, DATA, 0x34);
    out(&r, IER, 0x12);
    assert_int_equal(in(&r, DATA), 0x34);
    assert_int_equal(in(&r, IER), 0x12);
    out(&r, LCR, 0x03);
    assert_int_equal(in(&r, IER), 0x0f);
    assert_int_equal(dp_console_output(r.c)->size, 0); /* the divisor was not sent */
    out(&r, FCR, 0xc1);
    assert_int_equal(in(&r, IIR) & 0xc0, 0xc0);
    out(&r, FCR, 0);
    assert_int_equal(in(&r, IIR) & 0xc0, 0);
    rig_free(&r);
}

static void transmit(void **state)
{
    struct rig r;
    rig_new(&r);
    out(&r, MCR, OUT2);
    const char *text = "Hello";
    for (const char *p = text; *p; p++) {
        assert_int_equal(in(&r, LSR) & 0x60, 0x60);
        out(&r, DATA, (uint8_t)*p);
    }
    assert_memory_equal(dp_console_output(r.c)->data, text, 5);

    /* Enabling the interrupt while THR is empty raises it; reading IIR clears it; so does writing THR, until it is empty again. */
    assert_false(r.irq);
    out(&r, IER, 2);
    assert_true(r.irq);
    assert_int_equal(in(&r, IIR), 2);
    assert_false(r.irq);
    assert_int_equal(in(&r, IIR), 1);
    out(&r, DATA, 'x'); /* taken at once: empty again */
    assert_true(r.irq);
    assert_int_equal(in(&r, IIR), 2);
    out(&r, IER, 0);
    out(&r, IER, 2); /* Linux probes for this */
    assert_int_equal(in(&r, IIR), 2);
    rig_free(&r);
}

/* A whole handler, as a processor runs it while the thread that raised the line is still about it: until IIR says there is nothing more. Then a
 * character comes. */
static void quick_handler(struct rig *r)
{
    while (!(in(r, IIR) & 1))
        in(r, DATA);
    assert_int_equal(r->rises, 1);
    dp_console_feed(r->c, "b", 1);
}

static void edge_for_each_event(void **state)
{
    struct rig r;
    rig_new(&r);
    out(&r, FCR, 1);
    out(&r, MCR, OUT2 | RTS);
    out(&r, IER, 1);
    r.on_rise = quick_handler;
    dp_console_feed(r.c, "a", 1);
    assert_int_equal(r.rises, 2); /* a handler that saw no interrupt pending waits for the next edge */
    assert_true(r.irq);
    assert_int_equal(in(&r, DATA), 'b');
    assert_false(r.irq);

    /* Writing THR lets the line go, however soon it is empty again. */
    r.rises = 0;
    out(&r, IER, 2);
    assert_int_equal(r.rises, 1);
    out(&r, DATA, 'x');
    assert_int_equal(r.rises, 2);
    rig_free(&r);
}

static void back_pressure(void **state)
{
    struct rig r;
    rig_new(&r);
    out(&r, FCR, 1);
    out(&r, MCR, OUT2);
    dp_console_limit(r.c, 2);
    for (unsigned i = 0; i < 20; i++) /* 2 sent, 16 kept, 2 lost: the guest did not look at THRE */
        out(&r, DATA, (uint8_t)('a' + i));
    assert_int_equal(in(&r, LSR) & 0x60, 0);
    out(&r, IER, 2);
    assert_int_equal(in(&r, IIR), 0xc1); /* nothing: THR is not empty */
    dp_console_limit(r.c, 5);
    assert_int_equal(in(&r, LSR) & 0x60, 0);
    assert_false(r.irq);
    dp_console_limit(r.c, 100);
    assert_int_equal(in(&r, LSR) & 0x60, 0x60);
    assert_true(r.irq);
    assert_int_equal(in(&r, IIR), 0xc2);
    assert_int_equal(dp_console_output(r.c)->size, 18);
    assert_memory_equal(dp_console_output(r.c)->data, "abcdefghijklmnopqr", 18);

    /* Clearing the FIFO drops what waits. */
    dp_console_limit(r.c, 0);
    out(&r, DATA, 'y');
    out(&r, DATA, 'z');
    out(&r, FCR, 5);
    assert_int_equal(in(&r, LSR) & 0x60, 0x60);
    dp_console_limit(r.c, 100);
    assert_int_equal(dp_console_output(r.c)->size, 18);
    rig_free(&r);
}

static void receive(void **state)
{
    struct rig r;
    rig_new(&r);
    out(&r, MCR, OUT2);
    out(&r, IER, 1);
    dp_console_feed(r.c, "abc", 3); /* no FIFO: one at a time, the rest waits in the console */
    assert_true(r.irq);
    assert_int_equal(in(&r, IIR), 4);
    assert_int_equal(in(&r, LSR), 0x61);
    assert_int_equal(in(&r, DATA), 'a');
    assert_true(r.irq);
    assert_int_equal(in(&r, DATA), 'b');
    assert_int_equal(in(&r, DATA), 'c');
    assert_false(r.irq);
    assert_int_equal(in(&r, LSR), 0x60);
    assert_int_equal(in(&r, IIR), 1);

    /* FIFO with trigger 4. */
    out(&r, FCR, 0x41);
    dp_console_feed(r.c, "123", 3);
    assert_false(r.irq);
    assert_int_equal(in(&r, LSR), 0x61);
    dp_console_feed(r.c, "4", 1);
    assert_true(r.irq);
    assert_int_equal(in(&r, IIR), 0xc4);
    assert_int_equal(in(&r, DATA), '1');
    assert_false(r.irq); /* below the trigger: a timeout must tell of the rest */
    dp_clock_advance(r.w.env.clock, 100000000);
    assert_true(r.irq);
    assert_int_equal(in(&r, IIR), 0xcc);
    assert_int_equal(in(&r, IIR), 0xcc); /* only reading data clears it */
    assert_int_equal(in(&r, DATA), '2');
    assert_false(r.irq);
    dp_clock_advance(r.w.env.clock, 100000000); /* and it comes again while something is left */
    assert_int_equal(in(&r, IIR), 0xcc);
    assert_int_equal(in(&r, DATA), '3');
    assert_int_equal(in(&r, DATA), '4');
    dp_clock_advance(r.w.env.clock, 100000000);
    assert_false(r.irq);
    assert_int_equal(in(&r, IIR), 0xc1);

    /* More than fits: all of it arrives, nothing overruns. */
    char many[100], got[100];
    for (unsigned i = 0; i < sizeof(many); i++)
        many[i] = (char)('0' + i % 64);
    dp_console_feed(r.c, many, sizeof(many));
    for (unsigned i = 0; i < sizeof(got); i++) {
        assert_int_equal(in(&r, LSR) & 3, 1);
        got[i] = (char)in(&r, DATA);
    }
    assert_memory_equal(many, got, sizeof(got));
    assert_int_equal(in(&r, LSR), 0x60);
    out(&r, IER, 0);
    out(&r, MCR, RTS);
    dp_console_feed(r.c, "zz", 2);
    assert_int_equal(in(&r, LSR), 0x61);
    out(&r, FCR, 0x43); /* clear */
    assert_int_equal(in(&r, LSR), 0x60);
    rig_free(&r);
}

/* What is typed before a driver listens waits: drivers clear the FIFO when they start. Interrupts, RTS, patient polling are listening. */
static void listening(void **state)
{
    struct rig r;
    rig_new(&r);
    dp_console_feed(r.c, "abcd", 4);
    out(&r, FCR, 0x07);
    for (unsigned i = 0; i < 50; i++) { /* as a driver that sends */
        assert_int_equal(in(&r, LSR), 0x60);
        out(&r, DATA, '.');
    }
    out(&r, FCR, 0x00);
    out(&r, MCR, RTS); /* without FIFO: one character */
    assert_int_equal(in(&r, LSR), 0x61);
    out(&r, MCR, 0);
    assert_int_equal(in(&r, DATA), 'a');
    assert_int_equal(in(&r, LSR), 0x60);
    unsigned polls = 0;
    while (!(in(&r, LSR) & 1) && polls < 100)
        polls++;
    assert_in_range(polls, 2, 20);
    assert_int_equal(in(&r, DATA), 'b');
    out(&r, FCR, 0x01);
    out(&r, IER, 1); /* a probe: no interrupt gets through without OUT2 */
    out(&r, MCR, OUT2 | DTR);
    assert_int_equal(in(&r, LSR), 0x60);
    out(&r, MCR, OUT2);
    assert_int_equal(in(&r, DATA), 'c');
    assert_int_equal(in(&r, DATA), 'd');
    rig_free(&r);
}

/* The timeout is four characters of 10 bits at the divisor's rate. */
static void timeout_length(void **state)
{
    struct rig r;
    rig_new(&r);
    out(&r, LCR, 0x83);
    out(&r, DATA, 12); /* 9600 baud */
    out(&r, IER, 0);
    out(&r, LCR, 0x03);
    out(&r, FCR, 0xc1);
    out(&r, IER, 1);
    out(&r, MCR, OUT2);
    dp_console_feed(r.c, "a", 1);
    dp_clock_advance(r.w.env.clock, 4166000);
    assert_false(r.irq);
    dp_clock_advance(r.w.env.clock, 1000);
    assert_true(r.irq);
    rig_free(&r);
}

static void priorities(void **state)
{
    struct rig r;
    rig_new(&r);
    out(&r, MCR, OUT2);
    out(&r, FCR, 0x01);
    out(&r, MCR, OUT2 | LOOP);
    out(&r, MCR, OUT2); /* modem lines moved: DCTS, DDSR */
    dp_console_break(r.c);
    dp_console_feed(r.c, "k", 1);
    out(&r, IER, 0x0f);
    assert_true(r.irq);
    assert_int_equal(in(&r, IIR), 0xc6);
    assert_int_equal(in(&r, LSR), 0xf9); /* DR, FE, BI, THRE, TEMT, error in FIFO */
    assert_int_equal(in(&r, IIR), 0xc4);
    assert_int_equal(in(&r, DATA), 0);
    assert_int_equal(in(&r, DATA), 'k');
    assert_int_equal(in(&r, IIR), 0xc2);
    assert_true(r.irq);
    assert_int_equal(in(&r, IIR), 0xc0);
    assert_int_equal(in(&r, MSR) & 0x0f, 3);
    assert_int_equal(in(&r, IIR), 0xc1);
    assert_false(r.irq);

    /* An error shows when its character becomes the oldest. */
    dp_console_feed(r.c, "m", 1);
    dp_console_break(r.c);
    assert_int_equal(in(&r, LSR), 0xe1);
    assert_int_equal(in(&r, DATA), 'm');
    assert_int_equal(in(&r, IIR), 0xc6);
    assert_int_equal(in(&r, LSR), 0xf9);
    assert_int_equal(in(&r, LSR), 0x61);
    rig_free(&r);
}

static void loopback(void **state)
{
    struct rig r;
    rig_new(&r);
    out(&r, MCR, LOOP | 0x0a); /* as Linux probes: RTS and OUT2 come back as CTS and DCD */
    assert_int_equal(in(&r, MSR) & 0xf0, 0x90);
    out(&r, MCR, LOOP | 0x05);
    assert_int_equal(in(&r, MSR) & 0xf0, 0x60);
    out(&r, MCR, LOOP | 0x01);
    assert_int_equal(in(&r, MSR), 0x24); /* the end of ringing */
    out(&r, MCR, LOOP | 0x05);
    assert_int_equal(in(&r, MSR), 0x60); /* its start is none */

    out(&r, FCR, 1);
    out(&r, IER, 1);
    dp_console_feed(r.c, "outside", 7);
    for (unsigned i = 0; i < 16; i++)
        out(&r, DATA, (uint8_t)(0xa0 + i));
    assert_int_equal(in(&r, LSR), 0x61);
    out(&r, DATA, 0xee); /* one too many: the FIFO keeps the old */
    assert_int_equal(in(&r, LSR), 0x63);
    assert_int_equal(in(&r, LSR), 0x61);
    assert_false(r.irq); /* OUT2 is disconnected */
    assert_int_equal(in(&r, IIR), 0xc4);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(in(&r, DATA), 0xa0 + i);
    assert_int_equal(dp_console_output(r.c)->size, 0);
    out(&r, LCR, 0x43);
    assert_int_equal(in(&r, LSR), 0xf9);
    assert_int_equal(in(&r, DATA), 0);
    out(&r, LCR, 0x03);
    out(&r, MCR, OUT2); /* connected again: what waited outside comes in */
    assert_true(r.irq);
    assert_int_equal(in(&r, DATA), 'o');

    /* Without FIFOs the newer character overwrites. */
    out(&r, FCR, 0);
    out(&r, MCR, LOOP);
    in(&r, DATA);
    out(&r, DATA, 1);
    out(&r, DATA, 2);
    assert_int_equal(in(&r, LSR), 0x63);
    assert_int_equal(in(&r, DATA), 2);
    rig_free(&r);
}

static void out2_gates(void **state)
{
    struct rig r;
    rig_new(&r);
    out(&r, MCR, RTS);
    out(&r, IER, 1);
    dp_console_feed(r.c, "a", 1);
    assert_int_equal(in(&r, IIR), 4);
    assert_false(r.irq);
    out(&r, MCR, OUT2);
    assert_true(r.irq);
    out(&r, MCR, 0);
    assert_false(r.irq);
    rig_free(&r);
}

static void pause_and_restore(void **state)
{
    struct rig r;
    struct dp_error e = {0};
    rig_new(&r);
    out(&r, MCR, OUT2);
    out(&r, FCR, 1);
    out(&r, IER, 3);
    in(&r, IIR);
    unsigned edges = r.edges;
    dp_device_pause(r.d);
    dp_console_feed(r.c, "in", 2); /* accepted and held */
    out(&r, DATA, 'o');
    assert_int_equal(r.edges, edges);
    assert_int_equal(dp_console_output(r.c)->size, 0);
    struct dp_buffer image = {0};
    dp_device_save(r.d, &image);

    struct rig s;
    rig_new(&s);
    dp_device_pause(s.d);
    assert_ok(dp_device_load(s.d, image.data, image.size, NULL, &e), e);
    assert_false(s.irq);
    assert_int_equal(dp_console_output(s.c)->size, 0);
    struct rig *both[] = {&r, &s};
    for (unsigned i = 0; i < 2; i++) {
        struct rig *k = both[i];
        dp_device_resume(k->d);
        assert_true(k->irq);
        assert_memory_equal(dp_console_output(k->c)->data, "o", 1);
        assert_int_equal(in(k, IIR), 0xc4);
        assert_int_equal(in(k, DATA), 'i');
        assert_int_equal(in(k, DATA), 'n');
        assert_int_equal(in(k, IIR), 0xc2);
        assert_false(k->irq);
    }

    /* Reset lowers the line and empties everything. */
    dp_console_feed(r.c, "x", 1);
    assert_true(r.irq);
    dp_device_reset(r.d);
    assert_false(r.irq);
    assert_int_equal(in(&r, LSR), 0x60);
    dp_buffer_fini(&image);
    rig_free(&r);
    rig_free(&s);
}

static void no_console(void **state)
{
    struct conformance_world w;
    struct dp_error e = {0};
    conformance_world_init(&w);
    struct dp_device *d = dp_device_alloc(&dp_uart_class, "serial1", &w.env);
    dp_uart_wire(d, (struct dp_irq){0}, NULL);
    assert_ok(dp_device_init(d, &e), e);
    assert_ok(dp_device_map(d, DP_UART_WINDOW, 0x2f8, &e), e);
    dp_device_resume(d);
    for (unsigned i = 0; i < 100; i++)
        dp_space_store(w.env.ports, 0x2f8, i, 1);
    assert_int_equal(dp_space_load(w.env.ports, 0x2fd, 1), 0x60);
    dp_device_free(d);
    conformance_world_fini(&w);
}

/* Two threads write while a third feeds and one reads: for the sanitizers, and nothing may hang. */
struct hammer { struct rig *r; unsigned seed; };

static void *hammer(void *opaque)
{
    struct hammer *h = opaque;
    struct dp_random random;
    dp_random_seed(&random, h->seed);
    for (unsigned i = 0; i < 30000; i++) {
        uint64_t v = dp_random_next(&random);
        unsigned reg = v % 8;
        if (v >> 8 & 1)
            in(h->r, reg);
        else
            out(h->r, reg, (uint8_t)(v >> 16));
        if (i % 64 == 0)
            dp_console_feed(h->r->c, &v, 8);
        if (i % 1000 == 0)
            dp_console_limit(h->r->c, v >> 32 & 0xff);
    }
    return NULL;
}

static void irq_any(void *opaque, unsigned n, bool level) { atomic_store((atomic_bool *)opaque, level); }

static void threads(void **state)
{
    struct rig r;
    atomic_bool line = false;
    rig_new(&r);
    dp_uart_wire(r.d, (struct dp_irq){irq_any, &line, 4}, r.c);
    pthread_t t[3];
    struct hammer h[3];
    for (unsigned i = 0; i < 3; i++) {
        h[i] = (struct hammer){&r, i};
        pthread_create(&t[i], NULL, hammer, &h[i]);
    }
    for (unsigned i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    /* Quiet again, the line agrees with the registers. */
    out(&r, LCR, 3); /* they may have left the divisor latch open */
    dp_console_limit(r.c, SIZE_MAX);
    out(&r, MCR, OUT2);
    bool level = atomic_load(&line);
    assert_int_equal(level, !(in(&r, IIR) & 1));
    out(&r, IER, 0);
    assert_false(atomic_load(&line));
    rig_free(&r);
}

static struct dp_device *make_uart(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_uart_class, "serial0", env);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make_uart};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(registers), cmocka_unit_test(transmit), cmocka_unit_test(edge_for_each_event), cmocka_unit_test(back_pressure), cmocka_unit_test(receive),
        cmocka_unit_test(listening), cmocka_unit_test(timeout_length), cmocka_unit_test(priorities), cmocka_unit_test(loopback), cmocka_unit_test(out2_gates),
        cmocka_unit_test(pause_and_restore), cmocka_unit_test(no_console), cmocka_unit_test(threads), cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("uart", tests, NULL, NULL);
}
