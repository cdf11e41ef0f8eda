/* fuzz_state.c - the state stream. Input: one byte that picks a table, then an image. Whatever loads must pass the table's own check,
 * and come back the same after another save and load; whatever does not load must change nothing. */
#include <stdlib.h>

#include "tests/state/tables.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    const struct dp_state_table *t = state_table(data[0] % state_table_count());
    void *regs = calloc(1, t->size), *copy = calloc(1, t->size);
    must(regs && copy);
    dp_state_reset(t, regs);
    dp_state_reset(t, copy);
    struct dp_error e = {0};
    size_t used = 0;
    if (dp_state_load(t, regs, data + 1, size - 1, &used, &e)) {
        must(e.code && e.text[0]);
        must(!memcmp(regs, copy, t->size));
    } else {
        must(used <= size - 1);
        must(!t->check || !t->check(regs, &e));
        struct dp_buffer b = {0}, json = {0};
        dp_state_save(t, regs, &b);
        must(!dp_state_load(t, copy, b.data, b.size, &used, &e) && used == b.size);
        must(!dp_state_diff(t, regs, copy, NULL));
        dp_state_json(t, regs, &json);
        must(json.size >= 2 && !json.failed);
        dp_buffer_fini(&b);
        dp_buffer_fini(&json);
    }
    free(regs);
    free(copy);
    return 0;
}
