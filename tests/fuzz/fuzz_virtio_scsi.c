/* fuzz_virtio_scsi.c - a hostile driver of the SCSI controller: commands of any bytes, in any layout, functions and events among them, with
 * disks, a read-only one, one of large blocks and a CD-ROM drive that may be changed, unplugged and plugged again.
 *
 * Input: a byte per operation and its operands (see `operation`). Images are sparse files in memory without a loop; requests are in flight
 * until a drain, which may come late. The first operand says how the controller is brought up.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/block.h"
#include "devices/pci/pci.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_scsi.h"
#include "tests/fuzz/input.h"

#define RAM_SIZE (1u << 20)
#define BAR 0xe0000000u
#define ECAM 0xb0000000u
#define RINGS 0x10000u /* queue q has its ring at RINGS + q * 0x4000 */
#define BUFFERS 0x40000u
enum { QUEUES = 4, IMAGES = 4, OPERATIONS_MAX = 300, QUEUE_SIZE = 16, REQUEST = 19 + 32, RESPONSE = 12 + 96 };

struct world {
    struct dp_device_env env;
    struct dp_ram *ram;
    struct dp_device *host, *adapter, *scsi;
    struct dp_block *image[IMAGES];
};

static struct dp_block *image(uint64_t size, bool readonly)
{
    char path[40];
    struct dp_block *b;
    int fd = memfd_create("disk", MFD_CLOEXEC);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    MUST(fd < 0 || ftruncate(fd, (off_t)size));
    MUST(dp_block_open(NULL, &(struct dp_block_options){.path = path, .readonly = readonly, .io = DP_BLOCK_IO_THREADS}, &b, NULL));
    close(fd);
    return b;
}

static void world_init(struct world *w)
{
    memset(w, 0, sizeof(*w));
    MUST(dp_clock_create_manual(&w->env.clock, NULL));
    MUST(dp_space_create("memory", 1ull << 40, NULL, &w->env.memory, NULL));
    MUST(dp_space_create("ports", 0x10000, NULL, &w->env.ports, NULL));
    MUST(dp_ram_create("ram", RAM_SIZE, &w->ram, NULL));
    MUST(dp_space_map_ram(w->env.memory, 0, w->ram, 0, RAM_SIZE, false, 0, NULL, NULL));
    w->image[0] = image(1 << 20, false);
    w->image[1] = image(3 << 19, true);
    w->image[2] = image(1 << 20, false);
    w->image[3] = image(100 * 2048, true);
    w->host = dp_device_alloc(&dp_pci_host_class, "pci", &w->env);
    MUST(dp_device_init(w->host, NULL) || dp_device_map(w->host, DP_PCI_WINDOW_ECAM, ECAM, NULL));
    w->scsi = dp_device_alloc(&dp_virtio_scsi_class, "scsi", &w->env);
    MUST(dp_device_set(w->scsi, "queues", "2", NULL) || dp_device_init(w->scsi, NULL));
    MUST(dp_virtio_scsi_add(w->scsi, &(struct dp_virtio_scsi_unit){.block = w->image[0]}, NULL) ||
         dp_virtio_scsi_add(w->scsi, &(struct dp_virtio_scsi_unit){.block = w->image[1], .lun = 1}, NULL) ||
         dp_virtio_scsi_add(w->scsi, &(struct dp_virtio_scsi_unit){.block = w->image[2], .target = 1, .sector = 4096}, NULL) ||
         dp_virtio_scsi_add(w->scsi, &(struct dp_virtio_scsi_unit){.block = w->image[3], .target = 2, .cdrom = true}, NULL));
    w->adapter = dp_virtio_pci_create("virtio", &w->env, w->scsi, dp_virtio_of(w->scsi), NULL);
    MUST(!w->adapter || dp_pci_plug(dp_pci_host_of(w->host), dp_virtio_pci_function(w->adapter), 1, NULL));
    dp_space_store(w->env.memory, ECAM + 0x8010, BAR, 4);
    dp_space_store(w->env.memory, ECAM + 0x8018, BAR + 0x8000, 4);
    dp_space_store(w->env.memory, ECAM + 0x8004, 6, 2);
}

static void drain(struct world *w)
{
    for (unsigned i = 0; i < IMAGES; i++)
        dp_block_drain(w->image[i]);
}

