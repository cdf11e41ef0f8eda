/* test_smm.c - system management mode: entry from every mode and back, SMBASE, what is blocked, what RSM refuses.
 *
 * Model: the handler lies at 0x38000, as after a reset; the guest raises the SMI by a port, as firmware does by 0xb2.
 * Source: AMD64 APM vol. 2 10.2-10.3; Intel SDM vol. 3 33.
 */
#include "system.h"

enum { SMBASE = 0x30000, SAVE = SMBASE + X86_SMM_SAVE, SEEN = 0x2e000 };

static void raise_smi(struct bare *b, unsigned what) { b->engine->interrupt(b->cpu[0].cpu, DP_LINE_SMI, 1); }

/* What the handler finds, stored at SEEN with 32-bit addresses through its limits of 4 GiB. */
BARE_CODE_BITS(16, smm_look, "movl $0x2e000, %ebx\n movl %eax, (%ebx)\n mov %cs, %ax\n movw %ax, 4(%ebx)\n mov %ds, %ax\n movw %ax, 6(%ebx)\n"
    " mov %cr0, %eax\n movl %eax, 8(%ebx)\n mov %cr4, %eax\n movl %eax, 12(%ebx)\n movl %esp, 20(%ebx)\n mov $0xfff0, %sp\n pushfl\n"
    " popl 16(%ebx)\n incl 24(%ebx)\n rsm");
static void put_handler(struct bare *b, const uint8_t *begin, const uint8_t *end)
{
    bare_put(b, SMBASE + 0x8000, begin, end);
    memset(b->mem + SEEN, 0, 64);
    b->on_hook = raise_smi;
}
#define PUT_HANDLER(b, name) put_handler(b, name, name##_end)

/* From each mode: the state after is the state before, but for the OUT and what the code does. */
BARE_CODE_BITS(16, smm_real, "out %al, $0x83\n nop");
BARE_CODE_BITS(32, smm_32, "out %al, $0x83\n nop");
BARE_ASM(smm_64, "out %al, $0x83\n nop");
static void fill(struct x86_state *s, bool wide)
{
    static const uint8_t regs[] = { X86_RAX, X86_RCX, X86_RDX, X86_RBX, X86_RSI, X86_RDI, X86_R8, X86_R15 };
    for (unsigned i = 0; i < DP_ARRAY_LEN(regs); i++)
        s->r[regs[i]] = wide ? 0x1122334455667700 + i : regs[i] < X86_R8 ? 0x55667700 + i : 0;
    s->r[X86_RBP] = 0;
    s->rflags |= X86_CF | X86_ZF | X86_DF;
    s->fpu.fcw = 0x27f;
    s->cr2 = 0x1234;
}
static void test_modes(void **state)
{
    struct bare *b = *state;
    PUT_HANDLER(b, smm_look);
    bare_put(b, BARE_CODE, smm_real, smm_real_end);
    struct x86_state s[5] = { bare_real(b, BARE_CODE >> 4, 0), bare_protected(b, BARE_CODE), bare_protected(b, 0), bare_long(b, 0, BARE_CODE),
        bare_long(b, 0, BARE_CODE) };
    s[1].seg[X86_FS] = (struct x86_seg){ .attr = X86_ATTR_UNUSABLE };
    s[2].rflags |= X86_VM | X86_IOPL; /* virtual-8086 mode, whose HLT goes to the monitor */
    for (unsigned k = 0; k < X86_SEGS; k++)
        s[2].seg[k] = (struct x86_seg){ .sel = BARE_CODE >> 4, .attr = 0xf3, .limit = 0xffff, .base = BARE_CODE };
    s[2].tr = (struct x86_seg){ .sel = BARE_TR, .attr = 0x8b, .limit = 0x2088, .base = D };
    dp_st32(b->mem + D + 4, BARE_STACKS + 0x3000), dp_st16(b->mem + D + 8, BARE_DS), dp_st16(b->mem + D + 102, 0x88);
    s[4].efer &= ~(uint64_t)X86_EFER_SCE;
    s[4].seg[X86_CS] = bare_seg(BARE_CS32, 0xc09b); /* compatibility mode */
    for (unsigned i = 0; i < DP_ARRAY_LEN(s); i++) {
        fill(&s[i], i == 3);
        memset(b->mem + SEEN, 0, 64);
        struct x86_state want = s[i];
        const struct x86_state *out = bare_run(b, &s[i]);
        /* Entry. */
        assert_int_equal(dp_ld32(b->mem + SEEN + 24), 1);
        assert_int_equal(dp_ld32(b->mem + SEEN), (uint32_t)s[i].r[X86_RAX]); /* registers are as they were */
        assert_int_equal(dp_ld16(b->mem + SEEN + 4), SMBASE >> 4);
        assert_int_equal(dp_ld16(b->mem + SEEN + 6), 0);
        assert_int_equal(dp_ld32(b->mem + SEEN + 8), (uint32_t)s[i].cr0 & ~(X86_CR0_PE | X86_CR0_PG));
        assert_int_equal(dp_ld32(b->mem + SEEN + 12), 0);
        assert_int_equal(dp_ld32(b->mem + SEEN + 16), 2);
        assert_int_equal(dp_ld32(b->mem + SEEN + 20), (uint32_t)s[i].r[X86_RSP]);
        /* The save area. */
        assert_int_equal(dp_ld32(b->mem + SAVE + 0xfc), 0x00020064);
        assert_int_equal(dp_ld32(b->mem + SAVE + 0x100), SMBASE);
        assert_int_equal(dp_ld64(b->mem + SAVE + 0x178), s[i].r[X86_RIP] + 2); /* right after the OUT */
        assert_int_equal(dp_ld64(b->mem + SAVE + 0x1f8), s[i].r[X86_RAX]);
        assert_int_equal(dp_ld64(b->mem + SAVE + 0x150), s[i].cr3);
        assert_int_equal(dp_ld64(b->mem + SAVE + 0xd0), s[i].efer);
        /* After. */
        if (i == 2) {
            assert_int_equal(bare_stub_vector(out), X86_GP);
            assert_int_equal(dp_ld32(b->mem + out->r[X86_RSP] + 4), 3);
            assert_int_equal(dp_ld32(b->mem + out->r[X86_RSP] + 12) & X86_VM, X86_VM);
            continue;
        }
        want.r[X86_RIP] += 4;
        want.run_state = X86_HALTED;
        struct dp_buffer text = { 0 };
        int differ = dp_state_diff(&x86_state_table, out, &want, &text);
        if (differ)
            print_message("mode %u: %.*s\n", i, (int)text.size, (const char *)text.data);
        assert_int_equal(differ, 0);
        dp_buffer_fini(&text);
    }
}

