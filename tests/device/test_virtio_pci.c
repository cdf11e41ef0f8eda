/* test_virtio_pci.c - the transport: capabilities, negotiation, queue set-up, interrupts, configuration access, life cycle. On virtio-rng.
 * */
#include "tests/device/virtio_driver.h"

struct rig { struct bus bus; struct dp_device *adapter; struct driver d; };

static void rig_init(struct rig *r)
{
    bus_init(&r->bus);
    r->adapter = bus_plug(&r->bus, dp_device_alloc(&dp_virtio_rng_class, "rng", &r->bus.w.env), 2);
    driver_probe(&r->d, &r->bus, 2, 4);
}

static void rig_fini(struct rig *r)
{
    dp_device_free(r->adapter);
    bus_fini(&r->bus);
}

static void ask(struct rig *r, uint64_t at, uint32_t length)
{
    struct buffer v = { at, length, true };
    ring_add(&r->d, 0, &v, 1, false);
    ring_kick(&r->d, 0);
}

static void negotiation(void **state)
{
    struct rig r;
    rig_init(&r);
    struct driver *d = &r.d;
    assert_int_equal(d->multiplier, 4);
    assert_int_equal(driver_status(d), 0);
    assert_int_equal(reg_read(d, C_NUM_QUEUES, 2), 1);
    for (unsigned i = 2; i < 5; i++) { /* there are only two words */
        reg_write(d, C_DEVICE_FEATURE_SELECT, i, 4);
        assert_int_equal(reg_read(d, C_DEVICE_FEATURE, 4), 0);
        reg_write(d, C_DRIVER_FEATURE_SELECT, i, 4);
        reg_write(d, C_DRIVER_FEATURE, ~0u, 4);
        assert_int_equal(reg_read(d, C_DRIVER_FEATURE, 4), 0);
    }
    reg_write(d, C_STATUS, 3, 1); /* without VERSION_1 */
    reg_write(d, C_STATUS, 11, 1);
    assert_int_equal(driver_status(d), 3);
    reg_write(d, C_STATUS, 7, 1); /* no short cut to DRIVER_OK */
    assert_int_equal(driver_status(d), 3);
    reg_write(d, C_DRIVER_FEATURE_SELECT, 1, 4);
    reg_write(d, C_DRIVER_FEATURE, 0x81, 4); /* something that is not offered */
    reg_write(d, C_STATUS, 11, 1);
    assert_int_equal(driver_status(d), 3);
    reg_write(d, C_DRIVER_FEATURE, 1, 4);
    reg_write(d, C_STATUS, 11, 1);
    assert_int_equal(driver_status(d), 11);
    reg_write(d, C_DRIVER_FEATURE, 0, 4); /* too late */
    assert_int_equal(reg_read(d, C_DRIVER_FEATURE, 4), 1);
    reg_write(d, C_STATUS, 1, 1); /* bits do not go away */
    assert_int_equal(driver_status(d), 11);
    reg_write(d, C_STATUS, 0xff, 1); /* FAILED sticks, NEEDS_RESET is not the driver's to set */
    assert_int_equal(driver_status(d), 0x8f);
    reg_write(d, C_STATUS, 0, 1);
    assert_int_equal(driver_status(d), 0);
    assert_int_equal(reg_read(d, C_DRIVER_FEATURE, 4), 0);
    rig_fini(&r);
}

