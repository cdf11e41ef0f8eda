/* engine/interp/string.c - string instructions, ports, REP.
 *
 * Model: one handler per instruction; `extra` tells REP. A repeated instruction runs in this handler until rCX is 0, a fault, or until
 * something wants the run loop: then RIP stays on the instruction, whose registers hold the progress, as the architecture has it. MOVS and
 * STOS go page by page at memory speed when both sides are plain RAM and the direction is up.
 * Source: Intel SDM vol. 2 (MOVS, STOS, REP); vol. 1 ch. 7.3.9.3 (fast string operation may be interrupted at any iteration boundary).
 */
#include "engine/interp/interp_internal.h"

enum { REP_NONE, REP, REP_NE };
/* Stepping: one iteration at a time. */
static bool in_runs(const struct icpu *c, const struct iop *o, int64_t step)
{
    return o->extra && step > 0 && !o->slow_segment && c->instruction_limit;
}

static uint64_t counter_mask(const struct iop *o) { return o->amask; }
static uint64_t get_count(const struct icpu *c, const struct iop *o) { return c->s.r[X86_RCX] & counter_mask(o); }
static void set_address_reg(struct icpu *c, const struct iop *o, unsigned reg, uint64_t v)
{
    uint64_t mask = o->amask;
    if (mask == 0xffff)
        c->s.r[reg] = (c->s.r[reg] & ~0xffffull) | (v & 0xffff);
    else
        c->s.r[reg] = v & mask;
}
static int64_t step_of(const struct icpu *c, const struct iop *o) { return c->s.rflags & X86_DF ? -(int64_t)o->size : o->size; }

/* Linear address of [rSI] (in o->seg) or ES:[rDI]. */
static uint64_t at_si(struct icpu *c, const struct iop *o)
{
    uint64_t offset = c->s.r[X86_RSI] & o->amask;
    if (DP_LIKELY(!o->slow_segment))
        return offset + c->segbase[o->seg];
    struct iop a = *o;
    a.base = X86_RSI;
    a.index = X86_ZERO;
    a.disp = 0;
    return interp_linear_slow(c, &a, o->size, false);
}
static uint64_t at_di(struct icpu *c, const struct iop *o, bool write)
{
    uint64_t offset = c->s.r[X86_RDI] & o->amask;
    if ((c->mode & IMODE_CODE) == X86_MODE64 || ((c->mode & IMODE_FLAT) && o->amask == 0xffffffffull))
        return offset;
    struct iop a = *o;
    a.base = X86_RDI;
    a.index = X86_ZERO;
    a.disp = 0;
    a.seg = X86_ES;
    return interp_linear_slow(c, &a, o->size, write);
}
static uint64_t load(struct icpu *c, const struct iop *o, uint64_t linear)
{
    switch (o->size) {
    case 1: return interp_load8(c, o, linear);
    case 2: return interp_load16(c, o, linear);
    case 4: return interp_load32(c, o, linear);
    default: return interp_load64(c, o, linear);
    }
}
static void store(struct icpu *c, const struct iop *o, uint64_t linear, uint64_t v)
{
    switch (o->size) {
    case 1: interp_store8(c, o, linear, (uint8_t)v); break;
    case 2: interp_store16(c, o, linear, (uint16_t)v); break;
    case 4: interp_store32(c, o, linear, (uint32_t)v); break;
    default: interp_store64(c, o, linear, v);
    }
}

/* After an iteration of a repeated instruction: is there another? Leaves RIP on the instruction when the run loop is wanted. */
enum more { DONE, AGAIN, LEAVE };
static enum more next_iteration(struct icpu *c, const struct iop *o, uint64_t done)
{
    uint64_t left = get_count(c, o) - done;
    set_address_reg(c, o, X86_RCX, left);
    if (!left)
        return DONE;
    /* Traps (TF, breakpoints) come after each iteration; instruction_limit is 0 then, as when stepping. */
    if (DP_UNLIKELY(!c->instruction_limit || interp_wanted(c) || !interp_block_valid(c->block))) {
        if (c->watching)
            c->s.rflags |= X86_RF; /* its own instruction breakpoint does not hit again */
        c->repeating = true;
        return LEAVE;
    }
    return AGAIN;
}
#define REPEAT(c, o, done)                                                                                                               \
    switch (o->extra ? next_iteration(c, o, done) : DONE) {                                                                              \
    case AGAIN: continue;                                                                                                                \
    case LEAVE: return interp_op_refetch(c, o);                                                                                          \
    case DONE: break;                                                                                                                    \
    }                                                                                                                                    \
    break
/* A REP with rCX = 0 does nothing. */
#define SKIP_EMPTY(c, o)                                                                                                                 \
    do {                                                                                                                                 \
        if (o->extra && !get_count(c, o))                                                                                                \
            INTERP_NEXT(c, o);                                                                                                           \
    } while (0)

