/* test_names.c - addresses and names of a network with NAT (net/names.h): DHCP and DNS by packets made by hand, the switch in between
 * played here: which port has which MAC, and which ports are joined.
 */
#include <stdlib.h>

#include "net/names.h"
#include "tests/net/packets.h"
#include "tests/unit/test.h"

#define NET 0x0a010000u

struct world {
    struct dp_loop *loop;
    struct dp_clock *clock;
    struct dp_net_names *names;
    bool gone[256]; /* ports, by the last byte of their MACs */
    const char *port[256];
    uint8_t answer[DP_NET_NAMES_ANSWER];
    uint32_t size;
};

static const char *port_of(void *opaque, const uint8_t mac[6])
{
    struct world *w = opaque;
    return w->gone[mac[5]] ? NULL : w->port[mac[5]];
}
static bool is_joined(void *opaque, const char *port)
{
    struct world *w = opaque;
    for (unsigned i = 0; i < 256; i++)
        if (w->port[i] && !w->gone[i] && !strcmp(w->port[i], port))
            return true;
    return false;
}

static struct world *open_world(unsigned prefix, bool internal)
{
    struct world *w = calloc(1, sizeof *w);
    struct dp_error e = {0};
    assert_ok(dp_loop_create(&w->loop, &e), e);
    assert_ok(dp_clock_create_manual(&w->clock, &e), e);
    struct dp_net_names_options o = {.clock = w->clock, .network = NET, .prefix = prefix, .domain = "home", .mtu = 1400, .internal = internal,
                                     .port_of = port_of, .is_joined = is_joined, .opaque = w};
    assert_ok(dp_net_names_create(&o, &w->names, &e), e);
    w->port[1] = "web";
    w->port[2] = "db";
    w->port[3] = "Web";
    return w;
}

static void close_world(struct world *w)
{
    dp_net_names_destroy(w->names);
    dp_clock_destroy(w->clock);
    dp_loop_destroy(w->loop);
    free(w);
}

/* From the machine whose MAC ends in `from`. */
static enum dp_net_names_verdict look(struct world *w, uint8_t *frame, uint32_t size, unsigned from)
{
    struct dp_net_layout l;
    memcpy(frame + 6, (const uint8_t[6]){2, 0, 0, 0, 0, (uint8_t)from}, 6);
    assert_true(dp_net_parse(frame, size, &l));
    w->size = 0;
    enum dp_net_names_verdict v = dp_net_names_look(w->names, frame, &l, w->answer, &w->size);
    if (v == DP_NET_NAMES_ANSWERED) { /* a good packet */
        assert_true(w->size <= sizeof w->answer && dp_net_parse(w->answer, w->size, &l));
        if (l.ethertype == 0x0800)
            assert_int_equal(packet_sum(0, w->answer + 14, 20), 0xffff);
        assert_int_equal(packet_sum(packet_pseudo(w->answer + 14, l.ethertype == 0x86dd, 17, l.end - l.transport), w->answer + l.transport,
                                    l.end - l.transport), 0xffff);
    }
    return v;
}

/* ---- DHCP ---- */

static enum dp_net_names_verdict dhcp(struct world *w, unsigned from, unsigned chaddr, unsigned type, uint32_t requested, uint32_t server)
{
    uint8_t f[700] = {0}, b[300] = {1, 1, 6, 0, 9, 8, 7, 6}, *p = b + 240;
    memcpy(b + 28, (const uint8_t[6]){2, 0, 0, 0, 0, (uint8_t)chaddr}, 6);
    put32(b + 236, 0x63825363);
    *p++ = 53;
    *p++ = 1;
    *p++ = (uint8_t)type;
    if (requested) {
        *p++ = 50;
        *p++ = 4;
        put32(p, requested);
        p += 4;
    }
    if (server) {
        *p++ = 54;
        *p++ = 4;
        put32(p, server);
        p += 4;
    }
    *p = 255;
    return look(w, f, packet_udp(f, 0, 68, 0xffffffff, 67, b, sizeof b), from);
}

static const uint8_t *option(struct world *w, unsigned code)
{
    for (const uint8_t *p = w->answer + 42 + 240; *p != 255; p += p[1] + 2)
        if (*p == code)
            return p + 2;
    return NULL;
}

