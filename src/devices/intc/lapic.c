/* lapic.c - registers and acceptance of interrupts; see lapic.h for the model.
 *
 * Where the processor's line comes from: `pending` is a function of atomics (IRR, PPR, extint), so any thread can compute it, and
 * lapic_sync tells the processor. Two threads may compute different answers and call in the wrong order; therefore each looks again after
 * its call. The last call made then carries a value that was still true after it was made, and whoever changes the truth later makes a
 * later call.
 */
#include "devices/intc/lapic_internal.h"

enum {
    REG_ID = 0x02,
    REG_VERSION = 0x03,
    REG_TPR = 0x08,
    REG_APR = 0x09,
    REG_PPR = 0x0a,
    REG_EOI = 0x0b,
    REG_RRD = 0x0c,
    REG_LDR = 0x0d,
    REG_DFR = 0x0e,
    REG_SVR = 0x0f,
    REG_ISR = 0x10,
    REG_TMR = 0x18,
    REG_IRR = 0x20,
    REG_ESR = 0x28,
    REG_ICR = 0x30,
    REG_ICR2 = 0x31,
    REG_LVT = 0x32,
    REG_INITIAL = 0x38,
    REG_CURRENT = 0x39,
    REG_DIVIDE = 0x3e,
    REG_SELF_IPI = 0x3f,
};

#define VERSION (0x14u | (LVT_COUNT - 1) << 16 | 1u << 24) /* bit 24: EOI broadcasts can be suppressed */

#define MSR_APIC_BASE 0x1b
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC 0x800

/* Writable bits. Delivery status (12) and remote IRR (14) read only; polarity (13) is kept but means nothing, see dp_lapic_lint. */
static const uint32_t lvt_mask[LVT_COUNT] = {0x700ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff};
#define LVT_READ_ONLY 0x5000u
#define SVR_MASK 0x13ffu
#define ICR_RESERVED 0xfff32000ull /* of the low half; in x2APIC mode they fault */

static struct dp_lapic *lapic_of(void *apic) { return apic; }

static uint64_t base_mask(const struct dp_lapic *l)
{
    unsigned bits = l->wires.physical_bits ? l->wires.physical_bits : 40;
    return (((1ull << bits) - 1) & ~0xfffull) | BASE_BSP | BASE_EN | BASE_EXTD;
}

/* ---- what is pending ---- */

static int highest_atomic(_Atomic uint32_t bits[8])
{
    for (int i = 7; i >= 0; i--) {
        uint32_t w = atomic_load(&bits[i]);
        if (w)
            return i * 32 + 31 - __builtin_clz(w);
    }
    return -1;
}

static int highest_isr(const struct dp_lapic *l)
{
    for (int i = 7; i >= 0; i--)
        if (l->regs.isr[i])
            return i * 32 + 31 - __builtin_clz(l->regs.isr[i]);
    return -1;
}

static bool pending(struct dp_lapic *l)
{
    if (atomic_load(&l->extint))
        return true;
    int v = highest_atomic(l->regs.irr);
    return v >= 0 && v >> 4 > atomic_load(&l->ppr) >> 4;
}

static void lapic_sync(struct dp_lapic *l)
{
    bool level;
    if (!l->wires.cpu.line)
        return;
    do {
        level = pending(l);
        l->wires.cpu.line(l->wires.cpu.opaque, DP_LAPIC_INTR, level);
    } while (pending(l) != level);
}

/* Under the lock, after TPR or ISR changed. */
static void update_ppr(struct dp_lapic *l)
{
    int v = highest_isr(l);
    uint8_t tpr = l->regs.tpr;
    atomic_store(&l->ppr, v >= 0 && v >> 4 > tpr >> 4 ? v & 0xf0 : tpr);
}

/* Under the lock, after LINT0, its LVT, an ExtINT message or the global enable changed. A globally disabled APIC passes its LINT0 pin on as
 * the processor's INTR (SDM 11.4.3). */
static void update_extint(struct dp_lapic *l)
{
    struct dp_lapic_regs *r = &l->regs;
    uint32_t lvt = r->lvt[LVT_LINT0];
    bool wire = r->lint[0] && (!lapic_on(l) || (!(lvt & LVT_MASKED) && LVT_MODE(lvt) == DP_APIC_EXTINT));
    atomic_store(&l->extint, wire || r->extint_latched);
}

