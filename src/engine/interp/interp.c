/* engine/interp/interp.c - the interpreter as an engine: life cycle, run loop, events between blocks.
 *
 * Model: run() alternates between looking at what wants attention (kicks, interrupt lines, traps), finding the block at RIP and entering
 * it. Blocks chain to each other without coming back until something sets attention or the next block is unknown.
 * Counting: an instruction counts when it retires, a repeated one when its last iteration has; one
 * that faults and the delivery of events do not.
 * A budget is exact: run() returns BUDGET after so many instructions and before any event that is due then, so a processor that has just
 * halted says HALT only when it is run again. With a budget below 64 it also returns after each block, and after the delivery of an
 * exception or interrupt with no instruction of the handler run. So an engine can be led along the path of another step by step
 * (vm/lockstep.h).
 * Every fault of an instruction leaves its handler by longjmp to here, where it becomes an event (x86_raise).
 * Threads: run, pull, push belong to the processor's thread; kick and interrupt touch atomics only.
 * Source: priorities of events: Intel SDM vol. 3, table 6-2.
 */
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/engines.h"
#include "engine/interp/interp.h"
#include "engine/interp/interp_internal.h"
#include "engine/interp/interp_x87.h"

enum { DR6_BD = 1 << 13, DR6_BS = 1 << 14 };

/* ---- leaving an instruction ---- */

static void leave(struct icpu *c, const struct iop *o)
{
    c->fault_offset = o->offset;
    c->fault_length = o->length;
    longjmp(c->leave, 1);
}
void interp_fault(struct icpu *c, const struct iop *o, unsigned vector)
{
    x86_fault(&c->ctx, vector, false, 0);
    leave(c, o);
    __builtin_unreachable();
}
void interp_fault_code(struct icpu *c, const struct iop *o, unsigned vector, uint32_t error)
{
    x86_fault(&c->ctx, vector, true, error);
    leave(c, o);
    __builtin_unreachable();
}
void interp_fault_ctx(struct icpu *c, const struct iop *o)
{
    leave(c, o);
    __builtin_unreachable();
}

void interp_x87_pending(struct icpu *c, const struct iop *o)
{
    if ((c->mode & IMODE_CR0_NE) || !c->bus.ferr)
        interp_fault(c, o, X86_MF);
    c->bus.ferr(c->bus.board, c->index);
    if ((atomic_load(&c->lines) & 1u << DP_LINE_INTR) && (c->s.rflags & X86_IF) && !(c->s.sti_shadow | c->s.movss_shadow)) {
        c->again = true;
        leave(c, o);
    }
    /* A processor would stand still for ever. Drop the exception instead, as a handler does that has told the board (IGNNE#). */
    x87_set_control(c, c->s.fpu.fcw, c->s.fpu.fsw & (uint16_t)~(X87_FLAGS | X87_SF));
}

/* ---- mode ---- */

static bool flat_data(const struct x86_seg *g)
{
    return !g->base && g->limit == 0xffffffffu && !(g->attr & (X86_ATTR_UNUSABLE | 8 | 4)) && (g->attr & 2);
}

