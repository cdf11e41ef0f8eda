/* test_display.c - pictures and PNG files, characters, names of keys, the typist, the words of --display. */
#include "tests/unit/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/input-event-codes.h>
#include <png.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "display/options.h"
#include "display/typist.h"
#include "display/vnc.h"
#include "tests/display/fake.h"

static void pictures(void **state)
{
    struct dp_display_picture p = {0};
    struct dp_error e = {0};
    assert_ok(dp_display_picture_resize(&p, 640, 480, &e), e);
    assert_int_equal(p.capacity, 640 * 480);
    uint32_t *first = p.pixels;
    assert_ok(dp_display_picture_resize(&p, 320, 200, &e), e);
    assert_ptr_equal(p.pixels, first); /* room is kept */
    assert_int_equal(dp_display_picture_resize(&p, 4097, 1, &e), -EINVAL);
    assert_int_equal(dp_display_picture_resize(&p, UINT32_MAX, UINT32_MAX, &e), -EINVAL);
    assert_int_equal(p.width, 320); /* a refused size changes nothing */
    assert_ok(dp_display_picture_resize(&p, 0, 7, &e), e);
    assert_int_equal(p.width + p.height, 0);
    assert_ok(dp_display_picture_resize(&p, 4096, 4096, &e), e);
    dp_display_picture_fini(&p);
    assert_null(p.pixels);
}

static unsigned files_in(const char *folder)
{
    unsigned count = 0;
    DIR *d = opendir(folder);
    for (struct dirent *entry; (entry = readdir(d));)
        count += entry->d_name[0] != '.';
    closedir(d);
    return count;
}

static void png(void **state)
{
    char folder[] = "/tmp/dp-display-XXXXXX", path[64];
    struct fake f = {0};
    struct dp_random r;
    struct dp_error e = {0};
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a.png", folder);
    dp_random_seed(&r, 1);
    for (unsigned round = 0; round < 2; round++) { /* the second replaces the first */
        assert_int_equal(fake_draw(&f, 211 + round, 97, 1000, &r), 0);
        assert_ok(dp_display_write_png(&f.picture, path, &e), e);
        png_image image = {.version = PNG_IMAGE_VERSION};
        assert_true(png_image_begin_read_from_file(&image, path));
        image.format = PNG_FORMAT_BGRA;
        uint32_t *pixels = malloc(PNG_IMAGE_SIZE(image));
        assert_true(png_image_finish_read(&image, NULL, pixels, 0, NULL));
        assert_int_equal(image.width, 211 + round);
        assert_int_equal(image.height, 97);
        for (unsigned i = 0; i < image.width * image.height; i++)
            assert_int_equal(pixels[i], f.picture.pixels[i] | 0xff000000);
        free(pixels);
        assert_int_equal(files_in(folder), 1); /* no temporary file is left */
    }

    struct stat st;
    mode_t mask = umask(027);
    unlink(path);
    assert_ok(dp_display_write_png(&f.picture, path, &e), e);
    umask(mask);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);

    /* No place for it: the old one stays, nothing is left. */
    struct rlimit limit, small = {.rlim_cur = 5000};
    getrlimit(RLIMIT_FSIZE, &limit);
    small.rlim_max = limit.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    off_t size = st.st_size;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(dp_display_write_png(&f.picture, path, &e), -EFBIG);
    setrlimit(RLIMIT_FSIZE, &limit);
    assert_non_null(strstr(e.text, path));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, size);
    assert_int_equal(files_in(folder), 1);

    assert_int_equal(dp_display_write_png(&f.picture, "/nonexistent/x.png", &e), -ENOENT);
    assert_non_null(strstr(e.text, "/nonexistent/x.png: No such file"));
    assert_int_equal(dp_display_write_png(&f.picture, folder, &e), -EISDIR);
    assert_int_equal(files_in(folder), 1);
    fake_draw(&f, 0, 0, 0, &r);
    assert_int_equal(dp_display_write_png(&f.picture, path, &e), -ENODATA);
    unlink(path);
    assert_int_equal(rmdir(folder), 0);
    dp_display_picture_fini(&f.picture);
}

