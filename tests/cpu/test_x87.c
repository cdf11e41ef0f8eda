/* test_x87.c - the x87 unit's state on its way between an engine's parts: translated code, interpreted instructions, faults, traps, processors.
 *
 * Model: bare-metal programs (bare.h). What single instructions do is cpu-diff's matter; here are loops that become translated, with other instructions,
 * exceptions, saved images and interruptions in between. Run with "translate-hot" besides, so that the first time counts, too.
 */
#include "bare.h"
#include "isa/x86/x86.h"

#define D BARE_DATA
#define AT(name, mark) (BARE_CODE + (uint64_t)(name##_##mark - name))
#define MARK(name, mark) extern const uint8_t name##_##mark[]
#define NE " mov %cr0, %rax\n or $0x20, %al\n mov %rax, %cr0\n"

static double ld_double(const struct bare *b, unsigned at)
{
    double v;
    memcpy(&v, b->mem + D + at, 8);
    return v;
}

/* ---- between translated code and the interpreter ---- */

/* Values stay on the stack, at several TOPs, over instructions that are not translated (port, CPUID, FNSTENV which masks all, FXSAVE). */
BARE_ASM(switches, " fninit\n fldz\n fldz\n mov $3000, %r12d\n1: fld1\n faddp %st, %st(1)\n push %rbx\n xor %eax, %eax\n cpuid\n pop %rbx\n"
    " fxch %st(1)\n fld1\n fadd %st(0), %st\n faddp\n fnstenv 0x100(%rdi)\n fldenv 0x100(%rdi)\n fxch %st(1)\n fdecstp\n mov $1, %al\n out %al, $0x83\n"
    " fincstp\n fld %st(0)\n fxsave64 0x200(%rdi)\n fstp %st(0)\n dec %r12d\n jnz 1b\n fstpl (%rdi)\n fstpl 8(%rdi)\n fnstsw %ax\n mov %eax, 16(%rdi)");
static void hook_nothing(struct bare *b, unsigned what) { (void)b, (void)what; }
static void test_switches(void **state)
{
    struct bare *b = *state;
    b->on_hook = hook_nothing;
    bare_do(b, switches);
    bare_assert_done(b, switches, 0);
    assert_true(ld_double(b, 0) == 3000 && ld_double(b, 8) == 6000);
    assert_int_equal(dp_ld16(b->mem + D + 16) & 0x3841, 0); /* TOP 0, no stack fault */
    assert_int_equal(b->cpu[0].out.fpu.ftw, 0);
    assert_int_equal(b->mem[D + 0x204], 0xe0); /* three in use */
}

/* Control word: rounding and precision of one part hold in the other. */
BARE_ASM(rounding, " fninit\n movw $0xf7f, (%rdi)\n movw $0x37f, 2(%rdi)\n movl $0x40200000, 4(%rdi)\n xor %r9d, %r9d\n mov $2000, %r12d\n"
    "1: fldcw (%rdi)\n mov $1, %al\n out %al, $0x83\n flds 4(%rdi)\n fistpl 8(%rdi)\n add 8(%rdi), %r9d\n fldcw 2(%rdi)\n fnstcw 12(%rdi)\n"
    " out %al, $0x83\n flds 4(%rdi)\n fchs\n frndint\n fistpl 8(%rdi)\n add 8(%rdi), %r9d\n dec %r12d\n jnz 1b\n fldcw (%rdi)\n fnstcw 14(%rdi)");
static void test_rounding(void **state) /* 2.5 chopped is 2, -2.5 to even is -2 */
{
    struct bare *b = *state;
    b->on_hook = hook_nothing;
    bare_do(b, rounding);
    bare_assert_done(b, rounding, 0);
    assert_int_equal(b->cpu[0].out.r[X86_R9], 0);
    assert_int_equal(dp_ld16(b->mem + D + 12), 0x37f);
    assert_int_equal(dp_ld16(b->mem + D + 14), 0xf7f);
    assert_int_equal(b->cpu[0].out.fpu.fcw, 0xf7f);
}

/* MMX is the same registers. */
BARE_ASM(mmx, " fninit\n mov $0x1122334500000001, %rax\n mov $20, %r12d\n1: fld1\n movq %rax, %mm3\n paddd %mm3, %mm3\n movq2dq %mm3, %xmm1\n"
    " mov $1, %al\n out %al, $0x83\n movq %mm3, (%rdi)\n mov (%rdi), %rax\n movq %xmm1, 8(%rdi)\n fnstenv 0x20(%rdi)\n emms\n fnstenv 0x40(%rdi)\n dec %r12d\n"
    " jnz 1b\n movq %rax, %mm3\n fxsave64 0x200(%rdi)\n emms");
