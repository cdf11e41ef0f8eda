/* net/capture.c - see capture.h. */
#include "net/capture.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "net/offload.h"

enum { BUFFER = 4 << 20, COMMENT_MAX = 1000, PATIENCE_MS = 1000, PIECE = 4096 /* PIPE_BUF: a pipe that has room takes that much */ };
enum { SHB = 0x0a0d0d0a, IDB = 1, EPB = 6, MAGIC = 0x1a2b3c4d, LINKTYPE_ETHERNET = 1 };
enum { OPT_END = 0, OPT_COMMENT = 1, SHB_USERAPPL = 4, IF_NAME = 2, IF_TSRESOL = 9, EPB_FLAGS = 2, EPB_DROPCOUNT = 4, NANOSECONDS = 9 };
enum { EPB_HEADER = 28 };

struct block {
    uint8_t *data;
    size_t size;
};

struct dp_capture {
    struct dp_net_port port;
    struct dp_clock *clock;
    int fd;
    bool regular;
    uint32_t snap;
    uint64_t limit;
    pthread_t thread;
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t work;
    struct block fill, drain; /* drain is the thread's while it writes */
    bool stop;
    uint64_t missed; /* since the last record */
    struct dp_capture_stats stats;
};

struct dp_capture_tap {
    struct dp_capture *capture;
    struct side {
        struct dp_net_port port;
        struct dp_capture_tap *tap;
    } side[2];
};

/* ---- blocks ---- */

static void put(struct block *b, const void *data, size_t size)
{
    memcpy(b->data + b->size, data, size);
    b->size += size;
}
static void put32(struct block *b, uint32_t value) { put(b, &value, 4); }
static void pad(struct block *b)
{
    while (b->size & 3)
        b->data[b->size++] = 0;
}
static void put_option(struct block *b, uint16_t code, const void *value, size_t size)
{
    uint16_t head[2] = {code, (uint16_t)size};
    put(b, head, 4);
    put(b, value, size);
    pad(b);
}
static void put_text(struct block *b, uint16_t code, const char *text)
{
    if (text && *text)
        put_option(b, code, text, strnlen(text, COMMENT_MAX));
}
/* The length stands at both ends. */
static void end_block(struct block *b, size_t start)
{
    uint32_t length = (uint32_t)(b->size - start + 4);
    put32(b, length);
    memcpy(b->data + start + 4, &length, 4);
}

static void put_file_header(struct block *b, const struct dp_capture_options *o)
{
    size_t start = b->size;
    put32(b, SHB);
    put32(b, 0);
    put32(b, MAGIC);
    put32(b, 1);       /* version 1.0 */
    put32(b, 0xffffffff); /* the section's length is not known */
    put32(b, 0xffffffff);
    put_text(b, OPT_COMMENT, o->comment);
    put_text(b, SHB_USERAPPL, "doppel");
    put32(b, OPT_END);
    end_block(b, start);
    start = b->size;
    put32(b, IDB);
    put32(b, 0);
    put32(b, LINKTYPE_ETHERNET);
    put32(b, o->snap);
    put_text(b, IF_NAME, o->interface);
    put_option(b, IF_TSRESOL, (const uint8_t[]){NANOSECONDS}, 1);
    put32(b, OPT_END);
    end_block(b, start);
}

/* ---- recording ---- */

static void put_frame(struct block *b, const struct dp_net_frame *f, const uint8_t *bytes, uint32_t kept, uint64_t time)
{
    put32(b, EPB);
    put32(b, 0);
    put32(b, 0); /* the interface */
    put32(b, (uint32_t)(time >> 32));
    put32(b, (uint32_t)time);
    put32(b, kept);
    put32(b, f->size);
    if (bytes) {
        put(b, bytes, kept);
    } else {
        struct dp_net_frame part = *f;
        part.size = kept;
        dp_net_gather(&part, b->data + b->size);
        b->size += kept;
    }
    pad(b);
}

