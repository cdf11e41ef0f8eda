/* vm/control.h - the control socket of a VM (control/server.h), in its folder (control/rundir.h). */
#ifndef DP_VM_CONTROL_H
#define DP_VM_CONTROL_H

#include "control/server.h"

struct dp_control;
struct dp_vm;

/* The i-th command; NULL after the last. */
const struct dp_control_command *dp_control_command(unsigned i);

/* For a VM in the same loop. Destroy it before the VM. */
int dp_control_create(struct dp_loop *loop, struct dp_vm *vm, const char *name, struct dp_control **out, struct dp_error *e) DP_MUST_CHECK;
void dp_control_destroy(struct dp_control *c); /* NULL is fine; the socket's file stays, its folder's owner removes it */
/* As dp_control_server_listen and dp_control_server_adopt. */
int dp_control_listen(struct dp_control *c, const char *path, struct dp_error *e) DP_MUST_CHECK;
int dp_control_adopt(struct dp_control *c, int fd, struct dp_error *e) DP_MUST_CHECK;

#endif
