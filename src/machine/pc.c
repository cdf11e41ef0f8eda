/* machine/pc.c - see pc.h. Addresses and interrupt numbers of the PC stand in the tables below and nowhere else. */
#include <inttypes.h>
#include <stdlib.h>

#include "block/block.h"
#include "devices/char/debug_exit.h"
#include "devices/char/test_device.h"
#include "devices/char/uart.h"
#include "devices/firmware/pm.h"
#include "devices/intc/coprocessor.h"
#include "devices/intc/ioapic.h"
#include "devices/intc/pic.h"
#include "devices/pci/hotplug.h"
#include "devices/pci/pci.h"
#include "devices/timer/pit.h"
#include "devices/timer/rtc.h"
#include "devices/net/e1000.h"
#include "devices/net/ne2k.h"
#include "devices/net/rtl8139.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_balloon.h"
#include "devices/virtio/virtio_scsi.h"
#include "machine/pc_internal.h"
#include "machine/pvclock.h"
#include "net/net.h"

#define EBDA_START 0x9fc00ull
#define MMIO32_START 0xc0000000ull
#define MMIO32_END 0xe0000000ull
#define ECAM_BASE 0xe0000000ull
#define ECAM_SIZE (1ull << 20)
#define MMIO64_SIZE (32 * GiB)
#define PCI_IO_START 0x1000u
#define PCI_IO_END 0x10000u
#define TEST_MEMORY_BASE 0xff000000u

enum { IRQ_TIMER = 0, IRQ_COM2 = 3, IRQ_COM1 = 4, IRQ_RTC = 8, GSI_PCI = 16, GSI_PCI_COUNT = 8 };
enum { SLOT_RNG = 1, SLOT_CONSOLE = 2, SLOT_DISK = 3, SLOT_CHIPSET_END = 3 /* 1: PIIX3, 2: VGA, 3: network */, SLOT_NIC = 3, SLOT_NICS = 25 };
enum { SLOTS = 32 };
enum {
    PORT_PIC_MASTER = 0x20,
    PORT_PIT = 0x40,
    PORT_SPEAKER = 0x61,
    PORT_RTC = 0x70,
    PORT_PIC_SLAVE = 0xa0,
    PORT_TEST = 0xe0,
    PORT_TEST_FLUSH = 0xe4,
    PORT_DEBUG_EXIT = 0xf4,
    PORT_ELCR = 0x4d0,
    PORT_EXIT_STATUS = 0x520,
    PORT_PCI = 0xcf8,
    PORT_TEST_LINES = 0x2000
};
static const struct {
    uint16_t port;
    uint8_t irq;
} serial_wiring[DP_PC_SERIALS] = {{0x3f8, IRQ_COM1}, {0x2f8, IRQ_COM2}};

/* ---- memory ---- */

uint64_t dp_pc_memory_max(const struct x86_cpuid_model *model)
{
    unsigned bits = model->physical_bits ? model->physical_bits : 40;
    return (UINT64_C(1) << DP_MIN(bits, 52u)) - HIGH_RAM_START - 2 * MMIO64_SIZE + DP_PC_LOW_RAM_MAX;
}

static int map_memory(struct dp_pc *pc, struct dp_error *e)
{
    struct dp_space *m = pc->env.memory;
    uint32_t id;
    pc->low = pc->chipset ? chipset_low_memory(pc) : DP_MIN(pc->config.memory, DP_PC_LOW_RAM_MAX);
    pc->high = pc->config.memory - pc->low;
    pc->mmio64_start = DP_ALIGN_UP(HIGH_RAM_START + pc->high, GiB);
    pc->mmio64_end = pc->mmio64_start + MMIO64_SIZE;
    int rc = dp_ram_create("ram", pc->config.memory, &pc->ram, e);
    uint64_t from = pc->chipset ? EXTENDED_START : HOLE_END;
    if (rc || (rc = dp_space_map_ram(m, 0, pc->ram, 0, HOLE_START, false, 0, &id, e)) ||
        (rc = dp_space_map_ram(m, from, pc->ram, from, pc->low - from, false, 0, &id, e)) || (pc->chipset && (rc = chipset_map(pc, e))))
        return rc;
    return pc->high ? dp_space_map_ram(m, HIGH_RAM_START, pc->ram, pc->low, pc->high, false, 0, &id, e) : 0;
}

/* What is told to kernels. */
static unsigned memory_map(const struct dp_pc *pc, struct dp_e820 map[6])
{
    unsigned n = 0;
    map[n++] = (struct dp_e820){0, EBDA_START, DP_E820_RAM};
    map[n++] = (struct dp_e820){EBDA_START, HOLE_START - EBDA_START, DP_E820_RESERVED};
    map[n++] = (struct dp_e820){DP_ACPI_BASE, DP_ACPI_ROOM, DP_E820_RESERVED};
    map[n++] = (struct dp_e820){EXTENDED_START, pc->low - EXTENDED_START, DP_E820_RAM};
    map[n++] = (struct dp_e820){ECAM_BASE, ECAM_SIZE, DP_E820_RESERVED};
    if (pc->high)
        map[n++] = (struct dp_e820){HIGH_RAM_START, pc->high, DP_E820_RAM};
    return n;
}

/* ---- wires ---- */

static void lapic_line(void *opaque, enum dp_lapic_line line, unsigned value)
{
    static const enum dp_line translated[] = {
        [DP_LAPIC_INTR] = DP_LINE_INTR, [DP_LAPIC_NMI] = DP_LINE_NMI,   [DP_LAPIC_SMI] = DP_LINE_SMI,
        [DP_LAPIC_INIT] = DP_LINE_INIT, [DP_LAPIC_SIPI] = DP_LINE_SIPI,
    };
    struct pc_cpu *cpu = opaque;
    cpu->pc->config.line(cpu->pc->config.opaque, cpu->index, translated[line], value);
}

/* At power-off the status is what the guest left in its latch. */
static void vm_request(void *opaque, enum dp_vm_request request, int status)
{
    struct dp_pc *pc = opaque;
    if (request == DP_VM_POWEROFF && pc->exit_status)
        status = dp_exit_status_get(pc->exit_status) & 0xff;
    pc->config.vm.request(pc->config.vm.opaque, request, status);
}

