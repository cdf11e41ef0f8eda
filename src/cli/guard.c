/* cli/guard.c - see guard.h. */
#include "cli/guard.h"

#include <fcntl.h>
#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "display/text_view.h"

static void __attribute__((noreturn)) watch_over(int fd, const struct termios *saved)
{
    char c;
    ssize_t n;
    sigset_t all;
    bool screen = false;
    /* Signals from the keyboard are for doppel; SIGTTOU would stop a background process that sets the terminal. */
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    prctl(PR_SET_NAME, "doppel-tty");
    do {
        n = read(fd, &c, 1);
        screen |= n == 1 && c == 's';
    } while ((n < 0 && errno == EINTR) || (n == 1 && c == 's'));
    if (n <= 0) {
        if (screen) {
            /* a terminal's input is its output too */
            ssize_t written = write(STDIN_FILENO, dp_text_view_leave, strlen(dp_text_view_leave));
            (void)written;
        }
        tcsetattr(STDIN_FILENO, TCSADRAIN, saved);
    }
    _exit(0);
}

void cli_guard_start(struct cli_guard *g)
{
    struct termios saved;
    int ends[2];
    g->pid = -1;
    g->fd = -1;
    if (tcgetattr(STDIN_FILENO, &saved) || pipe2(ends, O_CLOEXEC))
        return;
    g->pid = fork();
    if (!g->pid) {
        close(ends[1]);
        /* A reader of our output must not wait for this child. */
        close(STDOUT_FILENO);
        close(STDERR_FILENO);
        watch_over(ends[0], &saved);
    }
    close(ends[0]);
    if (g->pid < 0)
        close(ends[1]);
    else
        g->fd = ends[1];
}

void cli_guard_screen(struct cli_guard *g)
{
    ssize_t n = g->pid < 0 ? 0 : write(g->fd, "s", 1);
    (void)n;
}

void cli_guard_stop(struct cli_guard *g)
{
    if (g->pid < 0)
        return;
    ssize_t n = write(g->fd, "q", 1); /* should it be gone, there is nothing left to tell */
    (void)n;
    close(g->fd);
    while (waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
        ;
}
