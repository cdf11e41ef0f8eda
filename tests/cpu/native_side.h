/* tests/cpu/native_side.h - a child process that executes batches of work on the host's processor.
 *
 * Model: a batch and its results lie in memory that both sides share, descriptor 3 of the child, which reads a byte from descriptor 4 to
 * start and writes one to 5 when the batch is done. A child that dies (a wild store into itself) costs the item it was at, and is replaced.
 */
#ifndef TESTS_CPU_NATIVE_SIDE_H
#define TESTS_CPU_NATIVE_SIDE_H

#include <sys/types.h>

#include "base/base.h"

enum { NATIVE_BATCH_FD = 3, NATIVE_START_FD, NATIVE_DONE_FD };

struct native_side {
    const char *program; /* its file, beside this program's */
    void *memory;
    size_t size;
    int memory_fd, to_child, from_child;
    pid_t child;
};

/* Makes the memory, without a child. */
int native_side_create(struct native_side *n, const char *program, size_t size, struct dp_error *e);
int native_side_start(struct native_side *n, struct dp_error *e);
void native_side_destroy(struct native_side *n);
/* Has the child do all items of the batch; *next, in shared memory, is the one it is at. died: that one ended the child by a signal. */
int native_side_run(struct native_side *n, volatile unsigned *next, unsigned count, void (*died)(void *memory, unsigned item, int number),
                    struct dp_error *e);

#endif
