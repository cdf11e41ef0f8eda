/* devices/virtio/virtio_console.c - one console port, the guest's hvc0.
 *
 * Model: queue 0 receives, queue 1 transmits; no multiport. Input waits in a small buffer (state) until the guest offers room, and the back
 * end is told how much fits. Output goes to the back end without lock by one thread at a time (`transmitting`); when the back end takes
 * less than all, the request is put back with its progress in tx_offset, and goes on when the back end is writable. So a guest whose
 * terminal is stopped waits, and nothing but the two numbers is in flight at a pause.
 * Source: Virtio 1.0 section 5.3.
 */
#include "console/console.h"
#include "devices/virtio/virtio.h"

enum { RECEIVE, TRANSMIT, QUEUES };
enum { INPUT = 256, CHUNK = 4096, CHUNKS_AT_ONCE = 256, CONFIG_SIZE = 12, CONFIG_MAX_PORTS = 4 };

struct console_regs {
    struct dp_virtio_regs virtio;
    uint8_t input[INPUT];
    uint16_t input_count;
    uint32_t tx_offset;    /* bytes of the next output request that the back end has taken */
};

struct virtio_console {
    struct dp_virtio_device base;
    struct console_regs regs;
    struct dp_console *console;
    bool kick;             /* there is room for input again: tell the back end */
    bool transmit;         /* there may be output to do */
    bool transmitting, transmit_again;
    struct dp_virtio_request request; /* scratch of the receiving side, under the lock */
    struct dp_virtio_request output;  /* belongs to whoever transmits */
    uint8_t chunk[CHUNK];             /* as well */
};

static int console_check(const void *regs, struct dp_error *e)
{
    const struct console_regs *r = regs;
    return r->input_count <= INPUT ? 0 : dp_error_set(e, -EINVAL, "%u bytes of console input waiting in %d", r->input_count, INPUT);
}

static void console_clamp(void *regs) { ((struct console_regs *)regs)->input_count %= INPUT + 1; }

static const struct dp_field console_fields[] = {
    DP_FIELD_STRUCT(struct console_regs, virtio, 1, &dp_virtio_regs_table),
    DP_FIELD_BYTES(struct console_regs, input, 2),
    DP_FIELD_U16(struct console_regs, input_count, 3, 0, 0),
    DP_FIELD_U32(struct console_regs, tx_offset, 4, 0, 0),
};
static const struct dp_state_table console_table =
    DP_STATE_TABLE(struct console_regs, "virtio-console", console_fields, .check = console_check, .clamp = console_clamp);

/* ---- input ---- */

/* Lock held: moves waiting input into the guest's buffers. */
static void deliver(struct virtio_console *c)
{
    struct dp_virtio *v = &c->base.virtio;
    struct dp_virtio_request *r = &c->request;
    unsigned budget = dp_virtio_queue_size(v, RECEIVE);
    while (c->regs.input_count && dp_virtio_pop(v, RECEIVE, r) > 0) {
        uint64_t want = DP_MIN(c->regs.input_count, r->in_bytes);
        uint64_t n = dp_virtio_write(v, r, 0, c->regs.input, want);
        if (n < want)
            dp_virtio_broken(v, "an input buffer is not in RAM");
        c->regs.input_count -= n;
        memmove(c->regs.input, c->regs.input + n, c->regs.input_count);
        dp_virtio_push(v, RECEIVE, r->head, n);
        if (!--budget) {
            dp_virtio_more(v, RECEIVE);
            return;
        }
    }
}

static size_t console_room(void *opaque)
{
    struct virtio_console *c = opaque;
    dp_virtio_lock(&c->base.virtio);
    size_t room = INPUT - c->regs.input_count;
    dp_virtio_unlock(&c->base.virtio);
    return room;
}

static void console_receive(void *opaque, const uint8_t *data, size_t n)
{
    struct virtio_console *c = opaque;
    dp_virtio_lock(&c->base.virtio);
    n = DP_MIN(n, (size_t)(INPUT - c->regs.input_count));
    memcpy(c->regs.input + c->regs.input_count, data, n);
    c->regs.input_count += n;
    deliver(c);
    dp_virtio_unlock(&c->base.virtio);
}

/* ---- output ---- */

