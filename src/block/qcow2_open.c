/* qcow2_open.c - opening a qcow2 image and what is below it.
 *
 * Model, source: qcow2.h. The header is read once and every field is checked before it is used; what a table's entries say is checked where
 * they are used. Memory is bounded: L1 tables of a chain by QCOW2_L1_CHAIN_MAX entries, the refcount table (writable images only) by 8 MiB,
 * slices by 1 MiB for each image.
 * Backing files: an image may come from anywhere, and who made it chose the name. So a backing file is opened only if it is in
 * the folder of the topmost image or below (links followed), unless the user said `backing=any`; its format must be declared, never
 * guessed; it is never written; URLs are refused.
 */
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "block/qcow2.h"

enum { DIRTY = 1, CORRUPT = 2, EXTERNAL_DATA = 4, COMPRESSION = 8, EXTENDED_L2 = 16, KNOWN = 31 };
enum { HEAD_MAX = 65536, NAME_MAX_BYTES = 1023 };
static const uint32_t BACKING_FORMAT = 0xe2792aca;

struct chain {
    bool anywhere;
    char *folder;       /* else backing files must be below it; NULL: the image has no folder */
    uint64_t l1_entries;
    unsigned depth;
    struct { uint64_t device, inode; } seen[QCOW2_CHAIN_MAX];
};

struct header {
    uint64_t backing_file_offset, size, l1_table_offset, refcount_table_offset, incompatible_features, autoclear_features;
    uint32_t version, backing_file_size, cluster_bits, crypt_method, l1_size, refcount_table_clusters, refcount_order, header_length;
    uint8_t compression_type;
    char backing_format[16];
};

static uint32_t be32(const uint8_t *p) { return __builtin_bswap32(dp_ld32(p)); }
static uint64_t be64(const uint8_t *p) { return qcow2_be(dp_ld64(p)); }

#define REFUSE(...) dp_error_set(e, -EINVAL, __VA_ARGS__)

/* Header extensions; head has bytes of the first cluster. */
static int parse_extensions(struct qcow2 *q, const uint8_t *head, uint64_t bytes, struct header *h, struct dp_error *e)
{
    uint64_t end = h->backing_file_offset > h->header_length ? DP_MIN(bytes, h->backing_file_offset) : bytes;
    for (uint64_t at = h->header_length; at + 8 <= end && be32(head + at);) {
        uint32_t type = be32(head + at), length = be32(head + at + 4);
        if (length > end - at - 8)
            return REFUSE("disk %s is damaged: a header extension is longer than the header", q->path);
        if (type == BACKING_FORMAT) {
            size_t n = DP_MIN((size_t)length, sizeof h->backing_format - 1);
            memcpy(h->backing_format, head + at + 8, n);
            h->backing_format[n] = 0;
        }
        at += 8 + DP_ALIGN_UP((uint64_t)length, 8);
    }
    return 0;
}

static int parse_header(struct qcow2 *q, const uint8_t *head, uint64_t bytes, struct header *h, struct dp_error *e)
{
    if (bytes < 72 || memcmp(head, "QFI\xfb", 4))
        return REFUSE("disk %s is not a qcow2 image; if it is raw, say format=raw", q->path);
    *h = (struct header){.version = be32(head + 4), .backing_file_offset = be64(head + 8), .backing_file_size = be32(head + 16),
                         .cluster_bits = be32(head + 20), .size = be64(head + 24), .crypt_method = be32(head + 32),
                             .l1_size = be32(head + 36),
                         .l1_table_offset = be64(head + 40), .refcount_table_offset = be64(head + 48),
                         .refcount_table_clusters = be32(head + 56), .refcount_order = 4, .header_length = 72};
    if (h->version != 2 && h->version != 3)
        return REFUSE("disk %s: qcow2 version %u is not known; convert it with: qemu-img convert -O qcow2 %s NEW", q->path, h->version,
            q->path);
    if (h->cluster_bits < 9 || h->cluster_bits > 21)
        return REFUSE("disk %s: clusters of 2^%u bytes are not possible (2^9 to 2^21 are); the image is damaged", q->path, h->cluster_bits);
    if (h->version == 3) {
        if (bytes < 104)
            return REFUSE("disk %s is damaged: it ends within its header", q->path);
        h->incompatible_features = be64(head + 72);
        h->autoclear_features = be64(head + 88);
        h->refcount_order = be32(head + 96);
        h->header_length = be32(head + 100);
        if (h->header_length < 104 || h->header_length % 8 || h->header_length > 1u << h->cluster_bits || h->header_length > bytes)
            return REFUSE("disk %s is damaged: its header cannot be %u bytes long", q->path, h->header_length);
        h->compression_type = h->header_length > 104 ? head[104] : 0;
    }
    return 0;
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size) { return a < b + b_size && b < a + a_size; }

