/* fuzz_virtio_net.c - a hostile driver of a network card, and a hostile peer: bytes become rings, registers, frames from outside, and how
 * much the peer takes.
 *
 * Input: a byte per operation and its operands (see `operation`); offsets and addresses are steered towards what exists.
 */
#include <stdlib.h>

#include "devices/pci/pci.h"
#include "devices/virtio/virtio.h"
#include "net/offload.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM_SIZE (1u << 20)
#define BAR 0xe0000000u
#define ECAM_BASE 0xb0000000u
#define RINGS 0x1000u
#define BUFFERS 0x20000u
enum { OPERATIONS_MAX = 400, QUEUES = 5 /* of two pairs */ };

struct world {
    struct dp_device_env env;
    struct dp_ram *ram;
    struct dp_device *host, *net, *adapter;
    struct dp_net_port port;
    unsigned room;
    uint8_t *scratch;
};
struct input {
    const uint8_t *at, *end;
};

static uint64_t take(struct input *in, unsigned n)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < n; i++)
        value |= (uint64_t)(in->at < in->end ? *in->at++ : 0) << i * 8;
    return value;
}

#define MUST(x)                                                                                                                            \
    do {                                                                                                                                   \
        if (x)                                                                                                                             \
            abort();                                                                                                                       \
    } while (0)

static unsigned peer_receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct world *w = opaque;
    unsigned n = DP_MIN(count, w->room);
    w->room -= n;
    for (unsigned i = 0; i < n; i++) {
        size_t sum = 0;
        for (unsigned k = 0; k < frame[i].parts; k++)
            sum += frame[i].part[k].iov_len;
        MUST(sum != frame[i].size || frame[i].size < DP_NET_FRAME_MIN || frame[i].size > DP_NET_FRAME_MAX ||
             (frame[i].work & ~w->port.accepts));
        dp_net_gather(&frame[i], w->scratch);
        if (frame[i].work)
            dp_net_finish_checksum(&frame[i], w->scratch);
    }
    return n;
}
static void peer_link(void *opaque, bool up) {}
static const struct dp_net_end peer_end = {.receive = peer_receive, .link = peer_link};

static void world_init(struct world *w)
{
    memset(w, 0, sizeof(*w));
    MUST(dp_clock_create_manual(&w->env.clock, NULL));
    MUST(dp_space_create("memory", 1ull << 40, NULL, &w->env.memory, NULL));
    MUST(dp_space_create("ports", 0x10000, NULL, &w->env.ports, NULL));
    MUST(dp_ram_create("ram", RAM_SIZE, &w->ram, NULL));
    MUST(dp_space_map_ram(w->env.memory, 0, w->ram, 0, RAM_SIZE, false, 0, NULL, NULL));
    w->host = dp_device_alloc(&dp_pci_host_class, "pci", &w->env);
    MUST(dp_device_init(w->host, NULL) || dp_device_map(w->host, DP_PCI_WINDOW_PORTS, 0xcf8, NULL) ||
         dp_device_map(w->host, DP_PCI_WINDOW_ECAM, ECAM_BASE, NULL));
    w->net = dp_device_alloc(&dp_virtio_net_class, "net", &w->env);
    dp_virtio_net_wire(w->net, (const uint8_t[]){2, 0, 0, 0, 0, 1});
    MUST(dp_device_set(w->net, "queues", "2", NULL));
    MUST(dp_device_init(w->net, NULL));
    w->adapter = dp_virtio_pci_create("pci", &w->env, w->net, dp_virtio_of(w->net), NULL);
    MUST(!w->adapter || dp_pci_plug(dp_pci_host_of(w->host), dp_virtio_pci_function(w->adapter), 1, NULL));
    w->scratch = malloc(DP_NET_FRAME_MAX);
    MUST(!w->scratch);
    w->room = 1000;
    dp_net_port_init(&w->port, &peer_end, w, 0);
    MUST(dp_net_connect(&w->port, dp_virtio_net_port(w->net), NULL));
    dp_space_store(w->env.memory, ECAM_BASE + (1 << 15) + 0x10, BAR, 4);
    dp_space_store(w->env.memory, ECAM_BASE + (1 << 15) + 0x18, BAR + 0x8000, 4);
    dp_space_store(w->env.memory, ECAM_BASE + (1 << 15) + 4, 6, 2);
    dp_device_resume(w->adapter);
}