/* ---- acceptance ---- */

static bool can_accept(struct dp_lapic *l) { return lapic_on(l) && (atomic_load(&l->regs.svr) & SVR_ENABLE); }

bool lapic_accept(struct dp_lapic *l, uint8_t vector, bool level)
{
    if (!can_accept(l))
        return false;
    if (vector < 16) {
        lapic_error(l, ESR_RECEIVE_ILLEGAL);
        return false;
    }
    uint32_t bit = 1u << (vector & 31);
    if (level)
        atomic_fetch_or(&l->regs.tmr[vector >> 5], bit);
    else if (atomic_load(&l->regs.tmr[vector >> 5]) & bit)
        atomic_fetch_and(&l->regs.tmr[vector >> 5], ~bit);
    if (!(atomic_fetch_or(&l->regs.irr[vector >> 5], bit) & bit) && pending(l))
        lapic_sync(l);
    return true;
}

static void reset_registers(struct dp_lapic *l)
{
    struct dp_lapic_regs *r = &l->regs;
    lapic_timer_stop(l);
    r->ldr = 0;
    r->dfr = 0xffffffff;
    r->svr = 0xff;
    r->tpr = 0;
    r->esr = 0;
    r->esr_pending = 0;
    r->icr = 0;
    r->extint_latched = 0;
    for (unsigned i = 0; i < 8; i++) {
        r->isr[i] = 0;
        r->irr[i] = 0;
        r->tmr[i] = 0;
    }
    for (unsigned i = 0; i < LVT_COUNT; i++)
        r->lvt[i] = LVT_MASKED;
    r->timer_initial = r->timer_first = r->timer_divide = 0;
    r->timer_start = r->timer_periods = 0;
    update_ppr(l);
    update_extint(l);
}

bool lapic_signal(struct dp_lapic *l, enum dp_apic_mode mode, uint8_t vector)
{
    enum dp_lapic_line line;
    if (!lapic_on(l))
        return false;
    switch (mode) {
    case DP_APIC_NMI:
        line = DP_LAPIC_NMI;
        break;
    case DP_APIC_SMI:
        line = DP_LAPIC_SMI;
        break;
    case DP_APIC_INIT:
        line = DP_LAPIC_INIT;
        pthread_mutex_lock(&l->device.lock);
        reset_registers(l);
        pthread_mutex_unlock(&l->device.lock);
        lapic_sync(l);
        break;
    case DP_APIC_SIPI:
        line = DP_LAPIC_SIPI;
        break;
    case DP_APIC_EXTINT:
        if (!can_accept(l))
            return false;
        pthread_mutex_lock(&l->device.lock);
        l->regs.extint_latched = 1;
        update_extint(l);
        pthread_mutex_unlock(&l->device.lock);
        lapic_sync(l);
        return true;
    default:
        return false;
    }
    DP_TRACE(l->device.env->trace, DP_TRACE_IRQ, "%s: %s", l->device.id,
             line == DP_LAPIC_NMI    ? "NMI"
             : line == DP_LAPIC_SMI  ? "SMI"
             : line == DP_LAPIC_INIT ? "INIT"
                                     : "SIPI");
    if (l->wires.cpu.line)
        l->wires.cpu.line(l->wires.cpu.opaque, line, mode == DP_APIC_SIPI ? vector : 1);
    return true;
}

/* An interrupt of the LVT: any mode but ExtINT, which is a level. */
static void local_interrupt(struct dp_lapic *l, uint32_t lvt, bool level)
{
    if (lvt & LVT_MASKED)
        return;
    if (LVT_MODE(lvt) == DP_APIC_FIXED)
        lapic_accept(l, LVT_VECTOR(lvt), level);
    else if (LVT_MODE(lvt) == DP_APIC_NMI || LVT_MODE(lvt) == DP_APIC_SMI || LVT_MODE(lvt) == DP_APIC_INIT)
        lapic_signal(l, LVT_MODE(lvt), 0);
}

void lapic_timer_interrupt(struct dp_lapic *l)
{
    uint32_t lvt = atomic_load(&l->regs.lvt[LVT_TIMER]);
    if (!(lvt & LVT_MASKED))
        lapic_accept(l, LVT_VECTOR(lvt), false);
}

