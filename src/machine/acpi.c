/* machine/acpi.c - ACPI tables. See acpi.h; offsets are ACPI 6.4's. */
#include "machine/acpi.h"
#include "machine/aml.h"

#define OEM_ID "DOPPEL"
#define OEM_TABLE_ID "DOPPELPC"
#define CREATOR_ID "DPPL"
enum { HEADER = 36, RSDP_SIZE = DP_ACPI_RSDP_SIZE, FACS_SIZE = 64, FADT_SIZE = 268 };
enum { SPACE_MEMORY = 0, SPACE_IO = 1 };

static uint8_t checksum(const uint8_t *p, size_t size)
{
    uint8_t sum = 0;
    while (size--)
        sum = (uint8_t)(sum + *p++);
    return (uint8_t)-sum;
}

static void pad(struct dp_buffer *out, size_t align)
{
    static const uint8_t zero[64];
    dp_buffer_append(out, zero, DP_ALIGN_UP(out->size, align) - out->size);
}

static void zeros(struct dp_buffer *out, size_t size)
{
    static const uint8_t zero[512];
    dp_buffer_append(out, zero, size);
}

/* Appends bytes of a little-endian number. */
static void put(struct dp_buffer *out, uint64_t v, unsigned size) { dp_buffer_append(out, &v, size); }

static size_t table_begin(struct dp_buffer *out, const char *signature, uint8_t revision)
{
    uint8_t h[HEADER] = {0};
    pad(out, 64);
    size_t at = out->size;
    memcpy(h, signature, 4);
    h[8] = revision;
    memcpy(h + 10, OEM_ID, 6);
    memcpy(h + 16, OEM_TABLE_ID, 8);
    dp_st32(h + 24, 1);
    memcpy(h + 28, CREATOR_ID, 4);
    dp_st32(h + 32, 1);
    dp_buffer_append(out, h, sizeof h);
    return at;
}

static void add_sum(struct dp_acpi_image *m, size_t at, size_t from, size_t size)
{
    m->data.data[at] = 0;
    m->data.data[at] = checksum(m->data.data + from, size);
    m->sum[m->sums].at = (uint32_t)at;
    m->sum[m->sums].from = (uint32_t)from;
    m->sum[m->sums++].size = (uint32_t)size;
}

static void table_end(struct dp_acpi_image *m, size_t at)
{
    struct dp_buffer *out = &m->data;
    if (out->failed)
        return;
    dp_st32(out->data + at + 4, (uint32_t)(out->size - at));
    add_sum(m, at + 9, at, out->size - at);
}

static void add_pointer(struct dp_acpi_image *m, size_t at, unsigned size)
{
    m->pointer[m->pointers].at = (uint32_t)at;
    m->pointer[m->pointers++].size = size;
}

/* ---- DSDT ---- */

static void device(struct dp_aml *a, const char *name, const char *hid, unsigned uid)
{
    dp_aml_device(a, name);
    dp_aml_name(a, "_HID");
    dp_aml_eisa_id(a, hid);
    dp_aml_name(a, "_UID");
    dp_aml_integer(a, uid);
}

/* _OSC (6.2.11): the system may have extended configuration space; control over PCIe features (hot plug, PME, AER, ...), which this bridge
 * does not have, is never granted: control bits come back clear. */
