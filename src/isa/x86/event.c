/* isa/x86/event.c - delivery of interrupts and exceptions, and the rules that turn faults within faults into double and triple faults.
 *
 * Model: x86_deliver is one attempt: find the handler through IVT or IDT, check it, push the frame on a detached stack, commit. x86_raise
 * is the loop around it: what an attempt faults with is raised in turn, until something is delivered or the processor shuts down.
 * Invariants: an attempt that faults leaves the registers as they were, except when a task switch had already happened.
 * Source: Intel SDM vol. 2 INT n; vol. 3 6.12-6.15 (delivery, error codes, table 6-5 for double faults), 6.14 (64-bit), 17.3.1 (#DB, RF).
 */
#include "isa/x86/x86_internal.h"

#define CONTRIBUTORY (1u << X86_DE | 1u << X86_TS | 1u << X86_NP | 1u << X86_SS_ | 1u << X86_GP)
#define FLAGS_CLEARED (X86_TF | X86_NT | X86_RF | X86_VM)

/* Debug traps of task switches are benign, so a guest whose TSS descriptors do not take the busy bit could chain them for ever. */
enum { MAX_NESTED = 16 };

struct delivery {
    unsigned vector;
    bool software;     /* INT n, INT3, INTO: gate DPL counts, EXT is clear */
    unsigned ext;
    bool has_error;
    uint32_t error;
    uint64_t rip;      /* to push */
    uint64_t flags;    /* to push */
};

static int idt_gp(struct x86_ctx *c, const struct delivery *v) { return x86_gp(c, v->vector << 3 | 2 | v->ext); }

/* ---- real mode ---- */

static int deliver_real(struct x86_ctx *c, const struct delivery *v)
{
    struct x86_state *s = c->s;
    struct x86_stack st;
    uint8_t entry[4];

    if (v->vector * 4 + 3 > s->idtr.limit)
        return idt_gp(c, v);
    if (x86_sys_read(c, s->idtr.base + v->vector * 4, entry, 4))
        return -1;
    x86_stack_current(c, &st);
    if (x86_stack_room(c, &st, 6) || x86_stack_push(c, &st, v->flags, 2) || x86_stack_push(c, &st, s->seg[X86_CS].sel, 2) ||
        x86_stack_push(c, &st, v->rip, 2))
        return -1;
    x86_stack_commit(s, &st);
    s->seg[X86_CS].sel = dp_ld16(entry + 2);
    s->seg[X86_CS].base = (uint64_t)dp_ld16(entry + 2) << 4;
    s->r[X86_RIP] = dp_ld16(entry);
    s->rflags &= ~(uint64_t)(X86_IF | X86_TF | X86_AC | X86_RF);
    return 0;
}

/* ---- gates ---- */

/* What 32- and 64-bit gates share: the code segment behind the gate, and its privilege. *inner: the handler is more privileged. */
static int handler_segment(struct x86_ctx *c, const struct delivery *v, uint16_t sel, struct x86_desc *d, bool *inner)
{
    const struct x86_state *s = c->s;
    unsigned cpl = x86_cpl(s), dpl;

    if (x86_null_selector(sel))
        return x86_gp(c, v->ext);
    if (x86_desc_read(c, sel, X86_GP, v->ext, d))
        return -1;
    dpl = x86_desc_dpl(d->raw);
    if (!x86_desc_code(d->raw) || dpl > cpl || (x86_long_mode(s) && (!x86_desc_long(d->raw) || x86_desc_db(d->raw))))
        return x86_gp(c, (sel & ~3u) | v->ext);
    if (!x86_desc_present(d->raw))
        return x86_fault(c, X86_NP, true, (sel & ~3u) | v->ext);
    *inner = dpl < cpl && !x86_desc_conforming(d->raw);
    if (x86_v86(s) && (!*inner || dpl != 0))
        return x86_gp(c, (sel & ~3u) | v->ext);
    return 0;
}

static void enter_handler(struct x86_state *s, uint16_t sel, uint64_t raw, uint64_t rip, unsigned cpl, bool interrupt_gate)
{
    x86_set_cs(s, sel, raw, cpl);
    s->r[X86_RIP] = rip;
    s->rflags &= ~(uint64_t)(FLAGS_CLEARED | (interrupt_gate ? X86_IF : 0));
}

static int deliver_task(struct x86_ctx *c, const struct delivery *v, uint64_t gate)
{
    return x86_task_switch_to(c, x86_gate_selector(gate), X86_TASK_INT, v->has_error, v->error, v->rip, v->ext);
}

