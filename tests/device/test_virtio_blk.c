/* test_virtio_blk.c - the disk by its driver: every request type, odd layouts, errors, resets and pauses with I/O in flight. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/block.h"
#include "tests/device/virtio_driver.h"

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { F_RO = 5, F_FLUSH = 9, F_CONFIG_WCE = 11, F_MQ = 12, F_DISCARD = 13, F_WRITE_ZEROES = 14 };
#define DISK_SIZE (1u << 20)
#define ALL_FEATURES ~0ull

struct rig {
    struct bus bus;
    struct dp_block *block;
    struct dp_device *adapter;
    struct driver d;
    char path[40];
    uint64_t header, status, data; /* guest pages */
};

static struct dp_device *make_disk(struct rig *r)
{
    struct dp_error e = { 0 };
    struct dp_device *child = dp_device_alloc(&dp_virtio_blk_class, "disk", &r->bus.w.env);
    dp_virtio_blk_attach(child, r->block);
    assert_ok(dp_device_set(child, "serial", "SN-0123456789", &e), e);
    return child;
}

/* Without a loop: nothing completes before the test drains. */
static void rig_init(struct rig *r, bool readonly)
{
    struct dp_error e = { 0 };
    memset(r, 0, sizeof(*r));
    bus_init(&r->bus);
    strcpy(r->path, "/tmp/doppel-test-blk-XXXXXX");
    int fd = mkstemp(r->path);
    assert_true(fd >= 0 && !ftruncate(fd, DISK_SIZE));
    close(fd);
    assert_ok(dp_block_open(NULL, &(struct dp_block_options){ .path = r->path, .readonly = readonly }, &r->block, &e), e);
    r->adapter = bus_plug(&r->bus, make_disk(r), 4);
    driver_probe(&r->d, &r->bus, 4, 2);
    r->header = guest_alloc(&r->bus, 4096);
    r->status = guest_alloc(&r->bus, 4096);
    r->data = guest_alloc(&r->bus, 1 << 20);
}

static void rig_fini(struct rig *r)
{
    dp_device_free(r->adapter);
    dp_block_close(r->block);
    unlink(r->path);
    bus_fini(&r->bus);
}

static void set_header(struct rig *r, unsigned slot, uint32_t type, uint64_t sector)
{
    uint8_t *h = guest(&r->bus, r->header + slot * 16);
    dp_st32(h, type);
    dp_st32(h + 4, 0);
    dp_st64(h + 8, sector);
    *guest(&r->bus, r->status + slot) = 0xee;
}

/* Puts a request in; its status byte is number `slot` of the status page. */
static unsigned submit(struct rig *r, unsigned slot, uint32_t type, uint64_t sector, const struct buffer *data, unsigned count,
                       bool indirect)
{
    struct buffer v[64] = { { r->header + slot * 16, 16, false } };
    set_header(r, slot, type, sector);
    for (unsigned i = 0; i < count; i++)
        v[i + 1] = data[i];
    v[count + 1] = (struct buffer){ r->status + slot, 1, true };
    unsigned head = ring_add(&r->d, 0, v, count + 2, indirect);
    ring_kick(&r->d, 0);
    return head;
}

/* The whole of it; returns the status byte. */
static unsigned request(struct rig *r, uint32_t type, uint64_t sector, const struct buffer *data, unsigned count, bool indirect)
{
    uint32_t length;
    unsigned head = submit(r, 0, type, sector, data, count, indirect);
    dp_block_drain(r->block);
    assert_int_equal(ring_used(&r->d, 0, &length), head);
    uint8_t status = *guest(&r->bus, r->status);
    if (!status) {
        uint64_t in = 1;
        for (unsigned i = 0; i < count; i++)
            in += data[i].write ? data[i].length : 0;
        if (type != T_GET_ID)
            assert_int_equal(length, in);
    }
    return status;
}

static void file_read(struct rig *r, void *data, size_t size, off_t at)
{
    int fd = open(r->path, O_RDONLY);
    assert_int_equal(pread(fd, data, size, at), size);
    close(fd);
}

