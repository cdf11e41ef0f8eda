/* isa/x86/decode_table.c - the decode table: which instruction each opcode is, with operands, what it checks and what it does to EFLAGS.
 *
 * Model: one array of 256 rows for each opcode map. A row is an instruction or a group, whose members stand in place. See decode_table.h
 * for operand codes, insn.h for the flags. W, RW, R ... say how the operands are accessed (the first differs; those after it are read).
 * Source: Intel SDM vol. 2 appendix A (maps) and chapters 3-5 (operands, EFLAGS, exceptions), vol. 3 for system instructions; appendix A
 * leaves out SALC, the aliases 82, C0-D3 /6, F6-F7 /1 and of x87, which all processors have.
 * Invariants: constant data only. What is not here is #UD: VMX but VMCALL, SVM but VMMCALL, SMX, SGX, TSX, MPX and CET but their hint NOPs,
 * PKU, 3DNow!, SSE4a, XOP, AVX-512.
 */
#include "isa/x86/decode_table.h"
#include "isa/x86/x86.h"

/* Short names of row flags. */
enum {
    LOCK = X86_F_LOCK, I64 = X86_F_I64, O64 = X86_F_O64, D64 = X86_F_D64, F64 = X86_F_F64, CPL0 = X86_F_CPL0, PROT = X86_F_PROT,
    REP = X86_F_REP, REPCC = X86_F_REPCC, BRANCH = X86_F_BRANCH, SYSTEM = X86_F_SYSTEM, ALIGN = X86_F_ALIGN, X87NW = X86_F_X87NW,
    MMX = X86_F_MMX, FP = X86_F_FP,
    FAR = X86_F_BRANCH | X86_F_SYSTEM,
};
enum { CF = X86_CF, PF = X86_PF, AF = X86_AF, ZF = X86_ZF, SF = X86_SF, OF = X86_OF, ARITH = X86_ARITH,
       ALL_FLAGS = X86_ARITH | X86_TF | X86_IF | X86_DF | X86_IOPL | X86_NT | X86_AC | X86_ID };

/* Operands with their access: R, W, RW, RW_RW ... name that of the first ones, further ones are read. The row macros below paste OPERANDS_
 * before them, so that they expand only there. */
#define ACCESS(a, b, c, ...) .operand = { __VA_ARGS__ }, .access = (a) | (b) << 2 | (c) << 4 | 1 << 6
#define OPERANDS_R(...) ACCESS(1, 1, 1, __VA_ARGS__)
#define OPERANDS_W(...) ACCESS(2, 1, 1, __VA_ARGS__)
#define OPERANDS_RW(...) ACCESS(3, 1, 1, __VA_ARGS__)
#define OPERANDS_RW_RW(...) ACCESS(3, 3, 1, __VA_ARGS__)
#define OPERANDS_W_W(...) ACCESS(2, 2, 1, __VA_ARGS__)
#define OPERANDS_R_R_W(...) ACCESS(1, 1, 2, __VA_ARGS__)
#define OPERANDS_RW_R_RW(...) ACCESS(3, 1, 3, __VA_ARGS__)
#define OPERANDS_ADDRESS(...) .operand = { __VA_ARGS__ } /* only names a place */
#define OPERANDS_W_ADDRESS(...) .operand = { __VA_ARGS__ }, .access = 2
#define OPERANDS_NONE .access = 0

/* EFLAGS: what is read, what gets a defined value, what is left undefined. A flag both written and undefined is defined for some operands
 * only. */
#define EF(read, written, undefined) .flags_read = (read), .flags_written = (written), .flags_undefined = (undefined)
#define READS(mask) .flags_read = (mask)
#define SETS(mask) .flags_written = (mask)
#define LOGIC EF(0, ARITH & ~AF, AF)
#define UNDEFINES EF(0, 0, ARITH)
#define FEATURE(name) .feature = X86_FEATURE_##name

/* Rows. I: general; SSE, MM: vector instructions of a feature; FPU: x87. */
#define I(name, operands, row_flags, ...) \
    { .op = X86_OP_##name, .kind = X86_ROW_LEAF, OPERANDS_##operands, .flags = (row_flags), __VA_ARGS__ }
#define SSE(needs, name, operands, row_flags, ...) \
    { .op = X86_OP_##name, .kind = X86_ROW_LEAF, OPERANDS_##operands, .flags = X86_F_SSE | (row_flags), .feature = X86_FEATURE_##needs, \
        __VA_ARGS__ }
#define MM(needs, name, operands, ...) \
    { .op = X86_OP_##name, .kind = X86_ROW_LEAF, OPERANDS_##operands, .flags = X86_F_MMX, .feature = X86_FEATURE_##needs, __VA_ARGS__ }
#define FPU(name, operands, ...) \
    { .op = X86_OP_##name, .kind = X86_ROW_LEAF, OPERANDS_##operands, .flags = X86_F_X87, .feature = X86_FEATURE_FPU, __VA_ARGS__ }

/* Groups. */
#define GROUP(by, count, ...) { .kind = X86_ROW_##by, .group = (const struct x86_opcode[count]){ __VA_ARGS__ } }
#define BY_REG(...) GROUP(BY_REG, 8, __VA_ARGS__)
#define BY_RM(...) GROUP(BY_RM, 8, __VA_ARGS__)
#define BY_PREFIX(...) GROUP(BY_PREFIX, 4, __VA_ARGS__)
#define BY_MOD(...) GROUP(BY_MOD, 2, __VA_ARGS__)  /* memory, register */
#define BY_MODE(...) GROUP(BY_MODE, 2, __VA_ARGS__) /* 16 and 32, 64 */
#define BY_REXB(...) GROUP(BY_REXB, 2, __VA_ARGS__)
#define BY_W(...) GROUP(BY_W, 2, __VA_ARGS__)
#define UD { .kind = X86_ROW_NONE }
#define NP_ONLY(...) BY_PREFIX([NP] = __VA_ARGS__)
#define P66_ONLY(...) BY_PREFIX([P66] = __VA_ARGS__)

/* The six forms of ADD and its kin. */
#define ALU(base, name, access, row_flags, ...) \
    [base + 0] = I(name, access(Eb, Gb), row_flags, __VA_ARGS__), [base + 1] = I(name, access(Ev, Gv), row_flags, __VA_ARGS__), \
    [base + 2] = I(name, access(Gb, Eb), 0, __VA_ARGS__), [base + 3] = I(name, access(Gv, Ev), 0, __VA_ARGS__), \
    [base + 4] = I(name, access(AL, sIbb), 0, __VA_ARGS__), [base + 5] = I(name, access(rAX, Iz), 0, __VA_ARGS__)
#define GROUP1(e, i) BY_REG( \
    I(ADD, RW(e, i), LOCK, SETS(ARITH)), I(OR, RW(e, i), LOCK, LOGIC), I(ADC, RW(e, i), LOCK, EF(CF, ARITH, 0)), \
    I(SBB, RW(e, i), LOCK, EF(CF, ARITH, 0)), \
    I(AND, RW(e, i), LOCK, LOGIC), I(SUB, RW(e, i), LOCK, SETS(ARITH)), I(XOR, RW(e, i), LOCK, LOGIC), I(CMP, R(e, i), 0, SETS(ARITH)))
/* Shifts by 1 leave OF defined; by more, or by a count of 0 (all flags stay), see X86_F_KEEPS. */
#define GROUP2(e, count, keeps, of) BY_REG( \
    I(ROL, RW(e, count), keeps, EF(0, CF | OF, of)), I(ROR, RW(e, count), keeps, EF(0, CF | OF, of)), \
    I(RCL, RW(e, count), keeps, EF(CF, CF | OF, of)), I(RCR, RW(e, count), keeps, EF(CF, CF | OF, of)), \
    I(SHL, RW(e, count), keeps, EF(0, ARITH & ~AF, AF | of)), I(SHR, RW(e, count), keeps, EF(0, ARITH & ~AF, AF | of)), \
    I(SHL, RW(e, count), keeps, EF(0, ARITH & ~AF, AF | of)), I(SAR, RW(e, count), keeps, EF(0, ARITH & ~AF, AF | of)))
#define GROUP3(e, i) BY_REG( \
    I(TEST, R(e, i), 0, LOGIC), I(TEST, R(e, i), 0, LOGIC), I(NOT, RW(e), LOCK), I(NEG, RW(e), LOCK, SETS(ARITH)), \
    I(MUL, R(e), 0, EF(0, CF | OF, ARITH & ~(CF | OF))), I(IMUL, R(e), 0, EF(0, CF | OF, ARITH & ~(CF | OF))), \
    I(DIV, R(e), 0, UNDEFINES), I(IDIV, R(e), 0, UNDEFINES))
#define BITS EF(0, CF, ARITH & ~(CF | ZF)) /* BT, BTS, BTR, BTC */

#define EIGHT(base, ...) [base] = __VA_ARGS__, [base + 1] = __VA_ARGS__, [base + 2] = __VA_ARGS__, [base + 3] = __VA_ARGS__, \
    [base + 4] = __VA_ARGS__, [base + 5] = __VA_ARGS__, [base + 6] = __VA_ARGS__, [base + 7] = __VA_ARGS__
/* The 16 conditions, in order of their codes. */
#define CONDITIONS(base, name, operands, row_flags, ...) \
    [base + 0] = I(name, operands, row_flags, READS(OF), __VA_ARGS__), [base + 1] = I(name, operands, row_flags, READS(OF), __VA_ARGS__), \
    [base + 2] = I(name, operands, row_flags, READS(CF), __VA_ARGS__), [base + 3] = I(name, operands, row_flags, READS(CF), __VA_ARGS__), \
    [base + 4] = I(name, operands, row_flags, READS(ZF), __VA_ARGS__), [base + 5] = I(name, operands, row_flags, READS(ZF), __VA_ARGS__), \
    [base + 6] = I(name, operands, row_flags, READS(CF | ZF), __VA_ARGS__), \
    [base + 7] = I(name, operands, row_flags, READS(CF | ZF), __VA_ARGS__), \
    [base + 8] = I(name, operands, row_flags, READS(SF), __VA_ARGS__), [base + 9] = I(name, operands, row_flags, READS(SF), __VA_ARGS__), \
    [base + 10] = I(name, operands, row_flags, READS(PF), __VA_ARGS__), \
    [base + 11] = I(name, operands, row_flags, READS(PF), __VA_ARGS__), \
    [base + 12] = I(name, operands, row_flags, READS(SF | OF), __VA_ARGS__), \
    [base + 13] = I(name, operands, row_flags, READS(SF | OF), __VA_ARGS__), \
    [base + 14] = I(name, operands, row_flags, READS(ZF | SF | OF), __VA_ARGS__), \
    [base + 15] = I(name, operands, row_flags, READS(ZF | SF | OF), __VA_ARGS__)

/* BSF and BSR leave the destination as it was when the source is 0. TZCNT and LZCNT are those where the processor does not know them:
 * group[0]. */
#define BSF_ROW I(BSF, RW(Gv, Ev), 0, EF(0, ZF, ARITH & ~ZF))
#define BSR_ROW I(BSR, RW(Gv, Ev), 0, EF(0, ZF, ARITH & ~ZF))
#define BSF_OR(name, needs, older) \
    I(name, W(Gv, Ev), 0, EF(0, CF | ZF, ARITH & ~(CF | ZF)), FEATURE(needs), .group = (const struct x86_opcode[1]){ older })
#define RDRAND_ROW(name) I(name, W(Rv), 0, SETS(ARITH), FEATURE(name))

/* ---- x87, appendix A.5: each escape is memory forms by reg, and register forms by reg, some by rm too ---- */