static void world_fini(struct world *w)
{
    dp_device_free(w->adapter);
    dp_device_free(w->host);
    for (unsigned i = 0; i < IMAGES; i++)
        dp_block_close(w->image[i]);
    dp_space_destroy(w->env.memory);
    dp_space_destroy(w->env.ports);
    dp_ram_destroy(w->ram);
    dp_clock_destroy(w->env.clock);
}

static void bring_up(struct world *w, uint32_t features)
{
    struct dp_space *m = w->env.memory;
    static const uint8_t steps[] = {0, 1, 3};
    for (unsigned k = 0; k < 3; k++)
        dp_space_store(m, BAR + 20, steps[k], 1);
    for (unsigned k = 0; k < 2; k++) {
        dp_space_store(m, BAR, k, 4);
        uint32_t offered = (uint32_t)dp_space_load(m, BAR + 4, 4);
        dp_space_store(m, BAR + 8, k, 4);
        dp_space_store(m, BAR + 12, k ? 1 : offered & features, 4);
    }
    dp_space_store(m, BAR + 20, 11, 1);
    for (unsigned q = 0; q < QUEUES; q++) {
        uint64_t at = RINGS + q * 0x4000;
        for (unsigned i = 0; i < 0x3000; i += 8)
            dp_space_store(m, at + i, 0, 8);
        dp_space_store(m, BAR + 22, q, 2);
        dp_space_store(m, BAR + 24, QUEUE_SIZE, 2);
        dp_space_store(m, BAR + 32, at, 8);
        dp_space_store(m, BAR + 40, at + 0x1000, 8);
        dp_space_store(m, BAR + 48, at + 0x2000, 8);
        dp_space_store(m, BAR + 28, 1, 2);
    }
    dp_space_store(m, BAR + 20, 15, 1);
}

static void descriptor(struct world *w, unsigned q, unsigned i, uint64_t address, uint32_t length, unsigned flags)
{
    uint64_t at = RINGS + q * 0x4000 + i % QUEUE_SIZE * 16;
    dp_space_store(w->env.memory, at, address, 8);
    dp_space_store(w->env.memory, at + 8, length, 4);
    dp_space_store(w->env.memory, at + 12, flags | ((i + 1) % QUEUE_SIZE) << 16, 4);
}

static void offer(struct world *w, unsigned q, unsigned head)
{
    struct dp_space *m = w->env.memory;
    uint64_t at = RINGS + q * 0x4000 + 0x1000;
    unsigned index = (unsigned)dp_space_load(m, at + 2, 2);
    dp_space_store(m, at + 4 + index % QUEUE_SIZE * 2, head % QUEUE_SIZE, 2);
    dp_space_store(m, at + 2, index + 1, 2);
    dp_space_store(m, BAR + 0x3000 + q * 4, q, 2);
}

/* A whole command: unit, command bytes, data of some length this way or that, whose place and alignment vary. */
static void command(struct world *w, struct input *in, unsigned code)
{
    struct dp_space *m = w->env.memory;
    static const uint8_t operations[] = {0x00, 0x03, 0x08, 0x0a, 0x12, 0x15, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2a,
                                         0x2e, 0x2f, 0x35, 0x41, 0x42, 0x43, 0x46, 0x4a, 0x51, 0x55, 0x5a, 0x88,
                                         0x8a, 0x8f, 0x91, 0x93, 0x9e, 0xa0, 0xa3, 0xa8, 0xaa, 0xaf, 0xbe};
    unsigned q = 2 + (code & 1), kind = (unsigned)take(in, 1), head = (unsigned)take(in, 1);
    uint64_t request = BUFFERS + head % 16 * 0x1000, response = request + 0x800, data = BUFFERS + 0x20000 + take(in, 1) * 0x100;
    uint32_t size = (uint32_t)take(in, 2);
    if (kind & 0x20)
        size <<= 4;
    uint8_t unit = (uint8_t)take(in, 1);
    dp_space_store(m, request, (unit & 0x80 ? take(in, 1) : 1) | (unit >> 4 & 3) << 8 | 0x400000 | (uint64_t)(unit & 1) << 24, 8);
    dp_space_store(m, request + 8, head, 8);
    uint8_t operation = (uint8_t)take(in, 1);
    dp_space_store(m, request + 19, kind & 0x10 ? operation : operations[operation % DP_ARRAY_LEN(operations)], 1);
    for (unsigned i = 1; i < 16; i++)
        dp_space_store(m, request + 19 + i, take(in, 1), 1);
    unsigned n = head, last = kind & 3;
    descriptor(w, q, n++, request, REQUEST - (kind & 0x40 ? take(in, 1) : 0), 1);
    if (last == 1)
        descriptor(w, q, n++, data, size, 1);
    descriptor(w, q, n++, response, RESPONSE, 2 | (last == 2 || last == 3));
    if (last == 3)
        descriptor(w, q, n++, data + size, 100, 3);
    if (last >= 2)
        descriptor(w, q, n, data, size, 2);
    offer(w, q, head);
}

