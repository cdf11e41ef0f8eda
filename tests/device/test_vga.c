/* test_vga.c - the VGA adapter as a VGA BIOS, DOS programs and frame buffer drivers use it: modes, planes, pictures, DISPI, PCI. */
#include "display/edid.h"
#include "tests/device/vga_modes.h"
#include "tests/device/virtio_driver.h"

#define TEXT 0xb8000u
#define WINDOW 0xa0000u
#define LFB 0xe0000000u
#define MMIO 0xe1000000u

struct screen {
    struct bus b;
    struct dp_space *memory, *ports;
    struct dp_device *vga;
    struct dp_display_source source;
    struct dp_display_picture picture;
    struct dp_display_text text;
};

static uint8_t bios[3000];

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_vga_class, "vga", env);
    dp_vga_wire(d, bios, sizeof(bios));
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void screen_init(struct screen *s)
{
    struct dp_error e = {0};
    memset(s, 0, sizeof(*s));
    for (unsigned i = 0; i < sizeof(bios); i++)
        bios[i] = (uint8_t)(i * 7 + 1);
    bus_init(&s->b);
    s->memory = s->b.w.env.memory;
    s->ports = s->b.w.env.ports;
    s->vga = make(&s->b.w.env, NULL);
    s->source = dp_vga_source(s->vga);
    /* The legacy window lies over the test machine's RAM, being the later one. */
    const struct dp_window_ops *window = dp_vga_class.windows[DP_VGA_WINDOW_MEMORY].ops;
    assert_ok(dp_space_map_window(s->memory, DP_VGA_MEMORY_BASE, 0x20000, window, s->vga, 0, NULL, &e), e);
    assert_ok(dp_device_map(s->vga, DP_VGA_WINDOW_MONO, DP_VGA_PORT_MONO, &e), e);
    assert_ok(dp_device_map(s->vga, DP_VGA_WINDOW_PORTS, DP_VGA_PORT_VGA, &e), e);
    assert_ok(dp_device_map(s->vga, DP_VGA_WINDOW_DISPI, DP_VGA_PORT_DISPI, &e), e);
    assert_ok(dp_pci_plug(dp_pci_host_of(s->b.host), dp_vga_function(s->vga), 2, &e), e);
    config_write(&s->b, 2, 0x10, LFB, 4);
    config_write(&s->b, 2, 0x18, MMIO, 4);
    config_write(&s->b, 2, 4, 3, 2);
}

static void screen_fini(struct screen *s)
{
    dp_display_picture_fini(&s->picture);
    dp_device_free(s->vga);
    bus_fini(&s->b);
}

static void look(struct screen *s, unsigned width, unsigned height)
{
    struct dp_error e = {0};
    assert_ok(s->source.picture(s->source.opaque, &s->picture, &e), e);
    assert_int_equal(s->picture.width, width);
    assert_int_equal(s->picture.height, height);
}
static uint32_t pixel(const struct screen *s, unsigned x, unsigned y) { return s->picture.pixels[y * s->picture.width + x]; }
static void poke(struct screen *s, uint64_t at, unsigned value) { dp_space_store(s->memory, at, value, 1); }
static unsigned peek(struct screen *s, uint64_t at) { return (unsigned)dp_space_load(s->memory, at, 1); }
static void seq(struct screen *s, unsigned n, unsigned value) { vga_outw(s->ports, 0x3c4, n, value); }
static void gc(struct screen *s, unsigned n, unsigned value) { vga_outw(s->ports, 0x3ce, n, value); }
static void crtc(struct screen *s, unsigned n, unsigned value) { vga_outw(s->ports, 0x3d4, n, value); }

/* What vga_set_palette made of a DAC colour, as eight bits each. */
static uint32_t wide(unsigned six) { return six << 2 | six >> 4; }
static uint32_t dac(unsigned i) { return wide(i & 63) << 16 | wide(63 - i % 64) << 8 | wide(i / 4); }
static const uint8_t ega[16] = {ATTR_EGA};

/* ---- text ---- */

/* A character's rows into plane 2, as INT 10h function 11h does it. */
static void load_character(struct screen *s, unsigned table, unsigned character, const uint8_t *rows, unsigned count)
{
    seq(s, 0, 1), seq(s, 2, 4), seq(s, 4, 7), seq(s, 0, 3);
    gc(s, 4, 2), gc(s, 5, 0), gc(s, 6, 4);
    for (unsigned i = 0; i < count; i++)
        poke(s, WINDOW + table * 0x4000 + character * 32 + i, rows[i]);
    seq(s, 0, 1), seq(s, 2, 3), seq(s, 4, 2), seq(s, 0, 3);
    gc(s, 4, 0), gc(s, 5, 0x10), gc(s, 6, 0x0e);
}

