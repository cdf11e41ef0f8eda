/* isa/x86/mmu.c - page walks: 4-level, PAE and 2-level tables, with every check and exact error codes.
 *
 * Model: one loop over the levels for 8-byte entries (4-level starts at level 4, PAE at level 2 below its PDPTE register), one function for
 * the 4-byte format. A walk first reads, combining rights and checking reserved bits as it meets entries; then judges the access; then sets
 * A and D by compare-exchange and starts over when another processor changed an entry in between.
 * Invariants: a refused access changes neither tables nor state. A and D are never set for entries
 * of another translation than the one returned.
 * Source: Intel SDM vol. 3 4.3-4.7 (formats, rights, error codes), 4.8 (A and D).
 */
#include "isa/x86/x86_internal.h"

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)
#define PTE_ADDRESS 0x000ffffffffff000ull

enum {
    MAX_LEVELS = 4,
    /* An entry that cannot be exchanged (tables in ROM or device memory) must not hold the processor: the walk goes on without A and D. */
    MAX_RETRIES = 64,
};

struct walk {
    uint64_t entry[MAX_LEVELS], address[MAX_LEVELS]; /* from the root down */
    unsigned count;
    unsigned entry_size;
    uint64_t rights;  /* entries ANDed: P, W, U */
    uint64_t nx;      /* entries ORed: NX */
    uint64_t page_size, frame;
};

enum result { WALK_OK, WALK_NOT_PRESENT, WALK_RESERVED };

bool x86_canonical(const struct x86_state *s, uint64_t linear)
{
    (void)s; /* LA57 is not offered */
    return x86_canonical48(linear);
}

/* Address bits above the processor's physical width, up to 51. */
static uint64_t reserved_address(const struct x86_cpuid_model *m)
{
    return PTE_ADDRESS & ~((1ull << m->physical_bits) - 1);
}

/* 8-byte entries from the table at `table`, whose level is `level` (4 = PML4). */
static enum result walk8(struct x86_ctx *c, uint64_t linear, uint64_t table, unsigned level, struct walk *w)
{
    const struct x86_state *s = c->s;
    uint64_t reserved = reserved_address(c->model);

    if (!(s->efer & X86_EFER_NXE))
        reserved |= PTE_NX;
    if (!x86_long_mode(s))
        reserved |= 0x7ff0000000000000ull; /* PAE has no ignored high bits */
    w->entry_size = 8;
    w->count = 0;
    for (;; level--) {
        unsigned shift = 12 + 9 * (level - 1);
        uint64_t address = table + (linear >> shift & 0x1ff) * 8;
        uint64_t e = c->phys_load(c, address, 8);

        if (!(e & PTE_P))
            return WALK_NOT_PRESENT;
        if (DP_UNLIKELY(e & reserved))
            return WALK_RESERVED;
        w->entry[w->count] = e;
        w->address[w->count++] = address;
        w->rights &= e;
        w->nx |= e;
        if (level == 1 || (e & PTE_PS)) {
            if (level > 1) {
                uint64_t low = (1ull << shift) - 0x2000; /* bits 13 and up; 12 is PAT */
                if (level == 4 || (level == 3 && !x86_has(c->model, X86_FEATURE_PDPE1GB)) || (e & low))
                    return WALK_RESERVED;
            }
            w->page_size = 1ull << shift;
            w->frame = e & PTE_ADDRESS & ~(w->page_size - 1);
            return WALK_OK;
        }
        table = e & PTE_ADDRESS;
    }
}

/* 4-byte entries. */
static enum result walk4(struct x86_ctx *c, uint64_t linear, struct walk *w)
{
    const struct x86_state *s = c->s;
    uint64_t address = (s->cr3 & 0xfffff000) + (linear >> 22 & 0x3ff) * 4;
    uint64_t e = (uint32_t)c->phys_load(c, address, 4);

    w->entry_size = 4;
    w->count = 1;
    if (!(e & PTE_P))
        return WALK_NOT_PRESENT;
    w->entry[0] = e;
    w->address[0] = address;
    w->rights &= e;
    if ((e & PTE_PS) && (s->cr4 & X86_CR4_PSE)) {
        /* PSE-36 keeps address bits 32.. in 13..; what the physical width does not need is reserved. */
        unsigned width = x86_has(c->model, X86_FEATURE_PSE36) ? DP_MIN(c->model->physical_bits, 40u) : 32;
        uint64_t high = e >> 13 & 0x1ff;

        if (high >> (width - 32))
            return WALK_RESERVED;
        w->page_size = 4 << 20;
        w->frame = (e & 0xffc00000) | high << 32;
        return WALK_OK;
    }
    address = (e & 0xfffff000) + (linear >> 12 & 0x3ff) * 4;
    e = (uint32_t)c->phys_load(c, address, 4);
    if (!(e & PTE_P))
        return WALK_NOT_PRESENT;
    w->entry[1] = e;
    w->address[1] = address;
    w->count = 2;
    w->rights &= e;
    w->page_size = 4096;
    w->frame = e & 0xfffff000;
    return WALK_OK;
}

static enum result walk_tables(struct x86_ctx *c, uint64_t linear, struct walk *w)
{
    const struct x86_state *s = c->s;

    w->rights = ~0ull;
    w->nx = 0;
    if (x86_long_mode(s))
        return walk8(c, linear, s->cr3 & PTE_ADDRESS, 4, w);
    if (s->cr4 & X86_CR4_PAE) {
        uint64_t pdpte = s->pdpte[linear >> 30 & 3];
        return pdpte & PTE_P ? walk8(c, linear, pdpte & PTE_ADDRESS, 2, w) : WALK_NOT_PRESENT;
    }
    return walk4(c, linear, w);
}

