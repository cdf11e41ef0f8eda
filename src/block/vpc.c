/* vpc.c - Virtual PC's and Hyper-V's first disk images (VHD): fixed, dynamic and differencing; read, written, made, checked, grown.
 *
 * Model: a footer of 512 bytes at the end of the file describes the disk. Fixed: all before it is the disk. Dynamic: a copy of the footer
 * and a header at the beginning, the block allocation table (BAT: the sector of each block, or -1), and blocks: a bitmap of sectors, then
 * data. A new block takes the footer's place, and the footer moves behind it and is on the disk before anything overwrites the old one: at
 * any moment the file ends with its footer, and never with bytes of the guest that might look like another one. Differencing: what the
 * bitmap does not have is the parent's, which is named by locators and known by its UUID; a block that is written becomes the image's as a
 * whole, its bitmap last. Blocks lie wholly before the footer and not over
 * the header or the table; others are refused. A file without a footer at its end (of programs that do not wait) is read by the copy, and
 * gets one before it is written.
 * Which size counts is the writer's business: Virtual PC and QEMU ("qemu") mean the geometry, Hyper-V, Azure ("wa") and others the size in the footer.
 * Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0 (2006): "Hard Disk Footer Format", "Dynamic Disk Header Format",
 * "Block Allocation Table and Data Blocks", "Appendix: CHS Calculation"; QEMU, docs and block/vpc.c for whose size is the geometry's.
 */
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "block/table.h"

enum { FEATURES = 8, FILE_VERSION = 12, DATA_OFFSET = 16, TIMESTAMP = 24, CREATOR = 28, CREATOR_VERSION = 32, CREATOR_OS = 36 };
enum { ORIGINAL_SIZE = 40, CURRENT_SIZE = 48, GEOMETRY = 56, DISK_TYPE = 60, CHECKSUM = 64, UNIQUE_ID = 68, FOOTER = 512 };
enum {
    TABLE_OFFSET = 16,
    HEADER_VERSION = 24,
    ENTRIES = 28,
    BLOCK_SIZE = 32,
    HEADER_CHECKSUM = 36,
    PARENT_ID = 40,
    PARENT_TIME = 56,
    PARENT_NAME = 64
};
enum { LOCATORS = 576, LOCATOR = 24, LOCATOR_COUNT = 8, HEADER = 1024 };
enum { FIXED = 2, DYNAMIC = 3, DIFFERENCING = 4, SECTOR = 512, BLOCK = 2 << 20, EPOCH_2000 = 946684800 };
enum { ENTRIES_MAX = 1 << 28 }; /* blocks of 8 KiB at the largest size */
#define UNUSED 0xffffffffu
#define SECTORS_MAX 0xff000000ull /* 2040 GiB: what Virtual PC can have */
#define CHS_MAX (65535ull * 16 * 255)

struct vpc {
    struct dp_image image;
    struct dp_table table;
    uint8_t footer[FOOTER], parent_id[16];
    uint32_t type, entries, block, bitmap; /* bitmap: bytes before each block's data */
    uint64_t header_at, bat, free;         /* free: where the next block goes; the footer is there, if it is anywhere */
    bool tail, settled;                    /* tail: the footer is there; settled: every block is before it */
};

static struct vpc *of(struct dp_image *i) { return (struct vpc *)i; }
static uint32_t be32(const uint8_t *p) { return __builtin_bswap32(dp_ld32(p)); }
static uint64_t be64(const uint8_t *p) { return __builtin_bswap64(dp_ld64(p)); }
static void st32(uint8_t *p, uint32_t v) { dp_st32(p, __builtin_bswap32(v)); }
static void st64(uint8_t *p, uint64_t v) { dp_st64(p, __builtin_bswap64(v)); }

static uint32_t checksum(const uint8_t *p, size_t size, size_t field)
{
    uint32_t sum = 0;
    for (size_t n = 0; n < size; n++)
        sum += n >= field && n < field + 4 ? 0 : p[n];
    return ~sum;
}

static bool is_footer(const uint8_t *p) { return !memcmp(p, "conectix", 8) && be32(p + CHECKSUM) == checksum(p, FOOTER, CHECKSUM); }

