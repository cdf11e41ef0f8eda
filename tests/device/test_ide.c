/* test_ide.c - the IDE controller by its drivers: detection, PIO, multiple sectors, DMA, packets, errors of an image that fails, resets,
 * absent drives, media that change, pauses in the middle, and what every device must do. Images are fakes in memory.
 */
#include "devices/storage/ide.h"
#include "tests/device/conformance.h"
#include "tests/device/fake_block.h"

enum { DATA, ERROR, FEATURE = ERROR, COUNT, LOW, MID, HIGH, DEVICE, STATUS, COMMAND = STATUS };
enum { ERR = 1, DRQ = 8, DF = 0x20, READY = 0x50, BSY = 0x80 };
enum { ABRT = 4, IDNF = 0x10, UNC = 0x40 };
enum { NIEN = 2, SRST = 4, HOB = 0x80 };
enum { PRI = 0x1f0, PRI_CONTROL = 0x3f6, SEC = 0x170, SEC_CONTROL = 0x376, BM = 0xc000 };
enum { DISK_SECTORS = 8192, CD_SECTORS = 1000 };
enum { TABLE = 0x10000, MEMORY = 0x100000 };

struct rig {
    struct conformance_world w;
    struct dp_device *d;
    struct dp_block block[4], other;
    bool irq[2];
    unsigned rises[2];
};

static void irq_set(void *opaque, unsigned n, bool level)
{
    struct rig *r = opaque;
    r->rises[n - 14] += level && !r->irq[n - 14];
    r->irq[n - 14] = level;
}

static void fill(struct dp_block *b, unsigned sector)
{
    for (uint64_t i = 0; i < b->size; i += 4)
        dp_st32(b->data + i, (uint32_t)(i / sector * 0x10001 + i % sector));
}

static struct dp_device *make(struct rig *r, const char *kinds, const struct dp_device_env *env)
{
    struct dp_error e = { 0 };
    struct dp_device *d = dp_device_alloc(&dp_ide_class, "ide", env);
    dp_ide_wire(d, (struct dp_irq[2]){ { irq_set, r, 14 }, { irq_set, r, 15 } });
    for (unsigned i = 0; i < 4; i++) {
        if (kinds[i] == 'd')
            dp_ide_attach_disk(d, i, &r->block[i], i ? NULL : "SERIAL-1");
        else if (kinds[i] == 'c' || kinds[i] == 'e')
            dp_ide_attach_cdrom(d, i, kinds[i] == 'c' ? &r->block[i] : NULL);
    }
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static void map(struct rig *r)
{
    static const uint16_t at[] = { PRI, PRI_CONTROL, SEC, SEC_CONTROL, BM };
    struct dp_error e = { 0 };
    for (unsigned i = 0; i < 5; i++)
        assert_ok(dp_device_map(r->d, i, at[i], &e), e);
    dp_device_resume(r->d);
    dp_pci_config_write(dp_ide_function(r->d), DP_PCI_COMMAND, DP_PCI_COMMAND_IO | DP_PCI_COMMAND_MASTER, 2);
}

/* kinds: 'd'isk, 'c'd-rom, 'e'mpty cd-rom, '-' */
static void rig_init(struct rig *r, const char *kinds)
{
    memset(r, 0, sizeof(*r));
    conformance_world_init(&r->w);
    for (unsigned i = 0; i < 4; i++) {
        fake_block_init(&r->block[i], kinds[i] == 'd' ? DISK_SECTORS * 512 : CD_SECTORS * 2048);
        r->block[i].readonly = kinds[i] != 'd';
        fill(&r->block[i], kinds[i] == 'd' ? 512 : 2048);
    }
    fake_block_init(&r->other, 100 * 2048);
    memset(r->other.data, 0x77, r->other.size);
    r->d = make(r, kinds, &r->w.env);
    map(r);
}

static void rig_fini(struct rig *r)
{
    dp_device_free(r->d);
    for (unsigned i = 0; i < 4; i++)
        fake_block_fini(&r->block[i]);
    fake_block_fini(&r->other);
    conformance_world_fini(&r->w);
}

static void out(struct rig *r, unsigned port, unsigned v) { dp_space_store(r->w.env.ports, port, v, 1); }
static unsigned in(struct rig *r, unsigned port) { return (unsigned)dp_space_load(r->w.env.ports, port, 1); }
static unsigned in16(struct rig *r, unsigned port) { return (unsigned)dp_space_load(r->w.env.ports, port, 2); }
static uint8_t *ram(struct rig *r, uint64_t at) { return r->w.ram->host + at; }

static void drain(struct rig *r)
{
    for (unsigned i = 0; i < 4; i++)
        dp_block_drain(&r->block[i]);
    dp_block_drain(&r->other);
}

static void command28(struct rig *r, unsigned base, unsigned device, uint32_t lba, unsigned n, unsigned command)
{
    out(r, base + DEVICE, 0xe0 | device << 4 | (lba >> 24 & 15));
    out(r, base + COUNT, n & 0xff);
    out(r, base + LOW, lba & 0xff);
    out(r, base + MID, lba >> 8 & 0xff);
    out(r, base + HIGH, lba >> 16 & 0xff);
    out(r, base + COMMAND, command);
}

static void command48(struct rig *r, unsigned base, uint64_t lba, unsigned n, unsigned command)
{
    out(r, base + DEVICE, 0xe0);
    out(r, base + COUNT, n >> 8);
    out(r, base + LOW, lba >> 24 & 0xff);
    out(r, base + MID, lba >> 32 & 0xff);
    out(r, base + HIGH, lba >> 40 & 0xff);
    out(r, base + COUNT, n & 0xff);
    out(r, base + LOW, lba & 0xff);
    out(r, base + MID, lba >> 8 & 0xff);
    out(r, base + HIGH, lba >> 16 & 0xff);
    out(r, base + COMMAND, command);
}

/* An interrupt has come since; reading the status takes it away. */
static unsigned interrupted(struct rig *r, unsigned base)
{
    unsigned c = base == SEC;
    assert_true(r->irq[c]);
    unsigned status = in(r, base + STATUS);
    assert_false(r->irq[c]);
    return status;
}

static void read_words(struct rig *r, unsigned base, uint8_t *to, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i += 2)
        dp_st16(to + i, in16(r, base));
}

static void write_words(struct rig *r, unsigned base, const uint8_t *from, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i += 2)
        dp_space_store(r->w.env.ports, base, dp_ld16(from + i), 2);
}

/* ---- detection ---- */

