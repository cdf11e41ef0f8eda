/* programs.c - Debian's own programs, with their shared libraries, from the tree the guest mounts and the native run enters. Their input is what stands in
 * tests/bench/work (in /tmp/work there) and files of the tree itself; their output makes the checksum.
 */
#define _GNU_SOURCE
#include "bench.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* A description: the programs (with their libraries) and files to have in the page cache before the clock starts (a folder means the files in it), NULL,
 * standard input or "", then argv, NULL. */
#define LIBC "/usr/lib/x86_64-linux-gnu/libc.so.6"
#define LIBM "/usr/lib/x86_64-linux-gnu/libm.so.6"
#define PY "/usr/lib/python3.11/"
#define CACHED "/__pycache__"
static const char *const zstd[] = { "/usr/bin/zstd", NULL, LIBC, "/usr/bin/zstd", "-5", "-c", "--single-thread", NULL };
static const char *const gzip[] = { "/usr/bin/gzip", NULL, LIBC, "/usr/bin/gzip", "-5", "-n", "-c", NULL };
static const char *const xz[] = { "/usr/bin/xz", NULL, LIBM, "/usr/bin/xz", "-1", "-c", "-T1", NULL };
static const char *const unxz[] = { "/usr/bin/xz", NULL, "/tmp/libc.xz", "/usr/bin/xz", "-d", "-c", NULL };
static const char *const python[] = { "/usr/bin/python3", PY CACHED, PY "encodings" CACHED, PY "collections" CACHED, PY "re" CACHED, PY "json" CACHED, NULL, "",
    "/usr/bin/python3", "-S", "/tmp/work/work.py", NULL };
static const char *const perl[] = { "/usr/bin/perl", NULL, "", "/usr/bin/perl", "/tmp/work/work.pl", NULL };
static const char *const lua[] = { "/usr/bin/lua5.4", NULL, "", "/usr/bin/lua5.4", "/tmp/work/work.lua", NULL };
static const char *const awk[] = { "/usr/bin/mawk", NULL, "/tmp/work/integer.c", "/usr/bin/mawk", "-f", "/tmp/work/work.awk", NULL };
static const char *const sqlite[] = { "/usr/bin/sqlite3", NULL, "/tmp/work/work.sql", "/usr/bin/sqlite3", "-batch", "-init", "/dev/null", ":memory:", NULL };
static const char *const gcc[] = { "/usr/bin/gcc", "/usr/lib/gcc/x86_64-linux-gnu/12/cc1", NULL, "", "/usr/bin/gcc", "-O2", "-S", "-I/tmp/work", "/tmp/work/kernel.c", "-o",
    "-", NULL };
static const char *const loop[] = { "/bin/dash", NULL, "", "/bin/dash", "/tmp/work/loop.sh", NULL };
static const char *const script[] = { "/bin/dash", "/usr/bin/expr", "/usr/bin/sed", "/usr/bin/cut", "/usr/bin/sort", NULL, "", "/bin/dash", "/tmp/work/script.sh", NULL };

static void read_all(const char *path)
{
    char chunk[65536];
    int f = open(path, O_RDONLY | O_CLOEXEC);
    while (f >= 0 && read(f, chunk, sizeof chunk) > 0)
        ;
    if (f >= 0)
        close(f);
}
/* A program and its libraries: the dynamic linker loads them, says their names and does not start the program. */
static void read_program(const char *path)
{
    char line[512], library[512];
    int p[2];
    read_all(path);
    if (pipe2(p, O_CLOEXEC))
        return;
    pid_t pid = fork();
    if (!pid) {
        dup2(p[1], 1);
        execle(path, path, (char *)NULL, (char *const[]){ "LD_TRACE_LOADED_OBJECTS=1", NULL });
        _exit(127);
    }
    close(p[1]);
    FILE *f = fdopen(p[0], "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, " %*s => %511s", library) == 1 || sscanf(line, " %511s", library) == 1)
            read_all(library);
    if (f)
        fclose(f);
    waitpid(pid, NULL, 0);
}
void bench_warm(const char *const *d)
{
    for (; *d; d++) {
        DIR *dir = opendir(*d);
        if (!dir) {
            read_program(*d);
            continue;
        }
        for (struct dirent *e; (e = readdir(dir));) {
            char path[512];
            snprintf(path, sizeof path, "%s/%s", *d, e->d_name);
            struct stat s;
            if (!stat(path, &s) && S_ISREG(s.st_mode))
                read_all(path);
        }
        closedir(dir);
    }
    if (*++d && **d)
        read_all(*d);
}

static void run(const char *input, const char *const *argv, int out)
{
    static const char *const environment[] = { "PATH=/usr/bin:/bin", "HOME=/tmp", "LC_ALL=C", "PYTHONHASHSEED=0", "PYTHONDONTWRITEBYTECODE=1", "PERL_HASH_SEED=0", NULL };
    int in = open(*input ? input : "/dev/null", O_RDONLY);
    if (in < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || chdir("/tmp"))
        _exit(126);
    execve(argv[0], (char *const *)argv, (char *const *)environment);
    _exit(127);
}
uint64_t bench_program(const char *const *d)
{
    while (*d)
        d++;
    const char *input = d[1];
    const char *const *argv = d + 2;
    int p[2];
    if (pipe2(p, O_CLOEXEC))
        return 0;
    pid_t pid = fork();
    if (!pid)
        run(input, argv, p[1]);
    close(p[1]);
    /* FNV-1a over eight bytes at a time: the hash should cost nothing beside the program */
    static uint64_t chunk[8192];
    uint64_t h = 0xcbf29ce484222325ull;
    size_t have = 0;
    for (ssize_t n; (n = read(p[0], (char *)chunk + have, sizeof chunk - have)) > 0;) {
        have += (size_t)n;
        size_t words = have / 8;
        for (size_t i = 0; i < words; i++)
            h = (h ^ chunk[i]) * 0x100000001b3ull;
        memmove(chunk, chunk + words, have %= 8);
    }
    for (size_t i = 0; i < have; i++)
        h = (h ^ ((uint8_t *)chunk)[i]) * 0x100000001b3ull;
    int status = 0;
    close(p[0]);
    waitpid(pid, &status, 0);
    if (status) {
        printf("BENCH-NOTE %s ended with wait status %d\n", argv[0], status);
        fflush(stdout);
        _exit(1);
    }
    return h;
}

/* unxz's input: what xz makes of the C library. */
static void make_xz(void)
{
    int f = open("/tmp/libc.xz", O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    static const char *const argv[] = { "/usr/bin/xz", "-0", "-c", "-T1", NULL };
    pid_t pid = fork();
    if (!pid)
        run(LIBC, argv, f);
    close(f);
    waitpid(pid, NULL, 0);
}

static const char *no_tree(void) { return bench_has_tree ? 0 : "no tree of Debian programs"; }
#define PROGRAM(n, k) .name = #n, .kind = k, .program = n, .lacks = no_tree
const struct bench_test bench_programs[] = {
    { PROGRAM(zstd, "compress") }, { PROGRAM(gzip, "compress") },
    { PROGRAM(xz, "compress") },   { PROGRAM(unxz, "compress"), .prepare = make_xz },
    { PROGRAM(python, "python") }, { PROGRAM(sqlite, "sqlite") },
    { PROGRAM(gcc, "compiler") },  { PROGRAM(perl, "language") },
    { PROGRAM(lua, "language") },    { PROGRAM(awk, "language") },
    { PROGRAM(loop, "shell") },    { PROGRAM(script, "shell"), .flags = BENCH_ONE_CPU },
    { 0 },
};
