/* devices/pci/pci.c - a PCI function: configuration space, BAR decoding, MSI, MSI-X, INTx.
 *
 * Model: bytes with a write mask; what the bytes mean is worked out after each write. Nothing calls out while the owner's lock is held:
 * BARs are mapped by one thread at a time (mapping_busy), which starts over when another changed a BAR meanwhile; the INTx level is
 * computed again when it may have changed since it was driven (intx_generation).
 * A vector is sent at once, or its pending bit is set while it is masked, the function is masked, or the function may not master the bus
 * (a message is a write to memory); it goes out when the obstacle does.
 * Source: PCI Local Bus 3.0 ch. 6.1-6.2 (header, BARs), 6.7 (capabilities), 6.8.1 (MSI), 6.8.2 (MSI-X).
 */
#include "devices/pci/pci.h"

enum { STATUS_INTX = 1 << 3, STATUS_CAPABILITIES = 1 << 4 };
enum { BAR_IO = 1, BAR_64 = 4, BAR_PREFETCHABLE = 8, ROM_ENABLE = 1 };
enum { CAP_MSIX = 0x11, MSIX_CONTROL = 2, MSIX_ENABLE = 0x8000, MSIX_FUNCTION_MASK = 0x4000 };
enum { CAP_MSI = 0x05, MSI_SIZE = 14, MSI_CONTROL = 2, MSI_ADDRESS = 4, MSI_DATA = 12, MSI_ENABLE = 1, MSI_64 = 0x80 };
enum { MSIX_BAR_SIZE = 4096, MSIX_PBA = 2048 };
_Static_assert(DP_PCI_MSIX_MAX * 16 <= MSIX_PBA && DP_PCI_MSIX_MAX <= 64, "table and pending bits must fit");

static const struct dp_field msix_fields[] = {
    DP_FIELD_U64(struct dp_pci_msix_entry, address, 1, 0, 0),
    DP_FIELD_U32(struct dp_pci_msix_entry, data, 2, 0, 0),
    DP_FIELD_U32(struct dp_pci_msix_entry, control, 3, 1, 1),
};
static const struct dp_state_table msix_table = DP_STATE_TABLE(struct dp_pci_msix_entry, "pci-msix", msix_fields);

static const struct dp_field pci_fields[] = {
    DP_FIELD_BYTES(struct dp_pci_regs, config, 1),
    DP_FIELD_STRUCTS(struct dp_pci_regs, msix, 2, &msix_table),
    DP_FIELD_U64(struct dp_pci_regs, msix_pending, 3, 0, 0),
    DP_FIELD_BOOL(struct dp_pci_regs, intx, 4, 0),
};
const struct dp_state_table dp_pci_regs_table = DP_STATE_TABLE(struct dp_pci_regs, "pci", pci_fields);

/* ---- construction ---- */

void dp_pci_set_config(struct dp_pci_function *f, unsigned offset, uint32_t value, unsigned size)
{
    memcpy(f->initial + offset, &value, size);
    memcpy(f->regs->config + offset, &value, size);
}

void dp_pci_function_init(struct dp_pci_function *f, struct dp_pci_regs *regs, const struct dp_pci_id *id, const struct dp_device_env *env,
                          pthread_mutex_t *lock)
{
    *f = (struct dp_pci_function){ .regs = regs, .env = env, .lock = lock, .cap_end = 0x40 };
    dp_pci_set_config(f, 0x00, id->vendor | (uint32_t)id->device << 16, 4);
    dp_pci_set_config(f, 0x08, id->revision | id->class_code << 8, 4);
    dp_pci_set_config(f, 0x2c, id->subsystem_vendor | (uint32_t)id->subsystem << 16, 4);
    dp_pci_set_config(f, DP_PCI_INTERRUPT_PIN, id->interrupt_pin, 1);
    dp_st16(f->write_mask + DP_PCI_COMMAND, 0x0140 | DP_PCI_COMMAND_MASTER | (id->interrupt_pin ? DP_PCI_COMMAND_INTX_DISABLE : 0));
    f->write_mask[0x0c] = 0xff; /* cache line size: means nothing here, but software expects to write it */
    f->write_mask[DP_PCI_INTERRUPT_LINE] = 0xff;
}

