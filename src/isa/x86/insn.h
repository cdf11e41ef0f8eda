/* isa/x86/insn.h - decoded instructions and the one decode table.
 *
 * Model: tables of rows (struct x86_opcode), one per opcode map, plus groups by ModRM.reg, by mandatory prefix, by mod, by rm, by mode; all
 * constant data in decode_table.c. x86_decode walks them and yields a struct x86_insn: everything engines, the disassembler and the test
 * generators need, and nothing about how it is executed.
 * Source: Intel SDM vol. 2 appendix A (operand codes Eb, Gv, Iz, ... keep its letters).
 * Invariants: no side effects, no allocation; reads at most `avail` and at most 15 bytes.
 */
#ifndef DP_ISA_X86_INSN_H
#define DP_ISA_X86_INSN_H

#include "isa/x86/state.h"

/* enum x86_op: one per mnemonic and semantics (X86_OP_ADD, X86_OP_MOVAPS, X86_OP_FADD, ...), X86_OP_INVALID = 0, X86_OP_COUNT last. */
#include "isa/x86/op.h"

/* X86_MEM: at seg:base + (index << scale) + disp of the insn. Where reg is set (string instructions, XLAT, MASKMOV: no ModRM) the base is
 * that register instead: X86_RSI, X86_RDI (of string instructions: always in ES), X86_RBX (XLAT adds AL). Gathers: reg_class is that of the
 * index. */
enum x86_operand_kind { X86_NONE, X86_REG, X86_MEM, X86_IMM, X86_REL /* branch displacement, value is relative to the next instruction */,
                        X86_FAR /* imm: offset, imm2: selector */ };
enum x86_reg_class { X86_RC_GPR, X86_RC_GPR8H /* AH CH DH BH: reg 0-3 means those */, X86_RC_SEG, X86_RC_CR, X86_RC_DR, X86_RC_ST,
    X86_RC_MMX, X86_RC_XMM, X86_RC_YMM };

struct x86_operand {
    uint8_t kind, reg_class, reg; /* reg 0-15 */
    uint8_t size;    /* bytes accessed: 1, 2, 4, 6, 8, 10, 16, 32; 0 for memory of other shape (LEA, FXSAVE, INVLPG, SGDT ...) */
    uint8_t access;  /* X86_READ | X86_WRITE; 0: only an address (LEA, hint NOPs). A vector register written in part keeps the rest */
};
enum { X86_READ = 1, X86_WRITE = 2 };

/* Row flags. */
enum {
    X86_F_LOCK = 1u << 0,    /* LOCK is legal (with a memory destination) */
    X86_F_I64 = 1u << 1,     /* #UD in 64-bit mode */
    X86_F_O64 = 1u << 2,     /* #UD outside 64-bit mode */
    X86_F_D64 = 1u << 3,     /* operand size defaults to 64 in 64-bit mode (66h gives 16) */
    X86_F_F64 = 1u << 4,     /* operand size forced to 64 in 64-bit mode */
    X86_F_CPL0 = 1u << 5,    /* #GP(0) unless CPL is 0 (checked by the engine) */
    X86_F_PROT = 1u << 6,    /* #UD in real and virtual-8086 mode */
    X86_F_REP = 1u << 7,     /* REP means repeat (string instructions) */
    X86_F_REPCC = 1u << 8,   /* REPE/REPNE test ZF (CMPS, SCAS) */
    X86_F_BRANCH = 1u << 9,  /* may change RIP other than by falling through (also far, INT, IRET, SYSCALL, HLT ...): ends a block */
    X86_F_SYSTEM = 1u << 10, /* may change mode, translation, interrupt state or what follows: ends a block */
    X86_F_ALIGN = 1u << 13,  /* 16-byte memory operand must be aligned: #GP(0) */
    X86_F_X87 = 1u << 14,    /* CR0.EM/TS -> #NM, pending x87 exception -> #MF (not the control forms: X87NW) */
    X86_F_X87NW = 1u << 15,  /* x87, but does not wait for pending exceptions */
    X86_F_MMX = 1u << 16,    /* CR0.EM -> #UD, TS -> #NM, #MF pending */
    X86_F_SSE = 1u << 17,    /* CR0.EM or !CR4.OSFXSR -> #UD, TS -> #NM */
    X86_F_FP = 1u << 18,     /* can raise SIMD floating-point exceptions (#XM) */
    X86_F_VEX = 1u << 19,    /* with X86_F_SSE: CR4.OSXSAVE and XCR0 instead of CR0.EM and CR4.OSFXSR */
    X86_F_KEEPS = 1u << 20,  /* shifts by a count that may be 0, which then leave every flag as it was (REP with rCX 0 does, too) */
};

