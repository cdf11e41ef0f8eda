/* engine/translate/analyse.c - see analyse.h. */
#include <stddef.h>

#include "engine/translate/analyse.h"
#include "isa/x86/decode_table.h"

#define GROUP_SPAN 256
/* Of a base register from what it held when a group began, and of an access from it. A stack access is in a group always, so twice this
 * must fit in 31 bits; in 32-bit code two of each do not get from a page in a table past the ends of the address space. */
#define REACH64 (1 << 28)
#define REACH32 (GUARD32 / 4)

/* ---- which instructions are ours ---- */

/* Works on the x87 unit's registers or status. */
static bool is_x87(const struct x86_insn *i) { return (i->row->flags & (X86_F_X87 | X86_F_X87NW | X86_F_MMX)) || i->op == X86_OP_FWAIT; }
/* What saves and restores environments, pointers included, is the interpreter's. */
static bool is_x87_state(unsigned op)
{
    switch (op) {
    case X86_OP_FLDENV: case X86_OP_FNSTENV: case X86_OP_FRSTOR: case X86_OP_FNSAVE: case X86_OP_FNINIT: case X86_OP_FXSAVE:
    case X86_OP_FXRSTOR: return true;
    default: return false;
    }
}

static bool is_vector_op(unsigned op) { return op >= X86_OP_MOVD && !(op >= X86_OP_ANDN && op <= X86_OP_SHRX); }

static bool copied(const struct x86_insn *i)
{
    switch (i->op) {
    case X86_OP_ADD: case X86_OP_OR: case X86_OP_ADC: case X86_OP_SBB: case X86_OP_AND: case X86_OP_SUB: case X86_OP_XOR: case X86_OP_CMP:
    case X86_OP_TEST:
    case X86_OP_MOV: case X86_OP_LEA: case X86_OP_XCHG: case X86_OP_INC: case X86_OP_DEC: case X86_OP_NOT: case X86_OP_NEG:
    case X86_OP_MUL: case X86_OP_IMUL: case X86_OP_DIV: case X86_OP_IDIV:
    case X86_OP_ROL: case X86_OP_ROR: case X86_OP_RCL: case X86_OP_RCR: case X86_OP_SHL: case X86_OP_SHR: case X86_OP_SAR: case X86_OP_SHLD:
    case X86_OP_SHRD:
    case X86_OP_BT: case X86_OP_BTS: case X86_OP_BTR: case X86_OP_BTC: case X86_OP_BSF: case X86_OP_BSR: case X86_OP_POPCNT:
    case X86_OP_LZCNT: case X86_OP_TZCNT:
    case X86_OP_MOVZX: case X86_OP_MOVSX: case X86_OP_MOVSXD: case X86_OP_CMOVCC: case X86_OP_SETCC: case X86_OP_CBW: case X86_OP_CWD:
    case X86_OP_BSWAP: case X86_OP_CMPXCHG: case X86_OP_CMPXCHG8B: case X86_OP_CMPXCHG16B: case X86_OP_XADD: case X86_OP_MOVBE:
    case X86_OP_CRC32: case X86_OP_ADCX: case X86_OP_ADOX:
    case X86_OP_CLC: case X86_OP_STC: case X86_OP_CMC: case X86_OP_PAUSE: case X86_OP_LAHF: case X86_OP_SAHF:
    case X86_OP_MOVNTI: case X86_OP_LFENCE: case X86_OP_MFENCE: case X86_OP_SFENCE:
    case X86_OP_ANDN: case X86_OP_BEXTR: case X86_OP_BLSI: case X86_OP_BLSMSK: case X86_OP_BLSR: case X86_OP_BZHI:
    case X86_OP_MULX: case X86_OP_PDEP: case X86_OP_PEXT: case X86_OP_RORX: case X86_OP_SARX: case X86_OP_SHLX:
    case X86_OP_SHRX: return true;
    case X86_OP_MASKMOVQ: case X86_OP_MASKMOVDQU: case X86_OP_VMASKMOVDQU: case X86_OP_VLDMXCSR: case X86_OP_VSTMXCSR: return false;
    default: return is_vector_op(i->op) || (is_x87(i) && !is_x87_state(i->op));
    }
}

