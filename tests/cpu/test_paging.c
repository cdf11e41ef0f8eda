/* test_paging.c - random accesses through page tables that change under them, judged by what a TLB may and may not remember.
 *
 * Model: eleven pages of the guest (eight of 4 KiB; three of a region that is one 2 MiB page or split) are mapped to a few frames. The host thread, called
 * by the guest after every operation, changes entries, or lets the guest load, store, execute (at CPL 0 and 3, single, in pairs, across pages) or
 * flush (INVLPG, MOV CR3 with and without bit 63, INVPCID of all types, CR4.PGE). For each page and PCID it keeps the translations that accesses
 * used since the last flush. An access must do what the entry in memory says, or succeed by one of those. It may fault only when the entry
 * in memory faults, with that code and exact CR2; a fault forgets its page, for data. Accessed and dirty bits are exact where nothing was remembered.
 * Frames hold a function, whose constant is stored to like any other place: self-modifying, aliased and remapped code, and DMA to code, are part of it.
 * argv: engine, seeds, operations each. Source: Intel SDM vol. 3 4.6-4.10, 8.1.3.
 */
#include <stdio.h>

#include "bare.h"

enum { SMALL = 8, PAGES = 11, FRAMES = 6, PCIDS = 11, MEMORY = 12, BOX = 0x2e000, SPLIT_PT = 0x2d000, CODE_AT = 0x100 };
#define LARGE_LINEAR (BARE_ALIAS + 0x200000)

__asm__(".pushsection .rodata\nkernel_ops: out %al, $0x83\n mov 0x2e000, %rax\n mov 0x2e008, %rbx\n mov 0x2e010, %rcx\n mov 0x2e018, %rdx\n jmp *%rax\n"
    "k_load: mov (%rbx), %ecx\n mov %rcx, 0x2e020\n jmp kernel_ops\n"
    "k_load8: mov (%rbx), %rcx\n mov %rcx, 0x2e020\n jmp kernel_ops\n"
    "k_movups: movups (%rbx), %xmm0\n movd %xmm0, 0x2e020\n jmp kernel_ops\n"
    "k_store: mov %ecx, (%rbx)\n jmp kernel_ops\n"
    "k_store8: mov %rcx, (%rbx)\n jmp kernel_ops\n"
    "k_inc: lock incl (%rbx)\n jmp kernel_ops\n"
    "k_pair: mov 0xff0(%rbx), %ecx\n mov %rcx, 0x2e020\n mov 0x1010(%rbx), %edx\n mov %rdx, 0x2e028\n jmp kernel_ops\n"
    "k_pair_store: mov %ecx, 0xff0(%rbx)\n mov %edx, 0x1010(%rbx)\n jmp kernel_ops\n"
    "k_exec: call *%rbx\n mov %rax, 0x2e020\n jmp kernel_ops\n"
    "k_invlpg: invlpg (%rbx)\n jmp kernel_ops\n"
    "k_cr3: mov %rcx, %cr3\n jmp kernel_ops\n"
    "k_pge: mov %cr4, %rax\n xor $0x80, %eax\n mov %rax, %cr4\n xor $0x80, %eax\n mov %rax, %cr4\n jmp kernel_ops\n"
    "k_cr0: mov %rcx, %cr0\n jmp kernel_ops\n"
    "k_invpcid: invpcid 0x2e030, %rcx\n jmp kernel_ops\n"
    "k_nothing: jmp kernel_ops\n"
    "k_user: push $0x23\n push $0x68000\n push $2\n push $0x2b\n push %rdx\n iretq\n"
    "k_halt: hlt\nkernel_ops_end:\n"
    "user_ops:\nu_load: mov (%rbx), %ecx\n int $0x80\n"
    "u_load8: mov (%rbx), %rcx\n int $0x80\n"
    "u_store: mov %ecx, (%rbx)\n int $0x80\n"
    "u_store8: mov %rcx, (%rbx)\n int $0x80\n"
    "u_inc: lock incl (%rbx)\n int $0x80\n"
    "u_exec: call *%rbx\n mov %rax, %rcx\n int $0x80\n"
    "user_ops_end:\n.popsection");
