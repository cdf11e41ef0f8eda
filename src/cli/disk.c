/* cli/disk.c - see disk.h. Options stand in one table; the text is cut up in one copy, which path, serial number and secret file point
 * into. */
#include "cli/disk.h"

#include <stdlib.h>

#include "block/image.h"
#include "volume/volume.h"

enum {
    VIRTIO = 1 << DP_VM_VIRTIO,
    IDE = 1 << DP_VM_IDE,
    SATA = 1 << DP_VM_SATA,
    CDROM = 1 << DP_VM_CDROM,
    FLOPPY = 1 << DP_VM_FLOPPY,
    USB = 1 << DP_VM_USB,
    SCSI = 1 << DP_VM_SCSI,
    ALL = VIRTIO | IDE | SATA | CDROM | FLOPPY | USB | SCSI
};

/* An option without a value, or with one of a few, or with any (names NULL). */
struct option {
    const char *name;
    unsigned buses; /* that have it */
    const char *const *names;
    bool flag;
    size_t limit; /* in struct dp_throttle_limits */
    int (*set)(struct dp_vm_disk *d, const struct option *o, const char *value, unsigned which);
};

static const char *const buses[] = {"virtio", "ide", "sata", "scsi", NULL};
static const char *const any[] = {"any", NULL};
static const char *const blocks[] = {"512", "4096", NULL};
static const char *const caches[] = {"writeback", "none", "writethrough", "directsync", "unsafe", NULL};
static const char *const fills[] = {"off", "on", NULL};
static const char *const discards[] = {"unmap", "ignore", NULL};
static const char *const detects[] = {"off", "on", "unmap", NULL};
static const char *const queue_counts[] = {"1", "2", "3", "4", "5", "6", "7", "8", NULL};

static int set_readonly(struct dp_vm_disk *d, const struct option *o, const char *value, unsigned which)
{
    d->readonly = true;
    return 0;
}
static int set_format(struct dp_vm_disk *d, const struct option *o, const char *value, unsigned which)
{
    const struct dp_image_format *f = dp_image_format_named(value); /* `doppel image --help` lists them */
    d->format = f && !f->scheme ? f->name : NULL;
    return d->format ? 0 : -EINVAL;
}
static int set_backing(struct dp_vm_disk *d, const struct option *o, const char *value, unsigned which)
{
    d->backing_anywhere = true;
    return 0;
}
static int set_secret(struct dp_vm_disk *d, const struct option *o, const char *value, unsigned which)
{
    d->secret_file = value;
    return *value ? 0 : -EINVAL;
}
static int set_bus(struct dp_vm_disk *d, const struct option *o, const char *value, unsigned which)
{
    static const enum dp_vm_bus values[] = {DP_VM_VIRTIO, DP_VM_IDE, DP_VM_SATA, DP_VM_SCSI};
    if (d->bus != DP_VM_CDROM)
        d->bus = values[which];
    else if (values[which] == DP_VM_SCSI)
        d->scsi = true;
    else
        return -EINVAL;
    return 0;
}
static int set_serial(struct dp_vm_disk *d, const struct option *o, const char *value, unsigned which)
{
    d->serial = value;
    return *value ? 0 : -EINVAL;
}
static int set_block(struct dp_vm_disk *d, const struct option *o, const char *value, unsigned which)
{
    d->block = which ? 4096 : 512;
    return 0;
}
static int set_queues(struct dp_vm_disk *d, const struct option *o, const char *value, unsigned which)
{
    d->queues = which + 1;
    return 0;
}

