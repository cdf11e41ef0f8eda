/* native_side.c - the native side as seen from here; model in native_side.h. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "native_side.h"

static void child_path(const char *program, char *path, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", path, size - 16);
    path[n < 0 ? 0 : n] = 0;
    char *slash = strrchr(path, '/');
    strcpy(slash ? slash + 1 : path, program);
}

int native_side_start(struct native_side *n, struct dp_error *e)
{
    int a[2], b[2];
    if (pipe2(a, O_CLOEXEC))
        return dp_error_set(e, -errno, "cannot make a pipe");
    if (pipe2(b, O_CLOEXEC)) {
        close(a[0]), close(a[1]);
        return dp_error_set(e, -EMFILE, "cannot make a pipe");
    }
    char path[4096];
    child_path(n->program, path, sizeof path);
    fflush(NULL);
    n->child = fork();
    if (n->child == 0) {
        /* First out of the way of the numbers they get. */
        int fd[3] = {fcntl(n->memory_fd, F_DUPFD, 10), fcntl(a[0], F_DUPFD, 10), fcntl(b[1], F_DUPFD, 10)};
        for (int i = 0; i < 3; i++) {
            dup2(fd[i], NATIVE_BATCH_FD + i);
            close(fd[i]);
        }
        execl(path, path, (char *)NULL);
        _exit(4);
    }
    close(a[0]), close(b[1]);
    n->to_child = a[1], n->from_child = b[0];
    return n->child < 0 ? dp_error_set(e, -EAGAIN, "cannot fork") : 0;
}

static int stop(struct native_side *n)
{
    if (n->to_child >= 0)
        close(n->to_child), close(n->from_child);
    n->to_child = n->from_child = -1;
    int status = 0;
    if (n->child > 0)
        waitpid(n->child, &status, 0);
    n->child = -1;
    return status;
}

int native_side_create(struct native_side *n, const char *program, size_t size, struct dp_error *e)
{
    *n = (struct native_side){.program = program, .size = size, .to_child = -1, .from_child = -1, .child = -1};
    signal(SIGPIPE, SIG_IGN);
    n->memory_fd = memfd_create("batch", MFD_CLOEXEC);
    if (n->memory_fd < 0 || ftruncate(n->memory_fd, (off_t)size))
        n->memory = MAP_FAILED;
    else
        n->memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, n->memory_fd, 0);
    if (n->memory != MAP_FAILED)
        return 0;
    if (n->memory_fd >= 0)
        close(n->memory_fd);
    return dp_error_set(e, -ENOMEM, "no memory for the native side's work");
}

void native_side_destroy(struct native_side *n)
{
    stop(n);
    munmap(n->memory, n->size);
    close(n->memory_fd);
}

int native_side_run(struct native_side *n, volatile unsigned *next, unsigned count, void (*died)(void *memory, unsigned item, int number),
                    struct dp_error *e)
{
    unsigned failed_starts = 0;
    *next = 0;
    while (*next < count) {
        char byte = 0;
        if (write(n->to_child, &byte, 1) == 1 && read(n->from_child, &byte, 1) == 1)
            break;
        int status = stop(n);
        if (WIFEXITED(status) && ++failed_starts > 2) {
            if (WEXITSTATUS(status) == 4)
                return dp_error_set(e, -ENOENT, "cannot run %s, which belongs beside this program; build it", n->program);
            return dp_error_set(
                e, -EIO, "the native side cannot set up its memory or LDT; it needs a Linux x86-64 host with modify_ldt and FSGSBASE");
        }
        if (!WIFEXITED(status)) {
            died(n->memory, *next, WTERMSIG(status));
            ++*next;
        }
        int err = native_side_start(n, e);
        if (err)
            return err;
    }
    return 0;
}
