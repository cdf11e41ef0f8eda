/* program_gen.c - what random programs consist of: arithmetic on memory around page borders, chains of flags, stack frames, calls and
 * returns that match and that do not, loops, jumps through tables, strings, vectors, x87.
 *
 * Model: a program is a block, INT3, and a few functions. A block is a list of items, some of which contain blocks. Stack pointer and
 * pointers are back at their places at the end of an item, as far as control flow goes the usual way.
 */
#include "program_gen.h"

static void block(struct prog_gen *g, unsigned items, unsigned depth);

static bool full(const struct prog_gen *g) { return g->p->count + 40u > PROG_MAX_INSNS || g->labels + 12u > PROG_LABELS; }
static unsigned any_size(struct prog_gen *g) { return 1u << prog_pick(g, g->code64 ? 4 : 3); }

/* ---- plain accesses ---- */

/* op r/m, r and its like: byte opcode is op, wider ones op + 1. */
static void sized(struct prog_gen *g, unsigned size, struct prog_enc e)
{
    e.label = -1;
    e.p66 = size == 2, e.w = size == 8;
    e.op = (uint8_t)(e.op + (size > 1));
    bool byte = size == 1;
    e.rex = byte && g->code64 && prog_one_in(g, 2);
    if (e.digit) {
        prog_emit(g, &e);
        return;
    }
    e.high_reg = byte && prog_one_in(g, 2);
    if (byte && !g->code64 && e.reg >= 4) /* 4-7 are AH-BH: of registers that may be written */
        e.reg = (uint8_t)(prog_one_in(g, 2) ? X86_RAX : X86_RDX);
    if (byte && g->code64 && !e.rex && e.reg >= 4 && e.reg < 8)
        e.rex = true;
    prog_emit(g, &e);
}

static void move(struct prog_gen *g)
{
    unsigned size = any_size(g);
    bool store = prog_one_in(g, 2);
    struct prog_mem m = prog_memory(g, size, store, false);
    if (store && prog_one_in(g, 4))
        sized(g, size,
              (struct prog_enc){.op = 0xc6, .digit = true, .mem = &m, .imm = cpu_random_int(&g->r), .imm_size = (uint8_t)DP_MIN(size, 4u)});
    else
        sized(g, size, (struct prog_enc){.op = store ? 0x88 : 0x8a, .reg = (uint8_t)(store ? prog_source(g) : prog_scratch(g)), .mem = &m});
}

/* Several accesses through one base, at distances around the border of a page: what one check of the page would cover, or would not. */
static void group(struct prog_gen *g)
{
    int p = prog_one_in(g, 4) ? X86_RSP : prog_pointer(g);
    if (p < 0)
        p = X86_RSP;
    unsigned count = 2 + (unsigned)prog_pick(g, 7);
    int64_t center = (int64_t)prog_pick(g, 256) - 128;
    if (prog_one_in(g, 2)) /* near the border */
        center = (int64_t)(((g->at[p] + 2048) & ~4095ull) - g->at[p]);
    for (unsigned i = 0; i < count && !full(g); i++) {
        unsigned size = any_size(g);
        bool store = prog_one_in(g, 2), vector = prog_one_in(g, 5);
        if (vector)
            size = 16;
        int64_t disp = center + (int64_t)prog_pick(g, 72) - 36;
        uint64_t t = g->at[p] + (uint64_t)disp;
        bool fault_wanted = g->wild && prog_one_in(g, g->wild);
        if (disp != (int32_t)disp || (!prog_reachable(t, size, store) && !fault_wanted))
            continue;
        struct prog_mem m = {.base = p, .index = -1, .disp = disp, .linear = t};
        uint8_t reg = (uint8_t)(store ? prog_source(g) : prog_scratch(g));
        if (vector)
            EMIT(g, .map = 1, .op = store ? 0x7f : 0x6f, .rep = 0xf3, .reg = (uint8_t)prog_pick(g, g->code64 ? 16 : 8), .mem = &m);
        else if (prog_one_in(g, 3))
            sized(g, size, (struct prog_enc){.op = (uint8_t)(prog_pick(g, 7) * 8 + (store ? 0 : 2)), .reg = reg, .mem = &m});
        else
            sized(g, size, (struct prog_enc){.op = store ? 0x88 : 0x8a, .reg = reg, .mem = &m});
        if (p != X86_RSP && prog_one_in(g, 6) && !(g->locked >> p & 1)) { /* the base moves within the group */
            int8_t by = (int8_t)(prog_pick(g, 33) - 16);
            if (prog_one_in(g, 2))
                EMIT(g, .op = 0x83, .w = g->code64, .rm = (uint8_t)p, .imm = (uint64_t)by, .imm_size = 1); /* add */
            else
                EMIT(g, .op = 0x8d, .w = g->code64, .reg = (uint8_t)p, .mem = &(struct prog_mem){.base = p, .index = -1, .disp = by});
            g->at[p] += (uint64_t)by;
        }
    }
}

static void arithmetic(struct prog_gen *g)
{
    unsigned size = any_size(g), kind = (unsigned)prog_pick(g, 5);
    bool to_memory = prog_one_in(g, 2);
    uint8_t op = (uint8_t)(prog_pick(g, 8) * 8);
    struct prog_mem m = prog_memory(g, size, to_memory && op != 0x38, false);
    switch (kind) {
    case 0:
        sized(
            g, size,
            (struct prog_enc){
                .op = 0x80, .digit = true, .reg = op >> 3, .mem = &m, .imm = cpu_random_int(&g->r), .imm_size = (uint8_t)DP_MIN(size, 4u)});
        break;
    case 1: { /* lock where it may */
        bool lock = to_memory && op != 0x38 && prog_one_in(g, 2);
        sized(g, size, (struct prog_enc){.op = op, .reg = (uint8_t)prog_source(g), .mem = &m, .lock = lock});
        break;
    }
    default:
        if (to_memory)
            sized(g, size, (struct prog_enc){.op = op, .reg = (uint8_t)prog_source(g), .mem = &m});
        else
            sized(g, size, (struct prog_enc){.op = (uint8_t)(op | 2), .reg = (uint8_t)prog_scratch(g), .mem = &m});
        break;
    }
}

static void exchange(struct prog_gen *g)
{
    unsigned size = any_size(g);
    struct prog_mem m = prog_memory(g, size, true, false);
    uint8_t reg = (uint8_t)prog_scratch(g);
    if (size == 1)
        reg = X86_RAX; /* a byte register that no role uses */
    switch (prog_pick(g, 3)) {
    case 0:
        sized(g, size, (struct prog_enc){.op = 0x86, .reg = reg, .mem = &m});
        break;
    case 1:
        sized(g, size, (struct prog_enc){.map = 1, .op = 0xc0, .reg = reg, .mem = &m, .lock = prog_one_in(g, 2)}); /* xadd */
        break;
    default:
        if (prog_one_in(g, 2)) { /* likely equal */
            struct prog_mem same = m;
            sized(g, size, (struct prog_enc){.op = 0x8a, .reg = X86_RAX, .mem = &same});
        }
        sized(g, size, (struct prog_enc){.map = 1, .op = 0xb0, .reg = (uint8_t)prog_source(g), .mem = &m, .lock = prog_one_in(g, 2)});
        break;
    }
}

