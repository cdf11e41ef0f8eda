/* test_legacy.c - the modes before 64 bits: real mode, limits of segments, 16- and 32-bit stacks, virtual-8086 mode with and without VME.
 *
 * Each test runs bare-metal code on the bench of bare.h and looks at traps, memory and the state after.
 * Source: Intel SDM vol. 3, sections named at the tests.
 */
#include "system.h"

/* ---- real mode, 16-bit limits ---- */
BARE_CODE_BITS(16, real_flags, "mov $0x1234, %ax\n push %ax\n pushf\n pop %bx\n int $0x21");
static void test_real(void **state)
{
    struct bare *b = *state;
    bare_put(b, 0x20000, real_flags, real_flags_end);
    struct x86_state s = bare_real(b, 0x2000, 0);
    const struct x86_state *out = bare_run(b, &s);
    assert_int_equal(bare_stub_vector(out), 0x21);
    assert_int_equal(out->r[X86_RSP], 0xf000 - 8);
    assert_int_equal(dp_ld16(b->mem + 0xf000 - 8), (uint64_t)(real_flags_end - real_flags) - 1);
    assert_int_equal(dp_ld16(b->mem + 0xf000 - 6), 0x2000);
    assert_int_equal(dp_ld16(b->mem + 0xf000 - 2), 0x1234);
}
static void real_case(struct bare *b, uint16_t ip, const char *bytes, unsigned length, int vector, uint64_t rip)
{
    memset(b->mem + 0x20000, 0xf4, 0x20000);
    memcpy(b->mem + 0x20000 + ip, bytes, length);
    dp_ram_mark_dirty(b->ram, 0x20000, 0x20000);
    struct x86_state s = bare_real(b, 0x2000, ip);
    const struct x86_state *out = bare_run(b, &s);
    assert_int_equal(b->cpu[0].exit.kind, vector == -2 ? DP_EXIT_SHUTDOWN : DP_EXIT_HALT);
    assert_int_equal(bare_stub_vector(out), DP_MAX(vector, -1));
    if (vector >= 0)
        assert_int_equal(dp_ld16(b->mem + (uint16_t)out->r[X86_RSP]), rip);
    else
        assert_int_equal(out->r[X86_RIP], rip);
}
static void test_real_limits(void **state)
{
    struct bare *b = *state;
    /* mov $5, %al at the very end: then IP is 0x10000, beyond the limit */
    real_case(b, 0xfffe, "\xb0\x05", 2, X86_GP, 0);
    /* an instruction across the limit */
    real_case(b, 0xffff, "\xb0\x05", 2, X86_GP, 0xffff);
    /* mov %eax, 0xfffd */
    real_case(b, 0x100, "\x66\xa3\xfd\xff", 4, X86_GP, 0x100);
    /* mov %ax, 0xffff */
    real_case(b, 0x100, "\xa3\xff\xff", 3, X86_GP, 0x100);
    /* mov %al, 0xffff */
    real_case(b, 0x100, "\xa2\xff\xff\xf4", 4, -1, 0x104);
    /* jmp forward wraps: 0x103 + 0xff00 = 0x10003 -> 3: hlt */
    real_case(b, 0x100, "\xe9\x00\xff", 3, -1, 4);
    /* mov $1, %sp; push %ax: #SS, which has no stack either */
    real_case(b, 0x100, "\xbc\x01\x00\x50", 4, -2, 0x103);
    /* mov $0, %sp; push %ax wraps to 0xfffe */
    real_case(b, 0x100, "\xbc\x00\x00\x50\xf4", 5, -1, 0x105);
}
/* PUSHA that meets the end of the stack in its middle is #GP, before it writes anything; with SP 1, 3 or 5 there is no room for the frame
 * either (SDM vol. 2 PUSHA, real-address mode exceptions). */
static void test_real_pusha(void **state)
{
    struct bare *b = *state;
    uint32_t vector0 = dp_ld32(b->mem);
    for (unsigned sp = 1; sp < 20; sp += 2) {
        const char code[] = { (char)0xbc, (char)sp, 0, 0x60, (char)0xf4 };
        bool fits = sp > 15;
        if (sp == 15) {
            real_case(b, 0x100, code, 5, X86_GP, 0x103);
            assert_int_equal(dp_ld32(b->mem), vector0);
        } else {
            real_case(b, 0x100, code, 5, fits ? -1 : sp < 6 ? -2 : X86_GP, fits ? 0x105 : 0x103);
        }
        bare_tables(b); /* the vectors are where this stack is */
    }
}