static void text_mode(void **state)
{
    struct screen s;
    static const uint8_t letter[16] = {0x80, 0x01, 0xff}, box[16] = {0x01, 0x80}, other[16] = {0x55};
    screen_init(&s);
    look(&s, 0, 0); /* nobody has set a mode */
    assert_false(s.source.text(s.source.opaque, &s.text));
    assert_true(vga_bios_set(s.ports, 3));
    load_character(&s, 0, 'A', letter, 16);
    load_character(&s, 0, 0xc4, box, 16);
    load_character(&s, 1, 'A', other, 16);
    for (unsigned i = 0; i < 2000; i++)
        dp_space_store(s.memory, TEXT + i * 2, 0x0720, 2);
    dp_space_store(s.memory, TEXT, 0x1e41, 2);
    dp_space_store(s.memory, TEXT + 2, 0x4fc4, 2);
    poke(&s, TEXT + 160 * 24 + 158, 'z');
    assert_int_equal(dp_space_load(s.memory, TEXT, 4), 0x4fc41e41);
    assert_int_equal(peek(&s, TEXT + 160 * 24 + 159), 7);
    crtc(&s, 14, 0), crtc(&s, 15, 81);

    look(&s, 720, 400);
    uint32_t yellow = dac(ega[14]), blue = dac(ega[1]), white = dac(ega[15]), red = dac(ega[4]), grey = dac(ega[7]), black = dac(ega[0]);
    assert_int_equal(pixel(&s, 0, 0), yellow);
    assert_int_equal(pixel(&s, 1, 0), blue);
    assert_int_equal(pixel(&s, 7, 1), yellow);
    assert_int_equal(pixel(&s, 8, 1), blue); /* the ninth dot is background... */
    assert_int_equal(pixel(&s, 8, 2), blue);
    assert_int_equal(pixel(&s, 9 + 7, 0), white);
    assert_int_equal(pixel(&s, 9 + 8, 0), white); /* ...but for line graphics */
    assert_int_equal(pixel(&s, 9 + 8, 1), red);
    assert_int_equal(pixel(&s, 9, 1), white);
    assert_int_equal(pixel(&s, 0, 3), blue);
    assert_int_equal(pixel(&s, 9, 16 + 12), black); /* the cursor's lines are 13 and 14 */
    for (unsigned k = 0; k < 9; k++)
        assert_true(pixel(&s, 9 + k, 16 + 13) == grey && pixel(&s, 9 + k, 16 + 14) == grey);
    assert_int_equal(pixel(&s, 18, 16 + 13), black);
    assert_int_equal(pixel(&s, 9, 16 + 15), black);

    assert_true(s.source.text(s.source.opaque, &s.text));
    assert_int_equal(s.text.columns, 80);
    assert_int_equal(s.text.rows, 25);
    assert_int_equal(s.text.cell[0].character, 'A');
    assert_int_equal(s.text.cell[0].attribute, 0x1e);
    assert_int_equal(s.text.cell[24 * 80 + 79].character, 'z');
    assert_true(s.text.cursor && s.text.cursor_column == 1 && s.text.cursor_row == 1);
    assert_int_equal(s.text.palette[14], yellow);
    crtc(&s, 10, 0x2d);
    assert_true(s.source.text(s.source.opaque, &s.text) && !s.text.cursor);

    seq(&s, 3, 0x04); /* characters with attribute bit 3 from the second table */
    look(&s, 720, 400);
    assert_int_equal(pixel(&s, 0, 0), blue);
    assert_int_equal(pixel(&s, 1, 0), yellow);
    seq(&s, 3, 0);
    seq(&s, 1, 1); /* eight dots */
    look(&s, 640, 400);
    assert_int_equal(pixel(&s, 8 + 7, 0), white);
    crtc(&s, 9, 0x47); /* fifty lines */
    look(&s, 640, 400);
    assert_true(s.source.text(s.source.opaque, &s.text) && s.text.rows == 50);
    crtc(&s, 9, 0x4f);
    crtc(&s, 13, 80); /* scrolled by a row */
    assert_true(s.source.text(s.source.opaque, &s.text) && s.text.cell[23 * 80 + 79].character == 'z');
    seq(&s, 1, 0x21); /* screen off */
    look(&s, 0, 0);
    screen_fini(&s);
}

static void mono_text(void **state)
{
    struct screen s;
    static const uint8_t letter[16] = {0x80};
    screen_init(&s);
    assert_true(vga_bios_set(s.ports, 7));
    assert_int_equal(vga_in(s.ports, 0x3d5), 0xff);
    vga_out(s.ports, 0x3b4, 0x0f);
    vga_out(s.ports, 0x3b5, 0x55);
    assert_int_equal(vga_in(s.ports, 0x3b5), 0x55);
    seq(&s, 2, 4), seq(&s, 4, 6), gc(&s, 5, 0), gc(&s, 6, 4);
    for (unsigned i = 0; i < 16; i++)
        poke(&s, WINDOW + 'A' * 32 + i, letter[i]);
    seq(&s, 2, 3), seq(&s, 4, 2), gc(&s, 5, 0x10), gc(&s, 6, 0x0a);
    dp_space_store(s.memory, 0xb0000, 0x0141, 2); /* underlined */
    assert_int_equal(dp_space_load(s.memory, 0xb8000, 2), 0xffff);
    look(&s, 720, 400);
    assert_int_equal(pixel(&s, 0, 0), dac(8));
    assert_int_equal(pixel(&s, 1, 0), dac(0));
    assert_int_equal(pixel(&s, 1, 15), dac(8));
    screen_fini(&s);
}

/* ---- planes ---- */

