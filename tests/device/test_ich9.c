/* test_ich9.c - the LPC function of the ICH9: PIRQs to ISA interrupts and to the I/O APIC, and what every device must do. Where it places the ACPI and
 * root complex registers is in tests/vm/test_chipset.c.
 */
#include "devices/firmware/pm.h"
#include "devices/pci/ich9.h"
#include "tests/device/conformance.h"

struct lines { bool isa[16], apic[DP_ICH9_PIRQS]; };
static void isa_set(void *opaque, unsigned n, bool level) { ((struct lines *)opaque)->isa[n] = level; }
static void apic_set(void *opaque, unsigned n, bool level) { ((struct lines *)opaque)->apic[n] = level; }

/* The ACPI registers live as long as the program. */
static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_irq irq[16], apic[DP_ICH9_PIRQS];
    struct dp_device **pm = ((struct dp_device **)opaque) + 1, *d = dp_device_alloc(&dp_ich9_lpc_class, "lpc", env);
    struct lines *lines = ((void **)opaque)[0];
    for (unsigned i = 0; i < 16; i++)
        irq[i] = (struct dp_irq){isa_set, lines, i};
    for (unsigned i = 0; i < DP_ICH9_PIRQS; i++)
        apic[i] = (struct dp_irq){apic_set, lines, i};
    dp_ich9_lpc_wire(d, irq, apic, *pm);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static uint64_t poke(struct dp_device *d, struct dp_random *r)
{
    uint64_t pick = dp_random_next(r);
    unsigned offset = (pick >> 8) & 0xfc;
    struct dp_irq pirq = dp_ich9_lpc_pirq(d, pick & 7);
    if (pick & 0x80)
        dp_irq_set(&pirq, pick & 0x40);
    else
        dp_pci_config_write(dp_ich9_lpc_function(d), offset, (uint32_t)dp_random_next(r), 4);
    return dp_pci_config_read(dp_ich9_lpc_function(d), offset, 4);
}

struct world {
    struct conformance_world w;
    struct lines lines;
    void *wires[2];
};

static void world_init(struct world *w)
{
    struct dp_error e = {0};
    memset(w, 0, sizeof *w);
    conformance_world_init(&w->w);
    struct dp_device *pm = dp_device_alloc(&dp_acpi_pm_class, "pm", &w->w.env);
    assert_ok(dp_device_init(pm, &e), e);
    w->wires[0] = &w->lines;
    w->wires[1] = pm;
}

static void world_fini(struct world *w)
{
    dp_device_free(w->wires[1]);
    conformance_world_fini(&w->w);
}

static void routing(void **state)
{
    struct world w;
    world_init(&w);
    struct dp_device *d = make(&w.w.env, w.wires);
    struct dp_pci_function *f = dp_ich9_lpc_function(d);
    struct dp_irq a = dp_ich9_lpc_pirq(d, 0), h = dp_ich9_lpc_pirq(d, 7);
    dp_irq_set(&a, true); /* not routed: only to the I/O APIC */
    assert_true(w.lines.apic[0]);
    for (unsigned i = 0; i < 16; i++)
        assert_false(w.lines.isa[i]);
    dp_pci_config_write(f, 0x60, 11, 1);
    assert_true(w.lines.isa[11]);
    dp_pci_config_write(f, 0x6b, 11, 1);
    dp_irq_set(&h, true);
    dp_irq_set(&a, false);
    assert_true(w.lines.isa[11]); /* the other pulls it */
    assert_false(w.lines.apic[0]);
    assert_true(w.lines.apic[7]);
    dp_pci_config_write(f, 0x6b, 8, 1); /* no interrupt for PCI */
    assert_false(w.lines.isa[11]);
    assert_false(w.lines.isa[8]);
    dp_pci_config_write(f, 0x6b, 10, 1);
    assert_true(w.lines.isa[10]);
    dp_device_reset(d);
    assert_false(w.lines.isa[10]);
    dp_device_free(d);
    world_fini(&w);
}

static void conformance(void **state)
{
    struct world w;
    world_init(&w);
    const struct conformance c = {.make = make, .opaque = w.wires, .poke = poke};
    conformance_check(&c);
    world_fini(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(routing), cmocka_unit_test(conformance)};
    return cmocka_run_group_tests_name("ich9", tests, NULL, NULL);
}
