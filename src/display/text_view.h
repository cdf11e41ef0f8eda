/* display/text_view.h - shows the text screens of a display source on a terminal, and gives a sink what is typed there.
 *
 * Model: a client of a console (console/console.h), which has the terminal: raw mode, the C-a escapes, output that never blocks,
 * restoring. The view keeps what the terminal shows, cell by cell, and sends the differences, up to 30 times a second; while nothing
 * changes it looks less often. The terminal's alternate screen is used, so what was there before comes back. A terminal smaller than the
 * guest's screen shows the part with the cursor. Where the guest is in a graphics mode one line says so. What the console has to tell
 * (help, status) stands on the screen until a key is struck.
 * Keys go through a typist (display/typist.h), so pasted text arrives whole.
 * All in the loop's thread.
 * Source: ECMA-48; XTerm Control Sequences (alternate screen, 256 and direct colours); code page 437 by display/cp437.c.
 */
#ifndef DP_DISPLAY_TEXT_VIEW_H
#define DP_DISPLAY_TEXT_VIEW_H

#include "console/console.h"
#include "display/display.h"
#include "display/input.h"

struct dp_text_view;
struct dp_text_view_options {
    int terminal_fd;        /* asked for its size; negative: it has the size below */
    unsigned columns, rows; /* 0: 80 and 25, where the terminal does not tell */
    unsigned colours;       /* 16, 256, 1 << 24; 0: by the environment's TERM and COLORTERM */
};

/* The console's client from now on; source and sink are copied. */
int dp_text_view_open(struct dp_loop *loop, struct dp_console *console, const struct dp_text_view_options *o,
                      const struct dp_display_source *source, const struct dp_input_sink *sink, struct dp_text_view **out,
                      struct dp_error *e) DP_MUST_CHECK;
void dp_text_view_close(struct dp_text_view *v); /* before the console. NULL is fine */
void dp_text_view_refresh(struct dp_text_view *v); /* looks now; for tests */
/* What brings a terminal back from the view: alternate screen off, cursor on, plain colours. For signal handlers and cli/guard.c. */
extern const char dp_text_view_leave[];

#endif
