/* isa/x86/segment.c - descriptors, segment loads, stacks, LAR/LSL/VERR/VERW, the I/O permission bitmap.
 *
 * Model: a load reads the descriptor once, checks that copy, sets the accessed bit in memory, and only then touches the state.
 * Invariants: a fault leaves the state as it was. SS.attr's DPL is the CPL, also for the null SS of 64-bit mode.
 * Source: Intel SDM vol. 2 MOV, LLDT, LTR, LAR, LSL, VERR; vol. 3 3.4-3.5, 5.4-5.10, 8.2; vol. 1 19.5 (I/O bitmap).
 */
#include "isa/x86/x86_internal.h"

int x86_fault(struct x86_ctx *c, unsigned vector, bool has_error, uint32_t error)
{
    c->fault = (struct x86_fault){.vector = (uint8_t)vector, .has_error = has_error, .error = error};
    return -1;
}

/* ---- descriptors ---- */

static bool table_of(const struct x86_state *s, uint16_t sel, uint64_t *base, uint32_t *limit)
{
    if (!(sel & 4)) {
        *base = s->gdtr.base;
        *limit = s->gdtr.limit;
        return true;
    }
    *base = s->ldtr.base;
    *limit = s->ldtr.limit;
    return !(s->ldtr.attr & X86_ATTR_UNUSABLE);
}

/* 1: outside the table, -1: fault while reading. */
static int read_raw(struct x86_ctx *c, uint16_t sel, unsigned size, struct x86_desc *d)
{
    uint64_t base;
    uint32_t limit, offset = sel & 0xfff8;

    if (!table_of(c->s, sel, &base, &limit) || offset + size - 1 > limit)
        return 1;
    d->address = x86_linear(c->s, base + offset);
    d->high = 0;
    return x86_sys_read(c, d->address, &d->raw, size); /* raw and high are adjacent */
}
_Static_assert(offsetof(struct x86_desc, high) == 8 && offsetof(struct x86_desc, raw) == 0, "a 16-byte descriptor is read in one go");

int x86_desc_read(struct x86_ctx *c, uint16_t sel, unsigned vector, unsigned ext, struct x86_desc *d)
{
    int r = read_raw(c, sel, 8, d);
    return r > 0 ? x86_fault(c, vector, true, (sel & ~3u) | ext) : r;
}

int x86_desc_read_system(struct x86_ctx *c, uint16_t sel, unsigned vector, unsigned ext, struct x86_desc *d)
{
    int r = read_raw(c, sel, x86_long_mode(c->s) ? 16 : 8, d);

    if (r > 0 || (r == 0 && (d->high >> 40 & 0x1f)))
        return x86_fault(c, vector, true, (sel & ~3u) | ext);
    return r;
}

int x86_desc_mark_slow(struct x86_ctx *c, struct x86_desc *d)
{
    uint8_t access = (uint8_t)(d->raw >> 40 | X86_TYPE_ACCESSED);

    if (x86_sys_write(c, d->address + 5, &access, 1))
        return -1;
    d->raw |= (uint64_t)X86_TYPE_ACCESSED << 40;
    return 0;
}

int x86_desc_set_busy(struct x86_ctx *c, const struct x86_desc *d, bool busy)
{
    uint8_t access = (uint8_t)(d->raw >> 40);

    access = busy ? access | 2 : access & ~2;
    return x86_sys_write(c, d->address + 5, &access, 1);
}

/* ---- stacks ---- */

void x86_stack_of(struct x86_stack *st, const struct x86_seg *ss, uint64_t sp, bool is64, unsigned cpl, uint32_t error)
{
    st->ss = *ss;
    st->sp = sp;
    st->is64 = is64;
    st->mask = is64 ? ~0ull : ss->attr & X86_ATTR_DB ? 0xffffffff : 0xffff;
    st->user = cpl == 3;
    st->error = error;
}

void x86_stack_current(struct x86_ctx *c, struct x86_stack *st)
{
    const struct x86_state *s = c->s;
    x86_stack_of(st, &s->seg[X86_SS], s->r[X86_RSP], x86_code64(s), x86_cpl(s), 0);
}

/* Linear address of [sp, sp + size) of the stack, checked against limit and rights. */
static int stack_linear(struct x86_ctx *c, const struct x86_stack *st, uint64_t sp, unsigned size, uint64_t *linear)
{
    uint64_t first = sp & st->mask, last = first + size - 1;
    bool ok;

    if (st->is64) {
        *linear = first;
        ok = x86_canonical48(first) && x86_canonical48(last);
    } else {
        uint32_t attr = st->ss.attr;
        *linear = (uint32_t)(st->ss.base + first);
        if (attr & X86_ATTR_UNUSABLE)
            ok = false;
        else if ((attr & (X86_TYPE_CODE | X86_TYPE_DIR)) == X86_TYPE_DIR) /* expand-down: above the limit */
            ok = first > st->ss.limit && last <= (attr & X86_ATTR_DB ? 0xffffffffu : 0xffffu);
        else
            ok = last <= st->ss.limit;
    }
    return DP_LIKELY(ok) ? 0 : x86_fault(c, X86_SS_, true, st->error);
}

