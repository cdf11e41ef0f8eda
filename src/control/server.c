/* control/server.c - see server.h. */
#include "control/server.h"

#include <fcntl.h>
#include <json.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "event/event.h"

enum { JSON_DEPTH_MAX = 8 };

struct client {
    struct dp_control_server *control; /* NULL: the place is free */
    int fd;
    bool skipping; /* the rest of a line that was too long */
    bool at_end;   /* nothing more will come; what is owed still leaves */
    size_t in_size, out_done;
    char *in; /* DP_CONTROL_LINE_MAX */
    struct dp_buffer out;
};

struct dp_control_server {
    struct dp_loop *loop;
    const struct dp_control_service *service;
    void *opaque;
    int listen_fd, reserve_fd;
    struct client client[DP_CONTROL_CLIENTS_MAX];
};

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

/* The number of a command; -1: there is none of that name. */
static int find_command(const struct dp_control_server *c, struct json_object *name)
{
    const struct dp_control_command *command;
    for (unsigned i = 0; (command = c->service->command(i)); i++)
        if (is_text(name, command->name))
            return (int)i;
    return -1;
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

static bool has_argument(const struct dp_control_command *command, const char *name)
{
    for (unsigned i = 0; command && i < DP_CONTROL_ARGUMENTS_MAX && command->argument[i]; i++)
        if (!strcmp(name, command->argument[i]))
            return true;
    return false;
}

static void refuse_key(const struct dp_control_command *command, const char *key, struct dp_error *e)
{
    struct dp_buffer takes = {0};
    for (unsigned i = 0; command && i < DP_CONTROL_ARGUMENTS_MAX && command->argument[i]; i++)
        dp_buffer_printf(&takes, "%s \"%s\"", i ? "," : ", this one", command->argument[i]);
    dp_error_set(e, -EINVAL, "'%.60s' is not known: a request has \"command\" and may have \"id\"%s", key,
                 takes.data ? (char *)takes.data : "");
    dp_buffer_fini(&takes);
}

static struct json_object *run_command(struct dp_control_server *c, unsigned i, struct json_object *request, struct dp_error *e)
{
    const char *argument[DP_CONTROL_ARGUMENTS_MAX] = {NULL};
    if (take_arguments(c->service->command(i), request, argument, e))
        return NULL;
    struct json_object *result = c->service->run(c->opaque, i, argument, e);
    if (!result && !e->code)
        dp_error_set(e, -ENOMEM, "no memory");
    return result;
}

static struct json_object *execute(struct dp_control_server *c, struct json_object *request, struct dp_error *e)
{
    struct json_object *name = NULL;
    const char *other = NULL;
    json_object_object_get_ex(request, "command", &name);
    int number = json_object_is_type(name, json_type_string) ? find_command(c, name) : -1;
    const struct dp_control_command *command = number >= 0 ? c->service->command((unsigned)number) : NULL;
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
        return run_command(c, (unsigned)number, request, e);
    if (!json_object_is_type(name, json_type_string)) {
        dp_error_set(e, -EINVAL, "\"command\" is missing or no string");
        return NULL;
    }
    struct dp_buffer known = {0};
    for (unsigned i = 0; (command = c->service->command(i)); i++)
        dp_buffer_printf(&known, "%s%s", i ? ", " : "", command->name);
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

int dp_control_server_adopt(struct dp_control_server *c, int fd, struct dp_error *e)
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
    struct dp_control_server *c = opaque;
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
        int rc = dp_control_server_adopt(c, client, &told); /* the client was told, or lost its connection */
        (void)rc;
    }
}

/* ---- making ---- */

int dp_control_server_create(struct dp_loop *loop, const struct dp_control_service *service, void *opaque, struct dp_control_server **out,
                             struct dp_error *e)
{
    struct dp_control_server *c = calloc(1, sizeof *c);
    if (!c)
        return dp_error_set(e, -ENOMEM, "no memory");
    c->loop = loop;
    c->service = service;
    c->opaque = opaque;
    c->listen_fd = c->reserve_fd = -1;
    *out = c;
    return 0;
}

int dp_control_server_listen(struct dp_control_server *c, const char *path, struct dp_error *e)
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

void dp_control_server_destroy(struct dp_control_server *c)
{
    if (!c)
        return;
    for (unsigned i = 0; i < DP_CONTROL_CLIENTS_MAX; i++)
        if (c->client[i].control)
            client_close(&c->client[i]);
    if (c->listen_fd >= 0) {
        dp_loop_unwatch(c->loop, c->listen_fd);
        close(c->listen_fd);
    }
    if (c->reserve_fd >= 0)
        close(c->reserve_fd);
    free(c);
}
