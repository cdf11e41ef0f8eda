/* fuzz_board.c - the PC with firmware's board, whole, without processors: every port and register window, configuration space of all functions with
 * BARs moved anywhere, PAM and SMRAM, PIRQ routing, flash, DMA of IDE, floppy and fw_cfg into any memory, keys, pictures, time, resets, restored states.
 *
 * Input: the first byte says how many processors and which media; then a byte per operation and its operands (see `operation`). Addresses and ports are
 * steered towards what exists. The manual clock makes a run repeatable. fuzz_pc.c is the same for the machine without firmware.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/block.h"
#include "console/console.h"
#include "devices/pci/pci.h"
#include "machine/pc.h"
#include "tests/fuzz/input.h"

#define RAM_SIZE (4u << 20)
enum { OPERATIONS_MAX = 400, CPUS_MAX = 2, SLOTS = 8, FUNCTIONS = 4, BIOS = 0x20000, VGA_BIOS = 0x1000, VARIABLES = 0x20000, PRD = 0x180000, SCRATCH = 0x190000 };
enum { DISK_VIRTIO, DISK_IDE, DISK_CD, DISK_FLOPPY, DISKS };
enum { CONSOLES = 4 };

struct world {
    struct x86_cpuid_model model;
    struct dp_pc_firmware firmware;
    struct dp_clock *clock;
    struct dp_pc *pc;
    struct dp_space *memory, *ports;
    struct dp_block *disk[DISKS];
    struct dp_console *console[CONSOLES];
    struct dp_x86_bus bus[CPUS_MAX];
    struct dp_display_source screen;
    struct dp_input_sink keys;
    unsigned cpus;
    uint64_t bar[SLOTS * FUNCTIONS][DP_PCI_BARS]; /* where they were put last; 0: nowhere. Bit 0: a port */
    uint64_t sound; /* position behind the last sample */
    bool reset_requested;
};

static void request(void *opaque, enum dp_vm_request r, int status) { ((struct world *)opaque)->reset_requested |= r == DP_VM_RESET; }
static void line(void *opaque, unsigned cpu, enum dp_line l, unsigned value) { MUST(cpu >= ((struct world *)opaque)->cpus); }
static void play(void *opaque, uint64_t position, const int16_t *samples, unsigned count)
{
    struct world *w = opaque;
    MUST(!count || position < w->sound);
    w->sound = position + count;
}

/* ---- configuration space, by ports ---- */

static uint64_t config_load(struct world *w, unsigned function, unsigned offset, unsigned size)
{
    dp_space_store(w->ports, 0xcf8, 0x80000000 | (function / FUNCTIONS) << 11 | (function % FUNCTIONS) << 8 | (offset & 0xfc), 4);
    return dp_space_load(w->ports, 0xcfc + (offset & 3), size);
}

static void config_store(struct world *w, unsigned function, unsigned offset, uint64_t value, unsigned size)
{
    dp_space_store(w->ports, 0xcf8, 0x80000000 | (function / FUNCTIONS) << 11 | (function % FUNCTIONS) << 8 | (offset & 0xfc), 4);
    dp_space_store(w->ports, 0xcfc + (offset & 3), value, size);
}

static void put_bar(struct world *w, unsigned function, unsigned n, uint64_t at)
{
    config_store(w, function, DP_PCI_BAR0 + 4 * n, at, 4);
    uint64_t v = config_load(w, function, DP_PCI_BAR0 + 4 * n, 4);
    w->bar[function][n] = v & 1 ? v & ~2u : v & ~15u;
}

