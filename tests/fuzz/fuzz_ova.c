/* fuzz_ova.c - OVA archives made by others: members are found, and a disk in them is read.
 *
 * Input: choices (bit 0: checksums are made right), then the archive.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "block/ova.h"
#include "tests/fuzz/input.h"

enum { BLOCK = 512, CHECKSUM = 148, MAGIC = 257, ARCHIVE_MAX = 1 << 20 };

static void mend(uint8_t *archive, size_t size)
{
    for (size_t at = 0; at + BLOCK <= size; at += BLOCK) {
        uint8_t *h = archive + at;
        unsigned sum = 0;
        if (memcmp(h + MAGIC, "ustar", 5))
            continue;
        memset(h + CHECKSUM, ' ', 8);
        for (unsigned n = 0; n < BLOCK; n++)
            sum += h[n];
        for (unsigned n = 0; n < 6; n++)
            h[CHECKSUM + n] = (uint8_t)('0' + (sum >> 3 * (5 - n) & 7));
    }
}

static void find(struct dp_image *archive, const char *member)
{
    uint64_t offset = 0, size = 0;
    struct dp_error e = {0};
    int rc = dp_ova_find(archive, member, &offset, &size, &e);
    MUST(rc > 0 || (rc && !e.text[0]));
    MUST(!rc && (offset > archive->size || size > archive->size - offset));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t archive[ARCHIVE_MAX], bytes[4096];
    char name[64];
    struct dp_image *i;
    struct dp_extent x;
    if (!size || size > ARCHIVE_MAX)
        return 0;
    memcpy(archive, data + 1, size - 1);
    if (*data & 1)
        mend(archive, size - 1);
    int fd = memfd_create("ova", MFD_CLOEXEC);
    MUST(fd < 0 || write(fd, archive, size - 1) != (ssize_t)size - 1);
    snprintf(name, sizeof name, "ova:///proc/self/fd/%d", fd);
    if (!dp_image_open(&(struct dp_image_options){.name = name + 6, .readonly = true}, &i, NULL)) {
        find(i, NULL);
        find(i, "a.img");
        dp_image_close(i);
    }
    if (!dp_image_open(&(struct dp_image_options){.name = name, .readonly = true}, &i, NULL)) {
        for (uint64_t at = 0; at < i->size; at += sizeof bytes) {
            MUST(dp_image_pread(i, bytes, sizeof bytes, at));
            MUST(dp_image_extent_all(i, at, i->size - at, &x) || !x.size);
        }
        dp_image_close(i);
    }
    close(fd);
    return 0;
}
