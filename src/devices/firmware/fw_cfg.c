/* fw_cfg.c - QEMU's firmware configuration device; model and source in fw_cfg.h.
 *
 * Invariants: `current` is the item of regs.selector or NULL, found anew by whatever changes either. Items change only while no processor
 * runs, so their bytes are copied to the guest without the lock; the bytes of writable files lie in regs and are copied under it.
 */
#include "devices/firmware/fw_cfg.h"

#include <stdlib.h>

enum { ITEMS_MAX = DP_FW_CFG_FILES_MAX + 128, ENTRY = 64, NAME_AT = 8, FEATURES = 3, KEY_WRITE = 0x4000, PIECE = 1 << 20 };
enum { PORT_SELECTOR, PORT_DATA };
enum { DMA_ERROR = 1, DMA_READ = 2, DMA_SKIP = 4, DMA_SELECT = 8, DMA_WRITE = 16, DMA_ACCESS = 16 /* bytes of the structure */ };
static const char dma_signature[9] = "QEMU CFG";

struct fw_cfg_regs {
    uint16_t selector;
    uint32_t offset;
    uint32_t dma_high;                       /* upper half of the address, until the lower half is written */
    uint8_t written[DP_FW_CFG_WRITABLE_MAX]; /* bytes of writable files, one after the other in the order they were added */
};

struct item {
    uint16_t key;
    bool writable;
    uint32_t size;
    uint32_t at;                             /* writable: in regs.written */
    char name[DP_FW_CFG_NAME_MAX + 1];       /* "": no file */
    uint8_t data[];                          /* writable: as after a reset */
};

struct fw_cfg {
    struct dp_device device;
    struct fw_cfg_regs regs;
    struct item *items[ITEMS_MAX];           /* files in order of their names */
    unsigned count, files;
    uint32_t written_size;                   /* of regs.written in use */
    const struct item *current;
};

static uint32_t be32(const uint8_t *p) { return __builtin_bswap32(dp_ld32(p)); }

/* ---- items; lock held ---- */

static struct item *find_key(struct fw_cfg *f, uint16_t key)
{
    for (unsigned i = 0; i < f->count; i++)
        if (f->items[i]->key == key)
            return f->items[i];
    return NULL;
}

static struct item *find_name(struct fw_cfg *f, const char *name)
{
    for (unsigned i = 0; i < f->count; i++)
        if (f->items[i]->name[0] && !strcmp(f->items[i]->name, name))
            return f->items[i];
    return NULL;
}

static void refresh_current(struct fw_cfg *f) { f->current = find_key(f, f->regs.selector & (uint16_t)~KEY_WRITE); }

static void select_item(struct fw_cfg *f, uint16_t key)
{
    f->regs.selector = key;
    f->regs.offset = 0;
    refresh_current(f);
}

static uint32_t current_size(const struct fw_cfg *f) { return f->current ? f->current->size : 0; }

static uint8_t byte_of(const struct fw_cfg *f, const struct item *i, uint32_t offset)
{
    return i->writable ? f->regs.written[i->at + offset] : i->data[offset];
}

/* data NULL: zeros. */
static struct item *new_item(uint16_t key, const char *name, const void *data, size_t size)
{
    struct item *i = calloc(1, sizeof(*i) + size);
    if (!i)
        return NULL;
    i->key = key;
    i->size = (uint32_t)size;
    snprintf(i->name, sizeof(i->name), "%s", name);
    if (data && size)
        memcpy(i->data, data, size);
    return i;
}

/* Takes the place of `old`, or a new one. */
static void put(struct fw_cfg *f, struct item *old, struct item *new_)
{
    unsigned at = 0;
    while (at < f->count && f->items[at] != old)
        at++;
    if (at == f->count)
        f->count++;
    f->items[at] = new_;
    free(old);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp((*(struct item *const *)a)->name, (*(struct item *const *)b)->name);
}

/* Numbers the files and writes the directory: a count, then { size, key, 0, name } for each, big-endian. Items that are no files, whose
 * names are empty, come before all files. */
static int build_directory(struct fw_cfg *f)
{
    size_t size = 4 + (size_t)f->files * ENTRY;
    struct item *directory = new_item(DP_FW_CFG_FILE_DIR, "", NULL, size);
    if (!directory)
        return -ENOMEM;
    qsort(f->items, f->count, sizeof(f->items[0]), compare_names);
    dp_st32(directory->data, __builtin_bswap32(f->files));
    unsigned n = 0;
    for (unsigned i = 0; i < f->count; i++) {
        struct item *file = f->items[i];
        if (!file->name[0])
            continue;
        uint8_t *entry = directory->data + 4 + n * ENTRY;
        file->key = (uint16_t)(DP_FW_CFG_FILE_FIRST + n++);
        dp_st32(entry, __builtin_bswap32(file->size));
        dp_st16(entry + 4, __builtin_bswap16(file->key));
        memcpy(entry + NAME_AT, file->name, strlen(file->name));
    }
    put(f, find_key(f, DP_FW_CFG_FILE_DIR), directory);
    return 0;
}

