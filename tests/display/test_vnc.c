/* test_vnc.c - the VNC server as clients see it, and as clients try it. Each connection is a socket pair; a client in here decodes what comes. */
#include "tests/unit/test.h"

#include <fcntl.h>
#include <linux/input-event-codes.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <zlib.h>

#include "display/vnc.h"
#include "display/vnc_internal.h"
#include "event/event.h"
#include "tests/display/fake.h"

struct world {
    struct dp_loop *loop;
    struct dp_vnc *v;
    struct fake f;
    struct dp_random r;
    struct dp_error e;
};

struct client {
    struct world *w;
    int fd;
    unsigned width, height;
    unsigned bytes; /* of a pixel, little-endian 8:8:8 or 5:6:5 or 2:3:3 big or little */
    bool big_endian;
    struct dp_display_picture screen; /* decoded back to 8:8:8, as far as the format has it */
    z_stream z;
    bool qemu_keys;
    unsigned resizes, told, reason, status; /* told: ExtendedDesktopSize, the last one's */
    size_t pixels; /* received in all */
};

static void begin(struct world *w, const struct dp_vnc_options *o, bool absolute)
{
    struct dp_display_source source = fake_source(&w->f);
    struct dp_input_sink sink = fake_sink(&w->f, absolute);
    assert_ok(dp_loop_create(&w->loop, &w->e), w->e);
    assert_ok(dp_vnc_open(w->loop, o, &source, &sink, &w->v, &w->e), w->e);
    dp_random_seed(&w->r, 3);
}

static void end(struct world *w)
{
    dp_vnc_close(w->v);
    dp_loop_destroy(w->loop);
    dp_display_picture_fini(&w->f.picture);
    free(w);
}

static void put(struct client *c, const void *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = send(c->fd, (const char *)data + done, size - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        assert_true(n > 0 || errno == EAGAIN);
        done += n > 0 ? (size_t)n : 0;
        dp_loop_poll(c->w->loop, 0);
    }
}
#define PUT(c, ...) put(c, (const uint8_t[]){__VA_ARGS__}, sizeof(const uint8_t[]){__VA_ARGS__})

/* False: the connection ended first. */
static bool try_get(struct client *c, void *data, size_t size)
{
    size_t done = 0;
    for (unsigned i = 0; i < 3000 && done < size; i++) {
        ssize_t n = recv(c->fd, (char *)data + done, size - done, MSG_DONTWAIT);
        if (!n || (n < 0 && errno != EAGAIN))
            return false;
        done += n > 0 ? (size_t)n : 0;
        if (n < 0)
            dp_loop_poll(c->w->loop, 1);
    }
    if (done < size)
        fail_msg("%zu bytes did not come", size - done);
    return true;
}
static void get(struct client *c, void *data, size_t size) { assert_true(try_get(c, data, size)); }
static unsigned get16(struct client *c)
{
    uint8_t b[2];
    get(c, b, 2);
    return (unsigned)b[0] << 8 | b[1];
}
static uint32_t get32(struct client *c)
{
    uint32_t high = get16(c);
    return high << 16 | get16(c);
}

static void connect_to(struct client *c, struct world *w)
{
    int ends[2];
    *c = (struct client){.w = w, .bytes = 4};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    c->fd = ends[0];
    assert_ok(dp_vnc_adopt(w->v, ends[1], &w->e), w->e);
    inflateInit(&c->z);
}

static void leave(struct client *c)
{
    close(c->fd);
    inflateEnd(&c->z);
    dp_display_picture_fini(&c->screen);
    for (unsigned i = 0; i < 5; i++)
        dp_loop_poll(c->w->loop, 1);
}

static void expect_bytes(struct client *c, const void *data, size_t size)
{
    uint8_t got[64];
    get(c, got, size);
    assert_memory_equal(got, data, size);
}

static void expect_end(struct client *c)
{
    uint8_t b;
    assert_false(try_get(c, &b, 1));
    leave(c);
}

static void init(struct client *c)
{
    char name[16];
    PUT(c, 1);
    c->width = get16(c);
    c->height = get16(c);
    uint8_t format[16];
    get(c, format, 16);
    assert_memory_equal(format, dp_vnc_format_own, 16);
    assert_int_equal(get32(c), 6);
    get(c, name, 6);
    assert_memory_equal(name, "doppel", 6);
    assert_int_equal(dp_display_picture_resize(&c->screen, c->width, c->height, NULL), 0);
    memset(c->screen.pixels, 0x55, (size_t)c->width * c->height * 4);
}

