/* test_qcow2_features.c - what qcow2 has beyond clusters, side by side with qemu-img and qemu-io: subclusters, data files, bitmaps, LUKS.
 *
 * Model: an image and a plain array get the same changes; what qemu-io did to one image and doppel to another must be described alike.
 */
#include "block/image.h"
#include "tests/block/qcow2_rig.h"

enum { SIZE = 3 << 20 };

static struct dp_image *open_named(const struct rig *r, const char *name, bool readonly)
{
    struct dp_error e = {0};
    struct dp_image *i = NULL;
    assert_ok(dp_image_open(&(struct dp_image_options){.name = in(r, name), .format = "qcow2", .readonly = readonly}, &i, &e), e);
    return i;
}

static void in_order(struct dp_image *i)
{
    struct dp_image_check c = {0};
    struct dp_error e = {0};
    assert_ok(i->format->check(i, &c, &e), e);
    assert_int_equal(c.corruptions, 0);
    assert_int_equal(c.leaks, 0);
}

static void reads_as(struct dp_image *i, const uint8_t *model)
{
    uint8_t *got = malloc(i->size);
    assert_int_equal(dp_image_pread(i, got, i->size, 0), 0);
    for (uint64_t n = 0; n < i->size; n++)
        if (got[n] != model[n])
            fail_msg("byte 0x%llx is %02x, not %02x", (unsigned long long)n, got[n], model[n]);
    free(got);
}

/* ---- subclusters ---- */

/* The same changes by doppel to `ours` and by qemu-io to `theirs`. */
static void change_both(struct rig *r, uint8_t *model, uint64_t size, unsigned count, const char *more)
{
    static char script[20000];
    size_t at = 0;
    struct dp_image *i = open_named(r, "ours", false);
    for (unsigned n = 0; n < count; n++) {
        uint64_t v = dp_random_next(&r->random), unit = v & 1 ? 512 : 2048, offset = (v >> 8) % (size / unit) * unit;
        uint64_t bytes = DP_MIN(size - offset, unit * (1 + (v >> 40) % (v & 2 ? 8 : 100)));
        bool zero = (v >> 2 & 3) == 3;
        memset(model + offset, zero ? 0 : (int)(n % 255 + 1), bytes);
        at += (size_t)snprintf(script + at, sizeof script - at, " -c 'write %s %llu %llu'", zero ? "-z" : "", (unsigned long long)offset,
                               (unsigned long long)bytes);
        if (!zero)
            at += (size_t)snprintf(script + at - 1, sizeof script - at, " -P %u'", n % 255 + 1) - 1;
        assert_true(at < sizeof script - 100);
        assert_int_equal(zero ? dp_image_zero(i, offset, bytes, 0) : dp_image_pwrite(i, model + offset, bytes, offset), 0);
    }
    reads_as(i, model);
    dp_image_close(i);
    i = open_named(r, "ours", false);
    reads_as(i, model);
    in_order(i);
    dp_image_close(i);
    char name[100];
    snprintf(name, sizeof name, "%s/script", r->folder);
    FILE *f = fopen(name, "w");
    fprintf(f, "qemu-io -f qcow2%s theirs%s\n", more, script);
    fclose(f);
    must(r, "sh ./script >io; ! grep -i fail io");
    must(r, "qemu-img check ours && qemu-img compare ours theirs");
}

/* Which bytes are data, zeros or below is what QEMU would have made of them. */
static void subclusters(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    uint8_t *model = malloc(SIZE), *below = malloc(SIZE);
    fill(&r->random, below, SIZE);
    write_file(r, "base", below, SIZE);
    static const char *const layouts[] = {"cluster_size=64k", "cluster_size=16k", "cluster_size=2M", "cluster_size=256k"};
    for (unsigned n = 0; n < 3 * DP_ARRAY_LEN(layouts); n++) {
        const char *layout = layouts[n / 3];
        unsigned kind = n % 3; /* alone; over a backing file; over compressed clusters */
        uint64_t size = kind ? SIZE : SIZE - 512;
        print_message("%s %u\n", layout, kind);
        memset(model, 0, SIZE);
        if (kind)
            memcpy(model, below, SIZE);
        if (kind == 2)
            must(r, "qemu-img convert -c -f raw -O qcow2 -o extended_l2=on,%s base ours && cp ours theirs", layout);
        else
            must(r, "for n in ours theirs; do qemu-img create -f qcow2 -o extended_l2=on,%s %s $n %llu || exit; done", layout,
                 kind ? "-b base -F raw" : "", (unsigned long long)size);
        for (unsigned round = 0; round < 4; round++) {
            change_both(r, model, size, 20, "");
            /* Alone, unallocated and zeros are the same; of what a snapshot has, too, QEMU copies more. */
            if (kind == 1 && round < 2)
                must(r, "for n in ours theirs; do qemu-img map -f qcow2 --output=json $n | sed 's/, \"offset\": [0-9]*//; s/\"present\": [a-z]*, //' "
                        ">map.$n || exit; done; diff map.ours map.theirs");
            if (round == 1)
                must(r, "for n in ours theirs; do qemu-img snapshot -c one $n || exit; done");
        }
        must(r, "qemu-img snapshot -a one ours && qemu-img snapshot -a one theirs && qemu-img check ours && qemu-img compare ours theirs");
    }
    free(below);
    free(model);
}