/* ---- the owner's side ---- */

static int check_size(size_t size, size_t max, struct dp_error *e)
{
    if (size > max)
        return dp_error_set(e, -E2BIG, "fw_cfg: an item of %zu bytes is too large, there is room for %zu", size, max);
    return 0;
}

static int add(struct fw_cfg *f, struct item *old, struct item *new_, struct dp_error *e)
{
    if (!new_)
        return dp_error_set(e, -ENOMEM, "fw_cfg: no memory for an item");
    bool file = new_->name[0];
    if (!old && (f->count >= ITEMS_MAX || (file && f->files >= DP_FW_CFG_FILES_MAX))) {
        free(new_);
        return dp_error_set(e, -ENOSPC, "fw_cfg: too many items");
    }
    put(f, old, new_);
    f->files += file && !old;
    int r = file ? build_directory(f) : 0;
    refresh_current(f);
    return r ? dp_error_set(e, r, "fw_cfg: no memory for the directory") : 0;
}

int dp_fw_cfg_add_bytes(struct dp_device *d, uint16_t key, const void *data, size_t size, struct dp_error *e)
{
    struct fw_cfg *f = (struct fw_cfg *)d;
    uint16_t number = key & 0x7fff;
    bool own = key == DP_FW_CFG_SIGNATURE || key == DP_FW_CFG_ID || key == DP_FW_CFG_FILE_DIR;
    if (own || (number >= DP_FW_CFG_FILE_FIRST && key < 0x8000) || number >= KEY_WRITE)
        return dp_error_set(e, -EINVAL, "fw_cfg: key 0x%x is %s", key, own ? "the device's own" : "not one for plain items");
    int r = check_size(size, DP_FW_CFG_ITEM_MAX, e);
    if (r)
        return r;
    pthread_mutex_lock(&d->lock);
    r = add(f, find_key(f, key), new_item(key, "", data, size), e);
    pthread_mutex_unlock(&d->lock);
    return r;
}

int dp_fw_cfg_add_number(struct dp_device *d, uint16_t key, uint64_t value, unsigned size, struct dp_error *e)
{
    uint8_t bytes[8];
    dp_st64(bytes, value);
    return dp_fw_cfg_add_bytes(d, key, bytes, DP_MIN(size, 8u), e);
}

static int add_file(struct dp_device *d, const char *name, const void *data, size_t size, bool writable, struct dp_error *e)
{
    struct fw_cfg *f = (struct fw_cfg *)d;
    if (!name[0] || strlen(name) > DP_FW_CFG_NAME_MAX)
        return dp_error_set(e, -EINVAL, "fw_cfg: \"%.80s\" is no file name, those have 1 to %u characters", name, DP_FW_CFG_NAME_MAX);
    int r = check_size(size, writable ? DP_FW_CFG_WRITABLE_MAX : DP_FW_CFG_ITEM_MAX, e);
    if (r)
        return r;
    pthread_mutex_lock(&d->lock);
    struct item *old = find_name(f, name), *new_ = NULL;
    bool reuse = writable && old && old->writable && old->size >= size; /* the place in regs stays; else another is taken */
    uint32_t at = reuse ? old->at : f->written_size;
    if (writable)
        r = check_size(size, DP_FW_CFG_WRITABLE_MAX - at, e);
    if (!r) {
        new_ = new_item(0, name, data, size);
        if (new_) {
            new_->writable = writable;
            new_->at = at;
        }
        r = add(f, old, new_, e);
    }
    if (!r && writable) {
        memcpy(f->regs.written + at, new_->data, size);
        if (!reuse)
            f->written_size += (uint32_t)size;
    }
    pthread_mutex_unlock(&d->lock);
    return r;
}

int dp_fw_cfg_add_file(struct dp_device *d, const char *name, const void *data, size_t size, struct dp_error *e)
{
    return add_file(d, name, data, size, false, e);
}

int dp_fw_cfg_add_writable(struct dp_device *d, const char *name, const void *data, size_t size, struct dp_error *e)
{
    return add_file(d, name, data, size, true, e);
}

