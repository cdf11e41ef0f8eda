/* machine/pc_chipset.c - the board of a PC with firmware: i440FX and PIIX3 with ROMs and everything old that firmware and systems know.
 *
 * Model: made on top of what every PC has (pc.c). Firmware finds everything by itself, as on a real board, and by fw_cfg, which says what cannot be
 * found: sizes of memory, ACPI tables (with a script that has it relocate them), the order to boot from.
 * Source: as in the devices' headers; SeaBIOS and OVMF for the names of fw_cfg files.
 */
#include <stdlib.h>

#include "devices/char/debugcon.h"
#include "devices/char/parallel.h"
#include "devices/display/vga.h"
#include "devices/firmware/fw_cfg.h"
#include "devices/firmware/pflash.h"
#include "devices/firmware/pm.h"
#include "devices/input/i8042.h"
#include "devices/intc/dma8237.h"
#include "devices/pci/piix.h"
#include "devices/storage/fdc.h"
#include "devices/storage/ide.h"
#include "devices/timer/rtc.h"
#include "machine/i440fx.h"
#include "machine/pc_internal.h"

enum { SLOT_PIIX = 1, FUNCTION_ISA = 0, FUNCTION_IDE = 1, FUNCTION_PM = 3, SLOT_VGA = 2 };
enum { PIRQS = 4 };
enum { IRQ_KEYBOARD = 1, IRQ_FLOPPY = 6, IRQ_PRINTER = 7, IRQ_MOUSE = 12, IRQ_IDE = 14, DMA_FLOPPY = 2 };
enum {
    PORT_DMA = 0x00, PORT_I8042_DATA = 0x60, PORT_I8042_COMMAND = 0x64, PORT_DMA_PAGES = 0x80, PORT_FAST_A20 = 0x92, PORT_DMA_SECOND = 0xc0,
    PORT_IDE_SECONDARY = 0x170, PORT_IDE_PRIMARY = 0x1f0, PORT_IDE_SECONDARY_CONTROL = 0x376, PORT_PRINTER = 0x378, PORT_FDC = 0x3f0,
    PORT_IDE_PRIMARY_CONTROL = 0x3f6, PORT_FDC_DIR = 0x3f7
};
static const uint8_t pirq_irq[PIRQS] = {10, 10, 11, 11}; /* where SeaBIOS and OVMF route PIRQA-D */
#define MMIO32_END 0xfec00000ull

struct chipset {
    struct i440fx north;
    struct dp_ram *bios;
    struct dp_device *isa, *pm, *fw_cfg, *vga, *i8042, *ide, *fdc;
};

struct chipset *chipset_new(void) { return calloc(1, sizeof(struct chipset)); }

