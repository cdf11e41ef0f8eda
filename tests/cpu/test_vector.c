/* test_vector.c ENGINE [MODE [FILTER]]: what x86-64-v3 has beyond single instructions on good operands: when AVX may be used, operands at
 * the edges of pages, masked moves, gathers that fault and go on, XSAVE areas, PCIDs.
 *
 * Model and modes: see bare.h. What instructions compute is cpu-diff's.
 * Source: Intel SDM vol. 1 ch. 13, 14; vol. 2 2.4, VGATHER..., VMASKMOV; vol. 3 4.10 (PCIDs).
 */
#include "bare.h"

#define D BARE_DATA
#define AT(name, mark) (BARE_CODE + (uint64_t)(name##_##mark - name))
#define MARK(name, mark) extern const uint8_t name##_##mark[]

/* bare_long with AVX enabled. */
static struct x86_state vector_state(struct bare *b)
{
    struct x86_state s = bare_long(b, 0, BARE_CODE);
    s.cr4 |= X86_CR4_OSXSAVE;
    s.xcr0 = 7;
    for (unsigned n = 0; n < 16; n++)
        for (unsigned k = 0; k < 32; k++)
            s.vec[n][k] = (uint8_t)(n * 32 + k + 1);
    return s;
}
#define vector_do(b, name) vector_do_at(b, name, name##_end)
static const struct x86_state *vector_do_at(struct bare *b, const uint8_t *begin, const uint8_t *end)
{
    bare_put(b, BARE_CODE, begin, end);
    struct x86_state s = vector_state(b);
    return bare_run(b, &s);
}

/* ---- when ---- */
BARE_ASM(use_avx, "vpaddd %ymm1, %ymm2, %ymm3");
BARE_ASM(use_aes, "vaesenc %xmm1, %xmm2, %xmm3");
BARE_ASM(use_zero, "vzeroupper");
BARE_ASM(use_bmi, "andn %eax, %ebx, %ecx\n pdep %eax, %ebx, %ecx");
BARE_ASM(use_xsave, "xor %eax, %eax\n xor %edx, %edx\n xsave (%rdi)");
static void test_usable(void **state)
{
    struct bare *b = *state;
    enum { OSX = X86_CR4_OSXSAVE, FXSR = X86_CR4_OSFXSR, TS = X86_CR0_TS, EM = X86_CR0_EM, OK = 0xff };
    static const struct {
        uint32_t cr4, cr0;
        uint8_t xcr0, avx, bmi, xsave;
    } t[] = {
        {OSX | FXSR, 0, 7, OK, OK, OK},          {OSX, 0, 7, OK, OK, OK}, /* CR4.OSFXSR is for legacy SSE */
        {OSX | FXSR, EM, 7, OK, OK, OK},                                  /* so is CR0.EM */
        {FXSR, 0, 7, X86_UD, OK, X86_UD},        {OSX | FXSR, 0, 3, X86_UD, OK, OK},
        {OSX | FXSR, 0, 1, X86_UD, OK, OK},      {OSX | FXSR, TS, 7, X86_NM, OK, X86_NM},
        {OSX | FXSR, TS, 3, X86_UD, OK, X86_NM}, /* #UD comes first */
        {FXSR, TS, 7, X86_UD, OK, X86_UD},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(t); i++) {
        const struct {
            const uint8_t *begin, *end;
            uint8_t vector;
        } code[] = {
            {use_avx, use_avx_end, t[i].avx}, {use_aes, use_aes_end, t[i].avx},       {use_zero, use_zero_end, t[i].avx},
            {use_bmi, use_bmi_end, t[i].bmi}, {use_xsave, use_xsave_end, t[i].xsave},
        };
        for (unsigned k = 0; k < DP_ARRAY_LEN(code); k++) {
            bare_put(b, BARE_CODE, code[k].begin, code[k].end);
            struct x86_state s = vector_state(b);
            s.cr4 = (s.cr4 & ~(uint64_t)(OSX | FXSR)) | t[i].cr4;
            s.cr0 |= t[i].cr0;
            s.xcr0 = t[i].xcr0;
            bare_run(b, &s);
            if (b->traps != (code[k].vector != OK) || (b->traps && b->trap[0].vector != code[k].vector))
                fail_msg("case %u, code %u: %u traps, vector %u", i, k, b->traps, b->traps ? (unsigned)b->trap[0].vector : 0);
        }
    }
}
/* XSETBV and MOV CR count for what stands right behind them, and for code decoded before. */
BARE_ASM(use_turn,
         "mov $2, %ebp\n xor %ecx, %ecx\n xor %edx, %edx\n1: mov $7, %eax\n xsetbv\n vpaddd %ymm1, %ymm2, %ymm3\n mov $3, %eax\n xsetbv\n"
         " lea 2f(%rip), %r15\nuse_turn_at: vpaddd %ymm1, %ymm2, %ymm3\n ud2\n2: mov $7, %eax\n xsetbv\n dec %ebp\n jnz 1b\n mov %cr0, "
         "%rax\n or $8, %eax\n"
         " mov %rax, %cr0\n lea 3f(%rip), %r15\n vpaddd %ymm1, %ymm2, %ymm3\n ud2\n3: clts\n vpaddd %ymm1, %ymm2, %ymm4");