static uint64_t tsc_now(void *opaque)
{
    struct pc_cpu *cpu = opaque;
    const struct dp_pc_config *c = &cpu->pc->config;
    return dp_tsc_from_ns(dp_clock_now(c->clock), c->model->tsc_khz) + (uint64_t)atomic_load(&cpu->tsc_offset);
}

/* In the processor's thread: its deadline timer and its paravirtual clock go by the guest's TSC. */
static void tsc_moved(void *opaque, unsigned cpu, int64_t offset)
{
    struct dp_pc *pc = opaque;
    atomic_store(&pc->cpu[cpu].tsc_offset, offset);
    dp_lapic_tsc_changed(pc->cpu[cpu].lapic);
    dp_pvclock_tsc_moved(pc->pvclock, cpu, offset);
}

static void ferr(void *opaque, unsigned cpu)
{
    struct dp_pc *pc = opaque;
    (void)cpu;
    dp_coprocessor_ferr(pc->coprocessor);
}

void dp_pc_bus(struct dp_pc *pc, unsigned cpu, struct dp_x86_bus *bus)
{
    *bus = (struct dp_x86_bus){
        .interrupt_ack = dp_lapic_interrupt_ack,
        .interrupt_pending = dp_lapic_interrupt_pending,
        .apic_read = dp_lapic_read,
        .apic_write = dp_lapic_write,
        .tpr_read = dp_lapic_tpr_read,
        .tpr_write = dp_lapic_tpr_write,
        .msr_read = dp_lapic_msr_read,
        .msr_write = dp_lapic_msr_write,
        .apic = pc->cpu[cpu].lapic,
        .tsc_moved = tsc_moved,
        .board = pc,
        .pv_msr_write = dp_pvclock_msr_write,
        .pv = pc->pvclock,
        .ferr = pc->coprocessor ? ferr : NULL,
    };
}

/* ---- devices ---- */

/* Takes a device into the machine's list; NULL (no memory) is the caller's error. */
static int own(struct dp_pc *pc, struct dp_device *d, struct dp_error *e)
{
    if (d && pc->device_count < pc->device_capacity) {
        pc->device[pc->device_count++] = d;
        return 0;
    }
    dp_device_free(d);
    return dp_error_set(e, -ENOMEM, "no memory for a device");
}

/* The other way: it is gone. */
static void disown(struct dp_pc *pc, struct dp_device *d)
{
    unsigned i = 0;
    while (pc->device[i] != d)
        i++;
    pc->device_count--;
    memmove(pc->device + i, pc->device + i + 1, (pc->device_count - i) * sizeof *pc->device);
    dp_device_free(d);
}

struct dp_device *pc_add(struct dp_pc *pc, const struct dp_device_class *c, const char *id, struct dp_error *e)
{
    struct dp_device *d = dp_device_alloc(c, id, &pc->env);
    return own(pc, d, e) ? NULL : d;
}

static int add_lapics(struct dp_pc *pc, struct dp_error *e)
{
    for (unsigned i = 0; i < pc->config.cpus; i++) {
        char id[32];
        snprintf(id, sizeof id, "lapic%u", i);
        struct dp_device *d = pc->cpu[i].lapic = pc_add(pc, &dp_lapic_class, id, e);
        if (!d)
            return -ENOMEM;
        pc->cpu[i].pc = pc;
        pc->cpu[i].index = i;
        dp_lapic_wire(d, &(struct dp_lapic_wires){
                             .bus = &pc->apic_bus,
                             .cpu = {lapic_line, &pc->cpu[i]},
                             .id = i,
                             .bsp = i == 0,
                             .virtual_wire = i == 0,
                             .physical_bits = pc->config.model->physical_bits,
                             .bus_hz = (uint64_t)pc->config.model->apic_bus_khz * 1000,
                             .tsc = tsc_now,
                             .tsc_opaque = &pc->cpu[i],
                             .tsc_khz = pc->config.model->tsc_khz,
                             .pic_ack = dp_pic_ack,
                             .pic_opaque = pc->router.pic,
                         });
    }
    return 0;
}

/* The 8259's output goes to LINT0 of the first processor, which answers its acknowledge cycles. */
static int add_interrupt_controllers(struct dp_pc *pc, struct dp_error *e)
{
    struct dp_device *pic = pc->router.pic = pc_add(pc, &dp_pic_class, "pic", e);
    if (!pic)
        return -ENOMEM;
    int rc = add_lapics(pc, e);
    if (rc)
        return rc;
    struct dp_device *ioapic = pc->router.ioapic = pc_add(pc, &dp_ioapic_class, "ioapic", e);
    if (!ioapic)
        return -ENOMEM;
    dp_pic_wire(pic, (struct dp_irq){dp_lapic_lint, pc->cpu[0].lapic, 0});
    dp_ioapic_wire(ioapic, &pc->apic_bus, IOAPIC_ID);
    for (unsigned i = 0; i < pc->config.cpus; i++)
        if ((rc = dp_device_init(pc->cpu[i].lapic, e)))
            return rc;
    if ((rc = dp_device_init(pic, e)) || (rc = dp_device_init(ioapic, e)) ||
        (rc = dp_device_map(pic, DP_PIC_WINDOW_MASTER, PORT_PIC_MASTER, e)) ||
        (rc = dp_device_map(pic, DP_PIC_WINDOW_SLAVE, PORT_PIC_SLAVE, e)) || (rc = dp_device_map(pic, DP_PIC_WINDOW_ELCR, PORT_ELCR, e)))
        return rc;
    return dp_device_map(ioapic, DP_IOAPIC_WINDOW, DP_IOAPIC_DEFAULT_BASE, e);
}

