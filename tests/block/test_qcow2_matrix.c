/* test_qcow2_matrix.c - every combination of qcow2's options: images made by us and by qemu-img are written by us and by qemu-io in turn,
 * and must be what a plain model says, in both programs' eyes.
 *
 * Model: cluster size x compat x refcount width x lazy refcounts x extended L2 x compression x (preallocation or backing file) x snapshots
 * x who made it, without those that cannot be. Each gets a random sequence of operations by us, is checked and compared by qemu-img and by
 * us, gets operations by qemu-io, is checked and compared by us, and so on. Snapshots are compared at the end, by both.
 *
 * Arguments: [STRIDE [SEED]]: every STRIDE-th combination (97; 1: all).
 */
#include "block/image_ops.h"
#include "tests/block/qcow2_rig.h"

enum { MAX = 12 << 20, KEPT = 2, OPERATIONS = 14, ROUNDS = 2 };

struct combination {
    unsigned cluster;
    bool old, lazy, extended, zstd, by_qemu, snapshots;
    unsigned refcount_bits;
    const char *preallocation, *backing; /* NULL: off, none */
    unsigned base;                       /* bytes of the backing file */
};

struct disk { uint8_t *data; uint64_t size; };
struct kept { struct disk disk; char name[32]; };

static unsigned stride = 151, seed = 1;

static uint64_t chance(struct rig *r, uint64_t n) { return dp_random_next(&r->random) % n; }

static void describe(const struct combination *c, char *text, size_t size)
{
    snprintf(text, size, "cluster_size=%u,compat=%s%s%s%s%s", c->cluster, c->old ? "0.10" : "1.1", c->lazy ? ",lazy_refcounts=on" : "",
             c->extended ? ",extended_l2=on" : "", c->zstd ? ",compression_type=zstd" : "", c->preallocation ? ",preallocation=" : "");
    size_t n = strlen(text);
    snprintf(text + n, size - n, "%s%s", c->preallocation ? c->preallocation : "", c->old ? "" : ",refcount_bits=");
    n = strlen(text);
    if (!c->old)
        snprintf(text + n, size - n, "%u", c->refcount_bits);
}

static struct dp_image *open_it(const struct rig *r, const char *name, const char *format, bool readonly, const char *snapshot)
{
    struct dp_image *i;
    struct dp_error e = {0};
    struct dp_image_options o = {.name = in(r, name), .format = format, .readonly = readonly, .snapshot = snapshot};
    assert_ok(dp_image_open(&o, &i, &e), e);
    return i;
}

static void report(void *opaque, const char *line) { print_message("%s\n", line); }

static void same(struct dp_image *i, const struct disk *d, const char *who)
{
    static uint8_t got[MAX];
    assert_int_equal(i->size, d->size);
    assert_int_equal(dp_image_pread(i, got, d->size, 0), 0);
    for (uint64_t n = 0; n < d->size; n++)
        if (got[n] != d->data[n])
            fail_msg("%s: byte 0x%llx is %02x, not %02x", who, (unsigned long long)n, got[n], d->data[n]);
}

/* By our check and compare. */
static void ours(struct rig *r, const struct disk *now, const char *who)
{
    struct dp_error e = {0};
    struct dp_image_check c = {.report = report};
    struct dp_image *i = open_it(r, "image", "qcow2", true, NULL), *model = open_it(r, "model", "raw", true, NULL);
    enum dp_image_difference d;
    uint64_t at;
    assert_ok(i->format->check(i, &c, &e), e);
    if (c.corruptions || c.leaks)
        fail_msg("after %s: %llu corruptions, %llu leaks", who, (unsigned long long)c.corruptions, (unsigned long long)c.leaks);
    assert_ok(dp_image_compare(i, model, false, NULL, &d, &at, &e), e);
    if (d != DP_IMAGE_SAME)
        fail_msg("after %s: differs at 0x%llx", who, (unsigned long long)at);
    same(i, now, who);
    dp_image_close(i);
    dp_image_close(model);
}