static int check_header(struct qcow2 *q, const struct header *h, uint64_t length, struct dp_error *e)
{
    uint64_t cluster = 1ull << h->cluster_bits, l1_bytes = h->l1_size * 8ull, table_bytes = (uint64_t)h->refcount_table_clusters * cluster;
    if (h->incompatible_features & ~(uint64_t)KNOWN)
        return REFUSE("disk %s has features that doppel does not know (0x%llx); convert it with: qemu-img convert -O qcow2 %s NEW", q->path,
                      (unsigned long long)(h->incompatible_features & ~(uint64_t)KNOWN), q->path);
    if (h->crypt_method)
        return REFUSE("disk %s is encrypted, which doppel cannot read yet; convert it with: qemu-img convert", q->path);
    if (h->incompatible_features & EXTERNAL_DATA)
        return REFUSE("disk %s has its data in another file, which doppel cannot read yet; convert it: qemu-img convert -O qcow2 %s NEW",
                      q->path, q->path);
    if (!q->readonly && h->incompatible_features & (DIRTY | CORRUPT))
        return REFUSE("disk %s is marked as %s; repair it first with: qemu-img check -r all %s", q->path,
                      h->incompatible_features & CORRUPT ? "damaged" : "not closed properly", q->path);
    if (!!(h->incompatible_features & COMPRESSION) != !!h->compression_type || h->compression_type > 1)
        return REFUSE("disk %s: compression type %u is not known (zlib and zstd are)", q->path, h->compression_type);
    if (h->incompatible_features & EXTENDED_L2 && h->cluster_bits < 14)
        return REFUSE("disk %s is damaged: extended L2 entries need clusters of 16 KiB or more", q->path);
    if (h->refcount_order > 6)
        return REFUSE("disk %s is damaged: refcounts of 2^%u bits are not possible", q->path, h->refcount_order);
    if (!h->size || h->size > INT64_MAX - cluster)
        return REFUSE("disk %s: a disk of %llu bytes is not possible; the image is damaged or empty", q->path, (unsigned long long)h->size);
    if (h->l1_size > QCOW2_L1_ENTRIES_MAX || h->l1_table_offset & (cluster - 1) || !h->l1_table_offset || h->l1_table_offset > length ||
        l1_bytes > length - h->l1_table_offset)
        return REFUSE("disk %s is damaged: its L1 table (%u entries at 0x%llx) is not inside the file", q->path, h->l1_size,
                      (unsigned long long)h->l1_table_offset);
    if (!h->refcount_table_clusters || h->refcount_table_clusters > (uint32_t)QCOW2_TABLE_BYTES_MAX >> h->cluster_bits ||
        h->refcount_table_offset & (cluster - 1) || !h->refcount_table_offset || h->refcount_table_offset > length ||
        DP_ALIGN_DOWN(table_bytes, cluster) > DP_ALIGN_UP(length, cluster) - h->refcount_table_offset)
        return REFUSE("disk %s is damaged: its refcount table (%u clusters at 0x%llx) is not inside the file", q->path,
                      h->refcount_table_clusters, (unsigned long long)h->refcount_table_offset);
    if (overlap(h->l1_table_offset, DP_MAX(l1_bytes, 1), h->refcount_table_offset, table_bytes))
        return REFUSE("disk %s is damaged: its tables lie in one another", q->path);
    return 0;
}

/* size bytes of big-endian entries; the caller frees them. */
static int read_entries(struct qcow2 *q, uint64_t at, uint64_t count, uint64_t **out, struct dp_error *e)
{
    if (!(*out = malloc(DP_MAX(count, 1) * 8)))
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", q->path);
    int rc = qcow2_pread(q, *out, count * 8, at);
    if (rc)
        return dp_error_set(e, rc, "disk %s cannot be read: %s", q->path, strerror(-rc));
    for (uint64_t i = 0; i < count; i++)
        (*out)[i] = qcow2_be((*out)[i]);
    return 0;
}

/* Refcount blocks are aligned, in the file, and in no other table. */
static int check_table(struct qcow2 *q, struct dp_error *e)
{
    for (uint32_t i = 0; i < q->table_size; i++) {
        uint64_t at = q->table[i];
        if (at && (at & (q->cluster - 1) || at >= q->file_end || overlap(at, q->cluster, q->l1_offset, q->l1_size * 8ull) ||
                   overlap(at, q->cluster, q->table_offset, q->table_size * 8ull)))
            return REFUSE("disk %s is damaged: a refcount block cannot be at 0x%llx; try: qemu-img check -r all %s", q->path,
                          (unsigned long long)at, q->path);
    }
    if (!q->table[0])
        return REFUSE("disk %s is damaged: its first refcount block is missing; try: qemu-img check -r all %s", q->path, q->path);
    return 0;
}

