/* isa/x86/x86_internal.h - what the files of isa/x86 share: faults, descriptors, stacks.
 *
 * Model: a descriptor is the 64 (long mode system segments: 128) bits as read from memory plus where it was read; a stack is a detached
 * copy of SS:rSP, so that a transfer does all its checks and pushes first and commits registers last.
 * Source: Intel SDM vol. 3 ch. 3.4.5, 5, 6.12, 8.2 (formats and checks).
 */
#ifndef DP_ISA_X86_INTERNAL_H
#define DP_ISA_X86_INTERNAL_H

#include "isa/x86/x86.h"

/* ---- bits without a name in state.h ---- */

#define X86_FLAGS_FIXED 2u
#define X86_FLAGS_VALID 0x3f7fd7u /* bits an EFLAGS image can have */
#define X86_CR0_VALID \
    ((uint64_t)X86_CR0_PG | X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | \
     X86_CR0_NW | X86_CR0_CD)
#define X86_CR4_KNOWN \
    (X86_CR4_VME | X86_CR4_PVI | X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE | X86_CR4_MCE | X86_CR4_PGE | X86_CR4_PCE | \
     X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_UMIP | X86_CR4_LA57 | X86_CR4_FSGSBASE | X86_CR4_PCIDE | X86_CR4_OSXSAVE | \
     X86_CR4_SMEP | X86_CR4_SMAP)
enum {
    X86_MISC_ENABLE_FAST_STRING = 1 << 0, X86_MISC_ENABLE_NO_BTS = 1 << 11, X86_MISC_ENABLE_NO_PEBS = 1 << 12,
    X86_DR6_BD = 1 << 13, X86_DR6_BS = 1 << 14, X86_DR6_BT = 1 << 15, X86_DR7_GD = 1 << 13,
};
/* Segment types (descriptor bits 40-43). */
enum {
    X86_TYPE_ACCESSED = 1, X86_TYPE_RW = 2 /* code: readable, data: writable */, X86_TYPE_DIR = 4 /* code: conforming, data: expand-down */,
    X86_TYPE_CODE = 8, X86_TYPE_DATA_RW_A = 3, X86_TYPE_CODE_XR_A = 11,
    X86_TYPE_TSS16 = 1, X86_TYPE_LDT = 2, X86_TYPE_TSS16_BUSY = 3, X86_TYPE_CALL16 = 4, X86_TYPE_TASK_GATE = 5, X86_TYPE_INT16 = 6,
    X86_TYPE_TRAP16 = 7, X86_TYPE_TSS32 = 9, X86_TYPE_TSS32_BUSY = 11, X86_TYPE_CALL32 = 12, X86_TYPE_INT32 = 14, X86_TYPE_TRAP32 = 15,
};

/* ---- faults ---- */

static inline int x86_gp(struct x86_ctx *c, uint32_t error) { return x86_fault(c, X86_GP, true, error); }

/* ---- linear access ---- */

/* Outside long mode linear addresses wrap at 4 GiB. */
static inline uint64_t x86_linear(const struct x86_state *s, uint64_t a) { return x86_long_mode(s) ? a : (uint32_t)a; }
static inline bool x86_canonical48(uint64_t a) { return (uint64_t)((int64_t)(a << 16) >> 16) == a; }

/* Implicit supervisor read and write: descriptor tables, TSS, IDT. */
static inline int x86_sys_read(struct x86_ctx *c, uint64_t linear, void *data, unsigned size)
{
    return c->read(c, x86_linear(c->s, linear), data, size, false);
}
static inline int x86_sys_write(struct x86_ctx *c, uint64_t linear, const void *data, unsigned size)
{
    return c->write(c, x86_linear(c->s, linear), data, size, false);
}

/* ---- descriptors ---- */

struct x86_desc {
    uint64_t raw, high; /* high: second half of a 16-byte descriptor */
    uint64_t address;   /* linear address it was read from */
};

