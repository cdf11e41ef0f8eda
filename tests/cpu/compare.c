/* compare.c - what of two results must be equal, and what the manuals leave open.
 *
 * Flags that an instruction leaves undefined come from the decode table (flags_undefined), refined for shifts and rotates by their count.
 * Everything else that is not compared is a case below with its reason.
 */
#include <math.h>

#include "cpu.h"

bool cpu_decode_nth(const struct cpu_case *c, unsigned n, struct x86_insn *insn)
{
    return n < c->insn_count && x86_decode(c->code + c->insn_at[n], DP_MIN(15u, (unsigned)c->code_size - c->insn_at[n]), c->mode, insn) > 0;
}

/* SDM vol. 2, SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD, SHRD: count 0 changes no flag; OF is defined for a count of 1 only; AF is undefined
 * for shifts and untouched by rotates; CF is undefined when SHL or SHR (8- or 16-bit) shift by the operand size or more. */
static uint32_t undefined_flags(const struct cpu_case *c, const struct x86_insn *i)
{
    if (!i->operand_count)
        return i->row->flags_undefined;
    unsigned bits = i->operand[0].size * 8u;
    const struct x86_operand *by = &i->operand[i->operand_count - 1];
    bool known = by->kind == X86_IMM || c->insn_count == 1;
    unsigned count = (unsigned)(by->kind == X86_IMM ? i->imm : c->in.r[X86_RCX]) & (bits == 64 ? 63 : 31);
    switch (i->op) {
    case X86_OP_SHL:
    case X86_OP_SHR:
    case X86_OP_SAR:
        if (!known)
            return X86_CF | X86_OF | X86_AF | i->row->flags_undefined;
        return !count ? 0 : X86_AF | (count != 1 ? X86_OF : 0) | (count >= bits && i->op != X86_OP_SAR ? X86_CF : 0);
    case X86_OP_ROL:
    case X86_OP_ROR:
    case X86_OP_RCL:
    case X86_OP_RCR:
        if (!known)
            return X86_OF;
        return count > 1 ? X86_OF : 0;
    case X86_OP_SHLD:
    case X86_OP_SHRD:
        if (!known)
            return X86_ARITH;
        return !count ? 0 : count > bits ? X86_ARITH : X86_AF | (count != 1 ? X86_OF : 0);
    default:
        return i->row->flags_undefined;
    }
}

bool cpu_flags_may_stay(const struct x86_insn *i)
{
    switch (i->op) {
    case X86_OP_SHL:
    case X86_OP_SHR:
    case X86_OP_SAR:
    case X86_OP_ROL:
    case X86_OP_ROR:
    case X86_OP_RCL:
    case X86_OP_RCR:
    case X86_OP_SHLD:
    case X86_OP_SHRD:
        return true;
    default:
        return i->row->flags & X86_F_REP;
    }
}

/* Flags undefined when the snippet stopped at rip. */
static uint32_t undefined_at(const struct cpu_case *c, uint64_t rip)
{
    uint32_t undefined = 0;
    bool branched = false;
    for (unsigned n = 0; n < c->insn_count; n++) {
        struct x86_insn i;
        if (c->insn_count > 1 && rip == c->in.rip + c->insn_at[n])
            break; /* this one did not happen */
        if (!cpu_decode_nth(c, n, &i))
            break;
        branched |= (i.row->flags & X86_F_BRANCH) != 0;
        if (!cpu_flags_may_stay(&i) && !branched) /* behind a branch it may have been jumped over */
            undefined &= ~i.row->flags_written;
        undefined |= undefined_flags(c, &i);
    }
    return undefined;
}

