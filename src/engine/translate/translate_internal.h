/* engine/translate/translate_internal.h - the translator's own structures. The model is told in docs/translator.md; in short:
 *
 * The translator is a fast path inside the interpreter's run loop (struct interp_accel): hot guest code becomes host code in a code cache
 * of the processor's own; everything it does not do itself (system instructions, faults, device memory, cold code) the interpreter does on
 * the same struct icpu. Control goes back and forth at instruction boundaries only.
 *
 * Registers inside translated code: guest RAX RDX RBX RSP RBP RSI RDI R8-R12 are in the host registers of the same names, guest
 * RCX is in host R13; guest R13-R15 are in memory (struct tctx). Host RCX, R14, R15 are scratch. Arithmetic flags are the
 * host's; vector registers, MXCSR and (once a block needed it) the x87 unit too. FS is the C library's (struct tctx is
 * thread-local), GS is the base of the current shadow page table.
 *
 * Memory: a shadow page table has an 8-byte entry per guest page: host address minus guest address, or 0. The index is the inverted page
 * number, PEXTed, so no address can reach outside the table. Entries lead to one of two aliases of guest RAM: read-write, or read-only
 * (clean pages, pages a guest may not write). Pages of the read-write alias that hold code are mprotected. A store that must not happen
 * directly therefore faults, and is then done by the interpreter.
 */
#ifndef DP_TRANSLATE_INTERNAL_H
#define DP_TRANSLATE_INTERNAL_H

#include <pthread.h>
#include <stddef.h>
#include <time.h>

#include "engine/interp/interp_internal.h"
#include "engine/translate/emit.h"

#define CODE_BYTES (48u << 20)
#define BLOCK_ROOM (32u << 10) /* more than any block needs */
#define MAX_INSNS 48
#define MAX_BRANCHES 2 /* conditional ones on a path: what stands behind more of them is seldom reached, and often in other blocks too */
#define MAX_ACCESS 4096
#define JUMP_BITS 14           /* entries of a jump cache, and of its second half */
#define JUMPS (2u << JUMP_BITS)
#define TABLE_BYTES (1ull << (36 + 3))
#define JUMP_BYTES (JUMPS * (uint64_t)sizeof(struct tjump))
#define CELLS (1u << 17)       /* link cells below the jump cache */
#define FRONT_BYTES (JUMP_BYTES + CELLS * sizeof(uint64_t))
#define FRONT_PIECE (FRONT_BYTES / 64)
#define TABLE_LOG 8192
#define JUMP_LOG 8192
#define FILTER_BITS 65536u
#define DELTA_SLOTS (2 * MAX_INSNS) /* a group each at worst */
#define PAGE_MASK (~0xfffull)
#define GUARD32 0x10000 /* see struct ttable */

/* Why translated code came back (tctx.reason). */
enum leave_reason {
    LEAVE_LINK,      /* a direct branch that is not linked yet: tctx.record */
    LEAVE_LOOKUP,    /* tctx.rip is not in the jump cache */
    LEAVE_HELPER,    /* tctx.helper is to be done at tctx.site */
    LEAVE_INTERPRET, /* the interpreter is to go on at tctx.rip */
    LEAVE_UNGROUPED, /* a group of accesses crosses pages at tctx.rip: go on in a block that checks each */
    LEAVE_FAULT,     /* the same: the host faulted there */
    LEAVE_RAISE,     /* the page fault in ctx.fault is that of the instruction at tctx.rip */
    LEAVE_KICK,      /* go on at tctx.rip after looking at what wants attention */
    LEAVE_X87,       /* direct spaces: the guest's x87 state is wanted, by the struct tslow tctx.record */
};

