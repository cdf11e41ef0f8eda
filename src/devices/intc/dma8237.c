/* dma8237.c - see dma8237.h.
 *
 * Locks and calls out: registers are under the device's lock; memory is accessed and listeners are told without it. dp_dma_transfer
 * works in runs: take the channel's place under the lock, move without it, and count under it again if `epoch` says that nobody touched
 * the channel.
 */
#include "devices/intc/dma8237.h"

enum { CHANNELS = 8, CASCADE = 4 };
enum { /* registers of a chip, after the addresses and counts of its channels */
    REG_COMMAND = 8, REG_STATUS = REG_COMMAND, REG_REQUEST, REG_SINGLE_MASK, REG_MODE, REG_CLEAR_POINTER, REG_MASTER_CLEAR,
    REG_TEMPORARY = REG_MASTER_CLEAR, REG_CLEAR_MASK, REG_ALL_MASK
};
enum { COMMAND_MEMORY = 1, COMMAND_DISABLE = 4 };
enum { MODE_CHANNEL = 3, MODE_TYPE = 0x0c, MODE_WRITE = 4, MODE_READ = 8, MODE_AUTOINIT = 0x10, MODE_DECREMENT = 0x20,
       MODE_CASCADE = 0xc0 };
enum { SET_BIT = 4 };

struct channel { uint16_t base_address, base_count, address, count; uint8_t mode; };
struct chip { uint8_t command, terminal, drq, request, mask; bool high; /* the flip-flop: next is the upper byte */ };
struct dma_regs {
    struct channel channel[CHANNELS];
    struct chip chip[2];
    uint8_t page[16];
};

struct dma {
    struct dp_device device;
    struct dma_regs regs;
    struct dp_irq ready[CHANNELS];
    uint32_t epoch[CHANNELS];       /* counts what changes a channel other than by transferring */
};

static const uint8_t page_of[CHANNELS] = {0x7, 0x3, 0x1, 0x2, 0xf, 0xb, 0x9, 0xa};

/* ---- lock held ---- */

static bool open_channel(const struct dma_regs *r, unsigned n)
{
    const struct chip *c = &r->chip[n / 4];
    return n != CASCADE && !(c->mask >> n % 4 & 1) && !(c->command & COMMAND_DISABLE);
}

static unsigned openings(const struct dma_regs *r)
{
    unsigned v = 0;
    for (unsigned n = 0; n < CHANNELS; n++)
        v |= (unsigned)open_channel(r, n) << n;
    return v;
}

static void master_clear(struct chip *c)
{
    *c = (struct chip){.mask = 0x0f, .drq = c->drq};
}

static uint8_t half(struct chip *c, uint16_t v)
{
    bool high = c->high;
    c->high = !high;
    return (uint8_t)(high ? v >> 8 : v);
}

static uint8_t read_chip(struct dma *d, unsigned chip, unsigned reg)
{
    struct chip *c = &d->regs.chip[chip];
    const struct channel *h = &d->regs.channel[chip * 4 + reg / 2 % 4];
    uint8_t v;
    switch (reg) {
    case REG_STATUS:
        v = (uint8_t)(c->terminal | (c->drq | c->request) << 4);
        c->terminal = 0;
        return v;
    case REG_ALL_MASK: return 0xf0 | c->mask;
    default:
        if (reg < REG_COMMAND)
            return half(c, reg & 1 ? h->count : h->address);
        return 0; /* the temporary register, and those that are write-only */
    }
}

static void write_chip(struct dma *d, unsigned chip, unsigned reg, uint8_t v)
{
    struct chip *c = &d->regs.chip[chip];
    uint8_t bit = (uint8_t)(1u << (v & MODE_CHANNEL));
    switch (reg) {
    case REG_COMMAND:
        c->command = v;
        if (v & COMMAND_MEMORY)
            dp_trace_guest(d->device.env->trace, "%s: memory to memory transfers do not exist here", d->device.id);
        break;
    case REG_REQUEST: c->request = v & SET_BIT ? c->request | bit : c->request & (uint8_t)~bit; break;
    case REG_SINGLE_MASK: c->mask = v & SET_BIT ? c->mask | bit : c->mask & (uint8_t)~bit; break;
    case REG_MODE:
        d->regs.channel[chip * 4 + (v & MODE_CHANNEL)].mode = v & (uint8_t)~MODE_CHANNEL;
        d->epoch[chip * 4 + (v & MODE_CHANNEL)]++;
        break;
    case REG_CLEAR_POINTER: c->high = false; break;
    case REG_MASTER_CLEAR: master_clear(c); break;
    case REG_CLEAR_MASK: c->mask = 0; break;
    case REG_ALL_MASK: c->mask = v & 0x0f; break;
    default: { /* both halves of base and current */
        struct channel *h = &d->regs.channel[chip * 4 + reg / 2];
        uint16_t *base = reg & 1 ? &h->base_count : &h->base_address, *now = reg & 1 ? &h->count : &h->address;
        *base = (uint16_t)(c->high ? (*base & 0x00ff) | v << 8 : (*base & 0xff00) | v);
        *now = *base;
        d->epoch[chip * 4 + reg / 2]++;
        c->high = !c->high;
        break;
    }
    }
}

