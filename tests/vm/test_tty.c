/* test_tty.c DOPPEL KERNEL-MAKER - the terminal: raw while a machine runs, restored however it ends, and the escape keys. */
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "tests/unit/test.h"

static const char *doppel, *make_images;
static char folder[] = "/tmp/doppel-tty-XXXXXX", kernel[64];

struct session {
    int master, slave;
    pid_t pid;
    struct termios before;
    char text[8192];
    size_t size;
};

static void start(struct session *s)
{
    memset(s, 0, sizeof *s);
    assert_int_equal(openpty(&s->master, &s->slave, NULL, NULL, NULL), 0);
    assert_int_equal(tcgetattr(s->slave, &s->before), 0);
    assert_true((s->pid = fork()) >= 0);
    if (!s->pid) {
        setsid();
        dup2(s->slave, 0);
        dup2(s->slave, 1);
        dup2(s->slave, 2);
        close(s->master);
        execl(doppel, doppel, "run", "--engine", "null", "--kernel", kernel, NULL);
        _exit(99);
    }
}

/* Reads what doppel says until it has said the words. */
static bool wait_for(struct session *s, const char *words)
{
    for (int i = 0; i < 300; i++) {
        struct pollfd p = {.fd = s->master, .events = POLLIN};
        if (strstr(s->text, words))
            return true;
        if (poll(&p, 1, 50) == 1 && s->size < sizeof s->text - 1) {
            ssize_t n = read(s->master, s->text + s->size, sizeof s->text - 1 - s->size);
            s->size += n > 0 ? (size_t)n : 0;
        }
    }
    return false;
}

static bool raw(struct session *s)
{
    struct termios t;
    assert_int_equal(tcgetattr(s->slave, &t), 0);
    return !(t.c_lflag & (ICANON | ECHO));
}

/* The guard restores a moment after the end. */
static void assert_restored(struct session *s)
{
    struct termios t = {0};
    for (int i = 0; i < 200; i++) {
        assert_int_equal(tcgetattr(s->slave, &t), 0);
        if (t.c_lflag == s->before.c_lflag && t.c_iflag == s->before.c_iflag && t.c_oflag == s->before.c_oflag)
            return;
        usleep(10000);
    }
    fail_msg("the terminal was not restored: lflag %x, was %x", t.c_lflag, s->before.c_lflag);
}

static int finish(struct session *s)
{
    int status;
    assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
    assert_restored(s);
    close(s->master);
    close(s->slave);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void test_escape_ends(void **state)
{
    struct session s;
    start(&s);
    assert_true(wait_for(&s, "C-a x"));
    assert_true(raw(&s));
    assert_int_equal(write(s.master, "\001c", 2), 2);
    assert_true(wait_for(&s, "running, engine null"));
    assert_int_equal(write(s.master, "\001x", 2), 2);
    assert_int_equal(finish(&s), 0);
}

static void end_by(int signal, int want)
{
    struct session s;
    start(&s);
    assert_true(wait_for(&s, "C-a x"));
    assert_true(raw(&s));
    kill(s.pid, signal);
    assert_int_equal(finish(&s), want);
}

static void test_term(void **state) { end_by(SIGTERM, 143); }
static void test_hup(void **state) { end_by(SIGHUP, 129); }
static void test_kill(void **state) { end_by(SIGKILL, -SIGKILL); }
static void test_crash(void **state) { end_by(SIGABRT, -SIGABRT); }

int main(int argc, char **argv)
{
    char command[4300];
    if (argc < 3)
        return 2;
    doppel = argv[1];
    make_images = argv[2];
    if (!mkdtemp(folder))
        return 99;
    snprintf(command, sizeof command, "%s %s", make_images, folder);
    snprintf(kernel, sizeof kernel, "%s/multiboot", folder);
    if (system(command))
        return 99;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_escape_ends), cmocka_unit_test(test_term),  cmocka_unit_test(test_hup),
        cmocka_unit_test(test_kill),        cmocka_unit_test(test_crash),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command) ? 99 : rc;
}
