/* test_live.c - what is done to a disk while it is used (block/live.h): random sequences of writes, snapshots and jobs against a model in
 * memory, failing targets, and what is left when the disk is closed in between. Images are verified by qemu-img where it is there.
 * Argument: so many sequences.
 */
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

#include "block/live.h"
#include "tests/block/qcow2_rig.h"

enum { SIZE = 6 << 20, STEPS = 60, PATIENCE = 20000 };

static unsigned seeds = 2, jobs[4][5], layers, ranges;

struct disk {
    struct rig *r;
    struct dp_block *b;
    uint8_t *model, *then; /* then: when the backup began */
    uint64_t size;
    unsigned files;
    char target[64], last[64]; /* file names; last: of the last backup with the bitmap, "": none */
    bool target_qcow2;
    bool incremental;
};

static const char *new_name(struct disk *d, char *name, const char *what)
{
    snprintf(name, 64, "%s%u", what, d->files++);
    return in(d->r, name);
}

/* A closed image, or one below, reads as data says. */
static void image_is(struct disk *d, const char *name, const char *format, const uint8_t *data, uint64_t size)
{
    struct dp_error e = {0};
    struct dp_image *i = NULL;
    uint8_t *got = malloc(size);
    assert_ok(dp_image_open(&(struct dp_image_options){.name = name, .format = format, .readonly = true, .unlocked = true}, &i, &e), e);
    assert_true(i->size == size);
    assert_int_equal(dp_image_pread(i, got, size, 0), 0);
    for (uint64_t n = 0; n < size; n++)
        if (got[n] != data[n])
            fail_msg("%s: byte 0x%llx is %02x, not %02x", name, (unsigned long long)n, got[n], data[n]);
    free(got);
    dp_image_close(i);
    if (!strcmp(format, "qcow2") && !command(d->r, "qemu-img --version"))
        must(d->r, "qemu-img check -U %s", name);
}

static void some_ops(struct disk *d, unsigned most)
{
    for (unsigned n = dp_random_next(&d->r->random) % (most + 1); n; n--)
        random_op(d->r, d->b, d->model, d->size);
}

static const char *format_of(const struct disk *d) { return d->target_qcow2 ? "qcow2" : "raw"; }

static bool start(struct disk *d, enum dp_job_kind kind)
{
    struct dp_random *random = &d->r->random;
    struct dp_error e = {0};
    struct dp_block_layer layer[DP_IMAGE_DEPTH_MAX];
    unsigned depth = dp_block_layers(d->b, layer);
    struct dp_job_options o = {.kind = kind, .rate = dp_random_next(random) & 1 ? 64 << 20 : 0};
    d->target_qcow2 = dp_random_next(random) & 1;
    d->incremental = false;
    if (kind == DP_JOB_MIRROR || kind == DP_JOB_BACKUP) {
        o.target = new_name(d, d->target, "t");
        if (kind == DP_JOB_BACKUP && dp_random_next(random) & 1) {
            d->incremental = d->target_qcow2 = true;
            o.bitmap = "daily";
            if (*d->last) {
                o.backing = d->last;
                o.backing_format = "qcow2";
            }
        }
        o.format = format_of(d);
    } else if (depth < 2) {
        assert_int_equal(dp_block_job_start(d->b, &o, &e), -EINVAL);
        return false;
    } else if (depth > 2 && dp_random_next(random) & 1) {
        bool commit = kind == DP_JOB_COMMIT;
        unsigned top = commit ? dp_random_next(random) % (depth - 1) : 1, base = top + 1 + dp_random_next(random) % (depth - 1 - top);
        o.top = commit ? layer[top].file : NULL;
        o.base = layer[base].file;
        ranges++;
    }
    assert_ok(dp_block_job_start(d->b, &o, &e), e);
    memcpy(d->then, d->model, d->size);
    return true;
}

