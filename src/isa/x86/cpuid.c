/* isa/x86/cpuid.c - processor models and the CPUID leaves made from them.
 *
 * Model: a model is a set of features plus identity and sizes; feature.def says where each feature's bit stands, so leaves are assembled,
 * not stored. docs/decisions/0002-cpu-model.md says why the models are what they are.
 * Invariants: one socket, one thread per core, APIC id = CPU index: leaves 1, 4 and 0xb say the same.
 * Source: Intel SDM vol. 2 CPUID; KVM's documentation of leaves 0x40000000-1; 0x40000010 as VMware defined it.
 */
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "isa/x86/x86_internal.h"
#include "isa/x86/xsave.h"

enum { MAX_BASIC = 0x16, CLFLUSH_LINE = 64 };
#define MAX_EXTENDED 0x80000008u
#define HYPERVISOR_BASE 0x40000000u
#define HYPERVISOR_TIMING 0x40000010u

enum { EAX, EBX, ECX, EDX };

struct place { uint32_t leaf; uint8_t subleaf, reg, bit; };
#define X86_FEATURE(name, leaf, subleaf, reg, bit) [X86_FEATURE_##name] = {leaf, subleaf, reg, bit},
static const struct place places[] = {
#include "isa/x86/feature.def"
};
#undef X86_FEATURE
_Static_assert(DP_ARRAY_LEN(places) == X86_FEATURE_COUNT, "every feature has a place");
_Static_assert(X86_FEATURE_COUNT <= 128, "struct x86_cpuid_model.features has 128 bits");

/* ---- models ---- */

#define F(name) X86_FEATURE_##name
static const uint8_t v1_features[] = {
    F(FPU), F(DE), F(PSE), F(TSC), F(MSR), F(PAE), F(MCE), F(CX8), F(APIC), F(SEP), F(MTRR), F(PGE), F(MCA), F(CMOV), F(PAT), F(PSE36),
    F(CLFSH), F(MMX), F(FXSR), F(SSE), F(SSE2), F(SYSCALL), F(NX), F(LM), F(X2APIC), F(TSC_DEADLINE), F(HYPERVISOR), F(INVTSC),
    F(ARCH_CAPABILITIES),
};
static const uint8_t v2_features[] = { /* besides those of v1 */
    F(SSE3), F(SSSE3), F(CX16), F(SSE4_1), F(SSE4_2), F(MOVBE), F(POPCNT), F(XSAVE), F(XSAVEOPT), F(XGETBV1), F(RDRAND), F(RDSEED),
    F(FSGSBASE), F(SMEP), F(ERMS), F(SMAP), F(UMIP), F(FSRM), F(LAHF64), F(PDPE1GB), F(RDTSCP),
};
static const uint8_t v3_features[] = { /* besides those of v2 */
    F(AVX), F(AVX2), F(BMI1), F(BMI2), F(F16C), F(FMA), F(LZCNT), F(AES), F(PCLMULQDQ), F(SHA), F(ADX), F(XSAVEC), F(PCID), F(INVPCID),
};
/* What engines let the host execute: without it there, a model that lists it cannot run. */
static const uint8_t native_features[] = {
    F(CMOV), F(MMX), F(SSE), F(SSE2), F(SSE3), F(SSSE3), F(SSE4_1), F(SSE4_2), F(POPCNT), F(AVX), F(AVX2), F(BMI1), F(BMI2), F(F16C),
    F(FMA), F(LZCNT), F(AES), F(PCLMULQDQ),
};
/* The same, but no level of the x86-64 psABI needs it, and processors of the level without it are common: the model does without. */
static const uint8_t optional_features[] = { F(SHA), F(ADX) };
#undef F

#define LIST(features) {features, DP_ARRAY_LEN(features)}
static const struct { const char *name; struct { const uint8_t *feature; uint8_t count; } list[3]; } models[] = {
    {"x86-64-v3", {LIST(v1_features), LIST(v2_features), LIST(v3_features)}},
    {"x86-64-v2", {LIST(v1_features), LIST(v2_features)}},
    {"x86-64-v1", {LIST(v1_features)}},
};
#undef LIST

static void give(uint64_t features[2], unsigned f) { features[f / 64] |= 1ull << f % 64; }
static bool given(const uint64_t features[2], unsigned f) { return features[f / 64] >> f % 64 & 1; }

