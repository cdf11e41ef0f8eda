/* engine/interp/interp_sse.h - what the SSE and MMX files share: register and operand access, the shape of handlers.
 *
 * Model: a guest instruction runs as the same host instruction, on copies of the guest's registers: results, NaNs and MXCSR flags are the
 * host's, hence exact. Lowering chooses a handler by operation and by operand form (struct sse_forms). MMX forms use the XMM
 * instruction on the low half of a register; where the two differ (packs, high unpacks, PSHUFB ...) the operands are arranged so that the low half of
 * the XMM result is the MMX result. Legacy encodings only: no AVX is asked of the host.
 * Invariants: what can fault comes before the first change of state. Handlers that can raise SIMD exceptions ask c->xm_unmasked and then
 * run under sse_precise(). Functions with inline calls rely on -mno-red-zone (meson.build).
 */
#ifndef DP_INTERP_SSE_H
#define DP_INTERP_SSE_H

#include <emmintrin.h>

#include "engine/interp/interp_x87.h"

/* Handlers of one operation: destination and source class (x XMM, m MMX), then r register or m memory. NULL: no such form. */
struct sse_forms { iop_fn *xr, *xm, *mr, *mm; };

/* Per file: forms and operands for operations that are theirs, false for others. o->a and o->b are set already (see sse.c). */
bool sse_lower_int(const struct x86_insn *i, struct iop *o);
bool sse_lower_fp(const struct x86_insn *i, struct iop *o);
bool sse_lower_imm(const struct x86_insn *i, struct iop *o);
bool sse_lower_move(const struct x86_insn *i, struct iop *o);
/* fxstate.c: FXSAVE and XSAVE families, LDMXCSR, STMXCSR. */
bool sse_lower_state(struct icpu *c, const struct x86_insn *i, struct iop *o);

/* Picks by the destination register's class and the source's kind. */
static inline bool sse_pick(const struct x86_insn *i, struct iop *o, const struct sse_forms *f)
{
    bool mmx = i->operand[0].reg_class == X86_RC_MMX, memory = i->operand[1].kind == X86_MEM;
    o->fn = mmx ? memory ? f->mm : f->mr : memory ? f->xm : f->xr;
    return o->fn != NULL;
}

/* ---- registers ---- */
static inline __m128i sse_get(const struct icpu *c, unsigned n) { return _mm_loadu_si128((const __m128i *)(const void *)c->s.vec[n]); }
static inline void sse_put(struct icpu *c, unsigned n, __m128i v) { _mm_storeu_si128((__m128i *)(void *)c->s.vec[n], v); }
/* The low 4 or 8 bytes, the rest untouched. */
static inline void sse_put32(struct icpu *c, unsigned n, uint32_t v) { dp_st32(c->s.vec[n], v); }
static inline void sse_put64(struct icpu *c, unsigned n, uint64_t v) { dp_st64(c->s.vec[n], v); }
static inline __m128i sse_get_low(const struct icpu *c, unsigned n) { return _mm_loadl_epi64((const __m128i *)(const void *)c->s.vec[n]); }
static inline uint32_t sse_get32(const struct icpu *c, unsigned n) { return dp_ld32(c->s.vec[n]); }
static inline uint64_t sse_get64(const struct icpu *c, unsigned n) { return dp_ld64(c->s.vec[n]); }


/* MMX registers are the x87 registers' significands, by physical number. Every MMX instruction makes TOP 0 and all tags valid;
 * one that writes sets sign and exponent to ones. begin: before anything else; use: once nothing can fault any more. */
static inline void mmx_begin(struct icpu *c, const struct iop *o)
{
    if (DP_UNLIKELY(c->s.fpu.fsw & X87_ES))
        interp_fault(c, o, X86_MF);
}
static inline void mmx_use(struct icpu *c)
{
    c->s.fpu.fsw &= (uint16_t)~X87_TOP;
    c->s.fpu.ftw = 0xff;
}
static inline __m128i mmx_get(const struct icpu *c, unsigned n) { return _mm_loadl_epi64((const __m128i *)(const void *)c->s.fpu.st[n]); }
static inline uint64_t mmx_get64(const struct icpu *c, unsigned n) { return dp_ld64(c->s.fpu.st[n]); }
static inline void mmx_put64(struct icpu *c, unsigned n, uint64_t v)
{
    dp_st64(c->s.fpu.st[n], v);
    dp_st16(c->s.fpu.st[n] + 8, 0xffff);
}
static inline void mmx_put(struct icpu *c, unsigned n, __m128i v) { mmx_put64(c, n, (uint64_t)_mm_cvtsi128_si64(v)); }

/* ---- memory ---- */
/* TLB misses and odd pages; apart so that the handlers' locals stay in registers. */
__m128i sse_load_slow(struct icpu *c, const struct iop *o, uint64_t linear) __attribute__((noinline));
void sse_store_slow(struct icpu *c, const struct iop *o, uint64_t linear, __m128i v) __attribute__((noinline));

