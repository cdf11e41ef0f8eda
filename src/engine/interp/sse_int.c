/* engine/interp/sse_int.c - packed integer instructions, MMX and XMM, and the bitwise and shuffling float ones: all that cannot raise SIMD
 * exceptions and has no immediate (shifts excepted).
 *
 * Model: see interp_sse.h. The lists below name each operation once, by how its MMX form comes out of the XMM instruction.
 * Source: Intel SDM vol. 2. PUNPCKL's MMX form reads 4 bytes of memory.
 */
#include "engine/interp/interp_sse.h"

/* The low half of the XMM result is the MMX result. */
/* clang-format off */
#define PLAIN_OPS(X)                                                                                                                     \
    X(PADDB, "paddb") X(PADDW, "paddw") X(PADDD, "paddd") X(PADDQ, "paddq") X(PADDSB, "paddsb") X(PADDSW, "paddsw")                      \
    X(PADDUSB, "paddusb") X(PADDUSW, "paddusw") X(PSUBB, "psubb") X(PSUBW, "psubw") X(PSUBD, "psubd") X(PSUBQ, "psubq")                  \
    X(PSUBSB, "psubsb") X(PSUBSW, "psubsw") X(PSUBUSB, "psubusb") X(PSUBUSW, "psubusw")                                                  \
    X(PAND, "pand") X(PANDN, "pandn") X(POR, "por") X(PXOR, "pxor")                                                                      \
    X(PCMPEQB, "pcmpeqb") X(PCMPEQW, "pcmpeqw") X(PCMPEQD, "pcmpeqd") X(PCMPGTB, "pcmpgtb") X(PCMPGTW, "pcmpgtw") X(PCMPGTD, "pcmpgtd")  \
    X(PMADDWD, "pmaddwd") X(PMULHW, "pmulhw") X(PMULHUW, "pmulhuw") X(PMULLW, "pmullw") X(PMULUDQ, "pmuludq")                            \
    X(PAVGB, "pavgb") X(PAVGW, "pavgw") X(PSADBW, "psadbw")                                                                              \
    X(PMAXSW, "pmaxsw") X(PMAXUB, "pmaxub") X(PMINSW, "pminsw") X(PMINUB, "pminub")                                                      \
    X(PMADDUBSW, "pmaddubsw") X(PSIGNB, "psignb") X(PSIGNW, "psignw") X(PSIGND, "psignd") X(PMULHRSW, "pmulhrsw")
/* clang-format on */

/* Results of the destination below, of the source above: the MMX form takes source:destination as one operand. */
/* clang-format off */
#define CONCAT_OPS(X)                                                                                                                    \
    X(PACKSSWB, "packsswb") X(PACKSSDW, "packssdw") X(PACKUSWB, "packuswb")                                                              \
    X(PHADDW, "phaddw") X(PHADDD, "phaddd") X(PHADDSW, "phaddsw") X(PHSUBW, "phsubw") X(PHSUBD, "phsubd") X(PHSUBSW, "phsubsw")
/* clang-format on */

/* Interleaves: name, XMM instruction, low instruction (whose high half is the MMX high form). */
/* clang-format off */
#define UNPACK_HIGH_OPS(X)                                                                                                               \
    X(PUNPCKHBW, "punpckhbw", "punpcklbw") X(PUNPCKHWD, "punpckhwd", "punpcklwd") X(PUNPCKHDQ, "punpckhdq", "punpckldq")
/* clang-format on */
#define UNPACK_LOW_OPS(X) X(PUNPCKLBW, "punpcklbw") X(PUNPCKLWD, "punpcklwd") X(PUNPCKLDQ, "punpckldq")

/* clang-format off */
#define XMM_OPS(X)                                                                                                                       \
    X(PUNPCKHQDQ, "punpckhqdq") X(PUNPCKLQDQ, "punpcklqdq")                                                                              \
    X(ANDPS, "andps") X(ANDPD, "andpd") X(ANDNPS, "andnps") X(ANDNPD, "andnpd") X(ORPS, "orps") X(ORPD, "orpd")                          \
    X(XORPS, "xorps") X(XORPD, "xorpd")                                                                                                  \
    X(UNPCKLPS, "unpcklps") X(UNPCKLPD, "unpcklpd") X(UNPCKHPS, "unpckhps") X(UNPCKHPD, "unpckhpd")                                      \
    X(PMULDQ, "pmuldq") X(PMULLD, "pmulld") X(PCMPEQQ, "pcmpeqq") X(PCMPGTQ, "pcmpgtq") X(PACKUSDW, "packusdw")                          \
    X(PMINSB, "pminsb") X(PMINSD, "pminsd") X(PMINUW, "pminuw") X(PMINUD, "pminud")                                                      \
    X(PMAXSB, "pmaxsb") X(PMAXSD, "pmaxsd") X(PMAXUW, "pmaxuw") X(PMAXUD, "pmaxud")                                                      \
    X(AESENC, "aesenc") X(AESENCLAST, "aesenclast") X(AESDEC, "aesdec") X(AESDECLAST, "aesdeclast")                                      \
    X(SHA1NEXTE, "sha1nexte") X(SHA1MSG1, "sha1msg1") X(SHA1MSG2, "sha1msg2")                                                            \
    X(SHA256MSG1, "sha256msg1") X(SHA256MSG2, "sha256msg2")
