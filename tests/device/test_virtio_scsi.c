/* test_virtio_scsi.c - the SCSI controller by its driver: what units say of themselves, the medium by every command that moves it, sense
 * data of what is wrong, task management, events, CD-ROM drives, resets and pauses with commands in flight.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/block.h"
#include "devices/virtio/virtio_scsi.h"
#include "tests/device/virtio_driver.h"

#define DISK_SIZE (4u << 20)
#define ALL_FEATURES ~0ull
enum { REQUEST = 19 + 32, RESPONSE = 12 + 96, SLOT_SIZE = 256, SLOTS = 64, DEVICE_SLOT = 4 };
enum { GOOD = 0, CHECK = 2 };
enum { CONTROL, EVENT, COMMANDS };
/* targets and units of the rig */
enum { DISK = 0, WORM = 3 /* target 0, unit 3: read-only */, WIDE = 1 /* target: blocks of 4096 */, CD = 2 };

struct rig {
    struct bus bus;
    struct dp_block *block, *worm, *wide, *disc;
    struct dp_device *adapter, *scsi;
    struct driver d;
    char path[4][40];
    uint64_t requests, responses, data;
    unsigned queue;
};

static void make_file(struct rig *r, unsigned n, off_t size, bool readonly, struct dp_block **out)
{
    struct dp_error e = {0};
    strcpy(r->path[n], "/tmp/doppel-test-scsi-XXXXXX");
    int fd = mkstemp(r->path[n]);
    assert_true(fd >= 0 && !ftruncate(fd, size));
    for (unsigned i = 0; i < 64; i++) {
        uint8_t sector[2048];
        memset(sector, (int)(i + n), sizeof sector);
        if (n == 3)
            assert_int_equal(pwrite(fd, sector, sizeof sector, i * 2048), sizeof sector);
    }
    close(fd);
    assert_ok(dp_block_open(NULL, &(struct dp_block_options){.path = r->path[n], .readonly = readonly}, out, &e), e);
}

static void plug(struct rig *r)
{
    struct dp_error e = {0};
    r->scsi = dp_device_alloc(&dp_virtio_scsi_class, "scsi", &r->bus.w.env);
    assert_ok(dp_device_set(r->scsi, "queues", "3", &e), e);
    r->adapter = bus_plug(&r->bus, r->scsi, DEVICE_SLOT);
    assert_ok(dp_virtio_scsi_add(r->scsi, &(struct dp_virtio_scsi_unit){.block = r->block, .serial = "SN-0123456789"}, &e), e);
    assert_ok(dp_virtio_scsi_add(r->scsi, &(struct dp_virtio_scsi_unit){.block = r->worm, .lun = WORM}, &e), e);
    assert_ok(dp_virtio_scsi_add(r->scsi, &(struct dp_virtio_scsi_unit){.block = r->wide, .target = WIDE, .sector = 4096}, &e), e);
    assert_ok(dp_virtio_scsi_add(r->scsi, &(struct dp_virtio_scsi_unit){.block = r->disc, .cdrom = true, .target = CD}, &e), e);
}

/* Without a loop: nothing completes before the test drains. */
static void rig_init(struct rig *r)
{
    memset(r, 0, sizeof(*r));
    bus_init(&r->bus);
    make_file(r, 0, DISK_SIZE, false, &r->block);
    make_file(r, 1, DISK_SIZE, true, &r->worm);
    make_file(r, 2, DISK_SIZE, false, &r->wide);
    make_file(r, 3, 64 * 2048, true, &r->disc);
    plug(r);
    driver_probe(&r->d, &r->bus, DEVICE_SLOT, 8);
    r->requests = guest_alloc(&r->bus, SLOTS * SLOT_SIZE);
    r->responses = guest_alloc(&r->bus, SLOTS * SLOT_SIZE);
    r->data = guest_alloc(&r->bus, 2 << 20);
    r->queue = COMMANDS;
}

static void rig_fini(struct rig *r)
{
    dp_device_free(r->adapter);
    dp_block_close(r->block);
    dp_block_close(r->worm);
    dp_block_close(r->wide);
    dp_block_close(r->disc);
    for (unsigned i = 0; i < 4; i++)
        unlink(r->path[i]);
    bus_fini(&r->bus);
}

static void drain(struct rig *r)
{
    for (unsigned i = 0; i < 3; i++) {
        dp_block_drain(r->block);
        dp_block_drain(r->worm);
        dp_block_drain(r->wide);
        dp_block_drain(r->disc);
    }
}

static void put_lun(uint8_t *p, unsigned target, unsigned lun)
{
    memset(p, 0, 8);
    p[0] = 1;
    p[1] = (uint8_t)target;
    p[2] = (uint8_t)(0x40 | lun >> 8);
    p[3] = (uint8_t)lun;
}

struct data {
    unsigned size;
    bool in; /* to the guest */
};
#define NO_DATA ((struct data){0})

/* Puts a command in; its id is 1000 + slot. */
static unsigned submit(struct rig *r, unsigned slot, unsigned target, unsigned lun, const uint8_t *cdb, unsigned cdb_size, struct data data)
{
    uint64_t q = r->requests + slot * SLOT_SIZE, s = r->responses + slot * SLOT_SIZE;
    memset(guest(&r->bus, q), 0, REQUEST);
    memset(guest(&r->bus, s), 0xee, RESPONSE);
    put_lun(guest(&r->bus, q), target, lun);
    dp_st64(guest(&r->bus, q + 8), 1000 + slot);
    memcpy(guest(&r->bus, q + 19), cdb, cdb_size);
    struct buffer v[4] = {{q, REQUEST, false}};
    unsigned n = 1;
    if (data.size && !data.in)
        v[n++] = (struct buffer){r->data, data.size, false};
    v[n++] = (struct buffer){s, RESPONSE, true};
    if (data.size && data.in)
        v[n++] = (struct buffer){r->data, data.size, true};
    unsigned head = ring_add(&r->d, r->queue, v, n, slot & 1);
    ring_kick(&r->d, r->queue);
    return head;
}

struct answer {
    uint8_t response, status, key, asc, ascq;
    uint32_t sense, residual, used;
};
static struct answer answer(struct rig *r, unsigned slot)
{
    const uint8_t *p = guest(&r->bus, r->responses + slot * SLOT_SIZE);
    struct answer a = {.response = p[11], .status = p[10], .sense = dp_ld32(p), .residual = dp_ld32(p + 4)};
    if (a.sense) {
        assert_int_equal(a.sense, 18);
        a.key = p[12 + 2];
        a.asc = p[12 + 12];
        a.ascq = p[12 + 13];
    }
    return a;
}