/* Flags that live over memory accesses. */
static void flag_chain(struct prog_gen *g)
{
    unsigned size = any_size(g), n = 1 + (unsigned)prog_pick(g, 5);
    struct prog_mem m = prog_memory(g, size, false, false);
    sized(g, size, (struct prog_enc){.op = (uint8_t)(prog_one_in(g, 2) ? 0x2a : 0x02), .reg = (uint8_t)prog_scratch(g), .mem = &m});
    for (unsigned i = 0; i < n && !full(g); i++) {
        uint8_t cc = (uint8_t)prog_pick(g, 16);
        size = any_size(g);
        switch (prog_pick(g, 9)) {
        case 0: /* adc, sbb */
            m = prog_memory(g, size, true, false);
            sized(g, size, (struct prog_enc){.op = (uint8_t)(prog_one_in(g, 2) ? 0x10 : 0x18), .reg = (uint8_t)prog_source(g), .mem = &m});
            break;
        case 1:
            m = prog_memory(g, size, false, false);
            sized(g, size, (struct prog_enc){.op = (uint8_t)(prog_one_in(g, 2) ? 0x12 : 0x1a), .reg = (uint8_t)prog_scratch(g), .mem = &m});
            break;
        case 2: /* inc, dec keep CF */
            m = prog_memory(g, size, true, false);
            sized(g, size,
                  (struct prog_enc){.op = 0xfe, .digit = true, .reg = (uint8_t)prog_pick(g, 2), .mem = &m, .lock = prog_one_in(g, 4)});
            break;
        case 3: /* setcc */
            m = prog_memory(g, 1, true, false);
            EMIT(g, .map = 1, .op = (uint8_t)(0x90 + cc), .mem = &m);
            break;
        case 4: /* cmovcc */
            m = prog_memory(g, size < 4 ? 4 : size, false, false);
            EMIT(g, .map = 1, .op = (uint8_t)(0x40 + cc), .w = size == 8, .reg = (uint8_t)prog_scratch(g), .mem = &m);
            break;
        case 5:
            m = prog_memory(g, size, true, false); /* rcl, rcr by one */
            sized(g, size, (struct prog_enc){.op = 0xd0, .digit = true, .reg = (uint8_t)(2 + prog_pick(g, 2)), .mem = &m});
            break;
        case 6:
            if (prog_feature(g, X86_FEATURE_ADX)) {
                m = prog_memory(g, 8, false, false);
                EMIT(g, .map = 2, .op = 0xf6, .p66 = !(i & 1), .rep = i & 1 ? 0xf3 : 0, .w = g->code64, .reg = (uint8_t)prog_scratch(g),
                     .mem = &m);
                break;
            } /* fallthrough */
        case 7:
            if (prog_feature(g, X86_FEATURE_BMI2)) {
                m = prog_memory(g, 8, false, false);
                EMIT(g, .vex = true, .map = 2, .op = 0xf6, .rep = 0xf2, .w = g->code64, .reg = (uint8_t)prog_scratch(g),
                     .vvvv = (uint8_t)prog_scratch(g), .mem = &m);
                break;
            } /* fallthrough */
        default:
            move(g);
            break;
        }
    }
    EMIT(g, .map = 1, .op = (uint8_t)(0x90 + prog_pick(g, 16)), .rm = X86_RAX);
    if (prog_one_in(g, 2)) {
        m = prog_memory(g, 4, false, false);
        EMIT(g, .op = 0x13, .reg = (uint8_t)prog_scratch(g), .mem = &m);
    }
}

static void shift_by_cl(struct prog_gen *g)
{
    unsigned size = any_size(g);
    struct prog_mem m = prog_memory(g, size, true, false);
    if (!((g->pointers | g->locked | g->indexes) >> X86_RCX & 1) && prog_one_in(g, 2))
        EMIT(g, .op = 0xb1, .no_modrm = true, .imm = prog_pick(g, 80), .imm_size = 1); /* mov $n, %cl */
    if (prog_one_in(g, 4) && size >= 4)
        EMIT(g, .map = 1, .op = (uint8_t)(prog_one_in(g, 2) ? 0xa5 : 0xad), .w = size == 8, .reg = (uint8_t)prog_source(g), .mem = &m);
    else
        sized(g, size, (struct prog_enc){.op = 0xd2, .digit = true, .reg = (uint8_t)prog_pick(g, 8), .mem = &m});
}

/* BT and its like with an offset in a register, which an index register bounds. */
static void bit_string(struct prog_gen *g)
{
    if (!g->indexes)
        return;
    unsigned i = (unsigned)__builtin_ctz(g->indexes), op = (unsigned)prog_pick(g, 4);
    uint64_t t = prog_target(g, 64, op != 0);
    if (!prog_reachable(t, 64, op != 0) || t != (uint32_t)t)
        return;
    struct prog_mem m = prog_absolute(t);
    EMIT(g, .map = 1, .op = (uint8_t)(0xa3 + op * 8), .w = g->code64 && prog_one_in(g, 2), .reg = (uint8_t)i, .mem = &m,
         .lock = op && prog_one_in(g, 3));
}

static void divide(struct prog_gen *g)
{
    unsigned size = 4 << (g->code64 && prog_one_in(g, 2)); /* EDX:EAX with EDX 0, or CDQ before IDIV; zero divides now and then */
    struct prog_mem m = prog_memory(g, size, true, false);
    bool is_signed = prog_one_in(g, 2);
    if (!(g->wild && prog_one_in(g, 12)))
        sized(g, size, (struct prog_enc){.op = 0x80, .digit = true, .reg = 1, .mem = &m, .imm = 0x10, .imm_size = 4}); /* or $16, m */
    if (is_signed)
        EMIT(g, .op = 0x99, .w = size == 8, .no_modrm = true);
    else
        EMIT(g, .op = 0x31, .reg = X86_RDX, .rm = X86_RDX);
    EMIT(g, .op = 0xf7, .w = size == 8, .reg = is_signed ? 7 : 6, .mem = &m);
}

/* moffs forms: the address is in the instruction. */
static void moffs(struct prog_gen *g)
{
    unsigned size = any_size(g);
    bool store = prog_one_in(g, 2);
    uint64_t t = prog_target(g, size, store);
    uint8_t b[12];
    unsigned n = 0;
    if (size == 2)
        b[n++] = 0x66;
    if (size == 8)
        b[n++] = 0x48;
    b[n++] = (uint8_t)(0xa0 + (size > 1) + (store ? 2 : 0));
    memcpy(b + n, &t, 8);
    prog_put(g, b, n + (g->code64 ? 8 : 4), PROG_FIX_NONE, 0, -1, 0);
}

static void table_lookup(struct prog_gen *g) /* XLAT */
{
    if (!(g->pointers >> X86_RBX & 1) || !prog_reachable(g->at[X86_RBX], 256, false))
        return;
    EMIT(g, .op = 0xd7, .no_modrm = true);
}

/* ---- pointers ---- */

