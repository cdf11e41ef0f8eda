/* qcow2_create.c - making qcow2 images, and what changes their header: the disk's size, the backing file's name; and what they say of
 * themselves.
 *
 * A new image is: header, refcount table, refcount blocks, L1 table, in that order, with nothing allocated. The header is written last.
 * Source: QEMU's docs/interop/qcow2.txt.
 */
#include <json.h>
#include <stdlib.h>

#include "block/qcow2.h"

enum { V3_HEADER = 112, EXTENSION_HEAD = 8, LAZY = 1 };
enum { FEATURE_TABLE_ENTRY = 48 };
static const uint32_t BACKING_FORMAT = 0xe2792aca;

struct layout {
    unsigned version, cluster_bits, refcount_order;
    bool extended, zstd, lazy;
    enum { NONE, METADATA, FALLOC, FULL } preallocation;
    uint64_t cluster, table, blocks, l1_entries, l1; /* table, blocks, l1: clusters */
    uint64_t space;                                  /* bytes of the file when all is allocated, at most */
};

/* ---- options ---- */

static int bad(struct dp_error *e, const char *key, const char *value, const char *possible)
{
    return dp_error_set(e, -EINVAL, "%s=%.40s: possible are %s", key, value, possible);
}

/* "64k", "2M", "512" */
static bool parse_size(const char *text, uint64_t *out)
{
    char *end;
    unsigned long long v = strtoull(text, &end, 10);
    unsigned shift = *end == 'k' || *end == 'K' ? 10 : *end == 'M' || *end == 'm' ? 20 : 0;
    *out = v << shift;
    return end != text && v <= 1u << 30 && !end[shift != 0];
}

static int parse_flag(const struct dp_image_create *o, const char *key, bool *out, struct dp_error *e)
{
    const char *v = dp_image_create_option(o, key);
    *out = v && !strcmp(v, "on");
    return !v || *out || !strcmp(v, "off") ? 0 : bad(e, key, v, "on and off");
}

static int parse_version(const char *v, unsigned *version, struct dp_error *e)
{
    *version = !v || !strcmp(v, "1.1") || !strcmp(v, "v3") ? 3 : !strcmp(v, "0.10") || !strcmp(v, "v2") ? 2 : 0;
    return *version ? 0 : bad(e, "compat", v, "0.10 (v2) and 1.1 (v3)");
}

static int parse_preallocation(const char *v, struct layout *l, struct dp_error *e)
{
    static const char *const names[] = {[NONE] = "off", [METADATA] = "metadata", [FALLOC] = "falloc", [FULL] = "full"};
    for (unsigned i = 0; v && i < DP_ARRAY_LEN(names); i++)
        if (!strcmp(v, names[i])) {
            l->preallocation = i;
            return 0;
        }
    return v ? bad(e, "preallocation", v, "off, metadata, falloc and full") : 0;
}

static int parse(const struct dp_image_create *o, struct layout *l, struct dp_error *e)
{
    const char *bits = dp_image_create_option(o, "refcount_bits"), *size = dp_image_create_option(o, "cluster_size"),
               *compression = dp_image_create_option(o, "compression_type");
    uint64_t v = 16;
    *l = (struct layout){0};
    int rc = parse_version(dp_image_create_option(o, "compat"), &l->version, e);
    if (rc || (rc = parse_flag(o, "extended_l2", &l->extended, e)) || (rc = parse_flag(o, "lazy_refcounts", &l->lazy, e)) ||
        (rc = parse_preallocation(dp_image_create_option(o, "preallocation"), l, e)))
        return rc;
    if (bits && (!parse_size(bits, &v) || !v || v > 64 || v & (v - 1)))
        return bad(e, "refcount_bits", bits, "1, 2, 4, 8, 16, 32 and 64");
    l->refcount_order = __builtin_ctz((unsigned)v);
    v = 65536;
    if (size && (!parse_size(size, &v) || v < 512 || v > 2 << 20 || v & (v - 1)))
        return bad(e, "cluster_size", size, "powers of two from 512 to 2M");
    l->cluster = v;
    l->cluster_bits = __builtin_ctzll(v);
    l->zstd = compression && !strcmp(compression, "zstd");
    if (compression && !l->zstd && strcmp(compression, "zlib"))
        return bad(e, "compression_type", compression, "zlib and zstd");
    if (l->version == 2 && (l->extended || l->lazy || l->zstd || l->refcount_order != 4))
        return dp_error_set(e, -EINVAL, "compat=0.10 has 16-bit refcounts, zlib, no lazy refcounts and no extended L2 entries");
    if (l->extended && l->cluster_bits < 14)
        return dp_error_set(e, -EINVAL, "extended_l2=on needs clusters of 16K or more");
    if (l->preallocation && o->backing)
        return dp_error_set(e, -EINVAL, "an image with a backing file is not preallocated: that would hide what is below it");
    return 0;
}