static int add_legacy(struct dp_pc *pc, struct dp_error *e)
{
    struct dp_device *pit = pc_add(pc, &dp_pit_class, "pit", e), *rtc = pc->rtc = pc_add(pc, &dp_rtc_class, "rtc", e),
                     *pm = pc->pm = pc_add(pc, &dp_acpi_pm_class, "pm", e);
    int rc;
    if (!pit || !rtc || !pm)
        return -ENOMEM;
    pc_timers_init(&pc->timers, dp_gsi_irq(&pc->router, IRQ_TIMER), dp_gsi_irq(&pc->router, IRQ_RTC));
    dp_pit_wire(pit, pc_timers_input(&pc->timers, 0));
    if (pc->config.firmware)
        dp_pit_wire_speaker(pit, pc->config.firmware->speaker);
    dp_rtc_wire(rtc, pc_timers_input(&pc->timers, 1));
    dp_rtc_set_memory(rtc, pc->low, pc->high);
    dp_acpi_pm_wire(pm, dp_gsi_irq(&pc->router, DP_GSI_SCI));
    if ((rc = dp_device_init(pit, e)) || (rc = dp_device_init(rtc, e)) || (rc = dp_device_init(pm, e)) ||
        (rc = dp_device_map(pit, DP_PIT_WINDOW_COUNTERS, PORT_PIT, e)) ||
        (rc = dp_device_map(pit, DP_PIT_WINDOW_SPEAKER, PORT_SPEAKER, e)) || (rc = dp_device_map(rtc, DP_RTC_WINDOW, PORT_RTC, e)) ||
        (rc = dp_device_map(pm, DP_ACPI_PM_WINDOW, DP_ACPI_PM_BASE, e)))
        return rc;
    for (unsigned i = 0; i < DP_PC_SERIALS; i++) {
        char id[32];
        snprintf(id, sizeof id, "serial%u", i);
        if (i && !pc->config.serial[i])
            break;
        struct dp_device *d = pc_add(pc, &dp_uart_class, id, e);
        if (!d)
            return -ENOMEM;
        dp_uart_wire(d, dp_gsi_irq(&pc->router, serial_wiring[i].irq), pc->config.serial[i]);
        if ((rc = dp_device_init(d, e)) || (rc = dp_device_map(d, DP_UART_WINDOW, serial_wiring[i].port, e)))
            return rc;
        pc->serial_count++;
    }
    struct dp_device *exit = pc_add(pc, &dp_debug_exit_class, "debug-exit", e);
    pc->exit_status = pc_add(pc, &dp_exit_status_class, "exit-status", e);
    pc->pvclock = pc_add(pc, &dp_pvclock_class, "pvclock", e);
    if (!exit || !pc->exit_status || !pc->pvclock)
        return -ENOMEM;
    dp_pvclock_wire(pc->pvclock, pc->config.model->tsc_khz);
    if ((rc = dp_device_init(exit, e)) || (rc = dp_device_init(pc->exit_status, e)) || (rc = dp_device_init(pc->pvclock, e)) ||
        (rc = dp_device_map(exit, DP_DEBUG_EXIT_WINDOW, PORT_DEBUG_EXIT, e)))
        return rc;
    return dp_device_map(pc->exit_status, DP_EXIT_STATUS_WINDOW, PORT_EXIT_STATUS, e);
}

static int add_test_device(struct dp_pc *pc, struct dp_error *e)
{
    struct dp_device *d = pc_add(pc, &dp_test_device_class, "test", e);
    int rc;
    if (!d)
        return -ENOMEM;
    for (unsigned i = 0; i < DP_TEST_DEVICE_IRQS; i++)
        dp_test_device_wire(d, i, dp_gsi_irq(&pc->router, i));
    if ((rc = dp_device_init(d, e)) || (rc = dp_device_map(d, DP_TEST_DEVICE_PORT, PORT_TEST, e)) ||
        (rc = dp_device_map(d, DP_TEST_DEVICE_FLUSH, PORT_TEST_FLUSH, e)) ||
        (rc = dp_device_map(d, DP_TEST_DEVICE_LINES, PORT_TEST_LINES, e)))
        return rc;
    return dp_device_map(d, DP_TEST_DEVICE_MEMORY, TEST_MEMORY_BASE, e);
}

int pc_own_virtio(struct dp_pc *pc, struct dp_device *child, const char *id, struct dp_device **out, struct dp_error *e)
{
    int rc = dp_device_init(child, e);
    struct dp_device *adapter = rc ? NULL : dp_virtio_pci_create(id, &pc->env, child, dp_virtio_of(child), e);
    if (!adapter) {
        dp_device_free(child);
        return rc ? rc : e && e->code ? e->code : -ENOMEM;
    }
    *out = adapter;
    return own(pc, adapter, e);
}

static int add_virtio(struct dp_pc *pc, struct dp_device *child, const char *id, unsigned slot, struct dp_error *e)
{
    struct dp_device *adapter;
    int rc = pc_own_virtio(pc, child, id, &adapter, e);
    return rc ? rc : dp_pci_plug(dp_pci_host_of(pc->pci), dp_virtio_pci_function(adapter), slot, e);
}

unsigned pc_disk_slot(const struct dp_pc *pc, unsigned n) { return (pc->chipset ? SLOT_CHIPSET_END : 0) + SLOT_DISK + n; }

unsigned pc_scsi_slot(const struct dp_pc *pc) { return pc_disk_slot(pc, pc->config.disk_count); }

/* ---- disks ---- */

static int set_queues(struct dp_pc *pc, struct dp_device *d, unsigned queues, struct dp_error *e)
{
    char text[16];
    snprintf(text, sizeof text, "%u", queues ? queues : DP_MIN(pc->config.cpus, 4u));
    return dp_device_set(d, "queues", text, e);
}

/* The disk grew while it is used. */
static void blk_resized(void *opaque, struct dp_block *b) { dp_virtio_blk_resized(opaque); }
static void scsi_resized(void *opaque, struct dp_block *b) { dp_virtio_scsi_resized(opaque, b); }

/* Disk n to a slot. When it fails after the machine owns it, pc->disk[n] says so. */
static int add_disk(struct dp_pc *pc, const struct dp_pc_disk *disk, unsigned n, unsigned slot, struct dp_error *e)
{
    char id[32], pci_id[32];
    snprintf(id, sizeof id, "disk%u", n % 100);
    snprintf(pci_id, sizeof pci_id, "disk%u-pci", n % 100);
    struct dp_device *d = dp_device_alloc(&dp_virtio_blk_class, id, &pc->env), *adapter;
    if (!d)
        return dp_error_set(e, -ENOMEM, "no memory for a device");
    dp_virtio_blk_attach(d, disk->block);
    int rc = set_queues(pc, d, disk->queues, e);
    if (!rc && disk->serial)
        rc = dp_device_set(d, "serial", disk->serial, e);
    if (!rc && disk->write_through)
        rc = dp_device_set(d, "cache", "writethrough", e);
    if (!rc && disk->sector)
        rc = dp_device_set(d, "block", disk->sector == 4096 ? "4096" : "512", e);
    if (rc) {
        dp_device_free(d);
        return rc;
    }
    if ((rc = pc_own_virtio(pc, d, pci_id, &adapter, e)))
        return rc;
    pc->disk[n] = (struct pc_card){.device = adapter, .slot = slot};
    if (!(rc = dp_pci_plug(dp_pci_host_of(pc->pci), dp_virtio_pci_function(adapter), slot, e)))
        dp_block_on_resize(disk->block, blk_resized, d);
    return rc;
}

