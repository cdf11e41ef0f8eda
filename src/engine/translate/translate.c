/* engine/translate/translate.c - writing the host code of a block.
 *
 * Model: see docs/translator.md. Each guest instruction becomes: page checks of the access groups that begin here; loads
 * of spilled registers; the instruction itself with its operands replaced; stores of spilled registers. Paths that are
 * rarely taken (misses, exits) stand behind the block.
 * Invariants: until the instruction's first visible effect (tinsn.commit) nothing the guest can see has changed, so at any host address
 * up to there the guest is at the beginning of that instruction.
 * All accesses that can fault come before that effect.
 */
#include <stddef.h>
#include <stdlib.h>

#include "engine/translate/analyse.h"
#include "engine/translate/dump.h"

static bool spilled(unsigned guest) { return guest >= X86_R13 && guest <= X86_R15; }
static struct mem slot(unsigned guest) { return ctx_at(offsetof(struct tctx, r13) + 8 * (guest - X86_R13)); }

struct slow { /* a way to the slow path, written behind the block */
    uint8_t *patch[2];  /* 32-bit displacements that lead here */
    uint8_t *near[2];   /* 8-bit ones (JRCXZ), which need an island within reach */
    uint64_t back;
    bool in_r14;        /* the address is in R14, else base + disp */
    uint8_t base;       /* guest */
    int32_t disp;
    uint32_t site;
};
struct out { /* a way out of the block */
    uint8_t *patch;     /* 32-bit displacement that leads here */
    int64_t target;     /* page offset; outside the page: by the jump cache */
    uint32_t site;      /* of the branch */
    unsigned done;      /* instructions up to and with this branch */
};

struct writer {
    struct tcpu *t;
    struct emitter e;
    struct path path;
    struct slow slow[2 * MAX_INSNS + 1];
    unsigned slows, islands_done;
    bool near_waiting;  /* some of them have a jump that wants an island */
    struct out out[MAX_INSNS + 2];
    unsigned outs;
    struct tinsn map[MAX_INSNS + 1]; /* the last: what follows the last instruction */
    uint8_t *start;
    uint64_t page_host;         /* of the guest code's page (tblock.host) */
    unsigned current;
    bool x87_tested, x87_noted; /* on this path: the unit is the guest's; tctx.x87_page is this page */
    uint8_t x87_seg;            /* tctx.x87_seg if known, else 0xff */
    bool broken;
    struct tblock *block;
};

int translate_init(struct tcpu *t, struct dp_error *e)
{
    t->writer = malloc(sizeof(*t->writer));
    return t->writer ? 0 : dp_error_set(e, -ENOMEM, "no memory for a processor's translator");
}
void translate_fini(struct tcpu *t) { free(t->writer); }

/* ---- small pieces ---- */

static struct mem constant(const struct writer *w, unsigned k) { return (struct mem){RIP_REG, NO_REG, 0, 0,
                                                                                     (int64_t)(w->t->constants + 8 * k)}; }
static unsigned log2_up(unsigned n)
{
    unsigned k = 0;
    while (1u << k < n)
        k++;
    return k;
}
/* Is a word of the stack, an address 8 bytes wide? If not (32-bit code) they are 4; 32-bit host operations then wrap as the guest's do. */
static bool wide(const struct writer *w) { return w->path.word == 8; }
/* LEA of the guest's width: an address, or an addition that keeps the flags. */
static void lea_word(struct writer *w, unsigned reg, struct mem m) { emit_lea(&w->e, reg, &m, wide(w)); }
static void load_word(struct writer *w, unsigned reg, struct mem m) { emit_op_mem(&w->e, wide(w), 0x8b, reg, &m, 0); }
static void store_word(struct writer *w, unsigned reg, struct mem m) { emit_op_mem(&w->e, wide(w), 0x89, reg, &m, 0); }
static void add_rsp(struct writer *w, int32_t by) { lea_word(w, RSP, (struct mem){RSP, NO_REG, 0, 0, by}); }

static void commit_here(struct writer *w)
{
    struct tinsn *m = &w->map[w->current];
    if (m->commit == 0xff)
        m->commit = (uint8_t)DP_MIN((unsigned)(w->e.w - w->start) - m->host, 0xfeu);
}

/* Few of these ever run: what they say is in the arena, and the code only says where. */
static void jump_numbered(struct writer *w, const void *record, uint64_t stub)
{
    emit8(&w->e, 0xb8 | RCX); /* MOV ECX, number */
    emit32(&w->e, cache_number(w->t, record));
    emit_jmp(&w->e, stub);
}

static void leave_for_helper(struct writer *w, unsigned page_offset, uint32_t helper)
{
    emit_set32(&w->e, CTX(site), page_offset);
    emit_set32(&w->e, CTX(helper), helper);
    emit_jmp(&w->e, w->t->stub_helper);
}

/* Out of reach would be a mistake of this file: such a block is not used. */
static void patch_near(struct writer *w, uint8_t *at)
{
    ptrdiff_t d = w->e.w - (at + 1);
    if (d > 127)
        w->broken = true;
    *at = (uint8_t)d;
}

/* JRCXZ reaches 127 bytes: when the oldest waiting one gets too far away, jumps to the slow paths are placed here. Called at the start of
 * each instruction, where room is what an instruction without checks may take, and before jumps through the jump cache; before each check
 * it places whatever waits. What a check and the rest of its instruction take (26 and 61 bytes after its first JRCXZ) is in reach. */
#define ROOM 75
#define ROOM_JUMP 96 /* jump_cached */
#define ROOM_FAR 60  /* jump_far */
#define ROOM_NONE 127
static void islands(struct writer *w, unsigned room, bool falls_through)
{
    if (!w->near_waiting)
        return;
    uint8_t *oldest = NULL;
    unsigned waiting = 0;
    for (unsigned k = w->islands_done; k < w->slows; k++) {
        uint8_t *first = w->slow[k].near[0] ? w->slow[k].near[0] : w->slow[k].near[1];
        oldest = oldest ? oldest : first;
        waiting += first != NULL;
    }
    if ((unsigned)(w->e.w - oldest) + room + 2 + 5 * (waiting - 1) <= 127)
        return;
    uint8_t *over = NULL;
    if (falls_through) {
        emit8(&w->e, 0xeb);
        emit8(&w->e, 0);
        over = w->e.w;
    }
    for (unsigned k = w->islands_done; k < w->slows; k++) {
        struct slow *s = &w->slow[k];
        if (!s->near[0] && !s->near[1])
            continue;
        for (unsigned j = 0; j < 2; j++)
            if (s->near[j]) {
                patch_near(w, s->near[j]);
                s->near[j] = NULL;
            }
        uint8_t *at = emit_jmp(&w->e, 0);
        s->patch[s->patch[0] ? 1 : 0] = at;
    }
    w->islands_done = w->slows;
    w->near_waiting = false;
    if (over)
        over[-1] = (uint8_t)(w->e.w - over);
}

