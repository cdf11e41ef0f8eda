/* memory.c - address spaces: mappings, the flat view, accesses.
 *
 * Model: writers change the list of mappings under a lock and rebuild the flat view, an array of ranges that covers all 2^64 addresses,
 * holes included, so that finding is one binary search that always hits. Readers take no lock and write nothing: a space owns two view
 * buffers; a writer fills the one that is not published, under that buffer's sequence lock, and publishes it. A reader searches the
 * published buffer and starts over if its sequence moved, which needs two commits within one search.
 * Buffers are type-stable: they are freed only with the space. They grow by doubling at map time, so all that were outgrown together are
 * smaller than the newest, whatever a guest does to its BARs, and a commit never allocates.
 * Invariants: every word of a view is accessed atomically (relaxed), so a torn range is seen only by a reader that then retries.
 * Callbacks of windows and listeners run with no lock held.
 */
#include "memory/memory_internal.h"

#include <pthread.h>
#include <stdlib.h>

struct mapping {
    uint32_t id;
    int priority;
    struct dp_range range; /* the whole mapping, as if nothing hid it */
};

enum { WORDS = 8, LISTENERS = 16, FIRST_CAPACITY = 32 };

struct view {
    struct view *outgrown; /* list of all buffers, to free at the end */
    atomic_uint sequence;  /* odd while being written */
    _Atomic uint32_t count;
    uint32_t capacity;
    _Atomic uint64_t words[]; /* per range: base, size, ram, ram_offset, ops, opaque, window_offset, readonly */
};

struct dp_space {
    const char *name;
    uint64_t size;
    struct dp_trace *trace;
    struct view *_Atomic published;
    _Atomic uint64_t cpu_mask;
    struct dp_space *below; /* shows through holes; NULL: nothing does */
    pthread_mutex_t lock; /* all below */
    struct view *spare, *all_views;
    struct mapping *mappings; /* ascending priority; equal ones in order of arrival */
    uint32_t count, capacity, next_id;
    uint64_t *edges; /* scratch of a rebuild: 2 * capacity + 2 */
    unsigned depth;
    bool changed;
    unsigned dirty_clients;
    pthread_mutex_t listener_lock; /* below */
    pthread_cond_t listener_idle;
    struct dp_listener listeners[LISTENERS];
    unsigned listener_count, notifying;
};

/* ---- the flat view ---- */

static struct view *view_new(struct dp_space *s, uint32_t capacity)
{
    struct view *v = calloc(1, sizeof(*v) + (size_t)capacity * WORDS * sizeof(v->words[0]));
    if (v) {
        v->capacity = capacity;
        v->outgrown = s->all_views;
        s->all_views = v;
    }
    return v;
}

static void view_put(struct view *v, uint32_t i, const struct dp_range *r)
{
    const uint64_t words[WORDS] = {r->base, r->size, (uintptr_t)r->ram, r->ram_offset, (uintptr_t)r->ops, (uintptr_t)r->opaque,
                                   r->window_offset, r->readonly};
    for (unsigned k = 0; k < WORDS; k++)
        atomic_store_explicit(&v->words[(size_t)i * WORDS + k], words[k], memory_order_relaxed);
}

static void view_get(const struct view *v, uint32_t i, struct dp_range *r)
{
    uint64_t words[WORDS];
    for (unsigned k = 0; k < WORDS; k++)
        words[k] = atomic_load_explicit(&((struct view *)v)->words[(size_t)i * WORDS + k], memory_order_relaxed);
    *r = (struct dp_range){.base = words[0], .size = words[1], .ram = (struct dp_ram *)(uintptr_t)words[2], .ram_offset = words[3],
                           .ops = (const struct dp_window_ops *)(uintptr_t)words[4], .opaque = (void *)(uintptr_t)words[5],
                           .window_offset = words[6], .readonly = words[7]};
}