extern const uint8_t kernel_ops[], kernel_ops_end[], user_ops[], user_ops_end[], k_load[], k_load8[], k_movups[], k_store[], k_store8[], k_inc[], k_pair[],
    k_pair_store[], k_exec[], k_invlpg[], k_cr3[], k_pge[], k_cr0[], k_invpcid[], k_nothing[], k_user[], k_halt[], u_load[], u_load8[], u_store[], u_store8[],
    u_inc[], u_exec[];

/* A translation as it may be remembered: leaf flags, the frame of the address. */
struct leaf { uint64_t flags, phys; bool large, code; /* code: since a fault for instructions only, see judge_fault */ };
struct memory { struct leaf leaf[12]; unsigned count; };
enum access { NONE, LOAD, STORE, INC, EXEC };
struct one { unsigned page, offset, size; enum access access; uint64_t value; };

struct paging {
    struct bare *b;
    uint64_t random, operations, done, unique;
    struct memory own[PCIDS][PAGES], global[PAGES];
    unsigned pcid;
    bool wp, user;
    uint8_t *copy;               /* of RAM, as it should be */
    struct one part[2];          /* what the operation does, in order; the second may not be there */
    unsigned parts;
    bool crossing;               /* both parts are one instruction's: all or nothing */
    struct leaf before[2];
    uint64_t pte_before[2];
    bool sole[2];
    bool faulted;
    uint64_t error, cr2, result[2];
    const char *name;
};

static uint64_t rnd(struct paging *p)
{
    p->random ^= p->random << 13, p->random ^= p->random >> 7, p->random ^= p->random << 17;
    return p->random;
}
static unsigned below(struct paging *p, unsigned n) { return (unsigned)(rnd(p) >> 20) % n; }
static bool chance(struct paging *p, unsigned n) { return !below(p, n); }

static uint64_t linear_of(unsigned page)
{
    static const uint64_t offset[] = { 0, 0x1000, 0x1ff000 };
    return page < SMALL ? BARE_ALIAS + page * 0x1000 : LARGE_LINEAR + offset[page - SMALL];
}
static uint64_t *pde(struct bare *b) { return (uint64_t *)(b->mem + BARE_ALIAS_PD + 8); }
static uint64_t *pte_of(struct bare *b, unsigned page)
{
    if (page < SMALL)
        return bare_pte(b, linear_of(page));
    if (*pde(b) & 0x80)
        return pde(b);
    return (uint64_t *)(b->mem + SPLIT_PT) + (linear_of(page) >> 12 & 0x1ff);
}
static struct leaf leaf_of(struct bare *b, unsigned page)
{
    uint64_t e = *pte_of(b, page);
    bool large = page >= SMALL && *pde(b) & 0x80;
    uint64_t base = e & 0x000ffffffffff000ull;
    if (large)
        base = (base & ~0x1fffffull) + (linear_of(page) & 0x1ff000);
    return (struct leaf){ e & (1ull << 63 | 0x107), base, large };
}
static bool permits(const struct paging *p, const struct leaf *l, enum access a)
{
    if (!(l->flags & 1) || (l->code && a != EXEC) || (p->user && !(l->flags & 4)))
        return false;
    if (a == EXEC)
        return !(l->flags >> 63);
    return a == LOAD || l->flags & 2 || (!p->user && !p->wp);
}
static void note(struct memory *m, const struct leaf *l)
{
    for (unsigned i = 0; i < m->count; i++)
        if (m->leaf[i].flags == l->flags && m->leaf[i].phys == l->phys && m->leaf[i].large == l->large) {
            m->leaf[i].code = false;
            return;
        }
    if (m->count == DP_ARRAY_LEN(m->leaf)) /* forgetting is not an option: the oldest would be missed */
        fail_msg("too many translations to remember");
    m->leaf[m->count++] = *l;
}
/* Of a page in one PCID's memory or in the global one; a large one goes with all addresses of it. */
static void forget(struct memory *m, unsigned page)
{
    m[page].count = 0;
    for (unsigned q = SMALL; page >= SMALL && q < PAGES; q++) {
        unsigned n = 0;
        for (unsigned i = 0; i < m[q].count; i++)
            if (!m[q].leaf[i].large)
                m[q].leaf[n++] = m[q].leaf[i];
        m[q].count = n;
    }
}
static void forget_all(struct memory *m)
{
    for (unsigned i = 0; i < PAGES; i++)
        m[i].count = 0;
}

