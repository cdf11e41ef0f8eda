/* null.c - the engine without a processor: device tests drive register windows themselves.
 *
 * Model: a vCPU is a canonical state that never changes by itself. run() says the processor is halted, or that it was kicked; lines are
 * accepted and lead to nothing but the next run() returning.
 */
#include "engine/engines.h"

#include <stdlib.h>

struct dp_cpu {
    struct x86_state state;
    atomic_bool kicked;
};

static int null_probe(struct dp_error *e) { return 0; }

/* There is nothing to keep per VM, but callers take NULL for "none". */
static int null_vm_init(const struct dp_engine_vm *vm, struct dp_engine_state **out, struct dp_error *e)
{
    int r = dp_engine_refuse_code("null", vm, e);
    if (r)
        return r;
    *out = malloc(1);
    return *out ? 0 : dp_error_set(e, -ENOMEM, "no memory for the null engine");
}

static void null_vm_fini(struct dp_engine_state *s) { free(s); }

static int null_cpu_init(struct dp_engine_state *s, unsigned index, const struct dp_x86_bus *bus, struct dp_cpu **out, struct dp_error *e)
{
    struct dp_cpu *c = calloc(1, sizeof(*c));
    if (!c)
        return dp_error_set(e, -ENOMEM, "no memory for processor %u", index);
    x86_state_reset(&c->state, index == 0);
    *out = c;
    return 0;
}

static void null_cpu_fini(struct dp_cpu *c) { free(c); }

static void null_run(struct dp_cpu *c, uint64_t budget, struct dp_exit *exit)
{
    *exit = (struct dp_exit){.kind = atomic_exchange(&c->kicked, false) ? DP_EXIT_KICK : DP_EXIT_HALT, .address = c->state.r[X86_RIP]};
}

static void null_kick(struct dp_cpu *c) { atomic_store(&c->kicked, true); }
static void null_interrupt(struct dp_cpu *c, enum dp_line line, unsigned value) { null_kick(c); }
static void null_pull(struct dp_cpu *c, struct x86_state *out) { *out = c->state; }
static void null_push(struct dp_cpu *c, const struct x86_state *in) { c->state = *in; }
static int null_breakpoint(struct dp_cpu *c, uint64_t linear, bool set) { return -ENOTSUP; }
static void null_counters(struct dp_cpu *c, struct dp_engine_counters *out) { *out = (struct dp_engine_counters){0}; }

const struct dp_engine dp_engine_null = {
    .name = "null",
    .summary = "no processor at all; for tests of devices",
    .probe = null_probe,
    .vm_init = null_vm_init,
    .vm_fini = null_vm_fini,
    .cpu_init = null_cpu_init,
    .cpu_fini = null_cpu_fini,
    .run = null_run,
    .kick = null_kick,
    .interrupt = null_interrupt,
    .pull = null_pull,
    .push = null_push,
    .breakpoint = null_breakpoint,
    .counters = null_counters,
};