static void test_mmx(void **state)
{
    struct bare *b = *state;
    uint32_t high = 0x11223345;
    b->on_hook = hook_nothing;
    bare_do(b, mmx);
    bare_assert_done(b, mmx, 0);
    for (unsigned i = 0; i < 20; i++)
        high *= 2;
    assert_int_equal(dp_ld32(b->mem + D + 4), high);
    assert_int_equal(dp_ld64(b->mem + D), dp_ld64(b->mem + D + 8));
    assert_int_equal(dp_ld16(b->mem + D + 0x24) & 0x3800, 0);
    assert_int_equal(dp_ld16(b->mem + D + 0x48), 0xffff);             /* EMMS: all empty */
    assert_int_equal(b->mem[D + 0x204], 0xff);                        /* and MOVQ: none */
    assert_int_equal(dp_ld16(b->mem + D + 0x220 + 3 * 16 + 8), 0xffff);
    assert_int_equal(dp_ld64(b->mem + D + 0x220 + 3 * 16), dp_ld64(b->mem + D));
}

/* ---- pointers ---- */
BARE_ASM(pointers, NE " fninit\n movl $0x40000000, 0x40(%rdi)\n mov $100, %r12d\n1: fld1\n test %r12d, %r12d\npointers_last: fmuls 0x40(%rdi)\n fstp %st(0)\n"
    "pointers_store: .byte 0x48; fstpl 0x48(%rdi)\n fnstenv 0x200(%rdi)\n fnclex\n dec %r12d\n jnz 1b\n fninit\n fnstenv 0x400(%rdi)");
MARK(pointers, store);
enum { ENV_FIP = 12, ENV_FOP = 18, ENV_FDP = 20, ENV_FDS = 24 };
static void test_pointers(void **state) /* what FNSTENV says after translated code is the guest's, and nothing after FNINIT */
{
    struct bare *b = *state;
    bare_do(b, pointers);
    bare_assert_done(b, pointers, 0);
    const uint8_t *env = b->mem + D + 0x200, *initial = b->mem + D + 0x400;
    assert_int_equal(dp_ld32(env + ENV_FIP), AT(pointers, store));
    assert_int_equal(dp_ld32(env + ENV_FDP), D + 0x48);
    assert_int_equal(dp_ld16(env + ENV_FOP), 0x55f); /* DD 5F */
    assert_int_equal(dp_ld16(env + ENV_FDS), BARE_DS);
    assert_int_equal(dp_ld32(initial + ENV_FIP) | dp_ld32(initial + ENV_FDP), 0);
}

/* The last instruction's page is not the page whose code leaves; loads by GS, R13 and RIP. */
BARE_ASM(far_pointers, " jmp 2f\n .org far_pointers + 0x1000\n1: fwait\n fnstsw 0x10(%rdi)\n fnstenv 0x200(%rdi)\n ret\n .org far_pointers + 0x2000\n"
    "2: fninit\n mov %rdi, %r13\n mov $100, %r12d\n3: fld1\nfar_pointers_last: fadds 0x40(%r13,%r12,4)\n fwait\n call 1b\n fstp %st(0)\n dec %r12d\n jnz 3b\n"
    " fnstenv 0x400(%rdi)\n fld1\n fmuls 1b(%rip)\n fnstenv 0x600(%rdi)\n fninit");
MARK(far_pointers, last);
static void test_far_pointers(void **state)
{
    struct bare *b = *state;
    bare_do(b, far_pointers);
    bare_assert_done(b, far_pointers, 0);
    const uint8_t *env = b->mem + D + 0x200;
    assert_int_equal(dp_ld32(env + ENV_FIP), AT(far_pointers, last));
    assert_int_equal(dp_ld32(env + ENV_FDP), D + 0x44);
    assert_int_equal(dp_ld32(env + 0x200 + ENV_FDP), D + 0x44);
    assert_int_equal(dp_ld32(env + 0x400 + ENV_FDP), BARE_CODE + 0x1000);
}

/* ---- exceptions ---- */

/* ZE unmasked: the division completes its exception at the next waiting instruction. */
BARE_ASM(unmasked, NE " fninit\n movw $0x37b, (%rdi)\n movq $0, 8(%rdi)\n mov $50, %r12d\n4: fldcw (%rdi)\n lea 1f(%rip), %r15\n fld1\nunmasked_div: fdivl 8(%rdi)\n"
    " stc\n fnstsw 0x10(%rdi)\n mov $7, %ecx\nunmasked_next: fstl 0x18(%rdi)\n ud2\n1: fxsave64 0x200(%rdi)\n fnstenv 0x40(%rdi)\n fnclex\n fstp %st(0)\n"
    " dec %r12d\n jnz 4b\n fnstenv 0x80(%rdi)\n fninit");
