/* test_network.c - ports over descriptors (net/datagram.h), networks and who may join them (net/network.h), VXLAN (net/vxlan.h): two ends
 * in one process and one loop.
 */
#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/network.h"
#include "net/uplink.h"
#include "net/vxlan.h"
#include "tests/net/packets.h"
#include "tests/unit/test.h"

#include <arpa/inet.h>
#include <json.h>

enum { KEPT = 4096 };

struct station { /* a card */
    struct dp_net_port net;
    unsigned count, room, readies; /* room ~0: as much as there is */
    uint32_t size[KEPT], work[KEPT];
    uint8_t first[KEPT]; /* the first byte of the payload */
    unsigned gone;
};

struct world {
    struct dp_loop *loop;
    struct dp_clock *clock;
    struct dp_error e;
    char folder[64];
};

static unsigned take(void *opaque, const struct dp_net_frame *f, unsigned count)
{
    struct station *s = opaque;
    unsigned n = 0;
    for (; n < count && s->room && s->count < KEPT; n++) {
        uint8_t bytes[DP_NET_FRAME_MAX];
        dp_net_gather(&f[n], bytes);
        s->size[s->count] = f[n].size;
        s->work[s->count] = f[n].work;
        s->first[s->count++] = bytes[14];
        s->room -= s->room != ~0u;
    }
    return n;
}
static void ready(void *opaque) { ((struct station *)opaque)->readies++; }
static const struct dp_net_end station_end = {take, ready, NULL};
static void on_gone(void *opaque) { ((struct station *)opaque)->gone++; }

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    strcpy(w->folder, "/tmp/doppel-network-XXXXXX");
    if (!mkdtemp(w->folder) || dp_loop_create(&w->loop, &w->e) || dp_clock_create_vm(w->loop, &w->clock, &w->e))
        return -1;
    dp_clock_resume(w->clock);
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

/* Lets the loop do what there is to do. */
static void settle(struct world *w)
{
    for (unsigned idle = 0; idle < 3;)
        idle = dp_loop_poll(w->loop, 5) ? 0 : idle + 1;
}

static void station_init(struct station *s)
{
    memset(s, 0, sizeof *s);
    s->room = ~0u;
    dp_net_port_init(&s->net, &station_end, s, DP_NET_CHECKSUM | DP_NET_TSO4 | DP_NET_TSO6 | DP_NET_ECN);
}

static unsigned send_bytes(struct station *s, const uint8_t *bytes, uint32_t size, uint32_t work)
{
    struct iovec v = {(void *)bytes, size};
    struct dp_net_frame f = {.part = &v,
                             .parts = 1,
                             .size = size,
                             .work = work,
                             .checksum_start = 34,
                             .checksum_offset = 16,
                             .header_size = 54,
                             .segment_size = work & DP_NET_TSO4 ? 1000 : 0};
    return dp_net_send(&s->net, &f, 1);
}

static unsigned send_to(struct station *s, uint8_t to, uint8_t from, uint8_t mark)
{
    uint8_t bytes[64] = {2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x88, 0xb5, mark};
    return send_bytes(s, bytes, sizeof bytes, 0);
}

/* ---- descriptors ---- */

struct pair {
    struct station a, b;
    struct dp_net_datagram *da, *db;
};

