/* devices/virtio/virtio_rng.c - entropy from the host's getrandom.
 *
 * Model: one queue of writable buffers, each filled at once. A buffer gets at most CHUNK bytes, which the used length says; drivers ask
 * again.
 * Source: Virtio 1.0 section 5.4.
 */
#include <sys/random.h>

#include "devices/virtio/virtio.h"

#define CHUNK 4096

struct rng_regs { struct dp_virtio_regs virtio; };

struct virtio_rng {
    struct dp_virtio_device base;
    struct rng_regs regs;
    struct dp_virtio_request request; /* scratch, under the lock */
};

static const struct dp_field rng_fields[] = { DP_FIELD_STRUCT(struct rng_regs, virtio, 1, &dp_virtio_regs_table) };
static const struct dp_state_table rng_table = DP_STATE_TABLE(struct rng_regs, "virtio-rng", rng_fields);

static void rng_notify(struct dp_virtio *v, unsigned queue)
{
    struct virtio_rng *g = DP_CONTAINER_OF(v, struct virtio_rng, base.virtio);
    struct dp_virtio_request *r = &g->request;
    for (unsigned budget = dp_virtio_queue_size(v, queue); dp_virtio_pop(v, queue, r) > 0;) {
        uint8_t bytes[CHUNK];
        ssize_t n = getrandom(bytes, DP_MIN(r->in_bytes, sizeof(bytes)), 0);
        uint64_t written = n > 0 ? dp_virtio_write(v, r, 0, bytes, n) : 0;
        if (n > 0 && written < (uint64_t)n)
            dp_virtio_broken(v, "a buffer is not in RAM");
        dp_virtio_push(v, queue, r->head, written);
        if (!--budget) {
            dp_virtio_more(v, queue);
            return;
        }
    }
}

static const struct dp_virtio_class rng_virtio_class = {
    .device_id = 4, .pci_class = 0x00ff00, .queue_count = 1, .queue_size = 64, .notify = rng_notify,
};

static int rng_init(struct dp_device *d, struct dp_error *e)
{
    struct virtio_rng *g = DP_CONTAINER_OF(d, struct virtio_rng, base.device);
    dp_virtio_init(&g->base.virtio, &rng_virtio_class, &g->regs.virtio, d);
    return 0;
}

static void rng_fini(struct dp_device *d) { dp_virtio_fini(dp_virtio_of(d)); }
static void rng_reset(struct dp_device *d) { dp_virtio_reset(dp_virtio_of(d)); }
static void rng_pause(struct dp_device *d) { dp_virtio_pause(dp_virtio_of(d)); }
static void rng_resume(struct dp_device *d) { dp_virtio_resume(dp_virtio_of(d)); }
static void rng_post_load(struct dp_device *d) { dp_virtio_post_load(dp_virtio_of(d)); }

const struct dp_device_class dp_virtio_rng_class = {
    .name = "virtio-rng",
    .summary = "entropy source (virtio 1.0)",
    .size = sizeof(struct virtio_rng),
    .regs_offset = offsetof(struct virtio_rng, regs),
    .state = &rng_table,
    .init = rng_init,
    .fini = rng_fini,
    .reset = rng_reset,
    .pause = rng_pause,
    .resume = rng_resume,
    .post_load = rng_post_load,
};
