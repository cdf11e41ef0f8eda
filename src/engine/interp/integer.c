/* engine/interp/integer.c - general-purpose instructions: moves, arithmetic, shifts, bits, BCD.
 *
 * Model: handlers are stamped out by macros for each operand size (8, 16, 32, 64 bits) and operand form: rr (register, register), ri
 * (register, immediate), rm (register, memory), mr (memory, register), mi (memory, immediate), and for read-modify-write forms with LOCK,
 * l*. Lowering picks one. Order within a handler: everything that can fault, then the state.
 * Source: Intel SDM vol. 2; flags as in interp_internal.h.
 */
#include "engine/interp/interp_integer.h"

/* ---- two-operand arithmetic ---- */
#define ALU_READ(NAME, bits, write)                                                                                                      \
    static void NAME##_rr##bits(struct icpu *c, const struct iop *o)                                                                     \
    {                                                                                                                                    \
        uint##bits##_t x = R##bits(o->a), y = R##bits(o->b), r, k = interp_cf(c);                                                        \
        (void)k;                                                                                                                         \
        COMPUTE_##NAME;                                                                                                                  \
        FLAGS_##NAME(bits);                                                                                                              \
        if (write)                                                                                                                       \
            W##bits(o->a, r);                                                                                                            \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void NAME##_ri##bits(struct icpu *c, const struct iop *o)                                                                     \
    {                                                                                                                                    \
        uint##bits##_t x = R##bits(o->a), y = (uint##bits##_t)o->imm, r, k = interp_cf(c);                                               \
        (void)k;                                                                                                                         \
        COMPUTE_##NAME;                                                                                                                  \
        FLAGS_##NAME(bits);                                                                                                              \
        if (write)                                                                                                                       \
            W##bits(o->a, r);                                                                                                            \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    TWIN(NAME##_rm##bits,                                                                                                                \
        LOAD(NAME##_rm##bits, bits, y)                                                                                                   \
        uint##bits##_t x = R##bits(o->a), r, k = interp_cf(c);                                                                           \
        (void)k;                                                                                                                         \
        COMPUTE_##NAME;                                                                                                                  \
        FLAGS_##NAME(bits);                                                                                                              \
        if (write)                                                                                                                       \
            W##bits(o->a, r);                                                                                                            \
        INTERP_NEXT(c, o);)
#define ALU_COMPARE(NAME, bits)                                                                                                          \
    ALU_READ(NAME, bits, false)                                                                                                          \
    TWIN(NAME##_mr##bits,                                                                                                                \
        LOAD(NAME##_mr##bits, bits, x)                                                                                                   \
        uint##bits##_t y = R##bits(o->b), r;                                                                                             \
        COMPUTE_##NAME;                                                                                                                  \
        FLAGS_##NAME(bits);                                                                                                              \
        INTERP_NEXT(c, o);)                                                                                                              \
    TWIN(NAME##_mi##bits,                                                                                                                \
        LOAD(NAME##_mi##bits, bits, x)                                                                                                   \
        uint##bits##_t y = (uint##bits##_t)o->imm, r;                                                                                    \
        COMPUTE_##NAME;                                                                                                                  \
        FLAGS_##NAME(bits);                                                                                                              \
        INTERP_NEXT(c, o);)
#define ALU_MODIFY_FORM(NAME, form, bits, source, lock)                                                                                  \
    static void NAME##_##form##bits(struct icpu *c, const struct iop *o)                                                                 \
    {                                                                                                                                    \
        uint##bits##_t y = (uint##bits##_t)(source), k = interp_cf(c);                                                                   \
        (void)k;                                                                                                                         \
        RMW(bits, lock, COMPUTE_##NAME)                                                                                                  \
        FLAGS_##NAME(bits);                                                                                                              \
        INTERP_NEXT(c, o);                                                                                                               \
    }
#define ALU_MODIFY(NAME, bits)                                                                                                           \
    ALU_READ(NAME, bits, true)                                                                                                           \
    ALU_MODIFY_FORM(NAME, mr, bits, R##bits(o->b), false)                                                                                \
    ALU_MODIFY_FORM(NAME, mi, bits, o->imm, false)                                                                                       \
    ALU_MODIFY_FORM(NAME, lmr, bits, R##bits(o->b), true)                                                                                \
    ALU_MODIFY_FORM(NAME, lmi, bits, o->imm, true)

#define ALU_SIZES(bits)                                                                                                                  \
    ALU_MODIFY(ADD, bits) ALU_MODIFY(ADC, bits) ALU_MODIFY(SUB, bits) ALU_MODIFY(SBB, bits) ALU_MODIFY(AND, bits) ALU_MODIFY(OR, bits)   \
    ALU_MODIFY(XOR, bits) ALU_COMPARE(CMP, bits) ALU_COMPARE(TEST, bits)
EACH_SIZE(ALU_SIZES)

enum form { RR, RI, RM, MR, MI, LMR, LMI, FORMS };
#define FORM_ROW(NAME, f) { NAME##_##f##8, NAME##_##f##16, NAME##_##f##32, NAME##_##f##64 }
#define ALU_ROWS(NAME)                                                                                                                   \
    { FORM_ROW(NAME, rr), FORM_ROW(NAME, ri), FORM_ROW(NAME, rm), FORM_ROW(NAME, mr), FORM_ROW(NAME, mi), FORM_ROW(NAME, lmr),           \
      FORM_ROW(NAME, lmi) }
#define COMPARE_ROWS(NAME) { FORM_ROW(NAME, rr), FORM_ROW(NAME, ri), FORM_ROW(NAME, rm), FORM_ROW(NAME, mr), FORM_ROW(NAME, mi) }
typedef iop_fn *form_table[FORMS][4];
static const form_table add_table = ALU_ROWS(ADD), adc_table = ALU_ROWS(ADC), sub_table = ALU_ROWS(SUB), sbb_table = ALU_ROWS(SBB),
                        and_table = ALU_ROWS(AND), or_table = ALU_ROWS(OR), xor_table = ALU_ROWS(XOR), cmp_table = COMPARE_ROWS(CMP),
                        test_table = COMPARE_ROWS(TEST);

/* Zeroing idiom. */
static void zero_r32(struct icpu *c, const struct iop *o)
{
    c->s.r[o->a] = 0;
    c->lf_result = 0;
    c->lf_aux = 0;
    INTERP_NEXT(c, o);
}

/* ---- moves ---- */
#define MOV_SIZES(bits)                                                                                                                  \
    static void MOV_rr##bits(struct icpu *c, const struct iop *o) { W##bits(o->a, R##bits(o->b)); INTERP_NEXT(c, o); }                   \
    static void MOV_ri##bits(struct icpu *c, const struct iop *o) { W##bits(o->a, o->imm); INTERP_NEXT(c, o); }                          \
    TWIN(MOV_rm##bits, LOAD(MOV_rm##bits, bits, v) W##bits(o->a, v); INTERP_NEXT(c, o);)                                                 \
    TWIN(MOV_mr##bits, STORE(MOV_mr##bits, bits, R##bits(o->b)) INTERP_NEXT(c, o);)                                                      \
    TWIN(MOV_mi##bits, STORE(MOV_mi##bits, bits, (uint##bits##_t)o->imm) INTERP_NEXT(c, o);)                                             \
    /* [base + disp] in a segment of base 0: the usual case, without index and segment */                                                \
    TWIN(MOV_rs##bits, LOAD_AT(MOV_rs##bits, bits, v, 1, c->s.r[o->base] + (uint64_t)o->disp) W##bits(o->a, v); INTERP_NEXT(c, o);)      \
    TWIN(MOV_sr##bits, STORE_AT(MOV_sr##bits, bits, R##bits(o->b), 1, c->s.r[o->base] + (uint64_t)o->disp) INTERP_NEXT(c, o);)           \
    static void XCHG_rr##bits(struct icpu *c, const struct iop *o)                                                                       \
    {                                                                                                                                    \
        uint##bits##_t x = R##bits(o->a), y = R##bits(o->b);                                                                             \
        W##bits(o->a, y);                                                                                                                \
        W##bits(o->b, x);                                                                                                                \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void XCHG_mr##bits(struct icpu *c, const struct iop *o)                                                                       \
    {                                                                                                                                    \
        uint##bits##_t y = R##bits(o->b);                                                                                                \
        RMW(bits, true, r = y)                                                                                                           \
        (void)r;                                                                                                                         \
        W##bits(o->b, x);                                                                                                                \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void XADD_rr##bits(struct icpu *c, const struct iop *o)                                                                       \
    {                                                                                                                                    \
        uint##bits##_t x = R##bits(o->a), y = R##bits(o->b), r = x + y;                                                                  \
        FLAGS_ADD(bits);                                                                                                                 \
        W##bits(o->b, x);                                                                                                                \
        W##bits(o->a, r);                                                                                                                \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void XADD_mr##bits(struct icpu *c, const struct iop *o)                                                                       \
    {                                                                                                                                    \
        uint##bits##_t y = R##bits(o->b);                                                                                                \
        RMW(bits, true, r = x + y)                                                                                                       \
        FLAGS_ADD(bits);                                                                                                                 \
        W##bits(o->b, x);                                                                                                                \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    /* When CMPXCHG fails, memory is written with its old value (so a read-only page faults) and the accumulator is loaded. */           \
    static void CMPXCHG_rr##bits(struct icpu *c, const struct iop *o)                                                                    \
    {                                                                                                                                    \
        uint##bits##_t x = R##bits(X86_RAX), y = R##bits(o->a), r = x - y;                                                               \
        FLAGS_SUB(bits);                                                                                                                 \
        if (x == y)                                                                                                                      \
            W##bits(o->a, R##bits(o->b));                                                                                                \
        else                                                                                                                             \
            W##bits(X86_RAX, y);                                                                                                         \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void CMPXCHG_mr##bits(struct icpu *c, const struct iop *o)                                                                    \
    {                                                                                                                                    \
        uint##bits##_t source = R##bits(o->b), old;                                                                                      \
        const uint##bits##_t accumulator = R##bits(X86_RAX);                                                                             \
        {                                                                                                                                \
            RMW(bits, true, r = x == accumulator ? source : x)                                                                           \
            (void)r;                                                                                                                     \
            old = x;                                                                                                                     \
        }                                                                                                                                \
        uint##bits##_t x = accumulator, y = old, r = x - y;                                                                              \
        FLAGS_SUB(bits);                                                                                                                 \
        if (r)                                                                                                                           \
            W##bits(X86_RAX, old);                                                                                                       \
        INTERP_NEXT(c, o);                                                                                                               \
    }
EACH_SIZE(MOV_SIZES)

/* MOVZX, MOVSX: from 8, 16, 32 to 16, 32, 64. */
#define EXTEND(NAME, from, to, conversion)                                                                                               \
    static void NAME##_r##from##_##to(struct icpu *c, const struct iop *o) { W##to(o->a, conversion R##from(o->b)); INTERP_NEXT(c, o); } \
    TWIN(NAME##_m##from##_##to, LOAD(NAME##_m##from##_##to, from, v) W##to(o->a, conversion v); INTERP_NEXT(c, o);)
EXTEND(MOVZX, 8, 16, (uint8_t)) EXTEND(MOVZX, 8, 32, (uint8_t)) EXTEND(MOVZX, 16, 16, (uint16_t)) EXTEND(MOVZX, 16, 32, (uint16_t))
EXTEND(MOVSX, 8, 16, (int16_t)(int8_t)) EXTEND(MOVSX, 8, 32, (int32_t)(int8_t)) EXTEND(MOVSX, 8, 64, (uint64_t)(int64_t)(int8_t))
EXTEND(MOVSX, 16, 16, (int16_t)) EXTEND(MOVSX, 16, 32, (int32_t)(int16_t)) EXTEND(MOVSX, 16, 64, (uint64_t)(int64_t)(int16_t))
EXTEND(MOVSX, 32, 64, (uint64_t)(int64_t)(int32_t))

static void LEA16(struct icpu *c, const struct iop *o) { W16(o->a, interp_ea(c, o)); INTERP_NEXT(c, o); }
static void LEA32(struct icpu *c, const struct iop *o) { W32(o->a, interp_ea(c, o)); INTERP_NEXT(c, o); }
static void LEA64(struct icpu *c, const struct iop *o) { W64(o->a, interp_ea(c, o)); INTERP_NEXT(c, o); }
static void LEA64s(struct icpu *c, const struct iop *o) { W64(o->a, c->s.r[o->base] + (uint64_t)o->disp); INTERP_NEXT(c, o); }

/* ---- one operand ---- */
#define ONE_OPERAND(NAME, bits, flags)                                                                                                   \
    static void NAME##_r##bits(struct icpu *c, const struct iop *o)                                                                      \
    {                                                                                                                                    \
        uint##bits##_t x = R##bits(o->a), r;                                                                                             \
        NAME##_COMPUTE;                                                                                                                  \
        W##bits(o->a, r);                                                                                                                \
        flags;                                                                                                                           \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void NAME##_m##bits(struct icpu *c, const struct iop *o) { RMW(bits, false, NAME##_COMPUTE) flags; INTERP_NEXT(c, o); }       \
    static void NAME##_l##bits(struct icpu *c, const struct iop *o) { RMW(bits, true, NAME##_COMPUTE) flags; INTERP_NEXT(c, o); }
#define INC_COMPUTE r = x + 1
#define DEC_COMPUTE r = x - 1
#define NEG_COMPUTE r = 0 - x
#define NOT_COMPUTE r = ~x
static inline void keep_cf(struct icpu *c, uint64_t signed_result, uint32_t aux)
{
    uint32_t cf = c->lf_aux >> 31, of = (aux >> 31 ^ aux >> 30) & 1;
    c->lf_result = signed_result;
    c->lf_aux = cf << 31 | (cf ^ of) << 30 | (aux & 8);
}
#define ONE_SIZES(bits)                                                                                                                  \
    ONE_OPERAND(INC, bits, keep_cf(c, SIGNED(bits, r), AUX##bits(CARRY_ADD(x, 1, r))))                                                   \
    ONE_OPERAND(DEC, bits, keep_cf(c, SIGNED(bits, r), AUX##bits(CARRY_SUB(x, 1, r))))                                                   \
    ONE_OPERAND(NEG, bits, SET_FLAGS(bits, r, CARRY_SUB((uint##bits##_t)0, x, r)))                                                       \
    ONE_OPERAND(NOT, bits, (void)0)
EACH_SIZE(ONE_SIZES)
#define ONE_ROWS(NAME)                                                                                                                   \
    { { NAME##_r8, NAME##_r16, NAME##_r32, NAME##_r64 },                                                                                 \
      { NAME##_m8, NAME##_m16, NAME##_m32, NAME##_m64 },                                                                                 \
      { NAME##_l8, NAME##_l16, NAME##_l32, NAME##_l64 } }
typedef iop_fn *one_table[3][4];
static const one_table inc_table = ONE_ROWS(INC), dec_table = ONE_ROWS(DEC), neg_table = ONE_ROWS(NEG), not_table = ONE_ROWS(NOT);

/* ---- shifts and rotates: extra says which; the count is o->imm, or CL when extra has SHIFT_CL ---- */
enum { SHIFT_ROL, SHIFT_ROR, SHIFT_RCL, SHIFT_RCR, SHIFT_SHL, SHIFT_SHR, SHIFT_SAR, SHIFT_CL = 8 };
struct shifted { uint64_t r; uint64_t result; uint32_t aux; bool flags; };
/* x is zero-extended; count is already masked to 5 or 6 bits and not 0. */
static inline struct shifted shift(const struct icpu *c, unsigned kind, unsigned bits, uint64_t x, unsigned count)
{
    const unsigned top = bits - 1;
    const uint64_t mask = bits == 64 ? ~0ull : (1ull << bits) - 1;
    struct shifted s = { .flags = true };
    unsigned cf = interp_cf(c), of;
    switch (kind) {
    case SHIFT_SHL:
        s.r = count < bits ? x << count & mask : 0;
        cf = count <= bits ? x >> (bits - count) & 1 : 0;
        of = (s.r >> top ^ cf) & 1;
        goto arithmetic;
    case SHIFT_SHR:
        s.r = count < bits ? x >> count : 0;
        cf = count <= bits ? x >> (count - 1) & 1 : 0;
        of = x >> top & 1;
        goto arithmetic;
    case SHIFT_SAR: {
        int64_t v = (int64_t)(x << (64 - bits)) >> (64 - bits);
        s.r = (uint64_t)(count < 64 ? v >> count : v >> 63) & mask;
        cf = (uint64_t)(v >> (count - 1)) & 1;
        of = 0;
    }
    arithmetic:
        s.result = (uint64_t)((int64_t)(s.r << (64 - bits)) >> (64 - bits));
        s.aux = cf << 31 | (cf ^ of) << 30;
        return s;
    case SHIFT_ROL:
        count &= top;
        s.r = count ? (x << count | x >> (bits - count)) & mask : x;
        cf = s.r & 1;
        of = (s.r >> top ^ cf) & 1;
        break;
    case SHIFT_ROR:
        count &= top;
        s.r = count ? (x >> count | x << (bits - count)) & mask : x;
        cf = s.r >> top & 1;
        of = (s.r >> top ^ s.r >> (top - 1)) & 1;
        break;
    case SHIFT_RCL:
        count %= bits + 1;
        s.r = x;
        if (!count) {
            s.flags = false; /* 8- and 16-bit rotates by a multiple of bits + 1 leave everything */
            return s;
        }
        s.r = (count < bits ? x << count : 0) | (uint64_t)cf << (count - 1) | (count > 1 ? x >> (bits + 1 - count) : 0);
        cf = x >> (bits - count) & 1;
        s.r &= mask;
        of = (s.r >> top ^ cf) & 1;
        break;
    default: /* RCR */
        count %= bits + 1;
        s.r = x;
        if (!count) {
            s.flags = false;
            return s;
        }
        s.r = (count < bits ? x >> count : 0) | (uint64_t)cf << (bits - count) | (count > 1 ? x << (bits + 1 - count) : 0);
        cf = x >> (count - 1) & 1;
        s.r &= mask;
        of = (s.r >> top ^ s.r >> (top - 1)) & 1;
    }
    /* Rotates change CF and OF only. */
    s.result = c->lf_result;
    s.aux = (c->lf_aux & 0x3fffffffu) | cf << 31 | (cf ^ of) << 30;
    return s;
}
#define SHIFT_SIZES(bits)                                                                                                                \
    static void shift_r##bits(struct icpu *c, const struct iop *o)                                                                       \
    {                                                                                                                                    \
        unsigned count = (o->extra & SHIFT_CL ? c->s.r[X86_RCX] : o->imm) & (bits == 64 ? 63 : 31);                                      \
        if (!count) {                                                                                                                    \
            if (bits == 32)                                                                                                              \
                W##bits(o->a, R##bits(o->a)); /* the upper half is cleared all the same */                                               \
            INTERP_NEXT(c, o);                                                                                                           \
        }                                                                                                                                \
        struct shifted s = shift(c, o->extra & 7, bits, R##bits(o->a), count);                                                           \
        W##bits(o->a, s.r);                                                                                                              \
        if (s.flags) {                                                                                                                   \
            c->lf_result = s.result;                                                                                                     \
            c->lf_aux = s.aux;                                                                                                           \
        }                                                                                                                                \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void shift_m##bits(struct icpu *c, const struct iop *o)                                                                       \
    {                                                                                                                                    \
        unsigned count = (o->extra & SHIFT_CL ? c->s.r[X86_RCX] : o->imm) & (bits == 64 ? 63 : 31);                                      \
        struct shifted s = { .flags = false };                                                                                           \
        RMW(bits, false, r = x; if (count) { s = shift(c, o->extra & 7, bits, x, count); r = (uint##bits##_t)s.r; })                      \
        if (s.flags) {                                                                                                                   \
            c->lf_result = s.result;                                                                                                     \
            c->lf_aux = s.aux;                                                                                                           \
        }                                                                                                                                \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    /* The common ones by a constant: no switch, no zero test. */                                                                        \
    static void SHL_ri##bits(struct icpu *c, const struct iop *o)                                                                        \
    {                                                                                                                                    \
        struct shifted s = shift(c, SHIFT_SHL, bits, R##bits(o->a), (unsigned)o->imm);                                                   \
        W##bits(o->a, s.r);                                                                                                              \
        c->lf_result = s.result;                                                                                                         \
        c->lf_aux = s.aux;                                                                                                               \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void SHR_ri##bits(struct icpu *c, const struct iop *o)                                                                        \
    {                                                                                                                                    \
        struct shifted s = shift(c, SHIFT_SHR, bits, R##bits(o->a), (unsigned)o->imm);                                                   \
        W##bits(o->a, s.r);                                                                                                              \
        c->lf_result = s.result;                                                                                                         \
        c->lf_aux = s.aux;                                                                                                               \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void SAR_ri##bits(struct icpu *c, const struct iop *o)                                                                        \
    {                                                                                                                                    \
        struct shifted s = shift(c, SHIFT_SAR, bits, R##bits(o->a), (unsigned)o->imm);                                                   \
        W##bits(o->a, s.r);                                                                                                              \
        c->lf_result = s.result;                                                                                                         \
        c->lf_aux = s.aux;                                                                                                               \
        INTERP_NEXT(c, o);                                                                                                               \
    }
EACH_SIZE(SHIFT_SIZES)

/* SHLD, SHRD: a is the destination, b the source; extra: SHIFT_CL, and 1 for right. Counts above 16 for 16-bit operands are undefined: the
 * source comes in again then, as on AMD's processors. */
static inline struct shifted shift_double(unsigned bits, bool right, uint64_t x, uint64_t y, unsigned count)
{
    const unsigned top = bits - 1;
    const uint64_t mask = bits == 64 ? ~0ull : (1ull << bits) - 1;
    struct shifted s = { .flags = true };
    unsigned cf;
    if (bits == 16) {
        /* 48 bits wide: x y y */
        if (right) {
            uint64_t wide = x | y << 16 | y << 32;
            s.r = wide >> count & mask;
            cf = wide >> (count - 1) & 1;
        } else {
            uint64_t wide = x << 32 | y << 16 | y;
            s.r = wide >> (32 - count) & mask;
            cf = wide >> (48 - count) & 1;
        }
    } else if (right) {
        s.r = (x >> count | y << (bits - count)) & mask;
        cf = x >> (count - 1) & 1;
    } else {
        s.r = (x << count | y >> (bits - count)) & mask;
        cf = x >> (bits - count) & 1;
    }
    unsigned of = (s.r >> top ^ x >> top) & 1;
    s.result = (uint64_t)((int64_t)(s.r << (64 - bits)) >> (64 - bits));
    s.aux = cf << 31 | (cf ^ of) << 30;
    return s;
}
#define DOUBLE_SIZES(bits)                                                                                                               \
    static void shiftd_r##bits(struct icpu *c, const struct iop *o)                                                                      \
    {                                                                                                                                    \
        unsigned count = (o->extra & SHIFT_CL ? c->s.r[X86_RCX] : o->imm) & (bits == 64 ? 63 : 31);                                      \
        uint##bits##_t x = R##bits(o->a);                                                                                                \
        if (count) {                                                                                                                     \
            struct shifted s = shift_double(bits, o->extra & 1, x, R##bits(o->b), count);                                                \
            x = (uint##bits##_t)s.r;                                                                                                     \
            c->lf_result = s.result;                                                                                                     \
            c->lf_aux = s.aux;                                                                                                           \
        }                                                                                                                                \
        W##bits(o->a, x);                                                                                                                \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void shiftd_m##bits(struct icpu *c, const struct iop *o)                                                                      \
    {                                                                                                                                    \
        unsigned count = (o->extra & SHIFT_CL ? c->s.r[X86_RCX] : o->imm) & (bits == 64 ? 63 : 31);                                      \
        struct shifted s = { .flags = false };                                                                                           \
        RMW(bits, false, r = x; if (count) { s = shift_double(bits, o->extra & 1, x, R##bits(o->b), count); r = (uint##bits##_t)s.r; })   \
        if (s.flags) {                                                                                                                   \
            c->lf_result = s.result;                                                                                                     \
            c->lf_aux = s.aux;                                                                                                           \
        }                                                                                                                                \
        INTERP_NEXT(c, o);                                                                                                               \
    }
EACH_WIDE(DOUBLE_SIZES)

/* ---- multiply and divide ---- */
#define MULTIPLY(bits, wide, swide, high, WIDE_RESULT)                                                                                   \
    static inline void mul##bits(struct icpu *c, uint##bits##_t y)                                                                       \
    {                                                                                                                                    \
        wide r = (wide)R##bits(X86_RAX) * y;                                                                                             \
        WIDE_RESULT                                                                                                                      \
        unsigned over = (uint##bits##_t)(r >> bits) != 0;                                                                                \
        set_cf_of(c, SIGNED(bits, r), over, over);                                                                                       \
    }                                                                                                                                    \
    static inline void imul##bits(struct icpu *c, uint##bits##_t y)                                                                      \
    {                                                                                                                                    \
        swide r = (swide)(int##bits##_t)R##bits(X86_RAX) * (int##bits##_t)y;                                                             \
        WIDE_RESULT                                                                                                                      \
        unsigned over = r != (int##bits##_t)r;                                                                                           \
        set_cf_of(c, SIGNED(bits, r), over, over);                                                                                       \
    }                                                                                                                                    \
    static void MUL_r##bits(struct icpu *c, const struct iop *o) { mul##bits(c, R##bits(o->a)); INTERP_NEXT(c, o); }                     \
    static void IMUL_r##bits(struct icpu *c, const struct iop *o) { imul##bits(c, R##bits(o->a)); INTERP_NEXT(c, o); }                   \
    static void MUL_m##bits(struct icpu *c, const struct iop *o)                                                                         \
    {                                                                                                                                    \
        mul##bits(c, interp_load##bits(c, o, interp_linear(c, o, bits / 8, false)));                                                     \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void IMUL_m##bits(struct icpu *c, const struct iop *o)                                                                        \
    {                                                                                                                                    \
        imul##bits(c, interp_load##bits(c, o, interp_linear(c, o, bits / 8, false)));                                                    \
        INTERP_NEXT(c, o);                                                                                                               \
    }
typedef unsigned __int128 uint128_t;
typedef __int128 int128_t;
MULTIPLY(8, uint16_t, int16_t, 0, W16(X86_RAX, r);)
MULTIPLY(16, uint32_t, int32_t, 0, W16(X86_RAX, r); W16(X86_RDX, r >> 16);)
MULTIPLY(32, uint64_t, int64_t, 0, W32(X86_RAX, r); W32(X86_RDX, r >> 32);)
MULTIPLY(64, uint128_t, int128_t, 0, W64(X86_RAX, (uint64_t)r); W64(X86_RDX, (uint64_t)(r >> 64));)

/* Two- and three-operand IMUL: a = source * (b or immediate). */
#define IMUL2(bits, swide)                                                                                                               \
    static inline void imul2_##bits(struct icpu *c, const struct iop *o, uint##bits##_t x, uint##bits##_t y)                             \
    {                                                                                                                                    \
        swide r = (swide)(int##bits##_t)x * (int##bits##_t)y;                                                                            \
        W##bits(o->a, (uint##bits##_t)r);                                                                                                \
        unsigned over = r != (int##bits##_t)r;                                                                                           \
        set_cf_of(c, SIGNED(bits, r), over, over);                                                                                       \
    }                                                                                                                                    \
    static void IMUL_rr##bits(struct icpu *c, const struct iop *o)                                                                       \
    {                                                                                                                                    \
        imul2_##bits(c, o, R##bits(o->a), R##bits(o->b));                                                                                \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void IMUL_rri##bits(struct icpu *c, const struct iop *o)                                                                      \
    {                                                                                                                                    \
        imul2_##bits(c, o, R##bits(o->b), (uint##bits##_t)o->imm);                                                                       \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void IMUL_rm##bits(struct icpu *c, const struct iop *o)                                                                       \
    {                                                                                                                                    \
        uint##bits##_t y = interp_load##bits(c, o, interp_linear(c, o, bits / 8, false));                                                \
        imul2_##bits(c, o, R##bits(o->a), y);                                                                                            \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void IMUL_rmi##bits(struct icpu *c, const struct iop *o)                                                                      \
    {                                                                                                                                    \
        imul2_##bits(c, o, interp_load##bits(c, o, interp_linear(c, o, bits / 8, false)), (uint##bits##_t)o->imm);                       \
        INTERP_NEXT(c, o);                                                                                                               \
    }
IMUL2(16, int32_t) IMUL2(32, int64_t) IMUL2(64, int128_t)

static void div8(struct icpu *c, const struct iop *o, uint8_t y)
{
    uint16_t x = R16(X86_RAX);
    if (!y || x / y > 0xff)
        interp_fault(c, o, X86_DE);
    W16(X86_RAX, (uint8_t)(x / y) | (x % y) << 8);
}
static void idiv8(struct icpu *c, const struct iop *o, uint8_t y)
{
    int x = (int16_t)R16(X86_RAX), d = (int8_t)y;
    if (!d || x / d > 127 || x / d < -128)
        interp_fault(c, o, X86_DE);
    W16(X86_RAX, (uint8_t)(x / d) | (uint8_t)(x % d) << 8);
}
static void div16(struct icpu *c, const struct iop *o, uint16_t y)
{
    uint32_t x = (uint32_t)R16(X86_RDX) << 16 | R16(X86_RAX);
    if (!y || x / y > 0xffff)
        interp_fault(c, o, X86_DE);
    W16(X86_RAX, x / y);
    W16(X86_RDX, x % y);
}
static void idiv16(struct icpu *c, const struct iop *o, uint16_t y)
{
    int64_t x = (int32_t)((uint32_t)R16(X86_RDX) << 16 | R16(X86_RAX)), d = (int16_t)y;
    if (!d || x / d != (int16_t)(x / d))
        interp_fault(c, o, X86_DE);
    W16(X86_RAX, x / d);
    W16(X86_RDX, x % d);
}
static void div32(struct icpu *c, const struct iop *o, uint32_t y)
{
    uint64_t x = (uint64_t)R32(X86_RDX) << 32 | R32(X86_RAX);
    if (!y || x / y > 0xffffffff)
        interp_fault(c, o, X86_DE);
    W32(X86_RAX, x / y);
    W32(X86_RDX, x % y);
}
static void idiv32(struct icpu *c, const struct iop *o, uint32_t y)
{
    int64_t x = (int64_t)((uint64_t)R32(X86_RDX) << 32 | R32(X86_RAX)), d = (int32_t)y;
    if (!d || (x == INT64_MIN && d == -1) || x / d != (int32_t)(x / d))
        interp_fault(c, o, X86_DE);
    W32(X86_RAX, x / d);
    W32(X86_RDX, x % d);
}
static void div64(struct icpu *c, const struct iop *o, uint64_t y)
{
    if (R64(X86_RDX) >= y) /* covers y == 0 */
        interp_fault(c, o, X86_DE);
    uint128_t x = (uint128_t)R64(X86_RDX) << 64 | R64(X86_RAX);
    if (!R64(X86_RDX)) { /* a call of the 128-bit division routine is dear */
        uint64_t low = R64(X86_RAX);
        W64(X86_RAX, low / y);
        W64(X86_RDX, low % y);
    } else {
        W64(X86_RAX, (uint64_t)(x / y));
        W64(X86_RDX, (uint64_t)(x % y));
    }
}
static void idiv64(struct icpu *c, const struct iop *o, uint64_t y)
{
    int128_t x = (int128_t)((uint128_t)R64(X86_RDX) << 64 | R64(X86_RAX)), d = (int64_t)y;
    if (!d)
        interp_fault(c, o, X86_DE);
    if (x == (int64_t)x && x != INT64_MIN) {
        int64_t low = (int64_t)x;
        W64(X86_RAX, (uint64_t)(low / (int64_t)d));
        W64(X86_RDX, (uint64_t)(low % (int64_t)d));
        return;
    }
    uint128_t ux = x < 0 ? -(uint128_t)x : (uint128_t)x, ud = d < 0 ? -(uint128_t)d : (uint128_t)d, uq = ux / ud, ur = ux % ud;
    bool negative = (x < 0) != (d < 0);
    if (uq > (uint128_t)INT64_MAX + negative)
        interp_fault(c, o, X86_DE);
    W64(X86_RAX, negative ? 0 - (uint64_t)uq : (uint64_t)uq);
    W64(X86_RDX, x < 0 ? 0 - (uint64_t)ur : (uint64_t)ur);
}
#define DIVIDE(bits)                                                                                                                     \
    static void DIV_r##bits(struct icpu *c, const struct iop *o) { div##bits(c, o, R##bits(o->a)); INTERP_NEXT(c, o); }                  \
    static void IDIV_r##bits(struct icpu *c, const struct iop *o) { idiv##bits(c, o, R##bits(o->a)); INTERP_NEXT(c, o); }                \
    static void DIV_m##bits(struct icpu *c, const struct iop *o)                                                                         \
    {                                                                                                                                    \
        div##bits(c, o, interp_load##bits(c, o, interp_linear(c, o, bits / 8, false)));                                                  \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void IDIV_m##bits(struct icpu *c, const struct iop *o)                                                                        \
    {                                                                                                                                    \
        idiv##bits(c, o, interp_load##bits(c, o, interp_linear(c, o, bits / 8, false)));                                                 \
        INTERP_NEXT(c, o);                                                                                                               \
    }
EACH_SIZE(DIVIDE)
#define RM_ROWS(NAME) { { NAME##_r8, NAME##_r16, NAME##_r32, NAME##_r64 }, { NAME##_m8, NAME##_m16, NAME##_m32, NAME##_m64 } }
typedef iop_fn *rm_table[2][4];
static const rm_table mul_table = RM_ROWS(MUL), imul_table = RM_ROWS(IMUL), div_table = RM_ROWS(DIV), idiv_table = RM_ROWS(IDIV),
                      shift_table = RM_ROWS(shift);

/* ---- bits ---- */
enum { BIT_TEST, BIT_SET, BIT_RESET, BIT_COMPLEMENT, BIT_LOCK = 4 };
static inline uint64_t bit_change(unsigned kind, uint64_t x, uint64_t bit)
{
    return kind == BIT_SET ? x | bit : kind == BIT_RESET ? x & ~bit : kind == BIT_COMPLEMENT ? x ^ bit : x;
}
#define BIT_SIZES(bits)                                                                                                                  \
    /* extra: kind; imm: the bit, or b a register when extra has 8 */                                                                    \
    static void bit_r##bits(struct icpu *c, const struct iop *o)                                                                         \
    {                                                                                                                                    \
        unsigned n = (o->extra & 8 ? c->s.r[o->b] : o->imm) & (bits - 1), kind = o->extra & 3;                                           \
        uint##bits##_t x = R##bits(o->a);                                                                                                \
        set_cf(c, x >> n & 1);                                                                                                           \
        if (kind)                                                                                                                        \
            W##bits(o->a, bit_change(kind, x, 1ull << n));                                                                               \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    /* With a register the bit offset is signed and reaches beyond the operand: imm then holds nothing. */                               \
    static void bit_m##bits(struct icpu *c, const struct iop *o)                                                                         \
    {                                                                                                                                    \
        unsigned n, kind = o->extra & 3;                                                                                                 \
        int64_t by = 0;                                                                                                                  \
        if (o->extra & 8) {                                                                                                              \
            int64_t offset = (int##bits##_t)c->s.r[o->b];                                                                                \
            by = (offset >> (bits == 16 ? 4 : bits == 32 ? 5 : 6)) * (bits / 8);                                                         \
            n = offset & (bits - 1);                                                                                                     \
        } else {                                                                                                                         \
            n = o->imm & (bits - 1);                                                                                                     \
        }                                                                                                                                \
        uint64_t at = interp_linear_moved(c, o, by, bits / 8, kind != BIT_TEST);                                                         \
        if (kind == BIT_TEST) {                                                                                                          \
            set_cf(c, interp_load##bits(c, o, at) >> n & 1);                                                                             \
        } else if (o->extra & BIT_LOCK) {                                                                                                \
            RMW_AT(bits, true, at, r = (uint##bits##_t)bit_change(kind, x, 1ull << n))                                                   \
            set_cf(c, x >> n & 1);                                                                                                       \
        } else {                                                                                                                         \
            RMW_AT(bits, false, at, r = (uint##bits##_t)bit_change(kind, x, 1ull << n))                                                  \
            set_cf(c, x >> n & 1);                                                                                                       \
        }                                                                                                                                \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    
EACH_WIDE(BIT_SIZES)

/* One source (b or memory), destination a. */
#define UNARY_COUNT(NAME, bits, body)                                                                                                    \
    static void NAME##_r##bits(struct icpu *c, const struct iop *o) { uint##bits##_t x = R##bits(o->b); body; INTERP_NEXT(c, o); }       \
    static void NAME##_m##bits(struct icpu *c, const struct iop *o)                                                                      \
    {                                                                                                                                    \
        uint##bits##_t x = interp_load##bits(c, o, interp_linear(c, o, bits / 8, false));                                                \
        body;                                                                                                                            \
        INTERP_NEXT(c, o);                                                                                                               \
    }
/* BSF and BSR of 0 leave the destination (AMD documents it, Intel processors do it); the upper half of a 32-bit one too. */
#define COUNT_SIZES(bits)                                                                                                                \
    UNARY_COUNT(BSF, bits, if (x) W##bits(o->a, __builtin_ctzll(x)); set_cf_of(c, x, 0, 0))                                              \
    UNARY_COUNT(BSR, bits, if (x) W##bits(o->a, 63 - __builtin_clzll(x)); set_cf_of(c, x, 0, 0))                                         \
    UNARY_COUNT(POPCNT, bits, W##bits(o->a, __builtin_popcountll(x)); set_cf_of(c, x ? 1 : 0, 0, 0); c->lf_aux |= x ? 0 : 1 << 8)        \
    UNARY_COUNT(LZCNT, bits, W##bits(o->a, x ? __builtin_clzll(x) - (64 - bits) : bits); set_cf_of(c, R##bits(o->a), x == 0, 0))         \
    UNARY_COUNT(TZCNT, bits, W##bits(o->a, x ? __builtin_ctzll(x) : bits); set_cf_of(c, R##bits(o->a), x == 0, 0))
EACH_WIDE(COUNT_SIZES)
#define WIDE_ROWS(NAME) { { 0, NAME##_r16, NAME##_r32, NAME##_r64 }, { 0, NAME##_m16, NAME##_m32, NAME##_m64 } }
static const rm_table bsf_table = WIDE_ROWS(BSF), bsr_table = WIDE_ROWS(BSR), popcnt_table = WIDE_ROWS(POPCNT),
                      lzcnt_table = WIDE_ROWS(LZCNT), tzcnt_table = WIDE_ROWS(TZCNT), bit_table = WIDE_ROWS(bit),
                      shiftd_table = WIDE_ROWS(shiftd);

static void BSWAP16(struct icpu *c, const struct iop *o) { W16(o->a, 0); INTERP_NEXT(c, o); } /* undefined; processors give 0 */
static void BSWAP32(struct icpu *c, const struct iop *o) { W32(o->a, __builtin_bswap32(R32(o->a))); INTERP_NEXT(c, o); }
static void BSWAP64(struct icpu *c, const struct iop *o) { W64(o->a, __builtin_bswap64(R64(o->a))); INTERP_NEXT(c, o); }
#define MOVBE_SIZES(bits)                                                                                                                \
    static void MOVBE_rm##bits(struct icpu *c, const struct iop *o)                                                                      \
    {                                                                                                                                    \
        W##bits(o->a, __builtin_bswap##bits(interp_load##bits(c, o, interp_linear(c, o, bits / 8, false))));                             \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void MOVBE_mr##bits(struct icpu *c, const struct iop *o)                                                                      \
    {                                                                                                                                    \
        interp_store##bits(c, o, interp_linear(c, o, bits / 8, true), __builtin_bswap##bits(R##bits(o->b)));                             \
        INTERP_NEXT(c, o);                                                                                                               \
    }
EACH_WIDE(MOVBE_SIZES)

static uint32_t crc32c(uint32_t crc, uint64_t data, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++) {
        crc ^= data >> (8 * i) & 0xff;
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    return crc;
}
#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_host(uint32_t crc, uint64_t data, unsigned bytes)
{
    switch (bytes) {
    case 1: return __builtin_ia32_crc32qi(crc, (unsigned char)data);
    case 2: return __builtin_ia32_crc32hi(crc, (unsigned short)data);
    case 4: return __builtin_ia32_crc32si(crc, (unsigned)data);
    default: return (uint32_t)__builtin_ia32_crc32di(crc, data);
    }
}
#define CRC32C(crc, data, bytes) (__builtin_cpu_supports("sse4.2") ? crc32c_host(crc, data, bytes) : crc32c(crc, data, bytes))
#else
#define CRC32C crc32c
#endif
#define CRC_SIZES(bits)                                                                                                                  \
    static void CRC32_r##bits(struct icpu *c, const struct iop *o)                                                                       \
    {                                                                                                                                    \
        W32(o->a, CRC32C(R32(o->a), R##bits(o->b), bits / 8));                                                                           \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void CRC32_m##bits(struct icpu *c, const struct iop *o)                                                                       \
    {                                                                                                                                    \
        uint64_t v = interp_load##bits(c, o, interp_linear(c, o, bits / 8, false));                                                      \
        W32(o->a, CRC32C(R32(o->a), v, bits / 8));                                                                                       \
        INTERP_NEXT(c, o);                                                                                                               \
    }
EACH_SIZE(CRC_SIZES)
static const rm_table crc32_table = RM_ROWS(CRC32);

/* ---- flags and odds ---- */
static void NOP(struct icpu *c, const struct iop *o) { INTERP_NEXT(c, o); }
static void CBW(struct icpu *c, const struct iop *o) { W16(X86_RAX, (int16_t)(int8_t)c->s.r[X86_RAX]); INTERP_NEXT(c, o); }
static void CWDE(struct icpu *c, const struct iop *o) { W32(X86_RAX, (int32_t)(int16_t)c->s.r[X86_RAX]); INTERP_NEXT(c, o); }
static void CDQE(struct icpu *c, const struct iop *o) { W64(X86_RAX, (uint64_t)(int64_t)(int32_t)c->s.r[X86_RAX]); INTERP_NEXT(c, o); }
static void CWD(struct icpu *c, const struct iop *o) { W16(X86_RDX, (int16_t)c->s.r[X86_RAX] < 0 ? 0xffff : 0); INTERP_NEXT(c, o); }
static void CDQ(struct icpu *c, const struct iop *o) { W32(X86_RDX, (int32_t)c->s.r[X86_RAX] < 0 ? 0xffffffff : 0); INTERP_NEXT(c, o); }
static void CQO(struct icpu *c, const struct iop *o) { W64(X86_RDX, (int64_t)c->s.r[X86_RAX] < 0 ? ~0ull : 0); INTERP_NEXT(c, o); }
static void CLC(struct icpu *c, const struct iop *o) { set_cf(c, 0); INTERP_NEXT(c, o); }
static void STC(struct icpu *c, const struct iop *o) { set_cf(c, 1); INTERP_NEXT(c, o); }
static void CMC(struct icpu *c, const struct iop *o) { set_cf(c, !interp_cf(c)); INTERP_NEXT(c, o); }
static void CLD(struct icpu *c, const struct iop *o) { c->s.rflags &= ~(uint64_t)X86_DF; INTERP_NEXT(c, o); }
static void STD(struct icpu *c, const struct iop *o) { c->s.rflags |= X86_DF; INTERP_NEXT(c, o); }
static void LAHF(struct icpu *c, const struct iop *o) { W8(1, interp_flags(c)); INTERP_NEXT(c, o); }
static void SAHF(struct icpu *c, const struct iop *o)
{
    interp_set_arith(c, (R8(1) & (X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF)) | (interp_of(c) ? X86_OF : 0));
    INTERP_NEXT(c, o);
}
static void SALC(struct icpu *c, const struct iop *o) { W8(0, interp_cf(c) ? 0xff : 0); INTERP_NEXT(c, o); }
/* Lowering made rBX the base; AL comes on top, unsigned. */
static void XLAT(struct icpu *c, const struct iop *o)
{
    W8(0, interp_load8(c, o, interp_linear_moved(c, o, R8(0), 1, false)));
    INTERP_NEXT(c, o);
}

/* ---- BCD (SDM vol. 2; flags that are defined) ---- */
static inline void set_bcd(struct icpu *c, uint8_t result, unsigned cf, unsigned af)
{
    c->lf_result = SIGNED(8, result);
    c->lf_aux = cf << 31 | cf << 30 | af << 3;
}
static void DAA(struct icpu *c, const struct iop *o)
{
    uint8_t al = R8(0), old = al;
    unsigned cf = 0, af = 0, old_cf = interp_cf(c);
    if ((al & 15) > 9 || interp_af(c)) {
        cf = old_cf | (al > 0xf9);
        al += 6;
        af = 1;
    }
    if (old > 0x99 || old_cf) {
        al += 0x60;
        cf = 1;
    }
    W8(0, al);
    set_bcd(c, al, cf, af);
    INTERP_NEXT(c, o);
}
static void DAS(struct icpu *c, const struct iop *o)
{
    uint8_t al = R8(0), old = al;
    unsigned cf = 0, af = 0, old_cf = interp_cf(c);
    if ((al & 15) > 9 || interp_af(c)) {
        cf = old_cf | (al < 6);
        al -= 6;
        af = 1;
    }
    if (old > 0x99 || old_cf) {
        al -= 0x60;
        cf = 1;
    }
    W8(0, al);
    set_bcd(c, al, cf, af);
    INTERP_NEXT(c, o);
}
static void AAA(struct icpu *c, const struct iop *o)
{
    unsigned carry = (R8(0) & 15) > 9 || interp_af(c);
    if (carry)
        W16(X86_RAX, R16(X86_RAX) + 0x106);
    W8(0, R8(0) & 15);
    set_bcd(c, R8(0), carry, carry);
    INTERP_NEXT(c, o);
}
static void AAS(struct icpu *c, const struct iop *o)
{
    unsigned carry = (R8(0) & 15) > 9 || interp_af(c);
    if (carry)
        W16(X86_RAX, R16(X86_RAX) - 0x106);
    W8(0, R8(0) & 15);
    set_bcd(c, R8(0), carry, carry);
    INTERP_NEXT(c, o);
}
static void AAM(struct icpu *c, const struct iop *o)
{
    uint8_t base = (uint8_t)o->imm, al = R8(0);
    if (!base)
        interp_fault(c, o, X86_DE);
    W16(X86_RAX, (al / base) << 8 | al % base);
    set_bcd(c, R8(0), 0, 0);
    INTERP_NEXT(c, o);
}
static void AAD(struct icpu *c, const struct iop *o)
{
    W16(X86_RAX, (uint8_t)(R8(0) + R8(1) * (uint8_t)o->imm));
    set_bcd(c, R8(0), 0, 0);
    INTERP_NEXT(c, o);
}

/* CMPXCHG8B, CMPXCHG16B: extra is the LOCK prefix; always done atomically where the memory allows. */
static void CMPXCHG8B(struct icpu *c, const struct iop *o)
{
    uint64_t expected = (uint64_t)R32(X86_RDX) << 32 | R32(X86_RAX), desired = (uint64_t)R32(X86_RCX) << 32 | R32(X86_RBX);
    RMW(64, true, r = x == expected ? desired : x)
    (void)r;
    uint64_t f = interp_flags(c) & ~(uint64_t)X86_ZF;
    if (x == expected) {
        f |= X86_ZF;
    } else {
        W32(X86_RAX, x);
        W32(X86_RDX, x >> 32);
    }
    interp_set_arith(c, f);
    INTERP_NEXT(c, o);
}
static __attribute__((noinline)) void cmpxchg16b(struct icpu *c, const struct iop *o)
{
    uint64_t linear = interp_linear(c, o, 16, true);
    if (linear & 15)
        interp_fault_code(c, o, X86_GP, 0);
    uint64_t old[2], expected[2] = { R64(X86_RAX), R64(X86_RDX) };
    bool equal;
    uint64_t *p = rmw_begin(c, o, linear, 16);
    if (p) {
        old[0] = expected[0];
        old[1] = expected[1];
#if defined(__x86_64__)
        __asm__ volatile("lock cmpxchg16b %0"
                         : "+m"(*(uint128_t *)p), "+a"(old[0]), "+d"(old[1]), "=@ccz"(equal)
                         : "b"(R64(X86_RBX)), "c"(R64(X86_RCX))
                         : "memory");
#else
        uint128_t e = (uint128_t)expected[1] << 64 | expected[0];
        equal = __atomic_compare_exchange_n((uint128_t *)p, &e, (uint128_t)R64(X86_RCX) << 64 | R64(X86_RBX), false, __ATOMIC_SEQ_CST,
                                            __ATOMIC_SEQ_CST);
        old[0] = (uint64_t)e;
        old[1] = (uint64_t)(e >> 64);
#endif
        rmw_end(c, o, linear, p, 16);
    } else { /* device memory: no atomicity to keep */
        interp_load_bytes(c, o, linear, old, 16);
        equal = old[0] == expected[0] && old[1] == expected[1];
        uint64_t v[2] = { equal ? R64(X86_RBX) : old[0], equal ? R64(X86_RCX) : old[1] };
        interp_store_bytes(c, o, linear, v, 16);
    }
    uint64_t f = interp_flags(c) & ~(uint64_t)X86_ZF;
    if (equal) {
        f |= X86_ZF;
    } else {
        W64(X86_RAX, old[0]);
        W64(X86_RDX, old[1]);
    }
    interp_set_arith(c, f);
}
static void CMPXCHG16B(struct icpu *c, const struct iop *o)
{
    cmpxchg16b(c, o);
    INTERP_NEXT(c, o);
}
static void BOUND(struct icpu *c, const struct iop *o)
{
    uint64_t linear = interp_linear(c, o, o->size * 2, false);
    int64_t low, high, index;
    if (o->size == 2) {
        low = (int16_t)interp_load16(c, o, linear);
        high = (int16_t)interp_load16(c, o, linear + 2);
        index = (int16_t)R16(o->a);
    } else {
        low = (int32_t)interp_load32(c, o, linear);
        high = (int32_t)interp_load32(c, o, linear + 4);
        index = (int32_t)R32(o->a);
    }
    if (index < low || index > high)
        interp_fault(c, o, X86_BR);
    INTERP_NEXT(c, o);
}


static bool lower_alu(const struct x86_insn *i, struct iop *o, const form_table t)
{
    const struct x86_operand *d = &i->operand[0], *s = &i->operand[1];
    unsigned n = size_index(d->size), f;
    o->imm = i->imm;
    if (d->kind == X86_REG) {
        o->a = reg_of(d);
        f = s->kind == X86_REG ? RR : s->kind == X86_IMM ? RI : RM;
    } else {
        f = s->kind == X86_IMM ? (i->lock ? LMI : MI) : (i->lock ? LMR : MR);
    }
    if (s->kind == X86_REG)
        o->b = reg_of(s);
    o->fn = t[f][n];
    return o->fn != NULL;
}
static bool lower_one(const struct x86_insn *i, struct iop *o, const one_table t)
{
    const struct x86_operand *d = &i->operand[0];
    if (d->kind == X86_REG)
        o->a = reg_of(d);
    o->fn = t[d->kind == X86_REG ? 0 : i->lock ? 2 : 1][size_index(d->size)];
    return true;
}
/* Source is operand s (register: into o->a when it is the only one). */
static bool lower_rm(const struct x86_insn *i, struct iop *o, const rm_table t)
{
    const struct x86_operand *d = &i->operand[0], *s = &i->operand[i->operand_count > 1 ? 1 : 0];
    if (d->kind == X86_REG)
        o->a = reg_of(d);
    if (i->operand_count > 1 && s->kind == X86_REG)
        o->b = reg_of(s);
    o->fn = t[s->kind == X86_MEM][size_index(s->size)];
    return o->fn != NULL;
}
static bool lower_shift(const struct x86_insn *i, struct iop *o, unsigned kind)
{
    const struct x86_operand *d = &i->operand[0];
    unsigned n = size_index(d->size);
    bool by_cl = i->operand[1].kind == X86_REG, reg = d->kind == X86_REG;
    if (reg)
        o->a = reg_of(d);
    o->imm = i->imm & (d->size == 8 ? 63 : 31);
    o->extra = kind | (by_cl ? SHIFT_CL : 0);
    o->fn = shift_table[!reg][n];
    static iop_fn *const constant[3][4] = { { SHL_ri8, SHL_ri16, SHL_ri32, SHL_ri64 }, { SHR_ri8, SHR_ri16, SHR_ri32, SHR_ri64 },
                                           { SAR_ri8, SAR_ri16, SAR_ri32, SAR_ri64 } };
    if (reg && !by_cl && o->imm && kind >= SHIFT_SHL)
        o->fn = constant[kind - SHIFT_SHL][n];
    return true;
}
static bool lower_bit(const struct x86_insn *i, struct iop *o, unsigned kind)
{
    const struct x86_operand *d = &i->operand[0], *s = &i->operand[1];
    o->extra = kind | (i->lock ? BIT_LOCK : 0) | (s->kind == X86_REG ? 8 : 0);
    o->imm = i->imm;
    if (d->kind == X86_REG)
        o->a = reg_of(d);
    if (s->kind == X86_REG)
        o->b = reg_of(s);
    o->fn = bit_table[d->kind == X86_MEM][size_index(d->size)];
    return true;
}
static bool lower_extend(const struct x86_insn *i, struct iop *o, bool sign)
{
    const struct x86_operand *d = &i->operand[0], *s = &i->operand[1];
    unsigned to = size_index(d->size) - 1, from = size_index(s->size);
    bool mem = s->kind == X86_MEM;
    static iop_fn *const zero[2][2][3] = { { { MOVZX_r8_16, MOVZX_r8_32, MOVZX_r8_32 }, { MOVZX_r16_16, MOVZX_r16_32, MOVZX_r16_32 } },
                                           { { MOVZX_m8_16, MOVZX_m8_32, MOVZX_m8_32 }, { MOVZX_m16_16, MOVZX_m16_32, MOVZX_m16_32 } } };
    static iop_fn *const signs[2][3][3] = {
        { { MOVSX_r8_16, MOVSX_r8_32, MOVSX_r8_64 }, { MOVSX_r16_16, MOVSX_r16_32, MOVSX_r16_64 }, { MOV_rr16, MOV_rr32, MOVSX_r32_64 } },
        { { MOVSX_m8_16, MOVSX_m8_32, MOVSX_m8_64 }, { MOVSX_m16_16, MOVSX_m16_32, MOVSX_m16_64 }, { MOV_rm16, MOV_rm32, MOVSX_m32_64 } },
    };
    o->a = reg_of(d);
    if (!mem)
        o->b = reg_of(s);
    o->fn = sign ? signs[mem][from][to] : zero[mem][from][to];
    return true;
}
#define FOUR(NAME, form) ((iop_fn *const[4]){ NAME##_##form##8, NAME##_##form##16, NAME##_##form##32, NAME##_##form##64 })
static bool lower_mov(struct icpu *c, const struct x86_insn *i, struct iop *o)
{
    const struct x86_operand *d = &i->operand[0], *s = &i->operand[1];
    unsigned n = size_index(d->size);
    /* base + disp only, and a segment that adds nothing */
    bool simple = o->index == X86_ZERO && !o->slow_segment && o->amask == ~0ull && (c->mode & IMODE_CODE) == X86_MODE64 &&
                  o->seg != X86_FS && o->seg != X86_GS;
    o->imm = i->imm;
    if (d->kind == X86_REG)
        o->a = reg_of(d);
    if (s->kind == X86_REG)
        o->b = reg_of(s);
    if (d->kind == X86_REG)
        o->fn = (s->kind == X86_REG ? FOUR(MOV, rr) : s->kind == X86_IMM ? FOUR(MOV, ri) : simple ? FOUR(MOV, rs) : FOUR(MOV, rm))[n];
    else
        o->fn = (s->kind == X86_IMM ? FOUR(MOV, mi) : simple ? FOUR(MOV, sr) : FOUR(MOV, mr))[n];
    return true;
}
/* XCHG, XADD, CMPXCHG: memory forms have the register second (XCHG reg, mem is turned around). */
static bool lower_exchange(const struct x86_insn *i, struct iop *o, iop_fn *const rr[4], iop_fn *const mr[4])
{
    const struct x86_operand *d = &i->operand[0], *s = &i->operand[1];
    if (d->kind == X86_REG && s->kind == X86_MEM) {
        const struct x86_operand *t = d;
        d = s;
        s = t;
    }
    unsigned n = size_index(d->size);
    if (d->kind == X86_REG)
        o->a = reg_of(d);
    o->b = reg_of(s);
    o->fn = (d->kind == X86_REG ? rr : mr)[n];
    return true;
}

bool interp_lower_integer(struct icpu *c, const struct x86_insn *i, struct iop *o, bool *need_insn)
{
    const struct x86_operand *d = &i->operand[0], *s = &i->operand[1];
    unsigned n = size_index(i->operand_size) - 1; /* 16, 32, 64 */
    switch (i->op) {
    case X86_OP_ADD: return lower_alu(i, o, add_table);
    case X86_OP_ADC: return lower_alu(i, o, adc_table);
    case X86_OP_SUB: return lower_alu(i, o, sub_table);
    case X86_OP_SBB: return lower_alu(i, o, sbb_table);
    case X86_OP_AND: return lower_alu(i, o, and_table);
    case X86_OP_OR: return lower_alu(i, o, or_table);
    case X86_OP_XOR:
        lower_alu(i, o, xor_table);
        if (d->kind == X86_REG && s->kind == X86_REG && o->a == o->b && d->size >= 4)
            o->fn = zero_r32;
        return true;
    case X86_OP_CMP: return lower_alu(i, o, cmp_table);
    case X86_OP_TEST: return lower_alu(i, o, test_table);
    case X86_OP_INC: return lower_one(i, o, inc_table);
    case X86_OP_DEC: return lower_one(i, o, dec_table);
    case X86_OP_NEG: return lower_one(i, o, neg_table);
    case X86_OP_NOT: return lower_one(i, o, not_table);
    case X86_OP_MOV:
        if ((d->kind == X86_REG && d->reg_class > X86_RC_GPR8H) || (s->kind == X86_REG && s->reg_class > X86_RC_GPR8H))
            return false;
        return lower_mov(c, i, o);
    case X86_OP_MOVNTI: return lower_mov(c, i, o);
    case X86_OP_MOVZX: return lower_extend(i, o, false);
    case X86_OP_MOVSX:
    case X86_OP_MOVSXD: return lower_extend(i, o, true);
    case X86_OP_LEA: {
        o->a = d->reg;
        o->fn = n == 0 ? LEA16 : n == 1 ? LEA32 : o->index == X86_ZERO && o->amask == ~0ull ? LEA64s : LEA64;
        return true;
    }
    case X86_OP_XCHG: return lower_exchange(i, o, FOUR(XCHG, rr), FOUR(XCHG, mr));
    case X86_OP_XADD: return lower_exchange(i, o, FOUR(XADD, rr), FOUR(XADD, mr));
    case X86_OP_CMPXCHG: return lower_exchange(i, o, FOUR(CMPXCHG, rr), FOUR(CMPXCHG, mr));
    case X86_OP_CMPXCHG8B: o->fn = CMPXCHG8B; return true;
    case X86_OP_CMPXCHG16B: o->fn = CMPXCHG16B; return true;
    case X86_OP_ROL: return lower_shift(i, o, SHIFT_ROL);
    case X86_OP_ROR: return lower_shift(i, o, SHIFT_ROR);
    case X86_OP_RCL: return lower_shift(i, o, SHIFT_RCL);
    case X86_OP_RCR: return lower_shift(i, o, SHIFT_RCR);
    case X86_OP_SHL: return lower_shift(i, o, SHIFT_SHL);
    case X86_OP_SHR: return lower_shift(i, o, SHIFT_SHR);
    case X86_OP_SAR: return lower_shift(i, o, SHIFT_SAR);
    case X86_OP_SHLD:
    case X86_OP_SHRD: {
        bool by_cl = i->operand[2].kind == X86_REG;
        if (d->kind == X86_REG)
            o->a = d->reg;
        o->b = s->reg;
        o->imm = i->imm;
        o->extra = (i->op == X86_OP_SHRD) | (by_cl ? SHIFT_CL : 0);
        o->fn = shiftd_table[d->kind == X86_MEM][size_index(d->size)];
        return true;
    }
    case X86_OP_MUL: return lower_rm(i, o, mul_table);
    case X86_OP_DIV: return lower_rm(i, o, div_table);
    case X86_OP_IDIV: return lower_rm(i, o, idiv_table);
    case X86_OP_IMUL: {
        if (i->operand_count < 2 || (s->kind == X86_REG && i->opcode == 0xf7) || i->opcode == 0xf6) {
            if (d->kind == X86_REG)
                o->a = reg_of(d);
            o->fn = imul_table[d->kind == X86_MEM][size_index(d->size)];
            return true;
        }
        static iop_fn *const t[4][3] = { { IMUL_rr16, IMUL_rr32, IMUL_rr64 }, { IMUL_rri16, IMUL_rri32, IMUL_rri64 },
                                         { IMUL_rm16, IMUL_rm32, IMUL_rm64 }, { IMUL_rmi16, IMUL_rmi32, IMUL_rmi64 } };
        o->a = d->reg;
        if (s->kind == X86_REG)
            o->b = s->reg;
        o->imm = i->imm;
        o->fn = t[(s->kind == X86_MEM) * 2 + (i->operand_count > 2)][n];
        return true;
    }
    case X86_OP_BT: return lower_bit(i, o, BIT_TEST);
    case X86_OP_BTS: return lower_bit(i, o, BIT_SET);
    case X86_OP_BTR: return lower_bit(i, o, BIT_RESET);
    case X86_OP_BTC: return lower_bit(i, o, BIT_COMPLEMENT);
    case X86_OP_BSF: return lower_rm(i, o, bsf_table);
    case X86_OP_BSR: return lower_rm(i, o, bsr_table);
    case X86_OP_POPCNT: return lower_rm(i, o, popcnt_table);
    case X86_OP_LZCNT: return lower_rm(i, o, lzcnt_table);
    case X86_OP_TZCNT: return lower_rm(i, o, tzcnt_table);
    case X86_OP_CRC32: return lower_rm(i, o, crc32_table);
    case X86_OP_BSWAP:
        o->a = d->reg;
        o->fn = n == 0 ? BSWAP16 : n == 1 ? BSWAP32 : BSWAP64;
        return true;
    case X86_OP_MOVBE:
        if (d->kind == X86_REG)
            o->a = d->reg;
        else
            o->b = s->reg;
        o->fn = (d->kind == X86_REG ? ((iop_fn *const[]){MOVBE_rm16, MOVBE_rm32, MOVBE_rm64})
                                    : ((iop_fn *const[]){MOVBE_mr16, MOVBE_mr32, MOVBE_mr64}))[n];
        return true;
    case X86_OP_NOP:
    case X86_OP_PAUSE: o->fn = NOP; return true;
    case X86_OP_LFENCE:
    case X86_OP_SFENCE: o->fn = NOP; return true;
    case X86_OP_CBW: o->fn = n == 0 ? CBW : n == 1 ? CWDE : CDQE; return true;
    case X86_OP_CWD: o->fn = n == 0 ? CWD : n == 1 ? CDQ : CQO; return true;
    case X86_OP_CLC: o->fn = CLC; return true;
    case X86_OP_STC: o->fn = STC; return true;
    case X86_OP_CMC: o->fn = CMC; return true;
    case X86_OP_CLD: o->fn = CLD; return true;
    case X86_OP_STD: o->fn = STD; return true;
    case X86_OP_LAHF: o->fn = LAHF; return true;
    case X86_OP_SAHF: o->fn = SAHF; return true;
    case X86_OP_SALC: o->fn = SALC; return true;
    case X86_OP_XLAT:
        o->base = X86_RBX;
        o->index = X86_ZERO;
        o->disp = 0;
        o->fn = XLAT;
        return true;
    case X86_OP_DAA: o->fn = DAA; return true;
    case X86_OP_DAS: o->fn = DAS; return true;
    case X86_OP_AAA: o->fn = AAA; return true;
    case X86_OP_AAS: o->fn = AAS; return true;
    case X86_OP_AAM: o->imm = i->imm; o->fn = AAM; return true;
    case X86_OP_AAD: o->imm = i->imm; o->fn = AAD; return true;
    case X86_OP_BOUND: o->size = i->operand_size; o->a = d->reg; o->fn = BOUND; return true;
    default: return false;
    }
}
