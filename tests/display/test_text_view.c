/* test_text_view.c - text screens on a terminal. A small terminal in here obeys what the view sends; what it shows then must be what the guest's
 * screen shows, whatever was there before. And a real one (a pty), for keys and the console's escapes.
 */
#include "tests/unit/test.h"

#include <linux/input-event-codes.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "display/text_view.h"
#include "tests/display/fake.h"

/* ---- the terminal ---- */

enum { COLUMNS_MAX = 200, ROWS_MAX = 80 };

struct terminal {
    unsigned columns, rows, x, y;
    bool alternate, cursor;
    uint32_t foreground, background;
    struct { char utf8[4]; uint32_t foreground, background; } cell[ROWS_MAX][COLUMNS_MAX];
    size_t characters; /* written in all */
};

/* Direct colours only: "38;2;r;g;b". */
static void obey_colours(struct terminal *t, const unsigned *n, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (n[i] == 38 || n[i] == 48) {
            assert_true(i + 4 < count && n[i + 1] == 2);
            *(n[i] == 38 ? &t->foreground : &t->background) = n[i + 2] << 16 | n[i + 3] << 8 | n[i + 4];
            i += 4;
        } else {
            assert_int_equal(n[i], 0);
            t->foreground = 0xdddddd; /* whatever the terminal's own are */
            t->background = 0x222222;
        }
    }
}

static const char *obey_sequence(struct terminal *t, const char *p)
{
    unsigned n[16] = {0}, count = 1;
    assert_int_equal(*p++, '[');
    bool private = *p == '?';
    p += private;
    for (; (*p >= '0' && *p <= '9') || *p == ';'; p++) {
        if (*p == ';')
            assert_true(++count <= 16);
        else
            n[count - 1] = n[count - 1] * 10 + (unsigned)(*p - '0');
    }
    if (private) {
        assert_true(*p == 'h' || *p == 'l');
        if (n[0] == 25)
            t->cursor = *p == 'h';
        else if (n[0] == 1049)
            t->alternate = *p == 'h';
        else
            fail_msg("mode %u", n[0]);
    } else if (*p == 'H') {
        t->y = n[0] ? n[0] - 1 : 0;
        t->x = n[1] ? n[1] - 1 : 0;
        assert_true(t->x < t->columns && t->y < t->rows);
    } else if (*p == 'J') {
        for (unsigned y = 0; y < ROWS_MAX; y++)
            for (unsigned x = 0; x < COLUMNS_MAX; x++) {
                strcpy(t->cell[y][x].utf8, "?");
                t->cell[y][x].background = t->background;
            }
    } else if (*p == 'm') {
        obey_colours(t, n, count);
    } else {
        fail_msg("sequence %c", *p);
    }
    return p + 1;
}

static void obey(struct terminal *t, const char *p, size_t size)
{
    const char *end = p + size;
    while (p < end) {
        if (*p == 27) {
            p = obey_sequence(t, p + 1);
            continue;
        }
        unsigned length = (uint8_t)*p >= 0xe0 ? 3 : (uint8_t)*p >= 0xc0 ? 2 : 1;
        assert_true((uint8_t)*p >= 32 && t->x < t->columns && t->y < t->rows);
        memcpy(t->cell[t->y][t->x].utf8, p, length);
        t->cell[t->y][t->x].utf8[length] = 0;
        t->cell[t->y][t->x].foreground = t->foreground;
        t->cell[t->y][t->x].background = t->background;
        t->x++;
        t->characters++;
        p += length;
    }
}

/* ---- the world ---- */

struct world {
    struct dp_loop *loop;
    struct dp_console *console;
    struct dp_text_view *view;
    struct fake f;
    struct terminal t;
    size_t obeyed;
    struct dp_error e;
};

static void begin(struct world *w, unsigned columns, unsigned rows, unsigned colours)
{
    struct dp_display_source source = fake_source(&w->f);
    struct dp_input_sink sink = fake_sink(&w->f, false);
    struct dp_text_view_options o = {.terminal_fd = -1, .columns = columns, .rows = rows, .colours = colours};
    w->t.columns = columns;
    w->t.rows = rows;
    assert_ok(dp_loop_create(&w->loop, &w->e), w->e);
    assert_ok(dp_console_open_memory(&w->console, &w->e), w->e);
    assert_ok(dp_text_view_open(w->loop, w->console, &o, &source, &sink, &w->view, &w->e), w->e);
}

