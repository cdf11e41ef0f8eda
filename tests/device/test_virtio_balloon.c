/* test_virtio_balloon.c - inflating, reports of free pages, poison, statistics, targets, and drivers that name what is not theirs. */
#include "devices/virtio/virtio_balloon.h"
#include "tests/device/virtio_driver.h"

#include <sys/stat.h>

enum { INFLATE, DEFLATE, STATS, OLD_REPORTING, REPORTING };
enum { NUM_PAGES = 0, ACTUAL = 4, POISON = 12 };
#define F_STATS (1ull << 1)
#define F_POISON (1ull << 4)
#define F_REPORTING (1ull << 5)
#define F_EVENT_IDX (1ull << DP_VIRTIO_F_RING_EVENT_IDX)

struct rig { struct bus bus; struct dp_device *adapter, *balloon; struct driver d; };

static void rig_init(struct rig *r, uint64_t features)
{
    bus_init(&r->bus);
    r->balloon = dp_device_alloc(&dp_virtio_balloon_class, "balloon", &r->bus.w.env);
    r->adapter = bus_plug(&r->bus, r->balloon, 1);
    driver_probe(&r->d, &r->bus, 1, 5);
    driver_start(&r->d, features, 16, true);
}

static void rig_fini(struct rig *r)
{
    dp_device_free(r->adapter);
    bus_fini(&r->bus);
}

static uint32_t config(struct rig *r, unsigned at) { return dp_space_load(r->bus.w.env.memory, r->d.config + at, 4); }
static void set_config(struct rig *r, unsigned at, uint32_t v) { dp_space_store(r->bus.w.env.memory, r->d.config + at, v, 4); }

static struct dp_balloon_status status(struct rig *r)
{
    struct dp_balloon_status s;
    dp_virtio_balloon_status(r->balloon, &s);
    return s;
}

