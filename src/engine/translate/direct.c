/* engine/translate/direct.c - direct spaces: when to promote, the runner's life, what is mapped in it, taking turns with it. See direct.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#include "engine/interp/interp_sse.h"
#include "engine/translate/direct.h"
#include "engine/translate/translate.h"

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif
#define HOST_TF 0x100
#define USER_TOP 0x7ffffffff000ull /* a program's addresses, guest or host, end here */
#define MAX_EXTENTS 24000          /* half of what mappings a process may have (vm.max_map_count) */
#define AROUND 16                  /* pages looked at when one is missing */
#define MAX_FAILURES 8

/* In ticks of the host's TSC (2-4 in a nanosecond). User code runs on for a while (a *stay*) until C has to do something. With a runner
 * this costs two switches of processes more, some 10 us on an idle host, longer on a busy one: it is measured. It is regained when code
 * that runs 2-3 times faster runs for about that long. */
#define TURN_COST (25ull << 10) /* until it is known */
#define COST_MOST (10ull << 20)
#define STAY_PROMOTE (400ull << 10) /* mean of some dozens that is worth making a runner */
#define STAY_LONG (1000ull << 10)   /* one such stay is enough */
#define LINK_AHEAD 64               /* blocks made for another one */
#define GUESS_AHEAD 8               /* of them such that have never run */
#define WARMING 300
#define SERVED 8              /* missing pages that are as bad as the end of a stay */
#define REFUSED (10ull << 30) /* seconds until a failed promotion is tried again */

static void futex(uint32_t *word, int operation, uint32_t value, const struct timespec *timeout)
{
    syscall(SYS_futex, word, operation, value, timeout, NULL, 0);
}

/* ---- what is mapped ---- */

/* The first extent that ends behind an address. */
static unsigned extent_at(const struct tdirect *d, uint64_t linear)
{
    unsigned low = 0, high = d->extents;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        const struct direct_extent *x = &d->extent[middle];
        if (x->linear + ((uint64_t)x->pages << DP_PAGE_SHIFT) <= linear)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int turn(struct tdirect *d);

static void order(struct tdirect *d, uint64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t e, uint64_t f, uint64_t g)
{
    if (d->orders->count == DIRECT_ORDERS) {
        d->orders->go = 0;
        if (turn(d))
            return;
    }
    uint64_t arguments[] = {a, b, c, e, f, g};
    d->orders->call[d->orders->count].number = number;
    memcpy(d->orders->call[d->orders->count++].argument, arguments, sizeof(arguments));
}

static void unmap_at(struct tdirect *d, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++)
        order(d, SYS_munmap, d->extent[i].linear, (uint64_t)d->extent[i].pages << DP_PAGE_SHIFT, 0, 0, 0, 0);
    memmove(d->extent + from, d->extent + to, (d->extents - to) * sizeof(*d->extent));
    d->extents -= to - from;
}

static void unmap_all(struct tdirect *d)
{
    if (!d->extents)
        return;
    order(d, SYS_munmap, 0, (uint64_t)(uintptr_t)d->cpu.rx, 0, 0, 0, 0);
    order(d, SYS_munmap, d->end, USER_TOP - d->end, 0, 0, 0, 0);
    d->extents = 0;
    d->large = false;
}

static bool is_private(const struct tdirect *d, uint64_t linear, uint64_t bytes)
{
    return linear < d->end && linear + bytes > (uint64_t)(uintptr_t)d->cpu.rx;
}

static bool map(struct tdirect *d, uint64_t linear, unsigned pages, struct talias *a, uint64_t ram_page, bool writable, uint64_t page_size)
{
    uint64_t bytes = (uint64_t)pages << DP_PAGE_SHIFT;
    unsigned number = (unsigned)(a - d->owner->v->alias);
    d->old |= number >= d->aliases;
    if (d->old || linear >= USER_TOP || bytes > USER_TOP - linear || is_private(d, linear, bytes))
        return false;
    if (d->extents == MAX_EXTENTS)
        unmap_all(d);
    unsigned at = extent_at(d, linear), to = at;
    while (to < d->extents && d->extent[to].linear < linear + bytes)
        to++;
    unmap_at(d, at, to);
    memmove(d->extent + at + 1, d->extent + at, (d->extents - at) * sizeof(*d->extent));
    d->extent[at] = (struct direct_extent){linear, ram_page, pages, (uint8_t)number, writable, page_size};
    d->large |= page_size > DP_PAGE_SIZE;
    d->extents++;
    order(d, SYS_mmap, linear, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_FIXED | MAP_POPULATE,
          (uint64_t)a->ram->fd, ram_page << DP_PAGE_SHIFT);
    return true;
}

/* The RAM that an entry of a shadow page table leads to. */
static struct talias *resolve(const struct tcpu *t, uint64_t host, uint64_t *page, bool *writable)
{
    for (unsigned i = 0; i < t->v->aliases; i++) {
        struct talias *a = &t->v->alias[i];
        uint64_t rw = host - (uint64_t)(uintptr_t)a->rw, ro = host - (uint64_t)(uintptr_t)a->ro;
        *writable = rw < a->ram->size;
        if (*writable || ro < a->ram->size) {
            *page = (*writable ? rw : ro) >> DP_PAGE_SHIFT;
            return a;
        }
    }
    return NULL;
}

static bool is_apic_page(const struct icpu *c, uint64_t phys)
{
    return c->bus.apic && (phys & PAGE_MASK) == (c->s.apic_base & 0xffffff000ull);
}