static void pair_open(struct world *w, struct pair *p)
{
    int fd[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
    station_init(&p->a);
    station_init(&p->b);
    struct dp_net_link link = {
        .fd = fd[0], .header = true, .is_socket = true, .accepts = DP_NET_CHECKSUM | DP_NET_TSO4 | DP_NET_TSO6 | DP_NET_ECN};
    assert_ok(dp_net_datagram_create(w->loop, &link, on_gone, &p->a, &p->da, &w->e), w->e);
    link.fd = fd[1];
    assert_ok(dp_net_datagram_create(w->loop, &link, on_gone, &p->b, &p->db, &w->e), w->e);
    assert_ok(dp_net_connect(&p->a.net, dp_net_datagram_port(p->da), &w->e), w->e);
    assert_ok(dp_net_connect(&p->b.net, dp_net_datagram_port(p->db), &w->e), w->e);
}

static void frames_go_both_ways(void **state)
{
    struct world *w = *state;
    struct pair *p = calloc(1, sizeof *p);
    uint8_t big[60000] = {0};
    pair_open(w, p);
    for (unsigned i = 0; i < 200; i++)
        assert_int_equal(send_to(&p->a, 2, 1, (uint8_t)i), 1);
    assert_int_equal(send_bytes(&p->b, big, sizeof big, DP_NET_CHECKSUM | DP_NET_TSO4 | DP_NET_ECN), 1);
    settle(w);
    assert_int_equal(p->b.count, 200);
    for (unsigned i = 0; i < 200; i++)
        assert_true(p->b.first[i] == i && p->b.size[i] == 64 && !p->b.work[i]);
    assert_int_equal(p->a.count, 1);
    assert_true(p->a.size[0] == sizeof big && p->a.work[0] == (DP_NET_CHECKSUM | DP_NET_TSO4 | DP_NET_ECN));
    dp_net_datagram_destroy(p->da);
    settle(w);
    assert_int_equal(p->b.gone, 1);
    assert_false(dp_net_link(&p->b.net));
    dp_net_datagram_destroy(p->db);
    free(p);
}

static void who_is_full_makes_the_sender_wait(void **state)
{
    struct world *w = *state;
    struct pair *p = calloc(1, sizeof *p);
    unsigned sent = 0;
    pair_open(w, p);
    p->b.room = 10;
    while (sent < 3000 && send_to(&p->a, 2, 1, (uint8_t)sent)) { /* until the socket is full: nothing reads it yet */
        if (++sent == 5)
            settle(w);
    }
    assert_true(sent > 20 && sent < 3000);
    settle(w);
    assert_int_equal(p->b.count, 10);
    p->b.room = 7;
    dp_net_ready(&p->b.net);
    settle(w);
    assert_int_equal(p->b.count, 17);
    p->b.room = ~0u;
    dp_net_ready(&p->b.net);
    settle(w);
    assert_int_equal(p->b.count, sent);
    assert_int_equal(p->a.readies, 1);
    for (unsigned i = 0; i < sent; i++)
        assert_int_equal(p->b.first[i], (uint8_t)i);
    dp_net_datagram_destroy(p->da);
    dp_net_datagram_destroy(p->db);
    free(p);
}

static void nonsense_is_dropped(void **state)
{
    struct world *w = *state;
    struct station s;
    struct dp_net_datagram *d;
    struct dp_net_datagram_stats stats;
    int fd[2];
    uint8_t bytes[80000] = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
    station_init(&s);
    assert_ok(
        dp_net_datagram_create(w->loop, &(struct dp_net_link){.fd = fd[0], .header = true, .is_socket = true}, on_gone, &s, &d, &w->e),
        w->e);
    assert_ok(dp_net_connect(&s.net, dp_net_datagram_port(d), &w->e), w->e);
    static const struct {
        uint16_t size;
        uint8_t flags, type;
        uint16_t segment;
        bool good;
    } sent[] = {{2, 0, 0, 0, false},
                {10, 0, 0, 0, false},
                {23, 0, 0, 0, false},
                {24, 0, 0, 0, true},
                {74, 0, 2, 0, false},
                {74, 0, 0x80, 0, false},
                {74, 0, 1, 100, false} /* segments without a checksum */,
                {74, 1, 1, 0, false},
                {74, 0, 0xff, 0, false},
                {74, 0xfe, 0, 0, true},
                {65535, 0, 0, 0, true}};
    unsigned good = 0;
    for (unsigned i = 0; i < DP_ARRAY_LEN(sent); i++) {
        bytes[0] = sent[i].flags;
        bytes[1] = sent[i].type;
        dp_st16(bytes + 4, sent[i].segment);
        assert_int_equal(send(fd[1], bytes, sent[i].size, 0), sent[i].size);
        good += sent[i].good;
    }
    memset(bytes, 0, 10);
    assert_int_equal(send(fd[1], bytes, 70000, 0), 70000); /* larger than any frame */
    settle(w);
    assert_int_equal(s.count, good);
    dp_net_datagram_stats(d, &stats);
    assert_int_equal(stats.dropped, DP_ARRAY_LEN(sent) - good + 1);
    close(fd[1]);
    settle(w);
    assert_int_equal(s.gone, 1);
    dp_net_datagram_destroy(d);
}

/* ---- networks ---- */

struct member {
    struct station s;
    struct dp_net_datagram *d;
};

static struct dp_network *network(struct world *w, char *path, size_t size)
{
    struct dp_network *n;
    assert_ok(dp_network_create(&(struct dp_network_options){.loop = w->loop, .name = "lan", .switching = {.clock = w->clock, .mtu = 1400}},
                                &n, &w->e),
              w->e);
    snprintf(path, size, "%s/ports", w->folder);
    assert_ok(dp_network_listen(n, path, 0600, &w->e), w->e);
    return n;
}

struct joining {
    struct world *w;
    const char *path, *port, *options;
    struct dp_net_link link;
    uint32_t mtu;
    int rc;
};

/* Joining waits for the answer of the loop, which is this process's: a thread asks. */
static void *ask(void *opaque)
{
    struct joining *j = opaque;
    j->rc = dp_network_join(j->path, j->port, j->options, &j->link, &j->mtu, &j->w->e);
    dp_loop_stop(j->w->loop);
    return NULL;
}

static int join(struct world *w, const char *path, const char *port, const char *options, struct member *m)
{
    struct joining j = {.w = w, .path = path, .port = port, .options = options};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, ask, &j), 0);
    dp_loop_run(w->loop);
    pthread_join(thread, NULL);
    if (j.rc)
        return j.rc;
    assert_int_equal(j.mtu, 1400);
    station_init(&m->s);
    assert_ok(dp_net_datagram_create(w->loop, &j.link, on_gone, &m->s, &m->d, &w->e), w->e);
    assert_ok(dp_net_connect(&m->s.net, dp_net_datagram_port(m->d), &w->e), w->e);
    return 0;
}

