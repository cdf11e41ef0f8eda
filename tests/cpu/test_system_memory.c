/* test_system_memory.c - privileged semantics of an engine: translations, page borders, code and memory maps that change.
 *
 * Each test runs bare-metal code on the bench of bare.h and looks at traps, memory and the state after.
 * Source: Intel SDM vol. 3, sections named at the tests.
 */
#include "system.h"

/* ---- translations (SDM vol. 3 4.6-4.10) ---- */
static void user_page(struct bare *b) { bare_map(b, BARE_ALIAS, D, 7); }
BARE_ASM(invlpg, "mov $0x40000000, %ebx\n mov (%rbx), %eax\n mov %rdx, (%rsi)\n invlpg (%rbx)\n mov (%rbx), %ecx");
static void test_invlpg(void **state)
{
    struct bare *b = *state;
    bare_map(b, BARE_ALIAS, D, 3);
    dp_st32(b->mem + D, 11);
    dp_st32(b->mem + D + 0x1000, 22);
    bare_put(b, BARE_CODE, invlpg, invlpg_end);
    struct x86_state s = bare_long(b, 0, BARE_CODE);
    s.r[X86_RSI] = BARE_ALIAS_PT;
    s.r[X86_RDX] = (D + 0x1000) | 3;
    bare_run(b, &s);
    bare_assert_done(b, invlpg, 0);
    assert_int_equal(b->cpu[0].out.r[X86_RAX], 11);
    assert_int_equal(b->cpu[0].out.r[X86_RCX], 22);
    assert_int_equal(*bare_pte(b, BARE_ALIAS) & 0x60, 0x20);
}
/* INVLPG of one address of a large page flushes all of it. */
BARE_ASM(invlpg_large, "mov 0x200000, %eax\n mov 0x3ff000, %edx\n movq $0x800083, 0x3008\n invlpg 0x234567\n mov 0x200000, %ebx\n"
    " mov 0x3ff000, %ecx\n movq $0x200083, 0x3008\n invlpg 0x200000");
static void test_invlpg_large(void **state)
{
    struct bare *b = *state;
    dp_st32(b->mem + 0x200000, 1), dp_st32(b->mem + 0x3ff000, 2);
    dp_st32(b->mem + 0x800000, 3), dp_st32(b->mem + 0x9ff000, 4);
    const struct x86_state *s = bare_do(b, invlpg_large);
    bare_assert_done(b, invlpg_large, 0);
    assert_int_equal(s->r[X86_RAX], 1);
    assert_int_equal(s->r[X86_RDX], 2);
    assert_int_equal(s->r[X86_RBX], 3);
    assert_int_equal(s->r[X86_RCX], 4);
}
BARE_ASM(cr3_load, "mov $0x40000000, %ebx\n mov (%rbx), %eax\n movq $0x21003, 0xc000\n mov %cr3, %rdx\n mov %rdx, %cr3\n mov (%rbx), %ecx");
static void test_cr3(void **state)
{
    struct bare *b = *state;
    bare_map(b, BARE_ALIAS, D, 0x103); /* global too, while CR4.PGE is clear */
    dp_st32(b->mem + D, 11), dp_st32(b->mem + D + 0x1000, 22);
    const struct x86_state *s = bare_do(b, cr3_load);
    bare_assert_done(b, cr3_load, 0);
    assert_int_equal(s->r[X86_RAX], 11);
    assert_int_equal(s->r[X86_RCX], 22);
}
/* Accessed and dirty bits: a read sets A, the first write D even if the page is in the TLB. */
BARE_ASM(ad_bits, "mov $0x40000000, %ebx\n mov 0xc000, %r9\n mov (%rbx), %eax\n mov 0xc000, %r10\n mov %eax, (%rbx)\n mov 0xc000, %r11\n"
    " andq $~0x60, 0xc000\n invlpg (%rbx)\n mov %eax, 8(%rbx)\n mov 0xc000, %r12");
static void test_ad(void **state)
{
    struct bare *b = *state;
    bare_map(b, BARE_ALIAS, D, 3);
    const struct x86_state *s = bare_do(b, ad_bits);
    bare_assert_done(b, ad_bits, 0);
    assert_int_equal(s->r[X86_R9], D | 3);
    assert_int_equal(s->r[X86_R10], D | 0x23);
    assert_int_equal(s->r[X86_R11], D | 0x63);
    assert_int_equal(s->r[X86_R12], D | 0x63);
}
/* Write protection of the supervisor follows CR0.WP at once. */
BARE_ASM(wp, "mov $0x40000000, %ebx\n mov %cr0, %rdx\n and $~0x10000, %edx\n mov %rdx, %cr0\n movl $5, (%rbx)\n or $0x10000, %edx\n"
    " mov %rdx, %cr0\n lea 1f(%rip), %r15\n movl $6, (%rbx)\n ud2\n1: mov (%rbx), %ecx");
static void test_wp(void **state)
{
    struct bare *b = *state;
    bare_map(b, BARE_ALIAS, D, 1);
    const struct x86_state *s = bare_do(b, wp);
    bare_assert_done(b, wp, 1);
    assert_int_equal(b->trap[0].vector, X86_PF_);
    assert_int_equal(b->trap[0].error, 3);
    assert_int_equal(b->trap[0].cr2, BARE_ALIAS);
    assert_int_equal(s->r[X86_RCX], 5);
}
/* A fault flushes its address's translation: with the entry put right (no INVLPG) the access goes through; with one taken away after a
 * write fault the read faults too (4.10.4.1). */
BARE_ASM(spurious, "mov $0x40000000, %ebx\n mov (%rbx), %eax\n lea 1f(%rip), %r15\n movl $6, (%rbx)\n1: movq $0, 0xc000\n"
    " lea 3f(%rip), %r15\n movl $7, (%rbx)\n3: lea 4f(%rip), %r15\n mov (%rbx), %ecx\n ud2\n4: "
                   "movq $0x20003, 0xc000\n movl $8, (%rbx)");
static void test_spurious(void **state)
{
    struct bare *b = *state;
    bare_map(b, BARE_ALIAS, D, 1);
    bare_do(b, spurious);
    bare_assert_done(b, spurious, 3);
    const uint64_t error[] = { 3, 2, 0 };
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(b->trap[i].vector, X86_PF_);
        assert_int_equal(b->trap[i].error, error[i]);
    }
    assert_int_equal(bare_ld(b, D) & 0xff, 8);
}
BARE_ASM(smap, "mov $0x40000000, %ebx\n stac\n mov (%rbx), %eax\n mov %eax, (%rbx)\n clac\n lea 1f(%rip), %r15\n mov (%rbx), %eax\n ud2\n"
    "1: lea 2f(%rip), %r15\n mov %eax, (%rbx)\n ud2\n2: pushf\n orl $0x40000, (%rsp)\n popf\n"
               " mov (%rbx), %eax\n clac\n lea 3f(%rip), %r15\n incl (%rbx)\n ud2\n3: lea 4f(%rip), %r15\n movups (%rbx), %xmm0\n ud2\n"
                   "4: nop\n stac\n mov $0x10, %dx\n mov %rbx, %rdi\n insb\n mov %rbx, %rsi\n"
               " mov $0x8f, %dx\n outsb\n fxsave (%rbx)\n fxrstor (%rbx)\n enter $8, $0\n leave\n mov %rsp, %rcx\n"
                   " lea 0x800(%rbx), %rsp\n push %rax\n enter $8, $1\n leave\n pop %rax\n pushf\n popf\n mov %rcx, %rsp\n clac");
