/* cli/client.h - the other end of a control socket (control/server.h), for verbs. */
#ifndef DP_CLI_CLIENT_H
#define DP_CLI_CLIENT_H

#include "base/base.h"

struct json_object;

/* Connects to the VM of this name, or the network with DP_RUNDIR_NETWORK in front; *fd is the caller's to close. -ENOENT: none runs; the text
 * names those that do. */
int cli_connect(const char *name, int *fd, struct dp_error *e) DP_MUST_CHECK;
/* The result of one command, which the caller puts; NULL with e set. -EPIPE: the VM has ended. */
struct json_object *cli_ask(int fd, const char *command, struct dp_error *e);
/* The same of a command with an argument. */
struct json_object *cli_ask_with(int fd, const char *command, const char *argument, const char *value, struct dp_error *e);
/* The same of a command with several: names and values in turn, NULL after the last pair; what has no value (NULL) is left out. */
struct json_object *cli_ask_list(int fd, const char *command, const char *const *arguments, struct dp_error *e);

#endif
