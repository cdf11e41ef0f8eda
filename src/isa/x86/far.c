/* isa/x86/far.c - far jumps, calls and returns, call gates, and the fast system calls.
 *
 * Model: find the target (a code segment, or through a gate), check it, push or pop on a detached stack, commit registers last.
 * Invariants: a fault leaves the state as it was (memory below the stack pointer may have been written, accessed bits set).
 * Source: Intel SDM vol. 2 JMP, CALL, RET, SYSCALL, SYSRET, SYSENTER, SYSEXIT; vol. 3 5.8; AMD APM
 * vol. 3 for SYSCALL and SYSRET of AMD processors.
 */
#include "isa/x86/x86_internal.h"

int x86_check_target(struct x86_ctx *c, uint64_t raw, uint64_t rip, unsigned ext)
{
    bool ok = x86_long_mode(c->s) && x86_desc_long(raw) ? x86_canonical48(rip) : rip <= x86_desc_limit(raw);
    return DP_LIKELY(ok) ? 0 : x86_gp(c, ext);
}

static bool bad_mode_bits(const struct x86_state *s, uint64_t raw) /* L and D together are reserved in long mode */
{
    return x86_long_mode(s) && x86_desc_long(raw) && x86_desc_db(raw);
}

/* ---- real and virtual-8086 mode ---- */

static void set_cs_8086(struct x86_state *s, uint16_t sel)
{
    if (x86_v86(s)) {
        s->seg[X86_CS] = x86_seg_v86(sel);
        return;
    }
    s->seg[X86_CS].sel = sel;
    s->seg[X86_CS].base = (uint64_t)sel << 4;
}

static bool mode_8086(const struct x86_state *s) { return !x86_protected(s) || x86_v86(s); }

/* Real mode keeps the limit of CS, virtual-8086 mode always has 64 KiB. */
static int check_8086(struct x86_ctx *c, uint64_t offset)
{
    uint32_t limit = x86_v86(c->s) ? 0xffff : c->s->seg[X86_CS].limit;
    return offset <= limit ? 0 : x86_gp(c, 0);
}

/* ---- direct transfers ---- */

static int push_return(struct x86_ctx *c, struct x86_stack *st, uint64_t rip, unsigned size)
{
    return x86_stack_push(c, st, c->s->seg[X86_CS].sel, size) || x86_stack_push(c, st, rip, size) ? -1 : 0;
}

/* A code segment reached without gate at the same privilege level. */
static int check_direct(struct x86_ctx *c, uint16_t sel, uint64_t raw)
{
    unsigned cpl = x86_cpl(c->s), dpl = x86_desc_dpl(raw);

    if (bad_mode_bits(c->s, raw) || (x86_desc_conforming(raw) ? dpl > cpl : (sel & 3u) > cpl || dpl != cpl))
        return x86_gp(c, sel & ~3u);
    if (!x86_desc_present(raw))
        return x86_fault(c, X86_NP, true, sel & ~3u);
    return 0;
}

static int transfer_direct(struct x86_ctx *c, uint16_t sel, struct x86_desc *d, uint64_t offset, unsigned size, uint64_t next_rip,
                           bool call)
{
    struct x86_state *s = c->s;
    struct x86_stack st;

    if (check_direct(c, sel, d->raw))
        return -1;
    x86_stack_current(c, &st);
    if ((call && x86_stack_room(c, &st, 2 * size)) || x86_check_target(c, d->raw, offset, 0) ||
        (call && push_return(c, &st, next_rip, size)) || x86_desc_mark(c, d))
        return -1;
    if (call)
        x86_stack_commit(s, &st);
    x86_set_cs(s, sel, d->raw, x86_cpl(s));
    s->r[X86_RIP] = offset;
    return 0;
}

/* ---- gates ---- */

