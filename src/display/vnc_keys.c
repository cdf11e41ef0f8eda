/* vnc_keys.c - which key a VNC client means. See vnc_internal.h.
 *
 * Source: X11 protocol, appendix A (keysyms are Latin-1 characters, or 0xffXX for the others); IBM scan codes, set 1.
 */
#include <linux/input-event-codes.h>

#include "display/input.h"
#include "display/vnc_internal.h"

/* 0xff00 + index */
static const uint8_t function_key[256] = {
    [0x08] = KEY_BACKSPACE,  [0x09] = KEY_TAB,        [0x0a] = KEY_ENTER,    [0x0d] = KEY_ENTER,      [0x13] = KEY_PAUSE,
    [0x14] = KEY_SCROLLLOCK, [0x15] = KEY_SYSRQ,      [0x1b] = KEY_ESC,      [0x50] = KEY_HOME,       [0x51] = KEY_LEFT,
    [0x52] = KEY_UP,         [0x53] = KEY_RIGHT,      [0x54] = KEY_DOWN,     [0x55] = KEY_PAGEUP,     [0x56] = KEY_PAGEDOWN,
    [0x57] = KEY_END,        [0x61] = KEY_SYSRQ,      [0x63] = KEY_INSERT,   [0x67] = KEY_COMPOSE,    [0x6b] = KEY_PAUSE,
    [0x7f] = KEY_NUMLOCK,    [0x8d] = KEY_KPENTER,    [0x95] = KEY_KP7,      [0x96] = KEY_KP4,        [0x97] = KEY_KP8,
    [0x98] = KEY_KP6,        [0x99] = KEY_KP2,        [0x9a] = KEY_KP9,      [0x9b] = KEY_KP3,        [0x9c] = KEY_KP1,
    [0x9d] = KEY_KP5,        [0x9e] = KEY_KP0,        [0x9f] = KEY_KPDOT,    [0xaa] = KEY_KPASTERISK, [0xab] = KEY_KPPLUS,
    [0xad] = KEY_KPMINUS,    [0xae] = KEY_KPDOT,      [0xaf] = KEY_KPSLASH,  [0xb0] = KEY_KP0,        [0xb1] = KEY_KP1,
    [0xb2] = KEY_KP2,        [0xb3] = KEY_KP3,        [0xb4] = KEY_KP4,      [0xb5] = KEY_KP5,        [0xb6] = KEY_KP6,
    [0xb7] = KEY_KP7,        [0xb8] = KEY_KP8,        [0xb9] = KEY_KP9,      [0xbe] = KEY_F1,         [0xbf] = KEY_F2,
    [0xc0] = KEY_F3,         [0xc1] = KEY_F4,         [0xc2] = KEY_F5,       [0xc3] = KEY_F6,         [0xc4] = KEY_F7,
    [0xc5] = KEY_F8,         [0xc6] = KEY_F9,         [0xc7] = KEY_F10,      [0xc8] = KEY_F11,        [0xc9] = KEY_F12,
    [0xe1] = KEY_LEFTSHIFT,  [0xe2] = KEY_RIGHTSHIFT, [0xe3] = KEY_LEFTCTRL, [0xe4] = KEY_RIGHTCTRL,  [0xe5] = KEY_CAPSLOCK,
    [0xe7] = KEY_LEFTALT,    [0xe8] = KEY_RIGHTALT,   [0xe9] = KEY_LEFTALT,  [0xea] = KEY_RIGHTALT,   [0xeb] = KEY_LEFTMETA,
    [0xec] = KEY_RIGHTMETA,  [0xff] = KEY_DELETE,
};

/* Codes above 0x53, where set 1 and Linux's numbers part. */
static const uint8_t xt_key[256] = {
    [0x54] = KEY_SYSRQ, [0x56] = KEY_102ND, [0x57] = KEY_F11, [0x58] = KEY_F12, [0x70] = KEY_KATAKANAHIRAGANA, [0x73] = KEY_RO,
    [0x79] = KEY_HENKAN, [0x7b] = KEY_MUHENKAN, [0x7d] = KEY_YEN, [0x7e] = KEY_KPCOMMA, [0x9c] = KEY_KPENTER, [0x9d] = KEY_RIGHTCTRL,
    [0xb5] = KEY_KPSLASH, [0xb7] = KEY_SYSRQ, [0xb8] = KEY_RIGHTALT, [0xc6] = KEY_PAUSE, [0xc7] = KEY_HOME, [0xc8] = KEY_UP,
    [0xc9] = KEY_PAGEUP, [0xcb] = KEY_LEFT, [0xcd] = KEY_RIGHT, [0xcf] = KEY_END, [0xd0] = KEY_DOWN, [0xd1] = KEY_PAGEDOWN,
    [0xd2] = KEY_INSERT, [0xd3] = KEY_DELETE, [0xdb] = KEY_LEFTMETA, [0xdc] = KEY_RIGHTMETA, [0xdd] = KEY_COMPOSE, [0xde] = KEY_POWER,
    [0xdf] = KEY_SLEEP, [0xe3] = KEY_WAKEUP,
};

unsigned dp_vnc_key_of_keysym(uint32_t keysym, bool *shift, bool *character)
{
    *shift = false;
    *character = keysym >= 0x20 && keysym < 0x7f;
    if (*character)
        return dp_input_key_of_character((char)keysym, shift);
    if (keysym == 0xfe03) /* ISO_Level3_Shift */
        return KEY_RIGHTALT;
    if (keysym == 0xfe20) /* ISO_Left_Tab: shift is held already */
        return KEY_TAB;
    return keysym >> 8 == 0xff ? function_key[keysym & 0xff] : 0;
}

unsigned dp_vnc_key_of_xt(uint32_t code) { return code <= 0x53 ? code : code < 256 ? xt_key[code] : 0; }