MARK(use_turn, at);
static void test_usable_now(void **state)
{
    struct bare *b = *state;
    const struct x86_state *s = vector_do(b, use_turn);
    bare_assert_done(b, use_turn, 3);
    assert_int_equal(b->trap[0].vector, X86_UD);
    assert_int_equal(b->trap[0].rip, AT(use_turn, at));
    assert_int_equal(b->trap[1].vector, X86_UD);
    assert_int_equal(b->trap[2].vector, X86_NM);
    assert_memory_equal(s->vec[3], s->vec[4], 32);
}
/* No VEX in real mode. */
BARE_CODE_BITS(16, use_real, ".byte 0xc5, 0xf1, 0xfe, 0xc0"); /* vpaddd %xmm0, %xmm1, %xmm0, or LDS with a register: #UD */
static void test_real(void **state)
{
    struct bare *b = *state;
    bare_put(b, BARE_CODE, use_real, use_real_end);
    struct x86_state s = bare_real(b, BARE_CODE >> 4, 0);
    s.cr4 = X86_CR4_OSXSAVE;
    s.xcr0 = 7;
    assert_int_equal(bare_stub_vector(bare_run(b, &s)), X86_UD);
}

/* ---- operands ---- */
BARE_ASM(
    aligned,
    "vmovaps (%rdi), %ymm0\n lea 1f(%rip), %r15\n vmovaps 16(%rdi), %ymm1\n ud2\n1: lea 2f(%rip), %r15\n vmovntdq %ymm0, 16(%rdi)\n ud2\n"
    "2: vmovaps 16(%rdi), %xmm1\n vmovups 1(%rdi), %ymm2\n vpaddd 3(%rdi), %ymm2, %ymm3\n vaesenc 5(%rdi), %xmm2, %xmm4");
static void test_alignment(void **state)
{
    struct bare *b = *state;
    vector_do(b, aligned);
    bare_assert_done(b, aligned, 2);
    assert_true(b->trap[0].vector == X86_GP && b->trap[0].error == 0 && b->trap[1].vector == X86_GP);
}
/* An operand in two pages, the second of which is not there: the page fault names it, nothing has changed. */
BARE_ASM(
    two_pages,
    "mov $0x40000ff0, %ebx\n lea 1f(%rip), %r15\n vpaddd (%rbx), %ymm1, %ymm1\n ud2\n1: lea 2f(%rip), %r15\n vmovdqu %ymm2, (%rbx)\n ud2\n"
    "2: movq $0x22003, 0xc008\n vmovdqu %ymm2, (%rbx)\n vmovdqu (%rbx), %ymm3");
static void test_two_pages(void **state)
{
    struct bare *b = *state;
    bare_map(b, BARE_ALIAS, D, 3);
    bare_map(b, BARE_ALIAS + 0x1000, 0, 0);
    memset(b->mem + D + 0xff0, 0x77, 16);
    struct x86_state before = vector_state(b);
    const struct x86_state *s = vector_do(b, two_pages);
    bare_assert_done(b, two_pages, 2);
    for (unsigned i = 0; i < 2; i++)
        assert_true(b->trap[i].vector == X86_PF_ && b->trap[i].cr2 == BARE_ALIAS + 0x1000 && b->trap[i].error == 2 * i);
    assert_memory_equal(s->vec[1], before.vec[1], 32);
    assert_memory_equal(s->vec[3], before.vec[2], 32);
    assert_memory_equal(b->mem + D + 0xff0, before.vec[2], 16);
    assert_memory_equal(b->mem + 0x22000, before.vec[2] + 16, 16);
}
/* Through a device: 32 bytes are four accesses. */
BARE_ASM(
    device,
    "mov $0xf0000000, %ebx\n vmovdqu %ymm1, 8(%rbx)\n vmovdqu 8(%rbx), %ymm2\n vpxor %xmm3, %xmm3, %xmm3\n vpcmpeqd %xmm4, %xmm4, %xmm4\n"
    " vpmaskmovd %ymm1, %ymm4, 64(%rbx)\n vpmaskmovd 64(%rbx), %xmm4, %xmm5");
