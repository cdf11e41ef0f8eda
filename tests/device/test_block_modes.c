/* test_block_modes.c - what a user wants of a disk beside its format: caching, discard, zeros, limits; the latter on a manual clock. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/block.h"
#include "block/throttle.h"
#include "tests/unit/test.h"

#define MS 1000000ull
#define DISK_SIZE (1u << 20)

/* ---- limits ---- */

struct rig {
    struct dp_clock *clock;
    struct dp_throttle *t;
    struct dp_block_request r[64];
    unsigned order[64], gone;
};

static void go(void *opaque, struct dp_block_request *r)
{
    struct rig *rig = opaque;
    rig->order[rig->gone++] = (unsigned)(r - rig->r);
}

static void rig_init(struct rig *rig, const struct dp_throttle_limits *l)
{
    struct dp_error e = {0};
    memset(rig, 0, sizeof *rig);
    assert_ok(dp_clock_create_manual(&rig->clock, &e), e);
    assert_ok(dp_throttle_create(rig->clock, l, go, rig, &rig->t, &e), e);
}
static void rig_fini(struct rig *rig)
{
    dp_throttle_destroy(rig->t);
    dp_clock_destroy(rig->clock);
}
static void submit(struct rig *rig, unsigned n, enum dp_block_op op, uint64_t size)
{
    rig->r[n] = (struct dp_block_request){.op = op, .size = size};
    dp_throttle_submit(rig->t, &rig->r[n]);
}

static void operations(void **state)
{
    struct rig rig;
    rig_init(&rig, &(struct dp_throttle_limits){.iops = 100, .iops_burst = 4});
    for (unsigned i = 0; i < 20; i++)
        submit(&rig, i, i % 2 ? DP_BLOCK_READ : DP_BLOCK_DISCARD, 4096);
    assert_int_equal(rig.gone, 4); /* the burst */
    dp_clock_advance(rig.clock, 9 * MS);
    assert_int_equal(rig.gone, 4);
    dp_clock_advance(rig.clock, 1 * MS);
    assert_int_equal(rig.gone, 5);
    dp_clock_advance(rig.clock, 100 * MS);
    assert_int_equal(rig.gone, 15);
    submit(&rig, 30, DP_BLOCK_FLUSH, 0); /* is not held back */
    assert_int_equal(rig.order[15], 30);
    dp_clock_advance(rig.clock, 1000 * MS);
    assert_int_equal(rig.gone, 21);
    for (unsigned d = 0; d < 2; d++) { /* each kind in its order */
        unsigned last = 0;
        for (unsigned i = 0; i < 21; i++)
            if (rig.order[i] % 2 == d && rig.order[i] != 30) {
                assert_true(rig.order[i] >= last);
                last = rig.order[i];
            }
    }
    for (unsigned i = 40; i < 50; i++) /* after a rest the burst again, and no more */
        submit(&rig, i, DP_BLOCK_WRITE, 512);
    assert_int_equal(rig.gone, 25);
    dp_throttle_release(rig.t);
    assert_int_equal(rig.gone, 31);
    submit(&rig, 50, DP_BLOCK_READ, 512); /* what was let go counts */
    assert_int_equal(rig.gone, 31);
    dp_clock_advance(rig.clock, 70 * MS);
    assert_int_equal(rig.gone, 32);
    rig_fini(&rig);
}

static void bytes(void **state)
{
    struct rig rig;
    rig_init(&rig, &(struct dp_throttle_limits){.bps_read = 1000000, .bps_write = 500000, .bps_burst = 50000});
    submit(&rig, 0, DP_BLOCK_WRITE, 250000); /* larger than a burst: goes, and the next waits until it is paid */
    submit(&rig, 1, DP_BLOCK_WRITE, 512);
    submit(&rig, 2, DP_BLOCK_READ, 512); /* reads have a limit of their own */
    assert_int_equal(rig.gone, 2);
    assert_int_equal(rig.order[1], 2);
    dp_clock_advance(rig.clock, 401 * MS);
    assert_int_equal(rig.gone, 2);
    dp_clock_advance(rig.clock, 1 * MS);
    assert_int_equal(rig.gone, 3);
    rig_fini(&rig);
    /* A second's worth takes a second. */
    rig_init(&rig, &(struct dp_throttle_limits){.bps = 1000000, .iops_write = 1000});
    unsigned n = 0;
    for (unsigned i = 0; i < 60; i++)
        submit(&rig, i, i % 3 ? DP_BLOCK_READ : DP_BLOCK_WRITE, 20000);
    while (rig.gone < 60) {
        dp_clock_advance(rig.clock, 10 * MS);
        n++;
    }
    assert_true(n >= 108 && n <= 112); /* 1.2 s less the burst of a tenth */
    rig_fini(&rig);
}