/* How many clusters each table needs, so that all are counted. */
static int plan(const struct dp_image_create *o, struct layout *l, struct dp_error *e)
{
    uint64_t l2_bits = l->cluster_bits - (l->extended ? 4 : 3), block_bits = l->cluster_bits + 3 - l->refcount_order;
    if (!o->size || o->size > INT64_MAX - l->cluster)
        return dp_error_set(e, -EINVAL, "a disk of %llu bytes is not possible", (unsigned long long)o->size);
    l->l1_entries = ((o->size - 1) >> (l->cluster_bits + l2_bits)) + 1;
    if (l->l1_entries > QCOW2_L1_ENTRIES_MAX)
        return dp_error_set(e, -EFBIG, "a disk of %llu bytes needs larger clusters than %llu", (unsigned long long)o->size,
                            (unsigned long long)l->cluster);
    l->l1 = DP_ALIGN_UP(l->l1_entries * 8, l->cluster) >> l->cluster_bits;
    for (l->table = l->blocks = 1;;) {
        uint64_t all = 1 + l->table + l->blocks + l->l1, blocks = ((all - 1) >> block_bits) + 1;
        uint64_t table = DP_ALIGN_UP(blocks * 8, l->cluster) >> l->cluster_bits;
        if (blocks <= l->blocks && table <= l->table) {
            uint64_t clusters = all + l->l1_entries + (DP_ALIGN_UP(o->size, l->cluster) >> l->cluster_bits);
            uint64_t counted = (clusters >> block_bits) + 1;
            l->space = (clusters + counted + 2 * (counted * 8 / l->cluster + 1)) << l->cluster_bits; /* a table that grows is there twice */
            return 0;
        }
        l->blocks = DP_MAX(blocks, l->blocks);
        l->table = DP_MAX(table, l->table);
    }
}

/* ---- writing ---- */

static void st32(uint8_t *p, uint32_t v) { dp_st32(p, __builtin_bswap32(v)); }
static void st64(uint8_t *p, uint64_t v) { dp_st64(p, qcow2_be(v)); }

/* A header extension at p; where the next one goes. */
static uint8_t *extension(uint8_t *p, uint32_t type, const void *data, uint32_t size)
{
    st32(p, type);
    st32(p + 4, size);
    memcpy(p + EXTENSION_HEAD, data, size);
    return p + EXTENSION_HEAD + DP_ALIGN_UP(size, 8);
}

/* The first cluster. */
static int make_header(const struct dp_image_create *o, const struct layout *l, uint8_t *h, struct dp_error *e)
{
    size_t name = o->backing ? strlen(o->backing) : 0, format = o->backing_format ? strlen(o->backing_format) : 0;
    uint32_t length = l->version == 3 ? V3_HEADER : 72;
    memcpy(h, "QFI\xfb", 4);
    st32(h + 4, l->version);
    st32(h + 20, l->cluster_bits);
    st64(h + 24, o->size);
    st32(h + 36, l->l1_entries);
    st64(h + 40, (1 + l->table + l->blocks) << l->cluster_bits);
    st64(h + 48, l->cluster);
    st32(h + 56, l->table);
    if (l->version == 3) {
        st64(h + 72, (l->zstd ? 8 : 0) | (l->extended ? 16 : 0));
        st64(h + 80, l->lazy ? LAZY : 0);
        st32(h + 96, l->refcount_order);
        st32(h + 100, length);
        h[104] = l->zstd;
    }
    if (name > DP_IMAGE_NAME_MAX || length + EXTENSION_HEAD + DP_ALIGN_UP(format, 8) + EXTENSION_HEAD + name > l->cluster)
        return dp_error_set(e, -ENAMETOOLONG, "the name of the backing file is too long for the header (clusters of %llu bytes)",
                            (unsigned long long)l->cluster);
    uint8_t *p = h + length;
    if (format)
        p = extension(p, BACKING_FORMAT, o->backing_format, format);
    p += EXTENSION_HEAD; /* the end of the extensions: zeros */
    if (name) {
        memcpy(p, o->backing, name);
        st64(h + 8, p - h);
        st32(h + 16, name);
    }
    return 0;
}

