/* isa/x86/x86.h - what the architecture does beyond single instructions: page walks, segmentation, events, CPUID, MSRs.
 *
 * Model: functions over a struct x86_ctx: the canonical state plus the caller's way to reach memory. No threads, no syscalls, no engine.
 * A function that can fault returns 0, or -1 with ctx->fault filled and (as far as the manuals promise it) the state unchanged.
 * Source: Intel SDM vol. 3 ch. 4-8, 10; AMD APM vol. 2 for SYSCALL/SYSRET and EFER.
 */
#ifndef DP_ISA_X86_X86_H
#define DP_ISA_X86_X86_H

#include "isa/x86/state.h"

struct x86_fault { uint8_t vector; bool has_error; uint32_t error; uint64_t cr2; /* for #PF */ uint64_t dr6; /* bits for #DB */ };

enum x86_access { X86_ACCESS_READ, X86_ACCESS_WRITE, X86_ACCESS_FETCH };
/* Page-fault error code bits. */
enum { X86_PF_P = 1, X86_PF_W = 2, X86_PF_U = 4, X86_PF_RSVD = 8, X86_PF_I = 16 };

/* What a change to control registers, INVLPG or INVPCID makes invalid. pcid is 0 while CR4.PCIDE is 0. */
enum x86_flush {
    X86_FLUSH_ALL, /* every translation of every PCID, global ones too; also for rights that changed (CR0.WP, CR4.SMEP, EFER.NXE ...) */
    X86_FLUSH_PCIDS,     /* those of every PCID but global ones */
    X86_FLUSH_PCID,      /* those of `pcid` but global ones. CR3 writes: the new PCID, which is the current one from now on */
    X86_FLUSH_SWITCH,    /* CR3 changed without a flush (bit 63): what is cached for `pcid`, now current, may be used */
    X86_FLUSH_PAGE,      /* INVLPG: `linear` in the current PCID, and global ones */
    X86_FLUSH_PAGE_PCID, /* `linear` in `pcid`; global ones may stay */
};

struct x86_ctx {
    struct x86_state *s;
    const struct x86_cpuid_model *model;
    /* Linear access of 1-16 bytes (may cross pages). user: as CPL 3, else as a supervisor ("implicit", so SMAP ignores AC for implicit
     * ones). Fill fault and return -1 when refused. */
    int (*read)(struct x86_ctx *c, uint64_t linear, void *data, unsigned size, bool user);
    int (*write)(struct x86_ctx *c, uint64_t linear, const void *data, unsigned size, bool user);
    /* Checks that a later write of size bytes at linear cannot fault (for pushes of several words); NULL-able result in fault. */
    int (*probe_write)(struct x86_ctx *c, uint64_t linear, unsigned size, bool user);
    /* Physical 4- or 8-byte access for page walks; compare_exchange sets A/D bits atomically: returns false when it no longer holds old. */
    uint64_t (*phys_load)(struct x86_ctx *c, uint64_t phys, unsigned size);
    bool (*phys_compare_exchange)(struct x86_ctx *c, uint64_t phys, uint64_t old, uint64_t new_, unsigned size);
    /* Translations may have changed: writes to CR0, CR3, CR4 and EFER, task switches, INVPCID. May be NULL. */
    void (*flush)(struct x86_ctx *c, enum x86_flush kind, uint64_t linear, unsigned pcid);
    void *opaque;
    struct x86_fault fault;
    /* Set by this module around supervisor pushes and pops: the access is an explicit one, so EFLAGS.AC lifts SMAP for it. Everything else
     * with user == false (descriptor tables, TSS, IDT) is implicit. Callbacks that ignore it are merely stricter than the manuals. */
    bool explicit_access;
};
/* Fills fault, returns -1. */
int x86_fault(struct x86_ctx *c, unsigned vector, bool has_error, uint32_t error);

/* ---- mmu.c ---- */
struct x86_translation {
    uint64_t phys;       /* of the byte asked for */
    uint64_t page_size;  /* 4 KiB, 2 or 4 MiB, 1 GiB; the whole linear space when paging is off counts as 4 KiB */
    bool writable, user, executable, global; /* what the tables say, all levels combined; CR0.WP, SMEP and SMAP are not in it */
    bool dirty;          /* D is set, so a cached write entry is allowed */
    uint8_t memory_type; /* PAT index */
};
/* Walks the tables as access of the given kind and privilege, with every check (P, R/W, U/S, NX, SMEP, SMAP, WP, reserved bits), setting A
 * and D. smap_ac: RFLAGS.AC counts as set (explicit access with AC=1); implicit supervisor accesses pass false. Returns 0, or -1 with #PF
 * (error code, cr2) or, for non-canonical addresses in long mode, #GP(0) / #SS(0) by the caller's choice of stack. */