void interp_update_mode(struct icpu *c)
{
    const struct x86_state *s = &c->s;
    bool pe = x86_protected(s), v86 = pe && x86_v86(s), code64 = x86_code64(s);
    unsigned cpl = x86_cpl(s);
    enum x86_mode code = code64 ? X86_MODE64 : s->seg[X86_CS].attr & X86_ATTR_DB ? X86_MODE32 : X86_MODE16;
    enum x86_mode stack = code64 ? X86_MODE64 : s->seg[X86_SS].attr & X86_ATTR_DB ? X86_MODE32 : X86_MODE16;
    uint32_t m = code | stack << IMODE_STACK_SHIFT | cpl << IMODE_CPL_SHIFT;
    if (pe)
        m |= IMODE_PE;
    if (v86)
        m |= IMODE_V86;
    if (x86_long_mode(s))
        m |= IMODE_LMA;
    if (code == X86_MODE32 && pe && !v86 && !s->seg[X86_CS].base && s->seg[X86_CS].limit == 0xffffffffu && flat_data(&s->seg[X86_DS]) &&
        flat_data(&s->seg[X86_ES]) && flat_data(&s->seg[X86_SS]))
        m |= IMODE_FLAT;
    if (s->cr0 & (X86_CR0_EM | X86_CR0_TS))
        m |= IMODE_X87_NM;
    if ((s->cr0 & X86_CR0_MP) && (s->cr0 & X86_CR0_TS))
        m |= IMODE_WAIT_NM;
    if (s->cr0 & X86_CR0_EM)
        m |= IMODE_MMX_UD | IMODE_SSE_UD;
    if (!(s->cr4 & X86_CR4_OSFXSR))
        m |= IMODE_SSE_UD;
    if (s->cr0 & X86_CR0_TS)
        m |= IMODE_SSE_NM;
    if (s->cr0 & X86_CR0_NE)
        m |= IMODE_CR0_NE;
    if (s->cr4 & X86_CR4_UMIP)
        m |= IMODE_UMIP;
    if (s->cr4 & X86_CR4_OSXSAVE)
        m |= IMODE_OSXSAVE;
    if (!(s->cr4 & X86_CR4_OSXSAVE) || (s->xcr0 & (X86_XSTATE_SSE | X86_XSTATE_AVX)) != (X86_XSTATE_SSE | X86_XSTATE_AVX))
        m |= IMODE_AVX_UD;
    if (s->cr4 & X86_CR4_FSGSBASE)
        m |= IMODE_FSGSBASE;
    if (s->cr4 & X86_CR4_TSD)
        m |= IMODE_TSD;
    if (s->cr4 & X86_CR4_PCE)
        m |= IMODE_PCE;
    c->mode = m;
    c->jump_key = (uint64_t)m << 32 | c->flushes;
    for (unsigned i = 0; i < X86_SEGS; i++)
        c->segbase[i] = code64 && i != X86_FS && i != X86_GS ? 0 : s->seg[i].base;
    c->align_check = cpl == 3 && (s->cr0 & X86_CR0_AM) && (s->rflags & X86_AC);
    c->watching = (s->dr[7] & 0xff) != 0;
    unsigned kind = cpl == 3 ? ITLB_USER : (s->rflags & X86_AC) ? ITLB_SUPER_AC : ITLB_SUPER;
    if (c->align_check || c->watching)
        kind = ITLB_EMPTY;
    c->tlb = c->tlb_all + kind * ITLB_SIZE;
}

void interp_sync_out(struct icpu *c)
{
    c->s.rflags = interp_flags(c);
    interp_fpu_save(c);
}
void interp_sync_in(struct icpu *c)
{
    interp_set_arith(c, c->s.rflags);
    interp_update_mode(c);
}

uint64_t interp_tsc(struct icpu *c)
{
    if (c->accel)
        return c->accel->tsc(c);
    return dp_tsc_from_ns(dp_clock_now(c->vm->clock), c->vm->model->tsc_khz) + (uint64_t)c->s.tsc_offset;
}

/* ---- events ---- */