/* ---- ports ---- */

static uint64_t chip_read(struct dma *d, unsigned chip, unsigned reg)
{
    pthread_mutex_lock(&d->device.lock);
    uint8_t v = read_chip(d, chip, reg);
    pthread_mutex_unlock(&d->device.lock);
    return v;
}

static void chip_write(struct dma *d, unsigned chip, unsigned reg, uint8_t v)
{
    pthread_mutex_lock(&d->device.lock);
    unsigned before = openings(&d->regs);
    write_chip(d, chip, reg, v);
    unsigned opened = openings(&d->regs) & ~before;
    pthread_mutex_unlock(&d->device.lock);
    for (unsigned n = 0; n < CHANNELS; n++)
        if (opened >> n & 1)
            dp_irq_set(&d->ready[n], true);
}

static uint64_t first_read(void *opaque, uint64_t offset, unsigned size) { return chip_read(opaque, 0, (unsigned)offset); }
static void first_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    chip_write(opaque, 0, (unsigned)offset, (uint8_t)value);
}
/* Address line 0 does not reach the second chip. */
static uint64_t second_read(void *opaque, uint64_t offset, unsigned size) { return chip_read(opaque, 1, (unsigned)offset / 2); }
static void second_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    chip_write(opaque, 1, (unsigned)offset / 2, (uint8_t)value);
}

static uint64_t page_read(void *opaque, uint64_t offset, unsigned size)
{
    struct dma *d = opaque;
    pthread_mutex_lock(&d->device.lock);
    uint8_t v = d->regs.page[offset];
    pthread_mutex_unlock(&d->device.lock);
    return v;
}

static void page_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct dma *d = opaque;
    pthread_mutex_lock(&d->device.lock);
    d->regs.page[offset] = (uint8_t)value;
    for (unsigned n = 0; n < CHANNELS; n++)
        d->epoch[n] += page_of[n] == offset;
    pthread_mutex_unlock(&d->device.lock);
}

/* ---- transfers ---- */

struct run { uint64_t address; uint32_t units, epoch; uint8_t mode; };

/* Lock held: the longest piece of memory in one direction, up to the wrap. False: the channel moves nothing. */
static bool next_run(const struct dma *d, unsigned n, uint32_t units, struct run *run)
{
    const struct channel *h = &d->regs.channel[n];
    unsigned shift = n > CASCADE;
    if (!units || !open_channel(&d->regs, n) || (h->mode & MODE_CASCADE) == MODE_CASCADE)
        return false;
    uint32_t page = d->regs.page[page_of[n]], left = (h->mode & MODE_DECREMENT) ? 1 : 0x10000 - h->address;
    run->units = DP_MIN(units, DP_MIN(left, (uint32_t)h->count + 1));
    run->address = (uint64_t)(shift ? page & 0xfe : page) << 16 | (uint64_t)h->address << shift;
    run->epoch = d->epoch[n];
    run->mode = h->mode;
    return true;
}

/* Lock held: counts. True: that was the last. */
static bool end_run(struct dma *d, unsigned n, const struct run *run)
{
    struct channel *h = &d->regs.channel[n];
    struct chip *c = &d->regs.chip[n / 4];
    uint8_t bit = (uint8_t)(1u << n % 4);
    bool last = run->units == (uint32_t)h->count + 1;
    h->address = (uint16_t)(h->mode & MODE_DECREMENT ? h->address - run->units : h->address + run->units);
    h->count = (uint16_t)(h->count - run->units);
    if (!last)
        return false;
    c->terminal |= bit;
    c->request &= (uint8_t)~bit;
    if (h->mode & MODE_AUTOINIT) {
        h->address = h->base_address;
        h->count = h->base_count;
    } else {
        c->mask |= bit;
    }
    return true;
}

static void move(struct dma *d, const struct run *run, uint8_t *buffer, uint32_t size, bool write_to_memory)
{
    int rc = 0;
    if (write_to_memory && (run->mode & MODE_TYPE) == MODE_WRITE)
        rc = dp_space_write(d->device.env->memory, run->address, buffer, size);
    else if (!write_to_memory && (run->mode & MODE_TYPE) == MODE_READ)
        rc = dp_space_read(d->device.env->memory, run->address, buffer, size);
    else if (!write_to_memory)
        memset(buffer, 0xff, size);
    if (rc)
        dp_trace_guest(d->device.env->trace, "%s: %u bytes at 0x%llx are not all in memory", d->device.id, size,
                       (unsigned long long)run->address);
}

