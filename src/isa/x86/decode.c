/* isa/x86/decode.c - from bytes to struct x86_insn.
 *
 * Model: prefixes; opcode, which picks a map and in it a row; groups until a leaf; ModRM with SIB and displacement when the leaf's operands
 * or a group need it; operands by their codes, immediates in order. Everything about single instructions is in decode_table.c.
 * Source: Intel SDM vol. 2 chapter 2 (formats, REX, VEX), 3.1.1 (notation), vol. 1 3.6 (sizes).
 * Invariants: bytes beyond min(avail, 15) are not read; the result depends on nothing but bytes and mode.
 */
#include "isa/x86/decode_table.h"
#include "isa/x86/x86.h"

/* What the bytes are as prefixes; 0: no prefix. */
enum { P_SEG = 8 /* + segment */, P_66 = 1, P_67, P_LOCK, P_REPNE, P_REP, P_REX };
static const uint8_t prefixes[256] = {
    [0x26] = P_SEG + X86_ES, [0x2e] = P_SEG + X86_CS, [0x36] = P_SEG + X86_SS, [0x3e] = P_SEG + X86_DS, [0x64] = P_SEG + X86_FS,
    [0x65] = P_SEG + X86_GS,
    [0x66] = P_66, [0x67] = P_67, [0xf0] = P_LOCK, [0xf2] = P_REPNE, [0xf3] = P_REP,
    [0x40] = P_REX, P_REX, P_REX, P_REX, P_REX, P_REX, P_REX, P_REX, P_REX, P_REX, P_REX, P_REX, P_REX, P_REX, P_REX, P_REX,
};
enum { REX_B = 1, REX_X = 2, REX_R = 4, REX_W = 8, REX = 0x40 };

static const struct { uint8_t place, width, class, which; } operand_codes[X86_OPERAND_CODE_COUNT] = {
#define X(code, p, w, c, v) [code] = { X86_PLACE_##p, X86_WIDTH_##w, X86_RC_##c, v },
    X86_OPERAND_CODES(X)
#undef X
};

/* Bytes of each width, by operand size (2, 4, 8), then by VEX.L, then by register or memory. */
#define EVERY(n) BY_SIZE(n, n, n)
#define BY_SIZE(a, b, c) { a, b, c, 0, a, b, c, 0, a, b, c, 0, a, b, c, 0 }
#define BY_L(n, m) { n, n, n, 0, m, m, m, 0, n, n, n, 0, m, m, m, 0 }
#define BY_MOD(a, b, c, memory) { a, b, c, 0, a, b, c, 0, memory, memory, memory, 0, memory, memory, memory, 0 }
static const uint8_t widths[X86_WIDTHS][16] = {
    [X86_WIDTH_B] = EVERY(1), [X86_WIDTH_W] = EVERY(2), [X86_WIDTH_D] = EVERY(4), [X86_WIDTH_Q] = EVERY(8), [X86_WIDTH_T] = EVERY(10),
    [X86_WIDTH_DQ] = EVERY(16), [X86_WIDTH_QQ] = EVERY(32),
    [X86_WIDTH_V] = BY_SIZE(2, 4, 8), [X86_WIDTH_Z] = BY_SIZE(2, 4, 4), [X86_WIDTH_Y] = BY_SIZE(4, 4, 8), [X86_WIDTH_P] = BY_SIZE(4, 6, 10),
    [X86_WIDTH_A] = BY_SIZE(4, 8, 16),
    [X86_WIDTH_X] = BY_L(16, 32), [X86_WIDTH_HX] = BY_L(8, 16), [X86_WIDTH_QX] = BY_L(4, 8), [X86_WIDTH_EX] = BY_L(2, 4),
    [X86_WIDTH_DUP] = BY_L(8, 32),
    [X86_WIDTH_WV] = BY_MOD(2, 4, 8, 2), [X86_WIDTH_BD] = BY_MOD(4, 4, 4, 1), [X86_WIDTH_WD] = BY_MOD(4, 4, 4, 2),
};

/* 16-bit addressing (SDM vol. 2 table 2-1). */
static const uint8_t base16[8] = { X86_RBX, X86_RBX, X86_RBP, X86_RBP, X86_RSI, X86_RDI, X86_RBP, X86_RBX };
static const uint8_t index16[8] = { X86_RSI, X86_RDI, X86_RSI, X86_RDI, X86_ZERO, X86_ZERO, X86_ZERO, X86_ZERO };

