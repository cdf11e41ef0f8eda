/* float.c - floating point: x87, and SSE2 scalar code as the compiler makes it. Vector code is in vector.c. */
#include "bench.h"
#include <math.h>
#include <string.h>

static uint64_t matmul(void)
{
    enum { N = 120 };
    static double a[N][N], b[N][N], c[N][N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = i + j * 0.5;
            b[i][j] = i - j * 0.25;
        }
    for (int round = 0; round < 16; round++)
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double s = c[i][j];
                for (int k = 0; k < N; k++)
                    s += a[i][k] * b[k][j];
                c[i][j] = s;
            }
    return bench_bits(c[17][31]);
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
    for (int step = 0; step < 300000; step++) {
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
    return bench_bits(x[0][0] + x[4][2]);
}
static uint64_t mandelbrot(void) /* comparisons of floating-point numbers steer it */
{
    uint64_t sum = 0;
    for (int y = 0; y < 160; y++)
        for (int x = 0; x < 160; x++) {
            double cr = x / 80.0 - 1.5, ci = y / 80.0 - 1.0, r = 0, i = 0;
            int n = 0;
            while (n < 400 && r * r + i * i < 4) {
                double t = r * r - i * i + cr;
                i = 2 * r * i + ci;
                r = t;
                n++;
            }
            sum = sum * 7 + (uint64_t)n;
        }
    return sum;
}
static uint64_t convert(void) /* between integers, floats and doubles; square roots and divisions */
{
    uint64_t sum = 0;
    for (int i = 1; i < 3000000; i++) {
        double d = sqrt((double)i * 3 + (double)(sum & 1023));
        sum += (uint64_t)(int64_t)(d * 1000) ^ (uint64_t)(uint32_t)(int)((float)i / 3.0f);
    }
    return sum;
}
static uint64_t x87(void)
{
    long double s = 0, x = 1;
    for (int i = 1; i < 4000000; i++) {
        x = x * 1.0000001L + 0.5L / i;
        s += x;
    }
    return bench_bits((double)s);
}
static uint64_t x87_trig(void) /* what the processor computes in microcode */
{
    long double s = 0;
    for (int i = 1; i < 250000; i++) {
        long double x = i * 0.0001L, y;
        __asm__("fsin" : "=t"(y) : "0"(x));
        s += y;
    }
    /* TCG computes fsin in double precision: keep what agrees */
    return (uint64_t)(int64_t)((double)s * 1e6);
}

const struct bench_test bench_float[] = {
    { .name = "matmul", .kind = "float", .run = matmul },         { .name = "nbody", .kind = "float", .run = nbody },
    { .name = "mandelbrot", .kind = "float", .run = mandelbrot }, { .name = "convert", .kind = "float", .run = convert },
    { .name = "x87", .kind = "x87", .run = x87 },                 { .name = "x87_trig", .kind = "x87", .run = x87_trig },
    { 0 },
};
