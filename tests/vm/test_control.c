/* test_control.c - the control socket: what it answers, and what it does with clients that are slow, many, or talk rubbish; folders of
 * named VMs; counters read while processors run. */
#include <dirent.h>
#include <fcntl.h>
#include <json.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "event/event.h"
#include "tests/unit/test.h"
#include "tests/vm/images.h"
#include "vm/control.h"
#include "control/rundir.h"
#include "vm/vm.h"

struct world {
    struct dp_loop *loop;
    struct dp_vm *vm;
    struct dp_control *control;
    struct dp_error e;
    char kernel[64], runtime[64];
    struct dp_buffer got; /* what reply() received beyond a line */
};

static struct dp_vm *make_vm(struct world *w, const char *engine, unsigned cpus)
{
    struct dp_vm_config c = {.memory = 16 << 20, .cpus = cpus, .engine = engine, .kernel = w->kernel, .loop = w->loop};
    struct dp_vm *vm;
    assert_ok(dp_vm_create(&c, &vm, &w->e), w->e);
    return vm;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct image i = image_multiboot_flat();
    strcpy(w->kernel, "/tmp/doppel-control-XXXXXX");
    int fd = mkstemp(w->kernel);
    assert_int_equal(write(fd, i.data, i.size), i.size);
    close(fd);
    free(i.data);
    strcpy(w->runtime, "/tmp/doppel-run-XXXXXX");
    assert_non_null(mkdtemp(w->runtime));
    setenv("XDG_RUNTIME_DIR", w->runtime, 1);
    assert_ok(dp_loop_create(&w->loop, &w->e), w->e);
    w->vm = make_vm(w, "null", 3);
    assert_ok(dp_control_create(w->loop, w->vm, "test", &w->control, &w->e), w->e);
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
    dp_buffer_fini(&w->got);
    unlink(w->kernel);
    snprintf(path, sizeof path, "%s/doppel", w->runtime);
    assert_true(!rmdir(path) || errno == ENOENT);
    assert_int_equal(rmdir(w->runtime), 0); /* nothing was left behind */
    free(w);
    return 0;
}

static int client(struct world *w)
{
    int end[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, end), 0);
    assert_ok(dp_control_adopt(w->control, end[1], &w->e), w->e);
    return end[0];
}

static void put(int fd, const char *text) { assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text)); }

/* The next line from fd, without its end; NULL at the end of the connection. The caller frees it. */
static char *reply(struct world *w, int fd)
{
    for (int i = 0; i < 5000; i++) {
        char part[4096], *end = w->got.size ? memchr(w->got.data, '\n', w->got.size) : NULL;
        if (end) {
            char *line = strndup((char *)w->got.data, (size_t)(end - (char *)w->got.data));
            w->got.size -= (size_t)(end + 1 - (char *)w->got.data);
            memmove(w->got.data, end + 1, w->got.size);
            return line;
        }
        dp_loop_poll(w->loop, 1);
        ssize_t n = recv(fd, part, sizeof part, MSG_DONTWAIT);
        if (!n) {
            assert_int_equal(w->got.size, 0);
            return NULL;
        }
        if (n > 0)
            dp_buffer_append(&w->got, part, (size_t)n);
    }
    fail_msg("no reply");
    return NULL;
}

static void expect(struct world *w, int fd, const char *words)
{
    char *line = reply(w, fd);
    assert_non_null(line);
    if (!strstr(line, words))
        fail_msg("'%s' does not say '%s'", line, words);
    struct json_object *o = json_tokener_parse(line); /* whatever it says, it is JSON */
    assert_true(json_object_is_type(o, json_type_object));
    json_object_put(o);
    free(line);
}

static void expect_end(struct world *w, int fd)
{
    char *line = reply(w, fd);
    if (line)
        fail_msg("connection still there: %s", line);
    close(fd);
}

static void settle(struct world *w)
{
    for (int i = 0; i < 20; i++)
        dp_loop_poll(w->loop, 1);
}

