/* test_switch_security.c - security groups: packets between stations, of which some are in groups; and the rules as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/net/switch_rig.h"

enum { A = 1, B = 2, C = 3 };

/* IPv4 from station to station, 10.0.0.N. */
static uint32_t packet(uint8_t *p, unsigned from, unsigned to, unsigned protocol, unsigned source, unsigned target, unsigned flags,
                       unsigned fragment)
{
    memset(p, 0, 128);
    mac_of(to, p);
    mac_of(from, p + 6);
    put16(p + 12, 0x0800);
    uint8_t *ip = p + 14, *t = ip + 20;
    ip[0] = 0x45;
    put16(ip + 2, 60);
    put16(ip + 4, 77);
    put16(ip + 6, fragment);
    ip[9] = (uint8_t)protocol;
    put32(ip + 12, 0x0a000000 + from);
    put32(ip + 16, 0x0a000000 + to);
    put16(t, source);
    put16(t + 2, target);
    if (protocol == 1) {
        t[0] = (uint8_t)source; /* type, code */
        t[1] = 0;
        put16(t + 4, target); /* identifier */
    }
    t[12] = 5 << 4;
    t[13] = (uint8_t)flags;
    return 74;
}

/* Sends one; did it arrive? */
static bool passes(struct rig *r, unsigned from, unsigned to, unsigned protocol, unsigned source, unsigned target)
{
    uint8_t p[128];
    unsigned before = r->st[to].count;
    send_bytes(&r->st[from], p, packet(p, from, to, protocol, source, target, 2, 0));
    return r->st[to].count - before == 1;
}

static bool passes_raw(struct rig *r, unsigned from, unsigned to, const uint8_t *p, uint32_t size)
{
    unsigned before = r->st[to].count;
    send_bytes(&r->st[from], p, size);
    return r->st[to].count - before == 1;
}

static void set(struct rig *r, const char *group, const char *rules)
{
    struct dp_error e = {0};
    if (dp_switch_set_group(r->s, group, rules, &e))
        fail_msg("%s", e.text);
}

/* A is in no group, B and C in the named ones; all addresses are known. */
static void begin(struct rig *r, const char *b, const char *c)
{
    struct dp_switch_port_options o = {0};
    rig_init(r, (struct dp_switch_options){0});
    rig_add(r, A, o);
    for (unsigned n = B; n <= C; n++) {
        const char *group = n == B ? b : c;
        o = (struct dp_switch_port_options){.groups = *group != 0};
        strcpy(o.group[0], group);
        rig_add(r, n, o);
    }
    uint8_t frame[64];
    for (unsigned n = A; n <= C; n++)
        send_bytes(&r->st[n], frame, make_frame(frame, 0xff, n, NO_TAG, NO_TAG, 0x0806, 46));
    for (unsigned n = A; n <= C; n++) {
        assert_int_equal(r->st[n].count, 2); /* ARP passes */
        station_forget(&r->st[n]);
    }
}

static void connections(void **state)
{
    struct rig *r = malloc(sizeof *r);
    begin(r, "web", "");
    assert_false(passes(r, A, B, 6, 1000, 80)); /* no rules: nothing comes in */
    set(r, "web", "in tcp 80-81; in icmp");
    assert_true(passes(r, A, B, 6, 1000, 80));
    assert_true(passes(r, B, A, 6, 80, 1000));
    assert_true(passes(r, A, B, 6, 1000, 81));
    assert_false(passes(r, A, B, 6, 1000, 82));
    assert_false(passes(r, A, B, 17, 1000, 80));
    assert_true(passes(r, A, B, 1, 8, 5)); /* ping */
    assert_true(passes(r, B, A, 1, 0, 5));
    assert_false(passes(r, C, B, 6, 80, 4000)); /* an answer to nothing */
    assert_true(passes(r, B, C, 6, 4000, 80));  /* out is free */
    assert_true(passes(r, C, B, 6, 80, 4000));
    assert_false(passes(r, C, B, 6, 81, 4000));
    struct dp_switch_stats stats;
    dp_switch_port_stats(r->st[B].port, &stats);
    assert_int_equal(stats.drop[DP_SWITCH_DROP_SECURITY_IN], 5);
    set(r, "web", ""); /* what is remembered goes on */
    assert_true(passes(r, A, B, 6, 1000, 80));
    assert_false(passes(r, A, B, 6, 1001, 80));
    dp_clock_advance(r->clock, 4000 * SECOND);
    uint8_t arp[64];
    send_bytes(&r->st[B], arp, make_frame(arp, 0xff, B, NO_TAG, NO_TAG, 0x0806, 46));
    assert_false(passes(r, A, B, 6, 1000, 80)); /* until it was silent for long */
    rig_fini(r);
    free(r);
}

