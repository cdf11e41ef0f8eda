/* test_smp.c - two virtual processors at once: atomicity, memory order (x86-TSO, SDM vol. 3, 9.2) and code written by another processor.
 *
 * Model: guest code is assembled into this file and copied to guest memory; each processor runs one routine in 64-bit mode at CPL 0 on
 * flat, identity-mapped memory, on its own host thread, until HLT. Arguments: RDI = shared page, RSI = iterations, R8 = routine's code.
 * Results are in memory and RAX. A routine counts forbidden outcomes in RAX; every test demands 0. Which engine: argv[1], default interp.
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <setjmp.h>
#include <signal.h>
#include <cmocka.h>

#include "engine/engine.h"

enum {
    PML4 = 0x1000,
    PDPT = 0x2000,
    PD = 0x3000,
    GDT = 0x4000,
    IDT = 0x5000,
    STUBS = 0x6000,
    CODE = 0x8000,
    SHARED = 0x10000,
    STACK = 0x20000,
    RAM = 0x200000
};
enum { CPUS = 2 };

struct smp {
    const struct dp_engine *engine;
    struct dp_ram *ram;
    struct dp_space *memory, *ports;
    struct dp_clock *clock;
    struct dp_engine_vm vm;
    struct x86_cpuid_model model;
    struct dp_engine_state *state;
    struct dp_cpu *cpu[CPUS];
    struct x86_state out[CPUS];
    enum dp_exit_kind exit[CPUS];
    struct sigaction segv; /* the engine's handler: cmocka puts its own in its place before each test */
};
static const char *engine_name = "interp";

