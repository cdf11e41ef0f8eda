/* devices/pci/ich9.c - see ich9.h. */
#include "devices/pci/ich9.h"

#include "devices/pci/south.h"

enum { HEADER_TYPE = 0x0e, MULTIFUNCTION = 0x80, PMBASE = 0x40, ACPI_CNTL = 0x44, ACPI_EN = 0x80, GPIOBASE = 0x48, GPIO_CNTL = 0x4c,
       PIRQA_ROUT = 0x60, SIRQ_CNTL = 0x64, PIRQE_ROUT = 0x68, LPC_IO = 0x80, GEN_PMCON = 0xa0, RCBA = 0xf0, RCBA_EN = 1 };
enum { RCRB_SIZE = 0x4000, CHIPSET_START = 0x3000, CHIPSET_SIZE = 0x1000 };

struct lpc_regs {
    struct dp_pci_regs pci;
    uint8_t chipset[CHIPSET_SIZE];
};

struct lpc {
    struct dp_device device;
    struct lpc_regs regs;
    struct dp_pci_function function;
    struct dp_south_pirqs pirqs;
    struct dp_south_pm pm;
    struct dp_irq apic[DP_ICH9_PIRQS];
    uint32_t rcrb_mapping, rcrb_at; /* 0: nowhere */
    bool rcrb_busy, rcrb_again;
};

static const struct dp_field lpc_fields[] = {
    DP_FIELD_STRUCT(struct lpc_regs, pci, 1, &dp_pci_regs_table),
    DP_FIELD_BYTES(struct lpc_regs, chipset, 2),
};
static const struct dp_state_table lpc_table = DP_STATE_TABLE(struct lpc_regs, "ich9-lpc", lpc_fields);

static struct lpc *lpc_of(struct dp_device *d) { return (struct lpc *)d; }

/* ---- the root complex's registers ---- */

static uint64_t rcrb_read(void *opaque, uint64_t offset, unsigned size)
{
    struct lpc *p = opaque;
    uint64_t value = 0;
    if (offset < CHIPSET_START)
        return 0;
    pthread_mutex_lock(&p->device.lock);
    memcpy(&value, p->regs.chipset + (offset - CHIPSET_START), size);
    pthread_mutex_unlock(&p->device.lock);
    return value;
}

static void rcrb_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct lpc *p = opaque;
    if (offset < CHIPSET_START)
        return;
    pthread_mutex_lock(&p->device.lock);
    memcpy(p->regs.chipset + (offset - CHIPSET_START), &value, size);
    pthread_mutex_unlock(&p->device.lock);
}

static const struct dp_window_ops rcrb_ops = {"ich9-rcrb", rcrb_read, rcrb_write, 1, 4};

/* One thread at a time maps, without lock. */
static void map_rcrb(struct lpc *p)
{
    struct dp_space *memory = p->device.env->memory;
    pthread_mutex_lock(&p->device.lock);
    p->rcrb_again = true;
    while (p->rcrb_again && !p->rcrb_busy) {
        uint32_t reg = dp_ld32(p->regs.pci.config + RCBA), at = reg & RCBA_EN ? reg & ~(uint32_t)(RCRB_SIZE - 1) : 0;
        p->rcrb_again = false;
        if (at == p->rcrb_at)
            break;
        p->rcrb_busy = true;
        pthread_mutex_unlock(&p->device.lock);
        struct dp_error e = {0};
        if (p->rcrb_at)
            dp_space_unmap(memory, p->rcrb_mapping);
        if (at && dp_space_map_window(memory, at, RCRB_SIZE, &rcrb_ops, p, DP_PCI_BAR_PRIORITY, &p->rcrb_mapping, &e)) {
            dp_trace_guest(p->device.env->trace, "%s: the root complex's registers cannot be at 0x%x: %s", p->device.id, at, e.text);
            at = 0;
        }
        pthread_mutex_lock(&p->device.lock);
        p->rcrb_at = at;
        p->rcrb_busy = false;
    }
    pthread_mutex_unlock(&p->device.lock);
}

/* ---- interrupts ---- */

static void pirq_set(void *opaque, unsigned n, bool level)
{
    struct lpc *p = opaque;
    dp_irq_set(&p->apic[n], level);
    dp_south_pirq_set(&p->pirqs, n, level);
}

struct dp_pci_function *dp_ich9_lpc_function(struct dp_device *d) { return &lpc_of(d)->function; }
struct dp_irq dp_ich9_lpc_pirq(struct dp_device *d, unsigned n) { return (struct dp_irq){pirq_set, d, n}; }

