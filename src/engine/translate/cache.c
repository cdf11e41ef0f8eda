/* engine/translate/cache.c - the code cache of one processor: blocks by guest-physical place, by page, by host address.
 *
 * Model: one file mapped twice, writable and executable; never both at once in one view. Blocks are appended; when the cache or the arena of their
 * descriptions is full everything is dropped. Blocks are found by (address of the guest code in RAM, mode); a page's blocks die together when the page
 * is written, and since direct links stay within a page, nothing needs to be unlinked: only the entry of a dead block is overwritten by a
 * jump to the stale stub, for jump caches may still name it.
 * Invariants: only the processor's own thread uses its cache. Emptied or invalidated only while no translated code of it runs.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/translate/translate_internal.h"

#define HASH_BITS 16
#define PAGES_BITS 13
#define ARENA_BYTES (48ull << 20)
#define MAX_BLOCKS (1u << 19)
#define HEAT_BITS 16
#define STORE_REFUSALS 8 /* host signals that a store may cost before it looks first */

static void *reserve(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

int cache_init(struct tcpu *t, struct dp_error *e)
{
    t->fd = memfd_create("doppel-code", MFD_CLOEXEC);
    if (t->fd < 0 || ftruncate(t->fd, CODE_BYTES))
        return dp_error_set(e, -errno, "cannot make a code cache: %s", strerror(errno));
    t->rw = mmap(NULL, CODE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd, 0);
    t->rx = mmap(NULL, CODE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED, t->fd, 0);
    if (t->rw == MAP_FAILED || t->rx == MAP_FAILED)
        return dp_error_set(e, -errno, "cannot map a code cache: %s (a security policy that forbids executable memory?)", strerror(errno));
    t->hash = calloc(1u << HASH_BITS, sizeof(*t->hash));
    t->pages = calloc(1u << PAGES_BITS, sizeof(*t->pages));
    t->heat = calloc(1, 1u << HEAT_BITS);
    t->refusals = calloc(1, FILTER_BITS);
    t->arena = reserve(ARENA_BYTES);
    t->by_code = reserve(MAX_BLOCKS * sizeof(*t->by_code));
    if (!t->hash || !t->pages || !t->heat || !t->refusals || !t->arena || !t->by_code)
        return dp_error_set(e, -ENOMEM, "no memory for a processor's code cache; close other programs");
    stubs_emit(t);
    t->first = t->used;
    return 0;
}

void cache_fini(struct tcpu *t)
{
    if (t->rw && t->rw != MAP_FAILED)
        munmap(t->rw, CODE_BYTES);
    if (t->rx && t->rx != MAP_FAILED)
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
    memset(t->hash, 0, sizeof(*t->hash) << HASH_BITS);
    memset(t->pages, 0, sizeof(*t->pages) << PAGES_BITS);
    t->arena_used = 0;
    t->blocks = 0;
    t->drops++;
    t->used = t->first;
    space_forget_jumps(t);
    t->c->counters.code_flushes++;
    DP_TRACE(t->c->vm->trace, DP_TRACE_TRANSLATE, "cpu%u: code cache emptied", t->c->index);
}

bool cache_has_room(const struct tcpu *t)
{
    return t->used + BLOCK_ROOM <= CODE_BYTES && t->arena_used + BLOCK_ROOM <= ARENA_BYTES && t->blocks < MAX_BLOCKS;
}

void *cache_alloc(struct tcpu *t, size_t size)
{
    void *p = t->arena + t->arena_used;
    t->arena_used += DP_ALIGN_UP(size, (size_t)8);
    memset(p, 0, size);
    return p;
}

static unsigned hash_of(uint64_t host, uint32_t mode) { return (unsigned)((host ^ (uint64_t)mode << 40) * 0x9e3779b97f4a7c15ull >> (64 - HASH_BITS)); }
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

struct tblock *cache_find(struct tcpu *t, uint64_t host, uint32_t mode, uint64_t phys2)
{
    for (struct tblock *b = t->hash[hash_of(host, mode)]; b; b = b->hash_next)
        if (b->host == host && b->mode == mode && (!b->phys2 || b->phys2 == phys2))
            return b;
    return NULL;
}

void cache_add(struct tcpu *t, struct tblock *b)
{
    struct tblock **bucket = &t->hash[hash_of(b->host, b->mode)];
    b->hash_next = *bucket;
    *bucket = b;
    b->page_next = b->page->blocks;
    b->page->blocks = b;
    if (b->count)
        t->by_code[t->blocks++] = b;
}

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
    return *bucket = p;
}

static void kill_block(struct tcpu *t, struct tblock *b)
{
    struct tblock **at = &t->hash[hash_of(b->host, b->mode)];
    while (*at && *at != b)
        at = &(*at)->hash_next;
    if (*at)
        *at = b->hash_next;
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
    if (p->blocks || p->crossers) {
        t->c->counters.code_invalidations++;
        DP_TRACE(t->c->vm->trace, DP_TRACE_SMC, "cpu%u: blocks of page 0x%llx of %s dropped", t->c->index, (unsigned long long)page, ram->name);
    }
    p->blocks = NULL;
    p->crossers = NULL;
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