#define WRONG(...)                                                                                                                                     \
    do {                                                                                                                                               \
        fprintf(stderr, "operation %llu, %s, ring %d, PCID %u: ", (unsigned long long)p->done, p->name, p->user ? 3 : 0, p->pcid);                    \
        fail_msg(__VA_ARGS__);                                                                                                                         \
    } while (0)

static uint64_t load(const uint8_t *m, uint64_t at, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, m + at, size);
    return v;
}
/* Does the part's effect show in this translation's frame? Then the copy follows. */
static bool happened(struct paging *p, const struct one *o, const struct leaf *l, uint64_t got)
{
    uint64_t at = l->phys + o->offset, was = load(p->copy, at, o->size), is = load(p->b->mem, at, o->size), mask = o->size == 8 ? ~0ull : (1ull << o->size * 8) - 1;
    if (!permits(p, l, o->access))
        return false;
    if (o->access == LOAD)
        return got == was;
    if (o->access == EXEC)
        return (uint32_t)got == (uint32_t)load(p->copy, l->phys + CODE_AT + 1, 4);
    if (is != ((o->access == INC ? was + 1 : o->value) & mask) || is == was)
        return false;
    memcpy(p->copy + at, p->b->mem + at, o->size);
    return true;
}
static void judge_success(struct paging *p, unsigned k, uint64_t got)
{
    const struct one *o = &p->part[k];
    struct memory all = { { { 0 } }, 0 };
    all.leaf[all.count++] = p->before[k];
    const struct leaf *used = NULL;
    struct memory *own = &p->own[p->pcid][o->page], *global = &p->global[o->page];
    if (happened(p, o, &p->before[k], got))
        used = &p->before[k];
    for (unsigned i = 0; !used && i < own->count; i++)
        if (happened(p, o, &own->leaf[i], got))
            used = &own->leaf[i];
    for (unsigned i = 0; !used && i < global->count; i++)
        if (happened(p, o, &global->leaf[i], got))
            used = &global->leaf[i];
    if (!used)
        WRONG("page %u offset 0x%x: got 0x%llx by no translation that is known (entry 0x%llx; %u and %u remembered)", o->page, o->offset, (unsigned long long)got,
            (unsigned long long)p->pte_before[k], own->count, global->count);
    uint64_t now = *pte_of(p->b, o->page), full = p->pte_before[k] | 0x20 | (o->access == STORE || o->access == INC ? 0x40 : 0);
    if (p->sole[k] ? now != full : now & ~full || p->pte_before[k] & ~now)
        WRONG("page %u: entry 0x%llx became 0x%llx", o->page, (unsigned long long)p->pte_before[k], (unsigned long long)now);
    if (permits(p, &p->before[k], o->access))
        note(p->before[k].flags & 0x100 ? global : own, &p->before[k]);
}
static void judge_fault(struct paging *p, unsigned k)
{
    const struct one *o = &p->part[k];
    bool write = o->access == STORE || o->access == INC;
    uint64_t at = linear_of(o->page) + (o->access == EXEC ? CODE_AT : o->offset);
    uint64_t error = (p->before[k].flags & 1) | (write ? 2 : 0) | (p->user ? 4 : 0) | (o->access == EXEC ? 0x10 : 0);
    if (permits(p, &p->before[k], o->access))
        WRONG("page %u: fault 0x%x at 0x%llx, but the entry 0x%llx permits it", o->page, (unsigned)p->error, (unsigned long long)p->cr2, (unsigned long long)p->pte_before[k]);
    if (p->cr2 != at || p->error != error)
        WRONG("page %u: fault 0x%x at 0x%llx, should be 0x%x at 0x%llx", o->page, (unsigned)p->error, (unsigned long long)p->cr2, (unsigned)error, (unsigned long long)at);
    if (*pte_of(p->b, o->page) != p->pte_before[k])
        WRONG("page %u: a fault changed the entry 0x%llx to 0x%llx", o->page, (unsigned long long)p->pte_before[k], (unsigned long long)*pte_of(p->b, o->page));
    /* Another piece of a large page may stay. So may, by the interpreter's links between blocks, instructions: stricter processors forget them, too. */
    for (unsigned i = 0; i < p->own[p->pcid][o->page].count; i++)
        p->own[p->pcid][o->page].leaf[i].code = true;
    for (unsigned i = 0; i < p->global[o->page].count; i++)
        p->global[o->page].leaf[i].code = true;
}
static void judge(struct paging *p)
{
    if (!p->parts)
        return;
    unsigned faulty = p->parts; /* which part the fault is of */
    if (p->faulted)
        faulty = p->parts == 2 && (p->cr2 & ~0xfffull) == linear_of(p->part[1].page) ? 1 : 0;
    if (p->crossing && p->parts == 2 && !p->faulted) {
        judge_success(p, 0, p->part[0].access == LOAD ? (uint32_t)p->result[0] : 0);
        judge_success(p, 1, p->result[0] >> 32);
        return;
    }
    for (unsigned k = 0; k < p->parts && k < faulty && !p->crossing; k++)
        judge_success(p, k, p->result[k]);
    if (faulty < p->parts)
        judge_fault(p, faulty);
}
static void compare_frames(struct paging *p)
{
    for (unsigned i = 0; i < MEMORY; i++) {
        uint64_t at = i < FRAMES ? 0x300000 + i * 0x1000 : 0x800000 + (i - FRAMES) / 3 * 0x200000 + (linear_of(SMALL + (i - FRAMES) % 3) & 0x1ff000);
        if (memcmp(p->copy + at, p->b->mem + at, 0x1000))
            WRONG("frame 0x%llx changed", (unsigned long long)at);
    }
}