static void planar(void **state)
{
    struct screen s;
    screen_init(&s);
    assert_true(vga_bios_set(s.ports, 0x12));
    poke(&s, WINDOW, 0xf0); /* all planes */
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 3, 0), dac(ega[15]));
    assert_int_equal(pixel(&s, 4, 0), dac(ega[0]));

    seq(&s, 2, 5); /* map mask */
    poke(&s, WINDOW + 80, 0x81);
    seq(&s, 2, 15);
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 0, 1), dac(ega[5]));
    assert_int_equal(pixel(&s, 1, 1), dac(ega[0]));
    for (unsigned plane = 0; plane < 4; plane++) {
        gc(&s, 4, plane);
        assert_int_equal(peek(&s, WINDOW + 80), plane & 1 ? 0 : 0x81);
    }

    /* A pixel as INT 10h function 0Ch sets it: set/reset and the bit mask over latches. */
    gc(&s, 8, 0x10), gc(&s, 0, 6), gc(&s, 1, 15);
    peek(&s, WINDOW);
    poke(&s, WINDOW, 0xff);
    gc(&s, 8, 0xff), gc(&s, 0, 0), gc(&s, 1, 0);
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 2, 0), dac(ega[15]));
    assert_int_equal(pixel(&s, 3, 0), dac(ega[6]));
    /* XOR, rotated. */
    gc(&s, 3, 0x18 | 1);
    peek(&s, WINDOW);
    poke(&s, WINDOW, 0x01); /* rotated to the right: bit 7 */
    gc(&s, 3, 0);
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 0, 0), dac(ega[0]));
    assert_int_equal(pixel(&s, 1, 0), dac(ega[15]));
    /* Write mode 1 copies latches. */
    peek(&s, WINDOW + 80);
    gc(&s, 5, 1);
    poke(&s, WINDOW + 160, 0);
    /* Write mode 2: a colour under the bit mask. */
    gc(&s, 5, 2), gc(&s, 8, 0x0f);
    peek(&s, WINDOW + 240);
    poke(&s, WINDOW + 240, 9);
    /* Write mode 3: set/reset where data and mask agree. */
    gc(&s, 5, 3), gc(&s, 8, 0x3c), gc(&s, 0, 12);
    peek(&s, WINDOW + 320);
    poke(&s, WINDOW + 320, 0xf0);
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 0, 2), dac(ega[5]));
    assert_int_equal(pixel(&s, 7, 2), dac(ega[5]));
    assert_int_equal(pixel(&s, 3, 3), dac(ega[0]));
    assert_int_equal(pixel(&s, 4, 3), dac(ega[9]));
    assert_int_equal(pixel(&s, 1, 4), dac(ega[0]));
    assert_int_equal(pixel(&s, 2, 4), dac(ega[12]));
    assert_int_equal(pixel(&s, 4, 4), dac(ega[0]));
    /* Read mode 1: where is colour 9? */
    gc(&s, 5, 8), gc(&s, 2, 9), gc(&s, 7, 15);
    assert_int_equal(peek(&s, WINDOW + 240), 0x0f);
    gc(&s, 7, 6); /* planes 1 and 2 are 0 everywhere there */
    assert_int_equal(peek(&s, WINDOW + 240), 0xff);
    /* Wider accesses are bytes in order. */
    gc(&s, 5, 0), gc(&s, 8, 0xff), gc(&s, 4, 3);
    dp_space_store(s.memory, WINDOW + 400, 0x8040201008040201, 8);
    assert_int_equal(dp_space_load(s.memory, WINDOW + 404, 4), 0x80402010);
    assert_int_equal(dp_space_load(s.memory, WINDOW + 401, 2), 0x0402);
    look(&s, 640, 480);
    for (unsigned i = 0; i < 8; i++)
        for (unsigned k = 0; k < 8; k++)
            assert_int_equal(pixel(&s, i * 8 + k, 5), dac(ega[i == 7 - k ? 15 : 0]));
    /* Colour plane enable, colour select. */
    vga_attr(s.ports, 0x3da, 0x12, 7);
    vga_attr(s.ports, 0x3da, 0x10, 0x81);
    vga_attr(s.ports, 0x3da, 0x14, 0x06);
    vga_out(s.ports, 0x3c0, 0x20);
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 1, 0), dac((ega[7] & 15) | 0x20 | 0x40));
    assert_int_equal(vga_in(s.ports, 0x3c1), ega[0]);
    screen_fini(&s);
}

static void low_resolution(void **state)
{
    struct screen s;
    screen_init(&s);
    assert_true(vga_bios_set(s.ports, 0x0d));
    poke(&s, WINDOW + 40, 0x80);
    look(&s, 640, 400);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pixel(&s, i & 1, 2 + i / 2), dac(ega[15]));
    assert_int_equal(pixel(&s, 2, 2), dac(ega[0]));
    assert_int_equal(pixel(&s, 0, 1), dac(ega[0]));
    assert_int_equal(pixel(&s, 0, 4), dac(ega[0]));

    static const uint8_t cga[16] = {ATTR_CGA};
    assert_true(vga_bios_set(s.ports, 4));
    for (unsigned i = 0; i < 0x4000; i += 4)
        dp_space_store(s.memory, TEXT + i, 0, 4);
    poke(&s, TEXT, 0x1b);               /* line 0: colours 0 1 2 3 */
    poke(&s, TEXT + 1, 0xc0);           /* the fifth pixel */
    poke(&s, TEXT + 0x2000, 0x40);      /* line 1 */
    poke(&s, TEXT + 0x2000 + 80, 0x02); /* line 3, fourth pixel */
    look(&s, 640, 400);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pixel(&s, i * 2 + 1, 1), dac(cga[i]));
    assert_int_equal(pixel(&s, 8, 0), dac(cga[3]));
    assert_int_equal(pixel(&s, 0, 2), dac(cga[1]));
    assert_int_equal(pixel(&s, 2, 2), dac(cga[0]));
    assert_int_equal(pixel(&s, 7, 7), dac(cga[2]));
    assert_int_equal(pixel(&s, 7, 5), dac(cga[0]));

    assert_true(vga_bios_set(s.ports, 6));
    for (unsigned i = 0; i < 0x4000; i++)
        poke(&s, TEXT + i, 0);
    poke(&s, TEXT + 79, 0x01);
    poke(&s, TEXT + 0x2000 + 80, 0x80);
    look(&s, 640, 400);
    assert_int_equal(pixel(&s, 639, 1), dac(0x17));
    assert_int_equal(pixel(&s, 638, 1), dac(0));
    assert_int_equal(pixel(&s, 0, 6), dac(0x17));
    assert_int_equal(pixel(&s, 0, 4), dac(0));
    screen_fini(&s);
}