/* A small write takes a subcluster's space, and bits that contradict each other are found. */
static void subclusters_alone(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    struct dp_extent x;
    uint8_t data[2048];
    memset(data, 7, sizeof data);
    must(r, "truncate -s 8M base; qemu-img create -f qcow2 -o extended_l2=on,cluster_size=64k -b base -F raw image 8M");
    struct dp_image *i = open_named(r, "image", false);
    assert_int_equal(dp_image_pwrite(i, data, sizeof data, 4096), 0);
    assert_int_equal(dp_image_zero(i, 8192, 4096, 0), 0);
    static const struct {
        uint64_t at, size;
        enum dp_extent_kind kind;
    } want[] = {{0, 4096, DP_EXTENT_UNALLOCATED}, {4096, 2048, DP_EXTENT_DATA}, {6144, 2048, DP_EXTENT_UNALLOCATED},
                {8192, 4096, DP_EXTENT_ZEROS}, {12288, 65536 - 12288, DP_EXTENT_UNALLOCATED}};
    for (unsigned n = 0; n < DP_ARRAY_LEN(want); n++) {
        assert_int_equal(dp_image_extent(i, want[n].at, 65536 - want[n].at, &x), 0);
        assert_int_equal(x.kind, want[n].kind);
        assert_int_equal(x.size, want[n].size);
    }
    dp_image_close(i);
    must(r, "qemu-img check image");
    /* L2 table 4 (after header, refcounts, L1): its first entry's bitmap, a bit of both kinds */
    must(r, "printf '\\001' | dd of=image bs=1 seek=$((4 * 65536 + 8 + 3)) conv=notrunc; printf '\\001' | dd of=image bs=1 seek=$((4 * 65536 + 8 + 7)) "
            "conv=notrunc");
    i = open_named(r, "image", true);
    struct dp_image_check c = {0};
    struct dp_error e = {0};
    assert_ok(i->format->check(i, &c, &e), e);
    assert_true(c.corruptions > 0);
    assert_int_equal(dp_image_pread(i, data, 512, 0), -EIO);
    dp_image_close(i);
}

/* ---- data files ---- */

static void random_changes(struct rig *r, struct dp_image *i, uint8_t *model, unsigned count)
{
    for (unsigned n = 0; n < count; n++) {
        uint64_t v = dp_random_next(&r->random), offset = (v >> 8) % (i->size / 512) * 512;
        uint64_t bytes = DP_MIN(i->size - offset, 512 * (1 + (v >> 40) % (v & 2 ? 8 : 600)));
        switch (v >> 2 & 7) {
        case 0: case 1:
            memset(model + offset, 0, bytes);
            assert_int_equal(dp_image_zero(i, offset, bytes, v & 1 ? DP_ZERO_UNMAP : 0), 0);
            break;
        case 2:
            assert_int_equal(dp_image_zero(i, offset, bytes, DP_ZERO_UNMAP | DP_ZERO_DISCARD), 0);
            assert_int_equal(dp_image_pread(i, model + offset, bytes, offset), 0);
            break;
        case 3:
            assert_int_equal(dp_image_flush(i), 0);
            break;
        default:
            fill(&r->random, model + offset, bytes);
            assert_int_equal(dp_image_pwrite(i, model + offset, bytes, offset), 0);
        }
    }
}

static void create_named(const struct rig *r, const char *name, uint64_t size, const char *backing, const char *const *option)
{
    struct dp_error e = {0};
    assert_ok(dp_image_create(&(struct dp_image_create){.name = in(r, name), .format = "qcow2", .size = size, .backing = backing,
        .backing_format = backing ? "raw" : NULL, .option = option}, &e), e);
}

