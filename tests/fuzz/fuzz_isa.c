/* fuzz_isa.c - page walks, segment loads, far transfers, events, task switches, control registers and MSRs over hostile state and tables.
 *
 * Input: a byte of mode, then bytes that fill descriptor tables and registers, then operations { op, argument words }. Whatever the guest put there,
 * nothing may crash, hang or leave the state inconsistent: CPL, mode bits and the state table's own check are looked at after each operation.
 */
#include <stdlib.h>

#include "isa/x86/x86.h"

enum { RAM = 1 << 16 };

struct vm {
    struct x86_ctx c;
    struct x86_state s;
    struct x86_cpuid_model m;
    uint8_t ram[RAM + 16];
};
struct input { const uint8_t *p; size_t left; };

static uint64_t take(struct input *in, unsigned size)
{
    uint64_t v = 0;
    size_t n = DP_MIN(in->left, size);

    memcpy(&v, in->p, n);
    in->p += n;
    in->left -= n;
    return v;
}

/* Linear addresses fold onto the array (every table is reachable), except one page in sixteen, which faults. */
static int access_memory(struct x86_ctx *c, uint64_t linear, unsigned size, bool user, bool write)
{
    if (size < 1 || size > 16)
        abort();
    if ((linear >> 12 & 15) == 15) {
        x86_fault(c, X86_PF_, true, (write ? X86_PF_W : 0u) | (user ? X86_PF_U : 0u));
        c->fault.cr2 = linear;
        return -1;
    }
    return 0;
}
static int do_read(struct x86_ctx *c, uint64_t linear, void *data, unsigned size, bool user)
{
    struct vm *vm = c->opaque;
    if (access_memory(c, linear, size, user, false))
        return -1;
    memcpy(data, vm->ram + linear % RAM, size);
    return 0;
}
static int do_write(struct x86_ctx *c, uint64_t linear, const void *data, unsigned size, bool user)
{
    struct vm *vm = c->opaque;
    if (access_memory(c, linear, size, user, true))
        return -1;
    memcpy(vm->ram + linear % RAM, data, size);
    return 0;
}
static int do_probe(struct x86_ctx *c, uint64_t linear, unsigned size, bool user)
{
    (void)size;
    return access_memory(c, linear, 1, user, true);
}
static uint64_t do_load(struct x86_ctx *c, uint64_t phys, unsigned size)
{
    struct vm *vm = c->opaque;
    return size == 8 ? dp_ld64(vm->ram + phys % RAM) : dp_ld32(vm->ram + phys % RAM);
}
static bool do_exchange(struct x86_ctx *c, uint64_t phys, uint64_t old, uint64_t new_, unsigned size)
{
    struct vm *vm = c->opaque;
    if (do_load(c, phys, size) != old)
        return false;
    memcpy(vm->ram + phys % RAM, &new_, size);
    return true;
}

/* What a guest cannot reach by itself is put right, so that checks after operations mean something. */
static void settle(struct x86_state *s, unsigned mode)
{
    x86_state_table.clamp(s);
    s->run_state = X86_RUNNING;
    s->event_pending = false;
    s->tr.attr = (s->tr.attr & ~0x1fu) | (mode & 1 && mode < 6 ? X86_ATTR_P | 3 : X86_ATTR_P | 11);
    for (unsigned i = 0; i < X86_SEGS; i++)
        s->seg[i].attr |= X86_ATTR_S | X86_ATTR_P;
    s->seg[X86_CS].attr &= ~X86_ATTR_UNUSABLE;
    if (mode < 2) { /* real */
        s->cr0 &= ~(uint64_t)(X86_CR0_PG | X86_CR0_PE);
        s->efer &= ~(uint64_t)X86_EFER_LMA;
        s->cr4 &= ~(uint64_t)X86_CR4_PCIDE;
        s->rflags &= ~(uint64_t)X86_VM;
    } else if (mode < 6) {
        s->cr0 |= X86_CR0_PE;
        s->efer &= ~(uint64_t)(X86_EFER_LMA | X86_EFER_LME);
        s->cr4 &= ~(uint64_t)X86_CR4_PCIDE;
        if (mode >= 4)
            s->rflags |= X86_VM;
        else
            s->rflags &= ~(uint64_t)X86_VM;
    } else {
        s->cr0 |= X86_CR0_PE | X86_CR0_PG;
        s->cr4 |= X86_CR4_PAE;
        s->efer |= X86_EFER_LMA | X86_EFER_LME;
        s->rflags &= ~(uint64_t)X86_VM;
        s->seg[X86_CS].attr &= ~X86_ATTR_DB;
        s->seg[X86_CS].attr |= X86_ATTR_L;
    }
    s->seg[X86_SS].attr = (s->seg[X86_SS].attr & ~0x6fu) | 3 | (s->seg[X86_CS].sel & 3) << X86_ATTR_DPL_SHIFT;
    s->cr3 &= (1ull << 40) - 1;
}

