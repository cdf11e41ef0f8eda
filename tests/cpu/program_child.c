/* program_child.c - executes programs on the host's processor: the program behind program_native.c.
 *
 * Model and invariants are those of native_child.c: a program is started by returning from a signal handler, which loads every register at
 * once, and ends in the next signal, whose frame is the result. Here the frame carries the YMM registers too, and the memory is the
 * shuffled and doubly mapped one of program.h.
 */
#include <asm/ldt.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "program_native.h"

enum { FP_MAGIC_AT = 464, FP_XSTATE_MAGIC = 0x46505853, XSTATE_BV = 512, XSTATE_YMM = 576 }; /* standard form: SDM vol. 1, 13.4 */

/* A signal handler has no other way to reach its context. */
static struct {
    struct prog_native_batch *batch;
    uint8_t *code, *memory; /* writable aliases */
    ucontext_t home;        /* where the first signal came from */
    uint8_t home_fp[512] __attribute__((aligned(64)));
    bool active;
    unsigned last_tick;
    uint64_t home_fs;
} child;
uint64_t prog_child_saved_fs __attribute__((visibility("hidden"))); /* FS base the program left */
uint64_t prog_child_home_fs __attribute__((visibility("hidden")));

void prog_child_entry(int sig, siginfo_t *info, void *context);
__attribute__((visibility("hidden"), used)) void prog_child_handle(int sig, siginfo_t *info, ucontext_t *u);
__asm__(".text\n"
        ".type prog_child_entry, @function\n"
        "prog_child_entry:\n"
        "  pushq $0x202\n" /* no AC, DF, NT, ID of the program */
        "  popfq\n"
        "  rdfsbase %rcx\n"
        "  movq %rcx, prog_child_saved_fs(%rip)\n"
        "  movq prog_child_home_fs(%rip), %rcx\n"
        "  wrfsbase %rcx\n"
        "  subq $8, %rsp\n"
        "  call prog_child_handle\n"
        "  addq $8, %rsp\n"
        "  movq prog_child_saved_fs(%rip), %rcx\n"
        "  wrfsbase %rcx\n"
        "  ret\n");

static inline uint64_t read_gs_base(void)
{
    uint64_t v;
    __asm__ volatile("rdgsbase %0" : "=r"(v));
    return v;
}
static inline void write_gs_base(uint64_t v) { __asm__ volatile("wrgsbase %0" : : "r"(v)); }
static inline void write_fs_base(uint64_t v) { __asm__ volatile("wrfsbase %0" : : "r"(v)); }

static const uint8_t greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static bool has_ymm(const uint8_t *fp) { return dp_ld32(fp + FP_MAGIC_AT) == FP_XSTATE_MAGIC && dp_ld64(fp + 472) & 4; }

static void capture(ucontext_t *u, int sig, struct prog_result *result)
{
    struct cpu_result *r = &result->r;
    const greg_t *g = u->uc_mcontext.gregs;
    for (unsigned i = 0; i < 16; i++)
        r->out.r[i] = (uint64_t)g[greg_of[i]];
    r->out.rip = (uint64_t)g[REG_RIP];
    r->out.rflags = (uint64_t)g[REG_EFL];
    uint16_t ds, es, fs, gs;
    __asm__ volatile("movw %%ds, %0\n movw %%es, %1\n movw %%fs, %2\n movw %%gs, %3" : "=r"(ds), "=r"(es), "=r"(fs), "=r"(gs));
    r->out.seg[X86_CS] = (uint16_t)g[REG_CSGSFS];
    r->out.seg[X86_SS] = (uint16_t)((uint64_t)g[REG_CSGSFS] >> 48);
    r->out.seg[X86_DS] = ds, r->out.seg[X86_ES] = es, r->out.seg[X86_FS] = fs, r->out.seg[X86_GS] = gs;
    r->out.fs_base = prog_child_saved_fs;
    r->out.gs_base = read_gs_base();
    const uint8_t *fp = (const uint8_t *)u->uc_mcontext.fpregs;
    memcpy(r->out.fx, fp, 512);
    memset(r->out.ymm_high, 0, sizeof r->out.ymm_high);
    if (has_ymm(fp) && dp_ld64(fp + XSTATE_BV) & 4)
        memcpy(r->out.ymm_high, fp + XSTATE_YMM, sizeof r->out.ymm_high);
    r->vector = sig == SIGALRM ? CPU_TIMEOUT : (uint8_t)g[REG_TRAPNO];
    r->error = (uint32_t)g[REG_ERR];
    r->cr2 = r->vector == X86_PF_ ? (uint64_t)g[REG_CR2] : 0;
    memcpy(result->memory, child.memory, PROG_MEMORY);
}

