/* program_asm.c - encodings and operands for the program generator.
 *
 * Model: as in generate.c, every (prefix, map, opcode, ModRM) and VEX form is put through x86_decode once, which sorts them by operation;
 * the decoder is the only source of what bytes mean. Memory operands are drawn last, when the decoder has told their size.
 */
#include <stdlib.h>

#include "program_gen.h"

struct form {
    uint16_t op;
    uint8_t prefix, map, opcode, modrm;
    bool vex, w, l, modrm_used;
};
struct prog_forms {
    enum x86_mode mode;
    const struct x86_cpuid_model *model;
    struct {
        struct form *list;
        uint32_t count, capacity;
        uint32_t first[X86_OP_COUNT + 1]; /* of each operation's run */
        uint32_t ops;
    } c[PROG_CLASSES];
};

/* ---- forms ---- */

/* Not for random use: what programs write deliberately, what has effects no register role can take, and what the host answers alone. */
static bool excluded(enum x86_mode mode, const struct x86_insn *i)
{
    if (cpu_op_skipped(i->op) || i->row->flags & (X86_F_BRANCH | X86_F_SYSTEM | X86_F_CPL0 | X86_F_REP))
        return true;
    for (unsigned k = 0; k < i->operand_count; k++) {
        const struct x86_operand *o = &i->operand[k];
        if (o->kind == X86_REG && (o->reg_class == X86_RC_SEG || o->reg_class == X86_RC_CR || o->reg_class == X86_RC_DR))
            return true;
        if (o->kind == X86_MEM && (o->reg_class == X86_RC_XMM || o->reg_class == X86_RC_YMM))
            return true; /* gathers */
        if (o->kind == X86_MEM && !i->has_modrm)
            return true;
        if (o->kind == X86_MEM && i->row->feature == X86_FEATURE_SHA)
            return true; /* AMD does not ask for alignment there, Intel does */
    }
    switch (i->op) {
    case X86_OP_BT:
    case X86_OP_BTS:
    case X86_OP_BTR:
    case X86_OP_BTC: /* a bit offset in a register reaches far */
        return i->operand[0].kind == X86_MEM && i->operand[1].kind == X86_REG;
    case X86_OP_SHLD:
    case X86_OP_SHRD: /* 16-bit: undefined for counts above 16 */
        return i->operand_size == 2;
    case X86_OP_BSF:
    case X86_OP_BSR:
        return i->rep;
    case X86_OP_NOP:
        return i->opcode == 0x0d && i->mod == 3; /* #UD on AMD */
    case X86_OP_MOVSXD:
        return i->operand_size == 2;
    case X86_OP_VPEXTRD:
    case X86_OP_VPINSRD:
        return i->vex_w && mode != X86_MODE64; /* #UD on AMD */
    case X86_OP_RCPPS:                         /* approximations */
    case X86_OP_RCPSS:
    case X86_OP_RSQRTPS:
    case X86_OP_RSQRTSS:
    case X86_OP_VRCPPS:
    case X86_OP_VRCPSS:
    case X86_OP_VRSQRTPS:
    case X86_OP_VRSQRTSS:
    case X86_OP_F2XM1: /* transcendental */
    case X86_OP_FYL2X:
    case X86_OP_FYL2XP1:
    case X86_OP_FPTAN:
    case X86_OP_FPATAN:
    case X86_OP_FSIN:
    case X86_OP_FCOS:
    case X86_OP_FSINCOS:
    case X86_OP_FNSAVE: /* images with pointers, which come and go */
    case X86_OP_FRSTOR:
    case X86_OP_FNSTENV:
    case X86_OP_FLDENV:
    case X86_OP_FXSAVE:
    case X86_OP_FXRSTOR:
    case X86_OP_XSAVE:
    case X86_OP_XRSTOR:
    case X86_OP_XSAVEOPT:
    case X86_OP_XSAVEC:
    case X86_OP_XSAVES:
    case X86_OP_XRSTORS:
    case X86_OP_LDMXCSR: /* random bytes would unmask everything */
    case X86_OP_VLDMXCSR:
    case X86_OP_FLDCW:
    case X86_OP_PUSH: /* the stack: deliberately */
    case X86_OP_POP:
    case X86_OP_PUSHA:
    case X86_OP_POPA:
    case X86_OP_PUSHF:
    case X86_OP_POPF:
    case X86_OP_PUSH_SEG:
    case X86_OP_POP_SEG:
    case X86_OP_ENTER:
    case X86_OP_LEAVE:
    case X86_OP_DIV:
    case X86_OP_IDIV:
    case X86_OP_AAM: /* by an immediate of 0 */
    case X86_OP_XLAT:
    case X86_OP_STD:
    case X86_OP_CLD:
    case X86_OP_BOUND:
    case X86_OP_LES:
    case X86_OP_LDS:
    case X86_OP_LSS:
    case X86_OP_LFS:
    case X86_OP_LGS:
    case X86_OP_LAR:
    case X86_OP_LSL:
    case X86_OP_VERR:
    case X86_OP_VERW:
    case X86_OP_ARPL:
    case X86_OP_IN:
    case X86_OP_OUT:
    case X86_OP_CLI:
    case X86_OP_STI:
    case X86_OP_WRFSBASE:
    case X86_OP_WRGSBASE:
    case X86_OP_MASKMOVQ: /* addressed by RDI */
    case X86_OP_MASKMOVDQU:
    case X86_OP_VMASKMOVDQU:
    case X86_OP_UD0:
    case X86_OP_UD1:
    case X86_OP_UD2:
        return true;
    default:
        return false;
    }
}

