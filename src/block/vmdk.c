/* vmdk.c - VMware's images: read, written, checked. Model, source: vmdk.h.
 *
 * A new grain goes to the end of its part's file, first its data, then, at a flush, its entries in both grain tables (table.h).
 */
#include <json-c/json.h>
#include <stdlib.h>
#include <sys/random.h>
#include <zlib.h>

#include "block/vmdk.h"

/* A piece of the disk inside one part, and one grain of it. */
struct piece {
    struct vmdk_part *part;
    enum dp_extent_kind kind;
    uint64_t size, at; /* at: in the part's file; of a packed grain, of its head */
};

static struct vmdk_part *part_at(struct vmdk *v, uint64_t offset)
{
    unsigned low = 0, high = v->parts;
    while (high - low > 1) {
        unsigned middle = (low + high) / 2;
        if (v->part[middle].first <= offset)
            low = middle;
        else
            high = middle;
    }
    return &v->part[low];
}

/* Where the entry of a grain is in the grain tables of one directory; 0: it has no table. */
static int entry_at(struct vmdk_part *p, uint64_t directory, uint64_t grain, uint64_t *at)
{
    uint64_t table;
    int rc = dp_table_get(&p->table, directory + grain / p->entries * 4, 4, &table);
    *at = table ? table * VMDK_SECTOR + grain % p->entries * 4 : 0;
    return rc;
}

static int find(struct vmdk *v, uint64_t offset, uint64_t size, struct piece *x)
{
    struct vmdk_part *p = part_at(v, offset);
    uint64_t inside = offset - p->first, at, entry;
    *x = (struct piece){p, DP_EXTENT_ZEROS, DP_MIN(size, p->size - inside), p->start + inside};
    if (p->kind == VMDK_ZERO)
        return 0;
    if (p->kind == VMDK_FLAT) {
        struct dp_extent e;
        int rc = dp_image_extent(p->file, x->at, x->size, &e);
        x->kind = e.kind;
        x->size = DP_MIN(x->size, e.size);
        return rc;
    }
    x->kind = DP_EXTENT_UNALLOCATED;
    x->size = DP_MIN(x->size, p->grain - inside % p->grain);
    int rc = entry_at(p, p->gd, inside / p->grain, &at);
    if (rc || !at || (rc = dp_table_get(&p->table, at, 4, &entry)))
        return rc;
    if (!entry)
        return 0;
    if (entry == 1 && p->zeroed) {
        x->kind = DP_EXTENT_ZEROS;
        return 0;
    }
    if (entry * VMDK_SECTOR < p->start || entry * VMDK_SECTOR >= p->file->size)
        return -EIO; /* over the tables, or behind the end */
    x->kind = p->packed ? DP_EXTENT_PACKED : DP_EXTENT_DATA;
    x->at = entry * VMDK_SECTOR + (p->packed ? 0 : inside % p->grain);
    return 0;
}

/* ---- packed grains ---- */

static int unpack(struct vmdk_part *p, uint64_t at)
{
    uint8_t head[VMDK_GRAIN_HEAD];
    if (p->plain_at == at)
        return 0;
    p->plain_at = 0;
    int rc = p->marked ? dp_image_pread(p->file, head, sizeof head, at) : 0;
    if (rc)
        return rc;
    uint32_t size = p->marked ? dp_ld32(head + 8) : DP_MIN(2ull * p->grain, p->file->size - at); /* the stream knows its end */
    if (!size || size > 2 * p->grain)
        return -EIO;
    if ((rc = dp_image_pread(p->file, p->scratch, size, at + (p->marked ? sizeof head : 0))))
        return rc;
    uLongf length = p->grain;
    if (uncompress(p->plain, &length, p->scratch, size) != Z_OK)
        return -EIO;
    memset(p->plain + length, 0, p->grain - length);
    p->plain_at = at;
    return 0;
}

