/* table.c - tables of blocks: cached entries, and reading and writing by extents. Model, invariants: table.h. */
#include <stdlib.h>
#include <sys/random.h>

#include "block/table.h"

enum { SECTOR = 512 };

struct dp_table_page {
    uint64_t at;
    uint8_t dirty; /* a bit for each sector */
    uint8_t data[DP_TABLE_PAGE];
};

static int compare_patch(const void *key, const void *element)
{
    uint64_t at = *(const uint64_t *)key, other = ((const struct dp_table_patch *)element)->at;
    return at < other ? -1 : at > other;
}

static int load(struct dp_table *t, uint64_t at, struct dp_table_page **out)
{
    uint64_t start = DP_ALIGN_DOWN(at, (uint64_t)DP_TABLE_PAGE);
    struct dp_table_page **slot = &t->page[start / DP_TABLE_PAGE % DP_TABLE_PAGES], *p = *slot;
    int rc = 0;
    if (p && p->at == start) {
        *out = p;
        return 0;
    }
    if (p && p->dirty && (rc = dp_table_commit(t)))
        return rc;
    if (!p && !(p = *slot = calloc(1, sizeof *p)))
        return -ENOMEM;
    const struct dp_table_patch *patch = t->patches ? bsearch(&start, t->patch, t->patches, sizeof *t->patch, compare_patch) : NULL;
    if (patch)
        memcpy(p->data, patch->data, DP_TABLE_PAGE);
    else
        rc = dp_image_pread(t->file, p->data, DP_TABLE_PAGE, start);
    p->at = rc ? UINT64_MAX : start;
    *out = p;
    return rc;
}

int dp_table_get(struct dp_table *t, uint64_t at, unsigned width, uint64_t *value)
{
    struct dp_table_page *p;
    int rc = load(t, at, &p);
    if (!rc)
        *value = width == 4 ? dp_ld32(p->data + at % DP_TABLE_PAGE) : dp_ld64(p->data + at % DP_TABLE_PAGE);
    return rc;
}

int dp_table_set(struct dp_table *t, uint64_t at, unsigned width, uint64_t value)
{
    struct dp_table_page *p;
    int rc = load(t, at, &p);
    if (rc)
        return rc;
    memcpy(p->data + at % DP_TABLE_PAGE, &value, width);
    p->dirty |= 1u << at % DP_TABLE_PAGE / SECTOR;
    t->dirty = true;
    return 0;
}

int dp_table_commit(struct dp_table *t)
{
    int rc = t->dirty ? dp_image_flush(t->file) : 0;
    for (unsigned n = 0; !rc && t->dirty && n < DP_TABLE_PAGES; n++) {
        struct dp_table_page *p = t->page[n];
        for (unsigned s = 0; !rc && p && s < DP_TABLE_PAGE / SECTOR; s++)
            if (p->dirty & 1u << s && !(rc = dp_image_pwrite(t->file, p->data + s * SECTOR, SECTOR, p->at + s * SECTOR)))
                p->dirty &= ~(1u << s);
    }
    if (!rc)
        t->dirty = false;
    return rc;
}

void dp_table_forget(struct dp_table *t)
{
    for (unsigned n = 0; n < DP_TABLE_PAGES; n++)
        if (t->page[n] && !t->page[n]->dirty)
            t->page[n]->at = UINT64_MAX;
}

void dp_table_fini(struct dp_table *t)
{
    for (unsigned n = 0; n < DP_TABLE_PAGES; n++)
        free(t->page[n]);
}

/* ---- by extents ---- */

static int piece(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x)
{
    int rc = dp_image_extent(i, offset, size, x);
    return rc ? rc : x->size ? 0 : -EIO;
}

int dp_extent_read(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    while (size) {
        struct dp_extent x;
        int rc = piece(i, offset, size, &x);
        if (rc)
            return rc;
        if (x.kind == DP_EXTENT_DATA)
            rc = dp_image_read(i->file, c, x.offset, x.size);
        else if (x.kind == DP_EXTENT_UNALLOCATED && i->backing)
            rc = dp_image_read(i->backing, c, offset, x.size);
        else
            dp_cursor_zero(c, x.size);
        if (rc)
            return rc;
        offset += x.size;
        size -= x.size;
    }
    return 0;
}

int dp_extent_write(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size,
                    int (*place)(struct dp_image *i, uint64_t offset))
{
    while (size) {
        struct dp_extent x;
        int rc = piece(i, offset, size, &x);
        if (!rc && x.kind != DP_EXTENT_DATA) {
            if (!(rc = place(i, offset)))
                rc = piece(i, offset, size, &x);
            if (!rc && x.kind != DP_EXTENT_DATA)
                rc = -EIO;
        }
        if (!rc)
            rc = dp_image_write(i->file, c, x.offset, x.size);
        if (rc)
            return rc;
        offset += x.size;
        size -= x.size;
    }
    return 0;
}

