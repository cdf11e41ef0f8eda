/* program_guest.c - the engine's side: programs at CPL 3 in a small virtual machine whose user pages are those of program.h.
 *
 * Model: as guest.c: Linux's user segments, an LDT, an IDT of HLTs, so that every program ends in DP_EXIT_HALT with its vector in RIP and
 * its frame on the kernel stack, by the engine's own delivery. The frames of the data pages lie far apart and in another order.
 */
#include <stdlib.h>

#include "program.h"
#include "hot.h"

enum { /* guest-physical */
       PML4 = 0x1000,
       PDPT_LOW = 0x2000,
       PD_LOW = 0x3000,
       PT_CODE = 0x4000,
       PT_DATA = 0x5000,
       PDPT_HIGH = 0x6000,
       PD_HIGH = 0x7000,
       PT_HIGH = 0x8000,
       PDPT_KERNEL = 0x9000,
       PD_KERNEL = 0xa000,
       GDT = 0xb000,
       LDT = 0xb800,
       IDT = 0xc000,
       TSS = 0xd000,
       STUBS = 0xe000,
       STACK_TOP = 0x11000,
       CODE = 0x20000,
       FRAMES = 0x30000,
       FRAME_STEP = 0x3000,
       RAM_SIZE = 0x200000,
};
#define KERNEL 0xffff800000000000ull
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_PS = 0x80 };
#define PTE_NX (1ull << 63)

struct prog_guest {
    const struct dp_engine *engine;
    struct dp_ram *ram;
    struct dp_space *memory, *ports;
    struct dp_clock *clock;
    struct dp_engine_vm vm;
    struct x86_cpuid_model model;
    struct dp_engine_state *state;
    struct dp_cpu *cpu;
    struct x86_state base; /* before registers, segments and FPU */
    uint32_t code_at, code_size;
};

static int no_ack(void *apic) { return -1; }
static bool not_pending(void *apic) { return false; }
static uint64_t no_read(void *apic, uint64_t offset, unsigned size) { return 0; }
static void no_write(void *apic, uint64_t offset, uint64_t value, unsigned size) {}
static uint8_t no_tpr(void *apic) { return 0; }
static void no_tpr_write(void *apic, uint8_t tpr) {}
static bool no_msr(void *apic, uint32_t msr, uint64_t *value) { return false; }
static bool no_msr_write(void *apic, uint32_t msr, uint64_t value) { return false; }
static bool no_pv(void *pv, unsigned cpu, uint32_t msr, uint64_t value) { return false; }

static void put64(struct prog_guest *g, uint64_t at, uint64_t v) { dp_st64(g->ram->host + at, v); }
static uint64_t frame_at(int frame) { return FRAMES + (uint64_t)frame * FRAME_STEP; }

static void build_tables(struct prog_guest *g)
{
    const unsigned table = PTE_P | PTE_W | PTE_U;
    put64(g, PML4, PDPT_LOW | table);
    put64(g, PDPT_LOW, PD_LOW | table);
    put64(g, PD_LOW + (CPU_CODE >> 21) * 8, PT_CODE | table);
    put64(g, PD_LOW + (PROG_DATA >> 21) * 8, PT_DATA | table);
    put64(g, PML4 + (PROG_HIGH >> 39 & 511) * 8, PDPT_HIGH | table);
    put64(g, PDPT_HIGH + (PROG_HIGH >> 30 & 511) * 8, PD_HIGH | table);
    put64(g, PD_HIGH + (PROG_HIGH >> 21 & 511) * 8, PT_HIGH | table);
    for (unsigned i = 0; i < CPU_CODE_SIZE / CPU_PAGE; i++)
        put64(g, PT_CODE + ((CPU_CODE >> 12 & 511) + i) * 8, (CODE + i * CPU_PAGE) | PTE_P | PTE_U);
    for (unsigned i = 0; i < PROG_PAGES; i++) {
        const struct prog_page *p = &prog_page[i];
        if (p->frame < 0)
            continue;
        uint64_t pte = frame_at(p->frame) | PTE_P | PTE_U | PTE_NX | (p->writable ? PTE_W : 0);
        put64(g, PT_DATA + ((PROG_DATA >> 12 & 511) + i) * 8, pte);
        put64(g, PT_HIGH + ((PROG_HIGH >> 12 & 511) + i) * 8, pte);
    }
    put64(g, PML4 + 256 * 8, PDPT_KERNEL | PTE_P | PTE_W);
    put64(g, PDPT_KERNEL, PD_KERNEL | PTE_P | PTE_W);
    put64(g, PD_KERNEL, PTE_P | PTE_W | PTE_PS);
}

