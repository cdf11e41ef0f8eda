/* test_virtio_gpu.c - the screen by its driver, as Linux's virtio_gpu does it; every refusal; resizing; save and load. */
#include "devices/virtio/virtio_gpu.h"
#include "display/edid.h"
#include "tests/device/virtio_driver.h"

enum { GET_DISPLAY_INFO = 0x100, CREATE_2D, UNREF, SET_SCANOUT, FLUSH, TRANSFER, ATTACH, DETACH, GET_CAPSET_INFO, GET_CAPSET, GET_EDID,
       UPDATE_CURSOR = 0x300, MOVE_CURSOR };
enum { OK = 0x1100, OK_INFO = 0x1101, OK_EDID = 0x1104, UNSPEC = 0x1200, NO_MEMORY, BAD_SCANOUT, BAD_RESOURCE, BAD_CONTEXT, BAD_PARAMETER };
enum { BGRA = 1, BGRX = 2, ARGB = 3, XRGB = 4, RGBA = 67, XBGR = 68, ABGR = 121, RGBX = 134 };
enum { HEADER = 24, ROOM = 2048 };
#define ALL_FEATURES ~0ull

struct rig {
    struct bus bus;
    struct dp_device *adapter, *gpu;
    struct driver d;
    struct dp_display_source source;
    struct dp_display_picture picture;
    uint64_t command, response, pixels; /* guest pages */
    uint32_t length;                    /* of the last response */
};

static void rig_init(struct rig *r, const char *memory)
{
    struct dp_error e = {0};
    memset(r, 0, sizeof *r);
    bus_init(&r->bus);
    r->gpu = dp_device_alloc(&dp_virtio_gpu_class, "gpu", &r->bus.w.env);
    assert_ok(dp_device_set(r->gpu, "memory", memory, &e), e);
    assert_ok(dp_device_set(r->gpu, "xres", "1024", &e), e);
    assert_ok(dp_device_set(r->gpu, "yres", "768", &e), e);
    r->adapter = bus_plug(&r->bus, r->gpu, 3);
    driver_probe(&r->d, &r->bus, 3, 16);
    driver_start(&r->d, ALL_FEATURES, 0, true);
    r->source = dp_virtio_gpu_source(r->gpu);
    r->command = guest_alloc(&r->bus, 65536);
    r->response = guest_alloc(&r->bus, 4096);
    r->pixels = guest_alloc(&r->bus, 4 << 20);
}

static void rig_fini(struct rig *r)
{
    dp_display_picture_fini(&r->picture);
    dp_device_free(r->adapter);
    bus_fini(&r->bus);
}

static uint8_t *response(struct rig *r) { return guest(&r->bus, r->response); }
static uint32_t answer32(struct rig *r, unsigned at) { return dp_ld32(response(r) + at); }

/* A command of so many bytes, words after the header as given; returns the response's type. */
static uint32_t send_sized(struct rig *r, unsigned queue, uint32_t type, const uint32_t *word, unsigned bytes, unsigned room)
{
    uint8_t *c = guest(&r->bus, r->command);
    memset(c, 0, HEADER);
    dp_st32(c, type);
    for (unsigned i = 0; i * 4 + HEADER < bytes; i++)
        dp_st32(c + HEADER + 4 * i, word[i]);
    memset(response(r), 0xee, ROOM);
    unsigned half = DP_MIN(bytes, 10u); /* in two pieces, as nobody forbids */
    struct buffer v[] = {{r->command, half, false}, {r->command + half, bytes - half, false}, {r->response, room, true}};
    unsigned head = ring_add(&r->d, queue, v, room ? 3 : 2, false);
    ring_kick(&r->d, queue);
    assert_int_equal(ring_used(&r->d, queue, &r->length), head);
    return room ? answer32(r, 0) : 0;
}
#define SEND(type, ...) \
    ({ \
        const uint32_t word_[] = {__VA_ARGS__}; \
        send_sized(&r, (type) >= UPDATE_CURSOR, type, word_, HEADER + sizeof word_, ROOM); \
    })

