/* test_ahci.c - the AHCI controller by its drivers: how firmware and Linux start it, identify, DMA and PIO both ways, queued commands,
 * errors and how
 * drivers recover, packets, resets, MSI and INTx, pauses in the middle, and what every device must do. Images are fakes in memory.
 */
#include "devices/storage/ahci.h"
#include "tests/device/conformance.h"
#include "tests/device/fake_block.h"

enum { CAP = 0, GHC = 4, IS = 8, PI = 0xc, VS = 0x10 };
enum { CLB = 0, FB = 8, PIS = 0x10, IE = 0x14, CMD = 0x18, TFD = 0x20, SIG = 0x24, SSTS = 0x28, SCTL = 0x2c,
       SERR = 0x30, SACT = 0x34, CI = 0x38 };
enum { ST = 1, CLO = 8, FRE = 0x10, CR = 0x8000, FR = 0x4000 };
enum { DHRS = 1, PSS = 2, SDBS = 8, DPS = 0x20, PCS = 0x40, OFS = 1 << 24, IFS = 1 << 27, HBFS = 1 << 29, TFES = 1 << 30 };
enum { BASE = 0x2000000, DISK_SECTORS = 8192, CD_SECTORS = 500 };
enum { LIST = 0x1000, FIS = 0x2000, TABLES = 0x4000, TABLE_SIZE = 0x400, DATA = 0x100000 };
enum { READY = 0x50, ERR = 1, WRITE = 0x40, ATAPI = 0x20 };

struct rig {
    struct conformance_world w;
    struct dp_device *d;
    struct dp_block block[3], other;
    const char *kinds;
};

static struct dp_device *make(struct rig *r, const struct dp_device_env *env)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_ahci_class, "ahci", env);
    for (unsigned i = 0; i < 3; i++) {
        if (r->kinds[i] == 'd')
            dp_ahci_attach_disk(d, i, &r->block[i], i ? NULL : "SERIAL-1");
        else if (r->kinds[i] != '-')
            dp_ahci_attach_cdrom(d, i, r->kinds[i] == 'c' ? &r->block[i] : NULL);
    }
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void start_device(struct rig *r)
{
    struct dp_error e = {0};
    assert_ok(dp_device_map(r->d, DP_AHCI_WINDOW, BASE, &e), e);
    dp_device_resume(r->d);
    dp_pci_config_write(dp_ahci_function(r->d), DP_PCI_COMMAND, DP_PCI_COMMAND_MASTER | DP_PCI_COMMAND_MEMORY, 2);
}

static void out(struct rig *r, unsigned reg, uint32_t v) { dp_space_store(r->w.env.memory, BASE + reg, v, 4); }
static uint32_t in(struct rig *r, unsigned reg) { return (uint32_t)dp_space_load(r->w.env.memory, BASE + reg, 4); }
static void pout(struct rig *r, unsigned port, unsigned reg, uint32_t v) { out(r, 0x100 + port * 0x80 + reg, v); }
static uint32_t pin(struct rig *r, unsigned port, unsigned reg) { return in(r, 0x100 + port * 0x80 + reg); }
static uint8_t *ram(struct rig *r, uint64_t at) { return r->w.ram->host + at; }
static uint8_t *fis_of(struct rig *r, unsigned port) { return ram(r, FIS + port * 0x100); }

/* As drivers do: stop, reset the link, wait, clear, start. */
static void start_port(struct rig *r, unsigned port)
{
    pout(r, port, CMD, 0);
    assert_int_equal(pin(r, port, CMD) & (CR | FR), 0);
    pout(r, port, CLB, LIST + port * 0x400);
    pout(r, port, CLB + 4, 0);
    pout(r, port, FB, FIS + port * 0x100);
    pout(r, port, FB + 4, 0);
    pout(r, port, CMD, FRE);
    pout(r, port, SCTL, 0x301);
    assert_int_equal(pin(r, port, SSTS), 0);
    pout(r, port, SCTL, 0x300);
    pout(r, port, SERR, ~0u);
    pout(r, port, PIS, ~0u);
    pout(r, port, IE, ~0u);
    pout(r, port, CMD, FRE | ST);
    assert_int_equal(pin(r, port, CMD) & (CR | FR), CR | FR);
}

/* kinds: 'd'isk, 'c'd-rom, 'e'mpty cd-rom, '-' */
static void rig_init(struct rig *r, const char *kinds)
{
    memset(r, 0, sizeof *r);
    r->kinds = kinds;
    conformance_world_init(&r->w);
    for (unsigned i = 0; i < 3; i++) {
        fake_block_init(&r->block[i], kinds[i] == 'd' ? DISK_SECTORS * 512 : CD_SECTORS * 2048);
        r->block[i].readonly = kinds[i] != 'd';
        for (uint64_t at = 0; at < r->block[i].size; at += 4)
            dp_st32(r->block[i].data + at, (uint32_t)(at * 0x9e3779b1u + i));
    }
    fake_block_init(&r->other, 100 * 2048);
    memset(r->other.data, 0x77, r->other.size);
    r->d = make(r, &r->w.env);
    start_device(r);
    out(r, GHC, 0x80000002);
    for (unsigned i = 0; i < 3; i++)
        if (kinds[i] != '-')
            start_port(r, i);
}

