/* engine/translate/engine.c - the translator as an engine: life cycle, going in and out of translated code, invalidation between threads.
 *
 * Model: the engine is the interpreter with a struct interp_accel: state, events, system
 * instructions and the run loop are the interpreter's.
 * Threads: a processor's caches and tables are touched by its own thread. Other threads leave wishes (pages whose code changed, write
 * permissions to be revoked) and, when the processor is inside translated code, kick it out by a signal and wait until it is: after that no
 * stale translation runs and no store through a revoked entry is on its way.
 */
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#include "engine/interp/interp.h"
#include "engine/interp/interp_sse.h"
#include "engine/translate/direct.h"
#include "engine/translate/dump.h"
#include "engine/translate/translate.h"
#include "engine/translate/translate_internal.h"

#define WARM 2 /* times a place is interpreted before it is translated */

/* ---- wishes of other threads ---- */

static void grant(struct tcpu *t)
{
    pthread_mutex_lock(&t->lock);
    atomic_store(&t->wish, 0);
    if (t->pending_all) {
        cache_empty(t);
        direct_invalidate(t, NULL, 0);
        direct_flush_all(t);
    }
    for (unsigned i = 0; !t->pending_all && i < t->pending_count; i++) {
        if (t->pending[i].revoke) {
            direct_revoke(t, t->pending[i].ram, t->pending[i].page);
        } else {
            cache_invalidate(t, t->pending[i].ram, t->pending[i].page);
            direct_invalidate(t, t->pending[i].ram, t->pending[i].page);
        }
    }
    if (t->flush_writes)
        space_revoke_writes(t);
    t->pending_count = 0;
    t->pending_all = t->flush_writes = false;
    pthread_mutex_unlock(&t->lock);
}

static void signal_inside(struct tcpu *t)
{
    pid_t thread = atomic_load(&t->thread);
    if (atomic_load(&t->inside) && thread && !direct_kick(t))
        syscall(SYS_tgkill, getpid(), thread, signals_kick_number());
}

/* Returns when the processor is outside of translated code, or has been since the wish was made. A processor in a
 * slow path (its page walk set a bit in a page that holds code) does not wait: two would wait for each other. Nothing
 * can rely on when such a bit appears in code. */
static void wait_outside(struct tcpu *t)
{
    if (atomic_load(&t->thread) == (pid_t)syscall(SYS_gettid))
        return;
    signal_inside(t);
    for (unsigned spins = 0; !translate_ctx.t && atomic_load(&t->inside) && atomic_load(&t->wish); spins++)
        if (spins > 100)
            sched_yield();
}

/* Every processor is to do something about a page; returns when none runs code or uses an entry that is older. */
static void wish_of_all(struct tvm *v, struct dp_ram *ram, uint64_t page, bool revoke)
{
    for (unsigned i = 0; i < v->vm.cpu_count; i++) {
        struct tcpu *t = v->cpu[i];
        if (!t)
            continue;
        pthread_mutex_lock(&t->lock);
        if (t->pending_count == PENDING_PAGES) {
            t->pending_all = true;
        } else {
            t->pending[t->pending_count].ram = ram;
            t->pending[t->pending_count].revoke = revoke;
            t->pending[t->pending_count++].page = page;
        }
        atomic_store(&t->wish, 1);
        pthread_mutex_unlock(&t->lock);
    }
    for (unsigned i = 0; i < v->vm.cpu_count; i++)
        if (v->cpu[i])
            wait_outside(v->cpu[i]);
}

static void on_code_written(void *opaque, struct dp_ram *ram, uint64_t page)
{
    struct tvm *v = opaque;
    DP_TRACE(v->vm.trace, DP_TRACE_SMC, "code in page 0x%llx of %s was overwritten", (unsigned long long)page, ram->name);
    alias_unprotect(v, ram, page);
    wish_of_all(v, ram, page, false);
}
static void on_code_marked(void *opaque, struct dp_ram *r, uint64_t page)
{
    alias_protect(opaque, r, page);
    if (DP_UNLIKELY(alias_direct_revoked(opaque, r, page)))
        wish_of_all(opaque, r, page, true);
}
static void on_dirty_cleared(void *opaque, struct dp_ram *r)
{
    struct tvm *v = opaque;
    (void)r;
    for (unsigned i = 0; i < v->vm.cpu_count; i++)
        if (v->cpu[i]) {
            pthread_mutex_lock(&v->cpu[i]->lock);
            v->cpu[i]->flush_writes = true;
            atomic_store(&v->cpu[i]->wish, 1);
            pthread_mutex_unlock(&v->cpu[i]->lock);
        }
    for (unsigned i = 0; i < v->vm.cpu_count; i++)
        if (v->cpu[i])
            wait_outside(v->cpu[i]);
}
/* The interpreter's listener has set what makes the processors drop everything; they only have to come out. */
static void on_changed(void *opaque, struct dp_space *s)
{
    struct tvm *v = opaque;
    (void)s;
    for (unsigned i = 0; i < v->vm.cpu_count; i++)
        if (v->cpu[i])
            signal_inside(v->cpu[i]);
}

/* ---- the interpreter's calls ---- */

