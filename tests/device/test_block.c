/* test_block.c - disk images: both engines, requests of every kind, sizes, locks, a full disk, drains from either thread. */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/block.h"
#include "tests/unit/test.h"

struct result { struct dp_block_request r; bool done; int result; };

static void on_done(struct dp_block_request *r, int result)
{
    struct result *x = DP_CONTAINER_OF(r, struct result, r);
    assert_false(x->done);
    x->done = true;
    x->result = result;
}

static char *make_file(uint64_t size)
{
    char *path = strdup("/tmp/doppel-test-block-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0 && !ftruncate(fd, size));
    close(fd);
    return path;
}

static struct dp_block *open_block(const char *path, bool readonly, enum dp_block_io io)
{
    struct dp_error e = { 0 };
    struct dp_block *b = NULL;
    struct dp_block_options o = { .path = path, .readonly = readonly, .io = io };
    assert_ok(dp_block_open(NULL, &o, &b, &e), e);
    return b;
}

static int run(struct dp_block *b, enum dp_block_op op, uint64_t offset, uint64_t size, struct iovec *iov, unsigned count)
{
    struct result x = { .r = { .op = op, .offset = offset, .size = size, .iov = iov, .iov_count = count, .done = on_done } };
    dp_block_submit(b, &x.r);
    dp_block_drain(b);
    assert_true(x.done);
    return x.result;
}

static int run_one(struct dp_block *b, enum dp_block_op op, uint64_t offset, void *data, uint64_t size)
{
    struct iovec v = { data, size };
    return run(b, op, offset, size, &v, 1);
}

static bool is_byte(const uint8_t *p, size_t n, uint8_t byte)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != byte)
            return false;
    return true;
}

/* Both engines pass the same; io_uring may be refused where the tests run. */
static bool have(enum dp_block_io io, const char *path)
{
    struct dp_block *b;
    struct dp_block_options o = { .path = path, .io = io };
    if (dp_block_open(NULL, &o, &b, NULL))
        return false;
    assert_string_equal(dp_block_io_name(b), io == DP_BLOCK_IO_URING ? "io_uring" : "threads");
    dp_block_close(b);
    return true;
}

static void transfers(enum dp_block_io io)
{
    char *path = make_file(4 << 20);
    if (!have(io, path)) {
        assert_int_equal(io, DP_BLOCK_IO_URING);
        unlink(path);
        free(path);
        skip();
    }
    struct dp_block *b = open_block(path, false, io);
    assert_int_equal(dp_block_size(b), 4 << 20);
    uint8_t *out = malloc(1 << 20), *in = calloc(1, 1 << 20);
    struct dp_random random;
    dp_random_seed(&random, 1);
    for (unsigned i = 0; i < 1 << 20; i++)
        out[i] = dp_random_next(&random);

    static struct iovec v[3000]; /* more pieces than one system call takes */
    uint64_t at = 0;
    for (unsigned i = 0; i < 3000; i++) {
        v[i] = (struct iovec){ out + at, i == 2999 ? 512 * 600 - at : 1 + i % 200 };
        at += v[i].iov_len;
    }
    assert_int_equal(run(b, DP_BLOCK_WRITE, 1 << 20, at, v, 3000), 0);
    assert_int_equal(run_one(b, DP_BLOCK_READ, 1 << 20, in, 1 << 19), 0);
    assert_memory_equal(in, out, at);
    assert_true(is_byte(in + at, (1 << 19) - at, 0));
    memset(in, 0, 1 << 20);
    for (unsigned i = 0; i < 3000; i++)
        v[i].iov_base = in + ((uint8_t *)v[i].iov_base - out);
    assert_int_equal(run(b, DP_BLOCK_READ, 1 << 20, at, v, 3000), 0);
    assert_memory_equal(in, out, at);

    assert_int_equal(run(b, DP_BLOCK_FLUSH, 0, 0, NULL, 0), 0);
    assert_int_equal(run(b, DP_BLOCK_DISCARD, 1 << 20, 8192, NULL, 0), 0);
    assert_int_equal(run(b, DP_BLOCK_WRITE_ZEROES, (1 << 20) + 16384 + 512, 1024, NULL, 0), 0);
    assert_int_equal(run_one(b, DP_BLOCK_READ, 1 << 20, in, 65536), 0);
    assert_true(is_byte(in, 8192, 0));
    assert_memory_equal(in + 8192, out + 8192, 8192 + 512);
    assert_true(is_byte(in + 16384 + 512, 1024, 0));
    assert_memory_equal(in + 16384 + 1536, out + 16384 + 1536, 4096);
    struct result x = { .r = { .op = DP_BLOCK_WRITE_ZEROES, .unmap = true, .offset = 1 << 20, .size = 1 << 20, .done = on_done } };
    dp_block_submit(b, &x.r);
    dp_block_drain(b);
    assert_int_equal(x.result, 0);
    struct stat st;
    assert_false(stat(path, &st));
    assert_true(st.st_size == 4 << 20 && st.st_blocks < 64);

    /* Outside, impossible, nothing. */
    assert_int_equal(run_one(b, DP_BLOCK_READ, 4 << 20, in, 512), -EIO);
    assert_int_equal(run_one(b, DP_BLOCK_WRITE, (4 << 20) - 512, in, 1024), -EIO);
    assert_int_equal(run(b, DP_BLOCK_DISCARD, ~0ull - 511, 1024, NULL, 0), -EIO);
    assert_int_equal(run(b, DP_BLOCK_READ, 4 << 20, 0, NULL, 0), 0);
    v[0] = (struct iovec){ in, 100 };
    assert_int_equal(run(b, DP_BLOCK_READ, 0, 512, v, 1), -EINVAL);
    assert_int_equal(run(b, DP_BLOCK_READ, 0, 50, v, 1), -EINVAL);

    /* Many at once: more than a ring holds. */
    static struct result many[1000];
    static struct iovec piece[1000];
    memset(many, 0, sizeof(many));
    for (unsigned i = 0; i < 1000; i++) {
        piece[i] = (struct iovec){ out + i * 512, 512 };
        many[i].r = (struct dp_block_request){ .op = DP_BLOCK_WRITE, .offset = i * 512, .size = 512, .iov = &piece[i], .iov_count = 1,
                                               .done = on_done };
        dp_block_submit(b, &many[i].r);
    }
    dp_block_drain(b);
    for (unsigned i = 0; i < 1000; i++)
        assert_true(many[i].done && !many[i].result);
    assert_int_equal(run_one(b, DP_BLOCK_READ, 0, in, 512000), 0);
    assert_memory_equal(in, out, 512000);
    dp_block_close(b);
    unlink(path);
    free(path);
    free(out);
    free(in);
}