static void pci_osc(struct dp_aml *a)
{
    static const uint8_t uuid[16] = {0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40, 0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66};
    /* CreateDWordField (Arg3, n, NAME) is 8A, Arg3 (6B), integer, name; Store (v, NAME) is 70, v, name; Or (NAME, 4, NAME) is 7D ...;
     * Return is A4. */
    static const uint8_t create_status[] = {0x8a, 0x6b, 0x00, 'C', 'D', 'W', '1'},
                         create_control[] = {0x8a, 0x6b, 0x0a, 8, 'C', 'D', 'W', '3'};
    static const uint8_t equal_arg0[] = {0x93, 0x68}, clear_control[] = {0x70, 0x00, 'C', 'D', 'W', '3'};
    static const uint8_t bad_uuid[] = {0x7d, 'C', 'D', 'W', '1', 0x0a, 4, 'C', 'D', 'W', '1'}, give_back[] = {0xa4, 0x6b};
    dp_aml_method(a, "_OSC", 4, true);
    dp_aml_bytes(a, create_status, sizeof create_status);
    dp_aml_if(a);
    dp_aml_bytes(a, equal_arg0, sizeof equal_arg0);
    dp_aml_buffer(a, uuid, sizeof uuid);
    dp_aml_bytes(a, create_control, sizeof create_control);
    dp_aml_bytes(a, clear_control, sizeof clear_control);
    dp_aml_close(a);
    dp_aml_else(a);
    dp_aml_bytes(a, bad_uuid, sizeof bad_uuid);
    dp_aml_close(a);
    dp_aml_bytes(a, give_back, sizeof give_back);
    dp_aml_close(a);
}

/* Every pin of every slot, wired to a fixed GSI (6.2.13): no link devices. */
static void routing(struct dp_aml *a, const char *name, unsigned (*gsi)(unsigned device, unsigned pin))
{
    dp_aml_name(a, name);
    dp_aml_package(a, 31 * 4);
    for (unsigned slot = 1; slot < 32; slot++)
        for (unsigned pin = 0; pin < 4; pin++) {
            dp_aml_package(a, 4);
            dp_aml_integer(a, (uint64_t)slot << 16 | 0xffff);
            dp_aml_integer(a, pin);
            dp_aml_integer(a, 0);
            dp_aml_integer(a, gsi(slot, pin + 1));
            dp_aml_close(a);
        }
    dp_aml_close(a);
}

/* A slot that cards come into and go from: its number for people, and _EJ0 (6.3.3), which the system runs once it has let go of the card:
 * Store (bit, PCEJ) is 70, bit, PCEJ. */
static void hotplug_slot(struct dp_aml *a, unsigned slot)
{
    static const uint8_t store = 0x70, eject[] = {'P', 'C', 'E', 'J'};
    char name[8];
    snprintf(name, sizeof name, "S%03X", slot & 0xfff);
    dp_aml_device(a, name);
    dp_aml_name(a, "_ADR");
    dp_aml_integer(a, (uint64_t)slot << 16);
    dp_aml_name(a, "_SUN");
    dp_aml_integer(a, slot);
    dp_aml_method(a, "_EJ0", 1, false);
    dp_aml_bytes(a, &store, 1);
    dp_aml_integer(a, 1u << slot);
    dp_aml_bytes(a, eject, sizeof eject);
    dp_aml_close(a);
    dp_aml_close(a);
}

/* What a field says of each slot: Local0 = the field; If (Local0 & bit) Notify (slot, value). Store (x, Local0) is 70, x, 60; And (Local0,
 * bit, nowhere) is 7B, 60, bit, 00; Notify (x, v) is 86, x, v. */
static void hotplug_notify(struct dp_aml *a, uint32_t slots, const char *field, unsigned value)
{
    static const uint8_t store = 0x70, local0 = 0x60, and_local0[] = {0x7b, 0x60}, nowhere = 0, notify = 0x86;
    dp_aml_bytes(a, &store, 1);
    dp_aml_reference(a, field);
    dp_aml_bytes(a, &local0, 1);
    for (unsigned slot = 0; slot < 32; slot++) {
        char name[24];
        if (!(slots >> slot & 1))
            continue;
        snprintf(name, sizeof name, "\\_SB_.PCI0.S%03X", slot & 0xfff);
        dp_aml_if(a);
        dp_aml_bytes(a, and_local0, sizeof and_local0);
        dp_aml_integer(a, 1u << slot);
        dp_aml_bytes(a, &nowhere, 1);
        dp_aml_bytes(a, &notify, 1);
        dp_aml_reference(a, name);
        dp_aml_integer(a, value);
        dp_aml_close(a);
    }
}

