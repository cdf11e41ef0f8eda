/* engine/interp/interp_internal.h - the interpreter's own structures, shared by its files.
 *
 * Model: guest code is decoded once into blocks of lowered operations (struct iop: a function pointer and its operands, resolved as far as
 * possible); a handler does its work and tail-calls the next operation's handler ("threaded code"). Blocks are keyed by guest-physical
 * address and by mode (struct icpu.mode: code size, CPL, which FPU units are usable ...), so that what the mode decides costs nothing at
 * run time: an SSE instruction lowered while CR0.TS is set simply becomes "raise #NM".
 *
 * Registers live in the canonical state (c->s.r). During a block r[X86_RIP] is the address of the *block's start*; an
 * instruction's own address is that + o->offset (lowering adds this to RIP-relative displacements). The arithmetic flags are lazy
 * (see flags below); every other flag is in s.rflags.
 *
 * Faults leave by longjmp (interp_fault) to the run loop, so a handler must do everything that can fault before it changes state.
 *
 * Memory: a direct-mapped TLB per access kind of the processor (user, supervisor, supervisor with AC set); an entry has a read tag, a write
 * tag and the host addend. A tag is the page address | the TLB's generation (1-4095), so that a full flush is one increment. The compare
 * uses the address of the last byte, which sends page-crossing accesses to the slow path without a test of their own. Write tags are
 * present only for pages that may be written without telling anyone (dp_ram_write_is_free).
 *
 * Code and other processors: when a page first becomes code (dp_ram_code_mark) all processors' write tags for it are poisoned and
 * membarrier() follows; a store re-reads its tag *after* storing. So either the storing processor sees the poison and reports the write, or
 * its store was visible before the decoder read the page. Blocks hold the page's generation and are checked on entry.
 *
 * SSE and x87 run on the host's units: inside the run loop the host's MXCSR holds the guest's rounding and flush modes with all exceptions
 * masked (fpu.c owns that); handlers must not be compiled to assume default rounding (-frounding-math for these files).
 */
#ifndef DP_INTERP_INTERNAL_H
#define DP_INTERP_INTERNAL_H

#include <pthread.h>
#include <setjmp.h>

#include "engine/engine.h"
#include "isa/x86/insn.h"
#include "isa/x86/x86.h"

#define ITLB_BITS 10
#define ITLB_SIZE (1u << ITLB_BITS)
#define IJUMP_BITS 14
#define IBLOCK_MAX_OPS 64

struct icpu;
struct iop;
typedef void iop_fn(struct icpu *c, const struct iop *o);

struct iop {
    iop_fn *fn;
    /* Operands. a and b are register numbers of the operation's own class: GPR index for 2-, 4- and 8-byte operands, *byte offset into s.r*
     * for 1-byte ones (so AH is 1), XMM/MMX/ST number for those. Conventionally a is the destination (ModRM.reg or rm), b the source. */
    uint8_t a, b;
    uint8_t base, index, scale; /* of the memory operand: r[base] + (r[index] << scale) + disp */
    uint8_t seg;                /* index into segbase; 6 = none */
    uint8_t slow_segment;       /* limits and types are to be checked, 16/32-bit wrap applies: interp_linear_slow */
    uint8_t length;
    uint16_t offset;            /* of the instruction from the block's start */
    uint8_t size;               /* operand size in bytes */
    uint8_t extra;              /* handler's own */
    int64_t disp;
    uint64_t amask;             /* address-size mask of the effective address */
    uint64_t imm;               /* immediate, branch target relative to the block's start, ... */
    union {
        const struct x86_insn *insn; /* for handlers that asked for it (lowering keeps a copy beside the block) */
        struct iblock *link;         /* direct branches: target block once known, same page only */
    };
};

struct iblock {
    uint64_t phys;              /* of the first byte */
    uint32_t mode;
    uint16_t count, bytes;
    bool once;                  /* not to be found again: what it says holds for this entry only */
    bool compared; /* one instruction of a page that is not marked as code: it holds while the bytes there are those behind op[1] */
    uint32_t generation[2];     /* of the code's pages when decoded */
    _Atomic uint32_t *current[2]; /* [1] == [0] unless the last instruction crosses into another page */
    uint64_t phys2;             /* page address of the second page */
    struct iblock *hash_next;
    struct iop op[];
};