static void verify(struct rig *r, const struct disk *now, const char *who)
{
    write_file(r, "model", now->data, now->size);
    ours(r, now, who);
    must(r, "qemu-img check -f qcow2 image && qemu-img compare -f qcow2 -F raw image model");
}

/* ---- operations by us ---- */

static void keep_state(struct kept *k, const struct disk *now)
{
    if (!k->disk.data)
        k->disk.data = malloc(MAX);
    memcpy(k->disk.data, now->data, MAX);
    k->disk.size = now->size;
}

static void snapshots(struct rig *r, struct dp_image *i, struct disk *now, struct kept *kept, unsigned count, unsigned step)
{
    struct dp_error e = {0};
    struct kept *k = &kept[chance(r, count)];
    if (!*k->name) {
        struct dp_image_snapshot about = {.date_seconds = 1700000000 + step};
        snprintf(about.name, sizeof about.name, "state %u", step);
        keep_state(k, now);
        int rc = i->format->snapshot_create(i, &about, &e);
        if (rc == -EOVERFLOW) /* packed clusters and small refcounts */
            return;
        assert_ok(rc, e);
        strcpy(k->name, about.name);
    } else if (chance(r, 2)) {
        int rc = i->format->snapshot_apply(i, k->name, &e);
        if (rc == -EOVERFLOW)
            return;
        assert_ok(rc, e);
        memcpy(now->data, k->disk.data, MAX);
        now->size = k->disk.size;
    } else {
        assert_ok(i->format->snapshot_delete(i, k->name, &e), e);
        *k->name = 0;
    }
}

static void resize(struct rig *r, struct dp_image *i, struct disk *now, const struct kept *kept)
{
    struct dp_error e = {0};
    uint64_t size = (1 + chance(r, MAX / 512)) * 512;
    if (size < now->size && (*kept[0].name || *kept[1].name))
        size = MAX;
    assert_ok(i->format->resize(i, size, &e), e);
    if (size < now->size)
        memset(now->data + size, 0, now->size - size);
    now->size = size;
}

static void operate(struct rig *r, const struct combination *c, struct disk *now, struct kept *kept, unsigned round)
{
    static uint8_t data[MAX];
    struct dp_image *i = open_it(r, "image", "qcow2", false, NULL);
    unsigned states = !c->snapshots ? 0 : c->refcount_bits == 2 ? 1 : KEPT;
    for (unsigned step = 0; step < OPERATIONS; step++) {
        uint64_t at = chance(r, now->size / 512) * 512, size = 512 * (1 + chance(r, 400));
        unsigned v = chance(r, 16);
        if (v & 1)
            at = DP_ALIGN_DOWN(at, (uint64_t)c->cluster), size = c->cluster * (1 + chance(r, 3));
        if (v < 2)
            at = DP_ALIGN_DOWN(at, (uint64_t)c->cluster), size = c->cluster;
        size = DP_MIN(size, now->size - at);
        fill(&r->random, data, size);
        struct iovec w = {data, size};
        switch (v) {
        case 0: case 1:
            assert_int_equal(i->format->write_packed(i, &(struct dp_cursor){&w, 1, 0}, at, size), 0);
            memcpy(now->data + at, data, size);
            break;
        case 2: case 3:
            assert_int_equal(dp_image_zero(i, at, size, chance(r, 2) ? DP_ZERO_UNMAP : 0), 0);
            memset(now->data + at, 0, size);
            break;
        case 4: case 5:
            assert_int_equal(dp_image_zero(i, at, size, DP_ZERO_UNMAP | DP_ZERO_DISCARD), 0);
            assert_int_equal(dp_image_pread(i, data, size, at), 0);
            for (uint64_t n = 0; n < size; n++)
                if (data[n] && data[n] != now->data[at + n])
                    fail_msg("discard: byte 0x%llx is %02x", (unsigned long long)(at + n), data[n]);
            memcpy(now->data + at, data, size);
            break;
        case 6:
            resize(r, i, now, kept);
            break;
        case 7: case 8:
            if (states)
                snapshots(r, i, now, kept, states, round * 100 + step);
            break;
        case 9:
            assert_int_equal(dp_image_flush(i), 0);
            break;
        default:
            assert_int_equal(dp_image_pwrite(i, data, size, at), 0);
            memcpy(now->data + at, data, size);
        }
    }
    dp_image_close(i);
}