static void record(struct dp_capture *c, const struct dp_net_frame *f, uint32_t direction, const char *comment, uint64_t time)
{
    uint32_t kept = c->snap ? DP_MIN(f->size, c->snap) : f->size;
    uint8_t *bytes = NULL; /* with its checksum, if that was left to do */
    if (f->work && f->size >= DP_NET_FRAME_MIN && f->size <= DP_NET_FRAME_MAX && (bytes = malloc(f->size))) {
        dp_net_gather(f, bytes);
        if (!dp_net_finish_checksum(f, bytes))
            dp_net_gather(f, bytes);
    }
    pthread_mutex_lock(&c->lock);
    struct block *b = &c->fill;
    /* No more than this: header, padding, flags, dropcount, comment, ends. */
    size_t need = EPB_HEADER + (size_t)kept + 3 + 8 + 12 + (4 + COMMENT_MAX + 3) + 8;
    if (c->stats.error || f->size > DP_NET_FRAME_MAX || need > BUFFER - b->size || (c->limit && c->stats.bytes + need > c->limit)) {
        c->missed++;
        c->stats.missed++;
    } else {
        size_t start = b->size;
        put_frame(b, f, bytes, kept, time);
        if (direction)
            put_option(b, EPB_FLAGS, &direction, 4);
        if (c->missed)
            put_option(b, EPB_DROPCOUNT, &c->missed, 8);
        put_text(b, OPT_COMMENT, comment);
        put32(b, OPT_END);
        end_block(b, start);
        c->missed = 0;
        c->stats.frames++;
        c->stats.bytes += b->size - start;
        pthread_cond_signal(&c->work);
    }
    pthread_mutex_unlock(&c->lock);
    free(bytes);
}

static uint64_t time_of(struct dp_capture *c) { return dp_clock_wall_base(c->clock) + dp_clock_now(c->clock); }

void dp_capture_record(struct dp_capture *c, const struct dp_net_frame *f, enum dp_capture_direction d, const char *comment)
{
    record(c, f, d, comment, time_of(c));
}

static unsigned receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    uint64_t time = time_of(opaque);
    for (unsigned i = 0; i < count; i++)
        record(opaque, &frame[i], DP_CAPTURE_UNKNOWN, NULL, time);
    return count;
}
static const struct dp_net_end end = {.receive = receive};

/* ---- writing; its own thread ---- */

/* Waits until fd takes something. False: it is time to end, and it does not. */
static bool wait_for_room(struct dp_capture *c)
{
    for (int waited = 0;;) {
        struct pollfd p = {.fd = c->fd, .events = POLLOUT};
        if (poll(&p, 1, 50) > 0)
            return true;
        pthread_mutex_lock(&c->lock);
        bool stop = c->stop;
        pthread_mutex_unlock(&c->lock);
        waited = stop ? waited + 50 : 0;
        if (waited >= PATIENCE_MS)
            return false;
    }
}