/* One block of code seen under two CS limits: what the first entry found does not bind the second one. */
static void test_limit_change(void **state)
{
    struct bare *b = *state;
    static const uint8_t code[] = { 0x90, 0x90, 0xb8, 1, 0, 0, 0, 0xf4 }; /* nop; nop; mov $1, %eax; hlt */
    bare_put(b, BARE_CODE, code, code + sizeof code);
    struct x86_state s = bare_protected(b, 0);
    s.seg[X86_CS].base = BARE_CODE;
    for (unsigned k = 0; k < 3; k++) {
        s.seg[X86_CS].limit = k == 1 ? 0xff : 4;
        s.r[X86_RIP] = k == 2 ? 0 : 2;
        const struct x86_state *out = bare_run(b, &s);
        if (k == 1) {
            assert_int_equal(out->r[X86_RIP], 8);
        } else {
            assert_int_equal(bare_stub_vector(out), X86_GP);
            assert_int_equal(dp_ld32(b->mem + out->r[X86_RSP] + 4), 2);
        }
    }
}
BARE_CODE_BITS(32, protected32, "mov $0x40, %al\n out %al, $0x81\n mov $0x20000, %edi\n mov $5, %ecx\n rep stosb\n call 1f\n1: pop %eax\n"
    " sti\n nop\n nop");
static void test_protected(void **state)
{
    struct bare *b = *state;
    bare_put(b, BARE_CODE, protected32, protected32_end);
    struct x86_state s = bare_protected(b, BARE_CODE);
    const struct x86_state *out = bare_run(b, &s);
    assert_int_equal(bare_stub_vector(out), 0x40);
    assert_int_equal(dp_ld32(b->mem + out->r[X86_RSP]), BARE_CODE + (uint64_t)(protected32_end - protected32) - 2);
    assert_int_equal(dp_ld32(b->mem + D), 0x40404040);
}

/* ---- stacks of 16 bits ---- */
BARE_CODE_BITS(32, enter16, "enter $8, $2");
static void test_enter_small_stack(void **state) /* SP wraps, ESP's upper half is what the frame pointer gets */
{
    struct bare *b = *state;
    bare_put(b, BARE_CODE, enter16, enter16_end);
    struct x86_state s = bare_protected(b, BARE_CODE);
    s.seg[X86_SS] = (struct x86_seg){ .sel = BARE_DS, .attr = 0x93, .limit = 0xffff, .base = D };
    s.r[X86_RSP] = 0x12340000;
    s.r[X86_RBP] = 0x56780100;
    dp_st32(b->mem + D + 0xfc, 0xabcdef01);
    const struct x86_state *out = bare_run(b, &s);
    assert_int_equal(out->r[X86_RIP], BARE_CODE + (uint64_t)(enter16_end - enter16));
    assert_int_equal(out->r[X86_RBP], 0x1234fffc);
    assert_int_equal(out->r[X86_RSP], 0x1234ffec);
    assert_int_equal(dp_ld32(b->mem + D + 0xfffc), 0x56780100);
    assert_int_equal(dp_ld32(b->mem + D + 0xfff8), 0xabcdef01);
    assert_int_equal(dp_ld32(b->mem + D + 0xfff4), 0x1234fffc);
}
BARE_CODE_BITS(32, stack16, "push $0x11223344\n pop %eax\n call 1f\n1: pusha\n popa\n pushf\n popf\n pushw $0x5566\n pop %cx\n"
    " push %ds\n pop %es\n leave");
static void test_small_stack(void **state) /* 32-bit code on it: each access wraps at 64 KiB, and the upper half of ESP stays */
{
    struct bare *b = *state;
    bare_put(b, BARE_CODE, stack16, stack16_end);
    struct x86_state s = bare_protected(b, BARE_CODE);
    s.seg[X86_SS] = (struct x86_seg){ .sel = BARE_DS, .attr = 0x93, .limit = 0xffff, .base = D };
    s.r[X86_RSP] = 0x77770000;
    s.r[X86_RBP] = 0x8888fffc; /* LEAVE takes BP only */
    dp_st32(b->mem + D + 0xfffc, 0x99990000); /* overwritten by what is pushed first */
    const struct x86_state *out = bare_run(b, &s);
    assert_int_equal(out->r[X86_RIP], BARE_CODE + (uint64_t)(stack16_end - stack16));
    assert_int_equal(out->r[X86_RAX], 0x11223344);
    assert_int_equal((uint16_t)out->r[X86_RCX], 0x5566);
    assert_int_equal(out->r[X86_RSP] >> 16, 0x7777);
    assert_int_equal(out->r[X86_RSP] & 0xffff, 0); /* BP + 4 */
}

