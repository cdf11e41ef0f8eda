/* devices/virtio/virtio_blk.c - a disk.
 *
 * Model: one to eight queues, all alike. A request is taken and checked under the lock, its data buffers are pinned, and the block layer
 * works on guest memory
 * itself; submission happens in `deferred`, with no lock held. When it is done the pins are given back (which marks pages dirty), the
 * status byte is written and the request goes into the used ring. A request that is over at once (errors, GET_ID) never leaves the lock.
 * Invariants: pins last as long as the request in the block layer. Pause and reset wait for all of them; a driver's reset takes effect when
 * the last one is back. Data of one request is at most DATA_MAX, so that no guest can tie up a thread for hours.
 * In write-through mode a write is flushed before it is reported (section 5.2.6.2): without VIRTIO_BLK_F_FLUSH agreed on, or when the
 * driver chose it by the field `writeback` (VIRTIO_BLK_F_CONFIG_WCE).
 * Source: Virtio 1.2 section 5.2.
 */
#include <stdlib.h>

#include "block/block.h"
#include "devices/virtio/virtio.h"

#define SECTOR 512u
#define QUEUE_SIZE 256
#define DATA_MAX (256ull << 20)
#define DISCARD_SECTORS_MAX (1u << 22)
#define ZERO_SECTORS_MAX (1u << 18)
#define ID_SIZE 20

enum { F_SEG_MAX = 2, F_RO = 5, F_BLK_SIZE = 6, F_FLUSH = 9, F_TOPOLOGY = 10, F_CONFIG_WCE = 11, F_MQ = 12, F_DISCARD = 13,
       F_WRITE_ZEROES = 14 };
enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum { ZEROES_UNMAP = 1 };
enum { HEADER_SIZE = 16, RANGE_SIZE = 16, CONFIG_SIZE = 60 };
/* struct virtio_blk_config */
enum {
    CONFIG_CAPACITY = 0, CONFIG_SEG_MAX = 12, CONFIG_BLK_SIZE = 20, CONFIG_PHYSICAL_EXP = 24, CONFIG_MIN_IO = 26, CONFIG_OPT_IO = 28,
    CONFIG_WRITEBACK = 32, CONFIG_NUM_QUEUES = 34,
    CONFIG_DISCARD_SECTORS = 36, CONFIG_DISCARD_SEG = 40, CONFIG_DISCARD_ALIGN = 44, CONFIG_ZERO_SECTORS = 48, CONFIG_ZERO_SEG = 52,
    CONFIG_ZERO_UNMAP = 56
};

struct blk_regs {
    struct dp_virtio_regs virtio;
    bool writeback;
};

struct blk_request {                /* in the block layer or on its way there */
    struct dp_block_request io;
    struct virtio_blk *blk;
    struct blk_request *next;
    uint64_t status_address;
    uint32_t written;               /* for the used ring when all went well */
    uint16_t head, queue;
    bool flush_after;
    unsigned pin_count;
    struct dp_pin *pin;             /* behind the iovecs */
    struct iovec iov[];
};

struct virtio_blk {
    struct dp_virtio_device base;
    struct blk_regs regs;
    const char *serial;             /* properties */
    uint64_t queues, sector, write_through;
    struct dp_block *block;
    struct blk_request *ready, **ready_tail; /* to be submitted */
    struct dp_virtio_request request; /* scratch, under the lock */
    struct dp_pin pin[DP_VIRTIO_PINS];
};

static const struct dp_field blk_fields[] = {
    DP_FIELD_STRUCT(struct blk_regs, virtio, 1, &dp_virtio_regs_table),
    DP_FIELD_BOOL(struct blk_regs, writeback, 2, true),
};
static const struct dp_state_table blk_table = DP_STATE_TABLE(struct blk_regs, "virtio-blk", blk_fields);