static void attach_words(struct rig *r, uint32_t id, unsigned entries, const uint64_t *address, const uint32_t *length, uint32_t expected)
{
    uint32_t word[2 + 4 * 64] = {id, entries};
    for (unsigned i = 0; i < entries; i++) {
        word[2 + 4 * i] = (uint32_t)address[i];
        word[3 + 4 * i] = address[i] >> 32;
        word[4 + 4 * i] = length[i];
    }
    assert_int_equal(send_sized(r, 0, ATTACH, word, HEADER + 8 + 16 * entries, ROOM), expected);
}

static uint64_t look(struct rig *r)
{
    struct dp_error e = {0};
    assert_ok(r->source.picture(r->source.opaque, &r->picture, &e), e);
    return r->source.generation(r->source.opaque);
}
static uint32_t dot(struct rig *r, unsigned x, unsigned y) { return r->picture.pixels[y * r->picture.width + x]; }

/* What Linux does for its console: display info, EDID, a resource with scattered pages, a scanout, damage. */
static void console(void **state)
{
    struct rig r;
    rig_init(&r, "64M");
    struct dp_space *m = r.bus.w.env.memory;
    assert_int_equal(config_read(&r.bus, 3, 8, 4) >> 8, 0x038000);
    assert_int_equal(dp_space_load(m, r.d.config + 8, 4), 1);
    assert_int_equal(dp_space_load(m, r.d.config + 12, 4), 0);
    assert_int_equal(SEND(GET_DISPLAY_INFO), OK_INFO);
    assert_int_equal(r.length, 24 + 16 * 24);
    assert_int_equal(answer32(&r, 24 + 8), 1024);
    assert_int_equal(answer32(&r, 24 + 12), 768);
    assert_int_equal(answer32(&r, 24 + 16), 1);
    for (unsigned i = 1; i < 16; i++)
        assert_int_equal(answer32(&r, 24 + 24 * i + 16), 0);
    assert_int_equal(SEND(GET_EDID, 0, 0), OK_EDID);
    assert_int_equal(r.length, 24 + 8 + 1024);
    assert_int_equal(answer32(&r, 24), 128);
    uint8_t edid[DP_EDID_SIZE];
    dp_display_edid(edid, "doppel", 1024, 768);
    assert_memory_equal(response(&r) + 32, edid, sizeof edid);

    assert_false(dp_virtio_gpu_shows(r.gpu));
    look(&r);
    assert_int_equal(r.picture.width, 0);
    assert_int_equal(SEND(CREATE_2D, 1, BGRX, 1024, 768), OK);
    uint64_t address[48];
    uint32_t length[48];
    for (unsigned i = 0; i < 48; i++) { /* 3 MiB in 48 pieces, backwards */
        address[i] = r.pixels + (47 - i) * 65536;
        length[i] = 65536;
    }
    attach_words(&r, 1, 48, address, length, OK);
    assert_int_equal(SEND(SET_SCANOUT, 0, 0, 1024, 768, 0, 1), OK);
    assert_true(dp_virtio_gpu_shows(r.gpu));
    uint64_t before = look(&r);
    assert_int_equal(r.picture.width, 1024);
    assert_int_equal(r.picture.height, 768);
    assert_int_equal(dot(&r, 0, 0), 0);
    for (unsigned y = 0; y < 768; y++)
        for (unsigned x = 0; x < 1024; x++) {
            uint64_t at = (y * 1024 + x) * 4;
            dp_st32(guest(&r.bus, address[at / 65536] + at % 65536), 0xaa000000u | y << 12 | x);
        }
    /* A part of some lines, then all. */
    assert_int_equal(SEND(TRANSFER, 100, 200, 300, 50, (200 * 1024 + 100) * 4, 0, 1, 0), OK);
    assert_int_equal(r.source.generation(r.source.opaque), before);
    assert_int_equal(SEND(FLUSH, 100, 200, 300, 50, 1, 0), OK);
    assert_true(look(&r) != before);
    assert_int_equal(dot(&r, 100, 200), 200 << 12 | 100);
    assert_int_equal(dot(&r, 399, 249), 249 << 12 | 399);
    assert_int_equal(dot(&r, 99, 200), 0);
    assert_int_equal(dot(&r, 400, 249), 0);
    assert_int_equal(dot(&r, 100, 250), 0);
    assert_int_equal(SEND(TRANSFER, 0, 0, 1024, 768, 0, 0, 1, 0), OK);
    look(&r);
    for (unsigned y = 0; y < 768; y += 7)
        for (unsigned x = 0; x < 1024; x += 3)
            assert_int_equal(dot(&r, x, y), y << 12 | x);
    /* A part of it as the screen. */
    assert_int_equal(SEND(SET_SCANOUT, 8, 16, 640, 480, 0, 1), OK);
    look(&r);
    assert_int_equal(r.picture.width, 640);
    assert_int_equal(dot(&r, 639, 479), 495 << 12 | 647);
    assert_int_equal(SEND(DETACH, 1, 0), OK);
    assert_int_equal(SEND(DETACH, 1, 0), UNSPEC);
    assert_int_equal(SEND(UNREF, 1, 0), OK);
    assert_false(dp_virtio_gpu_shows(r.gpu));
    look(&r);
    assert_int_equal(r.picture.width, 0);
    assert_int_equal(driver_status(&r.d), 15);
    assert_true(r.bus.msi_count[0] > 10);
    rig_fini(&r);
}