static void commands(void **state)
{
    struct world *w = *state;
    int fd = client(w);
    put(fd, "{\"command\":\"query-status\"}\n");
    expect(w, fd, "\"phase\":\"new\",");
    put(fd, "{\"command\":\"query-status\",\"id\":7}\n");
    expect(w, fd, "{\"id\":7,\"result\":{\"name\":\"test\",");
    put(fd, " { \"id\" : \"a\\\"b\", \"command\" : \"help\" } \t\r\n");
    expect(w, fd, "{\"id\":\"a\\\"b\",\"result\":{\"help\":\"");
    put(fd, "\n \r\n{\"command\":\"stats\"}\n");
    char *line = reply(w, fd);
    struct json_object *root = json_tokener_parse(line), *o = json_object_object_get(root, "result"),
                       *cpus = json_object_object_get(o, "cpus");
    assert_int_equal(json_object_array_length(cpus), 3);
    struct json_object *counters = json_object_object_get(json_object_object_get(o, "total"), "counters");
    assert_int_equal(json_object_object_length(counters), DP_ENGINE_COUNTER_COUNT);
    assert_true(json_object_object_get_ex(counters, "table_misses", NULL));
    json_object_put(root);
    free(line);
    /* Each command of the table is in the help and can be called. */
    const struct dp_control_command *c;
    for (unsigned i = 0; (c = dp_control_command(i)); i++) {
        char text[100];
        put(fd, "{\"command\":\"help\"}\n");
        snprintf(text, sizeof text, "\"%s\":\"%s\"", c->name, c->help);
        expect(w, fd, text);
        snprintf(text, sizeof text, "{\"command\":\"%s\"}\n", c->name);
        put(fd, text);
        expect(w, fd, c->argument[c->optional] ? "{\"error\":\"" : "{\"result\":{"); /* those with an argument: test_screen.c */
    }
    settle(w);
    assert_int_equal(dp_vm_phase(w->vm), DP_VM_STOPPED); /* by quit, one of them */
    assert_int_equal(dp_vm_result(w->vm)->end, DP_END_STOPPED);
    assert_int_equal(dp_vm_result(w->vm)->status, 0);
    put(fd, "{\"command\":\"query-status\"}\n");
    expect(w, fd, "\"phase\":\"stopped\"");
    close(fd);
}

static void balloon(void **state)
{
    struct world *w = *state;
    int fd = client(w);
    put(fd, "{\"command\":\"balloon\"}\n");
    expect(w, fd, "\"target\":16777216,\"actual\":16777216,\"driver\":false,");
    put(fd, "{\"command\":\"balloon\",\"size\":\"10M\"}\n");
    expect(w, fd, "\"memory\":16777216,\"target\":10485760,\"actual\":16777216,");
    put(fd, "{\"command\":\"balloon\",\"size\":\"17M\"}\n");
    expect(w, fd, "the guest can have up to the 16 MiB");
    put(fd, "{\"command\":\"balloon\",\"size\":\"0\"}\n");
    expect(w, fd, "and not 0");
    put(fd, "{\"command\":\"balloon\",\"size\":\"some\"}\n");
    expect(w, fd, "{\"error\":\"");
    put(fd, "{\"command\":\"balloon\",\"size\":\"16M\"}\n");
    expect(w, fd, "\"target\":16777216,");
    close(fd);
}

