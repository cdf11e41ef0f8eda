/* test_base.c - errors, trace points, buffers, random numbers, sizes. */
#include <stdlib.h>

#include "tests/unit/test.h"

static void errors(void **state)
{
    struct dp_error e = {0};
    assert_int_equal(dp_error_set(&e, -ENOENT, "no %s", "disk"), -ENOENT);
    assert_string_equal(e.text, "no disk");
    assert_int_equal(dp_error_prefix(&e, -EINVAL, "vm %d", 7), -ENOENT);
    assert_string_equal(e.text, "vm 7: no disk");
    assert_int_equal(dp_error_set(NULL, -EIO, "x"), -EIO);
    assert_int_equal(dp_error_prefix(NULL, -EIO, "x"), -EIO);

    char longer[2000];
    memset(longer, 'a', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = 0;
    dp_error_set(&e, -E2BIG, "%s", longer);
    dp_error_prefix(&e, -E2BIG, "%s", longer);
    assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
}

static void sizes(void **state)
{
    static const struct { const char *text; uint64_t v; } good[] = {
        {"0", 0}, {"4096", 4096}, {"512M", 512ull << 20}, {"2G", 2ull << 30}, {"1k", 1024}, {"3T", 3ull << 40},
        {"18446744073709551615", UINT64_MAX}, {"17179869183G", 17179869183ull << 30},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(good); i++) {
        uint64_t v = 1;
        struct dp_error e = {0};
        assert_ok(dp_parse_size(good[i].text, &v, &e), e);
        assert_true(v == good[i].v);
    }
    static const char *const bad[] = {"", "M", "-1", "1.5G", "12Q", "1GB", " 1", "1 ", "18446744073709551616", "17179869184G", "0x10",
                                      "99999999999999999999999999999999999999999T"};
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++) {
        uint64_t v = 77;
        struct dp_error e = {0};
        assert_true(dp_parse_size(bad[i], &v, &e) < 0);
        assert_true(e.code && e.text[0] && v == 77);
    }
}

static void keep_line(void *opaque, const char *line)
{
    struct dp_buffer *b = opaque;
    dp_buffer_printf(b, "%s\n", line);
}

static void trace(void **state)
{
    unsigned mask = 0;
    struct dp_error e = {0};
    assert_ok(dp_trace_parse("cpu,guest", &mask, &e), e);
    assert_int_equal(mask, 1u << DP_TRACE_CPU | 1u << DP_TRACE_GUEST);
    assert_ok(dp_trace_parse("all", &mask, &e), e);
    assert_int_equal(mask, (1u << DP_TRACE_COUNT) - 1);
    assert_int_equal(dp_trace_parse("cpu,rubbish", &mask, &e), -EINVAL);
    assert_non_null(strstr(e.text, "rubbish"));
    assert_int_equal(dp_trace_parse("", &mask, &e), -EINVAL);
    assert_int_equal(dp_trace_parse("cpu,", &mask, &e), -EINVAL);

    struct dp_buffer lines = {0};
    struct dp_trace t = {.sink = keep_line, .opaque = &lines};
    DP_TRACE(&t, DP_TRACE_IO, "unseen");
    DP_TRACE((struct dp_trace *)NULL, DP_TRACE_IO, "unseen");
    assert_int_equal(lines.size, 0);
    t.mask = 1u << DP_TRACE_IO;
    DP_TRACE(&t, DP_TRACE_IO, "port %x", 0x3f8);
    assert_string_equal((char *)lines.data, "io: port 3f8\n");

    /* A thousand mistakes: at most 20 lines a second (two seconds may be touched), and every other one is counted. */
    lines.size = 0;
    t.mask = 1u << DP_TRACE_GUEST;
    for (unsigned i = 0; i < 1000; i++)
        dp_trace_guest(&t, "bad %u", i);
    unsigned shown = 0;
    for (size_t i = 0; i < lines.size; i++)
        shown += lines.data[i] == '\n';
    assert_in_range(shown, 20, 40);
    assert_int_equal(t.guest_dropped, 1000 - shown);
    dp_trace_guest(NULL, "nobody");
    dp_buffer_fini(&lines);
}

static void buffers(void **state)
{
    struct dp_buffer b = {0};
    dp_buffer_append(&b, "", 0);
    for (unsigned i = 0; i < 1000; i++)
        dp_buffer_printf(&b, "%u,", i % 10);
    assert_int_equal(b.size, 2000);
    assert_memory_equal(b.data, "0,1,2,3,", 8);
    assert_int_equal(b.data[b.size], 0);
    dp_buffer_append(&b, "x", SIZE_MAX - 100);
    assert_true(b.failed);
    dp_buffer_append(&b, "x", 1);
    assert_int_equal(b.size, 2000);
    dp_buffer_fini(&b);
    assert_null(b.data);
}

static void random_numbers(void **state)
{
    struct dp_random a, b;
    dp_random_seed(&a, 1);
    dp_random_seed(&b, 1);
    uint64_t any = 0, all = ~0ull;
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t v = dp_random_next(&a);
        assert_true(v == dp_random_next(&b));
        any |= v;
        all &= v;
    }
    assert_true(any == ~0ull && all == 0);
    dp_random_seed(&b, 2);
    assert_true(dp_random_next(&a) != dp_random_next(&b));
}

static void access_helpers(void **state)
{
    uint8_t p[9] = {0};
    dp_st32(p + 1, 0x12345678);
    assert_int_equal(p[1], 0x78);
    assert_int_equal(dp_ld16(p + 2), 0x3456);
    dp_st64(p + 1, 0x1122334455667788);
    assert_true(dp_ld64(p + 1) == 0x1122334455667788);
    assert_true(dp_mask_bytes(1) == 0xff && dp_mask_bytes(4) == 0xffffffff && dp_mask_bytes(8) == ~0ull);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors),  cmocka_unit_test(sizes),          cmocka_unit_test(trace),
        cmocka_unit_test(buffers), cmocka_unit_test(random_numbers), cmocka_unit_test(access_helpers),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
