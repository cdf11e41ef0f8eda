/* engine/interp/memory.c - the interpreter's TLB, slow paths and the memory callbacks of isa/x86.
 *
 * Model, invariants: see interp_internal.h. The TLB is filled by x86_walk; a write tag is given only for a page that may be written without
 * telling anyone. Everything else (devices, page-crossing operands, pages with code, data breakpoints, alignment checks) goes through here.
 */
#include <stdlib.h>

#include "engine/interp/interp_internal.h"

#define PAGE_MASK (~0xfffull)

int interp_memory_init(struct icpu *c, struct dp_error *e)
{
    c->tlb_all = aligned_alloc(64, sizeof(struct itlb) * ITLB_SIZE * ITLB_KINDS);
    c->tlb_cold = calloc(ITLB_SIZE * ITLB_KINDS, sizeof(*c->tlb_cold));
    if (!c->tlb_all || !c->tlb_cold)
        return dp_error_set(e, -ENOMEM, "no memory for a processor's TLB; close other programs");
    memset((void *)c->tlb_all, 0, sizeof(struct itlb) * ITLB_SIZE * ITLB_KINDS);
    c->tlb_generation = 1;
    c->tlb = c->tlb_all + ITLB_SUPER * ITLB_SIZE;
    return 0;
}

void interp_memory_fini(struct icpu *c)
{
    free((void *)c->tlb_all);
    free(c->tlb_cold);
}

/* ---- flushing ---- */

static void flush_tlb(struct icpu *c)
{
    if (++c->tlb_generation > 4095) { /* tags of 4095 generations ago would match again */
        for (unsigned i = 0; i < ITLB_SIZE * ITLB_KINDS; i++) {
            c->tlb_all[i].read_tag = c->tlb_all[i].fetch_tag = 0;
            atomic_store_explicit(&c->tlb_all[i].write_tag, 0, memory_order_relaxed);
        }
        c->tlb_generation = 1;
    }
    memset(c->large_filter, 0, sizeof(c->large_filter));
    interp_new_epoch(c);
}

static void clear_entry(struct icpu *c, unsigned n)
{
    c->tlb_all[n].read_tag = c->tlb_all[n].fetch_tag = 0;
    atomic_store_explicit(&c->tlb_all[n].write_tag, 0, memory_order_relaxed);
}

static unsigned large_hash(uint64_t linear, uint64_t size)
{
    return (unsigned)((linear / size * 0x9e3779b97f4a7c15ull + size) >> (64 - ILARGE_BITS));
}

void interp_forget_page(struct icpu *c, uint64_t linear)
{
    for (unsigned kind = 0; kind < ITLB_EMPTY; kind++)
        clear_entry(c, kind * ITLB_SIZE + (linear >> 12 & (ITLB_SIZE - 1)));
    if (c->accel)
        c->accel->forget(c, linear);
}

/* Entries are of 4 KiB; those that came from a large page go when any address of the page is flushed. */
static void flush_page(struct icpu *c, uint64_t linear)
{
    for (unsigned kind = 0; kind < ITLB_KINDS; kind++)
        clear_entry(c, kind * ITLB_SIZE + (linear >> 12 & (ITLB_SIZE - 1)));
    static const uint64_t sizes[] = { 1ull << 21, 1ull << 22, 1ull << 30 };
    for (unsigned k = 0; k < DP_ARRAY_LEN(sizes); k++) {
        unsigned h = large_hash(linear, sizes[k]);
        if (!(c->large_filter[h / 64] >> (h % 64) & 1))
            continue;
        for (unsigned i = 0; i < ITLB_SIZE * ITLB_KINDS; i++)
            if (c->tlb_cold[i].large == sizes[k])
                clear_entry(c, i);
    }
    interp_new_epoch(c);
}

void interp_flush(struct icpu *c, enum x86_flush kind, uint64_t linear, unsigned pcid)
{
    switch (kind) {
    case X86_FLUSH_PAGE_PCID: /* of another PCID there is nothing here: every change of CR3 empties the TLB */
        if (pcid == x86_pcid(&c->s))
            flush_page(c, linear);
        break;
    case X86_FLUSH_PAGE:
        flush_page(c, linear);
        break;
    case X86_FLUSH_PCID:
        if (pcid == x86_pcid(&c->s))
            flush_tlb(c);
        break;
    default:
        flush_tlb(c);
    }
    if (c->accel)
        c->accel->flush(c, kind, linear, pcid);
}

