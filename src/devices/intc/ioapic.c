/* ioapic.c - see ioapic.h. Under the lock messages are decided, after it they are sent. */
#include "devices/intc/ioapic.h"

enum { OFFSET_SELECT = 0x00, OFFSET_WINDOW = 0x10, OFFSET_EOI = 0x40 };
enum { REG_ID, REG_VERSION, REG_ARBITRATION, REG_TABLE = 0x10 };

#define VERSION (0x20u | (DP_IOAPIC_PINS - 1) << 16)

#define RTE_LOGICAL (1u << 11)
#define RTE_REMOTE_IRR (1u << 14)
#define RTE_LEVEL (1u << 15)
#define RTE_MASKED (1u << 16)
#define RTE_WRITABLE 0xff0000000001afffull

struct ioapic_regs {
    uint32_t id; /* bits 27-24 */
    uint8_t select;
    uint64_t table[DP_IOAPIC_PINS];
    uint32_t lines; /* asserted inputs */
};

struct ioapic {
    struct dp_device device;
    struct ioapic_regs regs;
    struct dp_apic_bus *bus;
    uint8_t id;
    uint32_t held; /* edges that came while paused */
    bool running;
};

/* Messages decided under the lock. */
struct outbox {
    unsigned count;
    uint8_t pin[DP_IOAPIC_PINS];
    struct dp_apic_message message[DP_IOAPIC_PINS];
};

static bool waits_for_eoi(uint64_t rte)
{
    return (rte & RTE_LEVEL) && ((rte >> 8 & 7) == DP_APIC_FIXED || (rte >> 8 & 7) == DP_APIC_LOWEST);
}

static void put(struct ioapic *a, struct outbox *o, unsigned pin)
{
    uint64_t rte = a->regs.table[pin];
    if (waits_for_eoi(rte))
        a->regs.table[pin] |= RTE_REMOTE_IRR;
    o->pin[o->count] = pin;
    o->message[o->count++] = (struct dp_apic_message){
        .destination = rte >> 56,
        .vector = (uint8_t)rte,
        .mode = rte >> 8 & 7,
        .logical = rte & RTE_LOGICAL,
        .level = waits_for_eoi(rte),
    };
}

/* A level pin that has something to say. */
static void check_level(struct ioapic *a, struct outbox *o, unsigned pin)
{
    uint64_t rte = a->regs.table[pin];
    if (a->running && (rte & RTE_LEVEL) && !(rte & (RTE_MASKED | RTE_REMOTE_IRR)) && (a->regs.lines >> pin & 1))
        put(a, o, pin);
}

static void send(struct ioapic *a, const struct outbox *o)
{
    for (unsigned i = 0; i < o->count; i++) {
        const struct dp_apic_message *m = &o->message[i];
        unsigned pin = o->pin[i];
        DP_TRACE(a->device.env->trace, DP_TRACE_IRQ, "%s: pin %u sends vector 0x%02x to 0x%02x", a->device.id, pin, m->vector,
                 m->destination);
        if ((a->bus ? dp_apic_bus_send(a->bus, m) : 0) || !m->level)
            continue;
        /* Nobody took it, so nobody will end it: the pin may try again when its line or entry changes. */
        pthread_mutex_lock(&a->device.lock);
        if ((uint8_t)a->regs.table[pin] == m->vector)
            a->regs.table[pin] &= ~(uint64_t)RTE_REMOTE_IRR;
        pthread_mutex_unlock(&a->device.lock);
    }
}

void dp_ioapic_input(void *opaque, unsigned n, bool level)
{
    struct ioapic *a = opaque;
    struct outbox o = {0};
    if (n >= DP_IOAPIC_PINS)
        return;
    pthread_mutex_lock(&a->device.lock);
    bool rising = level && !(a->regs.lines >> n & 1);
    a->regs.lines = (a->regs.lines & ~(1u << n)) | (uint32_t)level << n;
    uint64_t rte = a->regs.table[n];
    if (rte & RTE_LEVEL) {
        check_level(a, &o, n);
    } else if (rising && !(rte & RTE_MASKED)) { /* an edge on a masked pin is lost, says the datasheet */
        if (a->running)
            put(a, &o, n);
        else
            a->held |= 1u << n;
    }
    pthread_mutex_unlock(&a->device.lock);
    send(a, &o);
}

static void end_of_interrupt(void *opaque, uint8_t vector)
{
    struct ioapic *a = opaque;
    struct outbox o = {0};
    pthread_mutex_lock(&a->device.lock);
    for (unsigned i = 0; i < DP_IOAPIC_PINS; i++)
        if ((uint8_t)a->regs.table[i] == vector && (a->regs.table[i] & RTE_REMOTE_IRR)) {
            a->regs.table[i] &= ~(uint64_t)RTE_REMOTE_IRR;
            check_level(a, &o, i);
        }
    pthread_mutex_unlock(&a->device.lock);
    send(a, &o);
}

static uint32_t read_register(const struct ioapic_regs *r, unsigned reg)
{
    switch (reg) {
    case REG_ID:
    case REG_ARBITRATION:
        return r->id;
    case REG_VERSION:
        return VERSION;
    }
    if (reg >= REG_TABLE && reg < REG_TABLE + 2 * DP_IOAPIC_PINS)
        return (uint32_t)(r->table[(reg - REG_TABLE) / 2] >> (reg & 1) * 32);
    return 0;
}