/* The whole exchange; 0: no address. */
static uint32_t lease(struct world *w, unsigned from)
{
    if (dhcp(w, from, from, 1, 0, 0) != DP_NET_NAMES_ANSWERED)
        return 0;
    uint32_t address = get32(w->answer + 42 + 16);
    assert_int_equal(*option(w, 53), 2);
    assert_int_equal(dhcp(w, from, from, 3, address, NET + 2), DP_NET_NAMES_ANSWERED);
    assert_int_equal(*option(w, 53), 5);
    assert_int_equal(get32(w->answer + 42 + 16), address);
    return address;
}

static void addresses(void **state)
{
    struct world *w = open_world(24, false);
    uint32_t web = lease(w, 1), db = lease(w, 2);
    assert_true(web != db && (web & ~255u) == NET && (web & 255) >= 15 && (web & 255) < 255);
    assert_int_equal(get32(option(w, 1)), 0xffffff00);
    assert_int_equal(get32(option(w, 3)), NET + 2);
    assert_int_equal(get32(option(w, 6)), NET + 3);
    assert_int_equal(get16(option(w, 26)), 1400);
    assert_memory_equal(option(w, 15), "home", 4);
    assert_int_equal(get32(option(w, 51)), 3600);
    assert_memory_equal(w->answer + 42 + 4, "\x9\x8\x7\x6", 4);
    assert_int_equal(get32(w->answer + 30), db); /* to its address to be, at its MAC */
    assert_memory_equal(w->answer, "\2\0\0\0\0\2", 6);
    assert_int_equal(lease(w, 1), web); /* the same again */
    /* Somebody else's, another network's: no. Another server's client: nothing. */
    assert_int_equal(dhcp(w, 2, 2, 3, web, 0), DP_NET_NAMES_ANSWERED);
    assert_int_equal(*option(w, 53), 6);
    assert_int_equal(get32(w->answer + 30), 0xffffffff);
    assert_int_equal(dhcp(w, 2, 2, 3, 0xc0a80105, 0), DP_NET_NAMES_ANSWERED);
    assert_int_equal(*option(w, 53), 6);
    assert_int_equal(dhcp(w, 2, 2, 3, db, NET + 9), DP_NET_NAMES_DROP);
    close_world(w);
    /* After the network was started again, what a client had is granted, and who had none gets the same. */
    w = open_world(24, true);
    assert_int_equal(dhcp(w, 2, 2, 3, db, 0), DP_NET_NAMES_ANSWERED);
    assert_int_equal(*option(w, 53), 5);
    assert_null(option(w, 3)); /* no way out */
    assert_int_equal(lease(w, 1), web);
    close_world(w);
}

static void others(void **state)
{
    struct world *w = open_world(24, false);
    struct dp_net_names_stats s;
    uint8_t f[100] = {0};
    uint32_t web = lease(w, 1);
    assert_int_equal(dhcp(w, 2, 1, 1, 0, 0), DP_NET_NAMES_DROP); /* in another's name */
    w->port[4] = "web";
    w->gone[1] = false;
    w->port[1] = "db"; /* the MAC moved to another's port, while its own is joined */
    assert_int_equal(dhcp(w, 1, 1, 1, 0, 0), DP_NET_NAMES_DROP);
    assert_int_equal(dhcp(w, 9, 9, 1, 0, 0), DP_NET_NAMES_DROP); /* of no port */
    /* Its address from another MAC: IPv4 and ARP. */
    uint32_t size = packet_udp(f, web, 1, 0x08080808, 2, "x", 1);
    assert_int_equal(look(w, f, size, 2), DP_NET_NAMES_DROP);
    assert_int_equal(look(w, f, size, 1), DP_NET_NAMES_PASS);
    packet_ethernet(f, (const uint8_t *)"\xff\xff\xff\xff\xff\xff", 0x0806);
    memcpy(f + 14, "\0\1\x08\0\6\4\0\1", 8);
    put32(f + 28, web);
    assert_int_equal(look(w, f, 60, 2), DP_NET_NAMES_DROP);
    assert_int_equal(look(w, f, 60, 1), DP_NET_NAMES_PASS);
    dp_net_names_stats(w->names, &s);
    assert_int_equal(s.spoofed, 4);
    /* What is for another machine does not reach libslirp, which would take it for this host: by address, by MAC. */
    size = packet_udp(f, NET + 200, 1, NET + 77, 2, "x", 1);
    assert_int_equal(look(w, f, size, 2), DP_NET_NAMES_DROP);
    size = packet_udp(f, NET + 200, 1, 0x08080808, 2, "x", 1);
    memcpy(f, "\2\0\0\0\0\7", 6);
    assert_int_equal(look(w, f, size, 2), DP_NET_NAMES_DROP);
    close_world(w);
}