static void queues(void **state)
{
    struct rig r;
    rig_init(&r);
    struct driver *d = &r.d;
    reg_write(d, C_QUEUE_SELECT, 0, 2);
    assert_int_equal(reg_read(d, C_QUEUE_SIZE, 2), 64);
    static const unsigned refused[] = { 0, 3, 65, 128, 0xffff };
    for (unsigned i = 0; i < DP_ARRAY_LEN(refused); i++) {
        reg_write(d, C_QUEUE_SIZE, refused[i], 2);
        assert_int_equal(reg_read(d, C_QUEUE_SIZE, 2), 64);
    }
    reg_write(d, C_QUEUE_SIZE, 16, 2);
    assert_int_equal(reg_read(d, C_QUEUE_SIZE, 2), 16);
    assert_int_equal(reg_read(d, C_QUEUE_VECTOR, 2), 0xffff);
    reg_write(d, C_QUEUE_VECTOR, 2, 2); /* there are two: 0 and 1 */
    assert_int_equal(reg_read(d, C_QUEUE_VECTOR, 2), 0xffff);
    reg_write(d, C_QUEUE_ENABLE, 1, 2); /* before FEATURES_OK */
    assert_int_equal(reg_read(d, C_QUEUE_ENABLE, 2), 0);
    reg_write(d, C_QUEUE_DESC, 0x123456789abcdef0, 8);
    assert_true(reg_read(d, C_QUEUE_DESC, 8) == 0x123456789abcdef0);
    assert_int_equal(reg_read(d, C_QUEUE_DESC + 4, 4), 0x12345678);
    assert_int_equal(reg_read(d, C_QUEUE_SELECT + 1, 1), 0); /* reads of any width are fine */
    reg_write(d, C_QUEUE_DESC, 1, 1);                         /* writes are not */
    reg_write(d, C_QUEUE_DESC + 2, 1, 2);
    assert_true(reg_read(d, C_QUEUE_DESC, 8) == 0x123456789abcdef0);
    reg_write(d, C_QUEUE_SELECT, 1, 2); /* no such queue */
    assert_int_equal(reg_read(d, C_QUEUE_SIZE, 2), 0);
    reg_write(d, C_QUEUE_ENABLE, 1, 2);
    assert_int_equal(reg_read(d, C_QUEUE_ENABLE, 2), 0);
    reg_write(d, C_QUEUE_SELECT, 0xffff, 2);
    assert_int_equal(reg_read(d, C_QUEUE_SIZE, 2), 0);

    driver_negotiate(d, 0);
    driver_queue(d, 0, 8);
    reg_write(d, C_QUEUE_SIZE, 4, 2); /* enabled: fixed */
    assert_int_equal(reg_read(d, C_QUEUE_SIZE, 2), 8);
    reg_write(d, C_QUEUE_ENABLE, 0, 2);
    assert_int_equal(reg_read(d, C_QUEUE_ENABLE, 2), 1);

    driver_negotiate(d, 0); /* misaligned */
    reg_write(d, C_QUEUE_DESC, 0x100008, 4);
    reg_write(d, C_QUEUE_ENABLE, 1, 2);
    assert_int_equal(driver_status(d) & DP_VIRTIO_NEEDS_RESET, DP_VIRTIO_NEEDS_RESET);
    rig_fini(&r);
}

static void line_interrupt(void **state)
{
    struct rig r;
    rig_init(&r);
    struct driver *d = &r.d;
    unsigned n = dp_pci_gsi(2, 1) - 16;
    driver_start(d, 0, 0, false);
    uint64_t page = guest_alloc(&r.bus, 4096);
    ask(&r, page, 32);
    assert_true(r.bus.line[n]);
    assert_int_equal(driver_isr(d), 1);
    assert_false(r.bus.line[n]);
    assert_int_equal(driver_isr(d), 0);
    uint32_t length;
    assert_int_equal(ring_used(d, 0, &length), 0);
    assert_int_equal(length, 32);
    dp_st16(guest(&r.bus, d->ring[0].avail), 1); /* NO_INTERRUPT */
    ask(&r, page, 32);
    assert_int_equal(ring_used(d, 0, &length), 1);
    assert_false(r.bus.line[n]);
    dp_st16(guest(&r.bus, d->ring[0].avail), 0);
    ask(&r, page, 32);
    assert_true(r.bus.line[n]);
    driver_reset(d); /* lowers the line */
    assert_false(r.bus.line[n]);
    rig_fini(&r);
}

static void message_interrupt(void **state)
{
    struct rig r;
    rig_init(&r);
    struct driver *d = &r.d;
    driver_start(d, 1ull << DP_VIRTIO_F_RING_EVENT_IDX, 0, true);
    uint64_t page = guest_alloc(&r.bus, 4096);
    ask(&r, page, 32);
    assert_int_equal(r.bus.msi_count[0], 1);
    assert_true(r.bus.msi_address == MSI_BASE);
    ask(&r, page, 32); /* used_event is still 0: not asked for */
    ask(&r, page, 32);
    assert_int_equal(r.bus.msi_count[0], 1);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(ring_used(d, 0, NULL), i);
    ask(&r, page, 32);
    assert_int_equal(r.bus.msi_count[0], 2);
    assert_int_equal(dp_ld16(guest(&r.bus, d->ring[0].used + 4 + 8 * d->ring[0].size)), 4); /* avail_event: kick me at the next */
    dp_st32(guest(&r.bus, d->ring[0].desc + 4 * 16 + 8), 0);
    ring_offer(d, 0, 999); /* breaks the rules: the configuration vector tells */
    ring_kick(d, 0);
    assert_int_equal(r.bus.msi_count[1], 1);
    assert_int_equal(driver_status(d), 15 | DP_VIRTIO_NEEDS_RESET);
    assert_int_equal(r.bus.line_changes, 0);
    rig_fini(&r);
}

