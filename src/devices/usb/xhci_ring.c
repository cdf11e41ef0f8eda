/* xhci_ring.c - event rings, transfer rings and the transfers themselves; xHCI 1.2 4.9 (rings), 4.10 (completion, short packets), 4.11
 * (TRBs).
 *
 * Model: an endpoint does one TD at a time, whole: its TRBs are copied (xhci_td) and followed through links to the TD's end, the device
 * is asked, buffers are moved, events are written, and only then the dequeue pointer moves. A TD whose end is not there yet waits; so
 * does one for whose events there is no room. A control transfer is one TD here: setup, data and status stages.
 * Bounds: one call does BUDGET_TDS TDs of an endpoint at most, ROUNDS times, and all endpoints together TDs of BUDGET_TRBS TRBs; it goes
 * on later (xhci_later). A TD has XHCI_TD_TRBS TRBs at most; LINKS_MAX links in a row, or a TD that is longer, are a TRB error.
 */
#include "devices/usb/xhci_internal.h"

enum { BUDGET_TDS = 128, BUDGET_TRBS = 16384, ROUNDS = 16, LINKS_MAX = 32, LENGTH_MASK = 0x1ffff };

/* ---- the event ring ---- */

void xhci_event_ring_init(struct xhci *x, unsigned n)
{
    struct xhci_interrupter_regs *r = &x->regs.interrupter[n];
    unsigned count = DP_MIN(r->erstsz, (uint32_t)XHCI_SEGMENTS);
    memset(r->segment_base, 0, sizeof(r->segment_base));
    memset(r->segment_size, 0, sizeof(r->segment_size));
    r->segment = 0;
    r->index = 0;
    r->cycle = true;
    for (unsigned i = 0; i < count; i++) {
        uint8_t entry[16];
        if (!xhci_read(x, r->erstba + 16ull * i, entry, sizeof(entry))) {
            xhci_dead(x, "an event ring's segment table", r->erstba);
            r->segment_size[0] = 0;
            return;
        }
        uint32_t size = dp_ld32(entry + 8) & 0xffff;
        if (size < 16 || size > 4096) {
            dp_trace_guest(x->device.env->trace, "%s: event ring segment %u of %u TRBs", x->device.id, i, size);
            r->segment_size[0] = 0;
            return;
        }
        r->segment_base[i] = dp_ld64(entry) & ~63ull;
        r->segment_size[i] = size;
    }
}

static unsigned segments(const struct xhci_interrupter_regs *r)
{
    unsigned n = 0;
    while (n < XHCI_SEGMENTS && r->segment_size[n])
        n++;
    return n;
}

unsigned xhci_event_room(const struct xhci *x, unsigned n)
{
    const struct xhci_interrupter_regs *r = &x->regs.interrupter[n];
    uint64_t dequeue = r->erdp & ~15ull;
    unsigned total = 0, at = 0, from = 0, count = segments(r);
    bool found = false;
    for (unsigned i = 0; i < count; i++) {
        if (i == r->segment)
            at = total + r->index;
        if (!found && dequeue >= r->segment_base[i] && dequeue - r->segment_base[i] < 16ull * r->segment_size[i]) {
            from = total + (unsigned)((dequeue - r->segment_base[i]) / 16);
            found = true;
        }
        total += r->segment_size[i];
    }
    return !count ? 0 : !found ? total - 1 : (from + total - at - 1) % total;
}

