/* engine/translate/space.c - shadow page tables and jump caches.
 *
 * Model: per processor two tables (64-bit and 32-bit code) for each access kind of the interpreter (user, supervisor,
 * supervisor with AC). A table is 512 GiB of address space of which only the touched pages exist; entries that are set are
 * logged, so that a flush costs what was filled. A jump cache (direct-mapped, by the low bits of the address) stands just below
 * its table, so that one base register reaches both.
 * Invariants: an entry of 0 is "not known"; the entry's index comes from 36 bits of the address, so every address is inside the table.
 * Only the processor's own thread touches its tables.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "engine/translate/direct.h"

static bool make_table(struct ttable *b)
{
    uint8_t *p = mmap(NULL, FRONT_BYTES + TABLE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    b->log = malloc(TABLE_LOG * sizeof(*b->log));
    b->jump_log = malloc(JUMP_LOG * sizeof(*b->jump_log));
    if (p == MAP_FAILED || !b->log || !b->jump_log) {
        if (p != MAP_FAILED)
            munmap(p, FRONT_BYTES + TABLE_BYTES);
        free(b->log);
        free(b->jump_log);
        *b = (struct ttable){0};
        return false;
    }
    madvise(p, FRONT_BYTES + TABLE_BYTES, MADV_NOHUGEPAGE); /* sparse */
    madvise(p, FRONT_BYTES + TABLE_BYTES, MADV_DONTDUMP);
    madvise(p, FRONT_BYTES + TABLE_BYTES, MADV_DONTFORK);
    b->base = p + FRONT_BYTES;
    space_flush_jumps(b, false);
    return true;
}

struct ttable *space_table(struct tcpu *t, unsigned kind)
{
    struct ttable *b = &t->current->table[kind];
    b->code32 = kind >= ITLB_EMPTY;
    return b->base || make_table(b) ? b : NULL;
}

/* At least the tables of one space must be there, others come when they are wanted. */
int space_init(struct tcpu *t, struct dp_error *e)
{
    t->current = &t->space[0];
    t->current->valid = true;
    if (!space_table(t, ITLB_USER) || !space_table(t, ITLB_SUPER))
        return dp_error_set(e, -ENOMEM, "no address space for a processor's shadow page tables (see ulimit -v and vm.overcommit_memory)");
    return 0;
}

/* Tables of the spaces s_ for which `which` holds. Each is far from the next: whom it need not look at costs a cache miss less. */
#define FOR_TABLES_IF(t, b, which) \
    for (struct tspace *s_ = (t)->space; s_ < (t)->space + SPACES; s_++) \
        for (struct ttable *b = (which) ? s_->table : s_->table + TABLE_KINDS; b < s_->table + TABLE_KINDS; b++) \
            if (b->base)
#define FOR_TABLES(t, b) FOR_TABLES_IF(t, b, true)

static void free_table(struct ttable *b)
{
    munmap(b->base - FRONT_BYTES, FRONT_BYTES + TABLE_BYTES);
    free(b->log);
    free(b->jump_log);
    *b = (struct ttable){0};
}

void space_fini(struct tcpu *t)
{
    FOR_TABLES(t, b)
        free_table(b);
}

static struct tjump *jumps_of(const struct ttable *b) { return (struct tjump *)(b->base - JUMP_BYTES); }

static uint8_t *front_piece(const struct ttable *b, unsigned n) { return b->base - FRONT_BYTES + n * FRONT_PIECE; }

/* Before the first write to a place of the front. Translated code has read there, as a rule: page by page that would be two faults each. */
static void front_want(struct ttable *b, uint32_t index)
{
    uint64_t at = index < JUMPS ? (FRONT_BYTES - JUMP_BYTES) + index * sizeof(struct tjump) : (index - JUMPS) * sizeof(uint64_t);
    unsigned n = (unsigned)(at / FRONT_PIECE);
    if (DP_LIKELY(b->front_used >> n & 1))
        return;
    b->front_used |= 1ull << n;
    if (!b->shared)
        madvise(front_piece(b, n), FRONT_PIECE, MADV_POPULATE_WRITE); /* on hosts that do not know it: page by page */
}