static DP_COLD int page_fault(struct x86_ctx *c, uint64_t linear, enum x86_access a, bool user, uint32_t error)
{
    const struct x86_state *s = c->s;

    if (a == X86_ACCESS_WRITE)
        error |= X86_PF_W;
    if (user)
        error |= X86_PF_U;
    if (a == X86_ACCESS_FETCH && ((s->cr4 & X86_CR4_SMEP) || ((s->cr4 & X86_CR4_PAE) && (s->efer & X86_EFER_NXE))))
        error |= X86_PF_I;
    x86_fault(c, X86_PF_, true, error);
    c->fault.cr2 = linear;
    return -1;
}

static bool allowed(const struct x86_state *s, const struct walk *w, enum x86_access a, bool user, bool smap_ac)
{
    bool user_page = w->rights & PTE_U;

    if (a == X86_ACCESS_FETCH && (w->nx & PTE_NX)) /* with NXE clear, NX has been refused as reserved */
        return false;
    if (user)
        return user_page && (a != X86_ACCESS_WRITE || (w->rights & PTE_W));
    if (user_page) {
        if (a == X86_ACCESS_FETCH)
            return !(s->cr4 & X86_CR4_SMEP);
        if ((s->cr4 & X86_CR4_SMAP) && !smap_ac)
            return false;
    }
    return a != X86_ACCESS_WRITE || (w->rights & PTE_W) || !(s->cr0 & X86_CR0_WP);
}

/* Sets A on the way down and D at the leaf; false: an entry changed meanwhile, walk again. */
static bool set_accessed(struct x86_ctx *c, struct walk *w, bool write)
{
    for (unsigned i = 0; i < w->count; i++) {
        uint64_t want = w->entry[i] | PTE_A | (write && i == w->count - 1 ? PTE_D : 0);

        if (DP_LIKELY(want == w->entry[i]))
            continue;
        if (!c->phys_compare_exchange(c, w->address[i], w->entry[i], want, w->entry_size))
            return false;
        w->entry[i] = want;
    }
    return true;
}

static void fill(const struct x86_ctx *c, uint64_t linear, const struct walk *w, struct x86_translation *t)
{
    uint64_t leaf = w->entry[w->count - 1];
    unsigned pat = leaf >> (w->page_size == 4096 ? 7 : 12) & 1;

    t->phys = w->frame | (linear & (w->page_size - 1));
    t->page_size = w->page_size;
    t->writable = w->rights & PTE_W;
    t->user = w->rights & PTE_U;
    t->executable = !(w->nx & PTE_NX);
    t->global = (leaf & PTE_G) && (c->s->cr4 & X86_CR4_PGE);
    t->dirty = leaf & PTE_D;
    t->memory_type = (uint8_t)(pat << 2 | (leaf >> 3 & 3));
}

static void fill_flat(uint64_t linear, struct x86_translation *t)
{
    *t = (struct x86_translation){.phys = (uint32_t)linear, .page_size = 4096, .writable = true, .user = true, .executable = true,
                                  .dirty = true};
}

int x86_walk(struct x86_ctx *c, uint64_t linear, enum x86_access a, bool user, bool smap_ac, struct x86_translation *t)
{
    const struct x86_state *s = c->s;
    struct walk w;

    if (DP_UNLIKELY(!(s->cr0 & X86_CR0_PG))) {
        fill_flat(linear, t);
        return 0;
    }
    if (!x86_long_mode(s))
        linear = (uint32_t)linear;
    else if (DP_UNLIKELY(!x86_canonical48(linear)))
        return x86_gp(c, 0);

    for (unsigned tries = 0;; tries++) {
        switch (walk_tables(c, linear, &w)) {
        case WALK_NOT_PRESENT:
            return page_fault(c, linear, a, user, 0);
        case WALK_RESERVED:
            return page_fault(c, linear, a, user, X86_PF_P | X86_PF_RSVD);
        case WALK_OK:
            break;
        }
        if (DP_UNLIKELY(!allowed(s, &w, a, user, smap_ac)))
            return page_fault(c, linear, a, user, X86_PF_P);
        if (DP_LIKELY(set_accessed(c, &w, a == X86_ACCESS_WRITE)) || tries == MAX_RETRIES)
            break;
    }
    fill(c, linear, &w, t);
    return 0;
}

bool x86_walk_used(struct x86_ctx *c, uint64_t linear, struct x86_translation *t)
{
    struct walk w;

    if (!(c->s->cr0 & X86_CR0_PG) || !x86_long_mode(c->s) || !x86_canonical48(linear) || walk_tables(c, linear, &w) != WALK_OK)
        return false;
    for (unsigned i = 0; i < w.count; i++)
        if (!(w.entry[i] & PTE_A))
            return false;
    fill(c, linear, &w, t);
    return true;
}

bool x86_walk_debug(struct x86_ctx *c, uint64_t linear, uint64_t *phys)
{
    struct walk w;

    if (!(c->s->cr0 & X86_CR0_PG)) {
        *phys = (uint32_t)linear;
        return true;
    }
    if (!x86_long_mode(c->s))
        linear = (uint32_t)linear;
    else if (!x86_canonical48(linear))
        return false;
    if (walk_tables(c, linear, &w) != WALK_OK)
        return false;
    *phys = w.frame | (linear & (w.page_size - 1));
    return true;
}
