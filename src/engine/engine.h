/* engine/engine.h - the seam between machines and what executes the guest: interp, translate, KVM, null.
 *
 * Model: an engine is a constant table of functions. A vCPU is run by one host thread which calls run() again and again; everything
 * else reaches a vCPU by kick() and interrupt(), from any thread. pull() and push() move the canonical state; they and counters() are legal
 * only while run() is not executing. New hardware features add state and capability bits, not methods.
 * Invariants: engines reach devices only through spaces and struct dp_x86_bus; machines reach engines only through this file.
 */
#ifndef DP_ENGINE_H
#define DP_ENGINE_H

#include "event/event.h"
#include "isa/x86/x86.h"
#include "memory/memory.h"

enum dp_exit_kind {
    DP_EXIT_BUDGET,    /* budget used up */
    DP_EXIT_KICK,      /* somebody called kick() */
    DP_EXIT_HALT,      /* HLT with nothing pending: sleep until kick() or interrupt() */
    DP_EXIT_WAIT_SIPI, /* likewise */
    DP_EXIT_SHUTDOWN,  /* triple fault: exit.text holds the registers and the chain of exceptions */
    DP_EXIT_BREAKPOINT,
    DP_EXIT_ERROR,     /* the engine cannot go on: exit.text */
};
struct dp_exit { enum dp_exit_kind kind; uint64_t address; struct dp_buffer text; /* caller frees with dp_buffer_fini */ };

/* What a processor is wired to, given by the machine; callbacks run in the vCPU's thread. */
struct dp_x86_bus {
    /* Local APIC. ack: the highest pending vector above the processor priority, moved to in-service, or -1. */
    int (*interrupt_ack)(void *apic);
    bool (*interrupt_pending)(void *apic);
    uint64_t (*apic_read)(void *apic, uint64_t offset, unsigned size);  /* xAPIC page; also when apic_base was moved */
    void (*apic_write)(void *apic, uint64_t offset, uint64_t value, unsigned size);
    uint8_t (*tpr_read)(void *apic);
    void (*tpr_write)(void *apic, uint8_t tpr);
    /* x2APIC MSRs 0x800-0x8ff, IA32_APIC_BASE, IA32_TSC_DEADLINE; false: #GP(0). */
    bool (*msr_read)(void *apic, uint32_t msr, uint64_t *value);
    bool (*msr_write)(void *apic, uint32_t msr, uint64_t value);
    void *apic;
    /* Paravirtual clock MSRs 0x4b564d00, 0x4b564d01, 0x11, 0x12; false: #GP(0). */
    bool (*pv_msr_write)(void *pv, unsigned cpu, uint32_t msr, uint64_t value);
    void *pv;
    /* The guest's TSC is now the VM's + offset (it wrote IA32_TSC or IA32_TSC_ADJUST). */
    void (*tsc_moved)(void *board, unsigned cpu, int64_t offset);
    void *board;
    /* The processor entered or left system management mode: which memory it sees there is the board's matter (SMRAM). Called in its thread,
     * before its state is saved and after it was read back; the board may change the memory map. NULL: memory is the same. */
    void (*smm_changed)(void *board, unsigned cpu, bool in_smm);
    /* FERR#: an x87 exception waits and CR0.NE is 0, so it is reported the PC's way, by IRQ 13 (which port 0xf0 lowers). Called before each
     * x87 instruction that waits for it; an interrupt it causes is taken before that instruction. If none can be taken the exception is
     * dropped and the instruction runs. NULL: #MF as if CR0.NE were set. */
    void (*ferr)(void *board, unsigned cpu);
};

enum dp_line {
    DP_LINE_INTR,   /* the local APIC has, or no longer has, something to ack (level) */
    DP_LINE_NMI, DP_LINE_SMI, DP_LINE_INIT, /* edges */
    DP_LINE_SIPI,   /* edge; value = vector */
    DP_LINE_RESET,
};

struct dp_engine_vm {                /* what an engine gets to know of its machine; lives as long as the engine's vm */
    struct dp_space *memory, *ports;
    struct dp_space *smm_memory;     /* what processors in system management mode see, made over `memory`; NULL: the same */
    struct dp_clock *clock;
    struct dp_trace *trace;
    const struct x86_cpuid_model *model;
    unsigned cpu_count;
    /* For who looks into an engine; one that generates no host code refuses both in vm_init with -ENOTSUP. */
    bool perf_map;                   /* names generated code in /tmp/perf-PID.map */
    const char *dump_path;           /* NULL, or a file to create: each translated block beside its guest code */
};