static void identity(void **state)
{
    struct rig r;
    rig_init(&r, false);
    struct dp_space *m = r.bus.w.env.memory;
    driver_start(&r.d, ALL_FEATURES, 0, true);
    assert_int_equal(config_read(&r.bus, 4, 8, 4) >> 8, 0x010000);
    assert_int_equal(dp_space_load(m, r.d.config, 8), DISK_SIZE / 512);
    assert_int_equal(dp_space_load(m, r.d.config + 4, 4), 0);
    assert_int_equal(dp_space_load(m, r.d.config + 12, 4), 254); /* seg_max: with header and status it fits the queue */
    assert_int_equal(dp_space_load(m, r.d.config + 20, 4), 512);
    assert_int_equal(dp_space_load(m, r.d.config + 34, 2), 1);
    assert_int_equal(dp_space_load(m, r.d.config + 60, 4), 0);
    dp_space_store(m, r.d.config, 0, 8); /* read-only */
    assert_int_equal(dp_space_load(m, r.d.config, 8), DISK_SIZE / 512);
    assert_true(r.d.features >> F_FLUSH & 1 && r.d.features >> F_DISCARD & 1 && !(r.d.features >> F_RO & 1));
    struct buffer v = { r.data, 20, true };
    assert_int_equal(request(&r, T_GET_ID, 0, &v, 1, false), 0);
    assert_memory_equal(guest(&r.bus, r.data), "SN-0123456789\0\0\0\0\0\0\0", 20);
    assert_int_equal(request(&r, 77, 0, &v, 1, false), 2);
    rig_fini(&r);

    struct dp_error e = { 0 };
    struct conformance_world w;
    conformance_world_init(&w);
    struct dp_device *bad = dp_device_alloc(&dp_virtio_blk_class, "disk", &w.env);
    assert_true(dp_device_init(bad, &e) < 0); /* no image */
    dp_device_free(bad);
    conformance_world_fini(&w);
}

static void fill(struct rig *r, uint64_t at, size_t n, uint64_t seed)
{
    struct dp_random random;
    dp_random_seed(&random, seed);
    for (size_t i = 0; i < n; i++)
        guest(&r->bus, at)[i] = dp_random_next(&random);
}

static void transfers(void **state)
{
    static const uint64_t features[] = { 0, 1ull << DP_VIRTIO_F_RING_INDIRECT | 1ull << F_FLUSH, ALL_FEATURES };
    for (unsigned f = 0; f < DP_ARRAY_LEN(features); f++) {
        struct rig r;
        rig_init(&r, false);
        struct dp_error e = { 0 };
        driver_start(&r.d, features[f], 64, f & 1);
        bool indirect = r.d.features >> DP_VIRTIO_F_RING_INDIRECT & 1;
        struct buffer v[40];
        uint8_t disk[65536];
        fill(&r, r.data, 65536, 1 + f);
        for (unsigned round = 0; round < 50; round++) { /* pieces of odd lengths, scattered in reverse; 512 * 20 bytes in all */
            unsigned n = 1 + round % 20, left = 512 * 20;
            for (unsigned i = 0; i < n; i++) {
                v[i] = (struct buffer){ r.data + (n - i - 1) * 12000 + i, i + 1 == n ? left : 100 + 13 * i, false };
                left -= v[i].length;
            }
            assert_int_equal(request(&r, T_OUT, round * 2, v, n, indirect), 0);
            file_read(&r, disk, 512 * 20, round * 1024);
            unsigned at = 0;
            for (unsigned i = 0; i < n; at += v[i++].length)
                assert_memory_equal(disk + at, guest(&r.bus, v[i].address), v[i].length);
            for (unsigned i = 0; i < n; i++) {
                v[i].write = true;
                v[i].address += 300000;
                memset(guest(&r.bus, v[i].address), 0, v[i].length);
            }
            assert_ok(dp_space_dirty_start(r.bus.w.env.memory, 1, &e), e);
            static uint64_t dirty[RAM_SIZE / 4096 / 64];
            dp_space_dirty_harvest(r.bus.w.env.memory, 1, r.bus.w.ram, dirty);
            assert_int_equal(request(&r, T_IN, round * 2, v, n, indirect), 0);
            dp_space_dirty_harvest(r.bus.w.env.memory, 1, r.bus.w.ram, dirty);
            at = 0;
            for (unsigned i = 0; i < n; at += v[i++].length) {
                assert_memory_equal(disk + at, guest(&r.bus, v[i].address), v[i].length);
                uint64_t first = v[i].address / 4096, last = (v[i].address + v[i].length - 1) / 4096;
                assert_true(dirty[first / 64] >> first % 64 & 1 && dirty[last / 64] >> last % 64 & 1);
            }
        }
        assert_int_equal(request(&r, T_FLUSH, 0, v, 0, indirect), 0);
        rig_fini(&r);
    }
}