static void absent(void **state)
{
    struct rig r;
    rig_init(&r, "d--d");
    out(&r, PRI + DEVICE, 0xb0); /* the slave: its master answers, with status 0 */
    assert_int_equal(in(&r, PRI + STATUS), 0);
    assert_int_equal(in(&r, PRI_CONTROL), 0);
    out(&r, PRI + COUNT, 0x55);
    out(&r, PRI + LOW, 0xaa);
    assert_int_equal(in(&r, PRI + COUNT), 0x55);
    assert_int_equal(in(&r, PRI + LOW), 0xaa);
    assert_int_equal(in(&r, PRI + DEVICE), 0xb0);
    out(&r, PRI + COMMAND, 0xec); /* to nobody */
    assert_int_equal(in(&r, PRI + STATUS), 0);
    assert_false(r.irq[0]);
    out(&r, SEC + DEVICE, 0xa0); /* a master that is absent: nobody answers, whoever the slave is */
    out(&r, SEC + COUNT, 0x55);
    for (unsigned i = 1; i < 8; i++)
        assert_int_equal(in(&r, SEC + i), 0x7f);
    assert_int_equal(in(&r, SEC_CONTROL), 0x7f);
    assert_int_equal(in16(&r, SEC), 0xff7f);
    out(&r, SEC + DEVICE, 0xb0);
    assert_int_equal(in(&r, SEC + STATUS), READY);
    assert_int_equal(in(&r, SEC + COUNT), 0x55); /* it heard */
    command28(&r, SEC, 1, 5, 1, 0x20);
    drain(&r);
    assert_int_equal(interrupted(&r, SEC), READY | DRQ);
    rig_fini(&r);
    rig_init(&r, "----");
    for (unsigned i = 1; i < 8; i++)
        assert_int_equal(in(&r, PRI + i), 0x7f);
    out(&r, PRI + COMMAND, 0x90);
    assert_false(r.irq[0]);
    rig_fini(&r);
}

static void reset_and_signatures(void **state)
{
    struct rig r;
    rig_init(&r, "dc--");
    command28(&r, PRI, 0, 10, 4, 0x20);
    assert_int_equal(in(&r, PRI_CONTROL), BSY | READY);
    out(&r, PRI_CONTROL, SRST);
    assert_int_equal(in(&r, PRI + STATUS) & BSY, BSY);
    out(&r, PRI_CONTROL, 0);
    assert_int_equal(in(&r, PRI + STATUS) & BSY, BSY); /* the request is still in the block layer */
    drain(&r);
    assert_false(r.irq[0]);
    assert_int_equal(in(&r, PRI + STATUS), READY);
    assert_int_equal(in(&r, PRI + ERROR), 1);
    assert_int_equal(in(&r, PRI + COUNT), 1);
    assert_int_equal(in(&r, PRI + LOW), 1);
    assert_int_equal(in(&r, PRI + MID), 0);
    assert_int_equal(in(&r, PRI + HIGH), 0);
    out(&r, PRI + DEVICE, 0xb0);
    assert_int_equal(in(&r, PRI + STATUS), 0); /* a packet device is not ready after a reset */
    assert_int_equal(in(&r, PRI + MID), 0x14);
    assert_int_equal(in(&r, PRI + HIGH), 0xeb);
    out(&r, PRI + COMMAND, 0xec);
    assert_int_equal(interrupted(&r, PRI), READY | ERR);
    assert_int_equal(in(&r, PRI + ERROR), ABRT);
    assert_int_equal(in(&r, PRI + MID), 0x14);
    out(&r, PRI + COMMAND, 0x08); /* DEVICE RESET: no interrupt */
    assert_int_equal(in(&r, PRI + STATUS), 0);
    assert_false(r.irq[0]);
    out(&r, PRI_CONTROL, SRST); /* BSY as long as the bit is set */
    assert_int_equal(in(&r, PRI_CONTROL) & BSY, BSY);
    out(&r, PRI + COMMAND, 0xe1);
    assert_int_equal(in(&r, PRI_CONTROL) & BSY, BSY);
    out(&r, PRI_CONTROL, 0);
    assert_int_equal(in(&r, PRI_CONTROL), READY);
    assert_false(r.irq[0]);
    out(&r, PRI + COMMAND, 0x90); /* both drives hear it, the master tells */
    assert_int_equal(interrupted(&r, PRI), READY);
    assert_int_equal(in(&r, PRI + ERROR), 1);
    assert_int_equal(in(&r, PRI + DEVICE), 0xa0);
    rig_fini(&r);
}

static void identify(void **state)
{
    struct rig r;
    uint8_t b[512], sum = 0;
    rig_init(&r, "d-c-");
    out(&r, PRI + DEVICE, 0xa0);
    out(&r, PRI + COMMAND, 0xec);
    assert_int_equal(interrupted(&r, PRI), READY | DRQ);
    for (unsigned i = 0; i < 512; i += 4)
        dp_st32(b + i, (uint32_t)dp_space_load(r.w.env.ports, PRI, 4));
    assert_int_equal(in(&r, PRI + STATUS), READY);
    assert_false(r.irq[0]);
    assert_int_equal(dp_ld16(b + 2), DISK_SECTORS / (16 * 63));
    assert_int_equal(dp_ld16(b + 6), 16);
    assert_int_equal(dp_ld16(b + 12), 63);
    assert_memory_equal(b + 20, "ESIRLA1-", 8);
    assert_memory_equal(b + 54, "ODPPLEH RADDSI K", 16);
    assert_int_equal(dp_ld32(b + 114), 8 * 16 * 63);
    assert_int_equal(dp_ld32(b + 120), DISK_SECTORS);
    assert_int_equal(dp_ld64(b + 200), DISK_SECTORS);
    assert_int_equal(dp_ld16(b + 166) & 0xc400, 0x4400);
    assert_int_equal(dp_ld16(b + 118), 0x0110); /* drivers that do not set a block use this one */
    for (unsigned i = 0; i < 512; i++)
        sum += b[i];
    assert_int_equal(sum, 0);
    out(&r, SEC + COMMAND, 0xa1);
    assert_int_equal(interrupted(&r, SEC), READY | DRQ);
    read_words(&r, SEC, b, 512);
    assert_int_equal(dp_ld16(b), 0x85c0);
    assert_false(r.irq[1]);
    assert_int_equal(in(&r, SEC + STATUS), READY);
    rig_fini(&r);
}

/* ---- PIO ---- */