static void accel_flush(struct icpu *c, enum x86_flush kind, uint64_t linear, unsigned pcid)
{
    space_flush(c->accel_data, kind, linear, pcid);
}
static void accel_forget(struct icpu *c, uint64_t linear) { space_forget_page(c->accel_data, linear); }
static void accel_filled(struct icpu *c, unsigned kind, uint64_t linear, bool writable, bool global, uint64_t page_size, struct dp_ram *ram,
                         uint64_t offset)
{
    space_set(c->accel_data, table_kind(c, kind), linear, writable, ram, offset, global, page_size);
}

/* Translated code of CPL 0 may have changed AC, and with it the kind of access. */
static bool sync_ac(const struct tctx *x, struct icpu *c)
{
    if (!((x->system_flags ^ c->s.rflags) & X86_AC))
        return false;
    c->s.rflags ^= X86_AC;
    c->tlb = c->tlb_all + (c->s.rflags & X86_AC ? ITLB_SUPER_AC : ITLB_SUPER) * ITLB_SIZE;
    return true;
}

static bool canonical(uint64_t a) { return (uint64_t)((int64_t)(a << 16) >> 16) == a; }

/* A miss, or an access near the end of a page. */
static uint32_t slow_path(struct tctx *x)
{
    struct icpu *c = x->c;
    struct tcpu *t = x->t;
    const struct tslow *slow = cache_numbered(t, x->record);
    uint32_t site = slow->site;
    sync_ac(x, c);
    unsigned length = site >> SITE_LENGTH_SHIFT & 0xfff;
    uint64_t address = slow->base == TSLOW_R14 ? x->save_r14 : c->s.r[slow->base] + (uint64_t)(int64_t)slow->disp,
             last = address + length - 1;
    x->rip = x->page + (site & 0xfff);
    x->go = (uint64_t)(uintptr_t)t->rx + slow->back;
    atomic_signal_fence(memory_order_seq_cst);
    /* a kick that came before x->go was set is lost, but not its reason */
    if (DP_UNLIKELY(atomic_load(&c->attention) | atomic_load(&t->wish))) {
        x->reason = LEAVE_KICK;
        return 1;
    }
    if (site & SITE_X87) {
        x87_enter(x, t);
        return 0;
    }
    if (((address ^ last) & PAGE_MASK) || !canonical(address)) {
        x->reason = site & SITE_GROUP && canonical(address) ? LEAVE_UNGROUPED : LEAVE_INTERPRET;
        return 1;
    }
    const struct ttable *b = space_table(t, table_kind(c, access_kind(c)));
    uint64_t *entry = space_entry(b, address);
    if (!*entry || site & SITE_REFUSED) {
        c->counters.table_misses += !*entry;
        DP_TRACE(c->vm->trace, DP_TRACE_TABLES, "cpu%u: miss at 0x%llx, %s of 0x%llx", c->index, (unsigned long long)x->rip,
                 site & SITE_WRITE ? "write" : "read", (unsigned long long)address);
        c->ctx.fault.vector = 0;
        if (!interp_fill_data(c, address, site & SITE_WRITE ? X86_ACCESS_WRITE : X86_ACCESS_READ) || !*entry) {
            x->reason = site & SITE_SOLE && c->ctx.fault.vector == X86_PF_ && !c->by_blocks ? LEAVE_RAISE : LEAVE_INTERPRET;
            return 1;
        }
        if (DP_UNLIKELY(atomic_load(&t->wish))) { /* maybe of our own: the walk set a bit in a page that holds code */
            x->reason = LEAVE_KICK;
            return 1;
        }
        if (site & SITE_REFUSED) { /* it may be written now, if only by the interpreter */
            x->reason = LEAVE_INTERPRET;
            return 1;
        }
    }
    x->found = *entry;
    /* A kick that came meanwhile redirected x->go to the way out; x->rip is right for it. */
    return 0;
}

/* See translate_set_kick_after. */
static void count_from(struct tctx *x, const struct tcpu *t)
{
    x->counted_go = x->go;
    x->go = t->stub_count;
}

/* Called from stub_slow, on the host's stack with the guest's registers in c->s. */
uint32_t translate_slow(struct tctx *x)
{
    uint32_t leave = slow_path(x);
    if (DP_UNLIKELY(x->t->countdown))
        count_from(x, x->t);
    return leave;
}

/* The block at rip. NULL: to be interpreted (cold, not in RAM, faults). */
static struct tblock *find(struct tcpu *t, uint64_t rip, uint32_t variant, bool *global)
{
    struct icpu *c = t->c;
    struct dp_ram *ram, *ram2;
    uint64_t offset, offset2, phys2 = 0;
    bool second = true;
    *global = false;
    if (interp_locate_code(c, rip, &ram, &offset, global) || !ram || !alias_of(t->v, ram)) /* without an alias nobody tells of writes */
        return NULL;
    uint64_t next = mode_next_page(c->mode, rip);
    if ((rip & 0xfff) > DP_PAGE_SIZE - 15 && next && !interp_locate_code(c, next, &ram2, &offset2, &second) && ram2 && alias_of(t->v, ram2))
        phys2 = (uint64_t)(uintptr_t)ram2->host + (offset2 & PAGE_MASK);
    *global &= second;
    uint64_t host = (uint64_t)(uintptr_t)ram->host + offset;
    uint32_t mode = c->mode | variant;
    struct tblock *b = cache_find(t, host, mode, phys2);
    if (!b) {
        if (dp_ram_code_is_volatile(ram, offset >> DP_PAGE_SHIFT) || !cache_warm(t, host, t->is_direct ? 0 : t->v->warm))
            return NULL;
        if (!cache_has_room(t)) {
            x87_leave(&translate_ctx, t); /* while its last instruction can be told from the host's */
            cache_empty(t);
        }
        b = translate_block(t, rip, ram, offset, mode);
    }
    return b->count ? b : NULL;
}