void interp_revoke_writes(struct icpu *c, struct dp_ram *r, uint64_t page)
{
    uint64_t offset = page << DP_PAGE_SHIFT;
    for (unsigned i = 0; i < ITLB_SIZE * ITLB_EMPTY; i++)
        if ((page == ~0ull || atomic_load_explicit(&c->tlb_cold[i].ram_offset, memory_order_relaxed) == offset) &&
            atomic_load_explicit(&c->tlb_cold[i].ram, memory_order_relaxed) == r)
            atomic_store_explicit(&c->tlb_all[i].write_tag, 0, memory_order_relaxed);
}

void interp_map_changed(struct icpu *c)
{
    c->walked.size = 0;
    c->memory = c->s.smm && c->vm->smm_memory ? c->vm->smm_memory : c->vm->memory;
    c->address_mask = c->s.smm ? UINT64_MAX : dp_space_cpu_mask(c->vm->memory); /* the A20 gate does not reach into the mode */
}

/* ---- filling ---- */

/* Records the page of t in the entry; gives it the tag for the access. */
static void fill(struct icpu *c, unsigned kind, uint64_t linear, enum x86_access access, const struct x86_translation *t,
                 const struct dp_range *r)
{
    if (kind == ITLB_EMPTY)
        return;
    unsigned n = kind * ITLB_SIZE + (linear >> 12 & (ITLB_SIZE - 1));
    struct itlb *e = &c->tlb_all[n];
    struct itlb_cold *cold = &c->tlb_cold[n];
    uint64_t tag = (linear & PAGE_MASK) | c->tlb_generation;
    uint64_t offset = r->ram_offset + ((t->phys & PAGE_MASK) - r->base);
    uint64_t addend = (uint64_t)(uintptr_t)(r->ram->host + offset) - (linear & PAGE_MASK);
    if ((e->read_tag && e->read_tag != tag) || (e->fetch_tag && e->fetch_tag != tag) || e->addend != addend || cold->ram_offset != offset ||
        cold->ram != r->ram)
        clear_entry(c, n);
    e->addend = addend;
    atomic_store_explicit(&cold->ram, r->ram, memory_order_relaxed);
    atomic_store_explicit(&cold->ram_offset, offset, memory_order_relaxed);
    cold->global = t->global;
    cold->large = t->page_size > DP_PAGE_SIZE ? t->page_size : 0;
    if (cold->large) {
        unsigned h = large_hash(linear, cold->large);
        c->large_filter[h / 64] |= 1ull << (h % 64);
    }
    if (access == X86_ACCESS_FETCH) {
        e->fetch_tag = tag;
        return;
    }
    e->read_tag = tag;
    if (c->accel) {
        bool dirty = t->dirty || access == X86_ACCESS_WRITE,
             allowed = access == X86_ACCESS_WRITE || (t->writable && (kind != ITLB_USER || t->user));
        c->accel->filled(c, kind, linear, dirty && allowed && !r->readonly && dp_ram_write_is_free(r->ram, offset >> DP_PAGE_SHIFT),
                         t->global, t->page_size, r->ram, offset);
    }
    if (access == X86_ACCESS_WRITE && !r->readonly && dp_ram_write_is_free(r->ram, offset >> DP_PAGE_SHIFT)) {
        atomic_store_explicit(&e->write_tag, tag, memory_order_relaxed);
        /* Against code_marked in another thread: it sets has_code and then looks for tags; we set the tag and then look at has_code. */
        atomic_thread_fence(memory_order_seq_cst);
        if (!dp_ram_write_is_free(r->ram, offset >> DP_PAGE_SHIFT))
            atomic_store_explicit(&e->write_tag, 0, memory_order_relaxed);
    }
}

/* Is the whole page one piece of RAM? Only then an entry may be cached. */
static bool whole_page(const struct dp_range *r, uint64_t phys)
{
    uint64_t page = phys & PAGE_MASK;
    return r->ram && page >= r->base && page + DP_PAGE_SIZE - r->base <= r->size;
}

