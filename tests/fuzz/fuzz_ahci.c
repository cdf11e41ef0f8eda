/* fuzz_ahci.c - the AHCI controller hammered: registers, whole commands of all kinds in many slots, tables anywhere, images that fail,
 * media that change,
 * resets, and saved states that come back damaged.
 *
 * Input: the first byte chooses the drives; then a byte per operation and its operands (see `operation`). Images are fakes in memory that
 * complete when the input says so, one request or all; they abort when the device asks for what an image does not have. After each
 * operation what must hold of every register file is checked, and a state that comes back undamaged must be taken.
 */
#include <stdlib.h>

#include "devices/storage/ahci.h"
#include "tests/device/fake_block.h"
#include "tests/fuzz/input.h"

#define RAM_SIZE (1u << 20)
enum { OPERATIONS_MAX = 400, DRIVES = 3, IMAGES = 4, IMAGE_SIZE = 1 << 16 };
enum { PX = 0x100, PX_SIZE = 0x80, CLB = 0, FB = 8, IE = 0x14, CMD = 0x18, SCTL = 0x2c, SACT = 0x34, CI = 0x38, FRE_ST = 0x11, FRE = 0x10 };
enum { LIST = 0x1000, FIS = 0x3000, TABLES = 0x4000, TABLE_SIZE = 0x100, DATA = 0x20000 };

struct world {
    struct dp_device_env env;
    struct dp_ram *ram;
    struct dp_device *d;
    struct dp_block block[IMAGES];
};

static void write_reg(struct world *w, unsigned offset, uint32_t value)
{
    w->d->class->windows[DP_AHCI_WINDOW].ops->write(w->d, offset & 0xffc, value, 4);
}

static void read_reg(struct world *w, unsigned offset) { w->d->class->windows[DP_AHCI_WINDOW].ops->read(w->d, offset & 0xffc, 4); }

static void start_port(struct world *w, unsigned port)
{
    write_reg(w, PX + port * PX_SIZE + CLB, LIST + port * 0x400);
    write_reg(w, PX + port * PX_SIZE + CLB + 4, 0);
    write_reg(w, PX + port * PX_SIZE + FB, FIS + port * 0x100);
    write_reg(w, PX + port * PX_SIZE + FB + 4, 0);
    write_reg(w, PX + port * PX_SIZE + IE, ~0u);
    write_reg(w, PX + port * PX_SIZE + CMD, FRE_ST);
}

static void world_init(struct world *w, unsigned drives)
{
    memset(w, 0, sizeof *w);
    MUST(dp_clock_create_manual(&w->env.clock, NULL));
    MUST(dp_space_create("memory", 1ull << 40, NULL, &w->env.memory, NULL));
    MUST(dp_space_create("ports", 0x10000, NULL, &w->env.ports, NULL));
    MUST(dp_ram_create("ram", RAM_SIZE, &w->ram, NULL));
    MUST(dp_space_map_ram(w->env.memory, 0, w->ram, 0, RAM_SIZE, false, 0, NULL, NULL));
    w->d = dp_device_alloc(&dp_ahci_class, "ahci", &w->env);
    for (unsigned i = 0; i < IMAGES; i++)
        fake_block_init(&w->block[i], IMAGE_SIZE);
    for (unsigned i = 0; i < DRIVES; i++) {
        switch (drives >> 2 * i & 3) {
        case 0: dp_ahci_attach_disk(w->d, i, &w->block[i], NULL); break;
        case 1: break;
        default: dp_ahci_attach_cdrom(w->d, i, drives >> 2 * i & 1 ? NULL : &w->block[i]); break;
        }
    }
    w->block[0].readonly = drives & 0x40;
    MUST(dp_device_init(w->d, NULL));
    dp_device_resume(w->d);
    dp_pci_config_write(dp_ahci_function(w->d), DP_PCI_COMMAND, DP_PCI_COMMAND_MEMORY | DP_PCI_COMMAND_MASTER, 2);
    write_reg(w, 4, 0x80000002);
    for (unsigned i = 0; i < DRIVES; i++)
        start_port(w, i);
}

static void world_fini(struct world *w)
{
    dp_device_free(w->d);
    for (unsigned i = 0; i < IMAGES; i++) {
        MUST(w->block[i].first);
        fake_block_fini(&w->block[i]);
    }
    dp_space_destroy(w->env.memory);
    dp_space_destroy(w->env.ports);
    dp_ram_destroy(w->ram);
    dp_clock_destroy(w->env.clock);
}

static void drain(struct world *w)
{
    for (unsigned i = 0; i < IMAGES; i++)
        dp_block_drain(&w->block[i]);
}

static void save_and_load(struct world *w, struct input *in)
{
    struct dp_buffer image = {0};
    struct dp_error e = {0};
    dp_device_pause(w->d);
    for (unsigned i = 0; i < IMAGES; i++)
        MUST(w->block[i].first);
    dp_device_save(w->d, &image);
    unsigned damage = (unsigned)take(in, 1) % 8;
    for (unsigned n = damage; n && image.size; n--) {
        uint64_t where = take(in, 3); /* mostly not in configuration space */
        image.data[where & 0x800000 ? where % image.size : (5000 + where) % image.size] ^= (uint8_t)take(in, 1);
    }
    if (dp_device_load(w->d, image.data, image.size, NULL, &e))
        MUST(!e.text[0] || !damage);
    dp_buffer_fini(&image);
    dp_device_resume(w->d);
}

