/* fuzz_fdc.c - the floppy controller with the DMA controllers: any bytes at their ports, whole commands, disks changed, host errors
 * (one image is
 * shorter than its disk), time, pause, reset and restored states.
 *
 * Input: an operation byte and its operands, see `operation`.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devices/intc/dma8237.h"
#include "devices/storage/fdc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x) do { if (x) abort(); } while (0)
enum { OPERATIONS_MAX = 1500, DISKS = 3, RAM = 1 << 20 };

struct input { const uint8_t *at, *end; };
struct world {
    struct dp_clock *clock;
    struct dp_device_env env;
    struct dp_ram *ram;
    struct dp_device *fdc, *dma;
    struct dp_block *disk[DISKS];
    bool irq;
};

static uint8_t take(struct input *in) { return in->at < in->end ? *in->at++ : 0; }
static void irq_set(void *opaque, unsigned n, bool level) { ((struct world *)opaque)->irq = level; }

static struct dp_block *open_disk(unsigned size, bool readonly)
{
    struct dp_block *b;
    char path[40];
    int fd = memfd_create("floppy", MFD_CLOEXEC);
    MUST(fd < 0 || ftruncate(fd, size));
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    MUST(dp_block_open(NULL, &(struct dp_block_options){.path = path, .readonly = readonly, .io = DP_BLOCK_IO_THREADS}, &b, NULL));
    close(fd);
    return b;
}

static void drain(struct world *w)
{
    for (unsigned i = 0; i < DISKS; i++)
        dp_block_drain(w->disk[i]);
}

static void restore(struct world *w, struct input *in, struct dp_device *d)
{
    struct dp_buffer image = {0};
    struct dp_error e = {0};
    dp_device_pause(d);
    dp_device_save(d, &image);
    MUST(dp_device_load(d, image.data, image.size, NULL, &e)); /* what we save we take */
    for (unsigned n = take(in) % 8; n; n--) {
        unsigned at = take(in) | take(in) << 8;
        image.data[at % image.size] ^= take(in);
    }
    if (dp_device_load(d, image.data, image.size, NULL, &e))
        MUST(!e.text[0]);
    dp_buffer_fini(&image);
    dp_device_resume(d);
}