/* What firmware does: each BAR at a place of its own, everything on. */
static void assign(struct world *w)
{
    uint64_t memory = 0xc0000000, port = 0x4000;
    for (unsigned f = 0; f < SLOTS * FUNCTIONS; f++) {
        if (config_load(w, f, 0, 2) == 0xffff)
            continue;
        for (unsigned n = 0; n < DP_PCI_BARS; n++) {
            config_store(w, f, DP_PCI_BAR0 + 4 * n, 0xffffffff, 4);
            uint64_t v = config_load(w, f, DP_PCI_BAR0 + 4 * n, 4), mask = v & 1 ? v & 0xfffc : v & 0xfffffff0, size = mask & -mask;
            if (!mask)
                continue;
            uint64_t *cursor = v & 1 ? &port : &memory;
            *cursor = DP_ALIGN_UP(*cursor, size);
            put_bar(w, f, n, *cursor);
            *cursor += size;
            if (!(v & 1) && (v & 6) == 4)
                config_store(w, f, DP_PCI_BAR0 + 4 * ++n, 0, 4);
        }
        config_store(w, f, DP_PCI_COMMAND, 7, 2);
    }
    for (unsigned n = 0; n < 4; n++)
        config_store(w, 1 * FUNCTIONS, 0x60 + n, 10 + n / 2, 1);
    config_store(w, 1 * FUNCTIONS + 3, 0x40, 0xb001, 4); /* PMBASE */
    config_store(w, 1 * FUNCTIONS + 3, 0x80, 1, 1);
    if (w->firmware.board == DP_PC_Q35) { /* the same of the ICH9, and configuration space in memory */
        for (unsigned n = 0; n < 4; n++)
            config_store(w, 31 * FUNCTIONS, 0x60 + n, 10 + n / 2, 1);
        config_store(w, 31 * FUNCTIONS, 0x40, 0xb001, 4);
        config_store(w, 31 * FUNCTIONS, 0x44, 0x80, 1);
        config_store(w, 0, 0x60, 0xb0000001, 4);
    }
}

/* ---- life ---- */

static void boot(struct world *w)
{
    struct x86_state s = {0};
    const char *protocol = NULL;
    MUST(dp_pc_boot(w->pc, NULL, &s, &protocol, NULL));
    memset(w->bar, 0, sizeof w->bar);
}

