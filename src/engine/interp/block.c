/* engine/interp/block.c - decoding guest code into blocks, and finding blocks again.
 *
 * Model: one cache per processor (so a block's operations are never seen by another thread), an arena that is emptied as a whole when full,
 * and a hash by (host address of the code, mode). Host addresses name guest-physical bytes of RAM uniquely, whatever the page tables say. A
 * block ends at a branch, at an instruction that may change mode or translation, at the page's end, or at IBLOCK_MAX_OPS instructions. An
 * instruction that crosses into the next page is a block of its own, valid for two pages.
 * Code of a page that is written to all the time (dp_ram_code_volatile: data beside it, as DOS programs and unpackers have them) is not
 * marked as such; its instructions are blocks of their own that are compared with the bytes in memory each time they are found.
 * Invariants: the arena is emptied only by interp_find_block, that is, while no block runs.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "engine/interp/interp_internal.h"

#define HASH_BITS 16
#define ARENA_BYTES (96ull << 20)
/* Under a translator what is here runs a few times, or is a few system instructions: what was
 * decoded long ago will not be wanted. One huge page. */
#define ARENA_BYTES_ACCEL (2ull << 20)

struct icache {
    uint8_t *arena;
    size_t used;
    _Atomic uint32_t zero; /* the generation of code outside RAM: such a block stays valid until it has run */
    struct iblock *hash[1 << HASH_BITS];
};

int interp_cache_init(struct icpu *c, struct dp_error *e)
{
    c->cache = calloc(1, sizeof(*c->cache));
    c->jump = calloc(1u << IJUMP_BITS, sizeof(*c->jump));
    if (c->cache) /* touched only as far as it is used */
        c->cache->arena = dp_reserve_huge(ARENA_BYTES);
    if (!c->cache || !c->jump || !c->cache->arena) {
        return dp_error_set(e, -ENOMEM, "no memory for a processor's block cache; close other programs");
    }
    return 0;
}

void interp_cache_fini(struct icpu *c)
{
    if (c->cache && c->cache->arena)
        munmap(c->cache->arena, ARENA_BYTES);
    free(c->cache);
    free(c->jump);
}

void interp_new_epoch(struct icpu *c)
{
    if (!++c->flushes) /* entries of 2^32 epochs ago would count again */
        memset(c->jump, 0, (sizeof(*c->jump)) << IJUMP_BITS);
    c->jump_key = (uint64_t)c->mode << 32 | c->flushes;
}

void interp_cache_empty(struct icpu *c)
{
    memset(c->cache->hash, 0, sizeof(c->cache->hash));
    c->cache->used = 0;
    c->link_from = NULL;
    c->block = NULL;
    interp_new_epoch(c);
}

static bool has_room(const struct icpu *c, size_t size) { return c->cache->used + size <= (c->accel ? ARENA_BYTES_ACCEL : ARENA_BYTES); }

static unsigned hash_of(uint64_t host, uint32_t mode)
{
    return (unsigned)((host ^ (uint64_t)mode << 40) * 0x9e3779b97f4a7c15ull >> (64 - HASH_BITS));
}

/* ---- lowering one instruction ---- */

void interp_op_ud(struct icpu *c, const struct iop *o) { interp_fault(c, o, X86_UD); }
void interp_op_nm(struct icpu *c, const struct iop *o) { interp_fault(c, o, X86_NM); }
void interp_op_gp0(struct icpu *c, const struct iop *o) { interp_fault_code(c, o, X86_GP, 0); }
static void exit_op(struct icpu *c, const struct iop *o)
{
    (void)o;
    c->next = NULL;
}
const struct iop interp_exit_op = { .fn = exit_op };
void interp_op_refetch(struct icpu *c, const struct iop *o)
{
    interp_uncount(c, o->offset);
    c->s.r[X86_RIP] += o->offset;
    INTERP_GO(c, &interp_exit_op);
}

