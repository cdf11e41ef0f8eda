/* engine/interp/system.c - far transfers, segments, system registers, flags beyond arithmetic, identification.
 *
 * Model: what these do is in isa/x86; here the interpreter's lazy state is made canonical around the calls. Handlers end at the run loop
 * (LEAVE) whenever mode, translation or interruptibility may have changed.
 * Source: Intel SDM vol. 2; AMD APM vol. 3 where noted.
 */
#include <sys/random.h>

#include "engine/interp/interp_internal.h"
#include "isa/x86/xsave.h"

#define INSN (o->insn)
/* Continue at the next instruction through the run loop. */
#define LEAVE(c, o)                                                                                                                      \
    do {                                                                                                                                 \
        c->s.r[X86_RIP] = interp_next_rip(c, o);                                                                                         \
        INTERP_GO(c, &interp_exit_op);                                                                                                   \
    } while (0)
/* Continue where s.r[RIP] now points. */
#define LEAVE_HERE(c) INTERP_GO(c, &interp_exit_op)

/* Defines a handler whose locals have their address taken: its work stands apart, so that the handler itself can end in a jump. */
#define APART(NAME)                                                                                                                      \
    static __attribute__((noinline)) void NAME##_work(struct icpu *c, const struct iop *o);                                              \
    static void NAME(struct icpu *c, const struct iop *o)                                                                                \
    {                                                                                                                                    \
        NAME##_work(c, o);                                                                                                               \
        INTERP_NEXT(c, o);                                                                                                               \
    }                                                                                                                                    \
    static void NAME##_work(struct icpu *c, const struct iop *o)

static void canonical(struct icpu *c) { c->s.rflags = interp_flags(c); }
/* Result of an isa function that may move RIP. A fault after RIP moved (a task switch that got that far) belongs to the new place. */
static void finish_transfer(struct icpu *c, const struct iop *o, int result, uint64_t rip_before)
{
    if (DP_LIKELY(!result)) {
        interp_sync_in(c);
        return;
    }
    if (c->s.r[X86_RIP] != rip_before) {
        struct iop here = *o;
        here.offset = 0;
        c->block = NULL; /* its instructions did run */
        interp_set_arith(c, c->s.rflags);
        interp_fault_ctx(c, &here);
    }
    interp_fault_ctx(c, o);
}
#define TRANSFER(c, o, call)                                                                                                             \
    do {                                                                                                                                 \
        uint64_t before = c->s.r[X86_RIP];                                                                                               \
        canonical(c);                                                                                                                    \
        finish_transfer(c, o, call, before);                                                                                             \
        LEAVE_HERE(c);                                                                                                                   \
    } while (0)
/* For isa functions that leave RIP alone. */
static void check(struct icpu *c, const struct iop *o, int result)
{
    if (result)
        interp_fault_ctx(c, o);
}

static uint64_t read_gpr(const struct icpu *c, unsigned reg, unsigned size) { return c->s.r[reg] & dp_mask_bytes(size); }
static void write_gpr(struct icpu *c, unsigned reg, uint64_t v, unsigned size)
{
    if (size == 8)
        c->s.r[reg] = v;
    else if (size == 4)
        c->s.r[reg] = (uint32_t)v;
    else
        memcpy(&c->s.r[reg], &v, 2);
}
static uint64_t load_sized(struct icpu *c, const struct iop *o, uint64_t linear, unsigned size)
{
    return size == 8 ? interp_load64(c, o, linear) : size == 4 ? interp_load32(c, o, linear) : interp_load16(c, o, linear);
}
/* A 16-bit selector from register or memory operand k. */
static uint16_t selector_operand(struct icpu *c, const struct iop *o, unsigned k)
{
    const struct x86_operand *p = &INSN->operand[k];
    return p->kind == X86_REG ? (uint16_t)c->s.r[p->reg] : interp_load16(c, o, interp_linear(c, o, 2, false));
}
/* SLDT, STR, SMSW, MOV from segment: memory gets 16 bits, a register its operand size. */
static void store_selector(struct icpu *c, const struct iop *o, uint64_t v)
{
    const struct x86_operand *p = &INSN->operand[0];
    if (p->kind == X86_MEM)
        interp_store16(c, o, interp_linear(c, o, 2, true), (uint16_t)v);
    else
        write_gpr(c, p->reg, v, INSN->operand_size);
}

/* ---- far transfers, events ---- */

