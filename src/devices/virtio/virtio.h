/* devices/virtio/virtio.h - virtio 1.0 devices and split virtqueues, independent of the transport.
 *
 * Model: a struct dp_virtio is embedded in a concrete device (blk, net, rng, console); the transport (virtio-pci) owns configuration and
 * notification and calls the class's functions. Queues are worked on in the thread the notification arrives in or in the loop, under the
 * device's lock; what must call out (block, console) is put off to the class's `deferred`, which dp_virtio_unlock calls with no lock held.
 * Reset by the driver: status keeps its value until the last request in flight has come back, then all is cleared and status reads 0, for
 * which the driver waits (section 2.1.1); meanwhile nothing is taken from or put into the rings.
 * Source: Virtio 1.0 (OASIS cs04) ch. 2-5.
 * Invariants: a descriptor is copied once, then validated, then used; a chain longer than the queue, an address outside RAM, an index out
 * of range or a loop puts the device into NEEDS_RESET and never costs more than the queue's size in work. Queue memory is reached by pins
 * only.
 * Length of a chain: what lies in the queue's own table is at most the queue's size, an indirect table has at most DP_VIRTIO_SEGMENTS
 * entries (drivers do make those longer than a small queue).
 */
#ifndef DP_VIRTIO_H
#define DP_VIRTIO_H

#include "devices/device.h"

#define DP_VIRTIO_QUEUES 17 /* a network card of 8 pairs and its control queue */
#define DP_VIRTIO_QUEUES_FIRST 8 /* of them, in the first field of saved states */
#define DP_VIRTIO_QUEUE_MAX 1024
#define DP_VIRTIO_SEGMENTS 1024
#define DP_VIRTIO_NO_VECTOR 0xffff

enum { DP_VIRTIO_F_RING_INDIRECT = 28, DP_VIRTIO_F_RING_EVENT_IDX = 29, DP_VIRTIO_F_VERSION_1 = 32 };
enum { DP_VIRTIO_ACKNOWLEDGE = 1, DP_VIRTIO_DRIVER = 2, DP_VIRTIO_DRIVER_OK = 4, DP_VIRTIO_FEATURES_OK = 8, DP_VIRTIO_NEEDS_RESET = 64,
       DP_VIRTIO_FAILED = 128 };
enum { DP_VIRTIO_ISR_QUEUE = 1, DP_VIRTIO_ISR_CONFIG = 2 };

struct dp_virtqueue_regs {
    uint64_t desc, avail, used;
    uint16_t size;             /* as the driver set it; 0: as the device offers */
    uint16_t vector, last_avail, used_index;
    bool enabled;
};
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
    uint16_t device_id;          /* 1 network, 2 block, 3 console, 4 entropy */
    uint32_t pci_class;          /* 24 bits */
    uint16_t queue_count;        /* of every device of the class, or where a device's own number starts from */
    uint16_t queue_size;
    uint32_t config_size;
    uint64_t (*features)(struct dp_virtio *v);             /* offered, transport and ring bits excluded; NULL: none */
    void (*config_read)(struct dp_virtio *v, uint32_t offset, void *data, uint32_t size);
    void (*config_write)(struct dp_virtio *v, uint32_t offset, const void *data, uint32_t size); /* NULL: read-only */
    void (*notify)(struct dp_virtio *v, unsigned queue);   /* the driver kicked a ready queue; lock held. Takes at most the queue's size */
    /* driver wrote status 0 (after in-flight work is cancelled or drained); lock held; may be NULL */
    void (*reset)(struct dp_virtio *v);
    void (*driver_ok)(struct dp_virtio *v);                /* may be NULL; lock held */
    void (*deferred)(struct dp_virtio *v);                 /* may be NULL; after v->deferred was set, no lock held */
    void (*drain)(struct dp_virtio *v);                    /* may be NULL; helps requests in flight to an end, no lock held */
};