static void data_files(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    uint8_t *model = calloc(1, SIZE), *below = malloc(SIZE);
    struct dp_error e = {0};
    fill(&r->random, below, SIZE);
    write_file(r, "base", below, SIZE);
    static const char *const layouts[][5] = {
        {"data_file=data", "cluster_size=4k"}, {"data_file=data", "data_file_raw=on"}, {"data_file=data", "extended_l2=on"},
        {"data_file=data", "data_file_raw=on", "extended_l2=on", "cluster_size=16k"}, {"data_file=data", "preallocation=full"}};
    for (unsigned n = 0; n < 2 * DP_ARRAY_LEN(layouts); n++) {
        const char *const *layout = layouts[n / 2];
        bool raw = layout[1] && strstr(layout[1], "raw"), over = n % 2 && !raw && !strstr(layout[1], "prealloc"), ours = n % 2;
        uint64_t size = SIZE - 512;
        print_message("%s %s%s\n", layout[1], ours ? "made by doppel" : "made by qemu-img", over ? " over another" : "");
        must(r, "rm -f image data");
        if (ours)
            create_named(r, "image", size, over ? "base" : NULL, layout);
        else
            must(r, "qemu-img create -f qcow2 -o %s,%s,%s,%s image %llu", layout[0], layout[1] ? layout[1] : "compat=1.1",
                layout[1] && layout[2] ? layout[2] : "compat=1.1", layout[1] && layout[2] && layout[3] ? layout[3] : "compat=1.1",
                (unsigned long long)size);
        memset(model, 0, SIZE);
        if (over)
            memcpy(model, below, size);
        for (unsigned round = 0; round < 4; round++) {
            struct dp_image *i = open_named(r, "image", false);
            assert_int_equal(i->size, size);
            if (round == 0) { /* locked as the image is, and never compressed */
                assert_int_not_equal(command(r, "qemu-io -f raw -c 'write 0 512' data"), 0);
                struct iovec v = {model, 65536};
                assert_int_equal(i->format->write_packed(i, &(struct dp_cursor){&v, 1, 0}, 0, 65536), -ENOTSUP);
                struct dp_image_snapshot about = {.name = "one"};
                assert_int_equal(i->format->snapshot_create(i, &about, &e), -ENOTSUP);
            }
            random_changes(r, i, model, 40);
            reads_as(i, model);
            dp_image_close(i);
            i = open_named(r, "image", false);
            reads_as(i, model);
            in_order(i);
            if (round == 2) {
                uint64_t smaller = SIZE / 2 - 1024, larger = SIZE;
                assert_ok(i->format->resize(i, smaller, &e), e);
                memset(model + smaller, 0, SIZE - smaller);
                reads_as(i, model);
                if (!over) {
                    assert_ok(i->format->resize(i, size = larger, &e), e);
                    reads_as(i, model);
                } else {
                    size = smaller;
                }
                struct stat st;
                assert_false(stat(in(r, "data"), &st));
                assert_int_equal(st.st_size, size);
            }
            dp_image_close(i);
            write_file(r, "model", model, size);
            must(r, "qemu-img check image && qemu-img compare -f raw -F qcow2 model image");
            if (raw)
                must(r, "cmp -n %llu model data", (unsigned long long)size); /* QEMU fills the last cluster */
            must(r, "qemu-io -f qcow2 -c 'write -P 5 65000 100000' -c 'write -z 300000 70000' -c 'discard 512k 64k' image");
            memset(model + 65000, 5, 100000);
            memset(model + 300000, 0, 70000);
            i = open_named(r, "image", true);
            assert_int_equal(dp_image_pread(i, model + (512 << 10), 65536, 512 << 10), 0);
            reads_as(i, model);
            dp_image_close(i);
        }
    }
    /* Emptied, what is below is there again. */
    must(r, "rm -f image data");
    create_named(r, "image", SIZE, "base", (const char *const[]){"data_file=data", NULL});
    struct dp_image *i = open_named(r, "image", false);
    random_changes(r, i, model, 40);
    assert_ok(i->format->empty(i, &e), e);
    reads_as(i, below);
    dp_image_close(i);
    must(r, "qemu-img check image && qemu-img compare -F raw image base");
    free(below);
    free(model);
}

