/* vhdx_open.c - Hyper-V's disk images: headers, regions, metadata, and making them. Model, invariants, source: vhdx.h. */
#include <stdlib.h>

#include "block/vhdx.h"

enum { CHECKSUM = 4, SEQUENCE = 8, FILE_WRITE_GUID = 16, DATA_WRITE_GUID = 32, LOG_GUID = 48, LOG_VERSION = 64, VERSION = 66 };
enum { LOG_LENGTH = 68, LOG_OFFSET = 72 };
enum { REGION_1 = 192 << 10, REGION_2 = 256 << 10, REGION_TABLE = 65536, REGIONS_MAX = 2047, REGION_HEAD = 16, REGION_ENTRY = 32 };
enum { METADATA_TABLE = 65536, ITEM_HEAD = 32, ITEM_ENTRY = 32, ITEMS_MAX = 2047, ITEM_USER = 1, ITEM_DISK = 2, ITEM_REQUIRED = 4 };
enum { LEAVE_ALLOCATED = 1, HAS_PARENT = 2, BLOCK_MAX = 256 << 20 };
#define DISK_MAX (64ull << 40)

/* GUIDs as they are in the file. */
static const uint8_t guid_bat[16] = {0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08};
static const uint8_t guid_metadata[16] = {0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e};
enum item { FILE_PARAMETERS, DISK_SIZE, PAGE_83, LOGICAL_SECTOR, PHYSICAL_SECTOR, PARENT_LOCATOR, ITEMS };
static const struct {
    uint8_t guid[16];
    uint32_t size, flags;
} items[ITEMS] = {
    {{0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b}, 8, ITEM_REQUIRED},
    {{0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8}, 8, ITEM_REQUIRED | ITEM_DISK},
    {{0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46}, 16, ITEM_REQUIRED | ITEM_DISK},
    {{0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f}, 4, ITEM_REQUIRED | ITEM_DISK},
    {{0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44, 0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56}, 4, ITEM_REQUIRED | ITEM_DISK},
    {{0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c}, 0, ITEM_REQUIRED},
};

bool vhdx_probe(const uint8_t *head, const uint8_t *tail, uint64_t length) { return !memcmp(head, "vhdxfile", 8); }

static int damaged(struct dp_image *i, const char *what, struct dp_error *e)
{
    return dp_error_set(e, -EINVAL, "disk %s is damaged: %s", i->name, what);
}

const uint8_t *vhdx_data_write_guid(const struct vhdx *v) { return v->header + DATA_WRITE_GUID; }

static bool is_sum_right(uint8_t *p, size_t size)
{
    uint32_t sum = dp_ld32(p + CHECKSUM);
    dp_st32(p + CHECKSUM, 0);
    bool right = dp_crc32c(0, p, size) == sum;
    dp_st32(p + CHECKSUM, sum);
    return right;
}

static void set_sum(uint8_t *p, size_t size)
{
    dp_st32(p + CHECKSUM, 0);
    dp_st32(p + CHECKSUM, dp_crc32c(0, p, size));
}

static bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) { return a < b + b_size && b < a + a_size; }

bool vhdx_is_room(const struct vhdx *v, uint64_t at)
{
    return at >= VHDX_MIB && at < 1ull << 62 && !overlaps(at, v->block, v->bat, v->bat_length) &&
           !overlaps(at, v->block, v->metadata, v->metadata_length) && !(v->log_length && overlaps(at, v->block, v->log, v->log_length));
}

/* The file as the log leaves it; size bytes at a multiple of 8, read through the cache of tables. */
static int read_table(struct vhdx *v, void *data, uint64_t size, uint64_t at)
{
    int rc = 0;
    for (uint64_t n = 0, word; !rc && n < size; n += 8)
        if (!(rc = dp_table_get(&v->table, at + n, 8, &word)))
            memcpy((uint8_t *)data + n, &word, DP_MIN(size - n, (uint64_t)8));
    return rc;
}

/* ---- headers ---- */

static bool has_log(const struct vhdx *v)
{
    static const uint8_t none[16];
    return memcmp(v->header + LOG_GUID, none, 16);
}