static void operation(struct world *w, struct input *in)
{
    struct dp_space *m = w->env.memory;
    unsigned code = (unsigned)take(in, 1), high = code >> 4;
    uint64_t at;
    switch (code & 15) {
    case 0:
        bring_up(w, (uint32_t)take(in, 4));
        break;
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
        command(w, in, code);
        break;
    case 6: /* a function, or nonsense */
        at = BUFFERS + 0x10000 + high * 0x100;
        for (unsigned i = 0; i < 24; i += 4)
            dp_space_store(m, at + i,
                           i == 8    ? 1 | (take(in, 1) & 3) << 8 | 0x400000 | take(in, 1) << 24
                           : i == 12 ? 0
                                     : take(in, 1) & 15,
                           4);
        descriptor(w, 0, 2 * high, at, 24, 1);
        descriptor(w, 0, 2 * high + 1, at + 32, 5, 2);
        offer(w, 0, 2 * high);
        break;
    case 7: /* a buffer for events */
        descriptor(w, 1, high, BUFFERS + 0x18000 + high * 16, 16, 2);
        offer(w, 1, high);
        break;
    case 8:
        drain(w);
        break;
    case 9: /* bytes of what data buffers hold */
        at = BUFFERS + 0x20000 + take(in, 1) * 0x100;
        for (unsigned i = 0; i < 32; i += 4)
            dp_space_store(m, at + i, take(in, 4), 4);
        break;
    case 10:
        dp_space_store(m, BAR + 0x2000 + take(in, 1) % 36, take(in, 4), 1u << take(in, 1) % 3);
        break;
    case 11:
        if (dp_virtio_scsi_change_medium(w->scsi, 2, 0, high & 1 ? w->image[3] : NULL, NULL)) {
        } /* locked is fine */
        break;
    case 12:
        if (high & 1 && dp_virtio_scsi_remove(w->scsi, high >> 2, 0, NULL)) {
        } /* not there is fine */
        if (!(high & 1) &&
            dp_virtio_scsi_add(
                w->scsi, &(struct dp_virtio_scsi_unit){.block = w->image[high >> 2], .target = high >> 2, .cdrom = high >> 2 == 2}, NULL)) {
        }
        break;
    case 13:
        (high & 1 ? dp_device_pause : dp_device_resume)(w->adapter);
        break;
    case 14:
        if (high & 1)
            dp_device_reset(w->adapter);
        else if (high & 2)
            dp_space_store(m, BAR + 20, 0, 1);
        else
            dp_virtio_scsi_resized(w->scsi, w->image[high >> 2]);
        dp_clock_advance(w->env.clock, 1000);
        break;
    case 15: { /* save and load again, damaged or not */
        struct dp_buffer state = {0};
        dp_device_pause(w->adapter);
        dp_device_save(w->scsi, &state);
        for (unsigned n = take(in, 1) % 8; n; n--)
            state.data[take(in, 2) % state.size] ^= (uint8_t)take(in, 1);
        if (dp_device_load(w->scsi, state.data, state.size, NULL, NULL) < 0) {
        } /* refusing is fine */
        dp_device_resume(w->adapter);
        dp_buffer_fini(&state);
        break;
    }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w;
    struct input in = {data, data + size};
    world_init(&w);
    bring_up(&w, (uint32_t)take(&in, 4));
    for (unsigned n = 0; n < OPERATIONS_MAX && in.at < in.end; n++)
        operation(&w, &in);
    world_fini(&w);
    return 0;
}