/* Pages around one that is being mapped (itself: that one too), if the guest has used them before: in the same 16 pages. */
static void map_around(struct tdirect *d, uint64_t linear, bool itself)
{
    struct icpu *c = d->owner->c;
    uint64_t first = linear & ~(AROUND * DP_PAGE_SIZE - 1);
    struct talias *a = NULL;
    uint64_t run = 0, run_page = 0;
    unsigned pages = 0;
    bool run_writable = false;
    for (unsigned i = 0; i <= AROUND; i++) {
        uint64_t at = first + i * DP_PAGE_SIZE;
        struct x86_translation t;
        struct dp_range r = {0};
        unsigned e = extent_at(d, at);
        bool known = i < AROUND && (itself || at != (linear & PAGE_MASK)) && !(e < d->extents && d->extent[e].linear <= at) &&
                     c->address_mask == UINT64_MAX && x86_walk_used(&c->ctx, at, &t) && t.user && t.page_size == DP_PAGE_SIZE &&
                     !is_apic_page(c, t.phys) && dp_space_find(c->memory, t.phys, &r) && r.ram && (t.phys & PAGE_MASK) >= r.base &&
                     (t.phys & PAGE_MASK) + DP_PAGE_SIZE - r.base <= r.size;
        struct talias *b = known ? alias_of(d->owner->v, r.ram) : NULL;
        uint64_t page = known ? (r.ram_offset + ((t.phys & PAGE_MASK) - r.base)) >> DP_PAGE_SHIFT : 0;
        bool writable = b && t.writable && t.dirty && !r.readonly && alias_direct_write(b, page);
        if (pages && (b != a || page != run_page + pages || writable != run_writable)) {
            map(d, run, pages, a, run_page, run_writable, DP_PAGE_SIZE);
            pages = 0;
        }
        if (b && !pages++) {
            a = b;
            run = at;
            run_page = page;
            run_writable = writable;
        }
    }
}

/* All of a large page: only if one mapping can have it. */
static bool map_large(struct tdirect *d, uint64_t linear, uint64_t size, struct talias *a, uint64_t page, bool writable)
{
    uint64_t pages = DP_MIN(size, 2ull << 20) >> DP_PAGE_SHIFT, first = page & ~(pages - 1);
    if (((linear >> DP_PAGE_SHIFT) & (pages - 1)) != (page & (pages - 1)) || (first + pages) << DP_PAGE_SHIFT > a->ram->size)
        return false;
    for (uint64_t i = 0; writable && i < pages; i++)
        if (!alias_direct_write(a, first + i))
            return false;
    return map(d, (linear & PAGE_MASK) - ((page - first) << DP_PAGE_SHIFT), (unsigned)pages, a, first, writable, size);
}

/* After a page fault in the runner: true: the access may be tried again. */
static bool serve(struct tdirect *d, uint64_t address, bool write)
{
    struct tcpu *t = d->owner;
    struct icpu *c = t->c;
    uint64_t linear = address & PAGE_MASK, page;
    bool writable;
    if (linear >= USER_TOP || is_private(d, linear, DP_PAGE_SIZE))
        return false;
    unsigned e = extent_at(d, linear);
    bool there = e < d->extents && d->extent[e].linear <= linear;
    if (there && (!write || d->extent[e].writable))
        return false; /* not this page's fault */
    const struct ttable *b = space_table(t, ITLB_USER);
    c->counters.table_misses++;
    if (!b || !interp_fill_data(c, address, write ? X86_ACCESS_WRITE : X86_ACCESS_READ))
        return false;
    uint64_t entry = *space_entry(b, linear);
    struct talias *a = entry ? resolve(t, entry + linear, &page, &writable) : NULL;
    if (!a)
        return false;
    writable = writable && alias_direct_write(a, page);
    if (write && !writable)
        return false;
    uint64_t large = c->tlb_cold[interp_tlb(c, linear) - c->tlb_all].large;
    if (large && map_large(d, linear, large, a, page, writable))
        return true;
    if (!map(d, linear, 1, a, page, writable, large ? large : DP_PAGE_SIZE))
        return false;
    map_around(d, linear, false);
    return true;
}

/* What the shadow page table knows already. */
static int by_linear(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}
static void map_known(struct tdirect *d)
{
    const struct ttable *b = space_table(d->owner, ITLB_USER);
    if (!b || !b->logged)
        return;
    uint64_t *linear = malloc(b->logged * sizeof(*linear));
    if (!linear)
        return;
    unsigned count = 0;
    for (unsigned i = 0; i < b->logged; i++) {
        uint64_t at = (~b->log[i] & 0xfffffffffull) << DP_PAGE_SHIFT;
        if (at < USER_TOP && *space_entry(b, at) && !space_maybe_large(b, at)) /* how large is not known here */
            linear[count++] = at;
    }
    qsort(linear, count, sizeof(*linear), by_linear);
    for (unsigned i = 0; i < count;) {
        uint64_t page, next_page;
        bool writable, next_writable;
        struct talias *a = resolve(d->owner, *space_entry(b, linear[i]) + linear[i], &page, &writable);
        writable = a && writable && alias_direct_write(a, page);
        unsigned pages = 1, j = i + 1;
        for (; a && j < count; j++) {
            if (linear[j] == linear[j - 1])
                continue; /* logged twice */
            struct talias *n = resolve(d->owner, *space_entry(b, linear[j]) + linear[j], &next_page, &next_writable);
            next_writable = n && next_writable && alias_direct_write(n, next_page);
            if (n != a || linear[j] != linear[i] + pages * DP_PAGE_SIZE || next_page != page + pages || next_writable != writable)
                break;
            pages++;
        }
        if (a)
            map(d, linear[i], pages, a, page, writable, DP_PAGE_SIZE);
        i = j;
    }
    free(linear);
}