static int set_entry(struct vmdk_part *p, uint64_t grain, uint64_t at)
{
    uint64_t first, second = 0;
    int rc = entry_at(p, p->gd, grain, &first);
    if (!rc && p->rgd)
        rc = entry_at(p, p->rgd, grain, &second);
    if (rc)
        return rc;
    if (!first || at / VMDK_SECTOR > UINT32_MAX)
        return -EFBIG;
    if (second && (rc = dp_table_set(&p->table, second, 4, at / VMDK_SECTOR)))
        return rc;
    return dp_table_set(&p->table, first, 4, at / VMDK_SECTOR);
}

/* A whole grain that is not there yet. */
static int pack(struct vmdk *v, const struct piece *x, struct dp_cursor *c, uint64_t offset)
{
    struct vmdk_part *p = x->part;
    uint64_t inside = offset - p->first, at = DP_ALIGN_UP(p->file->size, (uint64_t)VMDK_SECTOR);
    if (x->kind != DP_EXTENT_UNALLOCATED || inside % p->grain || (x->size < p->grain && inside + x->size < p->size))
        return -ENOTSUP;
    p->plain_at = 0;
    memset(p->plain, 0, p->grain);
    dp_cursor_get(c, p->plain, x->size);
    uLongf length = 2 * p->grain;
    if (compress2(p->scratch + VMDK_GRAIN_HEAD, &length, p->plain, p->grain, Z_DEFAULT_COMPRESSION) != Z_OK)
        return -EIO;
    dp_st64(p->scratch, inside / VMDK_SECTOR);
    dp_st32(p->scratch + 8, length);
    uint64_t used = length + VMDK_GRAIN_HEAD, whole = DP_ALIGN_UP(used, (uint64_t)VMDK_SECTOR);
    memset(p->scratch + used, 0, whole - used);
    int rc = dp_image_pwrite(p->file, p->scratch, whole, at);
    return rc ? rc : set_entry(p, inside / p->grain, at);
}

/* ---- reading and writing ---- */

static int read_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    while (size) {
        struct piece x;
        int rc = find(vmdk_of(i), offset, size, &x);
        if (rc)
            return rc;
        if (x.kind == DP_EXTENT_DATA) {
            rc = dp_image_read(x.part->file, c, x.at, x.size);
        } else if (x.kind == DP_EXTENT_PACKED) {
            if (!(rc = unpack(x.part, x.at)))
                dp_cursor_put(c, x.part->plain + (offset - x.part->first) % x.part->grain, x.size);
        } else if (x.kind == DP_EXTENT_UNALLOCATED && i->backing) {
            rc = dp_image_read(i->backing, c, offset, x.size);
        } else {
            dp_cursor_zero(c, x.size);
        }
        if (rc)
            return rc;
        offset += x.size;
        size -= x.size;
    }
    return 0;
}

/* ---- all grains ---- */

static int get(void *owner, uint64_t n, uint64_t *at)
{
    struct vmdk_part *p = owner;
    uint64_t entry = 0;
    int rc = entry_at(p, p->gd, n, at);
    if (!rc && !*at) {
        *at = DP_TABLE_NO_GROUP;
        return 0;
    }
    if (!rc)
        rc = dp_table_get(&p->table, *at, 4, &entry);
    *at = entry == 1 && p->zeroed ? 0 : entry * VMDK_SECTOR;
    return rc;
}

static int set(void *owner, uint64_t n, uint64_t at) { return set_entry(owner, n, at); }

static struct dp_table_map map(struct vmdk_part *p)
{
    return (struct dp_table_map){.table = &p->table,
                                 .owner = p,
                                 .name = "grain",
                                 .count = p->size / p->grain + (p->size % p->grain != 0),
                                 .disk = p->first,
                                 .bytes = p->grain,
                                 .size = p->grain,
                                 .align = p->grain,
                                 .base = DP_ALIGN_DOWN(p->start, (uint64_t)VMDK_SECTOR),
                                 .unit = VMDK_SECTOR,
                                 .group = p->entries,
                                 .get = get,
                                 .set = set};
}

/* Where new grains go; from then on the tables change. */
static int prepare(struct vmdk_part *p)
{
    struct dp_table_map m = map(p);
    int rc = p->free ? 0 : dp_table_end(&m, &p->free);
    if (!rc && !p->unclean && !p->was_unclean && !(rc = vmdk_set_unclean(p, true)))
        p->unclean = true;
    if (rc)
        p->free = 0;
    return rc;
}