static int add_scsi(struct dp_pc *pc, struct dp_error *e)
{
    struct dp_device *d = dp_device_alloc(&dp_virtio_scsi_class, "scsi0", &pc->env);
    if (!d)
        return dp_error_set(e, -ENOMEM, "no memory for a device");
    int rc = set_queues(pc, d, 0, e);
    if (rc) {
        dp_device_free(d);
        return rc;
    }
    if ((rc = add_virtio(pc, d, "scsi0-pci", pc_scsi_slot(pc), e)))
        return rc;
    pc->scsi = d;
    for (unsigned i = 0; !rc && i < pc->config.scsi_count; i++) {
        const struct dp_pc_disk *disk = &pc->config.scsi[i];
        rc = dp_virtio_scsi_add(d, &(struct dp_virtio_scsi_unit){.block = disk->block, .cdrom = disk->cdrom, .target = i, .serial = disk->serial,
                                                                 .sector = disk->sector, .write_through = disk->write_through}, e);
        if (!rc && !disk->cdrom)
            dp_block_on_resize(disk->block, scsi_resized, d);
    }
    return rc;
}

/* ---- network cards ---- */

/* A card's class, and how it is wired; function NULL: the class is a virtio device. */
struct nic_model {
    const char *name;
    const struct dp_device_class *class;
    void (*wire)(struct dp_device *d, const uint8_t mac[6]);
    struct dp_net_port *(*port)(struct dp_device *d);
    struct dp_pci_function *(*function)(struct dp_device *d);
    void (*rom)(struct dp_device *d, const void *data, size_t size); /* before init; may be NULL */
};
static const struct nic_model nic_models[] = {
    {"virtio", &dp_virtio_net_class, dp_virtio_net_wire, dp_virtio_net_port, NULL, NULL},
    {"e1000", &dp_e1000_class, dp_e1000_wire, dp_e1000_port, dp_e1000_function, dp_e1000_rom},
    {"rtl8139", &dp_rtl8139_class, dp_rtl8139_wire, dp_rtl8139_port, dp_rtl8139_function, dp_rtl8139_rom},
    {"ne2k", &dp_ne2k_pci_class, dp_ne2k_pci_wire, dp_ne2k_pci_port, dp_ne2k_pci_function, dp_ne2k_pci_rom},
};

static const struct nic_model *find_nic_model(const char *name)
{
    for (size_t i = 0; i < DP_ARRAY_LEN(nic_models); i++)
        if (!strcmp(nic_models[i].name, name && *name ? name : "virtio"))
            return &nic_models[i];
    return NULL;
}

bool dp_pc_nic_model(const char *model, char *names, size_t size)
{
    size_t at = 0;
    for (size_t i = 0; names && i < DP_ARRAY_LEN(nic_models) && at < size; i++)
        at += (size_t)snprintf(names + at, size - at, "%s%s", i ? ", " : "", nic_models[i].name);
    return find_nic_model(model);
}

/* With firmware the first is where systems of that board look for it; others are at the far end, beyond the disks. */
unsigned pc_nic_slot(const struct dp_pc *pc, unsigned n) { return pc->chipset && !n ? SLOT_NIC : SLOT_NICS + n; }

static int add_virtio_nic(struct dp_pc *pc, const struct dp_pc_nic *nic, struct dp_device *d, unsigned n, struct dp_error *e)
{
    enum { PAIRS_MAX = 8 };
    char id[32], mtu[16], queues[16];
    snprintf(id, sizeof id, "net%u-pci", n % 100);
    snprintf(mtu, sizeof mtu, "%u", nic->mtu);
    snprintf(queues, sizeof queues, "%u", nic->queues ? nic->queues : DP_MIN(pc->config.cpus, (unsigned)PAIRS_MAX));
    int rc = dp_device_set(d, "mtu", mtu, e);
    rc = rc ? rc : dp_device_set(d, "queues", queues, e);
    rc = rc ? rc : dp_device_init(d, e);
    struct dp_device *adapter = rc ? NULL : dp_virtio_pci_create(id, &pc->env, d, dp_virtio_of(d), e);
    if (!adapter) {
        dp_device_free(d);
        return rc ? rc : e && e->code ? e->code : -ENOMEM;
    }
    if ((rc = own(pc, adapter, e)))
        return rc;
    pc->nic[n].device = adapter;
    return nic->rom.size ? dp_virtio_pci_rom(adapter, nic->rom.data, nic->rom.size, e) : 0;
}

/* Card n to a slot. When it fails after the machine owns it, pc->nic[n] says so. */
static int add_nic(struct dp_pc *pc, const struct dp_pc_nic *nic, unsigned n, unsigned slot, struct dp_error *e)
{
    const struct nic_model *m = find_nic_model(nic->model);
    char id[32], names[200];
    if (!m) {
        dp_pc_nic_model(nic->model, names, sizeof names);
        return dp_error_set(e, -EINVAL, "there is no network card '%s': possible are %s", nic->model, names);
    }
    snprintf(id, sizeof id, "net%u", n % 100);
    struct dp_device *d = dp_device_alloc(m->class, id, &pc->env);
    if (!d)
        return dp_error_set(e, -ENOMEM, "no memory for a network card");
    m->wire(d, nic->mac);
    pc->nic[n].slot = slot;
    int rc;
    if (!m->function) {
        rc = add_virtio_nic(pc, nic, d, n, e);
    } else {
        if (m->rom && nic->rom.size)
            m->rom(d, nic->rom.data, nic->rom.size);
        if (!(rc = own(pc, d, e))) {
            pc->nic[n].device = d;
            rc = dp_device_init(d, e);
        }
    }
    pc->nic[n].port = rc ? NULL : m->port(d);
    if (!rc)
        rc = dp_pci_plug(dp_pci_host_of(pc->pci), m->function ? m->function(d) : dp_virtio_pci_function(pc->nic[n].device), slot, e);
    return rc || !nic->port ? rc : dp_net_connect(m->port(d), nic->port, e);
}

