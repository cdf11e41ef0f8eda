/* fuzz_firmware.c - the devices that firmware talks to, one at a time, as a hostile guest drives them: fw_cfg with DMA structures anywhere
 * in memory, flash in a file, the HPET, the parallel port, the debug console; with time, pauses, resets and damaged saves in between.
 *
 * Input: the first byte picks the device; then a byte per operation and its operands. Besides crashes it finds: legacy interrupts driven
 * while legacy is off, flash whose file is not what the guest reads, a save that does not give the same state when it is loaded.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "console/console.h"
#include "devices/char/debugcon.h"
#include "devices/char/parallel.h"
#include "devices/firmware/fw_cfg.h"
#include "devices/firmware/pflash.h"
#include "devices/timer/hpet.h"
#include "tests/fuzz/input.h"

enum { RAM_SIZE = 1 << 20, OPERATIONS_MAX = 600, FLASH_SIZE = 4 * DP_PFLASH_BLOCK, ACCESS = 0x8000 };
enum { FW_CFG, PFLASH, HPET, PARALLEL, DEBUGCON, DEVICES };
#define FLASH_BASE 0xffffc000ull

struct world {
    struct dp_device_env env;
    struct dp_ram *ram;
    struct dp_device *d;
    struct dp_console *console;
    unsigned kind;
    int file;
    bool legacy;
};

static void set_pin(void *opaque, unsigned n, bool level) { }
static void set_legacy(void *opaque, unsigned n, bool level) { ((struct world *)opaque)->legacy = level; }
static void set_legacy_irq(void *opaque, unsigned n, bool level) { MUST(!((struct world *)opaque)->legacy); }
static void send_message(void *opaque, uint64_t address, uint32_t data) { MUST(address >> 32); }

static void make_fw_cfg(struct world *w)
{
    static const uint8_t bytes[5000];
    struct dp_device *d = w->d = dp_device_alloc(&dp_fw_cfg_class, "fw_cfg", &w->env);
    MUST(dp_device_init(d, NULL));
    MUST(dp_fw_cfg_add_number(d, DP_FW_CFG_NB_CPUS, 1, 2, NULL));
    MUST(dp_fw_cfg_add_bytes(d, DP_FW_CFG_KERNEL_DATA, bytes, sizeof bytes, NULL));
    MUST(dp_fw_cfg_add_file(d, "etc/table", "0123456789", 10, NULL));
    MUST(dp_fw_cfg_add_file(d, "empty", NULL, 0, NULL));
    MUST(dp_fw_cfg_add_writable(d, "etc/small", "abcd", 4, NULL));
    MUST(dp_fw_cfg_add_writable(d, "etc/rest", bytes, DP_FW_CFG_WRITABLE_MAX - 4, NULL));
    MUST(dp_device_map(d, DP_FW_CFG_WINDOW, DP_FW_CFG_PORT, NULL));
    MUST(dp_device_map(d, DP_FW_CFG_WINDOW_DMA, DP_FW_CFG_PORT_DMA, NULL));
}

static void make_pflash(struct world *w, bool readonly)
{
    char path[40];
    w->file = memfd_create("flash", MFD_CLOEXEC);
    MUST(w->file < 0 || ftruncate(w->file, FLASH_SIZE));
    snprintf(path, sizeof path, "/proc/self/fd/%d", w->file);
    w->d = dp_device_alloc(&dp_pflash_class, "pflash", &w->env);
    dp_pflash_wire(w->d, &(struct dp_pflash_options){.path = path, .readonly = readonly});
    MUST(dp_device_init(w->d, NULL));
    MUST(dp_pflash_map(w->d, FLASH_BASE, NULL));
}

static void make_hpet(struct world *w)
{
    struct dp_hpet_wires wires = {.irq0 = {set_legacy_irq, w, 0}, .irq8 = {set_legacy_irq, w, 8}, .legacy = {set_legacy, w, 0}};
    for (unsigned n = 2; n < DP_HPET_PINS; n += 3)
        wires.pin[n] = (struct dp_irq){set_pin, w, n};
    w->d = dp_device_alloc(&dp_hpet_class, "hpet", &w->env);
    dp_hpet_wire(w->d, &wires);
    MUST(dp_device_set(w->d, "msi", "on", NULL));
    MUST(dp_device_init(w->d, NULL));
    MUST(dp_device_map(w->d, DP_HPET_WINDOW, DP_HPET_BASE, NULL));
}

static void world_init(struct world *w, unsigned pick)
{
    memset(w, 0, sizeof *w);
    w->kind = pick % DEVICES;
    w->file = -1;
    MUST(dp_clock_create_manual(&w->env.clock, NULL));
    MUST(dp_space_create("memory", 1ull << 40, NULL, &w->env.memory, NULL));
    MUST(dp_space_create("ports", 0x10000, NULL, &w->env.ports, NULL));
    MUST(dp_ram_create("ram", RAM_SIZE, &w->ram, NULL));
    MUST(dp_space_map_ram(w->env.memory, 0, w->ram, 0, RAM_SIZE, false, 0, NULL, NULL));
    MUST(dp_console_open_memory(&w->console, NULL));
    w->env.msi = (struct dp_msi_sink){send_message, w};
    switch (w->kind) {
    case FW_CFG: make_fw_cfg(w); break;
    case PFLASH: make_pflash(w, pick & 0x80); break;
    case HPET: make_hpet(w); break;
    case PARALLEL:
        w->d = dp_device_alloc(&dp_parallel_class, "parallel", &w->env);
        dp_parallel_wire(w->d, (struct dp_irq){set_pin, w, 7}, w->console);
        MUST(dp_device_init(w->d, NULL));
        MUST(dp_device_map(w->d, DP_PARALLEL_WINDOW, 0x378, NULL));
        break;
    case DEBUGCON:
        w->d = dp_device_alloc(&dp_debugcon_class, "debugcon", &w->env);
        dp_debugcon_wire(w->d, pick & 0x80 ? w->console : NULL, DP_TRACE_BOOT);
        MUST(dp_device_init(w->d, NULL));
        MUST(dp_device_map(w->d, DP_DEBUGCON_WINDOW, DP_DEBUGCON_PORT, NULL));
        break;
    }
    dp_device_resume(w->d);
}

static void check_flash(struct world *w)
{
    static uint8_t bytes[FLASH_SIZE];
    MUST(pread(w->file, bytes, FLASH_SIZE, 0) != FLASH_SIZE);
    MUST(memcmp(bytes, dp_pflash_ram(w->d)->host, FLASH_SIZE));
    dp_device_reset(w->d); /* array mode */
    for (uint64_t at = 0; at < FLASH_SIZE; at += 999)
        MUST(dp_space_load(w->env.memory, FLASH_BASE + at, 1) != bytes[at]);
}