static int translate(struct icpu *c, uint64_t linear, enum x86_access access, bool user, bool ac, struct x86_translation *t)
{
    c->counters.tlb_misses++;
    if (x86_walk(&c->ctx, linear, access, user, ac, t))
        return -1;
    t->phys &= c->address_mask;
    return 0;
}

static unsigned current_kind(const struct icpu *c) { return (unsigned)(c->tlb - c->tlb_all) / ITLB_SIZE; }
static bool is_user(const struct icpu *c) { return (c->mode >> IMODE_CPL_SHIFT & 3) == 3; }
static bool has_ac(const struct icpu *c) { return c->s.rflags & X86_AC; }

static bool local_apic(struct icpu *c, uint64_t phys);

/* A walk for the running instruction's own (explicit) access; a fault leaves. In 64-bit mode a non-canonical stack reference is #SS. */
static void translate_or_leave(struct icpu *c, const struct iop *o, uint64_t linear, enum x86_access access, struct x86_translation *t)
{
    if (translate(c, linear, access, is_user(c), has_ac(c), t)) {
        if (c->ctx.fault.vector == X86_GP && o->seg == X86_SS)
            c->ctx.fault.vector = X86_SS_;
        interp_fault_ctx(c, o);
    }
}

bool interp_fill_data(struct icpu *c, uint64_t linear, enum x86_access access)
{
    struct x86_translation t;
    struct dp_range r;
    if (translate(c, linear, access, is_user(c), has_ac(c), &t))
        return false;
    dp_space_find(c->memory, t.phys, &r);
    if (!whole_page(&r, t.phys) || local_apic(c, t.phys))
        return false;
    fill(c, current_kind(c), linear, access, &t, &r);
    return true;
}

int interp_fetch_fill(struct icpu *c, uint64_t linear)
{
    struct x86_translation t;
    struct dp_range r;
    if (translate(c, linear, X86_ACCESS_FETCH, is_user(c), false, &t))
        return -1;
    dp_space_find(c->memory, t.phys, &r);
    if (whole_page(&r, t.phys))
        fill(c, is_user(c) ? ITLB_USER : ITLB_SUPER, linear, X86_ACCESS_FETCH, &t, &r);
    return 0;
}

/* An operand that runs out of the canonical half is refused before its first page is looked at. */
static void check_canonical(struct icpu *c, const struct iop *o, uint64_t linear, unsigned size)
{
    if ((c->mode & IMODE_CODE) == X86_MODE64 && (!x86_canonical(&c->s, linear) || !x86_canonical(&c->s, linear + size - 1)))
        interp_fault_code(c, o, o->seg == X86_SS ? X86_SS_ : X86_GP, 0);
}

/* ---- data breakpoints and alignment: only with the empty TLB ---- */

/* SDM vol. 3 table 6-7; what is left are several words, or is checked otherwise. */
static unsigned alignment(unsigned size)
{
    switch (size) {
    case 2: case 4: case 8: case 16: return size;
    case 10: return 8;           /* extended real */
    case 14: case 94: return 2;  /* FSTENV, FSAVE */
    case 28: case 108: return 4;
    default: return 1;
    }
}

static void check_access(struct icpu *c, const struct iop *o, uint64_t linear, unsigned size, bool write)
{
    if (c->align_check && (linear & (alignment(size) - 1))) {
        check_canonical(c, o, linear, size);
        interp_fault_code(c, o, X86_AC_, 0);
    }
    if (!c->watching)
        return;
    for (unsigned i = 0; i < 4; i++) {
        unsigned control = (unsigned)(c->s.dr[7] >> (16 + 4 * i)) & 15, kind = control & 3;
        static const uint8_t lengths[4] = { 1, 2, 8, 4 };
        uint64_t length = lengths[control >> 2], base = c->s.dr[i] & ~(length - 1);
        if ((c->s.dr[7] >> (2 * i) & 3) && (kind == 3 || (kind == 1 && write)) && linear < base + length && base < linear + size)
            c->watch_dr6 |= 1ull << i;
    }
}

/* ---- device memory ---- */