static void see(struct world *w)
{
    const struct dp_buffer *out = dp_console_output(w->console);
    obey(&w->t, (char *)out->data + w->obeyed, out->size - w->obeyed);
    w->obeyed = out->size;
}

static void end(struct world *w)
{
    dp_text_view_close(w->view);
    see(w);
    assert_false(w->t.alternate);
    assert_true(w->t.cursor);
    dp_console_close(w->console);
    dp_loop_destroy(w->loop);
    dp_display_picture_fini(&w->f.picture);
    free(w);
}

static void set_text(struct fake *f, unsigned columns, unsigned rows)
{
    f->in_text_mode = true;
    f->text.columns = columns;
    f->text.rows = rows;
    for (unsigned i = 0; i < 16; i++)
        f->text.palette[i] = i * 0x0f1011;
    for (unsigned i = 0; i < columns * rows; i++)
        f->text.cell[i] = (struct dp_display_cell){' ', 7};
    f->generation++;
}

/* The terminal shows the guest's screen from this column and row on. */
static void expect_screen(struct world *w, unsigned left, unsigned top)
{
    const struct dp_display_text *x = &w->f.text;
    for (unsigned row = 0; row < w->t.rows; row++)
        for (unsigned column = 0; column < w->t.columns; column++) {
            bool there = top + row < x->rows && left + column < x->columns;
            struct dp_display_cell c = there ? x->cell[(top + row) * x->columns + left + column] : (struct dp_display_cell){' ', 0};
            assert_string_equal(w->t.cell[row][column].utf8, dp_display_cp437(c.character));
            assert_int_equal(w->t.cell[row][column].background, there ? x->palette[c.attribute >> 4] : 0);
            if (there)
                assert_int_equal(w->t.cell[row][column].foreground, x->palette[c.attribute & 15]);
        }
    assert_int_equal(w->t.cursor, x->cursor);
    if (x->cursor) {
        assert_int_equal(w->t.x, x->cursor_column - left);
        assert_int_equal(w->t.y, x->cursor_row - top);
    }
}

static void random_screens(void **state)
{
    struct dp_random r;
    dp_random_seed(&r, 7);
    for (unsigned round = 0; round < 20; round++) {
        struct world *w = calloc(1, sizeof *w);
        begin(w, 80 + round, 25 + round, 1 << 24);
        for (unsigned step = 0; step < 30; step++) {
            if (step % 10 == 0)
                set_text(&w->f, step == 10 ? 40 : 80, 25);
            for (unsigned changes = dp_random_next(&r) % (step % 7 ? 40 : 2000); changes--;) {
                uint64_t v = dp_random_next(&r);
                w->f.text.cell[v % (w->f.text.columns * 25)] = (struct dp_display_cell){(uint8_t)(v >> 16), (uint8_t)(v >> 24)};
            }
            w->f.text.cursor = dp_random_next(&r) % 4;
            w->f.text.cursor_column = dp_random_next(&r) % w->f.text.columns;
            w->f.text.cursor_row = dp_random_next(&r) % 25;
            w->f.generation++;
            dp_text_view_refresh(w->view);
            see(w);
            assert_true(w->t.alternate);
            expect_screen(w, 0, 0);
        }
        end(w);
    }
}

static void only_changes(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    begin(w, 80, 25, 1 << 24);
    set_text(&w->f, 80, 25);
    dp_text_view_refresh(w->view);
    see(w);
    assert_int_equal(w->t.characters, 80 * 25);
    size_t before = w->obeyed;
    dp_text_view_refresh(w->view);
    see(w);
    assert_int_equal(w->obeyed, before); /* no news, no bytes */
    memcpy(&w->f.text.cell[100], &(struct dp_display_cell[]){{'h', 7}, {'i', 7}}, 4);
    w->f.generation++;
    dp_text_view_refresh(w->view);
    see(w);
    assert_int_equal(w->t.characters, 80 * 25 + 2);
    assert_true(w->obeyed - before < 60);
    expect_screen(w, 0, 0);
    end(w);
}

