/* test_tunnel.c - tunnels (net/tunnel.h): two networks over loopback, protected and not, with wrong credentials, hostile peers and cut
 * connections; and the framing of streams (net/stream.h) on its own. TUNNEL_CERTS is tests/net/certs.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <json.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/network.h"
#include "net/stream.h"
#include "net/tunnel.h"
#include "tests/net/packets.h"
#include "tests/unit/test.h"

enum { KEPT = 4096, SECRET_SIZE = 16 };
static const char secret[SECRET_SIZE + 1] = "PLAINTEXT-SECRET"; /* in each frame; must not be seen on the wire */

struct station {
    struct dp_net_port net;
    unsigned count, room;
    uint32_t size[KEPT], mark[KEPT];
};

struct world {
    struct dp_loop *loop;
    struct dp_clock *clock;
    struct dp_error e;
    char folder[64];
    uint16_t port;
};

static unsigned take(void *opaque, const struct dp_net_frame *f, unsigned count)
{
    struct station *s = opaque;
    unsigned n = 0;
    for (; n < count && s->room && s->count < KEPT; n++) {
        uint8_t bytes[DP_NET_FRAME_MAX];
        dp_net_gather(&f[n], bytes);
        s->size[s->count] = f[n].size;
        s->mark[s->count++] = f[n].size >= 18 ? dp_ld32(bytes + 14) : 0;
        s->room -= s->room != ~0u;
    }
    return n;
}
static const struct dp_net_end station_end = {take, NULL, NULL};

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    char command[300];
    strcpy(w->folder, "/tmp/doppel-tunnel-XXXXXX");
    if (!mkdtemp(w->folder) || dp_loop_create(&w->loop, &w->e) || dp_clock_create_vm(w->loop, &w->clock, &w->e))
        return -1;
    dp_clock_resume(w->clock);
    snprintf(command, sizeof command, "%s %s good other", TUNNEL_CERTS, w->folder);
    if (system(command))
        return -1;
    /* A port that was free a moment ago. */
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(fd, (struct sockaddr *)&a, size) || getsockname(fd, (struct sockaddr *)&a, &size))
        return -1;
    close(fd);
    w->port = ntohs(a.sin_port);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", w->folder);
    int rc = system(command);
    dp_clock_destroy(w->clock);
    dp_loop_destroy(w->loop);
    free(w);
    return rc;
}

static void settle(struct world *w)
{
    for (unsigned idle = 0; idle < 4;)
        idle = dp_loop_poll(w->loop, 5) ? 0 : idle + 1;
}

static void run_for(struct world *w, unsigned ms)
{
    uint64_t end = dp_clock_now(w->clock) + ms * 1000000ull;
    while (dp_clock_now(w->clock) < end)
        dp_loop_poll(w->loop, 5);
}

static unsigned send_frame(struct station *s, uint32_t size, uint32_t mark)
{
    static uint8_t bytes[DP_NET_FRAME_MAX] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5};
    dp_st32(bytes + 14, mark);
    memcpy(bytes + 18, secret, SECRET_SIZE);
    struct iovec v[2] = {{bytes, 20}, {bytes + 20, size - 20}};
    return dp_net_send(&s->net, &(struct dp_net_frame){.part = v, .parts = 2, .size = size}, 1);
}

struct end {
    struct dp_net_tunnel *t;
    struct station s;
};

/* text: %P is the port, %F the folder. */
static int open_end(struct world *w, const char *text, struct end *end)
{
    char real[600], *to = real;
    struct dp_net_tunnel_options o;
    for (; *text; text++) {
        if (*text == '%')
            to += *++text == 'P' ? sprintf(to, "%u", w->port)
                  : *text == 'Q' ? sprintf(to, "%u", w->port + 1u)
                                 : sprintf(to, "%s", w->folder);
        else
            *to++ = *text;
    }
    *to = 0;
    memset(&end->s, 0, sizeof end->s);
    end->s.room = ~0u;
    dp_net_port_init(&end->s.net, &station_end, &end->s, 0);
    int rc = dp_net_tunnel_parse(real, &o, &w->e);
    if (rc < 0)
        return rc;
    assert_int_equal(rc, 1);
    assert_string_equal(real, "");
    o.clock = w->clock;
    if ((rc = dp_net_tunnel_create(w->loop, &o, &end->t, &w->e)))
        return rc;
    assert_ok(dp_net_connect(&end->s.net, dp_net_tunnel_port(end->t), &w->e), w->e);
    return 0;
}

