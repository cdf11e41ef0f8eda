/* native.c - the native side as seen from here: a child process (native_child.c) that executes batches of cases on the host's processor.
 *
 * Model: cases and results lie in shared memory, a pipe in each direction says when. A child that dies (a wild store into itself) costs its
 * case, marked CPU_DIED, and is replaced.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "native.h"

struct cpu_native {
    struct cpu_native_batch *batch;
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
    strcpy(slash ? slash + 1 : path, "cpu-native");
}

static int start_child(struct cpu_native *n, struct dp_error *e)
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
            dup2(fd[i], CPU_NATIVE_BATCH_FD + i);
            close(fd[i]);
        }
        execl(path, path, (char *)NULL);
        _exit(4);
    }
    close(a[0]), close(b[1]);
    n->to_child = a[1], n->from_child = b[0];
    return n->child < 0 ? dp_error_set(e, -EAGAIN, "cannot fork") : 0;
}

static int stop_child(struct cpu_native *n)
{
    close(n->to_child), close(n->from_child);
    int status = 0;
    if (n->child > 0)
        waitpid(n->child, &status, 0);
    n->child = -1;
    return status;
}

int cpu_native_create(struct cpu_native **out, struct dp_error *e)
{
    struct cpu_native *n = calloc(1, sizeof *n);
    if (!n)
        return dp_error_set(e, -ENOMEM, "out of memory");
    signal(SIGPIPE, SIG_IGN);
    n->batch_fd = memfd_create("cases", MFD_CLOEXEC);
    if (n->batch_fd < 0 || ftruncate(n->batch_fd, sizeof *n->batch)) {
        free(n);
        return dp_error_set(e, -ENOMEM, "no memory for the native side's cases");
    }
    n->batch = mmap(NULL, sizeof *n->batch, PROT_READ | PROT_WRITE, MAP_SHARED, n->batch_fd, 0);
    if (n->batch == MAP_FAILED) {
        close(n->batch_fd);
        free(n);
        return dp_error_set(e, -ENOMEM, "no memory for the native side's cases");
    }
    cpu_base_image(n->batch->base);
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

void cpu_native_destroy(struct cpu_native *n)
{
    if (!n)
        return;
    stop_child(n);
    munmap(n->batch, sizeof *n->batch);
    close(n->batch_fd);
    free(n);
}

int cpu_native_run(struct cpu_native *n, const struct cpu_case *cases, struct cpu_result *results, unsigned count, struct dp_error *e)
{
    struct cpu_native_batch *b = n->batch;
    memcpy(b->cases, cases, count * sizeof *cases);
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
                    ? "cannot run cpu-native, which belongs beside this program; build it"
                    : "the native side cannot set up its memory or LDT; it needs a Linux x86-64 host with modify_ldt and FSGSBASE");
        if (!WIFEXITED(status)) {
            b->results[b->next].vector = CPU_DIED;
            b->results[b->next].error = (uint32_t)WTERMSIG(status);
            b->next++;
        }
        int err = start_child(n, e);
        if (err)
            return err;
    }
    memcpy(results, b->results, count * sizeof *results);
    return 0;
}