/* Ends: an error interrupt with an illegal vector is an error too, but its bit is then already set. */
void lapic_error(struct dp_lapic *l, uint32_t bit)
{
    if (atomic_fetch_or(&l->regs.esr_pending, bit) & bit)
        return;
    uint32_t lvt = atomic_load(&l->regs.lvt[LVT_ERROR]);
    if (!(lvt & LVT_MASKED))
        lapic_accept(l, LVT_VECTOR(lvt), false);
}

/* Level-triggered LINT0 in fixed mode holds back until its EOI. Under the lock; the caller sends what it returns. */
static uint32_t lint0_level(struct dp_lapic *l)
{
    uint32_t v = l->regs.lvt[LVT_LINT0];
    if (!l->regs.lint[0] || (v & (LVT_MASKED | LVT_REMOTE_IRR)) || !(v & LVT_LEVEL) || LVT_MODE(v) != DP_APIC_FIXED || !can_accept(l) ||
        LVT_VECTOR(v) < 16)
        return LVT_MASKED;
    l->regs.lvt[LVT_LINT0] = v | LVT_REMOTE_IRR;
    return v;
}

/* The inputs say "asserted", so the polarity bit has nothing left to decide. LINT1 is always edge-triggered (SDM 11.5.1). */
void dp_lapic_lint(void *apic, unsigned n, bool level)
{
    struct dp_lapic *l = lapic_of(apic);
    uint32_t edge = LVT_MASKED, held = LVT_MASKED;
    if (n > 1)
        return;
    pthread_mutex_lock(&l->device.lock);
    bool rising = level && !l->regs.lint[n];
    bool changed = level != l->regs.lint[n];
    l->regs.lint[n] = level;
    if (n == 0) {
        update_extint(l);
        if (l->running)
            held = lint0_level(l);
    }
    uint32_t v = l->regs.lvt[LVT_LINT0 + n];
    bool by_level = n == 0 && (v & LVT_LEVEL) && LVT_MODE(v) == DP_APIC_FIXED;
    if (rising && l->running && lapic_on(l) && !by_level)
        edge = v;
    /* Disabled as a whole, the pins are the processor's own: LINT1 is NMI. */
    bool nmi_pin = n == 1 && rising && l->running && !lapic_on(l);
    pthread_mutex_unlock(&l->device.lock);
    local_interrupt(l, held, true);
    local_interrupt(l, edge, false);
    if (nmi_pin && l->wires.cpu.line)
        l->wires.cpu.line(l->wires.cpu.opaque, DP_LAPIC_NMI, 1);
    if (changed && n == 0)
        lapic_sync(l);
}

/* ---- the processor's side ---- */

bool dp_lapic_interrupt_pending(void *apic) { return pending(lapic_of(apic)); }

int dp_lapic_interrupt_ack(void *apic)
{
    struct dp_lapic *l = lapic_of(apic);
    int vector = -1;
    pthread_mutex_lock(&l->device.lock);
    bool external = atomic_load(&l->extint);
    if (external) {
        l->regs.extint_latched = 0;
        update_extint(l);
    } else {
        vector = highest_atomic(l->regs.irr);
        if (vector >= 0 && vector >> 4 > l->ppr >> 4) {
            uint32_t bit = 1u << (vector & 31);
            l->regs.isr[vector >> 5] |= bit;
            update_ppr(l);
            atomic_fetch_and(&l->regs.irr[vector >> 5], ~bit);
        } else {
            vector = -1;
        }
    }
    pthread_mutex_unlock(&l->device.lock);
    if (external)
        vector = l->wires.pic_ack ? l->wires.pic_ack(l->wires.pic_opaque) : -1;
    lapic_sync(l);
    return vector;
}

static void end_of_interrupt(struct dp_lapic *l)
{
    struct dp_lapic_regs *r = &l->regs;
    uint32_t again = LVT_MASKED;
    pthread_mutex_lock(&l->device.lock);
    int v = highest_isr(l);
    bool broadcast = false;
    if (v >= 0) {
        r->isr[v >> 5] &= ~(1u << (v & 31));
        update_ppr(l);
        if (atomic_load(&r->tmr[v >> 5]) >> (v & 31) & 1) {
            broadcast = !(r->svr & SVR_NO_EOI_BROADCAST);
            if ((r->lvt[LVT_LINT0] & LVT_REMOTE_IRR) && LVT_VECTOR(r->lvt[LVT_LINT0]) == (unsigned)v) {
                r->lvt[LVT_LINT0] &= ~LVT_REMOTE_IRR;
                again = lint0_level(l);
            }
        }
    }
    pthread_mutex_unlock(&l->device.lock);
    if (broadcast && l->wires.bus && l->wires.bus->eoi)
        l->wires.bus->eoi(l->wires.bus->eoi_opaque, v);
    local_interrupt(l, again, true);
    /* Ending an interrupt can only make more deliverable. */
    if (pending(l))
        lapic_sync(l);
}

