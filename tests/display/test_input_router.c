/* test_input_router.c - which device gets keys and pointer, as drivers come and go. */
#include "display/input_router.h"

#include <linux/input-event-codes.h>

#include "tests/unit/test.h"

struct device {
    bool up;
    char log[400];
};
static void note(struct device *d, const char *format, ...) DP_PRINTF(2, 3);
static void note(struct device *d, const char *format, ...)
{
    size_t n = strlen(d->log);
    va_list ap;
    va_start(ap, format);
    vsnprintf(d->log + n, sizeof d->log - n, format, ap);
    va_end(ap);
}
static void key(void *opaque, unsigned code, bool down) { note(opaque, "k%u%c ", code, down ? '+' : '-'); }
static void motion(void *opaque, int dx, int dy, int wheel, unsigned buttons) { note(opaque, "m%d,%d,%d,%u ", dx, dy, wheel, buttons); }
static void position(void *opaque, unsigned x, unsigned y, int wheel, unsigned buttons) { note(opaque, "p%u,%u,%d,%u ", x, y, wheel, buttons); }
static bool active(void *opaque) { return ((struct device *)opaque)->up; }

struct rig {
    struct dp_input_router router;
    struct dp_input_sink sink;
    struct device ps2, keyboard, tablet;
};
static void rig_init(struct rig *r)
{
    memset(r, 0, sizeof *r);
    dp_input_router_init(&r->router);
    assert_true(dp_input_router_add(&r->router, &(struct dp_input_route){{.key = key, .motion = motion, .opaque = &r->ps2}}));
    assert_true(dp_input_router_add(&r->router, &(struct dp_input_route){{.key = key, .opaque = &r->keyboard}, active, &r->keyboard}));
    assert_true(dp_input_router_add(&r->router, &(struct dp_input_route){{.position = position, .opaque = &r->tablet}, active, &r->tablet}));
    r->sink = dp_input_router_sink(&r->router);
}
static void expect(struct device *d, const char *text)
{
    assert_string_equal(d->log, text);
    *d->log = 0;
}
#define KEY(code, down) r.sink.key(r.sink.opaque, code, down)

static void keys(void **state)
{
    struct rig r;
    rig_init(&r);
    KEY(KEY_A, true);
    KEY(KEY_B, true);
    expect(&r.ps2, "k30+ k48+ ");
    r.keyboard.up = true; /* a driver comes: what is held is released where it was pressed, even if it repeats before */
    KEY(KEY_A, true);
    KEY(KEY_A, false);
    KEY(KEY_A, true);
    expect(&r.ps2, "k30+ k30- ");
    expect(&r.keyboard, "k30+ ");
    r.keyboard.up = false; /* and goes */
    KEY(KEY_A, false);
    KEY(KEY_B, false);
    KEY(KEY_C, true);
    expect(&r.keyboard, "k30- ");
    expect(&r.ps2, "k48- k46+ ");
    KEY(DP_INPUT_ROUTED_KEYS, true);
    KEY(~0u, false);
    expect(&r.ps2, "");
    dp_input_router_fini(&r.router);
}

static void pointer(void **state)
{
    struct rig r;
    rig_init(&r);
    assert_false(r.sink.absolute(r.sink.opaque));
    r.sink.motion(r.sink.opaque, 3, -4, 0, DP_INPUT_LEFT);
    r.sink.position(r.sink.opaque, 100, 100, 1, DP_INPUT_LEFT); /* from one who did not ask */
    expect(&r.ps2, "m3,-4,0,1 m0,0,1,1 ");
    r.tablet.up = true;
    assert_true(r.sink.absolute(r.sink.opaque));
    r.sink.position(r.sink.opaque, 200, 300, 0, DP_INPUT_LEFT);
    expect(&r.ps2, "m0,0,0,0 ");
    expect(&r.tablet, "p200,300,0,1 ");
    r.tablet.up = false;
    r.sink.motion(r.sink.opaque, 1, 1, 0, DP_INPUT_RIGHT);
    expect(&r.tablet, "p200,300,0,0 ");
    expect(&r.ps2, "m1,1,0,2 ");
    dp_input_router_fini(&r.router);
}

static void nobody(void **state)
{
    struct dp_input_router router;
    dp_input_router_init(&router);
    struct dp_input_sink sink = dp_input_router_sink(&router);
    sink.key(sink.opaque, KEY_A, true);
    sink.motion(sink.opaque, 1, 1, 0, 1);
    sink.position(sink.opaque, 1, 1, 0, 1);
    assert_false(sink.absolute(sink.opaque));
    for (unsigned i = 0; i < DP_INPUT_ROUTES; i++)
        assert_true(dp_input_router_add(&router, &(struct dp_input_route){{.key = key}}));
    assert_false(dp_input_router_add(&router, &(struct dp_input_route){{.key = key}}));
    dp_input_router_fini(&router);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(keys), cmocka_unit_test(pointer), cmocka_unit_test(nobody)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
