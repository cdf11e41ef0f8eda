/* fake.h - a processor state over a flat array, for tests of isa/x86. Linear addresses are array offsets unless `paging` asks for x86_walk.
 *
 * Accesses outside the array, and inside [bad, bad + 4096), give #PF as an unmapped page would. Descriptor and register helpers keep the tests' tables short.
 */
#ifndef DP_TESTS_ISA_FAKE_H
#define DP_TESTS_ISA_FAKE_H

#include <stdlib.h>

#include "tests/unit/test.h"
#include "isa/x86/x86.h"

enum { FAKE_RAM = 1 << 20 };

struct fake {
    struct x86_ctx c;
    struct x86_state s;
    struct x86_cpuid_model m;
    bool paging, no_exchange;
    uint64_t bad;
    unsigned flushes, flushes_global, exchanges;
    enum x86_flush flush_kind; /* the last one */
    uint64_t flush_linear;
    unsigned flush_pcid;
    void (*before_exchange)(struct fake *f, uint64_t phys); /* another processor getting in between */
    uint8_t ram[FAKE_RAM];
};

static int fake_access(struct x86_ctx *c, uint64_t linear, void *data, unsigned size, bool user, bool write)
{
    struct fake *f = c->opaque;

    assert_in_range(size, 1, 16);
    for (unsigned i = 0; i < size; i++) {
        uint64_t a = linear + i;
        if (f->paging) {
            struct x86_translation t;
            if (x86_walk(c, a, write ? X86_ACCESS_WRITE : X86_ACCESS_READ, user, c->explicit_access && (f->s.rflags & X86_AC), &t))
                return -1;
            a = t.phys;
        }
        if (a >= FAKE_RAM || (f->bad && a >= f->bad && a < f->bad + 4096)) {
            x86_fault(c, X86_PF_, true, (write ? X86_PF_W : 0u) | (user ? X86_PF_U : 0u));
            c->fault.cr2 = linear + i;
            return -1;
        }
        if (write)
            f->ram[a] = ((uint8_t *)data)[i];
        else
            ((uint8_t *)data)[i] = f->ram[a];
    }
    return 0;
}
static int fake_read(struct x86_ctx *c, uint64_t linear, void *data, unsigned size, bool user)
{
    return fake_access(c, linear, data, size, user, false);
}
static int fake_write(struct x86_ctx *c, uint64_t linear, const void *data, unsigned size, bool user)
{
    return fake_access(c, linear, (void *)data, size, user, true);
}
static int fake_probe(struct x86_ctx *c, uint64_t linear, unsigned size, bool user)
{
    struct fake *f = c->opaque;
    for (unsigned i = 0; i < size; i++) {
        uint64_t a = linear + i;
        if (a >= FAKE_RAM || (f->bad && a >= f->bad && a < f->bad + 4096)) {
            x86_fault(c, X86_PF_, true, X86_PF_W | (user ? X86_PF_U : 0u));
            c->fault.cr2 = a;
            return -1;
        }
    }
    return 0;
}
static uint64_t fake_load(struct x86_ctx *c, uint64_t phys, unsigned size)
{
    struct fake *f = c->opaque;
    if (phys + size > FAKE_RAM)
        return ~0ull;
    return size == 8 ? dp_ld64(f->ram + phys) : dp_ld32(f->ram + phys);
}
static bool fake_exchange(struct x86_ctx *c, uint64_t phys, uint64_t old, uint64_t new_, unsigned size)
{
    struct fake *f = c->opaque;
    f->exchanges++;
    if (f->no_exchange || phys + size > FAKE_RAM)
        return false;
    if (f->before_exchange)
        f->before_exchange(f, phys);
    if (fake_load(c, phys, size) != old)
        return false;
    memcpy(f->ram + phys, &new_, size);
    return true;
}
static void fake_flush(struct x86_ctx *c, enum x86_flush kind, uint64_t linear, unsigned pcid)
{
    struct fake *f = c->opaque;
    f->flushes++;
    f->flushes_global += kind == X86_FLUSH_ALL;
    f->flush_kind = kind;
    f->flush_linear = linear;
    f->flush_pcid = pcid;
}

static inline struct fake *fake_new(void)
{
    struct fake *f = calloc(1, sizeof *f);
    struct dp_error e;

    assert_non_null(f);
    assert_ok(x86_cpuid_model("x86-64-v2", &f->m, &e), e);
    x86_state_reset(&f->s, true);
    f->c = (struct x86_ctx){.s = &f->s, .model = &f->m, .read = fake_read, .write = fake_write, .probe_write = fake_probe, .phys_load = fake_load,
                            .phys_compare_exchange = fake_exchange, .flush = fake_flush, .opaque = f};
    return f;
}

/* ---- descriptors ---- */

enum { DESC_A = 1, DESC_W = 2, DESC_R = 2, DESC_C = 4, DESC_E = 4, DESC_CODE = 8, DESC_S = 0x10, DESC_P = 0x80, DESC_L = 0x2000, DESC_DB = 0x4000,
       DESC_G = 0x8000 };
#define DESC_DPL(n) ((n) << 5)
#define CODE32 (DESC_S | DESC_P | DESC_CODE | DESC_R | DESC_DB)
#define CODE64 (DESC_S | DESC_P | DESC_CODE | DESC_R | DESC_L)
#define DATA32 (DESC_S | DESC_P | DESC_W | DESC_DB)

