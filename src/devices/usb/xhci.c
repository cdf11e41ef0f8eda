/* xhci.c - registers, interrupts and the life of the controller; model and source in xhci.h, what the files share in xhci_internal.h.
 *
 * Locks and calls out: registers change under the device's lock; xhci_settle(), called at the end of every entry without it, submits what
 * storage waits for, sends messages and drives the interrupt pin, one thread at a time (irq_busy, as in uart.c).
 * Invariants: an interrupter's IP is set together with its EHB, and not again before software cleared EHB; then the ring is looked at
 * once more, so no event is left untold. With MSI-X a message takes IP with it (4.17.5). Interrupt moderation is kept, and not followed.
 * Frame number: microframes of VM time since the controller runs.
 */
#include "devices/usb/xhci_internal.h"

#include <sched.h>
#include <stdlib.h>

enum { WINDOW_SIZE = 0x4000, CAPLENGTH = 0x40, PORTS = 0x440, PORT_SIZE = 0x10, EXTENDED = 0x800, RUNTIME = 0x1000,
       INTERRUPTERS = RUNTIME + 0x20, INTERRUPTER_SIZE = 0x20, DOORBELLS = 0x2000 };
enum { REG_USBCMD = 0x00, REG_USBSTS = 0x04, REG_PAGESIZE = 0x08, REG_DNCTRL = 0x14, REG_CRCR = 0x18, REG_DCBAAP = 0x30,
       REG_CONFIG = 0x38 };
enum { REG_IMAN = 0x00, REG_IMOD = 0x04, REG_ERSTSZ = 0x08, REG_ERSTBA = 0x10, REG_ERDP = 0x18 };
enum { EXTENDED_LEGACY = EXTENDED, EXTENDED_USB2 = EXTENDED + 0x10, EXTENDED_USB3 = EXTENDED + 0x20, MSIX_BAR = 2 };
enum { MICROFRAME_NS = 125000, FRAME_MASK = 0x3fff, LATER_NS = 50000 };
enum { PCI_SBRN = 0x60, PCI_FLADJ = 0x61 };

/* ---- state ---- */

static const struct dp_field endpoint_fields[] = {
    DP_FIELD_U8(struct xhci_endpoint_regs, state, 1, EP_DISABLED, 7),
    DP_FIELD_U8(struct xhci_endpoint_regs, type, 2, 0, 7),
    DP_FIELD_BOOL(struct xhci_endpoint_regs, cycle, 3, false),
    DP_FIELD_BOOL(struct xhci_endpoint_regs, active, 4, false),
    DP_FIELD_U64(struct xhci_endpoint_regs, dequeue, 5, 0, ~15ull),
};
static const struct dp_state_table endpoint_table = DP_STATE_TABLE(struct xhci_endpoint_regs, "xhci-endpoint", endpoint_fields);

static const struct dp_field slot_fields[] = {
    DP_FIELD_BOOL(struct xhci_slot_regs, enabled, 1, false),
    DP_FIELD_U8(struct xhci_slot_regs, state, 2, SLOT_ENABLED, 3),
    DP_FIELD_U8(struct xhci_slot_regs, port, 3, 0, 15),
    DP_FIELD_U64(struct xhci_slot_regs, context, 4, 0, ~63ull),
    DP_FIELD_STRUCTS(struct xhci_slot_regs, endpoint, 5, &endpoint_table),
};
static const struct dp_state_table slot_table = DP_STATE_TABLE(struct xhci_slot_regs, "xhci-slot", slot_fields);

static const struct dp_field interrupter_fields[] = {
    DP_FIELD_U32(struct xhci_interrupter_regs, iman, 1, 0, IMAN_IP | IMAN_IE),
    DP_FIELD_U32(struct xhci_interrupter_regs, imod, 2, 4000, 0),
    DP_FIELD_U32(struct xhci_interrupter_regs, erstsz, 3, 0, 0xffff),
    DP_FIELD_U64(struct xhci_interrupter_regs, erstba, 4, 0, ~63ull),
    DP_FIELD_U64(struct xhci_interrupter_regs, erdp, 5, 0, 0),
    DP_FIELD_ARRAY(struct xhci_interrupter_regs, segment_base, 6, DP_KIND_U64, 0, ~63ull),
    DP_FIELD_ARRAY(struct xhci_interrupter_regs, segment_size, 7, DP_KIND_U32, 0, 0x1fff),
    DP_FIELD_U8(struct xhci_interrupter_regs, segment, 8, 0, XHCI_SEGMENTS - 1),
    DP_FIELD_U16(struct xhci_interrupter_regs, index, 9, 0, 0x1fff),
    DP_FIELD_BOOL(struct xhci_interrupter_regs, cycle, 10, true),
};
static const struct dp_state_table interrupter_table = DP_STATE_TABLE(struct xhci_interrupter_regs, "xhci-interrupter", interrupter_fields);