/* c->ctx.fault becomes an exception at s.r[RIP]. */
static void raise_fault(struct icpu *c, enum x86_event_kind kind)
{
    struct x86_fault f = c->ctx.fault;
    c->counters.exceptions++;
    c->link_from = NULL;
    if (f.vector == X86_PF_)
        interp_forget_page(c, f.cr2);
    c->s.rflags = interp_flags(c);
    DP_TRACE(c->vm->trace, DP_TRACE_EXCEPTION, "cpu%u: exception %u error 0x%x at 0x%llx, cr2 0x%llx", c->index, f.vector, f.error,
             (unsigned long long)c->s.r[X86_RIP], (unsigned long long)f.cr2);
    unsigned nested = x86_raise(&c->ctx, &f, kind, c->s.r[X86_RIP], c->history);
    if (c->s.run_state == X86_SHUTDOWN)
        c->shutdown_faults = DP_MIN(nested + 1, 4u);
    interp_sync_in(c);
}
void interp_raise(struct icpu *c) { raise_fault(c, X86_EVENT_EXCEPTION); }
static void deliver(struct icpu *c, unsigned vector, enum x86_event_kind kind)
{
    c->counters.interrupts++;
    c->link_from = NULL; /* the next block is the handler's and not the branch's target */
    c->s.rflags = interp_flags(c);
    DP_TRACE(c->vm->trace, DP_TRACE_IRQ, "cpu%u: vector %u at 0x%llx", c->index, vector, (unsigned long long)c->s.r[X86_RIP]);
    if (x86_deliver(&c->ctx, vector, kind, false, 0, c->s.r[X86_RIP]))
        raise_fault(c, X86_EVENT_EXCEPTION);
    else
        interp_sync_in(c);
}

static void do_init(struct icpu *c)
{
    x86_state_on_init(&c->s, c->index == 0);
    c->pending_db = 0;
    c->link_from = NULL;
    interp_fpu_load(c);
    interp_flush_all(c);
    interp_sync_in(c);
}

/* System management interrupt. The board shows SMRAM before the state is saved there. */
static void enter_smm(struct icpu *c)
{
    uint8_t image[X86_SMM_SIZE];
    uint64_t at = (uint64_t)c->s.smbase + X86_SMM_SAVE;
    c->counters.interrupts++;
    c->link_from = NULL;
    c->s.rflags = interp_flags(c);
    x86_smm_enter(&c->s, image);
    if (c->bus.smm_changed)
        c->bus.smm_changed(c->bus.board, c->index, true);
    interp_map_changed(c);
    dp_space_write(c->memory, at, image, sizeof image); /* where there is no RAM it is lost, as on a real bus */
    interp_flush_all(c);
    interp_sync_in(c);
}
void interp_leave_smm(struct icpu *c)
{
    uint8_t image[X86_SMM_SIZE];
    dp_space_read(c->memory, (uint64_t)c->s.smbase + X86_SMM_SAVE, image, sizeof image);
    if (c->bus.smm_changed)
        c->bus.smm_changed(c->bus.board, c->index, false);
    if (x86_smm_leave(&c->ctx, image))
        c->shutdown_faults = 0;
    c->link_from = NULL;
    c->delivered = true; /* no trap for RSM itself */
    interp_map_changed(c);
    interp_flush_all(c);
    interp_sync_in(c);
}

/* Lines and kicks. True: run() returns with the exit filled. */
static bool attend(struct icpu *c, struct dp_exit *exit)
{
    unsigned why = atomic_exchange(&c->attention, 0);
    if (why & IATT_MAP) {
        interp_map_changed(c);
        interp_flush_all(c);
        interp_cache_empty(c);
    }
    if (why & IATT_KICK) {
        exit->kind = DP_EXIT_KICK;
        return true;
    }
    return false;
}

static bool interrupts_open(const struct icpu *c) { return (c->s.rflags & X86_IF) != 0; }

