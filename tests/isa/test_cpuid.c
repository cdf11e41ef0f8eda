/* test_cpuid.c - the models: features where the manuals put them, topology that agrees with itself, timing leaves without overflow. */
#include "tests/isa/fake.h"

struct leaf { uint32_t a, b, c, d; };

static struct leaf ask(struct fake *f, unsigned cpu, uint32_t leaf, uint32_t sub)
{
    uint32_t out[4] = {1, 2, 3, 4};
    x86_cpuid(&f->m, &f->s, cpu, leaf, sub, out);
    return (struct leaf){out[0], out[1], out[2], out[3]};
}

static void test_identity(void **state)
{
    struct fake *f = fake_new();
    struct leaf l = ask(f, 0, 0, 0);
    char brand[49] = {0};

    assert_memory_equal(&l.b, "Genu", 4);
    assert_memory_equal(&l.d, "ineI", 4);
    assert_memory_equal(&l.c, "ntel", 4);
    assert_int_equal(l.a, 0x16);
    assert_int_equal(ask(f, 0, 1, 0).a, 0x106ca); /* 6 / 1Ch / 10 */
    assert_int_equal(ask(f, 0, 0x80000000, 0).a, 0x80000008);
    for (unsigned i = 0; i < 3; i++) {
        l = ask(f, 0, 0x80000002 + i, 0);
        memcpy(brand + 16 * i, &l, 16);
    }
    assert_string_equal(brand, "doppel virtual CPU (x86-64-v2)");
    assert_int_equal(ask(f, 0, 0x80000008, 0).a, 40 | 48 << 8);
    l = ask(f, 0, 0x17, 0); /* out of range: the highest basic leaf */
    assert_int_equal(l.a, ask(f, 0, 0x16, 0).a);
    free(f);
}

static void test_features(void **state)
{
    struct fake *f = fake_new();
    struct leaf l = ask(f, 0, 1, 0);
    struct dp_error e;

    assert_int_equal(l.d, 0x178bfbff & ~(1u << 28) & ~2u); /* the classic set without VME, HTT */
    /* SSE3 SSSE3 CX16 SSE4.1 SSE4.2 x2APIC MOVBE POPCNT deadline XSAVE RDRAND hypervisor */
    assert_int_equal(l.c, 1u << 0 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 26 | 1 << 30 | 1u << 31);
    f->s.cr4 |= X86_CR4_OSXSAVE;
    f->s.apic_base &= ~0x800ull;
    assert_int_equal(ask(f, 0, 1, 0).c ^ l.c, 1 << 27);
    assert_int_equal(ask(f, 0, 1, 0).d ^ l.d, 1 << 9);
    l = ask(f, 0, 7, 0); /* FSGSBASE SMEP ERMS RDSEED SMAP; UMIP; FSRM ARCH_CAPABILITIES */
    assert_int_equal(l.a, 0);
    assert_int_equal(l.b, 1 << 0 | 1 << 7 | 1 << 9 | 1 << 18 | 1 << 20);
    assert_int_equal(l.c, 1 << 2);
    assert_int_equal(l.d, 1 << 4 | 1 << 29);
    assert_int_equal(ask(f, 0, 7, 1).b, 0);
    l = ask(f, 0, 0x80000001, 0);
    assert_int_equal(l.c, 1);
    assert_int_equal(l.d, 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29);
    assert_int_equal(ask(f, 0, 0x80000007, 0).d, 1 << 8);
    l = ask(f, 0, 0xd, 0);
    assert_int_equal(l.a, 3);
    assert_int_equal(l.b, 576);
    assert_int_equal(l.c, 576);
    assert_int_equal(ask(f, 0, 0xd, 1).a, 1 | 4);
    assert_int_equal(ask(f, 0, 0xd, 2).a, 0);
    assert_int_equal(ask(f, 0, 6, 0).a, 4);

    assert_ok(x86_cpuid_model("x86-64-v1", &f->m, &e), e);
    assert_false(ask(f, 0, 1, 0).c & (1 << 0 | 1 << 9 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 26));
    assert_int_equal(ask(f, 0, 0xd, 0).a, 0);
    assert_int_equal(ask(f, 0, 7, 0).b, 0);
    assert_true(ask(f, 0, 0x80000001, 0).d & 1 << 29);
    assert_true(x86_cpuid_model("i486", &f->m, &e) < 0);
    assert_non_null(strstr(e.text, "x86-64-v2"));
    free(f);
}

