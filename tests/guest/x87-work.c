/* x87-work.c - processes that compute with x87 and MMX registers at the same time, while time slices, a signal handler and unmasked exceptions try to lose
 * their state. Prints a line for each: the same everywhere. Run on the host and in the guest by tests/guest/boot. */
#define _GNU_SOURCE
#include <fenv.h>
#include <math.h>
#include <mmintrin.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

enum { PROCESSES = 4, ROUNDS = 300000 };
static sigjmp_buf back;
static volatile unsigned wrong;
extern const char division[], after_division[];

static void spoil(int signal)
{
    (void)signal;
    __asm__ volatile("fninit\n fldpi\n fldpi\n fldl2e\n fldz\n pcmpeqd %%mm5, %%mm5\n emms" : : : "memory");
}

/* The frame has the exception, where it came from and what came next. */
static void on_fpe(int signal, siginfo_t *info, void *context)
{
    const ucontext_t *u = context;
    const struct _libc_fpstate *f = u->uc_mcontext.fpregs;
    (void)signal;
    if (info->si_code != FPE_FLTDIV || !(f->swd & 4) || f->rip != (uint64_t)(uintptr_t)division ||
        (uint64_t)u->uc_mcontext.gregs[REG_RIP] != (uint64_t)(uintptr_t)after_division)
        wrong++;
    siglongjmp(back, 1);
}

__attribute__((noinline)) static unsigned divide(void)
{
    static volatile double zero;
    uint16_t unmasked = 0x37b;
    if (sigsetjmp(back, 1)) {
        __asm__ volatile("fninit");
        return 1;
    }
    __asm__ volatile("fldcw %0\n fld1\n .globl division, after_division\ndivision: fdivl %1\n inc %%eax\nafter_division: fwait\n" : : "m"(unmasked), "m"(zero) : "eax");
    return 0;
}

static uint64_t mix(uint64_t hash, const void *data, size_t size)
{
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ ((const uint8_t *)data)[i]) * 1099511628211ull;
    return hash;
}

static uint64_t work(unsigned seed)
{
    long double a = 1.0L + seed * 1e-3L, b = 0.5L, c = 0;
    uint64_t hash = 1469598103934665603ull;
    unsigned caught = 0;
    for (unsigned r = 0; r < ROUNDS; r++) {
        a = a * 1.0000001L + b / (r + 1);
        b = sqrtl(fabsl(a - c)) + 1e-9L;
        c += a > b ? b : -a;
        if (r % 16 == 0)
            hash += (uint64_t)llrintl(a * 1e6L);
        if (r % 4096 == 0) {
            sched_yield();
            __m64 m = _mm_set1_pi16((short)r);
            for (unsigned i = 0; i < 1000; i++)
                m = _mm_add_pi16(_mm_mullo_pi16(m, _mm_set1_pi16(31)), _mm_set_pi16(1, 2, 3, 4));
            uint64_t v = (uint64_t)_mm_cvtm64_si64(m);
            _mm_empty();
            hash = mix(hash, &v, 8);
        }
        if (r % 30000 == 7) {
            long double keep = c;
            caught += divide();
            c = keep;
        }
    }
    hash = mix(hash, &a, 10), hash = mix(hash, &b, 10), hash = mix(hash, &c, 10);
    return mix(hash, &caught, 4) + wrong;
}

int main(void)
{
    for (unsigned i = 0; i < PROCESSES; i++)
        if (fork() == 0) {
            struct itimerval tick = {{0, 3000}, {0, 3000}};
            struct sigaction fpe = {.sa_sigaction = on_fpe, .sa_flags = SA_SIGINFO};
            char line[64];
            signal(SIGALRM, spoil);
            sigaction(SIGFPE, &fpe, NULL);
            setitimer(ITIMER_REAL, &tick, NULL);
            uint64_t hash = work(i + 1);
            int n = snprintf(line, sizeof line, "x87-%u=%016llx-%u\n", i, (unsigned long long)hash, wrong);
            return write(1, line, (size_t)n) != n;
        }
    int status, bad = 0;
    while (wait(&status) > 0)
        bad |= status;
    return bad != 0;
}
