/* ps2_keyboard.c - the 101/102-key keyboard; model and source in ps2.h. */
#include "devices/input/ps2.h"

#include <linux/input-event-codes.h>

enum { E0 = 0xe000, RELEASED = 0x8000 };
enum { /* commands */
    SET_LEDS = 0xed, ECHO = 0xee, SCAN_SET = 0xf0, IDENTIFY = 0xf2, SET_RATE = 0xf3, ENABLE = 0xf4, DISABLE = 0xf5, DEFAULTS = 0xf6,
    ALL_TYPEMATIC = 0xf7, ALL_MAKE_BREAK = 0xf8, ALL_MAKE = 0xf9, ALL_BOTH = 0xfa, KEY_TYPEMATIC = 0xfb, KEY_MAKE = 0xfd, RESEND = 0xfe,
    RESET = 0xff
};
enum { RATE_INITIAL = 0x2b /* 10.9 a second after 500 ms */, FIRST_COMMAND = SET_LEDS };

static const uint16_t set2[DP_PS2_KEY_CODES] = {
    [KEY_ESC] = 0x76, [KEY_1] = 0x16, [KEY_2] = 0x1e, [KEY_3] = 0x26, [KEY_4] = 0x25, [KEY_5] = 0x2e, [KEY_6] = 0x36, [KEY_7] = 0x3d,
    [KEY_8] = 0x3e, [KEY_9] = 0x46, [KEY_0] = 0x45, [KEY_MINUS] = 0x4e, [KEY_EQUAL] = 0x55, [KEY_BACKSPACE] = 0x66, [KEY_TAB] = 0x0d,
    [KEY_Q] = 0x15, [KEY_W] = 0x1d, [KEY_E] = 0x24, [KEY_R] = 0x2d, [KEY_T] = 0x2c, [KEY_Y] = 0x35, [KEY_U] = 0x3c, [KEY_I] = 0x43,
    [KEY_O] = 0x44, [KEY_P] = 0x4d, [KEY_LEFTBRACE] = 0x54, [KEY_RIGHTBRACE] = 0x5b, [KEY_ENTER] = 0x5a, [KEY_LEFTCTRL] = 0x14,
    [KEY_A] = 0x1c, [KEY_S] = 0x1b, [KEY_D] = 0x23, [KEY_F] = 0x2b, [KEY_G] = 0x34, [KEY_H] = 0x33, [KEY_J] = 0x3b, [KEY_K] = 0x42,
    [KEY_L] = 0x4b, [KEY_SEMICOLON] = 0x4c, [KEY_APOSTROPHE] = 0x52, [KEY_GRAVE] = 0x0e, [KEY_LEFTSHIFT] = 0x12, [KEY_BACKSLASH] = 0x5d,
    [KEY_Z] = 0x1a, [KEY_X] = 0x22, [KEY_C] = 0x21, [KEY_V] = 0x2a, [KEY_B] = 0x32, [KEY_N] = 0x31, [KEY_M] = 0x3a, [KEY_COMMA] = 0x41,
    [KEY_DOT] = 0x49, [KEY_SLASH] = 0x4a, [KEY_RIGHTSHIFT] = 0x59, [KEY_KPASTERISK] = 0x7c, [KEY_LEFTALT] = 0x11, [KEY_SPACE] = 0x29,
    [KEY_CAPSLOCK] = 0x58, [KEY_F1] = 0x05, [KEY_F2] = 0x06, [KEY_F3] = 0x04, [KEY_F4] = 0x0c, [KEY_F5] = 0x03, [KEY_F6] = 0x0b,
    [KEY_F7] = 0x83, [KEY_F8] = 0x0a, [KEY_F9] = 0x01, [KEY_F10] = 0x09, [KEY_NUMLOCK] = 0x77, [KEY_SCROLLLOCK] = 0x7e, [KEY_KP7] = 0x6c,
    [KEY_KP8] = 0x75, [KEY_KP9] = 0x7d, [KEY_KPMINUS] = 0x7b, [KEY_KP4] = 0x6b, [KEY_KP5] = 0x73, [KEY_KP6] = 0x74, [KEY_KPPLUS] = 0x79,
    [KEY_KP1] = 0x69, [KEY_KP2] = 0x72, [KEY_KP3] = 0x7a, [KEY_KP0] = 0x70, [KEY_KPDOT] = 0x71, [KEY_102ND] = 0x61, [KEY_F11] = 0x78,
    [KEY_F12] = 0x07, [KEY_RO] = 0x51, [KEY_YEN] = 0x6a, [KEY_HENKAN] = 0x64, [KEY_MUHENKAN] = 0x67, [KEY_KATAKANAHIRAGANA] = 0x13,
    [KEY_KPJPCOMMA] = 0x6d, [KEY_SYSRQ] = E0 | 0x7c, [KEY_PAUSE] = E0 | 0x7e, /* these two: see expand */
    [KEY_KPENTER] = E0 | 0x5a, [KEY_RIGHTCTRL] = E0 | 0x14, [KEY_KPSLASH] = E0 | 0x4a, [KEY_RIGHTALT] = E0 | 0x11, [KEY_HOME] = E0 | 0x6c,
    [KEY_UP] = E0 | 0x75, [KEY_PAGEUP] = E0 | 0x7d, [KEY_LEFT] = E0 | 0x6b, [KEY_RIGHT] = E0 | 0x74, [KEY_END] = E0 | 0x69,
    [KEY_DOWN] = E0 | 0x72, [KEY_PAGEDOWN] = E0 | 0x7a, [KEY_INSERT] = E0 | 0x70, [KEY_DELETE] = E0 | 0x71, [KEY_LEFTMETA] = E0 | 0x1f,
    [KEY_RIGHTMETA] = E0 | 0x27, [KEY_COMPOSE] = E0 | 0x2f, [KEY_POWER] = E0 | 0x37, [KEY_SLEEP] = E0 | 0x3f, [KEY_WAKEUP] = E0 | 0x5e,
    [KEY_MUTE] = E0 | 0x23, [KEY_VOLUMEDOWN] = E0 | 0x21, [KEY_VOLUMEUP] = E0 | 0x32, [KEY_NEXTSONG] = E0 | 0x4d,
    [KEY_PREVIOUSSONG] = E0 | 0x15, [KEY_STOPCD] = E0 | 0x3b, [KEY_PLAYPAUSE] = E0 | 0x34, [KEY_CALC] = E0 | 0x2b, [KEY_MAIL] = E0 | 0x48,
    [KEY_HOMEPAGE] = E0 | 0x3a, [KEY_SEARCH] = E0 | 0x10, [KEY_BACK] = E0 | 0x38, [KEY_FORWARD] = E0 | 0x30, [KEY_STOP] = E0 | 0x28,
    [KEY_REFRESH] = E0 | 0x20, [KEY_BOOKMARKS] = E0 | 0x18, [KEY_COMPUTER] = E0 | 0x40,
};