static void data_files_refused(void **state)
{
    struct rig *r = *state;
    struct dp_error e = {0};
    struct dp_image *i;
    need_qemu_img(r);
    static const char *const bad[][4] = {{"data_file=image"}, {"data_file_raw=on"}, {"data_file=d", "compat=0.10"}, {"data_file=nowhere/d"}};
    for (unsigned n = 0; n < DP_ARRAY_LEN(bad); n++) {
        e = (struct dp_error){0};
        assert_true(dp_image_create(&(struct dp_image_create){.name = in(r, "image"), .format = "qcow2", .size = 1 << 20, .option = bad[n]},
                        &e) < 0);
        assert_true(*e.text);
    }
    /* Outside the folder; the image itself; away. */
    must(r, "rm -f image; mkdir inside; qemu-img create -f qcow2 -o data_file=$PWD/elsewhere inside/image 1M");
    struct dp_image_options o = {.name = in(r, "inside/image"), .format = "qcow2"};
    assert_int_equal(dp_image_open(&o, &i, &e), -EACCES);
    assert_non_null(strstr(e.text, "backing=any"));
    o.backing_anywhere = true;
    assert_ok(dp_image_open(&o, &i, &e), e);
    dp_image_close(i);
    o.alone = true;
    assert_ok(dp_image_open(&o, &i, &e), e);
    uint8_t byte = 1;
    assert_int_equal(dp_image_pwrite(i, &byte, 1, 0), -ENOTSUP);
    assert_int_equal(dp_image_zero(i, 0, 65536, 0), -ENOTSUP);
    dp_image_close(i);
    must(r, "qemu-img create -f qcow2 -o data_file=gone itself 1M; rm gone");
    o = (struct dp_image_options){.name = in(r, "itself"), .format = "qcow2"};
    assert_int_equal(dp_image_open(&o, &i, &e), -ENOENT);
    must(r, "ln itself gone");
    assert_int_equal(dp_image_open(&o, &i, &e), -EINVAL);
    /* A cluster that is not at its place. */
    must(r, "rm -f gone; qemu-img create -f qcow2 -o data_file=d image 1M && qemu-io -f qcow2 -c 'write 128k 64k' image && "
            "printf '\\001' | dd of=image bs=1 seek=$((4 * 65536 + 16 + 5)) conv=notrunc");
    i = open_named(r, "image", false);
    struct dp_image_check c = {0};
    assert_ok(i->format->check(i, &c, &e), e);
    assert_int_equal(c.corruptions, 1);
    assert_int_equal(dp_image_pread(i, &byte, 1, 128 << 10), -EIO);
    assert_int_equal(dp_image_pwrite(i, &byte, 1, 128 << 10), -EIO);
    dp_image_close(i);
}

/* ---- bitmaps ---- */

enum { BITMAPS = 3 };
struct tracked {
    const char *name;
    uint64_t unit;
    bool enabled;
    uint8_t dirty[SIZE / 512];
};

static void note(struct tracked *t, uint64_t offset, uint64_t size, bool dirty)
{
    for (uint64_t n = offset / t->unit; size && n <= (offset + size - 1) / t->unit; n++)
        t->dirty[n] = dirty;
}

static void bitmap_is(struct dp_image *i, const struct tracked *t)
{
    struct dp_error e = {0};
    uint8_t got[SIZE / 512] = {0};
    for (uint64_t at = 0, size; at < i->size; at += size) {
        bool dirty;
        size = i->size - at;
        assert_ok(dp_image_bitmap_query(i, t->name, at, &size, &dirty, &e), e);
        assert_true(size > 0 && (at + size == i->size || (at + size) % t->unit == 0));
        for (uint64_t n = at / t->unit; n <= (at + size - 1) / t->unit; n++)
            got[n] = dirty;
    }
    for (uint64_t n = 0; n * t->unit < i->size; n++)
        if (got[n] != t->dirty[n])
            fail_msg("%s: bit %llu is %u", t->name, (unsigned long long)n, got[n]);
}

static bool has_bitmap(struct dp_image *i, const char *name, bool *inconsistent)
{
    struct dp_image_bitmap *list;
    struct dp_error e = {0};
    unsigned count;
    bool found = false;
    assert_ok(dp_image_bitmap_list(i, &list, &count, &e), e);
    for (unsigned n = 0; n < count; n++)
        if (!strcmp(list[n].name, name)) {
            found = true;
            *inconsistent = list[n].inconsistent;
        }
    free(list);
    return found;
}

