/* vm/lockstep_internal.h - one of the two machines of a lock-step run.
 *
 * Model: a PC, an engine with one processor, a manual clock, its own copies of the disks. Nothing in it moves by itself: interrupt lines
 * and requests are recorded when devices raise them and take effect when the owner says so. All in the caller's thread.
 */
#ifndef DP_VM_LOCKSTEP_INTERNAL_H
#define DP_VM_LOCKSTEP_INTERNAL_H

#include "block/block.h"
#include "console/console.h"
#include "machine/pc.h"
#include "vm/lockstep.h"

enum { LOCKSTEP_DIRTY_CLIENT = DP_DIRTY_CLIENTS - 1 };
enum lockstep_request { LOCKSTEP_NONE, LOCKSTEP_RESET, LOCKSTEP_POWEROFF, LOCKSTEP_EXIT };

struct lockstep_machine {
    const struct dp_lockstep_config *config;
    const struct dp_engine *engine;
    char title[32]; /* for reports */
    struct x86_cpuid_model model;
    struct dp_engine_state *engine_state;
    struct dp_cpu *cpu;
    struct dp_clock *clock;
    struct dp_console *serial;
    struct dp_block *disk[DP_LOCKSTEP_DISKS];
    int disk_fd[DP_LOCKSTEP_DISKS]; /* of the same files */
    struct dp_x86_bus bus;
    struct dp_device *device[DP_PC_DISKS * 2 + 64]; /* all with a state, parents before children */
    unsigned device_count;
    struct dp_pc *pc;
    struct dp_ram *ram;

    unsigned lines_moved; /* bit per enum dp_line: since the last lockstep_lines */
    unsigned line_value[DP_LINE_RESET + 1];
    enum lockstep_request request;
    int status;

    struct x86_state state; /* as last pulled */
    uint64_t instructions, exceptions, interrupts;         /* since the guest began */
    uint64_t instructions_before, exceptions_before, interrupts_before; /* of them, not by this machine's engine: see lockstep_copy */
    uint64_t ps_left;
};

int lockstep_machine_init(struct lockstep_machine *m, const struct dp_lockstep_config *c, const struct dp_engine *engine,
                          struct dp_error *e) DP_MUST_CHECK;
void lockstep_machine_fini(struct lockstep_machine *m); /* also of a half-made one */
int lockstep_boot(struct lockstep_machine *m, struct dp_error *e) DP_MUST_CHECK; /* reset, the kernel into memory */
/* What it counted; lockstep_run does that too. */
void lockstep_count(struct lockstep_machine *m);
int lockstep_run(struct lockstep_machine *m, uint64_t budget, enum dp_exit_kind *kind, struct dp_error *e) DP_MUST_CHECK;
/* Makes *to the machine that *from is: RAM, disks, devices, processor, time. */
int lockstep_copy(struct lockstep_machine *to, struct lockstep_machine *from, struct dp_error *e) DP_MUST_CHECK;
void lockstep_lines(struct lockstep_machine *m);                                 /* what devices did to the processor's lines reaches it */
void lockstep_drain(struct lockstep_machine *m);                                 /* all disk requests complete */
/* Guest memory as the processor in state s sees it, without side effects; returns how many bytes there are. */
unsigned lockstep_read(struct lockstep_machine *m, const struct x86_state *s, uint64_t linear, uint8_t *data, unsigned size);
uint64_t lockstep_phys(uint64_t ram_offset); /* guest-physical */
/* The first page from *page on that holds anything but the zeros it began with; false when there is none. */
bool lockstep_next_page(const struct lockstep_machine *m, uint64_t *page);

#endif