/* ---- limits and types of data segments (SDM vol. 3 5.3, 5.5) ---- */
enum { READ1, READ2, READ4, READ16, WRITE1, WRITE4, SS_READ4, STOSD };
static const struct limit_case {
    const char *what;
    uint32_t attr, limit, offset;
    unsigned access;
    int vector; /* -1: none */
} limit_cases[] = {
    { "last byte", 0x4093, 0xfff, 0xfff, READ1, -1 },
    { "one beyond", 0x4093, 0xfff, 0x1000, READ1, X86_GP },
    { "last dword", 0x4093, 0xfff, 0xffc, READ4, -1 },
    { "across the limit", 0x4093, 0xfff, 0xffd, READ4, X86_GP },
    { "across the limit, written", 0x4093, 0xfff, 0xffd, WRITE4, X86_GP },
    { "across the limit, vector", 0x4093, 0xfff, 0xff1, READ16, X86_GP },
    { "last vector", 0x4093, 0xfff, 0xff0, READ16, -1 },
    { "offset wraps", 0x4093, 0xfff, 0xfffffffe, READ4, X86_GP },
    { "the only byte", 0x4093, 0, 0, READ1, -1 },
    { "a word where there is a byte", 0x4093, 0, 0, READ2, X86_GP },
    { "stack segment", 0x4093, 0xfff, 0xffd, SS_READ4, X86_SS_ },
    { "stack segment, last", 0x4093, 0xfff, 0xffc, SS_READ4, -1 },
    { "expand-down: below", 0x4097, 0xfff, 0xfff, READ1, X86_GP },
    { "expand-down: first", 0x4097, 0xfff, 0x1000, READ1, -1 },
    { "expand-down: across", 0x4097, 0xfff, 0xffe, READ4, X86_GP },
    { "expand-down: last dword", 0x4097, 0xfff, 0xfffffffc, READ4, -1 },
    { "expand-down: across the top", 0x4097, 0xfff, 0xfffffffd, READ4, X86_GP },
    { "expand-down: written", 0x4097, 0xfff, 0x1000, WRITE4, -1 },
    { "expand-down, 16 bits: first", 0x0097, 0xfff, 0x1000, READ4, -1 },
    { "expand-down, 16 bits: last byte", 0x0097, 0xfff, 0xffff, READ1, -1 },
    { "expand-down, 16 bits: across the top", 0x0097, 0xfff, 0xffff, READ2, X86_GP },
    { "expand-down, 16 bits: above", 0x0097, 0xfff, 0x10000, READ1, X86_GP },
    { "expand-down: nothing", 0xc097, 0xffffffff, 0x1000, READ1, X86_GP },
    { "expand-down stack", 0x4097, 0xfff, 0xffc, SS_READ4, X86_SS_ },
    { "read-only: read", 0x4091, 0xfff, 0, READ4, -1 },
    { "read-only: written", 0x4091, 0xfff, 0, WRITE1, X86_GP },
    { "code: read", 0x409b, 0xfff, 0, READ4, -1 },
    { "code: written", 0x409b, 0xfff, 0, WRITE4, X86_GP },
    { "execute-only: read", 0x4099, 0xfff, 0, READ1, X86_GP },
    { "conforming code: read", 0x409f, 0xfff, 0xffc, READ4, -1 },
    { "null", X86_ATTR_UNUSABLE, 0, 0, READ1, X86_GP },
    { "null: written", X86_ATTR_UNUSABLE, 0, 0, WRITE4, X86_GP },
    { "string", 0x4093, 0xfff, 0xff8, STOSD, X86_GP },
    { "string, expand-down", 0x4097, 0xfff, 0xfffffff8, STOSD, X86_GP },
};
static void test_limits(void **state)
{
    struct bare *b = *state;
    static const uint8_t code[][5] = { [READ1] = { 0x8a, 0x03, 0xf4 }, [READ2] = { 0x66, 0x8b, 0x03, 0xf4 }, [READ4] = { 0x8b, 0x03, 0xf4 },
        [READ16] = { 0x0f, 0x10, 0x03, 0xf4 }, [WRITE1] = { 0x88, 0x03, 0xf4 }, [WRITE4] = { 0x89, 0x03, 0xf4 },
        [SS_READ4] = { 0x36, 0x8b, 0x03, 0xf4 }, [STOSD] = { 0xf3, 0xab, 0xf4 } };
    for (unsigned i = 0; i < DP_ARRAY_LEN(limit_cases); i++) {
        const struct limit_case *t = &limit_cases[i];
        bare_put(b, BARE_CODE, code[t->access], code[t->access] + 5);
        struct x86_state s = bare_protected(b, BARE_CODE);
        struct x86_seg seg = { .sel = 0x40, .attr = t->attr, .limit = t->limit, .base = BARE_DATA };
        s.seg[t->access == SS_READ4 ? X86_FS : t->access == STOSD ? X86_ES : X86_DS] = seg;
        s.r[X86_RBX] = s.r[X86_RDI] = t->offset;
        s.r[X86_RCX] = 5;
        s.r[X86_RAX] = 0x01020304;
        if (t->access == SS_READ4) { /* the fault's frame needs an inner stack: read at CPL 3 */
            bare_user(&s);
            s.seg[X86_CS] = bare_seg(0x1b, 0xc0fb);
            seg.sel |= 3;
            seg.attr |= 0x60;
            s.seg[X86_SS] = seg;
            dp_st16(b->mem + BARE_TSS + 8, BARE_DS);
        }
        dp_st32(b->mem + (uint32_t)(BARE_DATA + t->offset), 0x55667788);
        const struct x86_state *out = bare_run(b, &s);
        int vector = bare_stub_vector(out);
        if (t->access == SS_READ4 && t->vector < 0) { /* its HLT faults then */
            assert_int_equal(vector, X86_GP);
            assert_int_equal(dp_ld32(b->mem + out->r[X86_RSP] + 4), BARE_CODE + 3);
            continue;
        }
        if (vector != t->vector)
            print_message("%s: vector %d\n", t->what, vector);
        assert_int_equal(vector, t->vector);
        if (vector >= 0) {
            assert_int_equal(dp_ld32(b->mem + out->r[X86_RSP]), 0); /* error code */
            assert_int_equal(dp_ld32(b->mem + out->r[X86_RSP] + 4), BARE_CODE);
            if (t->access == STOSD) { /* as far as it got */
                assert_int_equal(out->r[X86_RCX], 3);
                assert_int_equal((uint32_t)out->r[X86_RDI], t->offset + 8);
            } else if (t->access == WRITE4 && t->attr != X86_ATTR_UNUSABLE) {
                assert_int_equal(dp_ld32(b->mem + (uint32_t)(BARE_DATA + t->offset)), 0x55667788); /* nothing of it */
            }
        } else if (t->access == READ4) {
            assert_int_equal(out->r[X86_RAX], 0x55667788);
        }
    }
}

