/* test_chipset.c - the boards with firmware, without processors: PAM and SMRAM, PIRQ routing, PMBASE, the A20 gate, HPET and PIT at one interrupt, what
 * fw_cfg has; of the Q35 also PCIEXBAR, RCBA and the SATA controller's place. Guests that boot on them are tests/guest/media.
 */
#include <stdlib.h>

#include "devices/firmware/fw_cfg.h"
#include "devices/pci/pci.h"
#include "machine/acpi.h"
#include "machine/pc.h"
#include "tests/unit/test.h"

enum { ROM = 0x40000, ROM_BYTE = 0x5a, BRIDGE = 0x80000000, ISA = 0x80000800, PM = 0x80000b00, LPC = 0x8000f800, SATA = 0x8000fa00 };

struct rig {
    struct x86_cpuid_model model;
    struct dp_clock *clock;
    struct dp_pc_firmware firmware;
    struct dp_pc *pc;
    struct dp_space *memory, *ports;
    unsigned smis;
};

static void request(void *opaque, enum dp_vm_request r, int status) { }
static void line(void *opaque, unsigned cpu, enum dp_line l, unsigned value) { ((struct rig *)opaque)->smis += l == DP_LINE_SMI && value; }

static void rig_make(struct rig *r, const struct dp_pc_firmware *with, uint64_t memory, unsigned nics, unsigned usb)
{
    struct dp_error e = {0};
    uint8_t *rom = malloc(ROM);
    memset(r, 0, sizeof *r);
    memset(rom, ROM_BYTE, ROM);
    assert_ok(x86_cpuid_model("x86-64-v2", &r->model, &e), e);
    assert_ok(dp_clock_create_manual(&r->clock, &e), e);
    r->firmware = *with;
    r->firmware.bios = (struct dp_boot_blob){"test", rom, ROM};
    struct dp_pc_config c = {.firmware = &r->firmware, .memory = memory, .cpus = 1, .model = &r->model, .clock = r->clock, .vm = {request, r}, .line = line, .opaque = r};
    static uint8_t nic_rom[4096] = {0x55, 0xaa};
    for (c.usb_count = 0; c.usb_count < usb; c.usb_count++)
        c.usb[c.usb_count].kind = c.usb_count ? DP_USB_KEYBOARD : DP_USB_TABLET;
    for (c.nic_count = 0; c.nic_count < nics; c.nic_count++)
        c.nic[c.nic_count] = (struct dp_pc_nic){.mac = {2, 0, 0, 0, 0, (uint8_t)c.nic_count}, .rom = {"ROM", nic_rom, sizeof nic_rom}};
    assert_ok(dp_pc_create(&c, &r->pc, &e), e);
    r->memory = dp_pc_memory(r->pc);
    r->ports = dp_pc_ports(r->pc);
    dp_pc_reset(r->pc);
    assert_ok(dp_pc_boot(r->pc, NULL, NULL, NULL, &e), e);
    dp_pc_resume(r->pc);
}