static void pio_read(void **state)
{
    struct rig r;
    uint8_t b[512];
    rig_init(&r, "d---");
    command28(&r, PRI, 0, 100, 200, 0x20);
    assert_int_equal(in(&r, PRI_CONTROL), BSY | READY);
    assert_int_equal(in(&r, PRI + LOW), BSY | READY); /* while busy, all registers are the status */
    out(&r, PRI + LOW, 7);
    out(&r, PRI + COMMAND, 0xec); /* ignored */
    for (unsigned i = 0; i < 200; i++) {
        drain(&r);
        assert_int_equal(r.rises[0], i + 1);
        assert_int_equal(interrupted(&r, PRI), READY | DRQ);
        read_words(&r, PRI, b, 512);
        assert_memory_equal(b, r.block[0].data + (100 + i) * 512, 512);
    }
    assert_int_equal(in(&r, PRI + STATUS), READY);
    assert_int_equal(r.rises[0], 200);
    assert_int_equal(in16(&r, PRI), 0); /* nothing there any more */
    assert_int_equal(r.block[0].reads, 13); /* 16 sectors at a time */
    command28(&r, PRI, 0, DISK_SECTORS - 256, 0, 0x20); /* 0 is 256 */
    for (unsigned i = 0; i < 256; i++) {
        drain(&r);
        assert_int_equal(interrupted(&r, PRI), READY | DRQ);
        read_words(&r, PRI, b, 512);
    }
    assert_memory_equal(b, r.block[0].data + (DISK_SECTORS - 1) * 512, 512);
    out(&r, PRI + DEVICE, 0xa0 | 3); /* CHS: cylinder 2, head 3, sector 5 of 16 heads and 63 sectors */
    out(&r, PRI + COUNT, 1);
    out(&r, PRI + LOW, 5);
    out(&r, PRI + MID, 2);
    out(&r, PRI + HIGH, 0);
    out(&r, PRI + COMMAND, 0x20);
    drain(&r);
    assert_int_equal(interrupted(&r, PRI), READY | DRQ);
    read_words(&r, PRI, b, 512);
    assert_memory_equal(b, r.block[0].data + ((2 * 16 + 3) * 63 + 4) * 512, 512);
    out(&r, PRI + DEVICE, 0xa0 | 3); /* another translation: 4 heads, 17 sectors */
    out(&r, PRI + COUNT, 17);
    out(&r, PRI + COMMAND, 0x91);
    assert_int_equal(interrupted(&r, PRI), READY);
    out(&r, PRI + COUNT, 1);
    out(&r, PRI + COMMAND, 0x20);
    drain(&r);
    assert_int_equal(interrupted(&r, PRI), READY | DRQ);
    read_words(&r, PRI, b, 512);
    assert_memory_equal(b, r.block[0].data + ((2 * 4 + 3) * 17 + 4) * 512, 512);
    command48(&r, PRI, 300, 2, 0x24);
    drain(&r);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(interrupted(&r, PRI), READY | DRQ);
        read_words(&r, PRI, b, 512);
        assert_memory_equal(b, r.block[0].data + (300 + i) * 512, 512);
    }
    rig_fini(&r);
}

static void pio_write(void **state)
{
    struct rig r;
    uint8_t b[512 * 20];
    rig_init(&r, "d---");
    for (unsigned i = 0; i < sizeof b; i++)
        b[i] = (uint8_t)(i * 7 + i / 512);
    command28(&r, PRI, 0, 50, 3, 0x30);
    assert_int_equal(in(&r, PRI_CONTROL), READY | DRQ);
    assert_false(r.irq[0]); /* the first block is not announced */
    for (unsigned i = 0; i < 3; i++) {
        write_words(&r, PRI, b + i * 512, 512);
        assert_int_equal(in(&r, PRI_CONTROL) & BSY, BSY);
        drain(&r);
        assert_int_equal(interrupted(&r, PRI), i < 2 ? READY | DRQ : READY);
    }
    assert_memory_equal(r.block[0].data + 50 * 512, b, 3 * 512);
    assert_int_equal(r.block[0].flushes, 0);
    out(&r, PRI + COMMAND, 0xe7);
    drain(&r);
    assert_int_equal(interrupted(&r, PRI), READY);
    assert_int_equal(r.block[0].flushes, 1);
    out(&r, PRI + COUNT, 0); /* no WRITE MULTIPLE any more */
    out(&r, PRI + COMMAND, 0xc6);
    assert_int_equal(interrupted(&r, PRI), READY);
    out(&r, PRI + COMMAND, 0xc5);
    assert_int_equal(interrupted(&r, PRI), READY | ERR);
    assert_int_equal(in(&r, PRI + ERROR), ABRT);
    out(&r, PRI + COUNT, 5);
    out(&r, PRI + COMMAND, 0xc6);
    assert_int_equal(interrupted(&r, PRI), READY | ERR);
    out(&r, PRI + COUNT, 8);
    out(&r, PRI + COMMAND, 0xc6);
    assert_int_equal(interrupted(&r, PRI), READY);
    out(&r, PRI + FEATURE, 0x82); /* no write cache: the end comes after a flush */
    out(&r, PRI + COMMAND, 0xef);
    drain(&r);
    assert_int_equal(interrupted(&r, PRI), READY);
    command28(&r, PRI, 0, 1000, 20, 0xc5);
    for (unsigned i = 0; i < 20; i += 8) {
        write_words(&r, PRI, b + i * 512, DP_MIN(20 - i, 8u) * 512);
        drain(&r);
        assert_int_equal(interrupted(&r, PRI), i < 16 ? READY | DRQ : READY);
    }
    assert_int_equal(r.block[0].flushes, 3);
    assert_memory_equal(r.block[0].data + 1000 * 512, b, sizeof b);
    memset(b, 0, sizeof b);
    r.rises[0] = 0;
    command48(&r, PRI, 1000, 20, 0x29);
    for (unsigned i = 0; i < 20; i += 8) {
        drain(&r);
        assert_int_equal(interrupted(&r, PRI), READY | DRQ);
        read_words(&r, PRI, b + i * 512, DP_MIN(20 - i, 8u) * 512);
    }
    assert_int_equal(r.rises[0], 3);
    assert_memory_equal(r.block[0].data + 1000 * 512, b, sizeof b);
    rig_fini(&r);
    rig_init(&r, "d---");
    r.block[0].readonly = true;
    command28(&r, PRI, 0, 0, 1, 0x30);
    assert_int_equal(interrupted(&r, PRI), READY | ERR);
    assert_int_equal(in(&r, PRI + ERROR), 0x44);
    rig_fini(&r);
}

static void no_data(void **state)
{
    struct rig r;
    rig_init(&r, "d---");
    static const uint8_t fine[] = { 0x10, 0x1f, 0xe0, 0xe1, 0xe2, 0xe3, 0xe5, 0x98, 0xe6 };
    for (unsigned i = 0; i < sizeof fine; i++) {
        out(&r, PRI + COMMAND, fine[i]);
        assert_int_equal(interrupted(&r, PRI), READY);
    }
    out(&r, PRI + COMMAND, 0xe5);
    assert_int_equal(in(&r, PRI + COUNT), 0xff);
    command28(&r, PRI, 0, 0, 0, 0x00);
    assert_int_equal(interrupted(&r, PRI), READY | ERR);
    assert_int_equal(in(&r, PRI + ERROR), ABRT);
    command28(&r, PRI, 0, 0, 0, 0xf8);
    assert_int_equal(in(&r, PRI + LOW) | in(&r, PRI + MID) << 8, DISK_SECTORS - 1);
    command48(&r, PRI, 0x123456789abc, 0xfedc, 0x27); /* which answers in the same registers */
    assert_int_equal(interrupted(&r, PRI), READY);
    out(&r, PRI_CONTROL, HOB);
    assert_int_equal(in(&r, PRI + COUNT), 0xfe);
    assert_int_equal(in(&r, PRI + LOW), 0);
    out(&r, PRI + FEATURE, 0); /* clears HOB */
    assert_int_equal(in(&r, PRI + COUNT), 0xdc);
    assert_int_equal(in(&r, PRI + LOW), (DISK_SECTORS - 1) & 0xff);
    command28(&r, PRI, 0, 10, 100, 0x40);
    drain(&r);
    assert_int_equal(interrupted(&r, PRI), READY);
    assert_int_equal(r.block[0].reads, 7);
    for (unsigned mode = 0; mode < 256; mode++) {
        bool known = mode < 2 || (mode >= 8 && mode < 13) || (mode >= 0x20 && mode < 0x23) || (mode >= 0x40 && mode < 0x46);
        out(&r, PRI + FEATURE, 3);
        out(&r, PRI + COUNT, mode);
        out(&r, PRI + COMMAND, 0xef);
        assert_int_equal(interrupted(&r, PRI), known ? READY : READY | ERR);
    }
    out(&r, PRI_CONTROL, NIEN);
    out(&r, PRI + COMMAND, 0xe1);
    assert_false(r.irq[0]);
    out(&r, PRI_CONTROL, 0); /* it is still pending */
    assert_int_equal(interrupted(&r, PRI), READY);
    rig_fini(&r);
}