MARK(unmasked, div);
MARK(unmasked, next);
static void test_unmasked(void **state)
{
    struct bare *b = *state;
    bare_do(b, unmasked);
    bare_assert_done(b, unmasked, 50);
    for (unsigned i = 0; i < 50; i++) {
        assert_int_equal(b->trap[i].vector, X86_MF);
        assert_int_equal(b->trap[i].rip, AT(unmasked, next));
        assert_true(b->trap[i].rflags & X86_CF);
        assert_int_equal(b->trap[i].rcx, 7);
    }
    assert_int_equal(dp_ld16(b->mem + D + 0x10) & 0xb8ff, 0xb884); /* B, TOP 7, ES, ZE */
    assert_int_equal(dp_ld16(b->mem + D + 0x44) & 0xff, 0x84);
    assert_int_equal(dp_ld64(b->mem + D + 0x208), AT(unmasked, div));
    assert_int_equal(dp_ld64(b->mem + D + 0x210), D + 8);
    assert_int_equal(dp_ld16(b->mem + D + 0x206), 0x477); /* DC 77 */
    assert_int_equal(dp_ld64(b->mem + D + 0x18), 0);
    assert_int_equal(dp_ld64(b->mem + D + 0x220), 0x8000000000000000ull); /* ST(0) stays 1 */
    assert_int_equal(dp_ld16(b->mem + D + 0x84) & 0xff, 0);
}

/* FWAIT and an MMX instruction wait, too; FNSTSW AX does not. */
BARE_ASM(waits, NE " fninit\n movw $0x37e, (%rdi)\n mov $20, %r12d\n4: fninit\n fldcw (%rdi)\n lea 1f(%rip), %r15\n fchs\n fnstsw %ax\n mov %ax, 4(%rdi)\n"
    "waits_wait: fwait\n ud2\n1: lea 2f(%rip), %r15\nwaits_mmx: movd %eax, %mm0\n ud2\n2: lea 3f(%rip), %r15\nwaits_comi: fcomi %st(1), %st\n ud2\n"
    "3: fnclex\n dec %r12d\n jnz 4b\n fninit");
MARK(waits, wait);
MARK(waits, mmx);
MARK(waits, comi);
static void test_waits(void **state)
{
    struct bare *b = *state;
    bare_do(b, waits);
    bare_assert_done(b, waits, 60);
    for (unsigned i = 0; i < 60; i++) {
        assert_int_equal(b->trap[i].vector, X86_MF);
        assert_int_equal(b->trap[i].rip, i % 3 == 0 ? AT(waits, wait) : i % 3 == 1 ? AT(waits, mmx) : AT(waits, comi));
    }
    assert_int_equal(dp_ld16(b->mem + D + 4) & 0xc1, 0xc1);
}

/* CR0.TS and EM, after the same code ran as translated. */
BARE_ASM(lazy, " fninit\n fld1\n mov $300, %r12d\n6: call 5f\n dec %r12d\n jnz 6b\n mov %cr0, %rbx\n mov %rbx, %rax\n or $8, %al\n mov %rax, %cr0\n"
    " lea 1f(%rip), %r15\n jmp 5f\n1: lea 2f(%rip), %r15\n fwait\n ud2\n2: lea 3f(%rip), %r15\n movq %mm0, %mm1\n ud2\n3: mov %rbx, %rax\n or $4, %al\n"
    " mov %rax, %cr0\n lea 4f(%rip), %r15\n movq %mm0, %mm1\n ud2\n4: lea 7f(%rip), %r15\n jmp 5f\n7: mov %rbx, %cr0\n call 5f\n fstpl (%rdi)\n hlt\n"
    "5: fld1\n faddp\n ret");
static void test_lazy(void **state)
{
    struct bare *b = *state;
    const uint64_t want[] = {X86_NM, X86_NM, X86_NM, X86_UD, X86_NM};
    bare_do(b, lazy);
    assert_int_equal(b->cpu[0].exit.kind, DP_EXIT_HALT);
    assert_int_equal(b->traps, 5);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(b->trap[i].vector, want[i]);
    assert_true(ld_double(b, 0) == 302);
}

