/* native.c - batches of single instructions on the host's processor, by native_child.c (native_side.h). A case that ends the child is
 * marked CPU_DIED. */
#include <stdlib.h>

#include "native.h"

struct cpu_native { struct native_side side; };

int cpu_native_create(struct cpu_native **out, struct dp_error *e)
{
    struct cpu_native *n = calloc(1, sizeof *n);
    if (!n)
        return dp_error_set(e, -ENOMEM, "out of memory");
    int err = native_side_create(&n->side, "cpu-native", sizeof(struct cpu_native_batch), e);
    if (err) {
        free(n);
        return err;
    }
    cpu_base_image(((struct cpu_native_batch *)n->side.memory)->base);
    err = native_side_start(&n->side, e);
    if (err) {
        cpu_native_destroy(n);
        return err;
    }
    *out = n;
    return 0;
}

void cpu_native_destroy(struct cpu_native *n)
{
    if (!n)
        return;
    native_side_destroy(&n->side);
    free(n);
}

static void died(void *memory, unsigned item, int number)
{
    struct cpu_native_batch *b = memory;
    b->results[item].vector = CPU_DIED;
    b->results[item].error = (uint32_t)number;
}

int cpu_native_run(struct cpu_native *n, const struct cpu_case *cases, struct cpu_result *results, unsigned count, struct dp_error *e)
{
    struct cpu_native_batch *b = n->side.memory;
    memcpy(b->cases, cases, count * sizeof *cases);
    memset(b->results, 0, count * sizeof *results);
    b->count = count;
    int err = native_side_run(&n->side, &b->next, count, died, e);
    if (!err)
        memcpy(results, b->results, count * sizeof *results);
    return err;
}
