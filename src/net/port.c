/* net/port.c - see net.h. */
#include "net/net.h"

void dp_net_port_init(struct dp_net_port *p, const struct dp_net_end *end, void *opaque, uint32_t accepts)
{
    *p = (struct dp_net_port){.end = end, .opaque = opaque, .accepts = accepts};
}

static void tell(struct dp_net_port *p)
{
    if (p->end->link)
        p->end->link(p->opaque, dp_net_link(p));
}

int dp_net_connect(struct dp_net_port *a, struct dp_net_port *b, struct dp_error *e)
{
    if (a == b || a->peer || b->peer)
        return dp_error_set(e, -EBUSY, "a network port has a cable already");
    a->peer = b;
    b->peer = a;
    tell(a);
    tell(b);
    return 0;
}

void dp_net_disconnect(struct dp_net_port *p)
{
    struct dp_net_port *other = p->peer;
    if (!other)
        return;
    p->peer = other->peer = NULL;
    tell(p);
    tell(other);
}

static bool is_down(const struct dp_net_port *p) { return __atomic_load_n(&p->down, __ATOMIC_RELAXED); }
bool dp_net_link(const struct dp_net_port *p) { return p->peer && !is_down(p) && !is_down(p->peer); }
uint32_t dp_net_peer_accepts(const struct dp_net_port *p) { return p->peer ? __atomic_load_n(&p->peer->accepts, __ATOMIC_RELAXED) : 0; }
void dp_net_set_accepts(struct dp_net_port *p, uint32_t accepts) { __atomic_store_n(&p->accepts, accepts, __ATOMIC_RELAXED); }

unsigned dp_net_send(struct dp_net_port *p, const struct dp_net_frame *frame, unsigned count)
{
    return dp_net_link(p) ? p->peer->end->receive(p->peer->opaque, frame, count) : count;
}

void dp_net_ready(struct dp_net_port *p)
{
    if (p->peer && p->peer->end->ready)
        p->peer->end->ready(p->peer->opaque);
}

void dp_net_set_link(struct dp_net_port *p, bool up)
{
    if (__atomic_exchange_n(&p->down, !up, __ATOMIC_RELAXED) == !up)
        return;
    tell(p);
    if (p->peer)
        tell(p->peer);
}
