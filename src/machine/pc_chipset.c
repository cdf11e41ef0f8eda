/* machine/pc_chipset.c - a PC with firmware: ROMs and everything old that firmware and systems know, on either board (chipset.h).
 *
 * Model: made on top of what every PC has (pc.c). Firmware finds everything by itself, as on a real board, and by fw_cfg, which says what
 * cannot be
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
#include "devices/intc/coprocessor.h"
#include "devices/intc/dma8237.h"
#include "devices/storage/fdc.h"
#include "devices/timer/hpet.h"
#include "devices/timer/rtc.h"
#include "machine/chipset.h"
#include "machine/mch.h"
#include "machine/pc_tables.h"

enum { SLOT_VGA = 2 };
enum { IRQ_KEYBOARD = 1, IRQ_FLOPPY = 6, IRQ_PRINTER = 7, IRQ_MOUSE = 12, IRQ_COPROCESSOR = 13, DMA_FLOPPY = 2 };
enum {
    PORT_DMA = 0x00, PORT_I8042_DATA = 0x60, PORT_I8042_COMMAND = 0x64, PORT_DMA_PAGES = 0x80, PORT_FAST_A20 = 0x92, PORT_DMA_SECOND = 0xc0, PORT_COPROCESSOR = 0xf0,
    PORT_PRINTER = 0x378, PORT_FDC = 0x3f0, PORT_FDC_DIR = 0x3f7
};
#define MMIO32_END 0xfec00000ull

struct chipset *chipset_new(enum dp_pc_board board)
{
    struct chipset *s = calloc(1, sizeof *s);
    if (s)
        s->board = board == DP_PC_Q35 ? &board_q35 : &board_i440fx;
    return s;
}

uint64_t chipset_low_memory(const struct dp_pc *pc)
{
    const struct board *b = pc->chipset->board;
    return pc->config.memory < b->low_split ? pc->config.memory : b->low_max;
}

void chipset_wire_pci(struct dp_pc *pc) { pc->chipset->board->wire_pci(pc); }

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
    return pam_init(&s->pam, pc->env.memory, pc->smm_memory, pc->ram, s->bios, e);
}

void chipset_destroy(struct dp_pc *pc)
{
    if (!pc->chipset)
        return;
    if (pc->chipset->mch)
        mch_fini(pc->chipset->mch);
    free(pc->chipset->mch);
    pam_fini(&pc->chipset->pam);
    if (pc->chipset->bios)
        dp_ram_destroy(pc->chipset->bios);
    free(pc->chipset);
}

/* ---- devices ---- */

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

int chipset_start(struct dp_device *d, const struct chipset_place *places, unsigned count, struct dp_error *e)
{
    int rc = dp_device_init(d, e);
    for (unsigned i = 0; !rc && i < count; i++)
        rc = dp_device_map(d, places[i].window, places[i].base, e);
    return rc;
}

static int add_vga(struct dp_pc *pc, struct dp_error *e)
{
    static const struct chipset_place places[] = {{DP_VGA_WINDOW_MEMORY, DP_VGA_MEMORY_BASE},
                                          {DP_VGA_WINDOW_MONO, DP_VGA_PORT_MONO},
                                          {DP_VGA_WINDOW_PORTS, DP_VGA_PORT_VGA},
                                          {DP_VGA_WINDOW_DISPI, DP_VGA_PORT_DISPI}};
    const struct dp_boot_blob *rom = &pc->config.firmware->vga_bios;
    struct dp_device *d = pc->chipset->vga = pc_add(pc, &dp_vga_class, "vga0", e);
    if (!d)
        return -ENOMEM;
    dp_vga_wire(d, rom->data, rom->size);
    int rc = pc_screen_size(pc, d, e);
    if (!rc)
        rc = CHIPSET_START(d, places, e);
    return rc ? rc : dp_pci_plug(dp_pci_host_of(pc->pci), dp_vga_function(d), SLOT_VGA, e);
}

/* Address bit 20 of what processors access goes through the gate; while it is closed each odd megabyte is the even one below it. */
static void a20_set(void *opaque, unsigned n, bool open)
{
    struct dp_pc *pc = opaque;
    (void)n;
    dp_space_set_cpu_mask(pc->env.memory, open ? UINT64_MAX : ~EXTENDED_START);
}

static int add_i8042(struct dp_pc *pc, struct dp_error *e)
{
    static const struct chipset_place places[] = {{DP_I8042_WINDOW_DATA, PORT_I8042_DATA},
                                          {DP_I8042_WINDOW_COMMAND, PORT_I8042_COMMAND},
                                          {DP_I8042_WINDOW_PORT92, PORT_FAST_A20}};
    struct dp_device *d = pc->chipset->i8042 = pc_add(pc, &dp_i8042_class, "i8042", e);
    if (!d)
        return -ENOMEM;
    dp_i8042_wire(d, dp_gsi_irq(&pc->router, IRQ_KEYBOARD), dp_gsi_irq(&pc->router, IRQ_MOUSE), (struct dp_irq){a20_set, pc, 0});
    return CHIPSET_START(d, places, e);
}