static const char *const block_names[] = { "512", "4096", NULL };
static const char *const cache_names[] = { "writeback", "writethrough", NULL };
static const struct dp_property blk_properties[] = {
    { "serial", "the disk's serial number, 20 characters at most (in the guest: /dev/disk/by-id/virtio-SERIAL)", DP_PROP_STRING,
      offsetof(struct virtio_blk, serial) },
    { "queues", "queues of requests, 1 to 8", DP_PROP_UINT, offsetof(struct virtio_blk, queues), 1, 1, 8 },
    { "block", "bytes of a logical block", DP_PROP_ENUM, offsetof(struct virtio_blk, sector), 0, .names = block_names },
    { "cache", "the guest's write cache", DP_PROP_ENUM, offsetof(struct virtio_blk, write_through), 0, .names = cache_names },
};

static struct virtio_blk *blk_of(struct dp_virtio *v) { return DP_CONTAINER_OF(v, struct virtio_blk, base.virtio); }

/* ---- completion ---- */

/* Lock held. */
static void complete(struct virtio_blk *b, uint16_t queue, uint16_t head, uint64_t status_address, uint8_t status, uint32_t written)
{
    struct dp_virtio *v = &b->base.virtio;
    struct dp_space *space = b->base.device.env->memory;
    struct dp_pin p;
    if (dp_space_pin(space, status_address, 1, true, &p)) {
        *p.host = status;
        dp_space_unpin(space, &p, 1);
    } else {
        dp_virtio_broken(v, "the status byte is not in RAM");
    }
    dp_virtio_push(v, queue, head, written);
}

static void io_done(struct dp_block_request *io, int result)
{
    struct blk_request *r = DP_CONTAINER_OF(io, struct blk_request, io);
    struct virtio_blk *b = r->blk;
    if (!result && r->flush_after) {
        r->flush_after = false;
        io->op = DP_BLOCK_FLUSH;
        dp_block_submit(b->block, io);
        return;
    }
    /* A read that failed may have written some of its buffers. */
    dp_virtio_unpin(&b->base.virtio, r->pin, r->pin_count, io->op == DP_BLOCK_READ);
    dp_virtio_lock(&b->base.virtio);
    complete(b, r->queue, r->head, r->status_address, result ? S_IOERR : S_OK, result ? 0 : r->written);
    dp_virtio_unlock(&b->base.virtio);
    free(r);
}

/* ---- submission ---- */

/* What a request asks for, checked; the caller completes it with the status that comes back unless it is S_OK. */
struct wish { enum dp_block_op op; uint64_t offset, size; bool data, unmap; };

static uint32_t block_size(const struct virtio_blk *b) { return b->sector ? 4096 : SECTOR; }

static bool writes_through(struct virtio_blk *b)
{
    struct dp_virtio *v = &b->base.virtio;
    return dp_virtio_has(v, F_CONFIG_WCE) ? !b->regs.writeback : !dp_virtio_has(v, F_FLUSH);
}

static uint8_t check_range(struct virtio_blk *b, uint64_t sector, uint64_t bytes)
{
    uint64_t sectors = dp_block_size(b->block) / SECTOR, unit = block_size(b);
    return bytes % unit || sector * SECTOR % unit || sector > sectors || bytes / SECTOR > sectors - sector ? S_IOERR : S_OK;
}

static uint8_t wish_data(struct virtio_blk *b, enum dp_block_op op, uint64_t sector, uint64_t size, struct wish *w)
{
    if (size > DATA_MAX || (op == DP_BLOCK_WRITE && dp_block_readonly(b->block)) || check_range(b, sector, size))
        return S_IOERR;
    *w = (struct wish){ op, sector * SECTOR, size, .data = true };
    return S_OK;
}

