/* tests/net/bench_switch.c - how many 64-byte frames a switch forwards in a second of one core's time: bench_switch [SECONDS]. Each line:
 * ports, whether they are access ports or send from an access port to a trunk, frames in a batch. Receivers count and do nothing else. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "net/switch.h"
#include "tests/net/packets.h"

enum { PORTS_MAX = 8, SIZE = 60 /* and the FCS */ };
struct end {
    struct dp_net_port net;
    struct dp_switch_port *port;
    uint64_t got;
};

static unsigned receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    ((struct end *)opaque)->got += count;
    return count;
}
static const struct dp_net_end end = {.receive = receive};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t); /* a busy machine's other programs do not count */
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void frame_to(uint8_t *p, unsigned to, unsigned from)
{
    memset(p, 0, SIZE);
    put32(p, 0x52540000);
    put16(p + 4, to);
    put32(p + 6, 0x52540000);
    put16(p + 10, from);
    put16(p + 12, 0x0800);
}

static double run(unsigned ports, bool tagged, unsigned batch, double seconds)
{
    struct dp_loop *loop;
    struct dp_switch_options o = {0};
    struct dp_switch *s;
    static struct end e[PORTS_MAX];
    static uint8_t bytes[PORTS_MAX][DP_NET_BATCH][SIZE];
    static struct iovec part[PORTS_MAX][DP_NET_BATCH];
    static struct dp_net_frame f[PORTS_MAX][DP_NET_BATCH];
    if (dp_loop_create(&loop, NULL) || dp_clock_create_vm(loop, &o.clock, NULL) || dp_switch_create(&o, &s, NULL))
        exit(1);
    dp_clock_resume(o.clock);
    for (unsigned i = 0; i < ports; i++) {
        struct dp_switch_port_options po = {.mode = tagged && i & 1 ? DP_SWITCH_TRUNK : DP_SWITCH_ACCESS, .vlan = tagged && i & 1 ? 0 : 1};
        dp_switch_allow(&po, 1);
        e[i].got = 0;
        dp_net_port_init(&e[i].net, &end, &e[i], 0);
        if (dp_switch_port_create(s, &po, &e[i].port, NULL) || dp_switch_port_connect(e[i].port, &e[i].net, NULL))
            exit(1);
        for (unsigned k = 0; k < batch; k++) { /* to all others in turn */
            frame_to(bytes[i][k], (i + 1 + k % (ports - 1)) % ports, i);
            part[i][k] = (struct iovec){bytes[i][k], SIZE};
            f[i][k] = (struct dp_net_frame){.part = &part[i][k], .parts = 1, .size = SIZE};
            if (tagged && i & 1) {
                memmove(bytes[i][k] + 16, bytes[i][k] + 12, SIZE - 16);
                put32(bytes[i][k] + 12, 0x81000001);
            }
        }
    }
    uint64_t sent = 0;
    double begin = now(), stop = begin;
    for (; stop - begin < seconds; stop = now())
        for (unsigned n = 0; n < 100; n++)
            for (unsigned i = 0; i < ports; i++)
                sent += dp_net_send(&e[i].net, f[i], batch);
    uint64_t got = 0;
    for (unsigned i = 0; i < ports; i++)
        got += e[i].got;
    if (got < sent)
        exit(1);
    dp_switch_destroy(s);
    dp_clock_destroy(o.clock);
    dp_loop_destroy(loop);
    return (double)sent / (stop - begin) / 1e6;
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    static const unsigned ports[] = {2, 4, 8}, batches[] = {64, 8, 1};
    for (unsigned b = 0; b < DP_ARRAY_LEN(batches); b++)
        for (unsigned i = 0; i < DP_ARRAY_LEN(ports); i++)
            for (unsigned tagged = 0; tagged < 2; tagged++)
                printf("%u ports, %s, batches of %2u: %6.2f Mpps\n", ports[i], tagged ? "access and trunk" : "access          ", batches[b],
                       run(ports[i], tagged, batches[b], seconds));
    return 0;
}
