/* test_mirror.c - the format mirror: halves that fail, power cuts, kill -9, resync.
 *
 * Model: the linker leads preadv, pwritev, fdatasync and fallocate here (--wrap). A file is known by its inode. Each of the three files
 * (the mirror's own and its halves) has a log of what was done since its last fdatasync; a power cut leaves what was flushed, and of the
 * rest what chance wants. Then the mirror must open, both halves must hold the same, and each sector that was not written since the last
 * flush of the disk must be what it was.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include "block/mirror.h"

ssize_t __real_pwritev64(int fd, const struct iovec *v, int n, off_t at);
ssize_t __real_preadv64(int fd, const struct iovec *v, int n, off_t at);
int __real_fdatasync(int fd);
int __real_fallocate64(int fd, int mode, off_t at, off_t size);
ssize_t __wrap_pwritev64(int fd, const struct iovec *v, int n, off_t at);
ssize_t __wrap_preadv64(int fd, const struct iovec *v, int n, off_t at);
int __wrap_fdatasync(int fd);
int __wrap_fallocate64(int fd, int mode, off_t at, off_t size);

enum { SIZE = 8 << 20, FILES = 3, LOG_MAX = 4000, STABLE_MAX = SIZE + (1 << 20) };
static const char *const names[FILES] = {"m", "a", "b"};

static struct entry {
    uint8_t *data;
    uint64_t at, size;
} logged[FILES][LOG_MAX];
static unsigned log_count[FILES];
static uint8_t *stable[FILES];
static uint64_t stable_size[FILES];
static ino_t inode[FILES];
static bool recording;
/* Of file n every operation fails from the countdown's end on. */
static int fail_read = -1, fail_write = -1, fail_flush = -1;
static unsigned countdown;
static struct dp_random chance;

static int file_of(int fd)
{
    struct stat st;
    for (int n = 0; n < FILES && !fstat(fd, &st); n++)
        if (inode[n] == st.st_ino)
            return n;
    return -1;
}

static bool fails(int file, int which)
{
    if (file < 0 || file != which)
        return false;
    if (countdown) {
        countdown--;
        return false;
    }
    errno = EIO;
    return true;
}

static void record(int file, const struct iovec *v, int n, uint64_t at, uint64_t size)
{
    if (!recording || file < 0)
        return;
    assert_true(log_count[file] < LOG_MAX);
    struct entry *l = &logged[file][log_count[file]++];
    *l = (struct entry){.at = at, .size = size};
    uint8_t *to = v ? l->data = malloc(size) : NULL;
    for (int i = 0; i < n; to += v[i++].iov_len)
        memcpy(to, v[i].iov_base, v[i].iov_len);
}

ssize_t __wrap_pwritev64(int fd, const struct iovec *v, int n, off_t at)
{
    int file = file_of(fd);
    uint64_t size = 0;
    if (fails(file, fail_write))
        return -1;
    for (int i = 0; i < n; i++)
        size += v[i].iov_len;
    record(file, v, n, (uint64_t)at, size);
    return __real_pwritev64(fd, v, n, at);
}

ssize_t __wrap_preadv64(int fd, const struct iovec *v, int n, off_t at)
{
    return fails(file_of(fd), fail_read) ? -1 : __real_preadv64(fd, v, n, at);
}

int __wrap_fallocate64(int fd, int mode, off_t at, off_t size)
{
    int file = file_of(fd);
    if (fails(file, fail_write))
        return -1;
    record(file, NULL, 0, (uint64_t)at, (uint64_t)size);
    return __real_fallocate64(fd, mode, at, size);
}

static void apply(int file, uint8_t *to, uint64_t *size, const struct entry *l)
{
    assert_true(l->at + l->size <= STABLE_MAX);
    if (l->data)
        memcpy(to + l->at, l->data, l->size);
    else
        memset(to + l->at, 0, l->size);
    *size = l->data ? DP_MAX(*size, l->at + l->size) : *size;
}

int __wrap_fdatasync(int fd)
{
    int file = file_of(fd);
    if (fails(file, fail_flush))
        return -1;
    for (unsigned i = 0; file >= 0 && i < log_count[file]; i++) {
        apply(file, stable[file], &stable_size[file], &logged[file][i]);
        free(logged[file][i].data);
    }
    if (file >= 0)
        log_count[file] = 0;
    return 0;
}

