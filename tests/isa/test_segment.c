/* test_segment.c - segment loads, far transfers, gates, fast system calls, LAR/LSL/VERR/VERW, the I/O bitmap: checks and error codes. */
#include "tests/isa/fake.h"

/* ---- loads ---- */

struct load { uint32_t attr; uint8_t cpl, rpl; int vector; /* 0: loads */ };

static void try_load(enum x86_seg_name seg, const struct load *l)
{
    struct fake *f = fake_protected(l->cpl);
    uint16_t sel = SEL_FREE | l->rpl;

    put64(f, GDT + SEL_FREE, desc(0x12345678, 0x1234, l->attr));
    if (l->vector) {
        assert_fault(f, x86_load_segment(&f->c, seg, sel), l->vector, SEL_FREE);
        assert_true(get64(f, GDT + SEL_FREE) == desc(0x12345678, 0x1234, l->attr));
    } else {
        assert_int_equal(x86_load_segment(&f->c, seg, sel), 0);
        assert_int_equal(f->s.seg[seg].sel, sel);
        assert_int_equal(f->s.seg[seg].base, 0x12345678);
        assert_int_equal(f->s.seg[seg].limit, l->attr & DESC_G ? 0x1234fff : 0x1234);
        assert_int_equal(f->s.seg[seg].attr, (l->attr & ~0xf00u) | DESC_A);
        assert_true(get64(f, GDT + SEL_FREE) == desc(0x12345678, 0x1234, l->attr | DESC_A));
    }
    free(f);
}

static void test_data_loads(void **state)
{
    static const struct load cases[] = {
        {DATA32, 0, 0, 0}, {DATA32 | DESC_G, 0, 0, 0}, {DATA32 | DESC_DPL(3), 3, 3, 0}, {DATA32 | DESC_DPL(3), 0, 3, 0},
        {DATA32, 0, 3, X86_GP} /* RPL */, {DATA32, 3, 0, X86_GP} /* CPL */, {DATA32 | DESC_DPL(2), 3, 2, X86_GP},
        {DATA32 & ~DESC_P, 0, 0, X86_NP}, {DATA32 & ~DESC_W, 0, 0, 0} /* read-only data */,
        {CODE32, 0, 0, 0}, {CODE32 & ~DESC_R, 0, 0, X86_GP}, {CODE32, 3, 3, X86_GP}, {CODE32 | DESC_C, 3, 3, 0} /* conforming: any level */,
        {DESC_P | 2 /* LDT */, 0, 0, X86_GP}, {DESC_P | 11, 0, 0, X86_GP}, {DATA32 & ~DESC_P, 3, 3, X86_GP} /* privilege before presence */,
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(cases); i++) {
        try_load(X86_DS, &cases[i]);
        try_load(X86_GS, &cases[i]);
    }
}

static void test_stack_loads(void **state)
{
    static const struct load cases[] = {
        {DATA32, 0, 0, 0}, {DATA32 | DESC_DPL(3), 3, 3, 0}, {DATA32 | DESC_DPL(3), 0, 3, X86_GP}, {DATA32 | DESC_DPL(3), 0, 0, X86_GP},
        {DATA32, 0, 3, X86_GP}, {DATA32 & ~DESC_W, 0, 0, X86_GP}, {CODE32, 0, 0, X86_GP}, {DATA32 & ~DESC_P, 0, 0, X86_SS_}, {DATA32 | DESC_E, 0, 0, 0},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(cases); i++)
        try_load(X86_SS, &cases[i]);
}

