/* isa/x86/msr.c - model-specific registers that are plain processor state.
 *
 * Model: two switches, read and write; each register exists when the processor's model has the feature it belongs to, else it is unknown.
 * Invariants: unknown registers, and values with reserved bits, are #GP(0) and change nothing. TSC, APIC base, TSC deadline and x2APIC
 * registers are the engine's and unknown here. Callers have checked CPL.
 * Source: Intel SDM vol. 4 ch. 2; vol. 3 11.11 (MTRR), 11.12 (PAT), 15.3 (machine check); KVM's documentation of its paravirtual registers.
 */
#include "isa/x86/x86_internal.h"

enum {
    MSR_PLATFORM_ID = 0x17, MSR_UCODE_REV = 0x8b, MSR_MTRR_CAP = 0xfe, MSR_ARCH_CAPABILITIES = 0x10a,
    MSR_SYSENTER_CS = 0x174, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP,
    MSR_MCG_CAP = 0x179, MSR_MCG_STATUS, MSR_MCG_CTL,
    MSR_MISC_ENABLE = 0x1a0, MSR_DEBUGCTL = 0x1d9,
    MSR_MTRR_BASE0 = 0x200, MSR_MTRR_MASK7 = 0x20f, MSR_MTRR_FIX64K = 0x250, MSR_MTRR_FIX16K_0 = 0x258, MSR_MTRR_FIX16K_1,
    MSR_MTRR_FIX4K_0 = 0x268, MSR_MTRR_FIX4K_7 = 0x26f, MSR_PAT = 0x277, MSR_MTRR_DEF = 0x2ff,
    MSR_MC0_CTL = 0x400, MSR_MC3_MISC = 0x40f,
    MSR_KVM_WALL_CLOCK = 0x4b564d00, MSR_KVM_SYSTEM_TIME,
};
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_FMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u

enum {
    UCODE_REVISION = 1,
    MC_BANKS = 4,
    MCG_CAP = MC_BANKS | 1 << 8,        /* MCG_CTL is there */
    MTRR_CAP = 8 | 1 << 8 | 1 << 10,    /* 8 variable ranges, fixed ranges, write-combining */
    MTRR_DEF_VALID = 3 << 10 | 0xff,
    DEBUGCTL_VALID = 3,                 /* LBR (no records kept: the model has none), BTF */
    MISC_ENABLE_WRITABLE = X86_MISC_ENABLE_FAST_STRING,
};
/* Bits of IA32_MISC_ENABLE that exist on family 6: writing them is no fault, even where this processor ignores them. */
#define MISC_ENABLE_KNOWN (1ull | 1 << 3 | 1 << 7 | 1 << 11 | 1 << 12 | 1 << 16 | 1 << 18 | 1 << 22 | 1 << 23 | 1ull << 34)

static uint64_t *fixed_mtrr(struct x86_state *s, uint32_t msr)
{
    if (msr == MSR_MTRR_FIX64K)
        return &s->mtrr_fixed[0];
    if (msr == MSR_MTRR_FIX16K_0 || msr == MSR_MTRR_FIX16K_1)
        return &s->mtrr_fixed[1 + msr - MSR_MTRR_FIX16K_0];
    return &s->mtrr_fixed[3 + msr - MSR_MTRR_FIX4K_0];
}