static void move_pointer(struct prog_gen *g)
{
    int p = prog_pointer(g);
    if (p < 0)
        return;
    uint8_t r = (uint8_t)p;
    int64_t by = (int64_t)prog_pick(g, 129) - 64;
    switch (prog_pick(g, 5)) {
    case 0:
        g->at[p] = g->hot[prog_pick(g, PROG_HOT)] + prog_pick(g, 64) - 32;
        prog_load_constant(g, r, g->at[p]);
        return;
    case 1:
        EMIT(g, .op = 0x81, .w = g->code64, .reg = 0, .rm = r, .imm = (uint64_t)by, .imm_size = 4);
        break;
    case 2:
        EMIT(g, .op = 0x83, .w = g->code64, .reg = 5, .rm = r, .imm = (uint64_t)by & 0xff, .imm_size = 1);
        by = -(int64_t)(int8_t)by;
        break;
    case 3:
        by = prog_one_in(g, 2) ? 1 : -1;
        EMIT(g, .op = 0xff, .w = g->code64, .reg = by < 0, .rm = r);
        break;
    default: {
        int q = prog_pointer(g); /* lea of one from another, or mov; it may find none this time */
        if (q < 0)
            return;
        EMIT(g, .op = 0x8d, .w = g->code64, .reg = r, .mem = &(struct prog_mem){.base = q, .index = -1, .disp = by});
        g->at[p] = g->at[q] + (uint64_t)by;
        return;
    }
    }
    g->at[p] += (uint64_t)by;
    if (!g->code64)
        g->at[p] = (uint32_t)g->at[p];
}

static void set_index(struct prog_gen *g)
{
    if (!g->indexes)
        return;
    unsigned i = (unsigned)__builtin_ctz(g->indexes);
    if (g->locked >> i & 1)
        return;
    g->at[i] = prog_pick(g, 64);
    prog_load_constant(g, i, g->at[i]);
}

/* ---- the stack ---- */

static unsigned word(const struct prog_gen *g) { return g->code64 ? 8 : 4; }

static void push_some(struct prog_gen *g)
{
    switch (prog_pick(g, 6)) {
    case 0:
        EMIT(g, .op = 0x6a, .no_modrm = true, .imm = dp_random_next(&g->r), .imm_size = 1);
        break;
    case 1:
        EMIT(g, .op = 0x68, .no_modrm = true, .imm = dp_random_next(&g->r), .imm_size = 4);
        break;
    case 2: {
        struct prog_mem m = prog_memory(g, word(g), false, false);
        EMIT(g, .op = 0xff, .reg = 6, .mem = &m);
        break;
    }
    case 3: {
        struct prog_mem m = {.base = X86_RSP, .index = -1, .disp = (int64_t)prog_pick(g, 24) - 8};
        EMIT(g, .op = 0xff, .reg = 6, .mem = &m);
        break;
    }
    default: {
        unsigned r = prog_one_in(g, 6) ? X86_RSP : prog_source(g);
        EMIT(g, .op = (uint8_t)(0x50 + (r & 7)), .no_modrm = true, .rm = (uint8_t)r);
        break;
    }
    }
    g->at[X86_RSP] -= word(g);
}

static void pop_some(struct prog_gen *g)
{
    g->at[X86_RSP] += word(g);
    switch (prog_pick(g, 6)) {
    case 0: {
        struct prog_mem m = prog_memory(g, word(g), true, false);
        if (m.base == X86_RSP && prog_one_in(g, 2))
            m.disp = (int64_t)prog_pick(g, 24) - 8; /* RSP as it is after the pop */
        EMIT(g, .op = 0x8f, .mem = &m);
        break;
    }
    case 1:
        EMIT(g, .op = 0x8d, .w = g->code64, .reg = X86_RSP,
             .mem = &(struct prog_mem){.base = X86_RSP, .index = -1, .disp = (int64_t)word(g)});
        break;
    default: {
        unsigned r = prog_scratch(g);
        EMIT(g, .op = (uint8_t)(0x58 + (r & 7)), .no_modrm = true, .rm = (uint8_t)r);
        break;
    }
    }
}

static void push_pop(struct prog_gen *g, unsigned depth)
{
    unsigned n = 1 + (unsigned)prog_pick(g, 4);
    uint64_t at = g->at[X86_RSP];
    for (unsigned i = 0; i < n; i++)
        push_some(g);
    if (depth && prog_one_in(g, 2))
        block(g, 1 + (unsigned)prog_pick(g, 3), depth - 1);
    if (prog_one_in(g, 5)) {
        EMIT(g, .op = 0x83, .w = g->code64, .rm = X86_RSP, .imm = n * word(g), .imm_size = 1);
        g->at[X86_RSP] = at;
        return;
    }
    for (unsigned i = 0; i < n; i++)
        pop_some(g);
    g->at[X86_RSP] = at;
}

/* 16-bit pushes misalign the stack. */
static void push_short(struct prog_gen *g)
{
    unsigned r = prog_source(g), s = prog_scratch(g);
    EMIT(g, .op = (uint8_t)(0x50 + (r & 7)), .p66 = true, .no_modrm = true, .rm = (uint8_t)r);
    g->at[X86_RSP] -= 2;
    if (prog_one_in(g, 2))
        push_pop(g, 0);
    EMIT(g, .op = (uint8_t)(0x58 + (s & 7)), .p66 = true, .no_modrm = true, .rm = (uint8_t)s);
    g->at[X86_RSP] += 2;
}

static void frame(struct prog_gen *g, unsigned depth)
{
    if (g->locked >> X86_RBP & 1)
        return;
    uint16_t pointers = g->pointers, indexes = g->indexes;
    uint64_t bp = g->at[X86_RBP], sp = g->at[X86_RSP];
    unsigned room = (unsigned)prog_pick(g, 20) * 8, level = prog_one_in(g, 8) ? 1 + (unsigned)prog_pick(g, 3) : 0;
    g->indexes &= (uint16_t) ~(1u << X86_RBP);
    if (prog_one_in(g, 2)) {
        if (level && !prog_reachable(bp - 32, 32, false))
            level = 0;
        EMIT(g, .op = 0xc8, .no_modrm = true, .imm = room | level << 16, .imm_size = 3);
        g->at[X86_RBP] = sp - word(g);
        g->at[X86_RSP] = sp - word(g) * (level + 1) - room;
    } else {
        EMIT(g, .op = 0x55, .no_modrm = true);
        EMIT(g, .op = 0x89, .w = g->code64, .reg = X86_RSP, .rm = X86_RBP);
        EMIT(g, .op = 0x81, .w = g->code64, .reg = 5, .rm = X86_RSP, .imm = room, .imm_size = 4);
        g->at[X86_RBP] = sp - word(g), g->at[X86_RSP] = g->at[X86_RBP] - room;
    }
    g->pointers |= 1u << X86_RBP;
    g->locked |= 1u << X86_RBP;
    for (unsigned i = 0; i < 2; i++) { /* locals */
        struct prog_mem m = {.base = X86_RBP, .index = -1, .disp = -(int64_t)prog_pick(g, room + 8) - 8};
        sized(g, word(g), (struct prog_enc){.op = prog_one_in(g, 2) ? 0x88 : 0x00, .reg = (uint8_t)prog_source(g), .mem = &m});
    }
    block(g, 1 + (unsigned)prog_pick(g, 3), depth ? depth - 1 : 0);
    g->locked &= (uint16_t) ~(1u << X86_RBP);
    if (prog_one_in(g, 2)) {
        EMIT(g, .op = 0xc9, .no_modrm = true);
    } else {
        EMIT(g, .op = 0x8d, .w = g->code64, .reg = X86_RSP, .mem = &(struct prog_mem){.base = X86_RBP, .index = -1});
        EMIT(g, .op = 0x5d, .no_modrm = true);
    }
    g->pointers = pointers, g->indexes = indexes, g->at[X86_RBP] = bp, g->at[X86_RSP] = sp;
}

