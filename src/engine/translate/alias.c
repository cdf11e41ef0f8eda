/* engine/translate/alias.c - the translator's two views of guest RAM.
 *
 * Model: each RAM is mapped twice more from its file: read-write and read-only. In the read-write view pages with known
 * code are made read-only (mprotect), so that a store to them faults wherever it comes from; the kernel's own TLB shootdown
 * makes this hold for all threads at once. Pages that no shadow page table ever led to in that view (programs and
 * libraries, which come from the disk) are spared the call.
 * Invariants: under v->lock a page that was handed out is protected exactly when ram->has_code says so, or more often (then the fault
 * handler finds no code and takes the protection away). A page is handed out only while it has no code.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "engine/translate/translate_internal.h"

#define LOW_PLACES 31 /* 1 TiB each, above 2^45 */

/* An unmapped page before and after: a wild access one page off hits nothing. Where the host lets us, ALIAS_RO_BIT of an address tells the
 * views apart: the read-write one lies low. Nothing but speed depends on it (translate.c, store_check). */
static uint8_t *map_guarded(struct dp_ram *ram, int protection)
{
    size_t size = ram->size + 2 * DP_PAGE_SIZE;
    uint8_t *p = MAP_FAILED;
    for (uint64_t k = protection & PROT_WRITE ? 0 : LOW_PLACES; k <= LOW_PLACES; k++) {
        void *hint = k < LOW_PLACES ? (void *)(uintptr_t)((1ull << (ALIAS_RO_BIT - 1)) + (k << 40)) : NULL;
        p = mmap(hint, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED || !hint || !((uintptr_t)(p + size) >> ALIAS_RO_BIT & 1))
            break;
        munmap(p, size);
    }
    if (p == MAP_FAILED)
        return NULL;
    uint8_t *q = mmap(p + DP_PAGE_SIZE, ram->size, protection, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, ram->fd, 0);
    if (q == MAP_FAILED) {
        munmap(p, size);
        return NULL;
    }
    madvise(q, ram->size, MADV_DONTDUMP);
    return q;
}

static void unmap(struct talias *a)
{
    if (a->rw)
        munmap(a->rw - DP_PAGE_SIZE, a->ram->size + 2 * DP_PAGE_SIZE);
    if (a->ro)
        munmap(a->ro - DP_PAGE_SIZE, a->ram->size + 2 * DP_PAGE_SIZE);
    free(a->protected_);
    free((void *)a->handed);
    free((void *)a->direct);
    *a = (struct talias){0};
}

struct talias *alias_of(struct tvm *v, struct dp_ram *ram)
{
    unsigned n = __atomic_load_n(&v->aliases, __ATOMIC_ACQUIRE);
    for (unsigned i = 0; i < n; i++)
        if (v->alias[i].ram == ram)
            return &v->alias[i];
    struct talias *a = NULL;
    pthread_mutex_lock(&v->lock);
    for (unsigned i = 0; i < v->aliases; i++)
        if (v->alias[i].ram == ram)
            a = &v->alias[i];
    if (!a && v->aliases < DP_ARRAY_LEN(v->alias)) {
        a = &v->alias[v->aliases];
        uint64_t pages = ram->size >> DP_PAGE_SHIFT;
        *a = (struct talias){.ram = ram,
                             .rw = map_guarded(ram, PROT_READ | PROT_WRITE),
                             .ro = map_guarded(ram, PROT_READ),
                             .protected_ = calloc(1, pages),
                             .handed = calloc(1, pages),
                             .direct = calloc(1, pages)};
        if (a->rw && a->ro && a->protected_ && a->handed && a->direct) {
            dp_ram_watch_code(ram, v->code_written, v);
            __atomic_store_n(&v->aliases, v->aliases + 1, __ATOMIC_RELEASE);
        } else {
            unmap(a);
            a = NULL;
        }
    }
    pthread_mutex_unlock(&v->lock);
    return a;
}

void alias_fini(struct tvm *v)
{
    for (unsigned i = 0; i < v->aliases; i++)
        dp_ram_watch_code(v->alias[i].ram, NULL, NULL), unmap(&v->alias[i]);
    v->aliases = 0;
}

/* Both ways of the race: who makes code sets has_code and then looks at the flag; we set the flag and then look at has_code. */
bool alias_hand_out(struct tvm *v, struct talias *a, uint64_t page)
{
    if (DP_UNLIKELY(__atomic_load_n(&a->protected_[page], __ATOMIC_RELAXED))) /* once held code, but mprotect failed */
        alias_unprotect(v, a->ram, page);
    if (!atomic_load_explicit(&a->handed[page], memory_order_relaxed)) {
        atomic_store(&a->handed[page], 1);
        atomic_thread_fence(memory_order_seq_cst);
    }
    return dp_ram_write_is_free(a->ram, page);
}

void alias_protect(struct tvm *v, struct dp_ram *ram, uint64_t page)
{
    struct talias *a = alias_of(v, ram);
    atomic_thread_fence(memory_order_seq_cst);
    if (!a || !atomic_load(&a->handed[page]))
        return;
    pthread_mutex_lock(&v->lock);
    if (!a->protected_[page]) {
        if (mprotect(a->rw + (page << DP_PAGE_SHIFT), DP_PAGE_SIZE, PROT_READ)) /* too many pieces: protect everything instead */
            mprotect(a->rw, ram->size, PROT_READ), memset(a->protected_, 1, ram->size >> DP_PAGE_SHIFT);
        a->protected_[page] = 1;
    }
    pthread_mutex_unlock(&v->lock);
}

void alias_unprotect(struct tvm *v, struct dp_ram *ram, uint64_t page)
{
    struct talias *a = alias_of(v, ram);
    if (!a)
        return;
    pthread_mutex_lock(&v->lock);
    if (a->protected_[page] && !atomic_load(&ram->has_code[page]) &&
        !mprotect(a->rw + (page << DP_PAGE_SHIFT), DP_PAGE_SIZE, PROT_READ | PROT_WRITE))
        a->protected_[page] = 0;
    pthread_mutex_unlock(&v->lock);
}

bool alias_protected(const struct tvm *v, uint64_t host)
{
    unsigned n = __atomic_load_n(&v->aliases, __ATOMIC_ACQUIRE);
    for (unsigned i = 0; i < n; i++) {
        uint64_t offset = host - (uint64_t)(uintptr_t)v->alias[i].rw;
        if (offset < v->alias[i].ram->size)
            return v->alias[i].protected_[offset >> DP_PAGE_SHIFT];
    }
    return false;
}

/* Against a page that becomes code at the same time: it sets has_code and then looks at the flag; we
 * set the flag and then look at has_code. */
bool alias_direct_write(struct talias *a, uint64_t page)
{
    atomic_store(&a->direct[page], 1);
    atomic_thread_fence(memory_order_seq_cst);
    return dp_ram_write_is_free(a->ram, page);
}

bool alias_direct_revoked(struct tvm *v, struct dp_ram *ram, uint64_t page)
{
    struct talias *a = alias_of(v, ram);
    atomic_thread_fence(memory_order_seq_cst);
    return a && atomic_load(&a->direct[page]) && atomic_exchange(&a->direct[page], 0);
}

bool alias_readonly(const struct tvm *v, uint64_t host)
{
    unsigned n = __atomic_load_n(&v->aliases, __ATOMIC_ACQUIRE);
    for (unsigned i = 0; i < n; i++)
        if (host - (uint64_t)(uintptr_t)v->alias[i].ro < v->alias[i].ram->size)
            return true;
    return false;
}
