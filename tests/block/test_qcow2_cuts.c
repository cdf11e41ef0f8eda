/* test_qcow2_cuts.c - thousands of power cuts: the host stops within each write that a workload makes, and of what was not flushed any part
 * is lost, or torn.
 *
 * Model: all runs in one thread on image.h. The linker leads pwritev, fdatasync, fallocate and ftruncate here (--wrap); what they do to the
 * image and its backing file is done and noted. At each such call some files are made as they may be after a power cut: what was
 * flushed, and of the rest each write, or each sector of it, or none, in chance's choice. Each of them must open, be free of corruptions in
 * our check (sometimes in qemu-img's, too), be mended of its leaks, hold in each sector one of the values that it was given since the
 * last flush, have the size, and every snapshot whole. While a damaged image is being repaired, the repair begun anew must end well.
 *
 * Arguments: [POINTS [SEED]]: at least so many cuts (2500).
 */
#include <json.h>

enum { DISK_MAX = 1 << 20, SNAPSHOTS = 3 };
#include "tests/block/cuts_rig.h"


struct kept { struct disk *disk; char name[32]; enum { NONE, MAYBE, THERE } state; };

static struct disk before;     /* since it was opened (bitmaps were valid then) */
static uint64_t unchanged_end; /* the smallest size since then */
static struct kept kept[SNAPSHOTS];
static bool repairing, bitmaps;
static uint64_t mended, by_qemu;

static void check_snapshots(struct dp_image *i)
{
    static uint8_t got[MAX];
    struct dp_image_snapshot *list;
    struct dp_error e = {0};
    unsigned count, found = 0;
    assert_ok(i->format->snapshot_list(i, &list, &count, &e), e);
    for (unsigned k = 0; k < SNAPSHOTS; k++) {
        bool there = false;
        for (unsigned n = 0; n < count; n++)
            there |= !strcmp(list[n].name, kept[k].name) && kept[k].state != NONE;
        if (!there && kept[k].state == THERE)
            fail_msg("%s: snapshot %s is lost", doing, kept[k].name);
        found += there;
        if (there && !chance(3)) {
            struct dp_image *s = open_at("sub/image", true, false, false, kept[k].name, "qcow2");
            assert_int_equal(s->size, kept[k].disk->size);
            assert_int_equal(dp_image_pread(s, got, s->size, 0), 0);
            if (memcmp(got, kept[k].disk->data, s->size))
                fail_msg("%s: snapshot %s is not what it was", doing, kept[k].name);
            dp_image_close(s);
        }
    }
    if (found != count)
        fail_msg("%s: %u snapshots, %u are known", doing, count, found);
    free(list);
}

/* A bitmap that says it is valid must know of every change. */
static void check_bitmaps(void)
{
    const uint8_t *h = files[0].cut;
    if (!bitmaps || !(h[95] & 1))
        return;
    for (uint64_t at = __builtin_bswap32(dp_ld32(h + 100)), size; dp_ld32(h + at); at += 8 + DP_ALIGN_UP(size, 8)) {
        size = __builtin_bswap32(dp_ld32(h + at + 4));
        uint64_t directory = __builtin_bswap64(dp_ld64(h + at + 24));
        if (__builtin_bswap32(dp_ld32(h + at)) != 0x23852875 || directory + 16 > files[0].cut_size || h[directory + 15] & 1)
            continue;
        struct dp_image *i = open_at("sub/image", true, false, false, NULL, "qcow2");
        static uint8_t got[MAX];
        assert_int_equal(dp_image_pread(i, got, i->size, 0), 0);
        uint64_t most = DP_MIN(i->size, unchanged_end);
        for (uint64_t n = 0, piece; n < most; n += piece) { /* what a resize cuts off or adds is no change that bitmaps record */
            struct dp_error e = {0};
            bool dirty;
            piece = most - n;
            assert_ok(dp_image_bitmap_query(i, "kept", n, &piece, &dirty, &e), e);
            if (!dirty && memcmp(got + n, before.data + n, piece))
                fail_msg("%s: the bitmap says it is valid, and does not know of a change", doing);
        }
        dp_image_close(i);
    }
}

