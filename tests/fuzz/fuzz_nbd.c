/* fuzz_nbd.c - hostile NBD clients: negotiation and requests, on a small image.
 *
 * Input: a byte of choices (bit 0: a good negotiation comes first, bit 1: with structured replies and base:allocation, bit 2: qcow2, bit 3:
 * read-only), then what the client sends until it hangs up. What it is sent is thrown away.
 */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "block/nbd_server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                                                                                                                            \
    do {                                                                                                                                   \
        if (x)                                                                                                                             \
            abort();                                                                                                                       \
    } while (0)
enum { BYTES = 256 << 10 };

struct serving {
    struct dp_nbd_server *server;
    int fd;
};

static void *serve(void *opaque)
{
    struct serving *s = opaque;
    dp_nbd_serve(s->server, s->fd);
    return NULL;
}

static size_t put_option(uint8_t *p, uint8_t option, const void *data, uint8_t size)
{
    memcpy(p, "IHAVEOPT\0\0\0", 11);
    p[11] = option;
    memset(p + 12, 0, 3);
    p[15] = size;
    memcpy(p + 16, data, size);
    return 16u + size;
}

static size_t greeting(uint8_t *p, bool structured)
{
    static const uint8_t go[] = {0, 0, 0, 0, 0, 0}, meta[] = "\0\0\0\0\0\0\0\1\0\0\0\17base:allocation";
    size_t n = 4;
    memcpy(p, "\0\0\0\3", 4);
    if (structured) {
        n += put_option(p + n, 8, go, 0);
        n += put_option(p + n, 10, meta, sizeof meta - 1);
    }
    return n + put_option(p + n, 7, go, sizeof go);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[40];
    struct dp_error e = {0};
    struct dp_image *i;
    struct serving s;
    pthread_t thread;
    int fd[2];
    if (!size)
        return 0;
    uint8_t choices = data[0], start[128], out[65536];
    int file = memfd_create("nbd", MFD_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    const char *format = choices & 4 ? "qcow2" : "raw";
    MUST(dp_image_create(&(struct dp_image_create){.name = path, .format = format, .size = BYTES}, &e));
    MUST(dp_image_open(&(struct dp_image_options){.name = path, .format = format, .readonly = choices & 8}, &i, &e));
    MUST(dp_nbd_server_create(&(struct dp_nbd_options){.image = i}, &s.server, &e));
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd));
    s.fd = fd[1];
    MUST(pthread_create(&thread, NULL, serve, &s));
    size_t n = choices & 1 ? greeting(start, choices & 2) : 0, at = 0;
    MUST(n && send(fd[0], start, n, MSG_NOSIGNAL) != (ssize_t)n);
    while (at < size - 1) { /* it may answer more than the socket holds before it reads on */
        ssize_t sent = send(fd[0], data + 1 + at, DP_MIN(size - 1 - at, 4096), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0)
            at += (size_t)sent;
        else if (errno != EAGAIN)
            break;
        while (recv(fd[0], out, sizeof out, MSG_DONTWAIT) > 0)
            ;
    }
    shutdown(fd[0], SHUT_WR);
    while (recv(fd[0], out, sizeof out, 0) > 0)
        ;
    pthread_join(thread, NULL);
    close(fd[0]);
    dp_nbd_server_destroy(s.server);
    MUST(i->size != BYTES);
    dp_image_close(i);
    close(file);
    return 0;
}