void direct_flush_page(struct tspace *s, uint64_t linear)
{
    struct tdirect *d = s->direct;
    if (!d)
        return;
    unsigned e = extent_at(d, linear);
    if (e < d->extents && d->extent[e].linear <= linear)
        unmap_at(d, e, e + 1);
    for (unsigned i = 0; d->large && i < d->extents;) { /* pieces of a large page go together */
        uint64_t size = d->extent[i].page_size;
        if (size > DP_PAGE_SIZE && !((d->extent[i].linear ^ linear) & ~(size - 1)))
            unmap_at(d, i, i + 1);
        else
            i++;
    }
    space_forget_jumps_of_page(&d->cpu.space[0].table[0], linear);
}

/* ---- code ---- */

static void empty_cache(struct tdirect *d)
{
    uint64_t counted = d->owner->c->counters.code_flushes;
    cache_empty(&d->cpu);
    d->owner->c->counters.code_flushes = counted;
}

void direct_invalidate(struct tcpu *t, struct dp_ram *ram, uint64_t page)
{
    for (unsigned i = 0; i < DIRECTS; i++)
        if (t->directs[i] && ram)
            cache_invalidate(&t->directs[i]->cpu, ram, page);
        else if (t->directs[i])
            empty_cache(t->directs[i]);
}

void direct_revoke(struct tcpu *t, struct dp_ram *ram, uint64_t page)
{
    for (unsigned i = 0; i < DIRECTS; i++) {
        struct tdirect *d = t->directs[i];
        for (unsigned k = 0; d && k < d->extents;) {
            struct direct_extent *x = &d->extent[k];
            if (t->v->alias[x->alias].ram == ram && page - x->ram_page < x->pages)
                unmap_at(d, k, k + 1);
            else
                k++;
        }
    }
}

void direct_flush_all(struct tcpu *t)
{
    for (unsigned i = 0; i < DIRECTS; i++)
        if (t->directs[i])
            unmap_all(t->directs[i]);
}

/* Blocks made ahead of their first use in the runner, since each that it misses costs a turn: those
 * that are known here, and some that only follow. */
struct ahead {
    struct tdirect *d;
    struct { struct tblock *block; uint64_t page; } made[LINK_AHEAD];
    unsigned count, guesses;
};

/* The runner's block at rip. NULL: there is none, and none is to be made. */
static struct tblock *block_ahead(struct ahead *a, uint64_t rip, uint64_t *page_size)
{
    struct tcpu *t = a->d->owner, *k = &a->d->cpu;
    struct icpu *c = t->c;
    struct dp_ram *ram;
    uint64_t offset;
    if (rip >= USER_TOP)
        return NULL;
    const struct itlb *e = interp_fetch_tlb(c, rip);
    if (e->fetch_tag != ((rip & PAGE_MASK) | c->tlb_generation) || interp_locate_code(c, rip, &ram, &offset, NULL) || !ram)
        return NULL;
    *page_size = c->tlb_cold[e - c->tlb_all].large;
    uint64_t host = (uint64_t)(uintptr_t)ram->host + offset;
    struct tblock *b = cache_find(k, host, c->mode, 0);
    if (b)
        return b->count && !b->phys2 ? b : NULL;
    const struct tblock *known = cache_find(t, host, c->mode, 0);
    if (a->count == LINK_AHEAD || !(known ? known->count && !known->phys2 : a->guesses) || (rip & 0xfff) > DP_PAGE_SIZE - 64 ||
        !cache_has_room(k) || dp_ram_code_is_volatile(ram, offset >> DP_PAGE_SHIFT))
        return NULL;
    a->guesses -= !known;
    b = translate_block(k, rip, ram, offset, c->mode);
    if (!b->count || b->phys2)
        return NULL;
    a->made[a->count].block = b;
    a->made[a->count++].page = rip & PAGE_MASK;
    struct ttable *table = &k->space[0].table[0];
    space_enter_page(k, table, b->page, rip, false, *page_size);
    space_set_jump(k, table, rip, (uint64_t)(uintptr_t)k->rx + b->code, false, false, *page_size);
    return b;
}

void direct_link(struct tdirect *d, struct tblock *b, uint64_t page)
{
    struct tcpu *k = &d->cpu;
    struct ttable *table = &k->space[0].table[0];
    struct ahead a = {.d = d, .made = {{b, page}}, .count = 1, .guesses = GUESS_AHEAD};
    uint64_t page_size;
    const struct tpage *known = b->page->made_ahead ? NULL : cache_page(d->owner, b->page->ram, b->page->number, false);
    b->page->made_ahead = true;
    for (const struct tblock *x = known ? known->blocks : NULL; x && a.count < LINK_AHEAD; x = x->page_next)
        if (x->mode == d->owner->c->mode)
            block_ahead(&a, page | (x->host & ~PAGE_MASK), &page_size);
    for (unsigned done = 0; done < a.count; done++) {
        b = a.made[done].block;
        page = a.made[done].page;
        for (struct tlink *l = cache_link(k, b->links); l; l = cache_link(k, l->next)) {
            uint64_t rip = page + (uint64_t)(int64_t)l->target;
            struct tblock *to = block_ahead(&a, rip, &page_size);
            if (!to)
                continue;
            space_enter_page(k, table, to->page, rip, false, page_size);
            if (l->cell_back) {
                cache_link_far(k, table, l, to, page, rip, false, page_size);
            } else if (to->page == b->page) {
                struct emitter e = {NULL, k->rx - k->rw};
                emit_patch(&e, k->rw + l->patch, (uint64_t)(uintptr_t)k->rx + to->code);
            }
        }
        block_ahead(&a, (page | (b->host & ~PAGE_MASK)) + b->bytes, &page_size); /* where a call returns to */
    }
}