/* The whole of it, and it was carried out, however it ended. */
static struct answer any(struct rig *r, unsigned target, unsigned lun, const uint8_t *cdb, unsigned cdb_size, struct data data)
{
    uint32_t used = 0;
    unsigned head = submit(r, 0, target, lun, cdb, cdb_size, data);
    drain(r);
    assert_int_equal(ring_used(&r->d, r->queue, &used), head);
    struct answer a = answer(r, 0);
    a.used = used;
    return a;
}
#define CDB(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})
#define COMMAND(r, target, lun, data, ...) any(r, target, lun, CDB(__VA_ARGS__), data)
#define IN(n) ((struct data){n, true})
#define OUT(n) ((struct data){n, false})

static void assert_good(struct answer a)
{
    if (a.response || a.status)
        fail_msg("response %u, status %u, sense %x/%02x/%02x", a.response, a.status, a.key, a.asc, a.ascq);
}
static void assert_sense(struct answer a, unsigned key, unsigned asc, unsigned ascq)
{
    assert_int_equal(a.response, 0);
    assert_int_equal(a.status, CHECK);
    if (a.key != key || a.asc != asc || a.ascq != ascq)
        fail_msg("sense %x/%02x/%02x, not %x/%02x/%02x", a.key, a.asc, a.ascq, key, asc, ascq);
}

static void start(struct rig *r)
{
    driver_start(&r->d, ALL_FEATURES, 0, true);
    /* Each unit tells once that it was powered on. */
    static const struct {
        uint8_t target, lun;
    } units[] = {{0, DISK}, {0, WORM}, {WIDE, 0}, {CD, 0}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(units); i++) {
        assert_good(COMMAND(r, units[i].target, units[i].lun, IN(96), 0x12, 0, 0, 0, 96, 0));
        assert_sense(COMMAND(r, units[i].target, units[i].lun, NO_DATA, 0, 0, 0, 0, 0, 0), 6, 0x29, 0);
        assert_good(COMMAND(r, units[i].target, units[i].lun, NO_DATA, 0, 0, 0, 0, 0, 0));
    }
}

static void fill(struct rig *r, uint64_t at, size_t n, uint64_t seed)
{
    struct dp_random random;
    dp_random_seed(&random, seed);
    for (size_t i = 0; i < n; i++)
        guest(&r->bus, at)[i] = (uint8_t)dp_random_next(&random);
}

static void file_read(struct rig *r, unsigned file, void *data, size_t size, off_t at)
{
    int fd = open(r->path[file], O_RDONLY);
    assert_int_equal(pread(fd, data, size, at), size);
    close(fd);
}

