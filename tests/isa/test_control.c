/* test_control.c - control and debug registers, XCR0, MSRs, and the state table: what is refused, and what follows from what is not. */
#include "tests/isa/fake.h"

#define CR(n, v) x86_write_cr(&f->c, n, v)

static void test_cr0(void **state)
{
    struct fake *f = fake_new();
    const uint64_t pe = X86_CR0_PE | X86_CR0_ET, pg = X86_CR0_PG;

    assert_fault(f, CR(0, 1ull << 32), X86_GP, 0);
    assert_fault(f, CR(0, pg), X86_GP, 0);
    assert_fault(f, CR(0, X86_CR0_NW), X86_GP, 0);
    assert_int_equal(CR(0, X86_CR0_PE | 1 << 6 | 1 << 28), 0); /* bits that do not exist are dropped, ET is always set */
    assert_true(f->s.cr0 == pe);
    assert_int_equal(f->flushes, 1);
    assert_int_equal(CR(0, pe | X86_CR0_TS), 0); /* nothing about translations */
    assert_int_equal(f->flushes, 1);
    assert_int_equal(CR(0, pe | pg), 0);
    assert_int_equal(f->flushes_global, 2);
    assert_int_equal(CR(0, pe), 0);

    /* Long mode: needs PAE, no 64-bit CS, no 16-bit TSS. */
    f->s.efer = X86_EFER_LME;
    assert_fault(f, CR(0, pe | pg), X86_GP, 0);
    f->s.cr4 = X86_CR4_PAE;
    f->s.seg[X86_CS].attr |= X86_ATTR_L;
    assert_fault(f, CR(0, pe | pg), X86_GP, 0);
    f->s.seg[X86_CS].attr &= ~X86_ATTR_L;
    f->s.tr.attr = DESC_P | 3;
    assert_fault(f, CR(0, pe | pg), X86_GP, 0);
    f->s.tr.attr = DESC_P | 11;
    assert_int_equal(CR(0, pe | pg), 0);
    assert_int_equal(f->s.efer, X86_EFER_LME | X86_EFER_LMA);
    f->s.seg[X86_CS].attr |= X86_ATTR_L;
    assert_fault(f, CR(0, pe), X86_GP, 0); /* from 64-bit code */
    f->s.seg[X86_CS].attr &= ~X86_ATTR_L;
    assert_int_equal(CR(0, pe), 0);
    assert_int_equal(f->s.efer, X86_EFER_LME);

    /* PAE paging loads its PDPTEs with PG. */
    f->s.efer = 0;
    f->s.cr3 = 0x3000;
    put64(f, 0x3000, 0x2003);
    assert_fault(f, CR(0, pe | pg), X86_GP, 0);
    put64(f, 0x3000, 0x2001);
    assert_int_equal(CR(0, pe | pg), 0);
    assert_true(f->s.pdpte[0] == 0x2001);
    free(f);
}

static void test_cr3_cr4_cr8(void **state)
{
    struct fake *f = fake_long(0);

    assert_fault(f, CR(3, 1ull << 40), X86_GP, 0); /* physical width 40 */
    assert_fault(f, CR(3, 1ull << 63), X86_GP, 0);
    assert_int_equal(CR(3, 0xfffffff018ull), 0);
    assert_true(f->s.cr3 == 0xfffffff018ull && f->flushes == 1 && f->flushes_global == 0);
    assert_fault(f, CR(4, 0), X86_GP, 0); /* PAE must stay */
    for (unsigned bit = 0; bit < 64; bit++) {
        static const uint64_t ok = X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE | X86_CR4_MCE | X86_CR4_PGE | X86_CR4_PCE | X86_CR4_OSFXSR |
                                   X86_CR4_OSXMMEXCPT | X86_CR4_UMIP | X86_CR4_FSGSBASE | X86_CR4_OSXSAVE | X86_CR4_SMEP | X86_CR4_SMAP;
        f->s.cr4 = X86_CR4_PAE;
        if (ok >> bit & 1)
            assert_int_equal(CR(4, X86_CR4_PAE | 1ull << bit), 0);
        else
            assert_fault(f, CR(4, X86_CR4_PAE | 1ull << bit), X86_GP, 0);
    }
    f->s.cr4 = X86_CR4_PAE;
    f->flushes_global = 0;
    assert_int_equal(CR(4, X86_CR4_PAE | X86_CR4_PGE), 0);
    assert_int_equal(f->flushes_global, 1);
    assert_fault(f, CR(8, 16), X86_GP, 0);
    assert_int_equal(CR(8, 15), 0);
    assert_int_equal(CR(2, 0xdeadbeefull << 32), 0);
    assert_fault(f, CR(1, 0), X86_UD, 0);
    free(f);
    f = fake_protected(0);
    assert_int_equal(CR(3, 0xffffffff00001000ull), 0); /* 32 bits outside long mode */
    assert_true(f->s.cr3 == 0x1000);
    f->s.cr0 |= X86_CR0_PG;
    f->s.cr3 = 0x3000;
    put64(f, 0x3000, 3);
    assert_fault(f, CR(4, X86_CR4_PAE), X86_GP, 0);
    free(f);
}

