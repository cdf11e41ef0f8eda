/* test_virtio_rng.c - entropy, and the hostile rings that every virtio device must survive. */
#include "tests/device/virtio_driver.h"

struct rig { struct bus bus; struct dp_device *adapter; struct driver d; };

static void rig_init(struct rig *r)
{
    bus_init(&r->bus);
    r->adapter = bus_plug(&r->bus, dp_device_alloc(&dp_virtio_rng_class, "rng", &r->bus.w.env), 1);
    driver_probe(&r->d, &r->bus, 1, 4);
}

static void rig_fini(struct rig *r)
{
    dp_device_free(r->adapter);
    bus_fini(&r->bus);
}

static bool all_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

static void entropy(void **state)
{
    struct rig r;
    rig_init(&r);
    driver_start(&r.d, 1ull << DP_VIRTIO_F_RING_INDIRECT, 0, false);
    uint64_t page = guest_alloc(&r.bus, 3 * 4096);
    struct buffer v[] = { { page, 1, true }, { page + 16, 15, true }, { page + 4096 - 8, 100, true } };
    ring_add(&r.d, 0, v, 3, true);
    ring_add(&r.d, 0, v, 3, false);
    ring_kick(&r.d, 0);
    uint32_t length;
    assert_true(ring_used(&r.d, 0, &length) >= 0);
    assert_int_equal(length, 116);
    assert_true(ring_used(&r.d, 0, &length) >= 0);
    assert_false(all_zero(guest(&r.bus, page + 16), 15));
    assert_false(all_zero(guest(&r.bus, page + 4096), 92));
    assert_true(all_zero(guest(&r.bus, page + 1), 15)); /* between the buffers */
    assert_true(all_zero(guest(&r.bus, page + 4096 + 92), 100));
    struct buffer big = { page, 3 * 4096, true }, readable = { page, 64, false };
    ring_add(&r.d, 0, &big, 1, false);
    ring_add(&r.d, 0, &readable, 1, false); /* nothing to write to: comes back empty */
    ring_kick(&r.d, 0);
    assert_true(ring_used(&r.d, 0, &length) >= 0);
    assert_int_equal(length, 4096);
    assert_true(ring_used(&r.d, 0, &length) >= 0);
    assert_int_equal(length, 0);
    rig_fini(&r);
}

/* The driver's index runs over 65535; more than one batch waits. */
static void long_run(void **state)
{
    struct rig r;
    rig_init(&r);
    driver_start(&r.d, 1ull << DP_VIRTIO_F_RING_EVENT_IDX, 4, true);
    struct buffer v = { guest_alloc(&r.bus, 4096), 4, true };
    for (unsigned i = 0; i < 70000; i++) {
        ring_add(&r.d, 0, &v, 1, false);
        if (i % 4 == 3) {
            ring_kick(&r.d, 0);
            for (unsigned k = 0; k < 4; k++)
                assert_int_equal(ring_used(&r.d, 0, NULL), k);
        }
    }
    assert_int_equal(driver_status(&r.d), 15);
    assert_int_equal(r.bus.msi_count[0], 17500);
    rig_fini(&r);
}

/* ---- hostile rings ---- */

enum { LOOP, SELF_LOOP, NEXT_OUT_OF_RANGE, HEAD_OUT_OF_RANGE, AVAIL_JUMP, READ_AFTER_WRITE, INDIRECT_TWICE, INDIRECT_NEXT, INDIRECT_ODD,
       INDIRECT_EMPTY, INDIRECT_HUGE, INDIRECT_NOWHERE, INDIRECT_LOOP, INDIRECT_NOT_AGREED, BUFFER_NOWHERE, BUFFER_WRAPS, BUFFER_ROM,
       BUFFER_OWN_BAR, BUFFER_ECAM, BUFFER_PAST_RAM,
       DESC_NOWHERE, AVAIL_NOWHERE, USED_NOWHERE, USED_ROM, DESC_IS_BAR, HOSTILE_COUNT };