static void rig_fini(struct rig *r)
{
    dp_device_free(r->d);
    for (unsigned i = 0; i < 3; i++)
        fake_block_fini(&r->block[i]);
    fake_block_fini(&r->other);
    conformance_world_fini(&r->w);
}

static void drain(struct rig *r)
{
    for (unsigned i = 0; i < 3; i++)
        dp_block_drain(&r->block[i]);
    dp_block_drain(&r->other);
}

/* ---- commands ---- */

static uint64_t table_of(unsigned port, unsigned slot) { return TABLES + (port * 32 + slot) * TABLE_SIZE; }

/* A table with a register FIS and `prds` entries of `each` bytes from `data` on. */
static uint8_t *prepare(struct rig *r, unsigned port, unsigned slot, uint8_t command, uint64_t lba, unsigned count, uint32_t flags,
                        uint64_t data, unsigned prds, uint32_t each)
{
    uint8_t *h = ram(r, LIST + port * 0x400 + slot * 32), *t = ram(r, table_of(port, slot));
    memset(h, 0, 32);
    memset(t, 0, 0x80);
    dp_st32(h, 5 | flags | prds << 16);
    dp_st64(h + 8, table_of(port, slot));
    t[0] = 0x27;
    t[1] = 0x80;
    t[2] = command;
    t[7] = 0x40;
    for (unsigned i = 0; i < 3; i++) {
        t[4 + i] = (uint8_t)(lba >> 8 * i);
        t[8 + i] = (uint8_t)(lba >> 8 * (i + 3));
    }
    dp_st16(t + 12, (uint16_t)count);
    for (unsigned i = 0; i < prds; i++) {
        dp_st64(t + 0x80 + 16 * i, data + (uint64_t)i * each);
        dp_st32(t + 0x80 + 16 * i + 12, each - 1);
    }
    return t;
}

/* A queued one. */
static void prepare_queued(struct rig *r, unsigned port, unsigned slot, bool write, uint64_t lba, unsigned count, uint64_t data,
                           unsigned prds)
{
    uint8_t *t = prepare(r, port, slot, write ? 0x61 : 0x60, lba, 0, write ? WRITE : 0, data, prds, prds ? count * 512 / prds : 0);
    t[3] = (uint8_t)count;
    t[11] = (uint8_t)(count >> 8);
    t[12] = (uint8_t)(slot << 3);
}

/* Issues, waits, takes the event. Returns PxIS. */
static uint32_t run(struct rig *r, unsigned port, unsigned slot)
{
    pout(r, port, CI, 1u << slot);
    drain(r);
    uint32_t is = pin(r, port, PIS);
    pout(r, port, PIS, is);
    out(r, IS, ~0u);
    return is;
}

static uint32_t moved(struct rig *r, unsigned port, unsigned slot) { return dp_ld32(ram(r, LIST + port * 0x400 + slot * 32 + 4)); }

/* After an error: as libahci and SeaBIOS, without a reset of the link when the drive is idle. */
static void recover(struct rig *r, unsigned port)
{
    pout(r, port, CMD, FRE);
    assert_int_equal(pin(r, port, CMD) & CR, 0);
    assert_int_equal(pin(r, port, CI) | pin(r, port, SACT), 0);
    assert_int_equal(pin(r, port, TFD) & 0x88, 0);
    pout(r, port, SERR, ~0u);
    pout(r, port, PIS, ~0u);
    pout(r, port, CMD, FRE | ST);
}

static void start_up(void **state)
{
    struct rig r;
    rig_init(&r, "dc-");
    struct dp_pci_function *f = dp_ahci_function(r.d);
    assert_int_equal(dp_pci_config_read(f, 0, 4), 0x29228086);
    assert_int_equal(dp_pci_config_read(f, 8, 4), 0x01060102);
    dp_pci_config_write(f, 0x24, ~0u, 4);
    assert_int_equal(dp_pci_config_read(f, 0x24, 4), 0xfffff000);
    assert_int_equal(dp_pci_config_read(f, 0x90, 1), 0x40);
    assert_int_equal(in(&r, CAP) & 0x1f, 5);
    assert_int_equal(in(&r, CAP) >> 30, 3);
    assert_int_equal(in(&r, PI), 0x3f);
    assert_int_equal(in(&r, VS), 0x10300);
    assert_int_equal(pin(&r, 0, SSTS), 0x123);
    assert_int_equal(pin(&r, 0, SIG), 0x101);
    assert_int_equal(pin(&r, 0, TFD), 0x150);
    assert_int_equal(fis_of(&r, 0)[0x40], 0x34);
    assert_int_equal(pin(&r, 1, SIG), 0xeb140101);
    assert_int_equal(pin(&r, 1, TFD) & 0x89, 0);
    assert_int_equal(pin(&r, 2, SSTS), 0); /* nothing there */
    assert_int_equal(pin(&r, 2, TFD), 0x7f);
    assert_int_equal(pin(&r, 2, SIG), 0xffffffff);
    pout(&r, 2, CMD, ST);
    pout(&r, 2, CI, 1);
    assert_int_equal(pin(&r, 2, CI), 1);

    /* a reset of the link: the change is told, the speed is what the host allows */
    pout(&r, 0, CMD, FRE);
    pout(&r, 0, SCTL, 0x311);
    assert_int_equal(pin(&r, 0, TFD) & 0x80, 0x80);
    assert_int_equal(pin(&r, 0, SIG), 0xffffffff);
    pout(&r, 0, SCTL, 0x310);
    assert_int_equal(pin(&r, 0, SSTS), 0x113);
    assert_int_equal(pin(&r, 0, PIS) & PCS, PCS);
    pout(&r, 0, PIS, ~0u);
    assert_int_equal(pin(&r, 0, PIS) & PCS, PCS);
    pout(&r, 0, SERR, ~0u);
    assert_int_equal(pin(&r, 0, PIS), 0);
    /* without FRE the signature waits for it in memory, not in registers */
    pout(&r, 0, CMD, 0);
    memset(fis_of(&r, 0), 0, 0x100);
    pout(&r, 0, SCTL, 1);
    pout(&r, 0, SCTL, 0);
    assert_int_equal(pin(&r, 0, SIG), 0x101);
    assert_int_equal(fis_of(&r, 0)[0x40], 0);
    pout(&r, 0, CMD, FRE);
    assert_int_equal(fis_of(&r, 0)[0x40], 0x34);
    /* the whole controller */
    pout(&r, 0, CMD, FRE | ST);
    out(&r, GHC, 0x80000001);
    assert_int_equal(in(&r, GHC), 0x80000000);
    assert_int_equal(pin(&r, 0, CMD), 6);
    assert_int_equal(pin(&r, 0, CLB), LIST);
    assert_int_equal(pin(&r, 0, SIG), 0x101);
    rig_fini(&r);
}