/* ---- cards that come and go ---- */

static void hotplug_event(void *opaque) { dp_acpi_pm_gpe(((struct dp_pc *)opaque)->pm, DP_ACPI_GPE_PCI); }

static void hotplug_eject(void *opaque, uint32_t slots)
{
    struct dp_pc *pc = opaque;
    if (!pc->config.eject)
        return;
    atomic_fetch_or(&pc->ejected_slots, slots);
    pc->config.eject(pc->config.opaque);
}

uint16_t pc_hotplug_port(const struct dp_pc *pc)
{
    return pc->chipset && pc->config.firmware->board == DP_PC_Q35 ? DP_PCI_HOTPLUG_PORT_Q35 : DP_PCI_HOTPLUG_PORT;
}

static int add_hotplug(struct dp_pc *pc, struct dp_error *e)
{
    struct dp_device *d = pc->hotplug = pc_add(pc, &dp_pci_hotplug_class, "pci-hotplug", e);
    if (!d)
        return -ENOMEM;
    dp_pci_hotplug_wire(d, &(struct dp_pci_hotplug_wires){hotplug_event, hotplug_eject, pc});
    int rc = dp_device_init(d, e);
    return rc ? rc : dp_device_map(d, DP_PCI_HOTPLUG_WINDOW, pc_hotplug_port(pc), e);
}

/* Slots that cards may come into or go from: what has nothing in it for good. */
static uint32_t hotplug_slots(struct dp_pc *pc)
{
    return (~dp_pci_slots_taken(dp_pci_host_of(pc->pci)) | dp_pci_hotplug_removable(pc->hotplug)) & ~1u;
}

static struct pc_card *find_card(const struct dp_pc *pc, enum dp_pc_card_kind kind, unsigned n)
{
    struct pc_card *c = (struct pc_card *)(kind == DP_PC_CARD_NIC ? pc->nic : pc->disk);
    return n < (unsigned)(kind == DP_PC_CARD_NIC ? DP_PC_NICS : DP_PC_DISKS) && c[n].device ? &c[n] : NULL;
}

/* A number, and a slot, from the one that cards of the start have on, round and round. */
static int find_place(struct dp_pc *pc, enum dp_pc_card_kind kind, unsigned *n, unsigned *slot, struct dp_error *e)
{
    uint32_t taken = dp_pci_slots_taken(dp_pci_host_of(pc->pci));
    for (*n = 0; find_card(pc, kind, *n);)
        ++*n;
    if (kind == DP_PC_CARD_NIC && *n >= DP_PC_NICS)
        return dp_error_set(e, -ENOSPC, "the machine has %d network cards, no more are possible: take one out first", DP_PC_NICS);
    if (kind == DP_PC_CARD_DISK && *n >= DP_PC_DISKS)
        return dp_error_set(e, -ENOSPC, "the machine has %d virtio disks, no more are possible: take one out first", DP_PC_DISKS);
    if (!~taken)
        return dp_error_set(e, -ENOSPC, "all PCI slots of the machine are taken: take a card out first");
    for (*slot = (kind == DP_PC_CARD_NIC ? pc_nic_slot(pc, *n) : pc_disk_slot(pc, *n)) % SLOTS; taken >> *slot & 1;)
        *slot = (*slot + 1) % SLOTS;
    return 0;
}

/* The rest, after the card was made or not. */
static int plugged(struct dp_pc *pc, struct pc_card *card, bool running, int rc)
{
    if (rc) {
        if (card->device)
            disown(pc, card->device);
        *card = (struct pc_card){0};
        return rc;
    }
    if (running)
        dp_device_resume(card->device);
    dp_pci_hotplug_plugged(pc->hotplug, card->slot, true);
    return 0;
}

int dp_pc_plug_nic(struct dp_pc *pc, const struct dp_pc_nic *nic, bool running, unsigned *n, struct dp_error *e)
{
    unsigned slot = 0;
    int rc = find_place(pc, DP_PC_CARD_NIC, n, &slot, e);
    return rc ? rc : plugged(pc, &pc->nic[*n], running, add_nic(pc, nic, *n, slot, e));
}

int dp_pc_plug_disk(struct dp_pc *pc, const struct dp_pc_disk *disk, bool running, unsigned *n, struct dp_error *e)
{
    unsigned slot = 0;
    int rc = find_place(pc, DP_PC_CARD_DISK, n, &slot, e);
    return rc ? rc : plugged(pc, &pc->disk[*n], running, add_disk(pc, disk, *n, slot, e));
}

void dp_pc_ask(struct dp_pc *pc, enum dp_pc_card_kind kind, unsigned n) { dp_pci_hotplug_ask(pc->hotplug, find_card(pc, kind, n)->slot); }

void dp_pc_unplug(struct dp_pc *pc, enum dp_pc_card_kind kind, unsigned n, bool running)
{
    struct pc_card *card = find_card(pc, kind, n);
    dp_pci_hotplug_gone(pc->hotplug, card->slot);
    if (running)
        dp_device_pause(card->device);
    disown(pc, card->device);
    *card = (struct pc_card){0};
}

uint32_t dp_pc_ejected(struct dp_pc *pc, bool all)
{
    uint32_t slots = atomic_exchange(&pc->ejected_slots, 0) | (all ? dp_pci_hotplug_asked(pc->hotplug) : 0);
    return slots & dp_pci_hotplug_removable(pc->hotplug);
}

bool dp_pc_card(const struct dp_pc *pc, enum dp_pc_card_kind kind, unsigned n, struct dp_pc_card_status *s)
{
    const struct pc_card *card = find_card(pc, kind, n);
    if (card)
        *s = (struct dp_pc_card_status){card->slot, dp_pci_hotplug_asked(pc->hotplug) >> card->slot & 1, card->port && dp_net_link(card->port)};
    return card;
}

/* ---- USB ---- */

static int add_usb(struct dp_pc *pc, struct dp_error *e)
{
    struct dp_device *d = pc->xhci = pc_add(pc, &dp_xhci_class, "usb", e);
    if (!d)
        return -ENOMEM;
    for (unsigned i = 0; i < pc->config.usb_count; i++) {
        int port = dp_xhci_attach(d, pc->config.usb[i].kind, pc->config.usb[i].block, e);
        if (port < 0)
            return port;
        pc->usb_port[i] = (uint8_t)port;
    }
    int rc = dp_device_init(d, e);
    return rc ? rc : dp_pci_plug(dp_pci_host_of(pc->pci), dp_xhci_function(d), SLOT_USB, e);
}

