/* test_aside.c - reads and flushes that go beside an image's worker (aside.c), against a model in memory.
 *
 * Model: the linker leads preadv2 here (--wrap), which often says that the bytes are not in the page cache: so the ring is used, whatever
 * the cache has. Batches of requests to places that do not touch one another are under way at once; afterwards all that was read must be
 * what the model has. What was discarded is unknown until it is written again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/block.h"
#include "block/image.h"

ssize_t __real_preadv64v2(int fd, const struct iovec *v, int n, off_t at, int flags);
ssize_t __wrap_preadv64v2(int fd, const struct iovec *v, int n, off_t at, int flags);

enum { SECTOR = 512, SIZE = (6 << 20) + 3 * SECTOR, BATCH = 48, PLACE = SIZE / SECTOR / BATCH, PIECES = 3 };

static struct dp_random chance;
static unsigned asked, refused;
static bool unsupported;

ssize_t __wrap_preadv64v2(int fd, const struct iovec *v, int n, off_t at, int flags)
{
    asked++;
    errno = unsupported ? EOPNOTSUPP : EAGAIN;
    if (unsupported || dp_random_next(&chance) % 4)
        return refused++, -1;
    return __real_preadv64v2(fd, v, n, at, flags);
}

struct one {
    struct dp_block_request r;
    struct iovec iov[PIECES];
    uint8_t *data;
    int result;
    bool over;
};

static uint8_t model[SIZE];
static bool known[SIZE / SECTOR];

static void done(struct dp_block_request *r, int result)
{
    struct one *o = r->opaque;
    assert_false(o->over);
    o->over = true;
    o->result = result;
}

static void make(const char *name, const char *format, const char *backing, const char *backing_format)
{
    struct dp_error e = {0};
    unlink(name);
    struct dp_image_create o = {.name = name, .format = format, .size = SIZE, .backing = backing, .backing_format = backing_format};
    if (dp_image_create(&o, &e))
        fail_msg("%s", e.text);
}

static struct dp_block *open_disk(const char *name, const char *format, enum dp_block_io io)
{
    struct dp_error e = {0};
    struct dp_block *b = NULL;
    if (dp_block_open(NULL, &(struct dp_block_options){.path = name, .format = format, .io = io}, &b, &e))
        fail_msg("%s", e.text);
    return b;
}

/* One request somewhere in its own part of the disk. */
static void prepare(struct one *o, unsigned n)
{
    unsigned first = n * PLACE + (unsigned)(dp_random_next(&chance) % (PLACE / 2)),
             count = 1 + (unsigned)(dp_random_next(&chance) % (PLACE / 2));
    unsigned kind = (unsigned)(dp_random_next(&chance) % 20), most = 1 + (unsigned)(dp_random_next(&chance) % PIECES);
    unsigned pieces = DP_MIN(most, count);
    uint64_t at = 0;
    *o = (struct one){.data = o->data};
    for (unsigned i = 0; i < pieces; i++) {
        uint64_t size = i + 1 == pieces ? (uint64_t)count * SECTOR - at : SECTOR;
        o->iov[i] = (struct iovec){o->data + at, size};
        at += size;
    }
    o->r = (struct dp_block_request){.op = kind < 12   ? DP_BLOCK_READ
                                           : kind < 16 ? DP_BLOCK_WRITE
                                           : kind < 17 ? DP_BLOCK_WRITE_ZEROES
                                           : kind < 18 ? DP_BLOCK_DISCARD
                                                       : DP_BLOCK_FLUSH,
                                     .unmap = dp_random_next(&chance) & 1,
                                     .offset = (uint64_t)first * SECTOR,
                                     .size = (uint64_t)count * SECTOR,
                                     .iov = o->iov,
                                     .iov_count = pieces,
                                     .done = done,
                                     .opaque = o};
    for (uint64_t i = 0; i < o->r.size; i += 8)
        dp_st64(o->data + i, o->r.op == DP_BLOCK_WRITE ? dp_random_next(&chance) : 0);
}

static void look(struct one *o)
{
    assert_true(o->over);
    if (o->result)
        fail_msg("request %d of %llu bytes at %llu: %s", o->r.op, (unsigned long long)o->r.size, (unsigned long long)o->r.offset,
                 strerror(-o->result));
    for (uint64_t i = 0; i < o->r.size && o->r.op != DP_BLOCK_FLUSH; i += SECTOR) {
        uint64_t at = o->r.offset + i;
        if (o->r.op == DP_BLOCK_READ) {
            if (known[at / SECTOR] && memcmp(o->data + i, model + at, SECTOR))
                fail_msg("what was read at %llu is not what was written", (unsigned long long)at);
            continue;
        }
        known[at / SECTOR] = o->r.op != DP_BLOCK_DISCARD;
        memcpy(model + at, o->data + i, SECTOR);
    }
}

