/* program_native.c - the native side as seen from here: a child process (program_child.c) that executes batches of programs on the host's
 * processor, as native.c does with single instructions. A child that dies costs its program, marked CPU_DIED, and is replaced. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "program_native.h"

struct prog_native {
    struct prog_native_batch *batch;
    int batch_fd;
    pid_t child;
    int to_child, from_child;
};

/* The child is the program beside this one. */
static void child_path(char *path, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", path, size - 16);
    path[n < 0 ? 0 : n] = 0;
    char *slash = strrchr(path, '/');
    strcpy(slash ? slash + 1 : path, "prog-native");
}

static int start_child(struct prog_native *n, struct dp_error *e)
{
    int a[2], b[2];
    if (pipe2(a, O_CLOEXEC))
        return dp_error_set(e, -errno, "cannot make a pipe");
    if (pipe2(b, O_CLOEXEC)) {
        close(a[0]), close(a[1]);
        return dp_error_set(e, -EMFILE, "cannot make a pipe");
    }
    char path[4096];
    child_path(path, sizeof path);
    fflush(NULL);
    n->child = fork();
    if (n->child == 0) {
        /* First out of the way of the numbers they get. */
        int fd[3] = {fcntl(n->batch_fd, F_DUPFD, 10), fcntl(a[0], F_DUPFD, 10), fcntl(b[1], F_DUPFD, 10)};
        for (int i = 0; i < 3; i++) {
            dup2(fd[i], PROG_NATIVE_BATCH_FD + i);
            close(fd[i]);
        }
        execl(path, path, (char *)NULL);
        _exit(4);
    }
    close(a[0]), close(b[1]);
    n->to_child = a[1], n->from_child = b[0];
    return n->child < 0 ? dp_error_set(e, -EAGAIN, "cannot fork") : 0;
}

static int stop_child(struct prog_native *n)
{
    close(n->to_child), close(n->from_child);
    int status = 0;
    if (n->child > 0)
        waitpid(n->child, &status, 0);
    n->child = -1;
    return status;
}

int prog_native_create(struct prog_native **out, struct dp_error *e)
{
    struct prog_native *n = calloc(1, sizeof *n);
    if (!n)
        return dp_error_set(e, -ENOMEM, "out of memory");
    signal(SIGPIPE, SIG_IGN);
    n->batch_fd = memfd_create("programs", MFD_CLOEXEC);
    if (n->batch_fd < 0 || ftruncate(n->batch_fd, sizeof *n->batch)) {
        free(n);
        return dp_error_set(e, -ENOMEM, "no memory for the native side's programs");
    }
    n->batch = mmap(NULL, sizeof *n->batch, PROT_READ | PROT_WRITE, MAP_SHARED, n->batch_fd, 0);
    if (n->batch == MAP_FAILED) {
        close(n->batch_fd);
        free(n);
        return dp_error_set(e, -ENOMEM, "no memory for the native side's programs");
    }
    int err = start_child(n, e);
    if (err) {
        munmap(n->batch, sizeof *n->batch);
        close(n->batch_fd);
        free(n);
        return err;
    }
    *out = n;
    return 0;
}

void prog_native_destroy(struct prog_native *n)
{
    if (!n)
        return;
    stop_child(n);
    munmap(n->batch, sizeof *n->batch);
    close(n->batch_fd);
    free(n);
}

int prog_native_run(struct prog_native *n, const struct prog_image *images, struct prog_result *results, unsigned count, struct dp_error *e)
{
    struct prog_native_batch *b = n->batch;
    memcpy(b->images, images, count * sizeof *images);
    memset(b->results, 0, count * sizeof *results);
    b->count = count, b->next = 0;
    unsigned failed_starts = 0;
    while (b->next < count) {
        char byte = 0;
        if (write(n->to_child, &byte, 1) == 1 && read(n->from_child, &byte, 1) == 1)
            break;
        int status = stop_child(n);
        if (WIFEXITED(status) && ++failed_starts > 2)
            return dp_error_set(
                e, WEXITSTATUS(status) == 4 ? -ENOENT : -EIO,
                WEXITSTATUS(status) == 4
                    ? "cannot run prog-native, which belongs beside this program; build it"
                    : "the native side cannot set up its memory or LDT; it needs a Linux x86-64 host with modify_ldt and FSGSBASE");
        if (!WIFEXITED(status)) {
            b->results[b->next].r.vector = CPU_DIED;
            b->results[b->next].r.error = (uint32_t)WTERMSIG(status);
            b->next++;
        }
        int err = start_child(n, e);
        if (err)
            return err;
    }
    memcpy(results, b->results, count * sizeof *results);
    return 0;
}