/* Takes what is pending in order of priority; at an instruction boundary without shadow. */
static void take_events(struct icpu *c)
{
    unsigned lines = atomic_load(&c->lines);
    if (DP_LIKELY(!lines))
        return;
    if (lines & 1u << DP_LINE_RESET) /* machines reset processors by push */
        atomic_fetch_and(&c->lines, ~(1u << DP_LINE_RESET));
    if ((lines & 1u << DP_LINE_SMI) && !c->s.smm && c->s.run_state != X86_WAIT_SIPI) {
        atomic_fetch_and(&c->lines, ~(1u << DP_LINE_SMI));
        enter_smm(c);
        return;
    }
    if ((lines & 1u << DP_LINE_INIT) && !c->s.smm) {
        atomic_fetch_and(&c->lines, ~(1u << DP_LINE_INIT));
        do_init(c);
    }
    if (lines & 1u << DP_LINE_SIPI) {
        atomic_fetch_and(&c->lines, ~(1u << DP_LINE_SIPI));
        if (c->s.run_state == X86_WAIT_SIPI) {
            x86_state_start_ap(&c->s, (uint8_t)atomic_load(&c->sipi_vector));
            interp_flush_all(c);
            interp_sync_in(c);
        }
    }
    if (c->s.run_state == X86_WAIT_SIPI)
        return;
    if ((lines & 1u << DP_LINE_NMI) && !c->s.nmi_blocked) {
        atomic_fetch_and(&c->lines, ~(1u << DP_LINE_NMI));
        c->s.run_state = X86_RUNNING;
        deliver(c, X86_NMI, X86_EVENT_NMI);
        c->s.nmi_blocked = true;
        return;
    }
    if ((lines & 1u << DP_LINE_INTR) && interrupts_open(c) && c->bus.interrupt_ack) {
        int vector = c->bus.interrupt_ack(c->bus.apic);
        if (vector >= 0) {
            c->s.run_state = X86_RUNNING;
            deliver(c, (unsigned)vector, X86_EVENT_EXTERNAL);
        }
    }
}

/* An event that was being delivered when the state was taken. */
static void resume_event(struct icpu *c)
{
    struct x86_state *s = &c->s;
    s->event_pending = false;
    s->run_state = X86_RUNNING;
    if (s->event_kind == X86_EVENT_EXTERNAL || s->event_kind == X86_EVENT_NMI) {
        deliver(c, s->event_vector, s->event_kind);
        return;
    }
    x86_fault(&c->ctx, s->event_vector, s->event_has_error, s->event_error);
    c->ctx.fault.cr2 = s->cr2;
    raise_fault(c, s->event_kind);
}

/* ---- debugging traps: instructions one by one ---- */

static bool breakpoint_here(struct icpu *c)
{
    uint64_t linear = c->s.r[X86_RIP], hits = 0;
    if ((c->mode & IMODE_CODE) != X86_MODE64)
        linear = (linear + c->s.seg[X86_CS].base) & 0xffffffffull;
    for (unsigned i = 0; i < 4; i++)
        if ((c->s.dr[7] >> (2 * i) & 3) && !(c->s.dr[7] >> (16 + 4 * i) & 15) && c->s.dr[i] == linear)
            hits |= 1ull << i;
    if (!hits || (c->s.rflags & X86_RF))
        return false;
    x86_fault(&c->ctx, X86_DB, false, 0);
    c->ctx.fault.dr6 = hits;
    return true;
}

static void debug_trap(struct icpu *c)
{
    x86_fault(&c->ctx, X86_DB, false, 0);
    c->ctx.fault.dr6 = c->pending_db;
    c->pending_db = 0;
    if (c->s.run_state == X86_HALTED)
        c->s.run_state = X86_RUNNING;
    raise_fault(c, X86_EVENT_EXCEPTION);
}

void interp_execute(struct icpu *c, struct iblock *b)
{
    const struct iop *o = interp_enter(c, b);
#if INTERP_TAIL
    o->fn(c, o);
#else
    for (c->next = o; c->next;)
        c->next->fn(c, c->next);
#endif
}

/* One instruction; the traps that follow it become pending_db. After MOV SS no single-step trap, no instruction breakpoint, and data
 * breakpoints wait for one instruction more (SDM vol. 3 6.8.3). */