static bool usable(const struct icpu *c, struct x86_insn *i)
{
    uint32_t f = i->row->flags;
    if (f & (X86_F_SYSTEM | X86_F_CPL0))
        return false;
    if ((f & (X86_F_X87 | X86_F_X87NW)) && (c->mode & IMODE_X87_NM))
        return false;
    if (i->op == X86_OP_FWAIT && (c->mode & IMODE_WAIT_NM))
        return false;
    if ((f & X86_F_MMX) && (c->mode & (IMODE_MMX_UD | IMODE_SSE_NM)))
        return false;
    if ((f & X86_F_SSE) && (c->mode & ((f & X86_F_VEX ? IMODE_AVX_UD : IMODE_SSE_UD) | IMODE_SSE_NM)))
        return false;
    return true;
}

/* The memory operand that ModRM names, if there is one. */
static const struct x86_operand *memory_operand(const struct x86_insn *i)
{
    for (unsigned k = 0; k < i->operand_count; k++)
        if (i->operand[k].kind == X86_MEM)
            return &i->operand[k];
    return NULL;
}

enum place place_of(unsigned operand_code)
{
    static const uint8_t places[] = {
#define X(code, place, width, class, which) [code] = X86_PLACE_##place,
        X86_OPERAND_CODES(X)
#undef X
    };
    switch (places[operand_code]) {
    case X86_PLACE_OPCODE: case X86_PLACE_RM: case X86_PLACE_RM_REG: return PLACE_RM;
    case X86_PLACE_REG: return PLACE_REG;
    case X86_PLACE_VVVV: return PLACE_VVVV;
    default: return PLACE_NONE;
    }
}

static bool is_spilled(unsigned guest) { return guest >= X86_R13 && guest <= X86_R15; }
static bool is_gpr(const struct x86_operand *o) { return o->kind == X86_REG && o->reg_class == X86_RC_GPR; }

bool implicit_rcx(const struct x86_insn *i)
{
    if (i->op == X86_OP_CMPXCHG8B || i->op == X86_OP_CMPXCHG16B)
        return true;
    for (unsigned k = 0; k < i->operand_count; k++)
        if (is_gpr(&i->operand[k]) && i->operand[k].reg == X86_RCX && place_of(i->row->operand[k]) == PLACE_NONE)
            return true;
    return false;
}

unsigned spilled_operands(const struct x86_insn *i)
{
    unsigned seen = 0;
    for (unsigned k = 0; k < i->operand_count; k++)
        if (is_gpr(&i->operand[k]) && is_spilled(i->operand[k].reg) && place_of(i->row->operand[k]) != PLACE_NONE)
            seen |= 1u << (i->operand[k].reg - X86_R13);
    return (seen & 1) + (seen >> 1 & 1) + (seen >> 2);
}

/* Page offset and displacement together must be one. */
static bool is_far(int64_t displacement)
{
    return displacement != (int32_t)displacement || displacement > INT32_MAX - 2 * (int32_t)DP_PAGE_SIZE;
}

static enum insn_kind classify_branch(const struct x86_insn *i, unsigned word)
{
    bool direct = i->operand_count && i->operand[0].kind == X86_REL;
    if (i->operand_size == 2 || (direct && is_far((int64_t)i->imm)))
        return KIND_INTERPRET;
    switch (i->op) {
    case X86_OP_JCC: return KIND_JCC;
    case X86_OP_JMP: return direct ? KIND_JMP : KIND_JMP_INDIRECT;
    case X86_OP_CALL: return direct ? KIND_CALL : KIND_CALL_INDIRECT;
    case X86_OP_RET: return KIND_RET;
    case X86_OP_JCXZ: return i->address_size == word ? KIND_JCXZ : KIND_INTERPRET;
    default: return KIND_INTERPRET;
    }
}

/* Encodings that mean something else in the host's 64-bit mode: VEX.W and registers 8-15 are ignored in 32-bit code (W: where it is the
 * size of an integer, which for these sets it is not). */
