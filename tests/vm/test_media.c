/* test_media.c DOPPEL - changing media: the command, the control socket and a VM with firmware's board, no processor. What drives tell the guest about it is in
 * tests/device/test_ide.c and test_fdc.c; a guest that notices is tests/guest/freedos.
 */
#include "tests/unit/test.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "block/block.h"
#include "tests/vm/cli.h"
#include "vm/control.h"
#include "control/rundir.h"
#include "vm/vm.h"

static const char *doppel; /* set by main */
enum { CD_SIZE = 40 * 2048, FLOPPY_SIZE = 1474560 };
static const char *const files[] = {"bios", "a.iso", "b.iso", "a.img", "b.img", "large.img"};

struct world {
    struct dp_loop *loop;
    struct dp_vm *vm;
    struct dp_control *control;
    struct dp_rundir rundir;
    struct dp_error e;
    char folder[64], path[DP_ARRAY_LEN(files)][128], said[CLI_SAID];
};
enum { BIOS, A_ISO, B_ISO, A_IMG, B_IMG, LARGE };

static int setup_with(void **state, bool firmware)
{
    static const off_t sizes[] = {65536, CD_SIZE, CD_SIZE, FLOPPY_SIZE, FLOPPY_SIZE / 2, 5 << 20};
    struct world *w = calloc(1, sizeof *w);
    char socket[DP_RUNDIR_PATH_MAX];
    strcpy(w->folder, "/tmp/dp-media-XXXXXX");
    assert_non_null(mkdtemp(w->folder));
    setenv("XDG_RUNTIME_DIR", w->folder, 1);
    for (unsigned i = 0; i < DP_ARRAY_LEN(files); i++) {
        snprintf(w->path[i], sizeof w->path[i], "%s/%s", w->folder, files[i]);
        int fd = open(w->path[i], O_CREAT | O_RDWR | O_CLOEXEC, 0600);
        assert_true(fd >= 0 && !ftruncate(fd, sizes[i]));
        close(fd);
    }
    assert_ok(dp_loop_create(&w->loop, &w->e), w->e);
    struct dp_vm_config c = {.memory = 16u << 20, .engine = "null", .no_rng = true, .loop = w->loop};
    if (firmware) {
        c.firmware = w->path[BIOS];
        c.disk[0] = (struct dp_vm_disk){.path = w->path[LARGE], .bus = DP_VM_IDE};
        c.disk[1] = (struct dp_vm_disk){.bus = DP_VM_FLOPPY};
        c.disk[2] = (struct dp_vm_disk){.path = w->path[A_ISO], .bus = DP_VM_CDROM, .readonly = true};
        c.disk[3] = (struct dp_vm_disk){.bus = DP_VM_CDROM, .readonly = true};
        c.disk_count = 4;
    }
    assert_ok(dp_vm_create(&c, &w->vm, &w->e), w->e);
    assert_ok(dp_rundir_claim("box", &w->rundir, &w->e), w->e);
    assert_ok(dp_rundir_socket("box", socket, sizeof socket, &w->e), w->e);
    assert_ok(dp_control_create(w->loop, w->vm, "box", &w->control, &w->e), w->e);
    assert_ok(dp_control_listen(w->control, socket, &w->e), w->e);
    *state = w;
    return 0;
}

static int setup(void **state) { return setup_with(state, true); }
static int setup_bare(void **state) { return setup_with(state, false); }

static int teardown(void **state)
{
    struct world *w = *state;
    char path[128];
    dp_control_destroy(w->control);
    dp_vm_destroy(w->vm);
    dp_loop_destroy(w->loop);
    dp_rundir_release(&w->rundir);
    for (unsigned i = 0; i < DP_ARRAY_LEN(files); i++)
        unlink(w->path[i]);
    snprintf(path, sizeof path, "%s/doppel", w->folder);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(w->folder), 0);
    free(w);
    return 0;
}

static int media(struct world *w, const char *a, const char *b, const char *c)
{
    return cli_run_in(w->loop, doppel, w->folder, w->said, (const char *const[]){"media", "box", a, b, c, NULL});
}