static void fences(void **state)
{
    struct rig r;
    rig_init(&r, "1M");
    uint8_t *c = guest(&r.bus, r.command);
    memset(c, 0, 64);
    dp_st32(c, CREATE_2D);
    dp_st32(c + 4, 1); /* fenced */
    dp_st64(c + 8, 0x123456789abcull);
    dp_st32(c + 16, 7);
    dp_st32(c + 24, 5), dp_st32(c + 28, BGRA), dp_st32(c + 32, 8), dp_st32(c + 36, 8);
    struct buffer v[] = {{r.command, 40, false}, {r.response, 24, true}};
    ring_add(&r.d, 0, v, 2, false);
    ring_kick(&r.d, 0);
    assert_true(ring_used(&r.d, 0, &r.length) >= 0);
    assert_int_equal(r.length, 24);
    assert_int_equal(answer32(&r, 0), OK);
    assert_int_equal(answer32(&r, 4), 1);
    assert_true(dp_ld64(response(&r) + 8) == 0x123456789abcull);
    assert_int_equal(answer32(&r, 16), 7);
    rig_fini(&r);
}

static void formats(void **state)
{
    static const struct { uint32_t format; uint8_t bytes[4]; } all[] = {
        {BGRA, {0x33, 0x22, 0x11, 0x44}}, {BGRX, {0x33, 0x22, 0x11, 0x44}}, {ARGB, {0x44, 0x11, 0x22, 0x33}}, {XRGB, {0x44, 0x11, 0x22, 0x33}},
        {RGBA, {0x11, 0x22, 0x33, 0x44}}, {RGBX, {0x11, 0x22, 0x33, 0x44}}, {ABGR, {0x44, 0x33, 0x22, 0x11}}, {XBGR, {0x44, 0x33, 0x22, 0x11}},
    };
    struct rig r;
    rig_init(&r, "1M");
    for (unsigned i = 0; i < DP_ARRAY_LEN(all); i++) {
        assert_int_equal(SEND(CREATE_2D, 9, all[i].format, 16, 16), OK);
        for (unsigned k = 0; k < 256; k++)
            memcpy(guest(&r.bus, r.pixels + 4 * k), all[i].bytes, 4);
        attach_words(&r, 9, 1, &r.pixels, &(uint32_t){1024}, OK);
        assert_int_equal(SEND(TRANSFER, 0, 0, 16, 16, 0, 0, 9, 0), OK);
        assert_int_equal(SEND(SET_SCANOUT, 0, 0, 16, 16, 0, 9), OK);
        look(&r);
        assert_int_equal(dot(&r, 3, 5), 0x112233);
        assert_int_equal(SEND(UNREF, 9, 0), OK);
    }
    rig_fini(&r);
}