/* Writes until the job is over, or ready, and ends it somehow. */
static void see_through(struct disk *d)
{
    struct dp_random *random = &d->r->random;
    struct dp_error e = {0};
    struct dp_job_status s;
    unsigned early = dp_random_next(random) % 5 ? PATIENCE : dp_random_next(random) % 3;
    for (unsigned n = 0;; n++) {
        assert_true(dp_block_job_status(d->b, &s) && n < PATIENCE);
        if (s.state > DP_JOB_RUNNING)
            break;
        if (n == early) {
            if (dp_block_job_cancel(d->b, &e)) /* it may have ended meanwhile */
                assert_int_equal(dp_block_job_cancel(d->b, &e), -EINVAL);
            continue;
        }
        some_ops(d, 3);
        if (n > PATIENCE / 10) /* a job with a rate takes its time, whatever is written */
            usleep(1000);
    }
    bool same = true; /* of the target and the disk as it is */
    if (s.state == DP_JOB_READY) {
        some_ops(d, 20);
        if (dp_random_next(random) & 1) {
            assert_ok(dp_block_job_complete(d->b, &e), e);
            same = false; /* it is the disk now */
        } else {
            assert_ok(dp_block_job_cancel(d->b, &e), e);
        }
        assert_true(dp_block_job_status(d->b, &s));
    }
    jobs[s.kind][s.state]++;
    if (s.state == DP_JOB_FAILED)
        fail_msg("%s", s.error.text);
    bool whole = s.state == DP_JOB_DONE;
    if (whole && s.kind == DP_JOB_MIRROR && same)
        image_is(d, in(d->r, d->target), format_of(d), d->model, d->size);
    if (whole && s.kind == DP_JOB_BACKUP)
        image_is(d, in(d->r, d->target), format_of(d), d->then, d->size);
    if (s.kind == DP_JOB_BACKUP && d->incremental) {
        if (whole)
            strcpy(d->last, d->target);
        uint64_t bytes;
        assert_true(!!dp_block_bitmap(d->b, 0, &bytes) == !!*d->last);
    }
}

static void new_layer(struct disk *d)
{
    struct dp_error e = {0};
    char name[64];
    struct dp_live_snapshot s = {d->b, new_name(d, name, "layer")};
    assert_ok(dp_block_snapshot(&s, 1, &e), e);
    assert_int_equal(dp_block_snapshot(&s, 1, &e), -EEXIST);
    layers++;
}

static void grow(struct disk *d)
{
    struct dp_error e = {0};
    uint64_t to = d->size + 512 * (1 + dp_random_next(&d->r->random) % 1000);
    assert_int_equal(dp_block_resize(d->b, d->size, &e), -EINVAL);
    if (to > 2 * SIZE)
        return;
    int rc = dp_block_resize(d->b, to, &e);
    assert_ok(rc, e);
    memset(d->model + d->size, 0, to - d->size);
    d->size = to;
}

static void sequence(struct rig *r, unsigned seed)
{
    struct disk d = {.r = r, .model = calloc(2, SIZE), .then = calloc(2, SIZE), .size = SIZE};
    struct dp_error e = {0};
    struct dp_block_layer layer[DP_IMAGE_DEPTH_MAX];
    dp_random_seed(&r->random, seed);
    bool qcow2 = dp_random_next(&r->random) & 1;
    assert_ok(dp_image_create(&(struct dp_image_create){.name = in(r, "disk"), .format = qcow2 ? "qcow2" : "raw", .size = SIZE}, &e), e);
    struct dp_block_options o = {.path = in(r, "disk"),
                                 .format = qcow2 ? "qcow2" : NULL,
                                 .cache = dp_random_next(&r->random) & 1 ? DP_BLOCK_WRITEBACK : DP_BLOCK_WRITETHROUGH,
                                 .io = dp_random_next(&r->random) & 1 ? DP_BLOCK_IO_AUTO : DP_BLOCK_IO_THREADS};
    assert_ok(dp_block_open(NULL, &o, &d.b, &e), e);
    for (unsigned n = 0; n < STEPS; n++) {
        some_ops(&d, 10);
        switch (dp_random_next(&r->random) % 8) {
        case 0:
        case 1:
            new_layer(&d);
            break;
        case 2:
            grow(&d);
            *d.last = 0; /* a backup of another size is no base; begin again */
            if (dp_block_bitmap_remove(d.b, "daily", &e))
                assert_string_equal(e.text + strlen(e.text) - 7, "'daily'");
            break;
        case 3:
            dp_block_layers(d.b, layer);
            if (strcmp(layer->format, "qcow2"))
                assert_int_equal(dp_block_snapshot_inside(d.b, "one", &e), -ENOTSUP);
            else if (dp_block_snapshot_inside(d.b, "one", &e)) /* it has this one */
                assert_non_null(strstr(e.text, "one"));
            break;
        default:
            if (start(&d, (enum dp_job_kind)(dp_random_next(&r->random) % 4)))
                see_through(&d);
        }
        expect(r, d.b, d.model, d.size);
    }
    unsigned depth = dp_block_layers(d.b, layer);
    assert_true(depth > 0);
    dp_block_close(d.b);
    image_is(&d, layer->file, layer->format, d.model, d.size);
    free(d.model);
    free(d.then);
}

