/* vhdx.c - Hyper-V's disk images: read, written, checked. Model, invariants, source: vhdx.h. */
#include <stdlib.h>

#include "block/vhdx.h"

static uint64_t entry_at(const struct vhdx *v, uint64_t block) { return v->bat + (block + block / v->chunk) * 8; }

static uint64_t bitmap_entry_at(const struct vhdx *v, uint64_t block) { return v->bat + ((block / v->chunk + 1) * (v->chunk + 1) - 1) * 8; }

/* How long the image's, or the parent's, sectors go on from offset. */
static int cut_at_bitmap(struct vhdx *v, uint64_t offset, struct dp_extent *x)
{
    uint64_t entry, word = 0, sector = offset / v->sector % (1u << 23);
    uint64_t end = sector + (offset % v->sector + x->size + v->sector - 1) / v->sector, n = sector;
    int rc = dp_table_get(&v->table, bitmap_entry_at(v, offset / v->block), 8, &entry);
    uint64_t start = DP_ALIGN_DOWN(entry, (uint64_t)VHDX_MIB);
    if (!rc && ((entry & VHDX_STATE) != VHDX_FULLY_PRESENT || start < VHDX_MIB || start >= DP_MAX(v->image.file->size, v->end)))
        return -EIO;
    bool here = false;
    for (; !rc && n < end; n++) {
        if ((n == sector || n % 64 == 0) && (rc = dp_table_get(&v->table, start + n / 64 * 8, 8, &word)))
            break;
        if (n == sector)
            here = word >> n % 64 & 1;
        if ((word >> n % 64 & 1) != here)
            break;
    }
    x->kind = here ? DP_EXTENT_DATA : DP_EXTENT_UNALLOCATED;
    x->size = DP_MIN(x->size, (n - sector) * v->sector - offset % v->sector);
    return rc;
}

static int extent(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x)
{
    struct vhdx *v = vhdx_of(i);
    uint64_t entry, inside = offset % v->block;
    x->size = DP_MIN(size, v->block - inside);
    x->kind = DP_EXTENT_ZEROS;
    int rc = dp_table_get(&v->table, entry_at(v, offset / v->block), 8, &entry);
    if (rc)
        return rc;
    unsigned state = entry & VHDX_STATE;
    uint64_t at = DP_ALIGN_DOWN(entry, (uint64_t)VHDX_MIB);
    if (state == VHDX_NOT_PRESENT)
        x->kind = DP_EXTENT_UNALLOCATED;
    if (state < VHDX_FULLY_PRESENT)
        return 0;
    if (!vhdx_is_room(v, at) || at >= DP_MAX(i->file->size, v->end) || (state == VHDX_PARTIALLY_PRESENT && !v->child))
        return -EIO;
    x->kind = DP_EXTENT_DATA;
    if (state == VHDX_PARTIALLY_PRESENT)
        rc = cut_at_bitmap(v, offset, x);
    x->has_offset = x->kind == DP_EXTENT_DATA;
    x->offset = at + inside;
    return rc;
}

static int get(void *owner, uint64_t n, uint64_t *at)
{
    struct vhdx *v = owner;
    uint64_t entry = 0;
    int rc = dp_table_get(&v->table, entry_at(v, n), 8, &entry);
    *at = DP_ALIGN_DOWN(entry, (uint64_t)VHDX_MIB);
    *at = (entry & VHDX_STATE) < VHDX_FULLY_PRESENT ? 0 : vhdx_is_room(v, *at) ? *at : DP_TABLE_NOWHERE;
    return rc;
}

static int set(void *owner, uint64_t n, uint64_t at)
{
    struct vhdx *v = owner;
    return dp_table_set(&v->table, entry_at(v, n), 8, at ? at | VHDX_FULLY_PRESENT : VHDX_NOT_PRESENT);
}

static bool room(const void *owner, uint64_t at) { return vhdx_is_room(owner, at); }

static struct dp_table_map map(struct vhdx *v)
{
    return (struct dp_table_map){.table = &v->table,
                                 .owner = v,
                                 .name = "block",
                                 .count = v->blocks,
                                 .bytes = v->block,
                                 .size = v->block,
                                 .align = VHDX_MIB,
                                 .unit = VHDX_MIB,
                                 .crowded = v->others || v->child,
                                 .get = get,
                                 .set = set,
                                 .room = room};
}

