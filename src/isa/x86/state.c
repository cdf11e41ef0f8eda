/* isa/x86/state.c - the state table of a processor, its values after reset, INIT and SIPI, and a readable print.
 *
 * Model: tags are stable for ever: a field that goes leaves a hole, a new one takes the next free number.
 * Invariants: x86_state_check accepts every state an engine can produce, and refuses what no processor can be in and engines may rely on
 * (segment attributes, mode bits that contradict each other).
 * Source: Intel SDM vol. 3 table 10-1 (values after power-up, reset, INIT), 9.4.4 (SIPI).
 */
#include "isa/x86/state.h"
#include "isa/x86/x86_internal.h"

enum {
    RESET_CR0 = X86_CR0_CD | X86_CR0_NW | X86_CR0_ET,
    RESET_MXCSR = 0x1f80,
    RESET_FCW = 0x40,
    RESET_SMBASE = 0x30000,
    RESET_MISC_ENABLE = X86_MISC_ENABLE_FAST_STRING | X86_MISC_ENABLE_NO_BTS | X86_MISC_ENABLE_NO_PEBS,
    RESET_SIGNATURE = 0x600, /* EDX: family 6 */
};
#define RESET_DR6 0xffff0ff0u
#define RESET_DR7 0x400u
#define RESET_PAT 0x0007040600070406ull
#define RESET_APIC_BASE 0xfee00800u /* enabled; bit 8 on the bootstrap processor */

static const struct dp_field seg_fields[] = {
    DP_FIELD_U16(struct x86_seg, sel, 1, 0, 0),
    DP_FIELD_U32(struct x86_seg, attr, 2, 0, 0x1f0ff),
    DP_FIELD_U32(struct x86_seg, limit, 3, 0, 0),
    DP_FIELD_U64(struct x86_seg, base, 4, 0, 0),
};
static const struct dp_state_table seg_table = DP_STATE_TABLE(struct x86_seg, "x86-seg", seg_fields);

static const struct dp_field fpu_fields[] = {
    DP_FIELD_U16(struct x86_fpu, fcw, 1, RESET_FCW, 0),
    DP_FIELD_U16(struct x86_fpu, fsw, 2, 0, 0),
    DP_FIELD_U16(struct x86_fpu, fop, 3, 0, 0x7ff),
    DP_FIELD_U16(struct x86_fpu, ftw, 4, 0, 0xff),
    DP_FIELD_U64(struct x86_fpu, fip, 5, 0, 0),
    DP_FIELD_U64(struct x86_fpu, fdp, 6, 0, 0),
    DP_FIELD_U16(struct x86_fpu, fcs, 7, 0, 0),
    DP_FIELD_U16(struct x86_fpu, fds, 8, 0, 0),
    DP_FIELD_BYTES(struct x86_fpu, st, 9),
};
static const struct dp_state_table fpu_table = DP_STATE_TABLE(struct x86_fpu, "x86-fpu", fpu_fields);

