/* terminal_keys.c - see terminal_keys.h. */
#include "display/terminal_keys.h"

#include <linux/input-event-codes.h>

#include "display/input.h"

enum { ESC = 27 };
enum { SHIFT = 1, ALT = 2, CTRL = 4 }; /* as xterm adds them up, less 1 */

static void stroke(struct dp_terminal_keys *t, unsigned modifiers, unsigned key)
{
    unsigned code[4], n = 0;
    if (!key)
        return;
    if (modifiers & CTRL)
        code[n++] = KEY_LEFTCTRL;
    if (modifiers & ALT)
        code[n++] = KEY_LEFTALT;
    if (modifiers & SHIFT)
        code[n++] = KEY_LEFTSHIFT;
    code[n++] = key;
    t->stroke(t->opaque, code, n);
}

/* A byte that is a character, or control and one. */
static void character(struct dp_terminal_keys *t, uint8_t c, unsigned modifiers)
{
    bool shift = false;
    switch (c) {
    case 0: stroke(t, modifiers | CTRL, KEY_SPACE); return;
    case '\t': case '\n': case '\r': case '\b': case ESC: case 127: break;
    case 28: stroke(t, modifiers | CTRL, KEY_BACKSLASH); return;
    case 29: stroke(t, modifiers | CTRL, KEY_RIGHTBRACE); return;
    case 30: stroke(t, modifiers | CTRL, KEY_6); return;
    case 31: stroke(t, modifiers | CTRL, KEY_MINUS); return;
    default:
        if (c < ' ') {
            stroke(t, modifiers | CTRL, dp_input_key_of_character((char)(c + 'a' - 1), &shift));
            return;
        }
    }
    /* Characters that a US keyboard does not have (UTF-8) give no key. */
    unsigned key = c < 128 ? dp_input_key_of_character((char)c, &shift) : 0;
    stroke(t, modifiers | (shift ? SHIFT : 0), key);
}

/* "ESC [ 1;5 A", the brackets and the final taken off: up to two numbers, 0 where none is. */
static void parse_numbers(const uint8_t *p, const uint8_t *end, unsigned number[2])
{
    unsigned i = 0;
    number[0] = number[1] = 0;
    for (; p < end && i < 2; p++) {
        if (*p == ';')
            i++;
        else if (*p >= '0' && *p <= '9')
            number[i] = DP_MIN(number[i] * 10 + (*p - '0'), 9999u);
    }
}

static unsigned letter_key(uint8_t final)
{
    switch (final) {
    case 'A': return KEY_UP;
    case 'B': return KEY_DOWN;
    case 'C': return KEY_RIGHT;
    case 'D': return KEY_LEFT;
    case 'E': return KEY_KP5;
    case 'F': return KEY_END;
    case 'H': return KEY_HOME;
    case 'M': return KEY_KPENTER; /* only after ESC O */
    case 'P': return KEY_F1;
    case 'Q': return KEY_F2;
    case 'R': return KEY_F3;
    case 'S': return KEY_F4;
    }
    return 0;
}

static unsigned tilde_key(unsigned number)
{
    static const uint8_t key[] = {[1] = KEY_HOME,
                                  [2] = KEY_INSERT,
                                  [3] = KEY_DELETE,
                                  [4] = KEY_END,
                                  [5] = KEY_PAGEUP,
                                  [6] = KEY_PAGEDOWN,
                                  [7] = KEY_HOME,
                                  [8] = KEY_END,
                                  [11] = KEY_F1,
                                  [12] = KEY_F2,
                                  [13] = KEY_F3,
                                  [14] = KEY_F4,
                                  [15] = KEY_F5,
                                  [17] = KEY_F6,
                                  [18] = KEY_F7,
                                  [19] = KEY_F8,
                                  [20] = KEY_F9,
                                  [21] = KEY_F10,
                                  [23] = KEY_F11,
                                  [24] = KEY_F12,
                                  /* VT220's F13 to F20: what terminals send for shift and F1 to F8, where they have no modifiers */
                                  [25] = KEY_F1,
                                  [26] = KEY_F2,
                                  [28] = KEY_F3,
                                  [29] = KEY_F4,
                                  [31] = KEY_F5,
                                  [32] = KEY_F6,
                                  [33] = KEY_F7,
                                  [34] = KEY_F8};
    return number < DP_ARRAY_LEN(key) ? key[number] : 0;
}

/* A control sequence that is whole. */
static void control_sequence(struct dp_terminal_keys *t)
{
    uint8_t final = t->sequence[t->size - 1];
    unsigned number[2];
    if (t->sequence[1] == '[' && t->sequence[2] == '[') { /* the Linux console's F1 to F5 */
        stroke(t, 0, final >= 'A' && final <= 'E' ? KEY_F1 + (final - 'A') : 0);
        return;
    }
    parse_numbers(t->sequence + 2, t->sequence + t->size - 1, number);
    unsigned modifiers = number[1] > 1 && number[1] <= 8 ? number[1] - 1 : 0;
    if (final == '~')
        stroke(t, modifiers | (number[0] >= 25 ? SHIFT : 0), tilde_key(number[0]));
    else if (final == 'Z')
        stroke(t, modifiers | SHIFT, KEY_TAB);
    else if (final != 'M' || t->sequence[1] == 'O')
        stroke(t, modifiers, letter_key(final));
}

static void reset(struct dp_terminal_keys *t)
{
    t->size = 0;
    t->too_long = false;
}

static void feed(struct dp_terminal_keys *t, uint8_t c)
{
    if (c == ESC) {
        if (t->size == 1) /* ESC ESC: the first was the key */
            character(t, ESC, 0);
        reset(t);
        t->sequence[t->size++] = ESC;
        return;
    }
    if (!t->size) {
        character(t, c, 0);
        return;
    }
    if (c < ' ' && t->size > 1) { /* no sequence has that in it */
        reset(t);
        character(t, c, 0);
        return;
    }
    if (t->size == 1 && c != '[' && c != 'O') {
        reset(t);
        character(t, c, ALT);
        return;
    }
    if (t->size == sizeof t->sequence)
        t->too_long = true;
    else
        t->sequence[t->size++] = c;
    bool linux_function = t->size == 3 && c == '[' && t->sequence[1] == '[';
    if (t->size > 2 && c >= 0x40 && !linux_function) {
        if (!t->too_long && c < 127)
            control_sequence(t);
        reset(t);
    }
}

void dp_terminal_keys_feed(struct dp_terminal_keys *t, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        feed(t, data[i]);
}

void dp_terminal_keys_timeout(struct dp_terminal_keys *t)
{
    if (t->size == 1)
        character(t, ESC, 0);
    else if (t->size == 2) /* alt and a bracket or an O after all */
        character(t, t->sequence[1], ALT);
    reset(t);
}