static void operation(struct world *w, struct input *in)
{
    struct dp_space *p = w->env.ports;
    uint8_t code = take(in);
    switch (code & 7) {
    case 0: dp_space_store(p, 0x3f5, take(in), 1); break;
    case 1: dp_space_store(p, 0x3f0 + (code >> 3 & 7), take(in), 1); break;
    case 2:
        for (unsigned i = 0; i <= (code >> 6) * 3u; i++)
            dp_space_load(p, code & 8 ? 0x3f5 : 0x3f0 + (code >> 3 & 7), 1);
        break;
    case 3: /* a command with plausible parameters */
        dp_space_store(p, 0x3f5, take(in), 1);
        for (unsigned i = 0; i < code >> 4; i++)
            dp_space_store(p, 0x3f5, i == 4 && (code & 8) ? 2 : take(in), 1);
        break;
    case 4: { /* a transfer for channel 2 */
        unsigned size = take(in) << (code >> 3 & 7), at = take(in) << 8;
        const uint8_t values[][2] = {{0x0c, 0}, {0x04, (uint8_t)at}, {0x04, (uint8_t)(at >> 8)}, {0x05, (uint8_t)size},
                                     {0x05, (uint8_t)(size >> 8)},
                                     {0x0b, (uint8_t)((code & 0x80 ? 0x46 : 0x4a) | (code & 0x40 ? 0x10 : 0))}, {0x0a, 2}};
        for (unsigned i = 0; i < DP_ARRAY_LEN(values); i++)
            dp_space_store(p, values[i][0], values[i][1], 1);
        break;
    }
    case 5:
        dp_clock_advance(w->clock, (uint64_t)take(in) << (code >> 3 & 15));
        if (code & 0x80)
            drain(w);
        break;
    case 6:
        if (code & 0x80)
            dp_space_store(p, take(in) & 0x8f, take(in), 1);
        else
            dp_space_load(p, take(in) & 0x8f, 1);
        break;
    case 7:
        switch (code >> 3 & 7) {
        case 0: restore(w, in, w->fdc); break;
        case 1: restore(w, in, w->dma); break;
        case 2:
            dp_device_pause(w->fdc);
            dp_device_reset(w->fdc);
            dp_device_reset(w->dma);
            dp_device_resume(w->fdc);
            break;
        case 3: case 4: {
            unsigned disk = take(in) % (DISKS + 1);
            struct dp_error e = {0};
            if (dp_fdc_change_medium(w->fdc, code >> 6 & 1, disk < DISKS ? w->disk[disk] : NULL, &e))
                MUST(!e.text[0]);
            break;
        }
        case 5:
            dp_device_pause(w->fdc);
            dp_device_resume(w->fdc);
            break;
        default: /* out of reset, DMA on, the rate of a 1.44M disk */
            dp_space_store(p, 0x3f2, 0x1c, 1);
            dp_space_store(p, 0x3f7, 0, 1);
            drain(w);
            break;
        }
        break;
    }
    uint8_t status = (uint8_t)dp_space_load(p, 0x3f4, 1);
    MUST((status & 0xc0) == 0x40); /* DIO means nothing without RQM */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {0};
    struct input in = {data, data + size};
    MUST(dp_clock_create_manual(&w.clock, NULL));
    w.env.clock = w.clock;
    MUST(dp_space_create("ports", 0x10000, NULL, &w.env.ports, NULL) || dp_space_create("memory", 1ull << 32, NULL, &w.env.memory, NULL));
    MUST(dp_ram_create("ram", RAM, &w.ram, NULL) || dp_space_map_ram(w.env.memory, 0, w.ram, 0, RAM, false, 0, NULL, NULL));
    w.disk[0] = open_disk(1440 << 10, false);
    w.disk[1] = open_disk(100 << 10, false);
    w.disk[2] = open_disk(720 << 10, true);
    MUST(!(w.dma = dp_device_alloc(&dp_dma_class, "dma", &w.env)) || !(w.fdc = dp_device_alloc(&dp_fdc_class, "fdc", &w.env)));
    dp_fdc_wire(w.fdc, (struct dp_irq){irq_set, &w, 6}, w.dma, 2);
    dp_fdc_attach(w.fdc, 0, w.disk[0]);
    dp_fdc_attach(w.fdc, 1, w.disk[1]);
    MUST(dp_device_init(w.dma, NULL) || dp_device_init(w.fdc, NULL));
    MUST(dp_device_map(w.dma, DP_DMA_WINDOW_FIRST, 0x00, NULL) || dp_device_map(w.dma, DP_DMA_WINDOW_PAGES, 0x80, NULL) ||
         dp_device_map(w.fdc, DP_FDC_WINDOW, 0x3f0, NULL) || dp_device_map(w.fdc, DP_FDC_WINDOW_DIR, 0x3f7, NULL));
    dp_device_resume(w.dma);
    dp_device_resume(w.fdc);
    dp_space_store(w.env.ports, 0x3f2, 0x1c, 1);
    dp_space_store(w.env.ports, 0x3f7, 0, 1);
    for (unsigned n = 0; n < OPERATIONS_MAX && in.at < in.end; n++)
        operation(&w, &in);
    dp_device_free(w.fdc);
    dp_device_free(w.dma);
    for (unsigned i = 0; i < DISKS; i++)
        dp_block_close(w.disk[i]);
    dp_space_destroy(w.env.memory);
    dp_space_destroy(w.env.ports);
    dp_ram_destroy(w.ram);
    dp_clock_destroy(w.clock);
    return 0;
}