int x86_tss_stack(struct x86_ctx *c, unsigned cpl, unsigned ext, uint16_t *ss, uint64_t *sp)
{
    const struct x86_seg *tr = &c->s->tr;
    uint32_t error = (tr->sel & ~3u) | ext;
    uint8_t b[8];

    *sp = 0;
    *ss = (uint16_t)cpl; /* a null selector in long mode */
    if (x86_long_mode(c->s)) {
        uint32_t at = 4 + 8 * cpl;
        if (at + 7 > tr->limit)
            return x86_fault(c, X86_TS, true, error);
        return x86_sys_read(c, tr->base + at, sp, 8);
    }
    if (tr->attr & 8) { /* 32-bit TSS: ESPn, SSn */
        uint32_t at = 4 + 8 * cpl;
        if (at + 5 > tr->limit)
            return x86_fault(c, X86_TS, true, error);
        if (x86_sys_read(c, tr->base + at, b, 6))
            return -1;
        *sp = dp_ld32(b);
        *ss = dp_ld16(b + 4);
    } else {
        uint32_t at = 2 + 4 * cpl;
        if (at + 3 > tr->limit)
            return x86_fault(c, X86_TS, true, error);
        if (x86_sys_read(c, tr->base + at, b, 4))
            return -1;
        *sp = dp_ld16(b);
        *ss = dp_ld16(b + 2);
    }
    return 0;
}

struct gate {
    uint16_t sel;       /* of the target code segment */
    uint64_t offset;
    unsigned size;      /* of the words pushed: 2, 4, 8 */
    unsigned params;
    struct x86_desc code;
};

/* The gate itself and the code segment behind it, without the privilege rule that differs for JMP and CALL. */
static int read_gate(struct x86_ctx *c, uint16_t sel, const struct x86_desc *d, struct gate *g)
{
    const struct x86_state *s = c->s;
    unsigned cpl = x86_cpl(s);

    if (x86_desc_dpl(d->raw) < cpl || (sel & 3u) > x86_desc_dpl(d->raw))
        return x86_gp(c, sel & ~3u);
    if (!x86_desc_present(d->raw))
        return x86_fault(c, X86_NP, true, sel & ~3u);
    g->sel = x86_gate_selector(d->raw);
    g->params = d->raw >> 32 & 31;
    g->offset = x86_gate_offset(d->raw);
    if (x86_long_mode(s)) {
        g->size = 8;
        g->offset |= d->high << 32;
    } else if (x86_desc_type(d->raw) == X86_TYPE_CALL16) {
        g->size = 2;
        g->offset &= 0xffff;
    } else {
        g->size = 4;
    }
    if (x86_null_selector(g->sel))
        return x86_gp(c, 0);
    if (x86_desc_read(c, g->sel, X86_GP, 0, &g->code))
        return -1;
    if (!x86_desc_code(g->code.raw) || x86_desc_dpl(g->code.raw) > cpl ||
        (x86_long_mode(s) && (!x86_desc_long(g->code.raw) || x86_desc_db(g->code.raw))))
        return x86_gp(c, g->sel & ~3u);
    return 0;
}

static int gate_present(struct x86_ctx *c, const struct gate *g)
{
    return x86_desc_present(g->code.raw) ? 0 : x86_fault(c, X86_NP, true, g->sel & ~3u);
}

static int jump_gate(struct x86_ctx *c, uint16_t sel, const struct x86_desc *d)
{
    struct x86_state *s = c->s;
    unsigned cpl = x86_cpl(s);
    struct gate g;

    if (read_gate(c, sel, d, &g))
        return -1;
    if (!x86_desc_conforming(g.code.raw) && x86_desc_dpl(g.code.raw) != cpl)
        return x86_gp(c, g.sel & ~3u);
    if (gate_present(c, &g) || x86_check_target(c, g.code.raw, g.offset, 0) || x86_desc_mark(c, &g.code))
        return -1;
    x86_set_cs(s, g.sel, g.code.raw, cpl);
    s->r[X86_RIP] = g.offset;
    return 0;
}

static int call_gate_same(struct x86_ctx *c, struct gate *g, uint64_t next_rip)
{
    struct x86_state *s = c->s;
    unsigned cpl = x86_cpl(s);
    struct x86_stack st;

    x86_stack_current(c, &st);
    if (g->size == 8) /* pushes happen in the target's mode, where stacks are flat */
        x86_stack_of(&st, &s->seg[X86_SS], s->r[X86_RSP], true, cpl, 0);
    if (x86_stack_room(c, &st, 2 * g->size) || x86_check_target(c, g->code.raw, g->offset, 0) || push_return(c, &st, next_rip, g->size) ||
        x86_desc_mark(c, &g->code))
        return -1;
    x86_stack_commit(s, &st);
    x86_set_cs(s, g->sel, g->code.raw, cpl);
    s->r[X86_RIP] = g->offset;
    return 0;
}

