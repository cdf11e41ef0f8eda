/* smp.c - the same work by one thread and by two: two processors should need half the time. */
#include "bench.h"
#include <pthread.h>
#include <unistd.h>

enum { SHARES = 4 };
struct job {
    int shares;
    uint64_t result[SHARES];
};
static void *work(void *data)
{
    struct job *j = data;
    for (int n = 0; n < j->shares; n++) {
        uint64_t x = 88172645463325252ull, sum = 0;
        double f = 1;
        for (int i = 0; i < 25000000; i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            sum += x >> 11;
            f = f * 1.0000001 + 0.25;
        }
        j->result[n] = sum ^ bench_bits(f);
    }
    return 0;
}
static uint64_t run(int threads)
{
    struct job job[SHARES] = { { 0 } };
    pthread_t t[SHARES];
    uint64_t sum = 0;
    for (int k = 0; k < threads; k++) {
        job[k].shares = SHARES / threads;
        if (pthread_create(&t[k], 0, work, &job[k]))
            return 0;
    }
    for (int k = 0; k < threads; k++) {
        pthread_join(t[k], 0);
        for (int n = 0; n < job[k].shares; n++)
            sum = sum * 31 + job[k].result[n];
    }
    return sum;
}
static uint64_t one(void) { return run(1); }
static uint64_t two(void) { return run(2); }
static const char *no_second(void) { return sysconf(_SC_NPROCESSORS_ONLN) >= 2 ? 0 : "one processor"; }

const struct bench_test bench_smp[] = {
    { .name = "threads_1", .kind = "smp", .run = one, .lacks = no_second },
    { .name = "threads_2", .kind = "smp", .run = two, .lacks = no_second },
    { 0 },
};
