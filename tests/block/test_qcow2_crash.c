/* test_qcow2_crash.c - power cuts: after each write of a workload the host stops, and of what was not yet flushed any part is lost.
 *
 * Model: the linker leads pwritev, fdatasync and fallocate here (--wrap). The log of what was done since the last barrier is replayed
 * onto the
 * state of that barrier, each write whole or not, in chance's choice; the file that results must open, be without errors in qemu-img's eyes
 * (leaks are allowed), and hold every byte that was flushed and not written or zeroed since. Before that: writes that fail for want of
 * room.
 */
#include "tests/block/qcow2_rig.h"

ssize_t __real_pwritev64(int fd, const struct iovec *v, int n, off_t at);
int __real_fdatasync(int fd);
int __real_fallocate64(int fd, int mode, off_t at, off_t size);
ssize_t __wrap_pwritev64(int fd, const struct iovec *v, int n, off_t at);
int __wrap_fdatasync(int fd);
int __wrap_fallocate64(int fd, int mode, off_t at, off_t size);

enum { SIZE = 2 << 20, LOG_MAX = 100000 };

/* Written by the image's worker thread, read when it has nothing to do. */
static struct { uint8_t *data; uint64_t at, size; } done[LOG_MAX];
static unsigned done_count;
static uint64_t barriers;
static bool recording;
static uint8_t *stable;       /* the file at the last barrier */
static uint64_t stable_size;
enum { STABLE_MAX = 64 << 20 };

/* Of the writes to the file, chance makes this many of 1000 fail, as on a full host disk. */
static unsigned failing;
static struct dp_random failures;

static void record(const struct iovec *v, int n, uint64_t at, uint64_t size)
{
    if (!recording || done_count == LOG_MAX)
        return;
    done[done_count].at = at;
    done[done_count].size = size;
    done[done_count].data = NULL;
    uint8_t *to = v ? done[done_count].data = malloc(size) : NULL;
    for (int i = 0; i < n; to += v[i++].iov_len)
        memcpy(to, v[i].iov_base, v[i].iov_len);
    done_count++;
}

ssize_t __wrap_pwritev64(int fd, const struct iovec *v, int n, off_t at)
{
    uint64_t size = 0;
    for (int i = 0; i < n; i++)
        size += v[i].iov_len;
    if (dp_random_next(&failures) % 1000 < failing) {
        errno = ENOSPC;
        return -1;
    }
    record(v, n, at, size);
    return __real_pwritev64(fd, v, n, at);
}

int __wrap_fallocate64(int fd, int mode, off_t at, off_t size)
{
    record(NULL, 0, at, size);
    return __real_fallocate64(fd, mode, at, size);
}

static void apply(uint8_t *file, uint64_t *size, unsigned i)
{
    assert_true(done[i].at + done[i].size <= STABLE_MAX);
    if (done[i].data) {
        memcpy(file + done[i].at, done[i].data, done[i].size);
        *size = DP_MAX(*size, done[i].at + done[i].size);
    } else {
        memset(file + done[i].at, 0, done[i].size);
    }
}

int __wrap_fdatasync(int fd)
{
    for (unsigned i = 0; i < done_count; i++) {
        apply(stable, &stable_size, i);
        free(done[i].data);
    }
    done_count = 0;
    barriers++;
    return 0; /* the test's own kernel does not crash */
}

/* Without io_uring, whose flushes do not come by here (aside.c). */
static struct dp_block *open_led(const struct rig *r, const char *name, bool readonly)
{
    struct dp_error e = {0};
    struct dp_block *b = NULL;
    struct dp_block_options o = {.path = in(r, name), .readonly = readonly, .format = "qcow2", .io = DP_BLOCK_IO_THREADS};
    assert_ok(dp_block_open(NULL, &o, &b, &e), e);
    return b;
}

static void load(struct rig *r, const char *name)
{
    int fd = open(in(r, name), O_RDONLY);
    memset(stable, 0, STABLE_MAX);
    ssize_t n = read(fd, stable, STABLE_MAX);
    assert_true(n > 0);
    stable_size = n;
    close(fd);
}

/* now: what the disk holds; sectors that changed since the last flush may have any of the values they had. */
static void cut(struct rig *r, const bool *changed, const uint8_t *now)
{
    static uint8_t *file, *got;
    if (!file)
        file = malloc(STABLE_MAX), got = malloc(SIZE);
    memcpy(file, stable, STABLE_MAX);
    uint64_t size = stable_size, threshold = dp_random_next(&r->random) % 5;
    for (unsigned i = 0; i < done_count; i++)
        if (dp_random_next(&r->random) % 4 < threshold)
            apply(file, &size, i);
    write_file(r, "sub/cut", file, size);
    must(r, "qemu-img check sub/cut || [ $? = 3 ]");
    struct dp_block *b = open_led(r, "sub/cut", true);
    assert_int_equal(request(b, DP_BLOCK_READ, false, 0, got, SIZE), 0);
    dp_block_close(b);
    for (unsigned at = 0; at < SIZE; at += 512)
        if (!changed[at / 512] && memcmp(got + at, now + at, 512))
            fail_msg("what was flushed at %u is lost", at);
}