/* Far pointer in memory: offset of operand size, then the selector. */
static void far_operand(struct icpu *c, const struct iop *o, uint16_t *selector, uint64_t *offset)
{
    if (INSN->operand[0].kind == X86_FAR) {
        *offset = INSN->imm & dp_mask_bytes(o->size);
        *selector = (uint16_t)INSN->imm2;
        return;
    }
    uint64_t linear = interp_linear(c, o, o->size + 2u, false);
    *offset = load_sized(c, o, linear, o->size);
    *selector = interp_load16(c, o, linear + o->size);
}
static void JMP_FAR(struct icpu *c, const struct iop *o)
{
    uint16_t selector;
    uint64_t offset;
    far_operand(c, o, &selector, &offset);
    TRANSFER(c, o, x86_far_jump(&c->ctx, selector, offset, o->size, interp_next_rip(c, o)));
}
static void CALL_FAR(struct icpu *c, const struct iop *o)
{
    uint16_t selector;
    uint64_t offset;
    far_operand(c, o, &selector, &offset);
    TRANSFER(c, o, x86_far_call(&c->ctx, selector, offset, o->size, interp_next_rip(c, o)));
}
static void RET_FAR(struct icpu *c, const struct iop *o) { TRANSFER(c, o, x86_far_return(&c->ctx, o->size, (uint16_t)o->imm)); }
static void IRET(struct icpu *c, const struct iop *o) { TRANSFER(c, o, x86_iret(&c->ctx, o->size, interp_next_rip(c, o))); }
static void RSM(struct icpu *c, const struct iop *o)
{
    if (!c->s.smm)
        interp_fault(c, o, X86_UD);
    interp_leave_smm(c);
    LEAVE_HERE(c);
}
/* These take the single-step trap if TF is set afterwards: none in a kernel whose FMASK clears it,
 * one in the user before its next instruction. */
static int settle_trap(struct icpu *c, int result)
{
    if (!result) {
        c->delivered = true;
        c->pending_db |= c->s.rflags & X86_TF ? 1u << 14 : 0;
    }
    return result;
}
static void SYSCALL(struct icpu *c, const struct iop *o) { TRANSFER(c, o, settle_trap(c, x86_syscall(&c->ctx, interp_next_rip(c, o)))); }
static void SYSRET(struct icpu *c, const struct iop *o) { TRANSFER(c, o, settle_trap(c, x86_sysret(&c->ctx, o->size))); }
static void SYSENTER(struct icpu *c, const struct iop *o) { TRANSFER(c, o, x86_sysenter(&c->ctx)); }
static void SYSEXIT(struct icpu *c, const struct iop *o) { TRANSFER(c, o, x86_sysexit(&c->ctx, o->size)); }
/* A data breakpoint that MOV SS held back is told by INT1's own #DB: a second one at the handler's begin would use its stack again. */
static int merge_debug(struct icpu *c, const struct iop *o, int result)
{
    if (!result && o->b == X86_EVENT_ICEBP && c->mode & IMODE_ONE && c->watch_dr6) {
        c->s.dr[6] = (c->s.dr[6] & ~15ull) | c->watch_dr6;
        c->watch_dr6 = 0;
    }
    return result;
}
/* INT n, INT3, INTO, INT1: imm is the vector, b the kind. A fault in delivery is raised at the instruction. */
static void INT(struct icpu *c, const struct iop *o)
{
    if (o->extra && !interp_of(c)) /* INTO */
        INTERP_NEXT(c, o);
    c->delivered = true;
    TRANSFER(c, o, merge_debug(c, o, x86_deliver(&c->ctx, (unsigned)o->imm, o->b, false, 0, interp_next_rip(c, o))));
}
static void HLT(struct icpu *c, const struct iop *o)
{
    c->s.run_state = X86_HALTED;
    LEAVE(c, o);
}