static void world_fini(struct world *w)
{
    dp_device_pause(w->d);
    if (w->kind == PFLASH)
        check_flash(w);
    dp_device_free(w->d);
    dp_console_close(w->console);
    dp_space_destroy(w->env.memory);
    dp_space_destroy(w->env.ports);
    dp_ram_destroy(w->ram);
    dp_clock_destroy(w->env.clock);
    if (w->file >= 0)
        close(w->file);
}

/* A DMA operation of fw_cfg, its structure mostly in RAM. */
static void dma(struct world *w, struct input *in, unsigned code)
{
    struct dp_space *m = w->env.memory;
    uint32_t control = (uint32_t)take(in, 1), key = (uint32_t)take(in, 1) % 0x28, length = (uint32_t)take(in, 2);
    uint64_t at = take(in, 3), structure = code & 0x80 ? take(in, 5) : ACCESS;
    if (code & 0x40)
        at = at << 20 | 0xfffff;
    if (code & 0x20)
        length = length << 16 | length;
    dp_space_store(m, structure, __builtin_bswap32(key << 16 | control), 4);
    dp_space_store(m, structure + 4, __builtin_bswap32(length), 4);
    dp_space_store(m, structure + 8, __builtin_bswap64(at), 8);
    dp_space_store(w->env.ports, DP_FW_CFG_PORT_DMA, __builtin_bswap32((uint32_t)(structure >> 32)), 4);
    dp_space_store(w->env.ports, DP_FW_CFG_PORT_DMA + 4, __builtin_bswap32((uint32_t)structure), 4);
}

