/* vnc.c - see vnc.h. */
#include "display/vnc.h"

#include <fcntl.h>
#include <linux/input-event-codes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "display/ticker.h"
#include "display/vnc_internal.h"

enum {
    IN_SIZE = 4096,
    PERIOD_MS = 33,
    TILES = DP_DISPLAY_MAX_WIDTH / DP_VNC_TILE, /* in each direction */
    KEYS = 256,
    BLANK_WIDTH = 720, BLANK_HEIGHT = 400, /* until the source shows a picture */
    LISTEN_MAX = 4,
    FAILURES_MAX = 10, FAILURES_SECONDS = 60, /* guessing passwords goes so fast and no faster */
};
enum { CLOSE = -1 }; /* what the functions that take a message return: bytes taken, 0: more are needed, or this */

enum { ENCODING_RAW = 0, ENCODING_ZRLE = 16, ENCODING_DESKTOP_SIZE = -223, ENCODING_QEMU_KEY = -258,
       ENCODING_EXTENDED_DESKTOP_SIZE = -308 };
/* ExtendedDesktopSize: why it is told, and what became of a client's wish. */
enum { SIZE_BY_SERVER = 0, SIZE_BY_CLIENT = 1 };
enum { SIZE_OK = 0, SIZE_PROHIBITED = 1, SIZE_INVALID = 3, SIZE_FORWARDED = 4 /* it may come, later */ };
enum { SECURITY_NONE = 1, SECURITY_VNC = 2 };

struct client {
    struct dp_vnc *vnc; /* NULL: the place is free */
    int fd;
    uint64_t number; /* of connections before it */
    enum { VERSION, SECURITY, CHALLENGE, INIT, READY } state;
    unsigned minor; /* of the protocol: 3, 7 or 8 */
    uint8_t challenge[16];
    bool doomed; /* closed as soon as what it is owed has left */

    uint8_t in[IN_SIZE];
    size_t in_size, out_done;
    uint64_t skip;           /* bytes of a message that are of no interest */
    unsigned encodings_left; /* of a SetEncodings, still to come */
    bool encoding_chosen;
    struct dp_buffer out;

    struct dp_vnc_format format;
    bool zrle, resizes, qemu_keys, qemu_told, zlib_made;
    bool extended, extended_told; /* it understands ExtendedDesktopSize; knows that we do */
    bool size_wished;             /* it asked for a size and has no answer yet, which is */
    uint8_t size_status;
    z_stream z;
    uint16_t width, height; /* of the screen, as it knows it */
    bool requested, full;
    uint64_t seen;

    bool down[KEYS];
    enum { NOTHING, SHIFT_ADDED, SHIFT_TAKEN } fix[KEYS];
    bool caps;
    bool pointed;
    uint16_t x, y;
    uint8_t buttons; /* RFB's */
};

struct dp_vnc {
    struct dp_loop *loop;
    struct dp_display_source source;
    struct dp_input_sink sink;
    struct dp_ticker ticker;
    char *name, *password, *path;
    char address[300];
    int listen_fd[LISTEN_MAX], reserve_fd;
    unsigned listeners;
    struct dp_display_picture now, next;
    bool shown; /* `generation` says when */
    uint64_t generation;
    uint64_t serial, tile[TILES][TILES]; /* when each tile changed: [row][column] */
    uint64_t connections;
    unsigned failures; /* wrong passwords, since */
    time_t failures_since;
    struct client client[DP_VNC_CLIENTS_MAX];
};

static void put16(struct dp_buffer *b, unsigned v) { dp_buffer_append(b, (uint8_t[]){(uint8_t)(v >> 8), (uint8_t)v}, 2); }
static void put32(struct dp_buffer *b, uint32_t v)
{
    put16(b, v >> 16);
    put16(b, v & 0xffff);
}
static unsigned get16(const uint8_t *p) { return (unsigned)p[0] << 8 | p[1]; }
static uint32_t get32(const uint8_t *p) { return (uint32_t)get16(p) << 16 | get16(p + 2); }

/* ---- the picture ---- */

static void mark_all(struct dp_vnc *v)
{
    v->serial++;
    for (unsigned y = 0; y < TILES; y++)
        for (unsigned x = 0; x < TILES; x++)
            v->tile[y][x] = v->serial;
}

