/* engine/translate/stubs.c - the common host code: entering and leaving translated code, slow paths.
 *
 * Model: made once at the start of each code cache. `enter` is a C function of no arguments (everything is in struct tctx); the matching
 * return is `leave`, jumped to from translated code with the reason in tctx. Guest registers are kept in struct icpu.s while C runs. All
 * transfers into translated code go through tctx.go, so that a signal can redirect them: there is no moment at which a kick gets lost. Slow
 * paths call C on the stack of `enter` with the guest's registers saved, and come back to tctx.go.
 *
 * A direct space's cache has other stubs (stubs_emit_direct, see direct.h): its blocks leave by the same names, but there is no C
 * and no stack; the runner gives its registers to the processor's thread and waits for the next orders. Nothing in memory that
 * guest code can write is taken for a code address.
 */
#include <stddef.h>
#include <sys/syscall.h>

#include "engine/translate/direct.h"

_Thread_local struct tctx translate_ctx __attribute__((tls_model("local-exec")));

static struct mem icpu_at(unsigned base, size_t offset) { return (struct mem){(uint8_t)base, NO_REG, 0, 0, (int64_t)offset}; }
static struct mem gpr(unsigned base, unsigned r) { return icpu_at(base, offsetof(struct icpu, s.r) + 8 * r); }

static bool has_avx(const struct tcpu *t) { return x86_has(t->c->vm->model, X86_FEATURE_AVX); }

/* A vector register from or to memory, whole. The base is one of the first eight registers. */
static void vector(const struct tcpu *t, struct emitter *e, unsigned i, const struct mem *m, bool store)
{
    if (has_avx(t)) { /* VMOVDQU ymm (VEX.256.F3.0F 6F/7F) */
        emit8(e, 0xc4);
        emit8(e, (i & 8 ? 0u : 0x80u) | 0x60 | 1);
        emit8(e, 0x7e);
        emit8(e, store ? 0x7f : 0x6f);
    } else { /* MOVUPS */
        if (i & 8)
            emit8(e, 0x44);
        emit8(e, 0x0f);
        emit8(e, store ? 0x11 : 0x10);
    }
    emit_modrm_mem(e, i, m, 0);
}
static void vectors(struct tcpu *t, struct emitter *e, unsigned base, bool store)
{
    for (unsigned i = 0; i < 16; i++) {
        struct mem m = icpu_at(base, offsetof(struct icpu, s.vec) + 32 * i);
        vector(t, e, i, &m, store);
    }
    if (store && has_avx(t)) { /* VZEROUPPER: C code is SSE code */
        emit8(e, 0xc5);
        emit8(e, 0xf8);
        emit8(e, 0x77);
    }
}

/* Guest state out of the host's registers. RCX is free for use; ends with the stack of C and RCX = struct icpu. */
static void save_guest(struct tcpu *t, struct emitter *e)
{
    struct mem c = CTX(c), flags = CTX(flags), stack = CTX(host_rsp);
    emit_load(e, RCX, &c);
    for (unsigned r = 0; r < 16; r++)
        if (home[r] != NO_REG) {
            struct mem m = gpr(RCX, r);
            emit_store(e, home[r], &m);
        }
    emit8(e, 0x9f); /* LAHF; SETO AL */
    emit8(e, 0x0f), emit8(e, 0x90), emit8(e, 0xc0);
    emit_store(e, RAX, &flags);
    emit_load(e, RSP, &stack);
    vectors(t, e, RCX, true);
}
/* And back; RCX = struct icpu at first, scratch registers are not touched after it. */
static void load_guest(struct tcpu *t, struct emitter *e)
{
    struct mem c = CTX(c), flags = CTX(flags);
    emit_load(e, RCX, &c);
    vectors(t, e, RCX, false);
    emit_load(e, RAX, &flags);
    emit8(e, 0x04), emit8(e, 0x7f); /* ADD AL, 0x7f: OF; SAHF */
    emit8(e, 0x9e);
    for (unsigned r = 0; r < 16; r++)
        if (home[r] != NO_REG) {
            struct mem m = gpr(RCX, r);
            emit_load(e, home[r], &m);
        }
}
static void go(struct emitter *e)
{
    struct mem m = CTX(go);
    emit_op_mem(e, false, 0xff, 4, &m, 0);
}
static void constants(struct tcpu *t, struct emitter *e)
{
    t->constants = emit_here(e);
    emit64(e, 0x0000fffffffff000ull);
    emit64(e, ((1ull << JUMP_BITS) - 1) << (JUMP_SHIFT - 3)); /* for PDEP: place of the entry in units of 8 */
    emit64(e, ((1ull << JUMP_BITS) - 1) << VICTIM_SHIFT);
    for (unsigned k = 0; k < 12; k++)
        emit64(e, 0xfff & ~((1ull << k) - 1));
    emit64(e, ~(uint64_t)X86_IF);
    emit64(e, ~(uint64_t)X86_DF);
    emit64(e, X86_DF);
    emit64(e, X86_ARITH);
    emit64(e, ~((1ull << TSC_WINDOW_BITS) - 1));
    emit64(e, 1ull << ALIAS_RO_BIT);
    emit64(e, X86_AC);
    emit64(e, ~0ull << 47);
}