static void test_smap(void **state)
{
    struct bare *b = *state;
    user_page(b);
    bare_put(b, BARE_CODE, smap, smap_end);
    struct x86_state s = bare_long(b, 0, BARE_CODE);
    s.cr4 |= X86_CR4_SMAP;
    bare_run(b, &s);
    bare_assert_done(b, smap, 4);
    const uint64_t error[] = { 1, 3, 3, 1 };
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(b->trap[i].vector, X86_PF_);
        assert_int_equal(b->trap[i].error, error[i]);
    }
}
/* Implicit accesses do not profit from AC: a GDT on a user page. */
BARE_ASM(smap_implicit, "mov $0x40000000, %ebx\n stac\n mov (%rbx), %eax\n lea 1f(%rip), %r15\n mov $0x10, %eax\n mov %eax, %es\n ud2\n"
    "1: clac");
static void test_smap_implicit(void **state)
{
    struct bare *b = *state;
    bare_map(b, BARE_ALIAS, BARE_GDT, 7);
    bare_put(b, BARE_CODE, smap_implicit, smap_implicit_end);
    struct x86_state s = bare_long(b, 0, BARE_CODE);
    s.cr4 |= X86_CR4_SMAP;
    s.gdtr.base = BARE_ALIAS;
    /* Delivery reads the handler's CS through the same GDT, so this ends in a shutdown. */
    bare_run(b, &s);
    assert_int_equal(b->cpu[0].exit.kind, DP_EXIT_SHUTDOWN);
    assert_non_null(strstr((char *)b->cpu[0].exit.text.data, "#PF(0x1)"));
}
BARE_ASM(smep, "lea 1f(%rip), %r15\n mov $0x40000000, %ebx\n jmp *%rbx\n1: nop");
static void test_smep(void **state)
{
    struct bare *b = *state;
    user_page(b);
    b->mem[D] = 0xf4;
    bare_put(b, BARE_CODE, smep, smep_end);
    struct x86_state s = bare_long(b, 0, BARE_CODE);
    s.cr4 |= X86_CR4_SMEP;
    bare_run(b, &s);
    bare_assert_done(b, smep, 1);
    assert_int_equal(b->trap[0].error, 0x11);
    assert_int_equal(b->trap[0].rip, BARE_ALIAS);
    s.cr4 &= ~(uint64_t)X86_CR4_SMEP;
    bare_run(b, &s);
    assert_int_equal(b->cpu[0].out.r[X86_RIP], BARE_ALIAS + 1);
    /* ... and switched on by MOV CR4 while the code is known. */
    bare_map(b, BARE_ALIAS, D, 0x8000000000000007ull);
    bare_run(b, &s);
    bare_assert_done(b, smep, 1);
    assert_int_equal(b->trap[0].error, 0x11);
}
/* The NX bit of a page whose code is in use, INVLPG; EFER.NXE cleared makes the bit reserved. */
BARE_ASM(nx, "mov $0x40000000, %ebx\n call *%rbx\n btsq $63, 0xc000\n invlpg (%rbx)\n lea 1f(%rip), %r15\n call *%rbx\n ud2\n"
    "1: mov (%rbx), %eax\n mov $0xc0000080, %ecx\n rdmsr\n btr $11, %eax\n wrmsr\n"
             " lea 2f(%rip), %r15\n mov (%rbx), %eax\n ud2\n2: nop");
static void test_nx(void **state)
{
    struct bare *b = *state;
    bare_map(b, BARE_ALIAS, D, 3);
    b->mem[D] = 0xc3;
    bare_do(b, nx);
    bare_assert_done(b, nx, 2);
    assert_int_equal(b->trap[0].error, 0x11);
    assert_int_equal(b->trap[0].rip, BARE_ALIAS);
    assert_int_equal(b->trap[1].error, 9);
}
BARE_ASM(user_rights, "mov 0x20000, %eax\n");
static void test_user_rights(void **state) /* the user may not read what the supervisor has in the TLB */
{
    struct bare *b = *state;
    b->on_trap = stop_at_80;
    static const uint8_t user[] = { 0x8b, 0x04, 0x25, 0, 0, 2, 0, 0xcd, 0x80 }; /* mov 0x20000, %eax; int $0x80 */
    bare_put(b, BARE_USER_CODE, user, user + sizeof user);
    struct x86_state s = bare_long(b, 0, BARE_USER_CODE);
    bare_user(&s);
    b->on_trap = NULL;
    bare_do(b, user_rights);
    bare_run(b, &s);
    assert_int_equal(b->traps, 1);
    assert_int_equal(b->trap[0].vector, X86_PF_);
    assert_int_equal(b->trap[0].error, 5);
    assert_int_equal(b->trap[0].cr2, D);
    assert_int_equal(b->trap[0].ss, BARE_USER_DS);
}
/* Alignment checks at CPL 3 with CR0.AM and AC; not for the supervisor's implicit accesses. */
BARE_ASM(align, "lea -0x100(%rsp), %rdi\n mov 1(%rdi), %al\n mov 2(%rdi), %ax\n mov 4(%rdi), %eax\n mov 8(%rdi), %rax\n"
    " lea 1f(%rip), %r15\n mov 1(%rdi), %ax\n ud2\n1: lea 2f(%rip), %r15\n mov %eax, 2(%rdi)\n ud2\n"
                "2: lea 3f(%rip), %r15\n incq 4(%rdi)\n ud2\n3: lea 4f(%rip), %r15\n lea -1(%rsp), %rsp\n push %rax\n ud2\n4: int $0x80\n");
static void test_align(void **state)
{
    struct bare *b = *state;
    bare_put(b, BARE_USER_CODE, align, align_end);
    struct x86_state s = bare_long(b, 0, BARE_USER_CODE);
    bare_user(&s);
    s.cr0 |= X86_CR0_AM;
    s.rflags |= X86_AC;
    bare_run(b, &s);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(b->trap[i].vector, X86_AC_);
        assert_int_equal(b->trap[i].error, 0);
    }
    assert_int_equal(b->trap[4].vector, 0x80);
}

