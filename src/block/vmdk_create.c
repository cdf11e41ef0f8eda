/* vmdk_create.c - VMware's images made: one file, or a descriptor and its parts; over a parent or not. Model, source: vmdk.h.
 *
 * The names of the parts are what qemu-img gives them: NAME-flat.EXT, NAME-s001.EXT, NAME-f001.EXT. What names a file is written after it.
 */
#include <stdlib.h>
#include <sys/random.h>

#include "block/vmdk.h"

enum { DESCRIPTOR_SECTORS = 20, GRAIN = 65536, SPLIT = (2u << 30) / VMDK_SECTOR };

struct making {
    const struct dp_image_create *o;
    const char *type, *adapter;
    bool flat, split, packed, zeroed, alone; /* alone: the descriptor is in the only part */
    uint64_t sectors;
    uint32_t parent_cid;
    unsigned parts;
};

/* "image.vmdk" to "image-flat.vmdk". */
static int part_name(const struct making *m, unsigned n, char *out, size_t room)
{
    const char *name = m->o->name, *slash = strrchr(name, '/'), *dot = strrchr(slash ? slash : name, '.');
    int stem = dot ? (int)(dot - name) : (int)strlen(name), size;
    if (m->alone)
        size = snprintf(out, room, "%s", name);
    else if (m->split)
        size = snprintf(out, room, "%.*s-%c%03u%s", stem, name, m->flat ? 'f' : 's', n + 1, dot ? dot : "");
    else
        size = snprintf(out, room, "%.*s-flat%s", stem, name, dot ? dot : "");
    return size >= 0 && (size_t)size < room ? 0 : -ENAMETOOLONG;
}

static uint64_t part_sectors(const struct making *m, unsigned n)
{
    return m->split ? DP_MIN((uint64_t)SPLIT, m->sectors - (uint64_t)n * SPLIT) : m->sectors;
}

/* The descriptor; to free. NULL: no memory. */
static char *describe(const struct making *m)
{
    const char *hardware = dp_image_create_option(m->o, "hwversion");
    char *text = NULL, name[DP_IMAGE_NAME_MAX + 1];
    size_t size;
    uint32_t cid;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return NULL;
    if (getrandom(&cid, sizeof cid, 0) != sizeof cid || cid >= 0xfffffffe)
        cid = 0x5eed;
    bool ide = !strcmp(m->adapter, "ide");
    uint64_t heads = ide ? 16 : 255, cylinders = m->sectors / (heads * 63);
    fprintf(f, "# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=%08x\ncreateType=\"%s\"\n", cid, m->parent_cid, m->type);
    if (m->o->backing)
        fprintf(f, "parentFileNameHint=\"%s\"\n", m->o->backing);
    fprintf(f, "\n# Extent description\n");
    for (unsigned n = 0; n < m->parts; n++) {
        if (part_name(m, n, name, sizeof name))
            continue; /* cannot be: the file was made by that name */
        const char *slash = strrchr(name, '/');
        fprintf(f, "RW %llu %s \"%s\"%s\n", (unsigned long long)part_sectors(m, n), m->flat ? "FLAT" : "SPARSE", slash ? slash + 1 : name,
                m->flat ? " 0" : "");
    }
    fprintf(f,
            "\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"%.8s\"\nddb.geometry.cylinders = \"%llu\"\n"
            "ddb.geometry.heads = \"%llu\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"%s\"\n",
            hardware ? hardware : "4", (unsigned long long)(ide ? DP_MIN(cylinders, 16383u) : cylinders), (unsigned long long)heads,
            m->adapter);
    bool bad = ferror(f);
    if (fclose(f) || bad) {
        free(text);
        return NULL;
    }
    return text;
}

static int write_directory(struct dp_image *file, uint64_t gd, uint64_t tables, uint64_t first)
{
    uint8_t page[4096];
    int rc = 0;
    for (uint64_t n = 0; !rc && n < tables;) {
        uint64_t at = gd * VMDK_SECTOR + n * 4, k = 0;
        for (; k < sizeof page / 4 && n < tables; k++, n++)
            dp_st32(page + 4 * k, first + n * (VMDK_TABLE_ENTRIES * 4 / VMDK_SECTOR));
        rc = dp_image_pwrite(file, page, k * 4, at);
    }
    return rc;
}