/* The event's method (5.6.4.1): an edge, whose status the system clears before it runs this. */
static void hotplug_event(struct dp_aml *a, const struct dp_acpi_config *c)
{
    enum { DEVICE_CHECK = 1, EJECT_REQUEST = 3 };
    char name[8];
    snprintf(name, sizeof name, "_E%02X", c->hotplug_gpe);
    dp_aml_scope(a, "\\_GPE");
    dp_aml_method(a, name, 0, true);
    hotplug_notify(a, c->hotplug_slots, "\\_SB_.PCI0.PCIU", DEVICE_CHECK);
    hotplug_notify(a, c->hotplug_slots, "\\_SB_.PCI0.PCID", EJECT_REQUEST);
    dp_aml_close(a);
    dp_aml_close(a);
}

static void pci_root(struct dp_aml *a, const struct dp_acpi_config *c)
{
    struct dp_buffer r = {0};
    device(a, "PCI0", "PNP0A08", 0);
    dp_aml_name(a, "_CID");
    dp_aml_eisa_id(a, "PNP0A03");
    dp_aml_name(a, "_SEG");
    dp_aml_integer(a, 0);
    dp_aml_name(a, "_BBN");
    dp_aml_integer(a, 0);
    pci_osc(a);
    dp_aml_name(a, "_CRS");
    dp_aml_res_bus_range(&r, 0, c->pci_last_bus);
    dp_aml_res_io(&r, 0xcf8, 8);
    dp_aml_res_io_range(&r, 0, 0xcf7);
    dp_aml_res_io_range(&r, 0xd00, 0xffff);
    if (c->mmio32_first < c->mmio32_last)
        dp_aml_res_memory_range32(&r, (uint32_t)c->mmio32_first, (uint32_t)c->mmio32_last);
    if (c->mmio64_first < c->mmio64_last)
        dp_aml_res_memory_range64(&r, c->mmio64_first, c->mmio64_last);
    dp_aml_resources(a, &r);
    if (!c->pci_irq) {
        routing(a, "_PRT", c->pci_gsi);
    } else {
        /* If (PICM) is A0 ..., Return (NAME) is A4, NAME. */
        static const uint8_t picm[] = {'P', 'I', 'C', 'M'}, apic[] = {0xa4, 'P', 'R', 'T', 'A'}, pic[] = {0xa4, 'P', 'R', 'T', 'P'};
        routing(a, "PRTA", c->pci_gsi);
        routing(a, "PRTP", c->pci_irq);
        dp_aml_method(a, "_PRT", 0, false);
        dp_aml_if(a);
        dp_aml_bytes(a, picm, sizeof picm);
        dp_aml_bytes(a, apic, sizeof apic);
        dp_aml_close(a);
        dp_aml_bytes(a, pic, sizeof pic);
        dp_aml_close(a);
    }
    if (c->hotplug_slots) {
        dp_aml_ports(a, "PCHP", c->hotplug_port, (const char *const[]){"PCIU", "PCID", "PCEJ", "PCRM", "PCBN"}, 5);
        for (unsigned slot = 0; slot < 32; slot++)
            if (c->hotplug_slots >> slot & 1)
                hotplug_slot(a, slot);
    }
    dp_aml_close(a);
}