/* What translated code addresses through FS. One per thread: two processors run by one thread take turns. */
struct tctx {
    uint64_t r13, r14, r15;         /* guest */
    uint64_t page;                  /* virtual address of the page whose code runs */
    uint64_t segbase[2];            /* guest FS, GS */
    uint64_t segpoison[2]; /* 32-bit code: added to their addresses; makes them non-canonical unless all 4 GiB may be read and written */
    uint64_t kernel_gs_base;
    uint64_t system_flags;          /* RFLAGS but the arithmetic ones */
    uint64_t delta[DELTA_SLOTS];    /* of access groups */
    uint64_t go;                    /* where the next transfer into translated code leads; a signal redirects it */
    uint64_t tsc_negative_host, tsc_guest, tsc_ratio, tsc_aux; /* RDTSC without C: see system.c */
    uint64_t undo;                  /* what an indirect call overwrote: its target may turn out to be no address */
    uint64_t found;                 /* slow path: the table's entry */
    uint64_t save_rsp, save_r14, save_r15;
    uint64_t rip, flags, host_rsp;
    struct icpu *c;
    uint64_t record;                /* number (cache_numbered) of a struct tlink or tslow */
    uint32_t site, reason;
    int32_t adjust;                 /* what the branch that is being looked up still has to add to RSP */
    uint8_t x87_live;               /* the host's x87 unit holds the guest's state, struct x86_fpu an old one (x87.c) */
    uint8_t x87_seg;                /* enum x86_seg_name of the last x87 memory operand, X86_SEGS: none since the unit was loaded */
    uint64_t x87_fdp, x87_page;     /* the last x87 memory operand; the page whose code ran the last x87 instruction */
    uint16_t x87_fcs;               /* CS when the unit was loaded */
    uint32_t helper;                /* enum x86_op | operand size << 16 | length << 24; 0: interpret; HELPER_OP: tctx.op */
    uint64_t op;                    /* number of a struct top */
    /* not for translated code */
    struct tcpu *t;                 /* non-NULL while inside translate_enter */
    struct tblock *refused;         /* LEAVE_FAULT: a store by way of the read-only view, in this block */
    uint64_t gs;                    /* what GS base is now; STAC and CLAC exchange the two */
    uint64_t counted_go;            /* where go leads behind stub_count */
    uint64_t other_table;           /* what it is with the other RFLAGS.AC, 0: C has to see to it */
    bool signals_ready;
};

struct tjump { uint64_t negative_rip; uint64_t code; uint64_t page; uint64_t global; };
#define JUMP_SHIFT 5 /* log2 of its size */

/* A direct branch out of a block. Within the page it is a jump that is patched. To another page (far) it
 * asks a link cell first, and both are patched. */
struct tlink {
    uint32_t from;      /* number of its struct tpage */
    uint32_t next;      /* number of another one of the same block, 0: none */
    uint32_t patch;     /* offset in the cache of the jump's displacement */
    int32_t target;     /* page offset */
    int32_t adjust;     /* far: what is added to RSP */
    uint16_t site;      /* far: page offset of the branch, FAR_NONE: none, execution runs on */
    uint8_t done;       /* instructions of the block, up to and with the branch */
    uint8_t cell_back;  /* from the jump's displacement back to the cell's; 0: not far, else this is the link of a struct tfar */
};
#define FAR_NONE 0xffffu
#define FAR_COLD (4 + 5 + 1) /* from the jump's displacement to that of the jump to stub_link */
/* next_incoming: of those into the same page; fallback: direct spaces: place in the cache of what asks the jump cache */
struct tfar { struct tlink link; struct tfar *next_incoming; uint32_t fallback; bool linked; };

/* Far links of one page to another, by their distance: one cell in each table says whether they hold there. */
struct tpair { uint32_t to; int32_t pages; uint32_t cell; }; /* to: number of a struct tpage; cell 0: not in use */
struct tpairs { uint32_t next; struct tpair pair[5]; };      /* next: number of more of them, 0: none; a cache line in all */

/* A way to the slow path: where it comes back to (offset in the cache), tctx.site, and the address:
 * guest register + disp, or what is in R14. */
struct tslow { uint32_t back, site; int32_t disp; uint8_t base; };
#define TSLOW_R14 0xff

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
#define TINSN_RCX 0x4000u /* string instruction of a direct space: at its host instruction, where commit is, guest RCX is in host RCX */

