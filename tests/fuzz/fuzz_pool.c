/* fuzz_pool.c - pool.json made by others: parsed, and what was taken is written and parsed again with the same result.
 *
 * Input: the file.
 */
#include <stdlib.h>

#include "volume/pool.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                                                                                                                            \
    do {                                                                                                                                   \
        if (!(x))                                                                                                                          \
            abort();                                                                                                                       \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dp_pool p = {.name = "fuzz", .next = 1}, again = p;
    struct dp_error e = {0};
    if (dp_pool_parse(&p, (const char *)data, size, &e)) {
        MUST(*e.text && !p.count && !p.volume);
        return 0;
    }
    for (unsigned i = 0; i < p.count; i++) {
        unsigned depth = 0;
        for (const struct dp_volume *v = p.volume[i]; v->parent; v = dp_pool_by_id(&p, v->parent))
            MUST(dp_pool_by_id(&p, v->parent) && depth++ < DP_IMAGE_DEPTH_MAX);
        MUST(dp_pool_by_id(&p, p.volume[i]->id) == p.volume[i]);
        MUST(!dp_volume_check_name("volume", p.volume[i]->name, NULL));
    }
    char *text = dp_pool_text(&p);
    MUST(text && !dp_pool_parse(&again, text, strlen(text), &e) && again.count == p.count && again.next == p.next);
    for (unsigned i = 0; i < p.count; i++)
        MUST(!memcmp(p.volume[i], again.volume[i], sizeof *p.volume[i]));
    free(text);
    dp_pool_clear(&p);
    dp_pool_clear(&again);
    return 0;
}