static bool local_apic(struct icpu *c, uint64_t phys)
{
    /* IA32_APIC_BASE: enabled (bit 11), not x2APIC (bit 10) */
    return c->bus.apic && (c->s.apic_base & 0xc00) == 0x800 && (phys & PAGE_MASK) == (c->s.apic_base & 0xffffff000ull);
}
/* An access of our own that changed the memory map counts for the very next one; the run loop does the rest. */
static void own_map_change(struct icpu *c)
{
    if (DP_UNLIKELY(atomic_load_explicit(&c->attention, memory_order_relaxed) & IATT_MAP)) {
        interp_map_changed(c);
        interp_flush_all(c);
    }
}
static uint64_t bus_load(struct icpu *c, uint64_t phys, unsigned size)
{
    c->counters.mmio++;
    if (local_apic(c, phys))
        return c->bus.apic_read(c->bus.apic, phys & 0xfff, size);
    uint64_t v = dp_space_load(c->memory, phys, size);
    own_map_change(c);
    return v;
}
static void bus_store(struct icpu *c, uint64_t phys, uint64_t value, unsigned size)
{
    c->counters.mmio++;
    if (local_apic(c, phys))
        c->bus.apic_write(c->bus.apic, phys & 0xfff, value, size);
    else
        dp_space_store(c->memory, phys, value, size);
    own_map_change(c);
}

/* Is all of an access within one page RAM? A device's window may begin in the middle of a page. */
static bool in_ram(struct icpu *c, const struct dp_range *r, uint64_t phys, unsigned size)
{
    return r->ram && phys - r->base + size <= r->size && !local_apic(c, phys);
}

/* One access within one page, translated. */
static uint64_t load_in_page(struct icpu *c, uint64_t phys, const struct dp_range *r, unsigned size)
{
    if (in_ram(c, r, phys, size)) {
        const uint8_t *host = r->ram->host + r->ram_offset + (phys - r->base);
        switch (size) { /* aligned accesses are single ones */
        case 1: return *(volatile const uint8_t *)host;
        case 2: return *(volatile const uint16_t *)host;
        case 4: return *(volatile const uint32_t *)host;
        case 8: return *(volatile const uint64_t *)host;
        default: {
            uint64_t v = 0;
            memcpy(&v, host, size);
            return v;
        }
        }
    }
    if (size & (size - 1)) { /* part of a page-crossing access */
        uint64_t v = 0;
        for (unsigned i = 0; i < size; i++)
            v |= bus_load(c, phys + i, 1) << (8 * i);
        return v;
    }
    return bus_load(c, phys, size);
}
static void store_in_page(struct icpu *c, uint64_t phys, const struct dp_range *r, uint64_t value, unsigned size)
{
    if (in_ram(c, r, phys, size) && !(r->readonly && r->ops)) { /* flash: writes are its device's */
        if (r->readonly)
            return;
        uint64_t offset = r->ram_offset + (phys - r->base);
        uint8_t *host = r->ram->host + offset;
        switch (size) {
        case 1: *(volatile uint8_t *)host = (uint8_t)value; break;
        case 2: *(volatile uint16_t *)host = (uint16_t)value; break;
        case 4: *(volatile uint32_t *)host = (uint32_t)value; break;
        case 8: *(volatile uint64_t *)host = value; break;
        default: memcpy(host, &value, size);
        }
        atomic_thread_fence(memory_order_seq_cst); /* the store before the look at has_code */
        dp_ram_mark_dirty(r->ram, offset, size);
        return;
    }
    if (size & (size - 1)) {
        for (unsigned i = 0; i < size; i++)
            bus_store(c, phys + i, value >> (8 * i) & 0xff, 1);
        return;
    }
    bus_store(c, phys, value, size);
}

void interp_check_own_block(struct icpu *c, const struct iop *o)
{
    struct iblock *b = c->block;
    if (!b || (interp_block_valid(b) && !(atomic_load_explicit(&c->attention, memory_order_relaxed) & IATT_MAP)))
        return;
    c->counters.code_invalidations++;
    /* The block belongs to this thread alone and can never be entered again: turn what follows into the way out. */
    for (unsigned i = 0; i <= b->count; i++)
        if (b->op[i].offset > o->offset)
            b->op[i].fn = interp_op_refetch;
}

/* ---- slow paths ---- */

