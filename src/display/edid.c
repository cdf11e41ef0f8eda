/* edid.c - see edid.h. */
#include "display/edid.h"

enum { MANUFACTURER = 8, PRODUCT = 10, YEAR = 17, VERSION = 18, INPUT = 20, SIZE_CM = 21, GAMMA = 23, FEATURES = 24, CHROMATICITY = 25,
       ESTABLISHED = 35, STANDARD = 38, DESCRIPTORS = 54, DESCRIPTOR_SIZE = 18, CHECKSUM = 127 };
enum { H_BLANK = 160, H_FRONT = 48, H_SYNC = 32, V_FRONT = 3, V_BACK_MIN = 6, V_BLANK_MIN_US = 460 };
enum { CLOCK_STEP = 25 /* of 10 kHz */, CLOCK_MAX = 65525, REFRESH = 60 };

static uint32_t millimetres(uint32_t dots) { return DP_MIN((dots * 254 + 480) / 960, 4095u); }

/* CVT tells the aspect ratio by the width of the vertical sync pulse. */
static uint32_t vertical_sync(uint32_t width, uint32_t height)
{
    static const struct { uint8_t x, y, lines; } ratios[] = {{4, 3, 4}, {16, 9, 5}, {16, 10, 6}, {5, 4, 7}, {15, 9, 7}};
    for (size_t i = 0; i < DP_ARRAY_LEN(ratios); i++)
        if (width * ratios[i].y == height * ratios[i].x)
            return ratios[i].lines;
    return 10;
}

static void detailed_timing(uint8_t *d, uint32_t width, uint32_t height)
{
    uint32_t sync = vertical_sync(width, height);
    /* Lines in the least blanking time, by the period of a line: (1/60 s - 460 us) / height. */
    uint32_t blank = V_BLANK_MIN_US * height / (1000000 / REFRESH - V_BLANK_MIN_US) + 1;
    blank = DP_MAX(blank, V_FRONT + sync + V_BACK_MIN);
    uint64_t clock = (uint64_t)(width + H_BLANK) * (height + blank) * REFRESH / 10000 / CLOCK_STEP * CLOCK_STEP;
    dp_st16(d, (uint16_t)DP_MIN(clock, (uint64_t)CLOCK_MAX));
    d[2] = (uint8_t)width;
    d[3] = H_BLANK;
    d[4] = (uint8_t)(width >> 8 << 4);
    d[5] = (uint8_t)height;
    d[6] = (uint8_t)blank;
    d[7] = (uint8_t)(height >> 8 << 4 | blank >> 8);
    d[8] = H_FRONT;
    d[9] = H_SYNC;
    d[10] = (uint8_t)(V_FRONT << 4 | sync);
    uint32_t mm_x = millimetres(width), mm_y = millimetres(height);
    d[12] = (uint8_t)mm_x;
    d[13] = (uint8_t)mm_y;
    d[14] = (uint8_t)(mm_x >> 8 << 4 | mm_y >> 8);
    d[17] = 0x1a; /* digital, separate syncs: horizontal positive, vertical negative */
}

static void text_descriptor(uint8_t *d, uint8_t tag, const char *text)
{
    size_t n = DP_MIN(strlen(text), (size_t)13);
    d[3] = tag;
    memset(d + 5, ' ', 13);
    memcpy(d + 5, text, n);
    if (n < 13)
        d[5 + n] = '\n';
}

void dp_display_edid(uint8_t out[DP_EDID_SIZE], const char *name, uint32_t width, uint32_t height)
{
    static const uint8_t header[8] = {0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0};
    static const uint8_t srgb[10] = {0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54};
    static const uint8_t established[3] = {0x21, 0x08, 0}; /* 640x480, 800x600, 1024x768, all at 60 Hz */
    enum { R16_10 = 0x00, R4_3 = 0x40, R5_4 = 0x80, R16_9 = 0xc0 }; /* refresh - 60 in the low bits */
    static const struct { uint16_t width; uint8_t ratio; } standard[8] = {{1152, R4_3}, {1280, R16_9}, {1280, R16_10}, {1280, R5_4},
                                                                          {1440, R16_10}, {1600, R16_9}, {1680, R16_10}, {1920, R16_9}};
    static const uint8_t range[] = {0, 0, 0, 0xfd, 0, 40, 75, 15, 160, 66 /* 660 MHz */, 1, '\n', ' ', ' ', ' ', ' ', ' ', ' '};
    width = DP_MAX(DP_MIN(width, (uint32_t)DP_EDID_MAX), 64u);
    height = DP_MAX(DP_MIN(height, (uint32_t)DP_EDID_MAX), 64u);
    memset(out, 0, DP_EDID_SIZE);
    memcpy(out, header, sizeof header);
    unsigned maker = ('D' - '@') << 10 | ('P' - '@') << 5 | ('L' - '@');
    out[MANUFACTURER] = (uint8_t)(maker >> 8);
    out[MANUFACTURER + 1] = (uint8_t)maker;
    dp_st16(out + PRODUCT, 1);
    out[YEAR] = 2024 - 1990;
    out[VERSION] = 1;
    out[VERSION + 1] = 4;
    out[INPUT] = 0xa5; /* digital, 8 bits per colour, DisplayPort */
    out[SIZE_CM] = (uint8_t)DP_MAX(DP_MIN((millimetres(width) + 5) / 10, 255u), 1u);
    out[SIZE_CM + 1] = (uint8_t)DP_MAX(DP_MIN((millimetres(height) + 5) / 10, 255u), 1u);
    out[GAMMA] = 120;
    out[FEATURES] = 0x06; /* sRGB, the preferred timing is the native one */
    memcpy(out + CHROMATICITY, srgb, sizeof srgb);
    memcpy(out + ESTABLISHED, established, sizeof established);
    for (unsigned i = 0; i < DP_ARRAY_LEN(standard); i++) {
        out[STANDARD + 2 * i] = (uint8_t)(standard[i].width / 8 - 31);
        out[STANDARD + 2 * i + 1] = standard[i].ratio;
    }
    detailed_timing(out + DESCRIPTORS, width, height);
    memcpy(out + DESCRIPTORS + DESCRIPTOR_SIZE, range, sizeof range);
    text_descriptor(out + DESCRIPTORS + 2 * DESCRIPTOR_SIZE, 0xfc, name);
    text_descriptor(out + DESCRIPTORS + 3 * DESCRIPTOR_SIZE, 0xff, "0");
    uint8_t sum = 0;
    for (unsigned i = 0; i < CHECKSUM; i++)
        sum += out[i];
    out[CHECKSUM] = (uint8_t)-sum;
}