static void characters(void **state)
{
    assert_string_equal(dp_display_cp437('A'), "A");
    assert_string_equal(dp_display_cp437(0), " ");
    assert_string_equal(dp_display_cp437(1), "\u263a");
    assert_string_equal(dp_display_cp437(0x7f), "\u2302");
    assert_string_equal(dp_display_cp437(0x81), "\u00fc");
    assert_string_equal(dp_display_cp437(0xb3), "\u2502");
    assert_string_equal(dp_display_cp437(0xc9), "\u2554");
    assert_string_equal(dp_display_cp437(0xdb), "\u2588");
    assert_string_equal(dp_display_cp437(0xe1), "\u00df");
    assert_string_equal(dp_display_cp437(0xff), " ");
    for (unsigned i = 0; i < 256; i++) /* one character each, none that moves a cursor */
        assert_true((uint8_t)*dp_display_cp437((uint8_t)i) >= 32 && strlen(dp_display_cp437((uint8_t)i)) <= 3);
}

static void names(void **state)
{
    unsigned code[4];
    assert_int_equal(dp_input_key_by_name("a"), KEY_A);
    assert_int_equal(dp_input_key_by_name("A"), KEY_A);
    assert_int_equal(dp_input_key_by_name("ret"), KEY_ENTER);
    assert_int_equal(dp_input_key_by_name("kp_enter"), KEY_KPENTER);
    assert_int_equal(dp_input_key_by_name("F12"), KEY_F12);
    assert_int_equal(dp_input_key_by_name("/"), KEY_SLASH);
    assert_int_equal(dp_input_key_by_name("!"), 0); /* a character of a key, no key */
    assert_int_equal(dp_input_key_by_name(""), 0);
    assert_int_equal(dp_input_key_by_name("f13x"), 0);
    assert_int_equal(dp_input_keys_by_names("ctrl-alt-del", code, 4), 3);
    assert_int_equal(code[0], KEY_LEFTCTRL);
    assert_int_equal(code[1], KEY_LEFTALT);
    assert_int_equal(code[2], KEY_DELETE);
    assert_int_equal(dp_input_keys_by_names("ctrl--", code, 4), 2);
    assert_int_equal(code[1], KEY_MINUS);
    assert_int_equal(dp_input_keys_by_names("-", code, 4), 1);
    assert_int_equal(dp_input_keys_by_names("ctrl-", code, 4), 0);
    assert_int_equal(dp_input_keys_by_names("ctrl-nix", code, 4), 0);
    assert_int_equal(dp_input_keys_by_names("", code, 4), 0);
    assert_int_equal(dp_input_keys_by_names("a-b-c-d-e", code, 4), 0);

    static const char plain[] = "`1234567890-=[]\\;',./ abcdefghijklmnopqrstuvwxyz", shifted[] = "~!@#$%^&*()_+{}|:\"<>? ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for (unsigned i = 0; plain[i]; i++) {
        bool shift;
        unsigned key = dp_input_key_of_character(plain[i], &shift);
        assert_true(key && !shift);
        assert_int_equal(dp_input_key_of_character(shifted[i], &shift), key);
        assert_int_equal(shift, shifted[i] != ' ');
    }
    bool shift;
    assert_int_equal(dp_input_key_of_character('\n', &shift), KEY_ENTER);
    assert_int_equal(dp_input_key_of_character('\t', &shift), KEY_TAB);
    assert_int_equal(dp_input_key_of_character(1, &shift), 0);
    assert_int_equal(dp_input_key_of_character((char)0xe4, &shift), 0);
}