/* ---- virtual-8086 mode (SDM vol. 3 21.2, 21.3; table 21-2) ---- */
enum { V86_TSS = D + 0x8000, V86_CODE = 0x30000, V86_SP = 0x8000, V86_MAP = 0x88 };
static struct x86_state v86_state(struct bare *b, unsigned iopl, bool vme, uint32_t flags)
{
    struct x86_state s = bare_protected(b, 0);
    memset(b->mem + V86_TSS, 0, 0x2200); /* all ports, and all INT n to the program */
    dp_st32(b->mem + V86_TSS + 4, BARE_STACKS + 0x3000);
    dp_st16(b->mem + V86_TSS + 8, BARE_DS);
    dp_st16(b->mem + V86_TSS + 102, V86_MAP);
    s.tr = (struct x86_seg){ .sel = BARE_TR, .attr = 0x8b, .limit = V86_MAP + 0x2000, .base = V86_TSS };
    s.rflags = 2 | X86_VM | iopl << 12 | flags;
    if (vme)
        s.cr4 |= X86_CR4_VME;
    for (unsigned k = 0; k < X86_SEGS; k++)
        s.seg[k] = (struct x86_seg){ .sel = V86_CODE >> 4, .attr = 0xf3, .limit = 0xffff, .base = V86_CODE };
    s.r[X86_RIP] = 0;
    s.r[X86_RSP] = V86_SP;
    return s;
}
static const struct v86_case {
    const char *what, *code;
    unsigned length, iopl;
    bool vme;
    uint32_t flags;         /* before: IF, VIF, VIP */
    unsigned vector, error, eip; /* of the fault that ends it: a HLT after the code, or the instruction */
    uint32_t after;         /* IF, VIF of the frame */
} v86_cases[] = {
    { "cli", "\xfa\xf4", 2, 0, false, X86_IF, X86_GP, 0, 0, X86_IF },
    { "cli", "\xfa\xf4", 2, 3, false, X86_IF, X86_GP, 0, 1, 0 },
    { "cli", "\xfa\xf4", 2, 0, true, X86_IF | X86_VIF, X86_GP, 0, 1, X86_IF },
    { "cli", "\xfa\xf4", 2, 3, true, X86_IF | X86_VIF, X86_GP, 0, 1, X86_VIF },
    { "sti", "\xfb\xf4", 2, 0, false, 0, X86_GP, 0, 0, 0 },
    { "sti", "\xfb\xf4", 2, 0, true, 0, X86_GP, 0, 1, X86_VIF },
    { "sti, an interrupt pending", "\xfb\xf4", 2, 0, true, X86_VIP, X86_GP, 0, 0, 0 },
    { "sti", "\xfb\xf4", 2, 3, true, X86_VIP, X86_GP, 0, 1, X86_IF },
    { "pushf", "\x9c\xf4", 2, 2, false, 0, X86_GP, 0, 0, 0 },
    { "pushf", "\x9c\xf4", 2, 2, true, 0, X86_GP, 0, 1, 0 },
    { "pushfd", "\x66\x9c\xf4", 3, 2, true, 0, X86_GP, 0, 0, 0 },
    { "pushfd", "\x66\x9c\xf4", 3, 3, true, 0, X86_GP, 0, 2, 0 },
    { "popf", "\x68\x00\x02\x9d\xf4", 5, 0, false, 0, X86_GP, 0, 3, 0 },
    { "popf: IF", "\x68\x00\x02\x9d\xf4", 5, 0, true, 0, X86_GP, 0, 4, X86_VIF },
    { "popf: no IF", "\x68\x00\x00\x9d\xf4", 5, 0, true, X86_IF | X86_VIF, X86_GP, 0, 4, X86_IF },
    { "popf: IF, an interrupt pending", "\x68\x00\x02\x9d\xf4", 5, 0, true, X86_VIP, X86_GP, 0, 3, 0 },
    { "popf: TF", "\x68\x00\x01\x9d\xf4", 5, 0, true, 0, X86_GP, 0, 3, 0 },
    { "popf: IF, IOPL 3", "\x68\x00\x02\x9d\xf4", 5, 3, true, X86_VIP, X86_GP, 0, 4, X86_IF },
    { "popfd", "\x66\x9d\xf4", 3, 0, true, 0, X86_GP, 0, 0, 0 },
    { "iret", "\x68\x00\x02\x68\x00\x30\x68\x20\x00\xcf", 10, 0, false, 0, X86_GP, 0, 9, 0 },
    { "iret: IF", "\x68\x00\x02\x68\x00\x30\x68\x20\x00\xcf", 10, 0, true, 0, X86_GP, 0, 0x20, X86_VIF },
    { "iret: IF, an interrupt pending", "\x68\x00\x02\x68\x00\x30\x68\x20\x00\xcf", 10, 0, true, X86_VIP, X86_GP, 0, 9, 0 },
    { "iret: IF, IOPL 3", "\x68\x00\x02\x68\x00\x30\x68\x20\x00\xcf", 10, 3, true, 0, X86_GP, 0, 0x20, X86_IF },
    { "iretd", "\x66\xcf", 2, 0, true, 0, X86_GP, 0, 0, 0 },
    { "int", "\xcd\x21", 2, 0, false, X86_IF, X86_GP, 0, 0, X86_IF },
    { "int: the monitor's gate", "\xcd\x21", 2, 3, false, X86_IF, X86_GP, 0x10a, 0, X86_IF },
    { "int: by the program's table", "\xcd\x21", 2, 0, true, X86_IF | X86_VIF, X86_GP, 0, 0x21, X86_IF },
    { "int: by the program's table", "\xcd\x21", 2, 3, true, X86_IF | X86_VIF, X86_GP, 0, 0x21, X86_VIF },
    { "int: redirection bit set", "\xcd\x22", 2, 0, true, X86_IF, X86_GP, 0, 0, X86_IF },
    { "int: redirection bit set", "\xcd\x22", 2, 3, true, X86_IF, X86_GP, 0x112, 0, X86_IF },
    { "int3", "\xcc\xf4", 2, 0, true, X86_IF, X86_GP, 0x1a, 0, X86_IF },
    { "in", "\xe4\x84\xf4", 3, 0, false, 0, X86_GP, 0, 2, 0 },
    { "in, two bytes", "\xe5\x84\xf4", 3, 3, false, 0, X86_GP, 0, 0, 0 }, /* port 0x85 is not allowed: in this mode IOPL does not count */
    { "lgdt", "\x0f\x01\x16\x00\x00", 5, 3, false, 0, X86_GP, 0, 0, 0 },
    { "mov cr0", "\x0f\x20\xc0", 3, 3, false, 0, X86_GP, 0, 0, 0 },
    { "sldt", "\x0f\x00\xc0", 3, 3, false, 0, X86_UD, -1, 0, 0 },
    { "arpl", "\x63\xc0", 2, 3, false, 0, X86_UD, -1, 0, 0 },
    { "lar", "\x0f\x02\xc0", 3, 3, false, 0, X86_UD, -1, 0, 0 },
    { "smsw", "\x0f\x01\xe0\xf4", 4, 0, false, 0, X86_GP, 0, 3, 0 },
    { "beyond 64 KiB", "\xa1\xff\xff", 3, 3, false, 0, X86_GP, 0, 0, 0 },
};
static void test_v86(void **state)
{
    struct bare *b = *state;
    for (unsigned i = 0; i < DP_ARRAY_LEN(v86_cases); i++) {
        const struct v86_case *t = &v86_cases[i];
        memset(b->mem + V86_CODE, 0xf4, 0x100);
        memcpy(b->mem + V86_CODE, t->code, t->length);
        dp_ram_mark_dirty(b->ram, V86_CODE, 0x1000);
        struct x86_state s = v86_state(b, t->iopl, t->vme, t->flags);
        b->mem[V86_TSS + 0x68 + 0x22 / 8] = 1 << (0x22 & 7);
        b->mem[V86_TSS + V86_MAP + 0x85 / 8] = 1 << (0x85 & 7);
        const struct x86_state *out = bare_run(b, &s);
        const uint8_t *frame = b->mem + out->r[X86_RSP];
        bool code = t->error != -1u;
        uint32_t eip = dp_ld32(frame + 4 * code), flags = dp_ld32(frame + 4 * code + 8);
        if (bare_stub_vector(out) != (int)t->vector || eip != t->eip || (flags & (X86_IF | X86_VIF)) != t->after)
            print_message("%s, IOPL %u, VME %u: vector %d, EIP 0x%x, EFLAGS 0x%x\n", t->what, t->iopl, t->vme,
                          bare_stub_vector(out), eip, flags);
        assert_int_equal(bare_stub_vector(out), t->vector);
        assert_int_equal(eip, t->eip);
        assert_int_equal(flags & (X86_IF | X86_VIF), t->after);
        assert_int_equal(flags & (X86_VM | X86_IOPL | X86_VIP), X86_VM | t->iopl << 12 | (t->flags & X86_VIP));
        if (code)
            assert_int_equal(dp_ld32(frame), t->error);
        assert_int_equal(x86_cpl(out), 0);
        assert_int_equal(out->r[X86_RSP], BARE_STACKS + 0x3000 - 36 - 4 * code);
        assert_true(out->seg[X86_DS].attr & X86_ATTR_UNUSABLE);
        assert_int_equal(dp_ld32(frame + 4 * code + 16), V86_CODE >> 4); /* SS, then ES, DS, FS, GS */
        assert_int_equal(dp_ld32(frame + 4 * code + 32), V86_CODE >> 4);
    }
}
BARE_CODE_BITS(16, vme_flags, "sti\n pushf\n pop %ax\n cli\n pushf\n pop %bx\n sti\n int $0x21\n pushf\n pop %dx");
BARE_CODE_BITS(16, vme_handler, "pushf\n pop %cx\n iret");
static void test_vme_program(void **state) /* a DOS program's view: its flag and its INT 21h, and no word of it to the monitor */
{
    struct bare *b = *state;
    bare_put(b, V86_CODE, vme_flags, vme_flags_end);
    bare_put(b, 0x3f000, vme_handler, vme_handler_end);
    struct x86_state s = v86_state(b, 0, true, X86_IF);
    dp_st16(b->mem + 0x21 * 4, 0), dp_st16(b->mem + 0x21 * 4 + 2, 0x3f00);
    const struct x86_state *out = bare_run(b, &s);
    const uint8_t *frame = b->mem + out->r[X86_RSP];
    assert_int_equal(bare_stub_vector(out), X86_GP); /* its HLT */
    assert_int_equal(dp_ld32(frame + 4), vme_flags_end - vme_flags - 1);
    assert_int_equal(dp_ld32(frame + 12) & (X86_IF | X86_VIF | X86_IOPL), X86_IF | X86_VIF);
    assert_int_equal(out->r[X86_RAX] & (X86_IF | X86_IOPL), X86_IF | X86_IOPL);
    assert_int_equal(out->r[X86_RBX] & (X86_IF | X86_IOPL), X86_IOPL);
    assert_int_equal(out->r[X86_RCX] & (X86_IF | X86_IOPL), X86_IOPL); /* in the handler */
    assert_int_equal(out->r[X86_RDX] & (X86_IF | X86_IOPL), X86_IF | X86_IOPL);
    bare_tables(b);
}
/* CPL 3 with CR4.PVI: CLI and STI have the virtual flag, POPF has not (SDM vol. 3 21.4). */
static void test_pvi(void **state)
{
    struct bare *b = *state;
    static const struct { const char *code; unsigned length, eip; uint32_t before, after; bool pvi; } t[] = {
        { "\xfb\xf4", 2, 1, X86_IF, X86_IF | X86_VIF, true },
        { "\xfa\xf4", 2, 1, X86_IF | X86_VIF, X86_IF, true },
        { "\xfb\xf4", 2, 0, X86_VIP, 0, true },
        { "\xfb\xf4", 2, 0, 0, 0, false },
        { "\xfa\xf4", 2, 0, X86_IF, X86_IF, false },
        { "\x6a\x00\x9d\xf4", 4, 3, X86_IF | X86_VIF, X86_IF | X86_VIF, true },
    };
    dp_st16(b->mem + BARE_TSS + 8, BARE_DS);
    for (unsigned i = 0; i < DP_ARRAY_LEN(t); i++) {
        bare_put(b, BARE_CODE, (const uint8_t *)t[i].code, (const uint8_t *)t[i].code + t[i].length);
        struct x86_state s = bare_protected(b, BARE_CODE);
        bare_user(&s);
        s.seg[X86_CS] = bare_seg(0x1b, 0xc0fb);
        s.cr4 |= t[i].pvi ? X86_CR4_PVI : 0;
        s.rflags = 2 | t[i].before;
        const struct x86_state *out = bare_run(b, &s);
        const uint8_t *frame = b->mem + out->r[X86_RSP];
        assert_int_equal(bare_stub_vector(out), X86_GP);
        assert_int_equal(dp_ld32(frame + 4), BARE_CODE + t[i].eip);
        assert_int_equal(dp_ld32(frame + 12) & (X86_IF | X86_VIF), t[i].after);
    }
}

