/* vm/control.c - see control.h. */
#include "vm/control.h"

#include <fcntl.h>
#include <json.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "display/typist.h"
#include "event/event.h"
#include "vm/vm.h"

enum { JSON_DEPTH_MAX = 8 };

struct client {
    struct dp_control *control; /* NULL: the place is free */
    int fd;
    bool skipping; /* the rest of a line that was too long */
    bool at_end;   /* nothing more will come; what is owed still leaves */
    size_t in_size, out_done;
    char *in; /* DP_CONTROL_LINE_MAX */
    struct dp_buffer out;
};

struct dp_control {
    struct dp_loop *loop;
    struct dp_vm *vm;
    char *name;
    int listen_fd, reserve_fd;
    bool typing; /* there is a typist */
    struct dp_typist typist;
    struct client client[DP_CONTROL_CLIENTS_MAX];
};

/* ---- commands ---- */

/* Each returns the result; NULL: e tells why not. Arguments have no NUL in them. */

static struct json_object *counters_json(const struct dp_engine_counters *c)
{
    struct json_object *o = json_object_new_object();
    for (unsigned i = 0; i < DP_ENGINE_COUNTER_COUNT; i++)
        json_object_object_add(o, dp_engine_counter_list[i].name, json_object_new_uint64(dp_engine_counter_value(c, i)));
    return o;
}

static struct json_object *identity(const struct dp_control *c)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "name", json_object_new_string(c->name));
    json_object_object_add(o, "pid", json_object_new_int(getpid()));
    json_object_object_add(o, "engine", json_object_new_string(dp_vm_engine_name(c->vm)));
    json_object_object_add(o, "seconds", json_object_new_double((double)dp_vm_uptime_ns(c->vm) / 1e9));
    return o;
}

static struct json_object *query_status(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    struct json_object *o = identity(c);
    json_object_object_add(o, "phase", json_object_new_string(dp_vm_phase_name(dp_vm_phase(c->vm))));
    json_object_object_add(o, "protocol", json_object_new_string(dp_vm_boot_protocol(c->vm)));
    json_object_object_add(o, "cpus", json_object_new_int((int)dp_vm_cpu_count(c->vm)));
    json_object_object_add(o, "memory", json_object_new_uint64(dp_vm_memory_size(c->vm)));
    return o;
}

static struct json_object *cpu_json(uint64_t cpu_ns, const struct dp_engine_counters *counters)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "cpu_seconds", json_object_new_double((double)cpu_ns / 1e9));
    json_object_object_add(o, "counters", counters_json(counters));
    return o;
}

static struct json_object *stats(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    struct dp_vm_cpu_stats cpu[DP_VM_CPUS_MAX];
    struct dp_engine_counters sum = {0};
    uint64_t sum_ns = 0;
    dp_vm_stats(c->vm, cpu);
    struct json_object *o = identity(c), *cpus = json_object_new_array();
    for (unsigned i = 0; i < dp_vm_cpu_count(c->vm); i++) {
        struct json_object *one = cpu_json(cpu[i].cpu_ns, &cpu[i].counters);
        json_object_object_add(one, "halted", json_object_new_boolean(cpu[i].halted));
        json_object_array_add(cpus, one);
        dp_engine_counters_add(&sum, &cpu[i].counters);
        sum_ns += cpu[i].cpu_ns;
    }
    json_object_object_add(o, "cpus", cpus);
    json_object_object_add(o, "total", cpu_json(sum_ns, &sum));
    return o;
}

static struct json_object *quit(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    dp_vm_stop(c->vm, 0, "ended by the control socket (quit)");
    return json_object_new_object();
}

/* ---- the screen ---- */

static const struct dp_vm_screen *need_screen(struct dp_control *c, struct dp_error *e)
{
    const struct dp_vm_screen *screen = dp_vm_screen(c->vm);
    if (!screen->present)
        dp_error_set(e, -ENODEV, "this VM has no screen (start it with --machine pc, or --video virtio)");
    return screen->present ? screen : NULL;
}