static int set_cache(struct dp_vm_disk *d, const struct option *o, const char *value, unsigned which)
{
    static const enum dp_block_cache values[] = {DP_BLOCK_WRITEBACK, DP_BLOCK_NONE, DP_BLOCK_WRITETHROUGH, DP_BLOCK_DIRECTSYNC,
                                                 DP_BLOCK_UNSAFE};
    d->cache = values[which];
    return 0;
}
static int set_copy(struct dp_vm_disk *d, const struct option *o, const char *value, unsigned which)
{
    d->copy = value;
    return *value ? 0 : -EINVAL;
}
static int set_fill(struct dp_vm_disk *d, const struct option *o, const char *value, unsigned which)
{
    d->fill = which;
    return 0;
}
static int set_discard(struct dp_vm_disk *d, const struct option *o, const char *value, unsigned which)
{
    d->discard_ignored = which;
    return 0;
}
static int set_detect(struct dp_vm_disk *d, const struct option *o, const char *value, unsigned which)
{
    d->detect_zeroes = (enum dp_block_detect)which;
    return 0;
}
/* A number in a second, with K, M or G for powers of 1024. */
static int set_limit(struct dp_vm_disk *d, const struct option *o, const char *value, unsigned which)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(value, &end, 10);
    static const char units[] = "KMG";
    const char *unit = *end ? strchr(units, *end) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
    if (*value < '0' || *value > '9' || errno || !n || n > UINT64_MAX >> shift || (*end && (!unit || end[1])))
        return -EINVAL;
    *(uint64_t *)((char *)&d->limits + o->limit) = n << shift;
    return 0;
}

#define LIMIT(name, member)                                                                                                                \
    {                                                                                                                                      \
        name, ALL, NULL, false, offsetof(struct dp_throttle_limits, member), set_limit                                                     \
    }
static const struct option options[] = {
    {"format", ALL, NULL, false, 0, set_format},
    {"backing", ALL, any, false, 0, set_backing},
    {"secret", ALL, NULL, false, 0, set_secret},
    {"ro", ALL, NULL, true, 0, set_readonly},
    {"bus", VIRTIO | IDE | SATA | SCSI | CDROM, buses, false, 0, set_bus},
    {"serial", VIRTIO | IDE | SATA | SCSI | CDROM, NULL, false, 0, set_serial},
    {"block", VIRTIO | SCSI, blocks, false, 0, set_block},
    {"queues", VIRTIO, queue_counts, false, 0, set_queues},
    {"cache", ALL, caches, false, 0, set_cache},
    {"copy", ALL, NULL, false, 0, set_copy},
    {"fill", ALL, fills, false, 0, set_fill},
    {"discard", ALL, discards, false, 0, set_discard},
    {"detect-zeroes", ALL, detects, false, 0, set_detect},
    LIMIT("iops", iops),
    LIMIT("iops-rd", iops_read),
    LIMIT("iops-wr", iops_write),
    LIMIT("iops-burst", iops_burst),
    LIMIT("bps", bps),
    LIMIT("bps-rd", bps_read),
    LIMIT("bps-wr", bps_write),
    LIMIT("bps-burst", bps_burst),
};

/* All options of a bus, for people. */
static void list(unsigned bus, char *text, size_t size)
{
    size_t at = 0;
    *text = 0;
    for (size_t i = 0; i < DP_ARRAY_LEN(options); i++)
        if (options[i].buses >> bus & 1 && at < size) {
            at += (size_t)snprintf(text + at, size - at, "%s%s%s", at ? ", " : "", options[i].name, options[i].flag ? "" : "=");
            for (size_t k = 0; options[i].names && options[i].names != queue_counts && options[i].names[k] && at < size; k++)
                at += (size_t)snprintf(text + at, size - at, "%s%s", k ? "|" : "", options[i].names[k]);
        }
}

/* A value that may hold commas, written twice there, in place. */
static char *cut(char *from)
{
    char *to = from;
    for (; *from && (*from != ',' || from[1] == ','); from++) {
        *to++ = *from;
        from += *from == ',';
    }
    char *next = *from ? from + 1 : NULL;
    *to = 0;
    return next;
}

