/* fuzz_vga.c - the VGA adapter: registers by every way to them, memory by the legacy window and the frame buffer, PCI, time, states
 * saved and loaded damaged; then pictures and text of what came out, whose sizes are checked.
 *
 * Input: a byte per operation and its operands (see `operation`). One of them sets a mode as a BIOS does, so that the rest starts from
 * something.
 */
#include <stdlib.h>

#include "tests/device/vga_modes.h"
#include "tests/fuzz/input.h"

enum { OPERATIONS_MAX = 300, PICTURES_MAX = 12 };
#define LFB 0xe0000000u
#define MMIO 0xe1000000u
#define CONFIG 0xb0000000u

struct world {
    struct dp_device_env env;
    struct dp_device *host, *vga;
    struct dp_display_source source;
    struct dp_display_picture picture;
    struct dp_display_text *text;
    unsigned pictures;
};

static void world_init(struct world *w)
{
    static const struct dp_irq none[8];
    static const uint8_t rom[512] = {0x55, 0xaa, 1};
    memset(w, 0, sizeof *w);
    MUST(dp_clock_create_manual(&w->env.clock, NULL));
    MUST(dp_space_create("memory", 1ull << 40, NULL, &w->env.memory, NULL));
    MUST(dp_space_create("ports", 0x10000, NULL, &w->env.ports, NULL));
    MUST(!(w->host = dp_device_alloc(&dp_pci_host_class, "pci", &w->env)));
    dp_pci_host_wire(w->host, none);
    MUST(dp_device_init(w->host, NULL) || dp_device_map(w->host, DP_PCI_WINDOW_ECAM, CONFIG, NULL));
    MUST(!(w->vga = dp_device_alloc(&dp_vga_class, "vga", &w->env)));
    dp_vga_wire(w->vga, rom, sizeof rom);
    MUST(dp_device_init(w->vga, NULL) || dp_device_map(w->vga, DP_VGA_WINDOW_MEMORY, DP_VGA_MEMORY_BASE, NULL));
    MUST(dp_device_map(w->vga, DP_VGA_WINDOW_MONO, DP_VGA_PORT_MONO, NULL));
    MUST(dp_device_map(w->vga, DP_VGA_WINDOW_PORTS, DP_VGA_PORT_VGA, NULL));
    MUST(dp_device_map(w->vga, DP_VGA_WINDOW_DISPI, DP_VGA_PORT_DISPI, NULL));
    MUST(dp_pci_plug(dp_pci_host_of(w->host), dp_vga_function(w->vga), 1, NULL));
    dp_space_store(w->env.memory, CONFIG + 0x8010, LFB, 4);
    dp_space_store(w->env.memory, CONFIG + 0x8018, MMIO, 4);
    dp_space_store(w->env.memory, CONFIG + 0x8004, 3, 2);
    dp_device_resume(w->vga);
    w->source = dp_vga_source(w->vga);
    w->text = malloc(sizeof *w->text);
    MUST(!w->text);
}

static void world_fini(struct world *w)
{
    free(w->text);
    dp_display_picture_fini(&w->picture);
    dp_device_free(w->vga);
    dp_device_free(w->host);
    dp_space_destroy(w->env.memory);
    dp_space_destroy(w->env.ports);
    dp_clock_destroy(w->env.clock);
}

static void look(struct world *w)
{
    if (w->pictures++ >= PICTURES_MAX)
        return;
    uint64_t before = w->source.generation(w->source.opaque);
    dp_display_picture_fini(&w->picture); /* exactly as large as it must be, for the address sanitizer */
    MUST(w->source.picture(w->source.opaque, &w->picture, NULL));
    uint32_t width = w->picture.width, height = w->picture.height;
    MUST(width > DP_DISPLAY_MAX_WIDTH || height > DP_DISPLAY_MAX_HEIGHT || !width != !height);
    for (size_t i = 0; i < (size_t)width * height; i += 101)
        MUST(w->picture.pixels[i] >> 24);
    if (w->source.text(w->source.opaque, w->text)) {
        MUST((size_t)w->text->columns * w->text->rows > DP_DISPLAY_MAX_CELLS || !w->text->columns || !w->text->rows);
        MUST(w->text->cursor && (w->text->cursor_column >= w->text->columns || w->text->cursor_row >= w->text->rows));
    }
    MUST(w->source.generation(w->source.opaque) != before); /* looking changes nothing */
}