/* The guest here is nobody: it lets go of nothing, unless the test does it in its place. */
static void nics(void **state)
{
    struct world *w = *state;
    int fd = client(w);
    put(fd, "{\"command\":\"nics\"}\n");
    expect(w, fd, "{\"result\":{\"nics\":[]}}");
    put(fd, "{\"command\":\"nic-add\",\"options\":\"user,mac=52:54:00:00:00:07\"}\n");
    expect(w, fd, "{\"nic\":\"net0\",\"model\":\"virtio\",\"mac\":\"52:54:00:00:00:07\",\"network\":\"user\",\"slot\":25,\"link\":true,\"leaving\":false}");
    put(fd, "{\"command\":\"nic-add\",\"options\":\"user,model=e1000\",\"nic\":\"out\"}\n");
    expect(w, fd, "{\"nic\":\"out\",\"model\":\"e1000\"");
    static const struct {
        const char *options, *name, *words;
    } wrong[] = {
        {"user", "out", "has a network card 'out' already"}, {"none", "x", "none is no network card"},
        {"user", "a b", "cannot be a card's name"},          {"user,model=x", "x", "there is no network card 'x': possible are virtio"},
        {"switch=/nonexistent/x", "x", "cannot join the network"}, {"sewer", "x", "sewer"},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(wrong); i++) {
        char line[200];
        snprintf(line, sizeof line, "{\"command\":\"nic-add\",\"options\":\"%s\",\"nic\":\"%s\"}\n", wrong[i].options, wrong[i].name);
        put(fd, line);
        expect(w, fd, wrong[i].words);
    }
    /* A card's registers are there as long as it is; reading UP tells of both. */
    struct dp_space *ports = dp_vm_ports(w->vm);
    assert_int_equal(dp_space_load(ports, 0xae00, 4), 1 << 25 | 1 << 26);
    dp_space_store(ports, 0xcf8, 0x80000000 | 25 << 11, 4);
    assert_int_equal(dp_space_load(ports, 0xcfc, 4), 0x10411af4);
    dp_space_store(ports, 0xcf8, 0x80000000 | 26 << 11, 4);
    assert_int_equal(dp_space_load(ports, 0xcfc, 4), 0x100e8086);

    put(fd, "{\"command\":\"nic-remove\",\"nic\":\"net9\"}\n");
    expect(w, fd, "this VM has no network card 'net9': there are net0, out");
    put(fd, "{\"command\":\"nic-remove\",\"nic\":\"out\",\"mode\":\"soft\"}\n");
    expect(w, fd, "give force");
    put(fd, "{\"command\":\"nic-remove\",\"nic\":\"out\"}\n{\"command\":\"nic-remove\",\"nic\":\"net0\"}\n{\"command\":\"nics\"}\n");
    expect(w, fd, "{\"result\":{}}");
    expect(w, fd, "{\"result\":{}}");
    expect(w, fd, "\"slot\":26,\"link\":true,\"leaving\":true}");
    assert_int_equal(dp_space_load(ports, 0xae04, 4), 1 << 25 | 1 << 26);
    dp_space_store(ports, 0xae08, 1 << 26, 4);
    settle(w);
    assert_int_equal(dp_space_load(ports, 0xcfc, 4), 0xffffffff);
    put(fd, "{\"command\":\"nics\"}\n");
    expect(w, fd, "{\"result\":{\"nics\":[{\"nic\":\"net0\",");
    assert_ok(dp_vm_reset(w->vm, &w->e), w->e); /* a system that starts anew uses nothing */
    put(fd, "{\"command\":\"nics\"}\n");
    expect(w, fd, "{\"result\":{\"nics\":[]}}");

    /* At once, while it runs; four at most; with the VM's end they go, too. */
    assert_ok(dp_vm_start(w->vm, &w->e), w->e);
    for (unsigned i = 0; i < 4; i++) {
        put(fd, "{\"command\":\"nic-add\",\"options\":\"user,model=rtl8139\"}\n");
        expect(w, fd, "\"nic\":\"net");
    }
    put(fd, "{\"command\":\"nic-add\",\"options\":\"user\"}\n");
    expect(w, fd, "no more are possible");
    put(fd, "{\"command\":\"nic-remove\",\"nic\":\"net2\",\"mode\":\"force\"}\n{\"command\":\"nic-add\",\"options\":\"user\"}\n");
    expect(w, fd, "{\"result\":{}}");
    expect(w, fd, "{\"nic\":\"net2\",\"model\":\"virtio\"");
    dp_vm_pause(w->vm);
    put(fd, "{\"command\":\"nic-remove\",\"nic\":\"net0\",\"mode\":\"force\"}\n{\"command\":\"nic-add\",\"options\":\"user\",\"nic\":\"net0\"}\n");
    expect(w, fd, "{\"result\":{}}");
    expect(w, fd, "{\"nic\":\"net0\",");
    dp_vm_resume(w->vm);
    dp_vm_stop(w->vm, 0, "the test ends");
    settle(w);
    put(fd, "{\"command\":\"nic-add\",\"options\":\"user\"}\n{\"command\":\"nic-remove\",\"nic\":\"net0\"}\n");
    expect(w, fd, "the VM has stopped");
    expect(w, fd, "the VM has stopped");
    close(fd);
}