int x86_walk(struct x86_ctx *c, uint64_t linear, enum x86_access a, bool user, bool smap_ac, struct x86_translation *t);
/* Long mode: what a translation would be now if all its entries have their accessed bits already; nothing changes, nothing is checked but
 * the entries' form. For who caches translations before they are asked for (SDM vol. 3 4.10.2.3 allows it). */
bool x86_walk_used(struct x86_ctx *c, uint64_t linear, struct x86_translation *t);
/* The same without side effects and checks, for debuggers. */
bool x86_walk_debug(struct x86_ctx *c, uint64_t linear, uint64_t *phys);
bool x86_canonical(const struct x86_state *s, uint64_t linear);

/* ---- segment.c: loads and far transfers (SDM vol. 2 MOV, CALL, JMP, RET, IRET; vol. 3 ch. 5, 8) ---- */
int x86_load_segment(struct x86_ctx *c, enum x86_seg_name seg, uint16_t selector); /* MOV/POP/LDS: every check; not CS */
int x86_load_ldt(struct x86_ctx *c, uint16_t selector);
int x86_load_tr(struct x86_ctx *c, uint16_t selector);
/* operand_size 2, 4, 8. next_rip is the address of the following instruction (return address). On success s->r[X86_RIP] etc. are set. */
int x86_far_jump(struct x86_ctx *c, uint16_t selector, uint64_t offset, unsigned operand_size, uint64_t next_rip);
int x86_far_call(struct x86_ctx *c, uint16_t selector, uint64_t offset, unsigned operand_size, uint64_t next_rip);
int x86_far_return(struct x86_ctx *c, unsigned operand_size, uint16_t release);
int x86_iret(struct x86_ctx *c, unsigned operand_size, uint64_t next_rip);
int x86_syscall(struct x86_ctx *c, uint64_t next_rip);
int x86_sysret(struct x86_ctx *c, unsigned operand_size);
int x86_sysenter(struct x86_ctx *c);
int x86_sysexit(struct x86_ctx *c, unsigned operand_size);
/* LAR, LSL, VERR, VERW: false leaves ZF clear; unless c->fault.vector is then not 0: reading the descriptor faulted, raise that. */
bool x86_lar(struct x86_ctx *c, uint16_t selector, uint32_t *rights);
bool x86_lsl(struct x86_ctx *c, uint16_t selector, uint32_t *limit);
bool x86_verify(struct x86_ctx *c, uint16_t selector, bool write);
/* I/O permission: port access of size bytes allowed by IOPL or the TSS bitmap; else #GP(0). */
int x86_check_io(struct x86_ctx *c, uint16_t port, unsigned size);

/* ---- event.c: interrupts, exceptions, task switches ---- */
enum x86_event_kind {
    X86_EVENT_EXTERNAL, X86_EVENT_NMI, X86_EVENT_EXCEPTION, X86_EVENT_SOFTWARE /* INT n */,
    X86_EVENT_SOFTWARE_EXCEPTION /* INT3, INTO */, X86_EVENT_ICEBP
};
/* Delivers one event through IVT or IDT (gates, privilege and stack change, IST, task gates). rip to push is s->r[X86_RIP] for faults and
 * external events, next_rip for software ones (given). Faults within are returned, not combined: x86_raise does that. */
int x86_deliver(struct x86_ctx *c, unsigned vector, enum x86_event_kind kind, bool has_error, uint32_t error, uint64_t next_rip);
/* Delivers an exception with everything that follows: CR2, DR6, RF, contributory faults -> #DF -> shutdown (run_state = X86_SHUTDOWN).
 * Returns the number of nested faults (chain into trace). history (may be NULL) gets up to 4 faults for the triple-fault report. */
