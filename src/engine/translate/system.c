/* engine/translate/system.c - system instructions done in C between two blocks, without the interpreter.
 *
 * Model: the canonical state is complete and RIP is the instruction's own; the work is in isa/x86. A fault leaves the state as it was: then the
 * interpreter does the instruction again and raises it. Mode and interruptibility may have changed afterwards; the caller looks.
 */
#include "engine/translate/translate_internal.h"

/* These take the single-step trap if TF is set afterwards. */
static bool settle_trap(struct icpu *c, int result)
{
    if (!result && (c->s.rflags & X86_TF))
        c->pending_db |= 1u << 14;
    return !result;
}

bool system_helper(struct icpu *c, uint32_t helper)
{
    unsigned size = helper >> 16 & 0xff;
    uint64_t next = c->s.r[X86_RIP] + (helper >> 24);
    switch (helper & 0xffff) {
    case X86_OP_SYSCALL: return settle_trap(c, x86_syscall(&c->ctx, next));
    case X86_OP_SYSRET: return settle_trap(c, x86_sysret(&c->ctx, size));
    case X86_OP_IRET: return !x86_iret(&c->ctx, size, next);
    case X86_OP_RDTSC: case X86_OP_RDTSCP: {
        if ((c->mode & IMODE_TSD) && interp_cpl(c))
            return false;
        uint64_t v = interp_tsc(c);
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