/* What engines count, per vCPU since cpu_init: X(name, what it says). An engine leaves at 0 what it does not have. */
#define DP_ENGINE_COUNTERS(X) \
    X(instructions,            "guest instructions executed") \
    X(interpreted,             "of them, run one at a time by the interpreter") \
    X(blocks_decoded,          "blocks the interpreter decoded") \
    X(blocks_run,              "blocks entered through the run loop") \
    X(translated_blocks,       "blocks translated") \
    X(translated_instructions, "guest instructions translated") \
    X(code_bytes,              "bytes of host code generated") \
    X(code_flushes,            "times the code cache was emptied") \
    X(lookups,                 "jump cache misses that entered C") \
    X(links,                   "jumps linked from block to block") \
    X(code_invalidations,      "blocks or pages of code dropped because they were written to") \
    X(write_faults,            "guest stores to pages that hold code") \
    X(tlb_misses,              "translations that missed the TLB") \
    X(table_misses,            "shadow page table misses") \
    X(table_flushes,           "shadow page table flushes") \
    X(promotions,              "user address spaces that were given a process of their own") \
    X(turns,                   "times such a process was let run") \
    X(exceptions,              "exceptions delivered to the guest") \
    X(interrupts,              "interrupts delivered to the guest") \
    X(io,                      "port accesses") \
    X(mmio,                    "accesses to devices' memory") \
    X(signals,                 "host signals taken in guest code") \
    X(exits_kick,              "exits from translated code: somebody wanted attention") \
    X(exits_helper,            "exits from translated code: what only C does") \
    X(exits_fault,             "exits from translated code: the guest faulted")

struct dp_engine_counters { /* these and nothing else: also an array of DP_ENGINE_COUNTER_COUNT */
#define DP_COUNTER_FIELD(name, help) uint64_t name;
    DP_ENGINE_COUNTERS(DP_COUNTER_FIELD)
#undef DP_COUNTER_FIELD
};
enum { DP_ENGINE_COUNTER_COUNT = sizeof(struct dp_engine_counters) / sizeof(uint64_t) };
struct dp_engine_counter_info { const char *name, *help; };
extern const struct dp_engine_counter_info dp_engine_counter_list[DP_ENGINE_COUNTER_COUNT];
static inline uint64_t dp_engine_counter_value(const struct dp_engine_counters *c, unsigned i) { return ((const uint64_t *)c)[i]; }
void dp_engine_counters_add(struct dp_engine_counters *sum, const struct dp_engine_counters *c);

struct dp_engine_state; /* the engine's own, per VM */
struct dp_cpu;          /* the engine's own, per vCPU */

struct dp_engine {
    const char *name;       /* "interp" */
    const char *summary;    /* one line for help and `doctor` */
    /* 0, or -errno with why this host cannot (and what would help). */
    int (*probe)(struct dp_error *e);
    int (*vm_init)(const struct dp_engine_vm *vm, struct dp_engine_state **out, struct dp_error *e);
    void (*vm_fini)(struct dp_engine_state *);
    int (*cpu_init)(struct dp_engine_state *, unsigned index, const struct dp_x86_bus *bus, struct dp_cpu **out, struct dp_error *e);
    void (*cpu_fini)(struct dp_cpu *);
    /* Executes until an exit, at most budget instructions (0: no limit; below 64: one block or one delivered event at most, so that engines
     * can be led side by side, see vm/lockstep.h). Only the vCPU's own thread. */
    void (*run)(struct dp_cpu *, uint64_t budget, struct dp_exit *exit);
    void (*kick)(struct dp_cpu *); /* any thread, signal-safe; run() returns soon, or at once the next time */
    void (*interrupt)(struct dp_cpu *, enum dp_line line, unsigned value); /* any thread; wakes as kick does only when something changed */
    void (*pull)(struct dp_cpu *, struct x86_state *out);
    void (*push)(struct dp_cpu *, const struct x86_state *in);
    int (*breakpoint)(struct dp_cpu *, uint64_t linear, bool set);     /* -ENOTSUP */
    void (*counters)(struct dp_cpu *, struct dp_engine_counters *out); /* plain memory of the vCPU's: only while run() does not execute */
};

/* engine/engines.c: the explicit list, best first. NULL-terminated. */
extern const struct dp_engine *const dp_engines[];
const struct dp_engine *dp_engine_find(const char *name);
/* "auto": the first that can be used; *why gets one line for the start message ("KVM: /dev/kvm missing; using ..."). */
const struct dp_engine *dp_engine_choose(const char *name, char *why, size_t why_size, struct dp_error *e);

/* TSC of a VM: the clock's ns scaled to model->tsc_khz; engines add x86_state.tsc_offset. */
static inline uint64_t dp_tsc_from_ns(uint64_t ns, uint32_t tsc_khz) { return (uint64_t)((unsigned __int128)ns * tsc_khz / 1000000); }
static inline uint64_t dp_tsc_to_ns(uint64_t tsc, uint32_t tsc_khz)
{
    return (uint64_t)(((unsigned __int128)tsc * 1000000 + tsc_khz - 1) / tsc_khz);
}

#endif
