/* vdi.c - VirtualBox's disk images: dynamic and static; read, written, made, checked, grown.
 *
 * Model: a header, the table of blocks (offset_bmap: for each block of the disk its number among the blocks of the file, or that it is not
 * there, or zeros), then the blocks from offset_data on. A new block is the next one of the file. Snapshots of VirtualBox (differencing
 * images, by UUID only) are refused. Invariants: the table lies between the header and the first block and inside the file; data and the
 * header's blocks_allocated are on the disk before the table's entries are (table.h), and the header is one sector, written as a whole. Who
 * opens for writing looks the whole table through: a count that a crash left behind cannot give a block away twice. The first write of a
 * session changes uuidModify, by which VirtualBox sees that an image is not what its snapshots were made over.
 * Source: VirtualBox, VDICore.h (layout and constants); QEMU, block/vdi.c, comment at the top (names of the fields).
 */
#include <json-c/json.h>
#include <stdlib.h>

#include "block/table.h"

enum { SIGNATURE = 0x40, VERSION = 0x44, HEADER_SIZE = 0x48, IMAGE_TYPE = 0x4c, OFFSET_BMAP = 0x154, OFFSET_DATA = 0x158 };
enum { SECTOR_SIZE = 0x168, DISK_SIZE = 0x170, BLOCK_SIZE = 0x178, BLOCK_EXTRA = 0x17c, BLOCKS_IN_IMAGE = 0x180, BLOCKS_ALLOCATED = 0x184 };
enum { UUID_IMAGE = 0x188, UUID_MODIFY = 0x198, UUID_LINK = 0x1a8, UUID_PARENT = 0x1b8, HEADER = 512 };
enum { TYPE_DYNAMIC = 1, TYPE_STATIC = 2, BLOCK = 1 << 20, BLOCKS_MAX = 0x3fffffff };
#define MAGIC 0xbeda107fu
#define UNALLOCATED 0xffffffffu
#define ZEROS 0xfffffffeu

struct vdi {
    struct dp_image image;
    struct dp_table table;
    uint8_t header[HEADER];
    uint32_t type, bmap, data, block, blocks, allocated;
    bool modified;
};

static struct vdi *of(struct dp_image *i) { return (struct vdi *)i; }

static bool probe(const uint8_t *head, const uint8_t *tail, uint64_t length)
{
    return length >= HEADER && dp_ld32(head + SIGNATURE) == MAGIC;
}

static int get(void *owner, uint64_t n, uint64_t *at)
{
    struct vdi *v = owner;
    uint64_t entry = UNALLOCATED;
    int rc = dp_table_get(&v->table, v->bmap + 4 * n, 4, &entry);
    *at = entry >= ZEROS ? 0 : entry >= v->blocks ? DP_TABLE_NOWHERE : v->data + entry * v->block;
    return rc;
}

static int set(void *owner, uint64_t n, uint64_t at)
{
    struct vdi *v = owner;
    return dp_table_set(&v->table, v->bmap + 4 * n, 4, at ? (at - v->data) / v->block : UNALLOCATED);
}

static struct dp_table_map map(struct vdi *v)
{
    return (struct dp_table_map){.table = &v->table,
                                 .owner = v,
                                 .name = "block",
                                 .count = v->blocks,
                                 .bytes = v->block,
                                 .size = v->block,
                                 .align = v->block,
                                 .base = v->data,
                                 .unit = v->block,
                                 .dense = true,
                                 .get = get,
                                 .set = set};
}

/* How many blocks of the file are in use. */
static int count(struct vdi *v, struct dp_error *e)
{
    struct dp_table_map m = map(v);
    uint64_t end;
    int rc = dp_table_end(&m, &end);
    if (rc)
        return dp_error_set(e, rc,
                            "disk %s cannot be written, as its table points behind the end of the file; mend it with: "
                            "doppel image check -f vdi -r all %s",
                            v->image.name, v->image.name);
    v->allocated = DP_MAX(v->allocated, (end - v->data) / v->block);
    return 0;
}

