/* input_router.c - see input_router.h. */
#include "display/input_router.h"

enum { NOBODY = DP_INPUT_ROUTES };

void dp_input_router_init(struct dp_input_router *r)
{
    *r = (struct dp_input_router){0};
    pthread_mutex_init(&r->lock, NULL);
}

void dp_input_router_fini(struct dp_input_router *r) { pthread_mutex_destroy(&r->lock); }

bool dp_input_router_add(struct dp_input_router *r, const struct dp_input_route *route)
{
    if (r->count == DP_INPUT_ROUTES)
        return false;
    r->route[r->count++] = *route;
    return true;
}

static bool is_active(const struct dp_input_route *route) { return !route->active || route->active(route->opaque); }

static unsigned find_keyboard(const struct dp_input_router *r)
{
    for (unsigned i = r->count; i--;)
        if (r->route[i].sink.key && is_active(&r->route[i]))
            return i;
    return NOBODY;
}

static unsigned find_pointer(const struct dp_input_router *r, bool absolute)
{
    for (unsigned i = r->count; i--;)
        if ((absolute ? !!r->route[i].sink.position : !!r->route[i].sink.motion) && is_active(&r->route[i]))
            return i;
    return NOBODY;
}

static void route_key(void *opaque, unsigned code, bool down)
{
    struct dp_input_router *r = opaque;
    if (code >= DP_INPUT_ROUTED_KEYS)
        return;
    pthread_mutex_lock(&r->lock);
    unsigned to = r->holder[code] ? r->holder[code] - 1u : NOBODY;
    pthread_mutex_unlock(&r->lock);
    if (to == NOBODY)
        to = find_keyboard(r);
    if (to == NOBODY)
        return;
    pthread_mutex_lock(&r->lock);
    r->holder[code] = down ? (uint8_t)(to + 1) : 0;
    pthread_mutex_unlock(&r->lock);
    r->route[to].sink.key(r->route[to].sink.opaque, code, down);
}

/* The pointer is route `to`'s from now on; one that had it before gets its buttons released. */
static void take_pointer(struct dp_input_router *r, unsigned to, unsigned buttons)
{
    pthread_mutex_lock(&r->lock);
    const struct dp_input_sink *old = r->pointer && r->pointer != to + 1 && r->buttons ? &r->route[r->pointer - 1].sink : NULL;
    unsigned x = r->x, y = r->y;
    r->pointer = to + 1;
    r->buttons = buttons;
    pthread_mutex_unlock(&r->lock);
    if (old && old->position)
        old->position(old->opaque, x, y, 0, 0);
    else if (old)
        old->motion(old->opaque, 0, 0, 0, 0);
}

static void route_motion(void *opaque, int dx, int dy, int wheel, unsigned buttons)
{
    struct dp_input_router *r = opaque;
    unsigned to = find_pointer(r, false);
    if (to == NOBODY)
        return;
    take_pointer(r, to, buttons);
    r->route[to].sink.motion(r->route[to].sink.opaque, dx, dy, wheel, buttons);
}

static void route_position(void *opaque, unsigned x, unsigned y, int wheel, unsigned buttons)
{
    struct dp_input_router *r = opaque;
    unsigned to = find_pointer(r, true);
    if (to == NOBODY) { /* how far that is on the screen only the viewer knows, but a click is a click */
        route_motion(r, 0, 0, wheel, buttons);
        return;
    }
    take_pointer(r, to, buttons);
    pthread_mutex_lock(&r->lock);
    r->x = x;
    r->y = y;
    pthread_mutex_unlock(&r->lock);
    r->route[to].sink.position(r->route[to].sink.opaque, x, y, wheel, buttons);
}

static bool is_absolute(void *opaque) { return find_pointer(opaque, true) != NOBODY; }

struct dp_input_sink dp_input_router_sink(struct dp_input_router *r)
{
    return (struct dp_input_sink){.key = route_key, .motion = route_motion, .position = route_position, .opaque = r,
                                  .absolute = is_absolute};
}
