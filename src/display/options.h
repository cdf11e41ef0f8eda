/* display/options.h - `--display` in words, and the viewer it asks for.
 *
 *     none | text | vnc[=unix:PATH | =HOST:PORT][,password-file=FILE]
 *
 * Model: parse on the way in (nothing is opened); open when there is a machine with a screen; close before the machine and before the
 * console.
 */
#ifndef DP_DISPLAY_OPTIONS_H
#define DP_DISPLAY_OPTIONS_H

#include "console/console.h"
#include "display/display.h"
#include "display/input.h"

enum dp_display_kind { DP_DISPLAY_NONE, DP_DISPLAY_TEXT, DP_DISPLAY_VNC };
struct dp_display_options {
    enum dp_display_kind kind;
    char path[108];         /* VNC: of a unix socket; "" with an address, or when the caller is to choose one (rundir's `vnc`) */
    char address[272];      /* VNC: "HOST:PORT", or "" */
    char password_file[256]; /* its first line; "" none */
};
int dp_display_parse(const char *text, struct dp_display_options *out, struct dp_error *e) DP_MUST_CHECK;

struct dp_vnc;
struct dp_text_view;
struct dp_display_viewer { /* zeroed: none */
    struct dp_vnc *vnc;
    struct dp_text_view *text;
};
/* console: the terminal's, for DP_DISPLAY_TEXT (dp_console_open_stdio; no serial port may have it). path: of the VNC socket when the
 * options name nothing, NULL: that is an error. name: of the VM, NULL: none. */
int dp_display_open(struct dp_display_viewer *viewer, const struct dp_display_options *o, struct dp_loop *loop, struct dp_console *console,
                    const char *path, const char *name, const struct dp_display_source *source, const struct dp_input_sink *sink,
                    struct dp_error *e) DP_MUST_CHECK;
void dp_display_close(struct dp_display_viewer *viewer);
/* One line for people: where the screen is to be seen. "" when there is nothing to say. */
void dp_display_describe(const struct dp_display_viewer *viewer, char *line, size_t size);

#endif