#define ESCAPE(memory, registers) BY_MOD(memory, registers)
#define FPU_ARITH(i, e) BY_REG( \
    FPU(F##i##ADD, RW(ST0, e)), FPU(F##i##MUL, RW(ST0, e)), FPU(F##i##COM, R(ST0, e)), FPU(F##i##COMP, R(ST0, e)), \
    FPU(F##i##SUB, RW(ST0, e)), FPU(F##i##SUBR, RW(ST0, e)), FPU(F##i##DIV, RW(ST0, e)), FPU(F##i##DIVR, RW(ST0, e)))
#define FPU_PLAIN(name) FPU(name, NONE)
#define FPU_NOWAIT(name, operands) \
    { .op = X86_OP_##name, .kind = X86_ROW_LEAF, OPERANDS_##operands, .flags = X87NW, .feature = X86_FEATURE_FPU }
#define FPU_CMOV(mask) FPU(FCMOVCC, RW(ST0, STi), READS(mask))
#define FISTTP(m) { .op = X86_OP_FISTTP, .kind = X86_ROW_LEAF, OPERANDS_W(m), .flags = X86_F_X87, .feature = X86_FEATURE_SSE3 }
#define FPU_COMI(name) FPU(name, R(ST0, STi), SETS(ARITH))

#define ESCAPE_D8 ESCAPE(FPU_ARITH(, Md), FPU_ARITH(, STi))
#define ESCAPE_D9 ESCAPE( \
    BY_REG(FPU(FLD, R(Md)), UD, FPU(FST, W(Md)), FPU(FSTP, W(Md)), FPU(FLDENV, R(M)), FPU(FLDCW, R(Mw)), FPU_NOWAIT(FNSTENV, W(M)), \
        FPU_NOWAIT(FNSTCW, W(Mw))), \
    BY_REG(FPU(FLD, R(STi)), FPU(FXCH, RW_RW(ST0, STi)), BY_RM(FPU_PLAIN(FNOP)), FPU(FSTP, W(STi)), \
        BY_RM(FPU_PLAIN(FCHS), FPU_PLAIN(FABS), UD, UD, FPU_PLAIN(FTST), FPU_PLAIN(FXAM)), \
        BY_RM(FPU_PLAIN(FLD1), FPU_PLAIN(FLDL2T), FPU_PLAIN(FLDL2E), FPU_PLAIN(FLDPI), FPU_PLAIN(FLDLG2), FPU_PLAIN(FLDLN2), \
            FPU_PLAIN(FLDZ)), \
        BY_RM(FPU_PLAIN(F2XM1), FPU_PLAIN(FYL2X), FPU_PLAIN(FPTAN), FPU_PLAIN(FPATAN), FPU_PLAIN(FXTRACT), FPU_PLAIN(FPREM1), \
            FPU_PLAIN(FDECSTP), FPU_PLAIN(FINCSTP)), \
        BY_RM(FPU_PLAIN(FPREM), FPU_PLAIN(FYL2XP1), FPU_PLAIN(FSQRT), FPU_PLAIN(FSINCOS), FPU_PLAIN(FRNDINT), FPU_PLAIN(FSCALE), \
            FPU_PLAIN(FSIN), FPU_PLAIN(FCOS))))
#define ESCAPE_DA ESCAPE(FPU_ARITH(I, Md), \
    BY_REG(FPU_CMOV(CF), FPU_CMOV(ZF), FPU_CMOV(CF | ZF), FPU_CMOV(PF), UD, BY_RM([1] = FPU_PLAIN(FUCOMPP))))
#define ESCAPE_DB ESCAPE( \
    BY_REG(FPU(FILD, R(Md)), FISTTP(Md), FPU(FIST, W(Md)), FPU(FISTP, W(Md)), UD, FPU(FLD, R(Mt)), UD, FPU(FSTP, W(Mt))), \
    BY_REG(FPU_CMOV(CF), FPU_CMOV(ZF), FPU_CMOV(CF | ZF), FPU_CMOV(PF), \
        /* E0, E1, E4: FENI, FDISI, FSETPM of the 8087 and 80287, without effect since */ \
        BY_RM(FPU_NOWAIT(FNOP, NONE), FPU_NOWAIT(FNOP, NONE), FPU_NOWAIT(FNCLEX, NONE), FPU_NOWAIT(FNINIT, NONE), FPU_NOWAIT(FNOP, NONE)), \
        FPU_COMI(FUCOMI), FPU_COMI(FCOMI)))
#define ESCAPE_DC ESCAPE(FPU_ARITH(, Mq), \
    BY_REG(FPU(FADD, RW(STi, ST0)), FPU(FMUL, RW(STi, ST0)), FPU(FCOM, R(ST0, STi)), FPU(FCOMP, R(ST0, STi)), \
        FPU(FSUBR, RW(STi, ST0)), FPU(FSUB, RW(STi, ST0)), FPU(FDIVR, RW(STi, ST0)), FPU(FDIV, RW(STi, ST0))))
#define ESCAPE_DD ESCAPE( \
    BY_REG(FPU(FLD, R(Mq)), FISTTP(Mq), FPU(FST, W(Mq)), FPU(FSTP, W(Mq)), FPU(FRSTOR, R(M)), UD, FPU_NOWAIT(FNSAVE, W(M)), \
        FPU_NOWAIT(FNSTSW, W(Mw))), \
    BY_REG(FPU(FFREE, ADDRESS(STi)), FPU(FXCH, RW_RW(ST0, STi)), FPU(FST, W(STi)), FPU(FSTP, W(STi)), FPU(FUCOM, R(ST0, STi)), \
        FPU(FUCOMP, R(ST0, STi))))
#define ESCAPE_DE ESCAPE(FPU_ARITH(I, Mw), \
    BY_REG(FPU(FADDP, RW(STi, ST0)), FPU(FMULP, RW(STi, ST0)), FPU(FCOMP, R(ST0, STi)), BY_RM([1] = FPU_PLAIN(FCOMPP)), \
        FPU(FSUBRP, RW(STi, ST0)), FPU(FSUBP, RW(STi, ST0)), FPU(FDIVRP, RW(STi, ST0)), FPU(FDIVP, RW(STi, ST0))))
#define ESCAPE_DF ESCAPE( \
    BY_REG(FPU(FILD, R(Mw)), FISTTP(Mw), FPU(FIST, W(Mw)), FPU(FISTP, W(Mw)), FPU(FBLD, R(Mt)), FPU(FILD, R(Mq)), FPU(FBSTP, W(Mt)), \
        FPU(FISTP, W(Mq))), \
    BY_REG(FPU(FFREEP, ADDRESS(STi)), FPU(FXCH, RW_RW(ST0, STi)), FPU(FSTP, W(STi)), FPU(FSTP, W(STi)), \
        BY_RM(FPU_NOWAIT(FNSTSW, W(AX))), FPU_COMI(FUCOMIP), FPU_COMI(FCOMIP)))

/* ---- vector instructions that come in regular sets ---- */

