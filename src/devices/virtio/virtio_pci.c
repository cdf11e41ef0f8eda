/* devices/virtio/virtio_pci.c - virtio 1.0 over PCI, modern ("non-transitional") devices only.
 *
 * Model: an adapter device. It owns a PCI function and a concrete virtio device (child) and translates between them. BAR 0 holds four
 * register blocks, a page each, which vendor capabilities point at: common configuration, ISR status, device configuration, notification
 * (queue n at n * 4). A fifth capability gives access to BARs by configuration space for software without a way to map them.
 * Interrupts: MSI-X, vector numbers as the driver assigned them; else INTx, whose level is "isr is not 0".
 * Locks: virtio registers lie under the child's lock, PCI's under the adapter's. The adapter's may be taken under the child's, never the
 * other way round.
 * Source: Virtio 1.0 section 4.1 (4.1.4.3 common, 4.1.4.4 notify, 4.1.4.5 ISR, 4.1.4.6 device, 4.1.4.7 PCI configuration access).
 */
#include <stdlib.h>

#include "devices/pci/pci.h"
#include "devices/virtio/virtio.h"

enum { CAP_VENDOR = 0x09, CFG_COMMON = 1, CFG_NOTIFY = 2, CFG_ISR = 3, CFG_DEVICE = 4, CFG_PCI = 5 };
enum { COMMON_AT = 0x0000, ISR_AT = 0x1000, DEVICE_AT = 0x2000, NOTIFY_AT = 0x3000, BLOCK_SIZE = 0x1000, REGISTERS_SIZE = 0x4000,
       NOTIFY_MULTIPLIER = 4 };

/* struct virtio_pci_common_cfg; 64-bit fields are written as one or two words. */
enum {
    DEVICE_FEATURE_SELECT = 0, DEVICE_FEATURE = 4, DRIVER_FEATURE_SELECT = 8, DRIVER_FEATURE = 12, CONFIG_MSIX_VECTOR = 16, NUM_QUEUES = 18,
    DEVICE_STATUS = 20, CONFIG_GENERATION = 21, QUEUE_SELECT = 22, QUEUE_SIZE = 24, QUEUE_MSIX_VECTOR = 26, QUEUE_ENABLE = 28,
    QUEUE_NOTIFY_OFF = 30,
    QUEUE_DESC = 32, QUEUE_DRIVER = 40, QUEUE_DEVICE = 48, COMMON_SIZE = 56
};
/* struct virtio_pci_cap */
enum { CAP_LENGTH = 2, CAP_TYPE = 3, CAP_BAR = 4, CAP_OFFSET = 8, CAP_SIZE = 12, CAP_EXTRA = 16 };

struct adapter_regs {
    struct dp_pci_regs pci;
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select;
};

struct dp_virtio_pci {
    struct dp_device device;
    struct adapter_regs regs;
    struct dp_pci_function function;
    struct dp_device *child;
    struct dp_virtio *v;
    unsigned access_cap;               /* offset of the configuration access capability */
    atomic_uint line_generation;       /* counts what changes the INTx level */
    uint8_t *rom;                      /* NULL: none */
};

static const struct dp_field adapter_fields[] = {
    DP_FIELD_STRUCT(struct adapter_regs, pci, 1, &dp_pci_regs_table),
    DP_FIELD_U32(struct adapter_regs, device_feature_select, 2, 0, 0),
    DP_FIELD_U32(struct adapter_regs, driver_feature_select, 3, 0, 0),
    DP_FIELD_U16(struct adapter_regs, queue_select, 4, 0, 0),
};
static const struct dp_state_table adapter_table = DP_STATE_TABLE(struct adapter_regs, "virtio-pci", adapter_fields);

static struct dp_virtio_pci *adapter_of(struct dp_device *d) { return DP_CONTAINER_OF(d, struct dp_virtio_pci, device); }

/* ---- interrupts; no lock held ---- */

static void update_line(struct dp_virtio_pci *a)
{
    atomic_fetch_add(&a->line_generation, 1);
    unsigned generation;
    do { /* the level may change between looking and driving; whoever changed it has counted up before it drives */
        generation = atomic_load(&a->line_generation);
        bool msix = dp_pci_msix_enabled(&a->function);
        pthread_mutex_lock(&a->child->lock);
        bool level = a->v->regs->isr && !msix;
        pthread_mutex_unlock(&a->child->lock);
        dp_pci_intx(&a->function, level);
    } while (generation != atomic_load(&a->line_generation));
}

