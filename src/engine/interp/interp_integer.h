/* engine/interp/interp_integer.h - what the integer handlers share: registers by size, memory operands, lazy flags, read-modify-write.
 *
 * Model: handlers are stamped out by macros for each operand size (8, 16, 32, 64 bits) and operand form. The macros
 * expect the handler's parameters to be called c and o.
 */
#ifndef DP_INTERP_INTEGER_H
#define DP_INTERP_INTEGER_H

#include "engine/interp/interp_internal.h"

/* ---- registers ---- */
#define R8(x) (((const uint8_t *)c->s.r)[x])
#define R16(x) ((uint16_t)c->s.r[x])
#define R32(x) ((uint32_t)c->s.r[x])
#define R64(x) (c->s.r[x])
#define W8(x, v) (((uint8_t *)c->s.r)[x] = (uint8_t)(v))
#define W16(x, v) (*(uint16_t *)&c->s.r[x] = (uint16_t)(v))
#define W32(x, v) (c->s.r[x] = (uint32_t)(v))
#define W64(x, v) (c->s.r[x] = (v))

#define EACH_SIZE(M) M(8) M(16) M(32) M(64)
#define EACH_WIDE(M) M(16) M(32) M(64)

/* ---- handlers with a memory operand ----
 * Each has a twin, NAME_slow, compiled from the same body. The fast one handles the TLB hit and otherwise starts the instruction over in
 * its twin, as a tail call; so it calls nothing, needs no stack frame, and keeps its values in registers. */
#define TWIN(NAME, ...)                                                                                                                  \
    static __attribute__((noinline, cold)) void NAME##_slow(struct icpu *c, const struct iop *o) { enum { fast = 0 }; __VA_ARGS__ }      \
    static void NAME(struct icpu *c, const struct iop *o) { enum { fast = 1 }; __VA_ARGS__ }
