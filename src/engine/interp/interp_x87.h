/* engine/interp/interp_x87.h - what the x87 files share.
 *
 * Model: the guest's stack lives in s.fpu by physical register. While the interpreter runs, the host's x87 is empty and its control word is
 * the guest's with every exception masked. There are two ways to execute an instruction:
 * - fast: the guest masks all exceptions and no register involved is empty (or, for pushes, full). The handler loads the operands onto the
 *   host's stack, lets the host's instruction run and takes result, C1 and exception flags from it.
 * - exact, everything else (x87_exact): the host gets the guest's whole x87 state with FRSTOR, runs the very same instruction and
 *   gives the state back with FNSAVE. Stack faults, unmasked exceptions and the results that go with them are the host's.
 * Invariants: fcw has reserved bits as the hardware reads them; ES and B in fsw say whether an unmasked flag is set (x87_set_control
 * keeps both), so ES is 0 while everything is masked; the host's exception flags are a subset of the guest's (whoever clears guest flags
 * calls x87_host_load).
 * Source: Intel SDM vol. 1 ch. 8; AMD APM vol. 1 ch. 6.
 */
#ifndef DP_INTERP_X87_H
#define DP_INTERP_X87_H

#include "engine/interp/interp_internal.h"

enum {
    X87_IE = 1,
    X87_DE = 2,
    X87_ZE = 4,
    X87_OE = 8,
    X87_UE = 0x10,
    X87_PE = 0x20,
    X87_FLAGS = 0x3f,
    X87_SF = 0x40,
    X87_ES = 0x80,
    X87_C0 = 0x100,
    X87_C1 = 0x200,
    X87_C2 = 0x400,
    X87_TOP = 0x3800,
    X87_C3 = 0x4000,
    X87_B = 0x8000,
    X87_CC = X87_C0 | X87_C1 | X87_C2 | X87_C3,
    X87_FCW_USED = 0x1f3f,
    X87_FCW_ONE = 0x40,
    X87_FCW_INIT = 0x37f,
};

struct x87_value {
    uint8_t byte[10];
};

static inline unsigned x87_top(const struct icpu *c) { return c->s.fpu.fsw >> 11 & 7; }
static inline unsigned x87_phys(const struct icpu *c, unsigned i) { return ((c->s.fpu.fsw >> 11) + i) & 7; }
static inline struct x87_value *x87_st(struct icpu *c, unsigned i) { return (struct x87_value *)c->s.fpu.st[x87_phys(c, i)]; }
static inline bool x87_full(const struct icpu *c, unsigned i) { return c->s.fpu.ftw >> x87_phys(c, i) & 1; }
static inline bool x87_masked(const struct icpu *c) { return (~c->s.fpu.fcw & X87_FLAGS) == 0; }
static inline void x87_set_top(struct icpu *c, unsigned top) { c->s.fpu.fsw = (uint16_t)((c->s.fpu.fsw & ~X87_TOP) | (top & 7) << 11); }
static inline void x87_pop(struct icpu *c)
{
    c->s.fpu.ftw &= (uint16_t) ~(1u << x87_top(c));
    x87_set_top(c, x87_top(c) + 1);
}
static inline void x87_push(struct icpu *c) /* then write st(0) */
{
    x87_set_top(c, x87_top(c) + 7);
    c->s.fpu.ftw |= (uint16_t)(1u << x87_top(c));
}
/* Waiting instructions begin with this. */
static inline void x87_wait(struct icpu *c, const struct iop *o)
{
    if (DP_UNLIKELY(c->s.fpu.fsw & X87_ES))
        interp_x87_pending(c, o);
}
/* Last instruction (o->imm is its FOP) and memory operand (which has a segment: see interp_lower_x87). */
static inline void x87_note(struct icpu *c, const struct iop *o)
{
    c->s.fpu.fop = (uint16_t)o->imm;
    c->s.fpu.fip = interp_rip(c, o);
    c->s.fpu.fcs = c->s.seg[X86_CS].sel;
}
static inline void x87_note_memory(struct icpu *c, const struct iop *o, uint64_t ea)
{
    x87_note(c, o);
    c->s.fpu.fdp = ea;
    c->s.fpu.fds = c->s.seg[o->seg].sel;
}