static bool foreign_vex(const struct x86_insn *i)
{
    bool wide = i->vex_w && i->row->feature != X86_FEATURE_FMA && i->row->feature != X86_FEATURE_AVX2;
    bool is4 = i->vex_map == 3 && i->opcode >= 0x4a && i->opcode <= 0x4c && i->imm & 0x80;
    bool all_registers = i->op == X86_OP_VZEROUPPER || i->op == X86_OP_VZEROALL; /* there are 8 */
    return wide || is4 || i->vvvv & 8 || all_registers;
}
/* What 32-bit code may have and the host's 64-bit mode, or the flat model, has not. */
static bool foreign32(const struct x86_insn *i, const struct x86_operand *m)
{
    if ((i->vex && foreign_vex(i)) || (m && (i->address_size == 2 || i->seg == X86_CS)))
        return true;
    switch (i->op) {
    case X86_OP_ADD: case X86_OP_OR: case X86_OP_ADC: case X86_OP_SBB: case X86_OP_AND: case X86_OP_SUB: case X86_OP_XOR: case X86_OP_CMP:
        return i->opcode == 0x82;
    default: return false;
    }
}

/* System instructions that need not go to the interpreter. */
static enum insn_kind classify_system(const struct icpu *c, const struct x86_insn *i, unsigned word)
{
    bool kernel = !(c->mode >> IMODE_CPL_SHIFT & 3);
    switch (i->op) {
    case X86_OP_CLI: return kernel ? KIND_CLI : KIND_INTERPRET;
    case X86_OP_STI: return kernel ? KIND_STI : KIND_INTERPRET;
    case X86_OP_SWAPGS: return kernel ? KIND_SWAPGS : KIND_INTERPRET;
    case X86_OP_PUSHF: return i->operand_size == word ? KIND_PUSHF : KIND_INTERPRET;
    case X86_OP_SYSCALL: return KIND_HELPER;
    case X86_OP_RDTSC: case X86_OP_RDTSCP: return (c->mode & IMODE_TSD) && !kernel ? KIND_INTERPRET : KIND_RDTSC;
    case X86_OP_SYSRET: return kernel ? KIND_HELPER : KIND_INTERPRET;
    case X86_OP_IRET: return kernel && i->operand_size == word ? KIND_HELPER : KIND_INTERPRET;
    default: return KIND_INTERPRET;
    }
}

/* Where addresses are the host's, string instructions are, too: RSI, RDI and RAX are in their places, RCX gets there. */
static bool is_string(const struct x86_insn *i)
{
    switch (i->op) {
    case X86_OP_MOVS: case X86_OP_STOS: case X86_OP_LODS: case X86_OP_SCAS: case X86_OP_CMPS:
        return i->address_size == 8 && i->seg_override != X86_FS && i->seg_override != X86_GS;
    default: return false;
    }
}

/* What translated code does itself, or KIND_INTERPRET. */
static enum insn_kind classify_ours(const struct icpu *c, struct x86_insn *i, unsigned word, bool checked)
{
    const struct x86_operand *m = memory_operand(i);
    if (!x86_insn_supported(i, c->vm->model->features))
        return KIND_INTERPRET;
    enum insn_kind system = classify_system(c, i, word);
    if (system != KIND_INTERPRET)
        return system;
    if (!usable(c, i) || (word == 4 && foreign32(i, m)))
        return KIND_INTERPRET;
    switch (i->op) {
    case X86_OP_NOP: return KIND_NOTHING;
    case X86_OP_CLD: return KIND_CLD;
    case X86_OP_STD: return KIND_STD;
    case X86_OP_PUSH: return i->operand_size == word ? KIND_PUSH : KIND_INTERPRET;
    case X86_OP_POP: return i->operand_size == word && !m ? KIND_POP : KIND_INTERPRET;
    case X86_OP_LEAVE: return i->operand_size == word ? KIND_LEAVE : KIND_INTERPRET;
    default: break;
    }
    if (i->row->flags & X86_F_BRANCH)
        return classify_branch(i, word);
    if (!copied(i))
        return KIND_INTERPRET;
    if (checked && (i->op == X86_OP_BT || i->op == X86_OP_BTS || i->op == X86_OP_BTR || i->op == X86_OP_BTC) && m &&
        i->operand[1].kind != X86_IMM)
        return KIND_INTERPRET; /* reaches beyond the operand */
    bool high = false, ch = false;
    for (unsigned k = 0; k < i->operand_count; k++)
        if (i->operand[k].kind == X86_REG && i->operand[k].reg_class == X86_RC_GPR8H) {
            high = true;
            ch |= (i->operand[k].reg & 3) == X86_RCX;
        }
    if (m && i->op != X86_OP_LEA) {
        if ((!i->has_modrm && word == 8) || !m->size || m->size > 32) /* 64-bit moffs: too rare; vectors of indexes */
            return KIND_INTERPRET;
        if ((i->index != X86_ZERO && i->index > 15) || (i->base == X86_RIP && is_far(i->disp)))
            return KIND_INTERPRET;
        if (ch) /* the address will be in RCX */
            return KIND_INTERPRET;
    }
    /* Scratch registers must do: an address takes one, a count in CL another. */
    if (i->operand_count > 2 && spilled_operands(i) + implicit_rcx(i) + (m && i->op != X86_OP_LEA) > 2)
        return KIND_INTERPRET;
    return high ? KIND_HIGH_BYTE : KIND_COPY;
}