static void operate(struct vm *vm, struct input *in)
{
    struct x86_ctx *c = &vm->c;
    unsigned op = (unsigned)take(in, 1), size = (unsigned[]){2, 4, 8, 4}[op >> 6];
    uint64_t a = take(in, 2), b = take(in, 8), v;
    struct x86_translation t;
    struct x86_fault f = {.vector = (uint8_t)(a % 20), .has_error = b & 1, .error = (uint32_t)b}, history[4];
    uint32_t w, out[4];

    if (size == 8 && !x86_code64(&vm->s))
        size = 4;
    op %= 27;
    if ((op == 3 || op == 4 || (op >= 20 && op <= 22) || op == 24 || op == 25) && x86_cpl(&vm->s) != 0) /* engines check that before */
        return;
    if (op == 19 && !x86_protected(&vm->s)) /* no way there from real mode */
        return;
    switch (op) {
    case 0: (void)x86_walk(c, b, (enum x86_access)(a % 3), a >> 2 & 1, a >> 3 & 1, &t); break;
    case 1: (void)x86_walk_debug(c, b, &v); break;
    case 2: (void)x86_load_segment(c, (enum x86_seg_name)(b % 6 == X86_CS ? X86_DS : b % 6), (uint16_t)a); break;
    case 3: (void)x86_load_ldt(c, (uint16_t)a); break;
    case 4: (void)x86_load_tr(c, (uint16_t)a); break;
    case 5: (void)x86_far_jump(c, (uint16_t)a, b, size, b + 1); break;
    case 6: (void)x86_far_call(c, (uint16_t)a, b, size, b + 1); break;
    case 7: (void)x86_far_return(c, size, (uint16_t)a); break;
    case 8: (void)x86_iret(c, size, b); break;
    case 9: (void)x86_syscall(c, b); break;
    case 10: (void)x86_sysret(c, size); break;
    case 11: (void)x86_sysenter(c); break;
    case 12: (void)x86_sysexit(c, size); break;
    case 13: (void)x86_lar(c, (uint16_t)a, &w); break;
    case 14: (void)x86_lsl(c, (uint16_t)a, &w); break;
    case 15: (void)x86_verify(c, (uint16_t)a, b & 1); break;
    case 16: (void)x86_check_io(c, (uint16_t)a, 1u << b % 3); break;
    case 17: (void)x86_deliver(c, a & 0xff, (enum x86_event_kind)(b % 6), b >> 3 & 1, (uint32_t)b, b); break;
    case 18: (void)x86_raise(c, &f, (enum x86_event_kind)(a >> 8) % 6, b, history); break;
    case 19: (void)x86_task_switch(c, (uint16_t)a, (enum x86_task_why)(b % 4), b >> 3 & 1, (uint32_t)b, b); break;
    case 20: (void)x86_write_cr(c, a % 9, b); break;
    case 21: (void)(a & 8 ? x86_write_dr(c, a % 8, b) : x86_read_dr(c, a % 8, &v)); break;
    case 22:
        w = (uint32_t)((a & 0x8000 ? 0xc0000000 : 0) | (a & 0xfff));
        (void)(a & 0x4000 ? x86_wrmsr(c, w, b) : x86_rdmsr(c, w, &v));
        break;
    case 23: x86_cpuid(&vm->m, &vm->s, (unsigned)a, (uint32_t)b, (uint32_t)(b >> 32), out); break;
    case 24: (void)x86_xsetbv(c, a & 1, b); break;
    case 25: {
        uint8_t descriptor[16];
        dp_st64(descriptor, a >> 4);
        dp_st64(descriptor + 8, b);
        (void)x86_invpcid(c, a & 7, descriptor);
        break;
    }
    case 26: { /* an SMI whose handler changes some of the save area */
        uint8_t image[X86_SMM_SIZE];
        x86_smm_enter(&vm->s, image);
        for (unsigned i = 0; i < (a >> 12); i++)
            image[take(in, 2) % X86_SMM_SIZE] = (uint8_t)take(in, 1);
        (void)x86_smm_leave(c, image);
        if (vm->s.run_state == X86_HALTED)
            vm->s.run_state = X86_RUNNING;
        break;
    }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct vm *vm = calloc(1, sizeof *vm);
    unsigned mode = (unsigned)take(&in, 1) % 8;
    struct dp_random rnd;
    struct dp_error e;

    if (!vm || x86_cpuid_model(mode & 1 ? "x86-64-v1" : mode & 2 ? "x86-64-v3" : "x86-64-v2", &vm->m, &e) < 0)
        abort();
    vm->c = (struct x86_ctx){.s = &vm->s, .model = &vm->m, .read = do_read, .write = do_write, .probe_write = do_probe, .phys_load = do_load,
                             .phys_compare_exchange = do_exchange, .opaque = vm};
    dp_random_seed(&rnd, take(&in, 2));
    dp_state_random(&x86_state_table, &vm->s, &rnd);
    for (unsigned i = 0; i + 8 <= RAM; i += 8) { /* descriptors mostly present, so that checks behind that one are reached */
        uint64_t d = dp_random_next(&rnd);
        dp_st64(vm->ram + i, d & 3 ? d | 1ull << 47 : d);
    }
    for (unsigned i = 0; i < 64; i++) { /* the start of the tables is the input's */
        uint64_t d = take(&in, 8);
        if (d)
            dp_st64(vm->ram + 0x1000 + i * 8, d);
    }
    if (mode < 7) {
        vm->s.gdtr.base = 0x1000;
        vm->s.gdtr.limit |= 0x1ff;
        vm->s.idtr.base = 0x1100;
        vm->s.idtr.limit |= 0xff;
    }
    settle(&vm->s, mode);
    while (in.left && vm->s.run_state == X86_RUNNING) {
        operate(vm, &in);
        if (x86_state_table.check(&vm->s, &e) < 0 || (vm->s.rflags & X86_VM && x86_long_mode(&vm->s)) || vm->c.explicit_access)
            abort();
        if (!x86_protected(&vm->s) && x86_cpl(&vm->s) != 0)
            abort();
    }
    free(vm);
    return 0;
}
