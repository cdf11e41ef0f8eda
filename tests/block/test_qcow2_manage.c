/* test_qcow2_manage.c - making qcow2 images, their size, snapshots, checks and repairs, by the image interface and side by side with
 * qemu-img: random operations against plain models of the disk and of each snapshot, after which qemu-img and doppel must find the image in
 * order.
 *
 * Arguments: [SEEDS]: how many sequences of each layout (1).
 */
#include "block/image.h"
#include "tests/block/qcow2_rig.h"

enum { MAX = 12 << 20, STEPS = 60, KEPT = 4 };

struct state {
    uint8_t *disk;
    uint64_t size;
    char name[32];
};

static unsigned combinations, seeds = 1;

static const char *in_folder(const struct rig *r, const char *name)
{
    static char path[160];
    snprintf(path, sizeof path, "%s/%s", r->folder, name);
    return path;
}

static struct dp_image *open_it(const struct rig *r, bool readonly, const char *snapshot)
{
    struct dp_image *i;
    struct dp_error e = {0};
    char path[160];
    strcpy(path, in_folder(r, "image"));
    assert_ok(
        dp_image_open(&(struct dp_image_options){.name = path, .format = "qcow2", .readonly = readonly, .snapshot = snapshot}, &i, &e), e);
    return i;
}

static void report(void *opaque, const char *line) { print_message("%s\n", line); }

/* By doppel; repair: 0 none, 1 leaks, 2 all. */
static struct dp_image_check check(struct dp_image *i, unsigned repair, bool quiet)
{
    struct dp_image_check c = {.repair_leaks = repair > 0, .repair_all = repair > 1, .report = quiet ? NULL : report};
    struct dp_error e = {0};
    assert_ok(i->format->check(i, &c, &e), e);
    return c;
}

static void must_be_in_order(struct dp_image *i)
{
    struct dp_image_check c = check(i, 0, false);
    assert_int_equal(c.corruptions, 0);
    assert_int_equal(c.leaks, 0);
}

static void compare(struct dp_image *i, const struct state *s)
{
    uint8_t *bytes = malloc(MAX);
    assert_int_equal(i->size, s->size);
    assert_int_equal(dp_image_pread(i, bytes, s->size, 0), 0);
    for (uint64_t n = 0; n < s->size; n++)
        if (bytes[n] != s->disk[n])
            fail_msg("byte 0x%llx is %02x, not %02x", (unsigned long long)n, bytes[n], s->disk[n]);
    free(bytes);
}

static void write_some(struct rig *r, struct dp_image *i, struct state *now)
{
    uint64_t v = dp_random_next(&r->random), at = (v >> 8) % now->size & ~511ull,
             size = DP_MIN(now->size - at, 512 * (1 + (v >> 40) % 300));
    if (v & 1) {
        at &= ~0xffffull;
        size = DP_MIN(now->size - at, (1 + (v >> 40) % 6) << 16);
    }
    switch (v >> 1 & 3) {
    case 0:
        assert_int_equal(dp_image_zero(i, at, size, v & 8 ? DP_ZERO_UNMAP : 0), 0);
        memset(now->disk + at, 0, size);
        break;
    default:
        for (uint64_t n = 0; n < size; n++)
            now->disk[at + n] = (uint8_t)(v >> 16) + (uint8_t)(n >> 9);
        assert_int_equal(dp_image_pwrite(i, now->disk + at, size, at), 0);
    }
}

static void keep(struct state *to, const struct state *from, const char *name)
{
    if (!to->disk)
        to->disk = malloc(MAX);
    memcpy(to->disk, from->disk, MAX);
    to->size = from->size;
    if (name)
        strcpy(to->name, name);
}

static void snapshots(struct rig *r, struct dp_image *i, struct state *now, struct state *kept, unsigned count, unsigned step)
{
    struct dp_error e = {0};
    uint64_t v = dp_random_next(&r->random);
    struct state *s = &kept[(v >> 8) % count];
    if (!*s->name) {
        struct dp_image_snapshot about = {.date_seconds = 1700000000 + step};
        snprintf(about.name, sizeof about.name, "state %u", step);
        assert_ok(i->format->snapshot_create(i, &about, &e), e);
        keep(s, now, about.name);
    } else if (v & 16) {
        assert_ok(i->format->snapshot_apply(i, s->name, &e), e);
        keep(now, s, NULL);
    } else {
        assert_ok(i->format->snapshot_delete(i, s->name, &e), e);
        *s->name = 0;
    }
}

