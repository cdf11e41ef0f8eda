/* devices/pci/hotplug.c - see hotplug.h. */
#include "devices/pci/hotplug.h"

struct hotplug_regs {
    uint32_t up, down, bus;
};

struct hotplug {
    struct dp_device device;
    struct hotplug_regs regs;
    uint32_t removable; /* what the machine has plugged: no state of this device */
    struct dp_pci_hotplug_wires wires;
};

static const struct dp_field fields[] = {
    DP_FIELD_U32(struct hotplug_regs, up, 1, 0, 0),
    DP_FIELD_U32(struct hotplug_regs, down, 2, 0, 0),
    DP_FIELD_U32(struct hotplug_regs, bus, 3, 0, 0),
};
static const struct dp_state_table state = DP_STATE_TABLE(struct hotplug_regs, "pci-hotplug", fields);

static struct hotplug *of(struct dp_device *d) { return DP_CONTAINER_OF(d, struct hotplug, device); }

/* ---- registers; parts of them are accessed as the part they are ---- */

static uint64_t read(void *opaque, uint64_t offset, unsigned size)
{
    struct hotplug *h = opaque;
    struct hotplug_regs *r = &h->regs;
    uint32_t v = 0;
    pthread_mutex_lock(&h->device.lock);
    bool here = !r->bus;
    switch (offset & ~3ull) {
    case DP_PCI_HOTPLUG_UP:
        v = here ? r->up & h->removable : 0;
        if (here && size == 4)
            r->up = 0;
        break;
    case DP_PCI_HOTPLUG_DOWN: v = here ? r->down & h->removable : 0; break;
    case DP_PCI_HOTPLUG_EJECT: break; /* features: none beyond the registers that everybody has */
    case DP_PCI_HOTPLUG_REMOVABLE: v = here ? h->removable : 0; break;
    case DP_PCI_HOTPLUG_BUS: v = r->bus; break;
    }
    pthread_mutex_unlock(&h->device.lock);
    return v >> (offset & 3) * 8 & dp_mask_bytes(size);
}

static void write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct hotplug *h = opaque;
    unsigned shift = (offset & 3) * 8;
    uint32_t v = (uint32_t)(value & dp_mask_bytes(size)) << shift, mask = (uint32_t)dp_mask_bytes(size) << shift, slots = 0;
    pthread_mutex_lock(&h->device.lock);
    switch (offset & ~3ull) {
    case DP_PCI_HOTPLUG_EJECT: slots = h->regs.bus ? 0 : v & h->removable; break;
    case DP_PCI_HOTPLUG_BUS: h->regs.bus = (h->regs.bus & ~mask) | v; break;
    }
    bool nothing = (offset & ~3ull) == DP_PCI_HOTPLUG_EJECT && v && !slots;
    pthread_mutex_unlock(&h->device.lock);
    if (nothing)
        dp_trace_guest(h->device.env->trace, "%s: nothing can be taken out of slots 0x%x", h->device.id, v);
    if (slots && h->wires.eject)
        h->wires.eject(h->wires.opaque, slots);
}

static const struct dp_window_ops ops = {.name = "pci-hotplug", .read = read, .write = write, .min_size = 1, .max_size = 4};
static const struct dp_window_spec windows[] = {{"registers", DP_PCI_HOTPLUG_SIZE, &ops, true}};

/* ---- the machine's side ---- */

void dp_pci_hotplug_wire(struct dp_device *d, const struct dp_pci_hotplug_wires *wires) { of(d)->wires = *wires; }

static void event(struct hotplug *h)
{
    if (h->wires.event)
        h->wires.event(h->wires.opaque);
}

void dp_pci_hotplug_plugged(struct dp_device *d, unsigned slot, bool tell)
{
    struct hotplug *h = of(d);
    pthread_mutex_lock(&d->lock);
    h->removable |= 1u << slot;
    h->regs.down &= ~(1u << slot);
    if (tell)
        h->regs.up |= 1u << slot;
    pthread_mutex_unlock(&d->lock);
    if (tell)
        event(h);
}

void dp_pci_hotplug_ask(struct dp_device *d, unsigned slot)
{
    struct hotplug *h = of(d);
    pthread_mutex_lock(&d->lock);
    h->regs.down |= h->removable & 1u << slot;
    pthread_mutex_unlock(&d->lock);
    event(h);
}

void dp_pci_hotplug_gone(struct dp_device *d, unsigned slot)
{
    struct hotplug *h = of(d);
    pthread_mutex_lock(&d->lock);
    h->removable &= ~(1u << slot);
    h->regs.up &= ~(1u << slot);
    h->regs.down &= ~(1u << slot);
    pthread_mutex_unlock(&d->lock);
}

uint32_t dp_pci_hotplug_asked(struct dp_device *d)
{
    pthread_mutex_lock(&d->lock);
    uint32_t asked = of(d)->regs.down & of(d)->removable;
    pthread_mutex_unlock(&d->lock);
    return asked;
}

uint32_t dp_pci_hotplug_removable(struct dp_device *d)
{
    pthread_mutex_lock(&d->lock);
    uint32_t removable = of(d)->removable;
    pthread_mutex_unlock(&d->lock);
    return removable;
}

const struct dp_device_class dp_pci_hotplug_class = {
    .name = "pci-hotplug",
    .summary = "PCI hotplug by ACPI",
    .size = sizeof(struct hotplug),
    .regs_offset = offsetof(struct hotplug, regs),
    .state = &state,
    .windows = windows,
    .window_count = DP_ARRAY_LEN(windows),
};
