/* display/picture.c - pictures; see display.h. */
#include "display/display.h"

#include <stdlib.h>

void dp_display_picture_fini(struct dp_display_picture *p)
{
    free(p->pixels);
    *p = (struct dp_display_picture){0};
}

int dp_display_picture_resize(struct dp_display_picture *p, uint32_t width, uint32_t height, struct dp_error *e)
{
    size_t pixels = (size_t)width * height;
    if (width > DP_DISPLAY_MAX_WIDTH || height > DP_DISPLAY_MAX_HEIGHT)
        return dp_error_set(e, -EINVAL, "a picture of %u x %u pixels is too large", width, height);
    if (pixels > p->capacity) {
        uint32_t *grown = realloc(p->pixels, pixels * sizeof(*grown));
        if (!grown)
            return dp_error_set(e, -ENOMEM, "no memory for a picture of %u x %u pixels", width, height);
        p->pixels = grown;
        p->capacity = pixels;
    }
    p->width = width;
    p->height = height;
    return 0;
}
