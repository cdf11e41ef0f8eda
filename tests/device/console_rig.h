/* console_rig.h - a device with registers at ports, a console in memory and an interrupt line (serial and parallel ports), on a manual
 * clock.
 *
 * Use: rig_make; wire r->d to the line (rig_irq, r, RIG_LINE) and to r->c; rig_start; in, out; rig_free.
 */
#ifndef DP_TESTS_CONSOLE_RIG_H
#define DP_TESTS_CONSOLE_RIG_H

#include "console/console.h"
#include "tests/device/conformance.h"

enum { RIG_LINE = 4 };

struct rig {
    struct conformance_world w;
    struct dp_device *d;
    struct dp_console *c;
    uint16_t base;
    bool irq;
    unsigned edges, rises;
    void (*on_rise)(struct rig *r); /* once, by the thread that drives the line */
};

static inline void rig_irq(void *opaque, unsigned n, bool level)
{
    struct rig *r = opaque;
    assert_int_equal(n, RIG_LINE);
    r->edges += r->irq != level;
    r->rises += level && !r->irq;
    r->irq = level;
    if (level && r->on_rise) {
        void (*handler)(struct rig *) = r->on_rise;
        r->on_rise = NULL;
        handler(r);
    }
}

static inline void rig_make(struct rig *r, const struct dp_device_class *class, const char *id)
{
    struct dp_error e = {0};
    memset(r, 0, sizeof(*r));
    conformance_world_init(&r->w);
    assert_ok(dp_console_open_memory(&r->c, &e), e);
    r->d = dp_device_alloc(class, id, &r->w.env);
}

static inline void rig_start(struct rig *r, unsigned window, uint16_t base)
{
    struct dp_error e = {0};
    r->base = base;
    assert_ok(dp_device_init(r->d, &e), e);
    assert_ok(dp_device_map(r->d, window, base, &e), e);
    dp_device_resume(r->d);
}

static inline void rig_free(struct rig *r)
{
    dp_device_free(r->d);
    dp_console_close(r->c);
    conformance_world_fini(&r->w);
}

static inline uint8_t in(struct rig *r, unsigned reg) { return (uint8_t)dp_space_load(r->w.env.ports, r->base + reg, 1); }
static inline void out(struct rig *r, unsigned reg, uint8_t v) { dp_space_store(r->w.env.ports, r->base + reg, v, 1); }

#endif