static void test_null_and_limits(void **state)
{
    struct fake *f = fake_protected(0);

    for (unsigned rpl = 0; rpl < 4; rpl++) {
        assert_int_equal(x86_load_segment(&f->c, X86_ES, (uint16_t)rpl), 0);
        assert_true(f->s.seg[X86_ES].attr & X86_ATTR_UNUSABLE);
        assert_int_equal(f->s.seg[X86_ES].sel, rpl);
    }
    assert_fault(f, x86_load_segment(&f->c, X86_SS, 0), X86_GP, 0);
    assert_fault(f, x86_load_segment(&f->c, X86_DS, 0x200), X86_GP, 0x200); /* just outside the GDT */
    assert_fault(f, x86_load_segment(&f->c, X86_DS, 0x203), X86_GP, 0x200);
    f->s.gdtr.limit = 0x1fe; /* the last byte is missing */
    assert_fault(f, x86_load_segment(&f->c, X86_DS, 0x1f8), X86_GP, 0x1f8);
    assert_fault(f, x86_load_segment(&f->c, X86_DS, 0xc), X86_GP, 0xc); /* no LDT */
    assert_int_equal(x86_load_ldt(&f->c, SEL_LDT), 0);
    assert_int_equal(f->s.ldtr.base, LDT);
    put64(f, LDT + 8, desc(0x777, 0xf, DATA32));
    assert_int_equal(x86_load_segment(&f->c, X86_DS, 0xc), 0);
    assert_int_equal(f->s.seg[X86_DS].base, 0x777);
    assert_fault(f, x86_load_segment(&f->c, X86_DS, 0x104), X86_GP, 0x104);
    f->bad = GDT; /* the table is not mapped */
    assert_int_equal(x86_load_segment(&f->c, X86_DS, K_DATA), -1);
    assert_int_equal(f->c.fault.vector, X86_PF_);
    assert_int_equal(f->c.fault.error, 0); /* a supervisor access, whatever the CPL */
    free(f);

    f = fake_long(0);
    assert_int_equal(x86_load_segment(&f->c, X86_SS, 0), 0); /* null SS is fine in 64-bit code below ring 3 */
    assert_int_equal(x86_cpl(&f->s), 0);
    assert_fault(f, x86_load_segment(&f->c, X86_SS, 1), X86_GP, 0);
    f->s.seg[X86_CS].attr &= ~X86_ATTR_L;
    assert_fault(f, x86_load_segment(&f->c, X86_SS, 0), X86_GP, 0);
    free(f);
    f = fake_long(3);
    assert_fault(f, x86_load_segment(&f->c, X86_SS, 3), X86_GP, 0);
    f->s.seg[X86_FS].base = 0x123456789abcull;
    assert_int_equal(x86_load_segment(&f->c, X86_FS, 0), 0);
    assert_int_equal(f->s.seg[X86_FS].base, 0);
    free(f);
}

static void test_real_loads(void **state)
{
    struct fake *f = fake_new();

    f->s.seg[X86_DS].limit = 0xffffffff; /* "unreal" survives loads */
    assert_int_equal(x86_load_segment(&f->c, X86_DS, 0x1234), 0);
    assert_int_equal(f->s.seg[X86_DS].base, 0x12340);
    assert_int_equal(f->s.seg[X86_DS].limit, 0xffffffff);
    f->s.cr0 |= X86_CR0_PE;
    f->s.rflags |= X86_VM;
    assert_int_equal(x86_load_segment(&f->c, X86_DS, 0x4321), 0);
    assert_int_equal(f->s.seg[X86_DS].limit, 0xffff);
    assert_int_equal(f->s.seg[X86_DS].attr, 0xf3);
    free(f);
}

static void test_ldt_tr(void **state)
{
    struct fake *f = fake_protected(0);

    assert_int_equal(x86_load_ldt(&f->c, 0), 0);
    assert_true(f->s.ldtr.attr & X86_ATTR_UNUSABLE);
    assert_fault(f, x86_load_ldt(&f->c, 0xc), X86_GP, 0xc);
    assert_fault(f, x86_load_ldt(&f->c, K_DATA), X86_GP, K_DATA);
    put64(f, GDT + SEL_LDT, desc(LDT, 0xff, 2));
    assert_fault(f, x86_load_ldt(&f->c, SEL_LDT), X86_NP, SEL_LDT);

    assert_fault(f, x86_load_tr(&f->c, 0), X86_GP, 0);
    assert_fault(f, x86_load_tr(&f->c, SEL_TSS), X86_GP, SEL_TSS); /* busy */
    put64(f, GDT + SEL_TSS, desc(TSS, 0x67, 9));
    assert_fault(f, x86_load_tr(&f->c, SEL_TSS), X86_NP, SEL_TSS);
    put64(f, GDT + SEL_TSS, desc(TSS, 0x67, DESC_P | 9));
    assert_int_equal(x86_load_tr(&f->c, SEL_TSS), 0);
    assert_int_equal(f->s.tr.attr, DESC_P | 11);
    assert_true(get64(f, GDT + SEL_TSS) == desc(TSS, 0x67, DESC_P | 11));
    put64(f, GDT + SEL_TSS, desc(TSS, 0x2b, DESC_P | 1));
    assert_int_equal(x86_load_tr(&f->c, SEL_TSS), 0);
    assert_int_equal(f->s.tr.attr, DESC_P | 3);
    free(f);

    f = fake_long(0);
    put64(f, GDT + SEL_TSS, desc(0x89abcdef, 0x67, DESC_P | 9));
    put64(f, GDT + SEL_TSS + 8, 0xffff8001);
    assert_int_equal(x86_load_tr(&f->c, SEL_TSS), 0);
    assert_true(f->s.tr.base == 0xffff800189abcdefull);
    put64(f, GDT + SEL_TSS, desc(0x89abcdef, 0x67, DESC_P | 9));
    put64(f, GDT + SEL_TSS + 8, 0x0000f0000000ull | 0x80000000); /* not canonical */
    put32(f, GDT + SEL_TSS + 8, 0x00800000);
    assert_fault(f, x86_load_tr(&f->c, SEL_TSS), X86_GP, SEL_TSS);
    put64(f, GDT + SEL_TSS + 8, 1ull << 40); /* type bits in the second half */
    assert_fault(f, x86_load_tr(&f->c, SEL_TSS), X86_GP, SEL_TSS);
    put64(f, GDT + SEL_TSS, desc(0, 0x2b, DESC_P | 1)); /* 16-bit TSS: unknown there */
    assert_fault(f, x86_load_tr(&f->c, SEL_TSS), X86_GP, SEL_TSS);
    free(f);
}