static void peers_and_out(void **state)
{
    struct rig *r = malloc(sizeof *r);
    begin(r, "db", "web");
    set(r, "db", "in tcp 5432 from group web; in udp 53 from 10.0.0.0/31; out tcp 443 to 10.0.0.1");
    assert_true(passes(r, C, B, 6, 1000, 5432));
    assert_true(passes(r, B, C, 6, 5432, 1000)); /* an answer needs no rule */
    assert_false(passes(r, A, B, 6, 1000, 5432));
    assert_true(passes(r, A, B, 17, 1000, 53));
    assert_false(passes(r, C, B, 17, 1000, 53));
    assert_true(passes(r, B, A, 6, 2000, 443));
    assert_true(passes(r, A, B, 6, 443, 2000));
    assert_false(passes(r, B, A, 6, 2000, 80));
    assert_false(passes(r, B, A, 17, 2000, 443));
    struct dp_switch_stats stats;
    dp_switch_port_stats(r->st[B].port, &stats);
    assert_int_equal(stats.drop[DP_SWITCH_DROP_SECURITY_OUT], 2);
    rig_fini(r);
    free(r);
}

static void odd_packets(void **state)
{
    struct rig *r = malloc(sizeof *r);
    uint8_t p[128], inner[128];
    begin(r, "web", "");
    set(r, "web", "in udp 53");
    uint32_t size = packet(p, A, B, 17, 1000, 53, 0, 0x2000); /* first of several */
    assert_true(passes_raw(r, A, B, p, size));
    size = packet(p, A, B, 17, 1000, 53, 0, 8);
    assert_true(passes_raw(r, A, B, p, size));
    put16(p + 14 + 4, 78); /* of another packet */
    assert_false(passes_raw(r, A, B, p, size));
    /* errors about what B sent, and about nothing */
    assert_true(passes(r, B, A, 17, 3000, 7));
    size = packet(p, A, B, 1, 3, 0, 0, 0);
    packet(inner, B, A, 17, 3000, 7, 0, 0);
    memcpy(p + 14 + 20 + 8, inner + 14, 28);
    assert_true(passes_raw(r, A, B, p, size));
    put16(p + 14 + 20 + 8 + 20, 3001);
    assert_false(passes_raw(r, A, B, p, size));
    /* DHCP comes; what is cut off, no IP, or version 6 in 4, does not */
    assert_true(passes(r, A, B, 17, 67, 68));
    static const uint16_t types[] = {0x0800, 0x86dd, 0x8137, 0x88b5};
    for (unsigned i = 0; i < DP_ARRAY_LEN(types); i++) {
        size = make_frame(p, B, A, NO_TAG, NO_TAG, types[i], 46);
        assert_false(passes_raw(r, A, B, p, size));
    }
    size = packet(p, A, B, 17, 1000, 53, 0, 0);
    assert_false(passes_raw(r, A, B, p, 14 + 20 + 3));
    assert_true(passes_raw(r, A, B, p, 14 + 20 + 4));
    rig_fini(r);
    free(r);
}

/* Who opens any number of connections takes nobody else's memory of his. */
static void share(void **state)
{
    struct rig *r = malloc(sizeof *r);
    begin(r, "web", "flood");
    set(r, "web", "in tcp 80");
    assert_true(passes(r, A, B, 6, 1000, 80));
    set(r, "web", "");
    for (unsigned i = 0; i < 200000; i++) {
        assert_true(passes(r, C, A, 17, i & 0xffff, 1 + i / 65536));
        station_forget(&r->st[A]);
    }
    assert_true(passes(r, A, B, 6, 1000, 80));
    rig_fini(r);
    free(r);
}

static void texts(void **state)
{
    struct dp_security *s = dp_security_create();
    struct dp_error e = {0};
    static const char *const bad[] = {"tcp 80",
                                      "in",
                                      "in foo",
                                      "in tcp 0",
                                      "in tcp 80-70",
                                      "in tcp 70000",
                                      "in any 80",
                                      "in icmp 3",
                                      "in tcp 80 to 10.0.0.1",
                                      "in tcp 80 from",
                                      "in tcp 80 from 10.0.0.0/33",
                                      "in tcp 80 from fe80::/129",
                                      "in tcp 80 from host",
                                      "in tcp 80 from group",
                                      "in tcp 80 from group a,b",
                                      "in tcp 80 from 10.0.0.1 x",
                                      "in tcp 80x",
                                      "in 256",
                                      "in tcp 80-"};
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++) {
        e.text[0] = 0;
        if (!dp_security_set(s, "g", bad[i], &e) || !*e.text || strchr(e.text, '\n'))
            fail_msg("'%s' is taken", bad[i]);
    }
    static const char *const good[] = {"",
                                       " ; ",
                                       "in any",
                                       "out any to group h",
                                       "in 47 from 192.0.2.0/24",
                                       "in udp 1-65535 from fe80::/10;in icmp;",
                                       "in tcp 80 from 0.0.0.0/0"};
    for (unsigned i = 0; i < DP_ARRAY_LEN(good); i++)
        if (dp_security_set(s, "g", good[i], &e))
            fail_msg("'%s': %s", good[i], e.text);
    assert_string_equal(dp_security_text(s, 0), good[DP_ARRAY_LEN(good) - 1]);
    for (unsigned i = 0; i < DP_SECURITY_GROUPS + 5; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%u", i);
        int rc = dp_security_group(s, name);
        assert_true(rc >= 0 || i >= DP_SECURITY_GROUPS - 4);
    }
    dp_security_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(connections), cmocka_unit_test(peers_and_out), cmocka_unit_test(odd_packets),
                                       cmocka_unit_test(share), cmocka_unit_test(texts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