/* Bytes of the host's memory that the guest's takes. */
static uint64_t resident(struct rig *r)
{
    struct stat st;
    assert_int_equal(fstat(r->bus.w.ram->fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void kick_and_reap(struct rig *r, unsigned queue, unsigned want)
{
    ring_kick(&r->d, queue);
    for (unsigned i = 0; i < 8; i++)
        dp_clock_advance(r->bus.w.env.clock, 1000); /* further batches */
    for (unsigned i = 0; i < want; i++)
        assert_true(ring_used(&r->d, queue, NULL) >= 0);
    assert_int_equal(ring_used(&r->d, queue, NULL), -1);
}

/* Sends an array of page numbers in pieces of odd sizes. */
static void send_pages(struct rig *r, unsigned queue, const uint32_t *pfn, unsigned n)
{
    uint64_t at = guest_alloc(&r->bus, n * 4 + 4096);
    for (unsigned i = 0; i < n; i++)
        dp_st32(guest(&r->bus, at + i * 4), pfn[i]);
    unsigned first = n * 4 > 6 ? 6 : n * 4 - 1;
    struct buffer v[] = {{at, first, false}, {at + first, n * 4 - first, false}};
    ring_add(&r->d, queue, v, 2, false);
    kick_and_reap(r, queue, 1);
}

static void inflate(void **state)
{
    struct rig r;
    rig_init(&r, 0);
    struct dp_space *m = r.bus.w.env.memory;
    struct dp_error e = {0};
    uint8_t *p = guest(&r.bus, 8 << 20);
    memset(p, 0x55, 4 << 20);
    uint64_t before = resident(&r), bitmap[64];
    uint32_t g = dp_ram_code_mark(r.bus.w.ram, 2050);
    assert_ok(dp_space_dirty_start(m, 2, &e), e);
    dp_space_dirty_harvest(m, 2, r.bus.w.ram, bitmap);
    uint32_t pfn[300];
    for (unsigned i = 0; i < 300; i++)
        pfn[i] = 2048 + (i < 200 ? 199 - i : i + 100); /* downwards, then upwards beyond a gap */
    send_pages(&r, INFLATE, pfn, 300);
    assert_true(resident(&r) <= before - (300 << 12) + (16 << 12));
    assert_int_equal(status(&r).inflated, 300 << 12);
    assert_int_equal(status(&r).refused, 0);
    assert_int_equal(p[0] | p[(200 << 12) - 1] | p[300 << 12] | p[(400 << 12) - 1], 0);
    assert_int_equal(p[200 << 12], 0x55);
    assert_int_equal(p[(300 << 12) - 1], 0x55);
    assert_int_equal(p[400 << 12], 0x55);
    /* To those who look for writes it was one: code is decoded again, snapshots have the zeros. */
    assert_int_equal(atomic_load(&r.bus.w.ram->code_generation[2050]), g + 1);
    dp_space_dirty_harvest(m, 2, r.bus.w.ram, bitmap);
    assert_int_equal(bitmap[2048 / 64], ~0ull);
    assert_int_equal(bitmap[(2048 + 200) / 64], 0xff);
    assert_int_equal(bitmap[(2048 + 300) / 64], ~0ull << 44);
    set_config(&r, ACTUAL, 300);
    assert_int_equal(status(&r).actual, 300 << 12);
    send_pages(&r, DEFLATE, pfn, 300); /* nothing is to be done: they are used as they are */
    p[0] = 1;
    assert_int_equal(dp_space_load(m, 8 << 20, 4), 1);
    rig_fini(&r);
}

static void refused(void **state)
{
    struct rig r;
    rig_init(&r, F_REPORTING);
    uint32_t rom = ROM_BASE >> 12, pfn[] = {2048, 2049, 2048, RAM_SIZE >> 12, NO_DEVICE_HERE >> 12, rom, r.d.bar[0] >> 12, 0xffffffff, 2049};
    memset(r.bus.rom->host, 0x77, 4096);
    send_pages(&r, INFLATE, pfn, DP_ARRAY_LEN(pfn));
    assert_int_equal(status(&r).inflated, 2 << 12);
    assert_int_equal(status(&r).refused, 2 + 5);
    assert_int_equal(r.bus.rom->host[0], 0x77);
    /* Reports: not whole pages, beyond the end, in part outside RAM, wrapping. */
    struct buffer v[] = {{(8 << 20) + 1, 4096, true}, {8 << 20, 4095, true}, {RAM_SIZE - 4096, 8192, true}, {ROM_BASE, 4096, true},
                         {-4096ull, 8192, true}, {0, 0xfffff000, true}, {8 << 20, 0xfffff000, true}};
    memset(guest(&r.bus, 8 << 20), 0x55, 8192);
    guest(&r.bus, RAM_SIZE - 4096)[0] = 0x55;
    for (unsigned i = 0; i < DP_ARRAY_LEN(v); i++)
        ring_add(&r.d, REPORTING, &v[i], 1, false);
    kick_and_reap(&r, REPORTING, DP_ARRAY_LEN(v));
    assert_int_equal(status(&r).reported, 0);
    assert_int_equal(guest(&r.bus, 8 << 20)[0], 0x55);
    assert_int_equal(guest(&r.bus, RAM_SIZE - 4096)[0], 0x55);
    /* More at once than anybody sends: some of it is refused, and it ends. */
    uint64_t before = status(&r).refused;
    struct buffer big = {12 << 20, 0xfffffffc, false}, outside = {RAM_SIZE - 4, 8, false};
    ring_add(&r.d, INFLATE, &big, 1, false);
    kick_and_reap(&r, INFLATE, 1);
    assert_int_equal(status(&r).refused, before + 0x3fffffff - 16); /* one of each batch of zeros is a page */
    ring_add(&r.d, INFLATE, &outside, 1, false);
    ring_kick(&r.d, INFLATE);
    assert_int_equal(driver_status(&r.d) & DP_VIRTIO_NEEDS_RESET, DP_VIRTIO_NEEDS_RESET);
    rig_fini(&r);
}

static void reporting(void **state)
{
    /* Where the queue is: as the specification says; as Linux does without hinting; and without statistics, too. */
    static const struct { unsigned queue; uint64_t features; } where[] = {
        {REPORTING, F_REPORTING | F_STATS}, {OLD_REPORTING, F_REPORTING | F_STATS}, {STATS, F_REPORTING}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(where); i++) {
        struct rig r;
        rig_init(&r, where[i].features);
        memset(guest(&r.bus, 8 << 20), 0x55, 6 << 20);
        uint64_t before = resident(&r);
        struct buffer v[] = {{8 << 20, 2 << 20, true}, {12 << 20, 2 << 20, true}};
        ring_add(&r.d, where[i].queue, v, 2, false);
        kick_and_reap(&r, where[i].queue, 1);
        assert_true(resident(&r) <= before - (4 << 20) + (2 << 12)); /* a ring's page is new */
        assert_int_equal(status(&r).reported, 4 << 20);
        assert_true(status(&r).reporting);
        assert_int_equal(guest(&r.bus, 8 << 20)[0], 0);
        assert_int_equal(guest(&r.bus, 10 << 20)[0], 0x55);
        rig_fini(&r);
    }
    struct rig r;
    rig_init(&r, F_REPORTING | F_POISON);
    struct buffer v = {8 << 20, 2 << 20, true};
    memset(guest(&r.bus, 8 << 20), 0xaa, 2 << 20);
    set_config(&r, POISON, 0xaaaaaaaa);
    ring_add(&r.d, REPORTING, &v, 1, false);
    kick_and_reap(&r, REPORTING, 1);
    assert_int_equal(guest(&r.bus, 8 << 20)[0], 0xaa);
    set_config(&r, POISON, 0); /* free pages are zeros: no harm is done */
    ring_add(&r.d, REPORTING, &v, 1, false);
    kick_and_reap(&r, REPORTING, 1);
    assert_int_equal(guest(&r.bus, 8 << 20)[0], 0);
    rig_fini(&r);
}

static void target(void **state)
{
    struct rig r;
    rig_init(&r, 0);
    assert_int_equal(config(&r, NUM_PAGES), 0);
    unsigned before = r.bus.msi_count[r.d.queues];
    dp_virtio_balloon_set(r.balloon, (8 << 20) + 5);
    assert_int_equal(config(&r, NUM_PAGES), 2048);
    assert_int_equal(r.bus.msi_count[r.d.queues], before + 1); /* the driver is told */
    set_config(&r, NUM_PAGES, 7); /* is not its own */
    set_config(&r, ACTUAL, 2000);
    assert_int_equal(config(&r, NUM_PAGES), 2048);
    assert_int_equal(config(&r, ACTUAL), 2000);
    driver_reset(&r.d);
    assert_false(status(&r).driver);
    assert_int_equal(config(&r, NUM_PAGES), 2048); /* stays, while the balloon is empty */
    assert_int_equal(config(&r, ACTUAL), 0);
    dp_device_reset(r.adapter);
    assert_int_equal(status(&r).target, 8 << 20);
    rig_fini(&r);
}

static void put_stat(uint8_t *p, uint16_t tag, uint64_t value)
{
    dp_st16(p, tag);
    dp_st64(p + 2, value);
}

static void statistics(void **state)
{
    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        struct rig r;
        rig_init(&r, F_STATS | (event_idx ? F_EVENT_IDX : 0));
        uint64_t at = guest_alloc(&r.bus, 4096);
        struct buffer v = {at, 31, false}; /* the last is cut off */
        put_stat(guest(&r.bus, at), DP_BALLOON_FREE, 123456);
        put_stat(guest(&r.bus, at + 10), 0x1234, 1); /* from the future */
        put_stat(guest(&r.bus, at + 20), DP_BALLOON_TOTAL, 1 << 30);
        assert_int_equal(status(&r).stat_known, 0);
        ring_add(&r.d, STATS, &v, 1, false);
        ring_kick(&r.d, STATS);
        assert_int_equal(ring_used(&r.d, STATS, NULL), -1); /* stays until somebody asks */
        dp_clock_advance(r.bus.w.env.clock, 5000000);
        struct dp_balloon_status s = status(&r);
        assert_int_equal(s.stat_known, 1 << DP_BALLOON_FREE | 1 << DP_BALLOON_TOTAL);
        assert_int_equal(s.stat[DP_BALLOON_FREE], 123456);
        assert_int_equal(s.stat[DP_BALLOON_TOTAL], 1 << 30);
        assert_int_equal(s.stat_age_ns, 5000000);
        for (unsigned round = 0; round < 40; round++) {
            assert_true(ring_used(&r.d, STATS, NULL) >= 0); /* that status asked */
            assert_int_equal(ring_used(&r.d, STATS, NULL), -1);
            if (event_idx) /* does the device want to be told of the next one? */
                assert_int_equal(dp_ld16(guest(&r.bus, r.d.ring[STATS].used + 4 + 8 * 16)), r.d.ring[STATS].added);
            status(&r); /* asks once */
            assert_int_equal(ring_used(&r.d, STATS, NULL), -1);
            put_stat(guest(&r.bus, at), DP_BALLOON_FREE, round);
            ring_add(&r.d, STATS, &v, 1, false);
            ring_kick(&r.d, STATS);
            dp_device_pause(r.adapter);
            dp_device_resume(r.adapter);
            s = status(&r);
            assert_int_equal(s.stat[DP_BALLOON_FREE], round);
            assert_int_equal(s.stat_age_ns, 0);
        }
        driver_reset(&r.d);
        assert_int_equal(driver_status(&r.d), 0); /* the buffer holds nothing up */
        rig_fini(&r);
    }
}

static struct dp_device *make_balloon(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_virtio_balloon_class, "balloon", env);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static uint64_t poke(struct dp_device *d, struct dp_random *random)
{
    struct dp_virtio *v = dp_virtio_of(d);
    struct dp_balloon_status s;
    uint64_t pick = dp_random_next(random);
    uint32_t value = pick >> 32;
    dp_virtio_lock(v);
    switch (pick % 6) {
    case 0: dp_virtio_set_status(v, pick >> 8 & 3 ? pick >> 16 & 0xff : 0); break;
    case 1: dp_virtio_notify(v, (pick >> 8) % 6); break;
    case 2: dp_virtio_enable_queue(v, (pick >> 8) % 5); break;
    case 3: v->regs->driver_features = pick >> 8 & 1 ? 1ull << 32 : pick; break;
    case 4: v->vclass->config_write(v, (pick >> 8) % 4 * 4, &value, 4); break;
    default: v->vclass->config_read(v, (pick >> 8) % 4 * 4, &value, 4); break;
    }
    dp_virtio_unlock(v);
    dp_virtio_balloon_status(d, &s);
    return v->regs->status ^ value ^ s.actual ^ s.target;
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make_balloon, .poke = poke};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inflate), cmocka_unit_test(refused), cmocka_unit_test(reporting), cmocka_unit_test(target),
        cmocka_unit_test(statistics), cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("virtio-balloon", tests, NULL, NULL);
}
