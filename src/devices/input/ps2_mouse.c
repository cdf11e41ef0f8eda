/* ps2_mouse.c - the three-button mouse with a wheel; model and source in ps2.h. */
#include "devices/input/ps2.h"

enum { /* commands */
    SCALE_1 = 0xe6, SCALE_2 = 0xe7, RESOLUTION = 0xe8, STATUS = 0xe9, STREAM = 0xea, READ_DATA = 0xeb, UNWRAP = 0xec, WRAP = 0xee,
    REMOTE = 0xf0, IDENTIFY = 0xf2, RATE = 0xf3, ENABLE = 0xf4, DISABLE = 0xf5, DEFAULTS = 0xf6, RESEND = 0xfe, RESET = 0xff
};
enum { LEFT = 1, RIGHT = 2, MIDDLE = 4, BUTTONS = 7 };
enum { ID_PLAIN = 0, ID_WHEEL = 3, ID_FIVE_BUTTONS = 4 };
enum { FIRST_ALWAYS = 8, FIRST_X_SIGN = 0x10, FIRST_Y_SIGN = 0x20, FIRST_X_OVERFLOW = 0x40, FIRST_Y_OVERFLOW = 0x80 };
enum { RATE_INITIAL = 100, RESOLUTION_INITIAL = 2 };
enum { KNOCK_NONE, KNOCK_200, KNOCK_200_100, KNOCK_200_200 };

static int clamp(int v, int low, int high) { return v < low ? low : v > high ? high : v; }
static int accumulate(uint16_t a, int64_t b) { return (int)DP_MAX(-32768, DP_MIN(32767, (int16_t)a + b)); }

/* Scaling 2:1 is none: small movements stay small. */
static int scaled(int v)
{
    static const int8_t table[] = {0, 1, 1, 3, 6, 9};
    int size = v < 0 ? -v : v;
    int result = size < (int)DP_ARRAY_LEN(table) ? table[size] : 2 * size;
    return v < 0 ? -result : result;
}

static void clear_data(struct dp_ps2_mouse *m)
{
    m->event_start = m->event_count = 0;
    m->packet_at = m->packet_count = 0;
    memset(m->dx, 0, sizeof(m->dx));
    memset(m->dy, 0, sizeof(m->dy));
    memset(m->dz, 0, sizeof(m->dz));
    memset(m->event_buttons, 0, sizeof(m->event_buttons));
    memset(m->packet, 0, sizeof(m->packet));
}

static void clear_event(struct dp_ps2_mouse *m, unsigned at) { m->dx[at] = m->dy[at] = m->dz[at] = m->event_buttons[at] = 0; }

void dp_ps2_mouse_motion(struct dp_ps2_mouse *m, int dx, int dy, int wheel, unsigned buttons)
{
    bool changed = (buttons & BUTTONS) != m->buttons;
    m->buttons = buttons & BUTTONS;
    wheel = m->id == ID_PLAIN ? 0 : wheel;
    if ((!m->remote && !m->reporting) || (!dx && !dy && !wheel && !changed))
        return;
    unsigned newest = (m->event_start + m->event_count + DP_PS2_MOTIONS - 1) % DP_PS2_MOTIONS;
    bool join = m->event_count && (m->event_buttons[newest] == m->buttons || m->event_count == DP_PS2_MOTIONS);
    unsigned at = join ? newest : (m->event_start + m->event_count++) % DP_PS2_MOTIONS;
    if (!join)
        clear_event(m, at);
    m->dx[at] = (uint16_t)accumulate(m->dx[at], dx);
    m->dy[at] = (uint16_t)accumulate(m->dy[at], -(int64_t)dy);
    m->dz[at] = (uint16_t)accumulate(m->dz[at], -(int64_t)wheel);
    m->event_buttons[at] = m->buttons;
}

static unsigned encode(const struct dp_ps2_mouse *m, uint8_t packet[4], int x, int y, int z, unsigned buttons, unsigned overflows)
{
    packet[0] = (uint8_t)(FIRST_ALWAYS | buttons | (x < 0 ? FIRST_X_SIGN : 0) | (y < 0 ? FIRST_Y_SIGN : 0) | overflows);
    packet[1] = (uint8_t)x;
    packet[2] = (uint8_t)y;
    packet[3] = (uint8_t)(m->id == ID_FIVE_BUTTONS ? z & 0x0f : z); /* the upper buttons do not exist */
    return m->id == ID_PLAIN ? 3 : 4;
}

