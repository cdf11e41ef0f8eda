/* fuzz_network.c - hostile peers of a network: what joiners say and send, options as text, VXLAN from the wire.
 *
 * Input: a byte that chooses: 0: text of a port's options; 1: of an uplink or address; 2: packets to a network's socket (each: 16 bits of
 * length, bytes; the first is the greeting, so it may join); 3: datagrams to a VXLAN port; 4: packets behind a good greeting.
 */
#include <netinet/in.h>
#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <json.h>

#include "net/network.h"
#include "net/uplink.h"
#include "net/vxlan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                                                                                                                            \
    do {                                                                                                                                   \
        if (x)                                                                                                                             \
            abort();                                                                                                                       \
    } while (0)
enum { TEXT_MAX = 700 };

static void text(unsigned what, const uint8_t *data, size_t size)
{
    char t[TEXT_MAX + 1], value[40];
    struct dp_error e = {0};
    struct dp_switch_port_options o = {.name = "x"};
    struct sockaddr_storage a;
    unsigned n;
    size = DP_MIN(size, (size_t)TEXT_MAX);
    memcpy(t, data, size);
    t[size] = 0;
    if (!what) {
        int rc = dp_network_parse_port(t, &o, &e);
        struct dp_security *rules = dp_security_create();
        int set = rules ? dp_security_set(rules, "g", t, &e) : 0;
        MUST(set && !*e.text);
        dp_security_destroy(rules);
        MUST(rc && (!*e.text || o.macs > DP_SWITCH_ADDRESSES || o.ip4s > DP_SWITCH_ADDRESSES || o.ip6s > DP_SWITCH_ADDRESSES));
        return;
    }
    int rc = dp_net_parse_address(t, 1, &a, &n, &e);
    MUST(!rc && n > sizeof a);
    while (dp_net_take_option(t, "remote", value, sizeof value))
        MUST(strlen(value) >= sizeof value);
    MUST(strlen(t) > size);
}

static void turn(struct dp_loop *l)
{
    while (dp_loop_poll(l, 0))
        ;
}

static unsigned next(const uint8_t **data, size_t *size, const uint8_t **bytes)
{
    if (*size < 2)
        return 0;
    unsigned n = DP_MIN((size_t)dp_ld16(*data), *size - 2);
    static const uint8_t zero[1];
    *bytes = n ? *data + 2 : zero;
    *data += 2 + n;
    *size -= 2 + n;
    return n ? n : 1;
}

static void packets(struct dp_loop *l, struct dp_clock *c, bool greet, const uint8_t *data, size_t size)
{
    struct dp_error e = {0};
    struct dp_network *n;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "/tmp/doppel-fuzz-network-%d", (int)getpid());
    unlink(a.sun_path);
    struct dp_network_options o = {.loop = l, .name = "fuzz", .switching = {.clock = c, .snooping = true, .table_size = 64}};
    MUST(dp_network_create(&o, &n, &e) || dp_network_listen(n, a.sun_path, 0600, &e) ||
         dp_network_declare(n, "d", "vlan=2,guard-ip,no-server", &e) ||
         dp_network_set_group(n, "g", "in tcp 80 from group g; in icmp; in udp 1-99 from fe80::/10; out udp; out icmp", &e));
    int fd[2];
    for (unsigned i = 0; i < 2; i++) {
        fd[i] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);
        MUST(fd[i] < 0 || connect(fd[i], (struct sockaddr *)&a, sizeof a));
        static const char *const hello[] = {"{\"join\":\"a\"}", "{\"join\":\"b\",\"options\":\"trunk=all,native=1,group=g\"}"};
        if (greet || i)
            MUST(send(fd[i], hello[i], strlen(hello[i]), 0) < 0);
        turn(l);
    }
    const uint8_t *bytes;
    for (unsigned i = 0, count; i < 40 && (count = next(&data, &size, &bytes)); i++) {
        ssize_t sent = send(fd[i & 1 && greet], bytes, count, MSG_NOSIGNAL);
        (void)sent; /* it may have thrown us out */
        turn(l);
        uint8_t in[65600];
        while (recv(fd[1], in, sizeof in, 0) > 0)
            ;
    }
    struct json_object *about = dp_network_json(n);
    MUST(!about);
    json_object_put(about);
    close(fd[0]);
    turn(l);
    dp_network_destroy(n);
    close(fd[1]);
    unlink(a.sun_path);
}

static unsigned sink(void *opaque, const struct dp_net_frame *f, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        MUST(f[i].size < DP_NET_FRAME_MIN || f[i].size > DP_NET_FRAME_MAX || f[i].work);
    return count;
}

static void wire(struct dp_loop *l, struct dp_clock *c, const uint8_t *data, size_t size)
{
    static const struct dp_net_end end = {sink, NULL, NULL};
    struct dp_error e = {0};
    struct dp_net_vxlan *v;
    struct dp_net_port port;
    struct dp_net_vxlan_options o = {.clock = c, .vni = 1, .local = "127.0.0.21:14790", .learn = true};
    if (dp_net_vxlan_create(l, &o, &v, &e)) /* another fuzzer has the port */
        return;
    dp_net_port_init(&port, &end, NULL, 0);
    MUST(dp_net_connect(&port, dp_net_vxlan_port(v), &e));
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(14790)};
    inet_pton(AF_INET, "127.0.0.21", &to.sin_addr);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    const uint8_t *bytes;
    for (unsigned i = 0, count; i < 40 && (count = next(&data, &size, &bytes)); i++) {
        ssize_t sent = sendto(fd, bytes, count, 0, (struct sockaddr *)&to, sizeof to);
        (void)sent;
        turn(l);
        uint8_t frame[60] = {2};
        memcpy(frame, bytes, DP_MIN(count, (unsigned)sizeof frame));
        struct iovec part = {frame, sizeof frame};
        dp_net_send(&port, &(struct dp_net_frame){.part = &part, .parts = 1, .size = sizeof frame}, 1);
    }
    close(fd);
    dp_net_vxlan_destroy(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct dp_loop *l;
    struct dp_clock *c;
    struct dp_error e;
    if (!size)
        return 0;
    unsigned what = *data++ % 5;
    size--;
    if (what < 2) {
        text(what, data, size);
        return 0;
    }
    MUST(dp_loop_create(&l, &e) || dp_clock_create_manual(&c, &e));
    if (what == 3)
        wire(l, c, data, size);
    else
        packets(l, c, what == 4, data, size);
    dp_clock_destroy(c);
    dp_loop_destroy(l);
    return 0;
}
