/* engine/translate/emit.h - writing x86-64 host instructions.
 *
 * Model: an emitter appends bytes at `w` (the writable view of the code cache); `shift` added to a writable address gives the address the
 * code will run at. Nothing checks for room per byte: the translator makes sure beforehand that a whole block fits (BLOCK_ROOM).
 * Source: Intel SDM vol. 2 chapter 2 (prefixes, ModRM, SIB, REX, VEX).
 */
#ifndef DP_TRANSLATE_EMIT_H
#define DP_TRANSLATE_EMIT_H

#include "isa/x86/insn.h"

enum host_reg { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15, NO_REG = 0xff, RIP_REG = 0xfe };

/* A host memory operand. base RIP_REG: disp is the *address* aimed at. seg: 0, 0x64 (FS), 0x65 (GS). */
struct mem { uint8_t base, index, scale, seg; int64_t disp; };

struct emitter { uint8_t *w; int64_t shift; };

static inline void emit8(struct emitter *e, unsigned v) { *e->w++ = (uint8_t)v; }
static inline void emit32(struct emitter *e, uint32_t v)
{
    memcpy(e->w, &v, 4);
    e->w += 4;
}
static inline void emit64(struct emitter *e, uint64_t v)
{
    memcpy(e->w, &v, 8);
    e->w += 8;
}
/* Where the next instruction will run. */
static inline uint64_t emit_here(const struct emitter *e) { return (uint64_t)(uintptr_t)e->w + (uint64_t)e->shift; }

/* The bytes go through a pointer of their own: stores by e->w would make the compiler load it again each time. */

/* ModRM, SIB, displacement for reg and a memory operand; `after` bytes of immediate follow (RIP-relative displacements count them). */
static inline uint8_t *put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
    return p + 4;
}
static inline uint8_t *put_modrm_mem(uint8_t *p, int64_t shift, unsigned reg, const struct mem *m, unsigned after)
{
    reg = (reg & 7) << 3;
    if (m->base == RIP_REG) {
        *p++ = (uint8_t)(reg | 5);
        return put32(p, (uint32_t)(m->disp - ((int64_t)(uintptr_t)p + shift + 4 + after)));
    }
    unsigned index = m->index == NO_REG ? 4u : m->index & 7u;
    if (m->base == NO_REG) { /* SIB without base: always a 32-bit displacement */
        *p++ = (uint8_t)(reg | 4);
        *p++ = (uint8_t)((unsigned)m->scale << 6 | index << 3 | 5);
        return put32(p, (uint32_t)m->disp);
    }
    unsigned mod = !m->disp && (m->base & 7) != RBP ? 0 : m->disp == (int8_t)m->disp ? 0x40 : 0x80;
    if (m->index == NO_REG && (m->base & 7) != RSP) {
        *p++ = (uint8_t)(mod | reg | (m->base & 7));
    } else {
        *p++ = (uint8_t)(mod | reg | 4);
        *p++ = (uint8_t)((unsigned)m->scale << 6 | index << 3 | (m->base & 7));
    }
    put32(p, (uint32_t)m->disp); /* what is not wanted of it will be overwritten */
    return p + (mod == 0x40 ? 1 : mod == 0x80 ? 4 : 0);
}
static inline void emit_modrm_mem(struct emitter *e, unsigned reg, const struct mem *m, unsigned after)
{
    e->w = put_modrm_mem(e->w, e->shift, reg, m, after);
}
static inline unsigned mem_rex(const struct mem *m)
{
    return (m->index != NO_REG && m->index & 8 ? 2u : 0) | (m->base < 16 && m->base & 8 ? 1u : 0);
}