/* The last slot of all. A Q35 has its ICH9 there, and nothing where other boards have PIIX3. */
static unsigned pc_balloon_slot(const struct dp_pc *pc)
{
    return pc->chipset && pc->config.firmware->board == DP_PC_Q35 ? 1 : SLOTS - 1;
}

/* Disks are one a slot, up to the first that something else has. */
static int check_disks(const struct dp_pc *pc, struct dp_error *e)
{
    const struct dp_pc_config *c = &pc->config;
    unsigned end = pc->chipset && c->firmware->board == DP_PC_Q35 ? SLOT_ICH9 : SLOTS, first = pc_disk_slot(pc, 0);
    if (c->virtio_gpu || c->virtio_input)
        end = DP_MIN(end, (unsigned)SLOT_SCREEN);
    if (c->usb_count)
        end = DP_MIN(end, (unsigned)SLOT_USB);
    if (c->balloon && pc_balloon_slot(pc) > first)
        end = DP_MIN(end, pc_balloon_slot(pc));
    for (unsigned i = 0; i < c->nic_count; i++)
        end = pc_nic_slot(pc, i) > first ? DP_MIN(end, pc_nic_slot(pc, i)) : end;
    end -= c->scsi_count ? 1 : 0;
    if (first + c->disk_count <= end)
        return 0;
    return dp_error_set(e, -ENOSPC, "%u virtio disks: beside these network cards, USB and screen at most %u are possible", c->disk_count,
                        end - first);
}

static int add_pci(struct dp_pc *pc, struct dp_error *e)
{
    const struct dp_pc_config *c = &pc->config;
    struct dp_irq gsi[GSI_PCI_COUNT];
    struct dp_device *d;
    int rc = check_disks(pc, e);
    if (rc)
        return rc;
    if (!(pc->pci = pc_add(pc, &dp_pci_host_class, "pci", e)))
        return -ENOMEM;
    for (unsigned i = 0; i < GSI_PCI_COUNT; i++)
        gsi[i] = dp_gsi_irq(&pc->router, GSI_PCI + i);
    if (pc->chipset)
        chipset_wire_pci(pc);
    else
        dp_pci_host_wire(pc->pci, gsi);
    unsigned slot = pc->chipset ? SLOT_CHIPSET_END : 0; /* of the virtio devices: after what firmware and systems want at their places */
    if ((rc = dp_device_init(pc->pci, e)) || (rc = dp_device_map(pc->pci, DP_PCI_WINDOW_PORTS, PORT_PCI, e)) ||
        (rc = pc->chipset ? chipset_create(pc, e) : dp_device_map(pc->pci, DP_PCI_WINDOW_ECAM, ECAM_BASE, e)))
        return rc;
    if (c->rng) {
        if (!(d = dp_device_alloc(&dp_virtio_rng_class, "rng0", &pc->env)))
            return dp_error_set(e, -ENOMEM, "no memory for a device");
        if ((rc = add_virtio(pc, d, "rng0-pci", slot + SLOT_RNG, e)))
            return rc;
    }
    if (c->virtio_console) {
        if (!(d = dp_device_alloc(&dp_virtio_console_class, "hvc0", &pc->env)))
            return dp_error_set(e, -ENOMEM, "no memory for a device");
        dp_virtio_console_attach(d, c->virtio_console_backend);
        if ((rc = add_virtio(pc, d, "hvc0-pci", slot + SLOT_CONSOLE, e)))
            return rc;
    }
    if (c->balloon) {
        if (!(d = pc->balloon = dp_device_alloc(&dp_virtio_balloon_class, "balloon0", &pc->env)))
            return dp_error_set(e, -ENOMEM, "no memory for a device");
        if ((rc = add_virtio(pc, d, "balloon0-pci", pc_balloon_slot(pc), e)))
            return rc;
    }
    for (unsigned i = 0; i < c->disk_count; i++)
        if ((rc = add_disk(pc, &c->disk[i], i, pc_disk_slot(pc, i), e)))
            return rc;
    if (c->scsi_count && (rc = add_scsi(pc, e)))
        return rc;
    for (unsigned i = 0; i < c->nic_count; i++)
        if ((rc = add_nic(pc, &c->nic[i], i, pc_nic_slot(pc, i), e)))
            return rc;
    if ((rc = add_hotplug(pc, e)))
        return rc;
    for (unsigned i = 0; i < c->nic_count; i++)
        dp_pci_hotplug_plugged(pc->hotplug, pc->nic[i].slot, false);
    for (unsigned i = 0; i < c->disk_count; i++)
        dp_pci_hotplug_plugged(pc->hotplug, pc->disk[i].slot, false);
    return c->usb_count ? add_usb(pc, e) : 0;
}

int dp_pc_create(const struct dp_pc_config *c, struct dp_pc **out, struct dp_error *e)
{
    struct dp_pc *pc = calloc(1, sizeof *pc);
    if (!pc)
        return dp_error_set(e, -ENOMEM, "no memory for a machine");
    pc->config = *c;
    pc_screen_init(pc);
    pc->cpu = calloc(c->cpus, sizeof *pc->cpu);
    pc->device_capacity = c->cpus + DP_PC_DISKS + DP_PC_NICS + 40;
    pc->device = calloc(pc->device_capacity, sizeof(struct dp_device *));
    pc->env = (struct dp_device_env){
        .loop = c->loop, .clock = c->clock, .trace = c->trace, .msi = {dp_apic_bus_msi, &pc->apic_bus}, .vm = {vm_request, pc}};
    int rc = pc->cpu && pc->device ? 0 : dp_error_set(e, -ENOMEM, "no memory for a machine");
    if (!rc && (c->cpus < 1 || c->cpus > DP_PC_CPUS_MAX || c->disk_count > DP_PC_DISKS || c->scsi_count > DP_PC_DISKS || c->nic_count > DP_PC_NICS || c->usb_count > DP_PC_USB || c->memory <= EXTENDED_START))
        rc =
            dp_error_set(e, -EINVAL, "a PC has 1 to %d processors, up to %d disks and more than 1M of memory", DP_PC_CPUS_MAX, DP_PC_DISKS);
    if (!rc && c->firmware && !(pc->chipset = chipset_new(c->firmware->board)))
        rc = dp_error_set(e, -ENOMEM, "no memory for a machine");
    if (!rc && !(rc = dp_space_create("memory", UINT64_C(1) << 52, c->trace, &pc->env.memory, e)))
        rc = dp_space_create("ports", 65536, c->trace, &pc->env.ports, e);
    if (!rc && pc->chipset)
        rc = dp_space_create_over("smm-memory", pc->env.memory, &pc->smm_memory, e);
    if (!rc) {
        dp_space_begin(pc->env.memory);
        dp_space_begin(pc->env.ports);
        if (!(rc = map_memory(pc, e)) && !(rc = add_interrupt_controllers(pc, e)) && !(rc = add_legacy(pc, e)))
            rc = add_pci(pc, e);
        if (!rc)
            rc = pc_screen_create(pc, e);
        if (!rc && pc->config.test_device)
            rc = add_test_device(pc, e);
        dp_space_commit(pc->env.ports);
        dp_space_commit(pc->env.memory);
    }
    if (rc) {
        dp_pc_destroy(pc);
        return rc;
    }
    *out = pc;
    return 0;
}