static void disks(void **state)
{
    struct world *w = *state;
    int fd = client(w);
    char text[400], file[] = "/tmp/doppel-disk-XXXXXX";
    int disk = mkstemp(file);
    assert_int_equal(ftruncate(disk, 1 << 20), 0);
    close(disk);
    snprintf(text, sizeof text, "{\"command\":\"disk-attach\",\"file\":\"%s\"}\n", file);
    put(fd, text);
    expect(w, fd, "{\"result\":{\"disk\":\"disk0\"}}");
    snprintf(text, sizeof text, "{\"command\":\"disk-attach\",\"file\":\"%s\",\"disk\":\"data\",\"mode\":\"ro\",\"serial\":\"X\"}\n", file);
    put(fd, text);
    expect(w, fd, "is in use"); /* who writes it is alone with it */
    put(fd, "{\"command\":\"disk-attach\",\"file\":\"relative\"}\n{\"command\":\"disk-attach\",\"file\":\"/nonexistent\"}\n");
    expect(w, fd, "must be an absolute path");
    expect(w, fd, "/nonexistent");
    struct dp_space *ports = dp_vm_ports(w->vm);
    assert_int_equal(dp_space_load(ports, 0xae00, 4), 1 << 3);
    dp_space_store(ports, 0xcf8, 0x80000000 | 3 << 11, 4);
    assert_int_equal(dp_space_load(ports, 0xcfc, 4), 0x10421af4);
    put(fd, "{\"command\":\"disk-detach\",\"disk\":\"data\"}\n{\"command\":\"disk-detach\",\"disk\":\"disk0\"}\n");
    expect(w, fd, "this VM has no disk 'data'");
    expect(w, fd, "{\"result\":{}}");
    assert_int_equal(dp_space_load(ports, 0xae04, 4), 1 << 3);
    dp_space_store(ports, 0xae08, 1 << 3, 4);
    settle(w);
    assert_int_equal(dp_space_load(ports, 0xcfc, 4), 0xffffffff);
    put(fd, text); /* it is free again */
    expect(w, fd, "{\"result\":{\"disk\":\"data\"}}");
    put(fd, "{\"command\":\"disks\"}\n{\"command\":\"disk-detach\",\"disk\":\"data\",\"mode\":\"force\"}\n{\"command\":\"disks\"}\n");
    expect(w, fd, "{\"disk\":\"data\",\"size\":1048576,\"readonly\":true,");
    expect(w, fd, "{\"result\":{}}");
    expect(w, fd, "{\"result\":{\"disks\":[]}}");
    put(fd, text); /* and stays until the VM goes */
    expect(w, fd, "\"data\"");
    unlink(file);
    close(fd);
}

