/* bare.h - a bench for bare-metal tests: one small machine in this process, code assembled into the test, traps logged.
 *
 * Model: RAM at 0, a manual clock, a fake interrupt controller (a bit per vector), and an engine by name. bare_long gives a state in
 * 64-bit mode at CPL 0 with identity tables (4 KiB pages below 2 MiB, 2 MiB pages up to the end of RAM), a window of 512 free pages at
 * ALIAS, GDT, TSS and an IDT whose stubs save the registers and tell the host by a port; the host logs the trap and says how to go on:
 *   interrupts, NMI, #DB, #BP    return
 *   other exceptions             go on at R15, which becomes 0; when R15 is 0, halt
 * unless the test set on_trap. Real and 32-bit protected mode have stubs that halt: the vector is what RIP tells (bare_stub_vector).
 * Guest code reaches the host by ports: BARE_IRQ raises vector AL, BARE_NMI, BARE_HOOK calls on_hook(AL); and by MMIO at BARE_MMIO.
 * Modes of running, for all tests of a file (argv): "whole"; "steps": one instruction per run(); "roundtrip": besides, pull and push after
 * each.
 */
#ifndef BARE_H
#define BARE_H

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>
#include <unistd.h>

#include "engine/engine.h"
#include "hot.h"

enum {
    BARE_STUBS16 = 0x600, BARE_STUBS32 = 0x700, BARE_PML4 = 0x1000, BARE_PDPT = 0x2000, BARE_PD = 0x3000, BARE_PT = 0x4000,
    BARE_GDT = 0x5000,
    BARE_IDT = 0x6000, BARE_TSS = 0x7000, BARE_STUBS = 0x8000, BARE_COMMON = 0x9000, BARE_MAILBOX = 0xa000, BARE_ALIAS_PD = 0xb000,
    BARE_ALIAS_PT = 0xc000, BARE_IDT32 = 0xd000, BARE_CODE = 0x10000, BARE_DATA = 0x20000 /* 64 KiB */, BARE_STACKS = 0x40000,
    BARE_USER_CODE = 0x50000, BARE_USER_STACK = 0x60000, BARE_RAM = 16 << 20, BARE_ALIAS = 1 << 30,
    BARE_CS64 = 0x08, BARE_DS = 0x10, BARE_USER_CS32 = 0x1b, BARE_USER_DS = 0x23, BARE_USER_CS64 = 0x2b, BARE_CS32 = 0x30, BARE_CS16 = 0x38,
    BARE_TR = 0x50,
    BARE_PORTS = 0x80, BARE_TRAP = 0x80, BARE_IRQ = 0x81, BARE_NMI = 0x82, BARE_HOOK = 0x83,
    BARE_CPUS = 2, BARE_TRAPS = 256,
};
#define BARE_MMIO 0xf0000000ull