/* The part with the cursor, moving no more than it must. */
static void small_terminal(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    begin(w, 30, 10, 1 << 24);
    set_text(&w->f, 80, 25);
    for (unsigned i = 0; i < 80 * 25; i++)
        w->f.text.cell[i].character = (uint8_t)(i % 251);
    static const struct { unsigned x, y, left, top; } step[] = {{0, 0, 0, 0}, {29, 9, 0, 0}, {30, 10, 1, 1}, {5, 24, 1, 15}, {79, 20, 50, 15}, {49, 14, 49, 14}};
    w->f.text.cursor = true;
    for (unsigned i = 0; i < DP_ARRAY_LEN(step); i++) {
        w->f.text.cursor_column = step[i].x;
        w->f.text.cursor_row = step[i].y;
        w->f.generation++;
        dp_text_view_refresh(w->view);
        see(w);
        expect_screen(w, step[i].left, step[i].top);
    }
    end(w);
}

static void expect_line(struct world *w, unsigned row, const char *text)
{
    for (unsigned i = 0; i < w->t.columns; i++)
        assert_int_equal(w->t.cell[row][i].utf8[0], i < strlen(text) ? text[i] : ' ');
}

static void graphics(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct dp_random r;
    dp_random_seed(&r, 1);
    begin(w, 80, 25, 1 << 24);
    fake_draw(&w->f, 640, 480, 0, &r);
    dp_text_view_refresh(w->view);
    see(w);
    expect_line(w, 0, "640x480 graphics: use VNC or doppel screenshot");
    assert_false(w->t.cursor);
    set_text(&w->f, 80, 25);
    w->f.text.cursor = true;
    dp_text_view_refresh(w->view);
    see(w);
    expect_screen(w, 0, 0);
    w->f.in_text_mode = false;
    fake_draw(&w->f, 0, 0, 0, &r); /* switched off */
    dp_text_view_refresh(w->view);
    see(w);
    expect_line(w, 0, "");
    w->f.fails = EIO;
    w->f.generation++;
    dp_text_view_refresh(w->view);
    see(w);
    expect_line(w, 0, "");
    end(w);
}

/* A terminal that takes little at a time gets whole pictures in the end, and no old ones pile up. */
static void slow_terminal(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    begin(w, 80, 25, 1 << 24);
    dp_console_limit(w->console, 0);
    for (unsigned i = 0; i < 200; i++) {
        set_text(&w->f, 80, 25);
        w->f.text.cell[i].character = '*';
        w->f.generation++;
        dp_text_view_refresh(w->view);
        if (i % 10 == 0)
            dp_console_limit(w->console, 100);
    }
    dp_console_limit(w->console, SIZE_MAX);
    dp_text_view_refresh(w->view);
    see(w);
    expect_screen(w, 0, 0);
    assert_true(w->obeyed < 40000);
    end(w);
}

static void few_colours(void **state)
{
    for (unsigned colours = 16; colours <= 256; colours += 240) {
        struct world *w = calloc(1, sizeof *w);
        begin(w, 80, 25, colours);
        set_text(&w->f, 80, 25);
        w->f.text.palette[1] = 0x0000aa;
        w->f.text.palette[14] = 0xffff55;
        w->f.text.cell[0] = (struct dp_display_cell){'x', 0x1e};
        dp_text_view_refresh(w->view);
        const struct dp_buffer *out = dp_console_output(w->console);
        const char *text = colours == 16 ? "\033[0;93;44mx" : "\033[0;38;5;227;48;5;19mx";
        if (!memmem(out->data, out->size, text, strlen(text)))
            fail_msg("no %s in %.*s", text + 1, 100, (char *)out->data + 1);
        w->obeyed = out->size;
        end(w);
    }
}

static void keys(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    begin(w, 80, 25, 16);
    dp_console_feed(w->console, "A\033[A\003", 5);
    for (unsigned i = 0; i < 100 && w->f.size < 47; i++)
        dp_loop_poll(w->loop, 10);
    assert_string_equal(w->f.events, "+42 +30 -30 -42 +103 -103 +29 +46 -46 -29 ");
    w->f.size = 0;
    dp_console_feed(w->console, "\033", 1); /* alone: after a moment it is the key */
    for (unsigned i = 0; i < 100 && w->f.size < 6; i++)
        dp_loop_poll(w->loop, 10);
    assert_string_equal(w->f.events, "+1 -1 ");
    w->obeyed = dp_console_output(w->console)->size;
    end(w);
}

/* ---- a real terminal ---- */

