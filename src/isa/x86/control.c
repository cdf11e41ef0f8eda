/* isa/x86/control.c - control registers, debug registers, XCR0.
 *
 * Model: a write is checked whole against the processor's features and the mode, then done, with what follows from it: EFER.LMA, PDPTE
 * registers of PAE paging, flushes of translations.
 * Invariants: a refused write changes nothing. Callers have checked CPL.
 * Source: Intel SDM vol. 3 2.5 (reserved bits), 4.1.2 (mode changes), 4.4.1 (PDPTEs), 4.10 (PCIDs, flushes),
 * 17.2 (debug registers), vol. 2 XSETBV, INVPCID.
 */
#include "isa/x86/x86_internal.h"

#define CR0_PAGING ((uint64_t)X86_CR0_PG | X86_CR0_PE | X86_CR0_WP)
#define CR4_PAGING (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PCIDE | X86_CR4_LA57)
#define CR3_NO_FLUSH (1ull << 63)
#define DR6_FIXED 0xffff0ff0u
#define DR7_FIXED 0x400u
#define DR7_WRITABLE 0xffff23ffu

static uint64_t physical_mask(const struct x86_cpuid_model *m) { return (1ull << m->physical_bits) - 1; }

int x86_load_pdptes(struct x86_ctx *c, uint64_t cr3)
{
    uint64_t pdpte[4], reserved = ~physical_mask(c->model) | 0x1e6;

    for (unsigned i = 0; i < 4; i++) {
        pdpte[i] = c->phys_load(c, (cr3 & 0xffffffe0) + i * 8, 8);
        if ((pdpte[i] & 1) && (pdpte[i] & reserved))
            return x86_gp(c, 0);
    }
    memcpy(c->s->pdpte, pdpte, sizeof pdpte);
    return 0;
}

static int write_cr0(struct x86_ctx *c, uint64_t value)
{
    struct x86_state *s = c->s;
    uint64_t old = s->cr0, changed;
    bool pg = value & X86_CR0_PG, enter_long = false, leave_long = false;

    if (value >> 32 || (pg && !(value & X86_CR0_PE)) || ((value & X86_CR0_NW) && !(value & X86_CR0_CD)))
        return x86_gp(c, 0);
    value = (value & X86_CR0_VALID) | X86_CR0_ET;
    changed = old ^ value;
    if ((changed & X86_CR0_PG) && pg && (s->efer & X86_EFER_LME)) {
        unsigned tss = s->tr.attr & X86_ATTR_TYPE;
        if (!(s->cr4 & X86_CR4_PAE) || (s->seg[X86_CS].attr & X86_ATTR_L) || tss == X86_TYPE_TSS16 || tss == X86_TYPE_TSS16_BUSY)
            return x86_gp(c, 0);
        enter_long = true;
    }
    if ((changed & X86_CR0_PG) && !pg) {
        if (x86_code64(s) || (s->cr4 & X86_CR4_PCIDE))
            return x86_gp(c, 0);
        leave_long = x86_long_mode(s);
    }
    if (pg && (changed & (X86_CR0_PG | X86_CR0_CD | X86_CR0_NW)) && (s->cr4 & X86_CR4_PAE) && !enter_long && !x86_long_mode(s) &&
        x86_load_pdptes(c, s->cr3))
        return -1;
    s->cr0 = value;
    if (enter_long)
        s->efer |= X86_EFER_LMA;
    if (leave_long)
        s->efer &= ~(uint64_t)X86_EFER_LMA;
    if (changed & CR0_PAGING)
        x86_flush_all(c);
    return 0;
}

static int write_cr3(struct x86_ctx *c, uint64_t value)
{
    struct x86_state *s = c->s;
    bool keep = false;

    if (x86_long_mode(s)) {
        if (s->cr4 & X86_CR4_PCIDE) { /* bit 63 asks for no flush, and is not stored; without PCIDs it is reserved */
            keep = value & CR3_NO_FLUSH;
            value &= ~CR3_NO_FLUSH;
        }
        if (value & ~physical_mask(c->model))
            return x86_gp(c, 0);
    } else {
        value = (uint32_t)value;
        if (x86_pae_paging(s) && x86_load_pdptes(c, value))
            return -1;
    }
    s->cr3 = value;
    x86_flush(c, keep ? X86_FLUSH_SWITCH : X86_FLUSH_PCID, 0, x86_pcid(s));
    return 0;
}

uint64_t x86_cr4_writable(const struct x86_cpuid_model *m)
{
    static const struct { uint32_t bits; uint8_t feature; } by_feature[] = {
        {X86_CR4_VME | X86_CR4_PVI, X86_FEATURE_VME}, {X86_CR4_TSD, X86_FEATURE_TSC}, {X86_CR4_DE, X86_FEATURE_DE},
        {X86_CR4_PSE, X86_FEATURE_PSE},
        {X86_CR4_PAE, X86_FEATURE_PAE}, {X86_CR4_MCE, X86_FEATURE_MCE}, {X86_CR4_PGE, X86_FEATURE_PGE}, {X86_CR4_OSFXSR, X86_FEATURE_FXSR},
        {X86_CR4_OSXMMEXCPT, X86_FEATURE_SSE}, {X86_CR4_UMIP, X86_FEATURE_UMIP}, {X86_CR4_FSGSBASE, X86_FEATURE_FSGSBASE},
        {X86_CR4_OSXSAVE, X86_FEATURE_XSAVE}, {X86_CR4_SMEP, X86_FEATURE_SMEP}, {X86_CR4_SMAP, X86_FEATURE_SMAP},
        {X86_CR4_PCIDE, X86_FEATURE_PCID},
    };
    uint64_t bits = X86_CR4_PCE; /* RDPMC is older than any CPUID bit for it */

    for (unsigned i = 0; i < DP_ARRAY_LEN(by_feature); i++)
        if (x86_has(m, by_feature[i].feature))
            bits |= by_feature[i].bits;
    return bits;
}