static enum insn_kind classify(const struct icpu *c, struct x86_insn *i, unsigned word, bool checked)
{
    enum insn_kind kind = classify_ours(c, i, word, checked);
    if (!checked && kind == KIND_INTERPRET && is_string(i) && x86_insn_supported(i, c->vm->model->features))
        return KIND_STRING;
    return kind == KIND_INTERPRET && !(i->row->flags & X86_F_BRANCH) ? KIND_OP : kind;
}

/* ---- what registers an instruction changes ---- */

/* A change by a constant: *by. */
static bool constant_change(const struct x86_insn *i, unsigned word, unsigned reg, int64_t *by)
{
    const struct x86_operand *o = i->operand;
    if (i->operand_count < 1 || o[0].kind != X86_REG || o[0].reg_class != X86_RC_GPR || o[0].size != word || o[0].reg != reg)
        return false;
    switch (i->op) {
    case X86_OP_ADD: *by = (int64_t)i->imm; return o[1].kind == X86_IMM;
    case X86_OP_SUB: *by = -(int64_t)i->imm; return o[1].kind == X86_IMM;
    case X86_OP_INC: *by = 1; return true;
    case X86_OP_DEC: *by = -1; return true;
    case X86_OP_LEA: *by = i->disp; return i->base == reg && i->index == X86_ZERO && i->address_size == word;
    default: return false;
    }
}

static uint32_t written_registers(const struct insn_info *n)
{
    const struct x86_insn *i = &n->i;
    uint32_t w = 0;
    for (unsigned k = 0; k < i->operand_count; k++)
        if (i->operand[k].kind == X86_REG && (i->operand[k].access & X86_WRITE)) {
            if (i->operand[k].reg_class == X86_RC_GPR)
                w |= 1u << i->operand[k].reg;
            else if (i->operand[k].reg_class == X86_RC_GPR8H)
                w |= 1u << (i->operand[k].reg & 3);
        }
    switch (i->op) {
    case X86_OP_MUL: case X86_OP_DIV: case X86_OP_IDIV: case X86_OP_IMUL: case X86_OP_CWD: w |= 1u << X86_RAX | 1u << X86_RDX; break;
    case X86_OP_CMPXCHG8B: case X86_OP_CMPXCHG16B: w |= 1u << X86_RAX | 1u << X86_RDX; break;
    case X86_OP_CBW: case X86_OP_CMPXCHG: case X86_OP_LAHF: w |= 1u << X86_RAX; break;
    case X86_OP_XCHG: case X86_OP_XADD:
        for (unsigned k = 0; k < i->operand_count; k++)
            if (i->operand[k].kind == X86_REG)
                w |= 1u << i->operand[k].reg;
        break;
    case X86_OP_PCMPESTRI: case X86_OP_PCMPISTRI: case X86_OP_VPCMPESTRI: case X86_OP_VPCMPISTRI: w |= 1u << X86_RCX; break;
    case X86_OP_RDTSCP: w |= 1u << X86_RCX; /* fallthrough */
    case X86_OP_RDTSC: w |= 1u << X86_RAX | 1u << X86_RDX; break;
    case X86_OP_LEAVE: w |= 1u << X86_RSP | 1u << X86_RBP; break;
    default: break;
    }
    return w;
}

