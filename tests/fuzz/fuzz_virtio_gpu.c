/* fuzz_virtio_gpu.c - a hostile driver of virtio-gpu and virtio-input, beside somebody who looks at the screen and types.
 *
 * Input: a byte per operation and its operands (see `operation`). Commands are put together from small numbers, so that many of them meet
 * resources that exist; bytes written anywhere make the rest. What every virtio device shares is fuzz_virtio.c's.
 */
#include <stdlib.h>

#include "devices/pci/pci.h"
#include "devices/virtio/virtio_gpu.h"
#include "devices/virtio/virtio_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM_SIZE (1u << 20)
#define BAR_BASE 0xe0000000u
#define ECAM_BASE 0xb0000000u
#define COMMAND 0x80000u
#define RESPONSE 0x81000u
enum { DEVICES = 4, OPERATIONS_MAX = 300, QUEUE = 16 };

struct world {
    struct dp_device_env env;
    struct dp_ram *ram;
    struct dp_device *host, *adapter[DEVICES];
    struct dp_display_picture picture;
    uint16_t added[DEVICES][2];
};
struct input { const uint8_t *at, *end; };

static uint64_t take(struct input *in, unsigned n)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < n; i++)
        value |= (uint64_t)(in->at < in->end ? *in->at++ : 0) << i * 8;
    return value;
}

#define MUST(x) do { if (x) abort(); } while (0)

static void world_init(struct world *w)
{
    static const char *const kinds[DEVICES] = {NULL, "keyboard", "mouse", "tablet"};
    memset(w, 0, sizeof(*w));
    MUST(dp_clock_create_manual(&w->env.clock, NULL));
    MUST(dp_space_create("memory", 1ull << 40, NULL, &w->env.memory, NULL));
    MUST(dp_space_create("ports", 0x10000, NULL, &w->env.ports, NULL));
    MUST(dp_ram_create("ram", RAM_SIZE, &w->ram, NULL));
    MUST(dp_space_map_ram(w->env.memory, 0, w->ram, 0, RAM_SIZE, false, 0, NULL, NULL));
    w->host = dp_device_alloc(&dp_pci_host_class, "pci", &w->env);
    MUST(dp_device_init(w->host, NULL) || dp_device_map(w->host, DP_PCI_WINDOW_ECAM, ECAM_BASE, NULL));
    for (unsigned i = 0; i < DEVICES; i++) {
        struct dp_device *child = dp_device_alloc(kinds[i] ? &dp_virtio_input_class : &dp_virtio_gpu_class, "device", &w->env);
        MUST(dp_device_set(child, kinds[i] ? "kind" : "memory", kinds[i] ? kinds[i] : "1M", NULL) || dp_device_init(child, NULL));
        w->adapter[i] = dp_virtio_pci_create("virtio", &w->env, child, dp_virtio_of(child), NULL);
        MUST(!w->adapter[i] || dp_pci_plug(dp_pci_host_of(w->host), dp_virtio_pci_function(w->adapter[i]), i + 1, NULL));
        uint64_t config = ECAM_BASE + (i + 1) * 0x8000;
        dp_space_store(w->env.memory, config + 0x10, BAR_BASE + i * 0x10000, 4);
        dp_space_store(w->env.memory, config + 0x04, 6, 2);
    }
}

static void world_fini(struct world *w)
{
    dp_display_picture_fini(&w->picture);
    for (unsigned i = 0; i < DEVICES; i++)
        dp_device_free(w->adapter[i]);
    dp_device_free(w->host);
    dp_space_destroy(w->env.memory);
    dp_space_destroy(w->env.ports);
    dp_ram_destroy(w->ram);
    dp_clock_destroy(w->env.clock);
}

static uint64_t rings(unsigned i, unsigned queue) { return 0x1000 + (i * 2 + queue) * 0x1000; }

static void bring_up(struct world *w, unsigned i)
{
    struct dp_space *m = w->env.memory;
    uint64_t bar = BAR_BASE + i * 0x10000;
    dp_space_store(m, bar + 20, 0, 1);
    dp_space_store(m, bar + 20, 3, 1);
    for (unsigned k = 0; k < 2; k++) {
        dp_space_store(m, bar + 8, k, 4);
        dp_space_store(m, bar + 12, k ? 1 : 2, 4);
    }
    dp_space_store(m, bar + 20, 11, 1);
    for (unsigned q = 0; q < 2; q++) {
        uint64_t at = rings(i, q);
        dp_space_store(m, bar + 22, q, 2);
        dp_space_store(m, bar + 24, QUEUE, 2);
        dp_space_store(m, bar + 32, at, 8);
        dp_space_store(m, bar + 40, at + 0x400, 8);
        dp_space_store(m, bar + 48, at + 0x800, 8);
        dp_space_store(m, bar + 28, 1, 2);
        dp_space_store(m, at + 0x402, 0, 2);
        w->added[i][q] = 0;
    }
    dp_space_store(m, bar + 20, 15, 1);
}

static void descriptor(struct world *w, uint64_t table, unsigned n, uint64_t address, uint32_t size, unsigned flags, unsigned next)
{
    dp_space_store(w->env.memory, table + n * 16, address, 8);
    dp_space_store(w->env.memory, table + n * 16 + 8, size, 4);
    dp_space_store(w->env.memory, table + n * 16 + 12, flags, 2);
    dp_space_store(w->env.memory, table + n * 16 + 14, next, 2);
}