static void close_end(struct end *end)
{
    dp_net_tunnel_destroy(end->t);
    end->t = NULL;
}

static bool is_up(struct end *e)
{
    struct dp_net_tunnel_stats s;
    dp_net_tunnel_stats(e->t, &s);
    return s.up;
}

static bool come_up(struct world *w, struct end *a, struct end *b)
{
    for (unsigned i = 0; i < 1000 && !(is_up(a) && is_up(b)); i++)
        dp_loop_poll(w->loop, 5);
    settle(w);
    return is_up(a) && is_up(b);
}

static void write_keys(struct world *w, const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", w->folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static const struct {
    const char *listen, *connect;
} kinds[] = {
    {"tcp=127.0.0.1:%P,listen", "tcp=127.0.0.1:%P"},
    {"tcp=127.0.0.1:%P,listen,tls=%F/good", "tcp=127.0.0.1:%P,tls=%F/good"},
    {"tcp=127.0.0.1:%P,listen,psk=%F/keys", "tcp=127.0.0.1:%P,psk=%F/keys"},
    {"udp=127.0.0.1:%P/127.0.0.1:%Q,dtls=%F/good,listen", "udp=127.0.0.1:%Q/127.0.0.1:%P,dtls=%F/good"},
    {"udp=127.0.0.1:%P/127.0.0.1:%Q,psk=%F/keys,listen", "udp=127.0.0.1:%Q/127.0.0.1:%P,psk=%F/keys"},
};
#define KEYS "one:00112233445566778899aabbccddeeff\ntwo:ffeeddccbbaa99887766554433221100\n"

static void frames_go_both_ways(void **state)
{
    struct world *w = *state;
    struct end *e = calloc(2, sizeof *e);
    write_keys(w, "keys", "# keys\n" KEYS);
    for (unsigned k = 0; k < DP_ARRAY_LEN(kinds); k++) {
        struct dp_net_tunnel_stats s;
        unsigned sent = 0;
        assert_ok(open_end(w, kinds[k].listen, &e[0]), w->e);
        assert_ok(open_end(w, kinds[k].connect, &e[1]), w->e);
        if (!come_up(w, &e[0], &e[1])) {
            dp_net_tunnel_stats(e[0].t, &s);
            print_error("listener: %s\n", s.why);
            dp_net_tunnel_stats(e[1].t, &s);
            fail_msg("kind %u: %s", k, s.why);
        }
        for (unsigned i = 0; i < 300; i++) {
            assert_int_equal(send_frame(&e[1].s, 60 + i * 4, i), 1);
            assert_int_equal(send_frame(&e[0].s, 60, i), 1);
            if (i % 30 == 29)
                settle(w);
        }
        for (unsigned i = 0; i < 2; i++) {
            assert_int_equal(e[i].s.count, 300);
            for (unsigned j = 0; j < 300; j++)
                assert_true(e[i].s.mark[j] == j && e[i].s.size[j] == (i ? 60 : 60 + j * 4));
        }
        bool tcp = kinds[k].listen[0] == 't';
        send_frame(&e[0].s, DP_NET_FRAME_MAX, 7); /* larger than a datagram */
        settle(w);
        assert_int_equal(e[1].s.count, tcp ? 301 : 300);
        dp_net_tunnel_stats(e[0].t, &s);
        assert_int_equal(s.lost, !tcp);
        assert_true(s.in == 300 && s.out == (tcp ? 301 : 300) && !s.malformed && s.connections == 1);
        /* Who is full makes the sender wait (a stream), and nothing is lost or out of order. */
        e[1].s.count = 0;
        e[1].s.room = tcp ? 5 : ~0u;
        while (tcp && sent < 60000 && send_frame(&e[0].s, 9000, sent)) {
            sent++;
            if (sent % 8 == 0)
                dp_loop_poll(w->loop, 0);
        }
        if (tcp) {
            assert_in_range(sent, 6, 59999);
            settle(w);
            assert_int_equal(e[1].s.count, 5);
            e[1].s.room = ~0u;
            dp_net_ready(&e[1].s.net);
            settle(w);
            assert_int_equal(e[1].s.count, DP_MIN(sent, (unsigned)KEPT));
            for (unsigned i = 0; i < e[1].s.count; i++)
                assert_int_equal(e[1].s.mark[i], i);
        }
        close_end(&e[0]);
        close_end(&e[1]);
        settle(w);
    }
    free(e);
}