static void interrupt(void *transport, unsigned vector)
{
    struct dp_virtio_pci *a = transport;
    if (!dp_pci_msix_enabled(&a->function))
        update_line(a);
    else if (vector != DP_VIRTIO_NO_VECTOR)
        dp_pci_msix_send(&a->function, vector);
}

static void update_dma(struct dp_virtio_pci *a)
{
    dp_virtio_lock(a->v);
    dp_virtio_set_dma(a->v, dp_pci_bus_master(&a->function));
    dp_virtio_unlock(a->v);
}

/* The driver changed the command register or MSI-X. */
static void config_changed(struct dp_pci_function *f)
{
    struct dp_virtio_pci *a = DP_CONTAINER_OF(f, struct dp_virtio_pci, function);
    update_dma(a);
    update_line(a);
}

/* ---- common configuration; child's lock held ---- */

static struct dp_virtqueue_regs *selected_queue(struct dp_virtio_pci *a)
{
    return a->regs.queue_select < a->v->queue_count ? &a->v->regs->queue[a->regs.queue_select] : NULL;
}

/* While requests of a reset device are still in flight its registers keep their values, status first of all: the driver polls it for 0. */
static void common_image(struct dp_virtio_pci *a, uint8_t image[COMMON_SIZE])
{
    const struct dp_virtio_regs *regs = a->v->regs;
    const struct dp_virtqueue_regs *q = selected_queue(a);
    uint32_t device = a->regs.device_feature_select, driver = a->regs.driver_feature_select;
    memset(image, 0, COMMON_SIZE);
    dp_st32(image + DEVICE_FEATURE_SELECT, device);
    dp_st32(image + DEVICE_FEATURE, device < 2 ? dp_virtio_features(a->v) >> device * 32 : 0);
    dp_st32(image + DRIVER_FEATURE_SELECT, driver);
    dp_st32(image + DRIVER_FEATURE, driver < 2 ? regs->driver_features >> driver * 32 : 0);
    dp_st16(image + CONFIG_MSIX_VECTOR, regs->config_vector);
    dp_st16(image + NUM_QUEUES, a->v->queue_count);
    image[DEVICE_STATUS] = regs->status;
    image[CONFIG_GENERATION] = regs->generation;
    dp_st16(image + QUEUE_SELECT, a->regs.queue_select);
    if (!q)
        return; /* queue_size 0: there is no such queue */
    dp_st16(image + QUEUE_SIZE, dp_virtio_queue_size(a->v, a->regs.queue_select));
    dp_st16(image + QUEUE_MSIX_VECTOR, q->vector);
    dp_st16(image + QUEUE_ENABLE, q->enabled);
    dp_st16(image + QUEUE_NOTIFY_OFF, a->regs.queue_select);
    dp_st64(image + QUEUE_DESC, q->desc);
    dp_st64(image + QUEUE_DRIVER, q->avail);
    dp_st64(image + QUEUE_DEVICE, q->used);
}

static uint16_t vector_or_none(const struct dp_virtio_pci *a, uint16_t vector)
{
    return vector < a->function.msix_vectors ? vector : DP_VIRTIO_NO_VECTOR;
}

static void write_driver_features(struct dp_virtio_pci *a, uint32_t value)
{
    unsigned word = a->regs.driver_feature_select;
    if (word >= 2 || (a->v->regs->status & DP_VIRTIO_FEATURES_OK))
        return;
    uint64_t *features = &a->v->regs->driver_features;
    *features = (*features & ~(0xffffffffull << word * 32)) | (uint64_t)value << word * 32;
}

static void write_queue(struct dp_virtio_pci *a, unsigned reg, uint64_t value, unsigned size)
{
    struct dp_virtqueue_regs *q = selected_queue(a);
    if (!q || a->v->resetting)
        return;
    if (reg == QUEUE_MSIX_VECTOR) {
        q->vector = vector_or_none(a, value);
        return;
    }
    if (q->enabled) {
        dp_trace_guest(a->device.env->trace, "%s: register %u of queue %u written while the queue is enabled", a->device.id, reg,
                       a->regs.queue_select);
        return;
    }
    if (reg == QUEUE_SIZE) {
        if (value && value <= a->v->vclass->queue_size && !(value & (value - 1)))
            q->size = value;
        else
            dp_trace_guest(a->device.env->trace, "%s: queue %u cannot have %u entries", a->device.id, a->regs.queue_select,
                           (unsigned)value);
    } else if (reg == QUEUE_ENABLE) {
        if (value == 1)
            dp_virtio_enable_queue(a->v, a->regs.queue_select);
    } else if (reg >= QUEUE_DESC) {
        uint64_t *address = reg < QUEUE_DRIVER ? &q->desc : reg < QUEUE_DEVICE ? &q->avail : &q->used;
        memcpy((uint8_t *)address + reg % 8, &value, size);
    }
}

