/* isa/x86/iret.c - IRET in every mode.
 *
 * Model: 64-bit code has its own straight path (it always pops five words); everything else pops three, then decides.
 * Invariants: NMIs are unblocked even when the instruction faults; apart from that a fault leaves the state as it was.
 * Source: Intel SDM vol. 2 IRET; vol. 3 6.7.1 (NMI), 20.2.7-20.3 (virtual-8086 mode).
 */
#include "isa/x86/x86_internal.h"

/* Flags any IRET may set, and what 32- and 64-bit forms add. */
#define FLAGS_ALWAYS (X86_ARITH | X86_TF | X86_DF | X86_NT)
#define FLAGS_WIDE (X86_RF | X86_AC | X86_ID)

static void set_flags(struct x86_state *s, uint64_t image, uint64_t writable)
{
    s->rflags = ((s->rflags & ~writable) | (image & writable)) | X86_FLAGS_FIXED;
}

/* What protected-mode IRET at privilege level cpl (the one left) may change. */
static uint64_t writable_flags(const struct x86_state *s, unsigned cpl, unsigned size)
{
    uint64_t w = FLAGS_ALWAYS;

    if (size != 2)
        w |= FLAGS_WIDE;
    if (cpl <= (s->rflags >> 12 & 3))
        w |= X86_IF;
    if (cpl == 0) {
        w |= X86_IOPL;
        if (size != 2)
            w |= X86_VIF | X86_VIP;
    }
    return w;
}

static int iret_8086(struct x86_ctx *c, struct x86_stack *st, uint64_t rip, uint64_t cs, uint64_t flags, unsigned size)
{
    struct x86_state *s = c->s;
    bool v86 = x86_v86(s), virtual_if = v86 && (s->rflags & X86_IOPL) != X86_IOPL; /* with VME, else x86_iret refused */

    if (virtual_if && ((flags & X86_TF) || ((flags & X86_IF) && (s->rflags & X86_VIP))))
        return x86_gp(c, 0);
    if (rip > (v86 ? 0xffff : s->seg[X86_CS].limit))
        return x86_gp(c, 0);
    x86_stack_commit(s, st);
    if (v86) {
        s->seg[X86_CS] = x86_seg_v86((uint16_t)cs);
    } else {
        s->seg[X86_CS].sel = (uint16_t)cs;
        s->seg[X86_CS].base = (uint64_t)(uint16_t)cs << 4;
    }
    s->r[X86_RIP] = rip;
    if (virtual_if) {
        set_flags(s, flags & X86_IF ? flags | X86_VIF : flags & ~(uint64_t)X86_VIF, FLAGS_ALWAYS | X86_VIF);
        return 0;
    }
    set_flags(s, flags, FLAGS_ALWAYS | X86_IF | (v86 ? 0 : X86_IOPL) | (size == 2 ? 0 : FLAGS_WIDE));
    return 0;
}

/* From ring 0 into virtual-8086 mode: six more words on the stack. */
static int iret_to_v86(struct x86_ctx *c, struct x86_stack *st, uint64_t rip, uint64_t cs, uint64_t flags)
{
    static const uint8_t order[] = {X86_SS, X86_ES, X86_DS, X86_FS, X86_GS};
    struct x86_state *s = c->s;
    uint64_t w[6]; /* ESP, then selectors in `order` */

    for (unsigned i = 0; i < 6; i++)
        if (x86_stack_pop(c, st, &w[i], 4))
            return -1;
    if (rip > 0xffff)
        return x86_gp(c, 0);
    set_flags(s, flags, X86_FLAGS_VALID);
    s->seg[X86_CS] = x86_seg_v86((uint16_t)cs);
    for (unsigned i = 0; i < 5; i++)
        s->seg[order[i]] = x86_seg_v86((uint16_t)w[i + 1]);
    s->r[X86_RIP] = rip;
    s->r[X86_RSP] = w[0];
    return 0;
}