/* ---- flags ---- */
/* In virtual-8086 mode with VME, and at CPL 3 with PVI, who lacks the IOPL has a virtual interrupt flag (SDM vol. 3 21.3, 21.4). */
static bool virtual_if(struct icpu *c)
{
    return interp_cpl(c) == 3 && (c->s.rflags & X86_IOPL) != X86_IOPL && (c->s.cr4 & (c->mode & IMODE_V86 ? X86_CR4_VME : X86_CR4_PVI));
}
static void CLI(struct icpu *c, const struct iop *o)
{
    if ((c->mode & IMODE_PE) && (c->s.rflags >> 12 & 3) < interp_cpl(c)) {
        if (!virtual_if(c))
            interp_fault_code(c, o, X86_GP, 0);
        c->s.rflags &= ~(uint64_t)X86_VIF;
        INTERP_NEXT(c, o);
    }
    c->s.rflags &= ~(uint64_t)X86_IF;
    INTERP_NEXT(c, o);
}
static void STI(struct icpu *c, const struct iop *o)
{
    if ((c->mode & IMODE_PE) && (c->s.rflags >> 12 & 3) < interp_cpl(c)) {
        if (!virtual_if(c) || (c->s.rflags & X86_VIP))
            interp_fault_code(c, o, X86_GP, 0);
        c->s.rflags |= X86_VIF;
        INTERP_NEXT(c, o);
    }
    if (c->s.rflags & X86_IF)
        INTERP_NEXT(c, o);
    c->s.rflags |= X86_IF;
    c->s.sti_shadow = true;
    LEAVE(c, o);
}
static void PUSHF(struct icpu *c, const struct iop *o)
{
    uint64_t v = interp_flags(c) & ~(uint64_t)(X86_RF | X86_VM);
    if ((c->mode & IMODE_V86) && (v & X86_IOPL) != X86_IOPL) {
        if (!virtual_if(c) || o->size != 2)
            interp_fault_code(c, o, X86_GP, 0);
        v = (v & ~(uint64_t)X86_IF) | X86_IOPL | (v & X86_VIF ? X86_IF : 0);
    }
    interp_push(c, o, v, o->size);
    INTERP_NEXT(c, o);
}
static void POPF(struct icpu *c, const struct iop *o)
{
    unsigned cpl = interp_cpl(c), iopl = c->s.rflags >> 12 & 3;
    bool vme = (c->mode & IMODE_V86) && iopl != 3;
    if (vme && (!virtual_if(c) || o->size != 2))
        interp_fault_code(c, o, X86_GP, 0);
    uint64_t v = interp_peek(c, o, 0, o->size), change = X86_ARITH | X86_TF | X86_DF | X86_NT | X86_AC | X86_ID, old = c->s.rflags;
    if (o->size == 2)
        change &= 0xffff;
    if (!(c->mode & IMODE_PE) || cpl == 0)
        change |= X86_IOPL | X86_IF;
    else if (cpl <= iopl)
        change |= X86_IF;
    if (c->mode & IMODE_V86)
        change &= ~(uint64_t)X86_IOPL;
    if (vme) {
        if ((v & X86_TF) || ((v & X86_IF) && (old & X86_VIP)))
            interp_fault_code(c, o, X86_GP, 0);
        change |= X86_VIF;
        v = v & X86_IF ? v | X86_VIF : v;
    }
    interp_release(c, o->size);
    c->s.rflags = (old & ~change & ~(uint64_t)X86_RF) | (v & change) | 2;
    interp_set_arith(c, v);
    uint64_t diff = old ^ c->s.rflags;
    if (!(diff & (X86_TF | X86_AC | X86_RF)) && !(diff & c->s.rflags & X86_IF))
        INTERP_NEXT(c, o);
    if (diff & X86_AC)
        interp_update_mode(c);
    LEAVE(c, o);
}
static void set_ac(struct icpu *c, bool on)
{
    c->s.rflags = on ? c->s.rflags | X86_AC : c->s.rflags & ~(uint64_t)X86_AC;
    if (c->tlb != c->tlb_all + ITLB_EMPTY * ITLB_SIZE)
        c->tlb = c->tlb_all + (on ? ITLB_SUPER_AC : ITLB_SUPER) * ITLB_SIZE;
}
static void CLAC(struct icpu *c, const struct iop *o) { set_ac(c, false); INTERP_NEXT(c, o); }
static void STAC(struct icpu *c, const struct iop *o) { set_ac(c, true); INTERP_NEXT(c, o); }

