/* test_qcow2.c - qcow2 images side by side with qemu-img: what it makes we read, what we write it checks and compares; snapshots, chains,
 * damaged and hostile images. */
#include <pthread.h>

#include "tests/block/qcow2_rig.h"

enum { SIZE = 6 << 20 };

static const char *const layouts[] = {
    "compat=0.10", "compat=0.10,cluster_size=512", "compat=0.10,cluster_size=2M",
    "cluster_size=512", "cluster_size=1k", "cluster_size=4k", "cluster_size=8k", "cluster_size=64k", "cluster_size=256k", "cluster_size=2M",
    "refcount_bits=1", "refcount_bits=2,cluster_size=512", "refcount_bits=4", "refcount_bits=8,cluster_size=4k",
    "refcount_bits=32", "refcount_bits=64", "refcount_bits=64,cluster_size=512", "lazy_refcounts=on",
    "preallocation=metadata", "preallocation=metadata,cluster_size=4k", "preallocation=falloc", "preallocation=full,cluster_size=1k",
    "extended_l2=on", "extended_l2=on,cluster_size=16k", "extended_l2=on,cluster_size=2M", "extended_l2=on,preallocation=metadata",
    "compression_type=zstd", "compression_type=zstd,cluster_size=4k", "compression_type=zstd,cluster_size=2M",
};

static void reads(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    uint8_t *data = malloc(SIZE);
    fill(&r->random, data, SIZE);
    write_file(r, "raw", data, SIZE);
    for (unsigned i = 0; i < 2 * DP_ARRAY_LEN(layouts); i++) {
        const char *layout = layouts[i / 2];
        if (i & 1 && strstr(layout, "prealloc"))
            continue;
        print_message("%s%s\n", layout, i & 1 ? " compressed" : "");
        must(r, "qemu-img convert %s -O qcow2 -o %s raw image", i & 1 ? "-c" : "", layout);
        struct dp_block *b = open_image(r, "image", true);
        assert_string_equal(dp_block_io_name(b), "worker");
        expect(r, b, data, SIZE);
        dp_block_close(b);
    }
    free(data);
}

static void check(struct rig *r, const uint8_t *model, size_t size)
{
    must(r, "qemu-img check image");
    write_file(r, "model", model, size);
    must(r, "qemu-img compare -f raw -F qcow2 model image");
}

/* Random operations, with the image closed and opened anew now and then. */
static void exercise(struct rig *r, uint8_t *model, size_t size, unsigned count)
{
    struct dp_block *b = open_image(r, "image", false);
    for (unsigned i = 0; i < count; i++) {
        random_op(r, b, model, size);
        if (i % 97 == 96) {
            dp_block_close(b);
            must(r, "qemu-img check image");
            b = open_image(r, "image", false);
        }
    }
    expect(r, b, model, size);
    dp_block_close(b);
    check(r, model, size);
}

static void writes(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    uint8_t *model = malloc(SIZE);
    for (unsigned i = 0; i < DP_ARRAY_LEN(layouts); i++) {
        print_message("%s\n", layouts[i]);
        memset(model, 0, SIZE);
        must(r, "rm -f image; qemu-img create -f qcow2 -o %s image %d", layouts[i], SIZE);
        exercise(r, model, SIZE, 250);
    }
    free(model);
}

/* Over compressed clusters, over backing files of both formats and other sizes, and over both. */
static void overlays(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    uint8_t *model = malloc(SIZE + 1000 * 512), *data = malloc(SIZE);
    for (unsigned i = 0; i < DP_ARRAY_LEN(layouts); i++) {
        size_t size = i % 3 == 1 ? SIZE + 1000 * 512 : i % 3 == 2 ? SIZE - 1000 * 512 : SIZE;
        fill(&r->random, data, SIZE);
        memset(model, 0, size);
        memcpy(model, data, DP_MIN(size, (size_t)SIZE));
        write_file(r, "raw", data, SIZE);
        if (strstr(layouts[i], "prealloc"))
            continue;
        print_message("%s over %s\n", layouts[i], i & 1 ? "raw" : "qcow2");
        const char *below = layouts[(i * 7) % DP_ARRAY_LEN(layouts)];
        must(r, "qemu-img convert %s -O qcow2 -o %s raw base && rm -f middle image", strstr(below, "prealloc") ? "" : "-c", below);
        must(r, "qemu-img create -f qcow2 -o %s -b %s -F %s middle %zu", layouts[i], i & 1 ? "raw" : "base", i & 1 ? "raw" : "qcow2", size);
        must(r, "qemu-img create -f qcow2 -o %s -b middle -F qcow2 image", layouts[i]);
        exercise(r, model, size, 150);
    }
    for (unsigned i = 0; i < DP_ARRAY_LEN(layouts); i += 2) {
        if (strstr(layouts[i], "prealloc"))
            continue;
        must(r, "rm -f image; qemu-img convert -c -O qcow2 -o %s raw image", layouts[i]);
        memcpy(model, data, SIZE);
        exercise(r, model, SIZE, 150);
    }
    free(data);
    free(model);
}