/* Page check of `size` bytes. The address is base + disp (base: a guest register that is in a host's), or in R14. Leaves the table's entry
 * in RCX. within: it is known that they do not cross a page.
 * clobber: the arithmetic flags may be. temp: a free register besides RCX, used only when they may not.
 * Stacks end at the end of a page, and a kernel's first frame is there in every system call: through RSP it is the last byte that is
 * looked at, for more than a word, and what goes the slow way is the begin of a page. Large groups are tested exactly, where flags do
 * not matter: too much of a page would go there. */
static void check(struct writer *w, bool in_r14, unsigned base, int32_t disp, unsigned size, bool within, uint32_t site, bool clobber,
                  unsigned temp)
{
    struct emitter *e = &w->e;
    bool exact = !in_r14 && clobber && size > 32, last = !in_r14 && !exact && base == X86_RSP && size > 8;
    struct mem address = {home[base], NO_REG, 0, 0, last ? disp + (int32_t)size - 1 : disp}, page_mask = constant(w, CONSTANT_PAGE),
               table = {NO_REG, RCX, 3, 0x65, 0};
    unsigned k = log2_up(size);
    islands(w, ROOM_NONE, true);
    struct slow *s = &w->slow[w->slows++];
    *s = (struct slow){.in_r14 = in_r14, .base = (uint8_t)base, .disp = disp, .site = site | size << SITE_LENGTH_SHIFT};
    unsigned inverted = RCX;
    within |= size == 1;
    if (!clobber && !within && !in_r14)
        inverted = temp;
    if (in_r14)
        emit_mov(e, inverted, R14);
    else if (address.disp)
        emit_lea(e, inverted, &address, true);
    else
        emit_mov(e, inverted, home[base]);
    if (exact) { /* do the first and the last byte differ in bit 12? XOR R14, RCX; TEST R14D, 0x1000; JNZ */
        emit_lea(e, R14, &(struct mem){home[base], NO_REG, 0, 0, disp + (int32_t)size - 1}, true);
        emit_op_reg(e, true, 0x33, R14, RCX);
        emit8(e, 0x41), emit8(e, 0xf7), emit8(e, 0xc6);
        emit32(e, DP_PAGE_SIZE);
        s->patch[0] = emit_jcc(e, 5, 0);
    }
    if (!last)
        emit_not(e, inverted);
    if (!within && !exact) {
        struct mem slot_mask = constant(w, CONSTANT_SLOT + k);
        if (clobber) { /* TEST ECX, mask; JZ: in the last place of its size in the page */
            emit8(e, 0xf7), emit8(e, 0xc1);
            emit32(e, 0xfff & ~((1u << k) - 1));
            s->patch[0] = emit_jcc(e, 4, 0);
        } else {
            emit_pext(e, RCX, inverted, &slot_mask);
            emit8(e, 0xe3), emit8(e, 0); /* JRCXZ */
            s->near[0] = e->w - 1;
            w->near_waiting = true;
            if (in_r14) {
                emit_mov(e, RCX, R14);
                emit_not(e, RCX);
            }
        }
        if (last)
            emit_not(e, inverted);
    }
    if (clobber) { /* SHL RCX, 16; SHR RCX, 28: bits 12-47 like PEXT, a cycle sooner */
        static const uint8_t bits[] = {0x48, 0xc1, 0xe1, 16, 0x48, 0xc1, 0xe9, 28};
        memcpy(e->w, bits, sizeof(bits));
        e->w += sizeof(bits);
    } else {
        emit_pext(e, RCX, inverted, &page_mask);
    }
    emit_load(e, RCX, &table);
    if (clobber) {
        emit_op_reg(e, true, 0x85, RCX, RCX); /* TEST RCX, RCX; JZ */
        s->patch[1] = emit_jcc(e, 4, 0);
    } else {
        emit8(e, 0xe3), emit8(e, 0);
        s->near[1] = e->w - 1;
        w->near_waiting = true;
    }
    s->back = emit_here(e);
}

/* Is the access all that the instruction can fault by, at the address that its check looks up? */
static uint32_t sole_fault(const struct insn_info *n, const struct access *a)
{
    bool plain = n->kind == KIND_COPY || n->kind == KIND_PUSH || n->kind == KIND_POP;
    bool alone = n->memory.used != n->stack.used && a->used && a->size <= 8 && !(n->i.row->flags & X86_F_ALIGN) && !n->x87;
    return plain && alone ? SITE_SOLE : 0;
}

static void store_delta(struct writer *w, const struct group *g)
{
    if (g->storage == DELTA_R15) {
        emit_mov(&w->e, R15, RCX);
    } else if (g->storage != DELTA_RCX) {
        struct mem m = ctx_at(offsetof(struct tctx, delta) + 8u * g->storage);
        emit_store(&w->e, RCX, &m);
    }
}

/* The checks of groups that stand before instruction k. */
static void group_checks(struct writer *w, unsigned k)
{
    const struct insn_info *n = &w->path.insn[k];
    for (unsigned pass = 0; pass < 2; pass++) /* one whose entry stays in RCX comes last */
        for (unsigned g = 0; g < w->path.groups; g++) {
            const struct group *q = &w->path.group[g];
            if (q->at != k || (q->storage == DELTA_RCX) != (pass == 1))
                continue;
            const struct access *a = n->memory.used ? &n->memory : &n->stack;
            bool first = q->first == k && a->group == g && a->disp == q->low - q->adjust_at;
            uint32_t site =
                (first ? sole_fault(n, a) : 0) | n->offset | (q->first == k && q->write ? SITE_WRITE : 0) | (q->count > 1 ? SITE_GROUP : 0);
            check(w, false, q->base, q->low - q->adjust_at, (unsigned)(q->high - q->low), false, site, !n->live, R14);
            store_delta(w, q);
        }
}

/* Register that holds a group's entry: R15, or RCX after loading it. In a direct space there are no
 * groups, and addresses are the host's. */
static unsigned delta_register(struct writer *w, unsigned g)
{
    if (g == NO_GROUP)
        return NO_REG;
    const struct group *q = &w->path.group[g];
    if (q->storage == DELTA_R15)
        return R15;
    if (q->storage != DELTA_RCX) {
        struct mem m = ctx_at(offsetof(struct tctx, delta) + 8u * q->storage);
        emit_load(&w->e, RCX, &m);
    }
    return RCX;
}

/* R14 = the running page + offset. A displacement from the end of the page may be a little more than 31 bits. */
static void r14_from_page(struct writer *w, int64_t offset)
{
    struct mem page = CTX(page);
    emit_load(&w->e, R14, &page);
    for (int64_t part; offset; offset -= part) {
        part = DP_MIN(offset, (int64_t)INT32_MAX);
        lea_word(w, R14, (struct mem){R14, NO_REG, 0, 0, part});
    }
}

/* A store that is known for finding the read-only view: it looks, and goes to the interpreter
 * without a host signal. The operand becomes R14. */
