/* vhdx.c - Hyper-V's disk images: read, written, checked. Model, invariants, source: vhdx.h. */
#include <stdlib.h>

#include "block/vhdx.h"

static uint64_t entry_at(const struct vhdx *v, uint64_t block) { return v->bat + (block + block / v->chunk) * 8; }

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
    if (state == VHDX_PARTIALLY_PRESENT || (state == VHDX_FULLY_PRESENT && !vhdx_is_room(v, at)))
        return -EIO;
    if (state == VHDX_FULLY_PRESENT) {
        x->kind = DP_EXTENT_DATA;
        x->has_offset = true;
        x->offset = at + inside;
    }
    return 0;
}

static int place(struct dp_image *i, uint64_t offset)
{
    struct vhdx *v = vhdx_of(i);
    uint64_t at = DP_ALIGN_UP(i->file->size, (uint64_t)VHDX_MIB);
    int rc = dp_image_zero(i->file, at, v->block, 0);
    return rc ? rc : dp_table_set(&v->table, entry_at(v, offset / v->block), 8, at | VHDX_FULLY_PRESENT);
}

static int write_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    int rc = vhdx_mark(vhdx_of(i));
    return rc ? rc : dp_extent_write(i, c, offset, size, place);
}

static int zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags)
{
    int rc = vhdx_mark(vhdx_of(i));
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
    char line[120];
    uint8_t *seen = calloc(1, i->file->size / VHDX_MIB / 8 + 1); /* a bit for each MiB of the file */
    int rc = seen ? 0 : dp_error_set(e, -ENOMEM, "out of memory");
    for (uint64_t n = 0, entry; !rc && n < v->blocks; n++) {
        if ((rc = dp_table_get(&v->table, entry_at(v, n), 8, &entry))) {
            dp_error_set(e, rc, "disk %s cannot be read: %s", i->name, strerror(-rc));
            break;
        }
        if ((entry & VHDX_STATE) < VHDX_FULLY_PRESENT)
            continue;
        uint64_t first = entry / VHDX_MIB, end = first + v->block / VHDX_MIB;
        bool twice = false, outside = !vhdx_is_room(v, first * VHDX_MIB) || (first + 1) * VHDX_MIB > i->file->size;
        for (uint64_t k = first; !outside && k < DP_MIN(end, i->file->size / VHDX_MIB); k++) {
            twice |= seen[k / 8] >> k % 8 & 1;
            seen[k / 8] |= 1 << k % 8;
        }
        if (twice || outside) {
            c->corruptions++;
            snprintf(line, sizeof line, "block %llu of the disk is at MiB %llu, %s", (unsigned long long)n, (unsigned long long)first,
                     twice ? "where another is too" : "where no block can be");
            if (c->report)
                c->report(c->opaque, line);
        }
        c->allocated++;
        c->end = DP_MAX(c->end, end * VHDX_MIB);
    }
    c->clusters = v->blocks;
    free(seen);
    return rc;
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
    .check = check,
    .create = vhdx_create,
};