static void hostile_ring(struct rig *r, unsigned what)
{
    struct driver *d = &r->d;
    struct bus *b = &r->bus;
    bool agreed = what != INDIRECT_NOT_AGREED;
    driver_negotiate(d, agreed ? 1ull << DP_VIRTIO_F_RING_INDIRECT : 0);
    struct ring *q = &d->ring[0];
    driver_queue(d, 0, 16);
    uint64_t page = guest_alloc(b, 4096);
    uint64_t where = what == DESC_IS_BAR ? d->common : what == USED_ROM ? ROM_BASE : NO_DEVICE_HERE;
    if (what >= DESC_NOWHERE) { /* a second queue set-up with one part elsewhere */
        reg_write(d, C_STATUS, 0, 1);
        driver_negotiate(d, 0);
        reg_write(d, C_QUEUE_SELECT, 0, 2);
        reg_write(d, C_QUEUE_SIZE, 16, 2);
        uint64_t desc = guest_alloc(b, 4096), avail = guest_alloc(b, 4096), used = guest_alloc(b, 4096);
        reg_write(d, C_QUEUE_DESC, what == DESC_NOWHERE || what == DESC_IS_BAR ? where : desc, 8);
        reg_write(d, C_QUEUE_AVAIL, what == AVAIL_NOWHERE ? where : avail, 8);
        reg_write(d, C_QUEUE_USED, what == USED_NOWHERE || what == USED_ROM ? where : used, 8);
        reg_write(d, C_QUEUE_ENABLE, 1, 2);
        *q = (struct ring){ .desc = desc, .avail = avail, .used = used, .size = 16, .notify = d->notify };
    }
    reg_write(d, C_STATUS, 15, 1);

    uint64_t address = what == BUFFER_NOWHERE ? NO_DEVICE_HERE : what == BUFFER_WRAPS ? ~0ull - 15 : what == BUFFER_ROM ? ROM_BASE :
                       what == BUFFER_OWN_BAR ? d->common : what == BUFFER_ECAM ? ECAM_BASE :
                       what == BUFFER_PAST_RAM ? RAM_SIZE - 16 : page;
    uint16_t head = what == HEAD_OUT_OF_RANGE ? 16 : 0;
    set_descriptor(b, q->desc, 0, address, 0xffffffff, D_WRITE, 0);
    switch (what) {
    case LOOP:
        for (unsigned i = 0; i < 16; i++)
            set_descriptor(b, q->desc, i, page, 0xffffffff, D_WRITE | D_NEXT, (i + 1) % 16);
        break;
    case SELF_LOOP: set_descriptor(b, q->desc, 0, page, 16, D_WRITE | D_NEXT, 0); break;
    case NEXT_OUT_OF_RANGE: set_descriptor(b, q->desc, 0, page, 16, D_WRITE | D_NEXT, 16); break;
    case AVAIL_JUMP: q->added = 100; break;
    case READ_AFTER_WRITE:
        set_descriptor(b, q->desc, 0, page, 16, D_WRITE | D_NEXT, 1);
        set_descriptor(b, q->desc, 1, page, 16, 0, 0);
        break;
    case INDIRECT_TWICE:
        set_descriptor(b, q->desc, 0, page, 16, D_INDIRECT, 0);
        set_descriptor(b, page, 0, page, 16, D_INDIRECT, 0);
        break;
    case INDIRECT_NEXT: set_descriptor(b, q->desc, 0, page, 16, D_INDIRECT | D_NEXT, 1); break;
    case INDIRECT_ODD: set_descriptor(b, q->desc, 0, page, 24, D_INDIRECT, 0); break;
    case INDIRECT_EMPTY: set_descriptor(b, q->desc, 0, page, 0, D_INDIRECT, 0); break;
    case INDIRECT_HUGE: set_descriptor(b, q->desc, 0, page, 0xfffffff0, D_INDIRECT, 0); break;
    case INDIRECT_NOWHERE: set_descriptor(b, q->desc, 0, NO_DEVICE_HERE, 16, D_INDIRECT, 0); break;
    case INDIRECT_LOOP:
        set_descriptor(b, q->desc, 0, page, 32, D_INDIRECT, 0);
        set_descriptor(b, page, 0, page, 16, D_WRITE | D_NEXT, 1);
        set_descriptor(b, page, 1, page, 16, D_WRITE | D_NEXT, 0);
        break;
    case INDIRECT_NOT_AGREED:
        set_descriptor(b, q->desc, 0, page, 16, D_INDIRECT, 0);
        set_descriptor(b, page, 0, page + 64, 16, D_WRITE, 0);
        break;
    }
    ring_offer(d, 0, head);
    ring_kick(d, 0);
    if (driver_status(d) != (15 | DP_VIRTIO_NEEDS_RESET))
        fail_msg("hostile ring %u: status is 0x%x", what, driver_status(d));
    uint16_t used = dp_ld16(guest(b, q->used + 2));
    ring_offer(d, 0, 0);
    ring_kick(d, 0); /* it stays away from the rings */
    assert_int_equal(dp_ld16(guest(b, q->used + 2)), used);
    driver_reset(d);
    assert_int_equal(driver_status(d), 0);
}

static void hostile(void **state)
{
    for (unsigned what = 0; what < HOSTILE_COUNT; what++) {
        struct rig r;
        rig_init(&r);
        hostile_ring(&r, what);
        driver_start(&r.d, 0, 0, false); /* and works again */
        struct buffer v = { guest_alloc(&r.bus, 4096), 16, true };
        ring_add(&r.d, 0, &v, 1, false);
        ring_kick(&r.d, 0);
        assert_int_equal(ring_used(&r.d, 0, NULL), 0);
        rig_fini(&r);
    }
}

static struct dp_device *make_rng(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = { 0 };
    struct dp_device *d = dp_device_alloc(&dp_virtio_rng_class, "rng", env);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

/* A transport's calls. Random queues lie outside RAM nearly always; entropy never reaches the comparison. */
static uint64_t poke(struct dp_device *d, struct dp_random *random)
{
    struct dp_virtio *v = dp_virtio_of(d);
    uint64_t pick = dp_random_next(random);
    dp_virtio_lock(v);
    switch (pick % 5) {
    case 0: dp_virtio_set_status(v, pick >> 8 & 3 ? pick >> 16 & 0xff : 0); break;
    case 1: dp_virtio_notify(v, pick >> 8); break;
    case 2: dp_virtio_enable_queue(v, 0); break;
    case 3: v->regs->driver_features = pick >> 8 & 1 ? 1ull << 32 : pick; break;
    default: dp_virtio_config_changed(v); break;
    }
    dp_virtio_unlock(v);
    return v->regs->status;
}

static void conformance(void **state)
{
    const struct conformance c = { .make = make_rng, .poke = poke };
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entropy), cmocka_unit_test(long_run), cmocka_unit_test(hostile), cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("virtio-rng", tests, NULL, NULL);
}