static uint8_t wish_range(struct virtio_blk *b, enum dp_block_op op, struct wish *w)
{
    struct dp_virtio *v = &b->base.virtio;
    const struct dp_virtio_request *r = &b->request;
    uint8_t range[RANGE_SIZE];
    if (dp_block_readonly(b->block) || r->out_bytes != HEADER_SIZE + RANGE_SIZE)
        return S_IOERR; /* one range per request, as the configuration says */
    if (dp_virtio_read(v, r, HEADER_SIZE, range, sizeof(range)) < sizeof(range)) {
        dp_virtio_broken(v, "a range is not in RAM");
        return S_IOERR;
    }
    uint64_t sector = dp_ld64(range);
    uint32_t count = dp_ld32(range + 8), flags = dp_ld32(range + 12);
    if (flags & ~(op == DP_BLOCK_WRITE_ZEROES ? ZEROES_UNMAP : 0u))
        return S_UNSUPP;
    if (count > (op == DP_BLOCK_DISCARD ? DISCARD_SECTORS_MAX : ZERO_SECTORS_MAX) || check_range(b, sector, (uint64_t)count * SECTOR))
        return S_IOERR;
    *w = (struct wish){ op, sector * SECTOR, (uint64_t)count * SECTOR, .unmap = flags & ZEROES_UNMAP };
    return S_OK;
}

/* Lock held: hands the request in b->request to the block layer, or completes it. */
static void start(struct virtio_blk *b, const struct wish *w, uint64_t status_address)
{
    struct dp_virtio *v = &b->base.virtio;
    const struct dp_virtio_request *r = &b->request;
    bool read = w->op == DP_BLOCK_READ;
    int pins = 0;
    if (w->data) {
        pins = read ? dp_virtio_pin(v, r->segment + r->out_count, r->in_count, 0, w->size, true, b->pin, DP_VIRTIO_PINS)
                    : dp_virtio_pin(v, r->segment, r->out_count, HEADER_SIZE, w->size, false, b->pin, DP_VIRTIO_PINS);
        if (pins < 0) {
            dp_virtio_broken(v, "a data buffer is not in RAM");
            dp_virtio_push(v, r->queue, r->head, 0);
            return;
        }
    }
    struct blk_request *q = malloc(sizeof(*q) + pins * (sizeof(struct iovec) + sizeof(struct dp_pin)));
    if (!q) {
        dp_virtio_unpin(v, b->pin, pins, false);
        complete(b, r->queue, r->head, status_address, S_IOERR, 0);
        return;
    }
    *q = (struct blk_request){
        .io = { .op = w->op, .unmap = w->unmap, .offset = w->offset, .size = w->size, .iov = q->iov, .iov_count = pins, .done = io_done },
        .blk = b, .status_address = status_address, .written = read ? w->size + 1 : 1, .head = r->head, .queue = r->queue,
        .flush_after = (w->op == DP_BLOCK_WRITE || w->op == DP_BLOCK_WRITE_ZEROES) && writes_through(b),
        .pin_count = pins, .pin = (struct dp_pin *)(q->iov + pins),
    };
    memcpy(q->pin, b->pin, pins * sizeof(*q->pin));
    for (int i = 0; i < pins; i++)
        q->iov[i] = (struct iovec){ q->pin[i].host, q->pin[i].size };
    *b->ready_tail = q;
    b->ready_tail = &q->next;
    v->deferred = true;
}

static uint32_t give_id(struct virtio_blk *b)
{
    char id[ID_SIZE] = { 0 };
    if (b->serial)
        memcpy(id, b->serial, strnlen(b->serial, sizeof(id)));
    return dp_virtio_write(&b->base.virtio, &b->request, 0, id, DP_MIN(b->request.in_bytes - 1, sizeof(id)));
}