static void offer(struct world *w, unsigned i, unsigned queue, unsigned head)
{
    uint64_t at = rings(i, queue);
    dp_space_store(w->env.memory, at + 0x404 + w->added[i][queue] % QUEUE * 2, head, 2);
    dp_space_store(w->env.memory, at + 0x402, ++w->added[i][queue], 2);
    dp_space_store(w->env.memory, BAR_BASE + i * 0x10000 + 0x3000 + queue * 4, queue, 2);
}

/* A number that is small, or a size of pictures, or anything. */
static uint32_t number(struct input *in)
{
    unsigned kind = (unsigned)take(in, 1);
    switch (kind >> 6) {
    case 0: return kind;
    case 1: return (kind & 63) * 16;
    case 2: return (uint32_t)take(in, 2) * 4;
    default: return (uint32_t)take(in, 4);
    }
}

static void command(struct world *w, struct input *in)
{
    static const uint8_t words[] = {0, 4, 2, 6, 6, 8, 2, 2, 2, 2, 2};
    unsigned pick = (unsigned)take(in, 1), kind = pick % 13, n = kind < 11 ? words[kind] : 8, extra = 0;
    struct dp_space *m = w->env.memory;
    dp_space_store(m, COMMAND, kind < 11 ? 0x100 + kind : 0x300 + kind - 11, 4);
    dp_space_store(m, COMMAND + 4, pick >> 7, 4);
    for (unsigned i = 0; i < n; i++)
        dp_space_store(m, COMMAND + 24 + 4 * i, number(in), 4);
    if (kind == 6) { /* the entries, as many as are said and go in here */
        extra = DP_MIN((unsigned)dp_space_load(m, COMMAND + 28, 4), 64u);
        for (unsigned i = 0; i < extra; i++) {
            dp_space_store(m, COMMAND + 32 + 16 * i, number(in), 8);
            dp_space_store(m, COMMAND + 40 + 16 * i, number(in), 8);
        }
    }
    unsigned queue = kind >= 11;
    descriptor(w, rings(0, queue), 0, COMMAND, 24 + 4 * n + 16 * extra, 1, 1);
    descriptor(w, rings(0, queue), 1, RESPONSE, pick & 64 ? 24 : 2048, 2, 0);
    offer(w, 0, queue, 0);
}

static void look(struct world *w, struct input *in)
{
    struct dp_display_source s = dp_virtio_gpu_source(dp_virtio_pci_child(w->adapter[0]));
    s.generation(s.opaque);
    if (s.picture(s.opaque, &w->picture, NULL) < 0) {} /* no memory */
    volatile uint32_t last = w->picture.width ? w->picture.pixels[(size_t)w->picture.width * w->picture.height - 1] : 0;
    (void)last;
    if (take(in, 1) & 1)
        s.resize(s.opaque, number(in), number(in));
}

static void type(struct world *w, struct input *in)
{
    struct dp_input_route r = dp_virtio_input_route(dp_virtio_pci_child(w->adapter[1 + take(in, 1) % 3]));
    for (unsigned n = 1 + take(in, 1); n--;) {
        unsigned a = (unsigned)take(in, 1), b = (unsigned)take(in, 1);
        if (r.sink.key)
            r.sink.key(r.sink.opaque, a, b & 1);
        if (r.sink.motion)
            r.sink.motion(r.sink.opaque, (int)a - 128, (int)b, (int)(a & 1), b & 7);
        if (r.sink.position)
            r.sink.position(r.sink.opaque, a * 256, b * 256, 0, a & 7);
    }
}

static void operation(struct world *w, struct input *in)
{
    struct dp_space *m = w->env.memory;
    unsigned code = (unsigned)take(in, 1), i = (code >> 4) % DEVICES;
    uint64_t bar = BAR_BASE + i * 0x10000;
    switch (code & 15) {
    case 0: bring_up(w, i); break;
    case 1: case 2: case 3: case 4: case 5: command(w, in); break;
    case 6: look(w, in); break;
    case 7: type(w, in); break;
    case 8: { /* buffers for events, or a LED */
        unsigned n = (unsigned)take(in, 1) % QUEUE;
        descriptor(w, rings(i, code >> 7), n, RESPONSE + n * 8, code & 64 ? 8 : (uint32_t)take(in, 1), code >> 7 ? 0 : 2, 0);
        offer(w, i, code >> 7, n);
        break;
    }
    case 9: dp_space_store(m, take(in, 3) % RAM_SIZE, take(in, 8), 8); break;
    case 10: dp_space_store(m, bar + 0x2000 + take(in, 1), take(in, 4), 1u << take(in, 1) % 3); break;
    case 11: dp_space_load(m, bar + 0x2000 + take(in, 1), 1u << take(in, 1) % 4); break;
    case 12: dp_space_store(m, bar + take(in, 1) % 64, take(in, 4), 1u << take(in, 1) % 3); break;
    case 13: (code >> 7 ? dp_device_pause : dp_device_resume)(w->adapter[i]); break;
    case 14:
        if (code >> 7)
            dp_device_reset(w->adapter[i]);
        dp_clock_advance(w->env.clock, 1000);
        break;
    case 15: { /* save and load again, damaged or not */
        struct dp_buffer image = {0};
        struct dp_device *d = dp_virtio_pci_child(w->adapter[i]);
        dp_device_pause(w->adapter[i]);
        dp_device_save(d, &image);
        for (unsigned n = take(in, 1) % 8; n; n--)
            image.data[take(in, 2) % image.size] ^= (uint8_t)take(in, 1);
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
    struct input in = {data, data + size};
    world_init(&w);
    for (unsigned n = 0; n < OPERATIONS_MAX && in.at < in.end; n++)
        operation(&w, &in);
    world_fini(&w);
    return 0;
}
