/* test_virtio_input.c - keyboard, mouse and tablet by their driver, as Linux's virtio_input does it. */
#include "devices/virtio/virtio_input.h"

#include <linux/input-event-codes.h>

#include "tests/device/virtio_driver.h"

enum { ID_NAME = 1, ID_SERIAL, ID_DEVIDS, PROP_BITS = 0x10, EV_BITS, ABS_INFO };
#define ALL_FEATURES ~0ull

struct rig {
    struct bus bus;
    struct dp_device *adapter, *input;
    struct driver d;
    struct dp_input_route route;
    uint64_t events, status; /* guest pages */
    unsigned offered;
};

static void offer(struct rig *r, unsigned count)
{
    for (; count--; r->offered++) {
        struct buffer v = {r->events + r->offered % 64 * 8, 8, true};
        ring_add(&r->d, 0, &v, 1, false);
    }
    ring_kick(&r->d, 0);
}

static void rig_init(struct rig *r, const char *kind)
{
    struct dp_error e = {0};
    memset(r, 0, sizeof *r);
    bus_init(&r->bus);
    r->input = dp_device_alloc(&dp_virtio_input_class, "input0", &r->bus.w.env);
    assert_ok(dp_device_set(r->input, "kind", kind, &e), e);
    r->adapter = bus_plug(&r->bus, r->input, 3);
    driver_probe(&r->d, &r->bus, 3, 18);
    r->events = guest_alloc(&r->bus, 4096);
    r->status = guest_alloc(&r->bus, 4096);
    r->route = dp_virtio_input_route(r->input);
}

static void rig_fini(struct rig *r)
{
    dp_device_free(r->adapter);
    bus_fini(&r->bus);
}

static void start(struct rig *r, unsigned buffers)
{
    driver_start(&r->d, ALL_FEATURES, 0, true);
    r->offered = 0;
    offer(r, buffers);
}

/* The next event; a type of -1: none. */
struct event { int type; unsigned code; int32_t value; };
static struct event next(struct rig *r)
{
    uint32_t length;
    int head = ring_used(&r->d, 0, &length);
    if (head < 0)
        return (struct event){-1};
    assert_int_equal(length, 8);
    const uint8_t *p = guest(&r->bus, r->events + (unsigned)head % 64 * 8);
    return (struct event){dp_ld16(p), dp_ld16(p + 2), (int32_t)dp_ld32(p + 4)};
}
static void expect(struct rig *r, int type, unsigned code, int32_t value)
{
    struct event e = next(r);
    if (e.type != type || (type >= 0 && (e.code != code || e.value != value)))
        fail_msg("event %d %u %d, not %d %u %d", e.type, e.code, e.value, type, code, value);
}
#define SYN() expect(&r, EV_SYN, SYN_REPORT, 0)
#define NONE() expect(&r, -1, 0, 0)
#define KEY(code, down) r.route.sink.key(r.route.sink.opaque, code, down)

static unsigned config_select(struct rig *r, unsigned select, unsigned subsel, uint8_t u[128])
{
    struct dp_space *m = r->bus.w.env.memory;
    dp_space_store(m, r->d.config, select, 1);
    dp_space_store(m, r->d.config + 1, subsel, 1);
    for (unsigned i = 0; i < 128; i++)
        u[i] = (uint8_t)dp_space_load(m, r->d.config + 8 + i, 1);
    return (unsigned)dp_space_load(m, r->d.config + 2, 1);
}

