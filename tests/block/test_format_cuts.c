/* test_format_cuts.c - thousands of power cuts in images of other programs' formats: vdi, vpc, vmdk, vhdx.
 *
 * Model: cuts_rig.h. What a cut left must open, read-only and for writing; hold in each sector one of the values that it was given since
 * the last flush; be free of damage in our check (vmdk: but for its second tables, vpc that grows: its two footers: they are to be mended),
 * be mended so that nothing is left to mend, hold the same then, and be used on. Sometimes qemu-img checks and reads it, too. A repair that
 * was cut off is begun again.
 * Blocks are made small where a format allows that, so that there are many; qemu-img then has no say.
 *
 * Arguments: [POINTS [SEED]]: at least so many cuts (600).
 */
enum { DISK_MAX = 4 << 20 };
#include "tests/block/cuts_rig.h"

struct layout {
    const char *format, *options;
    bool small; /* blocks are made so */
    bool fixed; /* all blocks are there at once; or it cannot grow, nor be mended by moving */
    bool child; /* over a parent of the same format */
    bool ours;  /* qemu-img does not know such */
};
static const struct layout layouts[] = {
    {"vdi", "", .small = true},
    {"vpc", "force_size=on", .small = true},
    {"vmdk", ""},
    {"vhdx", "block_size=1M"},
    {"vdi", ""},
    {"vpc", "force_size=on"},
    {"vmdk", "zeroed_grain=on"},
    {"vhdx", "block_size=1M,block_state_zero=off"},
    {"vdi", "static=on", .fixed = true},
    {"vpc", "force_size=on", .fixed = true, .child = true, .ours = true},
    {"vmdk", "", .fixed = true, .child = true},
    {"vhdx", "block_size=1M", .fixed = true, .child = true, .ours = true},
    {"vhdx", "block_size=1M,subformat=fixed", .fixed = true},
};
enum { SMALL = 32 << 10 };

static const struct layout *layout;
static struct dp_image *image;
static uint64_t mended, by_qemu;
static bool repairing;

/* The footer and its copy cannot change at once. */
static uint64_t damaged(const struct dp_image_check *c)
{
    bool growing = !strcmp(layout->format, "vpc") && !strcmp(doing, "growing") && c->corruptions == 1;
    return strcmp(layout->format, "vmdk") && !growing ? c->corruptions : 0;
}

/* Goes on being used: grows where that is possible, and is written. */
static void use(struct dp_image *i)
{
    static uint8_t some[64 << 10], got[MAX];
    struct dp_error e = {0};
    uint64_t old = i->size, grown = old + (64 << 10) * chance(8);
    if (i->format->resize && !layout->fixed && grown > old && grown <= MAX) {
        assert_ok(i->format->resize(i, grown, &e), e);
        assert_true(i->size >= grown);
        assert_int_equal(dp_image_pread(i, got, grown - old, old), 0);
        if (!dp_is_zero(got, grown - old))
            fail_msg("%s: what is new is not zeros", doing);
    }
    fill(&rig->random, some, sizeof some);
    for (unsigned n = 0; n < 4; n++) {
        uint64_t at = chance(i->size / SECTOR) * SECTOR, size = (1 + chance(64)) * SECTOR;
        size = DP_MIN(size, i->size - at);
        assert_int_equal(dp_image_pwrite(i, some, size, at), 0);
        assert_int_equal(dp_image_pread(i, got, size, at), 0);
        assert_memory_equal(some, got, size);
    }
    assert_int_equal(dp_image_flush(i), 0);
    struct dp_image_check c = check(i, false, true);
    assert_true(!c.corruptions && !c.leaks);
}

static void ask_qemu(void)
{
    by_qemu++;
    if (strcmp(layout->format, "vpc"))
        must(rig, "qemu-img check -f %s sub/image", layout->format);
    struct dp_image *i = open_at("sub/image", true, false, false, NULL, layout->format);
    uint8_t *got = malloc(i->size);
    assert_int_equal(dp_image_pread(i, got, i->size, 0), 0);
    write_file(rig, "sub/raw", got, i->size);
    dp_image_close(i);
    free(got);
    must(rig, "qemu-img compare -f raw -F %s sub/raw sub/image", layout->format);
}

static void look(void)
{
    struct dp_image_check c;
    struct dp_image *i;
    write_file(rig, "sub/image", files[0].cut, files[0].cut_size);
    points++;
    if (!repairing) {
        i = open_at("sub/image", true, false, false, NULL, layout->format);
        check_contents(i);
        c = check(i, false, false);
        if (damaged(&c)) {
            check(i, false, true);
            fail_msg("%s %s, %s: %llu corruptions", layout->format, layout->options, doing, (unsigned long long)c.corruptions);
        }
        dp_image_close(i);
    }
    i = open_at("sub/image", false, true, false, NULL, layout->format);
    c = check(i, true, false);
    mended += c.corruptions_fixed || c.leaks_fixed;
    dp_image_close(i);
    i = open_at("sub/image", false, false, false, NULL, layout->format);
    c = check(i, false, true);
    if (c.corruptions || c.leaks)
        fail_msg("%s %s, %s: mended, but %llu corruptions, %llu leaks are left", layout->format, layout->options, doing,
                 (unsigned long long)c.corruptions, (unsigned long long)c.leaks);
    check_contents(i);
    bool qemu = !layout->small && !layout->ours && !chance(20);
    if (!qemu && !chance(3))
        use(i);
    dp_image_close(i);
    if (qemu)
        ask_qemu();
}