/* Gives the tiles that differ between now and next, of the same size, the next serial. */
static void mark_changes(struct dp_vnc *v)
{
    uint32_t width = v->now.width;
    uint64_t serial = v->serial + 1;
    for (uint32_t y = 0; y < v->now.height; y++) {
        const uint32_t *a = v->now.pixels + (size_t)y * width, *b = v->next.pixels + (size_t)y * width;
        if (!memcmp(a, b, width * sizeof *a))
            continue;
        uint64_t *row = v->tile[y / DP_VNC_TILE];
        for (uint32_t x = 0; x < width; x += DP_VNC_TILE)
            if (row[x / DP_VNC_TILE] != serial && memcmp(a + x, b + x, DP_MIN((uint32_t)DP_VNC_TILE, width - x) * sizeof *a))
                row[x / DP_VNC_TILE] = v->serial = serial;
    }
}

/* Asks the source for news. What it cannot give leaves the old picture standing. */
static void look(struct dp_vnc *v)
{
    uint64_t generation = v->source.generation(v->source.opaque); /* before the picture: what changes meanwhile is seen next time */
    if (v->shown && generation == v->generation)
        return;
    v->next.width = v->next.height = 0;
    int rc = v->source.picture(v->source.opaque, &v->next, NULL);
    if (!rc && (!v->next.width || !v->next.height)) { /* blank: black, and no new size */
        rc = dp_display_picture_resize(&v->next, v->shown ? v->now.width : BLANK_WIDTH, v->shown ? v->now.height : BLANK_HEIGHT, NULL);
        if (!rc)
            memset(v->next.pixels, 0, (size_t)v->next.width * v->next.height * sizeof *v->next.pixels);
    }
    if (rc)
        return;
    if (v->next.width != v->now.width || v->next.height != v->now.height)
        mark_all(v);
    else
        mark_changes(v);
    struct dp_display_picture old = v->now;
    v->now = v->next;
    v->next = old;
    v->generation = generation;
    v->shown = true;
}

/* ---- keys and pointer ---- */

static void key(struct client *k, unsigned code, bool down)
{
    if (!code || code >= KEYS || (!down && !k->down[code]))
        return;
    k->down[code] = down;
    k->vnc->sink.key(k->vnc->sink.opaque, code, down);
}

/* Shift as the guest sees it, for the length of one character's key. */
static void set_shift(struct client *k, bool down)
{
    void (*fn)(void *, unsigned, bool) = k->vnc->sink.key;
    void *opaque = k->vnc->sink.opaque;
    if (down)
        fn(opaque, KEY_LEFTSHIFT, true);
    for (unsigned i = 0; !down && i < 2; i++)
        if (k->down[i ? KEY_RIGHTSHIFT : KEY_LEFTSHIFT])
            fn(opaque, i ? KEY_RIGHTSHIFT : KEY_LEFTSHIFT, false);
}

static void undo_fix(struct client *k, unsigned code)
{
    void (*fn)(void *, unsigned, bool) = k->vnc->sink.key;
    void *opaque = k->vnc->sink.opaque;
    if (k->fix[code] == SHIFT_ADDED && !k->down[KEY_LEFTSHIFT])
        fn(opaque, KEY_LEFTSHIFT, false);
    for (unsigned i = 0; k->fix[code] == SHIFT_TAKEN && i < 2; i++)
        if (k->down[i ? KEY_RIGHTSHIFT : KEY_LEFTSHIFT])
            fn(opaque, i ? KEY_RIGHTSHIFT : KEY_LEFTSHIFT, true);
    k->fix[code] = NOTHING;
}

static void keysym(struct client *k, uint32_t sym, bool down)
{
    bool needs_shift, character;
    unsigned code = dp_vnc_key_of_keysym(sym, &needs_shift, &character);
    bool held = k->down[KEY_LEFTSHIFT] || k->down[KEY_RIGHTSHIFT];
    bool letter = character && ((sym | 0x20) >= 'a' && (sym | 0x20) <= 'z');
    bool control = k->down[KEY_LEFTCTRL] || k->down[KEY_RIGHTCTRL] || k->down[KEY_LEFTALT];
    if (!code)
        return;
    if (down && code == KEY_CAPSLOCK && !k->down[code])
        k->caps = !k->caps;
    if (down && k->fix[code] != NOTHING) /* repeats, or came again as another character */
        undo_fix(k, code);
    if (down && character && needs_shift != held && !(letter && (k->caps || control))) {
        k->fix[code] = needs_shift ? SHIFT_ADDED : SHIFT_TAKEN;
        set_shift(k, needs_shift);
    }
    key(k, code, down);
    if (!down && k->fix[code] != NOTHING)
        undo_fix(k, code);
}