/* ---- operands across pages are all or nothing ---- */
#define CROSS(name, setup, instruction) BARE_ASM(cross_##name, setup "\n lea 1f(%rip), %r15\n " instruction "\n ud2\n1: nop")
CROSS(mov, "mov $-1, %rax", "mov %rax, 0xffc(%rdi)");
CROSS(movups, "pcmpeqd %xmm0, %xmm0", "movups %xmm0, 0xff8(%rdi)");
CROSS(add, "mov $-1, %rax", "add %rax, 0xffc(%rdi)");
CROSS(xchg, "mov $-1, %rax", "xchg %rax, 0xffc(%rdi)");
CROSS(xadd, "mov $-1, %rax", "lock xadd %rax, 0xffc(%rdi)");
CROSS(cmpxchg, "mov $0x1111111111111111, %rax\n mov $-1, %rbx", "lock cmpxchg %rbx, 0xffc(%rdi)");
CROSS(cmpxchg8b, "mov $0x11111111, %eax\n mov %eax, %edx\n mov $-1, %ebx\n mov $-1, %ecx", "lock cmpxchg8b 0xffc(%rdi)");
CROSS(bts, "mov $0x7ff2, %ebx", "lock bts %rbx, 2(%rdi)");
CROSS(pop, "pushq $-1", "popq 0xffc(%rdi)");
CROSS(push, "mov %rsp, %r9\n mov $-1, %rax\n lea 0x1004(%rdi), %rsp", "push %rax");
CROSS(stos, "mov $-1, %rax\n add $0xffc, %rdi\n mov $2, %ecx", "rep stosq");
CROSS(fxsave, "", "fxsave 0xf10(%rdi)");
CROSS(fstp, "fninit\n fldz\n fld1", "fstpt 0xffb(%rdi)");
CROSS(enter, "mov $-1, %rbp\n lea 0x1004(%rdi), %rsp", "enter $0, $0");
CROSS(call, "lea 0x1004(%rdi), %rsp", "call 2f\n2:");
CROSS(fnsave, "", "fnsave 0xfc0(%rdi)");
CROSS(sgdt, "", "sgdt 0xffc(%rdi)");
CROSS(movbe, "mov $-1, %rax", "mov %ax, 0xfff(%rdi)");
#define CROSS_ROW(name) { #name, cross_##name, cross_##name##_end }
static const struct cross { const char *name; const uint8_t *begin, *end; } crossings[] = {
    CROSS_ROW(mov), CROSS_ROW(movups), CROSS_ROW(add), CROSS_ROW(xchg), CROSS_ROW(xadd), CROSS_ROW(cmpxchg), CROSS_ROW(cmpxchg8b),
        CROSS_ROW(bts), CROSS_ROW(pop), CROSS_ROW(push),
    CROSS_ROW(stos), CROSS_ROW(fxsave), CROSS_ROW(fstp), CROSS_ROW(enter), CROSS_ROW(call), CROSS_ROW(fnsave), CROSS_ROW(sgdt),
        CROSS_ROW(movbe) };
static void test_crossing(void **state)
{
    struct bare *b = *state;
    for (unsigned k = 0; k < DP_ARRAY_LEN(crossings) * 2; k++) {
        const struct cross *x = &crossings[k / 2];
        unsigned missing = k % 2; /* the second page, or the first one */
        bare_map(b, BARE_ALIAS, D, 3), bare_map(b, BARE_ALIAS + 0x1000, D + 0x3000, 3); /* not next to each other */
        *bare_pte(b, BARE_ALIAS + (missing ? 0 : 0x1000)) = 0;
        memset(b->mem + D, 0x11, 0x4000);
        bare_put(b, BARE_CODE, x->begin, x->end);
        struct x86_state s = bare_long(b, 0, BARE_CODE);
        s.r[X86_RDI] = BARE_ALIAS;
        /* A fault on this stack needs another one: IST1 for #PF. */
        b->mem[BARE_IDT + 14 * 16 + 4] = 1;
        bare_run(b, &s);
        b->mem[BARE_IDT + 14 * 16 + 4] = 0;
        if (b->traps != 1 || b->trap[0].vector != X86_PF_ || b->trap[0].error != 2)
            fail_msg("%s: %u traps, vector %u error %u", x->name, b->traps, (unsigned)b->trap[0].vector, (unsigned)b->trap[0].error);
        if (!strcmp(x->name, "fxsave") || !strcmp(x->name, "fnsave"))
            continue; /* the order of a long store's parts is the processor's own */
        for (unsigned i = 0; i < 0x4000; i++)
            if (b->mem[D + i] != 0x11)
                fail_msg("%s wrote byte 0x%x though %s page is missing", x->name, i, missing ? "the first" : "the second");
        if (!strcmp(x->name, "push") || !strcmp(x->name, "enter") || !strcmp(x->name, "call"))
            assert_int_equal(b->trap[0].rsp, BARE_ALIAS + 0x1004);
        if (!strcmp(x->name, "stos"))
            assert_int_equal(b->trap[0].rcx, 2);
    }
}
/* REP with a fault: registers hold the progress, and the instruction goes on where it stopped. */
BARE_ASM(rep_fault, "mov $0x40000000, %edi\n mov $0x22000, %esi\n mov $0x600, %ecx\n rep movsd\n mov $0x40000000, %edi\n"
    " mov $0x22000, %esi\n mov $0x600, %ecx\n repe cmpsl");
static void map_second(struct bare *b, struct bare_frame *f)
{
    if (f->vector == X86_PF_)
        bare_map(b, BARE_ALIAS + 0x1000, D + 0x1000, 3);
}
static void test_rep_fault(void **state)
{
    struct bare *b = *state;
    b->on_trap = map_second;
    bare_map(b, BARE_ALIAS, D, 3);
    for (unsigned i = 0; i < 0x1800; i++)
        b->mem[D + 0x2000 + i] = (uint8_t)(i * 7 + i / 256);
    const struct x86_state *s = bare_do(b, rep_fault);
    bare_assert_done(b, rep_fault, 1);
    assert_int_equal(b->trap[0].rcx, 0x200);
    assert_int_equal(b->trap[0].rdi, BARE_ALIAS + 0x1000);
    assert_int_equal(b->trap[0].rsi, D + 0x3000);
    assert_int_equal(b->trap[0].cr2, BARE_ALIAS + 0x1000);
    assert_true(s->rflags & X86_ZF);
    assert_memory_equal(b->mem + D, b->mem + D + 0x2000, 0x1800);
}

/* ---- code that changes (SDM vol. 3 9.1.3, 12.6) ---- */
/* Each writes $2 over the $1 of a later MOV in one way or another. */
#define SMC(name, how) BARE_ASM(smc_##name, "lea 9f+1(%rip), %rbx\n mov $2, %ecx\n" how "\n9: mov $1, %eax\n cmp $2, %eax\n")
SMC(mov, "mov %ecx, (%rbx)");
SMC(byte, "movb $2, (%rbx)");
SMC(inc, "incl (%rbx)");
SMC(lock, "lock incl (%rbx)");
SMC(xchg, "xchg %ecx, (%rbx)");
SMC(stos, "mov %rbx, %rdi\n mov %ecx, %eax\n stosb");
SMC(rep_stos, "mov %rbx, %rdi\n mov %ecx, %eax\n mov $1, %ecx\n rep stosb");
SMC(rep_movs, "movl $2, (%rdi)\n mov %rdi, %rsi\n mov %rbx, %rdi\n mov $4, %ecx\n rep movsb");
SMC(push, "mov %rsp, %rsi\n lea 8(%rbx), %rsp\n mov (%rbx), %rdx\n inc %rdx\n push %rdx\n mov %rsi, %rsp");
SMC(call, "jmp 2f\n1: pop %rdx\n inc %dl\n mov %dl, (%rbx)\n jmp 9f\n2: mov (%rbx), %dl\n push %rdx\n jmp 1b");
SMC(movups, "movups (%rbx), %xmm0\n movd %ecx, %xmm1\n movss %xmm1, %xmm0\n movups %xmm0, (%rbx)");
SMC(movntdq, "lea (%rbx), %rdx\n and $~15, %rdx\n movdqa (%rdx), %xmm0\n movdqa %xmm0, (%rdi)\n mov %rbx, %rsi\n sub %rdx, %rsi\n"
    " movb $2, (%rdi,%rsi)\n movdqa (%rdi), %xmm0\n movntdq %xmm0, (%rdx)");
