/* devices/pci/host.c - the host bridge: both ways to configuration space, INTx lines, the reset control register.
 *
 * Model: one bus of 32 devices of up to 8 functions; device 0 function 0 is the bridge itself. Mechanism #1: a dword at port 0xcf8
 * selects, 0xcfc-0xcff
 * access the selected dword by 1, 2 or 4 bytes. Narrow accesses to 0xcf8 are no configuration accesses; 0xcf9 is the chipset's reset
 * control register, which is in this window because a dword at 0xcf8 must come through whole. ECAM: 4 KiB of memory per function.
 * Each interrupt line (GSIs 16-23, or a chipset's PIRQs) is the OR of the pins routed to it.
 * Source: PCI Local Bus 3.0 section 3.2.2.3.2; PCI Express Base 3.0 section 7.2.2; Intel ICH9 datasheet 13.7.5 (RST_CNT).
 */
#include "devices/pci/pci.h"

#define DEVICES 32
#define LINES 8
#define ECAM_SIZE (1ull << 20)
#define ADDRESS_MASK 0x80fffffcu
enum { RESET_SYSTEM = 2, RESET_CPU = 4, RESET_FULL = 8 };

struct host_regs {
    uint32_t config_address;
    uint8_t reset_control;
    struct dp_pci_regs pci;
};

struct dp_pci_host {
    struct dp_device device;
    struct host_regs regs;
    struct dp_pci_function bridge;
    struct dp_pci_function *function[DEVICES][DP_PCI_FUNCTIONS];
    struct dp_irq line[LINES];
    unsigned (*route)(unsigned device, unsigned pin); /* which line */
    uint8_t asserted[LINES][DEVICES];  /* bit per function; follows from the functions' state */
    uint32_t generation[LINES];
};

static const struct dp_field host_fields[] = {
    DP_FIELD_U32(struct host_regs, config_address, 1, 0, ADDRESS_MASK),
    DP_FIELD_U8(struct host_regs, reset_control, 2, 0, RESET_SYSTEM | RESET_CPU | RESET_FULL),
    DP_FIELD_STRUCT(struct host_regs, pci, 3, &dp_pci_regs_table),
};
static const struct dp_state_table host_table = DP_STATE_TABLE(struct host_regs, "pci-host", host_fields);

/* ---- configuration accesses ---- */

static struct dp_pci_function *find(struct dp_pci_host *h, unsigned device, unsigned function)
{
    pthread_mutex_lock(&h->device.lock);
    struct dp_pci_function *f = h->function[device][function];
    pthread_mutex_unlock(&h->device.lock);
    return f;
}

/* What config_address selects; NULL when it selects nothing. */
static struct dp_pci_function *selected(struct dp_pci_host *h, unsigned *reg)
{
    pthread_mutex_lock(&h->device.lock);
    uint32_t a = h->regs.config_address;
    pthread_mutex_unlock(&h->device.lock);
    *reg = a & 0xfc;
    return (a >> 31) && !(a >> 16 & 0xff) ? find(h, a >> 11 & 31, a >> 8 & 7) : NULL;
}

static uint64_t ports_read(void *opaque, uint64_t offset, unsigned size)
{
    struct dp_pci_host *h = opaque;
    uint64_t value = dp_mask_bytes(size);
    if (offset >= 4) {
        unsigned reg;
        struct dp_pci_function *f = selected(h, &reg);
        return f ? dp_pci_config_read(f, reg + (offset - 4), size) : value;
    }
    pthread_mutex_lock(&h->device.lock);
    if (offset == 0 && size == 4)
        value = h->regs.config_address;
    else if (offset == 1 && size == 1)
        value = h->regs.reset_control;
    pthread_mutex_unlock(&h->device.lock);
    return value;
}