/* The header in three pieces, data sharing descriptors with header and status byte: legal since version 1. */
static void any_layout(void **state)
{
    struct rig r;
    rig_init(&r, false);
    driver_start(&r.d, 0, 16, false);
    fill(&r, r.data + 9, 512, 9);
    set_header(&r, 0, T_OUT, 7);
    memcpy(guest(&r.bus, r.data), guest(&r.bus, r.header + 7), 9); /* the header's tail, right before the data */
    struct buffer v[] = { { r.header, 3, false }, { r.header + 3, 4, false }, { r.data, 9 + 512, false }, { r.status, 1, true } };
    ring_add(&r.d, 0, v, 4, false);
    ring_kick(&r.d, 0);
    dp_block_drain(r.block);
    assert_int_equal(ring_used(&r.d, 0, NULL), 0);
    assert_int_equal(*guest(&r.bus, r.status), 0);
    uint8_t disk[512];
    file_read(&r, disk, 512, 7 * 512);
    assert_memory_equal(disk, guest(&r.bus, r.data + 9), 512);
    set_header(&r, 0, T_IN, 7);
    struct buffer in[] = { { r.header, 16, false }, { r.data + 4096, 100, true }, { r.data + 8192, 413, true } };
    unsigned head = ring_add(&r.d, 0, in, 3, false);
    ring_kick(&r.d, 0);
    dp_block_drain(r.block);
    assert_int_equal(ring_used(&r.d, 0, NULL), head);
    assert_memory_equal(disk, guest(&r.bus, r.data + 4096), 100);
    assert_memory_equal(disk + 100, guest(&r.bus, r.data + 8192), 412);
    assert_int_equal(*guest(&r.bus, r.data + 8192 + 412), 0);
    rig_fini(&r);
}

static unsigned range_request(struct rig *r, uint32_t type, uint64_t sector, uint32_t count, uint32_t flags)
{
    uint8_t *p = guest(&r->bus, r->data);
    dp_st64(p, sector);
    dp_st32(p + 8, count);
    dp_st32(p + 12, flags);
    struct buffer v = { r->data, 16, false };
    return request(r, type, 0, &v, 1, false);
}

static void ranges(void **state)
{
    struct rig r;
    rig_init(&r, false);
    driver_start(&r.d, ALL_FEATURES, 0, false);
    static uint8_t disk[65536], zeros[65536];
    struct buffer v = { r.data + 4096, 65536, false };
    fill(&r, r.data + 4096, 65536, 3);
    for (unsigned round = 0; round < 3; round++) {
        assert_int_equal(request(&r, T_OUT, 0, &v, 1, false), 0);
        assert_int_equal(range_request(&r, round ? T_WRITE_ZEROES : T_DISCARD, 8, 16, round == 2), 0);
        file_read(&r, disk, sizeof(disk), 0);
        assert_memory_equal(disk, guest(&r.bus, r.data + 4096), 4096);
        assert_memory_equal(disk + 4096, zeros, 8192);
        assert_memory_equal(disk + 12288, guest(&r.bus, r.data + 4096 + 12288), 4096);
    }
    assert_int_equal(range_request(&r, T_DISCARD, 8, 16, 1), 2); /* unmap means nothing in a discard */
    assert_int_equal(range_request(&r, T_WRITE_ZEROES, 8, 16, 2), 2);
    assert_int_equal(range_request(&r, T_DISCARD, DISK_SIZE / 512, 1, 0), 1);
    assert_int_equal(range_request(&r, T_DISCARD, ~0ull, 2, 0), 1);
    assert_int_equal(range_request(&r, T_WRITE_ZEROES, 0, 0xffffffff, 0), 1);
    assert_int_equal(range_request(&r, T_DISCARD, 0, 0, 0), 0);
    struct buffer two = { r.data, 32, false };
    assert_int_equal(request(&r, T_DISCARD, 0, &two, 1, false), 1);
    assert_int_equal(driver_status(&r.d), 15);
    rig_fini(&r);
}