static void test_device(void **state)
{
    struct bare *b = *state;
    struct x86_state before = vector_state(b);
    dp_st64(b->mem + BARE_PDPT + 24, 0xe000 | 3); /* 3 GiB: a directory with the device's page */
    memset(b->mem + 0xe000, 0, 4096);
    dp_st64(b->mem + 0xe000 + (BARE_MMIO >> 21 & 511) * 8, BARE_MMIO | 0x83);
    const struct x86_state *s = vector_do(b, device);
    bare_assert_done(b, device, 0);
    assert_memory_equal(b->mmio + 8, before.vec[1], 32);
    assert_memory_equal(s->vec[2], before.vec[1], 32);
    assert_memory_equal(b->mmio + 64, before.vec[1], 16); /* the mask's high half is clear */
    assert_memory_equal(s->vec[5], before.vec[1], 16);
}

/* ---- masks ---- */
/* ymm4: elements 0-3 selected, which end the page; 4-7 lie in one that is not there. */
BARE_ASM(masked,
         "mov $0x40000ff0, %ebx\n vpcmpeqd %xmm4, %xmm4, %xmm4\n vpmaskmovd (%rbx), %ymm4, %ymm5\n vmaskmovps %ymm2, %ymm4, (%rbx)\n"
         " vpcmpeqd %ymm4, %ymm4, %ymm4\n lea 1f(%rip), %r15\n vpmaskmovd (%rbx), %ymm4, %ymm6\n ud2\n1: lea 2f(%rip), %r15\n vmaskmovpd "
         "%ymm3, %ymm4, (%rbx)\n ud2\n"
         "2: vpxor %xmm4, %xmm4, %xmm4\n xor %ebx, %ebx\n dec %rbx\n vpmaskmovd %ymm3, %ymm4, (%rbx)\n vpmaskmovd (%rbx), %ymm4, %ymm7");
static void test_masked(void **state)
{
    struct bare *b = *state;
    struct x86_state before = vector_state(b);
    uint8_t sevens[16], zero[32] = {0};
    bare_map(b, BARE_ALIAS, D, 3);
    bare_map(b, BARE_ALIAS + 0x1000, 0, 0);
    memset(sevens, 0x77, 16);
    memset(b->mem + D + 0xff0, 0x77, 16);
    const struct x86_state *s = vector_do(b, masked);
    bare_assert_done(b, masked, 2);
    for (unsigned i = 0; i < 2; i++)
        assert_true(b->trap[i].vector == X86_PF_ && b->trap[i].cr2 == BARE_ALIAS + 0x1000 && b->trap[i].error == 2 * i);
    assert_memory_equal(s->vec[5], sevens, 16);
    assert_memory_equal(s->vec[5] + 16, zero, 16);
    assert_memory_equal(s->vec[6], before.vec[6], 32);
    assert_memory_equal(b->mem + D + 0xff0, before.vec[2], 16); /* the store that faulted wrote nothing */
    assert_memory_equal(s->vec[7], zero, 32);                   /* nothing selected, nothing touched, canonical or not */
}

