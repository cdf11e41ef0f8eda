/* engine/translate/cache.c - the code cache of one processor: blocks by guest-physical place, by page, by host address.
 *
 * Model: one file mapped twice, writable and executable; never both at once in one view. Blocks are appended; when the cache or the arena
 * of their descriptions is full everything is dropped. Blocks are found by (address of the guest code in RAM, mode); a page's blocks die
 * together when the page is written, and since direct links stay within a page, nothing needs to be unlinked: only the entry of a dead
 * block is overwritten by a jump to the stale stub, for jump caches may still name it.
 * Invariants: only the processor's own thread uses its cache. Emptied or invalidated only while no translated code of it runs.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/translate/translate_internal.h"

#define HASH_BITS 12 /* at first */
#define PAGES_BITS 13
#define ARENA_BYTES (48ull << 20)
#define MAX_BLOCKS (1u << 19)
#define HEAT_BITS 16
#define HUGE_PAGE (2ull << 20)
#define CODE_STEP (64u << 10)
#define ARENA_STEP (128u << 10)
#define STORE_REFUSALS 8 /* host signals that a store may cost before it looks first */

static void *reserve(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, size, MADV_DONTFORK);
    return p;
}

static struct thash *hash_alloc(uint32_t mask);

int cache_init(struct tcpu *t, struct dp_error *e)
{
    t->fd = memfd_create("doppel-code", MFD_CLOEXEC);
    if (t->fd < 0 || ftruncate(t->fd, CODE_BYTES))
        return dp_error_set(e, -errno, "cannot make a code cache: %s", strerror(errno));
    t->rw = mmap(NULL, CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd, 0);
    if (!t->is_direct)
        t->rx = mmap(NULL, CODE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, t->fd, 0);
    if (t->rw == MAP_FAILED || t->rx == MAP_FAILED)
        return dp_error_set(e, -errno, "cannot map a code cache: %s (a security policy that forbids executable memory?)", strerror(errno));
    t->hash = calloc(1u << HASH_BITS, sizeof(*t->hash));
    t->hash_mask = (1u << HASH_BITS) - 1;
    t->pages = calloc(1u << PAGES_BITS, sizeof(*t->pages));
    t->heat = calloc(1, 1u << HEAT_BITS);
    t->refusals = calloc(1, FILTER_BITS);
    t->arena = reserve(ARENA_BYTES);
    t->by_code = reserve(MAX_BLOCKS * sizeof(*t->by_code));
    if (!t->hash || !t->pages || !t->heat || !t->refusals || !t->arena || !t->by_code)
        return dp_error_set(e, -ENOMEM, "no memory for a processor's code cache; close other programs");
    t->fast_loop = __builtin_cpu_is("amd");
    if (!t->is_direct) /* direct.c knows more for its own */
        stubs_emit(t);
    t->first = t->used;
    t->cells = 1;
    return 0;
}

void cache_fini(struct tcpu *t)
{
    if (t->rw && t->rw != MAP_FAILED)
        munmap(t->rw, CODE_BYTES);
    if (t->rx && t->rx != MAP_FAILED && !t->is_direct)
        munmap(t->rx, CODE_BYTES);
    if (t->fd > 0)
        close(t->fd);
    if (t->arena)
        munmap(t->arena, ARENA_BYTES);
    if (t->by_code)
        munmap(t->by_code, MAX_BLOCKS * sizeof(*t->by_code));
    free(t->hash);
    free(t->pages);
    free(t->heat);
    free(t->refusals);
}

void cache_empty(struct tcpu *t)
{
    memset(t->hash, 0, sizeof(*t->hash) * (t->hash_mask + 1u));
    t->hashed = 0;
    memset(t->pages, 0, sizeof(*t->pages) << PAGES_BITS);
    t->arena_used = 0;
    t->blocks = 0;
    t->drops++;
    t->used = t->first;
    t->cells = 1;
    space_forget_jumps(t);
    t->c->counters.code_flushes++;
    DP_TRACE(t->c->vm->trace, DP_TRACE_TRANSLATE, "cpu%u: code cache emptied", t->c->index);
}

void cache_release(struct tcpu *t)
{
    cache_empty(t);
    t->populated = DP_ALIGN_UP((size_t)t->used, (size_t)CODE_STEP);
    t->arena_populated = 0;
    int rc = fallocate(t->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)t->populated, (off_t)(CODE_BYTES - t->populated));
    (void)rc; /* it stays, then */
    madvise(t->arena, ARENA_BYTES, MADV_DONTNEED);
    madvise(t->by_code, MAX_BLOCKS * sizeof(*t->by_code), MADV_DONTNEED);
    struct thash *small = t->hash_mask >= 1u << HASH_BITS ? hash_alloc((1u << HASH_BITS) - 1) : NULL;
    if (small) {
        free(t->hash);
        t->hash = small;
        t->hash_mask = (1u << HASH_BITS) - 1;
    }
}

