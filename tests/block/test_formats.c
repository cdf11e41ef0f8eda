/* test_formats.c - images of other programs' formats, beside qemu-img: a matrix of formats, options, sizes and who makes and reads them.
 *
 * For each row: images that qemu-img fills read as it says, ours that it reads read as we wrote, and images that either made stand random
 * writes, zeros, discards, flushes and reopening beside a model in memory; qemu-img compares, and checks where it can. The extents must
 * account for each byte. Says how many combinations there were.
 */
#include "block/image_ops.h"
#include "block/table.h"
#include "tests/block/qcow2_rig.h"

static unsigned combinations;

struct row {
    const char *format, *options;
    bool packed;  /* made by copying with compression, then only read */
    bool checked; /* qemu-img can check it */
    bool ours;    /* it does not know such images at all */
};
static const struct row rows[] = {
    {"vdi", "", .checked = true},
    {"vdi", "static=on", .checked = true},
    {"vpc", "subformat=dynamic,force_size=on"},
    {"vpc", "subformat=fixed,force_size=on"},
    {"vpc", "subformat=dynamic"},
    {"vpc", "subformat=fixed"},
    {"vmdk", "subformat=monolithicSparse", .checked = true},
    {"vmdk", "subformat=monolithicSparse,zeroed_grain=on", .checked = true},
    {"vmdk", "subformat=streamOptimized", .packed = true, .checked = true},
    {"vmdk", "subformat=monolithicFlat"},
    {"vmdk", "subformat=twoGbMaxExtentSparse", .checked = true},
    {"vmdk", "subformat=twoGbMaxExtentFlat"},
    {"vhdx", "", .checked = true},
    {"vhdx", "block_size=1M,block_state_zero=off", .checked = true},
    {"vhdx", "subformat=fixed,block_size=2M", .checked = true},
};
static const uint64_t sizes[] = {512, 1 << 20, (3 << 20) + 512, (17 << 20) - 1024};

static struct dp_image *open_format(const struct rig *r, const char *name, const char *format, bool readonly)
{
    struct dp_image *i = NULL;
    struct dp_error e = {0};
    assert_ok(dp_image_open(&(struct dp_image_options){.name = in(r, name), .format = format, .readonly = readonly}, &i, &e), e);
    return i;
}

static void create_ours(const struct rig *r, const struct row *row, uint64_t size)
{
    char copy[100];
    const char *option[8] = {0};
    unsigned n = 0;
    struct dp_error e = {0};
    snprintf(copy, sizeof copy, "%s", row->options);
    for (char *save, *p = strtok_r(copy, ",", &save); p; p = strtok_r(NULL, ",", &save))
        option[n++] = p;
    struct dp_image_create o = {.name = in(r, "image"), .format = row->format, .size = size, .option = option};
    assert_ok(dp_image_create(&o, &e), e);
}

/* Reads as model says, then zeros; and what the extents say is true. */
static void expect_image(struct rig *r, struct dp_image *i, const uint8_t *model, uint64_t size)
{
    assert_true(i->size >= size);
    uint8_t *got = malloc(i->size + 1);
    for (uint64_t at = 0, n; at < i->size; at += n) {
        n = 1 + dp_random_next(&r->random) % 700000;
        n = DP_MIN(n, i->size - at);
        assert_int_equal(dp_image_pread(i, got + at, n, at), 0);
    }
    for (uint64_t n = 0; n < i->size; n++)
        if (got[n] != (n < size ? model[n] : 0))
            fail_msg("byte %llu is %02x", (unsigned long long)n, got[n]);
    int fd = open(i->name, O_RDONLY);
    for (uint64_t at = 0; at < i->size;) {
        struct dp_extent x;
        assert_int_equal(dp_image_extent_all(i, at, i->size - at, &x), 0);
        assert_true(x.size && x.size <= i->size - at);
        if (x.kind == DP_EXTENT_ZEROS || x.kind == DP_EXTENT_UNALLOCATED) {
            assert_true(dp_is_zero(got + at, x.size));
        } else if (x.kind == DP_EXTENT_DATA && x.has_offset && !x.depth) {
            uint8_t *raw = malloc(x.size);
            assert_int_equal(pread(fd, raw, x.size, x.offset), x.size);
            assert_memory_equal(raw, got + at, x.size);
            free(raw);
        }
        at += x.size;
    }
    close(fd);
    free(got);
}

static void compare(const struct rig *r, const struct row *row)
{
    if (!row->ours)
        must(r, "qemu-img compare -f raw -F %s model image", row->format);
    if (row->checked)
        must(r, "qemu-img check -f %s image", row->format);
    struct dp_image_check c = {0};
    struct dp_error e = {0};
    struct dp_image *i = open_format(r, "image", row->format, true);
    if (i->format->check) {
        assert_ok(i->format->check(i, &c, &e), e);
        if (c.corruptions || c.leaks)
            fail_msg("%s %s: %llu corruptions, %llu leaks", row->format, row->options, (unsigned long long)c.corruptions,
                     (unsigned long long)c.leaks);
    }
    dp_image_close(i);
}

