/* values.c - random operands: corner cases of integers and of all three floating-point formats far more often than chance would give them.
 */
#include "cpu.h"

uint64_t cpu_below(struct dp_random *r, uint64_t n) { return n ? (uint64_t)((unsigned __int128)dp_random_next(r) * n >> 64) : 0; }

void cpu_random_bytes(struct dp_random *r, void *p, size_t n)
{
    for (size_t i = 0; i < n; i += 8) {
        uint64_t v = dp_random_next(r);
        memcpy((uint8_t *)p + i, &v, DP_MIN(n - i, (size_t)8));
    }
}

uint64_t cpu_random_int(struct dp_random *r)
{
    unsigned bits = 8u << cpu_below(r, 4);
    uint64_t v;
    switch (cpu_below(r, 8)) {
    case 0:
        return cpu_below(r, 4);
    case 1:
        v = 1ull << (bits - 1);
        break; /* the least negative number of some size */
    case 2:
        v = dp_mask_bytes(bits / 8);
        break; /* -1 of some size */
    case 3:
        v = 1ull << cpu_below(r, 64);
        break;
    case 4:
        v = dp_random_next(r) >> cpu_below(r, 64);
        break;
    case 5:
        v = cpu_below(r, 256) * 0x0101010101010101ull;
        break;
    default:
        return dp_random_next(r);
    }
    v += cpu_below(r, 3) - 1;
    return cpu_one_in(r, 4) ? ~v : v;
}

static uint64_t random_float(struct dp_random *r, unsigned exponent_bits, unsigned mantissa_bits)
{
    uint64_t max_exponent = (1ull << exponent_bits) - 1, bias = max_exponent >> 1, mantissa_mask = (1ull << mantissa_bits) - 1;
    uint64_t sign = dp_random_next(r) & 1, exponent, mantissa;
    switch (cpu_below(r, 5)) {
    case 0:
        mantissa = 0;
        break;
    case 1:
        mantissa = mantissa_mask << cpu_below(r, mantissa_bits);
        break;
    case 2:
        mantissa = cpu_below(r, 4);
        break;
    default:
        mantissa = dp_random_next(r);
        break;
    }
    switch (cpu_below(r, 16)) {
    case 0:
        exponent = 0, mantissa = 0;
        break; /* zero */
    case 1:
        exponent = 0;
        break; /* denormal */
    case 2:
        exponent = max_exponent, mantissa = 0;
        break; /* infinity */
    case 3:
        exponent = max_exponent, mantissa |= 1ull << (mantissa_bits - 1);
        break; /* quiet NaN */
    case 4:
        exponent = max_exponent, mantissa &= ~(1ull << (mantissa_bits - 1));
        mantissa |= 1;
        break; /* signalling NaN */
    case 5:
        exponent = cpu_below(r, 3);
        break; /* near underflow */
    case 6:
        exponent = max_exponent - 1 - cpu_below(r, 2);
        break; /* near overflow */
    case 7:
        exponent = cpu_below(r, max_exponent);
        break;
    case 8:
        exponent = bias + cpu_below(r, 70);
        break; /* near the limits of integers */
    default:
        exponent = bias + cpu_below(r, 2 * mantissa_bits) - mantissa_bits;
        break; /* comparable sizes */
    }
    return sign << (exponent_bits + mantissa_bits) | (exponent & max_exponent) << mantissa_bits | (mantissa & mantissa_mask);
}

void cpu_random_vector(struct dp_random *r, uint8_t v[16])
{
    switch (cpu_below(r, 6)) {
    case 0:
        cpu_random_bytes(r, v, 16);
        break;
    case 1:
        for (unsigned i = 0; i < 16; i += 8)
            dp_st64(v + i, cpu_random_int(r));
        break;
    case 2:
        for (unsigned i = 0; i < 16; i += 4)
            dp_st32(v + i, (uint32_t)cpu_random_int(r));
        break;
    case 3:
        for (unsigned i = 0; i < 16; i += 2)
            dp_st16(v + i, (uint16_t)cpu_random_int(r));
        break;
    case 4:
        for (unsigned i = 0; i < 16; i += 4)
            dp_st32(v + i, (uint32_t)random_float(r, 8, 23));
        break;
    default:
        for (unsigned i = 0; i < 16; i += 8)
            dp_st64(v + i, random_float(r, 11, 52));
        break;
    }
}

