/* test_decode.c - the x86 decoder: cross-check with Zydis (decode_zydis.c), what Zydis cannot tell, and the printer. */
#include "tests/unit/test.h"
#include "isa/x86/decode_table.h"
#include "isa/x86/x86.h"
#include "tests/isa/decode_zydis.h"

static void expect_agreement(const struct decode_report *r, unsigned long compared)
{
    for (unsigned i = 0; i < r->kinds; i++)
        print_error("%6u x %s\n         %s\n", r->kind[i].count, r->kind[i].key, r->kind[i].example);
    assert_int_equal(r->kinds, 0);
    assert_true(r->compared >= compared && r->valid > compared / 20);
}

static void test_zydis_legacy(void **state)
{
    struct decode_report r = { 0 };
    decode_compare_legacy(&r);
    expect_agreement(&r, 11000000);
}

static void test_zydis_vex(void **state)
{
    struct decode_report r = { 0 };
    decode_compare_vex(&r);
    expect_agreement(&r, 10000000);
}

static void test_zydis_random(void **state)
{
    struct decode_report r = { 0 };
    decode_compare_random(&r, 0x1234, 1000000);
    expect_agreement(&r, 1000000);
}

/* "66 0f 1f" into bytes; returns how many. */
static size_t bytes_of(const char *hex, uint8_t *bytes)
{
    size_t n = 0;
    unsigned value;
    for (int used; sscanf(hex, "%2x%n", &value, &used) == 1; hex += used)
        bytes[n++] = (uint8_t)value;
    return n;
}

static int decode(const char *hex, enum x86_mode mode, struct x86_insn *i)
{
    uint8_t bytes[32];
    size_t n = bytes_of(hex, bytes);
    return x86_decode(bytes, n, mode, i);
}

#define M16 X86_MODE16
#define M32 X86_MODE32
#define M64 X86_MODE64