#define TAG(linear, bits) ((((linear) + bits / 8 - 1) & ~0xfffull) | c->tlb_generation)
/* v = the operand at address, which is linear already when flat, else o's memory operand. */
#define LOAD_AT(NAME, bits, v, flat, address)                                                                                            \
    uint##bits##_t v;                                                                                                                    \
    if (fast) {                                                                                                                          \
        if (!(flat) && DP_UNLIKELY(o->slow_segment))                                                                                     \
            return NAME##_slow(c, o);                                                                                                    \
        uint64_t at_ = (flat) ? (address) : interp_ea(c, o) + c->segbase[o->seg];                                                        \
        const struct itlb *e_ = interp_tlb(c, at_);                                                                                      \
        if (DP_UNLIKELY(TAG(at_, bits) != e_->read_tag))                                                                                 \
            return NAME##_slow(c, o);                                                                                                    \
        v = *(volatile uint##bits##_t *)(uintptr_t)(at_ + e_->addend);                                                                   \
    } else {                                                                                                                             \
        v = interp_load##bits(c, o, (flat) ? (address) : interp_linear(c, o, bits / 8, false));                                          \
    }
#define LOAD(NAME, bits, v) LOAD_AT(NAME, bits, v, 0, 0)
#define STORE_AT(NAME, bits, v, flat, address)                                                                                           \
    if (fast) {                                                                                                                          \
        if (!(flat) && DP_UNLIKELY(o->slow_segment))                                                                                     \
            return NAME##_slow(c, o);                                                                                                    \
        uint64_t at_ = (flat) ? (address) : interp_ea(c, o) + c->segbase[o->seg], tag_ = TAG(at_, bits);                                 \
        struct itlb *e_ = interp_tlb(c, at_);                                                                                            \
        if (DP_UNLIKELY(tag_ != atomic_load_explicit(&e_->write_tag, memory_order_relaxed)))                                             \
            return NAME##_slow(c, o);                                                                                                    \
        *(volatile uint##bits##_t *)(uintptr_t)(at_ + e_->addend) = (v);                                                                 \
        atomic_signal_fence(memory_order_seq_cst);                                                                                       \
        /* Poisoned meanwhile: the twin stores the same value once more and reports it. */                                               \
        if (DP_UNLIKELY(tag_ != atomic_load_explicit(&e_->write_tag, memory_order_relaxed)))                                             \
            return NAME##_slow(c, o);                                                                                                    \
    } else {                                                                                                                             \
        interp_store##bits(c, o, (flat) ? (address) : interp_linear(c, o, bits / 8, true), (v));                                         \
    }
#define STORE(NAME, bits, v) STORE_AT(NAME, bits, v, 0, 0)

/* ---- lazy flags ---- */
#define AUX8(v) (((uint32_t)(v) << 24 & 0xc0000000u) | ((uint32_t)(v)&8))
#define AUX16(v) (((uint32_t)(v) << 16 & 0xc0000000u) | ((uint32_t)(v)&8))
#define AUX32(v) ((uint32_t)(v)&0xc0000008u)
#define AUX64(v) (((uint32_t)((v) >> 32) & 0xc0000000u) | ((uint32_t)(v)&8))
#define SIGNED(bits, v) ((uint64_t)(int64_t)(int##bits##_t)(v))
#define SET_FLAGS(bits, r, carries) (c->lf_result = SIGNED(bits, r), c->lf_aux = AUX##bits(carries))
#define CARRY_ADD(x, y, r) (((x) & (y)) | (((x) | (y)) & ~(r)))
#define CARRY_SUB(x, y, r) ((~(x) & (y)) | ((~(x) | (y)) & (r)))
/* Result with CF and OF given, AF clear. */
static inline void set_cf_of(struct icpu *c, uint64_t signed_result, unsigned cf, unsigned of)
{
    c->lf_result = signed_result;
    c->lf_aux = cf << 31 | (cf ^ of) << 30;
}
static inline void set_cf(struct icpu *c, unsigned cf) /* all others keep their value */
{
    unsigned of = interp_of(c);
    c->lf_aux = (c->lf_aux & 0x3fffffffu) | cf << 31 | (cf ^ of) << 30;
}

/* Operations on (x, y): COMPUTE gives r from x and y, FLAGS sets the flags from x, y, r. k is CF before. */
#define COMPUTE_ADD r = x + y
#define COMPUTE_ADC r = x + y + k
#define COMPUTE_SUB r = x - y
#define COMPUTE_SBB r = x - y - k
#define COMPUTE_AND r = x & y
#define COMPUTE_OR r = x | y
#define COMPUTE_XOR r = x ^ y
#define COMPUTE_CMP COMPUTE_SUB
#define COMPUTE_TEST COMPUTE_AND
#define FLAGS_ADD(bits) SET_FLAGS(bits, r, CARRY_ADD(x, y, r))
#define FLAGS_ADC FLAGS_ADD
#define FLAGS_SUB(bits) SET_FLAGS(bits, r, CARRY_SUB(x, y, r))
#define FLAGS_SBB FLAGS_SUB
#define FLAGS_LOGIC(bits) (c->lf_result = SIGNED(bits, r), c->lf_aux = 0)
#define FLAGS_AND FLAGS_LOGIC
#define FLAGS_OR FLAGS_LOGIC
#define FLAGS_XOR FLAGS_LOGIC
#define FLAGS_CMP FLAGS_SUB
#define FLAGS_TEST FLAGS_LOGIC

/* Read-modify-write of memory. begin gives the host address, or NULL when the operand is not plain RAM in one page. */
static inline void *rmw_begin(struct icpu *c, const struct iop *o, uint64_t linear, unsigned size)
{
    const struct itlb *e = interp_tlb(c, linear);
    if (DP_LIKELY((((linear + size - 1) & ~0xfffull) | c->tlb_generation) == atomic_load_explicit(&e->write_tag, memory_order_relaxed)))
        return (void *)(uintptr_t)(linear + e->addend);
    return interp_rmw_host(c, o, linear, size);
}
static inline void rmw_end(struct icpu *c, const struct iop *o, uint64_t linear, const volatile void *p,
                           unsigned size)
{
    atomic_signal_fence(memory_order_seq_cst);
    if (DP_UNLIKELY((((linear + size - 1) & ~0xfffull) | c->tlb_generation) !=
                    atomic_load_explicit(&interp_tlb(c, linear)->write_tag, memory_order_relaxed)))
        interp_rmw_done(c, o, p, size);
}
/* body computes r from x, may be run several times under LOCK. */
#define RMW(bits, lock, body) RMW_AT(bits, lock, interp_linear(c, o, bits / 8, true), body)
#define RMW_AT(bits, lock, address, body)                                                                                                \
    uint64_t linear = (address);                                                                                                         \
    volatile uint##bits##_t *p = rmw_begin(c, o, linear, bits / 8);                                                                      \
    uint##bits##_t x, r;                                                                                                                 \
    if (DP_LIKELY(p != NULL)) {                                                                                                          \
        x = *p;                                                                                                                          \
        if (lock) {                                                                                                                      \
            do {                                                                                                                         \
                body;                                                                                                                    \
            } while (!__atomic_compare_exchange_n(p, &x, r, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));                                 \
        } else {                                                                                                                         \
            body;                                                                                                                        \
            *p = r;                                                                                                                      \
        }                                                                                                                                \
        rmw_end(c, o, linear, p, bits / 8);                                                                                              \
    } else {                                                                                                                             \
        x = interp_load##bits(c, o, linear);                                                                                             \
        body;                                                                                                                            \
        interp_store##bits(c, o, linear, r);                                                                                             \
    }

/* ---- lowering ---- */
static inline unsigned size_index(unsigned size) { return size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3; }
/* ---- lowering ---- */
static inline uint8_t reg_of(const struct x86_operand *p)
{
    return p->reg_class == X86_RC_GPR8H ? p->reg * 8 + 1 : p->size == 1 ? p->reg * 8 : p->reg;
}

#endif
