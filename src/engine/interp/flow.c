/* engine/interp/flow.c - conditions, the stack, near control flow.
 *
 * Model: a block's last operation finds the next block: by a link (same page, set when first taken), by the jump cache, or by going back to
 * the run loop. Stack handlers for 64-bit mode are straight; other stacks go through linear_stack, which checks limits and wraps.
 * Source: Intel SDM vol. 2 (Jcc, CALL, RET, PUSH, ENTER ...).
 */
#include "engine/interp/interp_integer.h"

/* ---- conditions: SETcc, CMOVcc, Jcc, one handler per condition ---- */
#define CONDITIONS(M)                                                                                                                    \
    M(0, interp_of(c)) M(1, !interp_of(c)) M(2, interp_cf(c)) M(3, !interp_cf(c)) M(4, interp_zf(c)) M(5, !interp_zf(c))                 \
    M(6, interp_cf(c) || interp_zf(c)) M(7, !(interp_cf(c) || interp_zf(c))) M(8, interp_sf(c)) M(9, !interp_sf(c))                      \
    M(10, interp_pf(c)) M(11, !interp_pf(c)) M(12, interp_sf(c) != interp_of(c)) M(13, interp_sf(c) == interp_of(c))                     \
    M(14, interp_zf(c) || interp_sf(c) != interp_of(c)) M(15, !interp_zf(c) && interp_sf(c) == interp_of(c))

/* A direct branch by o->imm bytes from the block's start. In 64-bit and flat code, targets on the same page are linked (the page's
 * translation and the mode cannot have changed within the block); extra says which. */
enum { TARGET_LINK = 1, TARGET_MASKED = 2 /* 16- or 32-bit IP: amask holds the width */ };
static inline const struct iop *go_direct(struct icpu *c, const struct iop *o)
{
    if (DP_LIKELY(o->extra == TARGET_LINK)) {
        c->s.r[X86_RIP] += o->imm;
        if (interp_must_leave(c))
            return &interp_exit_op;
        struct iblock *b = o->link;
        if (DP_LIKELY(b && interp_block_valid(b)))
            return interp_enter(c, b);
        c->link_from = o;
        return &interp_exit_op;
    }
    c->s.r[X86_RIP] += o->imm;
    if (o->extra & TARGET_MASKED)
        c->s.r[X86_RIP] &= o->amask;
    return interp_jump(c);
}
static void branch(struct icpu *c, const struct iop *o) { INTERP_GO(c, go_direct(c, o)); }

