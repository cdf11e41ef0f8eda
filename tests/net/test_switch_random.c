/* tests/net/test_switch_random.c - a million frames over configurations that change, against a model that is slow, plain and written for
 * itself: who gets what is exactly what the model says, byte for byte, and no frame is where its VLAN is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/net/switch_rig.h"

enum { PORTS = 8, MIRROR = PORTS, FRAMES = 1000000, MACS = 12, BATCH = 70, ROOM = 160, AGE = 300 };
static const unsigned vids[] = {1, 2, 10, 63, 64, 4094};

/* The model's idea of a port. */
struct cfg {
    bool trunk, own_tag, force, isolated, uplink, down, watch_in, watch_out;
    unsigned vlan, pcp;
    bool member[4096];
    int only_mac; /* -1: any */
    unsigned room;
};
struct list {
    unsigned count;
    struct { uint8_t bytes[ROOM]; unsigned size; unsigned vlan, from; } f[BATCH * (PORTS + 1) * 2];
};
struct model {
    struct cfg cfg[PORTS];
    struct { int port; uint64_t seen; } where[4096][MACS];
    uint64_t now; /* seconds */
    struct list to[PORTS + 1], seen_in;
    uint64_t dropped, unicast, flooded, crossed;
};

static void expect(struct list *l, const uint8_t *bytes, unsigned size, unsigned vlan, unsigned from)
{
    memcpy(l->f[l->count].bytes, bytes, size);
    l->f[l->count].size = size;
    l->f[l->count].vlan = vlan;
    l->f[l->count].from = from;
    l->count++;
}

static void out(struct model *m, unsigned port, unsigned from, unsigned vlan, unsigned tci, const uint8_t *bare, unsigned size)
{
    struct cfg *c = &m->cfg[port];
    uint8_t wire[ROOM];
    if (c->vlan == vlan) {
        unsigned type = bare[12] << 8 | bare[13];
        if (type == 0x8100 || type == 0x88a8 || type == 0x9100)
            return;
        expect(&m->to[port], bare, size, vlan, from);
        return;
    }
    memcpy(wire, bare, 12);
    wire[12] = 0x81;
    wire[13] = 0;
    wire[14] = tci >> 8 & 0xff;
    wire[15] = tci & 0xff;
    memcpy(wire + 16, bare + 12, size - 12);
    expect(&m->to[port], wire, size + 4, vlan, from);
}

static bool hears(const struct model *m, unsigned from, unsigned to, unsigned vlan)
{
    const struct cfg *a = &m->cfg[from], *b = &m->cfg[to];
    if (from == to || (b->trunk ? !b->member[vlan] && b->vlan != vlan : b->vlan != vlan))
        return false;
    if (a->isolated)
        return b->uplink;
    return !b->isolated || a->uplink;
}

static void model_frame(struct model *m, unsigned from, const uint8_t *p, unsigned size)
{
    struct cfg *c = &m->cfg[from];
    uint8_t bare[ROOM];
    m->dropped++;
    if (c->watch_in)
        expect(&m->seen_in, p, size, 0, from);
    unsigned vlan = c->vlan, pcp = c->pcp, dei = 0;
    memcpy(bare, p, size);
    unsigned n = size;
    bool tagged = p[12] == 0x81 && p[13] == 0;
    if (tagged) {
        unsigned vid = (p[14] & 15) << 8 | p[15];
        dei = p[14] >> 4 & 1;
        pcp = c->force ? c->pcp : p[14] >> 5;
        if (vid) {
            vlan = vid;
            if (c->trunk ? !c->member[vid] && vid != c->vlan : vid != c->vlan || !c->own_tag)
                return;
        }
        memmove(bare + 12, bare + 16, size - 16);
        n -= 4;
    }
    unsigned type = bare[12] << 8 | bare[13];
    if (!c->trunk && (type == 0x8100 || type == 0x88a8 || type == 0x9100))
        return;
    if (vlan == 0 || vlan == 4095)
        return;
    unsigned source = bare[11], target = bare[5];
    if (c->only_mac >= 0 && source != (unsigned)c->only_mac)
        return;
    m->where[vlan][source].port = (int)from;
    m->where[vlan][source].seen = m->now;
    unsigned tci = pcp << 13 | dei << 12 | vlan;
    m->dropped--;
    if (target != 0xff && m->where[vlan][target].port >= 0 && m->now - m->where[vlan][target].seen <= AGE) {
        unsigned to = (unsigned)m->where[vlan][target].port;
        m->unicast++;
        if (hears(m, from, to, vlan))
            out(m, to, from, vlan, tci, bare, n);
        return;
    }
    m->flooded++;
    for (unsigned to = 0; to < PORTS; to++)
        if (!m->cfg[to].down && hears(m, from, to, vlan))
            out(m, to, from, vlan, tci, bare, n);
}

