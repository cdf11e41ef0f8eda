/* xhci_driver.h - a driver of the xHCI as Linux has one: rings, contexts, commands, transfers, in the memory of a conformance world.
 *
 * Use: drv_init, drv_start, then drv_enumerate for each port; transfers are queued by drv_queue and looked for by drv_event. Fakes hold
 * the images.
 */
#ifndef DP_TESTS_XHCI_DRIVER_H
#define DP_TESTS_XHCI_DRIVER_H

#include "devices/usb/usb.h"
#include "devices/usb/xhci.h"
#include "tests/device/conformance.h"
#include "tests/device/fake_block.h"

enum { DRV_BAR = 0x40000000, OP = 0x40, PORTSC1 = 0x440, PORTSC5 = 0x480, RT = 0x1000, IR0 = 0x1020, DB = 0x2000 };
enum { DCBAA = 0x1000, ERST = 0x1800, COMMANDS = 0x2000, EVENTS = 0x3000, EVENTS2 = 0x3800, INPUT = 0x4000,
       CONTEXTS = 0x10000 /* 0x1000 a slot */,
       RINGS = 0x100000 /* 0x1000 a ring, 0x20000 a slot */, DATA = 0x800000 };
enum { RING_TRBS = 64, EVENT_TRBS = 32 };
enum { CYCLE = 1, TOGGLE = 2, ISP = 4, CHAIN = 0x10, IOC = 0x20, IDT = 0x40 };
#define TYPE(t) ((uint32_t)(t) << 10)
enum { T_NORMAL = 1, T_SETUP, T_DATA, T_STATUS, T_ISOCH, T_LINK, T_EVENT_DATA, T_NO_OP, C_ENABLE = 9, C_DISABLE, C_ADDRESS, C_CONFIGURE,
       C_EVALUATE, C_RESET_EP, C_STOP_EP, C_SET_DEQUEUE, C_RESET_DEVICE, C_FORCE_HEADER = 22, C_NO_OP = 23, E_TRANSFER = 32, E_COMMAND,
       E_PORT };
enum { OK = 1, BABBLE = 3, TRANSACTION = 4, TRB_ERROR = 5, STALL = 6, NO_SLOTS = 9, SLOT_OFF = 11, EP_OFF = 12, SHORT_PACKET = 13,
       PARAMETER = 17, CONTEXT_STATE = 19, RING_STOPPED = 24, STOPPED = 26 };

struct drv_event { uint64_t parameter; uint32_t status, control; };
struct drv_ring { uint64_t base; unsigned at; bool cycle; };
struct drv {
    struct conformance_world w;
    struct dp_device *d;
    struct dp_block block;
    struct drv_ring commands, ep[17][32];
    unsigned event_at;
    bool event_cycle;
    unsigned pins;
    bool pin;
};

static inline uint32_t drv_in(struct drv *r, unsigned reg) { return (uint32_t)dp_space_load(r->w.env.memory, DRV_BAR + reg, 4); }
static inline void drv_out(struct drv *r, unsigned reg, uint32_t v) { dp_space_store(r->w.env.memory, DRV_BAR + reg, v, 4); }
static inline void drv_out64(struct drv *r, unsigned reg, uint64_t v) { dp_space_store(r->w.env.memory, DRV_BAR + reg, v, 8); }
static inline uint8_t *drv_ram(struct drv *r, uint64_t at) { return r->w.ram->host + at; }

/* kinds: 't'ablet, 'k'eyboard, 'm'ouse, 's'torage */
static inline struct dp_device *drv_make(struct drv *r, const char *kinds, const struct dp_device_env *env)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_xhci_class, "usb", env);
    for (; *kinds; kinds++) {
        enum dp_usb_kind k = *kinds == 't'   ? DP_USB_TABLET
                             : *kinds == 'k' ? DP_USB_KEYBOARD
                             : *kinds == 'm' ? DP_USB_MOUSE
                                             : DP_USB_STORAGE;
        if (dp_xhci_attach(d, k, k == DP_USB_STORAGE ? &r->block : NULL, &e) < 1)
            abort();
    }
    if (dp_device_init(d, &e))
        abort();
    return d;
}