uint8_t dp_lapic_tpr_read(void *apic) { return atomic_load_explicit(&lapic_of(apic)->regs.tpr, memory_order_relaxed); }

void dp_lapic_tpr_write(void *apic, uint8_t tpr)
{
    struct dp_lapic *l = lapic_of(apic);
    pthread_mutex_lock(&l->device.lock);
    l->regs.tpr = tpr;
    update_ppr(l);
    pthread_mutex_unlock(&l->device.lock);
    lapic_sync(l);
}

void dp_lapic_tsc_changed(struct dp_device *d)
{
    struct dp_lapic *l = lapic_of(d);
    lapic_timer_fired(l);
}

/* ---- registers, by number (offset >> 4, x2APIC MSR - 0x800) ---- */

static uint32_t x2_ldr(const struct dp_lapic *l) { return (l->wires.id & ~0xfu) << 12 | 1u << (l->wires.id & 0xf); }

static uint32_t arbitration(struct dp_lapic *l)
{
    int irr = highest_atomic(l->regs.irr), isr = highest_isr(l);
    unsigned t = l->regs.tpr >> 4, q = irr < 0 ? 0 : irr >> 4, s = isr < 0 ? 0 : isr >> 4;
    return t >= q && t > s ? l->regs.tpr : DP_MAX(t & s, q) << 4;
}

/* False: there is no such readable register. */
static bool read_register(struct dp_lapic *l, unsigned reg, bool x2, uint32_t *value)
{
    struct dp_lapic_regs *r = &l->regs;
    *value = 0;
    if (reg >= REG_ISR && reg < REG_ISR + 8) {
        *value = r->isr[reg - REG_ISR];
        return true;
    }
    if (reg >= REG_TMR && reg < REG_TMR + 8) {
        *value = r->tmr[reg - REG_TMR];
        return true;
    }
    if (reg >= REG_IRR && reg < REG_IRR + 8) {
        *value = r->irr[reg - REG_IRR];
        return true;
    }
    if (reg >= REG_LVT && reg < REG_LVT + LVT_COUNT) {
        *value = r->lvt[reg - REG_LVT];
        return true;
    }
    switch (reg) {
    case REG_ID:
        *value = x2 ? l->wires.id : r->id;
        return true;
    case REG_VERSION:
        *value = VERSION;
        return true;
    case REG_TPR:
        *value = r->tpr;
        return true;
    case REG_PPR:
        *value = l->ppr;
        return true;
    case REG_LDR:
        *value = x2 ? x2_ldr(l) : r->ldr;
        return true;
    case REG_SVR:
        *value = r->svr;
        return true;
    case REG_ESR:
        *value = r->esr;
        return true;
    case REG_ICR:
        *value = (uint32_t)r->icr;
        return true;
    case REG_INITIAL:
        *value = r->timer_initial;
        return true;
    case REG_CURRENT:
        *value = lapic_timer_current(l);
        return true;
    case REG_DIVIDE:
        *value = r->timer_divide;
        return true;
    }
    if (x2)
        return false;
    switch (reg) {
    case REG_APR:
        *value = arbitration(l);
        return true;
    case REG_DFR:
        *value = r->dfr;
        return true;
    case REG_ICR2:
        *value = (uint32_t)(r->icr >> 32);
        return true;
    case REG_EOI: /* write-only, but no error */
    case REG_RRD:
        return true;
    }
    return false;
}

