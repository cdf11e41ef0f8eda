/* isa/x86/decode_table.h - what the rows of the decode table are made of. Private to decode.c, decode_table.c and tests of the table.
 *
 * Model: an operand code says where an operand is (ModRM.rm, ModRM.reg, an immediate, ...), of which register class and how wide. Names are
 * the SDM's (vol. 2 appendix A.2): a capital letter for the place, small letters for the width; where the SDM has no name the comment
 * explains.
 */
#ifndef DP_ISA_X86_DECODE_TABLE_H
#define DP_ISA_X86_DECODE_TABLE_H

#include "isa/x86/insn.h"

/* What struct x86_opcode.kind says. A group's member is chosen by: */
enum x86_opcode_kind {
    X86_ROW_NONE,      /* no instruction: #UD */
    X86_ROW_LEAF,
    X86_ROW_LEAF_RR,   /* a leaf whose ModRM.mod is ignored: rm is always a register (MOV CR, MOV DR) */
    X86_ROW_BY_MODE,   /* [0] outside 64-bit mode, [1] in it */
    X86_ROW_BY_REXB,   /* REX.B */
    X86_ROW_BY_W,      /* REX.W */
    X86_ROW_BY_VEX_W,  /* VEX.W, in every mode */
    X86_ROW_BY_L,      /* VEX.L */
    X86_ROW_BY_PREFIX, /* mandatory prefix: none, 66, F3, F2 */
    X86_ROW_BY_REG,    /* ModRM.reg; from here on ModRM is needed */
    X86_ROW_BY_RM,     /* ModRM.rm */
    X86_ROW_BY_MOD,    /* [0] memory, [1] register */
};
enum { NP, P66, PF3, PF2 }; /* members of BY_PREFIX */

/* Widths, in bytes; decode.c has them as a table. */
enum x86_width {
    /* 0, 1, 2, 4, 8, 10, 16, 32 */
    X86_WIDTH_NONE, X86_WIDTH_B, X86_WIDTH_W, X86_WIDTH_D, X86_WIDTH_Q, X86_WIDTH_T, X86_WIDTH_DQ, X86_WIDTH_QQ,
    X86_WIDTH_V,    /* operand size */
    X86_WIDTH_Z,    /* 2 or 4 */
    X86_WIDTH_Y,    /* 4 or 8 */
    X86_WIDTH_P,    /* far pointer: 2 + operand size */
    X86_WIDTH_A,    /* pair of operand size */
    X86_WIDTH_X,    /* VEX.L ? 32 : 16 */
    X86_WIDTH_HX,   /* half, quarter, eighth of x */
    X86_WIDTH_QX,
    X86_WIDTH_EX,
    X86_WIDTH_DUP,  /* VMOVDDUP: 8 or 32 */
    X86_WIDTH_WV,   /* memory 2, register of operand size */
    X86_WIDTH_BD,   /* memory 1, register 4 */
    X86_WIDTH_WD,   /* memory 2, register 4 */
    X86_WIDTHS,
};

/* Places. Register operands are of the class the code names (XMM: YMM when 32 bytes wide). */
enum x86_place {
    X86_PLACE_NONE,
    X86_PLACE_OPCODE,                  /* opcode bits 0-2 and REX.B */
    X86_PLACE_GPR, X86_PLACE_FIXED,    /* register `which` (GPR: never AH ... BH) */
    X86_PLACE_STRING,                  /* memory at rSI in the data segment or at ES:rDI */
    X86_PLACE_POINTER,                 /* memory at register `which` in the data segment */
    X86_PLACE_OFFSET,                  /* moffs */
    X86_PLACE_ONE,                     /* immediate 1 that is not in the instruction */
    X86_PLACE_IMM, X86_PLACE_SIMM,     /* immediate, zero- or sign-extended, of `which` bytes (0: operand size, SIMM at most 4) */
    X86_PLACE_REL, X86_PLACE_FAR,
    X86_PLACE_VVVV,                    /* VEX.vvvv */
    X86_PLACE_IS4,                     /* register in bits 4-7 of an immediate byte */
    X86_PLACE_REG,                     /* ModRM.reg */
    X86_PLACE_RM,                      /* ModRM.rm, register or memory */
    X86_PLACE_RM_REG, X86_PLACE_MEM,   /* ModRM.rm, the other kind is #UD */
    X86_PLACE_VSIB,                    /* memory with a vector index */
};

/* X(code, place, width, class or 0, which). Codes that need ModRM come second: one compare tells. */
#define X86_OPERAND_CODES(X) X86_OPERAND_CODES_PLAIN(X) X86_OPERAND_CODES_MODRM(X)