/* 66-less form on MMX, 66 form on XMM. The MMX forms of what SSE and SSE2 added need those. */
#define INT_OF(mm_needs, x_needs, name, mm_ops, x_ops) BY_PREFIX(MM(mm_needs, name, mm_ops), SSE(x_needs, name, x_ops, ALIGN))
#define INT(name) INT_OF(MMX, SSE2, name, RW(Pq, Qq), RW(Vdq, Wdq))
#define INT_SSE(name) INT_OF(SSE, SSE2, name, RW(Pq, Qq), RW(Vdq, Wdq))
#define INT_SSE2(name) INT_OF(SSE2, SSE2, name, RW(Pq, Qq), RW(Vdq, Wdq))
#define INT_SSSE3(name) INT_OF(SSSE3, SSSE3, name, RW(Pq, Qq), RW(Vdq, Wdq))
#define INT_LOW(name) INT_OF(MMX, SSE2, name, RW(Pq, Qd), RW(Vdq, Wdq))
#define SHIFT_IMM(name) BY_PREFIX(MM(MMX, name, RW(Nq, Ib)), SSE(SSE2, name, RW(Udq, Ib), 0))
#define PS_PD(name, operands, row_flags, ...) BY_PREFIX( \
    SSE(SSE, name##PS, operands, row_flags, __VA_ARGS__), SSE(SSE2, name##PD, operands, row_flags, __VA_ARGS__))
#define PS_PD_SS_SD(name) BY_PREFIX( \
    SSE(SSE, name##PS, RW(Vdq, Wdq), ALIGN | FP), SSE(SSE2, name##PD, RW(Vdq, Wdq), ALIGN | FP), SSE(SSE, name##SS, RW(Vd, Wd), FP), \
    SSE(SSE2, name##SD, RW(Vq, Wq), FP))
#define X_ONLY(needs, name, operands, row_flags, ...) BY_PREFIX([P66] = SSE(needs, name, operands, row_flags, __VA_ARGS__))
#define COMPARE_FLAGS SETS(ARITH) /* ZF, PF, CF by the result (SF, OF too for strings), the rest 0 */

const struct x86_opcode x86_map[4][256] = {
    /* ---- A.3 table A-2: one-byte opcodes; 0F, prefixes, REX, C4/C5 as VEX are decode.c's ---- */
    [0] = {
        ALU(0x00, ADD, RW, LOCK, SETS(ARITH)),
        [0x06] = I(PUSH_SEG, R(ES), I64), [0x07] = I(POP_SEG, W(ES), I64 | SYSTEM),
        ALU(0x08, OR, RW, LOCK, LOGIC),
        [0x0e] = I(PUSH_SEG, R(CS), I64),
        ALU(0x10, ADC, RW, LOCK, EF(CF, ARITH, 0)),
        [0x16] = I(PUSH_SEG, R(SS), I64), [0x17] = I(POP_SEG, W(SS), I64 | SYSTEM),
        ALU(0x18, SBB, RW, LOCK, EF(CF, ARITH, 0)),
        [0x1e] = I(PUSH_SEG, R(DS), I64), [0x1f] = I(POP_SEG, W(DS), I64 | SYSTEM),
        ALU(0x20, AND, RW, LOCK, LOGIC),
        [0x27] = I(DAA, NONE, I64, EF(CF | AF, ARITH & ~OF, OF)),
        ALU(0x28, SUB, RW, LOCK, SETS(ARITH)),
        [0x2f] = I(DAS, NONE, I64, EF(CF | AF, ARITH & ~OF, OF)),
        ALU(0x30, XOR, RW, LOCK, LOGIC),
        [0x37] = I(AAA, NONE, I64, EF(AF, AF | CF, ARITH & ~(AF | CF))),
        ALU(0x38, CMP, R, 0, SETS(ARITH)),
        [0x3f] = I(AAS, NONE, I64, EF(AF, AF | CF, ARITH & ~(AF | CF))),
        EIGHT(0x40, I(INC, RW(Zv), I64, SETS(ARITH & ~CF))),
        EIGHT(0x48, I(DEC, RW(Zv), I64, SETS(ARITH & ~CF))),
        EIGHT(0x50, I(PUSH, R(Zv), D64)),
        EIGHT(0x58, I(POP, W(Zv), D64)),

        [0x60] = I(PUSHA, NONE, I64),
        [0x61] = I(POPA, NONE, I64),
        [0x62] = I(BOUND, R(Gv, Ma), I64),
        [0x63] = BY_MODE(I(ARPL, RW(Ew, Gw), PROT, SETS(ZF)), I(MOVSXD, W(Gv, Ez), 0)),
        [0x68] = I(PUSH, R(Iz), D64),
        [0x69] = I(IMUL, W(Gv, Ev, Iz), 0, EF(0, CF | OF, ARITH & ~(CF | OF))),
        [0x6a] = I(PUSH, R(sIb), D64),
        [0x6b] = I(IMUL, W(Gv, Ev, sIb), 0, EF(0, CF | OF, ARITH & ~(CF | OF))),
        [0x6c] = I(INS, W(Yb, DX), REP | SYSTEM, READS(X86_DF)),
        [0x6d] = I(INS, W(Yz, DX), REP | SYSTEM, READS(X86_DF)),
        [0x6e] = I(OUTS, R(DX, Xb), REP | SYSTEM, READS(X86_DF)),
        [0x6f] = I(OUTS, R(DX, Xz), REP | SYSTEM, READS(X86_DF)),
        CONDITIONS(0x70, JCC, R(Jb), F64 | BRANCH),

        [0x80] = GROUP1(Eb, sIbb),
        [0x81] = GROUP1(Ev, Iz),
        [0x82] = BY_MODE(GROUP1(Eb, sIbb), UD),
        [0x83] = GROUP1(Ev, sIb),
        [0x84] = I(TEST, R(Eb, Gb), 0, LOGIC),
        [0x85] = I(TEST, R(Ev, Gv), 0, LOGIC),
        [0x86] = I(XCHG, RW_RW(Eb, Gb), LOCK),
        [0x87] = I(XCHG, RW_RW(Ev, Gv), LOCK),
        [0x88] = I(MOV, W(Eb, Gb), 0),
        [0x89] = I(MOV, W(Ev, Gv), 0),
        [0x8a] = I(MOV, W(Gb, Eb), 0),
        [0x8b] = I(MOV, W(Gv, Ev), 0),
        [0x8c] = I(MOV_SEG, W(Ewv, Sw), 0),
        [0x8d] = I(LEA, W_ADDRESS(Gv, M), 0),
        [0x8e] = I(MOV_SEG, W(Sw, Ew), SYSTEM),
        [0x8f] = BY_REG(I(POP, W(Ev), D64)),

        [0x90] = BY_REXB(BY_PREFIX(I(NOP, NONE, 0), I(NOP, NONE, 0), I(PAUSE, NONE, 0), I(NOP, NONE, 0)), I(XCHG, RW_RW(Zv, rAX), 0)),
        [0x91] = I(XCHG, RW_RW(Zv, rAX), 0), [0x92] = I(XCHG, RW_RW(Zv, rAX), 0), [0x93] = I(XCHG, RW_RW(Zv, rAX), 0),
        [0x94] = I(XCHG, RW_RW(Zv, rAX), 0), [0x95] = I(XCHG, RW_RW(Zv, rAX), 0), [0x96] = I(XCHG, RW_RW(Zv, rAX), 0),
        [0x97] = I(XCHG, RW_RW(Zv, rAX), 0),
        [0x98] = I(CBW, NONE, 0),
        [0x99] = I(CWD, NONE, 0),
        [0x9a] = I(CALL_FAR, R(Ap), I64 | FAR),
        [0x9b] = I(FWAIT, NONE, 0, FEATURE(FPU)), /* #NM by CR0.MP and TS, not EM: its own check */
        [0x9c] = I(PUSHF, NONE, D64, READS(ALL_FLAGS)),
        [0x9d] = I(POPF, NONE, D64 | SYSTEM, SETS(ALL_FLAGS)),
        [0x9e] = BY_MODE(I(SAHF, NONE, 0, SETS(ARITH & ~OF)), I(SAHF, NONE, 0, SETS(ARITH & ~OF), FEATURE(LAHF64))),
        [0x9f] = BY_MODE(I(LAHF, NONE, 0, READS(ARITH & ~OF)), I(LAHF, NONE, 0, READS(ARITH & ~OF), FEATURE(LAHF64))),
        [0xa0] = I(MOV, W(AL, Ob), 0),
        [0xa1] = I(MOV, W(rAX, Ov), 0),
        [0xa2] = I(MOV, W(Ob, AL), 0),
        [0xa3] = I(MOV, W(Ov, rAX), 0),
        [0xa4] = I(MOVS, W(Yb, Xb), REP, READS(X86_DF)),
        [0xa5] = I(MOVS, W(Yv, Xv), REP, READS(X86_DF)),
        [0xa6] = I(CMPS, R(Xb, Yb), REP | REPCC, EF(X86_DF, ARITH, 0)),
        [0xa7] = I(CMPS, R(Xv, Yv), REP | REPCC, EF(X86_DF, ARITH, 0)),
        [0xa8] = I(TEST, R(AL, sIbb), 0, LOGIC),
        [0xa9] = I(TEST, R(rAX, Iz), 0, LOGIC),
        [0xaa] = I(STOS, W(Yb, AL), REP, READS(X86_DF)),
        [0xab] = I(STOS, W(Yv, rAX), REP, READS(X86_DF)),
        [0xac] = I(LODS, W(AL, Xb), REP, READS(X86_DF)),
        [0xad] = I(LODS, W(rAX, Xv), REP, READS(X86_DF)),
        [0xae] = I(SCAS, R(AL, Yb), REP | REPCC, EF(X86_DF, ARITH, 0)),
        [0xaf] = I(SCAS, R(rAX, Yv), REP | REPCC, EF(X86_DF, ARITH, 0)),
        EIGHT(0xb0, I(MOV, W(Zb, Ib), 0)),
        EIGHT(0xb8, I(MOV, W(Zv, Iv), 0)),

        [0xc0] = GROUP2(Eb, Ib, X86_F_KEEPS, OF),
        [0xc1] = GROUP2(Ev, Ib, X86_F_KEEPS, OF),
        [0xc2] = I(RET, R(Iw), F64 | BRANCH),
        [0xc3] = I(RET, NONE, F64 | BRANCH),
        [0xc4] = I(LES, W(Gv, Mp), I64 | SYSTEM),
        [0xc5] = I(LDS, W(Gv, Mp), I64 | SYSTEM),
        [0xc6] = BY_REG(I(MOV, W(Eb, Ib), 0)),
        [0xc7] = BY_REG(I(MOV, W(Ev, Iz), 0)),
        [0xc8] = I(ENTER, R(Iw, Ib), D64),
        [0xc9] = I(LEAVE, NONE, D64),
        [0xca] = I(RET_FAR, R(Iw), FAR),
        [0xcb] = I(RET_FAR, NONE, FAR),
        [0xcc] = I(INT3, NONE, FAR),
        [0xcd] = I(INT, R(Ib), FAR),
        [0xce] = I(INTO, NONE, I64 | FAR, READS(OF)),
        [0xcf] = I(IRET, NONE, FAR, SETS(ALL_FLAGS)),

        [0xd0] = GROUP2(Eb, One, 0, 0),
        [0xd1] = GROUP2(Ev, One, 0, 0),
        [0xd2] = GROUP2(Eb, CL, X86_F_KEEPS, OF),
        [0xd3] = GROUP2(Ev, CL, X86_F_KEEPS, OF),
        [0xd4] = I(AAM, R(Ib), I64, EF(0, SF | ZF | PF, OF | AF | CF)),
        [0xd5] = I(AAD, R(Ib), I64, EF(0, SF | ZF | PF, OF | AF | CF)),
        [0xd6] = I(SALC, NONE, I64, READS(CF)),
        [0xd7] = I(XLAT, W(AL, Bb), 0),
        [0xd8] = ESCAPE_D8, [0xd9] = ESCAPE_D9, [0xda] = ESCAPE_DA, [0xdb] = ESCAPE_DB,
        [0xdc] = ESCAPE_DC, [0xdd] = ESCAPE_DD, [0xde] = ESCAPE_DE, [0xdf] = ESCAPE_DF,

        [0xe0] = I(LOOPNE, R(Jb), F64 | BRANCH, READS(ZF)),
        [0xe1] = I(LOOPE, R(Jb), F64 | BRANCH, READS(ZF)),
        [0xe2] = I(LOOP, R(Jb), F64 | BRANCH),
        [0xe3] = I(JCXZ, R(Jb), F64 | BRANCH),
        [0xe4] = I(IN, W(AL, Ib), SYSTEM),
        [0xe5] = I(IN, W(zAX, Ib), SYSTEM),
        [0xe6] = I(OUT, R(Ib, AL), SYSTEM),
        [0xe7] = I(OUT, R(Ib, zAX), SYSTEM),
        [0xe8] = I(CALL, R(Jz), F64 | BRANCH),
        [0xe9] = I(JMP, R(Jz), F64 | BRANCH),
        [0xea] = I(JMP_FAR, R(Ap), I64 | FAR),
        [0xeb] = I(JMP, R(Jb), F64 | BRANCH),
        [0xec] = I(IN, W(AL, DX), SYSTEM),
        [0xed] = I(IN, W(zAX, DX), SYSTEM),
        [0xee] = I(OUT, R(DX, AL), SYSTEM),
        [0xef] = I(OUT, R(DX, zAX), SYSTEM),

        [0xf1] = I(INT1, NONE, FAR),
        [0xf4] = I(HLT, NONE, CPL0 | FAR),
        [0xf5] = I(CMC, NONE, 0, EF(CF, CF, 0)),
        [0xf6] = GROUP3(Eb, sIbb),
        [0xf7] = GROUP3(Ev, Iz),
        [0xf8] = I(CLC, NONE, 0, SETS(CF)),
        [0xf9] = I(STC, NONE, 0, SETS(CF)),
        [0xfa] = I(CLI, NONE, SYSTEM, SETS(X86_IF)),
        [0xfb] = I(STI, NONE, SYSTEM, SETS(X86_IF)),
        [0xfc] = I(CLD, NONE, 0, SETS(X86_DF)),
        [0xfd] = I(STD, NONE, 0, SETS(X86_DF)),
        [0xfe] = BY_REG(I(INC, RW(Eb), LOCK, SETS(ARITH & ~CF)), I(DEC, RW(Eb), LOCK, SETS(ARITH & ~CF))),
        [0xff] = BY_REG(I(INC, RW(Ev), LOCK, SETS(ARITH & ~CF)), I(DEC, RW(Ev), LOCK, SETS(ARITH & ~CF)), I(CALL, R(Ev), F64 | BRANCH),
            I(CALL_FAR, R(Mp), FAR), I(JMP, R(Ev), F64 | BRANCH), I(JMP_FAR, R(Mp), FAR), I(PUSH, R(Ev), D64)),
    },

    /* ---- table A-3: two-byte opcodes, 0F xx ---- */
    [1] = {
        [0x00] = BY_REG(I(SLDT, W(Ewv), PROT), I(STR, W(Ewv), PROT), I(LLDT, R(Ew), PROT | CPL0 | SYSTEM),
            I(LTR, R(Ew), PROT | CPL0 | SYSTEM),
            I(VERR, R(Ew), PROT, SETS(ZF)), I(VERW, R(Ew), PROT, SETS(ZF))),
        [0x01] = BY_MOD(
            BY_REG(I(SGDT, W(M), F64), I(SIDT, W(M), F64), I(LGDT, R(M), F64 | CPL0 | SYSTEM), I(LIDT, R(M), F64 | CPL0 | SYSTEM),
                I(SMSW, W(Ewv), 0), UD, I(LMSW, R(Ew), CPL0 | SYSTEM), I(INVLPG, ADDRESS(M), CPL0 | SYSTEM)),
            BY_REG(
                BY_RM([1] = NP_ONLY(I(VMCALL, NONE, SYSTEM))),
                BY_RM(NP_ONLY(I(MONITOR, NONE, 0, FEATURE(MONITOR))), NP_ONLY(I(MWAIT, NONE, FAR, FEATURE(MONITOR))),
                    NP_ONLY(I(CLAC, NONE, SYSTEM, SETS(X86_AC), FEATURE(SMAP))),
                    NP_ONLY(I(STAC, NONE, SYSTEM, SETS(X86_AC), FEATURE(SMAP)))),
                BY_RM(NP_ONLY(I(XGETBV, NONE, 0, FEATURE(XSAVE))), NP_ONLY(I(XSETBV, NONE, CPL0 | SYSTEM, FEATURE(XSAVE)))),
                BY_RM([1] = I(VMMCALL, NONE, SYSTEM)),
                I(SMSW, W(Ewv), 0), UD, I(LMSW, R(Ew), CPL0 | SYSTEM),
                BY_RM(I(SWAPGS, NONE, O64 | CPL0), I(RDTSCP, NONE, 0, FEATURE(RDTSCP))))),
        [0x02] = I(LAR, RW(Gv, Ew), PROT, SETS(ZF)),
        [0x03] = I(LSL, RW(Gv, Ew), PROT, SETS(ZF)),
        [0x05] = I(SYSCALL, NONE, PROT | FAR, EF(ALL_FLAGS, ALL_FLAGS, 0), FEATURE(SYSCALL)),
        [0x06] = I(CLTS, NONE, CPL0 | SYSTEM),
        [0x07] = I(SYSRET, NONE, PROT | CPL0 | FAR, SETS(ALL_FLAGS), FEATURE(SYSCALL)),
        [0x08] = I(INVD, NONE, CPL0 | SYSTEM),
        [0x09] = I(WBINVD, NONE, CPL0 | SYSTEM),
        [0x0b] = I(UD2, NONE, BRANCH),
        [0x0d] = I(NOP, ADDRESS(Ev), 0),

        [0x10] = BY_PREFIX(SSE(SSE, MOVUPS, W(Vdq, Wdq), 0), SSE(SSE2, MOVUPD, W(Vdq, Wdq), 0),
            BY_MOD(SSE(SSE, MOVSS, W(Vdq, Md), 0), SSE(SSE, MOVSS, W(Vd, Ud), 0)),
            BY_MOD(SSE(SSE2, MOVSD, W(Vdq, Mq), 0), SSE(SSE2, MOVSD, W(Vq, Uq), 0))),
        [0x11] = BY_PREFIX(SSE(SSE, MOVUPS, W(Wdq, Vdq), 0), SSE(SSE2, MOVUPD, W(Wdq, Vdq), 0), SSE(SSE, MOVSS, W(Wd, Vd), 0),
            SSE(SSE2, MOVSD, W(Wq, Vq), 0)),
        [0x12] = BY_PREFIX(BY_MOD(SSE(SSE, MOVLPS, W(Vq, Mq), 0), SSE(SSE, MOVHLPS, W(Vq, Udq), 0)), SSE(SSE2, MOVLPD, W(Vq, Mq), 0),
            SSE(SSE3, MOVSLDUP, W(Vdq, Wdq), ALIGN), SSE(SSE3, MOVDDUP, W(Vdq, Wq), 0)),
        [0x13] = PS_PD(MOVL, W(Mq, Vq), 0),
        [0x14] = PS_PD(UNPCKL, RW(Vdq, Wdq), ALIGN),
        [0x15] = PS_PD(UNPCKH, RW(Vdq, Wdq), ALIGN),
        [0x16] = BY_PREFIX(BY_MOD(SSE(SSE, MOVHPS, W(Vq, Mq), 0), SSE(SSE, MOVLHPS, W(Vq, Uq), 0)), SSE(SSE2, MOVHPD, W(Vq, Mq), 0),
            SSE(SSE3, MOVSHDUP, W(Vdq, Wdq), ALIGN)),
        [0x17] = PS_PD(MOVH, W(Mq, Vdq), 0),
        EIGHT(0x18, I(NOP, ADDRESS(Ev), 0)), /* prefetches, ENDBR and other hints */

        /* the SDM leaves the arithmetic flags undefined here; processors do not touch them, nor do we */
        [0x20] = { .op = X86_OP_MOV_CR, .kind = X86_ROW_LEAF_RR, OPERANDS_W(Ry, Cy), .flags = F64 | CPL0 },
        [0x21] = { .op = X86_OP_MOV_DR, .kind = X86_ROW_LEAF_RR, OPERANDS_W(Ry, Dy), .flags = F64 | CPL0 },
        [0x22] = { .op = X86_OP_MOV_CR, .kind = X86_ROW_LEAF_RR, OPERANDS_W(Cy, Ry), .flags = F64 | CPL0 | SYSTEM },
        [0x23] = { .op = X86_OP_MOV_DR, .kind = X86_ROW_LEAF_RR, OPERANDS_W(Dy, Ry), .flags = F64 | CPL0 | SYSTEM },
        [0x28] = PS_PD(MOVA, W(Vdq, Wdq), ALIGN),
        [0x29] = PS_PD(MOVA, W(Wdq, Vdq), ALIGN),
        [0x2a] = BY_PREFIX(SSE(SSE, CVTPI2PS, W(Vq, Qq), MMX | FP), SSE(SSE2, CVTPI2PD, W(Vdq, Qq), MMX),
            SSE(SSE, CVTSI2SS, W(Vd, Ey), FP), SSE(SSE2, CVTSI2SD, W(Vq, Ey), FP)),
        [0x2b] = PS_PD(MOVNT, W(Mdq, Vdq), ALIGN),
        [0x2c] = BY_PREFIX(SSE(SSE, CVTTPS2PI, W(Pq, Wq), MMX | FP), SSE(SSE2, CVTTPD2PI, W(Pq, Wdq), MMX | ALIGN | FP),
            SSE(SSE, CVTTSS2SI, W(Gy, Wd), FP), SSE(SSE2, CVTTSD2SI, W(Gy, Wq), FP)),
        [0x2d] = BY_PREFIX(SSE(SSE, CVTPS2PI, W(Pq, Wq), MMX | FP), SSE(SSE2, CVTPD2PI, W(Pq, Wdq), MMX | ALIGN | FP),
            SSE(SSE, CVTSS2SI, W(Gy, Wd), FP), SSE(SSE2, CVTSD2SI, W(Gy, Wq), FP)),
        [0x2e] = BY_PREFIX(SSE(SSE, UCOMISS, R(Vd, Wd), FP, COMPARE_FLAGS), SSE(SSE2, UCOMISD, R(Vq, Wq), FP, COMPARE_FLAGS)),
        [0x2f] = BY_PREFIX(SSE(SSE, COMISS, R(Vd, Wd), FP, COMPARE_FLAGS), SSE(SSE2, COMISD, R(Vq, Wq), FP, COMPARE_FLAGS)),

        [0x30] = I(WRMSR, NONE, CPL0 | SYSTEM, FEATURE(MSR)),
        [0x31] = I(RDTSC, NONE, 0, FEATURE(TSC)),
        [0x32] = I(RDMSR, NONE, CPL0, FEATURE(MSR)),
        [0x33] = I(RDPMC, NONE, 0),
        [0x34] = I(SYSENTER, NONE, FAR, FEATURE(SEP)),
        [0x35] = I(SYSEXIT, NONE, CPL0 | FAR, FEATURE(SEP)),
        CONDITIONS(0x40, CMOVCC, RW(Gv, Ev), 0, FEATURE(CMOV)),

        [0x50] = PS_PD(MOVMSK, W(Gd, Udq), 0),
        [0x51] = BY_PREFIX(SSE(SSE, SQRTPS, W(Vdq, Wdq), ALIGN | FP), SSE(SSE2, SQRTPD, W(Vdq, Wdq), ALIGN | FP),
            SSE(SSE, SQRTSS, W(Vd, Wd), FP), SSE(SSE2, SQRTSD, W(Vq, Wq), FP)),
        [0x52] = BY_PREFIX([NP] = SSE(SSE, RSQRTPS, W(Vdq, Wdq), ALIGN), [PF3] = SSE(SSE, RSQRTSS, W(Vd, Wd), 0)),
        [0x53] = BY_PREFIX([NP] = SSE(SSE, RCPPS, W(Vdq, Wdq), ALIGN), [PF3] = SSE(SSE, RCPSS, W(Vd, Wd), 0)),
        [0x54] = PS_PD(AND, RW(Vdq, Wdq), ALIGN),
        [0x55] = PS_PD(ANDN, RW(Vdq, Wdq), ALIGN),
        [0x56] = PS_PD(OR, RW(Vdq, Wdq), ALIGN),
        [0x57] = PS_PD(XOR, RW(Vdq, Wdq), ALIGN),
        [0x58] = PS_PD_SS_SD(ADD),
        [0x59] = PS_PD_SS_SD(MUL),
        [0x5a] = BY_PREFIX(SSE(SSE2, CVTPS2PD, W(Vdq, Wq), FP), SSE(SSE2, CVTPD2PS, W(Vdq, Wdq), ALIGN | FP),
            SSE(SSE2, CVTSS2SD, W(Vq, Wd), FP), SSE(SSE2, CVTSD2SS, W(Vd, Wq), FP)),
        [0x5b] = BY_PREFIX(SSE(SSE2, CVTDQ2PS, W(Vdq, Wdq), ALIGN | FP), SSE(SSE2, CVTPS2DQ, W(Vdq, Wdq), ALIGN | FP),
            SSE(SSE2, CVTTPS2DQ, W(Vdq, Wdq), ALIGN | FP)),
        [0x5c] = PS_PD_SS_SD(SUB),
        [0x5d] = PS_PD_SS_SD(MIN),
        [0x5e] = PS_PD_SS_SD(DIV),
        [0x5f] = PS_PD_SS_SD(MAX),

        [0x60] = INT_LOW(PUNPCKLBW), [0x61] = INT_LOW(PUNPCKLWD), [0x62] = INT_LOW(PUNPCKLDQ), [0x63] = INT(PACKSSWB),
        [0x64] = INT(PCMPGTB), [0x65] = INT(PCMPGTW), [0x66] = INT(PCMPGTD), [0x67] = INT(PACKUSWB),
        [0x68] = INT(PUNPCKHBW), [0x69] = INT(PUNPCKHWD), [0x6a] = INT(PUNPCKHDQ), [0x6b] = INT(PACKSSDW),
        [0x6c] = X_ONLY(SSE2, PUNPCKLQDQ, RW(Vdq, Wdq), ALIGN), [0x6d] = X_ONLY(SSE2, PUNPCKHQDQ, RW(Vdq, Wdq), ALIGN),
        [0x6e] = BY_PREFIX(MM(MMX, MOVD, W(Pq, Ey)), SSE(SSE2, MOVD, W(Vdq, Ey), 0)),
        [0x6f] = BY_PREFIX(MM(MMX, MOVQ, W(Pq, Qq)), SSE(SSE2, MOVDQA, W(Vdq, Wdq), ALIGN), SSE(SSE2, MOVDQU, W(Vdq, Wdq), 0)),
        [0x70] = BY_PREFIX(MM(SSE, PSHUFW, W(Pq, Qq, Ib)), SSE(SSE2, PSHUFD, W(Vdq, Wdq, Ib), ALIGN),
            SSE(SSE2, PSHUFHW, W(Vdq, Wdq, Ib), ALIGN),
            SSE(SSE2, PSHUFLW, W(Vdq, Wdq, Ib), ALIGN)),
        [0x71] = BY_REG([2] = SHIFT_IMM(PSRLW), [4] = SHIFT_IMM(PSRAW), [6] = SHIFT_IMM(PSLLW)),
        [0x72] = BY_REG([2] = SHIFT_IMM(PSRLD), [4] = SHIFT_IMM(PSRAD), [6] = SHIFT_IMM(PSLLD)),
        [0x73] = BY_REG([2] = SHIFT_IMM(PSRLQ), [3] = X_ONLY(SSE2, PSRLDQ, RW(Udq, Ib), 0), [6] = SHIFT_IMM(PSLLQ),
            [7] = X_ONLY(SSE2, PSLLDQ, RW(Udq, Ib), 0)),
        [0x74] = INT(PCMPEQB), [0x75] = INT(PCMPEQW), [0x76] = INT(PCMPEQD),
        [0x77] = NP_ONLY(MM(MMX, EMMS, NONE)),
        [0x7c] = BY_PREFIX([P66] = SSE(SSE3, HADDPD, RW(Vdq, Wdq), ALIGN | FP), [PF2] = SSE(SSE3, HADDPS, RW(Vdq, Wdq), ALIGN | FP)),
        [0x7d] = BY_PREFIX([P66] = SSE(SSE3, HSUBPD, RW(Vdq, Wdq), ALIGN | FP), [PF2] = SSE(SSE3, HSUBPS, RW(Vdq, Wdq), ALIGN | FP)),
        [0x7e] = BY_PREFIX(MM(MMX, MOVD, W(Ey, Pq)), SSE(SSE2, MOVD, W(Ey, Vq), 0), SSE(SSE2, MOVQ, W(Vdq, Wq), 0)),
        [0x7f] = BY_PREFIX(MM(MMX, MOVQ, W(Qq, Pq)), SSE(SSE2, MOVDQA, W(Wdq, Vdq), ALIGN), SSE(SSE2, MOVDQU, W(Wdq, Vdq), 0)),

        CONDITIONS(0x80, JCC, R(Jz), F64 | BRANCH),
        CONDITIONS(0x90, SETCC, W(Eb), 0),

        [0xa0] = I(PUSH_SEG, R(FS), D64),
        [0xa1] = I(POP_SEG, W(FS), D64 | SYSTEM),
        [0xa2] = I(CPUID, NONE, 0),
        [0xa3] = I(BT, R(Ev, Gv), 0, BITS),
        [0xa4] = I(SHLD, RW(Ev, Gv, Ib), X86_F_KEEPS, EF(0, ARITH & ~AF, AF | OF)),
        [0xa5] = I(SHLD, RW(Ev, Gv, CL), X86_F_KEEPS, EF(0, ARITH & ~AF, AF | OF)),
        [0xa8] = I(PUSH_SEG, R(GS), D64),
        [0xa9] = I(POP_SEG, W(GS), D64 | SYSTEM),
        [0xaa] = I(RSM, NONE, FAR, SETS(ALL_FLAGS)),
        [0xab] = I(BTS, RW(Ev, Gv), LOCK, BITS),
        [0xac] = I(SHRD, RW(Ev, Gv, Ib), X86_F_KEEPS, EF(0, ARITH & ~AF, AF | OF)),
        [0xad] = I(SHRD, RW(Ev, Gv, CL), X86_F_KEEPS, EF(0, ARITH & ~AF, AF | OF)),
        [0xae] = BY_MOD(
            BY_REG(NP_ONLY(I(FXSAVE, W(M), X87NW | ALIGN, FEATURE(FXSR))), NP_ONLY(I(FXRSTOR, R(M), X87NW | ALIGN, FEATURE(FXSR))),
                NP_ONLY(SSE(SSE, LDMXCSR, R(Md), 0)), NP_ONLY(SSE(SSE, STMXCSR, W(Md), 0)),
                NP_ONLY(I(XSAVE, RW(M), 0, FEATURE(XSAVE))), NP_ONLY(I(XRSTOR, R(M), 0, FEATURE(XSAVE))),
                BY_PREFIX(I(XSAVEOPT, RW(M), 0, FEATURE(XSAVEOPT)), I(CLWB, ADDRESS(Mb), 0, FEATURE(CLWB))),
                BY_PREFIX(I(CLFLUSH, ADDRESS(Mb), 0, FEATURE(CLFSH)), I(CLFLUSHOPT, ADDRESS(Mb), 0, FEATURE(CLFLUSHOPT)))),
            BY_REG(BY_PREFIX([PF3] = I(RDFSBASE, W(Ry), O64, FEATURE(FSGSBASE))),
                BY_PREFIX([PF3] = I(RDGSBASE, W(Ry), O64, FEATURE(FSGSBASE))),
                BY_PREFIX([PF3] = I(WRFSBASE, R(Ry), O64, FEATURE(FSGSBASE))),
                BY_PREFIX([PF3] = I(WRGSBASE, R(Ry), O64, FEATURE(FSGSBASE))),
                UD, NP_ONLY(I(LFENCE, NONE, 0, FEATURE(SSE2))), NP_ONLY(I(MFENCE, NONE, 0, FEATURE(SSE2))),
                NP_ONLY(I(SFENCE, NONE, 0, FEATURE(SSE))))),
        [0xaf] = I(IMUL, RW(Gv, Ev), 0, EF(0, CF | OF, ARITH & ~(CF | OF))),

        [0xb0] = I(CMPXCHG, RW(Eb, Gb), LOCK, SETS(ARITH)),
        [0xb1] = I(CMPXCHG, RW(Ev, Gv), LOCK, SETS(ARITH)),
        [0xb2] = I(LSS, W(Gv, Mp), SYSTEM),
        [0xb3] = I(BTR, RW(Ev, Gv), LOCK, BITS),
        [0xb4] = I(LFS, W(Gv, Mp), SYSTEM),
        [0xb5] = I(LGS, W(Gv, Mp), SYSTEM),
        [0xb6] = I(MOVZX, W(Gv, Eb), 0),
        [0xb7] = I(MOVZX, W(Gv, Ew), 0),
        [0xb8] = BY_PREFIX([PF3] = I(POPCNT, W(Gv, Ev), 0, SETS(ARITH), FEATURE(POPCNT))),
        [0xb9] = I(UD1, R(Gd, Ed), BRANCH),
        [0xba] = BY_REG([4] = I(BT, R(Ev, Ib), 0, BITS), [5] = I(BTS, RW(Ev, Ib), LOCK, BITS), [6] = I(BTR, RW(Ev, Ib), LOCK, BITS),
            [7] = I(BTC, RW(Ev, Ib), LOCK, BITS)),
        [0xbb] = I(BTC, RW(Ev, Gv), LOCK, BITS),
        [0xbc] = BY_PREFIX(BSF_ROW, BSF_ROW, BSF_OR(TZCNT, BMI1, BSF_ROW), BSF_ROW),
        [0xbd] = BY_PREFIX(BSR_ROW, BSR_ROW, BSF_OR(LZCNT, LZCNT, BSR_ROW), BSR_ROW),
        [0xbe] = I(MOVSX, W(Gv, Eb), 0),
        [0xbf] = I(MOVSX, W(Gv, Ew), 0),

        [0xc0] = I(XADD, RW_RW(Eb, Gb), LOCK, SETS(ARITH)),
        [0xc1] = I(XADD, RW_RW(Ev, Gv), LOCK, SETS(ARITH)),
        [0xc2] = BY_PREFIX(SSE(SSE, CMPPS, RW(Vdq, Wdq, Ib), ALIGN | FP), SSE(SSE2, CMPPD, RW(Vdq, Wdq, Ib), ALIGN | FP),
            SSE(SSE, CMPSS, RW(Vd, Wd, Ib), FP), SSE(SSE2, CMPSD, RW(Vq, Wq, Ib), FP)),
        [0xc3] = NP_ONLY(I(MOVNTI, W(My, Gy), 0, FEATURE(SSE2))),
        [0xc4] = BY_PREFIX(MM(SSE, PINSRW, RW(Pq, Ewd, Ib)), SSE(SSE2, PINSRW, RW(Vdq, Ewd, Ib), 0)),
        [0xc5] = BY_PREFIX(MM(SSE, PEXTRW, W(Gd, Nq, Ib)), SSE(SSE2, PEXTRW, W(Gd, Udq, Ib), 0)),
        [0xc6] = PS_PD(SHUF, RW(Vdq, Wdq, Ib), ALIGN),
        [0xc7] = BY_MOD(
            BY_REG([1] = BY_W(I(CMPXCHG8B, RW(Mq), LOCK, SETS(ZF), FEATURE(CX8)),
                I(CMPXCHG16B, RW(Mdq), LOCK | ALIGN, SETS(ZF), FEATURE(CX16))),
                [3] = NP_ONLY(I(XRSTORS, R(M), CPL0, FEATURE(XSAVES))), [4] = NP_ONLY(I(XSAVEC, W(M), 0, FEATURE(XSAVEC))),
                [5] = NP_ONLY(I(XSAVES, W(M), CPL0, FEATURE(XSAVES)))),
            BY_REG([6] = BY_PREFIX(RDRAND_ROW(RDRAND), RDRAND_ROW(RDRAND)),
                [7] = BY_PREFIX(RDRAND_ROW(RDSEED), RDRAND_ROW(RDSEED), I(RDPID, W(Ry), F64, FEATURE(RDPID))))),
        EIGHT(0xc8, I(BSWAP, RW(Zv), 0)),

        [0xd0] = BY_PREFIX([P66] = SSE(SSE3, ADDSUBPD, RW(Vdq, Wdq), ALIGN | FP), [PF2] = SSE(SSE3, ADDSUBPS, RW(Vdq, Wdq), ALIGN | FP)),
        [0xd1] = INT(PSRLW), [0xd2] = INT(PSRLD), [0xd3] = INT(PSRLQ), [0xd4] = INT_SSE2(PADDQ), [0xd5] = INT(PMULLW),
        [0xd6] = BY_PREFIX([P66] = BY_MOD(SSE(SSE2, MOVQ, W(Mq, Vq), 0), SSE(SSE2, MOVQ, W(Udq, Vq), 0)),
            [PF3] = SSE(SSE2, MOVQ2DQ, W(Vdq, Nq), MMX), [PF2] = SSE(SSE2, MOVDQ2Q, W(Pq, Uq), MMX)),
        [0xd7] = BY_PREFIX(MM(SSE, PMOVMSKB, W(Gd, Nq)), SSE(SSE2, PMOVMSKB, W(Gd, Udq), 0)),
        [0xd8] = INT(PSUBUSB), [0xd9] = INT(PSUBUSW), [0xda] = INT_SSE(PMINUB), [0xdb] = INT(PAND),
        [0xdc] = INT(PADDUSB), [0xdd] = INT(PADDUSW), [0xde] = INT_SSE(PMAXUB), [0xdf] = INT(PANDN),
        [0xe0] = INT_SSE(PAVGB), [0xe1] = INT(PSRAW), [0xe2] = INT(PSRAD), [0xe3] = INT_SSE(PAVGW), [0xe4] = INT_SSE(PMULHUW),
        [0xe5] = INT(PMULHW),
        [0xe6] = BY_PREFIX([P66] = SSE(SSE2, CVTTPD2DQ, W(Vdq, Wdq), ALIGN | FP), [PF3] = SSE(SSE2, CVTDQ2PD, W(Vdq, Wq), 0),
            [PF2] = SSE(SSE2, CVTPD2DQ, W(Vdq, Wdq), ALIGN | FP)),
        [0xe7] = BY_PREFIX(MM(SSE, MOVNTQ, W(Mq, Pq)), SSE(SSE2, MOVNTDQ, W(Mdq, Vdq), ALIGN)),
        [0xe8] = INT(PSUBSB), [0xe9] = INT(PSUBSW), [0xea] = INT_SSE(PMINSW), [0xeb] = INT(POR),
        [0xec] = INT(PADDSB), [0xed] = INT(PADDSW), [0xee] = INT_SSE(PMAXSW), [0xef] = INT(PXOR),
        [0xf0] = BY_PREFIX([PF2] = SSE(SSE3, LDDQU, W(Vdq, Mdq), 0)),
        [0xf1] = INT(PSLLW), [0xf2] = INT(PSLLD), [0xf3] = INT(PSLLQ), [0xf4] = INT_SSE2(PMULUDQ), [0xf5] = INT(PMADDWD),
        [0xf6] = INT_SSE(PSADBW),
        [0xf7] = BY_PREFIX(MM(SSE, MASKMOVQ, R_R_W(Pq, Nq, Dq)), SSE(SSE2, MASKMOVDQU, R_R_W(Vdq, Udq, Ddq), 0)),
        [0xf8] = INT(PSUBB), [0xf9] = INT(PSUBW), [0xfa] = INT(PSUBD), [0xfb] = INT_SSE2(PSUBQ),
        [0xfc] = INT(PADDB), [0xfd] = INT(PADDW), [0xfe] = INT(PADDD),
        [0xff] = I(UD0, R(Gd, Ed), BRANCH),
    },

    /* ---- table A-4: three-byte opcodes, 0F 38 xx ---- */
    [2] = {
        [0x00] = INT_SSSE3(PSHUFB), [0x01] = INT_SSSE3(PHADDW), [0x02] = INT_SSSE3(PHADDD), [0x03] = INT_SSSE3(PHADDSW),
        [0x04] = INT_SSSE3(PMADDUBSW),
        [0x05] = INT_SSSE3(PHSUBW), [0x06] = INT_SSSE3(PHSUBD), [0x07] = INT_SSSE3(PHSUBSW), [0x08] = INT_SSSE3(PSIGNB),
        [0x09] = INT_SSSE3(PSIGNW),
        [0x0a] = INT_SSSE3(PSIGND), [0x0b] = INT_SSSE3(PMULHRSW),
        [0x10] = X_ONLY(SSE4_1, PBLENDVB, RW(Vdq, Wdq, XMM0), ALIGN),
        [0x14] = X_ONLY(SSE4_1, BLENDVPS, RW(Vdq, Wdq, XMM0), ALIGN),
        [0x15] = X_ONLY(SSE4_1, BLENDVPD, RW(Vdq, Wdq, XMM0), ALIGN),
        [0x17] = X_ONLY(SSE4_1, PTEST, R(Vdq, Wdq), ALIGN, COMPARE_FLAGS),
        [0x1c] = INT_OF(SSSE3, SSSE3, PABSB, W(Pq, Qq), W(Vdq, Wdq)),
        [0x1d] = INT_OF(SSSE3, SSSE3, PABSW, W(Pq, Qq), W(Vdq, Wdq)),
        [0x1e] = INT_OF(SSSE3, SSSE3, PABSD, W(Pq, Qq), W(Vdq, Wdq)),
        [0x20] = X_ONLY(SSE4_1, PMOVSXBW, W(Vdq, Wq), 0), [0x21] = X_ONLY(SSE4_1, PMOVSXBD, W(Vdq, Wd), 0),
        [0x22] = X_ONLY(SSE4_1, PMOVSXBQ, W(Vdq, Ww), 0),
        [0x23] = X_ONLY(SSE4_1, PMOVSXWD, W(Vdq, Wq), 0), [0x24] = X_ONLY(SSE4_1, PMOVSXWQ, W(Vdq, Wd), 0),
        [0x25] = X_ONLY(SSE4_1, PMOVSXDQ, W(Vdq, Wq), 0),
        [0x28] = X_ONLY(SSE4_1, PMULDQ, RW(Vdq, Wdq), ALIGN),
        [0x29] = X_ONLY(SSE4_1, PCMPEQQ, RW(Vdq, Wdq), ALIGN),
        [0x2a] = X_ONLY(SSE4_1, MOVNTDQA, W(Vdq, Mdq), ALIGN),
        [0x2b] = X_ONLY(SSE4_1, PACKUSDW, RW(Vdq, Wdq), ALIGN),
        [0x30] = X_ONLY(SSE4_1, PMOVZXBW, W(Vdq, Wq), 0), [0x31] = X_ONLY(SSE4_1, PMOVZXBD, W(Vdq, Wd), 0),
        [0x32] = X_ONLY(SSE4_1, PMOVZXBQ, W(Vdq, Ww), 0),
        [0x33] = X_ONLY(SSE4_1, PMOVZXWD, W(Vdq, Wq), 0), [0x34] = X_ONLY(SSE4_1, PMOVZXWQ, W(Vdq, Wd), 0),
        [0x35] = X_ONLY(SSE4_1, PMOVZXDQ, W(Vdq, Wq), 0),
        [0x37] = X_ONLY(SSE4_2, PCMPGTQ, RW(Vdq, Wdq), ALIGN),
        [0x38] = X_ONLY(SSE4_1, PMINSB, RW(Vdq, Wdq), ALIGN), [0x39] = X_ONLY(SSE4_1, PMINSD, RW(Vdq, Wdq), ALIGN),
        [0x3a] = X_ONLY(SSE4_1, PMINUW, RW(Vdq, Wdq), ALIGN), [0x3b] = X_ONLY(SSE4_1, PMINUD, RW(Vdq, Wdq), ALIGN),
        [0x3c] = X_ONLY(SSE4_1, PMAXSB, RW(Vdq, Wdq), ALIGN), [0x3d] = X_ONLY(SSE4_1, PMAXSD, RW(Vdq, Wdq), ALIGN),
        [0x3e] = X_ONLY(SSE4_1, PMAXUW, RW(Vdq, Wdq), ALIGN), [0x3f] = X_ONLY(SSE4_1, PMAXUD, RW(Vdq, Wdq), ALIGN),
        [0x40] = X_ONLY(SSE4_1, PMULLD, RW(Vdq, Wdq), ALIGN),
        [0x41] = X_ONLY(SSE4_1, PHMINPOSUW, W(Vdq, Wdq), ALIGN),
        [0x82] = P66_ONLY(I(INVPCID, R(Gy, Mdq), F64 | CPL0 | SYSTEM, FEATURE(INVPCID))),
        [0xc8] = NP_ONLY(SSE(SHA, SHA1NEXTE, RW(Vdq, Wdq), ALIGN)),
        [0xc9] = NP_ONLY(SSE(SHA, SHA1MSG1, RW(Vdq, Wdq), ALIGN)),
        [0xca] = NP_ONLY(SSE(SHA, SHA1MSG2, RW(Vdq, Wdq), ALIGN)),
        [0xcb] = NP_ONLY(SSE(SHA, SHA256RNDS2, RW(Vdq, Wdq, XMM0), ALIGN)),
        [0xcc] = NP_ONLY(SSE(SHA, SHA256MSG1, RW(Vdq, Wdq), ALIGN)),
        [0xcd] = NP_ONLY(SSE(SHA, SHA256MSG2, RW(Vdq, Wdq), ALIGN)),
        [0xdb] = X_ONLY(AES, AESIMC, W(Vdq, Wdq), ALIGN),
        [0xdc] = X_ONLY(AES, AESENC, RW(Vdq, Wdq), ALIGN),
        [0xdd] = X_ONLY(AES, AESENCLAST, RW(Vdq, Wdq), ALIGN),
        [0xde] = X_ONLY(AES, AESDEC, RW(Vdq, Wdq), ALIGN),
        [0xdf] = X_ONLY(AES, AESDECLAST, RW(Vdq, Wdq), ALIGN),
        [0xf0] = BY_PREFIX(I(MOVBE, W(Gv, Mv), 0, FEATURE(MOVBE)), I(MOVBE, W(Gv, Mv), 0, FEATURE(MOVBE)), UD,
            I(CRC32, RW(Gy, Eb), 0, FEATURE(SSE4_2))),
        [0xf1] = BY_PREFIX(I(MOVBE, W(Mv, Gv), 0, FEATURE(MOVBE)), I(MOVBE, W(Mv, Gv), 0, FEATURE(MOVBE)), UD,
            I(CRC32, RW(Gy, Ev), 0, FEATURE(SSE4_2))),
        [0xf6] = BY_PREFIX([P66] = I(ADCX, RW(Gy, Ey), 0, EF(CF, CF, 0), FEATURE(ADX)),
            [PF3] = I(ADOX, RW(Gy, Ey), 0, EF(OF, OF, 0), FEATURE(ADX))),
    },

    /* ---- table A-5: three-byte opcodes, 0F 3A xx ---- */
    [3] = {
        [0x08] = X_ONLY(SSE4_1, ROUNDPS, W(Vdq, Wdq, Ib), ALIGN | FP),
        [0x09] = X_ONLY(SSE4_1, ROUNDPD, W(Vdq, Wdq, Ib), ALIGN | FP),
        [0x0a] = X_ONLY(SSE4_1, ROUNDSS, W(Vd, Wd, Ib), FP),
        [0x0b] = X_ONLY(SSE4_1, ROUNDSD, W(Vq, Wq, Ib), FP),
        [0x0c] = X_ONLY(SSE4_1, BLENDPS, RW(Vdq, Wdq, Ib), ALIGN),
        [0x0d] = X_ONLY(SSE4_1, BLENDPD, RW(Vdq, Wdq, Ib), ALIGN),
        [0x0e] = X_ONLY(SSE4_1, PBLENDW, RW(Vdq, Wdq, Ib), ALIGN),
        [0x0f] = INT_OF(SSSE3, SSSE3, PALIGNR, RW(Pq, Qq, Ib), RW(Vdq, Wdq, Ib)),
        [0x14] = X_ONLY(SSE4_1, PEXTRB, W(Ebd, Vdq, Ib), 0),
        [0x15] = X_ONLY(SSE4_1, PEXTRW, W(Ewd, Vdq, Ib), 0),
        [0x16] = X_ONLY(SSE4_1, PEXTRD, W(Ey, Vdq, Ib), 0),
        [0x17] = X_ONLY(SSE4_1, EXTRACTPS, W(Ed, Vdq, Ib), 0),
        [0x20] = X_ONLY(SSE4_1, PINSRB, RW(Vdq, Ebd, Ib), 0),
        [0x21] = P66_ONLY(BY_MOD(SSE(SSE4_1, INSERTPS, RW(Vdq, Md, Ib), 0), SSE(SSE4_1, INSERTPS, RW(Vdq, Udq, Ib), 0))),
        [0x22] = X_ONLY(SSE4_1, PINSRD, RW(Vdq, Ey, Ib), 0),
        [0x40] = X_ONLY(SSE4_1, DPPS, RW(Vdq, Wdq, Ib), ALIGN | FP),
        [0x41] = X_ONLY(SSE4_1, DPPD, RW(Vdq, Wdq, Ib), ALIGN | FP),
        [0x42] = X_ONLY(SSE4_1, MPSADBW, RW(Vdq, Wdq, Ib), ALIGN),
        [0x44] = X_ONLY(PCLMULQDQ, PCLMULQDQ, RW(Vdq, Wdq, Ib), ALIGN),
        [0x60] = X_ONLY(SSE4_2, PCMPESTRM, R(Vdq, Wdq, Ib), 0, COMPARE_FLAGS),
        [0x61] = X_ONLY(SSE4_2, PCMPESTRI, R(Vdq, Wdq, Ib), 0, COMPARE_FLAGS),
        [0x62] = X_ONLY(SSE4_2, PCMPISTRM, R(Vdq, Wdq, Ib), 0, COMPARE_FLAGS),
        [0x63] = X_ONLY(SSE4_2, PCMPISTRI, R(Vdq, Wdq, Ib), 0, COMPARE_FLAGS),
        [0xcc] = NP_ONLY(SSE(SHA, SHA1RNDS4, RW(Vdq, Wdq, Ib), ALIGN)),
        [0xdf] = X_ONLY(AES, AESKEYGENASSIST, W(Vdq, Wdq, Ib), ALIGN),
    },
};

/* ---- VEX: maps 1 (0F), 2 (0F 38), 3 (0F 3A). Destination first, VEX.vvvv (H, B) second. L and W are ignored unless a group asks. ---- */

#define V(needs, name, operands, row_flags, ...) \
    { .op = X86_OP_V##name, .kind = X86_ROW_LEAF, OPERANDS_##operands, .flags = X86_F_VEX | X86_F_SSE | PROT | (row_flags), \
        .feature = X86_FEATURE_##needs, __VA_ARGS__ }
#define VGPR(needs, name, operands, ...) \
    { .op = X86_OP_##name, .kind = X86_ROW_LEAF, OPERANDS_##operands, .flags = X86_F_VEX | PROT, .feature = X86_FEATURE_##needs, \
        __VA_ARGS__ }
#define L0(...) GROUP(BY_L, 2, [0] = __VA_ARGS__)
#define L1(...) GROUP(BY_L, 2, [1] = __VA_ARGS__)
#define BY_L(...) GROUP(BY_L, 2, __VA_ARGS__)
#define W0(...) GROUP(BY_VEX_W, 2, [0] = __VA_ARGS__)
#define W1(...) GROUP(BY_VEX_W, 2, [1] = __VA_ARGS__)
#define BY_VEX_W(...) GROUP(BY_VEX_W, 2, __VA_ARGS__)

/* 66 form only: AVX with any L; AVX with L 0 and AVX2 with L 1; AVX with L 0 only. */
#define V66(name, operands, row_flags, ...) BY_PREFIX([P66] = V(AVX, name, operands, row_flags, __VA_ARGS__))
#define V66_INT(name, operands) BY_PREFIX([P66] = BY_L(V(AVX, name, operands, 0), V(AVX2, name, operands, 0)))
#define V66_L0(name, operands, row_flags, ...) BY_PREFIX([P66] = L0(V(AVX, name, operands, row_flags, __VA_ARGS__)))
#define VINT(name) V66_INT(name, W(Vx, Hx, Wx))
#define VSHIFT(name) V66_INT(name, W(Vx, Hx, Wdq))
#define VSHIFT_IMM(name) V66_INT(name, W(Hx, Ux, Ib))
#define VPS_PD(name, operands, row_flags) BY_PREFIX(V(AVX, name##PS, operands, row_flags), V(AVX, name##PD, operands, row_flags))
#define VPS_PD_SS_SD(name) BY_PREFIX(V(AVX, name##PS, W(Vx, Hx, Wx), FP), V(AVX, name##PD, W(Vx, Hx, Wx), FP), \
    V(AVX, name##SS, W(Vdq, Hdq, Wd), FP), V(AVX, name##SD, W(Vdq, Hdq, Wq), FP))
#define VMOVX(name, source) V66_INT(name, W(Vx, source))
#define FMA_PACKED(name) BY_PREFIX([P66] = BY_VEX_W(V(FMA, name##PS, RW(Vx, Hx, Wx), FP), V(FMA, name##PD, RW(Vx, Hx, Wx), FP)))
#define FMA_SCALAR(name) BY_PREFIX([P66] = BY_VEX_W(V(FMA, name##SS, RW(Vd, Hd, Wd), FP), V(FMA, name##SD, RW(Vq, Hq, Wq), FP)))
#define FMA(base, order) \
    [base + 6] = FMA_PACKED(FMADDSUB##order), [base + 7] = FMA_PACKED(FMSUBADD##order), [base + 8] = FMA_PACKED(FMADD##order), \
    [base + 9] = FMA_SCALAR(FMADD##order), \
    [base + 10] = FMA_PACKED(FMSUB##order), [base + 11] = FMA_SCALAR(FMSUB##order), [base + 12] = FMA_PACKED(FNMADD##order), \
    [base + 13] = FMA_SCALAR(FNMADD##order), [base + 14] = FMA_PACKED(FNMSUB##order), [base + 15] = FMA_SCALAR(FNMSUB##order)
#define BLS EF(0, CF | OF | ZF | SF, AF | PF)

const struct x86_opcode x86_vex_map[4][256] = {
    [1] = {
        [0x10] = BY_PREFIX(V(AVX, MOVUPS, W(Vx, Wx), 0), V(AVX, MOVUPD, W(Vx, Wx), 0),
            BY_MOD(V(AVX, MOVSS, W(Vdq, Md), 0), V(AVX, MOVSS, W(Vdq, Hdq, Ud), 0)),
            BY_MOD(V(AVX, MOVSD, W(Vdq, Mq), 0), V(AVX, MOVSD, W(Vdq, Hdq, Uq), 0))),
        [0x11] = BY_PREFIX(V(AVX, MOVUPS, W(Wx, Vx), 0), V(AVX, MOVUPD, W(Wx, Vx), 0),
            BY_MOD(V(AVX, MOVSS, W(Md, Vd), 0), V(AVX, MOVSS, W(Udq, Hdq, Vd), 0)),
            BY_MOD(V(AVX, MOVSD, W(Mq, Vq), 0), V(AVX, MOVSD, W(Udq, Hdq, Vq), 0))),
        [0x12] = BY_PREFIX(L0(BY_MOD(V(AVX, MOVLPS, W(Vdq, Hdq, Mq), 0), V(AVX, MOVHLPS, W(Vdq, Hdq, Udq), 0))),
            L0(V(AVX, MOVLPD, W(Vdq, Hdq, Mq), 0)),
            V(AVX, MOVSLDUP, W(Vx, Wx), 0), V(AVX, MOVDDUP, W(Vx, Wdup), 0)),
        [0x13] = BY_PREFIX(L0(V(AVX, MOVLPS, W(Mq, Vq), 0)), L0(V(AVX, MOVLPD, W(Mq, Vq), 0))),
        [0x14] = VPS_PD(UNPCKL, W(Vx, Hx, Wx), 0),
        [0x15] = VPS_PD(UNPCKH, W(Vx, Hx, Wx), 0),
        [0x16] = BY_PREFIX(L0(BY_MOD(V(AVX, MOVHPS, W(Vdq, Hdq, Mq), 0), V(AVX, MOVLHPS, W(Vdq, Hdq, Uq), 0))),
            L0(V(AVX, MOVHPD, W(Vdq, Hdq, Mq), 0)),
            V(AVX, MOVSHDUP, W(Vx, Wx), 0)),
        [0x17] = BY_PREFIX(L0(V(AVX, MOVHPS, W(Mq, Vdq), 0)), L0(V(AVX, MOVHPD, W(Mq, Vdq), 0))),
        [0x28] = VPS_PD(MOVA, W(Vx, Wx), ALIGN),
        [0x29] = VPS_PD(MOVA, W(Wx, Vx), ALIGN),
        [0x2a] = BY_PREFIX([PF3] = V(AVX, CVTSI2SS, W(Vdq, Hdq, Ey), FP), [PF2] = V(AVX, CVTSI2SD, W(Vdq, Hdq, Ey), FP)),
        [0x2b] = VPS_PD(MOVNT, W(Mx, Vx), ALIGN),
        [0x2c] = BY_PREFIX([PF3] = V(AVX, CVTTSS2SI, W(Gy, Wd), FP), [PF2] = V(AVX, CVTTSD2SI, W(Gy, Wq), FP)),
        [0x2d] = BY_PREFIX([PF3] = V(AVX, CVTSS2SI, W(Gy, Wd), FP), [PF2] = V(AVX, CVTSD2SI, W(Gy, Wq), FP)),
        [0x2e] = BY_PREFIX(V(AVX, UCOMISS, R(Vd, Wd), FP, COMPARE_FLAGS), V(AVX, UCOMISD, R(Vq, Wq), FP, COMPARE_FLAGS)),
        [0x2f] = BY_PREFIX(V(AVX, COMISS, R(Vd, Wd), FP, COMPARE_FLAGS), V(AVX, COMISD, R(Vq, Wq), FP, COMPARE_FLAGS)),

        [0x50] = VPS_PD(MOVMSK, W(Gd, Ux), 0),
        [0x51] = BY_PREFIX(V(AVX, SQRTPS, W(Vx, Wx), FP), V(AVX, SQRTPD, W(Vx, Wx), FP), V(AVX, SQRTSS, W(Vdq, Hdq, Wd), FP),
            V(AVX, SQRTSD, W(Vdq, Hdq, Wq), FP)),
        [0x52] = BY_PREFIX([NP] = V(AVX, RSQRTPS, W(Vx, Wx), 0), [PF3] = V(AVX, RSQRTSS, W(Vdq, Hdq, Wd), 0)),
        [0x53] = BY_PREFIX([NP] = V(AVX, RCPPS, W(Vx, Wx), 0), [PF3] = V(AVX, RCPSS, W(Vdq, Hdq, Wd), 0)),
        [0x54] = VPS_PD(AND, W(Vx, Hx, Wx), 0),
        [0x55] = VPS_PD(ANDN, W(Vx, Hx, Wx), 0),
        [0x56] = VPS_PD(OR, W(Vx, Hx, Wx), 0),
        [0x57] = VPS_PD(XOR, W(Vx, Hx, Wx), 0),
        [0x58] = VPS_PD_SS_SD(ADD),
        [0x59] = VPS_PD_SS_SD(MUL),
        [0x5a] = BY_PREFIX(V(AVX, CVTPS2PD, W(Vx, Whx), FP), V(AVX, CVTPD2PS, W(Vdq, Wx), FP), V(AVX, CVTSS2SD, W(Vdq, Hdq, Wd), FP),
            V(AVX, CVTSD2SS, W(Vdq, Hdq, Wq), FP)),
        [0x5b] = BY_PREFIX(V(AVX, CVTDQ2PS, W(Vx, Wx), FP), V(AVX, CVTPS2DQ, W(Vx, Wx), FP), V(AVX, CVTTPS2DQ, W(Vx, Wx), FP)),
        [0x5c] = VPS_PD_SS_SD(SUB),
        [0x5d] = VPS_PD_SS_SD(MIN),
        [0x5e] = VPS_PD_SS_SD(DIV),
        [0x5f] = VPS_PD_SS_SD(MAX),

        [0x60] = VINT(PUNPCKLBW), [0x61] = VINT(PUNPCKLWD), [0x62] = VINT(PUNPCKLDQ), [0x63] = VINT(PACKSSWB),
        [0x64] = VINT(PCMPGTB), [0x65] = VINT(PCMPGTW), [0x66] = VINT(PCMPGTD), [0x67] = VINT(PACKUSWB),
        [0x68] = VINT(PUNPCKHBW), [0x69] = VINT(PUNPCKHWD), [0x6a] = VINT(PUNPCKHDQ), [0x6b] = VINT(PACKSSDW),
        [0x6c] = VINT(PUNPCKLQDQ), [0x6d] = VINT(PUNPCKHQDQ),
        [0x6e] = V66_L0(MOVD, W(Vdq, Ey), 0),
        [0x6f] = BY_PREFIX([P66] = V(AVX, MOVDQA, W(Vx, Wx), ALIGN), [PF3] = V(AVX, MOVDQU, W(Vx, Wx), 0)),
        [0x70] = BY_PREFIX([P66] = BY_L(V(AVX, PSHUFD, W(Vx, Wx, Ib), 0), V(AVX2, PSHUFD, W(Vx, Wx, Ib), 0)),
            [PF3] = BY_L(V(AVX, PSHUFHW, W(Vx, Wx, Ib), 0), V(AVX2, PSHUFHW, W(Vx, Wx, Ib), 0)),
            [PF2] = BY_L(V(AVX, PSHUFLW, W(Vx, Wx, Ib), 0), V(AVX2, PSHUFLW, W(Vx, Wx, Ib), 0))),
        [0x71] = BY_REG([2] = VSHIFT_IMM(PSRLW), [4] = VSHIFT_IMM(PSRAW), [6] = VSHIFT_IMM(PSLLW)),
        [0x72] = BY_REG([2] = VSHIFT_IMM(PSRLD), [4] = VSHIFT_IMM(PSRAD), [6] = VSHIFT_IMM(PSLLD)),
        [0x73] = BY_REG([2] = VSHIFT_IMM(PSRLQ), [3] = VSHIFT_IMM(PSRLDQ), [6] = VSHIFT_IMM(PSLLQ), [7] = VSHIFT_IMM(PSLLDQ)),
        [0x74] = VINT(PCMPEQB), [0x75] = VINT(PCMPEQW), [0x76] = VINT(PCMPEQD),
        [0x77] = BY_PREFIX([NP] = BY_L(V(AVX, ZEROUPPER, NONE, 0), V(AVX, ZEROALL, NONE, 0))),
        [0x7c] = BY_PREFIX([P66] = V(AVX, HADDPD, W(Vx, Hx, Wx), FP), [PF2] = V(AVX, HADDPS, W(Vx, Hx, Wx), FP)),
        [0x7d] = BY_PREFIX([P66] = V(AVX, HSUBPD, W(Vx, Hx, Wx), FP), [PF2] = V(AVX, HSUBPS, W(Vx, Hx, Wx), FP)),
        [0x7e] = BY_PREFIX([P66] = L0(V(AVX, MOVD, W(Ey, Vq), 0)), [PF3] = L0(V(AVX, MOVQ, W(Vdq, Wq), 0))),
        [0x7f] = BY_PREFIX([P66] = V(AVX, MOVDQA, W(Wx, Vx), ALIGN), [PF3] = V(AVX, MOVDQU, W(Wx, Vx), 0)),

        [0xae] = BY_REG([2] = NP_ONLY(L0(V(AVX, LDMXCSR, R(Md), 0))), [3] = NP_ONLY(L0(V(AVX, STMXCSR, W(Md), 0)))),
        [0xc2] = BY_PREFIX(V(AVX, CMPPS, W(Vx, Hx, Wx, Ib), FP), V(AVX, CMPPD, W(Vx, Hx, Wx, Ib), FP),
            V(AVX, CMPSS, W(Vdq, Hdq, Wd, Ib), FP), V(AVX, CMPSD, W(Vdq, Hdq, Wq, Ib), FP)),
        [0xc4] = V66_L0(PINSRW, W(Vdq, Hdq, Ewd, Ib), 0),
        [0xc5] = V66_L0(PEXTRW, W(Gd, Udq, Ib), 0),
        [0xc6] = VPS_PD(SHUF, W(Vx, Hx, Wx, Ib), 0),
        [0xd0] = BY_PREFIX([P66] = V(AVX, ADDSUBPD, W(Vx, Hx, Wx), FP), [PF2] = V(AVX, ADDSUBPS, W(Vx, Hx, Wx), FP)),
        [0xd1] = VSHIFT(PSRLW), [0xd2] = VSHIFT(PSRLD), [0xd3] = VSHIFT(PSRLQ), [0xd4] = VINT(PADDQ), [0xd5] = VINT(PMULLW),
        [0xd6] = BY_PREFIX([P66] = L0(BY_MOD(V(AVX, MOVQ, W(Mq, Vq), 0), V(AVX, MOVQ, W(Udq, Vq), 0)))),
        [0xd7] = V66_INT(PMOVMSKB, W(Gd, Ux)),
        [0xd8] = VINT(PSUBUSB), [0xd9] = VINT(PSUBUSW), [0xda] = VINT(PMINUB), [0xdb] = VINT(PAND),
        [0xdc] = VINT(PADDUSB), [0xdd] = VINT(PADDUSW), [0xde] = VINT(PMAXUB), [0xdf] = VINT(PANDN),
        [0xe0] = VINT(PAVGB), [0xe1] = VSHIFT(PSRAW), [0xe2] = VSHIFT(PSRAD), [0xe3] = VINT(PAVGW), [0xe4] = VINT(PMULHUW),
        [0xe5] = VINT(PMULHW),
        [0xe6] = BY_PREFIX([P66] = V(AVX, CVTTPD2DQ, W(Vdq, Wx), FP), [PF3] = V(AVX, CVTDQ2PD, W(Vx, Whx), 0),
            [PF2] = V(AVX, CVTPD2DQ, W(Vdq, Wx), FP)),
        [0xe7] = V66(MOVNTDQ, W(Mx, Vx), ALIGN),
        [0xe8] = VINT(PSUBSB), [0xe9] = VINT(PSUBSW), [0xea] = VINT(PMINSW), [0xeb] = VINT(POR),
        [0xec] = VINT(PADDSB), [0xed] = VINT(PADDSW), [0xee] = VINT(PMAXSW), [0xef] = VINT(PXOR),
        [0xf0] = BY_PREFIX([PF2] = V(AVX, LDDQU, W(Vx, Mx), 0)),
        [0xf1] = VSHIFT(PSLLW), [0xf2] = VSHIFT(PSLLD), [0xf3] = VSHIFT(PSLLQ), [0xf4] = VINT(PMULUDQ), [0xf5] = VINT(PMADDWD),
        [0xf6] = VINT(PSADBW),
        [0xf7] = V66_L0(MASKMOVDQU, R_R_W(Vdq, Udq, Ddq), 0),
        [0xf8] = VINT(PSUBB), [0xf9] = VINT(PSUBW), [0xfa] = VINT(PSUBD), [0xfb] = VINT(PSUBQ),
        [0xfc] = VINT(PADDB), [0xfd] = VINT(PADDW), [0xfe] = VINT(PADDD),
    },

    [2] = {
        [0x00] = VINT(PSHUFB), [0x01] = VINT(PHADDW), [0x02] = VINT(PHADDD), [0x03] = VINT(PHADDSW), [0x04] = VINT(PMADDUBSW),
        [0x05] = VINT(PHSUBW), [0x06] = VINT(PHSUBD), [0x07] = VINT(PHSUBSW), [0x08] = VINT(PSIGNB), [0x09] = VINT(PSIGNW),
        [0x0a] = VINT(PSIGND), [0x0b] = VINT(PMULHRSW),
        [0x0c] = P66_ONLY(W0(V(AVX, PERMILPS, W(Vx, Hx, Wx), 0))),
        [0x0d] = P66_ONLY(W0(V(AVX, PERMILPD, W(Vx, Hx, Wx), 0))),
        [0x0e] = P66_ONLY(W0(V(AVX, TESTPS, R(Vx, Wx), 0, COMPARE_FLAGS))),
        [0x0f] = P66_ONLY(W0(V(AVX, TESTPD, R(Vx, Wx), 0, COMPARE_FLAGS))),
        [0x13] = P66_ONLY(W0(V(F16C, CVTPH2PS, W(Vx, Whx), FP))),
        [0x16] = P66_ONLY(L1(W0(V(AVX2, PERMPS, W(Vqq, Hqq, Wqq), 0)))),
        [0x17] = V66(PTEST, R(Vx, Wx), 0, COMPARE_FLAGS),
        [0x18] = P66_ONLY(W0(BY_MOD(V(AVX, BROADCASTSS, W(Vx, Md), 0), V(AVX2, BROADCASTSS, W(Vx, Ud), 0)))),
        [0x19] = P66_ONLY(L1(W0(BY_MOD(V(AVX, BROADCASTSD, W(Vqq, Mq), 0), V(AVX2, BROADCASTSD, W(Vqq, Uq), 0))))),
        [0x1a] = P66_ONLY(L1(W0(V(AVX, BROADCASTF128, W(Vqq, Mdq), 0)))),
        [0x1c] = V66_INT(PABSB, W(Vx, Wx)), [0x1d] = V66_INT(PABSW, W(Vx, Wx)), [0x1e] = V66_INT(PABSD, W(Vx, Wx)),
        [0x20] = VMOVX(PMOVSXBW, Whx), [0x21] = VMOVX(PMOVSXBD, Wqx), [0x22] = VMOVX(PMOVSXBQ, Wex),
        [0x23] = VMOVX(PMOVSXWD, Whx), [0x24] = VMOVX(PMOVSXWQ, Wqx), [0x25] = VMOVX(PMOVSXDQ, Whx),
        [0x28] = VINT(PMULDQ), [0x29] = VINT(PCMPEQQ),
        [0x2a] = P66_ONLY(BY_L(V(AVX, MOVNTDQA, W(Vx, Mx), ALIGN), V(AVX2, MOVNTDQA, W(Vx, Mx), ALIGN))),
        [0x2b] = VINT(PACKUSDW),
        [0x2c] = P66_ONLY(W0(V(AVX, MASKMOVPS, W(Vx, Hx, Mx), 0))), [0x2d] = P66_ONLY(W0(V(AVX, MASKMOVPD, W(Vx, Hx, Mx), 0))),
        [0x2e] = P66_ONLY(W0(V(AVX, MASKMOVPS, W(Mx, Hx, Vx), 0))), [0x2f] = P66_ONLY(W0(V(AVX, MASKMOVPD, W(Mx, Hx, Vx), 0))),
        [0x30] = VMOVX(PMOVZXBW, Whx), [0x31] = VMOVX(PMOVZXBD, Wqx), [0x32] = VMOVX(PMOVZXBQ, Wex),
        [0x33] = VMOVX(PMOVZXWD, Whx), [0x34] = VMOVX(PMOVZXWQ, Wqx), [0x35] = VMOVX(PMOVZXDQ, Whx),
        [0x36] = P66_ONLY(L1(W0(V(AVX2, PERMD, W(Vqq, Hqq, Wqq), 0)))),
        [0x37] = VINT(PCMPGTQ), [0x38] = VINT(PMINSB), [0x39] = VINT(PMINSD), [0x3a] = VINT(PMINUW), [0x3b] = VINT(PMINUD),
        [0x3c] = VINT(PMAXSB), [0x3d] = VINT(PMAXSD), [0x3e] = VINT(PMAXUW), [0x3f] = VINT(PMAXUD),
        [0x40] = VINT(PMULLD),
        [0x41] = V66_L0(PHMINPOSUW, W(Vdq, Wdq), 0),
        [0x45] = P66_ONLY(BY_VEX_W(V(AVX2, PSRLVD, W(Vx, Hx, Wx), 0), V(AVX2, PSRLVQ, W(Vx, Hx, Wx), 0))),
        [0x46] = P66_ONLY(W0(V(AVX2, PSRAVD, W(Vx, Hx, Wx), 0))),
        [0x47] = P66_ONLY(BY_VEX_W(V(AVX2, PSLLVD, W(Vx, Hx, Wx), 0), V(AVX2, PSLLVQ, W(Vx, Hx, Wx), 0))),
        [0x58] = P66_ONLY(W0(V(AVX2, PBROADCASTD, W(Vx, Wd), 0))), [0x59] = P66_ONLY(W0(V(AVX2, PBROADCASTQ, W(Vx, Wq), 0))),
        [0x5a] = P66_ONLY(L1(W0(V(AVX2, BROADCASTI128, W(Vqq, Mdq), 0)))),
        [0x78] = P66_ONLY(W0(V(AVX2, PBROADCASTB, W(Vx, Wb), 0))), [0x79] = P66_ONLY(W0(V(AVX2, PBROADCASTW, W(Vx, Ww), 0))),
        [0x8c] = P66_ONLY(BY_VEX_W(V(AVX2, PMASKMOVD, W(Vx, Hx, Mx), 0), V(AVX2, PMASKMOVQ, W(Vx, Hx, Mx), 0))),
        [0x8e] = P66_ONLY(BY_VEX_W(V(AVX2, PMASKMOVD, W(Mx, Hx, Vx), 0), V(AVX2, PMASKMOVQ, W(Mx, Hx, Vx), 0))),
        /* gathers: the index is as wide as its elements need, the narrower of data and index half as wide as the other */
        [0x90] = P66_ONLY(BY_VEX_W(V(AVX2, PGATHERDD, RW_R_RW(Vx, VMd, Hx), 0), V(AVX2, PGATHERDQ, RW_R_RW(Vx, VMhq, Hx), 0))),
        [0x91] = P66_ONLY(BY_VEX_W(V(AVX2, PGATHERQD, RW_R_RW(Vdq, VMd, Hdq), 0), V(AVX2, PGATHERQQ, RW_R_RW(Vx, VMq, Hx), 0))),
        [0x92] = P66_ONLY(BY_VEX_W(V(AVX2, GATHERDPS, RW_R_RW(Vx, VMd, Hx), 0), V(AVX2, GATHERDPD, RW_R_RW(Vx, VMhq, Hx), 0))),
        [0x93] = P66_ONLY(BY_VEX_W(V(AVX2, GATHERQPS, RW_R_RW(Vdq, VMd, Hdq), 0), V(AVX2, GATHERQPD, RW_R_RW(Vx, VMq, Hx), 0))),
        FMA(0x90, 132), FMA(0xa0, 213), FMA(0xb0, 231),
        [0xdb] = P66_ONLY(L0(V(AES, AESIMC, W(Vdq, Wdq), 0))),
        [0xdc] = P66_ONLY(L0(V(AES, AESENC, W(Vdq, Hdq, Wdq), 0))), [0xdd] = P66_ONLY(L0(V(AES, AESENCLAST, W(Vdq, Hdq, Wdq), 0))),
        [0xde] = P66_ONLY(L0(V(AES, AESDEC, W(Vdq, Hdq, Wdq), 0))), [0xdf] = P66_ONLY(L0(V(AES, AESDECLAST, W(Vdq, Hdq, Wdq), 0))),
        [0xf2] = NP_ONLY(L0(VGPR(BMI1, ANDN, W(Gy, By, Ey), BLS))),
        [0xf3] = NP_ONLY(L0(BY_REG([1] = VGPR(BMI1, BLSR, W(By, Ey), BLS), [2] = VGPR(BMI1, BLSMSK, W(By, Ey), BLS),
            [3] = VGPR(BMI1, BLSI, W(By, Ey), BLS)))),
        [0xf5] = BY_PREFIX([NP] = L0(VGPR(BMI2, BZHI, W(Gy, Ey, By), BLS)), [PF3] = L0(VGPR(BMI2, PEXT, W(Gy, By, Ey))),
            [PF2] = L0(VGPR(BMI2, PDEP, W(Gy, By, Ey)))),
        [0xf6] = BY_PREFIX([PF2] = L0(VGPR(BMI2, MULX, W_W(Gy, By, Ey)))),
        [0xf7] = BY_PREFIX(L0(VGPR(BMI1, BEXTR, W(Gy, Ey, By), EF(0, ZF | CF | OF, AF | SF | PF))), L0(VGPR(BMI2, SHLX, W(Gy, Ey, By))),
            L0(VGPR(BMI2, SARX, W(Gy, Ey, By))), L0(VGPR(BMI2, SHRX, W(Gy, Ey, By)))),
    },

    [3] = {
        [0x00] = P66_ONLY(L1(W1(V(AVX2, PERMQ, W(Vqq, Wqq, Ib), 0)))), [0x01] = P66_ONLY(L1(W1(V(AVX2, PERMPD, W(Vqq, Wqq, Ib), 0)))),
        [0x02] = P66_ONLY(W0(V(AVX2, PBLENDD, W(Vx, Hx, Wx, Ib), 0))),
        [0x04] = P66_ONLY(W0(V(AVX, PERMILPS, W(Vx, Wx, Ib), 0))), [0x05] = P66_ONLY(W0(V(AVX, PERMILPD, W(Vx, Wx, Ib), 0))),
        [0x06] = P66_ONLY(L1(W0(V(AVX, PERM2F128, W(Vqq, Hqq, Wqq, Ib), 0)))),
        [0x08] = V66(ROUNDPS, W(Vx, Wx, Ib), FP), [0x09] = V66(ROUNDPD, W(Vx, Wx, Ib), FP),
        [0x0a] = V66(ROUNDSS, W(Vdq, Hdq, Wd, Ib), FP), [0x0b] = V66(ROUNDSD, W(Vdq, Hdq, Wq, Ib), FP),
        [0x0c] = V66(BLENDPS, W(Vx, Hx, Wx, Ib), 0), [0x0d] = V66(BLENDPD, W(Vx, Hx, Wx, Ib), 0),
        [0x0e] = V66_INT(PBLENDW, W(Vx, Hx, Wx, Ib)), [0x0f] = V66_INT(PALIGNR, W(Vx, Hx, Wx, Ib)),
        [0x14] = V66_L0(PEXTRB, W(Ebd, Vdq, Ib), 0), [0x15] = V66_L0(PEXTRW, W(Ewd, Vdq, Ib), 0),
        [0x16] = V66_L0(PEXTRD, W(Ey, Vdq, Ib), 0),
        [0x17] = V66_L0(EXTRACTPS, W(Ed, Vdq, Ib), 0),
        [0x18] = P66_ONLY(L1(W0(V(AVX, INSERTF128, W(Vqq, Hqq, Wdq, Ib), 0)))),
        [0x19] = P66_ONLY(L1(W0(V(AVX, EXTRACTF128, W(Wdq, Vqq, Ib), 0)))),
        [0x1d] = P66_ONLY(W0(V(F16C, CVTPS2PH, W(Whx, Vx, Ib), FP))),
        [0x20] = V66_L0(PINSRB, W(Vdq, Hdq, Ebd, Ib), 0),
        [0x21] = P66_ONLY(L0(BY_MOD(V(AVX, INSERTPS, W(Vdq, Hdq, Md, Ib), 0), V(AVX, INSERTPS, W(Vdq, Hdq, Udq, Ib), 0)))),
        [0x22] = V66_L0(PINSRD, W(Vdq, Hdq, Ey, Ib), 0),
        [0x38] = P66_ONLY(L1(W0(V(AVX2, INSERTI128, W(Vqq, Hqq, Wdq, Ib), 0)))),
        [0x39] = P66_ONLY(L1(W0(V(AVX2, EXTRACTI128, W(Wdq, Vqq, Ib), 0)))),
        [0x40] = V66(DPPS, W(Vx, Hx, Wx, Ib), FP),
        [0x41] = V66_L0(DPPD, W(Vdq, Hdq, Wdq, Ib), FP),
        [0x42] = V66_INT(MPSADBW, W(Vx, Hx, Wx, Ib)),
        [0x44] = P66_ONLY(L0(V(PCLMULQDQ, PCLMULQDQ, W(Vdq, Hdq, Wdq, Ib), 0))),
        [0x46] = P66_ONLY(L1(W0(V(AVX2, PERM2I128, W(Vqq, Hqq, Wqq, Ib), 0)))),
        [0x4a] = P66_ONLY(W0(V(AVX, BLENDVPS, W(Vx, Hx, Wx, Lx), 0))), [0x4b] = P66_ONLY(W0(V(AVX, BLENDVPD, W(Vx, Hx, Wx, Lx), 0))),
        [0x4c] = P66_ONLY(W0(BY_L(V(AVX, PBLENDVB, W(Vx, Hx, Wx, Lx), 0), V(AVX2, PBLENDVB, W(Vx, Hx, Wx, Lx), 0)))),
        [0x60] = V66_L0(PCMPESTRM, R(Vdq, Wdq, Ib), 0, COMPARE_FLAGS), [0x61] = V66_L0(PCMPESTRI, R(Vdq, Wdq, Ib), 0, COMPARE_FLAGS),
        [0x62] = V66_L0(PCMPISTRM, R(Vdq, Wdq, Ib), 0, COMPARE_FLAGS), [0x63] = V66_L0(PCMPISTRI, R(Vdq, Wdq, Ib), 0, COMPARE_FLAGS),
        [0xdf] = P66_ONLY(L0(V(AES, AESKEYGENASSIST, W(Vdq, Wdq, Ib), 0))),
        [0xf0] = BY_PREFIX([PF2] = L0(VGPR(BMI2, RORX, W(Gy, Ey, Ib)))),
    },
};