static void greed(void **state)
{
    struct world *w = open_world(27, false); /* 16 addresses */
    struct dp_net_names_stats s;
    unsigned got = 0;
    for (unsigned i = 20; i < 60; i++) {
        w->port[i] = i < 50 ? "greedy" : "many";
        got += lease(w, i) != 0;
    }
    assert_int_equal(got, 16);
    dp_net_names_stats(w->names, &s);
    assert_int_equal(s.refused, 24);
    for (unsigned i = 20; i < 50; i++)
        w->gone[i] = true; /* its addresses are for others now */
    for (unsigned i = 50; i < 60; i++)
        assert_true(lease(w, i));
    close_world(w);
    w = open_world(24, false);
    got = 0;
    for (unsigned i = 20; i < 60; i++) {
        w->port[i] = "greedy";
        got += lease(w, i) != 0;
    }
    assert_int_equal(got, DP_NET_NAMES_PER_PORT);
    assert_true(lease(w, 1));
    /* When they have run out, it may have others. */
    dp_clock_advance(w->clock, 4000ull * 1000000000);
    assert_true(lease(w, 59));
    close_world(w);
}

static void reserved(void **state)
{
    struct world *w = open_world(24, false);
    struct dp_error e = {0};
    uint32_t kept, again;
    assert_ok(dp_net_names_reserve(w->names, "web", &kept, &e), e);
    assert_ok(dp_net_names_reserve(w->names, "web", &again, &e), e);
    assert_int_equal(kept, again);
    assert_int_equal(dhcp(w, 2, 2, 3, kept, 0), DP_NET_NAMES_ANSWERED); /* not for others */
    assert_int_equal(*option(w, 53), 6);
    assert_int_equal(lease(w, 1), kept);
    w->port[7] = "web"; /* another card beside it */
    assert_true(lease(w, 7) != kept);
    w->gone[1] = w->gone[7] = true; /* made again with another card */
    w->port[8] = "web";
    assert_int_equal(lease(w, 8), kept);
    close_world(w);
}

/* ---- DNS ---- */

/* Asks by IPv4; the answer's code, or -1: it is passed on. *address: of the record; 0: none. */
static int ask(struct world *w, const char *name, unsigned type, uint32_t *address)
{
    uint8_t f[600] = {0}, d[300] = {0xab, 0xcd, 1, 0, 0, 1}, *p = d + 12;
    do {
        size_t n = strcspn(name, ".");
        *p++ = (uint8_t)n;
        memcpy(p, name, n);
        p += n;
        name += n + (name[n] == '.');
    } while (*name);
    *p++ = 0;
    put16(p, type);
    put16(p + 2, 1);
    uint32_t size = (uint32_t)(p + 4 - d);
    if (look(w, f, packet_udp(f, NET + 240, 4000, NET + 3, 53, d, size), 2) != DP_NET_NAMES_ANSWERED)
        return -1;
    const uint8_t *r = w->answer + 42;
    assert_int_equal(get16(r), 0xabcd);
    assert_true(r[2] & 0x80);
    assert_memory_equal(r + 12, d + 12, size - 12);
    assert_int_equal(get32(w->answer + 26), NET + 3);
    assert_int_equal(get16(w->answer + 36), 4000);
    *address = 0;
    if (get16(r + 6) && get16(r + size + 2) == 1)
        *address = get32(r + size + 12);
    return r[3] & 15;
}