struct x86_opcode {
    uint16_t op;             /* enum x86_op */
    uint8_t operand[4];      /* operand codes, enum in decode_table.h */
    uint8_t kind;            /* row: leaf, or which kind of group */
    uint8_t feature;         /* enum x86_feature that must be present, 0 = base */
    uint8_t access;          /* two bits an operand, X86_READ | X86_WRITE */
    uint32_t flags;
    /* EFLAGS (ARITH, DF, IF, ...). written: get a defined value; undefined: left undefined; in both: defined for some operands only (OF of
     * shifts: count 1). */
    uint32_t flags_read, flags_written, flags_undefined;
    const struct x86_opcode *group; /* groups: the members; TZCNT and LZCNT: what they are on processors without them */
};

enum x86_mode { X86_MODE16, X86_MODE32, X86_MODE64 }; /* of the code segment */

struct x86_insn {
    const struct x86_opcode *row;
    uint16_t op;
    uint8_t length;          /* 1..15 */
    uint8_t operand_size;    /* 2, 4, 8: effective, for v/z/y operands, pushes, string elements carry their own */
    uint8_t address_size;    /* 2, 4, 8 */
    uint8_t lock : 1, rep : 1, repne : 1, has_modrm : 1, rex_w : 1, has_rex : 1, vex : 1, vex_l : 1;
    uint8_t vex_w : 1, vex_pp : 2, vex_map : 2; /* as encoded: pp 0-3 is none, 66, F3, F2; map 1-3 is 0F, 0F 38, 0F 3A */
    uint8_t seg;             /* of the memory operand: enum x86_seg_name, defaults (SS for rBP/rSP bases) and overrides applied */
    uint8_t seg_override;    /* X86_SEGS when there is none */
    uint8_t opcode;          /* last opcode byte */
    uint8_t modrm;           /* raw byte */
    uint8_t mod, reg, rm;    /* reg and rm with REX bits */
    uint8_t base, index;     /* indexes into x86_state.r; X86_RIP and X86_ZERO as needed. 16-bit forms are expressed the same way */
    uint8_t scale;           /* shift 0-3 */
    uint8_t vvvv;            /* VEX.vvvv register */
    uint8_t cc;              /* condition code 0-15 of Jcc/SETcc/CMOVcc */
    int64_t disp;            /* sign-extended; for moffs the whole address */
    uint64_t imm, imm2;      /* imm is sign-extended as the instruction does; ENTER: size, level; far pointer: offset, selector */
    uint8_t operand_count;
    struct x86_operand operand[4];
    uint64_t features;       /* bit per enum x86_feature needed, those below 64; row->feature is among them, or above 63 alone */
};

enum { X86_DECODE_UD = -1,    /* no such instruction here: #UD */
       X86_DECODE_MORE = -2,  /* avail bytes are not enough (fetch more, or the page fault) */
       X86_DECODE_LONG = -3 };/* more than 15 bytes: #GP(0) */

/* Decodes one instruction. LOCK where it is not legal is #UD. Returns the length or one of the codes above. insn is complete only on
 * success. */
int x86_decode(const uint8_t *bytes, size_t avail, enum x86_mode mode, struct x86_insn *insn);

/* Does a processor with these features (struct x86_cpuid_model's) have the instruction? Turns TZCNT and LZCNT into the BSF and BSR they are
 * without. */
static inline bool x86_insn_supported(struct x86_insn *i, const uint64_t features[2])
{
    unsigned f = i->row->feature;
    if (!(i->features & ~features[0]) && (f < 64 || features[1] >> (f - 64) & 1))
        return true;
    if (!i->row->group)
        return false;
    i->row = i->row->group;
    i->op = i->row->op;
    i->operand[0].access = i->row->access & 3;
    i->features = 0;
    return true;
}

const char *x86_op_name(unsigned op); /* "ADD" */
/* One line in Intel syntax into text (NUL-terminated, cut to size); rip is the instruction's address. */
void x86_print_insn(const struct x86_insn *insn, uint64_t rip, char *text, size_t size);

#endif