static inline __m128i sse_load(struct icpu *c, const struct iop *o, bool align)
{
    uint64_t linear = interp_linear(c, o, 16, false);
    if (align && DP_UNLIKELY(linear & 15))
        interp_fault_code(c, o, X86_GP, 0);
    const struct itlb *e = interp_tlb(c, linear);
    if (DP_LIKELY((((linear + 15) & ~0xfffull) | c->tlb_generation) == e->read_tag))
        return _mm_loadu_si128((const __m128i *)(uintptr_t)(linear + e->addend));
    return sse_load_slow(c, o, linear);
}
static inline void sse_store(struct icpu *c, const struct iop *o, __m128i v, bool align)
{
    uint64_t linear = interp_linear(c, o, 16, true);
    if (align && DP_UNLIKELY(linear & 15))
        interp_fault_code(c, o, X86_GP, 0);
    struct itlb *e = interp_tlb(c, linear);
    uint64_t tag = ((linear + 15) & ~0xfffull) | c->tlb_generation;
    if (DP_UNLIKELY(tag != atomic_load_explicit(&e->write_tag, memory_order_relaxed))) {
        sse_store_slow(c, o, linear, v);
        return;
    }
    uint64_t host = linear + e->addend;
    _mm_storeu_si128((__m128i *)(uintptr_t)host, v);
    atomic_signal_fence(memory_order_seq_cst); /* as in interp_store64 */
    if (DP_UNLIKELY(tag != atomic_load_explicit(&e->write_tag, memory_order_relaxed)))
        interp_store_raced(c, o, host, 16);
}
static inline uint64_t sse_load64(struct icpu *c, const struct iop *o) { return interp_load64(c, o, interp_linear(c, o, 8, false)); }
static inline uint32_t sse_load32(struct icpu *c, const struct iop *o) { return interp_load32(c, o, interp_linear(c, o, 4, false)); }
static inline uint16_t sse_load16(struct icpu *c, const struct iop *o) { return interp_load16(c, o, interp_linear(c, o, 2, false)); }

/* Source operands by width: A16 aligned, U16 not, then the low 8, 4 or 2 bytes with zeros above. */
#define SSE_LOAD_A16(c, o) sse_load(c, o, true)
#define SSE_LOAD_U16(c, o) sse_load(c, o, false)
#define SSE_LOAD_8(c, o) _mm_cvtsi64_si128((long long)sse_load64(c, o))
#define SSE_LOAD_4(c, o) _mm_cvtsi32_si128((int)sse_load32(c, o))
#define SSE_LOAD_2(c, o) _mm_cvtsi32_si128(sse_load16(c, o))

/* ---- handlers ---- */
#define SSE_HANDLER(name) static void name(struct icpu *c, const struct iop *o)
/* d = d op s and d = op s. volatile: MXCSR is an input and an output the compiler does not see. */
#define SSE_OP2(insn, d, s) __asm__ volatile(insn " %1, %0" : "+x"(d) : "x"(s))
#define SSE_OP1(insn, d, s) __asm__ volatile(insn " %1, %0" : "=x"(d) : "x"(s))

/* ---- SIMD exceptions ---- */
/* Runs an operation (a handler's work without the dispatch) while the guest has exceptions unmasked: raises #XM, nothing but the
 * flags changed, if one of those occurred. Operations that may be given to it change only XMM, MMX or general register o->a and the arithmetic flags. */
typedef void sse_work(struct icpu *c, const struct iop *o);
void sse_precise(struct icpu *c, const struct iop *o, sse_work *work) DP_COLD;

/* The handler over such work. */
#define SSE_FP_HANDLER(name)                                                                                                             \
    static inline void name##_work(struct icpu *c, const struct iop *o);                                                                 \
    static void name(struct icpu *c, const struct iop *o)                                                                                \
    {                                                                                                                                    \
        if (DP_UNLIKELY(c->xm_unmasked))                                                                                                 \
            sse_precise(c, o, name##_work);                                                                                              \
        else                                                                                                                             \
            name##_work(c, o);                                                                                                           \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static inline void name##_work(struct icpu *c, const struct iop *o)

/* ---- MXCSR ---- */
static inline uint32_t sse_host_mxcsr(void) { return _mm_getcsr(); }
static inline void sse_host_set_mxcsr(uint32_t v) { _mm_setcsr(v); }
#define MXCSR_FLAGS 0x3fu
#define MXCSR_MASKS 0x1f80u
#define MXCSR_VALID 0xffffu /* no misaligned-SSE mode: it is not advertised */
/* Makes v the guest's MXCSR: host register, s.mxcsr, c->xm_unmasked. */
void sse_set_mxcsr(struct icpu *c, uint32_t v);

#endif
