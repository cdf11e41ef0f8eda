/* test_terminal_keys.c - what terminals send for keys, and what they might. */
#include "tests/unit/test.h"

#include <linux/input-event-codes.h>

#include "display/terminal_keys.h"

struct world {
    char seen[4096];
    struct dp_terminal_keys t;
};

static void struck(void *opaque, const unsigned *code, unsigned count)
{
    struct world *w = opaque;
    size_t at = strlen(w->seen);
    assert_true(count >= 1 && count <= 4);
    for (unsigned i = 0; i < count; i++)
        at += (size_t)snprintf(w->seen + at, sizeof w->seen - at, "%s%u", i ? "-" : at ? " " : "", code[i]);
}

static void expect(const char *input, size_t size, bool timeout, const char *strokes)
{
    struct world w = {.t = {.stroke = struck}};
    w.t.opaque = &w;
    dp_terminal_keys_feed(&w.t, (const uint8_t *)input, size);
    if (timeout)
        dp_terminal_keys_timeout(&w.t);
    if (strcmp(w.seen, strokes))
        fail_msg("'%s' gives '%s', not '%s'", input, w.seen, strokes);
    assert_false(dp_terminal_keys_waits(&w.t));
}
#define KEYS(input, strokes) expect(input, sizeof(input) - 1, false, strokes)

static void characters(void **state)
{
    KEYS("aZ~", "30 42-44 42-41");
    KEYS("\r\n\t", "28 28 15");
    KEYS("\177\b", "14 14");
    KEYS("\001\003\032\000", "29-30 29-46 29-44 29-57");
    KEYS("\034\035\036\037", "29-43 29-27 29-7 29-12");
    KEYS("\xc3\xa4x", "45"); /* no such key */
}

static void sequences(void **state)
{
    KEYS("\033[A\033[B\033[C\033[D", "103 108 106 105");
    KEYS("\033OA\033OH\033OF", "103 102 107");
    KEYS("\033[H\033[F\033[1~\033[4~\033[7~\033[8~", "102 107 102 107 102 107");
    KEYS("\033[2~\033[3~\033[5~\033[6~", "110 111 104 109");
    KEYS("\033OP\033OQ\033OR\033OS\033[15~\033[17~\033[18~\033[19~\033[20~\033[21~\033[23~\033[24~", "59 60 61 62 63 64 65 66 67 68 87 88");
    KEYS("\033[[A\033[[E", "59 63");
    KEYS("\033[11~\033[25~", "59 42-59");
    KEYS("\033[1;5C\033[1;2P\033[3;3~\033[1;8A", "29-106 42-59 56-111 29-56-42-103");
    KEYS("\033[Z", "42-15");
    KEYS("\033x\033X\033\003\033\177", "56-45 56-42-45 29-56-46 56-14");
    expect("\033", 1, true, "1");
    expect("\033\033", 2, true, "1 1");
    expect("\033[", 2, true, "56-26");
    expect("\033O", 2, true, "56-42-24");
    KEYS("\033\033[A", "1 103"); /* the first was the key */
}

static void rubbish(void **state)
{
    KEYS("\033[99~\033[1;99A\033[?25h\033[<0;1;1Ma", "103 30");
    KEYS("\033[1\033[A", "103");   /* cut off by the next */
    KEYS("\033[12\rb", "28 48");   /* by a control character */
    KEYS("\033[99999999999999999999A", "103");
    KEYS("\033[1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1Ab", "48"); /* too long: dropped as a whole */
    KEYS("\033[[Z\033[[1ab", "48"); /* none that the Linux console sends */
    expect("\033[123", 5, true, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(characters), cmocka_unit_test(sequences), cmocka_unit_test(rubbish)};
    return cmocka_run_group_tests_name("terminal-keys", tests, NULL, NULL);
}