/* attr as in struct x86_seg; limit in units of the granularity. */
static inline uint64_t desc(uint32_t base, uint32_t limit, uint32_t attr)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)attr << 40 | (uint64_t)(limit >> 16 & 15) << 48 |
           (uint64_t)(base >> 24) << 56;
}
/* Call, interrupt, trap, task gates: attr is type, DPL, P. */
static inline uint64_t gate(uint16_t sel, uint32_t offset, uint32_t attr, unsigned low)
{
    return (offset & 0xffff) | (uint64_t)sel << 16 | (uint64_t)low << 32 | (uint64_t)attr << 40 | (uint64_t)(offset >> 16) << 48;
}
static inline void put64(struct fake *f, uint64_t at, uint64_t v) { dp_st64(f->ram + at, v); }
static inline void put32(struct fake *f, uint64_t at, uint32_t v) { dp_st32(f->ram + at, v); }
static inline void put16(struct fake *f, uint64_t at, uint16_t v) { dp_st16(f->ram + at, v); }
static inline uint64_t get64(struct fake *f, uint64_t at) { return dp_ld64(f->ram + at); }
static inline uint32_t get32(struct fake *f, uint64_t at) { return dp_ld32(f->ram + at); }
static inline uint16_t get16(struct fake *f, uint64_t at) { return dp_ld16(f->ram + at); }

static inline void set_seg(struct fake *f, enum x86_seg_name seg, uint16_t sel, uint64_t d)
{
    uint32_t limit = (uint32_t)(d & 0xffff) | (uint32_t)(d >> 32 & 0xf0000), attr = (uint32_t)(d >> 40) & 0xf0ff;
    f->s.seg[seg] = (struct x86_seg){.sel = sel, .attr = attr | 1, .limit = attr & DESC_G ? limit << 12 | 0xfff : limit,
                                     .base = (uint32_t)(d >> 16 & 0xffffff) | (uint32_t)(d >> 32 & 0xff000000)};
}

/* ---- standard layouts ---- */

enum { GDT = 0x1000, IDT = 0x2000, TSS = 0x3000, TSS2 = 0x3800, LDT = 0x4000, KSTACK = 0x9000, STACK = 0xa000, CODE = 0xb000 };
/* Selectors of the GDT that fake_protected and fake_long build. */
enum { K_CODE = 0x08, K_DATA = 0x10, U_CODE = 0x18, U_DATA = 0x20, SEL_TSS = 0x28, SEL_LDT = 0x38, SEL_FREE = 0x48 /* 0x48.. for the test */,
       K_CODE32 = 0x48 + 8 * 16 };

static inline void fake_tables(struct fake *f, bool lm)
{
    f->s.gdtr.base = GDT;
    f->s.gdtr.limit = 0x1ff;
    f->s.idtr.base = IDT;
    f->s.idtr.limit = 0xfff;
    put64(f, GDT + K_CODE, desc(0, 0xfffff, (lm ? CODE64 : CODE32) | DESC_G));
    put64(f, GDT + K_DATA, desc(0, 0xfffff, DATA32 | DESC_G));
    put64(f, GDT + U_CODE, desc(0, 0xfffff, (lm ? CODE64 : CODE32) | DESC_G | DESC_DPL(3)));
    put64(f, GDT + U_DATA, desc(0, 0xfffff, DATA32 | DESC_G | DESC_DPL(3)));
    put64(f, GDT + SEL_TSS, desc(TSS, 0x67, DESC_P | 11));
    put64(f, GDT + SEL_LDT, desc(LDT, 0xff, DESC_P | 2));
    put64(f, GDT + K_CODE32, desc(0, 0xfffff, CODE32 | DESC_G));
    f->s.tr = (struct x86_seg){.sel = SEL_TSS, .attr = DESC_P | 11, .limit = 0x67, .base = TSS};
    f->s.ldtr = (struct x86_seg){.attr = X86_ATTR_UNUSABLE};
    if (lm) {
        put64(f, TSS + 4, KSTACK);
    } else {
        put32(f, TSS + 4, KSTACK);
        put16(f, TSS + 8, K_DATA);
    }
}
/* At privilege level 0 or 3, all segments flat. */
static inline void fake_level(struct fake *f, unsigned cpl)
{
    uint16_t cs = cpl ? U_CODE | 3 : K_CODE, ds = cpl ? U_DATA | 3 : K_DATA;
    set_seg(f, X86_CS, cs, get64(f, GDT + (cs & ~7u)));
    for (unsigned i = 0; i < X86_SEGS; i++)
        if (i != X86_CS)
            set_seg(f, i, ds, get64(f, GDT + (ds & ~7u)));
}
static inline struct fake *fake_protected(unsigned cpl)
{
    struct fake *f = fake_new();
    f->s.cr0 = X86_CR0_PE | X86_CR0_ET;
    fake_tables(f, false);
    fake_level(f, cpl);
    f->s.r[X86_RSP] = STACK;
    f->s.r[X86_RIP] = CODE;
    return f;
}
static inline struct fake *fake_long(unsigned cpl)
{
    struct fake *f = fake_new();
    f->s.cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_PG | X86_CR0_WP;
    f->s.cr4 = X86_CR4_PAE;
    f->s.efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_SCE | X86_EFER_NXE;
    fake_tables(f, true);
    fake_level(f, cpl);
    f->s.r[X86_RSP] = STACK;
    f->s.r[X86_RIP] = CODE;
    return f;
}

/* ---- checks ---- */

#define assert_fault(f, call, v, e) do { \
        struct x86_state before_ = (f)->s; \
        memset(&(f)->c.fault, 0, sizeof (f)->c.fault); \
        assert_int_equal(call, -1); \
        assert_int_equal((f)->c.fault.vector, v); \
        assert_int_equal((f)->c.fault.error, e); \
        before_.nmi_blocked = (f)->s.nmi_blocked; \
        assert_int_equal(dp_state_diff(&x86_state_table, &before_, &(f)->s, NULL), 0); \
    } while (0)

#endif
