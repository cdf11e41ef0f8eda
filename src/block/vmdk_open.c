/* vmdk_open.c - VMware's images: descriptors, headers of sparse parts, and making images. Model, source: vmdk.h. */
#include <ctype.h>
#include <stdlib.h>
#include <sys/random.h>

#include "block/vmdk.h"

enum { VERSION = 4, FLAGS = 8, CAPACITY = 12, GRAIN_SIZE = 20, DESCRIPTOR = 28, DESCRIPTOR_SIZE = 36, ENTRIES = 44, RGD = 48, GD = 56 };
enum { OVERHEAD = 64, UNCLEAN = 72, NEWLINES = 73, ALGORITHM = 77, DEFLATE = 1 };
enum { FLAG_NEWLINES = 1, FLAG_RGD = 2, FLAG_ZEROED = 4, FLAG_PACKED = 1 << 16, FLAG_MARKERS = 1 << 17 };
enum { GRAINS_MAX = 1 << 28, TEXT_MAX = 1 << 20, GRAIN_MAX = 2 << 20, DESCRIPTOR_SECTORS = 20, GRAIN = 65536, TABLE_ENTRIES = 512 };
#define MAGIC "KDMV"
#define GD_AT_END UINT64_MAX
#define SECTORS_MAX (INT64_MAX / VMDK_SECTOR / 2)

static const char title[] = "# Disk DescriptorFile";

bool vmdk_probe(const uint8_t *head, const uint8_t *tail, uint64_t length)
{
    return !memcmp(head, MAGIC, 4) || !memcmp(head, "COWD", 4) || !memcmp(head, title, sizeof title - 1);
}

static int damaged(struct dp_image *i, const char *what, struct dp_error *e)
{
    return dp_error_set(e, -EINVAL, "disk %s is damaged: %s", i->name, what);
}

static int unreadable(struct dp_image *i, int rc, struct dp_error *e)
{
    return dp_error_set(e, rc, "disk %s cannot be read: %s", i->name, strerror(-rc));
}

/* ---- a sparse part ---- */