/* Guest code between name and name_end; position-independent, ends with HLT. bits: 16, 32, 64. */
#define BARE_CODE_BITS(bits, name, text)                                                                                                 \
    __asm__(".pushsection .rodata\n.code" #bits "\n" #name ":\n" text "\n hlt\n" #name "_end:\n.code64\n.popsection\n");                 \
    extern const uint8_t name[], name##_end[]
#define BARE_ASM(name, text) BARE_CODE_BITS(64, name, text)

struct bare_frame {
    uint64_t dr6, cr2, r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax, vector, error, rip, cs, rflags, rsp, ss;
};
struct bare;
struct bare_cpu {
    struct bare *b;
    unsigned index;
    struct dp_cpu *cpu;
    _Atomic uint64_t irr[4];
    struct x86_state out;     /* after bare_run */
    struct dp_exit exit;
    uint64_t runs;            /* calls of run() */
};
struct bare {
    const struct dp_engine *engine;
    struct dp_ram *ram, *spare; /* spare: a few pages that are mapped nowhere */
    uint8_t *mem;             /* of ram */
    struct dp_space *memory, *ports;
    struct dp_clock *clock;
    struct dp_engine_vm vm;
    struct x86_cpuid_model model;
    struct dp_engine_state *state;
    struct bare_cpu cpu[BARE_CPUS];
    uint8_t mmio[4096];
    uint64_t budget;
    bool steps, roundtrip;
    struct sigaction action[5]; /* the engine's, which cmocka replaces by its own for each test */
    struct bare_frame trap[BARE_TRAPS];
    unsigned traps;
    void (*on_trap)(struct bare *, struct bare_frame *);
    void (*on_hook)(struct bare *, unsigned what);
    void (*on_mmio)(struct bare *, uint64_t offset, uint64_t value);
    void (*on_smm)(struct bare *, bool in_smm);
    void (*on_ferr)(struct bare *);
    uint64_t arg[4];          /* the test's own */
};

static const char *bare_engine = "interp", *bare_mode = "whole", *bare_model = "x86-64-v2";
static _Thread_local struct bare_cpu *bare_running;

__asm__(".pushsection .rodata\nbare_common:\n push %rax\n push %rcx\n push %rdx\n push %rbx\n push %rbp\n push %rsi\n push %rdi\n"
    " push %r8\n push %r9\n push %r10\n"
        " push %r11\n push %r12\n push %r13\n push %r14\n push %r15\n mov %cr2, %rax\n push %rax\n mov %dr6, %rax\n push %rax\n"
            " str %eax\n mov %rsp, 0xa000(%rax)\n"
        " out %al, $0x80\n str %eax\n cmpb $0, 0xa008(%rax)\n jne 1f\n pop %rax\n pop %rax\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n"
            " pop %r11\n pop %r10\n pop %r9\n"
        " pop %r8\n pop %rdi\n pop %rsi\n pop %rbp\n pop %rbx\n pop %rdx\n pop %rcx\n pop %rax\n add $16, %rsp\n iretq\n1: hlt\n"
            "bare_common_end:\n.popsection\n");
extern const uint8_t bare_common[], bare_common_end[];

/* ---- devices ---- */
static bool bare_pending(void *apic)
{
    struct bare_cpu *p = apic;
    return atomic_load(&p->irr[0]) | atomic_load(&p->irr[1]) | atomic_load(&p->irr[2]) | atomic_load(&p->irr[3]);
}
/* The line as the vectors have it; looked at again, because another thread may have set it in between. */
static void bare_line(struct bare_cpu *p)
{
    bool level;
    do {
        level = bare_pending(p);
        p->b->engine->interrupt(p->cpu, DP_LINE_INTR, level);
    } while (bare_pending(p) != level);
}
static int bare_ack(void *apic)
{
    struct bare_cpu *p = apic;
    for (int w = 3; w >= 0; w--) {
        uint64_t bits = atomic_load(&p->irr[w]);
        if (!bits)
            continue;
        int bit = 63 - __builtin_clzll(bits);
        atomic_fetch_and(&p->irr[w], ~(1ull << bit));
        bare_line(p);
        return w * 64 + bit;
    }
    return -1;
}
static void bare_irq(struct bare *b, unsigned cpu, uint8_t vector)
{
    atomic_fetch_or(&b->cpu[cpu].irr[vector / 64], 1ull << vector % 64);
    bare_line(&b->cpu[cpu]);
}
static uint64_t bare_apic_read(void *apic, uint64_t offset, unsigned size) { return 0; }
static void bare_apic_write(void *apic, uint64_t offset, uint64_t value, unsigned size) {}
static uint8_t bare_tpr(void *apic) { return 0; }
static void bare_set_tpr(void *apic, uint8_t tpr) {}
static bool bare_msr(void *apic, uint32_t msr, uint64_t *value) { return false; }
static bool bare_set_msr(void *apic, uint32_t msr, uint64_t value) { return false; }
static void bare_smm(void *board, unsigned cpu, bool in_smm)
{
    struct bare *b = ((struct bare_cpu *)board)->b;
    if (b->on_smm)
        b->on_smm(b, in_smm);
}
static void bare_ferr(void *board, unsigned cpu)
{
    struct bare *b = ((struct bare_cpu *)board)->b;
    if (b->on_ferr)
        b->on_ferr(b);
}
static bool bare_pv(void *pv, unsigned cpu, uint32_t msr, uint64_t value) { return false; }

static void bare_trap(struct bare *b)
{
    uint64_t box = BARE_MAILBOX + BARE_TR + bare_running->index * 16u;
    uint64_t at = dp_ld64(b->mem + box);
    assert_true(at + sizeof(struct bare_frame) <= BARE_RAM);
    struct bare_frame *f = (struct bare_frame *)(b->mem + at);
    assert_true(b->traps < BARE_TRAPS);
    b->trap[b->traps++] = *f;
    if (b->on_trap) {
        b->on_trap(b, f);
    } else if (f->vector < 32 && f->vector != X86_DB && f->vector != X86_NMI && f->vector != X86_BP) {
        b->mem[box + 8] = !f->r15;
        f->rip = f->r15;
        f->r15 = 0;
    }
}
static void bare_port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct bare *b = opaque;
    switch (BARE_PORTS + offset) {
    case BARE_TRAP: bare_trap(b); break;
    case BARE_IRQ: bare_irq(b, bare_running->index, (uint8_t)value); break;
    case BARE_NMI: b->engine->interrupt(bare_running->cpu, DP_LINE_NMI, 1); break;
    case BARE_HOOK:
        if (b->on_hook)
            b->on_hook(b, (unsigned)value);
        break;
    }
}
static uint64_t bare_port_read(void *opaque, uint64_t offset, unsigned size) { return 0xa5a5a5a5a5a5a5a5ull; }
static uint64_t bare_mmio_read(void *opaque, uint64_t offset, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, ((struct bare *)opaque)->mmio + offset, size);
    return v;
}
static void bare_mmio_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct bare *b = opaque;
    memcpy(b->mmio + offset, &value, size);
    if (b->on_mmio)
        b->on_mmio(b, offset, value);
}
static const struct dp_window_ops bare_port_ops = { "bare ports", bare_port_read, bare_port_write, 1, 1 };
static const struct dp_window_ops bare_mmio_ops = { "bare mmio", bare_mmio_read, bare_mmio_write, 1, 8 };

