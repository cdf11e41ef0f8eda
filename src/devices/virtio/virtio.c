/* devices/virtio/virtio.c - split virtqueues and the life of a virtio device.
 *
 * Model: see virtio.h. A queue's three parts are pinned for the duration of one function; each must lie in one piece of RAM. Indices that
 * the driver shares are read with acquire and written with release order; everything else in the rings is copied once before it is looked
 * at.
 * Invariants: every loop over guest data is bounded by the queue's size or DP_VIRTIO_SEGMENTS. After a rule is broken nothing is read
 * from or written to the rings until the driver resets the device. in_flight never exceeds the queues' sizes together.
 * Source: Virtio 1.0 sections 2.1 (status), 2.2 (features), 2.4 (split queues), 2.4.7 and 2.4.8 (suppression), 3.1 (initialisation).
 */
#include <stdarg.h>
#include <time.h>

#include "devices/virtio/virtio.h"

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4, DESC_SIZE = 16, AVAIL_NO_INTERRUPT = 1 };
/* Bits of pending_signals beside the queues': the configuration interrupt; and just "isr was cleared", for the line. */
enum { SIGNAL_LEVEL = 30, SIGNAL_CONFIG = 31 };
enum { STATUS_DRIVER_BITS = DP_VIRTIO_ACKNOWLEDGE | DP_VIRTIO_DRIVER | DP_VIRTIO_DRIVER_OK | DP_VIRTIO_FEATURES_OK | DP_VIRTIO_FAILED };

#define ADDRESS_BITS 52 /* x86 has no more */

struct descriptor { uint64_t address; uint32_t length; uint16_t flags, next; };

/* ---- state ---- */

static bool power_of_two(unsigned n) { return n && !(n & (n - 1)); }

/* Aligned as section 2.4 wants, and so low that no sum wraps. */
static bool addresses_possible(const struct dp_virtqueue_regs *q)
{
    return !(q->desc & 15) && !(q->avail & 1) && !(q->used & 3) && !((q->desc | q->avail | q->used) >> ADDRESS_BITS);
}

static int queue_check(const void *regs, struct dp_error *e)
{
    const struct dp_virtqueue_regs *q = regs;
    if (q->size > DP_VIRTIO_QUEUE_MAX || (q->size && !power_of_two(q->size)))
        return dp_error_set(e, -EINVAL, "a virtqueue of %u entries is impossible", q->size);
    if (q->enabled && !addresses_possible(q))
        return dp_error_set(e, -EINVAL, "a virtqueue in use is not aligned");
    return 0;
}

static void queue_clamp(void *regs)
{
    struct dp_virtqueue_regs *q = regs;
    q->size = q->size & 7 ? 1u << (q->size & 7) : 0;
    uint64_t possible = (1ull << ADDRESS_BITS) - 16;
    q->desc &= possible;
    q->avail &= possible;
    q->used &= possible;
}

static const struct dp_field queue_fields[] = {
    DP_FIELD_U64(struct dp_virtqueue_regs, desc, 1, 0, 0),
    DP_FIELD_U64(struct dp_virtqueue_regs, avail, 2, 0, 0),
    DP_FIELD_U64(struct dp_virtqueue_regs, used, 3, 0, 0),
    DP_FIELD_U16(struct dp_virtqueue_regs, size, 4, 0, 0),
    DP_FIELD_U16(struct dp_virtqueue_regs, vector, 5, DP_VIRTIO_NO_VECTOR, 0),
    DP_FIELD_U16(struct dp_virtqueue_regs, last_avail, 6, 0, 0),
    DP_FIELD_U16(struct dp_virtqueue_regs, used_index, 7, 0, 0),
    DP_FIELD_BOOL(struct dp_virtqueue_regs, enabled, 8, 0),
};
static const struct dp_state_table queue_table =
    DP_STATE_TABLE(struct dp_virtqueue_regs, "virtqueue", queue_fields, .check = queue_check, .clamp = queue_clamp);