/* A gather whose third element faults: two are done and their masks clear; after the fault it goes on. */
BARE_ASM(gather, "vpcmpeqd %ymm4, %ymm4, %ymm4\n vmovdqu (%rdi), %ymm5\n mov $0x40000000, %ebx\n vpgatherdd %ymm4, (%rbx,%ymm5,4), %ymm6");
static void map_second(struct bare *b, struct bare_frame *f)
{
    b->arg[0] = f->cr2;
    bare_map(b, BARE_ALIAS + 0x1000, D + 0x1000, 3);
}
static void test_gather(void **state)
{
    struct bare *b = *state;
    static const int32_t index[8] = {0, 5, 0x400, 7, 0x401, 9, 2, 3};
    uint8_t zero[32] = {0};
    bare_map(b, BARE_ALIAS, D + 0x3000, 3);
    bare_map(b, BARE_ALIAS + 0x1000, 0, 0);
    memcpy(b->mem + D, index, sizeof index);
    for (unsigned i = 0; i < 1024; i++) {
        dp_st32(b->mem + D + 0x3000 + i * 4, 0xa0000 + i);
        dp_st32(b->mem + D + 0x1000 + i * 4, 0xb0000 + i);
    }
    b->on_trap = map_second;
    const struct x86_state *s = vector_do(b, gather);
    bare_assert_done(b, gather, 1);
    assert_true(b->trap[0].vector == X86_PF_ && b->arg[0] == BARE_ALIAS + 0x1000);
    static const uint32_t want[8] = {0xa0000, 0xa0005, 0xb0000, 0xa0007, 0xb0001, 0xa0009, 0xa0002, 0xa0003};
    assert_memory_equal(s->vec[6], want, 32);
    assert_memory_equal(s->vec[4], zero, 32);
}
BARE_ASM(gather_stop, "vpcmpeqd %ymm4, %ymm4, %ymm4\n vmovdqu (%rdi), %ymm5\n mov $0x40000000, %ebx\n lea 1f(%rip), %r15\n"
                      " vpgatherdd %ymm4, (%rbx,%ymm5,4), %ymm6\n ud2\n1: nop");
static void test_gather_stop(void **state)
{
    struct bare *b = *state;
    static const int32_t index[8] = {0, 1, 0x400, 7};
    struct x86_state before = vector_state(b);
    bare_map(b, BARE_ALIAS, D + 0x3000, 3);
    bare_map(b, BARE_ALIAS + 0x1000, 0, 0);
    memcpy(b->mem + D, index, sizeof index);
    dp_st32(b->mem + D + 0x3000, 1), dp_st32(b->mem + D + 0x3004, 2);
    const struct x86_state *s = vector_do(b, gather_stop);
    bare_assert_done(b, gather_stop, 1);
    static const uint32_t mask[8] = {0, 0, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u}, done[2] = {1, 2};
    assert_memory_equal(s->vec[4], mask, 32);
    assert_memory_equal(s->vec[6], done, 8);
    assert_memory_equal(s->vec[6] + 8, before.vec[6] + 8, 24);
}

/* ---- XSAVE ---- */
BARE_ASM(
    xsave_round,
    "mov $7, %eax\n xor %edx, %edx\n xsave (%rdi)\n xsavec 1024(%rdi)\n vzeroall\n mov $1, %ecx\n xgetbv\n mov %eax, %ebx\n mov $7, %eax\n"
    " xrstor (%rdi)\n vmovdqu %ymm9, 2048(%rdi)\n vzeroall\n xrstor 1024(%rdi)\n mov $1, %ecx\n xgetbv");
static void test_xsave(void **state)
{
    struct bare *b = *state;
    struct x86_state before = vector_state(b);
    memset(b->mem + D, 0, 4096);
    const struct x86_state *s = vector_do(b, xsave_round);
    bare_assert_done(b, xsave_round, 0);
    assert_memory_equal(s->vec, before.vec, sizeof s->vec);
    assert_memory_equal(b->mem + D + 2048, before.vec[9], 32);
    assert_int_equal(bare_ld(b, D + 512) & 6, 6);
    assert_int_equal(bare_ld(b, D + 520), 0);
    assert_true(bare_ld(b, D + 1024 + 520) == (1ull << 63 | 7));
    assert_int_equal(s->r[X86_RBX] & 4, 0); /* not in use after VZEROALL */
    assert_int_equal(s->r[X86_RAX] & 6, 6);
}
/* Areas that are refused leave the registers; so does one that ends in a page that is not there, and a save to it writes nothing. */
BARE_ASM(xrstor_bad, "mov $7, %eax\n xor %edx, %edx\n mov $0x40000d00, %ebx\n lea 1f(%rip), %r15\n xrstor (%rbx)\n ud2\n1: lea 2f(%rip), "
                     "%r15\n xrstor (%rdi)\n ud2\n"
                     "2: lea 3f(%rip), %r15\n xrstor 1024(%rdi)\n ud2\n3: lea 4f(%rip), %r15\n xsave 32(%rdi)\n ud2\n4: lea 5f(%rip), "
                     "%r15\n xsave (%rbx)\n ud2\n5: nop");
