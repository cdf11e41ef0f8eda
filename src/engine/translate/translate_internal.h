/* engine/translate/translate_internal.h - the translator's own structures. The model is told in docs/translator.md; in short:
 *
 * The translator is a fast path inside the interpreter's run loop (struct interp_accel): hot guest code becomes host code in a code cache of the
 * processor's own; everything it does not do itself (system instructions, faults, device memory, cold code) the interpreter does on the
 * same struct icpu. Control goes back and forth at instruction boundaries only.
 *
 * Registers inside translated code: guest RAX RDX RBX RSP RBP RSI RDI R8-R12 are in the host registers of the same names, guest RCX is in host R13;
 * guest R13-R15 are in memory (struct tctx). Host RCX, R14, R15 are scratch. Arithmetic flags are the host's; vector registers, MXCSR and (once
 * a block needed it) the x87 unit too. FS is the C library's (struct tctx is thread-local), GS is the base of the current shadow page table.
 *
 * Memory: a shadow page table has an 8-byte entry per guest page: host address minus guest address, or 0. The index is the inverted page number, PEXTed, so
 * no address can reach outside the table. Entries lead to one of two aliases of guest RAM: read-write, or read-only (clean pages, pages a guest may not
 * write). Pages of the read-write alias that hold code are mprotected. A store that must not happen directly therefore faults, and is then
 * done by the interpreter.
 */
#ifndef DP_TRANSLATE_INTERNAL_H
#define DP_TRANSLATE_INTERNAL_H

#include <pthread.h>

#include "engine/interp/interp_internal.h"
#include "engine/translate/emit.h"

#define CODE_BYTES (48u << 20)
#define BLOCK_ROOM (32u << 10) /* more than any block needs */
#define MAX_INSNS 48
#define MAX_ACCESS 4096
#define JUMP_BITS 14           /* entries of a jump cache */
#define TABLE_BYTES (1ull << (36 + 3))
#define JUMP_BYTES ((uint64_t)sizeof(struct tjump) << JUMP_BITS)
#define TABLE_LOG 8192
#define JUMP_LOG 4096
#define FILTER_BITS 65536u
#define DELTA_SLOTS (2 * MAX_INSNS) /* a group each at worst */
#define PAGE_MASK (~0xfffull)
#define GUARD32 0x10000 /* see struct ttable */

/* Why translated code came back (tctx.reason). */
enum leave_reason {
    LEAVE_LINK,      /* a direct branch that is not linked yet: tctx.link */
    LEAVE_LOOKUP,    /* tctx.rip is not in the jump cache */
    LEAVE_HELPER,    /* tctx.helper is to be done at tctx.site */
    LEAVE_INTERPRET, /* the interpreter is to go on at tctx.rip */
    LEAVE_UNGROUPED, /* a group of accesses crosses pages at tctx.rip: go on in a block that checks each */
    LEAVE_FAULT,     /* the same: the host faulted there */
    LEAVE_RAISE,     /* the page fault in ctx.fault is that of the instruction at tctx.rip */
    LEAVE_KICK,      /* go on at tctx.rip after looking at what wants attention */
};

/* What translated code addresses through FS. One per thread: two processors run by one thread take turns. */
struct tctx {
    uint64_t r13, r14, r15;         /* guest */
    uint64_t page;                  /* virtual address of the page whose code runs */
    uint64_t segbase[2];            /* guest FS, GS */
    uint64_t segpoison[2];          /* 32-bit code: added to their addresses; makes them non-canonical unless all 4 GiB may be read and written */
    uint64_t kernel_gs_base;
    uint64_t system_flags;          /* RFLAGS but the arithmetic ones */
    uint64_t delta[DELTA_SLOTS];    /* of access groups */
    uint64_t go;                    /* where the next transfer into translated code leads; a signal redirects it */
    uint64_t tsc_negative_host, tsc_guest, tsc_ratio, tsc_aux; /* RDTSC without C: see system.c */
    uint64_t undo;                  /* what an indirect call overwrote: its target may turn out to be no address */
    uint64_t address, found;        /* slow path: guest address; table entry */
    uint64_t save_rsp, save_r14, save_r15;
    uint64_t rip, flags, host_rsp;
    struct icpu *c;
    struct tlink *link;
    uint32_t site, reason;
    int32_t adjust;                 /* what the branch that is being looked up still has to add to RSP */
    uint8_t x87_live;               /* the host's x87 unit holds the guest's state, struct x86_fpu an old one (x87.c) */
    uint8_t x87_seg;                /* enum x86_seg_name of the last x87 memory operand, X86_SEGS: none since the unit was loaded */
    uint64_t x87_fdp, x87_page;     /* the last x87 memory operand; the page whose code ran the last x87 instruction */
    uint16_t x87_fcs;               /* CS when the unit was loaded */
    uint32_t helper;                /* enum x86_op | operand size << 16 | length << 24; 0: interpret; HELPER_OP: tctx.op */
    struct top *op;
    /* not for translated code */
    struct tcpu *t;                 /* non-NULL while inside translate_enter */
    struct tblock *refused;         /* LEAVE_FAULT: a store by way of the read-only view, in this block */
    uint64_t gs;                    /* what GS base is now; STAC and CLAC exchange the two */
    uint64_t other_table;           /* what it is with the other RFLAGS.AC, 0: C has to see to it */
    bool signals_ready;
};

