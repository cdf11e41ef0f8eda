/* display/input.h - keys and pointer, from who has them (VNC, the terminal, `doppel type`) to the device that gives them to the guest.
 *
 * Key codes are Linux's (input-event-codes.h, KEY_A and so on): positions on a keyboard, not letters. Any thread; nothing blocks: what a
 * device cannot take is dropped by it, oldest first, but never half a key code.
 */
#ifndef DP_INPUT_H
#define DP_INPUT_H

#include "base/base.h"

enum { DP_INPUT_LEFT = 1, DP_INPUT_RIGHT = 2, DP_INPUT_MIDDLE = 4 };

struct dp_input_sink {
    void (*key)(void *opaque, unsigned code, bool down);
    void (*motion)(void *opaque, int dx, int dy, int wheel, unsigned buttons);       /* relative; may be NULL */
    void (*position)(void *opaque, unsigned x, unsigned y, int wheel, unsigned buttons); /* absolute, 0-32767 both; may be NULL */
    void *opaque;
    /* of a sink with both: does a position arrive now? Else give it movements. NULL: position, if it has it */
    bool (*absolute)(void *opaque);
};

/* Keys by name, as people type them: "a", "ret", "ctrl", "alt", "delete", "f1", "kp_enter"... 0: no such key. */
unsigned dp_input_key_by_name(const char *name);
/* The keys of "ctrl-alt-del" in order; number of them, 0: no such name among them. */
unsigned dp_input_keys_by_names(const char *names, unsigned *code, unsigned capacity);
/* The key of an ASCII character on a US keyboard, and whether shift is held. 0: none. */
unsigned dp_input_key_of_character(char c, bool *shift);

#endif
