/* guest-bench.c - the benchmark's guest program: one static binary, run natively, under QEMU and under each engine of doppel.
 *
 * Each test does fixed work and prints "name checksum nanoseconds"; the checksum must be equal everywhere. The kinds of work are those
 * whose cost differs most between engines. Usage: guest-bench [NAME...].
 */
#define _GNU_SOURCE
#include <emmintrin.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t seed;
static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}
#define NOINLINE __attribute__((noinline))

/* ---- integer ---- */
static uint64_t sieve(void)
{
    enum { N = 2000000 };
    uint8_t *composite = calloc(N, 1);
    uint64_t sum = 0;
    for (unsigned i = 2; i < N; i++) {
        if (composite[i])
            continue;
        sum += i;
        for (unsigned j = i * 2; j < N; j += i)
            composite[j] = 1;
    }
    free(composite);
    return sum;
}
static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}
static uint64_t sort(void)
{
    enum { N = 120000 };
    uint32_t *v = malloc(N * sizeof *v);
    for (int i = 0; i < N; i++)
        v[i] = (uint32_t)next_random();
    qsort(v, N, sizeof *v, compare);
    uint64_t sum = 0;
    for (int i = 0; i < N; i++)
        sum = sum * 31 + v[i];
    free(v);
    return sum;
}
static uint64_t crc(void)
{
    uint32_t table[256], c = ~0u;
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t x = i;
        for (int k = 0; k < 8; k++)
            x = x >> 1 ^ (x & 1 ? 0xedb88320u : 0);
        table[i] = x;
    }
    static uint8_t data[65536];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)next_random();
    for (int round = 0; round < 120; round++)
        for (size_t i = 0; i < sizeof data; i++)
            c = table[(c ^ data[i]) & 255] ^ c >> 8;
    return c;
}
static uint64_t hash4m(void) /* random places of 4 MiB: TLB */
{
    enum { N = 1 << 19 };
    uint64_t *v = calloc(N, 8), sum = 0;
    for (int i = 0; i < 4000000; i++) {
        uint64_t *p = &v[next_random() % N];
        sum += *p;
        *p += (uint64_t)i;
    }
    free(v);
    return sum;
}
static NOINLINE unsigned fib(unsigned n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
static uint64_t calls(void) { return fib(32); }
static uint64_t bytecode(void) /* indirect jumps: a small stack machine */
{
    static const uint8_t program[] = { 0, 1, 2, 3, 4, 1, 5, 2, 0, 6, 3, 1, 4, 5, 6, 7 };
    static void *const op[] = { &&push, &&add, &&mul, &&xor, &&shift, &&swap, &&dup, &&loop };
    uint64_t stack[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, acc = 1;
    unsigned pc = 0, count = 600000, sp = 3;
#define NEXT goto *op[program[pc++]]
    NEXT;
push: stack[++sp & 7] = acc; NEXT;
add: acc += stack[sp & 7]; NEXT;
mul: acc = acc * 0x9e3779b97f4a7c15ull + 1; NEXT;
xor: acc ^= stack[(sp - 1) & 7]; NEXT;
shift: acc = acc << 7 | acc >> 57; NEXT;
swap: { uint64_t t = stack[sp & 7]; stack[sp & 7] = acc; acc = t; } NEXT;
dup: stack[(sp + 1) & 7] = acc; sp--; NEXT;
loop: pc = 0; if (--count) NEXT;
    return acc;
}
static uint64_t divide(void)
{
    uint64_t sum = 0;
    for (uint64_t i = 1; i < 2000000; i++)
        sum += (sum ^ 0x123456789abcdefull) / i + next_random() % i;
    return sum;
}
struct node { struct node *next; uint64_t pad[7]; };
static uint64_t chase(void)
{
    enum { N = 1 << 14 };
    struct node *v = malloc(N * sizeof *v);
    uint32_t *order = malloc(N * 4);
    for (uint32_t i = 0; i < N; i++)
        order[i] = i;
    for (uint32_t i = N - 1; i; i--) {
        uint32_t j = (uint32_t)(next_random() % (i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (uint32_t i = 0; i < N; i++)
        v[order[i]].next = &v[order[(i + 1) % N]];
    struct node *p = v;
    for (int i = 0; i < 3000000; i++)
        p = p->next;
    uint64_t r = (uint64_t)(p - v);
    free(order);
    free(v);
    return r;
}

/* ---- floating point ---- */
static uint64_t bits_of(double d) { uint64_t u; memcpy(&u, &d, 8); return u; }
static uint64_t matmul(void)
{
    enum { N = 120 };
    static double a[N][N], b[N][N], c[N][N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = i + j * 0.5;
            b[i][j] = i - j * 0.25;
        }
    for (int round = 0; round < 4; round++)
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double s = c[i][j];
                for (int k = 0; k < N; k++)
                    s += a[i][k] * b[k][j];
                c[i][j] = s;
            }
    return bits_of(c[17][31]);
}
static uint64_t matmul_sse(void)
{
    enum { N = 128 };
    static float a[N][N] __attribute__((aligned(16))), b[N][N] __attribute__((aligned(16))), c[N][N] __attribute__((aligned(16)));
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (float)(i + j);
            b[i][j] = (float)(i - j);
        }
    for (int round = 0; round < 8; round++)
        for (int i = 0; i < N; i++)
            for (int k = 0; k < N; k++) {
                __m128 x = _mm_set1_ps(a[i][k]);
                for (int j = 0; j < N; j += 4)
                    _mm_store_ps(&c[i][j], _mm_add_ps(_mm_load_ps(&c[i][j]), _mm_mul_ps(x, _mm_load_ps(&b[k][j]))));
            }
    return bits_of(c[11][13] + c[77][100]);
}
static uint64_t nbody(void)
{
    double x[5][3], v[5][3], m[5];
    for (int i = 0; i < 5; i++) {
        m[i] = 1.0 / (i + 1);
        for (int k = 0; k < 3; k++) {
            x[i][k] = i * 1.5 + k;
            v[i][k] = (k - 1) * 0.1 * i;
        }
    }
    for (int step = 0; step < 40000; step++) {
        for (int i = 0; i < 5; i++)
            for (int j = i + 1; j < 5; j++) {
                double d[3], r2 = 0.01;
                for (int k = 0; k < 3; k++) {
                    d[k] = x[i][k] - x[j][k];
                    r2 += d[k] * d[k];
                }
                double f = 0.001 / (r2 * sqrt(r2));
                for (int k = 0; k < 3; k++) {
                    v[i][k] -= d[k] * m[j] * f;
                    v[j][k] += d[k] * m[i] * f;
                }
            }
        for (int i = 0; i < 5; i++)
            for (int k = 0; k < 3; k++)
                x[i][k] += 0.001 * v[i][k];
    }
    return bits_of(x[0][0] + x[4][2]);
}
static uint64_t x87(void)
{
    long double s = 0, x = 1;
    for (int i = 1; i < 1000000; i++) {
        x = x * 1.0000001L + 0.5L / i;
        s += x;
    }
    return bits_of((double)s);
}
static uint64_t sse_int(void)
{
    __m128i s = _mm_set1_epi32(1), k = _mm_set_epi32(3, 5, 7, 11);
    for (int i = 0; i < 2000000; i++) {
        s = _mm_add_epi32(s, _mm_shuffle_epi32(k, 0x4e));
        k = _mm_xor_si128(_mm_slli_epi32(k, 3), _mm_sub_epi16(s, k));
        s = _mm_unpacklo_epi8(s, _mm_srli_epi64(k, 9));
    }
    uint64_t r[2];
    _mm_storeu_si128((__m128i *)r, _mm_add_epi64(s, k));
    return r[0] ^ r[1];
}

/* ---- memory and strings ---- */
static uint64_t strings(void)
{
    static char text[4096], copy[4096];
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof text - 1; i++)
        text[i] = (char)('a' + i % 26);
    for (int i = 0; i < 6000; i++) {
        text[i % 4000] = 'z';
        strcpy(copy, text);
        sum += strlen(copy) + (size_t)(strchr(copy, 'z') - copy) + (memcmp(copy, text, sizeof copy) == 0) + (strstr(copy, "wxyzb") != NULL);
    }
    return sum;
}
static uint64_t copy(void)
{
    enum { N = 4 << 20 };
    uint8_t *a = malloc(N), *b = malloc(N);
    memset(a, 7, N);
    for (int i = 0; i < 16; i++) {
        memcpy(b, a, N);
        a[i * 1000] = (uint8_t)i;
        memmove(a + 1, b, N - 1);
    }
    uint64_t r = a[12345] + b[54321];
    free(a);
    free(b);
    return r;
}

/* ---- the kernel ---- */
static uint64_t getppids(void)
{
    uint64_t n = 0;
    for (int i = 0; i < 100000; i++)
        n += syscall(SYS_getppid) >= 0;
    return n;
}
static uint64_t clocks(void)
{
    struct timespec t;
    uint64_t n = 0;
    for (int i = 0; i < 200000; i++)
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
    for (int i = 0; i < 10000; i++) {
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
    for (int i = 0; i < 20000; i++)
        raise(SIGUSR1);
    return (uint64_t)signals;
}
static uint64_t protect(void)
{
    char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 20000; i++) {
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
    for (int round = 0; round < 6; round++) {
        char *p = mmap(NULL, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (size_t i = 0; i < 16 << 20; i += 4096)
            n += (uint64_t)++p[i];
        munmap(p, 16 << 20);
    }
    return n;
}
static uint64_t forks(void)
{
    uint64_t n = 0;
    for (int i = 0; i < 150; i++) {
        pid_t p = fork();
        if (!p) {
            char *const argv[] = { "guest-bench", "nothing", NULL };
            execv("/proc/self/exe", argv);
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

static const struct { const char *name; uint64_t (*run)(void); } tests[] = {
    { "sieve", sieve }, { "sort", sort }, { "crc", crc }, { "hash4m", hash4m }, { "calls", calls }, { "bytecode", bytecode }, { "divide", divide }, { "chase", chase },
    { "matmul", matmul }, { "matmul_sse", matmul_sse }, { "nbody", nbody }, { "x87", x87 }, { "sse_int", sse_int }, { "strings", strings }, { "copy", copy },
    { "getppid", getppids }, { "clock", clocks }, { "readwrite", read_write }, { "signals", signal_test }, { "mprotect", protect }, { "touch", touch },
    { "forkexec", forks }, { "pipe", pipes }, { "selfmod", self_modify },
};

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "nothing"))
        return 0;
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        int wanted = argc < 2;
        for (int k = 1; k < argc; k++)
            wanted |= !strcmp(argv[k], tests[i].name);
        if (!wanted)
            continue;
        struct timespec a, b;
        seed = 88172645463325252ull;
        clock_gettime(CLOCK_MONOTONIC, &a);
        uint64_t r = tests[i].run();
        clock_gettime(CLOCK_MONOTONIC, &b);
        printf("BENCH %s %016llx %lld\n", tests[i].name, (unsigned long long)r, (long long)(b.tv_sec - a.tv_sec) * 1000000000ll + (b.tv_nsec - a.tv_nsec));
        fflush(stdout);
    }
    return 0;
}