void cpu_random_ext(struct dp_random *r, uint8_t v[10])
{
    uint64_t mantissa;
    unsigned exponent, sign = (unsigned)(dp_random_next(r) & 1);
    switch (cpu_below(r, 5)) {
    case 0:
        mantissa = 1ull << 63;
        break;
    case 1:
        mantissa = ~0ull << cpu_below(r, 64);
        break;
    case 2:
        mantissa = 1ull << 63 | cpu_below(r, 4);
        break;
    case 3:
        mantissa = (1ull << 63 | dp_random_next(r)) >> 11 << 11;
        break; /* exact as double */
    default:
        mantissa = dp_random_next(r) | 1ull << 63;
        break;
    }
    switch (cpu_below(r, 18)) {
    case 0:
        exponent = 0, mantissa = 0;
        break; /* zero */
    case 1:
        exponent = 0, mantissa = mantissa >> 1 >> cpu_below(r, 63);
        break; /* denormal */
    case 2:
        exponent = 0;
        break; /* pseudo-denormal */
    case 3:
        exponent = 0x7fff, mantissa = 1ull << 63;
        break; /* infinity */
    case 4:
        exponent = 0x7fff, mantissa |= 3ull << 62;
        break; /* quiet NaN */
    case 5:
        exponent = 0x7fff, mantissa &= ~(1ull << 62), mantissa |= 1;
        break; /* signalling NaN */
    case 6:
        exponent = (unsigned)cpu_below(r, 0x8000), mantissa &= ~(1ull << 63);
        break; /* unnormal, pseudo-NaN or -infinity */
    case 7:
        exponent = (unsigned)cpu_below(r, 0x7fff);
        break;
    case 8:
        exponent = 1 + (unsigned)cpu_below(r, 66);
        break; /* near underflow */
    case 9:
        exponent = 0x7ffe - (unsigned)cpu_below(r, 3);
        break;
    case 10:
        exponent = 0x3c01 - 60 + (unsigned)cpu_below(r, 64);
        break; /* double's underflow */
    case 11:
        exponent = 0x43fe - 1 + (unsigned)cpu_below(r, 3);
        break; /* double's overflow */
    case 12:
        exponent = 0x3f81 - 28 + (unsigned)cpu_below(r, 32);
        break; /* float's underflow */
    case 13:
        exponent = 0x3fff + (unsigned)cpu_below(r, 66);
        break; /* integers and their limits */
    default:
        exponent = 0x3fff - 40 + (unsigned)cpu_below(r, 80);
        break;
    }
    dp_st64(v, mantissa);
    dp_st16(v + 8, (uint16_t)(sign << 15 | exponent));
}

void cpu_random_fx(struct dp_random *r, uint8_t fx[512])
{
    memset(fx, 0, 512);
    /* Mostly everything masked, as nearly all code has it; rounding and precision at random. */
    uint16_t fcw = (uint16_t)(0x40 | (cpu_one_in(r, 4) ? dp_random_next(r) & 0x3f : 0x3f) | cpu_below(r, 4) << 10 |
                              (cpu_one_in(r, 2) ? 3u : cpu_below(r, 4)) << 8 | cpu_below(r, 2) << 12);
    uint16_t fsw = (uint16_t)(cpu_below(r, 8) << 11 | (dp_random_next(r) & 0x4700));
    if (cpu_one_in(r, 4))
        fsw |= dp_random_next(r) & 0x7f;
    if (!cpu_one_in(r, 12))
        fsw &= (uint16_t)(~0x3fu | (fcw & 0x3f)); /* mostly no exception pending */
    if (fsw & ~fcw & 0x3f)
        fsw |= 0x8080;
    uint8_t ftw;
    switch (cpu_below(r, 4)) {
    case 0:
        ftw = (uint8_t)dp_random_next(r);
        break;
    case 1:
        ftw = 0;
        break;
    default:
        ftw = 0xff;
        break;
    }
    dp_st16(fx + FX_FCW, fcw);
    dp_st16(fx + FX_FSW, fsw);
    fx[FX_FTW] = ftw;
    dp_st16(fx + FX_FOP, (uint16_t)(dp_random_next(r) & 0x7ff));
    dp_st64(fx + FX_FIP, dp_random_next(r) & 0x7fffffff);
    dp_st64(fx + FX_FDP, dp_random_next(r) & 0x7fffffff);
    uint32_t mxcsr = (cpu_one_in(r, 6) ? (uint32_t)dp_random_next(r) & 0x1f80 : 0x1f80) | (uint32_t)cpu_below(r, 4) << 13;
    if (cpu_one_in(r, 4))
        mxcsr |= (uint32_t)dp_random_next(r) & 0x3f;
    if (cpu_one_in(r, 4))
        mxcsr |= 0x8000; /* FZ */
    if (cpu_one_in(r, 4))
        mxcsr |= 0x40; /* DAZ */
    dp_st32(fx + FX_MXCSR, mxcsr);
    bool same = cpu_one_in(r, 8); /* MMX values look like NaNs: let integers in too */
    for (unsigned i = 0; i < 8; i++) {
        if (same || cpu_one_in(r, 4)) {
            uint8_t v[16];
            cpu_random_vector(r, v);
            memcpy(fx + FX_ST + i * 16, v, 8);
            dp_st16(fx + FX_ST + i * 16 + 8, 0xffff);
        } else {
            cpu_random_ext(r, fx + FX_ST + i * 16);
        }
    }
    for (unsigned i = 0; i < 16; i++)
        cpu_random_vector(r, fx + FX_XMM + i * 16);
}

void cpu_base_image(uint8_t data[CPU_DATA_SIZE])
{
    struct dp_random r;
    dp_random_seed(&r, 20240229);
    cpu_random_bytes(&r, data, CPU_DATA_SIZE);
}