/* ---- the workload ---- */

static void open_again(void) { image = open_at("image", false, false, false, NULL, layout->format); }

static void flush(void)
{
    doing = "flush";
    assert_int_equal(dp_image_flush(image), 0);
    flushed();
}

static void close_image(void)
{
    flush();
    doing = "closing";
    dp_image_close(image);
}

static void write_some(void)
{
    static uint8_t data[MAX];
    uint64_t at = chance(now.size / SECTOR) * SECTOR, size = chance(3) ? (1 + chance(24)) * SECTOR : (uint64_t)SECTOR << chance(10);
    doing = "write";
    size = DP_MIN(size, now.size - at);
    fill(&rig->random, data, size);
    for (uint64_t n = 0; n < size; n += SECTOR)
        allow((at + n) / SECTOR, hash(data + n));
    assert_int_equal(dp_image_pwrite(image, data, size, at), 0);
    memcpy(now.data + at, data, size);
}

static void zero_some(bool discard)
{
    static const uint8_t zeros[SECTOR];
    static uint8_t got[MAX];
    uint64_t at = chance(now.size / SECTOR) * SECTOR, size = (uint64_t)SECTOR << chance(12);
    size = DP_MIN(size, now.size - at);
    doing = discard ? "discard" : "zeroes";
    for (uint64_t n = 0; n < size; n += SECTOR)
        allow((at + n) / SECTOR, hash(zeros));
    assert_int_equal(dp_image_zero(image, at, size, discard ? DP_ZERO_UNMAP | DP_ZERO_DISCARD : chance(2) ? DP_ZERO_UNMAP : 0), 0);
    assert_int_equal(dp_image_pread(image, got, size, at), 0);
    memcpy(now.data + at, got, size);
}

static void resize(void)
{
    struct dp_error e = {0};
    uint64_t size = now.size + (1 + chance(512)) * SECTOR;
    if (!image->format->resize || layout->fixed || size > MAX)
        return;
    doing = "growing";
    sizes[1] = size;
    assert_ok(image->format->resize(image, size, &e), e);
    now.size = sizes[0] = image->size;
}

static uint64_t be32(const uint8_t *p) { return __builtin_bswap32(dp_ld32(p)); }

/* Of the closed file some blocks are lost: nothing points to them any more, or room follows that nobody uses. */
static void damage(void)
{
    uint8_t *f = files[0].stable;
    unsigned times = 1 + chance(3);
    static const uint8_t zeros[SECTOR];
    for (unsigned n = 0; n < times; n++) {
        uint64_t size = !strcmp(layout->format, "vmdk") ? 65536 : layout->small ? SMALL : strcmp(layout->format, "vpc") ? 1 << 20 : 2 << 20;
        uint64_t block = chance((now.size + size - 1) / size);
        if (!strcmp(layout->format, "vdi")) {
            dp_st32(f + 512 + 4 * block, UINT32_MAX);
        } else if (!strcmp(layout->format, "vpc")) {
            dp_st32(f + be32(f + 512 + 20) + 4 * block, UINT32_MAX);
        } else if (!strcmp(layout->format, "vhdx")) {
            dp_st64(f + (3 << 20) + 8 * block, 0);
        } else {
            dp_st32(f + dp_ld32(f + 512 * dp_ld32(f + 56)) * 512 + 4 * block, 0);
            if (chance(2)) /* the second one still has it */
                dp_st32(f + dp_ld32(f + 512 * dp_ld32(f + 48)) * 512 + 4 * block, 0);
        }
        for (uint64_t k = block * size; k < DP_MIN((block + 1) * size, now.size); k += SECTOR) {
            memset(now.data + k, 0, SECTOR);
            allow(k / SECTOR, hash(zeros));
        }
    }
    int fd = open(in(rig, "image"), O_WRONLY);
    assert_int_equal(pwrite(fd, f, files[0].stable_size, 0), (ssize_t)files[0].stable_size);
    close(fd);
}

static void repair(void)
{
    close_image();
    unwatch();
    if (!layout->fixed)
        damage();
    flushed();
    watching = repairing = true;
    doing = "repair";
    image = open_at("image", false, true, false, NULL, layout->format);
    struct dp_image_check c = check(image, true, false);
    dp_image_close(image);
    assert_true(!c.corruptions && !c.leaks);
    repairing = false;
    open_again();
    c = check(image, false, true);
    assert_true(!c.corruptions && !c.leaks);
}