static void identity(void **state)
{
    static const struct { const char *kind; uint32_t class; unsigned product, rel, abs; } kinds[] = {
        {"keyboard", 0x090000, 1, 0, 0}, {"mouse", 0x090200, 2, 2, 0}, {"tablet", 0x090100, 3, 2, 1}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(kinds); i++) {
        struct rig r;
        uint8_t u[128];
        char name[40];
        rig_init(&r, kinds[i].kind);
        assert_int_equal(config_read(&r.bus, 3, 8, 4) >> 8, kinds[i].class);
        unsigned n = config_select(&r, ID_NAME, 0, u);
        snprintf(name, sizeof name, "doppel virtio %s", kinds[i].kind);
        assert_int_equal(n, strlen(name));
        assert_memory_equal(u, name, n);
        assert_int_equal(config_select(&r, ID_NAME, 1, u), 0);
        assert_int_equal(config_select(&r, ID_SERIAL, 0, u), 6);
        assert_memory_equal(u, "input0", 6);
        assert_int_equal(config_select(&r, ID_DEVIDS, 0, u), 8);
        assert_int_equal(dp_ld16(u), 6);
        assert_int_equal(dp_ld16(u + 4), kinds[i].product);
        assert_int_equal(config_select(&r, PROP_BITS, 0, u), 0);
        assert_int_equal(config_select(&r, EV_BITS, EV_REL, u), kinds[i].rel);
        assert_int_equal(config_select(&r, EV_BITS, EV_ABS, u), kinds[i].abs);
        assert_int_equal(config_select(&r, EV_BITS, EV_REP, u), i ? 0 : 1);
        assert_int_equal(config_select(&r, EV_BITS, EV_LED, u), i ? 0 : 1);
        n = config_select(&r, EV_BITS, EV_KEY, u);
        unsigned key = i ? BTN_LEFT : KEY_ENTER, other = i ? KEY_ENTER : BTN_LEFT;
        assert_true(n > key / 8 && u[key / 8] >> key % 8 & 1);
        assert_false(u[other / 8] >> other % 8 & 1);
        assert_int_equal(config_select(&r, ABS_INFO, ABS_Y, u), i == 2 ? 20 : 0);
        assert_int_equal(dp_ld32(u + 4), i == 2 ? 32767 : 0);
        assert_int_equal(config_select(&r, ABS_INFO, ABS_Z, u), 0);
        assert_int_equal(config_select(&r, 0, 0, u), 0);
        assert_int_equal(config_select(&r, 0xff, 0xff, u), 0);
        assert_true(!!r.route.sink.key == (i == 0) && !!r.route.sink.motion == (i == 1) && !!r.route.sink.position == (i == 2));
        rig_fini(&r);
    }
}

static void keyboard(void **state)
{
    struct rig r;
    rig_init(&r, "keyboard");
    assert_false(r.route.active(r.route.opaque));
    KEY(KEY_A, true); /* nobody listens */
    start(&r, 8);
    assert_true(r.route.active(r.route.opaque));
    NONE();
    KEY(KEY_A, false); /* the driver never heard of it, but it is true */
    expect(&r, EV_KEY, KEY_A, 0), SYN(), NONE();
    unsigned interrupts = r.bus.msi_count[0];
    KEY(KEY_LEFTSHIFT, true);
    assert_int_equal(r.bus.msi_count[0], interrupts + 1); /* one for the batch */
    KEY(KEY_B, true);
    KEY(KEY_B, true); /* the guest repeats by itself */
    expect(&r, EV_KEY, KEY_LEFTSHIFT, 1), SYN();
    expect(&r, EV_KEY, KEY_B, 1), SYN();
    NONE();
    KEY(KEY_B, false); /* two buffers are left of eight */
    KEY(KEY_LEFTSHIFT, false);
    expect(&r, EV_KEY, KEY_B, 0), SYN();
    NONE();
    offer(&r, 8); /* what waited */
    expect(&r, EV_KEY, KEY_LEFTSHIFT, 0), SYN();
    KEY(0, true);
    KEY(BTN_LEFT, true);
    KEY(70000, true);
    NONE();
    driver_reset(&r.d);
    assert_false(r.route.active(r.route.opaque));
    rig_fini(&r);
}

