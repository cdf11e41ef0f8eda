/* kernel.c - what the guest's kernel does for a program, and code that changes itself. */
#define _GNU_SOURCE
#include "bench.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t getppids(void)
{
    uint64_t n = 0;
    for (int i = 0; i < 150000; i++)
        n += syscall(SYS_getppid) >= 0;
    return n;
}
static uint64_t clocks(void)
{
    struct timespec t;
    uint64_t n = 0;
    for (int i = 0; i < 800000; i++)
        n += clock_gettime(CLOCK_MONOTONIC, &t) == 0;
    return n;
}
static uint64_t read_write(void)
{
    static char page[4096];
    char name[] = "/tmp/doppel-bench-XXXXXX";
    int f = mkstemp(name);
    uint64_t n = 0;
    unlink(name);
    for (int i = 0; i < 20000; i++) {
        n += (uint64_t)pwrite(f, page, sizeof page, (i % 64) * 4096);
        n += (uint64_t)pread(f, page, sizeof page, (i % 64) * 4096);
    }
    close(f);
    return n;
}
static volatile sig_atomic_t signals;
static void on_signal(int s) { signals += s == SIGUSR1; }
static uint64_t signal_test(void)
{
    signal(SIGUSR1, on_signal);
    signals = 0;
    for (int i = 0; i < 15000; i++)
        raise(SIGUSR1);
    return (uint64_t)signals;
}
static uint64_t protect(void)
{
    char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 15000; i++) {
        p[0]++;
        mprotect(p, 4096, PROT_READ);
        mprotect(p, 4096, PROT_READ | PROT_WRITE);
    }
    uint64_t r = (uint8_t)p[0];
    munmap(p, 4096);
    return r;
}
static uint64_t touch(void)
{
    uint64_t n = 0;
    for (int round = 0; round < 4; round++) {
        char *p = mmap(NULL, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        madvise(p, 16 << 20, MADV_NOHUGEPAGE); /* a host and a guest differ in whether they use huge pages */
        for (size_t i = 0; i < 16 << 20; i += 4096)
            n += (uint64_t)++p[i];
        munmap(p, 16 << 20);
    }
    return n;
}
static uint64_t forks(void)
{
    uint64_t n = 0;
    for (int i = 0; i < 100; i++) {
        pid_t p = fork();
        if (!p) {
            char *const argv[] = { "guest-bench", "nothing", NULL };
            fexecve(bench_self, argv, (char *const[]){ NULL });
            _exit(1);
        }
        int status;
        waitpid(p, &status, 0);
        n += status == 0;
    }
    return n;
}
static uint64_t pipes(void)
{
    int a[2], b[2];
    char byte = 1;
    uint64_t n = 0;
    if (pipe(a) || pipe(b))
        return 0;
    pid_t p = fork();
    if (!p) {
        while (read(a[0], &byte, 1) == 1 && byte)
            if (write(b[1], &byte, 1) != 1)
                break;
        _exit(0);
    }
    for (int i = 0; i < 10000; i++)
        n += write(a[1], &byte, 1) == 1 && read(b[0], &byte, 1) == 1;
    byte = 0;
    n += write(a[1], &byte, 1) == 1;
    waitpid(p, NULL, 0);
    return n;
}
static uint64_t self_modify(void)
{
    uint8_t *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(p, "\xb8\0\0\0\0\xc3", 6); /* mov eax, imm32; ret */
    uint64_t sum = 0;
    for (uint32_t i = 0; i < 100000; i++) {
        memcpy(p + 1, &i, 4);
        sum += ((uint32_t(*)(void))p)();
    }
    munmap(p, 4096);
    return sum;
}

const struct bench_test bench_kernel[] = {
    { .name = "getppid", .kind = "syscall", .run = getppids },
    { .name = "clock", .kind = "syscall", .run = clocks },
    { .name = "readwrite", .kind = "kernel", .run = read_write },
    { .name = "signals", .kind = "kernel", .run = signal_test },
    { .name = "mprotect", .kind = "kernel", .run = protect },
    { .name = "touch", .kind = "kernel", .run = touch },
    { .name = "forkexec", .kind = "kernel", .run = forks, .flags = BENCH_ONE_CPU },
    { .name = "pipe", .kind = "kernel", .run = pipes, .flags = BENCH_ONE_CPU },
    { .name = "selfmod", .kind = "selfmod", .run = self_modify },
    { 0 },
};