/* Where set 3 is not set 2. Keys that set 3 does not know have E0 in set 2 and nothing here. */
static const uint8_t set3[DP_PS2_KEY_CODES] = {
    [KEY_ESC] = 0x08, [KEY_F1] = 0x07, [KEY_F2] = 0x0f, [KEY_F3] = 0x17, [KEY_F4] = 0x1f, [KEY_F5] = 0x27, [KEY_F6] = 0x2f, [KEY_F7] = 0x37,
    [KEY_F8] = 0x3f, [KEY_F9] = 0x47, [KEY_F10] = 0x4f, [KEY_F11] = 0x56, [KEY_F12] = 0x5e, [KEY_SYSRQ] = 0x57, [KEY_SCROLLLOCK] = 0x5f,
    [KEY_PAUSE] = 0x62, [KEY_CAPSLOCK] = 0x14, [KEY_LEFTCTRL] = 0x11, [KEY_LEFTALT] = 0x19, [KEY_RIGHTALT] = 0x39, [KEY_RIGHTCTRL] = 0x58,
    [KEY_INSERT] = 0x67, [KEY_DELETE] = 0x64, [KEY_LEFT] = 0x61, [KEY_HOME] = 0x6e, [KEY_END] = 0x65, [KEY_UP] = 0x63, [KEY_DOWN] = 0x60,
    [KEY_PAGEUP] = 0x6f, [KEY_PAGEDOWN] = 0x6d, [KEY_RIGHT] = 0x6a, [KEY_NUMLOCK] = 0x76, [KEY_KPSLASH] = 0x77, [KEY_KPASTERISK] = 0x7e,
    [KEY_KPMINUS] = 0x84, [KEY_KPPLUS] = 0x7c, [KEY_KPENTER] = 0x79, [KEY_BACKSLASH] = 0x5c, [KEY_102ND] = 0x13, [KEY_LEFTMETA] = 0x8b,
    [KEY_RIGHTMETA] = 0x8c, [KEY_COMPOSE] = 0x8d,
};