static unsigned sink_buttons(uint8_t rfb)
{
    return (rfb & 1 ? DP_INPUT_LEFT : 0) | (rfb & 2 ? DP_INPUT_MIDDLE : 0) | (rfb & 4 ? DP_INPUT_RIGHT : 0);
}

static void pointer(struct client *k, uint8_t buttons, unsigned x, unsigned y)
{
    const struct dp_input_sink *sink = &k->vnc->sink;
    uint8_t pressed = buttons & ~k->buttons;
    int wheel = !!(pressed & 8) - !!(pressed & 16);
    x = DP_MIN(x, (unsigned)k->width - 1);
    y = DP_MIN(y, (unsigned)k->height - 1);
    if (sink->position && (!sink->absolute || sink->absolute(sink->opaque)))
        sink->position(sink->opaque, k->width > 1 ? x * 32767 / (k->width - 1u) : 0, k->height > 1 ? y * 32767 / (k->height - 1u) : 0,
                       wheel, sink_buttons(buttons));
    else if (sink->motion)
        sink->motion(sink->opaque, k->pointed ? (int)x - k->x : 0, k->pointed ? (int)y - k->y : 0, wheel, sink_buttons(buttons));
    k->pointed = true;
    k->x = (uint16_t)x;
    k->y = (uint16_t)y;
    k->buttons = buttons;
}

/* ---- updates ---- */

static void put_rect_head(struct client *k, struct dp_vnc_rect r, int32_t encoding)
{
    put16(&k->out, r.x);
    put16(&k->out, r.y);
    put16(&k->out, r.width);
    put16(&k->out, r.height);
    put32(&k->out, (uint32_t)encoding);
}

static bool put_rect(struct client *k, struct dp_vnc_rect r)
{
    put_rect_head(k, r, k->zrle ? ENCODING_ZRLE : ENCODING_RAW);
    if (k->zrle)
        return dp_vnc_encode_zrle(&k->out, &k->format, &k->vnc->now, r, &k->z);
    dp_vnc_encode_raw(&k->out, &k->format, &k->vnc->now, r);
    return true;
}

/* One screen, all of it. */
static void put_extended_size(struct client *k, unsigned reason, unsigned status)
{
    put_rect_head(k, (struct dp_vnc_rect){.x = (uint16_t)reason, .y = (uint16_t)status, .width = k->width, .height = k->height},
                  ENCODING_EXTENDED_DESKTOP_SIZE);
    put32(&k->out, 1u << 24); /* number of screens, padding */
    put32(&k->out, 0);        /* id, place, size, flags */
    put32(&k->out, 0);
    put16(&k->out, k->width);
    put16(&k->out, k->height);
    put32(&k->out, 0);
}

static bool is_owed(const struct client *k, unsigned row, unsigned column) { return k->full || k->vnc->tile[row][column] > k->seen; }

