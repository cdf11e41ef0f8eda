/* throttle.c - see throttle.h. */
#include "block/throttle.h"

#include <pthread.h>
#include <stdlib.h>

#define SECOND 1000000000ull

enum { READS, WRITES, DIRECTIONS, BOTH = DIRECTIONS, SCOPES };
struct bucket {
    uint64_t rate;      /* units in a second; 0: no limit */
    uint64_t tolerance; /* ns that the bucket may take to be empty */
    uint64_t empty_at;
};
struct queue {
    struct dp_block_request *first, **last;
};

struct dp_throttle {
    struct dp_clock *clock;
    void (*go)(void *opaque, struct dp_block_request *r);
    void *opaque;
    struct dp_timer timer;
    pthread_mutex_t lock; /* of the rest */
    struct bucket operations[SCOPES], bytes[SCOPES];
    struct queue queue[DIRECTIONS];
};

static uint64_t time_of(uint64_t units, uint64_t rate) { return (uint64_t)((unsigned __int128)units * SECOND / rate); }

static void pour(struct bucket *b, uint64_t units, uint64_t now)
{
    if (b->rate)
        b->empty_at = DP_MAX(b->empty_at, now) + time_of(units, b->rate);
}

/* When the bucket has room for so much: 0 for at once. */
static uint64_t room_at(const struct bucket *b, uint64_t units)
{
    uint64_t share = b->rate ? time_of(units, b->rate) : 0, spare = b->tolerance - DP_MIN(share, b->tolerance);
    return b->rate && b->empty_at > spare ? b->empty_at - spare : 0;
}

static uint64_t bytes_of(const struct dp_block_request *r) { return r->op == DP_BLOCK_READ || r->op == DP_BLOCK_WRITE ? r->size : 0; }

/* When the first of a queue may go. */
static uint64_t due(const struct dp_throttle *t, unsigned direction)
{
    uint64_t bytes = bytes_of(t->queue[direction].first);
    uint64_t operations = DP_MAX(room_at(&t->operations[direction], 1), room_at(&t->operations[BOTH], 1));
    return DP_MAX(operations, DP_MAX(room_at(&t->bytes[direction], bytes), room_at(&t->bytes[BOTH], bytes)));
}

static void charge(struct dp_throttle *t, unsigned direction, const struct dp_block_request *r, uint64_t now)
{
    uint64_t bytes = bytes_of(r);
    pour(&t->operations[direction], 1, now);
    pour(&t->operations[BOTH], 1, now);
    pour(&t->bytes[direction], bytes, now);
    pour(&t->bytes[BOTH], bytes, now);
}

/* Lock held: takes those that may go off the queues (all: whatever the limits say), in a list; and arms the timer for the rest. */
static struct dp_block_request *take(struct dp_throttle *t, bool all)
{
    struct dp_block_request *list = NULL, **end = &list;
    uint64_t now = dp_clock_now(t->clock), next = UINT64_MAX;
    for (unsigned d = 0; d < DIRECTIONS; d++) {
        struct queue *q = &t->queue[d];
        while (q->first && (all || due(t, d) <= now)) {
            struct dp_block_request *r = q->first;
            if (!(q->first = r->next))
                q->last = &q->first;
            charge(t, d, r, now);
            r->next = NULL;
            *end = r;
            end = &r->next;
        }
    }
    for (unsigned d = 0; d < DIRECTIONS; d++)
        if (t->queue[d].first)
            next = DP_MIN(next, due(t, d));
    if (next != UINT64_MAX)
        dp_timer_arm(&t->timer, next);
    return list;
}

static void go_all(struct dp_throttle *t, struct dp_block_request *r)
{
    while (r) {
        struct dp_block_request *next = r->next; /* r may be done and gone once handed on */
        r->next = NULL;
        t->go(t->opaque, r);
        r = next;
    }
}

static void timer_due(void *opaque)
{
    struct dp_throttle *t = opaque;
    pthread_mutex_lock(&t->lock);
    struct dp_block_request *list = take(t, false);
    pthread_mutex_unlock(&t->lock);
    go_all(t, list);
}

void dp_throttle_release(struct dp_throttle *t)
{
    pthread_mutex_lock(&t->lock);
    struct dp_block_request *list = take(t, true);
    pthread_mutex_unlock(&t->lock);
    go_all(t, list);
}

void dp_throttle_submit(struct dp_throttle *t, struct dp_block_request *r)
{
    if (r->op == DP_BLOCK_FLUSH) {
        t->go(t->opaque, r);
        return;
    }
    struct queue *q = &t->queue[r->op == DP_BLOCK_READ ? READS : WRITES];
    pthread_mutex_lock(&t->lock);
    r->next = NULL;
    *q->last = r;
    q->last = &r->next;
    struct dp_block_request *list = take(t, false);
    pthread_mutex_unlock(&t->lock);
    go_all(t, list);
}

/* Without a burst of its own, a tenth of a second's. */
static struct bucket make(uint64_t rate, uint64_t burst)
{
    return (struct bucket){.rate = rate, .tolerance = !rate ? 0 : burst ? time_of(burst, rate) : SECOND / 10};
}

int dp_throttle_create(struct dp_clock *clock, const struct dp_throttle_limits *l, void (*go)(void *opaque, struct dp_block_request *r),
                       void *opaque, struct dp_throttle **out, struct dp_error *e)
{
    struct dp_throttle *t = calloc(1, sizeof(*t));
    if (!t)
        return dp_error_set(e, -ENOMEM, "no memory to limit a disk");
    t->clock = clock;
    t->go = go;
    t->opaque = opaque;
    t->operations[BOTH] = make(l->iops, l->iops_burst);
    t->operations[READS] = make(l->iops_read, l->iops_burst);
    t->operations[WRITES] = make(l->iops_write, l->iops_burst);
    t->bytes[BOTH] = make(l->bps, l->bps_burst);
    t->bytes[READS] = make(l->bps_read, l->bps_burst);
    t->bytes[WRITES] = make(l->bps_write, l->bps_burst);
    for (unsigned d = 0; d < DIRECTIONS; d++)
        t->queue[d].last = &t->queue[d].first;
    pthread_mutex_init(&t->lock, NULL);
    dp_timer_init(&t->timer, clock, timer_due, t);
    *out = t;
    return 0;
}

void dp_throttle_destroy(struct dp_throttle *t)
{
    if (!t)
        return;
    dp_timer_fini(&t->timer);
    pthread_mutex_destroy(&t->lock);
    free(t);
}
