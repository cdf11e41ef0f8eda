/* isa/x86/print.c - one line of Intel syntax for a decoded instruction: for logs, `doppel` debugging and failing tests; not meant to be
 * assembled again.
 *
 * Model: prefixes that act, the mnemonic with its size or condition worked in, operands as decoded. Implied operands are not shown.
 * Source: Intel SDM vol. 2 for mnemonics; the punctuation is that of MASM and GNU as.
 */
#include <ctype.h>
#include <inttypes.h>

#include "isa/x86/insn.h"

#define X86_OP(name) #name,
static const char *const op_names[X86_OP_COUNT] = {
#include "isa/x86/op.def"
};
#undef X86_OP

const char *x86_op_name(unsigned op)
{
    return op < X86_OP_COUNT ? op_names[op] : "INVALID";
}

struct line { char *at; size_t left; };

static DP_PRINTF(2, 3) void put(struct line *l, const char *format, ...)
{
    if (!l->left) /* a caller may have no room at all, and then no buffer */
        return;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(l->at, l->left, format, args);
    va_end(args);
    size_t used = n < 0 ? 0 : DP_MIN((size_t)n, l->left - 1);
    l->at += used;
    l->left -= used;
}

static const char *const conditions[16] = { "o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g" };
static const char *const segments[8] = { "es", "cs", "ss", "ds", "fs", "gs", "?", "?" };

static void put_gpr(struct line *l, unsigned reg, unsigned size)
{
    static const char *const low[8] = { "al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil" };
    static const char *const word[8] = { "ax", "cx", "dx", "bx", "sp", "bp", "si", "di" };
    if (reg == X86_RIP)
        put(l, "%s", size == 8 ? "rip" : "eip");
    else if (reg < 8)
        put(l, "%s%s", size == 8 ? "r" : size == 4 ? "e" : "", size == 1 ? low[reg] : word[reg]);
    else
        put(l, "r%u%s", reg, size == 8 ? "" : size == 4 ? "d" : size == 2 ? "w" : "b");
}

static void put_register(struct line *l, const struct x86_operand *o)
{
    static const char *const high[4] = { "ah", "ch", "dh", "bh" };
    switch (o->reg_class) {
    case X86_RC_GPR: put_gpr(l, o->reg, o->size); break;
    case X86_RC_GPR8H: put(l, "%s", high[o->reg & 3]); break;
    case X86_RC_SEG: put(l, "%s", segments[o->reg & 7]); break;
    case X86_RC_CR: put(l, "cr%u", o->reg); break;
    case X86_RC_DR: put(l, "dr%u", o->reg); break;
    case X86_RC_ST: put(l, o->reg ? "st(%u)" : "st", o->reg); break;
    case X86_RC_MMX: put(l, "mm%u", o->reg); break;
    case X86_RC_XMM: put(l, "xmm%u", o->reg); break;
    default: put(l, "ymm%u", o->reg); break;
    }
}

static void put_memory(struct line *l, const struct x86_insn *i, const struct x86_operand *o)
{
    static const char *const names[33] = { [1] = "byte", [2] = "word", [4] = "dword", [6] = "fword", [8] = "qword", [10] = "tbyte",
        [16] = "xmmword", [32] = "ymmword" };
    if (o->size < DP_ARRAY_LEN(names) && names[o->size])
        put(l, "%s ptr ", names[o->size]);
    if (i->seg_override != X86_SEGS)
        put(l, "%s:", segments[i->seg_override & 7]);
    put(l, "[");
    bool empty = i->base == X86_ZERO && i->index == X86_ZERO;
    if (i->base != X86_ZERO)
        put_gpr(l, i->base, i->address_size);
    if (i->index != X86_ZERO) {
        put(l, "%s", i->base == X86_ZERO ? "" : "+");
        if (o->reg_class == X86_RC_XMM || o->reg_class == X86_RC_YMM)
            put(l, "%cmm%u", o->reg_class == X86_RC_XMM ? 'x' : 'y', i->index);
        else
            put_gpr(l, i->index, i->address_size);
        if (i->scale)
            put(l, "*%u", 1u << i->scale);
    }
    if (empty)
        put(l, "0x%" PRIx64, (uint64_t)i->disp & dp_mask_bytes(i->address_size));
    else if (i->disp)
        put(l, "%c0x%" PRIx64, i->disp < 0 ? '-' : '+', i->disp < 0 ? 0 - (uint64_t)i->disp : (uint64_t)i->disp);
    put(l, "]");
}

static char size_letter(unsigned size)
{
    return size == 1 ? 'b' : size == 2 ? 'w' : size == 4 ? 'd' : 'q';
}

/* Width of a string instruction's elements: the memory operand's. */
static unsigned element_size(const struct x86_insn *i)
{
    return i->operand[0].kind == X86_MEM ? i->operand[0].size : i->operand[1].size;
}

