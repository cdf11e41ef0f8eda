/* engine/interp/sse_fp.c - SSE arithmetic, conversions and comparisons: what can raise SIMD floating-point exceptions.
 *
 * Model: see interp_sse.h. The host's MXCSR holds the guest's rounding, FZ and DAZ with every exception masked, so the flags collect where
 * the guest expects them. If the guest unmasks some, sse_precise runs the same work and looks at the flags before it lets the result stand.
 * Source: Intel SDM vol. 1 ch. 11.5 (exceptions: priority, which flags when), vol. 2.
 */
#include "engine/interp/interp_sse.h"

/* ---- arithmetic: destination, source -> destination ---- */
/* clang-format off */
#define BINARY_OPS(X)                                                                                                                    \
    X(ADDPS, "addps", A16) X(ADDPD, "addpd", A16) X(ADDSS, "addss", 4) X(ADDSD, "addsd", 8)                                              \
    X(SUBPS, "subps", A16) X(SUBPD, "subpd", A16) X(SUBSS, "subss", 4) X(SUBSD, "subsd", 8)                                              \
    X(MULPS, "mulps", A16) X(MULPD, "mulpd", A16) X(MULSS, "mulss", 4) X(MULSD, "mulsd", 8)                                              \
    X(DIVPS, "divps", A16) X(DIVPD, "divpd", A16) X(DIVSS, "divss", 4) X(DIVSD, "divsd", 8)                                              \
    X(MINPS, "minps", A16) X(MINPD, "minpd", A16) X(MINSS, "minss", 4) X(MINSD, "minsd", 8)                                              \
    X(MAXPS, "maxps", A16) X(MAXPD, "maxpd", A16) X(MAXSS, "maxss", 4) X(MAXSD, "maxsd", 8)                                              \
    X(SQRTSS, "sqrtss", 4) X(SQRTSD, "sqrtsd", 8) X(CVTSS2SD, "cvtss2sd", 4) X(CVTSD2SS, "cvtsd2ss", 8)                                  \
    X(ADDSUBPS, "addsubps", A16) X(ADDSUBPD, "addsubpd", A16) X(HADDPS, "haddps", A16) X(HADDPD, "haddpd", A16)                          \
    X(HSUBPS, "hsubps", A16) X(HSUBPD, "hsubpd", A16)
#define UNARY_OPS(X)                                                                                                                     \
    X(SQRTPS, "sqrtps", A16) X(SQRTPD, "sqrtpd", A16) X(CVTPS2PD, "cvtps2pd", 8) X(CVTPD2PS, "cvtpd2ps", A16)                            \
    X(CVTDQ2PS, "cvtdq2ps", A16) X(CVTPS2DQ, "cvtps2dq", A16) X(CVTTPS2DQ, "cvttps2dq", A16)                                             \
    X(CVTDQ2PD, "cvtdq2pd", 8) X(CVTPD2DQ, "cvtpd2dq", A16) X(CVTTPD2DQ, "cvttpd2dq", A16)
/* clang-format on */

