/* test_translate.c ENGINE: guests that try what a translator could get wrong: accesses far from where a check stood, targets that are no addresses, modes
 * and mappings that change under code that is known, jumps to where code was; and what --dump-blocks and --perf-map show.
 *
 * Model: see bare.h. Each routine runs several times, so that it is translated. Every engine has to pass; ENGINE only says which.
 */
#include <fcntl.h>
#include <time.h>

#include "bare.h"

enum { TIMES = 6, CODE2M = 0x400000, OTHER2M = 0x600000, TABLES = 0x800000 };

/* A push far below a checked one, in the same block. */
BARE_ASM(far_push, "lea 1f(%rip), %r15\n push %rcx\n sub $0x40000000, %rsp\n push %rax\n pop %rax\n1: nop");
BARE_ASM(far_push2, "lea 1f(%rip), %r15\n push %rcx\n sub $0x7fffff00, %rsp\n push %rax\n pop %rax\n1: nop");
BARE_ASM(far_base, "lea 1f(%rip), %r15\n mov (%rbx), %rax\n sub $-0x78000000, %rbx\n mov %rax, 0x70000000(%rbx)\n1: nop");
static void test_far(void **state)
{
    struct bare *b = *state;
    static const struct { const uint8_t *code, *end; uint64_t below; } cases[] = {
        {far_push, far_push_end, 8 + 0x40000000 + 8}, {far_push2, far_push2_end, 8 + 0x7fffff00 + 8}, {far_base, far_base_end, 0}};
    for (unsigned k = 0; k < DP_ARRAY_LEN(cases); k++)
        for (unsigned i = 0; i < TIMES; i++) {
            struct x86_state s = bare_long(b, 0, BARE_USER_CODE);
            bare_user(&s);
            bare_put(b, BARE_USER_CODE, cases[k].code, cases[k].end);
            s.r[X86_RBX] = BARE_USER_STACK;
            bare_run(b, &s);
            assert_int_equal(b->trap[0].vector, X86_PF_);
            assert_int_equal(b->trap[0].cr2, cases[k].below ? s.r[X86_RSP] - cases[k].below : BARE_USER_STACK + 0x78000000ull + 0x70000000);
        }
}

/* Addresses of this very process: every form of access has to miss it. RBX = victim, RSI = its distance / 8 from RDI, RSP = victim + 8 or more. */
static volatile uint64_t victim[8];
BARE_ASM(wild_store, "mov %rax, (%rbx)");
BARE_ASM(wild_exchange, "xchg %rax, (%rbx)");
BARE_ASM(wild_index, "mov %rax, (%rdi,%rsi,8)");
BARE_ASM(wild_group, "mov %rax, (%rdi)\n lea (%rdi,%rsi,8), %rdi\n add $8, %rdi\n mov %rax, -8(%rdi)");
BARE_ASM(wild_vector, "movups %xmm0, (%rbx)");
BARE_ASM(wild_push, "push %rax");
BARE_ASM(wild_far_push, "sub $0x40000000, %rsp\n push %rax");
BARE_ASM(wild_far_store, "sub $-0x78000000, %rbx\n mov %rax, -0x78000000(%rbx)");
BARE_ASM(wild_call, "call *%r8");
BARE_ASM(wild_swap, "mov %rsp, %rbp\n leave");
BARE_ASM(wild_load, "mov (%rbx), %rcx");
BARE_ASM(wild_flags, "stc\n adc %rax, (%rbx)\n pushf");
static void test_wild(void **state)
{
    struct bare *b = *state;
#define W(name, below) {name, name##_end, below}
    static const struct { const uint8_t *code, *end; uint64_t below; } cases[] = {
        W(wild_store, 8), W(wild_exchange, 8), W(wild_index, 8), W(wild_group, 8), W(wild_vector, 8), W(wild_push, 8), W(wild_far_push, 0x40000008),
        W(wild_far_store, 8), W(wild_call, 8), W(wild_swap, 0), W(wild_load, 8), W(wild_flags, 8)};
#undef W
    for (unsigned k = 0; k < DP_ARRAY_LEN(cases); k++)
        for (unsigned i = 0; i < TIMES; i++) {
            struct x86_state s = bare_long(b, 0, BARE_USER_CODE);
            uint64_t at = (uint64_t)(uintptr_t)&victim[i & 3];
            memset((void *)victim, 0x77, sizeof(victim));
            bare_user(&s);
            bare_put(b, BARE_USER_CODE, cases[k].code, cases[k].end);
            s.r[X86_RBX] = at;
            s.r[X86_RDI] = BARE_USER_STACK + 0x100;
            s.r[X86_RSI] = (at - s.r[X86_RDI]) / 8;
            s.r[X86_RSP] = at + cases[k].below;
            s.r[X86_RAX] = s.r[X86_RCX] = 0x4141414141414141;
            bare_run(b, &s);
            assert_true(b->traps >= 1);
            assert_int_equal(b->trap[0].vector, X86_PF_);
            assert_int_equal(b->trap[0].cr2, at);
            assert_int_equal(b->trap[0].rcx, 0x4141414141414141);
            for (unsigned n = 0; n < DP_ARRAY_LEN(victim); n++)
                assert_int_equal(victim[n], 0x7777777777777777);
        }
}