static void errors(void **state)
{
    struct rig r;
    rig_init(&r, false);
    driver_start(&r.d, ALL_FEATURES, 0, false);
    struct buffer in = { r.data, 512, true }, out = { r.data, 512, false }, odd = { r.data, 511, true };
    assert_int_equal(request(&r, T_IN, DISK_SIZE / 512 - 1, &in, 1, false), 0);
    assert_int_equal(request(&r, T_IN, DISK_SIZE / 512, &in, 1, false), 1);
    assert_int_equal(request(&r, T_OUT, DISK_SIZE / 512, &out, 1, false), 1);
    assert_int_equal(request(&r, T_IN, ~0ull, &in, 1, false), 1);
    assert_int_equal(request(&r, T_IN, 1ull << 55, &in, 1, false), 1);
    assert_int_equal(request(&r, T_IN, 0, &odd, 1, false), 1);
    struct buffer huge[60];
    for (unsigned i = 0; i < 60; i++)
        huge[i] = (struct buffer){ r.data, 0xfffffe00, true };
    assert_int_equal(request(&r, T_IN, 0, huge, 60, true), 1);
    assert_int_equal(driver_status(&r.d), 15);

    /* No room for the status byte, or no header: nothing sensible can be said. */
    struct buffer no_status[] = { { r.header, 16, false } }, no_header[] = { { r.status, 1, true } };
    struct buffer short_header[] = { { r.header, 15, false }, { r.status, 1, true } };
    const struct { const struct buffer *v; unsigned n; } bad[] = { { no_status, 1 }, { no_header, 1 }, { short_header, 2 } };
    for (unsigned i = 0; i < 3; i++) {
        driver_start(&r.d, ALL_FEATURES, 0, false);
        ring_add(&r.d, 0, bad[i].v, bad[i].n, false);
        ring_kick(&r.d, 0);
        assert_int_equal(driver_status(&r.d), 15 | DP_VIRTIO_NEEDS_RESET);
    }
    /* Buffers that are no RAM, some after good ones: pins must be given back. */
    const uint64_t places[] = { NO_DEVICE_HERE, r.d.common, ECAM_BASE, ROM_BASE, RAM_SIZE - 100, ~0ull - 100 };
    for (unsigned i = 0; i < DP_ARRAY_LEN(places); i++) {
        driver_start(&r.d, ALL_FEATURES, 0, false);
        struct buffer v[] = { { r.data, 1024, true }, { places[i], 512, true } };
        submit(&r, 0, T_IN, 0, v, 2, false);
        dp_block_drain(r.block);
        assert_int_equal(driver_status(&r.d), 15 | DP_VIRTIO_NEEDS_RESET);
    }
    /* The status byte elsewhere; the request itself is fine. */
    driver_start(&r.d, ALL_FEATURES, 0, false);
    set_header(&r, 0, T_IN, 0);
    struct buffer v[] = { { r.header, 16, false }, { r.data, 512, true }, { NO_DEVICE_HERE, 1, true } };
    ring_add(&r.d, 0, v, 3, false);
    ring_kick(&r.d, 0);
    dp_block_drain(r.block);
    assert_int_equal(driver_status(&r.d), 15 | DP_VIRTIO_NEEDS_RESET);
    driver_start(&r.d, ALL_FEATURES, 0, false);
    assert_int_equal(request(&r, T_IN, 0, &in, 1, false), 0);
    /* The same request again and again: more in flight than the queue holds. */
    submit(&r, 0, T_IN, 0, &in, 1, false);
    for (unsigned i = 0; i < 300; i++) {
        ring_offer(&r.d, 0, r.d.ring[0].free - 3);
        ring_kick(&r.d, 0);
    }
    assert_int_equal(driver_status(&r.d), 15 | DP_VIRTIO_NEEDS_RESET);
    rig_fini(&r);
}

