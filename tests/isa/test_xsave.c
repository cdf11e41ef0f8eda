/* test_xsave.c - XSAVE areas: the same bytes as the host's own for the same state, what is written and what is not, and which areas are
 * refused. */
#include "isa/x86/xsave.h"
#include "tests/isa/fake.h"

enum { ALL = X86_XSTATE_X87 | X86_XSTATE_SSE | X86_XSTATE_AVX, MODE64 = X86_XSAVE_REX_W | X86_XSAVE_CODE64 };
enum { HEADER = X86_XSAVE_HEADER, XCOMP = HEADER + 8 };
#define COMPACTED (1ull << 63)

static void random_state(struct x86_state *s, struct dp_random *r)
{
    x86_state_reset(s, true);
    s->xcr0 = ALL;
    for (unsigned i = 0; i < sizeof s->vec; i++)
        ((uint8_t *)s->vec)[i] = (uint8_t)dp_random_next(r);
    s->mxcsr = 0x1f80 | (dp_random_next(r) & 0xe03f);
    s->fpu = (struct x86_fpu){.fcw = 0x37f, .fsw = (uint16_t)(dp_random_next(r) & 0x7f3f), .ftw = (uint16_t)(dp_random_next(r) & 0xff)};
    for (unsigned i = 0; i < 8; i++)
        for (unsigned k = 0; k < 10; k++)
            s->fpu.st[i][k] = (uint8_t)dp_random_next(r);
    unsigned initial = dp_random_next(r) & 7; /* components to be left out */
    if (initial & X86_XSTATE_X87)
        s->fpu = (struct x86_fpu){.fcw = 0x37f};
    if (initial & X86_XSTATE_AVX)
        for (unsigned i = 0; i < 16; i++)
            memset(s->vec[i] + 16, 0, 16);
}

/* Writes the image's pieces over area, as an engine does. */
static void apply(const struct x86_xsave_image *image, uint8_t *area)
{
    for (unsigned i = 0; i < image->count; i++) {
        assert_true(i == 0 || image->piece[i].at > image->piece[i - 1].at + image->piece[i - 1].size);
        assert_true(image->piece[i].at + image->piece[i].size <= X86_XSAVE_MAX);
        memcpy(area + image->piece[i].at, image->bytes + image->piece[i].at, image->piece[i].size);
    }
}

/* ---- against the host ---- */

static bool host_has(unsigned feature)
{
    uint64_t host[2];
    x86_cpuid_host(host);
    return host[feature / 64] >> feature % 64 & 1;
}

/* The host takes the state in `in`, saves it to `out` and has its own back. */
static __attribute__((noinline)) void host_round(enum x86_xsave_form form, uint32_t states, const uint8_t *in, uint8_t *out)
{
    static uint8_t own[4096] __attribute__((aligned(64)));
    memset(own, 0, sizeof own);
#define ROUND(insn)                                                                                                                        \
    __asm__ volatile("xsave64 (%[own])\n\tmovl %[all], %%eax\n\txrstor64 (%[in])\n\tmovl %[states], %%eax\n\t" insn                        \
                     " (%[out])\n\tmovl %[all], %%eax\n\t"                                                                                 \
                     "xrstor64 (%[own])"                                                                                                   \
                     :                                                                                                                     \
                     : [own] "r"(own), [in] "r"(in), [out] "r"(out), [states] "r"(states), [all] "i"(ALL), "a"(ALL), "d"(0)                \
                     : "memory")
    if (form == X86_XSAVE)
        ROUND("xsave64");
    else if (form == X86_XSAVEOPT)
        ROUND("xsaveopt64");
    else
        ROUND("xsavec64");
}