static void members(void **state)
{
    struct world *w = *state;
    char path[96];
    struct dp_network *n = network(w, path, sizeof path);
    struct member *m = calloc(5, sizeof *m), other;
    assert_ok(dp_network_declare(n, "db", "vlan=20", &w->e), w->e);
    assert_ok(join(w, path, "a", "vlan=10", &m[0]), w->e);
    assert_ok(join(w, path, "b", "vlan=10", &m[1]), w->e);
    assert_ok(join(w, path, "db", NULL, &m[2]), w->e);
    assert_ok(join(w, path, "c", "vlan=20", &m[3]), w->e);
    for (unsigned i = 0; i < 4; i++)
        send_to(&m[i].s, 0xff, (uint8_t)i, (uint8_t)i); /* unknown: to all of the VLAN */
    settle(w);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(m[i].s.count, 1);
        assert_int_equal(m[i].s.first[0], i ^ 1);
    }
    assert_int_equal(join(w, path, "a", NULL, &other), -EACCES); /* taken */
    assert_non_null(strstr(w->e.text, "already"));
    assert_int_equal(join(w, path, "x y", NULL, &other), -EACCES);
    assert_int_equal(join(w, path, "new", "vlan=5000", &other), -EACCES);
    assert_non_null(strstr(w->e.text, "4094"));
    dp_net_datagram_destroy(m[2].d);
    settle(w);
    assert_int_equal(join(w, path, "db", "vlan=10", &other), -EACCES); /* declared otherwise */
    assert_ok(join(w, path, "db", "vlan=20", &m[2]), w->e);
    assert_ok(dp_network_set_link(n, "b", false, &w->e), w->e);
    send_to(&m[0].s, 0xff, 0, 9);
    settle(w);
    assert_int_equal(m[1].s.count, 1);
    assert_ok(dp_network_remove(n, "b", &w->e), w->e); /* thrown out */
    assert_int_equal(dp_network_remove(n, "b", &w->e), -ENOENT);
    settle(w);
    assert_int_equal(m[1].s.gone, 1);
    struct json_object *o = dp_network_json(n);
    assert_int_equal(json_object_array_length(json_object_object_get(o, "ports")), 3);
    json_object_put(o);
    dp_network_destroy(n);
    settle(w);
    assert_int_equal(m[0].s.gone, 1);
    for (unsigned i = 0; i < 4; i++)
        dp_net_datagram_destroy(m[i].d);
    free(m);
}