static void build_world(struct prog_guest *g)
{
    build_tables(g);
    put64(g, GDT + 0x08, 0x00cf9b000000ffffull); /* kernel, 32-bit */
    put64(g, GDT + 0x10, 0x00af9b000000ffffull);
    put64(g, GDT + 0x18, 0x00cf93000000ffffull);
    for (unsigned s = 0x20; s <= 0x30; s += 8)
        put64(g, GDT + s, cpu_descriptor_of((uint16_t)s));
    put64(g, GDT + 0x40, 0x67 | (uint64_t)(TSS & 0xffffff) << 16 | 0x8bull << 40 | ((KERNEL + TSS) >> 24 & 0xff) << 56);
    put64(g, GDT + 0x48, (KERNEL + TSS) >> 32);
    put64(g, GDT + 0x50, (LDT_COUNT * 8 - 1) | (uint64_t)(LDT & 0xffffff) << 16 | 0x82ull << 40 | ((KERNEL + LDT) >> 24 & 0xff) << 56);
    put64(g, GDT + 0x58, (KERNEL + LDT) >> 32);
    for (unsigned i = 0; i < LDT_COUNT; i++)
        put64(g, LDT + i * 8, cpu_descriptor(&cpu_ldt[i]));
    for (unsigned v = 0; v < 256; v++) {
        uint64_t stub = KERNEL + STUBS + v * 16;
        unsigned dpl = v == X86_BP || v == X86_OFV ? 3 : 0;
        put64(g, IDT + v * 16, (stub & 0xffff) | 0x10 << 16 | (0x8eull | dpl << 5) << 40 | (stub >> 16 & 0xffff) << 48);
        put64(g, IDT + v * 16 + 8, stub >> 32);
    }
    put64(g, TSS + 4, KERNEL + STACK_TOP);
    dp_st16(g->ram->host + TSS + 102, 0xffff); /* no I/O bitmap */
    memset(g->ram->host + STUBS, 0xf4, 4096);  /* HLT */
    memset(g->ram->host + CODE, 0xcc, CPU_CODE_SIZE);

    struct x86_state *s = &g->base;
    x86_state_reset(s, true);
    s->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | X86_CR0_PG;
    s->cr3 = PML4;
    s->cr4 = X86_CR4_DE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT;
    if (x86_has(&g->model, X86_FEATURE_XSAVE))
        s->cr4 |= X86_CR4_OSXSAVE;
    if (x86_has(&g->model, X86_FEATURE_FSGSBASE))
        s->cr4 |= X86_CR4_FSGSBASE;
    if (x86_has(&g->model, X86_FEATURE_UMIP))
        s->cr4 |= X86_CR4_UMIP;
    s->xcr0 = x86_has(&g->model, X86_FEATURE_AVX) ? 7 : 3;
    s->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
    s->gdtr.base = KERNEL + GDT, s->gdtr.limit = 0x7f;
    s->idtr.base = KERNEL + IDT, s->idtr.limit = 0xfff;
    s->ldtr = (struct x86_seg){.sel = 0x50, .attr = 0x82, .limit = LDT_COUNT * 8 - 1, .base = KERNEL + LDT};
    s->tr = (struct x86_seg){.sel = 0x40, .attr = 0x8b, .limit = 0x67, .base = KERNEL + TSS};
    s->run_state = X86_RUNNING;
}

int prog_guest_create(const char *engine, const struct x86_cpuid_model *model, struct prog_guest **out, struct dp_error *e)
{
    struct prog_guest *g = calloc(1, sizeof *g);
    if (!g)
        return dp_error_set(e, -ENOMEM, "out of memory");
    g->engine = hot_find(engine);
    int err = g->engine ? 0 : dp_error_set(e, -ENOENT, "no engine is named %s", engine);
    g->model = *model;
    g->model.cpu_count = 1;
    uint32_t id;
    if (!err)
        err = dp_ram_create("test", RAM_SIZE, &g->ram, e);
    if (!err)
        err = dp_space_create("memory", 1ull << 40, NULL, &g->memory, e);
    if (!err)
        err = dp_space_create("ports", 0x10000, NULL, &g->ports, e);
    if (!err)
        err = dp_space_map_ram(g->memory, 0, g->ram, 0, RAM_SIZE, false, 0, &id, e);
    if (!err)
        err = dp_clock_create_manual(&g->clock, e);
    if (err) {
        free(g);
        return err;
    }
    g->vm = (struct dp_engine_vm){.memory = g->memory, .ports = g->ports, .clock = g->clock, .model = &g->model, .cpu_count = 1};
    const struct dp_x86_bus bus = {no_ack, not_pending, no_read, no_write, no_tpr, no_tpr_write, no_msr, no_msr_write, g, no_pv, g};
    err = g->engine->vm_init(&g->vm, &g->state, e);
    if (!err) {
        hot_set(engine, g->state);
        err = g->engine->cpu_init(g->state, 0, &bus, &g->cpu, e);
    }
    if (err) {
        free(g);
        return err;
    }
    build_world(g);
    *out = g;
    return 0;
}

