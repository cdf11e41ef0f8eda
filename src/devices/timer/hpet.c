/* hpet.c - see hpet.h. The counter counts 10 ns; `from` of a comparator is the first count that was not yet compared with it.
 *
 * Calls out: interrupts by the pattern of uart.c, for many lines: sync makes one change after the other, one thread at a time, and looks
 * again after each. A timer's `pulse` says that an edge (or message) has not yet gone out; it is state, because a save may come before.
 */
#include "devices/timer/hpet.h"

enum { TICK_NS = DP_HPET_PERIOD_FS / 1000000, MIN_EDGE_NS = 20000 };
enum { REG_CAPABILITIES = 0x000, REG_CONFIG = 0x010, REG_STATUS = 0x020, REG_COUNTER = 0x0f0, REG_TIMERS = 0x100, WINDOW = 0x400 };
enum { TIMER_CONFIG = 0x00, TIMER_COMPARATOR = 0x08, TIMER_FSB = 0x10, TIMER_STRIDE = 0x20 };
enum { ENABLE_CNF = 1, LEG_RT_CNF = 2 };
enum { INT_TYPE = 1 << 1 /* level */, INT_ENB = 1 << 2, TYPE = 1 << 3 /* periodic */, PER_INT_CAP = 1 << 4, SIZE_CAP = 1 << 5,
       VAL_SET = 1 << 6, MODE32 = 1 << 8, INT_ROUTE_SHIFT = 9, INT_ROUTE = 31 << 9, FSB_EN = 1 << 14, FSB_INT_DEL_CAP = 1 << 15 };
enum { KEPT = INT_TYPE | INT_ENB | TYPE | VAL_SET | MODE32 | INT_ROUTE | FSB_EN };
/* Lines, as bits; 0 to 31 are pins. */
enum { LINE_IRQ0 = 32, LINE_IRQ8, LINE_LEGACY, LINES };
#define BIT(n) (1ull << (n))

typedef unsigned __int128 u128;

struct comparator {
    uint16_t config;
    uint64_t value, period, fsb, from;
    bool high;  /* edge: the line rests high */
    bool pulse; /* an edge or message is due */
};

struct hpet_regs {
    uint8_t config, status;
    uint64_t counter, since; /* the counter had this value then (VM time); since means nothing while it is held */
    struct comparator timer[DP_HPET_TIMERS];
};

struct hpet {
    struct dp_device device;
    struct hpet_regs regs;
    struct dp_hpet_wires wires;
    bool msi;
    struct dp_timer deadline;
    uint64_t not_before[DP_HPET_TIMERS]; /* VM time; so that what repeats by itself leaves the host time */
    bool running, busy;                  /* busy: some thread is calling out */
    uint64_t driven, fell;               /* levels given to lines; those that were low since, to be driven so before they rise */
};

/* ---- what is derived; lock held ---- */

static uint64_t ticks_since(const struct hpet *h)
{
    uint64_t now = dp_clock_now(h->device.env->clock);
    return now < h->regs.since ? 0 : (now - h->regs.since) / TICK_NS;
}

static uint64_t count_now(const struct hpet *h) { return h->regs.counter + (h->regs.config & ENABLE_CNF ? ticks_since(h) : 0); }
static uint64_t width(const struct comparator *c) { return c->config & MODE32 ? UINT32_MAX : UINT64_MAX; }
/* Counts from c->from to the next match. */
static uint64_t distance(const struct comparator *c) { return (c->value - c->from) & width(c); }

static unsigned line_of(const struct hpet *h, unsigned n)
{
    if (n < 2 && (h->regs.config & LEG_RT_CNF))
        return n ? LINE_IRQ8 : LINE_IRQ0;
    return (h->regs.timer[n].config & INT_ROUTE) >> INT_ROUTE_SHIFT;
}