static void isa_devices(struct dp_aml *a, const struct dp_acpi_config *c)
{
    struct dp_buffer r = {0};
    device(a, "RTC_", "PNP0B00", 0);
    dp_aml_name(a, "_CRS");
    dp_aml_res_io(&r, 0x70, 2);
    dp_aml_res_irq(&r, 8);
    dp_aml_resources(a, &r);
    dp_aml_close(a);

    device(a, "TIMR", "PNP0100", 0);
    dp_aml_name(a, "_CRS");
    dp_aml_res_io(&r, 0x40, 4);
    dp_aml_res_irq(&r, 0);
    dp_aml_resources(a, &r);
    dp_aml_close(a);

    if (c->i8042) {
        device(a, "KBD_", "PNP0303", 0);
        dp_aml_name(a, "_CRS");
        dp_aml_res_io(&r, 0x60, 1);
        dp_aml_res_io(&r, 0x64, 1);
        dp_aml_res_irq(&r, 1);
        dp_aml_resources(a, &r);
        dp_aml_close(a);
        device(a, "MOU_", "PNP0F13", 0);
        dp_aml_name(a, "_CRS");
        dp_aml_res_irq(&r, 12);
        dp_aml_resources(a, &r);
        dp_aml_close(a);
    }
    if (c->floppy) {
        device(a, "FDC0", "PNP0700", 0);
        dp_aml_name(a, "_CRS");
        dp_aml_res_io(&r, 0x3f0, 6);
        dp_aml_res_io(&r, 0x3f7, 1);
        dp_aml_res_irq(&r, 6);
        dp_aml_resources(a, &r);
        dp_aml_close(a);
    }
    if (c->printer) {
        device(a, "LPT1", "PNP0400", 0);
        dp_aml_name(a, "_CRS");
        dp_aml_res_io(&r, 0x378, 3);
        dp_aml_res_irq(&r, 7);
        dp_aml_resources(a, &r);
        dp_aml_close(a);
    }
    for (unsigned i = 0; i < c->serial_count; i++) {
        char name[8];
        snprintf(name, sizeof name, "COM%u", (i + 1) % 10);
        device(a, name, "PNP0501", i + 1);
        dp_aml_name(a, "_STA");
        dp_aml_integer(a, 0xf);
        dp_aml_name(a, "_CRS");
        dp_aml_res_io(&r, c->serial[i].port, 8);
        dp_aml_res_irq(&r, c->serial[i].irq);
        dp_aml_resources(a, &r);
        dp_aml_close(a);
    }

    if (c->hpet_base) {
        device(a, "HPET", "PNP0103", 0);
        dp_aml_name(a, "_CRS");
        dp_aml_res_memory32(&r, (uint32_t)c->hpet_base, 0x400);
        dp_aml_resources(a, &r);
        dp_aml_close(a);
    }

    if (c->fw_cfg) {
        dp_aml_device(a, "FWCF");
        dp_aml_name(a, "_HID");
        dp_aml_string(a, "QEMU0002");
        dp_aml_name(a, "_STA");
        dp_aml_integer(a, 0xb); /* present, but nothing for people to see */
        dp_aml_name(a, "_CRS");
        dp_aml_res_io(&r, 0x510, 12);
        dp_aml_resources(a, &r);
        dp_aml_close(a);
    }

    /* "Motherboard resources": configuration space by memory counts as usable only when ACPI reserves it; the rest keeps drivers off. */
    device(a, "MBRD", "PNP0C02", 0);
    dp_aml_name(a, "_CRS");
    if (c->ecam_base)
        dp_aml_res_memory32(&r, (uint32_t)c->ecam_base, (c->pci_last_bus + 1u) << 20);
    dp_aml_res_io(&r, c->pm_event, 4);
    dp_aml_res_io(&r, c->pm_control, 2);
    dp_aml_res_io(&r, c->pm_timer, 4);
    dp_aml_res_io(&r, c->gpe0, 4);
    if (c->hotplug_slots)
        dp_aml_res_io(&r, c->hotplug_port, 20);
    for (unsigned i = 0; i < c->reserved_count; i++)
        dp_aml_res_io(&r, c->reserved[i].port, c->reserved[i].length);
    dp_aml_resources(a, &r);
    dp_aml_close(a);
}

/* The generation id: ADDR gives the address of its 16 bytes as two halves, the page's address being filled in by firmware. */
static void generation_id(struct dp_aml *a)
{
    static const uint8_t package[] = {0x70, 0x12, 2, 2, 0x60};                                    /* Local0 = Package (2) {} */
    static const uint8_t low[] = {0x70, 0x72, 'V', 'G', 'I', 'A', 0x0a, DP_ACPI_VMGENID_OFFSET, 0, /* Local0[0] = VGIA + offset */
                                  0x88, 0x60, 0, 0};
    static const uint8_t high[] = {0x70, 0, 0x88, 0x60, 1, 0}, give[] = {0xa4, 0x60};              /* Local0[1] = 0; Return (Local0) */
    dp_aml_device(a, "VGEN");
    dp_aml_name(a, "_HID");
    dp_aml_string(a, "QEMUVGID");
    dp_aml_name(a, "_CID");
    dp_aml_string(a, "VM_Gen_Counter");
    dp_aml_name(a, "_DDN");
    dp_aml_string(a, "VM_Gen_Counter");
    dp_aml_method(a, "ADDR", 0, false);
    dp_aml_bytes(a, package, sizeof package);
    dp_aml_bytes(a, low, sizeof low);
    dp_aml_bytes(a, high, sizeof high);
    dp_aml_bytes(a, give, sizeof give);
    dp_aml_close(a);
    dp_aml_close(a);
}

