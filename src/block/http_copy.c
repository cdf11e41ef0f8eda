/* http_copy.c - the local copy of a disk that comes by HTTP: a sparse file that fills while the disk is used, and tells what it has.
 *
 * Model: the file is the disk's bytes, zeros to a multiple of 4096, a *map* with a bit for each block that is there (bit n of byte n / 8),
 * to a multiple of 4096, and a header of 4096 bytes at its very end, little-endian:
 *
 *     0  "doppelcp"      8  version, 1       12  bytes of a block    16  length of the disk     24  bytes of the map, as stored
 *     32 ETag (512 bytes, ends with zeros)   544 Last-Modified (64)  4092 CRC-32 of what is before
 *
 * So `truncate -s LENGTH` makes a whole copy the plain image. Bits are set in memory when a block is in the file, and reach the file by a
 * commit: data is on the disk before the map that says so, whatever breaks off; what the map does not say is fetched again. A block of
 * zeros is not written: where the map says nothing the file may hold anything that is also the disk's.
 * Invariants: the file belongs to one file of a server, by length, ETag and Last-Modified; it is locked (file.h) while it is used, and
 * nothing that is no copy is ever changed. It is read as hostile as any image: its numbers are checked against its length.
 */
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "block/file.h"
#include "block/http.h"
#include "block/image_ops.h"

enum { PAGE = 4096, MAP_MAX = 8 << 20, VERSION = 1 };
enum { AT_VERSION = 8, AT_BLOCK = 12, AT_SIZE = 16, AT_MAP = 24, AT_ETAG = 32, AT_MODIFIED = 544, AT_CRC = 4092 };
static const char magic[8] = "doppelcp";

struct dp_http_copy {
    struct dp_file file;
    struct dp_http_identity id;
    uint32_t block;
    uint64_t blocks, missing, map_offset, map_size;
    pthread_mutex_t lock; /* the map, missing, the dirty range */
    uint8_t *map;
    uint64_t dirty_from, dirty_to; /* bytes of the map that the file does not have yet */
};

static bool bit(const struct dp_http_copy *c, uint64_t n) { return c->map[n / 8] >> n % 8 & 1; }

/* ---- the file's form ---- */

static void lay_out(struct dp_http_copy *c, uint64_t size, uint32_t block)
{
    c->id.size = size;
    c->block = block;
    c->blocks = (size + block - 1) / block;
    c->map_offset = DP_ALIGN_UP(size, (uint64_t)PAGE);
    c->map_size = DP_ALIGN_UP((c->blocks + 7) / 8, (uint64_t)PAGE);
}

static bool all(int fd, bool write, void *data, uint64_t size, uint64_t at)
{
    for (uint64_t done = 0; done < size;) {
        uint8_t *p = (uint8_t *)data + done;
        ssize_t n = write ? pwrite(fd, p, size - done, (off_t)(at + done)) : pread(fd, p, size - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            errno = n ? errno : EIO;
            return false;
        }
        done += (uint64_t)n;
    }
    return true;
}

static int no_copy(const char *path, struct dp_error *e)
{
    return dp_error_set(e, -EEXIST, "copy=%s: that file is there and is no copy that doppel made; give another name", path);
}

/* What the header says, if the file can be one. */
static int read_header(struct dp_http_copy *c, const char *path, struct dp_error *e)
{
    uint8_t h[PAGE];
    uint64_t length = c->file.length;
    if (length < 3 * PAGE || length % PAGE)
        return no_copy(path, e);
    if (!all(c->file.fd, false, h, sizeof h, length - PAGE))
        return dp_error_set(e, -errno, "copy=%s cannot be read: %s", path, strerror(errno));
    if (memcmp(h, magic, sizeof magic))
        return no_copy(path, e);
    if (dp_ld32(h + AT_VERSION) != VERSION || dp_ld32(h + AT_CRC) != crc32(0, h, AT_CRC))
        return dp_error_set(e, -EINVAL, "copy=%s is damaged, or of a newer doppel: remove it", path);
    uint32_t block = dp_ld32(h + AT_BLOCK);
    uint64_t size = dp_ld64(h + AT_SIZE), map_size = dp_ld64(h + AT_MAP);
    bool good = block >= DP_HTTP_BLOCK && block <= DP_HTTP_BLOCK_MAX && !(block & (block - 1)) && size && size <= length &&
                map_size <= MAP_MAX && !h[AT_MODIFIED - 1] && !h[AT_MODIFIED + DP_HTTP_DATE_MAX - 1];
    if (good) {
        lay_out(c, size, block);
        good = map_size == c->map_size && c->map_offset + c->map_size + PAGE == length;
    }
    if (!good)
        return dp_error_set(e, -EINVAL, "copy=%s is damaged: remove it", path);
    memcpy(c->id.etag, h + AT_ETAG, DP_HTTP_ETAG_MAX);
    memcpy(c->id.modified, h + AT_MODIFIED, DP_HTTP_DATE_MAX);
    return 0;
}