/* The network ends, comes back, and is joined again by the same port of a VM, whose card saw its carrier go and come. */
static void comes_back(void **state)
{
    struct world *w = *state;
    char path[96];
    struct dp_network *n = network(w, path, sizeof path);
    struct member *m = calloc(2, sizeof *m);
    assert_ok(join(w, path, "a", NULL, &m[0]), w->e);
    struct dp_net_link link = {.fd = dup(0), .header = true, .is_socket = true};
    assert_int_equal(dp_net_datagram_reopen(m[0].d, &link, &w->e), -EINVAL); /* not gone */
    dp_network_destroy(n);
    settle(w);
    assert_int_equal(m[0].s.gone, 1);
    assert_false(dp_net_link(&m[0].s.net));
    assert_false(dp_net_datagram_dismissed(m[0].d));
    assert_int_equal(send_to(&m[0].s, 0xff, 1, 1), 1); /* to nowhere */
    unlink(path);
    n = network(w, path, sizeof path);
    struct joining j = {.w = w, .path = path, .port = "a"};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, ask, &j), 0);
    dp_loop_run(w->loop);
    pthread_join(thread, NULL);
    assert_ok(j.rc, w->e);
    assert_ok(dp_net_datagram_reopen(m[0].d, &j.link, &w->e), w->e);
    assert_true(dp_net_link(&m[0].s.net));
    assert_int_equal(m[0].s.readies, 1);
    assert_ok(join(w, path, "b", NULL, &m[1]), w->e);
    for (unsigned round = 1; round < 4; round++) {
        assert_int_equal(send_to(&m[0].s, 0xff, 1, 7), 1);
        assert_int_equal(send_to(&m[1].s, 0xff, 2, 8), 1);
        settle(w);
        assert_true(m[0].s.count == round && m[0].s.first[0] == 8 && m[1].s.count == round && m[1].s.first[0] == 7);
    }
    /* Who is thrown out knows that he is. */
    assert_ok(dp_network_remove(n, "a", &w->e), w->e);
    settle(w);
    assert_int_equal(m[0].s.gone, 2);
    assert_true(dp_net_datagram_dismissed(m[0].d));
    assert_int_equal(m[0].s.count, 3);
    dp_network_destroy(n);
    settle(w);
    assert_false(dp_net_datagram_dismissed(m[1].d));
    for (unsigned i = 0; i < 2; i++)
        dp_net_datagram_destroy(m[i].d);
    free(m);
}

/* Without descriptors a network turns clients away, and does not turn round and round. */
static void no_descriptors(void **state)
{
    struct world *w = *state;
    char path[96];
    struct dp_network *n = network(w, path, sizeof path);
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct rlimit before, low;
    struct member m;
    strcpy(a.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), next = dup(fd);
    close(next);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    low = (struct rlimit){(rlim_t)next, before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    unsigned turns = 0;
    while (turns < 100 && dp_loop_poll(w->loop, 5))
        turns++;
    int rc = setrlimit(RLIMIT_NOFILE, &before);
    assert_int_equal(rc, 0);
    assert_true(turns < 100);
    char byte;
    assert_true(recv(fd, &byte, 1, MSG_DONTWAIT) <= 0 && errno != EAGAIN); /* closed */
    close(fd);
    assert_ok(join(w, path, "a", NULL, &m), w->e);
    dp_net_datagram_destroy(m.d);
    settle(w);
    dp_network_destroy(n);
}

/* A capture of all ports has each frame as it came; both ways also as it went. */
static void captures(void **state)
{
    struct world *w = *state;
    char path[96], answer[4096];
    struct dp_network *n = network(w, path, sizeof path);
    struct member *m = calloc(2, sizeof *m);
    static const char *const asked[] = {"{\"capture\":\"*\"}", "{\"capture\":\"*\",\"both\":true}", "{\"capture\":\"b\"}"};
    static const unsigned expected[] = {2, 4, 2}; /* of a frame each way */
    int fd[DP_ARRAY_LEN(asked)];
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, path);
    assert_ok(join(w, path, "a", NULL, &m[0]), w->e);
    assert_ok(join(w, path, "b", NULL, &m[1]), w->e);
    for (unsigned i = 0; i < DP_ARRAY_LEN(asked); i++) {
        fd[i] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd[i], (struct sockaddr *)&a, sizeof a), 0);
        assert_true(send(fd[i], asked[i], strlen(asked[i]), 0) > 0);
        settle(w);
        assert_true(recv(fd[i], answer, sizeof answer, MSG_DONTWAIT) > 0);
    }
    send_to(&m[0].s, 0xff, 1, 1);
    settle(w);
    send_to(&m[1].s, 1, 2, 2);
    settle(w);
    for (unsigned i = 0; i < DP_ARRAY_LEN(asked); i++) {
        unsigned count = 0;
        while (recv(fd[i], answer, sizeof answer, MSG_DONTWAIT) > 0)
            count++;
        assert_int_equal(count, expected[i]);
        close(fd[i]);
    }
    settle(w);
    for (unsigned i = 0; i < 2; i++)
        dp_net_datagram_destroy(m[i].d);
    settle(w);
    dp_network_destroy(n);
    free(m);
}