/* ---- x87 exceptions the PC's way (SDM vol. 1 8.7.2; vol. 3 2.5 on CR0.NE) ---- */
static void raise_irq13(struct bare *b)
{
    b->arg[0]++;
    bare_irq(b, 0, 0x75);
}
BARE_CODE_BITS(16, ferr, "fninit\n push $0x37b\n mov %sp, %bp\n fldcw (%bp)\n fld1\n fldz\n fdivrp\n fnstsw %ax\n inc %cx\nferr_at: fld1\n inc %dx");
MARK(ferr, at);
static void test_ferr(void **state)
{
    struct bare *b = *state;
    b->on_ferr = raise_irq13;
    bare_put(b, 0x20000, ferr, ferr_end);
    struct x86_state s = bare_real(b, 0x2000, 0);
    s.r[X86_RCX] = s.r[X86_RDX] = 0;
    for (unsigned i = 0; i < 3; i++) {
        struct x86_state t = s;
        if (i == 1)
            t.rflags |= X86_IF;
        if (i == 2)
            t.cr0 |= X86_CR0_NE;
        b->arg[0] = 0;
        const struct x86_state *out = bare_run(b, &t);
        assert_int_equal(out->r[X86_RCX], 1);
        assert_true(out->r[X86_RAX] & 0x80); /* FNSTSW does not wait */
        if (i == 0) { /* no interrupt can come: it runs */
            assert_int_equal(out->r[X86_RDX], 1);
            assert_int_equal(out->r[X86_RIP], ferr_end - ferr);
            assert_int_equal(b->arg[0], 1);
            assert_int_equal(bare_ack(&b->cpu[0]), 0x75);
        } else { /* at the first instruction that waits */
            assert_int_equal(bare_stub_vector(out), i == 1 ? 0x75 : X86_MF);
            assert_int_equal(out->r[X86_RDX], 0);
            assert_int_equal(dp_ld16(b->mem + out->r[X86_RSP]), ferr_at - ferr);
            assert_int_equal(b->arg[0], i == 1);
        }
    }
}