static bool probe(const uint8_t *head, const uint8_t *tail, uint64_t length)
{
    return length >= FOOTER && (!memcmp(head, "conectix", 8) || is_footer(tail));
}

/* ---- opening ---- */

static int open_parent(struct dp_image *i, const uint8_t *header, const struct dp_image_options *o, struct dp_error *e)
{
    struct vpc *v = of(i);
    char name[DP_IMAGE_NAME_MAX + 1];
    uint8_t utf16[1024];
    bool found = false;
    memcpy(v->parent_id, header + PARENT_ID, 16);
    for (unsigned n = 0; !found && n < LOCATOR_COUNT; n++) {
        const uint8_t *l = header + LOCATORS + n * LOCATOR;
        uint64_t at = be64(l + 16), size = be32(l + 8);
        if (memcmp(l, "W2ru", 4) || size > sizeof utf16 || at > INT64_MAX)
            continue;
        int rc = dp_image_pread(i->file, utf16, size, at);
        if (rc)
            return dp_error_set(e, rc, "disk %s cannot be read: %s", i->name, strerror(-rc));
        found = dp_name_from_utf16(utf16, size / 2, false, name, sizeof name);
    }
    if (!found && !dp_name_from_utf16(header + PARENT_NAME, 256, true, name, sizeof name))
        return dp_error_set(e, -EINVAL, "disk %s is damaged: it has a parent without a name", i->name);
    int rc = dp_image_open_backing(i, name, "vpc", o, e);
    if (!rc && i->backing && memcmp(of(i->backing)->footer + UNIQUE_ID, v->parent_id, 16))
        return dp_error_set(e, -EINVAL, "disk %s was made over another image than %s (their UUIDs differ)", i->name, i->backing->name);
    return rc;
}

static int open_sparse(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    struct vpc *v = of(i);
    uint8_t h[HEADER];
    uint64_t at = be64(v->footer + DATA_OFFSET);
    if (at > INT64_MAX - HEADER || at + HEADER > i->file->size)
        return dp_error_set(e, -EINVAL, "disk %s is damaged: its header is not in the file", i->name);
    int rc = dp_image_pread(i->file, h, HEADER, at);
    if (rc)
        return dp_error_set(e, rc, "disk %s cannot be read: %s", i->name, strerror(-rc));
    v->header_at = at;
    v->bat = be64(h + TABLE_OFFSET);
    v->entries = be32(h + ENTRIES);
    v->block = be32(h + BLOCK_SIZE);
    if (memcmp(h, "cxsparse", 8) || be32(h + HEADER_CHECKSUM) != checksum(h, HEADER, HEADER_CHECKSUM))
        return dp_error_set(e, -EINVAL, "disk %s is damaged: the checksum of its header is wrong", i->name);
    if (v->block < SECTOR || v->block > 256 << 20 || v->block & (v->block - 1) || v->entries > ENTRIES_MAX ||
        (uint64_t)v->entries * v->block < i->size || v->bat % SECTOR || v->bat > i->file->size ||
        4ull * v->entries > i->file->size - v->bat)
        return dp_error_set(e, -EINVAL, "disk %s is damaged: the fields of its header contradict each other", i->name);
    v->bitmap = DP_ALIGN_UP(v->block / SECTOR / 8, (uint32_t)SECTOR);
    if (!v->bitmap)
        v->bitmap = SECTOR;
    return v->type == DIFFERENCING ? open_parent(i, h, o, e) : 0;
}

/* The disk's size as the program that made it meant it. */
static uint64_t disk_size(const uint8_t *footer)
{
    static const char by_size[][5] = {"win ", "qem2", "d2v ", "CTXS", "tap\0", "wa\0\0"};
    uint64_t chs = (uint64_t)(footer[GEOMETRY] << 8 | footer[GEOMETRY + 1]) * footer[GEOMETRY + 2] * footer[GEOMETRY + 3];
    if (!chs || chs >= CHS_MAX)
        return be64(footer + CURRENT_SIZE);
    for (unsigned n = 0; n < DP_ARRAY_LEN(by_size); n++)
        if (!memcmp(footer + CREATOR, by_size[n], 4))
            return be64(footer + CURRENT_SIZE);
    return chs * SECTOR;
}