/* ---- guest routines: position-independent, between name and name_end ---- */
#define ROUTINE(name, text)                                                                                                                \
    __asm__(".pushsection .rodata\n" #name ":\n" text "\n hlt\n" #name "_end:\n.popsection\n");                                            \
    extern const uint8_t name[], name##_end[]

ROUTINE(count_xadd, "1: mov $1, %eax\n lock xaddq %rax, (%rdi)\n dec %rsi\n jnz 1b\n xor %eax, %eax");
ROUTINE(count_inc, "1: lock incl (%rdi)\n lock decl 8(%rdi)\n lock addw $3, 16(%rdi)\n dec %rsi\n jnz 1b\n xor %eax, %eax");
ROUTINE(count_cmpxchg,
        "1: mov (%rdi), %rax\n2: lea 1(%rax), %rbx\n lock cmpxchgq %rbx, (%rdi)\n jnz 2b\n dec %rsi\n jnz 1b\n xor %eax, %eax");
ROUTINE(count_cmpxchg16b, "1: mov (%rdi), %rax\n mov 8(%rdi), %rdx\n2: mov %rax, %rbx\n mov %rdx, %rcx\n add $1, %rbx\n sub $1, %rcx\n "
                          "lock cmpxchg16b (%rdi)\n jnz 2b\n"
                          " dec %rsi\n jnz 1b\n xor %eax, %eax");
ROUTINE(count_cmpxchg8b, "1: mov (%rdi), %eax\n mov 4(%rdi), %edx\n2: mov %eax, %ebx\n mov %edx, %ecx\n add $1, %ebx\n adc $0, %ecx\n lock "
                         "cmpxchg8b (%rdi)\n jnz 2b\n"
                         " dec %rsi\n jnz 1b\n xor %eax, %eax");
/* A spin lock by XCHG around a plain increment: order and atomicity together. */
ROUTINE(count_xchg_lock, "1: mov $1, %eax\n2: xchg %eax, (%rdi)\n test %eax, %eax\n jz 3f\n pause\n jmp 2b\n3: incq 64(%rdi)\n movl $0, "
                         "(%rdi)\n dec %rsi\n jnz 1b\n xor %eax, %eax");
/* Bits of one byte, each processor toggles its own (R9): any lost update leaves CF wrong. */
ROUTINE(toggle_bits,
        " xor %eax, %eax\n1: lock btsl %r9d, (%rdi)\n adc $0, %rax\n lock btrl %r9d, (%rdi)\n cmc\n adc $0, %rax\n dec %rsi\n jnz 1b");
/* Straddles two cache lines (RDI + 62). */
ROUTINE(count_split, "1: lock addq $1, 60(%rdi)\n dec %rsi\n jnz 1b\n xor %eax, %eax");
/* Straddles two pages (RDI + 0x2ffc). */
ROUTINE(count_pages, "1: lock addq $1, 0x2ffc(%rdi)\n dec %rsi\n jnz 1b\n xor %eax, %eax");

/* Message passing: x then y are raised together; y seen means x seen. */
ROUTINE(mp_write, " xor %eax, %eax\n1: inc %rax\n mov %rax, (%rdi)\n mov %rax, 128(%rdi)\n cmp %rsi, %rax\n jb 1b\n xor %eax, %eax");
ROUTINE(mp_read, " xor %eax, %eax\n1: mov 128(%rdi), %rbx\n mov (%rdi), %rcx\n cmp %rbx, %rcx\n adc $0, %rax\n cmp %rsi, %rbx\n jb 1b");
/* Rounds of store buffering. R9 is 0 or 1: own variable at RDI + R9 * 64, other's at RDI + (R9 ^ 1) * 64; results at RDI + 256 + R9 * 8; a
 * barrier counter at RDI + 512. With a fence between, both reading the old value is forbidden. */
#define SB(fence)                                                                                                                          \
    " xor %eax, %eax\n mov %r9, %r10\n shl $6, %r10\n add %rdi, %r10\n mov %r9, %r11\n xor $1, %r11\n shl $6, %r11\n add %rdi, %r11\n "    \
    "xor %r12d, %r12d\n"                                                                                                                   \
    "1: add $2, %r12\n mov $1, %ebx\n lock xaddq %rbx, 512(%rdi)\n2: cmp %r12, 512(%rdi)\n jb 2b\n"                                        \
    " mov %rsi, (%r10)\n" fence " mov (%r11), %rbx\n mov %rbx, 256(%rdi,%r9,8)\n"                                                          \
    " add $2, %r12\n mov $1, %ebx\n lock xaddq %rbx, 512(%rdi)\n3: cmp %r12, 512(%rdi)\n jb 3b\n"                                          \
    " cmp %rsi, 256(%rdi)\n je 4f\n cmp %rsi, 264(%rdi)\n je 4f\n inc %rax\n4: dec %rsi\n jnz 1b"
ROUTINE(sb_mfence, SB("mfence\n"));
ROUTINE(sb_lock, SB("lock orl $0, (%rsp)\n"));
ROUTINE(sb_xchg, SB("xchg %rbx, 1024(%rdi,%r9,8)\n"));
/* Load buffering: x86 never lets a load see a store that comes after the other's load. */
ROUTINE(lb, " xor %eax, %eax\n mov %r9, %r10\n shl $6, %r10\n add %rdi, %r10\n mov %r9, %r11\n xor $1, %r11\n shl $6, %r11\n add %rdi, "
            "%r11\n xor %r12d, %r12d\n"
            "1: add $2, %r12\n mov $1, %ebx\n lock xaddq %rbx, 512(%rdi)\n2: cmp %r12, 512(%rdi)\n jb 2b\n"
            " mov (%r11), %rbx\n mov %rsi, (%r10)\n mov %rbx, 256(%rdi,%r9,8)\n"
            " add $2, %r12\n mov $1, %ebx\n lock xaddq %rbx, 512(%rdi)\n3: cmp %r12, 512(%rdi)\n jb 3b\n"
            " cmp %rsi, 256(%rdi)\n jne 4f\n cmp %rsi, 264(%rdi)\n jne 4f\n inc %rax\n4: dec %rsi\n jnz 1b");
/* Aligned stores are seen whole. */
ROUTINE(tear_write, " xor %eax, %eax\n1: mov %rax, (%rdi)\n not %rax\n dec %rsi\n jnz 1b\n movq $1, 128(%rdi)\n xor %eax, %eax");
ROUTINE(tear_read,
        " xor %eax, %eax\n1: mov (%rdi), %rbx\n lea 1(%rbx), %rcx\n cmp $2, %rcx\n cmc\n adc $0, %rax\n cmpq $0, 128(%rdi)\n je 1b");
/* Cross-modifying code, the proper way (SDM vol. 3, 9.1.3): write code, raise a flag; the other sees the flag, serializes, runs the code.
 * Code at RDI + 0x1000: mov $imm32, %eax; ret. */
ROUTINE(xmc_write, " xor %r12d, %r12d\n1: inc %r12\n mov %r12d, 0x1004(%rdi)\n mov %r12, (%rdi)\n2: cmp %r12, 64(%rdi)\n jb 2b\n cmp %rsi, "
                   "%r12\n jb 1b\n xor %eax, %eax");
ROUTINE(xmc_run, " xor %r12d, %r12d\n xor %r13d, %r13d\n lea 0x1003(%rdi), %r14\n1: inc %r12\n2: cmp %r12, (%rdi)\n jb 2b\n xor %eax, "
                 "%eax\n cpuid\n call *%r14\n"
                 " cmp %r12d, %eax\n je 3f\n inc %r13\n3: mov %r12, 64(%rdi)\n cmp %rsi, %r12\n jb 1b\n mov %r13, %rax");
/* The careless way: the immediate is one aligned store, so values must come whole and never go back. */
ROUTINE(xmc_storm, " xor %eax, %eax\n1: inc %rax\n imul $0x10001, %eax, %ecx\n mov %ecx, 0x1004(%rdi)\n cmp %rsi, %rax\n jb 1b\n movq $1, "
                   "64(%rdi)\n xor %eax, %eax");
ROUTINE(xmc_watch, " xor %r12d, %r12d\n xor %r13d, %r13d\n lea 0x1003(%rdi), %r14\n1: call *%r14\n movzwl %ax, %ecx\n shr $16, %eax\n cmp "
                   "%eax, %ecx\n je 2f\n inc %r13\n2: cmp %r12d, %ecx\n"
                   " jae 3f\n inc %r13\n3: mov %ecx, %r12d\n cmpq $0, 64(%rdi)\n je 1b\n mov %r13, %rax");
/* Own code: each round rewrites the immediate a few bytes ahead. */
ROUTINE(smc_own, " xor %r13d, %r13d\n1: mov %esi, 2f+1(%rip)\n jmp 2f\n2: mov $0, %eax\n cmp %esi, %eax\n je 3f\n inc %r13\n3: dec %rsi\n "
                 "jnz 1b\n mov %r13, %rax");
/* The same without a branch between: x86 promises it on one processor (SDM vol. 3, 9.1.3 and 12.6: same linear address). */
ROUTINE(smc_next, " xor %r13d, %r13d\n1: mov %esi, 2f+1(%rip)\n2: mov $0, %eax\n cmp %esi, %eax\n je 3f\n inc %r13\n3: dec %rsi\n jnz 1b\n "
                  "mov %r13, %rax");

/* ---- the machine ---- */
static int no_ack(void *apic) { return -1; }
static bool not_pending(void *apic) { return false; }
static uint64_t no_read(void *apic, uint64_t offset, unsigned size) { return 0; }
static void no_write(void *apic, uint64_t offset, uint64_t value, unsigned size) {}
static uint8_t no_tpr(void *apic) { return 0; }
static void no_tpr_write(void *apic, uint8_t tpr) {}
static bool no_msr(void *apic, uint32_t msr, uint64_t *value) { return false; }
static bool no_msr_write(void *apic, uint32_t msr, uint64_t value) { return false; }
static bool no_pv(void *pv, unsigned cpu, uint32_t msr, uint64_t value) { return false; }

static int setup(void **state)
{
    struct smp *m = calloc(1, sizeof *m);
    struct dp_error e;
    uint32_t id;
    m->engine = dp_engine_find(engine_name);
    assert_non_null(m->engine);
    assert_int_equal(x86_cpuid_model("x86-64-v2", &m->model, &e), 0);
    m->model.cpu_count = CPUS;
    assert_int_equal(dp_ram_create("smp", RAM, &m->ram, &e), 0);
    assert_int_equal(dp_space_create("memory", 1ull << 40, NULL, &m->memory, &e), 0);
    assert_int_equal(dp_space_create("ports", 0x10000, NULL, &m->ports, &e), 0);
    assert_int_equal(dp_space_map_ram(m->memory, 0, m->ram, 0, RAM, false, 0, &id, &e), 0);
    assert_int_equal(dp_clock_create_manual(&m->clock, &e), 0);
    m->vm = (struct dp_engine_vm){.memory = m->memory, .ports = m->ports, .clock = m->clock, .model = &m->model, .cpu_count = CPUS};
    assert_int_equal(m->engine->vm_init(&m->vm, &m->state, &e), 0);
    sigaction(SIGSEGV, NULL, &m->segv);
    const struct dp_x86_bus bus = {no_ack, not_pending, no_read, no_write, no_tpr, no_tpr_write, no_msr, no_msr_write, m, no_pv, m};
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(m->engine->cpu_init(m->state, i, &bus, &m->cpu[i], &e), 0);
    uint8_t *h = m->ram->host;
    dp_st64(h + PML4, PDPT | 3);
    dp_st64(h + PDPT, PD | 3);
    dp_st64(h + PD, 0x83);
    dp_st64(h + GDT + 0x08, 0x00af9b000000ffffull);
    dp_st64(h + GDT + 0x10, 0x00cf93000000ffffull);
    for (unsigned v = 0; v < 32; v++)
        dp_st64(h + IDT + v * 16, (uint64_t)(STUBS + v * 16) | 8 << 16 | 0x8eull << 40);
    memset(h + STUBS, 0xf4, 32 * 16);
    *state = m;
    return 0;
}

static int teardown(void **state)
{
    struct smp *m = *state;
    for (unsigned i = 0; i < CPUS; i++)
        m->engine->cpu_fini(m->cpu[i]);
    m->engine->vm_fini(m->state);
    dp_clock_destroy(m->clock);
    dp_space_destroy(m->memory);
    dp_space_destroy(m->ports);
    dp_ram_destroy(m->ram);
    free(m);
    return 0;
}

struct job {
    struct smp *m;
    unsigned index;
};

static void *run_cpu(void *opaque)
{
    struct job *j = opaque;
    struct dp_exit x;
    for (;;) {
        memset(&x, 0, sizeof x);
        j->m->engine->run(j->m->cpu[j->index], 0, &x);
        dp_buffer_fini(&x.text);
        if (x.kind != DP_EXIT_BUDGET && x.kind != DP_EXIT_KICK)
            break;
    }
    j->m->exit[j->index] = x.kind;
    return NULL;
}

struct routine {
    const uint8_t *begin, *end;
};
#define R(name) ((struct routine){name, name##_end})

/* Runs one routine per processor to HLT; checks that no exception came and that none counted a forbidden outcome. count 1: only the first.
 */
static void run(struct smp *m, const struct routine *r, unsigned count, uint64_t iterations)
{
    sigaction(SIGSEGV, &m->segv, NULL);
    memset(m->ram->host + SHARED, 0, 0x4000);
    static const uint8_t callee[] = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov eax, imm32 (aligned at +4); ret */
    dp_space_write(m->memory, SHARED + 0x1003, callee, sizeof callee);
    pthread_t thread[CPUS];
    struct job job[CPUS];
    for (unsigned i = 0; i < count; i++) {
        uint64_t code = CODE + i * 0x1000;
        dp_space_write(m->memory, code, r[i].begin, (uint64_t)(r[i].end - r[i].begin));
        struct x86_state s;
        x86_state_reset(&s, true);
        s.cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_PG;
        s.cr3 = PML4, s.cr4 = X86_CR4_PAE | X86_CR4_OSFXSR;
        s.efer = X86_EFER_LME | X86_EFER_LMA;
        for (unsigned k = 0; k < X86_SEGS; k++)
            s.seg[k] = (struct x86_seg){.sel = 0x10, .attr = 0xc093, .limit = ~0u};
        s.seg[X86_CS] = (struct x86_seg){.sel = 8, .attr = 0xa09b, .limit = ~0u};
        s.gdtr.base = GDT, s.gdtr.limit = 0x17;
        s.idtr.base = IDT, s.idtr.limit = 32 * 16 - 1;
        s.rflags = 2;
        s.r[X86_RIP] = code, s.r[X86_R8] = code;
        s.r[X86_RDI] = SHARED, s.r[X86_RSI] = iterations, s.r[X86_R9] = i;
        s.r[X86_RSP] = STACK + (i + 1) * 0x1000;
        s.run_state = X86_RUNNING;
        m->engine->push(m->cpu[i], &s);
    }
    for (unsigned i = 0; i < count; i++) {
        job[i] = (struct job){m, i};
        assert_int_equal(pthread_create(&thread[i], NULL, run_cpu, &job[i]), 0);
    }
    for (unsigned i = 0; i < count; i++)
        pthread_join(thread[i], NULL);
    for (unsigned i = 0; i < count; i++) {
        m->engine->pull(m->cpu[i], &m->out[i]);
        assert_int_equal(m->exit[i], DP_EXIT_HALT);
        assert_int_equal(m->out[i].r[X86_RIP], CODE + i * 0x1000 + (uint64_t)(r[i].end - r[i].begin));
        assert_int_equal(m->out[i].r[X86_RAX], 0);
    }
}
static void run_both(struct smp *m, struct routine r, uint64_t iterations)
{
    const struct routine both[CPUS] = {r, r};
    run(m, both, CPUS, iterations);
}
static uint64_t shared64(struct smp *m, unsigned at) { return dp_ld64(m->ram->host + SHARED + at); }

enum { N = 200000, ROUNDS = 8000 };

static void test_xadd(void **s)
{
    run_both(*s, R(count_xadd), N);
    assert_int_equal(shared64(*s, 0), CPUS * N);
}
static void test_inc(void **s)
{
    run_both(*s, R(count_inc), N);
    assert_int_equal(shared64(*s, 0), CPUS * N);
    assert_int_equal(shared64(*s, 8), (uint32_t)(-CPUS * N));
    assert_int_equal(shared64(*s, 16), (uint16_t)(3 * CPUS * N));
}
static void test_cmpxchg(void **s)
{
    run_both(*s, R(count_cmpxchg), N);
    assert_int_equal(shared64(*s, 0), CPUS * N);
}
static void test_cmpxchg8b(void **s)
{
    run_both(*s, R(count_cmpxchg8b), N);
    assert_int_equal(shared64(*s, 0), CPUS * N);
}
static void test_cmpxchg16b(void **s)
{
    run_both(*s, R(count_cmpxchg16b), N);
    assert_int_equal(shared64(*s, 0), CPUS * N);
    assert_int_equal(shared64(*s, 8), (uint64_t) - (int64_t)(CPUS * N));
}
static void test_xchg_lock(void **s)
{
    run_both(*s, R(count_xchg_lock), N / 4);
    assert_int_equal(shared64(*s, 64), CPUS * (N / 4));
}
static void test_bits(void **s)
{
    run_both(*s, R(toggle_bits), N);
    assert_int_equal(shared64(*s, 0), 0);
}
static void test_split(void **s)
{
    run_both(*s, R(count_split), N / 4);
    assert_int_equal(shared64(*s, 60), CPUS * (N / 4));
}
static void test_pages(void **s)
{
    run_both(*s, R(count_pages), N / 4);
    assert_int_equal(shared64(*s, 0x2ffc), CPUS * (N / 4));
}
static void test_message_passing(void **s) { run(*s, (struct routine[]){R(mp_write), R(mp_read)}, 2, N * 5); }
static void test_sb_mfence(void **s) { run_both(*s, R(sb_mfence), ROUNDS); }
static void test_sb_lock(void **s) { run_both(*s, R(sb_lock), ROUNDS); }
static void test_sb_xchg(void **s) { run_both(*s, R(sb_xchg), ROUNDS); }
static void test_load_buffering(void **s) { run_both(*s, R(lb), ROUNDS); }
static void test_tearing(void **s) { run(*s, (struct routine[]){R(tear_write), R(tear_read)}, 2, N * 5); }
static void test_cross_modify(void **s) { run(*s, (struct routine[]){R(xmc_write), R(xmc_run)}, 2, ROUNDS); }
static void test_cross_modify_storm(void **s) { run(*s, (struct routine[]){R(xmc_storm), R(xmc_watch)}, 2, 0xfff0); }
static void test_own_code(void **s) { run(*s, (struct routine[]){R(smc_own)}, 1, ROUNDS); }
static void test_own_next(void **s) { run(*s, (struct routine[]){R(smc_next)}, 1, ROUNDS); }

int main(int argc, char **argv)
{
    if (argc > 1)
        engine_name = argv[1];
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_xadd),
                                       T(test_inc),
                                       T(test_cmpxchg),
                                       T(test_cmpxchg8b),
                                       T(test_cmpxchg16b),
                                       T(test_xchg_lock),
                                       T(test_bits),
                                       T(test_split),
                                       T(test_pages),
                                       T(test_message_passing),
                                       T(test_sb_mfence),
                                       T(test_sb_lock),
                                       T(test_sb_xchg),
                                       T(test_load_buffering),
                                       T(test_tearing),
                                       T(test_cross_modify),
                                       T(test_cross_modify_storm),
                                       T(test_own_code),
                                       T(test_own_next)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
