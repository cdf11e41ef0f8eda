/* test_acpi.c - the tables as an operating system finds them, and what iasl (acpica-tools) makes of them when it is installed. */
#include <stdlib.h>
#include <unistd.h>

#include "machine/acpi.h"
#include "machine/aml.h"
#include "tests/unit/test.h"

static unsigned test_gsi(unsigned device, unsigned pin) { return 16 + ((device + pin - 1) & 7); }

static unsigned test_irq(unsigned device, unsigned pin) { return 10 + ((device + pin - 1) & 1); }

static struct dp_acpi_config config(unsigned cpus)
{
    return (struct dp_acpi_config){
        .cpus = cpus,
        .lapic_base = 0xfee00000,
        .ioapic_base = 0xfec00000,
        .sci_gsi = 9,
        .pm_event = 0x600,
        .pm_control = 0x604,
        .pm_timer = 0x608,
        .gpe0 = 0x60c,
        .reset_port = 0xcf9,
        .reset_value = 6,
        .s5_type = 5,
        .ecam_base = 0xe0000000,
        .mmio32_first = 0xc0000000,
        .mmio32_last = 0xdfffffff,
        .mmio64_first = 0x140000000,
        .mmio64_last = 0x93fffffff,
        .pci_gsi = test_gsi,
        .hotplug_port = 0xae00,
        .hotplug_slots = 1u << 31 | 0x38,
        .hotplug_gpe = 1,
        .serial_count = 2,
        .serial = {{0x3f8, 4}, {0x2f8, 3}},
        .reserved_count = 1,
        .reserved = {{0xf4, 4}},
    };
}

static void assert_sum(const uint8_t *p, size_t size)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + p[i]);
    assert_int_equal(sum, 0);
}

/* The table at a guest-physical address, checked. */
static const uint8_t *table(const struct dp_buffer *b, uint64_t at, const char *signature)
{
    assert_true(at >= DP_ACPI_BASE && at - DP_ACPI_BASE + 36 <= b->size);
    const uint8_t *t = b->data + (at - DP_ACPI_BASE);
    assert_memory_equal(t, signature, 4);
    assert_true(dp_ld32(t + 4) <= b->size - (at - DP_ACPI_BASE));
    assert_sum(t, dp_ld32(t + 4));
    return t;
}