/* Of the translation that find() went by. */
static uint64_t code_page_size(struct icpu *c, uint64_t rip) { return c->tlb_cold[interp_fetch_tlb(c, rip) - c->tlb_all].large; }

static void set_gs(struct tctx *x, const uint8_t *base)
{
    if (x->gs != (uint64_t)(uintptr_t)base) {
        x->gs = (uint64_t)(uintptr_t)base;
        __asm__ volatile("wrgsbase %0" : : "r"(base));
    }
}

/* What 32-bit code relies on: upper halves of registers are zero (SDM vol. 1 3.4.1.1: undefined after a switch from 64-bit mode), and
 * addresses in FS and GS that only their limit or type refuses are non-canonical. */
static void enter32(struct tctx *x, struct icpu *c)
{
    for (unsigned r = X86_RAX; r <= X86_RDI; r++)
        c->s.r[r] = (uint32_t)c->s.r[r];
    for (unsigned k = 0; k < 2; k++) {
        const struct x86_seg *g = &c->s.seg[k ? X86_GS : X86_FS];
        bool whole = g->limit == 0xffffffffu && !(g->attr & (X86_ATTR_UNUSABLE | 8 | 4)) && (g->attr & 2);
        x->segpoison[k] = whole ? 0 : 1ull << 47;
    }
}

static const char *leave_name(const struct tctx *x)
{
    switch ((enum leave_reason)x->reason) {
    case LEAVE_LINK: return "a jump that is not linked";
    case LEAVE_LOOKUP: return "a jump that is not in the jump cache";
    case LEAVE_HELPER: return "for C";
    case LEAVE_INTERPRET: return "not for translated code";
    case LEAVE_UNGROUPED: return "accesses that cross pages";
    case LEAVE_FAULT: return "a fault";
    case LEAVE_RAISE: return "a page fault";
    case LEAVE_KICK: return "kicked";
    case LEAVE_X87: return "x87";
    }
    return "?";
}

/* A jump cache holds code of one mode. */
static void use_table(struct tcpu *t, struct tctx *x, struct ttable *table)
{
    if (DP_UNLIKELY(table->mode != t->c->mode)) {
        space_flush_jumps(table, false);
        table->mode = t->c->mode;
    }
    if (table->shared)
        return;
    set_gs(x, table->base);
    x->other_table = 0;
    if (!interp_cpl(t->c)) {
        const struct ttable *other = &t->current->table[table_kind(t->c, ITLB_SUPER + ITLB_SUPER_AC - access_kind(t->c))];
        if (other->base && other->mode == t->c->mode)
            x->other_table = (uint64_t)(uintptr_t)other->base;
    }
}

/* The parts of the canonical state that struct tctx holds meanwhile. */
static void load_context(struct tctx *x, struct icpu *c, uint64_t arith)
{
    if (mode_code32(c->mode))
        enter32(x, c);
    x->flags = (arith & 0xff) << 8 | (arith >> 11 & 1);
    x->r13 = c->s.r[X86_R13];
    x->r14 = c->s.r[X86_R14];
    x->r15 = c->s.r[X86_R15];
    x->segbase[0] = c->segbase[X86_FS];
    x->segbase[1] = c->segbase[X86_GS];
    x->kernel_gs_base = c->s.kernel_gs_base;
    system_load_tsc(x, c);
    x->system_flags = (c->s.rflags & ~(uint64_t)X86_ARITH) | 2;
}
static uint64_t arith_flags(const struct tctx *x) { return (x->flags >> 8 & (X86_ARITH & 0xff)) | (x->flags & 1 ? X86_OF : 0); }
static void store_context(const struct tctx *x, struct icpu *c)
{
    c->s.r[X86_R13] = x->r13;
    c->s.r[X86_R14] = x->r14;
    c->s.r[X86_R15] = x->r15;
    c->s.seg[X86_GS].base = c->segbase[X86_GS] = x->segbase[1];
    c->s.kernel_gs_base = x->kernel_gs_base;
    c->s.rflags = x->system_flags;
}

/* The host's MXCSR has the guest's masks while translated code runs. */
static void enter_mxcsr(struct icpu *c)
{
    if (DP_UNLIKELY(c->xm_unmasked)) {
        interp_fpu_save(c);
        sse_host_set_mxcsr(c->s.mxcsr);
    }
}
static void leave_mxcsr(struct icpu *c)
{
    if (DP_UNLIKELY(c->xm_unmasked)) {
        c->s.mxcsr = sse_host_mxcsr();
        sse_host_set_mxcsr(c->s.mxcsr | MXCSR_MASKS);
    }
}