/* ---- DMA ---- */

static uint64_t table_at;
static void prd(struct rig *r, uint32_t address, uint32_t bytes, bool end)
{
    dp_st32(ram(r, table_at), address);
    dp_st32(ram(r, table_at + 4), (bytes & 0xffff) | (end ? 0x80000000u : 0));
    table_at += 8;
}

static void bm_start(struct rig *r, unsigned base, bool read)
{
    unsigned bm = BM + (base == SEC ? 8 : 0);
    dp_space_store(r->w.env.ports, bm + 4, TABLE, 4);
    out(r, bm + 2, 0x66);
    assert_int_equal(in(r, bm + 2), 0x60);
    out(r, bm, read ? 8 : 0);
    out(r, bm, read ? 9 : 1);
}

static void dma(void **state)
{
    struct rig r;
    rig_init(&r, "d---");
    table_at = TABLE;
    prd(&r, MEMORY, 512, false);
    prd(&r, MEMORY + 512, 100, false); /* pieces that do not end with sectors */
    prd(&r, MEMORY + 612, 2, false);
    prd(&r, MEMORY + 614, 8 * 512 - 614, true);
    command28(&r, PRI, 0, 77, 8, 0xc8);
    assert_int_equal(in(&r, PRI_CONTROL), READY | DRQ); /* waits for the bus master */
    drain(&r);
    assert_int_equal(r.block[0].reads, 0);
    bm_start(&r, PRI, true);
    assert_int_equal(in(&r, BM + 2), 0x61);
    assert_int_equal(in(&r, PRI_CONTROL) & BSY, BSY);
    drain(&r);
    assert_int_equal(in(&r, BM + 2), 0x64);
    assert_int_equal(interrupted(&r, PRI), READY);
    out(&r, BM, 0);
    out(&r, BM + 2, 0x64);
    assert_int_equal(in(&r, BM + 2), 0x60);
    assert_memory_equal(ram(&r, MEMORY), r.block[0].data + 77 * 512, 8 * 512);
    assert_int_equal(r.block[0].reads, 1);

    /* more than one request; the table is longer than the transfer, which leaves ACTIVE */
    table_at = TABLE;
    for (unsigned i = 0; i < 50; i++)
        prd(&r, MEMORY + i * 0x10000, 0, i == 49);
    command48(&r, PRI, 1000, 5000, 0x25);
    bm_start(&r, PRI, true);
    drain(&r);
    assert_int_equal(in(&r, BM + 2), 0x65);
    assert_int_equal(interrupted(&r, PRI), READY);
    assert_memory_equal(ram(&r, MEMORY), r.block[0].data + 1000 * 512, 5000 * 512);
    out(&r, BM, 0);
    assert_int_equal(in(&r, BM + 2), 0x64);

    /* writing, by tiny regions */
    table_at = TABLE;
    for (unsigned i = 0; i < 1024; i++) {
        dp_st16(ram(&r, MEMORY + 4 * i), (uint16_t)(i * 3));
        prd(&r, MEMORY + 4 * i, 2, i == 1023);
    }
    bm_start(&r, PRI, false); /* before the command, as some do */
    command28(&r, PRI, 0, 20, 4, 0xca);
    drain(&r);
    assert_int_equal(in(&r, BM + 2), 0x64);
    assert_int_equal(interrupted(&r, PRI), READY);
    for (unsigned i = 0; i < 1024; i++)
        assert_int_equal(dp_ld16(r.block[0].data + 20 * 512 + 2 * i), (uint16_t)(i * 3));
    rig_fini(&r);
}

static void dma_errors(void **state)
{
    struct rig r;
    rig_init(&r, "d---");
    table_at = TABLE; /* too short: ACTIVE goes, no interrupt */
    prd(&r, MEMORY, 700, true);
    command28(&r, PRI, 0, 0, 2, 0xc8);
    bm_start(&r, PRI, true);
    drain(&r);
    assert_int_equal(in(&r, BM + 2), 0x60);
    assert_false(r.irq[0]);
    out(&r, BM, 0);
    table_at = TABLE;
    prd(&r, 0xf0000000u, 1024, true); /* no RAM */
    command28(&r, PRI, 0, 0, 2, 0xc8);
    bm_start(&r, PRI, true);
    assert_int_equal(in(&r, BM + 2), 0x66);
    assert_int_equal(interrupted(&r, PRI), READY | ERR);
    assert_int_equal(in(&r, PRI + ERROR), ABRT);
    out(&r, BM, 0);
    dp_space_store(r.w.env.ports, BM + 4, 0xfffffffc, 4); /* no table */
    command28(&r, PRI, 0, 0, 2, 0xc8);
    out(&r, BM + 2, 6);
    out(&r, BM, 9);
    assert_int_equal(in(&r, BM + 2) & 3, 2);
    assert_int_equal(interrupted(&r, PRI), READY | ERR);
    out(&r, BM, 0);
    dp_pci_config_write(dp_ide_function(r.d), DP_PCI_COMMAND, 1, 2); /* no bus master: waits until it is one */
    table_at = TABLE;
    prd(&r, MEMORY, 1024, true);
    command28(&r, PRI, 0, 9, 2, 0xc8);
    bm_start(&r, PRI, true);
    drain(&r);
    assert_int_equal(r.irq[0], false);
    dp_pci_config_write(dp_ide_function(r.d), DP_PCI_COMMAND, 5, 2);
    drain(&r);
    assert_int_equal(interrupted(&r, PRI), READY);
    assert_memory_equal(ram(&r, MEMORY), r.block[0].data + 9 * 512, 1024);
    out(&r, BM, 0);

    /* an image that fails in sector 30 */
    r.block[0].bad_from = 30 * 512 + 8;
    r.block[0].bad_to = 30 * 512 + 9;
    table_at = TABLE;
    prd(&r, MEMORY, 100 * 512, true);
    memset(ram(&r, MEMORY), 0, 100 * 512);
    command28(&r, PRI, 0, 10, 100, 0xc8);
    bm_start(&r, PRI, true);
    drain(&r);
    assert_int_equal(in(&r, BM + 2), 0x65);
    assert_int_equal(interrupted(&r, PRI), READY | ERR);
    assert_int_equal(in(&r, PRI + ERROR), UNC);
    assert_int_equal(in(&r, PRI + LOW), 30);
    assert_memory_equal(ram(&r, MEMORY), r.block[0].data + 10 * 512, 20 * 512);
    out(&r, BM, 0);
    command28(&r, PRI, 0, 10, 100, 0xca);
    bm_start(&r, PRI, false);
    drain(&r);
    assert_int_equal(interrupted(&r, PRI), READY | ERR | DF);
    assert_int_equal(in(&r, PRI + ERROR), ABRT);
    assert_int_equal(in(&r, PRI + LOW), 30);
    rig_fini(&r);
}