static void test_xrstor_bad(void **state)
{
    struct bare *b = *state;
    struct x86_state before = vector_state(b);
    uint8_t *area = b->mem + D + 0x3d00, untouched[0x300];
    memset(b->mem + D, 0, 0x5000);
    dp_st64(area + 512, 7), dp_st32(area + 24, 0x1f80);
    memcpy(untouched, area, sizeof untouched);
    bare_map(b, BARE_ALIAS, D + 0x3000, 3);
    bare_map(b, BARE_ALIAS + 0x1000, 0, 0);
    dp_st64(b->mem + D + 512, 8);                        /* a component that does not exist */
    dp_st64(b->mem + D + 1024 + 520, 1ull << 63 | 0x20); /* the same, compacted */
    const struct x86_state *s = vector_do(b, xrstor_bad);
    bare_assert_done(b, xrstor_bad, 5);
    assert_true(b->trap[0].vector == X86_PF_ && b->trap[0].cr2 >= BARE_ALIAS + 0x1000 && b->trap[0].error == 0);
    for (unsigned i = 1; i < 4; i++)
        assert_true(b->trap[i].vector == X86_GP && b->trap[i].error == 0);
    assert_true(b->trap[4].vector == X86_PF_ && b->trap[4].cr2 >= BARE_ALIAS + 0x1000 && b->trap[4].error == 2);
    assert_memory_equal(s->vec, before.vec, sizeof s->vec);
    assert_memory_equal(area, untouched, sizeof untouched);
}

/* ---- PCIDs ---- */
/* Two address spaces, PCIDs 1 and 2, that differ in what is at ALIAS; switched without flushing, each sees its own. */
enum { PML4_2 = 0x2000 + D, PDPT_2 = 0x3000 + D, PD_2 = 0x4000 + D, PT_2 = 0x5000 + D };
BARE_ASM(pcid_switch,
         "mov %cr4, %rax\n or $0x20000, %eax\n mov %rax, %cr4\n mov $0x40000000, %ebx\n mov $0x8000000000000000, %r9\n mov $0x1001, %r10d\n"
         " mov $0x22002, %r11d\n mov %r10, %cr3\n mov (%rbx), %eax\n mov %r11, %cr3\n mov (%rbx), %ecx\n or %r9, %r10\n or %r9, %r11\n"
         " mov %r10, %cr3\n mov (%rbx), %edx\n mov %r11, %cr3\n mov (%rbx), %esi\n mov %cr3, %rbp");
static void second_space(struct bare *b)
{
    memcpy(b->mem + PML4_2, b->mem + BARE_PML4, 4096);
    memcpy(b->mem + PDPT_2, b->mem + BARE_PDPT, 4096);
    memset(b->mem + PD_2, 0, 8192);
    dp_st64(b->mem + PML4_2, PDPT_2 | 7);
    dp_st64(b->mem + PDPT_2 + 8, PD_2 | 7);
    dp_st64(b->mem + PD_2, PT_2 | 7);
    dp_st64(b->mem + PT_2, (D + 0x1000) | 3);
    bare_map(b, BARE_ALIAS, D, 3);
    dp_st32(b->mem + D, 11), dp_st32(b->mem + D + 0x1000, 22);
}
static void test_pcid_switch(void **state)
{
    struct bare *b = *state;
    second_space(b);
    const struct x86_state *s = vector_do(b, pcid_switch);
    bare_assert_done(b, pcid_switch, 0);
    assert_int_equal(s->r[X86_RAX], 11);
    assert_int_equal(s->r[X86_RCX], 22);
    assert_int_equal(s->r[X86_RDX], 11);
    assert_int_equal(s->r[X86_RSI], 22);
    assert_int_equal(s->r[X86_RBP], 0x22002); /* bit 63 is not kept */
    assert_true(s->cr3 == 0x22002);
}
/* INVPCID in every type, for the current PCID and for one that is not, after which CR3 goes back there without a flush. */
BARE_ASM(pcid_inv,
         "mov %cr4, %rax\n or $0x20080, %eax\n mov %rax, %cr4\n mov $0x40000000, %ebx\n mov $0x8000000000000000, %r9\n mov $0x1001, %r10d\n"
         " mov $0x22002, %r11d\n mov %r10, %cr3\n mov (%rbx), %eax\n"    /* in the TLB as 11 */
         " mov %r14, 0xc000\n invpcid (%rdi), %rsi\n mov (%rbx), %ecx\n" /* the entry is another now: 22 */
         " mov %r11, %cr3\n mov %r13, 0xc000\n invpcid (%rdi), %rsi\n or %r9, %r10\n mov %r10, %cr3\n mov (%rbx), %edx"); /* and back: 11 */