/* Lock held: one request, which is in b->request. */
static void handle(struct virtio_blk *b)
{
    struct dp_virtio *v = &b->base.virtio;
    const struct dp_virtio_request *r = &b->request;
    uint8_t header[HEADER_SIZE]; /* type, reserved, sector */
    if (r->out_bytes < HEADER_SIZE || !r->in_bytes || dp_virtio_read(v, r, 0, header, sizeof(header)) < sizeof(header)) {
        dp_virtio_broken(v, "a request without a header or a status byte in RAM");
        dp_virtio_push(v, r->queue, r->head, 0);
        return;
    }
    const struct dp_virtio_segment *last = &r->segment[r->out_count + r->in_count - 1];
    uint64_t status_address = last->address + last->length - 1, sector = dp_ld64(header + 8);
    uint32_t type = dp_ld32(header), written = 0;
    struct wish w = { .op = DP_BLOCK_FLUSH };
    uint8_t status;
    bool over = false;
    switch (type) {
    case T_IN: status = wish_data(b, DP_BLOCK_READ, sector, r->in_bytes - 1, &w); break;
    case T_OUT: status = wish_data(b, DP_BLOCK_WRITE, sector, r->out_bytes - HEADER_SIZE, &w); break;
    case T_DISCARD: status = wish_range(b, DP_BLOCK_DISCARD, &w); break;
    case T_WRITE_ZEROES: status = wish_range(b, DP_BLOCK_WRITE_ZEROES, &w); break;
    case T_FLUSH: status = S_OK; break;
    case T_GET_ID:
        written = give_id(b) + 1;
        status = S_OK;
        over = true;
        break;
    default: status = S_UNSUPP; break;
    }
    DP_TRACE(b->base.device.env->trace, DP_TRACE_BLOCK, "%s: request type %u at sector %llu, %llu bytes out, %llu in, status %u",
             b->base.device.id, type,
             (unsigned long long)sector, (unsigned long long)r->out_bytes, (unsigned long long)r->in_bytes, status);
    if (status || over)
        complete(b, r->queue, r->head, status_address, status, written);
    else
        start(b, &w, status_address);
}

/* ---- the virtio side ---- */

static void blk_notify(struct dp_virtio *v, unsigned queue)
{
    struct virtio_blk *b = blk_of(v);
    for (unsigned budget = dp_virtio_queue_size(v, queue); dp_virtio_pop(v, queue, &b->request) > 0;) {
        handle(b);
        if (!--budget) {
            dp_virtio_more(v, queue);
            return;
        }
    }
}

static void blk_deferred(struct dp_virtio *v)
{
    struct virtio_blk *b = blk_of(v);
    dp_virtio_lock(v);
    struct blk_request *r = b->ready;
    b->ready = NULL;
    b->ready_tail = &b->ready;
    dp_virtio_unlock(v);
    while (r) {
        struct blk_request *next = r->next; /* r may be done and gone once submitted */
        dp_block_submit(b->block, &r->io);
        r = next;
    }
}

static void blk_drain(struct dp_virtio *v) { dp_block_drain(blk_of(v)->block); }

static uint64_t blk_features(struct dp_virtio *v)
{
    uint64_t f = 1ull << F_SEG_MAX | 1ull << F_BLK_SIZE | 1ull << F_FLUSH | 1ull << F_TOPOLOGY;
    f |= v->queue_count > 1 ? 1ull << F_MQ : 0;
    return f | (dp_block_readonly(blk_of(v)->block) ? 1ull << F_RO : 1ull << F_CONFIG_WCE | 1ull << F_DISCARD | 1ull << F_WRITE_ZEROES);
}

static void blk_config_read(struct dp_virtio *v, uint32_t offset, void *data, uint32_t size)
{
    uint8_t c[CONFIG_SIZE] = { 0 };
    dp_st64(c + CONFIG_CAPACITY, dp_block_size(blk_of(v)->block) / SECTOR);
    dp_st32(c + CONFIG_SEG_MAX, QUEUE_SIZE - 2);
    dp_st32(c + CONFIG_BLK_SIZE, block_size(blk_of(v)));
    c[CONFIG_PHYSICAL_EXP] = blk_of(v)->sector ? 0 : 3; /* the host's file system works in 4 KiB: aligned writes need no read */
    dp_st16(c + CONFIG_MIN_IO, 1);
    dp_st32(c + CONFIG_OPT_IO, 0);
    c[CONFIG_WRITEBACK] = !writes_through(blk_of(v));
    dp_st16(c + CONFIG_NUM_QUEUES, v->queue_count);
    dp_st32(c + CONFIG_DISCARD_SECTORS, DISCARD_SECTORS_MAX);
    dp_st32(c + CONFIG_DISCARD_SEG, 1);
    dp_st32(c + CONFIG_DISCARD_ALIGN, 4096 / SECTOR);
    dp_st32(c + CONFIG_ZERO_SECTORS, ZERO_SECTORS_MAX);
    dp_st32(c + CONFIG_ZERO_SEG, 1);
    c[CONFIG_ZERO_UNMAP] = 1;
    memcpy(data, c + offset, size);
}