/* ---- operations by qemu-io ---- */

/* fresh: nothing is there yet, so compressed clusters may be written. */
static void operate_qemu(struct rig *r, const struct combination *c, struct disk *now, bool fresh)
{
    char text[1000] = "";
    for (unsigned step = 0; step < 8; step++) {
        uint64_t at = chance(r, now->size / 512) * 512, size = 512 * (1 + chance(r, 200));
        unsigned v = fresh && step < 2 ? 9 : chance(r, 8), byte = 1 + chance(r, 250);
        if (v == 9)
            at = step * c->cluster;
        if (v == 9 || v == 1)
            at = DP_ALIGN_DOWN(at, (uint64_t)c->cluster), size = c->cluster;
        if (at + size > now->size)
            continue;
        const char *what = v == 9 ? "write -q -c" : v == 0 ? "write -q -z" : v == 1 ? "write -q -z -u" : "write -q";
        size_t n = strlen(text);
        if (v < 2)
            snprintf(text + n, sizeof text - n, " -c '%s %llu %llu'", what, (unsigned long long)at, (unsigned long long)size);
        else
            snprintf(text + n, sizeof text - n, " -c '%s -P %u %llu %llu'", what, byte, (unsigned long long)at, (unsigned long long)size);
        memset(now->data + at, v < 2 ? 0 : byte, size);
    }
    if (*text)
        must(r, "qemu-io -d unmap -f qcow2%s image >out 2>&1 && [ ! -s out ] || { cat out; false; }", text);
}

static void snapshot_qemu(struct rig *r, const struct combination *c, const struct disk *now, struct kept *kept)
{
    if (!c->snapshots || *kept[0].name || c->refcount_bits < 4)
        return;
    must(r, "qemu-img snapshot -c 'of qemu' image");
    keep_state(&kept[0], now);
    strcpy(kept[0].name, "of qemu");
}

/* ---- ---- */

static void create(struct rig *r, const struct combination *c, struct disk *now)
{
    char text[160], *rest;
    const char *option[9] = {0};
    struct dp_error e = {0};
    unsigned n = 0;
    describe(c, text, sizeof text);
    memset(now->data, 0, MAX);
    now->size = c->cluster < 64 << 10 ? (1 + chance(r, 4096)) * 512 : (4 << 20) + 512 * chance(r, 8192);
    must(r, "rm -f image base");
    if (c->backing) {
        uint8_t *data = malloc(c->base);
        fill(&r->random, data, c->base);
        write_file(r, "plain", data, c->base);
        must(r, "qemu-img convert -f raw -O %s plain base", c->backing);
        memcpy(now->data, data, DP_MIN((uint64_t)c->base, now->size));
        free(data);
    }
    if (c->by_qemu) {
        must(r, "qemu-img create -q -f qcow2 -o %s %s %s image %llu", text, c->backing ? "-b base -F" : "", c->backing ? c->backing : "",
             (unsigned long long)now->size);
        return;
    }
    for (char *p = strtok_r(text, ",", &rest); p; p = strtok_r(NULL, ",", &rest))
        option[n++] = p;
    struct dp_image_create how = {.name = in(r, "image"), .format = "qcow2", .size = now->size, .option = option,
        .backing = c->backing ? "base" : NULL, .backing_format = c->backing};
    assert_ok(dp_image_create(&how, &e), e);
}

