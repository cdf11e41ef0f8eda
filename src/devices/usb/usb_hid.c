/* usb_hid.c - a tablet (absolute pointer), a keyboard and a mouse, as human interface devices.
 *
 * Model: every change makes a finished report of up to 8 bytes, which waits in a queue until the guest's interrupt endpoint takes it; one
 * report goes out per TD. A report is the whole state (keys, buttons, place), so when the queue is full the oldest is dropped and nothing
 * is ever half pressed; a mouse's movement is the exception and is added to the newest. Reports in the queue that differ only in place
 * are merged. With an idle rate (SET_IDLE) the last report is repeated, by which firmware repeats keys. Keyboard and mouse have boot
 * protocol reports in either protocol (a mouse has its wheel as fourth byte, which boot hosts ignore), so the protocol changes nothing.
 * Source: USB HID 1.11 (6.2.1, 7.2, appendix B and C: boot reports, F: keyboard); HID Usage Tables 1.12 ch. 10 (key usages).
 */
#include <linux/input-event-codes.h>

#include "devices/usb/usb.h"

enum { HID_GET_REPORT = 1, HID_GET_IDLE = 2, HID_GET_PROTOCOL = 3, HID_SET_REPORT = 9, HID_SET_IDLE = 10, HID_SET_PROTOCOL = 11 };
enum { REPORT_INPUT = 1, REPORT_OUTPUT = 2 };
enum { TABLET_REPORT = 6, KEYBOARD_REPORT = 8, MOUSE_REPORT = 4, KEYS = 6 };
enum { USAGE_ROLLOVER = 1, USAGE_MODIFIERS = 0xe0 };
#define IDLE_UNIT_NS 4000000ull

/* ---- descriptors ---- */

#define DEVICE_DESCRIPTOR(product) \
    { 18, USB_DT_DEVICE, 0x00, 0x02, 0, 0, 0, 64, 0x09, 0x12 /* pid.codes */, (product) & 0xff, (product) >> 8, 0x00, 0x01, 1, 2, 3, 1 }
/* One interface of class HID with one interrupt IN endpoint, polled each millisecond (2^(4-1) microframes). */
#define CONFIG_DESCRIPTOR(subclass, protocol, report_size, packet) \
    { \
        9, USB_DT_CONFIG, 34, 0, 1, 1, 0, 0x80, 50, /* bus-powered, 100 mA */ \
        9, USB_DT_INTERFACE, 0, 0, 1, 3, subclass, protocol, 0, \
        9, USB_DT_HID, 0x11, 0x01, 0, 1, USB_DT_REPORT, (report_size) & 0xff, (report_size) >> 8, \
        7, USB_DT_ENDPOINT, 0x81, 3, packet, 0, 4 \
    }

static const uint8_t tablet_report[] = {
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01,                   /* generic desktop, mouse: application */
    0x09, 0x01, 0xa1, 0x00,                               /* pointer: physical */
    0x05, 0x09, 0x19, 0x01, 0x29, 0x03, 0x15, 0x00, 0x25, 0x01, 0x95, 0x03, 0x75, 0x01, 0x81, 0x02, /* buttons 1-3 */
    0x95, 0x01, 0x75, 0x05, 0x81, 0x01,                   /* padding */
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x15, 0x00, 0x26, 0xff, 0x7f, 0x35, 0x00, 0x46, 0xff, 0x7f, 0x75, 0x10,
    0x95, 0x02, 0x81, 0x02, /* X, Y */
    0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x35, 0x00, 0x45, 0x00, 0x75, 0x08, 0x95, 0x01, 0x81, 0x06, /* wheel, relative */
    0xc0, 0xc0,
};
static const uint8_t mouse_report[] = {
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00,
    0x05, 0x09, 0x19, 0x01, 0x29, 0x03, 0x15, 0x00, 0x25, 0x01, 0x95, 0x03, 0x75, 0x01, 0x81, 0x02, 0x95, 0x01, 0x75, 0x05, 0x81, 0x01,
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x75, 0x08, 0x95, 0x03, 0x81, 0x06, /* X, Y, wheel */
    0xc0, 0xc0,
};
static const uint8_t keyboard_report[] = {
    0x05, 0x01, 0x09, 0x06, 0xa1, 0x01,
    0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, 0x15, 0x00, 0x25, 0x01, 0x75, 0x01, 0x95, 0x08, 0x81, 0x02, /* modifiers */
    0x95, 0x01, 0x75, 0x08, 0x81, 0x01,                                                             /* reserved */
    0x95, 0x05, 0x75, 0x01, 0x05, 0x08, 0x19, 0x01, 0x29, 0x05, 0x91, 0x02, 0x95, 0x01, 0x75, 0x03, 0x91, 0x01, /* LEDs */
    0x95, 0x06, 0x75, 0x08, 0x15, 0x00, 0x26, 0xff, 0x00, 0x05, 0x07, 0x19, 0x00, 0x2a, 0xff, 0x00, 0x81, 0x00, /* keys */
    0xc0,
};