/* An address of the device and the space it is in. */
static uint64_t place(struct world *w, struct input *in, struct dp_space **s)
{
    static const uint16_t hpet[] = {0, 0x10, 0x20, 0xf0, 0x100, 0x108, 0x110, 0x120, 0x128, 0x130, 0x140, 0x148, 0x150, 0x160, 0x200,
                                    0x3f8};
    unsigned v = (unsigned)take(in, 2);
    *s = w->kind == PFLASH || w->kind == HPET ? w->env.memory : w->env.ports;
    switch (w->kind) {
    case FW_CFG: return DP_FW_CFG_PORT + v % 13;
    case PFLASH: return FLASH_BASE + v % FLASH_SIZE;
    case HPET: return DP_HPET_BASE + (v & 0x8000 ? v % 0x404 : hpet[v & 15] + (v >> 4 & 4));
    case PARALLEL: return 0x378 + v % 3;
    default: return DP_DEBUGCON_PORT;
    }
}

/* What needs more than one access to matter. */
static void sequence(struct world *w, struct input *in, unsigned code)
{
    static const uint8_t commands[] = {0x10, 0x20, 0x40, 0x50, 0x60, 0x70, 0x90, 0x98, 0xd0, 0xe8, 0xff, 0x01, 0x00, 0xf0, 0x2f, 0xb0};
    struct dp_space *s;
    uint64_t at;
    switch (w->kind) {
    case FW_CFG: dma(w, in, code); break;
    case PFLASH:
        at = place(w, in, &s);
        dp_space_store(s, at, commands[code >> 4], 1);
        dp_space_store(s, at, take(in, 1), 1);
        break;
    case HPET: {
        uint64_t t = DP_HPET_BASE + 0x100 + (code >> 4) % 3 * 0x20, count = dp_space_load(w->env.memory, DP_HPET_BASE + 0xf0, 8);
        dp_space_store(w->env.memory, t, take(in, 2), 4);
        dp_space_store(w->env.memory, t + 8, count + take(in, 2), 8);
        if (code & 0x80)
            dp_space_store(w->env.memory, t + 8, take(in, 2), 8);
        dp_space_store(w->env.memory, DP_HPET_BASE + 0x10, 1 | (code >> 5 & 2), 4);
        break;
    }
    default: dp_console_limit(w->console, take(in, 1) % 8); break;
    }
}

static void save_and_load(struct world *w, struct input *in)
{
    struct dp_buffer image = {0}, again = {0};
    struct dp_error e = {0};
    size_t used;
    dp_device_pause(w->d);
    dp_device_save(w->d, &image);
    MUST(dp_device_load(w->d, image.data, image.size, &used, &e) || used != image.size);
    dp_device_save(w->d, &again);
    MUST(again.size != image.size || memcmp(again.data, image.data, image.size));
    for (unsigned n = (unsigned)take(in, 1) % 8; n; n--)
        image.data[take(in, 2) % image.size] ^= take(in, 1);
    if (dp_device_load(w->d, image.data, image.size, &used, &e))
        MUST(!e.text[0]);
    dp_buffer_fini(&image);
    dp_buffer_fini(&again);
    dp_device_resume(w->d);
}

static void operation(struct world *w, struct input *in)
{
    unsigned code = (unsigned)take(in, 1), size = 1u << (code >> 4 & 3);
    struct dp_space *s;
    uint64_t at;
    switch (code & 7) {
    case 0: case 1:
        at = place(w, in, &s);
        dp_space_store(s, at, take(in, size), size);
        break;
    case 2:
        at = place(w, in, &s);
        dp_space_load(s, at, size);
        break;
    case 3: dp_clock_advance(w->env.clock, take(in, code & 0x80 ? 3 : 2)); break;
    case 4: case 5: sequence(w, in, code); break;
    case 6: save_and_load(w, in); break;
    case 7:
        if (code & 0x80)
            dp_device_pause(w->d);
        if (code & 0x40)
            dp_device_reset(w->d);
        if (code & 0x20)
            dp_clock_advance(w->env.clock, take(in, 2));
        dp_device_resume(w->d);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w;
    struct input in = {data, data + size};
    world_init(&w, (unsigned)take(&in, 1));
    for (unsigned n = 0; n < OPERATIONS_MAX && in.at < in.end; n++)
        operation(&w, &in);
    world_fini(&w);
    return 0;
}