static void image_errors(void **state)
{
    struct rig r;
    uint8_t b[8 * 512] = { 0 };
    rig_init(&r, "d---");
    r.block[0].bad_from = 30 * 512;
    r.block[0].bad_to = 31 * 512;
    command28(&r, PRI, 0, 25, 20, 0x20);
    for (unsigned i = 25; i < 30; i++) { /* the good ones come */
        drain(&r);
        assert_int_equal(interrupted(&r, PRI), READY | DRQ);
        read_words(&r, PRI, b, 512);
        assert_memory_equal(b, r.block[0].data + i * 512, 512);
    }
    drain(&r);
    assert_int_equal(interrupted(&r, PRI), READY | ERR);
    assert_int_equal(in(&r, PRI + ERROR), UNC);
    assert_int_equal(in(&r, PRI + LOW), 30);
    assert_int_equal(in(&r, PRI + COUNT), 15);
    out(&r, PRI + COUNT, 8);
    out(&r, PRI + COMMAND, 0xc6);
    assert_int_equal(interrupted(&r, PRI), READY);
    command28(&r, PRI, 0, 20, 32, 0xc4); /* one good block */
    drain(&r);
    assert_int_equal(interrupted(&r, PRI), READY | DRQ);
    read_words(&r, PRI, b, sizeof b);
    assert_memory_equal(b, r.block[0].data + 20 * 512, sizeof b);
    drain(&r);
    assert_int_equal(interrupted(&r, PRI), READY | ERR);
    assert_int_equal(in(&r, PRI + LOW), 30);
    command28(&r, PRI, 0, 25, 8, 0xc5);
    write_words(&r, PRI, b, sizeof b);
    drain(&r);
    assert_int_equal(interrupted(&r, PRI), READY | ERR | DF);
    assert_int_equal(in(&r, PRI + LOW), 30);
    assert_memory_equal(r.block[0].data + 25 * 512, b, 5 * 512);
    command28(&r, PRI, 0, 0, 100, 0x40);
    drain(&r);
    assert_int_equal(interrupted(&r, PRI), READY | ERR);
    assert_int_equal(in(&r, PRI + LOW), 30);
    r.block[0].flush_fails = true;
    out(&r, PRI + COMMAND, 0xea);
    drain(&r);
    assert_int_equal(interrupted(&r, PRI), READY | ERR | DF);
    for (unsigned i = 0; i < 3; i++) { /* beyond the end */
        if (i < 2)
            command28(&r, PRI, 0, i ? DISK_SECTORS : DISK_SECTORS - 1, 2, 0x20);
        else
            command48(&r, PRI, 0xffffffffffff, 0, 0x35);
        assert_int_equal(interrupted(&r, PRI), READY | ERR);
        assert_int_equal(in(&r, PRI + ERROR), IDNF);
    }
    out(&r, PRI + DEVICE, 0xa0); /* there is no sector 0 */
    out(&r, PRI + LOW, 0);
    out(&r, PRI + COMMAND, 0x20);
    assert_int_equal(interrupted(&r, PRI), READY | ERR);
    assert_int_equal(in(&r, PRI + ERROR), IDNF);
    rig_fini(&r);
}

/* ---- packets ---- */

static void packet_send(struct rig *r, const char *bytes, unsigned limit, bool dma)
{
    uint8_t p[12] = { 0 };
    for (unsigned i = 0; i < 12 && *bytes; i++) {
        char *end;
        p[i] = (uint8_t)strtoul(bytes, &end, 16);
        bytes = end + (*end == ' ');
    }
    out(r, SEC + FEATURE, dma);
    out(r, SEC + MID, limit & 0xff);
    out(r, SEC + HIGH, limit >> 8);
    out(r, SEC + COMMAND, 0xa0);
    assert_int_equal(in(r, SEC + STATUS), READY | DRQ);
    assert_int_equal(in(r, SEC + COUNT) & 3, 1);
    write_words(r, SEC, p, 12);
}

/* By PIO. Returns the bytes that came, or the sense: -0xKKAAQQ. */
static int packet(struct rig *r, const char *bytes, unsigned limit, uint8_t *to)
{
    unsigned total = 0;
    packet_send(r, bytes, limit, false);
    for (;;) {
        drain(r);
        unsigned status = interrupted(r, SEC);
        if (status & ERR) {
            uint8_t sense[18];
            assert_int_equal(status, READY | ERR);
            assert_int_equal(in(r, SEC + COUNT) & 3, 3);
            unsigned key = in(r, SEC + ERROR) >> 4;
            assert_int_equal(packet(r, "03 0 0 0 12", 18, sense), 18);
            assert_int_equal(sense[2], key);
            return -(int)(key << 16 | (unsigned)sense[12] << 8 | sense[13]);
        }
        if (!(status & DRQ)) {
            assert_int_equal(in(r, SEC + COUNT) & 3, 3);
            return (int)total;
        }
        assert_int_equal(in(r, SEC + COUNT) & 3, 2);
        unsigned n = in(r, SEC + MID) | in(r, SEC + HIGH) << 8;
        assert_true(n && n <= limit);
        for (unsigned i = 0; i < n; i += 2) {
            unsigned v = in16(r, SEC);
            to[total + i] = (uint8_t)v;
            if (i + 1 < n)
                to[total + i + 1] = (uint8_t)(v >> 8);
        }
        total += n;
    }
}