static void operate(struct rig *r, const struct row *row, uint8_t *model, uint64_t size, unsigned rounds)
{
    struct dp_random *random = &r->random;
    for (unsigned round = 0; round < rounds; round++) {
        struct dp_image *i = open_format(r, "image", row->format, false);
        for (unsigned k = 0; k < 60; k++) {
            uint64_t v = dp_random_next(random), offset = v % size, n = 1 + (v >> 40) % (v & 1 ? 4096 : 1500000);
            if (v & 2)
                offset = DP_ALIGN_DOWN(offset, (uint64_t)512), n = DP_ALIGN_UP(n, (uint64_t)512);
            n = DP_MIN(n, size - offset);
            switch (dp_random_next(random) % 12) {
            case 0: case 1:
                assert_int_equal(dp_image_zero(i, offset, n, dp_random_next(random) & 1 ? DP_ZERO_UNMAP : 0), 0);
                memset(model + offset, 0, n);
                break;
            case 2:
                assert_int_equal(dp_image_zero(i, offset, n, DP_ZERO_UNMAP | DP_ZERO_DISCARD), 0);
                assert_int_equal(dp_image_pread(i, model + offset, n, offset), 0);
                break;
            case 3: assert_int_equal(dp_image_flush(i), 0); break;
            default:
                fill(random, model + offset, n);
                assert_int_equal(dp_image_pwrite(i, model + offset, n, offset), 0);
            }
        }
        expect_image(r, i, model, size);
        dp_image_close(i);
        write_file(r, "model", model, size);
        compare(r, row);
    }
}

static void copy_ours(struct rig *r, const struct row *row)
{
    struct dp_error e = {0};
    struct dp_image *from = open_format(r, "model", "raw", true), *to = open_format(r, "image", row->format, false);
    struct dp_image_copy c = {.from = from, .to = to, .sparse = 4096, .packed = row->packed, .zeroed = true};
    assert_ok(dp_image_copy(&c, NULL, &e), e);
    assert_int_equal(dp_image_flush(to), 0);
    dp_image_close(from);
    dp_image_close(to);
}

static void test_matrix(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    for (unsigned n = 0; n < DP_ARRAY_LEN(rows); n++) {
        const struct row *row = &rows[n];
        unsigned before = combinations;
        for (unsigned s = 0; s < DP_ARRAY_LEN(sizes); s++) {
            uint64_t size = sizes[s];
            uint8_t *model = malloc(size);
            const char *o = *row->options ? "-o" : "";
            fill(&r->random, model, size);
            write_file(r, "model", model, size);
            must(r, "rm -f image*; qemu-img convert -f raw -O %s %s '%s' model image || qemu-img convert -f raw -O %s %s %s model image",
                 row->format, o, row->options, row->format, o, row->options);
            struct dp_image *i = open_format(r, "image", row->format, true); /* theirs, read by us */
            expect_image(r, i, model, size);
            dp_image_close(i);
            compare(r, row);
            combinations++;
            if (!row->packed) { /* theirs, written by us */
                operate(r, row, model, size, 2);
                combinations++;
            }
            must(r, "rm -f image*");
            fill(&r->random, model, size);
            write_file(r, "model", model, size);
            create_ours(r, row, size); /* ours, read by them */
            copy_ours(r, row);
            compare(r, row);
            i = open_format(r, "image", row->format, true);
            expect_image(r, i, model, size);
            dp_image_close(i);
            combinations++;
            if (!row->packed) { /* ours, written by us */
                must(r, "rm -f image*");
                create_ours(r, row, size);
                memset(model, 0, size);
                operate(r, row, model, size, 3);
                combinations++;
            }
            free(model);
        }
        print_message("%s %s: %u combinations\n", row->format, row->options, combinations - before);
    }
    print_message("%u combinations\n", combinations);
}

/* Made with the size that qemu-img gives it. */
static void test_sizes(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    for (unsigned n = 0; n < DP_ARRAY_LEN(rows); n++)
        for (uint64_t size = 512; size < 200ull << 30; size = size * 5 + 512) {
            const struct row *row = &rows[n];
            if (row->packed)
                continue;
            if (strstr(row->options, "fixed") || strstr(row->options, "static") || strstr(row->options, "lat"))
                if (size > 64 << 20)
                    break;
            must(r, "rm -f image*");
            create_ours(r, row, size);
            struct dp_image *i = open_format(r, "image", row->format, true);
            uint64_t ours = i->size;
            dp_image_close(i);
            must(r, "rm image*; qemu-img create -f %s %s %s image %llu", row->format, *row->options ? "-o" : "", row->options,
                 (unsigned long long)size);
            i = open_format(r, "image", row->format, true);
            if (i->size != ours)
                fail_msg("%s %s of %llu bytes: %llu, not %llu", row->format, row->options, (unsigned long long)size,
                         (unsigned long long)ours, (unsigned long long)i->size);
            dp_image_close(i);
        }
}