/* The next packet of a stream. What does not fit stays for another: none of it is lost, so nothing overflows. */
static bool refill(struct dp_ps2_mouse *m)
{
    if (m->packet_at < m->packet_count)
        return true;
    if (!m->event_count || m->remote)
        return false;
    unsigned at = m->event_start;
    int limit = m->scaling ? 127 : 255, wheel = m->id == ID_FIVE_BUTTONS ? 7 : 127;
    int x = clamp((int16_t)m->dx[at], -limit, limit), y = clamp((int16_t)m->dy[at], -limit, limit);
    int z = clamp((int16_t)m->dz[at], -wheel, wheel);
    m->dx[at] -= (uint16_t)x;
    m->dy[at] -= (uint16_t)y;
    m->dz[at] -= (uint16_t)z;
    if (m->id == ID_PLAIN)
        m->dz[at] = 0;
    m->packet_at = 0;
    m->packet_count = (uint8_t)encode(m, m->packet, m->scaling ? scaled(x) : x, m->scaling ? scaled(y) : y, z, m->event_buttons[at], 0);
    if (!m->dx[at] && !m->dy[at] && !m->dz[at]) {
        clear_event(m, at);
        m->event_start = (m->event_start + 1) % DP_PS2_MOTIONS;
        m->event_count--;
    }
    return true;
}

/* READ DATA: all since the last time in one packet, where it may overflow. */
static void poll(struct dp_ps2_mouse *m)
{
    int x = 0, y = 0, z = 0;
    for (unsigned i = 0; i < m->event_count; i++) {
        unsigned at = (m->event_start + i) % DP_PS2_MOTIONS;
        x += (int16_t)m->dx[at];
        y += (int16_t)m->dy[at];
        z += (int16_t)m->dz[at];
    }
    clear_data(m);
    unsigned overflows = (x != clamp(x, -256, 255) ? FIRST_X_OVERFLOW : 0) | (y != clamp(y, -256, 255) ? FIRST_Y_OVERFLOW : 0);
    uint8_t packet[4];
    int wheel = m->id == ID_FIVE_BUTTONS ? 7 : 127;
    unsigned n = encode(m, packet, clamp(x, -256, 255), clamp(y, -256, 255), clamp(z, -wheel, wheel), m->buttons, overflows);
    for (unsigned i = 0; i < n; i++)
        dp_ps2_reply(&m->replies, packet[i]);
}

/* ---- the cable ---- */

bool dp_ps2_mouse_ready(const struct dp_ps2_mouse *m)
{
    return m->replies.count || m->packet_at < m->packet_count || (m->event_count && !m->remote);
}

bool dp_ps2_mouse_take(struct dp_ps2_mouse *m, uint8_t *byte, bool *reply)
{
    *reply = dp_ps2_reply_take(&m->replies, byte);
    if (!*reply) {
        if (!refill(m))
            return false;
        *byte = m->packet[m->packet_at++];
    }
    m->last = *byte;
    return true;
}

void dp_ps2_mouse_unread(struct dp_ps2_mouse *m, uint8_t byte, bool reply)
{
    if (reply)
        dp_ps2_reply_unread(&m->replies, byte);
    else if (m->packet_at && m->packet_count)
        m->packet_at--;
}

static void defaults(struct dp_ps2_mouse *m)
{
    m->rate = RATE_INITIAL;
    m->resolution = RESOLUTION_INITIAL;
    m->scaling = m->remote = m->wrap = m->reporting = false;
    m->knock = KNOCK_NONE;
    clear_data(m);
}

/* Sample rates 200, 100, 80 in a row ask for the wheel; 200, 200, 80 for five buttons too. */
static void set_rate(struct dp_ps2_mouse *m, uint8_t rate)
{
    m->rate = rate;
    if (rate == 80 && m->knock == KNOCK_200_100)
        m->id = ID_WHEEL;
    if (rate == 80 && m->knock == KNOCK_200_200)
        m->id = ID_FIVE_BUTTONS;
    if (rate == 200)
        m->knock = m->knock == KNOCK_200 || m->knock == KNOCK_200_200 ? KNOCK_200_200 : KNOCK_200;
    else
        m->knock = rate == 100 && m->knock == KNOCK_200 ? KNOCK_200_100 : KNOCK_NONE;
}

static void status(struct dp_ps2_mouse *m)
{
    uint8_t buttons = (m->buttons & LEFT ? 4 : 0) | (m->buttons & MIDDLE ? 2 : 0) | (m->buttons & RIGHT ? 1 : 0);
    dp_ps2_reply(&m->replies, DP_PS2_ACK);
    dp_ps2_reply(&m->replies, buttons | (uint8_t)m->scaling << 4 | (uint8_t)m->reporting << 5 | (uint8_t)m->remote << 6);
    dp_ps2_reply(&m->replies, m->resolution);
    dp_ps2_reply(&m->replies, m->rate);
}