static int open_(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    struct vpc *v = of(i);
    uint64_t length = i->file->size;
    int rc = length < FOOTER ? 0 : dp_image_pread(i->file, v->footer, FOOTER, length - FOOTER);
    bool tail = !rc && length >= FOOTER && is_footer(v->footer);
    if (!rc && !tail)
        rc = dp_image_pread(i->file, v->footer, FOOTER, 0); /* the copy of a file that was cut off */
    if (rc)
        return dp_error_set(e, rc, "disk %s cannot be read: %s", i->name, strerror(-rc));
    if (!is_footer(v->footer))
        return dp_error_set(e, -EINVAL, "disk %s is no VHD image, or its footer is damaged; what is it? doppel image info %s", i->name,
                            i->name);
    if (o->snapshot)
        return dp_error_set(e, -ENOENT, "disk %s: VHD images have no snapshots", i->name);
    v->tail = tail;
    v->type = be32(v->footer + DISK_TYPE);
    v->table.file = i->file;
    v->free = DP_ALIGN_UP(tail ? length - FOOTER : length, (uint64_t)SECTOR);
    i->size = DP_ALIGN_DOWN(disk_size(v->footer), (uint64_t)SECTOR);
    if (v->type < FIXED || v->type > DIFFERENCING || be32(v->footer + FILE_VERSION) >> 16 != 1)
        return dp_error_set(e, -ENOTSUP, "disk %s: VHD type %u is not known", i->name, v->type);
    if (i->size > SECTORS_MAX * SECTOR || (v->type == FIXED && (!tail || i->size > length - FOOTER)))
        return dp_error_set(e, -EINVAL, "disk %s is damaged: its size of %llu bytes is not possible", i->name, (unsigned long long)i->size);
    return v->type == FIXED ? 0 : open_sparse(i, o, e);
}

static void close_(struct dp_image *i) { dp_table_fini(&of(i)->table); }

/* ---- reading and writing ---- */

/* 32 bits of the bitmap at `start`: sector `sector` of the block is the topmost but sector % 32. */
static int bitmap_word(struct vpc *v, uint64_t start, uint32_t sector, uint32_t *word)
{
    uint64_t value = 0;
    int rc = dp_table_get(&v->table, start + sector / 32 * 4, 4, &value);
    *word = __builtin_bswap32(value);
    return rc;
}

/* How long the parent's, or this image's, sectors go on. */
static int cut_at_bitmap(struct vpc *v, uint64_t start, uint64_t inside, struct dp_extent *x)
{
    uint32_t sector = inside / SECTOR, end = (inside + x->size + SECTOR - 1) / SECTOR, n = sector, word;
    int rc = bitmap_word(v, start, sector, &word);
    bool here = !rc && word >> (31 - sector % 32) & 1;
    while (!rc && n < end && (word >> (31 - n % 32) & 1) == here)
        if (++n % 32 == 0 && n < end)
            rc = bitmap_word(v, start, n, &word);
    x->kind = here ? DP_EXTENT_DATA : DP_EXTENT_UNALLOCATED;
    x->size = DP_MIN(x->size, (uint64_t)n * SECTOR - inside);
    return rc;
}

/* May a block be there? Over the table or the header nobody has one but to have those overwritten. */
static bool is_room(const void *owner, uint64_t at)
{
    const struct vpc *v = owner;
    uint64_t end = at + v->bitmap + v->block;
    return at >= FOOTER && (at >= v->bat + 4ull * v->entries || end <= v->bat) && (at >= v->header_at + HEADER || end <= v->header_at);
}

static int extent(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x)
{
    struct vpc *v = of(i);
    if (v->type == FIXED) { /* holes of the file are zeros of the disk */
        int rc = dp_image_extent(i->file, offset, size, x);
        x->has_offset = true;
        x->offset = offset;
        return rc;
    }
    uint64_t entry, inside = offset % v->block;
    int rc = dp_table_get(&v->table, v->bat + offset / v->block * 4, 4, &entry);
    entry = __builtin_bswap32(entry);
    x->size = DP_MIN(size, v->block - inside);
    x->has_offset = false;
    x->kind = DP_EXTENT_UNALLOCATED;
    if (rc || entry == UNUSED)
        return rc;
    uint64_t start = entry * SECTOR;
    if (!is_room(v, start) || start + v->bitmap + v->block > v->free)
        return -EIO;
    x->kind = DP_EXTENT_DATA;
    if (v->type == DIFFERENCING)
        rc = cut_at_bitmap(v, start, inside, x);
    x->has_offset = x->kind == DP_EXTENT_DATA;
    x->offset = start + v->bitmap + inside;
    return rc;
}