SMC(fist, "fninit\n fld1\n fadd %st(0)\n fistpl (%rbx)");
SMC(alias, "mov $0x40000000, %edx\n mov %ebx, %esi\n and $0xfff, %esi\n mov %ecx, (%rdx,%rsi)");
SMC(cross, "mov $0x40000000, %edx\n mov %ebx, %esi\n and $0xfff, %esi\n mov $2, %eax\n mov %eax, (%rdx,%rsi)");
SMC(cmpxchg16b, "lea (%rbx), %rsi\n and $~15, %rsi\n mov (%rsi), %rax\n mov 8(%rsi), %rdx\n movdqa (%rsi), %xmm0\n movdqa %xmm0, (%rdi)\n"
    " mov %rbx, %r9\n sub %rsi, %r9\n movb $2, (%rdi,%r9)\n mov (%rdi), %rbx\n mov 8(%rdi), %rcx\n"
                " lock cmpxchg16b (%rsi)");
SMC(setcc, "movb $0, (%rbx)\n stc\n setc (%rbx)\n incb (%rbx)");
SMC(dma, "mov $1, %al\n out %al, $0x83");
SMC(mmio, "mov $0x40001000, %edx\n movl $1, (%rdx)");
#define SMC_ROW(name) { #name, smc_##name, smc_##name##_end }
static const struct cross smcs[] = { SMC_ROW(mov), SMC_ROW(byte), SMC_ROW(inc), SMC_ROW(lock), SMC_ROW(xchg), SMC_ROW(stos),
    SMC_ROW(rep_stos), SMC_ROW(rep_movs), SMC_ROW(push), SMC_ROW(call),
    SMC_ROW(movups), SMC_ROW(movntdq), SMC_ROW(fist), SMC_ROW(alias), SMC_ROW(cross), SMC_ROW(cmpxchg16b), SMC_ROW(setcc), SMC_ROW(dma),
        SMC_ROW(mmio) };
static void dma_code(struct bare *b) /* a device writes into the code: arg[0] is the address */
{
    uint8_t two = 2;
    dp_space_write(b->memory, b->arg[0], &two, 1);
}
static void dma_hook(struct bare *b, unsigned what) { dma_code(b); }
static void dma_mmio(struct bare *b, uint64_t offset, uint64_t value) { dma_code(b); }
static void test_smc(void **state)
{
    struct bare *b = *state;
    b->on_hook = dma_hook;
    b->on_mmio = dma_mmio;
    for (unsigned k = 0; k < DP_ARRAY_LEN(smcs) * 3; k++) {
        const struct cross *x = &smcs[k % DP_ARRAY_LEN(smcs)];
        unsigned length = (unsigned)(x->end - x->begin);
        /* At the start of a page; so that the immediate is the next page's first byte; so that it straddles the pages. */
        const uint64_t end = BARE_CODE + 0x1000, places[] = { BARE_CODE, end - (length - 8), end - (length - 7) };
        uint64_t at = places[k / DP_ARRAY_LEN(smcs)];
        bare_map(b, BARE_ALIAS, at + length - 8 < BARE_CODE + 0x1000 ? BARE_CODE : BARE_CODE + 0x1000, 3);
        bare_map(b, BARE_ALIAS + 0x1000, BARE_MMIO, 3);
        if (!strcmp(x->name, "cross") && k >= 2 * DP_ARRAY_LEN(smcs))
            continue;
        bare_put(b, at, x->begin, x->end);
        b->arg[0] = at + length - 8; /* MOV with imm32 has 5 bytes, CMP 3, HLT 1 */
        assert_int_equal(b->mem[b->arg[0]], 1);
        struct x86_state s = bare_long(b, 0, at);
        bare_run(b, &s);
        if (b->cpu[0].exit.kind != DP_EXIT_HALT || b->traps || b->cpu[0].out.r[X86_RAX] != 2)
            fail_msg("%s (%u): eax %u, %u traps (vector %u)", x->name, k, (unsigned)b->cpu[0].out.r[X86_RAX], b->traps,
                (unsigned)b->trap[0].vector);
    }
}
/* One physical page at two addresses: relative branches and RIP-relative operands follow the address the code runs at. */
BARE_ASM(alias_run, "mov $0x40000000, %ebx\n lea 2f(%rip), %rcx\n and $0xfff, %ecx\n mov $100, %esi\n1: lea (%rbx,%rcx), %rdx\n"
    " call *%rdx\n add %rax, %r9\n lea 2f(%rip), %rdx\n call *%rdx\n add %rax, %r10\n dec %esi\n jnz 1b\n hlt\n"
                    "2: jmp 3f\n nop\n3: lea 2b(%rip), %rax\n ret");
static void test_alias(void **state)
{
    struct bare *b = *state;
    bare_map(b, BARE_ALIAS, BARE_CODE, 3);
    const struct x86_state *s = bare_do(b, alias_run);
    assert_int_equal(s->r[X86_R9] - s->r[X86_R10], 100ull * (BARE_ALIAS - BARE_CODE));
}
/* An instruction whose second page is mapped elsewhere while its first one stays. */
BARE_ASM(second_page, "mov $0x40000ffe, %ebx\n call *%rbx\n mov %eax, %r9d\n movq $0x24003, 0xc008\n invlpg 0x40001000\n call *%rbx\n"
    " mov %eax, %r10d\n movq $0x23003, 0xc008\n mov %cr3, %rax\n mov %rax, %cr3\n call *%rbx");
static void test_second_page(void **state)
{
    struct bare *b = *state;
    bare_map(b, BARE_ALIAS, D, 3), bare_map(b, BARE_ALIAS + 0x1000, D + 0x3000, 3);
    static const uint8_t one[] = { 0, 0, 0, 0xc3 }, two[] = { 1, 0, 0, 0xc3 };
    b->mem[D + 0xffe] = 0xb8, b->mem[D + 0xfff] = 5;
    memcpy(b->mem + D + 0x3000, one, 4);
    memcpy(b->mem + D + 0x4000, two, 4);
    const struct x86_state *s = bare_do(b, second_page);
    bare_assert_done(b, second_page, 0);
    assert_int_equal(s->r[X86_R9], 5);
    assert_int_equal(s->r[X86_R10], 0x105);
    assert_int_equal(s->r[X86_RAX], 5);
}
/* Code moved under a linear address without any write to it. */
BARE_ASM(remap_code, "mov $0x40000000, %ebx\n mov $100, %esi\n1: call *%rbx\n add %eax, %r9d\n movq $0x21003, 0xc000\n invlpg (%rbx)\n"
    " call *%rbx\n add %eax, %r10d\n movq $0x20003, 0xc000\n invlpg (%rbx)\n dec %esi\n jnz 1b");