/* Sends the next piece of the output queue. False: nothing to do, or the back end is full. Lock held on entry and exit, not in between. */
static bool transmit_chunk(struct virtio_console *c)
{
    struct dp_virtio *v = &c->base.virtio;
    struct dp_virtio_request *r = &c->output;
    if (dp_virtio_pop(v, TRANSMIT, r) <= 0)
        return false;
    uint64_t left = r->out_bytes > c->regs.tx_offset ? r->out_bytes - c->regs.tx_offset : 0;
    uint64_t want = DP_MIN(left, sizeof(c->chunk));
    uint64_t n = dp_virtio_read(v, r, c->regs.tx_offset, c->chunk, want), taken = n;
    if (n < want) {
        dp_virtio_broken(v, "an output buffer is not in RAM");
        left = n;
    }
    if (n && c->console) {
        dp_virtio_unlock(v);
        taken = dp_console_write(c->console, c->chunk, n);
        dp_virtio_lock(v);
    }
    if (taken >= left) {
        c->regs.tx_offset = 0;
        dp_virtio_push(v, TRANSMIT, r->head, 0);
    } else {
        c->regs.tx_offset += taken;
        dp_virtio_unpop(v, TRANSMIT);
    }
    return taken == n;
}

static void transmit(struct virtio_console *c)
{
    struct dp_virtio *v = &c->base.virtio;
    dp_virtio_lock(v);
    c->transmit_again = true;
    if (!c->transmitting) {
        c->transmitting = true;
        unsigned budget = CHUNKS_AT_ONCE;
        while (c->transmit_again && budget) { /* set by who comes meanwhile: a kick, or the back end that has room again */
            c->transmit_again = false;
            while (budget && transmit_chunk(c))
                budget--;
        }
        c->transmitting = false;
        if (!budget)
            dp_virtio_more(v, TRANSMIT);
    }
    dp_virtio_unlock(v);
}

static void console_writable(void *opaque) { transmit(opaque); }

/* ---- the virtio side ---- */

static void console_notify(struct dp_virtio *v, unsigned queue)
{
    struct virtio_console *c = DP_CONTAINER_OF(v, struct virtio_console, base.virtio);
    if (queue == RECEIVE) {
        deliver(c);
        c->kick = c->regs.input_count < INPUT;
    } else {
        c->transmit = true;
    }
    v->deferred = true;
}

static void console_deferred(struct dp_virtio *v)
{
    struct virtio_console *c = DP_CONTAINER_OF(v, struct virtio_console, base.virtio);
    dp_virtio_lock(v);
    bool kick = c->kick, output = c->transmit;
    c->kick = c->transmit = false;
    dp_virtio_unlock(v);
    if (kick && c->console)
        dp_console_kick(c->console);
    if (output)
        transmit(c);
}

static void console_config_read(struct dp_virtio *v, uint32_t offset, void *data, uint32_t size)
{
    uint8_t config[CONFIG_SIZE] = { [CONFIG_MAX_PORTS] = 1 };
    memcpy(data, config + offset, size);
}

static void console_driver_reset(struct dp_virtio *v)
{
    DP_CONTAINER_OF(v, struct virtio_console, base.virtio)->regs.tx_offset = 0;
}

static const struct dp_virtio_class console_virtio_class = {
    .device_id = 3, .pci_class = 0x078000, .queue_count = QUEUES, .queue_size = 128, .config_size = CONFIG_SIZE,
    .config_read = console_config_read, .notify = console_notify, .reset = console_driver_reset, .deferred = console_deferred,
};

/* ---- life cycle ---- */

void dp_virtio_console_attach(struct dp_device *d, struct dp_console *console)
{
    DP_CONTAINER_OF(d, struct virtio_console, base.device)->console = console;
}

static int console_init(struct dp_device *d, struct dp_error *e)
{
    struct virtio_console *c = DP_CONTAINER_OF(d, struct virtio_console, base.device);
    dp_virtio_init(&c->base.virtio, &console_virtio_class, &c->regs.virtio, d);
    struct dp_console_client client = { .room = console_room, .receive = console_receive, .writable = console_writable, .opaque = c };
    if (c->console)
        dp_console_attach(c->console, &client);
    return 0;
}

static void console_fini(struct dp_device *d)
{
    struct virtio_console *c = DP_CONTAINER_OF(d, struct virtio_console, base.device);
    if (c->console)
        dp_console_attach(c->console, NULL);
    dp_virtio_fini(&c->base.virtio);
}

static void console_reset(struct dp_device *d) { dp_virtio_reset(dp_virtio_of(d)); }
static void console_pause(struct dp_device *d) { dp_virtio_pause(dp_virtio_of(d)); }
static void console_resume(struct dp_device *d) { dp_virtio_resume(dp_virtio_of(d)); }
static void console_post_load(struct dp_device *d) { dp_virtio_post_load(dp_virtio_of(d)); }

const struct dp_device_class dp_virtio_console_class = {
    .name = "virtio-console",
    .summary = "console port, hvc0 (virtio 1.0)",
    .size = sizeof(struct virtio_console),
    .regs_offset = offsetof(struct virtio_console, regs),
    .state = &console_table,
    .init = console_init,
    .fini = console_fini,
    .reset = console_reset,
    .pause = console_pause,
    .resume = console_resume,
    .post_load = console_post_load,
};