static void transfers_uring(void **state) { transfers(DP_BLOCK_IO_URING); }
static void transfers_threads(void **state) { transfers(DP_BLOCK_IO_THREADS); }

/* A tail that is no whole sector reads as zeros and becomes one when written. */
static void odd_tail(void **state)
{
    char *path = make_file(1000);
    struct dp_block *b = open_block(path, false, DP_BLOCK_IO_AUTO);
    uint8_t data[1024];
    struct stat st;
    assert_int_equal(dp_block_size(b), 1024);
    memset(data, 0xaa, sizeof(data));
    assert_int_equal(run_one(b, DP_BLOCK_WRITE, 0, data, 512), 0);
    assert_int_equal(run_one(b, DP_BLOCK_READ, 0, data, 1024), 0);
    assert_true(is_byte(data, 512, 0xaa) && is_byte(data + 512, 512, 0));
    assert_true(!stat(path, &st) && st.st_size == 1000);
    memset(data, 0xbb, sizeof(data));
    assert_int_equal(run_one(b, DP_BLOCK_WRITE, 512, data, 512), 0);
    assert_true(!stat(path, &st) && st.st_size == 1024);
    dp_block_close(b);
    unlink(path);
    free(path);
}

/* A file that somebody cuts off while it is in use: what is gone is an error, never zeros; the rest is there, and a write makes it longer again. */
static void shrunk(enum dp_block_io io)
{
    char *path = make_file(64 << 10);
    struct dp_block *b = open_block(path, false, io);
    static uint8_t data[64 << 10];
    memset(data, 0xaa, sizeof(data));
    assert_int_equal(run_one(b, DP_BLOCK_WRITE, 0, data, sizeof(data)), 0);
    assert_false(truncate(path, 4096 + 100));
    assert_int_equal(run_one(b, DP_BLOCK_READ, 0, data, sizeof(data)), -EIO);
    assert_int_equal(run_one(b, DP_BLOCK_READ, 4096, data, 512), -EIO);
    assert_int_equal(run_one(b, DP_BLOCK_READ, sizeof(data) - 512, data, 512), -EIO);
    memset(data, 0, sizeof(data));
    assert_int_equal(run_one(b, DP_BLOCK_READ, 0, data, 4096), 0);
    assert_true(is_byte(data, 4096, 0xaa));
    memset(data, 0xbb, 512);
    assert_int_equal(run_one(b, DP_BLOCK_WRITE, 8192, data, 512), 0);
    assert_int_equal(run_one(b, DP_BLOCK_READ, 8192, data, 512), 0);
    assert_true(is_byte(data, 512, 0xbb));
    assert_int_equal(run_one(b, DP_BLOCK_READ, 8192, data, 1024), -EIO);
    dp_block_close(b);
    unlink(path);
    free(path);
}