static const struct dp_field port_fields[] = {
    DP_FIELD_U32(struct xhci_port_regs, portsc, 1, PORTSC_PP | PLS_RXDETECT << 5,
                 PORTSC_CCS | PORTSC_PED | PORTSC_PLS | PORTSC_PP | PORTSC_SPEED | PORTSC_PIC | PORTSC_CHANGES | PORTSC_WAKE),
    DP_FIELD_U32(struct xhci_port_regs, portpmsc, 2, 0, 0),
};
static const struct dp_state_table port_table = DP_STATE_TABLE(struct xhci_port_regs, "xhci-port", port_fields);

static const struct dp_field xhci_fields[] = {
    DP_FIELD_STRUCT(struct xhci_regs, pci, 1, &dp_pci_regs_table),
    DP_FIELD_U32(struct xhci_regs, usbcmd, 2, 0, USBCMD_KEPT),
    DP_FIELD_U32(struct xhci_regs, usbsts, 3, USBSTS_HCH, USBSTS_HCH | USBSTS_RW1C),
    DP_FIELD_U32(struct xhci_regs, dnctrl, 4, 0, 0xffff),
    DP_FIELD_U32(struct xhci_regs, config, 5, 0, 0x3ff),
    DP_FIELD_U64(struct xhci_regs, crcr, 6, 0, ~14ull),
    DP_FIELD_BOOL(struct xhci_regs, command_running, 7, false),
    DP_FIELD_U64(struct xhci_regs, dcbaap, 8, 0, ~63ull),
    DP_FIELD_U64(struct xhci_regs, started, 9, 0, 0),
    DP_FIELD_U64(struct xhci_regs, frame, 10, 0, 0),
    DP_FIELD_U32(struct xhci_regs, usblegsup, 11, 0, LEGSUP_BIOS | LEGSUP_OS),
    DP_FIELD_U32(struct xhci_regs, usblegctlsts, 12, 0, 0xe011),
    DP_FIELD_U32(struct xhci_regs, msi_due, 13, 0, (1u << XHCI_INTERRUPTERS) - 1),
    DP_FIELD_BOOL(struct xhci_regs, starved, 14, false),
    DP_FIELD_STRUCTS(struct xhci_regs, interrupter, 15, &interrupter_table),
    DP_FIELD_STRUCTS(struct xhci_regs, port, 16, &port_table),
    DP_FIELD_STRUCTS(struct xhci_regs, slot, 17, &slot_table),
    DP_FIELD_STRUCTS(struct xhci_regs, usb, 18, &usb_regs_table),
};

/* A table's load calls its own check only. */
static int xhci_check(const void *regs, struct dp_error *e)
{
    const struct xhci_regs *r = regs;
    for (unsigned i = 0; i < XHCI_SLOTS; i++) {
        if (r->slot[i].port > DP_XHCI_PORTS)
            return dp_error_set(e, -EINVAL, "xhci: slot %u at port %u", i + 1, r->slot[i].port);
        for (unsigned n = 0; n < XHCI_ENDPOINTS; n++)
            if (r->slot[i].endpoint[n].state >= EP_STATES)
                return dp_error_set(e, -EINVAL, "xhci: slot %u has an endpoint in state %u", i + 1, r->slot[i].endpoint[n].state);
    }
    for (unsigned i = 0; i < XHCI_INTERRUPTERS; i++) {
        const struct xhci_interrupter_regs *n = &r->interrupter[i];
        bool place = !n->segment_size[0] ? !n->segment && !n->index : n->index < n->segment_size[n->segment];
        for (unsigned s = 0; s < n->segment; s++)
            place &= n->segment_size[s] > 0;
        if (!place)
            return dp_error_set(e, -EINVAL, "xhci: event ring %u goes on at %u of segment %u", i, n->index, n->segment);
    }
    int code = 0;
    for (unsigned i = 0; !code && i < DP_XHCI_PORTS; i++)
        code = usb_regs_check(&r->usb[i], e);
    return code;
}

static void xhci_clamp(void *regs)
{
    struct xhci_regs *r = regs;
    for (unsigned i = 0; i < XHCI_SLOTS; i++) {
        r->slot[i].port %= DP_XHCI_PORTS + 1;
        for (unsigned n = 0; n < XHCI_ENDPOINTS; n++)
            r->slot[i].endpoint[n].state %= EP_STATES;
    }
    for (unsigned i = 0; i < XHCI_INTERRUPTERS; i++) {
        struct xhci_interrupter_regs *n = &r->interrupter[i];
        for (unsigned s = 0; s < XHCI_SEGMENTS; s++)
            if (!n->segment_size[s]) {
                n->segment = n->segment > s ? 0 : n->segment;
                n->index = n->segment >= s ? 0 : n->index;
            }
        if (!n->segment_size[0] || !n->segment_size[n->segment])
            n->segment = 0;
        n->index = n->segment_size[n->segment] ? n->index % n->segment_size[n->segment] : 0;
    }
    for (unsigned i = 0; i < DP_XHCI_PORTS; i++)
        usb_regs_clamp(&r->usb[i]);
}