/* What a client at path gets for text; -1: nothing. */
static ssize_t say(struct world *w, const char *path, const void *text, size_t size, char *answer, size_t room)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(send(fd, text, size, 0), (ssize_t)size);
    settle(w);
    ssize_t n = recv(fd, answer, room - 1, MSG_DONTWAIT);
    answer[n > 0 ? n : 0] = 0;
    close(fd);
    settle(w);
    return n;
}

static void strangers(void **state)
{
    struct world *w = *state;
    char path[96], answer[4096], long_[5000];
    struct dp_network *n = network(w, path, sizeof path);
    static const char *const nonsense[] = {
        "{", "[]", "7", "{}", "{\"join\":7}", "{\"join\":\"a\\u0000b\"}", "{\"join\":\"\"}", "\xff\xfe", "{\"capture\":\"nobody\"}"};
    for (unsigned i = 0; i < DP_ARRAY_LEN(nonsense); i++) {
        assert_true(say(w, path, nonsense[i], strlen(nonsense[i]), answer, sizeof answer) > 0);
        assert_non_null(strstr(answer, "\"error\""));
    }
    memset(long_, ' ', sizeof long_);
    assert_int_equal(say(w, path, long_, sizeof long_, answer, sizeof answer), 0);
    int silent[40];
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    strcpy(a.sun_path, path);
    for (unsigned i = 0; i < DP_ARRAY_LEN(silent); i++) { /* who says nothing keeps nobody out */
        silent[i] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(silent[i], (struct sockaddr *)&a, sizeof a), 0);
        settle(w);
    }
    assert_true(say(w, path, "{\"join\":\"x\"}", 12, answer, sizeof answer) > 0);
    assert_non_null(strstr(answer, "\"result\""));
    for (unsigned i = 0; i < DP_ARRAY_LEN(silent); i++)
        close(silent[i]);
    settle(w);
    dp_network_destroy(n);
}

/* What another user is told. */
static void as_nobody(struct world *w, const char *path, const char *text, char *answer, size_t room)
{
    int out[2];
    assert_int_equal(pipe(out), 0);
    pid_t child = fork();
    if (!child) {
        struct sockaddr_un a = {.sun_family = AF_UNIX};
        strcpy(a.sun_path, path);
        char bytes[4096];
        int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
        ssize_t n = -1;
        if (!setgid(65534) && !setuid(65534) && !connect(fd, (struct sockaddr *)&a, sizeof a) && send(fd, text, strlen(text), 0) > 0)
            n = recv(fd, bytes, sizeof bytes, 0);
        n = write(out[1], n > 0 ? bytes : "?", n > 0 ? (size_t)n : 1);
        _exit(n > 0 ? 0 : 1);
    }
    int status;
    close(out[1]);
    while (waitpid(child, &status, WNOHANG) == 0)
        dp_loop_poll(w->loop, 5);
    ssize_t n = read(out[0], answer, room - 1);
    answer[n > 0 ? n : 0] = 0;
    close(out[0]);
    settle(w);
}

