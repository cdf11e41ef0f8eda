/* lapic_timer.c - the local APIC's timer (SDM vol. 3, 11.5.4): one-shot, periodic, TSC deadline.
 *
 * Model: nothing ticks. A count is its start time, the count loaded then and how many periods are over; expiry number k is at
 * start + ceil((first + k * initial) * divider / bus_hz), so rounding never adds up. Periods that passed while the host was away
 * give one interrupt, as IRR has one bit.
 * The TSC deadline is compared with the processor's TSC itself; the host timer only tells when to look.
 */
#include "devices/intc/lapic_internal.h"

typedef unsigned __int128 u128;

/* A guest may ask for a period of one nanosecond; the host looks at most this often, and expiries in between fall together. */
#define MIN_PERIOD_NS 20000

static unsigned divide_shift(const struct dp_lapic *l)
{
    uint32_t d = l->regs.timer_divide;
    return (((d & 3) | (d >> 1 & 4)) + 1) & 7;
}

static uint64_t bus_hz(const struct dp_lapic *l) { return l->wires.bus_hz ? l->wires.bus_hz : 1000000000; }

/* Counts since timer_start. */
static uint64_t elapsed(const struct dp_lapic *l, uint64_t now)
{
    if (now <= l->regs.timer_start)
        return 0;
    return (uint64_t)((u128)(now - l->regs.timer_start) * bus_hz(l) / 1000000000 >> divide_shift(l));
}

static uint64_t add_saturated(uint64_t a, u128 b) { return b > UINT64_MAX - a ? UINT64_MAX : a + (uint64_t)b; }

/* When expiry number timer_periods is due. */
static uint64_t expiry(const struct dp_lapic *l)
{
    u128 counts = (u128)l->regs.timer_periods * l->regs.timer_initial + l->regs.timer_first;
    u128 ns = ((counts << divide_shift(l)) * 1000000000 + bus_hz(l) - 1) / bus_hz(l);
    return add_saturated(l->regs.timer_start, ns);
}

uint32_t lapic_timer_current(struct dp_lapic *l)
{
    struct dp_lapic_regs *r = &l->regs;
    if (TIMER_MODE(r->lvt[LVT_TIMER]) == TIMER_TSC_DEADLINE || !r->timer_running)
        return 0;
    uint64_t e = elapsed(l, dp_clock_now(l->device.env->clock));
    if (e < r->timer_first)
        return r->timer_first - (uint32_t)e;
    if (TIMER_MODE(r->lvt[LVT_TIMER]) != TIMER_PERIODIC || !r->timer_initial)
        return 0;
    return r->timer_initial - (uint32_t)((e - r->timer_first) % r->timer_initial);
}

void lapic_timer_stop(struct dp_lapic *l)
{
    l->regs.timer_running = false;
    l->regs.tsc_deadline = 0;
    dp_timer_disarm(&l->timer);
}

void lapic_timer_load(struct dp_lapic *l, uint32_t count)
{
    struct dp_lapic_regs *r = &l->regs;
    r->timer_initial = r->timer_first = count;
    r->timer_start = dp_clock_now(l->device.env->clock);
    r->timer_periods = 0;
    r->timer_running = count != 0;
}

void lapic_timer_go_on(struct dp_lapic *l)
{
    struct dp_lapic_regs *r = &l->regs;
    if (!r->timer_running)
        return;
    uint32_t current = lapic_timer_current(l);
    /* A one-shot count that is over but not yet noticed stays over: it expires at once. */
    r->timer_first = current;
    r->timer_start = dp_clock_now(l->device.env->clock);
    r->timer_periods = 0;
}

void lapic_timer_divide(struct dp_lapic *l, uint32_t value)
{
    lapic_timer_go_on(l);
    l->regs.timer_divide = value & 0xb;
}

static bool update_deadline(struct dp_lapic *l)
{
    struct dp_lapic_regs *r = &l->regs;
    if (!r->tsc_deadline || !l->wires.tsc || !l->wires.tsc_khz) {
        dp_timer_disarm(&l->timer);
        return false;
    }
    uint64_t now = dp_clock_now(l->device.env->clock), tsc = l->wires.tsc(l->wires.tsc_opaque);
    if (tsc >= r->tsc_deadline) {
        r->tsc_deadline = 0;
        dp_timer_disarm(&l->timer);
        return true;
    }
    u128 ns = ((u128)(r->tsc_deadline - tsc) * 1000000 + l->wires.tsc_khz - 1) / l->wires.tsc_khz;
    dp_timer_arm(&l->timer, add_saturated(now, ns));
    return false;
}

bool lapic_timer_update(struct dp_lapic *l)
{
    struct dp_lapic_regs *r = &l->regs;
    if (!l->running) {
        dp_timer_disarm(&l->timer);
        return false;
    }
    unsigned mode = TIMER_MODE(r->lvt[LVT_TIMER]);
    if (mode == TIMER_TSC_DEADLINE)
        return update_deadline(l);
    if (!r->timer_running) {
        dp_timer_disarm(&l->timer);
        return false;
    }
    uint64_t now = dp_clock_now(l->device.env->clock);
    bool expired = now >= expiry(l);
    if (expired) {
        if (mode != TIMER_PERIODIC || !r->timer_initial) {
            r->timer_running = false;
            dp_timer_disarm(&l->timer);
            return true;
        }
        r->timer_periods = (elapsed(l, now) - r->timer_first) / r->timer_initial + 1;
    }
    uint64_t due = expiry(l);
    if (expired && due - now < MIN_PERIOD_NS)
        due = now + MIN_PERIOD_NS;
    dp_timer_arm(&l->timer, due);
    return expired;
}

void lapic_timer_fired(void *lapic)
{
    struct dp_lapic *l = lapic;
    pthread_mutex_lock(&l->device.lock);
    bool expired = lapic_timer_update(l);
    pthread_mutex_unlock(&l->device.lock);
    if (expired)
        lapic_timer_interrupt(l);
}