void prog_guest_destroy(struct prog_guest *g)
{
    if (!g)
        return;
    g->engine->cpu_fini(g->cpu);
    g->engine->vm_fini(g->state);
    dp_clock_destroy(g->clock);
    dp_space_destroy(g->memory);
    dp_space_destroy(g->ports);
    dp_ram_destroy(g->ram);
    free(g);
}

void prog_guest_kick(struct prog_guest *g) { g->engine->kick(g->cpu); }

static void load_segment(struct x86_seg *s, uint16_t selector, uint64_t null_base)
{
    uint64_t d = cpu_descriptor_of(selector);
    s->sel = selector;
    if (!d) {
        s->attr = X86_ATTR_UNUSABLE, s->limit = 0, s->base = null_base;
        return;
    }
    s->attr = (uint32_t)(d >> 40) & 0xf0ff;
    s->base = (d >> 16 & 0xffffff) | (d >> 56) << 24;
    uint32_t limit = (uint32_t)((d & 0xffff) | (d >> 32 & 0xf0000));
    s->limit = s->attr & X86_ATTR_G ? limit << 12 | 0xfff : limit;
}

static void load_fx(struct x86_state *s, const uint8_t fx[512])
{
    struct x86_fpu *f = &s->fpu;
    f->fcw = dp_ld16(fx + FX_FCW), f->fsw = dp_ld16(fx + FX_FSW), f->ftw = fx[FX_FTW], f->fop = dp_ld16(fx + FX_FOP);
    f->fip = dp_ld64(fx + FX_FIP), f->fdp = dp_ld64(fx + FX_FDP), f->fcs = 0, f->fds = 0;
    unsigned top = f->fsw >> 11 & 7;
    memset(f->st, 0, sizeof f->st);
    for (unsigned i = 0; i < 8; i++)
        memcpy(f->st[(top + i) & 7], fx + FX_ST + i * 16, 10);
    s->mxcsr = dp_ld32(fx + FX_MXCSR);
    for (unsigned i = 0; i < 16; i++)
        memcpy(s->vec[i], fx + FX_XMM + i * 16, 16);
}

static void store_fx(const struct x86_state *s, uint8_t fx[512])
{
    const struct x86_fpu *f = &s->fpu;
    dp_st16(fx + FX_FCW, f->fcw), dp_st16(fx + FX_FSW, f->fsw), fx[FX_FTW] = (uint8_t)f->ftw, dp_st16(fx + FX_FOP, f->fop);
    dp_st64(fx + FX_FIP, f->fip), dp_st64(fx + FX_FDP, f->fdp);
    unsigned top = f->fsw >> 11 & 7;
    for (unsigned i = 0; i < 8; i++)
        memcpy(fx + FX_ST + i * 16, f->st[(top + i) & 7], 10);
    dp_st32(fx + FX_MXCSR, s->mxcsr);
    for (unsigned i = 0; i < 16; i++)
        memcpy(fx + FX_XMM + i * 16, s->vec[i], 16);
}

static bool has_error_code(unsigned v) { return v == X86_DF_ || (v >= X86_TS && v <= X86_PF_) || v == X86_AC_; }

/* A program's memory and registers into the machine. again: its code is there already. */
static void load(struct prog_guest *g, const struct prog_image *p, bool again)
{
    if (!again) { /* code by the front door, so that the engine forgets what it decoded */
        uint8_t fill[PROG_MAX_CODE];
        memset(fill, 0xcc, sizeof fill);
        if (g->code_size)
            dp_space_write(g->memory, CODE + g->code_at, fill, g->code_size);
        dp_space_write(g->memory, CODE + p->code_offset, p->code, p->code_size);
        g->code_at = p->code_offset, g->code_size = p->code_size;
    }
    for (int i = 0; i < PROG_FRAMES; i++)
        memcpy(g->ram->host + frame_at(i), p->memory + i * 4096, 4096);

    struct x86_state s = g->base;
    memcpy(s.r, p->in.r, sizeof p->in.r);
    s.r[X86_RIP] = p->in.rip;
    s.rflags = p->in.rflags;
    for (unsigned i = 0; i < X86_SEGS; i++)
        load_segment(&s.seg[i], p->in.seg[i], i == X86_FS ? p->in.fs_base : i == X86_GS ? p->in.gs_base : 0);
    load_fx(&s, p->in.fx);
    for (unsigned i = 0; i < 16 && x86_has(&g->model, X86_FEATURE_AVX); i++)
        memcpy(s.vec[i] + 16, p->in.ymm_high[i], 16);
    g->engine->push(g->cpu, &s);
}

