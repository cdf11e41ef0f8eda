/* fuzz_mirror.c - mirrors made by others: opened, written, resynced, in a folder that has two halves.
 *
 * Input: a byte of choices (bit 0: read-only, bit 1: the second half is missing, bit 2: headers get right CRCs), then the file.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include <zlib.h>

#include "block/mirror.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                                                                                                                            \
    do {                                                                                                                                   \
        if (!(x))                                                                                                                          \
            abort();                                                                                                                       \
    } while (0)
enum { HALF = 1 << 20, FILE_MAX = 64 << 10 };

static void put(const char *path, const void *data, size_t size, off_t length)
{
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    MUST(fd >= 0 && write(fd, data, size) == (ssize_t)size && (length < 0 || !ftruncate(fd, length)));
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t bytes[FILE_MAX], buffer[4096];
    char folder[] = "/tmp/doppel-fuzz-mirror-XXXXXX", path[4][64];
    static const char *const names[] = {"m", "a", "b"};
    if (size < 2 || size > FILE_MAX)
        return 0;
    MUST(mkdtemp(folder));
    for (unsigned n = 0; n < 3; n++)
        snprintf(path[n], sizeof path[n], "%s/%s", folder, names[n]);
    memcpy(bytes, data + 1, size - 1);
    for (size_t at = 0; data[0] & 4 && at + 4096 <= size - 1 && at < 8192; at += 4096)
        dp_st32(bytes + at + 4092, (uint32_t)crc32(0, bytes + at, 4092));
    put(path[0], bytes, size - 1, -1);
    put(path[1], "first", 5, HALF);
    if (!(data[0] & 2))
        put(path[2], "second", 6, HALF);
    struct dp_image *i;
    struct dp_error e = {0};
    uint64_t copied;
    if (!dp_image_open(&(struct dp_image_options){.name = path[0], .format = "mirror", .readonly = data[0] & 1}, &i, &e)) {
        int rc = dp_image_pread(i, buffer, sizeof buffer, 0);
        if (!(data[0] & 1)) {
            uint64_t most = DP_MIN(i->size, sizeof buffer);
            rc = dp_image_pwrite(i, buffer, most, 0);
            rc = rc ? rc : dp_image_flush(i);
            if (i->size <= HALF)
                rc = dp_mirror_resync(i, data[0] & 8, NULL, &copied, &e);
        }
        (void)rc;
        dp_image_close(i);
    } else {
        MUST(*e.text);
    }
    for (unsigned n = 0; n < 3; n++)
        unlink(path[n]);
    rmdir(folder);
    return 0;
}
