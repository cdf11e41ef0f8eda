/* engine/interp/fxstate.c - FXSAVE and XSAVE families, LDMXCSR, STMXCSR.
 *
 * Model: states x87 (0) and SSE (1) in the standard format. The x87 state counts as in use unless it is the initial one, SSE always, as
 * AMD's processors have it; XSAVEOPT only leaves out states not in use. The save forms read the area, change what they own and write it
 * back whole, so that a fault changes nothing. As AMD's processors do, the last instruction and operand pointers are saved as zeros unless
 * an unmasked x87 exception is pending.
 * Source: Intel SDM vol. 1 ch. 10.5, 13.4-13.8; AMD APM vol. 2 11.4.
 */
#include "engine/interp/interp_sse.h"
#include "engine/interp/interp_x87.h"

enum { AREA_MXCSR = 24, AREA_MXCSR_MASK = 28, AREA_ST = 32, AREA_XMM = 160, AREA_LEGACY = 512, AREA_HEADER = 512, AREA_XSAVE = 576 };
enum { STATE_X87 = 1, STATE_SSE = 2, STATES = STATE_X87 | STATE_SSE };

/* o->extra */
enum { LAYOUT_REX_W = 1, LAYOUT_XMM16 = 2, SAVE_USED = 4 };

static void put_x87(const struct icpu *c, const struct iop *o, uint8_t *area)
{
    const struct x86_fpu *f = &c->s.fpu;
    bool pending = f->fsw & X87_ES;
    dp_st16(area, f->fcw);
    dp_st16(area + 2, f->fsw);
    area[4] = (uint8_t)f->ftw;
    area[5] = 0;
    dp_st16(area + 6, pending ? f->fop : 0);
    dp_st64(area + 8, pending ? f->fip : 0);
    dp_st64(area + 16, pending ? f->fdp : 0);
    if (!(o->extra & LAYOUT_REX_W)) {
        dp_st32(area + 12, pending ? f->fcs : 0);
        dp_st32(area + 20, pending ? f->fds : 0);
    }
    uint8_t st[8][16];
    x87_get_stack(c, st);
    memcpy(area + AREA_ST, st, sizeof st);
    for (unsigned i = 0; i < 8; i++)
        memset(area + AREA_ST + 16 * i + 10, 0, 6);
}

static void get_x87(struct icpu *c, const struct iop *o, const uint8_t *area)
{
    struct x86_fpu *f = &c->s.fpu;
    uint8_t st[8][16];
    f->ftw = area[4];
    f->fop = dp_ld16(area + 6) & 0x7ff;
    if (o->extra & LAYOUT_REX_W) {
        f->fip = dp_ld64(area + 8);
        f->fdp = dp_ld64(area + 16);
        f->fcs = f->fds = 0;
    } else {
        f->fip = dp_ld32(area + 8);
        f->fcs = dp_ld16(area + 12);
        f->fdp = dp_ld32(area + 16);
        f->fds = dp_ld16(area + 20);
    }
    x87_set_control(c, dp_ld16(area), dp_ld16(area + 2));
    memcpy(st, area + AREA_ST, sizeof st);
    x87_set_stack(c, st);
}

static unsigned xmm_count(const struct iop *o) { return o->extra & LAYOUT_XMM16 ? 16 : 8; }

static void put_mxcsr(struct icpu *c, uint8_t *area)
{
    interp_fpu_save(c);
    dp_st32(area + AREA_MXCSR, c->s.mxcsr);
    dp_st32(area + AREA_MXCSR_MASK, MXCSR_VALID);
}
static void put_xmm(const struct icpu *c, const struct iop *o, uint8_t *area)
{
    for (unsigned i = 0; i < xmm_count(o); i++)
        memcpy(area + AREA_XMM + 16 * i, c->s.vec[i], 16);
}
static void get_xmm(struct icpu *c, const struct iop *o, const uint8_t *area)
{
    for (unsigned i = 0; i < xmm_count(o); i++)
        memcpy(c->s.vec[i], area + AREA_XMM + 16 * i, 16);
}

static uint64_t fx_linear(struct icpu *c, const struct iop *o, bool write)
{
    return fpu_linear_series(c, o, &(struct fpu_series){AREA_LEGACY, 16, 16, 16, write, FPU_LAST});
}
static uint64_t xsave_linear(struct icpu *c, const struct iop *o, bool write)
{
    if ((interp_ea(c, o) + c->segbase[o->seg]) & 63) /* before anything else, unlike FXSAVE's */
        interp_fault_code(c, o, X86_GP, 0);
    return fpu_linear_series(c, o, &(struct fpu_series){AREA_XSAVE, 16, 64, 64, write, FPU_FIRST_THEN_LAST});
}

FPU_CALL_HANDLER(fxsave)
{
    uint8_t area[AREA_LEGACY];
    uint64_t linear = fx_linear(c, o, true);
    put_x87(c, o, area);
    put_mxcsr(c, area);
    put_xmm(c, o, area);
    interp_store_bytes(c, o, linear, area, AREA_XMM + 16 * xmm_count(o)); /* what follows is not touched */
}

