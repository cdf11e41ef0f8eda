/* xhci_command.c - the command ring; xHCI 1.2 4.6 (commands), 4.5 (slot states), 6.2 (contexts).
 *
 * Model: commands are done in order, at once, each with its completion event on interrupter 0. Contexts are read from the guest's input
 * context once, checked, and copied to the device's context; what the controller needs later it keeps in its own registers.
 * Bounds: BUDGET commands per call.
 */
#include "devices/usb/xhci_internal.h"

enum { BUDGET = 128, ADD_SLOT = 1, ADD_EP0 = 2, INPUT_SLOT = CONTEXT_SIZE, INPUT_EP0 = 2 * CONTEXT_SIZE };
enum { SLOT_ENTRIES_SHIFT = 27, SLOT_STATE_SHIFT = 27 };

static uint32_t get(const uint8_t *context, unsigned n) { return dp_ld32(context + 4 * n); }
static void set(uint8_t *context, unsigned n, uint32_t v) { dp_st32(context + 4 * n, v); }

void xhci_slot_disable(struct xhci *x, unsigned slot)
{
    for (unsigned e = 1; e <= XHCI_ENDPOINTS; e++)
        xhci_stop_endpoint(x, slot, e, false);
    memset(&x->regs.slot[slot - 1], 0, sizeof(x->regs.slot[0]));
}

static unsigned enable_slot(struct xhci *x, unsigned *slot)
{
    unsigned count = DP_MIN(x->regs.config & 0xff, (uint32_t)XHCI_SLOTS);
    for (unsigned s = 1; s <= count; s++)
        if (!x->regs.slot[s - 1].enabled) {
            xhci_slot_disable(x, s);
            x->regs.slot[s - 1].enabled = true;
            *slot = s;
            return CC_SUCCESS;
        }
    *slot = 0;
    return CC_NO_SLOTS;
}

/* State and address into the device's context. */
static bool slot_state(struct xhci *x, unsigned slot, unsigned state, bool addressed)
{
    struct xhci_slot_regs *s = &x->regs.slot[slot - 1];
    uint8_t c[4];
    s->state = (uint8_t)state;
    dp_st32(c, (uint32_t)state << SLOT_STATE_SHIFT | (addressed ? slot : 0));
    return xhci_write(x, s->context + 12, c, 4);
}

static void endpoint_init(struct xhci_endpoint_regs *ep, const uint8_t *context)
{
    uint64_t dequeue = dp_ld64(context + 8);
    *ep = (struct xhci_endpoint_regs){
        .state = EP_RUNNING, .type = get(context, 1) >> 3 & 7, .dequeue = dequeue & ~15ull, .cycle = dequeue & 1};
}

static void disable_endpoint(struct xhci *x, unsigned slot, unsigned dci)
{
    struct xhci_slot_regs *s = &x->regs.slot[slot - 1];
    xhci_stop_endpoint(x, slot, dci, false);
    if (s->endpoint[dci - 1].state != EP_DISABLED)
        xhci_set_endpoint_state(x, slot, dci, EP_DISABLED);
    s->endpoint[dci - 1] = (struct xhci_endpoint_regs){0};
}

static unsigned address_device(struct xhci *x, unsigned slot, uint64_t input, bool bsr)
{
    struct xhci_slot_regs *s = &x->regs.slot[slot - 1];
    uint8_t in[3 * CONTEXT_SIZE], address[8];
    if (!xhci_read(x, input, in, sizeof(in)) || !xhci_read(x, x->regs.dcbaap + 8ull * slot, address, 8))
        return CC_PARAMETER;
    if (get(in, 0) || (get(in, 1) & 3) != (ADD_SLOT | ADD_EP0))
        return CC_PARAMETER;
    if (s->state != SLOT_ENABLED && (s->state != SLOT_DEFAULT || bsr))
        return CC_CONTEXT_STATE;
    uint8_t *slot_context = in + INPUT_SLOT, *ep0 = in + INPUT_EP0;
    unsigned port = get(slot_context, 1) >> 16 & 0xff;
    if (port < 1 || port > DP_XHCI_PORTS || (get(slot_context, 0) & 0xfffff)) /* there are no hubs to route through */
        return CC_PARAMETER;
    if ((get(ep0, 1) >> 3 & 7) != EP_TYPE_CONTROL)
        return CC_PARAMETER;
    if (x->dev[port - 1].usb.kind == DP_USB_NONE || !(x->regs.port[port - 1].portsc & PORTSC_PED))
        return CC_TRANSACTION;
    s->port = (uint8_t)port;
    s->context = dp_ld64(address) & ~63ull;
    endpoint_init(&s->endpoint[0], ep0);
    s->state = bsr ? SLOT_DEFAULT : SLOT_ADDRESSED;
    set(slot_context, 3, (uint32_t)s->state << SLOT_STATE_SHIFT | (bsr ? 0 : slot));
    set(ep0, 0, (get(ep0, 0) & ~7u) | EP_RUNNING);
    return xhci_write(x, s->context, slot_context, CONTEXT_SIZE) && xhci_write(x, s->context + CONTEXT_SIZE, ep0, CONTEXT_SIZE) ? CC_SUCCESS
                                                                                                                           : CC_PARAMETER;
}