static int push_frame(struct x86_ctx *c, struct x86_stack *st, const struct delivery *v, unsigned size)
{
    if (x86_stack_push(c, st, v->flags, size) || x86_stack_push(c, st, c->s->seg[X86_CS].sel, size) || x86_stack_push(c, st, v->rip, size))
        return -1;
    return v->has_error ? x86_stack_push(c, st, v->error, size) : 0;
}

/* To a more privileged handler, on its stack from the TSS. Out of virtual-8086 mode the data segments are pushed first and become null. */
static int deliver_inner(struct x86_ctx *c, const struct delivery *v, unsigned size, const struct x86_desc *code, struct x86_stack *st)
{
    static const uint8_t data[] = {X86_GS, X86_FS, X86_DS, X86_ES};
    struct x86_state *s = c->s;
    unsigned cpl = x86_desc_dpl(code->raw);
    struct x86_desc ssd;
    struct x86_seg ss;
    uint16_t sel;
    uint64_t sp;
    bool v86 = x86_v86(s);

    if (x86_tss_stack(c, cpl, v->ext, &sel, &sp) || x86_stack_segment(c, sel, cpl, X86_TS, v->ext, &ssd))
        return -1;
    ss = x86_seg_of(sel, ssd.raw);
    x86_stack_of(st, &ss, sp, false, cpl, (sel & ~3u) | v->ext);
    if (x86_stack_room(c, st, size * (5 + (v86 ? 4 : 0) + v->has_error)))
        return -1;
    for (unsigned i = 0; v86 && i < 4; i++)
        if (x86_stack_push(c, st, s->seg[data[i]].sel, size))
            return -1;
    bool failed = x86_stack_push(c, st, s->seg[X86_SS].sel, size) || x86_stack_push(c, st, s->r[X86_RSP], size) ||
                  push_frame(c, st, v, size);
    return failed ? -1 : 0;
}

static int deliver_protected(struct x86_ctx *c, const struct delivery *v)
{
    struct x86_state *s = c->s;
    struct x86_desc code;
    struct x86_stack st;
    uint64_t gate, rip;
    unsigned type, size, cpl;
    bool inner;

    if (v->vector * 8 + 7 > s->idtr.limit)
        return idt_gp(c, v);
    if (x86_sys_read(c, s->idtr.base + v->vector * 8, &gate, 8))
        return -1;
    type = x86_desc_type(gate);
    if (x86_desc_segment(gate) || !(type == X86_TYPE_TASK_GATE || (type & 7) == X86_TYPE_INT16 || (type & 7) == X86_TYPE_TRAP16))
        return idt_gp(c, v);
    if (v->software && x86_desc_dpl(gate) < x86_cpl(s))
        return idt_gp(c, v);
    if (!x86_desc_present(gate))
        return x86_fault(c, X86_NP, true, v->vector << 3 | 2 | v->ext);
    if (type == X86_TYPE_TASK_GATE)
        return deliver_task(c, v, gate);

    size = type & 8 ? 4 : 2;
    rip = size == 4 ? x86_gate_offset(gate) : gate & 0xffff;
    if (handler_segment(c, v, x86_gate_selector(gate), &code, &inner))
        return -1;
    if (inner) {
        if (deliver_inner(c, v, size, &code, &st))
            return -1;
    } else {
        x86_stack_current(c, &st);
        st.error = v->ext;
        if (x86_stack_room(c, &st, size * (3 + v->has_error)) || push_frame(c, &st, v, size))
            return -1;
    }
    if (x86_check_target(c, code.raw, rip, v->ext) || x86_desc_mark(c, &code))
        return -1;

    cpl = inner ? x86_desc_dpl(code.raw) : x86_cpl(s);
    if (inner) {
        if (x86_v86(s))
            for (unsigned i = 0; i < X86_SEGS; i++)
                s->seg[i] = x86_seg_null(0, 0);
        s->seg[X86_SS] = st.ss;
    }
    x86_stack_commit(s, &st);
    enter_handler(s, x86_gate_selector(gate), code.raw, rip, cpl, !(type & 1));
    return 0;
}

/* Where a 64-bit handler's stack starts: IST, the TSS for the new privilege level, or the current one. */
static int stack_64(struct x86_ctx *c, const struct delivery *v, unsigned ist, bool inner, unsigned cpl, uint64_t *rsp)
{
    const struct x86_state *s = c->s;
    uint32_t at = ist ? 28 + 8 * ist : 4 + 8 * cpl;

    if (!ist && !inner) {
        *rsp = s->r[X86_RSP];
        return 0;
    }
    if (at + 7 > s->tr.limit)
        return x86_fault(c, X86_TS, true, (s->tr.sel & ~3u) | v->ext);
    return x86_sys_read(c, s->tr.base + at, rsp, 8);
}