static void other_users(void **state)
{
    struct world *w = *state;
    char path[96], answer[4096];
    if (geteuid()) {
        print_message("only root can be another user: skipped\n");
        skip();
    }
    struct dp_network *n = network(w, path, sizeof path);
    assert_int_equal(chmod(w->folder, 0755), 0);
    as_nobody(w, path, "{\"join\":\"x\"}", answer, sizeof answer);
    assert_string_equal(answer, "?"); /* the socket is 0600 */
    snprintf(path, sizeof path, "%s/open", w->folder);
    assert_ok(dp_network_listen(n, path, 0666, &w->e), w->e);
    as_nobody(w, path, "{\"join\":\"x\"}", answer, sizeof answer);
    assert_non_null(strstr(answer, "another user"));
    as_nobody(w, path, "{\"capture\":\"*\"}", answer, sizeof answer);
    assert_non_null(strstr(answer, "owner"));
    assert_ok(dp_network_declare(n, "*", "vlan=7,no-server", &w->e), w->e);
    as_nobody(w, path, "{\"join\":\"x\",\"options\":\"trunk=all\"}", answer, sizeof answer);
    assert_non_null(strstr(answer, "\"error\""));
    as_nobody(w, path, "{\"join\":\"x\"}", answer, sizeof answer);
    assert_non_null(strstr(answer, "\"result\""));
    dp_network_destroy(n);
}

static void texts(void **state)
{
    struct world *w = *state;
    struct dp_switch_port_options o = {.name = "keep"};
    assert_ok(dp_network_parse_port(
                  "trunk=10+20-22,native=5,pcp=3,force-pcp,isolated,uplink,mac=52:54:00:12:34:56,ip=10.0.0.1,ip=fe80::1,guard-ip,"
                  "no-server,rate-in=10M,rate-out=500K,broadcasts=100,mac-limit=4",
                  &o, &w->e),
              w->e);
    assert_string_equal(o.name, "keep");
    assert_true(o.mode == DP_SWITCH_TRUNK && o.vlan == 5 && o.pcp == 3 && o.force_pcp && o.isolated && o.uplink && o.macs == 1 &&
                o.ip4s == 1 && o.ip6s == 1);
    assert_true(o.guard_ip && o.no_server && o.in.bytes_per_second == 10 << 20 && o.out.bytes_per_second == 500 << 10 &&
                o.broadcasts == 100 && o.mac_limit == 4);
    assert_true(o.allowed[0] == (1ull << 10 | 7ull << 20));
    assert_ok(dp_network_parse_port("", &o, &w->e), w->e);
    assert_true(o.mode == DP_SWITCH_ACCESS && !o.vlan);
    static const char *const bad[] = {"vlan=0",        "vlan=4095",      "vlan=",      "vlan=1x",   "vlan",
                                      "trunk=",        "trunk=0",        "trunk=5-4",  "trunk=1,2", "trunk=1+",
                                      "native=3",      "trunk=1,vlan=2", "pcp=8",      "mac=zz",    "mac=01:00:00:00:00:01",
                                      "ip=1.2.3",      "rate-in=0",      "rate-in=1T", "nonsense",  "nonsense=1",
                                      "isolated=1x,=", "broadcasts=0"};
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++) {
        w->e = (struct dp_error){0};
        if (!dp_network_parse_port(bad[i], &o, &w->e))
            fail_msg("'%s' is taken", bad[i]);
        assert_true(*w->e.text && !strchr(w->e.text, '\n'));
    }
    struct sockaddr_storage a;
    unsigned size;
    static const struct {
        const char *text;
        bool good;
        uint16_t port;
    } addresses[] = {{"192.0.2.1", true, 4789},
                     {"192.0.2.1:5", true, 5},
                     {"[2001:db8::1]:7", true, 7},
                     {"2001:db8::1", true, 4789},
                     {"[::1]", true, 4789},
                     {"192.0.2.1:", false},
                     {"192.0.2.1:0", false},
                     {"192.0.2.1:65536", false},
                     {"", false},
                     {"localhost", false},
                     {"[::1", false}, {"[::1]x", false},
                     {"1.2.3.4.5", false}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(addresses); i++) {
        int rc = dp_net_parse_address(addresses[i].text, 4789, &a, &size, &w->e);
        if (!rc != addresses[i].good)
            fail_msg("%s: %d", addresses[i].text, rc);
        if (!rc)
            assert_int_equal(ntohs(a.ss_family == AF_INET ? ((struct sockaddr_in *)&a)->sin_port : ((struct sockaddr_in6 *)&a)->sin6_port),
                             addresses[i].port);
    }
}