static int read_headers(struct vhdx *v, struct dp_error *e)
{
    struct dp_image *i = &v->image;
    uint8_t h[2][VHDX_PAGE];
    bool good[2];
    for (unsigned n = 0; n < 2; n++) {
        int rc = dp_image_pread(i->file, h[n], VHDX_PAGE, n ? VHDX_HEADER_2 : VHDX_HEADER_1);
        if (rc)
            return dp_error_set(e, rc, "disk %s cannot be read: %s", i->name, strerror(-rc));
        good[n] = !memcmp(h[n], "head", 4) && is_sum_right(h[n], VHDX_PAGE);
    }
    if (!good[0] && !good[1])
        return damaged(i, "neither of its headers is whole", e);
    if (good[0] && good[1] && dp_ld64(h[0] + SEQUENCE) == dp_ld64(h[1] + SEQUENCE) && memcmp(h[0], h[1], VHDX_PAGE))
        return damaged(i, "its two headers have the same number, and are different", e);
    v->second = good[1] && (!good[0] || dp_ld64(h[1] + SEQUENCE) > dp_ld64(h[0] + SEQUENCE));
    memcpy(v->header, h[v->second], VHDX_PAGE);
    v->log_length = dp_ld32(v->header + LOG_LENGTH);
    v->log = dp_ld64(v->header + LOG_OFFSET);
    if (dp_ld16(v->header + VERSION) != 1 || (has_log(v) && dp_ld16(v->header + LOG_VERSION)))
        return dp_error_set(e, -ENOTSUP, "disk %s: this version of vhdx is not known", i->name);
    if (v->log_length && (v->log % VHDX_MIB || v->log_length % VHDX_MIB || v->log < VHDX_MIB || v->log > i->file->size ||
                          v->log_length > i->file->size - v->log))
        return damaged(i, "its log is not in the file", e);
    return 0;
}

static int write_header(struct vhdx *v)
{
    dp_st64(v->header + SEQUENCE, dp_ld64(v->header + SEQUENCE) + 1);
    set_sum(v->header, VHDX_PAGE);
    int rc = dp_image_pwrite(v->image.file, v->header, VHDX_PAGE, v->second ? VHDX_HEADER_1 : VHDX_HEADER_2);
    if (!rc && !(rc = dp_image_flush(v->image.file)))
        v->second = !v->second;
    return rc;
}

/* Both: neither may be of another time. */
static int write_headers(struct vhdx *v)
{
    int rc = write_header(v);
    return rc ? rc : write_header(v);
}

int vhdx_mark(struct vhdx *v, bool contents)
{
    if (contents ? v->contents_marked : v->marked)
        return 0;
    if (!v->marked)
        dp_random_uuid(v->header + FILE_WRITE_GUID);
    if (contents)
        dp_random_uuid(v->header + DATA_WRITE_GUID);
    int rc = write_headers(v);
    if (!rc) {
        v->marked = true;
        v->contents_marked |= contents;
    }
    return rc;
}

int vhdx_end_log(struct vhdx *v)
{
    memset(v->header + LOG_GUID, 0, 16);
    v->log_lost = false;
    int rc = dp_image_flush(v->image.file); /* what the log had before its end */
    return rc ? rc : write_headers(v);
}

/* ---- regions and metadata ---- */

static int read_regions(struct vhdx *v, uint8_t *table, struct dp_error *e)
{
    struct dp_image *i = &v->image;
    bool good = false;
    for (unsigned n = 0; !good && n < 2; n++) {
        int rc = read_table(v, table, REGION_TABLE, n ? REGION_2 : REGION_1);
        if (rc)
            return dp_error_set(e, rc, "disk %s cannot be read: %s", i->name, strerror(-rc));
        good = !memcmp(table, "regi", 4) && is_sum_right(table, REGION_TABLE) && dp_ld32(table + 8) <= REGIONS_MAX;
    }
    if (!good)
        return damaged(i, "neither of its region tables is whole", e);
    for (uint32_t n = 0; n < dp_ld32(table + 8); n++) {
        const uint8_t *p = table + REGION_HEAD + n * REGION_ENTRY;
        uint64_t at = dp_ld64(p + 16), length = dp_ld32(p + 24);
        bool is_bat = !memcmp(p, guid_bat, 16), is_metadata = !memcmp(p, guid_metadata, 16);
        if (at <= INT64_MAX)
            v->regions_end = DP_MAX(v->regions_end, at + length);
        v->others |= !is_bat && !is_metadata;
        if (!is_bat && !is_metadata) {
            if (dp_ld32(p + 28) & 1)
                return dp_error_set(e, -ENOTSUP, "disk %s has a region that has to be understood, and doppel does not", i->name);
            continue;
        }
        if (at % VHDX_MIB || length % VHDX_MIB || at < VHDX_MIB || !length || at > i->file->size || length > i->file->size - at ||
            (is_bat ? v->bat : v->metadata))
            return damaged(i, "a region is not in the file, or there twice", e);
        *(is_bat ? &v->bat : &v->metadata) = at;
        *(is_bat ? &v->bat_length : &v->metadata_length) = length;
    }
    if (!v->bat || !v->metadata || overlaps(v->bat, v->bat_length, v->metadata, v->metadata_length) ||
        (v->log_length &&
         (overlaps(v->log, v->log_length, v->bat, v->bat_length) || overlaps(v->log, v->log_length, v->metadata, v->metadata_length))))
        return damaged(i, "its regions are missing or overlap", e);
    return 0;
}