static struct mem store_check(struct writer *w, const struct insn_info *n, struct mem m)
{
    struct emitter *e = &w->e;
    struct mem bit = constant(w, CONSTANT_RO);
    if (w->t->is_direct || !n->memory.write || n->x87 /* its pointer is made of R14 */ ||
        !cache_store_refused(w->t, w->page_host + n->offset))
        return m;
    islands(w, 80, true);
    emit_lea(e, R14, &m, true);
    emit_pext(e, RCX, R14, &bit);
    emit8(e, 0xe3), emit8(e, 0); /* JRCXZ: the other view */
    uint8_t *writable = e->w;
    if (n->memory.simple && sole_fault(n, &n->memory)) {
        struct tslow *record = cache_alloc(w->t, sizeof(*record));
        *record = (struct tslow){(uint32_t)(e->w - w->t->rw),
                                 n->offset | SITE_WRITE | SITE_SOLE | SITE_REFUSED | (uint32_t)n->memory.size << SITE_LENGTH_SHIFT,
                                 n->memory.disp, n->memory.base};
        jump_numbered(w, record, w->t->stub_slow);
    } else {
        leave_for_helper(w, n->offset, 0);
    }
    writable[-1] = (uint8_t)(e->w - writable);
    return (struct mem){R14, NO_REG, 0, 0, 0};
}

/* The host operand of the instruction's memory access. A simple one leaves R14 free, others use R14 and RCX. */
static struct mem memory_operand(struct writer *w, const struct insn_info *n)
{
    const struct x86_insn *i = &n->i;
    struct emitter *e = &w->e;
    const struct access *a = &n->memory;
    if (a->simple)
        return store_check(w, n, (struct mem){home[a->base], (uint8_t)delta_register(w, a->group), 0, 0, a->disp});
    struct mem m = {NO_REG, NO_REG, i->scale, 0, i->disp};
    bool within = false;
    if (i->base == X86_RIP) {
        int64_t at = i->disp + n->offset + i->length;
        r14_from_page(w, at);
        within =
            i->seg != X86_FS && i->seg != X86_GS && i->address_size == w->path.word && ((uint64_t)at & 0xfff) + a->size <= DP_PAGE_SIZE;
        m = (struct mem){R14, NO_REG, 0, 0, 0};
    } else {
        if (i->base < 16 && spilled(i->base)) {
            struct mem s = slot(i->base);
            emit_load(e, R14, &s);
            m.base = R14;
        } else if (i->base < 16) {
            m.base = home[i->base];
        }
        if (i->index < 16 && spilled(i->index)) {
            struct mem s = slot(i->index);
            emit_load(e, RCX, &s);
            m.index = RCX;
        } else if (i->index < 16) {
            m.index = home[i->index];
        }
    }
    if (w->t->is_direct && i->address_size == 8 && i->seg != X86_FS && i->seg != X86_GS && !n->points)
        return m;
    if (m.base != R14 || m.index != NO_REG || m.disp || i->address_size == 4)
        emit_lea(e, R14, &m, i->address_size == 8);
    if (i->seg == X86_FS || i->seg == X86_GS) {
        struct mem base = ctx_at(offsetof(struct tctx, segbase) + (i->seg == X86_GS ? 8u : 0));
        emit_load(e, RCX, &base);
        lea_word(w, R14, (struct mem){R14, RCX, 0, 0, 0});
        if (!wide(w)) {
            struct mem poison = ctx_at(offsetof(struct tctx, segpoison) + (i->seg == X86_GS ? 8u : 0));
            emit_load(e, RCX, &poison);
            emit_lea(e, R14, &(struct mem){R14, RCX, 0, 0, 0}, true);
        }
    }
    if (w->t->is_direct)
        return (struct mem){R14, NO_REG, 0, 0, 0};
    check(w, true, 0, 0, a->size, within, sole_fault(n, a) | n->offset | (a->write ? SITE_WRITE : 0), !n->live, NO_REG);
    return store_check(w, n, (struct mem){R14, RCX, 0, 0, 0});
}

/* ---- leaving the block ---- */

/* To the address in R14, through the jump cache; adjust is added to RSP with the jump. Clobbers RCX, R15. The way on after a hit takes no
 * branch: LOOP does not if RCX gets 0. That is one cycle on AMD's processors, several on others, which jump over a jump. */
static void jump_cached(struct writer *w, uint32_t site, unsigned done, int32_t adjust)
{
    struct emitter *e = &w->e;
    struct mem mask = constant(w, CONSTANT_JUMP), page = CTX(page), jump = {NO_REG, R15, 3, 0x65, -(int64_t)JUMP_BYTES}, negative = jump,
               where = jump, code = jump;
    negative.disp += offsetof(struct tjump, negative_rip);
    where.disp += offsetof(struct tjump, page);
    code.disp += offsetof(struct tjump, code);
    islands(w, ROOM_JUMP, true);
    emit_bits(e, true, R15, R14, &mask);
    emit_load(e, RCX, &negative);
    emit_lea(e, RCX, &(struct mem){RCX, R14, 0, 0, w->t->fast_loop}, true);
    if (w->t->fast_loop) {
        emit8(e, 0xe2); /* LOOP */
    } else {
        emit8(e, 0xe3), emit8(e, 2); /* JRCXZ; JMP */
        emit8(e, 0xeb);
    }
    emit8(e, 0);
    uint8_t *miss = e->w;
    emit_load(e, RCX, &where);
    commit_here(w);
    emit_store(e, RCX, &page);
    if (adjust)
        add_rsp(w, adjust);
    emit_op_mem(e, false, 0xff, 4, &code, 0);
    miss[-1] = (uint8_t)(e->w - miss);
    emit_set32(e, CTX(site), site | done << SITE_DONE_SHIFT);
    emit_set32(e, CTX(adjust), (uint32_t)adjust);
    emit_jmp(e, w->t->stub_lookup);
}

static void add_link(struct writer *w, struct tlink *l, const uint8_t *patch, int64_t target, unsigned done)
{
    l->from = cache_number(w->t, w->block->page);
    l->next = w->block->links;
    l->patch = (uint32_t)(patch - w->t->rw);
    l->target = (int32_t)target;
    l->done = (uint8_t)done;
    w->block->links = cache_number(w->t, l);
}

/* To a place outside the page that is known by its distance. The link cell holds the page it is in, if the link is
 * made and holds in the current table; its displacement and the jump's are patched by cache_link_far. The way to C
 * stands right behind (FAR_COLD). Clobbers RCX. */