static void ports_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct dp_pci_host *h = opaque;
    if (offset >= 4) {
        unsigned reg;
        struct dp_pci_function *f = selected(h, &reg);
        if (f)
            dp_pci_config_write(f, reg + (offset - 4), value, size);
        return;
    }
    bool reset = false;
    pthread_mutex_lock(&h->device.lock);
    if (offset == 0 && size == 4) {
        h->regs.config_address = value & ADDRESS_MASK;
    } else if (offset == 1 && size == 1) {
        reset = (value & RESET_CPU) && !(h->regs.reset_control & RESET_CPU);
        h->regs.reset_control = value & (RESET_SYSTEM | RESET_CPU | RESET_FULL);
    }
    pthread_mutex_unlock(&h->device.lock);
    const struct dp_vm_sink *vm = &h->device.env->vm;
    if (reset && vm->request)
        vm->request(vm->opaque, DP_VM_RESET, 0);
}

static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned size)
{
    struct dp_pci_function *f = offset < ECAM_SIZE ? find(opaque, offset >> 15 & 31, offset >> 12 & 7) : NULL;
    return f ? dp_pci_config_read(f, offset & 0xfff, size) : dp_mask_bytes(size);
}

static void ecam_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct dp_pci_function *f = offset < ECAM_SIZE ? find(opaque, offset >> 15 & 31, offset >> 12 & 7) : NULL;
    if (f)
        dp_pci_config_write(f, offset & 0xfff, value, size);
}

static const struct dp_window_ops ports_ops = { "pci-config", ports_read, ports_write, 1, 4 };
const struct dp_window_ops dp_pci_ecam_ops = { "pci-ecam", ecam_read, ecam_write, 1, 4 };
static const struct dp_window_spec host_windows[] = {
    [DP_PCI_WINDOW_PORTS] = { "config", 8, &ports_ops, true },
    [DP_PCI_WINDOW_ECAM] = { "ecam", ECAM_SIZE, &dp_pci_ecam_ops, false },
};

/* ---- interrupts ---- */

unsigned dp_pci_gsi(unsigned device, unsigned pin) { return 16 + ((device + pin - 1) & 7); }
unsigned dp_pci_pirq(unsigned device, unsigned pin) { return (device + pin + 2) & 3; }

/* Whether any pin pulls the line; lock held. */
static bool any(const struct dp_pci_host *h, unsigned n)
{
    uint8_t all = 0;
    for (unsigned i = 0; i < DEVICES; i++)
        all |= h->asserted[n][i];
    return all;
}

void dp_pci_host_intx(struct dp_pci_host *h, unsigned device, unsigned function, unsigned pin, bool level)
{
    unsigned n = h->route(device, pin) % LINES;
    pthread_mutex_lock(&h->device.lock);
    h->asserted[n][device] = (uint8_t)((h->asserted[n][device] & ~(1u << function)) | (unsigned)level << function);
    h->generation[n]++;
    bool stale = true;
    while (stale) { /* the line is driven without lock: look whether it is still the right level */
        uint32_t generation = h->generation[n];
        bool high = any(h, n);
        pthread_mutex_unlock(&h->device.lock);
        dp_irq_set(&h->line[n], high);
        pthread_mutex_lock(&h->device.lock);
        stale = generation != h->generation[n];
    }
    pthread_mutex_unlock(&h->device.lock);
}

/* ---- life cycle ---- */

struct dp_pci_host *dp_pci_host_of(struct dp_device *host) { return DP_CONTAINER_OF(host, struct dp_pci_host, device); }

static unsigned direct(unsigned device, unsigned pin) { return dp_pci_gsi(device, pin) - 16; }

void dp_pci_host_wire_lines(struct dp_device *host, const struct dp_irq *line, unsigned count,
                            unsigned (*route)(unsigned device, unsigned pin))
{
    struct dp_pci_host *h = dp_pci_host_of(host);
    memcpy(h->line, line, count * sizeof(*line));
    h->route = route;
}

void dp_pci_host_wire(struct dp_device *host, const struct dp_irq gsi[8])
{
    dp_pci_host_wire_lines(host, gsi, LINES, direct);
}