static void mode_13h_and_x(void **state)
{
    struct screen s;
    screen_init(&s);
    assert_true(vga_bios_set(s.ports, 0x13));
    for (unsigned i = 0; i < 64000; i++)
        poke(&s, WINDOW + i, (uint8_t)(i % 320 + i / 320));
    assert_int_equal(peek(&s, WINDOW + 321), 2);
    assert_int_equal(dp_space_load(s.memory, LFB + 320, 4), 0x04030201); /* the same bytes in the frame buffer */
    look(&s, 640, 400);
    for (unsigned y = 0; y < 400; y += 13)
        for (unsigned x = 0; x < 640; x++)
            assert_int_equal(pixel(&s, x, y), dac((x / 2 + y / 2) & 255));
    vga_out(s.ports, 0x3c6, 0x0f); /* the DAC's mask */
    look(&s, 640, 400);
    assert_int_equal(pixel(&s, 600, 0), dac(300 & 15));
    vga_out(s.ports, 0x3c6, 0xff);

    seq(&s, 4, 6); /* mode X: 320 x 240, unchained */
    vga_out(s.ports, 0x3c2, 0xe3);
    crtc(&s, 0x11, 0x2c);
    static const uint8_t tweak[][2] = {{6, 0x0d}, {7, 0x3e}, {9, 0x41}, {0x10, 0xea}, {0x11, 0xac}, {0x12, 0xdf}, {0x14, 0}, {0x15, 0xe7},
                                       {0x16, 6}, {0x17, 0xe3}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(tweak); i++)
        crtc(&s, tweak[i][0], tweak[i][1]);
    seq(&s, 2, 15);
    for (unsigned i = 0; i < 0x10000; i += 8)
        dp_space_store(s.memory, WINDOW + i, 0, 8);
    seq(&s, 2, 1 << (77 & 3));
    poke(&s, WINDOW + 239 * 80 + 77 / 4, 200);
    seq(&s, 2, 2);
    poke(&s, WINDOW + 19200 + 3, 100); /* the second page: pixel 13, line 0 */
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 154, 478), dac(200));
    assert_int_equal(pixel(&s, 155, 479), dac(200));
    assert_int_equal(pixel(&s, 156, 479), dac(0));
    assert_int_equal(pixel(&s, 26, 0), dac(0));
    crtc(&s, 0x0c, 19200 >> 8), crtc(&s, 0x0d, 19200 & 255);
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 26, 0), dac(100));
    vga_attr(s.ports, 0x3da, 0x13, 4); /* two pixels to the left */
    vga_out(s.ports, 0x3c0, 0x20);
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 22, 0), dac(100));
    assert_int_equal(pixel(&s, 26, 0), dac(0));
    /* Split screen after line 399: memory from address 0, not panned if the attribute controller is told so. */
    seq(&s, 2, 8);
    poke(&s, WINDOW, 50);
    crtc(&s, 0x18, 399 & 255), crtc(&s, 7, 0x2e), crtc(&s, 9, 0x01);
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 2, 400), dac(0)); /* compare is 399 - 256: off that soon */
    crtc(&s, 7, 0x3e);
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 2, 399), dac(0));
    assert_int_equal(pixel(&s, 2, 400), dac(50));
    vga_attr(s.ports, 0x3da, 0x10, 0x61);
    vga_out(s.ports, 0x3c0, 0x20);
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 2, 400), dac(0));
    assert_int_equal(pixel(&s, 6, 401), dac(50));
    assert_int_equal(pixel(&s, 22, 0), dac(100));
    screen_fini(&s);
}

/* ---- registers ---- */