bool cache_has_room(const struct tcpu *t)
{
    return t->used + BLOCK_ROOM <= CODE_BYTES && t->arena_used + BLOCK_ROOM <= ARENA_BYTES && t->blocks < MAX_BLOCKS &&
           t->hashed < t->hash_mask / 4 * 3;
}

/* Memory ahead of what is used, many pages at a time: they cost a host page fault each otherwise. Not whole huge
 * pages: where the host is itself a virtual machine, one that was never touched before takes up to 20 ms, and a
 * program that is just starting would wait for several. */
static void populate(uint8_t *memory, size_t used, size_t *populated, size_t size, size_t step)
{
    if (DP_LIKELY(used + step / 8 <= *populated) || *populated >= size)
        return;
    madvise(memory + *populated, step, MADV_POPULATE_WRITE); /* hosts that do not know it: page by page */
    *populated += step;
}

/* For the next block: its code, whose pages would fault in the other view, too, and what describes it. */
void cache_populate(struct tcpu *t)
{
    populate(t->rw, t->used, &t->populated, CODE_BYTES, CODE_STEP);
    populate(t->arena, t->arena_used, &t->arena_populated, ARENA_BYTES, ARENA_STEP);
}

void *cache_alloc(struct tcpu *t, size_t size)
{
    void *p = t->arena + t->arena_used;
    t->arena_used += DP_ALIGN_UP(size, (size_t)8);
    memset(p, 0, size);
    return p;
}

/* Open addressing in one array: a lookup, of which programs that are just starting make a million a second, touches
 * one line of it and the block. Places of one page of code are near each other: who looks for one soon looks for its
 * neighbours. An entry has all bits of its hash, so that the array grows without a look at blocks; with the lowest
 * bits of the address few other blocks than the right one get looked at. A dead block's entry stays, leading nowhere. */
#define DEAD_BLOCK 1u
#define LOW_BITS 4
static uint32_t hash_of(uint64_t host, uint32_t mode)
{
    uint64_t page = (host >> DP_PAGE_SHIFT ^ (uint64_t)mode << 40) * 0x9e3779b97f4a7c15ull >> 32;
    return (uint32_t)(page + ((host & 0xfff) >> LOW_BITS));
}
static unsigned low_of(uint64_t host) { return host & ((1u << LOW_BITS) - 1); }
static uint32_t block_number(const struct tcpu *t, const struct tblock *b) { return cache_number(t, b) + DEAD_BLOCK + 1; }
static struct tblock *block_numbered(const struct tcpu *t, uint32_t number) { return cache_numbered(t, number - DEAD_BLOCK - 1); }

static struct thash *hash_alloc(uint32_t mask)
{
    size_t size = sizeof(struct thash) * (mask + 1ull);
    if (size < HUGE_PAGE)
        return calloc(1, size);
    struct thash *table = aligned_alloc(HUGE_PAGE, size); /* its lines are all over it: no TLB miss each time */
    if (table) {
        madvise(table, size, MADV_HUGEPAGE);
        memset(table, 0, size);
    }
    return table;
}

static void hash_put(struct thash *table, uint32_t mask, struct thash entry)
{
    uint32_t i = entry.hash;
    while (table[i & mask].block > DEAD_BLOCK)
        i++;
    table[i & mask] = entry;
}

/* Out with the dead; twice the room if there are not many. If that fails the array fills up to 3/4
 * (cache_has_room): some entry is free always. */
static void hash_grow(struct tcpu *t)
{
    uint32_t live = 0;
    for (uint32_t i = 0; i <= t->hash_mask; i++)
        live += t->hash[i].block > DEAD_BLOCK;
    uint32_t mask = live > t->hash_mask / 4 ? t->hash_mask * 2 + 1 : t->hash_mask;
    struct thash *table = hash_alloc(mask);
    if (!table)
        return;
    for (uint32_t i = 0; i <= t->hash_mask; i++)
        if (t->hash[i].block > DEAD_BLOCK)
            hash_put(table, mask, t->hash[i]);
    t->hashed = live;
    free(t->hash);
    t->hash = table;
    t->hash_mask = mask;
}

static unsigned page_hash(const struct dp_ram *ram, uint64_t page)
{
    return (unsigned)(((uint64_t)(uintptr_t)ram->host / DP_PAGE_SIZE + page) * 0x9e3779b97f4a7c15ull >> (64 - PAGES_BITS));
}

