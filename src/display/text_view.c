/* text_view.c - see text_view.h. */
#include "display/text_view.h"

#include <stdlib.h>
#include <sys/ioctl.h>

#include "display/terminal_keys.h"
#include "display/typist.h"

enum {
    PERIOD_MS = 33, IDLE_MS = 100,
    IDLE_AFTER = 30, /* looks without news */
    ESCAPE_MS = 66,  /* after which an ESC is the key: longer than a sequence takes through ssh, most of the time */
    COLUMNS_MAX = 512, ROWS_MAX = 256,
    GLYPH_NONE = 0x100, /* not known what the terminal shows there */
};

const char dp_text_view_leave[] = "\033[0m\033[?25h\033[?1049l";
static const char enter[] = "\033[?1049h\033[0m\033[2J\033[H";

struct cell {
    uint16_t glyph; /* of code page 437 */
    uint32_t foreground, background;
};

struct screen {
    unsigned columns, rows;
    bool cursor;
    unsigned cursor_column, cursor_row;
    struct cell cell[COLUMNS_MAX * ROWS_MAX];
};

struct dp_text_view {
    struct dp_loop *loop;
    struct dp_console *console;
    struct dp_text_view_options o;
    struct dp_display_source source;
    struct dp_ticker ticker;
    struct dp_typist typist;
    struct dp_terminal_keys keys;
    struct dp_display_text text;
    struct dp_display_picture picture; /* only for its size */
    struct screen want, shown;
    struct cell pen; /* colours the terminal writes with; glyph GLYPH_NONE: not known */
    uint64_t generation;
    bool looked, redraw;
    unsigned left, top; /* of the guest's screen, where it is larger */
    unsigned idle, escape_ms;
    struct dp_buffer out; /* what the console had no room for */
    size_t out_done;
    char message[2048];
};

/* ---- colours ---- */

/* The ANSI colour for each of VGA's: red and blue are the other way round. */
static unsigned ansi_colour(unsigned vga) { return (vga & 8) | (vga & 1) << 2 | (vga & 2) | (vga & 4) >> 2; }

static const uint32_t vga_palette[16] = {0x000000, 0x0000aa, 0x00aa00, 0x00aaaa, 0xaa0000, 0xaa00aa, 0xaa5500, 0xaaaaaa,
                                         0x555555, 0x5555ff, 0x55ff55, 0x55ffff, 0xff5555, 0xff55ff, 0xffff55, 0xffffff};

static unsigned distance(uint32_t a, uint32_t b)
{
    unsigned sum = 0;
    for (unsigned shift = 0; shift < 24; shift += 8) {
        int d = (int)(a >> shift & 255) - (int)(b >> shift & 255);
        sum += (unsigned)(d * d);
    }
    return sum;
}

static unsigned nearest_vga(uint32_t rgb)
{
    unsigned best = 0;
    for (unsigned i = 1; i < 16; i++)
        if (distance(rgb, vga_palette[i]) < distance(rgb, vga_palette[best]))
            best = i;
    return best;
}

/* Of xterm's 256: the 6x6x6 cube at 16, whose levels are 0, 95, 135 ... 255, and the greys at 232. */
static unsigned nearest_256(uint32_t rgb)
{
    static const uint8_t level[6] = {0, 95, 135, 175, 215, 255};
    unsigned cube = 16, cube_rgb = 0, grey = 0;
    for (unsigned shift = 24; shift;) {
        shift -= 8;
        unsigned v = rgb >> shift & 255, i = v < 48 ? 0 : v < 115 ? 1 : (v - 35) / 40;
        cube_rgb |= (unsigned)level[i] << shift;
        cube += i * (shift == 16 ? 36 : shift == 8 ? 6 : 1);
    }
    for (unsigned i = 1; i < 24; i++)
        if (distance(rgb, (8 + 10 * i) * 0x10101) < distance(rgb, (8 + 10 * grey) * 0x10101))
            grey = i;
    return distance(rgb, (8 + 10 * grey) * 0x10101) < distance(rgb, cube_rgb) ? 232 + grey : cube;
}

