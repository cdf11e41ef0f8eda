/* engine/interp/fxstate.c - FXSAVE and XSAVE families, LDMXCSR, STMXCSR.
 *
 * Model: what areas look like and which are legal is in isa/x86/xsave.c; here are operands, faults and their order. A save probes both
 * ends of the area before its first store, so that a fault changes nothing, and stores only the pieces the instruction owns. A restore
 * copies the area before anything looks at it.
 * Source: Intel SDM vol. 1 ch. 10.5, 13.7-13.10; AMD APM vol. 2 11.4.
 */
#include "engine/interp/interp_sse.h"
#include "isa/x86/xsave.h"

/* o->extra holds enum x86_xsave_form above the encoding's flags. */
enum { EXTRA_FORM = 4 };
static enum x86_xsave_form form_of(const struct iop *o) { return o->extra >> EXTRA_FORM; }
static unsigned flags_of(const struct iop *o) { return o->extra & ((1u << EXTRA_FORM) - 1); }

static uint64_t fx_linear(struct icpu *c, const struct iop *o, bool write)
{
    return fpu_linear_series(c, o, &(struct fpu_series){X86_FXSAVE_SIZE, 16, 16, 16, write, FPU_LAST});
}
static uint64_t xsave_linear(struct icpu *c, const struct iop *o, unsigned size, bool write)
{
    if ((interp_ea(c, o) + c->segbase[o->seg]) & 63) /* before anything else, unlike FXSAVE's */
        interp_fault_code(c, o, X86_GP, 0);
    return fpu_linear_series(c, o, &(struct fpu_series){size, 16, 64, 64, write, FPU_FIRST_THEN_LAST});
}

static void store_image(struct icpu *c, const struct iop *o, uint64_t linear, const struct x86_xsave_image *image)
{
    for (unsigned i = 0; i < image->count; i++)
        interp_store_bytes(c, o, linear + image->piece[i].at, image->bytes + image->piece[i].at, image->piece[i].size);
}

FPU_CALL_HANDLER(fxsave)
{
    struct x86_xsave_image image;
    uint64_t linear = fx_linear(c, o, true);
    interp_fpu_save(c);
    x86_xsave_build(&c->s, X86_FXSAVE, 0, flags_of(o), 0, &image);
    store_image(c, o, linear, &image);
}

FPU_CALL_HANDLER(fxrstor)
{
    uint8_t area[X86_FXSAVE_SIZE];
    interp_load_bytes(c, o, fx_linear(c, o, false), area, sizeof area);
    interp_fpu_save(c);
    if (!x86_fxrstor(&c->s, flags_of(o), area))
        interp_fault_code(c, o, X86_GP, 0);
    interp_fpu_load(c);
}

/* States the instruction is about: asked for in EDX:EAX and enabled. */
static uint64_t requested(const struct icpu *c) { return (c->s.r[X86_RDX] << 32 | (uint32_t)c->s.r[X86_RAX]) & c->s.xcr0; }

FPU_CALL_HANDLER(xsave)
{
    struct x86_xsave_image image;
    uint64_t states = requested(c), linear = xsave_linear(c, o, x86_xsave_size(states), true), old = 0;
    if (form_of(o) != X86_XSAVEC)
        old = interp_load64(c, o, linear + X86_XSAVE_HEADER);
    interp_fpu_save(c);
    x86_xsave_build(&c->s, form_of(o), states, flags_of(o), old, &image);
    store_image(c, o, linear, &image);
}

FPU_CALL_HANDLER(xrstor)
{
    uint8_t area[X86_XSAVE_MAX];
    bool compaction = x86_has(c->vm->model, X86_FEATURE_XSAVEC);
    uint64_t states = requested(c), linear = xsave_linear(c, o, X86_XSAVE_AVX, false);
    interp_load_bytes(c, o, linear, area, X86_XSAVE_AVX);
    (void)interp_linear(c, o, x86_xrstor_span(states, area + X86_XSAVE_HEADER), false);
    unsigned size = x86_xrstor_size(&c->s, states, compaction, area + X86_XSAVE_HEADER);
    if (!size)
        interp_fault_code(c, o, X86_GP, 0);
    if (size > X86_XSAVE_AVX) {
        (void)xsave_linear(c, o, size, false);
        interp_load_bytes(c, o, linear + X86_XSAVE_AVX, area + X86_XSAVE_AVX, size - X86_XSAVE_AVX);
    }
    interp_fpu_save(c);
    if (!x86_xrstor(&c->s, states, compaction, flags_of(o), area))
        interp_fault_code(c, o, X86_GP, 0);
    interp_fpu_load(c);
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
    enum x86_xsave_form form = X86_FXSAVE;
    bool x = true;
    switch (i->op) {
    case X86_OP_LDMXCSR:
    case X86_OP_VLDMXCSR:
        o->fn = ldmxcsr;
        return true;
    case X86_OP_STMXCSR:
    case X86_OP_VSTMXCSR:
        o->fn = stmxcsr;
        return true;
    case X86_OP_FXSAVE:
        o->fn = fxsave;
        x = false;
        break;
    case X86_OP_FXRSTOR:
        o->fn = fxrstor;
        x = false;
        break;
    case X86_OP_XSAVE:
        form = X86_XSAVE;
        o->fn = xsave;
        break;
    case X86_OP_XSAVEOPT:
        form = X86_XSAVEOPT;
        o->fn = xsave;
        break;
    case X86_OP_XSAVEC:
        form = X86_XSAVEC;
        o->fn = xsave;
        break;
    case X86_OP_XRSTOR:
        o->fn = xrstor;
        break;
    default:
        return false;
    }
    o->extra =
        (uint8_t)(form << EXTRA_FORM | (i->rex_w ? X86_XSAVE_REX_W : 0) | ((c->mode & IMODE_CODE) == X86_MODE64 ? X86_XSAVE_CODE64 : 0));
    if (x && !(c->mode & IMODE_OSXSAVE))
        o->fn = interp_op_ud;
    else if (x && c->mode & IMODE_SSE_NM) /* of the FX forms block.c has seen to it */
        o->fn = interp_op_nm;
    return true;
}