static int add_floppies(struct dp_pc *pc, struct dp_error *e)
{
    static const struct chipset_place dma_places[] = {
        {DP_DMA_WINDOW_FIRST, PORT_DMA}, {DP_DMA_WINDOW_SECOND, PORT_DMA_SECOND}, {DP_DMA_WINDOW_PAGES, PORT_DMA_PAGES}};
    static const struct chipset_place fdc_places[] = {{DP_FDC_WINDOW, PORT_FDC}, {DP_FDC_WINDOW_DIR, PORT_FDC_DIR}};
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
    rc = CHIPSET_START(dma, dma_places, e);
    if (rc || (rc = CHIPSET_START(fdc, fdc_places, e)))
        return rc;
    /* CMOS: types of the drives; equipment: how many, a coprocessor, a mouse port. */
    unsigned first = dp_fdc_drive_type(fdc, 0), second = dp_fdc_drive_type(fdc, 1), drives = !!first + !!second;
    dp_rtc_set_nvram(pc->rtc, 0x10, (uint8_t)(first << 4 | second));
    dp_rtc_set_nvram(pc->rtc, 0x14, (uint8_t)(0x06 | (drives ? 1 | (drives - 1) << 6 : 0)));
    return 0;
}

static int add_printer(struct dp_pc *pc, struct dp_error *e)
{
    static const struct chipset_place places[] = {{DP_PARALLEL_WINDOW, PORT_PRINTER}};
    struct dp_device *d = pc_add(pc, &dp_parallel_class, "parallel", e);
    if (!d)
        return -ENOMEM;
    dp_parallel_wire(d, dp_gsi_irq(&pc->router, IRQ_PRINTER), pc->config.firmware->printer);
    return CHIPSET_START(d, places, e);
}

/* Interrupts 0 and 8 in legacy mode; else any input of the I/O APIC that no ISA or PCI device has. */
static int add_hpet(struct dp_pc *pc, struct dp_error *e)
{
    static const struct chipset_place places[] = {{DP_HPET_WINDOW, DP_HPET_BASE}};
    struct dp_hpet_wires wires = {.irq0 = pc->timers.line[0], .irq8 = pc->timers.line[1], .legacy = pc_timers_legacy(&pc->timers)};
    struct dp_device *d = pc_add(pc, &dp_hpet_class, "hpet", e);
    if (!d)
        return -ENOMEM;
    for (unsigned i = pc->chipset->board->hpet_gsi; i < DP_HPET_PINS; i++)
        wires.pin[i] = dp_gsi_irq(&pc->router, i);
    dp_hpet_wire(d, &wires);
    return CHIPSET_START(d, places, e);
}

static int add_coprocessor(struct dp_pc *pc, struct dp_error *e)
{
    static const struct chipset_place places[] = {{DP_COPROCESSOR_WINDOW, PORT_COPROCESSOR}};
    struct dp_device *d = pc_add(pc, &dp_coprocessor_class, "coprocessor", e);
    if (!d)
        return -ENOMEM;
    pc->coprocessor = d;
    dp_coprocessor_wire(d, dp_gsi_irq(&pc->router, IRQ_COPROCESSOR));
    return CHIPSET_START(d, places, e);
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
    if ((rc = add_variables(pc, e)) || (rc = pc->chipset->board->add_bridges(pc, e)) || (rc = add_fw_cfg(pc, e)) || (rc = add_debugcon(pc, e)) ||
        (!pc->config.no_vga && (rc = add_vga(pc, e))) || (rc = add_i8042(pc, e)) || (rc = add_floppies(pc, e)) || (rc = pc->chipset->board->add_drives(pc, e)) ||
        (rc = add_hpet(pc, e)) || (rc = add_coprocessor(pc, e)))
        return rc;
    return add_printer(pc, e);
}

bool chipset_display(struct dp_pc *pc, struct dp_display_source *out)
{
    if (pc->chipset->vga)
        *out = dp_vga_source(pc->chipset->vga);
    return pc->chipset->vga;
}
struct dp_input_sink chipset_input(struct dp_pc *pc) { return dp_i8042_sink(pc->chipset->i8042); }