struct tblock {
    struct tpage *page;
    uint64_t host;              /* address of the guest code in RAM (dp_ram.host view) */
    uint64_t phys2;             /* the second page's, 0 unless an instruction crosses */
    uint32_t mode, code;        /* icpu.mode | variant; place in the cache */
    uint16_t count;
    uint16_t live;              /* arithmetic flags wanted before it */
    uint32_t links;             /* number of a struct tlink, 0: none */
    /* what is looked at seldom */
    struct tblock *page_next;
    struct tinsn *insn;         /* count + 1: then the place after the last instruction */
    uint32_t size;              /* bytes in the cache */
    uint32_t body;              /* bytes before the paths that are rarely taken */
    uint16_t bytes, end;
    bool dispatches;            /* its last instruction is an indirect jump */
};

/* hash and low: see cache.c; block: its place in the arena; 0: free */
struct thash { uint32_t hash; uint32_t low : 4, block : 28; };

struct tpage {
    struct tpage *next;
    struct dp_ram *ram;
    uint64_t number;
    struct tblock *blocks;
    struct tcrosser *crossers;
    uint32_t pairs;             /* number of a struct tpairs, 0: none; only the first may have room */
    struct tfar *incoming;      /* far links to its blocks */
    uint32_t home;              /* cell: where the page is mapped as code | HOME_GLOBAL; 0: no cell was left */
    bool made_ahead;            /* a runner's: it had all blocks that were known */
    bool aliased;               /* it was at two places of one table: its far links are not to be believed */
    uint64_t starts[DP_PAGE_SIZE / 8 / 64]; /* filter: 8 bytes each in which a block may begin */
};
#define HOME_GLOBAL 1u
struct tcrosser { struct tcrosser *next; struct tblock *block; }; /* blocks of the page before that end in this one */

/* tctx.site: page offset of the instruction in the low 12 bits. */
#define SITE_LENGTH_SHIFT 12
#define SITE_DONE_SHIFT 12 /* of a lookup: instructions of the block, up to and with the branch */
#define SITE_WRITE (1u << 24)
#define SITE_GROUP (1u << 25)
#define SITE_UNDO (1u << 27) /* tctx.undo is what a call overwrote */
#define SITE_X87 (1u << 26) /* no access: the guest's x87 state is wanted in the host's unit */
#define SITE_SOLE (1u << 28) /* a page fault at tctx.address is what the instruction raises, whatever else it does */
#define SITE_REFUSED (1u << 29) /* the entry is known, and not for writing (store_check): there is no way back */
#define SITE_NONE (1u << 31)

/* A shadow page table with its jump cache just below it, and link cells below that. 32-bit code has tables of its own, with entries for
 * addresses from GUARD32 to 4 GiB - GUARD32 only: who is in such a page and moves by less than GUARD32 does not wrap. */
struct ttable {
    uint32_t mode;              /* icpu.mode that the jump cache is for */
    bool code32;
    uint8_t *base;              /* GS base; jump cache at base - JUMP_BYTES, cells at base - FRONT_BYTES */
    uint64_t *log;              /* indexes of entries that are set and not global */
    unsigned logged, globals;
    uint32_t *jump_log;         /* indexes of jumps; JUMPS + indexes of cells */
    unsigned jumps;
    uint64_t front_used;        /* pieces of jump cache and cells that have memory */
    bool global_jumps;          /* there are entries or cells that the jump log does not have */
    bool overflow, jump_overflow; /* logs are not complete */
    bool shared;                /* only a jump cache, in a file (direct.h) */
    unsigned flushes;
    uint64_t large[FILTER_BITS / 64];         /* filter: large pages that entries came from */
    uint64_t jump_pages[FILTER_BITS / 64];    /* filter: pages whose code the jump cache knows */
    uint64_t large_jumps[FILTER_BITS / 64];   /* the same for large pages */
};

/* What is cached for one PCID: a table per access kind and width of code. */
#define SPACES 8
#define TABLE_KINDS (2 * ITLB_EMPTY)
struct tdirect;
struct tspace {
    struct ttable table[TABLE_KINDS];
    unsigned pcid;
    uint64_t used;
    bool valid;
    struct tdirect *direct;     /* NULL: not promoted */
    /* how long user code runs without C, in host TSC ticks: decaying mean; longest since direct_choose last looked */
    uint64_t stay, longest;
    uint64_t refused;           /* when promotion failed */
};

