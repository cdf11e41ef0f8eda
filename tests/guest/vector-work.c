/* vector-work.c - processes that compute with YMM registers at the same time, while a signal handler and each other's time slices try to
 * lose their state. Prints a line for each: the same everywhere. Run on the host and in the guest by tests/guest/boot. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROCESSES = 4, ROUNDS = 400000 };
#define AVX2 __attribute__((target("avx2,fma")))

AVX2 static void spoil(int signal)
{
    (void)signal;
    __asm__ volatile("vpcmpeqd %%ymm0, %%ymm0, %%ymm0\n vmovdqa %%ymm0, %%ymm1\n vmovdqa %%ymm0, %%ymm2\n vmovdqa %%ymm0, %%ymm3\n vmovdqa "
                     "%%ymm0, %%ymm4\n"
                     "vmovdqa %%ymm0, %%ymm5\n vmovdqa %%ymm0, %%ymm6\n vmovdqa %%ymm0, %%ymm7\n vmovdqa %%ymm0, %%ymm15\n vzeroupper"
                     :
                     :
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm15");
}

AVX2 static uint64_t work(unsigned seed)
{
    static int table[256];
    __m256i a = _mm256_set1_epi32((int)seed), b = _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 8);
    __m256d f = _mm256_set1_pd(1.0 + seed * 1e-6);
    uint64_t hash = 1469598103934665603ull, word[8];

    for (unsigned i = 0; i < 256; i++)
        table[i] = (int)(i * 2654435761u + seed);
    for (unsigned r = 0; r < ROUNDS; r++) {
        a = _mm256_add_epi32(_mm256_mullo_epi32(a, b), _mm256_srlv_epi32(b, _mm256_set1_epi32(r & 7)));
        b = _mm256_permutevar8x32_epi32(_mm256_xor_si256(a, b), _mm256_setr_epi32(7, 0, 5, 2, 3, 6, 1, 4));
        b = _mm256_add_epi32(b, _mm256_i32gather_epi32(table, _mm256_and_si256(a, _mm256_set1_epi32(255)), 4));
        f = _mm256_fmadd_pd(f, _mm256_set1_pd(1.0000001), _mm256_setr_pd(0.1, 0.2, 0.3, 0.4));
        if (r % 4096 == 0)
            sched_yield();
    }
    _mm256_storeu_si256((__m256i *)word, _mm256_xor_si256(a, b));
    _mm256_storeu_pd((double *)(word + 4), f);
    for (unsigned i = 0; i < 8; i++)
        hash = (hash ^ word[i]) * 1099511628211ull;
    return hash;
}

int main(void)
{
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        puts("vector: none");
        return 0;
    }
    for (unsigned i = 0; i < PROCESSES; i++)
        if (fork() == 0) {
            struct itimerval tick = {{0, 3000}, {0, 3000}};
            char line[64];
            signal(SIGALRM, spoil);
            setitimer(ITIMER_REAL, &tick, NULL);
            int n = snprintf(line, sizeof line, "vector%u=%016llx\n", i, (unsigned long long)work(i + 1));
            return write(1, line, (size_t)n) != n;
        }
    int status, bad = 0;
    while (wait(&status) > 0)
        bad |= status;
    return bad != 0;
}
