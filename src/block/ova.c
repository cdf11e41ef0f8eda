/* ova.c - disks in OVA files (virtual appliances), as a protocol of images: x.ova is its only disk, x.ova/disk2.vmdk one of several.
 *
 * Model: an OVA is a tar archive with a description (.ovf) in front and disks behind it, most often streamOptimized vmdk. What is opened is
 * a window of the archive, which is only read; the disk's own format opens over it as over a file. The archive may come by another protocol
 * (ova://https://...). Which members are disks is told by their names' ends. The description is not read.
 * Invariants: a member is wholly in the archive; each header leads to a later one, and at most MEMBERS_MAX are looked at; memory is
 * two headers and a name. Of members with the same name the first counts.
 * Source: DMTF DSP0243 (OVF) 1.1, section 5; POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; tar(5) for GNU's long
 * names and sizes.
 */
#include "block/ova.h"

#include <stdlib.h>
#include <sys/stat.h>

#include "block/image_internal.h"

enum { BLOCK = 512, NAME = 0, SIZE = 124, CHECKSUM = 148, TYPE = 156, MAGIC = 257, PREFIX = 345 };
enum { NAME_SIZE = 100, SIZE_SIZE = 12, PREFIX_SIZE = 155, MEMBERS_MAX = 4096, EXTENDED_MAX = 64 << 10, LIST_MAX = 300 };

struct ova {
    struct dp_image image;
    uint64_t offset; /* of the disk in the archive */
};

struct member {
    char name[DP_IMAGE_NAME_MAX + 1];
    uint64_t size; /* of what follows the header */
    char type;
};

/* ---- names ---- */

size_t dp_ova_file_length(const char *name)
{
    struct stat st;
    for (const char *p = name; (p = strchr(p, '.')); p++) {
        size_t n = (size_t)(p - name) + 4;
        if (p == name || p[-1] == '/' || strncasecmp(p, ".ova", 4) || (p[4] && p[4] != '/'))
            continue;
        if (!p[4])
            return n;
        char *file = strndup(name, n);
        bool regular = file && (strstr(file, "://") || (!stat(file, &st) && S_ISREG(st.st_mode)));
        free(file);
        if (regular)
            return n;
    }
    return 0;
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n > k && !strcasecmp(name + n - k, end);
}

static bool is_disk(const char *name)
{
    static const char *const ends[] = {".vmdk", ".vhd", ".vhdx", ".vdi", ".qcow2", ".img", ".raw"};
    for (unsigned n = 0; n < DP_ARRAY_LEN(ends); n++)
        if (ends_with(name, ends[n]))
            return true;
    return false;
}

/* ---- headers ---- */

/* Digits of a base, after spaces and to a space, NUL or the end. */
static bool number(const uint8_t *p, size_t n, unsigned base, uint64_t *out)
{
    uint64_t v = 0;
    size_t k = 0, digits = 0;
    while (k < n && p[k] == ' ')
        k++;
    for (; k < n && p[k] >= '0' && p[k] < '0' + (int)base; k++, digits++)
        if (__builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, p[k] - '0', &v))
            return false;
    *out = v;
    return digits && (k == n || p[k] == ' ' || !p[k]);
}

/* Octal, or GNU's: a set bit, and the number, big-endian. */
static bool size_of(const uint8_t *p, uint64_t *out)
{
    if (*p != 0x80)
        return number(p, SIZE_SIZE, 8, out);
    *out = 0;
    for (unsigned n = 1; n < SIZE_SIZE; n++) {
        if (*out >> 56)
            return false;
        *out = *out << 8 | p[n];
    }
    return true;
}

static bool is_sound(const uint8_t *h)
{
    uint64_t said, sum = 0;
    for (unsigned n = 0; n < BLOCK; n++)
        sum += n >= CHECKSUM && n < CHECKSUM + 8 ? ' ' : h[n];
    return !memcmp(h + MAGIC, "ustar", 5) && number(h + CHECKSUM, 8, 8, &said) && said == sum;
}

static void take_name(struct member *m, const uint8_t *h)
{
    int prefix = !h[MAGIC + 5] ? (int)strnlen((const char *)h + PREFIX, PREFIX_SIZE) : 0; /* GNU's header has other things there */
    snprintf(m->name, sizeof m->name, "%.*s%s%.*s", prefix, (const char *)h + PREFIX, prefix ? "/" : "", NAME_SIZE, (const char *)h + NAME);
}

/* A pax header's records, "LENGTH KEY=VALUE\n": the next member's name and size, if they are there. */
static bool take_records(struct member *next, bool *has_name, bool *has_size, const uint8_t *p, size_t n)
{
    while (n) {
        uint64_t length;
        const uint8_t *space = memchr(p, ' ', DP_MIN(n, (size_t)8));
        if (!space || !number(p, (size_t)(space - p), 10, &length) || length > n || length < (uint64_t)(space - p) + 2)
            return false;
        if (p[length - 1] != '\n')
            return false;
        const uint8_t *key = space + 1, *end = p + length - 1, *equal = memchr(key, '=', (size_t)(end - key));
        if (!equal)
            return false;
        size_t value = (size_t)(end - equal) - 1;
        if (equal - key == 4 && !memcmp(key, "path", 4) && value < sizeof next->name) {
            memset(next->name, 0, sizeof next->name);
            memcpy(next->name, equal + 1, value);
            *has_name = true;
        } else if (equal - key == 4 && !memcmp(key, "size", 4)) {
            if (!number(equal + 1, value, 10, &next->size))
                return false;
            *has_size = true;
        }
        p += length;
        n -= length;
    }
    return true;
}