static inline void drv_init(struct drv *r, const char *kinds)
{
    struct dp_error e = {0};
    memset(r, 0, sizeof *r);
    conformance_world_init(&r->w);
    fake_block_init(&r->block, 1 << 20);
    for (unsigned i = 0; i < r->block.size; i += 4)
        dp_st32(r->block.data + i, i / 512 * 0x10001 + i % 512);
    r->d = drv_make(r, kinds, &r->w.env);
    if (dp_device_map(r->d, DP_XHCI_WINDOW, DRV_BAR, &e))
        abort();
    dp_device_resume(r->d);
    dp_pci_config_write(dp_xhci_function(r->d), DP_PCI_COMMAND, DP_PCI_COMMAND_MEMORY | DP_PCI_COMMAND_MASTER, 2);
}

static inline void drv_fini(struct drv *r)
{
    dp_device_free(r->d);
    fake_block_fini(&r->block);
    conformance_world_fini(&r->w);
}

static inline void drv_ring_init(struct drv *r, struct drv_ring *ring, uint64_t base)
{
    *ring = (struct drv_ring){base, 0, true};
    memset(drv_ram(r, base), 0, RING_TRBS * 16);
}

static inline uint64_t drv_put(struct drv *r, struct drv_ring *ring, uint64_t parameter, uint32_t status, uint32_t control)
{
    uint64_t at = ring->base + 16ull * ring->at;
    dp_st64(drv_ram(r, at), parameter);
    dp_st32(drv_ram(r, at + 8), status);
    dp_st32(drv_ram(r, at + 12), (control & ~1u) | ring->cycle);
    if (++ring->at == RING_TRBS - 1) {
        uint8_t *link = drv_ram(r, ring->base + 16ull * ring->at);
        dp_st64(link, ring->base);
        dp_st32(link + 8, 0);
        dp_st32(link + 12, TYPE(T_LINK) | TOGGLE | (control & CHAIN) | ring->cycle);
        ring->at = 0;
        ring->cycle = !ring->cycle;
    }
    return at;
}

static inline bool drv_event(struct drv *r, struct drv_event *e)
{
    unsigned half = EVENT_TRBS / 2;
    uint8_t *b = drv_ram(r, r->event_at < half ? EVENTS + 16 * r->event_at : EVENTS2 + 16 * (r->event_at - half));
    if ((dp_ld32(b + 12) & 1) != r->event_cycle)
        return false;
    *e = (struct drv_event){dp_ld64(b), dp_ld32(b + 8), dp_ld32(b + 12)};
    if (++r->event_at == EVENT_TRBS) {
        r->event_at = 0;
        r->event_cycle = !r->event_cycle;
    }
    return true;
}

/* Tells the controller how far events were read. */
static inline void drv_acknowledge(struct drv *r)
{
    unsigned half = EVENT_TRBS / 2;
    drv_out64(r, IR0 + 0x18, (r->event_at < half ? EVENTS + 16u * r->event_at : EVENTS2 + 16u * (r->event_at - half)) | 8);
}

static inline void drv_start(struct drv *r)
{
    drv_out(r, OP + 0x00, 2);
    drv_out(r, OP + 0x38, 16);
    drv_ring_init(r, &r->commands, COMMANDS);
    memset(drv_ram(r, DCBAA), 0, 0x400);
    memset(drv_ram(r, EVENTS), 0, 0x1000);
    for (unsigned s = 1; s <= 16; s++)
        dp_st64(drv_ram(r, DCBAA + 8 * s), CONTEXTS + 0x1000 * s);
    drv_out64(r, OP + 0x30, DCBAA);
    drv_out64(r, OP + 0x18, COMMANDS | 1);
    for (unsigned i = 0; i < 2; i++) {
        dp_st64(drv_ram(r, ERST + 16 * i), i ? EVENTS2 : EVENTS);
        dp_st64(drv_ram(r, ERST + 16 * i + 8), EVENT_TRBS / 2);
    }
    r->event_at = 0;
    r->event_cycle = true;
    drv_out(r, IR0 + 0x08, 2);
    drv_out64(r, IR0 + 0x18, EVENTS);
    drv_out64(r, IR0 + 0x10, ERST);
    drv_out(r, IR0, 2);
    drv_out(r, OP + 0x00, 1 | 4);
}

