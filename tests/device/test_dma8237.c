/* test_dma8237.c - the DMA controllers as a floppy's and a sound card's driver program them: SeaBIOS's and Linux's order of writes,
 * terminal count,
 * autoinitialisation, wraps, words, masks, status, page registers, and what every device must do.
 */
#include "devices/intc/dma8237.h"
#include "tests/device/conformance.h"

struct rig { struct conformance_world w; struct dp_device *d; unsigned ready; };

static void ready_set(void *opaque, unsigned n, bool level) { ((struct rig *)opaque)->ready += level && n == 2; }

static void rig_new(struct rig *r)
{
    struct dp_error e = {0};
    memset(r, 0, sizeof(*r));
    conformance_world_init(&r->w);
    r->d = dp_device_alloc(&dp_dma_class, "dma", &r->w.env);
    dp_dma_listen(r->d, 2, (struct dp_irq){ready_set, r, 2});
    assert_ok(dp_device_init(r->d, &e), e);
    assert_ok(dp_device_map(r->d, DP_DMA_WINDOW_FIRST, 0x00, &e), e);
    assert_ok(dp_device_map(r->d, DP_DMA_WINDOW_SECOND, 0xc0, &e), e);
    assert_ok(dp_device_map(r->d, DP_DMA_WINDOW_PAGES, 0x80, &e), e);
    dp_device_resume(r->d);
}

static void rig_free(struct rig *r)
{
    dp_device_free(r->d);
    conformance_world_fini(&r->w);
}

static uint8_t inb(struct rig *r, unsigned port) { return (uint8_t)dp_space_load(r->w.env.ports, port, 1); }
static void outb(struct rig *r, unsigned port, uint8_t v) { dp_space_store(r->w.env.ports, port, v, 1); }

/* dma_floppy of SeaBIOS, which is what everybody does. count is in the channel's units. */
static void program(struct rig *r, unsigned channel, uint32_t address, unsigned count, uint8_t mode)
{
    static const uint8_t page[] = {0x87, 0x83, 0x81, 0x82, 0x8f, 0x8b, 0x89, 0x8a};
    unsigned shift = channel > 3, base = shift ? 0xc0 : 0;
    unsigned c = channel & 3, low = shift ? address >> 1 : address;
    outb(r, base + (0x0a << shift), (uint8_t)(c | 4));
    outb(r, base + (0x0c << shift), 0);
    outb(r, base + (2 * c << shift), (uint8_t)low);
    outb(r, base + (2 * c << shift), (uint8_t)(low >> 8));
    outb(r, base + (0x0c << shift), 0);
    outb(r, base + ((2 * c + 1) << shift), (uint8_t)(count - 1));
    outb(r, base + ((2 * c + 1) << shift), (uint8_t)((count - 1) >> 8));
    outb(r, base + (0x0b << shift), (uint8_t)(mode | c));
    outb(r, page[channel], (uint8_t)(address >> 16));
    outb(r, base + (0x0a << shift), (uint8_t)c);
}

static unsigned count_of(struct rig *r, unsigned channel)
{
    outb(r, 0x0c, 0);
    unsigned low = inb(r, channel * 2 + 1);
    return low | inb(r, channel * 2 + 1) << 8;
}

static void floppy(void **state)
{
    struct rig r;
    rig_new(&r);
    uint8_t data[1024], back[1024];
    bool tc;
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7 + i / 256);
    assert_int_equal(dp_dma_transfer(r.d, 2, data, 512, true, &tc), 0); /* masked after reset */
    program(&r, 2, 0x12e00, 1024, 0x46);
    assert_int_equal(r.ready, 1);
    assert_int_equal(dp_dma_transfer(r.d, 2, data, 512, true, &tc), 512);
    assert_false(tc);
    assert_int_equal(count_of(&r, 2), 511);
    assert_int_equal(dp_dma_transfer(r.d, 2, data + 512, 600, true, &tc), 512);
    assert_true(tc);
    assert_int_equal(dp_space_read(r.w.env.memory, 0x12e00, back, 1024), 0);
    assert_memory_equal(back, data, 1024);
    assert_int_equal(count_of(&r, 2), 0xffff);
    assert_int_equal(dp_dma_transfer(r.d, 2, data, 1, true, &tc), 0); /* masked itself */
    assert_int_equal(inb(&r, 0x08), 0x04);
    assert_int_equal(inb(&r, 0x08), 0);

    program(&r, 2, 0x12e00, 1024, 0x4a);
    memset(back, 0, sizeof(back));
    assert_int_equal(dp_dma_transfer(r.d, 2, back, 1024, false, &tc), 1024);
    assert_true(tc);
    assert_memory_equal(back, data, 1024);

    program(&r, 2, 0x12e00, 16, 0x42); /* verify: counted only */
    assert_int_equal(dp_dma_transfer(r.d, 2, memset(back, 0x11, 16), 16, true, &tc), 16);
    assert_true(tc);
    assert_int_equal(dp_space_load(r.w.env.memory, 0x12e00, 1), data[0]);
    program(&r, 2, 0x12e00, 16, 0x46); /* the other direction */
    assert_int_equal(dp_dma_transfer(r.d, 2, back, 16, false, &tc), 16);
    assert_int_equal(back[3], 0xff);

    dp_dma_request(r.d, 2, true);
    assert_int_equal(inb(&r, 0x08), 0x44);
    dp_dma_request(r.d, 2, false);
    assert_int_equal(inb(&r, 0x08), 0);
    rig_free(&r);
}