/* ---- direct far transfers ---- */

static void test_far_real(void **state)
{
    struct fake *f = fake_new();

    f->s.r[X86_RSP] = 0x10000 + 0x100; /* the upper half stays */
    f->s.seg[X86_SS].base = 0x5000;
    assert_int_equal(x86_far_call(&f->c, 0x1000, 0x12345678 & 0xffff, 2, 0xfff5), 0);
    assert_int_equal(f->s.seg[X86_CS].base, 0x10000);
    assert_int_equal(f->s.r[X86_RIP], 0x5678);
    assert_int_equal(f->s.r[X86_RSP], 0x100fc);
    assert_int_equal(get16(f, 0x5000 + 0xfe), 0xf000);
    assert_int_equal(get16(f, 0x5000 + 0xfc), 0xfff5);
    assert_int_equal(x86_far_return(&f->c, 2, 6), 0);
    assert_int_equal(f->s.seg[X86_CS].sel, 0xf000);
    assert_int_equal(f->s.r[X86_RIP], 0xfff5);
    assert_int_equal(f->s.r[X86_RSP], 0x10106);
    assert_fault(f, x86_far_jump(&f->c, 0, 0x10000, 4, 0), X86_GP, 0); /* outside the limit */
    f->s.r[X86_RSP] = 1;
    assert_fault(f, x86_far_call(&f->c, 0, 0, 2, 0), X86_SS_, 0); /* a word at FFFF wraps: the limit says no */
    free(f);
}

struct jump { uint32_t attr; uint8_t cpl, rpl; uint32_t offset; int vector; bool zero_error; };

static void test_far_direct(void **state)
{
    static const struct jump cases[] = {
        {CODE32, 0, 0, 0x1234, 0, 0}, {CODE32, 0, 0, 0x1235, X86_GP, true}, {CODE32, 0, 3, 0, X86_GP, 0}, {CODE32, 3, 0, 0, X86_GP, 0},
        {CODE32 | DESC_DPL(3), 3, 0, 0, 0, 0}, {CODE32 | DESC_DPL(3), 0, 0, 0, X86_GP, 0}, {CODE32 | DESC_C, 3, 3, 0, 0, 0},
        {CODE32 | DESC_C | DESC_DPL(3), 0, 0, 0, X86_GP, 0}, {CODE32 & ~DESC_P, 0, 0, 0, X86_NP, 0}, {DATA32, 0, 0, 0, X86_GP, 0},
        {DESC_P | 2, 0, 0, 0, X86_GP, 0}, {DESC_P | 14, 0, 0, 0, X86_GP, 0}, {DESC_P | 11, 0, 0, 0, X86_GP, 0} /* busy TSS */,
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(cases); i++) {
        for (unsigned call = 0; call < 2; call++) {
            const struct jump *j = &cases[i];
            struct fake *f = fake_protected(j->cpl);
            uint16_t sel = SEL_FREE | j->rpl;

            put64(f, GDT + SEL_FREE, desc(0x100, 0x1234, j->attr));
            #define GO (call ? x86_far_call(&f->c, sel, j->offset, 4, 0x777) : x86_far_jump(&f->c, sel, j->offset, 4, 0x777))
            if (j->vector) {
                assert_fault(f, GO, j->vector, j->zero_error ? 0 : SEL_FREE);
            } else {
                uint16_t old = f->s.seg[X86_CS].sel;
                assert_int_equal(GO, 0);
                assert_int_equal(f->s.seg[X86_CS].sel, SEL_FREE | j->cpl);
                assert_int_equal(f->s.r[X86_RIP], j->offset);
                assert_int_equal(x86_cpl(&f->s), j->cpl);
                assert_int_equal(f->s.r[X86_RSP], call ? STACK - 8 : STACK);
                if (call) {
                    assert_int_equal(get32(f, STACK - 8), 0x777);
                    assert_int_equal(get16(f, STACK - 4), old);
                }
            }
            #undef GO
            free(f);
        }
    }
}