/* Over a parent; in several files. qemu-img reads the chain. */
static void test_vmdk_create(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    struct dp_error e = {0};
    enum { SIZE = 5 << 20 };
    uint8_t *model = malloc(SIZE);
    fill(&r->random, model, SIZE);
    write_file(r, "model", model, SIZE);
    must(r, "qemu-img convert -f raw -O vmdk -o subformat=twoGbMaxExtentSparse model base.vmdk");
    char path[128];
    snprintf(path, sizeof path, "%s/image", r->folder);
    struct dp_image_create o = {.name = path, .format = "vmdk", .size = SIZE, .backing = "base.vmdk", .backing_format = "vmdk"};
    static const char *const split[] = {"subformat=twoGbMaxExtentSparse", NULL}, *const flat[] = {"subformat=monolithicFlat", NULL};
    for (unsigned n = 0; n < 2; n++) {
        must(r, "rm -f image*; qemu-img convert -f vmdk -O raw base.vmdk model");
        o.option = n ? split : NULL;
        assert_ok(dp_image_create(&o, &e), e);
        uint8_t *copy = malloc(SIZE);
        memcpy(copy, model, SIZE);
        operate(r, &(struct row){"vmdk", .checked = true}, copy, SIZE, 2);
        free(copy);
    }
    o.option = flat;
    assert_int_equal(dp_image_create(&o, &e), -EINVAL);
    o.option = NULL;
    o.backing_format = "raw";
    assert_int_equal(dp_image_create(&o, &e), -EINVAL);
    /* More than one part, across their border; and what does not fit. */
    uint64_t size = (5ull << 30) + 512, border = 2ull << 30;
    o = (struct dp_image_create){.name = in(r, "many.vmdk"), .format = "vmdk", .size = size, .option = split};
    assert_ok(dp_image_create(&o, &e), e);
    struct dp_image *i = open_format(r, "many.vmdk", "vmdk", false);
    assert_int_equal(i->size, size);
    assert_int_equal(dp_image_pwrite(i, model, SIZE, border - 100000), 0);
    assert_int_equal(dp_image_pwrite(i, "x", 1, size - 1), 0);
    dp_image_close(i);
    write_file(r, "model", model, SIZE);
    must(r, "[ $(ls many-s00?.vmdk | wc -l) = 3 ] && qemu-img check many.vmdk && "
            "qemu-io -r -c 'read -P 0x78 %llu 1' many.vmdk | tee out && "
            "! grep -i fail out && qemu-img convert -O raw many.vmdk many && cmp -n %d -i %llu:0 many model",
         (unsigned long long)size - 1, SIZE, (unsigned long long)border - 100000);
    o.size = 201ull << 30;
    assert_int_equal(dp_image_create(&o, &e), -EFBIG);
    free(model);
}

static int try_open(const struct rig *r, const char *name, const char *format, bool readonly, struct dp_error *e)
{
    struct dp_image *i = NULL;
    memset(e, 0, sizeof *e);
    int rc = dp_image_open(&(struct dp_image_options){.name = in(r, name), .format = format, .readonly = readonly}, &i, e);
    if (!rc)
        dp_image_close(i);
    return rc;
}

/* A chain of three: written by us at its top; a parent that was changed since, and one elsewhere, are refused. */
static void test_vmdk_parents(void **state)
{
    struct rig *r = *state;
    static const struct row vmdk = {"vmdk", "", .checked = true};
    need_qemu_img(r);
    struct dp_error e;
    uint64_t size = 5 << 20;
    uint8_t *model = malloc(size);
    fill(&r->random, model, size);
    write_file(r, "model", model, size);
    must(r, "qemu-img convert -f raw -O vmdk model base.vmdk && qemu-img create -f vmdk -b base.vmdk -F vmdk middle.vmdk && "
            "qemu-io -f vmdk -c 'write -P 9 1M 70k' middle.vmdk && qemu-img create -f vmdk -b middle.vmdk -F vmdk image");
    memset(model + (1 << 20), 9, 70 << 10);
    operate(r, &vmdk, model, size, 3);
    struct dp_image *i = open_format(r, "image", "vmdk", true);
    assert_string_equal(i->backing_name, "middle.vmdk");
    assert_non_null(i->backing->backing);
    dp_image_close(i);
    must(r, "mkdir sub && sed 's|middle.vmdk|/etc/passwd|' image >sub/image");
    assert_int_equal(try_open(r, "sub/image", "vmdk", true, &e), -EACCES);
    assert_non_null(strstr(e.text, "outside its folder"));
    i = open_format(r, "middle.vmdk", "vmdk", false);
    assert_int_equal(dp_image_pwrite(i, "x", 1, 0), 0);
    dp_image_close(i);
    assert_int_equal(try_open(r, "image", "vmdk", true, &e), -EINVAL);
    assert_non_null(strstr(e.text, "changed since"));
    must(r, "sed 's|middle.vmdk|image|' image >self && mv self image");
    assert_int_equal(try_open(r, "image", "vmdk", true, &e), -EINVAL);
    must(r, "qemu-img create -f vmdk -o subformat=monolithicFlat flat.vmdk 1M && "
            "sed 's|\"flat-flat|\"/etc/passwd\" 0 #|' flat.vmdk >out.vmdk");
    assert_int_equal(try_open(r, "out.vmdk", "vmdk", true, &e), -EACCES);
    free(model);
}

