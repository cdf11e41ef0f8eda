/* console.c - the back ends of serial ports: terminal or pipes on stdin/stdout, file, memory.
 *
 * Model: two byte queues. Output: any thread appends, the loop's thread writes it out. Input: the loop's thread reads, takes out escapes
 * (terminals only: a pipe is data) and gives the client what it has room for. Everything that calls the client runs in service(), one
 * thread at a time, with no lock held; the memory back end has no loop and serves in the thread that feeds, kicks or limits.
 * Invariants: descriptors we were given keep their flags, since other processes share them: output goes through a description of our own
 * (reopened through /proc) where it could block. SIGPIPE never reaches the process. Output that cannot be written any more is dropped and
 * remembered as an error, so a guest never hangs on a dead reader. A terminal whose foreground is not ours is not touched.
 * Source: termios(3), tty_ioctl(4), pipe(7).
 */
#include "console/console.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { IN_SIZE = 4096, OUT_SIZE = 65536, PIECE = 512, CTRL_A = 1, CLOSE_WAIT_MS = 500 };

struct queue { uint8_t *data; size_t size, start, count; };

struct dp_console {
    struct dp_loop *loop; /* NULL: memory */
    int in, out, wake;    /* -1: closed */
    bool own_out;         /* to be closed */
    bool may_block;       /* out could not be reopened: only as much as poll promises */
    bool socket;
    bool escapes_on, escape_seen; /* loop's thread only */
    struct dp_console_escapes escapes;

    pthread_mutex_t lock; /* all below */
    pthread_cond_t idle;
    struct queue input, output;
    struct dp_console_client client;
    bool attached;
    bool starved;         /* the client was refused bytes and waits for writable */
    bool breaking;        /* a break is to be given to the client */
    bool serving, again;  /* somebody is in service(); it shall look once more */
    pthread_t server;
    struct dp_error error;
    struct dp_buffer messages; /* for the client */
    struct dp_buffer kept; /* memory */
    size_t limit;          /* memory */

    /* The terminal; written before raw is set, so that a signal handler finds it whole. */
    struct termios saved;
    int terminal;
    atomic_bool raw;
};

/* ---- queues ---- */

static size_t queue_put(struct queue *q, const uint8_t *data, size_t n)
{
    n = DP_MIN(n, q->size - q->count);
    for (size_t i = 0; i < n;) {
        size_t at = (q->start + q->count) % q->size, piece = DP_MIN(n - i, q->size - at);
        memcpy(q->data + at, data + i, piece);
        q->count += piece;
        i += piece;
    }
    return n;
}

/* The first contiguous bytes; queue_drop takes them away. */
static size_t queue_peek(const struct queue *q, const uint8_t **data)
{
    *data = q->data + q->start;
    return DP_MIN(q->count, q->size - q->start);
}

static void queue_drop(struct queue *q, size_t n)
{
    q->start = (q->start + n) % q->size;
    q->count -= n;
}

/* ---- descriptors ---- */

