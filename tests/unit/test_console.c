/* test_console.c - the memory and file back ends; stdio as a terminal, as pipes, closed: each in a child process that echoes. */
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "console/console.h"
#include "tests/unit/test.h"

/* ---- a client ---- */

struct client { struct dp_console *c; size_t room; struct dp_buffer got; unsigned writable, breaks; };

static size_t client_room(void *opaque) { return ((struct client *)opaque)->room; }
static void client_receive(void *opaque, const uint8_t *data, size_t n)
{
    struct client *k = opaque;
    assert_true(n <= k->room);
    k->room -= n;
    dp_buffer_append(&k->got, data, n);
}
static void client_writable(void *opaque) { ((struct client *)opaque)->writable++; }
static void client_break(void *opaque) { ((struct client *)opaque)->breaks++; }

static struct dp_console_client client_of(struct client *k)
{
    return (struct dp_console_client){client_room, client_receive, client_writable, client_break, k};
}

static void memory(void **state)
{
    struct dp_error e = {0};
    struct client k = {.room = 3};
    assert_ok(dp_console_open_memory(&k.c, &e), e);
    dp_console_feed(k.c, "ab", 2); /* before anybody listens: kept */
    struct dp_console_client cl = client_of(&k);
    dp_console_attach(k.c, &cl);
    assert_int_equal(k.got.size, 2);
    dp_console_feed(k.c, "cdef", 4);
    assert_int_equal(k.got.size, 3);
    k.room = 10;
    dp_console_kick(k.c);
    assert_memory_equal(k.got.data, "abcdef", 6);
    dp_console_break(k.c);
    assert_int_equal(k.breaks, 1);

    assert_int_equal(dp_console_write(k.c, (const uint8_t *)"hello", 5), 5);
    dp_console_limit(k.c, 3);
    assert_int_equal(k.writable, 0);
    assert_int_equal(dp_console_write(k.c, (const uint8_t *)"world", 5), 3);
    assert_int_equal(dp_console_write(k.c, (const uint8_t *)"ld", 2), 0);
    dp_console_limit(k.c, 100);
    assert_int_equal(k.writable, 1);
    dp_console_write(k.c, (const uint8_t *)"ld", 2);
    assert_int_equal(dp_console_output(k.c)->size, 10);
    assert_memory_equal(dp_console_output(k.c)->data, "helloworld", 10);
    dp_console_attach(k.c, NULL);
    dp_console_feed(k.c, "zz", 2);
    assert_int_equal(k.got.size, 6);
    assert_int_equal(dp_console_error(k.c, &e), 0);
    dp_console_close(k.c);
    dp_console_close(NULL);
    dp_buffer_fini(&k.got);
}

static struct dp_loop *new_loop(void)
{
    struct dp_loop *l = NULL;
    struct dp_error e = {0};
    assert_ok(dp_loop_create(&l, &e), e);
    return l;
}

static void file(void **state)
{
    struct dp_loop *l = new_loop();
    struct dp_error e = {0};
    struct dp_console *c = NULL;
    char path[] = "/tmp/dp-console-XXXXXX", text[200001] = "";
    close(mkstemp(path));
    assert_ok(dp_console_open_file(l, path, &c, &e), e);
    memset(text, 'x', sizeof(text) - 1);
    for (size_t done = 0; done < sizeof(text) - 1;) { /* more than the queue holds */
        done += dp_console_write(c, (const uint8_t *)text + done, sizeof(text) - 1 - done);
        if (done < sizeof(text) - 1)
            dp_loop_poll(l, 1000);
    }
    dp_console_close(c); /* flushes the rest */
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, sizeof(text) - 1);
    unlink(path);
    assert_int_equal(dp_console_open_file(l, "/nonexistent/x", &c, &e), -ENOENT);
    assert_non_null(strstr(e.text, "/nonexistent/x"));

    /* A full disk: what cannot be written is dropped and told, and the writer is not held up. */
    assert_ok(dp_console_open_file(l, "/dev/full", &c, &e), e);
    assert_int_equal(dp_console_write(c, (const uint8_t *)"abc", 3), 3);
    for (unsigned i = 0; i < 10 && !dp_console_error(c, NULL); i++)
        dp_loop_poll(l, 100);
    assert_int_equal(dp_console_error(c, &e), -ENOSPC);
    assert_int_equal(dp_console_write(c, (const uint8_t *)text, sizeof(text)), sizeof(text));
    dp_console_close(c);
    dp_loop_destroy(l);
}

/* ---- a child that echoes upper case on stdio until C-a x or 'q' ---- */

struct echo { struct dp_loop *l; struct dp_console *c; unsigned quits; };