/* clang-format on */

/* XMM0 is the third operand. */
/* clang-format off */
#define XMM0_OPS(X)                                                                                                                      \
    X(PBLENDVB, "pblendvb") X(BLENDVPS, "blendvps") X(BLENDVPD, "blendvpd") X(SHA256RNDS2, "sha256rnds2")
/* clang-format on */

/* destination = op(source), by width of the memory operand. */
/* clang-format off */
#define UNARY_OPS(X)                                                                                                                     \
    X(PHMINPOSUW, "phminposuw", A16) X(AESIMC, "aesimc", A16) X(MOVSHDUP, "movshdup", A16) X(MOVSLDUP, "movsldup", A16)                  \
    X(MOVDDUP, "movddup", 8) X(RCPPS, "rcpps", A16) X(RSQRTPS, "rsqrtps", A16)                                                           \
    X(PMOVSXBW, "pmovsxbw", 8) X(PMOVSXBD, "pmovsxbd", 4) X(PMOVSXBQ, "pmovsxbq", 2)                                                     \
    X(PMOVSXWD, "pmovsxwd", 8) X(PMOVSXWQ, "pmovsxwq", 4) X(PMOVSXDQ, "pmovsxdq", 8)                                                     \
    X(PMOVZXBW, "pmovzxbw", 8) X(PMOVZXBD, "pmovzxbd", 4) X(PMOVZXBQ, "pmovzxbq", 2)                                                     \
    X(PMOVZXWD, "pmovzxwd", 8) X(PMOVZXWQ, "pmovzxwq", 4) X(PMOVZXDQ, "pmovzxdq", 8)
/* clang-format on */
#define UNARY_BOTH_OPS(X) X(PABSB, "pabsb") X(PABSW, "pabsw") X(PABSD, "pabsd")

/* The low float only, approximate: no exceptions. */
#define SCALAR_OPS(X) X(RCPSS, "rcpss") X(RSQRTSS, "rsqrtss")

/* clang-format off */
#define SHIFT_OPS(X)                                                                                                                     \
    X(PSLLW, "psllw") X(PSLLD, "pslld") X(PSLLQ, "psllq") X(PSRAW, "psraw") X(PSRAD, "psrad")                                            \
    X(PSRLW, "psrlw") X(PSRLD, "psrld") X(PSRLQ, "psrlq")
/* clang-format on */

