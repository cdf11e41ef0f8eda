/* fuzz_qcow2.c - qcow2 images made by others: opened, read, written, discarded, closed and opened again; and managed: checked, repaired, resized,
 * emptied, their snapshots listed, read, made, applied and deleted.
 *
 * Input: a byte of choices (bit 0: read-only, bit 1: a long hole follows, bit 2: managed, bit 3: opened to be repaired), a byte that seeds
 * the requests, then the image. Backing files are refused, since a memfd has no folder. What a repair calls sound, a second check must find
 * sound, and what is read must be the same before and after.
 */
#include <stdlib.h>
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

/* ---- managed ---- */

static void report(void *opaque, const char *line) { MUST(strchr(line, '\n')); }

static void must_explain(int rc, const struct dp_error *e) { MUST(rc > 0 || (rc && (!*e->text || strchr(e->text, '\n')))); }

static void check(struct dp_image *i, unsigned how)
{
    static uint8_t before[BYTES_MAX], after[BYTES_MAX];
    struct dp_image_check c = {.repair_leaks = how & 1, .repair_all = how & 2, .report = report}, again = {.report = report};
    struct dp_error e = {0};
    uint64_t n = DP_MIN(i->size, sizeof before);
    bool readable = !dp_image_pread(i, before, n, 0);
    int rc = i->format->check(i, &c, &e);
    must_explain(rc, &e);
    if (rc)
        return;
    if (readable) /* an L2 entry may lead anywhere, into tables too: only what is sound must stay */
        MUST(dp_image_pread(i, after, n, 0) || (!c.corruptions && !c.corruptions_fixed && memcmp(before, after, n)));
    if (!how || c.corruptions || c.leaks || i->readonly)
        return;
    MUST(i->format->check(i, &again, &e) == 0 && again.corruptions && !c.corruptions_fixed);
}

static void manage(struct dp_image *i, uint8_t seed)
{
    static uint8_t bytes[2 << 20];
    struct dp_random random;
    struct dp_image_snapshot *list = NULL, about = {.name = "new"};
    struct dp_extent x;
    unsigned count = 0;
    dp_random_seed(&random, seed);
    for (unsigned n = 0; n < 10; n++) {
        struct dp_error e = {0};
        uint64_t v = dp_random_next(&random), at = v >> 8 & 0xfffff & ~511ull;
        const char *name = count ? list[(v >> 30) % count].id : "1";
        uint32_t cluster = i->format->cluster_size(i);
        struct iovec w = {bytes, cluster};
        at = at < i->size ? at : 0;
        switch (v % 13) {
        case 0: case 1: check(i, v >> 4 & 3); break;
        case 2:
            free(list);
            must_explain(i->format->snapshot_list(i, &list, &count, &e), &e);
            count = list ? count : 0;
            break;
        case 3: must_explain(i->readonly ? 0 : i->format->snapshot_create(i, &about, &e), &e); break;
        case 4: must_explain(i->readonly ? 0 : i->format->snapshot_apply(i, name, &e), &e); break;
        case 5: must_explain(i->readonly ? 0 : i->format->snapshot_delete(i, name, &e), &e); break;
        case 6: must_explain(i->readonly ? 0 : i->format->resize(i, (1 + (v >> 8) % 65536) * 512, &e), &e); break;
        case 7: must_explain(i->readonly ? 0 : i->format->empty(i, &e), &e); break;
        case 8:
            memset(bytes, (int)v, cluster);
            MUST(!i->readonly && cluster <= i->size - DP_ALIGN_DOWN(at, (uint64_t)cluster) &&
                 i->format->write_packed(i, &(struct dp_cursor){&w, 1, 0}, DP_ALIGN_DOWN(at, (uint64_t)cluster), cluster) > 0);
            break;
        case 9: MUST(!i->readonly && dp_image_pwrite(i, bytes, DP_MIN(4096 + v % 70000, i->size - at), at) > 0); break;
        case 10: MUST(!i->readonly && dp_image_zero(i, at, DP_MIN(4096 + v % 700000, i->size - at), v >> 5 & 3) > 0); break;
        case 11: MUST(dp_image_extent(i, at, i->size - at, &x) > 0); break;
        default: MUST(dp_image_flush(i) > 0);
        }
    }
    free(list);
}

static void open_managed(const char *path, const uint8_t *data)
{
    for (unsigned i = 0; i < 2; i++) {
        struct dp_image *image;
        struct dp_error e = {0};
        struct dp_image_options o = {.name = path, .format = "qcow2", .readonly = data[0] & 1, .repair = data[0] & 8};
        if (dp_image_open(&o, &image, &e)) {
            must_explain(e.code, &e);
            break;
        }
        manage(image, data[1] + i);
        dp_image_close(image);
        static const char *const names[] = {"1", "2", "new"};
        o = (struct dp_image_options){.name = path, .format = "qcow2", .readonly = true, .snapshot = names[data[1] % 3]};
        uint8_t some[4096];
        if (!dp_image_open(&o, &image, &e)) {
            MUST(dp_image_pread(image, some, sizeof some, 0) > 0);
            dp_image_close(image);
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
    if (data[0] & 4)
        open_managed(path, data);
    for (unsigned i = 0; i < 2 && !(data[0] & 4); i++) {
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