/* Another stack, at a hot spot, and back. */
static void switch_stack(struct prog_gen *g, unsigned depth)
{
    unsigned keep = prog_scratch(g);
    uint64_t sp = g->at[X86_RSP], there = 0;
    if (keep == X86_RAX || keep == X86_RDX) /* too many write them */
        return;
    for (unsigned k = 0; k < 10 && !(there && prog_reachable(there - 64, 96, true)); k++)
        there = g->hot[prog_pick(g, PROG_HOT)] + (prog_one_in(g, 3) ? prog_pick(g, 32) : prog_pick(g, 8) * 8);
    if (!prog_reachable(there - 64, 96, true))
        return;
    if (prog_one_in(g, 2)) {
        EMIT(g, .op = 0x89, .w = g->code64, .reg = X86_RSP, .rm = (uint8_t)keep);
        prog_load_constant(g, X86_RSP, there);
    } else {
        prog_load_constant(g, keep, there);
        EMIT(g, .op = 0x87, .w = g->code64, .reg = X86_RSP, .rm = (uint8_t)keep);
    }
    g->at[X86_RSP] = there;
    g->locked |= (uint16_t)(1u << keep);
    push_pop(g, depth);
    block(g, 1 + (unsigned)prog_pick(g, 2), depth ? depth - 1 : 0);
    g->locked &= (uint16_t) ~(1u << keep);
    if (prog_one_in(g, 2))
        EMIT(g, .op = 0x8b, .w = g->code64, .reg = X86_RSP, .rm = (uint8_t)keep);
    else
        EMIT(g, .op = 0x87, .w = g->code64, .reg = X86_RSP, .rm = (uint8_t)keep);
    g->at[X86_RSP] = sp;
}

static void rsp_as_data(struct prog_gen *g)
{
    unsigned r = prog_scratch(g);
    switch (prog_pick(g, 6)) {
    case 0:
        EMIT(g, .op = 0x89, .w = g->code64, .reg = X86_RSP, .rm = (uint8_t)r);
        EMIT(g, .op = (uint8_t)(prog_pick(g, 8) * 8 + 1), .w = prog_one_in(g, 2) && g->code64, .reg = X86_RSP, .rm = (uint8_t)r);
        break;
    case 1: {
        struct prog_mem m = prog_memory(g, word(g), true, false);
        EMIT(g, .op = 0x89, .w = g->code64, .reg = X86_RSP, .mem = &m);
        break;
    }
    case 2:
        EMIT(g, .op = 0x54, .no_modrm = true); /* push %rsp; pop %rsp */
        EMIT(g, .op = 0x5c, .no_modrm = true);
        break;
    case 3: { /* an odd amount and back */
        uint8_t by = (uint8_t)(1 + prog_pick(g, 40));
        EMIT(g, .op = 0x83, .w = g->code64, .reg = 5, .rm = X86_RSP, .imm = by, .imm_size = 1);
        g->at[X86_RSP] -= by;
        push_pop(g, 0);
        EMIT(g, .op = 0x83, .w = g->code64, .rm = X86_RSP, .imm = by, .imm_size = 1);
        g->at[X86_RSP] += by;
        break;
    }
    case 4: /* spill and reload through the stack, then align it */
        EMIT(g, .op = 0x89, .w = g->code64, .reg = X86_RSP, .rm = (uint8_t)r);
        EMIT(g, .op = 0x83, .w = g->code64, .reg = 4, .rm = X86_RSP, .imm = 0xf0, .imm_size = 1);
        EMIT(g, .op = (uint8_t)(0x50 + (r & 7)), .no_modrm = true, .rm = (uint8_t)r);
        EMIT(g, .op = 0x5c, .no_modrm = true);
        break;
    default: {
        struct prog_mem m = {.base = X86_RSP, .index = (int)r, .scale = 0, .disp = 0};
        EMIT(g, .op = 0x8d, .w = g->code64, .reg = (uint8_t)prog_scratch(g), .mem = &m);
        break;
    }
    }
}

static void flags_on_stack(struct prog_gen *g, unsigned depth)
{
    EMIT(g, .op = 0x9c, .no_modrm = true);
    g->at[X86_RSP] -= word(g);
    if (prog_one_in(g, 2)) {
        uint32_t flip = (uint32_t)dp_random_next(&g->r) & X86_ARITH;
        if (prog_one_in(g, 4))
            flip |= X86_DF;
        if (prog_one_in(g, 12))
            flip |= X86_ID;
        if (prog_one_in(g, 60) && g->wild)
            flip |= X86_AC;
        if (prog_one_in(g, 60) && g->wild)
            flip |= X86_TF;
        struct prog_mem m = {.base = X86_RSP, .index = -1};
        EMIT(g, .op = 0x81, .reg = 6, .mem = &m, .imm = flip, .imm_size = 4);
    }
    if (depth && prog_one_in(g, 2))
        block(g, 1 + (unsigned)prog_pick(g, 2), depth - 1);
    EMIT(g, .op = 0x9d, .no_modrm = true);
    g->at[X86_RSP] += word(g);
    if (prog_one_in(g, 2))
        EMIT(g, .op = 0x9f, .no_modrm = true); /* lahf */
}

/* ---- control flow ---- */

static void jump(struct prog_gen *g, uint8_t cc, int16_t label) /* cc 16: always */
{
    bool near = prog_one_in(g, 2);
    uint8_t b[6] = {0};
    if (near) {
        b[0] = cc == 16 ? 0xeb : (uint8_t)(0x70 + cc);
        prog_put(g, b, 2, PROG_FIX_REL8, 1, label, 0);
    } else if (cc == 16) {
        b[0] = 0xe9;
        prog_put(g, b, 5, PROG_FIX_REL32, 1, label, 0);
    } else {
        b[0] = 0x0f, b[1] = (uint8_t)(0x80 + cc);
        prog_put(g, b, 6, PROG_FIX_REL32, 2, label, 0);
    }
}
static void call(struct prog_gen *g, int16_t label)
{
    uint8_t b[5] = {0xe8};
    prog_put(g, b, 5, PROG_FIX_REL32, 1, label, 0);
}
/* The next entry of the jump table: the operand [table + i]. */
static struct prog_mem table_entry(struct prog_gen *g, int16_t label)
{
    unsigned i = g->p->table_count < PROG_TABLE_SIZE ? g->p->table_count++ : PROG_TABLE_SIZE - 1;
    g->p->table[i] = label;
    return prog_absolute(PROG_DATA + PROG_OWN_READONLY * 4096u + PROG_OWN_TABLE + i * word(g));
}