bool cache_warm(struct tcpu *t, uint64_t host, unsigned threshold)
{
    uint8_t *h = &t->heat[(host * 0x9e3779b97f4a7c15ull) >> (64 - HEAT_BITS)];
    if (*h >= threshold)
        return true;
    ++*h;
    return false;
}

static unsigned store_hash(uint64_t host) { return (unsigned)(host * 0x9e3779b97f4a7c15ull >> 48); }
bool cache_store_refused(const struct tcpu *t, uint64_t host) { return t->refused[store_hash(host) / 64] >> (store_hash(host) % 64) & 1; }
bool cache_refuse_store(struct tcpu *t, uint64_t host)
{
    unsigned h = store_hash(host);
    if (cache_store_refused(t, host) || ++t->refusals[h] < STORE_REFUSALS)
        return false;
    t->refused[h / 64] |= 1ull << (h % 64);
    return true;
}

struct tblock *cache_find(const struct tcpu *t, uint64_t host, uint32_t mode, uint64_t phys2)
{
    uint32_t hash = hash_of(host, mode), low = low_of(host);
    for (uint32_t i = hash;; i++) {
        const struct thash *h = &t->hash[i & t->hash_mask];
        if (!h->block)
            return NULL;
        if (h->hash != hash || h->low != low || h->block == DEAD_BLOCK)
            continue;
        struct tblock *b = block_numbered(t, h->block);
        if (b->host == host && b->mode == mode && (!b->phys2 || b->phys2 == phys2))
            return b;
    }
}

/* Not while blocks are counted: each is to come back then. */
const struct tblock *cache_linkable(const struct tcpu *t, const struct tpage *page, uint64_t host)
{
    unsigned start = host / 8 % (DP_PAGE_SIZE / 8);
    if (!(page->starts[start / 64] >> (start % 64) & 1) || t->c->by_blocks)
        return NULL;
    const struct tblock *b = cache_find(t, host, t->c->mode, 0);
    return b && b->count && !b->phys2 ? b : NULL;
}

void cache_add(struct tcpu *t, struct tblock *b)
{
    if (t->hashed >= t->hash_mask / 2)
        hash_grow(t);
    hash_put(t->hash, t->hash_mask, (struct thash){hash_of(b->host, b->mode), low_of(b->host), block_number(t, b)});
    t->hashed++;
    unsigned start = b->host / 8 % (DP_PAGE_SIZE / 8);
    b->page->starts[start / 64] |= 1ull << (start % 64);
    b->page_next = b->page->blocks;
    b->page->blocks = b;
    if (b->count)
        t->by_code[t->blocks++] = b;
}

/* 0: there are no more. Cell 0 is never set. */
static uint32_t new_cell(struct tcpu *t) { return t->cells < CELLS ? t->cells++ : 0; }

struct tpage *cache_page(struct tcpu *t, struct dp_ram *ram, uint64_t page, bool make)
{
    struct tpage **bucket = &t->pages[page_hash(ram, page)], *p;
    for (p = *bucket; p; p = p->next)
        if (p->ram == ram && p->number == page)
            return p;
    if (!make)
        return NULL;
    p = cache_alloc(t, sizeof(*p));
    p->ram = ram;
    p->number = page;
    p->next = *bucket;
    p->home = new_cell(t);
    return *bucket = p;
}

/* ---- far links ---- */

static struct tpair *find_pair(struct tcpu *t, struct tpage *from, int32_t pages)
{
    for (uint32_t at = from->pairs; at;) {
        struct tpairs *some = cache_numbered(t, at);
        for (unsigned i = 0; i < DP_ARRAY_LEN(some->pair) && some->pair[i].cell; i++)
            if (some->pair[i].pages == pages)
                return &some->pair[i];
        at = some->next;
    }
    return NULL;
}

static struct tpair *make_pair(struct tcpu *t, struct tpage *from, const struct tpage *to, int32_t pages)
{
    uint32_t cell = new_cell(t);
    if (!cell || !cache_has_room(t))
        return NULL;
    struct tpairs *some = from->pairs ? cache_numbered(t, from->pairs) : NULL;
    if (!some || some->pair[DP_ARRAY_LEN(some->pair) - 1].cell) {
        some = cache_alloc(t, sizeof(*some));
        some->next = from->pairs;
        from->pairs = cache_number(t, some);
    }
    struct tpair *q = some->pair;
    while (q->cell)
        q++;
    *q = (struct tpair){cache_number(t, to), pages, cell};
    return q;
}