static void software_reset(void **state)
{
    struct rig r;
    rig_init(&r, "dc-");
    for (unsigned port = 0; port < 2; port++) {
        uint8_t *t = prepare(&r, port, 0, 0, 0, 0, 0x500, 0, 0, 0); /* reset, clear busy */
        memset(fis_of(&r, port), 0, 0x100);
        t[1] = 0;
        t[15] = 4;
        run(&r, port, 0);
        assert_int_equal(pin(&r, port, CI), 0);
        assert_int_equal(fis_of(&r, port)[0x40], 0);
        t[15] = 0;
        run(&r, port, 0);
        assert_int_equal(pin(&r, port, CI), 0);
        assert_int_equal(fis_of(&r, port)[0x40], 0x34);
        assert_int_equal(pin(&r, port, SIG), port ? 0xeb140101 : 0x101);
        assert_int_equal(pin(&r, port, TFD) & 0x88, 0);
    }
    /* in the middle of a command, which is busy: CLO first */
    prepare(&r, 0, 3, 0x25, 100, 8, 0, DATA, 1, 4096);
    pout(&r, 0, CI, 8);
    assert_int_equal(pin(&r, 0, TFD) & 0x80, 0x80);
    pout(&r, 0, CMD, FRE);
    assert_int_equal(pin(&r, 0, CMD) & CR, CR); /* still in flight */
    drain(&r);
    assert_int_equal(pin(&r, 0, CMD) & CR, 0);
    pout(&r, 0, CMD, FRE | CLO);
    assert_int_equal(pin(&r, 0, TFD) & 0x88, 0);
    pout(&r, 0, CMD, FRE | ST);
    uint8_t *t = prepare(&r, 0, 0, 0, 0, 0, 0x500, 0, 0, 0);
    t[1] = 0;
    t[15] = 4;
    run(&r, 0, 0);
    t[15] = 0;
    run(&r, 0, 0);
    assert_int_equal(pin(&r, 0, TFD), 0x150);
    rig_fini(&r);
}

static void identify(void **state)
{
    struct rig r;
    rig_init(&r, "dc-");
    prepare(&r, 0, 5, 0xec, 0, 0, 0, DATA, 1, 512);
    assert_int_equal(run(&r, 0, 5), PSS);
    const uint8_t *b = ram(&r, DATA), *f = fis_of(&r, 0) + 0x20;
    assert_int_equal(moved(&r, 0, 5), 512);
    assert_int_equal(pin(&r, 0, CI), 0);
    assert_int_equal(pin(&r, 0, TFD), READY);
    assert_int_equal(f[0], 0x5f);
    assert_int_equal(f[1], 0x60);
    assert_int_equal(f[15], READY); /* where libata looks */
    assert_int_equal(dp_ld16(f + 16), 512);
    assert_int_equal(dp_ld64(b + 200), DISK_SECTORS);
    assert_memory_equal(b + 20, "ESIRLA1-", 8);
    assert_int_equal(dp_ld16(b + 150), 31);
    assert_int_equal(dp_ld16(b + 152), 0x106);
    assert_int_equal(dp_ld16(b + 186), 0);
    uint8_t sum = 0;
    for (unsigned i = 0; i < 512; i++)
        sum += b[i];
    assert_int_equal(sum, 0);
    /* the same of a CD, and how each says that it is not the other */
    prepare(&r, 1, 0, 0xa1, 0, 0, 0, DATA, 1, 512);
    assert_int_equal(run(&r, 1, 0), PSS);
    assert_int_equal(dp_ld16(b), 0x85c0);
    assert_int_equal(dp_ld16(b + 152), 0x006);
    prepare(&r, 1, 0, 0xec, 0, 0, 0, DATA, 1, 512);
    assert_int_equal(run(&r, 1, 0), DHRS | (uint32_t)TFES);
    assert_int_equal(pin(&r, 1, TFD) & 0xff01, 0x401);
    assert_int_equal(pin(&r, 1, CI), 1); /* until software stops the list */
    recover(&r, 1);
    prepare(&r, 0, 0, 0xa1, 0, 0, 0, DATA, 1, 512);
    assert_int_equal(run(&r, 0, 0) & TFES, TFES);
    recover(&r, 0);
    rig_fini(&r);
}

