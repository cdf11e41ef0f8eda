/* test_wav.c - the file of a sound: its header after each put, silence, order, what cannot be written. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "console/wav.h"
#include "tests/unit/test.h"

static void test_file(void **state)
{
    char path[] = "/tmp/doppel-wav-XXXXXX";
    struct dp_error e;
    struct dp_wav *w;
    uint8_t bytes[44 + 2 * 104];
    const int16_t tone[4] = {1, -2, 3, -4};
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_ok(dp_wav_open(path, DP_SOUND_HZ, &w, &e), e);
    assert_int_equal(pread(fd, bytes, sizeof bytes, 0), 44); /* a sound of no length */
    assert_int_equal(dp_ld32(bytes + 40), 0);
    dp_wav_put(w, 100, tone, 4);
    assert_int_equal(pread(fd, bytes, sizeof bytes, 0), sizeof bytes); /* right before it is closed */
    assert_memory_equal(bytes, "RIFF", 4);
    assert_memory_equal(bytes + 8, "WAVEfmt ", 8);
    assert_int_equal(dp_ld32(bytes + 4), sizeof bytes - 8);
    assert_int_equal(dp_ld16(bytes + 20), 1);
    assert_int_equal(dp_ld16(bytes + 22), 1);
    assert_int_equal(dp_ld32(bytes + 24), DP_SOUND_HZ);
    assert_int_equal(dp_ld32(bytes + 28), 2 * DP_SOUND_HZ);
    assert_int_equal(dp_ld16(bytes + 32), 2);
    assert_int_equal(dp_ld16(bytes + 34), 16);
    assert_memory_equal(bytes + 36, "data", 4);
    assert_int_equal(dp_ld32(bytes + 40), 2 * 104);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(dp_ld16(bytes + 44 + 2 * i), 0);
    assert_int_equal((int16_t)dp_ld16(bytes + 44 + 202), -2);
    dp_wav_put(w, 0, tone, 4); /* earlier, later */
    assert_int_equal(pread(fd, bytes, sizeof bytes, 0), sizeof bytes);
    assert_int_equal(dp_ld32(bytes + 40), 2 * 104);
    assert_int_equal(dp_ld16(bytes + 44), 1);
    dp_wav_put(w, 1ull << 40, tone, 4); /* too far: dropped */
    struct dp_sound s = dp_wav_sound(w);
    s.play(s.opaque, (1ull << 29) - 24, tone, 4); /* over the end: cut */
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_size <= 1 << 30);
    assert_true(st.st_blocks < 1 << 10); /* silence takes no room */
    assert_ok(dp_wav_close(w, &e), e);
    close(fd);
    unlink(path);
}

static void test_errors(void **state)
{
    struct dp_error e;
    struct dp_wav *w;
    assert_int_equal(dp_wav_open("/nowhere/x.wav", DP_SOUND_HZ, &w, &e), -ENOENT);
    assert_non_null(strstr(e.text, "/nowhere/x.wav"));
    assert_true(dp_wav_open("/dev/full", DP_SOUND_HZ, &w, &e) < 0);
    assert_int_equal(dp_wav_close(NULL, &e), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_file), cmocka_unit_test(test_errors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