const void *dp_fw_cfg_file(struct dp_device *d, const char *name, size_t *size)
{
    struct fw_cfg *f = (struct fw_cfg *)d;
    pthread_mutex_lock(&d->lock);
    const struct item *i = find_name(f, name);
    const void *data = !i ? NULL : i->writable ? f->regs.written + i->at : i->data;
    if (size)
        *size = i ? i->size : 0;
    pthread_mutex_unlock(&d->lock);
    return data;
}

/* ---- DMA; no lock held ---- */

/* One piece of guest RAM after the other; what is no RAM ends it. */
static bool to_guest(struct dp_space *s, uint64_t at, const uint8_t *data, uint64_t size)
{
    for (struct dp_pin p; size; at += p.size, size -= p.size) {
        if (!dp_space_pin(s, at, DP_MIN(size, (uint64_t)PIECE), true, &p))
            return false;
        if (data) {
            memcpy(p.host, data, p.size);
            data += p.size;
        } else {
            memset(p.host, 0, p.size);
        }
        dp_space_unpin(s, &p, p.size);
    }
    return true;
}

static bool from_guest(struct dp_space *s, uint64_t at, uint8_t *data, uint64_t size)
{
    for (struct dp_pin p; size; at += p.size, data += p.size, size -= p.size) {
        if (!dp_space_pin(s, at, size, false, &p))
            return false;
        memcpy(data, p.host, p.size);
        dp_space_unpin(s, &p, 0);
    }
    return true;
}

static bool dma_read(struct fw_cfg *f, const struct item *i, uint32_t offset, uint64_t at, uint32_t length)
{
    uint8_t copy[DP_FW_CFG_WRITABLE_MAX];
    uint32_t there = i && offset < i->size ? DP_MIN(length, i->size - offset) : 0;
    const uint8_t *data = there ? i->data + offset : NULL;
    if (there && i->writable) {
        pthread_mutex_lock(&f->device.lock);
        memcpy(copy, f->regs.written + i->at + offset, there);
        pthread_mutex_unlock(&f->device.lock);
        data = copy;
    }
    struct dp_space *s = f->device.env->memory;
    return (!there || to_guest(s, at, data, there)) && to_guest(s, at + there, NULL, length - there);
}

static bool dma_write(struct fw_cfg *f, const struct item *i, uint32_t offset, uint64_t at, uint32_t length)
{
    uint8_t copy[DP_FW_CFG_WRITABLE_MAX];
    if (!i || !i->writable || offset > i->size || length > i->size - offset || !from_guest(f->device.env->memory, at, copy, length))
        return false;
    pthread_mutex_lock(&f->device.lock);
    memcpy(f->regs.written + i->at + offset, copy, length);
    pthread_mutex_unlock(&f->device.lock);
    return true;
}

static void dma(struct fw_cfg *f, uint64_t address)
{
    uint8_t access[DMA_ACCESS];
    struct dp_space *s = f->device.env->memory;
    if (address > UINT64_MAX - DMA_ACCESS || !from_guest(s, address, access, DMA_ACCESS)) {
        dp_trace_guest(f->device.env->trace, "%s: DMA structure at 0x%llx, which is no RAM", f->device.id, (unsigned long long)address);
        return;
    }
    uint32_t control = be32(access), length = be32(access + 4);
    uint64_t at = (uint64_t)be32(access + 8) << 32 | be32(access + 12);
    bool ok = at <= UINT64_MAX - length;

    pthread_mutex_lock(&f->device.lock);
    if (control & DMA_SELECT)
        select_item(f, (uint16_t)(control >> 16));
    const struct item *i = f->current;
    uint32_t offset = f->regs.offset;
    pthread_mutex_unlock(&f->device.lock);

    if (ok && control & DMA_READ)
        ok = dma_read(f, i, offset, at, length);
    else if (ok && control & DMA_WRITE)
        ok = dma_write(f, i, offset, at, length);
    else if (!(control & DMA_SKIP))
        length = 0;
    if (ok && length) {
        pthread_mutex_lock(&f->device.lock);
        uint32_t size = current_size(f);
        f->regs.offset = offset >= size || length > size - offset ? size : offset + length;
        pthread_mutex_unlock(&f->device.lock);
    }
    if (!ok)
        dp_trace_guest(f->device.env->trace, "%s: DMA of %u bytes at 0x%llx, control 0x%x, cannot be done", f->device.id, length,
                       (unsigned long long)at, control);
    dp_st32(access, ok ? 0 : __builtin_bswap32(DMA_ERROR));
    (void)to_guest(s, address, access, 4);
}