struct itlb { uint64_t read_tag; _Atomic uint64_t write_tag; uint64_t addend; uint64_t fetch_tag; };
struct itlb_cold {
    bool global;
    _Atomic(struct dp_ram *) ram;
    _Atomic uint64_t ram_offset;
    uint64_t large; /* page size when more than 4 KiB */
};
struct ijump { uint64_t rip; uint64_t key; struct iblock *block; };

enum { ITLB_USER, ITLB_SUPER, ITLB_SUPER_AC, ITLB_EMPTY /* never filled: every access is slow */, ITLB_KINDS };
#define ILARGE_BITS 12 /* filter of regions that have entries from large pages */

/* icpu.mode bits: everything lowering depends on. */
enum {
    IMODE_CODE = 3,             /* enum x86_mode */
    IMODE_STACK_SHIFT = 2,      /* enum x86_mode of the stack pointer's width, 2 bits */
    IMODE_CPL_SHIFT = 4,        /* 2 bits */
    IMODE_PE = 1 << 6, IMODE_V86 = 1 << 7, IMODE_LMA = 1 << 8,
    IMODE_FLAT = 1 << 9,        /* 32-bit code: ES CS SS DS are base 0, limit 4 GiB, writable */
    IMODE_X87_NM = 1 << 10,     /* CR0.EM or TS: x87 -> #NM */
    IMODE_WAIT_NM = 1 << 11,    /* CR0.MP and TS: WAIT -> #NM */
    IMODE_MMX_UD = 1 << 12,     /* CR0.EM */
    IMODE_SSE_UD = 1 << 13,     /* CR0.EM or not CR4.OSFXSR */
    IMODE_SSE_NM = 1 << 14,     /* CR0.TS (also for MMX) */
    IMODE_ONE = 1 << 15,        /* blocks of one instruction: TF, interrupt shadows */
    IMODE_UMIP = 1 << 16, IMODE_OSXSAVE = 1 << 17, IMODE_FSGSBASE = 1 << 18, IMODE_TSD = 1 << 19, IMODE_PCE = 1 << 20,
    IMODE_CR0_NE = 1 << 21,
    IMODE_AVX_UD = 1 << 22,     /* not CR4.OSXSAVE, or XCR0 without SSE or AVX */
};

/* A faster way to run guest code, inside the interpreter's run loop (engine/translate). All in the processor's own thread. */
struct interp_accel {
    /* Runs as far as it can from r[RIP] on (by_blocks: one block at most). False: the interpreter is to run a block there. */
    bool (*enter)(struct icpu *c);
    /* The guest's TSC, so that all ways to read it agree. */
    uint64_t (*tsc)(struct icpu *c);
    /* Told of every flush, after the state changed. */
    void (*flush)(struct icpu *c, enum x86_flush kind, uint64_t linear, unsigned pcid);
    /* A page fault: what was known of this page is void (SDM vol. 3 4.10.4.1). */
    void (*forget)(struct icpu *c, uint64_t linear);
    /* A TLB entry of the kind was filled: the page at an offset of RAM; writable: it may be written without telling anyone. */
    void (*filled)(struct icpu *c, unsigned kind, uint64_t linear, bool writable, bool global, uint64_t page_size, struct dp_ram *ram,
                   uint64_t offset);
};

/* icpu.attention */
enum { IATT_KICK = 1, IATT_LINES = 2, IATT_MAP = 4 /* the memory map is another: no translation, no code known holds */ };