/* The header of the file of p; the descriptor in it, if text is not NULL: where, and how long. */
static int open_sparse(struct dp_image *i, struct vmdk_part *p, uint64_t *text, uint64_t *text_size, struct dp_error *e)
{
    uint8_t h[VMDK_SECTOR];
    uint64_t length = p->file->size;
    int rc = dp_image_pread(p->file, h, sizeof h, 0);
    bool at_end = !rc && !memcmp(h, MAGIC, 4) && dp_ld64(h + GD) == GD_AT_END;
    if (at_end && length >= 3 * VMDK_SECTOR)
        rc = dp_image_pread(p->file, h, sizeof h, DP_ALIGN_DOWN(length, (uint64_t)VMDK_SECTOR) - 2 * VMDK_SECTOR); /* the footer */
    if (rc)
        return unreadable(i, rc, e);
    if (!memcmp(h, "COWD", 4))
        return dp_error_set(e, -ENOTSUP,
                            "disk %s is of an old kind of vmdk (COWD) that doppel does not know; convert it with VMware's tools",
                            i->name);
    if (memcmp(h, MAGIC, 4))
        return damaged(i, "a sparse part has no header, or its footer is missing", e);
    uint32_t flags = dp_ld32(h + FLAGS), version = dp_ld32(h + VERSION);
    uint64_t capacity = dp_ld64(h + CAPACITY), grain = dp_ld64(h + GRAIN_SIZE), gd = dp_ld64(h + GD), rgd = dp_ld64(h + RGD);
    p->entries = dp_ld32(h + ENTRIES);
    p->packed = flags & FLAG_PACKED;
    p->marked = flags & FLAG_MARKERS;
    p->zeroed = flags & FLAG_ZEROED;
    p->was_unclean = h[UNCLEAN];
    if (at_end && !i->readonly)
        return dp_error_set(e, -ENOTSUP, "disk %s is complete, with a footer (streamOptimized), and can only be read: add ,ro, or copy it: "
                                         "doppel image convert -O qcow2 %s NEW", i->name, i->name);
    if (!version || version > 3)
        return dp_error_set(e, -ENOTSUP, "disk %s: vmdk version %u is not known", i->name, version);
    if (flags & FLAG_NEWLINES && memcmp(h + NEWLINES, "\n \r\n", 4))
        return damaged(i, "its line ends were changed, as by a transfer as text; copy it again", e);
    if (p->packed && dp_ld16(h + ALGORITHM) != DEFLATE)
        return dp_error_set(e, -ENOTSUP, "disk %s: its compression is not known", i->name);
    if (!grain || grain & (grain - 1) || grain > GRAIN_MAX / VMDK_SECTOR || !p->entries || p->entries > TABLE_ENTRIES ||
        capacity > SECTORS_MAX || capacity / grain >= GRAINS_MAX || gd > SECTORS_MAX || !gd || dp_ld64(h + OVERHEAD) > SECTORS_MAX)
        return damaged(i, "the fields of its header contradict each other", e);
    p->grain = grain * VMDK_SECTOR;
    p->gd = gd * VMDK_SECTOR;
    p->rgd = flags & FLAG_RGD && rgd && rgd < SECTORS_MAX ? rgd * VMDK_SECTOR : 0;
    p->start = p->packed ? VMDK_SECTOR : DP_MAX(dp_ld64(h + OVERHEAD), (uint64_t)1) * VMDK_SECTOR;
    uint64_t per_table = p->entries * grain, tables = capacity / per_table + (capacity % per_table != 0);
    if (p->gd + tables * 4 > length)
        return damaged(i, "its grain directory is not in the file; was it copied to its end?", e);
    if (p->size && p->size != capacity * VMDK_SECTOR) /* what the descriptor said */
        return damaged(i, "a part is not as large as the descriptor says", e);
    p->size = capacity * VMDK_SECTOR;
    p->table.file = p->file;
    if (p->packed && (!(p->plain = malloc(p->grain)) || !(p->scratch = malloc(p->grain * 2 + VMDK_SECTOR))))
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", i->name);
    if (text) {
        uint64_t at = dp_ld64(h + DESCRIPTOR), size = dp_ld64(h + DESCRIPTOR_SIZE);
        if (at > SECTORS_MAX || size > TEXT_MAX / VMDK_SECTOR)
            return damaged(i, "its descriptor is not in the file", e);
        *text = at * VMDK_SECTOR;
        *text_size = at ? size * VMDK_SECTOR : 0;
    }
    return 0;
}

/* ---- the descriptor ---- */

struct descriptor {
    char *text;
    uint64_t at;
    char hint[DP_IMAGE_NAME_MAX + 1];
};

/* The value of `key = value` or `key="value"`, if line begins with it; cut off behind it. */
static char *value_of(char *line, const char *key)
{
    size_t n = strlen(key);
    if (strncasecmp(line, key, n))
        return NULL;
    line += n;
    line += strspn(line, " \t");
    if (*line++ != '=')
        return NULL;
    line += strspn(line, " \t");
    if (*line == '"') {
        line++;
        line[strcspn(line, "\"")] = 0;
    } else {
        line[strcspn(line, " \t")] = 0;
    }
    return line;
}

static int set_hex(const char *text, uint32_t *value)
{
    char *end;
    unsigned long v = strtoul(text, &end, 16);
    if (end == text || *end || v > UINT32_MAX)
        return -EINVAL;
    *value = v;
    return 0;
}

