/* engine/translate/stubs.c - the common host code: entering and leaving translated code, slow paths.
 *
 * Model: made once at the start of each code cache. `enter` is a C function of no arguments (everything is in struct tctx); the matching return is
 * `leave`, jumped to from translated code with the reason in tctx. Guest registers are kept in struct icpu.s while C runs. All transfers into
 * translated code go through tctx.go, so that a signal can redirect them: there is no moment at which a kick gets lost.
 * Slow paths call C on the stack of `enter` with the guest's registers saved, and come back to tctx.go.
 */
#include <stddef.h>

#include "engine/translate/translate_internal.h"

_Thread_local struct tctx translate_ctx __attribute__((tls_model("local-exec")));

static struct mem ctx_at(size_t offset)
{
    return (struct mem){NO_REG, NO_REG, 0, 0x64, (char *)&translate_ctx + offset - (char *)__builtin_thread_pointer()};
}
#define CTX(field) ctx_at(offsetof(struct tctx, field))

/* Host register of each guest one; NO_REG: in struct tctx. */
static const uint8_t home[16] = {RAX, R13, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, NO_REG, NO_REG, NO_REG};

static struct mem icpu_at(unsigned base, size_t offset) { return (struct mem){(uint8_t)base, NO_REG, 0, 0, (int64_t)offset}; }
static struct mem gpr(unsigned base, unsigned r) { return icpu_at(base, offsetof(struct icpu, s.r) + 8 * r); }

static bool has_avx(const struct tcpu *t) { return x86_has(t->c->vm->model, X86_FEATURE_AVX); }

static void vectors(struct tcpu *t, struct emitter *e, unsigned base, bool store)
{
    for (unsigned i = 0; i < 16; i++) {
        struct mem m = icpu_at(base, offsetof(struct icpu, s.vec) + 32 * i);
        if (has_avx(t)) { /* VMOVDQU ymm (VEX.256.F3.0F 6F/7F) */
            emit8(e, 0xc4);
            emit8(e, (i & 8 ? 0u : 0x80u) | 0x40 | (base & 8 ? 0u : 0x20u) | 1);
            emit8(e, 0x7e);
            emit8(e, store ? 0x7f : 0x6f);
        } else { /* MOVUPS */
            unsigned rex = 0x40 | (i & 8 ? 4u : 0) | (base & 8 ? 1u : 0);
            if (rex != 0x40)
                emit8(e, rex);
            emit8(e, 0x0f);
            emit8(e, store ? 0x11 : 0x10);
        }
        emit_modrm_mem(e, i, &m, 0);
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
static void set32(struct emitter *e, struct mem m, uint32_t v)
{
    emit_op_mem(e, false, 0xc7, 0, &m, 4);
    emit32(e, v);
}

static const uint8_t callee_saved[] = {RBX, RBP, R12, R13, R14, R15};

void stubs_emit(struct tcpu *t)
{
    struct emitter emitter = {t->rw, t->rx - t->rw}, *e = &emitter;
    struct mem save_r14 = CTX(save_r14), save_r15 = CTX(save_r15), found = CTX(found), rip = CTX(rip), stack = CTX(host_rsp);

    t->constants = emit_here(e);
    emit64(e, 0x0000fffffffff000ull);
    emit64(e, (1ull << JUMP_BITS) - 1);
    for (unsigned k = 0; k < 12; k++)
        emit64(e, 0xfff & ~((1ull << k) - 1));

    emit64(e, ~(uint64_t)X86_IF);
    emit64(e, ~(uint64_t)X86_DF);
    emit64(e, X86_ARITH);
    emit64(e, ~((1ull << TSC_WINDOW_BITS) - 1));
    emit64(e, 1ull << ALIAS_RO_BIT);
    emit64(e, X86_AC);

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
    set32(e, CTX(reason), LEAVE_KICK);
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

    /* R14 = where to: not in the jump cache (tctx.site, adjust are set), or the block there died. */
    t->stub_stale = emit_here(e);
    set32(e, CTX(adjust), 0);
    set32(e, CTX(site), SITE_NONE);
    t->stub_lookup = emit_here(e);
    emit_store(e, R14, &rip);
    set32(e, CTX(reason), LEAVE_LOOKUP);
    emit_jmp(e, t->stub_leave);

    /* An unlinked direct branch: tctx.link is set. */
    t->stub_link = emit_here(e);
    set32(e, CTX(reason), LEAVE_LINK);
    emit_jmp(e, t->stub_leave);

    t->stub_helper = emit_here(e);
    set32(e, CTX(reason), LEAVE_HELPER);
    emit_jmp(e, t->stub_leave);

    /* tctx.address, site, go are set: C looks, then on at go with RCX = the table's entry, or out. */
    t->stub_slow = emit_here(e);
    emit_store(e, R14, &save_r14);
    emit_store(e, R15, &save_r15);
    save_guest(t, e);
    struct mem self = {NO_REG, NO_REG, 0, 0x64, 0};
    emit_load(e, RDI, &self); /* FS:0 is the thread pointer itself */
    struct mem offset = {RDI, NO_REG, 0, 0, (char *)&translate_ctx - (char *)__builtin_thread_pointer()};
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

    t->used = (uint32_t)DP_ALIGN_UP((size_t)(e->w - t->rw), (size_t)64);
}
