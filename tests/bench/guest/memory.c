/* memory.c - string functions of the C library (which picks by the processor it sees), copies, chasing pointers. */
#include "bench.h"
#include <stdlib.h>
#include <string.h>

static uint64_t strings(void)
{
    static char text[4096], other[4096];
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof text - 1; i++)
        text[i] = (char)('a' + i % 26);
    for (int i = 0; i < 40000; i++) {
        text[i % 4000] = 'z';
        strcpy(other, text);
        sum += strlen(other) + (size_t)(strchr(other, 'z') - other) + (memcmp(other, text, sizeof other) == 0) + (strstr(other, "wxyzb") != NULL);
    }
    return sum;
}
static uint64_t short_strings(void) /* words of a few letters: the calls cost as much as the work */
{
    static char word[256][16];
    uint64_t sum = 0;
    for (int i = 0; i < 256; i++) {
        size_t n = 3 + bench_random() % 12;
        for (size_t k = 0; k < n; k++)
            word[i][k] = (char)('a' + bench_random() % 3);
    }
    for (int i = 0; i < 1000000; i++) {
        const char *a = word[i & 255], *b = word[(i * 7) & 255];
        char joined[32];
        memcpy(joined, a, 16);
        strcat(joined, b);
        sum += strlen(joined) + (strcmp(a, b) < 0);
    }
    return sum;
}
static uint64_t copy(void)
{
    enum { N = 4 << 20 };
    uint8_t *a = malloc(N), *b = malloc(N);
    memset(a, 7, N);
    for (int i = 0; i < 24; i++) {
        memcpy(b, a, N);
        a[i * 1000] = (uint8_t)i;
        memmove(a + 1, b, N - 1);
    }
    uint64_t r = a[12345] + b[54321];
    free(a);
    free(b);
    return r;
}
static uint64_t rep_strings(void) /* rep movs and rep stos, as kernels use them */
{
    static uint8_t a[65536], b[65536];
    for (int i = 0; i < 6000; i++) {
        void *d = b, *s = a;
        size_t n = sizeof a;
        __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(i) : "memory");
        d = a + (i & 63);
        s = b + 64;
        n = (sizeof a - 128) / 8;
        __asm__ volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
    }
    return a[777] + b[999];
}
struct node {
    struct node *next;
    uint64_t pad[7];
};
static uint64_t chase(void)
{
    enum { N = 1 << 14 };
    struct node *v = malloc(N * sizeof *v);
    uint32_t *order = malloc(N * 4);
    for (uint32_t i = 0; i < N; i++)
        order[i] = i;
    for (uint32_t i = N - 1; i; i--) {
        uint32_t j = (uint32_t)(bench_random() % (i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (uint32_t i = 0; i < N; i++)
        v[order[i]].next = &v[order[(i + 1) % N]];
    struct node *p = v;
    for (int i = 0; i < 4000000; i++)
        p = p->next;
    uint64_t r = (uint64_t)(p - v);
    free(order);
    free(v);
    return r;
}

const struct bench_test bench_memory[] = {
    { .name = "strings", .kind = "string", .run = strings },      { .name = "words", .kind = "string", .run = short_strings },
    { .name = "copy", .kind = "memory", .run = copy },            { .name = "rep", .kind = "memory", .run = rep_strings },
    { .name = "chase", .kind = "memory", .run = chase },          { 0 },
};