static const uint8_t tablet_device[] = DEVICE_DESCRIPTOR(0xd001), keyboard_device[] = DEVICE_DESCRIPTOR(0xd002),
                     mouse_device[] = DEVICE_DESCRIPTOR(0xd003);
static const uint8_t tablet_config[] = CONFIG_DESCRIPTOR(0, 0, sizeof(tablet_report), 8);
static const uint8_t keyboard_config[] = CONFIG_DESCRIPTOR(1, 1, sizeof(keyboard_report), 8);
static const uint8_t mouse_config[] = CONFIG_DESCRIPTOR(1, 2, sizeof(mouse_report), 4);
enum { CONFIG_HID = 18 }; /* of the HID descriptor in them */
static const char *const tablet_strings[] = {"doppel", "USB tablet", NULL}, *const keyboard_strings[] = {"doppel", "USB keyboard", NULL},
                  *const mouse_strings[] = {"doppel", "USB mouse", NULL};

/* ---- reports ---- */

static unsigned report_size(const struct usb_device *d)
{
    return d->kind == DP_USB_TABLET ? TABLET_REPORT : d->kind == DP_USB_KEYBOARD ? KEYBOARD_REPORT : MOUSE_REPORT;
}

static uint64_t *newest(struct usb_hid_regs *h) { return h->count ? &h->queue[(h->head + h->count - 1u) % USB_HID_QUEUE] : NULL; }

static void push(struct usb_hid_regs *h, uint64_t report)
{
    if (h->count == USB_HID_QUEUE) {
        h->head = (h->head + 1u) % USB_HID_QUEUE;
        h->count--;
    }
    h->queue[(h->head + h->count++) % USB_HID_QUEUE] = report;
}

/* What is true now: the newest report, but nothing that has happened twice. */
static uint64_t still(const struct usb_device *d, uint64_t report)
{
    if (d->kind == DP_USB_TABLET)
        return report & 0xffffffffffull;
    return d->kind == DP_USB_MOUSE ? report & 0xff : report;
}

static bool press(struct usb_hid_regs *h, unsigned usage, bool down)
{
    uint8_t bit = (uint8_t)(1u << usage % 8), *byte = &h->pressed[usage / 8];
    if (!!(*byte & bit) == down)
        return false; /* repetition is the guest's work */
    *byte = down ? *byte | bit : *byte & ~bit;
    uint8_t b[KEYBOARD_REPORT] = {h->pressed[USAGE_MODIFIERS / 8]};
    unsigned n = 0;
    for (unsigned u = 4; u < USAGE_MODIFIERS; u++) {
        if (!(h->pressed[u / 8] >> u % 8 & 1))
            continue;
        if (n < KEYS)
            b[2 + n] = (uint8_t)u;
        n++;
    }
    if (n > KEYS)
        memset(b + 2, USAGE_ROLLOVER, KEYS);
    push(h, dp_ld64(b));
    return true;
}