/* The last page below the canonical edge, at physical OTHER2M. */
static void map_edge(struct bare *b)
{
    dp_st64(b->mem + BARE_PML4 + 255 * 8, TABLES | 3);
    dp_st64(b->mem + TABLES + 511 * 8, (TABLES + 0x1000) | 3);
    dp_st64(b->mem + TABLES + 0x1000 + 511 * 8, (TABLES + 0x2000) | 3);
    dp_st64(b->mem + TABLES + 0x2000 + 511 * 8, OTHER2M | 3);
}
static void edge(struct bare *b, const char *bytes, size_t n, unsigned offset, uint64_t rip, uint64_t stack)
{
    map_edge(b);
    memset(b->mem + OTHER2M, 0x90, 0x1000);
    assert_int_equal(dp_space_write(b->memory, OTHER2M + offset, bytes, n), 0);
    b->mem[BARE_CODE] = 0xf4;
    for (unsigned i = 0; i < TIMES; i++) {
        struct x86_state s = bare_long(b, 0, 0x7ffffffff000);
        s.r[X86_R15] = BARE_CODE;
        s.r[X86_RAX] = 0x1234000000000000;
        dp_st64(b->mem + s.r[X86_RSP] - 8, 0x5a5a);
        b->on_trap = NULL;
        bare_run(b, &s);
        assert_int_equal(b->traps, 1);
        assert_int_equal(b->trap[0].vector, X86_GP);
        assert_int_equal(b->trap[0].rip, rip);
        assert_int_equal(b->trap[0].rsp, s.r[X86_RSP] - stack);
    }
}
static void test_edge(void **state)
{
    struct bare *b = *state;
    edge(b, "\x39\xc0\x74\x7f", 4, 0xff0, 0x800000000073, 0);          /* cmp; je over the edge: faults behind it */
    edge(b, "\xeb\x7f", 2, 0xff0, 0x800000000071, 0);                  /* jmp */
    edge(b, "\xe8\x00\x01\x00\x00", 5, 0xff0, 0x8000000000f5, 8);      /* call */
    edge(b, "\xff\xd0", 2, 0xff0, 0x7ffffffffff0, 0);                  /* call rax */
    edge(b, "\xff\xe0", 2, 0xff0, 0x7ffffffffff0, 0);                  /* jmp rax */
    edge(b, "\x50\xc3", 2, 0xff0, 0x7ffffffffff1, 8);                  /* push rax; ret */
    edge(b, "\x90", 1, 0xfff, 0x800000000000, 0);                      /* falls over it */
}

/* SSE known under CR0.TS = 0, entered through the same jumps under TS = 1. */
BARE_ASM(task_switched, "mov $6, %ecx\n1: call 3f\n dec %ecx\n jnz 1b\n mov %cr0, %rax\n or $8, %rax\n mov %rax, %cr0\n lea 2f(%rip), %r15\n call 3f\n"
                        "2: clts\n hlt\n3: paddd %xmm1, %xmm0\n ret");
static void test_task_switched(void **state)
{
    struct bare *b = *state;
    for (unsigned i = 0; i < TIMES; i++) {
        bare_do(b, task_switched);
        assert_int_equal(b->traps, 1);
        assert_int_equal(b->trap[0].vector, X86_NM);
    }
}

/* Code in a large page; another address of the page is flushed. */
BARE_ASM(large_page, "mov $6, %ecx\n1: call *%r9\n dec %ecx\n jnz 1b\n mov %r10, (%r11)\n invlpg (%r12)\n call *%r9");
static void test_large_page(void **state)
{
    struct bare *b = *state;
    static const uint8_t one[] = {0xb8, 1, 0, 0, 0, 0xc3}, two[] = {0xb8, 2, 0, 0, 0, 0xc3};
    bare_put(b, CODE2M + 0x1000, one, one + sizeof(one));
    bare_put(b, OTHER2M + 0x1000, two, two + sizeof(two));
    bare_put(b, BARE_CODE, large_page, large_page_end);
    for (unsigned i = 0; i < TIMES; i++) {
        dp_st64(b->mem + BARE_PD + 2 * 8, CODE2M | 0x83);
        struct x86_state s = bare_long(b, 0, BARE_CODE);
        s.r[X86_R9] = CODE2M + 0x1000;
        s.r[X86_R10] = OTHER2M | 0x83;
        s.r[X86_R11] = BARE_PD + 2 * 8;
        s.r[X86_R12] = CODE2M + 0x100000;
        assert_int_equal(bare_run(b, &s)->r[X86_RAX], 2);
    }
}