static inline uint8_t *put_rex_opcode(uint8_t *p, unsigned rex, unsigned opcode)
{
    if (rex)
        *p++ = (uint8_t)(0x40 | rex);
    if (opcode > 0xff)
        *p++ = (uint8_t)(opcode >> 8);
    *p++ = (uint8_t)opcode;
    return p;
}
/* One-byte opcode (or two with 0F) with a memory operand; w: REX.W. */
static inline void emit_op_mem(struct emitter *e, bool w, unsigned opcode, unsigned reg, const struct mem *m, unsigned after)
{
    uint8_t *p = e->w;
    if (m->seg)
        *p++ = m->seg;
    p = put_rex_opcode(p, (w ? 8u : 0) | (reg & 8 ? 4u : 0) | mem_rex(m), opcode);
    e->w = put_modrm_mem(p, e->shift, reg, m, after);
}
static inline void emit_op_reg(struct emitter *e, bool w, unsigned opcode, unsigned reg, unsigned rm)
{
    uint8_t *p = put_rex_opcode(e->w, (w ? 8u : 0) | (reg & 8 ? 4u : 0) | (rm & 8 ? 1u : 0), opcode);
    *p++ = (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7));
    e->w = p;
}
static inline void emit_load(struct emitter *e, unsigned reg, const struct mem *m) { emit_op_mem(e, true, 0x8b, reg, m, 0); }
static inline void emit_store(struct emitter *e, unsigned reg, const struct mem *m) { emit_op_mem(e, true, 0x89, reg, m, 0); }
static inline void emit_lea(struct emitter *e, unsigned reg, const struct mem *m, bool w) { emit_op_mem(e, w, 0x8d, reg, m, 0); }
static inline void emit_mov(struct emitter *e, unsigned to, unsigned from) { emit_op_reg(e, true, 0x8b, to, from); }
static inline void emit_not(struct emitter *e, unsigned reg) { emit_op_reg(e, true, 0xf7, 2, reg); }
/* MOV dword [m], v */
static inline void emit_set32(struct emitter *e, struct mem m, uint32_t v)
{
    emit_op_mem(e, false, 0xc7, 0, &m, 4);
    emit32(e, v);
}
static inline void emit_mov_imm64(struct emitter *e, unsigned reg, uint64_t v)
{
    emit8(e, 0x48 | (reg >> 3));
    emit8(e, 0xb8 | (reg & 7));
    emit64(e, v);
}
/* PEXT and PDEP to, from, mask (VEX.LZ.F3 and F2.0F38.W1 F5 /r). */
static inline void emit_bits(struct emitter *e, bool deposit, unsigned to, unsigned from, const struct mem *mask)
{
    uint8_t *p = e->w;
    unsigned rex = mem_rex(mask);
    *p++ = 0xc4;
    *p++ = (uint8_t)((to & 8 ? 0u : 0x80u) | (rex & 2 ? 0u : 0x40u) | (rex & 1 ? 0u : 0x20u) | 2);
    *p++ = (uint8_t)(0x80 | (~from & 15) << 3 | (deposit ? 3u : 2u));
    *p++ = 0xf5;
    e->w = put_modrm_mem(p, e->shift, to, mask, 0);
}
static inline void emit_pext(struct emitter *e, unsigned to, unsigned from, const struct mem *mask) { emit_bits(e, false, to, from, mask); }
/* A jump to a known address: E9, or 0F 8x for a condition. Returns where its 32-bit displacement stands (writable view). */
static inline uint8_t *emit_jmp(struct emitter *e, uint64_t target)
{
    emit8(e, 0xe9);
    emit32(e, (uint32_t)(target - (emit_here(e) + 4)));
    return e->w - 4;
}
static inline uint8_t *emit_jcc(struct emitter *e, unsigned cc, uint64_t target)
{
    emit8(e, 0x0f);
    emit8(e, 0x80 | cc);
    emit32(e, (uint32_t)(target - (emit_here(e) + 4)));
    return e->w - 4;
}
/* Makes the 32-bit displacement at `at` lead to an address. */
static inline void emit_patch(const struct emitter *e, uint8_t *at, uint64_t target)
{
    uint32_t v = (uint32_t)(target - ((uint64_t)(uintptr_t)at + (uint64_t)e->shift + 4));
    __atomic_store_n((uint32_t *)at, v, __ATOMIC_RELAXED);
}

/* What stands in an instruction's register and memory places after translation. NO_REG: unused. */
struct places { uint8_t reg, rm, vvvv; bool memory; struct mem m; };
/* Emits the guest instruction `raw` (decoded: i) with other places: prefixes, opcode and immediate as they are, REX or
 * VEX made anew. Segment and address-size prefixes are dropped: p->m is a complete host operand. Without ModRM p->rm is
 * the register in the opcode, where there is one. */
void emit_insn(struct emitter *e, const uint8_t *raw, const struct x86_insn *i, const struct places *p);

#endif
