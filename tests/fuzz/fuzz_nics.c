/* fuzz_nics.c - the network cards hammered: registers, rings anywhere, descriptors of any kind, frames of any size from a wire that takes
 * what it likes, cables, resets, pauses, and saved states that come back damaged.
 *
 * Input: the first byte chooses the card and what the wire accepts; then a byte per operation and its operands (see `operation`). `up` is
 * a driver's start, so that what follows meets a card that works. What goes out must be a frame, complete as far as the wire asks for that.
 */
#include <stdlib.h>

#include "devices/net/e1000.h"
#include "devices/net/ne2k.h"
#include "devices/net/rtl8139.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM_SIZE (1u << 20)
enum { OPERATIONS_MAX = 400, TX_RING = 0x1000, RX_RING = 0x2000, TX_DATA = 0x10000, RX_DATA = 0x20000, RING = 16 };

#define MUST(x)                                                                                                                            \
    do {                                                                                                                                   \
        if (x)                                                                                                                             \
            abort();                                                                                                                       \
    } while (0)

enum card { E1000, RTL8139, NE2K_PCI, NE2K_ISA };
struct world {
    struct dp_device_env env;
    struct dp_ram *ram;
    struct dp_device *d;
    enum card card;
    struct dp_pci_function *f;
    struct dp_net_port *port, wire;
    unsigned room, tx;
    bool echo; /* the wire answers */
    uint8_t frame[66000];
};

struct input { const uint8_t *at, *end; };

static uint64_t take(struct input *in, unsigned n)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < n; i++)
        value |= (uint64_t)(in->at < in->end ? *in->at++ : 0) << i * 8;
    return value;
}

static unsigned wire_receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct world *w = opaque;
    unsigned n = 0;
    for (; n < count && w->room; n++, w->room--) {
        uint32_t size = 0, sum = 0;
        for (unsigned k = 0; k < frame[n].parts; k++) {
            const uint8_t *p = frame[n].part[k].iov_base;
            for (size_t i = 0; i < frame[n].part[k].iov_len; i++)
                sum += p[i];
            size += (uint32_t)frame[n].part[k].iov_len;
        }
        MUST(size != frame[n].size || size < DP_NET_FRAME_MIN || size > DP_NET_FRAME_MAX || sum == 0xffffffff);
        MUST(frame[n].work & ~w->wire.accepts);
        MUST((frame[n].work & DP_NET_CHECKSUM) && (uint32_t)frame[n].checksum_start + frame[n].checksum_offset + 2 > size);
        MUST((frame[n].work & (DP_NET_TSO4 | DP_NET_TSO6)) && (!frame[n].segment_size || frame[n].header_size > size));
        if (w->echo)
            dp_net_send(&w->wire, &(struct dp_net_frame){.part = frame[n].part, .parts = frame[n].parts, .size = size}, 1);
    }
    return n;
}

static void wire_ready(void *opaque)
{
    struct world *w = opaque;
    if (w->echo) {
        const struct iovec part = {w->frame, 100};
        dp_net_send(&w->wire, &(struct dp_net_frame){.part = &part, .parts = 1, .size = 100}, 1);
    }
}

static const struct dp_net_end wire_end = {wire_receive, wire_ready, NULL};