/* A function is rewritten and called again, with a system instruction between (translated code is entered anew from C). */
BARE_ASM(rewrite_call, "lea 3f(%rip), %rbx\n mov $40, %ecx\n xor %esi, %esi\n1: mov %cl, 1(%rbx)\n call *%rbx\n add %eax, %esi\n rdtsc\n"
                       " dec %ecx\n jnz 1b\n hlt\n3: mov $0, %eax\n ret");
static void test_rewritten(void **state)
{
    struct bare *b = *state;
    for (unsigned i = 0; i < TIMES; i++) {
        const struct x86_state *s = bare_do(b, rewrite_call);
        assert_int_equal(b->traps, 0);
        assert_int_equal(s->r[X86_RCX], 0);
        assert_int_equal(s->r[X86_RSI], 40 * 41 / 2);
    }
}

/* Stores of all forms to a page that was read and may not be written: they fault again and again, and then they may. */
BARE_ASM(refused_add, "lea 1f(%rip), %r15\n mov 0x100(%rdi), %rax\n add %r13, 0x100(%rdi)\n1: nop");
BARE_ASM(refused_mov, "lea 1f(%rip), %r15\n mov 0x100(%rdi), %rax\n stc\n mov %r14, 0x100(%rdi,%rdx,2)\n adc $0, %r14\n1: nop");
BARE_ASM(refused_sar, "lea 1f(%rip), %r15\n mov 0x100(%rdi), %rax\n sarq %cl, 0x100(%rdi)\n1: nop");
BARE_ASM(refused_cmpxchg, "lea 1f(%rip), %r15\n mov 0x100(%rdi), %rax\n lock cmpxchg %r14, 0x100(%rdi,%rdx)\n1: nop");
BARE_ASM(refused_sse, "lea 1f(%rip), %r15\n movups 0x100(%rdi), %xmm1\n movups %xmm0, 0x100(%rdi)\n1: nop");
BARE_ASM(refused_x87, "lea 1f(%rip), %r15\n fninit\n fildll 0x200(%rdi)\n fistpll 0x100(%rdi,%rdx)\n1: nop");
BARE_ASM(refused_stos, "lea 1f(%rip), %r15\n mov $2, %ecx\n lea 0x100(%rdi), %rdi\n mov (%rdi), %rax\n mov %r14, %rax\n rep stosq\n1: nop");
static void test_refused(void **state)
{
    struct bare *b = *state;
    const uint64_t old = 0x8122334455667788, r13 = 5, r14 = 0x99, other = 0x777;
    const struct { const uint8_t *code, *end; uint64_t result; } cases[] = {
        {refused_add, refused_add_end, old + r13}, {refused_mov, refused_mov_end, r14}, {refused_sar, refused_sar_end, (uint64_t)((int64_t)old >> 4)},
        {refused_cmpxchg, refused_cmpxchg_end, r14}, {refused_sse, refused_sse_end, other}, {refused_x87, refused_x87_end, other}, {refused_stos, refused_stos_end, r14}};
    enum { REFUSED = 24, ALL = REFUSED + 4 };
    for (unsigned k = 0; k < DP_ARRAY_LEN(cases); k++)
        for (unsigned i = 0; i < ALL; i++) {
            struct x86_state s = bare_long(b, 0, BARE_USER_CODE);
            bare_user(&s);
            dp_st64(b->mem + BARE_PT + (BARE_DATA >> 12) * 8, BARE_DATA | (i < REFUSED ? 0x25 : 0x27));
            bare_put(b, BARE_USER_CODE, cases[k].code, cases[k].end);
            dp_st64(b->mem + BARE_DATA + 0x100, old);
            dp_st64(b->mem + BARE_DATA + 0x200, other);
            s.r[X86_RDI] = BARE_DATA, s.r[X86_RDX] = 0, s.r[X86_RCX] = 4, s.r[X86_R13] = r13, s.r[X86_R14] = r14;
            dp_st64(s.vec[0], other);
            bare_run(b, &s);
            if (i < REFUSED) {
                assert_int_equal(b->trap[0].vector, X86_PF_);
                assert_int_equal(b->trap[0].error, 7);
                assert_int_equal(b->trap[0].cr2, BARE_DATA + 0x100);
            } else {
                assert_int_equal(b->trap[0].vector, X86_GP); /* the HLT */
            }
            assert_int_equal(dp_ld64(b->mem + BARE_DATA + 0x100), i < REFUSED ? old : cases[k].result);
        }
}