static bool dsdt(struct dp_acpi_image *m, const struct dp_acpi_config *c)
{
    struct dp_buffer *out = &m->data;
    struct dp_aml a;
    size_t at = table_begin(out, "DSDT", 2); /* revision 2: 64-bit integers */
    dp_aml_init(&a, out);

    if (c->vmgenid) { /* outside every package, whose lengths move what is in them */
        static const uint8_t address[] = {0x0c, 0, 0, 0, 0}; /* a DWord */
        dp_aml_name(&a, "\\VGIA");
        m->vmgenid_at = (uint32_t)out->size + 1;
        dp_aml_bytes(&a, address, sizeof address);
    }
    dp_aml_name(&a, "\\_S5_");
    dp_aml_package(&a, 4);
    dp_aml_integer(&a, c->s5_type);
    dp_aml_integer(&a, 0);
    dp_aml_integer(&a, 0);
    dp_aml_integer(&a, 0);
    dp_aml_close(&a);

    if (c->pci_irq) { /* which interrupt controllers the system has chosen (5.8.1): Store (Arg0, PICM) is 70, 68, PICM */
        static const uint8_t store[] = {0x70, 0x68, 'P', 'I', 'C', 'M'};
        dp_aml_name(&a, "\\PICM");
        dp_aml_integer(&a, 0);
        dp_aml_method(&a, "\\_PIC", 1, false);
        dp_aml_bytes(&a, store, sizeof store);
        dp_aml_close(&a);
    }
    dp_aml_scope(&a, "\\_SB_");
    for (unsigned i = 0; i < c->cpus; i++) {
        char name[8];
        snprintf(name, sizeof name, "C%03X", i & 0xfff);
        dp_aml_device(&a, name);
        dp_aml_name(&a, "_HID");
        dp_aml_string(&a, "ACPI0007");
        dp_aml_name(&a, "_UID");
        dp_aml_integer(&a, i);
        dp_aml_close(&a);
    }
    pci_root(&a, c);
    isa_devices(&a, c);
    if (c->vmgenid)
        generation_id(&a);
    dp_aml_close(&a);
    if (c->hotplug_slots)
        hotplug_event(&a, c);

    table_end(m, at);
    return dp_aml_done(&a);
}

/* ---- FADT, MADT, MCFG ---- */

static void gas(uint8_t *p, uint8_t space, uint8_t bits, uint8_t access, uint64_t address)
{
    p[0] = space;
    p[1] = bits;
    p[2] = 0;
    p[3] = access;
    dp_st64(p + 4, address);
}