static const struct dp_state_table xhci_table =
    DP_STATE_TABLE(struct xhci_regs, "xhci", xhci_fields, .check = xhci_check, .clamp = xhci_clamp);

/* ---- memory ---- */

bool xhci_operates(const struct xhci *x)
{
    return x->running && !(x->regs.usbsts & (USBSTS_HCH | USBSTS_HSE)) &&
           (dp_ld16(x->regs.pci.config + DP_PCI_COMMAND) & DP_PCI_COMMAND_MASTER);
}

static bool access(struct xhci *x, uint64_t address, uint8_t *data, uint32_t size, bool write)
{
    struct dp_space *space = x->device.env->memory;
    if (address + size < address)
        return false;
    while (size) {
        struct dp_pin p;
        if (!dp_space_pin(space, address, size, write, &p))
            return false;
        uint32_t n = (uint32_t)DP_MIN(p.size, (uint64_t)size);
        if (write)
            memcpy(p.host, data, n);
        else
            memcpy(data, p.host, n);
        dp_space_unpin(space, &p, write ? n : 0);
        if (!n)
            return false;
        address += n;
        data += n;
        size -= n;
    }
    return true;
}

bool xhci_read(struct xhci *x, uint64_t address, void *data, uint32_t size) { return access(x, address, data, size, false); }
bool xhci_write(struct xhci *x, uint64_t address, const void *data, uint32_t size)
{
    return access(x, address, (uint8_t *)data, size, true);
}

static uint64_t now(struct xhci *x) { return dp_clock_now(x->device.env->clock); }
void xhci_later(struct xhci *x) { dp_timer_arm(&x->more, now(x) + LATER_NS); }

/* ---- interrupts ---- */

/* Without dp_pci_msix_enabled, which takes the lock. */
static bool msix(const struct xhci *x) { return x->regs.pci.config[x->function.msix_cap + 3] & 0x80; }

static bool wants(const struct xhci *x, unsigned n)
{
    return (x->regs.usbcmd & USBCMD_INTE) && (x->regs.interrupter[n].iman & (IMAN_IP | IMAN_IE)) == (IMAN_IP | IMAN_IE);
}

/* A message that is due takes IP with it. */
static void messages(struct xhci *x)
{
    for (unsigned n = 0; n < XHCI_INTERRUPTERS && msix(x); n++)
        if (wants(x, n)) {
            x->regs.interrupter[n].iman &= ~(uint32_t)IMAN_IP;
            x->regs.msi_due |= 1u << n;
        }
}

void xhci_interrupt(struct xhci *x, unsigned n)
{
    struct xhci_interrupter_regs *r = &x->regs.interrupter[n];
    if (r->erdp & ERDP_EHB)
        return;
    r->erdp |= ERDP_EHB;
    r->iman |= IMAN_IP;
    x->regs.usbsts |= USBSTS_EINT;
    messages(x);
}

static bool pin_level(const struct xhci *x)
{
    bool level = false;
    for (unsigned n = 0; n < XHCI_INTERRUPTERS && !msix(x); n++)
        level |= wants(x, n);
    return level;
}

static bool submit_due(struct xhci *x)
{
    for (unsigned i = 0; i < DP_XHCI_PORTS; i++) {
        struct usb_device *d = &x->dev[i].usb;
        if (d->io != USB_IO_DUE)
            continue;
        d->io = USB_IO_FLYING;
        d->request.done = xhci_io_done;
        pthread_mutex_unlock(&x->device.lock);
        dp_block_submit(d->block, &d->request);
        pthread_mutex_lock(&x->device.lock);
        return true;
    }
    return false;
}

void xhci_settle(struct xhci *x)
{
    pthread_mutex_lock(&x->device.lock);
    x->done_trbs = 0;
    while (x->running && submit_due(x))
        ;
    while (x->running) {
        uint32_t due = x->regs.msi_due;
        bool level = pin_level(x);
        if (x->irq_busy && !level && x->irq_driven) { /* or the guest, which has taken the cause away, sees it up until the other runs */
            pthread_cond_wait(&x->irq_idle, &x->device.lock);
            continue;
        }
        if (x->irq_busy || (!due && level == x->irq_driven))
            break;
        x->regs.msi_due = 0;
        x->irq_driven = level;
        x->irq_busy = true;
        pthread_mutex_unlock(&x->device.lock);
        dp_pci_intx(&x->function, level);
        for (unsigned n = 0; n < XHCI_INTERRUPTERS; n++)
            if (due >> n & 1)
                dp_pci_msix_send(&x->function, n);
        pthread_mutex_lock(&x->device.lock);
        x->irq_busy = false;
        pthread_cond_broadcast(&x->irq_idle);
    }
    pthread_mutex_unlock(&x->device.lock);
}

