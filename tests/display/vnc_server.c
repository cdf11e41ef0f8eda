/* vnc_server.c - a VNC server with a made-up screen, for clients that are programs of their own (vnc_clients.py).
 * vnc-server SOCKET [PASSWORD]: listens on the unix socket and on a loopback port, says the port, and then each key and motion on stdout. The
 * screen is 320x200 with pixel(x, y) = x << 16 | y << 8 | (x ^ y) & 255; the key F1 makes it 400x300, F2 turns the pixels into their complement,
 * F3 ends.
 */
#include <linux/input-event-codes.h>
#include <unistd.h>

#include "display/vnc.h"
#include "tests/display/fake.h"

static struct {
    struct fake f;
    struct dp_loop *loop;
    uint32_t width, height, mask;
} w;

static void draw(void)
{
    if (dp_display_picture_resize(&w.f.picture, w.width, w.height, NULL))
        _exit(1);
    for (uint32_t y = 0; y < w.height; y++)
        for (uint32_t x = 0; x < w.width; x++)
            w.f.picture.pixels[y * w.width + x] = ((x & 255) << 16 | (y & 255) << 8 | ((x ^ y) & 255)) ^ w.mask;
    w.f.generation++;
}

static void key(void *opaque, unsigned code, bool down)
{
    printf("key %u %d\n", code, down);
    fflush(stdout);
    if (down && code == KEY_F1)
        w.width = 400, w.height = 300, draw();
    if (down && code == KEY_F2)
        w.mask ^= 0xffffff, draw();
    if (down && code == KEY_F3)
        dp_loop_stop(w.loop);
}

static void position(void *opaque, unsigned x, unsigned y, int wheel, unsigned buttons)
{
    printf("pointer %u %u %d %u\n", x, y, wheel, buttons);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct dp_display_source source = fake_source(&w.f);
    struct dp_input_sink sink = {.key = key, .position = position};
    struct dp_vnc_options o = {.path = argv[1], .address = "127.0.0.1:0", .password = argc > 2 ? argv[2] : NULL, .name = "fake"};
    struct dp_vnc *v;
    struct dp_error e = {0};
    alarm(100);
    w.width = 320;
    w.height = 200;
    draw();
    if (argc < 2 || dp_loop_create(&w.loop, &e) || dp_vnc_open(w.loop, &o, &source, &sink, &v, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    printf("%s\n", dp_vnc_address(v));
    fflush(stdout);
    dp_loop_run(w.loop);
    dp_vnc_close(v);
    dp_loop_destroy(w.loop);
    dp_display_picture_fini(&w.f.picture);
    return 0;
}
