/* xhci_port.c - the root hub's ports: connection, reset, link states; xHCI 1.2 4.15, 4.19, 5.4.8.
 *
 * Model: what is plugged in stays so. A high-speed port waits in Polling for its reset, a SuperSpeed port has trained by itself and is
 * enabled. Resets and link changes take no time. A change bit that becomes set is told by a Port Status Change event while the controller
 * runs; changes from before are told when it starts.
 */
#include "devices/usb/xhci_internal.h"

static bool usb3(unsigned n) { return n < XHCI_USB3_PORTS; }

static void set_link(struct xhci_port_regs *p, unsigned state) { p->portsc = (p->portsc & ~PORTSC_PLS) | state << 5; }
static unsigned link_of(const struct xhci_port_regs *p) { return (p->portsc & PORTSC_PLS) >> 5; }

static void tell(struct xhci *x, unsigned n)
{
    x->regs.usbsts |= USBSTS_PCD;
    if (!(x->regs.usbsts & USBSTS_HCH))
        xhci_event(x, 0, (uint64_t)(n + 1) << 24, (uint32_t)CC_SUCCESS << 24, TRB_PORT_STATUS_CHANGE << TRB_TYPE_SHIFT);
}

static void changed(struct xhci *x, unsigned n, uint32_t bits)
{
    struct xhci_port_regs *p = &x->regs.port[n];
    bool news = bits & ~p->portsc;
    p->portsc |= bits;
    if (news)
        tell(x, n);
}

void xhci_ports_reset(struct xhci *x)
{
    for (unsigned n = 0; n < DP_XHCI_PORTS; n++) {
        struct xhci_port_regs *p = &x->regs.port[n];
        const struct usb_device *d = &x->dev[n].usb;
        p->portpmsc = 0;
        p->portsc = PORTSC_PP;
        set_link(p, PLS_RXDETECT);
        if (d->kind == DP_USB_NONE)
            continue;
        usb_device_reset(&x->dev[n].usb);
        p->portsc |= PORTSC_CCS | PORTSC_CSC | (uint32_t)d->speed << 10 | (usb3(n) ? PORTSC_PED : 0);
        set_link(p, usb3(n) ? PLS_U0 : PLS_POLLING);
    }
}

void xhci_ports_tell(struct xhci *x)
{
    for (unsigned n = 0; n < DP_XHCI_PORTS; n++)
        if (x->regs.port[n].portsc & PORTSC_CHANGES)
            tell(x, n);
}

static void reset_port(struct xhci *x, unsigned n, bool warm)
{
    struct xhci_port_regs *p = &x->regs.port[n];
    if (!(p->portsc & PORTSC_CCS) || x->dev[n].usb.kind == DP_USB_NONE)
        return;
    for (unsigned s = 1; s <= XHCI_SLOTS; s++) /* what the device was doing is over */
        for (unsigned e = 1; e <= XHCI_ENDPOINTS && x->regs.slot[s - 1].enabled && x->regs.slot[s - 1].port == n + 1; e++)
            xhci_stop_endpoint(x, s, e, false);
    usb_device_reset(&x->dev[n].usb);
    p->portsc |= PORTSC_PED;
    set_link(p, PLS_U0);
    changed(x, n, PORTSC_PRC | (warm ? PORTSC_WRC : 0));
}

static void link_write(struct xhci *x, unsigned n, unsigned to)
{
    struct xhci_port_regs *p = &x->regs.port[n];
    unsigned from = link_of(p);
    switch (to) {
    case PLS_U0:
        if (!(p->portsc & PORTSC_PED))
            break;
        set_link(p, PLS_U0);
        if (from == PLS_U3 || from == PLS_RESUME) {
            changed(x, n, PORTSC_PLC);
            xhci_run_device(x, n + 1);
        }
        break;
    case PLS_U3:
        if (p->portsc & PORTSC_PED)
            set_link(p, PLS_U3);
        break;
    case PLS_RXDETECT:
        if (usb3(n) && !(p->portsc & PORTSC_PED)) { /* from Disabled: trains anew */
            set_link(p, p->portsc & PORTSC_CCS ? PLS_U0 : PLS_RXDETECT);
            if (p->portsc & PORTSC_CCS)
                changed(x, n, PORTSC_PLC);
            p->portsc |= p->portsc & PORTSC_CCS ? PORTSC_PED : 0;
        }
        break;
    case PLS_RESUME:
        if (!usb3(n) && from == PLS_U3)
            set_link(p, PLS_RESUME);
        break;
    default: /* U1 and U2 come and go without software; others are tests */ break;
    }
}

void xhci_port_write(struct xhci *x, unsigned n, uint32_t v)
{
    struct xhci_port_regs *p = &x->regs.port[n];
    p->portsc &= ~(v & PORTSC_CHANGES);
    p->portsc = (p->portsc & ~(PORTSC_WAKE | PORTSC_PIC)) | (v & (PORTSC_WAKE | PORTSC_PIC));
    if ((v & PORTSC_WPR) && usb3(n)) {
        reset_port(x, n, true);
        return;
    }
    if (v & PORTSC_PR) {
        reset_port(x, n, false);
        return;
    }
    if ((v & PORTSC_PED) && (p->portsc & PORTSC_PED)) { /* 1 disables */
        p->portsc &= ~PORTSC_PED;
        set_link(p, usb3(n) ? PLS_DISABLED : PLS_POLLING);
    }
    if (v & PORTSC_LWS)
        link_write(x, n, (v & PORTSC_PLS) >> 5);
}
