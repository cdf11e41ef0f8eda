/* cli.h - runs the command `doppel` against a VM in the test's own loop, which goes on meanwhile. */
#ifndef TESTS_VM_CLI_H
#define TESTS_VM_CLI_H

#include <sys/wait.h>
#include <unistd.h>

#include "event/event.h"
#include "tests/unit/test.h"

enum { CLI_SAID = 4096 };

/* Its status; what it says (both streams) is in said. argv: from the verb on, NULL at the end. */
static inline int cli_run_in(struct dp_loop *loop, const char *doppel, const char *folder, char said[CLI_SAID], const char *const *argv)
{
    const char *all[16] = {"doppel"};
    int ends[2], status;
    for (unsigned i = 0; argv[i]; i++) {
        assert_true(i + 2 < DP_ARRAY_LEN(all));
        all[i + 1] = argv[i];
    }
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    if (!pid) {
        dup2(ends[1], 1);
        dup2(ends[1], 2);
        if (chdir(folder))
            _exit(99);
        execv(doppel, (char *const *)all);
        _exit(99);
    }
    close(ends[1]);
    for (unsigned i = 0; !waitpid(pid, &status, WNOHANG); i++) {
        assert_true(i < 3000);
        dp_loop_poll(loop, 5);
    }
    ssize_t n = read(ends[0], said, CLI_SAID - 1);
    said[n > 0 ? n : 0] = 0;
    close(ends[0]);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

#endif