/* AC goes on and off within linked blocks, twice each: what was allowed is not any more. */
BARE_ASM(smap, "mov $40, %ecx\n1: stac\n mov (%rdi), %rax\n stac\n add %rdx, (%rdi)\n clac\n mov (%rsi), %rax\n clac\n dec %ecx\n jnz 1b\n"
               " stac\n lea 2f(%rip), %r15\n mov (%rdi), %rax\n clac\n mov (%rdi), %rbx\n2: pushf\n pop %rbx");
static void test_smap(void **state)
{
    struct bare *b = *state;
    for (unsigned i = 0; i < TIMES; i++) {
        struct x86_state s = bare_long(b, 0, BARE_CODE);
        s.cr4 |= X86_CR4_SMAP;
        dp_st64(b->mem + BARE_PT + (BARE_CODE >> 12) * 8, BARE_CODE | 0x23); /* the supervisor's */
        dp_st64(b->mem + BARE_PT + (BARE_DATA >> 12) * 8, BARE_DATA | 0x23);
        bare_put(b, BARE_CODE, smap, smap_end);
        dp_st64(b->mem + BARE_USER_STACK, 0);
        s.r[X86_RDI] = BARE_USER_STACK, s.r[X86_RSI] = BARE_DATA, s.r[X86_RDX] = 3;
        const struct x86_state *o = bare_run(b, &s);
        assert_int_equal(b->traps, 1);
        assert_int_equal(b->trap[0].vector, X86_PF_);
        assert_int_equal(b->trap[0].cr2, BARE_USER_STACK);
        assert_int_equal(b->trap[0].error, 1);
        assert_int_equal(o->r[X86_RAX], 120);
        assert_false(o->r[X86_RBX] & X86_AC);
    }
}

/* Flags wanted at several page checks in a row, and long instructions behind them: short jumps have to reach. */
BARE_ASM(flags_wanted, "mov $6, %ecx\n1: stc\n adc 0x100(%rdi), %rax\n push 0x200(%rdi,%rdx,8)\n adc 0x300(%rdi,%rdx,4), %rax\n pushf\n pop %r13\n adc %r13, 0x180(%rdi)\n"
                       " mov 0x400(%rdi,%rdx,2), %r14\n adc %r14, %r13\n xadd %r13, 0x500(%rdi,%rdx,1)\n pop %rbx\n call *0x600(%rdi)\n2: dec %ecx\n jnz 1b\n hlt\n"
                       "3: ret");
static void test_flags_wanted(void **state)
{
    struct bare *b = *state;
    uint64_t first = 0;
    for (unsigned i = 0; i < TIMES; i++) {
        memset(b->mem + BARE_DATA, 0x11, 0x1000);
        dp_st64(b->mem + BARE_DATA + 0x600, BARE_CODE + (uint64_t)(flags_wanted_end - flags_wanted) - 2);
        struct x86_state s = bare_long(b, 0, BARE_CODE);
        s.r[X86_RAX] = s.r[X86_RDX] = s.r[X86_R13] = s.r[X86_R14] = 0;
        bare_put(b, BARE_CODE, flags_wanted, flags_wanted_end);
        const struct x86_state *o = bare_run(b, &s);
        assert_int_equal(b->traps, 0);
        uint64_t sum = o->r[X86_RAX] ^ o->r[X86_R13] << 1 ^ dp_ld64(b->mem + BARE_DATA + 0x500) << 2 ^ dp_ld64(b->mem + BARE_DATA + 0x180) << 3;
        if (!i)
            first = sum; /* interpreted */
        assert_int_equal(sum, first);
    }
}

/* What stands at 2 becomes a block first, alone; then a path from 1 leads into it, which has to keep the flags that
 * it wants: through a page check, too. */
BARE_ASM(known_end, "xor %ebx, %ebx\n mov $20, %edx\n lea 2f(%rip), %rax\n3: mov $1, %ecx\n clc\n jmp *%rax\n"
                    "1: stc\n mov 0x200(%rdi), %r8\n2: adc 0x100(%rdi), %ebx\n dec %ecx\n jnz 1b\n"
                    " dec %edx\n jg 3b\n mov $8, %ecx\n jz 1b\n hlt");
