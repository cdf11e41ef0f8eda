/* devices/virtio/virtio_input.c - see virtio_input.h. */
#include <linux/input-event-codes.h>

#include "devices/virtio/virtio_input.h"

enum kind { KEYBOARD, MOUSE, TABLET, KINDS };
enum { EVENTS, STATUS, QUEUES };
enum { CFG_ID_NAME = 1, CFG_ID_SERIAL, CFG_ID_DEVIDS, CFG_PROP_BITS = 0x10, CFG_EV_BITS, CFG_ABS_INFO };
enum { SELECT = 0, SUBSEL = 1, SIZE = 2, UNION = 8, UNION_SIZE = 128, CONFIG_SIZE = UNION + UNION_SIZE };
enum { BUS = 6 /* BUS_VIRTUAL */, VENDOR = 0x1af4, VERSION = 1, POSITION_MAX = 32767 };
enum { EVENT_SIZE = 8, RING = 256, BATCH_MAX = 10, KEY_BYTES = (KEY_MAX + 8) / 8 };

struct event { uint16_t type, code; uint32_t value; };
struct input_regs {
    struct dp_virtio_regs virtio;
    uint8_t select, subsel;
    uint16_t start, count;       /* of the ring */
    uint16_t type[RING], code[RING];
    uint32_t value[RING];
    bool lost;                   /* batches were dropped since the ring was empty */
    uint8_t held[KEY_BYTES], told[KEY_BYTES]; /* bit per key or button that is down: in truth, and as put into the ring */
    uint16_t x, y, told_x, told_y;
    uint8_t leds;
};

struct input {
    struct dp_virtio_device base;
    struct input_regs regs;
    uint64_t kind;               /* property */
    struct dp_virtio_request request; /* scratch, under the lock */
};

static struct input *input_of(struct dp_virtio *v) { return DP_CONTAINER_OF(v, struct input, base.virtio); }
static struct input *input_of_device(struct dp_device *d) { return DP_CONTAINER_OF(d, struct input, base.device); }

/* ---- state ---- */

static int input_check(const void *regs, struct dp_error *e)
{
    const struct input_regs *r = regs;
    bool possible = r->start < RING && r->count <= RING && r->x <= POSITION_MAX && r->y <= POSITION_MAX;
    return possible ? 0 : dp_error_set(e, -EINVAL, "virtio-input: %u events from %u of %d", r->count, r->start, RING);
}

static void input_clamp(void *regs)
{
    struct input_regs *r = regs;
    r->start %= RING;
    r->count %= RING + 1;
    r->x %= POSITION_MAX + 1;
    r->y %= POSITION_MAX + 1;
}

static const struct dp_field input_fields[] = {
    DP_FIELD_STRUCT(struct input_regs, virtio, 1, &dp_virtio_regs_table),
    DP_FIELD_U8(struct input_regs, select, 2, 0, 0),
    DP_FIELD_U8(struct input_regs, subsel, 3, 0, 0),
    DP_FIELD_U16(struct input_regs, start, 4, 0, 0),
    DP_FIELD_U16(struct input_regs, count, 5, 0, 0),
    DP_FIELD_ARRAY(struct input_regs, type, 6, DP_KIND_U16, 0, 0),
    DP_FIELD_ARRAY(struct input_regs, code, 7, DP_KIND_U16, 0, 0),
    DP_FIELD_ARRAY(struct input_regs, value, 8, DP_KIND_U32, 0, 0),
    DP_FIELD_BOOL(struct input_regs, lost, 9, false),
    DP_FIELD_BYTES(struct input_regs, held, 10),
    DP_FIELD_BYTES(struct input_regs, told, 11),
    DP_FIELD_U16(struct input_regs, x, 12, 0, 0),
    DP_FIELD_U16(struct input_regs, y, 13, 0, 0),
    DP_FIELD_U16(struct input_regs, told_x, 14, 0, 0),
    DP_FIELD_U16(struct input_regs, told_y, 15, 0, 0),
    DP_FIELD_U8(struct input_regs, leds, 16, 0, 0),
};
static const struct dp_state_table input_table =
    DP_STATE_TABLE(struct input_regs, "virtio-input", input_fields, .check = input_check, .clamp = input_clamp);

/* ---- what the device says of itself ---- */

static const uint16_t buttons[] = {BTN_LEFT, BTN_RIGHT, BTN_MIDDLE}; /* in the order of DP_INPUT_LEFT, ... */