static void save_and_load(struct world *w, struct input *in)
{
    struct dp_buffer image = {0};
    struct dp_error e = {0};
    dp_device_pause(w->vga);
    dp_device_save(w->vga, &image);
    for (unsigned n = (unsigned)take(in, 1) % 16; n && image.size; n--)
        image.data[image.size - 1 - take(in, 2) % DP_MIN(image.size, 1300u)] ^= take(in, 1); /* the registers follow configuration space */
    if (dp_device_load(w->vga, image.data, image.size, NULL, &e))
        MUST(!e.text[0]);
    dp_buffer_fini(&image);
    dp_device_resume(w->vga);
}

static void operation(struct world *w, struct input *in)
{
    static const uint16_t indexed[] = {0x3c4, 0x3ce, 0x3d4, 0x3b4};
    struct dp_space *m = w->env.memory, *p = w->env.ports;
    unsigned code = (unsigned)take(in, 1), high = code >> 4, size = 1u << (high & 3);
    uint64_t at;
    switch (code & 15) {
    case 0: vga_bios_set(p, vga_bios_modes[high % DP_ARRAY_LEN(vga_bios_modes)].number); break;
    case 1: case 2: vga_outw(p, indexed[high & 3], (unsigned)take(in, 1) % (high & 1 ? 9 : 26), (unsigned)take(in, 1)); break;
    case 3: vga_attr(p, 0x3da, ((unsigned)take(in, 1) & 0x1f) | 0x20, (unsigned)take(in, 1)); break;
    case 4: vga_dispi(p, high, (unsigned)take(in, 2)); break;
    case 5: vga_dispi(p, 4, 0), vga_dispi(p, 1, (unsigned)take(in, 1) * 8), vga_dispi(p, 2, (unsigned)take(in, 1) * 4),
            vga_dispi(p, 3, high * 4 - (high == 4)), vga_dispi(p, 4, 0x81); break;
    case 6:
        at = (high & 8 ? 0x1ce : 0x3b0) + take(in, 1) % (high & 8 ? 4 : 0x30);
        dp_space_store(p, at, take(in, 4), DP_MIN(size, 4u));
        break;
    case 7: dp_space_load(p, (high & 8 ? 0x1ce : 0x3b0) + take(in, 1) % (high & 8 ? 4 : 0x30), DP_MIN(size, 4u)); break;
    case 8: case 9: at = 0x9fff8 + take(in, 3) % 0x20010, dp_space_store(m, at, take(in, 4) * 0x100000001ull, size); break;
    case 10: dp_space_load(m, 0x9fff8 + take(in, 3) % 0x20010, size); break;
    case 11: {
        uint8_t bytes[64];
        memset(bytes, (int)take(in, 1), sizeof bytes);
        at = take(in, 3);
        if (dp_space_write(m, LFB + (high & 1 ? 0x1000000 - at % 100 : at), bytes, take(in, 1) % sizeof bytes)) {
        }
        break;
    }
    case 12:
        at = MMIO + (high & 8 ? 0x500 : 0x400) + take(in, 1) * (high & 4 ? 4 : 1);
        if (high & 4)
            dp_space_load(m, at, size);
        else
            dp_space_store(m, at, take(in, 4), size);
        break;
    case 13:
        at = CONFIG + 0x8000 + take(in, 1) % 0x44;
        if (high & 8)
            dp_clock_advance(w->env.clock, take(in, 4));
        else
            dp_space_store(m, at, take(in, 4), DP_MIN(size, 4u));
        break;
    case 14:
        if (high < 2)
            dp_device_reset(w->vga);
        else
            look(w);
        break;
    case 15: save_and_load(w, in); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w;
    struct input in = {data, data + size};
    world_init(&w);
    for (unsigned n = 0; n < OPERATIONS_MAX && in.at < in.end; n++)
        operation(&w, &in);
    w.pictures = 0;
    look(&w);
    vga_in(w.env.ports, 0x3da); /* what is blanked may be shown */
    vga_out(w.env.ports, 0x3c0, 0x20);
    vga_outw(w.env.ports, 0x3c4, 1, (unsigned)take(&in, 1) & ~0x20u);
    look(&w);
    world_fini(&w);
    return 0;
}
