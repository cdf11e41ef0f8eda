/* virtio_driver.h - the guest's side of virtio for tests: a small driver that finds a device through PCI configuration space, sizes and
 * places its BARs, negotiates, sets up split queues in guest memory and does requests, as a real one does. All accesses go through the
 * spaces.
 */
#ifndef DP_TESTS_VIRTIO_DRIVER_H
#define DP_TESTS_VIRTIO_DRIVER_H

#include "devices/pci/pci.h"
#include "devices/virtio/virtio.h"
#include "tests/device/conformance.h"

#define RAM_SIZE (16u << 20)
#define NO_DEVICE_HERE 0x50000000u /* an address with nothing behind it */
#define ROM_BASE 0x60000000u
#define PORT_CONFIG 0xcf8
#define ECAM_BASE 0xb0000000u
#define MSI_BASE 0xfee00000u

enum { D_NEXT = 1, D_WRITE = 2, D_INDIRECT = 4 };
enum { C_DEVICE_FEATURE_SELECT = 0, C_DEVICE_FEATURE = 4, C_DRIVER_FEATURE_SELECT = 8, C_DRIVER_FEATURE = 12, C_CONFIG_VECTOR = 16,
       C_NUM_QUEUES = 18, C_STATUS = 20, C_GENERATION = 21, C_QUEUE_SELECT = 22, C_QUEUE_SIZE = 24, C_QUEUE_VECTOR = 26,
       C_QUEUE_ENABLE = 28, C_QUEUE_NOTIFY_OFF = 30,
       C_QUEUE_DESC = 32, C_QUEUE_AVAIL = 40, C_QUEUE_USED = 48 };

/* ---- a machine with a PCI bus ---- */

struct bus {
    struct conformance_world w;
    struct dp_ram *rom;
    struct dp_device *host;
    bool line[8];
    unsigned line_changes;
    unsigned msi_count[DP_PCI_MSIX_MAX]; /* by data */
    uint64_t msi_address;
    unsigned resets;
    uint32_t next_bar;
    uint64_t next_page; /* guest memory the driver has not used yet */
};

static inline void bus_line(void *opaque, unsigned n, bool level)
{
    struct bus *b = opaque;
    b->line_changes += b->line[n] != level;
    b->line[n] = level;
}
static inline void bus_msi(void *opaque, uint64_t address, uint32_t data)
{
    struct bus *b = opaque;
    b->msi_address = address;
    if (data < DP_ARRAY_LEN(b->msi_count))
        b->msi_count[data]++;
}
static inline void bus_request(void *opaque, enum dp_vm_request r, int status) { ((struct bus *)opaque)->resets += r == DP_VM_RESET; }

static inline void bus_init(struct bus *b)
{
    struct dp_error e = { 0 };
    memset(b, 0, sizeof(*b));
    conformance_world_init(&b->w);
    b->w.env.msi = (struct dp_msi_sink){ bus_msi, b };
    b->w.env.vm = (struct dp_vm_sink){ bus_request, b };
    assert_ok(dp_ram_create("rom", 0x10000, &b->rom, &e), e);
    assert_ok(dp_space_map_ram(b->w.env.memory, ROM_BASE, b->rom, 0, 0x10000, true, 0, NULL, &e), e);
    b->host = dp_device_alloc(&dp_pci_host_class, "pci", &b->w.env);
    struct dp_irq gsi[8];
    for (unsigned i = 0; i < 8; i++)
        gsi[i] = (struct dp_irq){ bus_line, b, i };
    dp_pci_host_wire(b->host, gsi);
    assert_ok(dp_device_init(b->host, &e), e);
    assert_ok(dp_device_map(b->host, DP_PCI_WINDOW_PORTS, PORT_CONFIG, &e), e);
    assert_ok(dp_device_map(b->host, DP_PCI_WINDOW_ECAM, ECAM_BASE, &e), e);
    b->next_bar = 0xe0000000;
    b->next_page = 0x100000;
}

static inline void bus_fini(struct bus *b)
{
    dp_device_free(b->host);
    struct dp_ram *rom = b->rom;
    conformance_world_fini(&b->w);
    dp_ram_destroy(rom);
}