/* Host pointer of a run of at most want bytes within the page of linear that can be read (written) at once; NULL when there is none. */
static uint8_t *run_of(struct icpu *c, uint64_t linear, bool write, uint64_t *want)
{
    const struct itlb *e = interp_tlb(c, linear);
    uint64_t tag = (linear & ~0xfffull) | c->tlb_generation;
    if (tag != (write ? atomic_load_explicit(&e->write_tag, memory_order_relaxed) : e->read_tag))
        return NULL;
    *want = DP_MIN(*want, DP_PAGE_SIZE - (linear & 0xfff));
    return (uint8_t *)(uintptr_t)(linear + e->addend);
}
/* The write tag went away during a run: report the bytes. */
static void run_written(struct icpu *c, const struct iop *o, uint64_t linear, uint8_t *host, uint64_t bytes)
{
    atomic_signal_fence(memory_order_seq_cst);
    if (DP_UNLIKELY(((linear & ~0xfffull) | c->tlb_generation) !=
                    atomic_load_explicit(&interp_tlb(c, linear)->write_tag, memory_order_relaxed)))
        interp_store_raced(c, o, (uint64_t)(uintptr_t)host, (unsigned)bytes);
}

static bool fits(uint64_t linear, unsigned size) { return (linear & 0xfff) + size <= DP_PAGE_SIZE; }

/* The same for runs upwards (step > 0) or downwards from linear, which may have to be translated first: source and destination can be at
 * odds over one TLB entry. told: interp_rmw_done is wanted after writing. */
static uint8_t *readable_run(struct icpu *c, const struct iop *o, uint64_t linear, int64_t step, uint64_t *bytes)
{
    uint64_t want = *bytes;
    uint8_t *host = run_of(c, linear, false, &want);
    if (!host && !c->align_check) {
        (void)interp_load8(c, o, linear);
        host = run_of(c, linear, false, &want);
    }
    *bytes = step > 0 ? want : DP_MIN(*bytes, (linear & 0xfff) + o->size);
    return host;
}
static uint8_t *writable_run(struct icpu *c, const struct iop *o, uint64_t linear, int64_t step, uint64_t *bytes, bool *told)
{
    uint64_t want = *bytes;
    uint8_t *host = run_of(c, linear, true, &want);
    if (!host && !c->align_check) {
        host = interp_rmw_host(c, o, linear, o->size);
        *told = true;
        want = DP_MIN(*bytes, DP_PAGE_SIZE - (linear & 0xfff));
    }
    *bytes = step > 0 ? want : DP_MIN(*bytes, (linear & 0xfff) + o->size);
    return host;
}

/* By name, because it is plain guest memory and nothing else: see tests/cpu/tsan.supp. */
static __attribute__((noinline)) void copy_run(uint8_t *d, const uint8_t *s, uint64_t bytes) { memmove(d, s, bytes); }

static void MOVS(struct icpu *c, const struct iop *o)
{
    SKIP_EMPTY(c, o);
    for (;;) {
        uint64_t from = at_si(c, o), first = o->slow_segment ? load(c, o, from) : 0; /* the load's faults come before ES is looked at */
        uint64_t to = at_di(c, o, true), done = 1, bytes = 0;
        int64_t step = step_of(c, o);
        if (in_runs(c, o, 1) && fits(to, o->size) && fits(from, o->size)) {
            bool told = false;
            bytes = get_count(c, o);
            bytes = DP_MIN(bytes, 4096ull / o->size) * o->size;
            uint8_t *s = readable_run(c, o, from, step, &bytes), *d = s ? writable_run(c, o, to, step, &bytes, &told) : NULL;
            bytes &= ~(uint64_t)(o->size - 1);
            /* Bytes just written are read again where the operands overlap that way: runs are limited to the distance. */
            uint64_t distance = step > 0 ? (uint64_t)(d - s) : (uint64_t)(s - d);
            if (d && d != s && distance < bytes)
                bytes = distance & ~(uint64_t)(o->size - 1);
            if (d && bytes) {
                uint64_t back = step > 0 ? 0 : bytes - o->size;
                copy_run(d - back, s - back, bytes);
                if (told)
                    interp_rmw_done(c, o, d - back, (unsigned)bytes);
                else
                    run_written(c, o, to, d - back, bytes);
                done = bytes / o->size;
                step = step > 0 ? (int64_t)bytes : -(int64_t)bytes;
            } else {
                bytes = 0;
            }
        }
        if (!bytes)
            store(c, o, to, o->slow_segment ? first : load(c, o, from));
        set_address_reg(c, o, X86_RSI, c->s.r[X86_RSI] + (uint64_t)step);
        set_address_reg(c, o, X86_RDI, c->s.r[X86_RDI] + (uint64_t)step);
        REPEAT(c, o, done);
    }
    INTERP_NEXT(c, o);
}