static void typist(void **state)
{
    struct fake f = {0};
    struct dp_loop *loop;
    struct dp_typist t;
    struct dp_error e = {0};
    struct dp_input_sink sink = fake_sink(&f, false);
    assert_ok(dp_loop_create(&loop, &e), e);
    assert_ok(dp_typist_init(&t, loop, &sink, &e), e);
    assert_true(dp_typist_stroke(&t, (unsigned[]){KEY_LEFTCTRL, KEY_LEFTALT, KEY_DELETE}, 3));
    assert_string_equal(f.events, "+29 +56 "); /* at once; the rest in its time */
    assert_int_equal(dp_typist_pending(&t), 4);
    for (unsigned i = 0; i < 200 && dp_typist_pending(&t); i++)
        dp_loop_poll(loop, 10);
    assert_string_equal(f.events, "+29 +56 +111 -111 -56 -29 ");
    memset(&f, 0, sizeof f);
    assert_ok(dp_typist_text(&t, "aB\n", 3, &e), e);
    assert_true(f.size < 20); /* the pause after the last stroke is kept, or its first events are out: never all */
    for (unsigned i = 0; i < 200 && dp_typist_pending(&t); i++)
        dp_loop_poll(loop, 10);
    assert_string_equal(f.events, "+30 -30 +42 +48 -48 -42 +28 -28 ");

    /* All or nothing. */
    memset(&f, 0, sizeof f);
    assert_int_equal(dp_typist_text(&t, "ab\xc3\xa4", 4, &e), -EILSEQ);
    assert_non_null(strstr(e.text, "byte 2"));
    char *text = malloc(DP_TYPIST_EVENTS_MAX);
    memset(text, 'a', DP_TYPIST_EVENTS_MAX);
    assert_int_equal(dp_typist_text(&t, text, DP_TYPIST_EVENTS_MAX, &e), -EMSGSIZE);
    assert_int_equal(f.size, 0);
    assert_ok(dp_typist_text(&t, text, DP_TYPIST_EVENTS_MAX / 2, &e), e);
    assert_int_equal(dp_typist_text(&t, text, DP_TYPIST_EVENTS_MAX / 2, &e), -EAGAIN);
    assert_false(dp_typist_stroke(&t, (unsigned[]){1, 2, 3, 4, 5, 6, 7, 8}, 8));
    assert_false(dp_typist_stroke(&t, (unsigned[]){1, 2, 3, 4, 5, 6, 7, 8, 9}, 9));
    free(text);
    dp_typist_fini(&t);

    /* Whoever ends in the middle of a stroke lets its keys go. */
    memset(&f, 0, sizeof f);
    assert_ok(dp_typist_init(&t, loop, &sink, &e), e);
    assert_true(dp_typist_stroke(&t, (unsigned[]){KEY_LEFTSHIFT, KEY_LEFTALT, KEY_A}, 3));
    assert_true(dp_typist_stroke(&t, (unsigned[]){KEY_B}, 1));
    dp_typist_fini(&t);
    assert_string_equal(f.events, "+42 +56 -56 -42 ");
    dp_loop_destroy(loop);
}

static void words(void **state)
{
    static const struct { const char *text; enum dp_display_kind kind; const char *path, *address, *password; } good[] = {
        {"none", DP_DISPLAY_NONE, "", "", ""},
        {"text", DP_DISPLAY_TEXT, "", "", ""},
        {"vnc", DP_DISPLAY_VNC, "", "", ""},
        {"vnc=unix:/tmp/x", DP_DISPLAY_VNC, "/tmp/x", "", ""},
        {"vnc=127.0.0.1:5900", DP_DISPLAY_VNC, "", "127.0.0.1:5900", ""},
        {"vnc=[::1]:1,password-file=a,b", DP_DISPLAY_VNC, "", "[::1]:1", "a,b"},
        {"vnc,password-file=p", DP_DISPLAY_VNC, "", "", "p"},
    };
    static const char *const bad[] = {"", "vn", "vncx", "curses", "none ", "vnc=", "vnc=5900", "vnc=unix:", "vnc=a:1,", "vnc=a:1,tls", "vnc=a:1,password-file="};
    struct dp_display_options o;
    struct dp_error e = {0};
    for (unsigned i = 0; i < DP_ARRAY_LEN(good); i++) {
        assert_ok(dp_display_parse(good[i].text, &o, &e), e);
        assert_int_equal(o.kind, good[i].kind);
        assert_string_equal(o.path, good[i].path);
        assert_string_equal(o.address, good[i].address);
        assert_string_equal(o.password_file, good[i].password);
    }
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++) {
        e.text[0] = 0;
        if (!dp_display_parse(bad[i], &o, &e))
            fail_msg("'%s' was taken", bad[i]);
        assert_non_null(strstr(e.text, "--display"));
    }
    char longer[400] = "vnc=unix:/";
    memset(longer + strlen(longer), 'x', 200);
    assert_int_equal(dp_display_parse(longer, &o, &e), -ENAMETOOLONG);
}

