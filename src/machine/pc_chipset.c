/* machine/pc_chipset.c - the board of a PC with firmware: i440FX and PIIX3 with ROMs and everything old that firmware and systems know.
 *
 * Model: made on top of what every PC has (pc.c). Firmware finds everything by itself, as on a real board, and by fw_cfg, which says what cannot be
 * found: sizes of memory, ACPI tables (with a script that has it relocate them), the order to boot from.
 * Source: as in the devices' headers; SeaBIOS and OVMF for the names of fw_cfg files.
 */
#include <stdlib.h>

#include "devices/char/debugcon.h"
#include "devices/firmware/fw_cfg.h"
#include "devices/firmware/pm.h"
#include "devices/pci/piix.h"
#include "devices/timer/rtc.h"
#include "machine/i440fx.h"
#include "machine/pc_internal.h"

enum { SLOT_PIIX = 1, FUNCTION_ISA = 0, FUNCTION_IDE = 1, FUNCTION_PM = 3, SLOT_VGA = 2 };
enum { PIRQS = 4 };
static const uint8_t pirq_irq[PIRQS] = {10, 10, 11, 11}; /* where SeaBIOS and OVMF route PIRQA-D */
#define MMIO32_END 0xfec00000ull

struct chipset {
    struct i440fx north;
    struct dp_ram *bios;
    struct dp_device *isa, *pm, *fw_cfg;
};

struct chipset *chipset_new(void) { return calloc(1, sizeof(struct chipset)); }

int chipset_map(struct dp_pc *pc, struct dp_error *e)
{
    struct chipset *s = pc->chipset;
    const struct dp_boot_blob *b = &pc->config.firmware->bios;
    uint32_t id;
    if (!b->size || b->size % 0x10000 || b->size > 16u << 20)
        return dp_error_set(e, -EINVAL, "a BIOS image has a multiple of 64 KiB, and 16 MiB at most; this one has %zu bytes", b->size);
    int rc = dp_ram_create("bios", b->size, &s->bios, e);
    if (rc)
        return rc;
    memcpy(s->bios->host, b->data, b->size);
    if ((rc = dp_space_map_ram(pc->env.memory, (1ull << 32) - b->size, s->bios, 0, b->size, true, 0, &id, e)))
        return rc;
    return i440fx_init(&s->north, pc->env.memory, pc->ram, s->bios, e);
}

void chipset_destroy(struct dp_pc *pc)
{
    if (!pc->chipset)
        return;
    i440fx_fini(&pc->chipset->north);
    if (pc->chipset->bios)
        dp_ram_destroy(pc->chipset->bios);
    free(pc->chipset);
}

/* ---- interrupts ---- */

unsigned chipset_pci_irq(unsigned device, unsigned pin) { return pirq_irq[dp_pci_pirq(device, pin)]; }

static void pirq_set(void *opaque, unsigned n, bool level)
{
    struct dp_pc *pc = opaque;
    if (!pc->chipset->isa)
        return;
    struct dp_irq pirq = dp_piix_isa_pirq(pc->chipset->isa, n);
    dp_irq_set(&pirq, level);
}

struct dp_irq chipset_pirq(struct dp_pc *pc, unsigned n) { return (struct dp_irq){pirq_set, pc, n}; }

/* ---- devices ---- */

static int add_piix(struct dp_pc *pc, struct dp_error *e)
{
    struct chipset *s = pc->chipset;
    struct dp_pci_host *host = dp_pci_host_of(pc->pci);
    struct dp_irq irq[16];
    int rc;
    i440fx_attach(&s->north, dp_pci_host_bridge(pc->pci));
    struct dp_device *isa = pc_add(pc, &dp_piix_isa_class, "piix-isa", e), *pm = pc_add(pc, &dp_piix_pm_class, "piix-pm", e);
    if (!isa || !pm)
        return -ENOMEM;
    for (unsigned i = 0; i < DP_ARRAY_LEN(irq); i++)
        irq[i] = dp_gsi_irq(&pc->router, i);
    dp_piix_isa_wire(isa, irq);
    dp_piix_pm_wire(pm, pc->pm);
    if ((rc = dp_device_init(isa, e)) || (rc = dp_device_init(pm, e)))
        return rc;
    s->isa = isa;
    s->pm = pm;
    rc = dp_pci_plug_function(host, dp_piix_isa_function(isa), SLOT_PIIX, FUNCTION_ISA, e);
    return rc ? rc : dp_pci_plug_function(host, dp_piix_pm_function(pm), SLOT_PIIX, FUNCTION_PM, e);
}

static int add_fw_cfg(struct dp_pc *pc, struct dp_error *e)
{
    struct dp_device *d = pc->chipset->fw_cfg = pc_add(pc, &dp_fw_cfg_class, "fw-cfg", e);
    int rc;
    if (!d)
        return -ENOMEM;
    if ((rc = dp_device_init(d, e)) || (rc = dp_device_map(d, DP_FW_CFG_WINDOW, DP_FW_CFG_PORT, e)))
        return rc;
    return dp_device_map(d, DP_FW_CFG_WINDOW_DMA, DP_FW_CFG_PORT_DMA, e);
}

static int add_debugcon(struct dp_pc *pc, struct dp_error *e)
{
    struct dp_device *d = pc_add(pc, &dp_debugcon_class, "debugcon", e);
    if (!d)
        return -ENOMEM;
    dp_debugcon_wire(d, pc->config.firmware->debug, DP_TRACE_BOOT);
    int rc = dp_device_init(d, e);
    return rc ? rc : dp_device_map(d, DP_DEBUGCON_WINDOW, DP_DEBUGCON_PORT, e);
}