static void cursor(void **state)
{
    struct rig r;
    rig_init(&r, "4M");
    for (unsigned i = 0; i < 128 * 128; i++)
        dp_st32(guest(&r.bus, r.pixels + 4 * i), 0x00204060);
    assert_int_equal(SEND(CREATE_2D, 1, BGRX, 128, 128), OK);
    attach_words(&r, 1, 1, &r.pixels, &(uint32_t){65536}, OK);
    SEND(TRANSFER, 0, 0, 128, 128, 0, 0, 1, 0);
    SEND(SET_SCANOUT, 0, 0, 128, 128, 0, 1);
    assert_int_equal(SEND(CREATE_2D, 2, BGRA, 64, 64), OK);
    uint64_t image = r.pixels + 65536;
    for (unsigned i = 0; i < 64 * 64; i++) /* opaque red; line 1 clear, line 2 half of white, premultiplied */
        dp_st32(guest(&r.bus, image + 4 * i), i / 64 == 1 ? 0 : i / 64 == 2 ? 0x80808080 : 0xffff0000);
    attach_words(&r, 2, 1, &image, &(uint32_t){16384}, OK);
    SEND(TRANSFER, 0, 0, 64, 64, 0, 0, 2, 0);
    uint64_t before = look(&r);
    assert_int_equal(SEND(UPDATE_CURSOR, 0, 10, 20, 0, 2, 1, 1, 0), OK);
    assert_true(look(&r) != before);
    assert_int_equal(dot(&r, 9, 20), 0x204060);
    assert_int_equal(dot(&r, 10, 20), 0xff0000);
    assert_int_equal(dot(&r, 10, 21), 0x204060);
    assert_int_equal(dot(&r, 10, 22), 0x90a0b0);
    assert_int_equal(dot(&r, 73, 83), 0xff0000);
    assert_int_equal(dot(&r, 74, 83), 0x204060);
    assert_int_equal(SEND(UNREF, 2, 0), OK); /* the picture was copied */
    assert_int_equal(SEND(MOVE_CURSOR, 0, -60u, -63u, 0, 0, 0, 0, 0), OK);
    look(&r);
    assert_int_equal(dot(&r, 0, 0), 0xff0000);
    assert_int_equal(dot(&r, 3, 0), 0xff0000);
    assert_int_equal(dot(&r, 4, 0), 0x204060);
    assert_int_equal(dot(&r, 0, 1), 0x204060);
    assert_int_equal(SEND(MOVE_CURSOR, 0, 0x7fffffff, 0x80000000, 0, 0, 0, 0, 0), OK);
    look(&r);
    const uint32_t no_room[] = {0, 10, 20, 0, 0, 0, 0, 0}; /* Linux gives no buffer for a response; no resource: hidden */
    send_sized(&r, 1, UPDATE_CURSOR, no_room, HEADER + 32, 0);
    assert_int_equal(r.length, 0);
    look(&r);
    assert_int_equal(dot(&r, 10, 20), 0x204060);
    assert_int_equal(SEND(UPDATE_CURSOR, 0, 0, 0, 0, 1, 0, 0, 0), BAD_PARAMETER); /* not 64x64 */
    assert_int_equal(SEND(UPDATE_CURSOR, 0, 0, 0, 0, 77, 0, 0, 0), BAD_RESOURCE);
    assert_int_equal(SEND(MOVE_CURSOR, 1, 0, 0, 0, 0, 0, 0, 0), BAD_SCANOUT);
    rig_fini(&r);
}

