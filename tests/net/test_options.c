/* test_options.c - what --nic and --publish take, and what they refuse. */
#include "net/options.h"
#include "tests/unit/test.h"

static void publish(void **state)
{
    static const struct {
        const char *text, *host;
        unsigned from, to;
        bool udp;
    } good[] = {
        {"8080:80", "", 8080, 80, false},
        {"5353:53/udp", "", 5353, 53, true},
        {"127.0.0.1:8080:80/tcp", "127.0.0.1", 8080, 80, false},
        {"0.0.0.0:1:65535", "0.0.0.0", 1, 65535, false},
    };
    static const char *const bad[] = {
        "",      "80",          "80:",       ":80",         "0:80",          "80:65536", "80:80/sctp",
        "a:80",  "1.2.3:80:80", "::1:80:80", "[::1]:80:80", "[1.2.3.4]:1:2", "1:2:3:4",  "80:99999999999999999999",
        "-1:80", "80 :80"};
    struct dp_error e = {0};
    for (size_t i = 0; i < DP_ARRAY_LEN(good); i++) {
        struct dp_net_user_options o = {0};
        assert_ok(dp_net_parse_publish(good[i].text, &o, &e), e);
        assert_int_equal(o.forwards, 1);
        assert_string_equal(o.forward[0].host, good[i].host);
        assert_int_equal(o.forward[0].host_port, good[i].from);
        assert_int_equal(o.forward[0].guest_port, good[i].to);
        assert_int_equal(o.forward[0].udp, good[i].udp);
    }
    for (size_t i = 0; i < DP_ARRAY_LEN(bad); i++) {
        struct dp_net_user_options o = {0};
        if (!dp_net_parse_publish(bad[i], &o, &e))
            fail_msg("%s is taken", bad[i]);
        assert_int_equal(o.forwards, 0);
    }
    struct dp_net_user_options o = {0};
    for (unsigned i = 0; i < DP_NET_FORWARDS; i++)
        assert_ok(dp_net_parse_publish("1:2", &o, &e), e);
    assert_int_equal(dp_net_parse_publish("1:2", &o, &e), -E2BIG);
}