/* Several queues, larger blocks, the write cache as the driver wants it, another size. */
static void settings(void **state)
{
    struct rig r;
    struct dp_error e = { 0 };
    rig_init(&r, false);
    dp_device_free(r.adapter);
    struct dp_device *child = dp_device_alloc(&dp_virtio_blk_class, "disk", &r.bus.w.env);
    dp_virtio_blk_attach(child, r.block);
    assert_true(dp_device_set(child, "queues", "9", &e) < 0 && dp_device_set(child, "block", "1024", &e) < 0);
    assert_ok(dp_device_set(child, "queues", "3", &e), e);
    assert_ok(dp_device_set(child, "block", "4096", &e), e);
    assert_ok(dp_device_set(child, "cache", "writethrough", &e), e);
    r.adapter = bus_plug(&r.bus, child, 4);
    driver_probe(&r.d, &r.bus, 4, 2);
    driver_start(&r.d, ALL_FEATURES, 0, true);
    struct dp_space *m = r.bus.w.env.memory;
    assert_int_equal(r.d.queues, 3);
    assert_true(r.d.features >> F_MQ & 1 && r.d.features >> F_CONFIG_WCE & 1);
    assert_int_equal(dp_space_load(m, r.d.config + 34, 2), 3);
    assert_int_equal(dp_space_load(m, r.d.config + 20, 4), 4096);
    assert_int_equal(dp_space_load(m, r.d.config + 24, 1), 0);
    assert_int_equal(dp_space_load(m, r.d.config + 32, 1), 0);
    dp_space_store(m, r.d.config + 32, 1, 1);
    assert_int_equal(dp_space_load(m, r.d.config + 32, 1), 1);
    struct buffer v = { r.data, 4096, true };
    for (unsigned q = 0; q < 3; q++) {
        struct buffer b[] = { { r.header, 16, false }, v, { r.status, 1, true } };
        set_header(&r, 0, T_IN, 8 * q);
        unsigned head = ring_add(&r.d, q, b, 3, false);
        ring_kick(&r.d, q);
        dp_block_drain(r.block);
        assert_int_equal(ring_used(&r.d, q, NULL), head);
        assert_int_equal(*guest(&r.bus, r.status), 0);
        assert_int_equal(r.bus.msi_count[q], 1);
    }
    assert_int_equal(request(&r, T_IN, 1, &v, 1, false), 1); /* not at a block */
    v.length = 512;
    assert_int_equal(request(&r, T_IN, 0, &v, 1, false), 1);
    unsigned generation = reg_read(&r.d, C_GENERATION, 1);
    dp_virtio_blk_resized(child);
    assert_int_equal(reg_read(&r.d, C_GENERATION, 1), generation + 1);
    assert_int_equal(r.bus.msi_count[3], 1);
    driver_reset(&r.d);
    assert_int_equal(dp_space_load(m, r.d.config + 32, 1), 0);
    rig_fini(&r);
}