static int set(const char *option, const char *text, struct dp_vm_disk *d, char *word, enum dp_vm_bus bus, struct dp_error *e)
{
    char *value = strchr(word, '='), known[600];
    if (value)
        *value++ = 0;
    for (size_t i = 0; i < DP_ARRAY_LEN(options); i++) {
        const struct option *o = &options[i];
        unsigned which = 0;
        if (strcmp(o->name, word) || o->flag != !value || !(o->buses >> bus & 1))
            continue;
        while (o->names && o->names[which] && strcmp(o->names[which], value))
            which++;
        if (o->names && !o->names[which]) {
            char names[100] = "";
            for (size_t k = 0, at = 0; o->names[k]; k++)
                at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", !k ? "" : o->names[k + 1] ? ", " : " and ", o->names[k]);
            return dp_error_set(e, -EINVAL, "--%s %s: %s %.40s is not known: %s %s", option, text, word, value, names,
                                which > 1 ? "are" : "is");
        }
        if (!o->set(d, o, value, which))
            return 0;
        value[-1] = '=';
        break;
    }
    list(bus, known, sizeof known);
    return dp_error_set(e, -EINVAL, "--%s %s: '%.40s' is not known: possible are %s (a comma in a file's name is written twice)", option,
                        text, word, known);
}

static const char volume[] = "volume=";

/* The volume's name of "volume=[POOL/]NAME[@SNAPSHOT][,OPTION]..." and what follows it; NULL: a file's name. */
static const char *volume_of(const char *text, char name[256])
{
    size_t skip = sizeof volume - 1;
    if (strncmp(text, volume, skip))
        return NULL;
    size_t n = strcspn(text + skip, ",");
    snprintf(name, 256, "%.*s", (int)DP_MIN(n, (size_t)255), text + skip);
    return text + skip + n;
}

static int find_volume(const char *name, bool readonly, struct dp_vm_disk *d, struct dp_error *e)
{
    char *path;
    int rc = dp_volume_resolve(name, !readonly, &path, &d->format, e);
    d->of_volume = true;
    if (rc)
        return rc;
    /* What path pointed to has the serial number, too. */
    size_t n = strlen(path) + 1;
    char *both = malloc(n + (d->serial ? strlen(d->serial) + 1 : 0));
    if (both) {
        memcpy(both, path, n);
        d->serial = d->serial ? strcpy(both + n, d->serial) : NULL;
        free((char *)d->path);
        d->path = both;
    }
    free(path);
    return both ? 0 : dp_error_set(e, -ENOMEM, "no memory");
}

int cli_disk_recheck(const char *text, const struct dp_vm_disk *d, struct dp_error *e)
{
    char name[256], *path;
    const char *format;
    if (!volume_of(text, name))
        return 0;
    int rc = dp_volume_resolve(name, !d->readonly, &path, &format, e);
    if (rc)
        return rc;
    if (strcmp(path, d->path))
        rc = dp_error_set(e, -EBUSY, "volume %s was changed while this VM took it: start it again", name);
    free(path);
    return rc;
}

int cli_disk_parse(const char *option, const char *text, enum dp_vm_bus bus, struct dp_vm_disk *d, struct dp_error *e)
{
    char name[256];
    const char *words = volume_of(text, name);
    char *path = strdup(words ? words : text);
    if (!path)
        return dp_error_set(e, -ENOMEM, "no memory");
    *d = (struct dp_vm_disk){.path = path, .bus = bus, .readonly = bus == DP_VM_CDROM};
    for (char *word = cut(path), *next; word; word = next) {
        next = cut(word);
        int rc = set(option, text, d, word, bus, e);
        if (rc)
            return rc;
    }
    if (d->fill && !d->copy)
        return dp_error_set(e, -EINVAL, "--%s %s: fill= needs a file to fill: copy=FILE", option, text);
    if (d->bus != DP_VM_VIRTIO && d->queues)
        return dp_error_set(e, -EINVAL, "--%s %s: queues= is of virtio disks", option, text);
    if (d->bus != DP_VM_VIRTIO && d->bus != DP_VM_SCSI && d->block)
        return dp_error_set(e, -EINVAL, "--%s %s: block= is of virtio and SCSI disks", option, text);
    if (words && d->format)
        return dp_error_set(e, -EINVAL, "--%s %s: a volume's format is known: leave format= away", option, text);
    if (words)
        return find_volume(name, d->readonly, d, e);
    if ((bus == DP_VM_CDROM || bus == DP_VM_FLOPPY) && !strcmp(path, "none")) { /* an empty drive, for `doppel media` */
        d->empty = true;
        return 0;
    }
    return *path ? 0 : dp_error_set(e, -EINVAL, "disk '%s': the file's name is missing", text);
}