static void be(uint8_t *p, unsigned bytes, uint64_t v)
{
    while (bytes--) {
        p[bytes] = v;
        v >>= 8;
    }
}

static void sum(uint8_t *p, size_t size, size_t field)
{
    uint32_t s = 0;
    be(p + field, 4, 0);
    for (size_t n = 0; n < size; n++)
        s += p[n];
    be(p + field, 4, ~s);
}

/* Whose size counts: Azure's and Hyper-V's footers mean their field, Virtual PC's the geometry. */
static void test_vhd_creators(void **state)
{
    struct rig *r = *state;
    enum { SIZE = (1 << 20) + 512 };
    static const struct row fixed = {"vpc", "subformat=fixed,force_size=on"};
    static const struct {
        char creator[5];
        bool field;
    } some[] = {{"wa\0", true}, {"win ", true}, {"vpc ", false}};
    for (unsigned n = 0; n < DP_ARRAY_LEN(some); n++) {
        uint8_t footer[512];
        must(r, "rm -f image");
        create_ours(r, &fixed, SIZE);
        int fd = open(in(r, "image"), O_RDWR);
        assert_int_equal(pread(fd, footer, 512, SIZE), 512);
        memcpy(footer + 28, some[n].creator, 4);
        sum(footer, 512, 64);
        assert_int_equal(pwrite(fd, footer, 512, SIZE), 512);
        close(fd);
        struct dp_image *i = open_format(r, "image", "vpc", true);
        assert_true((i->size == SIZE) == some[n].field);
        dp_image_close(i);
    }
}

/* A differencing VHD made by hand (qemu-img has none): two runs of sectors are its own. A footer that was cut off has a copy. */
static void test_vhd_parent(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    struct dp_error e;
    enum { SIZE = 4 << 20, BLOCK = 2 << 20, END = 2048 + 512 + BLOCK };
    uint8_t *model = malloc(SIZE), *file = calloc(1, END + 512), *parent = malloc(512);
    fill(&r->random, model, SIZE);
    write_file(r, "model", model, SIZE);
    must(r, "qemu-img convert -f raw -O vpc -o force_size=on model base.vhd && cp base.vhd cut.vhd && truncate -s -512 cut.vhd");
    struct dp_image *i = open_format(r, "cut.vhd", "vpc", true);
    expect_image(r, i, model, SIZE);
    dp_image_close(i);
    int fd = open(in(r, "base.vhd"), O_RDONLY);
    assert_int_equal(pread(fd, parent, 512, 0), 512);
    close(fd);
    memcpy(file, parent, 512);
    be(file + 60, 4, 4);
    memset(file + 68, 3, 16);
    sum(file, 512, 64);
    uint8_t *h = file + 512;
    memcpy(h, "cxsparse", 8);
    memset(h + 8, 0xff, 8);
    be(h + 16, 8, 1536);
    be(h + 24, 4, 0x10000);
    be(h + 28, 4, 2);
    be(h + 32, 4, BLOCK);
    memcpy(h + 40, parent + 68, 16);
    for (unsigned n = 0; n < 8; n++)
        h[64 + 2 * n + 1] = "base.vhd"[n];
    sum(h, 1024, 36);
    memset(file + 1536, 0xff, 512);
    be(file + 1540, 4, 4); /* the second block is at sector 4 */
    for (unsigned n = 0; n < 4096; n++) {
        if (n % 1000 < 37 || n == 4095) {
            file[2048 + n / 8] |= 0x80 >> n % 8;
            memset(file + 2560 + n * 512, n, 512);
            memset(model + BLOCK + n * 512, n, 512);
        } else {
            memset(file + 2560 + n * 512, 0xee, 512);
        }
    }
    memcpy(file + END, file, 512);
    write_file(r, "top.vhd", file, END + 512);
    i = open_format(r, "top.vhd", "vpc", true);
    assert_int_equal(i->size, SIZE);
    uint8_t *got = malloc(SIZE);
    for (uint64_t at = 0, n; at < SIZE; at += n) {
        n = 1 + dp_random_next(&r->random) % 9000;
        n = DP_MIN(n, SIZE - at);
        assert_int_equal(dp_image_pread(i, got + at, n, at), 0);
    }
    assert_memory_equal(got, model, SIZE);
    dp_image_close(i);
    must(r, "cp top.vhd image");
    operate(r, &(struct row){"vpc", .ours = true}, model, SIZE, 3); /* blocks that are in part the parent's become ours */
    file[512 + 40] ^= 1;
    sum(h, 1024, 36);
    write_file(r, "top.vhd", file, END + 512);
    assert_int_equal(try_open(r, "top.vhd", "vpc", true, &e), -EINVAL);
    assert_non_null(strstr(e.text, "UUIDs differ"));
    file[512 + 30] ^= 1; /* the checksum does not fit any more */
    write_file(r, "top.vhd", file, END + 512);
    assert_int_equal(try_open(r, "top.vhd", "vpc", true, &e), -EINVAL);
    /* Ours, over a dynamic one, then over that. */
    char path[128];
    snprintf(path, sizeof path, "%s/image", r->folder);
    struct dp_image_create o = {.name = path, .format = "vpc", .size = SIZE, .backing = "base.vhd", .backing_format = "vpc"};
    for (unsigned n = 0; n < 2; n++) {
        must(r, "rm -f image");
        assert_ok(dp_image_create(&o, &e), e);
        i = open_format(r, "image", "vpc", true);
        assert_int_equal(i->size, SIZE);
        assert_int_equal(dp_image_pread(i, model, SIZE, 0), 0);
        dp_image_close(i);
        operate(r, &(struct row){"vpc", .ours = true}, model, SIZE, 3);
        must(r, "mv image middle.vhd");
        o.backing = "middle.vhd";
    }
    struct dp_image_create bad = {.name = in(r, "bad"), .format = "vpc", .size = SIZE / 2, .backing = "base.vhd", .backing_format = "vpc"};
    assert_int_equal(dp_image_create(&bad, &e), -EINVAL);
    assert_non_null(strstr(e.text, "as large as its parent"));
    free(got);
    free(parent);
    free(file);
    free(model);
}

