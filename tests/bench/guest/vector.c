/* vector.c - SSE, AVX2, FMA, AES, SHA and PCLMULQDQ by intrinsics. What the guest's processor does not have is skipped and said. */
#include "bench.h"
#include <cpuid.h>
#include <immintrin.h>

enum { M = 128 };
static float a[M][M] __attribute__((aligned(32))), b[M][M] __attribute__((aligned(32))), c[M][M] __attribute__((aligned(32)));
static void fill(void)
{
    for (int i = 0; i < M; i++)
        for (int j = 0; j < M; j++) {
            a[i][j] = (float)(i + j) / 16;
            b[i][j] = (float)(i - j) / 16;
            c[i][j] = 0;
        }
}
static uint64_t matmul_sse(void)
{
    fill();
    for (int round = 0; round < 48; round++)
        for (int i = 0; i < M; i++)
            for (int k = 0; k < M; k++) {
                __m128 x = _mm_set1_ps(a[i][k]);
                for (int j = 0; j < M; j += 4)
                    _mm_store_ps(&c[i][j], _mm_add_ps(_mm_load_ps(&c[i][j]), _mm_mul_ps(x, _mm_load_ps(&b[k][j]))));
            }
    return bench_bits(c[11][13] + c[77][100]);
}
__attribute__((target("avx2,fma"))) static uint64_t matmul_fma(void)
{
    fill();
    for (int round = 0; round < 64; round++)
        for (int i = 0; i < M; i++)
            for (int k = 0; k < M; k++) {
                __m256 x = _mm256_set1_ps(a[i][k]);
                for (int j = 0; j < M; j += 8)
                    _mm256_store_ps(&c[i][j], _mm256_fmadd_ps(x, _mm256_load_ps(&b[k][j]), _mm256_load_ps(&c[i][j])));
            }
    return bench_bits(c[11][13] + c[77][100]);
}
__attribute__((target("avx2"))) static uint64_t mandelbrot_avx(void) /* four points at a time, in registers */
{
    uint64_t sum = 0;
    const __m256d four = _mm256_set1_pd(4);
    for (int y = 0; y < 320; y++)
        for (int x = 0; x < 320; x += 4) {
            __m256d cr = _mm256_set_pd((x + 3) / 160.0 - 1.5, (x + 2) / 160.0 - 1.5, (x + 1) / 160.0 - 1.5, x / 160.0 - 1.5);
            __m256d ci = _mm256_set1_pd(y / 160.0 - 1.0), r = _mm256_setzero_pd(), i = r, n = r;
            for (int k = 0; k < 400; k++) {
                __m256d r2 = _mm256_mul_pd(r, r), i2 = _mm256_mul_pd(i, i);
                __m256d inside = _mm256_cmp_pd(_mm256_add_pd(r2, i2), four, _CMP_LT_OQ);
                if (!_mm256_movemask_pd(inside))
                    break;
                n = _mm256_add_pd(n, _mm256_and_pd(inside, _mm256_set1_pd(1)));
                i = _mm256_add_pd(_mm256_mul_pd(_mm256_add_pd(r, r), i), ci);
                r = _mm256_add_pd(_mm256_sub_pd(r2, i2), cr);
            }
            double out[4];
            _mm256_storeu_pd(out, n);
            for (int k = 0; k < 4; k++)
                sum = sum * 7 + (uint64_t)out[k];
        }
    return sum;
}
static uint64_t sse_int(void)
{
    __m128i s = _mm_set1_epi32(1), k = _mm_set_epi32(3, 5, 7, 11);
    for (int i = 0; i < 12000000; i++) {
        s = _mm_add_epi32(s, _mm_shuffle_epi32(k, 0x4e));
        k = _mm_xor_si128(_mm_slli_epi32(k, 3), _mm_sub_epi16(s, k));
        s = _mm_unpacklo_epi8(s, _mm_srli_epi64(k, 9));
    }
    uint64_t r[2];
    _mm_storeu_si128((__m128i *)r, _mm_add_epi64(s, k));
    return r[0] ^ r[1];
}
static uint64_t sse_filter(void) /* a picture's rows averaged and thresholded: loads, stores and bytes */
{
    enum { W = 512, H = 128 };
    static uint8_t in[H][W] __attribute__((aligned(16))), out[H][W] __attribute__((aligned(16)));
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++)
            in[y][x] = (uint8_t)bench_random();
    uint64_t sum = 0;
    for (int round = 0; round < 3000; round++) {
        for (int y = 1; y < H - 1; y++)
            for (int x = 0; x < W; x += 16) {
                __m128i v = _mm_avg_epu8(_mm_load_si128((void *)&in[y - 1][x]), _mm_load_si128((void *)&in[y + 1][x]));
                v = _mm_avg_epu8(v, _mm_load_si128((void *)&in[y][x]));
                __m128i big = _mm_cmpgt_epi8(v, _mm_set1_epi8(20));
                _mm_store_si128((void *)&out[y][x], _mm_or_si128(_mm_and_si128(big, v), _mm_andnot_si128(big, _mm_subs_epu8(v, _mm_set1_epi8(9)))));
            }
        for (int x = 0; x < W; x += 16) {
            __m128i s = _mm_sad_epu8(_mm_load_si128((void *)&out[round % (H - 2) + 1][x]), _mm_setzero_si128());
            sum += (uint64_t)_mm_cvtsi128_si64(s) + (uint64_t)_mm_movemask_epi8(_mm_load_si128((void *)&out[H / 2][x]));
            in[round % H][x] ^= (uint8_t)sum;
        }
    }
    return sum;
}
__attribute__((target("avx2"))) static uint64_t avx_int(void)
{
    __m256i s = _mm256_set1_epi32(1), k = _mm256_set_epi32(3, 5, 7, 11, 13, 17, 19, 23);
    for (int i = 0; i < 8000000; i++) {
        s = _mm256_add_epi32(s, _mm256_shuffle_epi32(k, 0x4e));
        k = _mm256_xor_si256(_mm256_slli_epi32(k, 3), _mm256_sub_epi16(s, k));
        s = _mm256_permute4x64_epi64(_mm256_unpacklo_epi8(s, _mm256_srli_epi64(k, 9)), 0x4e);
    }
    uint64_t r[4];
    _mm256_storeu_si256((__m256i *)r, _mm256_add_epi64(s, k));
    return r[0] ^ r[1] ^ r[2] ^ r[3];
}
__attribute__((target("aes"))) static uint64_t aes(void) /* counter mode, ten rounds, over blocks in the first-level cache */
{
    static __m128i block[256];
    __m128i key[11], x = _mm_set_epi64x((long long)bench_random(), (long long)bench_random());
    for (int i = 0; i < 11; i++)
        key[i] = x = _mm_add_epi64(_mm_shuffle_epi32(x, 0x39), _mm_set1_epi32(0x1b2c3d + i));
    for (int n = 0; n < 9000; n++)
        for (int i = 0; i < 256; i += 4) {
            __m128i v[4];
            for (int j = 0; j < 4; j++)
                v[j] = _mm_xor_si128(_mm_set_epi64x(n, i + j), key[0]);
            for (int r = 1; r < 10; r++)
                for (int j = 0; j < 4; j++)
                    v[j] = _mm_aesenc_si128(v[j], key[r]);
            for (int j = 0; j < 4; j++)
                block[i + j] = _mm_xor_si128(block[i + j], _mm_aesenclast_si128(v[j], key[10]));
        }
    uint64_t r = 0;
    for (int i = 0; i < 256; i++)
        r = r * 31 + (uint64_t)_mm_cvtsi128_si64(block[i]);
    return r;
}
__attribute__((target("sha,sse4.1"))) static uint64_t sha(void) /* the instructions of SHA-256 in their rhythm; the constants are not the standard's */
{
    __m128i state0 = _mm_set_epi32(1, 2, 3, 4), state1 = _mm_set_epi32(5, 6, 7, 8), m[4];
    for (int i = 0; i < 4; i++)
        m[i] = _mm_set_epi64x((long long)bench_random(), (long long)bench_random());
    for (int n = 0; n < 160000; n++)
        for (int i = 0; i < 16; i++) {
            __m128i k = _mm_add_epi32(m[i & 3], _mm_set1_epi32((int)(0x428a2f98u * (unsigned)i)));
            state1 = _mm_sha256rnds2_epu32(state1, state0, k);
            state0 = _mm_sha256rnds2_epu32(state0, state1, _mm_shuffle_epi32(k, 0x0e));
            __m128i t = _mm_add_epi32(_mm_sha256msg1_epu32(m[i & 3], m[(i + 1) & 3]), _mm_alignr_epi8(m[(i + 3) & 3], m[(i + 2) & 3], 4));
            m[i & 3] = _mm_sha256msg2_epu32(t, m[(i + 3) & 3]);
        }
    return (uint64_t)_mm_cvtsi128_si64(state0) ^ (uint64_t)_mm_cvtsi128_si64(state1);
}
__attribute__((target("pclmul"))) static uint64_t pclmul(void) /* a checksum folded over 16 KiB */
{
    static __m128i data[1024];
    for (int i = 0; i < 1024; i++)
        data[i] = _mm_set_epi64x((long long)bench_random(), (long long)bench_random());
    __m128i x[4] = { data[0], data[1], data[2], data[3] };
    const __m128i k = _mm_set_epi64x(0x1751997d0ll, 0x0ccaa009ell);
    for (int n = 0; n < 9000; n++)
        for (int i = 0; i < 1024; i += 4)
            for (int j = 0; j < 4; j++)
                x[j] = _mm_xor_si128(data[i + j], _mm_xor_si128(_mm_clmulepi64_si128(x[j], k, 0x00), _mm_clmulepi64_si128(x[j], k, 0x11)));
    return (uint64_t)_mm_cvtsi128_si64(_mm_xor_si128(_mm_xor_si128(x[0], x[1]), _mm_xor_si128(x[2], x[3])));
}