static const struct dp_field virtio_fields[] = {
    DP_FIELD_U64(struct dp_virtio_regs, driver_features, 1, 0, 0),
    DP_FIELD_U8(struct dp_virtio_regs, status, 2, 0, STATUS_DRIVER_BITS | DP_VIRTIO_NEEDS_RESET),
    DP_FIELD_U8(struct dp_virtio_regs, isr, 3, 0, DP_VIRTIO_ISR_QUEUE | DP_VIRTIO_ISR_CONFIG),
    DP_FIELD_U8(struct dp_virtio_regs, generation, 4, 0, 0),
    DP_FIELD_U16(struct dp_virtio_regs, config_vector, 5, DP_VIRTIO_NO_VECTOR, 0),
    /* One array in two fields: states saved when there were eight queues still load. */
    {"queue", 6, DP_KIND_STRUCT, offsetof(struct dp_virtio_regs, queue), DP_VIRTIO_QUEUES_FIRST, sizeof(struct dp_virtqueue_regs), 0, 0,
     &queue_table},
    {"queue_more", 7, DP_KIND_STRUCT, offsetof(struct dp_virtio_regs, queue[DP_VIRTIO_QUEUES_FIRST]),
     DP_VIRTIO_QUEUES - DP_VIRTIO_QUEUES_FIRST, sizeof(struct dp_virtqueue_regs), 0, 0, &queue_table},
};
const struct dp_state_table dp_virtio_regs_table = DP_STATE_TABLE(struct dp_virtio_regs, "virtio", virtio_fields);

/* ---- lock, interrupts, features ---- */

void dp_virtio_lock(struct dp_virtio *v) { pthread_mutex_lock(&v->device->lock); }

void dp_virtio_unlock(struct dp_virtio *v)
{
    uint32_t signals = v->pending_signals;
    bool deferred = v->deferred;
    bool again = v->again && !v->paused;
    uint16_t vector[DP_VIRTIO_QUEUES], config_vector = v->regs->config_vector;
    v->pending_signals = 0;
    v->deferred = false;
    for (unsigned i = 0; signals && i < DP_VIRTIO_QUEUES; i++)
        vector[i] = v->regs->queue[i].vector;
    if (again)
        dp_timer_arm(&v->again_timer, 0);
    pthread_mutex_unlock(&v->device->lock);

    for (unsigned i = 0; signals && v->interrupt && i < DP_VIRTIO_QUEUES; i++)
        if (signals >> i & 1)
            v->interrupt(v->transport, vector[i]);
    if ((signals >> SIGNAL_CONFIG & 1) && v->interrupt)
        v->interrupt(v->transport, config_vector);
    if ((signals >> SIGNAL_LEVEL & 1) && v->interrupt)
        v->interrupt(v->transport, DP_VIRTIO_NO_VECTOR);
    if (deferred && v->vclass->deferred)
        v->vclass->deferred(v);
}

uint64_t dp_virtio_features(struct dp_virtio *v)
{
    return (v->vclass->features ? v->vclass->features(v) : 0) | 1ull << DP_VIRTIO_F_RING_INDIRECT | 1ull << DP_VIRTIO_F_RING_EVENT_IDX |
           1ull << DP_VIRTIO_F_VERSION_1;
}

bool dp_virtio_has(const struct dp_virtio *v, unsigned feature) { return v->regs->driver_features >> feature & 1; }

bool dp_virtio_running(const struct dp_virtio *v)
{
    bool ready = (v->regs->status & (DP_VIRTIO_DRIVER_OK | DP_VIRTIO_NEEDS_RESET)) == DP_VIRTIO_DRIVER_OK;
    return ready && v->dma && !v->paused && !v->resetting;
}

unsigned dp_virtio_queue_size(const struct dp_virtio *v, unsigned queue)
{
    return v->regs->queue[queue].size ? v->regs->queue[queue].size : v->vclass->queue_size;
}

static void signal_config(struct dp_virtio *v)
{
    v->regs->isr |= DP_VIRTIO_ISR_CONFIG;
    v->pending_signals |= 1u << SIGNAL_CONFIG;
}

void dp_virtio_config_changed(struct dp_virtio *v)
{
    v->regs->generation++;
    if (v->regs->status & DP_VIRTIO_DRIVER_OK)
        signal_config(v);
}

