/* vnc_encode.c - pixels on their way to VNC clients: formats, raw and ZRLE. See vnc_internal.h.
 *
 * ZRLE: a rectangle is cut into tiles of 64x64; a tile is sent as one colour, as indices into a palette of up to 16, or as it is, and all
 * goes through zlib, whose state lasts as long as the connection. Run lengths are left to zlib: screens are mostly palettes.
 */
#include <stdlib.h>

#include "display/vnc_internal.h"

enum { PALETTE_MAX = 16, PIECE = 16384 };

const uint8_t dp_vnc_format_own[DP_VNC_FORMAT_SIZE] = {32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0};

static uint16_t get16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }

bool dp_vnc_format_set(struct dp_vnc_format *f, const uint8_t wire[DP_VNC_FORMAT_SIZE])
{
    unsigned bits = wire[0], depth = wire[1];
    uint32_t used = 0;
    if ((bits != 8 && bits != 16 && bits != 32) || !wire[3])
        return false;
    for (unsigned channel = 0; channel < 3; channel++) {
        uint64_t max = get16(wire + 4 + 2 * channel);
        unsigned shift = wire[10 + channel];
        if (!max || shift >= bits || max << shift >> bits)
            return false;
        used |= (uint32_t)(max << shift);
    }
    *f = (struct dp_vnc_format){.bytes = (uint8_t)(bits / 8), .big_endian = wire[2]};
    for (unsigned channel = 0; channel < 3; channel++) {
        uint32_t *table = channel == 0 ? f->red : channel == 1 ? f->green : f->blue;
        for (uint32_t v = 0; v < 256; v++)
            table[v] = (v * get16(wire + 4 + 2 * channel) + 127) / 255 << wire[10 + channel];
    }
    f->cpixel_bytes = f->bytes;
    if (bits == 32 && depth <= 24 && (!(used & 0xff000000) || !(used & 0xff))) {
        bool low = !(used & 0xff000000);
        f->cpixel_bytes = 3;
        f->cpixel_skip = low == f->big_endian;
    }
    return true;
}

/* One pixel in the client's format; returns the bytes written to p, of which there may be 4. */
static inline void put_pixel(uint8_t p[4], const struct dp_vnc_format *f, uint32_t rgb)
{
    uint32_t v = f->red[rgb >> 16 & 0xff] | f->green[rgb >> 8 & 0xff] | f->blue[rgb & 0xff];
    if (f->big_endian)
        v = f->bytes == 4 ? __builtin_bswap32(v) : f->bytes == 2 ? __builtin_bswap16((uint16_t)v) : v;
    dp_st32(p, v);
}

static void fetch(const struct dp_display_picture *p, unsigned x, unsigned y, unsigned count, uint32_t *to)
{
    unsigned there = y < p->height && x < p->width ? DP_MIN(count, p->width - x) : 0;
    if (there)
        memcpy(to, p->pixels + (size_t)y * p->width + x, there * sizeof *to);
    memset(to + there, 0, (count - there) * sizeof *to);
}

void dp_vnc_encode_raw(struct dp_buffer *out, const struct dp_vnc_format *f, const struct dp_display_picture *p, struct dp_vnc_rect r)
{
    uint32_t row[DP_DISPLAY_MAX_WIDTH];
    uint8_t bytes[4 * DP_DISPLAY_MAX_WIDTH + 4];
    for (unsigned y = 0; y < r.height; y++) {
        fetch(p, r.x, r.y + y, r.width, row);
        for (unsigned x = 0; x < r.width; x++)
            put_pixel(bytes + x * f->bytes, f, row[x]);
        dp_buffer_append(out, bytes, (size_t)r.width * f->bytes);
    }
}

