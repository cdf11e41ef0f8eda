/* machine/smbios.c - see smbios.h. Offsets are the specification's, in a structure with its 4 bytes of header. */
#include "machine/smbios.h"

#include "base/uuid.h"

#define GiB (UINT64_C(1) << 30)
enum { BIOS = 0, SYSTEM = 1, ENCLOSURE = 3, PROCESSOR = 4, MEMORY_ARRAY = 16, MEMORY_DEVICE = 17, MAPPED_ADDRESS = 19, BOOT_STATUS = 32, END = 127 };
enum { HANDLE_ARRAY = 0x1000, HANDLE_DEVICE = 0x1100, HANDLE_MAPPED = 0x1300, NO_HANDLE = 0xffff, NO_ERROR_HANDLE = 0xfffe };
enum { OTHER = 1, UNKNOWN = 2, SAFE = 3, DEVICES_MAX = 64 };

struct writer {
    struct dp_buffer *out;
    unsigned count;
    size_t largest;
};

/* A structure: its formatted area, then its strings (a NULL ends the list), which bytes of the area name by number from 1. */
static void put(struct writer *w, uint8_t type, uint16_t handle, uint8_t *area, uint8_t size, const char *const *strings)
{
    size_t start = w->out->size;
    area[0] = type;
    area[1] = size;
    dp_st16(area + 2, handle);
    dp_buffer_append(w->out, area, size);
    for (const char *const *s = strings; s && *s; s++)
        dp_buffer_append(w->out, *s, strlen(*s) + 1);
    dp_buffer_append(w->out, "\0", strings && *strings ? 1 : 2);
    w->count++;
    w->largest = DP_MAX(w->largest, w->out->size - start);
}

static void bios(struct writer *w, const struct dp_smbios_config *c)
{
    enum { NO_CHARACTERISTICS = 1 << 3, VIRTUAL_MACHINE = 1 << 4, UEFI = 1 << 3 };
    uint8_t a[0x18] = {[4] = 1, [5] = 2, [8] = 3, [10] = NO_CHARACTERISTICS, [0x13] = VIRTUAL_MACHINE, [0x16] = 0xff, [0x17] = 0xff};
    dp_st16(a + 6, c->uefi ? 0 : 0xe800); /* segment */
    a[0x13] |= c->uefi ? UEFI : 0;
    put(w, BIOS, 0, a, sizeof a, (const char *const[]){"doppel", c->uefi ? "OVMF" : "SeaBIOS", "01/01/2026", NULL});
}

static void system_(struct writer *w, const struct dp_smbios_config *c)
{
    enum { POWER_SWITCH = 6 };
    uint8_t a[0x1b] = {[4] = 1, [5] = 2, [6] = 3, [0x18] = POWER_SWITCH, [0x1a] = 4};
    dp_uuid_swap(c->uuid, a + 8);
    put(w, SYSTEM, 0x100, a, sizeof a, (const char *const[]){"doppel", "PC", "1", "Virtual Machine", NULL});
}

static void enclosure(struct writer *w, const struct dp_smbios_config *c)
{
    bool named = c->name && *c->name;
    uint8_t a[0x16] = {[4] = 1, [5] = OTHER, [8] = named ? 2 : 0, [9] = SAFE, [10] = SAFE, [11] = SAFE, [12] = UNKNOWN};
    put(w, ENCLOSURE, 0x300, a, sizeof a, (const char *const[]){"doppel", named ? c->name : NULL, NULL});
}

static void processor(struct writer *w, const struct dp_smbios_config *c)
{
    enum { CENTRAL = 3, POPULATED_ENABLED = 0x41, IS_64_BIT = 1 << 2, MULTI_CORE = 1 << 3 };
    const struct x86_cpuid_model *m = c->model;
    uint32_t id[4] = {0};
    uint8_t a[0x2a] = {[4] = 1, [5] = CENTRAL, [6] = OTHER, [7] = 2, [0x10] = 3, [0x18] = POPULATED_ENABLED, [0x19] = OTHER};
    struct x86_state s;
    x86_state_reset(&s, true);
    x86_cpuid(m, &s, 0, 1, 0, id);
    dp_st32(a + 8, id[0]);
    dp_st32(a + 12, id[3]);
    uint16_t mhz = (uint16_t)DP_MIN(m->tsc_khz / 1000, 0xffffu);
    dp_st16(a + 0x14, mhz);
    dp_st16(a + 0x16, mhz);
    for (unsigned cache = 0x1a; cache < 0x20; cache += 2)
        dp_st16(a + cache, NO_HANDLE);
    a[0x23] = a[0x24] = a[0x25] = (uint8_t)DP_MIN(m->cpu_count, 255u); /* cores, of them enabled, threads */
    dp_st16(a + 0x26, IS_64_BIT | (m->cpu_count > 1 ? MULTI_CORE : 0));
    dp_st16(a + 0x28, OTHER);
    put(w, PROCESSOR, 0x400, a, sizeof a, (const char *const[]){"CPU 0", m->vendor, m->brand, NULL});
}