static int write_cr4(struct x86_ctx *c, uint64_t value)
{
    struct x86_state *s = c->s;
    uint64_t changed = s->cr4 ^ value;

    if ((value & ~x86_cr4_writable(c->model)) || (x86_long_mode(s) && !(value & X86_CR4_PAE)))
        return x86_gp(c, 0);
    if ((changed & value & X86_CR4_PCIDE) && (!x86_long_mode(s) || (s->cr3 & 0xfff)))
        return x86_gp(c, 0);
    if ((s->cr0 & X86_CR0_PG) && !x86_long_mode(s) && (value & X86_CR4_PAE) &&
        (changed & (X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PSE | X86_CR4_SMEP)) && x86_load_pdptes(c, s->cr3))
        return -1;
    s->cr4 = value;
    if (changed & CR4_PAGING)
        x86_flush_all(c);
    return 0;
}

int x86_write_cr(struct x86_ctx *c, unsigned cr, uint64_t value)
{
    switch (cr) {
    case 0:
        return write_cr0(c, value);
    case 2:
        c->s->cr2 = value;
        return 0;
    case 3:
        return write_cr3(c, value);
    case 4:
        return write_cr4(c, value);
    case 8:
        if (value > 15)
            return x86_gp(c, 0);
        c->s->cr8 = value;
        return 0;
    }
    return x86_fault(c, X86_UD, false, 0);
}

/* ---- debug registers ---- */

/* DR4 and DR5 are names for DR6 and DR7 unless CR4.DE says they do not exist; DR7.GD guards all of them. */
static int select_dr(struct x86_ctx *c, unsigned *dr)
{
    const struct x86_state *s = c->s;

    if (*dr > 7 || ((*dr == 4 || *dr == 5) && (s->cr4 & X86_CR4_DE)))
        return x86_fault(c, X86_UD, false, 0);
    if (*dr == 4 || *dr == 5)
        *dr += 2;
    if (s->dr[7] & X86_DR7_GD) {
        x86_fault(c, X86_DB, false, 0);
        c->fault.dr6 = X86_DR6_BD;
        return -1;
    }
    return 0;
}

int x86_write_dr(struct x86_ctx *c, unsigned dr, uint64_t value)
{
    struct x86_state *s = c->s;

    if (select_dr(c, &dr))
        return -1;
    if (dr >= 6 && value >> 32)
        return x86_gp(c, 0);
    if (dr == 6)
        value = (value & (X86_DR6_BD | X86_DR6_BS | X86_DR6_BT | 0xf)) | DR6_FIXED;
    else if (dr == 7)
        value = (value & DR7_WRITABLE) | DR7_FIXED;
    s->dr[dr] = value;
    return 0;
}

int x86_read_dr(struct x86_ctx *c, unsigned dr, uint64_t *value)
{
    if (select_dr(c, &dr))
        return -1;
    *value = c->s->dr[dr];
    return 0;
}

int x86_xsetbv(struct x86_ctx *c, uint32_t index, uint64_t value)
{
    enum { X87 = X86_XSTATE_X87, SSE = X86_XSTATE_SSE, AVX = X86_XSTATE_AVX };
    uint64_t valid = X87 | SSE | (x86_has(c->model, X86_FEATURE_AVX) ? AVX : 0);

    if (!x86_has(c->model, X86_FEATURE_XSAVE) || !(c->s->cr4 & X86_CR4_OSXSAVE))
        return x86_fault(c, X86_UD, false, 0);
    if (x86_cpl(c->s) != 0 || index != 0 || !(value & X87) || (value & ~valid) || ((value & AVX) && !(value & SSE)))
        return x86_gp(c, 0);
    c->s->xcr0 = value;
    return 0;
}

int x86_invpcid(struct x86_ctx *c, uint64_t type, const uint8_t descriptor[16])
{
    enum { ONE_ADDRESS, ONE_PCID, EVERYTHING, ALL_PCIDS };
    uint64_t pcid = dp_ld64(descriptor), linear = dp_ld64(descriptor + 8);

    if (type > ALL_PCIDS || pcid >> 12)
        return x86_gp(c, 0);
    if (type <= ONE_PCID && pcid && !(c->s->cr4 & X86_CR4_PCIDE))
        return x86_gp(c, 0);
    switch (type) {
    case ONE_ADDRESS:
        if (!x86_canonical48(linear))
            return x86_gp(c, 0);
        x86_flush(c, X86_FLUSH_PAGE_PCID, linear, (unsigned)pcid);
        break;
    case ONE_PCID:
        x86_flush(c, X86_FLUSH_PCID, 0, (unsigned)pcid);
        break;
    case EVERYTHING:
        x86_flush_all(c);
        break;
    default:
        x86_flush(c, X86_FLUSH_PCIDS, 0, 0);
    }
    return 0;
}
