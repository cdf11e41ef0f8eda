/* console/console.h - where a serial port's bytes go and come from: the terminal, a file, nothing, memory (tests).
 *
 * Model: the device side writes bytes (never blocks; returns how many were taken) and receives input through a callback in the
 * loop's thread. Back-pressure: when write takes less than all, writable() is called later. Receivers say how much they can hold.
 * The terminal back end puts the tty in raw mode and restores it on every way out; escapes: C-a x ends, C-a c status/monitor
 * line, C-a h help, C-a b break, C-a a sends C-a.
 */
#ifndef DP_CONSOLE_H
#define DP_CONSOLE_H

#include "event/event.h"

struct dp_console;
struct dp_console_client {
    size_t (*room)(void *opaque);                               /* how many bytes receive may be given now */
    void (*receive)(void *opaque, const uint8_t *data, size_t n);
    void (*writable)(void *opaque);                             /* output has room again */
    void (*line_break)(void *opaque);                           /* may be NULL */
    void *opaque;
    /* what escapes have to tell, where it must not go into the output; may be NULL */
    void (*message)(void *opaque, const char *text, size_t n);
};
/* Escapes the user typed. */
struct dp_console_escapes { void (*quit)(void *opaque); void (*status)(void *opaque, struct dp_buffer *out); void *opaque; };

/* stdin/stdout; works when either is closed, a pipe, a file or a terminal. */
int dp_console_open_stdio(struct dp_loop *l, const struct dp_console_escapes *esc, struct dp_console **out,
                          struct dp_error *e) DP_MUST_CHECK;
int dp_console_open_file(struct dp_loop *l, const char *path, struct dp_console **out, struct dp_error *e) DP_MUST_CHECK;
int dp_console_open_memory(struct dp_console **out, struct dp_error *e) DP_MUST_CHECK; /* tests: output is kept, input is fed */
void dp_console_close(struct dp_console *c); /* restores the terminal; flushes what is queued, briefly */
/* writes what is queued, waiting briefly; afterwards dp_console_error knows all. Loop's thread */
void dp_console_drain(struct dp_console *c);
void dp_console_attach(struct dp_console *c, const struct dp_console_client *client); /* one client; copied; NULL detaches */
size_t dp_console_write(struct dp_console *c, const uint8_t *data, size_t n);         /* any thread */
void dp_console_kick(struct dp_console *c);                                            /* the client has room again; any thread */
/* Output was lost (full disk, closed pipe): -errno and one line about the first time; 0 when all went well. Any thread. */
int dp_console_error(struct dp_console *c, struct dp_error *e);
/* memory back end */
void dp_console_feed(struct dp_console *c, const void *data, size_t n);
const struct dp_buffer *dp_console_output(struct dp_console *c);
/* takes only so many bytes from now on, for tests of back-pressure; calls writable */
void dp_console_limit(struct dp_console *c, size_t more);
void dp_console_break(struct dp_console *c);              /* as C-a b does */
/* Signal-safe: restores the terminal; for fatal signal handlers. */
void dp_console_emergency_restore(struct dp_console *c);

#endif
