/* test_chipset.c - the board with firmware, without processors: PAM and SMRAM, PIRQ routing, PMBASE, what fw_cfg has. Guests that boot on it are
 * tests/guest/media.
 */
#include <stdlib.h>

#include "devices/pci/pci.h"
#include "machine/pc.h"
#include "tests/unit/test.h"

enum { ROM = 0x40000, ROM_BYTE = 0x5a, BRIDGE = 0x80000000, ISA = 0x80000800, PM = 0x80000b00, PAM0 = 0x59, SMRAM = 0x72 };

struct rig {
    struct x86_cpuid_model model;
    struct dp_clock *clock;
    struct dp_pc_firmware firmware;
    struct dp_pc *pc;
    struct dp_space *memory, *ports;
};

static void request(void *opaque, enum dp_vm_request r, int status) { }
static void line(void *opaque, unsigned cpu, enum dp_line l, unsigned value) { }

static void rig_new_with(struct rig *r, bool usb)
{
    struct dp_error e = {0};
    uint8_t *rom = malloc(ROM);
    memset(r, 0, sizeof *r);
    memset(rom, ROM_BYTE, ROM);
    assert_ok(x86_cpuid_model("x86-64-v2", &r->model, &e), e);
    assert_ok(dp_clock_create_manual(&r->clock, &e), e);
    r->firmware.bios = (struct dp_boot_blob){"test", rom, ROM};
    struct dp_pc_config c = {.firmware = &r->firmware, .memory = 4u << 20, .cpus = 1, .model = &r->model, .clock = r->clock, .vm = {request, r}, .line = line, .opaque = r};
    if (usb) {
        c.usb[0].kind = DP_USB_TABLET;
        c.usb[1].kind = DP_USB_KEYBOARD;
        c.usb_count = 2;
    }
    assert_ok(dp_pc_create(&c, &r->pc, &e), e);
    r->memory = dp_pc_memory(r->pc);
    r->ports = dp_pc_ports(r->pc);
    dp_pc_reset(r->pc);
    assert_ok(dp_pc_boot(r->pc, NULL, NULL, NULL, &e), e);
    dp_pc_resume(r->pc);
}

static void rig_new(struct rig *r) { rig_new_with(r, false); }

static void rig_free(struct rig *r)
{
    dp_pc_destroy(r->pc);
    dp_clock_destroy(r->clock);
    free((void *)r->firmware.bios.data);
}

static void config(struct rig *r, uint32_t function, unsigned offset, uint8_t value)
{
    dp_space_store(r->ports, 0xcf8, function | (offset & 0xfc), 4);
    dp_space_store(r->ports, 0xcfc + (offset & 3), value, 1);
}

static unsigned load(struct rig *r, uint64_t at) { return (unsigned)dp_space_load(r->memory, at, 1); }

static void test_pam(void **state)
{
    struct rig r;
    rig_new(&r);
    assert_int_equal(load(&r, 0xffffffff), ROM_BYTE);
    assert_int_equal(load(&r, 0xf0000), ROM_BYTE);
    assert_int_equal(load(&r, 0xe0000), ROM_BYTE);
    assert_int_equal(load(&r, 0xc8000), 0xff); /* nobody */
    dp_space_store(r.memory, 0xf0000, 1, 1);   /* to the bus: lost */
    config(&r, BRIDGE, PAM0, 0x20);            /* reads from ROM, writes to RAM: a BIOS that copies itself */
    dp_space_store(r.memory, 0xf0000, 0x77, 1);
    assert_int_equal(load(&r, 0xf0000), ROM_BYTE);
    config(&r, BRIDGE, PAM0, 0x10); /* RAM, write-protected */
    assert_int_equal(load(&r, 0xf0000), 0x77);
    dp_space_store(r.memory, 0xf0000, 2, 1);
    assert_int_equal(load(&r, 0xf0000), 0x77);
    config(&r, BRIDGE, PAM0, 0x30);
    dp_space_store(r.memory, 0xf0000, 3, 1);
    assert_int_equal(load(&r, 0xf0000), 3);
    config(&r, BRIDGE, 0x5c, 0x30); /* D4000, not D0000 */
    dp_space_store(r.memory, 0xd4000, 4, 1);
    dp_space_store(r.memory, 0xd0000, 5, 1);
    assert_int_equal(load(&r, 0xd4000), 4);
    assert_int_equal(load(&r, 0xd0000), 0xff);

    config(&r, BRIDGE, SMRAM, 0x4a); /* open */
    dp_space_store(r.memory, 0xa8000, 6, 1);
    assert_int_equal(load(&r, 0xa8000), 6);
    config(&r, BRIDGE, SMRAM, 0x1a); /* closed and locked */
    config(&r, BRIDGE, SMRAM, 0x4a);
    assert_int_not_equal(load(&r, 0xa8000), 6);

    dp_pc_pause(r.pc);
    dp_pc_reset(r.pc);
    assert_int_equal(load(&r, 0xf0000), ROM_BYTE);
    rig_free(&r);
}

static void test_pm(void **state)
{
    struct rig r;
    rig_new(&r);
    assert_int_equal(dp_space_load(r.ports, 0x604, 2) & 1, 1); /* SCI_EN */
    assert_int_equal(dp_space_load(r.ports, 0xb004, 2), 0xffff);
    config(&r, PM, 0x41, 0xb0);
    assert_int_equal(dp_space_load(r.ports, 0xb004, 2), 0xffff); /* not enabled */
    config(&r, PM, 0x80, 1);
    assert_int_equal(dp_space_load(r.ports, 0xb004, 2) & 1, 1);
    assert_int_equal(dp_space_load(r.ports, 0x604, 2) & 1, 1);
    rig_free(&r);
}

/* Which PIRQ a pin pulls, and the routing registers. */
static void test_pirq(void **state)
{
    assert_int_equal(dp_pci_pirq(4, 1), 3);
    assert_int_equal(dp_pci_pirq(1, 1), 0);
    struct rig r;
    rig_new(&r);
    dp_space_store(r.ports, 0xcf8, ISA | 0x60, 4);
    assert_int_equal(dp_space_load(r.ports, 0xcfc, 4), 0x80808080);
    config(&r, ISA, 0x63, 0x7b); /* the reserved bits stay 0 */
    assert_int_equal(dp_space_load(r.ports, 0xcfc, 4), 0x0b808080);
    rig_free(&r);
}

/* A controller in the last slot; while the guest does not use it, keys and movements are PS/2's. */
static void test_usb(void **state)
{
    struct rig r;
    struct dp_display_source screen;
    struct dp_input_sink sink;
    rig_new_with(&r, true);
    dp_space_store(r.ports, 0xcf8, 0x8000f800, 4);
    assert_int_equal(dp_space_load(r.ports, 0xcfc, 4), 0x000d1b36);
    dp_space_store(r.ports, 0xcf8, 0x8000f808, 4);
    assert_int_equal(dp_space_load(r.ports, 0xcfc, 4) >> 8, 0x0c0330);
    assert_true(dp_pc_screen(r.pc, &screen, &sink));
    assert_false(sink.absolute(sink.opaque));
    sink.position(sink.opaque, 1, 1, 0, 0);
    assert_int_equal(dp_space_load(r.ports, 0x64, 1) & 1, 0);
    sink.key(sink.opaque, 30, true);
    dp_clock_advance(r.clock, 10000000);
    assert_int_equal(dp_space_load(r.ports, 0x64, 1) & 1, 1);
    rig_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pam), cmocka_unit_test(test_pm), cmocka_unit_test(test_pirq), cmocka_unit_test(test_usb)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
