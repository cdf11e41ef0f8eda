/* test_smbios.c - the structures as firmware and dmidecode walk them: sizes, strings, handles, memory of every kind of size. */
#include <stdlib.h>

#include "base/uuid.h"
#include "machine/smbios.h"
#include "tests/unit/test.h"

#define GiB (UINT64_C(1) << 30)

struct tables {
    struct dp_buffer data;
    uint8_t anchor[DP_SMBIOS_ANCHOR];
};

static struct tables build(uint64_t low, uint64_t high, unsigned cpus, const char *name)
{
    struct tables t;
    struct dp_error e;
    struct x86_cpuid_model model;
    assert_ok(x86_cpuid_model("x86-64-v2", &model, &e), e);
    model.cpu_count = cpus;
    struct dp_smbios_config c = {.model = &model, .low = low, .high = high, .name = name};
    assert_true(dp_uuid_parse("01234567-89ab-cDeF-0123-456789abcdef", c.uuid));
    assert_ok(dp_smbios_build(&c, t.anchor, &t.data, &e), e);
    return t;
}

/* The n-th structure of a type, or NULL; *strings: how many it has. Checks the form of all before it. */
static const uint8_t *find(const struct tables *t, uint8_t type, unsigned n)
{
    const uint8_t *p = t->data.data, *end = p + t->data.size;
    while (p < end) {
        const uint8_t *start = p;
        assert_true(end - p >= 6 && p[1] >= 4 && p[1] <= end - p - 2);
        p += p[1];
        while (p[0] || p[1]) {
            p++;
            assert_true(p + 1 < end);
        }
        p += 2;
        if (start[0] == type && !n--)
            return start;
    }
    return NULL;
}

static unsigned count(const struct tables *t, uint8_t type)
{
    unsigned n = 0;
    while (find(t, type, n))
        n++;
    return n;
}

static const char *string(const uint8_t *s, unsigned offset)
{
    const char *p = (const char *)s + s[1];
    assert_true(offset < s[1] && s[offset]);
    for (unsigned n = 1; n < s[offset]; n++) {
        assert_true(*p);
        p += strlen(p) + 1;
    }
    return p;
}

static void assert_sum(const uint8_t *p, size_t size)
{
    uint8_t sum = 0;
    while (size--)
        sum = (uint8_t)(sum + *p++);
    assert_int_equal(sum, 0);
}

static void test_structures(void **state)
{
    static const uint8_t types[] = {0, 1, 3, 4, 16, 17, 19, 32, 127};
    static const uint8_t uuid[16] = {0x67, 0x45, 0x23, 0x01, 0xab, 0x89, 0xef, 0xcd, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef};
    struct tables t = build(512 << 20, 0, 3, "web");
    assert_sum(t.anchor, sizeof t.anchor);
    assert_sum(t.anchor + 16, 15);
    assert_int_equal(dp_ld16(t.anchor + 22), t.data.size);
    assert_int_equal(dp_ld16(t.anchor + 28), DP_ARRAY_LEN(types));
    unsigned longest = 0;
    for (unsigned i = 0; i < DP_ARRAY_LEN(types); i++) {
        const uint8_t *s = find(&t, types[i], 0), *next = i + 1 < DP_ARRAY_LEN(types) ? find(&t, types[i + 1], 0) : t.data.data + t.data.size;
        assert_int_equal(count(&t, types[i]), 1);
        assert_true(s < next); /* in this order */
        longest = DP_MAX(longest, (unsigned)(next - s));
        for (unsigned k = 0; k < i; k++)
            assert_int_not_equal(dp_ld16(find(&t, types[k], 0) + 2), dp_ld16(s + 2));
    }
    assert_int_equal(dp_ld16(t.anchor + 8), longest);
    const uint8_t *system = find(&t, 1, 0), *cpu = find(&t, 4, 0);
    assert_memory_equal(system + 8, uuid, 16);
    assert_string_equal(string(system, 4), "doppel");
    assert_string_equal(string(find(&t, 3, 0), 8), "web");
    assert_int_equal(cpu[0x23], 3);
    assert_string_equal(string(cpu, 7), "GenuineIntel");
    assert_int_equal(dp_ld16(find(&t, 17, 0) + 12), 512);
    assert_int_equal(dp_ld32(find(&t, 16, 0) + 7), 512 << 10);
    assert_int_equal(dp_ld32(find(&t, 19, 0) + 8), (512 << 10) - 1);
    dp_buffer_fini(&t.data);
    t = build(2 << 20, 0, 1, NULL);
    assert_int_equal(find(&t, 3, 0)[8], 0); /* no tag */
    dp_buffer_fini(&t.data);
}

static void test_memory(void **state)
{
    static const uint64_t sizes[] = {4 * GiB, 16 * GiB + (1 << 20), 100 * GiB, 1024 * GiB, 1025 * GiB, 60000 * GiB};
    for (unsigned i = 0; i < DP_ARRAY_LEN(sizes); i++) {
        struct tables t = build(3 * GiB, sizes[i] - 3 * GiB, 1, NULL);
        unsigned devices = count(&t, 17);
        uint64_t sum = 0, mapped = 0;
        assert_true(devices >= 1 && devices <= 64);
        assert_int_equal(dp_ld16(find(&t, 16, 0) + 13), devices);
        for (unsigned k = 0; k < devices; k++) {
            const uint8_t *d = find(&t, 17, k);
            uint32_t mib = dp_ld16(d + 12) == 0x7fff ? dp_ld32(d + 0x1c) : dp_ld16(d + 12);
            assert_int_equal(dp_ld16(d + 4), dp_ld16(find(&t, 16, 0) + 2));
            sum += (uint64_t)mib << 20;
        }
        assert_true(sum == sizes[i]);
        assert_int_equal(count(&t, 19), 2);
        for (unsigned k = 0; k < 2; k++) {
            const uint8_t *m = find(&t, 19, k);
            bool wide = dp_ld32(m + 4) == 0xffffffff;
            mapped += wide ? dp_ld64(m + 23) + 1 - dp_ld64(m + 15) : ((uint64_t)dp_ld32(m + 8) + 1 - dp_ld32(m + 4)) << 10;
        }
        assert_true(mapped == sizes[i]);
        const uint8_t *array = find(&t, 16, 0);
        assert_true((dp_ld32(array + 7) == 0x80000000 ? dp_ld64(array + 15) : (uint64_t)dp_ld32(array + 7) << 10) == sizes[i]);
        dp_buffer_fini(&t.data);
    }
}

static void test_uuid(void **state)
{
    static const char *const bad[] = {"", "0123", "0123456789abcdef0123456789abcdef", "01234567-89ab-cdef-0123-456789abcdeg", "01234567-89ab-cdef-0123-456789abcdef0",
                                      "0123456789ab-cdef-0123-456789abcdef----", "0123456789abcdef0123456789abcdef----", "01234567-89ab-cdef-0123-456789abcde"};
    uint8_t uuid[16], want[16] = {0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef};
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++)
        assert_false(dp_uuid_parse(bad[i], uuid));
    assert_true(dp_uuid_parse("01234567-89ab-cdef-0123-456789ABCDEF", uuid));
    assert_memory_equal(uuid, want, 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_structures), cmocka_unit_test(test_memory), cmocka_unit_test(test_uuid)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