static unsigned configure_endpoint(struct xhci *x, unsigned slot, uint64_t input, bool deconfigure)
{
    struct xhci_slot_regs *s = &x->regs.slot[slot - 1];
    uint8_t in[(XHCI_ENDPOINTS + 2) * CONTEXT_SIZE];
    if (s->state < SLOT_ADDRESSED)
        return CC_CONTEXT_STATE;
    if (deconfigure) {
        for (unsigned e = 2; e <= XHCI_ENDPOINTS; e++)
            disable_endpoint(x, slot, e);
        return slot_state(x, slot, SLOT_ADDRESSED, true) ? CC_SUCCESS : CC_PARAMETER;
    }
    /* An input context may end in the last page with the last context that is added. */
    if (!xhci_read(x, input, in, CONTEXT_SIZE))
        return CC_PARAMETER;
    uint32_t drop = get(in, 0), add = get(in, 1);
    unsigned last = 0;
    for (unsigned e = 2; e <= XHCI_ENDPOINTS; e++)
        last = add >> e & 1 ? e : last;
    if ((drop & 3) || (add & 2) || !xhci_read(x, input + CONTEXT_SIZE, in + CONTEXT_SIZE, (last + 1) * CONTEXT_SIZE))
        return CC_PARAMETER;
    for (unsigned e = 2; e <= XHCI_ENDPOINTS; e++) {
        const uint8_t *c = in + (e + 1) * CONTEXT_SIZE;
        if (!(add >> e & 1))
            continue;
        unsigned type = get(c, 1) >> 3 & 7;
        if (type == EP_TYPE_ISOCH_IN || type == EP_TYPE_ISOCH_OUT)
            return CC_RESOURCE;
        if (!type || type == EP_TYPE_CONTROL || (type >= EP_TYPE_ISOCH_IN) != (e & 1) || (get(c, 0) >> 10 & 31)) /* no streams */
            return CC_PARAMETER;
        if (s->endpoint[e - 1].state != EP_DISABLED && !(drop >> e & 1))
            return CC_PARAMETER;
    }
    bool any = false;
    for (unsigned e = 2; e <= XHCI_ENDPOINTS; e++) {
        uint8_t *c = in + (e + 1) * CONTEXT_SIZE;
        if (drop >> e & 1)
            disable_endpoint(x, slot, e);
        if (add >> e & 1) {
            endpoint_init(&s->endpoint[e - 1], c);
            set(c, 0, (get(c, 0) & ~7u) | EP_RUNNING);
            if (!xhci_write(x, s->context + (uint64_t)e * CONTEXT_SIZE, c, CONTEXT_SIZE))
                return CC_PARAMETER;
        }
        any |= s->endpoint[e - 1].state != EP_DISABLED;
    }
    uint8_t first[4];
    if ((add & ADD_SLOT) && xhci_read(x, s->context, first, 4)) {
        dp_st32(first, (dp_ld32(first) & ~(31u << SLOT_ENTRIES_SHIFT)) | (get(in + INPUT_SLOT, 0) & 31u << SLOT_ENTRIES_SHIFT));
        if (!xhci_write(x, s->context, first, 4))
            return CC_PARAMETER;
    }
    return slot_state(x, slot, any ? SLOT_CONFIGURED : SLOT_ADDRESSED, true) ? CC_SUCCESS : CC_PARAMETER;
}

/* Values that nothing here goes by: they are kept where the guest looks for them. */
static unsigned evaluate_context(struct xhci *x, unsigned slot, uint64_t input)
{
    struct xhci_slot_regs *s = &x->regs.slot[slot - 1];
    uint8_t in[3 * CONTEXT_SIZE], out[2 * CONTEXT_SIZE];
    if (s->state < SLOT_DEFAULT)
        return CC_CONTEXT_STATE;
    if (!xhci_read(x, input, in, sizeof(in)) || get(in, 0) || !xhci_read(x, s->context, out, sizeof(out)))
        return CC_PARAMETER;
    if (get(in, 1) & ADD_SLOT) {
        set(out, 1, (get(out, 1) & ~0xffffu) | (get(in + INPUT_SLOT, 1) & 0xffff)); /* maximum exit latency */
        set(out, 2, (get(out, 2) & 0x3fffff) | (get(in + INPUT_SLOT, 2) & ~0x3fffffu)); /* interrupter target */
    }
    if (get(in, 1) & ADD_EP0)
        set(out + CONTEXT_SIZE, 1, (get(out + CONTEXT_SIZE, 1) & 0xffff) | (get(in + INPUT_EP0, 1) & ~0xffffu)); /* packet size */
    return xhci_write(x, s->context, out, sizeof(out)) ? CC_SUCCESS : CC_PARAMETER;
}

