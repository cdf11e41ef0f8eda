/* qcow2_rig.h - what tests of qcow2 share: a folder of their own, commands, requests that wait, and a disk's model in memory. */
#ifndef DP_QCOW2_RIG_H
#define DP_QCOW2_RIG_H

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block/block.h"
#include "tests/unit/test.h"

struct rig { char folder[64]; struct dp_random random; };

static int rig_setup(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    strcpy(r->folder, "/tmp/doppel-qcow2-XXXXXX");
    if (!mkdtemp(r->folder))
        return -1;
    dp_random_seed(&r->random, 5);
    *state = r;
    return 0;
}

static int rig_teardown(void **state)
{
    struct rig *r = *state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", r->folder);
    int rc = system(command);
    free(r);
    return rc;
}

/* A shell command in the rig's folder; its exit status. */
DP_PRINTF(2, 3) static int command(const struct rig *r, const char *format, ...)
{
    char text[1024], all[1200];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    snprintf(all, sizeof all, "cd %s && { %s; } >log 2>&1", r->folder, text);
    int rc = system(all);
    return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

/* One that has to succeed. */
#define must(r, ...) do { if (command(r, __VA_ARGS__)) { command_failed(r); fail_msg(__VA_ARGS__); } } while (0)
static void command_failed(const struct rig *r)
{
    char all[128];
    snprintf(all, sizeof all, "cat %s/log >&2", r->folder);
    if (system(all))
        return;
}

#define need_qemu_img(r) do { \
        if (command(r, "qemu-img --version")) { print_message("qemu-img is not here (package qemu-utils)\n"); skip(); } \
    } while (0)

static const char *in(const struct rig *r, const char *name)
{
    static char path[4][128];
    static unsigned turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", r->folder, name);
    return p;
}

static inline struct dp_block *open_image(const struct rig *r, const char *name, bool readonly)
{
    struct dp_error e = {0};
    struct dp_block *b = NULL;
    assert_ok(dp_block_open(NULL, &(struct dp_block_options){.path = in(r, name), .readonly = readonly, .format = "qcow2"}, &b, &e), e);
    return b;
}

static void on_done(struct dp_block_request *r, int result)
{
    *(int *)r->opaque = result;
}

static int request(struct dp_block *b, enum dp_block_op op, bool unmap, uint64_t offset, void *data, uint64_t size)
{
    int result = 1;
    struct iovec v[3];
    unsigned n = 0;
    /* in pieces of odd sizes */
    for (uint64_t at = 0, piece; data && at < size; at += piece, n++) {
        piece = n == 2 ? size - at : DP_MIN(size - at, n ? 1000 : 77);
        v[n] = (struct iovec){(uint8_t *)data + at, piece};
    }
    struct dp_block_request r = {.op = op, .unmap = unmap, .offset = offset, .size = size, .iov = v, .iov_count = n, .done = on_done,
        .opaque = &result};
    dp_block_submit(b, &r);
    dp_block_drain(b);
    assert_true(result <= 0);
    return result;
}

static inline void write_file(const struct rig *r, const char *name, const void *data, size_t size)
{
    int fd = open(in(r, name), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    for (size_t at = 0; at < size;) {
        ssize_t n = write(fd, (const uint8_t *)data + at, size - at);
        assert_true(n > 0);
        at += n;
    }
    close(fd);
}

/* Compressible noise, zeros and plain noise, in runs. */
static void fill(struct dp_random *random, uint8_t *data, size_t size)
{
    for (size_t at = 0; at < size;) {
        size_t n = (size_t)512 << dp_random_next(random) % 9;
        n = DP_MIN(size - at, n);
        unsigned kind = dp_random_next(random) % 3;
        for (size_t i = 0; i < n; i++)
            data[at + i] = kind == 0 ? 0 : kind == 1 ? dp_random_next(random) : (at / 512 + i / 16) & 0xff;
        at += n;
    }
}

/* The image reads as data says, in pieces of random size. */
static inline void expect(struct rig *r, struct dp_block *b, const uint8_t *data, size_t size)
{
    uint8_t *got = malloc(size);
    assert_true(dp_block_size(b) == size);
    for (size_t at = 0, n; at < size; at += n) {
        n = (size_t)512 * (1 + dp_random_next(&r->random) % 1000);
        n = DP_MIN(size - at, n);
        memset(got, 0xee, n);
        assert_int_equal(request(b, DP_BLOCK_READ, false, at, got, n), 0);
        for (size_t i = 0; i < n; i++)
            if (got[i] != data[at + i])
                fail_msg("byte %zu is %02x, not %02x", at + i, got[i], data[at + i]);
    }
    free(got);
}

/* One random operation on the image and on its model. discard leaves either the old bytes or zeros: sees which. */
static inline void random_op(struct rig *r, struct dp_block *b, uint8_t *model, size_t size)
{
    struct dp_random *random = &r->random;
    uint64_t offset = dp_random_next(random) % (size / 512) * 512;
    uint64_t n = dp_random_next(random) % 4 ? 512 * (1 + dp_random_next(random) % 16) : 512ull << dp_random_next(random) % 13;
    n = DP_MIN(n, size - offset);
    switch (dp_random_next(random) % 16) {
    case 0: case 1:
        assert_int_equal(request(b, DP_BLOCK_WRITE_ZEROES, dp_random_next(random) & 1, offset, NULL, n), 0);
        memset(model + offset, 0, n);
        break;
    case 2:
        assert_int_equal(request(b, DP_BLOCK_DISCARD, false, offset, NULL, n), 0);
        assert_int_equal(request(b, DP_BLOCK_READ, false, offset, model + offset, n), 0);
        break;
    case 3:
        assert_int_equal(request(b, DP_BLOCK_FLUSH, false, 0, NULL, 0), 0);
        break;
    default:
        fill(random, model + offset, n);
        assert_int_equal(request(b, DP_BLOCK_WRITE, false, offset, model + offset, n), 0);
    }
}

#endif
