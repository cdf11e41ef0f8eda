/* test_pci.c - configuration mechanisms, BARs, MSI-X, INTx and the reset register, with a toy function. */
#include "tests/device/virtio_driver.h"

struct toy {
    struct dp_pci_regs regs;
    struct dp_pci_function f;
    pthread_mutex_t lock;
    uint32_t reg;
    unsigned changes;
};

static uint64_t toy_read(void *opaque, uint64_t offset, unsigned size) { return ((struct toy *)opaque)->reg; }
static void toy_write(void *opaque, uint64_t offset, uint64_t value, unsigned size) { ((struct toy *)opaque)->reg = value; }
static const struct dp_window_ops toy_ops = { "toy", toy_read, toy_write, 4, 4 };
static void toy_changed(struct dp_pci_function *f) { DP_CONTAINER_OF(f, struct toy, f)->changes++; }

static void toy_plug(struct toy *t, struct bus *b, unsigned slot)
{
    struct dp_error e = { 0 };
    static const struct dp_pci_id id = { 0x1234, 0x5678, 0x9abc, 0xdef0, 3, 0x020000, 1 };
    memset(t, 0, sizeof(*t));
    pthread_mutex_init(&t->lock, NULL);
    dp_state_reset(&dp_pci_regs_table, &t->regs);
    dp_pci_function_init(&t->f, &t->regs, &id, &b->w.env, &t->lock);
    dp_pci_add_bar(&t->f, 0, 0x1000, false, false, &toy_ops, t);
    dp_pci_add_bar(&t->f, 1, 0x20, true, false, &toy_ops, t);
    dp_pci_add_bar(&t->f, 2, 0x4000, false, true, &toy_ops, t);
    dp_pci_add_msix(&t->f, 4, 3);
    t->f.config_changed = toy_changed;
    dp_pci_function_reset(&t->f);
    assert_ok(dp_pci_plug(dp_pci_host_of(b->host), &t->f, slot, &e), e);
}

static void configuration(void **state)
{
    struct bus b;
    struct toy t;
    bus_init(&b);
    toy_plug(&t, &b, 5);
    struct dp_space *ports = b.w.env.ports;
    assert_int_equal(config_read(&b, 0, 8, 4) >> 16, 0x0600); /* the bridge: Linux looks for one */
    assert_int_equal(config_read(&b, 5, 0, 4), 0x56781234);
    assert_int_equal(config_read(&b, 5, 8, 4), 0x02000003);
    assert_int_equal(config_read(&b, 5, 0x2c, 4), 0xdef09abc);
    assert_int_equal(config_read(&b, 5, 2, 2), 0x5678);
    assert_int_equal(config_read(&b, 5, 3, 1), 0x56);
    assert_int_equal(config_read(&b, 5, 0x3d, 1), 1);
    assert_int_equal(config_read(&b, 6, 0, 4), 0xffffffff);
    dp_space_store(ports, PORT_CONFIG, 0x80000000 | 5 << 11 | 1 << 8, 4); /* function 1 */
    assert_int_equal(dp_space_load(ports, PORT_CONFIG + 4, 4), 0xffffffff);
    dp_space_store(ports, PORT_CONFIG, 0x80000000 | 1 << 16 | 5 << 11, 4); /* bus 1 */
    assert_int_equal(dp_space_load(ports, PORT_CONFIG + 4, 2), 0xffff);
    dp_space_store(ports, PORT_CONFIG, 5 << 11, 4); /* not enabled */
    assert_int_equal(dp_space_load(ports, PORT_CONFIG + 4, 1), 0xff);

    dp_space_store(ports, PORT_CONFIG, 0xffffffff, 4); /* reserved bits read 0 */
    assert_int_equal(dp_space_load(ports, PORT_CONFIG, 4), 0x80fffffc);
    dp_space_store(ports, PORT_CONFIG, 0x12, 1); /* narrow accesses go elsewhere */
    dp_space_store(ports, PORT_CONFIG + 2, 0x1234, 2);
    assert_int_equal(dp_space_load(ports, PORT_CONFIG, 4), 0x80fffffc);

    config_write(&b, 5, 0, 0, 4); /* read-only */
    assert_int_equal(config_read(&b, 5, 0, 4), 0x56781234);
    config_write(&b, 5, 0x3c, 0xab, 1);
    assert_int_equal(config_read(&b, 5, 0x3c, 2), 0x01ab);
    config_write(&b, 5, 4, 0xffff, 2);
    assert_int_equal(config_read(&b, 5, 4, 2), 0x0547);

    struct dp_space *m = b.w.env.memory;
    assert_int_equal(dp_space_load(m, ECAM_BASE + (5 << 15), 4), 0x56781234);
    assert_int_equal(dp_space_load(m, ECAM_BASE + (5 << 15) + 3, 1), 0x56);
    assert_int_equal(dp_space_load(m, ECAM_BASE + (5 << 15) + 0x3c, 2), 0x01ab);
    assert_int_equal(dp_space_load(m, ECAM_BASE + (5 << 15) + 0x100, 4), 0); /* no extended capabilities */
    assert_int_equal(dp_space_load(m, ECAM_BASE + (5 << 15) + 0x1000, 4), 0xffffffff);
    dp_space_store(m, ECAM_BASE + (5 << 15) + 0x3c, 0x77, 1);
    assert_int_equal(config_read(&b, 5, 0x3c, 1), 0x77);

    struct dp_error e = { 0 };
    assert_int_equal(dp_pci_plug(dp_pci_host_of(b.host), &t.f, 7, &e), -EBUSY);
    struct toy other = { 0 };
    assert_int_equal(dp_pci_plug(dp_pci_host_of(b.host), &other.f, 5, &e), -EBUSY);
    assert_int_equal(dp_pci_plug(dp_pci_host_of(b.host), &other.f, 32, &e), -EINVAL);
    assert_int_equal(dp_pci_plug(dp_pci_host_of(b.host), &other.f, 0, &e), -EINVAL);
    dp_pci_unplug(&t.f);
    assert_int_equal(config_read(&b, 5, 0, 4), 0xffffffff);
    bus_fini(&b);
}