static void readonly(void **state)
{
    struct rig r;
    rig_init(&r, true);
    driver_start(&r.d, ALL_FEATURES, 0, false);
    assert_true(r.d.features >> F_RO & 1);
    assert_false(r.d.features >> F_DISCARD & 1 || r.d.features >> F_WRITE_ZEROES & 1);
    struct buffer in = { r.data, 512, true }, out = { r.data, 512, false };
    assert_int_equal(request(&r, T_IN, 0, &in, 1, false), 0);
    assert_int_equal(request(&r, T_OUT, 0, &out, 1, false), 1);
    assert_int_equal(range_request(&r, T_DISCARD, 0, 8, 0), 1);
    assert_int_equal(range_request(&r, T_WRITE_ZEROES, 0, 8, 0), 1);
    assert_int_equal(request(&r, T_FLUSH, 0, NULL, 0, false), 0);
    rig_fini(&r);
}

/* The driver resets while requests are in flight: status says so until the last is back, and the old rings stay untouched. */
static void reset_in_flight(void **state)
{
    struct rig r;
    rig_init(&r, false);
    driver_start(&r.d, ALL_FEATURES, 0, false);
    struct buffer v = { r.data, 4096, true };
    for (unsigned i = 0; i < 10; i++)
        submit(&r, i, T_IN, 8 * i, &v, 1, false);
    uint64_t used = r.d.ring[0].used, avail = r.d.ring[0].avail;
    reg_write(&r.d, C_STATUS, 0, 1);
    assert_int_not_equal(driver_status(&r.d), 0);
    dp_st16(guest(&r.bus, avail + 2), 11); /* nothing new is taken, and nothing is written to registers */
    ring_kick(&r.d, 0);
    reg_write(&r.d, C_STATUS, 15, 1);
    dp_block_drain(r.block);
    assert_int_equal(driver_status(&r.d), 0);
    assert_int_equal(dp_ld16(guest(&r.bus, used + 2)), 0);
    assert_false(r.bus.line[dp_pci_gsi(4, 1) - 16]);
    driver_start(&r.d, ALL_FEATURES, 0, false);
    assert_int_equal(request(&r, T_IN, 0, &v, 1, false), 0);

    /* The machine's reset waits itself. */
    for (unsigned i = 0; i < 10; i++)
        submit(&r, i, T_IN, 8 * i, &v, 1, false);
    dp_device_reset(r.adapter);
    driver_probe(&r.d, &r.bus, 4, 2);
    driver_start(&r.d, ALL_FEATURES, 0, false);
    assert_int_equal(request(&r, T_IN, 0, &v, 1, false), 0);
    /* Unplugged and freed with requests in flight. */
    for (unsigned i = 0; i < 10; i++)
        submit(&r, i, T_OUT, 8 * i, &(struct buffer){ r.data, 4096, false }, 1, false);
    rig_fini(&r);
}

static void pause_and_restore(void **state)
{
    struct rig r;
    rig_init(&r, false);
    struct dp_error e = { 0 };
    driver_start(&r.d, ALL_FEATURES, 0, true);
    struct buffer v = { r.data, 4096, false };
    fill(&r, r.data, 4096, 5);
    for (unsigned i = 0; i < 10; i++)
        submit(&r, i, T_OUT, 8 * i, &v, 1, false);
    dp_device_pause(r.adapter); /* all ten are done */
    for (unsigned i = 0; i < 10; i++) {
        assert_true(ring_used(&r.d, 0, NULL) >= 0);
        assert_int_equal(*guest(&r.bus, r.status + i), 0);
    }
    submit(&r, 20, T_OUT, 200, &v, 1, false); /* held */
    dp_block_drain(r.block);
    assert_int_equal(ring_used(&r.d, 0, NULL), -1);

    struct dp_buffer image = { 0 };
    size_t used;
    dp_device_save(r.adapter, &image);
    dp_device_save(dp_virtio_pci_child(r.adapter), &image);
    dp_device_free(r.adapter);
    r.adapter = bus_plug(&r.bus, make_disk(&r), 4);
    dp_device_pause(r.adapter);
    assert_ok(dp_device_load(r.adapter, image.data, image.size, &used, &e), e);
    assert_ok(dp_device_load(dp_virtio_pci_child(r.adapter), image.data + used, image.size - used, NULL, &e), e);
    dp_buffer_fini(&image);
    dp_device_resume(r.adapter);
    dp_block_drain(r.block);
    assert_true(ring_used(&r.d, 0, NULL) >= 0);
    assert_int_equal(*guest(&r.bus, r.status + 20), 0);
    uint8_t disk[4096];
    file_read(&r, disk, 4096, 200 * 512);
    assert_memory_equal(disk, guest(&r.bus, r.data), 4096);
    v.write = true;
    assert_int_equal(request(&r, T_IN, 0, &v, 1, true), 0);
    rig_fini(&r);
}