#define S struct x86_state
static const struct dp_field state_fields[] = {
    DP_FIELD_ARRAY(S, r, 1, DP_KIND_U64, 0, 0),
    DP_FIELD_U64(S, rflags, 2, X86_FLAGS_FIXED, X86_FLAGS_VALID),
    DP_FIELD_STRUCTS(S, seg, 3, &seg_table),
    DP_FIELD_STRUCT(S, ldtr, 4, &seg_table),
    DP_FIELD_STRUCT(S, tr, 5, &seg_table),
    DP_FIELD_U64(S, gdtr.base, 6, 0, 0),
    DP_FIELD_U16(S, gdtr.limit, 7, 0xffff, 0),
    DP_FIELD_U64(S, idtr.base, 8, 0, 0),
    DP_FIELD_U16(S, idtr.limit, 9, 0xffff, 0),
    DP_FIELD_U64(S, cr0, 10, RESET_CR0, X86_CR0_VALID),
    DP_FIELD_U64(S, cr2, 11, 0, 0),
    DP_FIELD_U64(S, cr3, 12, 0, 0x000fffffffffffffull),
    DP_FIELD_U64(S, cr4, 13, 0, X86_CR4_KNOWN),
    DP_FIELD_U64(S, cr8, 14, 0, 0xf),
    DP_FIELD_ARRAY(S, pdpte, 15, DP_KIND_U64, 0, 0),
    DP_FIELD_ARRAY(S, dr, 16, DP_KIND_U64, 0, 0),
    DP_FIELD_U64(S, xcr0, 17, 1, 7),
    DP_FIELD_U32(S, mxcsr, 18, RESET_MXCSR, 0xffff),
    DP_FIELD_STRUCT(S, fpu, 19, &fpu_table),
    DP_FIELD_BYTES(S, vec, 20),
    DP_FIELD_U64(S, efer, 21, 0, X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_AUTOIBRS),
    DP_FIELD_U64(S, star, 22, 0, 0),
    DP_FIELD_U64(S, lstar, 23, 0, 0),
    DP_FIELD_U64(S, cstar, 24, 0, 0),
    DP_FIELD_U64(S, fmask, 25, 0, 0xffffffff),
    DP_FIELD_U64(S, kernel_gs_base, 26, 0, 0),
    DP_FIELD_U64(S, sysenter_cs, 27, 0, 0xffffffff),
    DP_FIELD_U64(S, sysenter_esp, 28, 0, 0),
    DP_FIELD_U64(S, sysenter_eip, 29, 0, 0),
    DP_FIELD_U64(S, pat, 30, RESET_PAT, 0x0707070707070707ull),
    DP_FIELD_U64(S, apic_base, 31, RESET_APIC_BASE, 0x000fffffffffffffull),
    DP_FIELD_U64(S, tsc_aux, 32, 0, 0xffffffff),
    DP_FIELD_U64(S, misc_enable, 33, RESET_MISC_ENABLE, 0),
    DP_FIELD_U64(S, spec_ctrl, 34, 0, 0),
    DP_FIELD_U64(S, tsc_offset, 35, 0, 0),
    DP_FIELD_U64(S, tsc_adjust, 36, 0, 0),
    DP_FIELD_U64(S, mtrr_def, 37, 0, 0xcff),
    DP_FIELD_ARRAY(S, mtrr_fixed, 38, DP_KIND_U64, 0, 0),
    DP_FIELD_ARRAY(S, mtrr_base, 39, DP_KIND_U64, 0, 0),
    DP_FIELD_ARRAY(S, mtrr_mask, 40, DP_KIND_U64, 0, 0),
    DP_FIELD_U64(S, kvm_system_time, 41, 0, 0),
    DP_FIELD_U64(S, kvm_wall_clock, 42, 0, 0),
    DP_FIELD_U64(S, kvm_async_pf, 43, 0, 0),
    DP_FIELD_U64(S, kvm_steal_time, 44, 0, 0),
    DP_FIELD_U64(S, kvm_eoi, 45, 0, 0),
    DP_FIELD_U64(S, mcg_status, 46, 0, 0),
    DP_FIELD_U64(S, mcg_ctl, 47, 0, 0),
    DP_FIELD_ARRAY(S, mc_bank, 48, DP_KIND_U64, 0, 0),
    DP_FIELD_U64(S, debugctl, 49, 0, 0),
    DP_FIELD_U8(S, run_state, 50, X86_RUNNING, 3),
    DP_FIELD_BOOL(S, sti_shadow, 51, 0),
    DP_FIELD_BOOL(S, movss_shadow, 52, 0),
    DP_FIELD_BOOL(S, nmi_blocked, 53, 0),
    DP_FIELD_BOOL(S, event_pending, 54, 0),
    DP_FIELD_U8(S, event_vector, 55, 0, 0),
    DP_FIELD_U8(S, event_kind, 56, 0, 7),
    DP_FIELD_BOOL(S, event_has_error, 57, 0),
    DP_FIELD_U32(S, event_error, 58, 0, 0),
    DP_FIELD_BOOL(S, nmi_pending, 59, 0),
    DP_FIELD_BOOL(S, init_pending, 60, 0),
    DP_FIELD_BOOL(S, sipi_pending, 61, 0),
    DP_FIELD_BOOL(S, smi_pending, 62, 0),
    DP_FIELD_U8(S, sipi_vector, 63, 0, 0),
    DP_FIELD_BOOL(S, smm, 64, 0),
    DP_FIELD_U32(S, smbase, 65, RESET_SMBASE, 0),
};
#undef S