static int get(void *owner, uint64_t n, uint64_t *at)
{
    struct vpc *v = owner;
    uint64_t entry = 0;
    int rc = dp_table_get(&v->table, v->bat + n * 4, 4, &entry);
    *at = (uint64_t)__builtin_bswap32(entry) * SECTOR;
    if (entry == UNUSED)
        *at = 0;
    else if (!is_room(v, *at) || *at + v->bitmap + v->block > v->free)
        *at = DP_TABLE_NOWHERE;
    return rc;
}

static int set(void *owner, uint64_t n, uint64_t at)
{
    struct vpc *v = owner;
    return dp_table_set(&v->table, v->bat + n * 4, 4, at ? __builtin_bswap32(at / SECTOR) : UNUSED);
}

static void refresh(struct dp_table_map *m) { m->limit = ((const struct vpc *)m->owner)->free; }

static struct dp_table_map map(struct vpc *v)
{
    struct dp_table_map m = {.table = &v->table,
                             .owner = v,
                             .name = "block",
                             .count = v->entries,
                             .bytes = v->block,
                             .size = v->bitmap + v->block,
                             .align = SECTOR,
                             .unit = SECTOR,
                             .crowded = v->type == DIFFERENCING,
                             .get = get,
                             .set = set,
                             .room = is_room,
                             .refresh = refresh};
    refresh(&m);
    return m;
}

/* The footer behind the blocks, and nothing goes on before it is on the disk. */
static int write_tail(struct vpc *v, uint64_t at)
{
    int rc = dp_image_pwrite(v->image.file, v->footer, FOOTER, at);
    return rc ? rc : dp_image_flush(v->image.file);
}

/* All of the block is the image's: in the table's cache, for the bitmap may be in one of its pages, and after the data is on the disk. */
static int set_bitmap(struct vpc *v, uint64_t start)
{
    int rc = 0;
    for (uint32_t n = 0; !rc && n < v->bitmap; n += 4)
        rc = dp_table_set(&v->table, start + n, 4, UINT32_MAX);
    return rc;
}

static int place(struct dp_image *i, uint64_t offset)
{
    struct vpc *v = of(i);
    uint64_t start = v->free, end = start + v->bitmap + v->block, entry;
    int there = dp_table_get(&v->table, v->bat + offset / v->block * 4, 4, &entry);
    if (there)
        return there;
    if (entry != UNUSED) { /* a part of it is the parent's */
        start = (uint64_t)__builtin_bswap32(entry) * SECTOR;
        there = dp_extent_fill(i, DP_ALIGN_DOWN(offset, (uint64_t)v->block), v->block, start + v->bitmap);
        return there ? there : set_bitmap(v, start);
    }
    uint8_t ones[SECTOR];
    struct dp_table_map m = map(v);
    int rc = v->settled ? 0 : dp_table_end(&m, &end);
    if (rc)
        return rc;
    v->settled = true;
    end = start + v->bitmap + v->block;
    if (end / SECTOR >= UNUSED)
        return -EFBIG;
    memset(ones, 0xff, sizeof ones);
    if (!(rc = write_tail(v, end)))
        rc = dp_image_zero(i->file, start + v->bitmap, v->block, 0);
    for (uint32_t n = 0; !rc && n < v->bitmap; n += SECTOR)
        rc = dp_image_pwrite(i->file, ones, SECTOR, start + n);
    if (!rc && v->type == DIFFERENCING && !(rc = dp_extent_fill(i, DP_ALIGN_DOWN(offset, (uint64_t)v->block), v->block, start + v->bitmap)))
        rc = set_bitmap(v, start);
    if (rc)
        return rc;
    v->free = end;
    v->tail = true;
    return set(v, offset / v->block, start);
}

