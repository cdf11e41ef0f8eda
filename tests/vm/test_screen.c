/* test_screen.c DOPPEL - screenshot, type and key: the command, the control socket and a VM whose screen and keyboard are made up. */
#include "tests/unit/test.h"

#include <linux/input-event-codes.h>
#include <png.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/display/fake.h"
#include "tests/vm/cli.h"
#include "vm/control.h"
#include "control/rundir.h"
#include "vm/vm.h"

static const char *doppel; /* set by main */

struct world {
    struct dp_loop *loop;
    struct dp_vm *vm;
    struct dp_control *control;
    struct dp_rundir rundir;
    struct fake f;
    struct dp_error e;
    char folder[64], said[CLI_SAID];
};

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    char path[DP_RUNDIR_PATH_MAX];
    strcpy(w->folder, "/tmp/dp-screen-XXXXXX");
    assert_non_null(mkdtemp(w->folder));
    setenv("XDG_RUNTIME_DIR", w->folder, 1);
    assert_ok(dp_loop_create(&w->loop, &w->e), w->e);
    struct dp_vm_config c = {.memory = DP_VM_MEMORY_MIN, .engine = "null", .no_rng = true, .loop = w->loop};
    assert_ok(dp_vm_create(&c, &w->vm, &w->e), w->e);
    assert_false(dp_vm_screen(w->vm)->present);
    dp_vm_set_screen(w->vm, &(struct dp_vm_screen){true, fake_source(&w->f), fake_sink(&w->f, false)});
    assert_ok(dp_rundir_claim("box", &w->rundir, &w->e), w->e);
    assert_ok(dp_rundir_socket("box", path, sizeof path, &w->e), w->e);
    assert_ok(dp_control_create(w->loop, w->vm, "box", &w->control, &w->e), w->e);
    assert_ok(dp_control_listen(w->control, path, &w->e), w->e);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    char path[128];
    dp_control_destroy(w->control);
    dp_vm_destroy(w->vm);
    dp_loop_destroy(w->loop);
    dp_rundir_release(&w->rundir);
    dp_display_picture_fini(&w->f.picture);
    snprintf(path, sizeof path, "%s/doppel", w->folder);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(w->folder), 0);
    free(w);
    return 0;
}

/* Runs the command with the loop going on; its status. What it says is in w->said. */
static int command(struct world *w, const char *verb, const char *a, const char *b, const char *c)
{
    return cli_run_in(w->loop, doppel, w->folder, w->said, (const char *const[]){verb, a, b, c, NULL});
}

static void expect_events(struct world *w, const char *events)
{
    assert_string_equal(w->f.events, events);
    w->f.size = 0;
    w->f.events[0] = 0;
}

static void screenshot(void **state)
{
    struct world *w = *state;
    struct dp_random r;
    char path[128];
    dp_random_seed(&r, 1);
    fake_draw(&w->f, 300, 200, 1000, &r);
    assert_int_equal(command(w, "screenshot", "box", "a picture.png", NULL), 0); /* relative to where the command runs */
    assert_string_equal(w->said, "");
    snprintf(path, sizeof path, "%s/a picture.png", w->folder);
    png_image image = {.version = PNG_IMAGE_VERSION};
    assert_true(png_image_begin_read_from_file(&image, path));
    image.format = PNG_FORMAT_BGRA;
    uint32_t *pixels = malloc(PNG_IMAGE_SIZE(image));
    assert_true(png_image_finish_read(&image, NULL, pixels, 0, NULL));
    assert_int_equal(image.width, 300);
    for (unsigned i = 0; i < 300 * 200; i++)
        assert_int_equal(pixels[i], w->f.picture.pixels[i] | 0xff000000);
    free(pixels);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(command(w, "screenshot", "box", path, NULL), 0);
    assert_int_equal(unlink(path), 0);

    assert_int_equal(command(w, "screenshot", "box", "no/where.png", NULL), 125);
    assert_non_null(strstr(w->said, "no/where.png: No such file"));
    w->f.fails = EIO;
    assert_int_equal(command(w, "screenshot", "box", path, NULL), 125);
    assert_non_null(strstr(w->said, "the screen is broken"));
    w->f.fails = 0;
    fake_draw(&w->f, 0, 0, 0, &r);
    assert_int_equal(command(w, "screenshot", "box", path, NULL), 125);
    assert_non_null(strstr(w->said, "blank"));
    assert_int_equal(command(w, "screenshot", "bix", path, NULL), 125);
    assert_non_null(strstr(w->said, "did you mean box?"));
}