/* ---- the next operation ---- */
static uint64_t frame_of(struct paging *p) { return 0x300000 + below(p, FRAMES) * 0x1000; }
static uint64_t flags_of(struct paging *p)
{
    return (chance(p, 8) ? 0 : 1) | (chance(p, 4) ? 0 : 2) | (chance(p, 4) ? 0 : 4) | (chance(p, 3) ? 0x100 : 0) | (chance(p, 6) ? 1ull << 63 : 0) |
           (chance(p, 2) ? 0x20 : 0) | (chance(p, 4) ? 0x60 : 0);
}
static void change_entry(struct paging *p)
{
    struct bare *b = p->b;
    unsigned page = below(p, PAGES);
    if (page >= SMALL && chance(p, 2)) {
        if (chance(p, 2)) {
            *pde(b) = flags_of(p) | (chance(p, 2) ? 0x800000 : 0xa00000) | 0x80;
        } else {
            for (unsigned i = 0; i < 3; i++)
                dp_st64(b->mem + SPLIT_PT + (linear_of(SMALL + i) >> 12 & 0x1ff) * 8, flags_of(p) | frame_of(p));
            *pde(b) = SPLIT_PT | 0x27;
        }
    } else if (page >= SMALL && *pde(b) & 0x80) {
        *pde(b) = flags_of(p) | (chance(p, 2) ? 0x800000 : 0xa00000) | 0x80;
    } else {
        uint64_t *e = pte_of(b, page);
        switch (below(p, 4)) {
        case 0: *e ^= 2; break;                                    /* a right given or taken */
        case 1: *e = (*e & ~0x000ffffffffff000ull) | frame_of(p); break;
        case 2: *e &= ~0x60ull; break;
        default: *e = flags_of(p) | frame_of(p);
        }
    }
}
static void set_box(struct paging *p, const uint8_t *op, uint64_t rbx, uint64_t rcx, uint64_t rdx)
{
    dp_st64(p->b->mem + BOX, BARE_CODE + (uint64_t)(op - kernel_ops));
    dp_st64(p->b->mem + BOX + 8, rbx);
    dp_st64(p->b->mem + BOX + 16, rcx);
    dp_st64(p->b->mem + BOX + 24, rdx);
}
/* For accesses to data. */
static bool usable(const struct memory *m)
{
    for (unsigned i = 0; i < m->count; i++)
        if (!m->leaf[i].code)
            return true;
    return false;
}
static void part(struct paging *p, unsigned page, unsigned offset, unsigned size, enum access access, uint64_t value)
{
    unsigned k = p->parts++;
    p->part[k] = (struct one){ page, offset, size, access, value };
    p->before[k] = leaf_of(p->b, page);
    p->pte_before[k] = *pte_of(p->b, page);
    /* Parts that share an entry: the second sees what the first did to it. */
    const struct memory *own = &p->own[p->pcid][page], *global = &p->global[page];
    p->sole[k] = !(access == EXEC ? own->count || global->count : usable(own) || usable(global)) && !(page >= SMALL && *pde(p->b) & 0x80);
}
/* An engine that runs user code in a process maps pages around the one that is wanted, and one half of an access whose other half faults. Processors may as
 * well (SDM vol. 3 4.10.2.3), if the entry has its accessed bit. */
