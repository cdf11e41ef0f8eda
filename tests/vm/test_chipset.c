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

static void rig_make(struct rig *r, const char *boot_order, unsigned nics)
{
    struct dp_error e = {0};
    uint8_t *rom = malloc(ROM);
    memset(r, 0, sizeof *r);
    memset(rom, ROM_BYTE, ROM);
    assert_ok(x86_cpuid_model("x86-64-v2", &r->model, &e), e);
    assert_ok(dp_clock_create_manual(&r->clock, &e), e);
    r->firmware.bios = (struct dp_boot_blob){"test", rom, ROM};
    struct dp_pc_config c = {.firmware = &r->firmware, .memory = 4u << 20, .cpus = 1, .model = &r->model, .clock = r->clock, .vm = {request, r}, .line = line, .opaque = r};
    static uint8_t nic_rom[4096] = {0x55, 0xaa};
    r->firmware.boot_order = boot_order;
    for (c.nic_count = 0; c.nic_count < nics; c.nic_count++)
        c.nic[c.nic_count] = (struct dp_pc_nic){.mac = {2, 0, 0, 0, 0, (uint8_t)c.nic_count}, .rom = {"ROM", nic_rom, sizeof nic_rom}};
    assert_ok(dp_pc_create(&c, &r->pc, &e), e);
    r->memory = dp_pc_memory(r->pc);
    r->ports = dp_pc_ports(r->pc);
    dp_pc_reset(r->pc);
    assert_ok(dp_pc_boot(r->pc, NULL, NULL, NULL, &e), e);
    dp_pc_resume(r->pc);
}

static void rig_new(struct rig *r) { rig_make(r, NULL, 0); }

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

/* A file of fw_cfg's, as firmware reads it. */
static void fw_cfg_file(struct rig *r, const char *name, char *text, size_t size)
{
    enum { SELECT = 0x510, DATA = 0x511, DIRECTORY = 0x19 };
    uint8_t entry[64];
    dp_space_store(r->ports, SELECT, DIRECTORY, 2);
    uint32_t count = 0, length = 0;
    for (unsigned i = 0; i < 4; i++)
        count = count << 8 | (uint8_t)dp_space_load(r->ports, DATA, 1);
    for (; count; count--) {
        for (unsigned i = 0; i < sizeof entry; i++)
            entry[i] = (uint8_t)dp_space_load(r->ports, DATA, 1);
        if (!strcmp((char *)entry + 8, name))
            break;
    }
    if (count) {
        length = (uint32_t)entry[2] << 8 | entry[3];
        dp_space_store(r->ports, SELECT, (uint32_t)entry[4] << 8 | entry[5], 2);
    }
    assert_true(length < size);
    for (unsigned i = 0; i < length; i++)
        text[i] = (char)dp_space_load(r->ports, DATA, 1);
    text[length] = 0;
}

/* Cards are where the boot order says, each with its ROM; without being asked there is none. */
static void test_cards(void **state)
{
    struct rig r;
    char order[200];
    rig_make(&r, "n", 2);
    fw_cfg_file(&r, "bootorder", order, sizeof order);
    assert_string_equal(order, "/pci@i0cf8/ethernet@3/ethernet-phy@0\n/pci@i0cf8/ethernet@1d/ethernet-phy@0\nHALT");
    for (unsigned i = 0; i < 2; i++) {
        uint32_t card = 0x80000000 | (i ? 0x1d : 3) << 11;
        dp_space_store(r.ports, 0xcf8, card, 4);
        assert_int_equal(dp_space_load(r.ports, 0xcfc, 4), 0x10411af4);
        dp_space_store(r.ports, 0xcf8, card | 0x30, 4);
        dp_space_store(r.ports, 0xcfc, 0xfffff800, 4);
        assert_int_equal(dp_space_load(r.ports, 0xcfc, 4), 0xfffff000);
    }
    rig_free(&r);
    rig_new(&r);
    dp_space_store(r.ports, 0xcf8, 0x80001800, 4);
    assert_int_equal(dp_space_load(r.ports, 0xcfc, 4), 0xffffffff);
    rig_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pam), cmocka_unit_test(test_pm), cmocka_unit_test(test_pirq), cmocka_unit_test(test_cards)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