/* Parameters of 16- and 32-bit gates: words of the caller's stack, the one pushed first at the highest address. */
static int copy_parameters(struct x86_ctx *c, const struct gate *g, struct x86_stack *to)
{
    uint64_t words[31];
    struct x86_stack from;

    x86_stack_current(c, &from);
    for (unsigned i = 0; i < g->params; i++)
        if (x86_stack_pop(c, &from, &words[i], g->size))
            return -1;
    for (unsigned i = g->params; i-- > 0;)
        if (x86_stack_push(c, to, words[i], g->size))
            return -1;
    return 0;
}

static int call_gate_inner(struct x86_ctx *c, struct gate *g, uint64_t next_rip)
{
    struct x86_state *s = c->s;
    unsigned cpl = x86_desc_dpl(g->code.raw), params = g->size == 8 ? 0 : g->params;
    struct x86_seg ss;
    struct x86_desc ssd;
    struct x86_stack st;
    uint16_t ss_sel;
    uint64_t sp;

    if (x86_tss_stack(c, cpl, 0, &ss_sel, &sp))
        return -1;
    if (g->size == 8) {
        ss = x86_seg_null(ss_sel, cpl);
    } else {
        if (x86_stack_segment(c, ss_sel, cpl, X86_TS, 0, &ssd))
            return -1;
        ss = x86_seg_of(ss_sel, ssd.raw);
    }
    x86_stack_of(&st, &ss, sp, g->size == 8, cpl, ss_sel & ~3u);
    if (x86_stack_room(c, &st, (4 + params) * g->size) || x86_check_target(c, g->code.raw, g->offset, 0))
        return -1;
    if (x86_stack_push(c, &st, s->seg[X86_SS].sel, g->size) || x86_stack_push(c, &st, s->r[X86_RSP], g->size) ||
        (params && copy_parameters(c, g, &st)) || push_return(c, &st, next_rip, g->size) || x86_desc_mark(c, &g->code))
        return -1;
    s->seg[X86_SS] = ss;
    x86_set_cs(s, g->sel, g->code.raw, cpl);
    s->r[X86_RSP] = g->size == 8 || st.mask != 0xffff ? st.sp & st.mask : (s->r[X86_RSP] & ~0xffffull) | (st.sp & 0xffff);
    s->r[X86_RIP] = g->offset;
    return 0;
}

static int call_gate(struct x86_ctx *c, uint16_t sel, const struct x86_desc *d, uint64_t next_rip)
{
    struct gate g;

    if (read_gate(c, sel, d, &g) || gate_present(c, &g))
        return -1;
    if (!x86_desc_conforming(g.code.raw) && x86_desc_dpl(g.code.raw) < x86_cpl(c->s))
        return call_gate_inner(c, &g, next_rip);
    return call_gate_same(c, &g, next_rip);
}

/* ---- tasks ---- */

static int transfer_task(struct x86_ctx *c, uint16_t sel, const struct x86_desc *d, bool gate, bool call, uint64_t next_rip)
{
    unsigned cpl = x86_cpl(c->s), dpl = x86_desc_dpl(d->raw);

    if (dpl < cpl || dpl < (sel & 3u))
        return x86_gp(c, sel & ~3u);
    if (gate) {
        if (!x86_desc_present(d->raw))
            return x86_fault(c, X86_NP, true, sel & ~3u);
        sel = x86_gate_selector(d->raw);
    }
    return x86_task_switch_to(c, sel, call ? X86_TASK_CALL : X86_TASK_JMP, false, 0, next_rip, 0);
}

/* ---- JMP and CALL ---- */