static void join(struct client *c, struct world *w)
{
    connect_to(c, w);
    expect_bytes(c, "RFB 003.008\n", 12);
    put(c, "RFB 003.008\n", 12);
    expect_bytes(c, "\1\1", 2);
    PUT(c, 1);
    assert_int_equal(get32(c), 0);
    init(c);
}

static void set_encodings(struct client *c, unsigned count, const int32_t *encoding)
{
    PUT(c, 2, 0, (uint8_t)(count >> 8), (uint8_t)count);
    for (unsigned i = 0; i < count; i++)
        put(c, &(uint32_t){__builtin_bswap32((uint32_t)encoding[i])}, 4);
}
#define ENCODINGS(c, ...) set_encodings(c, sizeof((const int32_t[]){__VA_ARGS__}) / 4, (const int32_t[]){__VA_ARGS__})

static void set_format(struct client *c, unsigned bytes, bool big_endian)
{
    c->bytes = bytes;
    c->big_endian = big_endian;
    PUT(c, 0, 0, 0, 0);
    if (bytes == 4)
        PUT(c, 32, 24, big_endian, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0);
    else if (bytes == 2)
        PUT(c, 16, 16, big_endian, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0);
    else
        PUT(c, 8, 8, big_endian, 1, 0, 7, 0, 7, 0, 3, 5, 2, 0, 0, 0, 0);
}

static uint32_t reduce(const struct client *c, uint32_t rgb)
{
    uint32_t r = rgb >> 16 & 255, g = rgb >> 8 & 255, b = rgb & 255;
    if (c->bytes == 4)
        return rgb;
    if (c->bytes == 2)
        return (r * 31 + 127) / 255 << 11 | (g * 63 + 127) / 255 << 5 | (b * 31 + 127) / 255;
    return (r * 7 + 127) / 255 << 5 | (g * 7 + 127) / 255 << 2 | (b * 3 + 127) / 255;
}

static void set_pixel(struct client *c, unsigned x, unsigned y, uint32_t v)
{
    assert_true(x < c->width && y < c->height);
    c->screen.pixels[y * c->width + x] = v;
    c->pixels++;
}

static uint32_t pixel_value(const struct client *c, const uint8_t *p, unsigned bytes)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < bytes; i++)
        v |= (uint32_t)p[c->big_endian ? bytes - 1 - i : i] << (8 * i);
    return v;
}

static void get_raw(struct client *c, unsigned x, unsigned y, unsigned width, unsigned height)
{
    uint8_t *data = malloc((size_t)width * height * c->bytes);
    get(c, data, (size_t)width * height * c->bytes);
    for (unsigned i = 0; i < width * height; i++)
        set_pixel(c, x + i % width, y + i / width, pixel_value(c, data + i * c->bytes, c->bytes));
    free(data);
}

static void get_zrle(struct client *c, unsigned x0, unsigned y0, unsigned width, unsigned height)
{
    uint32_t size = get32(c);
    uint8_t *packed = malloc(size), *data = malloc((size_t)width * height * 4 + 100000), *p = data;
    unsigned bytes = c->bytes == 4 ? 3 : c->bytes; /* of our formats all lie in the lower three */
    get(c, packed, size);
    c->z.next_in = packed;
    c->z.avail_in = size;
    c->z.next_out = data;
    c->z.avail_out = width * height * 4 + 100000;
    assert_int_equal(inflate(&c->z, Z_SYNC_FLUSH), Z_OK);
    assert_int_equal(c->z.avail_in, 0);
    for (unsigned ty = 0; ty < height; ty += 64)
        for (unsigned tx = 0; tx < width; tx += 64) {
            unsigned tw = DP_MIN(64u, width - tx), th = DP_MIN(64u, height - ty), colours = *p++, bits;
            uint32_t palette[16];
            assert_true(colours <= 16);
            for (unsigned i = 0; i < colours; i++, p += bytes)
                palette[i] = pixel_value(c, p, bytes);
            bits = colours <= 2 ? 1 : colours <= 4 ? 2 : 4;
            for (unsigned y = 0; y < th; y++) {
                for (unsigned x = 0; x < tw; x++) {
                    uint32_t v;
                    if (colours == 0)
                        v = pixel_value(c, p, bytes), p += bytes;
                    else if (colours == 1)
                        v = palette[0];
                    else
                        v = palette[p[x * bits / 8] >> (8 - bits - x * bits % 8) & ((1 << bits) - 1)];
                    set_pixel(c, x0 + tx + x, y0 + ty + y, v);
                }
                p += colours > 1 ? (tw * bits + 7) / 8 : 0;
            }
        }
    assert_int_equal(p - data, c->z.next_out - data);
    free(packed);
    free(data);
}