static void set_bit(uint8_t *bits, unsigned n) { bits[n / 8] |= (uint8_t)(1u << n % 8); }
static bool get_bit(const uint8_t *bits, unsigned n) { return bits[n / 8] >> n % 8 & 1; }
static void put_bit(uint8_t *bits, unsigned n, bool value)
{
    bits[n / 8] = (uint8_t)((bits[n / 8] & ~(1u << n % 8)) | (unsigned)value << n % 8);
}

/* The keys of a keyboard end where the buttons begin. */
static bool has_key(enum kind kind, unsigned code)
{
    if (kind == KEYBOARD)
        return code > KEY_RESERVED && code <= KEY_MICMUTE;
    return code == BTN_LEFT || code == BTN_RIGHT || code == BTN_MIDDLE;
}

static void event_bits(enum kind kind, unsigned type, uint8_t *bits)
{
    switch (type) {
    case EV_KEY:
        for (unsigned code = 0; code <= KEY_MAX; code++)
            if (has_key(kind, code))
                set_bit(bits, code);
        break;
    case EV_REL:
        if (kind == MOUSE) {
            set_bit(bits, REL_X);
            set_bit(bits, REL_Y);
        }
        if (kind != KEYBOARD)
            set_bit(bits, REL_WHEEL);
        break;
    case EV_ABS:
        if (kind == TABLET) {
            set_bit(bits, ABS_X);
            set_bit(bits, ABS_Y);
        }
        break;
    case EV_REP:
        if (kind == KEYBOARD) {
            set_bit(bits, REP_DELAY);
            set_bit(bits, REP_PERIOD);
        }
        break;
    case EV_LED:
        if (kind == KEYBOARD) {
            set_bit(bits, LED_NUML);
            set_bit(bits, LED_CAPSL);
            set_bit(bits, LED_SCROLLL);
        }
        break;
    }
}

static unsigned used_bytes(const uint8_t *p)
{
    unsigned n = UNION_SIZE;
    while (n && !p[n - 1])
        n--;
    return n;
}

/* Fills the union; returns how much of it means something, 0: there is no such thing. */
static unsigned describe(const struct input *d, uint8_t *u)
{
    static const char *const names[KINDS] = {"doppel virtio keyboard", "doppel virtio mouse", "doppel virtio tablet"};
    const struct input_regs *r = &d->regs;
    const char *text = r->select == CFG_ID_NAME ? names[d->kind] : d->base.device.id;
    switch (r->select) {
    case CFG_ID_NAME: case CFG_ID_SERIAL:
        if (r->subsel)
            return 0;
        memcpy(u, text, strlen(text));
        return (unsigned)strlen(text);
    case CFG_ID_DEVIDS:
        if (r->subsel)
            return 0;
        dp_st16(u, BUS);
        dp_st16(u + 2, VENDOR);
        dp_st16(u + 4, (uint16_t)(d->kind + 1));
        dp_st16(u + 6, VERSION);
        return 8;
    case CFG_EV_BITS:
        event_bits((enum kind)d->kind, r->subsel, u);
        return used_bytes(u);
    case CFG_ABS_INFO:
        if (d->kind != TABLET || r->subsel > ABS_Y)
            return 0;
        dp_st32(u + 4, POSITION_MAX); /* min, max, fuzz, flat, resolution */
        return 20;
    }
    return 0; /* CFG_PROP_BITS: no properties */
}

static void input_config_read(struct dp_virtio *v, uint32_t offset, void *data, uint32_t size)
{
    const struct input *d = input_of(v);
    uint8_t config[CONFIG_SIZE] = {0};
    config[SIZE] = (uint8_t)describe(d, config + UNION);
    config[SELECT] = d->regs.select;
    config[SUBSEL] = d->regs.subsel;
    memcpy(data, config + offset, size);
}

static void input_config_write(struct dp_virtio *v, uint32_t offset, const void *data, uint32_t size)
{
    struct input_regs *r = &input_of(v)->regs;
    uint8_t config[CONFIG_SIZE] = {[SELECT] = r->select, [SUBSEL] = r->subsel};
    memcpy(config + offset, data, size);
    r->select = config[SELECT];
    r->subsel = config[SUBSEL];
}

/* ---- events; lock held ---- */

static void put(struct input_regs *r, unsigned type, unsigned code, uint32_t value)
{
    unsigned at = (r->start + r->count++) % RING;
    r->type[at] = (uint16_t)type;
    r->code[at] = (uint16_t)code;
    r->value[at] = value;
}