uint64_t interp_load_slow(struct icpu *c, const struct iop *o, uint64_t linear, unsigned size)
{
    if (DP_UNLIKELY(c->align_check || c->watching))
        check_access(c, o, linear, size, false);
    unsigned first = (unsigned)(DP_PAGE_SIZE - (linear & 0xfff));
    struct x86_translation t;
    struct dp_range r;
    if (first >= size) {
        translate_or_leave(c, o, linear, X86_ACCESS_READ, &t);
        dp_space_find(c->memory, t.phys, &r);
        if (whole_page(&r, t.phys) && !local_apic(c, t.phys))
            fill(c, current_kind(c), linear, X86_ACCESS_READ, &t, &r);
        return load_in_page(c, t.phys, &r, size);
    }
    struct x86_translation t2;
    struct dp_range r2;
    uint64_t mask = (c->mode & IMODE_CODE) == X86_MODE64 ? ~0ull : 0xffffffffull, second = (linear + first) & mask;
    check_canonical(c, o, linear, size);
    translate_or_leave(c, o, linear, X86_ACCESS_READ, &t);
    translate_or_leave(c, o, second, X86_ACCESS_READ, &t2);
    dp_space_find(c->memory, t.phys, &r);
    dp_space_find(c->memory, t2.phys, &r2);
    return load_in_page(c, t.phys, &r, first) | load_in_page(c, t2.phys, &r2, size - first) << (8 * first);
}

void interp_store_slow(struct icpu *c, const struct iop *o, uint64_t linear, uint64_t value, unsigned size)
{
    if (DP_UNLIKELY(c->align_check || c->watching))
        check_access(c, o, linear, size, true);
    unsigned first = (unsigned)(DP_PAGE_SIZE - (linear & 0xfff));
    struct x86_translation t;
    struct dp_range r;
    if (first >= size) {
        translate_or_leave(c, o, linear, X86_ACCESS_WRITE, &t);
        dp_space_find(c->memory, t.phys, &r);
        if (whole_page(&r, t.phys) && !local_apic(c, t.phys))
            fill(c, current_kind(c), linear, X86_ACCESS_WRITE, &t, &r);
        store_in_page(c, t.phys, &r, value, size);
    } else {
        struct x86_translation t2;
        struct dp_range r2;
        uint64_t mask = (c->mode & IMODE_CODE) == X86_MODE64 ? ~0ull : 0xffffffffull, second = (linear + first) & mask;
        check_canonical(c, o, linear, size);
        translate_or_leave(c, o, linear, X86_ACCESS_WRITE, &t);
        translate_or_leave(c, o, second, X86_ACCESS_WRITE, &t2);
        dp_space_find(c->memory, t.phys, &r);
        dp_space_find(c->memory, t2.phys, &r2);
        store_in_page(c, t.phys, &r, value & dp_mask_bytes(first), first);
        store_in_page(c, t2.phys, &r2, value >> (8 * first), size - first);
    }
    interp_check_own_block(c, o);
}

/* A write through a tag that may have been poisoned meanwhile: only the host address is left, but a TLB entry still names the RAM. */
static void mark_host(struct icpu *c, const uint8_t *host, uint64_t size)
{
    if (c->written && (uint64_t)(host - c->written->host) < c->written->size) {
        dp_ram_mark_dirty(c->written, (uint64_t)(host - c->written->host), size);
        return;
    }
    for (unsigned i = 0; i < ITLB_SIZE * ITLB_EMPTY; i++) {
        struct dp_ram *r = atomic_load_explicit(&c->tlb_cold[i].ram, memory_order_relaxed);
        if (r && (uint64_t)(host - r->host) < r->size) {
            dp_ram_mark_dirty(r, (uint64_t)(host - r->host), size);
            return;
        }
    }
}
void interp_store_raced(struct icpu *c, const struct iop *o, uint64_t host, unsigned size)
{
    mark_host(c, (const uint8_t *)(uintptr_t)host, size);
    interp_check_own_block(c, o);
}

