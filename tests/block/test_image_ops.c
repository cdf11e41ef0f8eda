/* test_image_ops.c - dp_image_copy, merge, detach, compare, compact, map on raw and on qcow2 images that qemu-img made (where it is there):
 * stopped at random pieces and begun again, the result is the same.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <unistd.h>

#include "block/image_ops.h"

enum { DISK = 9 << 20 };

struct run {
    atomic_bool stop;
    unsigned pieces, stop_after;
    uint64_t last;
};

static void progress(void *opaque, uint64_t done, uint64_t all)
{
    struct run *r = opaque;
    assert_true(done <= all && done >= r->last);
    r->last = done;
    if (++r->pieces == r->stop_after)
        atomic_store(&r->stop, true);
}

static struct dp_image_job job_of(struct run *r, unsigned stop_after)
{
    *r = (struct run){.stop_after = stop_after};
    return (struct dp_image_job){progress, r, &r->stop};
}

static void shell(const char *command)
{
    if (system(command)) {
        print_error("%s\n", command);
        fail();
    }
}

static bool have_qemu(void) { return !system("qemu-img --version >/dev/null 2>&1 && qemu-io --version >/dev/null 2>&1"); }

static struct dp_image *open_image(const char *name, const char *format, bool write, bool alone)
{
    struct dp_error e = {0};
    struct dp_image *i = NULL;
    if (dp_image_open(&(struct dp_image_options){.name = name, .format = format, .readonly = !write, .alone = alone}, &i, &e))
        print_error("%s\n", e.text);
    assert_non_null(i);
    return i;
}

/* Random bytes, stored zeros and holes in pieces that end anywhere. */
static void fill(const char *name, unsigned seed)
{
    struct dp_random r;
    struct dp_error e;
    assert_int_equal(dp_image_create(&(struct dp_image_create){.name = name, .format = "raw", .size = DISK}, &e), 0);
    struct dp_image *i = open_image(name, "raw", true, false);
    uint8_t *data = malloc(1 << 20);
    dp_random_seed(&r, seed);
    for (uint64_t at = 0; at < DISK;) {
        uint64_t n = dp_random_next(&r) % (dp_random_next(&r) % 3 ? 70000 : 1 << 20) + 1, kind = dp_random_next(&r) % 3;
        n = DP_MIN(n, DISK - at);
        for (uint64_t k = 0; k < n; k++)
            data[k] = kind ? (uint8_t)(dp_random_next(&r) >> 8) : 0;
        if (kind < 2)
            assert_int_equal(dp_image_pwrite(i, data, n, at), 0);
        at += n;
    }
    free(data);
    dp_image_close(i);
}

static void same(const char *a, const char *fa, const char *b, const char *fb)
{
    enum dp_image_difference d;
    uint64_t at;
    struct dp_error e = {0};
    struct dp_image *x = open_image(a, fa, false, false), *y = open_image(b, fb, false, false);
    assert_int_equal(dp_image_compare(x, y, false, NULL, &d, &at, &e), 0);
    if (d != DP_IMAGE_SAME)
        print_error("%s and %s differ at %llu\n", a, b, (unsigned long long)at);
    assert_int_equal(d, DP_IMAGE_SAME);
    dp_image_close(x);
    dp_image_close(y);
}

/* Copies, stopped after each number of pieces, and gone on with until all is there. */
static void copy_in_steps(const char *target, const char *format, bool zeroed, bool range)
{
    struct run r;
    struct dp_error e = {0};
    uint64_t done = 0;
    unsigned rounds = 0;
    int rc = -EINTR;
    while (rc == -EINTR) {
        struct dp_image *from = open_image("a.raw", "raw", false, false), *to = open_image(target, format, true, false);
        struct dp_image_copy c = {.from = from,
                                  .to = to,
                                  .start = done,
                                  .sparse = 4096,
                                  .zeroed = zeroed,
                                  .same_as_backing = to->backing != NULL,
                                  .range = range};
        struct dp_image_job job = job_of(&r, 1 + rounds % 3);
        rc = dp_image_copy(&c, &job, &e);
        assert_true(c.done >= done);
        done = c.done;
        dp_image_close(from);
        dp_image_close(to);
        assert_true(++rounds < 100);
    }
    assert_int_equal(rc, 0);
    assert_int_equal(done, DISK);
    same("a.raw", "raw", target, format);
}

