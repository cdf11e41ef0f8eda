/* native_child.c - executes cases on the host's processor: the program behind native.c.
 *
 * Model: it raises one signal; from then on every case is started by returning from a signal handler (sigreturn loads all registers, CS, SS
 * and the FPU image in one go) and ends in the next signal, whose frame is the result: two kernel entries a case, no ptrace. The handler
 * runs on an alternate stack with the snippet's FS base, flags and data segments still loaded, so its entry (assembly) sets the flags, and
 * nothing touches thread-local storage before the own FS base is back. A program of its own, built without sanitizers: their shadow memory
 * would be in the snippets' reach, and a wild store costs only this process. Invariant: kernel and processor give vector, error code and
 * CR2 in the frame's trapno, err and cr2; Linux reports faults at kernel addresses with the P bit set (arch/x86/mm/fault.c), which the
 * comparison allows for.
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

#include "native.h"

/* The child's own. A signal handler has no other way to reach its context. */
static struct {
    struct cpu_native_batch *batch;
    uint8_t *code;   /* writable alias of the code pages */
    uint8_t *data;   /* writable alias of the data pages */
    ucontext_t home; /* registers of run_batch, to return to after the batch */
    uint8_t home_fp[4096] __attribute__((aligned(64)));
    uint32_t home_fp_size;
    bool active;
    unsigned last_tick;
    uint64_t home_fs;
} child;
uint64_t cpu_native_saved_fs __attribute__((visibility("hidden"))); /* FS base the snippet left */
uint64_t cpu_native_home_fs __attribute__((visibility("hidden")));

