/* engine/translate/shake.c - kicks at every place of translated code, for tests (translate_set_shaken).
 *
 * Model: what a kick may meet between two guest instructions, and what an interrupt that is delivered there overwrites, decides whether code like PUSH, LEAVE or CALL, that
 * is several host instructions, is right; but real kicks hardly ever come between instructions that the host retires together. So each time translated code is
 * entered a breakpoint is planted at a random host instruction of the block. Who comes there is treated as if kicked, and where the guest could have been interrupted, what
 * an interrupt's frame and handler would overwrite is overwritten. Not in direct spaces.
 */
#include "engine/translate/translate_internal.h"

#define BREAKPOINT 0xcc

void shake_clear(struct tcpu *t)
{
    if (t->planted)
        t->rw[t->planted] = t->planted_over;
    t->planted = 0;
}

void shake_plant(struct tcpu *t, uint64_t code)
{
    shake_clear(t);
    const struct tblock *b = cache_block_at(t, code);
    if (!b)
        return;
    uint32_t at = (uint32_t)(code - (uint64_t)(uintptr_t)t->rx), end = b->code + b->body, chosen = 0;
    for (unsigned seen = 2; at < end; seen++) { /* nowhere is one of the choices: some blocks do nothing before they leave */
        struct x86_insn i;
        t->shake_seed = t->shake_seed * 1664525u + 1013904223u;
        if ((t->shake_seed >> 8) % seen == 0)
            chosen = at;
        int length = x86_decode(t->rw + at, 15, X86_MODE64, &i);
        if (length <= 0)
            break;
        at += (unsigned)length;
    }
    if (!chosen)
        return;
    t->planted = chosen;
    t->planted_over = t->rw[chosen];
    t->rw[chosen] = BREAKPOINT;
}

bool shake_hit(struct tcpu *t, uint64_t pc)
{
    if (!t->planted || pc - 1 - (uint64_t)(uintptr_t)t->rx != t->planted)
        return false;
    shake_clear(t);
    return true;
}

void shake_stack(struct icpu *c)
{
    uint8_t frame[256];
    if (interp_cpl(c) || !(c->s.rflags & X86_IF) || mode_code32(c->mode))
        return;
    memset(frame, 0xdb, sizeof(frame));
    (void)c->ctx.write(&c->ctx, (c->s.r[X86_RSP] & ~15ull) - sizeof(frame), frame, sizeof(frame), false);
}