#define FP_FORMS(name, width, op)                                                                                                          \
    SSE_OPERATION(name##_xmm)                                                                                                              \
    {                                                                                                                                      \
        __m128i d = sse_get(c, o->a);                                                                                                      \
        op;                                                                                                                                \
        sse_put(c, o->a, d);                                                                                                               \
    }                                                                                                                                      \
    SSE_FP_FORM_R(name##_xr, name##_xmm, sse_get(c, o->b))                                                                                 \
    SSE_FP_FORM_M(name##_xm, name##_xmm, width)
#define BINARY(name, insn, width) FP_FORMS(name, width, SSE_OP2(insn, d, s))
#define UNARY(name, insn, width) FP_FORMS(name, width, SSE_OP1(insn, d, s))
BINARY_OPS(BINARY)
UNARY_OPS(UNARY)

/* ---- comparisons into the flags ---- */
#define COMPARE_OPS(X) X(COMISS, "comiss", 4) X(COMISD, "comisd", 8) X(UCOMISS, "ucomiss", 4) X(UCOMISD, "ucomisd", 8)
#define COMPARE(name, insn, width)                                                                                                         \
    SSE_OPERATION(name##_xmm)                                                                                                              \
    {                                                                                                                                      \
        unsigned zf, pf, cf;                                                                                                               \
        __asm__ volatile(insn " %4, %3" : "=@ccz"(zf), "=@ccp"(pf), "=@ccc"(cf) : "x"(sse_get(c, o->a)), "x"(s));                          \
        c->lf_result = !zf; /* OF, SF, AF are cleared; lf_aux as interp_set_arith would */                                                 \
        c->lf_aux = cf << 31 | cf << 30 | (pf ^ zf) << 8;                                                                                  \
    }                                                                                                                                      \
    SSE_FP_FORM_R(name##_xr, name##_xmm, sse_get(c, o->b))                                                                                 \
    SSE_FP_FORM_M(name##_xm, name##_xmm, width)
COMPARE_OPS(COMPARE)

/* ---- conversions from and to general registers ---- */
#define FROM_GPR_OPS(X) X(CVTSI2SS, "cvtsi2ss") X(CVTSI2SD, "cvtsi2sd")
#define FROM_GPR_SIZE(name, insn, bits, width)                                                                                             \
    SSE_OPERATION(name##_##bits)                                                                                                           \
    {                                                                                                                                      \
        __m128i d = sse_get(c, o->a);                                                                                                      \
        __asm__ volatile(insn " %1, %0" : "+x"(d) : "r"((uint##bits##_t)_mm_cvtsi128_si64(s)));                                            \
        sse_put(c, o->a, d);                                                                                                               \
    }                                                                                                                                      \
    SSE_FP_FORM_R(name##_r##bits, name##_##bits, _mm_cvtsi64_si128((long long)c->s.r[o->b]))                                               \
    SSE_FP_FORM_M(name##_m##bits, name##_##bits, width)
#define FROM_GPR(name, insn) FROM_GPR_SIZE(name, insn "l", 32, 4) FROM_GPR_SIZE(name, insn "q", 64, 8)
FROM_GPR_OPS(FROM_GPR)

/* clang-format off */
#define TO_GPR_OPS(X)                                                                                                                    \
    X(CVTSS2SI, "cvtss2si", 4) X(CVTTSS2SI, "cvttss2si", 4) X(CVTSD2SI, "cvtsd2si", 8) X(CVTTSD2SI, "cvttsd2si", 8)
/* clang-format on */
#define TO_GPR_SIZE(name, insn, bits, width)                                                                                               \
    SSE_OPERATION(name##_##bits)                                                                                                           \
    {                                                                                                                                      \
        uint##bits##_t d;                                                                                                                  \
        __asm__ volatile(insn " %1, %0" : "=r"(d) : "x"(s));                                                                               \
        c->s.r[o->a] = d;                                                                                                                  \
    }                                                                                                                                      \
    SSE_FP_FORM_R(name##_r##bits, name##_##bits, sse_get(c, o->b))                                                                         \
    SSE_FP_FORM_M(name##_m##bits, name##_##bits, width)
#define TO_GPR(name, insn, width) TO_GPR_SIZE(name, insn, 32, width) TO_GPR_SIZE(name, insn, 64, width)
TO_GPR_OPS(TO_GPR)

/* ---- conversions from and to MMX: by the packed XMM conversion of two elements, the others being zero (which converts exactly) ----
 * From memory CVTPI2PS and CVTPI2PD leave the x87 state alone. */
SSE_OPERATION(CVTPI2PS_xmm)
{
    __m128i t;
    SSE_OP1("cvtdq2ps", t, s);
    sse_put64(c, o->a, (uint64_t)_mm_cvtsi128_si64(t));
}
SSE_OPERATION(CVTPI2PD_xmm)
{
    __m128i t;
    SSE_OP1("cvtdq2pd", t, s);
    sse_put(c, o->a, t);
}
static inline __m128i mmx_source(struct icpu *c, const struct iop *o)
{
    mmx_begin(c, o);
    mmx_use(c);
    return mmx_get(c, o->b);
}
SSE_FP_FORM_R(CVTPI2PS_xr, CVTPI2PS_xmm, mmx_source(c, o))
SSE_FP_FORM_M(CVTPI2PS_xm, CVTPI2PS_xmm, 8)
SSE_FP_FORM_R(CVTPI2PD_xr, CVTPI2PD_xmm, mmx_source(c, o))
SSE_FP_FORM_M(CVTPI2PD_xm, CVTPI2PD_xmm, 8)

/* clang-format off */
#define TO_MMX_OPS(X)                                                                                                                    \
    X(CVTPS2PI, "cvtps2dq", sse_get_low(c, o->b), 8) X(CVTTPS2PI, "cvttps2dq", sse_get_low(c, o->b), 8)                                  \
    X(CVTPD2PI, "cvtpd2dq", sse_get(c, o->b), A16) X(CVTTPD2PI, "cvttpd2dq", sse_get(c, o->b), A16)
/* clang-format on */
#define TO_MMX(name, insn, source, width)                                                                                                  \
    SSE_OPERATION(name##_mmx)                                                                                                              \
    {                                                                                                                                      \
        __m128i d;                                                                                                                         \
        mmx_begin(c, o);                                                                                                                   \
        mmx_use(c);                                                                                                                        \
        SSE_OP1(insn, d, s);                                                                                                               \
        mmx_put(c, o->a, d);                                                                                                               \
    }                                                                                                                                      \
    SSE_FP_FORM_R(name##_mr, name##_mmx, source)                                                                                           \
    SSE_FP_FORM_M_AFTER(name##_mm, name##_mmx, width, mmx_begin(c, o))
TO_MMX_OPS(TO_MMX)

/* ---- unmasked exceptions ---- */
enum { XF_I = 1, XF_D = 2, XF_Z = 4, XF_O = 8, XF_U = 16, XF_P = 32, XF_PRE = XF_I | XF_D | XF_Z, MXCSR_FZ = 1 << 15 };

/* Whatever o->a may name: work changes just one of these. */
struct undo {
    __m128i low, high, mmx;
    uint64_t gpr, lf_result;
    uint32_t lf_aux;
};
static void undo_take(const struct icpu *c, unsigned a, struct undo *u)
{
    *u = (struct undo){sse_get(c, a & 15), sse_get_high(c, a & 15), _mm_loadu_si128((const __m128i *)(const void *)c->s.fpu.st[a & 7]),
                       c->s.r[a & 15], c->lf_result, c->lf_aux};
}
static void undo_apply(struct icpu *c, unsigned a, const struct undo *u)
{
    sse_put(c, a & 15, u->low);
    sse_put_high(c, a & 15, u->high);
    c->s.r[a & 15] = u->gpr;
    c->lf_result = u->lf_result;
    c->lf_aux = u->lf_aux;
    _mm_storeu_si128((__m128i *)(void *)c->s.fpu.st[a & 7], u->mmx);
}

void sse_precise(struct icpu *c, const struct iop *o, sse_work *work)
{
    struct undo before, after;
    undo_take(c, o->a, &before);
    interp_fpu_save(c); /* the flags so far are safe in s.mxcsr if work faults */
    uint32_t mxcsr = c->s.mxcsr, masks = mxcsr >> 7 & MXCSR_FLAGS;
    sse_host_set_mxcsr((mxcsr & ~MXCSR_FLAGS) | MXCSR_MASKS);
    work(c, o);
    uint32_t flags = sse_host_mxcsr() & MXCSR_FLAGS;
    /* An unmasked underflow is a tiny result, exact or not; a masked one must be inexact too. Flushing to zero reports all tiny ones. */
    if (!(masks & XF_U)) {
        undo_take(c, o->a, &after);
        undo_apply(c, o->a, &before);
        sse_host_set_mxcsr((mxcsr & ~MXCSR_FLAGS) | MXCSR_MASKS | MXCSR_FZ);
        work(c, o);
        flags |= sse_host_mxcsr() & XF_U;
        undo_apply(c, o->a, &after);
    }
    /* One thing is not exact: with an unmasked overflow or underflow, hardware sets P only if the result is inexact even with an unbounded
     * exponent; here P is that of the masked response. */
    uint32_t raised = flags & ~masks;
    if (raised & XF_PRE)
        flags &= XF_PRE; /* found before computing: nothing was computed that could overflow or round */
    c->s.mxcsr = mxcsr | flags;
    sse_host_set_mxcsr(c->s.mxcsr | MXCSR_MASKS);
    if (DP_LIKELY(!raised))
        return;
    undo_apply(c, o->a, &before);
    interp_fault(c, o, c->s.cr4 & X86_CR4_OSXMMEXCPT ? X86_XM : X86_UD);
}

/* ---- lowering ---- */
#define FORMS_XMM(name, ...) static const struct sse_forms name##_forms = {name##_xr, name##_xm, NULL, NULL};
#define FORMS_MMX(name, ...) static const struct sse_forms name##_forms = {NULL, NULL, name##_mr, name##_mm};
#define FORMS_GPR(name, ...) static const struct sse_forms name##_forms[2] = {{name##_r32, name##_m32}, {name##_r64, name##_m64}};
BINARY_OPS(FORMS_XMM)
UNARY_OPS(FORMS_XMM)
COMPARE_OPS(FORMS_XMM)
TO_MMX_OPS(FORMS_MMX)
FORMS_XMM(CVTPI2PS)
FORMS_XMM(CVTPI2PD)
FROM_GPR_OPS(FORMS_GPR)
TO_GPR_OPS(FORMS_GPR)

#define CASE(name, ...)                                                                                                                    \
    case X86_OP_##name:                                                                                                                    \
        return sse_pick(i, o, &name##_forms);
#define CASE_FROM_GPR(name, ...)                                                                                                           \
    case X86_OP_##name:                                                                                                                    \
        return sse_pick(i, o, &name##_forms[i->operand[1].size == 8]);
#define CASE_TO_GPR(name, ...)                                                                                                             \
    case X86_OP_##name:                                                                                                                    \
        return sse_pick(i, o, &name##_forms[i->operand[0].size == 8]);

bool sse_lower_fp(const struct x86_insn *i, struct iop *o)
{
    switch (i->op) {
        /* clang-format off */
        BINARY_OPS(CASE)
        UNARY_OPS(CASE)
        COMPARE_OPS(CASE)
        TO_MMX_OPS(CASE)
        CASE(CVTPI2PS)
        CASE(CVTPI2PD)
        FROM_GPR_OPS(CASE_FROM_GPR)
        TO_GPR_OPS(CASE_TO_GPR)
        /* clang-format on */
    default:
        return false;
    }
}