static void write_lvt(struct dp_lapic *l, unsigned n, uint32_t value)
{
    struct dp_lapic_regs *r = &l->regs;
    bool expired = false;
    uint32_t again = LVT_MASKED;
    if (n == LVT_TIMER) /* an expiry that the host's timer has not told yet belongs to the old mode and vector */
        lapic_timer_fired(l);
    pthread_mutex_lock(&l->device.lock);
    uint32_t old = r->lvt[n];
    value = (value & lvt_mask[n]) | (old & LVT_REMOTE_IRR);
    if (!(r->svr & SVR_ENABLE))
        value |= LVT_MASKED;
    if (n == LVT_LINT1)
        value &= ~LVT_REMOTE_IRR;
    /* Remote IRR means something only for fixed, level-triggered LINT0. */
    if (n == LVT_LINT0 && (!(value & LVT_LEVEL) || LVT_MODE(value) != DP_APIC_FIXED))
        value &= ~LVT_REMOTE_IRR;
    if (n == LVT_TIMER && TIMER_MODE(old) != TIMER_MODE(value))
        lapic_timer_go_on(l);
    r->lvt[n] = value;
    if (n == LVT_TIMER) {
        /* Into or out of TSC deadline mode the timer is disarmed (SDM 11.5.4.1). */
        if ((TIMER_MODE(old) == TIMER_TSC_DEADLINE) != (TIMER_MODE(value) == TIMER_TSC_DEADLINE))
            lapic_timer_stop(l);
        expired = lapic_timer_update(l);
    }
    if (n == LVT_LINT0) {
        update_extint(l);
        again = lint0_level(l);
    }
    pthread_mutex_unlock(&l->device.lock);
    if (expired)
        lapic_timer_interrupt(l);
    local_interrupt(l, again, true);
    if (n == LVT_LINT0)
        lapic_sync(l);
}

static void write_svr(struct dp_lapic *l, uint32_t value)
{
    pthread_mutex_lock(&l->device.lock);
    l->regs.svr = value & SVR_MASK;
    if (!(value & SVR_ENABLE))
        for (unsigned i = 0; i < LVT_COUNT; i++)
            l->regs.lvt[i] |= LVT_MASKED;
    update_extint(l);
    pthread_mutex_unlock(&l->device.lock);
    lapic_sync(l);
}

static void write_timer(struct dp_lapic *l, unsigned reg, uint32_t value)
{
    pthread_mutex_lock(&l->device.lock);
    if (reg == REG_DIVIDE)
        lapic_timer_divide(l, value);
    else if (TIMER_MODE(l->regs.lvt[LVT_TIMER]) != TIMER_TSC_DEADLINE)
        lapic_timer_load(l, value);
    bool expired = lapic_timer_update(l);
    pthread_mutex_unlock(&l->device.lock);
    if (expired)
        lapic_timer_interrupt(l);
}

/* False: there is no such writable register. Reserved bits were dealt with. */
static bool write_register(struct dp_lapic *l, unsigned reg, bool x2, uint32_t value)
{
    struct dp_lapic_regs *r = &l->regs;
    if (reg >= REG_LVT && reg < REG_LVT + LVT_COUNT) {
        write_lvt(l, reg - REG_LVT, value);
        return true;
    }
    switch (reg) {
    case REG_TPR:
        dp_lapic_tpr_write(l, value);
        return true;
    case REG_EOI:
        end_of_interrupt(l);
        return true;
    case REG_SVR:
        write_svr(l, value);
        return true;
    case REG_ESR:
        r->esr = atomic_exchange(&r->esr_pending, 0);
        return true;
    case REG_INITIAL:
    case REG_DIVIDE:
        write_timer(l, reg, value);
        return true;
    }
    if (x2)
        return false;
    switch (reg) {
    case REG_ID:
        r->id = value & 0xff000000;
        return true;
    case REG_LDR:
        r->ldr = value & 0xff000000;
        return true;
    case REG_DFR:
        r->dfr = value | 0x0fffffff;
        return true;
    case REG_ICR:
        /* Delivery status (12) always reads idle. */
        r->icr = (r->icr & 0xff00000000000000) | (value & ~(uint32_t)ICR_RESERVED & ~0x1000u);
        apic_bus_send_icr(l, r->icr, false);
        return true;
    case REG_ICR2:
        r->icr = (uint32_t)r->icr | (uint64_t)(value & 0xff000000) << 32;
        return true;
    }
    return false;
}

/* ---- the xAPIC page ---- */