void dp_ich9_lpc_wire(struct dp_device *d, const struct dp_irq irq[16], const struct dp_irq apic[DP_ICH9_PIRQS], struct dp_device *pm)
{
    memcpy(lpc_of(d)->pirqs.irq, irq, DP_SOUTH_IRQS * sizeof *irq);
    memcpy(lpc_of(d)->apic, apic, DP_ICH9_PIRQS * sizeof *apic);
    lpc_of(d)->pm.registers = pm;
}

/* ---- life ---- */

static uint16_t pm_where(const uint8_t *config) { return config[ACPI_CNTL] & ACPI_EN ? dp_ld16(config + PMBASE) & 0xff80 : 0; }

static void changed(struct dp_pci_function *f)
{
    struct lpc *p = f->opaque;
    dp_south_pirqs_changed(&p->pirqs);
    dp_south_pm_changed(&p->pm);
    map_rcrb(p);
}

static int lpc_init(struct dp_device *d, struct dp_error *e)
{
    static const struct dp_pci_id id = {.vendor = 0x8086, .device = 0x2918, .revision = 2, .class_code = 0x060100};
    struct lpc *p = lpc_of(d);
    struct dp_pci_function *f = &p->function;
    p->pirqs.owner = p->pm.owner = d;
    p->pirqs.config = p->pm.config = p->regs.pci.config;
    p->pirqs.count = DP_ICH9_PIRQS;
    for (unsigned n = 0; n < DP_ICH9_PIRQS; n++)
        p->pirqs.route[n] = (uint8_t)(n < 4 ? PIRQA_ROUT + n : PIRQE_ROUT + n - 4);
    p->pm.where = pm_where;
    dp_pci_function_init(f, &p->regs.pci, &id, d->env, &d->lock);
    dp_pci_set_config(f, HEADER_TYPE, MULTIFUNCTION, 1);
    dp_pci_set_config(f, DP_PCI_COMMAND, DP_PCI_COMMAND_IO | DP_PCI_COMMAND_MEMORY | DP_PCI_COMMAND_MASTER, 2);
    dp_pci_set_config(f, PMBASE, 1, 4);
    dp_pci_set_config(f, GPIOBASE, 1, 4);
    dp_pci_set_config(f, PIRQA_ROUT, 0x80808080, 4);
    dp_pci_set_config(f, PIRQE_ROUT, 0x80808080, 4);
    dp_pci_set_config(f, SIRQ_CNTL, 0x10, 1);
    dp_st16(f->write_mask + DP_PCI_COMMAND, 0x0140); /* the others are wired to 1 */
    dp_st16(f->write_mask + PMBASE, 0xff80);
    f->write_mask[ACPI_CNTL] = ACPI_EN | 7;
    dp_st16(f->write_mask + GPIOBASE, 0xffc0);
    f->write_mask[GPIO_CNTL] = 0x10;
    memset(f->write_mask + PIRQA_ROUT, 0x8f, 4);
    f->write_mask[SIRQ_CNTL] = 0xff;
    memset(f->write_mask + PIRQE_ROUT, 0x8f, 4);
    memset(f->write_mask + LPC_IO, 0xff, 0x14);  /* what LPC decodes: kept, means nothing here */
    memset(f->write_mask + GEN_PMCON, 0xff, 12); /* power management: likewise */
    memset(f->write_mask + 0xd0, 0xff, 13);      /* firmware hub and BIOS control: likewise */
    dp_st32(f->write_mask + RCBA, ~(uint32_t)(RCRB_SIZE - 1) | RCBA_EN);
    f->watch_first = PMBASE;
    f->watch_last = RCBA + 3;
    f->config_changed = changed;
    f->opaque = p;
    return 0;
}

static void lpc_reset(struct dp_device *d) { dp_pci_function_reset(dp_ich9_lpc_function(d)); }

static void lpc_fini(struct dp_device *d)
{
    struct lpc *p = lpc_of(d);
    dp_pci_unplug(&p->function);
    dp_south_pm_fini(&p->pm);
    if (p->rcrb_at)
        dp_space_unmap(d->env->memory, p->rcrb_mapping);
}

static void lpc_post_load(struct dp_device *d)
{
    dp_pci_function_post_load(dp_ich9_lpc_function(d));
    changed(dp_ich9_lpc_function(d));
}

const struct dp_device_class dp_ich9_lpc_class = {
    .name = "ich9-lpc",
    .summary = "ICH9 LPC bridge: routes PCI interrupts, places the ACPI registers",
    .size = sizeof(struct lpc),
    .regs_offset = offsetof(struct lpc, regs),
    .state = &lpc_table,
    .init = lpc_init,
    .fini = lpc_fini,
    .reset = lpc_reset,
    .post_load = lpc_post_load,
};