static void step(struct icpu *c)
{
    bool tf = c->s.rflags & X86_TF, after_ss = c->s.movss_shadow;
    c->s.sti_shadow = c->s.movss_shadow = false;
    if (c->watching && !after_ss && breakpoint_here(c)) {
        raise_fault(c, X86_EVENT_EXCEPTION);
        return;
    }
    /* Spent by executing; a fault's frame gets it all the same, see x86_deliver. */
    c->s.rflags &= ~(uint64_t)X86_RF;
    c->mode |= IMODE_ONE;
    c->jump_key = (uint64_t)c->mode << 32 | c->flushes;
    uint64_t limit = c->instruction_limit;
    c->instruction_limit = 0; /* no chaining */
    c->watch_dr6 = c->pending_db;
    c->pending_db = 0;
    c->delivered = false;
    struct iblock *b = interp_find_block(c);
    if (!b) {
        c->instruction_limit = limit;
        interp_update_mode(c);
        raise_fault(c, X86_EVENT_EXCEPTION);
        return;
    }
    /* A fault leaves to run(), which puts the limit back. */
    interp_execute(c, b);
    c->instruction_limit = limit;
    c->link_from = NULL;
    interp_update_mode(c);
    c->pending_db |= c->watch_dr6;
    if (tf && !c->delivered && !c->s.movss_shadow)
        c->pending_db |= DR6_BS;
}

/* ---- the run loop ---- */

static const char *vector_name(unsigned v)
{
    static const char *const names[] = { "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS", "#NP", "#SS", "#GP",
                                        "#PF", "15", "#MF", "#AC", "#MC", "#XM" };
    return v < DP_ARRAY_LEN(names) ? names[v] : "?";
}
static void report_shutdown(struct icpu *c, struct dp_exit *exit)
{
    interp_sync_out(c);
    exit->kind = DP_EXIT_SHUTDOWN;
    exit->address = c->s.r[X86_RIP];
    dp_buffer_printf(&exit->text, "cpu%u: %s", c->index, c->shutdown_faults ? "triple fault:" : "RSM to a state no processor can have");
    for (unsigned i = 0; i < c->shutdown_faults; i++) {
        const struct x86_fault *f = &c->history[i];
        dp_buffer_printf(&exit->text, "%s %s", i ? " ->" : "", vector_name(f->vector));
        if (f->has_error)
            dp_buffer_printf(&exit->text, "(0x%x)", f->error);
        if (f->vector == X86_PF_)
            dp_buffer_printf(&exit->text, " at 0x%llx", (unsigned long long)f->cr2);
    }
    dp_buffer_printf(&exit->text, " -> shutdown\n");
    x86_state_print(&c->s, &exit->text);
}

void interp_uncount(struct icpu *c, unsigned offset)
{
    const struct iblock *b = c->block;
    for (unsigned i = b ? b->count : 0; i-- > 0 && b->op[i].offset >= offset;)
        c->instructions--;
}

/* The fault that longjmp brought. */
static void after_fault(struct icpu *c)
{
    interp_uncount(c, c->fault_offset);
    c->s.r[X86_RIP] += c->fault_offset;
    if ((c->mode & IMODE_CODE) != X86_MODE64)
        c->s.r[X86_RIP] &= 0xffffffffull;
    interp_update_mode(c);
    if (c->again) { /* no fault: an interrupt comes first */
        c->again = false;
        return;
    }
    raise_fault(c, X86_EVENT_EXCEPTION);
}

/* Blocks chain to each other only while the longest of them fits into the budget. Then each is looked at here before it is entered, and one
 * too long for what is left runs instruction by instruction: the count is exact. Not 0, which means stepping. */
static uint64_t chain_limit(uint64_t limit) { return limit >= IBLOCK_MAX_OPS ? limit - (IBLOCK_MAX_OPS - 1) : 1; }