void *interp_rmw_host(struct icpu *c, const struct iop *o, uint64_t linear, unsigned size)
{
    if (DP_UNLIKELY(c->align_check || c->watching))
        check_access(c, o, linear, size, true);
    struct x86_translation t;
    struct dp_range r;
    unsigned first = (unsigned)(DP_PAGE_SIZE - (linear & 0xfff));
    if (first < size)
        check_canonical(c, o, linear, size);
    translate_or_leave(c, o, linear, X86_ACCESS_WRITE, &t);
    dp_space_find(c->memory, t.phys, &r);
    if (first < size) { /* pages that are neighbours in RAM, too, still make one atomic operand; others do not */
        struct x86_translation second;
        translate_or_leave(c, o, (linear + first) & ((c->mode & IMODE_CODE) == X86_MODE64 ? ~0ull : 0xffffffffull), X86_ACCESS_WRITE,
                           &second);
        if (second.phys != t.phys + first)
            return NULL;
    }
    if (!in_ram(c, &r, t.phys, size) || r.readonly)
        return NULL;
    if (first >= size && whole_page(&r, t.phys))
        fill(c, current_kind(c), linear, X86_ACCESS_WRITE, &t, &r);
    c->written = r.ram;
    return r.ram->host + r.ram_offset + (t.phys - r.base);
}

void interp_rmw_done(struct icpu *c, const struct iop *o, const volatile void *host, unsigned size)
{
    atomic_thread_fence(memory_order_seq_cst);
    mark_host(c, (const uint8_t *)host, size);
    interp_check_own_block(c, o);
}

void interp_load_bytes(struct icpu *c, const struct iop *o, uint64_t linear, void *data, unsigned size)
{
    uint8_t *p = data;
    if (DP_UNLIKELY(c->align_check))
        check_access(c, o, linear, size, false);
    if (size <= 16) /* larger operands are several accesses */
        check_canonical(c, o, linear, size);
    while (size) {
        unsigned n = DP_MIN(size, (unsigned)(DP_PAGE_SIZE - (linear & 0xfff)));
        const struct itlb *e = interp_tlb(c, linear);
        if (((linear & PAGE_MASK) | c->tlb_generation) == e->read_tag) {
            memcpy(p, (void *)(uintptr_t)(linear + e->addend), n);
        } else {
            n = n >= 8 && !(linear & 7) ? 8 : 1;
            uint64_t v = interp_load_slow(c, o, linear, n);
            memcpy(p, &v, n);
        }
        p += n;
        linear += n;
        size -= n;
    }
}

/* Both ends (at most two pages for the sizes in use) must be writable. */
void interp_probe_store(struct icpu *c, const struct iop *o, uint64_t linear, unsigned size)
{
    struct x86_translation t;
    if (DP_UNLIKELY(c->align_check))
        check_access(c, o, linear, size, true);
    if (size <= 16)
        check_canonical(c, o, linear, size);
    translate_or_leave(c, o, linear, X86_ACCESS_WRITE, &t);
    if ((linear & PAGE_MASK) != ((linear + size - 1) & PAGE_MASK))
        translate_or_leave(c, o, (linear + size - 1) & PAGE_MASK, X86_ACCESS_WRITE, &t);
}

void interp_store_bytes(struct icpu *c, const struct iop *o, uint64_t linear, const void *data, unsigned size)
{
    const uint8_t *p = data;
    if ((linear & PAGE_MASK) != ((linear + size - 1) & PAGE_MASK) || DP_UNLIKELY(c->align_check))
        interp_probe_store(c, o, linear, size);
    while (size) {
        unsigned n = size >= 8 && (linear & 0xfff) <= DP_PAGE_SIZE - 8 ? 8 : 1;
        uint64_t v = 0;
        memcpy(&v, p, n);
        if (n == 8)
            interp_store64(c, o, linear, v);
        else
            interp_store8(c, o, linear, (uint8_t)v);
        p += n;
        linear += n;
        size -= n;
    }
}

/* ---- segmented addresses outside 64-bit code ---- */

