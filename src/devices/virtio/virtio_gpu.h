/* devices/virtio/virtio_gpu.h - a screen for guests with a driver: virtio-gpu, 2D, one scanout.
 *
 * Model: the guest makes resources (pictures that the device keeps), copies into them from its own memory (TRANSFER_TO_HOST_2D), shows
 * one, or a part of it, as the scanout, and says what changed (RESOURCE_FLUSH). Everything is done within the notification, so fences are
 * over when the response is written. Pixels and the lists of the guest's pages lie in the device's memory, one dp_ram of the property
 * `memory`, which bounds what a guest can make the host keep; registers hold where in it, so that registers and that memory together are
 * the whole state.
 * The cursor has a picture of its own there and is drawn into what viewers get.
 * What is offered (GET_DISPLAY_INFO, EDID) is properties xres and yres until somebody asks for another size (the source's `resize`), which
 * the driver is told by an event.
 * Invariants: rectangles, offsets and sizes are checked before anything is done; a loaded state may hold any: each place in the memory is
 * checked where it is used. One notification copies COPY_BUDGET bytes (virtio_gpu.c) and one request more at most.
 * The memory is no device state: who saves a machine saves dp_virtio_gpu_ram() as it does the main memory.
 * Source: Virtio 1.2 section 5.7.
 */
#ifndef DP_VIRTIO_GPU_H
#define DP_VIRTIO_GPU_H

#include "devices/virtio/virtio.h"
#include "display/display.h"

extern const struct dp_device_class dp_virtio_gpu_class; /* "virtio-gpu"; properties xres, yres, memory */

/* Lives as long as the device. No text; a blank picture while there is no scanout. */
struct dp_display_source dp_virtio_gpu_source(struct dp_device *d);
/* The guest has set a scanout. Any thread; opaque is the device. */
bool dp_virtio_gpu_shows(void *opaque);
struct dp_ram *dp_virtio_gpu_ram(struct dp_device *d);

#endif
