/* luks_image.c - images of format luks: a LUKS header (luks.h), then the disk, encrypted. Without the passphrase (opened alone) only what
 * the header says can be seen.
 */
#include <json.h>
#include <stdlib.h>

#include "block/image_internal.h"
#include "block/luks.h"

struct luks_image {
    struct dp_image image; /* first */
    struct dp_luks *luks;
    uint64_t payload;
};

static struct luks_image *of(struct dp_image *i) { return (struct luks_image *)i; }

static bool probe(const uint8_t *head, const uint8_t *tail, uint64_t length) { return !memcmp(head, "LUKS\xba\xbe\0\1", 8); }

static int open_(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    int rc = dp_luks_payload(i->file, 0, &of(i)->payload, e);
    if (rc)
        return rc;
    if (of(i)->payload >= i->file->size || of(i)->payload < DP_IMAGE_HEAD)
        return dp_error_set(e, -EINVAL, "disk %s is damaged: its contents cannot begin at 0x%llx", i->name,
                            (unsigned long long)of(i)->payload);
    i->size = (i->file->size - of(i)->payload) & ~511ull;
    return o->alone && !o->secret ? 0 : dp_luks_open(i->file, 0, of(i)->payload, o->secret, 0, &of(i)->luks, e);
}

static void close_(struct dp_image *i) { dp_luks_close(of(i)->luks); }

static int transfer(struct dp_image *i, struct dp_cursor *c, bool write, uint64_t offset, uint64_t size)
{
    return of(i)->luks ? dp_luks_transfer(of(i)->luks, i->file, of(i)->payload, c, write, offset, size) : -EACCES;
}
static int read_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) { return transfer(i, c, false, offset, size); }
static int write_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) { return transfer(i, c, true, offset, size); }
static int flush(struct dp_image *i) { return dp_image_flush(i->file); }

static int resize(struct dp_image *i, uint64_t size, struct dp_error *e)
{
    if (!i->file->format->resize)
        return dp_error_set(e, -ENOTSUP, "%s cannot be resized: it is no file of this host", i->name);
    if (size % 512 || size > INT64_MAX - of(i)->payload)
        return dp_error_set(e, -EINVAL, "disk %s cannot have %llu bytes (multiples of 512)", i->name, (unsigned long long)size);
    int rc = i->file->format->resize(i->file, of(i)->payload + size, e);
    if (!rc)
        i->size = size;
    return rc;
}

static int info(struct dp_image *i, struct json_object *o) { return dp_luks_info(i->file, 0, o); }

static int create(const struct dp_image_create *o, struct dp_error *e)
{
    const char *time = dp_image_create_option(o, "iter-time");
    struct dp_image *file;
    if (o->backing)
        return dp_error_set(e, -EINVAL, "luks images have no backing file; use format qcow2 with -o encrypt.format=luks");
    if (!o->secret || !*o->secret)
        return dp_error_set(e, -EINVAL, "%s is to be encrypted: give its passphrase with --secret-file FILE", o->name);
    int rc = dp_image_create_file(o, &file, e);
    if (rc)
        return rc;
    rc = dp_luks_format(file, 0, o->secret, time ? (unsigned)DP_MIN(strtoul(time, NULL, 10), 60000ul) : 0, e);
    if (!rc && file->format->resize)
        rc = file->format->resize(file, DP_LUKS_BYTES + o->size, e);
    dp_image_close(file);
    return rc;
}

static const struct dp_image_option options[] = {{"iter-time", "milliseconds that it takes to try a passphrase (2000)"}, {0}};

const struct dp_image_format dp_image_luks = {
    .name = "luks",
    .summary = "the disk's bytes encrypted behind a LUKS header",
    .instance_size = sizeof(struct luks_image),
    .create_options = options,
    .noise = true,
    .probe = probe,
    .open = open_,
    .close = close_,
    .read = read_,
    .write = write_,
    .flush = flush,
    .resize = resize,
    .info = info,
    .create = create,
};
