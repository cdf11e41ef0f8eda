/* devices/virtio/virtio_input.h - keyboard, mouse and tablet for guests with a driver: virtio-input.
 *
 * Model: events of Linux's input layer (type, code, value), one to a buffer of the event queue, in batches that end with SYN_REPORT.
 * Property `kind` says which device it is: a keyboard (keys, repeated by the guest; its LEDs come by the status queue), a mouse (relative)
 * or a tablet (absolute, 0-32767 in both directions, with buttons and a wheel). What the guest has no buffers for waits in a ring (state).
 * Without a driver nothing waits: events are dropped, so a driver that comes finds no keys of before.
 * Invariants: a full ring never leaves a key held. A batch that does not fit is dropped whole, and when the ring is empty again, the guest
 * gets the differences between what is held and what it was told, and the last position.
 * Source: Virtio 1.2 section 5.8; Linux's input-event-codes.h for types and codes.
 */
#ifndef DP_VIRTIO_INPUT_H
#define DP_VIRTIO_INPUT_H

#include "devices/virtio/virtio.h"
#include "display/input_router.h"

extern const struct dp_device_class dp_virtio_input_class; /* "virtio-input"; property kind: keyboard, mouse, tablet */

/* What the device takes, and whether the guest has a driver for it. Lives as long as the device; after dp_device_init. */
struct dp_input_route dp_virtio_input_route(struct dp_device *d);

#endif
