/* test_virtio_console.c - hvc0: input in pieces, output with a back end that takes as much as it likes, pauses and resets between.
 * The console here is a fake (it stands in for src/console), because back-pressure is the point.
 */
#include "console/console.h"
#include "tests/device/virtio_driver.h"

enum { RX, TX };

struct dp_console {
    struct dp_console_client client;
    bool attached;
    size_t limit;              /* bytes it still takes */
    struct dp_buffer output;
    unsigned kicks;
    void (*in_write)(void *opaque); /* runs within a write, as another thread might */
    void *opaque;
};

void dp_console_attach(struct dp_console *c, const struct dp_console_client *client)
{
    c->attached = client;
    if (client)
        c->client = *client;
}

size_t dp_console_write(struct dp_console *c, const uint8_t *data, size_t n)
{
    if (c->in_write)
        c->in_write(c->opaque);
    n = DP_MIN(n, c->limit);
    c->limit -= n;
    dp_buffer_append(&c->output, data, n);
    return n;
}

void dp_console_kick(struct dp_console *c) { c->kicks++; }

struct rig { struct bus bus; struct dp_console console; struct dp_device *adapter; struct driver d; uint64_t data; };

static struct dp_device *make_console(const struct dp_device_env *env, struct dp_console *console)
{
    struct dp_device *child = dp_device_alloc(&dp_virtio_console_class, "hvc", env);
    dp_virtio_console_attach(child, console);
    return child;
}

static void rig_init(struct rig *r)
{
    memset(r, 0, sizeof(*r));
    bus_init(&r->bus);
    r->console.limit = SIZE_MAX;
    r->adapter = bus_plug(&r->bus, make_console(&r->bus.w.env, &r->console), 3);
    driver_probe(&r->d, &r->bus, 3, 3);
    r->data = guest_alloc(&r->bus, 1 << 20);
    assert_true(r->console.attached);
}

static void rig_fini(struct rig *r)
{
    dp_device_free(r->adapter);
    assert_false(r->console.attached);
    dp_buffer_fini(&r->console.output);
    bus_fini(&r->bus);
}

static void send(struct rig *r, const void *text, size_t n)
{
    memcpy(guest(&r->bus, r->data), text, n);
    struct buffer v = { r->data, n, false };
    ring_add(&r->d, TX, &v, 1, false);
    ring_kick(&r->d, TX);
}

static void expect(struct rig *r, const void *text, size_t n)
{
    assert_int_equal(r->console.output.size, n);
    assert_memory_equal(r->console.output.data, text, n);
    r->console.output.size = 0;
}

static void feed(struct rig *r, const char *text)
{
    const struct dp_console_client *c = &r->console.client;
    size_t n = strlen(text);
    assert_true(n <= c->room(c->opaque));
    c->receive(c->opaque, (const uint8_t *)text, n);
}

static void output(void **state)
{
    struct rig r;
    rig_init(&r);
    driver_start(&r.d, ~0ull, 0, true);
    assert_int_equal(dp_space_load(r.bus.w.env.memory, r.d.config + 4, 4), 1);
    send(&r, "hello\n", 6);
    expect(&r, "hello\n", 6);
    uint32_t length;
    assert_int_equal(ring_used(&r.d, TX, &length), 0);
    assert_int_equal(length, 0);
    assert_int_equal(r.bus.msi_count[TX], 1);

    static uint8_t big[300000];
    for (unsigned i = 0; i < sizeof(big); i++)
        big[i] = i * 7 >> 3;
    memcpy(guest(&r.bus, r.data + 4096), big, sizeof(big));
    struct buffer v[] = { { r.data + 4096, 100000, false }, { r.data + 104096, 200000, false } };
    ring_add(&r.d, TX, v, 2, true);
    ring_kick(&r.d, TX);
    expect(&r, big, sizeof(big));
    assert_true(ring_used(&r.d, TX, NULL) >= 0);

    struct buffer writable = { r.data, 100, true }, nowhere = { NO_DEVICE_HERE, 16, false };
    ring_add(&r.d, TX, &writable, 1, false); /* nothing to send */
    ring_kick(&r.d, TX);
    assert_true(ring_used(&r.d, TX, NULL) >= 0);
    ring_add(&r.d, TX, &nowhere, 1, false);
    ring_kick(&r.d, TX);
    assert_int_equal(driver_status(&r.d), 15 | DP_VIRTIO_NEEDS_RESET);
    rig_fini(&r);
}