static void dma(void **state)
{
    struct rig r;
    rig_init(&r, "d--");
    /* scattered, with an interrupt when an entry is used up */
    prepare(&r, 0, 1, 0x25, 100, 24, 0, DATA, 6, 2048);
    dp_st32(ram(&r, table_of(0, 1) + 0x80 + 12), 2047 | 1u << 31);
    assert_int_equal(run(&r, 0, 1), DHRS | DPS);
    assert_memory_equal(ram(&r, DATA), r.block[0].data + 100 * 512, 24 * 512);
    assert_int_equal(moved(&r, 0, 1), 24 * 512);
    assert_int_equal(fis_of(&r, 0)[0x40], 0x34);
    assert_int_equal(fis_of(&r, 0)[0x42], READY);
    assert_int_equal(fis_of(&r, 0)[0x41], 0x40);
    /* entries that end within sectors */
    memset(ram(&r, DATA), 0, 4096);
    prepare(&r, 0, 2, 0x25, 7, 8, 0, DATA, 64, 64);
    assert_int_equal(run(&r, 0, 2), DHRS);
    assert_memory_equal(ram(&r, DATA), r.block[0].data + 7 * 512, 4096);
    /* more than one request's worth, 28-bit addresses */
    prepare(&r, 0, 3, 0xc8, 1000, 0, 0, DATA, 1, 256 * 512);
    assert_int_equal(run(&r, 0, 3), DHRS);
    assert_memory_equal(ram(&r, DATA), r.block[0].data + 1000 * 512, 256 * 512);
    prepare(&r, 0, 3, 0x25, 0, 5000, 0, DATA, 5, 512000);
    assert_int_equal(run(&r, 0, 3), DHRS);
    assert_memory_equal(ram(&r, DATA), r.block[0].data, 5000 * 512);
    /* writing, then a flush */
    memset(ram(&r, DATA), 0xa5, 4096);
    prepare(&r, 0, 4, 0x35, 200, 8, WRITE, DATA, 1, 4096);
    assert_int_equal(run(&r, 0, 4), DHRS);
    assert_memory_equal(r.block[0].data + 200 * 512, ram(&r, DATA), 4096);
    prepare(&r, 0, 4, 0xea, 0, 0, 0, 0, 0, 0);
    assert_int_equal(run(&r, 0, 4), DHRS);
    assert_int_equal(r.block[0].flushes, 1);
    /* PIO both ways, single and multiple */
    prepare(&r, 0, 5, 0x24, 300, 20, 0, DATA, 1, 20 * 512);
    assert_int_equal(run(&r, 0, 5), PSS);
    assert_memory_equal(ram(&r, DATA), r.block[0].data + 300 * 512, 20 * 512);
    memset(ram(&r, DATA), 0x3c, 33 * 512);
    prepare(&r, 0, 5, 0x34, 400, 3, WRITE, DATA, 1, 3 * 512);
    assert_int_equal(run(&r, 0, 5), DHRS);
    assert_memory_equal(r.block[0].data + 400 * 512, ram(&r, DATA), 3 * 512);
    prepare(&r, 0, 5, 0x39, 500, 33, WRITE, DATA, 3, 11 * 512);
    assert_int_equal(run(&r, 0, 5), DHRS);
    assert_memory_equal(r.block[0].data + 500 * 512, ram(&r, DATA), 33 * 512);
    prepare(&r, 0, 5, 0x42, 0, 33, 0, 0, 0, 0); /* verify */
    assert_int_equal(run(&r, 0, 5), DHRS);
    /* several in the list: one after the other */
    for (unsigned i = 0; i < 4; i++)
        prepare(&r, 0, 8 + i, 0x25, 10 * i, 2, 0, DATA + i * 1024, 1, 1024);
    pout(&r, 0, CI, 0xf00);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(__builtin_popcount(pin(&r, 0, CI)), 4 - i);
        assert_true(fake_block_one(&r.block[0]));
    }
    for (unsigned i = 0; i < 4; i++)
        assert_memory_equal(ram(&r, DATA + i * 1024), r.block[0].data + i * 5120, 1024);
    rig_fini(&r);
}

static void bad_tables(void **state)
{
    struct rig r;
    rig_init(&r, "d--");
    prepare(&r, 0, 0, 0x25, 0, 8, 0, DATA, 0, 0); /* no entries */
    assert_int_equal(run(&r, 0, 0), DHRS | OFS | (uint32_t)TFES);
    recover(&r, 0);
    prepare(&r, 0, 0, 0x25, 0, 8, 0, 0x80000000000, 1, 4096); /* no RAM */
    assert_int_equal(run(&r, 0, 0), DHRS | HBFS | (uint32_t)TFES);
    recover(&r, 0);
    prepare(&r, 0, 0, 0xec, 0, 0, 0, DATA, 1, 100); /* what does not fit is dropped */
    assert_int_equal(run(&r, 0, 0), PSS | OFS);
    assert_int_equal(moved(&r, 0, 0), 100);
    dp_st64(ram(&r, LIST + 8), 0x80000000000); /* the table itself */
    assert_int_equal(run(&r, 0, 0), HBFS);
    recover(&r, 0);
    uint8_t *t = prepare(&r, 0, 0, 0xec, 0, 0, 0, DATA, 1, 512);
    t[0] = 0x46;
    assert_int_equal(run(&r, 0, 0), IFS);
    recover(&r, 0);
    prepare(&r, 0, 0, 0xec, 0, 0, 0, DATA, 1, 512);
    assert_int_equal(run(&r, 0, 0), PSS);
    pout(&r, 0, CMD, 0);
    pout(&r, 0, FB + 4, 0x8000); /* the FIS area */
    pout(&r, 0, CMD, FRE | ST);
    assert_int_equal(run(&r, 0, 0), PSS | HBFS);
    rig_fini(&r);
}