static void get_update(struct client *c)
{
    assert_int_equal(get16(c), 0);
    for (unsigned rects = get16(c); rects--;) {
        unsigned x = get16(c), y = get16(c), width = get16(c), height = get16(c);
        switch ((int32_t)get32(c)) {
        case 0: get_raw(c, x, y, width, height); break;
        case 16: get_zrle(c, x, y, width, height); break;
        case -223:
            c->width = width;
            c->height = height;
            c->resizes++;
            assert_int_equal(dp_display_picture_resize(&c->screen, width, height, NULL), 0);
            memset(c->screen.pixels, 0x55, (size_t)width * height * 4);
            break;
        case -308:
            assert_int_equal(get32(c), 1u << 24); /* one screen */
            get32(c); /* its name */
            assert_int_equal(get32(c), 0);
            assert_int_equal(get16(c), width);
            assert_int_equal(get16(c), height);
            assert_int_equal(get32(c), 0);
            c->told++;
            c->reason = x;
            c->status = y;
            if (c->width == width && c->height == height)
                break;
            c->width = width;
            c->height = height;
            c->resizes++;
            assert_int_equal(dp_display_picture_resize(&c->screen, width, height, NULL), 0);
            memset(c->screen.pixels, 0x55, (size_t)width * height * 4);
            break;
        case -258: c->qemu_keys = true; break;
        default: fail_msg("what encoding?");
        }
    }
}

static void request(struct client *c, bool incremental)
{
    PUT(c, 3, incremental, 0, 0, 0, 0, (uint8_t)(c->width >> 8), (uint8_t)c->width, (uint8_t)(c->height >> 8), (uint8_t)c->height);
}

/* What the client has is what the screen shows, cut to the client's size, or with black around it. */
static void expect_screen(struct client *c)
{
    const struct dp_display_picture *p = &c->w->f.picture;
    for (unsigned y = 0; y < c->height; y++)
        for (unsigned x = 0; x < c->width; x++)
            if (c->screen.pixels[y * c->width + x] != reduce(c, x < p->width && y < p->height ? p->pixels[y * p->width + x] : 0))
                fail_msg("pixel %u,%u of %ux%u", x, y, c->width, c->height);
}

static void expect_silence(struct client *c)
{
    uint8_t b;
    for (unsigned i = 0; i < 12; i++)
        dp_loop_poll(c->w->loop, 10);
    assert_int_equal(recv(c->fd, &b, 1, MSG_DONTWAIT | MSG_PEEK), -1);
}

static struct world *world(unsigned width, unsigned height, unsigned colours, bool absolute)
{
    struct world *w = calloc(1, sizeof *w);
    begin(w, &(struct dp_vnc_options){0}, absolute);
    fake_draw(&w->f, width, height, colours, &w->r);
    return w;
}

/* ---- handshakes ---- */

static void versions(void **state)
{
    struct world *w = world(64, 48, 2, false);
    struct client c;
    static const struct { const char *version; unsigned minor; } good[] = {
        {"RFB 003.003\n", 3}, {"RFB 003.005\n", 3}, {"RFB 003.007\n", 7}, {"RFB 003.008\n", 8}, {"RFB 003.889\n", 8}, {"RFB 004.001\n", 8}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(good); i++) {
        connect_to(&c, w);
        expect_bytes(&c, "RFB 003.008\n", 12);
        put(&c, good[i].version, 12);
        if (good[i].minor == 3) {
            assert_int_equal(get32(&c), 1);
        } else {
            expect_bytes(&c, "\1\1", 2);
            PUT(&c, 1);
            if (good[i].minor == 8)
                assert_int_equal(get32(&c), 0);
        }
        init(&c);
        assert_int_equal(c.width, 64);
        request(&c, false);
        get_update(&c); /* raw, when no encodings are named */
        expect_screen(&c);
        leave(&c);
        assert_int_equal(dp_vnc_clients(w->v), 0);
    }
    static const char *const bad[] = {"RFB 002.008\n", "GET / HTTP/1", "RFB xxx.yyy\n", "RFB 003.008x"};
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++) {
        connect_to(&c, w);
        expect_bytes(&c, "RFB 003.008\n", 12);
        put(&c, bad[i], 12);
        expect_end(&c);
    }
    end(w);
}