/* Answers the client's request, if it has one open, what it was sent before has left, and there is news. False: no memory. */
static bool update(struct client *k)
{
    struct dp_vnc *v = k->vnc;
    bool resize = (k->resizes || k->extended) && (k->width != v->now.width || k->height != v->now.height);
    bool tell_keys = k->qemu_keys && !k->qemu_told, tell_size = k->extended && ((!k->extended_told && !resize) || k->size_wished);
    if (k->state != READY || !k->requested || k->out.size || (!k->full && k->seen == v->serial && !resize && !tell_keys && !tell_size))
        return true;
    size_t start = k->out.size;
    unsigned rects = 0;
    put32(&k->out, 0); /* FramebufferUpdate, padding, number of rectangles */
    if (tell_keys) {
        put_rect_head(k, (struct dp_vnc_rect){0}, ENCODING_QEMU_KEY);
        k->qemu_told = true;
        rects++;
    }
    if (tell_size) {
        put_extended_size(k, k->size_wished ? SIZE_BY_CLIENT : SIZE_BY_SERVER, k->size_wished ? k->size_status : SIZE_OK);
        k->extended_told = true;
        k->size_wished = false;
        rects++;
    }
    if (resize) { /* alone, or last: what follows would be cut to the old size by some clients. They ask anew */
        k->width = (uint16_t)v->now.width;
        k->height = (uint16_t)v->now.height;
        if (k->extended) {
            put_extended_size(k, SIZE_BY_SERVER, SIZE_OK);
            k->extended_told = true;
        } else {
            put_rect_head(k, (struct dp_vnc_rect){.width = k->width, .height = k->height}, ENCODING_DESKTOP_SIZE);
        }
        k->full = true;
        rects++;
    } else {
        for (unsigned y = 0; y < k->height; y += DP_VNC_TILE)
            for (unsigned x = 0, end; x < k->width; x = end + DP_VNC_TILE) {
                for (end = x; end < k->width && is_owed(k, y / DP_VNC_TILE, end / DP_VNC_TILE);)
                    end += DP_VNC_TILE;
                if (end == x)
                    continue;
                struct dp_vnc_rect r = {.x = (uint16_t)x, .y = (uint16_t)y};
                r.width = (uint16_t)(DP_MIN(end, (unsigned)k->width) - x);
                r.height = (uint16_t)DP_MIN((unsigned)DP_VNC_TILE, k->height - y);
                if (!put_rect(k, r))
                    return false;
                rects++;
            }
        k->full = false;
        k->seen = v->serial;
    }
    if (k->out.failed)
        return false;
    if (!rects) { /* what changed lies outside of what this client can see */
        k->out.size = start;
        return true;
    }
    k->out.data[start + 2] = (uint8_t)(rects >> 8);
    k->out.data[start + 3] = (uint8_t)rects;
    k->requested = false;
    return true;
}

/* ---- messages ---- */

static void server_init(struct client *k)
{
    struct dp_vnc *v = k->vnc;
    look(v);
    if (!v->shown) { /* the source fails: black */
        if (dp_display_picture_resize(&v->now, BLANK_WIDTH, BLANK_HEIGHT, NULL)) {
            k->out.failed = true;
            return;
        }
        memset(v->now.pixels, 0, (size_t)BLANK_WIDTH * BLANK_HEIGHT * sizeof *v->now.pixels);
        mark_all(v);
    }
    k->width = (uint16_t)v->now.width;
    k->height = (uint16_t)v->now.height;
    put16(&k->out, k->width);
    put16(&k->out, k->height);
    dp_buffer_append(&k->out, dp_vnc_format_own, sizeof dp_vnc_format_own);
    put32(&k->out, (uint32_t)strlen(v->name));
    dp_buffer_append(&k->out, v->name, strlen(v->name));
    dp_vnc_format_set(&k->format, dp_vnc_format_own);
    k->state = READY;
}

static void refuse(struct client *k, const char *why)
{
    put32(&k->out, 1);
    if (k->minor >= 8) {
        put32(&k->out, (uint32_t)strlen(why));
        dp_buffer_append(&k->out, why, strlen(why));
    }
    k->doomed = true;
}

static void begin_security(struct client *k, unsigned type)
{
    if (type == SECURITY_VNC) {
        if (getrandom(k->challenge, sizeof k->challenge, GRND_NONBLOCK) != sizeof k->challenge) {
            k->doomed = true;
            return;
        }
        dp_buffer_append(&k->out, k->challenge, sizeof k->challenge);
        k->state = CHALLENGE;
    } else {
        if (k->minor >= 8)
            put32(&k->out, 0);
        k->state = INIT;
    }
}

static int on_version(struct client *k, const uint8_t *m, size_t n)
{
    if (n < 12)
        return 0;
    char text[13] = "", end;
    unsigned major, minor;
    memcpy(text, m, 12);
    if (sscanf(text, "RFB %3u.%3u%c", &major, &minor, &end) != 3 || end != '\n' || major < 3)
        return CLOSE;
    k->minor = major > 3 || minor >= 8 ? 8 : minor == 7 ? 7 : 3; /* 3.5 and the like are to be taken as 3.3 */
    unsigned type = k->vnc->password ? SECURITY_VNC : SECURITY_NONE;
    if (k->minor == 3) {
        put32(&k->out, type);
        begin_security(k, type);
    } else {
        dp_buffer_append(&k->out, (uint8_t[]){1, (uint8_t)type}, 2);
        k->state = SECURITY;
    }
    return 12;
}

