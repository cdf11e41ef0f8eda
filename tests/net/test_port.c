/* tests/net/test_port.c - two ends of a cable: batches, back-pressure, carrier. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "net/net.h"

struct side {
    struct dp_net_port port;
    unsigned room, taken, readies, links;
    bool up;
};
static unsigned receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct side *s = opaque;
    unsigned n = DP_MIN(count, s->room);
    s->room -= n;
    s->taken += n;
    return n;
}
static void ready(void *opaque) { ((struct side *)opaque)->readies++; }
static void link_changed(void *opaque, bool up)
{
    ((struct side *)opaque)->up = up;
    ((struct side *)opaque)->links++;
}
static const struct dp_net_end end = {receive, ready, link_changed};

static void cable(void **state)
{
    struct side a = {.room = 8}, b = {.room = 2}, c = {0};
    uint8_t bytes[60] = {0};
    struct iovec part = {bytes, sizeof(bytes)};
    struct dp_net_frame frame[3] = {{&part, 1, sizeof(bytes)}, {&part, 1, sizeof(bytes)}, {&part, 1, sizeof(bytes)}};
    struct dp_error e = {0};
    dp_net_port_init(&a.port, &end, &a, 0);
    dp_net_port_init(&b.port, &end, &b, DP_NET_CHECKSUM);
    dp_net_port_init(&c.port, &end, &c, 0);
    assert_int_equal(dp_net_send(&a.port, frame, 3), 3); /* to nowhere */
    assert_int_equal(dp_net_connect(&a.port, &b.port, &e), 0);
    assert_int_equal(dp_net_connect(&c.port, &b.port, &e), -EBUSY);
    assert_int_equal(dp_net_connect(&c.port, &c.port, &e), -EBUSY);
    assert_true(a.up && b.up);
    assert_int_equal(dp_net_peer_accepts(&a.port), DP_NET_CHECKSUM);
    assert_int_equal(dp_net_send(&a.port, frame, 3), 2);
    b.room = 8;
    dp_net_ready(&b.port);
    assert_int_equal(a.readies, 1);
    assert_int_equal(dp_net_send(&a.port, frame + 2, 1), 1);
    dp_net_set_link(&b.port, false);
    assert_false(a.up || b.up);
    assert_int_equal(dp_net_send(&a.port, frame, 3), 3);
    assert_int_equal(b.taken, 3);
    dp_net_set_link(&b.port, true);
    assert_true(a.up && b.up);
    dp_net_disconnect(&a.port);
    assert_false(a.up || b.up);
    dp_net_disconnect(&a.port);
    dp_net_ready(&a.port);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(cable)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
