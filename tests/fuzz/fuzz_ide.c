/* fuzz_ide.c - the IDE controller hammered: registers, whole commands and packets, DMA tables anywhere, images that fail, media that
 * change, resets, and saved states that come back damaged.
 *
 * Input: the first byte chooses the drives; then a byte per operation and its operands (see `operation`). Images are fakes in memory that
 * complete when the input says so, one request or all; they abort when the device asks for what an image does not have. After each
 * operation what must hold of every register file is checked, and a state that comes back undamaged must be taken.
 */
#include <stdlib.h>

#include "devices/storage/ide.h"
#include "tests/device/fake_block.h"
#include "tests/fuzz/input.h"

#define RAM_SIZE (1u << 20)
enum { OPERATIONS_MAX = 500, IMAGES = 5, IMAGE_SIZE = 1 << 16, WINDOWS = 5 };
enum { DATA, FEATURE, COUNT, LOW, MID, HIGH, DEVICE, COMMAND };

struct world {
    struct dp_device_env env;
    struct dp_ram *ram;
    struct dp_device *d;
    struct dp_block block[IMAGES];
};

static void world_init(struct world *w, unsigned drives)
{
    memset(w, 0, sizeof(*w));
    MUST(dp_clock_create_manual(&w->env.clock, NULL));
    MUST(dp_space_create("memory", 1ull << 40, NULL, &w->env.memory, NULL));
    MUST(dp_space_create("ports", 0x10000, NULL, &w->env.ports, NULL));
    MUST(dp_ram_create("ram", RAM_SIZE, &w->ram, NULL));
    MUST(dp_space_map_ram(w->env.memory, 0, w->ram, 0, RAM_SIZE, false, 0, NULL, NULL));
    w->d = dp_device_alloc(&dp_ide_class, "ide", &w->env);
    for (unsigned i = 0; i < IMAGES; i++)
        fake_block_init(&w->block[i], IMAGE_SIZE);
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++) {
        switch (drives >> 2 * i & 3) {
        case 0: dp_ide_attach_disk(w->d, i, &w->block[i], NULL); break;
        case 1: break;
        default: dp_ide_attach_cdrom(w->d, i, drives >> 2 * i & 1 ? NULL : &w->block[i]); break;
        }
    }
    MUST(dp_device_init(w->d, NULL));
    dp_device_resume(w->d);
    dp_pci_config_write(dp_ide_function(w->d), DP_PCI_COMMAND, DP_PCI_COMMAND_IO | DP_PCI_COMMAND_MASTER, 2);
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

static void write_reg(struct world *w, unsigned window, unsigned offset, unsigned size, uint64_t value)
{
    const struct dp_window_spec *s = &w->d->class->windows[window];
    if (offset + size <= s->size && size <= s->ops->max_size)
        s->ops->write(w->d, offset & ~(size - 1), value & dp_mask_bytes(size), size);
}