/* Random writes by doppel and by qemu-io; bits as a plain array has them; QEMU's own copy of a bitmap (merged) is looked at, too. */
static void bitmaps(void **state)
{
    struct rig *r = *state;
    struct dp_error e = {0};
    need_qemu_img(r);
    uint8_t *model = calloc(1, SIZE);
    static const char *const layouts[] = {"cluster_size=64k", "cluster_size=512", "extended_l2=on,cluster_size=16k", "data_file=data,data_file_raw=on"};
    for (unsigned n = 0; n < DP_ARRAY_LEN(layouts); n++) {
        static struct tracked t[BITMAPS];
        uint64_t size = SIZE - 512;
        memset(t, 0, sizeof t);
        memset(model, 0, SIZE);
        t[0] = (struct tracked){.name = "fine", .unit = 512, .enabled = true};
        t[1] = (struct tracked){.name = "coarse", .unit = 65536, .enabled = true};
        t[2] = (struct tracked){.name = "ours", .unit = 4096, .enabled = true};
        print_message("%s\n", layouts[n]);
        must(r, "rm -f image data; qemu-img create -f qcow2 -o %s image %llu && qemu-img bitmap --add -g 512 image fine && "
                "qemu-img bitmap --add -g 64k image coarse", layouts[n], (unsigned long long)size);
        struct dp_image *i = open_named(r, "image", false);
        assert_ok(dp_image_bitmap_change(i, DP_IMAGE_BITMAP_ADD, "ours", 4096, &e), e);
        assert_int_equal(dp_image_bitmap_change(i, DP_IMAGE_BITMAP_ADD, "fine", 0, &e), -EEXIST);
        assert_int_equal(dp_image_bitmap_change(i, DP_IMAGE_BITMAP_CLEAR, "none", 0, &e), -ENOENT);
        dp_image_close(i);
        must(r, "qemu-img check image");
        for (unsigned round = 0; round < 8; round++) {
            i = open_named(r, "image", false);
            for (unsigned k = 0; k < 12; k++) {
                uint64_t v = dp_random_next(&r->random), offset = (v >> 8) % (size / 512) * 512;
                uint64_t bytes = DP_MIN(size - offset, 512 * (1 + (v >> 40) % (v & 2 ? 8 : 300)));
                struct tracked *one = &t[(v >> 4) % BITMAPS];
                switch (v >> 16 & 15) {
                case 0:
                    assert_int_equal(dp_image_zero(i, offset, bytes, v & 1 ? DP_ZERO_UNMAP : 0), 0);
                    memset(model + offset, 0, bytes);
                    break;
                case 1:
                    assert_ok(dp_image_bitmap_set(i, one->name, offset & ~65535ull, 131072, false, &e), e);
                    note(one, offset & ~65535ull, DP_MIN(131072, SIZE - (offset & ~65535ull)), false);
                    continue;
                case 2:
                    one->enabled = !one->enabled;
                    assert_ok(dp_image_bitmap_change(i, one->enabled ? DP_IMAGE_BITMAP_ENABLE : DP_IMAGE_BITMAP_DISABLE, one->name, 0, &e), e);
                    continue;
                case 3:
                    assert_ok(dp_image_bitmap_change(i, DP_IMAGE_BITMAP_CLEAR, one->name, 0, &e), e);
                    memset(one->dirty, 0, sizeof one->dirty);
                    continue;
                default:
                    fill(&r->random, model + offset, bytes);
                    assert_int_equal(dp_image_pwrite(i, model + offset, bytes, offset), 0);
                }
                for (unsigned m = 0; m < BITMAPS; m++)
                    if (t[m].enabled)
                        note(&t[m], offset, bytes, true);
            }
            for (unsigned m = 0; m < BITMAPS; m++)
                bitmap_is(i, &t[m]);
            dp_image_close(i);
            uint64_t at = dp_random_next(&r->random) % (SIZE / 1024) * 512, bytes = 70000 / 512 * 512;
            must(r, "qemu-img check image && qemu-io -f qcow2 -c 'write -P 3 %llu %llu' image && qemu-img check image", (unsigned long long)at,
                 (unsigned long long)bytes);
            memset(model + at, 3, bytes);
            for (unsigned m = 0; m < BITMAPS; m++)
                if (t[m].enabled)
                    note(&t[m], at, bytes, true);
            /* What QEMU reads in ours: it merges it into another. */
            must(r, "qemu-img bitmap --add --disable -g 4k --merge ours image copy");
            i = open_named(r, "image", true);
            in_order(i);
            reads_as(i, model);
            struct tracked copy = t[2];
            copy.name = "copy";
            bitmap_is(i, &copy);
            for (unsigned m = 0; m < BITMAPS; m++)
                bitmap_is(i, &t[m]);
            dp_image_close(i);
            i = open_named(r, "image", false);
            assert_ok(dp_image_bitmap_change(i, DP_IMAGE_BITMAP_REMOVE, "copy", 0, &e), e);
            bool bad;
            assert_true(!has_bitmap(i, "copy", &bad) && has_bitmap(i, "ours", &bad) && !bad);
            in_order(i);
            dp_image_close(i);
        }
        /* Another size: what is new is not dirty, what is gone is gone. */
        i = open_named(r, "image", false);
        uint64_t smaller = SIZE / 2 + 512;
        assert_ok(i->format->resize(i, smaller, &e), e);
        assert_ok(i->format->resize(i, SIZE, &e), e);
        for (unsigned m = 0; m < BITMAPS; m++) { /* (in the last cluster zeros were written) */
            uint64_t from = DP_ALIGN_UP(smaller, 65536), rest = SIZE - from;
            bool dirty;
            assert_ok(dp_image_bitmap_query(i, t[m].name, from, &rest, &dirty, &e), e);
            assert_true(!dirty && rest == SIZE - from);
        }
        in_order(i);
        dp_image_close(i);
        must(r, "qemu-img check image && qemu-img bitmap --add --merge fine image again && qemu-img bitmap --remove image fine && "
                "qemu-img info image | grep again && qemu-img check image");
    }
    free(model);
}

