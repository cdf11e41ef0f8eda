/* test_chipset.c - the boards with firmware, without processors: PAM and SMRAM, PIRQ routing, PMBASE; of the Q35 also PCIEXBAR, RCBA and
 * the SATA
 * controller's place. Guests that boot on them are tests/guest/media.
 */
#include <stdlib.h>

#include "devices/pci/pci.h"
#include "machine/pc.h"
#include "tests/unit/test.h"

enum { ROM = 0x40000, ROM_BYTE = 0x5a, BRIDGE = 0x80000000, ISA = 0x80000800, PM = 0x80000b00, LPC = 0x8000f800, SATA = 0x8000fa00 };

struct rig {
    struct x86_cpuid_model model;
    struct dp_clock *clock;
    struct dp_pc_firmware firmware;
    struct dp_pc *pc;
    struct dp_space *memory, *ports;
};

static void request(void *opaque, enum dp_vm_request r, int status) { }
static void line(void *opaque, unsigned cpu, enum dp_line l, unsigned value) { }

static void rig_new_board(struct rig *r, enum dp_pc_board board, uint64_t memory)
{
    struct dp_error e = {0};
    uint8_t *rom = malloc(ROM);
    memset(r, 0, sizeof *r);
    memset(rom, ROM_BYTE, ROM);
    assert_ok(x86_cpuid_model("x86-64-v2", &r->model, &e), e);
    assert_ok(dp_clock_create_manual(&r->clock, &e), e);
    r->firmware.board = board;
    r->firmware.drive[0].cdrom = true;
    r->firmware.bios = (struct dp_boot_blob){"test", rom, ROM};
    struct dp_pc_config c = {.firmware = &r->firmware, .memory = memory, .cpus = 1, .model = &r->model,
                             .clock = r->clock, .vm = {request, r}, .line = line, .opaque = r};
    assert_ok(dp_pc_create(&c, &r->pc, &e), e);
    r->memory = dp_pc_memory(r->pc);
    r->ports = dp_pc_ports(r->pc);
    dp_pc_reset(r->pc);
    assert_ok(dp_pc_boot(r->pc, NULL, NULL, NULL, &e), e);
    dp_pc_resume(r->pc);
}

static void rig_new(struct rig *r) { rig_new_board(r, DP_PC_I440FX, 4u << 20); }

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