static int compare_edges(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Fills v from the mappings; lock held. The capacity was reserved when they were added. */
static void view_fill(struct dp_space *s, struct view *v)
{
    uint32_t edges = 0, n = 0;
    s->edges[edges++] = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        s->edges[edges++] = s->mappings[i].range.base;
        s->edges[edges++] = s->mappings[i].range.base + s->mappings[i].range.size;
    }
    qsort(s->edges, edges, sizeof(*s->edges), compare_edges);

    atomic_fetch_add_explicit(&v->sequence, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    const struct mapping *last_top = NULL;
    struct dp_range last = {0};
    for (uint32_t i = 0; i < edges; i++) {
        if (i && s->edges[i] == s->edges[i - 1])
            continue;
        uint64_t base = s->edges[i];
        const struct mapping *top = NULL;
        for (uint32_t k = s->count; k-- && !top;)
            if (base - s->mappings[k].range.base < s->mappings[k].range.size)
                top = &s->mappings[k];
        if (n && top == last_top)
            continue; /* the edge of something hidden: the range goes on */
        if (n) {
            last.size = base - last.base;
            view_put(v, n - 1, &last);
        }
        last = top ? top->range : (struct dp_range){0};
        last.base = base;
        if (top) {
            uint64_t skip = base - top->range.base;
            last.ram_offset += top->range.ram ? skip : 0;
            last.window_offset += top->range.ops ? skip : 0;
        }
        last_top = top;
        n++;
    }
    last.size = last.base ? 0 - last.base : UINT64_MAX; /* the last range is the hole up to 2^64 */
    view_put(v, n - 1, &last);
    atomic_store_explicit(&v->count, n, memory_order_relaxed);
    atomic_fetch_add_explicit(&v->sequence, 1, memory_order_release);
}

static void publish(struct dp_space *s)
{
    struct view *next = s->spare;
    view_fill(s, next);
    s->spare = atomic_exchange_explicit(&s->published, next, memory_order_acq_rel);
}

/* A hole of s: what of the space below is to be seen in it. */
static DP_COLD bool find_below(struct dp_space *s, uint64_t addr, struct dp_range *out)
{
    struct dp_range hole = *out;
    bool found = dp_space_find(s->below, addr, out);
    uint64_t skip = out->base < hole.base ? hole.base - out->base : 0;
    out->base += skip;
    out->size -= skip;
    out->ram_offset += out->ram ? skip : 0;
    out->window_offset += out->ops ? skip : 0;
    out->size = DP_MIN(out->size, hole.size - (out->base - hole.base));
    return found;
}

bool dp_space_find(struct dp_space *s, uint64_t addr, struct dp_range *out)
{
    for (;;) {
        struct view *v = atomic_load_explicit(&s->published, memory_order_acquire);
        unsigned before = atomic_load_explicit(&v->sequence, memory_order_acquire);
        uint32_t low = 0, high = atomic_load_explicit(&v->count, memory_order_relaxed);
        while (high - low > 1) {
            uint32_t middle = low + (high - low) / 2;
            if (atomic_load_explicit(&v->words[(size_t)middle * WORDS], memory_order_relaxed) <= addr)
                low = middle;
            else
                high = middle;
        }
        view_get(v, low, out);
        atomic_thread_fence(memory_order_acquire);
        if (DP_LIKELY(!(before & 1) && atomic_load_explicit(&v->sequence, memory_order_relaxed) == before))
            return out->ram || out->ops || (s->below && find_below(s, addr, out));
    }
}

/* ---- life ---- */

int dp_space_create(const char *name, uint64_t size, struct dp_trace *t, struct dp_space **out, struct dp_error *e)
{
    if (!size)
        return dp_error_set(e, -EINVAL, "the address space %s has no size", name);
    struct dp_space *s = calloc(1, sizeof(*s));
    if (s) {
        s->edges = calloc(2 * FIRST_CAPACITY + 2, sizeof(*s->edges));
        s->mappings = calloc(FIRST_CAPACITY, sizeof(*s->mappings));
        s->capacity = FIRST_CAPACITY;
        struct view *first = view_new(s, 2 * FIRST_CAPACITY + 2);
        s->spare = view_new(s, 2 * FIRST_CAPACITY + 2);
        atomic_init(&s->published, first);
        pthread_mutex_init(&s->lock, NULL);
        pthread_mutex_init(&s->listener_lock, NULL);
        pthread_cond_init(&s->listener_idle, NULL);
    }
    if (!s || !s->edges || !s->mappings || !s->published || !s->spare) {
        dp_space_destroy(s);
        return dp_error_set(e, -ENOMEM, "no memory for the address space %s", name);
    }
    s->name = name;
    s->size = size;
    s->trace = t;
    atomic_init(&s->cpu_mask, UINT64_MAX);
    publish(s);
    *out = s;
    return 0;
}

int dp_space_create_over(const char *name, struct dp_space *below, struct dp_space **out, struct dp_error *e)
{
    int r = dp_space_create(name, below->size, below->trace, out, e);
    if (!r)
        (*out)->below = below;
    return r;
}

void dp_space_destroy(struct dp_space *s)
{
    if (!s)
        return;
    while (s->all_views) {
        struct view *v = s->all_views;
        s->all_views = v->outgrown;
        free(v);
    }
    free(s->mappings);
    free(s->edges);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->listener_lock);
    pthread_cond_destroy(&s->listener_idle);
    free(s);
}