static void names(void **state)
{
    struct world *w = open_world(24, false);
    uint32_t web = lease(w, 1), db = lease(w, 2), other = lease(w, 3), a;
    assert_int_equal(ask(w, "web", 1, &a), 0);
    assert_int_equal(a, web);
    assert_int_equal(ask(w, "Web.HOME", 1, &a), 0); /* its own letters first */
    assert_int_equal(a, other);
    assert_int_equal(ask(w, "DB.home", 255, &a), 0);
    assert_int_equal(a, db);
    assert_int_equal(ask(w, "db.home", 28, &a), 0); /* AAAA: none, but the name is there */
    assert_int_equal(a, 0);
    assert_int_equal(ask(w, "nobody.home", 1, &a), 3);
    assert_int_equal(ask(w, "home", 1, &a), 0);
    assert_int_equal(a, 0);
    assert_int_equal(ask(w, "nobody", 1, &a), -1);
    assert_int_equal(ask(w, "db.example.com", 1, &a), -1);
    char text[64];
    snprintf(text, sizeof text, "%u.0.1.10.in-addr.arpa", db & 255);
    assert_int_equal(ask(w, text, 12, &a), 0);
    assert_memory_equal(w->answer + w->size - 9, "\2db\4home", 9); /* with its last 0 */
    assert_int_equal(ask(w, "9.0.1.10.in-addr.arpa", 12, &a), 3);
    assert_int_equal(ask(w, "9.0.2.10.in-addr.arpa", 12, &a), -1);
    w->gone[2] = true;
    assert_int_equal(ask(w, "db.home", 1, &a), 3);
    assert_int_equal(ask(w, "db", 1, &a), -1);
    assert_int_equal(ask(w, text, 12, &a), 3);
    w->gone[2] = false;
    assert_int_equal(ask(w, "db", 1, &a), 0);
    /* Made again with another card: the new one, though the old lease is there. */
    w->gone[1] = true;
    w->port[8] = "web";
    uint32_t fresh = lease(w, 8);
    assert_true(fresh != web);
    assert_int_equal(ask(w, "web", 1, &a), 0);
    assert_int_equal(a, fresh);
    close_world(w);
    w = open_world(24, true);
    assert_int_equal(ask(w, "example.com", 1, &a), 3);
    close_world(w);
}

static void nonsense(void **state)
{
    struct world *w = open_world(24, false);
    uint8_t f[600] = {0}, d[280] = {1, 2, 1, 0, 0, 1};
    lease(w, 1);
    /* A label that is longer than the packet, a pointer to itself, a name without end, dots in a label. */
    static const uint8_t bad[][8] = {{63, 'w'}, {0xc0, 12}, {3, 'w', 'e', 'b', 3, 'w'}, {5, 'w', '.', 'b', '.', 'x', 0}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++) {
        memcpy(d + 12, bad[i], 8);
        assert_int_equal(look(w, f, packet_udp(f, NET + 240, 4000, NET + 3, 53, d, 20), 1), DP_NET_NAMES_PASS);
    }
    memset(d + 12, 1, 260);
    assert_int_equal(look(w, f, packet_udp(f, NET + 240, 4000, NET + 3, 53, d, 272), 1), DP_NET_NAMES_PASS);
    for (uint32_t n = 0; n < 12; n++)
        assert_int_equal(look(w, f, packet_udp(f, NET + 240, 4000, NET + 3, 53, d, n), 1), DP_NET_NAMES_PASS);
    d[2] = 0x81; /* an answer */
    memcpy(d + 12, "\3web\0\0\1\0\1", 9);
    assert_int_equal(look(w, f, packet_udp(f, NET + 240, 4000, NET + 3, 53, d, 21), 1), DP_NET_NAMES_PASS);
    close_world(w);
}

static void subnets(void **state)
{
    struct dp_error e = {0};
    uint32_t network;
    unsigned prefix;
    assert_ok(dp_net_names_parse_subnet("192.168.64.0/20", &network, &prefix, &e), e);
    assert_int_equal(network, 0xc0a84000);
    assert_int_equal(prefix, 20);
    static const char *const bad[] = {"", "10.1.0.0", "10.1.0.0/", "10.1.0.0/8", "10.1.0.0/28", "10.1.0.1/24", "10.1.0/24", "10.1.0.0/24x", "10.1.0.0/-8", "x/24"};
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++)
        assert_int_equal(dp_net_names_parse_subnet(bad[i], &network, &prefix, &e), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses), cmocka_unit_test(others), cmocka_unit_test(greed),    cmocka_unit_test(reserved),
        cmocka_unit_test(names),     cmocka_unit_test(nonsense), cmocka_unit_test(subnets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
