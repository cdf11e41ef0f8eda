/* devices/device.h - devices are constant tables, no object system.
 *
 * Model: a class names its properties, its state table, its register windows and its life-cycle functions. An instance starts with struct
 * dp_device; guest-visible state lies in one plain struct (regs) described by the table, host handles lie beside it. A device core does not
 * know its bus: PCI and virtio are adapters. Only machine/ names concrete devices, in an explicit array.
 * Locks: one mutex per device, taken by its own entry points; never call out (irq, msi, memory, block, timers of others) while
 * holding it except dp_timer_arm/disarm. Irq levels are computed under the lock and set after it is released; because of that
 * dp_irq_set must be idempotent by level, and a device re-reads its level in a loop when it may have raced (ISA
 * lines: edge_line.h).
 * Phases: init -> reset -> [resume -> pause]* -> fini. After pause a device produces nothing (no irq,
 * no DMA, no output) but accepts and holds input.
 */
#ifndef DP_DEVICE_H
#define DP_DEVICE_H

#include <pthread.h>

#include "event/event.h"
#include "memory/memory.h"
#include "state/state.h"

/* ---- wires ---- */

struct dp_irq { void (*set)(void *opaque, unsigned n, bool level); void *opaque; unsigned n; };
static inline void dp_irq_set(const struct dp_irq *i, bool level) { if (i && i->set) i->set(i->opaque, i->n, level); }
/* A message-signalled interrupt is a write to the APIC window; the machine's sink routes it. Any thread. */
struct dp_msi_sink { void (*send)(void *opaque, uint64_t address, uint32_t data); void *opaque; };
/* Requests to the VM: any thread. status for DP_VM_EXIT. */
enum dp_vm_request { DP_VM_POWEROFF, DP_VM_RESET, DP_VM_EXIT };
struct dp_vm_sink { void (*request)(void *opaque, enum dp_vm_request r, int status); void *opaque; };

struct dp_device_env {          /* what a machine lends its devices; outlives them */
    struct dp_loop *loop;       /* NULL in tests without one */
    struct dp_clock *clock;
    struct dp_space *memory, *ports;
    struct dp_trace *trace;
    struct dp_msi_sink msi;
    struct dp_vm_sink vm;
};

/* ---- properties: one table yields CLI, file, schema, help and checks ---- */

enum dp_property_kind { DP_PROP_BOOL, DP_PROP_UINT, DP_PROP_SIZE, DP_PROP_STRING, DP_PROP_ENUM };
struct dp_property {
    const char *name, *help;
    enum dp_property_kind kind;
    uint32_t offset;            /* in the instance: bool, uint64_t, char * (owned by the config) */
    uint64_t initial, min, max;
    const char *const *names;   /* ENUM: NULL-terminated, value = index, stored as uint64_t */
};

struct dp_device;
struct dp_window_spec { const char *name; uint64_t size; const struct dp_window_ops *ops; bool ports; };

struct dp_device_class {
    const char *name, *summary;
    uint32_t size;                            /* of the instance */
    uint32_t regs_offset;                     /* of regs in the instance */
    const struct dp_state_table *state;
    const struct dp_property *properties; unsigned property_count;
    const struct dp_window_spec *windows; unsigned window_count; /* ops get the instance as opaque */
    int (*init)(struct dp_device *d, struct dp_error *e);        /* host handles; properties and wires are set before */
    void (*fini)(struct dp_device *d);
    void (*reset)(struct dp_device *d);       /* after the table's reset: what else a hardware reset does (timers, lines). May be NULL */
    void (*pause)(struct dp_device *d);
    void (*resume)(struct dp_device *d);
    void (*pre_save)(struct dp_device *d);    /* brings regs up to date (counters that derive from the clock). May be NULL */
    void (*post_load)(struct dp_device *d);   /* regs were replaced: re-arm timers, re-drive lines. May be NULL */
};

struct dp_device {
    const struct dp_device_class *class;
    char id[32];                              /* "serial0" */
    const struct dp_device_env *env;
    pthread_mutex_t lock;
    bool initialised;                         /* private to device.c: fini is due */
};

/* Allocates, sets properties to their initial values. The caller then sets properties and wires and
 * calls dp_device_init, which resets too. */
struct dp_device *dp_device_alloc(const struct dp_device_class *c, const char *id, const struct dp_device_env *env);
int dp_device_init(struct dp_device *d, struct dp_error *e) DP_MUST_CHECK;
void dp_device_free(struct dp_device *d); /* fini if it was initialised; NULL is fine */
void dp_device_reset(struct dp_device *d);
void dp_device_pause(struct dp_device *d);
void dp_device_resume(struct dp_device *d);
void dp_device_save(struct dp_device *d, struct dp_buffer *out);
int dp_device_load(struct dp_device *d, const void *data, size_t size, size_t *used, struct dp_error *e) DP_MUST_CHECK;
int dp_device_set(struct dp_device *d, const char *property, const char *value, struct dp_error *e) DP_MUST_CHECK;
static inline void *dp_device_regs(struct dp_device *d) { return (char *)d + d->class->regs_offset; }
/* Maps window number n of the device at base. */
int dp_device_map(struct dp_device *d, unsigned window, uint64_t base, struct dp_error *e) DP_MUST_CHECK;

#endif