/* ---- listeners ---- */

/* Copies the listeners for calls without the lock; listeners_done must follow. */
static unsigned listeners_take(struct dp_space *s, struct dp_listener copy[LISTENERS])
{
    pthread_mutex_lock(&s->listener_lock);
    unsigned n = s->listener_count;
    memcpy(copy, s->listeners, n * sizeof(copy[0]));
    s->notifying++;
    pthread_mutex_unlock(&s->listener_lock);
    return n;
}

static void listeners_done(struct dp_space *s)
{
    pthread_mutex_lock(&s->listener_lock);
    if (!--s->notifying)
        pthread_cond_broadcast(&s->listener_idle);
    pthread_mutex_unlock(&s->listener_lock);
}

int dp_space_listen(struct dp_space *s, const struct dp_listener *l)
{
    int r = -ENOSPC;
    pthread_mutex_lock(&s->listener_lock);
    if (s->listener_count < LISTENERS) {
        s->listeners[s->listener_count++] = *l;
        r = 0;
    }
    pthread_mutex_unlock(&s->listener_lock);
    return r;
}

/* Afterwards no callback with this opaque runs; so it may not be called from one. */
void dp_space_unlisten(struct dp_space *s, void *opaque)
{
    pthread_mutex_lock(&s->listener_lock);
    unsigned kept = 0;
    for (unsigned i = 0; i < s->listener_count; i++)
        if (s->listeners[i].opaque != opaque)
            s->listeners[kept++] = s->listeners[i];
    s->listener_count = kept;
    while (s->notifying)
        pthread_cond_wait(&s->listener_idle, &s->listener_lock);
    pthread_mutex_unlock(&s->listener_lock);
}

static void notify_changed(struct dp_space *s)
{
    struct dp_listener copy[LISTENERS];
    unsigned n = listeners_take(s, copy);
    for (unsigned i = 0; i < n; i++)
        if (copy[i].changed)
            copy[i].changed(copy[i].opaque, s);
    listeners_done(s);
    if (s->below)
        notify_changed(s->below);
}

void dp_space_code_marked(struct dp_space *s, struct dp_ram *r, uint64_t page)
{
    struct dp_listener copy[LISTENERS];
    unsigned n = listeners_take(s, copy);
    for (unsigned i = 0; i < n; i++)
        if (copy[i].code_marked)
            copy[i].code_marked(copy[i].opaque, r, page);
    listeners_done(s);
}

void dp_space_set_cpu_mask(struct dp_space *s, uint64_t mask)
{
    if (atomic_exchange(&s->cpu_mask, mask) != mask)
        notify_changed(s);
}

uint64_t dp_space_cpu_mask(const struct dp_space *s)
{
    return atomic_load_explicit(&((struct dp_space *)s)->cpu_mask, memory_order_relaxed);
}

