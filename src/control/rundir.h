/* control/rundir.h - the folder of a running, named VM: $XDG_RUNTIME_DIR/doppel/NAME; or of a network: $XDG_RUNTIME_DIR/doppel/@NAME.
 *
 * Model: the base folder is doppel/ in $XDG_RUNTIME_DIR, else in /run/user/UID, else /tmp/doppel-UID. Each named VM has a folder there with
 * `pid`, the process's number in a file that it keeps locked, `control`, its socket (control/server.h), and with --display vnc the socket
 * `vnc`; a network's has the socket `ports` (net/network.h).
 * Invariants: folders are the user's own and closed to all others, or are refused. Who holds the lock on `pid` owns the folder; a process
 * that died holds none, so its folder is taken over by the next of that name. At the end the owner removes what is in it, `pid` last.
 */
#ifndef DP_CONTROL_RUNDIR_H
#define DP_CONTROL_RUNDIR_H

#include "base/base.h"

enum { DP_RUNDIR_NAME_MAX = 48, DP_RUNDIR_PATH_MAX = 256 };

struct dp_rundir {
    char path[DP_RUNDIR_PATH_MAX]; /* "" when not claimed */
    int lock_fd;
};

/* Letters, digits, '.', '_' and '-', the first no sign: a name is a file's name and an argument. */
int dp_rundir_check_name(const char *name, struct dp_error *e) DP_MUST_CHECK;
#define DP_RUNDIR_NETWORK '@' /* in front of a name below: a network's */
/* -EBUSY: one of this name is running. */
int dp_rundir_claim(const char *name, struct dp_rundir *out, struct dp_error *e) DP_MUST_CHECK;
void dp_rundir_release(struct dp_rundir *d);
/* Where the control socket of one of this name is. */
int dp_rundir_socket(const char *name, char *path, size_t size, struct dp_error *e) DP_MUST_CHECK;
/* Calls fn with the name of each VM (or network) whose folder is owned by a live process, in alphabetical order; none when there is no base
 * folder. */
int dp_rundir_each(bool networks, void (*fn)(void *opaque, const char *name), void *opaque, struct dp_error *e) DP_MUST_CHECK;

#endif