/* ---- memory ---- */
/* The 4 KiB entry of a linear address below 2 MiB or in the window at ALIAS. */
static inline uint64_t *bare_pte(struct bare *b, uint64_t linear)
{
    return (uint64_t *)(b->mem + (linear >= BARE_ALIAS ? BARE_ALIAS_PT : BARE_PT)) + (linear >> 12 & 0x1ff);
}
static inline void bare_map(struct bare *b, uint64_t linear, uint64_t phys, uint64_t flags) { *bare_pte(b, linear) = phys | flags; }
static inline uint64_t bare_ld(struct bare *b, uint64_t phys) { return dp_ld64(b->mem + phys); }

static void bare_tables(struct bare *b)
{
    uint8_t *m = b->mem;
    dp_st64(m + BARE_PML4, BARE_PDPT | 7);
    dp_st64(m + BARE_PDPT, BARE_PD | 7);
    dp_st64(m + BARE_PDPT + 8, BARE_ALIAS_PD | 7);
    dp_st64(m + BARE_PD, BARE_PT | 7);
    for (unsigned i = 1; i < BARE_RAM >> 21; i++)
        dp_st64(m + BARE_PD + i * 8, (uint64_t)i << 21 | 0x83);
    dp_st64(m + BARE_ALIAS_PD, BARE_ALIAS_PT | 7);
    for (unsigned i = 0; i < 512; i++) {
        bool user = i << 12 >= BARE_USER_CODE && i << 12 < BARE_USER_STACK + 0x10000;
        dp_st64(m + BARE_PT + i * 8, (uint64_t)i << 12 | (user ? 7 : 3));
    }
    static const uint64_t gdt[] = { 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff,
        0x00affb000000ffff, 0x00cf9b000000ffff,
                                    0x00009b000000ffff };
    for (unsigned i = 0; i < DP_ARRAY_LEN(gdt); i++)
        dp_st64(m + BARE_GDT + i * 8, gdt[i]);
    for (unsigned i = 0; i < BARE_CPUS; i++) {
        uint64_t tss = BARE_TSS + i * 0x80u;
        dp_st64(m + BARE_GDT + BARE_TR + i * 16, tss << 16 | 0x00008b0000000067);
        dp_st64(m + tss + 4, BARE_STACKS + 0x3000 + i * 0x8000u);  /* RSP0 */
        dp_st64(m + tss + 36, BARE_STACKS + 0x6000 + i * 0x8000u); /* IST1, for tests that set it in a gate */
    }
    for (unsigned v = 0; v < 256; v++) {
        uint8_t *stub = m + BARE_STUBS + v * 16, *gate = m + BARE_IDT + v * 16;
        bool error = v < 32 && (1u << v & (1u << 8 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 13 | 1u << 14 | 1u << 17));
        unsigned n = 0;
        if (!error)
            stub[n++] = 0x6a, stub[n++] = 0;
        stub[n++] = 0x68;
        dp_st32(stub + n, v);
        n += 4;
        stub[n++] = 0xe9;
        dp_st32(stub + n, (uint32_t)(BARE_COMMON - (BARE_STUBS + v * 16 + n + 4)));
        uint64_t dpl = v == 3 || v == 4 || v == 0x80 ? 3 : 0;
        dp_st64(gate, (uint64_t)(BARE_STUBS + v * 16) | (uint64_t)BARE_CS64 << 16 | (0x8e | dpl << 5) << 40);
        dp_st64(m + BARE_IDT32 + v * 8, (uint64_t)(BARE_STUBS32 + v) | (uint64_t)BARE_CS32 << 16 | 0x8eull << 40);
        m[BARE_STUBS16 + v] = m[BARE_STUBS32 + v] = 0xf4;
        dp_st32(m + v * 4, BARE_STUBS16 >> 4 << 16 | v);
    }
    memcpy(m + BARE_COMMON, bare_common, (size_t)(bare_common_end - bare_common));
}