static void test_debug_registers(void **state)
{
    struct fake *f = fake_long(0);
    uint64_t v;

    assert_int_equal(x86_write_dr(&f->c, 4, 0), 0); /* DR6 */
    assert_int_equal(f->s.dr[6], 0xffff0ff0);
    assert_int_equal(x86_write_dr(&f->c, 6, 0xffffffff), 0);
    assert_int_equal(f->s.dr[6], 0xffffefff);
    assert_fault(f, x86_write_dr(&f->c, 6, 1ull << 32), X86_GP, 0);
    assert_fault(f, x86_write_dr(&f->c, 7, 1ull << 32), X86_GP, 0);
    assert_int_equal(x86_write_dr(&f->c, 5, 0xffff00ff), 0);
    assert_int_equal(f->s.dr[7], 0xffff04ff);
    f->s.cr4 |= X86_CR4_DE;
    assert_fault(f, x86_write_dr(&f->c, 5, 0), X86_UD, 0);
    assert_fault(f, x86_read_dr(&f->c, 4, &v), X86_UD, 0);
    assert_int_equal(x86_write_dr(&f->c, 7, 1 << 13), 0);
    assert_fault(f, x86_read_dr(&f->c, 0, &v), X86_DB, 0);
    assert_int_equal(f->c.fault.dr6, 1 << 13);
    assert_fault(f, x86_write_dr(&f->c, 7, 0), X86_DB, 0);
    put64(f, IDT + 16, gate(K_CODE, 0xd000, DESC_P | 14, 0));
    struct x86_fault db = f->c.fault;
    assert_int_equal(x86_raise(&f->c, &db, X86_EVENT_EXCEPTION, 0, NULL), 0);
    assert_true(get64(f, f->s.r[X86_RSP] + 16) & X86_RF); /* general detect is a fault */
    assert_int_equal(x86_write_dr(&f->c, 3, 0x123456789abcull), 0); /* and its handler may touch them */
    assert_int_equal(x86_read_dr(&f->c, 3, &v), 0);
    assert_true(v == 0x123456789abcull);
    free(f);
}

static void test_xsetbv(void **state)
{
    struct fake *f = fake_long(0);

    assert_fault(f, x86_xsetbv(&f->c, 0, 3), X86_UD, 0);
    f->s.cr4 |= X86_CR4_OSXSAVE;
    assert_fault(f, x86_xsetbv(&f->c, 1, 3), X86_GP, 0);
    assert_fault(f, x86_xsetbv(&f->c, 0, 2), X86_GP, 0);
    assert_fault(f, x86_xsetbv(&f->c, 0, 7), X86_GP, 0);
    assert_int_equal(x86_xsetbv(&f->c, 0, 3), 0);
    f->m.features[X86_FEATURE_AVX / 64] |= 1ull << X86_FEATURE_AVX % 64;
    assert_fault(f, x86_xsetbv(&f->c, 0, 5), X86_GP, 0);
    assert_int_equal(x86_xsetbv(&f->c, 0, 7), 0);
    fake_level(f, 3);
    assert_fault(f, x86_xsetbv(&f->c, 0, 3), X86_GP, 0);
    free(f);
}

/* ---- MSRs ---- */

#define WR(m, v) x86_wrmsr(&f->c, m, v)
static uint64_t rd(struct fake *f, uint32_t msr)
{
    uint64_t v;
    assert_int_equal(x86_rdmsr(&f->c, msr, &v), 0);
    return v;
}

