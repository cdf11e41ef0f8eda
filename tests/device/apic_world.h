/* apic_world.h - local APICs on a bus with processors that only take notes. For test_lapic.c and test_ioapic.c. */
#ifndef DP_TESTS_APIC_WORLD_H
#define DP_TESTS_APIC_WORLD_H

#include "devices/intc/lapic.h"
#include "tests/device/conformance.h"

#define WORLD_CPUS 4
#define WORLD_TSC_KHZ 2500000u

struct note { /* one processor */
    struct apic_world *world;
    atomic_int intr;
    unsigned nmi, smi, init, sipi, sipi_vector;
    int64_t tsc_offset;
};

struct apic_world {
    struct conformance_world base;
    struct dp_apic_bus bus;
    struct dp_device *cpu[WORLD_CPUS];
    struct note note[WORLD_CPUS];
};

static inline void world_line(void *opaque, enum dp_lapic_line line, unsigned value)
{
    struct note *n = opaque;
    switch (line) {
    case DP_LAPIC_INTR:
        atomic_store(&n->intr, value);
        break;
    case DP_LAPIC_NMI:
        n->nmi++;
        break;
    case DP_LAPIC_SMI:
        n->smi++;
        break;
    case DP_LAPIC_INIT:
        n->init++;
        break;
    case DP_LAPIC_SIPI:
        n->sipi++;
        n->sipi_vector = value;
        break;
    }
}

static inline uint64_t world_tsc(void *opaque)
{
    struct note *n = opaque;
    return (uint64_t)((unsigned __int128)dp_clock_now(n->world->base.env.clock) * WORLD_TSC_KHZ / 1000000) + n->tsc_offset;
}

/* adjust may be NULL; called for each processor before its init. */
static inline void apic_world_init(struct apic_world *w, void (*adjust)(unsigned i, struct dp_lapic_wires *))
{
    struct dp_error e = {0};
    memset(w, 0, sizeof(*w));
    conformance_world_init(&w->base);
    for (unsigned i = 0; i < WORLD_CPUS; i++) {
        w->note[i].world = w;
        struct dp_lapic_wires wires = {
            .bus = &w->bus,
            .cpu = {world_line, &w->note[i]},
            .id = i,
            .bsp = i == 0,
            .tsc = world_tsc,
            .tsc_opaque = &w->note[i],
            .tsc_khz = WORLD_TSC_KHZ,
        };
        if (adjust)
            adjust(i, &wires);
        w->cpu[i] = dp_device_alloc(&dp_lapic_class, "lapic", &w->base.env);
        dp_lapic_wire(w->cpu[i], &wires);
        assert_ok(dp_device_init(w->cpu[i], &e), e);
        dp_device_resume(w->cpu[i]);
    }
}

static inline void apic_world_fini(struct apic_world *w)
{
    for (unsigned i = 0; i < WORLD_CPUS; i++)
        dp_device_free(w->cpu[i]);
    assert_int_equal(w->bus.count, 0);
    conformance_world_fini(&w->base);
}

static inline uint32_t rd(struct dp_device *d, unsigned offset) { return dp_lapic_read(d, offset, 4); }
static inline void wr(struct dp_device *d, unsigned offset, uint32_t value) { dp_lapic_write(d, offset, value, 4); }
static inline void enable(struct dp_device *d) { wr(d, 0xf0, 0x1ff); }
static inline void enable_all(struct apic_world *w)
{
    for (unsigned i = 0; i < WORLD_CPUS; i++)
        enable(w->cpu[i]);
}
static inline void ipi(struct dp_device *d, uint8_t destination, uint32_t low)
{
    wr(d, 0x310, (uint32_t)destination << 24);
    wr(d, 0x300, low);
}
/* The processor takes an interrupt: the line must agree with what comes. */
static inline int take(struct apic_world *w, unsigned i)
{
    assert_int_equal(w->note[i].intr, dp_lapic_interrupt_pending(w->cpu[i]));
    int v = dp_lapic_interrupt_ack(w->cpu[i]);
    assert_int_equal(w->note[i].intr, dp_lapic_interrupt_pending(w->cpu[i]));
    return v;
}
static inline void eoi(struct dp_device *d) { wr(d, 0xb0, 0); }
/* Takes and ends vector at processor i. */
static inline void expect(struct apic_world *w, unsigned i, int vector)
{
    assert_int_equal(take(w, i), vector);
    if (vector >= 0)
        eoi(w->cpu[i]);
}
static inline void enter_x2apic(struct dp_device *d)
{
    uint64_t base;
    assert_true(dp_lapic_msr_read(d, 0x1b, &base));
    assert_true(dp_lapic_msr_write(d, 0x1b, base | 1 << 10));
}
static inline uint64_t rdmsr(struct dp_device *d, uint32_t msr)
{
    uint64_t v = 0xdead;
    assert_true(dp_lapic_msr_read(d, msr, &v));
    return v;
}

#endif