static unsigned register_size(unsigned reg)
{
    return reg == DEVICE_STATUS || reg == CONFIG_GENERATION ? 1 : reg < CONFIG_MSIX_VECTOR ? 4 : reg < QUEUE_DESC ? 2 : 4;
}

static void common_write(struct dp_virtio_pci *a, unsigned reg, uint64_t value, unsigned size)
{
    /* Section 4.1.3.1: the driver accesses each field with the field's width; 64-bit ones by words (or, as here, at once). */
    if (reg + size > COMMON_SIZE || reg % size || (size != register_size(reg) && !(reg >= QUEUE_DESC && size == 8))) {
        dp_trace_guest(a->device.env->trace, "%s: a write of %u bytes to common register %u", a->device.id, size, reg);
        return;
    }
    switch (reg) {
    case DEVICE_FEATURE_SELECT: a->regs.device_feature_select = value; break;
    case DRIVER_FEATURE_SELECT: a->regs.driver_feature_select = value; break;
    case DRIVER_FEATURE: write_driver_features(a, value); break;
    case CONFIG_MSIX_VECTOR: a->v->regs->config_vector = vector_or_none(a, value); break;
    case DEVICE_STATUS: dp_virtio_set_status(a->v, value); break;
    case QUEUE_SELECT: a->regs.queue_select = value; break;
    case DEVICE_FEATURE: case NUM_QUEUES: case CONFIG_GENERATION: case QUEUE_NOTIFY_OFF: break;
    default: write_queue(a, reg, value, size); break;
    }
}

/* ---- the register BAR ---- */

static uint64_t registers_read(void *opaque, uint64_t offset, unsigned size)
{
    struct dp_virtio_pci *a = opaque;
    unsigned block = offset & ~(uint64_t)(BLOCK_SIZE - 1), at = offset % BLOCK_SIZE;
    uint64_t value = 0;
    bool acknowledged = false;
    dp_virtio_lock(a->v);
    if (block == COMMON_AT && at + size <= COMMON_SIZE) {
        uint8_t image[COMMON_SIZE];
        common_image(a, image);
        memcpy(&value, image + at, size);
    } else if (block == ISR_AT && at == 0) {
        value = a->v->regs->isr;
        acknowledged = value;
        a->v->regs->isr = 0;
    } else if (block == DEVICE_AT && at + size <= a->v->vclass->config_size) {
        a->v->vclass->config_read(a->v, at, &value, size);
    }
    dp_virtio_unlock(a->v);
    if (acknowledged)
        update_line(a);
    return value;
}

static void registers_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct dp_virtio_pci *a = opaque;
    unsigned block = offset & ~(uint64_t)(BLOCK_SIZE - 1), at = offset % BLOCK_SIZE;
    dp_virtio_lock(a->v);
    if (block == NOTIFY_AT)
        dp_virtio_notify(a->v, at / NOTIFY_MULTIPLIER);
    else if (block == COMMON_AT)
        common_write(a, at, value, size);
    else if (block == DEVICE_AT && at + size <= a->v->vclass->config_size && a->v->vclass->config_write)
        a->v->vclass->config_write(a->v, at, &value, size);
    dp_virtio_unlock(a->v);
}

static const struct dp_window_ops registers_ops = { "virtio-pci", registers_read, registers_write, 1, 8 };

/* ---- capabilities ---- */

static unsigned add_cap(struct dp_virtio_pci *a, unsigned type, uint32_t offset, uint32_t length, unsigned extra)
{
    unsigned cap = dp_pci_add_capability(&a->function, CAP_VENDOR, CAP_EXTRA + extra);
    dp_pci_set_config(&a->function, cap + CAP_LENGTH, CAP_EXTRA + extra, 1);
    dp_pci_set_config(&a->function, cap + CAP_TYPE, type, 1);
    dp_pci_set_config(&a->function, cap + CAP_BAR, DP_VIRTIO_PCI_BAR, 1);
    dp_pci_set_config(&a->function, cap + CAP_OFFSET, offset, 4);
    dp_pci_set_config(&a->function, cap + CAP_SIZE, length, 4);
    return cap;
}