/* text: the descriptor that goes into it, or NULL. */
static int write_sparse(const struct making *m, struct dp_image *file, uint64_t sectors, const char *text)
{
    uint8_t h[VMDK_SECTOR] = VMDK_MAGIC;
    uint64_t per_table = (uint64_t)VMDK_TABLE_ENTRIES * GRAIN / VMDK_SECTOR, table_sectors = VMDK_TABLE_ENTRIES * 4 / VMDK_SECTOR;
    uint64_t tables = sectors / per_table + (sectors % per_table != 0);
    uint64_t directory = (tables * 4 + VMDK_SECTOR - 1) / VMDK_SECTOR, rgd = 1 + DESCRIPTOR_SECTORS;
    uint64_t gd = rgd + directory + tables * table_sectors;
    uint64_t overhead = DP_ALIGN_UP(gd + directory + tables * table_sectors, (uint64_t)GRAIN / VMDK_SECTOR);
    dp_st32(h + VMDK_VERSION, m->packed ? 3 : m->zeroed ? 2 : 1);
    dp_st32(h + VMDK_FLAGS, VMDK_FLAG_NEWLINES | VMDK_FLAG_RGD | (m->packed ? VMDK_FLAG_PACKED | VMDK_FLAG_MARKERS : 0) |
                                (m->zeroed ? VMDK_FLAG_ZEROED : 0));
    dp_st64(h + VMDK_CAPACITY, sectors);
    dp_st64(h + VMDK_GRAIN_SIZE, GRAIN / VMDK_SECTOR);
    dp_st64(h + VMDK_DESCRIPTOR, text ? 1 : 0);
    dp_st64(h + VMDK_DESCRIPTOR_SIZE, text ? DESCRIPTOR_SECTORS : 0);
    dp_st32(h + VMDK_ENTRIES, VMDK_TABLE_ENTRIES);
    dp_st64(h + VMDK_RGD, rgd);
    dp_st64(h + VMDK_GD, gd);
    dp_st64(h + VMDK_OVERHEAD, overhead);
    memcpy(h + VMDK_NEWLINES, "\n \r\n", 4);
    dp_st16(h + VMDK_ALGORITHM, m->packed ? VMDK_DEFLATE : 0);
    int rc = dp_image_zero(file, 0, overhead * VMDK_SECTOR, 0);
    if (!rc && !(rc = write_directory(file, rgd, tables, rgd + directory)) && !(rc = write_directory(file, gd, tables, gd + directory)) &&
        text)
        rc = dp_image_pwrite(file, text, strlen(text), VMDK_SECTOR);
    if (!rc && !(rc = dp_image_flush(file)))
        rc = dp_image_pwrite(file, h, sizeof h, 0);
    return rc;
}

static int make_part(const struct making *m, unsigned n, const char *text, struct dp_error *e)
{
    char name[DP_IMAGE_NAME_MAX + 1];
    struct dp_image *file;
    struct dp_image_create part = *m->o;
    int rc = part_name(m, n, name, sizeof name);
    if (rc)
        return dp_error_set(e, rc, "the name of %.200s is too long", m->o->name);
    part.name = name;
    if ((rc = dp_image_create_file(&part, &file, e)))
        return rc;
    rc = m->flat ? dp_image_zero(file, 0, part_sectors(m, n) * VMDK_SECTOR, 0) : write_sparse(m, file, part_sectors(m, n), text);
    if (!rc)
        rc = dp_image_flush(file);
    dp_image_close(file);
    return rc ? dp_error_set(e, rc, "%s cannot be written: %s", name, strerror(-rc)) : 0;
}

/* By its CID an image knows that its parent is as it was. */
static int read_parent(struct making *m, struct dp_error *e)
{
    const struct dp_image_create *o = m->o;
    struct dp_image *i;
    if (m->flat || m->packed)
        return dp_error_set(e, -EINVAL, "a vmdk image over a parent is monolithicSparse or twoGbMaxExtentSparse, not %s", m->type);
    if (o->backing_format && strcmp(o->backing_format, "vmdk"))
        return dp_error_set(e, -EINVAL, "the parent of a vmdk image is a vmdk image; over %s use format qcow2", o->backing_format);
    if (strpbrk(o->backing, "\"\r\n"))
        return dp_error_set(e, -EINVAL, "a vmdk image cannot name a parent with quotes or line ends in its name");
    char *path = dp_image_beside(o->name, o->backing);
    struct dp_image_options open = {.name = path, .format = "vmdk", .readonly = true, .backing_anywhere = true, .alone = true};
    int rc = path ? dp_image_open(&open, &i, e) : dp_error_set(e, -ENOMEM, "out of memory");
    if (!rc) {
        m->parent_cid = vmdk_of(i)->cid;
        dp_image_close(i);
    }
    free(path);
    return rc;
}