static void log_entry(int fd, uint8_t *entry, size_t size, off_t at)
{
    dp_st32(entry + 4, 0);
    dp_st32(entry + 4, dp_crc32c(0, entry, size));
    assert_int_equal(pwrite(fd, entry, size, at), (ssize_t)size);
}

/* A writer that died: the table lacks a block that the log has. Who reads sees it and changes nothing; who writes repairs it first. */
static void test_vhdx_log(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    enum { SIZE = 4 << 20, MIB = 1 << 20, LOG = MIB, BAT = 3 * MIB };
    static const struct row vhdx = {"vhdx", "block_size=1M", .checked = true};
    struct dp_error e;
    uint8_t *model = malloc(SIZE), entry[8192] = {0}, page[4096], header[4096], zeros[8] = {0};
    fill(&r->random, model, SIZE);
    model[0] = 1;
    write_file(r, "model", model, SIZE);
    create_ours(r, &vhdx, SIZE);
    copy_ours(r, &vhdx);
    int fd = open(in(r, "image"), O_RDWR);
    assert_int_equal(pread(fd, page, sizeof page, BAT), sizeof page);
    assert_int_equal(page[0] & 7, 6);
    memcpy(entry, "loge", 4);
    dp_st32(entry + 8, sizeof entry);
    dp_st64(entry + 16, 7);
    dp_st32(entry + 24, 1);
    memset(entry + 32, 5, 16);
    dp_st64(entry + 48, 4 * MIB);
    dp_st64(entry + 56, 4 * MIB);
    memcpy(entry + 64, "desc", 4);
    memcpy(entry + 68, page + 4092, 4);
    memcpy(entry + 72, page, 8);
    dp_st64(entry + 80, BAT);
    dp_st64(entry + 88, 7);
    memcpy(entry + 4096, "data", 4);
    memcpy(entry + 4104, page + 8, 4084);
    dp_st32(entry + 8188, 7);
    log_entry(fd, entry, sizeof entry, LOG);
    assert_int_equal(pwrite(fd, zeros, 8, BAT), 8);
    for (unsigned n = 1; n <= 2; n++) {
        assert_int_equal(pread(fd, header, sizeof header, n * 65536), sizeof header);
        memset(header + 48, 5, 16);
        memset(header + 4, 0, 4);
        dp_st32(header + 4, dp_crc32c(0, header, sizeof header));
        assert_int_equal(pwrite(fd, header, sizeof header, n * 65536), sizeof header);
    }
    must(r, "cp image theirs && cp image before && qemu-img check -r all -f vhdx theirs && qemu-img compare -f raw -F vhdx model theirs");
    struct dp_image *i = open_format(r, "image", "vhdx", true);
    expect_image(r, i, model, SIZE);
    dp_image_close(i);
    must(r, "cmp image before");
    i = open_format(r, "image", "vhdx", false);
    expect_image(r, i, model, SIZE);
    dp_image_close(i);
    compare(r, &vhdx);
    /* The contents are what they were: DataWriteGuid, by which children know their parent, too. FileWriteGuid is new, LogGuid zero. */
    must(r, "cmp -n 16 -i 65568 image before && cmp -n 16 -i 131104 image before && ! cmp -n 16 -i 65552 image before && "
            "cmp -n 16 -i 65584:0 image /dev/zero && cmp -n 16 -i 131120:0 image /dev/zero");
    /* The file was to become longer: then it does. It was longer once: then it was cut off. */
    must(r, "cp before image");
    dp_st64(entry + 56, 40 * MIB);
    log_entry(fd, entry, sizeof entry, LOG);
    i = open_format(r, "image", "vhdx", true);
    expect_image(r, i, model, SIZE);
    dp_image_close(i);
    i = open_format(r, "image", "vhdx", false);
    assert_int_equal(i->file->size, 40 * MIB);
    expect_image(r, i, model, SIZE);
    dp_image_close(i);
    must(r, "cp before image");
    dp_st64(entry + 48, 41 * MIB);
    log_entry(fd, entry, sizeof entry, LOG);
    assert_int_equal(try_open(r, "image", "vhdx", true, &e), -EINVAL);
    assert_non_null(strstr(e.text, "cut off"));
    /* It may not touch the headers. */
    dp_st64(entry + 48, 4 * MIB);
    dp_st64(entry + 80, 65536);
    log_entry(fd, entry, sizeof entry, LOG);
    assert_int_equal(try_open(r, "image", "vhdx", false, &e), -EINVAL);
    /* Nothing in it is valid: then nobody knows, until somebody says that it may be dropped. */
    must(r, "cp before image");
    entry[4096] ^= 1;
    assert_int_equal(pwrite(fd, entry, sizeof entry, LOG), sizeof entry);
    assert_int_equal(try_open(r, "image", "vhdx", true, &e), -EINVAL);
    assert_non_null(strstr(e.text, "nothing in its log is valid"));
    struct dp_image_check c = {.repair_all = true};
    assert_ok(dp_image_open(&(struct dp_image_options){.name = in(r, "image"), .format = "vhdx", .repair = true}, &i, &e), e);
    assert_ok(i->format->check(i, &c, &e), e);
    assert_true(c.corruptions_fixed == 1 && !c.corruptions);
    dp_image_close(i);
    assert_int_equal(try_open(r, "image", "vhdx", true, &e), 0);
    close(fd);
    free(model);
}