/* ---- the runner's beginning ---- */

struct start {
    struct tdirect *d;
    int fds[DP_ARRAY_LEN(((struct tvm *)0)->alias) + 1];
    unsigned count;
    pid_t parent;
};

static void give_up(void) { syscall(SYS_exit_group, 1); }

static void limit_system_calls(void)
{
    enum {
        NUMBER = offsetof(struct seccomp_data, nr),
        ARCHITECTURE = offsetof(struct seccomp_data, arch),
        ARGUMENTS = offsetof(struct seccomp_data, args)
    };
    static const struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ARCHITECTURE),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 11),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, NUMBER),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 10, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 9, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 8, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 7, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ARGUMENTS + 2 * 8), /* protection */
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, ~(uint32_t)(PROT_READ | PROT_WRITE), 3, 0),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ARGUMENTS + 3 * 8), /* flags */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MAP_SHARED | MAP_FIXED | MAP_POPULATE, 2, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {DP_ARRAY_LEN(filter), (struct sock_filter *)filter};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program))
        give_up();
}

static void catch (const struct tdirect *d, int number, bool handled)
{
    struct {
        uint64_t handler, flags, restorer, mask;
    } action = {handled ? d->cpu.stub_handler : (uint64_t)(uintptr_t)SIG_IGN, SA_SIGINFO | SA_ONSTACK | 0x04000000 /* SA_RESTORER */,
                d->cpu.stub_restorer, ~0ull};
    syscall(SYS_rt_sigaction, number, &action, NULL, 8);
}

