/* usb.c - what all USB devices have in common: standard requests, descriptors, halted endpoints; model and sources in usb.h. */
#include "devices/usb/usb.h"

#include <stdlib.h>

enum { FEATURE_ENDPOINT_HALT = 0, FEATURE_REMOTE_WAKEUP = 1, FEATURE_U1 = 48, FEATURE_U2 = 49, FEATURE_LTM = 50 };
enum { DEVICE_USB = 2, DEVICE_CLASS = 4, DEVICE_MAX_PACKET = 7, DEVICE_CONFIGURATIONS = 17, CONFIG_TOTAL = 2, CONFIG_VALUE = 5,
       CONFIG_INTERFACES = 4, CONFIG_ATTRIBUTES = 7 };

/* ---- state ---- */

static const struct dp_field hid_fields[] = {
    DP_FIELD_U8(struct usb_hid_regs, protocol, 1, 1, 1),
    DP_FIELD_U8(struct usb_hid_regs, idle, 2, 0, 0),
    DP_FIELD_U8(struct usb_hid_regs, leds, 3, 0, 0),
    DP_FIELD_U8(struct usb_hid_regs, buttons, 4, 0, 7),
    DP_FIELD_ARRAY(struct usb_hid_regs, queue, 5, DP_KIND_U64, 0, 0),
    DP_FIELD_U8(struct usb_hid_regs, head, 6, 0, USB_HID_QUEUE - 1),
    DP_FIELD_U8(struct usb_hid_regs, count, 7, 0, 0x3f),
    DP_FIELD_U64(struct usb_hid_regs, last, 8, 0, 0),
    DP_FIELD_U64(struct usb_hid_regs, idle_at, 9, 0, 0),
    DP_FIELD_BYTES(struct usb_hid_regs, pressed, 10),
};
static const struct dp_state_table hid_table = DP_STATE_TABLE(struct usb_hid_regs, "usb-hid", hid_fields);

static const struct dp_field storage_fields[] = {
    DP_FIELD_U8(struct usb_storage_regs, phase, 1, USB_STORAGE_COMMAND, 3),
    DP_FIELD_U8(struct usb_storage_regs, source, 2, USB_STORAGE_NOTHING, 3),
    DP_FIELD_BOOL(struct usb_storage_regs, in, 3, false),
    DP_FIELD_BOOL(struct usb_storage_regs, flush, 4, false),
    DP_FIELD_U8(struct usb_storage_regs, status, 5, 0, 3),
    DP_FIELD_U32(struct usb_storage_regs, tag, 6, 0, 0),
    DP_FIELD_U32(struct usb_storage_regs, host_length, 7, 0, 0),
    DP_FIELD_U32(struct usb_storage_regs, length, 8, 0, 0),
    DP_FIELD_U32(struct usb_storage_regs, done, 9, 0, 0),
    DP_FIELD_U64(struct usb_storage_regs, offset, 10, 0, 0),
    DP_FIELD_U8(struct usb_storage_regs, sense_key, 11, 0, 15),
    DP_FIELD_U8(struct usb_storage_regs, asc, 12, 0, 0),
    DP_FIELD_U8(struct usb_storage_regs, ascq, 13, 0, 0),
    DP_FIELD_BYTES(struct usb_storage_regs, buffer, 14),
};
static const struct dp_state_table storage_table = DP_STATE_TABLE(struct usb_storage_regs, "usb-storage", storage_fields);

static const struct dp_field usb_fields[] = {
    DP_FIELD_U8(struct usb_regs, configuration, 1, 0, 1),
    DP_FIELD_U32(struct usb_regs, halted, 2, 0, 0),
    DP_FIELD_STRUCT(struct usb_regs, hid, 3, &hid_table),
    DP_FIELD_STRUCT(struct usb_regs, storage, 4, &storage_table),
};
const struct dp_state_table usb_regs_table = DP_STATE_TABLE(struct usb_regs, "usb-device", usb_fields);

int usb_regs_check(const struct usb_regs *r, struct dp_error *e)
{
    const struct usb_storage_regs *s = &r->storage;
    if (r->hid.count > USB_HID_QUEUE)
        return dp_error_set(e, -EINVAL, "usb: %u reports, more than the queue holds", r->hid.count);
    if (s->phase >= USB_STORAGE_PHASES || s->source >= USB_STORAGE_SOURCES || s->length > s->host_length || s->done > s->host_length ||
        (s->source == USB_STORAGE_BUFFER && s->length > sizeof(s->buffer)) || s->offset % SCSI_SECTOR)
        return dp_error_set(e, -EINVAL, "usb: storage at %u of %u of %u bytes, phase %u, source %u", s->done, s->length, s->host_length,
                            s->phase, s->source);
    return 0;
}