static inline uint32_t config_read(struct bus *b, unsigned slot, unsigned reg, unsigned size)
{
    dp_space_store(b->w.env.ports, PORT_CONFIG, 0x80000000u | slot << 11 | (reg & 0xfc), 4);
    return dp_space_load(b->w.env.ports, PORT_CONFIG + 4 + (reg & 3), size);
}
static inline void config_write(struct bus *b, unsigned slot, unsigned reg, uint32_t value, unsigned size)
{
    dp_space_store(b->w.env.ports, PORT_CONFIG, 0x80000000u | slot << 11 | (reg & 0xfc), 4);
    dp_space_store(b->w.env.ports, PORT_CONFIG + 4 + (reg & 3), value, size);
}

static inline uint64_t guest_alloc(struct bus *b, uint64_t size)
{
    uint64_t at = b->next_page;
    b->next_page += DP_ALIGN_UP(size, 4096ull);
    assert_true(b->next_page <= RAM_SIZE);
    return at;
}
static inline uint8_t *guest(struct bus *b, uint64_t at) { return b->w.ram->host + at; }

/* Plugs a concrete device into a slot; returns the adapter. */
static inline struct dp_device *bus_plug(struct bus *b, struct dp_device *child, unsigned slot)
{
    struct dp_error e = { 0 };
    assert_ok(dp_device_init(child, &e), e);
    struct dp_device *a = dp_virtio_pci_create("virtio", &b->w.env, child, dp_virtio_of(child), &e);
    assert_non_null(a);
    assert_ok(dp_pci_plug(dp_pci_host_of(b->host), dp_virtio_pci_function(a), slot, &e), e);
    return a;
}

/* ---- the driver ---- */

struct ring {
    uint64_t desc, avail, used, indirect; /* indirect: a table per descriptor, 64 entries each */
    unsigned size;
    uint16_t added, seen;
    unsigned free; /* descriptors are handed out round robin: tests never have more than fit */
    uint64_t notify;
};

struct driver {
    struct bus *bus;
    unsigned slot;
    uint64_t bar[6], common, isr, config, notify;
    uint32_t multiplier;
    unsigned msix_cap, access_cap;
    uint64_t features;
    unsigned queues;
    struct ring ring[DP_VIRTIO_QUEUES];
};

static inline uint64_t reg_read(struct driver *d, unsigned reg, unsigned size)
{
    return dp_space_load(d->bus->w.env.memory, d->common + reg, size);
}
static inline void reg_write(struct driver *d, unsigned reg, uint64_t value, unsigned size)
{
    dp_space_store(d->bus->w.env.memory, d->common + reg, value, size);
}
static inline uint8_t driver_status(struct driver *d) { return reg_read(d, C_STATUS, 1); }
static inline uint8_t driver_isr(struct driver *d) { return dp_space_load(d->bus->w.env.memory, d->isr, 1); }

static inline void driver_place_bars(struct driver *d)
{
    struct bus *b = d->bus;
    for (unsigned i = 0; i < 6; i++) {
        unsigned reg = 0x10 + i * 4;
        config_write(b, d->slot, reg, 0xffffffff, 4);
        uint32_t mask = config_read(b, d->slot, reg, 4);
        if (!mask)
            continue;
        assert_false(mask & 1);
        uint32_t size = ~(mask & ~15u) + 1;
        b->next_bar = DP_ALIGN_UP(b->next_bar, size);
        config_write(b, d->slot, reg, b->next_bar, 4);
        d->bar[i] = b->next_bar;
        b->next_bar += size;
        if ((mask & 6) == 4) {
            config_write(b, d->slot, reg + 4, 0xffffffff, 4);
            assert_int_equal(config_read(b, d->slot, reg + 4, 4), 0xffffffff);
            config_write(b, d->slot, reg + 4, 0, 4);
            i++;
        }
    }
}