static void resize(struct rig *r, struct dp_image *i, struct state *now, const struct state *kept)
{
    struct dp_error e = {0};
    uint64_t size = (1 + dp_random_next(&r->random) % (MAX / 512)) * 512;
    bool any = false;
    for (unsigned n = 0; n < KEPT; n++)
        any |= *kept[n].name != 0;
    int rc = i->format->resize(i, size, &e);
    if (size < now->size && any) {
        assert_int_equal(rc, -ENOTSUP);
        return;
    }
    assert_ok(rc, e);
    if (size < now->size)
        memset(now->disk + size, 0, now->size - size);
    now->size = size;
}

static const char *const layouts[] = {"cluster_size=64k",
                                      "cluster_size=512",
                                      "cluster_size=4k,refcount_bits=8",
                                      "cluster_size=2M",
                                      "compat=0.10",
                                      "extended_l2=on",
                                      "extended_l2=on,cluster_size=16k",
                                      "refcount_bits=64,cluster_size=1k",
                                      "refcount_bits=4",
                                      "refcount_bits=32,lazy_refcounts=on",
                                      "compression_type=zstd",
                                      "preallocation=metadata,cluster_size=4k",
                                      "preallocation=falloc",
                                      "preallocation=full,cluster_size=512",
                                      "refcount_bits=2,cluster_size=8k"};

static void create(struct rig *r, const char *layout, uint64_t size)
{
    char copy[128], *rest;
    const char *option[8] = {0};
    struct dp_error e = {0};
    unsigned n = 0;
    strcpy(copy, layout);
    for (char *p = strtok_r(copy, ",", &rest); p; p = strtok_r(NULL, ",", &rest))
        option[n++] = p;
    assert_ok(
        dp_image_create(&(struct dp_image_create){.name = in_folder(r, "image"), .format = "qcow2", .size = size, .option = option}, &e),
        e);
}

static void sequences(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    for (unsigned n = 0; n < DP_ARRAY_LEN(layouts) * seeds; n++) {
        const char *layout = layouts[n % DP_ARRAY_LEN(layouts)];
        struct state now = {.disk = calloc(1, MAX), .size = 3 << 20}, kept[KEPT] = {0};
        bool few = strstr(layout, "refcount_bits=2,"); /* counts to 3 */
        print_message("%s\n", layout);
        create(r, layout, now.size);
        must(r, "qemu-img check image");
        struct dp_image *i = open_it(r, false, NULL);
        for (unsigned step = 0; step < STEPS; step++) {
            uint64_t v = dp_random_next(&r->random) % 16;
            if (v == 0) {
                snapshots(r, i, &now, few ? &kept[0] : kept, few ? 1 : KEPT, step);
            } else if (v == 1) {
                resize(r, i, &now, kept);
            } else if (v == 2) {
                assert_int_equal(dp_image_flush(i), 0);
                assert_int_equal(dp_image_flush(i), 0);
                must_be_in_order(i);
            } else if (v == 3) {
                dp_image_close(i);
                must(r, "qemu-img check image");
                i = open_it(r, v & 1, NULL);
                compare(i, &now);
                dp_image_close(i);
                i = open_it(r, false, NULL);
            } else {
                write_some(r, i, &now);
            }
        }
        compare(i, &now);
        dp_image_close(i);
        must(r, "qemu-img check image");
        combinations++;
        for (unsigned k = 0; k < KEPT; k++) {
            if (*kept[k].name) {
                i = open_it(r, true, kept[k].name);
                compare(i, &kept[k]);
                dp_image_close(i);
                uint64_t both = DP_MIN(kept[k].size, now.size); /* qemu-img takes the disk's size now */
                must(r, "qemu-img convert -l 'snapshot.name=%s' -O raw image raw && truncate -s %llu raw", kept[k].name,
                     (unsigned long long)both);
                int fd = open(in_folder(r, "model"), O_RDWR | O_CREAT | O_TRUNC, 0600);
                assert_int_equal(write(fd, kept[k].disk, both), (ssize_t)both);
                close(fd);
                must(r, "cmp raw model");
            }
            free(kept[k].disk);
        }
        free(now.disk);
    }
    print_message("%u sequences\n", combinations);
}

