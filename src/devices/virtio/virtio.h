/* devices/virtio/virtio.h - virtio 1.0 devices and split virtqueues, independent of the transport.
 *
 * Model: a struct dp_virtio is embedded in a concrete device (blk, rng, console); the transport (virtio-pci) owns configuration and notification and
 * calls the class's functions. Queues are worked on in the thread the notification arrives in or in the loop, under the device's lock.
 * Source: Virtio 1.0 (OASIS cs04) ch. 2-5.
 * Invariants: a descriptor is copied once, then validated, then used; a chain longer than the queue, an address outside RAM, an index out of range or
 * a loop puts the device into NEEDS_RESET and never costs more than the queue's size in work. Queue memory is reached by pins only.
 */
#ifndef DP_VIRTIO_H
#define DP_VIRTIO_H

#include "devices/device.h"

#define DP_VIRTIO_QUEUES 8
#define DP_VIRTIO_QUEUE_MAX 1024
#define DP_VIRTIO_SEGMENTS 1024

enum { DP_VIRTIO_F_RING_INDIRECT = 28, DP_VIRTIO_F_RING_EVENT_IDX = 29, DP_VIRTIO_F_VERSION_1 = 32 };
enum { DP_VIRTIO_ACKNOWLEDGE = 1, DP_VIRTIO_DRIVER = 2, DP_VIRTIO_DRIVER_OK = 4, DP_VIRTIO_FEATURES_OK = 8, DP_VIRTIO_NEEDS_RESET = 64, DP_VIRTIO_FAILED = 128 };

struct dp_virtqueue_regs { uint64_t desc, avail, used; uint16_t size, vector, last_avail, used_index; uint16_t signalled_used; bool enabled, signalled_valid; };
struct dp_virtio_regs {
    uint64_t driver_features;
    uint8_t status, isr;
    uint8_t generation;
    uint16_t config_vector;
    struct dp_virtqueue_regs queue[DP_VIRTIO_QUEUES];
};
extern const struct dp_state_table dp_virtio_regs_table;

struct dp_virtio;
struct dp_virtio_class {
    uint16_t device_id;          /* 2 block, 3 console, 4 entropy */
    uint16_t queue_count;
    uint16_t queue_size;
    uint32_t config_size;
    uint64_t (*features)(struct dp_virtio *v);             /* offered, transport bits excluded */
    void (*config_read)(struct dp_virtio *v, uint32_t offset, void *data, uint32_t size);
    void (*config_write)(struct dp_virtio *v, uint32_t offset, const void *data, uint32_t size); /* NULL: read-only */
    void (*notify)(struct dp_virtio *v, unsigned queue);   /* the driver kicked a ready queue; lock held */
    void (*reset)(struct dp_virtio *v);                    /* driver wrote status 0 (after in-flight work is cancelled or drained); lock held */
    void (*driver_ok)(struct dp_virtio *v);                /* may be NULL; lock held */
};

struct dp_virtio {
    const struct dp_virtio_class *vclass;
    struct dp_virtio_regs *regs;
    struct dp_device *device;    /* owner: lock and env */
    void (*interrupt)(void *transport, unsigned vector, bool config); /* set by the transport; called without the lock (dp_virtio_flush) */
    void *transport;
    uint32_t pending_signals;    /* bit per queue, bit 31 config: sent by dp_virtio_unlock */
};

/* One request: host segments, device-readable first. Addresses are guest-physical; they are pinned by the helpers below for each copy. */
struct dp_virtio_segment { uint64_t address; uint32_t length; };
struct dp_virtio_request {
    uint16_t head, queue;
    uint16_t out_count, in_count;        /* out: device reads; in: device writes */
    uint64_t out_bytes, in_bytes;
    struct dp_virtio_segment segment[DP_VIRTIO_SEGMENTS]; /* out then in */
};

/* With the device's lock held: */
/* 1 and a request, 0 when the queue is empty, -1 when the driver broke the rules (device now NEEDS_RESET). */
int dp_virtio_pop(struct dp_virtio *v, unsigned queue, struct dp_virtio_request *r);
void dp_virtio_push(struct dp_virtio *v, unsigned queue, uint16_t head, uint32_t written);
/* Bytes [offset, +size) of the out (in) part from (to) guest memory; returns bytes copied, short when the part ends or leaves RAM. */
uint64_t dp_virtio_read(struct dp_virtio *v, const struct dp_virtio_request *r, uint64_t offset, void *data, uint64_t size);
uint64_t dp_virtio_write(struct dp_virtio *v, const struct dp_virtio_request *r, uint64_t offset, const void *data, uint64_t size);
void dp_virtio_broken(struct dp_virtio *v, const char *format, ...) DP_PRINTF(2, 3);
void dp_virtio_config_changed(struct dp_virtio *v);
bool dp_virtio_has(const struct dp_virtio *v, unsigned feature);
/* The device's lock; unlock sends the interrupts that pushes asked for, after the lock is released. */
void dp_virtio_lock(struct dp_virtio *v);
void dp_virtio_unlock(struct dp_virtio *v);

/* devices/virtio/virtio_pci.c: struct dp_virtio_pci is an adapter device; child is a created and initialised device whose dp_virtio is v. Owns child. */
struct dp_device *dp_virtio_pci_create(const char *id, const struct dp_device_env *env, struct dp_device *child, struct dp_virtio *v, struct dp_error *e);
struct dp_pci_function *dp_virtio_pci_function(struct dp_device *adapter);

/* Concrete devices. Properties and wires per class file. */
extern const struct dp_device_class dp_virtio_blk_class, dp_virtio_rng_class, dp_virtio_console_class, dp_virtio_pci_class;
struct dp_block; struct dp_console;
void dp_virtio_blk_attach(struct dp_device *d, struct dp_block *b);       /* before init; not owned */
void dp_virtio_console_attach(struct dp_device *d, struct dp_console *c); /* before init; not owned; NULL: output is dropped */
struct dp_virtio *dp_virtio_of(struct dp_device *d);                      /* the dp_virtio in one of the classes above */

#endif