static enum prog_class class_of(const struct x86_insn *i)
{
    if (i->vex)
        return PROG_VEX;
    if (i->row->flags & X86_F_MMX)
        return PROG_MMX;
    if (i->row->flags & (X86_F_X87 | X86_F_X87NW))
        return PROG_X87;
    return i->row->flags & X86_F_SSE ? PROG_SSE : PROG_INT;
}

static bool supported(const struct x86_cpuid_model *m, const struct x86_insn *i)
{
    return !(i->features & ~m->features[0]) && (i->row->feature == X86_FEATURE_BASE || x86_has(m, i->row->feature));
}

/* The bytes up to the ModRM; VEX with inverted R, X, B in rxb (set bit: extension). */
static unsigned put_opcode(uint8_t *p, const struct form *f, unsigned vvvv, unsigned rxb)
{
    static const uint8_t escape[4][2] = {{0}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
    unsigned n = 0;
    if (f->vex) {
        unsigned pp = f->prefix == 0x66 ? 1 : f->prefix == 0xf3 ? 2 : f->prefix == 0xf2 ? 3 : 0;
        p[n++] = 0xc4;
        p[n++] = (uint8_t)((~rxb & 7) << 5 | f->map);
        p[n++] = (uint8_t)(f->w << 7 | (~vvvv & 15) << 3 | f->l << 2 | pp);
    } else {
        for (unsigned i = 0; i < 2 && escape[f->map][i]; i++)
            p[n++] = escape[f->map][i];
    }
    p[n++] = f->opcode;
    return n;
}

static bool is_prefix(bool code64, uint8_t b)
{
    static const uint8_t prefixes[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3};
    return memchr(prefixes, b, sizeof prefixes) || (code64 && (b & 0xf0) == 0x40);
}

static int try_form(struct prog_forms *fs, struct form *f)
{
    uint8_t bytes[24] = {0};
    unsigned n = 0;
    if (f->prefix && !f->vex)
        bytes[n++] = f->prefix;
    n += put_opcode(bytes + n, f, 0, 0);
    bytes[n] = f->modrm;
    struct x86_insn insn;
    if (x86_decode(bytes, 15, fs->mode, &insn) <= 0 || insn.vex != f->vex || !supported(fs->model, &insn) || excluded(fs->mode, &insn))
        return 0;
    if (!insn.has_modrm && f->modrm != 1)
        return 0;
    f->op = insn.op;
    f->modrm_used = insn.has_modrm;
    enum prog_class c = class_of(&insn);
    if (fs->c[c].count == fs->c[c].capacity) {
        uint32_t capacity = fs->c[c].capacity ? fs->c[c].capacity * 2 : 256;
        struct form *list = realloc(fs->c[c].list, capacity * sizeof *list);
        if (!list)
            return -ENOMEM;
        fs->c[c].list = list, fs->c[c].capacity = capacity;
    }
    fs->c[c].list[fs->c[c].count++] = *f;
    return 0;
}

static int by_op(const void *a, const void *b)
{
    const struct form *x = a, *y = b;
    if (x->op != y->op)
        return x->op < y->op ? -1 : 1;
    return memcmp(x, y, sizeof *x);
}

int prog_forms_create(enum x86_mode mode, const struct x86_cpuid_model *model, struct prog_forms **out, struct dp_error *e)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2};
    struct prog_forms *fs = calloc(1, sizeof *fs);
    if (!fs)
        return dp_error_set(e, -ENOMEM, "out of memory");
    fs->mode = mode, fs->model = model;
    int err = 0;
    for (unsigned vex = 0; vex < (x86_has(model, X86_FEATURE_AVX) ? 5 : 1); vex++)
        for (unsigned map = vex ? 1 : 0; map < 4; map++)
            for (unsigned opcode = 0; opcode < 256; opcode++) {
                if (!vex && ((map == 0 && (opcode == 0x0f || is_prefix(mode == X86_MODE64, (uint8_t)opcode))) ||
                             (map == 1 && (opcode == 0x38 || opcode == 0x3a))))
                    continue;
                for (unsigned p = 0; p < 4; p++)
                    for (unsigned modrm = 0; modrm < 256 && !err; modrm++) {
                        if (modrm < 0xc0 && (modrm >> 6 || (modrm & 7) != 1))
                            continue; /* memory is memory: one rm will do */
                        struct form f = {.prefix = prefixes[p], .map = (uint8_t)map, .opcode = (uint8_t)opcode, .modrm = (uint8_t)modrm};
                        f.vex = vex, f.w = vex && (vex - 1) & 1, f.l = vex && (vex - 1) & 2;
                        err = try_form(fs, &f);
                    }
            }
    for (unsigned c = 0; c < PROG_CLASSES && !err; c++) {
        if (fs->c[c].count)
            qsort(fs->c[c].list, fs->c[c].count, sizeof(struct form), by_op);
        for (uint32_t i = 0; i < fs->c[c].count; i++)
            if (!i || fs->c[c].list[i].op != fs->c[c].list[i - 1].op)
                fs->c[c].first[fs->c[c].ops++] = i;
        fs->c[c].first[fs->c[c].ops] = fs->c[c].count;
    }
    if (err) {
        prog_forms_destroy(fs);
        return dp_error_set(e, err, "out of memory");
    }
    *out = fs;
    return 0;
}