static void test_far_long(void **state)
{
    struct fake *f = fake_long(0);

    put64(f, GDT + SEL_FREE, desc(0, 0, CODE64 | DESC_DB)); /* L and D */
    assert_fault(f, x86_far_jump(&f->c, SEL_FREE, 0, 4, 0), X86_GP, SEL_FREE);
    assert_fault(f, x86_far_jump(&f->c, K_CODE, 0x0000800000000000ull, 8, 0), X86_GP, 0);
    put64(f, GDT + SEL_FREE, desc(0x5000, 0x1234, CODE64)); /* base and limit do not count */
    assert_int_equal(x86_far_call(&f->c, SEL_FREE, 0xffff800012345678ull, 8, 0xffffffff81000000ull), 0);
    assert_true(f->s.r[X86_RIP] == 0xffff800012345678ull);
    assert_int_equal(f->s.seg[X86_CS].base, 0);
    assert_true(get64(f, STACK - 16) == 0xffffffff81000000ull);
    assert_true(get64(f, STACK - 8) == K_CODE);
    assert_int_equal(x86_far_return(&f->c, 8, 0), 0);
    assert_true(f->s.r[X86_RIP] == 0xffffffff81000000ull && f->s.r[X86_RSP] == STACK);
    /* To compatibility mode and back. */
    assert_int_equal(x86_far_jump(&f->c, K_CODE32, 0x1000, 4, 0), 0);
    assert_true(x86_long_mode(&f->s) && !x86_code64(&f->s));
    assert_int_equal(x86_far_jump(&f->c, K_CODE, 0x2000, 4, 0), 0);
    assert_true(x86_code64(&f->s));
    /* No tasks and no 16-bit gates there. */
    put64(f, GDT + SEL_FREE, desc(TSS2, 0x67, DESC_P | 9));
    assert_fault(f, x86_far_jump(&f->c, SEL_FREE, 0, 4, 0), X86_GP, SEL_FREE);
    put64(f, GDT + SEL_FREE, gate(K_CODE, 0, DESC_P | 4, 0));
    assert_fault(f, x86_far_call(&f->c, SEL_FREE, 0, 4, 0), X86_GP, SEL_FREE);
    put64(f, GDT + SEL_FREE, gate(SEL_TSS, 0, DESC_P | 5, 0));
    assert_fault(f, x86_far_call(&f->c, SEL_FREE, 0, 4, 0), X86_GP, SEL_FREE);
    f->s.r[X86_RSP] = 0x0000800000000008ull;
    assert_fault(f, x86_far_call(&f->c, K_CODE, 0, 8, 0), X86_SS_, 0);
    free(f);
}

/* ---- call gates ---- */

static void test_call_gate_inner(void **state)
{
    for (unsigned wide = 0; wide < 2; wide++) {
        struct fake *f = fake_protected(3);
        unsigned w = wide ? 4 : 2;

        put64(f, GDT + SEL_FREE, gate(K_CODE | 3, 0x1b000, DESC_P | (wide ? 12 : 4) | DESC_DPL(3), 3));
        for (unsigned i = 0; i < 3; i++)
            memcpy(f->ram + STACK + i * w, &(uint32_t){0x11111111u * (i + 1)}, w);
        assert_int_equal(x86_far_call(&f->c, SEL_FREE | 3, 0xdead, 4, 0x5678), 0);
        assert_int_equal(x86_cpl(&f->s), 0);
        assert_int_equal(f->s.seg[X86_CS].sel, K_CODE);
        assert_int_equal(f->s.seg[X86_SS].sel, K_DATA);
        assert_int_equal(f->s.r[X86_RIP], wide ? 0x1b000 : 0xb000);
        assert_int_equal(f->s.r[X86_RSP], KSTACK - 7 * w);
        uint64_t v[7] = {0};
        for (unsigned i = 0; i < 7; i++)
            memcpy(&v[i], f->ram + KSTACK - (7 - i) * w, w);
        assert_int_equal(v[0], 0x5678);
        assert_int_equal(v[1], U_CODE | 3);
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(v[2 + i], wide ? 0x11111111u * (i + 1) : 0x1111u * (i + 1));
        assert_int_equal(v[5], STACK);
        assert_int_equal(v[6], U_DATA | 3);
        /* And back: RETF 3 words drops the parameters on both stacks; ring 0 data segments become null. */
        assert_int_equal(x86_load_segment(&f->c, X86_ES, K_DATA), 0);
        assert_int_equal(x86_far_return(&f->c, w, (uint16_t)(3 * w)), 0);
        assert_int_equal(x86_cpl(&f->s), 3);
        assert_int_equal(f->s.r[X86_RSP], STACK + 3 * w);
        assert_int_equal(f->s.r[X86_RIP], 0x5678);
        assert_true(f->s.seg[X86_ES].attr & X86_ATTR_UNUSABLE);
        assert_false(f->s.seg[X86_DS].attr & X86_ATTR_UNUSABLE);
        free(f);
    }
}