/* ---- states ---- */
static inline struct x86_seg bare_seg(uint16_t sel, uint32_t attr) { return (struct x86_seg){ .sel = sel, .attr = attr, .limit = ~0u }; }

/* 64-bit mode at CPL 0: RIP = R8 = code, RDI = DATA, IF clear. */
static struct x86_state bare_long(struct bare *b, unsigned cpu, uint64_t code)
{
    struct x86_state s;
    x86_state_reset(&s, true);
    s.cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_PG;
    s.cr3 = BARE_PML4;
    s.cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    s.efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE | X86_EFER_NXE;
    for (unsigned k = 0; k < X86_SEGS; k++)
        s.seg[k] = bare_seg(BARE_DS, 0xc093);
    s.seg[X86_CS] = bare_seg(BARE_CS64, 0xa09b);
    s.gdtr.base = BARE_GDT, s.gdtr.limit = 0xff;
    s.idtr.base = BARE_IDT, s.idtr.limit = 0xfff;
    s.tr = (struct x86_seg){ .sel = (uint16_t)(BARE_TR + cpu * 16), .attr = 0x8b, .limit = 0x67, .base = BARE_TSS + cpu * 0x80u };
    s.star = (uint64_t)BARE_CS64 << 32 | (uint64_t)BARE_USER_CS32 << 48;
    s.rflags = 2;
    s.r[X86_RIP] = s.r[X86_R8] = code;
    s.r[X86_RDI] = BARE_DATA;
    s.r[X86_RSP] = BARE_STACKS + 0x2000 + cpu * 0x8000u;
    return s;
}
/* The same at CPL 3. */
static inline void bare_user(struct x86_state *s)
{
    for (unsigned k = 0; k < X86_SEGS; k++)
        s->seg[k] = bare_seg(BARE_USER_DS, 0xc0f3);
    s->seg[X86_CS] = bare_seg(BARE_USER_CS64, 0xa0fb);
    s->r[X86_RSP] = BARE_USER_STACK + 0x8000;
}
/* 32-bit protected mode, flat, without paging, CPL 0. */
static inline struct x86_state bare_protected(struct bare *b, uint64_t code)
{
    struct x86_state s = bare_long(b, 0, code);
    s.cr0 &= ~(uint64_t)X86_CR0_PG;
    s.cr4 = X86_CR4_OSFXSR;
    s.efer = 0;
    s.seg[X86_CS] = bare_seg(BARE_CS32, 0xc09b);
    s.idtr.base = BARE_IDT32, s.idtr.limit = 0x7ff;
    return s;
}
static inline struct x86_state bare_real(struct bare *b, uint16_t cs, uint16_t ip)
{
    struct x86_state s;
    x86_state_reset(&s, true);
    for (unsigned k = 0; k < X86_SEGS; k++)
        s.seg[k] = (struct x86_seg){ .attr = k == X86_CS ? 0x9b : 0x93, .limit = 0xffff };
    s.seg[X86_CS].sel = cs, s.seg[X86_CS].base = (uint64_t)cs << 4;
    s.idtr.base = 0, s.idtr.limit = 0x3ff;
    s.r[X86_RIP] = ip;
    s.r[X86_RSP] = 0xf000;
    return s;
}
/* The vector whose halting stub the processor stands in, or -1. */
static inline int bare_stub_vector(const struct x86_state *s)
{
    uint64_t linear = s->seg[X86_CS].base + s->r[X86_RIP] - 1;
    if (linear >= BARE_STUBS16 && linear < BARE_STUBS16 + 256u)
        return (int)(linear - BARE_STUBS16);
    return linear >= BARE_STUBS32 && linear < BARE_STUBS32 + 256u ? (int)(linear - BARE_STUBS32) : -1;
}

