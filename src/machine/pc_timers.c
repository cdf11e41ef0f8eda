/* machine/pc_timers.c - see pc_timers.h. */
#include "machine/pc_timers.h"

/* Drives the line as its ISA master wants it, again if that changed meanwhile: it may have looked at `legacy` before that was switched. */
static void follow(struct pc_timers *t, unsigned n)
{
    bool level;
    do {
        level = atomic_load(&t->level[n]);
        dp_irq_set(&t->line[n], level);
    } while (level != atomic_load(&t->level[n]));
}

static void input_set(void *opaque, unsigned n, bool level)
{
    struct pc_timers *t = opaque;
    atomic_store(&t->level[n], level);
    if (!atomic_load(&t->legacy))
        dp_irq_set(&t->line[n], level);
}

/* The HPET calls this before its own lines rise and after they fell. */
static void legacy_set(void *opaque, unsigned n, bool level)
{
    struct pc_timers *t = opaque;
    (void)n;
    atomic_store(&t->legacy, level);
    for (unsigned i = 0; i < DP_ARRAY_LEN(t->line); i++) {
        if (level)
            dp_irq_set(&t->line[i], false);
        else
            follow(t, i);
    }
}

void pc_timers_init(struct pc_timers *t, struct dp_irq irq0, struct dp_irq irq8)
{
    *t = (struct pc_timers){.line = {irq0, irq8}};
}

struct dp_irq pc_timers_input(struct pc_timers *t, unsigned n) { return (struct dp_irq){input_set, t, n}; }
struct dp_irq pc_timers_legacy(struct pc_timers *t) { return (struct dp_irq){legacy_set, t, 0}; }