/* ---- segments ---- */
static void load_seg(struct icpu *c, const struct iop *o, unsigned seg, uint16_t selector)
{
    canonical(c);
    check(c, o, x86_load_segment(&c->ctx, seg, selector));
    interp_update_mode(c);
}
static void MOV_SEG(struct icpu *c, const struct iop *o)
{
    const struct x86_operand *d = &INSN->operand[0];
    if (!(d->kind == X86_REG && d->reg_class == X86_RC_SEG)) {
        store_selector(c, o, c->s.seg[INSN->operand[1].reg].sel);
        INTERP_NEXT(c, o);
    }
    load_seg(c, o, d->reg, selector_operand(c, o, 1));
    if (d->reg == X86_SS)
        c->s.movss_shadow = true;
    LEAVE(c, o);
}
static void PUSH_SEG(struct icpu *c, const struct iop *o)
{
    uint16_t sel = c->s.seg[INSN->operand[0].reg].sel;
    interp_push(c, o, sel, o->size);
    INTERP_NEXT(c, o);
}
static void POP_SEG(struct icpu *c, const struct iop *o)
{
    uint16_t sel = (uint16_t)interp_peek(c, o, 0, o->size);
    unsigned reg = INSN->operand[0].reg;
    uint64_t sp_mode = c->mode; /* the width of the stack is that of before a POP SS */
    load_seg(c, o, reg, sel);
    uint32_t after = c->mode;
    c->mode = (uint32_t)sp_mode;
    interp_release(c, o->size);
    c->mode = after;
    if (reg == X86_SS)
        c->s.movss_shadow = true;
    LEAVE(c, o);
}
static void LOAD_FAR_POINTER(struct icpu *c, const struct iop *o) /* LDS, LES, LSS, LFS, LGS: b is the segment */
{
    uint64_t linear = interp_linear(c, o, o->size + 2u, false), offset = load_sized(c, o, linear, o->size);
    uint16_t selector = interp_load16(c, o, linear + o->size);
    load_seg(c, o, o->b, selector);
    write_gpr(c, INSN->operand[0].reg, offset, o->size);
    LEAVE(c, o);
}
static void set_zf(struct icpu *c, bool zf) { interp_set_arith(c, (interp_flags(c) & ~(uint64_t)X86_ZF) | (zf ? X86_ZF : 0)); }
APART(LAR)
{
    uint16_t selector = selector_operand(c, o, 1);
    uint32_t v = 0;
    c->ctx.fault.vector = 0;
    bool ok = x86_lar(&c->ctx, selector, &v);
    if (!ok && c->ctx.fault.vector)
        interp_fault_ctx(c, o);
    set_zf(c, ok);
    if (ok)
        write_gpr(c, INSN->operand[0].reg, v, o->size);
}
APART(LSL)
{
    uint16_t selector = selector_operand(c, o, 1);
    uint32_t v = 0;
    c->ctx.fault.vector = 0;
    bool ok = x86_lsl(&c->ctx, selector, &v);
    if (!ok && c->ctx.fault.vector)
        interp_fault_ctx(c, o);
    set_zf(c, ok);
    if (ok)
        write_gpr(c, INSN->operand[0].reg, v, o->size);
}
static void VERIFY(struct icpu *c, const struct iop *o) /* extra: for writing */
{
    uint16_t selector = selector_operand(c, o, 0);
    c->ctx.fault.vector = 0;
    bool ok = x86_verify(&c->ctx, selector, o->extra);
    if (!ok && c->ctx.fault.vector)
        interp_fault_ctx(c, o);
    set_zf(c, ok);
    INTERP_NEXT(c, o);
}
static void ARPL(struct icpu *c, const struct iop *o)
{
    const struct x86_operand *d = &INSN->operand[0];
    uint16_t source = (uint16_t)c->s.r[INSN->operand[1].reg], v;
    if (d->kind == X86_MEM) {
        v = interp_load16(c, o, interp_linear(c, o, 2, false)); /* must be writable only if it is written */
    } else {
        v = (uint16_t)c->s.r[d->reg];
    }
    bool less = (v & 3) < (source & 3);
    if (less) {
        v = (uint16_t)((v & ~3) | (source & 3));
        if (d->kind == X86_MEM)
            interp_store16(c, o, interp_linear(c, o, 2, true), v);
        else
            write_gpr(c, d->reg, v, 2);
    }
    set_zf(c, less);
    INTERP_NEXT(c, o);
}
/* RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE: b is the segment. */
static void RDBASE(struct icpu *c, const struct iop *o)
{
    write_gpr(c, INSN->operand[0].reg, c->s.seg[o->b].base, o->size);
    INTERP_NEXT(c, o);
}
static void WRBASE(struct icpu *c, const struct iop *o)
{
    uint64_t v = read_gpr(c, INSN->operand[0].reg, o->size);
    if (!x86_canonical(&c->s, v))
        interp_fault_code(c, o, X86_GP, 0);
    c->s.seg[o->b].base = c->segbase[o->b] = v;
    INTERP_NEXT(c, o);
}
static void SWAPGS(struct icpu *c, const struct iop *o)
{
    uint64_t v = c->s.kernel_gs_base;
    c->s.kernel_gs_base = c->s.seg[X86_GS].base;
    c->s.seg[X86_GS].base = c->segbase[X86_GS] = v;
    INTERP_NEXT(c, o);
}