int x86_cpuid_model(const char *name, struct x86_cpuid_model *m, struct dp_error *e)
{
    for (unsigned i = 0; i < DP_ARRAY_LEN(models); i++) {
        if (strcmp(name, models[i].name))
            continue;
        *m = (struct x86_cpuid_model){
            .vendor = "GenuineIntel", .family = 6, .model = 0x1c, .stepping = 10, /* an in-order Atom: speculates as little as we do */
            .physical_bits = 40, .linear_bits = 48,
            .tsc_khz = 1000000, .apic_bus_khz = 1000000, /* a tick of either is 1 ns */
            .cpu_count = 1, .hypervisor = true, .kvm_clock = true,
        };
        snprintf(m->name, sizeof m->name, "%s", name);
        snprintf(m->brand, sizeof m->brand, "doppel virtual CPU (%s)", name);
        m->features[0] = 1ull << X86_FEATURE_BASE;
        for (unsigned list = 0; list < DP_ARRAY_LEN(models[i].list); list++)
            for (unsigned f = 0; f < models[i].list[list].count; f++)
                give(m->features, models[i].list[list].feature[f]);
        return 0;
    }
    return dp_error_set(e, -EINVAL, "unknown CPU model \"%s\"; known are x86-64-v3, x86-64-v2 and x86-64-v1", name);
}

/* ---- the host ---- */

/* Features that need YMM registers from the operating system. */
static bool needs_ymm(unsigned f)
{
    return f == X86_FEATURE_AVX || f == X86_FEATURE_AVX2 || f == X86_FEATURE_FMA || f == X86_FEATURE_F16C;
}

void x86_cpuid_host(uint64_t features[2])
{
    features[0] = 1ull << X86_FEATURE_BASE;
    features[1] = 0;
#ifdef __x86_64__
    bool ymm = false, there = false;
    unsigned out[4] = {0};
    const struct place *last = NULL;

    for (unsigned f = X86_FEATURE_BASE + 1; f < X86_FEATURE_COUNT; f++) {
        const struct place *p = &places[f];

        if (!last || p->leaf != last->leaf || p->subleaf != last->subleaf) /* in a virtual machine CPUID takes up to half a millisecond */
            there = __get_cpuid_count(p->leaf, p->subleaf, &out[EAX], &out[EBX], &out[ECX], &out[EDX]);
        last = p;
        if (there && (out[p->reg] >> p->bit & 1))
            give(features, f);
    }
    if (given(features, X86_FEATURE_OSXSAVE)) {
        uint32_t low, high;

        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        ymm = (low & (X86_XSTATE_SSE | X86_XSTATE_AVX)) == (X86_XSTATE_SSE | X86_XSTATE_AVX);
    }
    for (unsigned f = 0; f < X86_FEATURE_COUNT && !ymm; f++)
        if (needs_ymm(f))
            features[f / 64] &= ~(1ull << f % 64);
#endif
}

int x86_cpuid_fit(struct x86_cpuid_model *m, const uint64_t host[2], struct dp_error *e)
{
    static const char *const names[] = {
        #define X86_FEATURE(name, leaf, subleaf, reg, bit) [X86_FEATURE_##name] = #name,
        #include "isa/x86/feature.def"
        #undef X86_FEATURE
    };

    for (unsigned i = 0; i < DP_ARRAY_LEN(native_features); i++) {
        unsigned f = native_features[i];

        if (given(m->features, f) && !given(host, f))
            return dp_error_set(
                e, -ENOTSUP, "CPU model %s needs a host processor with %s, which this one lacks; choose a lower model (--cpu x86-64-v%c)",
                m->name, names[f], m->name[strlen(m->name) - 1] > '2' ? '2' : '1');
    }
    for (unsigned i = 0; i < DP_ARRAY_LEN(optional_features); i++)
        if (!given(host, optional_features[i]))
            m->features[optional_features[i] / 64] &= ~(1ull << optional_features[i] % 64);
    return 0;
}

uint64_t x86_arch_capabilities(void)
{
    /* RDCL_NO, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO,
     * RFDS_NO, ITS_NO: nothing here speculates or has a microarchitectural buffer. */
    return 1ull << 0 | 1ull << 3 | 1ull << 4 | 1ull << 5 | 1ull << 6 | 1ull << 8 | 1ull << 13 | 1ull << 14 | 1ull << 15 | 1ull << 20 |
           1ull << 24 | 1ull << 26 | 1ull << 27 | 1ull << 62;
}