/* Room for a grain, with what the disk reads there. */
static int place(struct dp_image *i, const struct piece *x, uint64_t offset)
{
    struct vmdk_part *p = x->part;
    uint64_t inside = offset - p->first, start = DP_ALIGN_DOWN(inside, (uint64_t)p->grain);
    int rc = prepare(p);
    uint64_t at = DP_ALIGN_UP(DP_MAX(p->file->size, p->free), (uint64_t)p->grain);
    if (!rc)
        rc = dp_image_zero(p->file, at, p->grain, 0);
    if (!rc && x->kind == DP_EXTENT_UNALLOCATED && i->backing) {
        uint8_t *data = malloc(p->grain);
        rc = data ? dp_image_pread(i->backing, data, p->grain, p->first + start) : -ENOMEM;
        if (!rc)
            rc = dp_image_pwrite(p->file, data, p->grain, at);
        free(data);
    }
    if (!rc)
        p->free = at + p->grain;
    return rc ? rc : set_entry(p, inside / p->grain, at);
}

/* Images above this one must see that it is not what they were made over. */
static int change_cid(struct vmdk *v)
{
    char text[9];
    uint32_t cid;
    if (v->cid_changed || !v->cid_at)
        return 0;
    if (getrandom(&cid, sizeof cid, 0) != sizeof cid)
        cid = v->cid;
    cid >>= 32 - 4 * v->cid_digits;
    while (cid >= 0xfffffffe || cid == v->cid)
        cid = (cid + 1) & (0xffffffff >> (32 - 4 * v->cid_digits));
    snprintf(text, sizeof text, "%0*x", (int)v->cid_digits, cid);
    int rc = dp_image_pwrite(v->image.file, text, v->cid_digits, v->cid_at);
    if (!rc && !(rc = dp_image_flush(v->image.file))) {
        v->cid = cid;
        v->cid_changed = true;
    }
    return rc;
}

static int write_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    struct vmdk *v = vmdk_of(i);
    int rc = change_cid(v);
    while (!rc && size) {
        struct piece x;
        if ((rc = find(v, offset, size, &x)))
            return rc;
        if (x.part->kind == VMDK_ZERO || x.part->readonly)
            return -EROFS;
        if (x.part->packed) {
            rc = pack(v, &x, c, offset);
        } else {
            if (x.part->kind == VMDK_SPARSE && x.kind != DP_EXTENT_DATA && !(rc = place(i, &x, offset)))
                rc = find(v, offset, size, &x);
            if (!rc)
                rc = dp_image_write(x.part->file, c, x.at, x.size);
        }
        offset += x.size;
        size -= x.size;
    }
    return rc;
}

static int write_packed(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    return part_at(vmdk_of(i), offset)->packed ? write_(i, c, offset, size) : -ENOTSUP;
}

static int zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags)
{
    struct vmdk *v = vmdk_of(i);
    int rc = change_cid(v);
    while (!rc && size) {
        struct piece x;
        if ((rc = find(v, offset, size, &x)))
            return rc;
        if (x.kind == DP_EXTENT_DATA && x.part->readonly)
            return -EROFS;
        if (x.kind == DP_EXTENT_PACKED || (x.kind == DP_EXTENT_UNALLOCATED && i->backing && !(flags & DP_ZERO_DISCARD)))
            return -ENOTSUP;
        if (x.kind == DP_EXTENT_DATA)
            rc = dp_image_zero(x.part->file, x.at, x.size, flags);
        offset += x.size;
        size -= x.size;
    }
    return rc;
}

static int extent(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x)
{
    struct piece p;
    int rc = find(vmdk_of(i), offset, size, &p);
    x->kind = p.kind;
    x->size = p.size;
    x->has_offset = p.kind == DP_EXTENT_DATA && p.part->file == i->file;
    x->offset = p.at;
    return rc;
}