/* ---- starting and stopping ---- */

static uint64_t frame(struct xhci *x)
{
    return x->regs.usbsts & USBSTS_HCH ? x->regs.frame : x->regs.frame + (now(x) - x->regs.started) / MICROFRAME_NS;
}

/* Nothing of any endpoint goes on; TDs are begun anew when the controller runs again. */
static void drop_all(struct xhci *x)
{
    for (unsigned i = 0; i < DP_XHCI_PORTS; i++)
        if (x->dev[i].has_td)
            xhci_stop_endpoint(x, x->dev[i].busy->slot, x->dev[i].busy->endpoint, false);
}

static void halt(struct xhci *x)
{
    if (x->regs.usbsts & USBSTS_HCH)
        return;
    drop_all(x);
    x->regs.frame = frame(x) & FRAME_MASK;
    x->regs.usbcmd &= ~(uint32_t)USBCMD_RS;
    x->regs.usbsts |= USBSTS_HCH;
    x->regs.command_running = false;
}

void xhci_dead(struct xhci *x, const char *why, uint64_t address)
{
    dp_trace_guest(x->device.env->trace, "%s: stopped: %s at 0x%llx is no RAM or goes in circles", x->device.id, why,
                   (unsigned long long)address);
    halt(x);
    x->regs.usbsts |= USBSTS_HSE;
}

/* HCRST, and power-on: all but the configuration space and the semaphores, which lie in the auxiliary power well. */
static void controller_reset(struct xhci *x)
{
    struct xhci_regs *r = &x->regs;
    drop_all(x);
    for (unsigned s = 1; s <= XHCI_SLOTS; s++)
        xhci_slot_disable(x, s);
    r->usbcmd = 0;
    r->usbsts = USBSTS_HCH;
    r->dnctrl = r->config = r->msi_due = 0;
    r->crcr = r->dcbaap = r->started = r->frame = 0;
    r->command_running = r->starved = false;
    for (unsigned n = 0; n < XHCI_INTERRUPTERS; n++)
        dp_state_reset(&interrupter_table, &r->interrupter[n]);
    xhci_ports_reset(x);
}

static void write_usbcmd(struct xhci *x, uint32_t v)
{
    struct xhci_regs *r = &x->regs;
    if (v & USBCMD_HCRST) {
        controller_reset(x);
        return;
    }
    if (v & USBCMD_CSS)
        r->usbsts &= ~(uint32_t)USBSTS_SRE;
    if (v & USBCMD_CRS) /* nothing was kept: the driver starts anew */
        r->usbsts |= USBSTS_SRE;
    bool start = (v & USBCMD_RS) && (r->usbsts & USBSTS_HCH);
    r->usbcmd = v & USBCMD_KEPT;
    if (start) {
        r->started = now(x);
        r->usbsts &= ~(uint32_t)USBSTS_HCH;
        xhci_ports_tell(x);
        xhci_run_all(x);
    } else if (!(v & USBCMD_RS)) {
        halt(x);
    }
    messages(x);
}

/* ---- registers ---- */

static uint32_t half(uint64_t v, unsigned offset) { return (uint32_t)(offset & 4 ? v >> 32 : v); }
static void set_half(uint64_t *to, unsigned offset, uint32_t v, uint64_t mask)
{
    uint64_t wide = offset & 4 ? (*to & 0xffffffff) | (uint64_t)v << 32 : (*to & ~0xffffffffull) | v;
    *to = wide & mask;
}

static uint32_t read_capability(unsigned offset)
{
    static const uint32_t registers[] = {
        CAPLENGTH | 0x0100 << 16,                                       /* and HCIVERSION: 1.0, what all drivers know */
        XHCI_SLOTS | XHCI_INTERRUPTERS << 8 | DP_XHCI_PORTS << 24,      /* HCSPARAMS1 */
        0x0f | 2 << 4,                                                  /* HCSPARAMS2: event rings of 4 segments; no scratchpads */
        0,                                                              /* HCSPARAMS3 */
        1 | (EXTENDED / 4) << 16,                                       /* HCCPARAMS1: 64-bit addresses, contexts of 32 bytes */
        DOORBELLS, RUNTIME, 0,
    };
    return offset / 4 < DP_ARRAY_LEN(registers) ? registers[offset / 4] : 0;
}