unsigned x86_raise(struct x86_ctx *c, const struct x86_fault *f, enum x86_event_kind kind, uint64_t next_rip, struct x86_fault history[4]);
/* Switches to the task of a TSS selector whose privilege was checked; next_rip is saved in the old one. -1 before the switch leaves the
 * state as it was; -1 after it (the manuals say so: bad segments of the new task, #DB of its T bit) faults in the new task's context. */
enum x86_task_why { X86_TASK_JMP, X86_TASK_CALL, X86_TASK_IRET, X86_TASK_INT };
int x86_task_switch(struct x86_ctx *c, uint16_t selector, enum x86_task_why why, bool has_error, uint32_t error, uint64_t next_rip);

/* ---- smm.c: system management mode ---- */
enum { X86_SMM_SAVE = 0xfe00, X86_SMM_SIZE = 512 }; /* the save area: offset from SMBASE, bytes */
/* Fills the image of the save area and puts the processor into the mode, about to run at SMBASE + 0x8000. */
void x86_smm_enter(struct x86_state *s, uint8_t image[X86_SMM_SIZE]);
/* RSM: the state of the image. -1: it is none a processor can have; the processor is shut down. The caller flushes translations. */
int x86_smm_leave(struct x86_ctx *c, const uint8_t image[X86_SMM_SIZE]);

/* ---- control.c: control registers, debug registers, MSRs ---- */
int x86_write_cr(struct x86_ctx *c, unsigned cr, uint64_t value); /* 0, 2, 3, 4, 8: reserved bits, mode rules, PAE PDPTEs, flushes */
int x86_write_dr(struct x86_ctx *c, unsigned dr, uint64_t value);
int x86_read_dr(struct x86_ctx *c, unsigned dr, uint64_t *value);
int x86_xsetbv(struct x86_ctx *c, uint32_t index, uint64_t value);
/* INVPCID with its 16-byte descriptor, read once by the caller, who has checked CPL. */
int x86_invpcid(struct x86_ctx *c, uint64_t type, const uint8_t descriptor[16]);
/* The current process-context identifier: 0 while CR4.PCIDE is 0. */
static inline unsigned x86_pcid(const struct x86_state *s) { return s->cr4 & X86_CR4_PCIDE ? s->cr3 & 0xfff : 0; }
/* MSRs that are plain processor state. -1 with #GP(0) for unknown ones and bad values. TSC, local APIC and
 * x2APIC MSRs are the engine's (it asks first). */
int x86_rdmsr(struct x86_ctx *c, uint32_t msr, uint64_t *value);
int x86_wrmsr(struct x86_ctx *c, uint32_t msr, uint64_t value);

/* ---- cpuid.c ---- */
#define X86_FEATURE(name, leaf, subleaf, reg, bit) X86_FEATURE_##name,
enum x86_feature { X86_FEATURE_BASE,
#include "isa/x86/feature.def"
    X86_FEATURE_COUNT };
#undef X86_FEATURE

struct x86_cpuid_model {
    char name[24];          /* "x86-64-v3" */
    char vendor[13], brand[49];
    uint8_t family, model, stepping;
    uint64_t features[2];   /* bit per enum x86_feature */
    uint32_t physical_bits, linear_bits;
    uint32_t tsc_khz, apic_bus_khz;
    uint32_t cpu_count;
    bool hypervisor, kvm_clock; /* leaves 0x40000000.. */
};
/* "x86-64-v3", "x86-64-v2", "x86-64-v1" */
int x86_cpuid_model(const char *name, struct x86_cpuid_model *m, struct dp_error *e) DP_MUST_CHECK;
/* Features of the processor we run on, as its operating system lets programs use them (none of AVX without YMM state). */
void x86_cpuid_host(uint64_t features[2]);
/* Instructions of a guest run as the host's own. Takes from m what is extra to its level and the host lacks (SHA ...);
 * -ENOTSUP when the host lacks something of the level. */
int x86_cpuid_fit(struct x86_cpuid_model *m, const uint64_t host[2], struct dp_error *e) DP_MUST_CHECK;
static inline bool x86_has(const struct x86_cpuid_model *m, enum x86_feature f) { return m->features[f / 64] >> (f % 64) & 1; }
/* Leaves as this processor sees them now (OSXSAVE, APIC id and XSAVE size follow the state). */
void x86_cpuid(const struct x86_cpuid_model *m, const struct x86_state *s, unsigned cpu_index, uint32_t leaf, uint32_t subleaf,
               uint32_t out[4]);

#endif