static void jump_far(struct writer *w, int64_t target, uint32_t site, unsigned done, int32_t adjust)
{
    struct emitter *e = &w->e;
    struct mem page = CTX(page);
    if (!wide(w)) { /* may wrap */
        r14_from_page(w, target);
        jump_cached(w, site, done, adjust);
        return;
    }
    islands(w, ROOM_FAR, true);
    emit_load(e, RCX, &(struct mem){NO_REG, NO_REG, 0, 0x65, cell_displacement(0)});
    uint8_t *cell = e->w - 4;
    emit8(e, 0xe3), emit8(e, 0);
    uint8_t *miss = e->w;
    commit_here(w);
    emit_store(e, RCX, &page);
    if (adjust)
        add_rsp(w, adjust);
    uint8_t *patch = emit_jmp(e, w->t->stub_link);
    miss[-1] = (uint8_t)(e->w - miss);
    struct tfar *far = cache_alloc(w->t, sizeof(*far));
    add_link(w, &far->link, patch, target, done);
    far->link.adjust = adjust;
    far->link.site = site & SITE_NONE ? FAR_NONE : (uint16_t)(site & 0xfff);
    far->link.cell_back = (uint8_t)(patch - cell);
    jump_numbered(w, &far->link, w->t->stub_link);
    if (w->t->is_direct) { /* what stub_far does elsewhere: the arena is not there */
        far->fallback = (uint32_t)(e->w - w->t->rw);
        r14_from_page(w, target);
        jump_cached(w, site, done, adjust);
    }
}

static unsigned done_here(const struct writer *w) { return DP_MIN(w->current + 1, w->path.count); } /* with the one that is being written */
static void add_out(struct writer *w, uint8_t *patch, int64_t target, uint32_t site) { w->out[w->outs++] = (struct out){patch, target, site,
                                                                                                                        done_here(w)}; }

/* To a page offset, from here, unconditionally. site: the branch's page offset, SITE_NONE: none, execution runs on to there. */
static void leave_to(struct writer *w, int64_t target, uint32_t site)
{
    if (target >= 0 && target < (int64_t)DP_PAGE_SIZE) {
        add_out(w, emit_jmp(&w->e, 0), target, site);
    } else {
        jump_far(w, target, site, done_here(w), 0);
    }
}

/* ---- instructions ---- */

static int64_t branch_target(const struct insn_info *n) { return (int64_t)n->offset + n->i.length + (int64_t)n->i.imm; }

/* MOV and what writes all of a register whatever it held. */
static bool replaces(const struct x86_insn *i, const struct x86_operand *o)
{
    if (o->access != X86_WRITE || o->size < 4)
        return false;
    switch (i->op) {
    case X86_OP_MOV: case X86_OP_LEA: case X86_OP_MOVZX: case X86_OP_MOVSX: case X86_OP_MOVSXD: return true;
    default: return false;
    }
}

/* Before the first x87 or MMX instruction of a path: is the unit the guest's? */
static void x87_test(struct writer *w, const struct insn_info *n)
{
    struct emitter *e = &w->e;
    struct mem live = CTX(x87_live);
    if (n->live)
        islands(w, 70, true);
    struct slow *s = &w->slow[w->slows++];
    *s = (struct slow){.site = n->offset | SITE_X87};
    if (n->live) { /* MOVZX ECX; JRCXZ */
        emit_op_mem(e, false, 0x0fb6, RCX, &live, 0);
        emit8(e, 0xe3), emit8(e, 0);
        s->near[0] = e->w - 1;
        w->near_waiting = true;
    } else { /* CMP; JZ */
        emit_op_mem(e, false, 0x80, 7, &live, 1);
        emit8(e, 0);
        s->patch[0] = emit_jcc(e, 4, 0);
    }
    s->back = emit_here(e);
    w->x87_tested = true;
}

/* After an x87 instruction, what the host's pointers do not tell: its page, once on a path, and its memory operand, whose effective address
 * is in its base register, or in R14 with the segment's base added. */
static void x87_note_pointers(struct writer *w, const struct insn_info *n)
{
    struct emitter *e = &w->e;
    const struct x86_insn *i = &n->i;
    struct mem page = CTX(page), x87_page = CTX(x87_page), fdp = CTX(x87_fdp), seg = CTX(x87_seg);
    islands(w, 80, true);
    w->map[w->current].fop = (uint16_t)(TINSN_FOP | (i->opcode & 7u) << 8 | i->modrm);
    if (!w->x87_noted) {
        emit_load(e, RCX, &page);
        emit_store(e, RCX, &x87_page);
        w->x87_noted = true;
    }
    if (!n->memory.used)
        return;
    unsigned from = R14;
    if (n->memory.simple) {
        from = home[n->memory.base];
        if (n->memory.disp) {
            emit_lea(e, RCX, &(struct mem){(uint8_t)from, NO_REG, 0, 0, n->memory.disp}, true);
            from = RCX;
        }
    } else if (i->seg == X86_FS || i->seg == X86_GS) {
        struct mem base = ctx_at(offsetof(struct tctx, segbase) + (i->seg == X86_GS ? 8u : 0));
        emit_load(e, RCX, &base);
        emit_not(e, RCX);
        lea_word(w, RCX, (struct mem){R14, RCX, 0, 0, 1});
        from = RCX;
    }
    emit_store(e, from, &fdp);
    if (w->x87_seg != i->seg) {
        emit_op_mem(e, false, 0xc6, 0, &seg, 1);
        emit8(e, i->seg);
        w->x87_seg = i->seg;
    }
}

static void copy(struct writer *w, const struct insn_info *n)
{
    const struct x86_insn *i = &n->i;
    struct emitter *e = &w->e;
    struct places p = {NO_REG, NO_REG, NO_REG, false, {NO_REG, NO_REG, 0, 0, 0}};
    bool by_cl = implicit_rcx(i), lea = i->op == X86_OP_LEA;
    if (n->memory.used) {
        p.memory = true;
        p.m = memory_operand(w, n);
    }
    /* Registers: in their homes, or in scratch ones. */
    struct { uint8_t guest, host; bool load, store; } s[2];
    unsigned count = 0;
    bool r14_taken = p.memory && p.m.base == R14, rcx_taken;
    if (lea) {
        struct mem m = {NO_REG, NO_REG, i->scale, 0, i->disp};
        if (i->base == X86_RIP) {
            r14_from_page(w, i->disp + n->offset + i->length);
            m = (struct mem){R14, NO_REG, 0, 0, 0};
        } else {
            if (i->base < 16)
                m.base = home[i->base];
            if (i->base < 16 && spilled(i->base)) {
                struct mem at = slot(i->base);
                emit_load(e, R14, &at);
                m.base = R14;
            }
            if (i->index < 16)
                m.index = home[i->index];
            if (i->index < 16 && spilled(i->index)) {
                struct mem at = slot(i->index);
                emit_load(e, RCX, &at);
                m.index = RCX;
            }
        }
        if (i->address_size == 4 && i->operand_size == 8) { /* the address wraps before it is put into the register */
            emit_lea(e, R14, &m, false);
            m = (struct mem){R14, NO_REG, 0, 0, 0};
        }
        bool partial = i->operand_size == 2; /* the register is loaded first, then: not into one of the address's */
        if (partial && m.index == RCX) {
            emit_lea(e, R14, &m, true);
            m = (struct mem){R14, NO_REG, 0, 0, 0};
        }
        p.memory = true;
        p.m = m;
        r14_taken = partial && m.base == R14; /* others: read before it is written */
    }
    rcx_taken = p.memory && !lea && p.m.index == RCX;
    if (rcx_taken && (by_cl || spilled_operands(i) > (r14_taken ? 0u : 1u))) { /* one register for the whole address */
        emit_lea(e, R14, &p.m, true);
        p.m = (struct mem){R14, NO_REG, 0, 0, 0};
        r14_taken = true;
    }
    for (unsigned k = 0; k < i->operand_count; k++) {
        const struct x86_operand *o = &i->operand[k];
        enum place place = place_of(i->row->operand[k]);
        if (o->kind != X86_REG || o->reg_class != X86_RC_GPR || place == PLACE_NONE)
            continue;
        unsigned host = home[o->reg];
        if (spilled(o->reg)) {
            unsigned j = 0;
            while (j < count && s[j].guest != o->reg)
                j++;
            if (j == count) {
                s[count].guest = o->reg;
                s[count].host = r14_taken ? RCX : R14;
                r14_taken = true;
                s[count].load = s[count].store = false;
                count++;
            }
            s[j].load |= !replaces(i, o);
            s[j].store |= (o->access & X86_WRITE) || i->op == X86_OP_XCHG || i->op == X86_OP_XADD;
            host = s[j].host;
        }
        if (place == PLACE_REG)
            p.reg = (uint8_t)host;
        else if (place == PLACE_RM)
            p.rm = (uint8_t)host;
        else
            p.vvvv = (uint8_t)host;
    }
    for (unsigned j = 0; j < count; j++)
        if (s[j].load) {
            struct mem at = slot(s[j].guest);
            emit_load(e, s[j].host, &at);
        }
    if (by_cl)
        emit_mov(e, RCX, R13);
    bool stores = false;
    for (unsigned j = 0; j < count; j++)
        stores |= s[j].store;
    bool to_ecx = i->op == X86_OP_PCMPESTRI || i->op == X86_OP_PCMPISTRI || i->op == X86_OP_VPCMPESTRI || i->op == X86_OP_VPCMPISTRI;
    if (stores || to_ecx || n->points)
        commit_here(w);
    emit_insn(e, n->raw, i, &p);
    if (n->points)
        x87_note_pointers(w, n);
    for (unsigned j = 0; j < count; j++)
        if (s[j].store) {
            struct mem at = slot(s[j].guest);
            emit_store(e, s[j].host, &at);
        }
    if (to_ecx)
        emit_op_reg(e, false, 0x8b, R13, RCX);
}