static int open_(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    struct vdi *v = of(i);
    uint8_t *h = v->header;
    static const uint8_t none[16];
    int rc = dp_image_pread(i->file, h, HEADER, 0);
    if (rc)
        return dp_error_set(e, rc, "disk %s cannot be read: %s", i->name, strerror(-rc));
    if (!probe(h, NULL, i->file->size))
        return dp_error_set(e, -EINVAL, "disk %s is no vdi image; what is it? doppel image info %s", i->name, i->name);
    if (o->snapshot)
        return dp_error_set(e, -ENOENT, "disk %s: vdi images have no snapshots", i->name);
    if (dp_ld32(h + VERSION) != 0x10001)
        return dp_error_set(e, -ENOTSUP, "disk %s: vdi version %u.%u is not known; convert it with VirtualBox", i->name,
                            dp_ld16(h + VERSION + 2), dp_ld16(h + VERSION));
    v->type = dp_ld32(h + IMAGE_TYPE);
    if ((v->type != TYPE_DYNAMIC && v->type != TYPE_STATIC) || memcmp(h + UUID_LINK, none, 16) || memcmp(h + UUID_PARENT, none, 16))
        return dp_error_set(e, -ENOTSUP, "disk %s depends on another vdi image, by its UUID only: merge them with VirtualBox (clone)",
                            i->name);
    v->bmap = dp_ld32(h + OFFSET_BMAP);
    v->data = dp_ld32(h + OFFSET_DATA);
    v->block = dp_ld32(h + BLOCK_SIZE);
    v->blocks = dp_ld32(h + BLOCKS_IN_IMAGE);
    v->allocated = dp_ld32(h + BLOCKS_ALLOCATED);
    uint64_t size = dp_ld64(h + DISK_SIZE), end = v->bmap + 4ull * v->blocks;
    if (size <= INT64_MAX - 512)
        size = DP_ALIGN_UP(size, (uint64_t)512);
    if (dp_ld32(h + SECTOR_SIZE) != 512 || v->block < 512 || v->block > 256 << 20 || v->block & (v->block - 1) ||
        dp_ld32(h + BLOCK_EXTRA) || v->blocks > BLOCKS_MAX || size > (uint64_t)v->blocks * v->block || v->bmap < HEADER || v->bmap % 512 ||
        v->data % 512 || end > v->data || end > i->file->size || v->allocated > v->blocks)
        return dp_error_set(e, -EINVAL, "disk %s is damaged: the fields of its vdi header contradict each other", i->name);
    i->size = size;
    v->table.file = i->file;
    return i->readonly || o->repair ? 0 : count(v, e);
}

static void close_(struct dp_image *i) { dp_table_fini(&of(i)->table); }

static int extent(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x)
{
    struct vdi *v = of(i);
    uint64_t entry;
    int rc = dp_table_get(&v->table, v->bmap + 4 * (offset / v->block), 4, &entry);
    x->size = DP_MIN(size, v->block - offset % v->block);
    if (rc)
        return rc;
    if (entry >= ZEROS) {
        x->kind = entry == ZEROS ? DP_EXTENT_ZEROS : DP_EXTENT_UNALLOCATED;
        return 0;
    }
    x->has_offset = true;
    x->offset = v->data + entry * v->block + offset % v->block;
    return entry >= v->blocks || x->offset - offset % v->block >= i->file->size ? -EIO : 0;
}

static int write_header(struct vdi *v)
{
    dp_st32(v->header + BLOCKS_ALLOCATED, v->allocated);
    return dp_image_pwrite(v->image.file, v->header, HEADER, 0);
}

/* Before the first change. */
static int modify(struct vdi *v)
{
    if (v->modified)
        return 0;
    dp_random_uuid(v->header + UUID_MODIFY);
    int rc = write_header(v);
    if (!rc)
        rc = dp_image_flush(v->image.file);
    v->modified = !rc;
    return rc;
}

static int place(struct dp_image *i, uint64_t offset)
{
    struct vdi *v = of(i);
    if (v->allocated >= v->blocks)
        return -EIO;
    int rc = dp_image_zero(i->file, v->data + (uint64_t)v->allocated * v->block, v->block, 0);
    if (rc)
        return rc;
    v->allocated++;
    rc = write_header(v);
    return rc ? rc : dp_table_set(&v->table, v->bmap + 4 * (offset / v->block), 4, v->allocated - 1);
}