static size_t echo_room(void *opaque) { return 16; }
static void echo_receive(void *opaque, const uint8_t *data, size_t n)
{
    struct echo *k = opaque;
    for (size_t i = 0; i < n; i++) {
        uint8_t b = data[i] == 1 ? '^' : data[i] >= 'a' && data[i] <= 'z' ? data[i] - 32 : data[i];
        dp_console_write(k->c, &b, 1);
        if (data[i] == 'q')
            dp_loop_stop(k->l);
    }
}
static void echo_break(void *opaque) { dp_console_write(((struct echo *)opaque)->c, (const uint8_t *)"<break>", 7); }
static void echo_quit(void *opaque)
{
    struct echo *k = opaque;
    k->quits++;
    dp_loop_stop(k->l);
}
static void echo_status(void *opaque, struct dp_buffer *out) { dp_buffer_printf(out, "status: fine\n"); }

enum { FLOOD = 500000 };
struct flood { struct echo *k; size_t sent; };

static void flood_more(void *opaque)
{
    struct flood *f = opaque;
    uint8_t piece[1000];
    memset(piece, 'f', sizeof(piece));
    while (f->sent < FLOOD) {
        size_t n = dp_console_write(f->k->c, piece, DP_MIN(sizeof(piece), FLOOD - f->sent));
        f->sent += n;
        if (n < sizeof(piece) && f->sent < FLOOD)
            return;
    }
    dp_loop_stop(f->k->l);
}

/* Runs in the child; exits with 10 + number of quits, or 99 when output had an error. */
static void child(bool flood)
{
    alarm(20);
    struct echo k = {0};
    struct dp_console_escapes esc = {echo_quit, echo_status, &k};
    if (dp_loop_create(&k.l, NULL) || dp_console_open_stdio(k.l, &esc, &k.c, NULL))
        _exit(1);
    struct flood f = {&k, 0};
    struct dp_console_client cl = {echo_room, echo_receive, flood ? flood_more : NULL, echo_break, &k};
    if (flood)
        cl.opaque = &f, cl.receive = NULL, cl.room = NULL;
    dp_console_attach(k.c, &cl);
    if (flood)
        flood_more(&f);
    dp_loop_run(k.l);
    int error = dp_console_error(k.c, NULL);
    dp_console_close(k.c);
    dp_loop_destroy(k.l);
    _exit(error ? 99 : 10 + (int)k.quits);
}

/* Starts the child with the given descriptors (-1: closed). */
static pid_t start(int in, int out, bool flood)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    setpgid(0, 0);
    if (in >= 0)
        dup2(in, 0);
    else
        close(0);
    if (out >= 0)
        dup2(out, 1);
    else
        close(1);
    for (int fd = 3; fd < 64; fd++)
        close(fd);
    child(flood);
    _exit(1);
}

