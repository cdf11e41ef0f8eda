/* control/server.h - a control socket: what other programs ask of one that runs.
 *
 * Model: a unix stream socket. One JSON object per line, request and reply in order:
 *     {"command":"query-status"}            {"result":{"phase":"running",...}}
 *     {"command":"nonsense","id":7}         {"id":7,"error":"'nonsense' is no command: ..."}
 * "id", a string or an integer, comes back as it was. A command may need arguments, strings beside it, and take some that may be
 * missing. Commands stand in one table of the service's, which help and the documentation derive from.
 * Everything happens in the loop's thread.
 * Invariants: bytes of clients are hostile. A line has an end and at most DP_CONTROL_LINE_MAX bytes: a longer one is answered by an error
 * and skipped, one that is cut off by the end of the connection is not obeyed. The next request is read when the reply to the last has
 * left, so what a client can make us keep is one line and one reply.
 */
#ifndef DP_CONTROL_SERVER_H
#define DP_CONTROL_SERVER_H

#include "base/base.h"

struct dp_control_server;
struct dp_loop;
struct json_object;

enum { DP_CONTROL_LINE_MAX = 65536, DP_CONTROL_CLIENTS_MAX = 16, DP_CONTROL_ARGUMENTS_MAX = 10 };

struct dp_control_command {
    const char *name, *help, *argument[DP_CONTROL_ARGUMENTS_MAX]; /* the arguments' names, NULL after the last */
    unsigned optional;                                            /* so many of them, the last ones, may be missing */
};

struct dp_control_service {
    const struct dp_control_command *(*command)(unsigned i); /* the i-th; NULL after the last */
    /* Its result, which becomes the server's; NULL: e tells why not. Arguments have no NUL in them. */
    struct json_object *(*run)(void *opaque, unsigned i, const char *const *argument, struct dp_error *e);
};

int dp_control_server_create(struct dp_loop *loop, const struct dp_control_service *service, void *opaque, struct dp_control_server **out,
                             struct dp_error *e) DP_MUST_CHECK;
void dp_control_server_destroy(struct dp_control_server *c); /* NULL is fine; the socket's file stays, its folder's owner removes it */
/* Makes the socket and serves whoever connects. */
int dp_control_server_listen(struct dp_control_server *c, const char *path, struct dp_error *e) DP_MUST_CHECK;
/* Serves a connected socket, which becomes the server's, in any case. */
int dp_control_server_adopt(struct dp_control_server *c, int fd, struct dp_error *e) DP_MUST_CHECK;

#endif