static void test_remap_code(void **state)
{
    struct bare *b = *state;
    static const uint8_t f[] = { 0xeb, 0, 0xb8, 1, 0, 0, 0, 0xc3 }; /* jmp; mov $1, %eax; ret */
    bare_map(b, BARE_ALIAS, D, 3);
    memcpy(b->mem + D, f, sizeof f), memcpy(b->mem + D + 0x1000, f, sizeof f);
    b->mem[D + 0x1003] = 2;
    const struct x86_state *s = bare_do(b, remap_code);
    bare_assert_done(b, remap_code, 0);
    assert_int_equal(s->r[X86_R9], 100);
    assert_int_equal(s->r[X86_R10], 200);
}
/* Code in a device, entered from RAM, falling out of it into RAM, and an instruction that begins in RAM and ends in a device. */
BARE_ASM(mmio_code, "mov $0x40000000, %ebx\n mov $3, %ecx\n xor %eax, %eax\n lea 1f(%rip), %rdx\n jmp *%rbx\n1: nop");
static void test_mmio_code(void **state)
{
    struct bare *b = *state;
    static const uint8_t f[] = { 0x83, 0xc0, 0x05, 0xff, 0xc9, 0x75, 0xf9, 0xff, 0xe2 }; /* 1: add $5, %eax; dec %ecx; jnz 1b; jmp *%rdx */
    bare_map(b, BARE_ALIAS, BARE_MMIO, 3);
    memcpy(b->mmio, f, sizeof f);
    bare_do(b, mmio_code);
    bare_assert_done(b, mmio_code, 0);
    assert_int_equal(b->cpu[0].out.r[X86_RAX], 15);
    /* ADD's immediate is the device's first byte */
    bare_map(b, BARE_ALIAS, D, 3), bare_map(b, BARE_ALIAS + 0x1000, BARE_MMIO, 3);
    b->mem[D + 0xffe] = 0x83, b->mem[D + 0xfff] = 0xc0;
    memcpy(b->mmio, (const uint8_t[]){ 7, 0xff, 0xe2 }, 3);
    struct x86_state s = bare_long(b, 0, BARE_ALIAS + 0xffe);
    s.r[X86_RDX] = BARE_CODE;
    b->mem[BARE_CODE] = 0xf4;
    dp_ram_mark_dirty(b->ram, BARE_CODE, 1);
    bare_run(b, &s);
    assert_int_equal(b->traps, 0);
    assert_int_equal(b->cpu[0].out.r[X86_RAX], 7);
    assert_int_equal(b->cpu[0].out.r[X86_RIP], BARE_CODE + 1);
    /* An undefined instruction in the device after the cache was in use: RIP of the fault is exact. */
    memset(b->mmio, 0x06, 16);
    bare_map(b, BARE_ALIAS, BARE_MMIO, 3);
    struct x86_state u = bare_long(b, 0, BARE_ALIAS + 3);
    bare_run(b, &u);
    assert_int_equal(b->trap[0].vector, X86_UD);
    assert_int_equal(b->trap[0].rip, BARE_ALIAS + 3);
}
/* More code than any cache: the whole of RAM from 1 MiB on is NOPs, run three times. */
BARE_ASM(flood, "mov $3, %ecx\n1: mov $0x100000, %ebx\n call *%rbx\n dec %ecx\n jnz 1b");
static void test_flood(void **state)
{
    struct bare *b = *state;
    if (b->steps)
        skip(); /* nothing new, and slow */
    uint64_t end = 0x500000;
    memset(b->mem + 0x100000, 0x90, end - 0x100000);
    b->mem[end] = 0xc3;
    memcpy(b->mem + end / 2, (const uint8_t[]){ 0xcd, 0x80 }, 2); /* events with a full cache */
    bare_do(b, flood);
    bare_assert_done(b, flood, 3);
    struct dp_engine_counters n;
    b->engine->counters(b->cpu[0].cpu, &n);
    if (exact_counts())
        assert_in_range(n.instructions, 3 * (end - 0x100000), 3 * (end - 0x100000) + 1000);
}

/* ---- the memory map changes while code runs ---- */
BARE_ASM(remap_ram, "mov 0x30000, %eax\n mov $0x40001000, %edx\n movl $1, (%rdx)\n mov 0x30000, %ebx\n movl $7, 0x30000\n mov $2, %al\n"
    " out %al, $0x83\n mov 0x30000, %ecx");
static void map_spare(struct bare *b, bool on)
{
    struct dp_error e;
    uint32_t id = (uint32_t)b->arg[1];
    if (on)
        assert_int_equal(dp_space_map_ram(b->memory, 0x30000, b->spare, 0, 0x1000, false, 5, &id, &e), 0);
    else
        dp_space_unmap(b->memory, id);
    b->arg[1] = id;
}
static void map_by_mmio(struct bare *b, uint64_t offset, uint64_t value) { map_spare(b, true); }
static void unmap_by_port(struct bare *b, unsigned what) { map_spare(b, false); }
static void test_remap_ram(void **state)
{
    struct bare *b = *state;
    b->on_mmio = map_by_mmio;
    b->on_hook = unmap_by_port;
    bare_map(b, BARE_ALIAS + 0x1000, BARE_MMIO, 3);
    dp_st32(b->mem + 0x30000, 11), dp_st32(b->spare->host, 22);
    const struct x86_state *s = bare_do(b, remap_ram);
    bare_assert_done(b, remap_ram, 0);
    assert_int_equal(s->r[X86_RBX], 22);
    assert_int_equal(s->r[X86_RCX], 11);
    assert_int_equal(dp_ld32(b->spare->host), 7);
}
/* The code's own page is replaced while it loops within the page. */
BARE_ASM(remap_loop, "mov $0x30000, %ebx\n jmp *%rbx");
static void test_remap_loop(void **state)
{
    struct bare *b = *state;
    /* 1: dec %ecx; jnz 2f; mov $1, %eax; out %al, $0x83; 2: jmp 3f; 3: cmp $0x80000000, %ecx; jnz 1b; the other copy has HLT at 3 */
    static const uint8_t loop[] = { 0xff, 0xc9, 0x75, 0x07, 0xb8, 1, 0, 0, 0, 0xe6, 0x83, 0xeb, 0x00, 0x81, 0xf9, 0, 0, 0, 0x80, 0x75,
        0xeb, 0xf4 };
    b->on_hook = unmap_by_port;
    b->arg[0] = 0;
    bare_put(b, 0x30000, loop, loop + sizeof loop);
    memset(b->spare->host, 0xf4, 0x1000);
    map_spare(b, true);
    memcpy(b->spare->host, loop, sizeof loop); /* runs in the spare page until the hook unmaps it: then RAM's copy, which halts */
    dp_ram_mark_dirty(b->spare, 0, sizeof loop);
    b->mem[0x3000d] = 0xf4;
    dp_ram_mark_dirty(b->ram, 0x3000d, 1);
    struct x86_state s = bare_long(b, 0, 0x30000);
    s.r[X86_RCX] = 50;
    bare_run(b, &s);
    assert_int_equal(b->cpu[0].out.r[X86_RIP], 0x3000e);
    assert_int_equal((uint32_t)b->cpu[0].out.r[X86_RCX], 0);
}
/* Read-only RAM ignores stores, also read-modify-writes, strings and pushes. */
BARE_ASM(rom, "mov $0x30000, %edi\n movl $1, (%rdi)\n incl (%rdi)\n lock incl (%rdi)\n movups %xmm0, (%rdi)\n mov $16, %ecx\n rep stosb\n"
    " mov $0x30000, %edi\n mov %rsp, %rdx\n lea 64(%rdi), %rsp\n push %rdi\n mov %rdx, %rsp\n xchg %eax, (%rdi)\n"
              " fxsave (%rdi)\n mov (%rdi), %ebx");