static inline uint32_t x86_desc_attr(uint64_t raw) { return (uint32_t)(raw >> 40) & 0xf0ff; }
static inline unsigned x86_desc_type(uint64_t raw) { return (unsigned)(raw >> 40) & 15; }
static inline bool x86_desc_segment(uint64_t raw) { return raw >> 44 & 1; } /* the S bit */
static inline unsigned x86_desc_dpl(uint64_t raw) { return (unsigned)(raw >> 45) & 3; }
static inline bool x86_desc_present(uint64_t raw) { return raw >> 47 & 1; }
static inline bool x86_desc_long(uint64_t raw) { return raw >> 53 & 1; }
static inline bool x86_desc_db(uint64_t raw) { return raw >> 54 & 1; }
static inline bool x86_desc_code(uint64_t raw) { return (raw >> 43 & 3) == 3; }
static inline bool x86_desc_conforming(uint64_t raw) { return x86_desc_code(raw) && (raw >> 42 & 1); }
static inline bool x86_desc_writable(uint64_t raw) { return (raw >> 43 & 3) == 2 && (raw >> 41 & 1); } /* writable data */
static inline bool x86_desc_readable(uint64_t raw) { return x86_desc_segment(raw) && (!x86_desc_code(raw) || (raw >> 41 & 1)); }
static inline uint32_t x86_desc_limit(uint64_t raw)
{
    uint32_t limit = (uint32_t)(raw & 0xffff) | (uint32_t)(raw >> 32 & 0xf0000);
    return raw >> 55 & 1 ? limit << 12 | 0xfff : limit;
}
static inline uint32_t x86_desc_base(uint64_t raw) { return (uint32_t)(raw >> 16 & 0xffffff) | (uint32_t)(raw >> 32 & 0xff000000); }
/* Gates: offset (32-bit formats), target selector. */
static inline uint32_t x86_gate_offset(uint64_t raw) { return (uint32_t)(raw & 0xffff) | (uint32_t)(raw >> 32 & 0xffff0000); }
static inline uint16_t x86_gate_selector(uint64_t raw) { return (uint16_t)(raw >> 16); }

static inline bool x86_null_selector(uint16_t sel) { return !(sel & ~3u); }

static inline struct x86_seg x86_seg_of(uint16_t sel, uint64_t raw)
{
    return (struct x86_seg){.sel = sel, .attr = x86_desc_attr(raw), .limit = x86_desc_limit(raw), .base = x86_desc_base(raw)};
}
/* A null selector keeps a DPL, because SS holds the CPL. */
static inline struct x86_seg x86_seg_null(uint16_t sel, unsigned dpl)
{
    return (struct x86_seg){.sel = sel, .attr = X86_ATTR_UNUSABLE | dpl << X86_ATTR_DPL_SHIFT};
}

/* segment.c: Reads the descriptor of a selector that is not null. Outside its table: `vector` with the selector | ext. */
int x86_desc_read(struct x86_ctx *c, uint16_t sel, unsigned vector, unsigned ext, struct x86_desc *d);
/* The same for system descriptors, which have 16 bytes in long mode; the type bits of the second half must be 0. */
int x86_desc_read_system(struct x86_ctx *c, uint16_t sel, unsigned vector, unsigned ext, struct x86_desc *d);
/* Sets the accessed bit in memory (and in d) when it is clear. */
int x86_desc_mark_slow(struct x86_ctx *c, struct x86_desc *d);
static inline int x86_desc_mark(struct x86_ctx *c, struct x86_desc *d)
{
    return DP_LIKELY(d->raw >> 40 & 1) ? 0 : x86_desc_mark_slow(c, d);
}
/* Marks a TSS descriptor busy or available. */
int x86_desc_set_busy(struct x86_ctx *c, const struct x86_desc *d, bool busy);
/* Every check of loading SS with sel for the privilege level cpl; wrong selectors fault with
 * `vector` (#GP, or #TS for stacks out of a TSS). */