static uint32_t read_extended(struct xhci *x, unsigned offset)
{
    switch (offset) {
    case EXTENDED_LEGACY: return 1 | (EXTENDED_USB2 - EXTENDED_LEGACY) / 4 << 8 | x->regs.usblegsup;
    case EXTENDED_LEGACY + 4: return x->regs.usblegctlsts;
    case EXTENDED_USB2: return 2 | (EXTENDED_USB3 - EXTENDED_USB2) / 4 << 8 | 0x0200 << 16;
    case EXTENDED_USB3: return 2 | 0x0300 << 16;
    case EXTENDED_USB2 + 4: case EXTENDED_USB3 + 4: return 0x20425355; /* "USB " */
    case EXTENDED_USB2 + 8: return (XHCI_USB3_PORTS + 1) | (DP_XHCI_PORTS - XHCI_USB3_PORTS) << 8;
    case EXTENDED_USB3 + 8: return 1 | XHCI_USB3_PORTS << 8;
    default: return 0;
    }
}

static uint32_t read_operational(struct xhci *x, unsigned offset)
{
    const struct xhci_regs *r = &x->regs;
    switch (offset) {
    case REG_USBCMD: return r->usbcmd;
    case REG_USBSTS: return r->usbsts;
    case REG_PAGESIZE: return 1;
    case REG_DNCTRL: return r->dnctrl;
    case REG_CRCR: return r->command_running ? CRCR_CRR : 0; /* pointer and RCS read as zero */
    case REG_DCBAAP: case REG_DCBAAP + 4: return half(r->dcbaap, offset);
    case REG_CONFIG: return r->config;
    default: return 0;
    }
}

static uint32_t read_runtime(struct xhci *x, unsigned offset)
{
    unsigned n = (offset - INTERRUPTERS) / INTERRUPTER_SIZE;
    if (offset == RUNTIME)
        return frame(x) & FRAME_MASK;
    if (offset < INTERRUPTERS || n >= XHCI_INTERRUPTERS)
        return 0;
    const struct xhci_interrupter_regs *r = &x->regs.interrupter[n];
    switch (offset % INTERRUPTER_SIZE) {
    case REG_IMAN: return r->iman;
    case REG_IMOD: return r->imod;
    case REG_ERSTSZ: return r->erstsz;
    case REG_ERSTBA: case REG_ERSTBA + 4: return half(r->erstba, offset);
    case REG_ERDP: case REG_ERDP + 4: return half(r->erdp, offset);
    default: return 0;
    }
}

static uint64_t xhci_window_read(void *opaque, uint64_t at, unsigned size)
{
    struct xhci *x = opaque;
    unsigned offset = (unsigned)at, port = (offset - PORTS) / PORT_SIZE;
    uint32_t v = 0;
    pthread_mutex_lock(&x->device.lock);
    if (offset < CAPLENGTH)
        v = read_capability(offset);
    else if (offset < PORTS)
        v = read_operational(x, offset - CAPLENGTH);
    else if (offset < EXTENDED)
        v = port >= DP_XHCI_PORTS     ? 0
            : offset % PORT_SIZE == 0 ? x->regs.port[port].portsc
            : offset % PORT_SIZE == 4 ? x->regs.port[port].portpmsc
                                      : 0;
    else if (offset < RUNTIME)
        v = read_extended(x, offset);
    else if (offset < DOORBELLS)
        v = read_runtime(x, offset);
    pthread_mutex_unlock(&x->device.lock);
    return v;
}

static void write_crcr(struct xhci *x, unsigned offset, uint32_t v)
{
    struct xhci_regs *r = &x->regs;
    if (!r->command_running) {
        uint64_t crcr = r->crcr;
        set_half(&crcr, offset, offset & 4 ? v : v & ~62u, ~14ull);
        r->crcr = crcr;
    } else if (!(offset & 4) && (v & (CRCR_CS | CRCR_CA))) { /* nothing is ever in the middle of a command */
        r->command_running = false;
        xhci_event(x, 0, r->crcr & ~15ull, (uint32_t)CC_RING_STOPPED << 24, (uint32_t)TRB_COMMAND_COMPLETION << TRB_TYPE_SHIFT);
    }
}

static void write_operational(struct xhci *x, unsigned offset, uint32_t v)
{
    struct xhci_regs *r = &x->regs;
    switch (offset) {
    case REG_USBCMD: write_usbcmd(x, v); break;
    case REG_USBSTS: r->usbsts &= ~(v & (USBSTS_EINT | USBSTS_PCD | USBSTS_SRE | USBSTS_HSE)); break;
    case REG_DNCTRL: r->dnctrl = v & 0xffff; break;
    case REG_CRCR: case REG_CRCR + 4: write_crcr(x, offset, v); break;
    case REG_DCBAAP: case REG_DCBAAP + 4: set_half(&r->dcbaap, offset, v, ~63ull); break;
    case REG_CONFIG: r->config = v & 0x3ff; break;
    default: break;
    }
}

