/* engine/translate/direct.h - direct spaces: user programs that run long between two entries to their kernel run in a process of their own,
 * a *runner*, where the guest's pages are mapped at the guest's own addresses and translated code has no page checks at all.
 *
 * Model: a space (struct tspace, one PCID of one processor) is *promoted* when its stays in user mode are long, by giving it a struct
 * tdirect: a runner, a code cache with blocks of the direct kind (a struct tcpu of its own, of which only cache, stubs and jump cache are
 * used) and a list of what is mapped. The runner is one more TLB: pages are mapped when an access faults, by the same walk and under the
 * same rules as entries of the shadow page table, and go when those go. The processor's thread and its runner take turns (struct
 * direct_orders, struct direct_state): the thread gives orders (mmap and munmap calls, then where to enter) and sleeps until the runner
 * replies.
 *
 * Isolation: the runner's memory is the guest program's own pages, the code made from it, and the private area. Everything else was
 * unmapped before guest code ran. Guest stores may hit the part of the area that is writable (struct direct_state, the signal stack); what
 * is trusted there was written by code of ours after the guest's last instruction, and everything else is taken for what it is, registers
 * of a user program. Orders, jump caches and code are not writable in the runner, so it runs translated code and the stubs only; a seccomp
 * filter leaves it futex, mmap (of guest RAM, never executable), munmap, sigreturn and exit. It has no file but guest RAM.
 *
 * Threads: all of this belongs to the processor's own thread, but for direct_kick and the pages' flags in struct talias.
 */
#ifndef DP_TRANSLATE_DIRECT_H
#define DP_TRANSLATE_DIRECT_H

#include "engine/interp/interp_x87.h"
#include "engine/translate/translate_internal.h"

#define DIRECT_ORDERS 400
#define DIRECT_STACK (64u << 10)

/* Read-only in the runner. */
struct direct_orders {
    uint32_t request, count; /* request: a futex; another number than the last wakes the runner */
    uint64_t go;             /* where to enter after the calls; 0: nowhere */
    uint32_t mxcsr;
    uint32_t x87;  /* load the x87 unit from the state's image */
    uint32_t step; /* run one host instruction */
    struct {
        uint64_t number, argument[6];
    } call[DIRECT_ORDERS]; /* system calls */
};

enum direct_outcome {
    DIRECT_LEFT,   /* by a way out of a block: tctx.reason */
    DIRECT_KICKED, /* before guest code was entered */
    DIRECT_SIGNAL, /* at pc */
};

/* Writable in the runner, and for the guest. */
struct direct_state {
    struct tctx x;  /* what blocks address through FS */
    uint64_t r[16]; /* by host number */
    uint8_t vec[16][32];
    struct x87_image x87;
    uint32_t mxcsr, reply, kicked, errors, outcome, signal, stepped;
    uint64_t pc, address, error, trap;
    uint64_t woken, entered, left; /* TSC */
    uint64_t step_flags;
};

/* The area's layout; link cells and jump cache come first. */
#define DIRECT_AT_ORDERS FRONT_BYTES
#define DIRECT_AT_STATE (DIRECT_AT_ORDERS + DP_ALIGN_UP(sizeof(struct direct_orders), DP_PAGE_SIZE))
#define DIRECT_AT_STACK (DIRECT_AT_STATE + DP_ALIGN_UP(sizeof(struct direct_state), DP_PAGE_SIZE))
#define DIRECT_AREA_BYTES (DIRECT_AT_STACK + DIRECT_STACK)
#define DIRECT_AREA_FROM_CODE (256ull << 20) /* the area's address from the code cache's */

struct direct_extent {
    uint64_t linear, ram_page;
    uint32_t pages;
    uint8_t alias;
    bool writable;
    uint64_t page_size; /* of the translation */
};

struct tdirect {
    struct tcpu cpu; /* code cache, stubs; space[0].table[0]: jump cache */
    struct tcpu *owner;
    struct tspace *space; /* that it belongs to now; NULL: it waits for the next */
    pid_t pid, thread;    /* the runner; who made it */
    int fd;               /* the area */
    int on_cpu;           /* where the runner is tied to */
    uint8_t *view;        /* the area here */
    struct direct_orders *orders;
    struct direct_state *state;
    uint64_t area, end; /* in the runner */
    unsigned aliases;   /* of RAM that it has files of */
    bool x87;           /* the program uses it */
    bool starting;      /* it has not answered yet */
    bool dead;
    bool old;                     /* there is RAM now that the runner knows nothing of */
    struct direct_extent *extent; /* what is mapped, by address */
    unsigned extents;
    unsigned warming; /* turns left that make it ready and do not count */
    unsigned served;  /* pages mapped since a stay was noted */
    uint64_t raised;  /* where the last page fault was that the guest was told of; 0: nowhere, or that is over */
    uint64_t ran;     /* how long code ran meanwhile */
    bool large; /* maybe some are from large pages */
};

/* Whether translated code of the current mode is to run in the current space's runner: promotes, demotes. NULL: here. */
struct tdirect *direct_choose(struct tcpu *t);
/* Translated code of user mode ran here for so long, and why it left. */
void direct_note_run(struct tcpu *t, uint64_t ticks, enum leave_reason why);
/* Does it still pay? If not, direct_choose should be asked again. */
bool direct_worth(const struct tdirect *d);
/* A block of the runner's was made or entered: where its branches lead to code that is known here, they are linked at once, and so are
 * those of the blocks made for that. Each saves a turn. page: where its page is. */
void direct_link(struct tdirect *d, struct tblock *b, uint64_t page);
/* As run_block in engine.c, in the runner: from code on; the reason for coming back is in x. Negative: the runner is gone, and the guest's
 * state with it. */
int direct_run(struct tdirect *d, struct tctx *x, uint64_t page, uint64_t rip, uint64_t code);
/* Another thread wants a processor out of translated code. False: it is not in a runner. */
bool direct_kick(struct tcpu *t);

/* Called as shadow page tables change. */
void direct_flush_space(struct tspace *s, bool recycled);
void direct_flush_page(struct tspace *s, uint64_t linear);
void direct_flush_all(struct tcpu *t);
/* Code of a page is void; a page may no longer be written to. */
void direct_invalidate(struct tcpu *t, struct dp_ram *ram, uint64_t page);
void direct_revoke(struct tcpu *t, struct dp_ram *ram, uint64_t page);
/* The runners end. */
/* All runners end; who is worth one gets another. */
void direct_release(struct tcpu *t);
void direct_fini(struct tcpu *t);

/* stubs.c */
void stubs_emit_direct(struct tcpu *t, uint64_t area);

#endif