static void test_rom(void **state)
{
    struct bare *b = *state;
    struct dp_error e;
    uint32_t id;
    memset(b->spare->host, 0x77, 0x1000);
    assert_int_equal(dp_space_map_ram(b->memory, 0x30000, b->spare, 0, 0x1000, true, 5, &id, &e), 0);
    const struct x86_state *s = bare_do(b, rom);
    bare_assert_done(b, rom, 0);
    assert_int_equal(s->r[X86_RBX], 0x77777777);
    for (unsigned i = 0; i < 0x1000; i++)
        assert_int_equal(b->spare->host[i], 0x77);
}
/* Flash: reads and execution are RAM's, writes of every kind the device's; the RAM stays. */
BARE_ASM(flash, "mov $0x30000, %edi\n mov $0x77777777, %ebx\n mov $300, %ecx\n1: movl $0x11223344, (%rdi)\n incl 8(%rdi)\n mov 8(%rdi), %esi\n cmp %esi, %ebx\n"
    " jne 2f\n call *%r8\n dec %ecx\n jnz 1b\n2: lock incw 0x10(%rdi)\n movups %xmm0, 0x20(%rdi)\n mov %rsp, %rdx\n lea 0x48(%rdi), %rsp\n push %rdi\n"
                " mov %rdx, %rsp\n mov $0x5a, %al\n lea 0x80(%rdi), %rdi\n mov $16, %ecx\n rep stosb\n mov $0x12345678, %ebx\n xchg %ebx, 0x30100\n fxsave 0x30200\n");
static void test_flash(void **state)
{
    struct bare *b = *state;
    struct dp_error e;
    uint32_t id;
    memset(b->spare->host, 0x77, 0x1000);
    memset(b->mmio, 0xee, sizeof b->mmio);
    b->spare->host[0x800] = 0xc3; /* RET */
    assert_int_equal(dp_space_map_flash(b->memory, 0x30000, b->spare, 0, 0x1000, &bare_mmio_ops, b, 5, &id, &e), 0);
    bare_put(b, BARE_CODE, flash, flash_end);
    struct x86_state s = bare_long(b, 0, BARE_CODE);
    s.r[X86_R8] = 0x30800;
    const struct x86_state *out = bare_run(b, &s);
    bare_assert_done(b, flash, 0);
    assert_int_equal(out->r[X86_RSI], 0x77777777);
    assert_int_equal(out->r[X86_RBX], 0x77777777);
    for (unsigned i = 0; i < 0x1000; i++)
        assert_int_equal(b->spare->host[i], i == 0x800 ? 0xc3 : 0x77);
    assert_int_equal(dp_ld32(b->mmio), 0x11223344);
    assert_int_equal(dp_ld32(b->mmio + 8), 0x77777778);
    assert_int_equal(dp_ld32(b->mmio + 16), 0xeeee7778);
    assert_memory_equal(b->mmio + 0x20, out->vec[0], 16);
    assert_int_equal(dp_ld64(b->mmio + 0x40), 0x30000);
    for (unsigned i = 0; i < 18; i++)
        assert_int_equal(b->mmio[0x7f + i], i && i < 17 ? 0x5a : 0xee);
    assert_int_equal(dp_ld32(b->mmio + 0x100), 0x12345678);
    assert_int_equal(dp_ld32(b->mmio + 0x200 + 24), 0x1f80); /* MXCSR of the image */
}

/* ---- dirty pages ---- */
BARE_ASM(dirty, "mov $0x30000, %edi\n1: lock incq (%rdi)\n mov (%rdi), %rax\n mov %rax, 0x1000(%rdi)\n movups %xmm0, 0x2000(%rdi)\n"
    " push %rax\n pop %rax\n cmpb $0, 0x31ff8\n je 1b");
static void test_dirty(void **state) /* a page copied after its bit was cleared is either the last version or dirty again */
{
    struct bare *b = *state;
    struct dp_error e;
    uint64_t *bitmap = calloc(BARE_RAM / 4096 / 64, 8), last = 0;
    assert_int_equal(dp_space_dirty_start(b->memory, 0, &e), 0);
    bare_put(b, BARE_CODE, dirty, dirty_end);
    struct x86_state s = bare_long(b, 0, BARE_CODE);
    b->traps = 0;
    b->engine->push(b->cpu[0].cpu, &s);
    memset(b->mem + 0x30000, 0, 0x3000);
    pthread_t t;
    pthread_create(&t, NULL, bare_run_cpu, &b->cpu[0]);
    uint64_t copy = 0;
    for (unsigned i = 0; i < 3000; i++) {
        dp_space_dirty_harvest(b->memory, 0, b->ram, bitmap);
        if (bitmap[0] >> 0x30 & 1)
            copy = __atomic_load_n((uint64_t *)(b->mem + 0x30000), __ATOMIC_SEQ_CST);
        last += copy != last;
    }
    __atomic_store_n(b->mem + 0x31ff8, 1, __ATOMIC_SEQ_CST);
    pthread_join(t, NULL);
    dp_space_dirty_harvest(b->memory, 0, b->ram, bitmap);
    if (!(bitmap[0] >> 0x30 & 1))
        assert_int_equal(copy, bare_ld(b, 0x30000));
    free(bitmap);
    assert_int_equal(b->cpu[0].exit.kind, DP_EXIT_HALT);
}
/* The race in slow motion is not to be had; so in number: the writer stops right after a harvest. */
BARE_ASM(dirty_once, "mov $0x30000, %edi\n1: mov (%rdi), %rax\n2: mov 8(%rdi), %rbx\n cmp %rax, %rbx\n je 2b\n mov %rbx, (%rdi)\n"
    " cmp $-1, %rbx\n jne 1b");
static void test_dirty_each(void **state) /* after a harvest has returned, a later write always shows in the next one */
{
    struct bare *b = *state;
    struct dp_error e;
    if (b->steps)
        skip();
    uint64_t *bitmap = calloc(BARE_RAM / 4096 / 64, 8);
    assert_int_equal(dp_space_dirty_start(b->memory, 0, &e), 0);
    bare_put(b, BARE_CODE, dirty_once, dirty_once_end);
    struct x86_state s = bare_long(b, 0, BARE_CODE);
    b->traps = 0;
    memset(b->mem + 0x30000, 0, 64);
    b->engine->push(b->cpu[0].cpu, &s);
    pthread_t t;
    pthread_create(&t, NULL, bare_run_cpu, &b->cpu[0]);
    uint64_t *cell = (uint64_t *)(b->mem + 0x30000);
    unsigned lost = 0;
    for (uint64_t i = 1; i <= 2000; i++) {
        dp_space_dirty_harvest(b->memory, 0, b->ram, bitmap);
        __atomic_store_n(&cell[1], i, __ATOMIC_SEQ_CST); /* told to write now; behind the tracker's back */
        while (__atomic_load_n(&cell[0], __ATOMIC_SEQ_CST) != i)
            ;
        /* the report follows the store within a moment */
        bool seen = false;
        for (unsigned k = 0; k < 1000 && !seen; k++) {
            dp_space_dirty_harvest(b->memory, 0, b->ram, bitmap);
            seen = bitmap[0] >> 0x30 & 1;
            if (!seen)
                sched_yield();
        }
        lost += !seen;
    }
    __atomic_store_n(&cell[1], ~0ull, __ATOMIC_SEQ_CST);
    pthread_join(t, NULL);
    free(bitmap);
    assert_int_equal(lost, 0);
}