/* The entries of address 0, when they are empty, must not match it: they are given an address of another slot. */
void space_flush_jumps(struct ttable *b, bool keep_global)
{
    bool noted = b->jumps || b->jump_overflow || b->global_jumps; /* else the filters are empty */
    if (b->jump_overflow || (!keep_global && b->global_jumps)) {
        /* it will be wanted again soon: to clear costs less than to get it anew */
        for (uint64_t used = b->front_used; used; used &= used - 1)
            memset(front_piece(b, (unsigned)__builtin_ctzll(used)), 0, FRONT_PIECE);
        keep_global = false;
    } else {
        for (unsigned i = 0; i < b->jumps; i++) {
            uint32_t k = b->jump_log[i];
            if (k < JUMPS)
                jumps_of(b)[k] = (struct tjump){0};
            else
                *space_cell(b, k - JUMPS) = 0;
        }
    }
    if (noted && (!keep_global || !b->global_jumps)) {
        memset(b->jump_pages, 0, sizeof(b->jump_pages));
        memset(b->large_jumps, 0, sizeof(b->large_jumps));
        b->global_jumps = false;
    }
    b->jumps = 0;
    b->jump_overflow = false;
    const unsigned zero[] = {0, victim_index(0)};
    for (unsigned i = 0; i < DP_ARRAY_LEN(zero); i++) {
        front_want(b, zero[i]);
        if (!jumps_of(b)[zero[i]].code)
            jumps_of(b)[zero[i]].negative_rip = 1;
    }
}

static unsigned large_hash(uint64_t linear, uint64_t size) { return (unsigned)((linear / size * 0x9e3779b97f4a7c15ull + size) >> 48); }
static unsigned page_hash(uint64_t linear) { return (unsigned)((linear >> 12) * 0x9e3779b97f4a7c15ull >> 48); }

static unsigned region_hash(uint64_t linear) { return page_hash(linear >> 9); }
static bool filter_has(const uint64_t *filter, unsigned h) { return filter[h / 64] >> (h % 64) & 1; }
static void filter_add(uint64_t *filter, unsigned h) { filter[h / 64] |= 1ull << (h % 64); }

/* Something that holds in all spaces is to be known. */
static void note_global(struct tcpu *t, uint64_t linear, uint64_t page_size)
{
    filter_add(t->global_regions, region_hash(linear));
    if (page_size > DP_PAGE_SIZE)
        filter_add(t->global_large, large_hash(linear, page_size));
}

static void note_page(struct ttable *b, uint64_t linear) { filter_add(b->jump_pages, page_hash(linear)); }

static void note_index(struct ttable *b, uint32_t index, bool global)
{
    front_want(b, index);
    if (global)
        b->global_jumps = true;
    else if (b->jumps == JUMP_LOG)
        b->jump_overflow = true;
    else
        b->jump_log[b->jumps++] = index;
}
/* A jump or a cell is set, because of the page of rip. */
static void note_jump(struct tcpu *t, struct ttable *b, uint32_t index, uint64_t rip, bool global, uint64_t page_size)
{
    note_index(b, index, global);
    note_page(b, rip);
    if (page_size > DP_PAGE_SIZE)
        filter_add(b->large_jumps, large_hash(rip, page_size));
    if (global)
        note_global(t, rip, page_size);
}

void space_set_jump(struct tcpu *t, struct ttable *b, uint64_t rip, uint64_t code, bool crosses, bool global, uint64_t page_size)
{
    unsigned i = jump_index(rip);
    struct tjump *j = &jumps_of(b)[i];
    if (j->code && j->negative_rip != -rip && !b->code32) { /* the filters know it */
        unsigned second = victim_index(-j->negative_rip);
        note_index(b, second, j->global);
        jumps_of(b)[second] = *j;
    }
    note_jump(t, b, i, rip, global, page_size);
    if (crosses) {
        note_page(b, rip + DP_PAGE_SIZE);
        if (global)
            note_global(t, rip + DP_PAGE_SIZE, page_size);
    }
    *j = (struct tjump){-rip, code, rip & PAGE_MASK, global};
}

void space_set_cell(struct tcpu *t, struct ttable *b, uint32_t cell, uint64_t rip, bool global, uint64_t page_size)
{
    note_jump(t, b, JUMPS + cell, rip, global, page_size);
    *space_cell(b, cell) = rip & PAGE_MASK;
}

/* A page comes to a table, again perhaps after a flush: so do all jumps to it, where there is room. */
static void enter_blocks(struct tcpu *t, struct ttable *b, const struct tpage *page, uint64_t at, bool global, uint64_t page_size)
{
    for (const struct tblock *x = page->blocks; x; x = x->page_next) {
        uint64_t rip = at | (x->host & ~PAGE_MASK);
        struct tjump *j = &jumps_of(b)[jump_index(rip)];
        if (x->mode != b->mode || x->phys2 || !x->count || j->code)
            continue;
        note_jump(t, b, jump_index(rip), rip, global, page_size);
        *j = (struct tjump){-rip, (uint64_t)(uintptr_t)t->rx + x->code, at, global};
    }
}

/* Far links of a page believe that it is at one place of the table only, its home: nothing is compared when they are taken. A home lives
 * as long as jumps that lead to the page there. */