void dp_ps2_mouse_command(struct dp_ps2_mouse *m, uint8_t byte)
{
    struct dp_ps2_replies *q = &m->replies;
    uint8_t waiting = m->command;
    m->command = 0;
    m->packet_at = m->packet_count = 0; /* a command ends the packet it comes into */
    if (m->wrap && byte != RESET && byte != UNWRAP) {
        dp_ps2_reply(q, byte);
        return;
    }
    if (waiting && byte != RESET) {
        if (waiting == RATE)
            set_rate(m, byte);
        else
            m->resolution = byte & 3;
        dp_ps2_reply(q, DP_PS2_ACK);
        return;
    }
    switch (byte) {
    case RESEND: dp_ps2_reply(q, m->last); return;
    case SCALE_1: m->scaling = false; break;
    case SCALE_2: m->scaling = true; break;
    case RESOLUTION: case RATE: m->command = byte; break;
    case STATUS: status(m); return;
    case STREAM: m->remote = false; clear_data(m); break;
    case REMOTE: m->remote = true; clear_data(m); break;
    case UNWRAP: m->wrap = false; break;
    case WRAP: m->wrap = true; clear_data(m); break;
    case READ_DATA:
        dp_ps2_reply(q, DP_PS2_ACK);
        poll(m);
        return;
    case IDENTIFY:
        dp_ps2_reply(q, DP_PS2_ACK);
        dp_ps2_reply(q, m->id);
        return;
    case ENABLE: m->reporting = true; break;
    case DISABLE: m->reporting = false; clear_data(m); break;
    case DEFAULTS: defaults(m); break;
    case RESET:
        defaults(m);
        q->start = q->count = 0;
        m->id = ID_PLAIN;
        dp_ps2_reply(q, DP_PS2_ACK);
        dp_ps2_reply(q, DP_PS2_BAT_OK);
        dp_ps2_reply(q, m->id);
        return;
    default: dp_ps2_reply(q, DP_PS2_RESEND); return;
    }
    dp_ps2_reply(q, DP_PS2_ACK);
}

/* ---- state ---- */

static const struct dp_field mouse_fields[] = {
    DP_FIELD_BYTES(struct dp_ps2_mouse, replies.byte, 1),
    DP_FIELD_U8(struct dp_ps2_mouse, replies.start, 2, 0, DP_PS2_REPLIES - 1),
    DP_FIELD_U8(struct dp_ps2_mouse, replies.count, 3, 0, 0x1f),
    DP_FIELD_U8(struct dp_ps2_mouse, command, 4, 0, 0),
    DP_FIELD_U8(struct dp_ps2_mouse, last, 5, 0, 0),
    DP_FIELD_U8(struct dp_ps2_mouse, resolution, 6, RESOLUTION_INITIAL, 3),
    DP_FIELD_U8(struct dp_ps2_mouse, rate, 7, RATE_INITIAL, 0),
    DP_FIELD_U8(struct dp_ps2_mouse, id, 8, 0, 7),
    DP_FIELD_U8(struct dp_ps2_mouse, knock, 9, 0, 3),
    DP_FIELD_BOOL(struct dp_ps2_mouse, remote, 10, false),
    DP_FIELD_BOOL(struct dp_ps2_mouse, wrap, 11, false),
    DP_FIELD_BOOL(struct dp_ps2_mouse, reporting, 12, false),
    DP_FIELD_BOOL(struct dp_ps2_mouse, scaling, 13, false),
    DP_FIELD_U8(struct dp_ps2_mouse, buttons, 14, 0, BUTTONS),
    DP_FIELD_ARRAY(struct dp_ps2_mouse, dx, 15, DP_KIND_U16, 0, 0),
    DP_FIELD_ARRAY(struct dp_ps2_mouse, dy, 16, DP_KIND_U16, 0, 0),
    DP_FIELD_ARRAY(struct dp_ps2_mouse, dz, 17, DP_KIND_U16, 0, 0),
    DP_FIELD_ARRAY(struct dp_ps2_mouse, event_buttons, 18, DP_KIND_U8, 0, BUTTONS),
    DP_FIELD_U8(struct dp_ps2_mouse, event_start, 19, 0, DP_PS2_MOTIONS - 1),
    DP_FIELD_U8(struct dp_ps2_mouse, event_count, 20, 0, 0x1f),
    DP_FIELD_BYTES(struct dp_ps2_mouse, packet, 21),
    DP_FIELD_U8(struct dp_ps2_mouse, packet_at, 22, 0, 7),
    DP_FIELD_U8(struct dp_ps2_mouse, packet_count, 23, 0, 7),
};

static int mouse_check(const void *regs, struct dp_error *e)
{
    const struct dp_ps2_mouse *m = regs;
    if (m->replies.count > DP_PS2_REPLIES || m->event_count > DP_PS2_MOTIONS || m->packet_count > sizeof(m->packet) ||
        m->packet_at > m->packet_count || (m->id != ID_PLAIN && m->id != ID_WHEEL && m->id != ID_FIVE_BUTTONS))
        return dp_error_set(e, -EINVAL, "ps2-mouse: more bytes or movements than its queues hold, or an unknown identity (%u)", m->id);
    return 0;
}

static void mouse_clamp(void *regs)
{
    struct dp_ps2_mouse *m = regs;
    m->replies.count %= DP_PS2_REPLIES + 1;
    m->event_count %= DP_PS2_MOTIONS + 1;
    m->packet_count %= sizeof(m->packet) + 1;
    m->packet_at %= m->packet_count + 1;
    m->id = m->id < 3 ? ID_PLAIN : m->id == 3 ? ID_WHEEL : ID_FIVE_BUTTONS;
}

const struct dp_state_table dp_ps2_mouse_table =
    DP_STATE_TABLE(struct dp_ps2_mouse, "ps2-mouse", mouse_fields, .check = mouse_check, .clamp = mouse_clamp);