static int finish(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Reads until text appears. */
static void expect(int fd, struct dp_buffer *seen, const char *text)
{
    for (;;) {
        dp_buffer_append(seen, "", 1);
        seen->size--;
        char *at = memmem(seen->data, seen->size, text, strlen(text));
        if (at) {
            size_t used = (size_t)((uint8_t *)at - seen->data) + strlen(text);
            memmove(seen->data, seen->data + used, seen->size - used);
            seen->size -= used;
            return;
        }
        struct pollfd p = {.fd = fd, .events = POLLIN};
        uint8_t piece[4096];
        ssize_t n = poll(&p, 1, 5000) > 0 ? read(fd, piece, sizeof(piece)) : -1;
        if (n <= 0)
            fail_msg("waited for \"%s\", saw \"%s\"", text, (char *)seen->data);
        dp_buffer_append(seen, piece, (size_t)n);
    }
}

static void type(int fd, const char *text) { assert_int_equal(write(fd, text, strlen(text)), strlen(text)); }

static void terminal(void **state)
{
    int master, slave;
    assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
    struct termios before = {0}, during = {0}, after = {0};
    tcgetattr(slave, &before);
    pid_t pid = start(slave, slave, false);
    struct dp_buffer seen = {0};
    for (unsigned i = 0; i < 1000; i++) { /* until it is raw: what comes earlier would be line-buffered and echoed */
        tcgetattr(slave, &during);
        if (!(during.c_lflag & ICANON))
            break;
        usleep(5000);
    }
    assert_false(during.c_lflag & (ICANON | ECHO | ISIG));
    type(master, "ab\003\032\r"); /* C-c and C-z are the guest's */
    expect(master, &seen, "AB\003\032\r");
    type(master, "\001a\001\001");
    expect(master, &seen, "^^");
    type(master, "\001h");
    expect(master, &seen, "C-a x");
    type(master, "\001c");
    expect(master, &seen, "status: fine\r\n");
    type(master, "\001b");
    expect(master, &seen, "<break>");
    type(master, "\001zk"); /* unknown escapes vanish */
    expect(master, &seen, "K");
    type(master, "\001x");
    assert_int_equal(finish(pid), 11);
    tcgetattr(slave, &after);
    assert_memory_equal(&before, &after, sizeof(before));
    dp_buffer_fini(&seen);
    close(master);
    close(slave);
}

/* A child killed by a signal whose handler restores. */
static struct dp_console *doomed; /* signal handlers have no argument */
static void on_signal(int n)
{
    dp_console_emergency_restore(doomed);
    _exit(77);
}

static void emergency(void **state)
{
    int master, slave;
    assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
    struct termios before = {0}, after = {0};
    tcgetattr(slave, &before);
    pid_t pid = fork();
    if (!pid) {
        alarm(20);
        dup2(slave, 0);
        dup2(slave, 1);
        struct dp_loop *l;
        if (dp_loop_create(&l, NULL) || dp_console_open_stdio(l, NULL, &doomed, NULL))
            _exit(1);
        signal(SIGSEGV, on_signal);
        tcgetattr(0, &after);
        if (after.c_lflag & ICANON)
            _exit(2);
        raise(SIGSEGV);
        _exit(3);
    }
    assert_int_equal(finish(pid), 77);
    tcgetattr(slave, &after);
    assert_memory_equal(&before, &after, sizeof(before));
    close(master);
    close(slave);
}

static void pipes(void **state)
{
    int in[2], out[2];
    assert_int_equal(pipe2(in, O_CLOEXEC) | pipe2(out, O_CLOEXEC), 0);
    pid_t pid = start(in[0], out[1], false);
    close(in[0]);
    close(out[1]);
    struct dp_buffer seen = {0};
    type(in[1], "one\001xtwo"); /* no escapes in a pipe: data */
    expect(out[0], &seen, "ONE^XTWO");
    assert_int_equal(fcntl(out[0], F_GETFL) & O_NONBLOCK, 0);
    type(in[1], "q");
    assert_int_equal(finish(pid), 10);
    close(in[1]);
    close(out[0]);
    dp_buffer_fini(&seen);
}

/* The end of input does not end the machine; nor does a reader that goes away, which is told as lost output. */
static void pipes_end(void **state)
{
    int in[2], out[2];
    assert_int_equal(pipe2(in, O_CLOEXEC) | pipe2(out, O_CLOEXEC), 0);
    pid_t pid = start(in[0], out[1], false);
    close(out[0]);
    close(out[1]);
    type(in[1], "abc");
    usleep(100000);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0); /* no SIGPIPE */
    type(in[1], "q");
    assert_int_equal(finish(pid), 99);
    close(in[0]);
    close(in[1]);

    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    pid = start(null, out[1], false);
    usleep(100000);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(null);
    close(out[0]);
    close(out[1]);
}

/* A slow reader gets every byte; the writer is told when to go on. */
static void slow_reader(void **state)
{
    int out[2];
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    pid_t pid = start(-1, out[1], true);
    close(out[1]);
    size_t total = 0;
    uint8_t piece[3000];
    for (ssize_t n; (n = read(out[0], piece, sizeof(piece))) > 0; total += (size_t)n)
        if (total < 100000)
            usleep(500);
    assert_int_equal(total, FLOOD);
    assert_int_equal(finish(pid), 10);
    close(out[0]);
}

static void closed(void **state)
{
    pid_t pid = start(-1, -1, true); /* both closed: output goes nowhere and holds up nobody */
    assert_int_equal(finish(pid), 10);

    /* Closed, and since taken by a file of our own: it is neither read nor written. */
    char path[] = "/tmp/dp-console-XXXXXX";
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "qqq", 3), 3);
    pid = fork();
    if (!pid) {
        close(0);
        close(1);
        if (open(path, O_RDWR | O_CLOEXEC) != 0 || open(path, O_RDWR | O_CLOEXEC) != 1)
            _exit(1);
        child(true);
    }
    assert_int_equal(finish(pid), 10);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 3);
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory), cmocka_unit_test(file),      cmocka_unit_test(terminal),    cmocka_unit_test(emergency),
        cmocka_unit_test(pipes),  cmocka_unit_test(pipes_end), cmocka_unit_test(slow_reader), cmocka_unit_test(closed),
    };
    return cmocka_run_group_tests_name("console", tests, NULL, NULL);
}
