/* engine/translate/emit.c - guest instructions written again with other registers and operands. See emit.h. */
#include "engine/translate/emit.h"

/* 40-4F, which 64-bit mode has as REX: written as FF /0, FF /1. */
static bool short_inc(const struct x86_insn *i) { return !i->has_modrm && (i->op == X86_OP_INC || i->op == X86_OP_DEC); }

/* A0-A3: MOV between rAX and a memory offset, written as 88-8B. */
static bool memory_offset(const struct x86_insn *i) { return !i->has_modrm && i->op == X86_OP_MOV && (i->opcode & 0xfc) == 0xa0; }

static bool opcode_register(const struct x86_insn *i)
{
    /* 40-4F inc/dec (32-bit code), 50-5F push/pop, 90-97 xchg, B0-BF mov of the one-byte map; 0F C8-CF bswap */
    switch (i->op) {
    case X86_OP_PUSH: case X86_OP_POP: case X86_OP_XCHG: case X86_OP_MOV: case X86_OP_BSWAP: return !i->has_modrm && !memory_offset(i);
    case X86_OP_INC: case X86_OP_DEC: return short_inc(i);
    default: return false;
    }
}

void emit_insn(struct emitter *e, const uint8_t *raw, const struct x86_insn *i, const struct places *p)
{
    const uint8_t *b = raw, *end = raw + i->length;
    if (p->memory && p->m.seg)
        emit8(e, p->m.seg);
    for (;; b++) { /* legacy prefixes */
        if (*b == 0x66 || *b == 0xf2 || *b == 0xf3 || *b == 0xf0)
            emit8(e, *b);
        else if (short_inc(i) && (*b & 0xf0) == 0x40)
            break;
        else if (*b != 0x67 && *b != 0x2e && *b != 0x36 && *b != 0x3e && *b != 0x26 && *b != 0x64 && *b != 0x65 && (*b & 0xf0) != 0x40)
            break;
    }
    bool in_opcode = opcode_register(i), offset = memory_offset(i);
    unsigned reg = p->reg != NO_REG ? p->reg : i->reg;
    unsigned rm = p->rm != NO_REG ? p->rm : i->rm;
    unsigned rex = (p->memory ? mem_rex(&p->m) : (i->has_modrm || in_opcode) && rm & 8 ? 1u : 0) | (i->has_modrm && reg & 8 ? 4u : 0);
    if (i->vex) {
        unsigned map, last;
        if (*b == 0xc5) {
            map = 1;
            last = b[1] & 0x7f;
            b += 2;
        } else {
            map = b[1] & 31;
            last = b[2];
            b += 3;
        }
        unsigned v = p->vvvv != NO_REG ? ~p->vvvv & 15u : last >> 3 & 15;
        emit8(e, 0xc4);
        emit8(e, (rex & 4 ? 0u : 0x80u) | (rex & 2 ? 0u : 0x40u) | (rex & 1 ? 0u : 0x20u) | map);
        emit8(e, (last & 0x87) | v << 3);
    } else {
        if (i->rex_w)
            rex |= 8;
        if (rex || i->has_rex)
            emit8(e, 0x40 | rex);
        if (*b == 0x0f) {
            emit8(e, *b++);
            if (*b == 0x38 || *b == 0x3a)
                emit8(e, *b++);
        }
    }
    if (short_inc(i)) {
        emit8(e, 0xff);
        emit8(e, 0xc0 | (i->op == X86_OP_DEC ? 8 : 0) | (rm & 7));
        b++;
    } else if (offset) {
        emit8(e, 0x88 | (*b & 1) | (*b & 2 ? 0 : 2));
        emit_modrm_mem(e, X86_RAX, &p->m, 0);
        b = end;
    } else if (in_opcode) {
        emit8(e, (*b++ & 0xf8) | (rm & 7));
    } else {
        emit8(e, *b++);
        if (i->has_modrm) {
            uint8_t modrm = *b++;
            unsigned mod = modrm >> 6, low = modrm & 7, skip = 0;
            if (mod != 3) {
                if (low == 4) {
                    skip = 1;
                    if (mod == 0 && (*b & 7) == 5)
                        skip += 4;
                } else if (mod == 0 && low == 5) {
                    skip = 4;
                }
                skip += mod == 1 ? 1 : mod == 2 ? 4 : 0;
            }
            b += skip;
            if (p->memory)
                emit_modrm_mem(e, reg, &p->m, (unsigned)(end - b));
            else
                emit8(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
        }
    }
    while (b < end)
        emit8(e, *b++);
}