uint8_t dp_ps2_translate(uint8_t set2_code)
{
    static const uint8_t table[128] = {
        0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, /* 00 */
        0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, /* 10 */
        0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, /* 20 */
        0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, /* 30 */
        0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, /* 40 */
        0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, /* 50 */
        0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, /* 60 */
        0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54, /* 70 */
    };
    if (set2_code < sizeof(table))
        return table[set2_code];
    return set2_code == 0x83 ? 0x41 : set2_code == 0x84 ? 0x54 : set2_code;
}

/* ---- replies; here for both devices ---- */

/* One place stays free for a byte that comes back. More replies than fit are those of a host that does not listen. */
void dp_ps2_reply(struct dp_ps2_replies *q, uint8_t byte)
{
    if (q->count < DP_PS2_REPLIES - 1)
        q->byte[(q->start + q->count++) % DP_PS2_REPLIES] = byte;
}

bool dp_ps2_reply_take(struct dp_ps2_replies *q, uint8_t *byte)
{
    if (!q->count)
        return false;
    *byte = q->byte[q->start];
    q->start = (q->start + 1) % DP_PS2_REPLIES;
    q->count--;
    return true;
}

void dp_ps2_reply_unread(struct dp_ps2_replies *q, uint8_t byte)
{
    if (q->count == DP_PS2_REPLIES)
        return;
    q->start = (q->start + DP_PS2_REPLIES - 1) % DP_PS2_REPLIES;
    q->byte[q->start] = byte;
    q->count++;
}

/* ---- keys ---- */

static bool get(const uint8_t *bits, unsigned n) { return bits[n / 8] >> n % 8 & 1; }
static void put(uint8_t *bits, unsigned n, bool v) { bits[n / 8] = (uint8_t)((bits[n / 8] & ~(1u << n % 8)) | (unsigned)v << n % 8); }
static bool either(const uint8_t *bits, unsigned a, unsigned b) { return get(bits, a) || get(bits, b); }

static void add(struct dp_ps2_keyboard *k, uint8_t byte)
{
    if (k->sequence_count < sizeof(k->sequence))
        k->sequence[k->sequence_count++] = byte;
}

/* One code of set 2, or what it is in set 1. */
static void add_code(struct dp_ps2_keyboard *k, unsigned code, bool released)
{
    bool one = k->set == 1;
    if (code & E0)
        add(k, 0xe0);
    if (released && !one)
        add(k, 0xf0);
    add(k, one ? (uint8_t)(dp_ps2_translate((uint8_t)code) | (released ? 0x80 : 0)) : (uint8_t)code);
}

/* The bytes of an event, none if the key has none. The 101-key keyboard has two keys that its ancestor had on others: Print Screen,
 * which was on shift and *, and Pause, which was control and Num Lock. */
static void expand(struct dp_ps2_keyboard *k, unsigned code, bool released)
{
    k->sequence_at = k->sequence_count = 0;
    bool control = either(k->told, KEY_LEFTCTRL, KEY_RIGHTCTRL), again = get(k->told, code) && !released;
    if (k->set == 3) {
        uint8_t byte = set3[code] ? set3[code] : set2[code] & E0 ? 0 : (uint8_t)set2[code];
        if (!byte || (released && !k->set3_breaks))
            return;
        if (released)
            add(k, 0xf0);
        add(k, byte);
    } else if (code == KEY_PAUSE) {
        if (released)
            return;
        if (control) {
            add_code(k, E0 | 0x7e, false);
            add_code(k, E0 | 0x7e, true);
            return;
        }
        for (unsigned up = 0; up < 2; up++) {
            add(k, 0xe1);
            add_code(k, 0x14, up);
            add_code(k, 0x77, up);
        }
    } else if (code == KEY_SYSRQ) {
        if (either(k->told, KEY_LEFTALT, KEY_RIGHTALT)) {
            add_code(k, 0x84, released);
            return;
        }
        bool bare = !control && !either(k->told, KEY_LEFTSHIFT, KEY_RIGHTSHIFT) && !again;
        if (bare && !released)
            add_code(k, E0 | 0x12, false);
        add_code(k, E0 | 0x7c, released);
        if (bare && released)
            add_code(k, E0 | 0x12, true);
    } else if (set2[code]) {
        add_code(k, set2[code], released);
    }
}

