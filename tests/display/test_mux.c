/* test_mux.c - one screen of several sources; and what a monitor tells about itself. */
#include <stdlib.h>

#include "display/edid.h"
#include "display/mux.h"

#include "tests/unit/test.h"

struct screen {
    uint64_t generation;
    uint32_t width, asked;
    bool shows;
};
static uint64_t generation(void *opaque) { return ((struct screen *)opaque)->generation; }
static int picture(void *opaque, struct dp_display_picture *out, struct dp_error *e)
{
    return dp_display_picture_resize(out, ((struct screen *)opaque)->width, 1, e);
}
static bool text(void *opaque, struct dp_display_text *out)
{
    out->columns = ((struct screen *)opaque)->width;
    return true;
}
static bool resize(void *opaque, uint32_t width, uint32_t height)
{
    ((struct screen *)opaque)->asked = width;
    return true;
}
static bool shows(void *opaque) { return ((struct screen *)opaque)->shows; }

static void mux(void **state)
{
    struct dp_display_mux m;
    struct screen vga = {.generation = 5, .width = 10}, gpu = {.generation = 5, .width = 20};
    struct dp_display_picture p = {0};
    struct dp_error e = {0};
    struct dp_display_text *cells = calloc(1, sizeof *cells);
    dp_display_mux_init(&m);
    assert_true(dp_display_mux_add(&m, &(struct dp_display_source){.generation = generation, .picture = picture, .text = text, .opaque = &vga}, NULL, NULL));
    struct dp_display_source one = dp_display_mux_source(&m);
    assert_true(one.text && !one.resize);
    assert_true(dp_display_mux_add(&m, &(struct dp_display_source){.generation = generation, .picture = picture, .resize = resize, .opaque = &gpu}, shows, &gpu));
    struct dp_display_source s = dp_display_mux_source(&m);
    uint64_t first = s.generation(s.opaque);
    assert_ok(s.picture(s.opaque, &p, &e), e);
    assert_int_equal(p.width, 10);
    assert_true(s.text(s.opaque, cells));
    assert_int_equal(cells->columns, 10);
    assert_true(s.resize(s.opaque, 77, 1)); /* the one that can, seen or not */
    assert_int_equal(gpu.asked, 77);
    assert_int_equal(s.generation(s.opaque), first);
    gpu.shows = true; /* of the same generation: still another picture */
    assert_int_not_equal(s.generation(s.opaque), first);
    assert_ok(s.picture(s.opaque, &p, &e), e);
    assert_int_equal(p.width, 20);
    assert_false(s.text(s.opaque, cells));
    uint64_t second = s.generation(s.opaque);
    vga.generation++; /* unseen */
    assert_int_equal(s.generation(s.opaque), second);
    gpu.generation++;
    assert_int_not_equal(s.generation(s.opaque), second);
    dp_display_picture_fini(&p);
    dp_display_mux_fini(&m);
    free(cells);
}

static void edid(void **state)
{
    static const struct { uint32_t width, height, clock, blank; } sizes[] = { /* CVT reduced blanking, as cvt -r tells */
        {1920, 1080, 13850, 31}, {1280, 800, 7100, 23}, {1024, 768, 5600, 22}, {2560, 1600, 26850, 46}, {800, 600, 3550, 18}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(sizes); i++) {
        uint8_t b[DP_EDID_SIZE], sum = 0, *d = b + 54;
        dp_display_edid(b, "a name of more than 13", sizes[i].width, sizes[i].height);
        for (unsigned k = 0; k < sizeof b; k++)
            sum += b[k];
        assert_int_equal(sum, 0);
        assert_memory_equal(b, "\0\xff\xff\xff\xff\xff\xff\0", 8);
        assert_int_equal(d[2] | (d[4] & 0xf0) << 4, sizes[i].width);
        assert_int_equal(d[5] | (d[7] & 0xf0) << 4, sizes[i].height);
        assert_int_equal(d[3] | (d[4] & 0xf) << 8, 160);
        assert_in_range(d[6] | (d[7] & 0xf) << 8, sizes[i].blank - 1, sizes[i].blank + 1);
        assert_in_range(dp_ld16(d), sizes[i].clock - 75, sizes[i].clock + 75);
        assert_memory_equal(b + 90, "\0\0\0\xfc\0a name of mor", 18);
        assert_int_equal(b[126], 0);
    }
    uint8_t b[DP_EDID_SIZE];
    dp_display_edid(b, "", 0, 0xffffffff); /* cut to what can be said */
    assert_int_equal(b[56] | (b[58] & 0xf0) << 4, 64);
    assert_int_equal(b[59] | (b[61] & 0xf0) << 4, 4095);
    dp_display_edid(b, "", 4095, 4095);
    assert_int_equal(dp_ld16(b + 54), 65525);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(mux), cmocka_unit_test(edid)};
    return cmocka_run_group_tests_name("mux", tests, NULL, NULL);
}