static void sequences(void **state)
{
    for (unsigned seed = 1; seed <= seeds; seed++) {
        print_message("sequence %u\n", seed);
        sequence(*state, seed);
        must((struct rig *)*state, "rm -f *");
    }
    for (unsigned k = 0; k < 4; k++)
        print_message("%s: %u done, %u cancelled\n", dp_job_kind_name[k], jobs[k][DP_JOB_DONE], jobs[k][DP_JOB_CANCELLED]);
    print_message("%u layers, %u ranges of them\n", layers, ranges);
}

static struct dp_block *open_raw(const struct rig *r, const char *name, bool readonly)
{
    struct dp_error e = {0};
    struct dp_block *b = NULL;
    assert_ok(dp_block_open(NULL, &(struct dp_block_options){.path = in(r, name), .readonly = readonly, .format = "raw"}, &b, &e), e);
    return b;
}

/* All disks get their layer, or none. */
static void all_or_none(void **state)
{
    struct rig *r = *state;
    struct dp_error e = {0};
    struct dp_block_layer layer[DP_IMAGE_DEPTH_MAX];
    must(r, "truncate -s 1M a b && echo mine > taken");
    struct dp_block *a = open_raw(r, "a", false), *b = open_raw(r, "b", false);
    struct dp_live_snapshot s[] = {{a, in(r, "a1")}, {b, in(r, "taken")}};
    assert_int_equal(dp_block_snapshot(s, 2, &e), -EEXIST);
    assert_non_null(strstr(e.text, "taken"));
    must(r, "[ ! -e a1 ] && [ \"$(cat taken)\" = mine ]");
    assert_int_equal(request(a, DP_BLOCK_WRITE, false, 0, "x", 0), 0);
    assert_int_equal(dp_block_layers(a, layer), 1);
    s[1].file = in(r, "b1");
    assert_ok(dp_block_snapshot(s, 2, &e), e);
    assert_int_equal(dp_block_layers(a, layer), 2);
    assert_int_equal(dp_block_layers(b, layer), 2);
    assert_string_equal(layer[0].file, in(r, "b1"));
    dp_block_close(a);
    dp_block_close(b);
}

/* A target that is full, or no place for a file: the job fails with one line, the guest does not notice. */
static void failing_target(void **state)
{
    struct rig *r = *state;
    struct dp_error e = {0};
    struct dp_job_status s;
    uint8_t *data = malloc(SIZE);
    if (command(r, "mkdir small && mount -t tmpfs -o size=2m tmpfs small")) {
        print_message("no tmpfs can be mounted here: not tried with a full disk\n");
        free(data);
        skip();
    }
    for (unsigned kind = DP_JOB_MIRROR; kind <= DP_JOB_BACKUP; kind++) {
        must(r, "truncate -s 6M disk");
        struct dp_block *b = open_raw(r, "disk", false);
        for (unsigned i = 0; i < SIZE; i++)
            data[i] = (uint8_t)dp_random_next(&r->random);
        assert_int_equal(request(b, DP_BLOCK_WRITE, false, 0, data, SIZE), 0);
        struct dp_job_options o = {.kind = (enum dp_job_kind)kind, .target = "/nowhere/at/all", .format = "qcow2"};
        assert_true(dp_block_job_start(b, &o, &e) < 0 && !strchr(e.text, '\n'));
        assert_false(dp_block_job_status(b, &s));
        o.target = in(r, "small/copy");
        o.bitmap = kind == DP_JOB_BACKUP ? "marks" : NULL;
        assert_ok(dp_block_job_start(b, &o, &e), e);
        for (unsigned n = 0; dp_block_job_status(b, &s) && s.state == DP_JOB_RUNNING && n < PATIENCE; n++)
            random_op(r, b, data, SIZE);
        assert_int_equal(s.state, DP_JOB_FAILED);
        assert_true(strstr(s.error.text, "No space left") && !strchr(s.error.text, '\n'));
        uint64_t bytes;
        assert_null(dp_block_bitmap(b, 0, &bytes)); /* of a backup that is none */
        assert_true(dp_block_job_complete(b, &e) && dp_block_job_cancel(b, &e));
        expect(r, b, data, SIZE);
        dp_block_close(b);
        must(r, "rm -f small/copy");
    }
    must(r, "umount small");
    free(data);
}