static void quit(void *opaque) { dp_loop_stop(opaque); }
static void status(void *opaque, struct dp_buffer *out) { dp_buffer_printf(out, "status: fine\n"); }

static struct world *shown; /* of the child: what its keys do is shown on its screen */
static void show_key(void *opaque, unsigned code, bool down)
{
    struct fake *f = opaque;
    f->text.cell[0].character = code == KEY_A && !down ? 'K' : 'j';
    f->generation++;
}

static void child(void)
{
    struct world *w = shown = calloc(1, sizeof *w);
    struct dp_input_sink sink = {.key = show_key, .opaque = &w->f};
    struct dp_display_source source = fake_source(&w->f);
    alarm(20);
    if (dp_loop_create(&w->loop, NULL))
        _exit(1);
    struct dp_console_escapes escapes = {quit, status, w->loop};
    if (dp_console_open_stdio(w->loop, &escapes, &w->console, NULL) ||
        dp_text_view_open(w->loop, w->console, &(struct dp_text_view_options){.terminal_fd = 1, .colours = 16}, &source, &sink, &w->view, NULL))
        _exit(1);
    set_text(&w->f, 80, 25);
    memcpy(&w->f.text.cell[80], &(struct dp_display_cell[]){{'G', 7}, {'u', 7}, {'e', 7}, {'s', 7}, {'t', 7}}, 10);
    w->f.generation++;
    dp_loop_run(w->loop);
    dp_text_view_close(w->view);
    dp_console_close(w->console);
    dp_loop_destroy(w->loop);
    free(w);
    _exit(33);
}

static void expect(int fd, struct dp_buffer *seen, const char *text)
{
    for (;;) {
        char *at = seen->size ? memmem(seen->data, seen->size, text, strlen(text)) : NULL, piece[4096];
        if (at) {
            size_t used = (size_t)((uint8_t *)at - seen->data) + strlen(text);
            memmove(seen->data, seen->data + used, seen->size -= used);
            return;
        }
        ssize_t n = poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 5000) > 0 ? read(fd, piece, sizeof piece) : -1;
        if (n <= 0)
            fail_msg("waited for \"%s\", saw %zu bytes: %.*s", text, seen->size, 300, seen->size ? (char *)seen->data + 1 : "");
        dp_buffer_append(seen, piece, (size_t)n);
    }
}

static void type(int fd, const char *text) { assert_int_equal(write(fd, text, strlen(text)), strlen(text)); }

static void real_terminal(void **state)
{
    int master, slave, status_code;
    struct winsize size = {.ws_col = 80, .ws_row = 25};
    struct termios before = {0}, after = {0};
    struct dp_buffer seen = {0};
    assert_int_equal(openpty(&master, &slave, NULL, NULL, &size), 0);
    tcgetattr(slave, &before);
    pid_t pid = fork();
    if (!pid) {
        setsid();
        dup2(slave, 0);
        dup2(slave, 1);
        close(master);
        child();
    }
    expect(master, &seen, "\033[?1049h");
    expect(master, &seen, "Guest");
    type(master, "a");
    expect(master, &seen, "K");
    type(master, "a\001h");
    expect(master, &seen, "C-a x  end the machine");
    expect(master, &seen, "(any key goes on)");
    type(master, "b"); /* is not the guest's */
    expect(master, &seen, "\033["); /* the help goes */
    type(master, "\001c");
    expect(master, &seen, "status: fine");
    size.ws_row = 10;
    ioctl(master, TIOCSWINSZ, &size);
    expect(master, &seen, "\033[2J");
    expect(master, &seen, "Guest");
    type(master, "\001x");
    expect(master, &seen, "\033[?25h\033[?1049l");
    assert_int_equal(waitpid(pid, &status_code, 0), pid);
    assert_true(WIFEXITED(status_code) && WEXITSTATUS(status_code) == 33);
    tcgetattr(slave, &after);
    assert_memory_equal(&before, &after, sizeof before);
    dp_buffer_fini(&seen);
    close(master);
    close(slave);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_screens), cmocka_unit_test(only_changes), cmocka_unit_test(small_terminal), cmocka_unit_test(graphics),
        cmocka_unit_test(slow_terminal),  cmocka_unit_test(few_colours),  cmocka_unit_test(keys),           cmocka_unit_test(real_terminal),
    };
    return cmocka_run_group_tests_name("text-view", tests, NULL, NULL);
}