/* Finds the device and its register blocks; true when it is there. */
static inline void driver_probe(struct driver *d, struct bus *b, unsigned slot, unsigned device_id)
{
    memset(d, 0, sizeof(*d));
    d->bus = b;
    d->slot = slot;
    assert_int_equal(config_read(b, slot, 0, 4), 0x1af4 | (0x1040 + device_id) << 16);
    assert_true(config_read(b, slot, 8, 1) >= 1);
    assert_true(config_read(b, slot, 6, 2) & 0x10);
    config_write(b, slot, 4, 0, 2);
    driver_place_bars(d);
    config_write(b, slot, 4, 0x6, 2);
    unsigned found = 0, hops = 0;
    for (unsigned cap = config_read(b, slot, 0x34, 1); cap; cap = config_read(b, slot, cap + 1, 1)) {
        assert_true(++hops < 20 && cap >= 0x40 && !(cap & 3));
        unsigned id = config_read(b, slot, cap, 1);
        if (id == 0x11)
            d->msix_cap = cap;
        if (id != 9)
            continue;
        unsigned type = config_read(b, slot, cap + 3, 1), bar = config_read(b, slot, cap + 4, 1);
        uint64_t at = d->bar[bar] + config_read(b, slot, cap + 8, 4);
        assert_true(config_read(b, slot, cap + 2, 1) >= 16);
        found |= 1u << type;
        switch (type) {
        case 1: d->common = at; assert_true(config_read(b, slot, cap + 12, 4) >= 56); break;
        case 2: d->notify = at; d->multiplier = config_read(b, slot, cap + 16, 4); break;
        case 3: d->isr = at; break;
        case 4: d->config = at; break;
        case 5: d->access_cap = cap; break;
        }
    }
    assert_int_equal(found & 0x2e, 0x2e);
}

static inline void driver_reset(struct driver *d)
{
    reg_write(d, C_STATUS, 0, 1);
    memset(d->ring, 0, sizeof(d->ring));
}

/* Up to FEATURES_OK; wanted is masked with what is offered. */
static inline void driver_negotiate(struct driver *d, uint64_t wanted)
{
    driver_reset(d);
    assert_int_equal(driver_status(d), 0);
    reg_write(d, C_STATUS, 1, 1);
    reg_write(d, C_STATUS, 3, 1);
    uint64_t offered = 0;
    for (unsigned i = 0; i < 2; i++) {
        reg_write(d, C_DEVICE_FEATURE_SELECT, i, 4);
        offered |= reg_read(d, C_DEVICE_FEATURE, 4) << i * 32;
    }
    d->features = offered & (wanted | 1ull << DP_VIRTIO_F_VERSION_1);
    for (unsigned i = 0; i < 2; i++) {
        reg_write(d, C_DRIVER_FEATURE_SELECT, i, 4);
        reg_write(d, C_DRIVER_FEATURE, d->features >> i * 32, 4);
    }
    reg_write(d, C_STATUS, 11, 1);
    assert_int_equal(driver_status(d), 11);
    d->queues = reg_read(d, C_NUM_QUEUES, 2);
}

/* size 0: as offered. */
static inline void driver_queue(struct driver *d, unsigned n, unsigned size)
{
    struct ring *r = &d->ring[n];
    reg_write(d, C_QUEUE_SELECT, n, 2);
    assert_int_equal(reg_read(d, C_QUEUE_ENABLE, 2), 0);
    if (size)
        reg_write(d, C_QUEUE_SIZE, size, 2);
    r->size = reg_read(d, C_QUEUE_SIZE, 2);
    assert_true(r->size && (!size || r->size == size));
    r->desc = guest_alloc(d->bus, r->size * 16);
    r->avail = guest_alloc(d->bus, 6 + 2 * r->size);
    r->used = guest_alloc(d->bus, 6 + 8 * r->size);
    r->indirect = guest_alloc(d->bus, r->size * 64 * 16);
    memset(guest(d->bus, r->avail), 0, 6 + 2 * r->size);
    memset(guest(d->bus, r->used), 0, 6 + 8 * r->size);
    uint64_t at[] = { r->desc, r->avail, r->used };
    for (unsigned i = 0; i < 3; i++) {
        reg_write(d, C_QUEUE_DESC + i * 8, (uint32_t)at[i], 4);
        reg_write(d, C_QUEUE_DESC + i * 8 + 4, at[i] >> 32, 4);
    }
    r->notify = d->notify + reg_read(d, C_QUEUE_NOTIFY_OFF, 2) * d->multiplier;
    reg_write(d, C_QUEUE_ENABLE, 1, 2);
    assert_int_equal(reg_read(d, C_QUEUE_ENABLE, 2), 1);
}