/* ---- ---- */

static struct dp_image *open_image(const char *name, const char *format, bool write)
{
    struct dp_error e = {0};
    struct dp_image *i = NULL;
    if (dp_image_open(&(struct dp_image_options){.name = name, .format = format, .readonly = !write}, &i, &e))
        print_error("%s\n", e.text);
    assert_non_null(i);
    return i;
}

static void make(const char *second_format)
{
    char second[40];
    struct dp_error e = {0};
    snprintf(second, sizeof second, "second_format=%s", second_format);
    const char *const options[] = {"first=a", "second=b", second, NULL};
    for (unsigned n = 0; n < FILES; n++)
        unlink(names[n]);
    if (dp_image_create(&(struct dp_image_create){.name = "m", .format = "mirror", .size = SIZE, .option = options}, &e))
        fail_msg("%s", e.text);
    for (unsigned n = 0; n < FILES; n++) {
        struct stat st;
        assert_int_equal(stat(names[n], &st), 0);
        inode[n] = st.st_ino;
    }
    recording = false;
    fail_read = fail_write = fail_flush = -1;
}

static void halves_are(const char *second_format, const uint8_t *want)
{
    static uint8_t got[SIZE];
    const char *const formats[] = {"raw", second_format};
    for (unsigned h = 0; h < 2; h++) {
        struct dp_image *i = open_image(names[1 + h], formats[h], false);
        assert_int_equal(dp_image_pread(i, got, SIZE, 0), 0);
        dp_image_close(i);
        for (unsigned at = 0; at < SIZE; at += 512)
            if (memcmp(got + at, want + at, 512))
                fail_msg("half %u is not what it should be at %u", h, at);
    }
}

static struct dp_mirror_state state_of(struct dp_image *i)
{
    struct dp_mirror_state s;
    assert_true(dp_mirror_state(i, &s));
    return s;
}

/* A write or zeros somewhere; what the disk then has. */
static int random_write(struct dp_image *i, uint8_t *now, uint64_t *at, uint64_t *size)
{
    *at = dp_random_next(&chance) % (SIZE / 512) * 512;
    uint64_t most = (dp_random_next(&chance) % 60 + 1) * 512;
    *size = DP_MIN(most, SIZE - *at);
    bool zeros = dp_random_next(&chance) % 5 == 0;
    for (uint64_t n = *at; n < *at + *size; n++)
        now[n] = zeros ? 0 : (uint8_t)dp_random_next(&chance);
    return zeros ? dp_image_zero(i, *at, *size, dp_random_next(&chance) % 2 * DP_ZERO_UNMAP) : dp_image_pwrite(i, now + *at, *size, *at);
}

static void test_plain(void **state)
{
    static uint8_t now[SIZE], got[SIZE];
    uint64_t at, size;
    for (unsigned qcow2 = 0; qcow2 < 2; qcow2++) {
        const char *second = qcow2 ? "qcow2" : "raw";
        make(second);
        memset(now, 0, SIZE);
        struct dp_image *i = open_image("m", "mirror", true);
        for (unsigned n = 0; n < 200; n++)
            assert_int_equal(random_write(i, now, &at, &size), 0);
        assert_int_equal(dp_image_pread(i, got, SIZE, 0), 0);
        assert_memory_equal(got, now, SIZE);
        assert_int_equal(state_of(i).dirty, 8);
        assert_int_equal(dp_image_flush(i), 0);
        assert_int_equal(state_of(i).dirty, 8); /* kept, for they may be written again soon */
        assert_true(dp_image_dirty(i));
        assert_int_equal(dp_image_flush(i), 0);
        assert_int_equal(state_of(i).dirty, 0);
        assert_int_equal(random_write(i, now, &at, &size), 0);
        dp_image_close(i);
        halves_are(second, now);
        i = open_image("m", "mirror", false);
        assert_int_equal(state_of(i).dirty, 0);
        dp_image_close(i);
    }
}