static int place(struct dp_image *i, uint64_t offset)
{
    struct vhdx *v = vhdx_of(i);
    struct dp_table_map m = map(v);
    uint64_t first = DP_ALIGN_DOWN(offset, (uint64_t)v->block), entry;
    int rc = dp_table_get(&v->table, entry_at(v, offset / v->block), 8, &entry);
    if (rc)
        return rc;
    if ((entry & VHDX_STATE) == VHDX_PARTIALLY_PRESENT) {
        entry = DP_ALIGN_DOWN(entry, (uint64_t)VHDX_MIB);
        rc = dp_extent_fill(i, first, v->block, entry);
        return rc ? rc : set(v, offset / v->block, entry);
    }
    rc = v->free ? 0 : dp_table_end(&m, &v->free);
    if (rc) {
        v->free = 0;
        return rc;
    }
    uint64_t at = DP_ALIGN_UP(DP_MAX(v->free, i->file->size), (uint64_t)VHDX_MIB);
    if ((rc = dp_image_zero(i->file, at, v->block, 0)) || (i->backing && (rc = dp_extent_fill(i, first, v->block, at))) ||
        (rc = set(v, offset / v->block, at)))
        return rc;
    v->free = at + v->block;
    return 0;
}

static int write_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    int rc = vhdx_mark(vhdx_of(i), true);
    return rc ? rc : dp_extent_write(i, c, offset, size, place);
}

static int zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags)
{
    int rc = vhdx_mark(vhdx_of(i), true);
    return rc ? rc : dp_extent_zero(i, offset, size, flags);
}

static bool dirty(const struct dp_image *i) { return ((const struct vhdx *)i)->table.dirty; }

static int flush(struct dp_image *i)
{
    int rc = dp_table_commit(&vhdx_of(i)->table);
    return rc ? rc : dp_image_flush(i->file);
}

static uint32_t cluster_size(const struct dp_image *i) { return ((const struct vhdx *)i)->block; }

static int check(struct dp_image *i, struct dp_image_check *c, struct dp_error *e)
{
    struct vhdx *v = vhdx_of(i);
    struct dp_table_map m = map(v);
    uint64_t end;
    bool all = c->repair_all && !i->readonly, mend = (all || c->repair_leaks) && !i->readonly;
    int rc = mend ? vhdx_mark(v, false) : 0;
    if (i->readonly && v->end > i->file->size) /* the log will make it so long */
        m.limit = v->end;
    if (v->log_lost) {
        c->corruptions += !all;
        c->corruptions_fixed += all;
        if (c->report)
            c->report(c->opaque, "it was not closed, and nothing in its log is valid");
        if (all && !rc)
            rc = vhdx_end_log(v);
    }
    if (!rc)
        rc = dp_table_check(i, &m, c, &end);
    if (!rc && mend && !c->corruptions && !v->fixed && !m.crowded) {
        end = DP_MAX(end, DP_MAX(v->bat + v->bat_length, DP_MAX(v->metadata + v->metadata_length, v->log + v->log_length)));
        end = DP_MAX(end, v->regions_end);
        v->free = 0;
        if (end < i->file->size && i->file->format->resize)
            rc = i->file->format->resize(i->file, end, e);
    }
    if (!rc)
        c->end = end;
    return rc ? dp_error_set(e, rc, "disk %s cannot be checked: %s", i->name, strerror(-rc)) : 0;
}

const struct dp_image_format dp_image_vhdx = {
    .name = "vhdx",
    .summary = "Hyper-V's",
    .instance_size = sizeof(struct vhdx),
    .create_options = vhdx_create_options,
    .probe = vhdx_probe,
    .open = vhdx_open,
    .close = vhdx_close,
    .read = dp_extent_read,
    .write = write_,
    .zero = zero,
    .flush = flush,
    .dirty = dirty,
    .extent = extent,
    .cluster_size = cluster_size,
    .resize = vhdx_resize,
    .check = check,
    .create = vhdx_create,
};