void dp_pci_host_wire_pirqs(struct dp_device *host, const struct dp_irq pirq[4])
{
    dp_pci_host_wire_lines(host, pirq, 4, dp_pci_pirq);
}

struct dp_pci_function *dp_pci_host_bridge(struct dp_device *host) { return &dp_pci_host_of(host)->bridge; }

int dp_pci_plug(struct dp_pci_host *h, struct dp_pci_function *f, unsigned device, struct dp_error *e)
{
    return dp_pci_plug_function(h, f, device, 0, e);
}

int dp_pci_plug_function(struct dp_pci_host *h, struct dp_pci_function *f, unsigned device, unsigned function, struct dp_error *e)
{
    if (device < 1 || device >= DEVICES || function >= DP_PCI_FUNCTIONS)
        return dp_error_set(e, -EINVAL, "pci: there is no slot %u.%u; slots are 1 to %d", device, function, DEVICES - 1);
    if (f->host)
        return dp_error_set(e, -EBUSY, "pci: the function is in slot %u already", f->device);
    pthread_mutex_lock(&h->device.lock);
    bool taken = h->function[device][function];
    if (!taken)
        h->function[device][function] = f;
    pthread_mutex_unlock(&h->device.lock);
    if (taken)
        return dp_error_set(e, -EBUSY, "pci: slot %u is taken; use another one", device);
    pthread_mutex_lock(f->lock);
    f->device = (uint8_t)device;
    f->function = (uint8_t)function;
    f->host = h;
    pthread_mutex_unlock(f->lock);
    dp_pci_function_post_load(f);
    return 0;
}

uint32_t dp_pci_slots_taken(struct dp_pci_host *h)
{
    uint32_t taken = 0;
    pthread_mutex_lock(&h->device.lock);
    for (unsigned i = 0; i < DEVICES * DP_PCI_FUNCTIONS; i++)
        taken |= (uint32_t)(h->function[i / DP_PCI_FUNCTIONS][i % DP_PCI_FUNCTIONS] != NULL) << i / DP_PCI_FUNCTIONS;
    pthread_mutex_unlock(&h->device.lock);
    return taken;
}

void dp_pci_unplug(struct dp_pci_function *f)
{
    struct dp_pci_host *h = f->host;
    if (!h)
        return;
    dp_pci_intx(f, false);
    pthread_mutex_lock(&h->device.lock);
    h->function[f->device][f->function] = NULL;
    pthread_mutex_unlock(&h->device.lock);
    pthread_mutex_lock(f->lock);
    f->host = NULL;
    pthread_mutex_unlock(f->lock);
    dp_pci_function_post_load(f); /* nothing decodes without a host */
}

static int host_init(struct dp_device *d, struct dp_error *e)
{
    struct dp_pci_host *h = dp_pci_host_of(d);
    static const struct dp_pci_id id = { .vendor = 0x1b36, .device = 0x0008, .class_code = 0x060000 };
    dp_pci_function_init(&h->bridge, &h->regs.pci, &id, d->env, &d->lock);
    h->bridge.host = h;
    if (!h->route)
        h->route = direct;
    h->function[0][0] = &h->bridge;
    return 0;
}

static void host_reset(struct dp_device *d)
{
    dp_pci_function_reset(&dp_pci_host_of(d)->bridge);
}

static void host_post_load(struct dp_device *d)
{
    struct dp_pci_function *f = &dp_pci_host_of(d)->bridge;
    dp_pci_function_post_load(f);
    if (f->config_changed)
        f->config_changed(f);
}

const struct dp_device_class dp_pci_host_class = {
    .name = "pci-host",
    .summary = "PCI host bridge: configuration by ports and ECAM, INTx routing",
    .size = sizeof(struct dp_pci_host),
    .regs_offset = offsetof(struct dp_pci_host, regs),
    .state = &host_table,
    .windows = host_windows,
    .window_count = DP_ARRAY_LEN(host_windows),
    .init = host_init,
    .reset = host_reset,
    .post_load = host_post_load,
};
