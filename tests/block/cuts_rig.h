/* cuts_rig.h - power cuts: the host stops within each write that a workload makes to an image; any part of what was not flushed is lost.
 *
 * Model: all runs in one thread on image.h. The linker leads pwritev, fdatasync, fallocate and ftruncate here (--wrap); what they do to the
 * image and its backing file is done and noted. At each such call some files are made as they may be after a power cut: what was
 * flushed, and of the rest each write, or each sector of it, or none, in chance's choice. look(), the test's own, sees each of them.
 * `allowed` has for each sector of the disk the values that it was given since the last flush.
 * Who includes it defines DISK_MAX, the largest disk, and is linked with the four --wrap.
 */
#ifndef DP_CUTS_RIG_H
#define DP_CUTS_RIG_H

#include "block/image_ops.h"
#include "tests/block/qcow2_rig.h"

ssize_t __real_pwritev64(int fd, const struct iovec *v, int n, off_t at);
int __real_fallocate64(int fd, int mode, off_t at, off_t size);
int __real_ftruncate64(int fd, off_t size);
ssize_t __wrap_pwritev64(int fd, const struct iovec *v, int n, off_t at);
int __wrap_fdatasync(int fd);
int __wrap_fallocate64(int fd, int mode, off_t at, off_t size);
int __wrap_ftruncate64(int fd, off_t size);


enum { SECTOR = 512, MAX = DISK_MAX, SECTORS = MAX / SECTOR, FILE_MAX = 32 << 20, LOG_MAX = 20000, VALUES = 40, FILES = 2 };

/* ---- the host's disk ---- */

enum kind { WRITE, ZERO, TRUNCATE };
struct note { unsigned file; enum kind kind; uint64_t at, size; uint8_t *data; };
struct host_file { ino_t inode; const char *name; uint8_t *stable, *cut; uint64_t stable_size, cut_size; bool used; };

static struct host_file files[FILES] = {{.name = "image"}, {.name = "base"}};
static struct note notes[LOG_MAX];
static unsigned note_count;
static bool watching;

/* ---- what the image must be ---- */

struct values { uint64_t hash[VALUES]; unsigned count; };
struct disk { uint8_t data[MAX]; uint64_t size; };

static struct rig *rig;
static struct disk now;
static struct values allowed[SECTORS];
static uint64_t sizes[2];
static const struct disk *other; /* all is as now, or all as in it */
static uint64_t points, torn_points;
static const char *doing = "";
static unsigned per_write = 2;

static void look(void); /* at what a cut left: files[].cut */

static uint64_t chance(uint64_t n) { return dp_random_next(&rig->random) % n; }

static uint64_t hash(const uint8_t *sector)
{
    uint64_t h = 1;
    for (unsigned i = 0; i < SECTOR; i += 8)
        h = (h ^ dp_ld64(sector + i)) * 0x9e3779b97f4a7c15ull, h ^= h >> 29;
    return h;
}

static void allow(uint64_t sector, uint64_t h)
{
    struct values *v = &allowed[sector];
    for (unsigned i = 0; i < v->count; i++)
        if (v->hash[i] == h)
            return;
    assert_true(v->count < VALUES);
    v->hash[v->count++] = h;
}

static void flushed(void)
{
    for (uint64_t i = 0; i < SECTORS; i++) {
        allowed[i].hash[0] = hash(now.data + i * SECTOR);
        allowed[i].count = 1;
    }
    sizes[0] = sizes[1] = now.size;
}

/* ---- looking at what a cut left ---- */

static struct dp_image *open_at(const char *name, bool readonly, bool repair, bool alone, const char *snapshot, const char *format)
{
    struct dp_image *i;
    struct dp_error e = {0};
    char path[160];
    snprintf(path, sizeof path, "%s/%s", rig->folder, name);
    struct dp_image_options o = {
        .name = path, .format = format, .readonly = readonly, .repair = repair, .alone = alone, .snapshot = snapshot};
    int rc = dp_image_open(&o, &i, &e);
    if (rc)
        fail_msg("%s (%s): %s", doing, name, e.text);
    return i;
}

static void report(void *opaque, const char *line) { print_message("%s\n", line); }

static struct dp_image_check check(struct dp_image *i, bool repair, bool tell)
{
    struct dp_image_check c = {.repair_leaks = repair, .repair_all = repair, .report = tell ? report : NULL};
    struct dp_error e = {0};
    assert_ok(i->format->check(i, &c, &e), e);
    return c;
}

static void check_contents(struct dp_image *i)
{
    static uint8_t got[MAX];
    if (i->size != sizes[0] && i->size != sizes[1])
        fail_msg("%s: %llu bytes", doing, (unsigned long long)i->size);
    assert_int_equal(dp_image_pread(i, got, i->size, 0), 0);
    if (other && i->size == other->size && !memcmp(got, other->data, i->size))
        return;
    for (uint64_t n = 0; n < i->size / SECTOR; n++) {
        uint64_t h = hash(got + n * SECTOR);
        const struct values *v = &allowed[n];
        unsigned k = 0;
        while (k < v->count && v->hash[k] != h)
            k++;
        if (k == v->count)
            fail_msg("%s: sector %llu is none of the %u it may be (%02x..., was %02x...)", doing, (unsigned long long)n, k, got[n * SECTOR],
                     now.data[n * SECTOR]);
    }
}