struct icpu {
    struct x86_state s;         /* r[RIP], arithmetic flags: see above; mxcsr and x87 status: call interp_fpu_save first */
    /* Lazy flags: ZF = result == 0; SF = result bit 63 ^ aux bit 0; PF = parity of the low byte of result ^ aux >> 8;
     * CF = aux bit 31; OF = aux bit 31 ^ bit 30; AF = aux bit 3. result is sign-extended from the operand size. */
    uint64_t lf_result;
    uint32_t lf_aux;
    uint32_t mode;
    uint32_t xm_unmasked;       /* MXCSR leaves exceptions unmasked: SSE arithmetic goes the precise way (fpu.c keeps this) */
    const struct iop *link_from; /* a branch whose link is to be set to the block found next */
    struct itlb *tlb;           /* the current kind, or the empty one (alignment checks, data breakpoints) */
    uint64_t tlb_generation;    /* 1..4095, of all kinds */
    uint64_t segbase[8];        /* bases as address formation uses them: 0 for ES CS SS DS in 64-bit mode; [6] = 0 */
    atomic_uint attention;      /* something wants the run loop: kick, lines, flush requests */
    uint64_t jump_key;          /* mode << 32 | count of flushes: validates jump cache entries */
    struct ijump *jump;         /* 1 << IJUMP_BITS */
    struct iblock *block;       /* running */
    uint64_t instructions;
    uint64_t instruction_limit; /* blocks do not chain beyond it */
    uint64_t budget_end;        /* where run() is to return */
    struct dp_space *memory;    /* what this processor sees now */
    uint64_t address_mask;      /* of physical addresses: dp_space_cpu_mask, all ones in system management mode */
    struct dp_range walked;     /* the piece of RAM that page tables were last found in; size 0: none */
    const struct iop *next;     /* only without tail calls (sanitizer and -O0 builds) */
    uint16_t fault_offset, fault_length; /* of the instruction that left by interp_fault */
    jmp_buf leave;
    struct x86_ctx ctx;         /* over s; fault is here */

    /* cold */
    struct itlb *tlb_all;       /* ITLB_KINDS * ITLB_SIZE */
    struct itlb_cold *tlb_cold; /* parallel to tlb_all */
    uint64_t large_filter[(1 << ILARGE_BITS) / 64];
    uint32_t flushes;
    uint64_t watch_dr6;         /* data and I/O breakpoints hit by the running instruction, or by a MOV SS before it (DR6 bits) */
    uint64_t pending_db;        /* DR6 bits of a debug trap that is due at the next boundary without MOV SS shadow */
    bool repeating;             /* a repeated instruction was left between two iterations */
    bool again;                 /* what longjmp brings is no fault: the instruction is to be tried again after an interrupt */
    bool delivered;             /* the running instruction has settled what becomes of its single-step trap (INT n: none) */
    uint8_t narrowed[32];       /* VCVTPS2PH's result before it is stored */
    struct dp_ram *written;     /* where interp_rmw_host found its operand */
    bool watching;              /* DR7 enables data breakpoints */
    bool align_check;           /* CR0.AM, RFLAGS.AC and CPL 3 */
    unsigned shutdown_faults;   /* entries of history that led to the triple fault */
    struct dp_x86_bus bus;
    const struct dp_engine_vm *vm;
    struct dp_engine_state *engine;
    unsigned index;
    atomic_uint lines;          /* bit per enum dp_line */
    atomic_uint sipi_vector;
    uint32_t mxcsr_host;        /* the host's own MXCSR and x87 control word, restored on leaving run() */
    uint16_t fcw_host;
    struct icache *cache;
    const struct interp_accel *accel; /* may be NULL */
    bool by_blocks;             /* run() has a budget: enter() comes back after each block and counts its instructions */
    void *accel_data;
    struct dp_engine_counters counters;
    struct dp_buffer report;    /* text of the last shutdown */
    struct x86_fault history[4];
};

/* ---- dispatch ---- */
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(INTERP_NO_TAIL)
#if defined(__clang__)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define INTERP_TAIL 0
#else
#define INTERP_TAIL 1
#define INTERP_GO(c, o) do { const struct iop *go_ = (o); __attribute__((musttail)) return go_->fn(c, go_); } while (0)
#endif
#else
#define INTERP_TAIL 1
#define INTERP_GO(c, o) do { const struct iop *go_ = (o); return go_->fn(c, go_); } while (0) /* gcc -O2 makes this a jump */
#endif
#else
#define INTERP_TAIL 0
#endif
#if !INTERP_TAIL
#define INTERP_GO(c, o) do { (c)->next = (o); return; } while (0)
#endif
/* Ends every handler that does not change control flow. */
#define INTERP_NEXT(c, o) INTERP_GO(c, (o) + 1)
/* Handlers' own address and that of the following instruction. */
static inline uint64_t interp_rip(const struct icpu *c, const struct iop *o) { return c->s.r[X86_RIP] + o->offset; }
static inline uint64_t interp_next_rip(const struct icpu *c, const struct iop *o) { return c->s.r[X86_RIP] + o->offset + o->length; }