struct tjump { uint64_t negative_rip; uint64_t code; uint64_t page; uint64_t unused; };

/* A direct branch out of a block, within the page. */
struct tlink {
    struct tblock *from;
    uint32_t patch;  /* offset in the cache of the displacement */
    uint16_t target; /* page offset */
    uint8_t done;    /* instructions of the block, up to and with the branch */
};

/* An instruction that the interpreter does between two blocks. */
struct top {
    struct iblock *block; /* it alone; made when it is wanted for the first time */
    uint64_t back;        /* host code that goes on behind it */
    bool keeps_code;      /* that is still what follows, unless the mode became another */
};
#define HELPER_OP 0xffffu

struct tinsn {
    uint16_t host, guest; /* offsets from the block's code, in the page */
    uint16_t fop;         /* x87: TINSN_FOP | last opcode word (FOP) */
    uint8_t commit;       /* first host byte after a change the guest sees, from host */
};
#define TINSN_FOP 0x8000u

struct tblock {
    struct tblock *hash_next, *page_next;
    struct tpage *page;
    uint64_t host;              /* address of the guest code in RAM (dp_ram.host view) */
    uint64_t phys2;             /* the second page's, 0 unless an instruction crosses */
    uint32_t mode, code, size;  /* icpu.mode | variant; place and bytes in the cache */
    uint32_t body;              /* bytes before the paths that are rarely taken */
    uint16_t bytes, count, end;
    struct tinsn *insn;         /* count + 1: then the place after the last instruction */
};

struct tpage { struct tpage *next; struct dp_ram *ram; uint64_t number; struct tblock *blocks; struct tcrosser *crossers; };
struct tcrosser { struct tcrosser *next; struct tblock *block; }; /* blocks of the page before that end in this one */

/* tctx.site: page offset of the instruction in the low 12 bits. */
#define SITE_LENGTH_SHIFT 12
#define SITE_DONE_SHIFT 12 /* of a lookup: instructions of the block, up to and with the branch */
#define SITE_WRITE (1u << 24)
#define SITE_GROUP (1u << 25)
#define SITE_UNDO (1u << 27) /* tctx.undo is what a call overwrote */
#define SITE_X87 (1u << 26) /* no access: the guest's x87 state is wanted in the host's unit */
#define SITE_DIRECT (1u << 28) /* a page fault at tctx.address is what the instruction raises, whatever else it does */
#define SITE_REFUSED (1u << 29) /* the entry is known, and not for writing (store_check): there is no way back */
#define SITE_NONE (1u << 31)

/* A shadow page table with its jump cache just below it. 32-bit code has tables of its own, with entries for addresses from GUARD32 to 4 GiB - GUARD32 only:
 * who is in such a page and moves by less than GUARD32 does not wrap. */
struct ttable {
    uint32_t mode;              /* icpu.mode that the jump cache is for */
    bool code32;
    uint8_t *base;              /* GS base; jump cache at base - JUMP_BYTES */
    uint64_t *log;              /* indexes of entries that are set and not global */
    unsigned logged, globals;
    uint32_t *jump_log;
    unsigned jumps;
    bool global_jumps;          /* there are entries that the jump log does not have */
    bool overflow, jump_overflow; /* logs are not complete */
    unsigned flushes;
    uint64_t large[FILTER_BITS / 64];         /* filter: large pages that entries came from */
    uint64_t jump_pages[FILTER_BITS / 64];    /* filter: pages whose code the jump cache knows */
    uint64_t large_jumps[FILTER_BITS / 64];   /* the same for large pages */
};

/* What is cached for one PCID: a table per access kind and width of code. */
#define SPACES 8
#define TABLE_KINDS (2 * ITLB_EMPTY)
struct tspace { struct ttable table[TABLE_KINDS]; unsigned pcid; uint64_t used; bool valid; };

#define ALIAS_RO_BIT 46 /* set in addresses of the read-only view, clear in those of the other, as a rule */
struct talias { struct dp_ram *ram; uint8_t *rw, *ro; uint8_t *protected_; /* per page */ };