/* ---- operands half in RAM, half in a device; windows smaller than a page ---- */
BARE_ASM(mixed, "mov 0xffc(%rdi), %rax\n movups 0xff8(%rdi), %xmm0\n movabs $0x1122334455667788, %rbx\n mov %rbx, 0xffe(%rdi)\n"
    " lock incq 0xffc(%rdi)\n mov 0xfff(%rdi), %cx\n lea 0x1010(%rdi), %rsi\n lea 0xf00(%rdi), %rdi\n"
                "mov $16, %ecx\n rep movsb\n xchg %rdx, (%rsi)\n");
static void test_mixed(void **state)
{
    struct bare *b = *state;
    bare_map(b, BARE_ALIAS, D, 3), bare_map(b, BARE_ALIAS + 0x1000, BARE_MMIO, 3);
    for (unsigned i = 0; i < 64; i++)
        b->mmio[i] = (uint8_t)(0x40 + i), b->mem[D + 0x1000 - 64 + i] = (uint8_t)i;
    bare_put(b, BARE_CODE, mixed, mixed_end);
    struct x86_state s = bare_long(b, 0, BARE_CODE);
    s.r[X86_RDI] = BARE_ALIAS;
    s.r[X86_RDX] = 0xabcd;
    const struct x86_state *out = bare_run(b, &s);
    bare_assert_done(b, mixed, 0);
    assert_int_equal(out->r[X86_RAX], 0x434241403f3e3d3cull);
    assert_int_equal(dp_ld64(out->vec[0]), 0x3f3e3d3c3b3a3938ull);
    assert_int_equal(dp_ld64(out->vec[0] + 8), 0x4746454443424140ull);
    assert_int_equal(dp_ld32(b->mem + D + 0xffc), 0x77883d3d); /* 3c + 1 */
    assert_int_equal(dp_ld32(b->mmio), 0x33445566);
    assert_int_equal(dp_ld32(b->mem + D + 0xf00), 0x53525150);
    assert_int_equal(out->r[X86_RDX], 0x6766656463626160ull);
    assert_int_equal(dp_ld64(b->mmio + 0x20), 0xabcd);
}
BARE_ASM(small_window, "mov 0x30ffc, %rax\n mov 0x30ff8, %rcx\n mov 0x31000, %rdx\n movq $-1, 0x30ffc\n movl $5, 0x30800\n"
    " lock incl 0x30800\n mov 0x30800, %ebx");
static void test_small_window(void **state) /* 4 bytes of a device at the end of a page of RAM */
{
    struct bare *b = *state;
    struct dp_error e;
    uint32_t id;
    assert_int_equal(dp_space_map_window(b->memory, 0x30ffa, 4, &bare_mmio_ops, b, 5, &id, &e), 0);
    memset(b->mem + 0x30000, 0x11, 0x2000);
    memcpy(b->mmio, "\xa0\xa1\xa2\xa3", 4);
    const struct x86_state *s = bare_do(b, small_window);
    bare_assert_done(b, small_window, 0);
    assert_int_equal(s->r[X86_RAX], 0x111111111111a3a2ull);
    assert_int_equal(s->r[X86_RCX], 0x1111a3a2a1a01111ull);
    assert_int_equal(s->r[X86_RDX], 0x1111111111111111ull);
    assert_int_equal(s->r[X86_RBX], 6);
    assert_memory_equal(b->mmio, "\xa0\xa1\xff\xff", 4);
    assert_int_equal(dp_ld64(b->mem + 0x30ff8), 0xffff111111111111ull); /* what is under the window stays */
}

/* ---- 32-bit paging (SDM vol. 3 4.3, 4.4) ---- */
/* 4 MiB pages, then 4 KiB ones at the same address; INVLPG of any address of the large page. */
BARE_CODE_BITS(32, paging32, "mov $0x28000, %eax\n mov %eax, %cr3\n mov %cr4, %eax\n or $0x10, %eax\n mov %eax, %cr4\n mov %cr0, %eax\n"
    " or $0x80000000, %eax\n mov %eax, %cr0\n mov 0x40000000, %ebx\n movl $0x29007, 0x28400\n"
                             " invlpg 0x40123456\n mov 0x40000000, %ecx\n movl $7, 0x40000000\n mov 0x28400, %esi\n mov 0x29000, %edi\n"
                                 " mov %cr0, %eax\n and $0x7fffffff, %eax\n mov %eax, %cr0\n mov 0x20000, %edx\n");
static void test_paging32(void **state)
{
    struct bare *b = *state;
    memset(b->mem + 0x28000, 0, 0x2000);
    dp_st32(b->mem + 0x28000, 0x83);                 /* identity */
    dp_st32(b->mem + 0x28000 + 0x400, 0x400083);     /* 1 GiB -> 4 MiB */
    dp_st32(b->mem + 0x29000, D | 7);
    dp_st32(b->mem + 0x400000, 44), dp_st32(b->mem + D, 55);
    bare_put(b, BARE_CODE, paging32, paging32_end);
    struct x86_state s = bare_protected(b, BARE_CODE);
    const struct x86_state *out = bare_run(b, &s);
    assert_int_equal(bare_stub_vector(out), -1);
    assert_int_equal(out->r[X86_RBX], 44);
    assert_int_equal(out->r[X86_RCX], 55);
    assert_int_equal(out->r[X86_RDX], 7);
    assert_int_equal(out->r[X86_RSI], 0x29027);
    assert_int_equal(out->r[X86_RDI], D | 0x67);
}
/* PAE: the four PDPTEs are loaded with CR3; what is in memory afterwards does not matter. */
BARE_CODE_BITS(32, pae, "mov $0x28020, %eax\n mov %eax, %cr3\n mov %cr4, %eax\n or $0x20, %eax\n mov %eax, %cr4\n mov %cr0, %eax\n"
    " or $0x80000000, %eax\n mov %eax, %cr0\n mov 0x40000000, %ebx\n movl $0, 0x28028\n invlpg 0x40000000\n"
                        " mov 0x40000000, %ecx\n mov $0x28020, %eax\n movl $0x29001, 0x28028\n mov %eax, %cr3\n mov 0x40000000, %edx\n"
                            " movl $0, 0x28028\n mov %eax, %cr3\n mov 0x40000000, %edx");
static void test_pae(void **state)
{
    struct bare *b = *state;
    memset(b->mem + 0x28000, 0, 0x3000);
    dp_st64(b->mem + 0x28020, 0x29001), dp_st64(b->mem + 0x28028, 0x2a001);
    dp_st64(b->mem + 0x29000, 0x83), dp_st64(b->mem + 0x2a000, 0x400083);
    dp_st32(b->mem + 0x400000, 44), dp_st32(b->mem, 66);
    bare_put(b, BARE_CODE, pae, pae_end);
    struct x86_state s = bare_protected(b, BARE_CODE);
    const struct x86_state *out = bare_run(b, &s);
    assert_int_equal(bare_stub_vector(out), X86_PF_);
    assert_int_equal(out->cr2, BARE_ALIAS);
    assert_int_equal(out->r[X86_RBX], 44);
    assert_int_equal(out->r[X86_RCX], 44);
    assert_int_equal(out->r[X86_RDX], 66);
}
/* Through all modes and back: real, 16- and 32-bit protected, PAE, compatibility, 64-bit, and home again; twice, so that blocks of one
 * mode meet the others. */