/* The image goes on being used: it grows (what is new is zeros), is written, and is in order. */
static void use(struct dp_image *i)
{
    struct dp_error e = {0};
    uint8_t *some = malloc(64 << 10), *got = malloc(MAX);
    uint64_t old = i->size, grown = old + 64 * SECTOR * (1 + chance(4));
    grown = DP_MIN(grown, (uint64_t)MAX);
    if (grown > old) {
        assert_ok(i->format->resize(i, grown, &e), e);
        assert_int_equal(dp_image_pread(i, got, grown - old, old), 0);
        if (!dp_is_zero(got, grown - old))
            fail_msg("%s: what is new is not zeros", doing);
    }
    fill(&rig->random, some, 64 << 10);
    for (unsigned n = 0; n < 4; n++) {
        uint64_t at = chance(i->size / SECTOR) * SECTOR, size = (1 + chance(64)) * SECTOR;
        size = DP_MIN(size, i->size - at);
        assert_int_equal(dp_image_pwrite(i, some, size, at), 0);
        assert_int_equal(dp_image_pread(i, got, size, at), 0);
        assert_int_equal(memcmp(some, got, size), 0);
    }
    assert_int_equal(dp_image_flush(i), 0);
    assert_int_equal(dp_image_flush(i), 0);
    struct dp_image_check c = check(i, false, true);
    assert_true(!c.corruptions && (bitmaps || !c.leaks)); /* who does not know bitmaps leaks them */
    free(some);
    free(got);
}

static void look(void)
{
    bool qemu = !chance(60);
    struct dp_image_check c;
    struct dp_image *i;
    for (unsigned f = 0; f < FILES && files[f].used; f++)
        write_file(rig, f ? "sub/base" : "sub/image", files[f].cut, files[f].cut_size);
    points++;
    if (repairing) {
        i = open_at("sub/image", false, true, false, NULL, "qcow2");
        c = check(i, true, false);
        dp_image_close(i);
        if (c.corruptions || c.leaks)
            fail_msg("%s: the repair begun anew leaves %llu corruptions, %llu leaks", doing, (unsigned long long)c.corruptions,
                     (unsigned long long)c.leaks);
        mended++;
    }
    i = open_at("sub/image", true, false, false, NULL, "qcow2");
    c = check(i, false, false);
    if (c.corruptions || (repairing && c.leaks)) {
        check(i, false, true);
        fail_msg("%s: %llu corruptions", doing, (unsigned long long)c.corruptions);
    }
    check_contents(i);
    check_snapshots(i);
    dp_image_close(i);
    if (!repairing)
        check_bitmaps();
    if (qemu) {
        by_qemu++;
        /* It compares COPIED flags with the refcounts, we with the references: a refcount that waits for its snapshot is a leak. */
        must(rig, "qemu-img check sub/image >found 2>&1; rc=$?; [ $rc = 0 ] || [ $rc = 3 ] || { cat found; "
                  "[ $rc = 2 ] && ! grep ERROR found | grep -v OFLAG_COPIED; }");
        if (chance(2)) {
            must(rig, "cp sub/image sub/copy && qemu-img check -r all sub/copy && qemu-img check sub/copy");
            if (!files[1].used) {
                i = open_at("sub/copy", true, false, false, NULL, "qcow2");
                check_contents(i);
                dp_image_close(i);
            }
        }
    }
    if (c.leaks || !chance(4)) {
        i = open_at("sub/image", false, false, false, NULL, "qcow2");
        c = check(i, true, false);
        assert_true(!c.corruptions && !c.leaks);
        mended += c.leaks_fixed != 0;
        check_contents(i);
        if (!chance(3))
            use(i);
        dp_image_close(i);
    }
}

/* ---- the workload ---- */

static struct dp_image *image;

static void flush(void)
{
    doing = "flush";
    assert_int_equal(dp_image_flush(image), 0);
    flushed();
}

/* Closing alone makes nothing durable. */
static void close_image(void)
{
    flush();
    doing = "closing";
    dp_image_close(image);
    memcpy(&before, &now, sizeof now);
    unchanged_end = before.size;
}

static void open_image_again(void) { image = open_at("image", false, false, false, NULL, "qcow2"); }