static void test_host(void **state)
{
    static const struct {
        enum x86_xsave_form form;
        unsigned feature;
    } forms[] = {
        {X86_XSAVE, X86_FEATURE_XSAVE},
        {X86_XSAVEOPT, X86_FEATURE_XSAVEOPT},
        {X86_XSAVEC, X86_FEATURE_XSAVEC},
    };
    static uint8_t in[1024] __attribute__((aligned(64))), native[4096] __attribute__((aligned(64))),
        ours[4096] __attribute__((aligned(64)));
    struct dp_random r;

    if (!host_has(X86_FEATURE_AVX))
        skip();
    dp_random_seed(&r, 5);
    for (unsigned n = 0; n < 3000; n++) {
        struct x86_state s, back;
        struct x86_xsave_image image;
        unsigned k = n % DP_ARRAY_LEN(forms);
        uint32_t states = dp_random_next(&r) & ALL;

        if (!host_has(forms[k].feature))
            continue;
        random_state(&s, &r);
        memset(in, 0, sizeof in);
        x86_xsave_build(&s, X86_XSAVE, ALL, MODE64, 0, &image);
        apply(&image, in);
        for (unsigned i = 0; i < X86_XSAVE_MAX; i++)
            native[i] = ours[i] = (uint8_t)dp_random_next(&r);
        host_round(forms[k].form, states, in, native);
        /* The host's MXCSR_MASK may have the bit for misaligned SSE. */
        if (memcmp(native + 28, ours + 28, 4))
            dp_st32(native + 28, 0xffff);
        x86_xsave_build(&s, forms[k].form, states, MODE64, dp_ld64(ours + HEADER), &image);
        apply(&image, ours);
        for (unsigned i = 0; i < X86_XSAVE_MAX; i++)
            if (native[i] != ours[i])
                fail_msg("case %u, form %u, states %u: byte %u is %02x, the host's %02x", n, k, states, i, ours[i], native[i]);

        /* And what was saved whole gives the state back. */
        x86_state_reset(&back, true);
        back.xcr0 = ALL;
        assert_true(x86_xrstor(&back, ALL, true, MODE64, in));
        assert_memory_equal(back.vec, s.vec, sizeof s.vec);
        assert_int_equal(back.mxcsr, s.mxcsr);
        assert_memory_equal(back.fpu.st, s.fpu.st, sizeof s.fpu.st);
        assert_int_equal(back.fpu.fsw, s.fpu.fsw);
    }
}

/* ---- what is owned ---- */

static void test_pieces(void **state)
{
    struct x86_state s;
    struct x86_xsave_image image;
    struct dp_random r;

    dp_random_seed(&r, 6);
    do
        random_state(&s, &r);
    while (x86_xsave_in_use(&s) != ALL);
    x86_xsave_build(&s, X86_FXSAVE, 0, MODE64, 0, &image);
    assert_true(image.count == 1 && image.piece[0].at == 0 && image.piece[0].size == 416);
    x86_xsave_build(&s, X86_FXSAVE, 0, 0, 0, &image); /* eight registers outside 64-bit mode */
    assert_true(image.count == 1 && image.piece[0].size == 288);
    x86_xsave_build(&s, X86_XSAVE, X86_XSTATE_AVX, MODE64, X86_XSTATE_X87, &image); /* MXCSR, header, registers */
    assert_true(image.count == 3 && image.piece[0].at == 24 && image.piece[0].size == 8);
    assert_true(image.piece[1].at == HEADER && image.piece[1].size == 8 && image.piece[2].at == X86_XSAVE_AVX &&
                image.piece[2].size == 256);
    assert_true(dp_ld64(image.bytes + HEADER) == (X86_XSTATE_AVX | X86_XSTATE_X87)); /* what was not asked for stays */
    x86_xsave_build(&s, X86_XSAVEC, X86_XSTATE_AVX, MODE64, ~0ull, &image);          /* no MXCSR */
    assert_true(image.count == 2 && image.piece[0].at == HEADER && image.piece[0].size == 16);
    assert_true(dp_ld64(image.bytes + HEADER) == X86_XSTATE_AVX && dp_ld64(image.bytes + XCOMP) == (X86_XSTATE_AVX | COMPACTED));
    x86_xsave_build(&s, X86_XSAVE, 0, MODE64, 5, &image);
    assert_true(image.count == 1 && dp_ld64(image.bytes + HEADER) == 5);
}

/* ---- hostile areas ---- */