#define TOUR_AT(label) "(" #label " - tour + 0x10000)"
BARE_CODE_BITS(16, tour, "xor %eax, %eax\n mov %ax, %ds\n mov %ax, %ss\n mov $2, %ebp\n4: lgdtl 0x7f00\n mov %cr0, %eax\n or $1, %al\n"
    " mov %eax, %cr0\n inc %ebx\n ljmpl $0x30, $" TOUR_AT(1f) "\n.code32\n1: mov $0x10, %eax\n"
                         " mov %eax, %ds\n mov %eax, %es\n mov %eax, %ss\n inc %ebx\n mov $0x1000, %eax\n mov %eax, %cr3\n"
                             " mov %cr4, %eax\n or $0x20, %eax\n mov %eax, %cr4\n mov $0xc0000080, %ecx\n rdmsr\n or $0x100, %eax\n wrmsr\n"
                         " mov %cr0, %eax\n or $0x80000000, %eax\n mov %eax, %cr0\n inc %ebx\n rdmsr\n bt $10, %eax\n adc $0, %ebx\n"
                             " ljmpl $0x08, $" TOUR_AT(2f) "\n.code64\n2: mov $-1, %rax\n inc %eax\n mov %eax, %eax\n shr $32, %rax\n"
                         " add %rax, %rbx\n bts $40, %rsi\n inc %rbx\n ljmpl *0x7f10\n.code32\n3: inc %ebx\n mov %cr0, %eax\n"
                             " and $0x7fffffff, %eax\n mov %eax, %cr0\n rdmsr\n and $~0x100, %eax\n wrmsr\n inc %ebx\n"
                         " ljmpl $0x38, $" TOUR_AT(5f) " - 0x10000\n.code16\n5: mov $0x40, %eax\n mov %ax, %ds\n mov %ax, %ss\n"
                             " mov %cr0, %eax\n and $~1, %al\n mov %eax, %cr0\n ljmpl $0x1000, $" TOUR_AT(6f) " - 0x10000\n6: inc %ebx\n"
                         " xor %eax, %eax\n mov %ax, %ds\n mov %ax, %ss\n dec %ebp\n jnz 4b\n jmp 7f\n"
                             "tour_compat: .long 3b - tour + 0x10000\n7:\n");
MARK(tour, compat);
static void test_tour(void **state)
{
    struct bare *b = *state;
    bare_put(b, BARE_CODE, tour, tour_end);
    dp_st64(b->mem + BARE_GDT + 0x38, 0x00009b010000ffff); /* 16-bit code at 64 KiB */
    dp_st64(b->mem + BARE_GDT + 0x40, 0x000093000000ffff); /* 16-bit data */
    dp_st16(b->mem + 0x7f00, 0xff), dp_st32(b->mem + 0x7f02, BARE_GDT);
    memcpy(b->mem + 0x7f10, tour_compat, 4);
    dp_st16(b->mem + 0x7f14, BARE_CS32);
    struct x86_state s = bare_real(b, BARE_CODE >> 4, 0);
    const struct x86_state *out = bare_run(b, &s);
    assert_int_equal(b->cpu[0].exit.kind, DP_EXIT_HALT);
    assert_int_equal(out->r[X86_RIP], tour_end - tour);
    assert_int_equal(out->seg[X86_CS].base, BARE_CODE);
    assert_int_equal(out->r[X86_RBX], 2 * 8);
    assert_int_equal(out->cr0 & (X86_CR0_PG | X86_CR0_PE), 0);
    assert_int_equal(out->efer & (X86_EFER_LMA | X86_EFER_LME), 0);
}

/* ---- addresses that are not canonical ---- */
#define NONCANONICAL(name, instruction) \
    BARE_ASM(nc_##name, "mov $0x800000000000, %rbx\n lea 1f(%rip), %r15\n mov %rsp, %r9\n" instruction "\n ud2\n1: mov %r9, %rsp")
NONCANONICAL(load, "mov (%rbx), %eax");
NONCANONICAL(store, "mov %rax, -4(%rbx)");
NONCANONICAL(push, "mov %rbx, %rsp\n add $8, %rsp\n push %rax");
NONCANONICAL(rbp, "mov %rbx, %rbp\n mov (%rbp), %eax");
NONCANONICAL(jmp, "jmp *%rbx");
NONCANONICAL(ret, "push %rbx\n ret");
NONCANONICAL(call, "call *%rbx");
NONCANONICAL(rmw, "lock incq (%rbx)");
NONCANONICAL(sse, "movups (%rbx), %xmm0");
NONCANONICAL(movs, "mov %rbx, %rsi\n movsb");
NONCANONICAL(lidt, "mov %rbx, 0x20002\n lidt 0x20000");
NONCANONICAL(iret, "mov %rsp, %rax\n push $0x10\n push %rax\n push $2\n push $8\n push %rbx\n iretq");
NONCANONICAL(wrmsr, "mov $0xc0000082, %ecx\n xor %eax, %eax\n mov $0x8000, %edx\n wrmsr");
NONCANONICAL(cr3, "bts $63, %rbx\n mov %rbx, %cr3");
#define NC_ROW(name, vector) { #name, nc_##name, nc_##name##_end, vector }
static void test_canonical(void **state)
{
    struct bare *b = *state;
    static const struct { const char *name; const uint8_t *begin, *end; unsigned vector; } t[] = {
        NC_ROW(load, X86_GP), NC_ROW(store, X86_GP), NC_ROW(push, X86_SS_), NC_ROW(rbp, X86_SS_), NC_ROW(jmp, X86_GP), NC_ROW(ret,
            X86_GP), NC_ROW(call, X86_GP), NC_ROW(rmw, X86_GP),
        NC_ROW(sse, X86_GP), NC_ROW(movs, X86_GP), NC_ROW(lidt, X86_GP), NC_ROW(iret, X86_GP), NC_ROW(wrmsr, X86_GP), NC_ROW(cr3, X86_GP) };
    b->mem[BARE_IDT + X86_GP * 16 + 4] = b->mem[BARE_IDT + X86_SS_ * 16 + 4] = 1;
    for (unsigned i = 0; i < DP_ARRAY_LEN(t); i++) {
        bare_do_at(b, t[i].begin, t[i].end);
        if (b->traps != 1 || b->trap[0].vector != t[i].vector || b->trap[0].error)
            fail_msg("%s: %u traps, vector %u error 0x%x", t[i].name, b->traps, (unsigned)b->trap[0].vector, (unsigned)b->trap[0].error);
        assert_true(b->trap[0].rip >= BARE_CODE && b->trap[0].rip < BARE_CODE + 0x100); /* the instruction's own address, not the target */
    }
}

int main(int argc, char **argv)
{
    system_arguments(argc, argv);
    const struct CMUnitTest tests[] = {
        T(test_invlpg), T(test_invlpg_large), T(test_cr3), T(test_ad), T(test_wp), T(test_spurious), T(test_smap), T(test_smap_implicit),
        T(test_smep), T(test_nx), T(test_user_rights), T(test_align), T(test_crossing), T(test_rep_fault), T(test_smc), T(test_alias),
        T(test_second_page), T(test_remap_code), T(test_mmio_code), T(test_flood), T(test_remap_ram), T(test_remap_loop), T(test_rom), T(test_flash),
        T(test_dirty), T(test_dirty_each), T(test_mixed), T(test_small_window), T(test_paging32), T(test_pae), T(test_tour),
        T(test_canonical) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