/* R15 = index of an entry of the jump cache / 8, R14 = where to: a short jump if it knows that. */
static struct mem jump_entry(size_t field) { return (struct mem){NO_REG, R15, 3, 0x65, (int64_t)field - (int64_t)JUMP_BYTES}; }
static uint8_t *compare_jump(struct emitter *e)
{
    struct mem negative = jump_entry(offsetof(struct tjump, negative_rip));
    emit_load(e, RCX, &negative);
    emit_lea(e, RCX, &(struct mem){RCX, R14, 0, 0, 0}, true);
    emit8(e, 0xe3), emit8(e, 0); /* JRCXZ */
    return e->w;
}
/* There; tctx.adjust is added to RSP. */
static void take_jump(struct emitter *e, uint8_t *from)
{
    struct mem where = jump_entry(offsetof(struct tjump, page)), code = jump_entry(offsetof(struct tjump, code)), page = CTX(page),
               by = CTX(adjust);
    from[-1] = (uint8_t)(e->w - from);
    emit_load(e, RCX, &where);
    emit_store(e, RCX, &page);
    emit_op_mem(e, true, 0x63, RCX, &by, 0); /* MOVSXD */
    emit_lea(e, RSP, &(struct mem){RSP, RCX, 0, 0, 0}, true);
    emit_op_mem(e, false, 0xff, 4, &code, 0);
}
/* R14 = where to: not in the jump cache (tctx.site, adjust are set), but maybe in its second half, which 32-bit code does not use. */
static void second_half(const struct tcpu *t, struct emitter *e, uint64_t unknown)
{
    struct mem second = {RIP_REG, NO_REG, 0, 0, (int64_t)(t->constants + 8 * CONSTANT_VICTIM)};
    emit_pext(e, R15, R14, &second);
    emit_lea(e, R15, &(struct mem){NO_REG, R15, JUMP_SHIFT - 3, 0, 1 << (JUMP_BITS + JUMP_SHIFT - 3)}, true);
    uint8_t *known = compare_jump(e);
    emit_jmp(e, unknown);
    take_jump(e, known);
}

static const uint8_t callee_saved[] = {RBX, RBP, R12, R13, R14, R15};

