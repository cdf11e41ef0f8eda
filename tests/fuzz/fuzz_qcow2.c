/* fuzz_qcow2.c - qcow2 images made by others: opened, read, written, discarded, closed and opened again.
 *
 * Input: a byte of choices (bit 0: read-only, bit 1: a long hole follows, bit 2: bitmaps are asked for and changed, bit 3: in a folder where
 * there is a file "d", too, which may be its data file or its backing file, bit 4: a passphrase is there, "fuzz"), a byte that seeds the requests, then the image. Without a folder
 * such files are refused, since a memfd has none.
 */
#include <stdlib.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/block.h"
#include "block/image.h"

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

/* Everything there is about bitmaps. */
static void use_bitmaps(const char *path, bool readonly, uint8_t seed)
{
    struct dp_image *i;
    struct dp_image_bitmap *list;
    struct dp_error e = {0};
    struct dp_random random;
    unsigned count;
    dp_random_seed(&random, seed);
    if (dp_image_open(&(struct dp_image_options){.name = path, .format = "qcow2", .readonly = readonly}, &i, &e))
        return;
    int rc = dp_image_bitmap_list(i, &list, &count, &e);
    for (unsigned n = 0; !rc && n < 12; n++) {
        uint64_t v = dp_random_next(&random), offset = (v >> 8) % i->size, size = 1 + (v >> 4) % 300000;
        const char *name = count && v & 3 ? list[v % count].name : "new";
        bool dirty;
        uint8_t byte = 1;
        switch (v >> 32 & 7) {
        case 0: case 1:
            if (!dp_image_bitmap_query(i, name, offset, &size, &dirty, &e))
                MUST(!size || size > i->size - offset);
            break;
        case 2:
            rc = dp_image_bitmap_set(i, name, offset, size, v & 1, &e);
            break;
        case 3:
            rc = dp_image_bitmap_merge(i, name, i, list && count ? list[0].name : "new", &e);
            break;
        case 4:
            rc = dp_image_pwrite(i, &byte, 1, offset);
            break;
        default:
            rc = dp_image_bitmap_change(i, (enum dp_image_bitmap_op)((v >> 40) % 6), name, v >> 44 & 1 ? 4096 : 0, &e);
        }
        rc = 0;
    }
    free(list);
    dp_image_close(i);
}

/* A header may want many iterations, up to a bound that is too far for this: fewer. */
static void calm(uint8_t *data, size_t size)
{
    for (size_t at = 0; at + 592 <= size; at++) {
        if (memcmp(data + at, "LUKS\xba\xbe", 6))
            continue;
        data[at + 164] = data[at + 165] = 0;
        for (unsigned n = 0; n < 8; n++)
            data[at + 212 + 48 * n] = data[at + 213 + 48 * n] = 0;
    }
}

static char folder[32];

static int make_file(char path[48])
{
    strcpy(folder, "/tmp/fuzz-qcow2-XXXXXX");
    MUST(!mkdtemp(folder));
    snprintf(path, 48, "%s/d", folder);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    MUST(fd < 0 || ftruncate(fd, 1 << 20));
    close(fd);
    snprintf(path, 48, "%s/image", folder);
    return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

static void remove_file(char path[48])
{
    unlink(path);
    snprintf(path, 48, "%s/d", folder);
    unlink(path);
    MUST(rmdir(folder));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    char path[48];
    bool file = data[0] & 8;
    int fd = file ? make_file(path) : memfd_create("qcow2", MFD_CLOEXEC);
    MUST(fd < 0);
    uint8_t *copy = malloc(size);
    MUST(!copy);
    memcpy(copy, data, size);
    calm(copy, size);
    ssize_t n = write(fd, copy + 2, size - 2);
    free(copy);
    MUST(n != (ssize_t)size - 2 || (data[0] & 2 && ftruncate(fd, size + (16 << 20))));
    if (!file)
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (data[0] & 4)
        use_bitmaps(path, data[0] & 1, data[1]);
    for (unsigned i = 0; i < 2; i++) {
        struct dp_block *b;
        struct dp_error e = {0};
        if (dp_block_open(NULL, &(struct dp_block_options){.path = path, .format = "qcow2", .readonly = data[0] & 1, .secret = data[0] & 16 ? "fuzz" : NULL},
                &b, &e)) {
            MUST(!*e.text || strchr(e.text, '\n'));
            break;
        }
        use(b, data[1] + i);
        dp_block_close(b);
    }
    close(fd);
    if (file)
        remove_file(path);
    return 0;
}
