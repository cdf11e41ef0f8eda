/* fuzz_virtio.c - a hostile driver: bytes become what lies in guest memory and accesses to four virtio devices.
 *
 * Input: a byte per operation and its operands (see `operation`). Offsets and addresses are steered towards what exists, else nearly every
 * input would die at the first check. The disk is a sparse temporary file without a loop; each operation ends with a drain, or not.
 * The console's back end is a fake that takes as many bytes as the input says.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/block.h"
#include "console/console.h"
#include "devices/pci/pci.h"
#include "devices/virtio/virtio_balloon.h"
#include "tests/fuzz/input.h"

#define RAM_SIZE (1u << 20)
#define BAR_BASE 0xe0000000u
#define ECAM_BASE 0xb0000000u
#define ROM_BASE 0x60000000u
#define RINGS 0x1000u /* device i has its rings at RINGS + i * 0x8000 */
enum { DEVICES = 4, BALLOON = 3, OPERATIONS_MAX = 400 };

struct dp_console { struct dp_console_client client; bool attached; uint8_t takes; };

void dp_console_attach(struct dp_console *c, const struct dp_console_client *client)
{
    c->attached = client;
    if (client)
        c->client = *client;
}

size_t dp_console_write(struct dp_console *c, const uint8_t *data, size_t n)
{
    volatile uint8_t last = n ? data[n - 1] : 0;
    (void)last;
    n = DP_MIN(n, c->takes);
    c->takes -= n;
    return n;
}

void dp_console_kick(struct dp_console *c) {}

struct world {
    struct dp_device_env env;
    struct dp_ram *ram, *rom;
    struct dp_device *host, *adapter[DEVICES];
    unsigned second; /* queue of the balloon that has the second rings */
    struct dp_block *block;
    struct dp_console console;
    char path[40];
};

static void world_init(struct world *w)
{
    memset(w, 0, sizeof(*w));
    MUST(dp_clock_create_manual(&w->env.clock, NULL));
    MUST(dp_space_create("memory", 1ull << 40, NULL, &w->env.memory, NULL));
    MUST(dp_space_create("ports", 0x10000, NULL, &w->env.ports, NULL));
    MUST(dp_ram_create("ram", RAM_SIZE, &w->ram, NULL));
    MUST(dp_ram_create("rom", 0x1000, &w->rom, NULL));
    MUST(dp_space_map_ram(w->env.memory, 0, w->ram, 0, RAM_SIZE, false, 0, NULL, NULL));
    MUST(dp_space_map_ram(w->env.memory, ROM_BASE, w->rom, 0, 0x1000, true, 0, NULL, NULL));
    int fd = memfd_create("disk", MFD_CLOEXEC);
    snprintf(w->path, sizeof(w->path), "/proc/self/fd/%d", fd);
    MUST(fd < 0 || ftruncate(fd, 1 << 20));
    MUST(dp_block_open(NULL, &(struct dp_block_options){ .path = w->path, .io = DP_BLOCK_IO_THREADS }, &w->block, NULL));
    close(fd);
    w->host = dp_device_alloc(&dp_pci_host_class, "pci", &w->env);
    MUST(dp_device_init(w->host, NULL) || dp_device_map(w->host, DP_PCI_WINDOW_PORTS, 0xcf8, NULL) ||
         dp_device_map(w->host, DP_PCI_WINDOW_ECAM, ECAM_BASE, NULL));
    static const struct dp_device_class *const classes[DEVICES] = { &dp_virtio_blk_class, &dp_virtio_rng_class, &dp_virtio_console_class,
                                                               &dp_virtio_balloon_class };
    for (unsigned i = 0; i < DEVICES; i++) {
        struct dp_device *child = dp_device_alloc(classes[i], "device", &w->env);
        if (i == 0)
            dp_virtio_blk_attach(child, w->block);
        if (i == 2)
            dp_virtio_console_attach(child, &w->console);
        MUST(dp_device_init(child, NULL));
        w->adapter[i] = dp_virtio_pci_create("virtio", &w->env, child, dp_virtio_of(child), NULL);
        MUST(!w->adapter[i] || dp_pci_plug(dp_pci_host_of(w->host), dp_virtio_pci_function(w->adapter[i]), i + 1, NULL));
        uint64_t config = ECAM_BASE + (i + 1) * 0x8000;
        dp_space_store(w->env.memory, config + 0x10, BAR_BASE + i * 0x10000, 4);
        dp_space_store(w->env.memory, config + 0x18, BAR_BASE + i * 0x10000 + 0x8000, 4);
        dp_space_store(w->env.memory, config + 0x04, 6, 2);
    }
}