static void fadt(struct dp_acpi_image *m, const struct dp_acpi_config *c, uint64_t facs_at, uint64_t dsdt_at)
{
    struct dp_buffer *out = &m->data;
    enum { WBINVD = 1 << 0, PROC_C1 = 1 << 2, SLP_BUTTON = 1 << 5, TMR_VAL_EXT = 1 << 8, RESET_REG_SUP = 1 << 10 };
    enum { BOOT_LEGACY_DEVICES = 1 << 0, BOOT_8042 = 1 << 1, BOOT_NO_VGA = 1 << 2, BOOT_NO_ASPM = 1 << 4 };
    size_t at = table_begin(out, "FACP", 6);
    uint8_t p[FADT_SIZE] = {0}; /* with room for the header, so that offsets are the specification's */
    dp_st32(p + 36, (uint32_t)facs_at);
    dp_st32(p + 40, (uint32_t)dsdt_at);
    dp_st16(p + 46, c->sci_gsi);
    /* SMI_CMD (48) is 0: the machine is always in ACPI mode, SCI_EN reads as set. */
    dp_st32(p + 56, c->pm_event);
    dp_st32(p + 64, c->pm_control);
    dp_st32(p + 76, c->pm_timer);
    dp_st32(p + 80, c->gpe0);
    p[88] = 4; /* lengths: PM1_EVT, PM1_CNT, PM_TMR, GPE0 */
    p[89] = 2;
    p[91] = 4;
    p[92] = 4;
    dp_st16(p + 96, 0xfff); /* no C2, no C3 */
    dp_st16(p + 98, 0xfff);
    p[108] = 0x32; /* the century's byte in the CMOS */
    dp_st16(p + 109, BOOT_LEGACY_DEVICES | (c->i8042 ? BOOT_8042 : 0) | (c->vga ? 0 : BOOT_NO_VGA) | BOOT_NO_ASPM);
    dp_st32(p + 112, WBINVD | PROC_C1 | SLP_BUTTON | TMR_VAL_EXT | RESET_REG_SUP);
    gas(p + 116, SPACE_IO, 8, 1, c->reset_port);
    p[128] = c->reset_value;
    p[131] = 4; /* minor version: 6.4 */
    dp_st64(p + 140, dsdt_at);
    gas(p + 148, SPACE_IO, 32, 2, c->pm_event);
    gas(p + 172, SPACE_IO, 16, 2, c->pm_control);
    gas(p + 208, SPACE_IO, 32, 3, c->pm_timer);
    gas(p + 220, SPACE_IO, 32, 1, c->gpe0);
    /* X_FIRMWARE_CTRL (132) stays 0: then the 32-bit field counts. */
    dp_buffer_append(out, p + HEADER, FADT_SIZE - HEADER);
    add_pointer(m, at + 36, 4);
    add_pointer(m, at + 40, 4);
    add_pointer(m, at + 140, 8);
    table_end(m, at);
}

static void madt(struct dp_acpi_image *m, const struct dp_acpi_config *c)
{
    struct dp_buffer *out = &m->data;
    enum { LAPIC, IOAPIC, OVERRIDE, LAPIC_NMI = 4, X2APIC = 9, X2APIC_NMI = 10 };
    enum { ENABLED = 1, PCAT_COMPAT = 1, ACTIVE_HIGH_LEVEL = 1 | 3 << 2 };
    size_t at = table_begin(out, "APIC", 5);
    put(out, c->lapic_base, 4);
    put(out, PCAT_COMPAT, 4);
    for (unsigned i = 0; i < c->cpus; i++) {
        if (i < 255) {
            put(out, LAPIC | 8 << 8 | i << 16 | i << 24, 4);
            put(out, ENABLED, 4);
        } else {
            put(out, X2APIC | 16 << 8, 4);
            put(out, i, 4);
            put(out, ENABLED, 4);
            put(out, i, 4);
        }
    }
    put(out, IOAPIC | 12 << 8 | (uint32_t)c->ioapic_id << 16, 4);
    put(out, c->ioapic_base, 4);
    put(out, 0, 4);
    /* The 8254's IRQ 0 arrives at pin 2; the SCI is level-triggered. */
    put(out, OVERRIDE | 10 << 8 | 0 << 16 | 0u << 24, 4);
    put(out, 2, 4);
    put(out, 0, 2);
    put(out, OVERRIDE | 10 << 8 | 0 << 16 | (uint32_t)c->sci_gsi << 24, 4);
    put(out, c->sci_gsi, 4);
    put(out, ACTIVE_HIGH_LEVEL, 2);
    for (unsigned n = 0; n < 16; n++)
        if ((c->level_irqs >> n & 1) && n != c->sci_gsi) {
            put(out, OVERRIDE | 10 << 8 | 0 << 16 | n << 24, 4);
            put(out, n, 4);
            put(out, ACTIVE_HIGH_LEVEL, 2);
        }
    put(out, LAPIC_NMI | 6 << 8 | 0xffu << 16, 4); /* all processors, LINT1 */
    put(out, 1u << 8, 2);
    if (c->cpus > 255) {
        put(out, X2APIC_NMI | 12 << 8, 4);
        put(out, 0xffffffff, 4);
        put(out, 1, 4);
    }
    table_end(m, at);
}

