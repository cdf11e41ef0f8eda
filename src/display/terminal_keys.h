/* display/terminal_keys.h - what a terminal sends when keys are struck, taken apart into the keys of a US keyboard.
 *
 * Model: bytes go in one by one, strokes (modifiers and a key, pressed in order and released in reverse) come out. A terminal only tells
 * strokes, never that a key is held. ESC is a key and the beginning of others' sequences; which one shows what follows, or that nothing
 * does (timeout).
 * Invariants: input is hostile (it may be pasted): a sequence has an end or is dropped, no stroke has more than 4 keys.
 * Source: ECMA-48, 5.4 (control sequences); XTerm Control Sequences, "PC-Style Function Keys"; linux console_codes(4); VT220 keys.
 */
#ifndef DP_DISPLAY_TERMINAL_KEYS_H
#define DP_DISPLAY_TERMINAL_KEYS_H

#include "base/base.h"

enum { DP_TERMINAL_SEQUENCE_MAX = 32 };

struct dp_terminal_keys {
    void (*stroke)(void *opaque, const unsigned *code, unsigned count);
    void *opaque;
    uint8_t sequence[DP_TERMINAL_SEQUENCE_MAX]; /* ESC and what came after it */
    unsigned size;
    bool too_long; /* its end is waited for, then it is dropped */
};
void dp_terminal_keys_feed(struct dp_terminal_keys *t, const uint8_t *data, size_t size);
/* Nothing came for a while: an ESC that waits is the key. */
void dp_terminal_keys_timeout(struct dp_terminal_keys *t);
static inline bool dp_terminal_keys_waits(const struct dp_terminal_keys *t) { return t->size; }

#endif