static bool takes(const uint8_t *area, uint64_t states, uint64_t xcr0, bool compaction)
{
    struct x86_state s, before;
    x86_state_reset(&s, true);
    s.xcr0 = xcr0;
    memset(s.vec, 0x55, sizeof s.vec);
    before = s;
    bool legal = x86_xrstor_size(&s, states, compaction, area + HEADER) != 0, taken = x86_xrstor(&s, states, compaction, MODE64, area);
    assert_true(legal || !taken);
    if (!taken)
        assert_memory_equal(&s, &before, sizeof s);
    return taken;
}

static void test_hostile(void **state)
{
    uint8_t area[X86_XSAVE_MAX] = {0};

    dp_st32(area + 24, 0x1f80);
    assert_true(takes(area, ALL, ALL, true));
    for (unsigned bit = 0; bit < 512; bit++) { /* the standard format: components that are enabled, and 16 bytes of zeros behind */
        area[HEADER + bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(takes(area, ALL, ALL, true), bit < 3 || bit == 127 || bit >= 192);
        assert_int_equal(takes(area, ALL, X86_XSTATE_X87 | X86_XSTATE_SSE, true), bit < 2 || bit == 127 || bit >= 192);
        area[HEADER + bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    dp_st64(area + XCOMP, COMPACTED | X86_XSTATE_SSE);
    assert_true(takes(area, ALL, ALL, true));
    assert_false(takes(area, ALL, ALL, false)); /* a processor without XSAVEC */
    for (unsigned bit = 0; bit < 512; bit++) {  /* the compacted one: only what it has, and 48 bytes of zeros behind */
        area[HEADER + bit / 8] ^= (uint8_t)(1u << bit % 8);
        bool standard = bit == 127; /* without the bit that makes it compacted, XCOMP_BV must be 0 */
        assert_int_equal(takes(area, ALL, ALL, true), !standard && (bit == 1 || (bit >= 64 && bit < 67)));
        area[HEADER + bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    dp_st64(area + XCOMP, COMPACTED | ALL);
    assert_false(takes(area, ALL, X86_XSTATE_X87 | X86_XSTATE_SSE, true)); /* AVX is not enabled */

    /* MXCSR counts when it is loaded. */
    dp_st32(area + 24, 0x10000);
    assert_true(takes(area, ALL, ALL, true)); /* compacted: SSE is not there */
    dp_st64(area + HEADER, X86_XSTATE_SSE);
    assert_false(takes(area, ALL, ALL, true));
    assert_true(takes(area, X86_XSTATE_X87 | X86_XSTATE_AVX, ALL, true));
    dp_st64(area + XCOMP, 0);
    dp_st64(area + HEADER, 0);
    assert_false(takes(area, X86_XSTATE_AVX, ALL, true)); /* standard: AVX is enough */
    assert_true(takes(area, X86_XSTATE_X87, ALL, true));
}

/* What is not in the area becomes initial; outside 64-bit mode registers 8 to 15 are left alone. */
static void test_initial(void **state)
{
    uint8_t area[X86_XSAVE_MAX] = {0}, five[32], zero[32] = {0};
    struct x86_state s;

    memset(five, 0x55, sizeof five);
    x86_state_reset(&s, true);
    s.xcr0 = ALL;
    memset(s.vec, 0x55, sizeof s.vec);
    s.mxcsr = 0x9f80;
    dp_st64(area + XCOMP, COMPACTED);
    assert_true(x86_xrstor(&s, X86_XSTATE_AVX, true, 0, area));
    assert_int_equal(s.mxcsr, 0x9f80);
    for (unsigned i = 0; i < 16; i++) {
        assert_memory_equal(s.vec[i], five, 16);
        assert_memory_equal(s.vec[i] + 16, i < 8 ? zero : five, 16);
    }
    assert_true(x86_xrstor(&s, ALL, true, 0, area));
    assert_true(s.mxcsr == 0x1f80 && s.fpu.fcw == 0x37f && s.fpu.ftw == 0);
    assert_memory_equal(s.vec[7], zero, 32);
    assert_memory_equal(s.vec[8], five, 32);
    assert_true(x86_xrstor(&s, ALL, true, MODE64, area));
    assert_memory_equal(s.vec[15], zero, 32);
    assert_int_equal(x86_xsave_in_use(&s), X86_XSTATE_SSE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_initial),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