void usb_regs_clamp(struct usb_regs *r)
{
    struct usb_storage_regs *s = &r->storage;
    r->hid.count %= USB_HID_QUEUE + 1;
    s->source %= USB_STORAGE_SOURCES;
    s->host_length %= 1u << 20;
    s->length %= s->host_length + 1;
    if (s->source == USB_STORAGE_BUFFER)
        s->length = DP_MIN(s->length, sizeof(s->buffer));
    s->done %= s->host_length + 1;
    s->offset -= s->offset % SCSI_SECTOR;
}

/* ---- life ---- */

int usb_device_init(struct usb_device *d, enum dp_usb_kind kind, struct usb_regs *regs, const struct dp_device_env *env, const char *id,
                    struct dp_error *e)
{
    static const struct usb_class *const classes[] = {
        [DP_USB_TABLET] = &usb_tablet_class, [DP_USB_KEYBOARD] = &usb_keyboard_class, [DP_USB_MOUSE] = &usb_mouse_class,
        [DP_USB_STORAGE] = &usb_storage_class};
    d->kind = kind;
    d->speed = kind == DP_USB_STORAGE ? USB_SPEED_SUPER : USB_SPEED_HIGH;
    d->class = classes[kind];
    d->regs = regs;
    d->env = env;
    d->id = id;
    if (kind != DP_USB_STORAGE)
        return 0;
    if (!d->block || dp_block_size(d->block) < SCSI_SECTOR)
        return dp_error_set(e, -EINVAL, "USB storage needs an image of at least one sector");
    return (d->bounce = malloc(USB_STORAGE_CHUNK)) ? 0 : dp_error_set(e, -ENOMEM, "out of memory");
}

void usb_device_fini(struct usb_device *d)
{
    free(d->bounce);
    d->bounce = NULL;
}

void usb_device_reset(struct usb_device *d)
{
    dp_state_reset(&usb_regs_table, d->regs);
    if (d->class->reset)
        d->class->reset(d);
}

/* ---- descriptors ---- */

static void give(uint8_t *data, uint32_t *size, const void *from, uint32_t n)
{
    *size = DP_MIN(*size, n);
    memcpy(data, from, *size);
}

static enum usb_result give_string(struct usb_device *d, unsigned n, uint8_t *data, uint32_t *size)
{
    uint8_t b[2 + 2 * 100] = {4, USB_DT_STRING, 0x09, 0x04}; /* 0: the languages: US English */
    if (n) {
        if (n > d->class->string_count)
            return USB_STALL;
        const char *text = d->class->strings[n - 1] ? d->class->strings[n - 1] : d->serial;
        unsigned length = (unsigned)strnlen(text, 100);
        b[0] = (uint8_t)(2 + 2 * length);
        for (unsigned i = 0; i < length; i++)
            dp_st16(b + 2 + 2 * i, (uint8_t)text[i]);
    }
    give(data, size, b, b[0]);
    return USB_DONE;
}

static enum usb_result give_descriptor(struct usb_device *d, const struct usb_setup *s, uint8_t *data, uint32_t *size)
{
    const struct usb_class *c = d->class;
    uint8_t b[10];
    switch (s->value >> 8) {
    case USB_DT_DEVICE: give(data, size, c->device, c->device[0]); return USB_DONE;
    case USB_DT_CONFIG:
        if (s->value & 0xff)
            return USB_STALL;
        give(data, size, c->config, dp_ld16(c->config + CONFIG_TOTAL));
        return USB_DONE;
    case USB_DT_STRING: return give_string(d, s->value & 0xff, data, size);
    case USB_DT_BOS:
        if (!c->bos)
            return USB_STALL;
        give(data, size, c->bos, dp_ld16(c->bos + 2));
        return USB_DONE;
    case USB_DT_QUALIFIER: /* what it would be at the other speed, of which there is none */
        if (d->speed != USB_SPEED_HIGH)
            return USB_STALL;
        b[0] = 10;
        b[1] = USB_DT_QUALIFIER;
        memcpy(b + 2, c->device + DEVICE_USB, DEVICE_MAX_PACKET + 1 - DEVICE_USB);
        b[8] = c->device[DEVICE_CONFIGURATIONS];
        b[9] = 0;
        give(data, size, b, sizeof(b));
        return USB_DONE;
    default: return USB_STALL;
    }
}

/* ---- requests ---- */

static uint32_t *halt_bit(struct usb_device *d, unsigned endpoint, uint32_t *bit)
{
    *bit = 1u << ((endpoint & 15) + (endpoint & USB_DIR_IN ? 16 : 0));
    return &d->regs->halted;
}

/* Does the configuration have that endpoint? */
static bool has_endpoint(const struct usb_device *d, unsigned address)
{
    const uint8_t *c = d->class->config;
    for (unsigned at = 0, end = dp_ld16(c + CONFIG_TOTAL); at + 2 < end && c[at]; at += c[at])
        if (c[at + 1] == USB_DT_ENDPOINT && c[at + 2] == address)
            return true;
    return false;
}

