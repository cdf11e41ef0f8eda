/* machine/pam.c - see pam.h. */
#include "machine/pam.h"

enum { D_OPEN = 1 << 6, D_LCK = 1 << 4, PAM_RE = 1, PAM_WE = 2 };
#define FIRST_SEGMENT 0xc0000ull
#define SMRAM_BASE 0xa0000ull
#define SMRAM_SIZE 0x20000ull
#define ROM_END 0x100000ull
#define ROM_SHOWN 0x20000ull /* as much of the ROM as is below 1 MiB */

/* Where a segment shows the ROM; false: nowhere. */
static bool rom_offset(const struct pam_segment *s, uint64_t *offset)
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
    const struct pam_segment *s = opaque;
    uint64_t at, value = dp_mask_bytes(size);
    if (rom_offset(s, &at))
        memcpy(&value, s->owner->rom->host + at + offset, size);
    return value & dp_mask_bytes(size);
}

static void copy_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    const struct pam_segment *s = opaque;
    struct dp_ram *ram = s->owner->ram;
    memcpy(ram->host + s->base + offset, &value, size);
    dp_ram_mark_dirty(ram, s->base + offset, size);
}

static const struct dp_window_ops copy_ops = {"pam-copy", copy_read, copy_write, 1, 8};

/* ---- mapping ---- */

static int map_segment(struct pam_segment *s, uint8_t bits, struct dp_error *e)
{
    struct pam *n = s->owner;
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

static uint8_t wanted(const uint8_t pam[7], unsigned segment)
{
    if (segment == PAM_SEGMENTS - 1)
        return pam[0] >> 4 & 3;
    return pam[1 + segment / 2] >> (segment & 1) * 4 & 3;
}

void pam_changed(struct pam *n)
{
    struct dp_pci_function *f = n->bridge;
    struct dp_error e = {0};
    uint8_t pam[7];
    pthread_mutex_lock(&n->lock);
    pthread_mutex_lock(f->lock);
    memcpy(pam, f->regs->config + n->pam0, sizeof(pam));
    bool open = f->regs->config[n->smram] & D_OPEN;
    pthread_mutex_unlock(f->lock);
    dp_space_begin(n->memory);
    for (unsigned i = 0; i < PAM_SEGMENTS; i++)
        if (n->segment[i].bits != wanted(pam, i) && map_segment(&n->segment[i], wanted(pam, i), &e))
            dp_trace_guest(f->env->trace, "pam: segment %u: %s", i, e.text);
    if (open != n->smram_open) {
        if (n->smram_open)
            dp_space_unmap(n->memory, n->smram_mapping);
        n->smram_open = open && !dp_space_map_ram(n->memory, SMRAM_BASE, n->ram, SMRAM_BASE, SMRAM_SIZE, false, 1, &n->smram_mapping, &e);
    }
    dp_space_commit(n->memory);
    pthread_mutex_unlock(&n->lock);
}

int pam_init(struct pam *n, struct dp_space *memory, struct dp_ram *ram, struct dp_ram *rom, struct dp_error *e)
{
    *n = (struct pam){.memory = memory, .ram = ram, .rom = rom};
    pthread_mutex_init(&n->lock, NULL);
    for (unsigned i = 0; i < PAM_SEGMENTS; i++) {
        n->segment[i] = (struct pam_segment){
            .owner = n, .base = FIRST_SEGMENT + i * 0x4000ull, .size = i == PAM_SEGMENTS - 1 ? 0x10000 : 0x4000};
        int rc = map_segment(&n->segment[i], 0, e);
        if (rc)
            return rc;
    }
    return 0;
}

bool pam_locked(struct pam *n, unsigned offset, unsigned size, bool write)
{
    if (!write || offset > n->last_locked || offset + size <= n->smram)
        return false;
    pthread_mutex_lock(n->bridge->lock);
    bool locked = n->bridge->regs->config[n->smram] & D_LCK;
    pthread_mutex_unlock(n->bridge->lock);
    return locked;
}

void pam_attach(struct pam *n, struct dp_pci_function *f, uint8_t pam0, uint8_t smram, uint8_t last_locked)
{
    n->bridge = f;
    n->pam0 = pam0;
    n->smram = smram;
    n->last_locked = last_locked;
    dp_pci_set_config(f, smram, 0x02, 1);
    memset(f->write_mask + pam0, 0x33, 7);
    f->write_mask[smram] = 0x78;
}

void pam_fini(struct pam *n)
{
    if (n->memory)
        pthread_mutex_destroy(&n->lock);
}