static void refusals(void **state)
{
    struct rig r;
    rig_init(&r, "1M");
    uint32_t page = 4096;
    assert_int_equal(SEND(CREATE_2D, 0, BGRX, 8, 8), BAD_RESOURCE);
    assert_int_equal(SEND(CREATE_2D, 1, 5, 8, 8), BAD_PARAMETER);
    assert_int_equal(SEND(CREATE_2D, 1, BGRX, 0, 8), BAD_PARAMETER);
    assert_int_equal(SEND(CREATE_2D, 1, BGRX, 0xffffffff, 0xffffffff), BAD_PARAMETER);
    assert_int_equal(SEND(CREATE_2D, 1, BGRX, 16384, 16384), NO_MEMORY);
    assert_int_equal(SEND(CREATE_2D, 1, BGRX, 512, 512), NO_MEMORY); /* all of the memory; the cursor has some */
    assert_int_equal(SEND(CREATE_2D, 1, BGRX, 32, 32), OK);
    assert_int_equal(SEND(CREATE_2D, 1, BGRX, 32, 32), BAD_RESOURCE);
    assert_int_equal(SEND(CREATE_2D, 2, BGRX, 8192, 8), OK);
    assert_int_equal(SEND(UNREF, 3, 0), BAD_RESOURCE);
    assert_int_equal(SEND(UNREF, 0, 0), BAD_RESOURCE);
    assert_int_equal(SEND(TRANSFER, 0, 0, 32, 32, 0, 0, 1, 0), UNSPEC); /* no backing */
    attach_words(&r, 1, 0, NULL, NULL, BAD_PARAMETER);
    const uint32_t many[] = {1, 16385, 0, 0, 0, 0}, more[] = {1, 2, 0x1000, 0, 0x1000, 0}, most[] = {1, 0xffffffff};
    assert_int_equal(send_sized(&r, 0, ATTACH, many, HEADER + 24, ROOM), BAD_PARAMETER);
    assert_int_equal(send_sized(&r, 0, ATTACH, more, HEADER + 24, ROOM), BAD_PARAMETER); /* one entry is missing */
    assert_int_equal(send_sized(&r, 0, ATTACH, most, HEADER + 8, ROOM), BAD_PARAMETER);
    attach_words(&r, 3, 1, &r.pixels, &page, BAD_RESOURCE);
    attach_words(&r, 1, 1, &r.pixels, &page, OK);
    attach_words(&r, 1, 1, &r.pixels, &page, UNSPEC);
    assert_int_equal(SEND(TRANSFER, 0, 0, 32, 32, 0, 0, 1, 0), OK);
    assert_int_equal(SEND(TRANSFER, 0, 0, 32, 32, 4, 0, 1, 0), BAD_PARAMETER); /* leaves the backing */
    assert_int_equal(SEND(TRANSFER, 0, 0, 32, 32, 0xffffffff, 0xffffffff, 1, 0), BAD_PARAMETER);
    assert_int_equal(SEND(TRANSFER, 1, 0, 32, 32, 0, 0, 1, 0), BAD_PARAMETER);
    assert_int_equal(SEND(TRANSFER, 0xffffffff, 0, 2, 1, 0, 0, 1, 0), BAD_PARAMETER);
    assert_int_equal(SEND(TRANSFER, 0, 33, 0, 0, 0, 0, 1, 0), BAD_PARAMETER);
    assert_int_equal(SEND(TRANSFER, 32, 32, 0, 0, 0, 0, 1, 0), OK);
    assert_int_equal(SEND(SET_SCANOUT, 0, 0, 32, 32, 1, 1), BAD_SCANOUT);
    assert_int_equal(SEND(SET_SCANOUT, 0, 0, 32, 32, 0, 7), BAD_RESOURCE);
    assert_int_equal(SEND(SET_SCANOUT, 0, 1, 32, 32, 0, 1), BAD_PARAMETER);
    assert_int_equal(SEND(SET_SCANOUT, 0, 0, 0, 0, 0, 1), BAD_PARAMETER);
    assert_int_equal(SEND(SET_SCANOUT, 0, 0, 8192, 8, 0, 2), BAD_PARAMETER); /* more than a picture may have */
    assert_int_equal(SEND(FLUSH, 0, 0, 33, 1, 1, 0), BAD_PARAMETER);
    assert_int_equal(SEND(FLUSH, 0, 0, 1, 1, 9, 0), BAD_RESOURCE);
    assert_int_equal(SEND(GET_EDID, 1, 0), BAD_SCANOUT);
    assert_int_equal(SEND(GET_CAPSET_INFO, 0, 0), UNSPEC);
    assert_int_equal(SEND(0xdead), UNSPEC);
    const uint32_t c[16] = {0};
    assert_int_equal(send_sized(&r, 0, UPDATE_CURSOR, c, HEADER + 32, ROOM), UNSPEC); /* wrong queues */
    assert_int_equal(send_sized(&r, 1, GET_DISPLAY_INFO, c, HEADER, ROOM), UNSPEC);
    for (uint32_t type = CREATE_2D; type <= DETACH; type++) /* cut off */
        assert_int_equal(send_sized(&r, 0, type, c, HEADER + 4, ROOM), BAD_PARAMETER);
    assert_int_equal(send_sized(&r, 0, GET_DISPLAY_INFO, c, 12, ROOM), BAD_PARAMETER);
    assert_int_equal(driver_status(&r.d), 15);
    /* Backings that are no RAM, or whose sum goes round. */
    const uint64_t places[] = {NO_DEVICE_HERE, r.d.common, ~0ull - 100, RAM_SIZE - 100};
    for (unsigned i = 0; i < DP_ARRAY_LEN(places); i++) {
        assert_int_equal(SEND(DETACH, 1, 0), OK);
        attach_words(&r, 1, 1, &places[i], &(uint32_t){0xffffffff}, OK);
        assert_int_equal(SEND(TRANSFER, 0, 0, 32, 32, 0, 0, 1, 0), BAD_PARAMETER);
    }
    assert_int_equal(driver_status(&r.d), 15);
    rig_fini(&r);
}

