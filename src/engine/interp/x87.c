/* engine/interp/x87.c - x87 instructions: the fast handlers and lowering.
 *
 * Model: see interp_x87.h. A fast handler that finds exceptions unmasked, or a register empty (full, for a push), hands over to x87_exact,
 * which is also the only handler of the rarer instructions. Which condition bits an instruction leaves alone is as AMD's processors (Zen)
 * have it: arithmetic, loads and stores change C1 only; FCMOVcc and FCOMI none.
 * Source: Intel SDM vol. 1 ch. 8, vol. 2; AMD APM vol. 5.
 */
#include <emmintrin.h>

#include "engine/interp/interp_x87.h"

#define HANDLER(name) static void name(struct icpu *c, const struct iop *o)
/* Goes the exact way unless all exceptions are masked and the condition holds. */
#define FAST_IF(condition)                                                                                                                 \
    if (DP_UNLIKELY(!x87_masked(c) || !(condition)))                                                                                       \
    return x87_exact(c, o)
#define FULL(i) x87_full(c, i)
#define READABLE(bits) fpu_fast_read(c, o, bits / 8, false, &m)
#define WRITABLE(bits) fpu_fast_write(c, o, bits / 8, false, &m)
#define GUEST(bits) (*(uint##bits##_t *)fpu_host(&m))

static inline void set_cc(struct icpu *c, unsigned changed, uint16_t host_fsw)
{
    c->s.fpu.fsw = (uint16_t)((c->s.fpu.fsw & ~changed) | (host_fsw & (changed | X87_FLAGS)));
}
static inline void copy_value(struct x87_value *to, const struct x87_value *from)
{
    _mm_storeu_si128((__m128i *)(void *)to, _mm_loadu_si128((const __m128i *)(const void *)from)); /* the registers have 16 bytes */
}

/* ---- arithmetic: d = ST(0) op source with the host's "op st(1), st" or "op memory" ---- */
#define ARITH_OPS(X) X(ADD, "fadd") X(MUL, "fmul") X(SUB, "fsub") X(SUBR, "fsubr") X(DIV, "fdiv") X(DIVR, "fdivr")