/* How many there must be: up to the last block, or, of a child, the last bitmap (2.5). */
static uint64_t bat_entries(const struct vhdx *v, uint64_t blocks)
{
    if (!blocks)
        return 0;
    return v->child ? ((blocks - 1) / v->chunk + 1) * (v->chunk + 1) : blocks + (blocks - 1) / v->chunk;
}

static int read_metadata(struct vhdx *v, uint8_t *table, const struct dp_image_options *o, struct dp_error *e)
{
    struct dp_image *i = &v->image;
    uint8_t value[ITEMS][16] = {0};
    uint64_t locator = 0, locator_length = 0;
    bool there[ITEMS] = {0};
    int rc = read_table(v, table, METADATA_TABLE, v->metadata);
    if (rc)
        return dp_error_set(e, rc, "disk %s cannot be read: %s", i->name, strerror(-rc));
    unsigned count = dp_ld16(table + 10);
    if (memcmp(table, "metadata", 8) || count > ITEMS_MAX)
        return damaged(i, "its table of metadata is none", e);
    for (unsigned n = 0; n < count; n++) {
        const uint8_t *p = table + ITEM_HEAD + n * ITEM_ENTRY;
        uint64_t at = dp_ld32(p + 16), length = dp_ld32(p + 20);
        unsigned k = 0;
        while (k < ITEMS && memcmp(p, items[k].guid, 16))
            k++;
        if (dp_ld32(p + 24) & ITEM_USER) /* GUIDs of users are theirs */
            k = ITEMS;
        if (k == ITEMS && dp_ld32(p + 24) & ITEM_REQUIRED)
            return dp_error_set(e, -ENOTSUP, "disk %s has metadata that have to be understood, and doppel does not", i->name);
        if (k == ITEMS)
            continue;
        if (there[k] || at < METADATA_TABLE || at % 4 || at + DP_MAX(length, 16u) > v->metadata_length ||
            (items[k].size && length != items[k].size))
            return damaged(i, "an item of its metadata is not in its place", e);
        there[k] = true;
        if (k == PARENT_LOCATOR) {
            locator = v->metadata + at;
            locator_length = length;
        }
        if (k == DISK_SIZE)
            v->size_at = v->metadata + at;
        for (unsigned w = 0; w < items[k].size && !rc; w += 4) {
            uint64_t word;
            if (!(rc = dp_table_get(&v->table, v->metadata + at + w, 4, &word)))
                dp_st32(value[k] + w, word);
        }
    }
    if (rc)
        return dp_error_set(e, rc, "disk %s cannot be read: %s", i->name, strerror(-rc));
    if (!there[FILE_PARAMETERS] || !there[DISK_SIZE] || !there[LOGICAL_SECTOR])
        return damaged(i, "its metadata lack the size of the disk, its blocks or sectors", e);
    v->child = dp_ld32(value[FILE_PARAMETERS] + 4) & HAS_PARENT;
    v->fixed = !v->child && dp_ld32(value[FILE_PARAMETERS] + 4) & LEAVE_ALLOCATED;
    memcpy(v->disk_id, value[PAGE_83], 16);
    i->size = dp_ld64(value[DISK_SIZE]);
    v->block = dp_ld32(value[FILE_PARAMETERS]);
    v->sector = dp_ld32(value[LOGICAL_SECTOR]);
    if ((v->sector != 512 && v->sector != 4096) || v->block < VHDX_MIB || v->block > BLOCK_MAX || v->block & (v->block - 1) ||
        i->size > DISK_MAX || i->size % v->sector)
        return damaged(i, "its metadata contradict each other", e);
    v->chunk = (1ull << 23) * v->sector / v->block;
    v->blocks = i->size / v->block + (i->size % v->block != 0);
    if (bat_entries(v, v->blocks) * 8 > v->bat_length)
        return damaged(i, "its block allocation table is too short", e);
    return v->child ? vhdx_open_parent(v, locator, locator_length, o, e) : 0;
}