static int write_out(struct dp_capture *c)
{
    for (size_t done = 0; done < c->drain.size;) {
        size_t left = c->drain.size - done;
        if (!c->regular && !wait_for_room(c))
            return -ETIMEDOUT;
        ssize_t n = write(c->fd, c->drain.data + done, c->regular ? left : DP_MIN(left, (size_t)PIECE));
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static void *writer(void *opaque)
{
    struct dp_capture *c = opaque;
    sigset_t all;
    sigfillset(&all); /* a reader that is gone is an error of write, not a signal */
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    pthread_mutex_lock(&c->lock);
    for (;;) {
        while (!c->fill.size && !c->stop)
            pthread_cond_wait(&c->work, &c->lock);
        if (!c->fill.size)
            break;
        struct block b = c->fill;
        c->fill = c->drain;
        c->fill.size = 0;
        c->drain = b;
        pthread_mutex_unlock(&c->lock);
        int error = write_out(c);
        pthread_mutex_lock(&c->lock);
        if (error && !c->stats.error)
            c->stats.error = error;
        if (error)
            c->fill.size = 0;
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static void free_capture(struct dp_capture *c)
{
    pthread_cond_destroy(&c->work);
    pthread_mutex_destroy(&c->lock);
    free(c->fill.data);
    free(c->drain.data);
    free(c);
}

int dp_capture_create(struct dp_clock *clock, int fd, const struct dp_capture_options *o, struct dp_capture **out, struct dp_error *e)
{
    struct stat st;
    struct dp_capture *c = calloc(1, sizeof *c);
    if (!c)
        return dp_error_set(e, -ENOMEM, "capture: out of memory");
    c->clock = clock;
    c->fd = fd;
    c->regular = !fstat(fd, &st) && S_ISREG(st.st_mode);
    c->snap = o->snap;
    c->limit = o->limit;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->work, NULL);
    dp_net_port_init(&c->port, &end, c, 0);
    c->fill.data = malloc(BUFFER);
    c->drain.data = malloc(BUFFER);
    int error = -ENOMEM;
    if (c->fill.data && c->drain.data) {
        put_file_header(&c->fill, o);
        c->stats.bytes = c->fill.size;
        error = -pthread_create(&c->thread, NULL, writer, c);
    }
    if (error) {
        free_capture(c);
        return dp_error_set(e, error, "capture: no memory or no thread for it: %s", strerror(-error));
    }
    *out = c;
    return 0;
}

void dp_capture_destroy(struct dp_capture *c)
{
    if (!c)
        return;
    dp_net_disconnect(&c->port);
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_cond_signal(&c->work);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    close(c->fd);
    free_capture(c);
}

struct dp_net_port *dp_capture_port(struct dp_capture *c) { return &c->port; }

void dp_capture_stats(struct dp_capture *c, struct dp_capture_stats *out)
{
    pthread_mutex_lock(&c->lock);
    *out = c->stats;
    pthread_mutex_unlock(&c->lock);
}

/* ---- taps ---- */

static struct side *other_of(struct side *x) { return &x->tap->side[x == &x->tap->side[0]]; }

/* One frame whose work the far end does not accept any more. */
static void pass_completed(struct dp_net_port *to, const struct dp_net_frame *f)
{
    struct dp_net_scratch *scratch = malloc(sizeof *scratch);
    uint32_t progress = 0;
    if (scratch)
        dp_net_send_complete(to, f, 1, &progress, scratch);
    free(scratch);
}

static unsigned tap_receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct side *from = opaque;
    struct dp_net_port *to = &other_of(from)->port;
    uint32_t accepts = dp_net_peer_accepts(to);
    dp_net_set_accepts(&from->port, accepts);
    unsigned done = 0;
    bool full = false;
    while (done < count && !full) {
        unsigned n = 0;
        while (done + n < count && !(frame[done + n].work & ~accepts))
            n++;
        if (n) {
            unsigned sent = dp_net_send(to, frame + done, n);
            done += sent;
            full = sent < n;
        } else {
            pass_completed(to, &frame[done++]);
        }
    }
    uint64_t time = time_of(from->tap->capture);
    for (unsigned i = 0; i < done; i++)
        record(from->tap->capture, &frame[i], from == &from->tap->side[0] ? DP_CAPTURE_OUTBOUND : DP_CAPTURE_INBOUND, NULL, time);
    return done;
}

static void tap_ready(void *opaque) { dp_net_ready(&other_of(opaque)->port); }

/* A side has the carrier that the far end of the other gives: its own is not asked, or both would wait for each other for ever. */
static void tap_link(void *opaque, bool up)
{
    struct side *x = opaque, *other = other_of(x);
    struct dp_net_port *far = x->port.peer;
    dp_net_set_accepts(&other->port, dp_net_peer_accepts(&x->port));
    dp_net_set_link(&other->port, far && !__atomic_load_n(&far->down, __ATOMIC_RELAXED));
}
static const struct dp_net_end tap_end = {tap_receive, tap_ready, tap_link};

int dp_capture_tap_create(struct dp_capture *c, struct dp_capture_tap **out, struct dp_error *e)
{
    struct dp_capture_tap *t = calloc(1, sizeof *t);
    if (!t)
        return dp_error_set(e, -ENOMEM, "capture: out of memory");
    t->capture = c;
    for (unsigned i = 0; i < 2; i++) {
        t->side[i].tap = t;
        dp_net_port_init(&t->side[i].port, &tap_end, &t->side[i], 0);
        t->side[i].port.down = true;
    }
    *out = t;
    return 0;
}

void dp_capture_tap_destroy(struct dp_capture_tap *t)
{
    if (!t)
        return;
    dp_net_disconnect(&t->side[0].port);
    dp_net_disconnect(&t->side[1].port);
    free(t);
}

struct dp_net_port *dp_capture_tap_port(struct dp_capture_tap *t, unsigned side) { return &t->side[side & 1].port; }