static struct json_object *screenshot(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    const char *file = argument[0];
    const struct dp_vm_screen *screen = need_screen(c, e);
    struct dp_display_picture picture = {0};
    struct json_object *o = NULL;
    if (!screen)
        return NULL;
    if (*file != '/') { /* relative to the VM's working directory it would be a surprise */
        dp_error_set(e, -EINVAL, "\"file\" must be an absolute path");
        return NULL;
    }
    int rc = screen->source.picture(screen->source.opaque, &picture, e);
    if (!rc)
        rc = dp_display_write_png(&picture, file, e);
    if (!rc && (o = json_object_new_object())) {
        json_object_object_add(o, "file", json_object_new_string(file));
        json_object_object_add(o, "width", json_object_new_int((int)picture.width));
        json_object_object_add(o, "height", json_object_new_int((int)picture.height));
    }
    dp_display_picture_fini(&picture);
    return o;
}

/* The typist of this socket, made when it is needed first. */
static struct dp_typist *need_typist(struct dp_control *c, struct dp_error *e)
{
    const struct dp_vm_screen *screen = need_screen(c, e);
    if (!screen)
        return NULL;
    if (!c->typing && dp_typist_init(&c->typist, c->loop, &screen->sink, e)) {
        dp_typist_fini(&c->typist);
        return NULL;
    }
    c->typing = true;
    return &c->typist;
}

static struct json_object *pending(const struct dp_typist *t)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "pending", json_object_new_int((int)dp_typist_pending(t)));
    return o;
}

static struct json_object *type(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    struct dp_typist *t = need_typist(c, e);
    return !t || dp_typist_text(t, argument[0], strlen(argument[0]), e) ? NULL : pending(t);
}

static struct json_object *key(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    const char *names = argument[0];
    unsigned code[DP_TYPIST_KEYS_MAX];
    struct dp_typist *t = need_typist(c, e);
    if (!t)
        return NULL;
    unsigned count = dp_input_keys_by_names(names, code, DP_ARRAY_LEN(code));
    if (!count) {
        dp_error_set(e, -EINVAL, "'%.60s': give up to %d names of keys, joined by -, such as ctrl-alt-del, shift-f10, ret or a", names,
                     DP_TYPIST_KEYS_MAX);
        return NULL;
    }
    if (!dp_typist_stroke(t, code, count)) {
        dp_error_set(e, -EAGAIN, "what is being typed leaves no room: try again later");
        return NULL;
    }
    return pending(t);
}

/* ---- media ---- */

static struct json_object *media(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    struct json_object *o = json_object_new_object(), *drives = json_object_new_array();
    struct dp_vm_drive drive;
    for (unsigned i = 0; dp_vm_drive(c->vm, i, &drive); i++) {
        struct json_object *one = json_object_new_object();
        json_object_object_add(one, "drive", json_object_new_string(drive.name));
        json_object_object_add(one, "file", drive.file ? json_object_new_string(drive.file) : NULL);
        if (drive.file)
            json_object_object_add(one, "readonly", json_object_new_boolean(drive.readonly));
        json_object_array_add(drives, one);
    }
    json_object_object_add(o, "drives", drives);
    return o;
}

static struct json_object *insert(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    const char *drive = argument[0], *file = argument[1], *mode = argument[2] ? argument[2] : "rw";
    bool readonly = !strcmp(mode, "ro");
    if (!readonly && strcmp(mode, "rw")) {
        dp_error_set(e, -EINVAL, "\"mode\" is '%.20s': give ro or rw", mode);
        return NULL;
    }
    if (*file != '/') {
        dp_error_set(e, -EINVAL, "\"file\" must be an absolute path");
        return NULL;
    }
    return dp_vm_change_medium(c->vm, drive, file, readonly, e) ? NULL : json_object_new_object();
}

static struct json_object *eject(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    return dp_vm_change_medium(c->vm, argument[0], NULL, false, e) ? NULL : json_object_new_object();
}

static struct json_object *help(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    struct json_object *o = json_object_new_object();
    const struct dp_control_command *command;
    for (unsigned i = 0; (command = dp_control_command(i)); i++)
        json_object_object_add(o, command->name, json_object_new_string(command->help));
    return o;
}

static const struct command {
    struct dp_control_command about;
    struct json_object *(*run)(struct dp_control *c, const char *const *argument, struct dp_error *e); /* NULL: not given */
} commands[] = {
    {{"help", "all commands and what they do"}, help},
    {{"query-status", "phase, engine, time, process, size of the machine"}, query_status},
    {{"stats", "what the engine counted, of each processor and in all"}, stats},
    {{"screenshot", "writes the screen as a PNG to file, an absolute path", {"file"}}, screenshot},
    {{"type", "types text on a US keyboard; pending: key events still to come", {"text"}}, type},
    {{"key", "strikes keys, held together: ctrl-alt-del, shift-f10, ret", {"keys"}}, key},
    {{"media", "drives whose media can be changed, and what is in them"}, media},
    {{"insert", "puts file, an absolute path, into drive: cdrom0, floppy1; mode ro: for reading only", {"drive", "file", "mode"}, 1},
     insert},
    {{"eject", "takes out what is in drive", {"drive"}}, eject},
    {{"quit", "ends the VM at once, with status 0, without asking the guest"}, quit},
};