uint64_t interp_linear_slow(struct icpu *c, const struct iop *o, unsigned size, bool write)
{
    const struct x86_seg *g = &c->s.seg[o->seg];
    uint64_t offset = interp_ea(c, o);
    if (o->seg == 6)
        return offset;
    unsigned vector = o->seg == X86_SS ? X86_SS_ : X86_GP;
    if (x86_protected(&c->s) && !x86_v86(&c->s)) {
        unsigned type = g->attr & X86_ATTR_TYPE;
        if (g->attr & X86_ATTR_UNUSABLE)
            interp_fault_code(c, o, X86_GP, 0);
        if (write ? (type & 8) || !(type & 2) : (type & 8) && !(type & 2))
            interp_fault_code(c, o, vector, 0);
    }
    uint64_t last = offset + (size ? size - 1 : 0);
    bool down = (g->attr & 0xc) == 4 && (g->attr & X86_ATTR_S); /* expand-down data */
    if (down) {
        uint64_t top = g->attr & X86_ATTR_DB ? 0xffffffffull : 0xffffull;
        if (offset <= g->limit || last > top)
            interp_fault_code(c, o, vector, 0);
    } else if (last > g->limit) {
        interp_fault_code(c, o, vector, 0);
    }
    return (g->base + offset) & 0xffffffffull;
}

uint64_t interp_linear_moved(struct icpu *c, const struct iop *o, int64_t by, unsigned size, bool write)
{
    struct iop moved = *o;
    moved.disp += by;
    return interp_linear(c, &moved, size, write);
}

/* ---- callbacks of isa/x86: they return -1 with the fault instead of leaving ---- */

/* Host address of one byte range within a page, or NULL with *mmio = phys when it is no plain RAM. -1 on a fault. */
static int access_page(struct icpu *c, uint64_t linear, enum x86_access access, bool user, uint8_t **host, uint64_t *phys,
                       struct dp_range *r)
{
    bool ac = !user && c->ctx.explicit_access && has_ac(c);
    unsigned kind = user ? ITLB_USER : ac ? ITLB_SUPER_AC : ITLB_SUPER;
    const struct itlb *e = &c->tlb_all[kind * ITLB_SIZE + (linear >> 12 & (ITLB_SIZE - 1))];
    uint64_t tag = (linear & PAGE_MASK) | c->tlb_generation;
    if (tag == (access == X86_ACCESS_WRITE ? atomic_load_explicit(&e->write_tag, memory_order_relaxed) : e->read_tag)) {
        *host = (uint8_t *)(uintptr_t)(linear + e->addend);
        r->ram = NULL; /* write tag: nothing to tell */
        return 0;
    }
    struct x86_translation t;
    if (translate(c, linear, access, user, ac, &t))
        return -1;
    dp_space_find(c->memory, t.phys, r);
    *phys = t.phys;
    *host = NULL;
    if (whole_page(r, t.phys) && !local_apic(c, t.phys)) {
        fill(c, kind, linear, access, &t, r);
        *host = r->ram->host + r->ram_offset + (t.phys - r->base);
    }
    return 0;
}

static int ctx_read(struct x86_ctx *x, uint64_t linear, void *data, unsigned size, bool user)
{
    struct icpu *c = x->opaque;
    uint8_t *p = data, *host;
    uint64_t phys = 0;
    struct dp_range r;
    while (size) {
        unsigned n = DP_MIN(size, (unsigned)(DP_PAGE_SIZE - (linear & 0xfff)));
        if (access_page(c, linear, X86_ACCESS_READ, user, &host, &phys, &r))
            return -1;
        for (unsigned i = 0; !host && i < n; i++)
            p[i] = (uint8_t)bus_load(c, phys + i, 1);
        if (host)
            memcpy(p, host, n);
        p += n;
        linear += n;
        size -= n;
    }
    return 0;
}

static int ctx_probe_write(struct x86_ctx *x, uint64_t linear, unsigned size, bool user)
{
    struct icpu *c = x->opaque;
    struct dp_range r;
    uint64_t phys;
    uint8_t *host;
    if (access_page(c, linear, X86_ACCESS_WRITE, user, &host, &phys, &r))
        return -1;
    uint64_t last = linear + (size ? size - 1 : 0);
    return (last ^ linear) & PAGE_MASK ? access_page(c, last, X86_ACCESS_WRITE, user, &host, &phys, &r) : 0;
}