static void cd_answers(void **state)
{
    struct rig r;
    uint8_t b[4096];
    rig_init(&r, "--c-");
    assert_int_equal(packet(&r, "0", 0xfffe, b), 0);
    assert_int_equal(packet(&r, "12 0 0 0 24", 36, b), 36);
    assert_memory_equal(b, "\x05\x80\x00\x21\x1f", 5);
    assert_memory_equal(b + 8, "DOPPEL  CD-ROM  ", 16);
    assert_int_equal(packet(&r, "12 0 0 0 5", 36, b), 5); /* an odd length */
    assert_int_equal(packet(&r, "25", 8, b), 8);
    assert_memory_equal(b, "\x00\x00\x03\xe7\x00\x00\x08\x00", 8);
    assert_int_equal(packet(&r, "43 0 0 0 0 0 0 0 ff", 0xff, b), 20);
    assert_memory_equal(b, "\x00\x12\x01\x01\x00\x14\x01\x00\x00\x00\x00\x00\x00\x14\xaa\x00\x00\x00\x03\xe8", 20);
    assert_int_equal(packet(&r, "43 2 0 0 0 0 aa 0 ff", 0xff, b), 12);
    assert_memory_equal(b + 4, "\x00\x14\xaa\x00\x00\x00\x0f\x19", 8); /* 1000 + 150 = 15 s 25 */
    assert_int_equal(packet(&r, "43 0 1 0 0 0 0 0 c", 0xff, b), 12);
    assert_memory_equal(b, "\x00\x0a\x01\x01\x00\x14\x01\x00\x00\x00\x00\x00", 12);
    assert_int_equal(packet(&r, "43 0 0 0 0 0 0 0 ff 40", 0xff, b), 12); /* the same, the old way */
    assert_int_equal(packet(&r, "43 2 2 0 0 0 0 1 0", 0xff, b), 48);
    assert_memory_equal(b + 4, "\x01\x14\x00\xa0\x00\x00\x00\x00\x01\x00\x00", 11);
    assert_int_equal(packet(&r, "43 0 0 0 0 0 2 0 ff", 0xff, b), -0x052400);
    assert_int_equal(packet(&r, "43 0 5 0 0 0 0 0 ff", 0xff, b), -0x052400);
    assert_int_equal(packet(&r, "5a 0 2a 0 0 0 0 0 ff", 0xff, b), 30);
    assert_int_equal(b[1], 28);
    assert_int_equal(b[8], 0x2a);
    assert_int_equal(packet(&r, "1a 0 3f 0 ff", 0xff, b), 4 + 8 + 16 + 22);
    assert_int_equal(packet(&r, "5a 0 c1 0 0 0 0 0 ff", 0xff, b), -0x053900);
    assert_int_equal(packet(&r, "5a 0 3 0 0 0 0 0 ff", 0xff, b), -0x052400);
    assert_int_equal(packet(&r, "46 0 0 0 0 0 0 2 0", 0xfffe, b), 8 + 12 + 8 * 3 + 12 + 8 + 8 + 4);
    assert_int_equal(b[7], 8); /* CD-ROM */
    assert_int_equal(packet(&r, "46 2 0 3 0 0 0 2 0", 0xfffe, b), 16);
    assert_int_equal(packet(&r, "4a 1 0 0 10 0 0 0 8", 0xfffe, b), 8);
    assert_memory_equal(b, "\x00\x06\x04\x10\x00\x02", 6);
    assert_int_equal(packet(&r, "4a 0 0 0 10 0 0 0 8", 0xfffe, b), -0x052400);
    assert_int_equal(packet(&r, "51 0 0 0 0 0 0 0 ff", 0xfffe, b), 34);
    assert_int_equal(packet(&r, "52 1 0 0 0 1 0 0 ff", 0xfffe, b), 36);
    assert_memory_equal(b + 24, "\x00\x00\x03\xe8", 4);
    assert_int_equal(packet(&r, "52 1 0 0 0 2 0 0 ff", 0xfffe, b), -0x052400);
    assert_int_equal(packet(&r, "44 2 0 0 0 4b 0 0 8", 0xfffe, b), 8);
    assert_memory_equal(b, "\x01\x00\x00\x00\x00\x00\x03\x00", 8);
    assert_int_equal(packet(&r, "bd 0 0 0 0 0 0 0 0 8", 0xfffe, b), 8);
    assert_int_equal(packet(&r, "42 2 40 1 0 0 0 0 ff", 0xfffe, b), 16);
    assert_memory_equal(b + 4, "\x01\x14\x01\x01\x00\x00\x02\x00", 8);
    assert_int_equal(packet(&r, "2b 0 0 0 3 e7", 0xfffe, b), 0);
    assert_int_equal(packet(&r, "2b 0 0 0 3 e8", 0xfffe, b), -0x052100);
    assert_int_equal(packet(&r, "5c", 0xfffe, b), -0x052000);
    assert_int_equal(packet(&r, "0", 0xfffe, b), 0);
    packet_send(&r, "55 10 0 0 0 0 0 0 4", 0xfffe, false); /* MODE SELECT: taken, no effect */
    assert_int_equal(interrupted(&r, SEC), READY | DRQ);
    assert_int_equal(in(&r, SEC + COUNT) & 3, 0);
    write_words(&r, SEC, b, 4);
    assert_int_equal(interrupted(&r, SEC), READY);
    rig_fini(&r);
}

static void cd_read(void **state)
{
    struct rig r;
    static uint8_t b[100 * 2048];
    static const unsigned limits[] = { 2048, 0xfffe, 100, 3000, 4096, 0x8000 };
    rig_init(&r, "--c-");
    for (unsigned i = 0; i < DP_ARRAY_LEN(limits); i++) {
        memset(b, 0, sizeof b);
        assert_int_equal(packet(&r, "28 0 0 0 0 7 0 0 32", limits[i], b), 50 * 2048);
        assert_memory_equal(b, r.block[2].data + 7 * 2048, 50 * 2048);
    }
    assert_int_equal(packet(&r, "a8 0 0 0 0 9 0 0 0 3", 2048, b), 3 * 2048);
    assert_memory_equal(b, r.block[2].data + 9 * 2048, 3 * 2048);
    assert_int_equal(packet(&r, "be 0 0 0 0 b 0 0 2 10", 2048, b), 2 * 2048);
    assert_memory_equal(b, r.block[2].data + 11 * 2048, 2 * 2048);
    assert_int_equal(packet(&r, "b9 0 0 0 2 5 0 2 6 10", 2048, b), 2048);
    assert_memory_equal(b, r.block[2].data + 5 * 2048, 2048);
    assert_int_equal(packet(&r, "be 0 0 0 0 b 0 0 2 f8", 2048, b), -0x052400);
    assert_int_equal(packet(&r, "28 0 0 0 3 e8 0 0 1", 2048, b), -0x052100);
    assert_int_equal(packet(&r, "a8 0 ff ff ff ff ff ff ff ff", 2048, b), -0x052100);
    assert_int_equal(packet(&r, "28 0 0 0 0 0 0 0 0", 2048, b), 0);
    r.block[2].bad_from = r.block[2].bad_to = 20 * 2048;
    r.block[2].bad_to++;
    assert_int_equal(packet(&r, "28 0 0 0 0 7 0 0 32", 2048, b), -0x031100);
    assert_memory_equal(b, r.block[2].data + 7 * 2048, 13 * 2048);

    table_at = TABLE;
    prd(&r, MEMORY, 3000, false);
    prd(&r, MEMORY + 3000, 3 * 2048 - 3000, true);
    packet_send(&r, "28 0 0 0 0 7 0 0 3", 0, true);
    bm_start(&r, SEC, true);
    drain(&r);
    assert_int_equal(in(&r, BM + 10), 0x64);
    assert_int_equal(interrupted(&r, SEC), READY);
    assert_int_equal(in(&r, SEC + COUNT) & 3, 3);
    assert_memory_equal(ram(&r, MEMORY), r.block[2].data + 7 * 2048, 3 * 2048);
    out(&r, BM + 8, 0);
    packet_send(&r, "28 0 0 0 0 13 0 0 3", 0, true); /* and over the bad sector */
    bm_start(&r, SEC, true);
    drain(&r);
    assert_int_equal(interrupted(&r, SEC), READY | ERR);
    assert_int_equal(in(&r, SEC + ERROR), 0x34);
    out(&r, BM + 8, 0);
    table_at = TABLE; /* an answer by DMA */
    prd(&r, MEMORY, 20, false);
    prd(&r, MEMORY + 100, 16, true);
    packet_send(&r, "12 0 0 0 24", 0, true);
    bm_start(&r, SEC, true);
    assert_int_equal(in(&r, BM + 10), 0x64);
    assert_int_equal(interrupted(&r, SEC), READY);
    assert_memory_equal(ram(&r, MEMORY + 8), "DOPPEL  CD-R", 12);
    assert_memory_equal(ram(&r, MEMORY + 100), "OM          1.0 ", 16);
    out(&r, BM + 8, 0);
    table_at = TABLE; /* and one to nowhere */
    prd(&r, 0xf0000000u, 64, true);
    packet_send(&r, "12 0 0 0 24", 0, true);
    bm_start(&r, SEC, true);
    assert_int_equal(in(&r, BM + 10), 0x66);
    assert_int_equal(interrupted(&r, SEC), READY | ERR);
    assert_int_equal(in(&r, SEC + ERROR), 0xb4);
    rig_fini(&r);
}