struct dump;
struct tvm {
    struct dp_engine_state *engine;
    struct dp_engine_vm vm;
    void (*code_written)(void *opaque, struct dp_ram *ram, uint64_t page);
    unsigned warm;              /* times a place is interpreted before it is translated */
    pthread_mutex_t lock;
    struct talias alias[8];
    unsigned aliases;
    struct tcpu *cpu[256];
    struct dump *dump; /* NULL unless asked for */
};

#define PENDING_PAGES 64
struct writer;
struct tcpu {
    struct icpu *c;
    struct tvm *v;
    struct tspace space[SPACES], *current;
    uint64_t global_regions[FILTER_BITS / 64]; /* filter: where there are global entries and jumps */
    uint64_t global_large[FILTER_BITS / 64];   /* filter: global large pages that they came from */
    uint64_t refused[FILTER_BITS / 64]; /* filter: stores (host addresses of the instructions) that look before they fault */
    uint8_t *refusals;                  /* times a store was refused, by the same hash */
    uint64_t switches;
    /* code cache */
    int fd;
    uint8_t *rw;                /* writable view */
    uint8_t *rx;                /* executable view */
    uint32_t used, first;       /* first: end of the common stubs */
    uint64_t stub_enter, stub_leave, stub_slow, stub_lookup, stub_link, stub_stale, stub_kick, stub_helper;
    uint64_t constants;         /* masks: page index, jump index, slot masks by log2 */
    struct tblock **hash;
    struct tpage **pages;
    uint8_t *arena;             /* blocks, links, pages */
    size_t arena_used;
    struct tblock **by_code;    /* in order of their place in the cache */
    unsigned blocks, drops;     /* drops: times the cache was emptied */
    uint8_t *heat;
    struct writer *writer;
    uint64_t counted;           /* instructions that blocks counted */
    bool uncounted;             /* not all did */
    /* other threads' wishes */
    struct { uint64_t host, guest, ratio; int64_t offset; } tsc; /* a moment in both, guest ticks per host tick << 32 (0: not known) */
    pthread_mutex_t lock;
    struct { struct dp_ram *ram; uint64_t page; } pending[PENDING_PAGES];
    unsigned pending_count;
    bool pending_all, flush_writes;
    atomic_uint wish;           /* one of the above is set */
    atomic_uint inside;         /* translated code may be running */
    _Atomic(pid_t) thread;
};

#define MODE_UNGROUPED (1u << 31)

/* Is it 64-bit code, or flat 32-bit code with a 32-bit stack? Nothing else is translated. */
static inline bool mode_code32(uint32_t mode) { return (mode & IMODE_CODE) == X86_MODE32; }
static inline bool mode_translatable(uint32_t mode)
{
    if ((mode & (IMODE_CODE | IMODE_ONE)) == X86_MODE64)
        return true;
    const uint32_t flat32 = X86_MODE32 | X86_MODE32 << IMODE_STACK_SHIFT | IMODE_FLAT;
    return (mode & (IMODE_CODE | 3u << IMODE_STACK_SHIFT | IMODE_FLAT | IMODE_ONE)) == flat32;
}
/* An instruction pointer, or an address, cut to the width of the code. */
static inline uint64_t mode_wrap(uint32_t mode, uint64_t address) { return mode_code32(mode) ? (uint32_t)address : address; }
/* The page after that of an address; 0: there is none (32-bit code faults at 4 GiB). */
static inline uint64_t mode_next_page(uint32_t mode, uint64_t address) { return mode_wrap(mode, (address & PAGE_MASK) + DP_PAGE_SIZE); }
static inline unsigned table_kind(const struct icpu *c, unsigned access_kind) { return access_kind + (mode_code32(c->mode) ? ITLB_EMPTY : 0u); }
static inline unsigned access_kind(const struct icpu *c) { return (unsigned)(c->tlb - c->tlb_all) / ITLB_SIZE; }

extern _Thread_local struct tctx translate_ctx __attribute__((tls_model("local-exec")));