/* What programs leave that died, or what was cut off: the same for all four. */
static void test_damage(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    static const struct {
        struct row row;
        const char *damage; /* of an image of 8 MiB that is full; $1: it */
        uint64_t corruptions, leaks;
        bool keeps; /* the contents */
        int open;   /* for writing */
    } some[] = {
        {{"vdi", ""}, "dd if=$1 of=$1 bs=4 skip=128 seek=129 count=1 conv=notrunc", 1, 1, false, 0},  /* two in one place */
        {{"vdi", ""}, "printf '\\020\\0\\0\\0' | dd of=$1 bs=1 seek=512 conv=notrunc", 1, 1, false, -EIO}, /* behind the end */
        {{"vdi", ""}, "truncate -s +3M $1", 0, 3, true, 0},
        {{"vdi", ""}, "printf '\\377\\377\\377\\377' | dd of=$1 bs=1 seek=520 conv=notrunc", 0, 1, false, 0},
        {{"vpc", "force_size=on"}, "dd if=$1 of=$1 bs=4 skip=384 seek=385 count=1 conv=notrunc", 1, 1, false, 0},
        {{"vpc", "force_size=on"}, "truncate -s -512 $1", 1, 0, true, 0},
        {{"vpc", "force_size=on"}, "printf '\\0\\0\\0\\001' | dd of=$1 bs=1 seek=1536 conv=notrunc", 1, 0, false, -EIO},
        {{"vmdk", ""}, "truncate -s +200k $1", 0, 3, true, 0},
        {{"vmdk", ""}, "truncate -s -130k $1", 2, 0, false, -EIO},
        {{"vhdx", "block_size=1M"}, "dd if=$1 of=$1 bs=8 skip=393216 seek=393217 count=1 conv=notrunc", 1, 1, false, 0},
        {{"vhdx", "block_size=1M"}, "truncate -s +5M $1", 0, 5, true, 0},
        {{"vhdx", "block_size=1M"}, "truncate -s -2M $1", 2, 0, false, -EIO},
    };
    enum { SIZE = 8 << 20 };
    uint8_t *model = malloc(SIZE);
    for (size_t n = 0; n < SIZE; n++)
        model[n] = dp_random_next(&r->random) | 1;
    for (unsigned n = 0; n < DP_ARRAY_LEN(some); n++) {
        const char *format = some[n].row.format;
        struct dp_error e = {0};
        struct dp_image *i;
        must(r, "rm -f image");
        write_file(r, "model", model, SIZE);
        create_ours(r, &some[n].row, SIZE);
        copy_ours(r, &some[n].row);
        must(r, "set -- image; %s", some[n].damage);
        char path[128];
        snprintf(path, sizeof path, "%s/image", r->folder);
        struct dp_image_options o = {.name = path, .format = format, .repair = true, .readonly = true};
        for (unsigned round = 0; round < 3; round++, o.readonly = false) { /* looks, mends, looks again */
            struct dp_image_check c = {.repair_all = round == 1};
            assert_ok(dp_image_open(&o, &i, &e), e);
            assert_ok(i->format->check(i, &c, &e), e);
            uint64_t bad = round == 1 ? c.corruptions_fixed : c.corruptions, lost = round == 1 ? c.leaks_fixed : c.leaks;
            /* who was in two places takes up what was lost */
            if (round < 2 ? bad != some[n].corruptions || (!round && lost != some[n].leaks) : bad || lost)
                fail_msg("%s, %s: round %u: %llu corruptions, %llu leaks", format, some[n].damage, round, (unsigned long long)bad,
                         (unsigned long long)lost);
            if (round == 1 && some[n].open == -EIO && c.corruptions)
                fail_msg("%s, %s: not mended", format, some[n].damage);
            if (some[n].keeps)
                expect_image(r, i, model, SIZE);
            dp_image_close(i);
        }
        must(r, "[ %d = 0 ] || qemu-img compare -f raw -F %s model image", some[n].keeps, format);
        if (strcmp(format, "vpc"))
            must(r, "qemu-img check -f %s image", format);
        uint8_t *now = malloc(SIZE); /* it can be written again, all of it */
        i = open_format(r, "image", format, false);
        assert_int_equal(dp_image_pread(i, now, SIZE, 0), 0);
        dp_image_close(i);
        operate(r, &(struct row){format, .checked = strcmp(format, "vpc")}, now, SIZE, 1);
        free(now);
    }
    free(model);
}