/* The first instruction of a block that is longer than the budget. */
static void run_one(struct icpu *c)
{
    c->mode |= IMODE_ONE;
    c->jump_key = (uint64_t)c->mode << 32 | c->flushes;
    struct iblock *b = interp_find_block(c);
    if (b)
        interp_execute(c, b); /* a fault leaves to loop(), which puts the mode right */
    c->link_from = NULL;
    interp_update_mode(c);
    if (!b)
        raise_fault(c, X86_EVENT_EXCEPTION);
}

static void loop(struct icpu *c, uint64_t limit, bool brief, struct dp_exit *exit)
{
    uint64_t delivered = c->counters.exceptions + c->counters.interrupts, before = c->instructions;
    if (setjmp(c->leave)) {
        c->instruction_limit = chain_limit(limit);
        after_fault(c);
    }
    for (;;) {
        if (DP_UNLIKELY(atomic_load_explicit(&c->attention, memory_order_relaxed)) && attend(c, exit))
            return;
        /* before events: what comes after the last instruction is the next call's */
        if (DP_UNLIKELY(c->instructions >= limit || (brief && c->instructions != before && !c->repeating))) {
            exit->kind = DP_EXIT_BUDGET;
            return;
        }
        if (DP_UNLIKELY(c->s.event_pending))
            resume_event(c);
        else if (DP_UNLIKELY(c->pending_db) && !c->s.movss_shadow)
            debug_trap(c);
        else if (!(c->s.sti_shadow | c->s.movss_shadow))
            take_events(c);
        if (DP_UNLIKELY(c->s.run_state != X86_RUNNING)) {
            if (c->s.run_state == X86_SHUTDOWN) {
                report_shutdown(c, exit);
                return;
            }
            exit->kind = c->s.run_state == X86_HALTED ? DP_EXIT_HALT : DP_EXIT_WAIT_SIPI;
            return;
        }
        if (DP_UNLIKELY(brief && c->counters.exceptions + c->counters.interrupts != delivered)) {
            exit->kind = DP_EXIT_BUDGET;
            return;
        }
        if (DP_UNLIKELY((c->s.rflags & (X86_TF | X86_RF)) || c->s.sti_shadow || c->s.movss_shadow || c->watching)) {
            step(c);
            continue;
        }
        c->counters.blocks_run++;
        c->repeating = false;
        if (c->accel) {
            if (c->accel->enter(c))
                continue;
            c->instruction_limit = 1; /* no chaining: the next block may be a translated one */
        }
        struct iblock *b = interp_find_block(c);
        if (DP_UNLIKELY(!b)) {
            raise_fault(c, X86_EVENT_EXCEPTION);
            continue;
        }
        if (DP_UNLIKELY(b->count > limit - c->instructions))
            run_one(c);
        else
            interp_execute(c, b);
    }
}

static void interp_run(struct dp_cpu *cpu, uint64_t budget, struct dp_exit *exit)
{
    struct icpu *c = &cpu->c;
    *exit = (struct dp_exit){ 0 };
    uint64_t limit = budget ? c->instructions + budget : ~0ull;
    c->instruction_limit = chain_limit(limit);
    c->by_blocks = budget;
    c->budget_end = limit;
    interp_fpu_enter(c);
    loop(c, limit, budget && budget < IBLOCK_MAX_OPS, exit);
    interp_fpu_leave(c);
    exit->address = c->s.r[X86_RIP];
}

static void interp_kick(struct dp_cpu *cpu) { atomic_fetch_or(&cpu->c.attention, IATT_KICK); }

static void interp_interrupt(struct dp_cpu *cpu, enum dp_line line, unsigned value)
{
    struct icpu *c = &cpu->c;
    if (line == DP_LINE_INTR && !value) {
        atomic_fetch_and(&c->lines, ~(1u << line));
        return;
    }
    if (line == DP_LINE_SIPI)
        atomic_store(&c->sipi_vector, value);
    if (!(atomic_fetch_or(&c->lines, 1u << line) & 1u << line))
        atomic_fetch_or(&c->attention, IATT_LINES);
}