/* More than one go is allowed to do: the rest comes from the loop. */
static void endless_output(void **state)
{
    struct rig r;
    rig_init(&r);
    driver_start(&r.d, 0, 0, false);
    struct buffer v[20];
    for (unsigned i = 0; i < 20; i++)
        v[i] = (struct buffer){ r.data, 1 << 20, false };
    ring_add(&r.d, TX, v, 20, false);
    ring_kick(&r.d, TX);
    assert_int_equal(r.console.output.size, 1 << 20);
    assert_int_equal(ring_used(&r.d, TX, NULL), -1);
    for (unsigned i = 0; i < 30; i++)
        dp_clock_advance(r.bus.w.env.clock, 1);
    assert_int_equal(r.console.output.size, 20 << 20);
    assert_int_equal(ring_used(&r.d, TX, NULL), 0);
    rig_fini(&r);
}

static void back_pressure(void **state)
{
    struct rig r;
    rig_init(&r);
    driver_start(&r.d, 0, 0, false);
    const struct dp_console_client *c = &r.console.client;
    r.console.limit = 3;
    send(&r, "abcdefgh", 8);
    expect(&r, "abc", 3);
    assert_int_equal(ring_used(&r.d, TX, NULL), -1);
    c->writable(c->opaque);
    expect(&r, "", 0);
    r.console.limit = 2;
    c->writable(c->opaque);
    expect(&r, "de", 2);

    /* Saved in the middle of a request, goes on elsewhere. */
    struct dp_error e = { 0 };
    struct dp_buffer image = { 0 };
    size_t used;
    dp_device_pause(r.adapter);
    r.console.limit = SIZE_MAX;
    c->writable(c->opaque);
    expect(&r, "", 0);
    dp_device_save(r.adapter, &image);
    dp_device_save(dp_virtio_pci_child(r.adapter), &image);
    dp_device_free(r.adapter);
    r.adapter = bus_plug(&r.bus, make_console(&r.bus.w.env, &r.console), 3);
    dp_device_pause(r.adapter);
    assert_ok(dp_device_load(r.adapter, image.data, image.size, &used, &e), e);
    assert_ok(dp_device_load(dp_virtio_pci_child(r.adapter), image.data + used, image.size - used, NULL, &e), e);
    dp_buffer_fini(&image);
    dp_device_resume(r.adapter);
    expect(&r, "fgh", 3);
    assert_int_equal(ring_used(&r.d, TX, NULL), 0);

    r.console.limit = 1;
    send(&r, "xyz", 3);
    expect(&r, "x", 1);
    driver_start(&r.d, 0, 0, false); /* a reset forgets the half-sent request */
    r.console.limit = SIZE_MAX;
    c->writable(c->opaque);
    send(&r, "new", 3);
    expect(&r, "new", 3);
    rig_fini(&r);
}

/* What happens while the back end writes: its own "writable", a kick, a driver's reset. */
static void writable_meanwhile(void *opaque)
{
    struct rig *r = opaque;
    r->console.in_write = NULL;
    r->console.limit = 0;
    r->console.client.writable(r->console.client.opaque);
    ring_kick(&r->d, TX);
}

static void reset_meanwhile(void *opaque)
{
    struct rig *r = opaque;
    r->console.in_write = NULL;
    reg_write(&r->d, C_STATUS, 0, 1);
    assert_int_not_equal(driver_status(&r->d), 0);
}

