/* generate.c - random instances of every encoding.
 *
 * Model: at start every (prefix, map, opcode, ModRM) is put through x86_decode, which sorts the encodings by operation. A case picks one,
 * adds random prefixes, registers, SIB, displacement and immediate, decodes the bytes again, and then arranges the state around what the
 * decoder says the operands are: addresses that hit the data pages (or their edges, the read-only page, a hole, nowhere), likely divisors,
 * selectors, images for the loads of whole states. Invariant: the decoder is the only source of which operation bytes are; this file knows
 * only the lengths up to the displacement.
 */
#include <stdlib.h>

#include "cpu.h"
#include "isa/x86/x86.h"

struct form {
    uint8_t prefix, map, opcode, modrm; /* prefix: 0, 66, F3, F2; of VEX forms it is in the VEX prefix */
    bool vex, vex_l, vex_w;
};
struct op_forms {
    struct form *list;
    uint32_t count, capacity;
    uint32_t *group;
    uint32_t groups; /* starts of runs with equal prefix, map and opcode */
};
struct cpu_forms {
    enum x86_mode mode;
    const struct x86_cpuid_model *model;
    struct op_forms op[X86_OP_COUNT];
    uint16_t ordinary[X86_OP_COUNT]; /* for sequences */
    unsigned ordinary_count;
};

static const struct {
    uint16_t op;
    const char *why;
} skipped[] = {
    {X86_OP_CPUID, "the host's own values"},
    {X86_OP_RDTSC, "time"},
    {X86_OP_RDTSCP, "time"},
    {X86_OP_RDPMC, "the host's own counters"},
    {X86_OP_RDRAND, "random"},
    {X86_OP_RDSEED, "random"},
    {X86_OP_RDPID, "the host's own processor number"},
    {X86_OP_SYSCALL, "would call the host's kernel"},
    {X86_OP_SYSENTER, "would call the host's kernel; #UD in long mode on AMD"},
    {X86_OP_SYSEXIT, "#UD in long mode on AMD, #GP on Intel"},
    {X86_OP_SGDT, "the host's own tables (UMIP: emulated by Linux)"},
    {X86_OP_SIDT, "the host's own tables (UMIP: emulated by Linux)"},
    {X86_OP_SLDT, "the host's own tables (UMIP)"},
    {X86_OP_STR, "the host's own tables (UMIP)"},
    {X86_OP_SMSW, "the host's own CR0 (UMIP: emulated by Linux)"},
    {X86_OP_XGETBV, "the host's own XCR0"},
    {X86_OP_MONITOR, "#UD or not at CPL 3 is a choice of the processor"},
    {X86_OP_MWAIT, "#UD or not at CPL 3 is a choice of the processor"},
    {X86_OP_INT1, "SVM hypervisors resume it at the instruction, not behind it"},
    {X86_OP_VMCALL, "hypercall"},
    {X86_OP_VMMCALL, "hypercall: reaches the host's hypervisor"},
};

const char *cpu_op_skipped(unsigned op)
{
    for (unsigned i = 0; i < DP_ARRAY_LEN(skipped); i++)
        if (skipped[i].op == op)
            return skipped[i].why;
    return NULL;
}

static bool in_model(const struct x86_cpuid_model *m, const struct x86_insn *i)
{
    return !(i->features & ~m->features[0]) && (i->row->feature == X86_FEATURE_BASE || x86_has(m, i->row->feature));
}

static bool is_gather(unsigned op) { return op >= X86_OP_VGATHERDPS && op <= X86_OP_VPGATHERQQ; }

/* The VEX prefix: rxb as in REX, vvvv the register. Three bytes, or two where that can say the same. */
static unsigned put_vex(uint8_t *p, const struct form *f, unsigned rxb, unsigned vvvv, bool shorter)
{
    unsigned pp = f->prefix == 0x66 ? 1 : f->prefix == 0xf3 ? 2 : f->prefix == 0xf2 ? 3 : 0, low = (~vvvv & 15) << 3 | (unsigned)f->vex_l << 2 | pp;
    if (shorter && f->map == 1 && !f->vex_w && !(rxb & 3)) {
        p[0] = 0xc5;
        p[1] = (uint8_t)((rxb & 4 ? 0 : 0x80) | low);
        return 2;
    }
    p[0] = 0xc4;
    p[1] = (uint8_t)((~rxb & 7) << 5 | f->map);
    p[2] = (uint8_t)((unsigned)f->vex_w << 7 | low);
    return 3;
}

/* prefix, escape, opcode: returns the length. */
static unsigned put_opcode(uint8_t *p, const struct form *f)
{
    static const uint8_t escape[4][2] = {{0}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
    unsigned n = 0;
    for (unsigned i = 0; i < 2 && escape[f->map][i]; i++)
        p[n++] = escape[f->map][i];
    p[n++] = f->opcode;
    return n;
}

static bool is_prefix(enum x86_mode mode, uint8_t b)
{
    switch (b) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
    case 0x66:
    case 0x67:
    case 0xf0:
    case 0xf2:
    case 0xf3:
        return true;
    default:
        return mode == X86_MODE64 && (b & 0xf0) == 0x40;
    }
}

static int add_form(struct cpu_forms *fs, unsigned op, const struct form *f)
{
    struct op_forms *o = &fs->op[op];
    if (o->count == o->capacity) {
        uint32_t capacity = o->capacity ? o->capacity * 2 : 16;
        struct form *list = realloc(o->list, capacity * sizeof *list);
        uint32_t *group = realloc(o->group, capacity * sizeof *group);
        if (list)
            o->list = list;
        if (group)
            o->group = group;
        if (!list || !group)
            return -ENOMEM;
        o->capacity = capacity;
    }
    const struct form *last = o->count ? &o->list[o->count - 1] : NULL;
    if (!last || last->prefix != f->prefix || last->map != f->map || last->opcode != f->opcode || last->vex != f->vex || last->vex_l != f->vex_l)
        o->group[o->groups++] = o->count;
    o->list[o->count++] = *f;
    return 0;
}

/* The form without anything that is left to chance; decodes it. */
static int plain_instance(const struct form *f, enum x86_mode mode, struct x86_insn *insn)
{
    uint8_t bytes[24] = {f->prefix};
    unsigned n = f->prefix && !f->vex ? 1 : 0;
    if (f->vex) {
        bool gather = f->map == 2 && f->opcode >= 0x90 && f->opcode <= 0x93; /* its registers must differ */
        n = put_vex(bytes, f, 0, gather ? 2 : 0, false);
        bytes[n++] = f->opcode;
        bytes[n + 1] = 0x08;
    } else {
        n += put_opcode(bytes + n, f);
    }
    bytes[n] = f->modrm;
    return x86_decode(bytes, 15, mode, insn);
}

static int add_vex_forms(struct cpu_forms *fs)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2};
    for (unsigned i = 0; i < 3 * 256 * 4 * 4 * 256; i++) {
        unsigned modrm = i & 255;
        struct form f = {prefixes[i >> 10 & 3], (uint8_t)(1 + (i >> 20)), (uint8_t)(i >> 12), (uint8_t)modrm, true, i >> 9 & 1, i >> 8 & 1};
        bool gather = f.map == 2 && f.opcode >= 0x90 && f.opcode <= 0x93;
        if (modrm >> 6 == 1 || modrm >> 6 == 2 || (modrm < 0xc0 && (modrm & 7) != (gather ? 4 : 1)))
            continue;
        struct x86_insn insn;
        if (plain_instance(&f, fs->mode, &insn) <= 0 || !in_model(fs->model, &insn) || (!insn.has_modrm && modrm != 1))
            continue;
        if (add_form(fs, insn.op, &f))
            return -ENOMEM;
    }
    return 0;
}

