/* lapic_internal.h - what lapic.c (registers), lapic_timer.c and apic_bus.c (messages) share. */
#ifndef DP_LAPIC_INTERNAL_H
#define DP_LAPIC_INTERNAL_H

#include "devices/intc/lapic.h"

#define BASE_BSP (1ull << 8)
#define BASE_EXTD (1ull << 10)
#define BASE_EN (1ull << 11)
#define SVR_ENABLE (1u << 8)
#define SVR_NO_EOI_BROADCAST (1u << 12)

enum { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };
#define LVT_MASKED (1u << 16)
#define LVT_LEVEL (1u << 15)
#define LVT_REMOTE_IRR (1u << 14)
#define LVT_MODE(v) ((v) >> 8 & 7)
#define LVT_VECTOR(v) ((v)&0xff)

enum { TIMER_ONE_SHOT, TIMER_PERIODIC, TIMER_TSC_DEADLINE };
#define TIMER_MODE(v) ((v) >> 17 & 3)

#define ESR_SEND_ILLEGAL (1u << 5)
#define ESR_RECEIVE_ILLEGAL (1u << 6)
#define ESR_REGISTER (1u << 7)

/* Atomic: read or written without the lock, by senders in other threads. */
struct dp_lapic_regs {
    _Atomic uint64_t apic_base;
    _Atomic uint32_t id;            /* the xAPIC register; in x2APIC mode the wired id counts */
    _Atomic uint32_t ldr, dfr, svr; /* ldr: the xAPIC register */
    _Atomic uint32_t irr[8], tmr[8];
    _Atomic uint32_t lvt[LVT_COUNT];
    _Atomic uint32_t esr_pending; /* collected since the last write of ESR */
    uint32_t esr;                 /* what reading ESR gives */
    uint32_t isr[8];
    _Atomic uint8_t tpr;            /* written under the lock */
    uint64_t icr;                   /* x2APIC form; xAPIC destination in bits 63-56 */
    bool lint[2];                   /* levels of the inputs */
    _Atomic uint8_t extint_latched; /* an ExtINT message waits for its INTA */
    /* Timer: counted down from timer_first since timer_start (ns), timer_periods times over from timer_initial since then. */
    bool timer_running;
    uint32_t timer_initial, timer_first, timer_divide;
    uint64_t timer_start, timer_periods;
    uint64_t tsc_deadline;
};

struct dp_lapic {
    struct dp_device device;
    struct dp_lapic_wires wires;
    struct dp_lapic_regs regs;
    struct dp_timer timer;
    _Atomic uint8_t ppr; /* derived from tpr and isr */
    atomic_bool extint;  /* derived: LINT0 or a message asks for an INTA cycle */
    bool running;        /* between resume and pause */
};

static inline bool lapic_x2(const struct dp_lapic *l)
{
    return (atomic_load_explicit(&((struct dp_lapic *)l)->regs.apic_base, memory_order_relaxed) & (BASE_EN | BASE_EXTD)) ==
           (BASE_EN | BASE_EXTD);
}
static inline bool lapic_on(const struct dp_lapic *l)
{
    return atomic_load_explicit(&((struct dp_lapic *)l)->regs.apic_base, memory_order_relaxed) & BASE_EN;
}

/* ---- lapic.c; none is called with a lock held unless it says so ---- */

/* A fixed interrupt arrives; false when the APIC is disabled or the vector illegal. Lock-free. */
bool lapic_accept(struct dp_lapic *l, uint8_t vector, bool level);
/* Anything else arrives. */
bool lapic_signal(struct dp_lapic *l, enum dp_apic_mode mode, uint8_t vector);
void lapic_error(struct dp_lapic *l, uint32_t bit);
void lapic_timer_interrupt(struct dp_lapic *l);

/* ---- lapic_timer.c; under the lock unless it says otherwise ---- */

/* Brings the timer up to the clock and arms the host timer; true when it expired: the caller sends the interrupt once unlocked. */
bool lapic_timer_update(struct dp_lapic *l) DP_MUST_CHECK;
void lapic_timer_stop(struct dp_lapic *l);
uint32_t lapic_timer_current(struct dp_lapic *l);
void lapic_timer_load(struct dp_lapic *l, uint32_t count);
void lapic_timer_go_on(struct dp_lapic *l); /* from the current count, before the mode or the divider changes */
void lapic_timer_divide(struct dp_lapic *l, uint32_t value);
void lapic_timer_fired(void *lapic); /* dp_timer callback, no lock */

/* ---- apic_bus.c ---- */

void apic_bus_send_icr(struct dp_lapic *from, uint64_t icr, bool x2);

#endif