FPU_CALL_HANDLER(fxrstor)
{
    uint8_t area[AREA_LEGACY];
    interp_load_bytes(c, o, fx_linear(c, o, false), area, sizeof area);
    if (dp_ld32(area + AREA_MXCSR) & ~MXCSR_VALID)
        interp_fault_code(c, o, X86_GP, 0);
    get_x87(c, o, area);
    sse_set_mxcsr(c, dp_ld32(area + AREA_MXCSR));
    get_xmm(c, o, area);
}

static uint64_t in_use(const struct icpu *c)
{
    const struct x86_fpu *f = &c->s.fpu;
    static const uint8_t zero[8][16];
    bool initial = f->fcw == X87_FCW_INIT && !f->fsw && !f->ftw && !f->fop && !f->fip && !f->fdp && !memcmp(f->st, zero, sizeof zero);
    return initial ? STATE_SSE : STATES;
}

/* States the instruction is about: asked for in EDX:EAX and enabled. */
static uint64_t requested(const struct icpu *c) { return (c->s.r[X86_RDX] << 32 | (uint32_t)c->s.r[X86_RAX]) & c->s.xcr0 & STATES; }

FPU_CALL_HANDLER(xsave)
{
    uint8_t area[AREA_XSAVE];
    uint64_t linear = xsave_linear(c, o, true), states = requested(c);
    interp_load_bytes(c, o, linear, area, sizeof area);
    uint64_t used = states & in_use(c), written = o->extra & SAVE_USED ? used : states;
    if (written & STATE_X87)
        put_x87(c, o, area);
    if (states & STATE_SSE) {
        put_mxcsr(c, area);
        put_xmm(c, o, area);
    }
    dp_st64(area + AREA_HEADER, (dp_ld64(area + AREA_HEADER) & ~states) | used);
    interp_store_bytes(c, o, linear, area, AREA_HEADER + 8);
}

FPU_CALL_HANDLER(xrstor)
{
    uint8_t area[AREA_XSAVE];
    interp_load_bytes(c, o, xsave_linear(c, o, false), area, sizeof area);
    uint64_t states = requested(c), present = dp_ld64(area + AREA_HEADER);
    if (present & ~c->s.xcr0 || dp_ld64(area + AREA_HEADER + 8) || dp_ld64(area + AREA_HEADER + 16))
        interp_fault_code(c, o, X86_GP, 0);
    if (states & STATE_SSE && dp_ld32(area + AREA_MXCSR) & ~MXCSR_VALID)
        interp_fault_code(c, o, X86_GP, 0);
    if (states & STATE_X87) {
        if (present & STATE_X87) {
            get_x87(c, o, area);
        } else {
            x87_init(c);
            memset(c->s.fpu.st, 0, sizeof c->s.fpu.st);
        }
    }
    if (states & STATE_SSE) {
        sse_set_mxcsr(c, dp_ld32(area + AREA_MXCSR)); /* loaded whether or not the state is present */
        if (!(present & STATE_SSE))
            memset(area + AREA_XMM, 0, 256);
        get_xmm(c, o, area);
    }
}

SSE_HANDLER(ldmxcsr)
{
    uint32_t v = sse_load32(c, o);
    if (v & ~MXCSR_VALID)
        interp_fault_code(c, o, X86_GP, 0);
    sse_set_mxcsr(c, v);
    INTERP_NEXT(c, o);
}

SSE_HANDLER(stmxcsr)
{
    interp_fpu_save(c);
    interp_store32(c, o, interp_linear(c, o, 4, true), c->s.mxcsr);
    INTERP_NEXT(c, o);
}

bool sse_lower_state(struct icpu *c, const struct x86_insn *i, struct iop *o)
{
    bool x = false;
    switch (i->op) {
    case X86_OP_LDMXCSR:
        o->fn = ldmxcsr;
        return true;
    case X86_OP_STMXCSR:
        o->fn = stmxcsr;
        return true;
    case X86_OP_FXSAVE:
        o->fn = fxsave;
        break;
    case X86_OP_FXRSTOR:
        o->fn = fxrstor;
        break;
    case X86_OP_XSAVE:
    case X86_OP_XSAVEOPT:
        o->fn = xsave;
        x = true;
        break;
    case X86_OP_XRSTOR:
        o->fn = xrstor;
        x = true;
        break;
    default:
        return false;
    }
    o->extra = (i->rex_w ? LAYOUT_REX_W : 0) | ((c->mode & IMODE_CODE) == X86_MODE64 ? LAYOUT_XMM16 : 0) |
               (i->op == X86_OP_XSAVEOPT ? SAVE_USED : 0);
    if (x && !(c->mode & IMODE_OSXSAVE))
        o->fn = interp_op_ud;
    else if (x && c->mode & IMODE_SSE_NM) /* of the FX forms block.c has seen to it */
        o->fn = interp_op_nm;
    return true;
}
