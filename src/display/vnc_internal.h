/* display/vnc_internal.h - parts of the VNC server that stand alone: pixel formats and encodings, the password's cipher, keys.
 *
 * Source: RFC 6143 (RFB 3.8): 7.4 pixel formats, 7.7.1 raw, 7.7.6 ZRLE, 7.2.2 VNC authentication; the rfbproto community document for the
 * QEMU extended key event.
 */
#ifndef DP_DISPLAY_VNC_INTERNAL_H
#define DP_DISPLAY_VNC_INTERNAL_H

#include <zlib.h>

#include "display/display.h"

enum { DP_VNC_TILE = 64, DP_VNC_FORMAT_SIZE = 16 };

/* How a client wants its pixels: each channel's share of the value, by its 8 bits. */
struct dp_vnc_format {
    uint8_t bytes; /* 1, 2 or 4 */
    bool big_endian;
    uint8_t cpixel_bytes, cpixel_skip; /* ZRLE leaves out a byte that is always 0: so many bytes from this one of the pixel */
    uint32_t red[256], green[256], blue[256];
};
/* From a PIXEL_FORMAT. False: not usable (a colour map, odd sizes); f is as it was. */
bool dp_vnc_format_set(struct dp_vnc_format *f, const uint8_t wire[DP_VNC_FORMAT_SIZE]);
/* The PIXEL_FORMAT of our own pictures. */
extern const uint8_t dp_vnc_format_own[DP_VNC_FORMAT_SIZE];

struct dp_vnc_rect {
    uint16_t x, y, width, height;
};
/* Appends the pixels of a rectangle; black where the picture does not reach. */
void dp_vnc_encode_raw(struct dp_buffer *out, const struct dp_vnc_format *f, const struct dp_display_picture *p, struct dp_vnc_rect r);
/* The same as ZRLE, through the connection's one compressor. False: no memory; the stream is of no more use. */
bool dp_vnc_encode_zrle(struct dp_buffer *out, const struct dp_vnc_format *f, const struct dp_display_picture *p, struct dp_vnc_rect r,
                        z_stream *z);

/* What a client that knows the password answers to the challenge. */
void dp_vnc_response(const char *password, const uint8_t challenge[16], uint8_t response[16]);

/* The key of an X keysym, and whether a US keyboard needs shift for it (of characters only; *character tells). 0: none. */
unsigned dp_vnc_key_of_keysym(uint32_t keysym, bool *shift, bool *character);
/* The key of a QEMU extended key event's code: XT set 1, prefix e0 as bit 7. 0: none. */
unsigned dp_vnc_key_of_xt(uint32_t code);

#endif