/* What a guest makes the host keep has an end, and comes back. */
static void memory(void **state)
{
    struct rig r;
    rig_init(&r, "1M");
    for (unsigned round = 0; round < 3; round++) {
        unsigned n = 0;
        while (SEND(CREATE_2D, n + 1, BGRX, 32, 64) == OK)
            n++;
        assert_int_equal(n, 126); /* pages, less the cursor's, in pairs */
        for (unsigned i = 0; i < n; i += 2)
            assert_int_equal(SEND(UNREF, i + 1, 0), OK);
        assert_int_equal(SEND(CREATE_2D, 999, BGRX, 32, 96), NO_MEMORY); /* holes of two pages only */
        for (unsigned i = 1; i < n; i += 2)
            assert_int_equal(SEND(UNREF, i + 1, 0), OK);
        assert_int_equal(SEND(CREATE_2D, 999, BGRX, 1024, 252), OK);
        driver_start(&r.d, ALL_FEATURES, 0, true); /* a reset frees all */
    }
    rig_fini(&r);
    rig_init(&r, "16M");
    unsigned n = 0;
    while (SEND(CREATE_2D, n + 1, BGRX, 1, 1) == OK)
        n++;
    assert_int_equal(n, 128);
    rig_fini(&r);
}

static void resize(void **state)
{
    struct rig r;
    rig_init(&r, "1M");
    struct dp_space *m = r.bus.w.env.memory;
    assert_int_equal(dp_space_load(m, r.d.config, 4), 0);
    uint8_t generation = reg_read(&r.d, C_GENERATION, 1);
    assert_true(r.source.resize(r.source.opaque, 1024, 768)); /* it has that */
    assert_int_equal(r.bus.msi_count[2], 0);
    assert_true(r.source.resize(r.source.opaque, 1600, 10));
    assert_int_equal(r.bus.msi_count[2], 1);
    assert_int_not_equal(reg_read(&r.d, C_GENERATION, 1), generation);
    assert_int_equal(dp_space_load(m, r.d.config, 4), 1);
    assert_int_equal(SEND(GET_DISPLAY_INFO), OK_INFO);
    assert_int_equal(answer32(&r, 24 + 8), 1600);
    assert_int_equal(answer32(&r, 24 + 12), 64);
    dp_space_store(m, r.d.config + 4, 1, 4);
    assert_int_equal(dp_space_load(m, r.d.config, 4), 0);
    dp_device_pause(r.adapter);
    r.source.resize(r.source.opaque, 100000, 100000);
    assert_int_equal(r.bus.msi_count[2], 1);
    dp_device_resume(r.adapter);
    assert_int_equal(r.bus.msi_count[2], 2);
    driver_start(&r.d, ALL_FEATURES, 0, true); /* another driver: finds it */
    assert_int_equal(SEND(GET_DISPLAY_INFO), OK_INFO);
    assert_int_equal(answer32(&r, 24 + 8), 4080);
    rig_fini(&r);
}

