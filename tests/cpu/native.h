/* tests/cpu/native.h - what the native side's two halves share: a batch of cases (native_side.h). */
#ifndef TESTS_CPU_NATIVE_H
#define TESTS_CPU_NATIVE_H

#include "cpu.h"
#include "native_side.h"

struct cpu_native_batch {
    unsigned count;
    volatile unsigned next; /* the case being executed */
    uint8_t base[CPU_DATA_SIZE];
    struct cpu_case cases[CPU_BATCH];
    struct cpu_result results[CPU_BATCH];
};

#endif