static void write_some(bool packed)
{
    static uint8_t data[MAX];
    uint64_t cluster = image->format->cluster_size(image), at = chance(now.size / SECTOR) * SECTOR,
             size = chance(3) ? (1 + chance(24)) * SECTOR : (uint64_t)SECTOR << chance(9);
    doing = packed ? "packed write" : "write";
    if (packed || !chance(4))
        at = DP_ALIGN_DOWN(at, cluster), size = packed ? cluster : size;
    size = DP_MIN(size, now.size - at);
    fill(&rig->random, data, size);
    for (uint64_t n = 0; n < size; n += SECTOR)
        allow((at + n) / SECTOR, hash(data + n));
    struct iovec v = {data, size};
    int rc = packed ? image->format->write_packed(image, &(struct dp_cursor){&v, 1, 0}, at, size) : dp_image_pwrite(image, data, size, at);
    assert_int_equal(rc, 0);
    memcpy(now.data + at, data, size);
}

static void zero_some(bool discard)
{
    static const uint8_t zeros[SECTOR];
    static uint8_t got[MAX];
    uint64_t at = chance(now.size / SECTOR) * SECTOR, size = (uint64_t)SECTOR << chance(11);
    if (chance(2))
        at = DP_ALIGN_DOWN(at, (uint64_t)image->format->cluster_size(image));
    size = DP_MIN(size, now.size - at);
    doing = discard ? "discard" : "zeroes";
    for (uint64_t n = 0; n < size; n += SECTOR)
        allow((at + n) / SECTOR, hash(zeros));
    assert_int_equal(dp_image_zero(image, at, size, discard ? DP_ZERO_UNMAP | DP_ZERO_DISCARD : chance(2) ? DP_ZERO_UNMAP : 0), 0);
    assert_int_equal(dp_image_pread(image, got, size, at), 0);
    for (uint64_t n = 0; n < size; n += SECTOR)
        if (!dp_is_zero(got + n, SECTOR) && !(discard && !memcmp(got + n, now.data + at + n, SECTOR)))
            fail_msg("%s: sector %llu is something else", doing, (unsigned long long)(at + n) / SECTOR);
    memcpy(now.data + at, got, size);
}

static bool any_kept(void)
{
    bool any = false;
    for (unsigned k = 0; k < SNAPSHOTS; k++)
        any |= kept[k].state != NONE;
    return any;
}

static void snapshots(unsigned step, unsigned most)
{
    struct dp_error e = {0};
    struct kept *k = &kept[chance(most)];
    flush();
    if (k->state == NONE) {
        struct dp_image_snapshot about = {.date_seconds = 1700000000 + step};
        doing = "making a snapshot";
        snprintf(k->name, sizeof k->name, "state %u", step);
        strcpy(about.name, k->name);
        memcpy(k->disk, &now, sizeof now);
        k->state = MAYBE;
        int rc = image->format->snapshot_create(image, &about, &e);
        if (rc != -EOVERFLOW) /* small refcounts, packed clusters */
            assert_ok(rc, e);
        k->state = rc ? NONE : THERE;
    } else if (chance(2)) {
        doing = "applying a snapshot";
        other = k->disk;
        sizes[1] = k->disk->size;
        assert_ok(image->format->snapshot_apply(image, k->name, &e), e);
        memcpy(&now, k->disk, sizeof now);
        other = NULL;
        flushed();
    } else {
        doing = "deleting a snapshot";
        k->state = MAYBE;
        assert_ok(image->format->snapshot_delete(image, k->name, &e), e);
        k->state = NONE;
    }
}

static void resize(void)
{
    static const uint8_t zeros[SECTOR];
    struct dp_error e = {0};
    uint64_t size = (1 + chance(SECTORS)) * SECTOR;
    if (size < now.size && any_kept())
        size = DP_MIN((uint64_t)MAX, now.size + size);
    doing = size < now.size ? "shrinking" : "growing";
    sizes[1] = size;
    for (uint64_t n = size / SECTOR; n < SECTORS; n++)
        allow(n, hash(zeros));
    unchanged_end = DP_MIN(unchanged_end, size);
    assert_ok(image->format->resize(image, size, &e), e);
    if (size < now.size)
        memset(now.data + size, 0, now.size - size);
    now.size = size;
    sizes[0] = size;
    for (uint64_t n = size / SECTOR; n < SECTORS; n++) {
        allowed[n].count = 0;
        allow(n, hash(zeros));
    }
}