/* Runs from a place in the code of a page until translated code leaves; the reason is in x. */
static void run_block(struct tcpu *t, struct tctx *x, uint64_t page, uint64_t rip, uint64_t code)
{
    x->page = page;
    x->rip = rip;
    x->go = code;
    if (DP_UNLIKELY(t->countdown))
        count_from(x, t);
    x->t = t;
    atomic_store(&t->inside, 1); /* before looking at what others may have asked for */
    if (DP_LIKELY(!(atomic_load(&t->c->attention) | atomic_load(&t->wish))))
        ((void (*)(void))(uintptr_t)t->stub_enter)();
    else
        x->reason = LEAVE_KICK;
    x->t = NULL;
    atomic_store_explicit(&t->inside, 0, memory_order_release);
}

/* After a system instruction: may translated code go on at once? */
static bool still_ours(const struct icpu *c)
{
    unsigned lines = atomic_load_explicit(&c->lines, memory_order_relaxed);
    return mode_translatable(c->mode) && !(c->s.rflags & X86_TF) && !(c->by_blocks && c->s.rflags & X86_RF) && !c->watching &&
           !c->pending_db && !(c->s.sti_shadow | c->s.movss_shadow) && !(lines & ~(1u << DP_LINE_INTR)) &&
           !((c->s.rflags & X86_IF) && lines) && c->s.run_state == X86_RUNNING;
}

/* How many instructions of the block ran before it was left. Blocks run by_blocks are not linked, so it was this one. */
static unsigned instructions_done(const struct tblock *b, const struct tctx *x)
{
    unsigned done = 0, at = (unsigned)(x->reason == LEAVE_HELPER ? x->site : x->rip) & 0xfff;
    switch ((enum leave_reason)x->reason) {
    case LEAVE_LINK: {
        const struct tlink *link = cache_numbered(x->c->accel_data, x->record);
        return link->done - !canonical(x->page + (uint64_t)(int64_t)link->target);
    }
    case LEAVE_LOOKUP: return (x->site >> SITE_DONE_SHIFT & 0xff) - !canonical(x->rip);
    default:
        while (done < b->count && b->insn[done].guest != at)
            done++;
        return done;
    }
}

static void count(struct tcpu *t, unsigned instructions)
{
    t->c->instructions += instructions;
    t->counted += instructions;
}

/* ---- going in ---- */

/* Whose code runs, by which table: chosen anew when the mode may be another. */
struct course {
    struct tcpu *t, *k;      /* the processor; whose code cache: its own or that of a direct space */
    struct tdirect *d;       /* NULL: here */
    struct ttable *table;
    bool user;
};

static bool choose(struct course *o)
{
    struct icpu *c = o->t->c;
    unsigned kind = access_kind(c);
    if (!mode_translatable(c->mode) || kind == ITLB_EMPTY)
        return false;
    o->d = direct_choose(o->t);
    o->k = o->d ? &o->d->cpu : o->t;
    o->table = o->d ? &o->k->space[0].table[0] : space_table(o->t, table_kind(c, kind));
    o->user = kind == ITLB_USER;
    return o->table;
}

/* Lets code run from there until it leaves. Behind the last instruction of a page it is that page's
 * code still. False: the guest's state is lost. */
static bool run(struct course *o, struct tctx *x, uint64_t page, uint64_t rip, uint64_t code)
{
    struct icpu *c = o->t->c;
    x->system_flags &= ~(uint64_t)X86_RF; /* after IRET: without breakpoints the next instruction spends it */
    x->refused = NULL;
    if (o->d)
        return !direct_run(o->d, x, page, rip, code);
    uint64_t since = o->user ? __rdtsc() : 0;
    run_block(o->t, x, page, rip, code);
    if (o->user)
        direct_note_run(o->t, __rdtsc() - since, x->reason);
    if (sync_ac(x, c))
        o->table = space_table(o->t, table_kind(c, access_kind(c)));
    return true;
}

/* What tctx.record or op names. A runner's may be checked, though only our own code has written it. */
static void *numbered(const struct course *o, uint64_t number)
{
    return number < cache_number(o->k, o->k->arena + o->k->arena_used) ? cache_numbered(o->k, number) : NULL;
}

/* The block of one instruction for a struct top. NULL: no room. */
static struct iblock *lower_op(struct tcpu *k, uint64_t rip)
{
    struct icpu *c = k->c;
    struct dp_ram *ram;
    uint64_t offset;
    struct x86_insn i;
    if (!cache_has_room(k) || interp_locate_code(c, rip, &ram, &offset, NULL) || !ram)
        return NULL;
    uint32_t generation = atomic_load(&ram->code_generation[offset >> DP_PAGE_SHIFT]);
    uint8_t bytes[16];
    unsigned avail = DP_MIN(15u, (unsigned)(DP_PAGE_SIZE - (offset & 0xfff)));
    memcpy(bytes, ram->host + offset, avail);
    if (!atomic_load(&ram->has_code[offset >> DP_PAGE_SHIFT]) || x86_decode(bytes, avail, c->mode & IMODE_CODE, &i) <= 0 ||
        i.row->flags & X86_F_BRANCH)
        return NULL;
    return interp_lower_one(c, &i, ram, offset, generation, cache_alloc(k, INTERP_ONE_SIZE));
}

