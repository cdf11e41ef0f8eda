/* devices/virtio/virtio_balloon.c - see virtio_balloon.h.
 *
 * Queues: section 5.5.2 numbers them 0 inflate, 1 deflate, 2 statistics, 3 hinting, 4 reporting. Drivers of Linux before 6.11 leave no
 * gaps for queues that are not agreed on, so that reporting is 3, or even 2. There is no hinting here: see `role`.
 */
#include <stdlib.h>

#include "devices/virtio/virtio_balloon.h"

enum { F_STATS_VQ = 1, F_DEFLATE_ON_OOM = 2, F_PAGE_POISON = 4, F_REPORTING = 5 };
enum { QUEUE_INFLATE, QUEUE_DEFLATE, QUEUE_STATS, QUEUE_REPORTING_OLD, QUEUE_REPORTING, QUEUES };
enum { C_NUM_PAGES = 0, C_ACTUAL = 4, C_POISON = 12, CONFIG_SIZE = 16 };
enum { STAT_SIZE = 10, STATS_MAX = 32 }; /* le16 tag, le64 value */
enum { PFN_SHIFT = 12 };                 /* of the interface, whatever the guest's pages are */
enum { BATCH = 1024, PFNS_MAX = 16 * BATCH };
#define REPORT_MAX (4ull << 30)

struct balloon_regs {
    struct dp_virtio_regs virtio;
    uint32_t num_pages, actual, poison;
};

struct balloon {
    struct dp_virtio_device base;
    struct balloon_regs regs;
    struct dp_virtio_request request; /* scratch, under the lock */
    uint32_t target;                  /* num_pages, which a reset brings back */
    bool asked;                       /* for statistics: what comes next is fresh */
    uint64_t inflated, reported, refused, stat_time;
    uint64_t stat[DP_BALLOON_STATS];
    uint32_t stat_known;
};

const char *const dp_balloon_stat_names[DP_BALLOON_STATS] = {
    "swap_in", "swap_out", "major_faults", "minor_faults", "free", "total", "available", "disk_caches", "hugetlb_allocated", "hugetlb_failed",
};

static const struct dp_field balloon_fields[] = {
    DP_FIELD_STRUCT(struct balloon_regs, virtio, 1, &dp_virtio_regs_table),
    DP_FIELD_U32(struct balloon_regs, num_pages, 2, 0, 0),
    DP_FIELD_U32(struct balloon_regs, actual, 3, 0, 0),
    DP_FIELD_U32(struct balloon_regs, poison, 4, 0, 0),
};
static const struct dp_state_table balloon_table = DP_STATE_TABLE(struct balloon_regs, "virtio-balloon", balloon_fields);

static struct balloon *balloon_of(struct dp_virtio *v) { return DP_CONTAINER_OF(v, struct balloon, base.virtio); }

static uint64_t balloon_features(struct dp_virtio *v)
{
    return 1ull << F_STATS_VQ | 1ull << F_DEFLATE_ON_OOM | 1ull << F_PAGE_POISON | 1ull << F_REPORTING;
}

/* ---- configuration ---- */

static void balloon_config_read(struct dp_virtio *v, uint32_t offset, void *data, uint32_t size)
{
    const struct balloon_regs *r = &balloon_of(v)->regs;
    uint8_t config[CONFIG_SIZE] = {0};
    dp_st32(config + C_NUM_PAGES, r->num_pages);
    dp_st32(config + C_ACTUAL, r->actual);
    dp_st32(config + C_POISON, r->poison);
    memcpy(data, config + offset, size);
}

static void balloon_config_write(struct dp_virtio *v, uint32_t offset, const void *data, uint32_t size)
{
    struct balloon_regs *r = &balloon_of(v)->regs;
    uint8_t config[CONFIG_SIZE];
    balloon_config_read(v, 0, config, sizeof config);
    memcpy(config + offset, data, size);
    r->actual = dp_ld32(config + C_ACTUAL);
    r->poison = dp_ld32(config + C_POISON);
}

/* ---- pages ---- */

static void refuse(struct balloon *b, uint64_t pages, const char *why, uint64_t address)
{
    struct dp_device *d = &b->base.device;
    b->refused += pages;
    dp_trace_guest(d->env->trace, "%s: %llu pages at 0x%llx %s, refused", d->id, (unsigned long long)pages, (unsigned long long)address, why);
}

/* A free page that the guest takes to be full of its poison must not become one of zeros. Those of the balloon it fills itself when it
 * frees them. */