static void test_print(void **state)
{
    static const struct { const char *hex; enum x86_mode mode; const char *text; } cases[] = {
        { "48 89 d8", M64, "mov rax, rbx" },
        { "4c 8b 64 cb f0", M64, "mov r12, qword ptr [rbx+rcx*8-0x10]" },
        { "48 8d 05 10 00 00 00", M64, "lea rax, [rip+0x10] ; 0x401017" },
        { "67 8b 05 10 00 00 00", M64, "mov eax, dword ptr [eip+0x10] ; 0x401017" },
        { "88 e0", M64, "mov al, ah" },
        { "40 88 e0", M64, "mov al, spl" },
        { "45 88 c8", M64, "mov r8b, r9b" },
        { "64 48 8b 04 25 28 00 00 00", M64, "mov rax, qword ptr fs:[0x28]" },
        { "a1 34 12 00 80", M32, "mov eax, dword ptr [0x80001234]" },
        { "8b 40 fe", M16, "mov ax, word ptr [bx+si-0x2]" },
        { "8b 46 00", M16, "mov ax, word ptr [bp]" },
        { "a0 fe ff", M16, "mov al, byte ptr [0xfffe]" },
        { "ea 5b e0 00 f0", M16, "jmp far 0xf000:0xe05b" },
        { "eb fe", M64, "jmp 0x401000" },
        { "0f 84 fa 0f 00 00", M64, "je 0x402000" },
        { "e8 fd ef", M16, "call 0x0" },
        { "f0 0f b1 0a", M64, "lock cmpxchg dword ptr [rdx], ecx" },
        { "f3 48 a5", M64, "rep movsq" },
        { "f2 ae", M64, "repne scasb" },
        { "f3 a6", M64, "repe cmpsb" },
        { "64 ac", M32, "fs lodsb" },
        { "d7", M64, "xlat" },
        { "6c", M64, "insb" },
        { "e5 40", M64, "in eax, 0x40" },
        { "ee", M64, "out dx, al" },
        { "48 0f 44 c1", M64, "cmove rax, rcx" },
        { "0f 9f c1", M64, "setg cl" },
        { "98", M64, "cwde" }, { "48 98", M64, "cdqe" }, { "66 99", M64, "cwd" }, { "48 99", M64, "cqo" },
        { "e3 fe", M64, "jrcxz 0x401000" }, { "67 e3 fd", M64, "jecxz 0x401000" },
        { "9c", M64, "pushfq" }, { "cf", M64, "iretd" }, { "48 cf", M64, "iretq" },
        { "48 83 c0 ff", M64, "add rax, 0xffffffffffffffff" },
        { "6a ff", M32, "push 0xffffffff" },
        { "c8 34 12 05", M64, "enter 0x1234, 0x5" },
        { "c1 e0 04", M64, "shl eax, 0x4" }, { "d3 e8", M64, "shr eax, cl" }, { "d1 f8", M64, "sar eax, 0x1" },
        { "0f 20 d8", M64, "mov rax, cr3" }, { "44 0f 22 c0", M64, "mov cr8, rax" }, { "0f 23 f8", M32, "mov dr7, eax" },
        { "8e d8", M64, "mov ds, ax" }, { "0f a0", M64, "push fs" },
        { "d8 c1", M64, "fadd st, st(1)" }, { "de c1", M64, "faddp st(1), st" }, { "db 28", M64, "fld tbyte ptr [rax]" },
        { "db c9", M64, "fcmovne st, st(1)" },
        { "df e0", M64, "fnstsw ax" },
        { "0f fc c1", M64, "paddb mm0, mm1" }, { "66 44 0f fc 00", M64, "paddb xmm8, xmmword ptr [rax]" },
        { "0f 6e c0", M64, "movd mm0, eax" }, { "66 48 0f 6e c0", M64, "movq xmm0, rax" }, { "f3 0f 7e c1", M64, "movq xmm0, xmm1" },
        { "66 0f 38 10 c1", M64, "pblendvb xmm0, xmm1, xmm0" },
        { "66 0f f7 c1", M64, "maskmovdqu xmm0, xmm1" },
        { "48 0f ae 00", M64, "fxsave64 [rax]" }, { "0f 01 18", M32, "lidt [eax]" },
        { "f3 90", M64, "pause" }, { "f3 0f 1e fa", M64, "nop edx" }, { "0f 1f 44 00 00", M64, "nop dword ptr [rax+rax]" },
        { "c5 f0 58 c2", M64, "vaddps xmm0, xmm1, xmm2" }, { "c5 f5 fe 00", M64, "vpaddd ymm0, ymm1, ymmword ptr [rax]" },
        { "c4 e2 f3 f6 c2", M64, "mulx rax, rcx, rdx" },
        { "c4 e2 69 92 44 88 10", M64, "vgatherdps xmm0, dword ptr [rax+xmm1*4+0x10], xmm2" },
        { "c4 e3 75 4b c2 30", M64, "vblendvpd ymm0, ymm1, ymm2, ymm3" },
        { "c4 07", M32, "les eax, fword ptr [edi]" },
        { "62 07", M32, "bound eax, qword ptr [edi]" },
        { "48 0f b2 20", M64, "lss rsp, tbyte ptr [rax]" },
    };
    for (unsigned n = 0; n < DP_ARRAY_LEN(cases); n++) {
        struct x86_insn i;
        char text[100], tight[8];
        assert_true(decode(cases[n].hex, cases[n].mode, &i) > 0);
        x86_print_insn(&i, 0x401000, text, sizeof(text));
        assert_string_equal(text, cases[n].text);
        x86_print_insn(&i, 0x401000, tight, sizeof(tight));
        assert_int_equal(strlen(tight), DP_MIN(strlen(text), sizeof(tight) - 1));
        assert_memory_equal(tight, text, strlen(tight));
        x86_print_insn(&i, 0x401000, tight, 1);
        assert_int_equal(tight[0], 0);
        x86_print_insn(&i, 0x401000, NULL, 0);
    }
    assert_string_equal(x86_op_name(X86_OP_CMPXCHG16B), "CMPXCHG16B");
    assert_string_equal(x86_op_name(X86_OP_COUNT), "INVALID");
}