void dp_virtio_broken(struct dp_virtio *v, const char *format, ...)
{
    char text[200];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    dp_trace_guest(v->device->env->trace, "%s: the driver broke the rules: %s; the device waits for a reset", v->device->id, text);
    if (v->regs->status & DP_VIRTIO_NEEDS_RESET)
        return;
    v->regs->status |= DP_VIRTIO_NEEDS_RESET;
    if (v->regs->status & DP_VIRTIO_DRIVER_OK)
        signal_config(v);
}

/* ---- queue memory ---- */

static bool pin_part(struct dp_virtio *v, uint64_t address, uint64_t size, unsigned align, bool write, struct dp_pin *p)
{
    if (!dp_space_pin(v->device->env->memory, address, size, write, p))
        return false;
    if (p->size >= size && !((uintptr_t)p->host & (align - 1)))
        return true;
    dp_space_unpin(v->device->env->memory, p, 0);
    return false;
}

static void unpin(struct dp_virtio *v, struct dp_pin *p, uint64_t written) { dp_space_unpin(v->device->env->memory, p, written); }

/* Parts as laid out in section 2.4: avail { flags, idx, ring[size], used_event }, used { flags, idx, ring[size] of { id, len },
 * avail_event }. */
static uint64_t avail_bytes(unsigned size) { return 6 + 2 * size; }

static uint16_t load_shared(const uint8_t *p) { return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE); }
static void store_shared(uint8_t *p, uint16_t value) { __atomic_store_n((uint16_t *)p, value, __ATOMIC_RELEASE); }

/* Tells the driver at which index to kick next (EVENT_IDX); false when the used ring is not in RAM. */
static bool ask_for_kick(struct dp_virtio *v, unsigned queue)
{
    struct dp_virtqueue_regs *q = &v->regs->queue[queue];
    unsigned size = dp_virtio_queue_size(v, queue);
    struct dp_pin used;
    if (!pin_part(v, q->used + 4 + 8 * size, 2, 2, true, &used))
        return false;
    store_shared(used.host, q->last_avail);
    unpin(v, &used, 2);
    /* The driver writes idx, then reads avail_event; we do the opposite. One of us sees the other's write. */
    atomic_thread_fence(memory_order_seq_cst);
    return true;
}

static void read_descriptor(const uint8_t *table, unsigned index, struct descriptor *d)
{
    const uint8_t *p = table + index * DESC_SIZE;
    *d = (struct descriptor){ dp_ld64(p), dp_ld32(p + 8), dp_ld16(p + 12), dp_ld16(p + 14) };
}

static bool add_segment(struct dp_virtio *v, struct dp_virtio_request *r, const struct descriptor *d)
{
    unsigned n = r->out_count + r->in_count;
    if (!(d->flags & DESC_WRITE) && r->in_count) {
        dp_virtio_broken(v, "queue %u: a readable buffer follows a writable one", r->queue);
        return false;
    }
    if (!d->length)
        return true;
    if (n == DP_VIRTIO_SEGMENTS) {
        dp_virtio_broken(v, "queue %u: a request of more than %u buffers", r->queue, DP_VIRTIO_SEGMENTS);
        return false;
    }
    r->segment[n] = (struct dp_virtio_segment){ d->address, d->length };
    if (d->flags & DESC_WRITE) {
        r->in_count++;
        r->in_bytes += d->length;
    } else {
        r->out_count++;
        r->out_bytes += d->length;
    }
    return true;
}

/* Follows a chain in a table of count entries from first on. Allows `indirect` to be the last element. */
static bool walk(struct dp_virtio *v, struct dp_virtio_request *r, const uint8_t *table, unsigned count, unsigned first,
                 struct descriptor *indirect)
{
    unsigned index = first;
    struct descriptor d;
    for (unsigned n = 0; n < count; n++) {
        if (index >= count) {
            dp_virtio_broken(v, "queue %u: descriptor %u of %u", r->queue, index, count);
            return false;
        }
        read_descriptor(table, index, &d);
        if (d.flags & DESC_INDIRECT) {
            if (!indirect || (d.flags & DESC_NEXT)) {
                dp_virtio_broken(v, "queue %u: an indirect table %s", r->queue,
                                 indirect ? "that is not the last descriptor" : "within an indirect table");
                return false;
            }
            *indirect = d;
            return true;
        }
        if (!add_segment(v, r, &d))
            return false;
        if (!(d.flags & DESC_NEXT))
            return true;
        index = d.next;
    }
    dp_virtio_broken(v, "queue %u: the chain from descriptor %u is a loop", r->queue, first);
    return false;
}