/* One half fails, when it is written, read or flushed: nobody sees that, until the resync all is on the other. */
static void test_failing(void **state)
{
    static uint8_t now[SIZE], got[SIZE];
    uint64_t at, size, copied;
    for (unsigned round = 0; round < 60; round++) {
        const char *second = round % 4 == 3 ? "qcow2" : "raw";
        int bad = round % 2 ? 1 : 2, kind = round / 2 % 3;
        struct dp_error e = {0};
        make(second);
        memset(now, 0, SIZE);
        struct dp_image *i = open_image("m", "mirror", true);
        countdown = (unsigned)(dp_random_next(&chance) % 40);
        for (unsigned n = 0; n < 80; n++) {
            if (n == 20)
                *(kind == 0 ? &fail_write : kind == 1 ? &fail_flush : &fail_read) = bad;
            if (n % 10 == 9)
                assert_int_equal(dp_image_flush(i), 0);
            assert_int_equal(random_write(i, now, &at, &size), 0);
            assert_int_equal(dp_image_pread(i, got, size, at), 0);
            assert_memory_equal(got, now + at, size);
        }
        assert_int_equal(dp_image_flush(i), 0);
        assert_int_equal(dp_image_pread(i, got, SIZE, 0), 0);
        assert_memory_equal(got, now, SIZE);
        bool given_up = !state_of(i).in_date[bad - 1];
        assert_true(state_of(i).in_date[2 - bad]);
        dp_image_close(i);
        if (kind == 0) /* countdown counts less than 40 of at least 60 writes */
            assert_true(given_up);
        fail_read = fail_write = fail_flush = -1;
        i = open_image("m", "mirror", true);
        assert_true(!state_of(i).in_date[bad - 1] == given_up);
        assert_int_equal(random_write(i, now, &at, &size), 0);
        if (round % 5 == 0) { /* the resync fails, too, and is begun again */
            fail_write = bad;
            countdown = 2;
            int rc = dp_mirror_resync(i, false, NULL, &copied, &e);
            assert_true(rc == -EIO || !given_up);
            fail_write = -1;
        }
        if (dp_mirror_resync(i, false, NULL, &copied, &e))
            fail_msg("%s", e.text);
        assert_true(copied < SIZE || state_of(i).region * 8 == SIZE);
        assert_true(state_of(i).in_date[0] && state_of(i).in_date[1] && !state_of(i).dirty);
        dp_image_close(i);
        halves_are(second, now);
    }
}

/* Only what was written is copied; a half that is not the old one is noticed; one that is missing is made. */
static void test_resync(void **state)
{
    static uint8_t now[SIZE];
    uint64_t copied;
    struct dp_error e = {0};
    make("raw");
    for (unsigned n = 0; n < SIZE; n++)
        now[n] = (uint8_t)(n * 7 >> 3 | 1);
    struct dp_image *i = open_image("m", "mirror", true);
    assert_int_equal(dp_image_pwrite(i, now, SIZE, 0), 0);
    dp_image_close(i);
    assert_int_equal(rename("b", "b.gone"), 0);
    i = open_image("m", "mirror", true);
    assert_false(state_of(i).in_date[1]);
    memset(now + (3 << 20) + 5, 9, 1000);
    assert_int_equal(dp_image_pwrite(i, now + (3 << 20) + 5, 1000, (3 << 20) + 5), 0);
    assert_int_equal(dp_mirror_resync(i, false, NULL, &copied, &e), -ENOENT);
    assert_non_null(strstr(e.text, "--all"));
    assert_int_equal(truncate("b.gone", SIZE), 0);
    assert_int_equal(rename("b.gone", "b"), 0);
    assert_int_equal(dp_mirror_resync(i, false, NULL, &copied, &e), 0);
    assert_int_equal(copied, 1 << 20);
    dp_image_close(i);
    halves_are("raw", now);
    unlink("b");
    i = open_image("m", "mirror", true);
    int fd = open("b", O_CREAT | O_RDWR, 0600); /* a new disk */
    assert_int_equal(ftruncate(fd, SIZE), 0);
    close(fd);
    assert_int_equal(dp_mirror_resync(i, false, NULL, &copied, &e), -ESTALE);
    assert_int_equal(dp_mirror_resync(i, true, NULL, &copied, &e), 0);
    dp_image_close(i);
    halves_are("raw", now);
    unlink("a"); /* the first half, too */
    i = open_image("m", "mirror", true);
    assert_int_equal(dp_mirror_resync(i, true, NULL, &copied, &e), 0);
    dp_image_close(i);
    halves_are("raw", now);
    /* Both are needed to be one. */
    unlink("a");
    i = open_image("m", "mirror", true);
    dp_image_close(i);
    unlink("b");
    assert_int_not_equal(dp_image_open(&(struct dp_image_options){.name = "m", .format = "mirror"}, &i, &e), 0);
    assert_non_null(strstr(e.text, "no half"));
}