static void load(ucontext_t *u, const struct prog_image *p)
{
    memcpy(child.memory, p->memory, PROG_MEMORY);
    memcpy(child.code + p->code_offset, p->code, p->code_size);
    greg_t *g = u->uc_mcontext.gregs;
    for (unsigned i = 0; i < 16; i++)
        g[greg_of[i]] = (greg_t)p->in.r[i];
    g[REG_RIP] = (greg_t)p->in.rip;
    g[REG_EFL] = (greg_t)p->in.rflags;
    g[REG_CSGSFS] = (greg_t)((uint64_t)p->in.seg[X86_CS] | (uint64_t)p->in.seg[X86_SS] << 48);
    u->uc_flags |= 2 | 4; /* UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS: load SS as it is given */
    uint8_t *fp = (uint8_t *)u->uc_mcontext.fpregs;
    memcpy(fp, p->in.fx, FX_END);
    if (dp_ld32(fp + FP_MAGIC_AT) == FP_XSTATE_MAGIC)
        dp_st64(fp + XSTATE_BV, dp_ld64(fp + XSTATE_BV) | 3);
    if (has_ymm(fp)) {
        dp_st64(fp + XSTATE_BV, dp_ld64(fp + XSTATE_BV) | 4);
        memcpy(fp + XSTATE_YMM, p->in.ymm_high, sizeof p->in.ymm_high);
    }
    sigemptyset(&u->uc_sigmask);
    __asm__ volatile("movw %0, %%ds\n movw %1, %%es\n movw %2, %%fs\n movw %3, %%gs"
                     :
                     : "r"(p->in.seg[X86_DS]), "r"(p->in.seg[X86_ES]), "r"(p->in.seg[X86_FS]), "r"(p->in.seg[X86_GS]));
    if (!p->in.seg[X86_GS])
        write_gs_base(p->in.gs_base);
    uint64_t fs;
    if (p->in.seg[X86_FS])
        __asm__ volatile("rdfsbase %0" : "=r"(fs)); /* a selector brings its base */
    else
        fs = p->in.fs_base;
    prog_child_saved_fs = fs; /* the entry code loads it last */
    write_fs_base(prog_child_home_fs);
}

void prog_child_handle(int sig, siginfo_t *info, ucontext_t *u)
{
    struct prog_native_batch *b = child.batch;
    uint8_t *fp = (uint8_t *)u->uc_mcontext.fpregs;
    if (!child.active) {
        if (sig == SIGALRM)
            return;
        child.active = true; /* the first: remember where to go back to */
        child.home = *u;
        child.home_fs = prog_child_saved_fs;
        memcpy(child.home_fp, fp, 512);
        load(u, &b->images[b->next]);
        return;
    }
    if (sig == SIGALRM && child.last_tick != b->next) {
        child.last_tick = b->next;
        return;
    }
    const struct prog_image *p = &b->images[b->next];
    capture(u, sig, &b->results[b->next]);
    memset(child.code + p->code_offset, 0xcc, p->code_size);
    b->next++;
    child.last_tick = ~0u;
    if (b->next < b->count) {
        load(u, &b->images[b->next]);
        return;
    }
    child.active = false;
    memcpy(u->uc_mcontext.gregs, child.home.uc_mcontext.gregs, sizeof u->uc_mcontext.gregs);
    u->uc_mcontext.gregs[REG_RIP]++; /* over the HLT that brought us here */
    memcpy(fp, child.home_fp, 512);
    dp_st64(fp + XSTATE_BV, dp_ld64(fp + XSTATE_BV) | 3);
    sigemptyset(&u->uc_sigmask);
    __asm__ volatile("movw %0, %%ds\n movw %0, %%es\n movw %0, %%fs\n movw %0, %%gs" : : "r"((uint16_t)0));
    write_gs_base(0);
    prog_child_saved_fs = child.home_fs;
    write_fs_base(prog_child_home_fs);
}