static void type(void **state)
{
    struct world *w = *state;
    assert_int_equal(command(w, "type", "box", "dir C:\\n", NULL), 0);
    expect_events(w, "+32 -32 +23 -23 +19 -19 +57 -57 +42 +46 -46 -42 +42 +39 -39 -42 +28 -28 "); /* all of it, when the command returns */
    assert_int_equal(command(w, "type", "--raw", "box", "\\n"), 0);
    expect_events(w, "+43 -43 +49 -49 ");
    assert_int_equal(command(w, "type", "box", "\\\\n\\t\\d", NULL), 0);
    expect_events(w, "+43 -43 +49 -49 +15 -15 +43 -43 +32 -32 ");
    assert_int_equal(command(w, "type", "box", "--", "-x"), 0);
    expect_events(w, "+12 -12 +45 -45 ");
    assert_int_equal(command(w, "type", "box", "", NULL), 0);
    assert_int_equal(command(w, "type", "box", "a\xc3\xa4", NULL), 125);
    assert_non_null(strstr(w->said, "byte 1 (0xc3)"));
    expect_events(w, "");
    char text[252]; /* longer than a piece */
    memset(text, 'a', 250);
    memcpy(text + 250, "b", 2);
    assert_int_equal(command(w, "type", "box", text, NULL), 0);
    assert_int_equal(w->f.size, 251 * 8);
    assert_string_equal(w->f.events + 250 * 8, "+48 -48 ");
    w->f.size = 0;
}

static void key(void **state)
{
    struct world *w = *state;
    assert_int_equal(command(w, "key", "box", "ctrl-alt-del", NULL), 0);
    expect_events(w, "+29 +56 +111 -111 -56 -29 ");
    assert_int_equal(command(w, "key", "box", "F10", NULL), 0);
    expect_events(w, "+68 -68 ");
    assert_int_equal(command(w, "key", "box", "ctrl-nonsense", NULL), 125);
    assert_non_null(strstr(w->said, "'ctrl-nonsense'"));
    assert_int_equal(command(w, "key", "box", "a-b-c-d-e-f-g-h-i", NULL), 125);
    assert_non_null(strstr(w->said, "up to 8"));
    expect_events(w, "");
}

/* A socket that is closed in the middle of typing leaves no key down. */
static void ended(void **state)
{
    struct world *w = *state;
    pid_t pid = fork();
    if (!pid) {
        execl(doppel, "doppel", "key", "box", "shift-alt-f1", NULL);
        _exit(99);
    }
    for (unsigned i = 0; i < 2000 && !w->f.size; i++)
        dp_loop_poll(w->loop, 1);
    dp_control_destroy(w->control);
    w->control = NULL;
    assert_string_equal(w->f.events, "+42 +56 -56 -42 ");
    waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(screenshot, setup, teardown), cmocka_unit_test_setup_teardown(type, setup, teardown),
        cmocka_unit_test_setup_teardown(key, setup, teardown), cmocka_unit_test_setup_teardown(ended, setup, teardown),
    };
    doppel = argc > 1 ? realpath(argv[1], NULL) : NULL;
    int rc = doppel ? cmocka_run_group_tests_name("screen", tests, NULL, NULL) : 2;
    free((char *)doppel);
    return rc;
}