/* ---- mappings ---- */

void dp_space_begin(struct dp_space *s)
{
    pthread_mutex_lock(&s->lock);
    s->depth++;
    pthread_mutex_unlock(&s->lock);
}

void dp_space_commit(struct dp_space *s)
{
    pthread_mutex_lock(&s->lock);
    bool now = !--s->depth && s->changed;
    if (now) {
        s->changed = false;
        publish(s);
    }
    pthread_mutex_unlock(&s->lock);
    if (now)
        notify_changed(s);
}

/* Room for one more mapping in the list, the scratch space and both views; lock held. */
static int reserve(struct dp_space *s, struct dp_error *e)
{
    if (s->count < s->capacity)
        return 0;
    uint32_t capacity = s->capacity * 2;
    struct mapping *mappings = realloc(s->mappings, capacity * sizeof(*mappings));
    if (mappings)
        s->mappings = mappings;
    uint64_t *edges = realloc(s->edges, (2 * (size_t)capacity + 2) * sizeof(*edges));
    if (edges)
        s->edges = edges;
    struct view *a = s->spare->capacity < 2 * capacity + 2 ? view_new(s, 2 * capacity + 2) : s->spare;
    struct view *b = a ? view_new(s, 2 * capacity + 2) : NULL;
    if (a) /* kept for the next try if the rest failed */
        s->spare = a;
    if (!mappings || !edges || !b)
        return dp_error_set(e, -ENOMEM, "no memory for another mapping in %s", s->name);
    /* The same view again, in the larger buffer; its predecessor stays for readers still in it, and is never written again. The
     * pending changes of an open begin must not show, so the words are copied rather than filled anew. */
    struct view *old = atomic_load_explicit(&s->published, memory_order_relaxed);
    uint32_t n = atomic_load_explicit(&old->count, memory_order_relaxed);
    for (uint32_t i = 0; i < n; i++) {
        struct dp_range r;
        view_get(old, i, &r);
        view_put(b, i, &r);
    }
    atomic_store_explicit(&b->count, n, memory_order_relaxed);
    atomic_store_explicit(&s->published, b, memory_order_release);
    s->capacity = capacity;
    return 0;
}

/* A guest that moves BARs for some hours gets past 2^32, so ids in use are skipped. */
static uint32_t new_id(struct dp_space *s)
{
    for (bool used = true; used;) {
        used = !++s->next_id;
        for (uint32_t i = 0; i < s->count && !used; i++)
            used = s->mappings[i].id == s->next_id;
    }
    return s->next_id;
}

static int add_mapping(struct dp_space *s, const struct dp_range *range, int priority, uint32_t *id, struct dp_error *e)
{
    if (!range->size || range->size > s->size || range->base > s->size - range->size)
        return dp_error_set(e, -EINVAL, "0x%llx bytes at 0x%llx do not fit into %s", (unsigned long long)range->size,
                            (unsigned long long)range->base, s->name);
    pthread_mutex_lock(&s->lock);
    int r = reserve(s, e);
    for (unsigned i = 0; !r && range->ram && i < DP_DIRTY_CLIENTS; i++)
        if ((s->dirty_clients & ~atomic_load(&range->ram->dirty_active)) >> i & 1)
            r = ram_dirty_start(range->ram, i, e);
    if (r) {
        pthread_mutex_unlock(&s->lock);
        return r;
    }
    uint32_t id_of_new = new_id(s), at = s->count++;
    for (; at && s->mappings[at - 1].priority > priority; at--)
        s->mappings[at] = s->mappings[at - 1];
    s->mappings[at] = (struct mapping){.id = id_of_new, .priority = priority, .range = *range};
    if (id)
        *id = id_of_new;
    s->depth++;
    s->changed = true;
    pthread_mutex_unlock(&s->lock);
    dp_space_commit(s);
    return 0;
}

