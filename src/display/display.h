/* display/display.h - what a screen shows, between the device that has it and who looks at it (terminal, VNC, screenshots).
 *
 * Model: pull. A graphics device is a struct dp_display_source. A viewer asks it for the picture as often as it likes (30 times a second is
 * usual); the device renders what stands in its memory at that moment. `generation` changes whenever the picture may have.
 * Invariants: pictures are owned by the viewer; a source keeps nothing of them. Whatever the guest programs, sizes stay within
 * DP_DISPLAY_MAX_WIDTH x DP_DISPLAY_MAX_HEIGHT.
 * Threads: any; a source takes its own lock.
 */
#ifndef DP_DISPLAY_H
#define DP_DISPLAY_H

#include "base/base.h"

enum { DP_DISPLAY_MAX_WIDTH = 4096, DP_DISPLAY_MAX_HEIGHT = 4096, DP_DISPLAY_MAX_CELLS = 256 * 128 };

struct dp_display_picture {
    uint32_t width, height;     /* 0: blank screen */
    uint32_t *pixels;           /* width * height, 0x00RRGGBB, no padding */
    size_t capacity;            /* of pixels, in pixels */
};
void dp_display_picture_fini(struct dp_display_picture *p);
/* Makes room for the size; contents are undefined then. -ENOMEM, or -EINVAL past the maximum. */
int dp_display_picture_resize(struct dp_display_picture *p, uint32_t width, uint32_t height, struct dp_error *e) DP_MUST_CHECK;

/* A text mode's screen: characters as the adapter has them (code page 437, unless the guest loaded another font). */
struct dp_display_cell { uint8_t character, attribute; /* VGA: background << 4 | foreground */ };
struct dp_display_text {
    uint32_t columns, rows;
    uint32_t cursor_column, cursor_row;
    bool cursor;                /* visible */
    uint32_t palette[16];       /* 0x00RRGGBB of the attribute's colours */
    struct dp_display_cell cell[DP_DISPLAY_MAX_CELLS];
};

struct dp_display_source {
    uint64_t (*generation)(void *opaque);
    int (*picture)(void *opaque, struct dp_display_picture *out, struct dp_error *e); /* 0 or negative errno */
    bool (*text)(void *opaque, struct dp_display_text *out); /* false: not in a text mode. May be NULL */
    void *opaque;
    /* A viewer would like the screen to have this size: the guest is told, and may follow, later. False: that cannot be. May be NULL */
    bool (*resize)(void *opaque, uint32_t width, uint32_t height);
};

/* The UTF-8 of a code page 437 character, NUL-terminated. */
const char *dp_display_cp437(uint8_t character);
/* Writes a PNG; the file is made anew, whole or not at all. */
int dp_display_write_png(const struct dp_display_picture *p, const char *path, struct dp_error *e) DP_MUST_CHECK;

#endif