/* ---- VXLAN ---- */

static void overlay(void **state)
{
    struct world *w = *state;
    struct station *a = calloc(3, sizeof *a);
    struct dp_net_vxlan *v[3];
    struct dp_net_vxlan_stats s;
    static const char *const local[] = {"127.0.0.11:14789", "127.0.0.12:14789", "127.0.0.13:14789"};
    for (unsigned i = 0; i < 3; i++) {
        struct dp_net_vxlan_options o = {
            .clock = w->clock, .vni = i == 2 ? 43 : 42, .local = local[i], .remote = {local[i ? 0 : 1], local[2]}, .remotes = i ? 1 : 2};
        assert_ok(dp_net_vxlan_create(w->loop, &o, &v[i], &w->e), w->e);
        station_init(&a[i]);
        assert_ok(dp_net_connect(&a[i].net, dp_net_vxlan_port(v[i]), &w->e), w->e);
    }
    send_to(&a[0], 0xff, 1, 1); /* unknown: to both; the third is of another VNI */
    settle(w);
    assert_int_equal(a[1].count, 1);
    assert_int_equal(a[2].count, 0);
    dp_net_vxlan_stats(v[2], &s);
    assert_int_equal(s.other_vni, 1);
    send_to(&a[1], 1, 2, 2);
    settle(w);
    assert_int_equal(a[0].count, 1);
    send_to(&a[0], 2, 1, 3); /* known now: to one only */
    settle(w);
    assert_int_equal(a[1].count, 2);
    dp_net_vxlan_stats(v[0], &s);
    assert_int_equal(s.out, 3);
    send_to(&a[2], 1, 3, 4);
    settle(w);
    dp_net_vxlan_stats(v[0], &s);
    assert_int_equal(s.other_vni, 1);
    int fd = socket(AF_INET, SOCK_DGRAM, 0); /* from an address that is no remote end, and nonsense */
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(14789)}, from = {.sin_family = AF_INET};
    inet_pton(AF_INET, "127.0.0.11", &to.sin_addr);
    inet_pton(AF_INET, "127.0.0.99", &from.sin_addr);
    assert_int_equal(bind(fd, (struct sockaddr *)&from, sizeof from), 0);
    uint8_t bytes[72] = {8, 0, 0, 0, 0, 0, 42};
    static const uint8_t sizes[] = {0, 7, 8, 21, 22, 72};
    for (unsigned i = 0; i < DP_ARRAY_LEN(sizes); i++)
        sendto(fd, bytes, sizes[i], 0, (struct sockaddr *)&to, sizeof to);
    bytes[0] = 0;
    sendto(fd, bytes, 72, 0, (struct sockaddr *)&to, sizeof to);
    settle(w);
    dp_net_vxlan_stats(v[0], &s);
    assert_int_equal(s.stranger, 2);
    assert_int_equal(s.malformed, 5);
    assert_int_equal(a[0].count, 1);
    close(fd);
    for (unsigned i = 0; i < 3; i++)
        dp_net_vxlan_destroy(v[i]);
    struct dp_net_vxlan_options o = {.clock = w->clock, .vni = 1 << 24, .learn = true};
    assert_int_equal(dp_net_vxlan_create(w->loop, &o, &v[0], &w->e), -EINVAL);
    o = (struct dp_net_vxlan_options){.clock = w->clock, .vni = 1};
    assert_int_equal(dp_net_vxlan_create(w->loop, &o, &v[0], &w->e), -EINVAL);
    free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(frames_go_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(who_is_full_makes_the_sender_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(nonsense_is_dropped, setup, teardown),
        cmocka_unit_test_setup_teardown(members, setup, teardown),
        cmocka_unit_test_setup_teardown(strangers, setup, teardown),
        cmocka_unit_test_setup_teardown(comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(no_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(captures, setup, teardown),
        cmocka_unit_test_setup_teardown(other_users, setup, teardown),
        cmocka_unit_test_setup_teardown(texts, setup, teardown),
        cmocka_unit_test_setup_teardown(overlay, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
