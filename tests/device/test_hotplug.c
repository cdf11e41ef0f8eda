/* test_hotplug.c - the registers by which systems learn of cards that come and go, and functions that do so. */
#include "devices/pci/hotplug.h"
#include "tests/device/virtio_driver.h"

#define PORT DP_PCI_HOTPLUG_PORT

struct rig {
    struct conformance_world w;
    struct dp_device *d;
    unsigned events;
    uint32_t ejected;
};

static void event(void *opaque) { ((struct rig *)opaque)->events++; }
static void eject(void *opaque, uint32_t slots) { ((struct rig *)opaque)->ejected |= slots; }

static void setup(struct rig *r)
{
    struct dp_error e = {0};
    memset(r, 0, sizeof *r);
    conformance_world_init(&r->w);
    r->d = dp_device_alloc(&dp_pci_hotplug_class, "hotplug", &r->w.env);
    dp_pci_hotplug_wire(r->d, &(struct dp_pci_hotplug_wires){event, eject, r});
    assert_ok(dp_device_init(r->d, &e), e);
    assert_ok(dp_device_map(r->d, DP_PCI_HOTPLUG_WINDOW, PORT, &e), e);
}

static void teardown(struct rig *r)
{
    dp_device_free(r->d);
    conformance_world_fini(&r->w);
}

static uint32_t in(struct rig *r, unsigned offset) { return (uint32_t)dp_space_load(r->w.env.ports, PORT + offset, 4); }
static void out(struct rig *r, unsigned offset, uint32_t v) { dp_space_store(r->w.env.ports, PORT + offset, v, 4); }

static void registers(void **state)
{
    struct rig r;
    setup(&r);
    dp_pci_hotplug_plugged(r.d, 3, false); /* from the start: nobody need look */
    assert_true(r.events == 0 && in(&r, DP_PCI_HOTPLUG_UP) == 0 && in(&r, DP_PCI_HOTPLUG_REMOVABLE) == 1 << 3);
    dp_pci_hotplug_plugged(r.d, 31, true);
    assert_int_equal(r.events, 1);
    assert_int_equal(dp_space_load(r.w.env.ports, PORT + 3, 1), 0x80); /* a part clears nothing */
    assert_int_equal(in(&r, DP_PCI_HOTPLUG_UP), 1u << 31);
    assert_int_equal(in(&r, DP_PCI_HOTPLUG_UP), 0);
    assert_int_equal(dp_pci_hotplug_removable(r.d), 1u << 31 | 1 << 3);
    out(&r, DP_PCI_HOTPLUG_UP, ~0u); /* read-only */
    out(&r, DP_PCI_HOTPLUG_DOWN, ~0u);
    out(&r, DP_PCI_HOTPLUG_REMOVABLE, 0);
    assert_true(in(&r, DP_PCI_HOTPLUG_UP) == 0 && in(&r, DP_PCI_HOTPLUG_DOWN) == 0 && in(&r, DP_PCI_HOTPLUG_REMOVABLE));

    dp_pci_hotplug_ask(r.d, 3);
    dp_pci_hotplug_ask(r.d, 4); /* nothing there */
    assert_int_equal(r.events, 3);
    assert_true(in(&r, DP_PCI_HOTPLUG_DOWN) == 1 << 3 && in(&r, DP_PCI_HOTPLUG_DOWN) == 1 << 3);
    assert_int_equal(dp_pci_hotplug_asked(r.d), 1 << 3);

    /* No other bus. */
    out(&r, DP_PCI_HOTPLUG_BUS, 1);
    assert_int_equal(in(&r, DP_PCI_HOTPLUG_BUS), 1);
    assert_true(in(&r, DP_PCI_HOTPLUG_DOWN) == 0 && in(&r, DP_PCI_HOTPLUG_REMOVABLE) == 0);
    out(&r, DP_PCI_HOTPLUG_EJECT, 1 << 3);
    assert_int_equal(r.ejected, 0);
    out(&r, DP_PCI_HOTPLUG_BUS, 0);

    out(&r, DP_PCI_HOTPLUG_EJECT, 1 << 5);
    assert_int_equal(r.ejected, 0); /* nothing there */
    out(&r, DP_PCI_HOTPLUG_EJECT, 1 << 3 | 1 << 5);
    assert_int_equal(r.ejected, 1 << 3);
    dp_space_store(r.w.env.ports, PORT + DP_PCI_HOTPLUG_EJECT + 3, 0x80, 1); /* unasked, by a byte */
    assert_int_equal(r.ejected, 1u << 31 | 1 << 3);
    assert_int_equal(in(&r, DP_PCI_HOTPLUG_EJECT), 0); /* no features */
    dp_pci_hotplug_gone(r.d, 3);
    assert_true(in(&r, DP_PCI_HOTPLUG_DOWN) == 0 && in(&r, DP_PCI_HOTPLUG_REMOVABLE) == 1u << 31 && !dp_pci_hotplug_asked(r.d));
    dp_pci_hotplug_plugged(r.d, 3, true);
    dp_pci_hotplug_gone(r.d, 3); /* before anybody looked */
    assert_int_equal(in(&r, DP_PCI_HOTPLUG_UP), 0);

    dp_pci_hotplug_ask(r.d, 31);
    dp_device_reset(r.d); /* what is plugged stays; nothing is pending */
    assert_true(dp_pci_hotplug_asked(r.d) == 0 && in(&r, DP_PCI_HOTPLUG_REMOVABLE) == 1u << 31);
    teardown(&r);
}

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_pci_hotplug_class, "hotplug", env);
    assert_ok(dp_device_init(d, &e), e);
    dp_pci_hotplug_plugged(d, 5, false);
    dp_pci_hotplug_plugged(d, 30, false);
    return d;
}

