/* display/ticker.h - calls a viewer again and again, by the host's clock: what people see has nothing to do with the VM's time.
 *
 * Model: a timerfd in the loop. Period 0: silent, and no wake-up of the process. All calls, and the callback, in the loop's thread.
 */
#ifndef DP_DISPLAY_TICKER_H
#define DP_DISPLAY_TICKER_H

#include "event/event.h"

struct dp_ticker {
    struct dp_loop *loop;
    int fd; /* -1: not made */
    unsigned period_ms;
    void (*fn)(void *opaque);
    void *opaque;
};
int dp_ticker_init(struct dp_ticker *t, struct dp_loop *loop, void (*fn)(void *opaque), void *opaque, struct dp_error *e) DP_MUST_CHECK;
void dp_ticker_period(struct dp_ticker *t, unsigned ms);
void dp_ticker_fini(struct dp_ticker *t); /* also of one that is {.fd = -1}, or whose init failed */

#endif