static void world_fini(struct world *w)
{
    dp_device_free(w->adapter);
    dp_device_free(w->host);
    dp_space_destroy(w->env.memory);
    dp_space_destroy(w->env.ports);
    dp_ram_destroy(w->ram);
    dp_clock_destroy(w->env.clock);
    free(w->scratch);
}

static void bring_up(struct world *w, uint64_t features)
{
    struct dp_space *m = w->env.memory;
    static const uint8_t steps[] = {0, 1, 3};
    for (unsigned k = 0; k < 3; k++)
        dp_space_store(m, BAR + 20, steps[k], 1);
    for (unsigned k = 0; k < 2; k++) {
        dp_space_store(m, BAR, k, 4);
        uint32_t offered = dp_space_load(m, BAR + 4, 4);
        dp_space_store(m, BAR + 8, k, 4);
        dp_space_store(m, BAR + 12, k ? 1 : offered & ~features, 4);
    }
    dp_space_store(m, BAR + 20, 11, 1);
    for (unsigned q = 0; q < QUEUES; q++) {
        uint64_t at = RINGS + q * 0x4000;
        dp_space_store(m, BAR + 22, q, 2);
        dp_space_store(m, BAR + 24, 16, 2);
        dp_space_store(m, BAR + 32, at, 8);
        dp_space_store(m, BAR + 40, at + 0x1000, 8);
        dp_space_store(m, BAR + 48, at + 0x2000, 8);
        dp_space_store(m, BAR + 28, 1, 2);
    }
    dp_space_store(m, BAR + 20, 15, 1);
}

static void descriptor(struct world *w, unsigned queue, unsigned slot, uint64_t address, uint32_t length, unsigned flags, unsigned next)
{
    uint64_t at = RINGS + queue * 0x4000 + slot % 16 * 16;
    dp_space_store(w->env.memory, at, address, 8);
    dp_space_store(w->env.memory, at + 8, length, 4);
    dp_space_store(w->env.memory, at + 12, flags, 2);
    dp_space_store(w->env.memory, at + 14, next, 2);
}

static void offer(struct world *w, unsigned queue, unsigned head)
{
    uint64_t at = RINGS + queue * 0x4000 + 0x1000;
    unsigned index = dp_space_load(w->env.memory, at + 2, 2);
    dp_space_store(w->env.memory, at + 4 + index % 16 * 2, head, 2);
    dp_space_store(w->env.memory, at + 2, index + 1, 2);
    dp_space_store(w->env.memory, BAR + 0x3000 + queue * 4, queue, 2);
}

