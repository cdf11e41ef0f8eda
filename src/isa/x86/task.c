/* isa/x86/task.c - hardware task switches between 16- and 32-bit TSSs.
 *
 * Model: three steps. Check the new TSS and that everything to be touched is mapped; save the old
 * task and move the busy bits; load the new task.
 * Invariants: a fault in the first step leaves the old task running untouched. In the third the new task is already the current one: its
 * selectors are loaded (without descriptors, hence unusable) and faults belong to it, as table 7-1 of the manual demands.
 * Source: Intel SDM vol. 3 7.2-7.4 (formats, steps, table 7-1 and 7-2).
 */
#include "isa/x86/x86_internal.h"

enum { TSS16_SIZE = 44, TSS32_SIZE = 104, DR7_LOCAL = 0x155 /* L0-L3, LE */ };

struct task { /* a TSS as read, both formats */
    bool wide;
    bool trap;
    uint32_t cr3, eip, eflags, r[8];
    uint16_t seg[X86_SEGS], ldt;
};

struct tss {
    uint16_t sel;
    struct x86_desc desc;
    uint32_t base;
    bool wide;
};

static int read_tss(struct x86_ctx *c, uint32_t base, bool wide, uint8_t *b)
{
    unsigned size = wide ? TSS32_SIZE : TSS16_SIZE;

    for (unsigned at = 0; at < size; at += 4)
        if (x86_sys_read(c, base + at, b + at, 4))
            return -1;
    return 0;
}

static void parse_tss(const uint8_t *b, bool wide, struct task *t)
{
    memset(t, 0, sizeof *t);
    t->wide = wide;
    if (wide) {
        t->cr3 = dp_ld32(b + 28);
        t->eip = dp_ld32(b + 32);
        t->eflags = dp_ld32(b + 36);
        for (unsigned i = 0; i < 8; i++)
            t->r[i] = dp_ld32(b + 40 + 4 * i);
        for (unsigned i = 0; i < X86_SEGS; i++)
            t->seg[i] = dp_ld16(b + 72 + 4 * i);
        t->ldt = dp_ld16(b + 96);
        t->trap = b[100] & 1;
        return;
    }
    t->eip = dp_ld16(b + 14);
    t->eflags = dp_ld16(b + 16);
    for (unsigned i = 0; i < 8; i++)
        t->r[i] = 0xffff0000 | dp_ld16(b + 18 + 2 * i); /* as every 32-bit processor leaves the high halves */
    for (unsigned i = 0; i < 4; i++)
        t->seg[i] = dp_ld16(b + 34 + 2 * i);
    t->ldt = dp_ld16(b + 42);
}

/* Step 1: the descriptor of the new TSS. */
static int find_tss(struct x86_ctx *c, uint16_t sel, bool iret, unsigned ext, struct tss *t)
{
    unsigned vector = iret ? X86_TS : X86_GP, type;
    uint32_t error = (sel & ~3u) | ext;

    if (x86_null_selector(sel) || (sel & 4) || x86_long_mode(c->s))
        return x86_fault(c, vector, true, error);
    if (x86_desc_read(c, sel, vector, ext, &t->desc))
        return -1;
    type = x86_desc_type(t->desc.raw);
    if (x86_desc_segment(t->desc.raw) || (type & 5) != X86_TYPE_TSS16 || !!(type & 2) != iret)
        return x86_fault(c, vector, true, error);
    if (!x86_desc_present(t->desc.raw))
        return x86_fault(c, X86_NP, true, error);
    t->sel = sel;
    t->base = x86_desc_base(t->desc.raw);
    t->wide = type & 8;
    if (x86_desc_limit(t->desc.raw) < (t->wide ? TSS32_SIZE : TSS16_SIZE) - 1)
        return x86_fault(c, X86_TS, true, error);
    return 0;
}

static int probe(struct x86_ctx *c, uint32_t linear, unsigned size)
{
    return c->probe_write ? c->probe_write(c, linear, size, false) : 0;
}

/* Everything that step 2 writes must be writable. */
static int probe_switch(struct x86_ctx *c, const struct tss *to, enum x86_task_why why, unsigned ext)
{
    const struct x86_seg *tr = &c->s->tr;
    bool wide = tr->attr & 8;
    uint32_t base = (uint32_t)tr->base;

    if ((tr->attr & X86_ATTR_UNUSABLE) || tr->limit < (wide ? 95 : 41))
        return x86_fault(c, X86_TS, true, (tr->sel & ~3u) | ext);
    if (wide ? probe(c, base + 32, 64) : probe(c, base + 14, 28))
        return -1;
    if ((why == X86_TASK_CALL || why == X86_TASK_INT) && probe(c, to->base, 2))
        return -1;
    return why != X86_TASK_IRET ? probe(c, (uint32_t)to->desc.address + 5, 1) : 0;
}