static void password(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct client c;
    uint8_t challenge[16], response[16], first[16];
    static const uint8_t known[16] = {0xb8, 0x0d, 0xe5, 0x95, 0x6a, 0x1b, 0x84, 0xee, 0x16, 0xe8, 0x1f, 0x8e, 0x08, 0x2a, 0xb0, 0x8e};
    for (uint8_t i = 0; i < 16; i++)
        challenge[i] = i;
    dp_vnc_response("pass12", challenge, response); /* as openssl enc -des-ecb has it */
    assert_memory_equal(response, known, 16);

    begin(w, &(struct dp_vnc_options){.password = "pass12"}, false);
    fake_draw(&w->f, 64, 48, 2, &w->r);
    for (unsigned attempt = 0; attempt < 3; attempt++) {
        connect_to(&c, w);
        expect_bytes(&c, "RFB 003.008\n", 12);
        put(&c, "RFB 003.008\n", 12);
        expect_bytes(&c, "\1\2", 2);
        if (attempt == 2) { /* a type that was not offered opens nothing */
            PUT(&c, 1, 1);
            assert_int_equal(get32(&c), 1);
            for (uint32_t n = get32(&c); n; n--)
                get(&c, challenge, 1);
            expect_end(&c);
            break;
        }
        PUT(&c, 2);
        get(&c, challenge, 16);
        dp_vnc_response(attempt ? "pass13" : "pass12", challenge, response);
        put(&c, response, 16);
        if (attempt) {
            assert_memory_not_equal(challenge, first, 16);
            assert_int_equal(get32(&c), 1);
            assert_int_equal(get32(&c), strlen("wrong password"));
            expect_bytes(&c, "wrong password", strlen("wrong password"));
            expect_end(&c);
        } else {
            memcpy(first, challenge, 16);
            assert_int_equal(get32(&c), 0);
            init(&c);
            leave(&c);
        }
    }
    /* RFB 3.3, and guesses without end: after ten wrong ones the right one is refused too. */
    for (unsigned attempt = 0; attempt < 12; attempt++) {
        connect_to(&c, w);
        expect_bytes(&c, "RFB 003.008\n", 12);
        put(&c, "RFB 003.003\n", 12);
        assert_int_equal(get32(&c), 2);
        get(&c, challenge, 16);
        dp_vnc_response(attempt == 0 || attempt == 11 ? "pass12" : "guess", challenge, response);
        put(&c, response, 16);
        assert_int_equal(get32(&c), attempt != 0);
        if (attempt)
            expect_end(&c);
        else
            leave(&c);
    }
    end(w);
}

/* ---- pictures ---- */

static void frames(void **state)
{
    static const struct { unsigned width, height, colours; } screen[] = {{720, 400, 16}, {640, 480, 1}, {65, 129, 1000}, {1, 1, 2}, {320, 200, 3}, {800, 600, 0}};
    for (unsigned s = 0; s < DP_ARRAY_LEN(screen); s++)
        for (unsigned variant = 0; variant < 10; variant++) {
            struct world *w = world(screen[s].width, screen[s].height, screen[s].colours, false);
            struct client c;
            join(&c, w);
            if (variant % 2)
                ENCODINGS(&c, 5, 16, 0);
            if (variant / 2)
                set_format(&c, variant / 2 == 1 ? 1 : variant / 2 < 4 ? 2 : 4, variant / 2 == 3 || variant / 2 == 4);
            request(&c, false);
            get_update(&c);
            expect_screen(&c);
            for (unsigned i = 0; i < 3; i++) { /* changes here and there */
                uint64_t v = dp_random_next(&w->r);
                w->f.picture.pixels[v % (screen[s].width * screen[s].height)] ^= 0xf0f0f0;
                w->f.generation++;
                request(&c, true);
                get_update(&c);
                expect_screen(&c);
            }
            leave(&c);
            end(w);
        }
}

static void increments(void **state)
{
    struct world *w = world(640, 480, 5, false);
    struct client c, d;
    join(&c, w);
    ENCODINGS(&c, 0);
    request(&c, false);
    get_update(&c);
    assert_int_equal(c.pixels, 640 * 480);
    request(&c, true);
    unsigned pictures = w->f.pictures;
    expect_silence(&c);
    assert_int_equal(w->f.pictures, pictures); /* the generation stands: nobody renders */
    w->f.generation++; /* a false alarm */
    expect_silence(&c);
    w->f.picture.pixels[100 * 640 + 130] ^= 0xff;
    w->f.generation++;
    get_update(&c);
    expect_screen(&c);
    assert_int_equal(c.pixels, 640 * 480 + 64 * 64); /* one tile */

    /* Another who comes later sees all; each gets what it has not seen. */
    join(&d, w);
    ENCODINGS(&d, 16);
    request(&d, true);
    get_update(&d);
    expect_screen(&d);
    w->f.picture.pixels[639] ^= 0xff;
    w->f.generation++;
    request(&d, true);
    get_update(&d);
    w->f.picture.pixels[640 * 479] ^= 0xff;
    w->f.generation++;
    request(&c, true);
    get_update(&c);
    expect_screen(&c);
    assert_int_equal(c.pixels, 640 * 480 + 64 * 64 + 64 * 64 + 64 * 32);

    /* A source that fails leaves the last picture standing. */
    w->f.fails = EIO;
    w->f.generation++;
    request(&c, false);
    get_update(&c);
    expect_screen(&c);
    leave(&c);
    leave(&d);
    assert_int_equal(dp_vnc_clients(w->v), 0);
    pictures = w->f.pictures;
    for (unsigned i = 0; i < 10; i++)
        dp_loop_poll(w->loop, 10);
    assert_int_equal(w->f.pictures, pictures); /* nobody looks */
    end(w);
}

