/* machine/board_q35.c - the board with a Q35 and an ICH9: configuration space in memory, eight PIRQs, SATA. See chipset.h.
 *
 * PCI interrupts: slots up to 24 pull PIRQE-H in turn, the others PIRQA-D by pin, as SeaBIOS assumes. Systems with an I/O APIC find
 * PIRQA-H at
 * its pins 16-23.
 * Source: Intel 3 Series chipset and ICH9 datasheets; SeaBIOS (fw/pciinit.c) and OVMF (PlatformInitLib) for what firmware expects.
 */
#include <stdlib.h>

#include "devices/pci/ich9.h"
#include "devices/storage/ahci.h"
#include "machine/chipset.h"
#include "machine/mch.h"

enum { FUNCTION_LPC = 0, FUNCTION_SATA = 2, GSI_PIRQA = 16 };
#define LOW_SPLIT 0xb0000000ull /* MCH_ECAM_BASE: so much memory fits below it */
#define LOW_MAX 0x80000000ull
static const uint8_t pirq_irq[4] = {10, 10, 11, 11}; /* where SeaBIOS and OVMF route PIRQA-D, and E-H */
_Static_assert((int)DP_PC_SATA_DRIVES == (int)DP_AHCI_PORTS, "as many drives as ports");

/* ---- interrupts ---- */

static unsigned pirq(unsigned device, unsigned pin) { return device <= 24 ? 4 + ((device + pin - 1) & 3) : (pin - 1) & 3; }
static unsigned pci_gsi(unsigned device, unsigned pin) { return GSI_PIRQA + pirq(device, pin); }
static unsigned pci_irq(unsigned device, unsigned pin) { return pirq_irq[pirq(device, pin) & 3]; }

static void pirq_set(void *opaque, unsigned n, bool level)
{
    struct dp_pc *pc = opaque;
    if (!pc->chipset->isa)
        return;
    struct dp_irq line = dp_ich9_lpc_pirq(pc->chipset->isa, n);
    dp_irq_set(&line, level);
}

static void wire_pci(struct dp_pc *pc)
{
    struct dp_irq line[DP_ICH9_PIRQS];
    for (unsigned i = 0; i < DP_ICH9_PIRQS; i++)
        line[i] = (struct dp_irq){pirq_set, pc, i};
    dp_pci_host_wire_lines(pc->pci, line, DP_ICH9_PIRQS, pirq);
}

/* ---- devices ---- */

static int add_bridges(struct dp_pc *pc, struct dp_error *e)
{
    struct chipset *s = pc->chipset;
    struct dp_irq irq[16], apic[DP_ICH9_PIRQS];
    struct dp_device *lpc = pc_add(pc, &dp_ich9_lpc_class, "ich9-lpc", e);
    if (!lpc || !(s->mch = calloc(1, sizeof *s->mch)))
        return dp_error_set(e, -ENOMEM, "no memory for a device");
    mch_attach(s->mch, &s->pam, pc->pci);
    for (unsigned i = 0; i < DP_ARRAY_LEN(irq); i++)
        irq[i] = dp_gsi_irq(&pc->router, i);
    for (unsigned i = 0; i < DP_ARRAY_LEN(apic); i++)
        apic[i] = dp_gsi_irq(&pc->router, GSI_PIRQA + i);
    dp_ich9_lpc_wire(lpc, irq, apic, pc->pm);
    int rc = dp_device_init(lpc, e);
    if (rc)
        return rc;
    s->isa = lpc;
    return dp_pci_plug_function(dp_pci_host_of(pc->pci), dp_ich9_lpc_function(lpc), SLOT_ICH9, FUNCTION_LPC, e);
}

static int add_drives(struct dp_pc *pc, struct dp_error *e)
{
    struct dp_device *d = pc->chipset->drives = pc_add(pc, &dp_ahci_class, "sata", e);
    if (!d)
        return -ENOMEM;
    for (unsigned i = 0; i < DP_AHCI_PORTS; i++) {
        const struct dp_pc_drive *drive = &pc->config.firmware->drive[i];
        if (drive->cdrom)
            dp_ahci_attach_cdrom(d, i, drive->block);
        else if (drive->block)
            dp_ahci_attach_disk(d, i, drive->block, drive->serial);
    }
    int rc = dp_device_init(d, e);
    return rc ? rc : dp_pci_plug_function(dp_pci_host_of(pc->pci), dp_ahci_function(d), SLOT_ICH9, FUNCTION_SATA, e);
}

/* ---- what firmware and systems are told ---- */

static void drive_path(struct dp_buffer *order, unsigned n)
{
    dp_buffer_printf(order, "/pci@i0cf8/pci8086,2922@%x,%u/drive@%u/disk@0\n", SLOT_ICH9, FUNCTION_SATA, n);
}

static void describe(struct dp_pc *pc, struct dp_acpi_config *a)
{
    a->ecam_base = MCH_ECAM_BASE;
    a->pci_last_bus = 255;
    a->pci_gsi = pci_gsi;
    a->pci_irq = pci_irq;
    a->mmio32_first = MCH_ECAM_BASE + (256ull << 20); /* where firmware puts BARs */
}

const struct board board_q35 = {
    .low_split = LOW_SPLIT,
    .low_max = LOW_MAX,
    .drives = DP_PC_SATA_DRIVES,
    .isa_slot = SLOT_ICH9,
    .hpet_gsi = 24,
    .wire_pci = wire_pci,
    .add_bridges = add_bridges,
    .add_drives = add_drives,
    .change_medium = dp_ahci_change_medium,
    .drive_path = drive_path,
    .describe = describe,
};