/* What every operation gets: address formation, sizes, place. */
static void prepare(struct icpu *c, const struct x86_insn *i, struct iop *o, unsigned offset)
{
    memset(o, 0, sizeof(*o));
    o->offset = (uint16_t)offset;
    o->length = i->length;
    o->size = i->operand_size;
    o->a = i->reg;
    o->b = i->rm;
    o->base = i->base;
    o->index = i->index;
    o->scale = i->scale;
    o->disp = i->disp;
    if (i->base == X86_RIP)
        o->disp += offset + i->length;
    o->amask = dp_mask_bytes(i->address_size);
    o->seg = i->seg < X86_SEGS ? i->seg : 6;
    if (i->op == X86_OP_LEA)
        o->seg = 6;
    bool memory = false;
    for (unsigned k = 0; k < i->operand_count; k++)
        memory |= i->operand[k].kind == X86_MEM;
    if (!memory)
        o->seg = X86_SS; /* what reaches memory all the same is a push or pop: its faults are #SS */
    unsigned code = c->mode & IMODE_CODE;
    if (code == X86_MODE64)
        o->slow_segment = false;
    else
        o->slow_segment =
            o->seg != 6 && (!(c->mode & IMODE_FLAT) || o->seg >= X86_FS || o->seg == X86_CS /* not writable */ || i->address_size != 4);
}

static bool is_x87(const struct x86_insn *i) { return i->row->flags & (X86_F_X87 | X86_F_X87NW); }

static void lower(struct icpu *c, struct x86_insn *i, struct iop *o, unsigned page_offset, bool *need_insn)
{
    uint32_t f = i->row->flags;
    *need_insn = false;
    if (!x86_insn_supported(i, c->vm->model->features)) {
        o->fn = interp_op_ud;
        return;
    }
    if ((f & X86_F_PROT) && (!(c->mode & IMODE_PE) || (c->mode & IMODE_V86))) {
        o->fn = interp_op_ud;
        return;
    }
    if ((f & X86_F_CPL0) && (c->mode >> IMODE_CPL_SHIFT & 3)) {
        o->fn = interp_op_gp0;
        return;
    }
    if (is_x87(i) && i->op != X86_OP_FWAIT && (c->mode & IMODE_X87_NM)) {
        o->fn = interp_op_nm;
        return;
    }
    uint32_t unusable = f & X86_F_VEX ? IMODE_AVX_UD : IMODE_SSE_UD;
    if ((f & X86_F_SSE) && (c->mode & (unusable | IMODE_SSE_NM))) {
        o->fn = c->mode & unusable ? interp_op_ud : interp_op_nm;
        return;
    }
    if ((f & X86_F_MMX) && (c->mode & (IMODE_MMX_UD | IMODE_SSE_NM))) {
        o->fn = c->mode & IMODE_MMX_UD ? interp_op_ud : interp_op_nm;
        return;
    }
    if (f & X86_F_BRANCH)
        /* set_target wants it; branches with a memory operand have no displacement target */
        o->disp = i->has_modrm ? o->disp : (int64_t)page_offset;
    if (interp_lower_integer(c, i, o, need_insn) || interp_lower_bmi(c, i, o) || interp_lower_flow(c, i, o, need_insn) ||
        interp_lower_string(c, i, o, need_insn) || interp_lower_system(c, i, o, need_insn) || interp_lower_sse(c, i, o, need_insn) ||
        interp_lower_x87(c, i, o, need_insn))
        return;
    o->fn = interp_op_ud;
}

struct iblock *interp_lower_one(struct icpu *c, struct x86_insn *i, struct dp_ram *ram, uint64_t offset, uint32_t generation, void *room)
{
    struct iblock *b = room;
    struct x86_insn *copy = (struct x86_insn *)(b->op + 2);
    bool need;
    memset(b, 0, INTERP_ONE_SIZE);
    *copy = *i;
    b->phys = (uint64_t)(uintptr_t)(ram->host + offset);
    b->mode = c->mode;
    b->count = 1;
    b->bytes = i->length;
    b->once = true;
    b->generation[0] = b->generation[1] = generation;
    b->current[0] = b->current[1] = &ram->code_generation[offset >> DP_PAGE_SHIFT];
    prepare(c, copy, &b->op[0], 0);
    lower(c, copy, &b->op[0], (unsigned)(offset & 0xfff), &need);
    if (need)
        b->op[0].insn = copy;
    b->op[1].fn = interp_op_refetch;
    b->op[1].offset = i->length;
    return b;
}