#define X86_OPERAND_CODES_PLAIN(X) \
    X(Zb, OPCODE, B, GPR, 0) X(Zv, OPCODE, V, GPR, 0) \
    X(AL, GPR, B, GPR, X86_RAX) X(AX, GPR, W, GPR, X86_RAX) X(rAX, GPR, V, GPR, X86_RAX) X(zAX, GPR, Z, GPR, X86_RAX) \
    X(CL, GPR, B, GPR, X86_RCX) X(DX, GPR, W, GPR, X86_RDX) \
    X(Ib, IMM, B, GPR, 1) X(Iw, IMM, W, GPR, 2) X(Iv, IMM, V, GPR, 0) X(One, ONE, B, GPR, 0) \
    X(sIb, SIMM, V, GPR, 1) X(sIbb, SIMM, B, GPR, 1) /* signed byte for operand size, for a byte */ X(Iz, SIMM, V, GPR, 0) \
    X(Jb, REL, V, GPR, 1) X(Jz, REL, V, GPR, 0) X(Ap, FAR, P, GPR, 0) X(Ob, OFFSET, B, GPR, 0) X(Ov, OFFSET, V, GPR, 0) \
    X(Xb, STRING, B, GPR, X86_RSI) X(Xv, STRING, V, GPR, X86_RSI) X(Xz, STRING, Z, GPR, X86_RSI) \
    X(Yb, STRING, B, GPR, X86_RDI) X(Yv, STRING, V, GPR, X86_RDI) X(Yz, STRING, Z, GPR, X86_RDI) \
    X(Bb, POINTER, B, GPR, X86_RBX) /* XLAT */ X(Dq, POINTER, Q, GPR, X86_RDI) X(Ddq, POINTER, DQ, GPR, X86_RDI) /* MASKMOV */ \
    X(ES, FIXED, W, SEG, X86_ES) X(CS, FIXED, W, SEG, X86_CS) X(SS, FIXED, W, SEG, X86_SS) X(DS, FIXED, W, SEG, X86_DS) \
    X(FS, FIXED, W, SEG, X86_FS) X(GS, FIXED, W, SEG, X86_GS) X(ST0, FIXED, T, ST, 0) X(XMM0, FIXED, DQ, XMM, 0) \
    X(By, VVVV, Y, GPR, 0) X(Hdq, VVVV, DQ, XMM, 0) X(Hq, VVVV, Q, XMM, 0) X(Hd, VVVV, D, XMM, 0) X(Hx, VVVV, X, XMM, 0) \
    X(Hqq, VVVV, QQ, XMM, 0) X(Lx, IS4, X, XMM, 0)

#define X86_OPERAND_CODES_MODRM(X) \
    X(Eb, RM, B, GPR, 0) X(Ew, RM, W, GPR, 0) X(Ed, RM, D, GPR, 0) X(Ev, RM, V, GPR, 0) X(Ey, RM, Y, GPR, 0) X(Ez, RM, Z, GPR, 0) \
    X(Ewv, RM, WV, GPR, 0) X(Ebd, RM, BD, GPR, 0) X(Ewd, RM, WD, GPR, 0) \
    X(Gb, REG, B, GPR, 0) X(Gw, REG, W, GPR, 0) X(Gd, REG, D, GPR, 0) X(Gv, REG, V, GPR, 0) X(Gy, REG, Y, GPR, 0) \
    X(Rv, RM_REG, V, GPR, 0) X(Ry, RM_REG, Y, GPR, 0) \
    X(M, MEM, NONE, GPR, 0) X(Mb, MEM, B, GPR, 0) X(Mw, MEM, W, GPR, 0) X(Md, MEM, D, GPR, 0) X(Mq, MEM, Q, GPR, 0) X(Mt, MEM, T, GPR, 0) \
    X(Mdq, MEM, DQ, GPR, 0) X(Mx, MEM, X, GPR, 0) X(Mv, MEM, V, GPR, 0) X(My, MEM, Y, GPR, 0) X(Mp, MEM, P, GPR, 0) X(Ma, MEM, A, GPR, 0) \
    X(VMd, VSIB, D, GPR, 1) X(VMq, VSIB, Q, GPR, 1) X(VMhq, VSIB, Q, GPR, 0) /* gathers: element; the index is \
        XMM, or with `which` YMM when VEX.L */ \
    X(Sw, REG, W, SEG, 0) X(Cy, REG, Y, CR, 0) X(Dy, REG, Y, DR, 0) X(STi, RM_REG, T, ST, 0) \
    X(Pq, REG, Q, MMX, 0) X(Qq, RM, Q, MMX, 0) X(Qd, RM, D, MMX, 0) X(Nq, RM_REG, Q, MMX, 0) \
    X(Vdq, REG, DQ, XMM, 0) X(Vq, REG, Q, XMM, 0) X(Vd, REG, D, XMM, 0) X(Vx, REG, X, XMM, 0) X(Vqq, REG, QQ, XMM, 0) \
    X(Wdq, RM, DQ, XMM, 0) X(Wq, RM, Q, XMM, 0) X(Wd, RM, D, XMM, 0) X(Ww, RM, W, XMM, 0) X(Wb, RM, B, XMM, 0) \
    X(Wx, RM, X, XMM, 0) X(Whx, RM, HX, XMM, 0) X(Wqx, RM, QX, XMM, 0) X(Wex, RM, EX, XMM, 0) X(Wqq, RM, QQ, XMM, 0) \
    X(Wdup, RM, DUP, XMM, 0) X(Udq, RM_REG, DQ, XMM, 0) X(Uq, RM_REG, Q, XMM, 0) X(Ud, RM_REG, D, XMM, 0) X(Ux, RM_REG, X, XMM, 0)

enum x86_operand_code {
    X86_OPERAND_NONE,
#define X(code, place, width, class, which) code,
    X86_OPERAND_CODES_PLAIN(X)
    X86_OPERAND_LAST_PLAIN,
    X86_OPERAND_CODES_MODRM(X)
#undef X
    X86_OPERAND_CODE_COUNT
};

/* The maps: one-byte, 0F, 0F 38, 0F 3A; for VEX the last three. */
extern const struct x86_opcode x86_map[4][256];
extern const struct x86_opcode x86_vex_map[4][256];

#endif