static void shrunk_uring(void **state) { shrunk(DP_BLOCK_IO_URING); }
static void shrunk_threads(void **state) { shrunk(DP_BLOCK_IO_THREADS); }

static int try_open(const char *path, bool readonly, const char *format, struct dp_error *e)
{
    struct dp_block *b = NULL;
    *e = (struct dp_error){ 0 };
    int rc = dp_block_open(NULL, &(struct dp_block_options){ .path = path, .readonly = readonly, .format = format }, &b, e);
    assert_true(rc ? e->text[0] && !strchr(e->text, '\n') && strstr(e->text, path) : !!b);
    if (!rc)
        dp_block_close(b);
    return rc;
}

static void refusals(void **state)
{
    struct dp_error e;
    char *path = make_file(0), *fifo = make_file(0);
    assert_int_equal(try_open("/nonexistent/disk.img", false, NULL, &e), -ENOENT);
    assert_int_equal(try_open("/tmp", false, NULL, &e), -EISDIR);
    assert_int_equal(try_open("/tmp", true, NULL, &e), -EINVAL);
    assert_int_equal(try_open("/dev/null", false, NULL, &e), -EINVAL);
    assert_int_equal(try_open(path, false, NULL, &e), -EINVAL);
    unlink(fifo);
    assert_false(mkfifo(fifo, 0600));
    assert_int_equal(try_open(fifo, true, NULL, &e), -EINVAL);
    assert_false(truncate(path, 512));
    assert_int_equal(try_open(path, false, "nonsense", &e), -EINVAL);
    assert_non_null(strstr(e.text, "is not known"));
    assert_int_equal(try_open(path, false, "raw", &e), 0);

    struct dp_block *writer = open_block(path, false, DP_BLOCK_IO_AUTO);
    assert_int_equal(try_open(path, false, NULL, &e), -EBUSY);
    assert_int_equal(try_open(path, true, NULL, &e), -EBUSY);
    dp_block_close(writer);
    struct dp_block *reader = open_block(path, true, DP_BLOCK_IO_AUTO);
    assert_int_equal(try_open(path, true, NULL, &e), 0);
    assert_int_equal(try_open(path, false, NULL, &e), -EBUSY);
    assert_true(dp_block_readonly(reader));
    uint8_t data[512] = { 0 };
    assert_int_equal(run_one(reader, DP_BLOCK_READ, 0, data, 512), 0);
    assert_int_equal(run_one(reader, DP_BLOCK_WRITE, 0, data, 512), -EROFS);
    assert_int_equal(run(reader, DP_BLOCK_DISCARD, 0, 512, NULL, 0), -EROFS);
    assert_int_equal(run(reader, DP_BLOCK_FLUSH, 0, 0, NULL, 0), 0);
    dp_block_close(reader);
    assert_int_equal(try_open(path, false, NULL, &e), 0);
    unlink(path);
    unlink(fifo);
    free(path);
    free(fifo);
}

static void count_line(void *opaque, const char *line)
{
    if (strstr(line, "no space left"))
        ++*(unsigned *)opaque;
}

static void full_disk(void **state)
{
    char folder[] = "/tmp/doppel-test-full-XXXXXX", path[64];
    assert_non_null(mkdtemp(folder));
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("tmpfs", folder, "tmpfs", 0, "size=256k")) {
        rmdir(folder);
        skip(); /* needs root */
    }
    snprintf(path, sizeof(path), "%s/disk", folder);
    int fd = open(path, O_CREAT | O_RDWR, 0600);
    assert_true(fd >= 0 && !ftruncate(fd, 1 << 20));
    close(fd);
    unsigned lines = 0;
    struct dp_trace trace = { .sink = count_line, .opaque = &lines };
    static uint8_t data[65536];
    memset(data, 1, sizeof(data));
    for (unsigned io = DP_BLOCK_IO_AUTO; io <= DP_BLOCK_IO_THREADS; io += DP_BLOCK_IO_THREADS) {
        struct dp_block *b;
        struct dp_error e = { 0 };
        struct dp_block_options o = { .path = path, .io = io, .trace = &trace };
        assert_ok(dp_block_open(NULL, &o, &b, &e), e);
        unsigned full = 0;
        for (unsigned i = 0; i < 16; i++) {
            int rc = run_one(b, DP_BLOCK_WRITE, i * sizeof(data), data, sizeof(data));
            assert_true(rc == 0 || rc == -ENOSPC);
            full += rc != 0;
        }
        assert_true(full >= 12 && full < 16);
        assert_int_equal(run(b, DP_BLOCK_DISCARD, 0, 1 << 20, NULL, 0), 0);
        assert_int_equal(run_one(b, DP_BLOCK_WRITE, 0, data, sizeof(data)), 0); /* room again: works again */
        assert_int_equal(run(b, DP_BLOCK_DISCARD, 0, 1 << 20, NULL, 0), 0);
        dp_block_close(b);
    }
    assert_int_equal(lines, 2);
    umount(folder);
    rmdir(folder);
}