#define ARITH_REGISTER(name, insn, dst, src, after)                                                                                        \
    HANDLER(name)                                                                                                                          \
    {                                                                                                                                      \
        FAST_IF(FULL(0) && FULL(o->b));                                                                                                    \
        struct x87_value *d = x87_st(c, dst), *s = x87_st(c, src);                                                                         \
        uint16_t sw;                                                                                                                       \
        __asm__ volatile("fldt %2\n\tfldt %1\n\t" insn " %%st(1), %%st\n\tfnstsw %0\n\tfstpt %1\n\tfstp %%st(0)"                           \
                         : "=&a"(sw), "+m"(*d)                                                                                             \
                         : "m"(*s));                                                                                                       \
        set_cc(c, X87_C1, sw);                                                                                                             \
        x87_note(c, o);                                                                                                                    \
        after;                                                                                                                             \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
#define ARITH_MEMORY(name, insn, bits)                                                                                                     \
    HANDLER(name)                                                                                                                          \
    {                                                                                                                                      \
        struct fpu_memory m;                                                                                                               \
        FAST_IF(FULL(0) && READABLE(bits));                                                                                                \
        struct x87_value *d = x87_st(c, 0);                                                                                                \
        uint16_t sw;                                                                                                                       \
        __asm__ volatile("fldt %1\n\t" insn " %2\n\tfnstsw %0\n\tfstpt %1" : "=&a"(sw), "+m"(*d) : "m"(GUEST(bits)));                      \
        set_cc(c, X87_C1, sw);                                                                                                             \
        x87_note_memory(c, o, m.ea);                                                                                                       \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
#define ARITH(name, insn)                                                                                                                  \
    ARITH_REGISTER(F##name##_0i, insn, 0, o->b, )                                                                                          \
    ARITH_REGISTER(F##name##_i0, insn, o->b, 0, )                                                                                          \
    ARITH_REGISTER(F##name##P, insn, o->b, 0, x87_pop(c))                                                                                  \
    ARITH_MEMORY(F##name##_m32, insn "s", 32)                                                                                              \
    ARITH_MEMORY(F##name##_m64, insn "l", 64)
ARITH_OPS(ARITH)
#define ARITH_INTEGER(name, insn) ARITH_MEMORY(FI##name##_m16, insn "s", 16) ARITH_MEMORY(FI##name##_m32, insn "l", 32)
ARITH_INTEGER(ADD, "fiadd")
ARITH_INTEGER(MUL, "fimul")
ARITH_INTEGER(SUB, "fisub")
ARITH_INTEGER(SUBR, "fisubr")
ARITH_INTEGER(DIV, "fidiv")
ARITH_INTEGER(DIVR, "fidivr")

#define UNARY(name, insn, cc)                                                                                                              \
    HANDLER(name)                                                                                                                          \
    {                                                                                                                                      \
        FAST_IF(FULL(0));                                                                                                                  \
        struct x87_value *d = x87_st(c, 0);                                                                                                \
        uint16_t sw;                                                                                                                       \
        __asm__ volatile("fldt %1\n\t" insn "\n\tfnstsw %0\n\tfstpt %1" : "=&a"(sw), "+m"(*d));                                            \
        set_cc(c, cc, sw);                                                                                                                 \
        x87_note(c, o);                                                                                                                    \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
UNARY(FSQRT, "fsqrt", X87_C1)
UNARY(FRNDINT, "frndint", X87_C1)
UNARY(F2XM1, "f2xm1", X87_C1)
UNARY(FSIN, "fsin", X87_C1 | X87_C2)
UNARY(FCOS, "fcos", X87_C1 | X87_C2)
UNARY(FXAM, "fxam", X87_CC)

/* ST(0) = ST(0) op ST(1), and ST(1) = ST(1) op ST(0) with a pop. */
#define BINARY(name, insn, cc)                                                                                                             \
    HANDLER(name)                                                                                                                          \
    {                                                                                                                                      \
        FAST_IF(FULL(0) && FULL(1));                                                                                                       \
        uint16_t sw;                                                                                                                       \
        __asm__ volatile("fldt %2\n\tfldt %1\n\t" insn "\n\tfnstsw %0\n\tfstpt %1\n\tfstp %%st(0)"                                         \
                         : "=&a"(sw), "+m"(*x87_st(c, 0))                                                                                  \
                         : "m"(*x87_st(c, 1)));                                                                                            \
        set_cc(c, cc, sw);                                                                                                                 \
        x87_note(c, o);                                                                                                                    \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
/* A NaN comes without bits of a quotient. */
#define QUOTIENT_CC ((x87_st(c, 0)->byte[9] & 0x7f) == 0x7f && x87_st(c, 0)->byte[8] == 0xff ? X87_C1 | X87_C2 : X87_CC)
BINARY(FPREM, "fprem", QUOTIENT_CC)
BINARY(FPREM1, "fprem1", QUOTIENT_CC)
BINARY(FSCALE, "fscale", X87_C1)
#define BINARY_POP(name, insn)                                                                                                             \
    HANDLER(name)                                                                                                                          \
    {                                                                                                                                      \
        FAST_IF(FULL(0) && FULL(1));                                                                                                       \
        uint16_t sw;                                                                                                                       \
        __asm__ volatile("fldt %1\n\tfldt %2\n\t" insn "\n\tfnstsw %0\n\tfstpt %1" : "=&a"(sw), "+m"(*x87_st(c, 1)) : "m"(*x87_st(c, 0))); \
        set_cc(c, X87_C1, sw);                                                                                                             \
        x87_note(c, o);                                                                                                                    \
        x87_pop(c);                                                                                                                        \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
BINARY_POP(FPATAN, "fpatan")
BINARY_POP(FYL2X, "fyl2x")
BINARY_POP(FYL2XP1, "fyl2xp1")

#define SIGN(name, op)                                                                                                                     \
    HANDLER(name)                                                                                                                          \
    {                                                                                                                                      \
        FAST_IF(FULL(0));                                                                                                                  \
        x87_st(c, 0)->byte[9] op;                                                                                                          \
        set_cc(c, X87_C1, 0);                                                                                                              \
        x87_note(c, o);                                                                                                                    \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
SIGN(FCHS, ^= 0x80)
SIGN(FABS, &= 0x7f)

/* ---- comparisons; pops: how many ---- */
#define COMPARE_REGISTER(name, insn, pops)                                                                                                 \
    HANDLER(name)                                                                                                                          \
    {                                                                                                                                      \
        FAST_IF(FULL(0) && FULL(o->b));                                                                                                    \
        uint16_t sw;                                                                                                                       \
        __asm__ volatile("fldt %2\n\tfldt %1\n\t" insn "\n\tfnstsw %0" : "=&a"(sw) : "m"(*x87_st(c, 0)), "m"(*x87_st(c, o->b)));           \
        set_cc(c, X87_CC, sw);                                                                                                             \
        x87_note(c, o);                                                                                                                    \
        for (unsigned n = pops; n; n--)                                                                                                    \
            x87_pop(c);                                                                                                                    \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
COMPARE_REGISTER(FCOM_0i, "fcompp", 0)
COMPARE_REGISTER(FCOMP_0i, "fcompp", 1)
COMPARE_REGISTER(FCOMPP, "fcompp", 2)
COMPARE_REGISTER(FUCOM, "fucompp", 0)
COMPARE_REGISTER(FUCOMP, "fucompp", 1)
COMPARE_REGISTER(FUCOMPP, "fucompp", 2)

#define COMPARE_MEMORY(name, insn, bits, pops)                                                                                             \
    HANDLER(name)                                                                                                                          \
    {                                                                                                                                      \
        struct fpu_memory m;                                                                                                               \
        FAST_IF(FULL(0) && READABLE(bits));                                                                                                \
        uint16_t sw;                                                                                                                       \
        __asm__ volatile("fldt %1\n\t" insn " %2\n\tfnstsw %0" : "=&a"(sw) : "m"(*x87_st(c, 0)), "m"(GUEST(bits)));                        \
        set_cc(c, X87_CC, sw);                                                                                                             \
        x87_note_memory(c, o, m.ea);                                                                                                       \
        if (pops)                                                                                                                          \
            x87_pop(c);                                                                                                                    \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
COMPARE_MEMORY(FCOM_m32, "fcomps", 32, 0)
COMPARE_MEMORY(FCOMP_m32, "fcomps", 32, 1)
COMPARE_MEMORY(FCOM_m64, "fcompl", 64, 0)
COMPARE_MEMORY(FCOMP_m64, "fcompl", 64, 1)
COMPARE_MEMORY(FICOM_m16, "ficomps", 16, 0)
COMPARE_MEMORY(FICOMP_m16, "ficomps", 16, 1)
COMPARE_MEMORY(FICOM_m32, "ficompl", 32, 0)
COMPARE_MEMORY(FICOMP_m32, "ficompl", 32, 1)

HANDLER(FTST)
{
    FAST_IF(FULL(0));
    uint16_t sw;
    __asm__ volatile("fldt %1\n\tftst\n\tfnstsw %0\n\tfstp %%st(0)" : "=&a"(sw) : "m"(*x87_st(c, 0)));
    set_cc(c, X87_CC, sw);
    x87_note(c, o);
    INTERP_NEXT(c, o);
}

#define COMPARE_FLAGS(name, insn, pops)                                                                                                    \
    HANDLER(name)                                                                                                                          \
    {                                                                                                                                      \
        FAST_IF(FULL(0) && FULL(o->b));                                                                                                    \
        uint16_t sw;                                                                                                                       \
        unsigned zf, pf, cf;                                                                                                               \
        __asm__ volatile("fldt %5\n\tfldt %4\n\t" insn " %%st(1), %%st\n\tfnstsw %0\n\tfstp %%st(0)"                                       \
                         : "=&a"(sw), "=@ccz"(zf), "=@ccp"(pf), "=@ccc"(cf)                                                                \
                         : "m"(*x87_st(c, 0)), "m"(*x87_st(c, o->b)));                                                                     \
        set_cc(c, 0, sw);                                                                                                                  \
        c->lf_result = !zf; /* OF, SF, AF are cleared */                                                                                   \
        c->lf_aux = cf << 31 | cf << 30 | (pf ^ zf) << 8;                                                                                  \
        x87_note(c, o);                                                                                                                    \
        if (pops)                                                                                                                          \
            x87_pop(c);                                                                                                                    \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
COMPARE_FLAGS(FCOMI, "fcomip", 0)
COMPARE_FLAGS(FCOMIP, "fcomip", 1)
COMPARE_FLAGS(FUCOMI, "fucomip", 0)
COMPARE_FLAGS(FUCOMIP, "fucomip", 1)

/* ---- loads ---- */
#define LOAD(name, insn, bits)                                                                                                             \
    HANDLER(name)                                                                                                                          \
    {                                                                                                                                      \
        struct fpu_memory m;                                                                                                               \
        FAST_IF(!FULL(7) && READABLE(bits));                                                                                               \
        uint16_t sw;                                                                                                                       \
        x87_push(c);                                                                                                                       \
        __asm__ volatile(insn " %2\n\tfnstsw %0\n\tfstpt %1" : "=&a"(sw), "=m"(*x87_st(c, 0)) : "m"(GUEST(bits)));                         \
        set_cc(c, X87_C1, sw);                                                                                                             \
        x87_note_memory(c, o, m.ea);                                                                                                       \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
LOAD(FLD_m32, "flds", 32)
LOAD(FLD_m64, "fldl", 64)
LOAD(FILD_m16, "filds", 16)
LOAD(FILD_m32, "fildl", 32)
LOAD(FILD_m64, "fildll", 64)

HANDLER(FLD_m80)
{
    struct fpu_memory m;
    FAST_IF(!FULL(7) && READABLE(80));
    x87_push(c);
    memcpy(x87_st(c, 0), fpu_host(&m), 10);
    set_cc(c, X87_C1, 0);
    x87_note_memory(c, o, m.ea);
    INTERP_NEXT(c, o);
}
HANDLER(FLD_i)
{
    FAST_IF(!FULL(7) && FULL(o->b));
    const struct x87_value *s = x87_st(c, o->b);
    x87_push(c);
    copy_value(x87_st(c, 0), s);
    set_cc(c, X87_C1, 0);
    x87_note(c, o);
    INTERP_NEXT(c, o);
}
#define CONSTANT(name, insn)                                                                                                               \
    HANDLER(name)                                                                                                                          \
    {                                                                                                                                      \
        FAST_IF(!FULL(7));                                                                                                                 \
        x87_push(c);                                                                                                                       \
        __asm__ volatile(insn "\n\tfstpt %0" : "=m"(*x87_st(c, 0)));                                                                       \
        set_cc(c, X87_C1, 0);                                                                                                              \
        x87_note(c, o);                                                                                                                    \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
/* clang-format off */
#define CONSTANT_OPS(X)                                                                                                                  \
    X(FLD1, "fld1") X(FLDZ, "fldz") X(FLDPI, "fldpi") X(FLDL2T, "fldl2t") X(FLDL2E, "fldl2e") X(FLDLG2, "fldlg2") X(FLDLN2, "fldln2")
/* clang-format on */
CONSTANT_OPS(CONSTANT)

/* ---- stores ---- */
#define STORE(name, insn, bits, pops)                                                                                                      \
    HANDLER(name)                                                                                                                          \
    {                                                                                                                                      \
        struct fpu_memory m;                                                                                                               \
        uint16_t sw;                                                                                                                       \
        FAST_IF(FULL(0) && WRITABLE(bits));                                                                                                \
        __asm__ volatile("fldt %2\n\t" insn " %1\n\tfnstsw %0" : "=&a"(sw), "=m"(GUEST(bits)) : "m"(*x87_st(c, 0)));                       \
        set_cc(c, X87_C1, sw);                                                                                                             \
        x87_note_memory(c, o, m.ea);                                                                                                       \
        if (pops)                                                                                                                          \
            x87_pop(c);                                                                                                                    \
        if (fpu_raced(&m))                                                                                                                 \
            return fpu_store_raced(c, o);                                                                                                  \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
STORE(FST_m32, "fstps", 32, 0)
STORE(FSTP_m32, "fstps", 32, 1)
STORE(FST_m64, "fstpl", 64, 0)
STORE(FSTP_m64, "fstpl", 64, 1)
STORE(FIST_m16, "fistps", 16, 0)
STORE(FISTP_m16, "fistps", 16, 1)
STORE(FIST_m32, "fistpl", 32, 0)
STORE(FISTP_m32, "fistpl", 32, 1)
STORE(FISTP_m64, "fistpll", 64, 1)
STORE(FISTTP_m16, "fisttps", 16, 1)
STORE(FISTTP_m32, "fisttpl", 32, 1)
STORE(FISTTP_m64, "fisttpll", 64, 1)

HANDLER(FSTP_m80)
{
    struct fpu_memory m;
    FAST_IF(FULL(0) && WRITABLE(80));
    memcpy(fpu_host(&m), x87_st(c, 0), 10);
    set_cc(c, X87_C1, 0);
    x87_note_memory(c, o, m.ea);
    x87_pop(c);
    if (fpu_raced(&m))
        return fpu_store_raced(c, o);
    INTERP_NEXT(c, o);
}
#define STORE_REGISTER(name, after)                                                                                                        \
    HANDLER(name)                                                                                                                          \
    {                                                                                                                                      \
        FAST_IF(FULL(0));                                                                                                                  \
        copy_value(x87_st(c, o->a), x87_st(c, 0));                                                                                         \
        c->s.fpu.ftw |= (uint16_t)(1u << x87_phys(c, o->a));                                                                               \
        set_cc(c, X87_C1, 0);                                                                                                              \
        x87_note(c, o);                                                                                                                    \
        after;                                                                                                                             \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
STORE_REGISTER(FST_i, )
STORE_REGISTER(FSTP_i, x87_pop(c))

/* ---- register moves ---- */
HANDLER(FXCH)
{
    FAST_IF(FULL(0) && FULL(o->b));
    struct x87_value *p = x87_st(c, 0), *q = x87_st(c, o->b), t = *p;
    *p = *q;
    *q = t;
    set_cc(c, X87_C1, 0);
    x87_note(c, o);
    INTERP_NEXT(c, o);
}
#define MOVE_IF(name, condition)                                                                                                           \
    HANDLER(name)                                                                                                                          \
    {                                                                                                                                      \
        FAST_IF(FULL(0) && FULL(o->b));                                                                                                    \
        if (condition)                                                                                                                     \
            copy_value(x87_st(c, 0), x87_st(c, o->b));                                                                                     \
        x87_note(c, o);                                                                                                                    \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
MOVE_IF(FCMOVB, interp_cf(c))
MOVE_IF(FCMOVNB, !interp_cf(c))
MOVE_IF(FCMOVE, interp_zf(c))
MOVE_IF(FCMOVNE, !interp_zf(c))
MOVE_IF(FCMOVBE, interp_cf(c) || interp_zf(c))
MOVE_IF(FCMOVNBE, !interp_cf(c) && !interp_zf(c))
MOVE_IF(FCMOVU, interp_pf(c))
MOVE_IF(FCMOVNU, !interp_pf(c))

HANDLER(FINCSTP)
{
    FAST_IF(true);
    x87_set_top(c, x87_top(c) + 1);
    set_cc(c, X87_C1, 0);
    x87_note(c, o);
    INTERP_NEXT(c, o);
}
HANDLER(FDECSTP)
{
    FAST_IF(true);
    x87_set_top(c, x87_top(c) + 7);
    set_cc(c, X87_C1, 0);
    x87_note(c, o);
    INTERP_NEXT(c, o);
}

/* ---- lowering ---- */
/* By memory operand's size, or register form (i: ST(i) is the source or FST's destination; i0: ST(i) is arithmetic's destination). */
struct forms {
    iop_fn *m16, *m32, *m64, *m80, *i, *i0;
};

static iop_fn *pick(const struct forms *f, unsigned memory_size, bool into_sti)
{
    switch (memory_size) {
    case 0:
        return into_sti ? f->i0 : f->i;
    case 2:
        return f->m16;
    case 4:
        return f->m32;
    case 8:
        return f->m64;
    case 10:
        return f->m80;
    default:
        return NULL;
    }
}

#define CASE_ARITH(name, insn)                                                                                                             \
    case X86_OP_F##name: {                                                                                                                 \
        static const struct forms f = {NULL, F##name##_m32, F##name##_m64, NULL, F##name##_0i, F##name##_i0};                              \
        return pick(&f, size, into_sti);                                                                                                   \
    }                                                                                                                                      \
    case X86_OP_FI##name: {                                                                                                                \
        static const struct forms f = {FI##name##_m16, FI##name##_m32};                                                                    \
        return pick(&f, size, false);                                                                                                      \
    }                                                                                                                                      \
    case X86_OP_F##name##P:                                                                                                                \
        return F##name##P;
#define CASE_FORMS(name, ...)                                                                                                              \
    case X86_OP_##name: {                                                                                                                  \
        static const struct forms f = {__VA_ARGS__};                                                                                       \
        return pick(&f, size, false);                                                                                                      \
    }
#define CASE_ONE(name, ...)                                                                                                                \
    case X86_OP_##name:                                                                                                                    \
        return name;

/* The fast handler, NULL when there is none. */
static iop_fn *fast_handler(const struct x86_insn *i, unsigned size, bool into_sti)
{
    static iop_fn *const move_if[16] = {
        [2] = FCMOVB, [3] = FCMOVNB, [4] = FCMOVE, [5] = FCMOVNE, [6] = FCMOVBE, [7] = FCMOVNBE, [10] = FCMOVU, [11] = FCMOVNU};
    switch (i->op) {
        /* clang-format off */
        ARITH_OPS(CASE_ARITH)
        CASE_FORMS(FCOM, .m32 = FCOM_m32, .m64 = FCOM_m64, .i = FCOM_0i)
        CASE_FORMS(FCOMP, .m32 = FCOMP_m32, .m64 = FCOMP_m64, .i = FCOMP_0i)
        CASE_FORMS(FICOM, .m16 = FICOM_m16, .m32 = FICOM_m32)
        CASE_FORMS(FICOMP, .m16 = FICOMP_m16, .m32 = FICOMP_m32)
        CASE_FORMS(FLD, .m32 = FLD_m32, .m64 = FLD_m64, .m80 = FLD_m80, .i = FLD_i)
        CASE_FORMS(FILD, .m16 = FILD_m16, .m32 = FILD_m32, .m64 = FILD_m64)
        CASE_FORMS(FST, .m32 = FST_m32, .m64 = FST_m64, .i = FST_i)
        CASE_FORMS(FSTP, .m32 = FSTP_m32, .m64 = FSTP_m64, .m80 = FSTP_m80, .i = FSTP_i)
        CASE_FORMS(FIST, .m16 = FIST_m16, .m32 = FIST_m32)
        CASE_FORMS(FISTP, .m16 = FISTP_m16, .m32 = FISTP_m32, .m64 = FISTP_m64)
        CASE_FORMS(FISTTP, .m16 = FISTTP_m16, .m32 = FISTTP_m32, .m64 = FISTTP_m64)
        CONSTANT_OPS(CASE_ONE)
        CASE_ONE(FSQRT) CASE_ONE(FRNDINT) CASE_ONE(F2XM1) CASE_ONE(FSIN) CASE_ONE(FCOS) CASE_ONE(FXAM)
        CASE_ONE(FPREM) CASE_ONE(FPREM1) CASE_ONE(FSCALE) CASE_ONE(FPATAN) CASE_ONE(FYL2X) CASE_ONE(FYL2XP1)
        CASE_ONE(FCHS) CASE_ONE(FABS) CASE_ONE(FTST) CASE_ONE(FXCH) CASE_ONE(FINCSTP) CASE_ONE(FDECSTP)
        CASE_ONE(FCOMPP) CASE_ONE(FUCOM) CASE_ONE(FUCOMP) CASE_ONE(FUCOMPP)
        CASE_ONE(FCOMI) CASE_ONE(FCOMIP) CASE_ONE(FUCOMI) CASE_ONE(FUCOMIP)
            /* clang-format on */
            case X86_OP_FCMOVCC : return move_if[i->cc];
    default:
        return NULL;
    }
}

bool interp_lower_x87(struct icpu *c, const struct x86_insn *i, struct iop *o, bool *need_insn)
{
    if (i->op < X86_OP_FADD || i->op > X86_OP_FNINIT)
        return false;
    if (!x87_lower_env(i, o)) {
        const struct x86_operand *memory = NULL;
        for (unsigned n = 0; n < i->operand_count; n++)
            if (i->operand[n].kind == X86_MEM)
                memory = &i->operand[n];
        unsigned sti = i->rm & 7; /* register forms: ST(i), implied ST(1) for FCOMPP and FUCOMPP by their ModRM too */
        o->size = memory ? memory->size : 0;
        o->extra = 0;
        if (memory && o->seg >= X86_SEGS)
            return false;
        if (memory && memory->access & X86_WRITE)
            o->extra |= X87_EXTRA_STORE;
        if (i->op == X86_OP_FCOMI || i->op == X86_OP_FCOMIP || i->op == X86_OP_FUCOMI || i->op == X86_OP_FUCOMIP)
            o->extra |= X87_EXTRA_FLAGS;
        o->imm = (i->opcode & 7u) << 8 | i->modrm;
        o->a = o->b = (uint8_t)sti;
        /* DC and DE name ST(i) first; of DC that concerns the arithmetic only. */
        o->fn = fast_handler(i, o->size, (i->opcode & 7) == 4);
        if (!o->fn)
            o->fn = x87_exact;
    }
    if (i->op == X86_OP_FWAIT && c->mode & IMODE_WAIT_NM) /* what the others need was checked before (block.c) */
        o->fn = interp_op_nm;
    return true;
}