int chipset_change_medium(struct dp_pc *pc, bool cdrom, unsigned n, struct dp_block *medium, struct dp_error *e)
{
    if (!cdrom)
        return dp_fdc_change_medium(pc->chipset->fdc, n, medium, e);
    for (unsigned i = 0; i < pc->chipset->board->drives; i++)
        if (pc->config.firmware->drive[i].cdrom && !n--)
            return pc->chipset->board->change_medium(pc->chipset->drives, i, medium, e);
    return dp_error_set(e, -ENODEV, "there is no such CD-ROM drive");
}

/* ---- what firmware is told ---- */

/* The script by which firmware places and relocates tables: fw_cfg's "etc/table-loader", entries of 128 bytes. */
struct loader { struct dp_buffer script; };
enum { LOADER_ALLOCATE = 1, LOADER_POINTER, LOADER_SUM, LOADER_WRITE_POINTER, LOADER_ENTRY = 128, LOADER_NAME = 56, ZONE_HIGH = 1, ZONE_FSEG = 2 };

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
    pc->chipset->board->describe(pc, &a);
    a.hpet_base = DP_HPET_BASE;
    a.fw_cfg = true;
    a.vmgenid = pc->config.firmware->vmgenid;
    a.vga = pc->chipset->vga;
    a.i8042 = a.floppy = a.printer = true;
    a.level_irqs = 1u << 5 | 1u << 9 | 1u << 10 | 1u << 11;
    a.mmio32_last = MMIO32_END - 1;
    int rc = dp_acpi_build(&a, 0, &image, e);
    if (rc)
        return rc;
    entry(&l, LOADER_ALLOCATE, tables, NULL, (const uint32_t[]){64, ZONE_HIGH}, 2);
    entry(&l, LOADER_ALLOCATE, rsdp, NULL, (const uint32_t[]){16, ZONE_FSEG}, 2);
    for (unsigned i = 0; i < image.pointers; i++)
        entry(&l, LOADER_POINTER, image.pointer[i].at < DP_ACPI_RSDP_SIZE ? rsdp : tables, tables,
              (const uint32_t[]){image.pointer[i].at, image.pointer[i].size}, 2);
    if (image.vmgenid_at) {
        entry(&l, LOADER_ALLOCATE, PC_VMGENID_GUID, NULL, (const uint32_t[]){DP_PAGE_SIZE, ZONE_HIGH}, 2);
        entry(&l, LOADER_POINTER, tables, PC_VMGENID_GUID, (const uint32_t[]){image.vmgenid_at, 4}, 2);
        entry(&l, LOADER_WRITE_POINTER, PC_VMGENID_ADDRESS, PC_VMGENID_GUID, (const uint32_t[]){0, DP_ACPI_VMGENID_OFFSET, 8}, 3);
    }
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
        for (unsigned i = 0; i < pc->chipset->board->drives && (*kind == 'c' || *kind == 'd'); i++)
            if (f->drive[i].cdrom ? *kind == 'd' : *kind == 'c' && f->drive[i].block)
                pc->chipset->board->drive_path(&order, i);
        for (unsigned i = 0; i < pc->config.disk_count && *kind == 'c'; i++)
            dp_buffer_printf(&order, "/pci@i0cf8/scsi@%x/disk@0,0\n", pc_disk_slot(pc, i));
        for (unsigned i = 0; i < pc->config.scsi_count && (*kind == 'c' || *kind == 'd'); i++)
            if (pc->config.scsi[i].cdrom == (*kind == 'd'))
                dp_buffer_printf(&order, "/pci@i0cf8/scsi@%x/channel@0/disk@%x,0\n", pc_scsi_slot(pc), i);
        for (unsigned i = 0; i < pc->config.nic_count && *kind == 'n'; i++)
            dp_buffer_printf(&order, "/pci@i0cf8/ethernet@%x/ethernet-phy@0\n", pc_nic_slot(pc, i));
        for (unsigned i = 0; i < pc->config.usb_count && *kind == 'u'; i++)
            if (pc->config.usb[i].kind == DP_USB_STORAGE)
                dp_buffer_printf(&order, "/pci@i0cf8/usb@%x/storage@%x/channel@0/disk@0,0\n", SLOT_USB, pc->usb_port[i]);
        for (unsigned i = 0; i < DP_FDC_DRIVES && *kind == 'a'; i++)
            if (f->floppy[i])
                dp_buffer_printf(&order, "/pci@i0cf8/isa@%x/fdc@%04x/floppy@%u\n", pc->chipset->board->isa_slot, PORT_FDC, i);
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
        (rc = dp_fw_cfg_add_file(d, "etc/e820", map, pc->high ? 2 * E820_ENTRY : E820_ENTRY, e)) || (rc = add_boot_order(pc, e)) ||
        (rc = pc_tables_add(&pc->config, pc->low, pc->high, d, e)))
        return rc;
    return add_acpi(pc, e);
}