static void put_mnemonic(struct line *l, const struct x86_insn *i)
{
    char name[24];
    size_t n = 0;
    for (const char *p = x86_op_name(i->op); *p && n < sizeof(name) - 1; p++)
        name[n++] = (char)tolower((unsigned char)*p);
    name[n] = 0;
    bool wide = i->operand_size == 8;
    switch (i->op) {
    case X86_OP_JCC: put(l, "j%s", conditions[i->cc]); break;
    case X86_OP_SETCC: put(l, "set%s", conditions[i->cc]); break;
    case X86_OP_CMOVCC: put(l, "cmov%s", conditions[i->cc]); break;
    case X86_OP_FCMOVCC: put(l, "fcmov%s%s", i->cc & 1 ? "n" : "",
        (i->cc & 14) == 2 ? "b" : (i->cc & 14) == 4 ? "e" : (i->cc & 14) == 6 ? "be" : "u"); break;
    case X86_OP_CBW: put(l, "%s", i->operand_size == 2 ? "cbw" : wide ? "cdqe" : "cwde"); break;
    case X86_OP_CWD: put(l, "%s", i->operand_size == 2 ? "cwd" : wide ? "cqo" : "cdq"); break;
    case X86_OP_JCXZ: put(l, "j%scxz", i->address_size == 2 ? "" : i->address_size == 4 ? "e" : "r"); break;
    case X86_OP_PUSHF: case X86_OP_POPF: case X86_OP_IRET: case X86_OP_PUSHA: case X86_OP_POPA:
        put(l, "%s", name);
        if (i->operand_size != 2)
            put(l, "%c", size_letter(i->operand_size));
        break;
    case X86_OP_MOVS: case X86_OP_STOS: case X86_OP_LODS: case X86_OP_CMPS: case X86_OP_SCAS: case X86_OP_INS: case X86_OP_OUTS:
        put(l, "%s%c", name, size_letter(element_size(i)));
        break;
    case X86_OP_SYSRET: case X86_OP_SYSEXIT: put(l, "%s%s", name, wide ? "q" : ""); break;
    case X86_OP_FXSAVE: case X86_OP_FXRSTOR:
    case X86_OP_XSAVE: case X86_OP_XRSTOR: case X86_OP_XSAVEOPT: case X86_OP_XSAVEC: case X86_OP_XSAVES: case X86_OP_XRSTORS:
        put(l, "%s%s", name, i->rex_w ? "64" : "");
        break;
    case X86_OP_MOVD: case X86_OP_VMOVD: case X86_OP_PINSRD: case X86_OP_VPINSRD: case X86_OP_PEXTRD: case X86_OP_VPEXTRD:
        if (wide)
            name[n - 1] = 'q';
        put(l, "%s", name);
        break;
    case X86_OP_MOV_CR: case X86_OP_MOV_DR: case X86_OP_MOV_SEG: put(l, "mov"); break;
    case X86_OP_PUSH_SEG: put(l, "push"); break;
    case X86_OP_POP_SEG: put(l, "pop"); break;
    case X86_OP_JMP_FAR: put(l, "jmp far"); break;
    case X86_OP_CALL_FAR: put(l, "call far"); break;
    case X86_OP_RET_FAR: put(l, "retf"); break;
    default: put(l, "%s", name);
    }
}

void x86_print_insn(const struct x86_insn *i, uint64_t rip, char *text, size_t size)
{
    struct line l = { text, size };
    if (size)
        *text = 0;
    bool string = i->row && i->row->flags & X86_F_REP;
    bool implied = string || i->op == X86_OP_XLAT; /* operands are told by the mnemonic */
    if (i->lock)
        put(&l, "lock ");
    if (i->rep || i->repne)
        put(&l, "%s ", i->repne ? "repne" : i->row->flags & X86_F_REPCC ? "repe" : "rep");
    if (implied && i->seg_override != X86_SEGS)
        put(&l, "%s ", segments[i->seg_override & 7]);
    put_mnemonic(&l, i);
    if (implied)
        return;
    bool comment = false;
    for (unsigned n = 0; n < i->operand_count; n++) {
        const struct x86_operand *o = &i->operand[n];
        if (o->kind == X86_MEM && o->reg && !i->vex)
            continue; /* MASKMOV's */
        put(&l, n ? ", " : " ");
        switch (o->kind) {
        case X86_REG: put_register(&l, o); break;
        case X86_MEM:
            put_memory(&l, i, o);
            comment |= i->base == X86_RIP;
            break;
        case X86_IMM: put(&l, "0x%" PRIx64, (n && i->operand[n - 1].kind == X86_IMM ? i->imm2 : i->imm) & dp_mask_bytes(o->size)); break;
        case X86_REL: put(&l, "0x%" PRIx64, (rip + i->length + i->imm) & dp_mask_bytes(i->operand_size)); break;
        case X86_FAR: put(&l, "0x%" PRIx64 ":0x%" PRIx64, i->imm2, i->imm); break;
        }
    }
    if (comment)
        put(&l, " ; 0x%" PRIx64, (rip + i->length + (uint64_t)i->disp) & dp_mask_bytes(i->address_size));
}