static int read_map(struct dp_http_copy *c, const char *path, struct dp_error *e)
{
    if (!(c->map = malloc(c->map_size)))
        return dp_error_set(e, -ENOMEM, "copy=%s: out of memory", path);
    if (!all(c->file.fd, false, c->map, c->map_size, c->map_offset))
        return dp_error_set(e, -errno, "copy=%s cannot be read: %s", path, strerror(errno));
    c->missing = 0;
    for (uint64_t n = 0; n < c->map_size * 8; n++) {
        if (n < c->blocks)
            c->missing += !bit(c, n);
        else if (bit(c, n))
            return dp_error_set(e, -EINVAL, "copy=%s is damaged: remove it", path);
    }
    return 0;
}

/* An empty file becomes the copy of nothing yet; its header is the first that is written. */
static int begin(struct dp_http_copy *c, const char *path, const struct dp_http_identity *id, struct dp_error *e)
{
    uint8_t h[PAGE] = {0};
    uint64_t block = DP_HTTP_BLOCK;
    while ((id->size + block - 1) / block / 8 > MAP_MAX - PAGE)
        block *= 2;
    if (block > DP_HTTP_BLOCK_MAX)
        return dp_error_set(e, -EFBIG, "copy=%s: the disk is too large for a copy", path);
    c->id = *id;
    lay_out(c, id->size, (uint32_t)block);
    c->missing = c->blocks;
    memcpy(h, magic, sizeof magic);
    dp_st32(h + AT_VERSION, VERSION);
    dp_st32(h + AT_BLOCK, c->block);
    dp_st64(h + AT_SIZE, id->size);
    dp_st64(h + AT_MAP, c->map_size);
    memcpy(h + AT_ETAG, id->etag, DP_HTTP_ETAG_MAX);
    memcpy(h + AT_MODIFIED, id->modified, DP_HTTP_DATE_MAX);
    dp_st32(h + AT_CRC, (uint32_t)crc32(0, h, AT_CRC));
    if (!(c->map = calloc(1, c->map_size)))
        return dp_error_set(e, -ENOMEM, "copy=%s: out of memory", path);
    uint64_t end = c->map_offset + c->map_size;
    if (!all(c->file.fd, true, h, sizeof h, end) || fdatasync(c->file.fd)) {
        int rc = dp_error_set(e, -errno, "copy=%s cannot be written: %s", path, strerror(errno));
        if (ftruncate(c->file.fd, 0)) /* else it says itself that it is no copy */
            return rc;
        return rc;
    }
    return 0;
}

/* ---- opening ---- */

static int open_file(struct dp_http_copy *c, const char *path, bool make, struct dp_trace *trace, struct dp_error *e)
{
    struct dp_file_options o = {.name = path, .trace = trace};
    struct stat st;
    o.create = make && stat(path, &st) && errno == ENOENT;
    int rc = dp_file_open(&o, &c->file, e);
    if (!rc && !c->file.regular)
        rc = dp_error_set(e, -EINVAL, "copy=%s is a device: give a file", path);
    return rc;
}