static uint64_t levels(const struct hpet *h)
{
    const struct hpet_regs *r = &h->regs;
    uint64_t lines = r->config & LEG_RT_CNF ? BIT(LINE_LEGACY) : 0;
    for (unsigned n = 0; n < DP_HPET_TIMERS && (r->config & ENABLE_CNF); n++) {
        uint16_t c = r->timer[n].config;
        if ((c & INT_ENB) && !(c & FSB_EN) && (c & INT_TYPE ? r->status >> n & 1 : r->timer[n].high))
            lines |= BIT(line_of(h, n));
    }
    return lines;
}

static const struct dp_irq *wire(const struct hpet *h, unsigned line)
{
    switch (line) {
    case LINE_IRQ0: return &h->wires.irq0;
    case LINE_IRQ8: return &h->wires.irq8;
    case LINE_LEGACY: return &h->wires.legacy;
    default: return line < DP_HPET_PINS ? &h->wires.pin[line] : NULL;
    }
}

static uint32_t routes(const struct hpet *h)
{
    uint32_t mask = 0;
    for (unsigned n = 0; n < DP_HPET_PINS; n++)
        mask |= h->wires.pin[n].set ? 1u << n : 0;
    return mask;
}

/* ---- matches; lock held ---- */

static void match(struct hpet *h, unsigned n)
{
    struct comparator *c = &h->regs.timer[n];
    if ((c->config & INT_TYPE) && !(c->config & FSB_EN)) {
        h->regs.status |= 1u << n;
    } else if (c->config & INT_ENB) {
        c->pulse = true;
        c->high = !(c->config & FSB_EN);
    }
}

/* Compares the counts up to now. Returns a bit for each comparator that matched. */
static unsigned settle(struct hpet *h)
{
    unsigned matched = 0;
    uint64_t now = count_now(h);
    for (unsigned n = 0; n < DP_HPET_TIMERS && (h->regs.config & ENABLE_CNF); n++) {
        struct comparator *c = &h->regs.timer[n];
        if (c->from == now + 1)
            continue;
        uint64_t d = distance(c), span = now - c->from, period = c->period & width(c);
        c->from = now + 1;
        if (d > span)
            continue;
        if ((c->config & TYPE) && period)
            c->value = (c->value + ((span - d) / period + 1) * period) & width(c);
        match(h, n);
        matched |= 1u << n;
    }
    return matched;
}

/* After settle: plans the next look. */
static void arm(struct hpet *h)
{
    const struct hpet_regs *r = &h->regs;
    uint64_t first = UINT64_MAX;
    for (unsigned n = 0; n < DP_HPET_TIMERS && h->running && (r->config & ENABLE_CNF); n++) {
        const struct comparator *c = &r->timer[n];
        bool told = (c->config & INT_TYPE) && !(c->config & FSB_EN) && (r->status >> n & 1);
        if (!(c->config & INT_ENB) || told)
            continue;
        u128 at = r->since + ((u128)(c->from - r->counter) + distance(c)) * TICK_NS;
        if (at < UINT64_MAX)
            first = DP_MIN(first, DP_MAX((uint64_t)at, h->not_before[n]));
    }
    if (first == UINT64_MAX)
        dp_timer_disarm(&h->deadline);
    else
        dp_timer_arm(&h->deadline, first);
}

/* After any change. */
static void changed(struct hpet *h)
{
    for (unsigned n = 0; n < DP_HPET_TIMERS; n++) {
        struct comparator *c = &h->regs.timer[n];
        bool on = (h->regs.config & ENABLE_CNF) && (c->config & INT_ENB), message = c->config & FSB_EN;
        c->high &= on && !message && !(c->config & INT_TYPE);
        c->pulse &= on && (message || c->high);
    }
    h->fell |= ~levels(h);
    arm(h);
}

/* ---- calls out; no lock held ---- */