static int on_security(struct client *k, const uint8_t *m, size_t n)
{
    if (n < 1)
        return 0;
    if (*m != (k->vnc->password ? SECURITY_VNC : SECURITY_NONE)) /* nothing but what was offered */
        refuse(k, "this security type was not offered");
    else
        begin_security(k, *m);
    return 1;
}

/* One more wrong password; or only the question whether there were too many. */
static bool too_many_failures(struct dp_vnc *v, bool one_more)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec - v->failures_since >= FAILURES_SECONDS) {
        v->failures = 0;
        v->failures_since = now.tv_sec;
    }
    v->failures += one_more;
    return v->failures >= FAILURES_MAX;
}

static int on_response(struct client *k, const uint8_t *m, size_t n)
{
    uint8_t right[16], differs = 0;
    if (n < sizeof right)
        return 0;
    dp_vnc_response(k->vnc->password, k->challenge, right);
    for (unsigned i = 0; i < sizeof right; i++)
        differs |= right[i] ^ m[i];
    if (too_many_failures(k->vnc, false)) {
        refuse(k, "too many wrong passwords: try again in a minute");
    } else if (differs) {
        too_many_failures(k->vnc, true);
        refuse(k, "wrong password");
    } else {
        put32(&k->out, 0);
        k->state = INIT;
    }
    return sizeof right;
}

static void take_encoding(struct client *k, int32_t encoding)
{
    switch (encoding) {
    case ENCODING_RAW: case ENCODING_ZRLE:
        if (k->encoding_chosen)
            break;
        if (encoding == ENCODING_ZRLE && !k->zlib_made) {
            if (deflateInit(&k->z, 1) != Z_OK) /* speed: the loop's thread does it */
                break;
            k->zlib_made = true;
        }
        k->encoding_chosen = true;
        k->zrle = encoding == ENCODING_ZRLE;
        break;
    case ENCODING_DESKTOP_SIZE: k->resizes = true; break;
    case ENCODING_EXTENDED_DESKTOP_SIZE: k->extended = true; break;
    case ENCODING_QEMU_KEY: k->qemu_keys = true; break;
    }
}

/* SetDesktopSize. The guest decides; a new size comes as any other. */
static void wish_size(struct client *k, unsigned width, unsigned height)
{
    const struct dp_display_source *s = &k->vnc->source;
    k->size_wished = true;
    if (!width || !height)
        k->size_status = SIZE_INVALID;
    else if (width == k->width && height == k->height)
        k->size_status = SIZE_OK;
    else
        k->size_status = s->resize && s->resize(s->opaque, width, height) ? SIZE_FORWARDED : SIZE_PROHIBITED;
}

static int on_message(struct client *k, const uint8_t *m, size_t n)
{
    static const uint8_t size[256] = {[0] = 20, [2] = 4, [3] = 10, [4] = 8, [5] = 6, [6] = 8, [251] = 8, [255] = 12};
    if (!n || n < size[*m])
        return 0;
    switch (*m) {
    case 0: /* SetPixelFormat */
        if (!dp_vnc_format_set(&k->format, m + 4))
            return CLOSE;
        k->full = true;
        break;
    case 2: /* SetEncodings */
        k->encodings_left = get16(m + 2);
        k->encoding_chosen = k->zrle = k->resizes = k->extended = k->qemu_keys = false;
        break;
    case 3: /* FramebufferUpdateRequest: where is of no interest, changes are few and sent whole */
        k->requested = true;
        k->full |= !m[1];
        look(k->vnc);
        break;
    case 4: /* KeyEvent */
        keysym(k, get32(m + 4), m[1]);
        break;
    case 5: /* PointerEvent */
        pointer(k, m[1], get16(m + 2), get16(m + 4));
        break;
    case 6: /* ClientCutText */
        k->skip = get32(m + 4);
        break;
    case 251: /* SetDesktopSize; how the client would arrange several screens is of no interest */
        wish_size(k, get16(m + 2), get16(m + 4));
        k->skip = (uint64_t)m[6] * 16;
        break;
    case 255: /* QEMU: only the extended key event is known */
        if (m[1])
            return CLOSE;
        key(k, dp_vnc_key_of_xt(get32(m + 8)), get16(m + 2));
        break;
    default:
        return CLOSE;
    }
    return size[*m];
}