int vhdx_open(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    struct vhdx *v = vhdx_of(i);
    uint8_t head[8];
    int rc = dp_image_pread(i->file, head, sizeof head, 0);
    if (rc)
        return dp_error_set(e, rc, "disk %s cannot be read: %s", i->name, strerror(-rc));
    if (!vhdx_probe(head, NULL, 0))
        return dp_error_set(e, -EINVAL, "disk %s is no vhdx image; what is it? doppel image info %s", i->name, i->name);
    if (o->snapshot)
        return dp_error_set(e, -ENOENT, "disk %s: vhdx images have no snapshots", i->name);
    v->table.file = i->file;
    if ((rc = read_headers(v, e)) || (has_log(v) && (rc = vhdx_replay(v, o->repair, e))))
        return rc;
    uint8_t *table = malloc(REGION_TABLE);
    rc = table ? read_regions(v, table, e) : dp_error_set(e, -ENOMEM, "disk %s: out of memory", i->name);
    if (!rc)
        rc = read_metadata(v, table, o, e);
    free(table);
    return rc;
}

/* ---- grow ---- */

int vhdx_resize(struct dp_image *i, uint64_t size, struct dp_error *e)
{
    struct vhdx *v = vhdx_of(i);
    uint64_t blocks = size / v->block + (size % v->block != 0), field;
    if (i->readonly)
        return dp_error_set(e, -EROFS, "disk %s is open read-only", i->name);
    if (size < i->size || size % v->sector || size > DISK_MAX)
        return dp_error_set(e, -ENOTSUP, "disk %s: vhdx images can only grow, to at most 64 TiB, by multiples of %u bytes", i->name,
                            v->sector);
    if (bat_entries(v, blocks) * 8 > v->bat_length || v->fixed || v->size_at / 512 != (v->size_at + 7) / 512)
        return dp_error_set(e, -ENOTSUP,
                            "disk %s has no room to grow in place; make a larger one and copy it: doppel image convert -O vhdx", i->name);
    int rc = vhdx_mark(v, true);
    for (uint64_t n = v->blocks; !rc && n < blocks; n++) { /* whatever was there, also in the entry for a bitmap before it */
        uint64_t at = v->bat + (n + n / v->chunk) * 8;
        if (n && n % v->chunk == 0)
            rc = dp_table_set(&v->table, at - 8, 8, 0);
        if (!rc)
            rc = dp_table_set(&v->table, at, 8, VHDX_ZERO);
    }
    if (!rc && !(rc = dp_image_flush(i))) {
        dp_st64((uint8_t *)&field, size);
        if (!(rc = dp_image_pwrite(i->file, &field, 8, v->size_at)))
            rc = dp_image_flush(i->file);
    }
    if (rc)
        return dp_error_set(e, rc, "disk %s cannot be resized: %s", i->name, strerror(-rc));
    v->blocks = blocks;
    i->size = size;
    return 0;
}

void vhdx_close(struct dp_image *i)
{
    struct vhdx *v = vhdx_of(i);
    dp_table_fini(&v->table);
    free(v->log_data);
    free(v->log_pages);
    free(v->patch);
}

/* ---- create ---- */

struct layout {
    uint64_t size, log, log_length, metadata, bat, bat_length, first, blocks, chunk;
    uint32_t block, sector, locator_length;
    bool fixed, zero;
    uint8_t disk_id[16], locator[VHDX_LOCATOR_ROOM]; /* of a child */
};

static int option_size(const struct dp_image_create *o, const char *key, uint64_t *value, struct dp_error *e)
{
    const char *text = dp_image_create_option(o, key);
    if (!text)
        return 0;
    int rc = dp_parse_size(text, value, e);
    return rc ? dp_error_prefix(e, rc, "option %s", key) : 0;
}