/* ---- decoding a block ---- */

struct source { /* where code bytes come from: one page, or two for a crossing instruction */
    struct dp_ram *ram[2];
    uint64_t page[2];
    const uint8_t *host; /* of the first byte */
    unsigned here;       /* bytes left on the first page */
};

int interp_locate_code(struct icpu *c, uint64_t linear, struct dp_ram **ram, uint64_t *offset, bool *global)
{
    struct itlb *e = interp_fetch_tlb(c, linear);
    uint64_t tag = (linear & ~0xfffull) | c->tlb_generation;
    if (e->fetch_tag != tag) {
        if (interp_fetch_fill(c, linear))
            return -1;
        if (e->fetch_tag != tag) {
            *ram = NULL; /* not RAM */
            return 0;
        }
    }
    const struct itlb_cold *cold = &c->tlb_cold[e - c->tlb_all];
    if (global)
        *global = cold->global;
    *ram = atomic_load_explicit(&cold->ram, memory_order_relaxed);
    *offset = atomic_load_explicit(&cold->ram_offset, memory_order_relaxed) + (linear & 0xfff);
    return 0;
}

static uint64_t code_linear(const struct icpu *c, uint64_t rip)
{
    return (c->mode & IMODE_CODE) == X86_MODE64 ? rip : (rip + c->s.seg[X86_CS].base) & 0xffffffffull;
}

static struct iblock *decode_device(struct icpu *c, uint64_t linear);