static bool parse(struct dp_virtio *v, struct dp_virtio_request *r)
{
    struct dp_virtqueue_regs *q = &v->regs->queue[r->queue];
    unsigned size = dp_virtio_queue_size(v, r->queue);
    struct descriptor indirect = { 0 };
    struct dp_pin table;
    if (!pin_part(v, q->desc, (uint64_t)size * DESC_SIZE, 1, false, &table)) {
        dp_virtio_broken(v, "queue %u: descriptors at 0x%llx are not in RAM", r->queue, (unsigned long long)q->desc);
        return false;
    }
    bool ok = walk(v, r, table.host, size, r->head, &indirect);
    unpin(v, &table, 0);
    if (!ok || !(indirect.flags & DESC_INDIRECT))
        return ok;

    unsigned count = indirect.length / DESC_SIZE;
    if (!dp_virtio_has(v, DP_VIRTIO_F_RING_INDIRECT) || !count || indirect.length % DESC_SIZE || count > DP_VIRTIO_SEGMENTS) {
        dp_virtio_broken(v, "queue %u: an indirect table of %u bytes", r->queue, indirect.length);
        return false;
    }
    if (!pin_part(v, indirect.address, indirect.length, 1, false, &table)) {
        dp_virtio_broken(v, "queue %u: an indirect table at 0x%llx, which is not in RAM", r->queue, (unsigned long long)indirect.address);
        return false;
    }
    ok = walk(v, r, table.host, count, 0, NULL);
    unpin(v, &table, 0);
    return ok;
}

int dp_virtio_pop(struct dp_virtio *v, unsigned queue, struct dp_virtio_request *r)
{
    struct dp_virtqueue_regs *q = &v->regs->queue[queue];
    if (!dp_virtio_running(v) || queue >= v->queue_count || !q->enabled)
        return 0;
    unsigned size = dp_virtio_queue_size(v, queue);
    struct dp_pin avail;
    if (!pin_part(v, q->avail, avail_bytes(size), 2, false, &avail)) {
        dp_virtio_broken(v, "queue %u: the available ring at 0x%llx is not in RAM", queue, (unsigned long long)q->avail);
        return -1;
    }
    uint16_t index = load_shared(avail.host + 2);
    if (index == q->last_avail && dp_virtio_has(v, DP_VIRTIO_F_RING_EVENT_IDX)) {
        if (!ask_for_kick(v, queue)) {
            unpin(v, &avail, 0);
            dp_virtio_broken(v, "queue %u: the used ring at 0x%llx is not in RAM", queue, (unsigned long long)q->used);
            return -1;
        }
        index = load_shared(avail.host + 2);
    }
    uint16_t waiting = index - q->last_avail;
    uint16_t head = dp_ld16(avail.host + 4 + 2 * (q->last_avail & (size - 1)));
    unpin(v, &avail, 0);
    if (!waiting)
        return 0;
    if (waiting > size || head >= size || v->in_flight[queue] >= size) {
        dp_virtio_broken(v, "queue %u: %u requests waiting in %u places, the first is descriptor %u, %u are in flight", queue, waiting,
                         size, head,
                         v->in_flight[queue]);
        return -1;
    }
    r->head = head;
    r->queue = queue;
    r->out_count = r->in_count = 0;
    r->out_bytes = r->in_bytes = 0;
    if (!parse(v, r))
        return -1;
    q->last_avail++;
    v->in_flight[queue]++;
    return 1;
}

static void finish_reset(struct dp_virtio *v)
{
    dp_state_reset(&dp_virtio_regs_table, v->regs);
    v->resetting = false;
    v->pending_signals = 1u << SIGNAL_LEVEL;
    v->again = 0;
    v->epoch++;
    if (v->vclass->reset)
        v->vclass->reset(v);
}

