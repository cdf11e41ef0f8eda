/* display/input_router.h - keys and pointer of one user, given to whichever of a machine's input devices the guest listens to.
 *
 * Model: a list of routes, each a sink and a question: is a driver there? (`active`). What a later route takes an earlier one does not
 * get, so a machine adds its oldest device (PS/2) first, without a question, and better ones (USB, virtio) after it. A key goes to the
 * last active route with `key`. The pointer's position goes to the last active route with `position`; where there is none, viewers move by
 * differences (sink.absolute tells them) and the last active route with `motion` gets them.
 * Invariants: a key's release goes where its press went, and a pointer that changes its route lets its buttons go first: whatever drivers
 * come and go, nothing stays held. A key that is already down goes where it went (it repeats). Sinks are called without the router's lock.
 * Threads: routes are added before there are viewers; then any thread, one event after the other (the loop's thread, in doppel).
 */
#ifndef DP_INPUT_ROUTER_H
#define DP_INPUT_ROUTER_H

#include <pthread.h>

#include "display/input.h"

enum { DP_INPUT_ROUTES = 8, DP_INPUT_ROUTED_KEYS = 768 /* as many key codes as Linux has */ };

struct dp_input_route {
    struct dp_input_sink sink;      /* members may be NULL: it takes no such events */
    bool (*active)(void *opaque);   /* any thread; NULL: always */
    void *opaque;                   /* of active */
};

struct dp_input_router { /* private */
    pthread_mutex_t lock;
    struct dp_input_route route[DP_INPUT_ROUTES];
    unsigned count;
    uint8_t holder[DP_INPUT_ROUTED_KEYS]; /* 1 + the route that a key is down at */
    unsigned pointer;                     /* 1 + the route that has the buttons below */
    unsigned buttons, x, y;
};

void dp_input_router_init(struct dp_input_router *r);
void dp_input_router_fini(struct dp_input_router *r);
/* False: no room. What route points to is copied; its opaques outlive the router's use. */
bool dp_input_router_add(struct dp_input_router *r, const struct dp_input_route *route) DP_MUST_CHECK;
/* For viewers. Lives as long as the router. */
struct dp_input_sink dp_input_router_sink(struct dp_input_router *r);

#endif