int cpu_forms_create(enum x86_mode mode, const struct x86_cpuid_model *model, struct cpu_forms **out, struct dp_error *e)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2};
    struct cpu_forms *fs = calloc(1, sizeof *fs);
    if (!fs)
        return dp_error_set(e, -ENOMEM, "out of memory");
    fs->mode = mode, fs->model = model;
    for (unsigned map = 0; map < 4; map++)
        for (unsigned opcode = 0; opcode < 256; opcode++) {
            if ((map == 0 && (opcode == 0x0f || is_prefix(mode, (uint8_t)opcode))) || (map == 1 && (opcode == 0x38 || opcode == 0x3a)))
                continue;
            for (unsigned p = 0; p < 4; p++)
                for (unsigned modrm = 0; modrm < 256; modrm++) {
                    if ((modrm >> 6 == 1 || modrm >> 6 == 2) || (modrm < 0xc0 && (modrm & 7) != 1))
                        continue; /* memory is memory: one rm will do */
                    struct form f = {.prefix = prefixes[p], .map = (uint8_t)map, .opcode = (uint8_t)opcode, .modrm = (uint8_t)modrm};
                    struct x86_insn insn;
                    if (plain_instance(&f, mode, &insn) <= 0 || insn.vex)
                        continue;
                    if (!in_model(model, &insn))
                        continue;
                    if (!insn.has_modrm && modrm != 1)
                        continue;
                    if (add_form(fs, insn.op, &f)) {
                        cpu_forms_destroy(fs);
                        return dp_error_set(e, -ENOMEM, "out of memory");
                    }
                }
        }
    if (add_vex_forms(fs)) {
        cpu_forms_destroy(fs);
        return dp_error_set(e, -ENOMEM, "out of memory");
    }
    for (unsigned op = 1; op < X86_OP_COUNT; op++) {
        if (!fs->op[op].count || cpu_op_skipped(op))
            continue;
        struct x86_insn insn;
        bool special = op == X86_OP_LAR ||
                       (op >= X86_OP_FXSAVE && op <= X86_OP_XRSTORS); /* their exceptions to the comparison need a case of their own */
        if (plain_instance(&fs->op[op].list[0], mode, &insn) > 0 && !(insn.row->flags & (X86_F_BRANCH | X86_F_SYSTEM | X86_F_CPL0)) && !special)
            fs->ordinary[fs->ordinary_count++] = (uint16_t)op;
    }
    *out = fs;
    return 0;
}

void cpu_forms_destroy(struct cpu_forms *f)
{
    if (!f)
        return;
    for (unsigned i = 0; i < X86_OP_COUNT; i++)
        free(f->op[i].list), free(f->op[i].group);
    free(f);
}

unsigned cpu_forms_count(const struct cpu_forms *f, unsigned op) { return f->op[op].count; }

/* ---- the world's addresses ---- */

static uint64_t seg_base(const struct cpu_case *c, unsigned seg)
{
    if (c->mode == X86_MODE64 && seg != X86_FS && seg != X86_GS)
        return 0;
    if (seg == X86_FS && !c->in.seg[X86_FS])
        return c->in.fs_base;
    if (seg == X86_GS && !c->in.seg[X86_GS])
        return c->in.gs_base;
    uint64_t d = cpu_descriptor_of(c->in.seg[seg]);
    return (d >> 16 & 0xffffff) | (d >> 56) << 24;
}

/* A linear address for an access of size bytes. */
static uint64_t pick_target(struct dp_random *r, enum x86_mode mode, unsigned size, bool high)
{
    uint64_t t;
    if (!size)
        size = 1;
    unsigned inside = cpu_below(r, size + 1);
    switch (cpu_below(r, 24)) {
    case 0:
    case 1:
        t = CPU_DATA + CPU_RW_SIZE + cpu_below(r, CPU_PAGE - size);
        break; /* read-only */
    case 2:
        t = CPU_DATA + CPU_PAGE - inside;
        break; /* across two pages */
    case 3:
        t = CPU_DATA + CPU_RW_SIZE - inside;
        break; /* into the read-only page */
    case 4:
        t = CPU_DATA + CPU_DATA_SIZE - inside;
        break; /* into the hole behind */
    case 5:
        t = CPU_DATA - inside;
        break; /* out of the hole before */
    case 6:
        t = CPU_DATA + CPU_DATA_SIZE + cpu_below(r, 4096);
        break; /* nothing there */
    case 7:
        t = mode == X86_MODE64 && cpu_one_in(r, 2) ? (1ull << 47) - inside + (cpu_one_in(r, 2) ? 0 : dp_random_next(r) << 40)
                                                   : dp_random_next(r); /* wild */
        return t;
    default:
        t = CPU_DATA + cpu_below(r, CPU_RW_SIZE - DP_MIN(size, 1024u));
        if (!cpu_one_in(r, 4)) /* aligned, as SSE likes it */
            t &= ~(uint64_t)((size == 32 ? 32 : size >= 16 ? 16 : size >= 8 ? 8 : size >= 4 ? 4 : size) - 1);
        if (size > 64 && cpu_one_in(r, 2))
            t &= ~63ull; /* XSAVE */
        break;
    }
    return high && cpu_one_in(r, 3) ? t - CPU_DATA + CPU_HIGH : t;
}

/* Where a linear address lies in the data pages, or -1. */
static int64_t data_offset(uint64_t linear)
{
    if (linear - CPU_DATA < CPU_DATA_SIZE)
        return (int64_t)(linear - CPU_DATA);
    if (linear - CPU_HIGH < CPU_DATA_SIZE)
        return (int64_t)(linear - CPU_HIGH);
    return -1;
}

static uint8_t *patch_at(struct cpu_case *c, uint64_t linear, unsigned size)
{
    int64_t o = data_offset(linear);
    if (o < 0 || c->patch_count == CPU_PATCHES)
        return NULL;
    struct cpu_patch *p = &c->patch[c->patch_count];
    p->offset = (uint32_t)o;
    p->size = (uint32_t)DP_MIN((uint64_t)size, CPU_DATA_SIZE - (uint64_t)o);
    if (p->size < size)
        return NULL;
    c->patch_count++;
    return p->bytes;
}

/* The register's low bits by the address size; above them, rubbish. */
static void set_low(struct dp_random *r, uint64_t *reg, uint64_t value, unsigned size)
{
    uint64_t mask = dp_mask_bytes(size);
    *reg = (value & mask) | (cpu_one_in(r, 2) ? dp_random_next(r) & ~mask : 0);
}

static void set_address(struct dp_random *r, struct cpu_case *c, unsigned reg, unsigned seg, uint64_t linear, unsigned address_size)
{
    set_low(r, &c->in.r[reg], linear - seg_base(c, seg), address_size);
    if (c->mode != X86_MODE64)
        c->in.r[reg] &= 0xffffffff;
}