/* From the words to a server. */
static void opening(void **state)
{
    char folder[] = "/tmp/dp-display-XXXXXX", path[64], password[64], text[200];
    struct fake f = {0};
    struct dp_display_source source = fake_source(&f);
    struct dp_input_sink sink = fake_sink(&f, false);
    struct dp_display_options o;
    struct dp_display_viewer viewer;
    struct dp_error e = {0};
    struct dp_loop *loop;
    struct stat st;
    assert_ok(dp_loop_create(&loop, &e), e);
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/vnc", folder);
    snprintf(password, sizeof password, "%s/password", folder);
    snprintf(text, sizeof text, "vnc=127.0.0.1:0,password-file=%s", password);

    assert_ok(dp_display_parse("none", &o, &e), e);
    assert_ok(dp_display_open(&viewer, &o, loop, NULL, NULL, NULL, &source, &sink, &e), e);
    dp_display_close(&viewer);
    assert_ok(dp_display_parse("vnc", &o, &e), e);
    assert_int_equal(dp_display_open(&viewer, &o, loop, NULL, NULL, NULL, &source, &sink, &e), -EINVAL);
    assert_non_null(strstr(e.text, "--name NAME"));
    assert_ok(dp_display_open(&viewer, &o, loop, NULL, path, "x", &source, &sink, &e), e);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    dp_display_describe(&viewer, text + 100, 90);
    assert_non_null(strstr(text + 100, path));
    dp_display_close(&viewer);
    assert_int_equal(stat(path, &st), -1);
    dp_display_close(&viewer);

    assert_ok(dp_display_parse("text", &o, &e), e);
    assert_int_equal(dp_display_open(&viewer, &o, loop, NULL, NULL, NULL, &source, &sink, &e), -ENOTTY);

    text[100] = 0;
    assert_ok(dp_display_parse(text, &o, &e), e);
    assert_int_equal(dp_display_open(&viewer, &o, loop, NULL, NULL, NULL, &source, &sink, &e), -ENOENT);
    static const char *const bad[] = {"", "\n", "123456789\n"};
    for (unsigned i = 0; i < 4; i++) {
        int fd = open(password, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        const char *word = i < 3 ? bad[i] : "12345678\nmore\n";
        assert_int_equal(write(fd, word, strlen(word)), strlen(word));
        close(fd);
        if (i < 3) {
            assert_int_equal(dp_display_open(&viewer, &o, loop, NULL, NULL, NULL, &source, &sink, &e), -EINVAL);
            assert_non_null(strstr(e.text, "1 to 8 characters"));
        }
    }
    assert_ok(dp_display_open(&viewer, &o, loop, NULL, NULL, NULL, &source, &sink, &e), e);
    dp_display_close(&viewer);
    unlink(password);
    assert_int_equal(rmdir(folder), 0);
    dp_loop_destroy(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pictures), cmocka_unit_test(png),   cmocka_unit_test(characters), cmocka_unit_test(names),
        cmocka_unit_test(typist),   cmocka_unit_test(words), cmocka_unit_test(opening),
    };
    return cmocka_run_group_tests_name("display", tests, NULL, NULL);
}