static void world_init(struct world *w, unsigned first)
{
    static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};
    static const struct dp_device_class *const classes[] = {&dp_e1000_class, &dp_rtl8139_class, &dp_ne2k_pci_class, &dp_ne2k_isa_class};
    memset(w, 0, sizeof(*w));
    MUST(dp_clock_create_manual(&w->env.clock, NULL));
    MUST(dp_space_create("memory", 1ull << 40, NULL, &w->env.memory, NULL));
    MUST(dp_space_create("ports", 0x10000, NULL, &w->env.ports, NULL));
    MUST(dp_ram_create("ram", RAM_SIZE, &w->ram, NULL));
    MUST(dp_space_map_ram(w->env.memory, 0, w->ram, 0, RAM_SIZE, false, 0, NULL, NULL));
    w->card = first & 3;
    w->echo = first & 4;
    w->room = 20;
    w->d = dp_device_alloc(classes[w->card], "net", &w->env);
    switch (w->card) {
    case E1000:
        dp_e1000_wire(w->d, mac);
        w->port = dp_e1000_port(w->d);
        break;
    case RTL8139:
        dp_rtl8139_wire(w->d, mac);
        w->port = dp_rtl8139_port(w->d);
        break;
    case NE2K_PCI:
        dp_ne2k_pci_wire(w->d, mac);
        w->port = dp_ne2k_pci_port(w->d);
        break;
    case NE2K_ISA:
        dp_ne2k_isa_wire(w->d, mac, (struct dp_irq){0});
        w->port = dp_ne2k_isa_port(w->d);
        break;
    }
    MUST(dp_device_init(w->d, NULL));
    dp_net_port_init(&w->wire, &wire_end, w, (first >> 3) & 31);
    MUST(dp_net_connect(&w->wire, w->port, NULL));
    w->f = w->card == E1000      ? dp_e1000_function(w->d)
           : w->card == RTL8139  ? dp_rtl8139_function(w->d)
           : w->card == NE2K_PCI ? dp_ne2k_pci_function(w->d)
                                 : NULL;
    dp_device_resume(w->d);
    if (w->f)
        dp_pci_config_write(w->f, DP_PCI_COMMAND, 7, 2);
}

static void world_fini(struct world *w)
{
    dp_device_free(w->d);
    dp_space_destroy(w->env.memory);
    dp_space_destroy(w->env.ports);
    dp_ram_destroy(w->ram);
    dp_clock_destroy(w->env.clock);
}

static void write_reg(struct world *w, unsigned window, unsigned offset, unsigned size, uint32_t value)
{
    const struct dp_window_spec *s = &w->d->class->windows[window % w->d->class->window_count];
    size = DP_MIN(DP_MAX(size, (unsigned)s->ops->min_size), (unsigned)s->ops->max_size);
    offset = offset % s->size & ~(size - 1);
    s->ops->write(w->d, offset, value & dp_mask_bytes(size), size);
}

static void read_reg(struct world *w, unsigned window, unsigned offset, unsigned size)
{
    const struct dp_window_spec *s = &w->d->class->windows[window % w->d->class->window_count];
    size = DP_MIN(DP_MAX(size, (unsigned)s->ops->min_size), (unsigned)s->ops->max_size);
    s->ops->read(w->d, offset % s->size & ~(size - 1), size);
}

static void set(struct world *w, unsigned reg, uint32_t v, unsigned size) { write_reg(w, 0, reg, size, v); }