void stubs_emit(struct tcpu *t)
{
    struct emitter emitter = {t->rw, t->rx - t->rw}, *e = &emitter;
    struct mem save_r14 = CTX(save_r14), save_r15 = CTX(save_r15), found = CTX(found), rip = CTX(rip), stack = CTX(host_rsp),
               record = CTX(record);

    constants(t, e);
    t->stub_enter = emit_here(e);
    for (unsigned i = 0; i < DP_ARRAY_LEN(callee_saved); i++) {
        if (callee_saved[i] & 8)
            emit8(e, 0x41);
        emit8(e, 0x50 | (callee_saved[i] & 7));
    }
    emit_op_reg(e, true, 0x83, 5, RSP), emit8(e, 8); /* SUB RSP, 8: aligned for calls */
    emit_store(e, RSP, &stack);
    load_guest(t, e);
    emit_load(e, R14, &rip); /* the jump cache may have led to a block that died: stub_stale */
    go(e);

    /* A kick: where the signal handler leads. */
    t->stub_kick = emit_here(e);
    emit_set32(e, CTX(reason), LEAVE_KICK);
    t->stub_leave = emit_here(e);
    save_guest(t, e);
    uint64_t out = emit_here(e);
    emit_op_reg(e, true, 0x83, 0, RSP), emit8(e, 8);
    for (unsigned i = DP_ARRAY_LEN(callee_saved); i-- > 0;) {
        if (callee_saved[i] & 8)
            emit8(e, 0x41);
        emit8(e, 0x58 | (callee_saved[i] & 7));
    }
    emit8(e, 0xc3);

    /* R14 = where to: the block there died. */
    t->stub_stale = emit_here(e);
    emit_set32(e, CTX(adjust), 0);
    emit_set32(e, CTX(site), SITE_NONE);
    uint64_t unknown = emit_here(e);
    emit_store(e, R14, &rip);
    emit_set32(e, CTX(reason), LEAVE_LOOKUP);
    emit_jmp(e, t->stub_leave);

    /* An unlinked direct branch. RCX = number of its struct tlink. */
    t->stub_link = emit_here(e);
    emit_store(e, RCX, &record);
    emit_set32(e, CTX(reason), LEAVE_LINK);
    emit_jmp(e, t->stub_leave);

    /* The same, of a far branch that is not to be linked: through the jump cache. RCX = number of its struct tlink. This and stub_lookup go
     * on at an address that is not tctx.go: who is there is stepped to their end (signals.c). */
    struct mem page = CTX(page), by = CTX(adjust), mask = {RIP_REG, NO_REG, 0, 0, (int64_t)(t->constants + 8 * CONSTANT_JUMP)};
    struct mem target = {RCX, NO_REG, 0, 0, offsetof(struct tlink, target)}, adjust = {RCX, NO_REG, 0, 0, offsetof(struct tlink, adjust)};
    t->stub_far = emit_here(e);
    emit_store(e, RCX, &record);
    emit_mov_imm64(e, R15, (uint64_t)(uintptr_t)t->arena);
    emit_lea(e, RCX, &(struct mem){R15, RCX, 3, 0, 0}, true); /* cache_numbered */
    emit_load(e, R14, &page);
    emit_op_mem(e, true, 0x63, R15, &target, 0); /* MOVSXD */
    emit_lea(e, R14, &(struct mem){R14, R15, 0, 0, 0}, true);
    emit_op_mem(e, false, 0x8b, R15, &adjust, 0);
    emit_op_mem(e, false, 0x89, R15, &by, 0);
    emit_bits(e, true, R15, R14, &mask);
    uint8_t *known = compare_jump(e);
    emit_load(e, RCX, &record);
    emit_jmp(e, t->stub_link);
    take_jump(e, known);

    t->stub_lookup = emit_here(e);
    second_half(t, e, unknown);

    t->stub_helper = emit_here(e);
    emit_set32(e, CTX(reason), LEAVE_HELPER);
    emit_jmp(e, t->stub_leave);

    /* RCX = number of a struct tslow: C looks, then on at tctx.go with RCX = the table's entry, or out. */
    t->stub_slow = emit_here(e);
    emit_store(e, RCX, &record);
    emit_store(e, R14, &save_r14);
    emit_store(e, R15, &save_r15);
    save_guest(t, e);
    struct mem self = {NO_REG, NO_REG, 0, 0x64, 0};
    emit_load(e, RDI, &self); /* FS:0 is the thread pointer itself */
    struct mem offset = {RDI, NO_REG, 0, 0, ctx_offset()};
    emit_lea(e, RDI, &offset, true);
    emit_mov_imm64(e, RAX, (uint64_t)(uintptr_t)translate_slow);
    emit8(e, 0xff), emit8(e, 0xd0); /* CALL RAX */
    emit8(e, 0x85), emit8(e, 0xc0); /* TEST EAX, EAX */
    emit_jcc(e, 5, out);
    load_guest(t, e);
    emit_load(e, R14, &save_r14);
    emit_load(e, R15, &save_r15);
    emit_load(e, RCX, &found);
    go(e);

    t->stub_count = emit_here(e); /* signals.c, counted() */
    emit8(e, 0xcc);

    t->used = (uint32_t)DP_ALIGN_UP((size_t)(e->w - t->rw), (size_t)64);
}

/* ---- the runner of a direct space ---- */

struct runner { struct emitter *e; struct tcpu *t; uint64_t orders, state; };

static struct mem at(uint64_t address) { return (struct mem){RIP_REG, NO_REG, 0, 0, (int64_t)address}; }
#define ORDERS(r, field) at((r)->orders + offsetof(struct direct_orders, field))
#define STATE(r, field) at((r)->state + offsetof(struct direct_state, field))
static struct mem in_state(size_t offset) { return (struct mem){RCX, NO_REG, 0, 0, (int64_t)offset}; }
static struct mem host_register(unsigned n) { return in_state(offsetof(struct direct_state, r) + 8 * n); }