void prog_forms_destroy(struct prog_forms *f)
{
    if (!f)
        return;
    for (unsigned c = 0; c < PROG_CLASSES; c++)
        free(f->c[c].list);
    free(f);
}

bool prog_has(const struct prog_gen *g, enum prog_class c) { return g->forms->c[c].count; }
bool prog_feature(const struct prog_gen *g, enum x86_feature f) { return x86_has(g->forms->model, f); }

/* ---- instructions and labels ---- */

int16_t prog_label(struct prog_gen *g)
{
    g->labels = DP_MIN(g->labels, PROG_LABELS - 1u);
    g->label[g->labels] = -1;
    return (int16_t)g->labels++;
}

/* CMP of a register with a small number gives every flag a value. */
static void define_flags(struct prog_gen *g)
{
    uint8_t bytes[4];
    unsigned n = 0, reg = prog_source(g);
    if (g->code64)
        bytes[n++] = (uint8_t)(0x40 | (prog_one_in(g, 2) ? 8 : 0) | reg >> 3);
    bytes[n++] = 0x83, bytes[n++] = (uint8_t)(0xf8 | (reg & 7)), bytes[n++] = (uint8_t)dp_random_next(&g->r);
    prog_put(g, bytes, n, PROG_FIX_NONE, 0, -1, 0);
}