static int open_image(struct qcow2 *q, struct chain *chain, struct dp_error *e) DP_MUST_CHECK;

static int open_file(struct qcow2 *q, const char *name, bool raw, struct chain *chain, struct dp_error *e)
{
    struct stat st;
    if (stat(name, &st))
        return dp_error_set(e, -errno, "backing file %s: %s", name, strerror(errno));
    for (unsigned i = 0; i < chain->depth; i++)
        if (chain->seen[i].device == st.st_dev && chain->seen[i].inode == st.st_ino)
            return REFUSE("backing file %s is an image of its own chain: the chain has no end", name);
    struct dp_block file = {.readonly = true, .trace = q->trace, .fd = -1};
    if (!(file.path = q->path = strdup(name)))
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", name);
    int rc = dp_raw_open(&file, e);
    q->fd = file.fd;
    if (rc)
        return rc;
    q->readonly = true;
    q->raw = raw;
    q->size = file.size;
    return raw ? 0 : open_image(q, chain, e);
}

static bool is_below(const char *path, const char *folder)
{
    size_t n = strlen(folder);
    return !strncmp(path, folder, n) && (path[n] == '/' || (n == 1 && *folder == '/'));
}

static int open_backing(struct qcow2 *q, const struct header *h, const char *name, struct chain *chain, struct dp_error *e)
{
    if (strcmp(h->backing_format, "raw") && strcmp(h->backing_format, "qcow2"))
        return *h->backing_format
                   ? REFUSE("disk %s: its backing file's format is not known to doppel (raw and qcow2 are); convert that file", q->path)
                   : REFUSE("disk %s does not say which format its backing file has; add it with: qemu-img rebase -u -F FORMAT -b FILE %s",
                       q->path,
                            q->path);
    const char *colon = strchr(name, ':'), *slash = strchr(name, '/');
    if (colon && (!slash || colon < slash))
        return REFUSE("disk %s has a backing file with a protocol or an address, which doppel does not open; give it a file", q->path);
    char *copy = strdup(q->path), *joined = NULL, *real = NULL;
    int rc = 0;
    if (!copy || (*name == '/' ? !(joined = strdup(name)) : asprintf(&joined, "%s/%s", dirname(copy), name) < 0))
        rc = dp_error_set(e, -ENOMEM, "disk %s: out of memory", q->path);
    else if (!(real = realpath(joined, NULL)))
        rc = dp_error_set(e, -errno, "disk %s: its backing file cannot be found: %s; is it where the image says (qemu-img info)?", q->path,
                          strerror(errno));
    else if (!chain->anywhere && !(chain->folder && is_below(real, chain->folder)))
        rc = dp_error_set(e, -EACCES, "disk %s wants to read %.200s, outside its folder; if you trust the image, add ,backing=any",
            q->path, real);
    else if (chain->depth == QCOW2_CHAIN_MAX)
        rc = REFUSE("disk %s: more than %d images above one another; merge some with: qemu-img convert", q->path, QCOW2_CHAIN_MAX);
    else if (!(q->backing = calloc(1, sizeof *q->backing)))
        rc = dp_error_set(e, -ENOMEM, "disk %s: out of memory", q->path);
    else {
        q->backing->fd = -1;
        q->backing->trace = q->trace;
        rc = open_file(q->backing, real, !strcmp(h->backing_format, "raw"), chain, e);
    }
    free(copy);
    free(joined);
    free(real);
    return rc;
}

static void take_header(struct qcow2 *q, const struct header *h, uint64_t length)
{
    q->version = h->version;
    q->cluster_bits = h->cluster_bits;
    q->cluster = 1ull << h->cluster_bits;
    q->refcount_order = h->refcount_order;
    q->extended = h->incompatible_features & EXTENDED_L2;
    q->zstd = h->compression_type == 1;
    q->size = h->size;
    q->l2_bits = h->cluster_bits - (q->extended ? 4 : 3);
    q->slice_bits = DP_MIN(h->cluster_bits, (unsigned)QCOW2_SLICE_BITS);
    q->block_bits = h->cluster_bits + 3 - h->refcount_order;
    q->file_end = DP_ALIGN_UP(length, q->cluster);
    q->l1_offset = h->l1_table_offset;
    q->table_offset = h->refcount_table_offset;
    q->clear_autoclear = h->autoclear_features;
}