/* Does a write tag for the page still stand? (Also true of the entry of the wrong kind: then it was not poisoned either.) */
static bool write_tag_holds(const struct icpu *c, uint64_t linear, bool user)
{
    uint64_t tag = (linear & PAGE_MASK) | c->tlb_generation;
    unsigned n = linear >> 12 & (ITLB_SIZE - 1);
    if (user)
        return atomic_load_explicit(&c->tlb_all[ITLB_USER * ITLB_SIZE + n].write_tag, memory_order_relaxed) == tag;
    return atomic_load_explicit(&c->tlb_all[ITLB_SUPER * ITLB_SIZE + n].write_tag, memory_order_relaxed) == tag ||
           atomic_load_explicit(&c->tlb_all[ITLB_SUPER_AC * ITLB_SIZE + n].write_tag, memory_order_relaxed) == tag;
}

static int ctx_write(struct x86_ctx *x, uint64_t linear, const void *data, unsigned size, bool user)
{
    struct icpu *c = x->opaque;
    const uint8_t *p = data;
    uint8_t *host;
    uint64_t phys = 0;
    struct dp_range r;
    if (((linear + size - 1) ^ linear) & PAGE_MASK && ctx_probe_write(x, linear, size, user))
        return -1;
    while (size) {
        unsigned n = DP_MIN(size, (unsigned)(DP_PAGE_SIZE - (linear & 0xfff)));
        if (access_page(c, linear, X86_ACCESS_WRITE, user, &host, &phys, &r))
            return -1;
        if (!host || (r.ram && r.readonly && r.ops)) {
            for (unsigned i = 0; i < n; i++)
                bus_store(c, phys + i, p[i], 1);
        } else if (!r.ram || !r.readonly) {
            memcpy(host, p, n);
            if (r.ram) { /* came through a walk, so the page may want to know */
                atomic_thread_fence(memory_order_seq_cst);
                dp_ram_mark_dirty(r.ram, (uint64_t)(host - r.ram->host), n);
            } else {
                atomic_signal_fence(memory_order_seq_cst);
                if (!write_tag_holds(c, linear, user))
                    mark_host(c, host, n);
            }
        }
        p += n;
        linear += n;
        size -= n;
    }
    return 0;
}

static uint64_t ctx_phys_load(struct x86_ctx *x, uint64_t phys, unsigned size)
{
    struct icpu *c = x->opaque;
    struct dp_range *r = &c->walked;
    phys &= c->address_mask;
    if (DP_UNLIKELY(phys - r->base >= r->size) && (!dp_space_find(c->memory, phys, r) || !r->ram))
        r->size = 0;
    if (DP_LIKELY(phys - r->base < r->size && phys - r->base <= r->size - size)) {
        const uint8_t *host = r->ram->host + r->ram_offset + (phys - r->base);
        return size == 8 ? *(volatile const uint64_t *)host : *(volatile const uint32_t *)host;
    }
    return dp_space_load(c->memory, phys, size);
}

static bool ctx_phys_compare_exchange(struct x86_ctx *x, uint64_t phys, uint64_t old, uint64_t new_, unsigned size)
{
    struct icpu *c = x->opaque;
    struct dp_range r;
    phys &= c->address_mask;
    if (!dp_space_find(c->memory, phys, &r) || !r.ram || r.readonly || phys - r.base > r.size - size)
        return true; /* tables outside RAM: the bits have nowhere to go */
    uint64_t offset = r.ram_offset + (phys - r.base);
    uint8_t *host = r.ram->host + offset;
    uint32_t old32 = (uint32_t)old;
    bool done = size == 8
                    ? __atomic_compare_exchange_n((uint64_t *)host, &old, new_, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
                    : __atomic_compare_exchange_n((uint32_t *)host, &old32, (uint32_t)new_, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    if (done && !dp_ram_write_is_free(r.ram, offset >> DP_PAGE_SHIFT))
        dp_ram_mark_dirty(r.ram, offset, size);
    return done;
}

static void ctx_flush(struct x86_ctx *x, enum x86_flush kind, uint64_t linear, unsigned pcid)
{
    interp_flush(x->opaque, kind, linear, pcid);
}

void interp_ctx_init(struct icpu *c)
{
    c->ctx = (struct x86_ctx){ .s = &c->s, .model = c->vm->model, .read = ctx_read, .write = ctx_write, .probe_write = ctx_probe_write,
                               .phys_load = ctx_phys_load, .phys_compare_exchange = ctx_phys_compare_exchange, .flush = ctx_flush,
                               .opaque = c };
}