static int write_at(struct dp_image *file, const void *data, uint64_t size, uint64_t at, struct dp_error *e)
{
    int rc = dp_image_pwrite(file, data, size, at);
    return rc ? dp_error_set(e, rc, "%s cannot be written: %s", file->name, strerror(-rc)) : 0;
}

/* Refcounts 1 of the first clusters: one block at a time. */
static int write_refcounts(struct dp_image *file, const struct layout *l, uint8_t *buffer, struct dp_error *e)
{
    uint64_t left = 1 + l->table + l->blocks + l->l1, per = 1ull << (l->cluster_bits + 3 - l->refcount_order);
    int rc = 0;
    for (uint64_t b = 0; !rc && b < l->blocks; b++) {
        uint64_t n = DP_MIN(left, per);
        memset(buffer, 0, l->cluster);
        for (uint64_t i = 0; i < n; i++) {
            unsigned width = 1u << l->refcount_order;
            if (width >= 8)
                buffer[(i + 1) * (width / 8) - 1] = 1;
            else
                buffer[i * width / 8] |= 1u << (i * width & 7);
        }
        rc = write_at(file, buffer, l->cluster, (1 + l->table + b) << l->cluster_bits, e);
        left -= n;
    }
    for (uint64_t b = 0, at = 0; !rc && at < l->table; at++) {
        memset(buffer, 0, l->cluster);
        for (uint64_t i = 0; i < l->cluster / 8 && b < l->blocks; i++, b++)
            st64(buffer + i * 8, (1 + l->table + b) << l->cluster_bits);
        rc = write_at(file, buffer, l->cluster, (1 + at) << l->cluster_bits, e);
    }
    return rc;
}

static int write_image(struct dp_image *file, const struct dp_image_create *o, const struct layout *l, struct dp_error *e)
{
    uint8_t *header = calloc(1, l->cluster), *buffer = malloc(l->cluster);
    int rc = header && buffer ? make_header(o, l, header, e) : dp_error_set(e, -ENOMEM, "out of memory");
    if (!rc && l->preallocation >= FALLOC && (rc = dp_image_zero(file, 0, l->space, 0)))
        dp_error_set(e, rc, "there is no room for all of %s: %s", o->name, strerror(-rc));
    if (!rc)
        rc = write_refcounts(file, l, buffer, e);
    if (!rc && (rc = dp_image_zero(file, (1 + l->table + l->blocks) << l->cluster_bits, l->l1 << l->cluster_bits, 0)))
        dp_error_set(e, rc, "%s cannot be written: %s", o->name, strerror(-rc));
    if (!rc && (rc = dp_image_flush(file)))
        dp_error_set(e, rc, "%s cannot be written: %s", o->name, strerror(-rc));
    if (!rc)
        rc = write_at(file, header, l->cluster, 0, e);
    free(header);
    free(buffer);
    return rc;
}

/* All clusters get their places, in order. */
static int preallocate(const struct dp_image_create *o, const struct layout *l, struct dp_error *e)
{
    struct dp_image *i;
    int rc = dp_image_open(&(struct dp_image_options){.name = o->name, .format = "qcow2", .trace = o->trace}, &i, e);
    if (rc)
        return rc;
    if (!(rc = qcow2_preallocate((struct qcow2 *)i, 0, i->size)))
        rc = dp_image_flush(i);
    if (!rc && i->file->format->resize) /* all of it is there, and nothing behind it */
        rc = i->file->format->resize(i->file, ((struct qcow2 *)i)->hint << l->cluster_bits, e);
    if (rc && !(e && *e->text))
        dp_error_set(e, rc, "%s cannot be preallocated: %s", o->name, strerror(-rc));
    dp_image_close(i);
    return rc;
}

