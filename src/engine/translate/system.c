/* engine/translate/system.c - system instructions done in C between two blocks, without the interpreter.
 *
 * Model: the canonical state is complete and RIP is the instruction's own; the work is in isa/x86. A fault leaves the state as it was: then
 * the interpreter does the instruction again and raises it. Mode and interruptibility may have changed afterwards; the caller looks.
 */
#include <x86intrin.h>

#include "engine/translate/translate_internal.h"

/* These take the single-step trap if TF is set afterwards. */
static bool settle_trap(struct icpu *c, int result)
{
    if (!result && (c->s.rflags & X86_TF))
        c->pending_db |= 1u << 14;
    return !result;
}

/* Translated RDTSC extrapolates from a moment at which both counters were read, for 2^TSC_WINDOW_BITS host ticks; then it comes here again.
 * The ratio is measured between two such moments and made a little smaller, so that time never goes back. Only where the clock follows the
 * host's, and for one processor: several would see each other's time go back by what their moments differ. */
static bool extrapolates(const struct icpu *c)
{
    return c->vm->cpu_count == 1 && !c->by_blocks && dp_clock_follows_host(c->vm->clock);
}

uint64_t system_tsc(struct icpu *c)
{
    struct tcpu *t = c->accel_data;
    uint64_t host = __rdtsc(), hosts = host - t->tsc.host;
    bool same = t->tsc.host && t->tsc.offset == c->s.tsc_offset;
    if (same && t->tsc.ratio && hosts >> TSC_WINDOW_BITS == 0 && extrapolates(c))
        return t->tsc.guest + (hosts * t->tsc.ratio >> 32);
    uint64_t guest = dp_tsc_from_ns(dp_clock_now(c->vm->clock), c->vm->model->tsc_khz) + (uint64_t)c->s.tsc_offset,
             guests = guest - t->tsc.guest;
    if (!extrapolates(c) || (same && hosts < 1ull << 20))
        return guest;
    bool sane = same && hosts < 1ull << 40 && guests < 1ull << 40;
    uint64_t ratio = sane ? (uint64_t)(((unsigned __int128)guests << 32) / hosts) : 0;
    t->tsc.ratio = ratio < 1ull << 35 ? ratio - (ratio >> 10) : 0;
    t->tsc.host = host;
    t->tsc.guest = guest;
    t->tsc.offset = c->s.tsc_offset;
    return guest;
}

void system_load_tsc(struct tctx *x, const struct icpu *c)
{
    const struct tcpu *t = c->accel_data;
    bool known = t->tsc.ratio && t->tsc.offset == c->s.tsc_offset && extrapolates(c);
    x->tsc_negative_host = known ? -t->tsc.host : 0; /* 0: no host time is within the window */
    x->tsc_guest = t->tsc.guest;
    x->tsc_ratio = t->tsc.ratio;
    x->tsc_aux = (uint32_t)c->s.tsc_aux;
}

bool system_helper(struct icpu *c, uint32_t helper)
{
    unsigned size = helper >> 16 & 0xff;
    uint64_t next = mode_wrap(c->mode, c->s.r[X86_RIP] + (helper >> 24));
    switch (helper & 0xffff) {
    case X86_OP_SYSCALL: return settle_trap(c, x86_syscall(&c->ctx, next));
    case X86_OP_SYSRET: return !interp_cpl(c) && settle_trap(c, x86_sysret(&c->ctx, size));
    case X86_OP_IRET: return !x86_iret(&c->ctx, size, next);
    case X86_OP_RDTSC: case X86_OP_RDTSCP: {
        uint64_t v = system_tsc(c);
        c->s.r[X86_RAX] = (uint32_t)v;
        c->s.r[X86_RDX] = v >> 32;
        if ((helper & 0xffff) == X86_OP_RDTSCP)
            c->s.r[X86_RCX] = (uint32_t)c->s.tsc_aux;
        c->s.r[X86_RIP] = next;
        return true;
    }
    default: return false;
    }
}