int chipset_map(struct dp_pc *pc, struct dp_error *e)
{
    struct chipset *s = pc->chipset;
    const struct dp_boot_blob *b = &pc->config.firmware->bios;
    uint32_t id;
    if (!b->size || b->size % DP_PAGE_SIZE || b->size > 16u << 20)
        return dp_error_set(e, -EINVAL, "a firmware image has a multiple of 4 KiB, and 16 MiB at most; this one has %zu bytes", b->size);
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

/* Windows of a device and where they go. */
struct place {
    unsigned window;
    uint64_t base;
};
static int map_all(struct dp_device *d, const struct place *places, unsigned count, struct dp_error *e)
{
    int rc = 0;
    for (unsigned i = 0; !rc && i < count; i++)
        rc = dp_device_map(d, places[i].window, places[i].base, e);
    return rc;
}
/* Makes a device's windows appear after its init. */
#define START(d, places, e) (dp_device_init(d, e) ?: map_all(d, places, DP_ARRAY_LEN(places), e))

static int add_vga(struct dp_pc *pc, struct dp_error *e)
{
    static const struct place places[] = {{DP_VGA_WINDOW_MEMORY, DP_VGA_MEMORY_BASE},
                                          {DP_VGA_WINDOW_MONO, DP_VGA_PORT_MONO},
                                          {DP_VGA_WINDOW_PORTS, DP_VGA_PORT_VGA},
                                          {DP_VGA_WINDOW_DISPI, DP_VGA_PORT_DISPI}};
    const struct dp_boot_blob *rom = &pc->config.firmware->vga_bios;
    struct dp_device *d = pc->chipset->vga = pc_add(pc, &dp_vga_class, "vga0", e);
    if (!d)
        return -ENOMEM;
    dp_vga_wire(d, rom->data, rom->size);
    int rc = START(d, places, e);
    return rc ? rc : dp_pci_plug(dp_pci_host_of(pc->pci), dp_vga_function(d), SLOT_VGA, e);
}

/* The level of address bit 20's gate is not followed: memory is as with the gate open, which all that runs today wants. */
static int add_i8042(struct dp_pc *pc, struct dp_error *e)
{
    static const struct place places[] = {{DP_I8042_WINDOW_DATA, PORT_I8042_DATA},
                                          {DP_I8042_WINDOW_COMMAND, PORT_I8042_COMMAND},
                                          {DP_I8042_WINDOW_PORT92, PORT_FAST_A20}};
    struct dp_device *d = pc->chipset->i8042 = pc_add(pc, &dp_i8042_class, "i8042", e);
    if (!d)
        return -ENOMEM;
    dp_i8042_wire(d, dp_gsi_irq(&pc->router, IRQ_KEYBOARD), dp_gsi_irq(&pc->router, IRQ_MOUSE), (struct dp_irq){0});
    return START(d, places, e);
}

static int add_floppies(struct dp_pc *pc, struct dp_error *e)
{
    static const struct place dma_places[] = {
        {DP_DMA_WINDOW_FIRST, PORT_DMA}, {DP_DMA_WINDOW_SECOND, PORT_DMA_SECOND}, {DP_DMA_WINDOW_PAGES, PORT_DMA_PAGES}};
    static const struct place fdc_places[] = {{DP_FDC_WINDOW, PORT_FDC}, {DP_FDC_WINDOW_DIR, PORT_FDC_DIR}};
    struct dp_device *dma = pc_add(pc, &dp_dma_class, "dma", e), *fdc = pc->chipset->fdc = pc_add(pc, &dp_fdc_class, "fdc", e);
    if (!dma || !fdc)
        return -ENOMEM;
    dp_fdc_wire(fdc, dp_gsi_irq(&pc->router, IRQ_FLOPPY), dma, DMA_FLOPPY);
    int rc = 0;
    for (unsigned i = 0; !rc && i < DP_FDC_DRIVES; i++) {
        dp_fdc_attach(fdc, i, pc->config.firmware->floppy[i]);
        if (pc->config.firmware->empty_floppy[i])
            rc = dp_device_set(fdc, i ? "drive1" : "drive0", "1.44M", e);
    }
    if (rc)
        return rc;
    rc = START(dma, dma_places, e);
    if (rc || (rc = START(fdc, fdc_places, e)))
        return rc;
    /* CMOS: types of the drives; equipment: how many, a coprocessor, a mouse port. */
    unsigned first = dp_fdc_drive_type(fdc, 0), second = dp_fdc_drive_type(fdc, 1), drives = !!first + !!second;
    dp_rtc_set_nvram(pc->rtc, 0x10, (uint8_t)(first << 4 | second));
    dp_rtc_set_nvram(pc->rtc, 0x14, (uint8_t)(0x06 | (drives ? 1 | (drives - 1) << 6 : 0)));
    return 0;
}

static int add_ide(struct dp_pc *pc, struct dp_error *e)
{
    static const struct place places[] = {{DP_IDE_WINDOW_PRIMARY, PORT_IDE_PRIMARY},
                                          {DP_IDE_WINDOW_PRIMARY_CONTROL, PORT_IDE_PRIMARY_CONTROL},
                                          {DP_IDE_WINDOW_SECONDARY, PORT_IDE_SECONDARY},
                                          {DP_IDE_WINDOW_SECONDARY_CONTROL, PORT_IDE_SECONDARY_CONTROL}};
    struct dp_device *d = pc->chipset->ide = pc_add(pc, &dp_ide_class, "ide", e);
    if (!d)
        return -ENOMEM;
    dp_ide_wire(d, (const struct dp_irq[]){dp_gsi_irq(&pc->router, IRQ_IDE), dp_gsi_irq(&pc->router, IRQ_IDE + 1)});
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++) {
        const struct dp_pc_drive *drive = &pc->config.firmware->ide[i];
        if (drive->cdrom)
            dp_ide_attach_cdrom(d, i, drive->block);
        else if (drive->block)
            dp_ide_attach_disk(d, i, drive->block, NULL);
    }
    int rc = START(d, places, e);
    return rc ? rc : dp_pci_plug_function(dp_pci_host_of(pc->pci), dp_ide_function(d), SLOT_PIIX, FUNCTION_IDE, e);
}

static int add_printer(struct dp_pc *pc, struct dp_error *e)
{
    static const struct place places[] = {{DP_PARALLEL_WINDOW, PORT_PRINTER}};
    struct dp_device *d = pc_add(pc, &dp_parallel_class, "parallel", e);
    if (!d)
        return -ENOMEM;
    dp_parallel_wire(d, dp_gsi_irq(&pc->router, IRQ_PRINTER), pc->config.firmware->printer);
    return START(d, places, e);
}

/* Where UEFI firmware keeps its variables: OVMF looks for flash right below its code. */
static int add_variables(struct dp_pc *pc, struct dp_error *e)
{
    const struct dp_pc_firmware *f = pc->config.firmware;
    if (!f->variables_path && !f->variables.size)
        return 0;
    struct dp_device *d = pc_add(pc, &dp_pflash_class, "variables", e);
    if (!d)
        return -ENOMEM;
    dp_pflash_wire(d, &(struct dp_pflash_options){.path = f->variables_path, .data = f->variables.data, .size = f->variables.size});
    int rc = dp_device_init(d, e);
    return rc ? rc : dp_pflash_map(d, (1ull << 32) - f->bios.size - dp_pflash_size(d), e);
}