/* ---- leaves ---- */

static unsigned id_bits(const struct x86_cpuid_model *m) /* of the APIC id below the package */
{
    unsigned bits = 0;

    while (bits < 31 && (1u << bits) < m->cpu_count)
        bits++;
    return bits;
}

static void leaf_1(const struct x86_cpuid_model *m, const struct x86_state *s, unsigned cpu, uint32_t out[4])
{
    unsigned family = DP_MIN(m->family, 15), extended = m->family > 15 ? m->family - 15u : 0;

    out[EAX] = m->stepping | (m->model & 15u) << 4 | family << 8 | (uint32_t)(m->model >> 4) << 16 | extended << 20;
    out[EBX] = (CLFLUSH_LINE / 8) << 8 | DP_MIN(1u << id_bits(m), 255u) << 16 | (uint32_t)(cpu & 0xff) << 24;
    if (m->cpu_count > 1)
        out[EDX] |= 1u << places[X86_FEATURE_HTT].bit;
    if (s->cr4 & X86_CR4_OSXSAVE)
        out[ECX] |= 1u << places[X86_FEATURE_OSXSAVE].bit;
    if (!(s->apic_base & 1 << 11)) /* globally disabled: as if there were none */
        out[EDX] &= ~(1u << places[X86_FEATURE_APIC].bit);
}

static void leaf_4(const struct x86_cpuid_model *m, uint32_t subleaf, uint32_t out[4])
{
    static const struct { uint8_t type, level, ways; uint16_t sets; bool shared; } caches[] = {
        {1, 1, 8, 64, false},     /* L1 data, 32 KiB */
        {2, 1, 8, 64, false},     /* L1 code, 32 KiB */
        {3, 2, 16, 1024, false},  /* L2, 1 MiB */
        {3, 3, 16, 16384, true},  /* L3, 16 MiB */
    };
    uint32_t ids = (1u << id_bits(m)) - 1;

    if (subleaf >= DP_ARRAY_LEN(caches))
        return;
    out[EAX] = caches[subleaf].type | caches[subleaf].level << 5 | 1 << 8 /* self-initializing */ |
               (caches[subleaf].shared ? DP_MIN(ids, 0xfffu) : 0) << 14 | DP_MIN(ids, 63u) << 26;
    out[EBX] = (CLFLUSH_LINE - 1) | (caches[subleaf].ways - 1u) << 22;
    out[ECX] = caches[subleaf].sets - 1u;
}

static void leaf_b(const struct x86_cpuid_model *m, unsigned cpu, uint32_t subleaf, uint32_t out[4])
{
    out[ECX] = subleaf & 0xff;
    out[EDX] = cpu;
    if (subleaf == 0) { /* one thread per core */
        out[EBX] = 1;
        out[ECX] |= 1 << 8;
    } else if (subleaf == 1) { /* the package */
        out[EAX] = id_bits(m);
        out[EBX] = m->cpu_count & 0xffff;
        out[ECX] |= 2 << 8;
    }
}

static void leaf_d(const struct x86_cpuid_model *m, const struct x86_state *s, uint32_t subleaf, uint32_t out[4])
{
    bool avx = x86_has(m, X86_FEATURE_AVX);

    if (!x86_has(m, X86_FEATURE_XSAVE))
        return;
    if (subleaf == 0) {
        out[EAX] = X86_XSTATE_X87 | X86_XSTATE_SSE | (avx ? X86_XSTATE_AVX : 0);
        out[EBX] = x86_xsave_size(s->xcr0);
        out[ECX] = x86_xsave_size(out[EAX]);
    } else if (subleaf == 1) {
        if (x86_has(m, X86_FEATURE_XSAVEC)) /* compacted; with one extended component that is no smaller */
            out[EBX] = x86_xsave_size(s->xcr0);
    } else if (subleaf == 2 && avx) {
        out[EAX] = X86_XSAVE_AVX_SIZE;
        out[EBX] = X86_XSAVE_AVX;
    }
}