const struct dp_image_option qcow2_create_options[] = {{"cluster_size", "512 to 2M (64K)"},
                                                       {"compat", "1.1 (v3) or 0.10 (v2)"},
                                                       {"refcount_bits", "1 to 64 (16)"},
                                                       {"lazy_refcounts", "on or off (off); doppel keeps refcounts in order anyway"},
                                                       {"extended_l2", "on or off (off): clusters have 32 parts"},
                                                       {"compression_type", "zlib or zstd (zlib)"},
                                                       {"preallocation", "off, metadata, falloc or full (off)"},
                                                       {0}};

int qcow2_create(const struct dp_image_create *o, struct dp_error *e)
{
    struct layout l;
    struct dp_image *file;
    int rc = parse(o, &l, e);
    if (rc || (rc = plan(o, &l, e)) || (rc = dp_image_create_file(o, &file, e)))
        return rc;
    rc = write_image(file, o, &l, e);
    dp_image_close(file);
    return rc || !l.preallocation ? rc : preallocate(o, &l, e);
}

/* ---- changing ---- */

int qcow2_set_backing(struct dp_image *i, const char *name, const char *format, struct dp_error *e)
{
    struct qcow2 *q = (struct qcow2 *)i;
    uint8_t *head = malloc(q->cluster), *p;
    size_t name_size = name ? strlen(name) : 0, format_size = name && format ? strlen(format) : 0;
    if (!head)
        return dp_error_set(e, -ENOMEM, "out of memory");
    int rc = qcow2_may_change(q);
    if (!rc)
        rc = qcow2_pread(q, head, q->cluster, 0);
    uint32_t length = q->version == 3 ? __builtin_bswap32(dp_ld32(head + 100)) : 72, at = length, to = length;
    /* The other extensions move together; length was checked when the image was opened. */
    while (!rc && at + EXTENSION_HEAD <= q->cluster) {
        uint32_t type = __builtin_bswap32(dp_ld32(head + at)), size = __builtin_bswap32(dp_ld32(head + at + 4));
        uint64_t whole = EXTENSION_HEAD + DP_ALIGN_UP((uint64_t)size, 8);
        if (!type || at + whole > q->cluster)
            break;
        if (type != BACKING_FORMAT) {
            memmove(head + to, head + at, whole);
            to += whole;
        }
        at += whole;
    }
    uint64_t needed = to + (format_size ? EXTENSION_HEAD + DP_ALIGN_UP(format_size, 8) : 0) + EXTENSION_HEAD + name_size;
    if (!rc && (name_size > DP_IMAGE_NAME_MAX || needed > q->cluster))
        rc = dp_error_set(e, -ENAMETOOLONG, "disk %s: the name of the backing file is too long for the header", i->name);
    if (!rc) {
        memset(head + to, 0, q->cluster - to);
        p = head + to;
        if (format_size)
            p = extension(p, BACKING_FORMAT, format, format_size);
        p += EXTENSION_HEAD;
        if (name_size)
            memcpy(p, name, name_size);
        st64(head + 8, name_size ? p - head : 0);
        st32(head + 16, name_size);
        if ((rc = qcow2_commit(q)) || (rc = qcow2_pwrite(q, head, q->cluster, 0)) || (rc = dp_image_flush(i->file)))
            dp_error_set(e, rc, "disk %s cannot be written: %s", i->name, strerror(-rc));
    }
    free(head);
    char *names[2] = {name ? strdup(name) : NULL, format_size ? strdup(format) : NULL};
    if (!rc) {
        free(i->backing_name);
        free(i->backing_format);
        i->backing_name = names[0];
        i->backing_format = names[1];
    } else {
        free(names[0]);
        free(names[1]);
    }
    return rc;
}

/* A larger L1 table in a new place; the header is switched to it and to the new size at once. */
static int grow_l1(struct qcow2 *q, uint64_t entries, uint64_t size)
{
    uint64_t at;
    uint64_t *l1 = calloc(entries, 8);
    if (!l1)
        return -ENOMEM;
    memcpy(l1, q->l1, q->l1_size * 8ull);
    int rc = qcow2_alloc_row(q, DP_ALIGN_UP(entries * 8, q->cluster) >> q->cluster_bits, &at);
    if (!rc)
        rc = qcow2_switch_l1(q, l1, entries, at, size);
    if (rc)
        free(l1);
    return rc;
}