/* The handler moves SMBASE; the second SMI comes there, and what it changes in the save area is what RSM gives. */
BARE_CODE_BITS(16, smm_move, "movl $0x3ff00, %ebx\n movl $0x50000, (%ebx)\n rsm");
BARE_CODE_BITS(16, smm_change, "movl $0x5fff8, %ebx\n movl $0x4321, (%ebx)\n mov %cs, %dx\n movl $0x2e000, %ebx\n mov %dx, (%ebx)\n rsm");
BARE_ASM(smm_twice, "out %al, $0x83\n out %al, $0x83\n nop");
static void test_smbase(void **state)
{
    struct bare *b = *state;
    PUT_HANDLER(b, smm_move);
    bare_put(b, 0x58000, smm_change, smm_change_end);
    const struct x86_state *out = bare_do(b, smm_twice);
    bare_assert_done(b, smm_twice, 0);
    assert_int_equal(out->smbase, 0x50000);
    assert_int_equal(dp_ld16(b->mem + SEEN), 0x5000);
    assert_int_equal(out->r[X86_RAX], 0x4321);
    assert_int_equal(out->smm, 0);
}

/* HLT, SMI: back to the halt, or past it if the handler says so (auto-halt restart). */
BARE_CODE_BITS(16, smm_only, "rsm");
BARE_CODE_BITS(16, smm_wake, "movl $0x3fec9, %ebx\n movb $0, (%ebx)\n rsm");
BARE_ASM(smm_halt, "hlt\n nop");
static void test_halt(void **state)
{
    struct bare *b = *state;
    PUT_HANDLER(b, smm_only);
    const struct x86_state *out = bare_do(b, smm_halt);
    assert_int_equal(out->r[X86_RIP], BARE_CODE + 1);
    raise_smi(b, 0);
    bare_run_cpu(&b->cpu[0]);
    assert_int_equal(b->mem[SAVE + 0xc9], 1);
    assert_int_equal(b->cpu[0].exit.kind, DP_EXIT_HALT);
    assert_int_equal(out->r[X86_RIP], BARE_CODE + 1);
    PUT_HANDLER(b, smm_wake);
    raise_smi(b, 0);
    bare_run_cpu(&b->cpu[0]);
    assert_int_equal(out->r[X86_RIP], BARE_CODE + (uint64_t)(smm_halt_end - smm_halt));
}

/* In the mode SMI, NMI and INTR wait: the SMI until RSM, then it comes first; the NMI right after. */
BARE_CODE_BITS(16, smm_block, "movl $0x2e000, %ebx\n incl 24(%ebx)\n cmpl $1, 24(%ebx)\n jne 1f\n out %al, $0x83\n out %al, $0x82\n nop\n"
    " movl 24(%ebx), %eax\n movl %eax, 28(%ebx)\n1: rsm");