static int transfer(struct x86_ctx *c, uint16_t sel, uint64_t offset, unsigned size, uint64_t next_rip, bool call)
{
    const struct x86_state *s = c->s;
    struct x86_desc d;

    offset &= dp_mask_bytes(size);
    if (x86_null_selector(sel))
        return x86_gp(c, 0);
    if (x86_desc_read(c, sel, X86_GP, 0, &d))
        return -1;
    if (x86_desc_segment(d.raw))
        return x86_desc_code(d.raw) ? transfer_direct(c, sel, &d, offset, size, next_rip, call) : x86_gp(c, sel & ~3u);

    switch (x86_desc_type(d.raw)) {
    case X86_TYPE_CALL32: /* the 64-bit one in long mode */
        if (x86_long_mode(s) && x86_desc_read_system(c, sel, X86_GP, 0, &d))
            return -1;
        return call ? call_gate(c, sel, &d, next_rip) : jump_gate(c, sel, &d);
    case X86_TYPE_CALL16:
        if (x86_long_mode(s))
            break;
        return call ? call_gate(c, sel, &d, next_rip) : jump_gate(c, sel, &d);
    case X86_TYPE_TSS16: case X86_TYPE_TSS32: case X86_TYPE_TASK_GATE:
        if (x86_long_mode(s))
            break;
        return transfer_task(c, sel, &d, x86_desc_type(d.raw) == X86_TYPE_TASK_GATE, call, next_rip);
    }
    return x86_gp(c, sel & ~3u);
}

int x86_far_jump(struct x86_ctx *c, uint16_t sel, uint64_t offset, unsigned size, uint64_t next_rip)
{
    if (!mode_8086(c->s))
        return transfer(c, sel, offset, size, next_rip, false);
    offset &= dp_mask_bytes(size);
    if (check_8086(c, offset))
        return -1;
    set_cs_8086(c->s, sel);
    c->s->r[X86_RIP] = offset;
    return 0;
}

int x86_far_call(struct x86_ctx *c, uint16_t sel, uint64_t offset, unsigned size, uint64_t next_rip)
{
    struct x86_stack st;

    if (!mode_8086(c->s))
        return transfer(c, sel, offset, size, next_rip, true);
    offset &= dp_mask_bytes(size);
    x86_stack_current(c, &st);
    if (x86_stack_room(c, &st, 2 * size) || check_8086(c, offset) || push_return(c, &st, next_rip, size))
        return -1;
    x86_stack_commit(c->s, &st);
    set_cs_8086(c->s, sel);
    c->s->r[X86_RIP] = offset;
    return 0;
}

/* ---- RET, and what IRET shares with it ---- */

int x86_return_code(struct x86_ctx *c, uint16_t sel, uint64_t rip, struct x86_return *r)
{
    const struct x86_state *s = c->s;
    unsigned rpl = sel & 3;

    if (x86_null_selector(sel))
        return x86_gp(c, 0);
    if (x86_desc_read(c, sel, X86_GP, 0, &r->cs))
        return -1;
    uint64_t raw = r->cs.raw;
    if (!x86_desc_code(raw) || bad_mode_bits(s, raw) || rpl < x86_cpl(s) ||
        (x86_desc_conforming(raw) ? x86_desc_dpl(raw) > rpl : x86_desc_dpl(raw) != rpl))
        return x86_gp(c, sel & ~3u);
    if (!x86_desc_present(raw))
        return x86_fault(c, X86_NP, true, sel & ~3u);
    if (x86_check_target(c, raw, rip, 0))
        return -1;
    r->cs_sel = sel;
    r->cpl = rpl;
    r->long_code = x86_long_mode(s) && x86_desc_long(raw);
    return x86_desc_mark(c, &r->cs);
}

int x86_return_stack(struct x86_ctx *c, uint16_t sel, struct x86_return *r)
{
    r->ss_sel = sel;
    r->null_ss = x86_null_selector(sel);
    if (r->null_ss)
        return r->long_code && r->cpl != 3 && (sel & 3u) == r->cpl ? 0 : x86_gp(c, 0);
    return x86_stack_segment(c, sel, r->cpl, X86_GP, 0, &r->ss);
}