static int iret_nested_task(struct x86_ctx *c, uint64_t next_rip)
{
    const struct x86_state *s = c->s;
    uint16_t link;

    if (x86_sys_read(c, s->tr.base, &link, 2))
        return -1;
    return x86_task_switch_to(c, link, X86_TASK_IRET, false, 0, next_rip, 0);
}

static int iret_protected(struct x86_ctx *c, struct x86_stack *st, uint64_t rip, uint64_t cs, uint64_t flags, unsigned size)
{
    struct x86_state *s = c->s;
    unsigned cpl = x86_cpl(s);
    uint64_t rsp, ss, writable = writable_flags(s, cpl, size);
    struct x86_return r;

    if (x86_return_code(c, (uint16_t)cs, rip, &r))
        return -1;
    if (r.cpl == cpl) {
        x86_stack_commit(s, st);
        x86_set_cs(s, (uint16_t)cs, r.cs.raw, cpl);
    } else {
        if (x86_stack_pop(c, st, &rsp, size) || x86_stack_pop(c, st, &ss, size) || x86_return_stack(c, (uint16_t)ss, &r))
            return -1;
        x86_return_commit(s, &r, rsp);
    }
    s->r[X86_RIP] = rip;
    set_flags(s, flags, writable);
    return 0;
}

/* From 64-bit code: SS:rSP are popped whatever the privilege levels. */
static int iret_64(struct x86_ctx *c, unsigned size)
{
    struct x86_state *s = c->s;
    uint64_t rsp = s->r[X86_RSP], writable;
    uint64_t w[5]; /* RIP, CS, RFLAGS, RSP, SS */
    struct x86_return r;

    if (DP_LIKELY(size == 8 && x86_canonical48(rsp) && x86_canonical48(rsp + sizeof w - 1))) {
        bool user = x86_cpl(s) == 3;
        int fault;

        c->explicit_access = true;
        fault = c->read(c, rsp, &w[0], 16, user) || c->read(c, rsp + 16, &w[2], 16, user) || c->read(c, rsp + 32, &w[4], 8, user);
        c->explicit_access = false;
        if (fault)
            return -1;
    } else {
        struct x86_stack st;
        x86_stack_current(c, &st);
        for (unsigned i = 0; i < 5; i++)
            if (x86_stack_pop(c, &st, &w[i], size))
                return -1;
    }
    if (x86_return_code(c, (uint16_t)w[1], w[0], &r) || x86_return_stack(c, (uint16_t)w[4], &r))
        return -1;
    writable = writable_flags(s, x86_cpl(s), size);
    x86_return_commit(s, &r, w[3]);
    s->r[X86_RIP] = w[0];
    set_flags(s, w[2], writable);
    return 0;
}

int x86_iret(struct x86_ctx *c, unsigned size, uint64_t next_rip)
{
    struct x86_state *s = c->s;
    struct x86_stack st;
    uint64_t rip, cs, flags;

    s->nmi_blocked = false;
    if (x86_long_mode(s)) {
        if (s->rflags & X86_NT)
            return x86_gp(c, 0);
        if (x86_code64(s))
            return iret_64(c, size);
    } else if (x86_v86(s)) {
        if ((s->rflags & X86_IOPL) != X86_IOPL && !((s->cr4 & X86_CR4_VME) && size == 2))
            return x86_gp(c, 0);
    } else if (x86_protected(s) && (s->rflags & X86_NT)) {
        return iret_nested_task(c, next_rip);
    }
    x86_stack_current(c, &st);
    if (x86_stack_pop(c, &st, &rip, size) || x86_stack_pop(c, &st, &cs, size) || x86_stack_pop(c, &st, &flags, size))
        return -1;
    if (!x86_protected(s) || x86_v86(s))
        return iret_8086(c, &st, rip, cs, flags, size);
    if ((flags & X86_VM) && size == 4 && x86_cpl(s) == 0 && !x86_long_mode(s))
        return iret_to_v86(c, &st, rip, cs, flags);
    return iret_protected(c, &st, rip, cs, flags, size);
}
