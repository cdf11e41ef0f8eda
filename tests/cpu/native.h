/* tests/cpu/native.h - what the native side's two halves share: one block of memory, on descriptor 3 of the child, which reads a byte from
 * descriptor 4 to start and writes one to 5 when the batch is done. */
#ifndef TESTS_CPU_NATIVE_H
#define TESTS_CPU_NATIVE_H

#include "cpu.h"

enum { CPU_NATIVE_BATCH_FD = 3, CPU_NATIVE_START_FD, CPU_NATIVE_DONE_FD };

struct cpu_native_batch {
    unsigned count;
    volatile unsigned next; /* the case being executed */
    uint8_t base[CPU_DATA_SIZE];
    struct cpu_case cases[CPU_BATCH];
    struct cpu_result results[CPU_BATCH];
};

#endif
