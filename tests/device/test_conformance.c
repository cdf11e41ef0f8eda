/* test_conformance.c - the conformance helper itself: a good toy device passes. */
#include "tests/device/conformance.h"

struct latch_regs { uint32_t value, count; uint64_t due; bool armed; };
struct latch { struct dp_device device; struct latch_regs regs; struct dp_timer timer; };

static const struct dp_field latch_fields[] = {
    DP_FIELD_U32(struct latch_regs, value, 1, 0x55, 0xffff),
    DP_FIELD_U32(struct latch_regs, count, 2, 0, 0),
    DP_FIELD_U64(struct latch_regs, due, 3, 0, 0xffffffff),
    DP_FIELD_BOOL(struct latch_regs, armed, 4, 0),
};
static const struct dp_state_table latch_state = DP_STATE_TABLE(struct latch_regs, "latch", latch_fields);

static void latch_due(void *opaque)
{
    struct latch *l = opaque;
    pthread_mutex_lock(&l->device.lock);
    l->regs.count += l->regs.armed;
    l->regs.armed = false;
    pthread_mutex_unlock(&l->device.lock);
}

static uint64_t latch_read(void *opaque, uint64_t offset, unsigned size)
{
    struct latch *l = opaque;
    return offset ? l->regs.count : l->regs.value;
}

static void latch_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct latch *l = opaque;
    pthread_mutex_lock(&l->device.lock);
    l->regs.value = value & 0xffff;
    l->regs.armed = true;
    l->regs.due = dp_clock_now(l->device.env->clock) + l->regs.value;
    dp_timer_arm(&l->timer, l->regs.due);
    pthread_mutex_unlock(&l->device.lock);
}

static int latch_init(struct dp_device *d, struct dp_error *e)
{
    struct latch *l = (struct latch *)d;
    dp_timer_init(&l->timer, d->env->clock, latch_due, l);
    return 0;
}
static void latch_fini(struct dp_device *d) { dp_timer_fini(&((struct latch *)d)->timer); }
static void latch_reset(struct dp_device *d) { dp_timer_disarm(&((struct latch *)d)->timer); }
static void latch_post_load(struct dp_device *d)
{
    struct latch *l = (struct latch *)d;
    if (l->regs.armed)
        dp_timer_arm(&l->timer, l->regs.due);
    else
        dp_timer_disarm(&l->timer);
}

static const struct dp_window_ops latch_ops = {.name = "latch", .read = latch_read, .write = latch_write, .min_size = 4, .max_size = 4};
static const struct dp_window_spec latch_windows[] = {{"regs", 8, &latch_ops, true}};
static const struct dp_device_class latch_class = {
    .name = "latch", .size = sizeof(struct latch), .regs_offset = offsetof(struct latch, regs), .state = &latch_state,
    .windows = latch_windows, .window_count = 1, .init = latch_init, .fini = latch_fini, .reset = latch_reset, .post_load = latch_post_load,
};

static struct dp_device *make_latch(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&latch_class, "latch0", env);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make_latch};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(conformance)};
    return cmocka_run_group_tests_name("conformance", tests, NULL, NULL);
}
