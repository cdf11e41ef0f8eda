/* keys.c - names of keys, and the keys of characters on a US keyboard.
 *
 * Model: two constant tables. Names are QEMU's (qapi/ui.json, QKeyCode), since people know them from `sendkey`, with the short names that
 * are printed on keys beside them. Upper and lower case are the same.
 * Source: linux/input-event-codes.h; ISO/IEC 9995 and the IBM enhanced keyboard, US layout.
 */
#include "display/input.h"

#include <linux/input-event-codes.h>
#include <strings.h>

struct name {
    const char *name;
    uint16_t code;
};

static const struct name names[] = {
    {"shift", KEY_LEFTSHIFT}, {"shift_r", KEY_RIGHTSHIFT}, {"alt", KEY_LEFTALT}, {"alt_r", KEY_RIGHTALT}, {"altgr", KEY_RIGHTALT},
    {"ctrl", KEY_LEFTCTRL}, {"ctrl_r", KEY_RIGHTCTRL}, {"control", KEY_LEFTCTRL}, {"meta_l", KEY_LEFTMETA}, {"meta_r", KEY_RIGHTMETA},
    {"win", KEY_LEFTMETA}, {"super", KEY_LEFTMETA}, {"menu", KEY_COMPOSE}, {"compose", KEY_COMPOSE},
    {"esc", KEY_ESC}, {"escape", KEY_ESC}, {"ret", KEY_ENTER}, {"enter", KEY_ENTER}, {"return", KEY_ENTER}, {"tab", KEY_TAB},
    {"spc", KEY_SPACE}, {"space", KEY_SPACE}, {"backspace", KEY_BACKSPACE}, {"caps_lock", KEY_CAPSLOCK}, {"num_lock", KEY_NUMLOCK},
    {"scroll_lock", KEY_SCROLLLOCK}, {"print", KEY_SYSRQ}, {"sysrq", KEY_SYSRQ}, {"pause", KEY_PAUSE}, {"less", KEY_102ND},
    {"minus", KEY_MINUS}, {"equal", KEY_EQUAL}, {"bracket_left", KEY_LEFTBRACE}, {"bracket_right", KEY_RIGHTBRACE},
    {"semicolon", KEY_SEMICOLON}, {"apostrophe", KEY_APOSTROPHE}, {"grave_accent", KEY_GRAVE}, {"backslash", KEY_BACKSLASH},
    {"comma", KEY_COMMA}, {"dot", KEY_DOT}, {"slash", KEY_SLASH}, {"asterisk", KEY_KPASTERISK},
    {"insert", KEY_INSERT}, {"ins", KEY_INSERT}, {"delete", KEY_DELETE}, {"del", KEY_DELETE}, {"home", KEY_HOME}, {"end", KEY_END},
    {"pgup", KEY_PAGEUP}, {"pgdn", KEY_PAGEDOWN}, {"pageup", KEY_PAGEUP}, {"pagedown", KEY_PAGEDOWN},
    {"up", KEY_UP}, {"down", KEY_DOWN}, {"left", KEY_LEFT}, {"right", KEY_RIGHT},
    {"f1", KEY_F1}, {"f2", KEY_F2}, {"f3", KEY_F3}, {"f4", KEY_F4}, {"f5", KEY_F5}, {"f6", KEY_F6}, {"f7", KEY_F7}, {"f8", KEY_F8},
    {"f9", KEY_F9}, {"f10", KEY_F10}, {"f11", KEY_F11}, {"f12", KEY_F12},
    {"kp_0", KEY_KP0}, {"kp_1", KEY_KP1}, {"kp_2", KEY_KP2}, {"kp_3", KEY_KP3}, {"kp_4", KEY_KP4}, {"kp_5", KEY_KP5}, {"kp_6", KEY_KP6},
    {"kp_7", KEY_KP7}, {"kp_8", KEY_KP8}, {"kp_9", KEY_KP9}, {"kp_add", KEY_KPPLUS}, {"kp_subtract", KEY_KPMINUS},
    {"kp_multiply", KEY_KPASTERISK}, {"kp_divide", KEY_KPSLASH}, {"kp_decimal", KEY_KPDOT}, {"kp_enter", KEY_KPENTER},
    {"power", KEY_POWER}, {"sleep", KEY_SLEEP}, {"wake", KEY_WAKEUP},
};