static bool read_msr(struct x86_ctx *c, uint32_t msr, uint64_t *value)
{
    const struct x86_cpuid_model *m = c->model;
    struct x86_state *s = c->s;

    switch (msr) {
    case MSR_FS_BASE:
        *value = s->seg[X86_FS].base;
        return x86_has(m, X86_FEATURE_LM);
    case MSR_GS_BASE:
        *value = s->seg[X86_GS].base;
        return x86_has(m, X86_FEATURE_LM);
    case MSR_KERNEL_GS_BASE:
        *value = s->kernel_gs_base;
        return x86_has(m, X86_FEATURE_LM);
    case MSR_EFER:
        *value = s->efer;
        return x86_has(m, X86_FEATURE_NX) || x86_has(m, X86_FEATURE_LM) || x86_has(m, X86_FEATURE_SYSCALL);
    case MSR_STAR:
        *value = s->star;
        return x86_has(m, X86_FEATURE_SYSCALL);
    case MSR_LSTAR:
        *value = s->lstar;
        return x86_has(m, X86_FEATURE_LM);
    case MSR_CSTAR:
        *value = s->cstar;
        return x86_has(m, X86_FEATURE_LM);
    case MSR_FMASK:
        *value = s->fmask;
        return x86_has(m, X86_FEATURE_SYSCALL);
    case MSR_TSC_AUX:
        *value = s->tsc_aux;
        return x86_has(m, X86_FEATURE_RDTSCP) || x86_has(m, X86_FEATURE_RDPID);
    case MSR_SYSENTER_CS:
        *value = s->sysenter_cs;
        return x86_has(m, X86_FEATURE_SEP);
    case MSR_SYSENTER_ESP:
        *value = s->sysenter_esp;
        return x86_has(m, X86_FEATURE_SEP);
    case MSR_SYSENTER_EIP:
        *value = s->sysenter_eip;
        return x86_has(m, X86_FEATURE_SEP);
    case MSR_PAT:
        *value = s->pat;
        return x86_has(m, X86_FEATURE_PAT);
    case MSR_PLATFORM_ID:
        *value = 0;
        return true;
    case MSR_UCODE_REV:
        *value = (uint64_t)UCODE_REVISION << 32;
        return true;
    case MSR_ARCH_CAPABILITIES:
        *value = x86_arch_capabilities();
        return x86_has(m, X86_FEATURE_ARCH_CAPABILITIES);
    case MSR_MISC_ENABLE:
        *value = s->misc_enable;
        return true;
    case MSR_DEBUGCTL:
        *value = s->debugctl;
        return true;
    case MSR_MTRR_CAP:
        *value = MTRR_CAP;
        return x86_has(m, X86_FEATURE_MTRR);
    case MSR_MTRR_DEF:
        *value = s->mtrr_def;
        return x86_has(m, X86_FEATURE_MTRR);
    case MSR_MTRR_BASE0 ... MSR_MTRR_MASK7:
        *value = msr & 1 ? s->mtrr_mask[(msr - MSR_MTRR_BASE0) / 2] : s->mtrr_base[(msr - MSR_MTRR_BASE0) / 2];
        return x86_has(m, X86_FEATURE_MTRR);
    case MSR_MTRR_FIX64K: case MSR_MTRR_FIX16K_0: case MSR_MTRR_FIX16K_1: case MSR_MTRR_FIX4K_0 ... MSR_MTRR_FIX4K_7:
        *value = *fixed_mtrr(s, msr);
        return x86_has(m, X86_FEATURE_MTRR);
    case MSR_MCG_CAP:
        *value = MCG_CAP;
        return x86_has(m, X86_FEATURE_MCA);
    case MSR_MCG_STATUS:
        *value = s->mcg_status;
        return x86_has(m, X86_FEATURE_MCA);
    case MSR_MCG_CTL:
        *value = s->mcg_ctl;
        return x86_has(m, X86_FEATURE_MCA);
    case MSR_MC0_CTL ... MSR_MC3_MISC:
        *value = s->mc_bank[msr - MSR_MC0_CTL];
        return x86_has(m, X86_FEATURE_MCA);
    case MSR_KVM_WALL_CLOCK:
        *value = s->kvm_wall_clock;
        return m->kvm_clock;
    case MSR_KVM_SYSTEM_TIME:
        *value = s->kvm_system_time;
        return m->kvm_clock;
    }
    return false;
}

int x86_rdmsr(struct x86_ctx *c, uint32_t msr, uint64_t *value)
{
    return read_msr(c, msr, value) ? 0 : x86_gp(c, 0);
}

/* ---- writes ---- */

static bool write_efer(struct x86_ctx *c, uint64_t value)
{
    static const struct { uint32_t bit; uint8_t feature; } bits[] = {
        {X86_EFER_SCE, X86_FEATURE_SYSCALL}, {X86_EFER_LME, X86_FEATURE_LM}, {X86_EFER_LMA, X86_FEATURE_LM},
        {X86_EFER_NXE, X86_FEATURE_NX}, {X86_EFER_AUTOIBRS, X86_FEATURE_AUTOIBRS},
    };
    struct x86_state *s = c->s;
    uint64_t valid = 0, changed;

    for (unsigned i = 0; i < DP_ARRAY_LEN(bits); i++)
        if (x86_has(c->model, bits[i].feature))
            valid |= bits[i].bit;
    value = (value & ~(uint64_t)X86_EFER_LMA) | (s->efer & X86_EFER_LMA); /* LMA is read-only */
    changed = s->efer ^ value;
    if ((value & ~valid) || ((changed & X86_EFER_LME) && (s->cr0 & X86_CR0_PG)))
        return false;
    s->efer = value;
    if (changed & X86_EFER_NXE)
        x86_flush_all(c);
    return true;
}

static bool valid_pat(uint64_t value)
{
    for (unsigned i = 0; i < 8; i++, value >>= 8)
        if (!((1u << 0 | 1u << 1 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 7) >> DP_MIN(value & 0xff, 31u) & 1))
            return false;
    return true;
}

static bool valid_mtrr_type(unsigned type) /* UC, WC, WT, WP, WB */
{
    return type < 7 && (1u << 0 | 1u << 1 | 1u << 4 | 1u << 5 | 1u << 6) >> type & 1;
}