/* Disassembles a table and looks for words in the result; compiles it again, which must give no error. */
static void check_with_iasl(const uint8_t *t, const char *name, const char *const *words)
{
    char folder[] = "/tmp/doppel-acpi-XXXXXX", path[200], command[800], line[1000];
    if (system("command -v iasl >/dev/null 2>&1")) {
        print_message("iasl is not installed: %s not disassembled\n", name);
        return;
    }
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/t.aml", folder);
    FILE *f = fopen(path, "wb");
    assert_int_equal(fwrite(t, 1, dp_ld32(t + 4), f), dp_ld32(t + 4));
    fclose(f);
    snprintf(command, sizeof command, "cd %s && iasl -p t -d t.aml >log 2>&1 && iasl -p again %s t.dsl >>log 2>&1", folder,
             strcmp(name, "DSDT") ? "-T" : "-va -vw 6035" /* QEMUVGID is no name that iasl likes, but the one systems know */);
    if (strcmp(name, "DSDT"))
        *strstr(command, " && iasl -p again") = 0;
    int rc = system(command);
    if (rc) {
        snprintf(command, sizeof command, "cat %s/log", folder);
        (void)!system(command);
        fail_msg("iasl refuses %s (%s)", name, folder);
    }
    snprintf(path, sizeof path, "%s/t.dsl", folder);
    for (; *words; words++) {
        bool found = false;
        assert_non_null(f = fopen(path, "r"));
        while (!found && fgets(line, sizeof line, f))
            found = strstr(line, *words);
        fclose(f);
        if (!found)
            fail_msg("%s lacks '%s' (%s)", name, *words, path);
    }
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

static void test_tables(void **state)
{
    struct dp_acpi_image image;
    struct dp_error e;
    struct dp_acpi_config c = config(3);
    assert_ok(dp_acpi_build(&c, DP_ACPI_BASE, &image, &e), e);
    struct dp_buffer b = image.data;
    uint64_t rsdp = image.rsdp;
    assert_int_equal(rsdp % 16, 0);
    const uint8_t *r = b.data + (rsdp - DP_ACPI_BASE);
    assert_memory_equal(r, "RSD PTR ", 8);
    assert_sum(r, 20);
    assert_sum(r, 36);
    const uint8_t *xsdt = table(&b, dp_ld64(r + 24), "XSDT"), *rsdt = table(&b, dp_ld32(r + 16), "RSDT");
    assert_int_equal(dp_ld32(xsdt + 4), 36 + 3 * 8);
    assert_int_equal(dp_ld32(rsdt + 4), 36 + 3 * 4);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(dp_ld64(xsdt + 36 + 8 * i), dp_ld32(rsdt + 36 + 4 * i));
    const uint8_t *fadt = table(&b, dp_ld64(xsdt + 36), "FACP"), *madt = table(&b, dp_ld64(xsdt + 44), "APIC"),
                  *mcfg = table(&b, dp_ld64(xsdt + 52), "MCFG");
    const uint8_t *dsdt = table(&b, dp_ld64(fadt + 140), "DSDT");
    assert_int_equal(dp_ld32(fadt + 40), dp_ld64(fadt + 140));
    const uint8_t *facs = b.data + (dp_ld32(fadt + 36) - DP_ACPI_BASE);
    assert_memory_equal(facs, "FACS", 4);
    assert_int_equal(dp_ld32(fadt + 36) % 64, 0);
    assert_false(dp_ld16(fadt + 109) & 2);       /* no 8042 */
    assert_true(dp_ld16(fadt + 109) & 4);        /* no VGA */
    assert_false(dp_ld32(fadt + 112) & 1 << 20); /* not hardware-reduced */
    assert_int_equal(dp_ld64(mcfg + 44), 0xe0000000);

    check_with_iasl(dsdt, "DSDT",
                    (const char *const[]){"_S5", "PNP0A08", "_PRT", "ACPI0007", "C002", "PNP0501", "PNP0B00", "COM2", "0xC0000000",
                                          "0x0000000140000000", "OperationRegion (PCHP, SystemIO, 0xAE00, 0x14)", "Device (S003)", "Device (S01F)", "Name (_ADR, 0x001F0000)", "PCEJ = 0x80000000", "PCEJ = 0x08",
                                          "Method (_E01, 0, Serialized)", "Local0 = \\_SB.PCI0.PCIU", "If ((Local0 & 0x80000000))", "Notify (\\_SB.PCI0.S01F, One)", "Notify (\\_SB.PCI0.S003, 0x03)",
                                          "_OSC", "33db4d5b-1ff7-401c-9657-7441c03dd766", NULL});
    check_with_iasl(fadt, "FACP", (const char *const[]){"0000000000000CF9", "0000000000000604", NULL});
    check_with_iasl(madt, "APIC", (const char *const[]){"FEC00000", NULL});
    check_with_iasl(mcfg, "MCFG", (const char *const[]){"00000000E0000000", NULL});
    dp_buffer_fini(&b);
}

/* What only a board with firmware has. */
static void test_board(void **state)
{
    struct dp_acpi_image image;
    struct dp_error e;
    struct dp_acpi_config c = config(1);
    c.ecam_base = 0;
    c.hotplug_slots = 0;
    c.hpet_base = 0xfed00000;
    c.fw_cfg = c.vmgenid = c.vga = c.i8042 = c.floppy = c.printer = true;
    assert_ok(dp_acpi_build(&c, DP_ACPI_BASE, &image, &e), e);
    struct dp_buffer b = image.data;
    const uint8_t *xsdt = table(&b, dp_ld64(b.data + 24), "XSDT"), *fadt = table(&b, dp_ld64(xsdt + 36), "FACP"),
                  *hpet = table(&b, dp_ld64(xsdt + 52), "HPET"), *dsdt = table(&b, dp_ld64(fadt + 140), "DSDT");
    assert_int_equal(dp_ld64(hpet + 44), 0xfed00000);
    assert_memory_equal(b.data + image.vmgenid_at - 6, "\\VGIA\x0c\0\0\0\0", 10);
    check_with_iasl(dsdt, "DSDT", (const char *const[]){"PNP0103", "QEMU0002", "QEMUVGID", "VM_Gen_Counter", "ADDR", "Return (Local0)", "0xFED00000", "0x0510", NULL});
    check_with_iasl(hpet, "HPET", (const char *const[]){"FED00000", NULL});
    dp_buffer_fini(&b);
}

/* Two sets of PCI interrupts: with and without the I/O APIC. */
static void test_two_routings(void **state)
{
    struct dp_acpi_config c = config(1);
    struct dp_acpi_image image;
    struct dp_error e = {0};
    c.pci_irq = test_irq;
    assert_ok(dp_acpi_build(&c, DP_ACPI_BASE, &image, &e), e);
    const uint8_t *dsdt = memmem(image.data.data, image.data.size, "DSDT", 4);
    assert_non_null(dsdt);
    assert_non_null(memmem(dsdt, dp_ld32(dsdt + 4), "_PIC", 4));
    check_with_iasl(dsdt, "DSDT", (const char *const[]){"Method (\\_PIC, 1", "PICM = Arg0", "Name (PRTA", "Name (PRTP", "Method (_PRT, 0", "If (PICM)", NULL});
    dp_buffer_fini(&image.data);
}

/* MADT entries of one type. */
static unsigned count(const uint8_t *madt, uint8_t type)
{
    unsigned n = 0;
    uint32_t at = 44, size = dp_ld32(madt + 4);
    while (at + 2 <= size) {
        assert_true(madt[at + 1] >= 6 && at + madt[at + 1] <= size);
        n += madt[at] == type;
        at += madt[at + 1];
    }
    assert_int_equal(at, size);
    return n;
}

static void test_many_processors(void **state)
{
    static const unsigned counts[] = {1, 2, 64, 255, 256, 300};
    for (size_t i = 0; i < DP_ARRAY_LEN(counts); i++) {
        struct dp_acpi_image image;
        struct dp_error e;
        struct dp_acpi_config c = config(counts[i]);
        assert_ok(dp_acpi_build(&c, DP_ACPI_BASE, &image, &e), e);
        struct dp_buffer b = image.data;
        const uint8_t *xsdt = table(&b, dp_ld64(b.data + 24), "XSDT"), *madt = table(&b, dp_ld64(xsdt + 44), "APIC");
        assert_int_equal(count(madt, 0), DP_MIN(counts[i], 255u));
        assert_int_equal(count(madt, 9), counts[i] > 255 ? counts[i] - 255 : 0);
        assert_int_equal(count(madt, 1), 1);
        assert_int_equal(count(madt, 2), 2);
        dp_buffer_fini(&b);
    }
    struct dp_acpi_config c = config(5000);
    struct dp_acpi_image image;
    assert_true(dp_acpi_build(&c, DP_ACPI_BASE, &image, NULL) < 0); /* no room: refused, nothing kept */
    assert_null(image.data.data);
}

/* What firmware does with an image of base 0 gives the image of another base. */
static void test_relocation(void **state)
{
    struct dp_acpi_image zero, other;
    struct dp_error e;
    struct dp_acpi_config c = config(2);
    c.hpet_base = 0xfed00000;
    c.fw_cfg = true;
    c.level_irqs = 1u << 9 | 1u << 10 | 1u << 11;
    const uint64_t base = 0x7ffe0000;
    assert_ok(dp_acpi_build(&c, 0, &zero, &e), e);
    assert_ok(dp_acpi_build(&c, base, &other, &e), e);
    assert_int_equal(zero.data.size, other.data.size);
    uint8_t *p = zero.data.data;
    for (unsigned i = 0; i < zero.pointers; i++) {
        uint64_t v = 0;
        memcpy(&v, p + zero.pointer[i].at, zero.pointer[i].size);
        v += base;
        memcpy(p + zero.pointer[i].at, &v, zero.pointer[i].size);
    }
    for (unsigned i = 0; i < zero.sums; i++) {
        uint8_t sum = 0;
        for (unsigned k = 0; k < zero.sum[i].size; k++)
            sum = (uint8_t)(sum + p[zero.sum[i].from + k]);
        p[zero.sum[i].at] = (uint8_t)(p[zero.sum[i].at] - sum);
    }
    assert_memory_equal(p, other.data.data, zero.data.size);
    dp_buffer_fini(&zero.data);
    dp_buffer_fini(&other.data);
}

static void test_aml_encoding(void **state)
{
    struct dp_buffer b = {0};
    struct dp_aml a;
    dp_aml_init(&a, &b);
    dp_aml_integer(&a, 0);
    dp_aml_integer(&a, 1);
    dp_aml_integer(&a, 0xff);
    dp_aml_integer(&a, 0x100);
    dp_aml_integer(&a, 0x10000);
    dp_aml_integer(&a, 0x100000000);
    static const uint8_t integers[] = {0, 1, 0x0a, 0xff, 0x0b, 0, 1, 0x0c, 0, 0, 1, 0, 0x0e, 0, 0, 0, 0, 1, 0, 0, 0};
    assert_int_equal(b.size, sizeof integers);
    assert_memory_equal(b.data, integers, sizeof integers);
    b.size = 0;
    dp_aml_eisa_id(&a, "PNP0A08");
    static const uint8_t id[] = {0x0c, 0x41, 0xd0, 0x0a, 0x08};
    assert_memory_equal(b.data, id, sizeof id);
    b.size = 0;
    dp_aml_reference(&a, "\\_SB_.PCI0.COM1");
    assert_memory_equal(b.data, "\\\x2f\x03_SB_PCI0COM1", 15);

    /* Package lengths on both sides of each of their widths. */
    static const struct {
        size_t body;
        unsigned width;
    } lengths[] = {{62, 1}, {63, 2}, {4093, 2}, {4094, 3}, {1048572, 3}, {1048573, 4}};
    for (size_t i = 0; i < DP_ARRAY_LEN(lengths); i++) {
        uint8_t *body = calloc(1, lengths[i].body);
        b.size = 0;
        dp_aml_else(&a);
        dp_aml_bytes(&a, body, lengths[i].body);
        dp_aml_close(&a);
        assert_int_equal(b.size, 1 + lengths[i].width + lengths[i].body);
        assert_int_equal(b.data[1] >> 6, lengths[i].width - 1);
        size_t length = lengths[i].width == 1 ? b.data[1] : b.data[1] & 15;
        for (unsigned n = 1; n < lengths[i].width; n++)
            length |= (size_t)b.data[1 + n] << (8 * n - 4);
        assert_int_equal(length, b.size - 1);
        free(body);
    }
    assert_true(dp_aml_done(&a));
    dp_aml_close(&a); /* unbalanced */
    assert_false(dp_aml_done(&a));
    dp_aml_init(&a, &b);
    dp_aml_name(&a, "ABC"); /* not four characters */
    assert_false(dp_aml_done(&a));
    dp_buffer_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tables), cmocka_unit_test(test_board), cmocka_unit_test(test_two_routings), cmocka_unit_test(test_relocation), cmocka_unit_test(test_many_processors),
                                       cmocka_unit_test(test_aml_encoding)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
