/* debug_exit.c - isa-debug-exit and the exit-status latch; see debug_exit.h.
 *
 * Source: the interface of QEMU's isa-debug-exit (its documentation and its use in kvm-unit-tests); the latch is our own.
 */
#include "devices/char/debug_exit.h"

/* ---- isa-debug-exit ---- */

static void exit_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    const struct dp_device_env *env = ((struct dp_device *)opaque)->env;
    DP_TRACE(env->trace, DP_TRACE_VM, "guest ends the VM by isa-debug-exit, value 0x%llx", (unsigned long long)value);
    if (env->vm.request)
        env->vm.request(env->vm.opaque, DP_VM_EXIT, (int)((uint32_t)value << 1 | 1));
}

static const struct dp_window_ops exit_ops = {.name = "isa-debug-exit", .write = exit_write, .max_size = 4};
static const struct dp_window_spec exit_windows[] = {[DP_DEBUG_EXIT_WINDOW] = {"value", 4, &exit_ops, true}};

const struct dp_device_class dp_debug_exit_class = {
    .name = "isa-debug-exit",
    .summary = "ends the VM with a status on a port write",
    .size = sizeof(struct dp_device),
    .windows = exit_windows,
    .window_count = DP_ARRAY_LEN(exit_windows),
};

/* ---- exit-status ---- */

struct status_regs { uint8_t value[2]; };
struct status { struct dp_device device; struct status_regs regs; };

static const struct dp_field status_fields[] = {
    DP_FIELD_BYTES(struct status_regs, value, 1),
};
static const struct dp_state_table status_table = DP_STATE_TABLE(struct status_regs, "exit-status", status_fields);

static uint64_t status_read(void *opaque, uint64_t offset, unsigned size)
{
    struct status *s = opaque;
    pthread_mutex_lock(&s->device.lock);
    uint64_t v = size == 2 ? dp_ld16(s->regs.value) : s->regs.value[offset];
    pthread_mutex_unlock(&s->device.lock);
    return v;
}

static void status_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct status *s = opaque;
    pthread_mutex_lock(&s->device.lock);
    if (size == 2)
        dp_st16(s->regs.value, (uint16_t)value);
    else
        s->regs.value[offset] = (uint8_t)value;
    pthread_mutex_unlock(&s->device.lock);
}

uint16_t dp_exit_status_get(struct dp_device *d) { return (uint16_t)status_read(d, 0, 2); }

static const struct dp_window_ops status_ops = {.name = "exit-status", .read = status_read, .write = status_write, .max_size = 2};
static const struct dp_window_spec status_windows[] = {[DP_EXIT_STATUS_WINDOW] = {"status", 2, &status_ops, true}};

const struct dp_device_class dp_exit_status_class = {
    .name = "exit-status",
    .summary = "remembers the status the guest wants to end with",
    .size = sizeof(struct status),
    .regs_offset = offsetof(struct status, regs),
    .state = &status_table,
    .windows = status_windows,
    .window_count = DP_ARRAY_LEN(status_windows),
};