/* A driver's start; options make it differ. */
static void up(struct world *w, unsigned options)
{
    w->tx = 0;
    switch (w->card) {
    case E1000:
        for (unsigned i = 0; i < RING; i++)
            dp_st64(w->ram->host + RX_RING + i * 16, RX_DATA + i * 4096);
        set(w, 0x2800, RX_RING, 4);
        set(w, 0x2808, RING * 16, 4);
        set(w, 0x2810, 0, 4);
        set(w, 0x2818, RING - 1, 4);
        set(w, 0x5000, options << 8 & 0x300, 4);
        set(w, 0x0000, options & 4 ? 0x40000040 : 0x40, 4);
        set(w, 0x0100, 0x801a | (options & 0x78) << 14 | (options & 0x80) << 19 | (options & 1) << 5, 4);
        set(w, 0x3800, TX_RING, 4);
        set(w, 0x3808, RING * 16, 4);
        set(w, 0x3810, 0, 4);
        set(w, 0x3818, 0, 4);
        set(w, 0x0400, 2, 4);
        set(w, 0x00d0, ~0u, 4);
        break;
    case RTL8139:
        set(w, 0x37, 0x10, 1);
        set(w, 0x30, RX_DATA, 4);
        set(w, 0xe0, options & 0x6b, 2);
        set(w, 0xe4, RX_RING, 4);
        set(w, 0x20, TX_RING, 4);
        set(w, 0x24, 0, 4);
        for (unsigned i = 0; i < RING; i++) {
            dp_st32(w->ram->host + RX_RING + i * 16, 0x80000000 | (i == RING - 1) << 30 | 1536);
            dp_st64(w->ram->host + RX_RING + i * 16 + 8, RX_DATA + i * 4096);
        }
        set(w, 0x37, 0x0c, 1);
        set(w, 0x44, 0x0f | (options & 0x80) | (options & 0x14) << 9, 4);
        set(w, 0x40, options & 4 ? 0x60000 : 0, 4);
        set(w, 0x3c, 0xffff, 2);
        break;
    default:
        set(w, 0x00, 0x21, 1);
        set(w, 0x0e, options & 0x7f, 1);
        set(w, 0x01, 0x46, 1);
        set(w, 0x03, 0x46, 1);
        set(w, 0x02, 0x80, 1);
        set(w, 0x0c, 0x1c, 1);
        set(w, 0x0d, options & 0x80 ? 2 : 0, 1);
        set(w, 0x00, 0x61, 1);
        set(w, 0x07, 0x47, 1);
        set(w, 0x00, 0x22, 1);
        set(w, 0x0f, 0x7f, 1);
        break;
    }
}

/* Something to send. */
static void send(struct world *w, struct input *in, unsigned code)
{
    uint32_t size = (uint32_t)take(in, 2), flags = (uint32_t)take(in, 4);
    uint8_t *d = w->ram->host + TX_RING + w->tx % RING * 16;
    switch (w->card) {
    case E1000:
        if (code & 0x10) {
            for (unsigned i = 0; i < 16; i++)
                d[i] = (uint8_t)take(in, 1);
        } else {
            dp_st64(d, TX_DATA);
            dp_st32(d + 8, (size & 0x1fff) | flags << 20);
            dp_st32(d + 12, flags >> 12);
        }
        w->tx++;
        if (code & 0x20)
            set(w, 0x3818, w->tx % RING, 4);
        break;
    case RTL8139:
        if (code & 0x10) {
            set(w, 0x20 + w->tx % 4 * 4, TX_DATA, 4);
            set(w, 0x10 + w->tx % 4 * 4, size & 0x1fff, 4);
        } else {
            dp_st32(d, flags << 16 | size);
            dp_st32(d + 4, flags);
            dp_st64(d + 8, TX_DATA);
            if (code & 0x20)
                set(w, 0xd9, 0x40, 1);
        }
        w->tx++;
        break;
    default:
        set(w, 0x00, 0x22, 1);
        set(w, 0x04, flags & 0xff, 1);
        set(w, 0x05, size & 0xff, 1);
        set(w, 0x06, size >> 8 & 7, 1);
        set(w, 0x00, 0x26, 1);
        break;
    }
}

static void from_wire(struct world *w, struct input *in, unsigned code)
{
    static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};
    uint32_t size = 14 + (uint32_t)take(in, 2) % (code & 0x10 ? 2000 : 65530);
    memset(w->frame, code & 0x20 ? 0xff : 0x01, 6);
    if (code & 0x40)
        memcpy(w->frame, mac, 6);
    memset(w->frame + 6, 2, 6);
    for (unsigned i = 12; i < 60; i++)
        w->frame[i] = (uint8_t)take(in, 1);
    if (code & 0x80) { /* IPv4 of that length */
        w->frame[12] = 8;
        w->frame[13] = 0;
        w->frame[14] = 0x45;
        w->frame[16] = (uint8_t)((size - 14) >> 8);
        w->frame[17] = (uint8_t)(size - 14);
    }
    const struct iovec part[2] = {{w->frame, 13}, {w->frame + 13, size - 13}};
    const struct dp_net_frame f = {.part = part, .parts = 2, .size = size};
    for (unsigned i = 0; i < 3; i++)
        if (!dp_net_send(&w->wire, &f, 1))
            break;
}