void xhci_event(struct xhci *x, unsigned n, uint64_t parameter, uint32_t status, uint32_t control)
{
    struct xhci_interrupter_regs *r = &x->regs.interrupter[n];
    uint8_t b[TRB_SIZE];
    if (!r->segment_size[0] || r->segment >= XHCI_SEGMENTS || !xhci_event_room(x, n)) {
        dp_trace_guest(x->device.env->trace, "%s: no event ring %u, or no room in it: an event of type %u is lost", x->device.id, n,
                       control >> TRB_TYPE_SHIFT & 63);
        return;
    }
    dp_st64(b, parameter);
    dp_st32(b + 8, status);
    dp_st32(b + 12, control | r->cycle);
    uint64_t at = r->segment_base[r->segment] + 16ull * r->index;
    /* The cycle bit last: the guest may look at any time. */
    if (!xhci_write(x, at, b, 12)) {
        xhci_dead(x, "an event ring", at);
        return;
    }
    atomic_thread_fence(memory_order_release);
    if (!xhci_write(x, at + 12, b + 12, 4)) {
        xhci_dead(x, "an event ring", at);
        return;
    }
    if (++r->index >= r->segment_size[r->segment]) {
        r->index = 0;
        if (++r->segment >= segments(r)) {
            r->segment = 0;
            r->cycle = !r->cycle;
        }
    }
    xhci_interrupt(x, n);
}

/* ---- reading rings ---- */

int xhci_fetch(struct xhci *x, uint64_t *dequeue, bool *cycle, struct xhci_trb *t, uint64_t *address)
{
    for (unsigned links = 0; links < LINKS_MAX; links++) {
        uint8_t b[TRB_SIZE];
        if (!xhci_read(x, *dequeue, b, sizeof(b)))
            return -1;
        *t = (struct xhci_trb){dp_ld64(b), dp_ld32(b + 8), dp_ld32(b + 12)};
        if (!!(t->control & TRB_C) != *cycle)
            return 0;
        *address = *dequeue;
        if (trb_type(t) != TRB_LINK) {
            *dequeue += TRB_SIZE;
            return 1;
        }
        *dequeue = t->parameter & ~15ull;
        *cycle ^= !!(t->control & TRB_TC);
    }
    return -1;
}

static struct xhci_endpoint_regs *endpoint_of(struct xhci *x, unsigned slot, unsigned dci)
{
    return &x->regs.slot[slot - 1].endpoint[dci - 1];
}

static bool moves_data(const struct xhci_trb *t)
{
    unsigned type = trb_type(t);
    return type == TRB_NORMAL || type == TRB_DATA || type == TRB_ISOCH;
}

/* The endpoint's next TD into *td. As xhci_fetch. */
static int fetch_td(struct xhci *x, unsigned slot, unsigned dci, struct xhci_td *td)
{
    const struct xhci_endpoint_regs *ep = endpoint_of(x, slot, dci);
    uint64_t dequeue = ep->dequeue;
    bool cycle = ep->cycle, in_control = false;
    struct xhci_trb t;
    td->xhci = x;
    td->slot = (uint8_t)slot;
    td->endpoint = (uint8_t)dci;
    td->count = 0;
    td->transfer = (struct usb_transfer){.endpoint = dci / 2, .in = dci & 1};
    do {
        uint64_t address;
        int r = td->count == XHCI_TD_TRBS ? -1 : xhci_fetch(x, &dequeue, &cycle, &t, &address);
        if (r <= 0)
            return r;
        td->trb[td->count].address = address;
        td->trb[td->count++].trb = t;
        if (moves_data(&t)) {
            uint32_t size = t.status & LENGTH_MASK;
            if (size > 0x10000 || ((t.control & TRB_IDT) && size > 8) || td->transfer.length + size > 1u << 26)
                return -1;
            td->transfer.length += size;
        }
        if (trb_type(&t) == TRB_SETUP && dci == 1)
            in_control = true;
        else if (trb_type(&t) == TRB_STATUS)
            in_control = false;
    } while ((t.control & TRB_CH) || in_control);
    td->next = dequeue;
    td->next_cycle = cycle;
    return 1;
}

