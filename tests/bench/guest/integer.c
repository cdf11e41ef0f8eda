/* integer.c - integer work, calls and indirect jumps, in the processor's first-level caches but for hash4m. */
#include "bench.h"
#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

static uint64_t sieve(void)
{
    enum { N = 2000000 };
    uint8_t *composite = malloc(N);
    uint64_t sum = 0;
    for (int round = 0; round < 4; round++) {
        memset(composite, 0, N);
        for (unsigned i = 2; i < N; i++) {
            if (composite[i])
                continue;
            sum += i;
            for (unsigned j = i * 2; j < N; j += i)
                composite[j] = 1;
        }
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
    enum { N = 240000 };
    uint32_t *v = malloc(N * sizeof *v);
    for (int i = 0; i < N; i++)
        v[i] = (uint32_t)bench_random();
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
        data[i] = (uint8_t)bench_random();
    for (int round = 0; round < 160; round++)
        for (size_t i = 0; i < sizeof data; i++)
            c = table[(c ^ data[i]) & 255] ^ c >> 8;
    return c;
}
static uint64_t hash4m(void) /* random places of 4 MiB: more pages than a TLB holds */
{
    enum { N = 1 << 19 };
    uint64_t *v = calloc(N, 8), sum = 0;
    for (int i = 0; i < 4000000; i++) {
        uint64_t *p = &v[bench_random() % N];
        sum += *p;
        *p += (uint64_t)i;
    }
    free(v);
    return sum;
}
static uint64_t divide(void)
{
    uint64_t sum = 0;
    for (uint64_t i = 1; i < 4000000; i++)
        sum += (sum ^ 0x123456789abcdefull) / i + bench_random() % i;
    return sum;
}
static uint64_t flags(void) /* carries and conditions: a 1024-bit number added, shifted and compared */
{
    enum { N = 16 };
    uint64_t a[N], b[N], count = 0;
    for (int i = 0; i < N; i++) {
        a[i] = bench_random();
        b[i] = bench_random();
    }
    for (int round = 0; round < 600000; round++) {
        unsigned char carry = 0;
        for (int i = 0; i < N; i++)
            carry = _addcarry_u64(carry, a[i], b[i], (unsigned long long *)&a[i]);
        count += carry;
        if (a[N - 1] > b[N - 1])
            a[0] ^= a[N / 2] >> 7;
        else
            b[round % N] = b[round % N] << 1 | b[round % N] >> 63;
    }
    return count ^ a[3];
}
static NOINLINE unsigned fib(unsigned n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
static uint64_t calls(void) { return fib(35); }
static uint64_t bytecode(void) /* a small stack machine: one indirect jump per instruction */
{
    static const uint8_t program[] = { 0, 1, 2, 3, 4, 1, 5, 2, 0, 6, 3, 1, 4, 5, 6, 7 };
    static void *const op[] = { &&push, &&add, &&mul, &&xor, &&shift, &&swap, &&dup, &&loop };
    uint64_t stack[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, acc = 1;
    unsigned pc = 0, count = 1200000, sp = 3;
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
static NOINLINE uint64_t method_0(uint64_t x) { return x + 1; }
static NOINLINE uint64_t method_1(uint64_t x) { return x * 3; }
static NOINLINE uint64_t method_2(uint64_t x) { return x ^ x >> 3; }
static NOINLINE uint64_t method_3(uint64_t x) { return x << 5 | x >> 59; }
static uint64_t methods(void) /* calls through pointers, in an order no predictor knows by heart */
{
    static uint64_t (*volatile const table[])(uint64_t) = { method_0, method_1, method_2, method_3 };
    static uint8_t order[4096];
    uint64_t x = 1;
    for (size_t i = 0; i < sizeof order; i++)
        order[i] = (uint8_t)(bench_random() >> 20 & 3);
    for (int i = 0; i < 6000000; i++)
        x = table[order[i & 4095]](x);
    return x;
}

const struct bench_test bench_integer[] = {
    { .name = "sieve", .kind = "integer", .run = sieve },     { .name = "sort", .kind = "integer", .run = sort },
    { .name = "crc", .kind = "integer", .run = crc },         { .name = "hash4m", .kind = "hash", .run = hash4m },
    { .name = "divide", .kind = "integer", .run = divide },   { .name = "flags", .kind = "integer", .run = flags },
    { .name = "calls", .kind = "call", .run = calls },       { .name = "methods", .kind = "call", .run = methods },
    { .name = "bytecode", .kind = "indirect", .run = bytecode }, { 0 },
};
