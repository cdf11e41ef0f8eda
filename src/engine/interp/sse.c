/* engine/interp/sse.c - lowering of SSE and MMX instructions.
 *
 * Model: see interp_sse.h and avx.c. Whether the units may be used at all was decided before (block.c).
 * Source: Intel SDM vol. 2.
 */
#include "engine/interp/interp_sse.h"

/* The register numbers, destination first (a store's and an extraction's source is b). The shape of the rest is the files' matter. */
static void set_registers(const struct x86_insn *i, struct iop *o)
{
    if (i->operand_count > 0 && i->operand[0].kind == X86_REG)
        o->a = i->operand[0].reg_class == X86_RC_MMX ? i->operand[0].reg & 7 : i->operand[0].reg;
    if (i->operand_count > 0 && i->operand[0].kind == X86_MEM)
        o->size = i->operand[0].size;
    if (i->operand_count > 1 && i->operand[1].kind == X86_REG)
        o->b = i->operand[1].reg_class == X86_RC_MMX ? i->operand[1].reg & 7 : i->operand[1].reg;
}

bool interp_lower_sse(struct icpu *c, const struct x86_insn *i, struct iop *o, bool *need_insn)
{
    struct iop saved = *o;
    if (i->vex && i->op != X86_OP_VMASKMOVDQU && i->op != X86_OP_VLDMXCSR && i->op != X86_OP_VSTMXCSR) /* those are as without VEX */
        return sse_lower_vex_masked(i, o, i->vvvv & ((c->mode & IMODE_CODE) == X86_MODE64 ? 15u : 7u)) || sse_lower_vex(c, i, o);
    set_registers(i, o);
    if (!sse_lower_move(i, o) && !sse_lower_int(i, o) && !sse_lower_fp(i, o) && !sse_lower_imm(i, o) && !sse_lower_state(c, i, o)) {
        *o = saved;
        return false;
    }
    return true;
}
