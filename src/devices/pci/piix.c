/* devices/pci/piix.c - see piix.h. */
#include "devices/pci/piix.h"

#include "devices/pci/south.h"

enum { PIRQS = 4, IRQS = DP_SOUTH_IRQS, PIRQRC = 0x60, HEADER_TYPE = 0x0e, MULTIFUNCTION = 0x80 };
enum { DEVACTB = 0x58, APMC_EN = 1 << 25, PMBASE = 0x40, PMREGMISC = 0x80, PMIOSE = 1, SMBUS_BASE = 0x90 };

/* ---- ISA bridge ---- */

struct isa_regs { struct dp_pci_regs pci; };
struct isa {
    struct dp_device device;
    struct isa_regs regs;
    struct dp_pci_function function;
    struct dp_south_pirqs pirqs;
};

static const struct dp_field isa_fields[] = {DP_FIELD_STRUCT(struct isa_regs, pci, 1, &dp_pci_regs_table)};
static const struct dp_state_table isa_table = DP_STATE_TABLE(struct isa_regs, "piix-isa", isa_fields);

static struct isa *isa_of(struct dp_device *d) { return (struct isa *)d; }

static void pirq_set(void *opaque, unsigned n, bool level) { dp_south_pirq_set(&((struct isa *)opaque)->pirqs, n, level); }
static void isa_changed(struct dp_pci_function *f) { dp_south_pirqs_changed(&((struct isa *)f->opaque)->pirqs); }

struct dp_pci_function *dp_piix_isa_function(struct dp_device *d) { return &isa_of(d)->function; }
void dp_piix_isa_wire(struct dp_device *d, const struct dp_irq irq[IRQS]) { memcpy(isa_of(d)->pirqs.irq, irq, IRQS * sizeof(*irq)); }
struct dp_irq dp_piix_isa_pirq(struct dp_device *d, unsigned n) { return (struct dp_irq){pirq_set, d, n}; }

static int isa_init(struct dp_device *d, struct dp_error *e)
{
    static const struct dp_pci_id id = {.vendor = 0x8086, .device = 0x7000, .class_code = 0x060100};
    struct isa *p = isa_of(d);
    struct dp_pci_function *f = &p->function;
    p->pirqs.owner = d;
    p->pirqs.config = p->regs.pci.config;
    p->pirqs.count = PIRQS;
    for (unsigned n = 0; n < PIRQS; n++)
        p->pirqs.route[n] = (uint8_t)(PIRQRC + n);
    dp_pci_function_init(f, &p->regs.pci, &id, d->env, &d->lock);
    dp_pci_set_config(f, HEADER_TYPE, MULTIFUNCTION, 1);
    dp_pci_set_config(f, DP_PCI_COMMAND, DP_PCI_COMMAND_IO | DP_PCI_COMMAND_MEMORY | DP_PCI_COMMAND_MASTER, 2);
    dp_pci_set_config(f, PIRQRC, 0x80808080, 4);
    dp_st16(f->write_mask + DP_PCI_COMMAND, 8); /* the others are wired to 1 */
    memset(f->write_mask + PIRQRC, 0x8f, PIRQS);
    memset(f->write_mask + 0x4c, 0xff, 4); /* I/O recovery, XBCS: kept, mean nothing here */
    memset(f->write_mask + 0x69, 0xff, 3);
    f->watch_first = PIRQRC;
    f->watch_last = PIRQRC + PIRQS - 1;
    f->config_changed = isa_changed;
    f->opaque = p;
    return 0;
}

static void isa_reset(struct dp_device *d) { dp_pci_function_reset(dp_piix_isa_function(d)); }
static void isa_fini(struct dp_device *d) { dp_pci_unplug(dp_piix_isa_function(d)); }
static void isa_post_load(struct dp_device *d)
{
    dp_pci_function_post_load(dp_piix_isa_function(d));
    dp_south_pirqs_changed(&isa_of(d)->pirqs);
}