static void skip(struct prog_gen *g, unsigned depth)
{
    int16_t end = prog_label(g);
    unsigned r = prog_scratch(g);
    uint64_t at[PROG_GPRS];
    memcpy(at, g->at, sizeof at);
    switch (prog_pick(g, 7)) {
    case 0: /* over something that is never executed */
        jump(g, 16, end);
        EMIT(g, .op = 0xcc, .no_modrm = true);
        break;
    case 1: /* by register */
        prog_load_label(g, r, end);
        EMIT(g, .op = 0xff, .reg = 4, .rm = (uint8_t)r);
        block(g, 1, 0);
        memcpy(g->at, at, sizeof at);
        break;
    case 2: { /* by memory */
        struct prog_mem m = table_entry(g, end);
        m.rip = g->code64 && prog_one_in(g, 2);
        EMIT(g, .op = 0xff, .reg = 4, .mem = &m);
        block(g, 1, 0);
        memcpy(g->at, at, sizeof at);
        break;
    }
    case 3: { /* JRCXZ */
        uint8_t b[2] = {0xe3};
        prog_put(g, b, 2, PROG_FIX_REL8, 1, end, 0);
        block(g, 1 + (unsigned)prog_pick(g, 2), 0);
        break;
    }
    default: /* if */
        if (prog_one_in(g, 2))
            EMIT(g, .op = 0x39, .reg = (uint8_t)prog_source(g), .rm = (uint8_t)prog_source(g));
        else if (prog_one_in(g, 2))
            arithmetic(g);
        jump(g, (uint8_t)prog_pick(g, 16), end);
        block(g, 1 + (unsigned)prog_pick(g, 4), depth ? depth - 1 : 0);
        if (prog_one_in(g, 3)) { /* else */
            int16_t other = end;
            end = prog_label(g);
            jump(g, 16, end);
            prog_place(g, other);
            memcpy(g->at, at, sizeof at);
            block(g, 1 + (unsigned)prog_pick(g, 3), depth ? depth - 1 : 0);
        }
        break;
    }
    prog_place(g, end);
}

static void cases(struct prog_gen *g, unsigned depth)
{
    if (g->p->table_count + 4 > PROG_TABLE_SIZE)
        return;
    unsigned r = prog_scratch(g);
    int16_t end = prog_label(g), label[4];
    if (prog_one_in(g, 2)) {
        struct prog_mem v = prog_memory(g, 4, false, false);
        EMIT(g, .op = 0x8b, .reg = (uint8_t)r, .mem = &v);
    }
    EMIT(g, .op = 0x83, .reg = 4, .rm = (uint8_t)r, .imm = 3, .imm_size = 1); /* and $3 */
    struct prog_mem m = {.base = -1};
    for (unsigned i = 0; i < 4; i++) {
        label[i] = prog_label(g);
        struct prog_mem e = table_entry(g, label[i]);
        if (!i)
            m = e;
    }
    m.index = (int)r, m.scale = g->code64 ? 3 : 2;
    if (r == X86_RSP)
        return;
    if (prog_one_in(g, 2)) {
        EMIT(g, .op = 0xff, .reg = 4, .mem = &m);
    } else {
        EMIT(g, .op = 0x8b, .w = g->code64, .reg = (uint8_t)r, .mem = &m);
        EMIT(g, .op = 0xff, .reg = 4, .rm = (uint8_t)r);
    }
    uint64_t at[PROG_GPRS];
    memcpy(at, g->at, sizeof at);
    for (unsigned i = 0; i < 4; i++) {
        prog_place(g, label[i]);
        block(g, 1, depth ? depth - 1 : 0);
        memcpy(g->at, at, sizeof at);
        if (i < 3 && !prog_one_in(g, 4))
            jump(g, 16, end);
    }
    prog_place(g, end);
}

static void loop(struct prog_gen *g, unsigned depth)
{
    unsigned times = 1 + (unsigned)prog_pick(g, prog_one_in(g, 4) ? 60 : 6), kind = (unsigned)prog_pick(g, 5);
    bool rcx_free = !((g->pointers | g->indexes | g->locked) >> X86_RCX & 1);
    unsigned r = kind < 2 && rcx_free ? X86_RCX : prog_scratch(g);
    if (r == X86_RAX || r == X86_RDX) /* multiplications and the like write them */
        kind = 4;
    int16_t top = prog_label(g);
    struct prog_mem m = prog_absolute(PROG_DATA + PROG_OWN * 4096u + g->counters++ % 64 * 4);
    if (kind == 4) {
        EMIT(g, .op = 0xc7, .mem = &m, .imm = times, .imm_size = 4);
    } else {
        prog_load_constant(g, r, times);
        g->locked |= (uint16_t)(1u << r);
    }
    prog_place(g, top);
    unsigned before = g->p->count;
    block(g, 1 + (unsigned)prog_pick(g, 3), depth ? depth - 1 : 0);
    uint8_t b[2] = {0};
    unsigned size = 0;
    for (unsigned i = before; i < g->p->count; i++)
        size += g->p->insn[i].length;
    prog_settle(g); /* here, or the branch would do it and test something else */
    switch (kind) {
    case 0:
    case 1:
        if (r == X86_RCX && size < 100) { /* LOOP, LOOPNE, LOOPE (those may end early) */
            b[0] = (uint8_t)(0xe2 - (prog_one_in(g, 4) ? prog_pick(g, 3) : 0));
            prog_put(g, b, 2, PROG_FIX_REL8, 1, top, 0);
            break;
        } /* fallthrough */
    case 2:
        EMIT(g, .op = 0xff, .w = g->code64, .reg = 1, .rm = (uint8_t)r);
        jump(g, 5, top);
        break;
    case 3:
        EMIT(g, .op = 0x83, .w = g->code64, .reg = 5, .rm = (uint8_t)r, .imm = 1, .imm_size = 1);
        jump(g, 7, top);
        break;
    default:
        EMIT(g, .op = 0xff, .reg = 1, .mem = &m);
        jump(g, 15, top);
        break;
    }
    if (kind != 4)
        g->locked &= (uint16_t) ~(1u << r);
}