static void load32(struct runner *r, unsigned reg, struct mem m) { emit_op_mem(r->e, false, 0x8b, reg, &m, 0); }
static void store32(struct runner *r, unsigned reg, struct mem m) { emit_op_mem(r->e, false, 0x89, reg, &m, 0); }
static void mov_imm32(struct runner *r, unsigned reg, uint32_t v)
{
    emit_op_reg(r->e, false, 0xc7, 0, reg);
    emit32(r->e, v);
}
/* CMP dword [m], 0; then a jump for a condition to a place that is not known yet. */
static uint8_t *branch_on_zero(struct runner *r, struct mem m, unsigned cc)
{
    emit_op_mem(r->e, false, 0x83, 7, &m, 1);
    emit8(r->e, 0);
    return emit_jcc(r->e, cc, 0);
}
static void here(struct runner *r, uint8_t *patch) { emit_patch(r->e, patch, emit_here(r->e)); }
static void system_call(struct runner *r, unsigned number)
{
    mov_imm32(r, RAX, number);
    emit8(r->e, 0x0f), emit8(r->e, 0x05);
}
enum { CC_B = 2, CC_AE = 3, CC_Z = 4, CC_NZ = 5 };

/* RDTSC into the state, which RCX points to. Changes RAX, RDX, flags. */
static void note_time(struct runner *r, size_t offset)
{
    struct emitter *e = r->e;
    struct mem m = in_state(offset);
    emit8(e, 0x0f), emit8(e, 0x31);
    emit_op_reg(e, true, 0xc1, 4, RDX), emit8(e, 32); /* SHL */
    emit_op_reg(e, true, 0x0b, RAX, RDX);             /* OR */
    emit_store(e, RAX, &m);
}

static void vectors_in_state(struct runner *r, bool store)
{
    struct emitter *e = r->e;
    for (unsigned i = 0; i < 16; i++) {
        struct mem m = in_state(offsetof(struct direct_state, vec) + 32 * i);
        vector(r->t, e, i, &m, store);
    }
}

/* The guest's state into the registers, then to orders.go. step: with TF set for the first instruction there. */
static void enter_direct(struct runner *r, bool step)
{
    struct emitter *e = r->e;
    struct mem state = at(r->state), go = ORDERS(r, go), flags = in_state(offsetof(struct direct_state, x) + offsetof(struct tctx, flags));
    struct mem image = STATE(r, step_flags), rsp = STATE(r, r[RSP]);
    emit_lea(e, RCX, &state, true);
    note_time(r, offsetof(struct direct_state, entered));
    vectors_in_state(r, false);
    emit_load(e, RAX, &flags);
    emit8(e, 0x04), emit8(e, 0x7f); /* ADD AL, 0x7f: OF; SAHF */
    emit8(e, 0x9e);
    for (unsigned n = 0; n < 16; n++) {
        struct mem m = host_register(n);
        if (n != RCX)
            emit_load(e, n, &m);
    }
    struct mem rcx = host_register(RCX);
    emit_load(e, RCX, &rcx);
    if (step) {
        emit_lea(e, RSP, &image, true);
        emit8(e, 0x9d); /* POPFQ */
        emit_load(e, RSP, &rsp);
    }
    emit_op_mem(e, false, 0xff, 4, &go, 0);
}

/* The registers into the state; falls through to the reply. */
static void leave_direct(struct runner *r)
{
    struct emitter *e = r->e;
    struct mem state = at(r->state), rcx = STATE(r, r[RCX]),
               flags = in_state(offsetof(struct direct_state, x) + offsetof(struct tctx, flags));
    struct mem mxcsr = in_state(offsetof(struct direct_state, mxcsr)), x87 = in_state(offsetof(struct direct_state, x87));
    struct mem live = in_state(offsetof(struct direct_state, x) + offsetof(struct tctx, x87_live));
    emit_store(e, RCX, &rcx);
    emit_lea(e, RCX, &state, true);
    for (unsigned n = 0; n < 16; n++) {
        struct mem m = host_register(n);
        if (n != RCX)
            emit_store(e, n, &m);
    }
    emit8(e, 0x9f); /* LAHF; SETO AL */
    emit8(e, 0x0f), emit8(e, 0x90), emit8(e, 0xc0);
    emit_store(e, RAX, &flags);
    note_time(r, offsetof(struct direct_state, left));
    vectors_in_state(r, true);
    emit_op_mem(e, false, 0x0fae, 3, &mxcsr, 0); /* STMXCSR */
    emit_op_mem(e, false, 0x80, 7, &live, 1);
    emit8(e, 0);
    uint8_t *dead = emit_jcc(e, CC_Z, 0);
    emit_op_mem(e, false, 0xdd, 6, &x87, 0); /* FNSAVE */
    here(r, dead);
}