/* Bytes of the TD's buffers, as struct usb_transfer wants it. */
static bool move(struct usb_transfer *transfer, uint32_t offset, void *data, uint32_t size, bool to_guest)
{
    struct xhci_td *td = DP_CONTAINER_OF(transfer, struct xhci_td, transfer);
    for (unsigned i = 0; i < td->count && size; i++) {
        const struct xhci_trb *t = &td->trb[i].trb;
        uint32_t length = moves_data(t) ? t->status & LENGTH_MASK : 0;
        if (offset >= length) {
            offset -= length;
            continue;
        }
        uint32_t n = DP_MIN(length - offset, size);
        if (t->control & TRB_IDT) {
            if (to_guest)
                return false; /* only data that go out are in the TRB */
            uint8_t immediate[8];
            dp_st64(immediate, t->parameter);
            memcpy(data, immediate + offset, n);
        } else if (!(to_guest ? xhci_write(td->xhci, t->parameter + offset, data, n)
                              : xhci_read(td->xhci, t->parameter + offset, data, n))) {
            return false;
        }
        data = (char *)data + n;
        size -= n;
        offset = 0;
    }
    return !size;
}

/* ---- completion ---- */

static unsigned interrupter_of(const struct xhci_trb *t) { return (t->status >> 22) % XHCI_INTERRUPTERS; }

static void transfer_event(struct xhci *x, const struct xhci_td *td, unsigned i, unsigned code, uint32_t residue, uint32_t moved)
{
    const struct xhci_trb *t = &td->trb[i].trb;
    bool data = trb_type(t) == TRB_EVENT_DATA;
    xhci_event(x, interrupter_of(t), data ? t->parameter : td->trb[i].address, code << 24 | ((data ? moved : residue) & 0xffffff),
               (uint32_t)TRB_TRANSFER_EVENT << TRB_TYPE_SHIFT | (uint32_t)td->slot << 24 | (uint32_t)td->endpoint << 16 |
                   (data ? TRB_ED : 0));
}

/* What the TD may write of events, at most. */
static unsigned events_wanted(const struct xhci_td *td)
{
    unsigned n = 1;
    for (unsigned i = 0; i < td->count; i++)
        n += !!(td->trb[i].trb.control & TRB_IOC);
    return n;
}

/* All went well, perhaps with less data than there is room for (4.10.1.1). */
static void report(struct xhci *x, const struct xhci_td *td)
{
    uint32_t left = td->transfer.actual, moved = 0;
    bool was_short = false, told = false; /* of this stage */
    for (unsigned i = 0; i < td->count; i++) {
        const struct xhci_trb *t = &td->trb[i].trb;
        uint32_t residue = 0;
        if (trb_type(t) == TRB_STATUS) {
            was_short = told = false;
        } else if (moves_data(t)) {
            uint32_t length = t->status & LENGTH_MASK, n = DP_MIN(length, left);
            was_short |= n < length;
            residue = length - n;
            left -= n;
            moved += n;
        }
        if (!(t->control & TRB_IOC) && !(was_short && moves_data(t) && (t->control & TRB_ISP)))
            continue;
        if (was_short && told)
            continue;
        transfer_event(x, td, i, was_short ? CC_SHORT : CC_SUCCESS, residue, moved);
        told |= was_short;
        if (trb_type(t) == TRB_EVENT_DATA)
            moved = 0;
    }
}

/* The TRB at which an error is told: the one that would have moved the next byte; of a control transfer its last stage. */
static unsigned failing_trb(const struct xhci_td *td, uint32_t *residue)
{
    uint32_t left = td->transfer.actual;
    unsigned at = td->count - 1;
    *residue = 0;
    for (unsigned i = 0; i < td->count; i++) {
        const struct xhci_trb *t = &td->trb[i].trb;
        uint32_t length = t->status & LENGTH_MASK;
        if (moves_data(t) && length > left) {
            *residue = length - left;
            return i;
        }
        left -= moves_data(t) ? length : 0;
        if (trb_type(t) == TRB_STATUS)
            at = i;
    }
    return at;
}