static void test_call_gate_same_and_jump(void **state)
{
    struct fake *f = fake_protected(0);

    put64(f, GDT + SEL_FREE, gate(K_CODE, 0x8000, DESC_P | 12, 5));
    assert_int_equal(x86_far_call(&f->c, SEL_FREE, 0, 4, 0x5678), 0);
    assert_int_equal(f->s.r[X86_RSP], STACK - 8); /* no parameters without a stack change */
    assert_int_equal(x86_far_jump(&f->c, SEL_FREE, 0, 4, 0), 0);
    assert_int_equal(f->s.r[X86_RIP], 0x8000);
    free(f);
    f = fake_protected(3);
    put64(f, GDT + SEL_FREE, gate(K_CODE, 0x8000, DESC_P | 12 | DESC_DPL(3), 0));
    assert_fault(f, x86_far_jump(&f->c, SEL_FREE | 3, 0, 4, 0), X86_GP, K_CODE); /* JMP cannot raise privilege */
    put64(f, GDT + K_CODE, desc(0, 0xfffff, CODE32 | DESC_G | DESC_C));
    assert_int_equal(x86_far_call(&f->c, SEL_FREE | 3, 0, 4, 0x5678), 0); /* conforming: ring 3 stays */
    assert_int_equal(x86_cpl(&f->s), 3);
    assert_int_equal(f->s.seg[X86_CS].sel, K_CODE | 3);
    free(f);
}

static void test_call_gate_faults(void **state)
{
    struct fake *f = fake_protected(3);
    const uint32_t ok = DESC_P | 12 | DESC_DPL(3);
    #define CALL() x86_far_call(&f->c, SEL_FREE | 3, 0, 4, 0)
    #define GATE(sel, attr) put64(f, GDT + SEL_FREE, gate(sel, 0x8000, attr, 0))

    GATE(K_CODE, DESC_P | 12 | DESC_DPL(2));
    assert_fault(f, CALL(), X86_GP, SEL_FREE);
    GATE(K_CODE, 12 | DESC_DPL(3));
    assert_fault(f, CALL(), X86_NP, SEL_FREE);
    GATE(3, ok);
    assert_fault(f, CALL(), X86_GP, 0);
    GATE(0x200, ok);
    assert_fault(f, CALL(), X86_GP, 0x200);
    GATE(K_DATA, ok);
    assert_fault(f, CALL(), X86_GP, K_DATA);
    GATE(K_CODE, ok);
    put64(f, GDT + K_CODE, desc(0, 0xfffff, (CODE32 | DESC_G) & ~DESC_P));
    assert_fault(f, CALL(), X86_NP, K_CODE);
    put64(f, GDT + K_CODE, desc(0, 0x7fff, CODE32));
    assert_fault(f, CALL(), X86_GP, 0); /* offset outside the limit */
    put64(f, GDT + K_CODE, desc(0, 0xfffff, CODE32 | DESC_G));
    /* The stack out of the TSS. */
    f->s.tr.limit = 8;
    assert_fault(f, CALL(), X86_TS, SEL_TSS);
    f->s.tr.limit = 0x67;
    put16(f, TSS + 8, 0);
    assert_fault(f, CALL(), X86_TS, 0);
    put16(f, TSS + 8, 0x200);
    assert_fault(f, CALL(), X86_TS, 0x200);
    put16(f, TSS + 8, K_DATA | 1);
    assert_fault(f, CALL(), X86_TS, K_DATA);
    put16(f, TSS + 8, K_CODE);
    assert_fault(f, CALL(), X86_TS, K_CODE);
    put16(f, TSS + 8, K_DATA);
    put64(f, GDT + K_DATA, desc(0, 0xfffff, (DATA32 | DESC_G) & ~DESC_P));
    assert_fault(f, CALL(), X86_SS_, K_DATA);
    put64(f, GDT + K_DATA, desc(0, KSTACK - 9, DATA32 | DESC_E)); /* expand-down, too little room */
    put32(f, TSS + 4, KSTACK);
    assert_fault(f, CALL(), X86_SS_, K_DATA);
    put64(f, GDT + K_DATA, desc(0, 0xfffff, DATA32 | DESC_G));
    f->bad = KSTACK - 0x1000;
    assert_int_equal(CALL(), -1);
    assert_int_equal(f->c.fault.vector, X86_PF_);
    assert_int_equal(f->c.fault.error, X86_PF_W); /* the new stack is a supervisor's */
    assert_int_equal(x86_cpl(&f->s), 3);
    #undef CALL
    #undef GATE
    free(f);
}

