/* isa/x86/state.h - the one canonical state of an x86 processor: plain data, the only currency between engines, snapshots, gdb and tests.
 *
 * Source: Intel SDM vol. 1 ch. 3, vol. 3 ch. 2, 5, 10; AMD APM vol. 2. Names are the manuals'.
 * Invariants: r[X86_ZERO] is 0. Segment limits are in bytes (granularity applied). attr holds descriptor bits 40-55 shifted
 * down to 0 (type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15), as VMX access rights do, and bit 16 "unusable" (null selector).
 * CPL is ss.attr's DPL in protected mode, 0 in real mode, 3 in virtual-8086 mode: see x86_cpl().
 */
#ifndef DP_ISA_X86_STATE_H
#define DP_ISA_X86_STATE_H

#include "state/state.h"

enum { X86_RAX, X86_RCX, X86_RDX, X86_RBX, X86_RSP, X86_RBP, X86_RSI, X86_RDI,
       X86_R8, X86_R9, X86_R10, X86_R11, X86_R12, X86_R13, X86_R14, X86_R15,
       X86_RIP,  /* index 16: lets RIP-relative addresses be a base register like any other */
       X86_ZERO, /* index 17: always 0, the base or index that is absent */
       X86_GPR_SLOTS };

enum x86_seg_name { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_SEGS }; /* encoding order */

struct x86_seg {
    uint16_t sel;
    uint32_t attr;
    uint32_t limit;
    uint64_t base;
};
#define X86_ATTR_TYPE 0xfu
#define X86_ATTR_S (1u << 4)
#define X86_ATTR_DPL_SHIFT 5
#define X86_ATTR_P (1u << 7)
#define X86_ATTR_L (1u << 13)
#define X86_ATTR_DB (1u << 14)
#define X86_ATTR_G (1u << 15)
#define X86_ATTR_UNUSABLE (1u << 16)

enum {
    X86_CF = 1 << 0, X86_PF = 1 << 2, X86_AF = 1 << 4, X86_ZF = 1 << 6, X86_SF = 1 << 7, X86_TF = 1 << 8, X86_IF = 1 << 9,
    X86_DF = 1 << 10, X86_OF = 1 << 11, X86_IOPL = 3 << 12, X86_NT = 1 << 14, X86_RF = 1 << 16, X86_VM = 1 << 17,
    X86_AC = 1 << 18, X86_VIF = 1 << 19, X86_VIP = 1 << 20, X86_ID = 1 << 21,
    X86_ARITH = X86_CF | X86_PF | X86_AF | X86_ZF | X86_SF | X86_OF,
};
enum {
    X86_CR0_PE = 1 << 0, X86_CR0_MP = 1 << 1, X86_CR0_EM = 1 << 2, X86_CR0_TS = 1 << 3, X86_CR0_ET = 1 << 4, X86_CR0_NE = 1 << 5,
    X86_CR0_WP = 1 << 16, X86_CR0_AM = 1 << 18, X86_CR0_NW = 1 << 29, X86_CR0_CD = 1 << 30,
};
#define X86_CR0_PG (1u << 31)
enum {
    X86_CR4_VME = 1 << 0, X86_CR4_PVI = 1 << 1, X86_CR4_TSD = 1 << 2, X86_CR4_DE = 1 << 3, X86_CR4_PSE = 1 << 4, X86_CR4_PAE = 1 << 5,
    X86_CR4_MCE = 1 << 6, X86_CR4_PGE = 1 << 7, X86_CR4_PCE = 1 << 8, X86_CR4_OSFXSR = 1 << 9, X86_CR4_OSXMMEXCPT = 1 << 10,
    X86_CR4_UMIP = 1 << 11, X86_CR4_LA57 = 1 << 12, X86_CR4_FSGSBASE = 1 << 16, X86_CR4_PCIDE = 1 << 17, X86_CR4_OSXSAVE = 1 << 18,
    X86_CR4_SMEP = 1 << 20, X86_CR4_SMAP = 1 << 21,
};
enum { X86_EFER_SCE = 1 << 0, X86_EFER_LME = 1 << 8, X86_EFER_LMA = 1 << 10, X86_EFER_NXE = 1 << 11, X86_EFER_AUTOIBRS = 1 << 21 };