/* Registers and memory are the whole state. */
static void saved(void **state)
{
    struct rig r;
    struct dp_error e = {0};
    rig_init(&r, "1M");
    for (unsigned i = 0; i < 64 * 64; i++)
        dp_st32(guest(&r.bus, r.pixels + 4 * i), i);
    SEND(CREATE_2D, 1, BGRA, 64, 64);
    attach_words(&r, 1, 1, &r.pixels, &(uint32_t){16384}, OK);
    SEND(TRANSFER, 0, 0, 64, 64, 0, 0, 1, 0);
    SEND(SET_SCANOUT, 0, 0, 64, 64, 0, 1);
    SEND(UPDATE_CURSOR, 0, 60, 60, 0, 1, 0, 0, 0);
    struct dp_buffer image = {0};
    dp_device_save(r.gpu, &image);
    struct dp_device *copy = dp_device_alloc(&dp_virtio_gpu_class, "gpu", &r.bus.w.env);
    assert_ok(dp_device_set(copy, "memory", "1M", &e), e);
    assert_ok(dp_device_init(copy, &e), e);
    memcpy(dp_virtio_gpu_ram(copy)->host, dp_virtio_gpu_ram(r.gpu)->host, dp_virtio_gpu_ram(r.gpu)->size);
    conformance_load(copy, &image);
    dp_buffer_fini(&image);
    struct dp_display_source source = dp_virtio_gpu_source(copy);
    struct dp_display_picture picture = {0};
    look(&r);
    assert_ok(source.picture(source.opaque, &picture, &e), e);
    assert_int_equal(picture.width, 64);
    assert_memory_equal(picture.pixels, r.picture.pixels, 64 * 64 * 4);
    dp_display_picture_fini(&picture);
    dp_device_free(copy);
    rig_fini(&r);
}

static struct dp_device *make_gpu(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_virtio_gpu_class, "gpu", env);
    assert_ok(dp_device_set(d, "memory", "1M", &e), e);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static uint64_t poke(struct dp_device *d, struct dp_random *random)
{
    struct dp_virtio *v = dp_virtio_of(d);
    struct dp_display_source source = dp_virtio_gpu_source(d);
    uint64_t pick = dp_random_next(random), value = 0;
    if (pick % 7 == 6)
        source.resize(source.opaque, pick >> 8 & 0xfff, pick >> 20 & 0xfff);
    dp_virtio_lock(v);
    switch (pick % 7) {
    case 0: dp_virtio_set_status(v, pick >> 8 & 3 ? pick >> 16 & 0xff : 0); break;
    case 1: dp_virtio_notify(v, pick >> 8 & 3); break;
    case 2: dp_virtio_enable_queue(v, pick >> 8 & 1); break;
    case 3: v->regs->driver_features = pick >> 8 & 1 ? 1ull << 32 : pick; break;
    case 4: v->vclass->config_read(v, (pick >> 8) % 9, &value, 1u << (pick >> 16) % 4); break;
    case 5: v->vclass->config_write(v, (pick >> 8) % 9, &pick, 1u << (pick >> 16) % 4); break;
    }
    dp_virtio_unlock(v);
    return value << 8 | v->regs->status;
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make_gpu, .poke = poke};
    conformance_check(&c);
}

/* Whatever was loaded, a picture of it stays within the memory. */
static void any_state(void **state)
{
    struct rig r;
    struct dp_random random;
    rig_init(&r, "1M");
    dp_random_seed(&random, 7);
    const struct dp_state_table *t = dp_virtio_gpu_class.state;
    void *regs = calloc(1, t->size);
    for (unsigned i = 0; i < 300; i++) {
        struct dp_buffer image = {0};
        struct dp_error e = {0};
        dp_state_random(t, regs, &random);
        dp_state_save(t, regs, &image);
        conformance_load(r.gpu, &image);
        dp_buffer_fini(&image);
        assert_ok(r.source.picture(r.source.opaque, &r.picture, &e), e);
    }
    free(regs);
    rig_fini(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(console), cmocka_unit_test(fences), cmocka_unit_test(formats), cmocka_unit_test(cursor), cmocka_unit_test(refusals),
        cmocka_unit_test(memory), cmocka_unit_test(resize), cmocka_unit_test(saved), cmocka_unit_test(conformance), cmocka_unit_test(any_state),
    };
    return cmocka_run_group_tests_name("virtio-gpu", tests, NULL, NULL);
}