/* Registers are 32 bits wide at multiples of 16 (SDM 11.4.1). Smaller loads from them work on every processor we know of; the 12 bytes in
 * between read as zero; stores other than 32 (or the low half of 64) bits are undefined there and ignored here. */
uint64_t dp_lapic_read(void *apic, uint64_t offset, unsigned size)
{
    struct dp_lapic *l = lapic_of(apic);
    uint32_t value;
    if (!lapic_on(l) || lapic_x2(l))
        return dp_mask_bytes(size);
    if (offset >= 0x1000 || (offset & 0xc))
        return 0;
    pthread_mutex_lock(&l->device.lock);
    bool known = read_register(l, offset >> 4, false, &value);
    pthread_mutex_unlock(&l->device.lock);
    if (!known)
        lapic_error(l, ESR_REGISTER);
    return value >> (offset & 3) * 8 & dp_mask_bytes(size);
}

void dp_lapic_write(void *apic, uint64_t offset, uint64_t value, unsigned size)
{
    struct dp_lapic *l = lapic_of(apic);
    if (!lapic_on(l) || lapic_x2(l))
        return;
    if (offset >= 0x1000 || (offset & 0xf) || size < 4) {
        dp_trace_guest(l->device.env->trace, "%s: ignored a store of %u bytes at offset 0x%llx", l->device.id, size,
                       (unsigned long long)offset);
        return;
    }
    if (!write_register(l, offset >> 4, false, (uint32_t)value))
        lapic_error(l, ESR_REGISTER);
}

/* ---- MSRs ---- */

static bool write_base(struct dp_lapic *l, uint64_t value)
{
    if (value & ~base_mask(l))
        return false;
    pthread_mutex_lock(&l->device.lock);
    uint64_t old = l->regs.apic_base, from = old & (BASE_EN | BASE_EXTD), to = value & (BASE_EN | BASE_EXTD);
    /* SDM 11.12.5: never EXTD without EN, x2APIC only from xAPIC, out of x2APIC only to disabled. */
    bool legal = to != BASE_EXTD && !(from == 0 && to == (BASE_EN | BASE_EXTD)) && !(from == (BASE_EN | BASE_EXTD) && to == BASE_EN);
    if (legal) {
        l->regs.apic_base = value;
        if (to != from) {
            if (!to) {
                reset_registers(l);
                l->regs.id = l->wires.id << 24;
            } else if (to & BASE_EXTD) {
                l->regs.icr = (uint32_t)l->regs.icr; /* the destination changes its format */
            }
            update_extint(l);
        }
    }
    pthread_mutex_unlock(&l->device.lock);
    if (legal)
        lapic_sync(l);
    return legal;
}

bool dp_lapic_msr_read(void *apic, uint32_t msr, uint64_t *value)
{
    struct dp_lapic *l = lapic_of(apic);
    uint32_t low;
    switch (msr) {
    case MSR_APIC_BASE:
        *value = l->regs.apic_base;
        return true;
    case MSR_TSC_DEADLINE:
        pthread_mutex_lock(&l->device.lock);
        *value = l->regs.tsc_deadline;
        pthread_mutex_unlock(&l->device.lock);
        return true;
    }
    if (msr < MSR_X2APIC || msr > MSR_X2APIC + 0xff || !lapic_x2(l))
        return false;
    unsigned reg = msr - MSR_X2APIC;
    if (reg == REG_ICR) {
        *value = l->regs.icr;
        return true;
    }
    pthread_mutex_lock(&l->device.lock);
    bool known = read_register(l, reg, true, &low);
    pthread_mutex_unlock(&l->device.lock);
    *value = low;
    return known;
}

/* Bits an x2APIC register takes without #GP. */
static uint32_t x2_writable(unsigned reg)
{
    if (reg >= REG_LVT && reg < REG_LVT + LVT_COUNT)
        return lvt_mask[reg - REG_LVT] | LVT_READ_ONLY;
    switch (reg) {
    case REG_TPR:
    case REG_SELF_IPI:
        return 0xff;
    case REG_SVR:
        return SVR_MASK;
    case REG_INITIAL:
        return 0xffffffff;
    case REG_DIVIDE:
        return 0xb;
    }
    return 0; /* EOI and ESR take only zero, the rest nothing at all */
}