uint32_t dp_dma_transfer(struct dp_device *device, unsigned n, void *buffer, uint32_t size, bool write_to_memory, bool *terminal_count)
{
    struct dma *d = (struct dma *)device;
    unsigned shift = n > CASCADE;
    uint32_t done = 0;
    bool last = false, same = true;
    struct run run;
    *terminal_count = false;
    if (n >= CHANNELS)
        return 0;
    while (!last && same) {
        pthread_mutex_lock(&device->lock);
        bool some = next_run(d, n, (size - done) >> shift, &run);
        pthread_mutex_unlock(&device->lock);
        if (!some)
            break;
        uint32_t bytes = run.units << shift;
        move(d, &run, (uint8_t *)buffer + done, bytes, write_to_memory);
        done += bytes;
        pthread_mutex_lock(&device->lock);
        same = d->epoch[n] == run.epoch;
        if (same)
            last = end_run(d, n, &run);
        pthread_mutex_unlock(&device->lock);
    }
    *terminal_count = last;
    return done;
}

void dp_dma_request(struct dp_device *device, unsigned n, bool level)
{
    struct dma *d = (struct dma *)device;
    if (n >= CHANNELS)
        return;
    struct chip *c = &d->regs.chip[n / 4];
    uint8_t bit = (uint8_t)(1u << n % 4);
    pthread_mutex_lock(&device->lock);
    c->drq = level ? c->drq | bit : c->drq & (uint8_t)~bit;
    pthread_mutex_unlock(&device->lock);
}

void dp_dma_listen(struct dp_device *d, unsigned channel, struct dp_irq ready)
{
    if (channel < CHANNELS)
        ((struct dma *)d)->ready[channel] = ready;
}

/* ---- state and life ---- */

static const struct dp_field channel_fields[] = {
    DP_FIELD_U16(struct channel, base_address, 1, 0, 0),
    DP_FIELD_U16(struct channel, base_count, 2, 0, 0),
    DP_FIELD_U16(struct channel, address, 3, 0, 0),
    DP_FIELD_U16(struct channel, count, 4, 0, 0),
    DP_FIELD_U8(struct channel, mode, 5, 0, (uint8_t)~MODE_CHANNEL),
};
static const struct dp_state_table channel_table = DP_STATE_TABLE(struct channel, "dma-channel", channel_fields);

static const struct dp_field chip_fields[] = {
    DP_FIELD_U8(struct chip, command, 1, 0, 0),
    DP_FIELD_U8(struct chip, terminal, 2, 0, 0x0f),
    DP_FIELD_U8(struct chip, drq, 3, 0, 0x0f),
    DP_FIELD_U8(struct chip, request, 4, 0, 0x0f),
    DP_FIELD_U8(struct chip, mask, 5, 0x0f, 0x0f),
    DP_FIELD_BOOL(struct chip, high, 6, false),
};
static const struct dp_state_table chip_table = DP_STATE_TABLE(struct chip, "dma-chip", chip_fields);

static const struct dp_field fields[] = {
    DP_FIELD_STRUCTS(struct dma_regs, channel, 1, &channel_table),
    DP_FIELD_STRUCTS(struct dma_regs, chip, 2, &chip_table),
    DP_FIELD_BYTES(struct dma_regs, page, 3),
};
static const struct dp_state_table state = DP_STATE_TABLE(struct dma_regs, "dma-8237", fields);

/* Registers are others: a transfer that is under way counts nothing in them. */
static void replaced(struct dp_device *device)
{
    struct dma *d = (struct dma *)device;
    pthread_mutex_lock(&device->lock);
    for (unsigned n = 0; n < CHANNELS; n++)
        d->epoch[n]++;
    pthread_mutex_unlock(&device->lock);
}

static const struct dp_window_ops first_ops = {.name = "dma-0", .read = first_read, .write = first_write, .min_size = 1, .max_size = 1};
static const struct dp_window_ops second_ops = {.name = "dma-4", .read = second_read, .write = second_write, .min_size = 1, .max_size = 1};
static const struct dp_window_ops page_ops = {.name = "dma-pages", .read = page_read, .write = page_write, .min_size = 1, .max_size = 1};
static const struct dp_window_spec windows[] = {
    [DP_DMA_WINDOW_FIRST] = {"channels 0-3", 16, &first_ops, true},
    [DP_DMA_WINDOW_SECOND] = {"channels 4-7", 32, &second_ops, true},
    [DP_DMA_WINDOW_PAGES] = {"pages", 16, &page_ops, true},
};

const struct dp_device_class dp_dma_class = {
    .name = "dma-8237",
    .summary = "the two ISA DMA controllers",
    .size = sizeof(struct dma),
    .regs_offset = offsetof(struct dma, regs),
    .state = &state,
    .windows = windows,
    .window_count = DP_ARRAY_LEN(windows),
    .reset = replaced,
    .post_load = replaced,
};