static int take(struct client *k, const uint8_t *m, size_t n)
{
    if (k->skip) {
        size_t drop = (size_t)DP_MIN(k->skip, (uint64_t)n);
        k->skip -= drop;
        return (int)drop;
    }
    if (k->encodings_left) {
        if (n < 4)
            return 0;
        k->encodings_left--;
        take_encoding(k, (int32_t)get32(m));
        return 4;
    }
    switch (k->state) {
    case VERSION: return on_version(k, m, n);
    case SECURITY: return on_security(k, m, n);
    case CHALLENGE: return on_response(k, m, n);
    case INIT: /* ClientInit: everybody shares */
        if (!n)
            return 0;
        server_init(k);
        return 1;
    case READY: return on_message(k, m, n);
    }
    return CLOSE;
}

/* ---- clients ---- */

static void client_close(struct client *k)
{
    struct dp_vnc *v = k->vnc;
    for (unsigned code = 0; code < KEYS; code++)
        if (k->down[code] && code != KEY_LEFTSHIFT && code != KEY_RIGHTSHIFT) {
            key(k, code, false);
            undo_fix(k, code);
        }
    key(k, KEY_LEFTSHIFT, false);
    key(k, KEY_RIGHTSHIFT, false);
    if (k->buttons && k->state == READY)
        pointer(k, 0, k->x, k->y);
    dp_loop_unwatch(v->loop, k->fd);
    close(k->fd);
    dp_buffer_fini(&k->out);
    if (k->zlib_made)
        deflateEnd(&k->z);
    memset(k, 0, sizeof *k);
    if (!dp_vnc_clients(v))
        dp_ticker_period(&v->ticker, 0);
}

/* What can leave now, does. False: the client is gone. */
static bool flush(struct client *k)
{
    while (k->out_done < k->out.size) {
        ssize_t n = send(k->fd, k->out.data + k->out_done, k->out.size - k->out_done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK;
        k->out_done += (size_t)n;
    }
    k->out.size = k->out_done = 0;
    return !k->doomed;
}

/* Updates, sends, listens on; closes a client that is lost. */
static void serve(struct client *k)
{
    if (k->out.failed || !flush(k) || !update(k) || k->out.failed || !flush(k) ||
        dp_loop_rewatch(k->vnc->loop, k->fd, (k->doomed ? 0 : EPOLLIN) | (k->out.size ? EPOLLOUT : 0)))
        client_close(k);
}

static void on_client(void *opaque, int fd, uint32_t events)
{
    struct client *k = opaque;
    if (events & EPOLLERR) {
        client_close(k);
        return;
    }
    if (events & (EPOLLIN | EPOLLHUP) && !k->doomed) {
        ssize_t n = recv(fd, k->in + k->in_size, IN_SIZE - k->in_size, MSG_DONTWAIT);
        if (!n || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
            client_close(k);
            return;
        }
        k->in_size += n > 0 ? (size_t)n : 0;
        size_t at = 0;
        int used = 1;
        while (used > 0 && at < k->in_size && !k->doomed) {
            used = take(k, k->in + at, k->in_size - at);
            at += used > 0 ? (size_t)used : 0;
        }
        if (used == CLOSE) {
            client_close(k);
            return;
        }
        memmove(k->in, k->in + at, k->in_size -= at); /* no message is longer than the buffer, so there is room again */
    }
    serve(k);
}

static void tick(void *opaque)
{
    struct dp_vnc *v = opaque;
    bool wanted = false;
    for (unsigned i = 0; i < DP_VNC_CLIENTS_MAX; i++)
        wanted |= v->client[i].vnc && v->client[i].requested && !v->client[i].out.size;
    if (!wanted)
        return;
    look(v);
    for (unsigned i = 0; i < DP_VNC_CLIENTS_MAX; i++)
        if (v->client[i].vnc)
            serve(&v->client[i]);
}

/* A free place; among clients that have not come through the handshake the oldest makes room. */
static struct client *find_place(struct dp_vnc *v)
{
    struct client *oldest = NULL;
    for (struct client *k = v->client; k < v->client + DP_VNC_CLIENTS_MAX; k++) {
        if (!k->vnc)
            return k;
        if (k->state != READY && (!oldest || k->number < oldest->number))
            oldest = k;
    }
    if (oldest)
        client_close(oldest);
    return oldest;
}

int dp_vnc_adopt(struct dp_vnc *v, int fd, struct dp_error *e)
{
    struct client *k = find_place(v);
    if (!k) {
        close(fd);
        return dp_error_set(e, -EBUSY, "%d VNC clients are connected already", DP_VNC_CLIENTS_MAX);
    }
    *k = (struct client){.vnc = v, .fd = fd, .number = v->connections++};
    dp_buffer_append(&k->out, "RFB 003.008\n", 12);
    int rc = k->out.failed ? -ENOMEM : dp_loop_watch(v->loop, fd, EPOLLIN, on_client, k);
    if (rc) {
        close(fd);
        dp_buffer_fini(&k->out);
        *k = (struct client){0};
        return dp_error_set(e, rc, "cannot serve a VNC client: %s", strerror(-rc));
    }
    dp_ticker_period(&v->ticker, PERIOD_MS);
    serve(k);
    return 0;
}

static void on_connect(void *opaque, int fd, uint32_t events)
{
    struct dp_vnc *v = opaque;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), one = 1;
    if (client < 0 && (errno == EMFILE || errno == ENFILE)) {
        /* Without a descriptor the connection would stay and keep the loop busy: take it with the one kept for that, and drop it. */
        close(v->reserve_fd);
        client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (client >= 0)
            close(client);
        v->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        return;
    }
    if (client < 0)
        return;
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* a unix socket refuses it, to no harm */
    int rc = dp_vnc_adopt(v, client, NULL); /* who is refused sees the connection closed */
    (void)rc;
}