void prog_guest_run(struct prog_guest *g, const struct prog_image *p, const struct prog_how *how, struct prog_result *result)
{
    struct cpu_result *r = &result->r;
    struct x86_state s;
    bool avx = x86_has(&g->model, X86_FEATURE_AVX);
    memset(r, 0, offsetof(struct cpu_result, data));
    r->text[0] = 0;
    load(g, p, how->again);

    struct dp_exit x;
    const uint64_t limit = 20000000; /* more than a program needs; the host's limit is time */
    for (uint64_t total = 0;; total += how->budget) {
        memset(&x, 0, sizeof x);
        g->engine->run(g->cpu, how->free ? 0 : how->budget ? how->budget : limit, &x);
        if (x.kind == DP_EXIT_KICK && how->stop && !atomic_load(how->stop))
            continue;
        if (x.kind == DP_EXIT_KICK) /* the watchdog's */
            break;
        if (!how->budget || (x.kind != DP_EXIT_BUDGET && x.kind != DP_EXIT_KICK) || total > limit / 100)
            break;
        if (how->roundtrip) {
            g->engine->pull(g->cpu, &s);
            g->engine->push(g->cpu, &s);
        }
    }
    g->engine->pull(g->cpu, &s);
    memcpy(r->out.r, s.r, sizeof r->out.r);
    for (unsigned i = 0; i < X86_SEGS; i++)
        r->out.seg[i] = s.seg[i].sel;
    r->out.fs_base = s.seg[X86_FS].base, r->out.gs_base = s.seg[X86_GS].base;
    r->out.rip = s.r[X86_RIP], r->out.rflags = s.rflags;
    store_fx(&s, r->out.fx);
    for (unsigned i = 0; i < 16 && avx; i++)
        memcpy(r->out.ymm_high[i], s.vec[i] + 16, 16);
    for (int i = 0; i < PROG_FRAMES; i++)
        memcpy(result->memory + i * 4096, g->ram->host + frame_at(i), 4096);
    switch (x.kind) {
    case DP_EXIT_HALT: {
        r->vector = (uint8_t)((s.r[X86_RIP] - (KERNEL + STUBS)) >> 4);
        uint64_t at = s.r[X86_RSP] - KERNEL;
        if (at > STACK_TOP) {
            r->vector = CPU_ENGINE_ERROR;
            snprintf(r->text, sizeof r->text, "halted with RSP %#llx", (unsigned long long)s.r[X86_RSP]);
            break;
        }
        const uint8_t *frame = g->ram->host + at;
        if (has_error_code(r->vector))
            r->error = (uint32_t)dp_ld64(frame), frame += 8;
        r->out.rip = dp_ld64(frame);
        r->out.seg[X86_CS] = dp_ld16(frame + 8);
        r->out.rflags = dp_ld64(frame + 16);
        r->out.r[X86_RSP] = dp_ld64(frame + 24);
        r->out.seg[X86_SS] = dp_ld16(frame + 32);
        r->cr2 = r->vector == X86_PF_ ? s.cr2 : 0;
        break;
    }
    case DP_EXIT_BUDGET:
        r->vector = CPU_TIMEOUT;
        break;
    case DP_EXIT_KICK:
        r->vector = CPU_ENGINE_ERROR;
        strcpy(r->text, "does not end, and its budget does not stop it");
        break;
    default:
        r->vector = CPU_ENGINE_ERROR;
        snprintf(r->text, sizeof r->text, "exit %d: %.*s", (int)x.kind, (int)DP_MIN(x.text.size, (size_t)200),
                 x.text.data ? (const char *)x.text.data : "");
        break;
    }
    dp_buffer_fini(&x.text);
}

/* ---- kicks at every place ---- */

/* What must be as it is between two instructions: all but the arithmetic flags, which an engine may have spoiled where nobody reads them, RF,
 * and x87 pointers. */
