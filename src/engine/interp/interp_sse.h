/* engine/interp/interp_sse.h - what the SSE and MMX files share: register and operand access, the shape of handlers.
 *
 * Model: a guest instruction runs as the same host instruction, on copies of the guest's registers: results, NaNs and MXCSR flags are the
 * host's, hence exact. Lowering chooses a handler by operation and by operand form (struct sse_forms). MMX forms use the XMM
 * instruction on the low half of a register; where the two differ (packs, high unpacks, PSHUFB ...) the operands are arranged so that the
 * low half of the XMM result is the MMX result. Legacy encodings only, apart from avx.c: a host without AVX runs the models without it.
 * Invariants: what can fault comes before the first change of state. Handlers that can raise SIMD exceptions ask c->xm_unmasked and then
 * run under sse_precise(). Functions with inline calls rely on -mno-red-zone (meson.build).
 */
#ifndef DP_INTERP_SSE_H
#define DP_INTERP_SSE_H

#include <emmintrin.h>

#include "engine/interp/interp_x87.h"

/* Handlers of one operation: destination and source class (x XMM, m MMX), then r register or m memory. NULL: no such form. */
struct sse_forms {
    iop_fn *xr, *xm, *mr, *mm;
};

/* Per file: forms and operands for operations that are theirs, false for others. o->a and o->b are set already (see sse.c). */
bool sse_lower_int(const struct x86_insn *i, struct iop *o);
bool sse_lower_fp(const struct x86_insn *i, struct iop *o);
bool sse_lower_imm(const struct x86_insn *i, struct iop *o);
bool sse_lower_move(const struct x86_insn *i, struct iop *o);
/* fxstate.c: FXSAVE and XSAVE families, LDMXCSR, STMXCSR. */
bool sse_lower_state(struct icpu *c, const struct x86_insn *i, struct iop *o);

/* avx.c, avx_masked.c: everything VEX-encoded that the files above do not do. */
bool sse_lower_vex(struct icpu *c, const struct x86_insn *i, struct iop *o);
bool sse_lower_vex_masked(const struct x86_insn *i, struct iop *o, unsigned vvvv);

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
/* Of YMM registers. */
static inline __m128i sse_get_high(const struct icpu *c, unsigned n)
{
    return _mm_loadu_si128((const __m128i *)(const void *)(c->s.vec[n] + 16));
}
static inline void sse_put_high(struct icpu *c, unsigned n, __m128i v) { _mm_storeu_si128((__m128i *)(void *)(c->s.vec[n] + 16), v); }
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
        interp_x87_pending(c, o);
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

/* ---- memory, the long way: every check, any page; may fault ---- */
/* Misaligned operands are found before anything else. */
static inline uint64_t sse_linear(struct icpu *c, const struct iop *o, bool align, bool write)
{
    if (align && (interp_ea(c, o) + c->segbase[o->seg]) & 15)
        interp_fault_code(c, o, X86_GP, 0);
    return fpu_linear(c, o, 16, 16, write);
}
static inline __m128i sse_load(struct icpu *c, const struct iop *o, bool align)
{
    __m128i v;
    interp_load_bytes(c, o, sse_linear(c, o, align, false), &v, 16);
    return v;
}
static inline void sse_store(struct icpu *c, const struct iop *o, __m128i v, bool align)
{
    interp_store_bytes(c, o, sse_linear(c, o, align, true), &v, 16);
}
static inline uint64_t sse_load64(struct icpu *c, const struct iop *o) { return interp_load64(c, o, interp_linear(c, o, 8, false)); }
static inline uint32_t sse_load32(struct icpu *c, const struct iop *o) { return interp_load32(c, o, interp_linear(c, o, 4, false)); }
static inline uint16_t sse_load16(struct icpu *c, const struct iop *o) { return interp_load16(c, o, interp_linear(c, o, 2, false)); }

/* Source operands by width: A16 aligned, U16 not, then the low 8, 4 or 2 bytes with zeros above. LOAD is the long way, READ from a host
 * address. */