void cpu_native_entry(int sig, siginfo_t *info, void *context);
__attribute__((visibility("hidden"), used)) void cpu_native_handle(int sig, siginfo_t *info, ucontext_t *u);
__asm__(".text\n"
        ".type cpu_native_entry, @function\n"
        "cpu_native_entry:\n"
        "  pushq $0x202\n" /* no AC, DF, NT, ID of the snippet */
        "  popfq\n"
        "  rdfsbase %rcx\n"
        "  movq %rcx, cpu_native_saved_fs(%rip)\n"
        "  movq cpu_native_home_fs(%rip), %rcx\n"
        "  wrfsbase %rcx\n"
        "  subq $8, %rsp\n"
        "  call cpu_native_handle\n"
        "  addq $8, %rsp\n"
        "  movq cpu_native_saved_fs(%rip), %rcx\n"
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

/* The kernel's signal frame has the standard XSAVE format: header at 512, YMM at 576, if it says so behind the legacy image. */
enum { FRAME_MAGIC = 464, FRAME_STATES = FRAME_MAGIC + 8, XSTATE_BV = 512, XSTATE_YMM = 576 };
static bool has_states(const uint8_t *fp) { return dp_ld32(fp + FRAME_MAGIC) == 0x46505853; /* FP_XSTATE_MAGIC1 */ }
static bool has_ymm(const uint8_t *fp) { return has_states(fp) && dp_ld64(fp + FRAME_STATES) & 4; }

static void capture(ucontext_t *u, int sig, struct cpu_result *r)
{
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
    r->out.fs_base = cpu_native_saved_fs;
    r->out.gs_base = read_gs_base();
    const uint8_t *fp = (const uint8_t *)u->uc_mcontext.fpregs;
    memcpy(r->out.fx, fp, 512);
    if (has_ymm(fp) && dp_ld64(fp + XSTATE_BV) & 4)
        memcpy(r->out.ymm_high, fp + XSTATE_YMM, sizeof r->out.ymm_high);
    else
        memset(r->out.ymm_high, 0, sizeof r->out.ymm_high);
    r->vector = sig == SIGALRM ? CPU_TIMEOUT : (uint8_t)g[REG_TRAPNO];
    r->error = (uint32_t)g[REG_ERR];
    r->cr2 = r->vector == X86_PF_ ? (uint64_t)g[REG_CR2] : 0;
    memcpy(r->data, child.data, CPU_RW_SIZE);
}

static void load(ucontext_t *u, const struct cpu_case *c)
{
    memcpy(child.data, child.batch->base, CPU_DATA_SIZE);
    for (unsigned i = 0; i < c->patch_count; i++)
        memcpy(child.data + c->patch[i].offset, c->patch[i].bytes, c->patch[i].size);
    memcpy(child.code + c->code_offset, c->code, c->code_size);

    greg_t *g = u->uc_mcontext.gregs;
    for (unsigned i = 0; i < 16; i++)
        g[greg_of[i]] = (greg_t)c->in.r[i];
    g[REG_RIP] = (greg_t)c->in.rip;
    g[REG_EFL] = (greg_t)c->in.rflags;
    g[REG_CSGSFS] = (greg_t)((uint64_t)c->in.seg[X86_CS] | (uint64_t)c->in.seg[X86_SS] << 48);
    u->uc_flags |= 2 | 4; /* UC_SIGCONTEXT_SS, UC_STRICT_RESTORE_SS: load SS as it is given */
    /* Keep what the kernel wrote behind the legacy image, and have it load x87, SSE and AVX from there. */
    uint8_t *fp = (uint8_t *)u->uc_mcontext.fpregs;
    memcpy(fp, c->in.fx, FX_END);
    if (has_states(fp))
        dp_st64(fp + XSTATE_BV, dp_ld64(fp + XSTATE_BV) | 3);
    if (has_ymm(fp)) {
        static const uint8_t zero[sizeof c->in.ymm_high];
        memcpy(fp + XSTATE_YMM, c->in.ymm_high, sizeof c->in.ymm_high);
        if (memcmp(c->in.ymm_high, zero, sizeof zero)) /* what is zero is not in use: XSAVE shows that */
            dp_st64(fp + XSTATE_BV, dp_ld64(fp + XSTATE_BV) | 4);
        else
            dp_st64(fp + XSTATE_BV, dp_ld64(fp + XSTATE_BV) & ~4ull);
    }
    sigemptyset(&u->uc_sigmask);
    __asm__ volatile("movw %0, %%ds\n movw %1, %%es\n movw %2, %%fs\n movw %3, %%gs"
                     :
                     : "r"(c->in.seg[X86_DS]), "r"(c->in.seg[X86_ES]), "r"(c->in.seg[X86_FS]), "r"(c->in.seg[X86_GS]));
    /* A selector brings its base; only null ones have theirs given. */
    if (!c->in.seg[X86_GS])
        write_gs_base(c->in.gs_base);
    uint64_t fs;
    if (c->in.seg[X86_FS])
        __asm__ volatile("rdfsbase %0" : "=r"(fs));
    else
        fs = c->in.fs_base;
    cpu_native_saved_fs = fs; /* the entry code loads it last */
    write_fs_base(cpu_native_home_fs);
}

void cpu_native_handle(int sig, siginfo_t *info, ucontext_t *u)
{
    struct cpu_native_batch *b = child.batch;
    if (!child.active) {
        if (sig == SIGALRM)
            return;
        child.active = true; /* the first: remember where to go back to */
        child.home = *u;
        child.home_fs = cpu_native_saved_fs;
        uint8_t *fp = (uint8_t *)u->uc_mcontext.fpregs;
        memcpy(child.home_fp, fp, 512);
        load(u, &b->cases[b->next]);
        return;
    }
    if (sig == SIGALRM && child.last_tick != b->next) {
        child.last_tick = b->next;
        return;
    }
    const struct cpu_case *c = &b->cases[b->next];
    capture(u, sig, &b->results[b->next]);
    memset(child.code + c->code_offset, 0xcc, c->code_size);
    b->next++;
    child.last_tick = ~0u;
    if (b->next < b->count) {
        load(u, &b->cases[b->next]);
        return;
    }
    child.active = false;
    uint8_t *fp = (uint8_t *)u->uc_mcontext.fpregs;
    memcpy(u->uc_mcontext.gregs, child.home.uc_mcontext.gregs, sizeof u->uc_mcontext.gregs);
    u->uc_mcontext.gregs[REG_RIP]++; /* over the HLT that brought us here */
    memcpy(fp, child.home_fp, 512);
    dp_st64(fp + XSTATE_BV, (dp_ld64(fp + XSTATE_BV) & ~4ull) | 3);
    sigemptyset(&u->uc_sigmask);
    __asm__ volatile("movw %0, %%ds\n movw %0, %%es\n movw %0, %%fs\n movw %0, %%gs" : : "r"((uint16_t)0));
    write_gs_base(0);
    cpu_native_saved_fs = child.home_fs;
    write_fs_base(cpu_native_home_fs);
}

static int map_world(void)
{
    int code = memfd_create("code", MFD_CLOEXEC), data = memfd_create("data", MFD_CLOEXEC);
    if (code < 0 || data < 0 || ftruncate(code, CPU_CODE_SIZE) || ftruncate(data, CPU_DATA_SIZE))
        return -1;
    child.code = mmap(NULL, CPU_CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, code, 0);
    child.data = mmap(NULL, CPU_DATA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, data, 0);
    if (child.code == MAP_FAILED || child.data == MAP_FAILED)
        return -1;
    memset(child.code, 0xcc, CPU_CODE_SIZE);
    const struct {
        uint64_t at;
        size_t size;
        int prot, fd;
        off_t offset;
    } maps[] = {
        {CPU_CODE, CPU_CODE_SIZE, PROT_READ | PROT_EXEC, code, 0},        {CPU_DATA, CPU_RW_SIZE, PROT_READ | PROT_WRITE, data, 0},
        {CPU_DATA + CPU_RW_SIZE, CPU_PAGE, PROT_READ, data, CPU_RW_SIZE}, {CPU_HIGH, CPU_RW_SIZE, PROT_READ | PROT_WRITE, data, 0},
        {CPU_HIGH + CPU_RW_SIZE, CPU_PAGE, PROT_READ, data, CPU_RW_SIZE},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(maps); i++) {
        void *p = mmap((void *)maps[i].at, maps[i].size, maps[i].prot, MAP_SHARED | MAP_FIXED_NOREPLACE | MAP_POPULATE, maps[i].fd,
                       maps[i].offset);
        if (p != (void *)maps[i].at)
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
    struct cpu_native_batch *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED, NATIVE_BATCH_FD, 0);
    if (b == MAP_FAILED)
        return 3;
    child.batch = b;
    if (!(getauxval(AT_HWCAP2) & 2)) /* HWCAP2_FSGSBASE */
        return 3;
    __asm__ volatile("rdfsbase %0" : "=r"(cpu_native_home_fs));
    if (map_world())
        return 3;
    size_t stack_size = 256 << 10;
    stack_t ss = {.ss_sp = mmap(NULL, stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), .ss_size = stack_size};
    if (ss.ss_sp == MAP_FAILED || sigaltstack(&ss, NULL))
        return 3;
    const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGALRM};
    for (unsigned i = 0; i < DP_ARRAY_LEN(signals); i++) {
        struct sigaction a = {.sa_sigaction = cpu_native_entry, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
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
