/* tests/cpu/cpu.h - instruction tests by differential execution against the host's processor.
 *
 * Model: a case is a snippet of 1-8 instructions with the whole user-visible state before it. It is executed twice, by the host (native.c,
 * in a child process, one signal per case and no ptrace) and by an engine in a small VM (guest.c), in the same world: the same linear
 * addresses, the same descriptors, CPL 3 in a long-mode operating system. Every case ends with an exception: INT3 behind the snippet, or
 * what the snippet raised. Both results are then compared (compare.c): registers, flags, x87/SSE image, segments, memory, vector, error
 * code and CR2.
 *
 * The world, linear addresses:
 *   CPU_CODE        2 pages, read and execute, full of INT3 around the snippet; nothing mapped before and after
 *   CPU_DATA        2 pages read-write, then 1 page read-only; nothing mapped before and after
 *   CPU_HIGH        the three data pages again, above 4 GiB
 * Everything else a snippet may reach is unmapped, apart from the harness itself, which lives above 2^46 where only a wild 64-bit address
 * gets. Invariants: a case is plain data and reproducible from (seed, op, mode, index). Nothing here depends on which engine runs.
 */
#ifndef TESTS_CPU_H
#define TESTS_CPU_H

#include "base/base.h"
#include "isa/x86/insn.h"
#include "isa/x86/x86.h"

#define CPU_CODE 0x08000000ull
#define CPU_DATA 0x10000000ull
#define CPU_HIGH 0x345678000000ull
#define CPU_PAGE 4096u
#define CPU_CODE_SIZE (2 * CPU_PAGE)
#define CPU_RW_SIZE (2 * CPU_PAGE)
#define CPU_DATA_SIZE (3 * CPU_PAGE)
#define CPU_BATCH 32
#define CPU_MAX_CODE 128
#define CPU_MAX_INSNS 8
#define CPU_PATCHES 4

enum { CPU_SEL_CODE32 = 0x23, CPU_SEL_DATA = 0x2b, CPU_SEL_CODE64 = 0x33 }; /* Linux's user descriptors */

/* Segment descriptors beside Linux's own: modify_ldt natively, the same bytes in the guest's LDT. Selector = index << 3 | 7. */
struct cpu_ldt_entry {
    const char *name;
    uint32_t base, limit; /* limit as in the descriptor */
    uint8_t contents;     /* 0 data, 1 expand-down data, 2 code, 3 conforming code: modify_ldt's */
    bool big, read_exec_only, pages, absent;
};
enum {
    LDT_CODE16,
    LDT_DATA16,
    LDT_SHORT,
    LDT_DOWN16,
    LDT_DOWN32,
    LDT_READONLY,
    LDT_CODE_NOREAD,
    LDT_CODE32,
    LDT_ABSENT,
    LDT_CONFORMING,
    LDT_CODE16_SHORT,
    LDT_CODE32_BASE,
    LDT_DATA32_BASE,
    LDT_COUNT
};
extern const struct cpu_ldt_entry cpu_ldt[LDT_COUNT];
#define CPU_SEL_LDT(i) ((uint16_t)((i) << 3 | 7))
/* The descriptor of an entry, as the processor reads it. */
uint64_t cpu_descriptor(const struct cpu_ldt_entry *e);
/* The descriptor a selector names at CPL 3, in GDT (Linux's user entries) or LDT; 0 when there is none. */
uint64_t cpu_descriptor_of(uint16_t selector);

struct cpu_regs {
    uint64_t r[16], rip, rflags;
    uint16_t seg[X86_SEGS];
    uint64_t fs_base, gs_base;
    uint8_t fx[512] __attribute__((aligned(16))); /* FXSAVE64 image */
    uint8_t ymm_high[16][16];
};
/* Offsets in the FXSAVE64 image. */
enum {
    FX_FCW = 0,
    FX_FSW = 2,
    FX_FTW = 4,
    FX_FOP = 6,
    FX_FIP = 8,
    FX_FDP = 16,
    FX_MXCSR = 24,
    FX_MXCSR_MASK = 28,
    FX_ST = 32,
    FX_XMM = 160,
    FX_END = 416
};

struct cpu_patch {
    uint32_t offset, size;
    uint8_t bytes[1024];
}; /* into the data pages, over the base image */