/* The other end goes away and comes back, either of them. */
static void connections_come_back(void **state)
{
    struct world *w = *state;
    struct end *e = calloc(2, sizeof *e);
    write_keys(w, "keys", KEYS);
    for (unsigned k = 0; k < DP_ARRAY_LEN(kinds); k++)
        for (unsigned who = 0; who < 2; who++) {
            struct dp_net_tunnel_stats s;
            assert_ok(open_end(w, kinds[k].connect, &e[1]), w->e); /* nobody is there yet */
            run_for(w, 50);
            assert_false(is_up(&e[1]));
            assert_ok(open_end(w, kinds[k].listen, &e[0]), w->e);
            assert_true(come_up(w, &e[0], &e[1]));
            close_end(&e[who]);
            settle(w);
            assert_false(is_up(&e[!who])); /* it was told */
            assert_int_equal(send_frame(&e[!who].s, 100, 1), 1);
            dp_net_tunnel_stats(e[!who].t, &s);
            assert_int_equal(s.lost, 1);
            assert_true(*s.why);
            assert_ok(open_end(w, who ? kinds[k].connect : kinds[k].listen, &e[who]), w->e);
            assert_true(come_up(w, &e[0], &e[1]));
            send_frame(&e[0].s, 100, 5);
            send_frame(&e[1].s, 100, 6);
            settle(w);
            assert_true(e[1].s.count == 1 && e[1].s.mark[0] == 5 && e[0].s.count == 1 && e[0].s.mark[0] == 6);
            close_end(&e[0]);
            close_end(&e[1]);
            settle(w);
        }
    free(e);
}

