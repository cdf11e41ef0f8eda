/* tests/cpu/program_native.h - what program_native.c and its child share: one block of memory on descriptor 3 of the child, which reads a
 * byte from descriptor 4 to start and writes one to 5 when the batch is done. */
#ifndef TESTS_PROGRAM_NATIVE_H
#define TESTS_PROGRAM_NATIVE_H

#include "program.h"

enum { PROG_NATIVE_BATCH_FD = 3, PROG_NATIVE_START_FD, PROG_NATIVE_DONE_FD };

struct prog_native_batch {
    unsigned count;
    volatile unsigned next; /* the one being executed */
    struct prog_image images[PROG_BATCH];
    struct prog_result results[PROG_BATCH];
};

#endif
