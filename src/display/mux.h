/* display/mux.h - one screen for viewers, made of several display sources of which one shows something at a time.
 *
 * Model: sources in order, each with a question: does it show something? A viewer sees the last that does; the first is seen when none
 * does. So a machine adds its VGA first and a virtio-gpu after it: until the guest's driver sets a scanout there, firmware's screen is
 * seen.
 * `generation` also moves when the source changes. `resize` goes to the source seen, else to the last that can: then its driver finds the
 * size.
 * Threads: sources are added before there are viewers; then any.
 */
#ifndef DP_DISPLAY_MUX_H
#define DP_DISPLAY_MUX_H

#include <pthread.h>

#include "display/display.h"

enum { DP_DISPLAY_MUX_SOURCES = 4 };

struct dp_display_mux { /* private */
    pthread_mutex_t lock;
    struct dp_display_source source[DP_DISPLAY_MUX_SOURCES];
    bool (*shows[DP_DISPLAY_MUX_SOURCES])(void *opaque);
    void *opaque[DP_DISPLAY_MUX_SOURCES];
    unsigned count, seen;
    uint64_t seen_generation, generation;
};

void dp_display_mux_init(struct dp_display_mux *m);
void dp_display_mux_fini(struct dp_display_mux *m);
/* shows: any thread; NULL: always. False: no room. */
bool dp_display_mux_add(struct dp_display_mux *m, const struct dp_display_source *source, bool (*shows)(void *opaque),
                        void *opaque) DP_MUST_CHECK;
/* Of a mux with at least one source, when all are added. Lives as long as the mux. */
struct dp_display_source dp_display_mux_source(struct dp_display_mux *m);

#endif