static int deliver_64(struct x86_ctx *c, const struct delivery *v)
{
    struct x86_state *s = c->s;
    struct x86_desc code;
    uint64_t gate[2], rip, rsp, frame[6]; /* error code, RIP, CS, RFLAGS, RSP, SS */
    unsigned type, cpl, low;
    bool inner, fault, user;

    if (v->vector * 16 + 15 > s->idtr.limit)
        return idt_gp(c, v);
    if (x86_sys_read(c, s->idtr.base + v->vector * 16, gate, 16))
        return -1;
    type = x86_desc_type(gate[0]);
    if (x86_desc_segment(gate[0]) || (type & ~1u) != X86_TYPE_INT32 || (gate[1] >> 40 & 0x1f))
        return idt_gp(c, v);
    if (v->software && x86_desc_dpl(gate[0]) < x86_cpl(s))
        return idt_gp(c, v);
    if (!x86_desc_present(gate[0]))
        return x86_fault(c, X86_NP, true, v->vector << 3 | 2 | v->ext);
    if (handler_segment(c, v, x86_gate_selector(gate[0]), &code, &inner))
        return -1;
    cpl = inner ? x86_desc_dpl(code.raw) : x86_cpl(s);
    if (stack_64(c, v, gate[0] >> 32 & 7, inner, cpl, &rsp))
        return -1;

    frame[0] = v->error;
    frame[1] = v->rip;
    frame[2] = s->seg[X86_CS].sel;
    frame[3] = v->flags;
    frame[4] = s->r[X86_RSP];
    frame[5] = s->seg[X86_SS].sel;
    low = v->has_error ? 0 : 1;
    rsp = (rsp & ~15ull) - (6 - low) * 8;
    if (!x86_canonical48(rsp) || !x86_canonical48(rsp + (6 - low) * 8 - 1))
        return x86_fault(c, X86_SS_, true, v->ext);
    /* Frames end on a 16-byte boundary: write from there, so that no write crosses a page. */
    user = cpl == 3;
    c->explicit_access = true;
    fault = c->write(c, rsp + (4 - low) * 8, &frame[4], 16, user) || c->write(c, rsp + (2 - low) * 8, &frame[2], 16, user) ||
            c->write(c, rsp, &frame[low], (2 - low) * 8, user);
    c->explicit_access = false;
    if (fault)
        return -1;
    rip = x86_gate_offset(gate[0]) | gate[1] << 32;
    if (!x86_canonical48(rip))
        return x86_gp(c, v->ext);
    if (x86_desc_mark(c, &code))
        return -1;

    if (inner)
        s->seg[X86_SS] = x86_seg_null((uint16_t)cpl, cpl);
    s->r[X86_RSP] = rsp;
    enter_handler(s, x86_gate_selector(gate[0]), code.raw, rip, cpl, !(type & 1));
    return 0;
}

/* ---- virtual-8086 mode extensions ---- */

/* INT n with CR4.VME: a clear bit of the 32 bytes below the I/O permission bitmap sends it to the program's own vector table, as in real
 * mode. 1: it went there; 0: the IDT has it; -1: fault. (SDM vol. 3 21.3.3: methods 5 and 6, and 3 for the fault.) */
static int redirect_v86(struct x86_ctx *c, const struct delivery *v)
{
    struct x86_state *s = c->s;
    bool iopl3 = (s->rflags & X86_IOPL) == X86_IOPL;
    uint64_t flags = v->flags;
    struct x86_stack st;
    uint8_t entry[4], bits;
    uint16_t map;
    uint32_t offset;

    if ((s->tr.attr & X86_ATTR_UNUSABLE) || ((s->tr.attr & X86_ATTR_TYPE) | 2) != X86_TYPE_TSS32_BUSY || s->tr.limit < 103)
        return x86_gp(c, 0);
    if (x86_sys_read(c, s->tr.base + 102, &map, 2))
        return -1;
    offset = map - 32u + v->vector / 8;
    if (map < 32 || offset > s->tr.limit)
        return x86_gp(c, 0);
    if (x86_sys_read(c, s->tr.base + offset, &bits, 1))
        return -1;
    if (bits >> (v->vector & 7) & 1)
        return iopl3 ? 0 : x86_gp(c, 0);

    if (!iopl3) { /* the program sees its virtual flag, and the IOPL it believes to have */
        flags |= X86_IOPL;
        flags = flags & X86_VIF ? flags | X86_IF : flags & ~(uint64_t)X86_IF;
    }
    if (x86_sys_read(c, v->vector * 4, entry, 4))
        return -1;
    x86_stack_current(c, &st);
    if (x86_stack_room(c, &st, 6) || x86_stack_push(c, &st, flags, 2) || x86_stack_push(c, &st, s->seg[X86_CS].sel, 2) ||
        x86_stack_push(c, &st, v->rip, 2))
        return -1;
    x86_stack_commit(s, &st);
    s->seg[X86_CS] = x86_seg_v86(dp_ld16(entry + 2));
    s->r[X86_RIP] = dp_ld16(entry);
    s->rflags &= ~(uint64_t)(X86_TF | X86_RF | (iopl3 ? X86_IF : X86_VIF));
    return 1;
}