struct decoder {
    const uint8_t *at, *end;
    struct x86_insn *insn;
    enum x86_mode mode;
    uint8_t rex;          /* REX byte, or VEX's R, X, B, W in its form */
    uint8_t mandatory;    /* NP ... PF2 */
    bool prefix_66, vex_w, vvvv_used, imm_used;
};

static inline bool fetch8(struct decoder *d, uint8_t *value)
{
    if (DP_UNLIKELY(d->at == d->end))
        return false;
    *value = *d->at++;
    return true;
}

/* Takes size bytes (1, 2, 4, 8), sign-extended. */
static inline bool fetch(struct decoder *d, unsigned size, int64_t *value)
{
    if (DP_UNLIKELY((size_t)(d->end - d->at) < size))
        return false;
    switch (size) {
    case 1: *value = (int8_t)*d->at; break;
    case 2: *value = (int16_t)dp_ld16(d->at); break;
    case 4: *value = (int32_t)dp_ld32(d->at); break;
    default: *value = (int64_t)dp_ld64(d->at); break;
    }
    d->at += size;
    return true;
}

static bool fetch_modrm(struct decoder *d)
{
    struct x86_insn *i = d->insn;
    if (!fetch8(d, &i->modrm))
        return false;
    i->has_modrm = 1;
    i->mod = i->modrm >> 6;
    i->reg = (i->modrm >> 3 & 7) | (d->rex & REX_R) << 1;
    i->rm = (i->modrm & 7) | (d->rex & REX_B) << 3;
    return true;
}

/* What follows ModRM of a memory operand: SIB, displacement; base, index, scale, disp and the default segment. */
static bool fetch_address(struct decoder *d, bool vsib)
{
    struct x86_insn *i = d->insn;
    unsigned rm = i->modrm & 7, disp_size = i->mod == 1 ? 1 : 0;
    i->index = X86_ZERO;
    if (i->address_size == 2) {
        i->base = base16[rm];
        i->index = index16[rm];
        if (i->mod == 2 || (i->mod == 0 && rm == 6))
            disp_size = 2;
        if (i->mod == 0 && rm == 6)
            i->base = X86_ZERO;
    } else {
        if (i->mod == 2)
            disp_size = 4;
        i->base = i->rm;
        if (rm == 4) {
            uint8_t sib;
            if (!fetch8(d, &sib))
                return false;
            unsigned index = (sib >> 3 & 7) | (d->rex & REX_X) << 2;
            if (index != X86_RSP || vsib) {
                i->index = index;
                i->scale = sib >> 6;
            }
            i->base = (sib & 7) | (d->rex & REX_B) << 3;
            rm = sib & 7;
        }
        if (rm == 5 && i->mod == 0) { /* instead of rBP or R13 */
            disp_size = 4;
            i->base = (i->modrm & 7) == 5 && d->mode == X86_MODE64 ? X86_RIP : X86_ZERO;
        }
    }
    if (i->seg_override == X86_SEGS && (i->base == X86_RBP || i->base == X86_RSP))
        i->seg = X86_SS;
    return !disp_size || fetch(d, disp_size, &i->disp);
}

/* Makes o register number reg of a class; false: there is no such register. */
static inline bool set_register(const struct decoder *d, struct x86_operand *o, unsigned class, unsigned reg)
{
    o->kind = X86_REG;
    if (class == X86_RC_GPR) {
        bool high = o->size == 1 && !d->rex && reg >= 4;
        o->reg_class = high ? X86_RC_GPR8H : X86_RC_GPR;
        o->reg = high ? reg - 4 : reg;
        return true;
    }
    switch (class) {
    case X86_RC_XMM:
        if (o->size == 32)
            class = X86_RC_YMM;
        break;
    case X86_RC_MMX: case X86_RC_ST: reg &= 7; break;
    case X86_RC_SEG:
        reg &= 7;
        if (reg >= X86_SEGS || (reg == X86_CS && o->access & X86_WRITE))
            return false;
        break;
    case X86_RC_CR:
        if (!(0x11du >> reg & 1)) /* 0, 2, 3, 4, 8 */
            return false;
        break;
    case X86_RC_DR:
        if (reg > 7)
            return false;
        break;
    }
    o->reg_class = class;
    o->reg = reg;
    return true;
}