/* Builds the block at an offset of RAM. */
static struct iblock *decode(struct icpu *c, uint64_t linear, struct dp_ram *ram, uint64_t offset)
{
    struct iop ops[IBLOCK_MAX_OPS + 1];
    struct x86_insn insns[IBLOCK_MAX_OPS];
    bool keep[IBLOCK_MAX_OPS], once = false;
    unsigned count = 0, bytes = 0, kept = 0, page_offset = (unsigned)(offset & 0xfff), room = (unsigned)DP_PAGE_SIZE - page_offset;
    uint64_t page = offset >> DP_PAGE_SHIFT;
    bool fleeting = dp_ram_code_volatile(ram, page), compared = false; /* one instruction, not marked */
    uint8_t buffer[16];
    unsigned max = c->mode & IMODE_ONE || fleeting ? 1 : IBLOCK_MAX_OPS;
    enum x86_mode mode = c->mode & IMODE_CODE;
    uint64_t limit = mode == X86_MODE64 ? ~0ull : c->s.seg[X86_CS].limit;
    uint32_t generation = fleeting ? atomic_load(&ram->code_generation[page]) : interp_mark_code(c, ram, page), generation2 = generation;
    _Atomic uint32_t *current2 = &ram->code_generation[page];
    uint64_t phys2 = 0;
    const uint8_t *code = ram->host + offset;
    while (count < max) {
        struct x86_insn *i = &insns[count];
        unsigned avail = DP_MIN(15u, room - bytes);
        memcpy(buffer, code + bytes, avail);
        int n = x86_decode(buffer, avail, mode, i);
        if (n == X86_DECODE_MORE && avail < 15) {
            if (count)
                break; /* the crossing instruction starts a block of its own */
            struct dp_ram *ram2;
            uint64_t offset2;
            uint64_t next = (linear & ~0xfffull) + DP_PAGE_SIZE;
            if (mode != X86_MODE64)
                next &= 0xffffffffull;
            if (interp_locate_code(c, next, &ram2, &offset2, NULL))
                return NULL;
            if (ram2) {
                generation2 = interp_mark_code(c, ram2, offset2 >> DP_PAGE_SHIFT);
                current2 = &ram2->code_generation[offset2 >> DP_PAGE_SHIFT];
                memcpy(buffer + avail, ram2->host + offset2, 15 - avail);
                phys2 = (uint64_t)(uintptr_t)(ram2->host + offset2);
                n = x86_decode(buffer, 15, mode, i);
            } else {
                return decode_device(c, linear); /* code that runs from RAM into device memory */
            }
            max = 1;
        }
        struct iop *o = &ops[count];
        keep[count] = false;
        if (n > 0 && c->s.r[X86_RIP] + bytes + (unsigned)n - 1 > limit) { /* runs over CS.limit: #GP(0) */
            if (count)
                break;
            n = X86_DECODE_LONG;
            once = true; /* under another limit it is as good as any */
        }
        if (n <= 0) {
            memset(o, 0, sizeof(*o));
            o->offset = (uint16_t)bytes;
            o->length = 1;
            o->fn = n == X86_DECODE_UD ? interp_op_ud : interp_op_gp0;
            count++;
            bytes += 1;
            max = 0;
            break;
        }
        prepare(c, i, o, bytes);
        lower(c, i, o, page_offset, &keep[count]);
        kept += keep[count];
        count++;
        bytes += (unsigned)n;
        compared = fleeting && !phys2;
        if (i->row->flags & (X86_F_BRANCH | X86_F_SYSTEM))
            break;
        if (bytes >= room)
            break;
    }
    interp_lower_end(c, &ops[count], bytes, page_offset);
    size_t size = sizeof(struct iblock) + (count + 1) * sizeof(struct iop) + (compared ? sizeof(buffer) : 0),
           total = DP_ALIGN_UP(size + kept * sizeof(struct x86_insn), (size_t)64);
    if (!has_room(c, total))
        interp_cache_empty(c);
    struct iblock *b = (struct iblock *)(c->cache->arena + c->cache->used);
    c->cache->used += total;
    memset(b, 0, sizeof(*b));
    b->phys = (uint64_t)(uintptr_t)(ram->host + offset);
    b->mode = c->mode;
    b->count = (uint16_t)count;
    b->bytes = (uint16_t)bytes;
    b->once = once || (fleeting && !compared);
    b->compared = compared;
    b->generation[0] = generation;
    b->generation[1] = generation2;
    b->current[0] = &ram->code_generation[page];
    b->current[1] = current2;
    b->phys2 = phys2;
    memcpy(b->op, ops, (count + 1) * sizeof(struct iop));
    if (compared) {
        b->current[0] = b->current[1] = &c->cache->zero; /* nobody tells of writes: its bytes are looked at each time */
        b->generation[0] = b->generation[1] = 0;
        memcpy(b->op + 2, buffer, sizeof(buffer));
    }
    struct x86_insn *copies = (struct x86_insn *)((uint8_t *)b + size);
    for (unsigned k = 0; k < count; k++)
        if (keep[k]) {
            *copies = insns[k];
            b->op[k].insn = copies++;
        }
    c->counters.blocks_decoded++;
    return b;
}

/* Code outside RAM (device memory) is decoded one instruction at a time into a block that nobody finds again. */
static struct iblock *decode_device(struct icpu *c, uint64_t linear)
{
    uint8_t bytes[16];
    unsigned n = 0;
    struct x86_insn i;
    int length = X86_DECODE_MORE;
    for (; n < 15 && length == X86_DECODE_MORE; length = x86_decode(bytes, n, c->mode & IMODE_CODE, &i)) {
        struct x86_translation t;
        uint64_t at = (c->mode & IMODE_CODE) == X86_MODE64 ? linear + n : (linear + n) & 0xffffffffull;
        if (x86_walk(&c->ctx, at, X86_ACCESS_FETCH, (c->mode >> IMODE_CPL_SHIFT & 3) == 3, false, &t))
            return NULL;
        bytes[n++] = (uint8_t)dp_space_load(c->memory, t.phys & c->address_mask, 1);
    }
    if (length > 0 && (c->mode & IMODE_CODE) != X86_MODE64 && c->s.r[X86_RIP] + (unsigned)length - 1 > c->s.seg[X86_CS].limit)
        length = X86_DECODE_LONG;
    if (!has_room(c, 1024))
        interp_cache_empty(c);
    struct iblock *b = (struct iblock *)(c->cache->arena + c->cache->used);
    c->cache->used += 1024;
    memset(b, 0, 1024);
    b->mode = c->mode;
    b->count = 1;
    b->once = true;
    b->current[0] = b->current[1] = &c->cache->zero;
    bool need = false;
    if (length > 0) {
        prepare(c, &i, &b->op[0], 0);
        lower(c, &i, &b->op[0], DP_PAGE_SIZE, &need); /* no links: a block that starts at a page's end has none */
        if (need) {
            struct x86_insn *copy = (struct x86_insn *)(b->op + 2);
            *copy = i;
            b->op[0].insn = copy;
        }
        b->bytes = (uint16_t)length;
    } else {
        b->op[0].fn = length == X86_DECODE_UD ? interp_op_ud : interp_op_gp0;
        b->bytes = 1;
    }
    interp_lower_end(c, &b->op[1], b->bytes, (unsigned)DP_PAGE_SIZE);
    return b;
}