/* Jumps below and above if RAX is not in a range of code. */
static uint8_t *within(struct runner *r, uint64_t from, uint64_t to, uint8_t **above)
{
    struct emitter *e = r->e;
    struct mem first = at(from), last = at(to);
    emit_lea(e, RCX, &first, true);
    emit_op_reg(e, true, 0x3b, RAX, RCX);
    uint8_t *below = emit_jcc(e, CC_B, 0);
    emit_lea(e, RCX, &last, true);
    emit_op_reg(e, true, 0x3b, RAX, RCX);
    *above = emit_jcc(e, CC_AE, 0);
    return below;
}

/* The handler of all signals: RDI = number, RDX = ucontext (offsets: struct ucontext_t, x86-64). */
static void handler_direct(struct runner *r, uint64_t critical, uint64_t critical_end, int kick)
{
    struct emitter *e = r->e;
    enum { GREGS = 40, U_RIP = GREGS + 8 * 16, U_EFL = GREGS + 8 * 17, U_ERR = GREGS + 8 * 19,
           U_TRAP = GREGS + 8 * 20, U_CR2 = GREGS + 8 * 22 };
    const struct { unsigned from; size_t to; } copies[] = {
        {U_RIP, offsetof(struct direct_state, pc)},
        {U_ERR, offsetof(struct direct_state, error)},
        {U_TRAP, offsetof(struct direct_state, trap)},
        {U_CR2, offsetof(struct direct_state, address)},
    };
    struct mem pc = {RDX, NO_REG, 0, 0, U_RIP}, efl = {RDX, NO_REG, 0, 0, U_EFL};
    struct mem blocks = at((uint64_t)(uintptr_t)r->t->rx + DP_PAGE_SIZE), end = at((uint64_t)(uintptr_t)r->t->rx + CODE_BYTES);
    struct mem state = at(r->state), signal = STATE(r, signal), outcome = STATE(r, outcome), stepped = STATE(r, stepped),
               is_kicked = STATE(r, kicked);
    struct mem kick_place = at(r->t->stub_kick), leave_place = at(r->t->stub_leave);
    emit_load(e, RAX, &pc);
    emit_lea(e, RCX, &blocks, true); /* the stubs are less than a page */
    emit_op_reg(e, true, 0x3b, RAX, RCX);
    uint8_t *stub = emit_jcc(e, CC_B, 0);
    emit_lea(e, RCX, &end, true);
    emit_op_reg(e, true, 0x3b, RAX, RCX);
    uint8_t *stub2 = emit_jcc(e, CC_AE, 0);
    /* in a block; a trap before the step has been made is none */
    emit_op_reg(e, false, 0x83, 7, RDI), emit8(e, 5); /* CMP EDI, SIGTRAP */
    uint8_t *report = emit_jcc(e, CC_NZ, 0);
    uint8_t *report2 = branch_on_zero(r, stepped, CC_NZ);
    emit_set32(e, stepped, 1);
    emit8(e, 0xc3);
    here(r, report);
    here(r, report2);
    store32(r, RDI, signal);
    emit_lea(e, RCX, &state, true);
    for (unsigned k = 0; k < DP_ARRAY_LEN(copies); k++) {
        struct mem m = {RDX, NO_REG, 0, 0, copies[k].from}, d = in_state(copies[k].to);
        emit_load(e, RAX, &m);
        emit_store(e, RAX, &d);
    }
    emit_set32(e, outcome, DIRECT_SIGNAL);
    emit_lea(e, RCX, &leave_place, true);
    uint8_t *go_there = emit_jmp(e, 0);
    /* in a stub: SIGTRAP goes on stepping if it leads to a block, a kick is noted, anything else is a mistake of ours */
    here(r, stub);
    here(r, stub2);
    emit_op_reg(e, false, 0x83, 7, RDI), emit8(e, 5);
    uint8_t *not_trap = emit_jcc(e, CC_NZ, 0);
    uint8_t *above_lookup, *below_lookup = within(r, r->t->stub_lookup, r->t->stub_handler, &above_lookup);
    emit8(e, 0xc3);
    here(r, above_lookup);
    here(r, below_lookup);
    uint8_t *above_entry, *below_entry = within(r, critical, critical_end, &above_entry);
    emit8(e, 0xc3);
    here(r, above_entry);
    here(r, below_entry);
    emit_op_mem(e, false, 0x81, 4, &efl, 4), emit32(e, ~0x100u); /* AND dword: TF off */
    emit8(e, 0xc3);
    here(r, not_trap);
    emit_op_reg(e, false, 0x83, 7, RDI), emit8(e, (unsigned)kick);
    uint8_t *is_kick = emit_jcc(e, CC_Z, 0);
    mov_imm32(r, RDI, 1);
    system_call(r, SYS_exit_group);
    here(r, is_kick);
    emit_set32(e, is_kicked, 1);
    above_lookup = NULL;
    below_lookup = within(r, r->t->stub_lookup, r->t->stub_handler, &above_lookup);
    emit_set32(e, stepped, 1); /* the first trap in a block counts */
    emit_op_mem(e, false, 0x81, 1, &efl, 4), emit32(e, 0x100); /* OR dword: TF on */
    emit8(e, 0xc3);
    here(r, above_lookup);
    here(r, below_lookup);
    uint8_t *above, *below = within(r, critical, critical_end, &above);
    emit_lea(e, RCX, &kick_place, true);
    here(r, go_there);
    emit_store(e, RCX, &pc);
    emit_op_mem(e, false, 0x81, 4, &efl, 4), emit32(e, ~0x100u); /* AND dword: TF off */
    here(r, below);
    here(r, above);
    emit8(e, 0xc3); /* to the restorer */
}

