/* fuzz_control.c - the control socket on hostile clients. The input: one byte of choices, then what a client sends. The choices say in
 * pieces of which size it comes (0: all at once), whether a long run of blanks goes before it (bit 7), so that the limit of lines is met,
 * and whether the client reads while it sends (bit 6) or only in the end. Whatever it sends, each line that comes back is a JSON object
 * with a result or an error.
 */
#include <json.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "event/event.h"
#include "vm/control.h"
#include "vm/vm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

struct world {
    struct dp_loop *loop;
    struct dp_vm *vm;
    struct dp_control *control;
    int fd;
    struct dp_buffer got;
};

/* A screen that never has a picture, for a client may name any file; and keys that balance. */
static uint64_t generation(void *opaque) { return 0; }
static int picture(void *opaque, struct dp_display_picture *out, struct dp_error *e) { return dp_error_set(e, -EIO, "no picture"); }
static void key(void *opaque, unsigned code, bool down)
{
    int *held = opaque;
    *held += down ? 1 : -1;
    must(code && *held >= 0 && *held <= 8);
}

static void check_reply(const char *line)
{
    struct json_object *o = json_tokener_parse(line);
    must(json_object_is_type(o, json_type_object));
    must(json_object_object_get_ex(o, "result", NULL) != json_object_object_get_ex(o, "error", NULL));
    json_object_put(o);
}

/* Everything that has come; false at the end of the connection. */
static bool receive(struct world *w)
{
    char part[65536];
    ssize_t n;
    while ((n = recv(w->fd, part, sizeof part, MSG_DONTWAIT)) > 0)
        dp_buffer_append(&w->got, part, (size_t)n);
    char *at = (char *)w->got.data, *last = at ? at + w->got.size : NULL, *end;
    for (; at && (end = memchr(at, '\n', (size_t)(last - at))); at = end + 1) {
        *end = 0;
        check_reply(at);
    }
    w->got.size = (size_t)(last - at);
    if (at)
        memmove(w->got.data, at, w->got.size);
    return n != 0;
}

static void transmit(struct world *w, const uint8_t *data, size_t size, size_t piece, bool reads)
{
    unsigned stuck = 0;
    for (size_t done = 0; done < size;) {
        ssize_t n = send(w->fd, data + done, DP_MIN(size - done, piece), MSG_DONTWAIT | MSG_NOSIGNAL);
        done += n > 0 ? (size_t)n : 0;
        stuck = n > 0 ? 0 : stuck + 1;
        dp_loop_poll(w->loop, 0);
        if (reads || stuck > 2)
            receive(w);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world w; /* the loop is for all inputs; each has its VM, which never starts */
    struct dp_error e = {0};
    struct dp_vm_config c = {.memory = DP_VM_MEMORY_MIN, .cpus = 2, .engine = "null", .no_rng = true};
    int end[2];
    if (!w.loop)
        must(!dp_loop_create(&w.loop, &e));
    c.loop = w.loop;
    if (!size)
        return 0;
    must(!dp_vm_create(&c, &w.vm, &e));
    int held = 0;
    dp_vm_set_screen(w.vm, &(struct dp_vm_screen){true, {.generation = generation, .picture = picture}, {.key = key, .opaque = &held}});
    must(!dp_control_create(w.loop, w.vm, "fuzz", &w.control, &e));
    must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, end));
    w.fd = end[0];
    must(!dp_control_adopt(w.control, end[1], &e));
    uint8_t choice = data[0];
    if (choice & 0x80) {
        static uint8_t blank[DP_CONTROL_LINE_MAX - 64];
        memset(blank, ' ', sizeof blank);
        transmit(&w, blank, sizeof blank, sizeof blank, false);
    }
    transmit(&w, data + 1, size - 1, choice & 63 ? choice & 63 : size, choice >> 6 & 1);
    if (choice & 1) { /* leaves with what is owed unread */
        close(w.fd);
        dp_loop_poll(w.loop, 0);
    } else {
        shutdown(w.fd, SHUT_WR);
        for (unsigned rounds = 0; receive(&w); rounds++) {
            must(rounds < 100000);
            dp_loop_poll(w.loop, 0);
        }
        must(!w.got.size); /* replies are whole */
        close(w.fd);
    }
    w.got.size = 0;
    dp_control_destroy(w.control);
    must(!held);
    dp_vm_destroy(w.vm);
    return 0;
}
