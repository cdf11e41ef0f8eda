/* fdc_medium.c - which disk an image is, by its size; see fdc.h. */
#include "devices/storage/fdc.h"

enum { RATE_500, RATE_300, RATE_250, RATE_1000 };
enum { DRIVE_360 = 1 << DP_FDC_360K, DRIVE_1200 = 1 << DP_FDC_1200K, DRIVE_720 = 1 << DP_FDC_720K, DRIVE_1440 = 1 << DP_FDC_1440K,
       DRIVE_2880 = 1 << DP_FDC_2880K, DRIVES_35 = DRIVE_720 | DRIVE_1440 | DRIVE_2880, DRIVES_35_HD = DRIVE_1440 | DRIVE_2880 };

static const struct { uint8_t tracks, heads, sectors, rate; uint32_t drives; enum dp_fdc_type drive; } media[] = {
    {40, 1, 8, RATE_250, DRIVE_360 | DRIVE_1200, DP_FDC_360K},    /* 160K */
    {40, 1, 9, RATE_250, DRIVE_360 | DRIVE_1200, DP_FDC_360K},    /* 180K */
    {40, 2, 8, RATE_250, DRIVE_360 | DRIVE_1200, DP_FDC_360K},    /* 320K */
    {40, 2, 9, RATE_250, DRIVE_360 | DRIVE_1200, DP_FDC_360K},    /* 360K */
    {80, 2, 15, RATE_500, DRIVE_1200, DP_FDC_1200K},              /* 1.2M */
    {80, 2, 8, RATE_250, DRIVES_35, DP_FDC_1440K},                /* 640K */
    {80, 2, 9, RATE_250, DRIVES_35, DP_FDC_1440K},                /* 720K */
    {80, 2, 10, RATE_250, DRIVES_35, DP_FDC_1440K},               /* 800K */
    {82, 2, 10, RATE_250, DRIVES_35, DP_FDC_1440K},               /* 820K */
    {80, 2, 18, RATE_500, DRIVES_35_HD, DP_FDC_1440K},            /* 1.44M */
    {82, 2, 18, RATE_500, DRIVES_35_HD, DP_FDC_1440K},            /* 1.476M */
    {80, 2, 20, RATE_500, DRIVES_35_HD, DP_FDC_1440K},            /* 1.6M */
    {80, 2, 21, RATE_500, DRIVES_35_HD, DP_FDC_1440K},            /* 1.68M, DMF */
    {82, 2, 21, RATE_500, DRIVES_35_HD, DP_FDC_1440K},            /* 1.722M */
    {83, 2, 21, RATE_500, DRIVES_35_HD, DP_FDC_1440K},            /* 1.743M */
    {80, 2, 22, RATE_500, DRIVES_35_HD, DP_FDC_1440K},            /* 1.76M */
    {80, 2, 23, RATE_500, DRIVES_35_HD, DP_FDC_1440K},            /* 1.84M */
    {80, 2, 24, RATE_500, DRIVES_35_HD, DP_FDC_1440K},            /* 1.92M */
    {80, 2, 36, RATE_1000, DRIVE_2880, DP_FDC_2880K},             /* 2.88M */
    {80, 2, 39, RATE_1000, DRIVE_2880, DP_FDC_2880K},             /* 3.12M */
    {80, 2, 40, RATE_1000, DRIVE_2880, DP_FDC_2880K},             /* 3.2M */
};
enum { USUAL = 9 /* 1.44M */ };

int dp_fdc_geometry(uint64_t size, enum dp_fdc_type drive, struct dp_fdc_geometry *g, struct dp_error *e)
{
    static const char *const names[] = {"", "360K", "1.2M", "720K", "1.44M", "2.88M"};
    unsigned i = 0;
    while (i < DP_ARRAY_LEN(media) && (uint64_t)media[i].tracks * media[i].heads * media[i].sectors * 512 != size)
        i++;
    if (i == DP_ARRAY_LEN(media)) {
        /* People boot images of a few sectors: the beginning of a 1.44M disk. */
        if (!size || size > (uint64_t)media[USUAL].tracks * media[USUAL].heads * media[USUAL].sectors * 512)
            return dp_error_set(e, -EINVAL, "an image of %llu bytes is no floppy disk; sizes are 160K, 180K, 320K, 360K, 720K, 1.2M, "
                                "1440K, 1680K and 2880K, and some between", (unsigned long long)size);
        i = USUAL;
    }
    *g = (struct dp_fdc_geometry){media[i].tracks, media[i].heads, media[i].sectors, media[i].rate, 1, media[i].drives, media[i].drive};
    if (drive != DP_FDC_NONE && !(g->drives >> drive & 1))
        return dp_error_set(e, -EINVAL, "a %s drive does not take disks of %llu KiB", names[drive], (unsigned long long)size / 1024);
    if (drive == DP_FDC_1200K && g->tracks == 40) { /* it turns faster, and steps by half tracks */
        g->rate = RATE_300;
        g->steps = 2;
    }
    return 0;
}