static void cuts(struct rig *r, const char *layout, bool backing)
{
    uint8_t *now = calloc(1, SIZE), *was = malloc(SIZE);
    bool changed[SIZE / 512] = {false};
    print_message("%s%s\n", layout, backing ? " with a backing file" : "");
    if (backing) {
        fill(&r->random, now, SIZE);
        write_file(r, "base", now, SIZE);
        must(r, "mkdir -p sub && cp base sub/base"); /* base itself is locked by the image that is open */
    }
    must(r, "rm -f image; qemu-img create -f qcow2 %s -o %s image %d", backing ? "-b base -F raw" : "", layout, SIZE);
    load(r, "image");
    recording = true;
    struct dp_block *b = open_led(r, "image", false);
    for (unsigned i = 0; i < 150; i++) {
        uint64_t before = barriers;
        memcpy(was, now, SIZE);
        random_op(r, b, now, SIZE);
        if (i % 8 == 7) {
            assert_int_equal(request(b, DP_BLOCK_FLUSH, false, 0, NULL, 0), 0);
            memset(changed, 0, sizeof changed);
        } else {
            for (unsigned at = 0; at < SIZE; at += 512)
                changed[at / 512] |= memcmp(was + at, now + at, 512) != 0;
        }
        recording = false;
        if (i % 4 == 3 || barriers != before)
            cut(r, changed, now);
        recording = true;
    }
    dp_block_close(b);
    recording = false;
    must(r, "qemu-img check image");
    b = open_led(r, "image", true);
    expect(r, b, now, SIZE);
    dp_block_close(b);
    free(now);
    free(was);
}

static void power(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    stable = malloc(STABLE_MAX);
    must(r, "mkdir -p sub");
    cuts(r, "cluster_size=512", false);
    cuts(r, "cluster_size=4k", true);
    cuts(r, "cluster_size=64k", true);
    cuts(r, "cluster_size=64k", false);
    cuts(r, "cluster_size=512,refcount_bits=64", true);
    cuts(r, "extended_l2=on,cluster_size=16k", true);
    cuts(r, "compat=0.10,cluster_size=4k", false);
    free(stable);
}

/* The host's disk is full again and again: what was written well stays, and the image is sound in the end. */
static void full(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    static const char *const layouts[] = {"cluster_size=512", "cluster_size=512,refcount_bits=64", "cluster_size=4k",
        "extended_l2=on,cluster_size=16k"};
    static uint8_t piece[64 << 10];
    static bool unknown[SIZE / 512];
    uint8_t *now = malloc(SIZE), *got = malloc(SIZE);
    dp_random_seed(&failures, 3);
    for (unsigned l = 0; l < DP_ARRAY_LEN(layouts); l++) {
        memset(now, 0, SIZE);
        memset(unknown, 0, sizeof unknown);
        must(r, "rm -f image; qemu-img create -f qcow2 -o %s image %d", layouts[l], SIZE);
        struct dp_block *b = open_led(r, "image", false);
        unsigned failed = 0;
        for (unsigned i = 0; i < 400; i++) {
            uint64_t size = 512 * (1 + dp_random_next(&r->random) % 128), offset = dp_random_next(&r->random) % ((SIZE - size) / 512) * 512;
            bool zero = i % 5 == 4;
            fill(&r->random, piece, size);
            if (zero)
                memset(piece, 0, size);
            failing = i < 350 ? 60 : 0; /* there is room in the end */
            int rc = request(b, zero ? DP_BLOCK_WRITE_ZEROES : DP_BLOCK_WRITE, i & 1, offset, zero ? NULL : piece, size);
            assert_true(rc == 0 || rc == -ENOSPC);
            failed += rc != 0;
            memset(unknown + offset / 512, rc != 0, size / 512);
            memcpy(now + offset, piece, size);
            if (i % 10 == 9 && request(b, DP_BLOCK_FLUSH, false, 0, NULL, 0))
                failed++;
        }
        assert_true(failed > 20);
        assert_int_equal(request(b, DP_BLOCK_FLUSH, false, 0, NULL, 0), 0);
        dp_block_close(b);
        must(r, "qemu-img check image || [ $? = 3 ]");
        b = open_led(r, "image", true);
        assert_int_equal(request(b, DP_BLOCK_READ, false, 0, got, SIZE), 0);
        dp_block_close(b);
        for (unsigned at = 0; at < SIZE; at += 512)
            if (!unknown[at / 512] && memcmp(got + at, now + at, 512))
                fail_msg("%s: what was written at %u is lost", layouts[l], at);
    }
    free(now);
    free(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(full, rig_setup, rig_teardown),
                                       cmocka_unit_test_setup_teardown(power, rig_setup, rig_teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