static void registers(void **state)
{
    struct screen s;
    screen_init(&s);
    assert_true(vga_bios_set(s.ports, 3));
    assert_int_equal(vga_in(s.ports, 0x3cc), 0x67);
    crtc(&s, 0, 0x11); /* protected... */
    assert_int_equal(vga_in(s.ports, 0x3d5), 0x5f);
    crtc(&s, 7, 0xef); /* ...but for one bit */
    assert_int_equal(vga_in(s.ports, 0x3d5), 0x0f);
    vga_in(s.ports, 0x3da);
    vga_out(s.ports, 0x3c0, 0x31);
    vga_out(s.ports, 0x3c0, 0x2a);
    assert_int_equal(vga_in(s.ports, 0x3c1), 0x2a);
    vga_out(s.ports, 0x3c0, 0x12);
    vga_in(s.ports, 0x3da); /* the flip-flop is set back: this is an index again */
    vga_out(s.ports, 0x3c0, 0x20);
    assert_int_equal(vga_in(s.ports, 0x3c0), 0x20);
    vga_out(s.ports, 0x3c7, 17);
    assert_int_equal(vga_in(s.ports, 0x3c7), 3);
    assert_int_equal(vga_in(s.ports, 0x3c9), 17);
    assert_int_equal(vga_in(s.ports, 0x3c9), 46);
    assert_int_equal(vga_in(s.ports, 0x3c9), 4);
    assert_int_equal(vga_in(s.ports, 0x3c9), 18);
    vga_out(s.ports, 0x3c8, 5);
    assert_int_equal(vga_in(s.ports, 0x3c7), 0);
    vga_out(s.ports, 0x3c9, 0xff);
    vga_out(s.ports, 0x3c9, 0);
    vga_out(s.ports, 0x3c7, 5); /* an unfinished colour is not stored */
    assert_int_equal(vga_in(s.ports, 0x3c9), 5);
    vga_out(s.ports, 0x3c2, 0x65); /* memory off */
    assert_int_equal(peek(&s, TEXT), 0xff);

    /* A frame of 70 Hz: both bits come and go. */
    vga_bios_set(s.ports, 3);
    unsigned retrace = 0, blank = 0, starts = 0, before = 0;
    for (unsigned i = 0; i < 10000; i++) {
        unsigned v = vga_in(s.ports, 0x3da);
        retrace += v >> 3 & 1;
        blank += v & 1;
        starts += (v & 8) && !(before & 8);
        before = v;
        assert_true(!(v & 8) || (v & 1));
        dp_clock_advance(s.b.w.env.clock, 10000);
    }
    assert_int_equal(starts, 7);
    assert_in_range(retrace, 7 * 5, 7 * 8); /* two lines of 32 us */
    assert_in_range(blank, 2500, 4000);
    crtc(&s, 0x11, 0), crtc(&s, 7, 0x13 | 0x84); /* retrace after the last line: never, were it taken literally */
    starts = before = 0;
    for (unsigned i = 0; i < 10000; i++) {
        unsigned v = vga_in(s.ports, 0x3da);
        starts += (v & 8) && !(before & 8);
        before = v;
        dp_clock_advance(s.b.w.env.clock, 10000);
    }
    assert_in_range(starts, 5, 7);
    dp_device_reset(s.vga);
    unsigned seen = 0;
    for (unsigned i = 0; i < 2000; i++) {
        seen |= vga_in(s.ports, 0x3ba) ^ 9;
        dp_clock_advance(s.b.w.env.clock, 10000);
    }
    assert_int_equal(seen & 9, 9);
    screen_fini(&s);
}

/* ---- DISPI ---- */

static void dispi_set(struct screen *s, unsigned width, unsigned height, unsigned bpp, unsigned flags)
{
    vga_dispi(s->ports, 4, 0);
    vga_dispi(s->ports, 1, width);
    vga_dispi(s->ports, 2, height);
    vga_dispi(s->ports, 3, bpp);
    vga_dispi(s->ports, 4, 1 | flags);
}

