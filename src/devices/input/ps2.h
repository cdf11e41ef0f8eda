/* devices/input/ps2.h - a PS/2 keyboard and a PS/2 mouse, as the controller (i8042.c) sees them at the other end of their cables.
 *
 * Model: plain registers, no lock and no time of their own: the controller calls with its lock held, gives them the bytes of the host
 * and takes theirs one by one, when there is room. What a device has to say comes from two sources: replies to commands, which go
 * first, and data: scan codes, or movement packets. Data wait as events, and become bytes only when the first of these is taken.
 * Invariants: nothing is ever half dropped. A full queue of keys loses its oldest event; once it is empty again the keyboard releases
 * the keys that the guest would otherwise believe held for ever. A full queue of movements joins the two newest.
 * A byte that was taken and not read may be given back (`unread`) as long as nothing else was taken.
 * Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller", "Keyboards (101/102-key)" and
 * "Mouse"; the wheel: Microsoft, "Intellimouse driver: detection and data format". Positions of keys: scan code sets 1-3 of the first.
 */
#ifndef DP_PS2_H
#define DP_PS2_H

#include "state/state.h"

enum { DP_PS2_REPLIES = 16, DP_PS2_KEYS = 128, DP_PS2_MOTIONS = 16, DP_PS2_KEY_CODES = 256 };

struct dp_ps2_replies {
    uint8_t byte[DP_PS2_REPLIES];
    uint8_t start, count;
};

struct dp_ps2_keyboard {
    struct dp_ps2_replies replies;
    uint8_t command;                /* the one whose parameter comes next, 0: none */
    uint8_t last;                   /* byte sent, for RESEND */
    uint8_t leds, rate, set;
    bool scanning;
    bool set3_breaks;               /* scan code set 3: keys tell when they are released */
    bool lost;                      /* events were dropped since the queue was empty */
    uint16_t event[DP_PS2_KEYS];    /* Linux key code, bit 15: released */
    uint8_t event_start, event_count;
    uint8_t sequence[8], sequence_at, sequence_count; /* of the event that is being sent */
    uint8_t held[DP_PS2_KEY_CODES / 8], told[DP_PS2_KEY_CODES / 8]; /* keys down: in truth, and as sent */
};

struct dp_ps2_mouse {
    struct dp_ps2_replies replies;
    uint8_t command, last;
    uint8_t resolution, rate, id;
    uint8_t knock;                  /* the last sample rates, by which drivers ask for more than three bytes: see set_rate */
    bool remote, wrap, reporting, scaling;
    uint8_t buttons;                /* now */
    /* Two's complement; right, up and towards the user are positive. */
    uint16_t dx[DP_PS2_MOTIONS], dy[DP_PS2_MOTIONS], dz[DP_PS2_MOTIONS];
    uint8_t event_buttons[DP_PS2_MOTIONS];
    uint8_t event_start, event_count;
    uint8_t packet[4], packet_at, packet_count;
};

extern const struct dp_state_table dp_ps2_keyboard_table, dp_ps2_mouse_table;

/* A byte from the host. */
void dp_ps2_keyboard_command(struct dp_ps2_keyboard *k, uint8_t byte);
void dp_ps2_mouse_command(struct dp_ps2_mouse *m, uint8_t byte);
/* Is there a byte to send? */
bool dp_ps2_keyboard_ready(const struct dp_ps2_keyboard *k);
bool dp_ps2_mouse_ready(const struct dp_ps2_mouse *m);
/* The next byte, if there is one; *reply says from which source, for unread. */
bool dp_ps2_keyboard_take(struct dp_ps2_keyboard *k, uint8_t *byte, bool *reply);
bool dp_ps2_mouse_take(struct dp_ps2_mouse *m, uint8_t *byte, bool *reply);
void dp_ps2_keyboard_unread(struct dp_ps2_keyboard *k, uint8_t byte, bool reply);
void dp_ps2_mouse_unread(struct dp_ps2_mouse *m, uint8_t byte, bool reply);
/* The user's hands. dy grows downwards and wheel away from the user, as screens and Linux have it. */
void dp_ps2_keyboard_key(struct dp_ps2_keyboard *k, unsigned code, bool down);
void dp_ps2_mouse_motion(struct dp_ps2_mouse *m, int dx, int dy, int wheel, unsigned buttons);
/* Set 2 to set 1, one byte that is neither E0, E1 nor F0: what the controller does in translated mode. */
uint8_t dp_ps2_translate(uint8_t set2);

/* Used by both. */
void dp_ps2_reply(struct dp_ps2_replies *q, uint8_t byte);
bool dp_ps2_reply_take(struct dp_ps2_replies *q, uint8_t *byte);
void dp_ps2_reply_unread(struct dp_ps2_replies *q, uint8_t byte);

enum { DP_PS2_ACK = 0xfa, DP_PS2_BAT_OK = 0xaa, DP_PS2_RESEND = 0xfe };

#endif