static int state_check(const void *regs, struct dp_error *e)
{
    const struct x86_state *s = regs;

    if (s->r[X86_ZERO])
        return dp_error_set(e, -EINVAL, "processor state: the zero register is not zero; the state is damaged");
    if (!(s->rflags & X86_FLAGS_FIXED))
        return dp_error_set(e, -EINVAL, "processor state: RFLAGS bit 1 is clear; the state is damaged");
    if ((s->cr0 & X86_CR0_PG) && !(s->cr0 & X86_CR0_PE))
        return dp_error_set(e, -EINVAL, "processor state: paging without protected mode; the state is damaged");
    if (!!(s->efer & X86_EFER_LMA) != ((s->efer & X86_EFER_LME) && (s->cr0 & X86_CR0_PG)))
        return dp_error_set(e, -EINVAL, "processor state: EFER.LMA contradicts EFER.LME and CR0.PG; the state is damaged");
    if ((s->efer & X86_EFER_LMA) && !(s->cr4 & X86_CR4_PAE))
        return dp_error_set(e, -EINVAL, "processor state: long mode without CR4.PAE; the state is damaged");
    if ((s->cr4 & X86_CR4_PCIDE) && !(s->efer & X86_EFER_LMA))
        return dp_error_set(e, -EINVAL, "processor state: CR4.PCIDE outside long mode; the state is damaged");
    if (!(s->xcr0 & X86_XSTATE_X87) || ((s->xcr0 & X86_XSTATE_AVX) && !(s->xcr0 & X86_XSTATE_SSE)))
        return dp_error_set(e, -EINVAL, "processor state: XCR0 of 0x%x is none a processor takes; the state is damaged", (unsigned)s->xcr0);
    if ((s->rflags & X86_VM) && !(s->cr0 & X86_CR0_PE))
        return dp_error_set(e, -EINVAL, "processor state: virtual-8086 mode without protected mode; the state is damaged");
    if (s->event_pending && s->event_kind > X86_EVENT_ICEBP)
        return dp_error_set(e, -EINVAL, "processor state: unknown kind %u of pending event", s->event_kind);
    return 0;
}

static void state_clamp(void *regs)
{
    struct x86_state *s = regs;

    s->r[X86_ZERO] = 0;
    s->rflags |= X86_FLAGS_FIXED;
    if (!(s->cr0 & X86_CR0_PE)) {
        s->cr0 &= ~(uint64_t)X86_CR0_PG;
        s->rflags &= ~(uint64_t)X86_VM;
    }
    s->efer &= ~(uint64_t)X86_EFER_LMA;
    if ((s->efer & X86_EFER_LME) && (s->cr0 & X86_CR0_PG)) {
        s->efer |= X86_EFER_LMA;
        s->cr4 |= X86_CR4_PAE;
    } else {
        s->cr4 &= ~(uint64_t)X86_CR4_PCIDE;
    }
    s->xcr0 |= X86_XSTATE_X87;
    if (s->xcr0 & X86_XSTATE_AVX)
        s->xcr0 |= X86_XSTATE_SSE;
    if (s->event_kind > X86_EVENT_ICEBP)
        s->event_kind = X86_EVENT_EXTERNAL;
}

const struct dp_state_table x86_state_table =
    DP_STATE_TABLE(struct x86_state, "x86-state", state_fields, .check = state_check, .clamp = state_clamp);

/* The part reset and INIT have in common. */
static void reset_execution(struct x86_state *s, bool bsp)
{
    memset(s->r, 0, sizeof s->r);
    s->r[X86_RDX] = RESET_SIGNATURE;
    s->r[X86_RIP] = 0xfff0;
    s->rflags = X86_FLAGS_FIXED;
    for (unsigned i = 0; i < X86_SEGS; i++)
        s->seg[i] = (struct x86_seg){.attr = X86_ATTR_P | X86_ATTR_S | X86_TYPE_DATA_RW_A, .limit = 0xffff};
    s->seg[X86_CS] = (struct x86_seg){.sel = 0xf000, .attr = X86_ATTR_P | X86_ATTR_S | X86_TYPE_CODE_XR_A, .limit = 0xffff,
                                      .base = 0xffff0000};
    s->ldtr = (struct x86_seg){.attr = X86_ATTR_P | X86_TYPE_LDT, .limit = 0xffff};
    s->tr = (struct x86_seg){.attr = X86_ATTR_P | X86_TYPE_TSS32_BUSY, .limit = 0xffff};
    s->gdtr.base = s->idtr.base = 0;
    s->gdtr.limit = s->idtr.limit = 0xffff;
    s->cr0 = RESET_CR0;
    s->cr2 = s->cr3 = s->cr4 = s->cr8 = 0;
    memset(s->pdpte, 0, sizeof s->pdpte);
    memset(s->dr, 0, sizeof s->dr);
    s->dr[6] = RESET_DR6;
    s->dr[7] = RESET_DR7;
    s->efer = 0;
    s->sysenter_cs = s->sysenter_esp = s->sysenter_eip = 0;
    s->kernel_gs_base = 0;
    s->debugctl = 0;
    s->run_state = bsp ? X86_RUNNING : X86_WAIT_SIPI;
    s->sti_shadow = s->movss_shadow = s->nmi_blocked = s->event_pending = false;
    s->nmi_pending = s->init_pending = s->sipi_pending = s->smi_pending = false;
    s->event_vector = s->event_kind = s->sipi_vector = 0;
    s->event_has_error = false;
    s->event_error = 0;
}