void dp_pci_add_bar(struct dp_pci_function *f, unsigned n, uint64_t size, bool io, bool is64, const struct dp_window_ops *ops, void *opaque)
{
    f->bar[n] = (struct dp_pci_bar){ .size = size, .io = io, .is64 = is64, .ops = ops, .opaque = opaque };
    unsigned offset = DP_PCI_BAR0 + n * 4;
    dp_pci_set_config(f, offset, io ? BAR_IO : is64 ? BAR_64 : 0, 4);
    dp_st32(f->write_mask + offset, (uint32_t)~(size - 1));
    if (is64)
        dp_st32(f->write_mask + offset + 4, (uint32_t)(~(size - 1) >> 32));
    f->write_mask[DP_PCI_COMMAND] |= io ? DP_PCI_COMMAND_IO : DP_PCI_COMMAND_MEMORY;
}

void dp_pci_add_ram_bar(struct dp_pci_function *f, unsigned n, struct dp_ram *ram, bool is64, bool prefetchable)
{
    dp_pci_add_bar(f, n, ram->size, false, is64, NULL, NULL);
    f->bar[n].ram = ram;
    f->bar[n].prefetchable = prefetchable;
    if (prefetchable)
        dp_pci_set_config(f, DP_PCI_BAR0 + n * 4, BAR_PREFETCHABLE | (is64 ? BAR_64 : 0), 4);
}

void dp_pci_add_rom(struct dp_pci_function *f, uint64_t size, const struct dp_window_ops *ops, void *opaque)
{
    f->bar[DP_PCI_ROM] = (struct dp_pci_bar){ .size = size, .ops = ops, .opaque = opaque };
    dp_st32(f->write_mask + DP_PCI_ROM_ADDRESS, (uint32_t)~(size - 1) | ROM_ENABLE);
    f->write_mask[DP_PCI_COMMAND] |= DP_PCI_COMMAND_MEMORY;
}

unsigned dp_pci_add_capability(struct dp_pci_function *f, uint8_t id, unsigned size)
{
    unsigned offset = f->cap_end;
    if (offset + size > 256)
        return 0;
    f->cap_end = DP_ALIGN_UP(offset + size, 4u);
    dp_pci_set_config(f, offset, id, 2); /* and no next one */
    dp_pci_set_config(f, f->last_cap ? f->last_cap + 1u : DP_PCI_CAPABILITIES, offset, 1);
    dp_pci_set_config(f, DP_PCI_STATUS, STATUS_CAPABILITIES, 2);
    f->last_cap = offset;
    return offset;
}

/* ---- what configuration space says; lock held ---- */

static unsigned command(const struct dp_pci_function *f) { return dp_ld16(f->regs->config + DP_PCI_COMMAND); }

static unsigned msix_control(const struct dp_pci_function *f)
{
    return f->msix_cap ? dp_ld16(f->regs->config + f->msix_cap + MSIX_CONTROL) : 0;
}

static bool msi_enabled(const struct dp_pci_function *f) { return f->msi_cap && (f->regs->config[f->msi_cap + MSI_CONTROL] & MSI_ENABLE); }

/* Where BAR n decodes now; false when nowhere. Address 0 and addresses that wrap (sizing writes ones) mean nowhere. */
static bool bar_decodes(const struct dp_pci_function *f, unsigned n, uint64_t *at)
{
    const struct dp_pci_bar *b = &f->bar[n];
    const uint8_t *reg = f->regs->config + (n == DP_PCI_ROM ? DP_PCI_ROM_ADDRESS : DP_PCI_BAR0 + n * 4);
    if (n == DP_PCI_ROM && !(*reg & ROM_ENABLE))
        return false;
    if (!b->size || !f->host || !(command(f) & (b->io ? DP_PCI_COMMAND_IO : DP_PCI_COMMAND_MEMORY)))
        return false;
    uint64_t limit = b->io ? 0x10000 : b->is64 ? 0 : 1ull << 32; /* 0: 2^64 */
    *at = (b->is64 ? dp_ld64(reg) : dp_ld32(reg)) & ~(b->size - 1);
    return *at && *at - 1 < limit - b->size - 1;
}