void space_enter_page(struct tcpu *t, struct ttable *b, struct tpage *page, uint64_t rip, bool global, uint64_t page_size)
{
    uint64_t at = rip & PAGE_MASK;
    if (!page->home || page->aliased)
        return;
    uint64_t *home = space_cell(b, page->home);
    if (!*home && at) {
        note_jump(t, b, JUMPS + page->home, rip, global, page_size);
        *home = at | (global ? HOME_GLOBAL : 0);
        if (b->shared) /* what is not found there costs a turn */
            enter_blocks(t, b, page, at, global, page_size);
    } else if ((*home & PAGE_MASK) != at || !at) {
        page->aliased = true;
        space_forget_jumps(t);
    } else if (global && !(*home & HOME_GLOBAL)) { /* the log has it, but will not have all jumps there */
        *home |= HOME_GLOBAL;
        b->jump_overflow = true;
    }
}

uint64_t space_jump(const struct ttable *b, uint64_t rip)
{
    const struct tjump *j = &jumps_of(b)[jump_index(rip)];
    return j->negative_rip == -rip ? j->code : 0; /* the empty ones of address 0: 0 */
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

static void flush_space(struct tspace *s, bool keep_global)
{
    direct_flush_space(s, false);
    for (unsigned k = 0; k < TABLE_KINDS; k++)
        if (s->table[k].base) {
            flush_table(&s->table[k], keep_global);
            space_flush_jumps(&s->table[k], keep_global);
        }
}

void space_forget_jumps(struct tcpu *t)
{
    FOR_TABLES(t, b)
        space_flush_jumps(b, false);
}

/* The next program may be a small one: what the last had goes back to the host. */
static void release_front(struct ttable *b)
{
    if (b->global_jumps || b->shared || __builtin_popcountll(b->front_used) <= 8)
        return;
    madvise(b->base - FRONT_BYTES, FRONT_BYTES, MADV_DONTNEED);
    b->front_used = 0;
    space_flush_jumps(b, false);
}

/* The space of a PCID becomes the current one; a new one is empty but for global entries, which hold in all. */
static void switch_space(struct tcpu *t, unsigned pcid)
{
    struct tspace *oldest = &t->space[0];
    for (unsigned i = 0; i < SPACES; i++) {
        struct tspace *s = &t->space[i];
        if (s->valid && s->pcid == pcid) {
            t->current = s;
            s->used = ++t->switches;
            return;
        }
        if (!s->valid || (oldest->valid && s->used < oldest->used))
            oldest = s;
    }
    flush_space(oldest, true);
    direct_flush_space(oldest, true);
    for (unsigned k = 0; k < TABLE_KINDS; k++)
        if (oldest->table[k].base)
            release_front(&oldest->table[k]);
    oldest->stay = oldest->longest = oldest->refused = 0;
    oldest->valid = true;
    oldest->pcid = pcid;
    oldest->used = ++t->switches;
    t->current = oldest;
}

static const uint64_t large_sizes[] = {1ull << 21, 1ull << 22, 1ull << 30};

/* Entries from a large page go when any address of it is flushed. */
static void flush_large(struct ttable *b, uint64_t linear)
{
    for (unsigned k = 0; k < DP_ARRAY_LEN(large_sizes); k++) {
        unsigned h = large_hash(linear, large_sizes[k]);
        if (b->large[h / 64] >> (h % 64) & 1) /* from its last page, which has the lowest entry */
            madvise(space_entry(b, linear | (large_sizes[k] - 1)), large_sizes[k] / DP_PAGE_SIZE * 8, MADV_DONTNEED);
    }
}

bool space_maybe_large(const struct ttable *b, uint64_t linear)
{
    for (unsigned k = 0; k < DP_ARRAY_LEN(large_sizes); k++) {
        unsigned h = large_hash(linear, large_sizes[k]);
        if (b->large[h / 64] >> (h % 64) & 1)
            return true;
    }
    return false;
}

void space_forget_jumps_of_page(struct ttable *b, uint64_t linear)
{
    unsigned h = page_hash(linear);
    bool known = b->jump_pages[h / 64] >> (h % 64) & 1;
    for (unsigned k = 0; !known && k < DP_ARRAY_LEN(large_sizes); k++) {
        unsigned l = large_hash(linear, large_sizes[k]);
        known = b->large_jumps[l / 64] >> (l % 64) & 1;
    }
    if (known)
        space_flush_jumps(b, false);
}

static void flush_page(struct ttable *b, uint64_t linear)
{
    if (*space_entry(b, linear)) /* reading takes no memory where nothing was written */
        *space_entry(b, linear) = 0;
    flush_large(b, linear);
    space_forget_jumps_of_page(b, linear);
}

/* May a space that is not the current one have something of this page? */
static bool may_be_global(const struct tcpu *t, uint64_t linear)
{
    bool large = false;
    for (unsigned k = 0; k < DP_ARRAY_LEN(large_sizes); k++)
        large |= filter_has(t->global_large, large_hash(linear, large_sizes[k]));
    return large || filter_has(t->global_regions, region_hash(linear));
}

/* Nearly every page fault is of a page that nothing is known of: then no memory is touched for the first time. */
void space_forget_page(struct tcpu *t, uint64_t linear)
{
    bool global = may_be_global(t, linear);
    for (struct tspace *s = t->space; s < t->space + SPACES; s++)
        if (global || s == t->current)
            direct_flush_page(s, linear);
    FOR_TABLES_IF(t, b, global || s_ == t->current)
        if (*space_entry(b, linear) || filter_has(b->jump_pages, page_hash(linear)))
            flush_page(b, linear);
}

void space_flush(struct tcpu *t, enum x86_flush kind, uint64_t linear, unsigned pcid)
{
    t->c->counters.table_flushes++;
    DP_TRACE(t->c->vm->trace, DP_TRACE_TABLES, "cpu%u: flush kind %u, address 0x%llx, PCID %u", t->c->index, kind,
             (unsigned long long)linear, pcid);
    switch (kind) {
    case X86_FLUSH_ALL: case X86_FLUSH_PCIDS:
        for (unsigned i = 0; i < SPACES; i++)
            flush_space(&t->space[i], kind == X86_FLUSH_PCIDS);
        if (t->current->pcid != x86_pcid(&t->c->s)) /* a whole new state, or PCIDs went off: what comes now is not the old PCID's */
            switch_space(t, x86_pcid(&t->c->s));
        break;
    case X86_FLUSH_PCID:
        if (pcid == x86_pcid(&t->c->s))
            switch_space(t, pcid);
        for (unsigned i = 0; i < SPACES; i++)
            if (t->space[i].valid && t->space[i].pcid == pcid)
                flush_space(&t->space[i], true);
        break;
    case X86_FLUSH_SWITCH: switch_space(t, pcid); break;
    case X86_FLUSH_PAGE: case X86_FLUSH_PAGE_PCID: { /* a little more than asked for does no harm */
        bool global = may_be_global(t, linear);
        for (unsigned i = 0; i < SPACES; i++)
            direct_flush_page(&t->space[i], linear);
        FOR_TABLES_IF(t, b, global || s_ == t->current || s_->pcid == pcid)
            flush_page(b, linear);
    }
    }
}

void space_release(struct tcpu *t)
{
    FOR_TABLES(t, b)
        b->overflow = true; /* there may be memory without entries */
    interp_flush(t->c, X86_FLUSH_ALL, 0, 0); /* the interpreter's, too: what it fills comes here */
    for (struct tspace *s = t->space; s < t->space + SPACES; s++)
        s->valid = s == t->current;
    FOR_TABLES_IF(t, b, s_ != t->current)
        free_table(b);
    FOR_TABLES(t, b) {
        madvise(b->base - FRONT_BYTES, FRONT_BYTES, MADV_DONTNEED);
        b->front_used = 0;
        space_flush_jumps(b, false);
    }
}

void space_revoke_writes(struct tcpu *t)
{
    t->c->counters.table_flushes++;
    DP_TRACE(t->c->vm->trace, DP_TRACE_TABLES, "cpu%u: flush of everything that allows writes", t->c->index);
    direct_flush_all(t);
    FOR_TABLES(t, b)
        flush_table(b, false);
}

void space_set(struct tcpu *t, unsigned kind, uint64_t linear, bool writable, struct dp_ram *ram, uint64_t offset, bool global,
               uint64_t page_size)
{
    struct ttable *b = space_table(t, kind);
    struct talias *a = alias_of(t->v, ram);
    if (!a || !b || (b->code32 && linear - GUARD32 >= 0x100000000ull - 2 * GUARD32))
        return;
    uint64_t *entry = space_entry(b, linear);
    if (page_size > DP_PAGE_SIZE) {
        unsigned h = large_hash(linear, page_size);
        b->large[h / 64] |= 1ull << (h % 64);
    }
    if (global) {
        note_global(t, linear, page_size);
        b->globals++;
    } else if (!*entry || b->globals) { /* one that was global until now is not in the log */
        if (b->logged == TABLE_LOG)
            b->overflow = true;
        else
            b->log[b->logged++] = (uint64_t)(entry - (uint64_t *)b->base);
    }
    writable = writable && alias_hand_out(t->v, a, offset >> DP_PAGE_SHIFT);
    *entry = (uint64_t)(uintptr_t)((writable ? a->rw : a->ro) + (offset & PAGE_MASK)) - (linear & PAGE_MASK);
}