/* The configuration access capability: an access to its data field is an access to the BAR, offset and length that its other fields name.
 * */
static bool config_access(struct dp_pci_function *f, unsigned offset, unsigned size, uint32_t *value, bool write)
{
    struct dp_virtio_pci *a = DP_CONTAINER_OF(f, struct dp_virtio_pci, function);
    unsigned data = a->access_cap + CAP_EXTRA;
    if (offset < data || offset >= data + 4)
        return false;
    pthread_mutex_lock(f->lock);
    unsigned n = f->regs->config[a->access_cap + CAP_BAR];
    uint64_t at = dp_ld32(f->regs->config + a->access_cap + CAP_OFFSET);
    uint32_t length = dp_ld32(f->regs->config + a->access_cap + CAP_SIZE);
    pthread_mutex_unlock(f->lock);
    const struct dp_pci_bar *b = n < DP_PCI_BARS ? &f->bar[n] : NULL;
    bool possible = (length == 1 || length == 2 || length == 4) && offset == data && size >= length && !(at % length) && b && b->ops &&
                    at + length <= b->size && length >= b->ops->min_size;
    *value = write ? *value : 0;
    if (!possible)
        dp_trace_guest(f->env->trace, "%s: configuration access to %u bytes at 0x%llx of BAR %u", a->device.id, length,
                       (unsigned long long)at, n);
    else if (write)
        b->ops->write(b->opaque, at, *value & dp_mask_bytes(length), length);
    else
        *value = b->ops->read(b->opaque, at, length);
    return true;
}

/* ---- the expansion ROM ---- */

enum { ROM_MIN = 2048, ROM_MAX = 4 << 20, ROM_UNIT = 512 };
/* Of an image in it (PCI 3.0 section 6.3.1). */
enum { IMAGE_SUM = 6, IMAGE_DATA = 0x18, DATA_VENDOR = 4, DATA_UNITS = 0x10, DATA_TYPE = 0x14, DATA_LAST = 0x15, DATA_SIZE = 0x18 };

static uint64_t rom_read(void *opaque, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, ((struct dp_virtio_pci *)opaque)->rom + offset, size);
    return value;
}

static const struct dp_window_ops rom_ops = { .name = "virtio-pci-rom", .read = rom_read, .min_size = 1, .max_size = 8 };

/* Firmware takes an image only for the device it names. Keeps the sum of an image for PCs 0. */
static void name_device(uint8_t *rom, size_t size, uint32_t vendor_device)
{
    for (size_t at = 0; at + IMAGE_DATA + 2 <= size && dp_ld16(rom + at) == 0xaa55;) {
        size_t data = at + dp_ld16(rom + at + IMAGE_DATA);
        if (data + DATA_SIZE > size || memcmp(rom + data, "PCIR", 4))
            return;
        uint8_t change = 0;
        for (unsigned i = 0; i < 4; i++) {
            change += rom[data + DATA_VENDOR + i] - (uint8_t)(vendor_device >> 8 * i);
            rom[data + DATA_VENDOR + i] = vendor_device >> 8 * i;
        }
        if (rom[data + DATA_TYPE] == 0)
            rom[at + IMAGE_SUM] += change;
        if ((rom[data + DATA_LAST] & 0x80) || !dp_ld16(rom + data + DATA_UNITS))
            return;
        at += (size_t)dp_ld16(rom + data + DATA_UNITS) * ROM_UNIT;
    }
}

int dp_virtio_pci_rom(struct dp_device *d, const void *data, size_t size, struct dp_error *e)
{
    struct dp_virtio_pci *a = adapter_of(d);
    size_t room = ROM_MIN;
    if (size > ROM_MAX)
        return dp_error_set(e, -EFBIG, "an expansion ROM of %zu bytes is too large: %d are possible", size, ROM_MAX);
    while (room < size)
        room *= 2;
    if (!(a->rom = calloc(1, room)))
        return dp_error_set(e, -ENOMEM, "no memory for an expansion ROM");
    memcpy(a->rom, data, size);
    name_device(a->rom, size, dp_ld32(a->function.initial));
    dp_pci_add_rom(&a->function, room, &rom_ops, a);
    return 0;
}