/* More events than the ring holds: never a key that stays down, or up. */
static void overflow(void **state)
{
    struct rig r;
    rig_init(&r, "keyboard");
    start(&r, 0);
    KEY(KEY_Q, true);
    for (unsigned i = 0; i < 300; i++) {
        KEY(KEY_A, true);
        KEY(KEY_A, false);
    }
    KEY(KEY_Z, true);
    KEY(KEY_Q, false);
    bool down[256] = {false};
    unsigned count = 0;
    for (unsigned last = 1; last != count;) {
        last = count;
        offer(&r, 8);
        for (struct event e; (e = next(&r)).type >= 0; count++)
            if (e.type == EV_KEY)
                down[e.code] = e.value;
    }
    assert_true(count > 200 && count < 260);
    assert_true(down[KEY_Z] && !down[KEY_Q] && !down[KEY_A]);
    KEY(KEY_Z, false);
    expect(&r, EV_KEY, KEY_Z, 0), SYN(), NONE();
    rig_fini(&r);
}

static void mouse(void **state)
{
    struct rig r;
    rig_init(&r, "mouse");
    start(&r, 60);
    struct dp_input_sink s = r.route.sink;
    s.motion(s.opaque, 5, -3, 0, 0);
    expect(&r, EV_REL, REL_X, 5), expect(&r, EV_REL, REL_Y, -3), SYN(), NONE();
    s.motion(s.opaque, 0, 0, 0, DP_INPUT_LEFT | DP_INPUT_MIDDLE);
    expect(&r, EV_KEY, BTN_LEFT, 1), expect(&r, EV_KEY, BTN_MIDDLE, 1), SYN(), NONE();
    s.motion(s.opaque, 0, 0, -1, DP_INPUT_LEFT);
    expect(&r, EV_REL, REL_WHEEL, -1), expect(&r, EV_KEY, BTN_MIDDLE, 0), SYN(), NONE();
    s.motion(s.opaque, 0, 0, 0, DP_INPUT_LEFT);
    NONE();
    rig_fini(&r);
}

static void tablet(void **state)
{
    struct rig r;
    rig_init(&r, "tablet");
    start(&r, 60);
    struct dp_input_sink s = r.route.sink;
    s.position(s.opaque, 100, 200, 0, 0);
    expect(&r, EV_ABS, ABS_X, 100), expect(&r, EV_ABS, ABS_Y, 200), SYN(), NONE();
    s.position(s.opaque, 100, 99999, 1, DP_INPUT_RIGHT);
    expect(&r, EV_REL, REL_WHEEL, 1), expect(&r, EV_KEY, BTN_RIGHT, 1), expect(&r, EV_ABS, ABS_Y, 32767), SYN(), NONE();
    s.position(s.opaque, 100, 32767, 0, 0);
    expect(&r, EV_KEY, BTN_RIGHT, 0), SYN(), NONE();
    /* A guest that sleeps finds the last position. */
    for (unsigned i = 0; i < 1000; i++)
        s.position(s.opaque, i, 2 * i, 0, i & 1);
    s.position(s.opaque, 4000, 5000, 0, 0);
    int x = 0, y = 0, left = 0;
    for (bool any = true; any;) {
        any = false;
        offer(&r, 8);
        for (struct event e; (e = next(&r)).type >= 0; any = true)
            if (e.type != EV_SYN)
                *(e.type == EV_KEY ? &left : e.code == ABS_X ? &x : &y) = e.value;
    }
    assert_int_equal(x, 4000);
    assert_int_equal(y, 5000);
    assert_int_equal(left, 0);
    rig_fini(&r);
}