static int plan(struct making *m, struct dp_error *e)
{
    const struct dp_image_create *o = m->o;
    static const char *const adapters[] = {"ide", "buslogic", "lsilogic", "legacyESX"};
    static const char *const types[] = {"monolithicSparse", "streamOptimized", "monolithicFlat", "twoGbMaxExtentSparse",
                                        "twoGbMaxExtentFlat"};
    const char *type = dp_image_create_option(o, "subformat"), *adapter = dp_image_create_option(o, "adapter_type");
    const char *slash = strrchr(o->name, '/');
    unsigned k = 0, a = 0;
    while (k < DP_ARRAY_LEN(types) && type && strcmp(type, types[k]))
        k++;
    while (a < DP_ARRAY_LEN(adapters) && adapter && strcmp(adapter, adapters[a]))
        a++;
    if (k == DP_ARRAY_LEN(types))
        return dp_error_set(e, -EINVAL,
                            "subformat of a vmdk image is monolithicSparse, streamOptimized, monolithicFlat, "
                            "twoGbMaxExtentSparse or twoGbMaxExtentFlat here, not '%s'",
                            type);
    if (a == DP_ARRAY_LEN(adapters))
        return dp_error_set(e, -EINVAL, "adapter_type is ide, buslogic, lsilogic or legacyESX, not '%s'", adapter);
    m->type = types[k];
    m->adapter = adapters[a];
    m->packed = k == 1;
    m->flat = k == 2 || k == 4;
    m->split = k >= 3;
    m->alone = k < 2;
    m->parent_cid = (uint32_t)VMDK_NO_PARENT;
    m->sectors = o->size / VMDK_SECTOR + (o->size % VMDK_SECTOR != 0);
    int rc = dp_image_create_flag(o, "zeroed_grain", false, &m->zeroed, e);
    if (rc)
        return rc;
    if (m->sectors > UINT32_MAX && !m->flat) /* grain tables have 32 bits for sectors of the file */
        return dp_error_set(e, -EFBIG, "a sparse vmdk image has at most 2 TiB; use subformat=monolithicFlat, or format qcow2 or vhdx");
    if (m->split && m->sectors > (uint64_t)SPLIT * VMDK_PARTS_MAX)
        return dp_error_set(e, -EFBIG, "a vmdk image of more than %d parts of 2 GiB is not possible here; use subformat=%s", VMDK_PARTS_MAX,
                            m->flat ? "monolithicFlat" : "monolithicSparse");
    if (!m->alone && (strpbrk(slash ? slash : o->name, "\"\r\n") || strstr(o->name, "://")))
        return dp_error_set(e, -EINVAL, "%s: parts of a vmdk image are files without quotes or line ends in their names", m->type);
    if (!m->sectors && !m->alone)
        return dp_error_set(e, -EINVAL, "%s: a part has at least a sector; say a size", m->type);
    m->parts = m->split ? (m->sectors + SPLIT - 1) / SPLIT : 1;
    m->parts = DP_MAX(m->parts, 1u);
    return o->backing ? read_parent(m, e) : 0;
}

int vmdk_create(const struct dp_image_create *o, struct dp_error *e)
{
    struct making m = {.o = o};
    struct dp_image *file;
    int rc = plan(&m, e);
    char *text = rc ? NULL : describe(&m);
    if (!rc && (!text || (m.alone && strlen(text) > DESCRIPTOR_SECTORS * VMDK_SECTOR)))
        rc = dp_error_set(e, -ENOMEM, "%s: its descriptor gets too long", o->name);
    for (unsigned n = 0; !rc && n < m.parts; n++)
        rc = make_part(&m, n, m.alone ? text : NULL, e);
    if (!rc && !m.alone && !(rc = dp_image_create_file(o, &file, e))) {
        if ((rc = dp_image_pwrite(file, text, strlen(text), 0)) || (rc = dp_image_flush(file)))
            dp_error_set(e, rc, "%s cannot be written: %s", o->name, strerror(-rc));
        dp_image_close(file);
    }
    free(text);
    return rc;
}

const struct dp_image_option vmdk_create_options[] = {
    {"subformat",
     "monolithicSparse, streamOptimized (compressed, written once), monolithicFlat, twoGbMaxExtentSparse or twoGbMaxExtentFlat "
     "(monolithicSparse)"},
    {"adapter_type", "ide, buslogic, lsilogic or legacyESX (ide)"},
    {"hwversion", "of VMware's virtual hardware (4)"},
    {"zeroed_grain", "on or off (off)"},
    {0}};