/* The next line to change, and to which level; false when all are as they should be. Lock held. */
static bool next_line(struct hpet *h, unsigned *line, bool *level)
{
    uint64_t edges = 0;
    for (unsigned n = 0; n < DP_HPET_TIMERS; n++)
        edges |= h->regs.timer[n].pulse && !(h->regs.timer[n].config & FSB_EN) ? BIT(line_of(h, n)) : 0;
    uint64_t target = levels(h) & ~((h->fell | edges) & h->driven), differ = target ^ h->driven, legacy = BIT(LINE_LEGACY);
    if (!differ)
        return false;
    if (!(differ & legacy & target) && (differ & ~legacy)) /* on before all others, off after them */
        differ &= ~legacy;
    else
        differ = legacy;
    *line = (unsigned)__builtin_ctzll(differ);
    *level = target >> *line & 1;
    h->fell &= ~BIT(*line);
    h->driven ^= BIT(*line);
    for (unsigned n = 0; n < DP_HPET_TIMERS && *level; n++)
        if (line_of(h, n) == *line && !(h->regs.timer[n].config & FSB_EN))
            h->regs.timer[n].pulse = false;
    return true;
}

static struct comparator *next_message(struct hpet *h)
{
    for (unsigned n = 0; n < DP_HPET_TIMERS; n++)
        if (h->regs.timer[n].pulse && (h->regs.timer[n].config & FSB_EN))
            return &h->regs.timer[n];
    return NULL;
}

static void sync(struct hpet *h)
{
    const struct dp_msi_sink *msi = &h->device.env->msi;
    pthread_mutex_lock(&h->device.lock);
    while (h->running && !h->busy) {
        struct comparator *c = next_message(h);
        uint64_t fsb = c ? c->fsb : 0;
        unsigned line = 0;
        bool level = false;
        if (!c && !next_line(h, &line, &level))
            break;
        if (c)
            c->pulse = false;
        h->busy = true;
        pthread_mutex_unlock(&h->device.lock);
        if (!c)
            dp_irq_set(wire(h, line), level);
        else if (msi->send)
            msi->send(msi->opaque, fsb >> 32, (uint32_t)fsb);
        pthread_mutex_lock(&h->device.lock);
        h->busy = false;
    }
    pthread_mutex_unlock(&h->device.lock);
}

static void due(void *opaque)
{
    struct hpet *h = opaque;
    pthread_mutex_lock(&h->device.lock);
    if (h->running) {
        unsigned matched = settle(h);
        for (unsigned n = 0; n < DP_HPET_TIMERS; n++)
            if (matched >> n & 1)
                h->not_before[n] = dp_clock_now(h->device.env->clock) + MIN_EDGE_NS;
        changed(h);
    }
    pthread_mutex_unlock(&h->device.lock);
    sync(h);
}

/* ---- registers: of 64 bits, accessed whole or by halves ---- */

static uint64_t get(const struct hpet *h, unsigned reg)
{
    const struct hpet_regs *r = &h->regs;
    unsigned n = (reg - REG_TIMERS) / TIMER_STRIDE;
    switch (reg) {
    case REG_CAPABILITIES: return (uint64_t)DP_HPET_PERIOD_FS << 32 | DP_HPET_BLOCK_ID;
    case REG_CONFIG: return r->config;
    case REG_STATUS: return r->status;
    case REG_COUNTER: return count_now(h);
    }
    if (reg < REG_TIMERS || n >= DP_HPET_TIMERS)
        return 0;
    const struct comparator *c = &r->timer[n];
    switch (reg % TIMER_STRIDE) {
    case TIMER_CONFIG: return (uint64_t)routes(h) << 32 | c->config | PER_INT_CAP | SIZE_CAP | (h->msi ? FSB_INT_DEL_CAP : 0);
    case TIMER_COMPARATOR: return c->value & width(c);
    case TIMER_FSB: return c->fsb;
    }
    return 0;
}

/* The counter goes on from v. */
static void set_counter(struct hpet *h, uint64_t v)
{
    h->regs.counter = v;
    h->regs.since = dp_clock_now(h->device.env->clock);
    for (unsigned n = 0; n < DP_HPET_TIMERS; n++)
        h->regs.timer[n].from = v;
}

