/* program_native.c - batches of programs on the host's processor, by program_child.c (native_side.h). A program that ends the child is
 * marked CPU_DIED. */
#include <stdlib.h>

#include "program_native.h"

struct prog_native { struct native_side side; };

int prog_native_create(struct prog_native **out, struct dp_error *e)
{
    struct prog_native *n = calloc(1, sizeof *n);
    if (!n)
        return dp_error_set(e, -ENOMEM, "out of memory");
    int err = native_side_create(&n->side, "prog-native", sizeof(struct prog_native_batch), e);
    if (err) {
        free(n);
        return err;
    }
    err = native_side_start(&n->side, e);
    if (err) {
        prog_native_destroy(n);
        return err;
    }
    *out = n;
    return 0;
}

void prog_native_destroy(struct prog_native *n)
{
    if (!n)
        return;
    native_side_destroy(&n->side);
    free(n);
}

static void died(void *memory, unsigned item, int number)
{
    struct prog_native_batch *b = memory;
    b->results[item].r.vector = CPU_DIED;
    b->results[item].r.error = (uint32_t)number;
}

int prog_native_run(struct prog_native *n, const struct prog_image *images, struct prog_result *results, unsigned count, struct dp_error *e)
{
    struct prog_native_batch *b = n->side.memory;
    memcpy(b->images, images, count * sizeof *images);
    memset(b->results, 0, count * sizeof *results);
    b->count = count;
    int err = native_side_run(&n->side, &b->next, count, died, e);
    if (!err)
        memcpy(results, b->results, count * sizeof *results);
    return err;
}