static int read_parent(const struct dp_image_create *o, struct layout *l, struct dp_error *e)
{
    struct dp_image *i;
    if (l->fixed)
        return dp_error_set(e, -EINVAL, "a fixed vhdx image has no parent");
    if (o->backing_format && strcmp(o->backing_format, "vhdx"))
        return dp_error_set(e, -EINVAL, "the parent of a vhdx image is a vhdx image; over %s use format qcow2", o->backing_format);
    char *path = dp_image_beside(o->name, o->backing);
    struct dp_image_options open = {.name = path, .format = "vhdx", .readonly = true, .backing_anywhere = true, .alone = true};
    int rc = path ? dp_image_open(&open, &i, e) : dp_error_set(e, -ENOMEM, "out of memory");
    if (!rc) {
        l->zero = false;
        l->sector = vhdx_of(i)->sector;
        memcpy(l->disk_id, vhdx_of(i)->disk_id, 16);
        l->locator_length = vhdx_make_locator(o, l->locator, vhdx_of(i), e);
        dp_image_close(i);
    }
    free(path);
    return rc ? rc : l->locator_length ? 0 : -EINVAL;
}

static int plan(const struct dp_image_create *o, struct layout *l, struct dp_error *e)
{
    const char *type = dp_image_create_option(o, "subformat");
    uint64_t block = 0;
    l->log_length = VHDX_MIB;
    l->fixed = type && !strcmp(type, "fixed");
    if (type && !l->fixed && strcmp(type, "dynamic"))
        return dp_error_set(e, -EINVAL, "subformat of a vhdx image is dynamic or fixed, not '%s'", type);
    int rc = dp_image_create_flag(o, "block_state_zero", true, &l->zero, e);
    if (rc || (rc = option_size(o, "block_size", &block, e)) || (rc = option_size(o, "log_size", &l->log_length, e)))
        return rc;
    l->sector = 512;
    if (o->backing && (rc = read_parent(o, l, e)))
        return rc;
    if (!block && o->backing)
        block = 2 << 20; /* what a child copies when it writes a sector */
    if (!block)
        block = o->size > 32ull << 40 ? 64 << 20 : o->size > 100ull << 30 ? 32 << 20 : o->size > 1ull << 30 ? 16 << 20 : 8 << 20;
    if (block < VHDX_MIB || block > BLOCK_MAX || block & (block - 1))
        return dp_error_set(e, -EINVAL, "block_size is a power of 2 from 1M to 256M");
    if (!l->log_length || l->log_length % VHDX_MIB || l->log_length > VHDX_LOG_MAX)
        return dp_error_set(e, -EINVAL, "log_size is a multiple of 1M, at most 16M");
    if (o->size > DISK_MAX)
        return dp_error_set(e, -EFBIG, "a vhdx image has at most 64 TiB; use format qcow2");
    l->size = DP_ALIGN_UP(o->size, (uint64_t)l->sector);
    l->block = block;
    l->chunk = (1ull << 23) * l->sector / block;
    l->blocks = l->size / block + (l->size % block != 0);
    l->log = VHDX_MIB;
    l->metadata = l->log + l->log_length;
    l->bat = l->metadata + VHDX_MIB;
    l->bat_length = DP_ALIGN_UP((l->blocks / l->chunk + 1) * (l->chunk + 1) * 8, (uint64_t)VHDX_MIB); /* enough for a child's bitmaps */
    l->first = l->bat + l->bat_length;
    return 0;
}

static void make_metadata(const struct layout *l, uint8_t *p)
{
    memcpy(p, "metadata", 8);
    unsigned count = l->locator_length ? ITEMS : PARENT_LOCATOR;
    dp_st16(p + 10, count);
    uint32_t at = METADATA_TABLE;
    for (unsigned k = 0; k < count; k++) {
        uint32_t size = k == PARENT_LOCATOR ? l->locator_length : items[k].size;
        uint8_t *entry = p + ITEM_HEAD + k * ITEM_ENTRY;
        memcpy(entry, items[k].guid, 16);
        dp_st32(entry + 16, at);
        dp_st32(entry + 20, size);
        dp_st32(entry + 24, items[k].flags);
        switch (k) {
        case FILE_PARAMETERS:
            dp_st32(p + at, l->block);
            dp_st32(p + at + 4, (l->fixed ? LEAVE_ALLOCATED : 0) | (l->locator_length ? HAS_PARENT : 0));
            break;
        case DISK_SIZE:
            dp_st64(p + at, l->size);
            break;
        case PAGE_83:
            dp_random_uuid(p + at);
            if (l->locator_length)
                memcpy(p + at, l->disk_id, 16);
            break;
        case LOGICAL_SECTOR:
            dp_st32(p + at, l->sector);
            break;
        case PARENT_LOCATOR:
            memcpy(p + at, l->locator, size);
            break;
        default:
            dp_st32(p + at, 4096);
        }
        at += size;
    }
}

