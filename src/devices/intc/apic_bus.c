/* apic_bus.c - who gets an interrupt message (SDM vol. 3, 11.6.2, 11.11, 11.12.9-10): matching, arbitration, shorthands, MSI.
 *
 * Matching reads each target's mode, ID, LDR and DFR without its lock: a message that overlaps a change of those goes by one or the other.
 */
#include "devices/intc/lapic_internal.h"

#define EVERYBODY 0xffffffffu

/* ICR fields */
#define ICR_VECTOR(v) ((uint8_t)(v))
#define ICR_MODE(v) ((v) >> 8 & 7)
#define ICR_LOGICAL (1u << 11)
#define ICR_ASSERT (1u << 14)
#define ICR_LEVEL (1u << 15)
#define ICR_SHORTHAND(v) ((v) >> 18 & 3)
enum { TO_DESTINATION, TO_SELF, TO_ALL, TO_OTHERS };

static bool matches(struct dp_lapic *l, const struct dp_apic_message *m)
{
    struct dp_lapic_regs *r = &l->regs;
    bool x2 = lapic_x2(l);
    uint32_t d = m->destination;
    if (!lapic_on(l))
        return false;
    if (d == (m->wide ? EVERYBODY : 0xff) && !(x2 && m->logical && !m->wide))
        return true;
    if (!m->logical)
        return x2 ? d == l->wires.id : d == r->id >> 24;
    if (x2) /* cluster in the upper half, a bit per member in the lower; eight bits reach members 0-7 of cluster 0 */
        return d >> 16 == l->wires.id >> 4 && (d & 1u << (l->wires.id & 0xf));
    uint32_t ldr = r->ldr >> 24, model = r->dfr >> 28;
    if (d > 0xff)
        return false;
    if (model == 0xf)
        return d & ldr;
    if (model == 0)
        return (d >> 4 == ldr >> 4 || d >> 4 == 0xf) && (d & ldr & 0xf);
    return false;
}

static bool deliver(struct dp_lapic *l, const struct dp_apic_message *m)
{
    if (m->mode == DP_APIC_FIXED || m->mode == DP_APIC_LOWEST)
        return lapic_accept(l, m->vector, m->level);
    return lapic_signal(l, m->mode, m->vector);
}

/* Lowest priority: the smallest processor priority class among those that take interrupts. Equal ones take turns by vector, which spreads
 * the vectors and keeps each at one processor's cache, and needs no state. */
static unsigned send_lowest(struct dp_apic_bus *bus, const struct dp_apic_message *m, const struct dp_lapic *except)
{
    struct dp_lapic *best = NULL;
    for (unsigned i = 0; i < bus->count; i++) {
        struct dp_lapic *l = bus->cpu[(m->vector + i) % bus->count];
        if (l == except || !matches(l, m) || !(atomic_load(&l->regs.svr) & SVR_ENABLE))
            continue;
        if (!best || atomic_load(&l->ppr) >> 4 < atomic_load(&best->ppr) >> 4)
            best = l;
    }
    return best ? deliver(best, m) : 0;
}

unsigned dp_apic_bus_send(struct dp_apic_bus *bus, const struct dp_apic_message *m)
{
    unsigned taken = 0;
    if (m->mode == DP_APIC_RESERVED)
        return 0;
    if (m->mode == DP_APIC_LOWEST)
        return send_lowest(bus, m, NULL);
    /* Most messages go to one processor, whose id is its index. */
    if (!m->logical && m->destination < bus->count && m->destination != 0xff && matches(bus->cpu[m->destination], m))
        return deliver(bus->cpu[m->destination], m);
    for (unsigned i = 0; i < bus->count; i++)
        if (matches(bus->cpu[i], m))
            taken += deliver(bus->cpu[i], m);
    return taken;
}

void apic_bus_send_icr(struct dp_lapic *from, uint64_t icr, bool x2)
{
    struct dp_apic_bus *bus = from->wires.bus;
    unsigned mode = ICR_MODE(icr), to = ICR_SHORTHAND(icr);
    bool level = icr & ICR_LEVEL;
    struct dp_apic_message m = {
        .destination = x2 ? (uint32_t)(icr >> 32) : (uint32_t)(icr >> 56),
        .vector = ICR_VECTOR(icr),
        .mode = mode,
        .logical = icr & ICR_LOGICAL,
        .wide = x2,
    };
    if (mode == DP_APIC_RESERVED || mode == DP_APIC_EXTINT)
        return;
    /* INIT level de-assert once synchronised arbitration IDs, which are gone. */
    if (mode == DP_APIC_INIT && level && !(icr & ICR_ASSERT))
        return;
    if ((mode == DP_APIC_FIXED || mode == DP_APIC_LOWEST) && m.vector < 16) {
        lapic_error(from, ESR_SEND_ILLEGAL);
        return;
    }
    /* Nobody may start over or start itself (SDM table 11-3). */
    if ((to == TO_SELF || to == TO_ALL) && (mode == DP_APIC_INIT || mode == DP_APIC_SIPI)) {
        dp_trace_guest(from->device.env->trace, "%s: INIT or SIPI to itself is ignored", from->device.id);
        return;
    }
    if (to == TO_SELF) {
        deliver(from, &m);
        return;
    }
    if (!bus)
        return;
    if (to == TO_DESTINATION) {
        dp_apic_bus_send(bus, &m);
        return;
    }
    m.destination = EVERYBODY;
    m.wide = true;
    m.logical = false;
    if (mode == DP_APIC_LOWEST) {
        send_lowest(bus, &m, to == TO_OTHERS ? from : NULL);
        return;
    }
    for (unsigned i = 0; i < bus->count; i++)
        if ((to == TO_ALL || bus->cpu[i] != from) && matches(bus->cpu[i], &m))
            deliver(bus->cpu[i], &m);
}

void dp_apic_bus_msi(void *opaque, uint64_t address, uint32_t data)
{
    struct dp_apic_bus *bus = opaque;
    if (address >> 20 != 0xfee)
        return;
    bool redirect = address & 1u << 3, level = data & 1u << 15;
    struct dp_apic_message m = {
        .destination = address >> 12 & 0xff,
        .vector = (uint8_t)data,
        .mode = data >> 8 & 7,
        .logical = address & 1u << 2,
        .level = level,
    };
    if (level && !(data & 1u << 14))
        return; /* the end of a level; only its beginning interrupts */
    if (redirect && m.logical && m.mode == DP_APIC_FIXED)
        m.mode = DP_APIC_LOWEST;
    dp_apic_bus_send(bus, &m);
}