static void test_copy_raw(void **state)
{
    struct dp_error e;
    assert_int_equal(dp_image_create(&(struct dp_image_create){.name = "o.raw", .format = "raw", .size = DISK}, &e), 0);
    copy_in_steps("o.raw", "raw", true, false);
    assert_int_equal(dp_image_create(&(struct dp_image_create){.name = "o.raw", .format = "raw", .size = DISK}, &e), 0);
    copy_in_steps("o.raw", "raw", true, true);
    shell("cp b.raw o.raw"); /* what is there is overwritten, with zeros too */
    copy_in_steps("o.raw", "raw", false, false);
    struct dp_image *a = open_image("a.raw", "raw", false, false), *small;
    assert_int_equal(dp_image_create(&(struct dp_image_create){.name = "o.raw", .format = "raw", .size = 512}, &e), 0);
    small = open_image("o.raw", "raw", true, false);
    assert_int_equal(dp_image_copy(&(struct dp_image_copy){.from = a, .to = small}, NULL, &e), -EINVAL);
    dp_image_close(a);
    dp_image_close(small);
}

static void test_copy_qcow2(void **state)
{
    if (!have_qemu())
        skip();
    for (unsigned bits = 9; bits <= 21; bits += 3) {
        char text[200];
        snprintf(text, sizeof text, "qemu-img create -q -f qcow2 -o cluster_size=%u o.qcow2 9M", 1u << bits);
        shell(text);
        copy_in_steps("o.qcow2", "qcow2", true, false);
        shell("qemu-img check -q o.qcow2");
        snprintf(text, sizeof text, "qemu-img create -q -f qcow2 -o cluster_size=%u -b b.raw -F raw o.qcow2 9M", 1u << bits);
        shell(text);
        copy_in_steps("o.qcow2", "qcow2", false, false);
        shell("qemu-img check -q o.qcow2 && qemu-img compare -q a.raw o.qcow2");
    }
}

static void test_compare(void **state)
{
    enum dp_image_difference d;
    uint64_t at;
    struct dp_error e;
    shell("cp a.raw c.raw");
    struct dp_image *a = open_image("a.raw", "raw", false, false), *c = open_image("c.raw", "raw", true, false);
    for (unsigned n = 0; n < 20; n++) {
        uint64_t where = (uint64_t)n * 487651 % DISK;
        uint8_t old, new;
        assert_int_equal(dp_image_pread(c, &old, 1, where), 0);
        new = old ^ 1;
        assert_int_equal(dp_image_pwrite(c, &new, 1, where), 0);
        assert_int_equal(dp_image_compare(a, c, false, NULL, &d, &at, &e), 0);
        assert_int_equal(d, DP_IMAGE_OTHER_BYTES);
        assert_int_equal(at, where);
        assert_int_equal(dp_image_pwrite(c, &old, 1, where), 0);
    }
    assert_int_equal(c->format->resize(c, DISK + 4096, &e), 0);
    assert_int_equal(dp_image_compare(a, c, false, NULL, &d, &at, &e), 0);
    assert_int_equal(d, DP_IMAGE_SAME);
    assert_int_equal(dp_image_compare(a, c, true, NULL, &d, &at, &e), 0);
    assert_int_equal(d, DP_IMAGE_OTHER_SIZE);
    assert_int_equal(dp_image_pwrite(c, "x", 1, DISK + 77), 0);
    assert_int_equal(dp_image_compare(c, a, false, NULL, &d, &at, &e), 0);
    assert_true(d == DP_IMAGE_OTHER_BYTES && at == DISK + 77);
    dp_image_close(a);
    dp_image_close(c);
}