static bool any_in_flight(const struct dp_virtio *v)
{
    for (unsigned i = 0; i < DP_VIRTIO_QUEUES; i++)
        if (v->in_flight[i])
            return true;
    return false;
}

/* One request less in flight; the last one lets a reset through. */
static void landed(struct dp_virtio *v, unsigned queue)
{
    if (v->in_flight[queue])
        v->in_flight[queue]--;
    if (v->resetting && !any_in_flight(v))
        finish_reset(v);
}

void dp_virtio_unpop(struct dp_virtio *v, unsigned queue)
{
    v->regs->queue[queue].last_avail--;
    landed(v, queue);
}

/* Does the driver want an interrupt for used entries [old, new)? Section 2.4.7. */
static bool wants_interrupt(struct dp_virtio *v, unsigned queue, uint16_t old, uint16_t new)
{
    struct dp_virtqueue_regs *q = &v->regs->queue[queue];
    unsigned size = dp_virtio_queue_size(v, queue);
    bool event_idx = dp_virtio_has(v, DP_VIRTIO_F_RING_EVENT_IDX);
    struct dp_pin p;
    if (!pin_part(v, q->avail + (event_idx ? 4 + 2 * size : 0), 2, 2, false, &p))
        return true;
    uint16_t value = load_shared(p.host);
    unpin(v, &p, 0);
    if (!event_idx)
        return !(value & AVAIL_NO_INTERRUPT);
    return (uint16_t)(new - value - 1) < (uint16_t)(new - old);
}

static bool put_used(struct dp_virtio *v, struct dp_virtqueue_regs *q, unsigned size, const struct dp_virtio_used *used, unsigned count)
{
    struct dp_pin p;
    for (unsigned i = 0; i < count; i++) {
        uint64_t at = q->used + 4 + 8 * ((uint16_t)(q->used_index + i) & (size - 1));
        if (!pin_part(v, at, 8, 4, true, &p))
            return false;
        dp_st32(p.host, used[i].head);
        dp_st32(p.host + 4, used[i].written);
        unpin(v, &p, 8);
    }
    if (!pin_part(v, q->used + 2, 2, 2, true, &p))
        return false;
    store_shared(p.host, q->used_index + count);
    unpin(v, &p, 2);
    return true;
}

void dp_virtio_push_all(struct dp_virtio *v, unsigned queue, const struct dp_virtio_used *used, unsigned count)
{
    struct dp_virtqueue_regs *q = &v->regs->queue[queue];
    if (count && q->enabled && !v->resetting && !(v->regs->status & DP_VIRTIO_NEEDS_RESET)) {
        if (!put_used(v, q, dp_virtio_queue_size(v, queue), used, count)) {
            dp_virtio_broken(v, "queue %u: the used ring at 0x%llx is not in RAM", queue, (unsigned long long)q->used);
        } else {
            uint16_t old = q->used_index;
            q->used_index += count;
            /* The driver writes used_event, then reads idx; we do the opposite. */
            atomic_thread_fence(memory_order_seq_cst);
            if (wants_interrupt(v, queue, old, q->used_index)) {
                v->regs->isr |= DP_VIRTIO_ISR_QUEUE;
                v->pending_signals |= 1u << queue;
            }
        }
    }
    for (unsigned i = 0; i < count; i++)
        landed(v, queue);
}

void dp_virtio_push(struct dp_virtio *v, unsigned queue, uint16_t head, uint32_t written)
{
    dp_virtio_push_all(v, queue, &(struct dp_virtio_used){ head, written }, 1);
}

/* ---- request data ---- */