/* The A20 gate: an odd megabyte is the even one below it while it is closed, for data, code and page tables, from the next instruction on. */
static void set_gate(struct bare *b, unsigned open) { dp_space_set_cpu_mask(b->memory, open ? UINT64_MAX : ~0x100000ull); }
BARE_CODE_BITS(16, a20, "mov $0xffff, %ax\n mov %ax, %es\n movw $0x1111, %es:0x510\n mov 0x500, %bx\n lcall $0xffff, $0x530\n mov %di, %dx\n"
    " xor %ax, %ax\n out %al, $0x83\n movw $0x2222, %es:0x510\n mov 0x500, %si\n lcall $0xffff, $0x530\n mov %es:0x510, %cx\n"
    " inc %ax\n out %al, $0x83\n mov %es:0x510, %bp\n lcall $0xffff, $0x530");
BARE_CODE_BITS(16, a20_low, "mov $0x10, %di\n lret");
BARE_CODE_BITS(16, a20_high, "mov $0x20, %di\n lret");
static void test_a20(void **state)
{
    struct bare *b = *state;
    b->on_hook = set_gate;
    bare_put(b, 0x20000, a20, a20_end);
    bare_put(b, 0x520, a20_low, a20_low_end);
    bare_put(b, 0x100520, a20_high, a20_high_end);
    dp_st16(b->mem + 0x500, 0x5aa5);
    struct x86_state s = bare_real(b, 0x2000, 0);
    const struct x86_state *out = bare_run(b, &s);
    assert_int_equal(out->r[X86_RIP], a20_end - a20);
    assert_int_equal((uint16_t)out->r[X86_RBX], 0x5aa5); /* open */
    assert_int_equal((uint16_t)out->r[X86_RDX], 0x20);
    assert_int_equal((uint16_t)out->r[X86_RSI], 0x2222); /* closed */
    assert_int_equal((uint16_t)out->r[X86_RCX], 0x2222);
    assert_int_equal((uint16_t)out->r[X86_RBP], 0x1111); /* open again */
    assert_int_equal((uint16_t)out->r[X86_RDI], 0x20);
    assert_int_equal(dp_ld16(b->mem + 0x500), 0x2222);
    assert_int_equal(dp_ld16(b->mem + 0x100500), 0x1111);
}
/* Tables and pages of the fifth megabyte are those of the fourth, by a large page, too; devices' accesses are not masked. */
BARE_ASM(a20_paged, "xor %eax, %eax\n out %al, $0x83\n mov $0x40000000, %ebx\n movl $0x77, (%rbx)\n mov 0x400008, %ecx\n mov 0x500008, %edx\n"
    " inc %eax\n out %al, $0x83\n mov 0x500008, %esi");