void prog_settle(struct prog_gen *g)
{
    if (g->undefined)
        define_flags(g);
}

void prog_place(struct prog_gen *g, int16_t label)
{
    prog_settle(g);
    g->label[label] = (int16_t)g->p->count;
}

bool prog_put(struct prog_gen *g, const uint8_t *bytes, unsigned size, enum prog_fix fix, unsigned fix_at, int16_t label, uint64_t linear)
{
    struct x86_insn insn;
    if (x86_decode(bytes, size, g->p->mode, &insn) != (int)size || g->p->count == PROG_MAX_INSNS)
        return false;
    bool branch = insn.row->flags & X86_F_BRANCH && insn.op != X86_OP_INT3 && insn.op != X86_OP_UD2;
    if (g->undefined && (branch || insn.row->flags_read & g->undefined))
        define_flags(g);
    if (g->p->count == PROG_MAX_INSNS)
        return false;
    struct prog_insn *k = &g->p->insn[g->p->count++];
    memcpy(k->bytes, bytes, size);
    k->length = (uint8_t)size, k->fix = (uint8_t)fix, k->fix_at = (uint8_t)fix_at, k->target = label, k->linear = linear;
    g->undefined = insn.op == X86_OP_INT3 || insn.op == X86_OP_JMP || insn.op == X86_OP_RET ? 0 : prog_undefined_after(&insn, g->undefined);
    return true;
}

/* ModRM, SIB and displacement; *fix_at of a RIP-relative displacement. */
static unsigned put_mem(struct prog_gen *g, uint8_t *p, unsigned reg, const struct prog_mem *m, unsigned *fix_at)
{
    unsigned n = 0, mod;
    reg = (reg & 7) << 3;
    if (m->rip) {
        p[n++] = (uint8_t)(reg | 5);
        *fix_at = n;
        memset(p + n, 0, 4);
        return n + 4;
    }
    if (m->base < 0) {
        if (m->index < 0 && !g->code64) {
            p[n++] = (uint8_t)(reg | 5);
        } else {
            p[n++] = (uint8_t)(reg | 4);
            p[n++] = (uint8_t)(m->scale << 6 | (m->index < 0 ? 4 : m->index & 7) << 3 | 5);
        }
        dp_st32(p + n, (uint32_t)m->disp);
        return n + 4;
    }
    if (!m->disp && (m->base & 7) != 5 && !prog_one_in(g, 8))
        mod = 0;
    else
        mod = m->disp == (int8_t)m->disp && !prog_one_in(g, 8) ? 1 : 2;
    bool sib = m->index >= 0 || (m->base & 7) == 4;
    p[n++] = (uint8_t)(mod << 6 | reg | (sib ? 4 : m->base & 7));
    if (sib)
        p[n++] = (uint8_t)(m->scale << 6 | (m->index < 0 ? 4 : m->index & 7) << 3 | (m->base & 7));
    if (mod == 1)
        p[n++] = (uint8_t)m->disp;
    if (mod == 2)
        dp_st32(p + n, (uint32_t)m->disp), n += 4;
    return n;
}

static unsigned mem_rxb(const struct prog_mem *m) { return m->rip ? 0 : (m->index >= 8 ? 2u : 0) | (m->base >= 8 ? 1u : 0); }