/* Step 2. */
static int save_task(struct x86_ctx *c, uint32_t eip, uint32_t eflags)
{
    const struct x86_state *s = c->s;
    uint32_t base = (uint32_t)s->tr.base;
    uint8_t b[40];

    if (s->tr.attr & 8) {
        dp_st32(b, eip);
        dp_st32(b + 4, eflags);
        for (unsigned i = 0; i < 8; i++)
            dp_st32(b + 8 + 4 * i, (uint32_t)s->r[i]);
        for (unsigned at = 0; at < 40; at += 4)
            if (x86_sys_write(c, base + 32 + at, b + at, 4))
                return -1;
        for (unsigned i = 0; i < X86_SEGS; i++)
            if (x86_sys_write(c, base + 72 + 4 * i, &s->seg[i].sel, 2))
                return -1;
        return 0;
    }
    dp_st16(b, (uint16_t)eip);
    dp_st16(b + 2, (uint16_t)eflags);
    for (unsigned i = 0; i < 8; i++)
        dp_st16(b + 4 + 2 * i, (uint16_t)s->r[i]);
    for (unsigned i = 0; i < 4; i++)
        dp_st16(b + 20 + 2 * i, s->seg[i].sel);
    for (unsigned at = 0; at < 28; at += 2)
        if (x86_sys_write(c, base + 14 + at, b + at, 2))
            return -1;
    return 0;
}

static int move_busy(struct x86_ctx *c, const struct tss *to, enum x86_task_why why, unsigned ext)
{
    struct x86_desc old;

    if (why == X86_TASK_JMP || why == X86_TASK_IRET) {
        if (x86_desc_read(c, c->s->tr.sel, X86_TS, ext, &old) || x86_desc_set_busy(c, &old, false))
            return -1;
    } else if (x86_sys_write(c, to->base, &c->s->tr.sel, 2)) { /* the link back */
        return -1;
    }
    return why == X86_TASK_IRET ? 0 : x86_desc_set_busy(c, &to->desc, true);
}

/* ---- step 3 ---- */

static int load_ldt(struct x86_ctx *c, uint16_t sel, unsigned ext)
{
    struct x86_desc d;

    if (x86_null_selector(sel))
        return 0;
    if (sel & 4)
        return x86_fault(c, X86_TS, true, (sel & ~3u) | ext);
    if (x86_desc_read(c, sel, X86_TS, ext, &d))
        return -1;
    if (x86_desc_segment(d.raw) || x86_desc_type(d.raw) != X86_TYPE_LDT || !x86_desc_present(d.raw))
        return x86_fault(c, X86_TS, true, (sel & ~3u) | ext);
    c->s->ldtr = x86_seg_of(sel, d.raw);
    return 0;
}

static int load_cs(struct x86_ctx *c, uint16_t sel, unsigned ext)
{
    uint32_t error = (sel & ~3u) | ext;
    struct x86_desc d;

    if (x86_null_selector(sel))
        return x86_fault(c, X86_TS, true, error);
    if (x86_desc_read(c, sel, X86_TS, ext, &d))
        return -1;
    if (!x86_desc_code(d.raw) || (x86_desc_conforming(d.raw) ? x86_desc_dpl(d.raw) > (sel & 3u) : x86_desc_dpl(d.raw) != (sel & 3u)))
        return x86_fault(c, X86_TS, true, error);
    if (!x86_desc_present(d.raw))
        return x86_fault(c, X86_NP, true, error);
    if (x86_desc_mark(c, &d))
        return -1;
    x86_set_cs(c->s, sel, d.raw, sel & 3);
    return 0;
}

static int load_data(struct x86_ctx *c, enum x86_seg_name seg, uint16_t sel, unsigned cpl, unsigned ext)
{
    uint32_t error = (sel & ~3u) | ext;
    struct x86_desc d;

    if (x86_null_selector(sel))
        return 0;
    if (x86_desc_read(c, sel, X86_TS, ext, &d))
        return -1;
    if (!x86_desc_readable(d.raw) ||
        (!x86_desc_conforming(d.raw) && (x86_desc_dpl(d.raw) < cpl || x86_desc_dpl(d.raw) < (sel & 3u))))
        return x86_fault(c, X86_TS, true, error);
    if (!x86_desc_present(d.raw))
        return x86_fault(c, X86_NP, true, error);
    if (x86_desc_mark(c, &d))
        return -1;
    c->s->seg[seg] = x86_seg_of(sel, d.raw);
    return 0;
}

