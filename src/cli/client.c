/* cli/client.c - see client.h. */
#include "cli/client.h"

#include <json.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "cli/options.h"
#include "control/rundir.h"

enum { PATIENCE_SECONDS = 10, REPLY_MAX = 4 << 20 };

struct names {
    struct dp_buffer text;
    char name[CLI_LIST_MAX][DP_RUNDIR_NAME_MAX + 1];
    unsigned count;
};

static void keep_name(void *opaque, const char *name)
{
    struct names *n = opaque;
    dp_buffer_printf(&n->text, "%s%s", n->count ? ", " : "", name);
    if (n->count < DP_ARRAY_LEN(n->name))
        snprintf(n->name[n->count++], sizeof n->name[0], "%s", name);
}

static int not_running(const char *name, struct dp_error *e)
{
    struct names known = {0};
    const char *list[CLI_LIST_MAX], *near;
    bool network = *name == DP_RUNDIR_NETWORK;
    int rc = dp_rundir_each(network, keep_name, &known, e);
    if (!rc) {
        for (unsigned i = 0; i < known.count; i++)
            list[i] = known.name[i];
        name += network;
        near = cli_nearest(name, list, known.count);
        rc = dp_error_set(e, -ENOENT, "no %s named '%s' is running%s%s%s", network ? "network" : "VM", name,
                          near          ? ": did you mean "
                          : known.count ? ": there are "
                          : network     ? " (make it by `doppel network create NAME`)"
                                        : " (give one a name by `doppel run --name NAME`)",
                          near          ? near
                          : known.count ? (const char *)known.text.data
                                        : "",
                          near ? "?" : "");
    }
    dp_buffer_fini(&known.text);
    return rc;
}

int cli_connect(const char *name, int *fd, struct dp_error *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = PATIENCE_SECONDS};
    int rc = dp_rundir_socket(name, address.sun_path, sizeof address.sun_path, e);
    if (rc)
        return rc;
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*fd < 0)
        return dp_error_set(e, -errno, "cannot make a socket: %s", strerror(errno));
    setsockopt(*fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(*fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (!connect(*fd, (struct sockaddr *)&address, sizeof address))
        return 0;
    rc = errno == ENOENT || errno == ECONNREFUSED ? not_running(name, e)
                                                  : dp_error_set(e, -errno, "cannot reach %s: %s", address.sun_path, strerror(errno));
    close(*fd);
    return rc;
}

/* One line, without its end. */
static int receive(int fd, struct dp_buffer *line, struct dp_error *e)
{
    char part[16384];
    for (;;) {
        ssize_t n = recv(fd, part, sizeof part, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (!n || (n < 0 && errno == ECONNRESET))
            return dp_error_set(e, -EPIPE, "it has ended");
        if (n < 0)
            return dp_error_set(e, -errno, "no answer: %s", errno == EAGAIN ? "it does not react" : strerror(errno));
        dp_buffer_append(line, part, (size_t)n);
        if (line->failed || line->size > REPLY_MAX)
            return dp_error_set(e, -EMSGSIZE, "the answer is too long");
        if (part[n - 1] == '\n') { /* a reply is the last thing a server says until it is asked again */
            line->size--;
            return 0;
        }
    }
}

struct json_object *cli_ask(int fd, const char *command, struct dp_error *e) { return cli_ask_with(fd, command, NULL, NULL, e); }

struct json_object *cli_ask_with(int fd, const char *command, const char *argument, const char *value, struct dp_error *e)
{
    return cli_ask_list(fd, command, (const char *const[]){argument, value, NULL}, e);
}

struct json_object *cli_ask_list(int fd, const char *command, const char *const *arguments, struct dp_error *e)
{
    struct json_object *request = json_object_new_object(), *reply = NULL, *part = NULL;
    struct dp_buffer text = {0};
    json_object_object_add(request, "command", json_object_new_string(command));
    for (const char *const *a = arguments; *a; a += 2)
        if (a[1])
            json_object_object_add(request, a[0], json_object_new_string(a[1]));
    dp_buffer_printf(&text, "%s\n", json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN));
    json_object_put(request);
    int rc = 0;
    if (send(fd, text.data, text.size, MSG_NOSIGNAL) != (ssize_t)text.size)
        rc = errno == EPIPE || errno == ECONNRESET ? dp_error_set(e, -EPIPE, "it has ended")
                                                   : dp_error_set(e, -errno, "cannot ask it: %s", strerror(errno));
    text.size = 0;
    if (!rc && !receive(fd, &text, e)) {
        struct json_tokener *t = json_tokener_new();
        reply = t ? json_tokener_parse_ex(t, (char *)text.data, (int)text.size) : NULL;
        json_tokener_free(t);
        if (json_object_object_get_ex(reply, "result", &part))
            json_object_get(part);
        else if (json_object_object_get_ex(reply, "error", &part))
            dp_error_set(e, -EINVAL, "%s", json_object_get_string(part)), part = NULL;
        else
            dp_error_set(e, -EPROTO, "the answer is not understood: is it of another version of doppel?");
    }
    json_object_put(reply);
    dp_buffer_fini(&text);
    return part;
}
