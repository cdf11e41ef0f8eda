/* picture.c - pictures in memory and as PNG files.
 *
 * Model and invariants: display.h. A PNG is written to a temporary file beside its place and renamed, so whoever looks sees the old file
 * or the whole new one.
 * Source: libpng manual 1.6; W3C PNG (third edition) for what is written: RGB, 8 bits, no interlace.
 */
#include "display/display.h"

#include <fcntl.h>
#include <png.h>
#include <stdlib.h>
#include <unistd.h>

void dp_display_picture_fini(struct dp_display_picture *p)
{
    free(p->pixels);
    *p = (struct dp_display_picture){0};
}

int dp_display_picture_resize(struct dp_display_picture *p, uint32_t width, uint32_t height, struct dp_error *e)
{
    if (width > DP_DISPLAY_MAX_WIDTH || height > DP_DISPLAY_MAX_HEIGHT)
        return dp_error_set(e, -EINVAL, "a picture of %ux%u is too large: at most %dx%d are possible", width, height, DP_DISPLAY_MAX_WIDTH,
                            DP_DISPLAY_MAX_HEIGHT);
    if (!width || !height)
        width = height = 0;
    size_t need = (size_t)width * height;
    if (need > p->capacity) {
        uint32_t *pixels = malloc(need * sizeof *pixels);
        if (!pixels)
            return dp_error_set(e, -ENOMEM, "no memory for a picture of %ux%u", width, height);
        free(p->pixels);
        p->pixels = pixels;
        p->capacity = need;
    }
    p->width = width;
    p->height = height;
    return 0;
}

/* What libpng's error callback has to tell; longjmp is libpng's way out. */
static void png_failed(png_structp png, png_const_charp text)
{
    struct dp_error *e = png_get_error_ptr(png);
    if (!e->code)
        dp_error_set(e, errno == ENOMEM ? -ENOMEM : -EIO, "%s", text);
    longjmp(png_jmpbuf(png), 1);
}

static void png_warned(png_structp png, png_const_charp text) {}

static void write_bytes(png_structp png, png_bytep data, size_t size)
{
    struct dp_error *e = png_get_error_ptr(png);
    int fd = *(int *)png_get_io_ptr(png);
    while (size) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            dp_error_set(e, n ? -errno : -EIO, "%s", strerror(n ? errno : EIO));
            png_error(png, "write");
        }
        data += n;
        size -= (size_t)n;
    }
}

static void flush_nothing(png_structp png) {}

/* All of the file into fd; e->code is set on failure. */
static int encode(const struct dp_display_picture *p, int *fd, uint8_t *row, struct dp_error *e)
{
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, e, png_failed, png_warned);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!info) {
        png_destroy_write_struct(&png, NULL);
        return dp_error_set(e, -ENOMEM, "no memory");
    }
    if (setjmp(png_jmpbuf(png))) {
        png_destroy_write_struct(&png, &info);
        return e->code;
    }
    png_set_write_fn(png, fd, write_bytes, flush_nothing);
    png_set_IHDR(png, info, p->width, p->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(png, 3); /* screens compress well at any level */
    png_write_info(png, info);
    for (uint32_t y = 0; y < p->height; y++) {
        const uint32_t *from = p->pixels + (size_t)y * p->width;
        for (uint32_t x = 0; x < p->width; x++) {
            row[3 * x] = (uint8_t)(from[x] >> 16);
            row[3 * x + 1] = (uint8_t)(from[x] >> 8);
            row[3 * x + 2] = (uint8_t)from[x];
        }
        png_write_row(png, row);
    }
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    return 0;
}

int dp_display_write_png(const struct dp_display_picture *p, const char *path, struct dp_error *e)
{
    struct dp_error why = {0};
    if (!p->width || !p->height)
        return dp_error_set(e, -ENODATA, "%s: the screen is blank, there is no picture", path);
    size_t size = strlen(path) + 40;
    char *temporary = malloc(size);
    uint8_t *row = malloc((size_t)p->width * 3);
    int fd = -1;
    if (!temporary || !row) {
        dp_error_set(&why, -ENOMEM, "no memory");
    } else {
        for (unsigned i = 0; i < 100 && fd < 0; i++) { /* others may leave, or be writing, theirs */
            snprintf(temporary, size, "%s.%d-%u.tmp", path, (int)getpid(), i);
            fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
            if (fd < 0 && errno != EEXIST)
                break;
        }
        if (fd < 0)
            dp_error_set(&why, -errno, "%s", strerror(errno));
    }
    if (fd >= 0) {
        int rc = encode(p, &fd, row, &why);
        if (close(fd) && !rc)
            rc = dp_error_set(&why, -errno, "%s", strerror(errno));
        if (!rc && rename(temporary, path))
            rc = dp_error_set(&why, -errno, "%s", strerror(errno));
        if (rc)
            unlink(temporary);
    }
    free(temporary);
    free(row);
    return why.code ? dp_error_set(e, why.code, "cannot write the picture %s: %s", path, why.text) : 0;
}