int x86_stack_segment(struct x86_ctx *c, uint16_t sel, unsigned cpl, unsigned vector, unsigned ext, struct x86_desc *d);
/* Loads CS from a checked descriptor. 64-bit code segments get base 0 and no limit, as the processor sees them. */
void x86_set_cs(struct x86_state *s, uint16_t sel, uint64_t raw, unsigned cpl);
/* After a change to virtual-8086 mode or a load in it. */
static inline struct x86_seg x86_seg_v86(uint16_t sel)
{
    return (struct x86_seg){.sel = sel, .attr = 0xf3, .limit = 0xffff, .base = (uint64_t)sel << 4};
}

/* ---- stacks ---- */

struct x86_stack {
    struct x86_seg ss;
    uint64_t sp;
    uint64_t mask;   /* of sp: 16, 32 or 64 bits */
    bool is64, user;
    uint32_t error;  /* of the #SS raised for a push or pop outside the segment */
};
/* SS:rSP as they are now. */
void x86_stack_current(struct x86_ctx *c, struct x86_stack *st);
/* A stack about to be entered at privilege level cpl. */
void x86_stack_of(struct x86_stack *st, const struct x86_seg *ss, uint64_t sp, bool is64, unsigned cpl, uint32_t error);
int x86_stack_push(struct x86_ctx *c, struct x86_stack *st, uint64_t value, unsigned size);
int x86_stack_pop(struct x86_ctx *c, struct x86_stack *st, uint64_t *value, unsigned size);
/* Checks that `size` bytes can be pushed: segment limit, and the pages where the engine can tell. */
int x86_stack_room(struct x86_ctx *c, const struct x86_stack *st, unsigned size);
/* Writes back sp: bits above mask stay as they are on a 16-bit stack. */
static inline void x86_stack_commit(struct x86_state *s, const struct x86_stack *st)
{
    s->r[X86_RSP] = st->mask == 0xffff ? (s->r[X86_RSP] & ~0xffffull) | (st->sp & 0xffff) : st->sp & st->mask;
}

/* far.c: checks shared by far returns and IRET. */
struct x86_return {
    struct x86_desc cs, ss;
    uint16_t cs_sel, ss_sel;
    unsigned cpl;   /* of the level returned to: RPL of cs_sel */
    bool long_code; /* to 64-bit code */
    bool null_ss;
};
int x86_return_code(struct x86_ctx *c, uint16_t sel, uint64_t rip, struct x86_return *r);
int x86_return_stack(struct x86_ctx *c, uint16_t sel, struct x86_return *r);
/* Commits CS, SS, rSP for a return that reloads the stack; data segments that the new level may not see become null. */
void x86_return_commit(struct x86_state *s, const struct x86_return *r, uint64_t rsp);
/* Stack pointer and selector for privilege level cpl from the TSS (16- and 32-bit ones; *ss) or RSPn of a 64-bit one. */
int x86_tss_stack(struct x86_ctx *c, unsigned cpl, unsigned ext, uint16_t *ss, uint64_t *sp);
/* RIP after a transfer to code described by raw: #GP(ext) outside its limit or not canonical. */
int x86_check_target(struct x86_ctx *c, uint64_t raw, uint64_t rip, unsigned ext);

/* cpuid.c: what IA32_ARCH_CAPABILITIES says. */
uint64_t x86_arch_capabilities(void);

/* task.c: the body of x86_task_switch; ext: EXT bit of error codes. */
int x86_task_switch_to(struct x86_ctx *c, uint16_t selector, enum x86_task_why why, bool has_error, uint32_t error, uint64_t next_rip,
                       unsigned ext);

/* control.c */
/* The bits of CR4 that the model has. */
uint64_t x86_cr4_writable(const struct x86_cpuid_model *m);
int x86_load_pdptes(struct x86_ctx *c, uint64_t cr3);
static inline bool x86_pae_paging(const struct x86_state *s)
{
    return (s->cr0 & X86_CR0_PG) && (s->cr4 & X86_CR4_PAE) && !x86_long_mode(s);
}
static inline void x86_flush(struct x86_ctx *c, enum x86_flush kind, uint64_t linear, unsigned pcid)
{
    if (c->flush)
        c->flush(c, kind, linear, pcid);
}
static inline void x86_flush_all(struct x86_ctx *c) { x86_flush(c, X86_FLUSH_ALL, 0, 0); }

#endif