/* write() that raises no SIGPIPE and changes no signal disposition of the process. */
static ssize_t write_quietly(const struct dp_console *c, const void *data, size_t n)
{
    if (c->socket)
        return send(c->out, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    sigset_t pipe_set, old, pending;
    sigemptyset(&pipe_set);
    sigaddset(&pipe_set, SIGPIPE);
    sigpending(&pending);
    bool was_pending = sigismember(&pending, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_set, &old);
    ssize_t r = write(c->out, data, n);
    int saved = errno;
    if (r < 0 && saved == EPIPE && !was_pending)
        sigtimedwait(&pipe_set, NULL, &(struct timespec){0});
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    errno = saved;
    return r;
}

static void output_failed(struct dp_console *c, int code)
{
    if (!c->error.code)
        dp_error_set(&c->error, code, "console output is lost: %s%s", strerror(-code),
                     code == -ENOSPC ? " (make room and start again)" : "");
    c->output.count = 0;
}

/* Writes what the descriptor takes now; lock held. Only the server or close calls it, so letting the lock go is not needed: the
 * descriptor does not block. */
static void flush(struct dp_console *c)
{
    while (c->output.count && c->out >= 0) {
        const uint8_t *data;
        size_t n = queue_peek(&c->output, &data);
        if (c->may_block) {
            struct pollfd p = {.fd = c->out, .events = POLLOUT};
            if (poll(&p, 1, 0) <= 0)
                return;
            n = DP_MIN(n, (size_t)PIPE_BUF); /* a pipe that is ready takes that much; so do terminals, nearly always */
        }
        ssize_t r = write_quietly(c, data, n);
        if (r > 0)
            queue_drop(&c->output, (size_t)r);
        else if (r < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        else if (r == 0 || errno != EINTR)
            output_failed(c, r ? -errno : -EIO);
    }
    if (c->out < 0)
        c->output.count = 0;
}

static bool descriptor_usable(int fd, int forbidden_access)
{
    struct stat st;
    int flags = fcntl(fd, F_GETFL);
    /* Something of our own, even guest RAM, may sit on the number of a stdin that was closed. What we open is close-on-exec; what we
     * inherited cannot be. */
    return flags >= 0 && !(fcntl(fd, F_GETFD) & FD_CLOEXEC) && (flags & O_ACCMODE) != forbidden_access && !fstat(fd, &st) &&
           (st.st_mode & S_IFMT) && !S_ISDIR(st.st_mode);
}

static void choose_output(struct dp_console *c, int fd)
{
    struct stat st;
    if (!descriptor_usable(fd, O_RDONLY) || fstat(fd, &st))
        return;
    c->out = fd;
    c->socket = S_ISSOCK(st.st_mode);
    if (c->socket || S_ISREG(st.st_mode))
        return;
    char path[40];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int own = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (own >= 0) {
        c->out = own;
        c->own_out = true;
    } else {
        c->may_block = !(fcntl(fd, F_GETFL) & O_NONBLOCK);
    }
}

/* ---- the terminal ---- */

/* tcsetattr stops a background process by SIGTTOU unless that is blocked. Signal-safe. */
static int set_terminal(int fd, const struct termios *t)
{
    sigset_t stop, old;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &stop, &old);
    int r = tcsetattr(fd, TCSANOW, t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r;
}

void dp_console_emergency_restore(struct dp_console *c)
{
    int saved = errno;
    if (c && atomic_exchange(&c->raw, false))
        set_terminal(c->terminal, &c->saved);
    errno = saved;
}

/* Output processing stays on: doppel's own lines go to the same terminal, and a guest's CR LF is not harmed by it. */
static void make_raw(struct dp_console *c, int fd)
{
    if (tcgetattr(fd, &c->saved))
        return;
    struct termios t = c->saved;
    t.c_iflag &= ~(tcflag_t)(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    t.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG | IEXTEN);
    t.c_cflag = (t.c_cflag & ~(tcflag_t)(CSIZE | PARENB)) | CS8;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    c->terminal = fd;
    atomic_store(&c->raw, true); /* before the change: a signal in between restores what is still there */
    if (set_terminal(fd, &t))
        atomic_store(&c->raw, false);
}

/* ---- serving the client ---- */

static void deliver_input(struct dp_console *c)
{
    while (c->attached && c->input.count) {
        struct dp_console_client client = c->client;
        pthread_mutex_unlock(&c->lock);
        size_t room = client.room ? client.room(client.opaque) : SIZE_MAX;
        pthread_mutex_lock(&c->lock);
        const uint8_t *data;
        uint8_t piece[PIECE];
        size_t n = DP_MIN(DP_MIN(queue_peek(&c->input, &data), room), sizeof(piece));
        if (!n || !c->attached)
            break;
        memcpy(piece, data, n);
        queue_drop(&c->input, n);
        pthread_mutex_unlock(&c->lock);
        client.receive(client.opaque, piece, n);
        pthread_mutex_lock(&c->lock);
    }
}

static void tell_client(struct dp_console *c, void (*fn)(void *opaque))
{
    void *opaque = c->client.opaque;
    if (!c->attached || !fn)
        return;
    pthread_mutex_unlock(&c->lock);
    fn(opaque);
    pthread_mutex_lock(&c->lock);
}

static void deliver_messages(struct dp_console *c)
{
    struct dp_buffer messages = c->messages;
    struct dp_console_client client = c->client;
    c->messages = (struct dp_buffer){0};
    if (c->attached && client.message && messages.size) {
        pthread_mutex_unlock(&c->lock);
        client.message(client.opaque, (char *)messages.data, messages.size);
        pthread_mutex_lock(&c->lock);
    }
    dp_buffer_fini(&messages);
}

static bool output_has_room(const struct dp_console *c)
{
    return c->loop ? c->output.count <= OUT_SIZE / 2 : c->limit > 0;
}

/* Does all there is to do. Whoever comes while another thread is at it leaves the rest to that one. */
static void service(struct dp_console *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->serving) {
        c->again = true;
        pthread_mutex_unlock(&c->lock);
        return;
    }
    c->serving = true;
    c->server = pthread_self();
    do {
        c->again = false;
        if (c->loop)
            flush(c);
        deliver_input(c);
        deliver_messages(c); /* after what was typed before the escape */
        if (c->breaking) {
            c->breaking = false;
            tell_client(c, c->client.line_break);
        }
        if (c->starved && output_has_room(c)) {
            c->starved = false;
            tell_client(c, c->client.writable);
        }
    } while (c->again);
    c->serving = false;
    if (c->loop) {
        /* A terminal is read even when its queue is full: escapes must get through, and what is typed blindly may be lost. */
        if (c->in >= 0 && dp_loop_rewatch(c->loop, c->in, c->escapes_on || c->input.count < IN_SIZE ? EPOLLIN : 0))
            c->in = -1; /* no memory to listen again: like the end of input */
        int r = c->out >= 0 ? dp_loop_rewatch(c->loop, c->out, c->output.count ? EPOLLOUT : 0) : 0;
        if (r)
            output_failed(c, r);
    }
    pthread_cond_broadcast(&c->idle);
    pthread_mutex_unlock(&c->lock);
}

/* Has the loop's thread serve; the memory back end serves here. */
static void request_service(struct dp_console *c)
{
    if (!c->loop) {
        service(c);
        return;
    }
    const uint64_t one = 1;
    ssize_t n = write(c->wake, &one, sizeof(one));
    (void)n; /* a full counter wakes as well */
}

/* ---- input and escapes ---- */

/* For the person at the terminal, whose output processing makes lines of it; a client may want to place it itself. */
static void print(struct dp_console *c, const void *text, size_t size)
{
    pthread_mutex_lock(&c->lock);
    if (c->attached && c->client.message) {
        dp_buffer_append(&c->messages, text, size);
    } else {
        queue_put(&c->output, (const uint8_t *)"\n", 1);
        queue_put(&c->output, text, size);
    }
    pthread_mutex_unlock(&c->lock);
}

static void escape(struct dp_console *c, uint8_t key)
{
    static const char help[] = "C-a x  end the machine\nC-a c  show its status\nC-a b  send a break\n"
                               "C-a a  send C-a itself\nC-a h  this help\n";
    switch (key) {
    case 'x':
        if (c->escapes.quit)
            c->escapes.quit(c->escapes.opaque);
        break;
    case 'c': {
        struct dp_buffer b = {0};
        if (c->escapes.status)
            c->escapes.status(c->escapes.opaque, &b);
        print(c, b.data, b.size);
        dp_buffer_fini(&b);
        break;
    }
    case 'h': case '?':
        print(c, help, sizeof(help) - 1);
        break;
    case 'b':
        pthread_mutex_lock(&c->lock);
        c->breaking = true;
        pthread_mutex_unlock(&c->lock);
        break;
    case 'a': case CTRL_A: {
        const uint8_t a = CTRL_A;
        pthread_mutex_lock(&c->lock);
        queue_put(&c->input, &a, 1);
        pthread_mutex_unlock(&c->lock);
        break;
    }
    }
}

static void take_input(struct dp_console *c, const uint8_t *data, size_t n)
{
    if (!c->escapes_on) {
        pthread_mutex_lock(&c->lock);
        queue_put(&c->input, data, n);
        pthread_mutex_unlock(&c->lock);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (c->escape_seen) {
            c->escape_seen = false;
            escape(c, data[i]);
        } else if (data[i] == CTRL_A) {
            c->escape_seen = true;
        } else {
            pthread_mutex_lock(&c->lock);
            queue_put(&c->input, &data[i], 1);
            pthread_mutex_unlock(&c->lock);
        }
    }
}

static void in_ready(void *opaque, int fd, uint32_t events)
{
    struct dp_console *c = opaque;
    uint8_t piece[PIECE];
    pthread_mutex_lock(&c->lock);
    size_t room = IN_SIZE - c->input.count;
    pthread_mutex_unlock(&c->lock);
    size_t want = c->escapes_on ? sizeof(piece) : DP_MIN(room, sizeof(piece));
    ssize_t n = want ? read(fd, piece, want) : 0;
    if (n > 0) {
        take_input(c, piece, (size_t)n);
    } else if (want && (n == 0 || (errno != EINTR && errno != EAGAIN))) { /* the end, or a terminal that hung up */
        dp_loop_unwatch(c->loop, fd);
        pthread_mutex_lock(&c->lock);
        c->in = -1;
        pthread_mutex_unlock(&c->lock);
    }
    service(c);
}

static void out_ready(void *opaque, int fd, uint32_t events) { service(opaque); }

static void woken(void *opaque, int fd, uint32_t events)
{
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof(count));
    (void)n;
    service(opaque);
}