/* What qemu-img says of images that we made, we say; and of its. */
static void damage(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    static const struct {
        const char *layout, *how;
        bool leak;
    } cases[] = {
        {"cluster_size=64k", "printf '\\000\\003' | dd of=image bs=1 seek=131072 conv=notrunc", true},  /* the header's refcount is 3 */
        {"cluster_size=64k", "printf '\\000\\000' | dd of=image bs=1 seek=131072 conv=notrunc", false}, /* 0 */
        {"cluster_size=64k", "dd if=/dev/zero of=image bs=1 seek=131072 count=64 conv=notrunc", false}, /* all of them */
        {"cluster_size=64k", "dd if=/dev/zero of=image bs=1 seek=65536 count=8 conv=notrunc", false},   /* the block is not in the table */
        {"cluster_size=64k", "printf '\\377\\377\\377' | dd of=image bs=1 seek=65536 conv=notrunc", false}, /* or nowhere */
        {"cluster_size=64k", "printf '\\002' | dd of=image bs=1 seek=79 conv=notrunc", false},              /* marked as damaged */
        {"cluster_size=4k",
         "printf '\\200' | dd of=image bs=1 seek=$((3 * 4096)) conv=notrunc; dd if=/dev/zero of=image bs=1 seek=8200 count=9 "
         "conv=notrunc",
         false},
    };
    for (unsigned n = 0; n < DP_ARRAY_LEN(cases); n++) {
        struct state now = {.disk = calloc(1, MAX), .size = 2 << 20};
        print_message("%s\n", cases[n].how);
        create(r, cases[n].layout, now.size);
        struct dp_image *i = open_it(r, false, NULL);
        for (unsigned k = 0; k < 20; k++)
            write_some(r, i, &now);
        dp_image_close(i);
        must(r, "%s", cases[n].how);
        int before = command(r, "qemu-img check image");
        i = open_it(r, true, NULL);
        struct dp_image_check c = check(i, 0, true);
        dp_image_close(i);
        if (before) { /* a mark alone is no finding */
            assert_true(cases[n].leak ? before == 3 : before == 2 || before == 1 /* could not be checked */);
            assert_int_equal(c.corruptions == 0, cases[n].leak);
        }
        struct dp_error e = {0};
        assert_ok(dp_image_open(&(struct dp_image_options){.name = in_folder(r, "image"), .format = "qcow2", .repair = true}, &i, &e), e);
        c = check(i, 2, true);
        assert_true(!c.corruptions && !c.leaks);
        dp_image_close(i);
        must(r, "qemu-img check image");
        i = open_it(r, false, NULL);
        must_be_in_order(i);
        compare(i, &now);
        write_some(r, i, &now);
        dp_image_close(i);
        must(r, "qemu-img check image");
        free(now.disk);
    }
}

/* Repairing changes nothing that a guest reads, so persistent bitmaps stay valid. */
static void bitmaps_stay(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    for (unsigned repair = 1; repair <= 2; repair++) {
        must(r, "qemu-img create -f qcow2 image 2M && qemu-img bitmap --add image kept && qemu-io -f qcow2 -c 'write 0 64k' image");
        must(r, "truncate -s $((61 * 65536)) image; printf '\\000\\001' | dd of=image bs=1 seek=$((131072 + 120)) conv=notrunc");
        assert_int_equal(command(r, "qemu-img check image"), 3);
        if (repair == 2) /* and the header's refcount is 0 */
            must(r, "printf '\\000\\000' | dd of=image bs=1 seek=131072 conv=notrunc");
        struct dp_image *i = open_it(r, false, NULL);
        struct dp_image_check c = check(i, repair, true);
        dp_image_close(i);
        assert_true(!c.corruptions && !c.leaks);
        must(r, "qemu-img check image && qemu-img info image | grep -q 'name: kept' && ! qemu-img info image | grep -q in-use");
    }
}