static int write_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    int rc = modify(of(i));
    return rc ? rc : dp_extent_write(i, c, offset, size, place);
}

static int zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags)
{
    int rc = modify(of(i));
    return rc ? rc : dp_extent_zero(i, offset, size, flags);
}

static bool dirty(const struct dp_image *i) { return ((const struct vdi *)i)->table.dirty; }

static int flush(struct dp_image *i)
{
    int rc = dp_table_commit(&of(i)->table);
    return rc ? rc : dp_image_flush(i->file);
}

static uint32_t cluster_size(const struct dp_image *i) { return ((const struct vdi *)i)->block; }

static int info(struct dp_image *i, struct json_object *o)
{
    json_object_object_add(o, "static", json_object_new_boolean(of(i)->type == TYPE_STATIC));
    return 0;
}

/* ---- grow ---- */

static int resize(struct dp_image *i, uint64_t size, struct dp_error *e)
{
    struct vdi *v = of(i);
    uint64_t blocks = (size - 1) / v->block + 1, entry;
    if (i->readonly)
        return dp_error_set(e, -EROFS, "disk %s is open read-only", i->name);
    if (size < i->size || !size || size % 512)
        return dp_error_set(e, -ENOTSUP, "disk %s: vdi images can only grow, by multiples of 512 bytes", i->name);
    if (blocks > BLOCKS_MAX || v->bmap + 4 * blocks > v->data || v->type == TYPE_STATIC)
        return dp_error_set(e, -ENOTSUP,
                            "disk %s has no room to grow in place; copy it to a format that has: doppel image convert -O qcow2 %s NEW",
                            i->name, i->name);
    int rc = 0;
    for (uint64_t n = v->blocks; !rc && n < blocks; n++) /* whatever was there */
        if (!(rc = dp_table_get(&v->table, v->bmap + 4 * n, 4, &entry)))
            rc = dp_table_set(&v->table, v->bmap + 4 * n, 4, UNALLOCATED);
    if (!rc && !(rc = modify(v)) && !(rc = flush(i))) {
        dp_st32(v->header + BLOCKS_IN_IMAGE, blocks);
        dp_st64(v->header + DISK_SIZE, size);
        rc = write_header(v);
    }
    if (rc || (rc = dp_image_flush(i->file)))
        return dp_error_set(e, rc, "disk %s cannot be resized: %s", i->name, strerror(-rc));
    v->blocks = blocks;
    i->size = size;
    return 0;
}

/* ---- check ---- */

/* The header's count, too: blocks that nothing points to count as lost, fewer than there are as damage. */
static int check(struct dp_image *i, struct dp_image_check *c, struct dp_error *e)
{
    struct vdi *v = of(i);
    struct dp_table_map m = map(v);
    uint64_t said = v->allocated, end, leaks = c->leaks, allocated = c->allocated;
    bool all = c->repair_all && !i->readonly, mend = (all || c->repair_leaks) && !i->readonly;
    if (i->file->size > v->data) /* where new blocks may be put while it is mended */
        v->allocated = DP_MAX((i->file->size - v->data + v->block - 1) / v->block, said);
    int rc = dp_table_check(i, &m, c, &end);
    allocated = c->allocated - allocated;
    uint64_t last = (end - v->data) / v->block, lost = said > last ? said - last : 0;
    if (!rc && lost > c->leaks + c->leaks_fixed - leaks) /* the file does not have them any more, or not yet */
        *(mend ? &c->leaks_fixed : &c->leaks) += lost - (c->leaks + c->leaks_fixed - leaks);
    if (!rc && said < allocated) {
        c->corruptions += !all;
        c->corruptions_fixed += all;
        if (c->report)
            c->report(c->opaque, "more blocks are in use than the header says");
    }
    v->allocated = mend && !c->corruptions ? last : DP_MAX(said, last);
    if (!rc && mend && !c->corruptions && (v->type != TYPE_STATIC || last < said) && !(rc = write_header(v)) &&
        !(rc = dp_image_flush(i->file)) && end < i->file->size)
        rc = i->file->format->resize ? i->file->format->resize(i->file, end, e) : 0;
    c->end = end;
    return rc ? dp_error_set(e, rc, "disk %s cannot be checked: %s", i->name, strerror(-rc)) : 0;
}