static const char *no_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 0 : "no avx2"; }
static int leaf(unsigned n, unsigned which, unsigned bit) /* which: 1 EBX, 2 ECX */
{
    unsigned r[4] = { 0 };
    return __get_cpuid_count(n, 0, &r[0], &r[1], &r[2], &r[3]) && (r[which] >> bit & 1);
}
static const char *no_aes(void) { return leaf(1, 2, 25) ? 0 : "no aes"; }
static const char *no_pclmul(void) { return leaf(1, 2, 1) ? 0 : "no pclmulqdq"; }
static const char *no_sha(void) { return leaf(7, 1, 29) ? 0 : "no sha"; }

const struct bench_test bench_vector[] = {
    { .name = "matmul_sse", .kind = "float", .run = matmul_sse },
    { .name = "matmul_fma", .kind = "float", .run = matmul_fma, .lacks = no_avx2 },
    { .name = "mandel_avx", .kind = "float", .run = mandelbrot_avx, .lacks = no_avx2 },
    { .name = "sse_int", .kind = "vector", .run = sse_int },
    { .name = "sse_filter", .kind = "vector", .run = sse_filter },
    { .name = "avx_int", .kind = "vector", .run = avx_int, .lacks = no_avx2 },
    { .name = "aes", .kind = "crypto", .run = aes, .lacks = no_aes },
    { .name = "sha", .kind = "crypto", .run = sha, .lacks = no_sha },
    { .name = "pclmul", .kind = "vector", .run = pclmul, .lacks = no_pclmul },
    { 0 },
};