/* ---- life ---- */

static struct dp_console *console_new(struct dp_loop *l, struct dp_error *e)
{
    struct dp_console *c = calloc(1, sizeof(*c));
    if (c) {
        c->loop = l;
        c->in = c->out = c->wake = c->terminal = -1;
        c->limit = SIZE_MAX;
        c->input = (struct queue){.data = malloc(IN_SIZE), .size = IN_SIZE};
        c->output = (struct queue){.data = malloc(OUT_SIZE), .size = OUT_SIZE};
        pthread_mutex_init(&c->lock, NULL);
        pthread_cond_init(&c->idle, NULL);
    }
    if (!c || !c->input.data || !c->output.data) {
        dp_console_close(c);
        dp_error_set(e, -ENOMEM, "no memory for a console");
        return NULL;
    }
    return c;
}

/* Hangs the descriptors into the loop; on failure closes the console. */
static int console_start(struct dp_console *c, struct dp_error *e)
{
    int r = 0;
    c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->wake < 0)
        r = -errno;
    if (!r)
        r = dp_loop_watch(c->loop, c->wake, EPOLLIN, woken, c);
    if (!r && c->in >= 0)
        r = dp_loop_watch(c->loop, c->in, EPOLLIN, in_ready, c);
    if (!r && c->out >= 0)
        r = dp_loop_watch(c->loop, c->out, 0, out_ready, c);
    if (r) {
        dp_console_close(c);
        return dp_error_set(e, r, "cannot set up the console: %s (see ulimit -n)", strerror(-r));
    }
    return 0;
}