static int damaged(const struct dp_image *archive, struct dp_error *e)
{
    return dp_error_set(e, -EINVAL, "%s is no OVA, or damaged: it is not a tar archive to its end", archive->name);
}

/* The member whose header is at *at, with what extended headers before it say; *at becomes where its content is. 1: there is none. */
static int next_member(struct dp_image *archive, uint64_t *at, struct member *m, unsigned *looked, struct dp_error *e)
{
    uint8_t h[BLOCK];
    struct member said = {.size = 0};
    bool has_name = false, has_size = false;
    for (;;) {
        if (archive->size < BLOCK || *at > archive->size - BLOCK)
            return *at && *at <= archive->size ? 1 : damaged(archive, e);
        int rc = dp_image_pread(archive, h, BLOCK, *at);
        if (rc)
            return dp_error_set(e, rc, "%s cannot be read: %s", archive->name, strerror(-rc));
        if (*at && !*h && !h[MAGIC])
            return 1; /* blocks of zeros are the end */
        if (!is_sound(h) || !size_of(h + SIZE, &m->size))
            return damaged(archive, e);
        if (++*looked > MEMBERS_MAX)
            return dp_error_set(e, -E2BIG, "%s has more than %d members: unpack it with tar", archive->name, MEMBERS_MAX);
        *at += BLOCK;
        m->type = (char)h[TYPE];
        bool extended = m->type == 'x' || m->type == 'L';
        if (!extended && has_size)
            m->size = said.size;
        if (m->size > archive->size - *at)
            return damaged(archive, e);
        if (!extended) {
            take_name(m, h);
            if (has_name)
                memcpy(m->name, said.name, sizeof m->name);
            return 0;
        }
        if (m->size > EXTENDED_MAX)
            return damaged(archive, e);
        uint8_t *text = calloc(1, m->size + 1);
        bool good = text;
        rc = text ? dp_image_pread(archive, text, m->size, *at) : -ENOMEM;
        if (!rc && m->type == 'x') {
            good = take_records(&said, &has_name, &has_size, text, m->size);
        } else if (!rc && strlen((char *)text) < sizeof said.name) {
            snprintf(said.name, sizeof said.name, "%s", (char *)text);
            has_name = true;
        }
        free(text);
        if (rc)
            return dp_error_set(e, rc, "%s cannot be read: %s", archive->name, strerror(-rc));
        if (!good)
            return damaged(archive, e);
        *at += DP_ALIGN_UP(m->size, (uint64_t)BLOCK); /* past the end: there is no next header */
    }
}

static const char *plain(const char *name) { return !strncmp(name, "./", 2) ? name + 2 : name; }

/* A name is shown: what is no printable character could change a terminal. What does not fit is left out. */
static void add_to_list(char list[LIST_MAX], const char *name)
{
    size_t n = strlen(list);
    for (const char *p = n ? ", " : ""; *p && n < LIST_MAX - 1; p++)
        list[n++] = *p;
    for (; *name && n < LIST_MAX - 1; name++)
        list[n++] = (char)((uint8_t)*name < ' ' || *name == 0x7f ? '?' : *name);
    list[n] = 0;
}

int dp_ova_find(struct dp_image *archive, const char *member, uint64_t *offset, uint64_t *size, struct dp_error *e)
{
    struct member m;
    char list[LIST_MAX] = "";
    unsigned disks = 0, looked = 0;
    uint64_t at = 0;
    int rc;
    while (!(rc = next_member(archive, &at, &m, &looked, e))) {
        bool file = m.type == '0' || !m.type;
        if (file && (member ? !strcmp(plain(m.name), plain(member)) : is_disk(m.name) && !disks)) {
            *offset = at;
            *size = m.size;
        }
        if (file && member && !strcmp(plain(m.name), plain(member)))
            return 0;
        if (file && is_disk(m.name)) {
            disks++;
            add_to_list(list, plain(m.name));
        }
        at += DP_ALIGN_UP(m.size, (uint64_t)BLOCK);
    }
    if (rc < 0)
        return rc;
    if (member)
        return dp_error_set(e, -ENOENT, "%.200s has no member %.200s; its disks: %s", archive->name, member, disks ? list : "none");
    if (disks != 1)
        return dp_error_set(e, -EINVAL, "%.200s has %s disks%s%s%s", archive->name, disks ? "several" : "no", disks ? ": " : "", list,
                            disks ? "; name one behind a slash" : "");
    return 0;
}

/* ---- as an image ---- */

static struct ova *of(struct dp_image *i) { return (struct ova *)i; }

static int open_(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    const char *name = !strncmp(i->name, "ova://", 6) ? i->name + 6 : i->name;
    size_t n = dp_ova_file_length(name);
    if (!i->readonly)
        return dp_error_set(e, -EROFS, "disk %s: what is in an OVA is only read: add ,ro, or convert it", i->name);
    char *file = strndup(name, n ? n : strlen(name));
    const char *member = n && name[n] == '/' && name[n + 1] ? name + n + 1 : NULL;
    struct dp_image_options archive = *o;
    archive.name = file;
    int rc = file ? dp_image_open_below(i, &archive, e) : dp_error_set(e, -ENOMEM, "disk %s: out of memory", i->name);
    if (!rc)
        rc = dp_ova_find(i->file, member, &of(i)->offset, &i->size, e);
    free(file);
    return rc;
}

static int read_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    return dp_image_read(i->file, c, of(i)->offset + offset, size);
}

const struct dp_image_format dp_image_ova = {
    .name = "ova",
    .summary = "a disk in an OVA: x.ova (its only one), x.ova/MEMBER; ova:// before any address; only read",
    .instance_size = sizeof(struct ova),
    .scheme = "ova",
    .open = open_,
    .read = read_,
};