static void put_colour(struct dp_text_view *v, uint32_t rgb, bool background)
{
    if (v->o.colours > 256) {
        dp_buffer_printf(&v->out, ";%d;2;%u;%u;%u", background ? 48 : 38, rgb >> 16 & 255, rgb >> 8 & 255, rgb & 255);
    } else if (v->o.colours == 256) {
        dp_buffer_printf(&v->out, ";%d;5;%u", background ? 48 : 38, nearest_256(rgb));
    } else {
        unsigned c = ansi_colour(nearest_vga(rgb));
        dp_buffer_printf(&v->out, ";%u", (c & 7) + (c & 8 ? 90 : 30) + (background ? 10 : 0));
    }
}

/* ---- what is to be seen ---- */

static void find_size(struct dp_text_view *v)
{
    struct winsize w = {0};
    unsigned columns = v->o.columns, rows = v->o.rows;
    if (v->o.terminal_fd >= 0 && !ioctl(v->o.terminal_fd, TIOCGWINSZ, &w) && w.ws_col && w.ws_row) {
        columns = w.ws_col;
        rows = w.ws_row;
    }
    columns = columns ? DP_MIN(columns, (unsigned)COLUMNS_MAX) : 80;
    rows = rows ? DP_MIN(rows, (unsigned)ROWS_MAX) : 25;
    if (columns != v->want.columns || rows != v->want.rows) {
        v->want.columns = columns;
        v->want.rows = rows;
        v->redraw = true;
    }
}

static void clear(struct screen *s)
{
    for (unsigned i = 0; i < s->columns * s->rows; i++)
        s->cell[i] = (struct cell){' ', vga_palette[7], 0};
    s->cursor = false;
}

static void write_line(struct screen *s, unsigned row, const char *text, bool inverse)
{
    for (unsigned x = 0; x < s->columns && row < s->rows; x++) {
        s->cell[row * s->columns + x] =
            (struct cell){*text ? (uint8_t)*text : ' ', vga_palette[inverse ? 0 : 7], vga_palette[inverse ? 7 : 0]};
        text += *text != 0;
    }
}

/* Moves the window the least so that it has the cursor in it and nothing beyond the screen's edge. */
static unsigned place(unsigned start, unsigned window, unsigned size, unsigned cursor, bool follow)
{
    if (size <= window)
        return 0;
    start = DP_MIN(start, size - window);
    if (follow && cursor < size) {
        if (cursor < start)
            start = cursor;
        else if (cursor >= start + window)
            start = cursor - window + 1;
    }
    return start;
}

static void compose_text(struct dp_text_view *v)
{
    struct screen *s = &v->want;
    const struct dp_display_text *t = &v->text;
    v->left = place(v->left, s->columns, t->columns, t->cursor_column, t->cursor);
    v->top = place(v->top, s->rows, t->rows, t->cursor_row, t->cursor);
    for (unsigned y = 0; y < s->rows && v->top + y < t->rows; y++)
        for (unsigned x = 0; x < s->columns && v->left + x < t->columns; x++) {
            struct dp_display_cell c = t->cell[(v->top + y) * t->columns + v->left + x];
            s->cell[y * s->columns + x] =
                (struct cell){c.character, t->palette[c.attribute & 15] & 0xffffff, t->palette[c.attribute >> 4] & 0xffffff};
        }
    s->cursor = t->cursor && t->cursor_column - v->left < s->columns && t->cursor_row - v->top < s->rows;
    s->cursor_column = t->cursor_column - v->left;
    s->cursor_row = t->cursor_row - v->top;
}

static void compose_message(struct dp_text_view *v)
{
    char text[sizeof v->message];
    unsigned lines = 0;
    memcpy(text, v->message, sizeof text);
    for (const char *p = text; *p; p++)
        lines += *p == '\n';
    unsigned row = v->want.rows > lines + 1 ? v->want.rows - lines - 1 : 0;
    for (char *line = text, *end; (end = strchr(line, '\n')) && row < v->want.rows; line = end + 1) {
        *end = 0;
        write_line(&v->want, row++, line, true);
    }
    write_line(&v->want, row, "(any key goes on)", true);
    v->want.cursor = false;
}

