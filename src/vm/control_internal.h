/* vm/control_internal.h - commands of a VM's control socket that have a file of their own. Each returns the result; NULL: e tells why not. */
#ifndef DP_VM_CONTROL_INTERNAL_H
#define DP_VM_CONTROL_INTERNAL_H

#include "base/base.h"

struct dp_vm;
struct json_object;

/* control_disk.c */
struct json_object *dp_control_disks(struct dp_vm *vm, const char *const *argument, struct dp_error *e);
struct json_object *dp_control_disk_snapshot(struct dp_vm *vm, const char *const *argument, struct dp_error *e);
struct json_object *dp_control_disk_snapshot_inside(struct dp_vm *vm, const char *const *argument, struct dp_error *e);
struct json_object *dp_control_disk_job(struct dp_vm *vm, const char *const *argument, struct dp_error *e);
struct json_object *dp_control_disk_complete(struct dp_vm *vm, const char *const *argument, struct dp_error *e);
struct json_object *dp_control_disk_cancel(struct dp_vm *vm, const char *const *argument, struct dp_error *e);
struct json_object *dp_control_disk_resize(struct dp_vm *vm, const char *const *argument, struct dp_error *e);
struct json_object *dp_control_disk_bitmap_remove(struct dp_vm *vm, const char *const *argument, struct dp_error *e);
struct json_object *dp_control_disk_attach(struct dp_vm *vm, const char *const *argument, struct dp_error *e);
struct json_object *dp_control_disk_detach(struct dp_vm *vm, const char *const *argument, struct dp_error *e);

/* control_nic.c */
struct json_object *dp_control_nics(struct dp_vm *vm, const char *const *argument, struct dp_error *e);
struct json_object *dp_control_nic_add(struct dp_vm *vm, const char *const *argument, struct dp_error *e);
struct json_object *dp_control_nic_remove(struct dp_vm *vm, const char *const *argument, struct dp_error *e);

#endif
