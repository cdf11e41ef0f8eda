/* engine/translate/signals.c - host faults and kicks inside translated code.
 *
 * Model: a fault of translated code belongs to a guest instruction that has not changed anything yet (translate.c), so the handler has the
 * guest's whole state in the host's registers: it puts the guest RIP in tctx and lets the thread go on at the leave stub. A kick does the
 * same when the host is at such a point; if not it single-steps (TF) until it is. When the thread is in C or in a common stub, tctx.go is
 * redirected, and the next transfer into translated code becomes the way out.
 * Faults that are not translated code's are the program's own: default action.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "engine/translate/translate_internal.h"

#define HOST_TF 0x100
#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31) /* linux/signal.h; the C library's header lacks it */
#endif

int signals_kick_number(void) { return SIGRTMAX - 3; }

static bool in_cache(const struct tcpu *t, uint64_t pc) { return pc - (uint64_t)(uintptr_t)t->rx < CODE_BYTES; }

/* A jump to what stands behind the body: an island, whose check may be that of an instruction before this place, or a way out. */
static bool leads_behind(const struct tcpu *t, const struct tblock *b, uint64_t offset)
{
    const uint8_t *at = t->rw + b->code + offset;
    int32_t by;
    memcpy(&by, at + 1, sizeof(by));
    uint64_t to = offset + 5 + (uint64_t)(int64_t)by;
    return *at == 0xe9 && to >= b->body && to < b->size;
}

const struct tinsn *instruction_at(const struct tcpu *t, const struct tblock *b, uint64_t pc, bool *at_start)
{
    uint64_t offset = pc - (uint64_t)(uintptr_t)t->rx - b->code;
    const struct tinsn *n = tinsn_at(b, offset);
    *at_start = offset < b->body && (n->commit == 0xff || offset <= (uint64_t)n->host + n->commit) && !leads_behind(t, b, offset);
    return n;
}

static void leave_at(struct tctx *x, greg_t *r, uint64_t guest, enum leave_reason why)
{
    x->rip = x->page + guest;
    x->reason = why;
    r[REG_RIP] = (greg_t)x->t->stub_leave;
    r[REG_EFL] &= ~HOST_TF;
}

static void kick(struct tctx *x, greg_t *r)
{
    struct tcpu *t = x->t;
    uint64_t pc = (uint64_t)r[REG_RIP];
    struct tblock *b = in_cache(t, pc) ? cache_block_at(t, pc) : NULL;
    if (!b && pc - t->stub_far < t->stub_helper - t->stub_far) { /* leads to a block, or to a stub that leaves */
        r[REG_EFL] |= HOST_TF;
        return;
    }
    if (!b) {
        x->go = t->stub_kick;
        r[REG_EFL] &= ~HOST_TF;
        return;
    }
    bool at_start;
    const struct tinsn *n = instruction_at(t, b, pc, &at_start);
    if (at_start)
        leave_at(x, r, n->guest, LEAVE_KICK);
    else
        r[REG_EFL] |= HOST_TF;
}

/* A trap of a thread that counts host instructions (tcpu.countdown). Its way into translated code leads by stub_count, and from there on it
 * takes steps, until it gets to a stub that leads out. True: that was all; false: the kick comes here. */
static bool counted(struct tctx *x, greg_t *r)
{
    struct tcpu *t = x->t;
    uint64_t pc = (uint64_t)r[REG_RIP];
    if (pc == t->stub_count + 1) { /* behind its INT3 */
        bool wanted = atomic_load(&t->c->attention) | atomic_load(&t->wish);
        r[REG_RIP] = (greg_t)(wanted ? t->stub_kick : x->counted_go);
        r[REG_EFL] |= wanted ? 0 : HOST_TF;
        return true;
    }
    if (--t->countdown) {
        if (pc - (uint64_t)(uintptr_t)t->rx < t->first && pc - t->stub_far >= t->stub_helper - t->stub_far)
            r[REG_EFL] &= ~HOST_TF;
        return true;
    }
    atomic_fetch_or(&t->c->attention, IATT_KICK);
    return false;
}

static void handler(int number, siginfo_t *info, void *context)
{
    struct tctx *x = &translate_ctx;
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (x->t)
        x->t->c->counters.signals++;
    if (number == signals_kick_number()) {
        if (x->t)
            kick(x, r);
        return;
    }
    uint64_t pc = (uint64_t)r[REG_RIP];
    if (number == SIGTRAP && x->t && x->t->countdown && counted(x, r))
        return;
    struct tblock *b = x->t && in_cache(x->t, pc) ? cache_block_at(x->t, pc) : NULL;
    if (number == SIGTRAP && x->t && (b || in_cache(x->t, pc) || r[REG_EFL] & HOST_TF)) {
        kick(x, r);
        return;
    }
    if (b) {
        bool at_start;
        const struct tinsn *n = instruction_at(x->t, b, pc, &at_start);
        if (number == SIGSEGV && alias_protected(x->t->v, (uint64_t)(uintptr_t)info->si_addr))
            x->t->c->counters.write_faults++;
        x->refused = number == SIGSEGV && alias_readonly(x->t->v, (uint64_t)(uintptr_t)info->si_addr) ? b : NULL;
        leave_at(x, r, n->guest, LEAVE_FAULT);
        return;
    }
    struct sigaction plain = {.sa_handler = SIG_DFL};
    sigaction(number, &plain, NULL); /* and the fault happens again */
}

int signals_init(struct dp_error *e)
{
    int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, signals_kick_number()};
    struct sigaction a = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    sigfillset(&a.sa_mask);
    for (unsigned i = 0; i < DP_ARRAY_LEN(numbers); i++)
        if (sigaction(numbers[i], &a, NULL))
            return dp_error_set(e, -errno, "cannot catch signal %d: %s", numbers[i], strerror(errno));
    return 0;
}

/* The thread's own stack for signals: translated code runs on the guest's stack pointer. */
int signals_thread(struct dp_error *e)
{
    if (translate_ctx.signals_ready)
        return 0;
    size_t size = 256u << 10;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (p == MAP_FAILED)
        return dp_error_set(e, -ENOMEM, "no memory for a signal stack");
    /* Without AUTODISARM the kernel believes a guest's stack pointer that it is within the signal stack already. */
    stack_t s = {.ss_sp = p, .ss_size = size, .ss_flags = (int)SS_AUTODISARM};
    if (sigaltstack(&s, NULL)) {
        munmap(p, size);
        return dp_error_set(e, -errno, "cannot set a signal stack: %s", strerror(errno));
    }
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signals_kick_number());
    sigaddset(&set, SIGSEGV);
    sigaddset(&set, SIGBUS);
    sigaddset(&set, SIGFPE);
    sigaddset(&set, SIGILL);
    sigaddset(&set, SIGTRAP);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    translate_ctx.signals_ready = true;
    return 0;
}