static unsigned be16(const uint8_t *p) { return (unsigned)p[0] << 8 | p[1]; }
static uint32_t be32(const uint8_t *p) { return be16(p) << 16 | be16(p + 2); }
static uint64_t be64(const uint8_t *p) { return (uint64_t)be32(p) << 32 | be32(p + 4); }
static void put32(uint8_t *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

/* ---- what units say ---- */

static void identity(void **state)
{
    struct rig r;
    rig_init(&r);
    struct dp_space *m = r.bus.w.env.memory;
    start(&r);
    assert_int_equal(r.d.queues, 5);
    assert_int_equal(config_read(&r.bus, DEVICE_SLOT, 8, 4) >> 8, 0x010000);
    assert_int_equal(dp_space_load(m, r.d.config, 4), 3);
    assert_int_equal(dp_space_load(m, r.d.config + 4, 4), 254);
    assert_int_equal(dp_space_load(m, r.d.config + 20, 4), 96);
    assert_int_equal(dp_space_load(m, r.d.config + 24, 4), 32);
    assert_int_equal(dp_space_load(m, r.d.config + 30, 2), 63);

    const uint8_t *p = guest(&r.bus, r.data);
    struct answer a = COMMAND(&r, 0, DISK, IN(255), 0x12, 0, 0, 0, 255, 0);
    assert_good(a);
    assert_int_equal(a.residual, 255 - 96);
    assert_int_equal(a.used, RESPONSE + 96);
    assert_int_equal(p[0], 0);
    assert_int_equal(p[2], 6);
    assert_int_equal(p[4], 96 - 5);
    assert_memory_equal(p + 8, "DOPPEL  DISK            1.0 ", 28);
    assert_good(COMMAND(&r, CD, 0, IN(96), 0x12, 0, 0, 0, 96, 0));
    assert_int_equal(be16(p), 0x0580);
    assert_good(COMMAND(&r, 0, DISK, IN(255), 0x12, 1, 0, 0, 255, 0));
    assert_memory_equal(p, ((const uint8_t[]){0, 0, 0, 6, 0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2}), 10);
    assert_good(COMMAND(&r, 0, DISK, IN(255), 0x12, 1, 0x80, 0, 255, 0));
    assert_memory_equal(p, "\0\x80\0\x0dSN-0123456789", 17);
    assert_good(COMMAND(&r, 0, DISK, IN(255), 0x12, 1, 0x83, 0, 255, 0));
    assert_int_equal(be16(p + 2), 4 + 24 + 13);
    assert_memory_equal(p + 8, "DOPPEL  DISK            SN-0123456789", 37);
    assert_good(COMMAND(&r, 0, DISK, IN(255), 0x12, 1, 0xb0, 0, 255, 0));
    assert_int_equal(be16(p + 2), 0x3c);
    assert_int_equal(p[4], 1);
    assert_int_equal(be16(p + 6), 8);
    assert_true(be32(p + 20) && be32(p + 24) == 255 && be32(p + 28) == 8 && be64(p + 36));
    assert_good(COMMAND(&r, 0, DISK, IN(255), 0x12, 1, 0xb1, 0, 255, 0));
    assert_int_equal(be16(p + 4), 1);
    assert_good(COMMAND(&r, 0, DISK, IN(255), 0x12, 1, 0xb2, 0, 255, 0));
    assert_int_equal(p[5], 0xe0);
    assert_sense(COMMAND(&r, 0, DISK, IN(255), 0x12, 1, 0xb7, 0, 255, 0), 5, 0x24, 0);
    assert_memory_equal(guest(&r.bus, r.responses + 12 + 15), "\xcf\0\2", 3); /* byte 2, bit 7 of the command */
    assert_sense(COMMAND(&r, CD, 0, IN(255), 0x12, 1, 0xb0, 0, 255, 0), 5, 0x24, 0);
    assert_sense(COMMAND(&r, 0, DISK, IN(255), 0x12, 0, 1, 0, 255, 0), 5, 0x24, 0);

    assert_good(COMMAND(&r, 0, DISK, IN(8), 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0));
    assert_int_equal(be32(p), DISK_SIZE / 512 - 1);
    assert_int_equal(be32(p + 4), 512);
    a = COMMAND(&r, WIDE, 0, IN(32), 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0);
    assert_good(a);
    assert_int_equal(be64(p), DISK_SIZE / 4096 - 1);
    assert_int_equal(be32(p + 8), 4096);
    assert_int_equal(be16(p + 13), 0x0080);
    assert_good(COMMAND(&r, 0, DISK, IN(32), 0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0)); /* cut short by the allocation */
    assert_int_equal(answer(&r, 0).residual, 20);
    assert_sense(COMMAND(&r, 0, DISK, IN(32), 0x9e, 0x11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0), 5, 0x24, 0);
    assert_sense(COMMAND(&r, 0, DISK, NO_DATA, 0xff, 0, 0, 0, 0, 0), 5, 0x20, 0);

    assert_good(COMMAND(&r, 0, DISK, IN(64), 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0));
    assert_int_equal(be32(p), 16);
    assert_int_equal(be16(p + 8), 0);
    assert_int_equal(be16(p + 16), WORM);
    /* A unit that is not there, on a target that is, and a target that is not. */
    assert_good(COMMAND(&r, 0, 9, IN(96), 0x12, 0, 0, 0, 96, 0));
    assert_int_equal(p[0], 0x7f);
    assert_good(COMMAND(&r, 0, 9, IN(64), 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0));
    assert_int_equal(be32(p), 16);
    assert_sense(COMMAND(&r, 0, 9, NO_DATA, 0, 0, 0, 0, 0, 0), 5, 0x25, 0);
    assert_good(COMMAND(&r, 0, 9, IN(18), 3, 0, 0, 0, 18, 0));
    assert_int_equal(p[12], 0x25);
    assert_int_equal(COMMAND(&r, 9, 0, IN(96), 0x12, 0, 0, 0, 96, 0).response, 3);

    /* What it says it can. */
    assert_good(COMMAND(&r, 0, DISK, IN(1024), 0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0));
    assert_true(be32(p) > 200 && be32(p) % 8 == 0);
    assert_good(COMMAND(&r, 0, DISK, IN(1024), 0xa3, 0x0c, 1, 0x42, 0, 0, 0, 0, 4, 0, 0, 0));
    assert_int_equal(be32(p), 0x0003000a);
    assert_int_equal(p[4], 0x42);
    assert_good(COMMAND(&r, 0, DISK, IN(1024), 0xa3, 0x0c, 0x82, 0x9e, 0, 0x10, 0, 0, 4, 0, 0, 0));
    assert_int_equal(p[1], 0x83);
    assert_good(COMMAND(&r, 0, DISK, IN(1024), 0xa3, 0x0c, 1, 0x5e, 0, 0, 0, 0, 4, 0, 0, 0));
    assert_int_equal(p[1], 1);
    rig_fini(&r);
}

static void modes(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    uint8_t *p = guest(&r.bus, r.data);
    assert_good(COMMAND(&r, 0, DISK, IN(255), 0x1a, 0, 0x3f, 0, 255, 0));
    assert_int_equal(p[0], 4 + 8 + 12 + 20 + 12 - 1);
    assert_int_equal(p[2], 0x10);
    assert_int_equal(be32(p + 4), DISK_SIZE / 512);
    assert_good(COMMAND(&r, 0, WORM, IN(255), 0x5a, 0x10, 0x08, 0, 0, 0, 0, 0, 255, 0));
    assert_int_equal(be16(p), 8 + 16 + 20 - 2);
    assert_int_equal(p[3], 0x90); /* write-protected */
    assert_int_equal(be64(p + 8), DISK_SIZE / 512);
    assert_int_equal(p[8 + 16 + 2], 4);
    assert_good(COMMAND(&r, 0, DISK, IN(255), 0x1a, 8, 0x48, 0, 255, 0)); /* what can be changed */
    assert_int_equal(p[4 + 2], 4);
    assert_sense(COMMAND(&r, 0, DISK, IN(255), 0x1a, 8, 0xc8, 0, 255, 0), 5, 0x39, 0);
    assert_sense(COMMAND(&r, 0, DISK, IN(255), 0x1a, 8, 0x1c, 0, 255, 0), 5, 0x24, 0);
    /* The write cache off, and on again. */
    for (unsigned on = 0; on < 2; on++) {
        assert_good(COMMAND(&r, 0, DISK, IN(24), 0x1a, 8, 0x08, 0, 24, 0));
        p[0] = p[2] = 0;
        p[4 + 2] = on ? 4 : 0;
        struct answer a = COMMAND(&r, 0, DISK, OUT(24), 0x15, 0x10, 0, 0, 24, 0);
        assert_good(a);
        assert_int_equal(a.residual, 0);
        assert_good(COMMAND(&r, 0, DISK, IN(24), 0x1a, 8, 0x08, 0, 24, 0));
        assert_int_equal(p[4 + 2], on ? 4 : 0);
    }
    p[0] = p[2] = 0;
    p[4 + 3] = 1; /* not changeable */
    assert_sense(COMMAND(&r, 0, DISK, OUT(24), 0x15, 0x10, 0, 0, 24, 0), 5, 0x26, 0);
    assert_sense(COMMAND(&r, 0, DISK, OUT(24), 0x15, 0x10, 0, 0, 20, 0), 5, 0x1a, 0);
    assert_sense(COMMAND(&r, 0, DISK, OUT(20), 0x15, 0x10, 0, 0, 24, 0), 5, 0x1a, 0);
    assert_sense(COMMAND(&r, 0, DISK, OUT(24), 0x15, 0, 0, 0, 24, 0), 5, 0x24, 0);
    assert_sense(COMMAND(&r, 0, DISK, OUT(24), 0x15, 0x11, 0, 0, 24, 0), 5, 0x24, 0);
    rig_fini(&r);
}

/* ---- the medium ---- */

static void transfers(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    static uint8_t disk[65536], expected[65536];
    uint8_t *p = guest(&r.bus, r.data);
    static const struct {
        uint8_t write[16], read[16];
        unsigned size, lba, blocks;
    } ways[] = {
        {{0x0a, 0, 0, 5, 3}, {0x08, 0, 0, 5, 3}, 6, 5, 3},
        {{0x0a, 0, 1, 0, 0}, {0x08, 0, 1, 0, 0}, 6, 256, 256}, /* 0: 256 */
        {{0x2a, 8, 0, 0, 0, 7, 0, 0, 64}, {0x28, 0, 0, 0, 0, 7, 0, 0, 64}, 10, 7, 64},
        {{0xaa, 0, 0, 0, 0, 9, 0, 0, 0, 1}, {0xa8, 8, 0, 0, 0, 9, 0, 0, 0, 1}, 12, 9, 1},
        {{0x8a, 8, 0, 0, 0, 0, 0, 0, 0, 33, 0, 0, 0, 17}, {0x88, 0, 0, 0, 0, 0, 0, 0, 0, 33, 0, 0, 0, 17}, 16, 33, 17},
        {{0x2e, 0, 0, 0, 0, 70, 0, 0, 2}, {0x28, 0, 0, 0, 0, 70, 0, 0, 2}, 10, 70, 2},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(ways); i++) {
        unsigned bytes = ways[i].blocks * 512;
        r.queue = COMMANDS + i % 3;
        fill(&r, r.data, bytes, i);
        memcpy(expected, p, DP_MIN(bytes, sizeof expected));
        struct answer a = any(&r, 0, DISK, ways[i].write, ways[i].size, OUT(bytes));
        assert_good(a);
        assert_int_equal(a.residual, 0);
        file_read(&r, 0, disk, DP_MIN(bytes, sizeof disk), ways[i].lba * 512);
        assert_memory_equal(disk, p, DP_MIN(bytes, sizeof disk));
        memset(p, 0, bytes);
        a = any(&r, 0, DISK, ways[i].read, ways[i].size, IN(bytes + 100)); /* more room than needed */
        assert_good(a);
        assert_int_equal(a.residual, 100);
        assert_int_equal(a.used, RESPONSE + bytes);
        assert_memory_equal(p, expected, DP_MIN(bytes, sizeof expected));
    }
    r.queue = COMMANDS;
    /* Less room than the command moves: nothing is done. */
    assert_int_equal(COMMAND(&r, 0, DISK, IN(512), 0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0).response, 1);
    assert_int_equal(COMMAND(&r, 0, DISK, OUT(512), 0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0).response, 1);
    assert_int_equal(COMMAND(&r, 0, DISK, NO_DATA, 0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0).response, 1);
    assert_good(COMMAND(&r, 0, DISK, NO_DATA, 0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0));
    /* Blocks of 4096 bytes. */
    fill(&r, r.data, 8192, 77);
    assert_good(COMMAND(&r, WIDE, 0, OUT(8192), 0x2a, 0, 0, 0, 0, 3, 0, 0, 2, 0));
    file_read(&r, 2, disk, 8192, 3 * 4096);
    assert_memory_equal(disk, p, 8192);
    /* What is not possible. */
    assert_sense(COMMAND(&r, 0, DISK, IN(512), 0x28, 0, 0, 0, 0x20, 0, 0, 0, 1, 0), 5, 0x21, 0);
    assert_sense(COMMAND(&r, 0, DISK, IN(1024), 0x28, 0, 0, 0, 0x1f, 0xff, 0, 0, 2, 0), 5, 0x21, 0);
    assert_sense(COMMAND(&r, 0, DISK, IN(512), 0x88, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 0), 5, 0x21, 0);
    assert_sense(COMMAND(&r, 0, DISK, IN(512), 0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0), 5, 0x24, 0); /* RDPROTECT */
    assert_sense(COMMAND(&r, 0, WORM, OUT(512), 0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0), 7, 0x27, 0);
    assert_good(COMMAND(&r, 0, WORM, IN(512), 0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0));
    assert_good(COMMAND(&r, 0, WORM, NO_DATA, 0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0));
    /* SYNCHRONIZE CACHE */
    assert_good(COMMAND(&r, 0, DISK, NO_DATA, 0x35, 2, 0, 0, 0, 0, 0, 0, 0, 0));
    assert_good(COMMAND(&r, 0, DISK, NO_DATA, 0x91, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0));
    assert_sense(COMMAND(&r, 0, DISK, NO_DATA, 0x91, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 5, 0, 0), 5, 0x21, 0);
    /* VERIFY: readable; the same as this; not the same. */
    assert_good(COMMAND(&r, 0, DISK, NO_DATA, 0x2f, 0, 0, 0, 0, 0, 0, 4, 0, 0));
    file_read(&r, 0, p, 200 * 512, 0);
    assert_good(COMMAND(&r, 0, DISK, OUT(200 * 512), 0x2f, 2, 0, 0, 0, 0, 0, 0, 200, 0));
    p[150 * 512 + 3] ^= 1;
    assert_sense(COMMAND(&r, 0, DISK, OUT(200 * 512), 0x2f, 2, 0, 0, 0, 0, 0, 0, 200, 0), 14, 0x1d, 0);
    assert_int_equal(be32(guest(&r.bus, r.responses + 12 + 3)), 150 * 512 + 3);
    assert_sense(COMMAND(&r, 0, DISK, OUT(512), 0x2f, 6, 0, 0, 0, 0, 0, 0, 1, 0), 5, 0x24, 0);
    rig_fini(&r);
}

static uint64_t allocated(const struct rig *r, unsigned file)
{
    struct stat st;
    assert_int_equal(stat(r->path[file], &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void unmapping(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    static uint8_t disk[65536], zeros[65536];
    uint8_t *p = guest(&r.bus, r.data);
    fill(&r, r.data, 65536, 5);
    memcpy(disk, p, 65536);
    assert_good(COMMAND(&r, 0, DISK, OUT(65536), 0x2a, 0, 0, 0, 0, 0, 0, 0, 128, 0));
    uint64_t full = allocated(&r, 0);
    /* UNMAP blocks 8 to 15, and 32 to 63. */
    memset(p, 0, 40);
    memcpy(p, (const uint8_t[]){0, 38, 0, 32}, 4);
    put32(p + 8 + 4, 8);
    put32(p + 8 + 8, 8);
    put32(p + 24 + 4, 32);
    put32(p + 24 + 8, 32);
    assert_good(COMMAND(&r, 0, DISK, OUT(40), 0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0));
    memset(disk + 8 * 512, 0, 8 * 512);
    memset(disk + 32 * 512, 0, 32 * 512);
    static uint8_t now[65536];
    file_read(&r, 0, now, sizeof now, 0);
    assert_memory_equal(now, disk, sizeof now);
    assert_true(allocated(&r, 0) < full);
    /* One range is wrong: none is unmapped. */
    put32(p + 8 + 4, 0);
    put32(p + 24 + 4, DISK_SIZE / 512);
    assert_sense(COMMAND(&r, 0, DISK, OUT(40), 0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0), 5, 0x21, 0);
    file_read(&r, 0, now, sizeof now, 0);
    assert_memory_equal(now, disk, sizeof now);
    assert_good(COMMAND(&r, 0, DISK, NO_DATA, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0));
    assert_sense(COMMAND(&r, 0, DISK, OUT(4), 0x42, 0, 0, 0, 0, 0, 0, 0, 4, 0), 5, 0x1a, 0);
    assert_sense(COMMAND(&r, 0, DISK, OUT(40), 0x42, 1, 0, 0, 0, 0, 0, 0, 40, 0), 5, 0x24, 0);
    assert_sense(COMMAND(&r, 0, WORM, OUT(40), 0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0), 7, 0x27, 0);

    /* WRITE SAME: zeros, with and without a block, a pattern across more than one bounce buffer. */
    memset(p, 0, 512);
    assert_good(COMMAND(&r, 0, DISK, OUT(512), 0x41, 8, 0, 0, 0, 0, 0, 0, 4, 0));
    assert_good(COMMAND(&r, 0, DISK, NO_DATA, 0x93, 1, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 8, 0, 0));
    memset(disk, 0, 4 * 512);
    memset(disk + 16 * 512, 0, 8 * 512);
    file_read(&r, 0, now, sizeof now, 0);
    assert_memory_equal(now, disk, sizeof now);
    fill(&r, r.data, 512, 8);
    assert_good(COMMAND(&r, 0, DISK, OUT(512), 0x93, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 3, 0, 0));
    for (unsigned i = 0; i < 259; i++) {
        file_read(&r, 0, now, 512, (256 + i) * 512);
        assert_memory_equal(now, p, 512);
    }
    file_read(&r, 0, now, 512, (256 + 259) * 512);
    assert_memory_equal(now, zeros, 512);
    assert_sense(COMMAND(&r, 0, DISK, OUT(512), 0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), 5, 0x24, 0); /* WSNZ */
    assert_sense(COMMAND(&r, 0, DISK, OUT(512), 0x93, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0), 5, 0x24, 0);
    assert_sense(COMMAND(&r, 0, DISK, OUT(100), 0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0), 5, 0x1a, 0);
    rig_fini(&r);
}

static void conditions(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    uint8_t *p = guest(&r.bus, r.data);
    assert_good(COMMAND(&r, 0, DISK, NO_DATA, 0x1b, 0, 0, 0, 0, 0)); /* stop */
    assert_sense(COMMAND(&r, 0, DISK, NO_DATA, 0, 0, 0, 0, 0, 0), 2, 4, 2);
    assert_sense(COMMAND(&r, 0, DISK, IN(512), 0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0), 2, 4, 2);
    assert_good(COMMAND(&r, 0, DISK, IN(18), 3, 0, 0, 0, 18, 0));
    assert_int_equal(p[2], 2);
    assert_good(COMMAND(&r, 0, DISK, NO_DATA, 0x1b, 0, 0, 0, 1, 0));
    assert_good(COMMAND(&r, 0, DISK, NO_DATA, 0, 0, 0, 0, 0, 0));
    assert_good(COMMAND(&r, 0, DISK, IN(18), 3, 1, 0, 0, 18, 0));
    assert_memory_equal(p, "\x72\0\0\0", 4);
    assert_good(COMMAND(&r, 0, DISK, NO_DATA, 0x1d, 4, 0, 0, 0, 0));

    /* Another size: told by an event and a unit attention. */
    uint64_t event = guest_alloc(&r.bus, 4096);
    struct buffer v = {event, 16, true};
    dp_virtio_scsi_resized(r.scsi, r.block); /* no buffer: missed */
    assert_good(COMMAND(&r, 0, DISK, IN(18), 3, 0, 0, 0, 18, 0));
    assert_int_equal(be16(p + 12), 0x2a09);
    ring_add(&r.d, EVENT, &v, 1, false);
    ring_kick(&r.d, EVENT);
    assert_true(ring_used(&r.d, EVENT, NULL) >= 0);
    assert_int_equal(dp_ld32(guest(&r.bus, event)), 0x80000000);
    ring_add(&r.d, EVENT, &v, 1, false);
    ring_kick(&r.d, EVENT);
    assert_int_equal(ring_used(&r.d, EVENT, NULL), -1);
    dp_virtio_scsi_resized(r.scsi, r.wide);
    assert_true(ring_used(&r.d, EVENT, NULL) >= 0);
    assert_int_equal(dp_ld32(guest(&r.bus, event)), 3);
    assert_int_equal(guest(&r.bus, event)[5], WIDE);
    assert_int_equal(dp_ld32(guest(&r.bus, event + 12)), 0x092a);
    assert_sense(COMMAND(&r, WIDE, 0, NO_DATA, 0, 0, 0, 0, 0, 0), 6, 0x2a, 9);
    assert_good(COMMAND(&r, WIDE, 0, NO_DATA, 0, 0, 0, 0, 0, 0));

    /* A unit goes with commands in flight, and comes again. */
    struct dp_error e = {0};
    ring_add(&r.d, EVENT, &v, 1, false);
    submit(&r, 1, WIDE, 0, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0), IN(4096));
    assert_ok(dp_virtio_scsi_remove(r.scsi, WIDE, 0, &e), e);
    assert_true(ring_used(&r.d, r.queue, NULL) >= 0);
    assert_int_equal(answer(&r, 1).response, 2);
    assert_true(ring_used(&r.d, EVENT, NULL) >= 0);
    assert_int_equal(dp_ld32(guest(&r.bus, event)), 1);
    assert_int_equal(dp_ld32(guest(&r.bus, event + 12)), 2);
    assert_int_equal(COMMAND(&r, WIDE, 0, NO_DATA, 0, 0, 0, 0, 0, 0).response, 3);
    assert_int_equal(dp_virtio_scsi_remove(r.scsi, WIDE, 0, &e), -ENODEV);
    ring_add(&r.d, EVENT, &v, 1, false);
    assert_ok(dp_virtio_scsi_add(r.scsi, &(struct dp_virtio_scsi_unit){.block = r.wide, .target = 63, .lun = 300}, &e), e);
    assert_true(ring_used(&r.d, EVENT, NULL) >= 0);
    assert_int_equal(dp_ld32(guest(&r.bus, event + 12)), 1);
    assert_memory_equal(guest(&r.bus, event + 4), "\1\x3f\x41\x2c\0\0\0\0", 8);
    assert_sense(COMMAND(&r, 63, 300, NO_DATA, 0, 0, 0, 0, 0, 0), 6, 0x29, 0);
    assert_good(COMMAND(&r, 63, 0, IN(64), 0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0));
    assert_int_equal(be16(p + 8), 0x4000 | 300);
    assert_true(dp_virtio_scsi_add(r.scsi, &(struct dp_virtio_scsi_unit){.block = r.wide, .target = 63, .lun = 300}, &e) < 0);
    assert_true(dp_virtio_scsi_add(r.scsi, &(struct dp_virtio_scsi_unit){.block = r.wide, .target = 64}, &e) < 0);
    assert_true(dp_virtio_scsi_add(r.scsi, &(struct dp_virtio_scsi_unit){.target = 5}, &e) < 0);

    /* The image shrank under us. */
    assert_int_equal(truncate(r.path[0], 1 << 20), 0);
    assert_sense(COMMAND(&r, 0, DISK, IN(4096), 0x28, 0, 0, 0, 0x1f, 0xf8, 0, 0, 8, 0), 3, 0x11, 0);
    rig_fini(&r);
}

/* ---- task management ---- */

static int manage(struct rig *r, unsigned kind, unsigned target, unsigned lun, uint64_t id)
{
    uint64_t at = r->requests + (SLOTS - 1) * SLOT_SIZE;
    uint8_t *p = guest(&r->bus, at);
    memset(p, 0, 64);
    dp_st32(p + 4, kind);
    put_lun(p + 8, target, lun);
    dp_st64(p + 16, id);
    p[32] = 0xee;
    ring_add(&r->d, CONTROL, (struct buffer[]){{at, 24, false}, {at + 32, 1, true}}, 2, false);
    ring_kick(&r->d, CONTROL);
    return ring_used(&r->d, CONTROL, NULL) < 0 ? -1 : p[32];
}
static unsigned managed(struct rig *r)
{
    assert_true(ring_used(&r->d, CONTROL, NULL) >= 0);
    return *guest(&r->bus, r->requests + (SLOTS - 1) * SLOT_SIZE + 32);
}

static void management(void **state)
{
    enum { ABORT_TASK, ABORT_TASK_SET, CLEAR_ACA, CLEAR_TASK_SET, NEXUS_RESET, UNIT_RESET, QUERY_TASK, QUERY_TASK_SET };
    struct rig r;
    rig_init(&r);
    start(&r);
    assert_int_equal(manage(&r, ABORT_TASK, 0, DISK, 1001), 0);
    assert_int_equal(manage(&r, QUERY_TASK, 0, DISK, 1001), 0);
    assert_int_equal(manage(&r, CLEAR_ACA, 0, DISK, 0), 11);
    assert_int_equal(manage(&r, 99, 0, DISK, 0), 11);
    assert_int_equal(manage(&r, ABORT_TASK_SET, 0, 8, 0), 12);
    assert_int_equal(manage(&r, ABORT_TASK_SET, 8, 0, 0), 3);
    for (unsigned i = 1; i <= 4; i++)
        submit(&r, i, 0, i == 4 ? WORM : DISK, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0), IN(4096));
    assert_int_equal(manage(&r, QUERY_TASK, 0, DISK, 1002), 10);
    assert_int_equal(manage(&r, QUERY_TASK, 0, WORM, 1002), 0);
    assert_int_equal(manage(&r, QUERY_TASK_SET, 0, DISK, 0), 10);
    assert_int_equal(manage(&r, ABORT_TASK, 0, DISK, 1002), -1); /* waits */
    drain(&r);
    assert_int_equal(managed(&r), 0);
    for (unsigned i = 1; i <= 4; i++) {
        assert_true(ring_used(&r.d, r.queue, NULL) >= 0);
        assert_int_equal(answer(&r, i).response, i == 2 ? 2 : 0);
    }
    /* A reset of a unit: its commands end, those of others do not; it tells of it. */
    for (unsigned i = 1; i <= 4; i++)
        submit(&r, i, 0, i == 4 ? WORM : DISK, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0), IN(4096));
    assert_int_equal(manage(&r, UNIT_RESET, 0, DISK, 0), -1);
    drain(&r);
    assert_int_equal(managed(&r), 0);
    for (unsigned i = 1; i <= 4; i++) {
        assert_true(ring_used(&r.d, r.queue, NULL) >= 0);
        assert_int_equal(answer(&r, i).response, i == 4 ? 0 : 4);
    }
    assert_sense(COMMAND(&r, 0, DISK, NO_DATA, 0, 0, 0, 0, 0, 0), 6, 0x29, 3);
    assert_good(COMMAND(&r, 0, WORM, NO_DATA, 0, 0, 0, 0, 0, 0));
    assert_int_equal(manage(&r, NEXUS_RESET, 0, 0, 0), 0);
    assert_sense(COMMAND(&r, 0, DISK, NO_DATA, 0, 0, 0, 0, 0, 0), 6, 0x29, 7);
    assert_sense(COMMAND(&r, 0, WORM, NO_DATA, 0, 0, 0, 0, 0, 0), 6, 0x29, 7);
    assert_good(COMMAND(&r, WIDE, 0, NO_DATA, 0, 0, 0, 0, 0, 0));
    /* An aborted pattern stops between two of its requests. */
    fill(&r, r.data, 512, 8);
    submit(&r, 1, 0, DISK, CDB(0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0), OUT(512));
    assert_int_equal(manage(&r, CLEAR_TASK_SET, 0, DISK, 0), -1);
    drain(&r);
    assert_int_equal(managed(&r), 0);
    assert_true(ring_used(&r.d, r.queue, NULL) >= 0);
    assert_int_equal(answer(&r, 1).response, 2);
    uint8_t now[512], zero[512] = {0};
    file_read(&r, 0, now, 512, 200 * 512);
    assert_memory_equal(now, zero, 512);
    /* Asynchronous notifications are not to be had. */
    uint64_t at = r.requests + (SLOTS - 1) * SLOT_SIZE;
    memset(guest(&r.bus, at), 0, 64);
    dp_st32(guest(&r.bus, at), 2);
    memset(guest(&r.bus, at + 32), 0xee, 5);
    ring_add(&r.d, CONTROL, (struct buffer[]){{at, 16, false}, {at + 32, 5, true}}, 2, false);
    ring_kick(&r.d, CONTROL);
    assert_true(ring_used(&r.d, CONTROL, NULL) >= 0);
    assert_memory_equal(guest(&r.bus, at + 32), "\0\0\0\0\0", 5);
    rig_fini(&r);
}

/* More commands with memory of their own than a unit has: told to come later. */
static void bounces(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    unsigned full = 0;
    for (unsigned i = 1; i <= 12; i++)
        submit(&r, i, 0, DISK, CDB(0x2f, 0, 0, 0, 0, 0, 0, 4, 0, 0), NO_DATA);
    drain(&r);
    for (unsigned i = 1; i <= 12; i++) {
        assert_true(ring_used(&r.d, r.queue, NULL) >= 0);
        full += answer(&r, i).status == 0x28;
    }
    assert_int_equal(full, 4);
    assert_good(COMMAND(&r, 0, DISK, NO_DATA, 0x2f, 0, 0, 0, 0, 0, 0, 4, 0, 0));
    rig_fini(&r);
}

/* ---- CD-ROM drives ---- */

static void cdrom(void **state)
{
    struct rig r;
    struct dp_error e = {0};
    rig_init(&r);
    start(&r);
    uint8_t *p = guest(&r.bus, r.data), expected[2048];
    struct answer a = COMMAND(&r, CD, 0, IN(8), 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    assert_good(a);
    assert_int_equal(be32(p), 63);
    assert_int_equal(be32(p + 4), 2048);
    a = COMMAND(&r, CD, 0, IN(3 * 2048), 0x28, 0, 0, 0, 0, 5, 0, 0, 3, 0);
    assert_good(a);
    assert_int_equal(a.residual, 0);
    for (unsigned i = 0; i < 3; i++) {
        memset(expected, (int)(5 + i + 3), sizeof expected);
        assert_memory_equal(p + i * 2048, expected, 2048);
    }
    assert_good(COMMAND(&r, CD, 0, IN(100), 0x43, 2, 0, 0, 0, 0, 1, 0, 100, 0)); /* TOC */
    assert_int_equal(be16(p), 18);
    assert_good(COMMAND(&r, CD, 0, IN(28), 0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 28, 0));
    assert_int_equal(p[8], 0x2a);
    assert_good(COMMAND(&r, CD, 0, IN(8), 0x46, 0, 0, 0, 0, 0, 0, 0, 8, 0));
    assert_int_equal(be16(p + 6), 8);
    assert_sense(COMMAND(&r, CD, 0, IN(2048), 0x28, 0, 0, 0, 0, 64, 0, 0, 1, 0), 5, 0x21, 0);
    assert_sense(COMMAND(&r, CD, 0, OUT(2048), 0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0), 5, 0x20, 0);
    assert_int_equal(COMMAND(&r, CD, 0, IN(100), 0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0).response, 1);
    assert_good(COMMAND(&r, CD, 0, NO_DATA, 0, 0, 0, 0, 0, 0));

    /* Many at once: one after the other; those that wait can be aborted, the one at work ends. */
    for (unsigned i = 1; i <= 5; i++)
        submit(&r, i, CD, 0, CDB(0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0), IN(2048));
    assert_int_equal(manage(&r, 0, CD, 0, 1003), 0); /* had not begun */
    assert_int_equal(manage(&r, 0, CD, 0, 1001), -1);
    drain(&r);
    drain(&r);
    assert_int_equal(managed(&r), 0);
    for (unsigned i = 1; i <= 5; i++) {
        assert_true(ring_used(&r.d, r.queue, NULL) >= 0);
        assert_int_equal(answer(&r, i).response, i == 1 || i == 3 ? 2 : 0);
    }
    /* Another disc, none; a locked tray. */
    assert_ok(dp_virtio_scsi_change_medium(r.scsi, CD, 0, NULL, &e), e);
    assert_sense(COMMAND(&r, CD, 0, NO_DATA, 0, 0, 0, 0, 0, 0), 2, 0x3a, 1);
    assert_ok(dp_virtio_scsi_change_medium(r.scsi, CD, 0, r.disc, &e), e);
    assert_sense(COMMAND(&r, CD, 0, NO_DATA, 0, 0, 0, 0, 0, 0), 6, 0x28, 0);
    assert_good(COMMAND(&r, CD, 0, NO_DATA, 0, 0, 0, 0, 0, 0));
    assert_good(COMMAND(&r, CD, 0, NO_DATA, 0x1e, 0, 0, 0, 1, 0));
    assert_int_equal(dp_virtio_scsi_change_medium(r.scsi, CD, 0, NULL, &e), -EBUSY);
    assert_int_equal(manage(&r, 5, CD, 0, 0), 0); /* the unit's reset unlocks it */
    assert_ok(dp_virtio_scsi_change_medium(r.scsi, CD, 0, NULL, &e), e);
    assert_ok(dp_virtio_scsi_change_medium(r.scsi, CD, 0, r.disc, &e), e);
    assert_int_equal(dp_virtio_scsi_change_medium(r.scsi, 0, 0, r.disc, &e), -ENODEV);
    rig_fini(&r);
}

/* ---- the driver's mistakes ---- */

static void assert_broken(struct rig *r)
{
    drain(r);
    assert_int_equal(driver_status(&r->d), 15 | DP_VIRTIO_NEEDS_RESET);
    driver_start(&r->d, ALL_FEATURES, 0, true);
}

static void mistakes(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    struct dp_space *m = r.bus.w.env.memory;
    uint64_t q = r.requests, s = r.responses;
    put_lun(guest(&r.bus, q), 0, DISK);
    /* Too short for a command, for a response; data outside RAM. */
    ring_add(&r.d, COMMANDS, (struct buffer[]){{q, REQUEST - 1, false}, {s, RESPONSE, true}}, 2, false);
    ring_kick(&r.d, COMMANDS);
    assert_broken(&r);
    ring_add(&r.d, COMMANDS, (struct buffer[]){{q, REQUEST, false}, {s, RESPONSE - 1, true}}, 2, false);
    ring_kick(&r.d, COMMANDS);
    assert_broken(&r);
    COMMAND(&r, 0, DISK, NO_DATA, 0, 0, 0, 0, 0, 0); /* the unit attention of the reset */
    memcpy(guest(&r.bus, q + 19), (const uint8_t[]){0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, 10);
    ring_add(&r.d, COMMANDS, (struct buffer[]){{q, REQUEST, false}, {s, RESPONSE, true}, {NO_DEVICE_HERE, 512, true}}, 3, false);
    ring_kick(&r.d, COMMANDS);
    assert_broken(&r);
    ring_add(&r.d, CONTROL, (struct buffer[]){{q, 10, false}, {s, 1, true}}, 2, false);
    ring_kick(&r.d, CONTROL);
    assert_broken(&r);
    /* Data both ways, which was not agreed on. */
    ring_add(&r.d, COMMANDS, (struct buffer[]){{q, REQUEST + 8, false}, {s, RESPONSE + 8, true}}, 2, false);
    ring_kick(&r.d, COMMANDS);
    assert_true(ring_used(&r.d, COMMANDS, NULL) >= 0);
    assert_int_equal(answer(&r, 0).response, 9);
    /* Other sizes of command and sense data. */
    dp_space_store(m, r.d.config + 20, 4, 4);
    dp_space_store(m, r.d.config + 24, 6, 4);
    assert_int_equal(dp_space_load(m, r.d.config + 20, 8), 4 | 6ull << 32);
    memset(guest(&r.bus, q + 19), 0xff, 6);
    ring_add(&r.d, COMMANDS, (struct buffer[]){{q, 19 + 6, false}, {s, 12 + 4, true}}, 2, false);
    ring_kick(&r.d, COMMANDS);
    assert_true(ring_used(&r.d, COMMANDS, NULL) >= 0);
    assert_int_equal(dp_ld32(guest(&r.bus, s)), 4);
    dp_space_store(m, r.d.config + 24, 256, 4);
    dp_space_store(m, r.d.config, 256, 4);
    assert_int_equal(dp_space_load(m, r.d.config + 24, 4), 6);
    driver_reset(&r.d);
    assert_int_equal(dp_space_load(m, r.d.config + 24, 4), 32);
    rig_fini(&r);
}

static void reset_in_flight(void **state)
{
    struct rig r;
    rig_init(&r);
    start(&r);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 10; i++) {
            submit(&r, i, 0, DISK, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0), IN(4096));
            submit(&r, i, CD, 0, CDB(0x28, 0, 0, 0, 0, 1, 0, 0, 2, 0), IN(4096));
        }
        if (round == 0) { /* the driver's: status says so until the last is back */
            reg_write(&r.d, C_STATUS, 0, 1);
            assert_int_not_equal(driver_status(&r.d), 0);
            for (unsigned i = 0; i < 10; i++)
                drain(&r);
            assert_int_equal(driver_status(&r.d), 0);
        } else if (round == 1) { /* the machine's waits itself */
            dp_device_reset(r.adapter);
            driver_probe(&r.d, &r.bus, DEVICE_SLOT, 8);
        } else {
            break; /* freed with commands in flight */
        }
        start(&r);
    }
    rig_fini(&r);
}

