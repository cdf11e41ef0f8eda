/* engine/interp/avx_masked.c - AVX instructions that reach memory element by element: VMASKMOV, VPMASKMOV and the gathers.
 *
 * Model: an element takes part if the sign bit of its mask element is set; the others are not accessed, so they cannot fault. A masked
 * load changes its destination last, a masked store probes all its elements first: both are all or nothing. A gather commits each
 * element as it is loaded and clears its mask element, as the manual promises, so that one that faulted goes on where it stopped.
 * o: a the data, b the index register, extra the mask (VEX.vvvv), size the bytes of an element, imm how many there are.
 * Source: Intel SDM vol. 2, VMASKMOV, VPMASKMOV, VGATHERDPS ... VPGATHERQQ.
 */
#include "engine/interp/interp_sse.h"

static bool selected(const struct icpu *c, const struct iop *o, unsigned element)
{
    return c->s.vec[o->extra][(element + 1) * o->size - 1] >> 7;
}
static uint64_t load_element(struct icpu *c, const struct iop *o, int64_t by)
{
    uint64_t linear = interp_linear_moved(c, o, by, o->size, false);
    return o->size == 4 ? interp_load32(c, o, linear) : interp_load64(c, o, linear);
}

/* None of these raises #AC. The caller puts back what this returns; a fault brings it back by itself (interp_update_mode). */
static bool without_align_check(struct icpu *c)
{
    bool before = c->align_check;
    c->align_check = false;
    return before;
}

FPU_CALL_HANDLER(masked_load)
{
    uint8_t v[32] = {0};
    bool align_check = without_align_check(c);
    for (unsigned k = 0; k < o->imm; k++)
        if (selected(c, o, k)) {
            uint64_t element = load_element(c, o, (int64_t)k * o->size);
            memcpy(v + k * o->size, &element, o->size);
        }
    c->align_check = align_check;
    memcpy(c->s.vec[o->a], v, 32);
}

FPU_CALL_HANDLER(masked_store)
{
    bool align_check = without_align_check(c);
    for (unsigned k = 0; k < o->imm; k++)
        if (selected(c, o, k))
            interp_probe_store(c, o, interp_linear_moved(c, o, (int64_t)k * o->size, o->size, true), o->size);
    for (unsigned k = 0; k < o->imm; k++)
        if (selected(c, o, k))
            interp_store_bytes(c, o, interp_linear_moved(c, o, (int64_t)k * o->size, o->size, true), c->s.vec[o->a] + k * o->size, o->size);
    c->align_check = align_check;
}

/* By the size of an index: o's own index register is none, so that interp_linear_moved has only base and displacement. */
#define GATHER(bits)                                                                                                                       \
    FPU_CALL_HANDLER(gather##bits)                                                                                                         \
    {                                                                                                                                      \
        uint8_t *to = c->s.vec[o->a], *mask = c->s.vec[o->extra];                                                                          \
        bool align_check = without_align_check(c);                                                                                         \
        for (unsigned k = 0; k < o->imm; k++) {                                                                                            \
            int64_t index = (int##bits##_t)dp_ld##bits(c->s.vec[o->b] + k * bits / 8);                                                     \
            if (selected(c, o, k)) {                                                                                                       \
                uint64_t element = load_element(c, o, (int64_t)((uint64_t)index << o->scale));                                             \
                memcpy(to + k * o->size, &element, o->size);                                                                               \
            }                                                                                                                              \
            memset(mask + k * o->size, 0, o->size);                                                                                        \
        }                                                                                                                                  \
        c->align_check = align_check;                                                                                                      \
        memset(mask, 0, 32);                                                                                                               \
        memset(to + o->imm * o->size, 0, 32 - o->imm * o->size);                                                                           \
    }
GATHER(32)
GATHER(64)

static bool lower_gather(const struct x86_insn *i, struct iop *o, unsigned index_size)
{
    o->b = i->index;
    o->index = X86_ZERO;
    o->size = i->operand[1].size;
    o->imm = (i->vex_l ? 32u : 16u) / DP_MAX(index_size, o->size);
    o->fn = index_size == 4 ? gather32 : gather64;
    return true;
}

bool sse_lower_vex_masked(const struct x86_insn *i, struct iop *o, unsigned vvvv)
{
    o->a = i->reg;
    o->extra = (uint8_t)vvvv;
    switch (i->op) {
    case X86_OP_VMASKMOVPS:
    case X86_OP_VMASKMOVPD:
    case X86_OP_VPMASKMOVD:
    case X86_OP_VPMASKMOVQ:
        o->size = i->op == X86_OP_VMASKMOVPS || i->op == X86_OP_VPMASKMOVD ? 4 : 8;
        o->imm = (i->vex_l ? 32u : 16u) / o->size;
        o->fn = i->operand[0].kind == X86_MEM ? masked_store : masked_load;
        return true;
    case X86_OP_VGATHERDPS:
    case X86_OP_VGATHERDPD:
    case X86_OP_VPGATHERDD:
    case X86_OP_VPGATHERDQ:
        return lower_gather(i, o, 4);
    case X86_OP_VGATHERQPS:
    case X86_OP_VGATHERQPD:
    case X86_OP_VPGATHERQD:
    case X86_OP_VPGATHERQQ:
        return lower_gather(i, o, 8);
    default:
        return false;
    }
}