static void blk_config_write(struct dp_virtio *v, uint32_t offset, const void *data, uint32_t size)
{
    if (offset == CONFIG_WRITEBACK && size == 1 && dp_virtio_has(v, F_CONFIG_WCE))
        blk_of(v)->regs.writeback = *(const uint8_t *)data & 1;
}

static void blk_virtio_reset(struct dp_virtio *v) { blk_of(v)->regs.writeback = !blk_of(v)->write_through; }

static const struct dp_virtio_class blk_virtio_class = {
    .device_id = 2, .pci_class = 0x010000, .queue_count = 1, .queue_size = QUEUE_SIZE, .config_size = CONFIG_SIZE,
    .features = blk_features, .config_read = blk_config_read, .config_write = blk_config_write, .reset = blk_virtio_reset,
    .notify = blk_notify, .deferred = blk_deferred, .drain = blk_drain,
};

/* ---- life cycle ---- */

void dp_virtio_blk_attach(struct dp_device *d, struct dp_block *block)
{
    DP_CONTAINER_OF(d, struct virtio_blk, base.device)->block = block;
}

void dp_virtio_blk_resized(struct dp_device *d)
{
    dp_virtio_lock(dp_virtio_of(d));
    dp_virtio_config_changed(dp_virtio_of(d));
    dp_virtio_unlock(dp_virtio_of(d));
}

static int blk_init(struct dp_device *d, struct dp_error *e)
{
    struct virtio_blk *b = DP_CONTAINER_OF(d, struct virtio_blk, base.device);
    if (!b->block)
        return dp_error_set(e, -EINVAL, "a virtio disk needs an image");
    if (b->serial && strlen(b->serial) > ID_SIZE)
        return dp_error_set(e, -EINVAL, "serial number '%s' is too long; %d characters fit", b->serial, ID_SIZE);
    b->ready_tail = &b->ready;
    dp_virtio_init(&b->base.virtio, &blk_virtio_class, &b->regs.virtio, d);
    b->base.virtio.queue_count = (uint16_t)b->queues;
    return 0;
}

static void blk_fini(struct dp_device *d)
{
    dp_virtio_pause(dp_virtio_of(d)); /* nothing may come back to us after this */
    dp_virtio_fini(dp_virtio_of(d));
}

static void blk_reset(struct dp_device *d) { dp_virtio_reset(dp_virtio_of(d)); }
static void blk_pause(struct dp_device *d) { dp_virtio_pause(dp_virtio_of(d)); }
static void blk_resume(struct dp_device *d) { dp_virtio_resume(dp_virtio_of(d)); }
static void blk_post_load(struct dp_device *d) { dp_virtio_post_load(dp_virtio_of(d)); }

const struct dp_device_class dp_virtio_blk_class = {
    .name = "virtio-blk",
    .summary = "disk (virtio 1.0)",
    .size = sizeof(struct virtio_blk),
    .regs_offset = offsetof(struct virtio_blk, regs),
    .state = &blk_table,
    .properties = blk_properties,
    .property_count = DP_ARRAY_LEN(blk_properties),
    .init = blk_init,
    .fini = blk_fini,
    .reset = blk_reset,
    .pause = blk_pause,
    .resume = blk_resume,
    .post_load = blk_post_load,
};
