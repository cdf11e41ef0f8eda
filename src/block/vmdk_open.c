/* vmdk_open.c - VMware's images: descriptors, headers of sparse parts. Model, source: vmdk.h. */
#include <ctype.h>
#include <stdlib.h>

#include "block/vmdk.h"

enum { TEXT_MAX = 1 << 20, GRAINS_MAX = 1 << 27, GRAIN_MAX = 2 << 20 };
#define GD_AT_END UINT64_MAX
#define SECTORS_MAX (INT64_MAX / VMDK_SECTOR / 2)

static const char title[] = "# Disk DescriptorFile";

bool vmdk_probe(const uint8_t *head, const uint8_t *tail, uint64_t length)
{
    return !memcmp(head, VMDK_MAGIC, 4) || !memcmp(head, "COWD", 4) || !memcmp(head, title, sizeof title - 1);
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
    bool at_end = !rc && !memcmp(h, VMDK_MAGIC, 4) && dp_ld64(h + VMDK_GD) == GD_AT_END;
    if (at_end && length >= 3 * VMDK_SECTOR)
        rc = dp_image_pread(p->file, h, sizeof h, DP_ALIGN_DOWN(length, (uint64_t)VMDK_SECTOR) - 2 * VMDK_SECTOR); /* the footer */
    if (rc)
        return unreadable(i, rc, e);
    if (!memcmp(h, "COWD", 4))
        return dp_error_set(e, -ENOTSUP,
                            "disk %s is of an old kind of vmdk (COWD) that doppel does not know; convert it with VMware's tools", i->name);
    if (memcmp(h, VMDK_MAGIC, 4))
        return damaged(i, "a sparse part has no header, or its footer is missing", e);
    uint32_t flags = dp_ld32(h + VMDK_FLAGS), version = dp_ld32(h + VMDK_VERSION);
    uint64_t capacity = dp_ld64(h + VMDK_CAPACITY), grain = dp_ld64(h + VMDK_GRAIN_SIZE), gd = dp_ld64(h + VMDK_GD),
             rgd = dp_ld64(h + VMDK_RGD);
    p->entries = dp_ld32(h + VMDK_ENTRIES);
    p->packed = flags & VMDK_FLAG_PACKED;
    p->marked = flags & VMDK_FLAG_MARKERS;
    p->zeroed = flags & VMDK_FLAG_ZEROED;
    p->was_unclean = h[VMDK_UNCLEAN];
    if (at_end && !i->readonly)
        return dp_error_set(e, -ENOTSUP,
                            "disk %s is complete, with a footer (streamOptimized), and can only be read: add ,ro, or copy it: "
                            "doppel image convert -O qcow2 %s NEW",
                            i->name, i->name);
    if (!version || version > 3)
        return dp_error_set(e, -ENOTSUP, "disk %s: vmdk version %u is not known", i->name, version);
    if (flags & VMDK_FLAG_NEWLINES && memcmp(h + VMDK_NEWLINES, "\n \r\n", 4))
        return damaged(i, "its line ends were changed, as by a transfer as text; copy it again", e);
    if (p->packed && dp_ld16(h + VMDK_ALGORITHM) != VMDK_DEFLATE)
        return dp_error_set(e, -ENOTSUP, "disk %s: its compression is not known", i->name);
    if (!grain || grain & (grain - 1) || grain > GRAIN_MAX / VMDK_SECTOR || !p->entries || p->entries > VMDK_TABLE_ENTRIES ||
        capacity > SECTORS_MAX || capacity / grain >= GRAINS_MAX || gd > SECTORS_MAX || !gd || dp_ld64(h + VMDK_OVERHEAD) > SECTORS_MAX)
        return damaged(i, "the fields of its header contradict each other", e);
    p->grain = grain * VMDK_SECTOR;
    p->gd = gd * VMDK_SECTOR;
    p->rgd = flags & VMDK_FLAG_RGD && rgd && rgd < SECTORS_MAX ? rgd * VMDK_SECTOR : 0;
    p->start = p->packed ? VMDK_SECTOR : DP_MAX(dp_ld64(h + VMDK_OVERHEAD), (uint64_t)1) * VMDK_SECTOR;
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
        uint64_t at = dp_ld64(h + VMDK_DESCRIPTOR), size = dp_ld64(h + VMDK_DESCRIPTOR_SIZE);
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
    int rc = dp_image_pwrite(p->file, &byte, 1, VMDK_UNCLEAN);
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