static void put_timer(struct hpet *h, unsigned n, unsigned reg, uint64_t v, uint64_t mask)
{
    struct comparator *c = &h->regs.timer[n];
    switch (reg) {
    case TIMER_CONFIG: {
        uint16_t kept = (KEPT & (h->msi ? ~0 : ~FSB_EN)) & mask, config = (uint16_t)((c->config & ~kept) | (v & kept));
        if (!(routes(h) >> ((config & INT_ROUTE) >> INT_ROUTE_SHIFT) & 1))
            config = (uint16_t)((config & ~INT_ROUTE) | (c->config & INT_ROUTE));
        c->config = config;
        c->value &= width(c);
        c->period &= width(c);
        break;
    }
    case TIMER_COMPARATOR:
        mask &= width(c);
        h->not_before[n] = 0; /* the guest's own pace */
        c->period = (c->period & ~mask) | (v & mask);
        if (!(c->config & TYPE) || (c->config & VAL_SET)) {
            c->value = (c->value & ~mask) | (v & mask);
            c->from = count_now(h);
        }
        c->config &= (uint16_t)~VAL_SET;
        break;
    case TIMER_FSB: c->fsb = (c->fsb & ~mask) | (v & mask); break;
    }
}

static void put(struct hpet *h, unsigned reg, uint64_t v, uint64_t mask)
{
    struct hpet_regs *r = &h->regs;
    uint64_t merged = (get(h, reg) & ~mask) | (v & mask);
    unsigned n = (reg - REG_TIMERS) / TIMER_STRIDE;
    switch (reg) {
    case REG_CONFIG:
        if (merged & ~r->config & ENABLE_CNF) {
            set_counter(h, r->counter);
        } else if (~merged & r->config & ENABLE_CNF) {
            r->counter = count_now(h);
        }
        r->config = merged & (ENABLE_CNF | LEG_RT_CNF);
        break;
    case REG_STATUS: r->status &= (uint8_t)~(v & mask); break;
    case REG_COUNTER:
        if (r->config & ENABLE_CNF)
            dp_trace_guest(h->device.env->trace, "%s: the counter is written while it runs", h->device.id);
        set_counter(h, merged);
        break;
    default:
        if (reg >= REG_TIMERS && n < DP_HPET_TIMERS)
            put_timer(h, n, reg % TIMER_STRIDE, v, mask);
    }
}

static uint64_t hpet_read(void *opaque, uint64_t offset, unsigned size)
{
    struct hpet *h = opaque;
    pthread_mutex_lock(&h->device.lock);
    bool matched = settle(h);
    uint64_t v = get(h, (unsigned)offset & ~7u);
    if (matched)
        changed(h);
    pthread_mutex_unlock(&h->device.lock);
    if (matched)
        sync(h);
    return v >> (offset & 7) * 8 & dp_mask_bytes(size);
}

static void hpet_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct hpet *h = opaque;
    unsigned shift = (offset & 7) * 8;
    pthread_mutex_lock(&h->device.lock);
    settle(h);
    put(h, (unsigned)offset & ~7u, value << shift, dp_mask_bytes(size) << shift);
    settle(h); /* the count there is now, against what was written */
    changed(h);
    pthread_mutex_unlock(&h->device.lock);
    sync(h);
}

static const struct dp_window_ops ops = {.name = "hpet", .read = hpet_read, .write = hpet_write, .min_size = 4, .max_size = 8};
static const struct dp_window_spec windows[] = {[DP_HPET_WINDOW] = {"registers", WINDOW, &ops, false}};

/* ---- life ---- */