/* Internal snapshots keep what they had, whatever is written; applied again they can be written, too. */
static void snapshots(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    uint8_t *model = calloc(1, SIZE), *old = malloc(SIZE);
    static const char *const some[] = {"cluster_size=4k", "cluster_size=64k", "extended_l2=on", "compat=0.10",
        "refcount_bits=2,cluster_size=512"};
    for (unsigned i = 0; i < DP_ARRAY_LEN(some); i++) {
        memset(model, 0, SIZE);
        must(r, "rm -f image; qemu-img create -f qcow2 -o %s image %d", some[i], SIZE);
        exercise(r, model, SIZE, 150);
        must(r, "qemu-img snapshot -c one image");
        memcpy(old, model, SIZE);
        exercise(r, model, SIZE, 150);
        write_file(r, "old", old, SIZE);
        must(r, "qemu-img convert -l snapshot.name=one -O raw image got && cmp got old");
        must(r, "qemu-img snapshot -a one image");
        exercise(r, old, SIZE, 100);
        must(r, "qemu-img snapshot -d one image");
        exercise(r, old, SIZE, 100);
    }
    free(model);
    free(old);
}

static void capacity(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    /* A sparse terabyte; the first and last bytes and some between. */
    must(r, "rm -f image; qemu-img create -f qcow2 -o cluster_size=64k image 1T");
    struct dp_block *b = open_image(r, "image", false);
    uint8_t data[4096], got[4096];
    for (uint64_t i = 0; i <= 700; i++) {
        memset(data, (int)i + 1, sizeof data);
        assert_int_equal(request(b, DP_BLOCK_WRITE, false, ((1ull << 40) - 4096) / 700 / 4096 * 4096 * i, data, 4096), 0);
    }
    for (uint64_t i = 0; i <= 700; i++) {
        memset(data, (int)i + 1, sizeof data);
        assert_int_equal(request(b, DP_BLOCK_READ, false, ((1ull << 40) - 4096) / 700 / 4096 * 4096 * i, got, 4096), 0);
        assert_memory_equal(data, got, 4096);
    }
    dp_block_close(b);
    must(r, "qemu-img check image");
    struct stat st;
    assert_false(stat(in(r, "image"), &st));
    assert_true(st.st_blocks < 200000 && st.st_size < 200 << 20);
    /* What is discarded goes back to the host. */
    b = open_image(r, "image", false);
    assert_int_equal(request(b, DP_BLOCK_DISCARD, false, 0, NULL, 1ull << 40), 0);
    assert_int_equal(request(b, DP_BLOCK_FLUSH, false, 0, NULL, 0), 0);
    dp_block_close(b);
    must(r, "qemu-img check image");
    struct stat after;
    assert_false(stat(in(r, "image"), &after));
    assert_true(after.st_blocks < st.st_blocks);
    /* Small clusters and wide refcounts: the refcount table moves several times. */
    must(r, "rm -f image; qemu-img create -f qcow2 -o cluster_size=512,refcount_bits=64 image 24M");
    uint8_t *model = malloc(24 << 20);
    fill(&r->random, model, 24 << 20);
    b = open_image(r, "image", false);
    for (uint64_t at = 0; at < 24 << 20; at += 256 << 10)
        assert_int_equal(request(b, DP_BLOCK_WRITE, false, at, model + at, 256 << 10), 0);
    dp_block_close(b);
    check(r, model, 24 << 20);
    free(model);
}

/* Many requests at once, from two threads. */
struct many { struct dp_block *b; uint8_t *data; unsigned part; int results[512]; struct dp_block_request r[512]; struct iovec v[512]; };