/* ---- ports ---- */

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    struct fw_cfg *f = opaque;
    if (offset != PORT_DATA || size != 1)
        return ~0ull;
    uint8_t v = 0;
    pthread_mutex_lock(&f->device.lock);
    if (f->regs.offset < current_size(f))
        v = byte_of(f, f->current, f->regs.offset++);
    pthread_mutex_unlock(&f->device.lock);
    return v;
}

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct fw_cfg *f = opaque;
    if (offset != PORT_SELECTOR || size != 2) /* the data port was once writable; firmware that still tries has no harm of it */
        return;
    pthread_mutex_lock(&f->device.lock);
    select_item(f, (uint16_t)value);
    pthread_mutex_unlock(&f->device.lock);
}

static uint64_t dma_port_read(void *opaque, uint64_t offset, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, dma_signature + offset, size);
    return v;
}

static void dma_port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct fw_cfg *f = opaque;
    uint64_t address = 0;
    if (size == 8) {
        address = __builtin_bswap64(value);
    } else if (size == 4) {
        uint32_t v = __builtin_bswap32((uint32_t)value);
        pthread_mutex_lock(&f->device.lock);
        address = (uint64_t)f->regs.dma_high << 32 | v;
        f->regs.dma_high = offset ? 0 : v;
        pthread_mutex_unlock(&f->device.lock);
        if (!offset)
            return;
    } else {
        dp_trace_guest(f->device.env->trace, "%s: a DMA address is written in pieces of 4 bytes, not %u", f->device.id, size);
        return;
    }
    dma(f, address);
}

static const struct dp_window_ops port_ops = {.name = "fw-cfg", .read = port_read, .write = port_write, .min_size = 1, .max_size = 2};
static const struct dp_window_ops dma_ops = {.name = "fw-cfg-dma", .read = dma_port_read, .write = dma_port_write};
static const struct dp_window_spec windows[] = {
    [DP_FW_CFG_WINDOW] = {"ports", 2, &port_ops, true},
    [DP_FW_CFG_WINDOW_DMA] = {"dma", 8, &dma_ops, true},
};

/* ---- life ---- */

static const struct dp_field fields[] = {
    DP_FIELD_U16(struct fw_cfg_regs, selector, 1, 0, 0),
    DP_FIELD_U32(struct fw_cfg_regs, offset, 2, 0, 0),
    DP_FIELD_U32(struct fw_cfg_regs, dma_high, 3, 0, 0),
    DP_FIELD_BYTES(struct fw_cfg_regs, written, 4),
};
static const struct dp_state_table state = DP_STATE_TABLE(struct fw_cfg_regs, "fw-cfg", fields);

static int init(struct dp_device *d, struct dp_error *e)
{
    struct fw_cfg *f = (struct fw_cfg *)d;
    static const uint8_t features[4] = {FEATURES};
    struct item *signature = new_item(DP_FW_CFG_SIGNATURE, "", dma_signature, 4), *id = new_item(DP_FW_CFG_ID, "", features, 4);
    if (!signature || !id || build_directory(f)) {
        free(signature);
        free(id);
        return dp_error_set(e, -ENOMEM, "no memory for the first items");
    }
    put(f, NULL, signature);
    put(f, NULL, id);
    return 0;
}

static void fini(struct dp_device *d)
{
    struct fw_cfg *f = (struct fw_cfg *)d;
    for (unsigned i = 0; i < f->count; i++)
        free(f->items[i]);
    f->count = 0;
}

static void reset(struct dp_device *d)
{
    struct fw_cfg *f = (struct fw_cfg *)d;
    pthread_mutex_lock(&d->lock);
    for (unsigned i = 0; i < f->count; i++)
        if (f->items[i]->writable)
            memcpy(f->regs.written + f->items[i]->at, f->items[i]->data, f->items[i]->size);
    refresh_current(f);
    pthread_mutex_unlock(&d->lock);
}

static void post_load(struct dp_device *d)
{
    pthread_mutex_lock(&d->lock);
    refresh_current((struct fw_cfg *)d);
    pthread_mutex_unlock(&d->lock);
}

const struct dp_device_class dp_fw_cfg_class = {
    .name = "fw-cfg",
    .summary = "firmware configuration items (QEMU's interface)",
    .size = sizeof(struct fw_cfg),
    .regs_offset = offsetof(struct fw_cfg, regs),
    .state = &state,
    .windows = windows,
    .window_count = DP_ARRAY_LEN(windows),
    .init = init,
    .fini = fini,
    .reset = reset,
    .post_load = post_load,
};