static int read_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    return of(i)->type == FIXED ? dp_image_read(i->file, c, offset, size) : dp_extent_read(i, c, offset, size);
}

/* Before the first change: a file that was cut off gets its footer. */
static int mend_tail(struct vpc *v)
{
    int rc = v->tail ? 0 : write_tail(v, v->free);
    v->tail = !rc;
    return rc;
}

static int write_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    if (of(i)->type == FIXED)
        return dp_image_write(i->file, c, offset, size);
    int rc = mend_tail(of(i));
    return rc ? rc : dp_extent_write(i, c, offset, size, place);
}

static int zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags)
{
    if (of(i)->type == FIXED)
        return dp_image_zero(i->file, offset, size, flags);
    int rc = mend_tail(of(i));
    return rc ? rc : dp_extent_zero(i, offset, size, flags);
}

static bool dirty(const struct dp_image *i) { return ((const struct vpc *)i)->table.dirty; }

static int flush(struct dp_image *i)
{
    int rc = dp_table_commit(&of(i)->table);
    return rc ? rc : dp_image_flush(i->file);
}

static uint32_t cluster_size(const struct dp_image *i) { return ((const struct vpc *)i)->block; }

/* ---- geometry ---- */

static void geometry(uint64_t sectors, uint8_t out[4])
{
    sectors = DP_MIN(sectors, CHS_MAX);
    uint32_t per_track = 17, heads, rows;
    if (sectors > 65535ull * 16 * 63) {
        per_track = 255;
        heads = 16;
        rows = sectors / per_track;
    } else {
        rows = sectors / per_track;
        heads = DP_MAX((rows + 1023) / 1024, 4u);
        if (rows >= heads * 1024 || heads > 16) {
            per_track = 31;
            heads = 16;
            rows = sectors / per_track;
        }
        if (rows >= heads * 1024) {
            per_track = 63;
            heads = 16;
            rows = sectors / per_track;
        }
    }
    uint32_t cylinders = rows / heads;
    out[0] = cylinders >> 8;
    out[1] = cylinders;
    out[2] = heads;
    out[3] = per_track;
}

static uint64_t geometry_sectors(const uint8_t g[4]) { return (uint64_t)(g[0] << 8 | g[1]) * g[2] * g[3]; }

/* The smallest disk with a geometry that has all of them. */
static void round_up(uint64_t sectors, uint8_t g[4])
{
    for (uint64_t n = sectors;; n++) {
        geometry(n, g);
        if (geometry_sectors(g) >= sectors || n >= CHS_MAX)
            return;
    }
}

/* ---- grow ---- */

/* The table moves to where the next block would go, with room for entries. What was in its place is of no use then. */
static int move_table(struct vpc *v, uint64_t entries)
{
    struct dp_image *file = v->image.file;
    uint64_t at = v->free, old = 4ull * v->entries, end = at + DP_ALIGN_UP(4 * entries, (uint64_t)SECTOR);
    uint8_t page[4096], h[HEADER];
    int rc = dp_image_pread(file, h, HEADER, v->header_at);
    if (rc || (rc = write_tail(v, end)))
        return rc;
    v->free = end;
    v->tail = true;
    for (uint64_t n = 0; !rc && n < end - at; n += sizeof page) {
        uint64_t there = n < old ? DP_MIN(old - n, sizeof page) : 0;
        memset(page, 0xff, sizeof page);
        rc = dp_image_pread(file, page, there, v->bat + n);
        if (!rc)
            rc = dp_image_pwrite(file, page, DP_MIN(end - at - n, sizeof page), at + n);
    }
    st64(h + TABLE_OFFSET, at);
    st32(h + ENTRIES, entries);
    st32(h + HEADER_CHECKSUM, checksum(h, HEADER, HEADER_CHECKSUM));
    if (rc || (rc = dp_image_flush(file)) || (rc = dp_image_pwrite(file, h, SECTOR, v->header_at)) || (rc = dp_image_flush(file)))
        return rc;
    v->bat = at;
    v->entries = entries;
    dp_table_forget(&v->table);
    return 0;
}