static void test_call_gate_64(void **state)
{
    struct fake *f = fake_long(3);

    put64(f, GDT + SEL_FREE, gate(K_CODE, 0x81234567, DESC_P | 12 | DESC_DPL(3), 7));
    put64(f, GDT + SEL_FREE + 8, 0xffffffff);
    assert_int_equal(x86_far_call(&f->c, SEL_FREE | 3, 0, 4, 0x400123), 0);
    assert_true(f->s.r[X86_RIP] == 0xffffffff81234567ull);
    assert_int_equal(f->s.r[X86_RSP], KSTACK - 32); /* never parameters */
    assert_int_equal(get64(f, KSTACK - 32), 0x400123);
    assert_int_equal(get64(f, KSTACK - 24), U_CODE | 3);
    assert_int_equal(get64(f, KSTACK - 16), STACK);
    assert_int_equal(get64(f, KSTACK - 8), U_DATA | 3);
    assert_int_equal(f->s.seg[X86_SS].sel, 0);
    assert_true(f->s.seg[X86_SS].attr & X86_ATTR_UNUSABLE);
    assert_int_equal(x86_cpl(&f->s), 0);
    assert_int_equal(x86_far_return(&f->c, 8, 0), 0);
    assert_int_equal(x86_cpl(&f->s), 3);
    assert_int_equal(f->s.r[X86_RSP], STACK);
    put64(f, GDT + SEL_FREE + 8, 1ull << 41); /* type bits in the second half */
    assert_fault(f, x86_far_call(&f->c, SEL_FREE | 3, 0, 4, 0), X86_GP, SEL_FREE);
    put64(f, GDT + SEL_FREE + 8, 0x00800000);
    assert_fault(f, x86_far_call(&f->c, SEL_FREE | 3, 0, 4, 0), X86_GP, 0);
    put64(f, GDT + SEL_FREE, gate(K_CODE32, 0, DESC_P | 12 | DESC_DPL(3), 0)); /* not 64-bit code */
    put64(f, GDT + SEL_FREE + 8, 0);
    assert_fault(f, x86_far_call(&f->c, SEL_FREE | 3, 0, 4, 0), X86_GP, K_CODE32);
    free(f);
}

/* ---- returns ---- */

static void test_far_return_faults(void **state)
{
    struct fake *f = fake_protected(3);
    #define RET(cs) (put32(f, STACK, 0x1000), put32(f, STACK + 4, cs), x86_far_return(&f->c, 4, 0))

    assert_fault(f, RET(0), X86_GP, 0);
    assert_fault(f, RET(K_CODE), X86_GP, K_CODE); /* RPL below CPL */
    assert_fault(f, RET(K_CODE | 3), X86_GP, K_CODE); /* DPL is not the RPL */
    assert_fault(f, RET(U_DATA | 3), X86_GP, U_DATA);
    assert_fault(f, RET(0x203), X86_GP, 0x200);
    put64(f, GDT + U_CODE, desc(0, 0xfff, CODE32 | DESC_DPL(3)));
    assert_fault(f, RET(U_CODE | 3), X86_GP, 0);
    put64(f, GDT + U_CODE, desc(0, 0xfff, (CODE32 & ~DESC_P) | DESC_DPL(3)));
    assert_fault(f, RET(U_CODE | 3), X86_NP, U_CODE);
    free(f);

    f = fake_protected(0);
    #define OUT(ss) (put32(f, STACK, 0x1000), put32(f, STACK + 4, U_CODE | 3), put32(f, STACK + 8, 0x6000), put32(f, STACK + 12, ss), \
                     x86_far_return(&f->c, 4, 0))
    assert_fault(f, OUT(0), X86_GP, 0);
    assert_fault(f, OUT(K_DATA | 3), X86_GP, K_DATA);
    assert_fault(f, OUT(U_DATA), X86_GP, U_DATA);
    assert_fault(f, OUT(U_CODE | 3), X86_GP, U_CODE);
    put64(f, GDT + U_DATA, desc(0, 0xfffff, ((DATA32 | DESC_G) & ~DESC_P) | DESC_DPL(3)));
    assert_fault(f, OUT(U_DATA | 3), X86_SS_, U_DATA);
    put64(f, GDT + U_DATA, desc(0, 0xffff, (DATA32 & ~DESC_DB) | DESC_DPL(3)));
    f->s.r[X86_RSP] = STACK; /* to a 16-bit stack: only SP is loaded */
    f->s.seg[X86_SS].attr |= X86_ATTR_DB;
    put32(f, STACK, 0x1000), put32(f, STACK + 4, U_CODE | 3), put32(f, STACK + 8, 0xabcd6000), put32(f, STACK + 12, U_DATA | 3);
    assert_int_equal(x86_far_return(&f->c, 4, 0), 0);
    assert_int_equal(f->s.r[X86_RSP], 0x6000);
    #undef RET
    #undef OUT
    free(f);
}

/* ---- fast system calls ---- */