static void push(struct dp_ps2_keyboard *k, uint16_t event)
{
    if (k->event_count == DP_PS2_KEYS) {
        k->event_start = (k->event_start + 1) % DP_PS2_KEYS;
        k->event_count--;
        k->lost = true;
    }
    k->event[(k->event_start + k->event_count++) % DP_PS2_KEYS] = event;
}

static void clear_data(struct dp_ps2_keyboard *k)
{
    k->event_start = k->event_count = 0;
    k->sequence_at = k->sequence_count = 0;
    k->lost = false;
    memset(k->event, 0, sizeof(k->event));
    memset(k->sequence, 0, sizeof(k->sequence));
    memset(k->told, 0, sizeof(k->told));
}

void dp_ps2_keyboard_key(struct dp_ps2_keyboard *k, unsigned code, bool down)
{
    if (code >= DP_PS2_KEY_CODES || !set2[code] || (!down && !get(k->held, code)))
        return; /* a release that nobody pressed would be a key of its own to some guests */
    put(k->held, code, down);
    if (k->scanning)
        push(k, (uint16_t)(code | (down ? 0 : RELEASED)));
}

/* Makes bytes of the next event that has any. */
static bool refill(struct dp_ps2_keyboard *k)
{
    while (k->sequence_at >= k->sequence_count) {
        if (!k->event_count && k->lost) {
            k->lost = false;
            for (unsigned i = 0; i < DP_PS2_KEY_CODES && k->event_count < DP_PS2_KEYS; i++)
                if (get(k->told, i) && !get(k->held, i))
                    push(k, (uint16_t)(i | RELEASED));
        }
        if (!k->event_count)
            return false;
        uint16_t e = k->event[k->event_start];
        k->event_start = (k->event_start + 1) % DP_PS2_KEYS;
        k->event_count--;
        unsigned code = e & (DP_PS2_KEY_CODES - 1);
        expand(k, code, e & RELEASED);
        put(k->told, code, !(e & RELEASED));
    }
    return true;
}

/* ---- the cable ---- */

bool dp_ps2_keyboard_ready(const struct dp_ps2_keyboard *k)
{
    return k->replies.count || k->sequence_at < k->sequence_count || k->event_count || k->lost;
}

bool dp_ps2_keyboard_take(struct dp_ps2_keyboard *k, uint8_t *byte, bool *reply)
{
    *reply = dp_ps2_reply_take(&k->replies, byte);
    if (!*reply) {
        if (!refill(k))
            return false;
        *byte = k->sequence[k->sequence_at++];
    }
    k->last = *byte;
    return true;
}

void dp_ps2_keyboard_unread(struct dp_ps2_keyboard *k, uint8_t byte, bool reply)
{
    if (reply)
        dp_ps2_reply_unread(&k->replies, byte);
    else if (k->sequence_at && k->sequence_count) /* else it was cleared meanwhile */
        k->sequence_at--;
}

static void defaults(struct dp_ps2_keyboard *k)
{
    k->rate = RATE_INITIAL;
    k->set = 2;
    k->set3_breaks = true;
    clear_data(k);
}

/* True: it was one. */
static bool parameter(struct dp_ps2_keyboard *k, uint8_t byte)
{
    uint8_t command = k->command;
    if (byte >= FIRST_COMMAND || !command)
        return false;
    k->command = 0;
    switch (command) {
    case SET_LEDS: k->leds = byte & 7; break;
    case SET_RATE: k->rate = byte & 0x7f; break;
    case SCAN_SET:
        if (byte > 3) {
            k->command = command;
            dp_ps2_reply(&k->replies, DP_PS2_RESEND);
            return true;
        }
        dp_ps2_reply(&k->replies, DP_PS2_ACK);
        if (byte)
            k->set = byte;
        else
            dp_ps2_reply(&k->replies, k->set);
        return true;
    default: k->command = command; break; /* a list of keys, as long as the host likes */
    }
    dp_ps2_reply(&k->replies, DP_PS2_ACK);
    return true;
}