bool dp_lapic_msr_write(void *apic, uint32_t msr, uint64_t value)
{
    struct dp_lapic *l = lapic_of(apic);
    if (msr == MSR_APIC_BASE)
        return write_base(l, value);
    if (msr == MSR_TSC_DEADLINE) {
        bool expired = false;
        pthread_mutex_lock(&l->device.lock);
        if (lapic_on(l) && TIMER_MODE(l->regs.lvt[LVT_TIMER]) == TIMER_TSC_DEADLINE) {
            l->regs.tsc_deadline = value;
            expired = lapic_timer_update(l);
        }
        pthread_mutex_unlock(&l->device.lock);
        if (expired)
            lapic_timer_interrupt(l);
        return true;
    }
    if (msr < MSR_X2APIC || msr > MSR_X2APIC + 0xff || !lapic_x2(l))
        return false;
    unsigned reg = msr - MSR_X2APIC;
    if (reg == REG_ICR) {
        if (value & ICR_RESERVED)
            return false;
        l->regs.icr = value & ~0x1000ull;
        apic_bus_send_icr(l, l->regs.icr, true);
        return true;
    }
    if (value & ~(uint64_t)x2_writable(reg))
        return false;
    if (reg == REG_SELF_IPI) {
        if (value < 16)
            lapic_error(l, ESR_SEND_ILLEGAL);
        else
            lapic_accept(l, value, false);
        return true;
    }
    return write_register(l, reg, true, (uint32_t)value);
}

/* ---- life ---- */

static const struct dp_field fields[] = {
    DP_FIELD_U64(struct dp_lapic_regs, apic_base, 1, DP_APIC_DEFAULT_BASE | BASE_EN, 0xffffffffffd00),
    DP_FIELD_U32(struct dp_lapic_regs, id, 2, 0, 0xff000000),
    DP_FIELD_U32(struct dp_lapic_regs, ldr, 3, 0, 0xff000000),
    DP_FIELD_U32(struct dp_lapic_regs, dfr, 4, 0xffffffff, 0),
    DP_FIELD_U32(struct dp_lapic_regs, svr, 5, 0xff, SVR_MASK),
    DP_FIELD_ARRAY(struct dp_lapic_regs, irr, 6, DP_KIND_U32, 0, 0),
    DP_FIELD_ARRAY(struct dp_lapic_regs, tmr, 7, DP_KIND_U32, 0, 0),
    DP_FIELD_ARRAY(struct dp_lapic_regs, isr, 8, DP_KIND_U32, 0, 0),
    DP_FIELD_ARRAY(struct dp_lapic_regs, lvt, 9, DP_KIND_U32, LVT_MASKED, 0x7e7ff),
    DP_FIELD_U32(struct dp_lapic_regs, esr_pending, 10, 0, 0xff),
    DP_FIELD_U32(struct dp_lapic_regs, esr, 11, 0, 0xff),
    DP_FIELD_U8(struct dp_lapic_regs, tpr, 12, 0, 0),
    DP_FIELD_U64(struct dp_lapic_regs, icr, 13, 0, 0xffffffff000ccfff),
    DP_FIELD_ARRAY(struct dp_lapic_regs, lint, 14, DP_KIND_BOOL, 0, 1),
    DP_FIELD_U8(struct dp_lapic_regs, extint_latched, 15, 0, 1),
    DP_FIELD_BOOL(struct dp_lapic_regs, timer_running, 16, 0),
    DP_FIELD_U32(struct dp_lapic_regs, timer_initial, 17, 0, 0),
    DP_FIELD_U32(struct dp_lapic_regs, timer_first, 18, 0, 0),
    DP_FIELD_U32(struct dp_lapic_regs, timer_divide, 19, 0, 0xb),
    DP_FIELD_U64(struct dp_lapic_regs, timer_start, 20, 0, (1ull << 62) - 1),
    DP_FIELD_U64(struct dp_lapic_regs, timer_periods, 21, 0, (1ull << 56) - 1), /* keeps the products in lapic_timer.c below 2^128 */
    DP_FIELD_U64(struct dp_lapic_regs, tsc_deadline, 22, 0, 0),
};