static void bars(void **state)
{
    struct bus b;
    struct toy t;
    bus_init(&b);
    toy_plug(&t, &b, 3);
    struct dp_space *m = b.w.env.memory;
    t.reg = 0x11223344;
    for (unsigned i = 0; i < 6; i++)
        config_write(&b, 3, 0x10 + i * 4, 0xffffffff, 4);
    static const uint32_t masks[] = { 0xfffff000, 0xffffffe1, 0xffffc004, 0xffffffff, 0xfffff000, 0 };
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(config_read(&b, 3, 0x10 + i * 4, 4), masks[i]);
    config_write(&b, 3, 4, 7, 2); /* decoding all ones is decoding nothing */
    assert_false(t.f.bar[0].mapped || t.f.bar[1].mapped || t.f.bar[2].mapped);

    config_write(&b, 3, 0x10, 0xe0000000, 4);
    assert_int_equal(dp_space_load(m, 0xe0000ffc, 4), 0x11223344);
    assert_int_equal(dp_space_load(m, 0xe0001000, 4), 0xffffffff);
    config_write(&b, 3, 0x13, 0xe1, 1); /* by one byte */
    assert_int_equal(dp_space_load(m, 0xe0000000, 4), 0xffffffff);
    assert_int_equal(dp_space_load(m, 0xe1000000, 4), 0x11223344);
    config_write(&b, 3, 0x14, 0xc000, 4);
    assert_int_equal(dp_space_load(b.w.env.ports, 0xc000, 4), 0x11223344);
    config_write(&b, 3, 0x18, 0, 4);
    config_write(&b, 3, 0x1c, 0x20, 4); /* above 4 GiB */
    assert_int_equal(dp_space_load(m, 0x2000000000, 4), 0x11223344);
    config_write(&b, 3, 0x1c, 0xffffffff, 4); /* beyond the space: nothing, and no harm */
    assert_int_equal(dp_space_load(m, 0x2000000000, 4), 0xffffffff);

    config_write(&b, 3, 0x10, 0x1000, 4); /* over RAM: RAM stays */
    dp_space_store(m, 0x1000, 0x55667788, 4);
    assert_int_equal(dp_space_load(m, 0x1000, 4), 0x55667788);
    assert_int_equal(t.reg, 0x11223344);
    config_write(&b, 3, 0x10, ECAM_BASE, 4);
    assert_int_equal(dp_space_load(m, ECAM_BASE + (3 << 15), 4), 0x56781234);

    config_write(&b, 3, 0x10, 0xe1000000, 4);
    config_write(&b, 3, 4, 5, 2); /* memory off, ports on */
    assert_int_equal(dp_space_load(m, 0xe1000000, 4), 0xffffffff);
    assert_int_equal(dp_space_load(b.w.env.ports, 0xc000, 4), 0x11223344);
    dp_pci_function_reset(&t.f);
    assert_int_equal(dp_space_load(b.w.env.ports, 0xc000, 4), 0xffffffff);
    assert_int_equal(config_read(&b, 3, 0x10, 4), 0);
    dp_pci_unplug(&t.f);
    bus_fini(&b);
}