unsigned dp_vnc_clients(const struct dp_vnc *v)
{
    unsigned count = 0;
    for (unsigned i = 0; i < DP_VNC_CLIENTS_MAX; i++)
        count += v->client[i].vnc != NULL;
    return count;
}

/* ---- making ---- */

static int listen_on(struct dp_vnc *v, int fd)
{
    if (listen(fd, DP_VNC_CLIENTS_MAX))
        return -errno;
    int rc = dp_loop_watch(v->loop, fd, EPOLLIN, on_connect, v);
    if (!rc)
        v->listen_fd[v->listeners++] = fd;
    return rc;
}

static int open_unix(struct dp_vnc *v, const char *path, struct dp_error *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path)
        return dp_error_set(e, -ENAMETOOLONG, "%s is too long for a socket's name: choose a shorter path", path);
    strcpy(a.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rc = fd < 0 ? -errno : 0;
    if (!rc && bind(fd, (struct sockaddr *)&a, sizeof a)) {
        rc = -errno;
        /* What a process that died left behind is in the way, and refuses connections; nothing else is removed. */
        struct stat st;
        int probe = rc == -EADDRINUSE && !lstat(path, &st) && S_ISSOCK(st.st_mode)
                        ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)
                        : -1;
        if (probe >= 0 && connect(probe, (struct sockaddr *)&a, sizeof a) && errno == ECONNREFUSED && !unlink(path))
            rc = bind(fd, (struct sockaddr *)&a, sizeof a) ? -errno : 0;
        if (probe >= 0)
            close(probe);
    }
    if (!rc && !(v->path = strdup(path))) {
        unlink(path);
        rc = -ENOMEM;
    }
    if (!rc && chmod(path, 0600)) /* before anybody can connect, which takes listen() */
        rc = -errno;
    if (!rc)
        rc = listen_on(v, fd);
    if (rc) {
        if (fd >= 0)
            close(fd);
        return dp_error_set(e, rc, "cannot serve VNC on %s: %s", path, strerror(-rc));
    }
    snprintf(v->address, sizeof v->address, "%s", path);
    return 0;
}

static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
    return a->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

/* "HOST:PORT" or "[HOST]:PORT". */
static int split_address(const char *text, char host[256], char port[6], struct dp_error *e)
{
    const char *colon = strrchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : 0;
    if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
        text++;
        length -= 2;
    } else if (length && memchr(text, ':', length)) {
        length = 0; /* an IPv6 address without brackets */
    }
    size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;
    if (!length || length > 255 || !digits || digits > 5 || colon[1 + digits] || atoi(colon + 1) > 65535)
        return dp_error_set(e, -EINVAL, "VNC address '%s': give HOST:PORT, such as 127.0.0.1:5900 or [::1]:5900", text);
    memcpy(host, text, length);
    host[length] = 0;
    strcpy(port, colon + 1);
    return 0;
}