static void test_a20_paged(void **state)
{
    struct bare *b = *state;
    b->on_hook = set_gate;
    dp_st64(b->mem + BARE_ALIAS_PD, 0x500000 | 3); /* the table, closed: at 4 MiB */
    dp_st64(b->mem + 0x400000, 0x700000 | 3);
    dp_st64(b->mem + 0x500000, 0x900000 | 3);
    dp_st32(b->mem + 0x400008, 4);
    dp_st32(b->mem + 0x500008, 5);
    const struct x86_state *out = bare_do(b, a20_paged);
    bare_assert_done(b, a20_paged, 0);
    assert_int_equal(dp_ld32(b->mem + 0x600000), 0x77);
    assert_int_equal(dp_ld32(b->mem + 0x700000), 0);
    assert_int_equal(dp_ld64(b->mem + 0x400000) & 0x20, 0x20); /* accessed */
    assert_int_equal(dp_ld64(b->mem + 0x500000) & 0x20, 0);
    assert_int_equal(out->r[X86_RCX], 4);
    assert_int_equal(out->r[X86_RDX], 4);
    assert_int_equal(out->r[X86_RSI], 5);
}

int main(int argc, char **argv)
{
    system_arguments(argc, argv);
    const struct CMUnitTest tests[] = {
        T(test_real), T(test_real_limits), T(test_limit_change), T(test_protected), T(test_real_pusha), T(test_enter_small_stack),
        T(test_small_stack), T(test_limits), T(test_v86), T(test_vme_program), T(test_pvi),
        T(test_ferr), T(test_a20), T(test_a20_paged) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