static void wraps_and_words(void **state)
{
    struct rig r;
    rig_new(&r);
    struct dp_space *m = r.w.env.memory;
    uint8_t data[64];
    bool tc;
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i + 1);
    program(&r, 1, 0x5fff0, 32, 0x45); /* address 64 KiB wraps within the page */
    assert_int_equal(dp_dma_transfer(r.d, 1, data, 32, true, &tc), 32);
    assert_true(tc);
    assert_int_equal(dp_space_load(m, 0x5ffff, 1), 16);
    assert_int_equal(dp_space_load(m, 0x50000, 1), 17);
    assert_int_equal(dp_space_load(m, 0x60000, 1), 0);

    program(&r, 3, 0x70010, 16, 0x64); /* downwards */
    assert_int_equal(dp_dma_transfer(r.d, 3, data, 16, true, &tc), 16);
    assert_int_equal(dp_space_load(m, 0x70010, 1), 1);
    assert_int_equal(dp_space_load(m, 0x70001, 1), 16);

    program(&r, 5, 0x3fffc, 8, 0x54); /* words, again and again */
    assert_int_equal(dp_dma_transfer(r.d, 5, data, 21, true, &tc), 16);
    assert_true(tc);
    assert_int_equal(dp_space_load(m, 0x3fffc, 4), 0x04030201);
    assert_int_equal(dp_space_load(m, 0x20000, 4), 0x08070605);
    assert_int_equal(dp_dma_transfer(r.d, 5, data + 32, 3, true, &tc), 2);
    assert_false(tc);
    assert_int_equal(dp_space_load(m, 0x3fffc, 2), 0x2221);
    assert_int_equal(inb(&r, 0xd0), 0x02);

    program(&r, 6, 0xfe0000, 65536, 0x44);
    outb(&r, 0x89, 0xff); /* the lowest bit of the page is not used; past the end of memory */
    assert_int_equal(dp_dma_transfer(r.d, 6, data, 64, true, &tc), 64);
    assert_int_equal(dp_space_load(m, 0xfe0000, 1), 1);
    program(&r, 4, 0, 16, 0xc0);
    assert_int_equal(dp_dma_transfer(r.d, 4, data, 16, true, &tc), 0);
    assert_int_equal(dp_dma_transfer(r.d, 9, data, 16, true, &tc), 0);
    rig_free(&r);
}

static void registers(void **state)
{
    struct rig r;
    rig_new(&r);
    bool tc;
    uint8_t byte = 0;
    assert_int_equal(inb(&r, 0x0f), 0xff);
    for (unsigned i = 0; i < 16; i++)
        outb(&r, 0x80 + i, (uint8_t)(0xa0 + i));
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(inb(&r, 0x80 + i), 0xa0 + i);
    program(&r, 2, 0x1000, 256, 0x46);
    outb(&r, 0x08, 0x04); /* the whole chip off */
    assert_int_equal(dp_dma_transfer(r.d, 2, &byte, 1, true, &tc), 0);
    outb(&r, 0x08, 0x00);
    assert_int_equal(r.ready, 2);
    assert_int_equal(dp_dma_transfer(r.d, 2, &byte, 1, true, &tc), 1);
    outb(&r, 0x0d, 0); /* master clear masks all */
    assert_int_equal(inb(&r, 0x0f), 0xff);
    outb(&r, 0x0e, 0);
    assert_int_equal(inb(&r, 0x0f), 0xf0);
    outb(&r, 0x0f, 0x0b);
    assert_int_equal(dp_dma_transfer(r.d, 2, &byte, 1, true, &tc), 1);
    outb(&r, 0x09, 0x07);
    assert_int_equal(inb(&r, 0x08), 0x80);
    outb(&r, 0x09, 0x03);
    assert_int_equal(inb(&r, 0x08), 0);
    assert_int_equal(count_of(&r, 2), 253);
    dp_device_reset(r.d);
    assert_int_equal(inb(&r, 0x0f), 0xff);
    rig_free(&r);
}

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_dma_class, "dma", env);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static uint64_t poke(struct dp_device *d, struct dp_random *r)
{
    uint8_t buffer[300] = {1, 2, 3};
    uint64_t v = dp_random_next(r);
    bool tc;
    if (v & 1)
        dp_dma_request(d, v >> 1 & 7, v >> 4 & 1);
    uint64_t n = dp_dma_transfer(d, v >> 8 & 7, buffer, v >> 16 & 0xff, v >> 5 & 1, &tc);
    return n << 16 | (uint64_t)tc << 8 | buffer[0];
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make, .poke = poke, .rounds = 30};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floppy), cmocka_unit_test(wraps_and_words), cmocka_unit_test(registers), cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("dma8237", tests, NULL, NULL);
}