/* Decodes an operand whose size and access are set. Returns 0, X86_DECODE_UD or X86_DECODE_MORE. */
static inline int decode_operand(struct decoder *d, unsigned code, struct x86_operand *o)
{
    struct x86_insn *i = d->insn;
    unsigned class = operand_codes[code].class, which = operand_codes[code].which;
    unsigned vvvv = i->vvvv & (d->mode == X86_MODE64 ? 15 : 7);
    int64_t value;
    unsigned place = operand_codes[code].place;
    if (place == X86_PLACE_REG)
        return set_register(d, o, class, i->reg) ? 0 : X86_DECODE_UD;
    if (place == X86_PLACE_RM) {
        if (i->mod == 3)
            return set_register(d, o, class, i->rm) ? 0 : X86_DECODE_UD;
        o->kind = X86_MEM;
        return 0;
    }
    switch (place) {
    case X86_PLACE_RM_REG:
        return i->mod == 3 && set_register(d, o, class, i->rm) ? 0 : X86_DECODE_UD;
    case X86_PLACE_MEM:
        o->kind = X86_MEM;
        return i->mod == 3 ? X86_DECODE_UD : 0;
    case X86_PLACE_VSIB:
        o->kind = X86_MEM;
        o->reg_class = which && i->vex_l ? X86_RC_YMM : X86_RC_XMM;
        /* there must be an index, so not 16-bit addressing; destination, index and mask must differ */
        if (i->mod == 3 || i->address_size == 2 || (i->modrm & 7) != 4 || i->reg == i->index || i->reg == vvvv || vvvv == i->index)
            return X86_DECODE_UD;
        return 0;
    case X86_PLACE_VVVV:
        d->vvvv_used = true;
        set_register(d, o, class, vvvv);
        return 0;
    case X86_PLACE_OPCODE:
        set_register(d, o, class, (i->opcode & 7) | (d->rex & REX_B) << 3);
        return 0;
    case X86_PLACE_GPR: case X86_PLACE_FIXED:
        o->kind = X86_REG;
        o->reg_class = class;
        o->reg = which;
        return 0;
    case X86_PLACE_STRING:
        o->kind = X86_MEM;
        o->reg = which;
        if (i->base != X86_RSI) /* MOVS and CMPS: base and seg are the rSI operand's */
            i->base = which;
        if (i->base == X86_RDI)
            i->seg = X86_ES;
        else
            i->seg = i->seg_override == X86_SEGS ? X86_DS : i->seg_override;
        return 0;
    case X86_PLACE_POINTER:
        o->kind = X86_MEM;
        o->reg = i->base = which;
        return 0;
    case X86_PLACE_OFFSET:
        o->kind = X86_MEM;
        if (!fetch(d, i->address_size, &i->disp))
            return X86_DECODE_MORE;
        i->disp &= (int64_t)dp_mask_bytes(i->address_size);
        return 0;
    case X86_PLACE_ONE:
        o->kind = X86_IMM;
        i->imm = 1;
        return 0;
    case X86_PLACE_IMM:
        o->kind = X86_IMM;
        if (!which)
            which = o->size;
        if (!fetch(d, which, &value))
            return X86_DECODE_MORE;
        value &= (int64_t)dp_mask_bytes(which);
        if (d->imm_used)
            i->imm2 = (uint64_t)value;
        else
            i->imm = (uint64_t)value;
        d->imm_used = true;
        return 0;
    case X86_PLACE_SIMM:
        o->kind = X86_IMM;
        if (!which)
            which = i->operand_size == 2 ? 2 : 4;
        if (!fetch(d, which, &value))
            return X86_DECODE_MORE;
        i->imm = (uint64_t)value;
        return 0;
    case X86_PLACE_REL:
        o->kind = X86_REL;
        if (!which)
            which = i->operand_size == 2 ? 2 : 4;
        if (!fetch(d, which, &value))
            return X86_DECODE_MORE;
        i->imm = (uint64_t)value;
        return 0;
    case X86_PLACE_FAR:
        o->kind = X86_FAR;
        if (!fetch(d, i->operand_size, &value))
            return X86_DECODE_MORE;
        i->imm = (uint64_t)value & dp_mask_bytes(i->operand_size);
        if (!fetch(d, 2, &value))
            return X86_DECODE_MORE;
        i->imm2 = (uint16_t)value;
        return 0;
    default: /* X86_PLACE_IS4 */
        if (!fetch(d, 1, &value))
            return X86_DECODE_MORE;
        i->imm = (uint8_t)value;
        set_register(d, o, class, (uint8_t)value >> 4 & (d->mode == X86_MODE64 ? 15 : 7));
        return 0;
    }
}