/* Who writes and dies leaves inconsistent bitmaps, for doppel as for QEMU; disabled ones are as they were. */
static void bitmaps_unclean(void **state)
{
    struct rig *r = *state;
    struct dp_error e = {0};
    bool bad;
    need_qemu_img(r);
    must(r, "qemu-img create -f qcow2 image 2M && qemu-img bitmap --add image on && qemu-img bitmap --add --disable image off");
    for (unsigned round = 0; round < 2; round++) {
        pid_t child = fork();
        if (!child) {
            struct dp_image *i = open_named(r, "image", false);
            uint8_t byte = 1;
            int rc = round ? dp_image_pwrite(i, &byte, 1, 0) : dp_image_pread(i, &byte, 1, 0);
            _exit(rc || dp_image_flush(i));
        }
        int status;
        assert_true(waitpid(child, &status, 0) == child && !status);
        struct dp_image *i = open_named(r, "image", true);
        assert_true(has_bitmap(i, "on", &bad) && bad == (round == 1)); /* opened only is nothing */
        assert_true(has_bitmap(i, "off", &bad) && !bad);
        dp_image_close(i);
    }
    must(r, "qemu-img info image | grep in-use");
    assert_int_not_equal(command(r, "qemu-img bitmap --clear image on"), 0);
    struct dp_image *i = open_named(r, "image", false);
    assert_int_equal(dp_image_bitmap_change(i, DP_IMAGE_BITMAP_CLEAR, "on", 0, &e), -EINVAL);
    assert_non_null(strstr(e.text, "inconsistent"));
    uint8_t byte = 2;
    assert_int_equal(dp_image_pwrite(i, &byte, 1, 70000), 0);
    dp_image_close(i);
    i = open_named(r, "image", false);
    assert_true(has_bitmap(i, "on", &bad) && bad);
    assert_ok(dp_image_bitmap_change(i, DP_IMAGE_BITMAP_REMOVE, "on", 0, &e), e);
    assert_ok(dp_image_bitmap_change(i, DP_IMAGE_BITMAP_REMOVE, "off", 0, &e), e);
    in_order(i);
    dp_image_close(i);
    must(r, "qemu-img check image && ! qemu-img info image | grep granularity");
    /* A write by somebody who does not know bitmaps: they do not count. */
    must(r, "qemu-img bitmap --add image on && dd if=/dev/zero of=image bs=1 seek=88 count=8 conv=notrunc");
    i = open_named(r, "image", false);
    assert_false(has_bitmap(i, "on", &bad));
    assert_ok(dp_image_bitmap_change(i, DP_IMAGE_BITMAP_ADD, "on", 0, &e), e);
    dp_image_close(i);
    i = open_named(r, "image", true);
    assert_true(has_bitmap(i, "on", &bad) && !bad);
    dp_image_close(i);
    /* Applying a snapshot changes everything. */
    must(r, "qemu-img create -f qcow2 image 2M && qemu-img snapshot -c one image && qemu-img resize image 3M; qemu-img bitmap --add image on");
    i = open_named(r, "image", false);
    assert_ok(i->format->snapshot_apply(i, "one", &e), e);
    uint64_t size = 2 << 20;
    bool dirty;
    assert_ok(dp_image_bitmap_query(i, "on", 0, &size, &dirty, &e), e);
    assert_true(dirty && size == 2 << 20);
    in_order(i);
    dp_image_close(i);
    must(r, "qemu-img check image && qemu-img info image | grep -A1 flags; ! qemu-img info image | grep in-use");
}

/* ---- LUKS ---- */

static int open_secret(const struct rig *r, const char *name, const char *format, const char *secret, bool readonly, struct dp_image **i,
                       struct dp_error *e)
{
    *e = (struct dp_error){0};
    return dp_image_open(&(struct dp_image_options){.name = in(r, name), .format = format, .secret = secret, .readonly = readonly}, i, e);
}

/* How QEMU's programs name the image. */
static const char *qemu_name(const char *name, const char *format)
{
    static char text[2][300];
    static unsigned turn;
    char *t = text[turn++ % 2];
    snprintf(t, sizeof text[0], "--object secret,id=s,file=secret --image-opts driver=%s,%skey-secret=s,file.filename=%s", format,
             strcmp(format, "luks") ? "encrypt." : "", name);
    return t;
}