static uint64_t copy(struct dp_virtio *v, const struct dp_virtio_segment *s, unsigned count, uint64_t offset, uint8_t *data, uint64_t size,
                     bool write)
{
    struct dp_space *space = v->device->env->memory;
    uint64_t done = 0;
    for (unsigned i = 0; i < count && done < size; i++) {
        if (offset >= s[i].length) {
            offset -= s[i].length;
            continue;
        }
        while (offset < s[i].length && done < size) {
            struct dp_pin p;
            uint64_t address = s[i].address + offset;
            uint64_t want = DP_MIN(s[i].length - offset, size - done);
            if (address < offset || !dp_space_pin(space, address, want, write, &p))
                return done;
            uint64_t n = DP_MIN(want, p.size);
            if (write)
                memcpy(p.host, data + done, n);
            else
                memcpy(data + done, p.host, n);
            dp_space_unpin(space, &p, write ? n : 0);
            done += n;
            offset += n;
        }
        offset = 0;
    }
    return done;
}

uint64_t dp_virtio_write_to(struct dp_virtio *v, const struct dp_virtio_segment *s, unsigned count, uint64_t offset, const void *data,
                            uint64_t size)
{
    return copy(v, s, count, offset, (uint8_t *)data, size, true);
}

void dp_virtio_unpin(struct dp_virtio *v, const struct dp_pin *pins, unsigned count, bool written)
{
    for (unsigned i = 0; i < count; i++) {
        struct dp_pin p = pins[i];
        dp_space_unpin(v->device->env->memory, &p, written ? p.size : 0);
    }
}

int dp_virtio_pin(struct dp_virtio *v, const struct dp_virtio_segment *s, unsigned count, uint64_t skip, uint64_t size, bool write,
                  struct dp_pin *pins, unsigned most)
{
    struct dp_space *space = v->device->env->memory;
    unsigned n = 0;
    for (unsigned i = 0; i < count && size; i++) {
        uint64_t at = DP_MIN(skip, s[i].length);
        skip -= at;
        while (at < s[i].length && size) {
            uint64_t address = s[i].address + at, want = DP_MIN(s[i].length - at, size);
            if (address < at || n == most || !dp_space_pin(space, address, want, write, &pins[n])) {
                dp_virtio_unpin(v, pins, n, false);
                return -1;
            }
            pins[n].size = DP_MIN(pins[n].size, want);
            at += pins[n].size;
            size -= pins[n].size;
            n++;
        }
    }
    return (int)n;
}

uint64_t dp_virtio_read(struct dp_virtio *v, const struct dp_virtio_request *r, uint64_t offset, void *data, uint64_t size)
{
    return copy(v, r->segment, r->out_count, offset, data, size, false);
}

uint64_t dp_virtio_write(struct dp_virtio *v, const struct dp_virtio_request *r, uint64_t offset, const void *data, uint64_t size)
{
    return copy(v, r->segment + r->out_count, r->in_count, offset, (uint8_t *)data, size, true);
}

/* ---- for transports ---- */

void dp_virtio_notify(struct dp_virtio *v, unsigned queue)
{
    if (queue < v->queue_count && v->regs->queue[queue].enabled && dp_virtio_running(v))
        v->vclass->notify(v, queue);
}

static void notify_all(struct dp_virtio *v)
{
    for (unsigned i = 0; i < v->queue_count; i++)
        dp_virtio_notify(v, i);
}

void dp_virtio_more(struct dp_virtio *v, unsigned queue) { v->again |= 1u << queue; }

static void go_on(void *opaque)
{
    struct dp_virtio *v = opaque;
    dp_virtio_lock(v);
    uint32_t again = v->again;
    if (!v->paused) {
        v->again = 0;
        for (unsigned i = 0; again >> i; i++)
            if (again >> i & 1)
                dp_virtio_notify(v, i);
    }
    dp_virtio_unlock(v);
}

void dp_virtio_set_dma(struct dp_virtio *v, bool on)
{
    bool was = v->dma;
    v->dma = on;
    if (on && !was)
        notify_all(v);
}

void dp_virtio_enable_queue(struct dp_virtio *v, unsigned queue)
{
    struct dp_virtqueue_regs *q = &v->regs->queue[queue];
    if (q->enabled || v->resetting)
        return;
    if (!(v->regs->status & DP_VIRTIO_FEATURES_OK)) {
        dp_trace_guest(v->device->env->trace, "%s: queue %u enabled before the features were agreed on", v->device->id, queue);
        return;
    }
    if (!addresses_possible(q)) {
        dp_virtio_broken(v, "queue %u: descriptors at 0x%llx, rings at 0x%llx and 0x%llx are not aligned", queue,
                         (unsigned long long)q->desc,
                         (unsigned long long)q->avail, (unsigned long long)q->used);
        return;
    }
    q->enabled = true;
}