/* ---- passes ---- */

static void describe_accesses(struct insn_info *n, unsigned word)
{
    const struct x86_insn *i = &n->i;
    const struct x86_operand *m = memory_operand(i);
    if (m && i->op != X86_OP_LEA && n->kind != KIND_NOTHING && n->kind != KIND_STRING) {
        n->memory = (struct access){.used = true, .write = (m->access & X86_WRITE) != 0, .base = i->base, .group = NO_GROUP,
                                    .size = m->size, .disp = (int32_t)i->disp};
        n->memory.simple = i->base < 16 && !is_spilled(i->base) && i->index == X86_ZERO && i->address_size == word && i->seg != X86_FS &&
                           i->seg != X86_GS && i->disp == (int32_t)i->disp;
    }
    struct access stack = {.used = true, .simple = true, .base = X86_RSP, .group = NO_GROUP, .size = (uint16_t)word};
    switch (n->kind) {
    case KIND_PUSH: case KIND_PUSHF: case KIND_CALL: case KIND_CALL_INDIRECT:
        stack.write = true;
        stack.disp = -(int)word;
        n->stack = stack;
        break;
    case KIND_LEAVE: stack.base = X86_RBP; /* fallthrough */
    case KIND_POP: case KIND_RET: n->stack = stack; break;
    default: break;
    }
}

/* No interrupt comes between STI and the next instruction. Where that one could tell (HLT after all) the interpreter keeps the rule. */
static bool shadow_matters(const struct icpu *c, const uint8_t *code, unsigned offset, unsigned word)
{
    struct x86_insn next;
    unsigned avail = offset < DP_PAGE_SIZE ? DP_MIN(15u, (unsigned)DP_PAGE_SIZE - offset) : 0;
    if (!avail || x86_decode(code + offset, avail, c->mode & IMODE_CODE, &next) <= 0)
        return true;
    enum insn_kind kind = classify(c, &next, word, true);
    return kind == KIND_INTERPRET || kind == KIND_HELPER || kind == KIND_OP;
}

/* The path would go on into a block that there is: it need not be written again. But where an interpreter's instructions all lead to
 * one indirect jump, each is better off with a copy, from whose place the host learns what comes next. */
static bool is_known(struct path *p, const struct tcpu *t, const struct tpage *page, const uint8_t *code, unsigned offset)
{
    const struct tblock *b = p->count ? cache_linkable(t, page, (uint64_t)(uintptr_t)code + offset) : NULL;
    p->then = b && !b->dispatches ? b : NULL;
    return p->then;
}

