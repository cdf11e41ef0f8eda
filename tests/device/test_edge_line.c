/* test_edge_line.c - an ISA line as devices use it: falls that are too short to be seen, unknown levels, changes while it is being set. */
#include "devices/edge_line.h"
#include "tests/unit/test.h"

struct world {
    pthread_mutex_t lock;
    struct dp_edge_line line;
    bool level;             /* what the device wants */
    char seen[32];          /* what the line was given: 0, 1 */
    unsigned count;
    void (*meanwhile)(struct world *w); /* once, while the line is being set */
};

static void drive(struct world *w)
{
    pthread_mutex_lock(&w->lock);
    while (dp_edge_line_drive(&w->line, &w->lock, w->level))
        ;
    pthread_mutex_unlock(&w->lock);
}

static void change(struct world *w, bool level)
{
    pthread_mutex_lock(&w->lock);
    w->level = level;
    dp_edge_line_note(&w->line, level);
    pthread_mutex_unlock(&w->lock);
}

static void set_line(void *opaque, unsigned n, bool level)
{
    struct world *w = opaque;
    assert_int_equal(n, 7);
    assert_int_equal(pthread_mutex_trylock(&w->lock), 0); /* nobody holds it while calling out */
    pthread_mutex_unlock(&w->lock);
    assert_true(w->count < sizeof(w->seen) - 1);
    w->seen[w->count++] = level ? '1' : '0';
    void (*meanwhile)(struct world *) = w->meanwhile;
    w->meanwhile = NULL;
    if (meanwhile)
        meanwhile(w);
}

static struct world begin(void)
{
    struct world w = {.lock = PTHREAD_MUTEX_INITIALIZER};
    dp_edge_line_forget(&w.line);
    return w;
}
#define WIRE(w) ((w)->line.irq = (struct dp_irq){set_line, (w), 7})

static void test_levels(void **state)
{
    struct world w = begin();
    WIRE(&w);
    drive(&w); /* unknown: it is said */
    drive(&w);
    change(&w, true);
    drive(&w);
    drive(&w);
    change(&w, false);
    drive(&w);
    assert_string_equal(w.seen, "010");
}

static void test_short_fall(void **state)
{
    struct world w = begin();
    WIRE(&w);
    change(&w, true);
    drive(&w);
    change(&w, false);
    change(&w, true);
    drive(&w);
    assert_string_equal(w.seen, "101");
    change(&w, false); /* twice in a row is one */
    change(&w, true);
    change(&w, false);
    change(&w, true);
    drive(&w);
    assert_string_equal(w.seen, "10101");
    change(&w, false);
    drive(&w);
    change(&w, true); /* a rise too short to be driven is none */
    change(&w, false);
    drive(&w);
    assert_string_equal(w.seen, "101010");
}

static void test_forgotten(void **state)
{
    struct world w = begin();
    WIRE(&w);
    change(&w, true);
    change(&w, false);
    change(&w, true);
    dp_edge_line_forget(&w.line); /* registers of a save: no edge that was not there */
    drive(&w);
    assert_string_equal(w.seen, "1");
    dp_edge_line_forget(&w.line);
    drive(&w);
    assert_string_equal(w.seen, "11");
}

static void blink(struct world *w)
{
    change(w, false);
    change(w, true);
    drive(w); /* leaves it to who is driving */
}

static void fall(struct world *w)
{
    change(w, false);
    drive(w);
}

static void test_meanwhile(void **state)
{
    struct world w = begin();
    WIRE(&w);
    w.meanwhile = blink;
    change(&w, true);
    drive(&w);
    assert_string_equal(w.seen, "101");
    w.meanwhile = fall;
    change(&w, false);
    change(&w, true);
    drive(&w);
    assert_string_equal(w.seen, "1010");
    assert_false(w.line.busy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_levels), cmocka_unit_test(test_short_fall), cmocka_unit_test(test_forgotten),
                                       cmocka_unit_test(test_meanwhile)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