/* AH, CH, DH, BH: no REX, so everything in legacy registers; guest RCX visits its own for the time, or an address is there. */
static void high_byte(struct writer *w, const struct insn_info *n)
{
    const struct x86_insn *i = &n->i;
    struct places p = {NO_REG, NO_REG, NO_REG, false, {RCX, NO_REG, 0, 0, 0}};
    bool rcx = false, written = false;
    if (n->memory.used) {
        struct mem m = memory_operand(w, n);
        emit_lea(&w->e, RCX, &m, true);
        p.memory = true;
        emit_insn(&w->e, n->raw, i, &p);
        return;
    }
    for (unsigned k = 0; k < i->operand_count; k++) {
        const struct x86_operand *o = &i->operand[k];
        if (o->kind != X86_REG || (o->reg_class == X86_RC_GPR8H ? o->reg & 3 : o->reg) != X86_RCX)
            continue;
        rcx = true;
        written |= (o->access & X86_WRITE) || i->op == X86_OP_XCHG || i->op == X86_OP_XADD;
    }
    if (rcx)
        emit_mov(&w->e, RCX, R13);
    if (written)
        commit_here(w);
    for (unsigned k = 0; k < i->length; k++)
        emit8(&w->e, n->raw[k]);
    if (written)
        emit_mov(&w->e, R13, RCX);
}

static void push(struct writer *w, const struct insn_info *n)
{
    const struct x86_insn *i = &n->i;
    const struct x86_operand *o = &i->operand[0];
    struct emitter *e = &w->e;
    if (o->kind == X86_MEM) {
        load_word(w, R14, memory_operand(w, n));
    }
    struct mem at = {RSP, (uint8_t)delta_register(w, n->stack.group), 0, 0, n->stack.disp};
    commit_here(w); /* the source may overlap the stack */
    if (o->kind == X86_IMM) {
        emit_op_mem(e, wide(w), 0xc7, 0, &at, 4);
        emit32(e, (uint32_t)i->imm);
    } else if (o->kind == X86_MEM) {
        store_word(w, R14, at);
    } else if (spilled(o->reg)) {
        struct mem s = slot(o->reg);
        emit_load(e, R14, &s);
        emit_store(e, R14, &at);
    } else {
        store_word(w, home[o->reg], at);
    }
    add_rsp(w, n->stack.disp);
}

static void pop(struct writer *w, const struct insn_info *n)
{
    unsigned r = n->i.operand[0].reg;
    struct mem at = {RSP, (uint8_t)delta_register(w, n->stack.group), 0, 0, 0};
    if (spilled(r)) {
        struct mem s = slot(r);
        load_word(w, R14, at);
        commit_here(w);
        emit_store(&w->e, R14, &s);
    } else {
        commit_here(w);
        load_word(w, home[r], at);
    }
    if (r != X86_RSP) /* what was popped into it stays (SDM vol. 2, POP) */
        add_rsp(w, (int32_t)w->path.word);
}

static void leave_frame(struct writer *w, const struct insn_info *n)
{
    struct mem at = {RBP, (uint8_t)delta_register(w, n->stack.group), 0, 0, 0};
    load_word(w, R14, at);
    commit_here(w); /* with RSP there an interrupt's frame may be where the saved RBP was: it is not to be read again */
    lea_word(w, RSP, (struct mem){RBP, NO_REG, 0, 0, w->path.word});
    emit_mov(&w->e, RBP, R14);
}

/* Faults, interrupts and resumption in the middle are the host's own. With DF set it is the interpreter's. */
static void string(struct writer *w, const struct insn_info *n)
{
    struct emitter *e = &w->e;
    struct mem flags = CTX(system_flags), mask = constant(w, CONSTANT_DF);
    bool repeated = n->i.rep || n->i.repne;
    islands(w, 90, true);
    emit_load(e, RCX, &flags);
    emit_pext(e, RCX, RCX, &mask);
    emit8(e, 0xe3), emit8(e, 0);
    uint8_t *up = e->w;
    leave_for_helper(w, n->offset, 0);
    up[-1] = (uint8_t)(e->w - up);
    if (repeated)
        emit_mov(e, RCX, R13);
    commit_here(w);
    if (repeated)
        w->map[w->current].fop = TINSN_RCX;
    for (unsigned k = 0; k < n->i.length; k++)
        emit8(e, n->raw[k]);
    if (repeated)
        emit_mov(e, R13, RCX);
}

/* ---- system instructions ---- */

/* A bit of tctx.system_flags is cleared or set; RCX gets them. */
static void system_flag(struct writer *w, unsigned not_bit, uint32_t value)
{
    struct mem flags = CTX(system_flags), mask = constant(w, not_bit);
    emit_load(&w->e, RCX, &flags);
    emit_bits(&w->e, false, RCX, RCX, &mask); /* out with the bit, and the others to their places: no flags change */
    emit_bits(&w->e, true, RCX, RCX, &mask);
    if (value)
        emit_lea(&w->e, RCX, &(struct mem){RCX, NO_REG, 0, 0, (int32_t)value}, true);
    emit_store(&w->e, RCX, &flags);
}