#define ALIAS_RO_BIT 46 /* set in addresses of the read-only view, clear in those of the other, as a rule */
struct talias {
    struct dp_ram *ram;
    uint8_t *rw, *ro;
    uint8_t *protected_;        /* per page */
    _Atomic uint8_t *handed;    /* per page: maybe an entry of a shadow page table leads to it in the read-write view */
    _Atomic uint8_t *direct;    /* per page: maybe a runner has it mapped for writing */
};

struct dump;
struct tvm {
    struct dp_engine_state *engine;
    struct dp_engine_vm vm;
    void (*code_written)(void *opaque, struct dp_ram *ram, uint64_t page);
    unsigned warm;              /* times a place is interpreted before it is translated */
    int direct;                 /* enum translate_direct */
    unsigned kick_after;        /* see translate_set_kick_after */
    pthread_mutex_t lock;
    struct talias alias[8];
    unsigned aliases;
    struct tcpu *cpu[256];
    struct dump *dump; /* NULL unless asked for */
};

#define PENDING_PAGES 64
#define DIRECTS 4 /* runners of a processor */
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
    size_t populated;           /* that much of the cache has memory */
    uint64_t stub_enter, stub_leave, stub_slow, stub_lookup, stub_link, stub_far, stub_stale, stub_kick, stub_helper, stub_count;
    bool fast_loop;             /* LOOP is as good as any branch */
    uint64_t stub_handler, stub_restorer; /* of a runner only */
    bool is_direct;             /* this is the cache of a direct space: its rx is an address in the runner, operands are not checked */
    uint64_t constants;         /* masks: page index, jump index, slot masks by log2 */
    struct thash *hash;
    uint32_t hash_mask, hashed; /* entries - 1; those in use or dead */
    struct tpage **pages;
    unsigned cells;             /* in use, with cell 0, which is never set */
    uint8_t *arena;             /* blocks, links, pages */
    size_t arena_used, arena_populated;
    struct tblock **by_code;    /* in order of their place in the cache */
    unsigned blocks, drops;     /* drops: times the cache was emptied */
    uint8_t *heat;
    struct writer *writer;
    uint64_t counted;           /* instructions that blocks counted */
    bool uncounted;             /* not all did */
    bool chained;               /* blocks lead to each other, by links or by jump caches */
    /* other threads' wishes */
    struct { uint64_t host, guest, ratio; int64_t offset; } tsc; /* a moment in both, guest ticks per host tick << 32 (0: not known) */
    pthread_mutex_t lock;
    struct { struct dp_ram *ram; uint64_t page; bool revoke; } pending[PENDING_PAGES];
    unsigned pending_count;
    bool pending_all, flush_writes;
    atomic_uint wish;           /* one of the above is set */
    atomic_uint inside;         /* translated code may be running */
    _Atomic(pid_t) thread;
    /* direct spaces (direct.c) */
    struct tdirect *directs[DIRECTS];
    _Atomic(pid_t) runner;      /* that runs for this processor now, 0: none */
    uint64_t sampled, turn_cost, stay;
    const struct tspace *sampled_space;
    unsigned sample_shift;
    bool in_runner;
    timer_t sampler;
    pid_t sampler_thread;       /* whom it signals; 0: there is none */
    unsigned direct_failures;
    unsigned countdown;         /* host instructions until the kick of kick_after; 0: none is to come */
    uint64_t halted_at, window, idle, released_at; /* ns: see give_back */
    bool lost;                  /* a runner died while it had the guest's registers */
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
static inline unsigned table_kind(const struct icpu *c, unsigned access_kind)
{
    return access_kind + (mode_code32(c->mode) ? ITLB_EMPTY : 0u);
}
static inline unsigned access_kind(const struct icpu *c) { return (unsigned)(c->tlb - c->tlb_all) / ITLB_SIZE; }

extern _Thread_local struct tctx translate_ctx __attribute__((tls_model("local-exec")));