/* Puts what differs between the truth and what was told into the ring, as much as fits; true when nothing more differs. */
static bool put_differences(struct input *d)
{
    struct input_regs *r = &d->regs;
    bool any = false, complete = true;
    if (r->count > RING - BATCH_MAX)
        return false;
    for (unsigned code = 0; code <= KEY_MAX; code++) {
        bool down = get_bit(r->held, code);
        if (r->held[code / 8] == r->told[code / 8] || down == get_bit(r->told, code))
            continue;
        if (r->count >= RING - 4) {
            complete = false;
            break;
        }
        put(r, EV_KEY, code, down);
        put_bit(r->told, code, down);
        any = true;
    }
    bool moved_x = d->kind == TABLET && r->x != r->told_x, moved_y = d->kind == TABLET && r->y != r->told_y;
    if (moved_x)
        put(r, EV_ABS, ABS_X, r->told_x = r->x);
    if (moved_y)
        put(r, EV_ABS, ABS_Y, r->told_y = r->y);
    if (any || moved_x || moved_y)
        put(r, EV_SYN, SYN_REPORT, 0);
    return complete;
}

static void deliver(struct input *d)
{
    struct dp_virtio *v = &d->base.virtio;
    struct input_regs *r = &d->regs;
    unsigned budget = dp_virtio_queue_size(v, EVENTS);
    for (;;) {
        if (!r->count && r->lost)
            r->lost = !put_differences(d);
        if (!r->count || dp_virtio_pop(v, EVENTS, &d->request) <= 0)
            return;
        uint8_t bytes[EVENT_SIZE];
        dp_st16(bytes, r->type[r->start]);
        dp_st16(bytes + 2, r->code[r->start]);
        dp_st32(bytes + 4, r->value[r->start]);
        uint64_t room = DP_MIN(d->request.in_bytes, (uint64_t)EVENT_SIZE), n = dp_virtio_write(v, &d->request, 0, bytes, room);
        if (n < EVENT_SIZE)
            dp_virtio_broken(v, "an event's buffer is too small or not in RAM");
        r->start = (uint16_t)((r->start + 1) % RING);
        r->count--;
        dp_virtio_push(v, EVENTS, d->request.head, (uint32_t)n);
        if (!--budget) {
            dp_virtio_more(v, EVENTS);
            return;
        }
    }
}

static bool is_up(const struct input *d)
{
    return (d->regs.virtio.status & (DP_VIRTIO_DRIVER_OK | DP_VIRTIO_NEEDS_RESET)) == DP_VIRTIO_DRIVER_OK;
}

/* Tells what changed in held, x and y, and these movements. */
static void report(struct input *d, int dx, int dy, int wheel)
{
    struct input_regs *r = &d->regs;
    if (!is_up(d)) { /* a driver that comes later is told nothing of the past */
        memcpy(r->told, r->held, sizeof r->told);
        r->told_x = r->x;
        r->told_y = r->y;
        return;
    }
    if (r->lost || r->count > RING - 2 * BATCH_MAX) {
        r->lost = true;
    } else {
        unsigned before = r->count;
        if (dx)
            put(r, EV_REL, REL_X, (uint32_t)dx);
        if (dy)
            put(r, EV_REL, REL_Y, (uint32_t)dy);
        if (wheel)
            put(r, EV_REL, REL_WHEEL, (uint32_t)wheel);
        bool moved = r->count != before;
        before = r->count;
        r->lost = !put_differences(d);
        if (moved && r->count == before)
            put(r, EV_SYN, SYN_REPORT, 0);
    }
    deliver(d);
}

/* ---- sinks; any thread ---- */

static void sink_key(void *opaque, unsigned code, bool down)
{
    struct input *d = opaque;
    struct dp_virtio *v = &d->base.virtio;
    if (!has_key(KEYBOARD, code))
        return;
    dp_virtio_lock(v);
    put_bit(d->regs.held, code, down); /* that a held key repeats is the guest's to say */
    report(d, 0, 0, 0);
    dp_virtio_unlock(v);
}

static void hold_buttons(struct input *d, unsigned pressed)
{
    for (unsigned i = 0; i < DP_ARRAY_LEN(buttons); i++)
        put_bit(d->regs.held, buttons[i], pressed >> i & 1);
}

static void sink_motion(void *opaque, int dx, int dy, int wheel, unsigned pressed)
{
    struct input *d = opaque;
    struct dp_virtio *v = &d->base.virtio;
    dp_virtio_lock(v);
    hold_buttons(d, pressed);
    report(d, dx, dy, wheel);
    dp_virtio_unlock(v);
}

static void sink_position(void *opaque, unsigned x, unsigned y, int wheel, unsigned pressed)
{
    struct input *d = opaque;
    struct dp_virtio *v = &d->base.virtio;
    dp_virtio_lock(v);
    d->regs.x = (uint16_t)DP_MIN(x, (unsigned)POSITION_MAX);
    d->regs.y = (uint16_t)DP_MIN(y, (unsigned)POSITION_MAX);
    hold_buttons(d, pressed);
    report(d, 0, 0, wheel);
    dp_virtio_unlock(v);
}