/* RW 4192256 SPARSE "name.vmdk" [offset]. alone: the image's file holds the only part, and is open. */
static int add_part(struct dp_image *i, char *line, bool alone, const struct dp_image_options *o, struct dp_error *e)
{
    struct vmdk *v = vmdk_of(i);
    char access[16], kind[16], name[DP_IMAGE_NAME_MAX + 1] = "";
    unsigned long long sectors = 0, start = 0;
    if (v->parts == VMDK_PARTS_MAX)
        return dp_error_set(e, -ENOTSUP, "disk %s has more than %d parts; convert it with VMware's tools", i->name, VMDK_PARTS_MAX);
    int n = sscanf(line, "%15s %llu %15s \"%1023[^\"]\" %llu", access, &sectors, kind, name, &start);
    if (n < 3 || sectors > SECTORS_MAX || start > SECTORS_MAX || !sectors)
        return damaged(i, "a line of its descriptor makes no sense", e);
    struct vmdk_part *p = &v->part[v->parts++];
    p->first = i->size;
    p->size = sectors * VMDK_SECTOR;
    i->size += p->size;
    if (i->size > INT64_MAX / 2)
        return damaged(i, "it is too large", e);
    p->readonly = strcasecmp(access, "RW");
    if (!strcmp(kind, "ZERO")) {
        p->kind = VMDK_ZERO;
        return 0;
    }
    if (!strcasecmp(access, "NOACCESS") || n < 4)
        return dp_error_set(e, -ENOTSUP, "disk %s has a part that may not be read", i->name);
    bool flat = !strcmp(kind, "FLAT") || !strcmp(kind, "VMFS");
    if (!flat && strcmp(kind, "SPARSE"))
        return dp_error_set(e, -ENOTSUP, "disk %s has a part of kind %.15s, which doppel does not know; convert it with VMware's tools",
                            i->name, kind);
    if (!(p->name = strdup(name)))
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", i->name);
    p->kind = flat ? VMDK_FLAT : VMDK_SPARSE;
    p->start = start * VMDK_SECTOR;
    int rc = dp_image_open_part(i, name, &dp_image_file, o, &p->file, e);
    if (rc || !flat)
        return rc ? rc : open_sparse(i, p, NULL, NULL, e);
    if (p->start + p->size > p->file->size)
        return damaged(i, "a flat part is shorter than the descriptor says", e);
    return 0;
}

/* Lines of the text, one by one. alone: it stands in the only part, so its lines of parts are just counted. */
static int parse(struct dp_image *i, struct descriptor *d, bool alone, const struct dp_image_options *o, struct dp_error *e)
{
    struct vmdk *v = vmdk_of(i);
    unsigned parts = 0;
    int rc = 0;
    for (char *line = d->text, *next; !rc && line; line = next) {
        if ((next = strpbrk(line, "\r\n")))
            *next++ = 0;
        line += strspn(line, " \t");
        char *value;
        if (!strncmp(line, "RW ", 3) || !strncmp(line, "RDONLY ", 7) || !strncmp(line, "NOACCESS ", 9)) {
            parts++;
            rc = alone ? 0 : add_part(i, line, alone, o, e);
        } else if ((value = value_of(line, "CID"))) {
            if (set_hex(value, &v->cid))
                rc = damaged(i, "its CID is no number", e);
            v->cid_at = d->at + (value - d->text);
            v->cid_digits = DP_MIN(strlen(value), 8u);
        } else if ((value = value_of(line, "parentCID"))) {
            if (set_hex(value, &v->parent_cid))
                rc = damaged(i, "its parentCID is no number", e);
        } else if ((value = value_of(line, "parentFileNameHint"))) {
            snprintf(d->hint, sizeof d->hint, "%s", value);
        } else if ((value = value_of(line, "createType"))) {
            snprintf(v->type, sizeof v->type, "%s", value);
        }
    }
    if (!rc && alone && parts > 1)
        return dp_error_set(e, -EINVAL, "disk %s is one of several parts; name the descriptor file", i->name);
    return rc || parts || alone ? rc : damaged(i, "its descriptor names no parts", e);
}

static int open_parent(struct dp_image *i, const char *hint, const struct dp_image_options *o, struct dp_error *e)
{
    struct vmdk *v = vmdk_of(i);
    if (!*hint)
        return damaged(i, "it has a parent without a name", e);
    int rc = dp_image_open_backing(i, hint, "vmdk", o, e);
    if (!rc && i->backing && vmdk_of(i->backing)->cid != v->parent_cid)
        return dp_error_set(e, -EINVAL,
                            "disk %s: its parent %s was changed since (CID %08x, not %08x): what is in both would not fit together",
                            i->name, i->backing->name, vmdk_of(i->backing)->cid, v->parent_cid);
    return rc;
}

