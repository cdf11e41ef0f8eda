/* fake.h - a screen and a keyboard that tests hold both ends of. */
#ifndef DP_TESTS_DISPLAY_FAKE_H
#define DP_TESTS_DISPLAY_FAKE_H

#include <stdlib.h>

#include "display/display.h"
#include "display/input.h"

struct fake {
    struct dp_display_picture picture; /* what the screen shows */
    struct dp_display_text text;
    bool in_text_mode;
    int fails; /* errno */
    uint64_t generation;
    unsigned pictures; /* asked for */
    bool fixed; /* its size */
    unsigned wished_width, wished_height;
    char events[65536]; /* "+30 -30 p100,200,0,1 m-3,4,1,0 " */
    size_t size;
};

static inline uint64_t fake_generation(void *opaque) { return ((struct fake *)opaque)->generation; }

static inline int fake_picture(void *opaque, struct dp_display_picture *out, struct dp_error *e)
{
    struct fake *f = opaque;
    f->pictures++;
    if (f->fails)
        return dp_error_set(e, -f->fails, "the screen is broken");
    int rc = dp_display_picture_resize(out, f->picture.width, f->picture.height, e);
    if (!rc && f->picture.width)
        memcpy(out->pixels, f->picture.pixels, (size_t)f->picture.width * f->picture.height * 4);
    return rc;
}

static inline bool fake_text(void *opaque, struct dp_display_text *out)
{
    struct fake *f = opaque;
    if (f->in_text_mode)
        *out = f->text;
    return f->in_text_mode;
}

static inline bool fake_resize(void *opaque, uint32_t width, uint32_t height)
{
    struct fake *f = opaque;
    f->wished_width = width;
    f->wished_height = height;
    return !f->fixed;
}

static inline void __attribute__((format(printf, 2, 3))) fake_note(struct fake *f, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(f->events + f->size, sizeof f->events - f->size, format, ap);
    va_end(ap);
    f->size = DP_MIN(f->size + (size_t)n, sizeof f->events - 1);
}

static inline void fake_key(void *opaque, unsigned code, bool down) { fake_note(opaque, "%c%u ", down ? '+' : '-', code); }
static inline void fake_motion(void *opaque, int dx, int dy, int wheel, unsigned buttons) { fake_note(opaque, "m%d,%d,%d,%u ", dx, dy, wheel, buttons); }
static inline void fake_position(void *opaque, unsigned x, unsigned y, int wheel, unsigned buttons) { fake_note(opaque, "p%u,%u,%d,%u ", x, y, wheel, buttons); }

static inline struct dp_display_source fake_source(struct fake *f) { return (struct dp_display_source){fake_generation, fake_picture, fake_text, f, fake_resize}; }
static inline struct dp_input_sink fake_sink(struct fake *f, bool absolute)
{
    return (struct dp_input_sink){fake_key, fake_motion, absolute ? fake_position : NULL, f};
}

/* A new picture: colours 0 (black), 1 (stripes), few, or as many as there are. */
static inline int fake_draw(struct fake *f, uint32_t width, uint32_t height, unsigned colours, struct dp_random *r)
{
    int rc = dp_display_picture_resize(&f->picture, width, height, NULL);
    for (size_t i = 0; !rc && i < (size_t)width * height; i++) {
        uint64_t v = dp_random_next(r);
        f->picture.pixels[i] = !colours ? 0 : colours == 1 ? (i / 97 % 2 ? 0xffffff : 0x0000aa) : colours < 256 ? (uint32_t)(v % colours) * 0x0f1d35 & 0xffffff : (uint32_t)v & 0xffffff;
    }
    f->generation++;
    return rc;
}

#endif