static bool dirty(const struct dp_image *i)
{
    const struct vmdk *v = (const struct vmdk *)i;
    for (unsigned n = 0; n < v->parts; n++)
        if (v->part[n].table.dirty)
            return true;
    return false;
}

static int flush(struct dp_image *i)
{
    struct vmdk *v = vmdk_of(i);
    int rc = 0;
    for (unsigned n = 0; !rc && n < v->parts; n++) {
        struct vmdk_part *p = &v->part[n];
        if (p->kind == VMDK_SPARSE)
            rc = dp_table_commit(&p->table);
        if (!rc && p->file)
            rc = dp_image_flush(p->file);
    }
    return rc ? rc : dp_image_flush(i->file);
}

static uint32_t cluster_size(const struct dp_image *i)
{
    const struct vmdk *v = (const struct vmdk *)i;
    return v->parts ? v->part[0].grain : 0;
}

static int info(struct dp_image *i, struct json_object *o)
{
    struct vmdk *v = vmdk_of(i);
    struct json_object *parts = json_object_new_array();
    for (unsigned n = 0; n < v->parts; n++) {
        struct vmdk_part *p = &v->part[n];
        struct json_object *x = json_object_new_object();
        json_object_object_add(x, "virtual-size", json_object_new_int64(p->size));
        json_object_object_add(x, "filename", json_object_new_string(p->file ? p->file->name : "zeros"));
        const char *kind = p->kind == VMDK_SPARSE ? "SPARSE" : p->kind == VMDK_ZERO ? "ZERO" : "FLAT";
        json_object_object_add(x, "format", json_object_new_string(kind));
        if (p->grain)
            json_object_object_add(x, "cluster-size", json_object_new_int64(p->grain));
        if (p->packed)
            json_object_object_add(x, "compressed", json_object_new_boolean(true));
        json_object_array_add(parts, x);
    }
    json_object_object_add(o, "cid", json_object_new_int64(v->cid));
    json_object_object_add(o, "parent-cid", json_object_new_int64(v->parent_cid));
    json_object_object_add(o, "create-type", json_object_new_string(v->type));
    json_object_object_add(o, "extents", parts);
    return 0;
}

/* ---- check ---- */

static void report(struct dp_image_check *c, const char *what, uint64_t grain)
{
    char line[100];
    c->corruptions++;
    snprintf(line, sizeof line, "grain %llu %s", (unsigned long long)grain, what);
    if (c->report)
        c->report(c->opaque, line);
}

/* Grains that are packed, of any size: seen has a bit for each sector of the file where one begins. */
static int check_packed(struct vmdk_part *p, struct dp_image_check *c, uint8_t *seen)
{
    const struct dp_table_map m = map(p);
    for (uint64_t n = 0, at; n < m.count; n++) {
        int rc = get(p, n, &at);
        if (rc)
            return rc;
        if (at == DP_TABLE_NO_GROUP)
            n += p->entries - 1 - n % p->entries;
        if (!at || at == DP_TABLE_NO_GROUP)
            continue;
        c->allocated++;
        c->compressed++;
        if (at < p->start || at >= p->file->size) {
            report(c, "is outside the file's room for grains", n);
            continue;
        }
        uint64_t k = at / VMDK_SECTOR;
        uint8_t head[VMDK_GRAIN_HEAD];
        if (seen[k / 8] & 1 << k % 8)
            report(c, "is where another is too", n);
        seen[k / 8] |= 1 << k % 8;
        if (p->marked && (rc = dp_image_pread(p->file, head, sizeof head, at)))
            return rc;
        if (p->marked && dp_ld64(head) * VMDK_SECTOR != n * p->grain)
            report(c, "is where another says that it is", n);
        if ((rc = unpack(p, at)) == -EIO)
            report(c, "cannot be unpacked", n);
        else if (rc)
            return rc;
        c->end = DP_MAX(c->end, at);
    }
    c->clusters += m.count;
    return 0;
}