static void compose(struct dp_text_view *v)
{
    clear(&v->want);
    bool text = v->source.text && v->source.text(v->source.opaque, &v->text);
    if (text && v->text.columns && (uint64_t)v->text.columns * v->text.rows <= DP_DISPLAY_MAX_CELLS) {
        compose_text(v);
    } else if (!v->source.picture(v->source.opaque, &v->picture, NULL) && v->picture.width) {
        char line[80];
        snprintf(line, sizeof line, "%ux%u graphics: use VNC or doppel screenshot", v->picture.width, v->picture.height);
        write_line(&v->want, 0, line, false);
    }
    if (*v->message)
        compose_message(v);
}

/* ---- sending ---- */

static bool flush(struct dp_text_view *v)
{
    if (v->out.failed) { /* the terminal lacks something: all anew, when there is memory again */
        dp_buffer_fini(&v->out);
        v->out = (struct dp_buffer){0};
        v->out_done = 0;
        v->redraw = true;
        return false;
    }
    if (v->out.size)
        v->out_done += dp_console_write(v->console, v->out.data + v->out_done, v->out.size - v->out_done);
    if (v->out_done < v->out.size)
        return false;
    v->out.size = v->out_done = 0;
    return true;
}

static bool same(const struct cell *a, const struct cell *b)
{
    return a->glyph == b->glyph && a->foreground == b->foreground && a->background == b->background;
}

static void send_changes(struct dp_text_view *v)
{
    struct screen *s = &v->shown;
    bool moved = false;
    if (v->redraw) {
        dp_buffer_printf(&v->out, "\033[0m\033[2J");
        s->columns = v->want.columns;
        s->rows = v->want.rows;
        for (unsigned i = 0; i < s->columns * s->rows; i++)
            s->cell[i].glyph = GLYPH_NONE;
        v->pen.glyph = GLYPH_NONE;
        s->cursor = true; /* to be switched off, or placed */
        s->cursor_column = s->cursor_row = UINT32_MAX;
        v->redraw = false;
    }
    for (unsigned y = 0; y < s->rows; y++)
        for (unsigned x = 0, at = UINT32_MAX; x < s->columns; x++) {
            const struct cell *w = &v->want.cell[y * s->columns + x];
            struct cell *c = &s->cell[y * s->columns + x];
            if (same(w, c))
                continue;
            if (!moved && s->cursor) /* it would be seen running about */
                dp_buffer_printf(&v->out, "\033[?25l");
            moved = true;
            if (at != x)
                dp_buffer_printf(&v->out, "\033[%u;%uH", y + 1, x + 1);
            if (v->pen.glyph == GLYPH_NONE || v->pen.foreground != w->foreground || v->pen.background != w->background) {
                dp_buffer_printf(&v->out, "\033[0");
                put_colour(v, w->foreground, false);
                put_colour(v, w->background, true);
                dp_buffer_printf(&v->out, "m");
                v->pen = *w;
            }
            const char *glyph = dp_display_cp437((uint8_t)w->glyph);
            dp_buffer_append(&v->out, glyph, strlen(glyph));
            *c = *w;
            at = x + 1 < s->columns ? x + 1 : UINT32_MAX; /* at the edge terminals differ in where the cursor is */
        }
    bool show = v->want.cursor;
    if (show && (moved || !s->cursor || s->cursor_column != v->want.cursor_column || s->cursor_row != v->want.cursor_row))
        dp_buffer_printf(&v->out, "\033[%u;%uH%s", v->want.cursor_row + 1, v->want.cursor_column + 1,
                         moved || !s->cursor ? "\033[?25h" : "");
    else if (!show && s->cursor && !moved)
        dp_buffer_printf(&v->out, "\033[?25l");
    s->cursor = show;
    s->cursor_column = v->want.cursor_column;
    s->cursor_row = v->want.cursor_row;
}

void dp_text_view_refresh(struct dp_text_view *v)
{
    if (!flush(v))
        return;
    find_size(v);
    uint64_t generation = v->source.generation(v->source.opaque);
    if (v->looked && generation == v->generation && !v->redraw) {
        v->idle++;
        return;
    }
    v->idle = 0;
    v->looked = true;
    v->generation = generation;
    compose(v);
    send_changes(v);
    flush(v);
}

