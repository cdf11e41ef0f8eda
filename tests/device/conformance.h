/* conformance.h - what must hold for every device, whatever it is.
 *
 * Use: fill a struct conformance with a maker and call conformance_check from a cmocka test. It checks on a manual clock that
 *  - a reset device equals a fresh one, after any amount of random register accesses;
 *  - random state -> load -> save gives the same state again;
 *  - two devices that loaded the same state stay equal under the same accesses (so nothing guest-visible is outside the
 *    table), and neither crashes;
 *  - damaged streams are refused or loaded whole, and a refused one changes nothing.
 */
#ifndef DP_TESTS_CONFORMANCE_H
#define DP_TESTS_CONFORMANCE_H

#include <stdlib.h>

#include "devices/device.h"
#include "tests/unit/test.h"

struct conformance {
    /* Allocates, sets properties and wires, and initialises a device. Called several times with the same env. */
    struct dp_device *(*make)(const struct dp_device_env *env, void *opaque);
    void *opaque;
    /* Besides the class's windows: one random action on the device. Returns what the guest would see of it. May be NULL. */
    uint64_t (*poke)(struct dp_device *d, struct dp_random *r);
    /* State that random fill cannot reach because something outside must agree with it; called before load. May be NULL. */
    void (*adjust)(void *regs);
    unsigned rounds;        /* 0: 50 */
    uint64_t max_advance;   /* ns between accesses, 0: 1 ms */
};

struct conformance_world {
    struct dp_device_env env;
    struct dp_ram *ram;
    unsigned msis, requests;
};

static inline void conformance_msi(void *opaque, uint64_t address, uint32_t data) { ((struct conformance_world *)opaque)->msis++; }
static inline void conformance_request(void *opaque, enum dp_vm_request r, int status) { ((struct conformance_world *)opaque)->requests++; }

/* A machine without processors: manual clock, 16 MiB of RAM at 0, ports, sinks that count. */
static inline void conformance_world_init(struct conformance_world *w)
{
    struct dp_error e = {0};
    memset(w, 0, sizeof(*w));
    assert_ok(dp_clock_create_manual(&w->env.clock, &e), e);
    assert_ok(dp_space_create("memory", 1ull << 40, NULL, &w->env.memory, &e), e);
    assert_ok(dp_space_create("ports", 0x10000, NULL, &w->env.ports, &e), e);
    assert_ok(dp_ram_create("ram", 16 << 20, &w->ram, &e), e);
    assert_ok(dp_space_map_ram(w->env.memory, 0, w->ram, 0, 16 << 20, false, 0, NULL, &e), e);
    w->env.msi = (struct dp_msi_sink){conformance_msi, w};
    w->env.vm = (struct dp_vm_sink){conformance_request, w};
}

static inline void conformance_world_fini(struct conformance_world *w)
{
    dp_space_destroy(w->env.memory);
    dp_space_destroy(w->env.ports);
    dp_ram_destroy(w->ram);
    dp_clock_destroy(w->env.clock);
}

/* One random access to a window of the device, as dp_space_load/store would make it. Returns what was read. */
static inline uint64_t conformance_access(struct dp_device *d, struct dp_random *r)
{
    const struct dp_device_class *c = d->class;
    if (!c->window_count)
        return 0;
    const struct dp_window_spec *w = &c->windows[dp_random_next(r) % c->window_count];
    unsigned min = w->ops->min_size ? w->ops->min_size : 1, max = w->ops->max_size ? w->ops->max_size : 8, size;
    do
        size = 1u << dp_random_next(r) % 4;
    while (size < min || size > max || size > w->size);
    uint64_t pick = dp_random_next(r), value = dp_random_next(r);
    uint64_t offset = (pick & 1 ? pick >> 8 : (pick >> 8) % 256) % w->size / size * size;
    if (offset + size > w->size)
        offset = 0;
    switch (pick >> 1 & 7) {
    case 0: value = 0; break;
    case 1: value = ~0ull; break;
    case 2: value = 1ull << value % (size * 8); break;
    }
    if (pick >> 4 & 1)
        return w->ops->read ? w->ops->read(d, offset, size) & dp_mask_bytes(size) : 0;
    if (w->ops->write)
        w->ops->write(d, offset, value & dp_mask_bytes(size), size);
    return 0;
}

static inline uint64_t conformance_act(const struct conformance *c, struct dp_device *d, struct dp_random *r)
{
    if (c->poke && (!d->class->window_count || dp_random_next(r) % 2))
        return c->poke(d, r);
    return conformance_access(d, r);
}