void dp_virtio_set_status(struct dp_virtio *v, uint8_t status)
{
    struct dp_virtio_regs *regs = v->regs;
    if (v->resetting)
        return;
    if (!status) {
        if (any_in_flight(v))
            v->resetting = true;
        else
            finish_reset(v);
        return;
    }
    uint8_t added = status & STATUS_DRIVER_BITS & ~regs->status;
    if (added & DP_VIRTIO_FEATURES_OK) {
        /* Section 2.2.2: a set of features that does not work is refused by leaving the bit clear. */
        uint64_t offered = dp_virtio_features(v);
        if ((regs->driver_features & ~offered) || !(regs->driver_features >> DP_VIRTIO_F_VERSION_1 & 1)) {
            dp_trace_guest(v->device->env->trace, "%s: the driver wants features 0x%llx of 0x%llx, refused", v->device->id,
                           (unsigned long long)regs->driver_features, (unsigned long long)offered);
            added &= ~DP_VIRTIO_FEATURES_OK;
        }
    }
    if ((added & DP_VIRTIO_DRIVER_OK) && !((regs->status | added) & DP_VIRTIO_FEATURES_OK)) {
        dp_trace_guest(v->device->env->trace, "%s: DRIVER_OK without FEATURES_OK, ignored", v->device->id);
        added &= ~DP_VIRTIO_DRIVER_OK;
    }
    regs->status |= added;
    if (added & DP_VIRTIO_DRIVER_OK) {
        DP_TRACE(v->device->env->trace, DP_TRACE_VIRTIO, "%s: driver ready, features 0x%llx", v->device->id,
                 (unsigned long long)regs->driver_features);
        if (v->vclass->driver_ok)
            v->vclass->driver_ok(v);
        notify_all(v); /* what was put into the rings before */
    }
}

/* ---- for the concrete devices ---- */

void dp_virtio_init(struct dp_virtio *v, const struct dp_virtio_class *c, struct dp_virtio_regs *regs, struct dp_device *device)
{
    *v = (struct dp_virtio){ .vclass = c, .regs = regs, .device = device, .dma = true, .queue_count = c->queue_count };
    dp_timer_init(&v->again_timer, device->env->clock, go_on, v);
}

void dp_virtio_fini(struct dp_virtio *v) { dp_timer_fini(&v->again_timer); }

/* Nothing new comes (the rings are left alone), so this ends when what is in flight has landed: in the class's drain, or in another thread
 * that is between taking a request and handing it on. */
static void settle(struct dp_virtio *v)
{
    for (;;) {
        if (v->vclass->drain)
            v->vclass->drain(v);
        dp_virtio_lock(v);
        bool busy = any_in_flight(v);
        dp_virtio_unlock(v);
        if (!busy)
            return;
        nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
    }
}

void dp_virtio_reset(struct dp_virtio *v)
{
    settle(v); /* regs were reset before: no queue is enabled */
    dp_virtio_lock(v);
    finish_reset(v);
    dp_virtio_unlock(v);
}

void dp_virtio_pause(struct dp_virtio *v)
{
    dp_virtio_lock(v);
    v->paused = true;
    dp_virtio_unlock(v);
    settle(v);
}

void dp_virtio_resume(struct dp_virtio *v)
{
    dp_virtio_lock(v);
    v->paused = false;
    v->again = 0;
    notify_all(v);
    dp_virtio_unlock(v);
}

void dp_virtio_post_load(struct dp_virtio *v)
{
    dp_virtio_lock(v);
    v->pending_signals |= 1u << SIGNAL_LEVEL;
    dp_virtio_unlock(v);
}

struct dp_virtio *dp_virtio_of(struct dp_device *d) { return &DP_CONTAINER_OF(d, struct dp_virtio_device, device)->virtio; }
