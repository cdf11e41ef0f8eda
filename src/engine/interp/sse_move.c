/* engine/interp/sse_move.c - SSE and MMX moves: loads, stores, register copies, masks into general registers.
 *
 * Model: see interp_sse.h. Stores are told from loads by operand[0]; a is always the register the instruction writes or, for stores, b the
 * one it reads. Non-temporal hints are plain accesses here.
 * Source: Intel SDM vol. 2.
 */
#include "engine/interp/interp_sse.h"

/* ---- whole registers ---- */
SSE_OPERATION(put128) { sse_put(c, o->a, s); }
SSE_FORM_R(copy128, put128, sse_get(c, o->b))
SSE_FORM_M(load_aligned, put128, A16)
SSE_FORM_M(load_unaligned, put128, U16)
SSE_FORM_STORE(store_aligned, __m128i, sse_get(c, o->b), 16, true, sse_store(c, o, v, true))
SSE_FORM_STORE(store_unaligned, __m128i, sse_get(c, o->b), 16, false, sse_store(c, o, v, false))

/* ---- 4 and 8 bytes; "zero" clears the rest of the register, the others keep it. ---- */
static inline uint64_t low_half(__m128i s) { return (uint64_t)_mm_cvtsi128_si64(s); }
SSE_OPERATION(put_low) { sse_put64(c, o->a, low_half(s)); }
SSE_OPERATION(put_high) { dp_st64(c->s.vec[o->a] + 8, low_half(s)); }
SSE_FORM_R(copy64_zero, put128, sse_get_low(c, o->b))
SSE_FORM_M(load32_zero, put128, 4)
SSE_FORM_M(load64_zero, put128, 8)
SSE_FORM_M(load_low, put_low, 8)
SSE_FORM_M(load_high, put_high, 8)
#define STORE32(v) interp_store32(c, o, interp_linear(c, o, 4, true), v)
#define STORE64(v) interp_store64(c, o, interp_linear(c, o, 8, true), v)
SSE_FORM_STORE(store32, uint32_t, sse_get32(c, o->b), 4, false, STORE32(v))
SSE_FORM_STORE(store64, uint64_t, sse_get64(c, o->b), 8, false, STORE64(v))
SSE_FORM_STORE(store_high, uint64_t, dp_ld64(c->s.vec[o->b] + 8), 8, false, STORE64(v))
SSE_HANDLER(merge32)
{
    sse_put32(c, o->a, sse_get32(c, o->b));
    INTERP_NEXT(c, o);
}
SSE_HANDLER(merge64)
{
    sse_put64(c, o->a, sse_get64(c, o->b));
    INTERP_NEXT(c, o);
}
SSE_HANDLER(high_to_low)
{
    sse_put64(c, o->a, dp_ld64(c->s.vec[o->b] + 8));
    INTERP_NEXT(c, o);
}
SSE_HANDLER(low_to_high)
{
    dp_st64(c->s.vec[o->a] + 8, sse_get64(c, o->b));
    INTERP_NEXT(c, o);
}

/* ---- general registers ---- */
SSE_HANDLER(gpr32_to_xmm)
{
    sse_put(c, o->a, _mm_cvtsi32_si128((int)c->s.r[o->b]));
    INTERP_NEXT(c, o);
}
SSE_HANDLER(gpr64_to_xmm)
{
    sse_put(c, o->a, _mm_cvtsi64_si128((long long)c->s.r[o->b]));
    INTERP_NEXT(c, o);
}
SSE_HANDLER(xmm_to_gpr32)
{
    c->s.r[o->a] = sse_get32(c, o->b);
    INTERP_NEXT(c, o);
}
SSE_HANDLER(xmm_to_gpr64)
{
    c->s.r[o->a] = sse_get64(c, o->b);
    INTERP_NEXT(c, o);
}
SSE_HANDLER(movmskps)
{
    c->s.r[o->a] = (unsigned)_mm_movemask_ps(_mm_castsi128_ps(sse_get(c, o->b)));
    INTERP_NEXT(c, o);
}
SSE_HANDLER(movmskpd)
{
    c->s.r[o->a] = (unsigned)_mm_movemask_pd(_mm_castsi128_pd(sse_get(c, o->b)));
    INTERP_NEXT(c, o);
}
SSE_HANDLER(pmovmskb)
{
    c->s.r[o->a] = (unsigned)_mm_movemask_epi8(sse_get(c, o->b));
    INTERP_NEXT(c, o);
}