static void nic(void **state)
{
    struct dp_net_nic n;
    struct dp_error e = {0};
    assert_ok(dp_net_parse_nic("none", &n, &e), e);
    assert_int_equal(n.kind, DP_NET_NONE);
    assert_ok(dp_net_parse_nic("user", &n, &e), e);
    assert_true(n.kind == DP_NET_USER && !n.has_mac && !*n.model && !n.mtu);
    assert_ok(
        dp_net_parse_nic(
            "user,model=e1000,mac=52:54:00:ab:CD:01,mtu=9000,queues=8,restrict,no-host,hostname=vm,tftp=/srv,bootfile=pxe.0,hostfwd=tcp:8080:80,"
            "hostfwd=udp:127.0.0.1:53:10.0.2.16:54,hostfwd=tcp::2222-:22,hostfwd=tcp:1:10.0.2.9:2,hostfwd=tcp:127.0.0.1:3:4",
            &n, &e),
        e);
    assert_string_equal(n.model, "e1000");
    assert_memory_equal(n.mac, "\x52\x54\x00\xab\xcd\x01", 6);
    assert_true(n.has_mac && n.mtu == 9000 && n.queues == 8 && n.user.restricted && n.user.no_host);
    assert_string_equal(n.user.hostname, "vm");
    assert_string_equal(n.user.tftp, "/srv");
    assert_string_equal(n.user.bootfile, "pxe.0");
    const struct {
        const char *host, *guest;
        unsigned from, to;
        bool udp;
    } f[] = {{"", "", 8080, 80, false},
             {"127.0.0.1", "10.0.2.16", 53, 54, true},
             {"", "", 2222, 22, false},
             {"", "10.0.2.9", 1, 2, false},
             {"127.0.0.1", "", 3, 4, false}};
    assert_int_equal(n.user.forwards, 5);
    for (unsigned i = 0; i < 5; i++) {
        assert_string_equal(n.user.forward[i].host, f[i].host);
        assert_string_equal(n.user.forward[i].guest, f[i].guest);
        assert_int_equal(n.user.forward[i].host_port, f[i].from);
        assert_int_equal(n.user.forward[i].guest_port, f[i].to);
        assert_int_equal(n.user.forward[i].udp, f[i].udp);
    }
    static const char *const bad[] = {"",
                                      "tap",
                                      "usermode",
                                      "none,model=e1000",
                                      "user,",
                                      "user,model=",
                                      "user,model=a-name-that-is-much-too-long",
                                      "user,mac=",
                                      "user,mac=01:00:00:00:00:00",
                                      "user,mac=00:00:00:00:00:00",
                                      "user,mac=52:54:00:12:34:5",
                                      "user,mac=52-54-00-12-34-56",
                                      "user,mac=+2:54:00:12:34:56",
                                      "user,mtu=67",
                                      "user,mtu=65536",
                                      "user,queues=0",
                                      "user,queues=9",
                                      "user,hostfwd=",
                                      "user,hostfwd=tcp:",
                                      "user,hostfwd=unix:",
                                      "user,hostfwd=unix:/a",
                                      "user,hostfwd=unix::80",
                                      "user,guestfwd=",
                                      "user,guestfwd=tcp:",
                                      "user,guestfwd=tcp:10.0.2.100:80",
                                      "user,guestfwd=tcp:10.0.2.100:80-unix:",
                                      "user,guestfwd=tcp::80-unix:/a",
                                      "user,guestfwd=udp:10.0.2.100:80-unix:/a",
                                      "user,guestfwd=-unix:/a",
                                      "user,hostfwd=sctp:1:2",
                                      "user,hostfwd=tcp:1",
                                      "user,hostfwd=tcp:1:2:3:4",
                                      "user,hostfwd=tcp:1-2",
                                      "user,restrict=on",
                                      "user,hostname="};
    for (size_t i = 0; i < DP_ARRAY_LEN(bad); i++)
        if (!dp_net_parse_nic(bad[i], &n, &e))
            fail_msg("%s is taken", bad[i]);
}

static void sockets(void **state)
{
    struct dp_net_nic n;
    struct dp_error e = {0};
    char text[200] = "unix:";
    struct dp_net_user_options o = {0};
    assert_ok(dp_net_parse_nic("user,hostfwd=unix:/run/a:b.sock:80,guestfwd=tcp:10.0.2.100:8000-unix:/run/c-d.sock,restrict", &n, &e), e);
    assert_true(n.user.forwards == 1 && n.user.services == 1 && n.user.restricted);
    assert_string_equal(n.user.forward[0].path, "/run/a:b.sock");
    assert_int_equal(n.user.forward[0].guest_port, 80);
    assert_string_equal(n.user.service[0].path, "/run/c-d.sock");
    assert_string_equal(n.user.service[0].guest, "10.0.2.100");
    assert_int_equal(n.user.service[0].port, 8000);
    assert_ok(dp_net_parse_publish("unix:relative:22", &o, &e), e);
    assert_string_equal(o.forward[0].path, "relative");
    memset(text + 5, 'a', 107);
    strcpy(text + 5 + 107, ":1");
    assert_ok(dp_net_parse_publish(text, &o, &e), e);
    memset(text + 5, 'a', 108);
    strcpy(text + 5 + 108, ":1");
    assert_int_equal(dp_net_parse_publish(text, &o, &e), -EINVAL);
    assert_int_equal(o.forwards, 2);
}

static void addresses(void **state)
{
    uint8_t a[6], b[6], c[6], d[6];
    dp_net_default_mac("web", 0, a);
    dp_net_default_mac("web", 0, b);
    dp_net_default_mac("web", 1, c);
    dp_net_default_mac(NULL, 0, d);
    assert_memory_equal(a, b, 6);
    assert_memory_not_equal(a, c, 6);
    assert_memory_not_equal(a, d, 6);
    assert_memory_equal(d, "\x52\x54\x00", 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(publish), cmocka_unit_test(nic), cmocka_unit_test(sockets), cmocka_unit_test(addresses)};
    return cmocka_run_group_tests_name("net-options", tests, NULL, NULL);
}