/* ---- queued commands ---- */

static void queued(void **state)
{
    struct rig r;
    rig_init(&r, "dd-");
    for (unsigned i = 0; i < 32; i++)
        prepare_queued(&r, 0, i, i & 1, 100 * i, 16, DATA + i * 8192, 4);
    memset(ram(&r, DATA + 8192), 0x99, 8192);
    pout(&r, 0, SACT, ~0u);
    pout(&r, 0, CI, ~0u);
    assert_int_equal(pin(&r, 0, CI), 0); /* all accepted */
    assert_int_equal(pin(&r, 0, SACT), 0xffffffff);
    assert_int_equal(pin(&r, 0, TFD), READY);
    assert_int_equal(pin(&r, 0, PIS), 0);
    assert_true(fake_block_one(&r.block[0]));
    assert_int_equal(pin(&r, 0, SACT), 0xfffffffe);
    assert_int_equal(pin(&r, 0, PIS), SDBS);
    assert_int_equal(fis_of(&r, 0)[0x58], 0xa1);
    assert_int_equal(dp_ld32(fis_of(&r, 0) + 0x5c), 1);
    drain(&r);
    assert_int_equal(pin(&r, 0, SACT), 0);
    for (unsigned i = 0; i < 32; i++)
        assert_memory_equal(ram(&r, DATA + i * 8192), r.block[0].data + 100 * i * 512, 8192);
    pout(&r, 0, PIS, ~0u);
    /* a command that is not queued waits for those that are, and the other way round */
    prepare_queued(&r, 0, 0, false, 0, 8, DATA, 1);
    prepare(&r, 0, 1, 0xea, 0, 0, 0, 0, 0, 0);
    prepare_queued(&r, 0, 2, false, 8, 8, DATA, 1);
    pout(&r, 0, SACT, 1);
    pout(&r, 0, CI, 1);
    pout(&r, 0, CI, 2);
    pout(&r, 0, SACT, 4);
    pout(&r, 0, CI, 4);
    assert_int_equal(pin(&r, 0, CI), 6);
    assert_true(fake_block_one(&r.block[0]));
    assert_int_equal(pin(&r, 0, TFD) & 0x80, 0x80);
    assert_true(fake_block_one(&r.block[0]));
    assert_int_equal(pin(&r, 0, CI), 0);
    assert_int_equal(pin(&r, 0, SACT), 4);
    assert_int_equal(r.block[0].flushes, 1);
    drain(&r);
    /* force unit access */
    prepare_queued(&r, 0, 0, true, 0, 8, DATA, 1);
    ram(&r, table_of(0, 0))[7] |= 0x80;
    pout(&r, 0, SACT, 1);
    pout(&r, 0, CI, 1);
    assert_true(fake_block_one(&r.block[0]));
    assert_int_equal(pin(&r, 0, SACT), 1);
    drain(&r);
    assert_int_equal(pin(&r, 0, SACT), 0);
    assert_int_equal(r.block[0].flushes, 2);
    /* many pieces make several requests */
    uint8_t *t = ram(&r, 0x200000);
    memset(t, 0, 0x80 + 16 * 1024);
    prepare_queued(&r, 0, 0, false, 0, 512, DATA, 1);
    memcpy(t, ram(&r, table_of(0, 0)), 0x40);
    for (unsigned i = 0; i < 1024; i++) {
        dp_st64(t + 0x80 + 16 * i, 0x400000 + (1023 - i) * 256);
        dp_st32(t + 0x80 + 16 * i + 12, 255);
    }
    dp_st64(ram(&r, LIST + 8), 0x200000);
    dp_st32(ram(&r, LIST), 5 | 1024u << 16);
    unsigned reads = r.block[0].reads;
    pout(&r, 0, SACT, 1);
    pout(&r, 0, CI, 1);
    drain(&r);
    assert_int_equal(pin(&r, 0, SACT), 0);
    assert_true(r.block[0].reads > reads + 2);
    for (unsigned i = 0; i < 1024; i++)
        assert_memory_equal(ram(&r, 0x400000 + (1023 - i) * 256), r.block[0].data + i * 256, 256);
    rig_fini(&r);
}