/* What cannot be is refused, and changes nothing. */
static void refused(void **state)
{
    struct rig *r = *state;
    struct dp_error e = {0};
    must(r, "truncate -s 1M disk small && truncate -s 512K smaller && mkdir folder");
    struct dp_block *b = open_raw(r, "disk", true);
    struct dp_live_snapshot s = {b, in(r, "layer")};
    assert_int_equal(dp_block_snapshot(&s, 1, &e), -EROFS);
    assert_int_equal(dp_block_resize(b, 2 << 20, &e), -EROFS);
    dp_block_close(b);
    b = open_raw(r, "disk", false);
    struct dp_job_options o = {.kind = DP_JOB_MIRROR, .target = in(r, "smaller"), .reuse = true};
    assert_int_equal(dp_block_job_start(b, &o, &e), -ENOSPC);
    o.target = in(r, "disk"); /* itself */
    assert_true(dp_block_job_start(b, &o, &e) < 0);
    o.target = in(r, "folder");
    o.reuse = false;
    assert_true(dp_block_job_start(b, &o, &e) < 0);
    assert_true(dp_block_job_complete(b, &e) < 0 && dp_block_job_cancel(b, &e) < 0);
    assert_int_equal(dp_block_bitmap_remove(b, "none", &e), -ENOENT);
    dp_block_close(b);
    /* What a pool has written down, or nobody could open again, keeps its layers; copies can be made. */
    for (unsigned n = 0; n < 2; n++) {
        struct dp_block_options fixed = {.path = in(r, "disk"), .format = "raw", .of_volume = n == 0, .copy = n == 1 ? "copy" : NULL};
        if (dp_block_open(NULL, &fixed, &b, &e)) {
            assert_int_equal(n, 1); /* no local copies of local files */
            continue;
        }
        s.block = b;
        assert_int_equal(dp_block_snapshot(&s, 1, &e), -EPERM);
        assert_int_equal(dp_block_snapshot_inside(b, "one", &e), -EPERM);
        o = (struct dp_job_options){.kind = DP_JOB_COMMIT};
        assert_int_equal(dp_block_job_start(b, &o, &e), -EPERM);
        o = (struct dp_job_options){.kind = DP_JOB_BACKUP, .target = in(r, n ? "backup1" : "backup0")};
        assert_ok(dp_block_job_start(b, &o, &e), e);
        assert_int_equal(dp_block_job_complete(b, &e), -EPERM);
        dp_block_close(b);
    }
    struct dp_block_options direct = {.path = in(r, "disk"), .cache = DP_BLOCK_NONE};
    if (dp_block_open(NULL, &direct, &b, &e))
        return; /* a file system without O_DIRECT */
    s.block = b;
    assert_int_equal(dp_block_snapshot(&s, 1, &e), -EINVAL);
    assert_non_null(strstr(e.text, "cache=writeback"));
    dp_block_close(b);
}