struct cpu_case {
    uint64_t seed, index;
    uint16_t op;
    uint8_t mode; /* enum x86_mode */
    uint8_t insn_count, code_size, fetch_fault;
    uint32_t code_offset; /* in the code pages */
    uint8_t code[CPU_MAX_CODE];
    uint8_t insn_at[CPU_MAX_INSNS]; /* offset of each instruction in code */
    struct cpu_regs in;
    uint32_t patch_count;
    struct cpu_patch patch[CPU_PATCHES];
};

enum { CPU_TIMEOUT = 0xf0, CPU_DIED, CPU_ENGINE_ERROR }; /* in place of a vector */
struct cpu_result {
    struct cpu_regs out;
    uint8_t vector;
    uint32_t error;
    uint64_t cr2;
    uint8_t data[CPU_RW_SIZE];
    char text[256]; /* CPU_ENGINE_ERROR: what it said */
};

/* What the data pages hold before the patches: constant, uneven bytes. */
void cpu_base_image(uint8_t data[CPU_DATA_SIZE]);

/* ---- native.c ---- */
struct cpu_native;
int cpu_native_create(struct cpu_native **out, struct dp_error *e) DP_MUST_CHECK;
void cpu_native_destroy(struct cpu_native *n);
int cpu_native_run(struct cpu_native *n, const struct cpu_case *cases, struct cpu_result *results, unsigned count,
                   struct dp_error *e) DP_MUST_CHECK;

/* ---- guest.c ---- */
struct cpu_guest;
/* The processor the tests are about: the highest model this host can run. */
int cpu_model(struct x86_cpuid_model *m, struct dp_error *e) DP_MUST_CHECK;
int cpu_guest_create(const char *engine, struct cpu_guest **out, struct dp_error *e) DP_MUST_CHECK;
void cpu_guest_destroy(struct cpu_guest *g);
void cpu_guest_run(struct cpu_guest *g, const struct cpu_case *c, struct cpu_result *r);
const struct x86_cpuid_model *cpu_guest_model(const struct cpu_guest *g);

/* ---- values.c ---- */
uint64_t cpu_below(struct dp_random *r, uint64_t n); /* 0 .. n-1 */
static inline bool cpu_one_in(struct dp_random *r, unsigned n) { return cpu_below(r, n) == 0; }
uint64_t cpu_random_int(struct dp_random *r);                  /* corner cases of every size, and plain random */
void cpu_random_bytes(struct dp_random *r, void *p, size_t n); /* plain */
void cpu_random_vector(struct dp_random *r, uint8_t v[16]);    /* integers, floats and doubles of every class */
void cpu_random_ext(struct dp_random *r, uint8_t v[10]);       /* 80-bit: every class, unsupported encodings too */
void cpu_random_fx(struct dp_random *r, uint8_t fx[512]);

/* ---- generate.c ---- */
struct cpu_forms; /* every encoding of one mode, by operation */
int cpu_forms_create(enum x86_mode mode, const struct x86_cpuid_model *model, struct cpu_forms **out, struct dp_error *e) DP_MUST_CHECK;
void cpu_forms_destroy(struct cpu_forms *f);
unsigned cpu_forms_count(const struct cpu_forms *f, unsigned op);
/* Why this operation is not compared, or NULL. */
const char *cpu_op_skipped(unsigned op);
/* Case number index of op; false: no encoding of it could be made (then the index is passed over). */
bool cpu_generate(const struct cpu_forms *f, unsigned op, uint64_t seed, uint64_t index, struct cpu_case *c);
/* A snippet of several instructions, of any operation. */
bool cpu_generate_sequence(const struct cpu_forms *f, uint64_t seed, uint64_t index, struct cpu_case *c);
/* A byte string that the decoder calls undefined. */
bool cpu_generate_undefined(const struct cpu_forms *f, uint64_t seed, uint64_t index, struct cpu_case *c);

/* ---- compare.c ---- */
/* Lines "what: native X, engine Y" of everything that differs and is defined, into out; returns how many. The first line's "what" is the
 * kind. */
unsigned cpu_compare(const struct cpu_case *c, const struct cpu_result *native, const struct cpu_result *engine, struct dp_buffer *out);
void cpu_describe(const struct cpu_case *c, struct dp_buffer *out); /* bytes, disassembly and inputs */
/* A count of zero leaves the flags alone: shifts, rotates, REP. */
bool cpu_flags_may_stay(const struct x86_insn *i);
bool cpu_decode_nth(const struct cpu_case *c, unsigned n, struct x86_insn *insn);

#endif