static void queued_error(void **state)
{
    struct rig r;
    rig_init(&r, "d--");
    r.block[0].bad_from = 1003 * 512;
    r.block[0].bad_to = 1004 * 512;
    for (unsigned i = 0; i < 4; i++)
        prepare_queued(&r, 0, i, false, 1000 * i, 16, DATA + i * 8192, 1);
    pout(&r, 0, SACT, 15);
    pout(&r, 0, CI, 15);
    drain(&r);
    assert_int_equal(pin(&r, 0, PIS), SDBS | (uint32_t)TFES);
    assert_int_equal(pin(&r, 0, TFD), 0x4051);
    assert_int_equal(pin(&r, 0, SACT) & 2, 2);
    assert_int_equal(fis_of(&r, 0)[0x5a] & 1, 1);
    /* nothing is taken until the list was stopped */
    pout(&r, 0, SACT, 16);
    pout(&r, 0, CI, 16);
    assert_int_equal(pin(&r, 0, CI), 16);
    recover(&r, 0);
    uint8_t *t = prepare(&r, 0, 0, 0x2f, 0x10, 1, 0, DATA, 1, 512); /* which one was it? */
    assert_int_equal(t[4], 0x10);
    assert_int_equal(run(&r, 0, 0), PSS);
    const uint8_t *log = ram(&r, DATA);
    assert_int_equal(log[0], 1);
    assert_int_equal(log[2], 0x51);
    assert_int_equal(log[3], 0x40);
    assert_int_equal(dp_ld32(log + 4) & 0xffffff, 1003);
    assert_int_equal(dp_ld16(log + 12), 16);
    uint8_t sum = 0;
    for (unsigned i = 0; i < 512; i++)
        sum += log[i];
    assert_int_equal(sum, 0);
    assert_int_equal(run(&r, 0, 0), PSS);
    assert_int_equal(log[0], 0x80); /* told once */
    prepare(&r, 0, 0, 0x47, 0, 1, 0, DATA, 1, 512);
    assert_int_equal(run(&r, 0, 0), DHRS);
    assert_int_equal(dp_ld16(log + 32), 1);
    prepare(&r, 0, 0, 0x2f, 0x11, 1, 0, DATA, 1, 512);
    assert_int_equal(run(&r, 0, 0) & TFES, TFES);
    recover(&r, 0);
    /* mistakes: a tag that is another, no PxSACT, beyond the end */
    prepare_queued(&r, 0, 3, false, 0, 8, DATA, 1);
    ram(&r, table_of(0, 3))[12] = 4 << 3;
    pout(&r, 0, SACT, 8);
    assert_int_equal(run(&r, 0, 3), SDBS | (uint32_t)TFES);
    assert_int_equal(pin(&r, 0, TFD), 0x451);
    recover(&r, 0);
    prepare_queued(&r, 0, 3, false, 0, 8, DATA, 1);
    assert_int_equal(run(&r, 0, 3), SDBS | (uint32_t)TFES);
    recover(&r, 0);
    prepare_queued(&r, 0, 3, false, DISK_SECTORS - 7, 8, DATA, 1);
    pout(&r, 0, SACT, 8);
    assert_int_equal(run(&r, 0, 3), SDBS | (uint32_t)TFES);
    assert_int_equal(pin(&r, 0, TFD) >> 8, 0x10);
    recover(&r, 0);
    prepare_queued(&r, 0, 3, false, 0, 8, 0x80000000000, 1);
    pout(&r, 0, SACT, 8);
    assert_int_equal(run(&r, 0, 3), SDBS | HBFS | (uint32_t)TFES);
    recover(&r, 0);
    /* stopped with requests in flight: they come back to nobody */
    for (unsigned i = 0; i < 4; i++)
        prepare_queued(&r, 0, i, false, 2000, 16, DATA + i * 8192, 1);
    pout(&r, 0, SACT, 15);
    pout(&r, 0, CI, 15);
    pout(&r, 0, CMD, FRE);
    assert_int_equal(pin(&r, 0, CMD) & CR, CR);
    pout(&r, 0, CMD, FRE | ST);
    pout(&r, 0, SACT, 1);
    pout(&r, 0, CI, 1);
    assert_int_equal(pin(&r, 0, CI), 1); /* not before they are back */
    drain(&r);
    assert_int_equal(pin(&r, 0, CI) | pin(&r, 0, SACT), 0);
    assert_int_equal(pin(&r, 0, PIS), SDBS);
    rig_fini(&r);
}

static void image_errors(void **state)
{
    struct rig r;
    rig_init(&r, "dc-");
    r.block[0].bad_from = 53 * 512;
    r.block[0].bad_to = 54 * 512;
    prepare(&r, 0, 0, 0x25, 50, 8, 0, DATA, 1, 4096);
    assert_int_equal(run(&r, 0, 0), DHRS | (uint32_t)TFES);
    assert_int_equal(pin(&r, 0, TFD), 0x4051);
    assert_int_equal(fis_of(&r, 0)[0x44], 53);
    assert_memory_equal(ram(&r, DATA), r.block[0].data + 50 * 512, 3 * 512);
    recover(&r, 0);
    prepare(&r, 0, 0, 0x35, 50, 8, WRITE, DATA, 1, 4096);
    assert_int_equal(run(&r, 0, 0), DHRS | (uint32_t)TFES);
    assert_int_equal(pin(&r, 0, TFD), 0x471); /* device fault */
    recover(&r, 0);
    prepare(&r, 0, 0, 0x25, DISK_SECTORS, 8, 0, DATA, 1, 4096);
    assert_int_equal(run(&r, 0, 0), DHRS | (uint32_t)TFES);
    assert_int_equal(pin(&r, 0, TFD) >> 8, 0x10);
    recover(&r, 0);
    prepare(&r, 0, 0, 0x5d, 0, 0, 0, 0, 0, 0); /* not known */
    assert_int_equal(run(&r, 0, 0), DHRS | (uint32_t)TFES);
    recover(&r, 0);
    rig_fini(&r);
}

