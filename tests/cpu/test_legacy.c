/* test_legacy.c - the modes before 64 bits: real mode, limits, 32-bit protected mode.
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

int main(int argc, char **argv)
{
    system_arguments(argc, argv);
    const struct CMUnitTest tests[] = {
        T(test_real), T(test_real_limits), T(test_limit_change), T(test_protected) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