static void write_register(struct ioapic *a, unsigned reg, uint32_t value, struct outbox *o)
{
    if (reg == REG_ID)
        a->regs.id = value & 0x0f000000;
    if (reg < REG_TABLE || reg >= REG_TABLE + 2 * DP_IOAPIC_PINS)
        return;
    unsigned pin = (reg - REG_TABLE) / 2, shift = (reg & 1) * 32;
    uint64_t rte = a->regs.table[pin], part = 0xffffffffull << shift;
    rte = (rte & (~part | RTE_REMOTE_IRR)) | ((uint64_t)value << shift & part & RTE_WRITABLE);
    /* An edge pin has no remote IRR: kernels switch a stuck pin to edge and back to clear it. */
    if (!waits_for_eoi(rte))
        rte &= ~(uint64_t)RTE_REMOTE_IRR;
    a->regs.table[pin] = rte;
    check_level(a, o, pin);
}

static uint64_t read(void *opaque, uint64_t offset, unsigned size)
{
    struct ioapic *a = opaque;
    uint32_t value = 0;
    pthread_mutex_lock(&a->device.lock);
    if ((offset & ~3ull) == OFFSET_SELECT)
        value = a->regs.select;
    else if ((offset & ~3ull) == OFFSET_WINDOW)
        value = read_register(&a->regs, a->regs.select);
    pthread_mutex_unlock(&a->device.lock);
    return value >> (offset & 3) * 8 & dp_mask_bytes(size);
}

static void write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct ioapic *a = opaque;
    struct outbox o = {0};
    if (offset == OFFSET_EOI) {
        end_of_interrupt(a, (uint8_t)value);
        return;
    }
    pthread_mutex_lock(&a->device.lock);
    if (offset == OFFSET_SELECT)
        a->regs.select = (uint8_t)value;
    else if (offset == OFFSET_WINDOW && size == 4)
        write_register(a, a->regs.select, (uint32_t)value, &o);
    pthread_mutex_unlock(&a->device.lock);
    send(a, &o);
}

static const struct dp_window_ops ops = {.name = "ioapic", .read = read, .write = write, .min_size = 1, .max_size = 4};
static const struct dp_window_spec windows[] = {{"registers", 0x1000, &ops, false}};

static const struct dp_field fields[] = {
    DP_FIELD_U32(struct ioapic_regs, id, 1, 0, 0x0f000000),
    DP_FIELD_U8(struct ioapic_regs, select, 2, 0, 0),
    DP_FIELD_ARRAY(struct ioapic_regs, table, 3, DP_KIND_U64, RTE_MASKED, RTE_WRITABLE | RTE_REMOTE_IRR),
    DP_FIELD_U32(struct ioapic_regs, lines, 4, 0, (1u << DP_IOAPIC_PINS) - 1),
};
static const struct dp_state_table state = DP_STATE_TABLE(struct ioapic_regs, "ioapic", fields);

void dp_ioapic_wire(struct dp_device *d, struct dp_apic_bus *bus, uint8_t id)
{
    struct ioapic *a = (struct ioapic *)d;
    a->bus = bus;
    a->id = id & 0xf;
}

static int init(struct dp_device *d, struct dp_error *e)
{
    struct ioapic *a = (struct ioapic *)d;
    if (a->bus) {
        a->bus->eoi = end_of_interrupt;
        a->bus->eoi_opaque = a;
    }
    return 0;
}

static void fini(struct dp_device *d)
{
    struct ioapic *a = (struct ioapic *)d;
    if (a->bus && a->bus->eoi_opaque == a)
        a->bus->eoi = NULL;
}

static void reset(struct dp_device *d)
{
    struct ioapic *a = (struct ioapic *)d;
    pthread_mutex_lock(&d->lock);
    a->regs.id = (uint32_t)a->id << 24;
    a->held = 0;
    pthread_mutex_unlock(&d->lock);
}

static void pause_(struct dp_device *d)
{
    struct ioapic *a = (struct ioapic *)d;
    pthread_mutex_lock(&d->lock);
    a->running = false;
    pthread_mutex_unlock(&d->lock);
}

static void resume(struct dp_device *d)
{
    struct ioapic *a = (struct ioapic *)d;
    struct outbox o = {0};
    pthread_mutex_lock(&d->lock);
    a->running = true;
    for (unsigned i = 0; i < DP_IOAPIC_PINS; i++) {
        if (a->regs.table[i] & RTE_LEVEL)
            check_level(a, &o, i);
        else if (a->held >> i & 1)
            put(a, &o, i);
    }
    a->held = 0;
    pthread_mutex_unlock(&d->lock);
    send(a, &o);
}

static void post_load(struct dp_device *d)
{
    struct ioapic *a = (struct ioapic *)d;
    pthread_mutex_lock(&d->lock);
    a->held = 0; /* belonged to what was before */
    pthread_mutex_unlock(&d->lock);
}

const struct dp_device_class dp_ioapic_class = {
    .name = "ioapic",
    .summary = "I/O APIC with 24 pins",
    .size = sizeof(struct ioapic),
    .regs_offset = offsetof(struct ioapic, regs),
    .state = &state,
    .windows = windows,
    .window_count = DP_ARRAY_LEN(windows),
    .init = init,
    .fini = fini,
    .reset = reset,
    .pause = pause_,
    .resume = resume,
    .post_load = post_load,
};