static void forget(struct model *m, unsigned port)
{
    for (unsigned v = 0; v < 4096; v++)
        for (unsigned i = 0; i < MACS; i++)
            if (m->where[v][i].port == (int)port)
                m->where[v][i].port = -1;
}

static unsigned pick(struct dp_random *r, unsigned n) { return (unsigned)(dp_random_next(r) >> 20) % n; }
static unsigned pick_vid(struct dp_random *r) { return vids[pick(r, DP_ARRAY_LEN(vids))]; }

static void configure(struct rig *r, struct model *m, unsigned port, struct dp_random *rnd, bool create)
{
    struct cfg *c = &m->cfg[port];
    struct dp_switch_port_options o = {0};
    bool down = c->down;
    memset(c, 0, sizeof *c);
    c->down = down;
    c->trunk = pick(rnd, 3) == 0;
    c->vlan = c->trunk && pick(rnd, 2) ? 0 : pick_vid(rnd);
    c->own_tag = pick(rnd, 2);
    c->pcp = pick(rnd, 8);
    c->force = pick(rnd, 4) == 0;
    c->isolated = pick(rnd, 4) == 0;
    c->uplink = !c->isolated && pick(rnd, 3) == 0;
    c->only_mac = pick(rnd, 10) ? -1 : (int)pick(rnd, MACS);
    c->room = ~0u;
    for (unsigned i = 0; c->trunk && i < DP_ARRAY_LEN(vids); i++)
        if (pick(rnd, 2)) {
            c->member[vids[i]] = true;
            dp_switch_allow(&o, vids[i]);
        }
    o.mode = c->trunk ? DP_SWITCH_TRUNK : DP_SWITCH_ACCESS;
    o.vlan = (uint16_t)c->vlan;
    o.own_tag = c->own_tag;
    o.pcp = (uint8_t)c->pcp;
    o.force_pcp = c->force;
    o.isolated = c->isolated;
    o.uplink = c->uplink;
    if (c->only_mac >= 0) {
        o.macs = 1;
        mac_of((unsigned)c->only_mac, o.mac[0]);
    }
    if (create)
        rig_add(r, port, o);
    else
        assert_int_equal(dp_switch_port_set(r->st[port].port, &o, NULL), 0);
    forget(m, port);
}

static void watch(struct rig *r, struct model *m, unsigned port, struct dp_random *rnd)
{
    struct cfg *c = &m->cfg[port];
    c->watch_in = pick(rnd, 4) == 0;
    c->watch_out = pick(rnd, 4) == 0;
    assert_int_equal(dp_switch_mirror(r->st[port].port, r->st[MIRROR].port, c->watch_in, c->watch_out, NULL), 0);
}

static int64_t random_tag(struct dp_random *rnd)
{
    unsigned how = pick(rnd, 16), tci = pick(rnd, 16) << 12;
    tci |= how < 10 ? pick_vid(rnd) : how < 12 ? 0 : how < 13 ? 0xfff : how < 14 ? 77 : pick_vid(rnd);
    return how < 14 ? tci : (int64_t)(how == 14 ? 0x88a8 : 0x9100) << 16 | tci;
}

static void check(struct rig *r, struct model *m, unsigned port)
{
    struct station *st = &r->st[port];
    struct list *l = &m->to[port];
    unsigned n = DP_MIN(l->count, port < PORTS ? m->cfg[port].room : ~0u);
    assert_int_equal(st->count - st->first, n);
    for (unsigned i = 0; i < n; i++) {
        struct kept *k = &st->got[(st->first + i) % STATION_FRAMES];
        assert_int_equal(k->size, l->f[i].size);
        assert_memory_equal(k->bytes, l->f[i].bytes, k->size);
        if (port < PORTS) { /* whatever the model's tables say: the port is in that VLAN, and these two may talk */
            const struct cfg *c = &m->cfg[port];
            assert_true(c->vlan == l->f[i].vlan || (c->trunk && c->member[l->f[i].vlan]));
            assert_false(c->isolated && !m->cfg[l->f[i].from].uplink);
        }
    }
    station_forget(st);
    l->count = 0;
}