/* All goes to the backing file, and the image is emptied. */
static void commit(const char *base_format)
{
    struct dp_error e = {0};
    close_image();
    doing = "commit";
    struct dp_image *top = open_at("image", false, false, true, NULL, "qcow2");
    struct dp_image *base = open_at("base", false, false, false, NULL, base_format);
    assert_ok(dp_image_merge(top, base, NULL, &e), e);
    dp_image_close(base);
    doing = "emptying";
    assert_ok(top->format->empty(top, &e), e);
    dp_image_close(top);
    open_image_again();
}

static uint64_t be64(const uint8_t *p) { return __builtin_bswap64(dp_ld64(p)); }

/* Refcounts and marks of the closed file become wrong. */
static void damage(void)
{
    uint8_t *f = files[0].stable;
    unsigned bits = f[7] == 3 ? 1u << f[99] : 16, cluster_bits = f[23];
    uint64_t table = be64(f + 48), block = be64(f + table), l1 = be64(f + 40);
    unsigned kinds = 1 + chance(3);
    for (unsigned n = 0; n < kinds; n++) {
        uint64_t cluster = chance(DP_MIN(files[0].stable_size >> cluster_bits, (8ull << cluster_bits) / bits));
        uint8_t *count = f + block + cluster * bits / 8;
        switch (chance(6)) {
        case 0: /* another count: a leak, or too few */
            *count ^= (bits < 8 ? 1u << (cluster * bits & 7) : 1u);
            break;
        case 1:
            memset(count, 0, DP_MAX(bits / 8, 1u));
            break;
        case 2:
            memset(f + block, 0, 64);
            break;
        case 3:
            if (f[7] == 3)
                f[79] |= 1; /* dirty */
            break;
        case 4:
            if (be64(f + l1) & ~(1ull << 63))
                f[l1] ^= 0x80; /* COPIED */
            break;
        default:
            if (chance(2))
                memset(f + table, 0, 8);
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
    damage();
    watching = repairing = true;
    doing = "repair";
    image = open_at("image", false, true, false, NULL, "qcow2");
    struct dp_image_check c = check(image, true, false);
    dp_image_close(image);
    assert_true(!c.corruptions && !c.leaks);
    repairing = false;
    open_image_again();
    c = check(image, false, true);
    assert_true(!c.corruptions && (bitmaps || !c.leaks));
}

struct layout {
    const char *options, *base; /* base: NULL, or its format */
    unsigned snapshots;         /* at most */
    bool bitmaps;
};
static const struct layout layouts[] = {
    {"cluster_size=512", NULL, 3, false},
    {"cluster_size=4k", "raw", 3, false},
    {"cluster_size=64k", NULL, 2, false},
    {"compat=0.10,cluster_size=4k", NULL, 3, false},
    {"extended_l2=on,cluster_size=16k", NULL, 2, false},
    {"cluster_size=1k,refcount_bits=64", "qcow2", 3, false},
    {"preallocation=metadata,cluster_size=4k", NULL, 0, true},
    {"cluster_size=512,refcount_bits=1", NULL, 0, false},
    {"compat=0.10,cluster_size=2k", "qcow2", 2, false},
    {"lazy_refcounts=on,cluster_size=8k", "raw", 2, false},
    {"extended_l2=on,cluster_size=32k", "qcow2", 1, false},
    {"compression_type=zstd,cluster_size=4k,refcount_bits=8", NULL, 3, false},
    {"preallocation=metadata,cluster_size=4k", NULL, 2, false},
    {"preallocation=falloc,cluster_size=512", NULL, 1, false},
    {"preallocation=full,cluster_size=8k,lazy_refcounts=on", NULL, 2, false},
    {"cluster_size=2k,refcount_bits=2", NULL, 1, false},
    {"cluster_size=512,refcount_bits=32", "raw", 0, true},
};

static void create(const struct layout *l)
{
    char copy[128], path[160], base[160], *rest;
    const char *option[8] = {0};
    struct dp_error e = {0};
    unsigned n = 0;
    memset(&now, 0, sizeof now);
    now.size = (1 + chance(SECTORS)) * SECTOR;
    strcpy(copy, l->options);
    for (char *p = strtok_r(copy, ",", &rest); p; p = strtok_r(NULL, ",", &rest))
        option[n++] = p;
    snprintf(path, sizeof path, "%s/image", rig->folder);
    snprintf(base, sizeof base, "%s/base", rig->folder);
    must(rig, "rm -f image base");
    files[1].used = l->base;
    if (l->base) {
        uint64_t size = (1 + chance(SECTORS)) * SECTOR, bytes = DP_MIN(size, now.size);
        uint8_t *data = malloc(size);
        fill(&rig->random, data, size);
        memcpy(now.data, data, bytes);
        assert_ok(dp_image_create(&(struct dp_image_create){.name = base, .format = l->base, .size = size}, &e), e);
        struct dp_image *i = open_at("base", false, false, false, NULL, l->base);
        assert_int_equal(dp_image_pwrite(i, data, size, 0), 0);
        dp_image_close(i);
        free(data);
    }
    assert_ok(dp_image_create(&(struct dp_image_create){.name = path, .format = "qcow2", .size = now.size, .option = option,
                                                        .backing = l->base ? "base" : NULL, .backing_format = l->base}, &e), e);
    bitmaps = l->bitmaps;
    if (bitmaps)
        must(rig, "qemu-img bitmap --add -g 64k image kept");
}

static void workload(const struct layout *l)
{
    create(l);
    memset(allowed, 0, sizeof allowed);
    for (unsigned k = 0; k < SNAPSHOTS; k++)
        kept[k].state = NONE;
    flushed();
    memcpy(&before, &now, sizeof now);
    unchanged_end = before.size;
    watch();
    open_image_again();
    for (unsigned step = 0; step < 40; step++) {
        unsigned v = step % 10 == 9 ? 15 : chance(24);
        if (v < 8)
            write_some(false);
        else if (v < 10)
            write_some(true);
        else if (v < 13)
            zero_some(false);
        else if (v < 15)
            zero_some(true);
        else if (v == 15)
            flush();
        else if (v < 19)
            l->snapshots ? snapshots(step, l->snapshots) : write_some(false);
        else if (v < 21)
            resize();
        else if (v == 21)
            repair();
        else if (v == 22 && l->base && !any_kept())
            commit(l->base);
        else
            close_image(), open_image_again();
    }
    close_image();
    unwatch();
    must(rig, "qemu-img check image || [ $? = %d ]", bitmaps ? 3 : 0);
    flushed();
    image = open_at("image", true, false, false, NULL, "qcow2");
    check_contents(image);
    dp_image_close(image);
}

static uint64_t wanted = 2500, seed = 1;

static void cuts(void **state)
{
    rig = *state;
    need_qemu_img(rig);
    files[0].used = true;
    for (unsigned f = 0; f < FILES; f++)
        files[f].stable = malloc(FILE_MAX), files[f].cut = malloc(FILE_MAX);
    for (unsigned k = 0; k < SNAPSHOTS; k++)
        kept[k].disk = malloc(sizeof *kept[k].disk);
    must(rig, "mkdir -p sub");
    unsigned workloads = 0;
    dp_random_seed(&rig->random, seed);
    /* Small numbers of points are spread over all layouts. */
    for (; points < wanted || workloads < DP_ARRAY_LEN(layouts); workloads++) {
        const struct layout *l = &layouts[workloads % DP_ARRAY_LEN(layouts)];
        uint64_t first = points;
        per_write = wanted > 5000 ? 3 : 1;
        workload(l);
        print_message("%-56s %-6s %llu points\n", l->options, l->base ? l->base : "", (unsigned long long)(points - first));
    }
    print_message("%llu points (%llu torn) in %u workloads of %u layouts: %llu had to be mended, %llu seen by qemu-img\n",
                  (unsigned long long)points, (unsigned long long)torn_points, workloads, (unsigned)DP_ARRAY_LEN(layouts),
                  (unsigned long long)mended, (unsigned long long)by_qemu);
    for (unsigned f = 0; f < FILES; f++)
        free(files[f].stable), free(files[f].cut);
    for (unsigned k = 0; k < SNAPSHOTS; k++)
        free(kept[k].disk);
}

int main(int argc, char **argv)
{
    wanted = argc > 1 ? strtoull(argv[1], NULL, 10) : wanted;
    seed = argc > 2 ? strtoull(argv[2], NULL, 10) : seed;
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(cuts, rig_setup, rig_teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