static void wrong_credentials(void **state)
{
    struct world *w = *state;
    struct end *e = calloc(2, sizeof *e);
    static const struct {
        const char *listen, *connect, *why; /* what one of them says */
    } pair[] = {
        {"tcp=127.0.0.1:%P,listen,tls=%F/good", "tcp=127.0.0.1:%P,tls=%F/other", "certificate"},
        {"tcp=127.0.0.1:%P,listen,tls=%F/mixed", "tcp=127.0.0.1:%P,tls=%F/other",
         "certificate"}, /* the server's is believed, the client's not */
        {"tcp=127.0.0.1:%P,listen,tls=%F/good", "tcp=127.0.0.1:%P,tls=%F/good,tls-name=elsewhere.test", "certificate"},
        {"tcp=127.0.0.1:%P,listen,tls=%F/good,tls-name=elsewhere.test", "tcp=127.0.0.1:%P,tls=%F/good", "certificate"},
        {"tcp=127.0.0.1:%P,listen,tls=%F/good", "tcp=127.0.0.1:%P", "TLS"},
        {"tcp=127.0.0.1:%P,listen,tls=%F/revoked", "tcp=127.0.0.1:%P,tls=%F/good", "revoked"},
        {"tcp=127.0.0.1:%P,listen,tls=%F/swapped", "tcp=127.0.0.1:%P,tls=%F/good",
         "certificate"}, /* a client's certificate is no server's */
        {"tcp=127.0.0.1:%P,listen,psk=%F/keys", "tcp=127.0.0.1:%P,psk=%F/wrong", "TLS"},
        {"tcp=127.0.0.1:%P,listen,psk=%F/keys", "tcp=127.0.0.1:%P,psk=%F/stranger", "TLS"},
        {"udp=127.0.0.1:%P/127.0.0.1:%Q,dtls=%F/good,listen", "udp=127.0.0.1:%Q/127.0.0.1:%P,dtls=%F/other", "certificate"},
        {"udp=127.0.0.1:%P/127.0.0.1:%Q,dtls=%F/mixed,listen", "udp=127.0.0.1:%Q/127.0.0.1:%P,dtls=%F/other", "certificate"},
        {"udp=127.0.0.1:%P/127.0.0.1:%Q,psk=%F/keys,listen", "udp=127.0.0.1:%Q/127.0.0.1:%P,psk=%F/wrong",
         "no answer"}, /* a record that does not decrypt is dropped */
        {"udp=127.0.0.1:%P/127.0.0.1:%Q,psk=%F/keys,listen", "udp=127.0.0.1:%Q/127.0.0.1:%P,dtls=%F/good", "TLS"},
    };
    char command[1200];
    const char *f = w->folder;
    snprintf(command, sizeof command,
             "cd %s && cp -r other mixed && cp good/ca-cert.pem mixed/ && cp -r good swapped && cp good/client-cert.pem "
             "swapped/server-cert.pem && cp good/client-key.pem "
             "swapped/server-key.pem && cp -r good revoked && cd revoked && touch index.txt && printf "
             "'[ca]\\ndefault_ca=d\\n[d]\\ndatabase=index.txt\\ndefault_md=sha256\\n"
             "default_crl_days=9\\n' >c.cnf && openssl ca -config c.cnf -revoke client-cert.pem -keyfile ca-key.pem -cert ca-cert.pem "
             "2>/dev/null && "
             "openssl ca -config c.cnf -gencrl -keyfile ca-key.pem -cert ca-cert.pem -out ca-crl.pem 2>/dev/null",
             f);
    assert_int_equal(system(command), 0);
    write_keys(w, "keys", KEYS);
    write_keys(w, "wrong", "one:00112233445566778899aabbccddeefe\n");
    write_keys(w, "stranger", "three:00112233445566778899aabbccddeeff\n");
    for (unsigned i = 0; i < DP_ARRAY_LEN(pair); i++) {
        struct dp_net_tunnel_stats s[2];
        bool said = false;
        assert_ok(open_end(w, pair[i].listen, &e[0]), w->e);
        assert_ok(open_end(w, pair[i].connect, &e[1]), w->e);
        for (unsigned n = 0; n < 2600 && !said; n++) {
            dp_loop_poll(w->loop, 5);
            send_frame(&e[1].s, 64, n);
            for (unsigned k = 0; k < 2; k++) {
                dp_net_tunnel_stats(e[k].t, &s[k]);
                said |= strstr(s[k].why, pair[i].why) != NULL;
            }
            assert_false(s[0].up); /* a client may believe it is up for a moment: TLS 1.3 tells it later that its certificate is refused */
        }
        if (!said || e[0].s.count || s[0].connections)
            fail_msg("pair %u: '%s', '%s', %u frames", i, s[0].why, s[1].why, e[0].s.count);
        close_end(&e[0]);
        close_end(&e[1]);
        settle(w);
    }
    free(e);
}