/* Where software is in the ring: there may be room now, and there may be more to tell of. */
static void write_erdp(struct xhci *x, unsigned n, unsigned offset, uint32_t v)
{
    struct xhci_interrupter_regs *r = &x->regs.interrupter[n];
    uint64_t ehb = r->erdp & ERDP_EHB;
    if (!(offset & 4) && (v & ERDP_EHB))
        ehb = 0;
    set_half(&r->erdp, offset, v, ~(uint64_t)ERDP_EHB);
    r->erdp |= ehb;
    if (x->regs.starved) {
        x->regs.starved = false;
        xhci_run_all(x);
    }
    uint64_t place = r->segment_base[r->segment] + 16ull * r->index;
    if (!ehb && !(offset & 4) && r->segment_size[0] && (uint32_t)(r->erdp & ~15ull) != (uint32_t)place)
        xhci_interrupt(x, n);
}

static void write_runtime(struct xhci *x, unsigned offset, uint32_t v)
{
    unsigned n = (offset - INTERRUPTERS) / INTERRUPTER_SIZE;
    if (offset < INTERRUPTERS || n >= XHCI_INTERRUPTERS)
        return;
    struct xhci_interrupter_regs *r = &x->regs.interrupter[n];
    switch (offset % INTERRUPTER_SIZE) {
    case REG_IMAN:
        r->iman = (r->iman & IMAN_IP & ~v) | (v & IMAN_IE);
        messages(x);
        break;
    case REG_IMOD: r->imod = v; break;
    case REG_ERSTSZ: r->erstsz = v & 0xffff; break;
    case REG_ERSTBA: set_half(&r->erstba, offset, v, ~63ull); break;
    case REG_ERSTBA + 4: /* the second half of a write of 64 bits sets the ring up (4.9.4) */
        set_half(&r->erstba, offset, v, ~63ull);
        xhci_event_ring_init(x, n);
        break;
    case REG_ERDP: case REG_ERDP + 4: write_erdp(x, n, offset, v); break;
    default: break;
    }
}

static void ring_doorbell(struct xhci *x, unsigned slot, uint32_t v)
{
    unsigned target = v & 0xff;
    if (x->regs.usbsts & USBSTS_HCH) {
        dp_trace_guest(x->device.env->trace, "%s: a doorbell of a controller that is halted", x->device.id);
    } else if (!slot) {
        x->regs.command_running |= !target;
        xhci_run_commands(x);
    } else if (slot > XHCI_SLOTS || !x->regs.slot[slot - 1].enabled || target < 1 || target > XHCI_ENDPOINTS) {
        dp_trace_guest(x->device.env->trace, "%s: doorbell of slot %u, endpoint %u", x->device.id, slot, target);
    } else {
        if (x->regs.slot[slot - 1].endpoint[target - 1].state == EP_STOPPED)
            xhci_set_endpoint_state(x, slot, target, EP_RUNNING);
        xhci_run_endpoint(x, slot, target);
    }
}

static void xhci_window_write(void *opaque, uint64_t at, uint64_t value, unsigned size)
{
    struct xhci *x = opaque;
    unsigned offset = (unsigned)at, port = (offset - PORTS) / PORT_SIZE;
    uint32_t v = (uint32_t)value;
    pthread_mutex_lock(&x->device.lock);
    if (offset >= DOORBELLS) {
        ring_doorbell(x, (offset - DOORBELLS) / 4, v);
    } else if (offset >= RUNTIME) {
        write_runtime(x, offset, v);
    } else if (offset == EXTENDED_LEGACY) { /* the system software's semaphore takes the other: nobody is there to give it */
        x->regs.usblegsup = v & LEGSUP_OS ? LEGSUP_OS : v & LEGSUP_BIOS;
    } else if (offset == EXTENDED_LEGACY + 4) {
        x->regs.usblegctlsts = v & 0xe011;
    } else if (offset >= PORTS && offset < EXTENDED && port < DP_XHCI_PORTS) {
        if (offset % PORT_SIZE == 0)
            xhci_port_write(x, port, v);
        else if (offset % PORT_SIZE == 4)
            x->regs.port[port].portpmsc = v;
    } else if (offset >= CAPLENGTH && offset < PORTS) {
        write_operational(x, offset - CAPLENGTH, v);
    }
    pthread_mutex_unlock(&x->device.lock);
    xhci_settle(x);
}

static const struct dp_window_ops xhci_ops = {
    .name = "xhci", .read = xhci_window_read, .write = xhci_window_write, .min_size = 4, .max_size = 4};
static const struct dp_window_spec xhci_windows[] = {[DP_XHCI_WINDOW] = {"registers", WINDOW_SIZE, &xhci_ops, false}};

/* ---- input ---- */