/* A page fault in an instruction that pops: nothing has happened. Ten bytes across pages; the second not there, then there. */
BARE_ASM(crossing, " fninit\n mov $0x40000ffa, %rbx\n fldz\n mov $100, %r12d\n1: fld1\n faddp\n fstpt 0x40(%rdi)\n fldt 0x40(%rdi)\n dec %r12d\n jnz 1b\n"
    " lea 2f(%rip), %r15\n fld1\n fldpi\ncrossing_fault: fstpt (%rbx)\n ud2\n2: fstpt 0x60(%rdi)\n lea 3f(%rip), %r15\n fldt (%rbx)\n ud2\n"
    "3: fstp %st(0)\n fstpl (%rdi)");
MARK(crossing, fault);
static void test_crossing(void **state)
{
    struct bare *b = *state;
    bare_map(b, BARE_ALIAS, D + 0x2000, 3);
    bare_map(b, BARE_ALIAS + 0x1000, 0, 0);
    bare_do(b, crossing);
    bare_assert_done(b, crossing, 2);
    assert_int_equal(b->trap[0].vector, X86_PF_);
    assert_int_equal(b->trap[0].rip, AT(crossing, fault));
    assert_int_equal(b->trap[0].cr2, BARE_ALIAS + 0x1000);
    assert_true(ld_double(b, 0) == 100);
    assert_int_equal(dp_ld64(b->mem + D + 0x60), 0xc90fdaa22168c235ull);
    assert_int_equal(b->cpu[0].out.fpu.ftw, 0);
}

/* ---- processors, kicks ---- */
BARE_ASM(counting, " fninit\n fldz\n mov $20000, %r12d\n1: fld1\n faddp\n test $63, %r12d\n jnz 2f\n out %al, $0x83\n2: dec %r12d\n jnz 1b\n fstpl (%rdi)");
static void test_two(void **state) /* in turns, in one thread */
{
    struct bare *b = *state;
    b->on_hook = hook_nothing;
    bare_put(b, BARE_CODE, counting, counting_end);
    for (unsigned i = 0; i < 2; i++) {
        struct x86_state s = bare_long(b, i, BARE_CODE);
        s.r[X86_RDI] += i * 64;
        b->engine->push(b->cpu[i].cpu, &s);
    }
    for (unsigned done = 0; done != 3;)
        for (unsigned i = 0; i < 2; i++) {
            struct bare_cpu *p = &b->cpu[i];
            if (done >> i & 1)
                continue;
            bare_running = p;
            bare_give_signals(b);
            memset(&p->exit, 0, sizeof p->exit);
            b->engine->run(p->cpu, 50, &p->exit);
            done |= (p->exit.kind == DP_EXIT_HALT) << i;
            assert_true(p->exit.kind == DP_EXIT_HALT || p->exit.kind == DP_EXIT_BUDGET);
        }
    assert_true(ld_double(b, 0) == 20000 && ld_double(b, 64) == 20000);
}

BARE_ASM(long_run, " fninit\n fldz\n mov $4000000, %r12d\n1: flds 0x40(%rdi)\n faddp\n fstpl 8(%rdi)\n fldl 8(%rdi)\n movd %r12d, %xmm0\n dec %r12d\n jnz 1b\n fstpl (%rdi)");
static void *kicker(void *opaque)
{
    struct bare *b = opaque;
    while (!atomic_load(&b->cpu[1].irr[0])) { /* the test's flag */
        b->engine->kick(b->cpu[0].cpu);
        for (unsigned i = 0; i < 2000; i++)
            __asm__ volatile("pause");
    }
    return NULL;
}
static void test_kicks(void **state) /* an instruction that ran twice, or not, shows in the sum or in TOP */
{
    struct bare *b = *state;
    float one = 1;
    pthread_t t;
    if (b->steps)
        return;
    memcpy(b->mem + D + 0x40, &one, 4);
    atomic_store(&b->cpu[1].irr[0], 0);
    pthread_create(&t, NULL, kicker, b);
    bare_do(b, long_run);
    atomic_store(&b->cpu[1].irr[0], 1);
    pthread_join(t, NULL);
    assert_int_equal(b->traps, 0);
    assert_true(ld_double(b, 0) == 4000000);
    assert_int_equal(b->cpu[0].out.fpu.fsw & 0x3841, 0);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        bare_engine = argv[1];
    if (argc > 2)
        bare_mode = argv[2];
    if (argc > 3)
        cmocka_set_test_filter(argv[3]);
#define T(f) cmocka_unit_test_setup_teardown(f, bare_setup, bare_teardown)
    const struct CMUnitTest tests[] = {
        T(test_switches), T(test_rounding), T(test_mmx), T(test_pointers), T(test_far_pointers), T(test_unmasked), T(test_waits), T(test_lazy),
        T(test_crossing), T(test_two), T(test_kicks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
