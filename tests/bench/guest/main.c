/* main.c - guest-bench [--root TREE --work FOLDER] NAME,NAME...: runs tests and prints what `bench` reads.
 *
 *   BENCH-START name                        it begins
 *   BENCH name checksum nanoseconds         it is done
 *   BENCH-SKIP name why                     it cannot run here
 *   BENCH-FAIL name why                     it crashed or ended badly
 *   BENCH-MEMORY when KiB                   `guest-bench memory WHEN SIZE`: so much of SIZE KiB of RAM is in use, for the next second
 *
 * With --root the program enters a tree of Debian programs, with a /tmp in memory that holds FOLDER as /tmp/work: in the guest and natively the same.
 * `guest-bench list` prints each test's name and kind, `guest-bench nothing` ends at once (forkexec runs it).
 */
#define _GNU_SOURCE
#include "bench.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int bench_self = -1, bench_has_tree;
static uint64_t seed = 88172645463325252ull;

uint64_t bench_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}
uint64_t bench_bits(double d)
{
    uint64_t u;
    memcpy(&u, &d, 8);
    return u;
}

static const struct bench_test *const sets[] = { bench_integer, bench_float, bench_vector, bench_memory, bench_kernel, bench_programs, bench_smp };

static void run_test(const struct bench_test *t)
{
    const char *lack = t->lacks ? t->lacks() : NULL;
    if (lack) {
        printf("BENCH-SKIP %s %s\n", t->name, lack);
        fflush(stdout);
        return;
    }
    printf("BENCH-START %s\n", t->name);
    fflush(stdout);
    struct outcome {
        uint64_t checksum;
        int64_t ns;
    } *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pid = fork();
    if (!pid) {
        if (t->flags & BENCH_ONE_CPU) {
            cpu_set_t one;
            CPU_ZERO(&one);
            CPU_SET(sched_getcpu(), &one);
            sched_setaffinity(0, sizeof one, &one);
        }
        if (t->prepare)
            t->prepare();
        if (t->program)
            bench_warm(t->program);
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        uint64_t r = t->program ? bench_program(t->program) : t->run();
        clock_gettime(CLOCK_MONOTONIC, &b);
        *shared = (struct outcome){ r, (b.tv_sec - a.tv_sec) * 1000000000ll + (b.tv_nsec - a.tv_nsec) };
        _exit(0);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status))
        printf("BENCH-FAIL %s signal %d\n", t->name, WTERMSIG(status));
    else if (status)
        printf("BENCH-FAIL %s status %d\n", t->name, WEXITSTATUS(status));
    else
        printf("BENCH %s %016llx %lld\n", t->name, (unsigned long long)shared->checksum, (long long)shared->ns);
    fflush(stdout);
    munmap(shared, 4096);
}

/* ---- the tree ---- */
static void copy_folder(const char *from, const char *to)
{
    DIR *dir = opendir(from);
    mkdir(to, 0755);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char in[512], out[512], chunk[65536];
        if (e->d_name[0] == '.')
            continue;
        snprintf(in, sizeof in, "%s/%s", from, e->d_name);
        snprintf(out, sizeof out, "%s/%s", to, e->d_name);
        int f = open(in, O_RDONLY), g = open(out, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        for (ssize_t n; (n = read(f, chunk, sizeof chunk)) > 0;)
            if (write(g, chunk, (size_t)n) != n)
                perror(out);
        close(f);
        close(g);
    }
    if (dir)
        closedir(dir);
}
static int enter(const char *tree, const char *work)
{
    char path[512], to[512];
    /* the mounts are ours alone and go with us */
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
        if (errno != EINVAL) /* an initramfs is no mount that could be private; nothing need be */
            return -1;
    }
    snprintf(path, sizeof path, "%s/tmp", tree);
    if (mount("tmpfs", path, "tmpfs", 0, NULL))
        return -1;
    snprintf(to, sizeof to, "%s/tmp/work", tree);
    copy_folder(work, to);
    snprintf(path, sizeof path, "%s/dev", tree);
    if (mount("/dev", path, NULL, MS_BIND, NULL))
        return -1;
    snprintf(path, sizeof path, "%s/proc", tree);
    if (mount("proc", path, "proc", 0, NULL))
        return -1;
    if (chroot(tree) || chdir("/"))
        return -1;
    bench_has_tree = 1;
    return 0;
}

/* ---- how much of the guest's memory is in use ---- */
static long memory_free(void)
{
    char line[128];
    long kib = 0;
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof line, f) && sscanf(line, "MemFree: %ld", &kib) != 1)
        ;
    if (f)
        fclose(f);
    return kib;
}
static int memory(const char *when, long size)
{
    if (!strcmp(when, "full")) { /* use nearly all: what earlier tests left free but touched is in use again */
        long want = memory_free() - 96 * 1024;
        if (want > 0) {
            char *p = mmap(NULL, (size_t)want << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            for (size_t i = 0; p != MAP_FAILED && i < (size_t)want << 10; i += 4096)
                p[i] = 1;
        }
    }
    printf("BENCH-MEMORY %s %ld\n", when, size - memory_free());
    fflush(stdout);
    sleep(1);
    return 0;
}

static int listed(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = list; (p = strstr(p, name)); p++)
        if ((p == list || p[-1] == ',') && (p[n] == ',' || !p[n]))
            return 1;
    return 0;
}
int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "nothing"))
        return 0;
    if (argc > 1 && !strcmp(argv[1], "list")) {
        for (size_t s = 0; s < sizeof sets / sizeof *sets; s++)
            for (const struct bench_test *t = sets[s]; t->name; t++)
                printf("%s %s\n", t->name, t->kind);
        return 0;
    }
    if (argc == 4 && !strcmp(argv[1], "memory"))
        return memory(argv[2], atol(argv[3]));
    bench_self = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    int i = 1;
    if (argc > 4 && !strcmp(argv[1], "--root")) {
        if (enter(argv[2], argv[4]))
            printf("BENCH-NOTE cannot enter %s: %s\n", argv[2], strerror(errno));
        i = 5;
    }
    if (i != argc - 1) {
        fprintf(stderr, "usage: guest-bench [--root TREE --work FOLDER] NAME,NAME... | list | nothing | memory WHEN KIB\n");
        return 2;
    }
    for (size_t s = 0; s < sizeof sets / sizeof *sets; s++)
        for (const struct bench_test *t = sets[s]; t->name; t++)
            if (listed(argv[i], t->name))
                run_test(t);
    return 0;
}