/* What no sequence of writes leads to. Vectors 0-15 never enter IRR and ISR. */
static int check(const void *regs, struct dp_error *e)
{
    const struct dp_lapic_regs *r = regs;
    uint32_t low = (r->irr[0] | r->isr[0] | r->tmr[0]) & 0xffff;
    if (low)
        return dp_error_set(e, -EINVAL,
                            "lapic: the saved state holds a pending vector below 16, which no APIC accepts; the state is damaged");
    if ((r->apic_base & (BASE_EN | BASE_EXTD)) == BASE_EXTD)
        return dp_error_set(e, -EINVAL, "lapic: the saved IA32_APIC_BASE has EXTD without EN; the state is damaged");
    return 0;
}

static void clamp(void *regs)
{
    struct dp_lapic_regs *r = regs;
    r->irr[0] &= ~0xffffu;
    r->isr[0] &= ~0xffffu;
    r->tmr[0] &= ~0xffffu;
    if (!(r->apic_base & BASE_EN))
        r->apic_base &= ~BASE_EXTD;
}

static const struct dp_state_table state = DP_STATE_TABLE(struct dp_lapic_regs, "lapic", fields, .check = check, .clamp = clamp);

static int init(struct dp_device *d, struct dp_error *e)
{
    struct dp_lapic *l = lapic_of(d);
    struct dp_apic_bus *bus = l->wires.bus;
    if (bus && bus->count >= DP_APIC_MAX_CPUS)
        return dp_error_set(e, -EINVAL, "%s: no more than %u processors fit on the APIC bus; ask for fewer", d->id, DP_APIC_MAX_CPUS);
    dp_timer_init(&l->timer, d->env->clock, lapic_timer_fired, l);
    if (bus)
        bus->cpu[bus->count++] = l;
    return 0;
}

static void fini(struct dp_device *d)
{
    struct dp_lapic *l = lapic_of(d);
    struct dp_apic_bus *bus = l->wires.bus;
    dp_timer_fini(&l->timer);
    for (unsigned i = 0; bus && i < bus->count; i++)
        if (bus->cpu[i] == l) {
            memmove(&bus->cpu[i], &bus->cpu[i + 1], (bus->count - i - 1) * sizeof(bus->cpu[0]));
            bus->count--;
            break;
        }
}

static void reset(struct dp_device *d)
{
    struct dp_lapic *l = lapic_of(d);
    struct dp_lapic_regs *r = &l->regs;
    pthread_mutex_lock(&d->lock);
    reset_registers(l);
    r->apic_base = DP_APIC_DEFAULT_BASE | BASE_EN | (l->wires.bsp ? BASE_BSP : 0);
    r->id = l->wires.id << 24;
    if (l->wires.virtual_wire) {
        r->svr = 0xff | SVR_ENABLE;
        r->lvt[LVT_LINT0] = DP_APIC_EXTINT << 8;
        r->lvt[LVT_LINT1] = DP_APIC_NMI << 8;
    }
    update_extint(l);
    pthread_mutex_unlock(&d->lock);
    lapic_sync(l);
}

static void set_running(struct dp_device *d, bool running)
{
    struct dp_lapic *l = lapic_of(d);
    uint32_t held = LVT_MASKED;
    pthread_mutex_lock(&d->lock);
    l->running = running;
    bool expired = lapic_timer_update(l);
    if (running)
        held = lint0_level(l);
    pthread_mutex_unlock(&d->lock);
    if (expired)
        lapic_timer_interrupt(l);
    local_interrupt(l, held, true);
}

static void pause_(struct dp_device *d) { set_running(d, false); }
static void resume(struct dp_device *d) { set_running(d, true); }

static void post_load(struct dp_device *d)
{
    struct dp_lapic *l = lapic_of(d);
    pthread_mutex_lock(&d->lock);
    update_ppr(l);
    update_extint(l);
    bool expired = lapic_timer_update(l);
    pthread_mutex_unlock(&d->lock);
    if (expired)
        lapic_timer_interrupt(l);
    lapic_sync(l);
}

void dp_lapic_wire(struct dp_device *d, const struct dp_lapic_wires *w) { lapic_of(d)->wires = *w; }

const struct dp_device_class dp_lapic_class = {
    .name = "lapic",
    .summary = "local APIC with x2APIC and TSC deadline timer",
    .size = sizeof(struct dp_lapic),
    .regs_offset = offsetof(struct dp_lapic, regs),
    .state = &state,
    .init = init,
    .fini = fini,
    .reset = reset,
    .pause = pause_,
    .resume = resume,
    .post_load = post_load,
};