/* ---- with a loop in another thread ---- */

static void *loop_thread(void *opaque)
{
    dp_loop_run(opaque);
    return NULL;
}

struct chain { struct dp_block_request r; struct dp_block *b; struct iovec v; uint8_t data[512]; atomic_uint left; };

static void next_link(struct dp_block_request *r, int result)
{
    struct chain *c = DP_CONTAINER_OF(r, struct chain, r);
    if (result)
        abort(); /* cmocka's asserts work in the test's own thread only */
    if (atomic_fetch_sub(&c->left, 1) > 1)
        dp_block_submit(c->b, r); /* from a callback */
}

static void with_loop(void **state)
{
    char *path = make_file(1 << 20);
    for (unsigned io = DP_BLOCK_IO_AUTO; io <= DP_BLOCK_IO_THREADS; io += DP_BLOCK_IO_THREADS) {
        struct dp_loop *l;
        struct dp_error e = { 0 };
        assert_ok(dp_loop_create(&l, &e), e);
        pthread_t t;
        pthread_create(&t, NULL, loop_thread, l);
        struct dp_block *b;
        struct dp_block_options o = { .path = path, .io = io };
        assert_ok(dp_block_open(l, &o, &b, &e), e);
        static struct chain c[8];
        for (unsigned i = 0; i < 8; i++) {
            c[i].b = b;
            c[i].v = (struct iovec){ c[i].data, 512 };
            atomic_store(&c[i].left, 200);
            c[i].r = (struct dp_block_request){ .op = i % 2 ? DP_BLOCK_WRITE : DP_BLOCK_READ, .offset = i * 512, .size = 512,
                                                .iov = &c[i].v, .iov_count = 1, .done = next_link };
            dp_block_submit(b, &c[i].r);
        }
        if (io == DP_BLOCK_IO_AUTO)
            dp_block_drain(b); /* helps the loop */
        else
            for (unsigned i = 0; i < 8; i++)
                while (atomic_load(&c[i].left))
                    sched_yield();
        for (unsigned i = 0; i < 8; i++)
            assert_int_equal(atomic_load(&c[i].left), 0);
        dp_block_close(b);
        dp_loop_stop(l);
        pthread_join(t, NULL);
        dp_loop_destroy(l);
    }
    unlink(path);
    free(path);
}

/* Requests that a thread submits outlive it: a vCPU may exit with I/O in flight. */
static void *submit_and_exit(void *opaque)
{
    struct result *x = opaque;
    for (unsigned i = 0; i < 64; i++)
        dp_block_submit(x[i].r.opaque, &x[i].r);
    return NULL;
}

static void thread_exit(void **state)
{
    char *path = make_file(16 << 20);
    struct dp_block *b = open_block(path, false, DP_BLOCK_IO_AUTO);
    static uint8_t data[64][65536];
    static struct iovec v[64];
    static struct result x[64];
    for (unsigned i = 0; i < 64; i++) {
        v[i] = (struct iovec){ data[i], sizeof(data[i]) };
        x[i].r = (struct dp_block_request){ .op = i % 8 == 7 ? DP_BLOCK_FLUSH : DP_BLOCK_WRITE, .offset = i * 65536, .size = 65536,
                                            .iov = &v[i], .iov_count = 1,
                                            .done = on_done, .opaque = b };
    }
    pthread_t t;
    pthread_create(&t, NULL, submit_and_exit, x);
    pthread_join(t, NULL);
    dp_block_drain(b);
    for (unsigned i = 0; i < 64; i++)
        assert_true(x[i].done && !x[i].result);
    dp_block_close(b);
    unlink(path);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transfers_uring), cmocka_unit_test(transfers_threads), cmocka_unit_test(odd_tail), cmocka_unit_test(shrunk_uring), cmocka_unit_test(shrunk_threads), cmocka_unit_test(refusals),
        cmocka_unit_test(with_loop), cmocka_unit_test(thread_exit), cmocka_unit_test(full_disk),
    };
    return cmocka_run_group_tests_name("block", tests, NULL, NULL);
}