static void test_syscall_sysret(void **state)
{
    struct fake *f = fake_long(3);

    f->s.star = (uint64_t)0x23 << 48 | (uint64_t)0x10 << 32;
    f->s.lstar = 0xffffffff81000000ull;
    f->s.fmask = X86_IF | X86_TF | X86_DF | 2;
    f->s.rflags = X86_IF | X86_CF | 2;
    assert_int_equal(x86_syscall(&f->c, 0x400102), 0);
    assert_true(f->s.r[X86_RIP] == 0xffffffff81000000ull && f->s.r[X86_RCX] == 0x400102 && f->s.r[X86_R11] == (X86_IF | X86_CF | 2));
    assert_int_equal(f->s.rflags, X86_CF | 2);
    assert_int_equal(f->s.seg[X86_CS].sel, 0x10);
    assert_int_equal(f->s.seg[X86_SS].sel, 0x18);
    assert_int_equal(x86_cpl(&f->s), 0);
    assert_true(x86_code64(&f->s));
    f->s.r[X86_R11] |= X86_RF | X86_VM | 1ull << 40 | 8;
    assert_int_equal(x86_sysret(&f->c, 8), 0);
    assert_int_equal(f->s.rflags, X86_IF | X86_CF | 2);
    assert_int_equal(f->s.seg[X86_CS].sel, 0x33);
    assert_int_equal(f->s.seg[X86_SS].sel, 0x2b);
    assert_int_equal(x86_cpl(&f->s), 3);
    assert_int_equal(f->s.r[X86_RIP], 0x400102);

    assert_fault(f, x86_sysret(&f->c, 8), X86_GP, 0); /* ring 3 */
    fake_level(f, 0);
    f->s.r[X86_RCX] = 0x0000800000000000ull;
    assert_fault(f, x86_sysret(&f->c, 8), X86_GP, 0); /* Intel: in ring 0 */
    assert_int_equal(x86_sysret(&f->c, 4), 0);
    assert_false(x86_code64(&f->s));
    assert_int_equal(f->s.seg[X86_CS].sel, 0x23);
    assert_fault(f, x86_syscall(&f->c, 0), X86_UD, 0); /* compatibility mode: not on Intel */
    f->s.efer &= ~(uint64_t)X86_EFER_SCE;
    fake_level(f, 0);
    assert_fault(f, x86_syscall(&f->c, 0), X86_UD, 0);
    assert_fault(f, x86_sysret(&f->c, 8), X86_UD, 0);
    free(f);
}

static void test_syscall_amd(void **state)
{
    struct fake *f = fake_long(0);

    memcpy(f->m.vendor, "AuthenticAMD", 13);
    f->s.star = (uint64_t)0x23 << 48 | (uint64_t)0x10 << 32;
    f->s.cstar = 0xffffffff82000000ull;
    f->s.r[X86_RCX] = 0x0000800000000000ull;
    f->s.r[X86_R11] = 2;
    assert_int_equal(x86_sysret(&f->c, 8), 0); /* faults at the first fetch instead */
    assert_true(f->s.r[X86_RIP] == 0x0000800000000000ull);
    assert_int_equal(x86_cpl(&f->s), 3);
    fake_level(f, 0);
    assert_int_equal(x86_sysret(&f->c, 4), 0);
    assert_int_equal(x86_syscall(&f->c, 0x400102), 0);
    assert_true(f->s.r[X86_RIP] == 0xffffffff82000000ull);
    f->s.sysenter_cs = 0x10;
    assert_fault(f, x86_sysenter(&f->c), X86_UD, 0);
    assert_fault(f, x86_sysexit(&f->c, 8), X86_UD, 0);
    free(f);
}

static void test_sysenter(void **state)
{
    struct fake *f = fake_long(3);

    assert_fault(f, x86_sysenter(&f->c), X86_GP, 0);
    f->s.sysenter_cs = 0x10;
    f->s.sysenter_esp = 0xffff888000001000ull;
    f->s.sysenter_eip = 0xffffffff81001000ull;
    f->s.rflags |= X86_IF;
    assert_int_equal(x86_sysenter(&f->c), 0);
    assert_true(f->s.r[X86_RSP] == 0xffff888000001000ull && f->s.r[X86_RIP] == 0xffffffff81001000ull && x86_code64(&f->s));
    assert_int_equal(f->s.rflags, 2);
    assert_int_equal(f->s.seg[X86_SS].sel, 0x18);
    f->s.r[X86_RCX] = 0x7ffff000;
    f->s.r[X86_RDX] = 0x0000800000000000ull;
    assert_fault(f, x86_sysexit(&f->c, 8), X86_GP, 0);
    assert_int_equal(x86_sysexit(&f->c, 4), 0);
    assert_int_equal(f->s.seg[X86_CS].sel, 0x23);
    assert_int_equal(f->s.seg[X86_SS].sel, 0x2b);
    assert_int_equal(f->s.r[X86_RSP], 0x7ffff000);
    assert_fault(f, x86_sysexit(&f->c, 4), X86_GP, 0);
    free(f);
    f = fake_new();
    f->s.sysenter_cs = 0x10;
    assert_fault(f, x86_sysenter(&f->c), X86_GP, 0); /* real mode */
    free(f);
}

/* ---- LAR, LSL, VERR, VERW ---- */