static int connect_tcp(struct world *w)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(w->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

static bool hung_up(int fd)
{
    char data[4096];
    for (;;) {
        ssize_t n = recv(fd, data, sizeof data, MSG_DONTWAIT);
        if (n <= 0)
            return !n || errno != EAGAIN;
    }
}

static void hostile_peers(void **state)
{
    struct world *w = *state;
    struct end *e = calloc(2, sizeof *e);
    struct dp_net_tunnel_stats s;
    struct dp_random r;
    uint8_t noise[4096];
    int fd[12];
    dp_random_seed(&r, 5);
    write_keys(w, "keys", KEYS);
    /* TCP with TLS: noise is cut, silence makes room for others, and neither keeps who may come out. */
    assert_ok(open_end(w, kinds[1].listen, &e[0]), w->e);
    for (unsigned i = 0; i < DP_ARRAY_LEN(fd); i++) {
        fd[i] = connect_tcp(w);
        settle(w);
    }
    unsigned over = 0;
    for (unsigned i = 0; i < DP_ARRAY_LEN(fd); i++)
        over += hung_up(fd[i]);
    assert_int_equal(over, 8); /* four may try at a time */
    for (unsigned i = 0; i < sizeof noise; i++)
        noise[i] = (uint8_t)dp_random_next(&r);
    assert_int_equal(send(fd[11], noise, sizeof noise, MSG_NOSIGNAL), sizeof noise);
    settle(w);
    assert_true(hung_up(fd[11]));
    assert_ok(open_end(w, kinds[1].connect, &e[1]), w->e);
    assert_true(come_up(w, &e[0], &e[1]));
    for (unsigned i = 0; i < DP_ARRAY_LEN(fd); i++)
        close(fd[i]);
    fd[0] = connect_tcp(w); /* one connection there is */
    settle(w);
    assert_true(hung_up(fd[0]));
    close(fd[0]);
    assert_true(is_up(&e[0]));
    close_end(&e[0]);
    close_end(&e[1]);
    settle(w);
    /* TCP without: a length that no frame has ends it. */
    assert_ok(open_end(w, kinds[0].listen, &e[0]), w->e);
    static const uint8_t good[] = {0, 0, 0, 18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5, 9, 0, 0, 0};
    static const uint8_t bad[][4] = {{0, 0, 0, 0}, {0, 0, 0, 13}, {0, 1, 0, 15}, {0xff, 0xff, 0xff, 0xff}, {'G', 'E', 'T', ' '}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++) {
        fd[0] = connect_tcp(w);
        assert_int_equal(send(fd[0], good, sizeof good, 0), sizeof good);
        settle(w);
        assert_int_equal(e[0].s.count, i + 1);
        assert_int_equal(send(fd[0], good, sizeof good - 3, 0), sizeof good - 3); /* not whole */
        settle(w);
        assert_int_equal(e[0].s.count, i + 1);
        assert_false(hung_up(fd[0]));
        close(fd[0]);
        settle(w);
        fd[0] = connect_tcp(w);
        assert_int_equal(send(fd[0], bad[i], 4, 0), 4);
        settle(w);
        assert_true(hung_up(fd[0]));
        close(fd[0]);
        dp_net_tunnel_stats(e[0].t, &s);
        assert_int_equal(s.malformed, i + 1);
        assert_false(s.up);
    }
    close_end(&e[0]);
    settle(w);
    /* UDP: whatever somebody sends from the peer's address, before and while there is a connection. */
    assert_ok(open_end(w, kinds[3].listen, &e[0]), w->e);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(w->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, from = to;
    from.sin_port = htons(w->port + 1);
    int on = 1, u = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(setsockopt(u, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on), 0);
    assert_int_equal(bind(u, (struct sockaddr *)&from, sizeof from), 0);
    for (unsigned i = 0; i < 300; i++) {
        static const uint8_t client_hello[] = {22, 254, 255, 0, 0, 0, 0, 0, 0, 0, 0,   0,   200, 1,
                                               0,  0,   188, 0, 0, 0, 0, 0, 0, 0, 188, 254, 253};
        if (i & 1)
            memcpy(noise, client_hello, sizeof client_hello);
        ssize_t n = sendto(u, noise, i * 7 % 1500, 0, (struct sockaddr *)&to, sizeof to);
        (void)n;
        for (unsigned k = 0; k < 40; k++)
            noise[dp_random_next(&r) % 1500] = (uint8_t)dp_random_next(&r);
        settle(w);
    }
    close(u);
    assert_ok(open_end(w, kinds[3].connect, &e[1]), w->e);
    assert_true(come_up(w, &e[0], &e[1]));
    assert_int_equal(e[0].s.count, 0);
    close_end(&e[0]);
    close_end(&e[1]);
    free(e);
}

/* A relay that sees what is on the wire, and can be cut. */
struct relay {
    struct world *w;
    int listener, fd[2];
    struct dp_buffer seen;
};

static void relay_some(struct relay *r)
{
    uint8_t data[65536];
    if (r->fd[0] < 0 && (r->fd[0] = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0)
        r->fd[1] = connect_tcp(r->w);
    for (unsigned i = 0; i < 2 && r->fd[0] >= 0; i++)
        for (ssize_t n; (n = recv(r->fd[i], data, sizeof data, MSG_DONTWAIT)) > 0;) {
            dp_buffer_append(&r->seen, data, (size_t)n);
            for (ssize_t at = 0, sent; at<n; at += sent> 0 ? sent : 0)
                if ((sent = send(r->fd[!i], data + at, (size_t)(n - at), MSG_NOSIGNAL)) < 0 && errno != EAGAIN)
                    return;
        }
}

static void nothing_is_readable_on_the_wire(void **state)
{
    struct world *w = *state;
    struct end *e = calloc(2, sizeof *e);
    write_keys(w, "keys", KEYS);
    for (unsigned k = 0; k < 3; k++) {
        struct relay r = {.w = w, .fd = {-1, -1}};
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(w->port + 1), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        char text[200];
        int on = 1;
        r.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        setsockopt(r.listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        assert_true(!bind(r.listener, (struct sockaddr *)&a, sizeof a) && !listen(r.listener, 4));
        assert_ok(open_end(w, kinds[k].listen, &e[0]), w->e);
        snprintf(text, sizeof text, "tcp=127.0.0.1:%%Q%s", kinds[k].connect + strlen("tcp=127.0.0.1:%P"));
        assert_ok(open_end(w, text, &e[1]), w->e);
        for (unsigned i = 0; i < 400; i++) {
            dp_loop_poll(w->loop, 1);
            relay_some(&r);
            if (is_up(&e[0]) && is_up(&e[1]))
                send_frame(&e[i & 1].s, 500, i);
        }
        assert_true(e[0].s.count > 50 && e[1].s.count > 50);
        assert_true(r.seen.size > 50000);
        assert_true(!memmem(r.seen.data, r.seen.size, secret, SECRET_SIZE) == (k > 0));
        /* Cut: both notice, and it comes back. */
        close(r.fd[0]);
        close(r.fd[1]);
        r.fd[0] = r.fd[1] = -1;
        settle(w);
        assert_false(is_up(&e[0]) || is_up(&e[1]));
        for (unsigned i = 0; i < 2000 && !(is_up(&e[0]) && is_up(&e[1])); i++) {
            dp_loop_poll(w->loop, 1);
            relay_some(&r);
        }
        assert_true(is_up(&e[0]) && is_up(&e[1]));
        /* One bit changed on the way: nothing of it comes through. */
        unsigned had = e[0].s.count;
        if (k) {
            uint8_t data[4096];
            send_frame(&e[1].s, 500, 1);
            dp_loop_poll(w->loop, 1);
            ssize_t n = recv(r.fd[0], data, sizeof data, 0);
            assert_true(n > 100);
            data[n / 2] ^= 1;
            assert_int_equal(send(r.fd[1], data, (size_t)n, 0), n);
            run_for(w, 100); /* Nagle's algorithm may hold it back */
            assert_int_equal(e[0].s.count, had);
            assert_false(is_up(&e[0]));
        }
        close_end(&e[0]);
        close_end(&e[1]);
        close(r.fd[0]);
        close(r.fd[1]);
        close(r.listener);
        dp_buffer_fini(&r.seen);
        settle(w);
    }
    free(e);
}

/* The same for datagrams: the listener's peer is a relay, which loses, repeats, changes and reorders some. */
static void datagrams_on_the_wire(void **state)
{
    struct world *w = *state;
    struct end *e = calloc(2, sizeof *e);
    struct dp_random r;
    struct dp_buffer seen = {0};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd[2]; /* to the server, to the client */
    uint8_t data[20000];
    dp_random_seed(&r, 9);
    write_keys(w, "keys", KEYS);
    for (unsigned i = 0; i < 2; i++) {
        fd[i] = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        a.sin_port = htons(w->port + 1 + i * 2);
        assert_int_equal(bind(fd[i], (struct sockaddr *)&a, sizeof a), 0);
        a.sin_port = htons(w->port + (i ? 2 : 0));
        assert_int_equal(connect(fd[i], (struct sockaddr *)&a, sizeof a), 0);
    }
    char text[200];
    assert_ok(open_end(w, kinds[4].listen, &e[0]), w->e);
    snprintf(text, sizeof text, "udp=127.0.0.1:%u/127.0.0.1:%u,psk=%s/keys", w->port + 2u, w->port + 3u, w->folder);
    assert_ok(open_end(w, text, &e[1]), w->e);
    unsigned sent = 0;
    for (unsigned i = 0; i < 4000 && sent < 600; i++) {
        dp_loop_poll(w->loop, 2);
        for (unsigned k = 0; k < 2; k++)
            for (ssize_t n; (n = recv(fd[!k], data, sizeof data, 0)) > 0;) {
                unsigned dice = (unsigned)(dp_random_next(&r) % 16);
                dp_buffer_append(&seen, data, (size_t)n);
                if (!dice)
                    continue; /* lost */
                if (dice == 1)
                    data[dp_random_next(&r) % (uint64_t)n] ^= 0x40;
                for (unsigned times = 0; times < (dice == 2 ? 2u : 1u); times++) {
                    ssize_t m = send(fd[k], data, (size_t)n, 0);
                    (void)m;
                }
            }
        if (is_up(&e[0]) && is_up(&e[1]))
            sent += send_frame(&e[0].s, 500, sent), send_frame(&e[1].s, 500, sent);
    }
    assert_int_equal(sent, 600);
    assert_in_range(e[1].s.count, 400, 600);
    for (unsigned i = 1; i < e[1].s.count; i++) /* none twice, none changed */
        assert_true(e[1].s.mark[i] > e[1].s.mark[i - 1] && e[1].s.size[i] == 500);
    assert_null(memmem(seen.data, seen.size, secret, SECRET_SIZE));
    dp_buffer_fini(&seen);
    close_end(&e[0]);
    close_end(&e[1]);
    close(fd[0]);
    close(fd[1]);
    free(e);
}

/* Networks: what `doppel network create -u` makes of it, and says about it. */
static void uplinks(void **state)
{
    struct world *w = *state;
    struct dp_network *n[2];
    char text[300];
    for (unsigned i = 0; i < 2; i++) {
        assert_ok(
            dp_network_create(&(struct dp_network_options){.loop = w->loop, .name = "lan", .switching = {.clock = w->clock}}, &n[i], &w->e),
            w->e);
        snprintf(text, sizeof text, "tcp=127.0.0.1:%u%s,tls=%s/good,trunk=all", w->port, i ? "" : ",listen", w->folder);
        assert_ok(dp_network_add_uplink(n[i], "far", text, &w->e), w->e);
    }
    bool up = false;
    for (unsigned i = 0; i < 500 && !up; i++) {
        dp_loop_poll(w->loop, 5);
        struct json_object *o = dp_network_json(n[1]);
        up = json_object_get_boolean(json_object_object_get(
            json_object_object_get(json_object_array_get_idx(json_object_object_get(o, "ports"), 0), "tunnel"), "up"));
        json_object_put(o);
    }
    assert_true(up);
    assert_ok(dp_network_remove(n[0], "far", &w->e), w->e);
    static const struct {
        const char *text, *error;
    } bad[] = {
        {"tcp=127.0.0.1:9,tls=", "tls"},
        {"tcp=127.0.0.1:9,tls=/nowhere", "/nowhere/ca-cert.pem: No such file"},
        {"tcp=127.0.0.1:9,psk=/nowhere", "/nowhere: No such file"},
        {"tcp=127.0.0.1:9,psk=/dev/null", "there is none"},
        {"tcp=127.0.0.1:9,psk=/dev/null,tls=/tmp", "not both"},
        {"tcp=127.0.0.1:9,dtls=/tmp", "no option"},
        {"tcp=localhost:9", "no IP address"},
        {"tcp=127.0.0.1", "no address"},
        {"tcp=,listen", "no address"},
        {"udp=127.0.0.1:9,psk=/tmp", "LOCAL"},
        {"udp=127.0.0.1:9/127.0.0.1:10,dtls=", "dtls"},
        {"udp=127.0.0.1:9/127.0.0.1:10,tls=/tmp", "no option"},
        {"udp=127.0.0.1:9/127.0.0.1:10,dtls", "no option"},
        {"udp=127.0.0.1:9/127.0.0.1:10,psk=/dev/null,tls-name=x", "tls-name"},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++)
        if (!dp_network_add_uplink(n[1], "bad", bad[i].text, &w->e) || !strstr(w->e.text, bad[i].error))
            fail_msg("%s: %s", bad[i].text, w->e.text);
    char big[700] = "udp=127.0.0.1:9/127.0.0.1:10,dtls=";
    memset(big + strlen(big), 'x', 600);
    assert_true(dp_network_add_uplink(n[1], "bad", big, &w->e) < 0); /* never a tunnel without protection */
    dp_network_destroy(n[0]);
    dp_network_destroy(n[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(frames_go_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(connections_come_back, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_credentials, setup, teardown),
        cmocka_unit_test_setup_teardown(hostile_peers, setup, teardown),
        cmocka_unit_test_setup_teardown(nothing_is_readable_on_the_wire, setup, teardown),
        cmocka_unit_test_setup_teardown(datagrams_on_the_wire, setup, teardown),
        cmocka_unit_test_setup_teardown(uplinks, setup, teardown),
    };
    if (system("command -v openssl >/dev/null")) {
        print_message("no openssl command to make certificates with: package openssl\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