static void interp_pull(struct dp_cpu *cpu, struct x86_state *out)
{
    struct icpu *c = &cpu->c;
    c->s.rflags = interp_flags(c);
    *out = c->s;
    unsigned lines = atomic_load(&c->lines);
    out->nmi_pending = lines >> DP_LINE_NMI & 1;
    out->init_pending = lines >> DP_LINE_INIT & 1;
    out->sipi_pending = lines >> DP_LINE_SIPI & 1;
    out->smi_pending = lines >> DP_LINE_SMI & 1;
    out->sipi_vector = (uint8_t)atomic_load(&c->sipi_vector);
    if (c->bus.tpr_read)
        out->cr8 = c->bus.tpr_read(c->bus.apic) >> 4;
    if (c->pending_db && !out->event_pending) { /* a debug trap's error code is the bits for DR6 */
        out->event_pending = true;
        out->event_vector = X86_DB;
        out->event_kind = X86_EVENT_EXCEPTION;
        out->event_has_error = false;
        out->event_error = (uint32_t)c->pending_db;
    }
}

static void interp_push_state(struct dp_cpu *cpu, const struct x86_state *in)
{
    struct icpu *c = &cpu->c;
    c->s = *in;
    c->s.r[X86_ZERO] = 0;
    c->pending_db = 0;
    if (in->event_pending && in->event_vector == X86_DB && in->event_kind == X86_EVENT_EXCEPTION) {
        c->s.event_pending = false;
        c->pending_db = in->event_error & (DR6_BS | DR6_BD | 15);
    }
    atomic_store(&c->sipi_vector, in->sipi_vector);
    /* INTR stays: it is the local APIC's level. */
    atomic_fetch_and(&c->lines, 1u << DP_LINE_INTR);
    atomic_fetch_or(&c->lines, (unsigned)in->nmi_pending << DP_LINE_NMI | (unsigned)in->init_pending << DP_LINE_INIT |
                                   (unsigned)in->sipi_pending << DP_LINE_SIPI | (unsigned)in->smi_pending << DP_LINE_SMI);
    c->block = NULL;
    c->link_from = NULL;
    interp_map_changed(c);
    interp_flush_all(c);
    interp_sync_in(c);
}

static void interp_counters(struct dp_cpu *cpu, struct dp_engine_counters *out)
{
    *out = cpu->c.counters;
    out->instructions = cpu->c.instructions;
}

/* ---- memory changes ---- */

/* After this, a store of another processor either found its write tag gone, or is visible here. */
static void barrier(struct dp_engine_state *e)
{
    if (e->barrier)
        syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}
static void on_changed(void *opaque, struct dp_space *s)
{
    struct dp_engine_state *e = opaque;
    (void)s;
    for (unsigned i = 0; i < e->vm.cpu_count; i++)
        if (e->cpu[i])
            atomic_fetch_or(&e->cpu[i]->attention, IATT_MAP);
}
static void revoke_writes(struct dp_engine_state *e, struct dp_ram *r, uint64_t page)
{
    for (unsigned i = 0; i < e->vm.cpu_count; i++)
        if (e->cpu[i])
            interp_revoke_writes(e->cpu[i], r, page);
}
/* Called by a processor's own thread, which need not wait for itself. */
static void on_code_marked(void *opaque, struct dp_ram *r, uint64_t page)
{
    struct dp_engine_state *e = opaque;
    revoke_writes(e, r, page);
    if (e->vm.cpu_count > 1)
        barrier(e);
}
/* A store that was on its way reports itself when it finds its tag gone, so no change is lost between harvest and copy. */
static void on_dirty_cleared(void *opaque, struct dp_ram *r)
{
    revoke_writes(opaque, r, ~0ull);
    barrier(opaque);
}

