/* test_fw_cfg.c - fw_cfg as SeaBIOS, OVMF and Linux use it: the signature, items and files through the port and by DMA, writable files, and
 * what hostile guests try; conformance.
 */
#include "devices/firmware/fw_cfg.h"
#include "tests/device/conformance.h"

enum { ACCESS = 0x5000, BUFFER = 0x7a5100 };
enum { CTL_ERROR = 1, CTL_READ = 2, CTL_SKIP = 4, CTL_SELECT = 8, CTL_WRITE = 16 };

struct rig { struct conformance_world w; struct dp_device *d; };

static const char table[] = "a table of ACPI, say";

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_fw_cfg_class, "fw_cfg", env);
    assert_ok(dp_device_init(d, &e), e);
    assert_ok(dp_fw_cfg_add_number(d, DP_FW_CFG_NB_CPUS, 3, 2, &e), e);
    assert_ok(dp_fw_cfg_add_number(d, DP_FW_CFG_RAM_SIZE, 0x123456789a, 8, &e), e);
    assert_ok(dp_fw_cfg_add_number(d, DP_FW_CFG_IRQ0_OVERRIDE, 1, 4, &e), e);
    assert_ok(dp_fw_cfg_add_file(d, "etc/table", table, sizeof(table), &e), e);
    assert_ok(dp_fw_cfg_add_writable(d, "etc/vmgenid_addr", "\1\2\3\4\5\6\7", 8, &e), e);
    assert_ok(dp_fw_cfg_add_file(d, "bootorder", "/pci@i0cf8/*@4\n", 16, &e), e);
    assert_ok(dp_fw_cfg_add_writable(d, "etc/smi", "xyz", 4, &e), e);
    return d;
}

static void rig_new(struct rig *r)
{
    struct dp_error e = {0};
    conformance_world_init(&r->w);
    r->d = make(&r->w.env, NULL);
    assert_ok(dp_device_map(r->d, DP_FW_CFG_WINDOW, DP_FW_CFG_PORT, &e), e);
    assert_ok(dp_device_map(r->d, DP_FW_CFG_WINDOW_DMA, DP_FW_CFG_PORT_DMA, &e), e);
    dp_device_resume(r->d);
}

static void rig_free(struct rig *r)
{
    dp_device_free(r->d);
    conformance_world_fini(&r->w);
}

static void outw(struct rig *r, uint16_t v) { dp_space_store(r->w.env.ports, 0x510, v, 2); }

static void read_port(struct rig *r, void *data, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        ((uint8_t *)data)[i] = (uint8_t)dp_space_load(r->w.env.ports, 0x511, 1);
}

/* One DMA operation as SeaBIOS starts it; returns the control word that the device left. */
static uint32_t dma(struct rig *r, uint32_t control, uint64_t at, uint32_t length)
{
    struct dp_space *m = r->w.env.memory;
    dp_space_store(m, ACCESS, __builtin_bswap32(control), 4);
    dp_space_store(m, ACCESS + 4, __builtin_bswap32(length), 4);
    dp_space_store(m, ACCESS + 8, __builtin_bswap64(at), 8);
    dp_space_store(r->w.env.ports, 0x518, __builtin_bswap32(ACCESS), 4);
    return __builtin_bswap32((uint32_t)dp_space_load(m, ACCESS, 4));
}

/* What qemu_get_present_ and romfile_find do: directory first. Returns the key, 0 if there is no such file. */
static unsigned find(struct rig *r, const char *name, uint32_t *size)
{
    uint8_t head[4], entry[64];
    outw(r, DP_FW_CFG_FILE_DIR);
    read_port(r, head, 4);
    for (unsigned n = __builtin_bswap32(dp_ld32(head)); n--;) {
        read_port(r, entry, 64);
        if (!strcmp((char *)entry + 8, name)) {
            *size = __builtin_bswap32(dp_ld32(entry));
            return __builtin_bswap16(dp_ld16(entry + 4));
        }
    }
    return 0;
}