struct iblock *interp_find_block(struct icpu *c)
{
    uint64_t rip = c->s.r[X86_RIP], linear = code_linear(c, rip), offset;
    bool code64 = (c->mode & IMODE_CODE) == X86_MODE64;
    struct dp_ram *ram;
    const struct iop *link_from = c->link_from;
    c->link_from = NULL;
    if (!code64 && DP_UNLIKELY(rip > c->s.seg[X86_CS].limit)) {
        x86_fault(&c->ctx, X86_GP, true, 0);
        return NULL;
    }
    if (interp_locate_code(c, linear, &ram, &offset, NULL))
        return NULL;
    if (!ram)
        return decode_device(c, linear);
    uint64_t host = (uint64_t)(uintptr_t)(ram->host + offset);
    struct iblock **bucket = &c->cache->hash[hash_of(host, c->mode)], *b;
    for (struct iblock **at = bucket; (b = *at);) {
        if (!interp_block_valid(b)) {
            *at = b->hash_next;
            continue;
        }
        if (b->phys == host && b->mode == c->mode) {
            if (DP_UNLIKELY(b->compared) &&
                (!dp_ram_code_volatile(ram, offset >> DP_PAGE_SHIFT) || memcmp(ram->host + offset, b->op + 2, b->bytes))) {
                *at = b->hash_next;
                continue;
            }
            if (b->phys2) { /* its second page must still be the same one */
                struct dp_ram *ram2;
                uint64_t offset2, next = (linear & ~0xfffull) + DP_PAGE_SIZE;
                if (interp_locate_code(c, code64 ? next : next & 0xffffffffull, &ram2, &offset2, NULL))
                    return NULL;
                if (!ram2 || (uint64_t)(uintptr_t)(ram2->host + offset2) != b->phys2) {
                    at = &b->hash_next;
                    continue;
                }
            }
            if (!code64 && DP_UNLIKELY(rip + b->bytes - 1 > c->s.seg[X86_CS].limit)) {
                at = &b->hash_next; /* decode again, up to the limit */
                continue;
            }
            break;
        }
        at = &b->hash_next;
    }
    if (!b) {
        size_t used = c->cache->used;
        b = decode(c, linear, ram, offset);
        if (!b)
            return NULL;
        if (c->cache->used < used || (const uint8_t *)link_from >= c->cache->arena + used)
            link_from = NULL; /* the cache was emptied under it, or it was in a block not kept, whose place this one took */
        if (b->once) {
            if (c->cache->used > used)
                c->cache->used = used; /* it has run before the next is decoded */
            return b;
        }
        b->hash_next = *bucket;
        *bucket = b;
    }
    if ((code64 || (c->mode & IMODE_FLAT)) && !b->compared) {
        struct ijump *j = interp_jump_slot(c, rip);
        *j = (struct ijump){ rip, c->jump_key, b };
        if (link_from && !b->phys2)
            ((struct iop *)link_from)->link = b;
    }
    return b;
}