int chipset_create(struct dp_pc *pc, struct dp_error *e)
{
    int rc;
    if ((rc = add_variables(pc, e)) || (rc = add_piix(pc, e)) || (rc = add_fw_cfg(pc, e)) || (rc = add_debugcon(pc, e)) || (rc = add_vga(pc, e)) || (rc = add_i8042(pc, e)) ||
        (rc = add_floppies(pc, e)) || (rc = add_ide(pc, e)))
        return rc;
    return add_printer(pc, e);
}

struct dp_display_source chipset_display(struct dp_pc *pc) { return dp_vga_source(pc->chipset->vga); }
struct dp_input_sink chipset_input(struct dp_pc *pc) { return dp_i8042_sink(pc->chipset->i8042); }

int chipset_change_medium(struct dp_pc *pc, bool cdrom, unsigned n, struct dp_block *medium, struct dp_error *e)
{
    if (!cdrom)
        return dp_fdc_change_medium(pc->chipset->fdc, n, medium, e);
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++)
        if (pc->config.firmware->ide[i].cdrom && !n--)
            return dp_ide_change_medium(pc->chipset->ide, i, medium, e);
    return dp_error_set(e, -ENODEV, "there is no such CD-ROM drive");
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
    a.pci_gsi = chipset_pci_irq;
    a.vga = a.i8042 = a.floppy = a.printer = true;
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

/* SeaBIOS and OVMF take devices in the order of this file's lines, Open Firmware's paths. */
static int add_boot_order(struct dp_pc *pc, struct dp_error *e)
{
    const struct dp_pc_firmware *f = pc->config.firmware;
    struct dp_buffer order = {0};
    for (const char *kind = f->boot_order ? f->boot_order : ""; *kind; kind++) {
        for (unsigned i = 0; i < DP_IDE_DRIVES && (*kind == 'c' || *kind == 'd'); i++)
            if (f->ide[i].cdrom ? *kind == 'd' : *kind == 'c' && f->ide[i].block)
                dp_buffer_printf(&order, "/pci@i0cf8/ide@%u,%u/drive@%u/disk@%u\n", SLOT_PIIX, FUNCTION_IDE, i / 2, i % 2);
        for (unsigned i = 0; i < pc->config.disk_count && *kind == 'c'; i++)
            dp_buffer_printf(&order, "/pci@i0cf8/scsi@%x/disk@0,0\n", pc_disk_slot(pc, i));
        for (unsigned i = 0; i < DP_FDC_DRIVES && *kind == 'a'; i++)
            if (f->floppy[i])
                dp_buffer_printf(&order, "/pci@i0cf8/isa@%u/fdc@%04x/floppy@%u\n", SLOT_PIIX, PORT_FDC, i);
    }
    if (order.size)
        dp_buffer_append(&order, "HALT", 5); /* nothing else; with its NUL */
    int rc = order.failed ? dp_error_set(e, -ENOMEM, "no memory for the boot order") : 0;
    if (!rc && order.size)
        rc = dp_fw_cfg_add_file(pc->chipset->fw_cfg, "bootorder", order.data, order.size, e);
    dp_buffer_fini(&order);
    return rc;
}

int chipset_boot(struct dp_pc *pc, struct dp_error *e)
{
    struct dp_device *d = pc->chipset->fw_cfg;
    enum { E820_ENTRY = 20, E820_RAM = 1 };
    uint8_t map[2 * E820_ENTRY] = {0};
    int rc;
    dp_st64(map + 8, pc->low);
    dp_st32(map + 16, E820_RAM);
    dp_st64(map + E820_ENTRY, HIGH_RAM_START);
    dp_st64(map + E820_ENTRY + 8, pc->high);
    dp_st32(map + E820_ENTRY + 16, E820_RAM);
    if ((rc = dp_fw_cfg_add_number(d, DP_FW_CFG_NB_CPUS, pc->config.cpus, 2, e)) ||
        (rc = dp_fw_cfg_add_number(d, DP_FW_CFG_MAX_CPUS, pc->config.cpus, 2, e)) ||
        (rc = dp_fw_cfg_add_number(d, DP_FW_CFG_RAM_SIZE, pc->low, 8, e)) ||
        (rc = dp_fw_cfg_add_number(d, DP_FW_CFG_BOOT_MENU, pc->config.firmware->boot_menu, 2, e)) ||
        (rc = dp_fw_cfg_add_number(d, DP_FW_CFG_IRQ0_OVERRIDE, 1, 4, e)) ||
        (rc = dp_fw_cfg_add_file(d, "etc/e820", map, pc->high ? 2 * E820_ENTRY : E820_ENTRY, e)) || (rc = add_boot_order(pc, e)))
        return rc;
    return add_acpi(pc, e);
}