uint32_t interp_mark_code(struct icpu *c, struct dp_ram *r, uint64_t page)
{
    pthread_mutex_lock(&c->engine->marking);
    bool known = atomic_load_explicit(&r->has_code[page], memory_order_acquire);
    uint32_t generation = dp_ram_code_mark(r, page);
    if (!known)
        dp_space_code_marked(c->vm->memory, r, page);
    pthread_mutex_unlock(&c->engine->marking);
    return generation;
}

/* ---- life ---- */

static int interp_probe(struct dp_error *e)
{
#if defined(__x86_64__)
    (void)e;
    return 0;
#else
    return dp_error_set(e, -ENOTSUP, "the interpreter runs guest floating point on the host's own units and needs an x86-64 host");
#endif
}

static int interp_vm_init(const struct dp_engine_vm *vm, struct dp_engine_state **out, struct dp_error *err)
{
    int refused = dp_engine_refuse_code("interp", vm, err);
    if (refused)
        return refused;
    struct dp_engine_state *e = calloc(1, sizeof(*e));
    if (!e || vm->cpu_count > DP_ARRAY_LEN(e->cpu)) {
        free(e);
        return e ? dp_error_set(err, -EINVAL, "the interpreter has at most 256 processors; ask for fewer with --cpus")
                 : dp_error_set(err, -ENOMEM, "no memory for the interpreter");
    }
    e->vm = *vm;
    e->barrier = !syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
    if (vm->cpu_count > 1 && !e->barrier) {
        free(e);
        return dp_error_set(err, -ENOTSUP, "this host refuses membarrier(), which several processors need; use --cpus 1");
    }
    struct dp_listener l = { on_changed, on_code_marked, on_dirty_cleared, e };
    int r = dp_space_listen(vm->memory, &l);
    if (r) {
        free(e);
        return dp_error_set(err, r, "cannot listen to memory changes");
    }
    pthread_mutex_init(&e->marking, NULL);
    *out = e;
    return 0;
}
static void interp_vm_fini(struct dp_engine_state *e)
{
    dp_space_unlisten(e->vm.memory, e);
    pthread_mutex_destroy(&e->marking);
    free(e);
}
static void interp_cpu_fini(struct dp_cpu *cpu)
{
    struct icpu *c = &cpu->c;
    if (c->engine)
        c->engine->cpu[c->index] = NULL;
    interp_cache_fini(c);
    interp_memory_fini(c);
    free(cpu);
}
static int interp_cpu_init(struct dp_engine_state *e, unsigned index, const struct dp_x86_bus *bus, struct dp_cpu **out,
                           struct dp_error *err)
{
    struct dp_cpu *cpu = aligned_alloc(64, DP_ALIGN_UP(sizeof(*cpu), (size_t)64));
    if (!cpu)
        return dp_error_set(err, -ENOMEM, "no memory for processor %u", index);
    memset(cpu, 0, sizeof(*cpu));
    struct icpu *c = &cpu->c;
    c->vm = &e->vm;
    c->index = index;
    if (bus)
        c->bus = *bus;
    int r = interp_memory_init(c, err);
    if (!r)
        r = interp_cache_init(c, err);
    if (r) {
        interp_cpu_fini(cpu);
        return r;
    }
    interp_ctx_init(c);
    x86_state_reset(&c->s, index == 0);
    interp_map_changed(c);
    interp_sync_in(c);
    c->engine = e;
    e->cpu[index] = c;
    *out = cpu;
    return 0;
}

const struct dp_engine dp_engine_interp = {
    .name = "interp",
    .summary = "interpreter: runs everywhere, for checking and for what no faster engine can run",
    .probe = interp_probe,
    .vm_init = interp_vm_init,
    .vm_fini = interp_vm_fini,
    .cpu_init = interp_cpu_init,
    .cpu_fini = interp_cpu_fini,
    .run = interp_run,
    .kick = interp_kick,
    .interrupt = interp_interrupt,
    .pull = interp_pull,
    .push = interp_push_state,
    .counters = interp_counters,
};
