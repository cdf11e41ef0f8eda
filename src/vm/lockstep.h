/* vm/lockstep.h - two engines run the same guest side by side; the first difference between them is reported.
 *
 * Model: two complete machines (machine/pc.h), each with its own RAM, devices and manual clock, one processor each, run by the calling
 * thread in turn. The first engine leads: it runs a *step*, which is a block if its budget is below 64, and its counters tell how many
 * instructions that was and how many events it delivered. The second follows by just as many. Then the processors' states are
 * compared. Of both engines budgets must be exact.
 * Time: a *slice* is the steps until at least so many instructions have run, or until the processor halts. Only at its end do both clocks
 * move, by its number of instructions, so do timers run, disks complete and do interrupt lines reach the processors; a halt skips to the
 * next timer. So a run depends on nothing of the host and is the same each time: what differs is found again, and closer, by a second run.
 * Counting: see engine/interp/interp.c. Instructions count when they retire, deliveries of exceptions and interrupts are counted apart.
 * Made deterministic: the wall clock (a manual clock's), disks (a private copy for each machine, requests completed at the slice's end),
 * no entropy device, no RDRAND and RDSEED, no input.
 * Invariants: RAM is compared by the pages that were written, at intervals and whole at the end; so
 * are the devices' states and the serial output.
 */
#ifndef DP_VM_LOCKSTEP_H
#define DP_VM_LOCKSTEP_H

#include "engine/engine.h"

enum { DP_LOCKSTEP_INITRDS = 16, DP_LOCKSTEP_DISKS = 24 };

struct dp_lockstep_config {
    const struct dp_engine *engine[2]; /* leader, follower */
    uint64_t memory;                   /* bytes; 0 means 256M */
    const char *cpu_model;             /* NULL: x86-64-v2 */
    const char *kernel, *cmdline;
    const char *initrd[DP_LOCKSTEP_INITRDS], *disk[DP_LOCKSTEP_DISKS];
    unsigned initrd_count, disk_count;
    uint64_t instructions; /* stop after so many; 0: when the guest ends */
    uint64_t timeout_ms;   /* stop after so long, by the host's clock; 0: no limit */
    uint64_t skip;         /* the follower alone runs so many instructions; the leader begins as a copy */
    uint64_t step;         /* instructions between two comparisons; 0: a block of the leader's */
    uint64_t slice;        /* instructions; 0 means 1000 */
    uint64_t every;        /* instructions between comparisons of RAM and devices; 0 means 10 million */
    uint64_t ps;           /* time that an instruction takes, in picoseconds; 0 means 1000 */
    bool all_flags;        /* flags that are undefined, or that nothing reads, must agree, too */
    bool single;           /* the follower runs its instructions one by one */
    bool once;             /* no second run that looks closer */
    const char *ignore;    /* names of state fields, as reports have them, separated by commas; NULL: none */
    struct dp_trace *trace;                                             /* may be NULL */
    void (*output)(void *opaque, const uint8_t *data, size_t size);     /* what the guest says on its serial port; NULL: dropped */
    void *opaque;
};

enum dp_lockstep_end {
    DP_LOCKSTEP_LIMIT,    /* the number of instructions */
    DP_LOCKSTEP_TIMEOUT,
    DP_LOCKSTEP_ENDED,    /* both guests ended in the same way */
    DP_LOCKSTEP_DIVERGED,
};

struct dp_lockstep_result {
    enum dp_lockstep_end end;
    uint64_t instructions, steps;
    uint64_t undefined_flags; /* how often flags that are undefined, or that nothing reads, differed and were made equal */
    uint64_t accessed_bits;   /* likewise for accessed bits of page table entries */
    char reason[200];
    struct dp_buffer report; /* DIVERGED: text for people; the caller frees it */
};

/* 0 whatever the comparison says; negative errno when it cannot be made. */
int dp_lockstep_run(const struct dp_lockstep_config *c, struct dp_lockstep_result *r, struct dp_error *e) DP_MUST_CHECK;

#endif