/* Both fail: the guest is told, and the mirror does not say afterwards that they are the same. */
static void test_both(void **state)
{
    static uint8_t now[SIZE];
    uint64_t at, size;
    make("raw");
    memset(now, 0, SIZE);
    struct dp_image *i = open_image("m", "mirror", true);
    for (unsigned n = 0; n < 20; n++)
        assert_int_equal(random_write(i, now, &at, &size), 0);
    fail_write = 1;
    countdown = 0;
    assert_int_equal(random_write(i, now, &at, &size), 0);
    fail_write = 2;
    static uint8_t other[SIZE];
    memcpy(other, now, SIZE);
    assert_int_equal(random_write(i, other, &at, &size), -EIO);
    assert_true(state_of(i).in_date[1] && !state_of(i).in_date[0]);
    fail_write = -1;
    assert_int_equal(dp_image_flush(i), 0);
    assert_true(state_of(i).dirty > 0);
    dp_image_close(i);
}

/* The mirror's own file fails: what it could not be told in time it is told before anything else changes. */
static void test_own_file(void **state)
{
    static uint8_t now[SIZE], data[512];
    uint8_t bits = 0;
    make("raw");
    memset(now, 0, SIZE);
    memset(data, 7, sizeof data);
    struct dp_image *i = open_image("m", "mirror", true);
    fail_write = 0;
    countdown = 0;
    assert_int_equal(dp_image_pwrite(i, data, sizeof data, 0), -EIO);
    fail_write = -1;
    assert_int_equal(dp_image_pwrite(i, data, sizeof data, 0), 0);
    int fd = open("m", O_RDONLY);
    assert_int_equal(pread(fd, &bits, 1, 8192), 1);
    assert_int_equal(bits, 1); /* the region's bit is in the file though the first try failed */
    /* The first half fails, and the header cannot say so: the disk stands still until it can. */
    fail_write = 1;
    fail_flush = 0; /* of the mirror's own file, as the header is written */
    assert_int_equal(dp_image_pwrite(i, data, sizeof data, 512), -EIO);
    fail_write = -1;
    assert_int_equal(dp_image_pwrite(i, data, sizeof data, 1024), -EIO);
    assert_int_equal(dp_image_flush(i), -EIO);
    fail_flush = -1;
    assert_int_equal(dp_image_pwrite(i, data, sizeof data, 1024), 0);
    dp_image_close(i);
    close(fd);
    i = open_image("m", "mirror", false);
    assert_true(state_of(i).in_date[1] && !state_of(i).in_date[0]);
    dp_image_close(i);
}