static void speculate(struct paging *p)
{
    for (unsigned page = 0; page < PAGES; page++) {
        struct leaf l = leaf_of(p->b, page);
        if ((*pte_of(p->b, page) & 0x25) == 0x25)
            note(l.flags & 0x100 ? &p->global[page] : &p->own[p->pcid][page], &l);
    }
}
static void access_page(struct paging *p)
{
    static const unsigned offsets[] = { 0x10, CODE_AT + 1, 0xff0, 0x800 };
    unsigned page = below(p, PAGES), offset = offsets[below(p, 4)], what = below(p, 9);
    bool next = page + 1 < SMALL || page == SMALL; /* its neighbour is a page of ours, too */
    uint64_t at = linear_of(page) + offset, a = ++p->unique * 0x10001, c = ++p->unique * 0x10001;
    const uint8_t *kernel = k_load, *user = u_load;
    p->user = chance(p, 3);
    if (p->user && hot_is_direct(bare_engine))
        speculate(p);
    if (what > 5 && !next)
        what = 0;
    switch (what) {
    case 0: part(p, page, offset, 4, LOAD, 0); break;
    case 1: part(p, page, offset, 4, LOAD, 0), kernel = k_movups; break;
    case 2: part(p, page, offset, 4, STORE, a), kernel = k_store, user = u_store; break;
    case 3: part(p, page, offset, 4, INC, 0), kernel = k_inc, user = u_inc; break;
    case 4: case 5: at = linear_of(page) + CODE_AT, part(p, page, CODE_AT, 4, EXEC, 0), kernel = k_exec, user = u_exec; break;
    case 6: case 7:
        at = linear_of(page) + 0xffc;
        p->crossing = true;
        part(p, page, 0xffc, 4, what == 6 ? LOAD : STORE, (uint32_t)a);
        part(p, page + 1, 0, 4, what == 6 ? LOAD : STORE, (uint32_t)c);
        kernel = what == 6 ? k_load8 : k_store8, user = what == 6 ? u_load8 : u_store8;
        a = (uint32_t)a | c << 32;
        break;
    default:
        p->user = false;
        at = linear_of(page);
        bool store = chance(p, 2);
        part(p, page, 0xff0, 4, store ? STORE : LOAD, (uint32_t)a);
        part(p, page + 1, 0x10, 4, store ? STORE : LOAD, (uint32_t)c);
        kernel = store ? k_pair_store : k_pair;
    }
    p->name = p->parts == 2 ? p->crossing ? "an access across pages" : "a pair of accesses" : "an access";
    if (what == 1)
        p->user = false;
    set_box(p, p->user ? k_user : kernel, at, a, p->user ? BARE_USER_CODE + (uint64_t)(user - user_ops) : c);
}
static void flush(struct paging *p)
{
    unsigned page = below(p, PAGES), pcid = below(p, PCIDS), type;
    switch (below(p, 6)) {
    case 0: case 1:
        set_box(p, k_invlpg, linear_of(page) + below(p, 4096), 0, 0);
        forget(p->own[p->pcid], page);
        forget(p->global, page);
        break;
    case 2: case 3:
        type = below(p, 2);
        set_box(p, k_cr3, 0, BARE_PML4 | pcid | (uint64_t)type << 63, 0);
        p->pcid = pcid;
        if (!type)
            forget_all(p->own[pcid]);
        break;
    case 4:
        type = below(p, 4);
        dp_st64(p->b->mem + BOX + 0x30, pcid);
        dp_st64(p->b->mem + BOX + 0x38, linear_of(page));
        set_box(p, k_invpcid, 0, type, 0);
        if (type == 0)
            forget(p->own[pcid], page);
        else if (type == 1)
            forget_all(p->own[pcid]);
        for (unsigned i = 0; type >= 2 && i < PCIDS; i++)
            forget_all(p->own[i]);
        if (type == 2)
            forget_all(p->global);
        break;
    default:
        set_box(p, chance(p, 2) ? k_pge : k_nothing, 0, 0, 0);
        if (dp_ld64(p->b->mem + BOX) == BARE_CODE + (uint64_t)(k_pge - kernel_ops)) {
            for (unsigned i = 0; i < PCIDS; i++)
                forget_all(p->own[i]);
            forget_all(p->global);
        }
    }
}
/* An entry can be remembered in so many versions only. */
static bool crowded(const struct paging *p)
{
    for (unsigned i = 0; i < PAGES; i++) {
        if (p->global[i].count >= 11)
            return true;
        for (unsigned q = 0; q < PCIDS; q++)
            if (p->own[q][i].count >= 11)
                return true;
    }
    return false;
}
static void on_hook(struct bare *b, unsigned what)
{
    struct paging *p = (struct paging *)(uintptr_t)b->arg[0];
    if (!p->user && !p->faulted) {
        p->result[0] = bare_ld(b, BOX + 0x20);
        p->result[1] = bare_ld(b, BOX + 0x28);
    }
    if (p->part[0].access == LOAD && p->parts && p->part[0].size == 4 && !p->crossing)
        p->result[0] = (uint32_t)p->result[0];
    judge(p);
    p->parts = 0;
    p->user = p->faulted = p->crossing = false;
    p->name = "another operation";
    b->traps = 0;
    if (p->done % 64 == 0)
        compare_frames(p);
    if (++p->done >= p->operations) {
        set_box(p, k_halt, 0, 0, 0);
        return;
    }
    if (crowded(p)) {
        set_box(p, k_pge, 0, 0, 0);
        for (unsigned i = 0; i < PCIDS; i++)
            forget_all(p->own[i]);
        forget_all(p->global);
        return;
    }
    if (chance(p, 4))
        change_entry(p);
    if (chance(p, 40)) { /* DMA into a function */
        uint64_t at = frame_of(p) + CODE_AT + 1;
        uint32_t v = (uint32_t)(++p->unique * 0x10001);
        assert_int_equal(dp_space_write(b->memory, at, &v, 4), 0);
        memcpy(p->copy + at, &v, 4);
    }
    unsigned n = below(p, 16);
    if (n < 3) {
        flush(p);
    } else if (n == 3) {
        p->wp = chance(p, 2);
        set_box(p, k_cr0, 0, 0x80000033 | (p->wp ? X86_CR0_WP : 0), 0);
    } else {
        access_page(p);
    }
}
static void on_trap(struct bare *b, struct bare_frame *f)
{
    struct paging *p = (struct paging *)(uintptr_t)b->arg[0];
    if (f->vector == X86_PF_) {
        p->faulted = true;
        p->error = f->error;
        p->cr2 = f->cr2;
        p->result[0] = bare_ld(b, BOX + 0x20); /* of the first of a pair */
    } else if (f->vector == 0x80 && p->user) {
        p->result[0] = f->rcx;
    } else {
        WRONG("vector %u error 0x%x at 0x%llx", (unsigned)f->vector, (unsigned)f->error, (unsigned long long)f->rip);
    }
    f->rip = BARE_CODE;
    f->cs = BARE_CS64;
    f->ss = BARE_DS;
    f->rsp = BARE_STACKS + 0x2000;
    f->rflags = 2;
}

