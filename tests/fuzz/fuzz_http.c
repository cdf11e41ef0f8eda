/* fuzz_http.c - what comes from a web server and its local copy: heads of answers, copies' headers and maps.
 *
 * Input: a byte of choices. Bit 0 clear: lines of an answer's head. Bit 0 set: a copy; bit 1: the CRC is made right, bit 2: the numbers
 * are, too, for a disk of the length in the next two bytes, bit 3: as if the server could not be asked; then the file's bytes from the
 * front of the map on.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>

#include "block/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                                                                                                                            \
    do {                                                                                                                                   \
        if (!(x))                                                                                                                          \
            abort();                                                                                                                       \
    } while (0)
enum { PAGE = 4096, LENGTH_MAX = 1 << 20 };

static void head(const uint8_t *data, size_t size)
{
    struct dp_http_reply r = {0};
    while (size) {
        const uint8_t *end = memchr(data, '\n', size);
        size_t n = end ? (size_t)(end - data) + 1 : size;
        dp_http_reply_line(&r, (const char *)data, n);
        MUST(r.status < 1000 && memchr(r.id.etag, 0, sizeof r.id.etag) && memchr(r.id.modified, 0, sizeof r.id.modified));
        MUST(!r.ranged || (r.first <= r.last && r.last < r.total && r.total <= INT64_MAX && r.id.size == r.total));
        data += n;
        size -= n;
    }
}

static void use(struct dp_http_copy *c, uint64_t length)
{
    static const uint8_t block[DP_HTTP_BLOCK_MAX] = {1};
    bool there;
    MUST(dp_http_copy_size(c) > 0 && dp_http_copy_size(c) <= length);
    uint32_t size = dp_http_copy_block(c);
    MUST(size >= DP_HTTP_BLOCK && size <= DP_HTTP_BLOCK_MAX);
    for (uint64_t at = 0, n; at < dp_http_copy_size(c); at += n) {
        n = dp_http_copy_run(c, at, dp_http_copy_size(c) - at, &there);
        MUST(n && n <= dp_http_copy_size(c) - at);
        uint64_t one = DP_MIN(n, (uint64_t)size);
        if (!there)
            MUST(!dp_http_copy_put(c, at, block, one) && dp_http_copy_run(c, at, one, &there) == one && there);
    }
    MUST(!dp_http_copy_commit(c));
}

static void copy(const uint8_t *data, size_t size)
{
    char path[40];
    struct dp_error e = {0};
    struct dp_http_copy *c;
    uint8_t h[PAGE] = "doppelcp";
    uint8_t choices = data[0];
    uint64_t disk = size > 2 ? 1 + dp_ld16(data + 1) * 16ull : 1;
    data += DP_MIN(size, 3);
    size -= DP_MIN(size, 3);
    size_t map = DP_MIN(size, PAGE), rest = DP_MIN(size - map, PAGE - sizeof "doppelcp" + 1);
    uint64_t end = DP_ALIGN_UP(disk, (uint64_t)PAGE) + PAGE;
    memcpy(h + 8, data + map, rest);
    if (choices & 4) {
        dp_st32(h + 8, 1);
        dp_st32(h + 12, DP_HTTP_BLOCK);
        dp_st64(h + 16, disk);
        dp_st64(h + 24, PAGE);
        h[543] = h[607] = 0;
    }
    if (choices & 2)
        dp_st32(h + 4092, (uint32_t)crc32(0, h, 4092));
    int fd = memfd_create("copy", MFD_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    MUST(pwrite(fd, data, map, (off_t)(end - PAGE)) == (ssize_t)map && pwrite(fd, h, PAGE, (off_t)end) == PAGE);
    struct dp_http_identity id = {.size = disk, .etag = "\"one\""};
    if (!dp_http_copy_open(path, choices & 8 ? NULL : &id, NULL, &c, &e)) {
        use(c, end + PAGE);
        MUST(!dp_http_copy_close(c));
    } else {
        MUST(e.text[0]);
    }
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    if (data[0] & 1)
        copy(data, size);
    else
        head(data + 1, size - 1);
    return 0;
}