/* 32 KiB instead of 1 or 2 MiB. */
static void make_small(void)
{
    uint8_t h[2048], ones[512];
    int fd = open(in(rig, "image"), O_RDWR);
    assert_int_equal(pread(fd, h, sizeof h, 0), sizeof h);
    memset(ones, 0xff, sizeof ones);
    uint32_t blocks = MAX / SMALL, sum = 0;
    if (!strcmp(layout->format, "vdi")) {
        blocks = (now.size + SMALL - 1) / SMALL;
        dp_st32(h + 0x178, SMALL);
        dp_st32(h + 0x180, blocks);
        assert_int_equal(pwrite(fd, ones, sizeof ones, 512), sizeof ones);
    } else {
        dp_st32(h + 512 + 28, __builtin_bswap32(blocks));
        dp_st32(h + 512 + 32, __builtin_bswap32(SMALL));
        dp_st32(h + 512 + 36, 0);
        for (unsigned n = 512; n < 1536; n++)
            sum += h[n];
        dp_st32(h + 512 + 36, __builtin_bswap32(~sum));
    }
    assert_int_equal(pwrite(fd, h, 1536, 0), 1536);
    if (!strcmp(layout->format, "vdi"))
        assert_int_equal(pwrite(fd, ones, sizeof ones, 512), sizeof ones);
    close(fd);
}

static void create(void)
{
    char copy[128], path[160], *rest;
    const char *option[8] = {0};
    struct dp_error e = {0};
    unsigned n = 0;
    memset(&now, 0, sizeof now);
    now.size = (1 + chance(SECTORS)) * SECTOR;
    strcpy(copy, layout->options);
    for (char *p = strtok_r(copy, ",", &rest); p; p = strtok_r(NULL, ",", &rest))
        option[n++] = p;
    snprintf(path, sizeof path, "%s/image", rig->folder);
    must(rig, "rm -f image base sub/base");
    struct dp_image_create make = {.name = path, .format = layout->format, .size = now.size, .option = option};
    if (layout->child) {
        make.name = in(rig, "base");
        assert_ok(dp_image_create(&make, &e), e);
        image = open_at("base", false, false, false, NULL, layout->format);
        fill(&rig->random, now.data, now.size);
        assert_int_equal(dp_image_pwrite(image, now.data, now.size, 0), 0);
        dp_image_close(image);
        must(rig, "cp base sub/base");
        make.name = path;
        make.backing = "base";
        make.backing_format = layout->format;
    }
    assert_ok(dp_image_create(&make, &e), e);
    if (layout->small)
        make_small();
}

static void workload(void)
{
    create();
    memset(allowed, 0, sizeof allowed);
    flushed();
    watch();
    open_again();
    for (unsigned step = 0; step < 30; step++) {
        unsigned v = step % 10 == 9 ? 15 : chance(24);
        if (v < 12)
            write_some();
        else if (v < 14)
            zero_some(false);
        else if (v < 15)
            zero_some(true);
        else if (v < 18)
            flush();
        else if (v < 19)
            resize();
        else if (v < 22)
            repair();
        else
            close_image(), open_again();
    }
    close_image();
    unwatch();
    flushed();
    image = open_at("image", true, false, false, NULL, layout->format);
    check_contents(image);
    struct dp_image_check c = check(image, false, true);
    assert_true(!c.corruptions && !c.leaks);
    dp_image_close(image);
}

static uint64_t wanted = 600, seed = 1;

static void cuts(void **state)
{
    rig = *state;
    need_qemu_img(rig);
    files[0].used = true;
    files[0].stable = malloc(FILE_MAX);
    files[0].cut = malloc(FILE_MAX);
    must(rig, "mkdir -p sub");
    dp_random_seed(&rig->random, seed);
    for (unsigned n = 0; points < wanted || n < DP_ARRAY_LEN(layouts); n++) {
        uint64_t first = points;
        layout = &layouts[n % DP_ARRAY_LEN(layouts)];
        per_write = wanted > 5000 ? 2 : 1;
        workload();
        print_message("%-5s%-36s %s %llu points\n", layout->format, layout->options, layout->small ? "small" : "",
                      (unsigned long long)(points - first));
    }
    print_message("%llu points (%llu torn): %llu had to be mended, %llu seen by qemu-img\n", (unsigned long long)points,
                  (unsigned long long)torn_points, (unsigned long long)mended, (unsigned long long)by_qemu);
    free(files[0].stable);
    free(files[0].cut);
}

int main(int argc, char **argv)
{
    wanted = argc > 1 ? strtoull(argv[1], NULL, 10) : wanted;
    seed = argc > 2 ? strtoull(argv[2], NULL, 10) : seed;
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(cuts, rig_setup, rig_teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