static uint32_t window_access(struct rig *r, uint32_t bar, uint32_t offset, uint32_t length, bool write, uint32_t value)
{
    unsigned cap = r->d.access_cap;
    config_write(&r->bus, 2, cap + 4, bar, 1);
    config_write(&r->bus, 2, cap + 8, offset, 4);
    config_write(&r->bus, 2, cap + 12, length, 4);
    if (write)
        config_write(&r->bus, 2, cap + 16, value, length == 3 ? 4 : DP_MIN(length, 4));
    return write ? 0 : config_read(&r->bus, 2, cap + 16, length == 3 ? 4 : DP_MIN(length, 4));
}

static void configuration_access(void **state)
{
    struct rig r;
    rig_init(&r);
    struct driver *d = &r.d;
    unsigned common = d->common - d->bar[0];
    window_access(&r, 0, common + C_STATUS, 1, true, 3);
    assert_int_equal(driver_status(d), 3);
    assert_int_equal(window_access(&r, 0, common + C_STATUS, 1, false, 0), 3);
    assert_int_equal(window_access(&r, 0, common + C_NUM_QUEUES, 2, false, 0), 1);
    window_access(&r, 0, common + C_DEVICE_FEATURE_SELECT, 4, true, 1);
    assert_int_equal(window_access(&r, 0, common + C_DEVICE_FEATURE, 4, false, 0), 1);
    assert_int_equal(window_access(&r, 2, 12, 4, false, 0), 1); /* the MSI-X table has a vector masked */
    static const struct { uint32_t bar, offset, length; } bad[] = {
        { 0, 0x4000, 4 }, { 0, 0x3ffe, 4 }, { 0, 0xffffffff, 1 }, { 0, 0xfffffffc, 4 }, { 0, 0, 3 }, { 0, 0, 0x80000004 },
        { 1, 0, 4 }, { 3, 0, 4 }, { 6, 0, 4 }, { 255, 0, 4 }, { 2, 0, 1 }, { 2, 0x1000, 4 }, { 0, 2, 4 },
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++) {
        window_access(&r, bad[i].bar, bad[i].offset, bad[i].length, true, 0);
        assert_int_equal(window_access(&r, bad[i].bar, bad[i].offset, bad[i].length, false, 0), 0);
    }
    assert_int_equal(driver_status(d), 3);
    rig_fini(&r);
}

/* What is in the rings waits while the VM is paused or the function may not master the bus, and is done afterwards. */
static void holding(void **state)
{
    struct rig r;
    rig_init(&r);
    struct driver *d = &r.d;
    driver_start(d, 0, 0, true);
    uint64_t page = guest_alloc(&r.bus, 4096);
    dp_device_pause(r.adapter);
    ask(&r, page, 16);
    assert_int_equal(ring_used(d, 0, NULL), -1);
    dp_device_resume(r.adapter);
    assert_int_equal(ring_used(d, 0, NULL), 0);
    config_write(&r.bus, 2, 4, 2, 2);
    ask(&r, page, 16);
    assert_int_equal(ring_used(d, 0, NULL), -1);
    config_write(&r.bus, 2, 4, 6, 2);
    assert_int_equal(ring_used(d, 0, NULL), 1);

    /* Added before DRIVER_OK: found when it comes. */
    driver_negotiate(d, 0);
    driver_queue(d, 0, 0);
    ask(&r, page, 16);
    assert_int_equal(ring_used(d, 0, NULL), -1);
    reg_write(d, C_STATUS, 15, 1);
    assert_int_equal(ring_used(d, 0, NULL), 0);
    rig_fini(&r);
}