static void test_efer(void **state)
{
    struct fake *f = fake_long(0);

    assert_fault(f, WR(0xc0000080, 0), X86_GP, 0); /* LME with paging on */
    assert_int_equal(WR(0xc0000080, X86_EFER_LME), 0); /* LMA is read-only, not reserved */
    assert_int_equal(rd(f, 0xc0000080), X86_EFER_LME | X86_EFER_LMA);
    assert_int_equal(f->flushes, 1); /* NXE went */
    for (unsigned bit = 0; bit < 64; bit++)
        if (bit != 0 && bit != 8 && bit != 10 && bit != 11)
            assert_fault(f, WR(0xc0000080, X86_EFER_LME | 1ull << bit), X86_GP, 0);
    f->m.features[X86_FEATURE_AUTOIBRS / 64] |= 1ull << X86_FEATURE_AUTOIBRS % 64;
    assert_int_equal(WR(0xc0000080, X86_EFER_LME | X86_EFER_AUTOIBRS), 0);
    free(f);
}

static void test_plain_msrs(void **state)
{
    static const struct { uint32_t msr; uint64_t good, bad; } cases[] = {
        {0xc0000081, ~0ull, 0}, {0xc0000082, 0xffff800000000000ull, 0x800000000000ull}, {0xc0000083, 0x7fffffffffffull, 1ull << 63},
        {0xc0000084, 0xffffffff, 1ull << 32}, {0xc0000100, 0xffffffff81000000ull, 1ull << 50}, {0xc0000101, 1, 1ull << 47},
        {0xc0000102, 0xffff888000000000ull, 1ull << 62}, {0xc0000103, 0x1234, 1ull << 32}, {0x174, 0x10, 0}, {0x175, 0xffffc90000000000ull, 1ull << 48},
        {0x176, 0x1000, 1ull << 60}, {0x277, 0x0007040600070406ull, 2}, {0x277, 0x0106050400010407ull, 3}, {0x277, 0, 8ull << 56},
        {0x2ff, 0xc06, 0xc02}, {0x2ff, 0, 1 << 9}, {0x200, 0xffffffffff000ull & 0xfffffff000ull, 2}, {0x20e, 6, 0x106}, {0x201, 0xfffffff800ull, 1},
        {0x20f, 0, 1ull << 40}, {0x250, 0x0606060606060606ull, 0x0606060606060206ull}, {0x26f, 0, 7}, {0x259, 0x0101010101010101ull, 3},
        {0x1d9, 3, 4}, {0x17a, 7, 8}, {0x17b, ~0ull, 0}, {0x400, ~0ull, 0}, {0x40d, 0, 1}, {0x402, 0, 5}, {0x4b564d00, 0x1000, 0}, {0x4b564d01, 0x2001, 0},
    };
    struct fake *f = fake_long(0);

    for (unsigned i = 0; i < DP_ARRAY_LEN(cases); i++) {
        assert_int_equal(WR(cases[i].msr, cases[i].good), 0);
        assert_true(rd(f, cases[i].msr) == cases[i].good);
        if (cases[i].bad)
            assert_fault(f, WR(cases[i].msr, cases[i].bad), X86_GP, 0);
    }
    assert_true(f->s.seg[X86_FS].base == 0xffffffff81000000ull);
    assert_int_equal(rd(f, 0xfe), 0x508);
    assert_int_equal(rd(f, 0x179), 0x104);
    assert_fault(f, WR(0xfe, 0), X86_GP, 0);
    assert_true(rd(f, 0x8b) >> 32);
    assert_int_equal(WR(0x8b, 0), 0);
    assert_int_equal(rd(f, 0x17), 0);
    assert_true(rd(f, 0x10a) & 1);
    assert_true(rd(f, 0x1a0) & 1);
    assert_int_equal(WR(0x1a0, 1ull << 34 | 1 << 22), 0); /* known, not implemented: no fault, no effect */
    assert_int_equal(rd(f, 0x1a0), 0x1800);
    assert_fault(f, WR(0x1a0, 1ull << 63), X86_GP, 0);
    free(f);
}

static void test_unknown_msrs(void **state)
{
    static const uint32_t unknown[] = {0, 0x10, 0x1b, 0x3a, 0x48, 0x49, 0x79, 0xce, 0xe7, 0x140, 0x1c9, 0x251, 0x270, 0x210, 0x345, 0x410, 0x6e0, 0x800,
                                       0xc0000085, 0xc0010015, 0xc0010010, 0xc001001f, 0xc0011029, 0x4b564d02, 0x4b564d04, 0xffffffff};
    struct fake *f = fake_long(0);
    uint64_t v;

    for (unsigned i = 0; i < DP_ARRAY_LEN(unknown); i++) {
        assert_fault(f, x86_rdmsr(&f->c, unknown[i], &v), X86_GP, 0);
        assert_fault(f, WR(unknown[i], 0), X86_GP, 0);
    }
    f->m.kvm_clock = false; /* registers follow features */
    memset(f->m.features, 0, sizeof f->m.features);
    static const uint32_t gone[] = {0x4b564d00, 0xc0000080, 0xc0000082, 0xc0000100, 0xc0000103, 0x174, 0x277, 0x200, 0x2ff, 0x250, 0x400, 0x10a};
    for (unsigned i = 0; i < DP_ARRAY_LEN(gone); i++) {
        assert_fault(f, x86_rdmsr(&f->c, gone[i], &v), X86_GP, 0);
        assert_fault(f, WR(gone[i], 0), X86_GP, 0);
    }
    free(f);
}