static bool route_active(void *opaque)
{
    struct input *d = opaque;
    pthread_mutex_lock(&d->base.device.lock);
    bool up = is_up(d);
    pthread_mutex_unlock(&d->base.device.lock);
    return up;
}

struct dp_input_route dp_virtio_input_route(struct dp_device *device)
{
    struct input *d = input_of_device(device);
    return (struct dp_input_route){
        .sink = {.key = d->kind == KEYBOARD ? sink_key : NULL, .motion = d->kind == MOUSE ? sink_motion : NULL,
                 .position = d->kind == TABLET ? sink_position : NULL, .opaque = d},
        .active = route_active,
        .opaque = d,
    };
}

/* ---- the virtio side ---- */

static void take_status(struct input *d)
{
    struct dp_virtio *v = &d->base.virtio;
    struct dp_virtio_request *r = &d->request;
    for (unsigned budget = dp_virtio_queue_size(v, STATUS); dp_virtio_pop(v, STATUS, r) > 0;) {
        uint8_t bytes[EVENT_SIZE];
        if (dp_virtio_read(v, r, 0, bytes, EVENT_SIZE) < EVENT_SIZE)
            dp_virtio_broken(v, "a status event's buffer is too small or not in RAM");
        else if (dp_ld16(bytes) == EV_LED && dp_ld16(bytes + 2) < 8)
            put_bit(&d->regs.leds, dp_ld16(bytes + 2), dp_ld32(bytes + 4) != 0);
        dp_virtio_push(v, STATUS, r->head, 0);
        if (!--budget) {
            dp_virtio_more(v, STATUS);
            return;
        }
    }
}

static void input_notify(struct dp_virtio *v, unsigned queue)
{
    if (queue == EVENTS)
        deliver(input_of(v));
    else
        take_status(input_of(v));
}

/* What is held stays known: its release is told to nobody. */
static void input_driver_reset(struct dp_virtio *v)
{
    struct input_regs *r = &input_of(v)->regs;
    r->select = r->subsel = r->leds = 0;
    r->start = r->count = 0;
    memset(r->type, 0, sizeof r->type);
    memset(r->code, 0, sizeof r->code);
    memset(r->value, 0, sizeof r->value);
    r->lost = false;
    memcpy(r->told, r->held, sizeof r->told);
    r->told_x = r->x;
    r->told_y = r->y;
}

#define INPUT_CLASS(class) \
    { \
        .device_id = 18, .pci_class = class, .queue_count = QUEUES, .queue_size = 64, .config_size = CONFIG_SIZE, \
        .config_read = input_config_read, .config_write = input_config_write, .notify = input_notify, .reset = input_driver_reset, \
    }
static const struct dp_virtio_class input_virtio_classes[KINDS] = {
    [KEYBOARD] = INPUT_CLASS(0x090000), [MOUSE] = INPUT_CLASS(0x090200), [TABLET] = INPUT_CLASS(0x090100)};

/* ---- life cycle ---- */

static int input_init(struct dp_device *device, struct dp_error *e)
{
    struct input *d = input_of_device(device);
    dp_virtio_init(&d->base.virtio, &input_virtio_classes[d->kind], &d->regs.virtio, device);
    return 0;
}

static void input_fini(struct dp_device *d) { dp_virtio_fini(dp_virtio_of(d)); }
static void input_reset(struct dp_device *d) { dp_virtio_reset(dp_virtio_of(d)); }
static void input_pause(struct dp_device *d) { dp_virtio_pause(dp_virtio_of(d)); }
static void input_resume(struct dp_device *d) { dp_virtio_resume(dp_virtio_of(d)); }
static void input_post_load(struct dp_device *d) { dp_virtio_post_load(dp_virtio_of(d)); }

static const char *const kind_names[] = {"keyboard", "mouse", "tablet", NULL};
static const struct dp_property input_properties[] = {
    {"kind", "what it is: keyboard, mouse or tablet", DP_PROP_ENUM, offsetof(struct input, kind), KEYBOARD, 0, TABLET, kind_names},
};

const struct dp_device_class dp_virtio_input_class = {
    .name = "virtio-input",
    .summary = "keyboard, mouse or tablet (virtio 1.2)",
    .size = sizeof(struct input),
    .regs_offset = offsetof(struct input, regs),
    .state = &input_table,
    .properties = input_properties,
    .property_count = DP_ARRAY_LEN(input_properties),
    .init = input_init,
    .fini = input_fini,
    .reset = input_reset,
    .pause = input_pause,
    .resume = input_resume,
    .post_load = input_post_load,
};
