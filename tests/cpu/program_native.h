/* tests/cpu/program_native.h - what program_native.c and its child share: a batch of programs (native_side.h). */
#ifndef TESTS_PROGRAM_NATIVE_H
#define TESTS_PROGRAM_NATIVE_H

#include "program.h"
#include "native_side.h"

struct prog_native_batch {
    unsigned count;
    volatile unsigned next; /* the one being executed */
    struct prog_image images[PROG_BATCH];
    struct prog_result results[PROG_BATCH];
};

#endif