static bool poisoned(const struct balloon *b) { return dp_virtio_has(&b->base.virtio, F_PAGE_POISON) && b->regs.poison; }

static void discard(struct balloon *b, uint64_t address, uint64_t size, uint64_t *done)
{
    if (dp_space_discard(b->base.device.env->memory, address, size))
        refuse(b, size >> PFN_SHIFT, "cannot be given back", address);
    else
        *done += size;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Drivers go through free memory in either direction: sorted, neighbours become one discard. */
static void inflate(struct balloon *b, const struct dp_virtio_request *r)
{
    struct dp_virtio *v = &b->base.virtio;
    uint32_t pfn[BATCH];
    uint64_t count = DP_MIN(r->out_bytes / sizeof *pfn, (uint64_t)PFNS_MAX);
    if (r->out_bytes > count * sizeof *pfn)
        refuse(b, r->out_bytes / sizeof *pfn - count, "are too many at once", 0);
    for (uint64_t at = 0; at < count; at += BATCH) {
        unsigned n = DP_MIN(count - at, (uint64_t)BATCH);
        if (dp_virtio_read(v, r, at * sizeof *pfn, pfn, n * sizeof *pfn) != n * sizeof *pfn) {
            dp_virtio_broken(v, "an array of pages is not in RAM");
            return;
        }
        for (unsigned i = 0; i < n; i++)
            pfn[i] = dp_ld32((const uint8_t *)&pfn[i]);
        qsort(pfn, n, sizeof *pfn, by_value);
        for (unsigned i = 0, run; i < n; i += run) {
            unsigned pages = 1;
            for (run = 1; i + run < n && pfn[i + run] - pfn[i] <= pages; run++) {
                if (pfn[i + run] == pfn[i + run - 1])
                    refuse(b, 1, "are in the array twice", (uint64_t)pfn[i + run] << PFN_SHIFT);
                else
                    pages++;
            }
            discard(b, (uint64_t)pfn[i] << PFN_SHIFT, (uint64_t)pages << PFN_SHIFT, &b->inflated);
        }
    }
}

/* The buffers are the pages themselves. They come back as they are: whoever reads them finds zeros. */
static void report(struct balloon *b, const struct dp_virtio_request *r)
{
    uint64_t room = REPORT_MAX;
    for (unsigned i = r->out_count; i < r->out_count + r->in_count; i++) {
        uint64_t address = r->segment[i].address, size = r->segment[i].length;
        if (size > room) {
            refuse(b, size >> PFN_SHIFT, "are too many at once", address);
            continue;
        }
        room -= size;
        discard(b, address, size, &b->reported);
    }
}

/* ---- statistics ---- */

static void read_stats(struct dp_virtio *v)
{
    struct balloon *b = balloon_of(v);
    struct dp_virtio_request *r = &b->request;
    uint8_t data[STATS_MAX * STAT_SIZE];
    if (!b->asked || dp_virtio_pop(v, QUEUE_STATS, r) <= 0)
        return;
    uint64_t size = dp_virtio_read(v, r, 0, data, DP_MIN(r->out_bytes, sizeof data));
    b->stat_known = 0;
    for (const uint8_t *p = data; p + STAT_SIZE <= data + size; p += STAT_SIZE) {
        unsigned tag = dp_ld16(p);
        if (tag < DP_BALLOON_STATS) {
            b->stat[tag] = dp_ld64(p + 2);
            b->stat_known |= 1u << tag;
        }
    }
    b->stat_time = dp_clock_now(v->device->env->clock);
    b->asked = false;
    dp_virtio_unpop(v, QUEUE_STATS);
}

static void ask_for_stats(struct dp_virtio *v)
{
    struct balloon *b = balloon_of(v);
    if (b->asked || !dp_virtio_has(v, F_STATS_VQ) || dp_virtio_pop(v, QUEUE_STATS, &b->request) <= 0)
        return;
    dp_virtio_push(v, QUEUE_STATS, b->request.head, 0);
    b->asked = true;
    /* Looking at the empty ring asks for a kick; a driver that has a second buffer there gets no special treatment. */
    if (dp_virtio_pop(v, QUEUE_STATS, &b->request) > 0)
        dp_virtio_unpop(v, QUEUE_STATS);
}

/* ---- queues ---- */

static unsigned role(const struct dp_virtio *v, unsigned queue)
{
    return queue > QUEUE_STATS || (queue == QUEUE_STATS && !dp_virtio_has(v, F_STATS_VQ)) ? QUEUE_REPORTING : queue;
}

static void balloon_notify(struct dp_virtio *v, unsigned queue)
{
    struct balloon *b = balloon_of(v);
    struct dp_virtio_request *r = &b->request;
    unsigned what = role(v, queue);
    if (what == QUEUE_STATS) {
        read_stats(v);
        return;
    }
    for (unsigned budget = 8; dp_virtio_pop(v, queue, r) > 0;) { /* one may take some milliseconds */
        if (what == QUEUE_INFLATE)
            inflate(b, r);
        else if (what == QUEUE_REPORTING && dp_virtio_has(v, F_REPORTING) && !poisoned(b))
            report(b, r);
        dp_virtio_push(v, queue, r->head, 0);
        if (!--budget) {
            dp_virtio_more(v, queue);
            return;
        }
    }
}

/* Without its driver the balloon is empty: the pages are the guest's. */
static void balloon_driver_reset(struct dp_virtio *v)
{
    struct balloon *b = balloon_of(v);
    b->regs.num_pages = b->target;
    b->regs.actual = b->regs.poison = 0;
    b->stat_known = 0;
    b->asked = true;
}

static const struct dp_virtio_class balloon_virtio_class = {
    .device_id = 5, .pci_class = 0x00ff00, .queue_count = QUEUES, .queue_size = 128, .config_size = CONFIG_SIZE,
    .features = balloon_features, .config_read = balloon_config_read, .config_write = balloon_config_write, .notify = balloon_notify,
    .reset = balloon_driver_reset,
};

/* ---- the host's side ---- */

void dp_virtio_balloon_set(struct dp_device *d, uint64_t bytes)
{
    struct dp_virtio *v = dp_virtio_of(d);
    struct balloon *b = balloon_of(v);
    dp_virtio_lock(v);
    b->target = b->regs.num_pages = DP_MIN(bytes >> PFN_SHIFT, (uint64_t)UINT32_MAX);
    dp_virtio_config_changed(v);
    dp_virtio_unlock(v);
}

void dp_virtio_balloon_status(struct dp_device *d, struct dp_balloon_status *s)
{
    struct dp_virtio *v = dp_virtio_of(d);
    struct balloon *b = balloon_of(v);
    dp_virtio_lock(v);
    *s = (struct dp_balloon_status){
        .driver = v->regs->status & DP_VIRTIO_DRIVER_OK,
        .reporting = (v->regs->status & DP_VIRTIO_DRIVER_OK) && dp_virtio_has(v, F_REPORTING),
        .target = (uint64_t)b->regs.num_pages << PFN_SHIFT,
        .actual = (uint64_t)b->regs.actual << PFN_SHIFT,
        .inflated = b->inflated,
        .reported = b->reported,
        .refused = b->refused,
        .stat_known = b->stat_known,
    };
    memcpy(s->stat, b->stat, sizeof s->stat);
    if (b->stat_known)
        s->stat_age_ns = dp_clock_now(d->env->clock) - b->stat_time;
    ask_for_stats(v);
    dp_virtio_unlock(v);
}

/* ---- life cycle ---- */

static int balloon_init(struct dp_device *d, struct dp_error *e)
{
    struct balloon *b = DP_CONTAINER_OF(d, struct balloon, base.device);
    dp_virtio_init(&b->base.virtio, &balloon_virtio_class, &b->regs.virtio, d);
    return 0;
}

static void balloon_fini(struct dp_device *d) { dp_virtio_fini(dp_virtio_of(d)); }
static void balloon_reset(struct dp_device *d) { dp_virtio_reset(dp_virtio_of(d)); }
static void balloon_pause(struct dp_device *d) { dp_virtio_pause(dp_virtio_of(d)); }
static void balloon_resume(struct dp_device *d) { dp_virtio_resume(dp_virtio_of(d)); }

static void balloon_post_load(struct dp_device *d)
{
    struct balloon *b = DP_CONTAINER_OF(d, struct balloon, base.device);
    b->target = b->regs.num_pages;
    b->stat_known = 0;
    b->asked = true; /* the buffer that waits is as good as a fresh one */
    dp_virtio_post_load(dp_virtio_of(d));
}

const struct dp_device_class dp_virtio_balloon_class = {
    .name = "virtio-balloon",
    .summary = "memory that goes back to the host, and free page reporting (virtio 1.2)",
    .size = sizeof(struct balloon),
    .regs_offset = offsetof(struct balloon, regs),
    .state = &balloon_table,
    .init = balloon_init,
    .fini = balloon_fini,
    .reset = balloon_reset,
    .pause = balloon_pause,
    .resume = balloon_resume,
    .post_load = balloon_post_load,
};