void dp_pc_destroy(struct dp_pc *pc)
{
    if (!pc)
        return;
    while (pc->device_count)
        dp_device_free(pc->device[--pc->device_count]);
    pc_screen_fini(pc);
    if (pc->env.ports)
        dp_space_destroy(pc->env.ports);
    if (pc->smm_memory)
        dp_space_destroy(pc->smm_memory);
    if (pc->env.memory)
        dp_space_destroy(pc->env.memory);
    chipset_destroy(pc);
    if (pc->ram)
        dp_ram_destroy(pc->ram);
    free(pc->device);
    free(pc->cpu);
    free(pc);
}

void dp_pc_firmware_state(const struct dp_pc *pc, struct x86_state *s)
{
    enum { WRITE_BACK = 6, FIXED_ENABLE = 1 << 10, ENABLE = 1 << 11 };
    const uint64_t low_memory = 0x0606060606060606;
    s->mtrr_def = ENABLE | FIXED_ENABLE | WRITE_BACK;
    s->mtrr_fixed[0] = s->mtrr_fixed[1] = low_memory;  /* 0-9ffff; a0000-bffff stays uncacheable, which is type 0 */
    for (unsigned i = 3; i < DP_ARRAY_LEN(s->mtrr_fixed); i++)
        s->mtrr_fixed[i] = 0x0505050505050505;         /* c0000-fffff: write-protected */
    s->mtrr_base[0] = MMIO32_START;                    /* 3 to 4 GiB: devices, uncacheable */
    s->mtrr_mask[0] = (((1ull << pc->config.model->physical_bits) - 1) & ~((1ull << 30) - 1)) | ENABLE;
}

void dp_pc_reset(struct dp_pc *pc)
{
    for (unsigned i = 0; i < pc->config.cpus; i++)
        atomic_store(&pc->cpu[i].tsc_offset, 0);
    for (unsigned i = 0; i < pc->device_count; i++)
        dp_device_reset(pc->device[i]);
}

void dp_pc_pause(struct dp_pc *pc)
{
    for (unsigned i = pc->device_count; i--;)
        dp_device_pause(pc->device[i]);
}

void dp_pc_resume(struct dp_pc *pc)
{
    for (unsigned i = 0; i < pc->device_count; i++)
        dp_device_resume(pc->device[i]);
}

int dp_pc_change_medium(struct dp_pc *pc, bool cdrom, unsigned n, struct dp_block *medium, struct dp_error *e)
{
    if (pc->chipset)
        return chipset_change_medium(pc, cdrom, n, medium, e);
    return dp_error_set(e, -ENODEV, "a machine without firmware has no such drive");
}

int dp_pc_change_scsi_medium(struct dp_pc *pc, unsigned target, struct dp_block *medium, struct dp_error *e)
{
    return dp_virtio_scsi_change_medium(pc->scsi, target, 0, medium, e);
}

struct dp_space *dp_pc_memory(struct dp_pc *pc) { return pc->env.memory; }
struct dp_space *dp_pc_ports(struct dp_pc *pc) { return pc->env.ports; }
struct dp_space *dp_pc_smm_memory(struct dp_pc *pc) { return pc->smm_memory; }
struct dp_device *dp_pc_balloon(struct dp_pc *pc) { return pc->balloon; }
void dp_pc_power_button(struct dp_pc *pc) { dp_acpi_pm_power_button(pc->pm); }
unsigned dp_pc_device_count(const struct dp_pc *pc) { return pc->device_count; }
struct dp_device *dp_pc_device(const struct dp_pc *pc, unsigned n) { return pc->device[n]; }

/* ---- the firmware's work ---- */

struct bar_cursor {
    uint64_t io, mmio32, mmio64;
};

/* A naturally aligned place of that size, or 0. */
static uint64_t take(uint64_t *cursor, uint64_t end, uint64_t size)
{
    uint64_t at = DP_ALIGN_UP(*cursor, size);
    if (at < *cursor || at >= end || end - at < size)
        return 0;
    *cursor = at + size;
    return at;
}

/* Sizes one BAR by writing ones and gives it an address. Returns how many registers it takes, or -errno. */
static int assign_bar(struct dp_pc *pc, struct bar_cursor *cursor, uint64_t config, unsigned slot, unsigned n, struct dp_error *e)
{
    struct dp_space *m = pc->env.memory;
    uint64_t reg = config + DP_PCI_BAR0 + 4 * n, at;
    dp_space_store(m, reg, 0xffffffff, 4);
    uint64_t v = dp_space_load(m, reg, 4);
    if (!v)
        return 1;
    bool io = v & 1, wide = !io && (v & 6) == 4 && n < 5;
    uint64_t mask = io ? v & 0xfffc : v & 0xfffffff0;
    if (wide) {
        dp_space_store(m, reg + 4, 0xffffffff, 4);
        mask |= dp_space_load(m, reg + 4, 4) << 32;
    } else if (!io) {
        mask |= 0xffffffff00000000;
    } else {
        mask |= 0xffffffffffff0000;
    }
    uint64_t size = mask & -mask;
    if (io)
        at = take(&cursor->io, PCI_IO_END, size);
    else if (!(at = take(&cursor->mmio32, MMIO32_END, size)) && wide)
        at = take(&cursor->mmio64, pc->mmio64_end, size);
    if (!at)
        return dp_error_set(e, -ENOSPC, "PCI slot %u: no address space is left for %" PRIu64 " bytes of BAR %u", slot, size, n);
    dp_space_store(m, reg, (uint32_t)at, 4);
    if (wide)
        dp_space_store(m, reg + 4, at >> 32, 4);
    return wide ? 2 : 1;
}