/* ---- effects, no lock held ---- */

static int map_bar(struct dp_space *s, struct dp_pci_bar *b, uint64_t at, struct dp_error *e)
{
    if (b->ram)
        return dp_space_map_ram(s, at, b->ram, 0, b->size, false, DP_PCI_BAR_PRIORITY, &b->mapping, e);
    return dp_space_map_window(s, at, b->size, b->ops, b->opaque, DP_PCI_BAR_PRIORITY, &b->mapping, e);
}

static void map_bars(struct dp_pci_function *f)
{
    pthread_mutex_lock(f->lock);
    f->mapping_again = true;
    if (f->mapping_busy) {
        pthread_mutex_unlock(f->lock);
        return;
    }
    f->mapping_busy = true;
    while (f->mapping_again) {
        f->mapping_again = false;
        for (unsigned n = 0; n <= DP_PCI_ROM; n++) {
            struct dp_pci_bar *b = &f->bar[n];
            uint64_t at = 0;
            bool wanted = bar_decodes(f, n, &at);
            if (wanted == b->mapped && (!wanted || at == b->mapped_at))
                continue;
            pthread_mutex_unlock(f->lock);
            struct dp_space *space = b->io ? f->env->ports : f->env->memory;
            if (b->mapped)
                dp_space_unmap(space, b->mapping);
            struct dp_error e = { 0 };
            b->mapped = wanted && !map_bar(space, b, at, &e);
            b->mapped_at = at;
            if (wanted && !b->mapped)
                dp_trace_guest(f->env->trace, "pci %02x.%u: BAR %u at 0x%llx cannot be mapped: %s", f->device, f->function, n,
                               (unsigned long long)at, e.text);
            else
                DP_TRACE(f->env->trace, DP_TRACE_PCI, "pci %02x.%u: BAR %u %s 0x%llx", f->device, f->function, n, wanted ? "at" : "off",
                         (unsigned long long)at);
            pthread_mutex_lock(f->lock);
        }
    }
    f->mapping_busy = false;
    pthread_mutex_unlock(f->lock);
}

static void drive_intx(struct dp_pci_function *f)
{
    bool stale = true;
    while (stale) {
        pthread_mutex_lock(f->lock);
        uint32_t generation = f->intx_generation;
        bool level = f->regs->intx && !(command(f) & DP_PCI_COMMAND_INTX_DISABLE) && !msi_enabled(f);
        struct dp_pci_host *host = f->host;
        unsigned pin = f->initial[DP_PCI_INTERRUPT_PIN];
        pthread_mutex_unlock(f->lock);
        if (!host || !pin)
            return;
        dp_pci_host_intx(host, f->device, f->function, pin, level);
        pthread_mutex_lock(f->lock);
        stale = generation != f->intx_generation;
        pthread_mutex_unlock(f->lock);
    }
}

/* Sends the pending vectors that may go now. */
static void send_pending(struct dp_pci_function *f)
{
    for (unsigned n = 0; n < f->msix_vectors; n++) {
        pthread_mutex_lock(f->lock);
        struct dp_pci_msix_entry entry = f->regs->msix[n];
        bool go = (f->regs->msix_pending >> n & 1) && !(entry.control & 1) && (command(f) & DP_PCI_COMMAND_MASTER) &&
                  (msix_control(f) & (MSIX_ENABLE | MSIX_FUNCTION_MASK)) == MSIX_ENABLE;
        if (go)
            f->regs->msix_pending &= ~(1ull << n);
        pthread_mutex_unlock(f->lock);
        if (go && f->env->msi.send)
            f->env->msi.send(f->env->msi.opaque, entry.address, entry.data);
    }
}

/* ---- configuration space ---- */

uint32_t dp_pci_config_read(struct dp_pci_function *f, unsigned offset, unsigned size)
{
    uint32_t value = 0;
    if (offset + size > DP_PCI_CONFIG_SIZE)
        return dp_mask_bytes(size);
    if (f->config_access && f->config_access(f, offset, size, &value, false))
        return value & dp_mask_bytes(size);
    pthread_mutex_lock(f->lock);
    memcpy(&value, f->regs->config + offset, size);
    if (f->regs->intx && offset <= DP_PCI_STATUS && offset + size > DP_PCI_STATUS)
        value |= (uint32_t)STATUS_INTX << (DP_PCI_STATUS - offset) * 8;
    pthread_mutex_unlock(f->lock);
    return value;
}