static void pam(enum dp_pc_board board, unsigned PAM0, unsigned SMRAM)
{
    struct rig r;
    rig_new_board(&r, board, 4u << 20);
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
    config(&r, BRIDGE, PAM0 + 3, 0x30); /* D4000, not D0000 */
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

static void test_pam(void **state)
{
    pam(DP_PC_I440FX, 0x59, 0x72);
    pam(DP_PC_Q35, 0x90, 0x9d);
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

static void config32(struct rig *r, uint32_t function, unsigned offset, uint32_t value)
{
    dp_space_store(r->ports, 0xcf8, function | offset, 4);
    dp_space_store(r->ports, 0xcfc, value, 4);
}

static uint32_t config_load(struct rig *r, uint32_t function, unsigned offset)
{
    dp_space_store(r->ports, 0xcf8, function | offset, 4);
    return (uint32_t)dp_space_load(r->ports, 0xcfc, 4);
}

/* As SeaBIOS and OVMF set it up. */
static void test_q35(void **state)
{
    struct rig r;
    rig_new_board(&r, DP_PC_Q35, 4u << 20);
    assert_int_equal(config_load(&r, BRIDGE, 0), 0x29c08086);
    assert_int_equal(config_load(&r, LPC, 0), 0x29188086);
    assert_int_equal(config_load(&r, LPC, 0xc) >> 16 & 0xff, 0x80); /* of several functions */
    assert_int_equal(config_load(&r, SATA, 0), 0x29228086);
    assert_int_equal(config_load(&r, SATA, 8) >> 8, 0x010601);

    assert_int_equal(dp_space_load(r.memory, 0xb0000000, 4), 0xffffffff);
    config32(&r, BRIDGE, 0x60, 0);
    config32(&r, BRIDGE, 0x64, 0);
    config32(&r, BRIDGE, 0x60, 0xb0000001);
    assert_int_equal(dp_space_load(r.memory, 0xb0000000, 4), 0x29c08086);
    assert_int_equal(dp_space_load(r.memory, 0xb0000000 + (31 << 15 | 2 << 12) + 0x0a, 2), 0x0106);
    dp_space_store(r.memory, 0xb0000000 + (31 << 15 | 2 << 12) + 0x3c, 0x5a, 1);
    assert_int_equal(config_load(&r, SATA, 0x3c) & 0xff, 0x5a);
    assert_int_equal(dp_space_load(r.memory, 0xb0100000, 4), 0xffffffff); /* bus 1 */
    assert_int_equal(dp_space_load(r.memory, 0xbff00000, 4), 0xffffffff); /* bus 255 */
    config32(&r, BRIDGE, 0x60, 0xe8000005);                               /* 64 MiB */
    assert_int_equal(dp_space_load(r.memory, 0xe8000000, 4), 0x29c08086);
    assert_int_equal(dp_space_load(r.memory, 0xb0000000, 4), 0xffffffff);
    config32(&r, BRIDGE, 0x60, 0x00000001); /* at 0 there is RAM, and nowhere means nowhere */
    dp_space_store(r.memory, 0, 0x12345678, 4);
    assert_int_equal(dp_space_load(r.memory, 0, 4), 0x12345678);

    config32(&r, LPC, 0x40, 0xb001);
    assert_int_equal(config_load(&r, LPC, 0x40), 0xb001);
    assert_int_equal(dp_space_load(r.ports, 0xb004, 2), 0xffff); /* not enabled */
    config(&r, LPC, 0x44, 0x80);
    assert_int_equal(dp_space_load(r.ports, 0xb004, 2) & 1, 1);
    assert_int_equal(dp_space_load(r.ports, 0x604, 2) & 1, 1);
    config32(&r, LPC, 0xf0, 0xfed1c001);
    dp_space_store(r.memory, 0xfed1f404, 0x11223344, 4);
    assert_int_equal(dp_space_load(r.memory, 0xfed1f404, 4), 0x11223344);
    assert_int_equal(dp_space_load(r.memory, 0xfed1c000, 4), 0);
    assert_int_equal(config_load(&r, LPC, 0x60), 0x80808080);
    config32(&r, LPC, 0x68, 0x7b0a0a8a);
    assert_int_equal(config_load(&r, LPC, 0x68), 0x0b0a0a8a);

    dp_pc_pause(r.pc);
    dp_pc_reset(r.pc);
    assert_int_equal(dp_space_load(r.memory, 0xfed1f404, 4), 0xffffffff);
    assert_int_equal(dp_space_load(r.ports, 0xb004, 2), 0xffff);
    rig_free(&r);
}

/* The SATA controller's INTA goes to PIRQA: to an ISA interrupt where its register says. */
static void test_q35_interrupt(void **state)
{
    enum { ABAR = 0xc0000000u };
    struct rig r;
    rig_new_board(&r, DP_PC_Q35, 4u << 20);
    config32(&r, SATA, 0x24, ABAR);
    config32(&r, SATA, 0x04, 6);
    assert_int_equal(dp_space_load(r.memory, ABAR + 0xc, 4), 0x3f);
    config(&r, LPC, 0x60, 10);
    dp_space_store(r.ports, 0x4d1, 0x0c, 1); /* level */
    dp_space_store(r.ports, 0xa0, 0x11, 1);  /* the second 8259 */
    dp_space_store(r.ports, 0xa1, 0x70, 1);
    dp_space_store(r.ports, 0xa1, 2, 1);
    dp_space_store(r.ports, 0xa1, 1, 1);
    assert_int_equal(dp_space_load(r.ports, 0xa0, 1), 0);
    dp_space_store(r.memory, ABAR + 4, 0x80000002, 4);
    dp_space_store(r.memory, ABAR + 0x114, 0x40, 4); /* the link of the CD drive's port came up (PCS) */
    assert_int_equal(config_load(&r, SATA, 0x04) >> 19 & 1, 1);
    assert_int_equal(dp_space_load(r.ports, 0xa0, 1), 1 << (10 - 8));
    config(&r, LPC, 0x60, 11); /* the line follows its routing */
    assert_int_equal(dp_space_load(r.ports, 0xa0, 1), 1 << (11 - 8));
    config(&r, LPC, 0x60, 0x8b);
    assert_int_equal(dp_space_load(r.ports, 0xa0, 1), 0);
    config(&r, LPC, 0x60, 10);
    dp_space_store(r.memory, ABAR + 0x130, 0x04000000, 4); /* PxSERR.DIAG.X */
    dp_space_store(r.memory, ABAR + 8, 1, 4);
    assert_int_equal(dp_space_load(r.ports, 0xa0, 1), 0);
    rig_free(&r);
}

/* More memory than fits below configuration space is split at 2 GiB. */
static void test_q35_memory(void **state)
{
    struct rig r;
    rig_new_board(&r, DP_PC_Q35, 3ull << 30);
    dp_space_store(r.memory, 0x7ffffff8, 0x1234, 4);
    assert_int_equal(dp_space_load(r.memory, 0x7ffffff8, 4), 0x1234);
    assert_int_equal(dp_space_load(r.memory, 0x80000000, 4), 0xffffffff);
    dp_space_store(r.memory, 0x13ffffff8, 0x5678, 4);
    assert_int_equal(dp_space_load(r.memory, 0x13ffffff8, 4), 0x5678);
    rig_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pam), cmocka_unit_test(test_pm), cmocka_unit_test(test_pirq),
                                       cmocka_unit_test(test_q35),
                                       cmocka_unit_test(test_q35_interrupt), cmocka_unit_test(test_q35_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