int vmdk_open(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    struct vmdk *v = vmdk_of(i);
    uint8_t head[sizeof title] = {0};
    struct descriptor d = {0};
    uint64_t size = 0;
    v->parent_cid = v->cid = VMDK_NO_PARENT;
    int rc = dp_image_pread(i->file, head, sizeof title - 1, 0);
    if (rc)
        return unreadable(i, rc, e);
    if (!vmdk_probe(head, NULL, 0))
        return dp_error_set(e, -EINVAL, "disk %s is no vmdk image; what is it? doppel image info %s", i->name, i->name);
    if (o->snapshot)
        return dp_error_set(e, -ENOENT, "disk %s: vmdk images have no snapshots in them", i->name);
    bool alone = memcmp(head, title, sizeof title - 1);
    if (alone) {
        v->part[0].kind = VMDK_SPARSE;
        v->part[0].file = i->file;
        v->parts = 1;
        rc = open_sparse(i, &v->part[0], &d.at, &size, e);
        i->size = v->part[0].size;
        snprintf(v->type, sizeof v->type, "monolithicSparse");
    } else if ((size = i->file->size) > TEXT_MAX) {
        return damaged(i, "its descriptor is too long", e);
    }
    if (rc || !size)
        return rc;
    if (!(d.text = calloc(1, size + 1)))
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", i->name);
    if ((rc = dp_image_pread(i->file, d.text, size, d.at)))
        unreadable(i, rc, e);
    if (!rc)
        rc = parse(i, &d, alone, o, e);
    free(d.text);
    return rc || v->parent_cid == (uint32_t)VMDK_NO_PARENT ? rc : open_parent(i, d.hint, o, e);
}

int vmdk_set_unclean(struct vmdk_part *p, bool on)
{
    uint8_t byte = on;
    int rc = dp_image_pwrite(p->file, &byte, 1, UNCLEAN);
    return rc ? rc : dp_image_flush(p->file);
}

void vmdk_close(struct dp_image *i)
{
    struct vmdk *v = vmdk_of(i);
    for (unsigned n = 0; n < v->parts; n++) {
        struct vmdk_part *p = &v->part[n];
        /* What cannot be told at the end the next one finds by comparing. */
        if (p->unclean && !p->table.dirty && !dp_image_flush(p->file) && vmdk_set_unclean(p, false) && i->trace)
            dp_trace_emit(i->trace, DP_TRACE_BLOCK, "disk %s: its header cannot be written", i->name);
        dp_table_fini(&p->table);
        free(p->name);
        free(p->plain);
        free(p->scratch);
        if (p->file != i->file)
            dp_image_close(p->file);
    }
}

/* ---- create ---- */

static int write_directory(struct dp_image *file, uint64_t gd, uint64_t tables, uint64_t first)
{
    uint8_t page[4096];
    int rc = 0;
    for (uint64_t n = 0; !rc && n < tables;) {
        uint64_t at = gd * VMDK_SECTOR + n * 4, k = 0;
        for (; k < sizeof page / 4 && n < tables; k++, n++)
            dp_st32(page + 4 * k, first + n * (TABLE_ENTRIES * 4 / VMDK_SECTOR));
        rc = dp_image_pwrite(file, page, k * 4, at);
    }
    return rc;
}

static void describe(const struct dp_image_create *o, const char *type, uint64_t sectors, char *text, size_t room)
{
    const char *slash = strrchr(o->name, '/'), *adapter = dp_image_create_option(o, "adapter_type");
    const char *hardware = dp_image_create_option(o, "hwversion");
    uint32_t cid = 0;
    if (getrandom(&cid, sizeof cid, 0) != sizeof cid || cid >= 0xfffffffe)
        cid = 0x5eed;
    bool ide = !adapter || !strcmp(adapter, "ide");
    uint64_t heads = ide ? 16 : 255, cylinders = sectors / (heads * 63);
    snprintf(text, room,
             "# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=ffffffff\ncreateType=\"%s\"\n\n# Extent description\n"
             "RW %llu SPARSE \"%.255s\"\n\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"%.8s\"\n"
             "ddb.geometry.cylinders = \"%llu\"\nddb.geometry.heads = \"%llu\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"%s\"\n",
             cid, type, (unsigned long long)sectors, slash ? slash + 1 : o->name, hardware ? hardware : "4",
             (unsigned long long)(ide ? DP_MIN(cylinders, 16383u) : cylinders), (unsigned long long)heads, adapter ? adapter : "ide");
}