static void compare_snapshots(struct rig *r, struct kept *kept, const struct disk *now)
{
    for (unsigned k = 0; k < KEPT; k++) {
        if (*kept[k].name) {
            struct dp_image *i = open_it(r, "image", "qcow2", true, kept[k].name);
            same(i, &kept[k].disk, kept[k].name);
            dp_image_close(i);
            uint64_t both = DP_MIN(kept[k].disk.size, now->size); /* qemu-img takes the disk's size now */
            write_file(r, "model", kept[k].disk.data, both);
            must(r, "qemu-img convert -l 'snapshot.name=%s' -O raw image raw && truncate -s %llu raw && cmp raw model", kept[k].name,
                 (unsigned long long)both);
        }
        free(kept[k].disk.data);
    }
}

static void try(struct rig *r, const struct combination *c)
{
    struct disk now = {.data = malloc(MAX)};
    struct kept kept[KEPT] = {0};
    create(r, c, &now);
    verify(r, &now, "making it");
    if (c->by_qemu) {
        operate_qemu(r, c, &now, !c->preallocation && !c->backing);
        snapshot_qemu(r, c, &now, kept);
        write_file(r, "model", now.data, now.size);
        ours(r, &now, "qemu-io");
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        operate(r, c, &now, kept, round);
        verify(r, &now, "our operations");
        operate_qemu(r, c, &now, false);
        write_file(r, "model", now.data, now.size);
        ours(r, &now, "qemu-io");
    }
    operate(r, c, &now, kept, ROUNDS);
    verify(r, &now, "our operations");
    compare_snapshots(r, kept, &now);
    free(now.data);
}

/* The n-th combination; false: there are fewer. Digits of n, of mixed bases. */
static bool combination(unsigned n, struct combination *c)
{
    static const unsigned clusters[] = {512, 4 << 10, 16 << 10, 64 << 10, 2 << 20}, bits[] = {16, 1, 2, 8, 64};
    static const char *const places[][2] = {{NULL, NULL}, {"metadata", NULL}, {"falloc", NULL}, {"full", NULL}, {NULL, "raw"},
        {NULL, "qcow2"}};
    unsigned place, base = n;
#define DIGIT(count) (base /= (count), before % (count))
    unsigned before = n;
    *c = (struct combination){0};
    c->by_qemu = DIGIT(2), before = base;
    c->snapshots = DIGIT(2), before = base;
    place = DIGIT(DP_ARRAY_LEN(places)), before = base;
    c->cluster = clusters[DIGIT(DP_ARRAY_LEN(clusters))], before = base;
    c->refcount_bits = bits[DIGIT(DP_ARRAY_LEN(bits))], before = base;
    c->extended = DIGIT(2), before = base;
    c->zstd = DIGIT(2), before = base;
    c->lazy = DIGIT(2), before = base;
    c->old = DIGIT(2);
#undef DIGIT
    c->preallocation = places[place][0];
    c->backing = places[place][1];
    c->base = c->backing ? 512 << (n * 7 % 14) : 0;
    return base == 0;
}

static bool possible(const struct combination *c)
{
    if (c->old && (c->lazy || c->extended || c->zstd || c->refcount_bits != 16))
        return false;
    return !(c->extended && c->cluster < 16 << 10) && !(c->snapshots && c->refcount_bits == 1);
}

static void matrix(void **state)
{
    struct rig *r = *state;
    struct combination c;
    unsigned all = 0, tried = 0;
    char text[160];
    need_qemu_img(r);
    for (unsigned n = 0; combination(n, &c); n++) {
        if (!possible(&c) || all++ % stride)
            continue;
        describe(&c, text, sizeof text);
        print_message("%u: %s%s%s%s%s\n", n, text, c.backing ? ", over " : "", c.backing ? c.backing : "", c.snapshots ? ", snapshots" : "",
                      c.by_qemu ? ", made by qemu-img" : "");
        dp_random_seed(&r->random, seed * 100000 + n);
        try(r, &c);
        tried++;
    }
    print_message("%u of %u combinations\n", tried, all);
}

int main(int argc, char **argv)
{
    stride = argc > 1 ? (unsigned)atoi(argv[1]) : stride;
    seed = argc > 2 ? (unsigned)atoi(argv[2]) : seed;
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(matrix, rig_setup, rig_teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