static void world_init(struct world *w, unsigned pick)
{
    static const uint8_t rom[BIOS] = {0x55, 0xaa}, file[] = "mine";
    static const struct dp_boot_blob files[] = {{"opt/fuzz", file, sizeof file}};
    static const unsigned sizes[DISKS] = {1 << 20, 1 << 20, 1 << 20, 1440 << 10};
    memset(w, 0, sizeof *w);
    w->cpus = 1 + (pick & 1);
    MUST(x86_cpuid_model("x86-64-v2", &w->model, NULL));
    MUST(dp_clock_create_manual(&w->clock, NULL));
    for (unsigned i = 0; i < CONSOLES; i++)
        MUST(dp_console_open_memory(&w->console[i], NULL));
    for (unsigned i = 0; i < DISKS; i++) {
        char path[40];
        int fd = memfd_create("disk", MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        MUST(fd < 0 || ftruncate(fd, sizes[i]));
        MUST(dp_block_open(NULL, &(struct dp_block_options){.path = path, .readonly = i == DISK_CD || (i == DISK_FLOPPY && (pick & 2)), .io = DP_BLOCK_IO_THREADS}, &w->disk[i],
                           NULL));
        close(fd);
    }
    w->firmware = (struct dp_pc_firmware){
        .bios = {"bios", rom, BIOS},
        .vga_bios = {"vga", rom, pick & 4 ? VGA_BIOS : 0},
        .variables = {"variables", rom, pick & 8 ? VARIABLES : 0},
        .debug = w->console[2],
        .printer = w->console[3],
        .board = pick & 64 ? DP_PC_Q35 : DP_PC_I440FX,
        .drive = {{w->disk[DISK_IDE], false}, {NULL, false}, {w->disk[DISK_CD], true}, {NULL, pick & 16}},
        .floppy = {w->disk[DISK_FLOPPY]},
        .boot_order = "cda",
        .speaker = {play, w},
        .vmgenid = true,
        .file = files,
        .file_count = DP_ARRAY_LEN(files),
    };
    struct dp_pc_config c = {
        .firmware = &w->firmware,
        .memory = RAM_SIZE,
        .cpus = w->cpus,
        .model = &w->model,
        .clock = w->clock,
        .vm = {request, w},
        .line = line,
        .opaque = w,
        .serial = {w->console[0], w->console[1]},
        .rng = true,
        .balloon = true,
        .disk = {{.block = w->disk[DISK_VIRTIO]}},
        .disk_count = 1,
    };
    MUST(dp_pc_create(&c, &w->pc, NULL));
    w->memory = dp_pc_memory(w->pc);
    w->ports = dp_pc_ports(w->pc);
    for (unsigned i = 0; i < w->cpus; i++)
        dp_pc_bus(w->pc, i, &w->bus[i]);
    MUST(!dp_pc_screen(w->pc, &w->screen, &w->keys));
    dp_pc_reset(w->pc);
    boot(w);
    dp_pc_resume(w->pc);
    if (!(pick & 32))
        assign(w);
}

static void world_fini(struct world *w)
{
    dp_pc_pause(w->pc);
    dp_pc_destroy(w->pc);
    for (unsigned i = 0; i < DISKS; i++)
        dp_block_close(w->disk[i]);
    for (unsigned i = 0; i < CONSOLES; i++)
        dp_console_close(w->console[i]);
    dp_clock_destroy(w->clock);
}

/* As vm/vm.c does it. */
static void reset(struct world *w)
{
    dp_pc_pause(w->pc);
    dp_pc_reset(w->pc);
    boot(w);
    dp_pc_resume(w->pc);
    MUST(dp_space_cpu_mask(w->memory) != UINT64_MAX);
    w->reset_requested = false;
}

/* ---- addresses ---- */

static uint64_t any_bar(struct world *w, uint64_t pick, bool port)
{
    uint64_t found[16] = {0};
    unsigned n = 0;
    for (unsigned f = 0; f < SLOTS * FUNCTIONS; f++)
        for (unsigned b = 0; b < DP_PCI_BARS && n < DP_ARRAY_LEN(found); b++)
            if (w->bar[f][b] && (w->bar[f][b] & 1) == port)
                found[n++] = w->bar[f][b] & ~1ull;
    return n ? found[pick % n] : 0;
}

static uint64_t place(struct world *w, struct input *in)
{
    unsigned kind = (unsigned)take(in, 1);
    uint64_t low = take(in, 3);
    switch (kind & 15) {
    case 0: return 0xfec00000 + low % 0x1008;
    case 1: return 0xfee00000 + low % 0x1008;
    case 2: return 0xfed00000 + low % 0x404; /* HPET */
    case 3: return 0xa0000 + low % 0x20000;  /* VGA */
    case 4: return 0xc0000 + low % 0x40000;  /* PAM */
    case 5: return RAM_SIZE - low % 64;
    case 6: return ~0ull - low;
    case 7: return low << 28;
    case 8: return 0x100000000ull - BIOS - VARIABLES + low % (BIOS + VARIABLES);
    case 9: case 10: return any_bar(w, low, false) + (low >> 6) % 0x4100;
    case 11: return PRD + low % 0x200;
    default: return low % RAM_SIZE;
    }
}

/* A port, mostly one of a device's. */
static uint16_t port_of(struct world *w, struct input *in)
{
    static const uint16_t base[] = {0x00, 0x08, 0x20, 0x40, 0x60, 0x61, 0x64, 0x70, 0x80, 0x88, 0x92, 0xa0, 0xb0, 0xc0, 0xc8, 0xd0, 0xd8, 0xf0, 0x170, 0x1ce, 0x1f0, 0x2f8,
                                    0x376, 0x378, 0x3b0, 0x3b8, 0x3c0, 0x3c8, 0x3d0, 0x3d8, 0x3f0, 0x3f6, 0x3f8, 0x402, 0x4d0, 0x510, 0x514, 0x520, 0x600, 0x608, 0xb000, 0xb008,
                                    0xcf8, 0xcfc};
    uint16_t v = (uint16_t)take(in, 2);
    if ((v & 0xc000) == 0x8000)
        return v;
    if ((v & 0xc000) == 0xc000)
        return (uint16_t)(any_bar(w, v & 15, true) + (v >> 4) % 64);
    return base[v % DP_ARRAY_LEN(base)] + (v >> 8) % 8;
}

/* ---- what needs several accesses to matter ---- */

static void ide_dma(struct world *w, struct input *in, bool secondary)
{
    static const uint8_t commands[] = {0xc8, 0xca, 0x25, 0x35, 0xa0, 0xec, 0x20, 0x30, 0xc4, 0xc5, 0xef, 0xa1, 0x90, 0xe7};
    uint16_t base = secondary ? 0x170 : 0x1f0, bm = (uint16_t)((w->bar[1 * FUNCTIONS + 1][4] & ~1ull) + (secondary ? 8 : 0));
    unsigned flags = (unsigned)take(in, 1);
    for (unsigned i = 0; i < 3; i++) {
        dp_space_store(w->memory, PRD + 8 * i, place(w, in), 4);
        dp_space_store(w->memory, PRD + 8 * i + 4, take(in, 2) | (i == 2 ? 0x80000000 : 0), 4);
    }
    dp_space_store(w->ports, bm + 4, flags & 1 ? place(w, in) : PRD, 4);
    dp_space_store(w->ports, base + 6, 0xe0 | (flags & 0x10), 1);
    dp_space_store(w->ports, base + 2, take(in, 1) & 31, 1);
    for (unsigned i = 3; i < 6; i++)
        dp_space_store(w->ports, base + i, take(in, 1) & (i == 5 ? 0 : 255), 1);
    dp_space_store(w->ports, base + 1, flags >> 1 & 1, 1);
    dp_space_store(w->ports, base + 7, commands[take(in, 1) % DP_ARRAY_LEN(commands)], 1);
    dp_space_store(w->ports, bm, 1 | (flags & 8), 1);
    if (flags & 0x20)
        for (unsigned i = 0; i < 6; i++) /* a packet */
            dp_space_store(w->ports, base, take(in, 2), 2);
}

static void floppy(struct world *w, struct input *in)
{
    static const uint8_t commands[] = {0xe6, 0xc5, 0x4a, 0x0f, 0x07, 0x08, 0x03, 0x13, 0x10, 0x4d, 0x0e, 0xf1};
    unsigned flags = (unsigned)take(in, 1);
    uint32_t at = (uint32_t)place(w, in);
    dp_space_store(w->ports, 0x3f2, 0x1c, 1);
    dp_space_store(w->ports, 0x0c, 0, 1);
    dp_space_store(w->ports, 0x04, at & 255, 1);
    dp_space_store(w->ports, 0x04, at >> 8 & 255, 1);
    dp_space_store(w->ports, 0x81, at >> 16 & 255, 1);
    dp_space_store(w->ports, 0x05, take(in, 1), 1);
    dp_space_store(w->ports, 0x05, take(in, 1) & 15, 1);
    dp_space_store(w->ports, 0x0b, 0x42 | (flags & 0x3c), 1);
    dp_space_store(w->ports, 0x0a, 2, 1);
    dp_space_store(w->ports, 0x3f5, commands[take(in, 1) % DP_ARRAY_LEN(commands)], 1);
    for (unsigned i = 0; i < (flags & 3 ? 8 : 2); i++)
        dp_space_store(w->ports, 0x3f5, take(in, 1) % 40, 1);
}

static void fw_cfg_dma(struct world *w, struct input *in)
{
    uint32_t control = (uint32_t)take(in, 1) & 31, key = (uint32_t)take(in, 1) % 0x30;
    dp_space_store(w->memory, SCRATCH, __builtin_bswap32(key << 16 | control), 4);
    dp_space_store(w->memory, SCRATCH + 4, __builtin_bswap32((uint32_t)take(in, 2)), 4);
    dp_space_store(w->memory, SCRATCH + 8, __builtin_bswap64(place(w, in)), 8);
    dp_space_store(w->ports, 0x514, 0, 4);
    dp_space_store(w->ports, 0x518, __builtin_bswap32(SCRATCH), 4);
}

static void look(struct world *w)
{
    struct dp_display_picture p = {0};
    struct dp_display_text *t = malloc(sizeof *t);
    struct dp_error e = {0};
    MUST(!t);
    w->screen.generation(w->screen.opaque);
    if (!w->screen.picture(w->screen.opaque, &p, &e))
        MUST(p.width > DP_DISPLAY_MAX_WIDTH || p.height > DP_DISPLAY_MAX_HEIGHT);
    if (w->screen.text && w->screen.text(w->screen.opaque, t))
        MUST((uint64_t)t->columns * t->rows > DP_DISPLAY_MAX_CELLS);
    dp_display_picture_fini(&p);
    free(t);
}

/* Saves a device and loads what was saved again, damaged or not; refusing is fine. */
static void save_and_load(struct world *w, struct input *in)
{
    struct dp_device *d = dp_pc_device(w->pc, (unsigned)take(in, 1) % dp_pc_device_count(w->pc));
    struct dp_buffer image = {0};
    struct dp_error e = {0};
    size_t used;
    if (!d->class->state)
        return;
    dp_pc_pause(w->pc);
    dp_device_save(d, &image);
    unsigned damage = (unsigned)take(in, 1) % 8;
    for (unsigned n = damage; n && image.size; n--)
        image.data[take(in, 2) % image.size] ^= take(in, 1);
    if (dp_device_load(d, image.data, image.size, &used, &e))
        MUST(!e.text[0] || !damage);
    dp_buffer_fini(&image);
    dp_pc_resume(w->pc);
}

static void operation(struct world *w, struct input *in)
{
    unsigned code = (unsigned)take(in, 1), size, function;
    const struct dp_x86_bus *bus = &w->bus[(code >> 4) % w->cpus];
    uint64_t at;
    switch (code & 15) {
    case 0:
        at = port_of(w, in);
        dp_space_store(w->ports, at, take(in, 1u << (code >> 4) % 3), 1u << (code >> 4) % 3);
        break;
    case 1: dp_space_load(w->ports, port_of(w, in), 1u << (code >> 4) % 3); break;
    case 2:
        at = place(w, in);
        dp_space_store(w->memory, at, take(in, 1u << (code >> 4) % 4), 1u << (code >> 4) % 4);
        break;
    case 3: dp_space_load(code & 0x80 ? dp_pc_smm_memory(w->pc) : w->memory, place(w, in), 1u << (code >> 4) % 4); break;
    case 4: { /* bytes over borders */
        uint8_t bytes[40] = {0};
        at = place(w, in);
        size = (unsigned)take(in, 1) % sizeof bytes;
        if (code & 0x80 ? dp_space_read(w->memory, at, bytes, size) : dp_space_write(w->memory, at, bytes, size)) {
        }
        break;
    }
    case 5: { /* configuration space: any, or the chipset's own registers */
        static const uint8_t own[][2] = {{0, 0x59}, {0, 0x5a}, {0, 0x5f}, {0, 0x72}, {4, 0x60}, {4, 0x63}, {7, 0x40}, {7, 0x58}, {7, 0x80}, {5, 0x40}, {5, 0x04}};
        unsigned v = (unsigned)take(in, 1);
        function = code & 0x80 ? own[v % DP_ARRAY_LEN(own)][0] : v % (SLOTS * FUNCTIONS);
        unsigned offset = code & 0x80 ? own[v % DP_ARRAY_LEN(own)][1] : (unsigned)take(in, 1);
        size = 1u << (code >> 4 & 1);
        offset &= ~(size - 1);
        if (code & 0x40)
            config_load(w, function, offset, size);
        else
            config_store(w, function, offset, take(in, size), size);
        break;
    }
    case 6: /* a BAR anywhere */
        function = (unsigned)take(in, 1) % (SLOTS * FUNCTIONS);
        put_bar(w, function, (unsigned)take(in, 1) % DP_PCI_BARS, code & 0x80 ? take(in, 2) : place(w, in));
        config_store(w, function, DP_PCI_COMMAND, take(in, 1) & 7, 2);
        if (code & 0x10)
            config_store(w, function, DP_PCI_ROM_ADDRESS, place(w, in) | 1, 4);
        break;
    case 7: assign(w); break;
    case 8: dp_clock_advance(w->clock, take(in, code & 0x10 ? 4 : 2) % 100000000); break;
    case 9: /* people, and what a processor does between instructions */
        if (code & 0x80)
            w->keys.key(w->keys.opaque, (unsigned)take(in, 1), code & 0x10);
        else if (code & 0x40 && w->keys.motion)
            w->keys.motion(w->keys.opaque, (int8_t)take(in, 1), (int8_t)take(in, 1), (int8_t)take(in, 1) % 3, (unsigned)take(in, 1) & 7);
        else if (code & 0x20)
            bus->ferr(bus->board, 0);
        else if (bus->interrupt_pending(bus->apic))
            MUST(bus->interrupt_ack(bus->apic) > 255);
        break;
    case 10: look(w); break;
    case 11: fw_cfg_dma(w, in); break;
    case 12: ide_dma(w, in, code & 0x10); break;
    case 13:
        if (code & 0x80) {
            dp_console_feed(w->console[code >> 4 & 1], (const uint8_t *)"0123456789", take(in, 1) % 11);
            dp_console_limit(w->console[code >> 4 & 3], take(in, 1));
        } else {
            floppy(w, in);
        }
        break;
    case 14:
        if (code < 0x40)
            reset(w);
        if (code & 0x80)
            for (unsigned i = 0; i < DISKS; i++)
                dp_block_drain(w->disk[i]);
        dp_pc_pause(w->pc);
        dp_pc_resume(w->pc);
        break;
    case 15: save_and_load(w, in); break;
    }
    if (w->reset_requested)
        reset(w);
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