/* ---- life cycle ---- */

static int adapter_init(struct dp_device *d, struct dp_error *e)
{
    struct dp_virtio_pci *a = adapter_of(d);
    const struct dp_virtio_class *c = a->v->vclass;
    struct dp_pci_id id = {
        .vendor = 0x1af4, .device = 0x1040 + c->device_id, .revision = 1, .subsystem_vendor = 0x1af4, .subsystem = 0x1100,
        .class_code = c->pci_class, .interrupt_pin = 1,
    };
    struct dp_pci_function *f = &a->function;
    dp_pci_function_init(f, &a->regs.pci, &id, d->env, &d->lock);
    dp_pci_add_bar(f, DP_VIRTIO_PCI_BAR, REGISTERS_SIZE, false, true, &registers_ops, a);
    dp_pci_add_msix(f, DP_VIRTIO_PCI_MSIX_BAR, a->v->queue_count + 1);
    add_cap(a, CFG_COMMON, COMMON_AT, BLOCK_SIZE, 0);
    add_cap(a, CFG_ISR, ISR_AT, BLOCK_SIZE, 0);
    if (c->config_size)
        add_cap(a, CFG_DEVICE, DEVICE_AT, BLOCK_SIZE, 0);
    unsigned notify = add_cap(a, CFG_NOTIFY, NOTIFY_AT, BLOCK_SIZE, 4);
    dp_pci_set_config(f, notify + CAP_EXTRA, NOTIFY_MULTIPLIER, 4);
    a->access_cap = add_cap(a, CFG_PCI, 0, 0, 4);
    f->write_mask[a->access_cap + CAP_BAR] = 0xff;
    dp_st32(f->write_mask + a->access_cap + CAP_OFFSET, 0xffffffff);
    dp_st32(f->write_mask + a->access_cap + CAP_SIZE, 0xffffffff);
    f->config_access = config_access;
    f->config_changed = config_changed;
    a->v->transport = a;
    a->v->interrupt = interrupt;
    return 0;
}

static void adapter_fini(struct dp_device *d)
{
    struct dp_virtio_pci *a = adapter_of(d);
    dp_pci_unplug(&a->function);
    a->v->interrupt = NULL;
    dp_device_free(a->child);
    free(a->rom);
}

static void adapter_reset(struct dp_device *d)
{
    struct dp_virtio_pci *a = adapter_of(d);
    dp_device_reset(a->child);
    dp_pci_function_reset(&a->function);
}

static void adapter_pause(struct dp_device *d) { dp_device_pause(adapter_of(d)->child); }
static void adapter_resume(struct dp_device *d) { dp_device_resume(adapter_of(d)->child); }

/* The level of the line comes with the state; the child's load, which brings isr, drives it anew. */
static void adapter_post_load(struct dp_device *d)
{
    update_dma(adapter_of(d));
    dp_pci_function_post_load(&adapter_of(d)->function);
}

const struct dp_device_class dp_virtio_pci_class = {
    .name = "virtio-pci",
    .summary = "virtio 1.0 transport over PCI",
    .size = sizeof(struct dp_virtio_pci),
    .regs_offset = offsetof(struct dp_virtio_pci, regs),
    .state = &adapter_table,
    .init = adapter_init,
    .fini = adapter_fini,
    .reset = adapter_reset,
    .pause = adapter_pause,
    .resume = adapter_resume,
    .post_load = adapter_post_load,
};

struct dp_device *dp_virtio_pci_create(const char *id, const struct dp_device_env *env, struct dp_device *child, struct dp_virtio *v,
                                       struct dp_error *e)
{
    struct dp_device *d = dp_device_alloc(&dp_virtio_pci_class, id, env);
    if (!d) {
        dp_error_set(e, -ENOMEM, "%s: out of memory", id);
        return NULL;
    }
    adapter_of(d)->child = child;
    adapter_of(d)->v = v;
    if (dp_device_init(d, e)) {
        dp_device_free(d);
        return NULL;
    }
    return d;
}

struct dp_pci_function *dp_virtio_pci_function(struct dp_device *adapter) { return &adapter_of(adapter)->function; }
struct dp_device *dp_virtio_pci_child(struct dp_device *adapter) { return adapter_of(adapter)->child; }