/* Lets the interpreter do the instruction at r[RIP]. It may fault, and then accel_enter is left for
 * good: everything is as the run loop wants it. */
static bool run_op(const struct course *o, struct tctx *x, struct top *p)
{
    struct icpu *c = o->t->c;
    if (!p->block || !interp_block_valid(p->block))
        p->block = lower_op(o->k, c->s.r[X86_RIP]);
    if (!p->block)
        return false;
    x87_leave(x, o->t);
    leave_mxcsr(c);
    interp_set_arith(c, arith_flags(x));
    c->repeating = false;
    interp_execute(c, p->block);
    c->block = NULL;
    enter_mxcsr(c);
    return true;
}

/* LEAVE_HELPER: the instruction at tctx.site. False: the interpreter's run loop is to do it. *code: where to go on, 0: to be found. */
static bool help(struct course *o, struct tctx *x, uint64_t *code)
{
    struct tcpu *t = o->t;
    struct icpu *c = t->c;
    uint64_t rip = c->s.r[X86_RIP] = x->page + x->site;
    uint32_t mode = c->mode;
    *code = 0;
    c->counters.exits_helper++;
    store_context(x, c);
    if (x->helper == HELPER_OP) {
        struct top *p = numbered(o, x->op);
        if (c->by_blocks || !p || !run_op(o, x, p))
            return false;
        if (p->keeps_code && c->mode == mode && c->s.r[X86_RIP] != rip && !(atomic_load(&c->attention) | atomic_load(&t->wish)))
            *code = p->back;
        load_context(x, c, interp_flags(c));
        return true;
    }
    c->s.rflags |= arith_flags(x);
    if (!x->helper || !system_helper(c, x->helper))
        return false;
    if (c->by_blocks)
        count(t, 1);
    interp_update_mode(c);
    load_context(x, c, c->s.rflags);
    return true;
}

/* Where the guest code at rip, in the page of a block, is. */
static uint64_t block_host(const struct tblock *b, uint64_t rip) { return (b->host & PAGE_MASK) | (rip & 0xfff); }

/* The block at rip was found: whoever comes there again is to find it by itself: by the link that led here, or by the jump cache. */
static void lead_there(struct course *o, struct tctx *x, struct tlink *link, struct tblock *b, uint64_t rip, bool global)
{
    struct tcpu *k = o->k;
    uint64_t code = (uint64_t)(uintptr_t)k->rx + b->code, page_size = code_page_size(k->c, rip);
    o->t->chained = true;
    space_enter_page(k, o->table, b->page, rip, global, page_size);
    if (link && link->cell_back) {
        if (cache_link_far(k, o->table, link, b, x->page, rip, global, page_size)) {
            k->c->counters.links++;
            return;
        }
    } else if (link && !b->phys2 && link->from == cache_number(k, b->page)) {
        /* only within a page of RAM: the address may lead to another one by now */
        struct emitter e = {NULL, k->rx - k->rw};
        emit_patch(&e, k->rw + link->patch, code);
        k->c->counters.links++;
        return;
    }
    space_set_jump(k, o->table, rip, code, b->phys2 != 0, global, page_size);
}

/* Where to go on after code left: what it left for says it, step by step. */
struct way {
    uint64_t rip, code;   /* code: host code that is known for rip, 0: to be found */
    uint32_t variant;     /* of the block */
    struct tlink *link;   /* that led to rip; NULL: none did */
};
enum next {
    NEXT_FIND,      /* go on at rip */
    NEXT_KNOWN,     /* go on at rip, in way.code */
    NEXT_OUT,       /* back to the run loop, which may call again at once */
    NEXT_INTERPRET, /* back to the run loop: the interpreter has to do something first */
};

/* LEAVE_LINK. A target that is no address: the branch faults. */
static inline enum next follow_link(struct course *o, struct tctx *x, struct way *w)
{
    struct tlink *link = numbered(o, x->record);
    w->rip = link ? x->page + (uint64_t)(int64_t)link->target : w->rip;
    if (DP_UNLIKELY(!link || !canonical(w->rip))) {
        if (link && link->site != FAR_NONE)
            w->rip = x->page + link->site;
        return NEXT_INTERPRET;
    }
    w->link = link;
    o->t->c->s.r[X86_RSP] += (uint64_t)(int64_t)link->adjust;
    return NEXT_FIND;
}

/* LEAVE_LOOKUP. */
static inline enum next follow_jump(struct course *o, struct tctx *x, struct way *w)
{
    struct icpu *c = o->t->c;
    c->counters.lookups++;
    if (DP_UNLIKELY(!canonical(w->rip))) {
        if (!(x->site & SITE_NONE)) /* the branch faults; SITE_NONE: execution ran on to there */
            w->rip = x->page + (x->site & 0xfff);
        if (x->site & SITE_UNDO) /* the call had pushed already. Not through the table: others may have protected the page */
            (void)c->ctx.write(&c->ctx, c->s.r[X86_RSP] - 8, &x->undo, 8, interp_cpl(c) == 3);
        return NEXT_INTERPRET;
    }
    c->s.r[X86_RSP] = mode_wrap(c->mode, c->s.r[X86_RSP] + (uint64_t)(int64_t)x->adjust);
    return NEXT_FIND;
}