static void ports(void **state)
{
    struct rig r;
    uint8_t b[70];
    uint32_t size;
    rig_new(&r);
    outw(&r, DP_FW_CFG_SIGNATURE);
    read_port(&r, b, 6);
    assert_memory_equal(b, "QEMU\0", 6); /* past the end: zeros */
    outw(&r, DP_FW_CFG_ID);
    read_port(&r, b, 4);
    assert_int_equal(dp_ld32(b), 3);
    assert_int_equal(dp_space_load(r.w.env.ports, 0x514, 4), 0x554d4551);
    assert_int_equal(dp_space_load(r.w.env.ports, 0x518, 4), 0x47464320);

    outw(&r, DP_FW_CFG_NB_CPUS);
    read_port(&r, b, 2);
    assert_int_equal(dp_ld16(b), 3);
    outw(&r, DP_FW_CFG_RAM_SIZE | 0x4000);
    read_port(&r, b, 8);
    assert_int_equal(dp_ld64(b), 0x123456789a);
    outw(&r, DP_FW_CFG_IRQ0_OVERRIDE);
    read_port(&r, b, 4);
    assert_int_equal(dp_ld32(b), 1);
    outw(&r, 0x1f); /* nothing there */
    read_port(&r, b, 4);
    assert_int_equal(dp_ld32(b), 0);

    /* Sorted by name, keys in that order. */
    assert_int_equal(find(&r, "bootorder", &size), 0x20);
    assert_int_equal(size, 16);
    assert_int_equal(find(&r, "etc/smi", &size), 0x21);
    assert_int_equal(find(&r, "etc/table", &size), 0x22);
    assert_int_equal(size, sizeof(table));
    outw(&r, 0x22);
    read_port(&r, b, sizeof(table));
    assert_memory_equal(b, table, sizeof(table));
    assert_int_equal(find(&r, "etc/vmgenid_addr", &size), 0x23);
    assert_int_equal(find(&r, "etc/none", &size), 0);
    /* Writes to the data port and to half of the selector do nothing. */
    outw(&r, 0x22);
    dp_space_store(r.w.env.ports, 0x511, 'X', 1);
    dp_space_store(r.w.env.ports, 0x510, 0x20, 1);
    read_port(&r, b, 3);
    assert_memory_equal(b, table, 3);
    rig_free(&r);
}

static void dma_reads(void **state)
{
    struct rig r;
    uint8_t b[200];
    rig_new(&r);
    struct dp_space *m = r.w.env.memory;
    memset(b, 0xee, sizeof(b));
    assert_int_equal(dp_space_write(m, BUFFER, b, 100), 0);
    assert_int_equal(dma(&r, 0x22 << 16 | CTL_SELECT | CTL_READ, BUFFER, sizeof(table)), 0);
    assert_int_equal(dp_space_read(m, BUFFER, b, 100), 0);
    assert_memory_equal(b, table, sizeof(table));
    assert_int_equal(b[sizeof(table)], 0xee);

    /* Select alone, skip, then the rest; a read past the end gives zeros. */
    assert_int_equal(dma(&r, 0x22 << 16 | CTL_SELECT, 0, 0), 0);
    assert_int_equal(dma(&r, CTL_SKIP, 0, 2), 0);
    assert_int_equal(dma(&r, CTL_READ, BUFFER, 40), 0);
    assert_int_equal(dp_space_read(m, BUFFER, b, 100), 0);
    assert_memory_equal(b, table + 2, sizeof(table) - 2);
    assert_int_equal(b[sizeof(table) - 2], 0);
    assert_int_equal(b[39], 0);
    assert_int_equal(b[40], 0xee);
    read_port(&r, b, 1); /* the port shares the offset */
    assert_int_equal(b[0], 0);
    outw(&r, 0x22);
    assert_int_equal(dma(&r, CTL_SKIP, 0, 0xffffffff), 0);
    assert_int_equal(dma(&r, CTL_READ, BUFFER, 4), 0);
    assert_int_equal(dp_space_load(m, BUFFER, 4), 0);

    /* A 64-bit address: upper half first; it is forgotten after the operation. */
    dp_space_store(m, ACCESS, __builtin_bswap32(0x22 << 16 | CTL_SELECT | CTL_READ), 4);
    dp_space_store(m, ACCESS + 4, __builtin_bswap32(5), 4);
    dp_space_store(m, ACCESS + 8, __builtin_bswap64(BUFFER), 8);
    dp_space_store(r.w.env.ports, 0x514, __builtin_bswap32(1), 4);
    dp_space_store(r.w.env.ports, 0x518, __builtin_bswap32(ACCESS), 4); /* at 4 GiB, where nothing is */
    assert_int_equal(dp_space_load(m, BUFFER, 4), 0);
    dp_space_store(r.w.env.ports, 0x514, 0, 4);
    dp_space_store(r.w.env.ports, 0x518, __builtin_bswap32(ACCESS), 4);
    assert_int_equal(dp_space_load(m, ACCESS, 4), 0);
    assert_int_equal(dp_space_load(m, BUFFER, 1), 'a');
    rig_free(&r);
}