static void test_v3(void **state)
{
    struct fake *f = fake_new();
    struct dp_error e;
    uint64_t host[2] = {~0ull, ~0ull}, own[2];

    assert_ok(x86_cpuid_model("x86-64-v3", &f->m, &e), e);
    assert_int_equal(ask(f, 0, 1, 0).c & (1u << 1 | 1 << 12 | 1 << 17 | 1 << 25 | 1 << 28 | 1 << 29), 1u << 1 | 1 << 12 | 1 << 17 | 1 << 25 | 1 << 28 | 1 << 29);
    struct leaf l = ask(f, 0, 7, 0); /* BMI1 AVX2 BMI2 INVPCID ADX SHA; nothing of AVX-512 */
    assert_int_equal(l.b, 1 << 0 | 1 << 3 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 29);
    assert_int_equal(ask(f, 0, 0x80000001, 0).c, 1 | 1 << 5);
    l = ask(f, 0, 0xd, 0);
    assert_true(l.a == 7 && l.b == 576 && l.c == 832 && l.d == 0);
    f->s.xcr0 = 7;
    assert_int_equal(ask(f, 0, 0xd, 0).b, 832);
    l = ask(f, 0, 0xd, 1);
    assert_true(l.a == 7 && l.b == 832 && l.c == 0);
    l = ask(f, 0, 0xd, 2);
    assert_true(l.a == 256 && l.b == 576 && l.c == 0);
    l = ask(f, 0, 0xd, 3);
    assert_true(!l.a && !l.b && !l.c && !l.d);

    /* A host that lacks something: refused, with the name, if it belongs to the level; left out if it is extra. */
    assert_ok(x86_cpuid_fit(&f->m, host, &e), e);
    assert_true(x86_has(&f->m, X86_FEATURE_SHA));
    host[X86_FEATURE_SHA / 64] &= ~(1ull << X86_FEATURE_SHA % 64);
    assert_ok(x86_cpuid_fit(&f->m, host, &e), e);
    assert_false(x86_has(&f->m, X86_FEATURE_SHA));
    host[X86_FEATURE_AVX2 / 64] &= ~(1ull << X86_FEATURE_AVX2 % 64);
    assert_int_equal(x86_cpuid_fit(&f->m, host, &e), -ENOTSUP);
    assert_non_null(strstr(e.text, "AVX2"));
    assert_non_null(strstr(e.text, "x86-64-v2"));
    assert_ok(x86_cpuid_model("x86-64-v2", &f->m, &e), e);
    assert_ok(x86_cpuid_fit(&f->m, host, &e), e);
    x86_cpuid_host(own);
    assert_true(own[0] >> X86_FEATURE_SSE2 & 1); /* we run here */
    free(f);
}

static void test_topology(void **state)
{
    struct fake *f = fake_new();

    for (unsigned cpus = 1; cpus <= 300; cpus++) {
        unsigned bits = 0;
        f->m.cpu_count = cpus;
        while (1u << bits < cpus)
            bits++;
        for (unsigned cpu = 0; cpu < cpus; cpu += cpus > 8 ? cpus - 1 : 1) {
            struct leaf l = ask(f, cpu, 1, 0);
            assert_int_equal(l.b >> 24, cpu & 0xff);
            assert_int_equal(l.b >> 16 & 0xff, DP_MIN(1u << bits, 255));
            assert_int_equal(l.d >> 28 & 1, cpus > 1);
            l = ask(f, cpu, 0xb, 0);
            assert_int_equal(l.a, 0);
            assert_int_equal(l.b, 1);
            assert_int_equal(l.c, 0x100);
            assert_int_equal(l.d, cpu);
            l = ask(f, cpu, 0xb, 1);
            assert_int_equal(l.a, bits);
            assert_int_equal(l.b, cpus);
            assert_int_equal(l.c, 0x201);
            l = ask(f, cpu, 0xb, 2);
            assert_int_equal(l.b, 0);
            assert_int_equal(l.c, 2);
            for (unsigned i = 0; i < 4; i++) {
                l = ask(f, cpu, 4, i);
                assert_int_equal(l.a >> 26, DP_MIN((1u << bits) - 1, 63));
                assert_int_equal(l.a >> 14 & 0xfff, i == 3 ? (1u << bits) - 1 : 0);
            }
            assert_int_equal(ask(f, cpu, 4, 4).a, 0);
        }
    }
    f->m.cpu_count = 1; /* sizes: line * ways * sets */
    static const unsigned kib[] = {32, 32, 1024, 16384};
    for (unsigned i = 0; i < 4; i++) {
        struct leaf l = ask(f, 0, 4, i);
        assert_int_equal(((l.b & 0xfff) + 1) * ((l.b >> 22) + 1) * (l.c + 1), kib[i] * 1024);
    }
    free(f);
}

static void test_timing(void **state)
{
    static const struct { uint32_t tsc, bus; bool leaf; } cases[] = {
        {1000000, 1000000, true}, {2400000, 100000, true}, {2000000, 1000000, true}, {2095078, 1000000, false}, {0, 1000000, false}, {3000000, 4294968, false},
    };
    struct fake *f = fake_new();

    for (unsigned i = 0; i < DP_ARRAY_LEN(cases); i++) {
        f->m.tsc_khz = cases[i].tsc;
        f->m.apic_bus_khz = cases[i].bus;
        struct leaf l = ask(f, 0, 0x15, 0);
        assert_int_equal(!!l.a, cases[i].leaf);
        if (l.a) /* as Linux computes it, in 32 bits */
            assert_int_equal(l.c / 1000 * l.b / l.a, cases[i].tsc);
        l = ask(f, 0, 0x40000010, 0);
        assert_int_equal(l.a, cases[i].tsc);
        assert_int_equal(l.b, cases[i].bus);
    }
    f->m.tsc_khz = 2000000;
    assert_int_equal(ask(f, 0, 0x16, 0).a, 2000);
    free(f);
}

static void test_hypervisor(void **state)
{
    struct fake *f = fake_new();
    struct leaf l = ask(f, 0, 0x40000000, 0);

    assert_memory_equal(&l.b, "KVMKVMKVM\0\0\0", 12);
    assert_int_equal(l.a, 0x40000010);
    assert_int_equal(ask(f, 0, 0x40000001, 0).a, 1 << 1 | 1 << 3 | 1 << 24);
    f->m.kvm_clock = false;
    l = ask(f, 0, 0x40000000, 0);
    assert_memory_equal(&l.b, "doppeldoppel", 12);
    assert_int_equal(ask(f, 0, 0x40000001, 0).a, 0);
    f->m.hypervisor = false;
    assert_int_equal(ask(f, 0, 0x40000000, 0).a, ask(f, 0, 0x16, 0).a);
    free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity), cmocka_unit_test(test_features), cmocka_unit_test(test_v3), cmocka_unit_test(test_topology), cmocka_unit_test(test_timing),
        cmocka_unit_test(test_hypervisor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