static void call_function(struct prog_gen *g, unsigned depth)
{
    if (g->function_now + 1 < g->functions && !g->locked) { /* they know nothing of their callers' locks */
        int16_t f = g->function[g->function_now + 1 + prog_pick(g, g->functions - g->function_now - 1)];
        unsigned r = prog_scratch(g);
        switch (prog_pick(g, 4)) {
        case 0:
            prog_load_label(g, r, f);
            EMIT(g, .op = 0xff, .reg = 2, .rm = (uint8_t)r);
            return;
        case 1: {
            struct prog_mem m = table_entry(g, f);
            EMIT(g, .op = 0xff, .reg = 2, .mem = &m);
            return;
        }
        default:
            call(g, f);
            return;
        }
    }
    /* Returns that do not match. */
    int16_t a = prog_label(g), b = prog_label(g);
    unsigned r = prog_scratch(g);
    switch (prog_pick(g, 5)) {
    case 0: /* call the next instruction, throw the address away */
        call(g, a);
        prog_place(g, a);
        g->at[X86_RSP] -= word(g);
        pop_some(g);
        prog_place(g, b);
        return;
    case 1: /* RET as a jump */
        prog_load_label(g, r, a);
        EMIT(g, .op = (uint8_t)(0x50 + (r & 7)), .no_modrm = true, .rm = (uint8_t)r);
        if (prog_one_in(g, 2))
            move(g);
        EMIT(g, .op = 0xc3, .no_modrm = true);
        block(g, 1, 0);
        break;
    case 2: /* the return address replaced */
        call(g, b);
        EMIT(g, .op = 0xcc, .no_modrm = true);
        prog_place(g, b);
        prog_load_label(g, r, a);
        EMIT(g, .op = 0x89, .w = g->code64, .reg = (uint8_t)r, .mem = &(struct prog_mem){.base = X86_RSP, .index = -1});
        EMIT(g, .op = 0xc3, .no_modrm = true);
        break;
    case 3: { /* two levels left at once */
        int16_t c = prog_label(g);
        uint64_t sp = g->at[X86_RSP];
        call(g, b);
        jump(g, 16, a);
        prog_place(g, b);
        call(g, c);
        EMIT(g, .op = 0xcc, .no_modrm = true);
        prog_place(g, c);
        g->at[X86_RSP] = sp - 2 * word(g);
        block(g, 1, depth ? depth - 1 : 0);
        EMIT(g, .op = 0x83, .w = g->code64, .rm = X86_RSP, .imm = word(g), .imm_size = 1);
        EMIT(g, .op = 0xc3, .no_modrm = true);
        g->at[X86_RSP] = sp;
        break;
    }
    default: /* POP and JMP */
        call(g, b);
        jump(g, 16, a);
        prog_place(g, b);
        EMIT(g, .op = (uint8_t)(0x58 + (r & 7)), .no_modrm = true, .rm = (uint8_t)r);
        EMIT(g, .op = 0xff, .reg = 4, .rm = (uint8_t)r);
        break;
    }
    prog_place(g, a);
}

/* ---- strings ---- */

static void string(struct prog_gen *g)
{
    static const uint8_t ops[] = {0xa4, 0xaa, 0xac, 0xa6, 0xae}; /* movs stos lods cmps scas */
    unsigned op = (unsigned)prog_pick(g, 5), size = any_size(g);
    if (g->locked & (1u << X86_RSI | 1u << X86_RDI | 1u << X86_RCX))
        return;
    uint64_t n = prog_pick(g, prog_one_in(g, 4) ? 200 : 12);
    bool wanted = g->wild && prog_one_in(g, g->wild / 4 + 1), rep = !prog_one_in(g, 4), a32 = g->code64 && prog_one_in(g, 12);
    uint64_t to = prog_target(g, 1, op < 2), from = prog_one_in(g, 4) ? to + prog_pick(g, 32) - 16 : prog_target(g, 1, false);
    for (unsigned k = 0; k < 20 && !wanted; k++) { /* room in both directions */
        if (prog_reachable(to - n * size, (unsigned)(2 * n * size + size), op < 2) &&
            prog_reachable(from - n * size, (unsigned)(2 * n * size + size), false))
            break;
        to = prog_target(g, 1, op < 2), from = prog_target(g, 1, false), n /= 2;
    }
    if (a32 && (to != (uint32_t)to || from != (uint32_t)from))
        a32 = false;
    prog_load_constant(g, X86_RSI, from);
    prog_load_constant(g, X86_RDI, to);
    if (rep)
        prog_load_constant(g, X86_RCX, n);
    if (prog_one_in(g, 6))
        EMIT(g, .op = 0xfd, .no_modrm = true); /* std */
    uint8_t b[6];
    unsigned k = 0;
    if (a32)
        b[k++] = 0x67;
    if (size == 2)
        b[k++] = 0x66;
    if (rep)
        b[k++] = prog_one_in(g, 2) && op >= 3 ? 0xf2 : 0xf3;
    if (size == 8)
        b[k++] = 0x48;
    b[k++] = (uint8_t)(ops[op] + (size > 1));
    if (rep && !n && op >= 3)
        prog_load_constant(g, X86_RCX, n = 1);
    prog_put(g, b, k, PROG_FIX_NONE, 0, -1, 0);
    EMIT(g, .op = 0xfc, .no_modrm = true);
    static const uint8_t used[] = {X86_RSI, X86_RDI, X86_RCX};
    for (unsigned i = 0; i < 3; i++)
        if ((g->pointers | g->indexes) >> used[i] & 1)
            prog_load_constant(g, used[i], g->at[used[i]]);
}

/* ---- floating point ---- */

static void state_image(struct prog_gen *g)
{
    struct prog_mem m = prog_absolute(PROG_DATA + PROG_OWN * 4096u + PROG_OWN_FX);
    if (prog_one_in(g, 2)) { /* MXCSR: rounding, flush to zero, seldom unmasked exceptions */
        m.disp -= 64;
        EMIT(g, .map = 1, .op = 0xae, .reg = 3, .mem = &m);
        EMIT(g, .op = 0xc7, .mem = &m, .imm = 0x1f80 | (dp_random_next(&g->r) & 0xe040), .imm_size = 4);
        EMIT(g, .map = 1, .op = 0xae, .reg = 2, .mem = &m);
        return;
    }
    EMIT(g, .map = 1, .op = 0xae, .w = g->code64 && prog_one_in(g, 2), .reg = 0, .mem = &m);
    for (unsigned i = 0; i < 3; i++)
        prog_any(g, prog_one_in(g, 2) ? PROG_SSE : PROG_X87);
    EMIT(g, .map = 1, .op = 0xae, .w = g->code64 && prog_one_in(g, 2), .reg = 1, .mem = &m);
}

static void x87_chain(struct prog_gen *g)
{
    unsigned n = 2 + (unsigned)prog_pick(g, 7);
    if (prog_one_in(g, 3))
        EMIT(g, .op = 0xdb, .no_modrm = true, .imm = 0xe3, .imm_size = 1); /* fninit */
    for (unsigned i = 0; i < n && !full(g); i++)
        prog_any(g, PROG_X87);
}

static void vectors(struct prog_gen *g, enum prog_class c)
{
    unsigned n = 1 + (unsigned)prog_pick(g, 6);
    for (unsigned i = 0; i < n && !full(g); i++)
        prog_any(g, prog_one_in(g, 8) ? PROG_INT : c);
}

/* ---- segments ---- */