static void world_fini(struct world *w)
{
    for (unsigned i = 0; i < DEVICES; i++)
        dp_device_free(w->adapter[i]);
    dp_device_free(w->host);
    dp_block_close(w->block);
    dp_space_destroy(w->env.memory);
    dp_space_destroy(w->env.ports);
    dp_ram_destroy(w->ram);
    dp_ram_destroy(w->rom);
    dp_clock_destroy(w->env.clock);
}

/* An ordinary initialisation of a device, up to DRIVER_OK: queues of 16, features as the input says. */
static void bring_up(struct world *w, unsigned i, uint32_t features)
{
    struct dp_space *m = w->env.memory;
    uint64_t bar = BAR_BASE + i * 0x10000;
    static const uint8_t steps[] = { 0, 1, 3 };
    for (unsigned k = 0; k < 3; k++)
        dp_space_store(m, bar + 20, steps[k], 1);
    for (unsigned k = 0; k < 2; k++) {
        dp_space_store(m, bar, k, 4);
        uint32_t offered = dp_space_load(m, bar + 4, 4);
        dp_space_store(m, bar + 8, k, 4);
        dp_space_store(m, bar + 12, k ? 1 : offered & features, 4);
    }
    dp_space_store(m, bar + 20, 11, 1);
    for (unsigned q = 0; q < 2; q++) {
        uint64_t at = RINGS + i * 0x8000 + q * 0x4000;
        unsigned number = i == BALLOON && q ? w->second = 1 + (features >> 16) % 4 : q;
        dp_space_store(m, bar + 22, number, 2);
        dp_space_store(m, bar + 24, 16, 2);
        dp_space_store(m, bar + 32, at, 8);
        dp_space_store(m, bar + 40, at + 0x1000, 8);
        dp_space_store(m, bar + 48, at + 0x2000, 8);
        dp_space_store(m, bar + 28, 1, 2);
    }
    dp_space_store(m, bar + 20, 15, 1);
}

/* An address the input wants to point at something. */
static uint64_t place(struct input *in)
{
    unsigned kind = take(in, 1);
    uint32_t low = take(in, 2);
    switch (kind & 7) {
    case 0: return BAR_BASE + low;
    case 1: return ECAM_BASE + low;
    case 2: return ROM_BASE + low % 0x1800;
    case 3: return RAM_SIZE - low % 64;
    case 4: return ~0ull - low;
    case 5: return (uint64_t)low << 24;
    default: return low % RAM_SIZE + (kind >> 4) * 0x10000ull;
    }
}