static void sizes(void **state)
{
    struct world *w = world(720, 400, 5, false);
    struct client able, plain;
    static const struct { unsigned width, height; } size[] = {{640, 480}, {1024, 768}, {320, 200}, {720, 400}};
    join(&able, w);
    join(&plain, w);
    ENCODINGS(&able, 16, -223);
    ENCODINGS(&plain, 16);
    for (unsigned i = 0; i < DP_ARRAY_LEN(size); i++) {
        request(&able, i == 0);
        request(&plain, i == 0);
        get_update(&able);
        get_update(&plain);
        request(&able, true);
        request(&plain, true);
        fake_draw(&w->f, size[i].width, size[i].height, 5, &w->r);
        get_update(&plain);
        assert_int_equal(plain.width, 720);
        assert_int_equal(plain.height, 400);
        expect_screen(&plain);
        get_update(&able);
        assert_int_equal(able.resizes, i + 1);
        assert_int_equal(able.width, size[i].width);
        request(&able, true);
        get_update(&able);
        expect_screen(&able);
    }
    /* A screen switched off keeps its size. */
    request(&able, true);
    fake_draw(&w->f, 0, 0, 0, &w->r);
    get_update(&able);
    assert_int_equal(able.width, 720);
    expect_screen(&able);
    leave(&able);
    leave(&plain);
    end(w);

    w = world(0, 0, 0, false); /* from the beginning */
    join(&able, w);
    assert_int_equal(able.width, 720);
    request(&able, false);
    get_update(&able);
    expect_screen(&able);
    leave(&able);
    end(w);
    w = world(0, 0, 0, false); /* a source that never works */
    w->f.fails = EIO;
    join(&able, w);
    request(&able, false);
    get_update(&able);
    expect_screen(&able);
    leave(&able);
    end(w);
}

/* ---- keys and pointer ---- */

/* SetDesktopSize: told once that it can be, answered each time, and what comes of it comes as any new size. */
static void wishes(void **state)
{
    struct world *w = world(640, 480, 5, false);
    struct client c;
    join(&c, w);
    ENCODINGS(&c, 16, -308);
    request(&c, false);
    get_update(&c);
    assert_int_equal(c.told, 1);
    assert_int_equal(c.reason, 0);
    assert_int_equal(c.status, 0);
    expect_screen(&c);
    static const struct { unsigned width, height, screens, status; bool fixed; } wish[] = {
        {800, 600, 1, 4, false}, {640, 480, 0, 0, false}, {0, 600, 1, 3, false}, {1024, 768, 3, 1, true}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(wish); i++) {
        w->f.fixed = wish[i].fixed;
        w->f.wished_width = w->f.wished_height = 0;
        PUT(&c, 251, 0, (uint8_t)(wish[i].width >> 8), (uint8_t)wish[i].width, (uint8_t)(wish[i].height >> 8), (uint8_t)wish[i].height, (uint8_t)wish[i].screens, 0);
        for (unsigned k = 0; k < wish[i].screens; k++)
            PUT(&c, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0);
        request(&c, true);
        get_update(&c);
        assert_int_equal(c.told, i + 2);
        assert_int_equal(c.reason, 1);
        assert_int_equal(c.status, wish[i].status);
        bool asked = wish[i].status == 4 || wish[i].status == 1;
        assert_int_equal(w->f.wished_width, asked ? wish[i].width : 0);
        assert_int_equal(w->f.wished_height, asked ? wish[i].height : 0);
    }
    request(&c, true);
    expect_silence(&c);
    fake_draw(&w->f, 800, 600, 5, &w->r); /* the guest follows */
    get_update(&c);
    assert_int_equal(c.resizes, 1);
    assert_int_equal(c.reason, 0);
    request(&c, true);
    get_update(&c);
    expect_screen(&c);
    leave(&c);
    end(w);
}

static void keysym(struct client *c, uint32_t sym, bool down)
{
    PUT(c, 4, down, 0, 0, (uint8_t)(sym >> 24), (uint8_t)(sym >> 16), (uint8_t)(sym >> 8), (uint8_t)sym);
}