/* Of ' ' to '~': the key, and SHIFT with it. */
enum { SHIFT = 0x8000 };
static const uint16_t character_key[95] = {
    KEY_SPACE, KEY_1 | SHIFT, KEY_APOSTROPHE | SHIFT, KEY_3 | SHIFT, KEY_4 | SHIFT, KEY_5 | SHIFT, KEY_7 | SHIFT, KEY_APOSTROPHE,
    KEY_9 | SHIFT, KEY_0 | SHIFT, KEY_8 | SHIFT, KEY_EQUAL | SHIFT, KEY_COMMA, KEY_MINUS, KEY_DOT, KEY_SLASH,
    KEY_0, KEY_1, KEY_2, KEY_3, KEY_4, KEY_5, KEY_6, KEY_7, KEY_8, KEY_9,
    KEY_SEMICOLON | SHIFT, KEY_SEMICOLON, KEY_COMMA | SHIFT, KEY_EQUAL, KEY_DOT | SHIFT, KEY_SLASH | SHIFT, KEY_2 | SHIFT,
    KEY_A | SHIFT, KEY_B | SHIFT, KEY_C | SHIFT, KEY_D | SHIFT, KEY_E | SHIFT, KEY_F | SHIFT, KEY_G | SHIFT, KEY_H | SHIFT, KEY_I | SHIFT,
    KEY_J | SHIFT, KEY_K | SHIFT, KEY_L | SHIFT, KEY_M | SHIFT, KEY_N | SHIFT, KEY_O | SHIFT, KEY_P | SHIFT, KEY_Q | SHIFT, KEY_R | SHIFT,
    KEY_S | SHIFT, KEY_T | SHIFT, KEY_U | SHIFT, KEY_V | SHIFT, KEY_W | SHIFT, KEY_X | SHIFT, KEY_Y | SHIFT, KEY_Z | SHIFT,
    KEY_LEFTBRACE, KEY_BACKSLASH, KEY_RIGHTBRACE, KEY_6 | SHIFT, KEY_MINUS | SHIFT, KEY_GRAVE,
    KEY_A, KEY_B, KEY_C, KEY_D, KEY_E, KEY_F, KEY_G, KEY_H, KEY_I, KEY_J, KEY_K, KEY_L, KEY_M, KEY_N, KEY_O, KEY_P, KEY_Q, KEY_R, KEY_S,
    KEY_T, KEY_U, KEY_V, KEY_W, KEY_X, KEY_Y, KEY_Z,
    KEY_LEFTBRACE | SHIFT, KEY_BACKSLASH | SHIFT, KEY_RIGHTBRACE | SHIFT, KEY_GRAVE | SHIFT,
};

unsigned dp_input_key_of_character(char c, bool *shift)
{
    *shift = false;
    switch (c) {
    case '\n': case '\r': return KEY_ENTER;
    case '\t': return KEY_TAB;
    case '\b': case 127: return KEY_BACKSPACE;
    case 27: return KEY_ESC;
    }
    if (c < ' ' || c > '~')
        return 0;
    *shift = character_key[c - ' '] & SHIFT;
    return character_key[c - ' '] & ~SHIFT;
}

static unsigned find(const char *name, size_t length)
{
    for (unsigned i = 0; i < DP_ARRAY_LEN(names); i++)
        if (strlen(names[i].name) == length && !strncasecmp(names[i].name, name, length))
            return names[i].code;
    bool shift;
    unsigned code = length == 1 && *name > ' ' && *name <= '~' ? dp_input_key_of_character(*name, &shift) : 0;
    /* Letters are keys in either case; other characters only where the key has them without shift. */
    return code && (!shift || (*name >= 'A' && *name <= 'Z')) ? code : 0;
}

unsigned dp_input_key_by_name(const char *name) { return find(name, strlen(name)); }

unsigned dp_input_keys_by_names(const char *list, unsigned *code, unsigned capacity)
{
    unsigned count = 0;
    for (;;) {
        size_t length = strcspn(list, "-");
        if (!length && *list == '-') /* the key itself, as in "ctrl--" */
            length = 1;
        unsigned key = length ? find(list, length) : 0;
        if (!key || count == capacity)
            return 0;
        code[count++] = key;
        if (!list[length])
            return count;
        list += length + 1;
    }
}