struct dp_virtio {
    const struct dp_virtio_class *vclass;
    struct dp_virtio_regs *regs;
    struct dp_device *device;    /* owner: lock and env */
    uint16_t queue_count;        /* DP_VIRTIO_QUEUES at most; a device may change it after dp_virtio_init, in its init */
    /* Set by the transport; called by dp_virtio_unlock without the lock after isr changed. NO_VECTOR: there is no message to send. */
    void (*interrupt)(void *transport, unsigned vector);
    void *transport;
    uint32_t pending_signals;    /* bit per queue, bit 31 config, bit 30 the line: sent by dp_virtio_unlock */
    /* The rest follows from regs or is nothing while paused. */
    bool deferred;               /* unlock shall call vclass->deferred */
    bool paused;                 /* rings are left alone */
    bool dma;                    /* the transport lets the device reach memory; true unless it says otherwise */
    bool resetting;              /* the driver reset the device while requests were in flight */
    uint16_t in_flight[DP_VIRTIO_QUEUES]; /* popped, not pushed; a queue's size at most */
    uint32_t epoch;              /* counts resets: what was begun before one must not be finished after it */
    uint32_t again;              /* bit per queue: has more than one batch to do */
    struct dp_timer again_timer;
};

/* One request: host segments, device-readable first. Addresses are guest-physical; they are pinned by the helpers below for each copy.
 * No segment is empty. */
struct dp_virtio_segment { uint64_t address; uint32_t length; };
struct dp_virtio_request {
    uint16_t head, queue;
    uint16_t out_count, in_count;        /* out: device reads; in: device writes */
    uint64_t out_bytes, in_bytes;
    struct dp_virtio_segment segment[DP_VIRTIO_SEGMENTS]; /* out then in */
};

/* For the concrete devices, from the class's functions of the same names, with no lock held. Reset and pause return with nothing in
 * flight. */
void dp_virtio_init(struct dp_virtio *v, const struct dp_virtio_class *c, struct dp_virtio_regs *regs, struct dp_device *device);
void dp_virtio_fini(struct dp_virtio *v);
void dp_virtio_reset(struct dp_virtio *v);
void dp_virtio_pause(struct dp_virtio *v);
void dp_virtio_resume(struct dp_virtio *v);                /* looks at every queue */
void dp_virtio_post_load(struct dp_virtio *v);

/* With the device's lock held: */
/* 1 and a request, 0 when the queue is empty (or the device may not look), -1 when the driver broke the rules (device now NEEDS_RESET). */
int dp_virtio_pop(struct dp_virtio *v, unsigned queue, struct dp_virtio_request *r);
void dp_virtio_push(struct dp_virtio *v, unsigned queue, uint16_t head, uint32_t written);
/* Several at once: the driver sees all or none of them, and one interrupt. */
struct dp_virtio_used { uint16_t head; uint32_t written; };
void dp_virtio_push_all(struct dp_virtio *v, unsigned queue, const struct dp_virtio_used *used, unsigned count);
/* Puts the request popped last back: the next pop gives it again. */
void dp_virtio_unpop(struct dp_virtio *v, unsigned queue);
/* The queue has more than this batch: go on with it soon, from the loop. */
void dp_virtio_more(struct dp_virtio *v, unsigned queue);
/* How many requests a device takes in one go, and may have in flight, of a queue. */
unsigned dp_virtio_queue_size(const struct dp_virtio *v, unsigned queue);
/* Bytes [offset, +size) of the out (in) part from (to) guest memory; returns bytes copied, short when the part ends or leaves RAM. */
uint64_t dp_virtio_read(struct dp_virtio *v, const struct dp_virtio_request *r, uint64_t offset, void *data, uint64_t size);
uint64_t dp_virtio_write(struct dp_virtio *v, const struct dp_virtio_request *r, uint64_t offset, const void *data, uint64_t size);
/* The same for segments that the device keeps beyond the request. */
uint64_t dp_virtio_write_to(struct dp_virtio *v, const struct dp_virtio_segment *s, unsigned count, uint64_t offset, const void *data,
                            uint64_t size);
/* Pins bytes [skip, +size) of the segments for a request that goes on without the lock: how many pins, or -1 (not RAM, or more than most),
 * with none left. A buffer that crosses RAM ranges takes more than one: DP_VIRTIO_PINS are enough for what guests do. */