/* Works through configuration space as firmware does. */
static int assign_pci(struct dp_pc *pc, struct dp_error *e)
{
    struct dp_space *m = pc->env.memory;
    struct bar_cursor cursor = {PCI_IO_START, MMIO32_START, pc->mmio64_start};
    for (unsigned place = DP_PCI_FUNCTIONS; place < 32 * DP_PCI_FUNCTIONS; place++) {
        uint64_t config = ECAM_BASE + ((uint64_t)place << 12);
        unsigned slot = place / DP_PCI_FUNCTIONS;
        if (dp_space_load(m, config, 2) == 0xffff)
            continue;
        for (unsigned bar = 0; bar < DP_PCI_BARS;) {
            int n = assign_bar(pc, &cursor, config, slot, bar, e);
            if (n < 0)
                return n;
            bar += (unsigned)n;
        }
        unsigned pin = (unsigned)dp_space_load(m, config + DP_PCI_INTERRUPT_PIN, 1);
        if (pin >= 1 && pin <= 4)
            dp_space_store(m, config + DP_PCI_INTERRUPT_LINE, dp_pci_gsi(slot, pin), 1);
        uint64_t command = dp_space_load(m, config + DP_PCI_COMMAND, 2);
        dp_space_store(m, config + DP_PCI_COMMAND, command | DP_PCI_COMMAND_IO | DP_PCI_COMMAND_MEMORY, 2);
    }
    return 0;
}

static int write_bios_data(struct dp_pc *pc)
{
    enum { BDA = 0x400, BDA_EBDA = 0x0e, BDA_MEMORY_KB = 0x13, BDA_SIZE = 0x100 };
    uint8_t bda[BDA_SIZE] = {0}, ebda_kb = 1;
    for (unsigned i = 0; i < pc->serial_count; i++)
        dp_st16(bda + 2 * i, serial_wiring[i].port);
    dp_st16(bda + BDA_EBDA, EBDA_START >> 4);
    dp_st16(bda + BDA_MEMORY_KB, EBDA_START >> 10);
    int rc = dp_space_write(pc->env.memory, BDA, bda, sizeof bda);
    return rc ? rc : dp_space_write(pc->env.memory, EBDA_START, &ebda_kb, 1);
}

void pc_acpi_config(struct dp_pc *pc, struct dp_acpi_config *a)
{
    *a = (struct dp_acpi_config){
        .cpus = pc->config.cpus,
        .lapic_base = DP_APIC_DEFAULT_BASE,
        .ioapic_base = DP_IOAPIC_DEFAULT_BASE,
        .ioapic_id = IOAPIC_ID,
        .sci_gsi = DP_GSI_SCI,
        .pm_event = DP_ACPI_PM_BASE + DP_ACPI_PM_EVENT,
        .pm_control = DP_ACPI_PM_BASE + DP_ACPI_PM_CONTROL,
        .pm_timer = DP_ACPI_PM_BASE + DP_ACPI_PM_TIMER,
        .gpe0 = DP_ACPI_PM_BASE + DP_ACPI_PM_GPE0,
        .reset_port = DP_ACPI_RESET_PORT,
        .reset_value = DP_ACPI_RESET_VALUE,
        .s5_type = DP_ACPI_S5_TYPE,
        .ecam_base = ECAM_BASE,
        .pci_last_bus = ECAM_SIZE / (1 << 20) - 1,
        .mmio32_first = MMIO32_START,
        .mmio32_last = MMIO32_END - 1,
        .mmio64_first = pc->mmio64_start,
        .mmio64_last = pc->mmio64_end - 1,
        .pci_gsi = dp_pci_gsi,
        .hotplug_port = pc_hotplug_port(pc),
        .hotplug_slots = hotplug_slots(pc),
        .hotplug_gpe = DP_ACPI_GPE_PCI,
        .serial_count = pc->serial_count,
        .reserved_count = 2,
        .reserved = {{PORT_DEBUG_EXIT, 4}, {PORT_EXIT_STATUS, 2}},
    };
    for (unsigned i = 0; i < pc->serial_count; i++) {
        a->serial[i].port = serial_wiring[i].port;
        a->serial[i].irq = serial_wiring[i].irq;
    }
}

static int write_acpi(struct dp_pc *pc, uint64_t *rsdp, struct dp_error *e)
{
    struct dp_acpi_config a;
    struct dp_acpi_image image;
    pc_acpi_config(pc, &a);
    int rc = dp_acpi_build(&a, DP_ACPI_BASE, &image, e);
    if (rc)
        return rc;
    *rsdp = image.rsdp;
    rc = dp_space_write(pc->env.memory, DP_ACPI_BASE, image.data.data, image.data.size);
    dp_buffer_fini(&image.data);
    return rc ? dp_error_set(e, rc, "the ACPI tables cannot be written to memory") : 0;
}

int dp_pc_boot(struct dp_pc *pc, const struct dp_pc_kernel *k, struct x86_state *cpu, const char **protocol, struct dp_error *e)
{
    uint64_t rsdp;
    if (pc->chipset)
        return k ? dp_error_set(e, -EINVAL, "a kernel file is started without firmware") : chipset_boot(pc, e);
    int rc = write_bios_data(pc);
    if (rc)
        return dp_error_set(e, rc, "the BIOS data area cannot be written to memory");
    if ((rc = assign_pci(pc, e)) || (rc = write_acpi(pc, &rsdp, e)) || !k)
        return rc;
    struct dp_e820 map[6];
    struct dp_boot_request r = {
        .memory = pc->env.memory,
        .map = map,
        .map_count = memory_map(pc, map),
        .memory_size = pc->config.memory,
        .kernel = k->kernel,
        .initrd = k->initrd,
        .initrd_count = k->initrd_count,
        .cmdline = k->cmdline,
        .rsdp = rsdp,
        .trace = pc->config.trace,
    };
    return dp_boot_load(&r, cpu, protocol, e);
}
