/* tests/fuzz/input.h - what fuzz targets share: the input as a stream of operands that never ends (zeros follow it), and a check.
 *
 * MUST ends the process when its argument, an error or a contradiction, is not 0: that is what a fuzzer reports.
 */
#ifndef DP_TESTS_FUZZ_INPUT_H
#define DP_TESTS_FUZZ_INPUT_H

#include <stdint.h>
#include <stdlib.h>

#define MUST(x)                                                                                                                            \
    do {                                                                                                                                   \
        if (x)                                                                                                                             \
            abort();                                                                                                                       \
    } while (0)

struct input { const uint8_t *at, *end; };

/* An operand of n bytes, little-endian. */
static inline uint64_t take(struct input *in, unsigned n)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < n; i++)
        value |= (uint64_t)(in->at < in->end ? *in->at++ : 0) << i * 8;
    return value;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