int x86_deliver(struct x86_ctx *c, unsigned vector, enum x86_event_kind kind, bool has_error, uint32_t error, uint64_t next_rip)
{
    struct x86_state *s = c->s;
    struct delivery v = {.vector = vector, .has_error = has_error, .error = error, .rip = s->r[X86_RIP], .flags = s->rflags};
    int r;

    v.software = kind == X86_EVENT_SOFTWARE || kind == X86_EVENT_SOFTWARE_EXCEPTION;
    v.ext = !v.software;
    if (v.software || kind == X86_EVENT_ICEBP)
        v.rip = next_rip;
    /* INT n in virtual-8086 mode is sensitive to IOPL, or with VME to the redirection bitmap; INT3 and INTO are not. */
    if (kind == X86_EVENT_SOFTWARE && x86_v86(s)) {
        r = s->cr4 & X86_CR4_VME ? redirect_v86(c, &v) : 0;
        if (r)
            return r < 0 ? -1 : 0;
        if ((s->rflags & X86_IOPL) != X86_IOPL)
            return x86_gp(c, 0);
    }
    /* Faults return with RF set, so that an instruction breakpoint does not hit twice. #DB sets it (or not) before, see x86_raise. */
    if (kind == X86_EVENT_EXCEPTION && vector != X86_DB && vector != X86_NMI && vector != X86_MC)
        v.flags |= X86_RF;
    if (DP_LIKELY(x86_long_mode(s)))
        r = deliver_64(c, &v);
    else
        r = x86_protected(s) ? deliver_protected(c, &v) : deliver_real(c, &v);
    if (r == 0 && kind == X86_EVENT_NMI)
        s->nmi_blocked = true;
    return r;
}

/* ---- faults within faults ---- */

static void before_exception(struct x86_ctx *c, const struct x86_fault *f)
{
    struct x86_state *s = c->s;

    if (f->vector == X86_PF_) {
        s->cr2 = f->cr2;
    } else if (f->vector == X86_DB) {
        s->dr[6] = (s->dr[6] & ~0xfull) | f->dr6 | 0xffff0ff0;
        s->dr[7] &= ~(uint64_t)X86_DR7_GD;
        s->debugctl &= ~3ull; /* LBR and BTF */
        if (f->dr6 & X86_DR6_BD) /* general detect is a fault of the instruction itself */
            s->rflags |= X86_RF;
    }
}

static unsigned class_of(unsigned vector) { return vector == X86_PF_ ? 2 : vector < 32 && (CONTRIBUTORY >> vector & 1); }

unsigned x86_raise(struct x86_ctx *c, const struct x86_fault *first, enum x86_event_kind kind, uint64_t next_rip,
                   struct x86_fault history[4])
{
    struct x86_fault f = *first;
    unsigned nested = 0;

    for (;;) {
        bool hardware = kind == X86_EVENT_EXCEPTION;
        unsigned was, now;

        if (history && nested < 4)
            history[nested] = f;
        if (hardware)
            before_exception(c, &f);
        /* Error codes are pushed by protected-mode handlers only. */
        if (x86_deliver(c, f.vector, kind, f.has_error && x86_protected(c->s), f.error, next_rip) == 0)
            return nested;

        /* Only hardware exceptions have a class; interrupts and INT n are benign. */
        was = hardware ? class_of(f.vector) : 0;
        now = class_of(c->fault.vector);
        nested++;
        if ((hardware && f.vector == X86_DF_) || nested > MAX_NESTED) {
            if (history && nested < 4)
                history[nested] = c->fault;
            c->s->run_state = X86_SHUTDOWN;
            return nested;
        }
        if ((was == 1 && now == 1) || (was == 2 && now != 0)) {
            if (history && nested < 4)
                history[nested] = c->fault;
            nested++;
            if (c->fault.vector == X86_PF_)
                c->s->cr2 = c->fault.cr2;
            x86_fault(c, X86_DF_, true, 0);
        }
        f = c->fault;
        kind = X86_EVENT_EXCEPTION;
        next_rip = c->s->r[X86_RIP];
    }
}