void xhci_set_endpoint_state(struct xhci *x, unsigned slot, unsigned dci, unsigned state)
{
    struct xhci_slot_regs *s = &x->regs.slot[slot - 1];
    struct xhci_endpoint_regs *ep = &s->endpoint[dci - 1];
    uint64_t at = s->context + (uint64_t)CONTEXT_SIZE * dci;
    uint8_t c[16];
    ep->state = (uint8_t)state;
    if (!xhci_read(x, at, c, sizeof(c)))
        return;
    dp_st32(c, (dp_ld32(c) & ~7u) | state);
    dp_st64(c + 8, ep->dequeue | ep->cycle);
    if (!xhci_write(x, at, c, sizeof(c)))
        dp_trace_guest(x->device.env->trace, "%s: the context of slot %u is no RAM", x->device.id, slot);
}

static void advance(struct xhci *x, const struct xhci_td *td)
{
    struct xhci_endpoint_regs *ep = endpoint_of(x, td->slot, td->endpoint);
    ep->dequeue = td->next;
    ep->cycle = td->next_cycle;
    ep->active = false;
}

static void fail(struct xhci *x, const struct xhci_td *td, unsigned code)
{
    uint32_t residue;
    unsigned at = failing_trb(td, &residue);
    endpoint_of(x, td->slot, td->endpoint)->active = false;
    xhci_set_endpoint_state(x, td->slot, td->endpoint, code == CC_TRB ? EP_ERROR : EP_HALTED);
    transfer_event(x, td, at, code, residue, td->transfer.actual);
}

/* The TD is over, or waits; true: the endpoint may go on with the next. */
static bool over(struct xhci *x, struct xhci_td *td, enum usb_result result)
{
    struct xhci_endpoint_regs *ep = endpoint_of(x, td->slot, td->endpoint);
    switch (result) {
    case USB_DONE:
        report(x, td);
        advance(x, td);
        return true;
    case USB_NAK: case USB_BUSY: ep->active = true; return false;
    case USB_STALL: fail(x, td, CC_STALL); return false;
    case USB_BABBLE: fail(x, td, CC_BABBLE); return false;
    case USB_GONE: fail(x, td, CC_TRANSACTION); return false;
    default: fail(x, td, CC_TRB); return false;
    }
}

/* ---- doing ---- */

static enum usb_result control(struct xhci *x, struct usb_device *d, struct xhci_td *td)
{
    const struct xhci_trb *t = &td->trb[0].trb;
    uint8_t b[8];
    if (trb_type(t) != TRB_SETUP || !(t->control & TRB_IDT) || (t->status & LENGTH_MASK) != 8 ||
        trb_type(&td->trb[td->count - 1].trb) == TRB_SETUP)
        return USB_FAULT;
    dp_st64(b, t->parameter);
    struct usb_setup s = {b[0], b[1], dp_ld16(b + 2), dp_ld16(b + 4), dp_ld16(b + 6)};
    bool in = s.type & USB_DIR_IN;
    uint32_t room = DP_MIN(td->transfer.length, (uint32_t)s.length), size = DP_MIN(room, USB_CONTROL_MAX);
    for (unsigned i = 1; i < td->count; i++)
        if (trb_type(&td->trb[i].trb) == TRB_DATA && !!(td->trb[i].trb.control & TRB_DIR) != in)
            return USB_FAULT;
    if (!in && (room > USB_CONTROL_MAX || room < s.length))
        return room > USB_CONTROL_MAX ? USB_STALL : USB_FAULT;
    if (!in && !move(&td->transfer, 0, x->control, size, false))
        return USB_FAULT;
    enum usb_result r = usb_control(d, &s, x->control, &size);
    DP_TRACE(x->device.env->trace, DP_TRACE_IO, "%s: slot %u: request %02x %02x %04x %04x %04x: %s, %u bytes", x->device.id, td->slot,
             s.type, s.request, s.value, s.index, s.length, r == USB_DONE ? "done" : "refused", size);
    if (r != USB_DONE)
        return r;
    if (in && !move(&td->transfer, 0, x->control, size, true))
        return USB_FAULT;
    td->transfer.actual = size;
    return USB_DONE;
}