#define SSE_LOAD_A16(c, o) sse_load(c, o, true)
#define SSE_LOAD_U16(c, o) sse_load(c, o, false)
#define SSE_LOAD_8(c, o) _mm_cvtsi64_si128((long long)sse_load64(c, o))
#define SSE_LOAD_4(c, o) _mm_cvtsi32_si128((int)sse_load32(c, o))
#define SSE_LOAD_2(c, o) _mm_cvtsi32_si128(sse_load16(c, o))
#define SSE_READ_A16(p) _mm_loadu_si128((const __m128i *)(p))
#define SSE_READ_U16(p) _mm_loadu_si128((const __m128i *)(p))
#define SSE_READ_8(p) _mm_cvtsi64_si128((long long)dp_ld64(p))
#define SSE_READ_4(p) _mm_cvtsi32_si128((int)dp_ld32(p))
#define SSE_READ_2(p) _mm_cvtsi32_si128(dp_ld16(p))
#define SSE_BYTES_A16 16, true
#define SSE_BYTES_U16 16, false
#define SSE_BYTES_8 8, false
#define SSE_BYTES_4 4, false
#define SSE_BYTES_2 2, false

/* ---- handlers ----
 * An operation is an inline function of the source operand: void op(c, o, s). A memory form has a fast handler, which touches no stack, and
 * a slow twin for everything unusual (TLB miss, misalignment, segment checks, MMIO, pending or unmasked exceptions). */
#define SSE_HANDLER(name) static void name(struct icpu *c, const struct iop *o)
#define SSE_OPERATION(name) static inline __attribute__((always_inline)) void name(struct icpu *c, const struct iop *o, __m128i s)
/* d = d op s and d = op s. volatile: MXCSR is an input and an output the compiler does not see. */
#define SSE_OP2(insn, d, s) __asm__ volatile(insn " %1, %0" : "+x"(d) : "x"(s))
#define SSE_OP1(insn, d, s) __asm__ volatile(insn " %1, %0" : "=x"(d) : "x"(s))