static void segment_base(struct prog_gen *g)
{
    int p = prog_pointer(g);
    if (!g->code64 || p < 0 || !prog_feature(g, X86_FEATURE_FSGSBASE) || !prog_reachable(g->at[p], 1, false))
        return;
    bool gs = prog_one_in(g, 2);
    EMIT(g, .map = 1, .op = 0xae, .rep = 0xf3, .w = true, .reg = gs ? 3 : 2, .rm = (uint8_t)p);
    struct prog_mem m = {.base = -1, .index = -1, .disp = 0, .seg = gs ? 0x65 : 0x64};
    EMIT(g, .op = 0x8b, .w = true, .reg = (uint8_t)prog_scratch(g), .mem = &m);
    EMIT(g, .map = 1, .op = 0xae, .rep = 0xf3, .w = true, .reg = gs ? 1 : 0, .rm = (uint8_t)prog_scratch(g)); /* rdfsbase */
    unsigned r = prog_scratch(g);
    uint64_t base = gs ? g->p->in.gs_base : g->p->in.fs_base;
    prog_load_constant(g, r, base); /* as others expect it */
    EMIT(g, .map = 1, .op = 0xae, .rep = 0xf3, .w = true, .reg = gs ? 3 : 2, .rm = (uint8_t)r);
}

/* What CPL 3 may not, or what is no instruction: a fault in mid-program. */
static void forbidden(struct prog_gen *g)
{
    static const uint8_t bad[][3] = {{1, 0xf4}, {1, 0xfa}, {2, 0x0f, 0x0b}, {1, 0xec}, {2, 0xcd, 0x21}, {2, 0x0f, 0x06}, {1, 0xcc}};
    const uint8_t *b = bad[prog_pick(g, DP_ARRAY_LEN(bad))];
    if (g->wild && prog_one_in(g, 8))
        prog_put(g, b + 1, b[0], PROG_FIX_NONE, 0, -1, 0);
}

/* ---- blocks ---- */

static void item(struct prog_gen *g, unsigned depth)
{
    switch (prog_pick(g, 64)) {
    case 0 ... 6:
        move(g);
        break;
    case 7 ... 13:
        group(g);
        break;
    case 14 ... 18:
        arithmetic(g);
        break;
    case 19 ... 20:
        exchange(g);
        break;
    case 21 ... 23:
        flag_chain(g);
        break;
    case 24:
        shift_by_cl(g);
        break;
    case 25:
        bit_string(g);
        break;
    case 26:
        divide(g);
        break;
    case 27:
        prog_one_in(g, 2) ? moffs(g) : table_lookup(g);
        break;
    case 28 ... 29:
        move_pointer(g);
        break;
    case 30:
        set_index(g);
        break;
    case 31 ... 33:
        push_pop(g, depth);
        break;
    case 34:
        push_short(g);
        break;
    case 35:
        frame(g, depth);
        break;
    case 36:
        switch_stack(g, depth);
        break;
    case 37:
        rsp_as_data(g);
        break;
    case 38:
        flags_on_stack(g, depth);
        break;
    case 39 ... 42:
        skip(g, depth);
        break;
    case 43:
        cases(g, depth);
        break;
    case 44 ... 45:
        loop(g, depth);
        break;
    case 46 ... 47:
        call_function(g, depth);
        break;
    case 48:
        string(g);
        break;
    case 49:
        prog_one_in(g, 3) ? state_image(g) : segment_base(g);
        break;
    case 50 ... 51:
        x87_chain(g);
        break;
    case 52 ... 54:
        vectors(g, PROG_SSE);
        break;
    case 55 ... 57:
        vectors(g, prog_has(g, PROG_VEX) ? PROG_VEX : PROG_SSE);
        break;
    case 58:
        vectors(g, PROG_MMX);
        break;
    case 59:
        forbidden(g);
        break;
    default:
        prog_any(g, PROG_INT);
        break;
    }
}

static void block(struct prog_gen *g, unsigned items, unsigned depth)
{
    for (unsigned i = 0; i < items && !full(g); i++)
        item(g, depth);
}

static void function(struct prog_gen *g, unsigned number)
{
    uint64_t sp = g->at[X86_RSP];
    g->function_now = number;
    g->at[X86_RSP] = sp - word(g);
    prog_place(g, g->function[number]);
    block(g, 1 + (unsigned)prog_pick(g, 4), 1);
    if (prog_one_in(g, 6)) { /* RET n, with the return address moved up first */
        unsigned r = prog_scratch(g);
        EMIT(g, .op = (uint8_t)(0x58 + (r & 7)), .no_modrm = true, .rm = (uint8_t)r);
        EMIT(g, .op = 0x6a, .no_modrm = true, .imm = 1, .imm_size = 1);
        EMIT(g, .op = (uint8_t)(0x50 + (r & 7)), .no_modrm = true, .rm = (uint8_t)r);
        EMIT(g, .op = 0xc2, .no_modrm = true, .imm = word(g), .imm_size = 2);
    } else {
        if (prog_one_in(g, 8))
            EMIT(g, .op = 0xc3, .rep = 0xf3, .no_modrm = true);
        else
            EMIT(g, .op = 0xc3, .no_modrm = true);
    }
    g->at[X86_RSP] = sp;
}

/* ---- programs ---- */

/* Short branches that do not reach become long ones (LOOP and JRCXZ become NOPs). Returns the size of the code. */
static unsigned relax(struct program *p)
{
    for (;;) {
        uint16_t at[PROG_MAX_INSNS + 1];
        bool changed = false;
        at[0] = 0;
        for (unsigned i = 0; i < p->count; i++)
            at[i + 1] = (uint16_t)(at[i] + p->insn[i].length);
        for (unsigned i = 0; i < p->count; i++) {
            struct prog_insn *k = &p->insn[i];
            int distance = at[k->target < 0 ? 0 : k->target] - at[i + 1];
            if (k->fix != PROG_FIX_REL8 || distance == (int8_t)distance)
                continue;
            changed = true;
            if (k->bytes[0] == 0xeb)
                *k = (struct prog_insn){.bytes = {0xe9}, .length = 5, .fix = PROG_FIX_REL32, .fix_at = 1, .target = k->target};
            else if ((k->bytes[0] & 0xf0) == 0x70)
                *k = (struct prog_insn){
                    .bytes = {0x0f, k->bytes[0] + 0x10}, .length = 6, .fix = PROG_FIX_REL32, .fix_at = 2, .target = k->target};
            else
                *k = (struct prog_insn){.bytes = {0x90}, .length = 1, .fix = PROG_FIX_NONE, .target = -1};
        }
        if (!changed)
            return at[p->count];
    }
}

static void choose_roles(struct prog_gen *g)
{
    static const uint8_t usual[] = {X86_RBX, X86_RBP, X86_RSI, X86_RDI, X86_R8,  X86_R9,
                                    X86_R10, X86_R11, X86_R12, X86_R13, X86_R14, X86_R15};
    static const uint8_t moved[] = {X86_RCX, X86_R13, X86_R14, X86_R15, X86_RBX};
    static const uint8_t few[] = {X86_RBX, X86_RSI, X86_RDI, X86_RBP};
    g->pointers = 1u << X86_RSP;
    if (!g->code64) {
        for (unsigned i = 0; i < 2; i++)
            g->pointers |= (uint16_t)(1u << few[prog_pick(g, DP_ARRAY_LEN(few))]);
        if (prog_one_in(g, 3))
            g->pointers |= 1u << X86_RCX;
    } else if (prog_one_in(g, 3)) {
        for (unsigned i = 0; i < DP_ARRAY_LEN(moved); i++)
            if (!prog_one_in(g, 4))
                g->pointers |= (uint16_t)(1u << moved[i]);
    } else {
        for (unsigned i = 0; i < 5; i++)
            g->pointers |= (uint16_t)(1u << usual[prog_pick(g, DP_ARRAY_LEN(usual))]);
    }
    unsigned index = (unsigned)prog_pick(g, g->code64 ? 16 : 8);
    if (!(g->pointers >> index & 1) && index != X86_RAX && index != X86_RDX)
        g->indexes = (uint16_t)(1u << index);
}