/* The rest of a VEX prefix whose first byte was C4 or C5. Returns the map's row for the opcode, NULL with *error set. */
static const struct x86_opcode *fetch_vex(struct decoder *d, int *error)
{
    struct x86_insn *i = d->insn;
    uint8_t p0, p1, map = 1;
    bool three = i->opcode == 0xc4;
    *error = X86_DECODE_UD;
    if (d->rex || d->mandatory || d->prefix_66 || i->lock)
        return NULL;
    *error = X86_DECODE_MORE;
    if (!fetch8(d, &p0))
        return NULL;
    p1 = p0;
    if (three && !fetch8(d, &p1))
        return NULL;
    if (!fetch8(d, &i->opcode))
        return NULL;
    *error = X86_DECODE_UD;
    unsigned rex = p0 & 0x80 ? 0 : REX_R;
    if (three) {
        map = p0 & 31;
        rex |= (p0 & 0x40 ? 0 : REX_X) | (p0 & 0x20 ? 0 : REX_B) | (p1 & 0x80 ? REX_W : 0);
        d->vex_w = p1 >> 7;
    }
    if (map < 1 || map > 3)
        return NULL;
    static const uint8_t pp[4] = { NP, P66, PF3, PF2 };
    i->vex = 1;
    i->vex_l = p1 >> 2 & 1;
    i->vex_w = d->vex_w;
    i->vex_pp = p1 & 3;
    i->vex_map = map & 3;
    i->vvvv = ~p1 >> 3 & 15;
    d->mandatory = pp[p1 & 3];
    if (d->mode == X86_MODE64)
        d->rex = rex;
    return &x86_vex_map[map][i->opcode];
}

/* Follows groups to a leaf. NULL with *error set. */
static inline const struct x86_opcode *resolve(struct decoder *d, const struct x86_opcode *row, int *error)
{
    struct x86_insn *i = d->insn;
    for (;;) {
        if (row->kind >= X86_ROW_BY_REG && !i->has_modrm && !fetch_modrm(d)) {
            *error = X86_DECODE_MORE;
            return NULL;
        }
        switch (row->kind) {
        case X86_ROW_NONE: *error = X86_DECODE_UD; return NULL;
        case X86_ROW_BY_MODE: row = &row->group[d->mode == X86_MODE64]; break;
        case X86_ROW_BY_REXB: row = &row->group[d->rex & REX_B]; break;
        case X86_ROW_BY_PREFIX: row = &row->group[d->mandatory]; break;
        case X86_ROW_BY_REG: row = &row->group[i->modrm >> 3 & 7]; break;
        case X86_ROW_BY_RM: row = &row->group[i->modrm & 7]; break;
        case X86_ROW_BY_MOD: row = &row->group[i->mod == 3]; break;
        case X86_ROW_BY_W: row = &row->group[d->rex >> 3 & 1]; break;
        case X86_ROW_BY_VEX_W: row = &row->group[d->vex_w]; break;
        case X86_ROW_BY_L: row = &row->group[i->vex_l]; break;
        default: return row;
        }
    }
}

/* Out of bytes: more would help only below the limit of 15. */
static int short_of(const struct decoder *d, const uint8_t *bytes)
{
    return d->end - bytes >= 15 ? X86_DECODE_LONG : X86_DECODE_MORE;
}

static inline unsigned effective_operand_size(const struct decoder *d, uint32_t flags)
{
    if (d->mode != X86_MODE64)
        return d->prefix_66 == (d->mode == X86_MODE16) ? 4 : 2;
    if (flags & X86_F_F64 || d->rex & REX_W)
        return 8;
    return d->prefix_66 ? 2 : flags & X86_F_D64 ? 8 : 4;
}