static int check_ram(uint64_t base, const struct dp_ram *r, uint64_t offset, uint64_t size, struct dp_error *e)
{
    if ((base | offset | size) % DP_PAGE_SIZE || size > r->size || offset > r->size - size)
        return dp_error_set(e, -EINVAL, "0x%llx bytes at 0x%llx of %s cannot be mapped at 0x%llx: not whole pages inside it",
                            (unsigned long long)size, (unsigned long long)offset, r->name, (unsigned long long)base);
    return 0;
}

static bool power_of_two(unsigned n) { return n && !(n & (n - 1)); }

static int check_window(uint64_t size, const struct dp_window_ops *ops, struct dp_error *e)
{
    unsigned min = ops->min_size ? ops->min_size : 1, max = ops->max_size ? ops->max_size : 8;
    if (!power_of_two(min) || !power_of_two(max) || min > max || max > 8 || size % min)
        return dp_error_set(e, -EINVAL, "window %s of 0x%llx bytes cannot have accesses of %u to %u bytes", ops->name,
                            (unsigned long long)size, min, max);
    return 0;
}

int dp_space_map_ram(struct dp_space *s, uint64_t base, struct dp_ram *r, uint64_t offset, uint64_t size, bool readonly, int priority,
                     uint32_t *id, struct dp_error *e)
{
    struct dp_range range = {.base = base, .size = size, .ram = r, .ram_offset = offset, .readonly = readonly};
    int result = check_ram(base, r, offset, size, e);
    return result ? result : add_mapping(s, &range, priority, id, e);
}

int dp_space_map_flash(struct dp_space *s, uint64_t base, struct dp_ram *r, uint64_t offset, uint64_t size, const struct dp_window_ops *ops,
                       void *opaque, int priority, uint32_t *id, struct dp_error *e)
{
    struct dp_range range = {.base = base, .size = size, .ram = r, .ram_offset = offset, .readonly = true, .ops = ops, .opaque = opaque};
    int result = check_ram(base, r, offset, size, e);
    result = result ? result : check_window(size, ops, e);
    return result ? result : add_mapping(s, &range, priority, id, e);
}

int dp_space_map_window(struct dp_space *s, uint64_t base, uint64_t size, const struct dp_window_ops *ops, void *opaque, int priority,
                        uint32_t *id, struct dp_error *e)
{
    int result = check_window(size, ops, e);
    if (result)
        return result;
    struct dp_range range = {.base = base, .size = size, .ops = ops, .opaque = opaque};
    return add_mapping(s, &range, priority, id, e);
}

void dp_space_unmap(struct dp_space *s, uint32_t id)
{
    pthread_mutex_lock(&s->lock);
    uint32_t i = 0;
    while (i < s->count && s->mappings[i].id != id)
        i++;
    if (i == s->count) {
        pthread_mutex_unlock(&s->lock);
        return;
    }
    s->count--;
    memmove(&s->mappings[i], &s->mappings[i + 1], (s->count - i) * sizeof(s->mappings[0]));
    s->depth++;
    s->changed = true;
    pthread_mutex_unlock(&s->lock);
    dp_space_commit(s);
}

/* ---- accesses ---- */

/* Copies that keep naturally aligned words whole: ring indices and the like are shared with other processors. */
static void ram_get(const uint8_t *host, void *data, uint64_t size)
{
    uintptr_t at = (uintptr_t)host;
    if (size == 8 && !(at & 7))
        dp_st64(data, __atomic_load_n((const uint64_t *)host, __ATOMIC_ACQUIRE));
    else if (size == 4 && !(at & 3))
        dp_st32(data, __atomic_load_n((const uint32_t *)host, __ATOMIC_ACQUIRE));
    else if (size == 2 && !(at & 1))
        dp_st16(data, __atomic_load_n((const uint16_t *)host, __ATOMIC_ACQUIRE));
    else
        memcpy(data, host, size);
}

static void ram_put(uint8_t *host, const void *data, uint64_t size)
{
    uintptr_t at = (uintptr_t)host;
    if (size == 8 && !(at & 7))
        __atomic_store_n((uint64_t *)host, dp_ld64(data), __ATOMIC_RELEASE);
    else if (size == 4 && !(at & 3))
        __atomic_store_n((uint32_t *)host, dp_ld32(data), __ATOMIC_RELEASE);
    else if (size == 2 && !(at & 1))
        __atomic_store_n((uint16_t *)host, dp_ld16(data), __ATOMIC_RELEASE);
    else
        memcpy(host, data, size);
}