/* The colours of a tile, in order of appearance; more than PALETTE_MAX when there are too many. */
static unsigned find_palette(const uint32_t *pixel, unsigned count, uint32_t palette[PALETTE_MAX], uint8_t *index)
{
    unsigned colours = 0, last = 0;
    for (unsigned i = 0; i < count; i++) {
        if (!colours || pixel[i] != palette[last]) {
            for (last = 0; last < colours && palette[last] != pixel[i];)
                last++;
            if (last == colours) {
                if (colours == PALETTE_MAX)
                    return PALETTE_MAX + 1;
                palette[colours++] = pixel[i];
            }
        }
        index[i] = (uint8_t)last;
    }
    return colours;
}

static size_t put_cpixel(uint8_t *to, const struct dp_vnc_format *f, uint32_t rgb)
{
    uint8_t p[4];
    put_pixel(p, f, rgb);
    memcpy(to, p + f->cpixel_skip, f->cpixel_bytes);
    return f->cpixel_bytes;
}

/* A tile's bytes before compression; to has room for them raw, and one more. */
static size_t encode_tile(const struct dp_vnc_format *f, const uint32_t *pixel, unsigned width, unsigned height, uint8_t *to)
{
    uint32_t palette[PALETTE_MAX];
    uint8_t index[DP_VNC_TILE * DP_VNC_TILE];
    unsigned colours = find_palette(pixel, width * height, palette, index);
    size_t n = 0;
    if (colours > PALETTE_MAX) {
        to[n++] = 0;
        for (unsigned i = 0; i < width * height; i++)
            n += put_cpixel(to + n, f, pixel[i]);
        return n;
    }
    to[n++] = (uint8_t)colours;
    for (unsigned i = 0; i < colours; i++)
        n += put_cpixel(to + n, f, palette[i]);
    if (colours == 1)
        return n;
    unsigned bits = colours == 2 ? 1 : colours <= 4 ? 2 : 4;
    for (unsigned y = 0; y < height; y++) { /* rows begin with a byte of their own */
        unsigned filled = 0;
        for (unsigned x = 0; x < width; x++) {
            if (!filled)
                to[n++] = 0;
            to[n - 1] |= (uint8_t)(index[y * width + x] << (8 - bits - filled));
            filled = (filled + bits) & 7;
        }
    }
    return n;
}

static bool compress_into(struct dp_buffer *out, z_stream *z, uint8_t *data, size_t size, int flush)
{
    uint8_t piece[PIECE];
    z->next_in = data;
    z->avail_in = (unsigned)size;
    do {
        z->next_out = piece;
        z->avail_out = sizeof piece;
        int rc = deflate(z, flush);
        if (rc != Z_OK && rc != Z_BUF_ERROR)
            return false;
        dp_buffer_append(out, piece, sizeof piece - z->avail_out);
    } while (!z->avail_out);
    return !out->failed;
}

bool dp_vnc_encode_zrle(struct dp_buffer *out, const struct dp_vnc_format *f, const struct dp_display_picture *p, struct dp_vnc_rect r,
                        z_stream *z)
{
    uint32_t pixel[DP_VNC_TILE * DP_VNC_TILE];
    uint8_t bytes[sizeof pixel + 1 + 4 * PALETTE_MAX];
    size_t length_at = out->size;
    dp_buffer_append(out, "\0\0\0", 4);
    for (unsigned y = 0; y < r.height; y += DP_VNC_TILE)
        for (unsigned x = 0; x < r.width; x += DP_VNC_TILE) {
            unsigned width = DP_MIN((unsigned)DP_VNC_TILE, r.width - x), height = DP_MIN((unsigned)DP_VNC_TILE, r.height - y);
            for (unsigned i = 0; i < height; i++)
                fetch(p, r.x + x, r.y + y + i, width, pixel + i * width);
            if (!compress_into(out, z, bytes, encode_tile(f, pixel, width, height, bytes), Z_NO_FLUSH))
                return false;
        }
    if (!compress_into(out, z, NULL, 0, Z_SYNC_FLUSH))
        return false;
    uint32_t length = (uint32_t)(out->size - length_at - 4);
    dp_st32(out->data + length_at, __builtin_bswap32(length));
    return true;
}