/* Is there a table behind the first grain? Then what lies between grains is not known. */
static int is_crowded(struct vmdk_part *p, bool *crowded)
{
    uint64_t tables = (p->size + (uint64_t)p->grain * p->entries - 1) / p->grain / p->entries, at;
    int rc = 0;
    *crowded = p->gd + 4 * tables > p->start || (p->rgd && p->rgd + 4 * tables > p->start);
    for (uint64_t n = 0; !rc && !*crowded && n < 2 * tables; n++) {
        if (n >= tables && !p->rgd)
            break;
        rc = entry_at(p, n < tables ? p->gd : p->rgd, n % tables * p->entries, &at);
        *crowded |= !rc && at + 4 * p->entries > p->start;
    }
    return rc;
}

/* The second directory's tables are as the first's; what only the second points to was never promised to anybody. */
static int check_second(struct vmdk_part *p, struct dp_image_check *c, bool mend)
{
    const struct dp_table_map m = map(p);
    uint64_t differ = 0, first, second, a, b;
    int rc = 0;
    for (uint64_t n = 0; !rc && p->rgd && n < m.count; n++) {
        if ((rc = entry_at(p, p->gd, n, &first)) || (rc = entry_at(p, p->rgd, n, &second)))
            break;
        if (!first || !second || first == second) {
            n += p->entries - 1 - n % p->entries;
            continue;
        }
        if ((rc = dp_table_get(&p->table, first, 4, &a)) || (rc = dp_table_get(&p->table, second, 4, &b)) || a == b)
            continue;
        differ++;
        if (mend)
            rc = dp_table_set(&p->table, second, 4, a);
    }
    if (!differ)
        return rc;
    *(mend ? &c->corruptions_fixed : &c->corruptions) += differ;
    if (c->report)
        c->report(c->opaque, "its second grain tables are not as the first ones");
    return rc;
}

static int check_sparse(struct dp_image *i, struct vmdk_part *p, struct dp_image_check *c, struct dp_error *e)
{
    struct dp_table_map m = map(p);
    bool all = c->repair_all && !i->readonly, mend = (all || c->repair_leaks) && !i->readonly;
    uint64_t end;
    int rc = is_crowded(p, &m.crowded);
    if (!rc && !p->free)
        p->free = p->start; /* what points elsewhere is told of, and mended first */
    if (!rc && !(rc = dp_table_check(i, &m, c, &end)) && !(rc = check_second(p, c, all)) && mend)
        rc = dp_image_flush(i);
    p->free = 0;
    if (!rc && mend && !m.crowded && !c->corruptions && end < p->file->size && p->file->format->resize)
        rc = p->file->format->resize(p->file, end, e);
    if (!rc && all && !c->corruptions && p->was_unclean && !(rc = vmdk_set_unclean(p, false)))
        p->was_unclean = false;
    if (!rc)
        c->end = DP_MAX(c->end, end);
    return rc;
}

static int check(struct dp_image *i, struct dp_image_check *c, struct dp_error *e)
{
    struct vmdk *v = vmdk_of(i);
    int rc = 0;
    for (unsigned n = 0; !rc && n < v->parts; n++) {
        struct vmdk_part *p = &v->part[n];
        if (p->kind == VMDK_SPARSE && !p->packed)
            rc = check_sparse(i, p, c, e);
        if (p->kind != VMDK_SPARSE || !p->packed)
            continue;
        uint8_t *seen = calloc(1, p->file->size / VMDK_SECTOR / 8 + 1);
        rc = seen ? check_packed(p, c, seen) : -ENOMEM;
        free(seen);
    }
    return rc ? dp_error_set(e, rc, "disk %s cannot be checked: %s", i->name, strerror(-rc)) : 0;
}

const struct dp_image_format dp_image_vmdk = {
    .name = "vmdk",
    .summary = "VMware's",
    .instance_size = sizeof(struct vmdk),
    .create_options = vmdk_create_options,
    .probe = vmdk_probe,
    .open = vmdk_open,
    .close = vmdk_close,
    .read = read_,
    .write = write_,
    .write_packed = write_packed,
    .zero = zero,
    .flush = flush,
    .dirty = dirty,
    .extent = extent,
    .cluster_size = cluster_size,
    .info = info,
    .check = check,
    .create = vmdk_create,
};