static bool only_no_ops(const struct xhci_td *td)
{
    for (unsigned i = 0; i < td->count; i++)
        if (trb_type(&td->trb[i].trb) != TRB_NO_OP && trb_type(&td->trb[i].trb) != TRB_EVENT_DATA)
            return false;
    return true;
}

static bool wrong_trbs(const struct xhci_td *td)
{
    for (unsigned i = 0; i < td->count; i++) {
        unsigned type = trb_type(&td->trb[i].trb);
        bool is_control = td->endpoint == 1;
        if (type != TRB_NORMAL && type != TRB_NO_OP && type != TRB_EVENT_DATA && !(is_control && type >= TRB_SETUP && type <= TRB_STATUS))
            return true;
    }
    return false;
}

static enum usb_result perform(struct xhci *x, struct xhci_device *dev, struct xhci_td *td)
{
    td->transfer.move = move;
    if (only_no_ops(td))
        return USB_DONE;
    if (wrong_trbs(td))
        return USB_FAULT;
    if (td->endpoint == 1)
        return control(x, &dev->usb, td);
    enum usb_result r = usb_transfer(&dev->usb, &td->transfer);
    if (r == USB_BUSY) {
        memcpy(dev->busy, td, offsetof(struct xhci_td, trb) + td->count * sizeof(td->trb[0]));
        dev->has_td = true;
    }
    return r;
}

/* Is there room for the TD's events where they go? If never, they are lost. */
static bool events_fit(struct xhci *x, const struct xhci_td *td)
{
    unsigned wanted = events_wanted(td);
    for (unsigned i = 0; i < td->count; i++) {
        unsigned n = interrupter_of(&td->trb[i].trb);
        const struct xhci_interrupter_regs *r = &x->regs.interrupter[n];
        if (r->segment_size[0] && DP_MIN(wanted, r->segment_size[0] - 1) > xhci_event_room(x, n)) {
            x->regs.starved = true;
            return false;
        }
    }
    return true;
}

static struct xhci_device *device_of(struct xhci *x, unsigned slot)
{
    unsigned port = x->regs.slot[slot - 1].port;
    if (!port || port > DP_XHCI_PORTS || !(x->regs.port[port - 1].portsc & PORTSC_PED) || x->dev[port - 1].usb.kind == DP_USB_NONE)
        return NULL;
    return &x->dev[port - 1];
}

static void idle_timer(struct xhci *x)
{
    uint64_t first = UINT64_MAX, at;
    for (unsigned i = 0; i < DP_XHCI_PORTS; i++)
        if (x->dev[i].usb.kind != DP_USB_NONE && x->dev[i].usb.kind != DP_USB_STORAGE && usb_hid_next(&x->dev[i].usb, &at))
            first = DP_MIN(first, at);
    if (first != UINT64_MAX && first > dp_clock_now(x->device.env->clock))
        dp_timer_arm(&x->idle, first);
}

/* Does what the endpoint has; true: some TD is over, so endpoints that wait for their device may have something now. */
static bool run(struct xhci *x, unsigned slot, unsigned dci)
{
    struct xhci_endpoint_regs *ep = endpoint_of(x, slot, dci);
    bool progress = false;
    for (unsigned budget = BUDGET_TDS; xhci_operates(x) && x->regs.slot[slot - 1].enabled && ep->state == EP_RUNNING; budget--) {
        struct xhci_device *dev = device_of(x, slot);
        struct xhci_td *td = &x->td;
        if (dev && dev->has_td && dev->busy->slot == slot && dev->busy->endpoint == dci)
            break;
        if (!budget || x->done_trbs >= BUDGET_TRBS) {
            xhci_later(x);
            break;
        }
        int r = fetch_td(x, slot, dci, td);
        if (!r)
            break;
        if (r < 0 && !td->count) { /* nothing to point at */
            td->trb[0].address = ep->dequeue;
            td->trb[0].trb = (struct xhci_trb){0};
            td->count = 1;
        }
        if (!events_fit(x, td))
            break;
        if (r < 0) {
            dp_trace_guest(x->device.env->trace, "%s: slot %u, endpoint %u: a TD at 0x%llx that cannot be", x->device.id, slot, dci,
                           (unsigned long long)ep->dequeue);
            fail(x, td, CC_TRB);
            break;
        }
        if (!dev) {
            fail(x, td, CC_TRANSACTION);
            break;
        }
        bool next = over(x, td, perform(x, dev, td));
        if (dev->usb.kind != DP_USB_STORAGE)
            idle_timer(x);
        if (!next)
            break;
        x->done_trbs += td->count;
        progress = true;
    }
    return progress;
}