/* ---- XMM forms ---- */
#define XMM_OPERATION(name, op)                                                                                                            \
    SSE_OPERATION(name##_xmm)                                                                                                              \
    {                                                                                                                                      \
        __m128i d = sse_get(c, o->a);                                                                                                      \
        op;                                                                                                                                \
        sse_put(c, o->a, d);                                                                                                               \
    }
#define XMM_FORMS(name, width, op)                                                                                                         \
    XMM_OPERATION(name, op)                                                                                                                \
    SSE_FORM_R(name##_xr, name##_xmm, sse_get(c, o->b))                                                                                    \
    SSE_FORM_M(name##_xm, name##_xmm, width)
#define WITH_XMM0(insn, d, s) __asm__ volatile(insn " %%xmm0, %1, %0" : "+x"(d) : "x"(s), "Yz"(mask))

#define XMM_BINARY(name, insn) XMM_FORMS(name, A16, SSE_OP2(insn, d, s))
#define XMM_SCALAR(name, insn) XMM_FORMS(name, 4, SSE_OP2(insn, d, s))
#define XMM_UNARY(name, insn, width) XMM_FORMS(name, width, SSE_OP1(insn, d, s))
#define XMM_UNARY_A16(name, insn) XMM_UNARY(name, insn, A16)
#define XMM_XMM0(name, insn) XMM_FORMS(name, A16, __m128i mask = sse_get(c, 0); WITH_XMM0(insn, d, s))
#define XMM_UNPACK_HIGH(name, insn, low) XMM_BINARY(name, insn)

PLAIN_OPS(XMM_BINARY)
CONCAT_OPS(XMM_BINARY)
UNPACK_HIGH_OPS(XMM_UNPACK_HIGH)
UNPACK_LOW_OPS(XMM_BINARY)
XMM_OPS(XMM_BINARY)
SHIFT_OPS(XMM_BINARY)
SCALAR_OPS(XMM_SCALAR)
UNARY_OPS(XMM_UNARY)
UNARY_BOTH_OPS(XMM_UNARY_A16)
XMM0_OPS(XMM_XMM0)
XMM_BINARY(PSHUFB, "pshufb")

/* ---- MMX forms ---- */
#define MMX_FORMS(name, width, op)                                                                                                         \
    SSE_OPERATION(name##_mmx)                                                                                                              \
    {                                                                                                                                      \
        __m128i d = mmx_get(c, o->a);                                                                                                      \
        op;                                                                                                                                \
        mmx_put(c, o->a, d);                                                                                                               \
    }                                                                                                                                      \
    MMX_FORM_R(name##_mr, name##_mmx, mmx_get(c, o->b))                                                                                    \
    MMX_FORM_M(name##_mm, name##_mmx, width)
#define MMX_PLAIN(name, insn) MMX_FORMS(name, 8, SSE_OP2(insn, d, s))
#define MMX_CONCAT(name, insn) MMX_FORMS(name, 8, d = _mm_unpacklo_epi64(d, s); SSE_OP2(insn, d, d))
#define MMX_UNPACK_HIGH(name, insn, low) MMX_FORMS(name, 8, SSE_OP2(low, d, s); d = _mm_srli_si128(d, 8))
#define MMX_UNPACK_LOW(name, insn) MMX_FORMS(name, 4, SSE_OP2(insn, d, s))
#define MMX_UNARY(name, insn) MMX_FORMS(name, 8, SSE_OP1(insn, d, s))

PLAIN_OPS(MMX_PLAIN)
CONCAT_OPS(MMX_CONCAT)
UNPACK_HIGH_OPS(MMX_UNPACK_HIGH)
UNPACK_LOW_OPS(MMX_UNPACK_LOW)
SHIFT_OPS(MMX_PLAIN)
UNARY_BOTH_OPS(MMX_UNARY)
/* Indexes are 3 bits wide in the MMX form, 4 in the other. */
MMX_FORMS(PSHUFB, 8, s = _mm_and_si128(s, _mm_set1_epi8((char)0x87)); SSE_OP2("pshufb", d, s))

/* ---- shifts by an immediate: the count is a register operand on the host ---- */
#define SHIFT_COUNT _mm_cvtsi32_si128((int)o->imm)
#define SHIFT_IMMEDIATE(name, insn)                                                                                                        \
    SSE_FORM_R(name##_xi, name##_xmm, SHIFT_COUNT)                                                                                         \
    MMX_FORM_R(name##_mi, name##_mmx, SHIFT_COUNT)
SHIFT_OPS(SHIFT_IMMEDIATE)

/* ---- PTEST ---- */
SSE_OPERATION(PTEST_xmm)
{
    bool zf, cf;
    __asm__("ptest %3, %2" : "=@ccz"(zf), "=@ccc"(cf) : "x"(sse_get(c, o->a)), "x"(s));
    interp_set_arith(c, (zf ? X86_ZF : 0) | (cf ? X86_CF : 0));
}
SSE_FORM_R(PTEST_xr, PTEST_xmm, sse_get(c, o->b))
SSE_FORM_M(PTEST_xm, PTEST_xmm, A16)

/* ---- lowering ---- */
#define FORMS_BOTH(name, ...) static const struct sse_forms name##_forms = {name##_xr, name##_xm, name##_mr, name##_mm};
#define FORMS_XMM(name, ...) static const struct sse_forms name##_forms = {name##_xr, name##_xm, NULL, NULL};
PLAIN_OPS(FORMS_BOTH)
CONCAT_OPS(FORMS_BOTH)
UNPACK_HIGH_OPS(FORMS_BOTH)
UNPACK_LOW_OPS(FORMS_BOTH)
SHIFT_OPS(FORMS_BOTH)
UNARY_BOTH_OPS(FORMS_BOTH)
FORMS_BOTH(PSHUFB)
XMM_OPS(FORMS_XMM)
SCALAR_OPS(FORMS_XMM)
UNARY_OPS(FORMS_XMM)
XMM0_OPS(FORMS_XMM)
FORMS_XMM(PTEST)

#define CASE(name, ...)                                                                                                                    \
    case X86_OP_##name:                                                                                                                    \
        return sse_pick(i, o, &name##_forms);
#define CASE_SHIFT(name, ...)                                                                                                              \
    case X86_OP_##name:                                                                                                                    \
        if (i->operand[1].kind != X86_IMM)                                                                                                 \
            return sse_pick(i, o, &name##_forms);                                                                                          \
        o->imm = i->imm & 0xff;                                                                                                            \
        o->fn = i->operand[0].reg_class == X86_RC_MMX ? name##_mi : name##_xi;                                                             \
        return true;

bool sse_lower_int(const struct x86_insn *i, struct iop *o)
{
    switch (i->op) {
        /* clang-format off */
        PLAIN_OPS(CASE)
        CONCAT_OPS(CASE)
        UNPACK_HIGH_OPS(CASE)
        UNPACK_LOW_OPS(CASE)
        XMM_OPS(CASE)
        SCALAR_OPS(CASE)
        UNARY_OPS(CASE)
        UNARY_BOTH_OPS(CASE)
        XMM0_OPS(CASE)
        CASE(PSHUFB)
        CASE(PTEST)
        SHIFT_OPS(CASE_SHIFT)
        /* clang-format on */
    default:
        return false;
    }
}