int x86_stack_push(struct x86_ctx *c, struct x86_stack *st, uint64_t value, unsigned size)
{
    uint64_t linear;
    int r;

    if (stack_linear(c, st, st->sp - size, size, &linear))
        return -1;
    c->explicit_access = true;
    r = c->write(c, linear, &value, size, st->user);
    c->explicit_access = false;
    if (r == 0)
        st->sp -= size;
    return r;
}

int x86_stack_pop(struct x86_ctx *c, struct x86_stack *st, uint64_t *value, unsigned size)
{
    uint64_t linear;
    int r;

    if (stack_linear(c, st, st->sp, size, &linear))
        return -1;
    *value = 0;
    c->explicit_access = true;
    r = c->read(c, linear, value, size, st->user);
    c->explicit_access = false;
    if (r == 0)
        st->sp += size;
    return r;
}

int x86_stack_room(struct x86_ctx *c, const struct x86_stack *st, unsigned size)
{
    uint64_t linear;
    int r;

    if (stack_linear(c, st, st->sp - size, size, &linear))
        return -1;
    if (!c->probe_write)
        return 0;
    c->explicit_access = true;
    r = c->probe_write(c, linear, size, st->user);
    c->explicit_access = false;
    return r;
}

/* ---- loads ---- */

void x86_set_cs(struct x86_state *s, uint16_t sel, uint64_t raw, unsigned cpl)
{
    struct x86_seg *cs = &s->seg[X86_CS];

    *cs = x86_seg_of((uint16_t)((sel & ~3u) | cpl), raw);
    if (x86_long_mode(s) && (cs->attr & X86_ATTR_L)) {
        cs->base = 0;
        cs->limit = 0xffffffff;
    }
}

int x86_stack_segment(struct x86_ctx *c, uint16_t sel, unsigned cpl, unsigned vector, unsigned ext, struct x86_desc *d)
{
    uint32_t error = (sel & ~3u) | ext;

    if (x86_null_selector(sel))
        return x86_fault(c, vector, true, ext);
    if (x86_desc_read(c, sel, vector, ext, d))
        return -1;
    if ((sel & 3) != cpl || !x86_desc_writable(d->raw) || x86_desc_dpl(d->raw) != cpl)
        return x86_fault(c, vector, true, error);
    if (!x86_desc_present(d->raw))
        return x86_fault(c, X86_SS_, true, error);
    return x86_desc_mark(c, d);
}

static int load_stack_segment(struct x86_ctx *c, uint16_t sel)
{
    struct x86_state *s = c->s;
    unsigned cpl = x86_cpl(s);
    struct x86_desc d;

    if (x86_null_selector(sel)) {
        if (!x86_code64(s) || cpl == 3 || (sel & 3) != cpl)
            return x86_gp(c, 0);
        s->seg[X86_SS] = x86_seg_null(sel, cpl);
        return 0;
    }
    if (x86_stack_segment(c, sel, cpl, X86_GP, 0, &d))
        return -1;
    s->seg[X86_SS] = x86_seg_of(sel, d.raw);
    return 0;
}

int x86_load_segment(struct x86_ctx *c, enum x86_seg_name seg, uint16_t sel)
{
    struct x86_state *s = c->s;
    unsigned cpl = x86_cpl(s), rpl = sel & 3;
    struct x86_desc d;

    if (!x86_protected(s)) {
        s->seg[seg].sel = sel; /* limit and attributes stay: "unreal" mode is real */
        s->seg[seg].base = (uint64_t)sel << 4;
        return 0;
    }
    if (x86_v86(s)) {
        s->seg[seg] = x86_seg_v86(sel);
        return 0;
    }
    if (seg == X86_SS)
        return load_stack_segment(c, sel);
    if (x86_null_selector(sel)) {
        s->seg[seg] = x86_seg_null(sel, 0);
        return 0;
    }
    if (x86_desc_read(c, sel, X86_GP, 0, &d))
        return -1;
    if (!x86_desc_readable(d.raw) || (!x86_desc_conforming(d.raw) && (rpl > x86_desc_dpl(d.raw) || cpl > x86_desc_dpl(d.raw))))
        return x86_gp(c, sel & ~3u);
    if (!x86_desc_present(d.raw))
        return x86_fault(c, X86_NP, true, sel & ~3u);
    if (x86_desc_mark(c, &d))
        return -1;
    s->seg[seg] = x86_seg_of(sel, d.raw);
    return 0;
}

static uint64_t system_base(const struct x86_state *s, const struct x86_desc *d)
{
    return x86_desc_base(d->raw) | (x86_long_mode(s) ? d->high << 32 : 0);
}

