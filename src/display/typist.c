/* typist.c - see typist.h. */
#include "display/typist.h"

#include <linux/input-event-codes.h>
#include <stdlib.h>

enum { TYPIST_PERIOD_MS = 10, TYPIST_EVENTS = 2 };

static void send_some(struct dp_typist *t)
{
    for (unsigned i = 0; i < TYPIST_EVENTS && t->count; i++) {
        unsigned event = t->event[t->start];
        t->start = (t->start + 1) % DP_TYPIST_EVENTS_MAX;
        t->count--;
        t->sink.key(t->sink.opaque, event >> 1, event & 1);
    }
}

static void tick(void *opaque)
{
    struct dp_typist *t = opaque;
    if (t->count)
        send_some(t);
    else
        dp_ticker_period(&t->ticker, 0); /* a whole period has passed since the last event */
}

int dp_typist_init(struct dp_typist *t, struct dp_loop *loop, const struct dp_input_sink *sink, struct dp_error *e)
{
    *t = (struct dp_typist){.sink = *sink, .ticker.fd = -1, .event = malloc(DP_TYPIST_EVENTS_MAX * sizeof *t->event)};
    if (!t->event)
        return dp_error_set(e, -ENOMEM, "no memory");
    return dp_ticker_init(&t->ticker, loop, tick, t, e);
}

void dp_typist_fini(struct dp_typist *t)
{
    /* Strokes are balanced: of a key whose press is out and whose release waits, the release comes first. */
    bool pressed[DP_TYPIST_EVENTS_MAX / 16] = {false};
    for (; t->count; t->count--, t->start = (t->start + 1) % DP_TYPIST_EVENTS_MAX) {
        unsigned code = t->event[t->start] >> 1;
        if (code >= DP_ARRAY_LEN(pressed))
            continue;
        if (t->event[t->start] & 1)
            pressed[code] = true;
        else if (!pressed[code])
            t->sink.key(t->sink.opaque, code, false);
        else
            pressed[code] = false;
    }
    dp_ticker_fini(&t->ticker);
    free(t->event);
    t->event = NULL;
}

static void put(struct dp_typist *t, unsigned code, bool down)
{
    t->event[(t->start + t->count++) % DP_TYPIST_EVENTS_MAX] = (uint16_t)(code << 1 | down);
}

/* Begins, unless a pause is still on. */
static void begin(struct dp_typist *t)
{
    if (!t->ticker.period_ms && t->count) {
        send_some(t);
        dp_ticker_period(&t->ticker, TYPIST_PERIOD_MS);
    }
}

bool dp_typist_stroke(struct dp_typist *t, const unsigned *code, unsigned count)
{
    if (count > DP_TYPIST_KEYS_MAX || 2 * count > DP_TYPIST_EVENTS_MAX - t->count)
        return false;
    for (unsigned i = 0; i < count; i++)
        put(t, code[i], true);
    for (unsigned i = count; i--;)
        put(t, code[i], false);
    begin(t);
    return true;
}

int dp_typist_text(struct dp_typist *t, const char *text, size_t size, struct dp_error *e)
{
    size_t need = 0;
    bool shift;
    for (size_t i = 0; i < size; i++) {
        if (!dp_input_key_of_character(text[i], &shift))
            return dp_error_set(e, -EILSEQ, "byte %zu (0x%02x) is no character of a US keyboard", i, (uint8_t)text[i]);
        need += shift ? 4 : 2;
    }
    if (need > DP_TYPIST_EVENTS_MAX)
        return dp_error_set(e, -EMSGSIZE, "the text is too long to be typed at once: at most %d characters", DP_TYPIST_EVENTS_MAX / 4);
    if (need > DP_TYPIST_EVENTS_MAX - t->count)
        return dp_error_set(e, -EAGAIN, "what is being typed leaves no room: try again later");
    for (size_t i = 0; i < size; i++) {
        unsigned code = dp_input_key_of_character(text[i], &shift);
        if (shift)
            put(t, KEY_LEFTSHIFT, true);
        put(t, code, true);
        put(t, code, false);
        if (shift)
            put(t, KEY_LEFTSHIFT, false);
    }
    begin(t);
    return 0;
}

unsigned dp_typist_pending(const struct dp_typist *t) { return t->count; }