static void tick(void *opaque)
{
    struct dp_text_view *v = opaque;
    if (dp_terminal_keys_waits(&v->keys)) {
        v->escape_ms += v->ticker.period_ms;
        if (v->escape_ms > ESCAPE_MS)
            dp_terminal_keys_timeout(&v->keys);
    }
    dp_text_view_refresh(v);
    dp_ticker_period(&v->ticker, v->idle > IDLE_AFTER && !dp_terminal_keys_waits(&v->keys) ? IDLE_MS : PERIOD_MS);
}

/* ---- the console's client ---- */

static void struck(void *opaque, const unsigned *code, unsigned count)
{
    struct dp_text_view *v = opaque;
    if (*v->message) { /* the key that takes the message away is not the guest's */
        *v->message = 0;
        v->looked = false;
        return;
    }
    dp_typist_stroke(&v->typist, code, count);
}

static size_t room(void *opaque)
{
    struct dp_text_view *v = opaque;
    return (DP_TYPIST_EVENTS_MAX - dp_typist_pending(&v->typist)) / (2 * 4); /* a byte makes a stroke of up to 4 keys */
}

static void receive(void *opaque, const uint8_t *data, size_t size)
{
    struct dp_text_view *v = opaque;
    v->escape_ms = 0;
    dp_terminal_keys_feed(&v->keys, data, size);
    v->idle = 0;
    dp_ticker_period(&v->ticker, PERIOD_MS); /* what is typed is answered soon */
}

static void writable(void *opaque) { flush(opaque); }

static void message(void *opaque, const char *text, size_t size)
{
    struct dp_text_view *v = opaque;
    size = DP_MIN(size, sizeof v->message - 2);
    memcpy(v->message, text, size);
    if (size && v->message[size - 1] != '\n')
        v->message[size++] = '\n';
    v->message[size] = 0;
    v->looked = false;
}

/* ---- life ---- */

static unsigned colours_of_environment(void)
{
    const char *term = getenv("TERM"), *colour = getenv("COLORTERM");
    if (colour && (!strcmp(colour, "truecolor") || !strcmp(colour, "24bit")))
        return 1 << 24;
    return term && strstr(term, "256color") ? 256 : 16;
}

int dp_text_view_open(struct dp_loop *loop, struct dp_console *console, const struct dp_text_view_options *o,
                      const struct dp_display_source *source, const struct dp_input_sink *sink, struct dp_text_view **out,
                      struct dp_error *e)
{
    struct dp_text_view *v = calloc(1, sizeof *v);
    if (!v)
        return dp_error_set(e, -ENOMEM, "no memory");
    v->loop = loop;
    v->console = console;
    v->source = *source;
    v->o = *o;
    v->o.colours = o->colours ? o->colours : colours_of_environment();
    v->ticker.fd = v->typist.ticker.fd = -1;
    v->keys = (struct dp_terminal_keys){.stroke = struck, .opaque = v};
    int rc = dp_typist_init(&v->typist, loop, sink, e);
    if (!rc)
        rc = dp_ticker_init(&v->ticker, loop, tick, v, e);
    if (rc) {
        dp_typist_fini(&v->typist);
        free(v);
        return rc;
    }
    dp_buffer_append(&v->out, enter, sizeof enter - 1);
    v->redraw = true;
    dp_console_attach(console, &(struct dp_console_client){room, receive, writable, NULL, v, message});
    dp_ticker_period(&v->ticker, PERIOD_MS);
    *out = v;
    return 0;
}

void dp_text_view_close(struct dp_text_view *v)
{
    if (!v)
        return;
    dp_console_attach(v->console, NULL);
    dp_console_write(v->console, (const uint8_t *)dp_text_view_leave, sizeof dp_text_view_leave - 1);
    dp_ticker_fini(&v->ticker);
    dp_typist_fini(&v->typist);
    dp_buffer_fini(&v->out);
    dp_display_picture_fini(&v->picture);
    free(v);
}