const struct dp_control_command *dp_control_command(unsigned i) { return i < DP_ARRAY_LEN(commands) ? &commands[i].about : NULL; }

/* ---- a request ---- */

/* The object in a line; NULL with e set. */
static struct json_object *parse(const char *line, size_t size, struct dp_error *e)
{
    struct json_tokener *t = json_tokener_new_ex(JSON_DEPTH_MAX);
    if (!t) {
        dp_error_set(e, -ENOMEM, "no memory");
        return NULL;
    }
    json_tokener_set_flags(t, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    struct json_object *o = json_tokener_parse_ex(t, line, (int)size);
    enum json_tokener_error why = json_tokener_get_error(t);
    size_t end = json_tokener_get_parse_end(t);
    json_tokener_free(t);
    if (why == json_tokener_continue)
        dp_error_set(e, -EINVAL, "not a whole JSON object: a request is one object on one line");
    else if (why != json_tokener_success)
        dp_error_set(e, -EINVAL, "not JSON: %s at byte %zu", json_tokener_error_desc(why), end);
    else if (end != size || !json_object_is_type(o, json_type_object))
        dp_error_set(e, -EINVAL, "a request is one JSON object and nothing else, such as {\"command\":\"query-status\"}");
    else
        return o;
    json_object_put(o);
    return NULL;
}

/* A JSON string may contain NUL, so its end is no end for strcmp. */
static bool is_text(struct json_object *o, const char *text)
{
    size_t size = strlen(text);
    return (size_t)json_object_get_string_len(o) == size && !memcmp(json_object_get_string(o), text, size);
}

static const struct command *find_command(struct json_object *name)
{
    for (unsigned i = 0; i < DP_ARRAY_LEN(commands); i++)
        if (is_text(name, commands[i].about.name))
            return &commands[i];
    return NULL;
}

/* Takes the arguments that the command has out of a request. */
static int take_arguments(const struct dp_control_command *about, struct json_object *request, const char **text, struct dp_error *e)
{
    unsigned count = 0;
    while (count < DP_CONTROL_ARGUMENTS_MAX && about->argument[count])
        count++;
    for (unsigned i = 0; i < count; i++) {
        const char *name = about->argument[i];
        struct json_object *value = NULL;
        if (!json_object_object_get_ex(request, name, &value) && i >= count - about->optional)
            continue;
        if (!json_object_is_type(value, json_type_string))
            return dp_error_set(e, -EINVAL, "%s needs \"%s\", a string", about->name, name);
        text[i] = json_object_get_string(value);
        if (strlen(text[i]) != (size_t)json_object_get_string_len(value))
            return dp_error_set(e, -EINVAL, "\"%s\" has a NUL in it", name);
    }
    return 0;
}

static bool has_argument(const struct command *command, const char *name)
{
    for (unsigned i = 0; command && i < DP_CONTROL_ARGUMENTS_MAX && command->about.argument[i]; i++)
        if (!strcmp(name, command->about.argument[i]))
            return true;
    return false;
}

static void refuse_key(const struct command *command, const char *key, struct dp_error *e)
{
    struct dp_buffer takes = {0};
    for (unsigned i = 0; command && i < DP_CONTROL_ARGUMENTS_MAX && command->about.argument[i]; i++)
        dp_buffer_printf(&takes, "%s \"%s\"", i ? "," : ", this one", command->about.argument[i]);
    dp_error_set(e, -EINVAL, "'%.60s' is not known: a request has \"command\" and may have \"id\"%s", key,
                 takes.data ? (char *)takes.data : "");
    dp_buffer_fini(&takes);
}

static struct json_object *run_command(struct dp_control *c, const struct command *command, struct json_object *request, struct dp_error *e)
{
    const char *argument[DP_CONTROL_ARGUMENTS_MAX] = {NULL};
    if (take_arguments(&command->about, request, argument, e))
        return NULL;
    struct json_object *result = command->run(c, argument, e);
    if (!result && !e->code)
        dp_error_set(e, -ENOMEM, "no memory");
    return result;
}

static struct json_object *execute(struct dp_control *c, struct json_object *request, struct dp_error *e)
{
    struct json_object *name = NULL;
    const char *other = NULL;
    json_object_object_get_ex(request, "command", &name);
    const struct command *command = json_object_is_type(name, json_type_string) ? find_command(name) : NULL;
    json_object_object_foreach(request, key, value)
    {
        if (!strcmp(key, "id") && !json_object_is_type(value, json_type_string) && !json_object_is_type(value, json_type_int)) {
            dp_error_set(e, -EINVAL, "\"id\" must be a string or an integer");
            return NULL;
        }
        if (strcmp(key, "command") && strcmp(key, "id") && !has_argument(command, key) && !other)
            other = key;
    }
    if (other) {
        refuse_key(command, other, e);
        return NULL;
    }
    if (command)
        return run_command(c, command, request, e);
    if (!json_object_is_type(name, json_type_string)) {
        dp_error_set(e, -EINVAL, "\"command\" is missing or no string");
        return NULL;
    }
    struct dp_buffer known = {0};
    for (unsigned i = 0; i < DP_ARRAY_LEN(commands); i++)
        dp_buffer_printf(&known, "%s%s", i ? ", " : "", commands[i].about.name);
    dp_error_set(e, -EINVAL, "'%.60s' is no command: there are %s", json_object_get_string(name), known.data ? (char *)known.data : "");
    dp_buffer_fini(&known);
    return NULL;
}

static void put_reply(struct dp_buffer *out, struct json_object *request, struct json_object *result, const struct dp_error *e)
{
    struct json_object *reply = json_object_new_object(), *id = NULL;
    if (json_object_object_get_ex(request, "id", &id) &&
        (json_object_is_type(id, json_type_string) || json_object_is_type(id, json_type_int)))
        json_object_object_add(reply, "id", json_object_get(id));
    if (result)
        json_object_object_add(reply, "result", result);
    else
        json_object_object_add(reply, "error", json_object_new_string(e->text));
    dp_buffer_printf(out, "%s\n", json_object_to_json_string_ext(reply, JSON_C_TO_STRING_PLAIN));
    json_object_put(reply);
}

static void answer(struct client *k, const char *line, size_t size)
{
    while (size && memchr(" \t\r", line[size - 1], 3))
        size--;
    if (!size)
        return; /* an empty line asks for nothing */
    struct dp_error e = {0};
    struct json_object *request = parse(line, size, &e), *result = request ? execute(k->control, request, &e) : NULL;
    put_reply(&k->out, request, result, &e);
    json_object_put(request);
}

/* ---- clients ---- */

static void client_close(struct client *k)
{
    dp_loop_unwatch(k->control->loop, k->fd);
    close(k->fd);
    free(k->in);
    dp_buffer_fini(&k->out);
    *k = (struct client){0};
}

/* What can leave now, does. False: the client is gone. */
static bool flush(struct client *k)
{
    while (k->out_done < k->out.size) {
        ssize_t n = send(k->fd, k->out.data + k->out_done, k->out.size - k->out_done, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK;
        k->out_done += (size_t)n;
    }
    k->out.size = k->out_done = 0;
    return true;
}

/* Answers whole lines as long as the replies leave at once; keeps the rest. False: the client is gone. */
static bool take_lines(struct client *k)
{
    size_t at = 0;
    while (!k->out.size && at < k->in_size) {
        char *line = k->in + at, *end = memchr(line, '\n', k->in_size - at);
        if (!end)
            break;
        at += (size_t)(end - line) + 1;
        if (k->skipping)
            k->skipping = false;
        else
            answer(k, line, (size_t)(end - line));
        if (k->out.failed || !flush(k))
            return false;
    }
    memmove(k->in, k->in + at, k->in_size -= at);
    if (k->out.size)
        return true;
    if (!k->skipping && k->in_size == DP_CONTROL_LINE_MAX) {
        struct dp_error e;
        dp_error_set(&e, -EMSGSIZE, "the line is too long: a request has at most %d bytes", DP_CONTROL_LINE_MAX - 1);
        put_reply(&k->out, NULL, NULL, &e);
        k->skipping = true;
    }
    if (k->skipping)
        k->in_size = 0;
    return !k->out.failed && flush(k);
}

static void on_client(void *opaque, int fd, uint32_t events)
{
    struct client *k = opaque;
    bool alive = !(events & EPOLLERR) && flush(k);
    if (alive && !k->out.size && !k->at_end && k->in_size < DP_CONTROL_LINE_MAX && events & (EPOLLIN | EPOLLHUP)) {
        ssize_t n = recv(fd, k->in + k->in_size, DP_CONTROL_LINE_MAX - k->in_size, MSG_DONTWAIT);
        if (n > 0)
            k->in_size += (size_t)n;
        else if (!n)
            k->at_end = true;
        else
            alive = errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    }
    if (alive && !k->out.size)
        alive = take_lines(k);
    if (!alive || (k->at_end && !k->out.size) || dp_loop_rewatch(k->control->loop, fd, k->out.size ? EPOLLOUT : EPOLLIN))
        client_close(k);
}

int dp_control_adopt(struct dp_control *c, int fd, struct dp_error *e)
{
    struct client *k = c->client;
    struct dp_error ignored;
    e = e ? e : &ignored;
    while (k < c->client + DP_CONTROL_CLIENTS_MAX && k->control)
        k++;
    if (k == c->client + DP_CONTROL_CLIENTS_MAX) {
        struct dp_buffer out = {0};
        int rc = dp_error_set(e, -EBUSY, "%d clients are connected already: close one", DP_CONTROL_CLIENTS_MAX);
        put_reply(&out, NULL, NULL, e);
        ssize_t n = send(fd, out.data, out.size, MSG_DONTWAIT | MSG_NOSIGNAL); /* a courtesy: it fits, or nobody reads it */
        (void)n;
        dp_buffer_fini(&out);
        close(fd);
        return rc;
    }
    *k = (struct client){.control = c, .fd = fd, .in = malloc(DP_CONTROL_LINE_MAX)};
    if (!k->in || dp_loop_watch(c->loop, fd, EPOLLIN, on_client, k)) {
        int rc = dp_error_set(e, -ENOMEM, "cannot serve one more client");
        close(fd);
        free(k->in);
        *k = (struct client){0};
        return rc;
    }
    return 0;
}

static void on_connect(void *opaque, int fd, uint32_t events)
{
    struct dp_control *c = opaque;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0 && (errno == EMFILE || errno == ENFILE)) {
        /* Without a descriptor the connection would stay and keep the loop busy: take it with the one kept for that, and drop it. */
        close(c->reserve_fd);
        client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (client >= 0)
            close(client);
        c->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    } else if (client >= 0) {
        struct dp_error told;
        int rc = dp_control_adopt(c, client, &told); /* the client was told, or lost its connection */
        (void)rc;
    }
}

/* ---- making ---- */

int dp_control_create(struct dp_loop *loop, struct dp_vm *vm, const char *name, struct dp_control **out, struct dp_error *e)
{
    struct dp_control *c = calloc(1, sizeof *c);
    if (!c || !(c->name = strdup(name))) {
        free(c);
        return dp_error_set(e, -ENOMEM, "no memory");
    }
    c->loop = loop;
    c->vm = vm;
    c->listen_fd = c->reserve_fd = -1;
    *out = c;
    return 0;
}

int dp_control_listen(struct dp_control *c, const char *path, struct dp_error *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return dp_error_set(e, -ENAMETOOLONG, "%s is too long for a socket's name: set XDG_RUNTIME_DIR to a shorter path", path);
    strcpy(address.sun_path, path);
    c->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->listen_fd < 0 || bind(c->listen_fd, (struct sockaddr *)&address, sizeof address) || chmod(path, 0600) ||
        listen(c->listen_fd, DP_CONTROL_CLIENTS_MAX) || dp_loop_watch(c->loop, c->listen_fd, EPOLLIN, on_connect, c))
        return dp_error_set(e, errno ? -errno : -EIO, "cannot serve the control socket %s: %s", path, strerror(errno));
    return 0;
}

void dp_control_destroy(struct dp_control *c)
{
    if (!c)
        return;
    for (unsigned i = 0; i < DP_CONTROL_CLIENTS_MAX; i++)
        if (c->client[i].control)
            client_close(&c->client[i]);
    if (c->typing)
        dp_typist_fini(&c->typist);
    if (c->listen_fd >= 0) {
        dp_loop_unwatch(c->loop, c->listen_fd);
        close(c->listen_fd);
    }
    if (c->reserve_fd >= 0)
        close(c->reserve_fd);
    free(c->name);
    free(c);
}