/* The guest has configured one and takes what it says. */
static struct xhci_device *listener(struct xhci *x, enum dp_usb_kind kind)
{
    for (unsigned i = 0; i < DP_XHCI_PORTS; i++) {
        const struct usb_device *d = &x->dev[i].usb;
        if (d->kind == kind && d->regs->configuration && !(x->regs.usbsts & (USBSTS_HCH | USBSTS_HSE)) &&
            (x->regs.port[i].portsc & PORTSC_PED) && d->regs->hid.count < USB_HID_QUEUE)
            return &x->dev[i];
    }
    return NULL;
}

static void told(struct xhci *x, struct xhci_device *dev, bool news)
{
    if (news)
        xhci_run_device(x, (unsigned)(dev - x->dev) + 1);
}

bool dp_xhci_key(struct dp_device *device, unsigned code, bool down)
{
    struct xhci *x = xhci_of(device);
    pthread_mutex_lock(&device->lock);
    struct xhci_device *dev = listener(x, DP_USB_KEYBOARD);
    if (dev)
        told(x, dev, usb_hid_key(&dev->usb, code, down));
    pthread_mutex_unlock(&device->lock);
    xhci_settle(x);
    return dev;
}

static bool pointer(struct dp_device *device, enum dp_usb_kind kind, int a, int b, int wheel, unsigned buttons)
{
    struct xhci *x = xhci_of(device);
    pthread_mutex_lock(&device->lock);
    struct xhci_device *dev = listener(x, kind);
    if (dev)
        told(x, dev, usb_hid_pointer(&dev->usb, a, b, wheel, buttons));
    pthread_mutex_unlock(&device->lock);
    xhci_settle(x);
    return dev;
}

bool dp_xhci_motion(struct dp_device *d, int dx, int dy, int wheel, unsigned buttons)
{
    return pointer(d, DP_USB_MOUSE, dx, dy, wheel, buttons);
}

bool dp_xhci_position(struct dp_device *d, unsigned x, unsigned y, int wheel, unsigned buttons)
{
    return pointer(d, DP_USB_TABLET, (int)DP_MIN(x, 0x7fffu), (int)DP_MIN(y, 0x7fffu), wheel, buttons);
}

bool dp_xhci_listens(struct dp_device *d, enum dp_usb_kind kind)
{
    pthread_mutex_lock(&d->lock);
    bool yes = kind != DP_USB_STORAGE && kind != DP_USB_NONE && listener(xhci_of(d), kind);
    pthread_mutex_unlock(&d->lock);
    return yes;
}

/* ---- life ---- */

static void timer_due(void *opaque)
{
    struct xhci *x = opaque;
    pthread_mutex_lock(&x->device.lock);
    xhci_run_all(x);
    pthread_mutex_unlock(&x->device.lock);
    xhci_settle(x);
}

/* Bus mastering that is switched on lets go on what waits; MSI-X that is switched on or off moves interrupts to the other way. */
static void config_changed(struct dp_pci_function *f)
{
    struct xhci *x = DP_CONTAINER_OF(f, struct xhci, function);
    pthread_mutex_lock(&x->device.lock);
    messages(x);
    xhci_run_all(x);
    pthread_mutex_unlock(&x->device.lock);
    xhci_settle(x);
}

int dp_xhci_attach(struct dp_device *device, enum dp_usb_kind kind, struct dp_block *block, struct dp_error *e)
{
    struct xhci *x = xhci_of(device);
    unsigned first = kind == DP_USB_STORAGE ? 0 : XHCI_USB3_PORTS, last = kind == DP_USB_STORAGE ? XHCI_USB3_PORTS : DP_XHCI_PORTS,
             n = first;
    while (n < last && x->dev[n].usb.kind != DP_USB_NONE)
        n++;
    if (n == last)
        return dp_error_set(e, -ENOSPC, "USB has ports for %u %s", last - first,
                            kind == DP_USB_STORAGE ? "disks" : "keyboards and pointers");
    x->dev[n].usb.kind = kind;
    x->dev[n].usb.block = block;
    return (int)(n - first + 1);
}