static void test_known_end(void **state)
{
    struct bare *b = *state;
    for (unsigned i = 0; i < TIMES; i++) {
        dp_st64(b->mem + BARE_DATA + 0x100, 16);
        assert_int_equal(bare_do(b, known_end)->r[X86_RBX], 20 * 16 + 8 * 17);
        assert_int_equal(b->traps, 0);
    }
}

/* A call to the next page, whose links are made and then must hold no longer: the callee is rewritten, the caller is at another place too (R10), the callee's
 * page is mapped anew, another address space has another one (R14), it is unmapped. RBX collects what was called. */
BARE_ASM(far_links, "xor %ebx, %ebx\n call 8f\n movb $4, 1(%r13)\n call 8f\n xchg %r9, %r10\n call 8f\n xchg %r9, %r10\n call 8f\n mov %r11, (%r12)\n invlpg 0x1000(%r9)\n call 8f\n"
                    " mov %r14, %cr3\n call 8f\n mov %rsi, %cr3\n call 8f\n"
                    " movq $0, (%r12)\n invlpg 0x1000(%r9)\n lea 2f(%rip), %r15\n call *%r9\n2: hlt\n"
                    "8: mov $6, %ecx\n1: call *%r9\n dec %ecx\n jnz 1b\n shl $4, %rbx\n or %rax, %rbx\n ret");
static void test_far_links(void **state)
{
    struct bare *b = *state;
    static const uint8_t caller[] = {0xff, 0xc2, 0xe8, 0xf9, 0x0f, 0, 0, 0xc3}; /* inc edx; call; ret */
    for (unsigned i = 0; i < 2 * TIMES; i++) {
        bool twice = i >= TIMES;
        bare_put(b, OTHER2M, caller, caller + sizeof(caller));
        for (uint8_t k = 1; k <= 3; k++) {
            const uint8_t callee[] = {0xb8, k, 0, 0, 0, 0xc3};
            bare_put(b, OTHER2M + k * 0x1000u, callee, callee + sizeof(callee));
        }
        bare_map(b, BARE_ALIAS, OTHER2M, 3);
        bare_map(b, BARE_ALIAS + 0x1000, OTHER2M + 0x1000, 3);
        bare_map(b, BARE_ALIAS + 0x4000, OTHER2M, 3);
        bare_map(b, BARE_ALIAS + 0x5000, OTHER2M + 0x2000, 3);
        dp_st64(b->mem + TABLES, (TABLES + 0x1000) | 3);
        dp_st64(b->mem + TABLES + 0x1000, BARE_PD | 3);
        dp_st64(b->mem + TABLES + 0x1008, (TABLES + 0x2000) | 3);
        dp_st64(b->mem + TABLES + 0x2000, (TABLES + 0x3000) | 3);
        dp_st64(b->mem + TABLES + 0x3000, OTHER2M | 3);
        dp_st64(b->mem + TABLES + 0x3008, (OTHER2M + 0x3000) | 3);
        struct x86_state s = bare_long(b, 0, BARE_CODE);
        bare_put(b, BARE_CODE, far_links, far_links_end);
        s.cr4 |= X86_CR4_PCIDE; /* both address spaces stay known */
        s.r[X86_RSI] = s.cr3 | 1ull << 63;
        s.r[X86_RDX] = 0;
        s.r[X86_R9] = BARE_ALIAS;
        s.r[X86_R10] = BARE_ALIAS + (twice ? 0x4000 : 0);
        s.r[X86_R11] = (OTHER2M + 0x2000) | 3;
        s.r[X86_R12] = (uint64_t)((uint8_t *)bare_pte(b, BARE_ALIAS + 0x1000) - b->mem);
        s.r[X86_R13] = OTHER2M + 0x1000;
        s.r[X86_R14] = TABLES | 1ull << 63 | 1;
        const struct x86_state *o = bare_run(b, &s);
        assert_int_equal(o->r[X86_RBX], twice ? 0x1424232 : 0x1444232);
        assert_int_equal(o->r[X86_RDX], 7 * 6 + 1);
        assert_int_equal(b->traps, 1);
        assert_int_equal(b->trap[0].vector, X86_PF_);
        assert_int_equal(b->trap[0].cr2, BARE_ALIAS + 0x1000);
        assert_int_equal(b->trap[0].rip, BARE_ALIAS + 0x1000);
        assert_int_equal(b->trap[0].rsp, s.r[X86_RSP] - 16);
    }
}