static void rig_new_with(struct rig *r, const struct dp_pc_firmware *with) { rig_make(r, with, 4u << 20, 0, 0); }
static void rig_new_board(struct rig *r, enum dp_pc_board board, uint64_t memory)
{
    rig_make(r, &(struct dp_pc_firmware){.board = board, .drive[0].cdrom = true}, memory, 0, 0);
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
    assert_int_equal(dp_space_load(dp_pc_smm_memory(r.pc), 0xa8000, 1), 6);
    config(&r, BRIDGE, SMRAM, 0x0a); /* for system management mode */
    assert_int_not_equal(load(&r, 0xa8000), 6);
    assert_int_equal(dp_space_load(dp_pc_smm_memory(r.pc), 0xa8000, 1), 6);
    assert_int_equal(dp_space_load(dp_pc_smm_memory(r.pc), 0xd4000, 1), 4); /* all else is the same */
    dp_space_store(dp_pc_smm_memory(r.pc), 0x9fffe, 0x04030201, 4);        /* over the border */
    assert_int_equal(load(&r, 0x9ffff), 2);
    assert_int_equal(dp_space_load(dp_pc_smm_memory(r.pc), 0xa0000, 2), 0x0403);
    config(&r, BRIDGE, SMRAM, 0x02);
    assert_int_not_equal(dp_space_load(dp_pc_smm_memory(r.pc), 0xa8000, 1), 6);
    config(&r, BRIDGE, SMRAM, 0x5a); /* locked, which closes it */
    assert_int_not_equal(load(&r, 0xa8000), 6);
    config(&r, BRIDGE, SMRAM, 0x4a);
    assert_int_not_equal(load(&r, 0xa8000), 6);
    assert_int_equal(dp_space_load(dp_pc_smm_memory(r.pc), 0xa8000, 1), 6);

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

static struct dp_device *device(struct rig *r, const char *class)
{
    for (unsigned i = 0; i < dp_pc_device_count(r->pc); i++)
        if (!strcmp(dp_pc_device(r->pc, i)->class->name, class))
            return dp_pc_device(r->pc, i);
    fail_msg("no device of class %s", class);
    return NULL;
}

/* Interrupts that wait in the 8259s. */
static unsigned waiting(struct rig *r)
{
    dp_space_store(r->ports, 0x20, 0x0a, 1); /* OCW3: IRR */
    dp_space_store(r->ports, 0xa0, 0x0a, 1);
    return (unsigned)(dp_space_load(r->ports, 0x20, 1) | dp_space_load(r->ports, 0xa0, 1) << 8) & ~(1u << 2) /* the cascade */;
}

/* As systems set the 8259s up: everything masked. */
static void init_pics(struct rig *r)
{
    static const uint8_t sequence[4] = {0x11, 0, 0, 1};
    for (unsigned i = 0; i < 2; i++) {
        unsigned port = i ? 0xa0 : 0x20;
        for (unsigned k = 0; k < 4; k++)
            dp_space_store(r->ports, port + !!k, k == 1 ? 0x20 + 8 * i : k == 2 ? i ? 2 : 4 : sequence[k], 1);
        dp_space_store(r->ports, port + 1, 0xff, 1);
    }
}

/* A PIRQ goes where its register says now, to several places after each other, together with others, or nowhere. */
static void test_pirq_routing(void **state)
{
    static const uint8_t irq[4] = {5, 10, 11, 14};
    struct rig r;
    rig_new(&r);
    struct dp_pci_host *host = dp_pci_host_of(device(&r, "pci-host"));
    init_pics(&r);
    dp_space_store(r.ports, 0x4d0, 0x20, 1); /* ELCR: level */
    dp_space_store(r.ports, 0x4d1, 0x4c, 1);
    for (unsigned n = 0; n < 4; n++)
        config(&r, ISA, 0x60 + n, irq[n]);
    for (unsigned slot = 5; slot < 9; slot++)
        for (unsigned pin = 1; pin <= 4; pin++) {
            dp_pci_host_intx(host, slot, 0, pin, true);
            assert_int_equal(waiting(&r), 1u << irq[dp_pci_pirq(slot, pin)]);
            dp_pci_host_intx(host, slot, 0, pin, false);
            assert_int_equal(waiting(&r), 0);
        }
    unsigned pin = 1;
    while (dp_pci_pirq(5, pin) != 2)
        pin++;
    unsigned other = pin % 4 + 1, other_pirq = dp_pci_pirq(5, other);
    dp_pci_host_intx(host, 5, 0, pin, true);
    config(&r, ISA, 0x62, 10); /* moves while it is high */
    assert_int_equal(waiting(&r), 1u << 10);
    config(&r, ISA, 0x60 + other_pirq, 10);
    dp_pci_host_intx(host, 5, 0, other, true); /* two at one */
    dp_pci_host_intx(host, 5, 0, pin, false);
    assert_int_equal(waiting(&r), 1u << 10);
    config(&r, ISA, 0x60 + other_pirq, 0x8a); /* disabled */
    assert_int_equal(waiting(&r), 0);
    static const uint8_t not_routable[] = {0, 1, 2, 8, 13};
    for (unsigned i = 0; i < DP_ARRAY_LEN(not_routable); i++) {
        config(&r, ISA, 0x60 + other_pirq, not_routable[i]);
        assert_int_equal(waiting(&r), 0);
    }
    config(&r, ISA, 0x60 + other_pirq, 14);
    assert_int_equal(waiting(&r), 1u << 14);
    rig_free(&r);
}

/* Port 0xb2: a system management interrupt once firmware has enabled it. */
static void test_apm(void **state)
{
    struct rig r;
    rig_new(&r);
    dp_space_store(r.ports, 0xb2, 0x12, 1);
    assert_int_equal(r.smis, 0);
    config(&r, PM, 0x5b, 2); /* DEVACTB.APMC_EN */
    dp_space_store(r.ports, 0xb2, 0x34, 1);
    assert_int_equal(r.smis, 1);
    dp_space_store(r.ports, 0xb3, 0x56, 1);
    assert_int_equal(r.smis, 1);
    assert_int_equal(dp_space_load(r.ports, 0xb2, 1), 0x34);
    assert_int_equal(dp_space_load(r.ports, 0xb3, 1), 0x56);
    dp_pc_pause(r.pc);
    dp_pc_reset(r.pc);
    dp_pc_resume(r.pc);
    dp_space_store(r.ports, 0xb2, 1, 1);
    assert_int_equal(r.smis, 1);
    rig_free(&r);
}

static void test_a20(void **state)
{
    struct rig r;
    rig_new(&r);
    assert_true(dp_space_cpu_mask(r.memory) == UINT64_MAX);
    dp_space_store(r.ports, 0x92, 0, 1);
    assert_true(dp_space_cpu_mask(r.memory) == ~0x100000ull);
    dp_space_store(r.ports, 0x64, 0xd1, 1); /* the keyboard controller's output port */
    dp_space_store(r.ports, 0x60, 0xdf, 1);
    assert_true(dp_space_cpu_mask(r.memory) == UINT64_MAX);
    dp_space_store(r.ports, 0x64, 0xd1, 1);
    dp_space_store(r.ports, 0x60, 0xdd, 1);
    assert_true(dp_space_cpu_mask(r.memory) == ~0x100000ull);
    dp_pc_pause(r.pc);
    dp_pc_reset(r.pc);
    dp_pc_resume(r.pc);
    assert_true(dp_space_cpu_mask(r.memory) == UINT64_MAX);
    rig_free(&r);
}

/* Interrupt 0 is the PIT's, then the HPET's, then the PIT's again. */
static void test_timers(void **state)
{
    enum { HPET = 0xfed00000 };
    struct rig r;
    rig_new(&r);
    init_pics(&r);
    assert_int_equal(dp_space_load(r.memory, HPET, 4), 0x8086a201);
    dp_space_store(r.ports, 0x43, 0x30, 1); /* mode 0: OUT rises after 1000 ticks and stays */
    dp_space_store(r.ports, 0x40, 1000 & 255, 1);
    dp_space_store(r.ports, 0x40, 1000 >> 8, 1);
    dp_clock_advance(r.clock, 1000000);
    assert_int_equal(waiting(&r), 1);
    dp_space_store(r.memory, HPET + 0x100, 4, 4);                        /* comparator 0: edge, enabled */
    dp_space_store(r.memory, HPET + 0x108, 100000, 8);                   /* at 1 ms */
    dp_space_store(r.memory, HPET + 0x10, 3, 4);                         /* legacy, running */
    assert_int_equal(waiting(&r), 0);
    dp_space_store(r.ports, 0x43, 0x34, 1); /* the PIT goes on, unheard */
    dp_space_store(r.ports, 0x40, 100, 1);
    dp_space_store(r.ports, 0x40, 0, 1);
    dp_clock_advance(r.clock, 900000);
    assert_int_equal(waiting(&r), 0);
    dp_clock_advance(r.clock, 200000);
    assert_int_equal(waiting(&r), 1);
    init_pics(&r);
    dp_space_store(r.memory, HPET + 0x10, 1, 4);
    dp_clock_advance(r.clock, 200000);
    assert_int_equal(waiting(&r), 1); /* the PIT's */
    dp_space_store(r.memory, HPET + 0x10, 3, 4);
    dp_pc_pause(r.pc);
    dp_pc_reset(r.pc);
    dp_pc_resume(r.pc);
    assert_int_equal(dp_space_load(r.memory, HPET + 0x10, 4), 0);
    rig_free(&r);
}

/* What the loader's script has firmware do about the generation id, done here, and where the id is then; the user's file. */
static void test_generation(void **state)
{
    enum { ENTRY = 128, NAME = 56 };
    static const uint8_t hello[] = "hello";
    const struct dp_boot_blob file = {"opt/org.example/x", hello, 5};
    struct rig r;
    rig_new_with(&r, &(struct dp_pc_firmware){.vmgenid = true, .generation = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, .uuid = {[15] = 7},
                                              .file = &file, .file_count = 1});
    struct dp_device *d = device(&r, "fw-cfg");
    size_t script_size, tables_size, page_size, size;
    const uint8_t *script = dp_fw_cfg_file(d, "etc/table-loader", &script_size), *tables = dp_fw_cfg_file(d, "etc/acpi/tables", &tables_size),
                  *page = dp_fw_cfg_file(d, "etc/vmgenid_guid", &page_size);
    assert_true(script && tables && page && page_size == DP_PAGE_SIZE);
    assert_non_null(dp_fw_cfg_file(d, "etc/vmgenid_addr", &size));
    assert_int_equal(size, 8);
    assert_memory_equal(dp_fw_cfg_file(d, "opt/org.example/x", &size), "hello", 5);
    assert_int_equal(size, 5);
    static const uint8_t guid[16] = {4, 3, 2, 1, 6, 5, 8, 7, 9, 10, 11, 12, 13, 14, 15, 16};
    assert_memory_equal(page + DP_ACPI_VMGENID_OFFSET, guid, 16);
    unsigned allocated = 0, patched = 0, told = 0;
    for (const uint8_t *e = script; e + ENTRY <= script + script_size; e += ENTRY) {
        const char *first = (const char *)e + 4, *second = first + NAME;
        if (dp_ld32(e) == 1 && !strcmp(first, "etc/vmgenid_guid")) {
            allocated++;
            assert_int_equal(dp_ld32(e + 4 + NAME), DP_PAGE_SIZE);
        }
        if (dp_ld32(e) == 2 && !strcmp(second, "etc/vmgenid_guid")) {
            uint32_t at = dp_ld32(e + 4 + 2 * NAME);
            assert_true(!strcmp(first, "etc/acpi/tables") && e[8 + 2 * NAME] == 4 && at + 4 <= tables_size && at > 6);
            assert_memory_equal(tables + at - 6, "\\VGIA\x0c\0\0\0\0", 10);
            patched++;
        }
        if (dp_ld32(e) == 4) {
            assert_true(!strcmp(first, "etc/vmgenid_addr") && !strcmp(second, "etc/vmgenid_guid"));
            assert_int_equal(dp_ld32(e + 4 + 2 * NAME), 0);
            assert_int_equal(dp_ld32(e + 8 + 2 * NAME), DP_ACPI_VMGENID_OFFSET);
            assert_int_equal(e[12 + 2 * NAME], 8);
            told++;
        }
    }
    assert_true(allocated == 1 && patched == 1 && told == 1);
    const uint8_t *smbios = dp_fw_cfg_file(d, "etc/smbios/smbios-anchor", &size);
    assert_true(smbios && size == 31 && !memcmp(smbios, "_SM_", 4));
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
    rig_make(&r, &(struct dp_pc_firmware){.boot_order = "n"}, 4u << 20, 2, 0);
    fw_cfg_file(&r, "bootorder", order, sizeof order);
    assert_string_equal(order, "/pci@i0cf8/ethernet@3/ethernet-phy@0\n/pci@i0cf8/ethernet@1a/ethernet-phy@0\nHALT");
    for (unsigned i = 0; i < 2; i++) {
        uint32_t card = 0x80000000 | (i ? 0x1a : 3) << 11;
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

/* A controller in its slot; while the guest does not use it, keys and movements are PS/2's. */
static void test_usb(void **state)
{
    struct rig r;
    struct dp_display_source screen;
    struct dp_input_sink sink;
    rig_make(&r, &(struct dp_pc_firmware){0}, 4u << 20, 0, 2);
    dp_space_store(r.ports, 0xcf8, 0x80000000 | 29 << 11, 4);
    assert_int_equal(dp_space_load(r.ports, 0xcfc, 4), 0x000d1b36);
    dp_space_store(r.ports, 0xcf8, 0x80000000 | 29 << 11 | 8, 4);
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

static void save(struct dp_pc *pc, struct dp_buffer out[], unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        dp_device_save(dp_pc_device(pc, i), &out[i]);
}

/* A card that is plugged is one of the machine's devices: its event, its place, its state in another machine that has it, too. */
static void plugged(enum dp_pc_board board, uint16_t port)
{
    struct rig r[2];
    struct dp_error e = {0};
    struct dp_pc_nic nic = {.model = "e1000", .mac = {2, 0, 0, 0, 0, 9}};
    struct dp_pc_card_status s;
    unsigned n = 9, count;
    for (unsigned i = 0; i < 2; i++) {
        rig_make(&r[i], &(struct dp_pc_firmware){.board = board}, 4u << 20, 1, 0);
        count = dp_pc_device_count(r[i].pc);
        assert_int_equal(dp_space_load(r[i].ports, port + 12, 4), 1 << 3); /* REMOVABLE: the card of the start */
        assert_ok(dp_pc_plug_nic(r[i].pc, &nic, true, &n, &e), e);
        assert_int_equal(n, 1);
        assert_true(dp_pc_card(r[i].pc, DP_PC_CARD_NIC, n, &s) && s.slot == 26 && !s.asked && !s.link);
        assert_int_equal(dp_pc_device_count(r[i].pc), count + 1);
        assert_string_equal(dp_pc_device(r[i].pc, count)->id, "net1");
        assert_int_equal(dp_space_load(r[i].ports, 0x60c, 2), 2); /* GPE 1 */
        assert_int_equal(dp_space_load(r[i].ports, 0xcf8, 4), 0);
        dp_space_store(r[i].ports, 0xcf8, BRIDGE | 26 << 11, 4);
        assert_int_equal(dp_space_load(r[i].ports, 0xcfc, 4), 0x100e8086);
    }
    /* As a system sets it up: its registers (RAL0, then RAH0) say the address. */
    dp_space_store(r[0].ports, 0xcf8, BRIDGE | 26 << 11 | DP_PCI_BAR0, 4);
    dp_space_store(r[0].ports, 0xcfc, 0xd0000000, 4);
    dp_space_store(r[0].ports, 0xcf8, BRIDGE | 26 << 11 | DP_PCI_COMMAND, 4);
    dp_space_store(r[0].ports, 0xcfc, 6, 2);
    assert_int_equal(dp_space_load(r[0].memory, 0xd0005400, 4), 2);
    assert_int_equal(dp_space_load(r[0].memory, 0xd0005404, 4), 0x80000900);
    dp_pc_ask(r[0].pc, DP_PC_CARD_NIC, 1);

    struct dp_buffer state[100] = {{0}}, again[100] = {{0}};
    count = dp_pc_device_count(r[0].pc);
    assert_true(count <= 100);
    dp_pc_pause(r[0].pc);
    dp_pc_pause(r[1].pc);
    save(r[0].pc, state, count);
    assert_int_equal(dp_space_load(r[1].memory, 0xd0005400, 4), 0xffffffff);
    for (unsigned i = 0; i < count; i++)
        assert_ok(dp_device_load(dp_pc_device(r[1].pc, i), state[i].data, state[i].size, NULL, &e), e);
    save(r[1].pc, again, count);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(state[i].size, again[i].size);
        assert_memory_equal(state[i].data, again[i].data, state[i].size);
        dp_buffer_fini(&state[i]);
        dp_buffer_fini(&again[i]);
    }
    dp_pc_resume(r[1].pc);
    assert_int_equal(dp_space_load(r[1].memory, 0xd0005400, 4), 2);
    assert_true(dp_pc_card(r[1].pc, DP_PC_CARD_NIC, 1, &s) && s.asked);
    assert_int_equal(dp_space_load(r[1].ports, port + 4, 4), 1 << 26);

    /* Both go; the registers with them. Nobody takes out what the guest ejects, but whoever asks for it. */
    dp_space_store(r[1].ports, port + 8, 1 << 26 | 1 << 3 | 1 << 2, 4);
    assert_int_equal(dp_pc_ejected(r[1].pc, false), 0); /* without the callback they stay */
    assert_int_equal(dp_pc_ejected(r[1].pc, true), 1 << 26);
    dp_pc_unplug(r[1].pc, DP_PC_CARD_NIC, 1, true);
    dp_pc_unplug(r[1].pc, DP_PC_CARD_NIC, 0, true);
    assert_int_equal(dp_pc_device_count(r[1].pc), count - 2);
    assert_int_equal(dp_space_load(r[1].memory, 0xd0005400, 4), 0xffffffff);
    assert_int_equal(dp_space_load(r[1].ports, port + 12, 4), 0);
    assert_false(dp_pc_card(r[1].pc, DP_PC_CARD_NIC, 0, &s) || dp_pc_card(r[1].pc, DP_PC_CARD_NIC, 1, &s));
    dp_pc_reset(r[1].pc);
    assert_ok(dp_pc_boot(r[1].pc, NULL, NULL, NULL, &e), e);
    rig_free(&r[0]);
    rig_free(&r[1]);
}

static void test_plugged(void **state)
{
    plugged(DP_PC_I440FX, 0xae00);
    plugged(DP_PC_Q35, 0xcc0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pam), cmocka_unit_test(test_pm), cmocka_unit_test(test_pirq), cmocka_unit_test(test_q35),
                                       cmocka_unit_test(test_q35_interrupt), cmocka_unit_test(test_q35_memory), cmocka_unit_test(test_pirq_routing), cmocka_unit_test(test_cards), cmocka_unit_test(test_usb), cmocka_unit_test(test_plugged),
                                       cmocka_unit_test(test_apm), cmocka_unit_test(test_a20),   cmocka_unit_test(test_timers), cmocka_unit_test(test_generation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