static void dispi(void **state)
{
    struct screen s;
    screen_init(&s);
    assert_true(vga_bios_set(s.ports, 3)); /* a BIOS was here: the screen is not blanked, the palette is set */
    assert_int_equal(vga_dispi_get(s.ports, 0), 0xb0c5);
    vga_dispi(s.ports, 0, 0xb0c2); /* software asks for a version */
    assert_int_equal(vga_dispi_get(s.ports, 0), 0xb0c2);
    vga_dispi(s.ports, 0, 0x1234);
    assert_int_equal(vga_dispi_get(s.ports, 0), 0xb0c2);
    assert_int_equal(vga_dispi_get(s.ports, 10), 256);
    vga_dispi(s.ports, 4, 2);
    assert_int_equal(vga_dispi_get(s.ports, 1), 4096);
    assert_int_equal(vga_dispi_get(s.ports, 3), 32);

    dp_space_store(s.memory, LFB + 8, 0x11223344, 4);
    dispi_set(&s, 640, 480, 32, 0x40 | 0x80);
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 2, 0), 0x223344); /* memory kept */
    dispi_set(&s, 640, 480, 32, 0x40);
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 2, 0), 0);
    assert_false(s.source.text(s.source.opaque, &s.text));
    dp_space_store(s.memory, LFB + (479 * 640 + 639) * 4, 0xffabcdef, 4);
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 639, 479), 0xabcdef);
    assert_int_equal(dp_space_load(s.ports, 0x1d0, 2), 0x41); /* the aligned data port; ENABLE is still selected */
    assert_int_equal(vga_in(s.ports, 0x1cf), 0x41);

    vga_dispi(s.ports, 6, 1024); /* a wider line, and scrolling in it */
    assert_int_equal(vga_dispi_get(s.ports, 6), 1024);
    assert_int_equal(vga_dispi_get(s.ports, 7), 4096);
    vga_dispi(s.ports, 8, 10), vga_dispi(s.ports, 9, 20);
    dp_space_store(s.memory, LFB + (20 * 1024 + 10) * 4, 0x00010203, 4);
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 0, 0), 0x010203);
    vga_dispi(s.ports, 8, 0xffff), vga_dispi(s.ports, 9, 0xffff); /* as far as there is memory */
    assert_int_equal(vga_dispi_get(s.ports, 8), 1024 - 640);
    assert_int_equal(vga_dispi_get(s.ports, 9), 4096 - 480);
    dp_space_store(s.memory, LFB + DP_VGA_MEMORY_SIZE - 4, 0x00998877, 4);
    look(&s, 640, 480);
    assert_int_equal(pixel(&s, 639, 479), 0x998877);
    dispi_set(&s, 640, 480, 32, 0x40); /* enabling sets them back */
    assert_int_equal(vga_dispi_get(s.ports, 6), 640);
    assert_int_equal(vga_dispi_get(s.ports, 9), 0);

    dispi_set(&s, 800, 600, 24, 0x40);
    dp_space_write(s.memory, LFB + (800 + 1) * 3, "\x10\x20\x30", 3);
    look(&s, 800, 600);
    assert_int_equal(pixel(&s, 1, 1), 0x302010);
    dispi_set(&s, 800, 600, 16, 0x40);
    dp_space_store(s.memory, LFB + 802 * 2, 0xf81f, 2);
    look(&s, 800, 600);
    assert_int_equal(pixel(&s, 2, 1), 0xff00ff);
    dispi_set(&s, 800, 600, 15, 0x40);
    dp_space_store(s.memory, LFB + 802 * 2, 0x7fe0, 2);
    look(&s, 800, 600);
    assert_int_equal(pixel(&s, 2, 1), 0xffff00);

    dispi_set(&s, 1024, 768, 8, 0); /* by banks, as VBE 1.2 programs do */
    vga_outw(s.ports, 0x3ce, 6, 5);
    vga_dispi(s.ports, 5, 11);
    poke(&s, WINDOW + 0xffff, 77);
    assert_int_equal(peek(&s, LFB + 1024 * 768 - 1), 77);
    assert_int_equal(peek(&s, WINDOW + 0xffff), 77);
    look(&s, 1024, 768);
    assert_int_equal(pixel(&s, 1023, 767), dac(77));
    vga_dispi(s.ports, 4, 0x21 | 0x80); /* eight-bit DAC */
    vga_out(s.ports, 0x3c8, 77);
    for (unsigned i = 0; i < 3; i++)
        vga_out(s.ports, 0x3c9, 0x81 + i);
    look(&s, 1024, 768);
    assert_int_equal(pixel(&s, 1023, 767), 0x818283);

    vga_bios_set(s.ports, 0x12);
    dispi_set(&s, 800, 600, 4, 0);
    seq(&s, 2, 6);
    poke(&s, WINDOW + 599 * 100 + 99, 0x01);
    look(&s, 800, 600);
    assert_int_equal(pixel(&s, 799, 599), dac(ega[6]));
    assert_int_equal(pixel(&s, 798, 599), dac(ega[0]));

    dispi_set(&s, 3, 0, 7, 0); /* nonsense becomes something */
    assert_int_equal(vga_dispi_get(s.ports, 3), 8);
    look(&s, 8, 1);
    dispi_set(&s, 65535, 65535, 32, 0);
    look(&s, 4096, 1024);
    vga_bios_set(s.ports, 3); /* and back */
    look(&s, 720, 400);
    screen_fini(&s);
}

/* ---- PCI ---- */

static void pci(void **state)
{
    struct screen s;
    screen_init(&s);
    assert_int_equal(config_read(&s.b, 2, 0, 4), 0x11111234);
    assert_int_equal(config_read(&s.b, 2, 8, 4), 0x03000002);
    assert_int_equal(config_read(&s.b, 2, 0x10, 4), LFB | 8);
    config_write(&s.b, 2, 0x30, 0xfffffffe, 4);
    assert_int_equal(config_read(&s.b, 2, 0x30, 4), 0xfffff000); /* 3000 bytes: 4 KiB */
    config_write(&s.b, 2, 0x30, 0xe2000001, 4);
    uint8_t copy[sizeof(bios)];
    assert_int_equal(dp_space_read(s.memory, 0xe2000000, copy, sizeof(copy)), 0);
    assert_memory_equal(copy, bios, sizeof(copy));
    assert_int_equal(dp_space_load(s.memory, 0xe2000000 + sizeof(bios), 8), 0);
    struct dp_range r;
    assert_true(dp_space_find(s.memory, LFB + 0xffffff, &r) && r.ram == dp_vga_ram(s.vga) && r.size == DP_VGA_MEMORY_SIZE);

    /* A driver that only uses the register BAR, as Linux' bochs-drm. */
    assert_int_equal(dp_space_load(s.memory, MMIO + 0x500, 2), 0xb0c5);
    assert_int_equal(dp_space_load(s.memory, MMIO + 0x514, 2), 256);
    assert_int_equal(dp_space_load(s.memory, MMIO + 0x600, 4), 8);
    assert_int_equal(dp_space_load(s.memory, MMIO + 0x604, 4), 0x1e1e1e1e);
    assert_int_equal(dp_space_load(s.memory, MMIO, 8), 0); /* no EDID */
    poke(&s, MMIO + 0x400 + 2, 1);
    assert_int_equal(peek(&s, MMIO + 0x400 + 12), 1);
    peek(&s, MMIO + 0x400 + 0x1a);
    poke(&s, MMIO + 0x400, 0x20);
    static const uint16_t values[][2] = {{4, 0}, {3, 32}, {1, 1280}, {2, 800}, {5, 0}, {6, 1280}, {7, 800}, {8, 0}, {9, 0}, {4, 0x41}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(values); i++)
        dp_space_store(s.memory, MMIO + 0x500 + values[i][0] * 2, values[i][1], 2);
    dp_space_store(s.memory, LFB + 1280 * 4, 0x123456, 4);
    look(&s, 1280, 800);
    assert_int_equal(pixel(&s, 0, 1), 0x123456);
    assert_int_equal(dp_space_load(s.memory, MMIO + 0x502, 4), 800 << 16 | 1280);
    peek(&s, MMIO + 0x400 + 0x1a);
    poke(&s, MMIO + 0x400, 0); /* blank */
    look(&s, 0, 0);

    dp_device_reset(s.vga);
    assert_int_equal(dp_space_load(s.memory, LFB, 4), 0xffffffff);
    assert_int_equal(config_read(&s.b, 2, 0x10, 4), 8);
    screen_fini(&s);

    struct dp_error e = {0};
    struct conformance_world w;
    conformance_world_init(&w);
    struct dp_device *d = dp_device_alloc(&dp_vga_class, "vga", &w.env);
    dp_vga_wire(d, bios, 1 << 20);
    assert_int_equal(dp_device_init(d, &e), -EFBIG);
    dp_device_free(d);
    d = dp_device_alloc(&dp_vga_class, "vga", &w.env); /* no ROM at all */
    assert_ok(dp_device_init(d, &e), e);
    dp_device_free(d);
    conformance_world_fini(&w);
}