/* Three functions that meet in the jump cache are called in turns; one of them is rewritten. */
BARE_ASM(in_turns, "xor %ebx, %ebx\n mov $60, %ecx\n1: call *%r9\n call *%r10\n call *%r11\n cmp $20, %ecx\n jne 2f\n movb $0x40, 1(%r10)\n2: dec %ecx\n jnz 1b");
static void test_in_turns(void **state)
{
    struct bare *b = *state;
    for (unsigned i = 0; i < TIMES; i++) {
        struct x86_state s = bare_long(b, 0, BARE_CODE);
        for (unsigned k = 0; k < 3; k++) {
            const uint8_t add[] = {0xb8, (uint8_t)(1 << k), 0, 0, 0, 0x01, 0xc3, 0xc3}; /* mov eax, n; add ebx, eax; ret */
            s.r[X86_R9 + k] = CODE2M + 0x10 + k * 0x4000u;
            bare_put(b, s.r[X86_R9 + k], add, add + sizeof(add));
        }
        bare_put(b, BARE_CODE, in_turns, in_turns_end);
        assert_int_equal(bare_run(b, &s)->r[X86_RBX], 60 * (1 + 2 + 4) + 19 * (0x40 - 2));
        bare_assert_done(b, in_turns, 0);
    }
}

/* Interrupts all over code that moves the stack pointer, their frames on the same stack and more below: what an instruction still reads has to be above
 * it. RBP, R13-R15, return addresses and flags have to come back as they were pushed. A saved RBP 8 below a 16-byte boundary is where SS of a frame goes
 * that begins above it. */
BARE_ASM(stack_moves,
         "sti\n 1: push %rbp\n mov %rsp, %rbp\n push %r14\n sub $24, %rsp\n leave\n cmp %rbp, %rdx\n jne 9f\n"
         " push %rax\n push %rbp\n mov %rsp, %rbp\n leave\n cmp %rbp, %rdx\n jne 9f\n pop %rax\n"
         " push %r13\n push %rbp\n push %r15\n mov %rsp, %rbp\n lea 8(%rbp), %rsp\n pop %rbp\n pop %r13\n"
         " cmp %r13, %rsi\n jne 9f\n cmp %rbp, %rdx\n jne 9f\n"
         " call 3f\n call *%r9\n pushf\n pop %rbx\n and $0x200, %ebx\n jz 9f\n"
         " cmpq $0, 0x2f000\n je 1b\n xor %eax, %eax\n jmp 8f\n"
         "3: push %rbp\n mov %rsp, %rbp\n mov 8(%rbp), %r10\n leave\n ret\n"
         "9: mov $1, %eax\n 8: cli\n");
BARE_ASM(stack_handler, "push $-1\n push $-1\n push $-1\n push $-1\n push $-1\n push $-1\n add $48, %rsp\n iretq");
static void test_stack_moves(void **state)
{
    struct bare *b = *state;
    enum { HANDLER = BARE_CODE + 0x800, CALLEE = BARE_CODE + 0xc00 };
    static const uint8_t callee[] = {0x55, 0x48, 0x89, 0xe5, 0x41, 0x55, 0xc9, 0xc3}; /* push rbp; mov rbp, rsp; push r13; leave; ret */
    bare_put(b, BARE_CODE, stack_moves, stack_moves_end);
    bare_put(b, HANDLER, stack_handler, stack_handler_end);
    bare_put(b, CALLEE, callee, callee + sizeof(callee));
    dp_st64(b->mem + BARE_IDT + 0x40 * 16, (uint64_t)(HANDLER & 0xffff) | (uint64_t)BARE_CS64 << 16 | 0x8eull << 40 | (uint64_t)(HANDLER >> 16) << 48);
    struct x86_state s = bare_long(b, 0, BARE_CODE);
    s.r[X86_RBP] = s.r[X86_RDX] = 0x5555aaaa12345678;
    s.r[X86_R13] = s.r[X86_RSI] = 0x1313131313131313;
    s.r[X86_R9] = CALLEE;
    memset(b->mem + 0x2f000, 0, 8);
    b->engine->push(b->cpu[0].cpu, &s);
    b->traps = 0;
    b->mem[BARE_MAILBOX + BARE_TR + 8] = 0;
    pthread_t t;
    pthread_create(&t, NULL, bare_run_cpu, &b->cpu[0]);
    time_t end = time(NULL) + 4; /* on a busy host each interrupt is a switch of processes */
    for (unsigned i = 0; i < 10000 && time(NULL) < end; i++) {
        bare_irq(b, 0, 0x40);
        while (atomic_load(&b->cpu[0].irr[1]) && time(NULL) < end)
            sched_yield();
        for (unsigned wait = i * 7919 % 97; wait--;)
            __builtin_ia32_pause();
    }
    __atomic_store_n((uint64_t *)(b->mem + 0x2f000), 1, __ATOMIC_SEQ_CST);
    pthread_join(t, NULL);
    bare_assert_done(b, stack_moves, 0);
    assert_int_equal(b->cpu[0].out.r[X86_RAX], 0);
    assert_int_equal(b->cpu[0].out.r[X86_RSP], s.r[X86_RSP]);
}