const struct dp_device_class dp_piix_isa_class = {
    .name = "piix-isa",
    .summary = "PIIX3 ISA bridge: routes PCI interrupts",
    .size = sizeof(struct isa),
    .regs_offset = offsetof(struct isa, regs),
    .state = &isa_table,
    .init = isa_init,
    .fini = isa_fini,
    .reset = isa_reset,
    .post_load = isa_post_load,
};

/* ---- power management ---- */

struct pm_regs { struct dp_pci_regs pci; };
struct pm {
    struct dp_device device;
    struct pm_regs regs;
    struct dp_pci_function function;
    struct dp_south_pm decode;
};

static const struct dp_field pm_fields[] = {DP_FIELD_STRUCT(struct pm_regs, pci, 1, &dp_pci_regs_table)};
static const struct dp_state_table pm_table = DP_STATE_TABLE(struct pm_regs, "piix-pm", pm_fields);

static struct pm *pm_of(struct dp_device *d) { return (struct pm *)d; }

static uint16_t where(const uint8_t *config) { return config[PMREGMISC] & PMIOSE ? dp_ld16(config + PMBASE) & 0xffc0 : 0; }
static void pm_changed(struct dp_pci_function *f) { dp_south_pm_changed(&((struct pm *)f->opaque)->decode); }

struct dp_pci_function *dp_piix_pm_function(struct dp_device *d) { return &pm_of(d)->function; }
void dp_piix_pm_wire(struct dp_device *d, struct dp_device *registers) { pm_of(d)->decode.registers = registers; }

static int pm_init(struct dp_device *d, struct dp_error *e)
{
    static const struct dp_pci_id id = {.vendor = 0x8086, .device = 0x7113, .revision = 3, .class_code = 0x068000, .interrupt_pin = 1};
    struct pm *p = pm_of(d);
    struct dp_pci_function *f = &p->function;
    p->decode.owner = d;
    p->decode.config = p->regs.pci.config;
    p->decode.where = where;
    dp_pci_function_init(f, &p->regs.pci, &id, d->env, &d->lock);
    dp_pci_set_config(f, PMBASE, 1, 4);
    dp_pci_set_config(f, SMBUS_BASE, 1, 4);
    dp_pci_set_config(f, DEVACTB, APMC_EN, 4); /* tells firmware that SMM is set up: there is none */
    dp_st16(f->write_mask + DP_PCI_COMMAND, DP_PCI_COMMAND_IO);
    dp_st16(f->write_mask + PMBASE, 0xffc0);
    dp_st16(f->write_mask + SMBUS_BASE, 0xfff0);
    memset(f->write_mask + 0x44, 0xff, 0x34); /* device monitors: kept, mean nothing here */
    f->write_mask[PMREGMISC] = PMIOSE;
    f->write_mask[0xd2] = 0x0f;
    f->watch_first = PMBASE;
    f->watch_last = PMREGMISC;
    f->config_changed = pm_changed;
    f->opaque = p;
    return 0;
}

static void pm_reset(struct dp_device *d) { dp_pci_function_reset(dp_piix_pm_function(d)); }
static void pm_fini(struct dp_device *d)
{
    dp_pci_unplug(dp_piix_pm_function(d));
    dp_south_pm_fini(&pm_of(d)->decode);
}
static void pm_post_load(struct dp_device *d)
{
    dp_pci_function_post_load(dp_piix_pm_function(d));
    dp_south_pm_changed(&pm_of(d)->decode);
}

const struct dp_device_class dp_piix_pm_class = {
    .name = "piix-pm",
    .summary = "PIIX4 power management: where the ACPI registers are",
    .size = sizeof(struct pm),
    .regs_offset = offsetof(struct pm, regs),
    .state = &pm_table,
    .init = pm_init,
    .fini = pm_fini,
    .reset = pm_reset,
    .post_load = pm_post_load,
};