/* The disk of `over` stays what it is, whatever is put below it. */
static void test_detach(void **state)
{
    struct run r;
    struct dp_error e = {0};
    static const char *const below[] = {"b.raw", "short.raw", NULL};
    if (!have_qemu())
        skip();
    shell("head -c 3000320 b.raw >short.raw");
    for (unsigned n = 0; n < 6; n++) {
        const char *name = below[n % 3];
        char text[300];
        snprintf(text, sizeof text,
                 "qemu-img create -q -f qcow2 -o cluster_size=%s -b a.raw -F raw over.qcow2 10M &&"
                 "qemu-io -f qcow2 -c 'write -P 1 100k 100k' -c 'write -z 2M 1M' -c 'write -P 4 9900k 20k' over.qcow2 >/dev/null &&"
                 "qemu-img convert -O raw over.qcow2 want.raw",
                 n < 3 ? "4096" : "65536");
        shell(text);
        int rc = -EINTR;
        for (unsigned rounds = 1; rc == -EINTR; rounds++) {
            struct dp_image *top = open_image("over.qcow2", "qcow2", true, false), *b = name ? open_image(name, "raw", false, false) : NULL;
            struct dp_image_job job = job_of(&r, rounds * 3);
            rc = dp_image_detach(top, b, &job, &e);
            dp_image_close(top);
            dp_image_close(b);
            same("over.qcow2", "qcow2", "want.raw", "raw"); /* also before the name is changed */
        }
        assert_int_equal(rc, 0);
        snprintf(
            text, sizeof text,
            "qemu-img rebase -u -f qcow2 -b '%s' %s over.qcow2 && qemu-img check -q over.qcow2 && qemu-img compare -q over.qcow2 want.raw",
            name ? name : "", name ? "-F raw" : "");
        shell(text);
    }
}

static void test_merge(void **state)
{
    struct run r;
    struct dp_error e = {0};
    if (!have_qemu())
        skip();
    shell("cp a.raw base.raw && qemu-img create -q -f qcow2 -b base.raw -F raw over.qcow2 10M &&"
          "qemu-io -f qcow2 -c 'write -P 1 100k 100k' -c 'write -z 2M 1M' -c 'write -P 4 9900k 20k' over.qcow2 >/dev/null &&"
          "qemu-img convert -O raw over.qcow2 want.raw");
    int rc = -EINTR;
    for (unsigned rounds = 1; rc == -EINTR; rounds++) {
        struct dp_image *top = open_image("over.qcow2", "qcow2", true, true), *base = open_image("base.raw", "raw", true, false);
        struct dp_image_job job = job_of(&r, rounds);
        rc = dp_image_merge(top, base, &job, &e);
        dp_image_close(top);
        dp_image_close(base);
        same("over.qcow2", "qcow2", "want.raw", "raw");
    }
    assert_int_equal(rc, 0);
    same("base.raw", "raw", "want.raw", "raw");
}

static void test_compact(void **state)
{
    uint64_t freed;
    struct dp_error e = {0};
    shell("cat a.raw >full.raw && cp --sparse=never a.raw full.raw");
    struct dp_image *i = open_image("full.raw", "raw", true, false);
    assert_int_equal(dp_image_compact(i, NULL, &freed, &e), 0);
    dp_image_close(i);
    same("full.raw", "raw", "a.raw", "raw");
    assert_true(freed >= 1 << 20);
    if (!have_qemu())
        return;
    for (unsigned n = 0; n < 2; n++) {
        shell(n ? "qemu-img create -q -f qcow2 -b b.raw -F raw z.qcow2 9M && qemu-img convert -n -S 0 -O qcow2 a.raw z.qcow2"
                : "qemu-img convert -S 0 -O qcow2 -o cluster_size=4096 a.raw z.qcow2");
        i = open_image("z.qcow2", "qcow2", true, false);
        assert_int_equal(dp_image_compact(i, NULL, &freed, &e), 0);
        dp_image_close(i);
        assert_true(freed > 0);
        same("z.qcow2", "qcow2", "a.raw", "raw");
        shell("qemu-img check -q z.qcow2");
    }
}

static void test_map(void **state)
{
    struct dp_image *i = open_image("a.raw", "raw", false, false);
    const struct dp_image *owner;
    enum dp_extent_kind last = DP_EXTENT_UNALLOCATED;
    uint64_t at = 0;
    while (at < i->size) {
        struct dp_extent x;
        assert_int_equal(dp_image_map(i, at, &x, &owner), 0);
        assert_true(x.size && owner == i && x.kind != last && x.offset == at);
        last = x.kind;
        at += x.size;
    }
    assert_int_equal(at, i->size);
    dp_image_close(i);
}