/* Does what translated code may rely on, the place of the code that follows among it, outlive the instruction? */
static bool keeps_code(const struct x86_insn *i)
{
    return !(i->row->flags & X86_F_SYSTEM) || i->op == X86_OP_STAC || i->op == X86_OP_CLAC ||
           (i->op == X86_OP_MOV_CR && i->operand[0].reg_class == X86_RC_GPR);
}

/* The interpreter does it, and where it can (struct top) execution comes back to what stands behind. */
static void in_place(struct writer *w, const struct insn_info *n)
{
    struct emitter *e = &w->e;
    struct mem op = CTX(op);
    struct top *p = cache_alloc(w->t, sizeof(*p));
    islands(w, 60, true);
    emit8(e, 0xb8 | RCX); /* MOV ECX, number */
    emit32(e, cache_number(w->t, p));
    emit_store(e, RCX, &op);
    leave_for_helper(w, n->offset, HELPER_OP);
    *p = (struct top){NULL, emit_here(e), keeps_code(&n->i)};
}

/* STAC and CLAC: nothing to do, or the table of the other kind, if it is ready; else as in_place. */
static void set_ac(struct writer *w, const struct insn_info *n)
{
    struct emitter *e = &w->e;
    struct mem flags = CTX(system_flags), gs = CTX(gs), other = CTX(other_table), mask = constant(w, CONSTANT_AC);
    bool on = n->i.op == X86_OP_STAC;
    islands(w, ROOM_NONE, true);
    emit_load(e, RCX, &flags);
    if (on)
        emit_not(e, RCX);
    emit_pext(e, RCX, RCX, &mask);
    emit8(e, 0xe3), emit8(e, 0); /* JRCXZ: it is so already */
    uint8_t *same = e->w;
    emit_load(e, RCX, &other);
    emit8(e, 0xe3), emit8(e, 0);
    uint8_t *slow = e->w;
    emit_load(e, R14, &gs);
    commit_here(w);
    emit_store(e, R14, &other);
    emit_store(e, RCX, &gs);
    emit8(e, 0xf3), emit8(e, 0x48), emit8(e, 0x0f), emit8(e, 0xae), emit8(e, 0xd9); /* WRGSBASE RCX */
    emit_load(e, RCX, &flags);
    emit_lea(e, RCX, &(struct mem){RCX, NO_REG, 0, 0, on ? X86_AC : -(int64_t)X86_AC}, true);
    emit_store(e, RCX, &flags);
    same[-1] = (uint8_t)(e->w - same);
    uint8_t *over = emit_jmp(e, 0);
    slow[-1] = (uint8_t)(e->w - slow);
    in_place(w, n);
    emit_patch(e, over, emit_here(e));
}

/* An interrupt that waited for IF is the run loop's business: then the interpreter does the STI. */
static void set_if(struct writer *w, const struct insn_info *n)
{
    struct mem c = CTX(c);
    islands(w, 90, true);
    emit_load(&w->e, RCX, &c);
    emit_op_mem(&w->e, false, 0x8b, RCX, &(struct mem){RCX, NO_REG, 0, 0, offsetof(struct icpu, lines)}, 0);
    emit8(&w->e, 0xe3), emit8(&w->e, 0);
    uint8_t *none = w->e.w;
    leave_for_helper(w, n->offset, 0);
    none[-1] = (uint8_t)(w->e.w - none);
    system_flag(w, CONSTANT_NOT_IF, X86_IF);
}

static void emit_rorx(struct emitter *e, unsigned to, unsigned from, unsigned count)
{
    emit8(e, 0xc4);
    emit8(e, (to & 8 ? 0u : 0x80u) | 0x40 | (from & 8 ? 0u : 0x20u) | 3);
    emit8(e, 0xfb);
    emit8(e, 0xf0);
    emit8(e, 0xc0 | (to & 7) << 3 | (from & 7));
    emit8(e, count);
}

/* See system_tsc. No flags change. */
static void read_tsc(struct writer *w, const struct insn_info *n)
{
    struct emitter *e = &w->e;
    struct mem start = CTX(tsc_negative_host), guest = CTX(tsc_guest), ratio = CTX(tsc_ratio), window = constant(w, CONSTANT_TSC);
    islands(w, 130, true);
    commit_here(w); /* no interrupt's handler is to see the host's counter */
    emit8(e, 0x0f), emit8(e, 0x31);
    emit_rorx(e, RDX, RDX, 32);
    emit_lea(e, RAX, &(struct mem){RAX, RDX, 0, 0, 0}, true);
    emit_load(e, RCX, &start);
    emit_lea(e, RDX, &(struct mem){RAX, RCX, 0, 0, 0}, true);
    emit_pext(e, RCX, RDX, &window);
    emit8(e, 0xe3), emit8(e, 0);
    uint8_t *inside = e->w;
    leave_for_helper(w, n->offset, n->i.op | (uint32_t)n->i.operand_size << 16 | (uint32_t)n->i.length << 24);
    inside[-1] = (uint8_t)(e->w - inside);
    emit8(e, ratio.seg); /* MULX R14, RCX, FS:[ratio] */
    emit8(e, 0xc4), emit8(e, 0x62), emit8(e, 0xf3), emit8(e, 0xf6);
    ratio.seg = 0;
    emit_modrm_mem(e, R14, &ratio, 0);
    emit_rorx(e, RCX, RCX, 32);
    emit_op_reg(e, false, 0x8b, RCX, RCX);
    emit_load(e, R14, &guest);
    emit_lea(e, RCX, &(struct mem){RCX, R14, 0, 0, 0}, true);
    emit_op_reg(e, false, 0x8b, RAX, RCX);
    emit_rorx(e, RDX, RCX, 32);
    emit_op_reg(e, false, 0x8b, RDX, RDX);
    if (n->i.op == X86_OP_RDTSCP) {
        struct mem aux = CTX(tsc_aux);
        emit_load(e, R13, &aux);
    }
}

static void swap_gs(struct writer *w)
{
    struct mem gs = ctx_at(offsetof(struct tctx, segbase) + 8), other = CTX(kernel_gs_base);
    emit_load(&w->e, RCX, &gs);
    emit_load(&w->e, R14, &other);
    commit_here(w);
    emit_store(&w->e, R14, &gs);
    emit_store(&w->e, RCX, &other);
}