static void test_limits(void **state)
{
    struct x86_insn i;
    assert_int_equal(decode("", M64, &i), X86_DECODE_MORE);
    assert_int_equal(decode("66", M64, &i), X86_DECODE_MORE);
    assert_int_equal(decode("48 8b 84 88 01 02 03", M64, &i), X86_DECODE_MORE);
    assert_int_equal(decode("c5", M32, &i), X86_DECODE_MORE); /* LDS or VEX */
    assert_int_equal(decode("c4 e2", M64, &i), X86_DECODE_MORE);
    /* 15 bytes are an instruction, 16 are #GP(0), of which only 15 are needed to know */
    assert_int_equal(decode("66 66 66 66 66 66 66 66 66 66 66 66 66 66 90", M64, &i), 15);
    assert_int_equal(decode("66 66 66 66 66 66 66 66 66 66 66 66 66 66 66 90", M64, &i), X86_DECODE_LONG);
    assert_int_equal(decode("66 66 66 66 66 66 66 66 66 66 66 66 66 66 66", M64, &i), X86_DECODE_LONG);
    assert_int_equal(decode("66 66 66 66 66 66 66 66 66 66 66 66 66 66", M64, &i), X86_DECODE_MORE);
    assert_int_equal(decode("2e 2e 2e 2e 2e 2e 2e 2e 2e 2e 2e 81 05 00 00 00", M64, &i), X86_DECODE_LONG);
    assert_int_equal(decode("0f 04", M64, &i), X86_DECODE_UD);
}

static void test_prefixes(void **state)
{
    struct x86_insn i;
    /* REX counts right before the opcode only */
    assert_int_equal(decode("48 66 89 c3", M64, &i), 4);
    assert_int_equal(i.operand_size, 2);
    assert_int_equal(i.has_rex, 0);
    assert_int_equal(decode("41 48 89 c3", M64, &i), 4);
    assert_int_equal(i.operand[0].reg, X86_RBX);
    assert_int_equal(i.operand_size, 8);
    /* the last of F2 and F3 wins, and wins over 66 */
    assert_int_equal(decode("f3 f2 0f 58 c1", M64, &i), 5);
    assert_int_equal(i.op, X86_OP_ADDSD);
    assert_int_equal(decode("f2 66 f3 0f 58 c1", M64, &i), 6);
    assert_int_equal(i.op, X86_OP_ADDSS);
    assert_int_equal(decode("f2 f3 a4", M64, &i), 3);
    assert_true(i.rep && !i.repne);
    /* a prefix that means nothing here leaves no trace */
    assert_int_equal(decode("f3 89 c3", M64, &i), 3);
    assert_true(!i.rep && !i.repne);
    /* 64-bit mode knows FS and GS only; others do not cancel them */
    assert_int_equal(decode("64 2e 8b 00", M64, &i), 4);
    assert_int_equal(i.seg, X86_FS);
    assert_int_equal(decode("2e 8b 45 00", M64, &i), 4);
    assert_int_equal(i.seg, X86_SS);
    assert_int_equal(i.seg_override, X86_SEGS);
    assert_int_equal(decode("64 2e 8b 00", M32, &i), 4);
    assert_int_equal(i.seg, X86_CS);
    /* default segments: SS for rBP and rSP, not for R12 and R13, whatever the index */
    assert_int_equal(decode("8b 04 24", M64, &i), 3);
    assert_int_equal(i.seg, X86_SS);
    assert_int_equal(decode("41 8b 04 24", M64, &i), 4);
    assert_int_equal(i.seg, X86_DS);
    assert_int_equal(decode("41 8b 45 00", M64, &i), 4);
    assert_int_equal(i.seg, X86_DS);
    assert_int_equal(decode("8b 04 28", M64, &i), 3);
    assert_int_equal(i.seg, X86_DS);
    /* LOCK: memory destination of what allows it */
    assert_int_equal(decode("f0 01 00", M64, &i), 3);
    assert_int_equal(decode("f0 01 c0", M64, &i), X86_DECODE_UD);
    assert_int_equal(decode("f0 03 00", M64, &i), X86_DECODE_UD);
    assert_int_equal(decode("f0 39 00", M64, &i), X86_DECODE_UD);
    assert_int_equal(decode("f0 90", M64, &i), X86_DECODE_UD);
    /* before VEX nothing but segments and 67 */
    assert_int_equal(decode("48 c5 f0 58 c2", M64, &i), X86_DECODE_UD);
    assert_int_equal(decode("66 c5 f0 58 c2", M64, &i), X86_DECODE_UD);
    assert_int_equal(decode("f3 c5 f0 58 c2", M64, &i), X86_DECODE_UD);
    assert_int_equal(decode("f0 c5 f0 58 c2", M64, &i), X86_DECODE_UD);
    assert_int_equal(decode("67 64 c5 f0 58 02", M64, &i), 6);
    assert_true(i.vex && i.seg == X86_FS && i.address_size == 4 && i.vvvv == 1);
    assert_int_equal(i.features, 1ull << X86_FEATURE_AVX);
}