static void *submit_many(void *opaque)
{
    struct many *m = opaque;
    for (unsigned i = 0; i < 512; i++) {
        uint64_t at = ((i * 37 % 512) * 2 + m->part) * 5 * 512;
        m->v[i] = (struct iovec){m->data + at, 5 * 512};
        m->results[i] = 1;
        m->r[i] = (struct dp_block_request){.op = DP_BLOCK_WRITE, .offset = at, .size = 5 * 512, .iov = &m->v[i], .iov_count = 1,
                                            .done = on_done, .opaque = &m->results[i]};
        dp_block_submit(m->b, &m->r[i]);
    }
    return NULL;
}

static void many(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    enum { BYTES = 1024 * 5 * 512 };
    uint8_t *data = malloc(BYTES);
    fill(&r->random, data, BYTES);
    must(r, "qemu-img create -f qcow2 -o cluster_size=4k image %d", BYTES);
    struct dp_block *b = open_image(r, "image", false);
    static struct many m[2];
    pthread_t thread[2];
    for (unsigned i = 0; i < 2; i++) {
        m[i].b = b;
        m[i].data = data;
        m[i].part = i;
        assert_false(pthread_create(&thread[i], NULL, submit_many, &m[i]));
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    dp_block_drain(b);
    for (unsigned i = 0; i < 1024; i++)
        assert_int_equal(m[i / 512].results[i % 512], 0);
    expect(r, b, data, BYTES);
    dp_block_close(b);
    check(r, data, BYTES);
    free(data);
}

static int try_open(struct rig *r, const char *name, bool readonly, struct dp_error *e)
{
    struct dp_block *b;
    *e = (struct dp_error){0};
    int rc = dp_block_open(NULL, &(struct dp_block_options){.path = in(r, name), .readonly = readonly, .format = "qcow2"}, &b, e);
    assert_true(rc ? *e->text && !strchr(e->text, '\n') : 1);
    if (!rc)
        dp_block_close(b);
    return rc;
}

static void patch(struct rig *r, const char *name, unsigned at, uint64_t value, unsigned bytes)
{
    int fd = open(in(r, name), O_WRONLY);
    value = __builtin_bswap64(value);
    assert_true(fd >= 0 && pwrite(fd, (uint8_t *)&value + 8 - bytes, bytes, at) == bytes);
    close(fd);
}

static void hostile(void **state)
{
    struct rig *r = *state;
    struct dp_error e;
    need_qemu_img(r);
    static const struct { unsigned at; uint64_t value; unsigned bytes; int readonly; const char *say; } bad[] = {
        {0, 0, 4, 0, "not a qcow2"}, {4, 1, 4, 0, "version"}, {4, 4, 4, 0, "version"}, {20, 8, 4, 0, "clusters"}, {20, 22, 4, 0,
            "clusters"},
        {24, 0, 8, 0, "bytes is not possible"}, {24, ~0ull, 8, 0, "bytes is not possible"}, {24, 1ull << 60, 8, 0, "L1 table"}, {32, 2, 4,
            0, "LUKS header"},
        {36, 0, 4, 0, "L1 table"}, {36, ~0u, 4, 0, "L1 table"}, {36, 1 << 20, 4, 0, "L1 table"}, {40, 3, 8, 0, "L1 table"}, {40,
            1ull << 62, 8, 0, "L1 table"},
        {48, 512, 8, 0, "refcount table"}, {48, 0x30000, 8, 0, "in one another"}, {56, 0, 4, 0, "refcount table"}, {56, ~0u, 4, 0,
            "refcount table"},
        {72, 1, 8, 1, "repair"}, {72, 2, 8, 1, "repair"}, {72, 4, 8, 0, "another file"}, {72, 8, 8, 0, "compression"}, {72, 64, 8, 0,
            "does not know"},
        {96, 7, 4, 0, "refcounts"}, {100, 96, 4, 0, "header"}, {100, ~0u, 4, 0, "header"}, {100, 108, 4, 0, "header"},
        {8, 0x10000, 8, 0, "backing"}, {0x10000, 0x10000, 8, 1, "refcount block"}, {0x10000, 0, 8, 1, "refcount block"},
        {0x30000, 1, 8, 0, "L1 table"}, {116, ~0u, 4, 0, "extension"},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++) {
        must(r, "rm -f image; qemu-img create -f qcow2 image 64M");
        assert_int_equal(try_open(r, "image", false, &e), 0);
        patch(r, "image", bad[i].at, bad[i].value, bad[i].bytes);
        if (!try_open(r, "image", false, &e) || !strstr(e.text, bad[i].say))
            fail_msg("case %u: '%s' instead of '%s'", i, e.text, bad[i].say);
        assert_int_equal(try_open(r, "image", true, &e) == 0, bad[i].readonly); /* without its refcounts it can be read */
    }

    /* Tables that point at themselves and at others: reads and writes fail, nothing else. */
    static const uint64_t targets[] = {0x10000, 0x20000, 0x30000, 0x40000, 1ull << 50};
    for (unsigned i = 0; i < 2 * DP_ARRAY_LEN(targets); i++) {
        uint8_t data[512] = {1};
        must(r, "rm -f image; qemu-img create -f qcow2 image 64M && qemu-io -c 'write 0 64k' image");
        patch(r, "image", i & 1 ? 0x40000 : 0x30000, targets[i / 2] | 1ull << 63, 8);
        struct dp_block *b = open_image(r, "image", false);
        int rc = request(b, DP_BLOCK_WRITE, false, 1 << 20, data, 512);
        assert_true(rc == 0 || rc == -EIO);
        rc = request(b, DP_BLOCK_READ, false, 0, data, 512);
        assert_true(rc == 0 || rc == -EIO);
        dp_block_close(b);
    }

    /* Backing files: outside the folder, URLs, without a format, in a circle, missing, too many. */
    must(r, "mkdir -p inside; cp image base.qcow2; qemu-img create -u -f qcow2 -b /etc/passwd -F raw inside/a 1M");
    assert_int_equal(try_open(r, "inside/a", true, &e), -EACCES);
    assert_non_null(strstr(e.text, "backing=any"));
    must(r, "ln -sf /etc/passwd inside/link; qemu-img create -u -f qcow2 -b link -F raw inside/a 1M");
    assert_int_equal(try_open(r, "inside/a", true, &e), -EACCES);
    must(r, "qemu-img create -u -f qcow2 -b ../base.qcow2 -F qcow2 inside/a 1M");
    assert_int_equal(try_open(r, "inside/a", true, &e), -EACCES);
    struct dp_block *b;
    assert_ok(dp_block_open(NULL, &(struct dp_block_options){.path = in(r, "inside/a"), .format = "qcow2", .backing_anywhere = true}, &b,
        &e), e);
    dp_block_close(b);
    must(r, "qemu-img create -u -f qcow2 -b http://example.org/x -F raw a 1M");
    assert_int_equal(try_open(r, "a", true, &e), -EACCES);
    assert_int_equal(try_open(r, "a", false, &e), -EACCES);
    must(r, "qemu-img create -u -f qcow2 -b nothing -F raw a 1M");
    assert_int_equal(try_open(r, "a", true, &e), -ENOENT);
    must(r, "qemu-img create -u -f qcow2 -b b -F qcow2 a 1M; qemu-img create -u -f qcow2 -b a -F qcow2 b 1M");
    assert_int_equal(try_open(r, "a", true, &e), -EINVAL);
    assert_non_null(strstr(e.text, "no end"));
    must(r, "ln -f a b");
    assert_int_equal(try_open(r, "a", false, &e), -EINVAL);
    must(r, "qemu-img create -f qcow2 0 1M; for i in $(seq 1 64); do qemu-img create -u -f qcow2 -b $((i - 1)) -F qcow2 $i 1M; done");
    assert_int_equal(try_open(r, "63", true, &e), 0);
    assert_int_equal(try_open(r, "64", true, &e), -EINVAL);

    /* Locks: one writer; readers together. */
    must(r, "qemu-img create -f qcow2 image 1M");
    b = open_image(r, "image", false);
    assert_int_equal(try_open(r, "image", true, &e), -EBUSY);
    assert_int_not_equal(command(r, "qemu-img info image"), 0); /* its locks are ours */
    must(r, "qemu-img info -U image");
    dp_block_close(b);
    b = open_image(r, "image", true);
    must(r, "qemu-img info image");
    assert_int_not_equal(command(r, "qemu-io -c 'write 0 512' image"), 0);
    dp_block_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(writes, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(overlays, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(snapshots, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(capacity, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(many, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(hostile, rig_setup, rig_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