static void conformance(void **state) { conformance_check(&(const struct conformance){.make = make}); }

/* A function that comes and goes: its registers, its interrupt and its slot with it. */
static uint64_t toy_read(void *opaque, uint64_t offset, unsigned size) { return 0x5a5a5a5a; }
static const struct dp_window_ops toy_ops = {"toy", toy_read, NULL, 4, 4};

static void functions(void **state)
{
    static const struct dp_pci_id id = {0x1234, 0x5678, 0x9abc, 0xdef0, 3, 0x020000, 1};
    struct bus b;
    struct dp_pci_regs regs;
    struct dp_pci_function f;
    struct dp_error e = {0};
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    bus_init(&b);
    struct dp_pci_host *host = dp_pci_host_of(b.host);
    assert_int_equal(dp_pci_slots_taken(host), 1);
    for (unsigned i = 0; i < 3; i++) {
        dp_state_reset(&dp_pci_regs_table, &regs);
        dp_pci_function_init(&f, &regs, &id, &b.w.env, &lock);
        dp_pci_add_bar(&f, 0, 0x1000, false, false, &toy_ops, &f);
        dp_pci_function_reset(&f);
        assert_ok(dp_pci_plug(host, &f, 7 + i, &e), e);
        assert_int_equal(dp_pci_slots_taken(host), 1 | 1 << (7 + i));
        assert_int_equal(config_read(&b, 7 + i, 0, 4), 0x56781234);
        config_write(&b, 7 + i, DP_PCI_BAR0, 0xc0000000, 4);
        config_write(&b, 7 + i, DP_PCI_COMMAND, 2, 2);
        assert_int_equal(dp_space_load(b.w.env.memory, 0xc0000010, 4), 0x5a5a5a5a);
        dp_pci_intx(&f, true);
        assert_true(b.line[dp_pci_gsi(7 + i, 1) - 16]);
        dp_pci_unplug(&f);
        assert_false(b.line[dp_pci_gsi(7 + i, 1) - 16]);
        assert_int_equal(config_read(&b, 7 + i, 0, 4), 0xffffffff);
        assert_int_equal(dp_space_load(b.w.env.memory, 0xc0000010, 4), 0xffffffff);
        assert_int_equal(dp_pci_slots_taken(host), 1);
    }
    bus_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(registers), cmocka_unit_test(conformance), cmocka_unit_test(functions)};
    return cmocka_run_group_tests_name("hotplug", tests, NULL, NULL);
}
