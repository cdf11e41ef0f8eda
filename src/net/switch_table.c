/* net/switch_table.c - the switch's addresses and token buckets; see switch_internal.h. */
#include <stdlib.h>
#include <sys/random.h>

#include "net/switch_internal.h"

int dp_switch_table_init(struct dp_switch_table *t, unsigned size, uint64_t age)
{
    uint32_t buckets = 16;
    while (buckets < size)
        buckets *= 2;
    *t = (struct dp_switch_table){.size = size, .mask = buckets - 1, .age = age};
    if (getrandom(&t->seed, sizeof t->seed, 0) != sizeof t->seed)
        t->seed = (uintptr_t)t * 0x9e3779b97f4a7c15; /* an old kernel's early boot */
    t->entry = calloc(size, sizeof *t->entry);
    t->bucket = calloc(buckets, sizeof *t->bucket);
    return t->entry && t->bucket ? 0 : -ENOMEM;
}

void dp_switch_table_fini(struct dp_switch_table *t)
{
    free(t->entry);
    free(t->bucket);
}

static uint32_t *bucket_of(struct dp_switch_table *t, uint64_t key)
{
    uint64_t h = (key ^ t->seed) * 0xff51afd7ed558ccd;
    h = (h ^ h >> 33 ^ t->seed >> 7) * 0xc4ceb9fe1a85ec53;
    return &t->bucket[(h ^ h >> 32) & t->mask];
}

/* Takes the entry that *link leads to out of its chain. */
static void drop(struct dp_switch_table *t, uint32_t *link)
{
    uint32_t n = *link;
    struct dp_switch_entry *e = &t->entry[n - 1];
    *link = e->next;
    e->next = t->free;
    t->free = n;
    t->used--;
    t->by_port[e->port]--;
}

static bool is_old(const struct dp_switch_table *t, const struct dp_switch_entry *e, uint64_t now)
{
    return now > e->seen && now - e->seen > t->age;
}

struct dp_switch_entry *dp_switch_table_find(struct dp_switch_table *t, uint64_t key, uint64_t now)
{
    for (uint32_t *link = bucket_of(t, key); *link; link = &t->entry[*link - 1].next) {
        struct dp_switch_entry *e = &t->entry[*link - 1];
        if (e->key != key)
            continue;
        if (!is_old(t, e, now))
            return e;
        drop(t, link);
        return NULL;
    }
    return NULL;
}

/* Drops what is too old; at most once a second, for it looks at everything. */
static void sweep(struct dp_switch_table *t, uint64_t now)
{
    if (t->swept && now - t->swept < DP_SWITCH_SECOND)
        return;
    t->swept = now ? now : 1;
    for (uint32_t i = 0; i <= t->mask; i++)
        for (uint32_t *link = &t->bucket[i]; *link;) {
            if (is_old(t, &t->entry[*link - 1], now))
                drop(t, link);
            else
                link = &t->entry[*link - 1].next;
        }
}

struct dp_switch_entry *dp_switch_table_add(struct dp_switch_table *t, uint64_t key, unsigned port, unsigned limit, uint64_t now)
{
    if (t->used == t->size || t->by_port[port] >= limit)
        sweep(t, now);
    if (t->used == t->size || t->by_port[port] >= limit)
        return NULL;
    uint32_t n = t->free;
    if (n)
        t->free = t->entry[n - 1].next;
    else
        n = ++t->fresh;
    struct dp_switch_entry *e = &t->entry[n - 1];
    uint32_t *bucket = bucket_of(t, key);
    *e = (struct dp_switch_entry){.key = key, .seen = now, .window = now, .moved = now, .next = *bucket,
                                  .port = (uint16_t)port, .home = (uint16_t)port};
    *bucket = n;
    t->used++;
    t->by_port[port]++;
    return e;
}

void dp_switch_table_move(struct dp_switch_table *t, struct dp_switch_entry *e, unsigned port)
{
    t->by_port[e->port]--;
    t->by_port[port]++;
    e->port = (uint16_t)port;
}

void dp_switch_table_flush(struct dp_switch_table *t, unsigned port)
{
    if (!(port < DP_SWITCH_PORTS ? t->by_port[port] : t->used))
        return;
    for (uint32_t i = 0; i <= t->mask; i++)
        for (uint32_t *link = &t->bucket[i]; *link;) {
            if (port >= DP_SWITCH_PORTS || t->entry[*link - 1].port == port)
                drop(t, link);
            else
                link = &t->entry[*link - 1].next;
        }
}

/* ---- token buckets ---- */

void dp_switch_bucket_init(struct dp_switch_bucket *b, uint64_t rate, uint64_t burst, uint64_t now)
{
    burst = DP_MIN(burst ? burst : DP_MAX(rate / 10, 1u), (uint64_t)INT64_MAX / 2);
    *b = (struct dp_switch_bucket){.rate = rate, .burst = burst, .last = now, .tokens = (int64_t)burst};
}

bool dp_switch_bucket_take(struct dp_switch_bucket *b, uint64_t amount, uint64_t now)
{
    if (!b->rate)
        return true;
    if (now > b->last) {
        unsigned __int128 sum = (unsigned __int128)(now - b->last) * b->rate + b->fraction, whole = sum / DP_SWITCH_SECOND;
        if (whole >= (uint64_t)((int64_t)b->burst - b->tokens)) {
            b->tokens = (int64_t)b->burst;
            b->fraction = 0;
        } else {
            b->tokens += (int64_t)whole;
            b->fraction = (uint64_t)(sum % DP_SWITCH_SECOND);
        }
    }
    b->last = now;
    if (b->tokens <= 0)
        return false;
    b->tokens -= (int64_t)amount;
    return true;
}