/* ---- faults ---- */
void interp_fault(struct icpu *c, const struct iop *o, unsigned vector) __attribute__((noreturn)) DP_COLD;               /* no error code */
void interp_fault_code(struct icpu *c, const struct iop *o, unsigned vector, uint32_t error) __attribute__((noreturn)) DP_COLD;
/* c->ctx.fault was filled by an isa function: leave with it. */
void interp_fault_ctx(struct icpu *c, const struct iop *o) __attribute__((noreturn)) DP_COLD;

/* ---- addresses and memory ---- */
/* Linear address of the memory operand for an access of size bytes; checks the segment where the mode asks for it. */
uint64_t interp_linear_slow(struct icpu *c, const struct iop *o, unsigned size, bool write);
static inline uint64_t interp_ea(const struct icpu *c, const struct iop *o)
{
    return (c->s.r[o->base] + (c->s.r[o->index] << o->scale) + (uint64_t)o->disp) & o->amask;
}
static inline uint64_t interp_linear(struct icpu *c, const struct iop *o, unsigned size, bool write)
{
    if (DP_UNLIKELY(o->slow_segment))
        return interp_linear_slow(c, o, size, write);
    return interp_ea(c, o) + c->segbase[o->seg];
}
/* The memory operand moved by some bytes. Out of line: a handler whose locals have their address taken cannot end in a jump. */
uint64_t interp_linear_moved(struct icpu *c, const struct iop *o, int64_t by, unsigned size, bool write);
/* Slow paths: TLB miss, page crossing, MMIO, watched pages. They fault by interp_fault. size 1-8. */
uint64_t interp_load_slow(struct icpu *c, const struct iop *o, uint64_t linear, unsigned size);
void interp_store_slow(struct icpu *c, const struct iop *o, uint64_t linear, uint64_t value, unsigned size);
/* A store went through a write tag that was poisoned meanwhile. */
void interp_store_raced(struct icpu *c, const struct iop *o, uint64_t host, unsigned size) DP_COLD;
/* Any number of bytes, e.g. 16, 512: loads all or faults; store probes first, so it is all or nothing. Not atomic. */
void interp_load_bytes(struct icpu *c, const struct iop *o, uint64_t linear, void *data, unsigned size);
void interp_store_bytes(struct icpu *c, const struct iop *o, uint64_t linear, const void *data, unsigned size);
/* Faults if a store of size bytes would. */
void interp_probe_store(struct icpu *c, const struct iop *o, uint64_t linear, unsigned size);
/* Host address for a read-modify-write of size bytes within one page of plain RAM (or two neighbours), NULL when it is none (then use load
 * and store). Faults as a write would. After writing call interp_rmw_done. */
void *interp_rmw_host(struct icpu *c, const struct iop *o, uint64_t linear, unsigned size);
void interp_rmw_done(struct icpu *c, const struct iop *o, const volatile void *host, unsigned size);

static inline struct itlb *interp_tlb(struct icpu *c, uint64_t linear) { return &c->tlb[linear >> 12 & (ITLB_SIZE - 1)]; }