static void test_invpcid(void **state)
{
    struct bare *b = *state;
    for (unsigned type = 0; type < 4; type++)
        for (unsigned global = 0; global < 2; global++) {
            if (global && type != 2) /* the others may keep global pages */
                continue;
            second_space(b);
            uint64_t flags = global ? 0x103 : 3;
            bare_map(b, BARE_ALIAS, D, flags);
            dp_st64(b->mem + D + 0x800, 1), dp_st64(b->mem + D + 0x808, BARE_ALIAS);
            bare_put(b, BARE_CODE, pcid_inv, pcid_inv_end);
            struct x86_state s0 = vector_state(b);
            s0.r[X86_RDI] = D + 0x800, s0.r[X86_RSI] = type;
            s0.r[X86_R14] = (D + 0x1000) | flags, s0.r[X86_R13] = D | flags;
            const struct x86_state *s = bare_run(b, &s0);
            bare_assert_done(b, pcid_inv, 0);
            if (s->r[X86_RAX] != 11 || s->r[X86_RCX] != 22 || s->r[X86_RDX] != 11)
                fail_msg("type %u: %d %d %d", type, (int)s->r[X86_RAX], (int)s->r[X86_RCX], (int)s->r[X86_RDX]);
        }
}
BARE_ASM(invpcid_bad, "mov $4, %eax\n lea 1f(%rip), %r15\n invpcid (%rdi), %rax\n ud2\n1: xor %eax, %eax\n lea 2f(%rip), %r15\n invpcid "
                      "16(%rdi), %rax\n ud2\n"
                      "2: lea 3f(%rip), %r15\n mov $0x40000ff8, %ebx\n invpcid (%rbx), %rax\n ud2\n3: mov $2, %eax\n invpcid (%rdi), %rax");
static void test_invpcid_bad(void **state)
{
    struct bare *b = *state;
    bare_map(b, BARE_ALIAS, D, 3);
    bare_map(b, BARE_ALIAS + 0x1000, 0, 0);
    memset(b->mem + D, 0, 4096);
    dp_st64(b->mem + D + 16, 3); /* a PCID while CR4.PCIDE is 0 */
    vector_do(b, invpcid_bad);
    bare_assert_done(b, invpcid_bad, 3);
    assert_true(b->trap[0].vector == X86_GP && b->trap[1].vector == X86_GP && b->trap[2].vector == X86_PF_);
    struct x86_state s = vector_state(b); /* and not for users */
    bare_put(b, BARE_USER_CODE, invpcid_bad, invpcid_bad_end);
    bare_user(&s);
    s.r[X86_RIP] = BARE_USER_CODE;
    bare_run(b, &s);
    assert_true(b->traps >= 1 && b->trap[0].vector == X86_GP);
}

int main(int argc, char **argv)
{
    struct x86_cpuid_model model;
    uint64_t host[2];
    if (argc > 1)
        bare_engine = argv[1];
    if (argc > 2)
        bare_mode = argv[2];
    if (argc > 3)
        cmocka_set_test_filter(argv[3]);
    bare_model = "x86-64-v3";
    x86_cpuid_host(host);
    if (x86_cpuid_model(bare_model, &model, NULL) || x86_cpuid_fit(&model, host, NULL))
        return 77; /* meson: skipped */
#define T(f) cmocka_unit_test_setup_teardown(f, bare_setup, bare_teardown)
    const struct CMUnitTest tests[] = {
        T(test_usable), T(test_usable_now),  T(test_real),  T(test_alignment),  T(test_two_pages),   T(test_device),  T(test_masked),
        T(test_gather), T(test_gather_stop), T(test_xsave), T(test_xrstor_bad), T(test_pcid_switch), T(test_invpcid), T(test_invpcid_bad),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