/* ---- descriptor table registers: 2 bytes limit, then base; 24 bits of it with a 16-bit operand ---- */
static void LOAD_TABLE(struct icpu *c, const struct iop *o) /* extra: IDT */
{
    bool code64 = (c->mode & IMODE_CODE) == X86_MODE64;
    uint64_t linear = interp_linear(c, o, code64 ? 10 : 6, false), base;
    uint16_t limit = interp_load16(c, o, linear);
    if (code64) {
        base = interp_load64(c, o, linear + 2);
        if (!x86_canonical(&c->s, base))
            interp_fault_code(c, o, X86_GP, 0);
    } else {
        base = interp_load32(c, o, linear + 2);
        if (INSN->operand_size == 2)
            base &= 0xffffff;
    }
    if (o->extra) {
        c->s.idtr.base = base;
        c->s.idtr.limit = limit;
    } else {
        c->s.gdtr.base = base;
        c->s.gdtr.limit = limit;
    }
    INTERP_NEXT(c, o);
}
static void umip(struct icpu *c, const struct iop *o)
{
    if ((c->mode & IMODE_UMIP) && interp_cpl(c) > 0)
        interp_fault_code(c, o, X86_GP, 0);
}
APART(STORE_TABLE)
{
    umip(c, o);
    bool code64 = (c->mode & IMODE_CODE) == X86_MODE64;
    uint8_t image[10];
    uint64_t base = o->extra ? c->s.idtr.base : c->s.gdtr.base;
    dp_st16(image, o->extra ? c->s.idtr.limit : c->s.gdtr.limit);
    dp_st64(image + 2, base);
    unsigned size = code64 ? 10 : 6;
    interp_store_bytes(c, o, interp_linear(c, o, size, true), image, size);
}
static void LLDT(struct icpu *c, const struct iop *o) { check(c, o, x86_load_ldt(&c->ctx, selector_operand(c, o, 0))); INTERP_NEXT(c, o); }
static void LTR(struct icpu *c, const struct iop *o) { check(c, o, x86_load_tr(&c->ctx, selector_operand(c, o, 0))); INTERP_NEXT(c, o); }
static void SLDT(struct icpu *c, const struct iop *o) { umip(c, o); store_selector(c, o, c->s.ldtr.sel); INTERP_NEXT(c, o); }
static void STR(struct icpu *c, const struct iop *o) { umip(c, o); store_selector(c, o, c->s.tr.sel); INTERP_NEXT(c, o); }
static void SMSW(struct icpu *c, const struct iop *o) { umip(c, o); store_selector(c, o, c->s.cr0); INTERP_NEXT(c, o); }
static void write_cr(struct icpu *c, const struct iop *o, unsigned cr, uint64_t v)
{
    canonical(c);
    check(c, o, x86_write_cr(&c->ctx, cr, v));
    interp_sync_in(c);
}
static void LMSW(struct icpu *c, const struct iop *o)
{
    uint16_t v = selector_operand(c, o, 0);
    write_cr(c, o, 0, (c->s.cr0 & ~0xeull) | (v & 0xe) | (c->s.cr0 & 1) | (v & 1)); /* PE can be set, not cleared */
    LEAVE(c, o);
}
static void CLTS(struct icpu *c, const struct iop *o)
{
    c->s.cr0 &= ~(uint64_t)X86_CR0_TS;
    interp_update_mode(c);
    LEAVE(c, o);
}
static void MOV_CR(struct icpu *c, const struct iop *o)
{
    const struct x86_operand *d = &INSN->operand[0], *s = &INSN->operand[1];
    if (d->reg_class == X86_RC_CR) {
        uint64_t v = read_gpr(c, s->reg, s->size);
        if (d->reg == 8) {
            if (v >> 4)
                interp_fault_code(c, o, X86_GP, 0);
            c->s.cr8 = v;
            if (c->bus.tpr_write)
                c->bus.tpr_write(c->bus.apic, (uint8_t)(v << 4));
        } else {
            write_cr(c, o, d->reg, v);
        }
        LEAVE(c, o);
    }
    uint64_t v;
    switch (s->reg) {
    case 0: v = c->s.cr0; break;
    case 2: v = c->s.cr2; break;
    case 3: v = c->s.cr3; break;
    case 4: v = c->s.cr4; break;
    default: v = c->bus.tpr_read ? c->bus.tpr_read(c->bus.apic) >> 4 : c->s.cr8; break;
    }
    write_gpr(c, d->reg, v, d->size);
    INTERP_NEXT(c, o);
}
static __attribute__((noinline)) void read_dr(struct icpu *c, const struct iop *o, unsigned dr, const struct x86_operand *d)
{
    uint64_t v = 0;
    check(c, o, x86_read_dr(&c->ctx, dr, &v));
    write_gpr(c, d->reg, v, d->size);
}
static void MOV_DR(struct icpu *c, const struct iop *o)
{
    const struct x86_operand *d = &INSN->operand[0], *s = &INSN->operand[1];
    if (d->reg_class == X86_RC_DR) {
        check(c, o, x86_write_dr(&c->ctx, d->reg, read_gpr(c, s->reg, s->size)));
        interp_update_mode(c);
        LEAVE(c, o);
    }
    read_dr(c, o, s->reg, d);
    INTERP_NEXT(c, o);
}
static void INVLPG(struct icpu *c, const struct iop *o)
{
    uint64_t linear = interp_ea(c, o) + c->segbase[o->seg];
    interp_flush(c, X86_FLUSH_PAGE, (c->mode & IMODE_CODE) == X86_MODE64 ? linear : linear & 0xffffffffull, x86_pcid(&c->s));
    LEAVE(c, o);
}