bool prog_emit(struct prog_gen *g, const struct prog_enc *e)
{
    uint8_t b[32];
    unsigned n = 0, fix_at = 0;
    if (e->mem && e->mem->seg)
        b[n++] = e->mem->seg;
    if (e->mem && e->mem->a32)
        b[n++] = 0x67;
    if (e->p66)
        b[n++] = 0x66;
    if (e->lock)
        b[n++] = 0xf0;
    if (e->rep)
        b[n++] = e->rep;
    unsigned rxb = (e->reg >= 8 ? 4u : 0) | (e->mem ? mem_rxb(e->mem) : e->rm >= 8 ? 1u : 0);
    unsigned reg = e->reg, rm = e->rm;
    if (e->vex) {
        struct form f = {.vex = true, .map = e->map, .opcode = e->op, .w = e->w, .l = e->l, .prefix = e->rep ? e->rep : e->p66 ? 0x66 : 0};
        n = e->mem && e->mem->seg ? 1 : 0; /* no other prefix before VEX but 67h */
        if (e->mem && e->mem->a32)
            b[n++] = 0x67;
        n += put_opcode(b + n, &f, e->vvvv, rxb);
    } else {
        bool rex = g->code64 && (e->w || e->rex || rxb);
        if (rex)
            b[n++] = (uint8_t)(0x40 | (e->w ? 8 : 0) | rxb);
        if (e->high_reg && !rex && reg < 4)
            reg += 4;
        struct form f = {.map = e->map, .opcode = e->op};
        n += put_opcode(b + n, &f, 0, 0);
    }
    enum prog_fix fix = e->fix;
    uint64_t linear = 0;
    int16_t label = e->label;
    if (e->mem) {
        n += put_mem(g, b + n, reg, e->mem, &fix_at);
        if (e->mem->rip)
            fix_at += n - 5, fix = PROG_FIX_RIP, linear = e->mem->linear;
    } else if (!e->no_modrm) {
        b[n++] = (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7));
    }
    if (e->imm_size) {
        if (e->fix)
            fix_at = n;
        memcpy(b + n, &e->imm, e->imm_size);
        n += e->imm_size;
    }
    return n <= 15 && prog_put(g, b, n, fix, fix_at, label, linear);
}

/* ---- registers ---- */

static unsigned registers(const struct prog_gen *g) { return g->code64 ? 16 : 8; }
unsigned prog_source(struct prog_gen *g) { return (unsigned)prog_pick(g, registers(g)); }
unsigned prog_scratch(struct prog_gen *g)
{
    unsigned taken = g->pointers | g->indexes | g->locked | 1u << X86_RSP;
    for (unsigned k = 0; k < 40; k++) {
        unsigned r = prog_source(g);
        if (!(taken >> r & 1))
            return r;
    }
    return X86_RAX;
}
int prog_pointer(struct prog_gen *g)
{
    unsigned may = g->pointers & ~(1u << X86_RSP | g->locked);
    for (unsigned k = 0; k < 40 && may; k++) {
        unsigned r = prog_source(g);
        if (may >> r & 1)
            return (int)r;
    }
    return -1;
}

void prog_load_constant(struct prog_gen *g, unsigned reg, uint64_t v)
{
    if (!g->code64 || (v == (uint32_t)v && prog_one_in(g, 2)))
        EMIT(g, .op = (uint8_t)(0xb8 + (reg & 7)), .rm = (uint8_t)reg, .no_modrm = true, .imm = v, .imm_size = 4);
    else if (v == (uint64_t)(int32_t)v)
        EMIT(g, .op = 0xc7, .w = true, .rm = (uint8_t)reg, .imm = v, .imm_size = 4);
    else
        EMIT(g, .op = (uint8_t)(0xb8 + (reg & 7)), .w = true, .rm = (uint8_t)reg, .no_modrm = true, .imm = v, .imm_size = 8);
}

void prog_load_label(struct prog_gen *g, unsigned reg, int16_t label)
{
    uint8_t b[10] = {0};
    if (!g->code64) {
        b[0] = (uint8_t)(0xb8 + reg);
        prog_put(g, b, 5, PROG_FIX_ABS32, 1, label, 0);
    } else if (prog_one_in(g, 2)) {
        b[0] = (uint8_t)(0x48 | (reg >= 8 ? 4 : 0)), b[1] = 0x8d, b[2] = (uint8_t)((reg & 7) << 3 | 5);
        prog_put(g, b, 7, PROG_FIX_RIP, 3, label, 0);
    } else {
        b[0] = (uint8_t)(0x48 | reg >> 3), b[1] = (uint8_t)(0xb8 + (reg & 7));
        prog_put(g, b, 10, PROG_FIX_ABS64, 2, label, 0);
    }
}