static const char *const reg_name[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const seg_name[6] = {"es", "cs", "ss", "ds", "fs", "gs"};

static void flag_text(uint64_t f, char text[64])
{
    static const struct {
        uint32_t bit;
        const char *name;
    } names[] = {{X86_CF, "CF"}, {X86_PF, "PF"}, {X86_AF, "AF"}, {X86_ZF, "ZF"}, {X86_SF, "SF"}, {X86_TF, "TF"}, {X86_IF, "IF"},
                 {X86_DF, "DF"}, {X86_OF, "OF"}, {X86_NT, "NT"}, {X86_RF, "RF"}, {X86_AC, "AC"}, {X86_ID, "ID"}};
    size_t n = 0;
    text[0] = 0;
    for (unsigned i = 0; i < DP_ARRAY_LEN(names); i++)
        if (f & names[i].bit)
            n += (size_t)snprintf(text + n, 64 - n, "%s%s", n ? " " : "", names[i].name);
}

struct diff {
    struct dp_buffer *out;
    unsigned count;
};

static void differ(struct diff *d, const char *what, uint64_t native, uint64_t engine)
{
    d->count++;
    dp_buffer_printf(d->out, "  %s: native %#llx, engine %#llx\n", what, (unsigned long long)native, (unsigned long long)engine);
}
static void check(struct diff *d, const char *what, uint64_t native, uint64_t engine)
{
    if (native != engine)
        differ(d, what, native, engine);
}

static void hex(struct dp_buffer *out, const uint8_t *p, size_t n)
{
    for (size_t i = n; i-- > 0;) /* as a number: most significant first */
        dp_buffer_printf(out, "%02x", p[i]);
}

static void check_bytes(struct diff *d, const char *what, const uint8_t *native, const uint8_t *engine, size_t n)
{
    if (!memcmp(native, engine, n))
        return;
    d->count++;
    dp_buffer_printf(d->out, "  %s: native ", what);
    hex(d->out, native, n);
    dp_buffer_printf(d->out, ", engine ");
    hex(d->out, engine, n);
    dp_buffer_printf(d->out, "\n");
}

/* ---- approximations ---- */

static bool close_float(float a, float b)
{
    if (isnan(a) || isnan(b) || isinf(a) || isinf(b) || a == 0 || b == 0)
        return !memcmp(&a, &b, 4);
    /* SDM vol. 2, RCPPS, RSQRTPS: relative error at most 1.5 * 2^-12, each */
    return fabsf(a - b) <= fabsf(b) * 3.0f * 0x1p-12f;
}

static bool close_ext(const uint8_t *a, const uint8_t *b, uint64_t ulps)
{
    uint64_t ma = dp_ld64(a), mb = dp_ld64(b);
    if (dp_ld16(a + 8) == dp_ld16(b + 8))
        return (ma > mb ? ma - mb : mb - ma) <= ulps;
    long double x = 0, y = 0;
    memcpy(&x, a, 10), memcpy(&y, b, 10);
    long double scale = fabsl(x) * 0x1p-63L * (long double)ulps;
    return fabsl(x - y) <= scale;
}

static bool is_transcendental(unsigned op)
{
    switch (op) {
    case X86_OP_F2XM1:
    case X86_OP_FYL2X:
    case X86_OP_FYL2XP1:
    case X86_OP_FPTAN:
    case X86_OP_FPATAN:
    case X86_OP_FSIN:
    case X86_OP_FCOS:
    case X86_OP_FSINCOS:
        return true;
    default:
        return false;
    }
}

/* FXSAVE and XSAVE store MXCSR_MASK: AMD's has MM (misaligned SSE) as bit 17. */
static bool only_mxcsr_mask(const uint8_t *native, const uint8_t *engine)
{
    for (unsigned k = 0; k < 13; k++) {
        uint8_t patched[16];
        memcpy(patched, native, 16);
        patched[k + 2] &= (uint8_t)~2;
        if (dp_ld32(native + k) == 0x2ffff && !memcmp(patched, engine, 16))
            return true;
    }
    return false;
}

/* The instruction at rip; false when there is none of the snippet. */
static bool insn_at(const struct cpu_case *c, uint64_t rip, struct x86_insn *i)
{
    for (unsigned n = 0; n < c->insn_count; n++)
        if (c->in.rip + c->insn_at[n] == rip)
            return cpu_decode_nth(c, n, i);
    return false;
}

static bool op_at(const struct cpu_case *c, uint64_t rip, unsigned a, unsigned b)
{
    struct x86_insn i;
    return insn_at(c, rip, &i) && (i.op == a || i.op == b);
}

static bool is_mmx_at(const struct cpu_case *c, uint64_t rip)
{
    struct x86_insn i;
    for (unsigned n = 0; n < c->insn_count; n++)
        if (c->in.rip + c->insn_at[n] == rip && cpu_decode_nth(c, n, &i))
            for (unsigned k = 0; k < i.operand_count; k++)
                if (i.operand[k].kind == X86_REG && i.operand[k].reg_class == X86_RC_MMX)
                    return true;
    return false;
}

static void compare_fpu(const struct cpu_case *c, const struct x86_insn *last, const struct cpu_result *n, const struct cpu_result *e,
                        struct diff *d)
{
    const uint8_t *a = n->out.fx, *b = e->out.fx;
    unsigned op = last ? last->op : X86_OP_INVALID;
    bool transcendental = is_transcendental(op);
    bool mmx_fault = n->vector != X86_BP && n->vector != X86_DB && (dp_ld16(a + FX_FSW) & 0x3800) == 0 && a[FX_FTW] == 0xff &&
                     (dp_ld16(b + FX_FSW) >> 11 & 7 || b[FX_FTW] != 0xff) && is_mmx_at(c, n->out.rip);
    check(d, "fcw", dp_ld16(a + FX_FCW), dp_ld16(b + FX_FCW));
    /* C1 tells the direction of rounding and PE inexactness: neither is prescribed for transcendentals (SDM vol. 1, 8.3.10). C0, C2, C3
     * undefined after most. */
    uint16_t fsw_mask = transcendental ? 0xfddf : 0xffff;
    if (mmx_fault) { /* MMX instructions that fault: AMD has set TOP and tags before, Intel has not. The registers, by number, are the same.
                      */
        for (unsigned i = 0; i < 8; i++)
            if (memcmp(a + FX_ST + ((i - (dp_ld16(a + FX_FSW) >> 11)) & 7) * 16, b + FX_ST + ((i - (dp_ld16(b + FX_FSW) >> 11)) & 7) * 16,
                       8))
                differ(d, "mm", i, i);
    } else {
        check(d, "fsw", dp_ld16(a + FX_FSW) & fsw_mask, dp_ld16(b + FX_FSW) & fsw_mask);
        check(d, "ftw", a[FX_FTW], b[FX_FTW]);
        for (unsigned i = 0; i < 8; i++) {
            char what[16];
            snprintf(what, sizeof what, "st%u", i);
            const uint8_t *x = a + FX_ST + i * 16, *y = b + FX_ST + i * 16;
            if (transcendental && close_ext(x, y, 4))
                continue;
            check_bytes(d, what, x, y, 10);
        }
    }
    /* Known deviation: with overflow or underflow unmasked, PE tells whether the result was exact but for the exponent's range; the
     * interpreter does not compute that and says inexact. */
    uint32_t mxcsr_mask = n->vector == X86_XM && dp_ld32(a + FX_MXCSR) & ~(dp_ld32(a + FX_MXCSR) >> 7) & 0x18 ? ~0x20u : ~0u;
    if (n->vector == X86_XM && (op_at(c, n->out.rip, X86_OP_DPPS, X86_OP_DPPD) || op_at(c, n->out.rip, X86_OP_VDPPS, X86_OP_VDPPD)))
        mxcsr_mask &= ~0x3fu; /* nor in which of its steps the dot product stopped */
    check(d, "mxcsr", dp_ld32(a + FX_MXCSR) & mxcsr_mask, dp_ld32(b + FX_MXCSR) & mxcsr_mask);
    for (unsigned i = 0; i < 16; i++) {
        char what[16];
        snprintf(what, sizeof what, "xmm%u", i);
        const uint8_t *x = a + FX_XMM + i * 16, *y = b + FX_XMM + i * 16;
        if (memcmp(x, y, 16) && (op == X86_OP_RCPPS || op == X86_OP_RCPSS || op == X86_OP_RSQRTPS || op == X86_OP_RSQRTSS)) {
            bool ok = true;
            for (unsigned k = 0; k < 4; k++) {
                float f, g;
                memcpy(&f, x + k * 4, 4), memcpy(&g, y + k * 4, 4);
                ok = ok && close_float(f, g);
            }
            if (ok)
                continue;
        }
        check_bytes(d, what, x, y, 16);
    }
    for (unsigned i = 0; i < 16; i++) {
        char what[24];
        snprintf(what, sizeof what, "ymm%u's high half", i);
        check_bytes(d, what, n->out.ymm_high[i], e->out.ymm_high[i], 16);
    }
    /* AMD promises the pointers only while an exception is pending (APM vol. 2, 11.4.4, FXSAVE), and Linux clears them otherwise. */
    if (!(dp_ld16(a + FX_FSW) & 0x80))
        return;
    check(d, "fop", dp_ld16(a + FX_FOP) & 0x7ff, dp_ld16(b + FX_FOP) & 0x7ff);
    check(d, "fip", dp_ld64(a + FX_FIP), dp_ld64(b + FX_FIP));
    if (dp_ld64(a + FX_FDP)) /* now and then a task switch loses it */
        check(d, "fdp", dp_ld64(a + FX_FDP), dp_ld64(b + FX_FDP));
}

/* Instructions of several accesses, whose order no manual tells. */
static bool many_accesses(const struct cpu_case *c, uint64_t rip)
{
    struct x86_insn i;
    if (!insn_at(c, rip, &i))
        return false;
    for (unsigned k = 0; k < i.operand_count; k++)
        if (i.operand[k].kind == X86_MEM && i.operand[k].size == 10)
            return true;
    switch (i.op) {
    case X86_OP_FXSAVE:
    case X86_OP_FXRSTOR:
    case X86_OP_XSAVE:
    case X86_OP_XRSTOR:
    case X86_OP_XSAVEOPT:
    case X86_OP_XSAVEC:
    case X86_OP_FNSAVE:
    case X86_OP_FRSTOR:
    case X86_OP_FNSTENV:
    case X86_OP_FLDENV:
    case X86_OP_RET_FAR:
    case X86_OP_JMP_FAR:
    case X86_OP_CALL_FAR:
    case X86_OP_IRET:
    case X86_OP_PUSHA:
    case X86_OP_POPA:
    case X86_OP_ENTER:
    case X86_OP_BOUND:
    case X86_OP_CMPS:
    case X86_OP_LES:
    case X86_OP_LDS:
    case X86_OP_LSS:
    case X86_OP_LFS:
    case X86_OP_LGS:
    case X86_OP_CALL: /* AMD pushes before it looks at the target */
        return true;
    default:
        return false;
    }
}

static bool memory_fault(unsigned vector) { return vector == X86_PF_ || vector == X86_GP || vector == X86_SS_ || vector == X86_AC_; }

/* Which of two operands faults first, or where a large one with a short address goes on behind its end. */
static bool wraps(const struct cpu_case *c, uint64_t rip)
{
    struct x86_insn i;
    return insn_at(c, rip, &i) && (i.op == X86_OP_CMPS || i.address_size < (c->mode == X86_MODE64 ? 8 : 4));
}

/* An operand across the end of the address space: segment limits of 4 GiB may or may not fault (SDM vol. 3, 6.3), and AMD checks FS and GS
 * offsets for being canonical before it adds the base. */
static bool at_the_end(const struct cpu_case *c, const struct cpu_result *n, const struct cpu_result *e)
{
    struct x86_insn i;
    if ((n->vector != X86_GP && n->vector != X86_SS_) || e->vector != X86_PF_ || !insn_at(c, n->out.rip, &i))
        return false;
    uint64_t reach = i.op >= X86_OP_VGATHERDPS && i.op <= X86_OP_VPGATHERQQ ? 0x10000 : 0x100; /* indices are no part of the offset */
    return c->mode == X86_MODE64 ? i.seg >= X86_FS && e->cr2 - (0x800000000000 - reach) < reach : e->cr2 >= 0xfffffff0;
}

static bool is_gather_at(const struct cpu_case *c, uint64_t rip)
{
    struct x86_insn i;
    return insn_at(c, rip, &i) && i.op >= X86_OP_VGATHERDPS && i.op <= X86_OP_VPGATHERQQ;
}

static bool is_sha_at(const struct cpu_case *c, uint64_t rip)
{
    struct x86_insn i;
    return insn_at(c, rip, &i) && i.row->feature == X86_FEATURE_SHA;
}

static bool alignment_matters(const struct cpu_case *c, uint64_t rip)
{
    struct x86_insn i;
    return insn_at(c, rip, &i) && i.row->flags & X86_F_ALIGN;
}

unsigned cpu_compare(const struct cpu_case *c, const struct cpu_result *n, const struct cpu_result *e, struct dp_buffer *out)
{
    struct diff d = {out, 0};
    if (n->vector == CPU_DIED || n->vector == CPU_TIMEOUT)
        return 0; /* a store into the harness itself, or a loop: nothing known */
    if (e->vector == CPU_ENGINE_ERROR) {
        dp_buffer_printf(out, "  engine: %s\n", e->text);
        return 1;
    }
    if ((n->vector ^ e->vector) == (X86_GP ^ X86_SS_) && !n->error && !e->error && alignment_matters(c, n->out.rip) &&
        n->out.rip == e->out.rip)
        return 0; /* misaligned and beyond its stack segment: which comes first is open */
    bool native_memory_fault = memory_fault(n->vector);
    if (native_memory_fault && (op_at(c, n->out.rip, X86_OP_MASKMOVQ, X86_OP_MASKMOVDQU) || op_at(c, n->out.rip, X86_OP_VMASKMOVDQU, X86_OP_VMASKMOVDQU)))
        return 0; /* whether bytes that are not stored can fault is the processor's choice (SDM vol. 2, MASKMOVDQU) */
    if (n->vector != e->vector && native_memory_fault && memory_fault(e->vector) && n->out.rip == e->out.rip &&
        many_accesses(c, n->out.rip))
        return 0;
    if (at_the_end(c, n, e))
        return 0;
    if (c->in.rflags & X86_TF && n->vector == X86_DB && n->out.rip == e->out.rip && is_gather_at(c, n->out.rip))
        return 0; /* traps may come between the elements of a gather (SDM vol. 2), here before the one that faults */
    if (e->vector == X86_GP && c->insn_count > 1 && (op_at(c, e->out.rip, X86_OP_LDMXCSR, X86_OP_VLDMXCSR)))
        return 0; /* MXCSR.MM is AMD's own; single instructions are not given it, what a sequence loads is left to chance */
    if (e->vector == X86_GP && (n->vector != X86_GP || n->out.rip != e->out.rip) && is_sha_at(c, e->out.rip))
        return 0; /* AMD does not ask for aligned operands there, Intel does (SDM vol. 2, exceptions type 4) */
    if (n->vector == X86_MF && memory_fault(e->vector) && is_mmx_at(c, n->out.rip))
        return 0; /* a pending x87 exception and a fault of the operand: which comes first */
    if (n->vector != e->vector) {
        differ(&d, "vector", n->vector, e->vector);
        differ(&d, "rip", n->out.rip, e->out.rip);
        if (n->vector == X86_PF_ || e->vector == X86_PF_)
            differ(&d, "cr2", n->cr2, e->cr2);
        return d.count;
    }
    struct x86_insn last;
    bool have = c->insn_count == 1 && cpu_decode_nth(c, 0, &last);
    /* Linux sets P for addresses of its own half and the page below it, to tell nothing about its layout. */
    uint32_t error_mask = n->vector == X86_PF_ && n->cr2 >= 0x7ffffffff000 ? ~1u : ~0u;
    if (n->vector == X86_PF_ && many_accesses(c, n->out.rip) && (n->cr2 - e->cr2 + 1024 < 2048 || wraps(c, n->out.rip)))
        error_mask &= ~1u; /* which byte of which page faulted first is the processor's choice */
    else
        check(&d, "cr2", n->cr2, e->cr2);
    check(&d, "error code", n->error & error_mask, e->error & error_mask);
    check(&d, "rip", n->out.rip, e->out.rip);
    /* Outside 64-bit mode (also when the snippet left it) the upper halves are undefined and R8-R15 unreachable (SDM vol. 1, 3.4.1.1). */
    bool code64 = cpu_descriptor_of(n->out.seg[X86_CS]) >> 40 & X86_ATTR_L;
    uint64_t gpr_mask = code64 ? ~0ull : 0xffffffff;
    bool last_lar = have && last.op == X86_OP_LAR;
    bool partial = op_at(c, n->out.rip, X86_OP_POPA, X86_OP_POPA); /* it faulted: registers popped so far stay on AMD */
    for (unsigned i = 0; i < (code64 ? 16u : 8u) && !partial; i++) {
        uint64_t m = gpr_mask;
        if (last_lar)
            m &= ~0xf0000ull;                      /* 00FxFF00H: x is undefined (SDM vol. 2, LAR) */
        if (i == X86_RSP && c->mode != X86_MODE64) /* returning to a 16-bit stack leaves the host's upper bits (Linux: espfix64) */
            m &= c->mode == X86_MODE16 || (have && (last.op == X86_OP_RET_FAR || last.op == X86_OP_IRET)) ? 0xffff : 0xffffffff;
        check(&d, reg_name[i], n->out.r[i] & m, e->out.r[i] & m);
    }
    uint64_t mask = ~(uint64_t)undefined_at(c, n->out.rip);
    uint64_t fn = n->out.rflags & mask, fe = e->out.rflags & mask;
    if (fn != fe) {
        char a[64], b[64];
        flag_text(fn & ~fe, a), flag_text(fe & ~fn, b);
        d.count++;
        dp_buffer_printf(out, "  rflags %s%s%s: native %#llx, engine %#llx (only native: %s; only engine: %s)\n", a, *a && *b ? " " : "", b,
                         (unsigned long long)n->out.rflags, (unsigned long long)e->out.rflags, a, b);
    }
    for (unsigned i = 0; i < X86_SEGS; i++) /* entering the host's signal handler turns null selectors 1-3 into 0 */
        if (n->out.seg[i] || e->out.seg[i] > 3)
            check(&d, seg_name[i], n->out.seg[i], e->out.seg[i]);
    check(&d, "fs_base", n->out.fs_base, e->out.fs_base);
    check(&d, "gs_base", n->out.gs_base, e->out.gs_base);
    bool pushed =
        have && last.op == X86_OP_CALL_FAR && n->vector != X86_BP && n->vector != X86_DB; /* AMD pushes, and then looks at the target */
    for (unsigned i = 0, shown = 0; !pushed && i < CPU_RW_SIZE && shown < 4; i += 16)
        if (memcmp(n->data + i, e->data + i, 16) && !only_mxcsr_mask(n->data + i, e->data + i)) {
            char what[32];
            snprintf(what, sizeof what, "memory[%#x]", i);
            check_bytes(&d, what, n->data + i, e->data + i, 16);
            shown++;
        }
    compare_fpu(c, have ? &last : NULL, n, e, &d);
    return d.count;
}

void cpu_describe(const struct cpu_case *c, struct dp_buffer *out)
{
    static const char *const mode_name[] = {"16", "32", "64"};
    dp_buffer_printf(out, "--seed %llu --op %s --index %llu --mode %s\n", (unsigned long long)c->seed,
                     c->op == X86_OP_COUNT     ? "sequence"
                     : c->op == X86_OP_INVALID ? "undefined"
                                               : x86_op_name(c->op),
                     (unsigned long long)c->index, mode_name[c->mode]);
    for (unsigned n = 0; n < c->insn_count; n++) {
        struct x86_insn i;
        unsigned end = n + 1 < c->insn_count ? c->insn_at[n + 1] : c->code_size;
        char text[128] = "(undefined)";
        if (cpu_decode_nth(c, n, &i))
            x86_print_insn(&i, c->in.rip + c->insn_at[n], text, sizeof text);
        dp_buffer_printf(out, "  %#llx: ", (unsigned long long)c->in.rip + c->insn_at[n]);
        for (unsigned k = c->insn_at[n]; k < end; k++)
            dp_buffer_printf(out, "%02x ", c->code[k]);
        dp_buffer_printf(out, " %s%s\n", text, c->fetch_fault ? "  (cut by the end of the code pages)" : "");
    }
    char flags[64];
    flag_text(c->in.rflags, flags);
    for (unsigned i = 0; i < (c->mode == X86_MODE64 ? 16u : 8u); i++)
        dp_buffer_printf(out, "  %-3s %016llx%s", reg_name[i], (unsigned long long)c->in.r[i], i % 4 == 3 ? "\n" : "");
    dp_buffer_printf(out, "  flags %s; cs %x ss %x ds %x es %x fs %x (%llx) gs %x (%llx)\n", flags, c->in.seg[X86_CS], c->in.seg[X86_SS],
                     c->in.seg[X86_DS], c->in.seg[X86_ES], c->in.seg[X86_FS], (unsigned long long)c->in.fs_base, c->in.seg[X86_GS],
                     (unsigned long long)c->in.gs_base);
    for (unsigned i = 0; i < c->patch_count; i++) {
        dp_buffer_printf(out, "  data[%#x] ", c->patch[i].offset);
        hex(out, c->patch[i].bytes, DP_MIN(c->patch[i].size, 32u));
        dp_buffer_printf(out, "%s\n", c->patch[i].size > 32 ? " ..." : "");
    }
    struct x86_insn i;
    bool fpu = false, vector = false, x87 = false;
    for (unsigned n = 0; n < c->insn_count; n++)
        if (cpu_decode_nth(c, n, &i)) {
            fpu |= (i.row->flags & (X86_F_X87 | X86_F_X87NW | X86_F_MMX | X86_F_SSE)) != 0;
            vector |= (i.row->flags & X86_F_SSE) != 0, x87 |= (i.row->flags & (X86_F_X87 | X86_F_X87NW | X86_F_MMX)) != 0;
        }
    if (!fpu)
        return;
    const uint8_t *fx = c->in.fx;
    dp_buffer_printf(out, "  fcw %04x fsw %04x ftw %02x mxcsr %08x\n", dp_ld16(fx + FX_FCW), dp_ld16(fx + FX_FSW), fx[FX_FTW],
                     dp_ld32(fx + FX_MXCSR));
    for (unsigned k = 0; x87 && k < 8; k++) {
        dp_buffer_printf(out, "  st%u ", k);
        hex(out, fx + FX_ST + k * 16, 10);
        dp_buffer_printf(out, k % 4 == 3 ? "\n" : "");
    }
    for (unsigned k = 0; vector && k < 16; k++) {
        dp_buffer_printf(out, "  ymm%-2u ", k);
        hex(out, c->in.ymm_high[k], 16);
        dp_buffer_printf(out, ":");
        hex(out, fx + FX_XMM + k * 16, 16);
        dp_buffer_printf(out, "\n");
    }
}