/* ---- viewers ---- */

static void generation(void **state)
{
    struct screen s;
    screen_init(&s);
    vga_bios_set(s.ports, 3);
    uint64_t last = s.source.generation(s.source.opaque), now;
    assert_true(s.source.generation(s.source.opaque) == last);
    dp_space_store(s.memory, TEXT + 100, 0x0741, 2);
    assert_true((now = s.source.generation(s.source.opaque)) != last);
    last = now;
    dp_space_store(s.memory, TEXT + 100, 0x0741, 2);
    peek(&s, TEXT);
    vga_in(s.ports, 0x3da);
    assert_true(s.source.generation(s.source.opaque) == last);
    crtc(&s, 15, 99); /* the cursor */
    assert_true((now = s.source.generation(s.source.opaque)) != last);
    last = now;
    dispi_set(&s, 640, 480, 32, 0x40);
    assert_true((now = s.source.generation(s.source.opaque)) != last);
    last = now;
    for (unsigned i = 0; i < 8; i++) {
        dp_space_store(s.memory, LFB + 640 * 480 * 4 - 4 - 4 * i, 1 + i, 4);
        assert_true((now = s.source.generation(s.source.opaque)) != last);
        last = now;
    }
    dp_space_store(s.memory, LFB + 640 * 480 * 4, 1, 4); /* just outside */
    assert_true(s.source.generation(s.source.opaque) == last);
    dp_device_reset(s.vga);
    assert_true(s.source.generation(s.source.opaque) != last);
    screen_fini(&s);
}

/* Writes through the window are told to who tracks the RAM: migration, and engines that run code from there. */
static void dirty(void **state)
{
    struct screen s;
    struct dp_error e = {0};
    uint64_t bitmap[DP_VGA_MEMORY_SIZE / 4096 / 64];
    screen_init(&s);
    struct dp_ram *ram = dp_vga_ram(s.vga);
    vga_bios_set(s.ports, 0x12);
    assert_ok(dp_space_dirty_start(s.memory, 3, &e), e);
    dp_space_dirty_harvest(s.memory, 3, ram, bitmap);
    poke(&s, WINDOW + 0x400, 1); /* bytes 0x1000-0x1003 */
    assert_int_equal(dp_space_dirty_harvest(s.memory, 3, ram, bitmap), 1);
    assert_int_equal(bitmap[0], 2);
    dispi_set(&s, 640, 480, 32, 0);
    assert_int_equal(dp_space_dirty_harvest(s.memory, 3, ram, bitmap), 300);
    vga_dispi(s.ports, 5, 255);
    gc(&s, 6, 5);
    poke(&s, WINDOW + 0xffff, 1);
    assert_int_equal(dp_space_dirty_harvest(s.memory, 3, ram, bitmap), 1);
    assert_true(bitmap[DP_ARRAY_LEN(bitmap) - 1] >> 63);
    dp_space_dirty_stop(s.memory, 3);
    screen_fini(&s);
}

static uint64_t see(struct dp_device *d, struct dp_random *r)
{
    struct dp_display_source source = dp_vga_source(d);
    struct dp_display_picture p = {0};
    struct dp_error e = {0};
    uint64_t sum = 0;
    if (dp_random_next(r) % 32)
        return 0;
    assert_ok(source.picture(source.opaque, &p, &e), e);
    for (size_t i = 0; i < (size_t)p.width * p.height; i++)
        sum = sum * 31 + p.pixels[i];
    dp_display_picture_fini(&p);
    return sum;
}

/* Where the window is RAM now: the bytes of video memory it shows, or -1. */
static int64_t shown_at(struct screen *s, uint64_t at)
{
    struct dp_range r;
    if (!dp_space_find(s->memory, at, &r) || r.ram != dp_vga_ram(s->vga))
        return -1;
    return (int64_t)(r.ram_offset + (at - r.base));
}
static void heat(struct screen *s, uint64_t at)
{
    for (unsigned i = 0; i < 600; i++)
        peek(s, at + i);
}