/* Host register of each guest one; NO_REG: in struct tctx. */
static const uint8_t home[16] = {RAX, R13, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, NO_REG, NO_REG, NO_REG};
/* Where struct tctx is from FS, and the operand for one of its fields. */
static inline ptrdiff_t ctx_offset(void) { return (char *)&translate_ctx - (char *)__builtin_thread_pointer(); }
static inline struct mem ctx_at(size_t offset) { return (struct mem){NO_REG, NO_REG, 0, 0x64, ctx_offset() + (ptrdiff_t)offset}; }
#define CTX(field) ctx_at(offsetof(struct tctx, field))

/* space.c */
int space_init(struct tcpu *t, struct dp_error *e);
void space_fini(struct tcpu *t);
/* The memory of all tables goes back to the host; nothing is known then. */
void space_release(struct tcpu *t);
void space_flush(struct tcpu *t, enum x86_flush kind, uint64_t linear, unsigned pcid);
/* The page of an address in the current space and, where it was global, in all; after a page fault. */
void space_forget_page(struct tcpu *t, uint64_t linear);
/* Entries that allow writes are void (dirty tracking began anew). */
void space_revoke_writes(struct tcpu *t);
void space_flush_jumps(struct ttable *b, bool keep_global);
void space_forget_jumps(struct tcpu *t); /* in all spaces */
/* May an entry be from a large page? */
bool space_maybe_large(const struct ttable *b, uint64_t linear);
void space_forget_jumps_of_page(struct ttable *b, uint64_t linear);
/* The current table of a kind (table_kind), made on first use; NULL: no address space left. */
struct ttable *space_table(struct tcpu *t, unsigned kind);
void space_set(struct tcpu *t, unsigned kind, uint64_t linear, bool writable, struct dp_ram *ram, uint64_t offset, bool global,
               uint64_t page_size);
static inline uint64_t *space_entry(const struct ttable *b, uint64_t linear)
{
    return (uint64_t *)b->base + (~linear >> 12 & 0xfffffffffull);
}
/* crosses: the block runs into the next page. global: its translation survives CR3 writes. page_size: of the translation. */
void space_set_jump(struct tcpu *t, struct ttable *b, uint64_t rip, uint64_t code, bool crosses, bool global, uint64_t page_size);
/* Code of a page of RAM is entered at rip. */
void space_enter_page(struct tcpu *t, struct ttable *b, struct tpage *page, uint64_t rip, bool global, uint64_t page_size);
/* Far links through this cell hold in the table, from where their page is now to the page of rip. */
void space_set_cell(struct tcpu *t, struct ttable *b, uint32_t cell, uint64_t rip, bool global, uint64_t page_size);
static inline uint64_t *space_cell(const struct ttable *b, uint32_t cell) { return (uint64_t *)(b->base - FRONT_BYTES) + cell; }
static inline int32_t cell_displacement(uint32_t cell) { return (int32_t)(8 * cell) - (int32_t)FRONT_BYTES; }
/* What the jump cache knows for rip, 0 when nothing. */
uint64_t space_jump(const struct ttable *b, uint64_t rip);
static inline unsigned jump_index(uint64_t rip) { return (unsigned)rip & ((1u << JUMP_BITS) - 1); }
/* The second half holds what the first had to give up: by other bits, for those agree that met there. */
#define VICTIM_SHIFT 5
static inline unsigned victim_index(uint64_t rip) { return (1u << JUMP_BITS) + jump_index(rip >> VICTIM_SHIFT); }

/* alias.c: two views of RAM */
struct talias *alias_of(struct tvm *v, struct dp_ram *ram);
void alias_fini(struct tvm *v);
/* An entry of a shadow page table is about to lead to a page: may it be in the read-write view? */
bool alias_hand_out(struct tvm *v, struct talias *a, uint64_t page);
void alias_protect(struct tvm *v, struct dp_ram *ram, uint64_t page);
void alias_unprotect(struct tvm *v, struct dp_ram *ram, uint64_t page);
/* Is a host address in a page that is protected for its code? Safe in a signal handler. */
bool alias_protected(const struct tvm *v, uint64_t host);
/* A page gets mapped in a runner: may it be for writing? */
bool alias_direct_write(struct talias *a, uint64_t page);
/* A page becomes code: could a runner write to it? Then not any more. */
bool alias_direct_revoked(struct tvm *v, struct dp_ram *ram, uint64_t page);
/* In the read-only view? The same. */
bool alias_readonly(const struct tvm *v, uint64_t host);

