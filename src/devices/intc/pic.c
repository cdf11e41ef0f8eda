/* pic.c - see pic.h. All that depends on each other is computed by `refresh` under the lock; the output follows by `drive`. */
#include "devices/intc/pic.h"

#define CASCADE 2

struct chip {
    uint8_t irr; /* edges latched; for level inputs `lines` counts */
    uint8_t lines, imr, isr, elcr;
    uint8_t base;  /* vector of input 0 */
    uint8_t first; /* the input of highest priority */
    uint8_t step;  /* next ICW at the odd port: 2, 3, 4; 0: initialised */
    bool has_icw4, single, read_isr, poll, special_mask, fully_nested, auto_eoi, rotate_auto;
};

struct pic_regs {
    struct chip chip[2];
};

struct pic {
    struct dp_device device;
    struct pic_regs regs;
    struct dp_irq intr;
};

static const uint8_t elcr_mask[2] = {0xf8, 0xde}; /* timer, keyboard, cascade, clock and coprocessor are always edges */

static uint8_t requests(const struct chip *c) { return (c->irr & ~c->elcr) | (c->lines & c->elcr); }

/* Distance from the highest priority of the first set bit; 8 when there is none. */
static unsigned rank(const struct chip *c, uint8_t bits)
{
    for (unsigned i = 0; i < 8; i++)
        if (bits >> ((c->first + i) & 7) & 1)
            return i;
    return 8;
}

/* The input that may interrupt now, -1 for none: in the midst of its initialisation a chip is silent. */
static int winner(const struct chip *c)
{
    uint8_t isr = c->special_mask ? c->isr & ~c->imr : c->isr;
    unsigned want = rank(c, requests(c) & ~c->imr), busy = rank(c, isr);
    unsigned n = (c->first + want) & 7;
    if (c->step || want == 8 || want > busy)
        return -1;
    /* Equal: already in service. A fully nested master lets its slave interrupt itself; with special mask the bit is masked anyway. */
    if (want == busy && !(c->fully_nested && n == CASCADE))
        return -1;
    return n;
}

static void input(struct chip *c, unsigned n, bool level)
{
    uint8_t bit = 1u << n;
    if (level && !(c->lines & bit))
        c->irr |= bit;
    if (!level)
        c->irr &= ~bit;
    c->lines = level ? c->lines | bit : c->lines & ~bit;
}

static void refresh(struct pic *p) { input(&p->regs.chip[0], CASCADE, winner(&p->regs.chip[1]) >= 0); }

/* The 8259 drops its output after an acknowledge, so that what is left makes a new edge at the master. */
static void refresh_after_ack(struct pic *p)
{
    input(&p->regs.chip[0], CASCADE, false);
    refresh(p);
}

static void drive(struct pic *p)
{
    for (bool first = true, level = false;; first = false) {
        pthread_mutex_lock(&p->device.lock);
        bool now = winner(&p->regs.chip[0]) >= 0;
        pthread_mutex_unlock(&p->device.lock);
        if (!first && now == level)
            return;
        level = now;
        dp_irq_set(&p->intr, level);
    }
}

void dp_pic_input(void *opaque, unsigned n, bool level)
{
    struct pic *p = opaque;
    if (n > 15 || n == CASCADE)
        return;
    pthread_mutex_lock(&p->device.lock);
    bool changed = level != (p->regs.chip[n / 8].lines >> (n & 7) & 1);
    input(&p->regs.chip[n / 8], n & 7, level);
    refresh(p);
    pthread_mutex_unlock(&p->device.lock);
    if (changed)
        drive(p);
}

static void serve(struct chip *c, unsigned n)
{
    c->irr &= ~(1u << n);
    if (!c->auto_eoi)
        c->isr |= 1u << n;
    else if (c->rotate_auto)
        c->first = (n + 1) & 7;
}

int dp_pic_ack(void *opaque)
{
    struct pic *p = opaque;
    struct chip *master = &p->regs.chip[0], *slave = &p->regs.chip[1];
    pthread_mutex_lock(&p->device.lock);
    int n = winner(master), vector = master->base + (n < 0 ? 7 : n);
    if (n >= 0)
        serve(master, n);
    if (n == CASCADE) {
        int s = winner(slave);
        vector = slave->base + (s < 0 ? 7 : s);
        if (s >= 0)
            serve(slave, s);
        refresh_after_ack(p);
    }
    pthread_mutex_unlock(&p->device.lock);
    drive(p);
    return vector;
}

/* ---- command words ---- */

static void icw1(struct chip *c, uint8_t v)
{
    uint8_t elcr = c->elcr, lines = c->lines;
    *c = (struct chip){.elcr = elcr, .lines = lines, .step = 2, .base = c->base};
    c->has_icw4 = v & 1;
    c->single = v & 2;
}

static void ocw2(struct chip *c, uint8_t v)
{
    unsigned n = v & 7;
    bool rotate = v & 0x80, specific = v & 0x40, eoi = v & 0x20;
    if (!eoi) {
        if (rotate && specific)
            c->first = (n + 1) & 7;
        else if (!specific)
            c->rotate_auto = rotate;
        return;
    }
    if (!specific) {
        unsigned r = rank(c, c->special_mask ? c->isr & ~c->imr : c->isr);
        if (r == 8)
            return;
        n = (c->first + r) & 7;
    }
    c->isr &= ~(1u << n);
    if (rotate)
        c->first = (n + 1) & 7;
}

static void ocw3(struct chip *c, uint8_t v)
{
    if (v & 0x40)
        c->special_mask = v & 0x20;
    c->poll = v & 4;
    if (v & 2)
        c->read_isr = v & 1;
}