static void rubbish(void **state)
{
    static const struct {
        const char *line, *words;
    } rows[] = {
        {"hello", "not JSON"},
        {"{", "not a whole JSON object"},
        {"{\"command\":\"quit\"", "not a whole JSON object"},
        {"[]", "one JSON object"},
        {"3", "not a whole JSON object"}, /* there might be more digits */
        {"3 ", "not a whole JSON object"},
        {"true", "not a whole JSON object"},
        {"null", "not a whole JSON object"},
        {"{}", "\\\"command\\\" is missing"},
        {"{\"command\":3}", "\\\"command\\\" is missing or no string"},
        {"{\"command\":null,\"id\":1}", "{\"id\":1,\"error\""},
        {"{\"command\":\"quit\",\"now\":true}", "'now' is not known"},
        {"{\"command\":\"quit\",\"id\":[1]}", "must be a string or an integer"},
        {"{\"command\":\"quit\",\"id\":{}}", "{\"error\""},
        {"{\"command\":\"quit\\u0000x\"}", "is no command"},
        {"{\"command\":\"qui\"}", "'qui' is no command: there are help, query-status, stats, "},
        {"{\"command\":\"\"}", "is no command"},
        {"{\"command\":\"screenshot\",\"file\":\"/tmp/x\"}", "this VM has no screen (start it with --machine pc, or --video virtio)"},
        {"{\"command\":\"type\",\"text\":\"x\"}", "this VM has no screen"},
        {"{\"command\":\"key\",\"keys\":\"x\"}", "this VM has no screen"},
        {"{\"command\":\"key\"}", "key needs \\\"keys\\\", a string"},
        {"{\"command\":\"key\",\"keys\":1}", "key needs \\\"keys\\\", a string"},
        {"{\"command\":\"insert\",\"drive\":\"cdrom0\"}", "insert needs \\\"file\\\", a string"},
        {"{\"command\":\"insert\",\"drive\":\"cdrom0\",\"file\":\"x\"}", "must be an absolute path"},
        {"{\"command\":\"insert\",\"drive\":\"cdrom0\",\"file\":\"/x\",\"mode\":\"w\"}", "\\\"mode\\\" is 'w': give ro or rw"},
        {"{\"command\":\"insert\",\"drive\":\"cdrom0\",\"file\":\"/x\",\"mode\":7}", "insert needs \\\"mode\\\", a string"},
        {"{\"command\":\"insert\",\"text\":\"x\"}", "this one \\\"drive\\\", \\\"file\\\", \\\"mode\\\""},
        {"{\"command\":\"key\",\"text\":\"x\"}", "'text' is not known: a request has \\\"command\\\" and may have \\\"id\\\", this one \\\"keys\\\""},
        {"{\"command\":\"type\",\"text\":\"a\\u0000b\"}", "NUL"},
        {"{\"command\":\"quit\"}{\"command\":\"quit\"}", "error"},
        {"{\"command\":\"quit\"} x", "error"},
        {"{'command':'quit'}", "error"},
        {"{\"command\":\"\xff\"}", "error"},
        {"[[[[[[[[[[[[[[[[[[[[[[", "error"},
        {"{\"id\":{\"id\":{\"id\":{\"id\":{\"id\":{\"id\":{\"id\":{\"id\":{\"id\":1}}}}}}}}}", "error"},
    };
    struct world *w = *state;
    int fd = client(w);
    for (unsigned i = 0; i < DP_ARRAY_LEN(rows); i++) {
        put(fd, rows[i].line);
        put(fd, "\n");
        expect(w, fd, rows[i].words);
    }
    /* NUL in a line */
    assert_int_equal(send(fd, "{\"command\":\"quit\"}\0\n", 20, 0), 20);
    expect(w, fd, "error");
    settle(w);
    assert_int_equal(dp_vm_phase(w->vm), DP_VM_NEW); /* nothing of that was obeyed */
    put(fd, "{\"command\":\"query-status\"}\n");
    expect(w, fd, "result");
    close(fd);
}

static void halves(void **state)
{
    struct world *w = *state;
    int fd = client(w), other = client(w);
    const char *text = "{\"command\":\"query-status\",\"id\":1}\n{\"command\":\"help\",\"id\":2}\n{\"command\":\"stats\",\"id\":3}\n";
    for (const char *p = text; *p; p++) { /* byte by byte, and somebody else in between */
        assert_int_equal(send(fd, p, 1, 0), 1);
        dp_loop_poll(w->loop, 0);
    }
    put(other, "{\"command\":\"help\",\"id\":4}\n");
    expect(w, other, "{\"id\":4,");
    expect(w, fd, "{\"id\":1,");
    expect(w, fd, "{\"id\":2,");
    expect(w, fd, "{\"id\":3,");
    put(fd, text); /* all at once */
    expect(w, fd, "{\"id\":1,");
    expect(w, fd, "{\"id\":2,");
    expect(w, fd, "{\"id\":3,");
    /* A client that says it is done gets what it asked for; what has no end is not obeyed. */
    put(fd, "{\"command\":\"help\",\"id\":5}\n{\"command\":\"quit\"}");
    shutdown(fd, SHUT_WR);
    expect(w, fd, "{\"id\":5,");
    expect_end(w, fd);
    put(other, "{\"command\":\"qu");
    settle(w);
    close(other);
    settle(w);
    assert_int_equal(dp_vm_phase(w->vm), DP_VM_NEW);
}

static void send_all(struct world *w, int fd, const char *data, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = send(fd, data + done, size - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0)
            done += (size_t)n;
        dp_loop_poll(w->loop, 1);
    }
}