/* The next event that is no port's. */
static inline bool drv_wait(struct drv *r, struct drv_event *e)
{
    while (drv_event(r, e)) {
        drv_acknowledge(r);
        if ((e->control >> 10 & 63) != E_PORT)
            return true;
    }
    return false;
}

/* One command; its completion code, and the slot that its event names. */
static inline unsigned drv_command(struct drv *r, uint64_t parameter, uint32_t control, unsigned *slot)
{
    struct drv_event e = {0};
    uint64_t at = drv_put(r, &r->commands, parameter, 0, control);
    drv_out(r, DB, 0);
    if (!drv_wait(r, &e) || (e.control >> 10 & 63) != E_COMMAND || e.parameter != at)
        return 0;
    if (slot)
        *slot = e.control >> 24;
    return e.status >> 24;
}

static inline void drv_context(struct drv *r, unsigned index, uint32_t a, uint32_t b, uint64_t c)
{
    uint8_t *p = drv_ram(r, INPUT + 32 * index);
    memset(p, 0, 32);
    dp_st32(p, a);
    dp_st32(p + 4, b);
    dp_st64(p + 8, c);
}

static inline struct drv_ring *drv_new_ring(struct drv *r, unsigned slot, unsigned dci)
{
    drv_ring_init(r, &r->ep[slot][dci], RINGS + 0x20000 * slot + 0x1000 * dci);
    return &r->ep[slot][dci];
}

/* Reset of the port, a slot, an address. Returns the slot, 0 when something failed. */
static inline unsigned drv_address(struct drv *r, unsigned port)
{
    unsigned slot, reg = PORTSC1 + 0x10 * (port - 1), speed;
    drv_out(r, reg, 1 << 9 | 1 << 4);
    if (!(drv_in(r, reg) & 2) || drv_command(r, 0, TYPE(C_ENABLE), &slot) != OK)
        return 0;
    drv_out(r, reg, 1 << 9 | 0x7fu << 17);
    speed = drv_in(r, reg) >> 10 & 15;
    drv_context(r, 0, 0, 3, 0);
    drv_context(r, 1, 1u << 27 | speed << 20, port << 16, 0);
    drv_context(r, 2, 0, 4 << 3 | (speed == 4 ? 512u : 64u) << 16 | 3 << 1, drv_new_ring(r, slot, 1)->base | 1);
    return drv_command(r, INPUT, TYPE(C_ADDRESS) | slot << 24, NULL) == OK ? slot : 0;
}

static inline void drv_doorbell(struct drv *r, unsigned slot, unsigned dci) { drv_out(r, DB + 4 * slot, dci); }

/* A control transfer as Linux makes it; its completion code; *size: in: wLength; out: what was moved. Data are at DATA. */
static inline unsigned drv_control(struct drv *r, unsigned slot, unsigned type, unsigned request, unsigned value, unsigned index,
                                   unsigned *size)
{
    struct drv_ring *ring = &r->ep[slot][1];
    struct drv_event e = {0};
    unsigned n = *size;
    uint64_t setup = type | request << 8 | (uint64_t)value << 16 | (uint64_t)index << 32 | (uint64_t)n << 48;
    drv_put(r, ring, setup, 8, TYPE(T_SETUP) | IDT | (!n ? 0 : type & 0x80 ? 3u << 16 : 2u << 16));
    if (n)
        drv_put(r, ring, DATA, n, TYPE(T_DATA) | ISP | (type & 0x80 ? 1u << 16 : 0));
    uint64_t last = drv_put(r, ring, 0, 0, TYPE(T_STATUS) | IOC | (n && type & 0x80 ? 0 : 1u << 16));
    drv_doorbell(r, slot, 1);
    while (drv_wait(r, &e)) {
        if (e.status >> 24 == SHORT_PACKET)
            *size = n - (e.status & 0xffffff);
        if (e.parameter == last || (e.status >> 24 != OK && e.status >> 24 != SHORT_PACKET))
            return e.status >> 24;
    }
    return 0;
}