void stubs_emit_direct(struct tcpu *t, uint64_t area)
{
    struct emitter emitter = {t->rw, t->rx - t->rw}, *e = &emitter;
    struct runner runner = {e, t, area + DIRECT_AT_ORDERS, area + DIRECT_AT_STATE}, *r = &runner;
    uint64_t code = (uint64_t)(uintptr_t)t->rx, end = area + DIRECT_AREA_BYTES, top = 0x7ffffffff000ull;
    struct mem request = ORDERS(r, request), reply = STATE(r, reply), count = ORDERS(r, count), call = ORDERS(r, call),
               errors = STATE(r, errors);
    struct mem outcome = STATE(r, outcome), rip = CTX(rip), record = CTX(record), kicked = STATE(r, kicked), x87 = STATE(r, x87),
               mxcsr = ORDERS(r, mxcsr);

    constants(t, e);
    /* The runner's first steps: FS, GS; away with everything else. */
    t->stub_enter = emit_here(e);
    emit_mov_imm64(e, RAX, area + DIRECT_AT_STATE + offsetof(struct direct_state, x) - (uint64_t)ctx_offset());
    emit8(e, 0xf3), emit8(e, 0x48), emit8(e, 0x0f), emit8(e, 0xae), emit8(e, 0xd0); /* WRFSBASE RAX */
    emit_mov_imm64(e, RAX, area + FRONT_BYTES);
    emit8(e, 0xf3), emit8(e, 0x48), emit8(e, 0x0f), emit8(e, 0xae), emit8(e, 0xd8); /* WRGSBASE RAX */
    mov_imm32(r, RDI, 0);
    emit_mov_imm64(e, RSI, code);
    system_call(r, SYS_munmap);
    emit_mov_imm64(e, RDI, end);
    emit_mov_imm64(e, RSI, top - end);
    system_call(r, SYS_munmap);

    uint64_t wait = emit_here(e);
    load32(r, RDX, reply);
    load32(r, RBX, request);
    emit_op_reg(e, false, 0x3b, RBX, RDX);
    uint8_t *work = emit_jcc(e, CC_NZ, 0);
    emit_lea(e, RDI, &request, true);
    mov_imm32(r, RSI, 0); /* FUTEX_WAIT */
    mov_imm32(r, R10, 0);
    system_call(r, SYS_futex);
    emit_jmp(e, wait);
    here(r, work);
    struct mem state = at(r->state);
    emit_lea(e, RCX, &state, true);
    note_time(r, offsetof(struct direct_state, woken));
    load32(r, R12, count);
    emit_lea(e, R14, &call, true);
    uint64_t next = emit_here(e);
    emit_op_reg(e, false, 0x85, R12, R12);
    uint8_t *done = emit_jcc(e, CC_Z, 0);
    static const uint8_t arguments[] = {RAX, RDI, RSI, RDX, R10, R8, R9};
    for (unsigned k = 0; k < DP_ARRAY_LEN(arguments); k++)
        emit_load(e, arguments[k], &(struct mem){R14, NO_REG, 0, 0, 8 * k});
    emit8(e, 0x0f), emit8(e, 0x05);
    emit_op_reg(e, true, 0x81, 7, RAX), emit32(e, (uint32_t)-4095);
    uint8_t *fine = emit_jcc(e, CC_B, 0);
    emit_op_mem(e, false, 0xff, 0, &errors, 0); /* INC */
    here(r, fine);
    emit_op_reg(e, true, 0x83, 0, R14), emit8(e, sizeof(((struct direct_orders *)0)->call[0]));
    emit_op_reg(e, false, 0xff, 1, R12);
    emit_jmp(e, next);
    here(r, done);
    struct mem go = ORDERS(r, go);
    emit_op_mem(e, true, 0x83, 7, &go, 1), emit8(e, 0);
    uint8_t *nowhere = emit_jcc(e, CC_Z, 0);

    uint64_t critical = emit_here(e); /* from here on a kick must not get lost */
    uint8_t *come_back = branch_on_zero(r, kicked, CC_NZ);
    emit_op_mem(e, false, 0x0fae, 2, &mxcsr, 0); /* LDMXCSR */
    uint8_t *no_x87 = branch_on_zero(r, ORDERS(r, x87), CC_Z);
    emit_op_mem(e, false, 0xdd, 4, &x87, 0); /* FRSTOR */
    here(r, no_x87);
    uint8_t *one_step = branch_on_zero(r, ORDERS(r, step), CC_NZ);
    enter_direct(r, false);
    here(r, one_step);
    enter_direct(r, true);
    uint64_t critical_end = emit_here(e);

    t->stub_kick = emit_here(e);
    here(r, come_back);
    emit_set32(e, outcome, DIRECT_KICKED);
    uint8_t *no_state = emit_jmp(e, 0);

    t->stub_stale = emit_here(e);
    emit_set32(e, CTX(adjust), 0);
    emit_set32(e, CTX(site), SITE_NONE);
    uint64_t unknown = emit_here(e);
    emit_store(e, R14, &rip);
    emit_set32(e, CTX(reason), LEAVE_LOOKUP);
    uint8_t *from_lookup = emit_jmp(e, 0);
    t->stub_link = emit_here(e);
    emit_store(e, RCX, &record);
    emit_set32(e, CTX(reason), LEAVE_LINK);
    uint8_t *from_link = emit_jmp(e, 0);
    t->stub_slow = emit_here(e); /* SITE_X87 only */
    emit_store(e, RCX, &record);
    emit_set32(e, CTX(reason), LEAVE_X87);
    uint8_t *from_slow = emit_jmp(e, 0);
    t->stub_helper = emit_here(e);
    emit_set32(e, CTX(reason), LEAVE_HELPER);
    here(r, from_lookup);
    here(r, from_link);
    here(r, from_slow);
    emit_set32(e, outcome, DIRECT_LEFT);
    t->stub_leave = emit_here(e); /* with the outcome set: after a signal */
    leave_direct(r);
    here(r, no_state);
    here(r, nowhere);
    load32(r, RAX, request);
    store32(r, RAX, reply);
    emit_lea(e, RDI, &reply, true);
    mov_imm32(r, RSI, 1); /* FUTEX_WAKE */
    mov_imm32(r, RDX, 1);
    mov_imm32(r, R10, 0);
    system_call(r, SYS_futex);
    emit_jmp(e, wait);

    t->stub_lookup = emit_here(e); /* goes on in a block without looking at kicks: who is here is stepped */
    second_half(t, e, unknown);

    t->stub_handler = emit_here(e);
    handler_direct(r, critical, critical_end, signals_kick_number());
    t->stub_restorer = emit_here(e);
    system_call(r, SYS_rt_sigreturn);
    t->used = (uint32_t)DP_ALIGN_UP((size_t)(e->w - t->rw), (size_t)DP_PAGE_SIZE);
}