/* The state as a save would hold it. */
static inline void *conformance_state(struct dp_device *d)
{
    struct dp_buffer b = {0};
    struct dp_error e = {0};
    void *regs = calloc(1, d->class->state->size);
    dp_device_save(d, &b);
    assert_ok(dp_state_load(d->class->state, regs, b.data, b.size, NULL, &e), e);
    dp_buffer_fini(&b);
    return regs;
}

static inline void conformance_same(const struct dp_device_class *c, void *a, void *b, const char *what, unsigned round)
{
    struct dp_buffer text = {0};
    if (dp_state_diff(c->state, a, b, &text))
        fail_msg("%s, round %u: %s:\n%s", c->name, round, what, (char *)text.data);
    dp_buffer_fini(&text);
    free(a);
    free(b);
}

static inline void conformance_load(struct dp_device *d, const struct dp_buffer *b)
{
    struct dp_error e = {0};
    size_t used = 0;
    assert_ok(dp_device_load(d, b->data, b->size, &used, &e), e);
    assert_int_equal(used, b->size);
}

static inline void conformance_reset(const struct conformance *c, unsigned round, struct dp_random *r)
{
    struct conformance_world w;
    conformance_world_init(&w);
    struct dp_device *used = c->make(&w.env, c->opaque);
    dp_device_resume(used);
    for (unsigned i = 0; i < 200; i++) {
        conformance_act(c, used, r);
        dp_clock_advance(w.env.clock, dp_random_next(r) % (c->max_advance ? c->max_advance : 1000000));
    }
    dp_device_reset(used);
    struct dp_device *fresh = c->make(&w.env, c->opaque);
    dp_device_resume(fresh);
    conformance_same(used->class, conformance_state(used), conformance_state(fresh), "reset is not like fresh", round);
    /* What a forgotten timer would do shows only later. */
    dp_clock_advance(w.env.clock, c->max_advance ? c->max_advance : 1000000);
    conformance_same(used->class, conformance_state(used), conformance_state(fresh), "some time after, reset is not like fresh", round);
    dp_device_free(used);
    dp_device_free(fresh);
    conformance_world_fini(&w);
}

static inline void conformance_restore(const struct conformance *c, unsigned round, struct dp_random *r)
{
    struct conformance_world w;
    conformance_world_init(&w);
    struct dp_device *a = c->make(&w.env, c->opaque), *b = c->make(&w.env, c->opaque);
    const struct dp_state_table *t = a->class->state;
    void *regs = calloc(1, t->size);
    struct dp_error e = {0};
    dp_clock_advance(w.env.clock, dp_random_next(r) % 1000000000);
    dp_state_random(t, regs, r);
    if (c->adjust)
        c->adjust(regs);
    if (t->check)
        assert_ok(t->check(regs, &e), e);
    struct dp_buffer image = {0};
    dp_state_save(t, regs, &image);
    conformance_load(a, &image);
    conformance_load(b, &image);
    conformance_same(a->class, conformance_state(a), regs, "load then save is not what was loaded", round);

    /* Damage: refused and unchanged, or taken whole. */
    struct dp_buffer bad = {0};
    dp_buffer_append(&bad, image.data, image.size);
    bad.data[dp_random_next(r) % bad.size] ^= 1u << dp_random_next(r) % 8;
    bad.size -= dp_random_next(r) % 2 ? dp_random_next(r) % bad.size : 0;
    void *before = conformance_state(a);
    if (dp_device_load(a, bad.data, bad.size, NULL, &e))
        conformance_same(a->class, before, conformance_state(a), "a refused load changed something", round);
    else
        free(before);
    conformance_load(a, &image);
    dp_buffer_fini(&bad);

    dp_device_resume(a);
    dp_device_resume(b);
    for (unsigned i = 0; i < 200; i++) {
        struct dp_random same = *r;
        uint64_t seen_a = conformance_act(c, a, r), seen_b = conformance_act(c, b, &same);
        if (seen_a != seen_b)
            fail_msg("%s, round %u: after %u accesses two restored devices give 0x%llx and 0x%llx", a->class->name, round, i,
                     (unsigned long long)seen_a, (unsigned long long)seen_b);
        dp_clock_advance(w.env.clock, dp_random_next(r) % (c->max_advance ? c->max_advance : 1000000));
    }
    dp_device_pause(a);
    dp_device_pause(b);
    conformance_same(a->class, conformance_state(a), conformance_state(b), "two restored devices went apart", round);
    dp_buffer_fini(&image);
    dp_device_free(a);
    dp_device_free(b);
    conformance_world_fini(&w);
}

static inline void conformance_check(const struct conformance *c)
{
    struct dp_random r;
    dp_random_seed(&r, 2024);
    for (unsigned i = 0; i < (c->rounds ? c->rounds : 50); i++) {
        conformance_reset(c, i, &r);
        conformance_restore(c, i, &r);
    }
}

#endif