static __attribute__((noinline)) void invpcid(struct icpu *c, const struct iop *o)
{
    uint8_t descriptor[16];
    interp_load_bytes(c, o, interp_linear(c, o, 16, false), descriptor, 16);
    const struct x86_operand *type = &INSN->operand[0];
    check(c, o, x86_invpcid(&c->ctx, read_gpr(c, type->reg, type->size), descriptor));
}
static void INVPCID(struct icpu *c, const struct iop *o)
{
    invpcid(c, o);
    LEAVE(c, o);
}

/* ---- MSRs, identification, time ---- */
enum { MSR_TSC = 0x10, MSR_APIC_BASE = 0x1b, MSR_TSC_ADJUST = 0x3b, MSR_TSC_DEADLINE = 0x6e0, MSR_KVM_WALL_OLD = 0x11,
       MSR_KVM_TIME_OLD = 0x12,
       MSR_KVM_FIRST = 0x4b564d00, MSR_KVM_WALL = 0x4b564d00, MSR_KVM_TIME = 0x4b564d01 };
static bool apic_msr(uint32_t msr) { return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE || (msr >= 0x800 && msr < 0x900); }
static bool pv_msr(const struct icpu *c, uint32_t msr)
{
    return c->vm->model->kvm_clock && c->bus.pv_msr_write &&
           (msr == MSR_KVM_WALL_OLD || msr == MSR_KVM_TIME_OLD || msr == MSR_KVM_WALL || msr == MSR_KVM_TIME);
}
APART(RDMSR)
{
    uint32_t msr = (uint32_t)c->s.r[X86_RCX];
    uint64_t v = 0;
    if (msr == MSR_TSC)
        v = interp_tsc(c);
    else if (msr == MSR_TSC_ADJUST)
        v = c->s.tsc_adjust;
    else if (apic_msr(msr)) {
        if (!c->bus.msr_read || !c->bus.msr_read(c->bus.apic, msr, &v))
            interp_fault_code(c, o, X86_GP, 0);
    } else if (pv_msr(c, msr))
        v = msr == MSR_KVM_WALL || msr == MSR_KVM_WALL_OLD ? c->s.kvm_wall_clock : c->s.kvm_system_time;
    else
        check(c, o, x86_rdmsr(&c->ctx, msr, &v));
    c->s.r[X86_RAX] = (uint32_t)v;
    c->s.r[X86_RDX] = v >> 32;
}
static void WRMSR(struct icpu *c, const struct iop *o)
{
    uint32_t msr = (uint32_t)c->s.r[X86_RCX];
    uint64_t v = c->s.r[X86_RDX] << 32 | (uint32_t)c->s.r[X86_RAX];
    if (msr == MSR_TSC || msr == MSR_TSC_ADJUST) {
        /* Writing one moves the other by the same amount (SDM vol. 3, 18.17.3). */
        uint64_t delta = msr == MSR_TSC ? v - interp_tsc(c) : v - c->s.tsc_adjust;
        c->s.tsc_offset += (int64_t)delta;
        c->s.tsc_adjust += delta;
        if (c->bus.tsc_moved)
            c->bus.tsc_moved(c->bus.board, c->index, c->s.tsc_offset);
    } else if (apic_msr(msr)) {
        if (!c->bus.msr_write || !c->bus.msr_write(c->bus.apic, msr, v))
            interp_fault_code(c, o, X86_GP, 0);
        if (msr == MSR_APIC_BASE) {
            c->s.apic_base = v;
            interp_flush_all(c); /* the page of the local APIC moved */
        }
    } else if (pv_msr(c, msr)) {
        if (!c->bus.pv_msr_write(c->bus.pv, c->index, msr, v))
            interp_fault_code(c, o, X86_GP, 0);
        if (msr == MSR_KVM_WALL || msr == MSR_KVM_WALL_OLD)
            c->s.kvm_wall_clock = v;
        else
            c->s.kvm_system_time = v;
    } else {
        canonical(c);
        check(c, o, x86_wrmsr(&c->ctx, msr, v));
        interp_sync_in(c);
    }
    LEAVE(c, o);
}
APART(CPUID)
{
    uint32_t out[4];
    x86_cpuid(c->vm->model, &c->s, c->index, (uint32_t)c->s.r[X86_RAX], (uint32_t)c->s.r[X86_RCX], out);
    c->s.r[X86_RAX] = out[0];
    c->s.r[X86_RBX] = out[1];
    c->s.r[X86_RCX] = out[2];
    c->s.r[X86_RDX] = out[3];
}
static void RDTSC(struct icpu *c, const struct iop *o) /* extra: RDTSCP */
{
    if ((c->mode & IMODE_TSD) && interp_cpl(c))
        interp_fault_code(c, o, X86_GP, 0);
    uint64_t v = interp_tsc(c);
    c->s.r[X86_RAX] = (uint32_t)v;
    c->s.r[X86_RDX] = v >> 32;
    if (o->extra)
        c->s.r[X86_RCX] = (uint32_t)c->s.tsc_aux;
    INTERP_NEXT(c, o);
}
static void RDPID(struct icpu *c, const struct iop *o) { c->s.r[INSN->operand[0].reg] = (uint32_t)c->s.tsc_aux; INTERP_NEXT(c, o); }
static void XGETBV(struct icpu *c, const struct iop *o)
{
    uint32_t index = (uint32_t)c->s.r[X86_RCX];
    if (!(c->mode & IMODE_OSXSAVE))
        interp_fault(c, o, X86_UD);
    if (index > 1 || (index == 1 && !x86_has(c->vm->model, X86_FEATURE_XGETBV1)))
        interp_fault_code(c, o, X86_GP, 0);
    /* Index 1: of the states enabled those in use. */
    uint64_t v = index ? c->s.xcr0 & x86_xsave_in_use(&c->s) : c->s.xcr0;
    c->s.r[X86_RAX] = (uint32_t)v;
    c->s.r[X86_RDX] = v >> 32;
    INTERP_NEXT(c, o);
}
static void XSETBV(struct icpu *c, const struct iop *o)
{
    if (!(c->mode & IMODE_OSXSAVE))
        interp_fault(c, o, X86_UD);
    if (interp_cpl(c))
        interp_fault_code(c, o, X86_GP, 0);
    check(c, o, x86_xsetbv(&c->ctx, (uint32_t)c->s.r[X86_RCX], c->s.r[X86_RDX] << 32 | (uint32_t)c->s.r[X86_RAX]));
    interp_update_mode(c);
    LEAVE(c, o);
}
APART(RDRAND) /* RDSEED too */
{
    uint64_t v = 0;
    bool ok = getrandom(&v, o->size, GRND_NONBLOCK) == o->size;
    write_gpr(c, INSN->operand[0].reg, ok ? v : 0, o->size);
    interp_set_arith(c, ok ? X86_CF : 0);
}
static void RDPMC(struct icpu *c, const struct iop *o)
{
    /* No counters: every index is out of range, for those allowed to ask at all. */
    interp_fault_code(c, o, X86_GP, 0);
    (void)c;
}
static void FENCE(struct icpu *c, const struct iop *o)
{
    atomic_thread_fence(memory_order_seq_cst);
    INTERP_NEXT(c, o);
}
/* CLFLUSH, CLFLUSHOPT, CLWB: the address is checked like a load of one byte. */
static void CLFLUSH(struct icpu *c, const struct iop *o)
{
    interp_load8(c, o, interp_linear(c, o, 1, false));
    INTERP_NEXT(c, o);
}
static void WBINVD(struct icpu *c, const struct iop *o) { INTERP_NEXT(c, o); }