static void choose_state(struct prog_gen *g)
{
    struct program *p = g->p;
    struct cpu_regs *in = &p->in;
    /* Hot spots: borders of two pages, the start of the first, the end of the last writable ones. */
    for (unsigned i = 0; i < PROG_HOT; i++) {
        static const uint8_t border[] = {1, 2, 3, 4, 7, 8, 1, 2};
        g->hot[i] = PROG_DATA + border[prog_pick(g, DP_ARRAY_LEN(border))] * 4096u;
        if (prog_one_in(g, 3))
            g->hot[i] = PROG_DATA + prog_pick(g, 8 * 4096);
        if (g->high && prog_one_in(g, 2))
            g->hot[i] += PROG_HIGH - PROG_DATA;
    }
    for (unsigned i = 0; i < PROG_GPRS; i++) {
        in->r[i] = cpu_random_int(&g->r);
        if (g->pointers >> i & 1)
            in->r[i] = g->hot[prog_pick(g, PROG_HOT)] + prog_pick(g, 256) - 128;
        if (g->indexes >> i & 1)
            in->r[i] = prog_pick(g, 64);
        if (!g->code64)
            in->r[i] = (uint32_t)in->r[i];
    }
    /* The stack: somewhere in a writable stretch, often where it will grow over a border. */
    static const uint16_t stacks[] = {0x1040, 0x1010, 0x2020, 0x2008, 0x3018, 0x0c00, 0x2800, 0x7030, 0x7400, 0x1008};
    in->r[X86_RSP] = PROG_DATA + stacks[prog_pick(g, DP_ARRAY_LEN(stacks))] + prog_pick(g, 8) * 8;
    if (prog_one_in(g, 5))
        in->r[X86_RSP] += prog_pick(g, 8);
    if (g->high && prog_one_in(g, 2))
        in->r[X86_RSP] += PROG_HIGH - PROG_DATA;
    memcpy(g->at, in->r, sizeof g->at);
    in->rflags = 0x202 | (dp_random_next(&g->r) & X86_ARITH);
    in->seg[X86_CS] = g->code64 ? CPU_SEL_CODE64 : CPU_SEL_CODE32;
    in->seg[X86_SS] = in->seg[X86_DS] = in->seg[X86_ES] = CPU_SEL_DATA;
    if (g->code64) {
        in->fs_base = PROG_DATA + prog_pick(g, 0x8000), in->gs_base = PROG_DATA + prog_pick(g, 0x8000);
        if (g->high && prog_one_in(g, 2))
            in->fs_base += PROG_HIGH - PROG_DATA;
    } else {
        in->seg[X86_FS] = CPU_SEL_LDT(LDT_DATA32_BASE), in->seg[X86_GS] = CPU_SEL_LDT(LDT_SHORT);
        in->fs_base = cpu_ldt[LDT_DATA32_BASE].base, in->gs_base = cpu_ldt[LDT_SHORT].base;
    }
    cpu_random_fx(&g->r, in->fx);
    if (!prog_one_in(g, 20)) { /* mostly no exceptions from arithmetic */
        dp_st32(in->fx + FX_MXCSR, dp_ld32(in->fx + FX_MXCSR) | 0x1f80);
        dp_st16(in->fx + FX_FCW, dp_ld16(in->fx + FX_FCW) | 0x3f);
        dp_st16(in->fx + FX_FSW, dp_ld16(in->fx + FX_FSW) & 0x7f7f);
    }
    for (unsigned i = 0; i < 16; i++)
        cpu_random_vector(&g->r, in->ymm_high[i]);
    for (unsigned i = 0; i < PROG_MEMORY; i += 64) { /* of each line: a vector, a pointer, numbers */
        cpu_random_vector(&g->r, p->memory + i);
        cpu_random_bytes(&g->r, p->memory + i + 16, 32);
        dp_st64(p->memory + i + 48, g->hot[prog_pick(g, PROG_HOT)] + prog_pick(g, 64));
        dp_st64(p->memory + i + 56, cpu_random_int(&g->r));
    }
}

void prog_generate(const struct prog_forms *f, enum x86_mode mode, uint64_t seed, uint64_t index, struct program *p)
{
    struct prog_gen g = {.forms = f, .p = p, .code64 = mode == X86_MODE64};
    dp_random_seed(&g.r, seed * 0x9e3779b97f4a7c15ull ^ (uint64_t)mode << 44 ^ index * 0xd1342543de82ef95ull);
    memset(p, 0, offsetof(struct program, memory));
    p->seed = seed, p->index = index, p->mode = (uint8_t)mode;
    g.wild = prog_one_in(&g, 3) ? 0 : 20 + (unsigned)prog_pick(&g, 150);
    g.high = g.code64 && prog_one_in(&g, 2);
    choose_roles(&g);
    choose_state(&g);
    g.target = 5 + (unsigned)prog_pick(&g, prog_one_in(&g, 3) ? 30 : 116);
    g.functions = (unsigned)prog_pick(&g, PROG_FUNCTIONS + 1);
    for (unsigned i = 0; i < g.functions; i++)
        g.function[i] = prog_label(&g);
    g.function_now = ~0u; /* may call the first */
    while (p->count < g.target && !full(&g))
        item(&g, 2);
    static const uint8_t stop[1] = {0xcc};
    prog_put(&g, stop, 1, PROG_FIX_NONE, 0, -1, 0);
    for (unsigned i = 0; i < g.functions; i++) {
        function(&g, i);
        prog_put(&g, stop, 1, PROG_FIX_NONE, 0, -1, 0);
    }
    for (unsigned i = 0; i < p->count; i++)
        if (p->insn[i].fix != PROG_FIX_NONE && p->insn[i].target >= 0)
            p->insn[i].target = g.label[p->insn[i].target] >= 0 ? g.label[p->insn[i].target] : (int16_t)p->count;
    for (unsigned i = 0; i < p->table_count; i++)
        p->table[i] = g.label[p->table[i]] >= 0 ? g.label[p->table[i]] : (int16_t)p->count;
    unsigned size = relax(p);
    /* Anywhere in the two pages, often across their border. */
    unsigned room = CPU_CODE_SIZE - 64 - DP_MIN(size, (unsigned)PROG_MAX_CODE);
    p->code_offset = (uint16_t)(prog_one_in(&g, 3) && size < 4096 ? CPU_PAGE - prog_pick(&g, size + 1) : prog_pick(&g, room));
}
