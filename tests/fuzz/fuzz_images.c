/* fuzz_images.c - images of vdi, vpc, vmdk and vhdx made by others: opened, checked, read, written, zeroed, closed and opened again.
 *
 * Input: the format (0 to 3), choices (bit 0: read-only, bit 1: checksums are made right, bits 2-7: seed of the requests, bit 7: it is
 * repaired, too), then pieces of the file: where (4 bytes, in sectors), how long (2), the bytes. Nothing outside the memfd can be opened:
 * it has no folder; so parents are not there.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "block/table.h"
#include "tests/fuzz/input.h"

enum { REQUESTS = 20, BYTES_MAX = 32 << 10, FILE_SECTORS = 64 << 11 };

static const char *const formats[] = {"vdi", "vpc", "vmdk", "vhdx"};

static void use(struct dp_image *i, uint64_t seed)
{
    static uint8_t bytes[BYTES_MAX], again[BYTES_MAX];
    struct dp_random random;
    struct dp_extent x;
    dp_random_seed(&random, seed);
    for (unsigned k = 0; k < REQUESTS && i->size; k++) {
        uint64_t v = dp_random_next(&random), offset = (v & 1 ? v >> 8 & 0xfffff : v >> 8) % i->size, n = 1 + (v >> 4) % BYTES_MAX;
        n = DP_MIN(n, i->size - offset);
        switch (v >> 60 & 7) {
        case 0: MUST(!dp_image_extent_all(i, offset, i->size - offset, &x) && (!x.size || x.size > i->size - offset)); break;
        case 1: MUST(dp_image_flush(i) > 0); break;
        case 2: MUST(dp_image_zero(i, offset, n, v >> 58 & 3) > 0); break;
        case 3: MUST(dp_image_pread(i, bytes, n, offset) > 0); break;
        default:
            memset(bytes, (int)k, n);
            if (!dp_image_pwrite(i, bytes, n, offset))
                MUST(dp_image_pread(i, again, n, offset) > 0);
        }
    }
}

/* Most of what is changed at random would be refused for its checksum. */
static void mend(int fd, const char *format)
{
    uint8_t b[4096];
    off_t end = lseek(fd, 0, SEEK_END), at[] = {0, end - 512, 512, 65536, 131072, 196608, 262144};
    for (unsigned n = 0; n < DP_ARRAY_LEN(at); n++) {
        bool vhdx = !strcmp(format, "vhdx");
        size_t size = vhdx ? 4096 : n == 2 ? 1024 : 512, field = vhdx ? 4 : n == 2 ? 36 : 64;
        if (at[n] < 0 || pread(fd, b, size, at[n]) != (ssize_t)size)
            continue;
        uint32_t sum = 0;
        memset(b + field, 0, 4);
        if (vhdx) {
            if (memcmp(b, "head", 4))
                continue;
            dp_st32(b + field, dp_crc32c(0, b, size));
        } else {
            if (memcmp(b, "conectix", 8) && memcmp(b, "cxsparse", 8))
                continue;
            for (size_t k = 0; k < size; k++)
                sum += b[k];
            dp_st32(b + field, __builtin_bswap32(~sum));
        }
        MUST(pwrite(fd, b, size, at[n]) != (ssize_t)size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    const char *format = formats[take(&in, 1) % DP_ARRAY_LEN(formats)];
    unsigned flags = take(&in, 1);
    char path[40];
    int fd = memfd_create("image", MFD_CLOEXEC);
    MUST(fd < 0);
    while (in.end - in.at > 6) {
        uint64_t at = take(&in, 4) % FILE_SECTORS * 512, n = take(&in, 2);
        n = DP_MIN(n, (uint64_t)(in.end - in.at));
        MUST(pwrite(fd, in.at, n, at) != (ssize_t)n);
        in.at += n;
    }
    if (flags & 2)
        mend(fd, format);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    for (unsigned k = 0; k < 2; k++) {
        struct dp_image *i;
        struct dp_error e = {0};
        struct dp_image_check c = {.repair_all = flags & 128 && !k};
        struct dp_image_options o = {.name = path, .format = format, .readonly = flags & 1, .repair = flags & 128, .alone = true};
        if (dp_image_open(&o, &i, &e)) {
            MUST(!*e.text || strchr(e.text, '\n'));
            break;
        }
        if (i->format->check)
            MUST(i->format->check(i, &c, &e) > 0);
        use(i, (flags >> 2) + k);
        dp_image_close(i);
    }
    close(fd);
    return 0;
}
