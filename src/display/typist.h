/* display/typist.h - strikes keys at a pace that a guest keeps up with.
 *
 * Model: a queue of key events in front of a sink. An event that finds the queue empty and the pause over goes out at once; the others
 * follow, TYPIST_EVENTS of them every TYPIST_PERIOD_MS. A keyboard controller has room for 16 bytes and an event has up to 3, so nothing
 * is dropped as long as the guest reads its keyboard 100 times a second; a character needs two or four events.
 * Invariants: a stroke enters the queue whole or not at all, so no key stays down. All in the loop's thread.
 */
#ifndef DP_DISPLAY_TYPIST_H
#define DP_DISPLAY_TYPIST_H

#include "display/input.h"
#include "display/ticker.h"

enum { DP_TYPIST_EVENTS_MAX = 16384, DP_TYPIST_KEYS_MAX = 8 };

struct dp_typist {
    struct dp_input_sink sink;
    struct dp_ticker ticker;
    uint16_t *event; /* a ring: key code << 1 | down */
    unsigned start, count;
};
int dp_typist_init(struct dp_typist *t, struct dp_loop *loop, const struct dp_input_sink *sink, struct dp_error *e) DP_MUST_CHECK;
void dp_typist_fini(struct dp_typist *t); /* also after a failed init. Keys that are down are let go, what is not begun is dropped */
/* Presses the keys in order, releases them in reverse. False: no room, nothing was taken. */
bool dp_typist_stroke(struct dp_typist *t, const unsigned *code, unsigned count);
/* The text as typed on a US keyboard. Checks all first: -EILSEQ a character that has no key, -EAGAIN no room for all of it now. */
int dp_typist_text(struct dp_typist *t, const char *text, size_t size, struct dp_error *e) DP_MUST_CHECK;
unsigned dp_typist_pending(const struct dp_typist *t); /* events not yet out */

#endif