/* LEAVE_HELPER. */
static inline enum next do_helper(struct course *o, struct tctx *x, struct way *w)
{
    struct icpu *c = o->t->c;
    const struct tcpu *was = o->k;
    bool done = help(o, x, &w->code);
    w->rip = mode_wrap(c->mode, c->s.r[X86_RIP]);
    if (!done)
        return NEXT_INTERPRET;
    if (!still_ours(c) || !choose(o))
        return NEXT_OUT;
    use_table(o->t, x, o->table);
    return w->code && o->k == was ? NEXT_KNOWN : NEXT_FIND;
}

/* LEAVE_RAISE. */
static inline enum next raise_fault(struct course *o, struct tctx *x, struct way *w)
{
    struct icpu *c = o->t->c;
    store_context(x, c);
    c->s.r[X86_RIP] = mode_wrap(c->mode, w->rip);
    interp_set_arith(c, arith_flags(x));
    interp_raise(c);
    w->rip = c->s.r[X86_RIP];
    load_context(x, c, interp_flags(c));
    if (!still_ours(c) || !choose(o))
        return NEXT_OUT;
    use_table(o->t, x, o->table);
    return NEXT_FIND;
}

/* LEAVE_FAULT: the interpreter does it. A store that was refused often will look first. */
static inline enum next note_fault(struct course *o, struct tctx *x, const struct way *w)
{
    struct tcpu *t = o->t;
    t->c->counters.exits_fault++;
    if (x->refused && cache_refuse_store(t, block_host(x->refused, w->rip)))
        cache_invalidate(t, x->refused->page->ram, x->refused->page->number); /* blocks of a page die together: all are made anew */
    return NEXT_INTERPRET;
}

static inline enum next after_leaving(struct course *o, struct tctx *x, struct way *w)
{
    switch ((enum leave_reason)x->reason) {
    case LEAVE_LINK: return follow_link(o, x, w);
    case LEAVE_LOOKUP: return follow_jump(o, x, w);
    case LEAVE_HELPER: return do_helper(o, x, w);
    case LEAVE_RAISE: return raise_fault(o, x, w);
    case LEAVE_UNGROUPED: w->variant = MODE_UNGROUPED; return NEXT_FIND;
    case LEAVE_KICK: o->t->c->counters.exits_kick++; return NEXT_OUT;
    case LEAVE_FAULT: return note_fault(o, x, w);
    case LEAVE_INTERPRET: case LEAVE_X87: return NEXT_INTERPRET;
    }
    return NEXT_FIND;
}

/* Where code is for a way on, and who comes there again finds it by itself. *b: the block, if it had to be found. */
static inline enum next find_next(struct course *o, struct tctx *x, struct way *w, struct tblock **b)
{
    if ((x->reason == LEAVE_HELPER || x->reason == LEAVE_RAISE) && (w->code = space_jump(o->table, w->rip)))
        return NEXT_KNOWN;
    bool global;
    unsigned dropped = o->k->drops;
    *b = find(o->k, w->rip, w->variant, &global);
    if (!*b)
        return NEXT_INTERPRET;
    w->code = (uint64_t)(uintptr_t)o->k->rx + (*b)->code;
    if (!w->variant)
        lead_there(o, x, dropped == o->k->drops ? w->link : NULL, *b, w->rip, global);
    if (o->d)
        direct_link(o->d, *b, w->rip & PAGE_MASK);
    return NEXT_KNOWN;
}

/* The first block: what is known for RIP, *b NULL then, or found. 0: the interpreter is to go on. */
static inline uint64_t first_code(struct course *o, uint64_t rip, struct tblock **b, bool *global)
{
    struct icpu *c = o->t->c;
    uint64_t code = c->by_blocks || o->table->mode != c->mode ? 0 : space_jump(o->table, rip);
    *b = NULL;
    if (code)
        return code;
    *b = find(o->k, rip, 0, global);
    if (!*b || (c->by_blocks && (*b)->count > c->budget_end - c->instructions))
        return 0;
    return (uint64_t)(uintptr_t)o->k->rx + (*b)->code;
}