/* A BAR that is RAM, and the expansion ROM, as firmware sizes, places and copies them. */
static void ram_and_rom(void **state)
{
    struct bus b;
    struct toy t;
    struct dp_ram *ram;
    struct dp_error e = { 0 };
    static const struct dp_pci_id id = { 0x1234, 0x1111, 0, 0, 2, 0x030000, 0 };
    bus_init(&b);
    struct dp_space *m = b.w.env.memory;
    assert_ok(dp_ram_create("frame buffer", 1 << 20, &ram, &e), e);
    memset(&t, 0, sizeof(t));
    t.reg = 0x1234aa55;
    pthread_mutex_init(&t.lock, NULL);
    dp_state_reset(&dp_pci_regs_table, &t.regs);
    dp_pci_function_init(&t.f, &t.regs, &id, &b.w.env, &t.lock);
    dp_pci_add_ram_bar(&t.f, 0, ram, false, true);
    dp_pci_add_rom(&t.f, 0x8000, &toy_ops, &t);
    dp_pci_function_reset(&t.f);
    assert_ok(dp_pci_plug(dp_pci_host_of(b.host), &t.f, 2, &e), e);

    config_write(&b, 2, 0x10, 0xffffffff, 4);
    assert_int_equal(config_read(&b, 2, 0x10, 4), 0xfff00008);
    config_write(&b, 2, 0x30, 0xfffffffe, 4);
    assert_int_equal(config_read(&b, 2, 0x30, 4), 0xffff8000);
    config_write(&b, 2, 0x10, 0xe0000000, 4);
    config_write(&b, 2, 0x30, 0xe1000000, 4);
    config_write(&b, 2, 4, 2, 2);
    struct dp_range r;
    assert_true(dp_space_find(m, 0xe0000000, &r) && r.ram == ram && r.size == 1 << 20 && !r.readonly);
    dp_space_store(m, 0xe0012344, 0xdeadbeef, 4);
    assert_int_equal(dp_ld32(ram->host + 0x12344), 0xdeadbeef);
    assert_int_equal(dp_space_load(m, 0xe1000000, 4), 0xffffffff); /* not enabled by itself */
    config_write(&b, 2, 0x30, 0xe1000001, 4);
    assert_int_equal(dp_space_load(m, 0xe1000000, 4), 0x1234aa55);
    assert_int_equal(dp_space_load(m, 0xe1008000, 4), 0xffffffff);
    config_write(&b, 2, 0x10, 0xe2000000, 4);
    assert_int_equal(dp_space_load(m, 0xe0012344, 4), 0xffffffff);
    assert_int_equal(dp_space_load(m, 0xe2012344, 4), 0xdeadbeef);
    config_write(&b, 2, 0x10, 0, 4); /* address 0 is nowhere: RAM stays what it is */
    dp_space_store(m, 0, 1, 4);
    assert_int_equal(dp_space_load(m, 0xe2012344, 4), 0xffffffff);
    config_write(&b, 2, 0x30, 0xe1000000, 1); /* the enable bit alone, by a byte */
    assert_int_equal(dp_space_load(m, 0xe1000000, 4), 0xffffffff);
    config_write(&b, 2, 0x30, 1, 1);
    assert_int_equal(dp_space_load(m, 0xe1000000, 4), 0x1234aa55);
    config_write(&b, 2, 4, 0, 2);
    assert_int_equal(dp_space_load(m, 0xe1000000, 4), 0xffffffff);
    dp_pci_unplug(&t.f);
    bus_fini(&b);
    dp_ram_destroy(ram);
}