/* fd, path, readonly and trace are set. */
static int open_image(struct qcow2 *q, struct chain *chain, struct dp_error *e)
{
    struct stat st;
    struct header h;
    if (fstat(q->fd, &st))
        return dp_error_set(e, -errno, "disk %s cannot be examined: %s", q->path, strerror(errno));
    chain->seen[chain->depth].device = st.st_dev;
    chain->seen[chain->depth++].inode = st.st_ino;
    q->regular = S_ISREG(st.st_mode);
    off_t length = lseek(q->fd, 0, SEEK_END);
    uint8_t *head = malloc(HEAD_MAX);
    if (length < 0 || !head) {
        free(head);
        return dp_error_set(e, length < 0 ? -EIO : -ENOMEM, "disk %s cannot be read", q->path);
    }
    char name[NAME_MAX_BYTES + 1] = "";
    uint64_t bytes = DP_MIN((uint64_t)length, (uint64_t)HEAD_MAX);
    int rc = qcow2_pread(q, head, bytes, 0);
    if (rc)
        dp_error_set(e, rc, "disk %s cannot be read: %s", q->path, strerror(-rc));
    else if (!(rc = parse_header(q, head, bytes, &h, e)) && !(rc = check_header(q, &h, length, e)))
        rc = parse_extensions(q, head, DP_MIN(bytes, 1ull << h.cluster_bits), &h, e);
    free(head);
    if (rc)
        return rc;
    take_header(q, &h, length);
    uint64_t needed = ((h.size - 1) >> (q->cluster_bits + q->l2_bits)) + 1;
    if (needed > h.l1_size)
        return REFUSE("disk %s is damaged: its L1 table has %u entries and needs %llu", q->path, h.l1_size, (unsigned long long)needed);
    if ((chain->l1_entries += needed) > QCOW2_L1_CHAIN_MAX)
        return REFUSE("disk %s: the tables of its chain of images are too large; merge some with: qemu-img convert", q->path);
    q->l1_size = needed;
    if ((rc = read_entries(q, h.l1_table_offset, needed, &q->l1, e)))
        return rc;
    for (uint32_t i = 0; i < q->l1_size; i++)
        if (q->l1[i] & ~(QCOW2_OFFSET | QCOW2_COPIED) || q->l1[i] & QCOW2_OFFSET & (q->cluster - 1))
            return REFUSE("disk %s is damaged: entry %u of its L1 table is not possible; try: qemu-img check -r all %s", q->path, i,
                q->path);
    if (!q->readonly) {
        q->table_size = (uint64_t)h.refcount_table_clusters << q->cluster_bits >> 3;
        if ((rc = read_entries(q, h.refcount_table_offset, q->table_size, &q->table, e)) || (rc = check_table(q, e)))
            return rc;
        if (!(q->bounce = malloc(q->cluster)) || !(q->frees = calloc(QCOW2_FREES_MAX, sizeof *q->frees)))
            return dp_error_set(e, -ENOMEM, "disk %s: out of memory", q->path);
    }
    if (!h.backing_file_offset)
        return 0;
    if (!h.backing_file_size || h.backing_file_size > NAME_MAX_BYTES || h.backing_file_offset > q->cluster ||
        h.backing_file_size > q->cluster - h.backing_file_offset)
        return REFUSE("disk %s is damaged: the name of its backing file is not in its header", q->path);
    if ((rc = qcow2_pread(q, name, h.backing_file_size, h.backing_file_offset)))
        return dp_error_set(e, rc, "disk %s cannot be read: %s", q->path, strerror(-rc));
    for (uint32_t i = 0; i < h.backing_file_size; i++)
        if ((uint8_t)name[i] < ' ')
            return REFUSE("disk %s is damaged: the name of its backing file has control characters", q->path);
    return open_backing(q, &h, name, chain, e);
}

int qcow2_open(struct dp_block *b, struct qcow2 **out, struct dp_error *e)
{
    struct chain chain = {.anywhere = b->backing_anywhere};
    struct qcow2 *q = calloc(1, sizeof *q);
    if (!q || !(q->path = strdup(b->path))) {
        free(q);
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", b->path);
    }
    char *real = realpath(b->path, NULL); /* NULL: a descriptor of something without a name */
    chain.folder = real ? dirname(real) : NULL;
    q->fd = b->fd;
    q->readonly = b->readonly;
    q->trace = b->trace;
    int rc = open_image(q, &chain, e);
    free(real);
    if (rc)
        qcow2_free(q);
    else
        *out = q;
    return rc;
}

void qcow2_free(struct qcow2 *q)
{
    for (bool top = true; q; top = false) {
        struct qcow2 *below = q->backing;
        for (unsigned i = 0; i < QCOW2_SETS * QCOW2_WAYS; i++)
            free(q->slice[i / QCOW2_WAYS][i % QCOW2_WAYS].data);
        if (!top && q->fd >= 0)
            close(q->fd);
        ZSTD_freeDCtx(q->zstd_context);
        free(q->l1);
        free(q->table);
        free(q->frees);
        free(q->bounce);
        free(q->packed);
        free(q->plain);
        free(q->path);
        free(q);
        q = below;
    }
}