static void test_operands(void **state)
{
    struct x86_insn i;
    /* string instructions */
    assert_int_equal(decode("64 a5", M32, &i), 2);
    assert_int_equal(i.operand_count, 2);
    assert_true(i.operand[0].kind == X86_MEM && i.operand[0].reg == X86_RDI && i.operand[0].size == 4 && i.operand[0].access == X86_WRITE);
    assert_true(i.operand[1].kind == X86_MEM && i.operand[1].reg == X86_RSI && i.operand[1].access == X86_READ);
    assert_int_equal(i.seg, X86_FS);
    assert_int_equal(i.base, X86_RSI);
    assert_int_equal(decode("64 66 ab", M32, &i), 3);
    assert_true(i.seg == X86_ES && i.base == X86_RDI && i.operand[0].size == 2);
    assert_int_equal(decode("64 a7", M32, &i), 2);
    assert_true(i.seg == X86_FS && i.base == X86_RSI && i.operand[0].reg == X86_RSI && i.operand[1].reg == X86_RDI);
    /* MASKMOV: rDI, but in the data segment; XLAT */
    assert_int_equal(decode("64 0f f7 c1", M32, &i), 4);
    assert_true(i.seg == X86_FS && i.operand[2].kind == X86_MEM && i.operand[2].reg == X86_RDI && i.operand[2].access == X86_WRITE);
    assert_int_equal(decode("d7", M64, &i), 1);
    assert_true(i.base == X86_RBX && i.operand[1].reg == X86_RBX && i.seg == X86_DS);
    /* immediates: sign-extended where the instruction does, else not */
    assert_int_equal(decode("48 81 c0 00 00 00 80", M64, &i), 7);
    assert_true(i.imm == 0xffffffff80000000u && i.operand[1].size == 8);
    assert_int_equal(decode("48 b8 88 77 66 55 44 33 22 f1", M64, &i), 10);
    assert_true(i.imm == 0xf122334455667788u);
    assert_int_equal(decode("b8 00 00 00 80", M64, &i), 5);
    assert_true(i.imm == 0x80000000u);
    assert_int_equal(decode("e4 ff", M64, &i), 2);
    assert_true(i.imm == 0xff);
    assert_int_equal(decode("48 a1 88 77 66 55 44 33 22 f1", M64, &i), 10);
    assert_true((uint64_t)i.disp == 0xf122334455667788u && i.base == X86_ZERO && i.index == X86_ZERO);
    assert_int_equal(decode("67 a1 ff ff ff ff", M64, &i), 6);
    assert_true(i.disp == 0xffffffffll);
    assert_int_equal(decode("c8 ff ff 1f", M32, &i), 4);
    assert_true(i.imm == 0xffff && i.imm2 == 0x1f);
    assert_int_equal(decode("9a 78 56 34 92 cd ab", M32, &i), 7);
    assert_true(i.operand[0].kind == X86_FAR && i.imm == 0x92345678 && i.imm2 == 0xabcd);
    /* stack and branch sizes of 64-bit mode */
    assert_int_equal(decode("50", M64, &i), 1);
    assert_int_equal(i.operand_size, 8);
    assert_int_equal(decode("66 50", M64, &i), 2);
    assert_int_equal(i.operand_size, 2);
    assert_int_equal(decode("66 e8 01 02 03 04", M64, &i), 6); /* 66 is ignored, as Intel does */
    assert_int_equal(i.operand_size, 8);
    assert_int_equal(decode("cb", M64, &i), 1);
    assert_int_equal(i.operand_size, 4);
    /* MOV CR: mod is ignored, size is the mode's */
    assert_int_equal(decode("0f 20 18", M16, &i), 3);
    assert_true(i.operand[0].kind == X86_REG && i.operand[0].size == 4 && i.operand_size == 4);
    /* condition codes of FCMOVcc */
    static const struct { const char *hex; unsigned cc; } fcmov[] = { { "da c1", 2 }, { "da c9", 4 }, { "da d1", 6 }, { "da d9", 10 },
        { "db c1", 3 }, { "db c9", 5 },
        { "db d1", 7 }, { "db d9", 11 } };
    for (unsigned n = 0; n < DP_ARRAY_LEN(fcmov); n++) {
        assert_int_equal(decode(fcmov[n].hex, M64, &i), 2);
        assert_int_equal(i.op, X86_OP_FCMOVCC);
        assert_int_equal(i.cc, fcmov[n].cc);
    }
}

