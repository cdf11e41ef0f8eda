/* engine/interp/x87_env.c - x87 control instructions: control and status word, environment, whole state.
 *
 * Model: all in software on s.fpu. The environment has four layouts, by operand size and by whether the processor is in protected mode
 * (pointers as selector and offset) or in real or virtual-8086 mode (as linear addresses).
 * Source: Intel SDM vol. 1 8.1.10 figures 8-9 to 8-12; vol. 2 FLDENV, FSAVE, FLDCW.
 */
#include "engine/interp/interp_x87.h"

#define HANDLER(name) static void name(struct icpu *c, const struct iop *o)

/* The environment and the state take 14 or 28 bytes and 80 more. */
static uint64_t env_linear(struct icpu *c, const struct iop *o, unsigned size, bool write)
{
    unsigned word = o->size == 2 ? 2 : 4;
    return fpu_linear_series(c, o, &(struct fpu_series){size, word, word, 0, write, FPU_FIRST_THEN_LAST});
}

HANDLER(fnstsw_ax)
{
    dp_st16(&c->s.r[X86_RAX], c->s.fpu.fsw);
    INTERP_NEXT(c, o);
}
HANDLER(fnstsw_m)
{
    interp_store16(c, o, interp_linear(c, o, 2, true), c->s.fpu.fsw);
    INTERP_NEXT(c, o);
}
HANDLER(fnstcw)
{
    interp_store16(c, o, interp_linear(c, o, 2, true), c->s.fpu.fcw);
    INTERP_NEXT(c, o);
}
HANDLER(fldcw)
{
    x87_wait(c, o);
    uint16_t fcw = interp_load16(c, o, interp_linear(c, o, 2, false));
    x87_set_control(c, fcw, c->s.fpu.fsw);
    INTERP_NEXT(c, o);
}
HANDLER(fnclex)
{
    x87_set_control(c, c->s.fpu.fcw, c->s.fpu.fsw & ~(X87_FLAGS | X87_SF));
    INTERP_NEXT(c, o);
}
HANDLER(fninit)
{
    x87_init(c);
    INTERP_NEXT(c, o);
}
HANDLER(fwait)
{
    x87_wait(c, o);
    INTERP_NEXT(c, o);
}

/* ---- environment ---- */
enum { ENV16 = 14, ENV32 = 28, STACK = 80 };

/* The two-bit tags: 0 valid, 1 zero, 2 special, 3 empty. */
static uint16_t full_tags(const struct x86_fpu *f)
{
    unsigned tags = 0;
    for (unsigned i = 0; i < 8; i++) {
        uint64_t significand = dp_ld64(f->st[i]);
        unsigned exponent = dp_ld16(f->st[i] + 8) & 0x7fff, tag = 0;
        if (!(f->ftw >> i & 1))
            tag = 3;
        else if (exponent == 0 && significand == 0)
            tag = 1;
        else if (exponent == 0 || exponent == 0x7fff || !(significand >> 63))
            tag = 2;
        tags |= tag << 2 * i;
    }
    return (uint16_t)tags;
}

static uint16_t short_tags(unsigned tags)
{
    unsigned in_use = 0;
    for (unsigned i = 0; i < 8; i++)
        in_use |= (unsigned)((tags >> 2 * i & 3) != 3) << i;
    return (uint16_t)in_use;
}

static bool protected_layout(const struct icpu *c) { return x86_protected(&c->s) && !x86_v86(&c->s); }

static unsigned pack_env(const struct icpu *c, unsigned operand_size, uint8_t *e)
{
    const struct x86_fpu *f = &c->s.fpu;
    uint16_t tags = full_tags(f);
    uint32_t ip = (uint32_t)f->fip, dp = (uint32_t)f->fdp;
    if (!protected_layout(c)) {
        ip += (uint32_t)f->fcs << 4;
        dp += (uint32_t)f->fds << 4;
    }
    if (operand_size == 2) {
        dp_st16(e, f->fcw);
        dp_st16(e + 2, f->fsw);
        dp_st16(e + 4, tags);
        dp_st16(e + 6, (uint16_t)ip);
        dp_st16(e + 10, (uint16_t)dp);
        dp_st16(e + 8, protected_layout(c) ? f->fcs : (uint16_t)((ip >> 16 & 0xf) << 12 | f->fop));
        dp_st16(e + 12, protected_layout(c) ? f->fds : (uint16_t)((dp >> 16 & 0xf) << 12));
        return ENV16;
    }
    dp_st32(e, 0xffff0000u | f->fcw);
    dp_st32(e + 4, 0xffff0000u | f->fsw);
    dp_st32(e + 8, 0xffff0000u | tags);
    if (protected_layout(c)) {
        dp_st32(e + 12, ip);
        dp_st32(e + 16, (uint32_t)f->fop << 16 | f->fcs);
        dp_st32(e + 20, dp);
        dp_st32(e + 24, 0xffff0000u | f->fds);
    } else {
        dp_st32(e + 12, 0xffff0000u | (ip & 0xffff));
        dp_st32(e + 16, ip >> 16 << 12 | f->fop);
        dp_st32(e + 20, 0xffff0000u | (dp & 0xffff));
        dp_st32(e + 24, dp >> 16 << 12);
    }
    return ENV32;
}