/* ---- MMX ---- */
SSE_OPERATION(mmx_put_source) { mmx_put(c, o->a, s); }
MMX_FORM_R(mmx_copy, mmx_put_source, mmx_get(c, o->b))
MMX_FORM_M(mmx_load64, mmx_put_source, 8)
MMX_FORM_M(mmx_load32, mmx_put_source, 4)
MMX_FORM_R(mmx_from_gpr64, mmx_put_source, _mm_cvtsi64_si128((long long)c->s.r[o->b]))
MMX_FORM_R(mmx_from_gpr32, mmx_put_source, _mm_cvtsi32_si128((int)c->s.r[o->b]))
MMX_FORM_R(movdq2q, mmx_put_source, sse_get_low(c, o->b))
#define MMX_READ(name, op)                                                                                                                 \
    SSE_HANDLER(name)                                                                                                                      \
    {                                                                                                                                      \
        mmx_begin(c, o);                                                                                                                   \
        op;                                                                                                                                \
        mmx_use(c);                                                                                                                        \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
MMX_READ(mmx_store64, STORE64(mmx_get64(c, o->b)))
MMX_READ(mmx_store32, STORE32((uint32_t)mmx_get64(c, o->b)))
MMX_READ(mmx_to_gpr64, c->s.r[o->a] = mmx_get64(c, o->b))
MMX_READ(mmx_to_gpr32, c->s.r[o->a] = (uint32_t)mmx_get64(c, o->b))
MMX_READ(movq2dq, sse_put(c, o->a, mmx_get(c, o->b)))
MMX_READ(mmx_pmovmskb, c->s.r[o->a] = (unsigned)_mm_movemask_epi8(mmx_get(c, o->b)) & 0xff)

SSE_HANDLER(emms)
{
    mmx_begin(c, o);
    c->s.fpu.fsw &= (uint16_t)~X87_TOP;
    c->s.fpu.ftw = 0;
    INTERP_NEXT(c, o);
}

/* ---- masked stores to [rDI]: only the bytes whose mask has the sign set, but (AMD) all must be writable ---- */
static void store_masked(struct icpu *c, const struct iop *o, const uint8_t *data, unsigned selected, unsigned size)
{
    uint64_t linear = fpu_linear_series(c, o, &(struct fpu_series){size, 8, size, 0, true, FPU_FIRST_THEN_PAGE});
    for (unsigned k = 0; k < size; k++)
        if (selected >> k & 1)
            interp_store8(c, o, linear + k, data[k]);
}
SSE_HANDLER(maskmovdqu)
{
    store_masked(c, o, c->s.vec[o->a], (unsigned)_mm_movemask_epi8(sse_get(c, o->b)), 16);
    INTERP_NEXT(c, o);
}
SSE_HANDLER(maskmovq)
{
    mmx_begin(c, o);
    mmx_use(c); /* even if it faults then */
    store_masked(c, o, c->s.fpu.st[o->a], (unsigned)_mm_movemask_epi8(mmx_get(c, o->b)), 8);
    INTERP_NEXT(c, o);
}

/* ---- lowering ---- */
static bool pick_move(const struct x86_insn *i, struct iop *o, iop_fn *copy, iop_fn *load, iop_fn *store)
{
    o->fn = i->operand[0].kind == X86_MEM ? store : i->operand[1].kind == X86_MEM ? load : copy;
    return true;
}

static bool lower_movd(const struct x86_insn *i, struct iop *o)
{
    const struct x86_operand *d = &i->operand[0], *s = &i->operand[1];
    bool to_vector = d->kind == X86_REG && (d->reg_class == X86_RC_XMM || d->reg_class == X86_RC_MMX);
    bool wide = (to_vector ? s : d)->size == 8, mmx = (to_vector ? d : s)->reg_class == X86_RC_MMX;
    if (mmx && to_vector)
        return pick_move(i, o, wide ? mmx_from_gpr64 : mmx_from_gpr32, wide ? mmx_load64 : mmx_load32, NULL);
    if (mmx)
        return pick_move(i, o, wide ? mmx_to_gpr64 : mmx_to_gpr32, NULL, wide ? mmx_store64 : mmx_store32);
    if (to_vector)
        return pick_move(i, o, wide ? gpr64_to_xmm : gpr32_to_xmm, wide ? load64_zero : load32_zero, NULL);
    return pick_move(i, o, wide ? xmm_to_gpr64 : xmm_to_gpr32, NULL, wide ? store64 : store32);
}

/* The memory operand is implied: the decoder may describe it as an operand, the registers are ModRM's. */
static bool lower_maskmov(const struct x86_insn *i, struct iop *o, iop_fn *fn)
{
    o->a = i->reg & 15;
    o->b = i->rm & 15;
    if (fn == maskmovq) {
        o->a &= 7;
        o->b &= 7;
    }
    o->base = X86_RDI;
    o->index = X86_ZERO;
    o->scale = 0;
    o->disp = 0;
    o->fn = fn;
    return true;
}

bool sse_lower_move(const struct x86_insn *i, struct iop *o)
{
    bool mmx = i->operand[0].reg_class == X86_RC_MMX && i->operand[0].kind == X86_REG;
    bool mmx_source = i->operand[1].reg_class == X86_RC_MMX && i->operand[1].kind == X86_REG;
    switch (i->op) {
    case X86_OP_MOVAPS:
    case X86_OP_MOVAPD:
    case X86_OP_MOVDQA:
        return pick_move(i, o, copy128, load_aligned, store_aligned);
    case X86_OP_MOVUPS:
    case X86_OP_MOVUPD:
    case X86_OP_MOVDQU:
        return pick_move(i, o, copy128, load_unaligned, store_unaligned);
    case X86_OP_LDDQU:
        return pick_move(i, o, NULL, load_unaligned, NULL);
    case X86_OP_MOVNTDQA:
        return pick_move(i, o, NULL, load_aligned, NULL);
    case X86_OP_MOVNTPS:
    case X86_OP_MOVNTPD:
    case X86_OP_MOVNTDQ:
        return pick_move(i, o, NULL, NULL, store_aligned);
    case X86_OP_MOVSS:
        return pick_move(i, o, merge32, load32_zero, store32);
    case X86_OP_MOVSD:
        return pick_move(i, o, merge64, load64_zero, store64);
    case X86_OP_MOVLPS:
    case X86_OP_MOVLPD:
        return pick_move(i, o, NULL, load_low, store64);
    case X86_OP_MOVHPS:
    case X86_OP_MOVHPD:
        return pick_move(i, o, NULL, load_high, store_high);
    case X86_OP_MOVHLPS:
        return pick_move(i, o, high_to_low, NULL, NULL);
    case X86_OP_MOVLHPS:
        return pick_move(i, o, low_to_high, NULL, NULL);
    case X86_OP_MOVMSKPS:
        return pick_move(i, o, movmskps, NULL, NULL);
    case X86_OP_MOVMSKPD:
        return pick_move(i, o, movmskpd, NULL, NULL);
    case X86_OP_PMOVMSKB:
        return pick_move(i, o, mmx_source ? mmx_pmovmskb : pmovmskb, NULL, NULL);
    case X86_OP_MOVD:
        return lower_movd(i, o);
    case X86_OP_MOVQ:
        if (mmx || mmx_source)
            return pick_move(i, o, mmx_copy, mmx_load64, mmx_store64);
        return pick_move(i, o, copy64_zero, load64_zero, store64);
    case X86_OP_MOVNTQ:
        return pick_move(i, o, NULL, NULL, mmx_store64);
    case X86_OP_MOVDQ2Q:
        return pick_move(i, o, movdq2q, NULL, NULL);
    case X86_OP_MOVQ2DQ:
        return pick_move(i, o, movq2dq, NULL, NULL);
    case X86_OP_MASKMOVDQU:
    case X86_OP_VMASKMOVDQU:
        return lower_maskmov(i, o, maskmovdqu);
    case X86_OP_MASKMOVQ:
        return lower_maskmov(i, o, maskmovq);
    case X86_OP_EMMS:
        o->fn = emms;
        return true;
    default:
        return false;
    }
}