static bool map(uint64_t at, size_t size, int prot, int fd, off_t offset)
{
    return mmap((void *)at, size, prot, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd, offset) == (void *)at;
}

static int map_world(void)
{
    int code = memfd_create("code", MFD_CLOEXEC), memory = memfd_create("memory", MFD_CLOEXEC);
    if (code < 0 || memory < 0 || ftruncate(code, CPU_CODE_SIZE) || ftruncate(memory, PROG_MEMORY))
        return -1;
    child.code = mmap(NULL, CPU_CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, code, 0);
    child.memory = mmap(NULL, PROG_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (child.code == MAP_FAILED || child.memory == MAP_FAILED)
        return -1;
    memset(child.code, 0xcc, CPU_CODE_SIZE);
    memset(child.memory, 0, PROG_MEMORY);
    if (!map(CPU_CODE, CPU_CODE_SIZE, PROT_READ | PROT_EXEC, code, 0))
        return -1;
    for (unsigned i = 0; i < PROG_PAGES; i++) {
        const struct prog_page *k = &prog_page[i];
        for (unsigned high = 0; high < 2 && k->frame >= 0; high++)
            if (!map((high ? PROG_HIGH : PROG_DATA) + i * 4096u, 4096, PROT_READ | (k->writable ? PROT_WRITE : 0), memory, k->frame * 4096))
                return -1;
    }
    for (unsigned i = 0; i < LDT_COUNT; i++) {
        const struct cpu_ldt_entry *l = &cpu_ldt[i];
        struct user_desc d = {.entry_number = i,
                              .base_addr = l->base,
                              .limit = l->limit,
                              .seg_32bit = l->big,
                              .contents = l->contents,
                              .read_exec_only = l->read_exec_only,
                              .limit_in_pages = l->pages,
                              .seg_not_present = l->absent};
        if (syscall(SYS_modify_ldt, 0x11, &d, sizeof d))
            return -1;
    }
    return 0;
}

int main(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct prog_native_batch *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED, NATIVE_BATCH_FD, 0);
    if (b == MAP_FAILED)
        return 3;
    child.batch = b;
    if (!(getauxval(AT_HWCAP2) & 2)) /* HWCAP2_FSGSBASE */
        return 3;
    __asm__ volatile("rdfsbase %0" : "=r"(prog_child_home_fs));
    if (map_world())
        return 3;
    size_t stack_size = 256 << 10;
    stack_t ss = {.ss_sp = mmap(NULL, stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), .ss_size = stack_size};
    if (ss.ss_sp == MAP_FAILED || sigaltstack(&ss, NULL))
        return 3;
    const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGALRM};
    for (unsigned i = 0; i < DP_ARRAY_LEN(signals); i++) {
        struct sigaction a = {.sa_sigaction = prog_child_entry, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
        sigfillset(&a.sa_mask);
        sigaction(signals[i], &a, NULL);
    }
    char byte;
    while (read(NATIVE_START_FD, &byte, 1) == 1) {
        const struct itimerval tick = {{0, 100000}, {0, 100000}}, off = {{0, 0}, {0, 0}};
        child.last_tick = ~0u;
        setitimer(ITIMER_REAL, &tick, NULL);
        if (b->next < b->count)
            __asm__ volatile("hlt" : : : "memory"); /* #GP: the handler takes over; every register comes back */
        setitimer(ITIMER_REAL, &off, NULL);
        if (write(NATIVE_DONE_FD, &byte, 1) != 1)
            break;
    }
    return 0;
}