static const struct dp_field comparator_fields[] = {
    DP_FIELD_U16(struct comparator, config, 1, 0, KEPT),
    DP_FIELD_U64(struct comparator, value, 2, UINT64_MAX, 0),
    DP_FIELD_U64(struct comparator, period, 3, 0, 0),
    DP_FIELD_U64(struct comparator, fsb, 4, 0, 0),
    DP_FIELD_U64(struct comparator, from, 5, 0, 0),
    DP_FIELD_BOOL(struct comparator, high, 6, false),
    DP_FIELD_BOOL(struct comparator, pulse, 7, false),
};
static const struct dp_state_table comparator_table = DP_STATE_TABLE(struct comparator, "hpet-comparator", comparator_fields);
static const struct dp_field fields[] = {
    DP_FIELD_U8(struct hpet_regs, config, 1, 0, ENABLE_CNF | LEG_RT_CNF),
    DP_FIELD_U8(struct hpet_regs, status, 2, 0, (1 << DP_HPET_TIMERS) - 1),
    DP_FIELD_U64(struct hpet_regs, counter, 3, 0, 0),
    DP_FIELD_U64(struct hpet_regs, since, 4, 0, 0),
    DP_FIELD_STRUCTS(struct hpet_regs, timer, 5, &comparator_table),
};
static const struct dp_state_table state = DP_STATE_TABLE(struct hpet_regs, "hpet", fields);

static const struct dp_property properties[] = {
    {"msi", "interrupts as messages (FSB delivery)", DP_PROP_BOOL, offsetof(struct hpet, msi), 0, 0, 1, NULL},
};

void dp_hpet_wire(struct dp_device *d, const struct dp_hpet_wires *w) { ((struct hpet *)d)->wires = *w; }

static int init(struct dp_device *d, struct dp_error *e)
{
    struct hpet *h = (struct hpet *)d;
    dp_timer_init(&h->deadline, d->env->clock, due, h);
    return 0;
}

static void fini(struct dp_device *d) { dp_timer_fini(&((struct hpet *)d)->deadline); }

static void reset(struct dp_device *d)
{
    struct hpet *h = (struct hpet *)d;
    pthread_mutex_lock(&d->lock);
    memset(h->not_before, 0, sizeof(h->not_before));
    changed(h);
    pthread_mutex_unlock(&d->lock);
    sync(h);
}

static void pause_(struct dp_device *d)
{
    struct hpet *h = (struct hpet *)d;
    pthread_mutex_lock(&d->lock);
    h->running = false;
    dp_timer_disarm(&h->deadline);
    pthread_mutex_unlock(&d->lock);
}

static void resume(struct dp_device *d)
{
    struct hpet *h = (struct hpet *)d;
    pthread_mutex_lock(&d->lock);
    h->running = true;
    pthread_mutex_unlock(&d->lock);
    sync(h); /* lines are as they were left before what happened since comes on top */
    pthread_mutex_lock(&d->lock);
    settle(h);
    changed(h);
    pthread_mutex_unlock(&d->lock);
    sync(h);
}

/* Who listens has the levels of the save, whatever was driven here before: all are told again. A line with an edge due counts as high, so
 * that it falls and rises; interrupts 0 and 8 are others' while legacy is off. */
static void post_load(struct dp_device *d)
{
    struct hpet *h = (struct hpet *)d;
    pthread_mutex_lock(&d->lock);
    memset(h->not_before, 0, sizeof(h->not_before));
    uint64_t wired = BIT(LINE_LEGACY) | routes(h) | (h->regs.config & LEG_RT_CNF ? BIT(LINE_IRQ0) | BIT(LINE_IRQ8) : 0);
    h->fell = 0;
    h->driven = ~levels(h) & wired;
    for (unsigned n = 0; n < DP_HPET_TIMERS; n++)
        h->driven |= h->regs.timer[n].pulse && !(h->regs.timer[n].config & FSB_EN) ? BIT(line_of(h, n)) : 0;
    arm(h);
    pthread_mutex_unlock(&d->lock);
    sync(h);
}

const struct dp_device_class dp_hpet_class = {
    .name = "hpet",
    .summary = "high precision event timer",
    .size = sizeof(struct hpet),
    .regs_offset = offsetof(struct hpet, regs),
    .state = &state,
    .properties = properties,
    .property_count = DP_ARRAY_LEN(properties),
    .windows = windows,
    .window_count = DP_ARRAY_LEN(windows),
    .init = init,
    .fini = fini,
    .reset = reset,
    .pause = pause_,
    .resume = resume,
    .post_load = post_load,
};
