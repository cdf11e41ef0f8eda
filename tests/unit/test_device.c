/* test_device.c - the life of a device: properties, init, reset, save, load, mapping. */
#include <stdlib.h>

#include "devices/device.h"
#include "tests/unit/test.h"

struct toy_regs { uint8_t a; uint32_t b; };
struct toy {
    struct dp_device device;
    struct toy_regs regs;
    bool flag;
    uint64_t number, size, mode;
    const char *path;
    int inits, resets, loads;
};

static const struct dp_field toy_fields[] = {
    DP_FIELD_U8(struct toy_regs, a, 1, 0x60, 0),
    DP_FIELD_U32(struct toy_regs, b, 2, 0, 0xffff),
};
static const struct dp_state_table toy_state = DP_STATE_TABLE(struct toy_regs, "toy", toy_fields);
static const char *const modes[] = {"slow", "fast", NULL};
static const struct dp_property toy_properties[] = {
    {.name = "flag", .kind = DP_PROP_BOOL, .offset = offsetof(struct toy, flag), .initial = 1},
    {.name = "number", .kind = DP_PROP_UINT, .offset = offsetof(struct toy, number), .initial = 5, .min = 1, .max = 100},
    {.name = "size", .kind = DP_PROP_SIZE, .offset = offsetof(struct toy, size), .initial = 4096},
    {.name = "mode", .kind = DP_PROP_ENUM, .offset = offsetof(struct toy, mode), .names = modes},
    {.name = "path", .kind = DP_PROP_STRING, .offset = offsetof(struct toy, path)},
};

static int toy_init(struct dp_device *d, struct dp_error *e)
{
    struct toy *t = (struct toy *)d;
    t->inits++;
    return t->number == 13 ? dp_error_set(e, -ENODEV, "13 is unlucky") : 0;
}
static int finis; /* counts past the device's end */
static void toy_fini(struct dp_device *d) { finis++; }
static void toy_reset(struct dp_device *d) { ((struct toy *)d)->resets++; }
static void toy_pre_save(struct dp_device *d) { ((struct toy *)d)->regs.b = 0x1234; }
static void toy_post_load(struct dp_device *d) { ((struct toy *)d)->loads++; }
static uint64_t toy_read(void *opaque, uint64_t offset, unsigned size) { return ((struct toy *)opaque)->regs.a; }

static const struct dp_window_ops toy_ops = {.name = "toy", .read = toy_read};
static const struct dp_window_spec toy_windows[] = {{"io", 4, &toy_ops, true}, {"mmio", 4096, &toy_ops, false}};
static const struct dp_device_class toy_class = {
    .name = "toy", .size = sizeof(struct toy), .regs_offset = offsetof(struct toy, regs), .state = &toy_state,
    .properties = toy_properties, .property_count = DP_ARRAY_LEN(toy_properties), .windows = toy_windows, .window_count = 2,
    .init = toy_init, .fini = toy_fini, .reset = toy_reset, .pre_save = toy_pre_save, .post_load = toy_post_load,
};

static void life(void **state)
{
    struct dp_error e = {0};
    struct dp_device_env env = {0};
    assert_ok(dp_space_create("memory", 1ull << 32, NULL, &env.memory, &e), e);
    assert_ok(dp_space_create("ports", 0x10000, NULL, &env.ports, &e), e);
    struct dp_device *d = dp_device_alloc(&toy_class, "toy0", &env);
    struct toy *t = (struct toy *)d;
    assert_true(t->flag && t->number == 5 && t->size == 4096 && !t->mode && !t->path);
    assert_ok(dp_device_init(d, &e), e);
    assert_int_equal(t->regs.a, 0x60);
    assert_int_equal(t->resets, 1);
    assert_ok(dp_device_map(d, 0, 0x60, &e), e);
    assert_ok(dp_device_map(d, 1, 0xd0000000, &e), e);
    assert_int_equal(dp_device_map(d, 2, 0, &e), -EINVAL);
    assert_int_equal(dp_device_map(d, 0, 0xfffe, &e), -EINVAL);
    assert_int_equal(dp_space_load(env.ports, 0x61, 1), 0x60);
    assert_int_equal(dp_space_load(env.memory, 0xd0000fff, 1), 0x60);

    t->regs.a = 7;
    struct dp_buffer b = {0};
    dp_device_save(d, &b);
    dp_device_reset(d);
    assert_true(t->regs.a == 0x60 && t->regs.b == 0);
    size_t used = 0;
    assert_ok(dp_device_load(d, b.data, b.size, &used, &e), e);
    assert_int_equal(used, b.size);
    assert_true(t->regs.a == 7 && t->regs.b == 0x1234 && t->loads == 1);
    assert_true(dp_device_load(d, b.data, b.size - 1, &used, &e) < 0);
    assert_int_equal(t->loads, 1);
    assert_non_null(strstr(e.text, "toy0: "));
    dp_buffer_fini(&b);
    dp_device_pause(d);
    dp_device_resume(d);
    finis = 0;
    dp_device_free(d);
    assert_int_equal(finis, 1);
    dp_space_destroy(env.memory);
    dp_space_destroy(env.ports);
}

static void properties(void **state)
{
    struct dp_error e = {0};
    struct dp_device_env env = {0};
    struct dp_device *d = dp_device_alloc(&toy_class, "toy0", &env);
    struct toy *t = (struct toy *)d;
    static const struct { const char *name, *value; int result; } sets[] = {
        {"flag", "off", 0}, {"flag", "maybe", -EINVAL}, {"number", "0x10", 0}, {"number", "0", -ERANGE}, {"number", "101", -ERANGE},
        {"number", "-1", -EINVAL}, {"number", "", -EINVAL}, {"number", "9x", -EINVAL}, {"size", "2M", 0}, {"size", "two", -EINVAL},
        {"mode", "fast", 0}, {"mode", "warp", -EINVAL}, {"path", "/x", 0}, {"colour", "red", -ENOENT},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(sets); i++)
        assert_int_equal(dp_device_set(d, sets[i].name, sets[i].value, &e), sets[i].result);
    assert_true(!t->flag && t->number == 16 && t->size == 2 << 20 && t->mode == 1 && !strcmp(t->path, "/x"));
    t->number = 13;
    assert_int_equal(dp_device_init(d, &e), -ENODEV);
    assert_string_equal(e.text, "toy0: 13 is unlucky");
    finis = 0;
    dp_device_free(d);
    assert_int_equal(finis, 0); /* it never was initialised */
    dp_device_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(life), cmocka_unit_test(properties)};
    return cmocka_run_group_tests_name("device", tests, NULL, NULL);
}
