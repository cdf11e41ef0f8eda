/* options.c - see options.h. */
#include "display/options.h"

#include <fcntl.h>
#include <unistd.h>

#include "display/text_view.h"
#include "display/vnc.h"

static int copy(char *to, size_t capacity, const char *from, size_t size, const char *text, struct dp_error *e)
{
    if (size >= capacity)
        return dp_error_set(e, -ENAMETOOLONG, "--display %.60s...: too long", text);
    memcpy(to, from, size);
    to[size] = 0;
    return 0;
}

int dp_display_parse(const char *text, struct dp_display_options *out, struct dp_error *e)
{
    static const char password[] = "password-file=";
    *out = (struct dp_display_options){0};
    if (!strcmp(text, "none"))
        return 0;
    if (!strcmp(text, "text")) {
        out->kind = DP_DISPLAY_TEXT;
        return 0;
    }
    out->kind = DP_DISPLAY_VNC;
    const char *p = text + 3;
    if (strncmp(text, "vnc", 3) || (*p && *p != '=' && *p != ','))
        return dp_error_set(e, -EINVAL, "--display %.60s: give none, text, vnc, vnc=unix:PATH or vnc=HOST:PORT", text);
    if (*p == '=') {
        size_t size = strcspn(++p, ",");
        bool path = size >= 5 && !strncmp(p, "unix:", 5);
        if (path ? size == 5 : !memchr(p, ':', size))
            return dp_error_set(e, -EINVAL, "--display %.60s: after vnc= give unix:PATH or HOST:PORT, such as vnc=127.0.0.1:5900", text);
        int rc =
            path ? copy(out->path, sizeof out->path, p + 5, size - 5, text, e) : copy(out->address, sizeof out->address, p, size, text, e);
        if (rc)
            return rc;
        p += size;
    }
    if (*p == ',') {
        if (strncmp(++p, password, sizeof password - 1) || !p[sizeof password - 1])
            return dp_error_set(e, -EINVAL, "--display %.60s: '%.40s' is not known: possible is password-file=FILE", text, p);
        p += sizeof password - 1;
        return copy(out->password_file, sizeof out->password_file, p, strlen(p), text, e);
    }
    return 0;
}

/* The first line of the file: VNC passwords have up to 8 characters, and one that is longer would promise more than it holds. */
static int read_password(const char *path, char password[9], struct dp_error *e)
{
    char text[64];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    int code = n < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    if (code)
        return dp_error_set(e, code, "password-file %s: %s", path, strerror(-code));
    text[n] = 0;
    size_t size = strcspn(text, "\r\n");
    if (!size || size > 8)
        return dp_error_set(e, -EINVAL, "password-file %s: the first line must have 1 to 8 characters, which is all that VNC uses", path);
    memcpy(password, text, size);
    password[size] = 0;
    return 0;
}

static int open_vnc(struct dp_display_viewer *viewer, const struct dp_display_options *o, struct dp_loop *loop, const char *path,
                    const char *name, const struct dp_display_source *source, const struct dp_input_sink *sink, struct dp_error *e)
{
    char password[9];
    struct dp_vnc_options v = {.name = name};
    if (*o->address)
        v.address = o->address;
    else
        v.path = *o->path ? o->path : path;
    if (!v.address && !v.path)
        return dp_error_set(e, -EINVAL,
                            "--display vnc: a VM without a name has no place for the socket: give --name NAME, vnc=unix:PATH or "
                            "vnc=127.0.0.1:5900");
    if (*o->password_file) {
        int rc = read_password(o->password_file, password, e);
        if (rc)
            return rc;
        v.password = password;
    }
    return dp_vnc_open(loop, &v, source, sink, &viewer->vnc, e);
}

int dp_display_open(struct dp_display_viewer *viewer, const struct dp_display_options *o, struct dp_loop *loop, struct dp_console *console,
                    const char *path, const char *name, const struct dp_display_source *source, const struct dp_input_sink *sink,
                    struct dp_error *e)
{
    *viewer = (struct dp_display_viewer){0};
    if (o->kind == DP_DISPLAY_VNC)
        return open_vnc(viewer, o, loop, path, name, source, sink, e);
    if (o->kind == DP_DISPLAY_NONE)
        return 0;
    if (!console || !isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO))
        return dp_error_set(e, -ENOTTY, "--display text needs a terminal on stdin and stdout: use vnc or none");
    return dp_text_view_open(loop, console, &(struct dp_text_view_options){.terminal_fd = STDOUT_FILENO}, source, sink, &viewer->text, e);
}

void dp_display_close(struct dp_display_viewer *viewer)
{
    dp_text_view_close(viewer->text);
    dp_vnc_close(viewer->vnc);
    *viewer = (struct dp_display_viewer){0};
}

void dp_display_describe(const struct dp_display_viewer *viewer, char *line, size_t size)
{
    *line = 0;
    if (viewer->vnc)
        snprintf(line, size, "screen: VNC on %s", dp_vnc_address(viewer->vnc));
}