static void test_features(void **state)
{
    struct x86_insn i;
    uint64_t none[2] = { 0, 0 }, all[2] = { ~0ull, ~0ull };
    assert_true(decode("f3 0f bc c1", M64, &i) == 4 && i.op == X86_OP_TZCNT && i.operand[0].access == X86_WRITE);
    assert_true(x86_insn_supported(&i, all) && i.op == X86_OP_TZCNT);
    assert_true(x86_insn_supported(&i, none) && i.op == X86_OP_BSF && i.row->flags_undefined);
    assert_int_equal(i.operand[0].access, X86_READ | X86_WRITE);
    assert_true(decode("f3 0f bd c1", M64, &i) == 4 && x86_insn_supported(&i, none) && i.op == X86_OP_BSR);
    assert_true(decode("f3 0f b8 c1", M64, &i) == 4 && !x86_insn_supported(&i, none) && x86_insn_supported(&i, all));
    assert_true(decode("0f 01 f9", M64, &i) == 3 && i.row->feature >= 64);
    assert_true(!x86_insn_supported(&i, none) && x86_insn_supported(&i, all));
    assert_true(decode("89 c3", M64, &i) == 2 && x86_insn_supported(&i, none));
    uint64_t aes[2] = { 1ull << X86_FEATURE_AES, 0 };
    assert_true(decode("66 0f 38 dc c1", M64, &i) == 5 && x86_insn_supported(&i, aes));
    assert_true(decode("c4 e2 79 dc c1", M64, &i) == 5 && !x86_insn_supported(&i, aes)); /* AVX too */
}

/* Rows say nothing that contradicts itself. */
static void check_row(const struct x86_opcode *row, unsigned depth, unsigned *leaves)
{
    static const unsigned members[] = { [X86_ROW_BY_MODE] = 2, [X86_ROW_BY_REXB] = 2, [X86_ROW_BY_W] = 2, [X86_ROW_BY_VEX_W] = 2,
        [X86_ROW_BY_L] = 2,
        [X86_ROW_BY_PREFIX] = 4, [X86_ROW_BY_REG] = 8, [X86_ROW_BY_RM] = 8, [X86_ROW_BY_MOD] = 2 };
    assert_true(depth < 8);
    if (row->kind == X86_ROW_NONE) {
        assert_true(!row->op && !row->flags);
    } else if (row->kind == X86_ROW_LEAF || row->kind == X86_ROW_LEAF_RR) {
        ++*leaves;
        assert_true(row->op > X86_OP_INVALID && row->op < X86_OP_COUNT);
        assert_true(!(row->flags & X86_F_I64 && row->flags & X86_F_O64));
        assert_true(!(row->flags & X86_F_D64 && row->flags & X86_F_F64));
        assert_true(!(row->flags & X86_F_LOCK) || (row->access & 3) == (X86_READ | X86_WRITE));
        assert_true(!(row->flags & X86_F_REPCC) || row->flags & X86_F_REP);
        assert_true(!(row->flags & X86_F_FP) || row->flags & X86_F_SSE);
        assert_true(!(row->flags & X86_F_KEEPS) || row->flags_written);
        for (unsigned n = 0; n < 4; n++)
            assert_true(row->operand[n] < X86_OPERAND_CODE_COUNT && row->operand[n] != X86_OPERAND_LAST_PLAIN);
    } else {
        assert_true(row->kind < DP_ARRAY_LEN(members) && row->group);
        for (unsigned n = 0; n < members[row->kind]; n++)
            check_row(&row->group[n], depth + 1, leaves);
    }
}

static void test_rows(void **state)
{
    unsigned leaves = 0;
    for (unsigned map = 0; map < 4; map++)
        for (unsigned op = 0; op < 256; op++) {
            check_row(&x86_map[map][op], 0, &leaves);
            check_row(&x86_vex_map[map][op], 0, &leaves);
        }
    assert_true(leaves > 1500); /* TZCNT's and LZCNT's older forms not counted */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits), cmocka_unit_test(test_prefixes), cmocka_unit_test(test_operands), cmocka_unit_test(test_features),
        cmocka_unit_test(test_print),
        cmocka_unit_test(test_rows), cmocka_unit_test(test_zydis_random), cmocka_unit_test(test_zydis_legacy),
        cmocka_unit_test(test_zydis_vex),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
