/* fuzz_display.c - what reaches viewers from outside. The input: one byte of choices, then bytes that are (choice 0) what a terminal sends, fed
 * to the key parser, (1) what a VNC client sends after the handshake, (2) before it, (3) words of --display, (4) names of keys. Whatever comes,
 * key events are balanced: what is down at the end of a connection is let go.
 */
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "display/options.h"
#include "display/terminal_keys.h"
#include "display/vnc.h"
#include "event/event.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

struct world {
    bool down[768];
    unsigned changes;
};

static void key(void *opaque, unsigned code, bool down)
{
    struct world *w = opaque;
    must(code && code < 768);
    w->down[code] = down;
}
static void motion(void *opaque, int dx, int dy, int wheel, unsigned buttons) { must(buttons < 8 && wheel >= -1 && wheel <= 1 && abs(dx) < 4096 && abs(dy) < 4096); }

static void struck(void *opaque, const unsigned *code, unsigned count)
{
    must(count && count <= 4);
    for (unsigned i = 0; i < count; i++)
        must(code[i] && code[i] < 256);
}

static uint64_t generation(void *opaque) { return ((struct world *)opaque)->changes++ / 3; }

/* Sizes change all the time, as those of a guest that is booting. */
static int picture(void *opaque, struct dp_display_picture *out, struct dp_error *e)
{
    unsigned n = ((struct world *)opaque)->changes / 7;
    int rc = dp_display_picture_resize(out, n % 5 * 60, 130, e);
    for (size_t i = 0; !rc && i < (size_t)out->width * out->height; i++)
        out->pixels[i] = (uint32_t)(i * n) & 0xffffff;
    return rc;
}

static bool resize(void *opaque, uint32_t width, uint32_t height)
{
    must(width && height && width < 65536 && height < 65536);
    return width % 2;
}

static void vnc(const uint8_t *data, size_t size, bool handshake)
{
    static struct dp_loop *loop;
    struct world w = {0};
    const struct dp_display_source source = {.generation = generation, .picture = picture, .resize = resize, .opaque = &w};
    const struct dp_input_sink sink = {.key = key, .motion = motion, .opaque = &w};
    struct dp_vnc *v;
    int end[2];
    uint8_t part[65536];
    must(loop || !dp_loop_create(&loop, NULL));
    must(!dp_vnc_open(loop, &(struct dp_vnc_options){.password = size % 2 && !handshake ? "password" : NULL}, &source, &sink, &v, NULL));
    must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, end));
    must(!dp_vnc_adopt(v, end[1], NULL));
    if (handshake)
        must(send(end[0], "RFB 003.008\n\1\1", 14, MSG_NOSIGNAL) == 14);
    size = size < 16384 ? size : 16384;
    for (size_t done = 0; done < size;) {
        size_t piece = size - done < 40 ? size - done : 40;
        ssize_t n = send(end[0], data + done, piece, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        done += (size_t)n;
        dp_loop_poll(loop, 0);
        while (recv(end[0], part, sizeof part, MSG_DONTWAIT) > 0)
            dp_loop_poll(loop, 0);
    }
    dp_vnc_close(v);
    close(end[0]);
    for (unsigned i = 0; i < 768; i++)
        must(!w.down[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    unsigned choice = data[0] % 5;
    char text[600];
    data++;
    size--;
    if (choice == 0) {
        struct dp_terminal_keys t = {.stroke = struck};
        for (size_t done = 0; done < size; done += 7) { /* pauses do not matter but for an ESC */
            dp_terminal_keys_feed(&t, data + done, size - done < 7 ? size - done : 7);
            if (done % 5 == 0)
                dp_terminal_keys_timeout(&t);
        }
        dp_terminal_keys_timeout(&t);
        must(!dp_terminal_keys_waits(&t));
        return 0;
    }
    if (choice <= 2) {
        vnc(data, size, choice == 1);
        return 0;
    }
    size = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, data, size);
    text[size] = 0;
    struct dp_display_options o;
    unsigned code[8];
    if (choice == 3)
        must(!dp_display_parse(text, &o, NULL) || o.kind != DP_DISPLAY_TEXT);
    else
        for (unsigned n = dp_input_keys_by_names(text, code, 8); n--;)
            must(code[n] && code[n] < 256);
    return 0;
}