/* Usages of Linux's key codes; those that are not here have none on a keyboard page. */
static const uint8_t usage_of_code[256] = {
    [KEY_ESC] = 0x29, [KEY_1] = 0x1e, [KEY_2] = 0x1f, [KEY_3] = 0x20, [KEY_4] = 0x21, [KEY_5] = 0x22, [KEY_6] = 0x23, [KEY_7] = 0x24,
    [KEY_8] = 0x25, [KEY_9] = 0x26, [KEY_0] = 0x27, [KEY_MINUS] = 0x2d, [KEY_EQUAL] = 0x2e, [KEY_BACKSPACE] = 0x2a, [KEY_TAB] = 0x2b,
    [KEY_Q] = 0x14, [KEY_W] = 0x1a, [KEY_E] = 0x08, [KEY_R] = 0x15, [KEY_T] = 0x17, [KEY_Y] = 0x1c, [KEY_U] = 0x18, [KEY_I] = 0x0c,
    [KEY_O] = 0x12, [KEY_P] = 0x13, [KEY_LEFTBRACE] = 0x2f, [KEY_RIGHTBRACE] = 0x30, [KEY_ENTER] = 0x28, [KEY_LEFTCTRL] = 0xe0,
    [KEY_A] = 0x04, [KEY_S] = 0x16, [KEY_D] = 0x07, [KEY_F] = 0x09, [KEY_G] = 0x0a, [KEY_H] = 0x0b, [KEY_J] = 0x0d, [KEY_K] = 0x0e,
    [KEY_L] = 0x0f, [KEY_SEMICOLON] = 0x33, [KEY_APOSTROPHE] = 0x34, [KEY_GRAVE] = 0x35, [KEY_LEFTSHIFT] = 0xe1, [KEY_BACKSLASH] = 0x31,
    [KEY_Z] = 0x1d, [KEY_X] = 0x1b, [KEY_C] = 0x06, [KEY_V] = 0x19, [KEY_B] = 0x05, [KEY_N] = 0x11, [KEY_M] = 0x10, [KEY_COMMA] = 0x36,
    [KEY_DOT] = 0x37, [KEY_SLASH] = 0x38, [KEY_RIGHTSHIFT] = 0xe5, [KEY_KPASTERISK] = 0x55, [KEY_LEFTALT] = 0xe2, [KEY_SPACE] = 0x2c,
    [KEY_CAPSLOCK] = 0x39, [KEY_F1] = 0x3a, [KEY_F2] = 0x3b, [KEY_F3] = 0x3c, [KEY_F4] = 0x3d, [KEY_F5] = 0x3e, [KEY_F6] = 0x3f,
    [KEY_F7] = 0x40, [KEY_F8] = 0x41, [KEY_F9] = 0x42, [KEY_F10] = 0x43, [KEY_NUMLOCK] = 0x53, [KEY_SCROLLLOCK] = 0x47, [KEY_KP7] = 0x5f,
    [KEY_KP8] = 0x60, [KEY_KP9] = 0x61, [KEY_KPMINUS] = 0x56, [KEY_KP4] = 0x5c, [KEY_KP5] = 0x5d, [KEY_KP6] = 0x5e, [KEY_KPPLUS] = 0x57,
    [KEY_KP1] = 0x59, [KEY_KP2] = 0x5a, [KEY_KP3] = 0x5b, [KEY_KP0] = 0x62, [KEY_KPDOT] = 0x63, [KEY_102ND] = 0x64, [KEY_F11] = 0x44,
    [KEY_F12] = 0x45, [KEY_RO] = 0x87, [KEY_KATAKANAHIRAGANA] = 0x88, [KEY_HENKAN] = 0x8a, [KEY_MUHENKAN] = 0x8b, [KEY_KPENTER] = 0x58,
    [KEY_RIGHTCTRL] = 0xe4, [KEY_KPSLASH] = 0x54, [KEY_SYSRQ] = 0x46, [KEY_RIGHTALT] = 0xe6, [KEY_HOME] = 0x4a, [KEY_UP] = 0x52,
    [KEY_PAGEUP] = 0x4b, [KEY_LEFT] = 0x50, [KEY_RIGHT] = 0x4f, [KEY_END] = 0x4d, [KEY_DOWN] = 0x51, [KEY_PAGEDOWN] = 0x4e,
    [KEY_INSERT] = 0x49, [KEY_DELETE] = 0x4c, [KEY_MUTE] = 0x7f, [KEY_VOLUMEDOWN] = 0x81, [KEY_VOLUMEUP] = 0x80, [KEY_POWER] = 0x66,
    [KEY_KPEQUAL] = 0x67, [KEY_PAUSE] = 0x48, [KEY_KPCOMMA] = 0x85, [KEY_HANGEUL] = 0x90, [KEY_HANJA] = 0x91, [KEY_YEN] = 0x89,
    [KEY_LEFTMETA] = 0xe3, [KEY_RIGHTMETA] = 0xe7, [KEY_COMPOSE] = 0x65,
};