static void test_probes(void **state)
{
    struct fake *f = fake_protected(3);
    uint32_t v;
    #define PUT(attr) put64(f, GDT + SEL_FREE, desc(0x12345678, 0x54321, attr))

    PUT(DATA32 | DESC_G | DESC_DPL(3) | 0x1000);
    assert_true(x86_lar(&f->c, SEL_FREE | 3, &v));
    assert_int_equal(v, 0x00d0f200 & 0x00f0ff00);
    assert_true(x86_lsl(&f->c, SEL_FREE | 3, &v));
    assert_int_equal(v, 0x54321fff);
    assert_true(x86_verify(&f->c, SEL_FREE | 3, true) && x86_verify(&f->c, SEL_FREE | 3, false));
    PUT(DATA32 & ~DESC_W);
    assert_false(x86_lar(&f->c, SEL_FREE | 3, &v)); /* privilege */
    assert_int_equal(f->c.fault.vector, 0);
    PUT((CODE32 | DESC_C) & ~DESC_R);
    assert_true(x86_lar(&f->c, SEL_FREE | 3, &v)); /* conforming */
    assert_false(x86_verify(&f->c, SEL_FREE | 3, false));
    assert_false(x86_lar(&f->c, 0, &v));
    assert_false(x86_lsl(&f->c, 0x203, &v));
    static const uint16_t lar[2] = {0x1a3e | 1 << 2, 0x1a04}, lsl[2] = {0x0a0e, 0x0a04};
    for (unsigned lm = 0; lm < 2; lm++) {
        if (lm) {
            free(f);
            f = fake_long(3);
        }
        for (unsigned type = 0; type < 16; type++) {
            PUT(DESC_P | DESC_DPL(3) | type);
            assert_int_equal(x86_lar(&f->c, SEL_FREE | 3, &v), lar[lm] >> type & 1);
            assert_int_equal(x86_lsl(&f->c, SEL_FREE | 3, &v), lsl[lm] >> type & 1);
            assert_false(x86_verify(&f->c, SEL_FREE | 3, false));
        }
    }
    f->bad = GDT;
    assert_false(x86_lar(&f->c, SEL_FREE | 3, &v));
    assert_int_equal(f->c.fault.vector, X86_PF_);
    #undef PUT
    free(f);
}

static void test_io_bitmap(void **state)
{
    struct fake *f = fake_protected(3);

    f->s.rflags |= X86_IOPL;
    assert_int_equal(x86_check_io(&f->c, 0x3f8, 1), 0);
    f->s.rflags &= ~(uint64_t)X86_IOPL;
    assert_fault(f, x86_check_io(&f->c, 0x3f8, 1), X86_GP, 0); /* no room for a bitmap */
    f->s.tr.limit = 0x67 + 129;
    put16(f, TSS + 102, 0x68);
    memset(f->ram + TSS + 0x68, 0xff, 129);
    f->ram[TSS + 0x68 + 0x3f8 / 8] = 0xf1; /* 3F9-3FB are open */
    assert_fault(f, x86_check_io(&f->c, 0x3f8, 1), X86_GP, 0);
    assert_int_equal(x86_check_io(&f->c, 0x3f9, 1), 0);
    assert_int_equal(x86_check_io(&f->c, 0x3fa, 2), 0);
    assert_fault(f, x86_check_io(&f->c, 0x3fb, 2), X86_GP, 0);
    assert_fault(f, x86_check_io(&f->c, 0x3f9, 4), X86_GP, 0);
    f->ram[TSS + 0x68 + 128] = 0;
    assert_fault(f, x86_check_io(&f->c, 0x400, 1), X86_GP, 0); /* the second byte is outside */
    f->s.tr.attr = DESC_P | 3; /* a 16-bit TSS has none */
    assert_fault(f, x86_check_io(&f->c, 0x3f9, 1), X86_GP, 0);
    f->s.tr.attr = DESC_P | 11;
    f->s.rflags |= X86_VM | X86_IOPL; /* virtual-8086 mode always asks the bitmap */
    assert_fault(f, x86_check_io(&f->c, 0x3f8, 1), X86_GP, 0);
    assert_int_equal(x86_check_io(&f->c, 0x3f9, 1), 0);
    f->s.rflags &= ~(uint64_t)X86_VM;
    fake_level(f, 0);
    f->s.rflags &= ~(uint64_t)X86_IOPL;
    assert_int_equal(x86_check_io(&f->c, 0x3f8, 1), 0);
    free(f);
    f = fake_new();
    assert_int_equal(x86_check_io(&f->c, 0x3f8, 4), 0);
    free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data_loads), cmocka_unit_test(test_stack_loads), cmocka_unit_test(test_null_and_limits), cmocka_unit_test(test_real_loads),
        cmocka_unit_test(test_ldt_tr), cmocka_unit_test(test_far_real), cmocka_unit_test(test_far_direct), cmocka_unit_test(test_far_long),
        cmocka_unit_test(test_call_gate_inner), cmocka_unit_test(test_call_gate_same_and_jump), cmocka_unit_test(test_call_gate_faults),
        cmocka_unit_test(test_call_gate_64), cmocka_unit_test(test_far_return_faults), cmocka_unit_test(test_syscall_sysret),
        cmocka_unit_test(test_syscall_amd), cmocka_unit_test(test_sysenter), cmocka_unit_test(test_probes), cmocka_unit_test(test_io_bitmap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