static void msix(void **state)
{
    struct bus b;
    struct toy t;
    bus_init(&b);
    toy_plug(&t, &b, 1);
    struct dp_space *m = b.w.env.memory;
    unsigned cap = config_read(&b, 1, 0x34, 1);
    assert_int_equal(config_read(&b, 1, cap, 1), 0x11);
    assert_int_equal(config_read(&b, 1, cap + 2, 2), 2);
    config_write(&b, 1, 0x20, 0xe0000000, 4);
    config_write(&b, 1, 4, 6, 2);
    uint64_t table = 0xe0000000, pba = table + (config_read(&b, 1, cap + 8, 4) & ~7u);
    dp_pci_msix_send(&t.f, 0); /* not enabled: nothing, not even pending */
    assert_int_equal(dp_space_load(m, pba, 8), 0);
    config_write(&b, 1, cap + 2, 0x8000, 2);
    assert_true(dp_pci_msix_enabled(&t.f));
    assert_int_equal(dp_space_load(m, table + 12, 4), 1); /* masked after reset */
    dp_space_store(m, table + 16, MSI_BASE | 0x100000000ull, 8);
    dp_space_store(m, table + 24, 7, 4);
    dp_pci_msix_send(&t.f, 1);
    dp_pci_msix_send(&t.f, 1);
    assert_int_equal(b.msi_count[7], 0);
    assert_int_equal(dp_space_load(m, pba, 4), 2);
    dp_space_store(m, table + 28, 0, 4); /* unmask: once */
    assert_int_equal(b.msi_count[7], 1);
    assert_true(b.msi_address == (MSI_BASE | 0x100000000ull));
    assert_int_equal(dp_space_load(m, pba, 4), 0);
    config_write(&b, 1, cap + 2, 0xc000, 2); /* function mask */
    dp_pci_msix_send(&t.f, 1);
    assert_int_equal(b.msi_count[7], 1);
    config_write(&b, 1, cap + 2, 0x8000, 2);
    assert_int_equal(b.msi_count[7], 2);
    config_write(&b, 1, 4, 2, 2); /* no bus master, no message */
    dp_pci_msix_send(&t.f, 1);
    assert_int_equal(b.msi_count[7], 2);
    config_write(&b, 1, 4, 6, 2);
    assert_int_equal(b.msi_count[7], 3);
    dp_pci_msix_send(&t.f, 3); /* beyond the table */
    dp_pci_msix_send(&t.f, 1000);
    dp_space_store(m, table + 3 * 16, ~0ull, 8);
    assert_int_equal(dp_space_load(m, table + 3 * 16, 4), 0);
    dp_space_store(m, pba, ~0ull, 8);
    assert_int_equal(dp_space_load(m, pba, 8), 0);
    assert_true(t.changes > 3);
    dp_pci_unplug(&t.f);
    bus_fini(&b);
}

static void intx(void **state)
{
    struct bus b;
    struct toy t, u;
    bus_init(&b);
    toy_plug(&t, &b, 1);
    toy_plug(&u, &b, 9); /* 8 further: the same line */
    unsigned n = dp_pci_gsi(1, 1) - 16;
    assert_int_equal(n, 1);
    assert_int_equal(dp_pci_gsi(9, 1), 17);
    assert_int_equal(dp_pci_gsi(8, 1), 16);
    dp_pci_intx(&t.f, true);
    assert_true(b.line[n]);
    assert_int_equal(config_read(&b, 1, 6, 2) & 8, 8);
    assert_int_equal(config_read(&b, 1, 4, 4) >> 16 & 8, 8);
    dp_pci_intx(&u.f, true);
    dp_pci_intx(&t.f, false);
    assert_true(b.line[n]);
    config_write(&b, 9, 4, 0x400, 2); /* INTx disable */
    assert_false(b.line[n]);
    assert_int_equal(config_read(&b, 9, 6, 2) & 8, 8);
    config_write(&b, 9, 4, 0, 2);
    assert_true(b.line[n]);
    dp_pci_function_reset(&u.f);
    assert_false(b.line[n]);
    dp_pci_intx(&t.f, true);
    dp_pci_unplug(&t.f);
    assert_false(b.line[n]);
    dp_pci_unplug(&u.f);
    bus_fini(&b);
}

static void reset_register(void **state)
{
    struct bus b;
    bus_init(&b);
    struct dp_space *ports = b.w.env.ports;
    dp_space_store(ports, 0xcf9, 2, 1);
    assert_int_equal(b.resets, 0);
    dp_space_store(ports, 0xcf9, 6, 1);
    assert_int_equal(b.resets, 1);
    assert_int_equal(dp_space_load(ports, 0xcf9, 1), 6);
    dp_space_store(ports, 0xcf9, 6, 1); /* only a rising bit resets */
    assert_int_equal(b.resets, 1);
    dp_device_reset(b.host);
    assert_int_equal(dp_space_load(ports, 0xcf9, 1), 0);
    bus_fini(&b);
}

static struct dp_device *make_host(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = { 0 };
    struct dp_device *d = dp_device_alloc(&dp_pci_host_class, "pci", env);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void conformance(void **state)
{
    const struct conformance c = { .make = make_host };
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configuration), cmocka_unit_test(bars), cmocka_unit_test(ram_and_rom), cmocka_unit_test(msix), cmocka_unit_test(intx),
        cmocka_unit_test(reset_register),
        cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("pci", tests, NULL, NULL);
}