static void write_odd(struct chip *c, uint8_t v)
{
    switch (c->step) {
    case 2:
        c->base = v & 0xf8;
        c->step = c->single ? (c->has_icw4 ? 4 : 0) : 3;
        break;
    case 3: /* which input the slave is on: it is soldered to 2 */
        c->step = c->has_icw4 ? 4 : 0;
        break;
    case 4:
        c->auto_eoi = v & 2;
        c->fully_nested = v & 0x10;
        c->step = 0;
        break;
    default:
        c->imr = v;
    }
}

static void write_chip(struct pic *p, unsigned which, uint64_t offset, uint8_t v)
{
    struct chip *c = &p->regs.chip[which];
    pthread_mutex_lock(&p->device.lock);
    if (offset)
        write_odd(c, v);
    else if (v & 0x10)
        icw1(c, v);
    else if (v & 8)
        ocw3(c, v);
    else
        ocw2(c, v);
    refresh(p);
    pthread_mutex_unlock(&p->device.lock);
    drive(p);
}

static uint8_t read_chip(struct pic *p, unsigned which, uint64_t offset)
{
    struct chip *c = &p->regs.chip[which];
    uint8_t v;
    pthread_mutex_lock(&p->device.lock);
    bool polled = c->poll;
    if (polled) { /* the read is the acknowledge */
        int n = winner(c);
        c->poll = false;
        v = n < 0 ? 0 : 0x80 | n;
        if (n >= 0)
            serve(c, n);
        if (which)
            refresh_after_ack(p);
    } else {
        v = offset ? c->imr : c->read_isr ? c->isr : requests(c);
    }
    pthread_mutex_unlock(&p->device.lock);
    if (polled)
        drive(p);
    return v;
}

static uint64_t read_master(void *opaque, uint64_t offset, unsigned size) { return read_chip(opaque, 0, offset); }
static uint64_t read_slave(void *opaque, uint64_t offset, unsigned size) { return read_chip(opaque, 1, offset); }
static void write_master(void *opaque, uint64_t offset, uint64_t value, unsigned size) { write_chip(opaque, 0, offset, (uint8_t)value); }
static void write_slave(void *opaque, uint64_t offset, uint64_t value, unsigned size) { write_chip(opaque, 1, offset, (uint8_t)value); }

static uint64_t read_elcr(void *opaque, uint64_t offset, unsigned size)
{
    struct pic *p = opaque;
    pthread_mutex_lock(&p->device.lock);
    uint8_t v = p->regs.chip[offset & 1].elcr;
    pthread_mutex_unlock(&p->device.lock);
    return v;
}

static void write_elcr(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pic *p = opaque;
    pthread_mutex_lock(&p->device.lock);
    p->regs.chip[offset & 1].elcr = value & elcr_mask[offset & 1];
    refresh(p);
    pthread_mutex_unlock(&p->device.lock);
    drive(p);
}

static const struct dp_window_ops master_ops = {.name = "pic", .read = read_master, .write = write_master, .min_size = 1, .max_size = 1};
static const struct dp_window_ops slave_ops = {.name = "pic2", .read = read_slave, .write = write_slave, .min_size = 1, .max_size = 1};
static const struct dp_window_ops elcr_ops = {.name = "elcr", .read = read_elcr, .write = write_elcr, .min_size = 1, .max_size = 1};
static const struct dp_window_spec windows[] = {
    {"master", 2, &master_ops, true},
    {"slave", 2, &slave_ops, true},
    {"elcr", 2, &elcr_ops, true},
};

/* ---- life ---- */

static const struct dp_field chip_fields[] = {
    DP_FIELD_U8(struct chip, irr, 1, 0, 0),          DP_FIELD_U8(struct chip, lines, 2, 0, 0),
    DP_FIELD_U8(struct chip, imr, 3, 0, 0),          DP_FIELD_U8(struct chip, isr, 4, 0, 0),
    DP_FIELD_U8(struct chip, elcr, 5, 0, 0xfe),      DP_FIELD_U8(struct chip, base, 6, 0, 0xf8),
    DP_FIELD_U8(struct chip, first, 7, 0, 7),        DP_FIELD_U8(struct chip, step, 8, 0, 7),
    DP_FIELD_BOOL(struct chip, has_icw4, 9, 0),      DP_FIELD_BOOL(struct chip, single, 10, 0),
    DP_FIELD_BOOL(struct chip, read_isr, 11, 0),     DP_FIELD_BOOL(struct chip, poll, 12, 0),
    DP_FIELD_BOOL(struct chip, special_mask, 13, 0), DP_FIELD_BOOL(struct chip, fully_nested, 14, 0),
    DP_FIELD_BOOL(struct chip, auto_eoi, 15, 0),     DP_FIELD_BOOL(struct chip, rotate_auto, 16, 0),
};
static const struct dp_state_table chip_table = DP_STATE_TABLE(struct chip, "8259", chip_fields);
static const struct dp_field fields[] = {DP_FIELD_STRUCTS(struct pic_regs, chip, 1, &chip_table)};
static const struct dp_state_table state = DP_STATE_TABLE(struct pic_regs, "pic", fields);

void dp_pic_wire(struct dp_device *d, struct dp_irq intr) { ((struct pic *)d)->intr = intr; }

static void reset(struct dp_device *d) { drive((struct pic *)d); }

const struct dp_device_class dp_pic_class = {
    .name = "pic",
    .summary = "pair of 8259A interrupt controllers",
    .size = sizeof(struct pic),
    .regs_offset = offsetof(struct pic, regs),
    .state = &state,
    .windows = windows,
    .window_count = DP_ARRAY_LEN(windows),
    .reset = reset,
    .post_load = reset,
};
