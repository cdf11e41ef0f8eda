/* cli/screen.c - `doppel screenshot`, `doppel type`, `doppel key`: a named VM's screen and keyboard, through its control socket.
 *
 * The VM's process renders, writes the file and strikes the keys at its own pace; `type` and `key` return when the last key has been
 * struck, so that a script's next step comes after it.
 */
#include "cli/options.h"

#include <json.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/client.h"
#include "display/input.h"

enum { PIECE_MAX = 200, POLL_US = 20000 }; /* characters that are typed between two questions */

struct screen_options {
    const char *name, *what;
    bool raw;
};

static int tell(const struct dp_error *e)
{
    fprintf(stderr, "doppel: %s\n", e->text);
    return EXIT_STATUS_ERROR;
}

/* One command; its "pending" in *pending. */
static int ask(int fd, const char *command, const char *argument, const char *value, int *pending_events, struct dp_error *e)
{
    struct json_object *result = cli_ask_with(fd, command, argument, value, e), *part;
    if (!result)
        return e->code ? e->code : -EIO;
    *pending_events = json_object_object_get_ex(result, "pending", &part) ? json_object_get_int(part) : 0;
    json_object_put(result);
    return 0;
}

static int wait_until_typed(int fd, int pending_events, struct dp_error *e)
{
    int rc = 0;
    while (!rc && pending_events > 0) {
        usleep(POLL_US);
        rc = ask(fd, "type", "text", "", &pending_events, e);
    }
    return rc;
}

/* ---- screenshot ---- */

static const struct cli_operand screenshot_operands[] = {
    {"NAME", offsetof(struct screen_options, name)},
    {"FILE", offsetof(struct screen_options, what)},
};

static int screenshot(int argc, char **argv)
{
    struct screen_options o = {0};
    struct dp_error e = {0};
    struct dp_buffer path = {0};
    int fd, pending_events, status = cli_begin(&cli_screenshot, argc, argv, &o);
    if (status >= 0)
        return status;
    if (!*o.what) {
        dp_error_set(&e, -EINVAL, "FILE is empty");
        return tell(&e);
    }
    char *here = *o.what == '/' ? NULL : getcwd(NULL, 0); /* the VM runs elsewhere */
    if (*o.what != '/' && !here) {
        dp_error_set(&e, -ENOENT, "cannot find out the working directory: give an absolute path");
        return tell(&e);
    }
    dp_buffer_printf(&path, "%s%s%s", here ? here : "", here ? "/" : "", o.what);
    free(here);
    if (path.failed)
        dp_error_set(&e, -ENOMEM, "no memory");
    else if (!cli_connect(o.name, &fd, &e)) {
        int rc = ask(fd, "screenshot", "file", (char *)path.data, &pending_events, &e);
        close(fd);
        if (!rc)
            e.code = 0;
    }
    dp_buffer_fini(&path);
    return e.code ? tell(&e) : 0;
}

const struct cli_verb cli_screenshot = {
    .name = "screenshot",
    .summary = "writes a named VM's screen to a PNG file",
    .usage = "NAME FILE",
    .examples = "  doppel screenshot dos screen.png\n",
    .operands = screenshot_operands,
    .operand_count = DP_ARRAY_LEN(screenshot_operands),
    .run = screenshot,
};

/* ---- type ---- */

static const struct cli_operand type_operands[] = {
    {"NAME", offsetof(struct screen_options, name)},
    {"TEXT", offsetof(struct screen_options, what)},
};
static const struct cli_option type_options[] = {
    {"raw", 'r', NULL, CLI_FLAG, offsetof(struct screen_options, raw), .help = "\\ has no meaning: type it as it is"},
};

/* \n, \t, \e and \\ become what they mean; other backslashes stay, for paths. */
static char *unescape(const char *text)
{
    char *out = malloc(strlen(text) + 1), *to = out;
    if (!out)
        return NULL;
    for (const char *p = text; *p; p++) {
        static const char from[] = "nte\\", meant[] = "\n\t\033\\";
        const char *found = *p == '\\' && p[1] ? strchr(from, p[1]) : NULL;
        *to++ = found ? meant[found - from] : *p;
        p += found != NULL;
    }
    *to = 0;
    return out;
}