/* ---- images ---- */

struct disk {
    struct dp_block *b;
    struct dp_clock *clock;
    char path[40];
};

static bool disk_open(struct disk *d, struct dp_block_options o)
{
    struct dp_error e = {0};
    static uint8_t data[DISK_SIZE];
    memset(data, 0xa5, sizeof data);
    strcpy(d->path, "/var/tmp/doppel-test-modes-XXXXXX");
    int fd = mkstemp(d->path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, sizeof data), sizeof data);
    fsync(fd);
    close(fd);
    assert_ok(dp_clock_create_manual(&d->clock, &e), e);
    o.path = d->path;
    o.clock = d->clock;
    int rc = dp_block_open(NULL, &o, &d->b, &e);
    if (rc && o.cache == DP_BLOCK_NONE) {
        print_message("no O_DIRECT here: %s\n", e.text);
        unlink(d->path);
        dp_clock_destroy(d->clock);
        return false;
    }
    assert_ok(rc, e);
    return true;
}
static void disk_close(struct disk *d)
{
    dp_block_close(d->b);
    dp_clock_destroy(d->clock);
    unlink(d->path);
}

static void done(struct dp_block_request *r, int result) { *(int *)r->opaque = result; }

static int request(struct disk *d, struct dp_block_request *r, enum dp_block_op op, uint64_t offset, struct iovec *iov, unsigned count,
                   uint64_t size)
{
    int result = 1;
    *r = (struct dp_block_request){
        .op = op, .offset = offset, .size = size, .iov = iov, .iov_count = count, .done = done, .opaque = &result};
    dp_block_submit(d->b, r);
    dp_block_drain(d->b);
    assert_int_not_equal(result, 1);
    assert_int_equal(r->op, op);
    return result;
}