static unsigned endpoint_command(struct xhci *x, unsigned type, unsigned slot, unsigned dci, uint64_t parameter)
{
    if (!dci || x->regs.slot[slot - 1].endpoint[dci - 1].state == EP_DISABLED)
        return CC_ENDPOINT_DISABLED;
    struct xhci_endpoint_regs *ep = &x->regs.slot[slot - 1].endpoint[dci - 1];
    switch (type) {
    case TRB_RESET_ENDPOINT:
        if (ep->state != EP_HALTED)
            return CC_CONTEXT_STATE;
        break;
    case TRB_STOP_ENDPOINT:
        if (ep->state != EP_RUNNING)
            return CC_CONTEXT_STATE;
        xhci_stop_endpoint(x, slot, dci, true);
        break;
    default:
        if (ep->state != EP_STOPPED && ep->state != EP_ERROR)
            return CC_CONTEXT_STATE;
        ep->dequeue = parameter & ~15ull;
        ep->cycle = parameter & 1;
        break;
    }
    xhci_set_endpoint_state(x, slot, dci, EP_STOPPED);
    return CC_SUCCESS;
}

static unsigned reset_device(struct xhci *x, unsigned slot)
{
    struct xhci_slot_regs *s = &x->regs.slot[slot - 1];
    if (s->state < SLOT_ADDRESSED)
        return CC_CONTEXT_STATE;
    xhci_stop_endpoint(x, slot, 1, false);
    for (unsigned e = 2; e <= XHCI_ENDPOINTS; e++)
        disable_endpoint(x, slot, e);
    return slot_state(x, slot, SLOT_DEFAULT, false) ? CC_SUCCESS : CC_PARAMETER;
}

static unsigned command(struct xhci *x, const struct xhci_trb *t, unsigned *slot)
{
    unsigned type = trb_type(t), dci = t->control >> 16 & 31;
    uint64_t pointer = t->parameter & ~15ull;
    *slot = 0;
    if (type == TRB_NO_OP_COMMAND)
        return CC_SUCCESS;
    if (type == TRB_ENABLE_SLOT)
        return enable_slot(x, slot);
    if (type < TRB_ENABLE_SLOT || type > TRB_RESET_DEVICE)
        return CC_TRB; /* virtualization, bandwidth, latency and forced headers are optional */
    *slot = t->control >> 24;
    if (*slot < 1 || *slot > XHCI_SLOTS || !x->regs.slot[*slot - 1].enabled)
        return CC_SLOT_DISABLED;
    switch (type) {
    case TRB_DISABLE_SLOT:
        if (x->regs.slot[*slot - 1].context)
            slot_state(x, *slot, SLOT_ENABLED, false); /* Disabled is 0, as Enabled */
        xhci_slot_disable(x, *slot);
        return CC_SUCCESS;
    case TRB_ADDRESS_DEVICE: return address_device(x, *slot, pointer, t->control & TRB_BSR);
    case TRB_CONFIGURE_ENDPOINT: return configure_endpoint(x, *slot, pointer, t->control & TRB_DC);
    case TRB_EVALUATE_CONTEXT: return evaluate_context(x, *slot, pointer);
    case TRB_RESET_DEVICE: return reset_device(x, *slot);
    default: return endpoint_command(x, type, *slot, dci, t->parameter);
    }
}

void xhci_run_commands(struct xhci *x)
{
    for (unsigned budget = BUDGET; xhci_operates(x) && x->regs.command_running; budget--) {
        struct xhci_trb t;
        uint64_t dequeue = x->regs.crcr & ~15ull, address;
        unsigned slot;
        if (!budget) {
            xhci_later(x);
            return;
        }
        bool cycle = x->regs.crcr & CRCR_RCS;
        int r = xhci_fetch(x, &dequeue, &cycle, &t, &address);
        if (r < 0)
            xhci_dead(x, "the command ring", x->regs.crcr & ~15ull);
        if (r <= 0)
            return;
        if (!xhci_event_room(x, 0)) {
            x->regs.starved = true;
            return;
        }
        x->regs.crcr = dequeue | cycle;
        unsigned code = command(x, &t, &slot);
        DP_TRACE(x->device.env->trace, DP_TRACE_IO, "%s: command %u, slot %u: %u", x->device.id, trb_type(&t), slot, code);
        xhci_event(x, 0, address, code << 24, (uint32_t)TRB_COMMAND_COMPLETION << TRB_TYPE_SHIFT | slot << 24);
    }
}