int x86_decode(const uint8_t *bytes, size_t avail, enum x86_mode mode, struct x86_insn *insn)
{
    struct decoder d = { .at = bytes, .end = bytes + DP_MIN(avail, (size_t)15), .insn = insn, .mode = mode };
    bool prefix_67 = false, rep = false, repne = false;
    memset(insn, 0, sizeof(*insn));
    insn->seg_override = X86_SEGS;

    for (;;) {
        if (!fetch8(&d, &insn->opcode))
            return short_of(&d, bytes);
        unsigned p = prefixes[insn->opcode];
        if (DP_LIKELY(!p) || (p == P_REX && mode != X86_MODE64))
            break;
        d.rex = 0; /* REX counts only right before the opcode */
        switch (p) {
        case P_66: d.prefix_66 = true; break;
        case P_67: prefix_67 = true; break;
        case P_LOCK: insn->lock = 1; break;
        case P_REPNE: repne = true, rep = false; break;
        case P_REP: rep = true, repne = false; break;
        case P_REX: d.rex = insn->opcode; break;
        default:
            if (mode != X86_MODE64 || p >= P_SEG + X86_FS)
                insn->seg_override = p - P_SEG;
        }
    }
    insn->address_size = mode == X86_MODE64 ? (prefix_67 ? 4 : 8) : prefix_67 == (mode == X86_MODE16) ? 4 : 2;
    insn->seg = insn->seg_override == X86_SEGS ? X86_DS : insn->seg_override;
    d.mandatory = repne ? PF2 : rep ? PF3 : d.prefix_66 ? P66 : NP;

    const struct x86_opcode *row;
    int error = X86_DECODE_UD;
    if (insn->opcode == 0x0f) {
        unsigned map = 1;
        if (!fetch8(&d, &insn->opcode))
            return short_of(&d, bytes);
        if (insn->opcode == 0x38 || insn->opcode == 0x3a) {
            map = insn->opcode == 0x38 ? 2 : 3;
            if (!fetch8(&d, &insn->opcode))
                return short_of(&d, bytes);
        }
        row = &x86_map[map][insn->opcode];
    } else {
        row = &x86_map[0][insn->opcode];
        if ((insn->opcode & 0xfe) == 0xc4) { /* VEX, or outside 64-bit mode with what would be a memory ModRM LES and LDS */
            if (d.at == d.end)
                return short_of(&d, bytes);
            if (mode == X86_MODE64 || *d.at >= 0xc0)
                row = fetch_vex(&d, &error);
        }
    }
    if (row)
        row = resolve(&d, row, &error);
    if (!row)
        return error == X86_DECODE_MORE ? short_of(&d, bytes) : error;

    uint32_t flags = row->flags;
    insn->row = row;
    insn->op = row->op;
    if (DP_UNLIKELY(flags & (X86_F_I64 | X86_F_O64)) && flags & (mode == X86_MODE64 ? X86_F_I64 : X86_F_O64))
        return X86_DECODE_UD;
    insn->has_rex = (d.rex & REX) != 0;
    insn->rex_w = d.rex >> 3 & 1;
    insn->operand_size = effective_operand_size(&d, flags);
    insn->base = insn->index = X86_ZERO;
    insn->cc = insn->opcode & 15;
    if (row->operand[0] > X86_OPERAND_LAST_PLAIN || row->operand[1] > X86_OPERAND_LAST_PLAIN) {
        if (!insn->has_modrm && !fetch_modrm(&d))
            return short_of(&d, bytes);
        if (row->kind == X86_ROW_LEAF_RR) {
            insn->mod = 3;
            insn->operand_size = mode == X86_MODE64 ? 8 : 4;
        } else if (insn->mod != 3 && !fetch_address(&d, insn->vex && operand_codes[row->operand[1]].place == X86_PLACE_VSIB)) {
            return short_of(&d, bytes);
        }
    }
    unsigned count = 0;
    unsigned form = insn->operand_size >> 2 | insn->vex_l << 2 | (insn->mod != 3) << 3;
    for (unsigned access = row->access; count < 4 && row->operand[count]; count++, access >>= 2) {
        struct x86_operand *o = &insn->operand[count];
        o->size = widths[operand_codes[row->operand[count]].width][form];
        o->access = access & 3;
        error = decode_operand(&d, row->operand[count], o);
        if (error)
            return error == X86_DECODE_MORE ? short_of(&d, bytes) : error;
    }
    insn->operand_count = count;
    if (row->op == X86_OP_FCMOVCC) { /* DA: B, E, BE, U; DB: their opposites */
        static const uint8_t cc[4] = { 2, 4, 6, 10 };
        insn->cc = cc[insn->reg & 3] | (insn->opcode & 1);
    }
    if (insn->lock && !(flags & X86_F_LOCK && insn->operand[0].kind == X86_MEM))
        return X86_DECODE_UD;
    if (flags & X86_F_REP)
        insn->rep = rep, insn->repne = repne;
    if (row->feature && row->feature < 64)
        insn->features = 1ull << row->feature;
    if (insn->vex) {
        if (insn->vvvv && !d.vvvv_used)
            return X86_DECODE_UD;
        if (flags & X86_F_SSE)
            insn->features |= 1ull << X86_FEATURE_AVX;
    }
    insn->length = d.at - bytes;
    return insn->length;
}