static void pause_and_restore(void **state)
{
    struct rig r;
    rig_init(&r);
    struct dp_error e = {0};
    start(&r);
    fill(&r, r.data, 4096, 5);
    for (unsigned i = 0; i < 5; i++) {
        submit(&r, 2 * i, 0, DISK, CDB(0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0), OUT(4096));
        submit(&r, 2 * i + 1, CD, 0, CDB(0x28, 0, 0, 0, 0, 1, 0, 0, 2, 0), IN(4096));
    }
    dp_device_pause(r.adapter); /* all are done */
    for (unsigned i = 0; i < 10; i++) {
        assert_true(ring_used(&r.d, r.queue, NULL) >= 0);
        assert_good(answer(&r, i));
    }
    fill(&r, r.data, 4096, 6);
    submit(&r, 20, 0, DISK, CDB(0x2a, 0, 0, 0, 0, 200, 0, 0, 8, 0), OUT(4096)); /* held */
    drain(&r);
    assert_int_equal(ring_used(&r.d, r.queue, NULL), -1);
    struct dp_buffer image = {0};
    size_t used;
    dp_device_save(r.adapter, &image);
    dp_device_save(r.scsi, &image);
    dp_device_free(r.adapter);
    plug(&r);
    dp_device_pause(r.adapter);
    assert_ok(dp_device_load(r.adapter, image.data, image.size, &used, &e), e);
    assert_ok(dp_device_load(r.scsi, image.data + used, image.size - used, NULL, &e), e);
    dp_buffer_fini(&image);
    dp_device_resume(r.adapter);
    drain(&r);
    assert_true(ring_used(&r.d, r.queue, NULL) >= 0);
    assert_good(answer(&r, 20)); /* no unit attention: the guest was told before */
    uint8_t disk[4096];
    file_read(&r, 0, disk, 4096, 200 * 512);
    assert_memory_equal(disk, guest(&r.bus, r.data), 4096);
    assert_good(COMMAND(&r, CD, 0, IN(2048), 0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0));
    rig_fini(&r);
}