int dp_console_open_stdio(struct dp_loop *l, const struct dp_console_escapes *esc, struct dp_console **out, struct dp_error *e)
{
    struct dp_console *c = console_new(l, e);
    if (!c)
        return -ENOMEM;
    if (esc)
        c->escapes = *esc;
    bool terminal = isatty(STDIN_FILENO);
    pid_t foreground = terminal ? tcgetpgrp(STDIN_FILENO) : -1; /* -1: not our controlling terminal, no job control to mind */
    bool ours = foreground < 0 || foreground == getpgrp();
    if (descriptor_usable(STDIN_FILENO, O_WRONLY) && ours)
        c->in = STDIN_FILENO;
    choose_output(c, STDOUT_FILENO);
    c->escapes_on = terminal && c->in >= 0;
    int r = console_start(c, e);
    if (r)
        return r;
    if (c->escapes_on)
        make_raw(c, STDIN_FILENO);
    *out = c;
    return 0;
}

int dp_console_open_file(struct dp_loop *l, const char *path, struct dp_console **out, struct dp_error *e)
{
    struct dp_console *c = console_new(l, e);
    if (!c)
        return -ENOMEM;
    c->out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
    c->own_out = true;
    if (c->out < 0) {
        int code = -errno;
        dp_console_close(c);
        return dp_error_set(e, code, "cannot write the console file %s: %s%s", path, strerror(-code),
                            code == -ENXIO ? " (nobody reads that pipe: start the reader first)" : "");
    }
    int r = console_start(c, e);
    if (r)
        return r;
    *out = c;
    return 0;
}