static uint64_t read_reg(struct world *w, unsigned window, unsigned offset, unsigned size)
{
    const struct dp_window_spec *s = &w->d->class->windows[window];
    return offset + size <= s->size && size <= s->ops->max_size ? s->ops->read(w->d, offset & ~(size - 1), size) : 0;
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
    size_t at = 0;
    unsigned damage = (unsigned)take(in, 1) % 8;
    for (unsigned n = damage; n && image.size; n--) {
        /* mostly not in what is long: configuration space and buffers */
        unsigned where = (unsigned)take(in, 3);
        at = where & 0x800000 ? where % image.size : image.size - 1 - (where >> 16 & 3) * (image.size - 6000) / 4 % image.size;
        at = at - DP_MIN(at, 8192u + where % 400);
        image.data[at] ^= take(in, 1);
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

static void operation(struct world *w, struct input *in)
{
    unsigned code = (unsigned)take(in, 1), c = code >> 4 & 1, window = c ? DP_IDE_WINDOW_SECONDARY : DP_IDE_WINDOW_PRIMARY, n, at;
    switch (code & 15) {
    case 0:
        at = (unsigned)take(in, 1);
        write_reg(w, (code >> 4) % WINDOWS, at % 16, 1u << (at >> 4) % 3, take(in, 4));
        break;
    case 1:
        at = (unsigned)take(in, 1);
        read_reg(w, (code >> 4) % WINDOWS, at % 16, 1u << (at >> 4) % 3);
        break;
    case 2: /* a command with all its registers */
    case 3: {
        uint8_t r[7];
        for (unsigned i = 0; i < 7; i++)
            r[i] = (uint8_t)take(in, 1);
        write_reg(w, window, DEVICE, 1, (r[5] & 0x5f) | 0xa0);
        for (unsigned i = 0; i < 5; i++) {
            if (code & 0x20) /* 48-bit addresses */
                write_reg(w, window, FEATURE + i, 1, i < 2 ? r[i] >> 4 : 0);
            write_reg(w, window, FEATURE + i, 1, i >= 3 && (code & 0x40) ? 0 : r[i]);
        }
        write_reg(w, window, COMMAND, 1, r[6]);
        break;
    }
    case 4: /* a packet */
        write_reg(w, window, FEATURE, 1, code >> 5 & 1);
        write_reg(w, window, MID, 2, take(in, 2));
        write_reg(w, window, COMMAND, 1, 0xa0);
        n = (unsigned)take(in, 1) % 13;
        for (unsigned i = 0; i < 12; i += 2)
            write_reg(w, window, DATA, 2, i < n ? take(in, 2) : 0);
        break;
    case 5: /* data */
    case 6:
        n = (unsigned)take(in, 1) * 9;
        for (unsigned i = 0; i < n; i++) {
            if (code & 0x20)
                write_reg(w, window, DATA, 1u << (code >> 6) % 3, i * 0x1234567u);
            else
                read_reg(w, window, DATA, 1u << (code >> 6) % 3);
        }
        break;
    case 7: /* a table entry */
        at = (unsigned)take(in, 1) * 8;
        dp_st32(w->ram->host + at, (uint32_t)take(in, 3) << (code >> 6));
        dp_st32(w->ram->host + at + 4, (uint32_t)take(in, 2) | (code & 0x20 ? 0x80000000u : 0));
        break;
    case 8: /* the bus master starts, or stops */
        write_reg(w, DP_IDE_WINDOW_BUS_MASTER, c * 8, 1, 0);
        if (code & 0x20)
            break;
        write_reg(w, DP_IDE_WINDOW_BUS_MASTER, c * 8 + 4, 4, code & 0x80 ? take(in, 4) : take(in, 1) * 8);
        write_reg(w, DP_IDE_WINDOW_BUS_MASTER, c * 8, 1, 1 | (code & 0x40) >> 3);
        break;
    case 9: fake_block_one(&w->block[(code >> 4) % IMAGES]); break;
    case 10: drain(w); break;
    case 11: /* bytes that fail, or a disk that is full of sound ones again */
        n = (code >> 4) % IMAGES;
        w->block[n].bad_from = take(in, 2);
        w->block[n].bad_to = w->block[n].bad_from + (code & 0x80 ? 1 : 0);
        w->block[n].flush_fails = code & 0x40;
        break;
    case 12: {
        struct dp_error e = {0};
        n = (unsigned)take(in, 1);
        if (dp_ide_change_medium(w->d, n % 5, n & 0x80 ? NULL : &w->block[n & 0x40 ? 4 : n % 4], &e))
            MUST(!e.text[0]);
        dp_ide_tray_open(w->d, n % 5);
        break;
    }
    case 13:
        at = (unsigned)take(in, 1);
        dp_pci_config_write(dp_ide_function(w->d), at & ~3u, (uint32_t)take(in, 4), 4);
        dp_pci_config_write(dp_ide_function(w->d), DP_PCI_COMMAND, code >> 4, 2);
        break;
    case 14:
        if (code < 0x40) {
            dp_device_reset(w->d);
        } else {
            dp_device_pause(w->d);
            if (code & 0x80)
                write_reg(w, window, COMMAND, 1, take(in, 1)); /* held until resumed */
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