static uint64_t hash_state(const struct x86_state *s)
{
    uint64_t h = 0;
#define ADD(v) h = (h ^ (uint64_t)(v)) * 0x9e3779b97f4a7c15ull, h ^= h >> 29
    for (unsigned i = 0; i <= X86_RIP; i++)
        ADD(s->r[i]);
    ADD(s->rflags & ~(uint64_t)(X86_ARITH | X86_RF));
    for (unsigned i = 0; i < X86_SEGS; i++)
        ADD(s->seg[i].sel), ADD(s->seg[i].base);
    for (unsigned i = 0; i < 16; i++)
        for (unsigned k = 0; k < 4; k++)
            ADD(dp_ld64(s->vec[i] + 8 * k));
    ADD(s->mxcsr), ADD(s->fpu.fcw), ADD(s->fpu.fsw), ADD(s->fpu.ftw);
    for (unsigned i = 0; i < 8; i++)
        ADD(dp_ld64(s->fpu.st[i])), ADD(dp_ld16(s->fpu.st[i] + 8));
#undef ADD
    return h;
}

static void run_once(struct prog_guest *g, uint64_t budget, struct x86_state *s, struct dp_exit *x)
{
    memset(x, 0, sizeof *x);
    g->engine->run(g->cpu, budget, x);
    g->engine->pull(g->cpu, s);
    dp_buffer_fini(&x->text);
}

/* Repeated string instructions may stop after any iteration. */
static bool repeats(const struct prog_image *p, uint64_t rip)
{
    uint64_t at = rip - CPU_CODE - p->code_offset;
    struct x86_insn i;
    return at < p->code_size && x86_decode(p->code + at, (unsigned)DP_MIN(p->code_size - at, (uint64_t)15), p->mode, &i) > 0 && (i.rep || i.repne);
}

static void differs(const struct x86_state *s, const struct prog_step *trace, unsigned at, unsigned count, unsigned after, struct dp_buffer *out)
{
    static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
    dp_buffer_printf(out, "  a kick %u host instructions after the state before instruction %u: rip %#llx", after, at, (unsigned long long)s->r[X86_RIP]);
    while (at < count && trace[at].r[X86_RIP] != s->r[X86_RIP])
        at++;
    if (at == count)
        dp_buffer_printf(out, ", where no instruction begins that comes");
    else
        dp_buffer_printf(out, ", instruction %u", at);
    for (unsigned i = 0; i < 16 && at < count; i++)
        if (s->r[i] != trace[at].r[i])
            dp_buffer_printf(out, "; %s %#llx is not %#llx", names[i], (unsigned long long)s->r[i], (unsigned long long)trace[at].r[i]);
    dp_buffer_printf(out, "\n");
}

unsigned prog_guest_probe(struct prog_guest *g, struct prog_guest *reference, const struct prog_image *p, uint64_t seed, struct dp_buffer *out)
{
    static struct prog_step trace[PROG_STEPS];
    struct x86_state s;
    struct dp_exit x = {0};
    unsigned count = 0, at = 0, runs = 0;
    load(reference, p, false);
    do {
        reference->engine->pull(reference->cpu, &s);
        trace[count].hash = hash_state(&s);
        memcpy(trace[count++].r, s.r, sizeof trace[0].r);
        run_once(reference, 1, &s, &x);
    } while (x.kind == DP_EXIT_BUDGET && count < PROG_STEPS);
    bool whole = x.kind == DP_EXIT_HALT, moved = true;
    load(g, p, false);
    for (unsigned after = 0; at < count && runs < 20 * PROG_STEPS; runs++) {
        if (seed % 2) { /* a way to C and back takes 70 */
            seed = seed * 6364136223846793005ull + 1442695040888963408ull;
            after = 1 + (unsigned)(seed >> 40) % (seed >> 33 & 3 ? 14 : 300);
        } else {
            after = moved ? 1 : after < 24 ? after + 1 : after + after / 4;
        }
        translate_set_kick_after(g->state, after);
        run_once(g, 0, &s, &x);
        translate_set_kick_after(g->state, 0);
        if (x.kind != DP_EXIT_KICK)
            break;
        uint64_t hash = hash_state(&s);
        unsigned to = at;
        while (to < count && trace[to].hash != hash)
            to++;
        if (to == count && repeats(p, s.r[X86_RIP])) {
            moved = false;
            continue;
        }
        if (to == count && whole) {
            differs(&s, trace, at, count, after, out);
            return 1;
        }
        moved = to != at;
        at = to;
    }
    if (!whole || x.kind != DP_EXIT_HALT)
        return 0; /* too long */
    for (int i = 0; i < PROG_FRAMES; i++)
        if (memcmp(g->ram->host + frame_at(i), reference->ram->host + frame_at(i), 4096)) {
            dp_buffer_printf(out, "  with kicks at many places: frame %d is not as without\n", i);
            return 1;
        }
    return 0;
}
