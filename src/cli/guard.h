/* cli/guard.h - restores the terminal even if doppel is killed.
 *
 * Model: a child process holds the terminal's settings and one end of a pipe. If the pipe closes without a farewell (SIGKILL, a crash, the
 * kernel's OOM killer), it sets the terminal back; told to stop, it just leaves. Without a terminal there is no child.
 */
#ifndef DP_CLI_GUARD_H
#define DP_CLI_GUARD_H

#include <sys/types.h>

struct cli_guard {
    pid_t pid;
    int fd;
};
/* Before any thread is started and the terminal is changed. A guard that cannot be made is no error: it is a second line of defence. */
void cli_guard_start(struct cli_guard *g);
/* A view has the whole screen from now on (display/text_view.h): its end is undone too. */
void cli_guard_screen(struct cli_guard *g);
void cli_guard_stop(struct cli_guard *g);

#endif