/* Vector n for queue n, the one after the queues for configuration changes; message data is the vector. */
static inline void driver_msix(struct driver *d)
{
    struct bus *b = d->bus;
    uint64_t table = d->bar[config_read(b, d->slot, d->msix_cap + 4, 4) & 7];
    assert_int_equal((config_read(b, d->slot, d->msix_cap + 2, 2) & 0x7ff) + 1, d->queues + 1);
    config_write(b, d->slot, d->msix_cap + 2, 0x8000, 2);
    for (unsigned i = 0; i <= d->queues; i++) {
        dp_space_store(b->w.env.memory, table + i * 16, MSI_BASE, 4);
        dp_space_store(b->w.env.memory, table + i * 16 + 4, 0, 4);
        dp_space_store(b->w.env.memory, table + i * 16 + 8, i, 4);
        dp_space_store(b->w.env.memory, table + i * 16 + 12, 0, 4);
    }
    reg_write(d, C_CONFIG_VECTOR, d->queues, 2);
    assert_int_equal(reg_read(d, C_CONFIG_VECTOR, 2), d->queues);
    for (unsigned i = 0; i < d->queues; i++) {
        reg_write(d, C_QUEUE_SELECT, i, 2);
        reg_write(d, C_QUEUE_VECTOR, i, 2);
        assert_int_equal(reg_read(d, C_QUEUE_VECTOR, 2), i);
    }
}

/* The whole initialisation. */
static inline void driver_start(struct driver *d, uint64_t wanted, unsigned queue_size, bool msix)
{
    driver_negotiate(d, wanted);
    for (unsigned i = 0; i < d->queues; i++)
        driver_queue(d, i, queue_size);
    if (msix)
        driver_msix(d);
    reg_write(d, C_STATUS, 15, 1);
    assert_int_equal(driver_status(d), 15);
}

struct buffer { uint64_t address; uint32_t length; bool write; };

static inline void set_descriptor(struct bus *b, uint64_t table, unsigned i, uint64_t address, uint32_t length, unsigned flags,
                                  unsigned next)
{
    uint8_t *p = guest(b, table + i * 16);
    dp_st64(p, address);
    dp_st32(p + 8, length);
    dp_st16(p + 12, flags);
    dp_st16(p + 14, next);
}

static inline void ring_offer(struct driver *d, unsigned queue, uint16_t head)
{
    struct ring *r = &d->ring[queue];
    dp_st16(guest(d->bus, r->avail + 4 + 2 * (r->added % r->size)), head);
    __atomic_store_n((uint16_t *)guest(d->bus, r->avail + 2), ++r->added, __ATOMIC_SEQ_CST);
}

/* Adds a request without a kick; returns its head. */
static inline unsigned ring_add(struct driver *d, unsigned queue, const struct buffer *v, unsigned n, bool indirect)
{
    struct ring *r = &d->ring[queue];
    unsigned head = r->free % r->size;
    for (unsigned i = 0; i < n; i++) {
        unsigned flags = (v[i].write ? D_WRITE : 0) | (i + 1 < n ? D_NEXT : 0);
        if (indirect)
            set_descriptor(d->bus, r->indirect + head * 64 * 16, i, v[i].address, v[i].length, flags, i + 1);
        else
            set_descriptor(d->bus, r->desc, (head + i) % r->size, v[i].address, v[i].length, flags, (head + i + 1) % r->size);
    }
    if (indirect)
        set_descriptor(d->bus, r->desc, head, r->indirect + head * 64 * 16, n * 16, D_INDIRECT, 0);
    r->free += indirect ? 1 : n;
    ring_offer(d, queue, head);
    return head;
}

static inline void ring_kick(struct driver *d, unsigned queue)
{
    struct ring *r = &d->ring[queue];
    dp_space_store(d->bus->w.env.memory, r->notify, queue, 2);
}

/* Takes the next used entry; -1 when there is none. */
static inline int ring_used(struct driver *d, unsigned queue, uint32_t *length)
{
    struct ring *r = &d->ring[queue];
    if (dp_ld16(guest(d->bus, r->used + 2)) == r->seen)
        return -1;
    const uint8_t *p = guest(d->bus, r->used + 4 + 8 * (r->seen % r->size));
    r->seen++;
    if (length)
        *length = dp_ld32(p + 4);
    if (d->features >> DP_VIRTIO_F_RING_EVENT_IDX & 1) /* interrupt me at the next one */
        __atomic_store_n((uint16_t *)guest(d->bus, r->avail + 4 + 2 * r->size), r->seen, __ATOMIC_RELEASE);
    return dp_ld32(p);
}

#endif