static bool write_mtrr(struct x86_ctx *c, uint32_t msr, uint64_t value)
{
    struct x86_state *s = c->s;
    uint64_t high = ~((1ull << c->model->physical_bits) - 1);

    if (!x86_has(c->model, X86_FEATURE_MTRR))
        return false;
    if (msr == MSR_MTRR_DEF) {
        if ((value & ~(uint64_t)MTRR_DEF_VALID) || !valid_mtrr_type(value & 0xff))
            return false;
        s->mtrr_def = value;
    } else if (msr > MSR_MTRR_MASK7) {
        for (unsigned i = 0; i < 8; i++)
            if (!valid_mtrr_type(value >> (8 * i) & 0xff))
                return false;
        *fixed_mtrr(s, msr) = value;
    } else if (msr & 1) {
        if (value & (high | 0x7ff))
            return false;
        s->mtrr_mask[(msr - MSR_MTRR_BASE0) / 2] = value;
    } else {
        if ((value & (high | 0xf00)) || !valid_mtrr_type(value & 0xff))
            return false;
        s->mtrr_base[(msr - MSR_MTRR_BASE0) / 2] = value;
    }
    return true;
}

static bool write_machine_check(struct x86_ctx *c, uint32_t msr, uint64_t value)
{
    struct x86_state *s = c->s;

    if (!x86_has(c->model, X86_FEATURE_MCA))
        return false;
    if (msr == MSR_MCG_CTL) {
        s->mcg_ctl = value;
    } else if (msr == MSR_MCG_STATUS) {
        if (value > 7)
            return false;
        s->mcg_status = value;
    } else {
        if (value && (msr & 3)) /* software may only clear status, address and misc */
            return false;
        s->mc_bank[msr - MSR_MC0_CTL] = value;
    }
    return true;
}

static bool store(uint64_t *to, uint64_t value, bool valid)
{
    if (valid)
        *to = value;
    return valid;
}

static bool write_msr(struct x86_ctx *c, uint32_t msr, uint64_t value)
{
    const struct x86_cpuid_model *m = c->model;
    struct x86_state *s = c->s;
    bool lm = x86_has(m, X86_FEATURE_LM), canonical = x86_canonical48(value), narrow = !(value >> 32);

    switch (msr) {
    case MSR_FS_BASE:
        return store(&s->seg[X86_FS].base, value, lm && canonical);
    case MSR_GS_BASE:
        return store(&s->seg[X86_GS].base, value, lm && canonical);
    case MSR_KERNEL_GS_BASE:
        return store(&s->kernel_gs_base, value, lm && canonical);
    case MSR_EFER:
        return write_efer(c, value);
    case MSR_STAR:
        return store(&s->star, value, x86_has(m, X86_FEATURE_SYSCALL));
    case MSR_LSTAR:
        return store(&s->lstar, value, lm && canonical);
    case MSR_CSTAR:
        return store(&s->cstar, value, lm && canonical);
    case MSR_FMASK:
        return store(&s->fmask, value, x86_has(m, X86_FEATURE_SYSCALL) && narrow);
    case MSR_TSC_AUX:
        return store(&s->tsc_aux, value, (x86_has(m, X86_FEATURE_RDTSCP) || x86_has(m, X86_FEATURE_RDPID)) && narrow);
    case MSR_SYSENTER_CS:
        return store(&s->sysenter_cs, (uint32_t)value, x86_has(m, X86_FEATURE_SEP));
    case MSR_SYSENTER_ESP:
        return store(&s->sysenter_esp, value, x86_has(m, X86_FEATURE_SEP) && canonical);
    case MSR_SYSENTER_EIP:
        return store(&s->sysenter_eip, value, x86_has(m, X86_FEATURE_SEP) && canonical);
    case MSR_PAT:
        return store(&s->pat, value, x86_has(m, X86_FEATURE_PAT) && valid_pat(value));
    case MSR_UCODE_REV:
        return true; /* system software writes 0 before it asks CPUID for the revision */
    case MSR_MISC_ENABLE:
        return store(&s->misc_enable, (s->misc_enable & ~(uint64_t)MISC_ENABLE_WRITABLE) | (value & MISC_ENABLE_WRITABLE),
                     !(value & ~MISC_ENABLE_KNOWN));
    case MSR_DEBUGCTL:
        return store(&s->debugctl, value, !(value & ~(uint64_t)DEBUGCTL_VALID));
    case MSR_MTRR_DEF: case MSR_MTRR_BASE0 ... MSR_MTRR_MASK7:
    case MSR_MTRR_FIX64K: case MSR_MTRR_FIX16K_0: case MSR_MTRR_FIX16K_1: case MSR_MTRR_FIX4K_0 ... MSR_MTRR_FIX4K_7:
        return write_mtrr(c, msr, value);
    case MSR_MCG_STATUS: case MSR_MCG_CTL: case MSR_MC0_CTL ... MSR_MC3_MISC:
        return write_machine_check(c, msr, value);
    case MSR_KVM_WALL_CLOCK:
        return store(&s->kvm_wall_clock, value, m->kvm_clock);
    case MSR_KVM_SYSTEM_TIME:
        return store(&s->kvm_system_time, value, m->kvm_clock);
    }
    return false;
}

int x86_wrmsr(struct x86_ctx *c, uint32_t msr, uint64_t value)
{
    return write_msr(c, msr, value) ? 0 : x86_gp(c, 0);
}