void xhci_run_endpoint(struct xhci *x, unsigned slot, unsigned dci)
{
    bool progress = run(x, slot, dci);
    for (unsigned rounds = 0; progress; rounds++) {
        if (rounds == ROUNDS) {
            xhci_later(x);
            return;
        }
        progress = false;
        for (unsigned e = 2; e <= XHCI_ENDPOINTS; e++)
            if (endpoint_of(x, slot, e)->active)
                progress |= run(x, slot, e);
    }
}

void xhci_run_device(struct xhci *x, unsigned port)
{
    for (unsigned s = 1; s <= XHCI_SLOTS; s++)
        if (x->regs.slot[s - 1].enabled && x->regs.slot[s - 1].port == port)
            for (unsigned e = 1; e <= XHCI_ENDPOINTS; e++)
                xhci_run_endpoint(x, s, e);
}

void xhci_run_all(struct xhci *x)
{
    xhci_run_commands(x);
    for (unsigned s = 1; s <= XHCI_SLOTS; s++)
        for (unsigned e = 1; e <= XHCI_ENDPOINTS && x->regs.slot[s - 1].enabled; e++)
            xhci_run_endpoint(x, s, e);
}

void xhci_stop_endpoint(struct xhci *x, unsigned slot, unsigned dci, bool report_it)
{
    struct xhci_endpoint_regs *ep = endpoint_of(x, slot, dci);
    for (unsigned i = 0; i < DP_XHCI_PORTS; i++) {
        struct xhci_device *dev = &x->dev[i];
        if (!dev->has_td || dev->busy->slot != slot || dev->busy->endpoint != dci)
            continue;
        dev->has_td = false;
        if (dev->usb.io == USB_IO_DUE)
            dev->usb.io = USB_IO_NONE;
        dev->usb.stale = dev->usb.io == USB_IO_FLYING;
    }
    if (report_it && ep->active && fetch_td(x, slot, dci, &x->td) > 0) {
        uint32_t residue;
        unsigned at = failing_trb(&x->td, &residue);
        transfer_event(x, &x->td, at, CC_STOPPED, residue, 0);
    }
    ep->active = false;
}

/* The loop's thread, no lock held. */
void xhci_io_done(struct dp_block_request *request, int result)
{
    struct xhci_device *dev = DP_CONTAINER_OF(request, struct xhci_device, usb.request);
    struct xhci *x = dev->xhci;
    pthread_mutex_lock(&x->device.lock);
    bool stale = dev->usb.stale;
    dev->usb.io = USB_IO_NONE;
    dev->usb.stale = false;
    if (!stale && dev->has_td) {
        struct xhci_td *td = dev->busy;
        enum usb_result r = usb_storage_io_done(&dev->usb, &td->transfer, result);
        if (r != USB_BUSY) {
            dev->has_td = false;
            over(x, td, r);
        }
    }
    if (dev->usb.io == USB_IO_NONE)
        xhci_run_device(x, (unsigned)(dev - x->dev) + 1);
    pthread_mutex_unlock(&x->device.lock);
    xhci_settle(x);
}
