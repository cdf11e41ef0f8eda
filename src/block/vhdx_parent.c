/* vhdx_parent.c - vhdx images with a parent: how they name it, and know it. Model: vhdx.h.
 *
 * A locator is a list of keys and values in UTF-16: relative_path (of the others the name is looked for beside the image), and
 * parent_linkage, the DataWriteGuid that the parent had: it has changed if the parent was written since. Source: [MS-VHDX] 2.6.2.6 "Parent
 * Locator".
 */
#include <stdlib.h>

#include "block/vhdx.h"

enum { COUNT = 18, LOCATOR_HEAD = 20, PAIR = 12, PAIRS_MAX = 64, LOCATOR_MAX = 65536, GUID_TEXT = 39, NAME_BYTES_MAX = 1024 };
static const uint8_t locator_type[16] = {0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13};

static void guid_text(const uint8_t *g, char out[GUID_TEXT])
{
    snprintf(out, GUID_TEXT, "{%08x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x}", dp_ld32(g), dp_ld16(g + 4), dp_ld16(g + 6), g[8], g[9],
             g[10], g[11], g[12], g[13], g[14], g[15]);
}

/* The value of a key, as a name; false: it is not there. */
static bool value_of(const uint8_t *p, uint64_t length, const char *key, char *out, size_t room)
{
    unsigned pairs = dp_ld16(p + COUNT);
    char name[64];
    if (pairs > PAIRS_MAX || LOCATOR_HEAD + (uint64_t)pairs * PAIR > length)
        return false;
    for (unsigned n = 0; n < pairs; n++) {
        const uint8_t *x = p + LOCATOR_HEAD + n * PAIR;
        uint64_t k = dp_ld32(x), v = dp_ld32(x + 4), k_size = dp_ld16(x + 8), v_size = dp_ld16(x + 10);
        if (k + k_size <= length && v + v_size <= length && dp_name_from_utf16(p + k, k_size / 2, false, name, sizeof name) &&
            !strcmp(name, key))
            return dp_name_from_utf16(p + v, v_size / 2, false, out, room);
    }
    return false;
}

static int find_parent(struct vhdx *v, const uint8_t *p, uint64_t length, const struct dp_image_options *o, struct dp_error *e)
{
    struct dp_image *i = &v->image;
    char name[DP_IMAGE_NAME_MAX + 1], linkage[64], second[64], guid[GUID_TEXT];
    static const char *const paths[] = {"relative_path", "volume_path", "absolute_win32_path"};
    unsigned k = 0;
    if (memcmp(p, locator_type, 16))
        return dp_error_set(e, -ENOTSUP, "disk %s has a parent that is no vhdx image: merge them with Hyper-V (Merge-VHD)", i->name);
    while (k < DP_ARRAY_LEN(paths) && !value_of(p, length, paths[k], name, sizeof name))
        k++;
    if (k == DP_ARRAY_LEN(paths) || !value_of(p, length, "parent_linkage", linkage, sizeof linkage))
        return dp_error_set(e, -EINVAL, "disk %s is damaged: it does not say what its parent is", i->name);
    int rc = dp_image_open_backing(i, name, "vhdx", o, e);
    if (rc || !i->backing)
        return rc;
    guid_text(vhdx_data_write_guid(vhdx_of(i->backing)), guid);
    if (strcasecmp(guid, linkage) && (!value_of(p, length, "parent_linkage2", second, sizeof second) || strcasecmp(guid, second)))
        return dp_error_set(e, -EINVAL,
                            "disk %s: its parent %s was changed since (it is %s, not %s): what is in both would not fit together", i->name,
                            i->backing->name, guid, linkage);
    if (vhdx_of(i->backing)->sector != v->sector)
        return dp_error_set(e, -EINVAL, "disk %s: its parent %s has other sectors", i->name, i->backing->name);
    return 0;
}

int vhdx_open_parent(struct vhdx *v, uint64_t at, uint64_t length, const struct dp_image_options *o, struct dp_error *e)
{
    if (length < LOCATOR_HEAD || length > LOCATOR_MAX)
        return dp_error_set(e, -EINVAL, "disk %s is damaged: it has a parent, but does not name it", v->image.name);
    uint8_t *p = malloc(length + 4);
    int rc = p ? 0 : dp_error_set(e, -ENOMEM, "disk %s: out of memory", v->image.name);
    for (uint64_t n = 0, word; !rc && n < length; n += 4) {
        if ((rc = dp_table_get(&v->table, at + n, 4, &word)))
            dp_error_set(e, rc, "disk %s cannot be read: %s", v->image.name, strerror(-rc));
        else
            dp_st32(p + n, word);
    }
    if (!rc)
        rc = find_parent(v, p, length, o, e);
    free(p);
    return rc;
}

/* ---- making ---- */

static uint32_t put(uint8_t *out, uint32_t at, const char *text, uint16_t *size)
{
    *size = dp_name_to_utf16(text, false, out + at, NAME_BYTES_MAX);
    return at + *size;
}

uint32_t vhdx_make_locator(const struct dp_image_create *o, uint8_t *out, struct vhdx *parent, struct dp_error *e)
{
    char guid[GUID_TEXT];
    const char *const pair[2][2] = {{"parent_linkage", guid}, {"relative_path", o->backing}};
    uint32_t at = LOCATOR_HEAD + DP_ARRAY_LEN(pair) * PAIR;
    guid_text(vhdx_data_write_guid(parent), guid);
    memcpy(out, locator_type, 16);
    dp_st16(out + COUNT, DP_ARRAY_LEN(pair));
    for (unsigned n = 0; n < DP_ARRAY_LEN(pair); n++) {
        uint8_t *x = out + LOCATOR_HEAD + n * PAIR;
        uint16_t size;
        dp_st32(x, at);
        at = put(out, at, pair[n][0], &size);
        dp_st16(x + 8, size);
        dp_st32(x + 4, at);
        at = put(out, at, pair[n][1], &size);
        dp_st16(x + 10, size);
        if (!size || strchr(pair[n][1], '\\') || *pair[n][1] == '/') {
            dp_error_set(e, -EINVAL, "%s: a vhdx image names its parent by a path from its own folder, of at most 500 letters", o->backing);
            return 0;
        }
    }
    return at;
}