enum x86_vector { X86_DE, X86_DB, X86_NMI, X86_BP, X86_OFV, X86_BR, X86_UD, X86_NM, X86_DF_, X86_TS = 10, X86_NP, X86_SS_, X86_GP, X86_PF_,
                  X86_MF = 16, X86_AC_, X86_MC, X86_XM };

/* XCR0, and what XSAVE calls its state components. */
enum { X86_XSTATE_X87 = 1 << 0, X86_XSTATE_SSE = 1 << 1, X86_XSTATE_AVX = 1 << 2 };

enum x86_run_state { X86_RUNNING, X86_HALTED, X86_WAIT_SIPI, X86_SHUTDOWN /* triple fault */ };

struct x86_fpu { /* x87 by physical register: st(i) is st[(top + i) & 7] */
    uint16_t fcw, fsw /* TOP included */, fop;
    uint16_t ftw;               /* full two-bit tags are derived; this is FXSAVE's abridged byte: bit i set = st[i] in use */
    uint64_t fip, fdp;
    uint16_t fcs, fds;
    uint8_t st[8][16];          /* 80-bit values, little-endian, 6 bytes of padding */
};

struct x86_state {
    uint64_t r[X86_GPR_SLOTS];
    uint64_t rflags;
    struct x86_seg seg[X86_SEGS], ldtr, tr;
    struct { uint64_t base; uint16_t limit; } gdtr, idtr;
    uint64_t cr0, cr2, cr3, cr4, cr8; /* cr8 here mirrors the local APIC's TPR >> 4 */
    uint64_t pdpte[4];          /* PAE paging outside long mode walks these, loaded with CR3 (SDM vol. 3 4.4.1) */
    uint64_t dr[8];
    uint64_t xcr0;
    uint32_t mxcsr;
    struct x86_fpu fpu;
    uint8_t vec[16][32];        /* YMM; XMM is the low half. (ZMM and masks: a later tag) */

    /* model-specific registers */
    uint64_t efer, star, lstar, cstar, fmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, apic_base, tsc_aux, misc_enable, spec_ctrl;
    int64_t tsc_offset;         /* guest TSC = host-independent VM TSC + offset */
    uint64_t tsc_adjust;
    uint64_t mtrr_def, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
    uint64_t kvm_system_time, kvm_wall_clock, kvm_async_pf, kvm_steal_time, kvm_eoi; /* paravirtual MSRs 0x4b564d00.. */
    uint64_t mcg_status, mcg_ctl, mc_bank[4 * 4];
    uint64_t debugctl;

    /* what is between instructions */
    uint8_t run_state;          /* enum x86_run_state */
    bool sti_shadow, movss_shadow, nmi_blocked;
    bool event_pending;         /* an event that was being delivered when the state was taken */
    uint8_t event_vector, event_kind;
    bool event_has_error;
    uint32_t event_error;
    bool nmi_pending, init_pending, sipi_pending, smi_pending;
    uint8_t sipi_vector;
    bool smm;                   /* in system management mode */
    uint32_t smbase;
};

extern const struct dp_state_table x86_state_table;
/* Power-on or INIT values (SDM vol. 3 table 10-1); bsp: runs at F000:FFF0, others wait for SIPI. */
void x86_state_reset(struct x86_state *s, bool bsp);
/* INIT: as reset, but x87, SSE, MTRRs, PAT, machine checks, time and other MSRs stay (SDM vol. 3 table 10-1), and so do CR0.CD and NW. */
void x86_state_on_init(struct x86_state *s, bool bsp);
/* SIPI: real mode at vector << 12. */
void x86_state_start_ap(struct x86_state *s, uint8_t vector);
/* One readable block: registers, segments, control registers. For triple faults and `doppel` debugging. */
void x86_state_print(const struct x86_state *s, struct dp_buffer *out);

static inline bool x86_long_mode(const struct x86_state *s) { return s->efer & X86_EFER_LMA; }
static inline bool x86_code64(const struct x86_state *s) { return x86_long_mode(s) && (s->seg[X86_CS].attr & X86_ATTR_L); }
static inline bool x86_protected(const struct x86_state *s) { return s->cr0 & X86_CR0_PE; }
static inline bool x86_v86(const struct x86_state *s) { return (s->rflags & X86_VM) && !x86_long_mode(s); }
static inline unsigned x86_cpl(const struct x86_state *s)
{
    if (!x86_protected(s))
        return 0;
    return x86_v86(s) ? 3 : s->seg[X86_SS].attr >> X86_ATTR_DPL_SHIFT & 3;
}

#endif