static void media(void **state)
{
    struct rig r;
    uint8_t b[4096];
    struct dp_error e = { 0 };
    rig_init(&r, "d-e-");
    assert_int_equal(packet(&r, "0", 0xfffe, b), -0x023a01);
    assert_int_equal(packet(&r, "25", 8, b), -0x023a01);
    assert_int_equal(packet(&r, "46 0 0 0 0 0 0 0 8", 0xfffe, b), 8);
    assert_int_equal(b[7], 0);
    assert_int_equal(dp_ide_change_medium(r.d, 0, &r.other, &e), -EINVAL);
    assert_int_equal(dp_ide_change_medium(r.d, 9, &r.other, &e), -EINVAL);
    assert_ok(dp_ide_change_medium(r.d, 2, &r.other, &e), e);
    assert_int_equal(packet(&r, "12 0 0 0 24", 36, b), 36); /* does not tell */
    assert_int_equal(packet(&r, "4a 1 0 0 10 0 0 0 8", 0xfffe, b), 8);
    assert_memory_equal(b, "\x00\x06\x04\x10\x02\x02", 6);
    assert_int_equal(packet(&r, "0", 0xfffe, b), -0x062800);
    assert_int_equal(packet(&r, "0", 0xfffe, b), 0);
    assert_int_equal(packet(&r, "25", 8, b), 8);
    assert_memory_equal(b, "\x00\x00\x00\x63\x00\x00\x08\x00", 8);
    assert_int_equal(packet(&r, "28 0 0 0 0 63 0 0 1", 2048, b), 2048);
    assert_int_equal(b[2047], 0x77);
    /* locked */
    assert_int_equal(packet(&r, "1e 0 0 0 1", 0xfffe, b), 0);
    assert_int_equal(packet(&r, "1b 0 0 0 2", 0xfffe, b), -0x055302);
    assert_int_equal(dp_ide_change_medium(r.d, 2, NULL, &e), -EBUSY);
    assert_int_equal(packet(&r, "4a 1 0 0 10 0 0 0 8", 0xfffe, b), 8);
    assert_memory_equal(b, "\x00\x06\x04\x10\x01\x02", 6);
    assert_int_equal(packet(&r, "1e", 0xfffe, b), 0);
    /* the tray */
    assert_int_equal(packet(&r, "1b 0 0 0 2", 0xfffe, b), 0);
    assert_true(dp_ide_tray_open(r.d, 2));
    assert_int_equal(packet(&r, "0", 0xfffe, b), -0x023a02);
    assert_int_equal(packet(&r, "1b 0 0 0 3", 0xfffe, b), 0);
    assert_int_equal(packet(&r, "0", 0xfffe, b), -0x062800);
    assert_int_equal(packet(&r, "0", 0xfffe, b), 0);
    /* while a read is under way: it fails, and the old image is not used any more */
    packet_send(&r, "28 0 0 0 0 0 0 0 32", 2048, false);
    assert_non_null(r.other.first);
    assert_ok(dp_ide_change_medium(r.d, 2, &r.block[2], &e), e);
    assert_null(r.other.first);
    assert_int_equal(interrupted(&r, SEC) & DRQ, DRQ); /* what was in the buffer is good */
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned n = 0; n < 1024; n++)
            assert_int_equal(in16(&r, SEC), 0x7777);
        if (i < 3)
            assert_int_equal(interrupted(&r, SEC), READY | DRQ);
    }
    drain(&r);
    assert_true(r.irq[1]);
    out(&r, SEC + COMMAND, 0x08);
    assert_int_equal(packet(&r, "0", 0xfffe, b), -0x062800);
    assert_ok(dp_ide_change_medium(r.d, 2, NULL, &e), e);
    assert_int_equal(packet(&r, "0", 0xfffe, b), -0x023a01);
    rig_fini(&r);
}

/* ---- life ---- */

static void pci(void **state)
{
    struct rig r;
    rig_init(&r, "d---");
    struct dp_pci_function *f = dp_ide_function(r.d);
    assert_int_equal(dp_pci_config_read(f, 0, 4), 0x70108086);
    assert_int_equal(dp_pci_config_read(f, 8, 4), 0x01018000);
    assert_int_equal(dp_pci_config_read(f, 0x3c, 2), 0);
    dp_pci_config_write(f, 0x20, ~0u, 4);
    assert_int_equal(dp_pci_config_read(f, 0x20, 4) & 0xffff, 0xfff1);
    for (unsigned i = 0; i < 4; i++) {
        dp_pci_config_write(f, 0x10 + 4 * i, ~0u, 4);
        assert_int_equal(dp_pci_config_read(f, 0x10 + 4 * i, 4), 0);
    }
    assert_int_equal(dp_pci_config_read(f, 0x40, 4), 0x80008000); /* both channels are enabled, without firmware, too */
    dp_pci_config_write(f, 0x40, 0xa3078000, 4);
    assert_int_equal(dp_pci_config_read(f, 0x40, 4), 0xa3078000);
    dp_device_reset(r.d);
    assert_int_equal(dp_pci_config_read(f, 0x40, 4), 0x80008000);
    rig_fini(&r);
}