static int load_segments(struct x86_ctx *c, const struct task *t, unsigned ext)
{
    static const uint8_t data[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    struct x86_state *s = c->s;
    unsigned cpl = t->seg[X86_CS] & 3;
    struct x86_desc ss;

    if (load_ldt(c, t->ldt, ext))
        return -1;
    if (s->rflags & X86_VM) {
        for (unsigned i = 0; i < X86_SEGS; i++)
            s->seg[i] = x86_seg_v86(t->seg[i]);
        return 0;
    }
    if (load_cs(c, t->seg[X86_CS], ext) || x86_stack_segment(c, t->seg[X86_SS], cpl, X86_TS, ext, &ss))
        return -1;
    s->seg[X86_SS] = x86_seg_of(t->seg[X86_SS], ss.raw);
    for (unsigned i = 0; i < DP_ARRAY_LEN(data); i++)
        if (load_data(c, data[i], t->seg[data[i]], cpl, ext))
            return -1;
    return 0;
}

static void load_registers(struct x86_ctx *c, const struct tss *to, const struct task *t, enum x86_task_why why)
{
    struct x86_state *s = c->s;
    unsigned cpl = t->eflags & X86_VM ? 3 : t->seg[X86_CS] & 3;

    s->tr = x86_seg_of(to->sel, to->desc.raw);
    s->tr.attr |= 2; /* busy */
    s->cr0 |= X86_CR0_TS;
    s->dr[7] &= ~(uint64_t)DR7_LOCAL;
    s->r[X86_RIP] = t->eip;
    for (unsigned i = 0; i < 8; i++)
        s->r[i] = t->r[i];
    s->rflags = (t->eflags & X86_FLAGS_VALID) | X86_FLAGS_FIXED;
    if (why == X86_TASK_CALL || why == X86_TASK_INT)
        s->rflags |= X86_NT;
    s->ldtr = x86_seg_null(t->ldt, 0);
    for (unsigned i = 0; i < X86_SEGS; i++)
        s->seg[i] = x86_seg_null(t->seg[i], i == X86_SS ? cpl : 0);
}

int x86_task_switch_to(struct x86_ctx *c, uint16_t sel, enum x86_task_why why, bool has_error, uint32_t error, uint64_t next_rip,
                       unsigned ext)
{
    struct x86_state *s = c->s;
    uint32_t eflags = (uint32_t)s->rflags;
    uint8_t image[TSS32_SIZE];
    struct x86_stack st;
    struct task t;
    struct tss to;

    if (find_tss(c, sel, why == X86_TASK_IRET, ext, &to) || probe_switch(c, &to, why, ext) || read_tss(c, to.base, to.wide, image))
        return -1;

    if (why == X86_TASK_IRET)
        eflags &= ~(uint32_t)X86_NT;
    if (save_task(c, (uint32_t)next_rip, eflags) || move_busy(c, &to, why, ext))
        return -1;
    if (read_tss(c, to.base, to.wide, image)) /* again: a task may return to itself, then it is what was just saved */
        return -1;
    parse_tss(image, to.wide, &t);

    if (t.wide && (s->cr0 & X86_CR0_PG)) {
        if (x86_pae_paging(s) && x86_load_pdptes(c, t.cr3))
            return -1;
        s->cr3 = t.cr3;
        x86_flush(c, X86_FLUSH_PCID, 0, 0); /* outside long mode there are no PCIDs */
    }
    load_registers(c, &to, &t, why);
    if (load_segments(c, &t, ext))
        return -1;
    if (s->r[X86_RIP] > s->seg[X86_CS].limit)
        return x86_gp(c, ext);
    if (has_error) {
        x86_stack_current(c, &st);
        st.error = ext;
        if (x86_stack_push(c, &st, error, t.wide ? 4 : 2))
            return -1;
        x86_stack_commit(s, &st);
    }
    if (t.trap) {
        x86_fault(c, X86_DB, false, 0);
        c->fault.dr6 = X86_DR6_BT;
        return -1;
    }
    return 0;
}

int x86_task_switch(struct x86_ctx *c, uint16_t sel, enum x86_task_why why, bool has_error, uint32_t error, uint64_t next_rip)
{
    return x86_task_switch_to(c, sel, why, has_error, error, next_rip, why == X86_TASK_INT);
}