int dp_http_copy_open(const char *path, const struct dp_http_identity *id, struct dp_trace *trace, struct dp_http_copy **out,
                      struct dp_error *e)
{
    struct dp_http_copy *c = calloc(1, sizeof *c);
    if (!c)
        return dp_error_set(e, -ENOMEM, "copy=%s: out of memory", path);
    c->file.fd = -1;
    pthread_mutex_init(&c->lock, NULL);
    int rc = open_file(c, path, id != NULL, trace, e);
    if (!rc && id && !c->file.length) {
        rc = begin(c, path, id, e);
    } else if (!rc) {
        rc = read_header(c, path, e);
        if (!rc && id && (id->size != c->id.size || strcmp(id->etag, c->id.etag) || strcmp(id->modified, c->id.modified)))
            rc = dp_error_set(e, -ESTALE,
                              "copy=%s is of another file than the server has now (%.80s %.40s, %llu bytes; now %.80s %.40s, %llu bytes): "
                              "remove it, or give another name", path, c->id.etag, c->id.modified, (unsigned long long)c->id.size, id->etag,
                              id->modified, (unsigned long long)id->size);
        if (!rc)
            rc = read_map(c, path, e);
        if (!rc && !id && c->missing)
            rc = dp_error_set(e, -ENODATA, "copy=%s is not whole, and the server cannot be asked", path);
    }
    if (rc)
        dp_http_copy_close(c);
    else
        *out = c;
    return rc;
}

int dp_http_copy_close(struct dp_http_copy *c)
{
    if (!c)
        return 0;
    int rc = c->map ? dp_http_copy_commit(c) : 0;
    if (c->file.fd >= 0)
        close(c->file.fd);
    pthread_mutex_destroy(&c->lock);
    free(c->map);
    free(c);
    return rc;
}

/* ---- using ---- */

uint64_t dp_http_copy_size(const struct dp_http_copy *c) { return c->id.size; }
uint32_t dp_http_copy_block(const struct dp_http_copy *c) { return c->block; }
int dp_http_copy_descriptor(const struct dp_http_copy *c) { return c->file.fd; }

uint64_t dp_http_copy_run(struct dp_http_copy *c, uint64_t offset, uint64_t size, bool *there)
{
    uint64_t n = offset / c->block, end = offset + size;
    pthread_mutex_lock(&c->lock);
    *there = bit(c, n);
    for (n++; n * c->block < end && bit(c, n) == *there;)
        n++;
    pthread_mutex_unlock(&c->lock);
    return DP_MIN(n * c->block, end) - offset;
}

int dp_http_copy_put(struct dp_http_copy *c, uint64_t offset, const void *data, uint64_t size)
{
    const uint8_t *p = data;
    for (uint64_t at = 0; at < size; at += c->block) {
        uint64_t n = DP_MIN(size - at, (uint64_t)c->block);
        if (!dp_is_zero(p + at, n) && !all(c->file.fd, true, (void *)(p + at), n, offset + at))
            return -errno;
    }
    pthread_mutex_lock(&c->lock);
    for (uint64_t n = offset / c->block; n * c->block < offset + size; n++) {
        c->missing -= !bit(c, n);
        c->map[n / 8] |= (uint8_t)(1u << n % 8);
        c->dirty_from = c->dirty_to ? DP_MIN(c->dirty_from, n / 8) : n / 8;
        c->dirty_to = DP_MAX(c->dirty_to, n / 8 + 1);
    }
    pthread_mutex_unlock(&c->lock);
    return 0;
}

bool dp_http_copy_whole(struct dp_http_copy *c)
{
    pthread_mutex_lock(&c->lock);
    bool whole = !c->missing;
    pthread_mutex_unlock(&c->lock);
    return whole;
}

int dp_http_copy_commit(struct dp_http_copy *c)
{
    pthread_mutex_lock(&c->lock);
    uint64_t from = c->dirty_from, size = c->dirty_to - from;
    uint8_t *piece = size ? malloc(size) : NULL;
    if (piece) {
        memcpy(piece, c->map + from, size); /* these bits' data is written: it is what the sync takes along */
        c->dirty_from = c->dirty_to = 0;
    }
    pthread_mutex_unlock(&c->lock);
    if (!size)
        return 0;
    int rc = !piece ? -ENOMEM : fdatasync(c->file.fd) || !all(c->file.fd, true, piece, size, c->map_offset + from) ? -errno : 0;
    if (rc && piece) { /* another time */
        pthread_mutex_lock(&c->lock);
        c->dirty_from = c->dirty_to ? DP_MIN(c->dirty_from, from) : from;
        c->dirty_to = DP_MAX(c->dirty_to, from + size);
        pthread_mutex_unlock(&c->lock);
    }
    free(piece);
    return rc;
}