static void luks(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    uint8_t *model = calloc(1, SIZE), *below = malloc(SIZE);
    struct dp_error e = {0};
    struct dp_image *i;
    const char *secret = "a pass phrase";
    write_file(r, "secret", secret, strlen(secret));
    fill(&r->random, below, SIZE);
    write_file(r, "base", below, SIZE);
    static const struct {
        const char *format;
        const char *option[4];
        bool over;
    } layouts[] = {{"qcow2", {"cluster_size=64k"}},
                   {"qcow2", {"cluster_size=512"}},
                   {"qcow2", {"cluster_size=2M"}},
                   {"luks", {NULL}},
                   {"qcow2", {"cluster_size=4k"}, true},
                   {"qcow2", {"data_file=data"}},
                   {"qcow2", {"extended_l2=on"}, true}};
    for (unsigned n = 0; n < 2 * DP_ARRAY_LEN(layouts); n++) {
        const char *format = layouts[n / 2].format, *option[6] = {layouts[n / 2].option[0]};
        bool ours = n % 2, raw = !strcmp(format, "luks"), over = layouts[n / 2].over;
        uint64_t size = SIZE - 512;
        if (!ours && n / 2 % 3) /* QEMU takes seconds to make one */
            continue;
        print_message("%s %s%s\n", format, option[0] ? option[0] : "", ours ? ", by doppel" : ", by qemu-img");
        must(r, "rm -f image data");
        memset(model, 0, SIZE);
        if (over)
            memcpy(model, below, size);
        if (ours) {
            unsigned at = 0;
            option[0] = raw ? "iter-time=10" : option[at++];
            if (!raw) {
                option[at++] = "encrypt.format=luks";
                option[at] = "encrypt.iter-time=10";
            }
            assert_ok(dp_image_create(&(struct dp_image_create){.name = in(r, "image"), .format = format, .size = size, .secret = secret,
                .option = option, .backing = over ? "base" : NULL, .backing_format = over ? "raw" : NULL}, &e), e);
        } else {
            /* it measures the processor, and gives up on a busy one */
            must(r, "n=0; until qemu-img create -f %s --object secret,id=s,file=secret %s -o %s%skey-secret=s,%siter-time=50%s%s image %llu; do "
                    "n=$((n + 1)); [ $n -lt 30 ] || exit; done", format,
                 over ? "-b base -F raw" : "", raw ? "" : "encrypt.format=luks,", raw ? "" : "encrypt.", raw ? "" : "encrypt.", raw ? "" : ",",
                 raw ? "" : option[0], (unsigned long long)size);
        }
        for (unsigned round = 0; round < 2; round++) {
            assert_int_equal(open_secret(r, "image", format, "another", true, &i, &e), -EACCES);
            assert_int_equal(open_secret(r, "image", format, NULL, true, &i, &e), -EACCES);
            assert_ok(open_secret(r, "image", format, secret, false, &i, &e), e);
            assert_int_equal(i->size, size);
            if (raw && !round) { /* nothing was written yet: what is read is noise, as QEMU's */
                assert_int_equal(dp_image_zero(i, 0, size, 0), 0);
            }
            random_changes(r, i, model, 25);
            for (unsigned k = 0; k < 20; k++) { /* not whole sectors */
                uint64_t v = dp_random_next(&r->random), at = (v >> 8) % size, bytes = DP_MIN(size - at, 1 + (v >> 40) % 70000);
                memset(model + at, (int)k, bytes);
                assert_int_equal(dp_image_pwrite(i, model + at, bytes, at), 0);
                uint8_t got[100];
                at = (v >> 12) % (size - sizeof got);
                assert_int_equal(dp_image_pread(i, got, sizeof got, at), 0);
                assert_memory_equal(got, model + at, sizeof got);
            }
            reads_as(i, model);
            if (!raw) {
                struct iovec v = {model, 65536};
                assert_int_equal(i->format->write_packed(i, &(struct dp_cursor){&v, 1, 0}, 0, 65536), -ENOTSUP);
            }
            dp_image_close(i);
            assert_ok(open_secret(r, "image", format, secret, true, &i, &e), e);
            reads_as(i, model);
            if (!raw)
                in_order(i);
            dp_image_close(i);
            write_file(r, "model", model, size);
            if (!raw)
                must(r, "qemu-img check %s", qemu_name("image", format));
            must(r, "qemu-img convert %s -O raw got && cmp got model", qemu_name("image", format));
            must(r, "qemu-io %s -c 'write -P 5 65024 100352' -c 'write -z 300032 70144'", qemu_name("image", format));
            memset(model + 65024, 5, 100352);
            memset(model + 300032, 0, 70144);
            assert_ok(open_secret(r, "image", format, secret, true, &i, &e), e);
            reads_as(i, model);
            dp_image_close(i);
        }
    }
    free(below);
    free(model);
}