static void long_lines(void **state)
{
    struct world *w = *state;
    int fd = client(w);
    size_t size = 3 * DP_CONTROL_LINE_MAX;
    char *text = malloc(size);
    memset(text, ' ', size);
    memcpy(text, "{\"command\":\"help\"}", 18);
    for (int over = 0; over < 3; over++) { /* the longest that is taken, then too long by one, by far */
        size_t length = over == 2 ? size : (size_t)DP_CONTROL_LINE_MAX + (size_t)over;
        text[length - 1] = '\n';
        send_all(w, fd, text, length);
        expect(w, fd, over ? "too long: a request has at most 65535 bytes" : "result");
        put(fd, "{\"command\":\"query-status\",\"id\":1}\n"); /* and the next line is a new one */
        expect(w, fd, "{\"id\":1,\"result\"");
        text[length - 1] = ' ';
    }
    free(text);
    close(fd);
}

/* A client that asks and does not read: it is not read from, and nothing grows. */
static void deaf(void **state)
{
    struct world *w = *state;
    static const char ask[] = "{\"command\":\"stats\"}\n";
    int fd = client(w), other = client(w);
    unsigned sent = 0, quiet = 0, answered = 0;
    while (quiet < 20) {
        ssize_t n = send(fd, ask, sizeof ask - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        assert_true(n < 0 || n == sizeof ask - 1);
        sent += n > 0;
        quiet = n > 0 ? 0 : quiet + 1;
        dp_loop_poll(w->loop, 0);
        assert_true(sent < 1000000);
    }
    put(other, "{\"command\":\"help\",\"id\":4}\n"); /* others do not notice */
    expect(w, other, "{\"id\":4,");
    shutdown(fd, SHUT_WR);
    for (char *line; (line = reply(w, fd)); answered++)
        free(line);
    assert_int_equal(answered, sent);
    close(fd);
    /* One that goes away with replies under way */
    fd = client(w);
    for (int i = 0; i < 500 && send(fd, ask, sizeof ask - 1, MSG_DONTWAIT | MSG_NOSIGNAL) > 0; i++)
        dp_loop_poll(w->loop, 0);
    close(fd);
    settle(w);
    put(other, "{\"command\":\"help\",\"id\":5}\n");
    expect(w, other, "{\"id\":5,");
    close(other);
}

static void many(void **state)
{
    struct world *w = *state;
    int fd[DP_CONTROL_CLIENTS_MAX], end[2];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < DP_CONTROL_CLIENTS_MAX; i++)
            fd[i] = client(w);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, end), 0);
        assert_int_equal(dp_control_adopt(w->control, end[1], NULL), -EBUSY);
        expect(w, end[0], "16 clients are connected already");
        expect_end(w, end[0]);
        for (int i = 0; i < DP_CONTROL_CLIENTS_MAX; i++)
            put(fd[i], "{\"command\":\"help\"}\n");
        for (int i = 0; i < DP_CONTROL_CLIENTS_MAX; i++) {
            expect(w, fd[i], "result");
            close(fd[i]);
        }
        settle(w);
    }
}

static int connect_to(const char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct dp_error e;
    assert_ok(dp_rundir_socket(name, a.sun_path, sizeof a.sun_path, &e), e);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!connect(fd, (struct sockaddr *)&a, sizeof a))
        return fd;
    close(fd);
    return -1;
}

static void count_name(void *opaque, const char *name)
{
    int *n = opaque;
    assert_string_equal(name, *n ? "b.2" : "a-1");
    ++*n;
}