int dp_extent_zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags)
{
    while (size) {
        struct dp_extent x;
        int rc = piece(i, offset, size, &x);
        if (rc)
            return rc;
        if (x.kind == DP_EXTENT_UNALLOCATED && i->backing && !(flags & DP_ZERO_DISCARD))
            return -ENOTSUP; /* the caller writes the zeros */
        if (x.kind == DP_EXTENT_DATA && (rc = dp_image_zero(i->file, x.offset, x.size, flags)))
            return rc;
        offset += x.size;
        size -= x.size;
    }
    return 0;
}

int dp_extent_fill(struct dp_image *i, uint64_t offset, uint64_t size, uint64_t to)
{
    uint64_t end = DP_MIN(offset + size, i->size);
    uint8_t *bytes = malloc(size);
    int rc = bytes ? 0 : -ENOMEM;
    for (uint64_t at = offset; !rc && at < end;) {
        struct dp_extent x;
        if (!(rc = piece(i, at, end - at, &x)) && x.kind == DP_EXTENT_UNALLOCATED && i->backing &&
            !(rc = dp_image_pread(i->backing, bytes, x.size, at)))
            rc = dp_image_pwrite(i->file, bytes, x.size, to + at - offset);
        at += x.size;
    }
    free(bytes);
    return rc;
}

/* ---- small things ---- */

bool dp_name_from_utf16(const uint8_t *utf16, size_t units, bool big, char *out, size_t room)
{
    size_t n = 0;
    for (size_t k = 0; k < units; k++) {
        uint32_t c = big ? utf16[2 * k] << 8 | utf16[2 * k + 1] : utf16[2 * k] | utf16[2 * k + 1] << 8;
        if (!c)
            break;
        if (c >= 0xd800 && c < 0xdc00 && k + 1 < units) {
            const uint8_t *p = utf16 + 2 * ++k;
            uint32_t low = big ? p[0] << 8 | p[1] : p[0] | p[1] << 8;
            c = 0x10000 + ((c & 0x3ff) << 10) + (low & 0x3ff);
        }
        if (n + 5 > room)
            return false;
        if (c < 0x80) {
            out[n++] = c == '\\' ? '/' : c;
        } else if (c < 0x800) {
            out[n++] = 0xc0 | c >> 6;
            out[n++] = 0x80 | (c & 0x3f);
        } else if (c < 0x10000) {
            out[n++] = 0xe0 | c >> 12;
            out[n++] = 0x80 | (c >> 6 & 0x3f);
            out[n++] = 0x80 | (c & 0x3f);
        } else {
            out[n++] = 0xf0 | c >> 18;
            out[n++] = 0x80 | (c >> 12 & 0x3f);
            out[n++] = 0x80 | (c >> 6 & 0x3f);
            out[n++] = 0x80 | (c & 0x3f);
        }
    }
    out[n] = 0;
    const char *last = strrchr(out, '/');
    if (n && (out[1] == ':' || !strncmp(out, "//", 2)) && last)
        memmove(out, last + 1, strlen(last + 1) + 1);
    return *out;
}

uint32_t dp_name_to_utf16(const char *name, bool big, uint8_t *out, size_t room)
{
    size_t n = 0;
    for (const uint8_t *p = (const uint8_t *)name; *p;) {
        unsigned more = *p < 0x80 ? 0 : *p >> 5 == 6 ? 1 : *p >> 4 == 14 ? 2 : *p >> 3 == 30 ? 3 : 4;
        uint32_t c = more == 4 ? 0 : more ? *p & (0x3f >> more) : *p == '/' ? '\\' : *p;
        p++;
        for (; more && more < 4 && (*p & 0xc0) == 0x80; more--)
            c = c << 6 | (*p++ & 0x3f);
        if (more || n + 4 > room || c > 0x10ffff)
            return 0;
        uint16_t unit[2] = {c < 0x10000 ? c : 0xd800 + ((c - 0x10000) >> 10), 0xdc00 + ((c - 0x10000) & 0x3ff)};
        for (unsigned k = 0; k < (c < 0x10000 ? 1 : 2); k++, n += 2) {
            out[n] = big ? unit[k] >> 8 : unit[k];
            out[n + 1] = big ? unit[k] : unit[k] >> 8;
        }
    }
    return n;
}

uint32_t dp_crc32c(uint32_t crc, const void *data, size_t size)
{
    const uint8_t *p = data;
    crc = ~crc;
    for (size_t n = 0; n < size; n++) {
        crc ^= p[n];
        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    return ~crc;
}

void dp_random_uuid(uint8_t uuid[16])
{
    if (getrandom(uuid, 16, 0) != 16)
        memset(uuid, 0x5a, 16); /* a kernel without getrandom: the image is as usable */
    uuid[6] = (uuid[6] & 0x0f) | 0x40;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
}

int dp_image_create_flag(const struct dp_image_create *o, const char *key, bool fallback, bool *value, struct dp_error *e)
{
    const char *text = dp_image_create_option(o, key);
    *value = text ? !strcmp(text, "on") : fallback;
    return text && strcmp(text, "on") && strcmp(text, "off") ? dp_error_set(e, -EINVAL, "option %s is on or off, not '%s'", key, text) : 0;
}