/* The disk's size as its footer says it: those who go by the geometry get one that has at least as much. */
static int set_size(struct vpc *v, uint64_t size)
{
    uint8_t before[FOOTER];
    memcpy(before, v->footer, FOOTER);
    st64(v->footer + CURRENT_SIZE, size);
    round_up(size / SECTOR, v->footer + GEOMETRY);
    if (v->footer[GEOMETRY + 3] && disk_size(v->footer) != size) { /* of a size that has a geometry both are the same */
        size = geometry_sectors(v->footer + GEOMETRY) * SECTOR;
        st64(v->footer + CURRENT_SIZE, size);
    }
    st32(v->footer + CHECKSUM, checksum(v->footer, FOOTER, CHECKSUM));
    int rc = write_tail(v, v->free);
    if (!rc && !(rc = dp_image_pwrite(v->image.file, v->footer, FOOTER, 0)))
        rc = dp_image_flush(v->image.file);
    if (rc)
        memcpy(v->footer, before, FOOTER);
    else
        v->image.size = DP_ALIGN_DOWN(disk_size(v->footer), (uint64_t)SECTOR);
    return rc;
}

static int resize(struct dp_image *i, uint64_t size, struct dp_error *e)
{
    struct vpc *v = of(i);
    uint8_t g[4];
    if (i->readonly)
        return dp_error_set(e, -EROFS, "disk %s is open read-only", i->name);
    if (size < i->size || size > SECTORS_MAX * SECTOR)
        return dp_error_set(e, -ENOTSUP, "disk %s: VHD images can only grow, to at most 2040 GiB", i->name);
    if (v->type != DYNAMIC)
        return dp_error_set(e, -ENOTSUP,
                            "disk %s: only dynamic VHD images can grow here; make a larger one and copy it: "
                            "doppel image convert -O vpc",
                            i->name);
    round_up(size / SECTOR, g);
    uint64_t most = DP_MAX(size, geometry_sectors(g) * SECTOR), entries = most / v->block + (most % v->block != 0);
    int rc = entries > ENTRIES_MAX ? -EFBIG : dp_image_flush(i);
    if (!rc && entries > v->entries)
        rc = move_table(v, DP_ALIGN_UP(entries, (uint64_t)SECTOR / 4));
    if (!rc)
        rc = set_size(v, size);
    return rc ? dp_error_set(e, rc, "disk %s cannot be resized: %s", i->name, strerror(-rc)) : 0;
}

/* ---- check ---- */

/* The footer and its copy at the beginning. */
static int check_footers(struct vpc *v, struct dp_image_check *c, bool mend)
{
    uint8_t copy[FOOTER];
    int rc = dp_image_pread(v->image.file, copy, FOOTER, 0);
    bool same = !rc && !memcmp(copy, v->footer, FOOTER);
    if (rc || (same && v->tail))
        return rc;
    c->corruptions += !mend;
    c->corruptions_fixed += mend;
    if (c->report)
        c->report(c->opaque, v->tail ? "the copy of the footer is not as the footer" : "there is no footer at its end");
    if (mend && !(rc = write_tail(v, v->free)))
        v->tail = true;
    return rc || !mend || same ? rc : dp_image_pwrite(v->image.file, v->footer, FOOTER, 0);
}

static int check(struct dp_image *i, struct dp_image_check *c, struct dp_error *e)
{
    struct vpc *v = of(i);
    uint64_t end = v->free;
    bool all = c->repair_all && !i->readonly, mend = (all || c->repair_leaks) && !i->readonly;
    int rc = 0;
    if (v->type != FIXED) {
        struct dp_table_map m = map(v);
        v->settled = true; /* what points elsewhere is told of, and mended first */
        if (!(rc = check_footers(v, c, all)))
            rc = dp_table_check(i, &m, c, &end);
        v->settled = false;
        end = DP_MAX(end, DP_MAX(v->header_at + HEADER, DP_ALIGN_UP(v->bat + 4ull * v->entries, (uint64_t)SECTOR)));
        if (!rc && mend && !m.crowded && !c->corruptions && end < v->free && !(rc = write_tail(v, end))) {
            v->free = end;
            rc = i->file->format->resize ? i->file->format->resize(i->file, end + FOOTER, e) : 0;
        }
    }
    c->end = end + FOOTER;
    return rc ? dp_error_set(e, rc, "disk %s cannot be checked: %s", i->name, strerror(-rc)) : 0;
}