#define SSE_FORM_R(name, operation, source)                                                                                                \
    SSE_HANDLER(name)                                                                                                                      \
    {                                                                                                                                      \
        operation(c, o, source);                                                                                                           \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
#define SSE_FORM_M(name, operation, width)                                                                                                 \
    FPU_COLD_HANDLER(name##_slow) { operation(c, o, SSE_LOAD_##width(c, o)); }                                                             \
    SSE_HANDLER(name)                                                                                                                      \
    {                                                                                                                                      \
        struct fpu_memory m;                                                                                                               \
        if (!fpu_fast_read(c, o, SSE_BYTES_##width, &m))                                                                                   \
            return name##_slow(c, o);                                                                                                      \
        operation(c, o, SSE_READ_##width(fpu_host(&m)));                                                                                   \
        INTERP_NEXT(c, o);                                                                                                                 \
    }

/* Stores of a value, 16, 8 or 4 bytes (o->size): the long way's expression uses v. */
#define SSE_FORM_STORE(name, type, value, bytes, align, long_way)                                                                          \
    FPU_COLD_HANDLER(name##_slow)                                                                                                          \
    {                                                                                                                                      \
        type v = value;                                                                                                                    \
        long_way;                                                                                                                          \
    }                                                                                                                                      \
    SSE_HANDLER(name)                                                                                                                      \
    {                                                                                                                                      \
        struct fpu_memory m;                                                                                                               \
        if (!fpu_fast_write(c, o, bytes, align, &m))                                                                                       \
            return name##_slow(c, o);                                                                                                      \
        type v = value;                                                                                                                    \
        memcpy(fpu_host(&m), &v, bytes);                                                                                                   \
        if (fpu_raced(&m))                                                                                                                 \
            return fpu_store_raced(c, o);                                                                                                  \
        INTERP_NEXT(c, o);                                                                                                                 \
    }

/* MMX: the same with the check for pending x87 exceptions and the change of the x87 state around. */
#define MMX_FORM_R(name, operation, source)                                                                                                \
    SSE_HANDLER(name)                                                                                                                      \
    {                                                                                                                                      \
        mmx_begin(c, o);                                                                                                                   \
        mmx_use(c);                                                                                                                        \
        operation(c, o, source);                                                                                                           \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
#define MMX_FORM_M(name, operation, width)                                                                                                 \
    FPU_COLD_HANDLER(name##_slow)                                                                                                          \
    {                                                                                                                                      \
        mmx_begin(c, o);                                                                                                                   \
        __m128i s = SSE_LOAD_##width(c, o);                                                                                                \
        mmx_use(c);                                                                                                                        \
        operation(c, o, s);                                                                                                                \
    }                                                                                                                                      \
    SSE_HANDLER(name)                                                                                                                      \
    {                                                                                                                                      \
        struct fpu_memory m;                                                                                                               \
        if (!fpu_fast_read(c, o, SSE_BYTES_##width, &m) || DP_UNLIKELY(c->s.fpu.fsw & X87_ES))                                             \
            return name##_slow(c, o);                                                                                                      \
        __m128i s = SSE_READ_##width(fpu_host(&m));                                                                                        \
        mmx_use(c);                                                                                                                        \
        operation(c, o, s);                                                                                                                \
        INTERP_NEXT(c, o);                                                                                                                 \
    }

/* ---- SIMD exceptions ---- */
/* Runs an operation (a handler's work without the dispatch) while the guest has exceptions unmasked: raises #XM, nothing but the
 * flags changed, if one of those occurred. Operations that may be given to it change only vector, MMX or general register o->a and the
 * arithmetic flags (and make the x87 state MMX's, which stays so). */
typedef void sse_work(struct icpu *c, const struct iop *o);
void sse_precise(struct icpu *c, const struct iop *o, sse_work *work) DP_COLD;

/* Handlers of operations that can raise them: the slow twin takes the precise way when need be. */
#define SSE_FP_SLOW(name, operation, source)                                                                                               \
    static DP_COLD void name##_do(struct icpu *c, const struct iop *o) { operation(c, o, source); }                                        \
    FPU_COLD_HANDLER(name##_slow)                                                                                                          \
    {                                                                                                                                      \
        if (c->xm_unmasked)                                                                                                                \
            sse_precise(c, o, name##_do);                                                                                                  \
        else                                                                                                                               \
            name##_do(c, o);                                                                                                               \
    }
#define SSE_FP_FORM_R(name, operation, source)                                                                                             \
    SSE_FP_SLOW(name, operation, source)                                                                                                   \
    SSE_HANDLER(name)                                                                                                                      \
    {                                                                                                                                      \
        if (DP_UNLIKELY(c->xm_unmasked))                                                                                                   \
            return name##_slow(c, o);                                                                                                      \
        operation(c, o, source);                                                                                                           \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
#define SSE_FP_FORM_M(name, operation, width) SSE_FP_FORM_M_AFTER(name, operation, width, (void)0)
/* first: what comes even before the load. */
#define SSE_FP_FORM_M_AFTER(name, operation, width, first)                                                                                 \
    SSE_FP_SLOW(name, operation, (first, SSE_LOAD_##width(c, o)))                                                                          \
    SSE_HANDLER(name)                                                                                                                      \
    {                                                                                                                                      \
        struct fpu_memory m;                                                                                                               \
        if (!fpu_fast_read(c, o, SSE_BYTES_##width, &m) || DP_UNLIKELY(c->xm_unmasked))                                                    \
            return name##_slow(c, o);                                                                                                      \
        operation(c, o, SSE_READ_##width(fpu_host(&m)));                                                                                   \
        INTERP_NEXT(c, o);                                                                                                                 \
    }

/* ---- MXCSR ---- */
static inline uint32_t sse_host_mxcsr(void) { return _mm_getcsr(); }
static inline void sse_host_set_mxcsr(uint32_t v) { _mm_setcsr(v); }
#define MXCSR_UE 0x10u
#define MXCSR_FLAGS 0x3fu
#define MXCSR_MASKS 0x1f80u
#define MXCSR_VALID 0xffffu /* no misaligned-SSE mode: it is not advertised */
/* Makes v the guest's MXCSR: host register, s.mxcsr, c->xm_unmasked. */
void sse_set_mxcsr(struct icpu *c, uint32_t v);

#endif