/* The state of one device goes to another in the middle of a command. */
static void move(struct rig *r, const char *kinds)
{
    struct dp_buffer image = { 0 };
    struct dp_error e = { 0 };
    dp_device_pause(r->d);
    for (unsigned i = 0; i < 4; i++)
        assert_null(r->block[i].first);
    dp_device_save(r->d, &image);
    struct dp_device *old = r->d;
    dp_space_destroy(r->w.env.ports);
    assert_ok(dp_space_create("ports", 0x10000, NULL, &r->w.env.ports, &e), e);
    r->d = make(r, kinds, &r->w.env);
    assert_ok(dp_device_load(r->d, image.data, image.size, NULL, &e), e);
    dp_buffer_fini(&image);
    dp_device_free(old);
    map(r);
}

static void pause_in_the_middle(void **state)
{
    struct rig r;
    uint8_t b[512];
    rig_init(&r, "d---");
    command28(&r, PRI, 0, 100, 200, 0x20);
    for (unsigned i = 0; i < 200; i++) {
        if (i % 63 == 0)
            move(&r, "d---");
        drain(&r);
        assert_int_equal(interrupted(&r, PRI), READY | DRQ);
        if (i % 50 == 0)
            move(&r, "d---");
        read_words(&r, PRI, b, 256);
        if (i % 40 == 0)
            move(&r, "d---");
        read_words(&r, PRI, b + 256, 256);
        assert_memory_equal(b, r.block[0].data + (100 + i) * 512, 512);
    }
    /* DMA of several requests: the first goes on while pausing, the rest after it */
    table_at = TABLE;
    for (unsigned i = 0; i < 50; i++)
        prd(&r, MEMORY + i * 0x10000, 0, i == 49);
    memset(ram(&r, MEMORY), 0, 5000 * 512);
    command48(&r, PRI, 1000, 5000, 0x25);
    bm_start(&r, PRI, true);
    for (unsigned i = 0; i < 2; i++) {
        move(&r, "d---");
        assert_false(r.irq[0]);
    }
    assert_int_equal(r.block[0].reads > 2, true);
    drain(&r);
    assert_int_equal(interrupted(&r, PRI), READY);
    assert_memory_equal(ram(&r, MEMORY), r.block[0].data + 1000 * 512, 5000 * 512);
    out(&r, BM, 0);
    /* an interrupt that comes while paused is held */
    command28(&r, PRI, 0, 0, 1, 0x20);
    dp_device_pause(r.d);
    assert_false(r.irq[0]);
    dp_device_resume(r.d);
    assert_int_equal(interrupted(&r, PRI), READY | DRQ);
    /* a hardware reset with a request in flight */
    command28(&r, PRI, 0, 0, 1, 0x20);
    dp_device_reset(r.d);
    assert_null(r.block[0].first);
    assert_int_equal(in(&r, PRI + STATUS), READY);
    assert_false(r.irq[0]);
    rig_fini(&r);
}

/* Every command has its own edge, even when the interrupt of the one before was not acknowledged. */
static void edges(void **state)
{
    struct rig r;
    rig_init(&r, "dd--");
    for (unsigned i = 0; i < 5; i++)
        out(&r, PRI + COMMAND, 0xe1);
    assert_int_equal(r.rises[0], 5);
    out(&r, PRI + DEVICE, 0xb0); /* the other drive has none */
    assert_false(r.irq[0]);
    out(&r, PRI + DEVICE, 0xa0);
    assert_true(r.irq[0]);
    assert_int_equal(in(&r, PRI_CONTROL), READY);
    assert_true(r.irq[0]);
    in(&r, PRI + STATUS);
    assert_false(r.irq[0]);
    rig_fini(&r);
}

/* ---- conformance: each device has images of its own, or a drain of one would serve the other ---- */

struct images { struct dp_block *block[1000]; unsigned count; };

static struct dp_device *make_for_conformance(const struct dp_device_env *env, void *opaque)
{
    struct images *im = opaque;
    struct dp_error e = { 0 };
    struct dp_device *d = dp_device_alloc(&dp_ide_class, "ide", env);
    for (unsigned i = 0; i < 3; i++) {
        struct dp_block *b = im->block[im->count++] = malloc(sizeof(*b));
        assert_true(im->count < DP_ARRAY_LEN(im->block));
        fake_block_init(b, 1 << 16);
        b->readonly = i == 2;
        b->bad_from = 40000;
        b->bad_to = 40001;
        if (i == 2)
            dp_ide_attach_cdrom(d, i, b);
        else
            dp_ide_attach_disk(d, i, b, NULL);
    }
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

/* A whole command, or the disk's work. */
static uint64_t poke(struct dp_device *d, struct dp_random *random)
{
    static const uint8_t commands[] = { 0x20, 0x24, 0x30, 0xc4, 0xc5, 0xc6, 0xc8, 0xca, 0xec, 0xef, 0xe7, 0x40, 0xa0, 0xa1, 0x90, 0x08 };
    uint64_t pick = dp_random_next(random), value = 0;
    unsigned c = pick & 1, window = c ? DP_IDE_WINDOW_SECONDARY : DP_IDE_WINDOW_PRIMARY;
    const struct dp_window_ops *ops = d->class->windows[window].ops;
    switch (pick >> 1 & 3) {
    case 0:
        ops->write(d, DEVICE, 0xe0 | (pick >> 8 & 0x10), 1);
        ops->write(d, COUNT, pick >> 16 & 15, 1);
        ops->write(d, LOW, pick >> 24 & 0x7f, 1);
        ops->write(d, MID, 0, 1);
        ops->write(d, HIGH, 0, 1);
        ops->write(d, COMMAND, commands[(pick >> 32) % sizeof commands], 1);
        break;
    case 1:
        for (unsigned i = 0; i < 256; i++)
            value = value * 31 + (pick & 0x100 ? ops->read(d, DATA, 2) : (ops->write(d, DATA, pick >> (i % 32), 2), 0));
        break;
    default:
        dp_device_pause(d);
        dp_device_resume(d);
        value = ops->read(d, STATUS, 1);
        break;
    }
    return value;
}

static void conformance(void **state)
{
    static struct images im;
    const struct conformance c = { .make = make_for_conformance, .opaque = &im, .poke = poke };
    conformance_check(&c);
    for (unsigned i = 0; i < im.count; i++) {
        fake_block_fini(im.block[i]);
        free(im.block[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absent), cmocka_unit_test(reset_and_signatures), cmocka_unit_test(identify), cmocka_unit_test(pio_read),
        cmocka_unit_test(pio_write), cmocka_unit_test(no_data), cmocka_unit_test(dma), cmocka_unit_test(dma_errors),
        cmocka_unit_test(image_errors), cmocka_unit_test(cd_answers), cmocka_unit_test(cd_read), cmocka_unit_test(media),
        cmocka_unit_test(pci), cmocka_unit_test(pause_in_the_middle), cmocka_unit_test(edges), cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("ide", tests, NULL, NULL);
}
