/* engine/interp/bmi.c - BMI1, BMI2 and ADX: integer instructions on 4- and 8-byte operands, most of them VEX-encoded.
 *
 * Model: as in integer.c, a handler for each width and source form. x is the r/m source, y the register in VEX.vvvv (o->extra), a the
 * destination. TZCNT and LZCNT, which are not VEX-encoded, stand in integer.c.
 * Source: Intel SDM vol. 2.
 */
#include "engine/interp/interp_integer.h"

#define BMI(NAME, bits, body)                                                                                                              \
    static void NAME##_r##bits(struct icpu *c, const struct iop *o)                                                                        \
    {                                                                                                                                      \
        uint##bits##_t x = R##bits(o->b), y = R##bits(o->extra), r;                                                                        \
        body;                                                                                                                              \
        W##bits(o->a, r);                                                                                                                  \
        INTERP_NEXT(c, o);                                                                                                                 \
    }                                                                                                                                      \
    static void NAME##_m##bits(struct icpu *c, const struct iop *o)                                                                        \
    {                                                                                                                                      \
        uint##bits##_t x = interp_load##bits(c, o, interp_linear(c, o, bits / 8, false)), y = R##bits(o->extra), r;                        \
        body;                                                                                                                              \
        W##bits(o->a, r);                                                                                                                  \
        INTERP_NEXT(c, o);                                                                                                                 \
    }

/* The bits of x below n. */
#define LOW_BITS(bits, x, n) ((n) < bits ? (x) & (((uint##bits##_t)1 << ((n) & (bits - 1))) - 1) : (x))

/* ADCX and ADOX add with one flag as carry in and out and leave the others alone. */
static inline void set_of(struct icpu *c, unsigned of) { c->lf_aux = (c->lf_aux & ~(1u << 30)) | (interp_cf(c) ^ of) << 30; }

#define BMI_SIZES(bits)                                                                                                                    \
    BMI(ANDN, bits, r = ~y & x; set_cf_of(c, SIGNED(bits, r), 0, 0))                                                                       \
    BMI(BLSR, bits, (void)y; r = x & (x - 1); set_cf_of(c, SIGNED(bits, r), !x, 0))                                                        \
    BMI(BLSMSK, bits, (void)y; r = x ^ (x - 1); set_cf_of(c, SIGNED(bits, r), !x, 0))                                                      \
    BMI(BLSI, bits, (void)y; r = x & (0 - x); set_cf_of(c, SIGNED(bits, r), x != 0, 0))                                                    \
    BMI(BZHI, bits, unsigned n = y & 0xff; r = LOW_BITS(bits, x, n); set_cf_of(c, SIGNED(bits, r), n >= bits, 0))                          \
    BMI(BEXTR, bits, unsigned start = y & 0xff; unsigned n = y >> 8 & 0xff; r = start < bits ? x >> (start & (bits - 1)) : 0;              \
        r = LOW_BITS(bits, r, n); set_cf_of(c, SIGNED(bits, r), 0, 0))                                                                     \
    BMI(SHLX, bits, r = x << (y & (bits - 1)))                                                                                             \
    BMI(SHRX, bits, r = x >> (y & (bits - 1)))                                                                                             \
    BMI(SARX, bits, r = (uint##bits##_t)((int##bits##_t)x >> (y & (bits - 1))))                                                            \
    BMI(RORX, bits, (void)y; unsigned n = o->imm & (bits - 1); r = x >> n | x << (-n & (bits - 1)))                                        \
    BMI(PDEP, bits, __asm__("pdep %2, %1, %0" : "=r"(r) : "r"(y), "r"(x)))                                                                 \
    BMI(PEXT, bits, __asm__("pext %2, %1, %0" : "=r"(r) : "r"(y), "r"(x)))                                                                 \
    BMI(ADCX, bits, (void)y; unsigned k = interp_cf(c); uint##bits##_t d = R##bits(o->a); r = d + x + k;                                   \
        set_cf(c, r < d || (k && r == d)))                                                                                                 \
    BMI(ADOX, bits, (void)y; unsigned k = interp_of(c); uint##bits##_t d = R##bits(o->a); r = d + x + k; set_of(c, r < d || (k && r == d)))
BMI_SIZES(32)
BMI_SIZES(64)
/* The low half goes to VEX.vvvv, first: when both destinations are one register it is to hold the high half. */
BMI(MULX, 32, (void)y; uint64_t product = (uint64_t)R32(X86_RDX) * x; W32(o->extra, product); r = (uint32_t)(product >> 32))
BMI(MULX, 64, (void)y; unsigned __int128 product = (unsigned __int128)R64(X86_RDX) * x; W64(o->extra, (uint64_t)product);
    r = (uint64_t)(product >> 64))

#define ROW(NAME)                                                                                                                          \
    case X86_OP_##NAME:                                                                                                                    \
        o->fn = memory ? wide ? NAME##_m64 : NAME##_m32 : wide ? NAME##_r64 : NAME##_r32;                                                  \
        break;

bool interp_lower_bmi(struct icpu *c, const struct x86_insn *i, struct iop *o)
{
    bool wide = i->operand[0].size == 8, memory = i->has_modrm && i->mod != 3;
    switch (i->op) {
        ROW(ANDN)
        ROW(BLSR) ROW(BLSMSK) ROW(BLSI) ROW(BZHI) ROW(BEXTR) ROW(SHLX) ROW(SHRX) ROW(SARX) ROW(RORX) ROW(PDEP) ROW(PEXT) ROW(MULX) ROW(ADCX)
            ROW(ADOX) default : return false;
    }
    o->a = i->operand[0].reg;
    o->b = i->rm;
    o->extra = i->vvvv & ((c->mode & IMODE_CODE) == X86_MODE64 ? 15 : 7);
    o->imm = i->imm;
    return true;
}