/* The next access to a window for n bytes at offset: naturally aligned, of a size the window takes. *skip bytes at its start
 * and what passes n at its end are not asked for: the window is wider than the access. Returns the bytes of n it covers. */
static unsigned window_piece(const struct dp_window_ops *ops, uint64_t offset, uint64_t n, uint64_t *at, unsigned *size, unsigned *skip)
{
    unsigned min = ops->min_size ? ops->min_size : 1, piece = ops->max_size ? ops->max_size : 8;
    while (piece > min && (piece > n || offset % piece))
        piece /= 2;
    *at = DP_ALIGN_DOWN(offset, (uint64_t)piece);
    *skip = (unsigned)(offset - *at);
    *size = piece;
    return (unsigned)DP_MIN(n, (uint64_t)(piece - *skip));
}

static void window_get(const struct dp_range *r, uint64_t offset, uint8_t *data, uint64_t n)
{
    while (n) {
        uint64_t at;
        unsigned size, skip, got = window_piece(r->ops, offset, n, &at, &size, &skip);
        uint64_t v = (r->ops->read ? r->ops->read(r->opaque, at, size) : ~0ull) >> (skip * 8);
        memcpy(data, &v, got);
        data += got;
        offset += got;
        n -= got;
    }
}

/* Bytes of a wider window that the access does not cover are written as zeros: reading them first could have effects. */
static void window_put(const struct dp_range *r, uint64_t offset, const uint8_t *data, uint64_t n)
{
    while (n) {
        uint64_t at, v = 0;
        unsigned size, skip, put = window_piece(r->ops, offset, n, &at, &size, &skip);
        memcpy(&v, data, put);
        if (r->ops->write)
            r->ops->write(r->opaque, at, v << (skip * 8), size);
        data += put;
        offset += put;
        n -= put;
    }
}

/* Bytes from addr to the end of its range, at most size. */
static uint64_t within(const struct dp_range *r, uint64_t addr, uint64_t size) { return DP_MIN(size, r->size - (addr - r->base)); }

int dp_space_read(struct dp_space *s, uint64_t addr, void *data, uint64_t size)
{
    uint8_t *p = data;
    int result = 0;
    while (size) {
        struct dp_range r;
        bool found = dp_space_find(s, addr, &r);
        uint64_t n = within(&r, addr, size);
        if (r.ram) {
            ram_get(r.ram->host + r.ram_offset + (addr - r.base), p, n);
        } else if (found) {
            window_get(&r, r.window_offset + (addr - r.base), p, n);
        } else {
            if (addr > UINT64_MAX - (size - 1)) /* what passes 2^64 is nothing, rather than address 0 */
                n = size;
            memset(p, 0xff, n);
            dp_trace_guest(s->trace, "%s: read of %llu bytes at 0x%llx, where nothing is", s->name, (unsigned long long)n,
                           (unsigned long long)addr);
            result = -EFAULT;
        }
        p += n;
        addr += n;
        size -= n;
    }
    return result;
}

int dp_space_write(struct dp_space *s, uint64_t addr, const void *data, uint64_t size)
{
    const uint8_t *p = data;
    int result = 0;
    while (size) {
        struct dp_range r;
        bool found = dp_space_find(s, addr, &r);
        uint64_t n = within(&r, addr, size);
        if (r.ram && !r.readonly) {
            uint64_t offset = r.ram_offset + (addr - r.base);
            ram_put(r.ram->host + offset, p, n);
            dp_ram_mark_dirty(r.ram, offset, n);
        } else if (found && r.ops) {
            window_put(&r, r.window_offset + (addr - r.base), p, n);
        } else {
            if (!found && addr > UINT64_MAX - (size - 1))
                n = size;
            dp_trace_guest(s->trace, "%s: write of %llu bytes at 0x%llx, where %s", s->name, (unsigned long long)n,
                           (unsigned long long)addr, found ? "memory is read-only" : "nothing is");
            if (!found)
                result = -EFAULT;
        }
        p += n;
        addr += n;
        size -= n;
    }
    return result;
}

