/* fuzz_qcow2.c - qcow2 images made by others: opened, read, written, discarded, closed and opened again.
 *
 * Input: a byte of choices (bit 0: read-only, bit 1: a long hole follows), a byte that seeds the requests, then the image. Backing files
 * are
 * refused, since a memfd has no folder.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/block.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x) do { if (x) abort(); } while (0)
enum { REQUESTS = 24, BYTES_MAX = 64 << 10 };

static void on_done(struct dp_block_request *r, int result)
{
    *(int *)r->opaque = result;
}

static int request(struct dp_block *b, enum dp_block_op op, bool unmap, uint64_t offset, void *bytes, uint64_t size)
{
    int result = 1;
    struct iovec v = {bytes, size};
    struct dp_block_request r = {
        .op = op, .unmap = unmap, .offset = offset, .size = size, .iov = &v, .iov_count = 1, .done = on_done, .opaque = &result};
    dp_block_submit(b, &r);
    dp_block_drain(b);
    MUST(result > 0);
    return result;
}

static void use(struct dp_block *b, uint8_t seed)
{
    static uint8_t bytes[BYTES_MAX], again[BYTES_MAX];
    struct dp_random random;
    dp_random_seed(&random, seed);
    uint64_t size = dp_block_size(b);
    for (unsigned i = 0; i < REQUESTS; i++) {
        uint64_t v = dp_random_next(&random), offset = v & 1 ? v >> 8 & 0xfffff & ~511ull : (v >> 8) * 512,
            n = 512 * (1 + (v >> 4) % (BYTES_MAX / 512));
        offset %= size;
        n = DP_MIN(n, size - offset);
        switch (dp_random_next(&random) % 6) {
        case 0: request(b, DP_BLOCK_READ, false, offset, bytes, n); break;
        case 1: request(b, DP_BLOCK_FLUSH, false, 0, NULL, 0); break;
        case 2: request(b, DP_BLOCK_DISCARD, false, offset, NULL, n); break;
        case 3: request(b, DP_BLOCK_WRITE_ZEROES, v & 2, offset, NULL, n); break;
        default:
            memset(bytes, (int)i, n);
            request(b, DP_BLOCK_WRITE, false, offset, bytes, n);
            request(b, DP_BLOCK_READ, false, offset, again, n);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    char path[40];
    int fd = memfd_create("qcow2", MFD_CLOEXEC);
    MUST(fd < 0);
    ssize_t n = write(fd, data + 2, size - 2);
    MUST(n != (ssize_t)size - 2 || (data[0] & 2 && ftruncate(fd, size + (16 << 20))));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    for (unsigned i = 0; i < 2; i++) {
        struct dp_block *b;
        struct dp_error e = {0};
        if (dp_block_open(NULL, &(struct dp_block_options){.path = path, .format = "qcow2", .readonly = data[0] & 1}, &b, &e)) {
            MUST(!*e.text || strchr(e.text, '\n'));
            break;
        }
        use(b, data[1] + i);
        dp_block_close(b);
    }
    close(fd);
    return 0;
}