/* A program that writes no leading zeros: there is no room for more digits. A complete streamOptimized image takes nothing more. */
static void test_vmdk_headers(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    struct dp_error e;
    must(r, "qemu-img create -f vmdk base 1M && cp base copy && perl -pi -e 's/^CID=(.)(.)(.*)/q(CID=5) . qq(\\n) . $3 =~ s|.|#|gr/e' base "
            "&& [ $(stat -c %%s base) = $(stat -c %%s copy) ] && grep -a '^CID=5$' base");
    struct dp_image *i = open_format(r, "base", "vmdk", false);
    assert_int_equal(dp_image_pwrite(i, "x", 1, 0), 0);
    uint8_t flag = 0;
    assert_int_equal(dp_image_pread(i->file, &flag, 1, 72), 0);
    assert_int_equal(flag, 1); /* uncleanShutdown */
    dp_image_close(i);
    must(r, "grep -a '^CID=[0-46-9a-f]$' base && grep -a ^parentCID=ffffffff$ base && qemu-img check base && "
            "cmp -n 1 -i 72:0 base /dev/zero");
    must(r, "qemu-img convert -O vmdk -o subformat=streamOptimized base packed && truncate -s %%512 packed && "
            "head -c 512 packed >footer && printf '\\377\\377\\377\\377\\377\\377\\377\\377' | "
            "dd of=packed bs=1 seek=56 conv=notrunc && cat footer >>packed && head -c 512 /dev/zero >>packed");
    assert_int_equal(try_open(r, "packed", "vmdk", true, &e), 0);
    assert_int_equal(try_open(r, "packed", "vmdk", false, &e), -ENOTSUP);
    assert_non_null(strstr(e.text, "with a footer"));
}

/* Children that we make; a block that is in part the parent's (made by hand, for nobody here makes such); a parent that was written. */
static void test_vhdx_parent(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    enum { SIZE = 6 << 20, MIB = 1 << 20, BAT = 3 * MIB, CHUNK = 4096 };
    struct dp_error e = {0};
    const char *const option[] = {"block_size=1M", NULL};
    const struct row child = {"vhdx", .ours = true};
    uint8_t *model = malloc(SIZE), *parent = malloc(SIZE), *bitmap = calloc(1, MIB), entry[8];
    fill(&r->random, model, SIZE);
    model[0] = 1;
    write_file(r, "model", model, SIZE);
    must(r, "qemu-img convert -f raw -O vhdx -o block_size=1M model base.vhdx");
    char path[128];
    snprintf(path, sizeof path, "%s/image", r->folder);
    struct dp_image_create o = {.name = path, .format = "vhdx", .size = SIZE, .backing = "base.vhdx", .backing_format = "vhdx",
                                .option = option};
    for (unsigned n = 0; n < 2; n++) {
        must(r, "rm -f image");
        assert_ok(dp_image_create(&o, &e), e);
        operate(r, &child, model, SIZE, 3);
        must(r, "mv image middle.vhdx");
        o.backing = "middle.vhdx";
    }
    must(r, "rm -f middle.vhdx");
    o.backing = "base.vhdx";
    assert_ok(dp_image_create(&o, &e), e);
    struct dp_image *i = open_format(r, "image", "vhdx", false);
    assert_int_equal(dp_image_pread(i, parent, SIZE, 0), 0);
    memcpy(model, parent, SIZE);
    memset(model + MIB, 7, MIB);
    assert_int_equal(dp_image_pwrite(i, model + MIB, MIB, MIB), 0);
    uint64_t end = i->file->size;
    dp_image_close(i);
    for (unsigned n = 0; n < 2048; n++) {
        if (n % 300 < 47 || n == 2047)
            bitmap[(2048 + n) / 8] |= 1 << n % 8;
        else
            memcpy(model + MIB + n * 512, parent + MIB + n * 512, 512);
    }
    int fd = open(in(r, "image"), O_RDWR);
    assert_int_equal(pread(fd, entry, 8, BAT + 8), 8);
    assert_int_equal(entry[0], 6);
    entry[0] = 7;
    assert_int_equal(pwrite(fd, entry, 8, BAT + 8), 8);
    assert_int_equal(try_open(r, "image", "vhdx", true, &e), 0);
    i = open_format(r, "image", "vhdx", true);
    uint8_t byte;
    assert_int_equal(dp_image_pread(i, &byte, 1, MIB), -EIO); /* there is no bitmap */
    dp_image_close(i);
    assert_int_equal(pwrite(fd, bitmap, MIB, end), MIB);
    dp_st64(entry, end | 6);
    assert_int_equal(pwrite(fd, entry, 8, BAT + CHUNK * 8), 8);
    i = open_format(r, "image", "vhdx", true);
    expect_image(r, i, model, SIZE);
    dp_image_close(i);
    operate(r, &child, model, SIZE, 3);
    assert_int_equal(pread(fd, entry, 8, BAT + 8), 8);
    assert_int_equal(entry[0], 6);
    close(fd);
    i = open_format(r, "base.vhdx", "vhdx", false); /* only looked at: nothing changes */
    dp_image_close(i);
    assert_int_equal(try_open(r, "image", "vhdx", true, &e), 0);
    i = open_format(r, "base.vhdx", "vhdx", false);
    assert_int_equal(dp_image_pwrite(i, "x", 1, 0), 0);
    dp_image_close(i);
    assert_int_equal(try_open(r, "image", "vhdx", true, &e), -EINVAL);
    assert_non_null(strstr(e.text, "changed since"));
    must(r, "mkdir sub && mv image sub");
    assert_int_equal(try_open(r, "sub/image", "vhdx", true, &e), -ENOENT);
    free(bitmap);
    free(parent);
    free(model);
}