/* The same, and more of what takes several host instructions, with a kick and an interrupt at every host instruction in turn. */
BARE_ASM(kick_places,
         "sti\n push %rbp\n mov %rsp, %rbp\n push %r14\n pushf\n sub $16, %rsp\n leave\n"
         " push %rax\n push %rbp\n mov %rsp, %rbp\n push %r15\n leave\n pop %r13\n push %rsp\n pop %rsp\n"
         " cli\n swapgs\n push %r15\n sti\n pop %r14\n swapgs\n std\n pushf\n cld\n pop %rbx\n"
         " push (%rdi)\n push $0x1234\n call 3f\n call *%r9\n call *8(%rdi)\n pop %r11\n pop 16(%rdi)\n"
         " xchg %r13, 24(%rdi)\n xadd %r15, 24(%rdi)\n lock cmpxchg %r14, 24(%rdi)\n shl %cl, %r14\n adc %r15, 32(%rdi)\n"
         " mov %ah, 40(%rdi)\n xchg %ch, %cl\n rdtsc\n mov %rdx, %r10\n fninit\n fld1\n fstpl 48(%rdi)\n movups (%rdi), %xmm1\n"
         " lea 4f(%rip), %r12\n push %r12\n ret\n"
         "3: push %rbp\n mov %rsp, %rbp\n mov 8(%rbp), %r10\n leave\n ret\n"
         "4: push $-5\n push $-6\n call 5f\n mov %r8, %r13\n jmp 6f\n"
         "5: ret $16\n"
         "6: cli\n");
static void test_kick_places(void **state)
{
    struct bare *b = *state;
    enum { HANDLER = BARE_CODE + 0x800, CALLEE = BARE_CODE + 0xc00 };
    static const uint8_t callee[] = {0x55, 0x48, 0x89, 0xe5, 0x41, 0x55, 0xc9, 0xc3};
    if (strcmp(bare_engine, "translate-hot") || b->steps) /* the others run the same code */
        skip();
    bare_put(b, BARE_CODE, kick_places, kick_places_end);
    bare_put(b, HANDLER, stack_handler, stack_handler_end);
    bare_put(b, CALLEE, callee, callee + sizeof(callee));
    dp_st64(b->mem + BARE_IDT + 0x40 * 16, (uint64_t)(HANDLER & 0xffff) | (uint64_t)BARE_CS64 << 16 | 0x8eull << 40 | (uint64_t)(HANDLER >> 16) << 48);
    struct x86_state s = bare_long(b, 0, BARE_CODE), first = {0};
    static uint8_t memory[4096];
    for (unsigned r = 0; r < 16; r++)
        if (r != X86_RSP && r != X86_RDI && r != X86_R8)
            s.r[r] = 0x1111111111111111ull * r;
    s.r[X86_R9] = CALLEE;
    unsigned kicks = 0, after = 0;
    for (unsigned n = 0; n < 3 + 2000; n++) { /* three times without a kick: all is translated */
        memset(b->mem + BARE_DATA, 0x5a, sizeof(memory));
        dp_st64(b->mem + BARE_DATA + 8, CALLEE);
        bare_run_prepare(b, &s);
        struct bare_cpu *p = &b->cpu[0];
        after = n < 3 ? 0 : after + 1;
        translate_set_kick_after(b->state, after);
        bool kicked = false;
        for (;;) {
            memset(&p->exit, 0, sizeof(p->exit));
            b->engine->run(p->cpu, 0, &p->exit);
            translate_set_kick_after(b->state, 0);
            if (p->exit.kind != DP_EXIT_KICK)
                break;
            kicked = true;
            bare_irq(b, 0, 0x40);
        }
        b->engine->pull(p->cpu, &p->out);
        bare_assert_done(b, kick_places, 0);
        if (!n)
            first = p->out, memcpy(memory, b->mem + BARE_DATA, sizeof(memory));
        for (unsigned r = 0; r <= X86_RIP; r++)
            if (p->out.r[r] != first.r[r])
                fail_msg("a kick after %u host instructions: register %u is %#llx and not %#llx", after, r, (unsigned long long)p->out.r[r],
                         (unsigned long long)first.r[r]);
        assert_int_equal(p->out.rflags, first.rflags);
        assert_memory_equal(p->out.vec, first.vec, sizeof(first.vec));
        assert_int_equal(p->out.seg[X86_GS].base, first.seg[X86_GS].base);
        assert_memory_equal(memory, b->mem + BARE_DATA, sizeof(memory));
        kicks += kicked;
        if (n >= 3 && !kicked)
            break; /* it ends before */
    }
    assert_in_range(kicks, 200, 1999);
}