/* ---- memory ---- */

bool prog_reachable(uint64_t linear, unsigned size, bool write)
{
    uint64_t offset = linear - PROG_DATA;
    if (offset >= PROG_PAGES * 4096u)
        offset = linear - PROG_HIGH;
    if (offset >= PROG_PAGES * 4096u || offset + size > PROG_PAGES * 4096u)
        return false;
    for (uint64_t page = offset >> 12; page <= (offset + DP_MAX(size, 1u) - 1) >> 12; page++)
        if (prog_page[page].frame < 0 || (write && !prog_page[page].writable) || page == PROG_OWN || page == PROG_OWN_READONLY)
            return false;
    return true;
}

uint64_t prog_target(struct prog_gen *g, unsigned size, bool write)
{
    for (unsigned k = 0; k < 20; k++) {
        uint64_t t = g->hot[prog_pick(g, PROG_HOT)];
        if (prog_one_in(g, 6))
            t = (t & ~0xffffull) + prog_pick(g, 9 * 4096);
        else
            t += prog_pick(g, 160) - 80;
        if (prog_reachable(t, size, write))
            return t;
    }
    return PROG_DATA + 2048 + prog_pick(g, 1000); /* the first page */
}

struct prog_mem prog_absolute(uint64_t linear)
{
    return (struct prog_mem){.base = -1, .index = -1, .disp = (int64_t)linear, .linear = linear};
}

/* An address that faults, or crosses into one that does: in a scratch register. */
static struct prog_mem wild(struct prog_gen *g, unsigned size)
{
    uint64_t page = PROG_DATA + (prog_one_in(g, 2) && g->high ? PROG_HIGH - PROG_DATA : 0), t;
    unsigned inside = size ? (unsigned)prog_pick(g, size + 1) : 0;
    switch (prog_pick(g, 8)) {
    case 0:
        t = page + 5 * 4096 - inside;
        break; /* out of the read-only page into the hole */
    case 1:
        t = page + 4 * 4096 - inside;
        break; /* into the read-only page */
    case 2:
        t = page - inside;
        break; /* out of the hole before */
    case 3:
        t = page + 8 * 4096 - inside;
        break; /* into a read-only alias */
    case 4:
        t = page + 5 * 4096 + prog_pick(g, 4096);
        break;
    case 5:
        t = g->code64 ? (1ull << 47) - inside : prog_pick(g, 4096);
        break; /* the end of the lower half */
    case 6:
        t = g->code64 ? dp_random_next(&g->r) | 1ull << 62 : CPU_CODE - inside;
        break; /* not canonical */
    default:
        t = PROG_DATA + (4 + prog_pick(g, 5)) * 4096 - inside;
        break;
    }
    unsigned reg = prog_scratch(g);
    int64_t disp = (int64_t)prog_pick(g, 256) - 128;
    prog_load_constant(g, reg, g->code64 ? t - (uint64_t)disp : (uint32_t)(t - (uint64_t)disp));
    return (struct prog_mem){.base = (int)reg, .index = -1, .disp = disp, .linear = t};
}

static uint64_t fs_base(const struct prog_gen *g, bool gs)
{
    if (g->code64)
        return gs ? g->p->in.gs_base : g->p->in.fs_base;
    const struct cpu_ldt_entry *l = &cpu_ldt[gs ? LDT_SHORT : LDT_DATA32_BASE];
    return l->base;
}

static struct prog_mem segment_memory(struct prog_gen *g, uint64_t target, unsigned size)
{
    bool gs = prog_one_in(g, 2);
    uint64_t base = fs_base(g, gs), offset = target - base;
    struct prog_mem m = prog_absolute(offset);
    m.seg = gs ? 0x65 : 0x64, m.linear = target;
    if (!g->code64 && gs && (uint32_t)offset + size > 0x5000)
        m.seg = 0, m.disp = (int64_t)target; /* beyond the limit */
    if (g->code64 && m.disp != (int32_t)m.disp)
        m = prog_absolute(target), m.base = -2; /* out of reach */
    return m;
}