/* ---- create ---- */

static void make_footer(uint8_t *f, uint64_t size, const uint8_t g[4], unsigned type, bool force_size)
{
    memset(f, 0, FOOTER);
    memcpy(f, "conectix", 8);
    st32(f + FEATURES, 2);
    st32(f + FILE_VERSION, 0x10000);
    st64(f + DATA_OFFSET, type == FIXED ? UINT64_MAX : FOOTER);
    st32(f + TIMESTAMP, time(NULL) - EPOCH_2000);
    memcpy(f + CREATOR, force_size ? "qem2" : "qemu", 4); /* the names by which readers know which size counts */
    st32(f + CREATOR_VERSION, 0x50003);
    memcpy(f + CREATOR_OS, "Wi2k", 4);
    st64(f + ORIGINAL_SIZE, size);
    st64(f + CURRENT_SIZE, size);
    memcpy(f + GEOMETRY, g, 4);
    st32(f + DISK_TYPE, type);
    dp_random_uuid(f + UNIQUE_ID);
    st32(f + CHECKSUM, checksum(f, FOOTER, CHECKSUM));
}

/* What a child says of its parent. */
struct parent {
    uint8_t id[16], name[512], locator[1024]; /* UTF-16, big-endian; little-endian */
    uint32_t time, locator_size;
};

static int write_dynamic(struct dp_image *file, const uint8_t *footer, uint64_t size, const struct parent *p)
{
    uint8_t h[HEADER] = "cxsparse", ones[4096];
    uint64_t entries = size / BLOCK + (size % BLOCK != 0), at = FOOTER + HEADER, end = at + DP_ALIGN_UP(entries * 4, (uint64_t)SECTOR);
    int rc = 0;
    if (p) {
        uint64_t room = DP_ALIGN_UP(p->locator_size, (uint32_t)SECTOR);
        memcpy(h + PARENT_ID, p->id, 16);
        st32(h + PARENT_TIME, p->time);
        memcpy(h + PARENT_NAME, p->name, sizeof p->name);
        memcpy(h + LOCATORS, "W2ru", 4);
        st32(h + LOCATORS + 4, room);
        st32(h + LOCATORS + 8, p->locator_size);
        st64(h + LOCATORS + 16, end);
        rc = dp_image_pwrite(file, p->locator, room, end);
    }
    memset(h + 8, 0xff, 8);
    memset(ones, 0xff, sizeof ones);
    st64(h + TABLE_OFFSET, at);
    st32(h + HEADER_VERSION, 0x10000);
    st32(h + ENTRIES, entries);
    st32(h + BLOCK_SIZE, BLOCK);
    st32(h + HEADER_CHECKSUM, checksum(h, HEADER, HEADER_CHECKSUM));
    for (; !rc && at < end; at += DP_MIN(end - at, sizeof ones))
        rc = dp_image_pwrite(file, ones, DP_MIN(end - at, sizeof ones), at);
    if (p)
        end += DP_ALIGN_UP(p->locator_size, (uint32_t)SECTOR);
    if (!rc && !(rc = dp_image_pwrite(file, h, HEADER, FOOTER)) && !(rc = dp_image_pwrite(file, footer, FOOTER, end)))
        rc = dp_image_flush(file);
    return rc ? rc : dp_image_pwrite(file, footer, FOOTER, 0);
}