/* cache.c */
int cache_init(struct tcpu *t, struct dp_error *e);
void cache_fini(struct tcpu *t);
void cache_empty(struct tcpu *t);
/* The same, and its memory goes back to the host. */
void cache_release(struct tcpu *t);
bool cache_has_room(const struct tcpu *t);
void cache_populate(struct tcpu *t);
/* Has this place been asked for `threshold` times? */
bool cache_warm(struct tcpu *t, uint64_t host, unsigned threshold);
struct tblock *cache_find(const struct tcpu *t, uint64_t host, uint32_t mode, uint64_t phys2);
void cache_add(struct tcpu *t, struct tblock *b);
/* The block of the current mode at a place in a page, if blocks of that page may lead to it for good. */
const struct tblock *cache_linkable(const struct tcpu *t, const struct tpage *page, uint64_t host);
void cache_invalidate(struct tcpu *t, struct dp_ram *ram, uint64_t page);
/* Links a branch at virtual page `page` to a block at rip, in this table and all others that agree. global: what
 * was said of both pages. False: it cannot be. */
bool cache_link_far(struct tcpu *t, struct ttable *table, struct tlink *link, struct tblock *b, uint64_t page, uint64_t rip, bool global,
                    uint64_t page_size);
void *cache_alloc(struct tcpu *t, size_t size);
/* What is in the arena has a number that fits into an instruction. */
static inline uint32_t cache_number(const struct tcpu *t, const void *p) { return (uint32_t)(((const uint8_t *)p - t->arena) / 8); }
static inline void *cache_numbered(const struct tcpu *t, uint64_t number) { return t->arena + number * 8; }
static inline struct tlink *cache_link(const struct tcpu *t, uint32_t number) { return number ? cache_numbered(t, number) : NULL; }
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

/* The instruction that a host address in a block belongs to; *at_start: nothing of it is visible to the guest yet. */
const struct tinsn *instruction_at(const struct tcpu *t, const struct tblock *b, uint64_t pc, bool *at_start);
/* The instruction of a block at an offset from its code. */
const struct tinsn *tinsn_at(const struct tblock *b, uint64_t offset);

/* x87.c: the guest's x87 state into the host's unit, and back into c->s.fpu if it is there. */
void x87_enter(struct tctx *x, const struct tcpu *t);
void x87_leave(struct tctx *x, const struct tcpu *t);
/* The same with an image instead of the unit. */
struct x87_image;
void x87_prepare(struct tctx *x, const struct tcpu *t, struct x87_image *image);
void x87_take(struct tctx *x, const struct tcpu *t, const struct x87_image *image);

/* Constants in the code cache, 8 bytes each. */
enum {
    CONSTANT_PAGE, CONSTANT_JUMP, CONSTANT_VICTIM, CONSTANT_SLOT /* by log2 of the size */, CONSTANT_NOT_IF = CONSTANT_SLOT + 12,
    CONSTANT_NOT_DF, CONSTANT_DF, CONSTANT_ARITH,
    CONSTANT_TSC, CONSTANT_RO, CONSTANT_AC, CONSTANT_HIGH
};
#define TSC_WINDOW_BITS 22

/* system.c: tctx.helper on c->s, which is complete. False: the interpreter is to do it. */
bool system_helper(struct icpu *c, uint32_t helper);
/* What was learned for RDTSC into tctx. */
uint64_t system_tsc(struct icpu *c);
void system_load_tsc(struct tctx *x, const struct icpu *c);

/* engine.c: from stub_slow; 0: go on at tctx.go with tctx.found, else leave for tctx.reason */
uint32_t translate_slow(struct tctx *x);

#endif