void x86_return_commit(struct x86_state *s, const struct x86_return *r, uint64_t rsp)
{
    static const uint8_t data[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    bool outer = r->cpl > x86_cpl(s);
    struct x86_seg *ss = &s->seg[X86_SS];

    x86_set_cs(s, r->cs_sel, r->cs.raw, r->cpl);
    *ss = r->null_ss ? x86_seg_null(r->ss_sel, r->cpl) : x86_seg_of(r->ss_sel, r->ss.raw);
    if (r->long_code)
        s->r[X86_RSP] = rsp;
    else if (ss->attr & X86_ATTR_DB)
        s->r[X86_RSP] = (uint32_t)rsp;
    else
        s->r[X86_RSP] = (s->r[X86_RSP] & ~0xffffull) | (rsp & 0xffff);
    if (!outer)
        return;
    for (unsigned i = 0; i < DP_ARRAY_LEN(data); i++) {
        struct x86_seg *g = &s->seg[data[i]];
        bool conforming = (g->attr & (X86_TYPE_CODE | X86_TYPE_DIR)) == (X86_TYPE_CODE | X86_TYPE_DIR);
        uint64_t base = g->base; /* stays in any case: 64-bit kernels keep their FSBASE and GSBASE */
        /* Of the null selectors only 0 survives. */
        if ((g->attr & X86_ATTR_UNUSABLE) || (!conforming && (g->attr >> X86_ATTR_DPL_SHIFT & 3) < r->cpl)) {
            *g = x86_seg_null(0, 0);
            g->base = base;
        }
    }
}

int x86_far_return(struct x86_ctx *c, unsigned size, uint16_t bytes)
{
    struct x86_state *s = c->s;
    struct x86_stack st;
    struct x86_return r;
    uint64_t rip, cs, rsp, ss;

    x86_stack_current(c, &st);
    if (x86_stack_pop(c, &st, &rip, size) || x86_stack_pop(c, &st, &cs, size))
        return -1;
    if (mode_8086(s)) {
        if (check_8086(c, rip))
            return -1;
        st.sp += bytes;
        x86_stack_commit(s, &st);
        set_cs_8086(s, (uint16_t)cs);
        s->r[X86_RIP] = rip;
        return 0;
    }
    if (x86_return_code(c, (uint16_t)cs, rip, &r))
        return -1;
    st.sp += bytes;
    if (r.cpl == x86_cpl(s)) {
        x86_stack_commit(s, &st);
        x86_set_cs(s, (uint16_t)cs, r.cs.raw, r.cpl);
    } else {
        if (x86_stack_pop(c, &st, &rsp, size) || x86_stack_pop(c, &st, &ss, size) || x86_return_stack(c, (uint16_t)ss, &r))
            return -1;
        x86_return_commit(s, &r, rsp + bytes);
    }
    s->r[X86_RIP] = rip;
    return 0;
}

/* ---- SYSCALL, SYSRET, SYSENTER, SYSEXIT: flat segments without descriptors ---- */

static struct x86_seg flat_code(uint16_t sel, unsigned dpl, bool long_code)
{
    return (struct x86_seg){.sel = sel, .limit = 0xffffffff,
                            .attr = X86_TYPE_CODE_XR_A | X86_ATTR_S | dpl << X86_ATTR_DPL_SHIFT | X86_ATTR_P | X86_ATTR_G |
                                    (long_code ? X86_ATTR_L : X86_ATTR_DB)};
}
static struct x86_seg flat_stack(uint16_t sel, unsigned dpl)
{
    return (struct x86_seg){.sel = sel, .limit = 0xffffffff,
                            .attr = X86_TYPE_DATA_RW_A | X86_ATTR_S | dpl << X86_ATTR_DPL_SHIFT | X86_ATTR_P | X86_ATTR_G | X86_ATTR_DB};
}
static bool is_amd(const struct x86_ctx *c) { return c->model->vendor[0] == 'A'; }

int x86_syscall(struct x86_ctx *c, uint64_t next_rip)
{
    struct x86_state *s = c->s;
    uint16_t cs = (uint16_t)(s->star >> 32);
    bool lm = x86_long_mode(s);

    /* AMD has it in every mode, Intel in 64-bit mode only. */
    if (!(s->efer & X86_EFER_SCE) || !(is_amd(c) || x86_code64(s)))
        return x86_fault(c, X86_UD, false, 0);
    if (DP_LIKELY(lm)) {
        s->r[X86_RCX] = next_rip;
        s->r[X86_R11] = s->rflags & ~(uint64_t)X86_RF;
        s->r[X86_RIP] = x86_code64(s) ? s->lstar : s->cstar;
        s->rflags &= ~(s->fmask | X86_RF);
    } else {
        s->r[X86_RCX] = (uint32_t)next_rip;
        s->r[X86_RIP] = (uint32_t)s->star;
        s->rflags &= ~(uint64_t)(X86_VM | X86_IF | X86_RF);
    }
    s->rflags |= X86_FLAGS_FIXED;
    s->seg[X86_CS] = flat_code(cs & 0xfffc, 0, lm);
    s->seg[X86_SS] = flat_stack((uint16_t)((cs + 8) & (is_amd(c) ? 0xfffc : 0xffff)), 0);
    return 0;
}

int x86_sysret(struct x86_ctx *c, unsigned size)
{
    struct x86_state *s = c->s;
    uint16_t base = (uint16_t)(s->star >> 48);
    bool to64 = size == 8;

    if (!(s->efer & X86_EFER_SCE) || !(is_amd(c) || x86_code64(s)))
        return x86_fault(c, X86_UD, false, 0);
    if (!x86_protected(s) || x86_cpl(s) != 0)
        return x86_gp(c, 0);
    /* Intel checks here, still in ring 0; AMD faults at the first fetch, in ring 3. */
    if (to64 && !is_amd(c) && !x86_canonical48(s->r[X86_RCX]))
        return x86_gp(c, 0);
    s->r[X86_RIP] = to64 ? s->r[X86_RCX] : (uint32_t)s->r[X86_RCX];
    if (x86_long_mode(s))
        s->rflags = (s->r[X86_R11] & X86_FLAGS_VALID & ~(uint64_t)(X86_RF | X86_VM)) | X86_FLAGS_FIXED;
    else
        s->rflags |= X86_IF;
    s->seg[X86_CS] = flat_code((uint16_t)((base + (to64 ? 16 : 0)) | 3), 3, to64);
    if (is_amd(c)) { /* only the selector and the privilege change */
        s->seg[X86_SS].sel = (uint16_t)(base + 8);
        s->seg[X86_SS].attr |= 3 << X86_ATTR_DPL_SHIFT;
    } else {
        s->seg[X86_SS] = flat_stack((uint16_t)((base + 8) | 3), 3);
    }
    return 0;
}

int x86_sysenter(struct x86_ctx *c)
{
    struct x86_state *s = c->s;
    bool lm = x86_long_mode(s);
    uint16_t cs = s->sysenter_cs & 0xfffc;

    if (lm && is_amd(c))
        return x86_fault(c, X86_UD, false, 0);
    if (!x86_protected(s) || !cs)
        return x86_gp(c, 0);
    s->rflags &= ~(uint64_t)(X86_VM | X86_IF | X86_RF);
    s->seg[X86_CS] = flat_code(cs, 0, lm);
    s->seg[X86_SS] = flat_stack((uint16_t)(cs + 8), 0);
    s->r[X86_RSP] = lm ? s->sysenter_esp : (uint32_t)s->sysenter_esp;
    s->r[X86_RIP] = lm ? s->sysenter_eip : (uint32_t)s->sysenter_eip;
    return 0;
}

int x86_sysexit(struct x86_ctx *c, unsigned size)
{
    struct x86_state *s = c->s;
    uint16_t cs = s->sysenter_cs & 0xfffc;
    bool to64 = size == 8;

    if (x86_long_mode(s) && is_amd(c))
        return x86_fault(c, X86_UD, false, 0);
    if (!x86_protected(s) || x86_cpl(s) != 0 || !cs)
        return x86_gp(c, 0);
    if (to64 && (!x86_canonical48(s->r[X86_RCX]) || !x86_canonical48(s->r[X86_RDX])))
        return x86_gp(c, 0);
    s->seg[X86_CS] = flat_code((uint16_t)((cs + (to64 ? 32 : 16)) | 3), 3, to64);
    s->seg[X86_SS] = flat_stack((uint16_t)((cs + (to64 ? 40 : 24)) | 3), 3);
    s->r[X86_RSP] = to64 ? s->r[X86_RCX] : (uint32_t)s->r[X86_RCX];
    s->r[X86_RIP] = to64 ? s->r[X86_RDX] : (uint32_t)s->r[X86_RDX];
    return 0;
}
