/* fuzz_xhci.c - the USB controller hammered: registers, commands with contexts from the input, TRBs anywhere on rings, whole transfers
 * and storage commands, keys and movements, images that fail, pauses, resets, and saved states that come back damaged.
 *
 * Input: the first byte chooses whether a driver has made the devices ready; then a byte per operation and its operands (see
 * `operation`). The image is a fake in memory that completes when the input says so; it aborts when the device asks for what it does not
 * have. After each operation what must hold of the registers is checked, and a state that comes back undamaged must be taken.
 */
#include "tests/device/xhci_driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { OPERATIONS_MAX = 300 };

#define MUST(x)                                                                                                                            \
    do {                                                                                                                                   \
        if (x)                                                                                                                             \
            abort();                                                                                                                       \
    } while (0)

struct input { const uint8_t *at, *end; };

static uint64_t take(struct input *in, unsigned n)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < n; i++)
        value |= (uint64_t)(in->at < in->end ? *in->at++ : 0) << i * 8;
    return value;
}

/* Mostly places of the driver's. */
static uint64_t address(struct input *in)
{
    static const uint32_t places[] = {DCBAA,           ERST, COMMANDS, EVENTS, INPUT, CONTEXTS + 0x1000, RINGS + 0x21000, RINGS + 0x23000,
                                      RINGS + 0x24000, DATA, DRV_BAR};
    unsigned n = (unsigned)take(in, 1);
    return n < 200 ? places[n % DP_ARRAY_LEN(places)] + (n / 16) * 16 : n < 240 ? take(in, 3) : take(in, 8);
}

static void save_and_load(struct drv *r, struct input *in)
{
    struct dp_buffer image = {0};
    struct dp_error e = {0};
    dp_device_pause(r->d);
    MUST(r->block.first);
    dp_device_save(r->d, &image);
    unsigned damage = (unsigned)take(in, 1) % 8;
    for (unsigned n = damage; n && image.size; n--)
        image.data[image.size - 1 - take(in, 3) % (image.size - 6000)] ^= take(in, 1); /* not in configuration space, which is long */
    if (dp_device_load(r->d, image.data, image.size, NULL, &e))
        MUST(!e.text[0] || !damage);
    dp_buffer_fini(&image);
    dp_device_resume(r->d);
}

static void queue_trbs(struct drv *r, struct input *in, struct drv_ring *ring)
{
    unsigned n = 1 + take(in, 1) % 8;
    for (unsigned i = 0; i < n; i++) {
        uint64_t parameter = address(in);
        uint32_t status = (uint32_t)take(in, 3), control = (uint32_t)take(in, 2);
        drv_put(r, ring, parameter, status & 0x1ffff, (control & 0x3f) | TYPE(control >> 6 & 63) | (status >> 23) << 16);
    }
}

static void storage_command(struct drv *r, struct input *in, unsigned slot)
{
    uint8_t *cbw = drv_ram(r, DATA + 0x100000);
    memset(cbw, 0, 31);
    memcpy(cbw, "USBC", 4);
    uint32_t length = (uint32_t)take(in, 3) & 0x3ffff;
    dp_st32(cbw + 8, length);
    cbw[12] = (uint8_t)take(in, 1);
    cbw[14] = (uint8_t)(cbw[12] & 15) + 1;
    for (unsigned i = 0; i < 10; i++)
        cbw[15 + i] = i >= 2 && i < 5 ? 0 : (uint8_t)take(in, 1);
    drv_queue(r, slot, 4, DATA + 0x100000, 31);
    if (length)
        drv_queue(r, slot, cbw[12] & 0x80 ? 3 : 4, DATA, DP_MIN(length, 0x10000u));
    drv_queue(r, slot, 3, DATA + 0x100100, 13);
}

static void check(struct drv *r)
{
    struct dp_error e = {0};
    MUST(r->d->class->state->check(dp_device_regs(r->d), &e));
}