/* ---- packets ---- */

static uint32_t packet(struct rig *r, unsigned port, const uint8_t cdb[12], unsigned bytes, bool by_dma)
{
    uint8_t *t = prepare(r, port, 0, 0xa0, 0, 0, ATAPI, DATA, bytes ? 1 : 0, bytes);
    t[3] = by_dma;
    t[5] = (uint8_t)bytes;
    t[6] = (uint8_t)(bytes >> 8);
    memcpy(t + 0x40, cdb, 12);
    return run(r, port, 0);
}

static void packets(void **state)
{
    static const uint8_t ready[12] = {0}, sense[12] = {3, 0, 0, 0, 18}, inquiry[12] = {0x12, 0, 0, 0, 36}, capacity[12] = {0x25},
                         read[12] = {0x28, 0, 0, 0, 0, 10, 0, 0, 4}, far[12] = {0x28, 0, 0, 1, 0, 0, 0, 0, 1};
    struct rig r;
    rig_init(&r, "-ce");
    const uint8_t *b = ram(&r, DATA);
    for (unsigned dma_bit = 0; dma_bit < 2; dma_bit++) {
        assert_int_equal(packet(&r, 1, inquiry, 36, dma_bit) & ~(uint32_t)PSS, DHRS);
        assert_int_equal(b[0], 5);
        assert_int_equal(moved(&r, 1, 0), 36);
        assert_int_equal(packet(&r, 1, capacity, 8, dma_bit) & ~(uint32_t)PSS, DHRS);
        assert_int_equal(b[3] | b[2] << 8, CD_SECTORS - 1);
        memset(ram(&r, DATA), 0, 8192);
        assert_int_equal(packet(&r, 1, read, 8192, dma_bit) & ~(uint32_t)PSS, DHRS);
        assert_memory_equal(b, r.block[1].data + 10 * 2048, 8192);
        assert_int_equal(moved(&r, 1, 0), 8192);
        assert_int_equal(packet(&r, 1, far, 2048, dma_bit) & (uint32_t)~PSS, DHRS | (uint32_t)TFES);
        assert_int_equal(pin(&r, 1, TFD) >> 8, 0x54);
        recover(&r, 1);
        assert_int_equal(packet(&r, 1, sense, 18, dma_bit) & ~(uint32_t)PSS, DHRS);
        assert_int_equal(b[2] << 8 | b[12], 0x521);
    }
    assert_int_equal(packet(&r, 1, ready, 0, false), DHRS);
    r.block[1].bad_from = 12 * 2048;
    r.block[1].bad_to = r.block[1].bad_from + 1;
    assert_int_equal(packet(&r, 1, read, 8192, true), DHRS | (uint32_t)TFES);
    recover(&r, 1);
    packet(&r, 1, sense, 18, true);
    assert_int_equal(b[2] << 8 | b[12], 0x311);
    /* no medium, then one */
    struct dp_error e = {0};
    assert_int_equal(packet(&r, 2, ready, 0, false), DHRS | (uint32_t)TFES);
    recover(&r, 2);
    assert_ok(dp_ahci_change_medium(r.d, 2, &r.other, &e), e);
    assert_int_equal(packet(&r, 2, ready, 0, false), DHRS | (uint32_t)TFES); /* attention */
    recover(&r, 2);
    assert_int_equal(packet(&r, 2, read, 8192, true), DHRS);
    assert_memory_equal(b, r.other.data, 8192);
    assert_int_equal(dp_ahci_change_medium(r.d, 0, &r.other, &e), -EINVAL);
    assert_false(dp_ahci_tray_open(r.d, 2));
    rig_fini(&r);
}

/* ---- interrupts ---- */

static void interrupts(void **state)
{
    struct rig r;
    rig_init(&r, "dd-");
    struct dp_pci_function *f = dp_ahci_function(r.d);
    unsigned msis = r.w.msis;
    prepare(&r, 0, 0, 0xe5, 0, 0, 0, 0, 0, 0);
    prepare(&r, 1, 0, 0xe5, 0, 0, 0, 0, 0, 0);
    out(&r, IS, ~0u);
    assert_false(f->regs->intx);
    pout(&r, 0, CI, 1);
    assert_true(f->regs->intx);
    assert_int_equal(in(&r, IS), 1);
    out(&r, IS, 1);
    assert_int_equal(in(&r, IS), 1); /* the port's event is still there */
    pout(&r, 0, PIS, ~0u);
    assert_int_equal(in(&r, IS), 1);
    out(&r, IS, 1);
    assert_false(f->regs->intx);
    out(&r, GHC, 0x80000000);
    pout(&r, 0, CI, 1);
    assert_false(f->regs->intx);
    out(&r, GHC, 0x80000002);
    assert_true(f->regs->intx);
    assert_int_equal(r.w.msis, msis);
    pout(&r, 0, PIS, ~0u);
    out(&r, IS, ~0u);
    /* MSI: a message when something new happens, and when software left something */
    assert_int_equal(dp_pci_config_read(f, 0x40, 1), 5);
    dp_pci_config_write(f, 0x44, 0xfee00000, 4);
    dp_pci_config_write(f, 0x4c, 0x41, 2);
    dp_pci_config_write(f, 0x42, 1, 2);
    msis = r.w.msis;
    pout(&r, 0, CI, 1);
    assert_int_equal(r.w.msis, msis + 1);
    pout(&r, 1, CI, 1);
    assert_int_equal(r.w.msis, msis + 2);
    pout(&r, 0, PIS, ~0u);
    out(&r, IS, 1);
    assert_int_equal(r.w.msis, msis + 3); /* port 1 is left */
    pout(&r, 1, PIS, ~0u);
    out(&r, IS, 2);
    assert_int_equal(r.w.msis, msis + 3);
    assert_int_equal(in(&r, IS), 0);
    rig_fini(&r);
}