static char *contents(const char *path)
{
    static char text[1 << 20];
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    assert_true(n >= 0);
    text[n] = 0;
    return text;
}

static void test_shown(void **state)
{
    struct bare *b = *state;
    if (strcmp(bare_engine, "translate"))
        skip();
    char path[] = "/tmp/doppel-blocks-XXXXXX", map[64];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    snprintf(map, sizeof(map), "/tmp/perf-%d.map", (int)getpid());
    struct dp_engine_vm vm = b->vm;
    struct dp_engine_state *engine;
    struct dp_error e = {0};
    const struct dp_x86_bus bus = {0};
    vm.cpu_count = 1;
    vm.perf_map = true;
    vm.dump_path = "/nonexistent/x";
    assert_true(b->engine->vm_init(&vm, &engine, &e) < 0);
    assert_non_null(strstr(e.text, "--dump-blocks"));
    vm.dump_path = path;
    assert_int_equal(b->engine->vm_init(&vm, &engine, &e), 0);
    struct bare_cpu *p = &b->cpu[0];
    struct dp_cpu *before = p->cpu;
    assert_int_equal(b->engine->cpu_init(engine, 0, &bus, &p->cpu, &e), 0);
    for (unsigned i = 0; i < TIMES; i++)
        bare_do(b, flags_wanted);
    struct dp_engine_counters c;
    b->engine->counters(p->cpu, &c);
    assert_int_equal(c.instructions, 0);
    assert_true(c.interpreted && c.translated_blocks && c.translated_instructions && c.code_bytes && c.table_misses && c.lookups);
    b->engine->cpu_fini(p->cpu);
    b->engine->vm_fini(engine);
    p->cpu = before;
    const char *text = contents(path);
    assert_non_null(strstr(text, "64-cpl0"));
    assert_non_null(strstr(text, "adc rax, qword ptr [rdi+0x100]"));
    assert_non_null(strstr(text, "; shadow page table"));
    assert_non_null(strstr(text, "; stub slow"));
    assert_null(strstr(text, ".byte")); /* our decoder knows all that our emitter writes */
    text = contents(map);
    assert_non_null(strstr(text, "doppel:stub-enter[cpu0]"));
    assert_non_null(strstr(text, "[64-cpl0]"));
    unlink(path);
    unlink(map);
}

/* A program that rewrites a function and calls it, so often that its page is given up as code and tried again: blocks die while jump caches lead to them. */
BARE_ASM(user_rewrites, "movb $0xb8, (%rdi)\n movb $0xc3, 5(%rdi)\n mov $20000, %ebx\n xor %r12d, %r12d\n"
    "1: mov %ebx, 1(%rdi)\n call *%rdi\n add %rax, %r12\n dec %ebx\n jnz 1b\n int $0x80");
static void test_user_rewrites(void **state)
{
    struct bare *b = *state;
    for (unsigned i = 0; i < 3; i++) {
        struct x86_state s = bare_long(b, 0, BARE_USER_CODE);
        bare_user(&s);
        s.r[X86_RDI] = BARE_USER_STACK + i * 0x1000 + 0x10 * i;
        bare_put(b, BARE_USER_CODE, user_rewrites, user_rewrites_end);
        bare_run(b, &s);
        assert_int_equal(b->trap[0].vector, 0x80);
        assert_int_equal(b->trap[0].r12, 20000ull * 20001 / 2);
    }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        bare_engine = argv[1];
    if (argc > 2)
        cmocka_set_test_filter(argv[2]);
    const struct dp_engine *engine = hot_find(bare_engine);
    if (!engine || engine->probe(NULL))
        return 77; /* meson: skipped */
#define T(f) cmocka_unit_test_setup_teardown(f, bare_setup, bare_teardown)
    const struct CMUnitTest tests[] = {T(test_far), T(test_wild), T(test_edge), T(test_task_switched), T(test_large_page), T(test_rewritten), T(test_refused), T(test_smap),
                                       T(test_flags_wanted), T(test_known_end), T(test_far_links), T(test_in_turns), T(test_stack_moves),
                                       T(test_kick_places),
                                       T(test_user_rewrites), T(test_shown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