void dp_ps2_keyboard_command(struct dp_ps2_keyboard *k, uint8_t byte)
{
    struct dp_ps2_replies *q = &k->replies;
    if (parameter(k, byte))
        return;
    k->command = 0;
    switch (byte) {
    case RESEND: dp_ps2_reply(q, k->last); return;
    case ECHO: dp_ps2_reply(q, ECHO); return;
    case SET_LEDS: case SCAN_SET: case SET_RATE: case KEY_TYPEMATIC: case KEY_TYPEMATIC + 1: case KEY_MAKE: k->command = byte; break;
    case IDENTIFY:
        dp_ps2_reply(q, DP_PS2_ACK);
        dp_ps2_reply(q, 0xab);
        dp_ps2_reply(q, 0x83);
        return;
    case ENABLE:
        clear_data(k);
        k->scanning = true;
        break;
    case DISABLE:
        defaults(k);
        k->scanning = false;
        break;
    case DEFAULTS: defaults(k); break;
    case ALL_TYPEMATIC: case ALL_MAKE: k->set3_breaks = false; break;
    case ALL_MAKE_BREAK: case ALL_BOTH: k->set3_breaks = true; break;
    case RESET:
        defaults(k);
        q->start = q->count = 0;
        k->leds = 0;
        k->scanning = true;
        dp_ps2_reply(q, DP_PS2_ACK);
        dp_ps2_reply(q, DP_PS2_BAT_OK);
        return;
    default: dp_ps2_reply(q, DP_PS2_RESEND); return;
    }
    dp_ps2_reply(q, DP_PS2_ACK);
}

/* ---- state ---- */

static const struct dp_field keyboard_fields[] = {
    DP_FIELD_BYTES(struct dp_ps2_keyboard, replies.byte, 1),
    DP_FIELD_U8(struct dp_ps2_keyboard, replies.start, 2, 0, DP_PS2_REPLIES - 1),
    DP_FIELD_U8(struct dp_ps2_keyboard, replies.count, 3, 0, 0x1f),
    DP_FIELD_U8(struct dp_ps2_keyboard, command, 4, 0, 0),
    DP_FIELD_U8(struct dp_ps2_keyboard, last, 5, 0, 0),
    DP_FIELD_U8(struct dp_ps2_keyboard, leds, 6, 0, 7),
    DP_FIELD_U8(struct dp_ps2_keyboard, rate, 7, RATE_INITIAL, 0x7f),
    DP_FIELD_U8(struct dp_ps2_keyboard, set, 8, 2, 3),
    DP_FIELD_BOOL(struct dp_ps2_keyboard, scanning, 9, true),
    DP_FIELD_BOOL(struct dp_ps2_keyboard, set3_breaks, 10, true),
    DP_FIELD_BOOL(struct dp_ps2_keyboard, lost, 11, false),
    DP_FIELD_ARRAY(struct dp_ps2_keyboard, event, 12, DP_KIND_U16, 0, RELEASED | (DP_PS2_KEY_CODES - 1)),
    DP_FIELD_U8(struct dp_ps2_keyboard, event_start, 13, 0, DP_PS2_KEYS - 1),
    DP_FIELD_U8(struct dp_ps2_keyboard, event_count, 14, 0, 0),
    DP_FIELD_BYTES(struct dp_ps2_keyboard, sequence, 15),
    DP_FIELD_U8(struct dp_ps2_keyboard, sequence_at, 16, 0, 15),
    DP_FIELD_U8(struct dp_ps2_keyboard, sequence_count, 17, 0, 15),
    DP_FIELD_BYTES(struct dp_ps2_keyboard, held, 18),
    DP_FIELD_BYTES(struct dp_ps2_keyboard, told, 19),
};

static int keyboard_check(const void *regs, struct dp_error *e)
{
    const struct dp_ps2_keyboard *k = regs;
    if (k->replies.count > DP_PS2_REPLIES || k->event_count > DP_PS2_KEYS || k->sequence_count > sizeof(k->sequence) ||
        k->sequence_at > k->sequence_count || !k->set)
        return dp_error_set(e, -EINVAL, "ps2-keyboard: more bytes or keys than its queues hold, or no scan code set");
    return 0;
}

static void keyboard_clamp(void *regs)
{
    struct dp_ps2_keyboard *k = regs;
    k->replies.count %= DP_PS2_REPLIES + 1;
    k->event_count %= DP_PS2_KEYS + 1;
    k->sequence_count %= sizeof(k->sequence) + 1;
    k->sequence_at %= k->sequence_count + 1;
    k->set = k->set ? k->set : 2;
}

const struct dp_state_table dp_ps2_keyboard_table =
    DP_STATE_TABLE(struct dp_ps2_keyboard, "ps2-keyboard", keyboard_fields, .check = keyboard_check, .clamp = keyboard_clamp);