static int xhci_init(struct dp_device *device, struct dp_error *e)
{
    static const struct dp_pci_id id = {.vendor = 0x1b36,
                                        .device = 0x000d,
                                        .class_code = 0x0c0330,
                                        .revision = 1,
                                        .subsystem_vendor = 0x1af4,
                                        .subsystem = 0x1100,
                                        .interrupt_pin = 1};
    struct xhci *x = xhci_of(device);
    int code = 0;
    pthread_cond_init(&x->irq_idle, NULL);
    x->irq_driven = -1;
    for (unsigned i = 0; !code && i < DP_XHCI_PORTS; i++) {
        struct xhci_device *dev = &x->dev[i];
        dev->xhci = x;
        if (dev->usb.kind == DP_USB_NONE)
            continue;
        snprintf(dev->usb.serial, sizeof(dev->usb.serial), "D0E1%08X", i + 1);
        code = usb_device_init(&dev->usb, dev->usb.kind, &x->regs.usb[i], device->env, device->id, e);
        if (!code && dev->usb.kind == DP_USB_STORAGE && !(dev->busy = calloc(1, sizeof(*dev->busy))))
            code = dp_error_set(e, -ENOMEM, "out of memory");
    }
    if (code) {
        for (unsigned i = 0; i < DP_XHCI_PORTS; i++) {
            usb_device_fini(&x->dev[i].usb);
            free(x->dev[i].busy);
        }
        return code;
    }
    dp_timer_init(&x->more, device->env->clock, timer_due, x);
    dp_timer_init(&x->idle, device->env->clock, timer_due, x);
    dp_pci_function_init(&x->function, &x->regs.pci, &id, device->env, &device->lock);
    dp_pci_set_config(&x->function, PCI_SBRN, 0x2030, 2); /* USB 3.0; frame length adjustment: none */
    x->function.write_mask[PCI_FLADJ] = 0x3f;
    dp_pci_add_bar(&x->function, 0, WINDOW_SIZE, false, true, &xhci_ops, x);
    dp_pci_add_msix(&x->function, MSIX_BAR, XHCI_INTERRUPTERS);
    x->function.config_changed = config_changed;
    return 0;
}

/* No lock held: waits until nothing is in the block layer. */
static void drain(struct xhci *x)
{
    for (unsigned i = 0; i < DP_XHCI_PORTS; i++) {
        struct usb_device *d = &x->dev[i].usb;
        for (bool again = d->kind == DP_USB_STORAGE; again;) {
            dp_block_drain(d->block);
            pthread_mutex_lock(&x->device.lock);
            again = d->io == USB_IO_FLYING; /* a request may be on its way to the block layer */
            pthread_mutex_unlock(&x->device.lock);
            if (again)
                sched_yield();
        }
    }
}

/* A TD whose request is dropped here begins anew on resume: its registers have not moved. */
static void xhci_pause(struct dp_device *device)
{
    struct xhci *x = xhci_of(device);
    pthread_mutex_lock(&device->lock);
    x->running = false;
    drop_all(x);
    pthread_mutex_unlock(&device->lock);
    drain(x);
}

static void xhci_resume(struct dp_device *device)
{
    struct xhci *x = xhci_of(device);
    pthread_mutex_lock(&device->lock);
    x->running = true;
    xhci_run_all(x);
    pthread_mutex_unlock(&device->lock);
    xhci_settle(x);
}

static void xhci_fini(struct dp_device *device)
{
    struct xhci *x = xhci_of(device);
    dp_pci_unplug(&x->function);
    xhci_pause(device); /* nothing may come back to us after this */
    dp_timer_fini(&x->more);
    dp_timer_fini(&x->idle);
    for (unsigned i = 0; i < DP_XHCI_PORTS; i++) {
        usb_device_fini(&x->dev[i].usb);
        free(x->dev[i].busy);
    }
    pthread_cond_destroy(&x->irq_idle);
}

static void xhci_reset(struct dp_device *device)
{
    struct xhci *x = xhci_of(device);
    pthread_mutex_lock(&device->lock);
    dp_timer_disarm(&x->more);
    dp_timer_disarm(&x->idle);
    drop_all(x);
    pthread_mutex_unlock(&device->lock);
    drain(x);
    pthread_mutex_lock(&device->lock);
    controller_reset(x);
    x->regs.usblegsup = x->regs.usblegctlsts = 0;
    x->irq_driven = -1;
    pthread_mutex_unlock(&device->lock);
    dp_pci_function_reset(&x->function);
}

static void xhci_post_load(struct dp_device *device)
{
    struct xhci *x = xhci_of(device);
    pthread_mutex_lock(&device->lock);
    x->irq_driven = -1;
    pthread_mutex_unlock(&device->lock);
    dp_pci_function_post_load(&x->function);
    xhci_settle(x);
}

struct dp_pci_function *dp_xhci_function(struct dp_device *d) { return &xhci_of(d)->function; }

const struct dp_device_class dp_xhci_class = {
    .name = "xhci",
    .summary = "USB 3 host controller (xHCI) with keyboards, pointers and disks",
    .size = sizeof(struct xhci),
    .regs_offset = offsetof(struct xhci, regs),
    .state = &xhci_table,
    .windows = xhci_windows,
    .window_count = DP_ARRAY_LEN(xhci_windows),
    .init = xhci_init,
    .fini = xhci_fini,
    .reset = xhci_reset,
    .pause = xhci_pause,
    .resume = xhci_resume,
    .post_load = xhci_post_load,
};