static uint64_t space(const struct disk *d)
{
    struct stat st;
    assert_int_equal(stat(d->path, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static unsigned file_byte(const struct disk *d, off_t at)
{
    uint8_t byte = 0;
    int fd = open(d->path, O_RDONLY);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    close(fd);
    return byte;
}

static void zeros_and_discard(void **state)
{
    static uint8_t zero[65536];
    struct dp_block_request r;
    struct iovec v[2] = {{zero, 1000}, {zero + 1000, 64536}};
    for (unsigned detect = 0; detect < 3; detect++)
        for (unsigned ignored = 0; ignored < 2; ignored++) {
            struct disk d;
            disk_open(&d, (struct dp_block_options){.detect_zeroes = (enum dp_block_detect)detect, .discard_ignored = ignored});
            uint64_t full = space(&d);
            assert_int_equal(request(&d, &r, DP_BLOCK_WRITE, 65536, v, 2, sizeof zero), 0);
            assert_int_equal(file_byte(&d, 65536), 0);
            assert_int_equal(file_byte(&d, 131071), 0);
            assert_int_equal(file_byte(&d, 131072), 0xa5);
            assert_int_equal(space(&d) < full, detect == DP_BLOCK_DETECT_UNMAP && !ignored);
            full = space(&d);
            zero[65535] = 1; /* not all zeros */
            assert_int_equal(request(&d, &r, DP_BLOCK_WRITE, 65536, v, 2, sizeof zero), 0);
            zero[65535] = 0;
            assert_int_equal(file_byte(&d, 131071), 1);
            assert_int_equal(request(&d, &r, DP_BLOCK_DISCARD, 1 << 19, NULL, 0, 65536), 0);
            assert_int_equal(file_byte(&d, 1 << 19), ignored ? 0xa5 : 0);
            disk_close(&d);
        }
}

static void through(void **state)
{
    static uint8_t data[4096];
    struct dp_block_request r;
    struct iovec v = {data, sizeof data};
    for (unsigned io = DP_BLOCK_IO_AUTO; io <= DP_BLOCK_IO_THREADS; io += 2)
        for (enum dp_block_cache cache = DP_BLOCK_WRITEBACK; cache <= DP_BLOCK_UNSAFE; cache++) {
            struct disk d;
            bool direct = cache == DP_BLOCK_NONE || cache == DP_BLOCK_DIRECTSYNC;
            if (direct && !disk_open(&d, (struct dp_block_options){.cache = DP_BLOCK_NONE}))
                continue;
            if (direct)
                disk_close(&d);
            disk_open(&d, (struct dp_block_options){.cache = cache, .io = (enum dp_block_io)io});
            assert_int_equal(request(&d, &r, DP_BLOCK_WRITE, 4096, &v, 1, sizeof data), 0);
            assert_int_equal(r.syncing, cache == DP_BLOCK_WRITETHROUGH || cache == DP_BLOCK_DIRECTSYNC);
            assert_int_equal(file_byte(&d, 4096), 0);
            assert_int_equal(request(&d, &r, DP_BLOCK_WRITE_ZEROES, 8192, NULL, 0, 4096), 0);
            assert_int_equal(request(&d, &r, DP_BLOCK_READ, 8192, &v, 1, sizeof data), 0);
            assert_false(r.syncing);
            assert_int_equal(request(&d, &r, DP_BLOCK_FLUSH, 0, NULL, 0, 0), 0);
            disk_close(&d);
        }
}

/* Around the page cache, with memory that is not in line: random requests against a plain copy. */
static void direct(void **state)
{
    struct dp_random random;
    dp_random_seed(&random, 7);
    static uint8_t model[DISK_SIZE], memory[DISK_SIZE + 64], now[DISK_SIZE];
    for (unsigned io = DP_BLOCK_IO_AUTO; io <= DP_BLOCK_IO_THREADS; io += 2) {
        struct disk d;
        struct dp_block_request r;
        if (!disk_open(&d, (struct dp_block_options){.cache = DP_BLOCK_NONE, .io = (enum dp_block_io)io}))
            skip();
        memset(model, 0xa5, sizeof model);
        for (unsigned round = 0; round < 200; round++) {
            uint64_t sectors = 1 + dp_random_next(&random) % (round % 8 ? 16 : 1000),
                     at = dp_random_next(&random) % (DISK_SIZE / 512 - sectors + 1);
            uint64_t size = sectors * 512, left = size;
            unsigned skew = round % 3 ? (unsigned)(dp_random_next(&random) % 64) : 0, count = 0;
            struct iovec v[8];
            uint8_t *p = memory + skew;
            while (left) { /* pieces of any length */
                uint64_t n = count == 7 ? left : 1 + dp_random_next(&random) % left;
                n = round % 5 ? n : DP_MIN(left, (n + 511) / 512 * 512);
                v[count++] = (struct iovec){p, n};
                p += n;
                left -= n;
            }
            if (round & 1) {
                for (uint64_t i = 0; i < size; i++)
                    memory[skew + i] = (uint8_t)dp_random_next(&random);
                memcpy(model + at * 512, memory + skew, size);
                assert_int_equal(request(&d, &r, DP_BLOCK_WRITE, at * 512, v, count, size), 0);
            } else {
                memset(memory, 0xee, sizeof memory);
                assert_int_equal(request(&d, &r, DP_BLOCK_READ, at * 512, v, count, size), 0);
                assert_memory_equal(memory + skew, model + at * 512, size);
                if (skew + size < sizeof memory)
                    assert_int_equal(memory[skew + size], 0xee);
            }
        }
        int fd = open(d.path, O_RDONLY);
        assert_int_equal(read(fd, now, sizeof now), sizeof now);
        close(fd);
        assert_memory_equal(now, model, sizeof now);
        disk_close(&d);
    }
    struct dp_error e = {0};
    struct dp_block *b;
    assert_int_equal(dp_block_open(NULL, &(struct dp_block_options){.path = "/nowhere", .format = "qcow2", .cache = DP_BLOCK_NONE}, &b, &e),
                     -EINVAL);
}

static void count_done(struct dp_block_request *r, int result)
{
    assert_int_equal(result, 0);
    ++*(unsigned *)r->opaque;
}

/* A drain ends although time stands still, as in a VM that is paused. */
static void drain(void **state)
{
    struct disk d;
    static uint8_t data[4096];
    struct iovec v = {data, sizeof data};
    struct dp_block_request r[20];
    unsigned finished = 0;
    disk_open(&d, (struct dp_block_options){.limits = {.iops = 10}});
    for (unsigned i = 0; i < 20; i++) {
        r[i] = (struct dp_block_request){.op = i % 2 ? DP_BLOCK_READ : DP_BLOCK_WRITE,
                                         .offset = 4096 * i,
                                         .size = 4096,
                                         .iov = &v,
                                         .iov_count = 1,
                                         .done = count_done,
                                         .opaque = &finished};
        dp_block_submit(d.b, &r[i]);
    }
    dp_block_drain(d.b);
    assert_int_equal(finished, 20);
    for (unsigned i = 0; i < 20; i++)
        dp_block_submit(d.b, &r[i]);
    disk_close(&d); /* drains */
    assert_int_equal(finished, 40);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations), cmocka_unit_test(bytes),  cmocka_unit_test(zeros_and_discard),
        cmocka_unit_test(through),    cmocka_unit_test(direct), cmocka_unit_test(drain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