static void test_measure(void **state)
{
    uint64_t required, full;
    struct dp_error e;
    assert_int_equal(dp_image_measure(NULL, 1ull << 30, "raw", 0, &required, &full, &e), 0);
    assert_true(required == 1ull << 30 && full == required);
    assert_int_equal(dp_image_measure(NULL, 1ull << 62, "qcow2", 0, &required, &full, &e), 0);
    assert_true(full > 1ull << 62 && required < full);
    assert_int_equal(dp_image_measure(NULL, 1, "qcow2", 3, &required, &full, &e), -EINVAL);
    assert_int_equal(dp_image_measure(NULL, UINT64_MAX, "qcow2", 512, &required, &full, &e), -EINVAL);
    assert_int_equal(dp_image_measure(NULL, 1, "vmdk", 0, &required, &full, &e), -ENOTSUP);
}

static void test_zero(void **state)
{
    uint8_t data[300] = {0};
    assert_true(dp_is_zero(data, 0));
    for (unsigned n = 1; n <= sizeof data; n++) {
        assert_true(dp_is_zero(data, n));
        for (unsigned k = 0; k < n; k += 7) {
            data[k] = 1;
            assert_false(dp_is_zero(data, n));
            data[k] = 0;
        }
    }
}

/* 6000 clusters, each twice; with a table for 3072 hashes, stopped now and then. */
static void test_dedup(void **state)
{
    enum { CLUSTER = 512, PAIRS = 6000 };
    const char *const options[] = {"cluster_size=512", NULL};
    for (unsigned full = 0; full < 2; full++) {
        struct dp_error e = {0};
        struct dp_image_create make = {.name = "d.qcow2", .format = "qcow2", .size = 2 * PAIRS * CLUSTER, .option = options};
        assert_int_equal(dp_image_create(&make, &e), 0);
        struct dp_image *i = open_image("d.qcow2", "qcow2", true, false);
        uint64_t data[CLUSTER / 8], shared, sum = 0;
        for (uint64_t n = 0; n < 2 * PAIRS; n++) {
            for (unsigned k = 0; k < CLUSTER / 8; k++)
                data[k] = (n % PAIRS + 1) * 0x123456789ull + k;
            assert_int_equal(dp_image_pwrite(i, data, CLUSTER, n * CLUSTER), 0);
        }
        struct run r;
        for (int rc = -EINTR; rc; sum += shared) {
            struct dp_image_job job = job_of(&r, full ? 0 : 150);
            rc = dp_image_dedup(i, full ? 1 : 0, &job, &shared, &e);
            assert_true(!rc || rc == -EINTR);
            sum += rc ? shared : 0;
            if (rc) { /* from the beginning: what shares already is passed over */
                job = job_of(&r, 0);
                rc = dp_image_dedup(i, 0, &job, &shared, &e);
                assert_int_equal(rc, 0);
            }
        }
        assert_true(full ? sum == 3072 * CLUSTER : sum == PAIRS * CLUSTER);
        for (uint64_t n = 0; n < 2 * PAIRS; n++) {
            assert_int_equal(dp_image_pread(i, data, CLUSTER, n * CLUSTER), 0);
            assert_int_equal(data[3], (n % PAIRS + 1) * 0x123456789ull + 3);
        }
        struct dp_image_check c = {0};
        assert_int_equal(i->format->check(i, &c, &e), 0);
        assert_int_equal(c.corruptions + c.leaks, 0);
        dp_image_close(i);
    }
}

int main(void)
{
    char folder[] = "/tmp/doppel-image-ops-XXXXXX", text[100];
    if (!mkdtemp(folder) || chdir(folder))
        return 99;
    fill("a.raw", 1);
    fill("b.raw", 2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zero),    cmocka_unit_test(test_copy_raw), cmocka_unit_test(test_copy_qcow2),
        cmocka_unit_test(test_compare), cmocka_unit_test(test_detach),   cmocka_unit_test(test_merge),
        cmocka_unit_test(test_compact), cmocka_unit_test(test_map),      cmocka_unit_test(test_measure),
        cmocka_unit_test(test_dedup),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(text, sizeof text, "rm -r %s", folder);
    return system(text) || failed;
}
