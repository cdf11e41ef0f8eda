/* machine/board_i440fx.c - the board with an i440FX, PIIX3 and PIIX4: bridges, four PIRQs, IDE. See chipset.h.
 *
 * Source: Intel 82441FX, 82371SB and 82371AB datasheets; SeaBIOS and OVMF for where they route PIRQA-D.
 */
#include "devices/pci/piix.h"
#include "devices/storage/ide.h"
#include "machine/chipset.h"

enum { SLOT_PIIX = 1, FUNCTION_ISA = 0, FUNCTION_IDE = 1, FUNCTION_PM = 3, IRQ_IDE = 14 };
enum { PORT_IDE_SECONDARY = 0x170, PORT_IDE_PRIMARY = 0x1f0, PORT_IDE_SECONDARY_CONTROL = 0x376, PORT_IDE_PRIMARY_CONTROL = 0x3f6 };
enum { PAM0 = 0x59, SMRAM = 0x72 };
static const uint8_t pirq_irq[4] = {10, 10, 11, 11}; /* where SeaBIOS and OVMF route PIRQA-D */

/* ---- the north bridge ---- */

static void changed(struct dp_pci_function *f) { pam_changed(f->opaque); }
static bool access(struct dp_pci_function *f, unsigned offset, unsigned size, uint32_t *value, bool write)
{
    return pam_access(f->opaque, offset, size, value, write);
}

static void attach(struct pam *n, struct dp_pci_function *f)
{
    dp_pci_set_config(f, 0x00, 0x12378086, 4);
    dp_pci_set_config(f, 0x08, 0x06000002, 4);
    pam_attach(n, f, PAM0, SMRAM, SMRAM);
    memset(f->write_mask + 0x50, 0xff, PAM0 - 0x50); /* cache and DRAM control: kept, mean nothing here */
    memset(f->write_mask + 0x60, 0xff, 8);           /* DRAM row boundaries */
    f->config_access = access;
    f->config_changed = changed;
    f->opaque = n;
    f->watch_first = PAM0;
    f->watch_last = SMRAM;
}

/* ---- interrupts ---- */

static unsigned pci_irq(unsigned device, unsigned pin) { return pirq_irq[dp_pci_pirq(device, pin)]; }

static void pirq_set(void *opaque, unsigned n, bool level)
{
    struct dp_pc *pc = opaque;
    if (!pc->chipset->isa)
        return;
    struct dp_irq pirq = dp_piix_isa_pirq(pc->chipset->isa, n);
    dp_irq_set(&pirq, level);
}

static void wire_pci(struct dp_pc *pc)
{
    struct dp_irq pirq[4];
    for (unsigned i = 0; i < 4; i++)
        pirq[i] = (struct dp_irq){pirq_set, pc, i};
    dp_pci_host_wire_pirqs(pc->pci, pirq);
}

/* SMI# goes to the first processor alone: it runs firmware, and others may still wait to be started, with no handler of theirs in place. */
static void smi_set(void *opaque, unsigned n, bool level)
{
    struct dp_pc *pc = opaque;
    pc->config.line(pc->config.opaque, n, DP_LINE_SMI, level);
}

/* ---- devices ---- */

static int add_bridges(struct dp_pc *pc, struct dp_error *e)
{
    struct chipset *s = pc->chipset;
    struct dp_pci_host *host = dp_pci_host_of(pc->pci);
    struct dp_irq irq[16];
    int rc;
    attach(&s->pam, dp_pci_host_bridge(pc->pci));
    struct dp_device *isa = pc_add(pc, &dp_piix_isa_class, "piix-isa", e), *pm = pc_add(pc, &dp_piix_pm_class, "piix-pm", e);
    if (!isa || !pm)
        return -ENOMEM;
    for (unsigned i = 0; i < DP_ARRAY_LEN(irq); i++)
        irq[i] = dp_gsi_irq(&pc->router, i);
    dp_piix_isa_wire(isa, irq);
    dp_piix_pm_wire(pm, pc->pm);
    dp_piix_pm_wire_smi(pm, (struct dp_irq){smi_set, pc, 0});
    if ((rc = dp_device_init(isa, e)) || (rc = dp_device_init(pm, e)) || (rc = dp_device_map(pm, DP_PIIX_PM_WINDOW_APM, DP_PIIX_APM_PORT, e)))
        return rc;
    s->isa = isa;
    rc = dp_pci_plug_function(host, dp_piix_isa_function(isa), SLOT_PIIX, FUNCTION_ISA, e);
    return rc ? rc : dp_pci_plug_function(host, dp_piix_pm_function(pm), SLOT_PIIX, FUNCTION_PM, e);
}

static int add_drives(struct dp_pc *pc, struct dp_error *e)
{
    static const struct chipset_place places[] = {{DP_IDE_WINDOW_PRIMARY, PORT_IDE_PRIMARY},
                                          {DP_IDE_WINDOW_PRIMARY_CONTROL, PORT_IDE_PRIMARY_CONTROL},
                                          {DP_IDE_WINDOW_SECONDARY, PORT_IDE_SECONDARY},
                                          {DP_IDE_WINDOW_SECONDARY_CONTROL, PORT_IDE_SECONDARY_CONTROL}};
    struct dp_device *d = pc->chipset->drives = pc_add(pc, &dp_ide_class, "ide", e);
    if (!d)
        return -ENOMEM;
    dp_ide_wire(d, (const struct dp_irq[]){dp_gsi_irq(&pc->router, IRQ_IDE), dp_gsi_irq(&pc->router, IRQ_IDE + 1)});
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++) {
        const struct dp_pc_drive *drive = &pc->config.firmware->drive[i];
        if (drive->cdrom)
            dp_ide_attach_cdrom(d, i, drive->block);
        else if (drive->block)
            dp_ide_attach_disk(d, i, drive->block, drive->serial);
    }
    int rc = CHIPSET_START(d, places, e);
    return rc ? rc : dp_pci_plug_function(dp_pci_host_of(pc->pci), dp_ide_function(d), SLOT_PIIX, FUNCTION_IDE, e);
}

static void drive_path(struct dp_buffer *order, unsigned n)
{
    dp_buffer_printf(order, "/pci@i0cf8/ide@%u,%u/drive@%u/disk@%u\n", SLOT_PIIX, FUNCTION_IDE, n / 2, n % 2);
}

static void describe(struct dp_pc *pc, struct dp_acpi_config *a)
{
    a->ecam_base = 0;
    a->pci_gsi = pci_irq;
    a->mmio32_first = DP_MAX(pc->low, 0x80000000ull); /* where firmware puts BARs */
}

const struct board board_i440fx = {
    .low_split = DP_PC_LOW_RAM_MAX,
    .low_max = DP_PC_LOW_RAM_MAX,
    .drives = DP_IDE_DRIVES,
    .isa_slot = SLOT_PIIX,
    .hpet_gsi = 16,
    .wire_pci = wire_pci,
    .add_bridges = add_bridges,
    .add_drives = add_drives,
    .change_medium = dp_ide_change_medium,
    .drive_path = drive_path,
    .describe = describe,
};