static void expect_events(struct world *w, const char *events)
{
    for (unsigned i = 0; i < 20 || (i < 1000 && strcmp(w->f.events, events)); i++)
        dp_loop_poll(w->loop, 0);
    if (strcmp(w->f.events, events))
        fail_msg("events '%s', not '%s'", w->f.events, events);
    w->f.size = 0;
    w->f.events[0] = 0;
}

static void keys(void **state)
{
    struct world *w = world(64, 64, 2, false);
    struct client c;
    enum { SHIFT_L = 0xffe1, CTRL_L = 0xffe3, CAPS = 0xffe5 };
    join(&c, w);
    keysym(&c, 'a', true), keysym(&c, 'a', false);
    expect_events(w, "+30 -30 ");
    keysym(&c, SHIFT_L, true), keysym(&c, 'A', true), keysym(&c, 'A', false), keysym(&c, SHIFT_L, false);
    expect_events(w, "+42 +30 -30 -42 ");
    keysym(&c, '!', true), keysym(&c, '!', false); /* who only says characters gets shift */
    expect_events(w, "+42 +2 -2 -42 ");
    keysym(&c, SHIFT_L, true), keysym(&c, '/', true), keysym(&c, '/', false), keysym(&c, SHIFT_L, false); /* a German 7 */
    expect_events(w, "+42 -42 +53 -53 +42 -42 ");
    keysym(&c, CTRL_L, true), keysym(&c, 'C', true), keysym(&c, 'C', false), keysym(&c, CTRL_L, false);
    expect_events(w, "+29 +46 -46 -29 ");
    keysym(&c, CAPS, true), keysym(&c, CAPS, false), keysym(&c, 'A', true), keysym(&c, 'A', false);
    expect_events(w, "+58 -58 +30 -30 ");
    keysym(&c, 0xff0d, true), keysym(&c, 0xff0d, false), keysym(&c, 0xff8d, true), keysym(&c, 0xff8d, false), keysym(&c, 0xffff, true), keysym(&c, 0xffff, false);
    expect_events(w, "+28 -28 +96 -96 +111 -111 ");
    keysym(&c, 0x1234567, true), keysym(&c, 0, true), keysym(&c, 0xffffffff, true), keysym(&c, 'x', false);
    expect_events(w, "");
    keysym(&c, 'a', true), keysym(&c, 'a', true); /* repeats are the guest's matter */
    expect_events(w, "+30 +30 ");
    keysym(&c, SHIFT_L, true), keysym(&c, 0xffe9, true);
    expect_events(w, "+42 +56 ");
    leave(&c); /* held keys are let go */
    expect_events(w, "-30 -56 -42 ");

    join(&c, w);
    ENCODINGS(&c, 0, -258);
    request(&c, false);
    get_update(&c);
    assert_true(c.qemu_keys);
    PUT(&c, 255, 0, 0, 1, 0, 0, 0, 'q', 0, 0, 0, 0x10, 255, 0, 0, 0, 0, 0, 0, 'q', 0, 0, 0, 0x10);
    expect_events(w, "+16 -16 ");
    PUT(&c, 255, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x9d, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x9d);
    expect_events(w, "+97 -97 ");
    PUT(&c, 255, 0, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 255, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 255, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xfe);
    expect_events(w, "");
    leave(&c);
    end(w);
}

static void pointers(void **state)
{
    for (unsigned absolute = 0; absolute < 2; absolute++) {
        struct world *w = world(640, 480, 2, absolute);
        struct client c;
        join(&c, w);
        PUT(&c, 5, 0, 0, 100, 0, 50);
        PUT(&c, 5, 1, 0, 110, 0, 45);
        PUT(&c, 5, 4, 0, 110, 0, 45);
        PUT(&c, 5, 2 | 8, 0, 110, 0, 45);
        PUT(&c, 5, 2 | 8, 0, 110, 0, 45);
        PUT(&c, 5, 16, 0xff, 0xff, 0xff, 0xff);
        PUT(&c, 5, 0, 0x02, 0x7f, 0x01, 0xdf);
        expect_events(w, absolute ? "p5127,3420,0,0 p5640,3078,0,1 p5640,3078,0,2 p5640,3078,1,4 p5640,3078,0,4 p32767,32767,-1,0 p32767,32767,0,0 "
                                  : "m0,0,0,0 m10,-5,0,1 m0,0,0,2 m0,0,1,4 m0,0,0,4 m529,434,-1,0 m0,0,0,0 ");
        PUT(&c, 5, 1, 0, 0, 0, 0);
        dp_loop_poll(w->loop, 0);
        w->f.size = 0;
        leave(&c);
        expect_events(w, absolute ? "p0,0,0,0 " : "m0,0,0,0 ");
        end(w);
    }
}