static void apply(struct host_file *f, const struct note *n, uint64_t tear)
{
    assert_true(n->at + n->size <= FILE_MAX);
    if (n->kind == TRUNCATE) {
        if (n->size > f->cut_size)
            memset(f->cut + f->cut_size, 0, n->size - f->cut_size);
        f->cut_size = n->size;
    } else if (n->kind == ZERO) {
        memset(f->cut + n->at, 0, n->at < f->cut_size ? DP_MIN(n->size, f->cut_size - n->at) : 0);
    } else {
        /* sectors are whole; what lies within one is so, too */
        for (uint64_t k = 0, size; k < n->size; k += size) {
            size = tear ? DP_MIN(SECTOR - (n->at + k) % SECTOR, n->size - k) : n->size;
            if (tear && chance(4) < tear)
                continue;
            if (n->at + k > f->cut_size)
                memset(f->cut + f->cut_size, 0, n->at + k - f->cut_size);
            memcpy(f->cut + n->at + k, n->data + k, size);
            f->cut_size = DP_MAX(f->cut_size, n->at + k + size);
        }
    }
}

static void cut(void)
{
    /* which are on the disk: a share of all; all but one; only one */
    unsigned how = chance(4), one = note_count ? chance(note_count) : 0, share = chance(5);
    uint64_t tear = how < 2 && chance(2) ? 1 + chance(3) : 0;
    for (unsigned f = 0; f < FILES && files[f].used; f++) {
        memcpy(files[f].cut, files[f].stable, files[f].stable_size);
        files[f].cut_size = files[f].stable_size;
    }
    for (unsigned n = 0; n < note_count; n++)
        if (how == 2 ? n != one : how == 3 ? n == one : chance(4) < share)
            apply(&files[notes[n].file], &notes[n], tear);
    torn_points += tear != 0;
    look();
}

/* ---- what the image does to the host's disk ---- */

static int which(int fd)
{
    struct stat st;
    for (int f = 0; watching && f < FILES; f++)
        if (files[f].used && !fstat(fd, &st) && st.st_ino == files[f].inode)
            return f;
    return -1;
}

static void note(int f, enum kind kind, const struct iovec *v, int count, uint64_t at, uint64_t size)
{
    assert_true(note_count < LOG_MAX);
    notes[note_count] = (struct note){f, kind, at, size, v ? malloc(size) : NULL};
    uint8_t *to = notes[note_count].data;
    for (int i = 0; i < count; to += v[i++].iov_len)
        memcpy(to, v[i].iov_base, v[i].iov_len);
    note_count++;
    watching = false;
    for (unsigned i = 0; i < per_write; i++)
        cut();
    watching = true;
}

static void sync_file(int f)
{
    unsigned left = 0;
    struct host_file *h = &files[f];
    uint8_t *cut_data = h->cut;
    h->cut = h->stable;
    h->cut_size = h->stable_size;
    for (unsigned i = 0; i < note_count; i++) {
        if (notes[i].file == (unsigned)f) {
            apply(h, &notes[i], 0);
            free(notes[i].data);
        } else {
            notes[left++] = notes[i];
        }
    }
    h->stable_size = h->cut_size;
    h->cut = cut_data;
    note_count = left;
}

ssize_t __wrap_pwritev64(int fd, const struct iovec *v, int n, off_t at)
{
    int f = which(fd);
    ssize_t done = __real_pwritev64(fd, v, n, at);
    if (f >= 0) {
        uint64_t size = 0;
        for (int i = 0; i < n; i++)
            size += v[i].iov_len;
        assert_int_equal(done, (ssize_t)size);
        note(f, WRITE, v, n, at, size);
    }
    return done;
}

int __wrap_fallocate64(int fd, int mode, off_t at, off_t size)
{
    int f = which(fd), rc = __real_fallocate64(fd, mode, at, size);
    if (f >= 0 && !rc)
        note(f, ZERO, NULL, 0, at, size);
    return rc;
}

int __wrap_ftruncate64(int fd, off_t size)
{
    int f = which(fd), rc = __real_ftruncate64(fd, size);
    if (f >= 0 && !rc)
        note(f, TRUNCATE, NULL, 0, 0, size);
    return rc;
}

int __wrap_fdatasync(int fd)
{
    int f = which(fd);
    if (f >= 0)
        sync_file(f);
    return 0; /* the test's own kernel does not crash */
}

static void watch(void)
{
    for (unsigned f = 0; f < FILES; f++) {
        struct stat st;
        struct host_file *h = &files[f];
        if (!h->used)
            continue;
        int fd = open(in(rig, h->name), O_RDONLY);
        assert_true(fd >= 0 && !fstat(fd, &st) && st.st_size <= FILE_MAX);
        assert_int_equal(read(fd, h->stable, FILE_MAX), st.st_size);
        close(fd);
        h->stable_size = st.st_size;
        h->inode = st.st_ino;
    }
    watching = true;
}

static void unwatch(void)
{
    for (unsigned f = 0; f < FILES; f++)
        if (files[f].used)
            sync_file(f);
    watching = false;
}

#endif