static void folders(void **state)
{
    struct world *w = *state;
    struct dp_rundir a = {0}, b = {0}, again = {0};
    char path[DP_RUNDIR_PATH_MAX], doppel[128];
    struct stat st;
    int n = 0;
    static const char *const bad[] = {
        "", ".", "..", "a/b", "-x", ".x", "a b", "\xc3\xa4", "0123456789012345678901234567890123456789012345678"};
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++)
        assert_int_equal(dp_rundir_check_name(bad[i], &w->e), -EINVAL);
    assert_ok(dp_rundir_each(false, count_name, &n, &w->e), w->e); /* no folder at all yet */
    assert_ok(dp_rundir_claim("a-1", &a, &w->e), w->e);
    assert_ok(dp_rundir_claim("b.2", &b, &w->e), w->e);
    assert_int_equal(stat(a.path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(dp_rundir_claim("a-1", &again, &w->e), -EBUSY);
    snprintf(path, sizeof path, "(process %d)", getpid());
    assert_non_null(strstr(w->e.text, path));
    dp_rundir_release(&again); /* claims nothing, releases nothing */
    assert_ok(dp_rundir_each(false, count_name, &n, &w->e), w->e);
    assert_int_equal(n, 2);

    assert_ok(dp_rundir_socket("a-1", path, sizeof path, &w->e), w->e);
    assert_ok(dp_control_listen(w->control, path, &w->e), w->e);
    int fd = connect_to("a-1");
    assert_true(fd >= 0);
    put(fd, "{\"command\":\"help\"}\n");
    expect(w, fd, "result");
    close(fd);
    assert_int_equal(connect_to("b.2"), -1);
    dp_rundir_release(&a);
    assert_int_equal(connect_to("a-1"), -1);
    assert_int_equal(access(a.path, F_OK), -1);

    /* One that was killed leaves its folder; the next of that name takes it over, socket and all. */
    pid_t child = fork();
    if (!child) {
        struct sockaddr_un s = {.sun_family = AF_UNIX};
        int left = socket(AF_UNIX, SOCK_STREAM, 0);
        if (dp_rundir_claim("a-1", &again, NULL) || dp_rundir_socket("a-1", s.sun_path, sizeof s.sun_path, NULL) ||
            bind(left, (struct sockaddr *)&s, sizeof s))
            _exit(1);
        kill(getpid(), SIGKILL);
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(access(path, F_OK), 0);
    n = 1;
    assert_ok(dp_rundir_each(false, count_name, &n, &w->e), w->e); /* only b.2 */
    assert_int_equal(n, 2);
    assert_ok(dp_rundir_claim("a-1", &a, &w->e), w->e);
    assert_int_equal(access(path, F_OK), -1);
    dp_rundir_release(&a);
    dp_rundir_release(&b);

    /* What others can enter is not trusted. */
    snprintf(doppel, sizeof doppel, "%s/doppel", w->runtime);
    assert_int_equal(chmod(doppel, 0755), 0);
    assert_int_equal(dp_rundir_claim("a-1", &a, &w->e), -EPERM);
    assert_int_equal(rmdir(doppel), 0);
    assert_int_equal(symlink("/tmp", doppel), 0);
    assert_int_equal(dp_rundir_claim("a-1", &a, &w->e), -EPERM);
    assert_int_equal(dp_rundir_each(false, count_name, &n, &w->e), -EPERM);
    assert_int_equal(unlink(doppel), 0);
    setenv("XDG_RUNTIME_DIR", "/nonexistent", 1);
    assert_int_equal(dp_rundir_claim("a-1", &a, &w->e), -ENOENT);
    char deep[400];
    memset(deep, '/', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    setenv("XDG_RUNTIME_DIR", deep, 1);
    assert_int_equal(dp_rundir_claim("a-1", &a, &w->e), -ENAMETOOLONG);
    deep[150] = 0;
    setenv("XDG_RUNTIME_DIR", deep, 1);
    char small[108];
    assert_int_equal(dp_rundir_socket("a-1", small, sizeof small, &w->e), -ENAMETOOLONG);
}

/* Several at once take and leave the same name: at any time one has it, and none is left behind. */
static void contested(void **state)
{
    pid_t child[4];
    for (unsigned i = 0; i < DP_ARRAY_LEN(child); i++) {
        child[i] = fork();
        if (child[i])
            continue;
        unsigned got = 0;
        for (int n = 0; n < 400 || (!got && n < 400000); n++) { /* who is unlucky goes on */
            struct dp_rundir d = {0};
            char mine[DP_RUNDIR_PATH_MAX + 16];
            if (dp_rundir_claim("same", &d, NULL))
                continue;
            snprintf(mine, sizeof mine, "%s/control", d.path);
            int fd = open(mine, O_CREAT | O_EXCL | O_WRONLY, 0600); /* fails if another is here */
            if (fd < 0)
                _exit(1);
            close(fd);
            dp_rundir_release(&d);
            got++;
        }
        _exit(got ? 0 : 2);
    }
    for (unsigned i = 0; i < DP_ARRAY_LEN(child); i++) {
        int status;
        waitpid(child[i], &status, 0);
        assert_int_equal(status, 0);
    }
}

/* Engines that do not count instructions count at least how often somebody wanted something. */
static uint64_t progress(const struct dp_engine_counters *c) { return c->instructions + c->interpreted + c->blocks_run; }

/* Processors that never leave the guest by themselves are asked, and go on. */
static void while_running(void **state)
{
    struct world *w = *state;
    static const uint8_t spin[] = {0xeb, 0xfe};
    static const char *const engines[] = {"interp", "translate", "null"};
    for (unsigned n = 0; n < DP_ARRAY_LEN(engines); n++) {
        struct dp_vm_cpu_stats before[3], after[3];
        struct dp_engine_counters sum;
        if (!dp_engine_find(engines[n]) || dp_engine_find(engines[n])->probe(NULL))
            continue;
        struct dp_vm *vm = make_vm(w, engines[n], 3);
        assert_int_equal(dp_vm_cpu_count(vm), 3);
        assert_int_equal(dp_vm_memory_size(vm), 16 << 20);
        dp_vm_stats(vm, before); /* not started */
        assert_int_equal(before[0].counters.instructions, 0);
        assert_true(before[0].halted);
        struct x86_state s;
        dp_vm_cpu_state(vm, 0, &s);
        dp_space_write(dp_vm_memory(vm), s.r[X86_RIP], spin, sizeof spin);
        assert_ok(dp_vm_start(vm, &w->e), w->e);
        bool counts = strcmp(engines[n], "null");
        uint64_t last = 0;
        for (int i = 0; i < 200; i++) {
            dp_vm_stats(vm, after);
            assert_true(progress(&after[0].counters) >= last);
            last = progress(&after[0].counters);
        }
        for (int i = 0; i < 500 && counts && progress(&after[0].counters) <= last; i++) {
            dp_loop_poll(w->loop, 1);
            dp_vm_stats(vm, after);
        }
        assert_true(!counts || progress(&after[0].counters) > last);
        assert_int_equal(after[0].halted, !counts);
        assert_true(after[2].halted); /* waits for its start */
        assert_true(!counts || after[0].cpu_ns > 0);
        dp_vm_pause(vm);
        dp_vm_stats(vm, before);
        dp_vm_stats(vm, after);
        assert_int_equal(before[0].counters.instructions, after[0].counters.instructions);
        assert_true(after[0].halted);
        dp_vm_counters(vm, &sum);
        assert_int_equal(sum.instructions, after[0].counters.instructions);
        dp_vm_resume(vm);
        dp_vm_stats(vm, after);
        dp_vm_destroy(vm);
    }
}

/* What only a translator can do is refused by others, before anything runs. */
static void refused(void **state)
{
    struct world *w = *state;
    static const char *const engines[] = {"interp", "null"};
    for (unsigned n = 0; n < DP_ARRAY_LEN(engines); n++) {
        struct dp_vm_config c = {.engine = engines[n], .kernel = w->kernel, .loop = w->loop, .perf_map = true};
        struct dp_vm *vm;
        assert_int_equal(dp_vm_create(&c, &vm, &w->e), -ENOTSUP);
        assert_non_null(strstr(w->e.text, "--perf-map"));
        c.perf_map = false;
        c.dump_path = "/nonexistent/x";
        assert_int_equal(dp_vm_create(&c, &vm, &w->e), -ENOTSUP);
        assert_non_null(strstr(w->e.text, "--dump-blocks"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(commands, setup, teardown),      cmocka_unit_test_setup_teardown(rubbish, setup, teardown),
        cmocka_unit_test_setup_teardown(balloon, setup, teardown),       cmocka_unit_test_setup_teardown(nics, setup, teardown),
        cmocka_unit_test_setup_teardown(disks, setup, teardown),
        cmocka_unit_test_setup_teardown(halves, setup, teardown),        cmocka_unit_test_setup_teardown(long_lines, setup, teardown),
        cmocka_unit_test_setup_teardown(deaf, setup, teardown),          cmocka_unit_test_setup_teardown(many, setup, teardown),
        cmocka_unit_test_setup_teardown(folders, setup, teardown),       cmocka_unit_test_setup_teardown(contested, setup, teardown),
        cmocka_unit_test_setup_teardown(while_running, setup, teardown), cmocka_unit_test_setup_teardown(refused, setup, teardown),
    };
    return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}