void x86_state_reset(struct x86_state *s, bool bsp)
{
    memset(s, 0, sizeof *s);
    reset_execution(s, bsp);
    s->xcr0 = 1;
    s->mxcsr = RESET_MXCSR;
    s->fpu.fcw = RESET_FCW;
    s->fpu.ftw = 0xff; /* tags 5555h: eight valid zeros */
    s->pat = RESET_PAT;
    s->apic_base = RESET_APIC_BASE | (bsp ? 0x100 : 0);
    s->misc_enable = RESET_MISC_ENABLE;
    s->smbase = RESET_SMBASE;
}

void x86_state_on_init(struct x86_state *s, bool bsp)
{
    uint64_t cache = s->cr0 & (X86_CR0_CD | X86_CR0_NW);

    reset_execution(s, bsp);
    s->cr0 = X86_CR0_ET | cache;
}

void x86_state_start_ap(struct x86_state *s, uint8_t vector)
{
    s->seg[X86_CS].sel = (uint16_t)(vector << 8);
    s->seg[X86_CS].base = (uint64_t)vector << 12;
    s->r[X86_RIP] = 0;
    s->sipi_pending = false;
    s->run_state = X86_RUNNING;
}

static void print_seg(struct dp_buffer *out, const char *name, const struct x86_seg *g)
{
    dp_buffer_printf(out, "%-4s %04x base %016llx limit %08x attr %05x%s\n", name, g->sel, (unsigned long long)g->base, g->limit, g->attr,
                     g->attr & X86_ATTR_UNUSABLE ? " (null)" : "");
}

static void print_flags(struct dp_buffer *out, uint64_t flags)
{
    static const struct { uint32_t bit; const char *name; } names[] = {
        {X86_CF, "CF"}, {X86_PF, "PF"}, {X86_AF, "AF"}, {X86_ZF, "ZF"}, {X86_SF, "SF"}, {X86_TF, "TF"}, {X86_IF, "IF"}, {X86_DF, "DF"},
        {X86_OF, "OF"}, {X86_NT, "NT"}, {X86_RF, "RF"}, {X86_VM, "VM"}, {X86_AC, "AC"}, {X86_VIF, "VIF"}, {X86_VIP, "VIP"}, {X86_ID, "ID"},
    };

    for (unsigned i = 0; i < DP_ARRAY_LEN(names); i++)
        if (flags & names[i].bit)
            dp_buffer_printf(out, " %s", names[i].name);
    dp_buffer_printf(out, " IOPL%u\n", (unsigned)(flags >> 12 & 3));
}

static const char *mode_name(const struct x86_state *s)
{
    if (x86_code64(s))
        return "64-bit";
    if (x86_long_mode(s))
        return "compatibility";
    if (!x86_protected(s))
        return "real";
    return x86_v86(s) ? "virtual-8086" : "protected";
}

void x86_state_print(const struct x86_state *s, struct dp_buffer *out)
{
    static const char *const gpr[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
                                      "r15"};
    static const char *const seg[] = {"es", "cs", "ss", "ds", "fs", "gs"};
    static const char *const run[] = {"running", "halted", "waiting for SIPI", "shut down"};
    #define LL(x) ((unsigned long long)(x))

    dp_buffer_printf(out, "rip  %016llx  %s mode, CPL %u, %s\n", LL(s->r[X86_RIP]), mode_name(s), x86_cpl(s), run[s->run_state & 3]);
    dp_buffer_printf(out, "rfl  %016llx ", LL(s->rflags));
    print_flags(out, s->rflags);
    for (unsigned i = 0; i < DP_ARRAY_LEN(gpr); i++)
        dp_buffer_printf(out, "%-4s %016llx%s", gpr[i], LL(s->r[i]), i % 4 == 3 ? "\n" : "  ");
    for (unsigned i = 0; i < X86_SEGS; i++)
        print_seg(out, seg[i], &s->seg[i]);
    print_seg(out, "ldtr", &s->ldtr);
    print_seg(out, "tr", &s->tr);
    dp_buffer_printf(out, "gdtr base %016llx limit %04x  idtr base %016llx limit %04x\n", LL(s->gdtr.base), s->gdtr.limit, LL(s->idtr.base),
                     s->idtr.limit);
    dp_buffer_printf(out, "cr0  %016llx  cr2  %016llx  cr3  %016llx  cr4  %016llx\n", LL(s->cr0), LL(s->cr2), LL(s->cr3), LL(s->cr4));
    dp_buffer_printf(out, "cr8  %016llx  efer %016llx  dr6  %016llx  dr7  %016llx\n", LL(s->cr8), LL(s->efer), LL(s->dr[6]), LL(s->dr[7]));
    #undef LL
}