/* All the machine's RAM in devices of equal size but for the last. */
static void memory(struct writer *w, const struct dp_smbios_config *c)
{
    enum { ON_BOARD = 3, SYSTEM_MEMORY = 3, NO_CORRECTION = 3, DIMM = 9, RAM = 7, OTHER_DETAIL = 1 << 1, UNKNOWN_WIDTH = 0xffff, EXTENDED_SIZE = 0x7fff };
    uint64_t total = c->low + c->high, each = 16 * GiB, kib = total >> 10;
    while (total > DEVICES_MAX * each)
        each *= 2;
    unsigned devices = (unsigned)((total + each - 1) / each);
    uint8_t array[0x17] = {[4] = ON_BOARD, [5] = SYSTEM_MEMORY, [6] = NO_CORRECTION};
    dp_st32(array + 7, kib < 0x80000000 ? (uint32_t)kib : 0x80000000);
    dp_st16(array + 11, NO_ERROR_HANDLE);
    dp_st16(array + 13, (uint16_t)devices);
    dp_st64(array + 15, kib < 0x80000000 ? 0 : total);
    put(w, MEMORY_ARRAY, HANDLE_ARRAY, array, sizeof array, NULL);

    for (unsigned i = 0; i < devices; i++) {
        uint64_t mib = (DP_MIN(each, total - i * each) + (1 << 20) - 1) >> 20;
        char slot[16];
        uint8_t a[0x28] = {[0x0e] = DIMM, [0x10] = 1, [0x12] = RAM, [0x13] = OTHER_DETAIL, [0x17] = 2};
        snprintf(slot, sizeof slot, "DIMM %u", i);
        dp_st16(a + 4, HANDLE_ARRAY);
        dp_st16(a + 6, NO_ERROR_HANDLE);
        dp_st16(a + 8, UNKNOWN_WIDTH);
        dp_st16(a + 10, UNKNOWN_WIDTH);
        dp_st16(a + 12, mib < EXTENDED_SIZE ? (uint16_t)mib : EXTENDED_SIZE);
        dp_st32(a + 0x1c, mib < EXTENDED_SIZE ? 0 : (uint32_t)mib);
        put(w, MEMORY_DEVICE, (uint16_t)(HANDLE_DEVICE + i), a, sizeof a, (const char *const[]){slot, "doppel", NULL});
    }

    const struct { uint64_t start, size; } piece[2] = {{0, c->low}, {4 * GiB, c->high}};
    for (unsigned i = 0; i < 2 && piece[i].size; i++) {
        uint64_t start = piece[i].start, end = start + piece[i].size - 1;
        bool wide = end >> 10 >= 0xffffffff;
        uint8_t a[0x1f] = {[14] = (uint8_t)devices};
        dp_st32(a + 4, wide ? 0xffffffff : (uint32_t)(start >> 10));
        dp_st32(a + 8, wide ? 0xffffffff : (uint32_t)(end >> 10));
        dp_st16(a + 12, HANDLE_ARRAY);
        dp_st64(a + 15, wide ? start : 0);
        dp_st64(a + 23, wide ? end : 0);
        put(w, MAPPED_ADDRESS, (uint16_t)(HANDLE_MAPPED + i), a, sizeof a, NULL);
    }
}

static uint8_t checksum(const uint8_t *p, size_t size)
{
    uint8_t sum = 0;
    while (size--)
        sum = (uint8_t)(sum + *p++);
    return (uint8_t)-sum;
}

int dp_smbios_build(const struct dp_smbios_config *c, uint8_t anchor[DP_SMBIOS_ANCHOR], struct dp_buffer *tables, struct dp_error *e)
{
    enum { INTERMEDIATE = 16 };
    *tables = (struct dp_buffer){0};
    struct writer w = {.out = tables};
    uint8_t boot[11] = {0}, end[4] = {0};
    bios(&w, c);
    system_(&w, c);
    enclosure(&w, c);
    processor(&w, c);
    memory(&w, c);
    put(&w, BOOT_STATUS, 0x2000, boot, sizeof boot, NULL);
    put(&w, END, 0x7f00, end, sizeof end, NULL);
    if (tables->failed || tables->size > 0xffff) {
        dp_buffer_fini(tables);
        *tables = (struct dp_buffer){0};
        return dp_error_set(e, -ENOMEM, "the SMBIOS tables cannot be made: not enough memory or room");
    }
    memset(anchor, 0, DP_SMBIOS_ANCHOR);
    memcpy(anchor, "_SM_", 4);
    anchor[5] = DP_SMBIOS_ANCHOR;
    anchor[6] = 2;
    anchor[7] = 8;
    dp_st16(anchor + 8, (uint16_t)w.largest);
    memcpy(anchor + INTERMEDIATE, "_DMI_", 5);
    dp_st16(anchor + 22, (uint16_t)tables->size); /* the address, at 24, is firmware's to fill in */
    dp_st16(anchor + 28, (uint16_t)w.count);
    anchor[30] = 0x28;
    anchor[21] = checksum(anchor + INTERMEDIATE, DP_SMBIOS_ANCHOR - INTERMEDIATE);
    anchor[4] = checksum(anchor, DP_SMBIOS_ANCHOR);
    return 0;
}