/* The window is mapped as RAM while registers make it so, and only then. */
static void direct(void **state)
{
    struct screen s;
    screen_init(&s);
    assert_true(vga_bios_set(s.ports, 3));
    heat(&s, TEXT);
    assert_int_equal(shown_at(&s, TEXT), -1);
    assert_true(vga_bios_set(s.ports, 0x13));
    assert_int_equal(shown_at(&s, WINDOW), -1);
    heat(&s, WINDOW);
    assert_int_equal(shown_at(&s, WINDOW), 0);
    assert_int_equal(shown_at(&s, WINDOW + 0xffff), 0xffff);
    assert_int_equal(shown_at(&s, WINDOW + 0x10000), -1);
    poke(&s, WINDOW + 319, 77);
    look(&s, 640, 400);
    assert_int_equal(pixel(&s, 639, 0), dac(77));
    vga_out(s.ports, 0x3c8, 1); /* what does not matter changes nothing */
    vga_out(s.ports, 0x3c9, 1);
    gc(&s, 8, 0x0f);
    crtc(&s, 0x0c, 1);
    assert_int_equal(shown_at(&s, WINDOW), 0);
    seq(&s, 2, 3); /* the map mask does */
    assert_int_equal(shown_at(&s, WINDOW), -1);
    heat(&s, WINDOW);
    assert_int_equal(shown_at(&s, WINDOW), -1);
    for (unsigned i = 0; i < 4; i++)
        poke(&s, WINDOW + i, 9);
    assert_int_equal(dp_space_load(s.memory, LFB, 4), 0x00000909);
    seq(&s, 2, 15);
    heat(&s, WINDOW);
    assert_int_equal(shown_at(&s, WINDOW), 0);
    gc(&s, 6, 0x01); /* 128 KiB */
    assert_int_equal(shown_at(&s, WINDOW), -1);
    heat(&s, WINDOW);
    assert_int_equal(shown_at(&s, WINDOW + 0x1ffff), 0x1ffff);
    vga_out(s.ports, 0x3c2, 0x61); /* no memory at all */
    assert_int_equal(shown_at(&s, WINDOW), -1);
    vga_out(s.ports, 0x3c2, 0x63);
    gc(&s, 6, 0x05);

    dispi_set(&s, 640, 480, 8, 0); /* banks */
    for (unsigned bank = 0; bank < 256; bank += 51) {
        vga_dispi(s.ports, 5, bank);
        assert_int_equal(shown_at(&s, WINDOW), -1);
        heat(&s, WINDOW);
        assert_int_equal(shown_at(&s, WINDOW + 5), bank * 0x10000 + 5);
    }
    gc(&s, 6, 0x01); /* 128 KiB of the last bank are not there */
    heat(&s, WINDOW);
    assert_int_equal(shown_at(&s, WINDOW), -1);
    gc(&s, 6, 0x05);
    heat(&s, WINDOW);
    assert_int_equal(shown_at(&s, WINDOW), 255 * 0x10000);
    dp_space_store(s.memory, MMIO + 0x500 + 5 * 2, 3, 2); /* by the register BAR */
    assert_int_equal(shown_at(&s, WINDOW), -1);
    heat(&s, WINDOW);
    struct dp_buffer image = {0};
    dp_device_save(s.vga, &image);
    dp_device_reset(s.vga);
    assert_int_equal(shown_at(&s, WINDOW), -1);
    conformance_load(s.vga, &image);
    assert_int_equal(shown_at(&s, WINDOW), -1);
    heat(&s, WINDOW);
    assert_int_equal(shown_at(&s, WINDOW), 3 * 0x10000);
    dp_buffer_fini(&image);
    screen_fini(&s); /* and leaves nothing behind */
}

/* QEMU's place for it, where bochs-drm looks. */
static void edid(void **state)
{
    struct conformance_world w;
    struct dp_error e = {0};
    struct screen s;
    uint8_t expected[DP_EDID_SIZE], got[DP_EDID_SIZE];
    screen_init(&s);
    assert_int_equal(dp_space_load(s.memory, MMIO, 4), 0); /* a monitor that tells nothing */
    screen_fini(&s);
    conformance_world_init(&w);
    struct dp_device *d = dp_device_alloc(&dp_vga_class, "vga", &w.env);
    assert_ok(dp_device_set(d, "xres", "1600", &e), e);
    assert_ok(dp_device_set(d, "yres", "900", &e), e);
    assert_ok(dp_device_init(d, &e), e);
    const struct dp_pci_bar *bar = &dp_vga_function(d)->bar[2];
    for (unsigned i = 0; i < DP_EDID_SIZE; i++)
        got[i] = (uint8_t)bar->ops->read(bar->opaque, i, 1);
    dp_display_edid(expected, "doppel", 1600, 900);
    assert_memory_equal(got, expected, sizeof got);
    assert_int_equal(bar->ops->read(bar->opaque, 4, 4), 0x00ffffff);
    dp_device_free(d);
    conformance_world_fini(&w);
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make, .poke = see, .rounds = 15};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_mode), cmocka_unit_test(mono_text), cmocka_unit_test(planar),     cmocka_unit_test(low_resolution),
        cmocka_unit_test(mode_13h_and_x), cmocka_unit_test(registers), cmocka_unit_test(dispi), cmocka_unit_test(pci),
        cmocka_unit_test(generation), cmocka_unit_test(dirty), cmocka_unit_test(direct), cmocka_unit_test(edid), cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("vga", tests, NULL, NULL);
}