static void decode_path(struct path *p, const struct tcpu *t, const struct tpage *page, const uint8_t *code, unsigned offset,
                        const uint8_t *next, bool stops)
{
    const struct icpu *c = t->c;
    enum x86_mode mode = c->mode & IMODE_CODE;
    uint64_t seen[DP_PAGE_SIZE / 64] = {0};
    p->word = mode == X86_MODE32 ? 4 : 8;
    p->count = 0;
    p->open = p->crosses = p->before_crossing = p->interpret = false;
    p->then = NULL;
    p->bytes = 0;
    unsigned branches = 0;
    for (;;) {
        p->end = (uint16_t)offset;
        if (p->count == MAX_INSNS || branches == MAX_BRANCHES || offset >= DP_PAGE_SIZE || (seen[offset / 64] >> (offset % 64) & 1) ||
            (stops && is_known(p, t, page, code, offset))) {
            p->open = true;
            return;
        }
        struct insn_info *n = &p->insn[p->count];
        memset(&n->offset, 0, sizeof(*n) - offsetof(struct insn_info, offset)); /* x86_decode fills the rest */
        n->offset = (uint16_t)offset;
        unsigned avail = DP_MIN(15u, (unsigned)DP_PAGE_SIZE - offset);
        if (offset <= DP_PAGE_SIZE - sizeof(n->raw))
            memcpy(n->raw, code + offset, sizeof(n->raw));
        else
            memcpy(n->raw, code + offset, avail);
        int length = x86_decode(n->raw, avail, mode, &n->i);
        if (length == X86_DECODE_MORE && avail < 15 && next && !p->count) {
            memcpy(n->raw + avail, next, 15 - avail);
            length = x86_decode(n->raw, 15, mode, &n->i);
            p->crosses = length > 0;
        }
        if (length <= 0) {
            p->open = true;
            p->before_crossing = length == X86_DECODE_MORE && avail < 15;
            return;
        }
        n->kind = (uint8_t)classify(c, &n->i, p->word, p->checked);
        if (n->kind == KIND_STI && shadow_matters(c, code, offset + (unsigned)length, p->word))
            n->kind = KIND_OP; /* keeps the shadow */
        if (n->kind == KIND_OP && p->crosses)
            n->kind = KIND_INTERPRET;
        if (n->kind == KIND_INTERPRET) {
            p->open = p->interpret = true;
            return;
        }
        if (n->kind != KIND_OP)
            describe_accesses(n, p->word);
        n->x87 = n->kind != KIND_OP && is_x87(&n->i);
        n->points = n->x87 && (n->i.row->flags & X86_F_X87) && n->i.op != X86_OP_FLDCW;
        seen[offset / 64] |= 1ull << (offset % 64);
        p->count++;
        p->bytes = (uint16_t)(p->bytes + length);
        offset += (unsigned)length;
        p->end = (uint16_t)offset;
        if (n->kind == KIND_OP) {
            p->open = true;
            return;
        }
        if (p->crosses) {
            p->open = n->kind <= KIND_JCC || n->kind == KIND_JCXZ;
            return;
        }
        if (n->kind == KIND_JMP) {
            uint64_t target = offset + n->i.imm;
            if (target >= DP_PAGE_SIZE || (seen[target / 64] >> (target % 64) & 1) || p->count == MAX_INSNS)
                return;
            n->follows = true;
            offset = (unsigned)target;
        } else if (n->kind == KIND_JCC) {
            branches++;
        } else if (n->kind >= KIND_JMP_INDIRECT && n->kind <= KIND_RET) {
            return;
        }
    }
}

static bool ends_path(const struct insn_info *n) { return n->kind >= KIND_JCC && !(n->kind == KIND_JMP && n->follows); }

static void flags_backward(struct path *p)
{
    uint16_t live = p->then ? p->then->live : X86_ARITH;
    for (unsigned k = p->count; k-- > 0;) {
        struct insn_info *n = &p->insn[k];
        const struct x86_opcode *row = n->i.row;
        if (ends_path(n) || n->kind == KIND_PUSHF || n->kind == KIND_STI || n->kind == KIND_RDTSC) {
            live = X86_ARITH; /* another path begins here, nobody knows what it wants */
        } else if (n->kind != KIND_NOTHING && n->kind != KIND_CLI && n->kind != KIND_SWAPGS && n->kind != KIND_RDTSC) {
            if (!(row->flags & X86_F_KEEPS) && !n->x87) /* FCOMI writes all, but may have an exception of before to raise */
                live &= (uint16_t) ~(row->flags_written | row->flags_undefined);
            live |= row->flags_read & X86_ARITH;
        }
        n->live = live;
    }
}

/* What is known of the base registers: contents that are the same but for a constant have the same version. */
struct tracking { uint16_t version[16]; int32_t offset[16]; };
/* The last place with dead flags from which every path leads to here, and what was known there. */
struct dead { unsigned at; struct tracking known; };
#define NO_PLACE 0xffffu

static bool within_reach(const struct path *p, int64_t distance)
{
    int64_t reach = p->word == 4 ? REACH32 : REACH64;
    return distance >= -reach && distance <= reach;
}

/* Where flags are wanted at the first access of a group, its check moves up to where they are not, as long as the base is the same and no
 * other path leaves in between (a check for an access that may not happen would send null pointers to the slow path). */