#define DP_VIRTIO_PINS (DP_VIRTIO_SEGMENTS + 64)
int dp_virtio_pin(struct dp_virtio *v, const struct dp_virtio_segment *s, unsigned count, uint64_t skip, uint64_t size, bool write,
                  struct dp_pin *pins, unsigned most);
void dp_virtio_unpin(struct dp_virtio *v, const struct dp_pin *pins, unsigned count, bool written);
void dp_virtio_broken(struct dp_virtio *v, const char *format, ...) DP_PRINTF(2, 3);
void dp_virtio_config_changed(struct dp_virtio *v);
bool dp_virtio_has(const struct dp_virtio *v, unsigned feature);
/* The driver is up and nothing keeps the device from its rings. */
bool dp_virtio_running(const struct dp_virtio *v);
/* The device's lock; unlock sends the interrupts that pushes asked for, after the lock is released. */
void dp_virtio_lock(struct dp_virtio *v);
void dp_virtio_unlock(struct dp_virtio *v);

/* For transports, with the lock held: */
uint64_t dp_virtio_features(struct dp_virtio *v);          /* offered, all bits */
void dp_virtio_set_status(struct dp_virtio *v, uint8_t status);
void dp_virtio_set_dma(struct dp_virtio *v, bool on);
void dp_virtio_enable_queue(struct dp_virtio *v, unsigned queue);
void dp_virtio_notify(struct dp_virtio *v, unsigned queue);

/* devices/virtio/virtio_pci.c: struct dp_virtio_pci is an adapter device; child is a created and initialised device whose dp_virtio is v.
 * Owns child
 * (once it succeeded: NULL leaves it to the caller). Reset, pause and resume of the adapter reach the child; a saved VM has a record of
 * each, the adapter's first. Plug the function into a bus afterwards; freeing the adapter unplugs it. */
struct dp_device *dp_virtio_pci_create(const char *id, const struct dp_device_env *env, struct dp_device *child, struct dp_virtio *v,
                                       struct dp_error *e);
struct dp_pci_function *dp_virtio_pci_function(struct dp_device *adapter);
/* An expansion ROM, before the function is plugged. Copied, and made to name this device, as one ROM serves several of a family. */
int dp_virtio_pci_rom(struct dp_device *adapter, const void *data, size_t size, struct dp_error *e) DP_MUST_CHECK;
struct dp_device *dp_virtio_pci_child(struct dp_device *adapter);
/* BARs of the function: 0 and 1 hold the registers (64 bits wide), 2 the MSI-X table. Vectors: one per queue and one for configuration. */
enum { DP_VIRTIO_PCI_BAR = 0, DP_VIRTIO_PCI_MSIX_BAR = 2 };

/* Concrete devices. Properties and wires per class file. */
extern const struct dp_device_class dp_virtio_blk_class, dp_virtio_scsi_class, dp_virtio_rng_class, dp_virtio_console_class, dp_virtio_net_class,
    dp_virtio_pci_class;
struct dp_block; struct dp_console;
void dp_virtio_blk_attach(struct dp_device *d, struct dp_block *b);       /* before init; not owned */
void dp_virtio_blk_resized(struct dp_device *d); /* the image has another size now: the guest is told */
void dp_virtio_console_attach(struct dp_device *d, struct dp_console *c); /* before init; not owned; NULL: output is dropped */
/* The card's end of its cable, which may be connected once the device is initialised; its address, before init. */
struct dp_net_port;
struct dp_net_port *dp_virtio_net_port(struct dp_device *d);
void dp_virtio_net_wire(struct dp_device *d, const uint8_t mac[6]);
void dp_virtio_net_announce(struct dp_device *d); /* the guest shall tell the network where it is: after a migration */
struct dp_virtio *dp_virtio_of(struct dp_device *d);                      /* the dp_virtio in one of the classes above */
/* How each concrete device starts, so that dp_virtio_of works for all. */
struct dp_virtio_device { struct dp_device device; struct dp_virtio virtio; };

#endif