static void operation(struct world *w, struct input *in)
{
    struct dp_space *m = w->env.memory;
    unsigned code = take(in, 1), i = (code >> 4) % DEVICES;
    uint64_t bar = BAR_BASE + i * 0x10000, rings = RINGS + i * 0x8000, at;
    unsigned queue = code >> 7, slot;
    switch (code & 15) {
    case 0: bring_up(w, i, take(in, 4)); break;
    case 1: /* a descriptor */
        slot = take(in, 1);
        at = rings + (slot >> 7) * 0x4000 + slot % 16 * 16;
        dp_space_store(m, at, place(in), 8);
        dp_space_store(m, at + 8, take(in, slot & 0x40 ? 4 : 2), 4);
        dp_space_store(m, at + 12, take(in, 1) & 7, 2);
        dp_space_store(m, at + 14, take(in, 1) % 18, 2);
        break;
    case 2: /* offer a head and kick */
        at = rings + queue * 0x4000 + 0x1000;
        slot = dp_space_load(m, at + 2, 2);
        dp_space_store(m, at + 4 + slot % 16 * 2, take(in, 1) % 20, 2);
        dp_space_store(m, at + 2, slot + 1, 2);
        slot = i == BALLOON && queue ? w->second : queue;
        dp_space_store(m, bar + 0x3000 + slot * 4, slot, 2);
        break;
    case 3: /* a request header */
        at = RINGS + DEVICES * 0x8000 + take(in, 1) * 16;
        dp_space_store(m, at, take(in, 1) % 16, 4);
        dp_space_store(m, at + 8, take(in, 2), 8);
        break;
    case 4: dp_space_store(m, place(in), take(in, 8), 8); break;
    case 5: dp_space_store(m, bar + take(in, 1) % 64, take(in, 4), 1u << take(in, 1) % 4); break;
    case 6: dp_space_load(m, bar + take(in, 2) % 0x4100, 1u << take(in, 1) % 4); break;
    case 7: dp_space_store(m, bar + take(in, 2) % 0x9000, take(in, 4), 1u << take(in, 1) % 4); break;
    case 8:
        dp_space_store(w->env.ports, 0xcf8, 0x80000000 | take(in, 1) % 5 << 11 | take(in, 1), 4);
        if (queue)
            dp_space_store(w->env.ports, 0xcfc + take(in, 1) % 4, take(in, 4), 1u << take(in, 1) % 3);
        else
            dp_space_load(w->env.ports, 0xcfc + take(in, 1) % 4, 1u << take(in, 1) % 3);
        break;
    case 9: dp_space_store(w->env.ports, 0xcf8 + take(in, 1) % 8, take(in, 4), 1u << take(in, 1) % 3); break;
    case 10: dp_block_drain(w->block); break;
    case 11:
        w->console.takes = take(in, 1);
        if (w->console.attached)
            w->console.client.writable(w->console.client.opaque);
        break;
    case 12: {
        uint8_t text[64];
        memset(text, code, sizeof(text));
        w->console.client.receive(w->console.client.opaque, text, take(in, 1) % 64);
        break;
    }
    case 13:
        if (i == BALLOON) {
            struct dp_balloon_status s;
            dp_virtio_balloon_status(dp_virtio_pci_child(w->adapter[i]), &s);
            dp_virtio_balloon_set(dp_virtio_pci_child(w->adapter[i]), take(in, 4));
        }
        (queue ? dp_device_pause : dp_device_resume)(w->adapter[i]); break;
    case 14:
        if (queue)
            dp_device_reset(w->adapter[i]);
        dp_clock_advance(w->env.clock, 1000);
        break;
    case 15: { /* save and load again, damaged or not */
        struct dp_buffer image = { 0 };
        struct dp_device *d = queue ? w->adapter[i] : dp_virtio_pci_child(w->adapter[i]);
        dp_device_pause(w->adapter[i]);
        dp_device_save(d, &image);
        for (unsigned n = take(in, 1) % 8; n; n--)
            image.data[take(in, 2) % image.size] ^= take(in, 1);
        if (dp_device_load(d, image.data, image.size, NULL, NULL) < 0) {} /* refusing is fine */
        dp_device_resume(w->adapter[i]);
        dp_buffer_fini(&image);
        break;
    }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w;
    struct input in = { data, data + size };
    world_init(&w);
    for (unsigned n = 0; n < OPERATIONS_MAX && in.at < in.end; n++)
        operation(&w, &in);
    world_fini(&w);
    return 0;
}