#define CONDITION_HANDLERS(n, test)                                                                                                      \
    static void Jcc_##n(struct icpu *c, const struct iop *o)                                                                             \
    {                                                                                                                                    \
        if (test)                                                                                                                        \
            INTERP_GO(c, go_direct(c, o));                                                                                               \
        INTERP_NEXT(c, o); /* a branch operation to the next instruction stands there */                                                 \
    }                                                                                                                                    \
    static void SETcc_r_##n(struct icpu *c, const struct iop *o) { W8(o->a, (test) ? 1 : 0); INTERP_NEXT(c, o); }                        \
    static void SETcc_m_##n(struct icpu *c, const struct iop *o)                                                                         \
    {                                                                                                                                    \
        interp_store8(c, o, interp_linear(c, o, 1, true), (test) ? 1 : 0);                                                               \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void CMOV_r_##n(struct icpu *c, const struct iop *o)                                                                          \
    {                                                                                                                                    \
        if (o->size == 2) {                                                                                                              \
            if (test)                                                                                                                    \
                W16(o->a, R16(o->b));                                                                                                    \
        } else {                                                                                                                         \
            uint64_t v = (test) ? c->s.r[o->b] : c->s.r[o->a];                                                                           \
            c->s.r[o->a] = v & o->imm; /* imm: 32- or 64-bit mask; a 32-bit CMOV always clears the upper half */                         \
        }                                                                                                                                \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void CMOV_m_##n(struct icpu *c, const struct iop *o)                                                                          \
    {                                                                                                                                    \
        uint64_t linear = interp_linear(c, o, o->size, false);                                                                           \
        if (o->size == 2) {                                                                                                              \
            uint16_t v = interp_load16(c, o, linear);                                                                                    \
            if (test)                                                                                                                    \
                W16(o->a, v);                                                                                                            \
        } else {                                                                                                                         \
            uint64_t v = o->size == 8 ? interp_load64(c, o, linear) : interp_load32(c, o, linear);                                       \
            c->s.r[o->a] = (test) ? v : c->s.r[o->a] & o->imm;                                                                           \
        }                                                                                                                                \
        INTERP_NEXT(c, o);                                                                                                               \
    }
CONDITIONS(CONDITION_HANDLERS)
#define CONDITION_ROW(n, test) { Jcc_##n, SETcc_r_##n, SETcc_m_##n, CMOV_r_##n, CMOV_m_##n },
static iop_fn *const condition_table[16][5] = { CONDITIONS(CONDITION_ROW) };

/* ---- stack ---- */
/* 64-bit stacks have no segment; others go through their own slow path in linear_stack. */
static inline uint64_t stack_mask(const struct icpu *c)
{
    unsigned width = c->mode >> IMODE_STACK_SHIFT & 3;
    return width == X86_MODE64 ? ~0ull : width == X86_MODE32 ? 0xffffffffull : 0xffffull;
}
static __attribute__((noinline)) uint64_t linear_stack(struct icpu *c, const struct iop *o, uint64_t offset, unsigned size, bool write)
{
    if ((c->mode >> IMODE_STACK_SHIFT & 3) == X86_MODE64) {
        if (DP_UNLIKELY(!x86_canonical(&c->s, offset) || !x86_canonical(&c->s, offset + size - 1)))
            interp_fault_code(c, o, X86_SS_, 0); /* also where the instruction's memory operand has another segment */
        return offset;
    }
    struct iop stack = *o;
    stack.base = X86_ZERO;
    stack.index = X86_ZERO;
    stack.disp = (int64_t)(offset & stack_mask(c));
    stack.amask = ~0ull;
    stack.seg = X86_SS;
    stack.slow_segment = true;
    return interp_linear_slow(c, &stack, size, write);
}
static inline void set_sp(struct icpu *c, uint64_t value)
{
    uint64_t mask = stack_mask(c);
    c->s.r[X86_RSP] = mask == 0xffff ? (c->s.r[X86_RSP] & ~0xffffull) | (value & 0xffff) : value & mask;
}
void interp_push(struct icpu *c, const struct iop *o, uint64_t value, unsigned size)
{
    uint64_t sp = c->s.r[X86_RSP] - size, linear = linear_stack(c, o, sp, size, true);
    if (size == 8)
        interp_store64(c, o, linear, value);
    else if (size == 4)
        interp_store32(c, o, linear, (uint32_t)value);
    else
        interp_store16(c, o, linear, (uint16_t)value);
    set_sp(c, sp);
}
/* Reads the value at the top plus skip bytes without popping. */
uint64_t interp_peek(struct icpu *c, const struct iop *o, unsigned skip, unsigned size)
{
    uint64_t linear = linear_stack(c, o, c->s.r[X86_RSP] + skip, size, false);
    return size == 8 ? interp_load64(c, o, linear) : size == 4 ? interp_load32(c, o, linear) : interp_load16(c, o, linear);
}
void interp_release(struct icpu *c, uint64_t bytes) { set_sp(c, c->s.r[X86_RSP] + bytes); }
static inline void write_gpr(struct icpu *c, unsigned reg, uint64_t value, unsigned size)
{
    if (size == 8)
        W64(reg, value);
    else if (size == 4)
        W32(reg, value);
    else
        W16(reg, value);
}

/* 64-bit mode, the usual size: straight. */
TWIN(PUSH_r64,
    uint64_t sp = c->s.r[X86_RSP] - 8;
    STORE_AT(PUSH_r64, 64, c->s.r[o->a], 1, sp)
    c->s.r[X86_RSP] = sp;
    INTERP_NEXT(c, o);)
TWIN(POP_r64,
    LOAD_AT(POP_r64, 64, v, 1, c->s.r[X86_RSP])
    c->s.r[X86_RSP] += 8;
    c->s.r[o->a] = v;
    INTERP_NEXT(c, o);)
static void PUSH_r(struct icpu *c, const struct iop *o) { interp_push(c, o, c->s.r[o->a], o->size); INTERP_NEXT(c, o); }
static void PUSH_i(struct icpu *c, const struct iop *o) { interp_push(c, o, o->imm, o->size); INTERP_NEXT(c, o); }
static uint64_t load_size(struct icpu *c, const struct iop *o, uint64_t linear, unsigned size)
{
    return size == 8   ? interp_load64(c, o, linear)
           : size == 4 ? interp_load32(c, o, linear)
           : size == 2 ? interp_load16(c, o, linear)
                       : interp_load8(c, o, linear);
}
static void store_size(struct icpu *c, const struct iop *o, uint64_t linear, uint64_t v, unsigned size)
{
    if (size == 8)
        interp_store64(c, o, linear, v);
    else if (size == 4)
        interp_store32(c, o, linear, (uint32_t)v);
    else if (size == 2)
        interp_store16(c, o, linear, (uint16_t)v);
    else
        interp_store8(c, o, linear, (uint8_t)v);
}
static void PUSH_m(struct icpu *c, const struct iop *o)
{
    interp_push(c, o, load_size(c, o, interp_linear(c, o, o->size, false), o->size), o->size);
    INTERP_NEXT(c, o);
}
static void POP_r(struct icpu *c, const struct iop *o)
{
    uint64_t v = interp_peek(c, o, 0, o->size);
    interp_release(c, o->size);
    write_gpr(c, o->a, v, o->size);
    INTERP_NEXT(c, o);
}
static void POP_m(struct icpu *c, const struct iop *o)
{
    uint64_t v = interp_peek(c, o, 0, o->size);
    /* An address based on rSP uses the value after the pop. */
    store_size(c, o, interp_linear_moved(c, o, o->base == X86_RSP ? o->size : 0, o->size, true), v, o->size);
    interp_release(c, o->size);
    INTERP_NEXT(c, o);
}
static void PUSHA(struct icpu *c, const struct iop *o)
{
    uint64_t sp = c->s.r[X86_RSP];
    uint8_t image[32];
    static const uint8_t order[8] = { X86_RDI, X86_RSI, X86_RBP, X86_RSP, X86_RBX, X86_RDX, X86_RCX, X86_RAX };
    /* In real and virtual-8086 mode these run into the end of the stack: #GP before anything is written, where single pushes have #SS. */
    if ((!(c->mode & IMODE_PE) || (c->mode & IMODE_V86)) && (sp & 0xfff1) == 1 && (sp & 0xe) >= 6)
        interp_fault_code(c, o, X86_GP, 0);
    for (unsigned i = 0; i < 8; i++)
        memcpy(image + i * o->size, &c->s.r[order[i]], o->size);
    /* The stack may wrap within the 16-bit segment: go word by word from the lowest, all checked first by the writes themselves. */
    for (unsigned i = 8; i-- > 0;) {
        uint64_t v = 0;
        memcpy(&v, image + i * o->size, o->size);
        uint64_t at = sp - (8 - i) * o->size;
        store_size(c, o, linear_stack(c, o, at, o->size, true), v, o->size);
    }
    set_sp(c, sp - 8 * o->size);
    INTERP_NEXT(c, o);
}
static void POPA(struct icpu *c, const struct iop *o)
{
    static const uint8_t order[8] = { X86_RDI, X86_RSI, X86_RBP, X86_RSP, X86_RBX, X86_RDX, X86_RCX, X86_RAX };
    uint64_t v[8];
    for (unsigned i = 0; i < 8; i++)
        v[i] = interp_peek(c, o, i * o->size, o->size);
    for (unsigned i = 0; i < 8; i++)
        if (order[i] != X86_RSP)
            write_gpr(c, order[i], v[i], o->size);
    interp_release(c, 8 * o->size);
    INTERP_NEXT(c, o);
}
static void ENTER(struct icpu *c, const struct iop *o)
{
    unsigned size = o->size, level = o->insn->imm2 & 31;
    uint64_t sp = c->s.r[X86_RSP], bp = c->s.r[X86_RBP], mask = stack_mask(c);
    /* On a 16-bit stack SP wraps by itself: a 32-bit ENTER pushes and keeps ESP's upper half as it is. */
    uint64_t frame = mask == 0xffff ? (sp & ~mask) | ((sp - size) & mask) : (sp - size) & mask, at = frame;
    store_size(c, o, linear_stack(c, o, at, size, true), bp, size);
    for (unsigned i = 1; i < level; i++) {
        uint64_t v = load_size(c, o, linear_stack(c, o, bp - i * size, size, false), size);
        at -= size;
        store_size(c, o, linear_stack(c, o, at, size, true), v, size);
    }
    if (level) {
        at -= size;
        store_size(c, o, linear_stack(c, o, at, size, true), frame, size);
    }
    at -= (uint16_t)o->insn->imm;
    /* The final stack pointer must be writable (SDM: ENTER page-faults if a write there would). */
    uint64_t linear = linear_stack(c, o, at, size, true);
    interp_probe_store(c, o, linear, size);
    set_sp(c, at);
    write_gpr(c, X86_RBP, frame, size);
    INTERP_NEXT(c, o);
}
static void LEAVE(struct icpu *c, const struct iop *o)
{
    uint64_t mask = stack_mask(c), bp = c->s.r[X86_RBP] & mask;
    uint64_t v = load_size(c, o, linear_stack(c, o, bp, o->size, false), o->size);
    set_sp(c, bp + o->size);
    write_gpr(c, X86_RBP, v, o->size);
    INTERP_NEXT(c, o);
}

/* ---- near calls, returns, indirect jumps ---- */
/* Outside 64-bit code a target beyond CS.limit is #GP(0), at the branch. */
static inline void check_target(struct icpu *c, const struct iop *o, uint64_t target)
{
    if ((c->mode & IMODE_CODE) == X86_MODE64) {
        if (DP_UNLIKELY(!x86_canonical(&c->s, target)))
            interp_fault_code(c, o, X86_GP, 0);
    } else if (DP_UNLIKELY(target > c->s.seg[X86_CS].limit)) {
        interp_fault_code(c, o, X86_GP, 0);
    }
}
TWIN(CALL_64,
    uint64_t sp = c->s.r[X86_RSP] - 8;
    STORE_AT(CALL_64, 64, interp_next_rip(c, o), 1, sp)
    c->s.r[X86_RSP] = sp;
    INTERP_GO(c, go_direct(c, o));)
static void CALL_rel(struct icpu *c, const struct iop *o)
{
    check_target(c, o, (c->s.r[X86_RIP] + o->imm) & o->amask);
    interp_push(c, o, interp_next_rip(c, o) & o->amask, o->size);
    INTERP_GO(c, go_direct(c, o));
}
static void jump_rel(struct icpu *c, const struct iop *o) /* JMP outside flat code */
{
    check_target(c, o, (c->s.r[X86_RIP] + o->imm) & o->amask);
    INTERP_GO(c, go_direct(c, o));
}
static inline uint64_t size_mask(unsigned size) { return size == 8 ? ~0ull : size == 4 ? 0xffffffffull : 0xffffull; }
static void JMP_r(struct icpu *c, const struct iop *o)
{
    uint64_t target = c->s.r[o->a] & size_mask(o->size);
    check_target(c, o, target);
    c->s.r[X86_RIP] = target;
    INTERP_GO(c, interp_jump(c));
}
static void JMP_m(struct icpu *c, const struct iop *o)
{
    uint64_t target = load_size(c, o, interp_linear(c, o, o->size, false), o->size);
    check_target(c, o, target);
    c->s.r[X86_RIP] = target;
    INTERP_GO(c, interp_jump(c));
}
static void CALL_r(struct icpu *c, const struct iop *o)
{
    uint64_t target = c->s.r[o->a] & size_mask(o->size);
    check_target(c, o, target);
    interp_push(c, o, interp_next_rip(c, o), o->size);
    c->s.r[X86_RIP] = target;
    INTERP_GO(c, interp_jump(c));
}
static void CALL_m(struct icpu *c, const struct iop *o)
{
    uint64_t target = load_size(c, o, interp_linear(c, o, o->size, false), o->size);
    check_target(c, o, target);
    interp_push(c, o, interp_next_rip(c, o), o->size);
    c->s.r[X86_RIP] = target;
    INTERP_GO(c, interp_jump(c));
}
TWIN(RET_64,
    LOAD_AT(RET_64, 64, target, 1, c->s.r[X86_RSP])
    if (fast && DP_UNLIKELY((uint64_t)((int64_t)target >> 47) + 1 > 1))
        return RET_64_slow(c, o); /* not canonical: faults there */
    if (!fast)
        check_target(c, o, target);
    c->s.r[X86_RSP] += 8 + o->imm;
    c->s.r[X86_RIP] = target;
    INTERP_GO(c, interp_jump(c));)
static void RET_n(struct icpu *c, const struct iop *o)
{
    uint64_t target = interp_peek(c, o, 0, o->size);
    check_target(c, o, target);
    interp_release(c, o->size + o->imm);
    c->s.r[X86_RIP] = target;
    INTERP_GO(c, interp_jump(c));
}
/* extra of LOOPs: b holds LOOP, LOOPE, LOOPNE or JCXZ; the width of rCX is the address size. */
enum { LOOP_ALWAYS, LOOP_E, LOOP_NE, LOOP_CXZ };
static void LOOP(struct icpu *c, const struct iop *o)
{
    uint64_t mask = size_mask(o->scale), count = c->s.r[X86_RCX] & mask; /* scale holds the address size here */
    bool taken;
    if (o->b == LOOP_CXZ) {
        taken = count == 0;
    } else {
        count = (count - 1) & mask;
        taken = count && (o->b == LOOP_ALWAYS || interp_zf(c) == (o->b == LOOP_E));
    }
    if (taken && o->extra != TARGET_LINK && (c->mode & IMODE_CODE) != X86_MODE64)
        check_target(c, o, (c->s.r[X86_RIP] + o->imm) & o->amask);
    if (o->b != LOOP_CXZ)
        write_gpr(c, X86_RCX, count, o->scale);
    if (taken)
        INTERP_GO(c, go_direct(c, o));
    INTERP_NEXT(c, o);
}
#define CHECKED_JCC(n, test)                                                                                                             \
    static void Jcc_checked_##n(struct icpu *c, const struct iop *o)                                                                     \
    {                                                                                                                                    \
        if (test) {                                                                                                                      \
            check_target(c, o, (c->s.r[X86_RIP] + o->imm) & o->amask);                                                                   \
            INTERP_GO(c, go_direct(c, o));                                                                                               \
        }                                                                                                                                \
        INTERP_NEXT(c, o);                                                                                                               \
    }
CONDITIONS(CHECKED_JCC)
#define CHECKED_ROW(n, test) Jcc_checked_##n,
static iop_fn *const checked_jcc[16] = { CONDITIONS(CHECKED_ROW) };

/* ---- lowering ---- */
/* A block's last operation towards rip + displacement (already in imm, from the block's start). */
static void set_target(struct icpu *c, const struct x86_insn *i, struct iop *o)
{
    bool flat = (c->mode & IMODE_CODE) == X86_MODE64 || ((c->mode & IMODE_FLAT) && i->operand_size == 4);
    o->imm = (uint64_t)(o->offset + o->length) + i->imm;
    o->link = NULL;
    if (flat) {
        /* The block starts at this offset of its page; lowering keeps the start's page offset in disp for branches. */
        uint64_t at = (uint64_t)o->disp + o->imm;
        o->extra = at < DP_PAGE_SIZE ? TARGET_LINK : 0;
        o->amask = (c->mode & IMODE_CODE) == X86_MODE64 ? ~0ull : 0xffffffffull;
        if ((c->mode & IMODE_CODE) != X86_MODE64 && o->extra == 0)
            o->extra = TARGET_MASKED;
    } else {
        o->extra = TARGET_MASKED;
        o->amask = i->operand_size == 2 ? 0xffff : 0xffffffffull;
    }
}
/* The operation that continues after a block's last instruction; offset and length are those of the end. */
void interp_lower_end(struct icpu *c, struct iop *o, unsigned bytes, unsigned page_offset)
{
    memset(o, 0, sizeof(*o));
    o->fn = branch;
    o->offset = (uint16_t)bytes;
    o->imm = bytes;
    bool flat = (c->mode & IMODE_CODE) == X86_MODE64 || (c->mode & IMODE_FLAT);
    o->amask = (c->mode & IMODE_CODE) == X86_MODE64 ? ~0ull : 0xffffffffull;
    o->extra = flat && page_offset + bytes < DP_PAGE_SIZE ? TARGET_LINK : (c->mode & IMODE_CODE) == X86_MODE64 ? 0 : TARGET_MASKED;
}
static bool lower_stack(struct icpu *c, const struct x86_insn *i, struct iop *o, bool push)
{
    const struct x86_operand *d = &i->operand[0];
    if (d->kind == X86_REG && d->reg_class != X86_RC_GPR)
        return false; /* segment registers: system.c */
    o->size = i->operand_size;
    if (d->kind == X86_REG)
        o->a = d->reg;
    o->imm = i->imm;
    bool usual = (c->mode & IMODE_CODE) == X86_MODE64 && i->operand_size == 8;
    if (d->kind != X86_MEM)
        o->seg = X86_SS; /* an address that is not canonical means #SS */
    if (d->kind == X86_REG)
        o->fn = push ? (usual ? PUSH_r64 : PUSH_r) : (usual ? POP_r64 : POP_r);
    else if (d->kind == X86_IMM)
        o->fn = PUSH_i;
    else
        o->fn = push ? PUSH_m : POP_m;
    return true;
}
static bool lower_near(struct icpu *c, const struct x86_insn *i, struct iop *o)
{
    const struct x86_operand *d = &i->operand[0];
    bool code64 = (c->mode & IMODE_CODE) == X86_MODE64, call = i->op == X86_OP_CALL;
    o->size = i->operand_size;
    if (d->kind == X86_REL) {
        set_target(c, i, o);
        bool checked = o->extra == TARGET_MASKED;
        o->seg = X86_SS;
        o->fn = call ? (code64 ? CALL_64 : CALL_rel) : checked ? jump_rel : branch;
    } else if (d->kind == X86_REG) {
        o->a = d->reg;
        o->fn = call ? CALL_r : JMP_r;
    } else {
        o->fn = call ? CALL_m : JMP_m;
    }
    return true;
}

bool interp_lower_flow(struct icpu *c, const struct x86_insn *i, struct iop *o, bool *need_insn)
{
    const struct x86_operand *d = &i->operand[0], *s = &i->operand[1];
    switch (i->op) {
    case X86_OP_SETCC:
        if (d->kind == X86_REG)
            o->a = reg_of(d);
        o->fn = condition_table[i->cc][d->kind == X86_REG ? 1 : 2];
        return true;
    case X86_OP_CMOVCC:
        o->a = d->reg;
        if (s->kind == X86_REG)
            o->b = s->reg;
        o->size = d->size;
        o->imm = d->size == 8 ? ~0ull : 0xffffffffull;
        o->fn = condition_table[i->cc][s->kind == X86_REG ? 3 : 4];
        return true;
    case X86_OP_JCC:
        set_target(c, i, o);
        o->fn = o->extra == TARGET_MASKED ? checked_jcc[i->cc] : condition_table[i->cc][0];
        return true;
    case X86_OP_LOOP:
    case X86_OP_LOOPE:
    case X86_OP_LOOPNE:
    case X86_OP_JCXZ:
        set_target(c, i, o);
        o->b = i->op == X86_OP_LOOP ? LOOP_ALWAYS : i->op == X86_OP_LOOPE ? LOOP_E : i->op == X86_OP_LOOPNE ? LOOP_NE : LOOP_CXZ;
        o->scale = i->address_size;
        o->fn = LOOP;
        return true;
    case X86_OP_JMP:
    case X86_OP_CALL: return lower_near(c, i, o);
    case X86_OP_RET:
        o->size = i->operand_size;
        o->imm = d->kind == X86_IMM ? (uint16_t)i->imm : 0;
        o->seg = X86_SS;
        o->fn = (c->mode & IMODE_CODE) == X86_MODE64 && o->size == 8 ? RET_64 : RET_n;
        return true;
    case X86_OP_PUSH: return lower_stack(c, i, o, true);
    case X86_OP_POP: return lower_stack(c, i, o, false);
    case X86_OP_PUSHA: o->size = i->operand_size; o->fn = PUSHA; return true;
    case X86_OP_POPA: o->size = i->operand_size; o->fn = POPA; return true;
    case X86_OP_ENTER: o->size = i->operand_size; o->fn = ENTER; *need_insn = true; return true;
    case X86_OP_LEAVE: o->size = i->operand_size; o->fn = LEAVE; return true;
    default: return false;
    }
}