/* ---- conformance ---- */

static struct dp_device *conformance_make(const struct dp_device_env *env, void *opaque)
{
    struct rig *r = opaque;
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_virtio_scsi_class, "scsi", env);
    assert_ok(dp_device_init(d, &e), e);
    assert_ok(dp_virtio_scsi_add(d, &(struct dp_virtio_scsi_unit){.block = r->block}, &e), e);
    assert_ok(dp_virtio_scsi_add(d, &(struct dp_virtio_scsi_unit){.block = r->disc, .cdrom = true, .target = 1}, &e), e);
    return d;
}

static uint64_t conformance_poke(struct dp_device *d, struct dp_random *random)
{
    struct dp_virtio *v = dp_virtio_of(d);
    uint64_t pick = dp_random_next(random), value = dp_random_next(random), result = 0;
    dp_virtio_lock(v);
    switch (pick % 4) {
    case 0:
        v->vclass->config_read(v, (uint32_t)(pick >> 8) % 9 * 4, &result, 4);
        break;
    case 1:
        v->vclass->config_write(v, (uint32_t)(pick >> 8) % 9 * 4, &value, 4);
        break;
    case 2:
        dp_virtio_notify(v, (unsigned)(pick >> 8) % 8);
        break;
    default:
        dp_virtio_set_status(v, (uint8_t)(pick >> 8));
        break;
    }
    dp_virtio_unlock(v);
    return result;
}

static void conformance(void **state)
{
    struct rig r;
    rig_init(&r);
    struct conformance c = {.make = conformance_make, .opaque = &r, .poke = conformance_poke, .rounds = 20};
    conformance_check(&c);
    rig_fini(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity),   cmocka_unit_test(modes),           cmocka_unit_test(transfers),         cmocka_unit_test(unmapping),
        cmocka_unit_test(conditions), cmocka_unit_test(management),      cmocka_unit_test(bounces),           cmocka_unit_test(cdrom),
        cmocka_unit_test(mistakes),   cmocka_unit_test(reset_in_flight), cmocka_unit_test(pause_and_restore), cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