/* ---- state ---- */

static void test_reset(void **state)
{
    struct x86_state s;
    struct dp_buffer b = {0};
    struct dp_error e;

    x86_state_reset(&s, true);
    assert_int_equal(s.seg[X86_CS].base + s.r[X86_RIP], 0xfffffff0);
    assert_int_equal(s.run_state, X86_RUNNING);
    assert_true(s.apic_base & 0x100);
    assert_int_equal(x86_state_table.check(&s, &e), 0);
    x86_state_print(&s, &b);
    dp_buffer_append(&b, "", 1);
    assert_non_null(strstr((char *)b.data, "real mode"));
    assert_non_null(strstr((char *)b.data, "f000 base 00000000ffff0000"));
    dp_buffer_fini(&b);

    x86_state_reset(&s, false);
    assert_int_equal(s.run_state, X86_WAIT_SIPI);
    x86_state_start_ap(&s, 0x9a);
    assert_int_equal(s.seg[X86_CS].base, 0x9a000);
    assert_int_equal(s.seg[X86_CS].sel, 0x9a00);
    assert_int_equal(s.r[X86_RIP], 0);
    assert_int_equal(s.run_state, X86_RUNNING);

    s.mtrr_def = 0xc06;
    s.fpu.fcw = 0x37f;
    s.tsc_offset = -5;
    s.cr0 = X86_CR0_PE | X86_CR0_PG;
    s.efer = X86_EFER_NXE;
    s.r[X86_RAX] = 1;
    x86_state_on_init(&s, false);
    assert_int_equal(s.mtrr_def, 0xc06);
    assert_int_equal(s.fpu.fcw, 0x37f);
    assert_int_equal(s.tsc_offset, -5);
    assert_int_equal(s.cr0, X86_CR0_ET); /* caching stays as it was */
    assert_int_equal(s.efer, 0);
    assert_int_equal(s.r[X86_RAX], 0);
    assert_int_equal(s.run_state, X86_WAIT_SIPI);
}

static void test_state_table(void **state)
{
    static struct x86_state a, b;
    struct dp_random rnd;
    struct dp_error e;

    dp_random_seed(&rnd, 7);
    for (unsigned i = 0; i < 200; i++) {
        struct dp_buffer out = {0};
        dp_state_random(&x86_state_table, &a, &rnd);
        assert_ok(x86_state_table.check(&a, &e), e);
        dp_state_save(&x86_state_table, &a, &out);
        memset(&b, 0, sizeof b);
        assert_ok(dp_state_load(&x86_state_table, &b, out.data, out.size, NULL, &e), e);
        assert_int_equal(dp_state_diff(&x86_state_table, &a, &b, NULL), 0);
        dp_buffer_fini(&out);
    }
    dp_state_reset(&x86_state_table, &a);
    assert_ok(x86_state_table.check(&a, &e), e);
    a.cr0 = X86_CR0_PG;
    assert_true(x86_state_table.check(&a, &e) < 0);
}

static void cover(const struct dp_state_table *t, uint8_t *map)
{
    for (unsigned i = 0; i < t->field_count; i++) {
        const struct dp_field *g = &t->fields[i];
        static const uint8_t sizes[] = {[DP_KIND_BOOL] = 1, [DP_KIND_U8] = 1, [DP_KIND_U16] = 2, [DP_KIND_U32] = 4, [DP_KIND_U64] = 8, [DP_KIND_BYTES] = 1};
        for (unsigned n = 0; n < g->count; n++) {
            if (g->kind == DP_KIND_STRUCT)
                cover(g->sub, map + g->offset + n * g->stride);
            else
                memset(map + g->offset + n * g->stride, 1, sizes[g->kind]);
        }
    }
}

/* A member added to struct x86_state and forgotten in the table shows as a hole that alignment does not explain. */
static void test_state_table_is_complete(void **state)
{
    uint8_t map[sizeof(struct x86_state) + 1] = {0};
    size_t hole = 0;

    cover(&x86_state_table, map);
    map[sizeof(struct x86_state)] = 1;
    for (size_t i = 0; i <= sizeof(struct x86_state); i++) {
        if (!map[i]) {
            hole++;
            continue;
        }
        if (hole && (hole >= 8 || i % (hole < 4 && i % 8 ? 4 : 8)))
            fail_msg("%zu bytes before offset %zu of struct x86_state are in no field", hole, i);
        hole = 0;
    }
}