static struct tpair *pair_of(struct tcpu *t, struct tpage *from, const struct tpage *to, int32_t pages)
{
    struct tpair *q = find_pair(t, from, pages);
    if (!q)
        return make_pair(t, from, to, pages);
    return q->to == cache_number(t, to) ? q : NULL; /* elsewhere another page may follow */
}

static void patch32(struct tcpu *t, uint32_t at, uint32_t v) { __atomic_store_n((uint32_t *)(t->rw + at), v, __ATOMIC_RELAXED); }

bool cache_link_far(struct tcpu *t, struct ttable *table, struct tlink *link, struct tblock *b, uint64_t page, uint64_t rip, bool global,
                    uint64_t page_size)
{
    struct tfar *far = (struct tfar *)link;
    struct tpage *from = cache_numbered(t, link->from);
    struct emitter e = {NULL, t->rx - t->rw};
    space_enter_page(t, table, from, page, false, 0);
    int64_t pages = ((int64_t)(rip & PAGE_MASK) - (int64_t)page) >> DP_PAGE_SHIFT;
    struct tpair *q = from->home && !from->aliased && !b->phys2 && rip >> DP_PAGE_SHIFT ? pair_of(t, from, b->page, (int32_t)pages) : NULL;
    if (!q) { /* by the jump cache from now on */
        emit_patch(&e, t->rw + link->patch + FAR_COLD, t->is_direct ? (uint64_t)(uintptr_t)t->rx + far->fallback : t->stub_far);
        return false;
    }
    if (!*space_cell(table, q->cell))
        space_set_cell(t, table, q->cell, rip, global && *space_cell(table, from->home) & HOME_GLOBAL, page_size);
    if (!far->linked) {
        far->linked = true;
        far->next_incoming = b->page->incoming;
        b->page->incoming = far;
    }
    emit_patch(&e, t->rw + link->patch, (uint64_t)(uintptr_t)t->rx + b->code);
    patch32(t, link->patch - link->cell_back, (uint32_t)cell_displacement(q->cell));
    return true;
}

/* Who leads to blocks of a page that die asks C again. */
static void unlink_far(struct tcpu *t, struct tpage *p)
{
    for (struct tfar *far = p->incoming; far; far = far->next_incoming) {
        patch32(t, far->link.patch - far->link.cell_back, (uint32_t)cell_displacement(0));
        far->linked = false;
    }
    p->incoming = NULL;
}

static void kill_block(struct tcpu *t, struct tblock *b)
{
    uint32_t i = hash_of(b->host, b->mode) & t->hash_mask, number = block_number(t, b);
    while (t->hash[i].block && t->hash[i].block != number)
        i = (i + 1) & t->hash_mask;
    if (t->hash[i].block) /* a block in two pages may have died with the other one */
        t->hash[i].block = DEAD_BLOCK;
    if (!b->count)
        return;
    struct emitter e = {t->rw + b->code, t->rx - t->rw};
    emit_jmp(&e, t->stub_stale);
}

void cache_invalidate(struct tcpu *t, struct dp_ram *ram, uint64_t page)
{
    struct tpage *p = cache_page(t, ram, page, false);
    if (!p)
        return;
    for (struct tblock *b = p->blocks; b; b = b->page_next)
        kill_block(t, b);
    for (struct tcrosser *x = p->crossers; x; x = x->next)
        kill_block(t, x->block);
    unlink_far(t, p);
    if (p->blocks || p->crossers) {
        t->c->counters.code_invalidations++;
        DP_TRACE(t->c->vm->trace, DP_TRACE_SMC, "cpu%u: blocks of page 0x%llx of %s dropped", t->c->index, (unsigned long long)page,
                 ram->name);
    }
    p->blocks = NULL;
    p->crossers = NULL;
    memset(p->starts, 0, sizeof(p->starts));
}

struct tblock *cache_block_at(const struct tcpu *t, uint64_t pc)
{
    uint64_t at = pc - (uint64_t)(uintptr_t)t->rx;
    unsigned low = 0, high = t->blocks;
    if (at < t->first || at >= t->used)
        return NULL;
    while (high - low > 1) {
        unsigned middle = (low + high) / 2;
        if (t->by_code[middle]->code <= at)
            low = middle;
        else
            high = middle;
    }
    return t->blocks ? t->by_code[low] : NULL;
}

const struct tinsn *tinsn_at(const struct tblock *b, uint64_t offset)
{
    unsigned low = 0, high = b->count + 1u; /* with what follows the last */
    while (high - low > 1) {
        unsigned middle = (low + high) / 2;
        if (b->insn[middle].host <= offset)
            low = middle;
        else
            high = middle;
    }
    return &b->insn[low];
}