static void join_group(struct path *p, const struct tracking *t, const struct dead *dead, struct access *a, unsigned k, bool separate)
{
    if (!a->used || !a->simple)
        return;
    int64_t low = t->offset[a->base] + a->disp, high = low + a->size;
    if (!within_reach(p, a->disp)) {
        a->simple = false;
        return;
    }
    for (unsigned g = p->groups; !separate && g-- > 0;) {
        struct group *q = &p->group[g];
        if (q->base != a->base || q->version != t->version[a->base])
            continue;
        int64_t l = DP_MIN((int64_t)q->low, low), h = DP_MAX((int64_t)q->high, high);
        if (h - l > GROUP_SPAN)
            continue;
        q->low = (int32_t)l;
        q->high = (int32_t)h;
        q->count++;
        a->group = (uint8_t)g;
        return;
    }
    a->group = (uint8_t)p->groups;
    p->group[p->groups++] = (struct group){.base = a->base, .version = t->version[a->base], .low = (int32_t)low, .high = (int32_t)high,
                                           .write = a->write,
                                           .first = (uint8_t)k, .at = (uint8_t)k, .count = 1, .adjust_at = t->offset[a->base]};
    if (p->insn[k].live && !separate && dead->at != NO_PLACE && dead->known.version[a->base] == t->version[a->base]) {
        p->group[p->groups - 1].at = (uint8_t)dead->at;
        p->group[p->groups - 1].adjust_at = dead->known.offset[a->base];
    }
}

static void advance(const struct path *p, struct tracking *t, const struct insn_info *n)
{
    uint32_t written = written_registers(n);
    bool stack = n->kind == KIND_PUSH || n->kind == KIND_PUSHF || n->kind == KIND_POP;
    if (stack)
        written |= 1u << X86_RSP;
    for (uint32_t left = written & 0xffff; left; left &= left - 1) {
        unsigned r = (unsigned)__builtin_ctz(left);
        int64_t by;
        if (r == X86_RSP && stack && !(n->kind == KIND_POP && n->i.operand[0].reg == X86_RSP))
            by = n->kind == KIND_POP ? (int)p->word : -(int)p->word;
        else if (n->kind != KIND_COPY || !constant_change(&n->i, p->word, r, &by) || !within_reach(p, by))
            by = INT32_MAX;
        if (within_reach(p, t->offset[r] + by)) {
            t->offset[r] += (int32_t)by;
        } else { /* another value, or far away: as good as another register */
            t->version[r]++;
            t->offset[r] = 0;
        }
    }
}

static void accesses_forward(struct path *p, uint32_t mode)
{
    struct tracking t = {0};
    struct dead dead = {.at = NO_PLACE};
    bool separate = mode & MODE_UNGROUPED;
    p->groups = 0;
    for (unsigned k = 0; k < p->count; k++) {
        const struct insn_info *n = &p->insn[k];
        join_group(p, &t, &dead, &p->insn[k].stack, k, separate);
        join_group(p, &t, &dead, &p->insn[k].memory, k, separate);
        if (ends_path(n))
            dead.at = NO_PLACE;
        else if (!n->live)
            dead = (struct dead){k, t};
        advance(p, &t, n);
    }
    unsigned best = NO_GROUP, slots = 0;
    for (unsigned g = 0; g < p->groups; g++) {
        struct group *q = &p->group[g];
        p->insn[q->at].checks = true;
        q->alone = q->count == 1 && q->at == q->first;
        if (!q->alone && (best == NO_GROUP || q->count > p->group[best].count))
            best = g;
    }
    for (unsigned g = 0; g < p->groups; g++) {
        struct group *q = &p->group[g];
        const struct insn_info *n = &p->insn[q->first];
        bool two = n->stack.used && n->memory.used && n->stack.group == g; /* rcx is wanted for the other one */
        if (g == best)
            q->storage = DELTA_R15;
        else if (q->alone && !two)
            q->storage = DELTA_RCX;
        else
            q->storage = (uint8_t)slots++;
    }
}

void analyse(struct path *p, const struct tcpu *t, const struct tpage *page, const uint8_t *code, unsigned offset, const uint8_t *next,
             uint32_t mode)
{
    p->checked = !t->is_direct;
    decode_path(p, t, page, code, offset, next, !(mode & MODE_UNGROUPED));
    flags_backward(p);
    p->groups = 0;
    if (p->checked)
        accesses_forward(p, mode);
}
