/* machine/i440fx.c - see i440fx.h. */
#include "machine/i440fx.h"

enum { PAM0 = 0x59, SMRAM = 0x72, D_OPEN = 1 << 6, D_LCK = 1 << 4, G_SMRAME = 1 << 3, PAM_RE = 1, PAM_WE = 2 };
#define FIRST_SEGMENT 0xc0000ull
#define SMRAM_BASE 0xa0000ull
#define SMRAM_SIZE 0x20000ull
#define ROM_END 0x100000ull
#define ROM_SHOWN 0x20000ull /* as much of the ROM as is below 1 MiB */

/* Where a segment shows the ROM; false: nowhere. */
static bool rom_offset(const struct i440fx_segment *s, uint64_t *offset)
{
    const struct dp_ram *rom = s->owner->rom;
    uint64_t from_end = ROM_END - s->base;
    if (!rom || from_end > DP_MIN(rom->size, ROM_SHOWN))
        return false;
    *offset = rom->size - from_end;
    return true;
}

/* ---- ROM for reads, RAM for writes ---- */

static uint64_t copy_read(void *opaque, uint64_t offset, unsigned size)
{
    const struct i440fx_segment *s = opaque;
    uint64_t at, value = dp_mask_bytes(size);
    if (rom_offset(s, &at))
        memcpy(&value, s->owner->rom->host + at + offset, size);
    return value & dp_mask_bytes(size);
}

static void copy_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    const struct i440fx_segment *s = opaque;
    struct dp_ram *ram = s->owner->ram;
    memcpy(ram->host + s->base + offset, &value, size);
    dp_ram_mark_dirty(ram, s->base + offset, size);
}

static const struct dp_window_ops copy_ops = {"i440fx-copy", copy_read, copy_write, 1, 8};

/* ---- mapping ---- */

static int map_segment(struct i440fx_segment *s, uint8_t bits, struct dp_error *e)
{
    struct i440fx *n = s->owner;
    uint64_t at;
    int rc = 0;
    if (s->mapped)
        dp_space_unmap(n->memory, s->mapping);
    s->bits = bits;
    s->mapped = true;
    if (bits & PAM_RE) {
        rc = dp_space_map_ram(n->memory, s->base, n->ram, s->base, s->size, !(bits & PAM_WE), 0, &s->mapping, e);
    } else if (bits & PAM_WE) {
        rc = dp_space_map_window(n->memory, s->base, s->size, &copy_ops, s, 0, &s->mapping, e);
    } else if (rom_offset(s, &at)) {
        rc = dp_space_map_ram(n->memory, s->base, n->rom, at, s->size, true, 0, &s->mapping, e);
    } else {
        s->mapped = false;
    }
    s->mapped &= !rc;
    return rc;
}

static uint8_t wanted(const uint8_t *config, unsigned segment)
{
    if (segment == I440FX_SEGMENTS - 1)
        return config[PAM0] >> 4 & 3;
    return config[PAM0 + 1 + segment / 2] >> (segment & 1) * 4 & 3;
}

static void changed(struct dp_pci_function *f)
{
    struct i440fx *n = f->opaque;
    struct dp_error e = {0};
    uint8_t config[SMRAM + 1];
    pthread_mutex_lock(&n->lock);
    pthread_mutex_lock(f->lock);
    memcpy(config, f->regs->config, sizeof(config));
    pthread_mutex_unlock(f->lock);
    dp_space_begin(n->memory);
    for (unsigned i = 0; i < I440FX_SEGMENTS; i++)
        if (n->segment[i].bits != wanted(config, i) && map_segment(&n->segment[i], wanted(config, i), &e))
            dp_trace_guest(f->env->trace, "i440fx: segment %u: %s", i, e.text);
    bool open = config[SMRAM] & D_OPEN;
    if (open != n->smram_open) {
        if (n->smram_open)
            dp_space_unmap(n->memory, n->smram_mapping);
        n->smram_open = open && !dp_space_map_ram(n->memory, SMRAM_BASE, n->ram, SMRAM_BASE, SMRAM_SIZE, false, 1, &n->smram_mapping, &e);
    }
    dp_space_commit(n->memory);
    bool shown = n->smm_memory && config[SMRAM] & G_SMRAME;
    if (shown != n->smm_shown) {
        if (n->smm_shown)
            dp_space_unmap(n->smm_memory, n->smm_mapping);
        n->smm_shown = shown && !dp_space_map_ram(n->smm_memory, SMRAM_BASE, n->ram, SMRAM_BASE, SMRAM_SIZE, false, 0, &n->smm_mapping, &e);
    }
    pthread_mutex_unlock(&n->lock);
}

int i440fx_init(struct i440fx *n, struct dp_space *memory, struct dp_space *smm_memory, struct dp_ram *ram, struct dp_ram *rom, struct dp_error *e)
{
    *n = (struct i440fx){.memory = memory, .smm_memory = smm_memory, .ram = ram, .rom = rom};
    pthread_mutex_init(&n->lock, NULL);
    for (unsigned i = 0; i < I440FX_SEGMENTS; i++) {
        n->segment[i] = (struct i440fx_segment){
            .owner = n, .base = FIRST_SEGMENT + i * 0x4000ull, .size = i == I440FX_SEGMENTS - 1 ? 0x10000 : 0x4000};
        int rc = map_segment(&n->segment[i], 0, e);
        if (rc)
            return rc;
    }
    return 0;
}

/* SMRAM may be locked: then it stays as it is, closed, until a reset. */
static bool access(struct dp_pci_function *f, unsigned offset, unsigned size, uint32_t *value, bool write)
{
    if (!write || offset > SMRAM || offset + size <= SMRAM)
        return false;
    pthread_mutex_lock(f->lock);
    bool locked = f->regs->config[SMRAM] & D_LCK;
    pthread_mutex_unlock(f->lock);
    unsigned shift = (SMRAM - offset) * 8;
    if (*value >> shift & D_LCK)
        *value &= ~((uint32_t)D_OPEN << shift);
    return locked;
}

void i440fx_attach(struct i440fx *n, struct dp_pci_function *f)
{
    n->bridge = f;
    dp_pci_set_config(f, 0x00, 0x12378086, 4);
    dp_pci_set_config(f, 0x08, 0x06000002, 4);
    dp_pci_set_config(f, SMRAM, 0x02, 1);
    memset(f->write_mask + 0x50, 0xff, PAM0 - 0x50); /* cache and DRAM control: kept, mean nothing here */
    memset(f->write_mask + PAM0, 0x33, 7);
    memset(f->write_mask + 0x60, 0xff, 8);           /* DRAM row boundaries */
    f->write_mask[SMRAM] = 0x78;
    f->config_access = access;
    f->config_changed = changed;
    f->opaque = n;
    f->watch_first = PAM0;
    f->watch_last = SMRAM;
}

void i440fx_fini(struct i440fx *n)
{
    if (n->memory)
        pthread_mutex_destroy(&n->lock);
}