/* ---- the short way to memory (SSE too): plain RAM that the TLB knows, no segment to check, not across pages ---- */
struct fpu_memory {
    uint64_t ea, host, tag;
    const struct itlb *entry;
};
static inline void *fpu_host(const struct fpu_memory *m) { return (void *)(uintptr_t)m->host; }
static inline __attribute__((always_inline)) bool fpu_reach(struct icpu *c, const struct iop *o, unsigned size, bool align,
                                                            struct fpu_memory *m)
{
    m->ea = interp_ea(c, o);
    uint64_t linear = m->ea + c->segbase[o->seg];
    m->entry = interp_tlb(c, linear);
    m->tag = ((linear + size - 1) & ~0xfffull) | c->tlb_generation;
    m->host = linear + m->entry->addend;
    return !o->slow_segment && !(align && linear & (size - 1));
}
static inline __attribute__((always_inline)) bool fpu_fast_read(struct icpu *c, const struct iop *o, unsigned size, bool align,
                                                                struct fpu_memory *m)
{
    return DP_LIKELY(fpu_reach(c, o, size, align, m) && m->tag == m->entry->read_tag);
}
/* After the store: if fpu_raced, the handler ends with fpu_store_raced. */
static inline __attribute__((always_inline)) bool fpu_fast_write(struct icpu *c, const struct iop *o, unsigned size, bool align,
                                                                 struct fpu_memory *m)
{
    return DP_LIKELY(fpu_reach(c, o, size, align, m) && m->tag == atomic_load_explicit(&m->entry->write_tag, memory_order_relaxed));
}
static inline bool fpu_raced(const struct fpu_memory *m)
{
    atomic_signal_fence(memory_order_seq_cst); /* as in interp_store64 */
    return DP_UNLIKELY(m->tag != atomic_load_explicit(&m->entry->write_tag, memory_order_relaxed));
}
/* The long way's address of one access, after the checks that come before it, in the processors' order: segment, canonical form, #AC if not
 * aligned to natural. */
uint64_t fpu_linear(struct icpu *c, const struct iop *o, unsigned size, unsigned natural, bool write);
/* The same for operands that take several accesses (10 bytes, 28, 512 ...): the checks above are about the first of them. Then #GP if
 * required (0: no alignment) is not met, the segment's limit for the whole, and the pages at both ends, where ends tells the order and
 * whether a fault of the second page names the last byte or the page's first. */
enum fpu_ends { FPU_FIRST_THEN_PAGE, FPU_FIRST_THEN_LAST, FPU_LAST };
struct fpu_series {
    unsigned size, first, natural, required;
    bool write;
    enum fpu_ends ends;
};
uint64_t fpu_linear_series(struct icpu *c, const struct iop *o, const struct fpu_series *s);
/* Faults unless a write there would succeed. */
void fpu_probe_write(struct icpu *c, const struct iop *o, uint64_t linear, unsigned size);
/* A handler: reports the store of o->size bytes just made and goes on. */
iop_fn fpu_store_raced DP_COLD;

/* A handler whose locals need memory: its work must be a function of its own, or the compiler could not make the dispatch a jump. */
#define FPU_CALL_HANDLER(name) FPU_CALL_HANDLER_AS(name, __attribute__((noinline)))
#define FPU_COLD_HANDLER(name) FPU_CALL_HANDLER_AS(name, DP_COLD)
#define FPU_CALL_HANDLER_AS(name, attributes)                                                                                              \
    static attributes void name##_work(struct icpu *c, const struct iop *o);                                                               \
    static attributes void name(struct icpu *c, const struct iop *o)                                                                       \
    {                                                                                                                                      \
        name##_work(c, o);                                                                                                                 \
        INTERP_NEXT(c, o);                                                                                                                 \
    }                                                                                                                                      \
    static void name##_work(struct icpu *c, const struct iop *o)

/* Normalises a control and status word pair as the hardware does and brings the host's unit in line. */
void x87_set_control(struct icpu *c, uint16_t fcw, uint16_t fsw);
/* The host's control word from the guest's, no flags. */
void x87_host_load(const struct icpu *c);
/* FNINIT. */
void x87_init(struct icpu *c);
/* ST(0) first, 16 bytes each, as FXSAVE has them, from and to the physical registers at the current TOP. */
void x87_get_stack(const struct icpu *c, uint8_t st[8][16]);
void x87_set_stack(struct icpu *c, const uint8_t st[8][16]);

struct x87_image { /* FRSTOR's and FNSAVE's, 32-bit protected */
    uint16_t fcw, reserved0, fsw, reserved1, tags, reserved2;
    uint32_t fip, fcs_fop, fdp, fds;
    struct x87_value st[8];
};
_Static_assert(sizeof(struct x87_image) == 108, "FNSAVE image");
/* The guest's x87 state as one, pointers 0; and status, tags and registers back from it. */
void x87_get_image(struct icpu *c, struct x87_image *image);
void x87_set_image(struct icpu *c, const struct x87_image *image);

/* A handler: the whole instruction by the exact way. Needs o->imm = FOP, o->size = bytes of the memory operand (0: none) and o->extra. */
iop_fn x87_exact;
enum { X87_EXTRA_STORE = 1, X87_EXTRA_FLAGS = 2 /* sets EFLAGS */ };

/* x87_env.c: control instructions. false: not one of these. */
bool x87_lower_env(const struct x86_insn *i, struct iop *o);

#endif