/* SET_CONFIGURATION and endpoints in and out (0: none). */
static inline bool drv_configure(struct drv *r, unsigned slot, unsigned in, unsigned out, bool interrupt, unsigned packet)
{
    unsigned in_dci = in * 2 + 1, out_dci = out * 2, last = DP_MAX(in_dci, out_dci), none = 0;
    drv_context(r, 0, 0, 1 | (in ? 1u << in_dci : 0) | (out ? 1u << out_dci : 0), 0);
    memcpy(drv_ram(r, INPUT + 32), drv_ram(r, CONTEXTS + 0x1000 * slot), 32);
    dp_st32(drv_ram(r, INPUT + 32), (dp_ld32(drv_ram(r, INPUT + 32)) & ~(31u << 27)) | last << 27);
    for (unsigned dci = 2; dci <= last; dci++)
        drv_context(r, dci + 1, 0, 0, 0);
    if (in)
        drv_context(r, in_dci + 1, interrupt ? 3 << 16 : 0, (interrupt ? 7 : 6) << 3 | packet << 16 | 3 << 1,
                    drv_new_ring(r, slot, in_dci)->base | 1);
    if (out)
        drv_context(r, out_dci + 1, 0, 2 << 3 | packet << 16 | 3 << 1, drv_new_ring(r, slot, out_dci)->base | 1);
    return drv_command(r, INPUT, TYPE(C_CONFIGURE) | slot << 24, NULL) == OK && drv_control(r, slot, 0, 9, 1, 0, &none) == OK;
}

/* One TD of one TRB at `at`. */
static inline uint64_t drv_queue(struct drv *r, unsigned slot, unsigned dci, uint64_t at, uint32_t size)
{
    uint64_t trb = drv_put(r, &r->ep[slot][dci], at, size, TYPE(T_NORMAL) | IOC | ISP);
    drv_doorbell(r, slot, dci);
    return trb;
}

/* A storage command: wrapper, data, status, as usb-storage has them one after the other. Returns the CSW's status, or -completion code. */
static inline int drv_scsi(struct drv *r, unsigned slot, const uint8_t *cdb, unsigned cdb_size, bool in, uint32_t size, uint64_t data,
                           uint32_t *residue)
{
    static const uint8_t zero[16];
    struct drv_event e = {0};
    uint8_t *cbw = drv_ram(r, DATA + 0x100000), *csw = drv_ram(r, DATA + 0x100100);
    memset(cbw, 0, 31);
    memcpy(cbw, "USBC", 4);
    dp_st32(cbw + 4, 0x1234);
    dp_st32(cbw + 8, size);
    cbw[12] = in ? 0x80 : 0;
    cbw[14] = (uint8_t)cdb_size;
    memcpy(cbw + 15, cdb_size ? cdb : zero, cdb_size);
    drv_queue(r, slot, 4, DATA + 0x100000, 31);
    if (!drv_wait(r, &e) || e.status >> 24 != OK)
        return -(int)(e.status >> 24);
    if (size) {
        drv_queue(r, slot, in ? 3 : 4, data, size);
        for (unsigned i = 0; i < 100; i++)
            fake_block_one(&r->block);
        if (!drv_wait(r, &e) || (e.status >> 24 != OK && e.status >> 24 != SHORT_PACKET))
            return -(int)(e.status >> 24);
    }
    memset(csw, 0, 13);
    drv_queue(r, slot, 3, DATA + 0x100100, 13);
    fake_block_one(&r->block);
    if (!drv_wait(r, &e) || e.status >> 24 != OK || memcmp(csw, "USBS", 4) || dp_ld32(csw + 4) != 0x1234)
        return -(int)(e.status >> 24);
    if (residue)
        *residue = dp_ld32(csw + 8);
    return csw[12];
}

#endif