static void unpack_env(struct icpu *c, unsigned operand_size, const uint8_t *e)
{
    struct x86_fpu *f = &c->s.fpu;
    uint16_t fcw, fsw, tags;
    if (operand_size == 2) {
        fcw = dp_ld16(e);
        fsw = dp_ld16(e + 2);
        tags = dp_ld16(e + 4);
        f->fip = dp_ld16(e + 6);
        f->fdp = dp_ld16(e + 10);
        f->fcs = dp_ld16(e + 8);
        f->fds = dp_ld16(e + 12);
        if (!protected_layout(c)) {
            f->fop = f->fcs & 0x7ff;
            f->fip |= (uint32_t)(f->fcs & 0xf000) << 4;
            f->fdp |= (uint32_t)(f->fds & 0xf000) << 4;
            f->fcs = f->fds = 0;
        } else {
            f->fop = 0;
        }
    } else {
        fcw = dp_ld16(e);
        fsw = dp_ld16(e + 4);
        tags = dp_ld16(e + 8);
        f->fop = (protected_layout(c) ? dp_ld16(e + 18) : dp_ld16(e + 16)) & 0x7ff;
        if (protected_layout(c)) {
            f->fip = dp_ld32(e + 12);
            f->fcs = dp_ld16(e + 16);
            f->fdp = dp_ld32(e + 20);
            f->fds = dp_ld16(e + 24);
        } else {
            f->fip = dp_ld16(e + 12) | (dp_ld32(e + 16) & 0x0ffff000u) << 4;
            f->fdp = dp_ld16(e + 20) | (dp_ld32(e + 24) & 0x0ffff000u) << 4;
            f->fcs = f->fds = 0;
        }
    }
    f->ftw = short_tags(tags);
    x87_set_control(c, fcw, fsw);
}

FPU_CALL_HANDLER(fnstenv)
{
    uint8_t e[ENV32];
    unsigned size = o->size == 2 ? ENV16 : ENV32;
    uint64_t linear = env_linear(c, o, size, true);
    pack_env(c, o->size, e);
    interp_store_bytes(c, o, linear, e, size);
    x87_set_control(c, c->s.fpu.fcw | X87_FLAGS, c->s.fpu.fsw);
}
FPU_CALL_HANDLER(fldenv)
{
    uint8_t e[ENV32];
    unsigned size = o->size == 2 ? ENV16 : ENV32;
    x87_wait(c, o);
    interp_load_bytes(c, o, env_linear(c, o, size, false), e, size);
    unpack_env(c, o->size, e);
}
FPU_CALL_HANDLER(fnsave)
{
    uint8_t e[ENV32 + STACK], st[8][16];
    unsigned env = o->size == 2 ? ENV16 : ENV32;
    uint64_t linear = env_linear(c, o, env + STACK, true);
    pack_env(c, o->size, e);
    x87_get_stack(c, st);
    for (unsigned i = 0; i < 8; i++)
        memcpy(e + env + 10 * i, st[i], 10);
    interp_store_bytes(c, o, linear, e, env + STACK);
    x87_init(c);
}
FPU_CALL_HANDLER(frstor)
{
    uint8_t e[ENV32 + STACK], st[8][16];
    unsigned env = o->size == 2 ? ENV16 : ENV32;
    x87_wait(c, o);
    interp_load_bytes(c, o, env_linear(c, o, env + STACK, false), e, env + STACK);
    unpack_env(c, o->size, e);
    for (unsigned i = 0; i < 8; i++)
        memcpy(st[i], e + env + 10 * i, 10);
    x87_set_stack(c, st);
}

static void fneni(struct icpu *c, const struct iop *o) { INTERP_NEXT(c, o); }

bool x87_lower_env(const struct x86_insn *i, struct iop *o)
{
    o->size = i->operand_size;
    switch (i->op) {
    case X86_OP_FNSTSW:
        o->fn = i->operand[0].kind == X86_MEM ? fnstsw_m : fnstsw_ax;
        return true;
    case X86_OP_FNSTCW:
        o->fn = fnstcw;
        return true;
    case X86_OP_FLDCW:
        o->fn = fldcw;
        return true;
    case X86_OP_FNCLEX:
        o->fn = fnclex;
        return true;
    case X86_OP_FNINIT:
        o->fn = fninit;
        return true;
    case X86_OP_FNOP: /* D9 D0 waits; FNENI and its like do not */
        if (!(i->row->flags & X86_F_X87NW))
            return false;
        o->fn = fneni;
        return true;
    case X86_OP_FWAIT:
        o->fn = fwait;
        return true;
    case X86_OP_FNSTENV:
        o->fn = fnstenv;
        return true;
    case X86_OP_FLDENV:
        o->fn = fldenv;
        return true;
    case X86_OP_FNSAVE:
        o->fn = fnsave;
        return true;
    case X86_OP_FRSTOR:
        o->fn = frstor;
        return true;
    default:
        return false;
    }
}