static void batches(struct dp_block *b, unsigned rounds)
{
    static struct one one[BATCH];
    for (unsigned n = 0; n < BATCH; n++)
        one[n].data = malloc(PLACE * SECTOR);
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned n = 0; n < BATCH; n++)
            prepare(&one[n], n);
        for (unsigned n = 0; n < BATCH; n++)
            dp_block_submit(b, &one[n].r);
        dp_block_drain(b);
        for (unsigned n = 0; n < BATCH; n++)
            look(&one[n]);
    }
    for (unsigned n = 0; n < BATCH; n++)
        free(one[n].data);
}

/* A base full of noise, so that reads go to it, too. */
static void make_base(const char *format)
{
    struct dp_error e = {0};
    struct dp_image *i = NULL;
    make("base", format, NULL, NULL);
    for (unsigned at = 0; at < SIZE; at += 8)
        dp_st64(model + at, dp_random_next(&chance));
    memset(known, true, sizeof known);
    if (dp_image_open(&(struct dp_image_options){.name = "base", .format = format}, &i, &e) || dp_image_pwrite(i, model, SIZE, 0))
        fail_msg("%s", e.text);
    dp_image_close(i);
}

static bool have_ring(void)
{
    struct dp_block *b = NULL;
    make_base("raw");
    bool have = !dp_block_open(NULL, &(struct dp_block_options){.path = "base", .io = DP_BLOCK_IO_URING}, &b, NULL);
    dp_block_close(b);
    return have;
}

static void against_model(void **state)
{
    static const struct {
        const char *base, *top;
    } chains[] = {{"raw", "qcow2"}, {"qcow2", "qcow2"}, {"vdi", "qcow2"}, {"vhdx", NULL}, {"vmdk", NULL}, {"vpc", NULL}, {"qcow2", NULL}};
    bool ring = have_ring();
    for (unsigned n = 0; n < DP_ARRAY_LEN(chains); n++)
        for (unsigned io = 0; io < 2; io++) {
            make_base(chains[n].base);
            if (chains[n].top)
                make("top", chains[n].top, "base", chains[n].base);
            struct dp_block *b = open_disk(chains[n].top ? "top" : "base", chains[n].top ? chains[n].top : chains[n].base,
                                           io ? DP_BLOCK_IO_THREADS : DP_BLOCK_IO_AUTO);
            asked = refused = 0;
            batches(b, 60);
            print_message("%s%s%s: %u reads went aside, %u of them by the ring\n", chains[n].base, chains[n].top ? " below " : "",
                          chains[n].top ? chains[n].top : "", asked, refused);
            assert_true(!asked == (io || !ring));
            dp_block_close(b);
        }
}

/* A file system that cannot tell is asked once. */
static void without_nowait(void **state)
{
    make_base("qcow2");
    struct dp_block *b = open_disk("base", "qcow2", DP_BLOCK_IO_AUTO);
    unsupported = true;
    asked = 0;
    batches(b, 10);
    assert_true(asked <= 1);
    unsupported = false;
    dp_block_close(b);
}

/* The file loses its end under us: an error for who reads there, and nobody waits for ever. */
static void cut_off(void **state)
{
    static uint8_t data[SECTOR];
    struct one o = {.iov = {{data, SECTOR}}};
    make_base("qcow2");
    struct dp_block *b = open_disk("base", "qcow2", DP_BLOCK_IO_AUTO);
    struct stat st;
    assert_int_equal(stat("base", &st), 0);
    assert_int_equal(truncate("base", st.st_size / 2), 0);
    o.r = (struct dp_block_request){
        .op = DP_BLOCK_READ, .offset = SIZE - SECTOR, .size = SECTOR, .iov = o.iov, .iov_count = 1, .done = done, .opaque = &o};
    for (unsigned n = 0; n < 20; n++) {
        o.over = false;
        dp_block_submit(b, &o.r);
        dp_block_drain(b);
        assert_true(o.over);
        assert_int_equal(o.result, -EIO);
    }
    dp_block_close(b);
}

int main(void)
{
    char folder[] = "/var/tmp/doppel-aside-XXXXXX", text[100];
    if (!mkdtemp(folder) || chdir(folder))
        return 99;
    dp_random_seed(&chance, 1);
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_model), cmocka_unit_test(without_nowait), cmocka_unit_test(cut_off)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(text, sizeof text, "rm -r %s", folder);
    return system(text) || failed;
}