static void leds(void **state)
{
    struct rig r;
    rig_init(&r, "keyboard");
    start(&r, 0);
    uint8_t *p = guest(&r.bus, r.status);
    dp_st16(p, EV_LED), dp_st16(p + 2, LED_CAPSL), dp_st32(p + 4, 1);
    dp_st16(p + 8, EV_LED), dp_st16(p + 10, 0xffff), dp_st32(p + 12, 1);
    struct buffer v[] = {{r.status, 8, false}, {r.status + 8, 8, false}};
    ring_add(&r.d, 1, &v[0], 1, false);
    ring_add(&r.d, 1, &v[1], 1, false);
    ring_kick(&r.d, 1);
    assert_int_equal(ring_used(&r.d, 1, NULL), 0);
    assert_int_equal(ring_used(&r.d, 1, NULL), 1);
    assert_int_equal(driver_status(&r.d), 15);
    v[0].length = 7;
    ring_add(&r.d, 1, v, 1, false);
    ring_kick(&r.d, 1);
    assert_int_equal(driver_status(&r.d), 15 | DP_VIRTIO_NEEDS_RESET);
    assert_false(r.route.active(r.route.opaque));
    rig_fini(&r);
}

/* While the device is paused events wait. */
static void paused(void **state)
{
    struct rig r;
    rig_init(&r, "keyboard");
    start(&r, 32);
    dp_device_pause(r.adapter);
    KEY(KEY_A, true);
    NONE();
    dp_device_resume(r.adapter);
    expect(&r, EV_KEY, KEY_A, 1), SYN(), NONE();
    struct buffer bad = {NO_DEVICE_HERE, 8, true};
    driver_start(&r.d, ALL_FEATURES, 0, false);
    ring_add(&r.d, 0, &bad, 1, false);
    ring_kick(&r.d, 0);
    KEY(KEY_B, true);
    assert_int_equal(driver_status(&r.d), 15 | DP_VIRTIO_NEEDS_RESET);
    rig_fini(&r);
}

static struct dp_device *make_input(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_virtio_input_class, "input", env);
    assert_ok(dp_device_set(d, "kind", opaque, &e), e);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static uint64_t poke(struct dp_device *d, struct dp_random *random)
{
    struct dp_virtio *v = dp_virtio_of(d);
    struct dp_input_route route = dp_virtio_input_route(d);
    uint64_t pick = dp_random_next(random), value = 0;
    if (pick % 8 >= 6 && route.sink.key)
        route.sink.key(route.sink.opaque, pick >> 8 & 0xff, pick >> 16 & 1);
    else if (pick % 8 >= 6 && route.sink.motion)
        route.sink.motion(route.sink.opaque, (int8_t)(pick >> 8), (int8_t)(pick >> 16), 0, pick >> 24 & 7);
    else if (pick % 8 >= 6)
        route.sink.position(route.sink.opaque, pick >> 8 & 0x7fff, pick >> 24 & 0x7fff, 0, pick >> 40 & 7);
    dp_virtio_lock(v);
    switch (pick % 8) {
    case 0: dp_virtio_set_status(v, pick >> 8 & 3 ? pick >> 16 & 0xff : 0); break;
    case 1: dp_virtio_notify(v, pick >> 8 & 3); break;
    case 2: dp_virtio_enable_queue(v, pick >> 8 & 1); break;
    case 3: v->regs->driver_features = pick >> 8 & 1 ? 1ull << 32 : pick; break;
    case 4: v->vclass->config_read(v, (pick >> 8) % 129, &value, 1u << (pick >> 16) % 4); break;
    case 5: v->vclass->config_write(v, (pick >> 8) % 3, &pick, 1u << (pick >> 16) % 4); break;
    }
    dp_virtio_unlock(v);
    return value << 8 | v->regs->status;
}

static void conformance(void **state)
{
    for (unsigned i = 0; i < 3; i++) {
        const struct conformance c = {.make = make_input, .opaque = (void *[]){"keyboard", "mouse", "tablet"}[i], .poke = poke, .rounds = 25};
        conformance_check(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity), cmocka_unit_test(keyboard), cmocka_unit_test(overflow), cmocka_unit_test(mouse), cmocka_unit_test(tablet),
        cmocka_unit_test(leds), cmocka_unit_test(paused), cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("virtio-input", tests, NULL, NULL);
}