static void operation(struct drv *r, struct input *in)
{
    struct drv_event e;
    unsigned code = (unsigned)take(in, 1), slot = 1 + (code >> 4) % 5, dci = 1 + (code >> 4) % 4, size;
    switch (code & 15) {
    case 0: {
        unsigned at = (unsigned)take(in, 2) % 0x2100;
        if (code & 0x80)
            drv_in(r, at & ~3u);
        else
            drv_out(r, at & ~3u, (uint32_t)take(in, 4));
        break;
    }
    case 1: { /* registers that do something */
        static const uint16_t regs[] = {OP,      OP + 4, OP + 0x18, OP + 0x1c,  OP + 0x38,  PORTSC1,   PORTSC1 + 0x10,
                                        PORTSC5, IR0,    IR0 + 8,   IR0 + 0x10, IR0 + 0x14, IR0 + 0x18};
        drv_out(r, regs[take(in, 1) % DP_ARRAY_LEN(regs)], (uint32_t)take(in, 4));
        break;
    }
    case 2: { /* a command with whatever input context there is */
        uint64_t parameter = code & 0x10 ? INPUT : address(in);
        drv_put(r, &r->commands, parameter, 0, TYPE(8 + take(in, 1) % 18) | (uint32_t)take(in, 2) << 16 | (code & 0x20 ? 0x200 : 0));
        drv_out(r, DB, 0);
        break;
    }
    case 3: /* bytes of a context, a segment table, a ring */
        size = 1 + (unsigned)take(in, 1) % 32;
        for (uint64_t at = address(in); size--; at++)
            if (at < r->w.ram->size)
                *drv_ram(r, at) = (uint8_t)take(in, 1);
        break;
    case 4: case 5:
        if (r->ep[slot][dci].base)
            queue_trbs(r, in, &r->ep[slot][dci]);
        drv_doorbell(r, slot, code & 0x80 ? (unsigned)take(in, 1) : dci);
        break;
    case 6: { /* a control transfer */
        uint8_t *b = drv_ram(r, DATA);
        for (unsigned i = 0; i < 4; i++)
            b[i] = (uint8_t)take(in, 1);
        size = code & 0x80 ? (unsigned)take(in, 2) : (unsigned)take(in, 1);
        unsigned type = (unsigned)take(in, 1), request = (unsigned)take(in, 1) % 50, value = (unsigned)take(in, 2);
        if (r->ep[slot][1].base)
            drv_control(r, slot, type & 0xe3, type & 0x10 ? 0xf0 | request : request, value, type & 0x0c ? 0x81 : 0, &size);
        break;
    }
    case 7: case 8:
        if (r->ep[4][3].base && r->ep[4][4].base)
            storage_command(r, in, 4);
        break;
    case 9: fake_block_one(&r->block); break;
    case 10:
        dp_xhci_key(r->d, (unsigned)take(in, 1), code & 0x10);
        dp_xhci_motion(r->d, (int)take(in, 1) - 128, (int)take(in, 2) - 32768, code >> 5 & 1, code >> 5);
        dp_xhci_position(r->d, (unsigned)take(in, 2), (unsigned)take(in, 1), 0, code >> 4);
        break;
    case 11:
        for (unsigned i = 0; i < 40 && drv_event(r, &e); i++)
            ;
        drv_acknowledge(r);
        break;
    case 12:
        r->block.bad_from = take(in, 2) * 16;
        r->block.bad_to = r->block.bad_from + (code & 0x80 ? 1 : 0);
        r->block.flush_fails = code & 0x40;
        break;
    case 13: dp_clock_advance(r->w.env.clock, take(in, 3) * 1000); break;
    case 14:
        if (code < 0x20) {
            dp_device_reset(r->d);
            dp_pci_config_write(dp_xhci_function(r->d), DP_PCI_COMMAND, DP_PCI_COMMAND_MEMORY | DP_PCI_COMMAND_MASTER, 2);
        } else if (code < 0x80) {
            dp_device_pause(r->d);
            drv_doorbell(r, slot, dci); /* held until resumed */
            dp_device_resume(r->d);
        } else {
            dp_pci_config_write(dp_xhci_function(r->d), (unsigned)take(in, 1) & ~3u, (uint32_t)take(in, 4), 4);
            dp_pci_config_write(dp_xhci_function(r->d), DP_PCI_COMMAND, code & 0x40 ? 0 : DP_PCI_COMMAND_MEMORY | DP_PCI_COMMAND_MASTER, 2);
        }
        break;
    case 15: save_and_load(r, in); break;
    }
    check(r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct drv r; /* large; made anew each time */
    struct input in = {data, data + size};
    drv_init(&r, "tkms");
    if (take(&in, 1) < 200) {
        drv_start(&r);
        for (unsigned port = 1; port <= 4; port++) {
            unsigned slot = drv_address(&r, port < 4 ? port + 4 : 1);
            MUST(slot != port || !drv_configure(&r, slot, 1, port < 4 ? 0 : 2, port < 4, port < 4 ? 8 : 1024));
        }
    }
    for (unsigned n = 0; n < OPERATIONS_MAX && in.at < in.end; n++)
        operation(&r, &in);
    drv_fini(&r);
    return 0;
}