static bool touches(unsigned offset, unsigned size, unsigned reg, unsigned reg_size)
{
    return offset < reg + reg_size && offset + size > reg;
}

void dp_pci_config_write(struct dp_pci_function *f, unsigned offset, uint32_t value, unsigned size)
{
    if (offset + size > DP_PCI_CONFIG_SIZE || (f->config_access && f->config_access(f, offset, size, &value, true)))
        return;
    bool is_command = touches(offset, size, DP_PCI_COMMAND, 2);
    bool is_bar = touches(offset, size, DP_PCI_BAR0, DP_PCI_BARS * 4) || touches(offset, size, DP_PCI_ROM_ADDRESS, 4);
    bool is_msix = f->msix_cap && touches(offset, size, f->msix_cap + MSIX_CONTROL, 2);
    bool is_msi = f->msi_cap && touches(offset, size, f->msi_cap + MSI_CONTROL, 2);
    pthread_mutex_lock(f->lock);
    for (unsigned i = 0; i < size; i++) {
        uint8_t mask = f->write_mask[offset + i];
        f->regs->config[offset + i] = (f->regs->config[offset + i] & ~mask) | ((value >> i * 8) & mask);
    }
    if (is_command || is_msi)
        f->intx_generation++;
    pthread_mutex_unlock(f->lock);
    if (is_command || is_bar)
        map_bars(f);
    if (is_command || is_msi)
        drive_intx(f);
    bool is_watched = f->watch_first && touches(offset, size, f->watch_first, f->watch_last - f->watch_first + 1u);
    if ((is_command || is_msi || is_msix || is_watched) && f->config_changed)
        f->config_changed(f);
    if (is_command || is_msix)
        send_pending(f);
}

bool dp_pci_bus_master(const struct dp_pci_function *f)
{
    pthread_mutex_lock(f->lock);
    bool on = command(f) & DP_PCI_COMMAND_MASTER;
    pthread_mutex_unlock(f->lock);
    return on;
}

/* ---- interrupts ---- */

void dp_pci_intx(struct dp_pci_function *f, bool level)
{
    pthread_mutex_lock(f->lock);
    bool changed = f->regs->intx != level;
    f->regs->intx = level;
    f->intx_generation += changed;
    pthread_mutex_unlock(f->lock);
    if (changed)
        drive_intx(f);
}

void dp_pci_add_msi(struct dp_pci_function *f)
{
    unsigned cap = dp_pci_add_capability(f, CAP_MSI, MSI_SIZE);
    if (!cap)
        return;
    f->msi_cap = cap;
    dp_pci_set_config(f, cap + MSI_CONTROL, MSI_64, 2);
    f->write_mask[cap + MSI_CONTROL] = MSI_ENABLE;
    dp_st32(f->write_mask + cap + MSI_ADDRESS, ~3u);
    dp_st32(f->write_mask + cap + MSI_ADDRESS + 4, ~0u);
    dp_st16(f->write_mask + cap + MSI_DATA, 0xffff);
}

bool dp_pci_msi_enabled(const struct dp_pci_function *f)
{
    pthread_mutex_lock(f->lock);
    bool on = msi_enabled(f);
    pthread_mutex_unlock(f->lock);
    return on;
}

void dp_pci_msi_send(struct dp_pci_function *f)
{
    pthread_mutex_lock(f->lock);
    bool go = msi_enabled(f) && (command(f) & DP_PCI_COMMAND_MASTER);
    const uint8_t *cap = f->regs->config + f->msi_cap;
    uint64_t address = dp_ld64(cap + MSI_ADDRESS);
    uint32_t data = dp_ld16(cap + MSI_DATA);
    pthread_mutex_unlock(f->lock);
    if (go && f->env->msi.send)
        f->env->msi.send(f->env->msi.opaque, address, data);
}

bool dp_pci_msix_enabled(const struct dp_pci_function *f)
{
    pthread_mutex_lock(f->lock);
    bool on = msix_control(f) & MSIX_ENABLE;
    pthread_mutex_unlock(f->lock);
    return on;
}