static int write_bat(struct dp_image *file, const struct layout *l)
{
    uint8_t page[4096];
    uint64_t entries = l->blocks ? l->blocks + (l->blocks - 1) / l->chunk : 0, block = 0;
    int rc = 0;
    for (uint64_t n = 0; !rc && n < entries;) {
        uint64_t at = l->bat + n * 8, k = 0;
        for (; k < sizeof page / 8 && n < entries; k++, n++) {
            bool bitmap = n % (l->chunk + 1) == l->chunk;
            dp_st64(page + k * 8, bitmap ? 0 : l->fixed ? (l->first + block * l->block) | VHDX_FULLY_PRESENT : l->zero ? VHDX_ZERO : 0);
            block += !bitmap;
        }
        rc = dp_image_pwrite(file, page, k * 8, at);
    }
    return rc;
}

static int write_image(struct dp_image *file, const struct layout *l, uint8_t *p)
{
    int rc = dp_image_zero(file, 0, l->first + (l->fixed ? l->blocks * l->block : 0), 0);
    make_metadata(l, p);
    if (rc || (rc = dp_image_pwrite(file, p, METADATA_TABLE + 2 * VHDX_PAGE, l->metadata)) || (rc = write_bat(file, l)))
        return rc;
    memset(p, 0, REGION_TABLE);
    memcpy(p, "regi", 4);
    dp_st32(p + 8, 2);
    for (unsigned n = 0; n < 2; n++) {
        uint8_t *entry = p + REGION_HEAD + n * REGION_ENTRY;
        memcpy(entry, n ? guid_metadata : guid_bat, 16);
        dp_st64(entry + 16, n ? l->metadata : l->bat);
        dp_st32(entry + 24, n ? VHDX_MIB : l->bat_length);
        dp_st32(entry + 28, 1);
    }
    set_sum(p, REGION_TABLE);
    if ((rc = dp_image_pwrite(file, p, REGION_TABLE, REGION_1)) || (rc = dp_image_pwrite(file, p, REGION_TABLE, REGION_2)))
        return rc;
    memset(p, 0, VHDX_PAGE);
    memcpy(p, "head", 4);
    dp_random_uuid(p + FILE_WRITE_GUID);
    dp_random_uuid(p + DATA_WRITE_GUID);
    dp_st16(p + VERSION, 1);
    dp_st32(p + LOG_LENGTH, l->log_length);
    dp_st64(p + LOG_OFFSET, l->log);
    for (unsigned n = 0; !rc && n < 2; n++) {
        dp_st64(p + SEQUENCE, n + 1);
        set_sum(p, VHDX_PAGE);
        rc = dp_image_pwrite(file, p, VHDX_PAGE, n ? VHDX_HEADER_2 : VHDX_HEADER_1);
    }
    memset(p, 0, VHDX_PAGE);
    memcpy(p, "vhdxfile", 8);
    for (unsigned n = 0; n < 6; n++)
        p[8 + 2 * n] = "doppel"[n];
    if (!rc && !(rc = dp_image_flush(file)) && !(rc = dp_image_pwrite(file, p, VHDX_PAGE, 0)))
        rc = dp_image_flush(file);
    return rc;
}

int vhdx_create(const struct dp_image_create *o, struct dp_error *e)
{
    struct layout l = {0};
    struct dp_image *file;
    uint8_t *p = calloc(1, METADATA_TABLE + 2 * VHDX_PAGE);
    int rc = p ? plan(o, &l, e) : dp_error_set(e, -ENOMEM, "out of memory");
    if (!rc && !(rc = dp_image_create_file(o, &file, e))) {
        if ((rc = write_image(file, &l, p)))
            dp_error_set(e, rc, "%s cannot be written: %s", o->name, strerror(-rc));
        dp_image_close(file);
    }
    free(p);
    return rc;
}

const struct dp_image_option vhdx_create_options[] = {{"subformat", "dynamic or fixed (dynamic)"},
                                                      {"block_size", "1M to 256M (by the size of the disk, from 8M)"},
                                                      {"log_size", "of the log, up to 16M (1M)"},
                                                      {"block_state_zero", "on or off (on): new blocks are zeros, not nothing"},
                                                      {0}};