static __attribute__((noinline)) void fill_run(uint8_t *d, uint64_t v, unsigned size, uint64_t bytes)
{
    if (size == 1 || (v & dp_mask_bytes(size)) == 0) {
        memset(d, (int)(v & 0xff), bytes);
        return;
    }
    for (uint64_t i = 0; i < bytes; i += size)
        memcpy(d + i, &v, size);
}
static void STOS(struct icpu *c, const struct iop *o)
{
    SKIP_EMPTY(c, o);
    for (;;) {
        uint64_t to = at_di(c, o, true), done = 1, bytes = 0, v = c->s.r[X86_RAX];
        int64_t step = step_of(c, o);
        if (in_runs(c, o, step)) {
            bytes = get_count(c, o);
            bytes = DP_MIN(bytes, 4096ull / o->size) * o->size;
            uint8_t *d = run_of(c, to, true, &bytes);
            bytes &= ~(uint64_t)(o->size - 1);
            if (d && bytes) {
                fill_run(d, v, o->size, bytes);
                run_written(c, o, to, d, bytes);
                done = bytes / o->size;
                step = (int64_t)bytes;
            } else {
                bytes = 0;
            }
        }
        if (!bytes)
            store(c, o, to, v);
        set_address_reg(c, o, X86_RDI, c->s.r[X86_RDI] + (uint64_t)step);
        REPEAT(c, o, done);
    }
    INTERP_NEXT(c, o);
}

static void LODS(struct icpu *c, const struct iop *o)
{
    SKIP_EMPTY(c, o);
    for (;;) {
        uint64_t v = load(c, o, at_si(c, o));
        if (o->size >= 4)
            c->s.r[X86_RAX] = v;
        else
            memcpy(&c->s.r[X86_RAX], &v, o->size);
        set_address_reg(c, o, X86_RSI, c->s.r[X86_RSI] + (uint64_t)step_of(c, o));
        REPEAT(c, o, 1);
    }
    INTERP_NEXT(c, o);
}

static void set_compare(struct icpu *c, unsigned size, uint64_t x, uint64_t y)
{
    unsigned bits = size * 8, up = 64 - bits;
    uint64_t r = x - y, borrow = (~x & y) | ((~x | y) & r);
    c->lf_result = (uint64_t)((int64_t)(r << up) >> up);
    c->lf_aux = ((uint32_t)((borrow << up) >> 32) & 0xc0000000u) | ((uint32_t)borrow & 8);
}
/* REPE and REPNE go on while ZF is as they say. */
static bool condition_holds(const struct icpu *c, const struct iop *o) { return interp_zf(c) == (o->extra == REP); }

static void CMPS(struct icpu *c, const struct iop *o)
{
    SKIP_EMPTY(c, o);
    for (;;) {
        uint64_t x = load(c, o, at_si(c, o)), y = load(c, o, at_di(c, o, false)), step = (uint64_t)step_of(c, o);
        set_compare(c, o->size, x, y);
        set_address_reg(c, o, X86_RSI, c->s.r[X86_RSI] + step);
        set_address_reg(c, o, X86_RDI, c->s.r[X86_RDI] + step);
        if (o->extra && !condition_holds(c, o)) {
            set_address_reg(c, o, X86_RCX, get_count(c, o) - 1);
            break;
        }
        REPEAT(c, o, 1);
    }
    INTERP_NEXT(c, o);
}

static void SCAS(struct icpu *c, const struct iop *o)
{
    SKIP_EMPTY(c, o);
    for (;;) {
        uint64_t y = load(c, o, at_di(c, o, false));
        set_compare(c, o->size, c->s.r[X86_RAX] & dp_mask_bytes(o->size), y);
        set_address_reg(c, o, X86_RDI, c->s.r[X86_RDI] + (uint64_t)step_of(c, o));
        if (o->extra && !condition_holds(c, o)) {
            set_address_reg(c, o, X86_RCX, get_count(c, o) - 1);
            break;
        }
        REPEAT(c, o, 1);
    }
    INTERP_NEXT(c, o);
}

/* ---- ports ---- */