static void test_cut(void **state)
{
    static uint8_t now[SIZE], got[SIZE];
    static bool changed[SIZE / 512];
    for (unsigned n = 0; n < FILES; n++)
        stable[n] = malloc(STABLE_MAX);
    uint8_t *file = malloc(STABLE_MAX);
    unsigned copies = 0;
    for (unsigned round = 0; round < 60; round++) {
        make("raw");
        memset(now, 0, SIZE);
        memset(changed, 0, sizeof changed);
        for (unsigned n = 0; n < FILES; n++) {
            int fd = open(names[n], O_RDONLY);
            memset(stable[n], 0, STABLE_MAX);
            stable_size[n] = (uint64_t)read(fd, stable[n], STABLE_MAX);
            close(fd);
            log_count[n] = 0;
        }
        struct dp_image *i = open_image("m", "mirror", true);
        recording = true;
        unsigned writes = (unsigned)(dp_random_next(&chance) % 60);
        if (round % 3 == 2) { /* and one half fails before */
            fail_write = 1 + (int)(round / 3 % 2);
            countdown = (unsigned)(dp_random_next(&chance) % 50);
        }
        for (unsigned n = 0; n < writes; n++) {
            uint64_t at, size;
            assert_int_equal(random_write(i, now, &at, &size), 0);
            for (uint64_t k = at; k < at + size; k += 512)
                changed[k / 512] = true;
            if (dp_random_next(&chance) % 8 == 0) {
                assert_int_equal(dp_image_flush(i), 0);
                memset(changed, 0, sizeof changed);
            }
        }
        bool degraded = !state_of(i).in_date[0] || !state_of(i).in_date[1];
        /* The cut: what this process has done to the files since does not count. */
        recording = false;
        fail_write = -1;
        uint64_t threshold = dp_random_next(&chance) % 5;
        mkdir("cut", 0700);
        for (unsigned n = 0; n < FILES; n++) {
            char path[20];
            uint64_t size = stable_size[n];
            memcpy(file, stable[n], STABLE_MAX);
            for (unsigned k = 0; k < log_count[n]; k++) {
                if (dp_random_next(&chance) % 4 < threshold)
                    apply((int)n, file, &size, &logged[n][k]);
                free(logged[n][k].data);
            }
            log_count[n] = 0;
            snprintf(path, sizeof path, "cut/%s", names[n]);
            int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
            assert_int_equal(write(fd, file, size), size);
            close(fd);
        }
        dp_image_close(i);
        i = open_image("cut/m", "mirror", true);
        struct dp_mirror_state s = state_of(i);
        assert_true(degraded || (s.in_date[0] && s.in_date[1]));
        assert_int_equal(dp_image_pread(i, got, SIZE, 0), 0);
        for (unsigned at = 0; at < SIZE; at += 512)
            if (!changed[at / 512] && memcmp(got + at, now + at, 512))
                fail_msg("round %u: what was flushed at %u is lost", round, at);
        uint64_t copied;
        struct dp_error e = {0};
        if (dp_mirror_resync(i, false, NULL, &copied, &e))
            fail_msg("%s", e.text);
        copies += copied > 0;
        dp_image_close(i);
        assert_int_equal(chdir("cut"), 0);
        halves_are("raw", got);
        assert_int_equal(chdir(".."), 0);
    }
    print_message("%u of 60 cuts left a half to be brought in date\n", copies);
    for (unsigned n = 0; n < FILES; n++)
        free(stable[n]);
    free(file);
}

/* kill -9: what was in flight is made the same when the mirror is opened. */
static void test_kill(void **state)
{
    static uint8_t got[SIZE];
    uint64_t at, size, *count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned found = 0;
    make("raw");
    for (unsigned round = 0; round < 40; round++) {
        *count = 0;
        pid_t pid = fork();
        if (!pid) {
            uint8_t *now = calloc(1, SIZE);
            dp_random_seed(&chance, round + 1000);
            struct dp_image *i = NULL;
            if (dp_image_open(&(struct dp_image_options){.name = "m", .format = "mirror"}, &i, NULL))
                _exit(1);
            for (;; ++*count)
                if (random_write(i, now, &at, &size))
                    _exit(1);
        }
        while (!*count && !waitpid(pid, NULL, WNOHANG))
            usleep(100);
        usleep((useconds_t)(dp_random_next(&chance) % 8000));
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_true(*count);
        struct dp_image *i = open_image("m", "mirror", false);
        found += state_of(i).dirty > 0;
        dp_image_close(i);
        i = open_image("m", "mirror", true);
        assert_true(state_of(i).in_date[0] && state_of(i).in_date[1] && !state_of(i).dirty);
        assert_int_equal(dp_image_pread(i, got, SIZE, 0), 0);
        dp_image_close(i);
        halves_are("raw", got);
    }
    assert_true(found > 30);
}