static void random_segments(struct dp_random *r, struct cpu_case *c)
{
    static const uint8_t data_any[] = {LDT_DATA16, LDT_SHORT, LDT_DOWN16, LDT_DOWN32, LDT_READONLY, LDT_CODE32, LDT_DATA32_BASE};
    static const uint8_t stack_any[] = {LDT_DATA16, LDT_SHORT, LDT_DOWN16, LDT_DOWN32, LDT_DATA32_BASE};
    uint16_t *s = c->in.seg;
    if (c->mode == X86_MODE64) {
        s[X86_CS] = CPU_SEL_CODE64, s[X86_SS] = CPU_SEL_DATA;
        for (unsigned i = 0; i < 2; i++) {
            /* Small enough that offsets from it are canonical too: AMD checks them before it adds the base. */
            uint64_t base = cpu_one_in(r, 2) ? cpu_below(r, 0x10000000) : dp_random_next(r) & 0x1fffffffffff;
            if (cpu_one_in(r, 4))
                base = 0 - base;
            *(i ? &c->in.gs_base : &c->in.fs_base) = cpu_one_in(r, 4) ? 0 : base;
        }
        s[X86_DS] = cpu_one_in(r, 2) ? 0 : CPU_SEL_DATA;
        s[X86_ES] = cpu_one_in(r, 2) ? 0 : CPU_SEL_DATA;
        return;
    }
    bool m16 = c->mode == X86_MODE16;
    s[X86_CS] = m16                ? (cpu_one_in(r, 16) ? CPU_SEL_LDT(LDT_CODE16_SHORT) : CPU_SEL_LDT(LDT_CODE16))
                : cpu_one_in(r, 4) ? CPU_SEL_LDT(LDT_CODE32_BASE)
                                   : CPU_SEL_CODE32;
    uint16_t usual = m16 ? CPU_SEL_LDT(LDT_DATA16) : CPU_SEL_DATA;
    s[X86_SS] = cpu_one_in(r, 5) ? CPU_SEL_LDT(stack_any[cpu_below(r, DP_ARRAY_LEN(stack_any))]) : usual;
    static const uint8_t others[] = {X86_DS, X86_ES, X86_FS, X86_GS};
    for (unsigned i = 0; i < DP_ARRAY_LEN(others); i++) {
        s[others[i]] = cpu_one_in(r, 4) ? CPU_SEL_LDT(data_any[cpu_below(r, DP_ARRAY_LEN(data_any))]) : usual;
        if (cpu_one_in(r, 40))
            s[others[i]] = 0;
    }
}

static unsigned stack_size(const struct cpu_case *c)
{
    if (c->mode == X86_MODE64)
        return 8;
    return cpu_descriptor_of(c->in.seg[X86_SS]) >> 54 & 1 ? 4 : 2;
}

static uint16_t random_selector(struct dp_random *r)
{
    static const uint16_t known[] = {0,    3,    1,    CPU_SEL_DATA, CPU_SEL_CODE32, CPU_SEL_CODE64, 0x10, 0x18, 0x13, 0x1b, 0x28,
                                     0x29, 0x08, 0x40, 0x43,         0x48,           0x50,           0x53, 0x63, 0x80, 0x38};
    switch (cpu_below(r, 4)) {
    case 0:
        return known[cpu_below(r, DP_ARRAY_LEN(known))];
    case 1:
        return (uint16_t)dp_random_next(r);
    default:
        return (uint16_t)(cpu_below(r, LDT_COUNT + 1) << 3 | 4 | (cpu_one_in(r, 4) ? cpu_below(r, 4) : 3));
    }
}

static uint64_t random_code_offset(struct dp_random *r, const struct cpu_case *c)
{
    if (cpu_one_in(r, 8))
        return cpu_random_int(r);
    return CPU_CODE + cpu_below(r, CPU_CODE_SIZE) - seg_base(c, X86_CS);
}

/* Registers and FPU before the instruction is known. */
static void random_state(struct dp_random *r, struct cpu_case *c)
{
    for (unsigned i = 0; i < 16; i++)
        c->in.r[i] = cpu_one_in(r, 4) ? pick_target(r, c->mode, 8, c->mode == X86_MODE64) : cpu_random_int(r);
    random_segments(r, c);
    set_address(r, c, X86_RSP, X86_SS,
                cpu_one_in(r, 12) ? pick_target(r, c->mode, 8, true)
                                  : CPU_DATA + 64 + (cpu_below(r, CPU_RW_SIZE - 512) & ~7ull) + (cpu_one_in(r, 6) ? cpu_below(r, 8) : 0),
                stack_size(c));
    if (c->mode == X86_MODE64)
        c->in.r[X86_RSP] = cpu_one_in(r, 12)
                               ? pick_target(r, c->mode, 8, true)
                               : CPU_DATA + 64 + (cpu_below(r, CPU_RW_SIZE - 512) & ~7ull) + (cpu_one_in(r, 6) ? cpu_below(r, 8) : 0);
    c->in.rflags = 0x202 | (dp_random_next(r) & X86_ARITH) | (cpu_one_in(r, 4) ? X86_DF : 0) | (cpu_one_in(r, 50) ? X86_TF : 0) |
                   (cpu_one_in(r, 50) ? X86_AC : 0);
    cpu_random_fx(r, c->in.fx);
    if (!cpu_one_in(r, 4))
        for (unsigned i = 0; i < 16; i++)
            cpu_random_vector(r, c->in.ymm_high[i]);
    if (c->mode != X86_MODE64) /* 32-bit code never sees them, but they must survive: keep them as the entry leaves them */
        for (unsigned i = 0; i < 16; i++)
            c->in.r[i] = i < 8 ? c->in.r[i] & 0xffffffff : c->in.r[i];
}

/* ---- one instruction ---- */

struct draft {
    uint8_t bytes[32];
    unsigned size, vex_at /* its end */, opcode_at, modrm_at, disp_at, disp_size;
};