/* ---- running ---- */
static const int bare_signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
static inline void bare_keep_signals(struct bare *b)
{
    for (unsigned i = 0; i < DP_ARRAY_LEN(bare_signals); i++)
        assert_int_equal(sigaction(bare_signals[i], NULL, &b->action[i]), 0);
}
static inline void bare_give_signals(const struct bare *b)
{
    for (unsigned i = 0; i < DP_ARRAY_LEN(bare_signals); i++)
        assert_int_equal(sigaction(bare_signals[i], &b->action[i], NULL), 0);
}
static inline void bare_put(struct bare *b, uint64_t phys, const uint8_t *begin, const uint8_t *end)
{
    assert_int_equal(dp_space_write(b->memory, phys, begin, (uint64_t)(end - begin)), 0);
}
static void *bare_run_cpu(void *opaque)
{
    struct bare_cpu *p = opaque;
    struct bare *b = p->b;
    bare_running = p;
    bare_give_signals(b);
    for (;;) {
        dp_buffer_fini(&p->exit.text);
        memset(&p->exit, 0, sizeof p->exit);
        b->engine->run(p->cpu, b->budget ? b->budget : b->steps, &p->exit);
        p->runs++;
        b->engine->pull(p->cpu, &p->out);
        if (p->exit.kind != DP_EXIT_BUDGET && p->exit.kind != DP_EXIT_KICK)
            return NULL;
        if (b->roundtrip)
            b->engine->push(p->cpu, &p->out);
    }
}
/* Before a run of processor 0 from s. */
static inline void bare_run_prepare(struct bare *b, const struct x86_state *s)
{
    b->traps = 0;
    for (unsigned i = 0; i < BARE_CPUS; i++)
        b->mem[BARE_MAILBOX + BARE_TR + 8 + i * 16] = 0;
    b->engine->push(b->cpu[0].cpu, s);
    bare_running = &b->cpu[0];
    bare_give_signals(b);
}
/* Pushes s and runs processor 0 in this thread until it halts or shuts down; returns the state after. */
static inline const struct x86_state *bare_run(struct bare *b, const struct x86_state *s)
{
    bare_run_prepare(b, s);
    bare_run_cpu(&b->cpu[0]);
    return &b->cpu[0].out;
}
/* Copies code to CODE and runs it as bare_long has it. */
#define bare_do(b, name) bare_do_at(b, name, name##_end)
static inline const struct x86_state *bare_do_at(struct bare *b, const uint8_t *begin, const uint8_t *end)
{
    bare_put(b, BARE_CODE, begin, end);
    struct x86_state s = bare_long(b, 0, BARE_CODE);
    return bare_run(b, &s);
}
/* An assertion about the run as a whole: it halted at the end of its code, after n traps. */
#define bare_assert_done(b, name, n)                                                                                                     \
    do {                                                                                                                                 \
        assert_int_equal((b)->cpu[0].exit.kind, DP_EXIT_HALT);                                                                           \
        assert_int_equal((b)->traps, n);                                                                                                 \
        assert_int_equal((b)->cpu[0].out.r[X86_RIP], BARE_CODE + (uint64_t)(name##_end - name));                                         \
    } while (0)

static inline int bare_setup(void **state)
{
    struct bare *b = calloc(1, sizeof *b);
    struct dp_error e;
    uint32_t id;
    b->engine = hot_find(bare_engine);
    assert_non_null(b->engine);
    assert_int_equal(x86_cpuid_model(bare_model, &b->model, &e), 0);
    b->model.cpu_count = BARE_CPUS;
    assert_int_equal(dp_ram_create("bare", BARE_RAM, &b->ram, &e), 0);
    assert_int_equal(dp_ram_create("spare", 0x10000, &b->spare, &e), 0);
    b->mem = b->ram->host;
    assert_int_equal(dp_space_create("memory", 1ull << 40, NULL, &b->memory, &e), 0);
    assert_int_equal(dp_space_create("ports", 0x10000, NULL, &b->ports, &e), 0);
    assert_int_equal(dp_space_map_ram(b->memory, 0, b->ram, 0, BARE_RAM, false, 0, &id, &e), 0);
    assert_int_equal(dp_space_map_window(b->ports, BARE_PORTS, 16, &bare_port_ops, b, 0, &id, &e), 0);
    assert_int_equal(dp_space_map_window(b->memory, BARE_MMIO, 4096, &bare_mmio_ops, b, 0, &id, &e), 0);
    assert_int_equal(dp_clock_create_manual(&b->clock, &e), 0);
    b->vm = (struct dp_engine_vm){ .memory = b->memory, .ports = b->ports, .clock = b->clock, .model = &b->model, .cpu_count = BARE_CPUS };
    assert_int_equal(b->engine->vm_init(&b->vm, &b->state, &e), 0);
    hot_set(bare_engine, b->state);
    bare_keep_signals(b);
    for (unsigned i = 0; i < BARE_CPUS; i++) {
        struct bare_cpu *p = &b->cpu[i];
        const struct dp_x86_bus bus = { bare_ack, bare_pending, bare_apic_read, bare_apic_write, bare_tpr, bare_set_tpr, bare_msr,
            bare_set_msr, p, bare_pv, p, .board = p, .smm_changed = bare_smm, .ferr = bare_ferr };
        p->b = b;
        p->index = i;
        assert_int_equal(b->engine->cpu_init(b->state, i, &bus, &p->cpu, &e), 0);
    }
    bare_tables(b);
    b->steps = !!strcmp(bare_mode, "whole");
    b->roundtrip = !strcmp(bare_mode, "roundtrip");
    *state = b;
    return 0;
}
static inline int bare_teardown(void **state)
{
    struct bare *b = *state;
    for (unsigned i = 0; i < BARE_CPUS; i++) {
        dp_buffer_fini(&b->cpu[i].exit.text);
        b->engine->cpu_fini(b->cpu[i].cpu);
    }
    b->engine->vm_fini(b->state);
    dp_clock_destroy(b->clock);
    dp_space_destroy(b->memory);
    dp_space_destroy(b->ports);
    dp_ram_destroy(b->ram);
    dp_ram_destroy(b->spare);
    free(b);
    return 0;
}

#endif