static void million(void **state)
{
    static struct rig r;
    struct model *m = calloc(1, sizeof *m);
    struct dp_random rnd;
    uint8_t bytes[BATCH][ROOM];
    assert_non_null(m);
    dp_random_seed(&rnd, 20261128);
    rig_init(&r, (struct dp_switch_options){.no_loop_guard = true});
    memset(m->where, 0xff, sizeof m->where);
    for (unsigned i = 0; i < PORTS; i++)
        configure(&r, m, i, &rnd, true);
    rig_add(&r, MIRROR, (struct dp_switch_port_options){.mode = DP_SWITCH_MIRROR});
    for (unsigned sent = 0; sent < FRAMES;) {
        unsigned from = pick(&rnd, PORTS), n = pick(&rnd, 4) ? 1 + pick(&rnd, 8) : 1 + pick(&rnd, BATCH), port = pick(&rnd, PORTS);
        switch (pick(&rnd, 60)) {
        case 0:
            configure(&r, m, port, &rnd, false);
            watch(&r, m, port, &rnd);
            break;
        case 1:
            m->now += 1 + pick(&rnd, 200);
            dp_clock_advance(r.clock, m->now * SECOND - dp_clock_now(r.clock));
            break;
        case 2:
            m->cfg[port].down = !m->cfg[port].down;
            dp_net_set_link(&r.st[port].net, !m->cfg[port].down);
            if (m->cfg[port].down)
                forget(m, port);
            break;
        case 3:
            m->cfg[port].room = r.st[port].room = pick(&rnd, 3);
            break;
        }
        if (m->cfg[from].down)
            continue;
        struct iovec part[BATCH][2];
        struct dp_net_frame f[BATCH];
        for (unsigned i = 0; i < n; i++) {
            unsigned target = pick(&rnd, 5) ? pick(&rnd, MACS) : 0xff;
            int64_t tag = pick(&rnd, 4) < (m->cfg[from].trunk ? 3 : 1) ? random_tag(&rnd) : NO_TAG;
            int64_t inner = pick(&rnd, 8) ? NO_TAG : random_tag(&rnd);
            unsigned size = make_frame(bytes[i], target, pick(&rnd, MACS), tag, inner, 0x88b5, 4 + pick(&rnd, 80));
            put32(bytes[i] + size - 4, sent + i);
            unsigned cut = pick(&rnd, 4) ? size : pick(&rnd, size);
            part[i][0] = (struct iovec){bytes[i], cut};
            part[i][1] = (struct iovec){bytes[i] + cut, size - cut};
            f[i] = (struct dp_net_frame){.part = part[i], .parts = 2, .size = size};
        }
        /* A batch of the switch's is 64 frames: mirrors see it in two. */
        for (unsigned done = 0; done < n; done += DP_NET_BATCH) {
            unsigned now = DP_MIN(n - done, (unsigned)DP_NET_BATCH), first[PORTS];
            for (unsigned i = 0; i < PORTS; i++)
                first[i] = m->to[i].count;
            m->seen_in.count = 0;
            for (unsigned i = 0; i < now; i++)
                model_frame(m, from, bytes[done + i], f[done + i].size);
            for (unsigned i = 0; i < m->seen_in.count; i++)
                expect(&m->to[MIRROR], m->seen_in.f[i].bytes, m->seen_in.f[i].size, 0, 0);
            for (unsigned i = 0; i < PORTS; i++)
                for (unsigned k = first[i]; m->cfg[i].watch_out && k < m->to[i].count; k++)
                    expect(&m->to[MIRROR], m->to[i].f[k].bytes, m->to[i].f[k].size, 0, 0);
        }
        assert_int_equal(dp_net_send(&r.st[from].net, f, n), n);
        sent += n;
        for (unsigned i = 0; i <= PORTS; i++)
            check(&r, m, i);
        for (unsigned i = 0; i < PORTS; i++)
            m->cfg[i].room = r.st[i].room = ~0u;
    }
    printf("%u frames: %llu dropped on their way in, %llu to one port, %llu to many\n", FRAMES, (unsigned long long)m->dropped,
           (unsigned long long)m->unicast, (unsigned long long)m->flooded);
    assert_true(m->unicast > FRAMES / 10 && m->flooded > FRAMES / 20); /* the test tests something */
    uint64_t in = 0;
    for (unsigned i = 0; i < PORTS; i++) {
        struct dp_switch_stats stats;
        dp_switch_port_stats(r.st[i].port, &stats);
        in += stats.in_frames;
        assert_int_equal(stats.out_frames, r.st[i].total);
    }
    assert_true(in >= FRAMES);
    rig_fini(&r);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(million)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