static void tell_address(struct dp_vnc *v, int fd)
{
    struct sockaddr_storage a;
    socklen_t size = sizeof a;
    char host[200], port[8];
    if (getsockname(fd, (struct sockaddr *)&a, &size) ||
        getnameinfo((struct sockaddr *)&a, size, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV))
        return;
    snprintf(v->address, sizeof v->address, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

static int open_tcp(struct dp_vnc *v, const char *address, struct dp_error *e)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    char host[256], port[6];
    unsigned told = 0;
    int rc = split_address(address, host, port, e), why;
    if (rc)
        return rc;
    if ((why = getaddrinfo(host, port, &hints, &list)))
        return dp_error_set(e, -EADDRNOTAVAIL, "VNC address %s: %s", address, gai_strerror(why));
    for (struct addrinfo *a = list; a && !rc; a = a->ai_next)
        if (!v->password && !is_loopback(a->ai_addr))
            rc = dp_error_set(e, -EACCES,
                              "VNC address %s can be reached from other hosts: give a password (vnc=%s,password-file=FILE), or use "
                              "a loopback address or the unix socket through ssh",
                              address, address);
    for (struct addrinfo *a = list; a && !rc && v->listeners < LISTEN_MAX; a = a->ai_next) {
        int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
        if (fd < 0) {
            rc = errno == EAFNOSUPPORT && a->ai_next ? 0 : -errno;
            continue;
        }
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (a->ai_family == AF_INET6)
            setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
        rc = bind(fd, a->ai_addr, a->ai_addrlen) ? -errno : listen_on(v, fd);
        if (rc)
            close(fd);
        else if (!told++)
            tell_address(v, fd);
        if (rc == -EADDRNOTAVAIL && (told || a->ai_next))
            rc = 0; /* localhost is ::1 too, on hosts that have no IPv6 */
        if (rc)
            dp_error_set(e, rc, "cannot serve VNC on %s: %s", address, strerror(-rc));
    }
    freeaddrinfo(list);
    if (!rc && !told)
        rc = dp_error_set(e, -EADDRNOTAVAIL, "cannot serve VNC on %s: no such address here", address);
    return rc;
}

int dp_vnc_open(struct dp_loop *loop, const struct dp_vnc_options *o, const struct dp_display_source *source,
                const struct dp_input_sink *sink, struct dp_vnc **out, struct dp_error *e)
{
    struct dp_vnc *v = calloc(1, sizeof *v);
    if (!v)
        return dp_error_set(e, -ENOMEM, "no memory");
    v->loop = loop;
    v->source = *source;
    v->sink = *sink;
    v->ticker.fd = -1;
    v->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    v->name = strdup(o->name ? o->name : "doppel");
    v->password = o->password ? strdup(o->password) : NULL;
    int rc =
        v->name && (v->password || !o->password) ? dp_ticker_init(&v->ticker, loop, tick, v, e) : dp_error_set(e, -ENOMEM, "no memory");
    if (!rc && o->path)
        rc = open_unix(v, o->path, e);
    if (!rc && o->address)
        rc = open_tcp(v, o->address, e);
    if (rc) {
        dp_vnc_close(v);
        return rc;
    }
    *out = v;
    return 0;
}

const char *dp_vnc_address(const struct dp_vnc *v) { return v->address; }

void dp_vnc_close(struct dp_vnc *v)
{
    if (!v)
        return;
    for (unsigned i = 0; i < DP_VNC_CLIENTS_MAX; i++)
        if (v->client[i].vnc)
            client_close(&v->client[i]);
    for (unsigned i = 0; i < v->listeners; i++) {
        dp_loop_unwatch(v->loop, v->listen_fd[i]);
        close(v->listen_fd[i]);
    }
    if (v->reserve_fd >= 0)
        close(v->reserve_fd);
    if (v->path)
        unlink(v->path);
    dp_ticker_fini(&v->ticker);
    dp_display_picture_fini(&v->now);
    dp_display_picture_fini(&v->next);
    free(v->name);
    free(v->password);
    free(v->path);
    free(v);
}