/* ---- clients that try it ---- */

static void rubbish(void **state)
{
    struct world *w = world(640, 480, 5, false);
    struct client c;
    uint8_t big[20000];
    join(&c, w);
    PUT(&c, 3, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff); /* a region beyond the screen: no more than the screen comes */
    get_update(&c);
    expect_screen(&c);
    assert_int_equal(c.pixels, 640 * 480);
    PUT(&c, 6, 0, 0, 0, 0, 0, 0x4e, 0x20); /* a clipboard of 20000 bytes, in pieces */
    memset(big, 4, sizeof big);
    put(&c, big, sizeof big);
    keysym(&c, 'a', true), keysym(&c, 'a', false);
    expect_events(w, "+30 -30 ");
    PUT(&c, 2, 0, 0xff, 0xff); /* 65535 encodings */
    for (unsigned i = 0; i < 65535 * 4 / 20000 + 1; i++)
        put(&c, big, DP_MIN(sizeof big, 65535u * 4 - i * sizeof big));
    keysym(&c, 'a', true), keysym(&c, 'a', false);
    expect_events(w, "+30 -30 ");
    leave(&c);

    static const uint8_t formats[][16] = {{8, 8, 0, 0, 0, 7, 0, 7, 0, 3, 0, 3, 6}, {24, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16},
                                          {32, 24, 0, 1, 0, 0, 0, 255, 0, 255, 0, 8, 16}, {32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 32, 8, 16},
                                          {32, 24, 0, 1, 0xff, 0xff, 0, 255, 0, 255, 24, 8, 16}, {8, 8, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16}, {0}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(formats); i++) {
        join(&c, w);
        PUT(&c, 0, 0, 0, 0);
        put(&c, formats[i], 16);
        expect_end(&c);
    }
    static const uint8_t messages[] = {1, 7, 8, 100, 150, 248, 252};
    for (unsigned i = 0; i < sizeof messages; i++) {
        join(&c, w);
        PUT(&c, messages[i], 0, 0, 0);
        expect_end(&c);
    }
    join(&c, w);
    PUT(&c, 255, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    expect_end(&c);

    /* One that asks and asks and does not read owes us nothing but one frame. */
    join(&c, w);
    for (unsigned i = 0; i < 3000; i++) {
        request(&c, false);
        w->f.picture.pixels[i] ^= 1;
        w->f.generation++;
    }
    size_t got = 0;
    for (unsigned i = 0; i < 400; i++) {
        ssize_t n = recv(c.fd, big, sizeof big, MSG_DONTWAIT);
        got += n > 0 ? (size_t)n : 0;
        dp_loop_poll(w->loop, 0);
    }
    assert_true(got > 640 * 480 * 4 && got < 3 * 640 * 480 * 4 + 1000);
    leave(&c);
    assert_int_equal(dp_vnc_clients(w->v), 0);
    end(w);
}

static void many(void **state)
{
    struct world *w = world(64, 64, 2, false);
    struct client c[DP_VNC_CLIENTS_MAX + 1], late;
    for (unsigned i = 0; i < DP_VNC_CLIENTS_MAX; i++)
        i < 2 ? join(&c[i], w) : connect_to(&c[i], w);
    connect_to(&late, w); /* the oldest that has said nothing makes room */
    assert_int_equal(dp_vnc_clients(w->v), DP_VNC_CLIENTS_MAX);
    expect_bytes(&c[2], "RFB 003.008\n", 12);
    expect_end(&c[2]);
    leave(&late);
    for (unsigned i = 3; i < DP_VNC_CLIENTS_MAX; i++)
        leave(&c[i]);
    for (unsigned i = 2; i < DP_VNC_CLIENTS_MAX; i++)
        join(&c[i], w);
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    assert_int_equal(dp_vnc_adopt(w->v, ends[1], &w->e), -EBUSY);
    close(ends[0]);
    for (unsigned i = 0; i < DP_VNC_CLIENTS_MAX; i++)
        leave(&c[i]);
    end(w);
}

/* Who connects while nothing can be opened any more is turned away, and does not keep the loop busy. */
static void no_descriptors(void **state)
{
    struct world *w = world(64, 64, 2, false);
    struct dp_display_source source = fake_source(&w->f);
    struct dp_input_sink sink = fake_sink(&w->f, false);
    struct dp_vnc *v;
    struct rlimit before, few;
    char folder[] = "/tmp/dp-vnc-XXXXXX", byte;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    assert_non_null(mkdtemp(folder));
    snprintf(a.sun_path, sizeof a.sun_path, "%s/s", folder);
    assert_ok(dp_vnc_open(w->loop, &(struct dp_vnc_options){.path = a.sun_path}, &source, &sink, &v, &w->e), w->e);
    for (unsigned i = 0; i < 2; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0), lowest = dup(fd);
        assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
        close(lowest);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
        few = (struct rlimit){(rlim_t)lowest, before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        dp_loop_poll(w->loop, 10);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
        assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
        assert_int_equal(dp_vnc_clients(v), 0);
        close(fd);
    }
    dp_vnc_close(v);
    assert_int_equal(rmdir(folder), 0);
    end(w);
}

/* ---- addresses ---- */

static void addresses(void **state)
{
    struct world *w = world(64, 64, 2, false);
    struct dp_display_source source = fake_source(&w->f);
    struct dp_input_sink sink = fake_sink(&w->f, false);
    struct dp_vnc *v;
    struct dp_error *e = &w->e;
    static const struct { const char *address; int error; const char *words; } bad[] = {
        {"5900", -EINVAL, "HOST:PORT"}, {"127.0.0.1:", -EINVAL, "HOST:PORT"}, {":5900", -EINVAL, "HOST:PORT"}, {"127.0.0.1:65536", -EINVAL, "HOST:PORT"},
        {"127.0.0.1:1x", -EINVAL, "HOST:PORT"}, {"::1:5900", -EINVAL, "HOST:PORT"}, {"0.0.0.0:0", -EACCES, "password-file"},
        {"[::]:0", -EACCES, "password-file"}, {"no.such.host.invalid:1", -EADDRNOTAVAIL, "no.such.host"}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++) {
        int rc = dp_vnc_open(w->loop, &(struct dp_vnc_options){.address = bad[i].address}, &source, &sink, &v, e);
        if (rc != bad[i].error && !(rc == -EADDRNOTAVAIL && strstr(bad[i].address, "[::]")))
            fail_msg("%s: %d: %s", bad[i].address, rc, e->text);
        if (rc == bad[i].error)
            assert_non_null(strstr(e->text, bad[i].words));
    }
    assert_ok(dp_vnc_open(w->loop, &(struct dp_vnc_options){.address = "0.0.0.0:0", .password = "x"}, &source, &sink, &v, e), *e);
    assert_int_equal(strncmp(dp_vnc_address(v), "0.0.0.0:", 8), 0);
    dp_vnc_close(v);
    assert_ok(dp_vnc_open(w->loop, &(struct dp_vnc_options){.address = "127.0.0.1:0"}, &source, &sink, &v, e), *e);
    struct dp_vnc *second;
    assert_int_equal(dp_vnc_open(w->loop, &(struct dp_vnc_options){.address = dp_vnc_address(v)}, &source, &sink, &second, e), -EADDRINUSE);
    dp_vnc_close(v);

    /* Unix sockets: a live one is not taken away, a dead one is, and what is no socket stays. */
    char folder[] = "/tmp/dp-vnc-XXXXXX", path[40];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/s", folder);
    assert_ok(dp_vnc_open(w->loop, &(struct dp_vnc_options){.path = path}, &source, &sink, &v, e), *e);
    assert_string_equal(dp_vnc_address(v), path);
    assert_int_equal(dp_vnc_open(w->loop, &(struct dp_vnc_options){.path = path}, &source, &sink, &second, e), -EADDRINUSE);
    dp_vnc_close(v);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    close(fd);
    assert_ok(dp_vnc_open(w->loop, &(struct dp_vnc_options){.path = path}, &source, &sink, &v, e), *e);
    dp_vnc_close(v);
    close(open(path, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(dp_vnc_open(w->loop, &(struct dp_vnc_options){.path = path}, &source, &sink, &v, e), -EADDRINUSE);
    assert_int_equal(unlink(path), 0);
    char longer[200];
    memset(longer, 'x', sizeof longer);
    longer[199] = 0;
    assert_int_equal(dp_vnc_open(w->loop, &(struct dp_vnc_options){.path = longer}, &source, &sink, &v, e), -ENAMETOOLONG);
    assert_int_equal(rmdir(folder), 0);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_descriptors), cmocka_unit_test(versions), cmocka_unit_test(password), cmocka_unit_test(frames), cmocka_unit_test(increments), cmocka_unit_test(sizes), cmocka_unit_test(wishes),
        cmocka_unit_test(keys),     cmocka_unit_test(pointers), cmocka_unit_test(rubbish), cmocka_unit_test(many),      cmocka_unit_test(addresses),
    };
    return cmocka_run_group_tests_name("vnc", tests, NULL, NULL);
}