struct prog_mem prog_memory(struct prog_gen *g, unsigned size, bool write, bool aligned)
{
    if (g->wild && prog_one_in(g, g->wild))
        return wild(g, size);
    uint64_t target = prog_target(g, size, write);
    if (aligned && !(g->wild && prog_one_in(g, g->wild)))
        target &= ~(uint64_t)(size > 16 ? 31 : 15);
    else if (prog_one_in(g, 3))
        target &= ~(uint64_t)(size >= 8 ? 7 : size >= 4 ? 3 : 0);
    if (!prog_reachable(target, size, write))
        target = PROG_DATA + 2048;
    if (prog_one_in(g, 24)) {
        struct prog_mem m = segment_memory(g, target, size);
        if (m.base != -2)
            return m;
    }
    bool low = target == (uint32_t)target;
    if (low && g->code64 && prog_one_in(g, 10))
        return (struct prog_mem){.rip = true, .linear = target, .base = -1, .index = -1};
    if (low && prog_one_in(g, 16))
        return prog_absolute(target);
    struct prog_mem m = {.base = X86_RSP, .index = -1, .linear = target};
    int p = prog_one_in(g, 6) ? -1 : prog_pointer(g);
    if (p >= 0)
        m.base = p;
    m.disp = (int64_t)(target - g->at[m.base]);
    if (g->code64 && m.disp != (int32_t)m.disp) { /* it points elsewhere: go there */
        uint64_t close = g->at[m.base] + prog_pick(g, 200) - 100;
        if (aligned)
            close &= ~(uint64_t)(size > 16 ? 31 : 15);
        if (!prog_reachable(close, size, write))
            return low ? prog_absolute(target) : prog_absolute(PROG_DATA + 1024);
        m.linear = close, m.disp = (int64_t)(close - g->at[m.base]);
    }
    if (!g->code64)
        m.disp = (int32_t)m.disp;
    if (g->indexes && prog_one_in(g, 4)) {
        unsigned i = 0;
        while (!(g->indexes >> i & 1))
            i++;
        m.index = (int)i, m.scale = (unsigned)prog_pick(g, 4);
        int64_t disp = m.disp - (int64_t)(g->at[i] << m.scale);
        if (g->code64 && disp != (int32_t)disp)
            m.index = -1;
        else
            m.disp = g->code64 ? disp : (int32_t)disp;
        if (m.index >= 0 && low && prog_one_in(g, 5))
            m.base = -1, m.disp = (int64_t)(target - (g->at[i] << m.scale));
    }
    m.a32 = g->code64 && low && m.linear == (uint32_t)m.linear && prog_one_in(g, 30);
    return m;
}

/* ---- any instruction ---- */

static bool writes_role(const struct prog_gen *g, const struct x86_insn *i)
{
    unsigned taken = g->pointers | g->indexes | g->locked | 1u << X86_RSP;
    for (unsigned k = 0; k < i->operand_count; k++) {
        const struct x86_operand *o = &i->operand[k];
        if (o->kind != X86_REG || !(o->access & X86_WRITE))
            continue;
        if ((o->reg_class == X86_RC_GPR && taken >> o->reg & 1) || (o->reg_class == X86_RC_GPR8H && taken >> (o->reg & 3) & 1))
            return true;
    }
    switch (i->op) { /* implied */
    case X86_OP_PCMPESTRI:
    case X86_OP_PCMPISTRI:
    case X86_OP_VPCMPESTRI:
    case X86_OP_VPCMPISTRI:
        return taken >> X86_RCX & 1;
    case X86_OP_MUL:
    case X86_OP_IMUL:
    case X86_OP_CWD:
    case X86_OP_CMPXCHG8B:
    case X86_OP_CMPXCHG16B:
        return taken >> X86_RDX & 1 || taken & 1;
    case X86_OP_CBW:
    case X86_OP_CMPXCHG:
    case X86_OP_LAHF:
        return taken & 1;
    default:
        return false;
    }
}