int x86_load_ldt(struct x86_ctx *c, uint16_t sel)
{
    struct x86_state *s = c->s;
    struct x86_desc d;

    if (x86_null_selector(sel)) {
        s->ldtr = x86_seg_null(sel, 0);
        return 0;
    }
    if (sel & 4)
        return x86_gp(c, sel & ~3u);
    if (x86_desc_read_system(c, sel, X86_GP, 0, &d))
        return -1;
    if (x86_desc_segment(d.raw) || x86_desc_type(d.raw) != X86_TYPE_LDT)
        return x86_gp(c, sel & ~3u);
    if (!x86_desc_present(d.raw))
        return x86_fault(c, X86_NP, true, sel & ~3u);
    if (!x86_canonical48(system_base(s, &d)))
        return x86_gp(c, sel & ~3u);
    s->ldtr = x86_seg_of(sel, d.raw);
    s->ldtr.base = system_base(s, &d);
    return 0;
}

int x86_load_tr(struct x86_ctx *c, uint16_t sel)
{
    struct x86_state *s = c->s;
    unsigned type;
    struct x86_desc d;

    if (x86_null_selector(sel))
        return x86_gp(c, 0);
    if (sel & 4)
        return x86_gp(c, sel & ~3u);
    if (x86_desc_read_system(c, sel, X86_GP, 0, &d))
        return -1;
    type = x86_desc_type(d.raw);
    if (x86_desc_segment(d.raw) || !(type == X86_TYPE_TSS32 || (type == X86_TYPE_TSS16 && !x86_long_mode(s))))
        return x86_gp(c, sel & ~3u);
    if (!x86_desc_present(d.raw))
        return x86_fault(c, X86_NP, true, sel & ~3u);
    if (!x86_canonical48(system_base(s, &d)))
        return x86_gp(c, sel & ~3u);
    if (x86_desc_set_busy(c, &d, true))
        return -1;
    s->tr = x86_seg_of(sel, d.raw);
    s->tr.attr |= 2; /* busy */
    s->tr.base = system_base(s, &d);
    return 0;
}

/* ---- LAR, LSL, VERR, VERW ---- */

enum probe { PROBE_LAR, PROBE_LSL, PROBE_SEGMENT };

/* The descriptor of a selector that the instruction may see at all: in its table, of a type it knows, privileged enough. */
static bool probe_descriptor(struct x86_ctx *c, uint16_t sel, enum probe kind, struct x86_desc *d)
{
    /* Bit per system type. Long mode knows fewer. */
    static const uint16_t known[2][2] = {
        [PROBE_LAR] = {1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12, 1 << 2 | 1 << 9 | 1 << 11 | 1 << 12},
        [PROBE_LSL] = {1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 11, 1 << 2 | 1 << 9 | 1 << 11},
    };
    unsigned dpl;
    bool lm = x86_long_mode(c->s);

    c->fault = (struct x86_fault){0};
    if (x86_null_selector(sel) || read_raw(c, sel, 8, d))
        return false;
    if (!x86_desc_segment(d->raw)) {
        if (kind == PROBE_SEGMENT || !(known[kind][lm] >> x86_desc_type(d->raw) & 1))
            return false;
        if (lm) { /* all of them have 16 bytes there */
            if (read_raw(c, sel, 16, d) || (d->high >> 40 & 0x1f))
                return false;
        }
    }
    dpl = x86_desc_dpl(d->raw);
    return (x86_desc_segment(d->raw) && x86_desc_conforming(d->raw)) || (x86_cpl(c->s) <= dpl && (sel & 3u) <= dpl);
}

bool x86_lar(struct x86_ctx *c, uint16_t sel, uint32_t *rights)
{
    struct x86_desc d;

    if (!probe_descriptor(c, sel, PROBE_LAR, &d))
        return false;
    *rights = (uint32_t)(d.raw >> 32) & 0x00f0ff00;
    return true;
}

bool x86_lsl(struct x86_ctx *c, uint16_t sel, uint32_t *limit)
{
    struct x86_desc d;

    if (!probe_descriptor(c, sel, PROBE_LSL, &d))
        return false;
    *limit = x86_desc_limit(d.raw);
    return true;
}

bool x86_verify(struct x86_ctx *c, uint16_t sel, bool write)
{
    struct x86_desc d;

    if (!probe_descriptor(c, sel, PROBE_SEGMENT, &d))
        return false;
    return write ? x86_desc_writable(d.raw) : x86_desc_readable(d.raw);
}

/* ---- I/O permission ---- */

int x86_check_io(struct x86_ctx *c, uint16_t port, unsigned size)
{
    const struct x86_state *s = c->s;
    unsigned type = s->tr.attr & X86_ATTR_TYPE;
    uint16_t map, bits;
    uint32_t offset;

    if (!x86_protected(s) || (!x86_v86(s) && x86_cpl(s) <= (s->rflags >> 12 & 3)))
        return 0;
    if ((s->tr.attr & X86_ATTR_UNUSABLE) || (type | 2) != X86_TYPE_TSS32_BUSY || s->tr.limit < 103)
        return x86_gp(c, 0);
    if (x86_sys_read(c, s->tr.base + 102, &map, 2))
        return -1;
    offset = (uint32_t)map + port / 8;
    if (offset + 1 > s->tr.limit) /* two bytes are always read */
        return x86_gp(c, 0);
    if (x86_sys_read(c, s->tr.base + offset, &bits, 2))
        return -1;
    return bits >> (port & 7) & ((1u << size) - 1) ? x86_gp(c, 0) : 0;
}