static void mcfg(struct dp_acpi_image *m, const struct dp_acpi_config *c)
{
    struct dp_buffer *out = &m->data;
    size_t at = table_begin(out, "MCFG", 1);
    put(out, 0, 8);
    put(out, c->ecam_base, 8);
    put(out, 0, 2); /* segment */
    put(out, 0, 1);
    put(out, c->pci_last_bus, 1);
    put(out, 0, 4);
    table_end(m, at);
}

static void hpet(struct dp_acpi_image *m, const struct dp_acpi_config *c)
{
    struct dp_buffer *out = &m->data;
    size_t at = table_begin(out, "HPET", 1); /* IA-PC HPET 1.0a, 3.2.4 */
    uint8_t address[12];
    put(out, 0x8086a201, 4); /* capabilities, as in the register: legacy replacement, 64 bits, three comparators, revision 1 */
    gas(address, SPACE_MEMORY, 64, 0, c->hpet_base);
    dp_buffer_append(out, address, sizeof address);
    put(out, 0, 1);
    put(out, 100, 2); /* shortest period without loss of interrupts */
    put(out, 0, 1);
    table_end(m, at);
}

int dp_acpi_build(const struct dp_acpi_config *c, uint64_t base, struct dp_acpi_image *image, struct dp_error *e)
{
    struct dp_buffer *out = &image->data;
    *image = (struct dp_acpi_image){0};
    zeros(out, RSDP_SIZE);

    pad(out, 64);
    uint64_t facs_at = base + out->size;
    uint8_t facs[FACS_SIZE] = "FACS";
    dp_st32(facs + 4, FACS_SIZE);
    facs[32] = 2;
    dp_buffer_append(out, facs, sizeof facs);

    pad(out, 64);
    uint64_t dsdt_at = base + out->size, tables[4];
    unsigned count = 0;
    bool ok = dsdt(image, c);
    pad(out, 64);
    tables[count++] = base + out->size;
    fadt(image, c, facs_at, dsdt_at);
    pad(out, 64);
    tables[count++] = base + out->size;
    madt(image, c);
    if (c->ecam_base) {
        pad(out, 64);
        tables[count++] = base + out->size;
        mcfg(image, c);
    }
    if (c->hpet_base) {
        pad(out, 64);
        tables[count++] = base + out->size;
        hpet(image, c);
    }

    uint64_t root[2];
    for (unsigned wide = 0; wide < 2; wide++) {
        size_t at = table_begin(out, wide ? "XSDT" : "RSDT", 1);
        root[wide] = base + at;
        for (unsigned i = 0; i < count; i++) {
            add_pointer(image, out->size, wide ? 8 : 4);
            put(out, tables[i], wide ? 8 : 4);
        }
        table_end(image, at);
    }
    if (!ok || out->failed || out->size > DP_ACPI_ROOM) {
        dp_buffer_fini(out);
        *image = (struct dp_acpi_image){0};
        return dp_error_set(e, -ENOMEM, "the ACPI tables for %u processors cannot be made: not enough memory or room", c->cpus);
    }

    uint8_t *p = out->data;
    memcpy(p, "RSD PTR ", 8);
    memcpy(p + 9, OEM_ID, 6);
    p[15] = 2;
    dp_st32(p + 16, (uint32_t)root[0]);
    dp_st32(p + 20, RSDP_SIZE);
    dp_st64(p + 24, root[1]);
    add_pointer(image, 16, 4);
    add_pointer(image, 24, 8);
    add_sum(image, 8, 0, 20);
    add_sum(image, 32, 0, RSDP_SIZE);
    image->rsdp = base;
    return 0;
}