static void dma_writes(void **state)
{
    struct rig r;
    size_t size;
    rig_new(&r);
    struct dp_space *m = r.w.env.memory;
    assert_int_equal(dp_space_write(m, BUFFER, "\xaa\xbb\xcc\xdd\xee\xff\x11\x22\x33", 9), 0);
    /* OVMF's WRITE_POINTER: select, skip, write. */
    assert_int_equal(dma(&r, 0x23 << 16 | CTL_SELECT, 0, 0), 0);
    assert_int_equal(dma(&r, CTL_SKIP, 0, 4), 0);
    assert_int_equal(dma(&r, CTL_WRITE, BUFFER, 4), 0);
    assert_memory_equal(dp_fw_cfg_file(r.d, "etc/vmgenid_addr", &size), "\1\2\3\4\xaa\xbb\xcc\xdd", 8);
    assert_int_equal(size, 8);
    assert_memory_equal(dp_fw_cfg_file(r.d, "etc/smi", NULL), "xyz", 4);
    assert_int_equal(dma(&r, 0x23 << 16 | CTL_SELECT | CTL_READ, BUFFER + 0x100, 8), 0);
    assert_int_equal(dp_space_load(m, BUFFER + 0x104, 4), 0xddccbbaa);
    /* Too long, past the end, or read-only: nothing is written. */
    assert_int_equal(dma(&r, 0x23 << 16 | CTL_SELECT | CTL_WRITE, BUFFER, 9), CTL_ERROR);
    assert_int_equal(dma(&r, CTL_SKIP, 0, 8), 0);
    assert_int_equal(dma(&r, CTL_WRITE, BUFFER, 1), CTL_ERROR);
    assert_int_equal(dma(&r, 0x22 << 16 | CTL_SELECT | CTL_WRITE, BUFFER, 4), CTL_ERROR);
    assert_int_equal(dma(&r, 0x1f << 16 | CTL_SELECT | CTL_WRITE, BUFFER, 4), CTL_ERROR);
    assert_memory_equal(dp_fw_cfg_file(r.d, "etc/table", NULL), table, sizeof(table));
    assert_memory_equal(dp_fw_cfg_file(r.d, "etc/vmgenid_addr", NULL), "\1\2\3\4\xaa\xbb\xcc\xdd", 8);
    dp_device_reset(r.d);
    assert_memory_equal(dp_fw_cfg_file(r.d, "etc/vmgenid_addr", NULL), "\1\2\3\4\5\6\7", 8);
    rig_free(&r);
}

static void hostile(void **state)
{
    struct rig r;
    rig_new(&r);
    const uint32_t read = 0x22 << 16 | CTL_SELECT | CTL_READ;
    assert_int_equal(dma(&r, read, 1ull << 32, 4), CTL_ERROR);             /* no RAM */
    assert_int_equal(dma(&r, read, (16 << 20) - 4, 8), CTL_ERROR);         /* runs out of it */
    assert_int_equal(dma(&r, read, ~0ull - 2, 8), CTL_ERROR);              /* wraps */
    assert_int_equal(dma(&r, read, 0xff0000, 0xffffffff), CTL_ERROR);      /* 4 GiB */
    assert_int_equal(dma(&r, 0x23 << 16 | CTL_SELECT | CTL_WRITE, 1ull << 40, 8), CTL_ERROR);
    assert_memory_equal(dp_fw_cfg_file(r.d, "etc/vmgenid_addr", NULL), "\1\2\3\4\5\6\7", 8);
    dp_space_store(r.w.env.ports, 0x514, ~0ull, 4); /* the structure itself nowhere */
    dp_space_store(r.w.env.ports, 0x518, ~0ull, 4);
    assert_int_equal(dma(&r, read, ACCESS - 4, sizeof(table)), 0);         /* over the structure: its bytes, then the result */
    rig_free(&r);
}