int chipset_create(struct dp_pc *pc, struct dp_error *e)
{
    int rc;
    if ((rc = add_piix(pc, e)) || (rc = add_fw_cfg(pc, e)))
        return rc;
    return add_debugcon(pc, e);
}

/* ---- what firmware is told ---- */

/* The script by which firmware places and relocates tables: fw_cfg's "etc/table-loader", entries of 128 bytes. */
struct loader { struct dp_buffer script; };
enum { LOADER_ALLOCATE = 1, LOADER_POINTER, LOADER_SUM, LOADER_ENTRY = 128, LOADER_NAME = 56, ZONE_HIGH = 1, ZONE_FSEG = 2 };

static void entry(struct loader *l, uint32_t command, const char *file, const char *source, const uint32_t *number, unsigned numbers)
{
    uint8_t e[LOADER_ENTRY] = {0};
    unsigned at = 4 + LOADER_NAME;
    dp_st32(e, command);
    memcpy(e + 4, file, strlen(file));
    if (source) {
        memcpy(e + at, source, strlen(source));
        at += LOADER_NAME;
    }
    for (unsigned i = 0; i < numbers; i++)
        dp_st32(e + at + 4 * i, number[i]);
    dp_buffer_append(&l->script, e, sizeof(e));
}

static int add_acpi(struct dp_pc *pc, struct dp_error *e)
{
    static const char tables[] = "etc/acpi/tables", rsdp[] = "etc/acpi/rsdp";
    struct dp_device *d = pc->chipset->fw_cfg;
    struct dp_acpi_config a;
    struct dp_acpi_image image;
    struct loader l = {0};
    pc_acpi_config(pc, &a);
    a.ecam_base = 0;
    a.s5_type = 0;
    a.pci_gsi = chipset_pci_irq;
    a.level_irqs = 1u << 5 | 1u << 9 | 1u << 10 | 1u << 11;
    a.mmio32_first = DP_MAX(pc->low, 0x80000000ull); /* where firmware puts BARs */
    a.mmio32_last = MMIO32_END - 1;
    int rc = dp_acpi_build(&a, 0, &image, e);
    if (rc)
        return rc;
    entry(&l, LOADER_ALLOCATE, tables, NULL, (const uint32_t[]){64, ZONE_HIGH}, 2);
    entry(&l, LOADER_ALLOCATE, rsdp, NULL, (const uint32_t[]){16, ZONE_FSEG}, 2);
    for (unsigned i = 0; i < image.pointers; i++)
        entry(&l, LOADER_POINTER, image.pointer[i].at < DP_ACPI_RSDP_SIZE ? rsdp : tables, tables,
              (const uint32_t[]){image.pointer[i].at, image.pointer[i].size}, 2);
    for (unsigned i = 0; i < image.sums; i++) /* OVMF counts what stands there already, so nothing may */
        image.data.data[image.sum[i].at] = 0;
    for (unsigned i = 0; i < image.sums; i++)
        entry(&l, LOADER_SUM, image.sum[i].at < DP_ACPI_RSDP_SIZE ? rsdp : tables, NULL,
              (const uint32_t[]){image.sum[i].at, image.sum[i].from, image.sum[i].size}, 3);
    if (l.script.failed)
        rc = dp_error_set(e, -ENOMEM, "no memory for the ACPI tables");
    if (!rc && !(rc = dp_fw_cfg_add_file(d, tables, image.data.data, image.data.size, e)) &&
        !(rc = dp_fw_cfg_add_file(d, rsdp, image.data.data, DP_ACPI_RSDP_SIZE, e)))
        rc = dp_fw_cfg_add_file(d, "etc/table-loader", l.script.data, l.script.size, e);
    dp_buffer_fini(&l.script);
    dp_buffer_fini(&image.data);
    return rc;
}

int chipset_boot(struct dp_pc *pc, struct dp_error *e)
{
    struct dp_device *d = pc->chipset->fw_cfg;
    uint8_t e820[20] = {0};
    int rc;
    dp_st64(e820, HIGH_RAM_START);
    dp_st64(e820 + 8, pc->high);
    dp_st32(e820 + 16, 1);
    uint8_t low[20] = {0};
    dp_st64(low + 8, pc->low);
    dp_st32(low + 16, 1);
    uint8_t map[40];
    memcpy(map, low, 20);
    memcpy(map + 20, e820, 20);
    if ((rc = dp_fw_cfg_add_number(d, DP_FW_CFG_NB_CPUS, pc->config.cpus, 2, e)) ||
        (rc = dp_fw_cfg_add_number(d, DP_FW_CFG_MAX_CPUS, pc->config.cpus, 2, e)) ||
        (rc = dp_fw_cfg_add_number(d, DP_FW_CFG_RAM_SIZE, pc->low, 8, e)) ||
        (rc = dp_fw_cfg_add_number(d, DP_FW_CFG_BOOT_MENU, pc->config.firmware->boot_menu, 2, e)) ||
        (rc = dp_fw_cfg_add_number(d, DP_FW_CFG_IRQ0_OVERRIDE, 1, 4, e)) ||
        (rc = dp_fw_cfg_add_file(d, "etc/e820", map, pc->high ? 40 : 20, e)))
        return rc;
    return add_acpi(pc, e);
}