/* Headers that cannot be; more work than is sensible; what can be done without the passphrase. */
static void luks_refused(void **state)
{
    struct rig *r = *state;
    struct dp_error e = {0};
    struct dp_image *i;
    need_qemu_img(r);
    const char *option[] = {"encrypt.format=luks", "encrypt.iter-time=10", NULL, NULL};
    struct dp_image_create make = {.name = in(r, "whole"), .format = "qcow2", .size = 1 << 20, .option = option, .secret = "x"};
    assert_ok(dp_image_create(&make, &e), e);
    struct dp_block *b; /* as a machine has it */
    struct dp_block_options disk = {.path = in(r, "whole"), .format = "qcow2"};
    assert_int_equal(dp_block_open(NULL, &disk, &b, &e), -EACCES);
    assert_non_null(strstr(e.text, "secret=FILE"));
    disk.secret = "x";
    e = (struct dp_error){0};
    assert_ok(dp_block_open(NULL, &disk, &b, &e), e);
    uint8_t some[5000 / 512 * 512], got[sizeof some];
    memset(some, 0x5a, sizeof some);
    assert_int_equal(request(b, DP_BLOCK_WRITE, false, 512, some, sizeof some), 0);
    dp_block_close(b);
    assert_ok(dp_block_open(NULL, &disk, &b, &e), e);
    assert_int_equal(request(b, DP_BLOCK_READ, false, 512, got, sizeof got), 0);
    assert_memory_equal(got, some, sizeof got);
    dp_block_close(b);
    assert_int_equal(command(r, "grep -c ZZZZZZZZ whole"), 1);
    static const char *const bad[] = {"preallocation=metadata", "compat=0.10", "encrypt.format=aes", "encrypt.iter-time=0"};
    for (unsigned n = 0; n < DP_ARRAY_LEN(bad); n++) {
        option[2] = bad[n];
        if (n > 1)
            option[n - 2] = bad[n];
        make.name = in(r, "none");
        assert_int_equal(dp_image_create(&make, &e), -EINVAL);
        option[0] = "encrypt.format=luks";
    }
    option[1] = option[2] = NULL;
    make.secret = NULL;
    assert_int_equal(dp_image_create(&make, &e), -EINVAL);
    static const struct {
        unsigned at;
        uint8_t bytes[4];
        int rc;
    } edits[] = {{0, {'M'}, -EINVAL},         {7, {2}, -EINVAL},          {8, {'b'}, -EINVAL},           {40, {'c', 'b', 'c'}, -EINVAL},
                 {72, {'m', 'd', '5'}, -EINVAL}, {108, {0, 0, 1, 0}, -EINVAL}, {164, {0, 0, 0, 0}, -EACCES},
                 {164, {0xff, 0xff, 0xff, 0xff}, -EINVAL},               {212, {0x7f, 0xff, 0xff, 0xff}, -EINVAL},
                 {248, {0xff, 0, 0, 0}, -EINVAL}, {252, {0, 0, 0, 0}, -EINVAL}, {252, {0xff, 0xff, 0xff, 0xff}, -EINVAL},
                 {208, {0, 0, 0, 0}, -EACCES},    {4097, {1, 2, 3, 4}, -EACCES}, {112, {1, 2, 3, 4}, -EACCES}};
    for (unsigned n = 0; n < DP_ARRAY_LEN(edits); n++) {
        unsigned count = edits[n].at == 0 || edits[n].at == 7 || edits[n].at == 8 ? 1 : edits[n].at == 40 || edits[n].at == 72 ? 3 : 4;
        must(r, "cp whole image");
        int fd = open(in(r, "image"), O_RDWR);
        assert_int_equal(pwrite(fd, edits[n].bytes, count, 4 * 65536 + edits[n].at), count);
        close(fd);
        int rc = open_secret(r, "image", "qcow2", "x", true, &i, &e);
        if (rc >= 0 || !*e.text || strchr(e.text, '\n') || (edits[n].at != 164 && rc != edits[n].rc))
            fail_msg("byte %u: %d %s", edits[n].at, rc, e.text);
    }
    assert_ok(dp_image_open(&(struct dp_image_options){.name = in(r, "whole"), .format = "qcow2", .alone = true}, &i, &e), e);
    uint8_t byte = 0;
    assert_int_equal(dp_image_pread(i, &byte, 1, 0), -EACCES);
    assert_int_equal(dp_image_pread(i, &byte, 1, 1 << 19), 0); /* nothing is there */
    assert_int_equal(dp_image_pwrite(i, &byte, 1, 0), -EACCES);
    in_order(i);
    dp_image_close(i);
    must(r, "qemu-img create -f qcow2 --object secret,id=s,data=x -o encryption=on,encrypt.key-secret=s image 1M || :");
    if (!command(r, "qemu-img info image | grep 'encrypted: yes'")) {
        assert_int_equal(open_secret(r, "image", "qcow2", "x", true, &i, &e), -EINVAL);
        assert_non_null(strstr(e.text, "old way"));
    }
}

int main(int argc, char **argv)
{
    if (argc > 1) /* only what matches */
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(subclusters, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(subclusters_alone, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(data_files, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(data_files_refused, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(bitmaps, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(bitmaps_unclean, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(luks, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(luks_refused, rig_setup, rig_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