bool usb_hid_key(struct usb_device *d, unsigned code, bool down)
{
    unsigned usage = code < DP_ARRAY_LEN(usage_of_code) ? usage_of_code[code] : 0;
    return usage && press(&d->regs->hid, usage, down);
}

static int8_t clamp8(int v) { return (int8_t)DP_MAX(-127, DP_MIN(127, v)); }

static bool tablet_moved(struct usb_device *d, unsigned x, unsigned y, int wheel, unsigned buttons)
{
    struct usb_hid_regs *h = &d->regs->hid;
    uint64_t report = (buttons & 7) | (uint64_t)DP_MIN(x, 0x7fffu) << 8 | (uint64_t)DP_MIN(y, 0x7fffu) << 24, *last = newest(h);
    if (!wheel && last && !(*last >> 40) && (*last & 7) == (buttons & 7))
        *last = report;
    else if (wheel || still(d, last ? *last : h->last) != report)
        push(h, report | (uint64_t)(uint8_t)clamp8(wheel) << 40);
    else
        return false;
    return true;
}

static bool mouse_moved(struct usb_device *d, int dx, int dy, int wheel, unsigned buttons)
{
    struct usb_hid_regs *h = &d->regs->hid;
    bool changed = (buttons & 7) != h->buttons;
    dx = DP_MAX(-10000, DP_MIN(10000, dx)); /* a few reports' worth */
    dy = DP_MAX(-10000, DP_MIN(10000, dy));
    for (bool first = true; dx || dy || wheel || (first && changed); first = false) {
        uint64_t *last = newest(h);
        bool full = h->count == USB_HID_QUEUE, merge = last && !(first && changed) && (*last & 7) == (buttons & 7);
        int ox = merge ? (int8_t)(*last >> 8) : 0, oy = merge ? (int8_t)(*last >> 16) : 0, ow = merge ? (int8_t)(*last >> 24) : 0;
        int nx = clamp8(ox + dx), ny = clamp8(oy + dy), nw = clamp8(ow + wheel);
        uint64_t report = (buttons & 7) | (uint64_t)(uint8_t)nx << 8 | (uint64_t)(uint8_t)ny << 16 | (uint64_t)(uint8_t)nw << 24;
        if (merge && (nx != ox || ny != oy || nw != ow)) {
            *last = report;
        } else if (merge) { /* full in these directions */
            if (full)
                break;
            ox = oy = ow = 0;
            nx = clamp8(dx);
            ny = clamp8(dy);
            nw = clamp8(wheel);
            push(h, (buttons & 7) | (uint64_t)(uint8_t)nx << 8 | (uint64_t)(uint8_t)ny << 16 | (uint64_t)(uint8_t)nw << 24);
        } else {
            push(h, report);
        }
        dx -= nx - ox;
        dy -= ny - oy;
        wheel -= nw - ow;
    }
    h->buttons = buttons & 7;
    return true;
}

bool usb_hid_pointer(struct usb_device *d, int x, int y, int wheel, unsigned buttons)
{
    /* HID counts right before middle, as struct dp_input_sink does. */
    return d->kind == DP_USB_TABLET ? tablet_moved(d, (unsigned)x, (unsigned)y, wheel, buttons) : mouse_moved(d, x, y, wheel, buttons);
}

bool usb_hid_next(const struct usb_device *d, uint64_t *at)
{
    *at = d->regs->hid.idle_at;
    return d->regs->hid.idle && d->regs->configuration;
}

static void repeat_later(struct usb_device *d)
{
    d->regs->hid.idle_at = dp_clock_now(d->env->clock) + d->regs->hid.idle * IDLE_UNIT_NS;
}

/* ---- transfers ---- */