/* ---- create ---- */

static int create(const struct dp_image_create *o, struct dp_error *e)
{
    struct dp_image *file;
    bool fixed;
    uint8_t h[HEADER] = "<<< doppel disk image >>>\n", page[4096];
    const char *how = dp_image_create_option(o, "preallocation");
    int rc = dp_image_create_flag(o, "static", false, &fixed, e);
    if (rc)
        return rc;
    if (how && strcmp(how, "off") && strcmp(how, "metadata"))
        return dp_error_set(e, -EINVAL, "preallocation of a vdi image is off or metadata, not '%s'", how);
    fixed |= how && !strcmp(how, "metadata");
    if (o->backing)
        return dp_error_set(e, -ENOTSUP, "vdi images have no backing file here; use format qcow2");
    uint64_t size = o->size, blocks = size / BLOCK + (size % BLOCK != 0);
    if (blocks > 256 << 20)
        return dp_error_set(e, -EFBIG, "a vdi image of more than 256 TiB is not possible; use format qcow2");
    /* Room for the table to grow, and blocks where file systems like them. */
    uint64_t data = DP_ALIGN_UP(HEADER + 4 * blocks, (uint64_t)BLOCK);
    dp_st32(h + SIGNATURE, MAGIC);
    dp_st32(h + VERSION, 0x10001);
    dp_st32(h + HEADER_SIZE, 0x180);
    dp_st32(h + IMAGE_TYPE, fixed ? TYPE_STATIC : TYPE_DYNAMIC);
    dp_st32(h + OFFSET_BMAP, HEADER);
    dp_st32(h + OFFSET_DATA, data);
    dp_st32(h + SECTOR_SIZE, 512);
    dp_st64(h + DISK_SIZE, size);
    dp_st32(h + BLOCK_SIZE, BLOCK);
    dp_st32(h + BLOCKS_IN_IMAGE, blocks);
    dp_st32(h + BLOCKS_ALLOCATED, fixed ? blocks : 0);
    dp_random_uuid(h + UUID_IMAGE);
    dp_random_uuid(h + UUID_MODIFY);
    if ((rc = dp_image_create_file(o, &file, e)))
        return rc;
    rc = dp_image_zero(file, 0, data + (fixed ? blocks * BLOCK : 0), 0);
    for (uint64_t n = 0; !rc && n < blocks;) {
        uint64_t at = HEADER + 4 * n, k = 0;
        for (; k < sizeof page / 4 && n < blocks; k++, n++)
            dp_st32(page + 4 * k, fixed ? n : UNALLOCATED);
        rc = dp_image_pwrite(file, page, 4 * k, at);
    }
    if (!rc && !(rc = dp_image_flush(file)))
        rc = dp_image_pwrite(file, h, HEADER, 0);
    if (!rc)
        rc = dp_image_flush(file);
    dp_image_close(file);
    return rc ? dp_error_set(e, rc, "%s cannot be written: %s", o->name, strerror(-rc)) : 0;
}

static const struct dp_image_option options[] = {
    {"static", "on or off (off): all blocks have their places at once"}, {"preallocation", "off, or metadata: the same as static=on"}, {0}};

const struct dp_image_format dp_image_vdi = {
    .name = "vdi",
    .summary = "VirtualBox's",
    .instance_size = sizeof(struct vdi),
    .create_options = options,
    .probe = probe,
    .open = open_,
    .close = close_,
    .read = dp_extent_read,
    .write = write_,
    .zero = zero,
    .flush = flush,
    .dirty = dirty,
    .extent = extent,
    .resize = resize,
    .cluster_size = cluster_size,
    .info = info,
    .check = check,
    .create = create,
};