/* In the new process, which still has everything of ours mapped: system calls only. Does not return. */
__attribute__((noreturn)) static void become_runner(const struct start *s)
{
    struct tdirect *d = s->d;
    syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    syscall(SYS_prctl, PR_SET_NAME, "doppel-runner", 0, 0, 0);
    if ((pid_t)syscall(SYS_getppid) != s->parent || syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        give_up();
    if (__rseq_size)
        syscall(SYS_rseq, (char *)__builtin_thread_pointer() + __rseq_offset, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
    static const struct {
        uint64_t from, bytes;
        int protection;
    } parts[] = {{0, DIRECT_AT_STATE, PROT_READ}, {DIRECT_AT_STATE, DIRECT_AREA_BYTES - DIRECT_AT_STATE, PROT_READ | PROT_WRITE}};
    void *code = d->cpu.rx;
    if ((void *)syscall(SYS_mmap, code, CODE_BYTES, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE, d->cpu.fd, 0) != code)
        give_up();
    for (unsigned i = 0; i < DP_ARRAY_LEN(parts); i++)
        if ((uint64_t)syscall(SYS_mmap, d->area + parts[i].from, parts[i].bytes, parts[i].protection, MAP_SHARED | MAP_FIXED_NOREPLACE,
                              d->fd, parts[i].from) != d->area + parts[i].from)
            give_up();
    unsigned from = 0;
    for (unsigned i = 0; i < s->count; i++) { /* in ascending order */
        if ((unsigned)s->fds[i] > from)
            syscall(SYS_close_range, from, (unsigned)s->fds[i] - 1, 0);
        from = (unsigned)s->fds[i] + 1;
    }
    syscall(SYS_close_range, from, ~0u, 0);
    stack_t stack = {.ss_sp = (void *)(uintptr_t)(d->area + DIRECT_AT_STACK), .ss_size = DIRECT_STACK, .ss_flags = (int)SS_AUTODISARM};
    if (syscall(SYS_sigaltstack, &stack, NULL))
        give_up();
    for (int n = 1; n < 65; n++)
        catch (d, n, n == SIGSEGV || n == SIGBUS || n == SIGFPE || n == SIGILL || n == SIGTRAP || n == signals_kick_number());
    uint64_t none = 0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, 8);
    limit_system_calls();
    ((void (*)(void))(uintptr_t)d->cpu.stub_enter)();
    __builtin_unreachable();
}

static int compare_fds(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static int start_runner(struct tdirect *d)
{
    struct tvm *v = d->owner->v;
    struct start s = {.d = d, .parent = getpid()};
    d->aliases = __atomic_load_n(&v->aliases, __ATOMIC_ACQUIRE);
    for (unsigned i = 0; i < d->aliases; i++)
        s.fds[s.count++] = v->alias[i].ram->fd;
    qsort(s.fds, s.count, sizeof(s.fds[0]), compare_fds);
    __atomic_store_n(&d->orders->request, 1, __ATOMIC_SEQ_CST); /* it answers this when it has begun, in some ms */
    pid_t pid = (pid_t)syscall(SYS_clone, (unsigned long)SIGCHLD, NULL, NULL, NULL, 0ul);
    if (!pid)
        become_runner(&s);
    d->pid = pid;
    d->thread = (pid_t)syscall(SYS_gettid);
    d->starting = true;
    return pid < 0 ? -errno : 0;
}

/* An address for code cache and area that the guest has nothing near: a whole entry of its top-level page table is empty. */
static bool guest_uses(const struct icpu *c, uint64_t address)
{
    struct x86_ctx *x = (struct x86_ctx *)&c->ctx;
    return !(c->s.cr0 & X86_CR0_PG) || x->phys_load(x, (c->s.cr3 & 0x000ffffffffff000ull) + (address >> 39 & 0x1ff) * 8, 8) & 1;
}
static bool find_place(struct tdirect *d)
{
    for (unsigned tries = 0; tries < 16; tries++) {
        uint64_t random;
        if (getrandom(&random, sizeof(random), 0) != sizeof(random))
            return false;
        uint64_t code = (32 + random % 96) << 39 | (random >> 8 & ((1ull << 38) - 1) & PAGE_MASK);
        if (guest_uses(d->owner->c, code))
            continue;
        d->cpu.rx = (uint8_t *)(uintptr_t)code; /* an address in the runner */
        d->area = code + DIRECT_AREA_FROM_CODE;
        d->end = d->area + DIRECT_AREA_BYTES;
        return true;
    }
    return false;
}

static void destroy(struct tdirect *d)
{
    if (d->space)
        d->space->direct = NULL;
    if (d->pid > 0) {
        kill(d->pid, SIGKILL);
        while (waitpid(d->pid, NULL, __WALL) < 0 && errno == EINTR)
            ;
    }
    struct ttable *b = &d->cpu.space[0].table[0];
    free(b->log);
    free(b->jump_log);
    cache_fini(&d->cpu);
    if (d->view)
        munmap(d->view, DIRECT_AREA_BYTES);
    if (d->fd >= 0)
        close(d->fd);
    free(d->extent);
    free(d);
}

static struct tdirect *create(struct tcpu *t)
{
    struct dp_error e = {0};
    struct tdirect *d = calloc(1, sizeof(*d));
    if (!d)
        return NULL;
    struct tcpu *k = &d->cpu;
    struct ttable *b = &k->space[0].table[0];
    d->owner = t;
    d->on_cpu = -1;
    d->fd = memfd_create("doppel-direct", MFD_CLOEXEC);
    d->extent = calloc(MAX_EXTENTS + 1, sizeof(*d->extent));
    k->is_direct = true;
    k->fd = -1;
    k->c = t->c;
    k->v = t->v;
    k->writer = t->writer;
    k->current = &k->space[0];
    b->log = NULL;
    b->jump_log = malloc(JUMP_LOG * sizeof(*b->jump_log));
    b->shared = true;
    if (d->fd < 0 || !d->extent || !b->jump_log || ftruncate(d->fd, DIRECT_AREA_BYTES) || !find_place(d))
        goto fail;
    d->view = mmap(NULL, DIRECT_AREA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, 0);
    if (d->view == MAP_FAILED) {
        d->view = NULL;
        goto fail;
    }
    d->orders = (struct direct_orders *)(d->view + DIRECT_AT_ORDERS);
    d->state = (struct direct_state *)(d->view + DIRECT_AT_STATE);
    b->base = d->view + FRONT_BYTES;
    space_flush_jumps(b, false);
    if (cache_init(k, &e))
        goto fail;
    stubs_emit_direct(k, d->area);
    k->first = k->used;
    if (start_runner(d))
        goto fail;
    return d;
fail:
    destroy(d);
    return NULL;
}

void direct_fini(struct tcpu *t)
{
    for (unsigned i = 0; i < DIRECTS; i++)
        if (t->directs[i])
            destroy(t->directs[i]);
    if (t->sampler_thread)
        timer_delete(t->sampler);
}

void direct_release(struct tcpu *t)
{
    for (unsigned i = 0; i < DIRECTS; i++)
        if (t->directs[i]) {
            destroy(t->directs[i]);
            t->directs[i] = NULL;
        }
}

/* ---- turns ---- */

static int wait_for_reply(struct tdirect *d, uint32_t number)
{
    struct direct_state *s = d->state;
    for (uint32_t seen; (seen = __atomic_load_n(&s->reply, __ATOMIC_SEQ_CST)) != number;) {
        const struct timespec second = {1, 0};
        futex(&s->reply, FUTEX_WAIT, seen, &second);
        if (__atomic_load_n(&s->reply, __ATOMIC_SEQ_CST) == seen && waitpid(d->pid, NULL, __WALL | WNOHANG)) {
            d->pid = 0;
            d->dead = true;
            return -EIO;
        }
    }
    return 0;
}

/* Lets the runner do its orders; returns when it replied, -EIO when it is no more. */
static int turn(struct tdirect *d)
{
    struct direct_orders *o = d->orders;
    int cpu = sched_getcpu();
    d->owner->c->counters.turns++;
    if (cpu >= 0 && cpu != d->on_cpu) { /* a sleeper on another processor takes much longer to wake */
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        d->on_cpu = sched_setaffinity(d->pid, sizeof(set), &set) ? -1 : cpu;
    }
    uint32_t number = o->request + 1;
    __atomic_store_n(&o->request, number, __ATOMIC_SEQ_CST);
    futex(&o->request, FUTEX_WAKE, 1, NULL);
    int r = wait_for_reply(d, number);
    o->count = 0;
    return r;
}

bool direct_kick(struct tcpu *t)
{
    pid_t runner = atomic_load(&t->runner);
    if (runner)
        syscall(SYS_tgkill, runner, runner, signals_kick_number());
    return runner;
}

/* The processor's state to where the runner takes it from, and back. Back: registers of a user program, and of tctx what blocks write
 * before they leave. */
static void give(struct tdirect *d, struct tctx *x)
{
    struct icpu *c = x->c;
    struct direct_state *s = d->state;
    interp_fpu_save(c);
    s->mxcsr = d->orders->mxcsr = c->s.mxcsr;
    /* What blocks of user code use, and nothing else: the rest has addresses of ours. */
    struct tctx *y = &s->x;
    y->r13 = x->r13;
    y->r14 = x->r14;
    y->r15 = x->r15;
    y->page = x->page;
    memcpy(y->segbase, x->segbase, sizeof(y->segbase));
    y->system_flags = x->system_flags;
    y->flags = x->flags;
    y->tsc_negative_host = x->tsc_negative_host;
    y->tsc_guest = x->tsc_guest;
    y->tsc_ratio = x->tsc_ratio;
    y->tsc_aux = x->tsc_aux;
    y->x87_live = 0;
    y->host_rsp = d->area + DIRECT_AT_STATE + offsetof(struct direct_state, step_flags) + 8; /* PUSHF borrows a word */
    if (d->x87)
        x87_prepare(&s->x, &d->cpu, &s->x87);
    for (unsigned r = 0; r < 16; r++)
        if (home[r] != NO_REG)
            s->r[home[r]] = c->s.r[r];
    s->r[R14] = x->rip; /* the jump cache may have led to a block that died: stub_stale */
    memcpy(s->vec, c->s.vec, sizeof(s->vec));
}
static void take(struct tdirect *d, struct tctx *x)
{
    struct icpu *c = x->c;
    const struct direct_state *s = d->state;
    for (unsigned r = 0; r < 16; r++)
        if (home[r] != NO_REG)
            c->s.r[r] = s->r[home[r]];
    memcpy(c->s.vec, s->vec, sizeof(s->vec));
    c->s.mxcsr |= s->mxcsr & MXCSR_FLAGS;
    sse_host_set_mxcsr(c->xm_unmasked ? c->s.mxcsr : c->s.mxcsr | MXCSR_MASKS);
    x->r13 = s->x.r13;
    x->r14 = s->x.r14;
    x->r15 = s->x.r15;
    x->page = s->x.page;
    x->flags = s->x.flags;
    x->system_flags = (x->system_flags & ~(uint64_t)X86_DF) | (s->x.system_flags & X86_DF);
    x->undo = s->x.undo;
    x->record = s->x.record;
    x->op = s->x.op;
    x->site = s->x.site;
    x->adjust = s->x.adjust;
    x->helper = s->x.helper;
    if (s->x.x87_live) {
        x->x87_fdp = s->x.x87_fdp;
        x->x87_page = s->x.x87_page;
        x->x87_seg = s->x.x87_seg;
        x->x87_fcs = s->x.x87_fcs;
        struct x87_image image = s->x87;
        x87_take(x, &d->cpu, &image);
    }
}

static void enter_at(struct tdirect *d, uint64_t pc, bool step)
{
    struct direct_state *s = d->state;
    d->orders->go = pc;
    d->orders->step = step;
    d->orders->mxcsr |= s->mxcsr & MXCSR_FLAGS; /* leaving stored both units' state, also for a page that was missing */
    d->orders->x87 = s->x.x87_live;
    s->stepped = !step;
    s->step_flags = 0x202 | HOST_TF | (s->x.flags >> 8 & (X86_ARITH & 0xff)) | (s->x.flags & 1 ? X86_OF : 0);
}

/* What stopped the runner at pc. True: on at *pc (a step at a time if *step); false: out, for x->reason, at x->rip. */
static bool signalled(struct tdirect *d, struct tctx *x, uint64_t *pc, bool *step)
{
    struct tcpu *k = &d->cpu;
    struct direct_state *s = d->state;
    int number = (int)s->signal;
    uint64_t at = s->pc, address = s->address;
    bool kick = number == signals_kick_number() || number == SIGTRAP, at_start;
    struct tblock *b = cache_block_at(k, at);
    *step = false;
    *pc = at;
    if (!b) { /* cannot be */
        x->reason = LEAVE_INTERPRET;
        return false;
    }
    const struct tinsn *n = instruction_at(k, b, at, &at_start);
    x->rip = s->x.page + n->guest;
    if (n->fop & TINSN_RCX && at == (uint64_t)(uintptr_t)k->rx + b->code + n->host + n->commit)
        s->r[R13] = s->r[RCX]; /* it repeats: what it did counts */
    if (kick) {
        x->reason = LEAVE_KICK;
        *step = !at_start;
        if (number == SIGTRAP && d->owner->countdown) {
            if (--d->owner->countdown)
                return true;
            atomic_fetch_or(&k->c->attention, IATT_KICK);
        }
        return *step;
    }
    k->c->counters.signals++;
    k->c->ctx.fault.vector = 0;
    if (number == SIGSEGV && s->trap == 14 && serve(d, address, s->error & 2))
        return true;
    x->reason = LEAVE_FAULT; /* the host's fault is the guest's */
    if (number == SIGSEGV && s->trap == 14 && k->c->ctx.fault.vector == X86_PF_) {
        x->reason = LEAVE_RAISE;
        d->raised = address;
    }
    return false;
}

static void note_stay(struct tspace *s, uint64_t ticks)
{
    s->stay += (DP_MIN(ticks, 16 * STAY_LONG) >> 4) - (s->stay >> 4);
    s->longest = DP_MAX(s->longest, ticks);
}

/* What a runner would do without coming back does not end a stay: accesses that cross pages, for one. */
void direct_note_run(struct tcpu *t, uint64_t ticks, enum leave_reason why)
{
    t->stay += ticks;
    if (why == LEAVE_UNGROUPED || why == LEAVE_INTERPRET || why == LEAVE_FAULT)
        return;
    note_stay(t->current, t->stay);
    t->stay = 0;
}

/* What a turn cost, but for the orders, and how long guest code ran. Both are the runner's word. */
static void note_turn(struct tdirect *d, uint64_t cost, uint64_t ran)
{
    uint64_t *mean = &d->owner->turn_cost;
    *mean += (DP_MIN(cost, COST_MOST) >> 4) - (*mean >> 4);
    d->ran += ran;
}
static bool warming(struct tdirect *d) { return d->warming && d->warming--; }
static void end_stay(struct tdirect *d)
{
    note_stay(d->space, d->ran);
    d->ran = 0;
    d->served = 0;
}

/* One turn of guest code, the place to go on being in the orders. *kicked: somebody wants the processor, maybe before it began. */
static inline int run_turn(struct tdirect *d, bool step, bool *kicked)
{
    struct tcpu *t = d->owner;
    struct direct_state *s = d->state;
    s->kicked = 0;
    atomic_store(&t->runner, d->pid);
    atomic_store(&t->inside, 1); /* before looking at what others may have asked for */
    bool wanted = (atomic_load(&t->c->attention) | atomic_load(&t->wish)) && !step;
    uint64_t since = __rdtsc();
    int r = wanted ? 0 : turn(d);
    atomic_store(&t->runner, 0);
    atomic_store_explicit(&t->inside, 0, memory_order_release);
    *kicked = wanted || s->outcome == DIRECT_KICKED;
    if (!r && !*kicked)
        note_turn(d, s->woken - since + (__rdtsc() - s->left), s->left - s->entered);
    return r;
}

/* LEAVE_X87: the guest's state for the unit; *pc: where the block goes on with it. False: out, for x->reason. */
static bool want_x87(struct tdirect *d, struct tctx *x, uint64_t *pc)
{
    struct direct_state *s = d->state;
    uint64_t record = s->x.record;
    if (record >= cache_number(&d->cpu, d->cpu.arena + d->cpu.arena_used)) { /* cannot be */
        x->reason = LEAVE_INTERPRET;
        return false;
    }
    const struct tslow *slow = cache_numbered(&d->cpu, record);
    d->x87 = true;
    *pc = (uint64_t)(uintptr_t)d->cpu.rx + slow->back;
    x->rip = s->x.page + (slow->site & 0xfff); /* should an interruption come first */
    x87_prepare(&s->x, &d->cpu, &s->x87);
    return true;
}

int direct_run(struct tdirect *d, struct tctx *x, uint64_t page, uint64_t rip, uint64_t code)
{
    struct tcpu *t = d->owner;
    struct direct_state *s = d->state;
    bool step = false;
    x->page = page;
    x->rip = rip;
    if (d->raised) { /* the guest has mapped it by now, as a rule */
        map_around(d, d->raised, true);
        d->raised = 0;
    }
    give(d, x);
    for (uint64_t pc = code;;) {
        bool kicked;
        enter_at(d, pc, step || t->countdown);
        int r = run_turn(d, step, &kicked);
        if (r)
            return r;
        if (kicked) {
            if (step)
                continue;
            x->reason = LEAVE_KICK; /* a fault's pc, or where it was to begin: the guest is at x->rip */
            break;
        }
        if (s->outcome == DIRECT_SIGNAL) {
            if (!signalled(d, x, &pc, &step))
                break;
            /* pages get mapped once, mostly; but who always wants others is better off without a runner */
            if (!warming(d) && ++d->served == SERVED)
                end_stay(d);
            continue;
        }
        x->reason = s->x.reason;
        if (x->reason != LEAVE_X87) {
            x->rip = s->x.rip;
            break;
        }
        if (!want_x87(d, x, &pc))
            break;
        step = false;
    }
    if ((x->reason != LEAVE_LINK && x->reason != LEAVE_LOOKUP) || !warming(d))
        end_stay(d);
    take(d, x);
    return 0;
}

/* ---- which spaces ---- */

static void attach(struct tdirect *d, struct tspace *s)
{
    d->space = s;
    s->direct = d;
    d->x87 = false;
    d->raised = 0;
    d->warming = WARMING;
    d->owner->c->counters.promotions++;
    map_known(d);
}

/* The next owner of the runner must not find this one's code. */
static void detach(struct tdirect *d)
{
    unmap_all(d);
    empty_cache(d);
    /* the stubs end with a page */
    fallocate(d->cpu.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, d->cpu.first, CODE_BYTES - d->cpu.first);
    space_flush_jumps(&d->cpu.space[0].table[0], false);
    d->space->direct = NULL;
    d->space = NULL;
}

void direct_flush_space(struct tspace *s, bool recycled)
{
    struct tdirect *d = s->direct;
    if (!d)
        return;
    unmap_all(d);
    space_flush_jumps(&d->cpu.space[0].table[0], false);
    if (recycled)
        detach(d);
}

static void drop(struct tcpu *t, struct tdirect *d)
{
    for (unsigned i = 0; i < DIRECTS; i++)
        if (t->directs[i] == d)
            t->directs[i] = NULL;
    destroy(d);
}

/* Is a runner that was started there by now? */
static bool ready(struct tcpu *t, struct tdirect *d)
{
    if (!d->starting)
        return true;
    d->starting = __atomic_load_n(&d->state->reply, __ATOMIC_SEQ_CST) != 1;
    if (d->starting && waitpid(d->pid, NULL, __WALL | WNOHANG)) {
        d->pid = 0;
        t->direct_failures++;
        drop(t, d);
        return false;
    }
    return !d->starting;
}

/* A processor's runners, by what can be done with them. */
struct offer {
    struct tdirect **place; /* for one more; NULL: all are there */
    struct tdirect *idle;   /* of no space */
    struct tdirect *oldest; /* of the space that was used longest ago */
    bool coming;            /* one was started and is not there yet */
};
static struct offer look_around(struct tcpu *t)
{
    struct offer o = {0};
    for (unsigned i = 0; i < DIRECTS; i++) {
        struct tdirect *d = t->directs[i];
        if (d && !ready(t, d))
            o.coming |= (d = t->directs[i]) != NULL;
        else if (d && !d->space)
            o.idle = d;
        else if (d && (!o.oldest || d->space->used < o.oldest->space->used))
            o.oldest = d;
        if (!d)
            o.place = &t->directs[i];
    }
    return o;
}

/* A runner for the current space. NULL: none, or not yet. */
static struct tdirect *promote(struct tcpu *t, uint64_t now)
{
    struct offer o = look_around(t);
    if (!o.idle && !o.place && !o.coming && o.oldest) {
        detach(o.oldest);
        o.idle = o.oldest;
    }
    if (o.idle && guest_uses(t->c, (uint64_t)(uintptr_t)o.idle->cpu.rx)) {
        drop(t, o.idle);
        o.idle = NULL;
    } else if (o.idle) {
        attach(o.idle, t->current);
    }
    if (o.place && !o.coming) { /* for this space, or for the next; it starts beside us */
        *o.place = t->direct_failures < MAX_FAILURES ? create(t) : NULL;
        t->direct_failures += !*o.place;
        o.coming = *o.place;
        if (o.coming && !o.idle && t->v->direct == TRANSLATE_DIRECT_ALWAYS && !wait_for_reply(*o.place, 1))
            return promote(t, now);
    }
    if (!o.idle && !o.coming)
        t->current->refused = now;
    return o.idle;
}

static bool in_user_mode(const struct icpu *c) { return (c->mode >> IMODE_CPL_SHIFT & 3) == 3; }

/* A signal in a while, so that code which never leaves gets looked at. */
static void sample(struct tcpu *t, uint64_t now)
{
    struct tspace *s = t->current;
    if (now - t->sampled < (t->sampled_space == s ? STAY_LONG << t->sample_shift : STAY_LONG))
        return;
    /* who was looked at in vain is looked at less often */
    t->sample_shift = t->sampled_space == s ? DP_MIN(t->sample_shift + 1, 3u) : 0;
    t->sampled_space = s;
    if (t->turn_cost > TURN_COST) /* maybe the host is not as busy any more: nobody measures it meanwhile */
        t->turn_cost -= (t->turn_cost - TURN_COST) >> 5;
    const struct itimerspec soon = {.it_value = {0, 500000}};
    pid_t thread = atomic_load(&t->thread);
    if (t->sampler_thread != thread) {
        if (t->sampler_thread)
            timer_delete(t->sampler);
        struct sigevent e = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = signals_kick_number()};
        e._sigev_un._tid = thread;
        t->sampler_thread = timer_create(CLOCK_MONOTONIC, &e, &t->sampler) ? 0 : thread;
    }
    if (t->sampler_thread)
        timer_settime(t->sampler, 0, &soon, NULL);
    t->sampled = now;
}

bool direct_worth(const struct tdirect *d)
{
    return d->owner->v->direct == TRANSLATE_DIRECT_ALWAYS || 2 * d->space->stay > 3 * d->owner->turn_cost;
}

struct tdirect *direct_choose(struct tcpu *t)
{
    struct icpu *c = t->c;
    struct tspace *s = t->current;
    if (t->v->direct == TRANSLATE_DIRECT_NEVER || c->by_blocks || !in_user_mode(c) || mode_code32(c->mode) || access_kind(c) != ITLB_USER)
        return NULL;
    bool always = t->v->direct == TRANSLATE_DIRECT_ALWAYS;
    uint64_t now = __rdtsc();
    t->turn_cost = t->turn_cost ? t->turn_cost : TURN_COST;
    bool worth = always || s->stay > DP_MAX(STAY_PROMOTE, 8 * t->turn_cost) || s->longest > DP_MAX(STAY_LONG, 16 * t->turn_cost);
    s->longest = 0;
    struct tdirect *d = s->direct;
    bool use = worth || (d && t->in_runner && direct_worth(d));
    if (t->in_runner && !use)
        DP_TRACE(c->vm->trace, DP_TRACE_TRANSLATE, "cpu%u: PCID %u: the runner rests; a stay is %llu ticks, a turn costs %llu", c->index,
                 s->pcid, (unsigned long long)s->stay, (unsigned long long)t->turn_cost);
    t->in_runner = use;
    if (!use) {
        sample(t, now);
        return NULL;
    }
    bool gone = d && (d->dead || d->thread != atomic_load(&t->thread) || guest_uses(c, (uint64_t)(uintptr_t)d->cpu.rx) || d->state->errors);
    if (d && DP_UNLIKELY(gone || d->old)) {
        drop(t, d);
        d = NULL;
        s->refused = gone ? now : 0;
    }
    if (d)
        return d;
    if (s->refused && now - s->refused < REFUSED)
        return NULL;
    d = promote(t, now);
    if (d) {
        s->stay = DP_MAX(s->stay, 8 * t->turn_cost); /* some turns to map and translate what it needs */
        DP_TRACE(c->vm->trace, DP_TRACE_TRANSLATE, "cpu%u: PCID %u: promoted", c->index, s->pcid);
    }
    return d;
}