static void save_and_load(struct world *w, struct input *in)
{
    struct dp_buffer image = {0};
    struct dp_error e = {0};
    dp_device_pause(w->d);
    dp_device_save(w->d, &image);
    unsigned damage = (unsigned)take(in, 1) % 8;
    for (unsigned n = damage; n && image.size; n--) {
        unsigned where = (unsigned)take(in, 2);
        image.data[where & 0x8000 ? where % image.size : image.size - 1 - where % DP_MIN(image.size, (size_t)4000)] ^= take(in, 1);
    }
    if (dp_device_load(w->d, image.data, image.size, NULL, &e))
        MUST(!e.text[0] || !damage);
    dp_buffer_fini(&image);
    dp_device_resume(w->d);
}

static void operation(struct world *w, struct input *in)
{
    unsigned code = (unsigned)take(in, 1), at, n;
    switch (code & 15) {
    case 0:
        at = (unsigned)take(in, 2);
        write_reg(w, code >> 6, at, 1u << (code >> 4) % 3, (uint32_t)take(in, 4));
        break;
    case 1:
        at = (unsigned)take(in, 2);
        read_reg(w, code >> 6, at, 1u << (code >> 4) % 3);
        break;
    case 2: up(w, (unsigned)take(in, 1)); break;
    case 3:
        at = (unsigned)take(in, 2) * 16;
        n = (unsigned)take(in, 1);
        for (unsigned i = 0; i < n && at + i < RAM_SIZE; i++)
            w->ram->host[at + i] = (uint8_t)take(in, 1);
        break;
    case 4: /* a TCP packet where packets are */
        memset(w->ram->host + TX_DATA, 0, 64);
        memcpy(w->ram->host + TX_DATA + 12, code & 0x10 ? "\x86\xdd\x60\0\0\0\0\0\6" : "\x08\0\x45\0\0\0\0\0\0\0\x40\6",
               code & 0x10 ? 9 : 12);
        dp_st16(w->ram->host + TX_DATA + 16, (uint16_t)take(in, 2));
        w->ram->host[TX_DATA + (code & 0x10 ? 66 : 46)] = 0x50 + (code & 0xe0);
        break;
    case 5:
    case 6: send(w, in, code); break;
    case 7:
    case 8: from_wire(w, in, code); break;
    case 9:
        w->room = (unsigned)take(in, 1) % 40;
        dp_net_ready(&w->wire);
        break;
    case 10: dp_net_set_link(&w->wire, code & 0x10); break;
    case 11: dp_clock_advance(w->env.clock, take(in, 3)); break;
    case 12:
        at = (unsigned)take(in, 1);
        if (w->f) {
            dp_pci_config_write(w->f, at & ~3u, (uint32_t)take(in, 4), 4);
            dp_pci_config_write(w->f, DP_PCI_COMMAND, 7, 2);
        }
        break;
    case 13:
        if (code & 0x10) {
            dp_device_reset(w->d);
        } else {
            dp_device_pause(w->d);
            from_wire(w, in, code);
            send(w, in, code);
            dp_device_resume(w->d);
        }
        break;
    case 14: save_and_load(w, in); break;
    case 15: /* room for what comes */
        set(w,
            w->card == E1000     ? 0x2818
            : w->card == RTL8139 ? 0x38
                                 : 3,
            (uint32_t)take(in, 2),
            w->card == E1000     ? 4
            : w->card == RTL8139 ? 2
                                 : 1);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world *w = malloc(sizeof(*w));
    struct input in = {data, data + size};
    MUST(!w);
    world_init(w, (unsigned)take(&in, 1));
    for (unsigned n = 0; n < OPERATIONS_MAX && in.at < in.end; n++)
        operation(w, &in);
    world_fini(w);
    free(w);
    return 0;
}