static bool draft_bytes(struct dp_random *r, enum x86_mode mode, const struct form *f, bool absolute, uint32_t row_flags, bool has_modrm,
                        struct draft *d)
{
    uint8_t prefix[8];
    unsigned n = 0;
    bool p67 = cpu_one_in(r, 8), p66 = f->prefix == 0x66;
    if (f->prefix && !f->vex)
        prefix[n++] = f->prefix;
    if (!p66 && !f->vex && cpu_one_in(r, f->prefix ? 16 : 4))
        prefix[n++] = 0x66;
    if (p67)
        prefix[n++] = 0x67;
    if (cpu_one_in(r, 8)) {
        static const uint8_t seg[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
        prefix[n++] = seg[cpu_one_in(r, 2) ? 4 + cpu_below(r, 2) : cpu_below(r, 6)];
    }
    if (cpu_one_in(r, row_flags & X86_F_LOCK ? 4 : 100) && !f->vex)
        prefix[n++] = 0xf0;
    if (f->prefix != 0xf2 && f->prefix != 0xf3 && !f->vex && cpu_one_in(r, row_flags & X86_F_REP ? 2 : 40))
        prefix[n++] = cpu_one_in(r, 2) ? 0xf2 : 0xf3;
    for (unsigned i = n; i > 1; i--) { /* any order */
        unsigned j = (unsigned)cpu_below(r, i);
        uint8_t t = prefix[i - 1];
        prefix[i - 1] = prefix[j], prefix[j] = t;
    }
    memcpy(d->bytes, prefix, n);
    unsigned size = n;
    if (f->vex) {
        unsigned rxb = mode == X86_MODE64 ? (unsigned)cpu_below(r, 8) : cpu_one_in(r, 4); /* R and X must be as in LES and LDS there */
        size += put_vex(d->bytes + size, f, rxb, (unsigned)cpu_below(r, mode == X86_MODE64 ? 16 : 8), cpu_one_in(r, 2));
        d->vex_at = size;
    } else if (mode == X86_MODE64 && cpu_one_in(r, 2))
        d->bytes[size++] = (uint8_t)(0x40 | (cpu_one_in(r, 2) ? 0x8 : 0) | cpu_below(r, 8));
    d->opcode_at = size;
    if (f->vex)
        d->bytes[size++] = f->opcode;
    else
        size += put_opcode(d->bytes + size, f);
    d->modrm_at = d->disp_at = size;
    d->disp_size = 0;
    if (has_modrm) {
        unsigned mod = f->modrm >> 6, rm = f->modrm & 7;
        unsigned address_size = mode == X86_MODE64 ? (p67 ? 4 : 8) : (mode == X86_MODE32) != p67 ? 4 : 2;
        if (mod != 3) {
            bool gather = f->vex && rm == 4;
            mod = (unsigned)cpu_below(r, 3), rm = gather ? 4 : (unsigned)cpu_below(r, 8);
            if (absolute && !gather)
                mod = 0, rm = address_size == 2 ? 6 : 5;
        }
        d->bytes[size++] = (uint8_t)(mod << 6 | (f->modrm & 0x38) | rm);
        bool sib5 = false;
        if (mod != 3 && rm == 4 && address_size != 2) {
            uint8_t sib = (uint8_t)dp_random_next(r);
            sib5 = (sib & 7) == 5;
            d->bytes[size++] = sib;
        }
        d->disp_at = size;
        if (mod == 1)
            d->disp_size = 1;
        else if (mod == 2)
            d->disp_size = address_size == 2 ? 2 : 4;
        else if (mod == 0 && address_size == 2 && rm == 6)
            d->disp_size = 2;
        else if (mod == 0 && address_size != 2 && (rm == 5 || sib5))
            d->disp_size = 4;
        uint64_t disp = cpu_one_in(r, 2) ? cpu_random_int(r) : cpu_below(r, 256) - 128;
        memcpy(d->bytes + size, &disp, d->disp_size);
        size += d->disp_size;
    }
    d->size = size;
    uint64_t imm = cpu_random_int(r), imm2 = dp_random_next(r);
    memcpy(d->bytes + size, &imm, 8);
    memcpy(d->bytes + size + 8, &imm2, 8);
    return size <= 15;
}

/* Makes the memory operand's address linear (nearly, where scaling rounds); false when the bytes had to change and must be decoded again.
 */
static void aim(struct dp_random *r, struct cpu_case *c, const struct x86_insn *i, uint8_t *bytes, const struct draft *d, uint64_t linear,
                uint64_t next_rip)
{
    unsigned as = i->address_size;
    uint64_t offset = linear - seg_base(c, i->seg), rest = offset - (uint64_t)i->disp;
    if (i->base == X86_RIP) {
        uint32_t disp = (uint32_t)(offset - next_rip);
        memcpy(bytes + d->disp_at, &disp, 4);
    } else if (i->base == X86_ZERO && i->index == X86_ZERO) {
        if (d->disp_size)
            memcpy(bytes + d->disp_at, &offset, d->disp_size);
        else if (!i->has_modrm) /* moffs */
            memcpy(bytes + d->modrm_at, &offset, as);
    } else if (i->base == i->index) {
        set_low(r, &c->in.r[i->base], (rest & dp_mask_bytes(as)) / (1 + (1u << i->scale)), as);
    } else if (i->base == X86_ZERO) {
        set_low(r, &c->in.r[i->index], (rest & dp_mask_bytes(as)) >> i->scale, as);
    } else {
        uint64_t index = i->index == X86_ZERO ? 0 : c->in.r[i->index] << i->scale;
        set_low(r, &c->in.r[i->base], rest - index, as);
    }
    if (c->mode != X86_MODE64)
        for (unsigned k = 0; k < 8; k++)
            c->in.r[k] &= 0xffffffff;
}

/* A gather's base makes linear, its indices stay near; the mask chooses some. */
static void aim_gather(struct dp_random *r, struct cpu_case *c, const struct x86_insn *i, uint8_t *bytes, const struct draft *d, uint64_t linear)
{
    uint64_t offset = linear - seg_base(c, i->seg);
    unsigned vvvv = i->vvvv & (c->mode == X86_MODE64 ? 15 : 7), index_size = i->opcode & 1 ? 8 : 4;
    if (i->base == X86_ZERO)
        memcpy(bytes + d->disp_at, &offset, d->disp_size);
    else
        set_low(r, &c->in.r[i->base], offset - (uint64_t)i->disp, i->address_size);
    if (c->mode != X86_MODE64)
        for (unsigned k = 0; k < 8; k++)
            c->in.r[k] &= 0xffffffff;
    bool wild = cpu_one_in(r, 8);
    for (unsigned k = 0; k < 32 / index_size; k++) {
        int64_t v = wild && cpu_one_in(r, 8) ? (int64_t)cpu_random_int(r) : (int64_t)cpu_below(r, 512) - 256;
        uint8_t *half = k * index_size < 16 ? c->in.fx + FX_XMM + i->index * 16 : c->in.ymm_high[i->index];
        memcpy(half + k * index_size % 16, &v, index_size);
    }
    if (cpu_one_in(r, 2))
        for (unsigned k = 0; k < 32; k++) /* all of them */
            (k < 16 ? c->in.fx + FX_XMM + vvvv * 16 : c->in.ymm_high[vvvv])[k % 16] |= 0x80;
}

static uint64_t effective(const struct cpu_case *c, const struct x86_insn *i, uint64_t next_rip)
{
    uint64_t v = (uint64_t)i->disp;
    v += i->base == X86_RIP ? next_rip : i->base < 16 ? c->in.r[i->base] : 0;
    v += i->index < 16 ? c->in.r[i->index] << i->scale : 0;
    v &= dp_mask_bytes(i->address_size);
    v += seg_base(c, i->seg);
    return c->mode == X86_MODE64 ? v : v & 0xffffffff;
}

static const struct x86_operand *memory_operand(const struct x86_insn *i)
{
    for (unsigned k = 0; k < i->operand_count; k++)
        if (i->operand[k].kind == X86_MEM)
            return &i->operand[k];
    return NULL;
}

static unsigned memory_size(const struct x86_insn *i, const struct x86_operand *m)
{
    if (m->size)
        return m->size;
    switch (i->op) {
    case X86_OP_FXSAVE:
    case X86_OP_FXRSTOR:
        return 512;
    case X86_OP_XSAVE:
    case X86_OP_XRSTOR:
    case X86_OP_XSAVEOPT:
    case X86_OP_XSAVEC:
        return 832;
    case X86_OP_FNSAVE:
    case X86_OP_FRSTOR:
        return i->operand_size == 2 ? 94 : 108;
    case X86_OP_FNSTENV:
    case X86_OP_FLDENV:
        return i->operand_size == 2 ? 14 : 28;
    default:
        return 16;
    }
}

/* Accesses that are many, in an order and with checks of the processor's choice. */
static bool memory_shape(const struct x86_insn *i, const struct x86_operand *m)
{
    switch (i->op) {
    case X86_OP_RET_FAR:
    case X86_OP_CALL_FAR:
    case X86_OP_IRET:
    case X86_OP_ENTER:
    case X86_OP_PUSHA:
    case X86_OP_POPA:
        return true;
    default:
        return m && memory_size(i, m) > 16 - 6;
    }
}

/* Not into 64-bit code from elsewhere: AMD pushes with the new segment's rules, so without the stack's base. */
static uint16_t far_selector(struct dp_random *r, const struct cpu_case *c)
{
    uint16_t s = cpu_one_in(r, 2) ? c->in.seg[X86_CS] : random_selector(r);
    return c->mode != X86_MODE64 && (s & ~3) == (CPU_SEL_CODE64 & ~3) ? CPU_SEL_CODE32 : s;
}

/* What the memory operand holds before. */
static void fill_memory(struct dp_random *r, struct cpu_case *c, const struct x86_insn *i, const struct x86_operand *m, uint64_t linear)
{
    unsigned size = memory_size(i, m);
    uint8_t *p = patch_at(c, linear, DP_MAX(size, 16u));
    if (!p)
        return;
    switch (i->op) {
    case X86_OP_FXRSTOR:
    case X86_OP_XRSTOR:
        cpu_random_fx(r, p);
        cpu_random_bytes(r, p + FX_END, 512 - FX_END);
        if (cpu_one_in(r, 16))
            dp_st32(p + FX_MXCSR, (uint32_t)dp_random_next(r) & ~0x20000u); /* MXCSR.MM is AMD's own */
        dp_st32(p + FX_MXCSR_MASK, (uint32_t)dp_random_next(r));
        dp_st64(p + FX_FIP, dp_random_next(r) & (c->mode == X86_MODE64 && i->rex_w ? 0x7fffffffffff : 0xffffffff));
        dp_st64(p + FX_FDP, dp_random_next(r) & (c->mode == X86_MODE64 && i->rex_w ? 0x7fffffffffff : 0xffffffff));
        if (i->op == X86_OP_XRSTOR) {
            memset(p + 512, 0, 64);
            p[512] = (uint8_t)cpu_below(r, 8);
            if (cpu_one_in(r, 2)) { /* compacted: what is there must be in the format */
                p[520] = (uint8_t)(p[512] | cpu_below(r, 8));
                p[527] = 0x80;
            }
            if (cpu_one_in(r, 16)) {
                unsigned at = (unsigned)cpu_below(r, 64), bit = (unsigned)cpu_below(r, 8);
                if ((at & ~8u) || bit < 5) /* components that only the host has */
                    p[512 + at] |= (uint8_t)(1u << bit);
            }
            for (unsigned k = 576; k < size; k += 16)
                cpu_random_vector(r, p + k);
        }
        break;
    case X86_OP_FLDENV:
    case X86_OP_FRSTOR: {
        uint8_t fx[512];
        cpu_random_fx(r, fx);
        cpu_random_bytes(r, p, size);
        unsigned step = i->operand_size == 2 ? 2 : 4;
        memcpy(p, fx + FX_FCW, 2);
        memcpy(p + step, fx + FX_FSW, 2);
        if (cpu_one_in(r, 2))
            dp_st16(p + 2 * step, (uint16_t)(cpu_one_in(r, 2) ? 0 : 0xffff));
        for (unsigned k = 0; i->op == X86_OP_FRSTOR && k < 8; k++)
            memcpy(p + 7 * step + k * 10, fx + FX_ST + k * 16, 10);
        break;
    }
    case X86_OP_LDMXCSR:
    case X86_OP_VLDMXCSR:
        dp_st32(p, (uint32_t)dp_random_next(r) & (cpu_one_in(r, 4) ? ~0x20000u : 0xffff));
        break;
    case X86_OP_FBLD:
        for (unsigned k = 0; k < 10; k++)
            p[k] = cpu_one_in(r, 16) ? (uint8_t)dp_random_next(r) : (uint8_t)(cpu_below(r, 10) << 4 | cpu_below(r, 10));
        break;
    case X86_OP_JMP:
    case X86_OP_CALL:
    case X86_OP_JMP_FAR:
    case X86_OP_CALL_FAR: {
        uint64_t v = random_code_offset(r, c);
        memcpy(p, &v, 8);
        if (i->op == X86_OP_JMP_FAR || i->op == X86_OP_CALL_FAR)
            dp_st16(p + (i->operand_size == 2 ? 2 : 4), far_selector(r, c));
        break;
    }
    case X86_OP_MOV_SEG:
    case X86_OP_LAR:
    case X86_OP_LSL:
    case X86_OP_VERR:
    case X86_OP_VERW:
    case X86_OP_ARPL:
        dp_st16(p, random_selector(r));
        break;
    case X86_OP_LDS:
    case X86_OP_LES:
    case X86_OP_LSS:
    case X86_OP_LFS:
    case X86_OP_LGS:
        cpu_random_bytes(r, p, 8);
        dp_st16(p + i->operand_size, random_selector(r));
        break;
    default:
        if (m->size == 10) {
            cpu_random_ext(r, p);
        } else if (size <= 8 && !(i->row->flags & (X86_F_X87 | X86_F_SSE))) {
            uint64_t v = cpu_random_int(r);
            memcpy(p, &v, 8);
        } else {
            cpu_random_vector(r, p);
        }
        for (unsigned k = 16; k + 16 <= size && k < 64; k += 16)
            cpu_random_vector(r, p + k);
        break;
    }
}

static uint64_t stack_linear(const struct cpu_case *c, unsigned reg)
{
    uint64_t v = (c->in.r[reg] & dp_mask_bytes(stack_size(c))) + seg_base(c, X86_SS);
    return c->mode == X86_MODE64 ? v : v & 0xffffffff;
}

/* Operands that are in no ModRM. */
static void arrange_implied(struct dp_random *r, struct cpu_case *c, const struct x86_insn *i)
{
    uint64_t *reg = c->in.r;
    bool high = c->mode == X86_MODE64 && i->address_size == 8;
    unsigned seg = i->seg_override < X86_SEGS ? i->seg_override : X86_DS;
    uint8_t *p;
    uint64_t v;
    switch (i->op) {
    case X86_OP_MOVS:
    case X86_OP_CMPS:
    case X86_OP_STOS:
    case X86_OP_LODS:
    case X86_OP_SCAS:
    case X86_OP_INS:
    case X86_OP_OUTS:
        set_address(r, c, X86_RSI, seg, pick_target(r, c->mode, i->operand_size, high), i->address_size);
        set_address(r, c, X86_RDI, X86_ES, pick_target(r, c->mode, i->operand_size, high), i->address_size);
        if ((i->op == X86_OP_INS || i->op == X86_OP_OUTS) && (i->rep || i->repne))
            set_low(r, &reg[X86_RCX], 1 + cpu_below(r, 10), i->address_size); /* with 0 AMD still checks for #GP, SDM's REP does nothing */
        else if (i->rep || i->repne)
            set_low(r, &reg[X86_RCX], cpu_one_in(r, 8) ? cpu_random_int(r) : cpu_below(r, cpu_one_in(r, 4) ? 500 : 10), i->address_size);
        if (cpu_one_in(r, 2)) { /* equal stretches for CMPS and SCAS */
            v = cpu_below(r, 256) * 0x0101010101010101ull;
            reg[X86_RAX] = v;
            for (unsigned k = 0; k < 2; k++)
                if ((p = patch_at(c, (reg[k ? X86_RSI : X86_RDI] & dp_mask_bytes(i->address_size)) + seg_base(c, k ? seg : X86_ES), 64)))
                    memset(p, (int)(v & 0xff), cpu_below(r, 64));
        }
        break;
    case X86_OP_XLAT:
        set_address(r, c, X86_RBX, seg, pick_target(r, c->mode, 1, high), i->address_size);
        break;
    case X86_OP_MASKMOVQ:
    case X86_OP_MASKMOVDQU:
    case X86_OP_VMASKMOVDQU:
        set_address(r, c, X86_RDI, seg, pick_target(r, c->mode, 16, high), i->address_size);
        break;
    case X86_OP_LEAVE:
    case X86_OP_ENTER:
        set_address(r, c, X86_RBP, X86_SS, pick_target(r, c->mode, 8, false), stack_size(c));
        break;
    case X86_OP_LOOP:
    case X86_OP_LOOPE:
    case X86_OP_LOOPNE:
    case X86_OP_JCXZ:
        set_low(r, &reg[X86_RCX], cpu_below(r, 3), i->address_size);
        break;
    case X86_OP_DIV:
    case X86_OP_IDIV:
        if (cpu_one_in(r, 4))
            break;
        if (i->operand[0].size == 1)
            dp_st16(&reg[X86_RAX], i->op == X86_OP_DIV ? (uint16_t)cpu_below(r, 512) : (uint16_t)(int8_t)dp_random_next(r));
        else if (i->op == X86_OP_IDIV)
            reg[X86_RDX] = (uint64_t)((int64_t)(i->operand[0].size == 8   ? reg[X86_RAX]
                                                : i->operand[0].size == 4 ? (uint64_t)(int32_t)reg[X86_RAX]
                                                                          : (uint64_t)(int16_t)reg[X86_RAX]) >>
                                      63);
        else
            reg[X86_RDX] = cpu_below(r, 4) ? 0 : cpu_below(r, 4096);
        break;
    case X86_OP_RET:
    case X86_OP_POPF:
    case X86_OP_POP_SEG:
    case X86_OP_POP:
    case X86_OP_RET_FAR:
    case X86_OP_IRET:
        if (!(p = patch_at(c, stack_linear(c, X86_RSP), 64)))
            break;
        cpu_random_bytes(r, p, 64);
        v = random_code_offset(r, c);
        unsigned w = i->operand_size;
        if (i->op == X86_OP_POPF)
            v = dp_random_next(r) & ~(cpu_one_in(r, 8) ? 0ull : (uint64_t)X86_TF);
        else if (i->op == X86_OP_POP_SEG)
            v = random_selector(r);
        memcpy(p, &v, w);
        if (i->op == X86_OP_RET_FAR || i->op == X86_OP_IRET) {
            v = cpu_one_in(r, 2) ? c->in.seg[X86_CS] : random_selector(r) | 3u; /* RPL < CPL: AMD reads the outer stack before it refuses */
            memcpy(p + w, &v, 2);
            if (i->op == X86_OP_IRET) {
                v = dp_random_next(r) & 0x244dd5; /* no TF, IF, NT mostly */
                memcpy(p + 2 * w, &v, w);
                v = c->in.r[X86_RSP] + 64;
                memcpy(p + 3 * w, &v, w);
                v = cpu_one_in(r, 2) ? c->in.seg[X86_SS] : random_selector(r);
                memcpy(p + 4 * w, &v, 2);
            }
        }
        break;
    case X86_OP_PCMPESTRM:
    case X86_OP_PCMPESTRI:
    case X86_OP_VPCMPESTRM:
    case X86_OP_VPCMPESTRI:
        if (!cpu_one_in(r, 4))
            reg[X86_RAX] = cpu_below(r, 36) - 18, reg[X86_RDX] = cpu_below(r, 36) - 18;
        break;
    case X86_OP_XSAVE:
    case X86_OP_XRSTOR:
    case X86_OP_XSAVEOPT:
    case X86_OP_XSAVEC:
        reg[X86_RAX] &= 7, reg[X86_RDX] = 0; /* the host's XCR0 has more than ours */
        break;
    default:
        break;
    }
}

/* Operands in registers that want likely values. */
static void arrange_registers(struct dp_random *r, struct cpu_case *c, const struct x86_insn *i, uint64_t linear)
{
    uint64_t *reg = c->in.r;
    const struct x86_operand *o = i->operand;
    switch (i->op) {
    case X86_OP_BT:
    case X86_OP_BTS:
    case X86_OP_BTR:
    case X86_OP_BTC:
        if (o[0].kind == X86_MEM && o[1].kind == X86_REG && o[1].reg != i->base && o[1].reg != i->index && !cpu_one_in(r, 8))
            set_low(r, &reg[o[1].reg], cpu_below(r, 4096) - 2048, i->operand_size);
        break;
    case X86_OP_MOV_SEG:
    case X86_OP_LAR:
    case X86_OP_LSL:
    case X86_OP_VERR:
    case X86_OP_VERW:
    case X86_OP_ARPL:
        for (unsigned k = 0; k < i->operand_count; k++)
            if (o[k].kind == X86_REG && o[k].reg_class == X86_RC_GPR && o[k].reg != X86_RSP && !(memory_operand(i)))
                dp_st16(&reg[o[k].reg], random_selector(r));
        break;
    case X86_OP_JMP:
    case X86_OP_CALL:
        if (o[0].kind == X86_REG)
            reg[o[0].reg] = random_code_offset(r, c);
        break;
    case X86_OP_SHLD:
    case X86_OP_SHRD:
        if (i->operand_size == 2) /* more than 16: result undefined (SDM vol. 2, SHLD) */
            reg[X86_RCX] &= ~0x10ull;
        break;
    case X86_OP_CMPXCHG:
    case X86_OP_CMPXCHG8B:
    case X86_OP_CMPXCHG16B:
        if (cpu_one_in(r, 2)) {
            int64_t at = data_offset(linear);
            if (o[0].kind == X86_REG) {
                reg[X86_RAX] = o[0].reg_class == X86_RC_GPR8H ? reg[o[0].reg] >> 8 : reg[o[0].reg];
            } else if (at >= 0 && c->patch_count && c->patch[c->patch_count - 1].offset == (uint32_t)at) {
                const uint8_t *m = c->patch[c->patch_count - 1].bytes;
                unsigned half = i->op == X86_OP_CMPXCHG8B ? 4 : 8;
                if (i->base != X86_RAX && i->index != X86_RAX)
                    memcpy(&reg[X86_RAX], m, half);
                if (i->op != X86_OP_CMPXCHG && i->base != X86_RDX && i->index != X86_RDX)
                    memcpy(&reg[X86_RDX], m + half, half);
            }
        }
        break;
    default:
        break;
    }
}

/* Encodings that the host and the model take differently, by manual or by processor: (op, condition) named here. */
static bool host_differs(const struct cpu_case *c, const struct x86_insn *i, const uint8_t *bytes)
{
    switch (i->op) {
    case X86_OP_INT:
        return (i->imm & 0xff) == 0x80 && true; /* Linux's own gate: a system call */
    case X86_OP_LOOPE:
    case X86_OP_LOOPNE:
        for (unsigned k = 0; k < i->length && bytes[k] != i->opcode; k++)
            if (bytes[k] == 0xf2 || bytes[k] == 0xf3)
                return true; /* AMD: the prefix's condition wins over the opcode's */
            else if (bytes[k] == 0x66 && c->mode == X86_MODE64)
                return true; /* see below */
        return false;
    case X86_OP_NOP:
        return i->opcode == 0x0d && i->mod == 3; /* PREFETCHW of a register: NOP on Intel, #UD on AMD */
    case X86_OP_MOVSXD:
        return i->operand_size == 2; /* AMD reads 32 bits of memory all the same */
    case X86_OP_BSF:
    case X86_OP_BSR:
        return i->rep; /* F3 makes it TZCNT or LZCNT on the host */
    case X86_OP_JMP:
    case X86_OP_CALL:
    case X86_OP_RET:
    case X86_OP_JCC:
    case X86_OP_LOOP:
    case X86_OP_JCXZ:
        if (c->mode == X86_MODE64) /* operand size 16: AMD truncates RIP, Intel ignores it (SDM vol. 2, CALL) */
            for (unsigned k = 0; k < i->length && bytes[k] != i->opcode; k++)
                if (bytes[k] == 0x66)
                    return true;
        return false;
    case X86_OP_SHLD:
    case X86_OP_SHRD:
        return i->operand_size == 2 && (i->operand[2].kind == X86_IMM ? (i->imm & 31) > 16 : i->base == X86_RCX || i->index == X86_RCX);
    case X86_OP_XSAVE:
    case X86_OP_XRSTOR:
    case X86_OP_XSAVEOPT:
    case X86_OP_XSAVEC: /* EDX:EAX must ask for nothing that only the host has */
        return i->base == X86_RAX || i->base == X86_RDX || i->index == X86_RAX || i->index == X86_RDX;
    case X86_OP_VPEXTRD:
    case X86_OP_VPINSRD:
        return i->vex_w && c->mode != X86_MODE64; /* #UD on AMD; on Intel VEX.W counts only in 64-bit mode */
    case X86_OP_CALL_FAR:
        if (c->mode == X86_MODE64 && i->base == X86_RSP)
            return true; /* wants RSP below 4 GiB, see one_insn */
        if (i->operand[0].kind == X86_FAR && (i->imm2 & 0xfffc) == (CPU_SEL_CODE64 & ~3))
            return true; /* see far_selector */
        return i->rex_w;
    case X86_OP_JMP_FAR:
    case X86_OP_LSS:
    case X86_OP_LFS:
    case X86_OP_LGS:
        return i->rex_w; /* AMD has no m16:64 (APM vol. 3) */
    default:
        return false;
    }
}

static bool one_insn(struct dp_random *r, const struct cpu_forms *fs, unsigned op, bool absolute, struct cpu_case *c, struct x86_insn *insn)
{
    const struct op_forms *o = &fs->op[op];
    if (!o->count)
        return false;
    for (unsigned attempt = 0; attempt < 30; attempt++) {
        unsigned g = (unsigned)cpu_below(r, o->groups);
        uint32_t first = o->group[g], end = g + 1 < o->groups ? o->group[g + 1] : o->count;
        const struct form *f = &o->list[first + cpu_below(r, end - first)];
        if (plain_instance(f, fs->mode, insn) <= 0)
            continue;
        struct draft d;
        if (!draft_bytes(r, fs->mode, f, absolute, insn->row->flags, insn->has_modrm, &d))
            continue;
        int length = x86_decode(d.bytes, 15, fs->mode, insn);
        if (length <= 0 && f->vex) { /* perhaps it has no such operand */
            d.bytes[d.vex_at - 1] |= 0x78;
            length = x86_decode(d.bytes, 15, fs->mode, insn);
        }
        if (length <= 0 || insn->op != op || insn->vex != f->vex || !in_model(fs->model, insn) || host_differs(c, insn, d.bytes))
            continue;
        if ((op == X86_OP_UD0 || op == X86_OP_UD1) && (c->code_offset & (CPU_PAGE - 1)) + 16 > CPU_PAGE)
            return false; /* whether they have a ModRM to be fetched depends on the processor */
        uint64_t next_rip = c->in.rip + c->code_size + (unsigned)length;
        const struct x86_operand *m = memory_operand(insn);
        bool string = insn->row->flags & X86_F_REP;
        uint64_t linear = 0;
        arrange_implied(r, c, insn);
        if (op == X86_OP_CALL_FAR && fs->mode == X86_MODE64)
            c->in.r[X86_RSP] = CPU_DATA + 64 + (cpu_below(r, CPU_RW_SIZE - 512) & ~7ull); /* into compatibility mode: AMD pushes with ESP */
        if (memory_shape(insn, m) != 0)
            c->in.rflags &= ~(uint64_t)X86_AC; /* #AC or #GP, and for which parts, is the processor's choice (SDM vol. 2, FXSAVE) */
        if (is_gather(op)) {
            aim_gather(r, c, insn, d.bytes, &d, pick_target(r, fs->mode, m->size, fs->mode == X86_MODE64));
        } else if (m && !string && op != X86_OP_VMASKMOVDQU && op != X86_OP_XLAT && op != X86_OP_MASKMOVQ && op != X86_OP_MASKMOVDQU) {
            aim(r, c, insn, d.bytes, &d, pick_target(r, fs->mode, memory_size(insn, m), fs->mode == X86_MODE64), next_rip);
            if (x86_decode(d.bytes, 15, fs->mode, insn) != length)
                continue;
            linear = effective(c, insn, next_rip);
            fill_memory(r, c, insn, m, linear);
        }
        arrange_registers(r, c, insn, linear);
        if (insn->operand_count && insn->operand[0].kind == X86_REL) { /* no loop onto itself */
            uint64_t target = (next_rip + insn->imm) & (fs->mode == X86_MODE64 ? ~0ull : insn->operand_size == 2 ? 0xffff : 0xffffffff);
            if (target >= c->in.rip && target < next_rip)
                continue;
        }
        memcpy(c->code + c->code_size, d.bytes, (unsigned)length);
        c->insn_at[c->insn_count++] = c->code_size;
        c->code_size += (uint8_t)length;
        return true;
    }
    return false;
}

static void place_code(struct dp_random *r, struct cpu_case *c)
{
    switch (cpu_below(r, 16)) {
    case 0:
    case 1:
        c->code_offset = CPU_PAGE - 1 - (uint32_t)cpu_below(r, 8);
        break; /* across the two pages */
    case 2:
        c->code_offset = CPU_CODE_SIZE - 1 - (uint32_t)cpu_below(r, 10);
        break; /* into the hole */
    case 3:
        if (c->in.seg[X86_CS] == CPU_SEL_LDT(LDT_CODE16_SHORT)) {
            c->code_offset = CPU_PAGE - 1 - (uint32_t)cpu_below(r, 8); /* into the segment's limit */
            break;
        } /* fallthrough */
    default:
        c->code_offset = 64 + (uint32_t)cpu_below(r, CPU_CODE_SIZE - 2 * CPU_MAX_CODE - 64);
        break;
    }
    if (c->in.seg[X86_CS] == CPU_SEL_LDT(LDT_CODE16_SHORT)) /* the host's IRET refuses an IP beyond the limit by itself */
        c->code_offset &= CPU_PAGE - 1;
    c->in.rip = CPU_CODE + c->code_offset - seg_base(c, X86_CS);
}

static void start_case(struct dp_random *r, const struct cpu_forms *fs, uint64_t seed, unsigned op, uint64_t index, struct cpu_case *c)
{
    dp_random_seed(r, seed * 0x9e3779b97f4a7c15ull ^ (uint64_t)op << 48 ^ (uint64_t)fs->mode << 44 ^ index * 0xd1342543de82ef95ull);
    c->seed = seed, c->index = index, c->op = (uint16_t)op, c->mode = (uint8_t)fs->mode;
    c->patch_count = 0, c->insn_count = 0, c->code_size = 0, c->fetch_fault = 0;
    memset(&c->in, 0, sizeof c->in);
    random_state(r, c);
    place_code(r, c);
}

/* What reaches over the code pages cannot be written there: the fetch faults. */
static void clip_code(struct cpu_case *c)
{
    if (c->code_offset + c->code_size > CPU_CODE_SIZE) {
        c->fetch_fault = 1;
        c->code_size = (uint8_t)(CPU_CODE_SIZE - c->code_offset);
    }
}

bool cpu_generate(const struct cpu_forms *fs, unsigned op, uint64_t seed, uint64_t index, struct cpu_case *c)
{
    struct dp_random r;
    struct x86_insn insn;
    start_case(&r, fs, seed, op, index, c);
    if (!one_insn(&r, fs, op, false, c, &insn))
        return false;
    clip_code(c);
    return true;
}

bool cpu_generate_sequence(const struct cpu_forms *fs, uint64_t seed, uint64_t index, struct cpu_case *c)
{
    struct dp_random r;
    start_case(&r, fs, seed, X86_OP_COUNT, index, c);
    c->in.rflags &= ~(uint64_t)(X86_TF | X86_AC);
    unsigned count = 2 + (unsigned)cpu_below(&r, CPU_MAX_INSNS - 1);
    uint32_t tainted = 0;
    bool branches = cpu_one_in(&r, 3), branched = false; /* forwards only: they end */
    uint8_t branch[CPU_MAX_INSNS] = {0};
    for (unsigned attempt = 0; attempt < 100 && c->insn_count < count; attempt++) {
        struct x86_insn insn;
        struct cpu_case before = *c;
        if (branches && c->insn_count && c->insn_count + 1u < count && cpu_one_in(&r, 3)) {
            uint8_t jump[2] = {cpu_one_in(&r, 4) ? 0xeb : (uint8_t)(0x70 + cpu_below(&r, 16)), 0};
            if (x86_decode(jump, 2, fs->mode, &insn) != 2 || insn.row->flags_read & tainted)
                continue;
            memcpy(c->code + c->code_size, jump, 2);
            branch[c->insn_count] = 1;
            c->insn_at[c->insn_count++] = c->code_size;
            c->code_size += 2;
            branched = true;
            continue;
        }
        if (!one_insn(&r, fs, fs->ordinary[cpu_below(&r, fs->ordinary_count)], cpu_one_in(&r, 2), c, &insn))
            continue;
        if ((insn.row->flags_read & tainted) || c->code_size > CPU_MAX_CODE - 16) {
            *c = before; /* would read what the manual leaves open */
            continue;
        }
        if (!cpu_flags_may_stay(&insn) && !branched)
            tainted &= ~insn.row->flags_written;
        tainted |= insn.row->flags_undefined;
    }
    for (unsigned k = 0; k < c->insn_count; k++)
        if (branch[k]) {
            unsigned to = k + 1 + (unsigned)cpu_below(&r, c->insn_count - k);
            unsigned target = to < c->insn_count ? c->insn_at[to] : c->code_size;
            c->code[c->insn_at[k] + 1] = (uint8_t)(target - (c->insn_at[k] + 2u));
        }
    clip_code(c);
    return c->insn_count > 1;
}

/* Encodings the decoder does not know (nor the model have) but the host may. */
static bool host_only(const struct form *f)
{
    switch (f->map) {
    case 0:
        return f->opcode == 0xc4 || f->opcode == 0xc5 || f->opcode == 0x62; /* VEX, EVEX */
    case 1:
        return (f->opcode == 0x01 && f->modrm >= 0xc0) || f->opcode == 0x2b || f->opcode == 0x78 || f->opcode == 0x79 ||
               f->opcode == 0xc7 || f->opcode == 0xae || f->opcode == 0x1a || f->opcode == 0x1b; /* system, SSE4A, XSAVE family, MPX */
    case 2:
        return f->opcode >= 0xc0; /* SHA, GFNI, MOVBE, ADX, MOVDIRI, keylocker */
    default:
        return f->opcode >= 0xc0;
    }
}

/* The same of VEX: mask registers of AVX-512, GFNI, wide AES and PCLMULQDQ, AVX-VNNI, IFMA; FMA4, which some Zens have without saying so. */
static bool vex_host_only(const struct form *f)
{
    switch (f->map) {
    case 1:
        return (f->opcode >= 0x41 && f->opcode <= 0x4b) || (f->opcode >= 0x90 && f->opcode <= 0x99);
    case 2:
        return (f->opcode >= 0x50 && f->opcode <= 0x53) || f->opcode >= 0xb4;
    case 3:
        return (f->opcode <= 1 && !f->vex_w) /* VPERMQ, VPERMPD: AMD does not look at VEX.W */ || (f->opcode >= 0x30 && f->opcode <= 0x33) || f->opcode == 0x44 || (f->opcode >= 0x48 && f->opcode <= 0x49) ||
               (f->opcode >= 0x5c && f->opcode <= 0x7f) || f->opcode >= 0xce;
    default:
        return true;
    }
}

/* Bytes of a VEX encoding, half of them with a prefix that VEX does not suffer. */
static unsigned put_random_vex(struct dp_random *r, enum x86_mode mode, struct form *f, uint8_t *bytes)
{
    static const uint8_t illegal[] = {0x66, 0xf2, 0xf3, 0xf0, 0x48};
    unsigned n = 0;
    f->vex = true, f->vex_l = cpu_one_in(r, 2), f->vex_w = cpu_one_in(r, 2);
    f->map = (uint8_t)(1 + cpu_below(r, 3));
    f->prefix = (uint8_t[]){0, 0x66, 0xf3, 0xf2}[cpu_below(r, 4)];
    if (cpu_one_in(r, 2))
        bytes[n++] = illegal[cpu_below(r, mode == X86_MODE64 ? 5 : 4)];
    n += put_vex(bytes + n, f, mode == X86_MODE64 ? (unsigned)cpu_below(r, 8) : 0, (unsigned)cpu_below(r, mode == X86_MODE64 ? 16 : 8), false);
    bytes[n++] = f->opcode;
    return n;
}

bool cpu_generate_undefined(const struct cpu_forms *fs, uint64_t seed, uint64_t index, struct cpu_case *c)
{
    struct dp_random r;
    start_case(&r, fs, seed, X86_OP_INVALID, index, c);
    c->in.rflags &= ~(uint64_t)X86_TF;
    c->code_offset =
        (c->code_offset & (CPU_PAGE - 1)) % (CPU_PAGE - 16); /* no fetch fault: how much is fetched before #UD is the processor's choice */
    c->in.rip = CPU_CODE + c->code_offset - seg_base(c, X86_CS);
    for (unsigned attempt = 0; attempt < 100; attempt++) {
        struct form f = {0, (uint8_t)cpu_below(&r, 4), (uint8_t)dp_random_next(&r), (uint8_t)dp_random_next(&r)};
        static const uint8_t prefixes[] = {0, 0, 0x66, 0xf3, 0xf2, 0xf0};
        f.prefix = prefixes[cpu_below(&r, DP_ARRAY_LEN(prefixes))];
        if ((f.map == 0 && (f.opcode == 0x0f || is_prefix(fs->mode, f.opcode))) || (f.map == 1 && (f.opcode | 2) == 0x3a))
            continue;
        uint8_t bytes[32] = {f.prefix};
        unsigned n = f.prefix ? 1 : 0;
        if (cpu_one_in(&r, 3))
            n = put_random_vex(&r, fs->mode, &f, bytes);
        else
            n += put_opcode(bytes + n, &f);
        bytes[n++] = f.modrm;
        cpu_random_bytes(&r, bytes + n, 8);
        struct x86_insn insn;
        int length = x86_decode(bytes, 15, fs->mode, &insn);
        if (length > 0 || (f.vex ? !x86_has(fs->model, X86_FEATURE_AVX) || vex_host_only(&f) : host_only(&f)) ||
            (f.prefix == 0xf0 && f.map == 1 &&
             ((f.opcode & 0xfd) == 0x20 || f.opcode == 0))) /* AMD: LOCK MOV CR0 is CR8, VERW ignores LOCK */
            continue;
        memcpy(c->code, bytes, 15);
        c->code_size = 15, c->insn_count = 1, c->insn_at[0] = 0;
        clip_code(c);
        return true;
    }
    return false;
}