static void expect_media(struct world *w, const char *floppy0, const char *cdrom0, const char *cdrom1)
{
    char want[600];
    snprintf(want, sizeof want, "floppy0  %s\ncdrom0   %s\ncdrom1   %s\n", floppy0, cdrom0, cdrom1);
    assert_int_equal(media(w, NULL, NULL, NULL), 0);
    assert_string_equal(w->said, want);
}

/* Somebody else may write to the file, now. */
static bool is_free(const char *path)
{
    struct dp_block *b;
    struct dp_error e;
    if (dp_block_open(NULL, &(struct dp_block_options){.path = path}, &b, &e))
        return false;
    dp_block_close(b);
    return true;
}

static void test_change(void **state)
{
    struct world *w = *state;
    char a_iso[160], a_img[160];
    snprintf(a_iso, sizeof a_iso, "%s (read-only)", w->path[A_ISO]);
    snprintf(a_img, sizeof a_img, "%s (read-only)", w->path[A_IMG]);
    expect_media(w, "empty", a_iso, "empty");
    assert_false(is_free(w->path[A_ISO]));
    assert_int_equal(media(w, "cdrom0", "eject", NULL), 0);
    assert_string_equal(w->said, "");
    expect_media(w, "empty", "empty", "empty");
    assert_true(is_free(w->path[A_ISO]));
    assert_int_equal(media(w, "cdrom1", "a.iso", NULL), 0); /* relative to where the command runs */
    expect_media(w, "empty", "empty", a_iso);
    assert_int_equal(media(w, "floppy0", w->path[A_IMG], NULL), 0);
    expect_media(w, w->path[A_IMG], "empty", a_iso);
    assert_false(is_free(w->path[A_IMG]));
    assert_int_equal(media(w, "floppy0", w->path[B_IMG], NULL), 0); /* 720K fits, too; straight into the place of the other */
    expect_media(w, w->path[B_IMG], "empty", a_iso);
    assert_true(is_free(w->path[A_IMG]));
    assert_int_equal(media(w, "floppy0", "a.img", "--ro"), 0);
    expect_media(w, a_img, "empty", a_iso);
    assert_int_equal(media(w, "floppy0", "eject", NULL), 0);
    assert_int_equal(media(w, "floppy0", "eject", NULL), 0);
    expect_media(w, "empty", "empty", a_iso);
}

static void expect_refusal(struct world *w, const char *drive, const char *file, const char *words)
{
    assert_int_equal(media(w, drive, file, NULL), 125);
    if (!strstr(w->said, words))
        fail_msg("no '%s' in: %s", words, w->said);
    assert_ptr_equal(strchr(w->said, '\n'), w->said + strlen(w->said) - 1);
}

static void test_refusals(void **state)
{
    struct world *w = *state;
    char a_iso[160];
    snprintf(a_iso, sizeof a_iso, "%s (read-only)", w->path[A_ISO]);
    assert_int_equal(media(w, "floppy0", "a.img", NULL), 0);
    expect_refusal(w, "floppy0", "no.img", "No such file");
    expect_refusal(w, "floppy0", w->path[LARGE], "in use"); /* it is the disk */
    expect_refusal(w, "floppy1", "b.img", "no drive 'floppy1': there are floppy0, cdrom0, cdrom1");
    expect_refusal(w, "disk0", "eject", "no drive 'disk0'");
    expect_refusal(w, "cdrom", "eject", "no drive 'cdrom'");
    expect_refusal(w, "cdrom00", "eject", "no drive 'cdrom00'");
    expect_refusal(w, "cdrom0", w->folder, w->folder);
    expect_media(w, w->path[A_IMG], a_iso, "empty");
}

static void test_no_drives(void **state)
{
    struct world *w = *state;
    assert_int_equal(media(w, NULL, NULL, NULL), 0);
    assert_string_equal(w->said, "");
    expect_refusal(w, "cdrom0", "a.iso", "no drive 'cdrom0', nor any whose medium can be changed");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_change, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_drives, setup_bare, teardown),
    };
    doppel = argc > 1 ? realpath(argv[1], NULL) : NULL;
    int rc = doppel ? cmocka_run_group_tests_name("media", tests, NULL, NULL) : 2;
    free((char *)doppel);
    return rc;
}