static bool accel_enter(struct icpu *c)
{
    struct tcpu *t = c->accel_data;
    struct tctx *x = &translate_ctx;
    struct course o = {.t = t};
    if (DP_UNLIKELY(atomic_load_explicit(&t->wish, memory_order_relaxed)))
        grant(t);
    if (DP_UNLIKELY(c->by_blocks && t->chained)) { /* what counts blocks must not find them going from one to the other */
        cache_empty(t);
        t->chained = false;
    }
    if (!choose(&o))
        return false;
    bool global;
    struct tblock *b;
    struct way w = {.rip = c->s.r[X86_RIP]};
    w.code = first_code(&o, w.rip, &b, &global);
    if (!w.code)
        return false;
    c->link_from = NULL;
    c->block = NULL;
    x->c = c;
    load_context(x, c, interp_flags(c));
    uint64_t flags = x->flags, before = c->instructions;
    use_table(t, x, o.table);
    if (b && !c->by_blocks)
        lead_there(&o, x, NULL, b, w.rip, global);
    if (b && o.d)
        direct_link(o.d, b, w.rip & PAGE_MASK);
    enter_mxcsr(c);
    uint64_t page = w.rip & PAGE_MASK;
    enum next next;
    do {
        if (DP_UNLIKELY(!run(&o, x, page, w.rip, w.code))) {
            t->lost = true;
            atomic_fetch_or(&c->attention, IATT_KICK);
            next = NEXT_OUT;
            break;
        }
        if (c->by_blocks)
            count(t, instructions_done(b, x));
        w = (struct way){.rip = x->rip};
        page = x->page;
        DP_TRACE(c->vm->trace, DP_TRACE_EXITS, "cpu%u: %spage 0x%llx, last known at 0x%llx: %s", c->index, o.d ? "runner: " : "",
                 (unsigned long long)x->page, (unsigned long long)w.rip, leave_name(x));
        next = after_leaving(&o, x, &w);
        if (next != NEXT_FIND)
            continue;
        bool wanted = atomic_load(&c->attention) | atomic_load(&t->wish);
        if (DP_UNLIKELY(wanted) || (c->by_blocks && c->instructions != before) || (o.d && !direct_worth(o.d))) {
            next = NEXT_OUT;
            break;
        }
        page = w.rip & PAGE_MASK;
        next = find_next(&o, x, &w, &b);
    } while (next == NEXT_KNOWN);
    x87_leave(x, t);
    if (c->by_blocks && c->instructions != before)
        next = NEXT_OUT; /* what is to be interpreted is the next run's */
    else if (c->by_blocks)
        x->flags = flags; /* page checks may have spoiled them, where they are dead */
    leave_mxcsr(c);
    store_context(x, c);
    c->s.r[X86_RIP] = mode_wrap(c->mode, w.rip);
    interp_set_arith(c, arith_flags(x));
    return next == NEXT_OUT;
}

static const struct interp_accel accel = {accel_enter, system_tsc, accel_flush, accel_forget, accel_filled};

/* ---- the engine ---- */

static int translate_probe(struct dp_error *e)
{
#if defined(__SANITIZE_THREAD__)
    return dp_error_set(e, -ENOTSUP, "ThreadSanitizer leaves no address space for its tables and does not see what translated code does");
#elif defined(__x86_64__)
    if (!__builtin_cpu_supports("bmi2"))
        return dp_error_set(e, -ENOTSUP, "this host's processor has no BMI2 (PEXT)");
    if (!(getauxval(AT_HWCAP2) & 2))
        return dp_error_set(e, -ENOTSUP, "this host's kernel does not let programs use WRGSBASE (Linux 5.9 or newer does)");
    return 0;
#else
    return dp_error_set(e, -ENOTSUP, "it translates x86-64 for x86-64 hosts");
#endif
}

static int translate_vm_init(const struct dp_engine_vm *vm, struct dp_engine_state **out, struct dp_error *e)
{
    struct tvm *v = calloc(1, sizeof(*v));
    if (!v)
        return dp_error_set(e, -ENOMEM, "no memory for the translator");
    v->vm = *vm;
    struct dp_engine_vm plain = *vm; /* the interpreter has no code to show */
    plain.perf_map = false;
    plain.dump_path = NULL;
    int r = signals_init(e);
    if (!r)
        r = dump_open(vm, &v->dump, e);
    if (!r)
        r = dp_engine_interp.vm_init(&plain, out, e);
    if (r) {
        dump_close(v->dump);
        free(v);
        return r;
    }
    v->engine = *out;
    v->code_written = on_code_written;
    v->warm = WARM;
    pthread_mutex_init(&v->lock, NULL);
    (*out)->accel_data = v;
    struct dp_listener l = {on_changed, on_code_marked, on_dirty_cleared, v};
    r = dp_space_listen(vm->memory, &l);
    if (r) {
        dp_engine_interp.vm_fini(*out);
        dump_close(v->dump);
        pthread_mutex_destroy(&v->lock);
        free(v);
        return dp_error_set(e, r, "cannot listen to memory changes");
    }
    return 0;
}

static void translate_vm_fini(struct dp_engine_state *s)
{
    struct tvm *v = s->accel_data;
    dp_space_unlisten(v->vm.memory, v);
    alias_fini(v);
    dump_close(v->dump);
    pthread_mutex_destroy(&v->lock);
    free(v);
    dp_engine_interp.vm_fini(s);
}

void translate_set_warm(struct dp_engine_state *s, unsigned times)
{
    struct tvm *v = s->accel_data;
    v->warm = times;
}

void translate_set_direct(struct dp_engine_state *s, enum translate_direct when)
{
    struct tvm *v = s->accel_data;
    v->direct = when;
}

void translate_set_kick_after(struct dp_engine_state *s, unsigned host_instructions)
{
    struct tvm *v = s->accel_data;
    v->kick_after = host_instructions;
}