static void push_flags(struct writer *w, const struct insn_info *n)
{
    struct emitter *e = &w->e;
    struct mem guest = CTX(save_rsp), host = CTX(host_rsp), system = CTX(system_flags), arith = constant(w, CONSTANT_ARITH);
    islands(w, 110, true);
    commit_here(w); /* while RSP is the host's */
    emit_store(e, RSP, &guest);
    emit_load(e, RSP, &host);
    emit8(e, 0x9c); /* PUSHFQ; POP R14 */
    emit8(e, 0x41), emit8(e, 0x5e);
    emit_load(e, RSP, &guest);
    emit_bits(e, false, R14, R14, &arith);
    emit_bits(e, true, R14, R14, &arith);
    if (n->stack.group != NO_GROUP && w->path.group[n->stack.group].storage == DELTA_RCX) { /* in use: add by way of memory */
        struct mem save = CTX(save_r14);
        emit_store(e, RCX, &save);
        emit_load(e, RCX, &system);
        emit_lea(e, R14, &(struct mem){R14, RCX, 0, 0, 0}, true);
        emit_load(e, RCX, &save);
    } else {
        emit_load(e, RCX, &system);
        emit_lea(e, R14, &(struct mem){R14, RCX, 0, 0, 0}, true);
    }
    store_word(w, R14, (struct mem){RSP, (uint8_t)delta_register(w, n->stack.group), 0, 0, n->stack.disp});
    add_rsp(w, n->stack.disp);
}

/* The target of an indirect branch into R14. */
static void indirect_target(struct writer *w, const struct insn_info *n)
{
    const struct x86_operand *o = &n->i.operand[0];
    if (o->kind == X86_MEM) {
        load_word(w, R14, memory_operand(w, n));
    } else if (spilled(o->reg)) {
        struct mem s = slot(o->reg);
        emit_load(&w->e, R14, &s);
    } else {
        emit_mov(&w->e, R14, home[o->reg]);
    }
}

/* Stores the return address below RSP; R14 stays. RSP moves with the jump. */
static void store_return(struct writer *w, const struct insn_info *n)
{
    struct emitter *e = &w->e;
    islands(w, 90, true);
    struct mem at = {RSP, (uint8_t)delta_register(w, n->stack.group), 0, 0, n->stack.disp}, page = CTX(page);
    if (at.index == RCX) {
        emit_lea(e, R15, &at, true);
        at = (struct mem){R15, NO_REG, 0, 0, 0};
    }
    if (n->kind == KIND_CALL_INDIRECT && w->t->is_direct) { /* a target that is no user's: before anything is read or written */
        struct mem high = constant(w, CONSTANT_HIGH);
        emit_pext(e, RCX, R14, &high);
        emit8(e, 0xe3), emit8(e, 0);
        uint8_t *user = e->w;
        leave_for_helper(w, n->offset, 0);
        user[-1] = (uint8_t)(e->w - user);
    } else if (n->kind == KIND_CALL_INDIRECT && wide(w)) {
        struct mem undo = CTX(undo);
        emit_load(e, RCX, &at);
        emit_store(e, RCX, &undo);
    }
    emit_load(e, RCX, &page);
    lea_word(w, RCX, (struct mem){RCX, NO_REG, 0, 0, n->offset + n->i.length});
    if (n->memory.used || n->kind == KIND_CALL_INDIRECT) /* the target may have been there; what was there is to be undone */
        commit_here(w);
    store_word(w, RCX, at);
}

static void instruction(struct writer *w, const struct insn_info *n)
{
    struct emitter *e = &w->e;
    int64_t target;
    switch (n->kind) {
    case KIND_COPY: copy(w, n); break;
    case KIND_NOTHING: break;
    case KIND_HIGH_BYTE: high_byte(w, n); break;
    case KIND_STRING: string(w, n); break;
    case KIND_PUSH: push(w, n); break;
    case KIND_POP: pop(w, n); break;
    case KIND_LEAVE: leave_frame(w, n); break;
    case KIND_PUSHF: push_flags(w, n); break;
    case KIND_CLD: case KIND_STD: system_flag(w, CONSTANT_NOT_DF, n->kind == KIND_STD ? X86_DF : 0); break;
    case KIND_CLI: system_flag(w, CONSTANT_NOT_IF, 0); break;
    case KIND_STI: set_if(w, n); break;
    case KIND_SWAPGS: swap_gs(w); break;
    case KIND_RDTSC: read_tsc(w, n); break;
    case KIND_HELPER: leave_for_helper(w, n->offset, n->i.op | (uint32_t)n->i.operand_size << 16 | (uint32_t)n->i.length << 24); break;
    case KIND_OP: {
        struct x86_insn i = n->i;
        bool ac = (i.op == X86_OP_STAC || i.op == X86_OP_CLAC) && x86_insn_supported(&i, w->t->c->vm->model->features) &&
                  !(w->t->c->mode >> IMODE_CPL_SHIFT & 3);
        ac ? set_ac(w, n) : in_place(w, n);
        break;
    }
    case KIND_JCC: add_out(w, emit_jcc(e, n->i.cc, 0), branch_target(n), n->offset); break;
    case KIND_JCXZ: {
        emit_mov(e, RCX, R13);
        emit8(e, 0xe3), emit8(e, 2);
        emit8(e, 0xeb), emit8(e, 5);
        add_out(w, emit_jmp(e, 0), branch_target(n), n->offset);
        break;
    }
    case KIND_JMP:
        if (!n->follows)
            leave_to(w, branch_target(n), n->offset);
        break;
    case KIND_JMP_INDIRECT:
        indirect_target(w, n);
        jump_cached(w, n->offset, done_here(w), 0);
        break;
    case KIND_CALL:
        target = branch_target(n);
        store_return(w, n);
        if (target >= 0 && target < (int64_t)DP_PAGE_SIZE) {
            commit_here(w);
            add_rsp(w, n->stack.disp);
            add_out(w, emit_jmp(e, 0), target, n->offset);
        } else {
            jump_far(w, target, n->offset, done_here(w), n->stack.disp);
        }
        break;
    case KIND_CALL_INDIRECT:
        indirect_target(w, n);
        store_return(w, n);
        jump_cached(w, n->offset | (wide(w) && !w->t->is_direct ? SITE_UNDO : 0), done_here(w), n->stack.disp);
        break;
    case KIND_RET: {
        struct mem at = {RSP, (uint8_t)delta_register(w, n->stack.group), 0, 0, 0};
        load_word(w, R14, at);
        jump_cached(w, n->offset, done_here(w), (int32_t)w->path.word + (n->i.operand_count ? (int32_t)(n->i.imm & 0xffff) : 0));
        break;
    }
    default: break;
    }
}

/* ---- behind the block ---- */

static void slow_paths(struct writer *w)
{
    struct emitter *e = &w->e;
    for (unsigned k = 0; k < w->slows; k++) {
        struct slow *s = &w->slow[k];
        for (unsigned j = 0; j < 2; j++)
            if (s->patch[j])
                emit_patch(e, s->patch[j], emit_here(e));
        struct tslow *record = cache_alloc(w->t, sizeof(*record));
        *record = (struct tslow){(uint32_t)(s->back - (uint64_t)(uintptr_t)w->t->rx), s->site, s->disp, s->in_r14 ? TSLOW_R14 : s->base};
        jump_numbered(w, record, w->t->stub_slow);
    }
}