static void test_grow(void **state)
{
    struct rig *r = *state;
    need_qemu_img(r);
    static const struct row grow[] = {{"vdi", "", .checked = true}, {"vpc", "force_size=on"}, {"vpc", ""},
                                      {"vhdx", "block_size=1M", .checked = true},
                                      {"vhdx", "block_state_zero=off", .checked = true}};
    for (unsigned n = 0; n < DP_ARRAY_LEN(grow); n++)
        for (unsigned theirs = 0; theirs < 2; theirs++) {
            struct dp_error e = {0};
            uint64_t size = 3 << 20, larger = 9 << 20;
            must(r, "rm -f image");
            if (theirs)
                must(r, "qemu-img create -f %s %s %s image %llu", grow[n].format, *grow[n].options ? "-o" : "", grow[n].options,
                     (unsigned long long)size);
            else
                create_ours(r, &grow[n], size);
            struct dp_image *i = open_format(r, "image", grow[n].format, true);
            size = i->size;
            dp_image_close(i);
            uint8_t *model = calloc(1, 2 * larger);
            operate(r, &grow[n], model, size, 1);
            if (theirs && !strcmp(grow[n].format, "vdi")) { /* it leaves no room behind its table */
                free(model);
                continue;
            }
            i = open_format(r, "image", grow[n].format, false);
            assert_ok(i->format->resize(i, larger, &e), e);
            assert_true(i->size >= larger && i->size < 2 * larger);
            larger = i->size;
            assert_int_equal(i->format->resize(i, size, &e), -ENOTSUP);
            dp_image_close(i);
            operate(r, &grow[n], model, larger, 2);
            i = open_format(r, "image", grow[n].format, false); /* far: the table grows by more than a page */
            assert_int_equal(i->size, larger);
            if (strcmp(grow[n].format, "vdi")) {
                assert_ok(i->format->resize(i, 30ull << 30, &e), e);
                assert_true(i->size >= 30ull << 30);
                assert_int_equal(dp_image_pwrite(i, "end", 3, i->size - 3), 0);
                assert_int_equal(dp_image_pwrite(i, "begin", 5, 0), 0);
                memcpy(model, "begin", 5);
                char end[3];
                assert_int_equal(dp_image_flush(i), 0);
                assert_int_equal(dp_image_pread(i, end, 3, i->size - 3), 0);
                assert_memory_equal(end, "end", 3);
                uint8_t *got = malloc(larger);
                assert_int_equal(dp_image_pread(i, got, larger, 0), 0);
                assert_memory_equal(got, model, larger);
                free(got);
            }
            must(r, "qemu-img info -U -f %s image | grep -F '(%llu bytes)'", grow[n].format, (unsigned long long)i->size);
            dp_image_close(i);
            free(model);
        }
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_matrix, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(test_sizes, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(test_vmdk_create, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(test_vmdk_parents, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(test_vhdx_log, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(test_damage, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(test_vmdk_headers, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(test_vhd_creators, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(test_vhd_parent, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(test_vhdx_parent, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(test_grow, rig_setup, rig_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