int vmdk_create(const struct dp_image_create *o, struct dp_error *e)
{
    const char *type = dp_image_create_option(o, "subformat"), *adapter = dp_image_create_option(o, "adapter_type");
    static const char *const adapters[] = {"ide", "buslogic", "lsilogic", "legacyESX"};
    bool packed = type && !strcmp(type, "streamOptimized"), zeroed, known = !adapter;
    struct dp_image *file;
    uint8_t h[VMDK_SECTOR] = MAGIC;
    char text[DESCRIPTOR_SECTORS * VMDK_SECTOR] = {0};
    if (type && !packed && strcmp(type, "monolithicSparse"))
        return dp_error_set(e, -ENOTSUP, "subformat of a vmdk image is monolithicSparse or streamOptimized here, not '%s'", type);
    for (unsigned n = 0; n < DP_ARRAY_LEN(adapters); n++)
        known |= adapter && !strcmp(adapter, adapters[n]);
    if (!known)
        return dp_error_set(e, -EINVAL, "adapter_type is ide, buslogic, lsilogic or legacyESX, not '%s'", adapter);
    int rc = dp_image_create_flag(o, "zeroed_grain", false, &zeroed, e);
    if (rc)
        return rc;
    if (o->backing)
        return dp_error_set(e, -ENOTSUP, "vmdk images are made without a backing file here; use format qcow2");
    uint64_t sectors = o->size / VMDK_SECTOR + (o->size % VMDK_SECTOR != 0), per_table = (uint64_t)TABLE_ENTRIES * GRAIN / VMDK_SECTOR;
    uint64_t tables = sectors / per_table + (sectors % per_table != 0), table_sectors = TABLE_ENTRIES * 4 / VMDK_SECTOR;
    uint64_t directory = (tables * 4 + VMDK_SECTOR - 1) / VMDK_SECTOR, rgd = 1 + DESCRIPTOR_SECTORS;
    uint64_t gd = rgd + directory + tables * table_sectors;
    uint64_t overhead = DP_ALIGN_UP(gd + directory + tables * table_sectors, (uint64_t)GRAIN / VMDK_SECTOR);
    if (sectors > UINT32_MAX) /* grain tables have 32 bits for sectors of the file */
        return dp_error_set(e, -EFBIG, "a vmdk image has at most 2 TiB; use format qcow2 or vhdx");
    dp_st32(h + VERSION, packed ? 3 : zeroed ? 2 : 1);
    dp_st32(h + FLAGS, FLAG_NEWLINES | FLAG_RGD | (packed ? FLAG_PACKED | FLAG_MARKERS : 0) | (zeroed ? FLAG_ZEROED : 0));
    dp_st64(h + CAPACITY, sectors);
    dp_st64(h + GRAIN_SIZE, GRAIN / VMDK_SECTOR);
    dp_st64(h + DESCRIPTOR, 1);
    dp_st64(h + DESCRIPTOR_SIZE, DESCRIPTOR_SECTORS);
    dp_st32(h + ENTRIES, TABLE_ENTRIES);
    dp_st64(h + RGD, rgd);
    dp_st64(h + GD, gd);
    dp_st64(h + OVERHEAD, overhead);
    memcpy(h + NEWLINES, "\n \r\n", 4);
    dp_st16(h + ALGORITHM, packed ? DEFLATE : 0);
    describe(o, packed ? "streamOptimized" : "monolithicSparse", sectors, text, sizeof text);
    if ((rc = dp_image_create_file(o, &file, e)))
        return rc;
    if (!(rc = dp_image_zero(file, 0, overhead * VMDK_SECTOR, 0)) && !(rc = write_directory(file, rgd, tables, rgd + directory)) &&
        !(rc = write_directory(file, gd, tables, gd + directory)) && !(rc = dp_image_pwrite(file, text, sizeof text, VMDK_SECTOR)) &&
        !(rc = dp_image_flush(file)) && !(rc = dp_image_pwrite(file, h, sizeof h, 0)))
        rc = dp_image_flush(file);
    dp_image_close(file);
    return rc ? dp_error_set(e, rc, "%s cannot be written: %s", o->name, strerror(-rc)) : 0;
}

const struct dp_image_option vmdk_create_options[] = {
    {"subformat", "monolithicSparse, or streamOptimized: compressed, written once (monolithicSparse)"},
    {"adapter_type", "ide, buslogic, lsilogic or legacyESX (ide)"},
    {"hwversion", "of VMware's virtual hardware (4)"},
    {"zeroed_grain", "on or off (off)"},
    {0}};