static uint64_t seeds = 6, operations = 20000;
static void test_random(void **state)
{
    struct bare *b = *state;
    static struct paging paging;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        struct paging *p = &paging;
        *p = (struct paging){ .b = b, .random = seed * 0x9e3779b97f4a7c15ull, .operations = operations, .wp = true, .name = "the start" };
        for (unsigned i = 0; i < SMALL; i++)
            *bare_pte(b, linear_of(i)) = flags_of(p) | frame_of(p);
        *pde(b) = 0x800000 | 0x87;
        for (unsigned i = 0; i < MEMORY; i++) {
            uint64_t at = i < FRAMES ? 0x300000 + i * 0x1000 : 0x800000 + (i - FRAMES) / 3 * 0x200000 + (linear_of(SMALL + (i - FRAMES) % 3) & 0x1ff000);
            uint8_t page[4096];
            for (unsigned k = 0; k < 1024; k++)
                dp_st32(page + k * 4, (uint32_t)++p->unique * 0x10001);
            page[CODE_AT] = 0xb8, page[CODE_AT + 5] = 0xc3; /* MOV EAX, imm32; RET */
            dp_space_write(b->memory, at, page, sizeof page);
        }
        p->copy = malloc(BARE_RAM);
        memcpy(p->copy, b->mem, BARE_RAM);
        b->arg[0] = (uint64_t)(uintptr_t)p;
        b->on_hook = on_hook;
        b->on_trap = on_trap;
        bare_put(b, BARE_CODE, kernel_ops, kernel_ops_end);
        bare_put(b, BARE_USER_CODE, user_ops, user_ops_end);
        struct x86_state s = bare_long(b, 0, BARE_CODE);
        s.cr4 |= X86_CR4_PCIDE | X86_CR4_PGE;
        bare_run(b, &s);
        assert_int_equal(b->cpu[0].exit.kind, DP_EXIT_HALT);
        assert_int_equal(p->done, operations);
        free(p->copy);
    }
}

int main(int argc, char **argv)
{
    struct x86_cpuid_model model;
    uint64_t host[2];
    bare_model = "x86-64-v3"; /* has PCIDs */
    x86_cpuid_host(host);
    if (x86_cpuid_model(bare_model, &model, NULL) || x86_cpuid_fit(&model, host, NULL))
        return 77; /* meson: skipped */
    if (argc > 1)
        bare_engine = argv[1];
    if (argc > 2)
        seeds = strtoull(argv[2], NULL, 0);
    if (argc > 3)
        operations = strtoull(argv[3], NULL, 0);
    const struct CMUnitTest tests[] = { cmocka_unit_test_setup_teardown(test_random, bare_setup, bare_teardown) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