static void test_blocked(void **state)
{
    struct bare *b = *state;
    PUT_HANDLER(b, smm_block);
    bare_do(b, smm_64);
    bare_assert_done(b, smm_64, 1);
    assert_int_equal(dp_ld32(b->mem + SEEN + 24), 2);
    assert_int_equal(dp_ld32(b->mem + SEEN + 28), 1); /* not within the first */
    assert_int_equal(b->trap[0].vector, X86_NMI);
    assert_int_equal(b->trap[0].rip, BARE_CODE + 2);
}
static void test_pending_saved(void **state) /* a pending SMI travels with the state */
{
    struct bare *b = *state;
    PUT_HANDLER(b, smm_look);
    bare_put(b, BARE_CODE, smm_64, smm_64_end);
    struct x86_state s = bare_long(b, 0, BARE_CODE + 2), again;
    s.smi_pending = true;
    b->engine->push(b->cpu[0].cpu, &s);
    b->engine->pull(b->cpu[0].cpu, &again);
    assert_true(again.smi_pending);
    bare_run(b, &again);
    assert_int_equal(dp_ld32(b->mem + SEEN + 24), 1);
    assert_int_equal(dp_ld64(b->mem + SAVE + 0x178), BARE_CODE + 2);
    assert_false(b->cpu[0].out.smi_pending);
}

/* The board shows other memory in the mode: handler and save area are there and nowhere else. */
static void show_smram(struct bare *b, bool on)
{
    struct dp_error e;
    uint32_t id;
    b->arg[0] += on;
    if (on) {
        assert_int_equal(dp_space_map_ram(b->memory, SMBASE, b->spare, 0, 0x10000, false, 1, &id, &e), 0);
        b->arg[1] = id;
    } else {
        dp_space_unmap(b->memory, (uint32_t)b->arg[1]);
    }
}
BARE_ASM(smm_ram, "mov 0x38000, %ebx\n out %al, $0x83\n mov 0x38000, %ecx\n mov 0x3fefc, %edx\n out %al, $0x83\n mov 0x38000, %esi");
static void test_smram(void **state)
{
    struct bare *b = *state;
    dp_st32(b->mem + 0x38000, 0x5aa5);
    memset(b->mem + SEEN, 0, 64);
    memcpy(b->spare->host + 0x8000, smm_look, (size_t)(smm_look_end - smm_look));
    b->on_hook = raise_smi;
    b->on_smm = show_smram;
    const struct x86_state *out = bare_do(b, smm_ram);
    bare_assert_done(b, smm_ram, 0);
    assert_int_equal(b->arg[0], 2);
    assert_int_equal(dp_ld32(b->mem + SEEN + 24), 2);
    assert_int_equal(out->r[X86_RBX], 0x5aa5);
    assert_int_equal(out->r[X86_RCX], 0x5aa5);
    assert_int_equal(out->r[X86_RSI], 0x5aa5);
    assert_int_equal(out->r[X86_RDX], 0);
    assert_int_equal(dp_ld32(b->spare->host + 0xfefc), 0x00020064);
}

BARE_ASM(smm_outside, "lea 1f(%rip), %r15\n rsm\n1: nop");
static void test_outside(void **state)
{
    struct bare *b = *state;
    bare_do(b, smm_outside);
    bare_assert_done(b, smm_outside, 1);
    assert_int_equal(b->trap[0].vector, X86_UD);
}
static void test_refused(void **state) /* RSM to a state that cannot be: shutdown */
{
    struct bare *b = *state;
    static const struct { unsigned at; uint64_t value; } bad[] = {
        { 0x158, X86_CR0_PG }, { 0x158, X86_CR0_PE | X86_CR0_NW }, { 0x158, 1ull << 32 | X86_CR0_PE }, { 0x148, X86_CR4_PAE | 1ull << 30 },
        { 0x148, 0 } /* long mode without PAE */, { 0xd0, X86_EFER_LME | 2 },
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++) {
        uint8_t code[32] = { 0x66, 0xbb, 0, 0, 0, 0, 0x67, 0x66, 0xc7, 0x03, 0, 0, 0, 0, 0x67, 0x66, 0xc7, 0x43, 4, 0, 0, 0, 0, 0x0f, 0xaa };
        dp_st32(code + 2, SAVE + bad[i].at); /* mov $at, %ebx; movl $low, (%ebx); movl $high, 4(%ebx); rsm */
        dp_st32(code + 10, (uint32_t)bad[i].value);
        dp_st32(code + 19, (uint32_t)(bad[i].value >> 32));
        put_handler(b, code, code + 25);
        bare_do(b, smm_64);
        assert_int_equal(b->cpu[0].exit.kind, DP_EXIT_SHUTDOWN);
    }
}

int main(int argc, char **argv)
{
    system_arguments(argc, argv);
    const struct CMUnitTest tests[] = {
        T(test_modes), T(test_smbase), T(test_halt), T(test_blocked), T(test_pending_saved), T(test_smram), T(test_outside), T(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