static void owner(void **state)
{
    struct rig r;
    struct dp_error e = {0};
    uint32_t size;
    size_t n;
    static const char many[DP_FW_CFG_NAME_MAX + 2] = "0123456789012345678901234567890123456789012345678901234";
    rig_new(&r);
    assert_int_equal(dp_fw_cfg_add_bytes(r.d, DP_FW_CFG_FILE_DIR, "x", 1, &e), -EINVAL);
    assert_int_equal(dp_fw_cfg_add_bytes(r.d, 0x20, "x", 1, &e), -EINVAL);
    assert_int_equal(dp_fw_cfg_add_bytes(r.d, 0x4003, "x", 1, &e), -EINVAL);
    assert_int_equal(dp_fw_cfg_add_file(r.d, "", "x", 1, &e), -EINVAL);
    assert_ok(dp_fw_cfg_add_file(r.d, many, "x", 1, &e), e);
    assert_int_equal(find(&r, many, &size), 0x20);
    assert_int_equal(find(&r, "bootorder", &size), 0x21); /* numbered anew */
    char longer[DP_FW_CFG_NAME_MAX + 2];
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = 0;
    assert_int_equal(dp_fw_cfg_add_file(r.d, longer, "x", 1, &e), -EINVAL);
    assert_int_equal(dp_fw_cfg_add_file(r.d, "large", NULL, DP_FW_CFG_ITEM_MAX + 1ull, &e), -E2BIG);
    static const uint8_t zeros[DP_FW_CFG_WRITABLE_MAX];
    assert_int_equal(dp_fw_cfg_add_writable(r.d, "w", zeros, sizeof(zeros), &e), -E2BIG); /* 12 are taken */
    assert_ok(dp_fw_cfg_add_writable(r.d, "w", zeros, sizeof(zeros) - 12, &e), e);
    assert_ok(dp_fw_cfg_add_file(r.d, "etc/table", "new", 4, &e), e);
    assert_string_equal(dp_fw_cfg_file(r.d, "etc/table", &n), "new");
    assert_int_equal(n, 4);
    assert_null(dp_fw_cfg_file(r.d, "no", &n));
    for (unsigned i = 0; i < DP_FW_CFG_FILES_MAX - 6; i++) {
        char name[20];
        snprintf(name, sizeof(name), "f%u", i);
        assert_ok(dp_fw_cfg_add_file(r.d, name, NULL, 0, &e), e);
    }
    assert_int_equal(dp_fw_cfg_add_file(r.d, "one more", "x", 1, &e), -ENOSPC);
    rig_free(&r);
}

/* A random operation with its structure in RAM, by DMA. */
static uint64_t poke(struct dp_device *d, struct dp_random *random)
{
    struct dp_space *m = d->env->memory;
    uint64_t v = dp_random_next(random), at = dp_random_next(random) % 16 ? BUFFER + v % 64 : v >> 20;
    uint32_t key = (uint32_t)(v >> 32 & 0x27), control = key << 16 | (v >> 40 & 31), length = (uint32_t)(v >> 48) % 40;
    dp_space_store(m, BUFFER, v, 8);
    dp_space_store(m, ACCESS, __builtin_bswap32(control), 4);
    dp_space_store(m, ACCESS + 4, __builtin_bswap32(length), 4);
    dp_space_store(m, ACCESS + 8, __builtin_bswap64(at), 8);
    d->class->windows[DP_FW_CFG_WINDOW_DMA].ops->write(d, 0, 0, 4);
    d->class->windows[DP_FW_CFG_WINDOW_DMA].ops->write(d, 4, __builtin_bswap32(ACCESS), 4);
    uint64_t seen = dp_space_load(m, ACCESS, 4) ^ (at < 16 << 20 ? dp_space_load(m, at, 8) : 0);
    static const uint8_t zeros[256];
    (void)dp_space_write(m, BUFFER, zeros, sizeof(zeros)); /* the other device finds the same */
    return seen;
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make, .poke = poke};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ports),   cmocka_unit_test(dma_reads), cmocka_unit_test(dma_writes),
        cmocka_unit_test(hostile), cmocka_unit_test(owner),     cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("fw_cfg", tests, NULL, NULL);
}