/* With the loop in its own thread, as in a VM; the guest polls. */
static void *loop_thread(void *opaque)
{
    dp_loop_run(opaque);
    return NULL;
}

static void with_loop(void **state)
{
    struct rig r;
    struct dp_error e = { 0 };
    struct dp_loop *l;
    rig_init(&r, false);
    dp_device_free(r.adapter);
    dp_block_close(r.block);
    assert_ok(dp_loop_create(&l, &e), e);
    pthread_t t;
    pthread_create(&t, NULL, loop_thread, l);
    assert_ok(dp_block_open(l, &(struct dp_block_options){ .path = r.path }, &r.block, &e), e);
    r.adapter = bus_plug(&r.bus, make_disk(&r), 4);
    driver_probe(&r.d, &r.bus, 4, 2);
    driver_start(&r.d, ALL_FEATURES, 0, true);
    struct buffer v = { r.data, 4096, true };
    unsigned done = 0, sent = 0;
    while (done < 2000) {
        for (; sent < 2000 && sent - done < 40; sent++)
            submit(&r, sent % 64, T_IN, 8 * (sent % 64), &v, 1, true);
        while (__atomic_load_n((uint16_t *)guest(&r.bus, r.d.ring[0].used + 2), __ATOMIC_ACQUIRE) == r.d.ring[0].seen)
            ;
        assert_true(ring_used(&r.d, 0, NULL) >= 0);
        done++;
        if (done % 500 == 0) {
            dp_device_pause(r.adapter);
            dp_device_resume(r.adapter);
        }
    }
    dp_device_free(r.adapter);
    dp_block_close(r.block);
    dp_loop_stop(l);
    pthread_join(t, NULL);
    dp_loop_destroy(l);
    unlink(r.path);
    bus_fini(&r.bus);
}

static struct dp_device *make_for_conformance(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = { 0 };
    struct dp_device *d = dp_device_alloc(&dp_virtio_blk_class, "disk", env);
    dp_virtio_blk_attach(d, opaque);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static uint64_t poke(struct dp_device *d, struct dp_random *random)
{
    struct dp_virtio *v = dp_virtio_of(d);
    uint64_t pick = dp_random_next(random), config = 0;
    dp_virtio_lock(v);
    switch (pick % 5) {
    case 0: dp_virtio_set_status(v, pick >> 8 & 3 ? pick >> 16 & 0xff : 0); break;
    case 1: dp_virtio_notify(v, pick >> 8); break;
    case 2: dp_virtio_enable_queue(v, 0); break;
    case 3: v->regs->driver_features = pick >> 8 & 1 ? 1ull << 32 : pick; break;
    default: v->vclass->config_read(v, pick % 52, &config, 8); break;
    }
    uint64_t status = v->regs->status;
    dp_virtio_unlock(v);
    return config ^ status << 56;
}

static void conformance(void **state)
{
    struct rig r;
    rig_init(&r, false);
    const struct conformance c = { .make = make_for_conformance, .opaque = r.block, .poke = poke };
    conformance_check(&c);
    rig_fini(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity), cmocka_unit_test(transfers), cmocka_unit_test(any_layout), cmocka_unit_test(ranges),
        cmocka_unit_test(errors),
        cmocka_unit_test(settings), cmocka_unit_test(readonly), cmocka_unit_test(reset_in_flight), cmocka_unit_test(pause_and_restore), cmocka_unit_test(with_loop),
        cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("virtio-blk", tests, NULL, NULL);
}