void dp_pci_msix_send(struct dp_pci_function *f, unsigned vector)
{
    if (vector >= f->msix_vectors)
        return;
    pthread_mutex_lock(f->lock);
    struct dp_pci_msix_entry entry = f->regs->msix[vector];
    unsigned control = msix_control(f);
    bool go = (control & MSIX_ENABLE) && !(control & MSIX_FUNCTION_MASK) && !(entry.control & 1) && (command(f) & DP_PCI_COMMAND_MASTER);
    if ((control & MSIX_ENABLE) && !go)
        f->regs->msix_pending |= 1ull << vector;
    pthread_mutex_unlock(f->lock);
    if (go && f->env->msi.send)
        f->env->msi.send(f->env->msi.opaque, entry.address, entry.data);
}

/* The table is an array of { address, data, control }, 16 bytes each; software uses accesses of 4 or 8 bytes. */
static uint64_t msix_read(void *opaque, uint64_t offset, unsigned size)
{
    struct dp_pci_function *f = opaque;
    uint64_t value = 0;
    pthread_mutex_lock(f->lock);
    if (offset < f->msix_vectors * 16ull) {
        const struct dp_pci_msix_entry *m = &f->regs->msix[offset / 16];
        unsigned at = offset % 16;
        value = at < 8 ? m->address >> at * 8 : (m->data | (uint64_t)m->control << 32) >> (at - 8) * 8;
    } else if (offset >= MSIX_PBA && offset < MSIX_PBA + 8) {
        value = f->regs->msix_pending >> (offset - MSIX_PBA) * 8;
    }
    pthread_mutex_unlock(f->lock);
    return value & dp_mask_bytes(size);
}

static void msix_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct dp_pci_function *f = opaque;
    if (offset >= f->msix_vectors * 16ull)
        return;
    uint8_t bytes[16];
    pthread_mutex_lock(f->lock);
    struct dp_pci_msix_entry *m = &f->regs->msix[offset / 16];
    dp_st64(bytes, m->address);
    dp_st32(bytes + 8, m->data);
    dp_st32(bytes + 12, m->control);
    memcpy(bytes + offset % 16, &value, DP_MIN(size, 16 - offset % 16));
    m->address = dp_ld64(bytes);
    m->data = dp_ld32(bytes + 8);
    m->control = dp_ld32(bytes + 12) & 1;
    pthread_mutex_unlock(f->lock);
    send_pending(f);
}

static const struct dp_window_ops msix_ops = { "msix", msix_read, msix_write, 4, 8 };

void dp_pci_add_msix(struct dp_pci_function *f, unsigned bar, unsigned vectors)
{
    unsigned cap = dp_pci_add_capability(f, CAP_MSIX, 12);
    if (!cap)
        return;
    f->msix_cap = cap;
    f->msix_vectors = DP_MIN(vectors, DP_PCI_MSIX_MAX);
    dp_pci_set_config(f, cap + MSIX_CONTROL, f->msix_vectors - 1, 2);
    dp_pci_set_config(f, cap + 4, bar, 4);
    dp_pci_set_config(f, cap + 8, MSIX_PBA | bar, 4);
    dp_st16(f->write_mask + cap + MSIX_CONTROL, MSIX_ENABLE | MSIX_FUNCTION_MASK);
    dp_pci_add_bar(f, bar, MSIX_BAR_SIZE, false, false, &msix_ops, f);
}

/* ---- life cycle ---- */

void dp_pci_function_post_load(struct dp_pci_function *f)
{
    pthread_mutex_lock(f->lock);
    f->intx_generation++;
    pthread_mutex_unlock(f->lock);
    map_bars(f);
    drive_intx(f);
}

void dp_pci_function_reset(struct dp_pci_function *f)
{
    pthread_mutex_lock(f->lock);
    dp_state_reset(&dp_pci_regs_table, f->regs);
    memcpy(f->regs->config, f->initial, sizeof(f->initial));
    pthread_mutex_unlock(f->lock);
    dp_pci_function_post_load(f);
    if (f->config_changed)
        f->config_changed(f);
}