bool interp_lower_system(struct icpu *c, const struct x86_insn *i, struct iop *o, bool *need_insn)
{
    *need_insn = true;
    bool code64 = (c->mode & IMODE_CODE) == X86_MODE64;
    o->size = i->operand_size;
    switch (i->op) {
    case X86_OP_UD0:
    case X86_OP_UD1:
    case X86_OP_UD2:
    case X86_OP_VMCALL:
    case X86_OP_VMMCALL: o->fn = interp_op_ud; return true;
    case X86_OP_JMP_FAR: o->fn = JMP_FAR; return true;
    case X86_OP_CALL_FAR: o->fn = CALL_FAR; return true;
    case X86_OP_RET_FAR: o->imm = i->operand[0].kind == X86_IMM ? (uint16_t)i->imm : 0; o->fn = RET_FAR; return true;
    case X86_OP_IRET: o->fn = IRET; return true;
    case X86_OP_RSM: o->fn = RSM; return true;
    case X86_OP_SYSCALL: o->fn = SYSCALL; return true;
    case X86_OP_SYSRET: o->fn = SYSRET; return true;
    case X86_OP_SYSENTER: o->fn = SYSENTER; return true;
    case X86_OP_SYSEXIT: o->fn = SYSEXIT; return true;
    case X86_OP_INT: o->imm = i->imm & 0xff; o->b = X86_EVENT_SOFTWARE; o->extra = 0; o->fn = INT; return true;
    case X86_OP_INT3: o->imm = X86_BP; o->b = X86_EVENT_SOFTWARE_EXCEPTION; o->extra = 0; o->fn = INT; return true;
    case X86_OP_INTO: o->imm = X86_OFV; o->b = X86_EVENT_SOFTWARE_EXCEPTION; o->extra = 1; o->fn = INT; return true;
    case X86_OP_INT1: o->imm = X86_DB; o->b = X86_EVENT_ICEBP; o->extra = 0; o->fn = INT; return true;
    case X86_OP_HLT: o->fn = HLT; return true;
    case X86_OP_CLI: o->fn = CLI; return true;
    case X86_OP_STI: o->fn = STI; return true;
    case X86_OP_PUSHF: o->fn = PUSHF; return true;
    case X86_OP_POPF: o->fn = POPF; return true;
    case X86_OP_CLAC: o->fn = c->mode >> IMODE_CPL_SHIFT & 3 ? interp_op_ud : CLAC; return true;
    case X86_OP_STAC: o->fn = c->mode >> IMODE_CPL_SHIFT & 3 ? interp_op_ud : STAC; return true;
    case X86_OP_MOV_SEG: o->fn = MOV_SEG; return true;
    case X86_OP_PUSH_SEG: o->fn = PUSH_SEG; return true;
    case X86_OP_POP_SEG: o->fn = POP_SEG; return true;
    case X86_OP_LES: o->b = X86_ES; o->fn = LOAD_FAR_POINTER; return true;
    case X86_OP_LDS: o->b = X86_DS; o->fn = LOAD_FAR_POINTER; return true;
    case X86_OP_LSS: o->b = X86_SS; o->fn = LOAD_FAR_POINTER; return true;
    case X86_OP_LFS: o->b = X86_FS; o->fn = LOAD_FAR_POINTER; return true;
    case X86_OP_LGS: o->b = X86_GS; o->fn = LOAD_FAR_POINTER; return true;
    case X86_OP_LAR: o->fn = LAR; return true;
    case X86_OP_LSL: o->fn = LSL; return true;
    case X86_OP_VERR: o->extra = 0; o->fn = VERIFY; return true;
    case X86_OP_VERW: o->extra = 1; o->fn = VERIFY; return true;
    case X86_OP_ARPL: o->fn = ARPL; return true;
    case X86_OP_RDFSBASE:
    case X86_OP_RDGSBASE:
    case X86_OP_WRFSBASE:
    case X86_OP_WRGSBASE:
        o->b = i->op == X86_OP_RDFSBASE || i->op == X86_OP_WRFSBASE ? X86_FS : X86_GS;
        o->size = i->operand[0].size; /* 66h means nothing here */
        o->fn = !(c->mode & IMODE_FSGSBASE) ? interp_op_ud : i->op == X86_OP_RDFSBASE || i->op == X86_OP_RDGSBASE ? RDBASE : WRBASE;
        return true;
    case X86_OP_SWAPGS: o->fn = code64 ? SWAPGS : interp_op_ud; return true;
    case X86_OP_LGDT: o->extra = 0; o->fn = LOAD_TABLE; return true;
    case X86_OP_LIDT: o->extra = 1; o->fn = LOAD_TABLE; return true;
    case X86_OP_SGDT: o->extra = 0; o->fn = STORE_TABLE; return true;
    case X86_OP_SIDT: o->extra = 1; o->fn = STORE_TABLE; return true;
    case X86_OP_LLDT: o->fn = LLDT; return true;
    case X86_OP_LTR: o->fn = LTR; return true;
    case X86_OP_SLDT: o->fn = SLDT; return true;
    case X86_OP_STR: o->fn = STR; return true;
    case X86_OP_SMSW: o->fn = SMSW; return true;
    case X86_OP_LMSW: o->fn = LMSW; return true;
    case X86_OP_CLTS: o->fn = CLTS; return true;
    case X86_OP_MOV_CR: o->fn = MOV_CR; return true;
    case X86_OP_MOV_DR: o->fn = MOV_DR; return true;
    case X86_OP_INVLPG: o->fn = INVLPG; return true;
    case X86_OP_INVPCID: o->fn = INVPCID; return true;
    case X86_OP_INVD:
    case X86_OP_WBINVD: o->fn = WBINVD; return true;
    case X86_OP_RDMSR: o->fn = RDMSR; return true;
    case X86_OP_WRMSR: o->fn = WRMSR; return true;
    case X86_OP_CPUID: o->fn = CPUID; return true;
    case X86_OP_RDTSC: o->extra = 0; o->fn = RDTSC; return true;
    case X86_OP_RDTSCP: o->extra = 1; o->fn = RDTSC; return true;
    case X86_OP_RDPID: o->fn = RDPID; return true;
    case X86_OP_RDPMC: o->fn = RDPMC; return true;
    case X86_OP_XGETBV: o->fn = XGETBV; return true;
    case X86_OP_XSETBV: o->fn = XSETBV; return true;
    case X86_OP_RDRAND:
    case X86_OP_RDSEED: o->fn = RDRAND; return true;
    case X86_OP_MFENCE: o->fn = FENCE; return true;
    case X86_OP_CLFLUSH:
    case X86_OP_CLFLUSHOPT:
    case X86_OP_CLWB: o->fn = CLFLUSH; return true;
    default: *need_insn = false; return false;
    }
}