static enum usb_result hid_transfer(struct usb_device *d, struct usb_transfer *t)
{
    struct usb_hid_regs *h = &d->regs->hid;
    uint8_t b[8];
    unsigned n = report_size(d);
    if (!t->in)
        return USB_STALL;
    if (!h->count && !(h->idle && dp_clock_now(d->env->clock) >= h->idle_at))
        return USB_NAK;
    dp_st64(b, h->count ? h->queue[h->head] : still(d, h->last));
    if (t->length < n)
        return USB_BABBLE;
    if (!usb_put(t, 0, b, n))
        return USB_FAULT;
    t->actual = n;
    h->last = dp_ld64(b);
    if (h->count) {
        h->head = (h->head + 1u) % USB_HID_QUEUE;
        h->count--;
    }
    repeat_later(d);
    return USB_DONE;
}

static void copy(uint8_t *data, uint32_t *size, const void *from, uint32_t n)
{
    *size = DP_MIN(*size, n);
    memcpy(data, from, *size);
}

static enum usb_result hid_control(struct usb_device *d, const struct usb_setup *s, uint8_t *data, uint32_t *size)
{
    struct usb_hid_regs *h = &d->regs->hid;
    uint8_t b[8];
    if ((s->type & USB_RECIPIENT_MASK) != USB_RECIPIENT_INTERFACE || s->index)
        return USB_STALL;
    if (s->type == (USB_DIR_IN | USB_TYPE_STANDARD | USB_RECIPIENT_INTERFACE)) { /* descriptors of the class */
        if (s->value >> 8 == USB_DT_HID)
            copy(data, size, d->class->config + CONFIG_HID, 9);
        else if (s->value >> 8 == USB_DT_REPORT && d->kind == DP_USB_TABLET)
            copy(data, size, tablet_report, sizeof(tablet_report));
        else if (s->value >> 8 == USB_DT_REPORT)
            copy(data, size, d->kind == DP_USB_MOUSE ? mouse_report : keyboard_report,
                 d->kind == DP_USB_MOUSE ? sizeof(mouse_report) : sizeof(keyboard_report));
        else
            return USB_STALL;
        return USB_DONE;
    }
    if ((s->type & USB_TYPE_MASK) != USB_TYPE_CLASS)
        return USB_STALL;
    switch (s->request | (unsigned)(s->type & USB_DIR_IN) << 1) {
    case HID_GET_REPORT | 0x100:
        if (s->value >> 8 == REPORT_OUTPUT && d->kind == DP_USB_KEYBOARD) {
            copy(data, size, &h->leds, 1);
            return USB_DONE;
        }
        if (s->value >> 8 != REPORT_INPUT)
            return USB_STALL;
        dp_st64(b, still(d, newest(h) ? *newest(h) : h->last));
        copy(data, size, b, report_size(d));
        return USB_DONE;
    case HID_GET_IDLE | 0x100: copy(data, size, &h->idle, 1); return USB_DONE;
    case HID_GET_PROTOCOL | 0x100: copy(data, size, &h->protocol, 1); return d->kind == DP_USB_TABLET ? USB_STALL : USB_DONE;
    case HID_SET_REPORT:
        if (s->value >> 8 == REPORT_OUTPUT && d->kind == DP_USB_KEYBOARD && *size)
            h->leds = data[0] & 0x1f;
        return USB_DONE;
    case HID_SET_IDLE:
        h->idle = (uint8_t)(s->value >> 8);
        repeat_later(d);
        return USB_DONE;
    case HID_SET_PROTOCOL:
        if (d->kind == DP_USB_TABLET)
            return USB_STALL;
        h->protocol = s->value & 1;
        return USB_DONE;
    default: return USB_STALL;
    }
}

#define HID_CLASS(name) \
    { \
        .device = name##_device, .config = name##_config, .strings = name##_strings, .string_count = DP_ARRAY_LEN(name##_strings), \
        .control = hid_control, .transfer = hid_transfer \
    }
const struct usb_class usb_tablet_class = HID_CLASS(tablet);
const struct usb_class usb_keyboard_class = HID_CLASS(keyboard);
const struct usb_class usb_mouse_class = HID_CLASS(mouse);
