/* engine/translate/space.c - shadow page tables and jump caches.
 *
 * Model: per processor one table for each access kind of the interpreter (user, supervisor, supervisor with AC). A table is 512 GiB of address space of
 * which only the touched pages exist; entries that are set are logged, so that a flush costs what was filled. A jump cache (direct-mapped, by the low
 * bits of the address) stands just below its table, so that one base register reaches both.
 * Invariants: an entry of 0 is "not known"; the entry's index comes from 36 bits of the address, so every address is inside the table. Only the
 * processor's own thread touches its tables.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "engine/translate/translate_internal.h"

int space_init(struct tcpu *t, struct dp_error *e)
{
    for (unsigned k = 0; k < ITLB_EMPTY; k++) {
        struct ttable *b = &t->table[k];
        uint8_t *p = mmap(NULL, JUMP_BYTES + TABLE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        b->log = malloc(TABLE_LOG * sizeof(*b->log));
        b->jump_log = malloc(JUMP_LOG * sizeof(*b->jump_log));
        if (p == MAP_FAILED || !b->log || !b->jump_log)
            return dp_error_set(e, -ENOMEM, "no address space for a processor's shadow page tables (see ulimit -v and vm.overcommit_memory)");
        madvise(p, JUMP_BYTES + TABLE_BYTES, MADV_NOHUGEPAGE); /* sparse */
        madvise(p, JUMP_BYTES + TABLE_BYTES, MADV_DONTDUMP);
        b->base = p + JUMP_BYTES;
        space_flush_jumps(b);
    }
    return 0;
}

void space_fini(struct tcpu *t)
{
    for (unsigned k = 0; k < ITLB_EMPTY; k++) {
        struct ttable *b = &t->table[k];
        if (b->base)
            munmap(b->base - JUMP_BYTES, JUMP_BYTES + TABLE_BYTES);
        free(b->log);
        free(b->jump_log);
    }
}

static struct tjump *jumps_of(const struct ttable *b) { return (struct tjump *)(b->base - JUMP_BYTES); }

/* Entry 0 of an empty cache must not match address 0: it is given an address of another slot. */
void space_flush_jumps(struct ttable *b)
{
    if (b->jump_overflow)
        madvise(b->base - JUMP_BYTES, JUMP_BYTES, MADV_DONTNEED);
    else
        for (unsigned i = 0; i < b->jumps; i++)
            jumps_of(b)[b->jump_log[i]] = (struct tjump){0};
    b->jumps = 0;
    memset(b->jump_pages, 0, sizeof(b->jump_pages));
    b->jump_overflow = false;
    jumps_of(b)[0].negative_rip = 1;
}

static unsigned page_hash(uint64_t linear) { return (unsigned)((linear >> 12) * 0x9e3779b97f4a7c15ull >> 52); }

static void note_page(struct ttable *b, uint64_t linear)
{
    unsigned h = page_hash(linear);
    b->jump_pages[h / 64] |= 1ull << (h % 64);
}

void space_set_jump(struct tcpu *t, unsigned kind, uint64_t rip, uint64_t code, bool crosses)
{
    struct ttable *b = &t->table[kind];
    unsigned i = jump_index(rip);
    if (b->jumps == JUMP_LOG)
        b->jump_overflow = true;
    else
        b->jump_log[b->jumps++] = i;
    note_page(b, rip);
    if (crosses)
        note_page(b, rip + DP_PAGE_SIZE);
    jumps_of(b)[i] = (struct tjump){-rip, code, rip & PAGE_MASK, 0};
}

static void flush_table(struct ttable *b, bool keep_global)
{
    if (b->overflow || !keep_global || ++b->flushes > 256) { /* now and then all memory goes back: address spaces come and go */
        if (b->logged || b->globals || b->overflow)
            madvise(b->base, TABLE_BYTES, MADV_DONTNEED);
        b->flushes = 0;
        b->globals = 0;
        memset(b->large, 0, sizeof(b->large));
    } else {
        for (unsigned i = 0; i < b->logged; i++)
            ((uint64_t *)b->base)[b->log[i]] = 0;
    }
    b->logged = 0;
    b->overflow = false;
}

void space_flush(struct tcpu *t, bool keep_global)
{
    for (unsigned k = 0; k < ITLB_EMPTY; k++) {
        flush_table(&t->table[k], keep_global);
        space_flush_jumps(&t->table[k]);
    }
}

static unsigned large_hash(uint64_t linear, uint64_t size) { return (unsigned)((linear / size * 0x9e3779b97f4a7c15ull + size) >> 52); }

/* Entries from a large page go when any address of it is flushed. */
static void flush_large(struct ttable *b, uint64_t linear)
{
    static const uint64_t sizes[] = {1ull << 21, 1ull << 22, 1ull << 30};
    for (unsigned k = 0; k < DP_ARRAY_LEN(sizes); k++) {
        unsigned h = large_hash(linear, sizes[k]);
        if (b->large[h / 64] >> (h % 64) & 1) /* from its last page, which has the lowest entry */
            madvise(space_entry(b, linear | (sizes[k] - 1)), sizes[k] / DP_PAGE_SIZE * 8, MADV_DONTNEED);
    }
}

void space_flush_page(struct tcpu *t, uint64_t linear)
{
    for (unsigned k = 0; k < ITLB_EMPTY; k++) {
        struct ttable *b = &t->table[k];
        unsigned h = page_hash(linear);
        *space_entry(b, linear) = 0;
        flush_large(b, linear);
        if (b->jump_pages[h / 64] >> (h % 64) & 1)
            space_flush_jumps(b);
    }
}

void space_revoke_writes(struct tcpu *t)
{
    for (unsigned k = 0; k < ITLB_EMPTY; k++)
        flush_table(&t->table[k], false);
}

void space_set(struct tcpu *t, unsigned kind, uint64_t linear, bool writable, struct dp_ram *ram, uint64_t offset, bool global, uint64_t page_size)
{
    struct ttable *b = &t->table[kind];
    struct talias *a = alias_of(t->v, ram);
    if (!a)
        return;
    uint64_t *entry = space_entry(b, linear);
    if (page_size > DP_PAGE_SIZE) {
        unsigned h = large_hash(linear, page_size);
        b->large[h / 64] |= 1ull << (h % 64);
    }
    if (!*entry) {
        if (global)
            b->globals++;
        else if (b->logged == TABLE_LOG)
            b->overflow = true;
        else
            b->log[b->logged++] = (uint64_t)(entry - (uint64_t *)b->base);
    }
    *entry = (uint64_t)(uintptr_t)((writable ? a->rw : a->ro) + (offset & PAGE_MASK)) - (linear & PAGE_MASK);
}