static void test_refused(void **state)
{
    struct dp_error e = {0};
    struct dp_image *i = NULL, *half;
    make("raw");
    /* A half outside the folder. */
    const char *const options[] = {"first=/tmp/doppel-mirror-outside", "second=b2", NULL};
    unlink("/tmp/doppel-mirror-outside");
    assert_int_equal(dp_image_create(&(struct dp_image_create){.name = "out", .format = "mirror", .size = SIZE, .option = options}, &e), 0);
    assert_int_equal(dp_image_open(&(struct dp_image_options){.name = "out", .format = "mirror"}, &i, &e), -EACCES);
    assert_non_null(strstr(e.text, "backing=any"));
    assert_int_equal(dp_image_open(&(struct dp_image_options){.name = "out", .format = "mirror", .backing_anywhere = true}, &i, &e), 0);
    dp_image_close(i);
    unlink("/tmp/doppel-mirror-outside");
    const char *const aside[] = {"first=b2", "second=../doppel-mirror-outside", NULL}; /* nor is one made there */
    uint64_t copied;
    assert_int_equal(unlink("b2"), 0);
    assert_int_equal(dp_image_create(&(struct dp_image_create){.name = "out", .format = "mirror", .size = SIZE, .option = aside}, &e), 0);
    unlink("/tmp/doppel-mirror-outside");
    int fd2 = open("out", O_WRONLY); /* the second half is not in date, so that it is not opened */
    for (unsigned n = 0; n < 2; n++) {
        uint8_t head[4096];
        int from = open("out", O_RDONLY);
        assert_int_equal(pread(from, head, sizeof head, n * 4096), sizeof head);
        close(from);
        head[33] = 1;
        dp_st32(head + 4092, (uint32_t)crc32(0, head, 4092));
        assert_int_equal(pwrite(fd2, head, sizeof head, n * 4096), sizeof head);
    }
    close(fd2);
    i = open_image("out", "mirror", true);
    assert_int_equal(dp_mirror_resync(i, true, NULL, &copied, &e), -EACCES);
    assert_int_not_equal(access("/tmp/doppel-mirror-outside", F_OK), 0);
    dp_image_close(i);
    /* A half that somebody uses is no half that failed. */
    half = open_image("b", "raw", true);
    assert_int_equal(dp_image_open(&(struct dp_image_options){.name = "m", .format = "mirror"}, &i, &e), -EBUSY);
    dp_image_close(half);
    i = open_image("m", "mirror", true);
    assert_true(state_of(i).in_date[1]);
    struct dp_image *again = NULL;
    assert_int_equal(dp_image_open(&(struct dp_image_options){.name = "m", .format = "mirror"}, &again, &e), -EBUSY);
    assert_int_equal(dp_image_open(&(struct dp_image_options){.name = "a"}, &again, &e), -EBUSY);
    assert_int_equal(i->format->resize(i, SIZE + (5 << 20), &e), 0);
    assert_int_equal(dp_image_pwrite(i, "x", 1, SIZE + (5 << 20) - 1), 0);
    assert_int_equal(i->format->resize(i, SIZE, &e), 0);
    dp_image_close(i);
    static uint8_t zeros[SIZE];
    halves_are("raw", zeros);
    /* One header may be damaged, not both. */
    for (unsigned n = 0; n < 2; n++) {
        int fd = open("m", O_WRONLY);
        assert_int_equal(pwrite(fd, "damage", 6, n * 4096 + 100), 6);
        close(fd);
        int rc = dp_image_open(&(struct dp_image_options){.name = "m", .format = "mirror"}, &i, &e);
        assert_int_equal(rc, n ? -EINVAL : 0);
        dp_image_close(rc ? NULL : i);
    }
}

int main(void)
{
    char folder[] = "/tmp/doppel-mirror-XXXXXX", text[100];
    if (!mkdtemp(folder) || chdir(folder))
        return 99;
    dp_random_seed(&chance, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain), cmocka_unit_test(test_failing), cmocka_unit_test(test_resync),  cmocka_unit_test(test_both),
        cmocka_unit_test(test_cut),   cmocka_unit_test(test_kill),    cmocka_unit_test(test_refused),
        cmocka_unit_test(test_own_file),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(text, sizeof text, "rm -r %s", folder);
    return system(text) || failed;
}