static int type_all(int fd, const char *text, struct dp_error *e)
{
    int rc = 0, pending_events;
    for (size_t left = strlen(text); !rc && left;) {
        char piece[PIECE_MAX + 1];
        size_t n = DP_MIN(left, (size_t)PIECE_MAX);
        memcpy(piece, text, n);
        piece[n] = 0;
        rc = ask(fd, "type", "text", piece, &pending_events, e);
        if (!rc)
            rc = wait_until_typed(fd, pending_events, e);
        text += n;
        left -= n;
    }
    return rc;
}

static int type(int argc, char **argv)
{
    struct screen_options o = {0};
    struct dp_error e = {0};
    bool shift;
    int fd, status = cli_begin(&cli_type, argc, argv, &o);
    if (status >= 0)
        return status;
    char *text = o.raw ? strdup(o.what) : unescape(o.what);
    int rc = text ? 0 : dp_error_set(&e, -ENOMEM, "no memory");
    for (size_t i = 0; !rc && text[i]; i++)
        if (!dp_input_key_of_character(text[i], &shift)) /* before anything is typed */
            rc = dp_error_set(&e, -EILSEQ, "the text cannot be typed: byte %zu (0x%02x) is no character of a US keyboard", i,
                              (uint8_t)text[i]);
    if (!rc)
        rc = cli_connect(o.name, &fd, &e);
    if (!rc) {
        rc = type_all(fd, text, &e);
        close(fd);
    }
    free(text);
    return rc ? tell(&e) : 0;
}

const struct cli_verb cli_type = {
    .name = "type",
    .summary = "types a text on a named VM's keyboard",
    .usage = "NAME TEXT",
    .examples = "  doppel type dos 'dir c:\\n'\n  doppel type --raw dos 'c:\\new\\tool'\n  doppel type dos -- '-x'\n",
    .options = type_options,
    .option_count = DP_ARRAY_LEN(type_options),
    .operands = type_operands,
    .operand_count = DP_ARRAY_LEN(type_operands),
    .run = type,
};

/* ---- key ---- */

static const struct cli_operand key_operands[] = {
    {"NAME", offsetof(struct screen_options, name)},
    {"KEYS", offsetof(struct screen_options, what)},
};

static void key_help(FILE *to)
{
    fprintf(to,
            "\nKeys, joined by -, are pressed in this order and released in reverse. Names are those of QEMU's sendkey:\n"
            "  a to z, 0 to 9, f1 to f12, ret, esc, tab, spc, backspace, insert, delete, home, end, pgup, pgdn, up, down, left, right,\n"
            "  shift, ctrl, alt, meta_l (and shift_r, ctrl_r, alt_r, meta_r), menu, caps_lock, num_lock, scroll_lock, print, pause,\n"
            "  kp_0 to kp_9, kp_add, kp_subtract, kp_multiply, kp_divide, kp_decimal, kp_enter,\n"
            "  minus, equal, comma, dot, slash, semicolon, apostrophe, grave_accent, backslash, bracket_left, bracket_right, less\n");
}

static int key(int argc, char **argv)
{
    struct screen_options o = {0};
    struct dp_error e = {0};
    int fd, pending_events, status = cli_begin(&cli_key, argc, argv, &o);
    if (status >= 0)
        return status;
    int rc = cli_connect(o.name, &fd, &e);
    if (!rc) {
        rc = ask(fd, "key", "keys", o.what, &pending_events, &e);
        if (!rc)
            rc = wait_until_typed(fd, pending_events, &e);
        close(fd);
    }
    return rc ? tell(&e) : 0;
}

const struct cli_verb cli_key = {
    .name = "key",
    .summary = "strikes keys of a named VM's keyboard together",
    .usage = "NAME KEYS",
    .examples = "  doppel key win95 ctrl-alt-del\n  doppel key dos f3\n",
    .operands = key_operands,
    .operand_count = DP_ARRAY_LEN(key_operands),
    .more_help = key_help,
    .run = key,
};