static void test_pcid(void **state)
{
    struct fake *f = fake_long(0);
    struct dp_error e;
    const uint64_t pcide = X86_CR4_PAE | X86_CR4_PCIDE;

    assert_fault(f, CR(4, pcide), X86_GP, 0); /* v2 has none */
    assert_ok(x86_cpuid_model("x86-64-v3", &f->m, &e), e);
    f->s.cr3 = 0x5018;
    assert_fault(f, CR(4, pcide), X86_GP, 0); /* CR3[11:0] must be 0 */
    f->s.cr3 = 0x5000;
    f->s.efer &= ~(uint64_t)X86_EFER_LMA;
    assert_fault(f, CR(4, pcide), X86_GP, 0); /* long mode only */
    f->s.efer |= X86_EFER_LMA;
    assert_int_equal(CR(4, pcide), 0);
    assert_fault(f, CR(0, f->s.cr0 & ~(uint64_t)X86_CR0_PG), X86_GP, 0);

    assert_int_equal(CR(3, 0x7123), 0);
    assert_true(f->s.cr3 == 0x7123 && f->flush_kind == X86_FLUSH_PCID && f->flush_pcid == 0x123 && x86_pcid(&f->s) == 0x123);
    assert_int_equal(CR(3, 1ull << 63 | 0x8456), 0);
    assert_true(f->s.cr3 == 0x8456 && f->flush_kind == X86_FLUSH_SWITCH && f->flush_pcid == 0x456);
    assert_fault(f, CR(3, 1ull << 62), X86_GP, 0);
    assert_int_equal(CR(4, X86_CR4_PAE), 0);
    assert_int_equal(f->flush_kind, X86_FLUSH_ALL);
    assert_int_equal(x86_pcid(&f->s), 0);
    assert_fault(f, CR(3, 1ull << 63 | 0x8000), X86_GP, 0);
    free(f);
}

static void test_invpcid(void **state)
{
    struct fake *f = fake_long(0);
    uint8_t d[16] = {0};

    assert_fault(f, x86_invpcid(&f->c, 4, d), X86_GP, 0);
    assert_int_equal(x86_invpcid(&f->c, 3, d), 0);
    assert_int_equal(f->flush_kind, X86_FLUSH_PCIDS);
    assert_int_equal(x86_invpcid(&f->c, 2, d), 0);
    assert_int_equal(f->flush_kind, X86_FLUSH_ALL);
    dp_st64(d, 1 << 12); /* bits 63:12 are reserved */
    for (unsigned type = 0; type < 4; type++)
        assert_fault(f, x86_invpcid(&f->c, type, d), X86_GP, 0);
    dp_st64(d, 5);
    assert_fault(f, x86_invpcid(&f->c, 0, d), X86_GP, 0); /* without CR4.PCIDE there is only PCID 0 */
    assert_fault(f, x86_invpcid(&f->c, 1, d), X86_GP, 0);
    f->s.cr4 |= X86_CR4_PCIDE;
    assert_int_equal(x86_invpcid(&f->c, 1, d), 0);
    assert_true(f->flush_kind == X86_FLUSH_PCID && f->flush_pcid == 5);
    dp_st64(d + 8, 0x7fff12345678);
    assert_int_equal(x86_invpcid(&f->c, 0, d), 0);
    assert_true(f->flush_kind == X86_FLUSH_PAGE_PCID && f->flush_pcid == 5 && f->flush_linear == 0x7fff12345678);
    dp_st64(d + 8, 1ull << 47);
    assert_fault(f, x86_invpcid(&f->c, 0, d), X86_GP, 0);
    assert_int_equal(x86_invpcid(&f->c, 1, d), 0); /* other types do not look at the address */
    free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cr0), cmocka_unit_test(test_cr3_cr4_cr8), cmocka_unit_test(test_debug_registers), cmocka_unit_test(test_xsetbv),
        cmocka_unit_test(test_pcid), cmocka_unit_test(test_invpcid), cmocka_unit_test(test_efer), cmocka_unit_test(test_plain_msrs), cmocka_unit_test(test_unknown_msrs), cmocka_unit_test(test_reset),
        cmocka_unit_test(test_state_table), cmocka_unit_test(test_state_table_is_complete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
