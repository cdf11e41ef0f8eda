/* raw_image.c - the raw format as an image: byte n of the disk is byte n of what is below. (Disks of a VM that are raw files go the shorter
 * way of raw.c.)
 */
#include "block/file.h"
#include "block/image_internal.h"

static int open_(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    i->size = i->file->size;
    return 0;
}

static int read_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    return dp_image_read(i->file, c, offset, size);
}
static int write_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    return dp_image_write(i->file, c, offset, size);
}
static int zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags) { return dp_image_zero(i->file, offset, size, flags); }
static int flush(struct dp_image *i) { return dp_image_flush(i->file); }

static int extent(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x)
{
    int rc = dp_image_extent(i->file, offset, size, x);
    if (x->kind == DP_EXTENT_DATA && !i->file->format->extent) {
        x->has_offset = true;
        x->offset = offset;
    }
    return rc;
}

static int resize(struct dp_image *i, uint64_t size, struct dp_error *e)
{
    if (!i->file->format->resize)
        return dp_error_set(e, -ENOTSUP, "%s cannot be resized: it is no file of this host", i->name);
    int rc = i->file->format->resize(i->file, size, e);
    if (!rc)
        i->size = size;
    return rc;
}

static bool flush_is_plain(const struct dp_image *i) { return true; }

static int share(struct dp_image *i, uint64_t keep, uint64_t drop) { return dp_image_file_share(i->file, keep, drop, 64 << 10); }

static int create(const struct dp_image_create *o, struct dp_error *e)
{
    struct dp_image *file;
    if (o->backing)
        return dp_error_set(e, -EINVAL, "raw images have no backing file; use format qcow2");
    int rc = dp_image_create_file(o, &file, e);
    if (rc)
        return rc;
    const char *how = dp_image_create_option(o, "preallocation");
    rc = file->format->resize(file, o->size, e);
    if (!rc && how && !strcmp(how, "full")) {
        if ((rc = dp_image_zero(file, 0, o->size, 0)) || (rc = dp_image_flush(file)))
            dp_error_set(e, rc, "%s cannot be written: %s", o->name, strerror(-rc));
    } else if (!rc && how && strcmp(how, "off")) {
        rc = dp_error_set(e, -EINVAL, "preallocation of a raw image is off or full, not '%s'", how);
    }
    dp_image_close(file);
    return rc;
}

static const struct dp_image_option options[] = {{"preallocation", "off, or full: its space is taken now"}, {0}};

const struct dp_image_format dp_image_raw = {
    .name = "raw",
    .summary = "the disk's bytes as they are",
    .instance_size = sizeof(struct dp_image),
    .create_options = options,
    .open = open_,
    .read = read_,
    .write = write_,
    .zero = zero,
    .flush = flush,
    .flush_is_plain = flush_is_plain,
    .extent = extent,
    .resize = resize,
    .share = share,
    .create = create,
};