static void tcpu_free(struct tcpu *t)
{
    direct_fini(t);
    translate_fini(t);
    cache_fini(t);
    space_fini(t);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static int translate_cpu_init(struct dp_engine_state *s, unsigned index, const struct dp_x86_bus *bus, struct dp_cpu **out,
                              struct dp_error *e)
{
    struct tvm *v = s->accel_data;
    int r = dp_engine_interp.cpu_init(s, index, bus, out, e);
    if (r)
        return r;
    struct tcpu *t = calloc(1, sizeof(*t));
    if (!t) {
        dp_engine_interp.cpu_fini(*out);
        return dp_error_set(e, -ENOMEM, "no memory for processor %u", index);
    }
    t->c = &(*out)->c;
    t->v = v;
    pthread_mutex_init(&t->lock, NULL);
    r = space_init(t, e);
    if (!r)
        r = cache_init(t, e);
    if (!r)
        r = translate_init(t, e);
    if (r) {
        tcpu_free(t);
        dp_engine_interp.cpu_fini(*out);
        return r;
    }
    dump_stubs(t);
    t->c->accel_data = t;
    t->c->accel = &accel;
    v->cpu[index] = t;
    return 0;
}

static void translate_cpu_fini(struct dp_cpu *cpu)
{
    struct tcpu *t = cpu->c.accel_data;
    if (t) {
        t->v->cpu[cpu->c.index] = NULL;
        cpu->c.accel = NULL;
        tcpu_free(t);
    }
    dp_engine_interp.cpu_fini(cpu);
}

#define WINDOW 2000000000ull
#define RELEASE_EVERY 30000000000ull
#define RELEASE_MIN (2u << 20)

static uint64_t coarse_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A processor that halts: when it was idle for nine tenths of the last seconds, most of what was translated is of what it did before
 * (its boot), and the memory is worth more than making anew what it still needs, which takes some milliseconds. */
static void give_back(struct tcpu *t)
{
    uint64_t now = t->halted_at = coarse_ns();
    if (now - t->window < WINDOW)
        return;
    bool is_idle = (now - t->window) - t->idle < (now - t->window) / 10;
    t->window = now;
    t->idle = 0;
    if (!is_idle || t->arena_used + t->used < RELEASE_MIN || (t->released_at && now - t->released_at < RELEASE_EVERY))
        return;
    t->released_at = now;
    direct_release(t);
    cache_release(t);
    space_release(t);
    malloc_trim(0);
}

static void translate_run(struct dp_cpu *cpu, uint64_t budget, struct dp_exit *exit)
{
    struct tcpu *t = cpu->c.accel_data;
    struct dp_error e = {0};
    if (signals_thread(&e)) {
        *exit = (struct dp_exit){.kind = DP_EXIT_ERROR};
        dp_buffer_printf(&exit->text, "%s\n", e.text);
        return;
    }
    __asm__ volatile("rdgsbase %0" : "=r"(translate_ctx.gs));
    atomic_store(&t->thread, (pid_t)syscall(SYS_gettid));
    t->uncounted |= !budget;
    t->countdown = t->v->kick_after;
    if (t->halted_at)
        t->idle += coarse_ns() - t->halted_at;
    t->halted_at = 0;
    dp_engine_interp.run(cpu, budget, exit);
    t->countdown = 0;
    atomic_store(&t->thread, 0);
    if (DP_UNLIKELY(t->lost)) {
        *exit = (struct dp_exit){.kind = DP_EXIT_ERROR};
        dp_buffer_printf(&exit->text, "cpu%u: the process that ran the guest's program was killed (out of memory?)\n", t->c->index);
    } else if (exit->kind == DP_EXIT_HALT && !budget) {
        give_back(t);
    }
}

static void translate_kick(struct dp_cpu *cpu)
{
    dp_engine_interp.kick(cpu);
    signal_inside(cpu->c.accel_data);
}

static void translate_interrupt(struct dp_cpu *cpu, enum dp_line line, unsigned value)
{
    dp_engine_interp.interrupt(cpu, line, value);
    if (atomic_load(&cpu->c.attention))
        signal_inside(cpu->c.accel_data);
}

static void translate_pull(struct dp_cpu *cpu, struct x86_state *out) { dp_engine_interp.pull(cpu, out); }
static void translate_push(struct dp_cpu *cpu, const struct x86_state *in) { dp_engine_interp.push(cpu, in); }
/* Translated code does not count its instructions, unless there is a budget (by_blocks); else only what the interpreter ran is known. */
static void translate_counters(struct dp_cpu *cpu, struct dp_engine_counters *out)
{
    dp_engine_interp.counters(cpu, out);
    const struct tcpu *t = cpu->c.accel_data;
    out->interpreted = out->instructions - t->counted;
    if (t->uncounted)
        out->instructions = 0;
}

const struct dp_engine dp_engine_translate = {
    .name = "translate",
    .summary = "binary translation: near-native speed without hardware virtualization",
    .probe = translate_probe,
    .vm_init = translate_vm_init,
    .vm_fini = translate_vm_fini,
    .cpu_init = translate_cpu_init,
    .cpu_fini = translate_cpu_fini,
    .run = translate_run,
    .kick = translate_kick,
    .interrupt = translate_interrupt,
    .pull = translate_pull,
    .push = translate_push,
    .counters = translate_counters,
};