/* Four references to a cluster cannot be counted by two bits: that stays an error, whatever is asked for. */
static void uncountable(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    must(r, "qemu-img create -f qcow2 -o refcount_bits=2 image 2M && qemu-io -f qcow2 -c 'write -P 5 0 64k' image");
    must(r, "dd if=image of=entry bs=1 skip=$((4 * 65536)) count=8 && for n in 1 2 3; do "
            "dd if=entry of=image bs=1 seek=$((4 * 65536 + 8 * n)) conv=notrunc || exit; done");
    for (unsigned repair = 0; repair <= 2; repair++) {
        struct dp_image *i = open_it(r, false, NULL);
        assert_true(check(i, repair, true).corruptions > 0);
        dp_image_close(i);
        must(r, "[ $(qemu-io -r -f qcow2 -c 'read -P 5 0 256k' image | grep -c 'verification failed') = 0 ]");
    }
}

static void refused(void **state)
{
    struct rig *r = *state;
    static const struct {
        const char *option;
        uint64_t size;
    } bad[] = {{"cluster_size=3k", 1 << 20},      {"cluster_size=256", 1 << 20},
               {"cluster_size=4M", 1 << 20},      {"refcount_bits=3", 1 << 20},
               {"refcount_bits=128", 1 << 20},    {"compat=2.0", 1 << 20},
               {"nonsense=1", 1 << 20},           {"lazy_refcounts", 1 << 20},
               {"lazy_refcounts=maybe", 1 << 20}, {"compression_type=lzma", 1 << 20},
               {"preallocation=some", 1 << 20},   {"cluster_size=64k", 0},
               {"cluster_size=512", 1ull << 50},  {"cluster_size=64k", UINT64_MAX}};
    for (unsigned n = 0; n < DP_ARRAY_LEN(bad); n++) {
        struct dp_error e = {0};
        const char *option[] = {bad[n].option, NULL};
        int rc = dp_image_create(
            &(struct dp_image_create){.name = in_folder(r, "image"), .format = "qcow2", .size = bad[n].size, .option = option}, &e);
        if (!rc || !*e.text || strchr(e.text, '\n'))
            fail_msg("%s: %d %s", bad[n].option, rc, e.text);
    }
}

/* Names of backing files change; the rest of the header stays. */
static void backing(void **state)
{
    struct rig *r = *state;
    struct dp_error e = {0};
    struct dp_image *i;
    need_qemu_img(r);
    must(r, "truncate -s 4M a.raw; cp a.raw other-name.raw");
    assert_ok(dp_image_create(
                  &(struct dp_image_create){
                      .name = in_folder(r, "image"), .format = "qcow2", .size = 4 << 20, .backing = "a.raw", .backing_format = "raw"},
                  &e),
              e);
    must(r, "qemu-img info image | grep -q 'backing file: a.raw'");
    assert_ok(dp_image_open(&(struct dp_image_options){.name = in_folder(r, "image"), .format = "qcow2", .alone = true}, &i, &e), e);
    assert_int_equal(dp_image_pwrite(i, "x", 1, 0), -ENOTSUP); /* who does not see what is below does not write */
    assert_ok(i->format->set_backing(i, "other-name.raw", "raw", &e), e);
    dp_image_close(i);
    must(r, "qemu-img info image | grep -q 'backing file: other-name.raw' && qemu-img check image");
    assert_ok(dp_image_open(&(struct dp_image_options){.name = in_folder(r, "image"), .format = "qcow2", .alone = true}, &i, &e), e);
    assert_ok(i->format->set_backing(i, NULL, NULL, &e), e);
    dp_image_close(i);
    must(r, "! qemu-img info image | grep -q backing && qemu-img check image");
}

int main(int argc, char **argv)
{
    seeds = argc > 1 ? (unsigned)atoi(argv[1]) : 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sequences, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(damage, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(bitmaps_stay, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(uncountable, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(refused, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(backing, rig_setup, rig_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