/* space.c */
int space_init(struct tcpu *t, struct dp_error *e);
void space_fini(struct tcpu *t);
void space_flush(struct tcpu *t, enum x86_flush kind, uint64_t linear, unsigned pcid);
/* The page of an address in the current space and, where it was global, in all; after a page fault. */
void space_forget_page(struct tcpu *t, uint64_t linear);
/* Entries that allow writes are void (dirty tracking began anew). */
void space_revoke_writes(struct tcpu *t);
void space_flush_jumps(struct ttable *b, bool keep_global);
void space_forget_jumps(struct tcpu *t); /* in all spaces */
/* The current table of a kind (table_kind), made on first use; NULL: no address space left. */
struct ttable *space_table(struct tcpu *t, unsigned kind);
void space_set(struct tcpu *t, unsigned kind, uint64_t linear, bool writable, struct dp_ram *ram, uint64_t offset, bool global, uint64_t page_size);
static inline uint64_t *space_entry(const struct ttable *b, uint64_t linear) { return (uint64_t *)b->base + (~linear >> 12 & 0xfffffffffull); }
/* crosses: the block runs into the next page. global: its translation survives CR3 writes. page_size: of the translation. */
void space_set_jump(struct tcpu *t, struct ttable *b, uint64_t rip, uint64_t code, bool crosses, bool global, uint64_t page_size);
/* What the jump cache knows for rip, 0 when nothing. */
uint64_t space_jump(const struct ttable *b, uint64_t rip);
static inline unsigned jump_index(uint64_t rip) { return (unsigned)rip & ((1u << JUMP_BITS) - 1); }

/* alias.c: two views of RAM */
struct talias *alias_of(struct tvm *v, struct dp_ram *ram);
void alias_fini(struct tvm *v);
void alias_protect(struct tvm *v, struct dp_ram *ram, uint64_t page);
void alias_unprotect(struct tvm *v, struct dp_ram *ram, uint64_t page);
/* Is a host address in a page that is protected for its code? Safe in a signal handler. */
bool alias_protected(const struct tvm *v, uint64_t host);
/* In the read-only view? The same. */
bool alias_readonly(const struct tvm *v, uint64_t host);

/* cache.c */
int cache_init(struct tcpu *t, struct dp_error *e);
void cache_fini(struct tcpu *t);
void cache_empty(struct tcpu *t);
bool cache_has_room(const struct tcpu *t);
/* Has this place been asked for `threshold` times? */
bool cache_warm(struct tcpu *t, uint64_t host, unsigned threshold);
struct tblock *cache_find(struct tcpu *t, uint64_t host, uint32_t mode, uint64_t phys2);
void cache_add(struct tcpu *t, struct tblock *b);
void cache_invalidate(struct tcpu *t, struct dp_ram *ram, uint64_t page);
void *cache_alloc(struct tcpu *t, size_t size);
struct tpage *cache_page(struct tcpu *t, struct dp_ram *ram, uint64_t page, bool make);
/* A store that finds the read-only view often is to look first (store_check in translate.c): is it such a one? */
bool cache_store_refused(const struct tcpu *t, uint64_t host);
/* It was refused once more. True: from now on it is. */
bool cache_refuse_store(struct tcpu *t, uint64_t host);
/* The block that a host address belongs to, NULL for the common stubs. */
struct tblock *cache_block_at(const struct tcpu *t, uint64_t pc);

/* stubs.c: enter, leave and slow paths, made once per cache */
void stubs_emit(struct tcpu *t);

int translate_init(struct tcpu *t, struct dp_error *e);
void translate_fini(struct tcpu *t);
/* translate.c: a block without instructions (count 0) says: nothing here can be translated, interpret it */
struct tblock *translate_block(struct tcpu *t, uint64_t linear, struct dp_ram *ram, uint64_t offset, uint32_t mode);

/* signals.c */
int signals_init(struct dp_error *e);
int signals_thread(struct dp_error *e);
int signals_kick_number(void);

/* The instruction of a block at an offset from its code. */
const struct tinsn *tinsn_at(const struct tblock *b, uint64_t offset);

/* x87.c: the guest's x87 state into the host's unit, and back into c->s.fpu if it is there. */
void x87_enter(struct tctx *x, const struct tcpu *t);
void x87_leave(struct tctx *x, const struct tcpu *t);

/* Constants in the code cache, 8 bytes each. */
enum { CONSTANT_PAGE, CONSTANT_JUMP, CONSTANT_SLOT /* by log2 of the size */, CONSTANT_NOT_IF = CONSTANT_SLOT + 12, CONSTANT_NOT_DF, CONSTANT_ARITH, CONSTANT_TSC, CONSTANT_RO, CONSTANT_AC };
#define TSC_WINDOW_BITS 22

/* system.c: tctx.helper on c->s, which is complete. False: the interpreter is to do it. */
bool system_helper(struct icpu *c, uint32_t helper);
/* What was learned for RDTSC into tctx. */
uint64_t system_tsc(struct icpu *c);
void system_load_tsc(struct tctx *x, const struct icpu *c);

/* engine.c: from stub_slow; 0: go on at tctx.go with tctx.found, else leave for tctx.reason */
uint32_t translate_slow(struct tctx *x);

#endif