static void meanwhile(void **state)
{
    struct rig r;
    rig_init(&r);
    driver_start(&r.d, 0, 0, false);
    r.console.opaque = &r;
    r.console.in_write = writable_meanwhile;
    send(&r, "abc", 3); /* refused, but asked to try again: refused again, then it waits */
    expect(&r, "", 0);
    r.console.limit = SIZE_MAX;
    r.console.client.writable(r.console.client.opaque);
    expect(&r, "abc", 3);
    assert_int_equal(ring_used(&r.d, TX, NULL), 0);
    r.console.in_write = reset_meanwhile;
    send(&r, "abc", 3);
    assert_int_equal(driver_status(&r.d), 0);
    assert_int_equal(dp_ld16(guest(&r.bus, r.d.ring[TX].used + 2)), 1);
    rig_fini(&r);
}

static void input(void **state)
{
    struct rig r;
    rig_init(&r);
    const struct dp_console_client *c = &r.console.client;
    feed(&r, "early "); /* kept until there is a driver */
    driver_start(&r.d, 0, 0, true);
    struct buffer v[] = { { r.data, 4, true }, { r.data + 100, 100, true } };
    ring_add(&r.d, RX, v, 1, false);
    unsigned kicks = r.console.kicks;
    ring_kick(&r.d, RX);
    assert_int_equal(r.console.kicks, kicks + 1);
    uint32_t length;
    assert_int_equal(ring_used(&r.d, RX, &length), 0);
    assert_int_equal(length, 4);
    assert_memory_equal(guest(&r.bus, r.data), "earl", 4);
    assert_int_equal(c->room(c->opaque), 254);
    ring_add(&r.d, RX, v, 2, false);
    ring_kick(&r.d, RX);
    assert_int_equal(ring_used(&r.d, RX, &length), 1);
    assert_int_equal(length, 2);
    assert_memory_equal(guest(&r.bus, r.data), "y ", 2);
    ring_add(&r.d, RX, v, 2, false);
    ring_kick(&r.d, RX);
    feed(&r, "late");
    assert_int_equal(ring_used(&r.d, RX, &length), 3);
    assert_int_equal(length, 4);
    assert_int_equal(r.bus.msi_count[RX], 3);

    char many[257] = { 0 };
    memset(many, 'm', 256);
    dp_device_pause(r.adapter);
    feed(&r, many);
    assert_int_equal(c->room(c->opaque), 0);
    c->receive(c->opaque, (const uint8_t *)"too much", 8);
    ring_add(&r.d, RX, v, 2, false);
    ring_kick(&r.d, RX);
    assert_int_equal(ring_used(&r.d, RX, &length), -1);
    dp_device_resume(r.adapter);
    assert_true(ring_used(&r.d, RX, &length) >= 0);
    assert_int_equal(length, 104);
    assert_int_equal(c->room(c->opaque), 104);

    struct buffer rom = { ROM_BASE, 10, true };
    ring_add(&r.d, RX, &rom, 1, false);
    ring_kick(&r.d, RX);
    assert_int_equal(driver_status(&r.d), 15 | DP_VIRTIO_NEEDS_RESET);
    rig_fini(&r);
}

static struct dp_device *make_for_conformance(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = { 0 };
    struct dp_device *d = make_console(env, NULL);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static uint64_t poke(struct dp_device *d, struct dp_random *random)
{
    struct dp_virtio *v = dp_virtio_of(d);
    uint64_t pick = dp_random_next(random);
    dp_virtio_lock(v);
    switch (pick % 5) {
    case 0: dp_virtio_set_status(v, pick >> 8 & 3 ? pick >> 16 & 0xff : 0); break;
    case 1: dp_virtio_notify(v, pick >> 8 & 1); break;
    case 2: dp_virtio_enable_queue(v, pick >> 8 & 1); break;
    case 3: v->regs->driver_features = pick >> 8 & 1 ? 1ull << 32 : pick; break;
    default: dp_virtio_config_changed(v); break;
    }
    uint64_t status = v->regs->status;
    dp_virtio_unlock(v);
    return status;
}

static void conformance(void **state)
{
    const struct conformance c = { .make = make_for_conformance, .poke = poke };
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(output), cmocka_unit_test(endless_output), cmocka_unit_test(back_pressure), cmocka_unit_test(meanwhile),
        cmocka_unit_test(input),
        cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("virtio-console", tests, NULL, NULL);
}