int dp_console_open_memory(struct dp_console **out, struct dp_error *e)
{
    *out = console_new(NULL, e);
    return *out ? 0 : -ENOMEM;
}

void dp_console_drain(struct dp_console *c)
{
    for (int waited = 0; c->loop && c->out >= 0; waited += 20) {
        pthread_mutex_lock(&c->lock);
        flush(c);
        bool done = !c->output.count;
        pthread_mutex_unlock(&c->lock);
        if (done || waited >= CLOSE_WAIT_MS)
            break;
        poll(&(struct pollfd){.fd = c->out, .events = POLLOUT}, 1, 20);
    }
}

void dp_console_close(struct dp_console *c)
{
    if (!c)
        return;
    dp_console_attach(c, NULL);
    if (c->loop) {
        if (c->in >= 0)
            dp_loop_unwatch(c->loop, c->in);
        if (c->out >= 0)
            dp_loop_unwatch(c->loop, c->out);
        if (c->wake >= 0)
            dp_loop_unwatch(c->loop, c->wake);
    }
    dp_console_drain(c);
    dp_console_emergency_restore(c);
    if (c->own_out && c->out >= 0)
        close(c->out);
    if (c->wake >= 0)
        close(c->wake);
    free(c->input.data);
    free(c->output.data);
    dp_buffer_fini(&c->messages);
    dp_buffer_fini(&c->kept);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->idle);
    free(c);
}

/* ---- the client's side ---- */

void dp_console_attach(struct dp_console *c, const struct dp_console_client *client)
{
    pthread_mutex_lock(&c->lock);
    c->attached = false;
    c->starved = false;
    while (c->serving && !pthread_equal(c->server, pthread_self())) /* the old client hears nothing after this returns */
        pthread_cond_wait(&c->idle, &c->lock);
    if (client) {
        c->client = *client;
        c->attached = true;
    }
    pthread_mutex_unlock(&c->lock);
    if (client)
        request_service(c);
}

size_t dp_console_write(struct dp_console *c, const uint8_t *data, size_t n)
{
    size_t taken;
    bool first = false;
    pthread_mutex_lock(&c->lock);
    if (!c->loop) {
        taken = DP_MIN(n, c->limit);
        c->limit -= c->limit == SIZE_MAX ? 0 : taken;
        dp_buffer_append(&c->kept, data, taken);
    } else if (c->out < 0 || c->error.code) {
        taken = n;
    } else {
        first = !c->output.count;
        taken = queue_put(&c->output, data, n);
    }
    c->starved |= taken < n;
    pthread_mutex_unlock(&c->lock);
    if (first && taken)
        request_service(c);
    return taken;
}

void dp_console_kick(struct dp_console *c)
{
    pthread_mutex_lock(&c->lock);
    bool work = c->input.count > 0;
    pthread_mutex_unlock(&c->lock);
    if (work)
        request_service(c);
}

int dp_console_error(struct dp_console *c, struct dp_error *e)
{
    pthread_mutex_lock(&c->lock);
    int code = c->error.code;
    if (code && e)
        *e = c->error;
    pthread_mutex_unlock(&c->lock);
    return code;
}

/* ---- memory ---- */

void dp_console_feed(struct dp_console *c, const void *data, size_t n)
{
    pthread_mutex_lock(&c->lock);
    queue_put(&c->input, data, n);
    pthread_mutex_unlock(&c->lock);
    service(c);
}

const struct dp_buffer *dp_console_output(struct dp_console *c) { return &c->kept; }

void dp_console_limit(struct dp_console *c, size_t more)
{
    pthread_mutex_lock(&c->lock);
    c->limit = more;
    pthread_mutex_unlock(&c->lock);
    service(c);
}

void dp_console_break(struct dp_console *c)
{
    pthread_mutex_lock(&c->lock);
    c->breaking = true;
    pthread_mutex_unlock(&c->lock);
    request_service(c);
}