/* Where the code of a place in the page is, if there is a block, or will be: this one. */
static uint64_t known_code(const struct writer *w, uint64_t host)
{
    const struct tblock *b = cache_linkable(w->t, w->block->page, host);
    if (b)
        return (uint64_t)(uintptr_t)w->t->rx + b->code;
    bool itself = host == w->block->host && w->block->mode == w->t->c->mode && !w->path.crosses && !w->t->c->by_blocks;
    return itself ? (uint64_t)((int64_t)(uintptr_t)w->start + w->e.shift) : 0;
}

static void ways_out(struct writer *w)
{
    struct emitter *e = &w->e;
    for (unsigned k = 0; k < w->outs; k++) {
        struct out *o = &w->out[k];
        bool near = o->target >= 0 && o->target < (int64_t)DP_PAGE_SIZE;
        uint64_t known = near ? known_code(w, w->page_host + (uint64_t)o->target) : 0;
        if (known) { /* they die together */
            emit_patch(e, o->patch, known);
            w->t->chained = true;
            continue;
        }
        emit_patch(e, o->patch, emit_here(e));
        if (!near) {
            jump_far(w, o->target, o->site, o->done, 0);
            continue;
        }
        struct tlink *l = cache_alloc(w->t, sizeof(*l));
        add_link(w, l, o->patch, o->target, o->done);
        jump_numbered(w, l, w->t->stub_link);
    }
}

static void trace_block(const struct tcpu *t, const struct tblock *b, uint64_t linear)
{
    struct dp_trace *trace = t->c->vm->trace;
    if (!dp_trace_on(trace, DP_TRACE_TRANSLATE))
        return;
    char mode[40];
    dump_mode(b->mode, mode, sizeof(mode));
    if (b->count)
        dp_trace_emit(trace, DP_TRACE_TRANSLATE, "cpu%u: block 0x%llx %s: %u instructions, %u bytes to %u + %u", t->c->index,
                      (unsigned long long)linear, mode, b->count, b->bytes, b->body, b->size - b->body);
    else
        dp_trace_emit(trace, DP_TRACE_TRANSLATE, "cpu%u: block 0x%llx %s: the interpreter's", t->c->index, (unsigned long long)linear,
                      mode);
}

/* The host code of a path, from w->start on: first its instructions, then the way out at its end. */
static void write_path(struct writer *w)
{
    w->start = w->e.w;
    w->slows = w->islands_done = w->outs = 0;
    w->near_waiting = false;
    w->x87_tested = w->x87_noted = false;
    w->x87_seg = 0xff;
    w->broken = false;
    for (unsigned k = 0; k < w->path.count; k++) {
        const struct insn_info *n = &w->path.insn[k];
        w->current = k;
        w->map[k] = (struct tinsn){(uint16_t)(w->e.w - w->start), n->offset, 0, 0xff};
        islands(w, ROOM, true);
        if (n->x87 && !w->x87_tested)
            x87_test(w, n);
        if (n->checks)
            group_checks(w, k);
        instruction(w, n);
    }
    w->current = w->path.count;
    w->map[w->current] = (struct tinsn){(uint16_t)(w->e.w - w->start), w->path.end, 0, 0xff};
    if (w->path.interpret) {
        leave_for_helper(w, w->path.end, 0);
    } else if (w->path.open && !w->path.before_crossing) {
        leave_to(w, w->path.end, SITE_NONE);
    } else if (w->path.open) {
        r14_from_page(w, w->path.end);
        jump_cached(w, SITE_NONE, done_here(w), 0);
    }
    islands(w, ROOM_NONE, false);
    while (w->e.w - w->start < 8) /* room for the jump that marks a dead block */
        emit8(&w->e, 0x90);
}

/* The block runs into a page after its own: it dies with that one, too. */
static void note_crossing(struct tcpu *t, struct tblock *b, struct dp_ram *ram, uint64_t offset)
{
    b->phys2 = (uint64_t)(uintptr_t)ram->host + (offset & PAGE_MASK);
    struct tcrosser *x = cache_alloc(t, sizeof(*x));
    struct tpage *second = cache_page(t, ram, offset >> DP_PAGE_SHIFT, true);
    *x = (struct tcrosser){second->crossers, b};
    second->crossers = x;
}

struct tblock *translate_block(struct tcpu *t, uint64_t linear, struct dp_ram *ram, uint64_t offset, uint32_t mode)
{
    struct icpu *c = t->c;
    struct writer *w = t->writer;
    uint64_t page = offset >> DP_PAGE_SHIFT;
    unsigned at = (unsigned)(offset & 0xfff);
    interp_mark_code(c, ram, page);
    const uint8_t *code = ram->host + (page << DP_PAGE_SHIFT), *next = NULL;
    struct dp_ram *ram2 = NULL;
    uint64_t offset2 = 0, after = mode_next_page(mode, linear);
    if (at > DP_PAGE_SIZE - 15 && after && !interp_locate_code(c, after, &ram2, &offset2, NULL) && ram2 && alias_of(t->v, ram2)) {
        interp_mark_code(c, ram2, offset2 >> DP_PAGE_SHIFT);
        next = ram2->host + (offset2 & PAGE_MASK);
    }
    cache_populate(t);
    struct tpage *of = cache_page(t, ram, page, true);
    analyse(&w->path, t, of, code, at, next, mode);
    struct tblock *b = cache_alloc(t, sizeof(*b));
    b->page = of;
    b->host = (uint64_t)(uintptr_t)ram->host + offset;
    b->mode = mode;
    w->t = t;
    w->block = b;
    w->page_host = b->host & PAGE_MASK;
    if (!w->path.count) { /* the interpreter's; known as such */
        cache_add(t, b);
        trace_block(t, b, linear);
        return b;
    }
    w->e = (struct emitter){t->rw + t->used, t->rx - t->rw};
    write_path(w);
    b->body = (uint32_t)(w->e.w - w->start);
    ways_out(w);
    slow_paths(w);
    if (w->broken) {
        DP_TRACE(c->vm->trace, DP_TRACE_TRANSLATE, "cpu%u: block 0x%llx: a short jump does not reach", c->index,
                 (unsigned long long)linear);
        cache_add(t, b);
        return b;
    }
    b->code = t->used;
    b->size = (uint32_t)(w->e.w - w->start);
    b->bytes = w->path.bytes;
    b->count = (uint16_t)w->path.count;
    b->live = w->path.insn[0].live;
    b->end = w->path.end;
    b->dispatches = w->path.insn[b->count - 1].kind == KIND_JMP_INDIRECT;
    b->insn = cache_alloc(t, sizeof(struct tinsn) * (b->count + 1u));
    memcpy(b->insn, w->map, sizeof(struct tinsn) * (b->count + 1u));
    if (w->path.crosses)
        note_crossing(t, b, ram2, offset2);
    t->used = (uint32_t)DP_ALIGN_UP((size_t)(w->e.w - t->rw), (size_t)16);
    cache_add(t, b);
    c->counters.translated_blocks++;
    c->counters.translated_instructions += b->count;
    c->counters.code_bytes += b->size;
    dump_block(t, b, &w->path, linear);
    trace_block(t, b, linear);
    return b;
}