/* A machine's reset: as fresh, BARs gone. Save and load: goes on where it was, in another instance. */
static void life(void **state)
{
    struct rig r;
    rig_init(&r);
    struct driver *d = &r.d;
    struct dp_error e = { 0 };
    driver_start(d, 0, 16, true);
    uint64_t page = guest_alloc(&r.bus, 4096);
    ask(&r, page, 16);
    assert_int_equal(ring_used(d, 0, NULL), 0);

    dp_device_pause(r.adapter);
    ask(&r, page, 16);
    struct dp_buffer image = { 0 };
    size_t used, at;
    dp_device_save(r.adapter, &image);
    dp_device_save(dp_virtio_pci_child(r.adapter), &image);
    dp_device_free(r.adapter);
    assert_int_equal(dp_space_load(r.bus.w.env.memory, d->common + C_NUM_QUEUES, 2), 0xffff);
    r.adapter = bus_plug(&r.bus, dp_device_alloc(&dp_virtio_rng_class, "rng", &r.bus.w.env), 2);
    dp_device_pause(r.adapter);
    assert_ok(dp_device_load(r.adapter, image.data, image.size, &used, &e), e);
    assert_ok(dp_device_load(dp_virtio_pci_child(r.adapter), image.data + used, image.size - used, &at, &e), e);
    assert_int_equal(used + at, image.size);
    dp_buffer_fini(&image);
    assert_int_equal(driver_status(d), 15);
    assert_int_equal(ring_used(d, 0, NULL), -1);
    unsigned before = r.bus.msi_count[0];
    dp_device_resume(r.adapter);
    assert_int_equal(ring_used(d, 0, NULL), 1);
    assert_int_equal(r.bus.msi_count[0], before + 1);

    dp_device_reset(r.adapter);
    assert_int_equal(dp_space_load(r.bus.w.env.memory, d->common + C_NUM_QUEUES, 2), 0xffff);
    driver_probe(d, &r.bus, 2, 4);
    assert_int_equal(driver_status(d), 0);
    driver_start(d, 0, 0, false);
    ask(&r, page, 16);
    assert_int_equal(ring_used(d, 0, NULL), 0);
    rig_fini(&r);
}

static struct dp_device *make_adapter(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = { 0 };
    struct dp_device *child = dp_device_alloc(&dp_virtio_rng_class, "rng", env);
    assert_ok(dp_device_init(child, &e), e);
    struct dp_device *a = dp_virtio_pci_create("virtio", env, child, dp_virtio_of(child), &e);
    assert_non_null(a);
    return a;
}

/* Anything but DRIVER_OK: two devices in one memory would see each other's work. */
static uint64_t poke_adapter(struct dp_device *d, struct dp_random *random)
{
    struct dp_pci_function *f = dp_virtio_pci_function(d);
    uint64_t pick = dp_random_next(random), value = dp_random_next(random);
    unsigned size = 1u << pick % 3;
    bool write = pick >> 8 & 1, first = pick >> 9 & 1;
    unsigned offset = (pick >> 16) % (pick >> 10 & 1 ? 4096 : 192) & ~(size - 1);
    const struct dp_pci_bar *bar = &f->bar[first ? DP_VIRTIO_PCI_BAR : DP_VIRTIO_PCI_MSIX_BAR];
    switch (pick >> 11 & 3) {
    case 0:
        if (write)
            dp_pci_config_write(f, offset, value & 0xfbfbfbfb, size); /* not by the access capability either */
        return write ? 0 : dp_pci_config_read(f, offset, size);
    case 1:
        dp_pci_msix_send(f, value % 4);
        return 0;
    default:
        size = first ? size : 4;
        offset = (pick >> 16) % (first ? 64 : 4096) & ~(size - 1);
        if (!write)
            return bar->ops->read(bar->opaque, offset, size);
        if (first && offset <= C_STATUS && offset + size > C_STATUS)
            value &= ~0xffull << (C_STATUS - offset) * 8 | 0x0b;
        bar->ops->write(bar->opaque, offset, value & dp_mask_bytes(size), size);
        return 0;
    }
}

static void conformance(void **state)
{
    const struct conformance c = { .make = make_adapter, .poke = poke_adapter };
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(negotiation), cmocka_unit_test(queues), cmocka_unit_test(line_interrupt), cmocka_unit_test(message_interrupt),
        cmocka_unit_test(configuration_access), cmocka_unit_test(holding), cmocka_unit_test(life), cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("virtio-pci", tests, NULL, NULL);
}