/* ---- pauses ---- */

/* The state of one device goes to another in the middle of commands. */
static void move(struct rig *r)
{
    struct dp_buffer image = {0};
    struct dp_error e = {0};
    dp_device_pause(r->d);
    for (unsigned i = 0; i < 3; i++)
        assert_null(r->block[i].first);
    dp_device_save(r->d, &image);
    dp_device_free(r->d);
    dp_space_destroy(r->w.env.memory);
    assert_ok(dp_space_create("memory", 1ull << 40, NULL, &r->w.env.memory, &e), e);
    assert_ok(dp_space_map_ram(r->w.env.memory, 0, r->w.ram, 0, 16 << 20, false, 0, NULL, &e), e);
    r->d = make(r, &r->w.env);
    assert_ok(dp_device_load(r->d, image.data, image.size, NULL, &e), e);
    dp_buffer_fini(&image);
    start_device(r);
}

static void pause_in_the_middle(void **state)
{
    struct rig r;
    rig_init(&r, "dc-");
    /* one command of several requests */
    prepare(&r, 0, 0, 0x25, 0, 8000, 0, DATA, 8, 512000);
    pout(&r, 0, CI, 1);
    move(&r);
    assert_int_equal(pin(&r, 0, CI), 1);
    move(&r);
    drain(&r);
    assert_int_equal(pin(&r, 0, CI), 0);
    assert_memory_equal(ram(&r, DATA), r.block[0].data, 8000 * 512);
    pout(&r, 0, PIS, ~0u);
    /* queued ones, of many requests each */
    memset(ram(&r, DATA), 0, 8 << 20);
    for (unsigned i = 0; i < 3; i++)
        prepare_queued(&r, 0, i, false, i, 5000, DATA + i * 0x300000, 5);
    pout(&r, 0, SACT, 7);
    pout(&r, 0, CI, 7);
    move(&r);
    assert_int_equal(pin(&r, 0, SACT), 7);
    assert_true(fake_block_one(&r.block[0]));
    move(&r);
    drain(&r);
    assert_int_equal(pin(&r, 0, SACT), 0);
    for (unsigned i = 0; i < 3; i++)
        assert_memory_equal(ram(&r, DATA + i * 0x300000), r.block[0].data + i * 512, 5000 * 512);
    pout(&r, 0, PIS, ~0u);
    out(&r, IS, ~0u);
    /* what ends while pausing interrupts afterwards */
    struct dp_pci_function *f = dp_ahci_function(r.d);
    prepare_queued(&r, 0, 0, false, 0, 8, DATA, 1);
    pout(&r, 0, SACT, 1);
    pout(&r, 0, CI, 1);
    dp_device_pause(r.d);
    assert_false(f->regs->intx);
    dp_device_resume(r.d);
    assert_true(f->regs->intx);
    /* a hardware reset with requests in flight */
    prepare_queued(&r, 0, 1, false, 0, 8, DATA, 1);
    pout(&r, 0, SACT, 2);
    pout(&r, 0, CI, 2);
    dp_device_reset(r.d);
    assert_null(r.block[0].first);
    assert_false(dp_ahci_function(r.d)->regs->intx);
    rig_fini(&r);
}

/* ---- conformance: each device has images of its own, or a drain of one would serve the other ---- */

struct images { struct dp_block *block[1000]; unsigned count; };

static struct dp_device *make_for_conformance(const struct dp_device_env *env, void *opaque)
{
    struct images *im = opaque;
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_ahci_class, "ahci", env);
    for (unsigned i = 0; i < 3; i++) {
        struct dp_block *b = im->block[im->count++] = malloc(sizeof *b);
        assert_true(im->count < DP_ARRAY_LEN(im->block));
        fake_block_init(b, 1 << 16);
        b->readonly = i == 2;
        b->bad_from = 40000;
        b->bad_to = 40001;
        if (i == 2)
            dp_ahci_attach_cdrom(d, i, b);
        else
            dp_ahci_attach_disk(d, i, b, NULL);
    }
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void conformance(void **state)
{
    static struct images im;
    const struct conformance c = {.make = make_for_conformance, .opaque = &im};
    conformance_check(&c);
    for (unsigned i = 0; i < im.count; i++) {
        fake_block_fini(im.block[i]);
        free(im.block[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(start_up), cmocka_unit_test(software_reset), cmocka_unit_test(identify), cmocka_unit_test(dma),
        cmocka_unit_test(bad_tables),
        cmocka_unit_test(queued), cmocka_unit_test(queued_error), cmocka_unit_test(image_errors), cmocka_unit_test(packets),
        cmocka_unit_test(interrupts),
        cmocka_unit_test(pause_in_the_middle), cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("ahci", tests, NULL, NULL);
}