uint64_t dp_space_load(struct dp_space *s, uint64_t addr, unsigned size)
{
    uint64_t v = 0;
    (void)dp_space_read(s, addr, &v, size);
    return v;
}

void dp_space_store(struct dp_space *s, uint64_t addr, uint64_t value, unsigned size) { (void)dp_space_write(s, addr, &value, size); }

bool dp_space_pin(struct dp_space *s, uint64_t addr, uint64_t size, bool for_write, struct dp_pin *out)
{
    struct dp_range r;
    dp_space_find(s, addr, &r);
    if (!r.ram || (for_write && r.readonly))
        return false;
    uint64_t offset = r.ram_offset + (addr - r.base);
    *out = (struct dp_pin){.host = r.ram->host + offset, .size = within(&r, addr, size), .ram = r.ram, .ram_offset = offset};
    return true;
}

void dp_space_unpin(struct dp_space *s, struct dp_pin *p, uint64_t written)
{
    if (written)
        dp_ram_mark_dirty(p->ram, p->ram_offset, DP_MIN(written, p->size));
    p->host = NULL;
}

int dp_space_discard(struct dp_space *s, uint64_t addr, uint64_t size)
{
    if (!size || (addr | size) % DP_PAGE_SIZE)
        return -EINVAL;
    struct dp_range r;
    for (uint64_t done = 0; done < size; done += within(&r, addr + done, size - done)) {
        if (addr + done < addr || !dp_space_find(s, addr + done, &r) || !r.ram || r.readonly)
            return -EFAULT;
    }
    /* Should the view change in between, what is not RAM any more is passed over. */
    int rc = 0;
    for (uint64_t done = 0, n; done < size; done += n) {
        bool found = dp_space_find(s, addr + done, &r);
        n = within(&r, addr + done, size - done);
        uint64_t offset = r.ram_offset + (addr + done - r.base);
        int one = found && r.ram && !r.readonly && !((offset | n) % DP_PAGE_SIZE) ? ram_discard(r.ram, offset, n) : -EFAULT;
        rc = rc ? rc : one;
    }
    return rc;
}

/* ---- dirty clients ---- */

int dp_space_dirty_start(struct dp_space *s, unsigned client, struct dp_error *e)
{
    if (client >= DP_DIRTY_CLIENTS)
        return dp_error_set(e, -EINVAL, "dirty client %u does not exist", client);
    int r = 0;
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->count && !r; i++)
        if (s->mappings[i].range.ram)
            r = ram_dirty_start(s->mappings[i].range.ram, client, e);
    if (!r)
        s->dirty_clients |= 1u << client;
    pthread_mutex_unlock(&s->lock);
    if (r)
        dp_space_dirty_stop(s, client);
    return r;
}

void dp_space_dirty_stop(struct dp_space *s, unsigned client)
{
    if (client >= DP_DIRTY_CLIENTS)
        return;
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->count; i++)
        if (s->mappings[i].range.ram)
            ram_dirty_stop(s->mappings[i].range.ram, client);
    s->dirty_clients &= ~(1u << client);
    pthread_mutex_unlock(&s->lock);
}

uint64_t dp_space_dirty_harvest(struct dp_space *s, unsigned client, struct dp_ram *r, uint64_t *bitmap)
{
    uint64_t n = ram_dirty_harvest(r, client, bitmap);
    /* A fast path may write until it is revoked. The caller copies the pages after this returns, so those writes are in its copy. */
    struct dp_listener copy[LISTENERS];
    unsigned count = listeners_take(s, copy);
    for (unsigned i = 0; i < count; i++)
        if (copy[i].dirty_cleared)
            copy[i].dirty_cleared(copy[i].opaque, r);
    listeners_done(s);
    return n;
}