static enum usb_result feature(struct usb_device *d, const struct usb_setup *s, bool set)
{
    uint32_t bit, *halted;
    switch (s->type & USB_RECIPIENT_MASK) {
    case USB_RECIPIENT_DEVICE:
        return s->value == FEATURE_REMOTE_WAKEUP || (s->value >= FEATURE_U1 && s->value <= FEATURE_LTM && d->speed == USB_SPEED_SUPER)
                   ? USB_DONE
                   : USB_STALL;
    case USB_RECIPIENT_INTERFACE: return s->value == 0 && d->speed == USB_SPEED_SUPER ? USB_DONE : USB_STALL; /* function suspend */
    case USB_RECIPIENT_ENDPOINT:
        if (s->value != FEATURE_ENDPOINT_HALT)
            return USB_STALL;
        if (!(s->index & 15))
            return USB_DONE;
        if (!d->regs->configuration || !has_endpoint(d, s->index & 0x8f))
            return USB_STALL;
        halted = halt_bit(d, s->index, &bit);
        *halted = set ? *halted | bit : *halted & ~bit;
        if (!set && d->class->endpoint_cleared)
            d->class->endpoint_cleared(d, s->index & 15, s->index & USB_DIR_IN);
        return USB_DONE;
    default: return USB_STALL;
    }
}

static enum usb_result status(struct usb_device *d, const struct usb_setup *s, uint8_t *data, uint32_t *size)
{
    uint8_t b[2] = {0, 0};
    uint32_t bit, *halted;
    switch (s->type & USB_RECIPIENT_MASK) {
    case USB_RECIPIENT_DEVICE: b[0] = d->class->config[CONFIG_ATTRIBUTES] >> 6 & 1; break; /* self-powered */
    case USB_RECIPIENT_INTERFACE: break;
    case USB_RECIPIENT_ENDPOINT:
        if ((s->index & 15) && !has_endpoint(d, s->index & 0x8f))
            return USB_STALL;
        halted = halt_bit(d, s->index, &bit);
        b[0] = (s->index & 15) && (*halted & bit);
        break;
    default: return USB_STALL;
    }
    give(data, size, b, 2);
    return USB_DONE;
}

static enum usb_result standard(struct usb_device *d, const struct usb_setup *s, uint8_t *data, uint32_t *size)
{
    uint8_t zero = 0;
    bool in = s->type & USB_DIR_IN;
    unsigned recipient = s->type & USB_RECIPIENT_MASK;
    if (s->request == USB_GET_DESCRIPTOR && recipient == USB_RECIPIENT_INTERFACE)
        return d->class->control(d, s, data, size);
    switch (s->request | (unsigned)in << 8) {
    case USB_GET_STATUS | 0x100: return status(d, s, data, size);
    case USB_CLEAR_FEATURE: return feature(d, s, false);
    case USB_SET_FEATURE: return feature(d, s, true);
    case USB_GET_DESCRIPTOR | 0x100: return recipient == USB_RECIPIENT_DEVICE ? give_descriptor(d, s, data, size) : USB_STALL;
    case USB_GET_CONFIGURATION | 0x100: give(data, size, &d->regs->configuration, 1); return USB_DONE;
    case USB_SET_CONFIGURATION:
        if (s->value > 1)
            return USB_STALL;
        usb_device_reset(d);
        d->regs->configuration = (uint8_t)s->value;
        return USB_DONE;
    case USB_GET_INTERFACE | 0x100: give(data, size, &zero, 1); return d->regs->configuration && !s->index ? USB_DONE : USB_STALL;
    case USB_SET_INTERFACE:
        if (!d->regs->configuration || s->value || s->index)
            return USB_STALL;
        d->regs->halted = 0;
        return USB_DONE;
    case USB_SET_ADDRESS: return USB_DONE; /* the controller's business */
    case USB_SET_SEL: case USB_SET_ISOCH_DELAY: return d->speed == USB_SPEED_SUPER ? USB_DONE : USB_STALL;
    default: return USB_STALL;
    }
}

enum usb_result usb_control(struct usb_device *d, const struct usb_setup *s, uint8_t *data, uint32_t *size)
{
    enum usb_result r = (s->type & USB_TYPE_MASK) == USB_TYPE_STANDARD ? standard(d, s, data, size) : d->class->control(d, s, data, size);
    if (r != USB_DONE || !(s->type & USB_DIR_IN))
        *size = r == USB_DONE ? *size : 0;
    return r;
}

enum usb_result usb_transfer(struct usb_device *d, struct usb_transfer *t)
{
    uint32_t bit, *halted = halt_bit(d, t->endpoint | (t->in ? USB_DIR_IN : 0), &bit);
    if (!d->regs->configuration || !has_endpoint(d, t->endpoint | (t->in ? USB_DIR_IN : 0)))
        return USB_GONE;
    if (*halted & bit)
        return USB_STALL;
    enum usb_result r = d->class->transfer(d, t);
    if (r == USB_STALL)
        *halted |= bit;
    return r;
}