static void operation(struct world *w, struct input *in)
{
    struct dp_space *m = w->env.memory;
    unsigned code = take(in, 1), queue = (code >> 4) % QUEUES, slot;
    switch (code & 15) {
    case 0:
        bring_up(w, take(in, 4));
        break;
    case 1:
        slot = take(in, 1);
        descriptor(w, queue, slot, BUFFERS + take(in, 2) * (slot & 0x40 ? 64 : 1), take(in, slot & 0x80 ? 4 : 2), take(in, 1) & 7,
                   take(in, 1) % 18);
        break;
    case 2:
        offer(w, queue, take(in, 1) % 20);
        break;
    case 3: { /* a frame to send, with a header of its own */
        uint64_t at = BUFFERS + take(in, 1) * 256;
        for (unsigned i = 0; i < 10; i += 2)
            dp_space_store(m, at + i, take(in, i < 2 || code & 16 ? 2 : 1), 2);
        static const uint8_t start[] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6};
        if (code & 32)
            dp_space_write(m, at + 12, start, sizeof(start));
        dp_space_store(m, at + 12 + 34 + 12, take(in, 1), 1);
        slot = take(in, 1);
        descriptor(w, 1, slot, at, take(in, 2), 0, 0);
        offer(w, 1, slot % 16);
        break;
    }
    case 4: /* buffers to receive into */
        for (unsigned i = take(in, 1) % 17, size = take(in, 2); i--;) {
            descriptor(w, 0, i, BUFFERS + 0x40000 + i * 0x800, size, 2, 0);
            offer(w, 0, i);
        }
        break;
    case 5:
    case 6: { /* a frame arrives */
        static uint8_t const zeros[4096];
        uint8_t head[64];
        for (unsigned i = 0; i < sizeof(head); i++)
            head[i] = i < 16 || i == 23 || i == 46 ? take(in, 1) : 0x45;
        struct iovec part[17] = {{head, sizeof(head)}};
        unsigned parts = 1 + take(in, 1) % 17;
        uint32_t size = sizeof(head);
        for (unsigned i = 1; i < parts; i++, size += sizeof(zeros) - 200)
            part[i] = (struct iovec){(void *)zeros, sizeof(zeros) - 200};
        struct dp_net_frame f = {.part = part, .parts = parts, .size = size};
        if (code & 32) {
            f.work = take(in, 1) & 31;
            f.checksum_start = take(in, 2);
            f.checksum_offset = take(in, 1);
            f.segment_size = take(in, 2);
        }
        struct dp_net_frame all[3] = {f, f, f};
        dp_net_send(&w->port, all, 1 + (code >> 6) % 3);
        break;
    }
    case 7: /* a control command */
        queue = code & 32 ? 2 : 4; /* where it is without and with F_MQ */
        slot = take(in, 1) % 14;
        for (unsigned i = 0; i < 24; i++)
            dp_space_store(m, BUFFERS + 0x10000 + i, take(in, 1), 1);
        descriptor(w, queue, slot, BUFFERS + 0x10000, take(in, 1), 1, slot + 1);
        descriptor(w, queue, slot + 1, BUFFERS + 0x11000, code & 16 ? 0 : 1, 2, 0);
        offer(w, queue, slot);
        break;
    case 8:
        dp_space_store(m, BAR + take(in, 1) % 64, take(in, 4), 1u << take(in, 1) % 4);
        break;
    case 9:
        dp_space_load(m, BAR + take(in, 2) % 0x4100, 1u << take(in, 1) % 4);
        break;
    case 10:
        w->room = take(in, 1);
        dp_net_set_accepts(&w->port, take(in, 1) & 23);
        dp_net_ready(&w->port);
        break;
    case 11:
        dp_net_set_link(&w->port, code & 16);
        break;
    case 12:
        (code & 16 ? dp_device_pause : dp_device_resume)(w->adapter);
        break;
    case 13:
        if (code & 16)
            dp_device_reset(w->adapter);
        dp_virtio_net_announce(w->net);
        dp_clock_advance(w->env.clock, 1000);
        break;
    case 14:
        dp_space_store(m, take(in, 3) % RAM_SIZE, take(in, 8), 8);
        break;
    case 15: { /* save and load again, damaged or not */
        struct dp_buffer image = {0};
        struct dp_device *d = code & 16 ? w->adapter : w->net;
        dp_device_pause(w->adapter);
        dp_device_save(d, &image);
        for (unsigned n = take(in, 1) % 8; n; n--)
            image.data[take(in, 2) % image.size] ^= take(in, 1);
        if (dp_device_load(d, image.data, image.size, NULL, NULL) < 0) {
        } /* refusing is fine */
        dp_device_resume(w->adapter);
        dp_buffer_fini(&image);
        break;
    }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w;
    struct input in = {data, data + size};
    world_init(&w);
    bring_up(&w, 0);
    for (unsigned n = 0; n < OPERATIONS_MAX && in.at < in.end; n++)
        operation(&w, &in);
    world_fini(&w);
    return 0;
}