#define INTERP_MEMORY(bits)                                                                                                              \
    __attribute__((always_inline)) static inline uint##bits##_t interp_load##bits(struct icpu *c, const struct iop *o,                   \
                                                                                   uint64_t linear)                                      \
    {                                                                                                                                    \
        const struct itlb *e = interp_tlb(c, linear);                                                                                    \
        if (DP_LIKELY((((linear + bits / 8 - 1) & ~0xfffull) | c->tlb_generation) == e->read_tag))                                      \
            return *(volatile uint##bits##_t *)(uintptr_t)(linear + e->addend);                                                          \
        return (uint##bits##_t)interp_load_slow(c, o, linear, bits / 8);                                                                 \
    }                                                                                                                                    \
    __attribute__((always_inline)) static inline void interp_store##bits(struct icpu *c, const struct iop *o, uint64_t linear,           \
                                                                         uint##bits##_t value)                                           \
    {                                                                                                                                    \
        struct itlb *e = interp_tlb(c, linear);                                                                                          \
        uint64_t tag = ((linear + bits / 8 - 1) & ~0xfffull) | c->tlb_generation;                                                       \
        if (DP_LIKELY(tag == atomic_load_explicit(&e->write_tag, memory_order_relaxed))) {                                               \
            uint64_t host = linear + e->addend;                                                                                          \
            *(volatile uint##bits##_t *)(uintptr_t)host = value;                                                                         \
            atomic_signal_fence(memory_order_seq_cst); /* the re-read must come after the store; membarrier does the rest */             \
            if (DP_UNLIKELY(tag != atomic_load_explicit(&e->write_tag, memory_order_relaxed)))                                           \
                interp_store_raced(c, o, host, bits / 8);                                                                                \
            return;                                                                                                                      \
        }                                                                                                                                \
        interp_store_slow(c, o, linear, value, bits / 8);                                                                                \
    }
INTERP_MEMORY(8)
INTERP_MEMORY(16)
INTERP_MEMORY(32)
INTERP_MEMORY(64)
#undef INTERP_MEMORY

/* 16 bytes (SSE operands); align: #GP(0) unless aligned. */
typedef struct { uint64_t q[2]; } interp_u128;
static inline interp_u128 interp_load128(struct icpu *c, const struct iop *o, uint64_t linear, bool align)
{
    if (align && DP_UNLIKELY(linear & 15))
        interp_fault_code(c, o, X86_GP, 0);
    const struct itlb *e = interp_tlb(c, linear);
    interp_u128 v;
    if (DP_LIKELY((((linear + 15) & ~0xfffull) | c->tlb_generation) == e->read_tag))
        memcpy(&v, (void *)(uintptr_t)(linear + e->addend), 16);
    else
        interp_load_bytes(c, o, linear, &v, 16);
    return v;
}
static inline void interp_store128(struct icpu *c, const struct iop *o, uint64_t linear, interp_u128 v, bool align)
{
    if (align && DP_UNLIKELY(linear & 15))
        interp_fault_code(c, o, X86_GP, 0);
    struct itlb *e = interp_tlb(c, linear);
    uint64_t tag = ((linear + 15) & ~0xfffull) | c->tlb_generation;
    if (DP_LIKELY(tag == atomic_load_explicit(&e->write_tag, memory_order_relaxed))) {
        uint64_t host = linear + e->addend;
        memcpy((void *)(uintptr_t)host, &v, 16);
        atomic_signal_fence(memory_order_seq_cst);
        if (DP_UNLIKELY(tag != atomic_load_explicit(&e->write_tag, memory_order_relaxed)))
            interp_store_raced(c, o, host, 16);
        return;
    }
    interp_store_bytes(c, o, linear, &v, 16);
}

/* ---- flags ---- */
static inline bool interp_zf(const struct icpu *c) { return c->lf_result == 0; }
static inline bool interp_sf(const struct icpu *c) { return (c->lf_result >> 63 ^ c->lf_aux) & 1; }
static inline bool interp_cf(const struct icpu *c) { return c->lf_aux >> 31; }
static inline bool interp_of(const struct icpu *c) { return (c->lf_aux >> 31 ^ c->lf_aux >> 30) & 1; }
static inline bool interp_af(const struct icpu *c) { return c->lf_aux >> 3 & 1; }
static inline bool interp_pf(const struct icpu *c) { return !__builtin_parity((unsigned)(c->lf_result ^ c->lf_aux >> 8) & 0xff); }
/* All of RFLAGS. */
static inline uint64_t interp_flags(const struct icpu *c)
{
    return (c->s.rflags & ~(uint64_t)X86_ARITH) | 2 | (interp_cf(c) ? X86_CF : 0) | (interp_pf(c) ? X86_PF : 0) |
           (interp_af(c) ? X86_AF : 0) | (interp_zf(c) ? X86_ZF : 0) | (interp_sf(c) ? X86_SF : 0) | (interp_of(c) ? X86_OF : 0);
}
/* Sets the six arithmetic flags from f; leaves the rest of rflags alone. */
static inline void interp_set_arith(struct icpu *c, uint64_t f)
{
    unsigned zf = f >> 6 & 1, pf = f >> 2 & 1, sf = f >> 7 & 1, cf = f & 1, of = f >> 11 & 1, af = f >> 4 & 1;
    c->lf_result = !zf;
    c->lf_aux = cf << 31 | (cf ^ of) << 30 | (pf ^ zf) << 8 | af << 3 | sf;
}

/* ---- control flow ---- */
/* The operation that returns to the run loop. */
extern const struct iop interp_exit_op;
static inline bool interp_block_valid(const struct iblock *b)
{
    return atomic_load_explicit(b->current[0], memory_order_acquire) == b->generation[0] &&
           atomic_load_explicit(b->current[1], memory_order_acquire) == b->generation[1];
}
static inline bool interp_wanted(const struct icpu *c)
{
    return DP_UNLIKELY(atomic_load_explicit(&((struct icpu *)c)->attention, memory_order_relaxed));
}
static inline bool interp_must_leave(const struct icpu *c)
{
    return DP_UNLIKELY(atomic_load_explicit(&((struct icpu *)c)->attention, memory_order_relaxed) |
                       (c->instructions >= c->instruction_limit));
}
static inline const struct iop *interp_enter(struct icpu *c, struct iblock *b)
{
    c->block = b;
    c->instructions += b->count;
    return b->op;
}
static inline struct ijump *interp_jump_slot(struct icpu *c, uint64_t rip)
{
    return &c->jump[(rip ^ rip >> 13) & ((1u << IJUMP_BITS) - 1)];
}
/* Where r[RIP] now points, if that block is known and nothing wants the run loop; else the exit. Handlers end with
 * INTERP_GO(c, interp_jump(c)). Only 64-bit and flat code is in the jump cache (elsewhere CS base and limit matter). */
static inline const struct iop *interp_jump(struct icpu *c)
{
    uint64_t rip = c->s.r[X86_RIP];
    const struct ijump *j = interp_jump_slot(c, rip);
    if (DP_LIKELY(j->rip == rip && j->key == c->jump_key) && !interp_must_leave(c) && interp_block_valid(j->block))
        return interp_enter(c, j->block);
    return &interp_exit_op;
}

/* ---- between the files ---- */
/* Registers, arithmetic flags and the FPU into their canonical places, RIP = that of o (call before
 * isa functions that look at or print s). */
void interp_sync_out(struct icpu *c);
void interp_sync_in(struct icpu *c); /* after isa functions changed s (flags, segments, control registers): recomputes mode and bases */
void interp_update_mode(struct icpu *c);  /* the cheap part of sync_in: after RFLAGS.AC/TF, CR0, segments, MXCSR masks changed in place */
int interp_memory_init(struct icpu *c, struct dp_error *e);
void interp_memory_fini(struct icpu *c);
/* Poisons write tags for a page of code, or (page ~0) for all of r; any thread. */
void interp_revoke_writes(struct icpu *c, struct dp_ram *r, uint64_t page);
/* The memory map, or how this processor sees it, is another; the caller flushes. */
void interp_map_changed(struct icpu *c);
/* From now on writes to the page are reported; every processor's fast write paths to it are gone. Returns the generation. */
uint32_t interp_mark_code(struct icpu *c, struct dp_ram *r, uint64_t page);
/* A translation that faulted is not kept (SDM vol. 3 4.10.4.1). */
void interp_forget_page(struct icpu *c, uint64_t linear);
/* Fills the entry for a fetch. 0, or -1 with c->ctx.fault. */
int interp_fetch_fill(struct icpu *c, uint64_t linear);
/* The entry of the supervisor or user kind a fetch goes through. */
static inline struct itlb *interp_fetch_tlb(struct icpu *c, uint64_t linear)
{
    unsigned kind = (c->mode >> IMODE_CPL_SHIFT & 3) == 3 ? ITLB_USER : ITLB_SUPER;
    return &c->tlb_all[kind * ITLB_SIZE + (linear >> 12 & (ITLB_SIZE - 1))];
}
/* The current block holds bytes that were just written: what follows in it must be decoded anew. */
void interp_check_own_block(struct icpu *c, const struct iop *o);
/* All flushes go through here: this TLB knows no PCIDs and no global pages, so whatever is more than
 * a page empties it; then accel->flush. */
void interp_flush(struct icpu *c, enum x86_flush kind, uint64_t linear, unsigned pcid);
static inline void interp_flush_all(struct icpu *c) { interp_flush(c, X86_FLUSH_ALL, 0, 0); }
/* Jump cache entries are void. */
void interp_new_epoch(struct icpu *c);

/* Translates as an access of the running code would and fills the TLB (and calls accel->filled).
 * False: a fault, in c->ctx.fault, or no plain RAM. */
bool interp_fill_data(struct icpu *c, uint64_t linear, enum x86_access access);

/* block.c */
int interp_cache_init(struct icpu *c, struct dp_error *e);
void interp_cache_empty(struct icpu *c); /* while no block runs */
void interp_cache_fini(struct icpu *c);
/* The block at r[RIP] in the current mode, decoded if need be. NULL: c->ctx.fault tells why there is none. */
struct iblock *interp_find_block(struct icpu *c);

/* One instruction (no branch) for a caller that keeps it: a block in `room` (INTERP_ONE_SIZE bytes, 8-aligned) that ends behind it. */
#define INTERP_ONE_SIZE DP_ALIGN_UP(sizeof(struct iblock) + 2 * sizeof(struct iop) + sizeof(struct x86_insn), (size_t)8)
struct iblock *interp_lower_one(struct icpu *c, struct x86_insn *i, struct dp_ram *ram, uint64_t offset, uint32_t generation, void *room);
/* interp.c: runs a block from its begin; a fault leaves by longjmp to the run loop. */
void interp_execute(struct icpu *c, struct iblock *b);
/* c->ctx.fault becomes an exception of the instruction at r[RIP]. */
void interp_raise(struct icpu *c);
void interp_leave_smm(struct icpu *c); /* RSM */
/* An unmasked x87 exception waits: #MF, or FERR#; returns if the instruction shall run all the same. */
void interp_x87_pending(struct icpu *c, const struct iop *o) DP_COLD;

/* Where the code at a linear address is: 0, *ram NULL when it is not RAM; -1 with c->ctx.fault.
 * *global: its translation is (may be NULL). */
int interp_locate_code(struct icpu *c, uint64_t linear, struct dp_ram **ram, uint64_t *offset, bool *global);

/* flow.c: pushes and pops through the current stack, any width */
void interp_push(struct icpu *c, const struct iop *o, uint64_t value, unsigned size);
uint64_t interp_peek(struct icpu *c, const struct iop *o, unsigned skip, unsigned size);
void interp_release(struct icpu *c, uint64_t bytes);
void interp_lower_end(struct icpu *c, struct iop *o, unsigned bytes, unsigned page_offset);

uint64_t interp_tsc(struct icpu *c); /* the guest's */
static inline unsigned interp_cpl(const struct icpu *c) { return c->mode >> IMODE_CPL_SHIFT & 3; }

/* Lowering: fill o (operands are prepared: base, index, disp, seg, amask, length, offset, size, a = ModRM.reg's, b = rm's register where
 * meaningful) and return true when the op is theirs. need_insn set: o->insn will point to a lasting copy of the instruction. */
bool interp_lower_integer(struct icpu *c, const struct x86_insn *i, struct iop *o, bool *need_insn);
bool interp_lower_bmi(struct icpu *c, const struct x86_insn *i, struct iop *o);
bool interp_lower_flow(struct icpu *c, const struct x86_insn *i, struct iop *o, bool *need_insn);
bool interp_lower_system(struct icpu *c, const struct x86_insn *i, struct iop *o, bool *need_insn);
bool interp_lower_string(struct icpu *c, const struct x86_insn *i, struct iop *o, bool *need_insn);
bool interp_lower_sse(struct icpu *c, const struct x86_insn *i, struct iop *o, bool *need_insn); /* MMX too */
bool interp_lower_x87(struct icpu *c, const struct x86_insn *i, struct iop *o, bool *need_insn);
/* Handlers that only fault. */
iop_fn interp_op_ud, interp_op_nm, interp_op_gp0;
iop_fn interp_op_refetch; /* back to the run loop at this instruction: the block under it is stale, or it is to go on later */
/* Takes the instructions of the running block from o on off the count: they did not run. */
void interp_uncount(struct icpu *c, unsigned offset);
void interp_ctx_init(struct icpu *c);

/* fpu.c: the host's FPU becomes the guest's on entering run() and goes back on leaving. save brings s.mxcsr and s.fpu up to date (status
 * flags that accumulated in the host's registers); load does the reverse after s changed. */
void interp_fpu_enter(struct icpu *c);
void interp_fpu_leave(struct icpu *c);
void interp_fpu_save(struct icpu *c);
void interp_fpu_load(struct icpu *c);

struct dp_engine_state {
    struct dp_engine_vm vm;
    struct icpu *cpu[256];
    bool barrier;                 /* membarrier is registered */
    pthread_mutex_t marking;      /* held while a page becomes code: who sees has_code under it knows that no fast write path is left */
    void *accel_data;             /* the translator's */
};
struct dp_cpu { struct icpu c; };

#endif