/* What a device has at any time, it can load. */
static void check(struct world *w)
{
    struct dp_error e = {0};
    MUST(w->d->class->state->check(dp_device_regs(w->d), &e));
}

/* A command in a slot: its FIS from the input, two entries near each other. */
static void command(struct world *w, struct input *in, unsigned port, bool queued)
{
    unsigned slot = (unsigned)take(in, 1) & 31, shape = (unsigned)take(in, 1);
    uint8_t *h = w->ram->host + LIST + port * 0x400 + slot * 32, *t = w->ram->host + TABLES + (port * 32 + slot) * TABLE_SIZE;
    unsigned prds = shape & 3, each = shape & 4 ? 2048 : 512;
    memset(h, 0, 32);
    memset(t, 0, 0x60);
    dp_st32(h, (shape & 0x80 ? 2 : 5) | (shape & 8) << 3 | prds << 16);
    dp_st64(h + 8, TABLES + (port * 32 + slot) * TABLE_SIZE);
    t[0] = 0x27;
    t[1] = 0x80;
    t[2] = (uint8_t)(queued ? 0x60 | (shape >> 4 & 1) : take(in, 1));
    t[3] = (uint8_t)take(in, 1) & (queued ? 0x1f : 0xff);
    t[4] = (uint8_t)take(in, 1);
    t[5] = (uint8_t)(shape & 0x20 ? take(in, 1) : 0);
    t[7] = 0x40 | (shape & 0x40) << 1;
    t[12] = (uint8_t)(queued ? slot << 3 : take(in, 1) & 31);
    if (t[2] == 0xa0)
        for (unsigned i = 0; i < 10; i++)
            t[0x40 + i] = (uint8_t)take(in, 1);
    for (unsigned i = 0; i < prds; i++) {
        dp_st64(t + 0x80 + 16 * i, DATA + slot * 8192 + i * each);
        dp_st32(t + 0x80 + 16 * i + 12, (each - 1) | (shape & 0x10 ? 1u << 31 : 0));
    }
    if (queued)
        write_reg(w, PX + port * PX_SIZE + SACT, 1u << slot);
    write_reg(w, PX + port * PX_SIZE + CI, 1u << slot);
}

static void operation(struct world *w, struct input *in)
{
    unsigned code = (unsigned)take(in, 1), port = (code >> 4) % DRIVES, base = PX + port * PX_SIZE, at;
    switch (code & 15) {
    case 0:
        at = (unsigned)take(in, 1);
        write_reg(w, code & 0x80 ? at : base + at % PX_SIZE, (uint32_t)take(in, 4));
        break;
    case 1:
        at = (unsigned)take(in, 1);
        read_reg(w, code & 0x80 ? at : base + at % PX_SIZE);
        break;
    case 2: case 3: command(w, in, port, false); break;
    case 4: case 5: command(w, in, port, true); break;
    case 6: /* the list stops and starts */
        write_reg(w, base + CMD, FRE | (code & 0x80 ? 8 : 0));
        start_port(w, port);
        break;
    case 7: /* a FIS for the control register */
    {
        uint8_t *t = w->ram->host + TABLES + port * 32 * TABLE_SIZE;
        dp_st32(w->ram->host + LIST + port * 0x400, 5);
        dp_st64(w->ram->host + LIST + port * 0x400 + 8, TABLES + port * 32 * TABLE_SIZE);
        memset(t, 0, 0x40);
        t[0] = 0x27;
        t[15] = code & 0x80 ? 4 : 0;
        write_reg(w, base + CI, 1);
        break;
    }
    case 8: /* anything into tables */
        at = (unsigned)take(in, 2);
        dp_st32(w->ram->host + LIST + at % 0x8000, (uint32_t)take(in, 4));
        break;
    case 9: fake_block_one(&w->block[(code >> 4) % IMAGES]); break;
    case 10: drain(w); break;
    case 11: /* bytes that fail, or a disk that is full of sound ones again */
        at = (code >> 4) % IMAGES;
        w->block[at].bad_from = take(in, 2);
        w->block[at].bad_to = w->block[at].bad_from + (code & 0x80 ? 1 : 0);
        w->block[at].flush_fails = code & 0x40;
        break;
    case 12: {
        struct dp_error e = {0};
        at = (unsigned)take(in, 1);
        if (dp_ahci_change_medium(w->d, at % 7, at & 0x80 ? NULL : &w->block[at & 0x40 ? 3 : at % DRIVES], &e))
            MUST(!e.text[0]);
        dp_ahci_tray_open(w->d, at % 7);
        break;
    }
    case 13:
        at = (unsigned)take(in, 1);
        dp_pci_config_write(dp_ahci_function(w->d), at & ~3u, (uint32_t)take(in, 4), 4);
        dp_pci_config_write(dp_ahci_function(w->d), DP_PCI_COMMAND, code & 0x80 ? 2 : 6, 2);
        break;
    case 14:
        if (code < 0x20) {
            dp_device_reset(w->d);
            dp_pci_config_write(dp_ahci_function(w->d), DP_PCI_COMMAND, 6, 2);
        } else if (code < 0x80) {
            write_reg(w, base + SCTL, 1);
            write_reg(w, base + SCTL, 0);
        } else {
            dp_device_pause(w->d);
            command(w, in, port, code & 0x40); /* held until resumed */
            dp_device_resume(w->d);
        }
        break;
    case 15: save_and_load(w, in); break;
    }
    check(w);
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