static const struct x86_operand *memory_operand(const struct x86_insn *i)
{
    for (unsigned k = 0; k < i->operand_count; k++)
        if (i->operand[k].kind == X86_MEM)
            return &i->operand[k];
    return NULL;
}

static bool any_of(struct prog_gen *g, const struct form *f)
{
    uint8_t b[40];
    unsigned n = 0, rxb = g->code64 ? (unsigned)prog_pick(g, 8) : 0,
             vvvv = prog_one_in(g, 4) ? 0 : (unsigned)prog_pick(g, g->code64 ? 16 : 8);
    bool p66 = !f->vex && !f->prefix && prog_one_in(g, 5), w = prog_one_in(g, 2), rex = g->code64 && !prog_one_in(g, 3), lock = false;
    unsigned mod = f->modrm >> 6, size = 8;
    bool write = false, align = false;
    struct prog_mem m = {.base = -1, .index = -1};
    struct x86_insn insn;
    for (unsigned pass = 0; pass < 2; pass++) { /* once to hear what the memory operand is, then with it */
        n = 0;
        unsigned fix_at = 0, use = f->modrm_used && mod != 3 ? (rxb & 4) | mem_rxb(&m) : rxb;
        if (pass && mod != 3 && m.seg)
            b[n++] = m.seg;
        if (pass && mod != 3 && m.a32)
            b[n++] = 0x67;
        if (p66)
            b[n++] = 0x66;
        if (lock)
            b[n++] = 0xf0;
        if (f->prefix && !f->vex)
            b[n++] = f->prefix;
        if (!f->vex && g->code64 && (rex || (use & 3 && mod != 3)))
            b[n++] = (uint8_t)(0x40 | (w && rex ? 8 : 0) | (rex ? use : use & 3));
        n += put_opcode(b + n, f, vvvv, use);
        if (f->modrm_used && mod == 3)
            b[n++] = f->modrm;
        else if (f->modrm_used) {
            unsigned at = n;
            n += put_mem(g, b + n, f->modrm >> 3 & 7, &m, &fix_at);
            fix_at += at;
        }
        uint64_t imm = cpu_random_int(&g->r);
        memcpy(b + n, &imm, 8), memcpy(b + n + 8, &imm, 8);
        int length = x86_decode(b, 15, g->p->mode, &insn);
        if (length <= 0 && f->vex && vvvv) { /* not every one has a third operand */
            vvvv = 0;
            if (pass--)
                return false;
            continue;
        }
        if (length <= 0 || insn.op != f->op || !supported(g->forms->model, &insn) || excluded(g->p->mode, &insn) || writes_role(g, &insn))
            return false;
        const struct x86_operand *o = memory_operand(&insn);
        if (!o || pass)
            return prog_put(g, b, (unsigned)length, o && m.rip ? PROG_FIX_RIP : PROG_FIX_NONE, fix_at, -1, m.linear);
        size = o->size ? o->size : 16, write = o->access & X86_WRITE, align = insn.row->flags & X86_F_ALIGN && size >= 16;
        lock = insn.row->flags & X86_F_LOCK && write && prog_one_in(g, 4);
        unsigned before = g->p->count;
        m = prog_memory(g, size, write, align);
        if (g->p->count != before && g->p->count == PROG_MAX_INSNS)
            return false;
    }
    return false;
}

void prog_any(struct prog_gen *g, enum prog_class c)
{
    if (!g->forms->c[c].count)
        c = PROG_INT;
    for (unsigned k = 0; k < 20; k++) {
        unsigned op = (unsigned)prog_pick(g, g->forms->c[c].ops);
        uint32_t first = g->forms->c[c].first[op], end = g->forms->c[c].first[op + 1];
        unsigned before = g->p->count;
        if (any_of(g, &g->forms->c[c].list[first + prog_pick(g, end - first)]) || g->p->count != before)
            return;
    }
}