/* TSC frequency as a ratio to the APIC timer's clock. Linux multiplies in 32 bits: no leaf rather than a wrong result. */
static void leaf_15(const struct x86_cpuid_model *m, uint32_t out[4])
{
    uint32_t a = m->tsc_khz, b = m->apic_bus_khz;

    if (!a || !b || b > UINT32_MAX / 1000)
        return;
    while (b) {
        uint32_t t = a % b;
        a = b;
        b = t;
    }
    if ((uint64_t)m->apic_bus_khz * (m->tsc_khz / a) > UINT32_MAX)
        return;
    out[EAX] = m->apic_bus_khz / a;
    out[EBX] = m->tsc_khz / a;
    out[ECX] = m->apic_bus_khz * 1000;
}

static void hypervisor_leaf(const struct x86_cpuid_model *m, uint32_t leaf, uint32_t out[4])
{
    enum { KVM_NOP_IO_DELAY = 1 << 1, KVM_CLOCKSOURCE2 = 1 << 3, KVM_CLOCKSOURCE_STABLE = 1 << 24 };

    switch (leaf) {
    case HYPERVISOR_BASE:
        out[EAX] = HYPERVISOR_TIMING;
        memcpy(&out[EBX], m->kvm_clock ? "KVMKVMKVM\0\0\0" : "doppeldoppel", 12);
        break;
    case HYPERVISOR_BASE + 1:
        if (m->kvm_clock)
            out[EAX] = KVM_NOP_IO_DELAY | KVM_CLOCKSOURCE2 | KVM_CLOCKSOURCE_STABLE;
        break;
    case HYPERVISOR_TIMING:
        out[EAX] = m->tsc_khz;
        out[EBX] = m->apic_bus_khz;
        break;
    }
}

static void identity(const char *text12, uint32_t out[4]) /* EBX, EDX, ECX */
{
    memcpy(&out[EBX], text12, 4);
    memcpy(&out[EDX], text12 + 4, 4);
    memcpy(&out[ECX], text12 + 8, 4);
}

static void feature_bits(const struct x86_cpuid_model *m, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    for (unsigned f = X86_FEATURE_BASE + 1; f < X86_FEATURE_COUNT; f++)
        if (places[f].leaf == leaf && places[f].subleaf == subleaf && x86_has(m, (enum x86_feature)f))
            out[places[f].reg] |= 1u << places[f].bit;
}

void x86_cpuid(const struct x86_cpuid_model *m, const struct x86_state *s, unsigned cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    bool hypervisor = m->hypervisor && leaf >= HYPERVISOR_BASE && leaf <= HYPERVISOR_BASE + 0xff;

    memset(out, 0, 4 * sizeof *out);
    if (hypervisor) {
        hypervisor_leaf(m, leaf, out);
        return;
    }
    /* Intel answers leaves above the highest with the highest basic one. */
    if (leaf > MAX_BASIC && (leaf < 0x80000000u || leaf > MAX_EXTENDED))
        leaf = MAX_BASIC;
    feature_bits(m, leaf, leaf == 7 || leaf == 0xd ? subleaf : 0, out);

    switch (leaf) {
    case 0:
        out[EAX] = MAX_BASIC;
        identity(m->vendor, out);
        break;
    case 1:
        leaf_1(m, s, cpu, out);
        break;
    case 2:
        out[EAX] = 0x0000ff01; /* descriptor FFh: see leaf 4 */
        break;
    case 4:
        leaf_4(m, subleaf, out);
        break;
    case 6:
        out[EAX] = 1 << 2; /* ARAT: the APIC timer never stops */
        break;
    case 0xb:
        leaf_b(m, cpu, subleaf, out);
        break;
    case 0xd:
        leaf_d(m, s, subleaf, out);
        break;
    case 0x15:
        leaf_15(m, out);
        break;
    case 0x16:
        out[EAX] = out[EBX] = m->tsc_khz / 1000;
        out[ECX] = 100;
        break;
    case 0x80000000u:
        out[EAX] = MAX_EXTENDED;
        break;
    case 0x80000002u: case 0x80000003u: case 0x80000004u:
        memcpy(out, m->brand + (leaf - 0x80000002u) * 16, 16);
        break;
    case 0x80000006u:
        out[ECX] = 1024u << 16 | 8 << 12 /* 16 ways */ | CLFLUSH_LINE;
        break;
    case 0x80000008u:
        out[EAX] = m->physical_bits | m->linear_bits << 8;
        break;
    }
}