static int read_parent(const struct dp_image_create *o, struct parent *p, uint64_t *size, uint8_t g[4], struct dp_error *e)
{
    struct dp_image *i;
    struct stat st;
    char name[DP_IMAGE_NAME_MAX + 1];
    const char *slash = strrchr(o->backing, '/');
    if (o->backing_format && strcmp(o->backing_format, "vpc"))
        return dp_error_set(e, -EINVAL, "the parent of a VHD image is a VHD image (vpc); over %s use format qcow2", o->backing_format);
    snprintf(name, sizeof name, "%s%s", *o->backing == '/' ? "" : "./", o->backing);
    p->locator_size = dp_name_to_utf16(name, false, p->locator, sizeof p->locator);
    if (!p->locator_size || !dp_name_to_utf16(slash ? slash + 1 : o->backing, true, p->name, sizeof p->name) || strchr(o->backing, '\\') ||
        *o->backing == '/')
        return dp_error_set(e, -EINVAL, "%s: a VHD image names its parent by a path from its own folder, of at most 500 letters",
                            o->backing);
    char *path = dp_image_beside(o->name, o->backing);
    struct dp_image_options open = {.name = path, .format = "vpc", .readonly = true, .backing_anywhere = true, .alone = true};
    int rc = path ? dp_image_open(&open, &i, e) : dp_error_set(e, -ENOMEM, "out of memory");
    if (!rc) {
        memcpy(p->id, of(i)->footer + UNIQUE_ID, 16);
        memcpy(g, of(i)->footer + GEOMETRY, 4);
        p->time = stat(path, &st) ? 0 : st.st_mtime - EPOCH_2000;
        if (*size != i->size)
            rc = dp_error_set(e, -EINVAL, "a VHD image is as large as its parent: %llu bytes; leave the size away",
                              (unsigned long long)i->size);
        dp_image_close(i);
    }
    free(path);
    return rc;
}

static int create(const struct dp_image_create *o, struct dp_error *e)
{
    struct parent parent = {0};
    const char *subformat = dp_image_create_option(o, "subformat");
    struct dp_image *file;
    uint8_t footer[FOOTER], g[4];
    bool force_size, fixed = subformat && !strcmp(subformat, "fixed");
    if (subformat && !fixed && strcmp(subformat, "dynamic"))
        return dp_error_set(e, -EINVAL, "subformat of a VHD image is dynamic or fixed, not '%s'", subformat);
    int rc = dp_image_create_flag(o, "force_size", false, &force_size, e);
    if (rc)
        return rc;
    if (o->backing && fixed)
        return dp_error_set(e, -EINVAL, "a fixed VHD image has no parent");
    uint64_t sectors = o->size / SECTOR + (o->size % SECTOR != 0);
    if (sectors > SECTORS_MAX)
        return dp_error_set(e, -EFBIG, "a VHD image has at most 2040 GiB; use format vhdx or qcow2");
    force_size |= o->backing != NULL;
    if (force_size)
        geometry(sectors, g);
    else
        round_up(sectors, g);
    if (!force_size && geometry_sectors(g) < CHS_MAX)
        sectors = geometry_sectors(g);
    uint64_t size = sectors * SECTOR;
    if (o->backing && (rc = read_parent(o, &parent, &size, g, e)))
        return rc;
    make_footer(footer, size, g, fixed ? FIXED : o->backing ? DIFFERENCING : DYNAMIC, force_size);
    if ((rc = dp_image_create_file(o, &file, e)))
        return rc;
    if (!fixed)
        rc = write_dynamic(file, footer, sectors * SECTOR, o->backing ? &parent : NULL);
    else if (!(rc = dp_image_zero(file, 0, sectors * SECTOR, 0)))
        rc = dp_image_pwrite(file, footer, FOOTER, sectors * SECTOR);
    if (!rc)
        rc = dp_image_flush(file);
    dp_image_close(file);
    return rc ? dp_error_set(e, rc, "%s cannot be written: %s", o->name, strerror(-rc)) : 0;
}

static const struct dp_image_option options[] = {
    {"subformat", "dynamic or fixed (dynamic)"},
    {"force_size", "on or off (off): exactly the size asked for, not the next one that has a geometry"},
    {0}};

const struct dp_image_format dp_image_vpc = {
    .name = "vpc",
    .summary = "VHD: Virtual PC's, Azure's, Hyper-V's first",
    .instance_size = sizeof(struct vpc),
    .create_options = options,
    .probe = probe,
    .open = open_,
    .close = close_,
    .read = read_,
    .write = write_,
    .zero = zero,
    .flush = flush,
    .dirty = dirty,
    .extent = extent,
    .cluster_size = cluster_size,
    .resize = resize,
    .check = check,
    .create = create,
};