/* I/O breakpoints (SDM vol. 3 17.2.4). */
static void watch_port(struct icpu *c, uint16_t port, unsigned size)
{
    for (unsigned i = 0; i < 4; i++) {
        unsigned control = (unsigned)(c->s.dr[7] >> (16 + 4 * i)) & 15;
        static const uint8_t lengths[4] = { 1, 2, 8, 4 };
        uint64_t length = lengths[control >> 2], base = c->s.dr[i] & ~(length - 1);
        if ((c->s.dr[7] >> (2 * i) & 3) && (control & 3) == 2 && port < base + length && base < (uint64_t)port + size)
            c->watch_dr6 |= 1ull << i;
    }
}
static void check_port(struct icpu *c, const struct iop *o, uint16_t port, unsigned size)
{
    if (DP_UNLIKELY((c->mode & IMODE_PE) && ((c->mode & IMODE_V86) || interp_cpl(c) > (c->s.rflags >> 12 & 3)))) {
        c->s.rflags = interp_flags(c);
        if (x86_check_io(&c->ctx, port, size))
            interp_fault_ctx(c, o);
    }
    c->counters.io++;
    if (DP_UNLIKELY(c->watching && c->s.cr4 & X86_CR4_DE))
        watch_port(c, port, size);
}
/* The port: immediate (b = 1) or DX. */
static uint16_t port_of(const struct icpu *c, const struct iop *o) { return o->b ? (uint16_t)o->imm : (uint16_t)c->s.r[X86_RDX]; }
static void IN(struct icpu *c, const struct iop *o)
{
    check_port(c, o, port_of(c, o), o->size);
    uint64_t v = dp_space_load(c->vm->ports, port_of(c, o), o->size);
    if (o->size == 4)
        c->s.r[X86_RAX] = (uint32_t)v;
    else
        memcpy(&c->s.r[X86_RAX], &v, o->size);
    INTERP_NEXT(c, o);
}
static void OUT(struct icpu *c, const struct iop *o)
{
    check_port(c, o, port_of(c, o), o->size);
    dp_space_store(c->vm->ports, port_of(c, o), c->s.r[X86_RAX] & dp_mask_bytes(o->size), o->size);
    INTERP_NEXT(c, o);
}
static void INS(struct icpu *c, const struct iop *o)
{
    SKIP_EMPTY(c, o);
    for (;;) {
        uint16_t port = (uint16_t)c->s.r[X86_RDX];
        check_port(c, o, port, o->size);
        uint64_t to = at_di(c, o, true);
        /* The write must not fault once the device has been read. */
        interp_probe_store(c, o, to, o->size);
        store(c, o, to, dp_space_load(c->vm->ports, port, o->size));
        set_address_reg(c, o, X86_RDI, c->s.r[X86_RDI] + (uint64_t)step_of(c, o));
        REPEAT(c, o, 1);
    }
    INTERP_NEXT(c, o);
}
static void OUTS(struct icpu *c, const struct iop *o)
{
    SKIP_EMPTY(c, o);
    for (;;) {
        uint16_t port = (uint16_t)c->s.r[X86_RDX];
        check_port(c, o, port, o->size);
        dp_space_store(c->vm->ports, port, load(c, o, at_si(c, o)), o->size);
        set_address_reg(c, o, X86_RSI, c->s.r[X86_RSI] + (uint64_t)step_of(c, o));
        REPEAT(c, o, 1);
    }
    INTERP_NEXT(c, o);
}

bool interp_lower_string(struct icpu *c, const struct x86_insn *i, struct iop *o, bool *need_insn)
{
    (void)need_insn;
    unsigned element = 0;
    for (unsigned k = 0; k < i->operand_count; k++)
        if (i->operand[k].kind == X86_MEM || (k == 0 && i->operand[k].kind == X86_REG))
            element = i->operand[k].size;
    o->extra = i->repne ? REP_NE : i->rep ? REP : REP_NONE;
    iop_fn *fn;
    switch (i->op) {
    case X86_OP_MOVS: fn = MOVS; break;
    case X86_OP_STOS: fn = STOS; break;
    case X86_OP_LODS: fn = LODS; break;
    case X86_OP_CMPS: fn = CMPS; break;
    case X86_OP_SCAS: fn = SCAS; break;
    case X86_OP_INS: fn = INS; break;
    case X86_OP_OUTS: fn = OUTS; break;
    case X86_OP_IN:
    case X86_OP_OUT: {
        const struct x86_operand *data = &i->operand[i->op == X86_OP_IN ? 0 : 1], *port = &i->operand[i->op == X86_OP_IN ? 1 : 0];
        o->size = data->size;
        o->b = port->kind == X86_IMM;
        o->imm = i->imm & 0xff;
        o->extra = 0;
        o->fn = i->op == X86_OP_IN ? IN : OUT;
        return true;
    }
    default: o->extra = 0; return false;
    }
    o->size = (uint8_t)element;
    o->fn = fn;
    /* rSI's segment; DS unless overridden. The decoder's seg is that of its one memory operand. */
    o->seg = i->seg_override < X86_SEGS ? i->seg_override : X86_DS;
    o->slow_segment = (c->mode & IMODE_CODE) != X86_MODE64 && (!(c->mode & IMODE_FLAT) || o->seg >= X86_FS || i->address_size != 4);
    return true;
}