/* A disk that is closed in the middle of a job is whole. */
static void closed_meanwhile(void **state)
{
    struct rig *r = *state;
    for (unsigned kind = 0; kind < 4; kind++) {
        struct disk d = {.r = r, .model = calloc(2, SIZE), .then = calloc(2, SIZE), .size = SIZE};
        struct dp_error e = {0};
        char name[64];
        must(r, "rm -f *; truncate -s 6M disk");
        d.b = open_raw(r, "disk", false);
        some_ops(&d, 40);
        struct dp_live_snapshot s = {d.b, new_name(&d, name, "layer")};
        assert_ok(dp_block_snapshot(&s, 1, &e), e);
        some_ops(&d, 40);
        struct dp_job_options o = {.kind = (enum dp_job_kind)kind,
                                   .rate = 8 << 20,
                                   .target = kind < 2 ? NULL : in(r, "copy"),
                                   .format = kind < 2 ? NULL : "qcow2"};
        assert_ok(dp_block_job_start(d.b, &o, &e), e);
        some_ops(&d, 10);
        dp_block_close(d.b);
        image_is(&d, in(r, name), "qcow2", d.model, d.size);
        free(d.model);
        free(d.then);
    }
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void write_all(struct disk *d)
{
    fill(&d->r->random, d->model, d->size);
    assert_int_equal(request(d->b, DP_BLOCK_WRITE, false, 0, d->model, d->size), 0);
}

/* A rate is kept while the guest writes all the time, and the job ends all the same. Without it the job takes some hundredths of a second.
 */
static void keeps_rate(void **state)
{
    enum { RATE = 8 << 20, PATIENCE_SECONDS = 120 };
    struct rig *r = *state;
    for (unsigned kind = 0; kind < 4; kind++) {
        struct disk d = {.r = r, .model = calloc(2, SIZE), .then = calloc(2, SIZE), .size = SIZE};
        struct dp_error e = {0};
        struct dp_job_status s;
        char name[64];
        must(r, "rm -f *; truncate -s 6M disk");
        d.b = open_raw(r, "disk", false);
        write_all(&d);
        struct dp_live_snapshot snapshot = {d.b, new_name(&d, name, "layer")};
        assert_ok(dp_block_snapshot(&snapshot, 1, &e), e);
        if (kind == DP_JOB_COMMIT)
            write_all(&d);
        memcpy(d.then, d.model, d.size);
        struct dp_job_options o = {
            .kind = (enum dp_job_kind)kind, .rate = RATE, .target = kind < 2 ? NULL : in(r, "copy"), .format = kind < 2 ? NULL : "qcow2"};
        double from = seconds();
        assert_ok(dp_block_job_start(d.b, &o, &e), e);
        do {
            some_ops(&d, 3);
            assert_true(dp_block_job_status(d.b, &s) && seconds() - from < PATIENCE_SECONDS);
        } while (s.state == DP_JOB_RUNNING);
        double took = seconds() - from;
        bool by_steps =
            kind == DP_JOB_COMMIT || kind == DP_JOB_MIRROR; /* what the guest writes need not be streamed, or is backed up before */
        if (by_steps && took < 0.4 * SIZE / RATE)
            fail_msg("%s took only %.3f s", dp_job_kind_name[kind], took);
        assert_int_equal(s.state, kind == DP_JOB_MIRROR ? DP_JOB_READY : DP_JOB_DONE);
        some_ops(&d, 30);
        if (kind == DP_JOB_MIRROR)
            assert_ok(dp_block_job_cancel(d.b, &e), e);
        if (kind == DP_JOB_MIRROR || kind == DP_JOB_BACKUP)
            image_is(&d, in(r, "copy"), "qcow2", kind == DP_JOB_MIRROR ? d.model : d.then, d.size);
        dp_block_close(d.b);
        image_is(&d, in(r, kind == DP_JOB_COMMIT ? "disk" : name), kind == DP_JOB_COMMIT ? "raw" : "qcow2", d.model, d.size);
        free(d.model);
        free(d.then);
    }
}

/* New layers of an encrypted disk are encrypted by the same passphrase; merged and pulled up they are what they were. */
static void encrypted(void **state)
{
    struct rig *r = *state;
    unsigned formats = seeds > 2 ? 2 : 1; /* deriving keys takes its time */
    for (unsigned n = 0; n < formats; n++) {
        const char *format = n ? "luks" : "qcow2";
        const char *options[] = {n ? "iter-time=10" : "encrypt.format=luks", n ? NULL : "encrypt.iter-time=10", NULL};
        struct disk d = {.r = r, .model = calloc(2, SIZE), .then = calloc(2, SIZE), .size = SIZE};
        struct dp_error e = {0};
        struct dp_job_status s;
        struct dp_image *i;
        must(r, "rm -f *");
        struct dp_image_create c = {.name = in(r, "disk"), .format = format, .size = SIZE, .option = options, .secret = "word"};
        assert_ok(dp_image_create(&c, &e), e);
        assert_ok(dp_block_open(NULL, &(struct dp_block_options){.path = in(r, "disk"), .format = format, .secret = "word"}, &d.b, &e), e);
        write_all(&d); /* what was never written reads as noise */
        some_ops(&d, 50);
        for (unsigned k = 0; k < 3; k++) {
            char name[8];
            snprintf(name, sizeof name, "l%u", k);
            assert_ok(dp_block_snapshot(&(struct dp_live_snapshot){d.b, in(r, name)}, 1, &e), e);
            some_ops(&d, 50);
        }
        struct dp_image_options plain = {.name = in(r, "l0"), .format = "qcow2", .unlocked = true, .readonly = true};
        assert_int_equal(dp_image_open(&plain, &i, &e), -EACCES);
        const struct dp_job_options o[] = {{.kind = DP_JOB_COMMIT, .top = in(r, "l0")}, {.kind = DP_JOB_COMMIT}, {.kind = DP_JOB_STREAM}};
        for (unsigned k = 0; k < DP_ARRAY_LEN(o); k++) {
            assert_ok(dp_block_job_start(d.b, &o[k], &e), e);
            do
                some_ops(&d, 3);
            while (dp_block_job_status(d.b, &s) && s.state == DP_JOB_RUNNING);
            assert_int_equal(s.state, DP_JOB_DONE);
            expect(r, d.b, d.model, d.size);
        }
        dp_block_close(d.b);
        assert_ok(dp_block_open(NULL, &(struct dp_block_options){.path = in(r, "l1"), .format = "qcow2", .secret = "word"}, &d.b, &e), e);
        expect(r, d.b, d.model, d.size);
        dp_block_close(d.b);
        free(d.model);
        free(d.then);
    }
}

/* Names of layers that cannot be. */
static void wrong_ranges(void **state)
{
    struct rig *r = *state;
    struct dp_error e = {0};
    struct dp_block_layer layer[DP_IMAGE_DEPTH_MAX];
    must(r, "truncate -s 1M disk other");
    struct dp_block *b = open_raw(r, "disk", false);
    for (unsigned n = 0; n < 3; n++) {
        char name[8];
        snprintf(name, sizeof name, "l%u", n);
        assert_ok(dp_block_snapshot(&(struct dp_live_snapshot){b, in(r, name)}, 1, &e), e);
    }
    const struct {
        enum dp_job_kind kind;
        const char *top, *base;
        int result;
    } cases[] = {
        {DP_JOB_COMMIT, "other", NULL, -ENOENT},   {DP_JOB_COMMIT, NULL, "none", -ENOENT}, {DP_JOB_COMMIT, "disk", NULL, -EINVAL},
        {DP_JOB_COMMIT, "l1", "l2", -EINVAL},      {DP_JOB_COMMIT, "l1", "l1", -EINVAL},   {DP_JOB_STREAM, "l1", NULL, -EINVAL},
        {DP_JOB_STREAM, NULL, "l2", -EINVAL},      {DP_JOB_STREAM, NULL, "l1", -EINVAL},   {DP_JOB_STREAM, NULL, "other", -ENOENT},
    };
    for (unsigned n = 0; n < DP_ARRAY_LEN(cases); n++) {
        struct dp_job_options o = {.kind = cases[n].kind,
                                   .top = cases[n].top ? in(r, cases[n].top) : NULL,
                                   .base = cases[n].base ? in(r, cases[n].base) : NULL};
        assert_int_equal(dp_block_job_start(b, &o, &e), cases[n].result);
        assert_null(strchr(e.text, '\n'));
        assert_int_equal(dp_block_layers(b, layer), 4);
    }
    dp_block_close(b);
}

/* ---- killed in between ---- */

enum { BLOCK = 4096, BLOCKS = SIZE / BLOCK };
struct shared { /* stamps of each block */
    uint32_t last, begun[BLOCKS], flushed[BLOCKS];
};

static void stamp(struct dp_block *b, struct dp_random *random, struct shared *s, uint32_t *done)
{
    uint32_t n = dp_random_next(random) % BLOCKS, data[BLOCK / 4];
    for (unsigned i = 0; i < BLOCK / 4; i++)
        data[i] = s->last + 1;
    s->begun[n] = ++s->last;
    assert_int_equal(request(b, DP_BLOCK_WRITE, false, (uint64_t)n * BLOCK, data, BLOCK), 0);
    done[n] = s->last;
    if (dp_random_next(random) % 16)
        return;
    assert_int_equal(request(b, DP_BLOCK_FLUSH, false, 0, NULL, 0), 0);
    memcpy(s->flushed, done, sizeof s->flushed);
}

static struct dp_block *open_top(const struct rig *r, const char *name)
{
    struct dp_error e = {0};
    struct dp_block *b = NULL;
    assert_ok(dp_block_open(NULL, &(struct dp_block_options){.path = in(r, name), .format = strcmp(name, "disk") ? "qcow2" : "raw"}, &b, &e),
              e);
    return b;
}

/* The chain opens, and each block has what was flushed, or something that was written later. */
static void killed(void **state)
{
    struct rig *r = *state;
    static const struct {
        enum dp_job_kind kind;
        const char *top, *base;
    } cases[] = {{DP_JOB_COMMIT, NULL, "disk"}, {DP_JOB_COMMIT, "l1", "disk"}, {DP_JOB_COMMIT, "l0", NULL}, {DP_JOB_STREAM, NULL, "l0"}};
    struct shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint32_t done[BLOCKS], *got = malloc(SIZE);
    unsigned whole = 0, runs = 0;
    for (unsigned n = 0; n < (seeds > 2 ? 6 : 2) * DP_ARRAY_LEN(cases); n++) {
        struct dp_error e = {0};
        memset(s, 0, sizeof *s);
        memset(done, 0, sizeof done);
        must(r, "rm -f *; truncate -s %u disk", SIZE);
        for (unsigned layer = 0; layer < 4; layer++) {
            char name[8] = "disk";
            if (layer)
                snprintf(name, sizeof name, "l%u", layer - 1);
            struct dp_block *b = open_top(r, name);
            for (unsigned i = 0; i < 300; i++)
                stamp(b, &r->random, s, done);
            snprintf(name, sizeof name, "l%u", layer);
            if (layer < 3)
                assert_ok(dp_block_snapshot(&(struct dp_live_snapshot){b, in(r, name)}, 1, &e), e);
            dp_block_close(b);
        }
        memcpy(s->flushed, done, sizeof done);
        unsigned k = n % DP_ARRAY_LEN(cases);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (!pid) {
            struct dp_block *b = open_top(r, "l2");
            struct dp_job_options o = {.kind = cases[k].kind,
                                       .rate = 16 << 20,
                                       .top = cases[k].top ? in(r, cases[k].top) : NULL,
                                       .base = cases[k].base ? in(r, cases[k].base) : NULL};
            if (dp_block_job_start(b, &o, &e))
                _exit(1);
            for (;;)
                stamp(b, &r->random, s, done);
        }
        usleep(dp_random_next(&r->random) % 600000);
        kill(pid, SIGKILL);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        struct dp_block *b = open_top(r, "l2");
        struct dp_block_layer layer[DP_IMAGE_DEPTH_MAX];
        whole += dp_block_layers(b, layer) < 4;
        runs++;
        assert_int_equal(request(b, DP_BLOCK_READ, false, 0, got, SIZE), 0);
        for (unsigned i = 0; i < SIZE / 4; i++)
            if (got[i] < s->flushed[i / (BLOCK / 4)] || got[i] > s->begun[i / (BLOCK / 4)])
                fail_msg("case %u: block %u has %u, flushed %u, written %u", k, i / (BLOCK / 4), got[i], s->flushed[i / (BLOCK / 4)],
                         s->begun[i / (BLOCK / 4)]);
        dp_block_close(b);
        if (!command(r, "qemu-img --version"))
            must(r, "qemu-img check -U l2; [ $? = 0 -o $? = 3 ]"); /* leaks are allowed */
    }
    print_message("killed %u times, %u when layers were gone\n", runs, whole);
    munmap(s, sizeof *s);
    free(got);
}

int main(int argc, char **argv)
{
    seeds = argc > 1 ? (unsigned)atoi(argv[1]) : seeds;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sequences, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(all_or_none, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(failing_target, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(refused, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(closed_meanwhile, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(keeps_rate, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(wrong_ranges, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(encrypted, rig_setup, rig_teardown),
        cmocka_unit_test_setup_teardown(killed, rig_setup, rig_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