static int set_size(struct qcow2 *q, uint64_t size)
{
    uint8_t field[8];
    st64(field, size);
    int rc = qcow2_commit(q);
    return rc || (rc = qcow2_pwrite(q, field, 8, 24)) ? rc : dp_image_flush(q->image.file);
}

static int shrink(struct qcow2 *q, uint64_t size)
{
    uint64_t whole = DP_ALIGN_UP(size, q->cluster), old = q->image.size;
    /* Were it to grow again, zeros must be behind the new end. */
    int rc = whole > size ? qcow2_write_zeroes(q, size, DP_MIN(whole, old) - size, false, false) : 0;
    if (rc || (rc = set_size(q, size)))
        return rc;
    q->image.size = size; /* from now on what is behind it is of no use to anybody: a crash leaks it */
    if (!(rc = qcow2_forget(q, whole >> q->cluster_bits, DP_ALIGN_UP(old, q->cluster) >> q->cluster_bits)))
        rc = qcow2_commit(q);
    return rc;
}

/* First what is to be behind the old end, then the size: neither what a crash left there when the disk shrank, nor the backing file's bytes
 * may appear. */
static int grow(struct qcow2 *q, uint64_t size, uint64_t needed)
{
    struct dp_image *i = &q->image;
    uint64_t old = i->size;
    int rc = needed > q->l1_size ? grow_l1(q, needed, old) : 0;
    if (!rc)
        rc = qcow2_forget(q, DP_ALIGN_UP(old, q->cluster) >> q->cluster_bits, (uint64_t)q->l1_size << q->l2_bits);
    i->size = size;
    if (!rc && i->backing && i->backing->size > old)
        rc = qcow2_write_zeroes(q, old, DP_MIN(size, i->backing->size) - old, true, false);
    if (!rc)
        rc = set_size(q, size);
    if (rc)
        i->size = old;
    return rc;
}

int qcow2_resize(struct dp_image *i, uint64_t size, struct dp_error *e)
{
    struct qcow2 *q = (struct qcow2 *)i;
    if (!size || size > INT64_MAX - q->cluster || size % 512)
        return dp_error_set(e, -EINVAL, "disk %s cannot have %llu bytes (multiples of 512)", i->name, (unsigned long long)size);
    uint64_t needed = ((size - 1) >> (q->cluster_bits + q->l2_bits)) + 1;
    if (needed > QCOW2_L1_ENTRIES_MAX)
        return dp_error_set(e, -EFBIG, "disk %s: %llu bytes need larger clusters", i->name, (unsigned long long)size);
    if (size < i->size && q->snapshots)
        return dp_error_set(e, -ENOTSUP, "disk %s has snapshots of its size: it cannot become smaller before they are deleted", i->name);
    int rc = qcow2_may_change(q);
    if (!rc && size != i->size)
        rc = size < i->size ? shrink(q, size) : grow(q, size, needed);
    return rc ? dp_error_set(e, rc, "disk %s cannot be resized: %s", i->name, strerror(-rc)) : 0;
}

/* ---- what it says of itself ---- */

int qcow2_info(struct dp_image *i, struct json_object *o)
{
    struct qcow2 *q = (struct qcow2 *)i;
    uint8_t field[8] = {0};
    int rc = q->version == 3 ? qcow2_pread(q, field, 8, 80) : 0;
    if (rc)
        return rc;
    json_object_object_add(o, "compat", json_object_new_string(q->version == 3 ? "1.1" : "0.10"));
    json_object_object_add(o, "compression-type", json_object_new_string(q->zstd ? "zstd" : "zlib"));
    if (q->version == 3) {
        json_object_object_add(o, "lazy-refcounts", json_object_new_boolean(field[7] & LAZY));
        json_object_object_add(o, "corrupt", json_object_new_boolean(q->marked_corrupt));
        json_object_object_add(o, "extended-l2", json_object_new_boolean(q->extended));
    }
    json_object_object_add(o, "refcount-bits", json_object_new_int(1 << q->refcount_order));
    return 0;
}
