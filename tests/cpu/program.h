/* tests/cpu/program.h - whole programs, executed by the host's processor and by an engine, and compared.
 *
 * Model: a program is a list of 5-150 instructions with symbolic branch targets, registers before it, and the contents of memory.
 * It is assembled (program.c), run by a child process on the host (program_native.c, program_child.c) and at CPL 3 in a small virtual
 * machine (program_guest.c) until INT3 or whatever fault comes first; then everything a user can see must be equal. A program that fails is
 * cut down, instruction by instruction, while it still fails (program_diff.c).
 *
 * The world, linear addresses. Pages of data that are neighbours are seldom neighbours physically, and some are mapped twice:
 *   CPU_CODE    2 pages of code, full of INT3 around the program; nothing mapped before and after
 *   PROG_DATA   12 pages as in prog_page[]: writable, read-only, absent
 *   PROG_HIGH   the same pages above 4 GiB
 * Page PROG_OWN belongs to the generator (loop counters, jump tables, FXSAVE area): no random access aims at it.
 *
 * Invariants: a program follows from (seed, mode, index). No instruction reads a flag that the manuals leave undefined, and no flag is
 * undefined at a branch or a branch's target (prog_check), so that everything compared is defined, whatever engine runs it.
 */
#ifndef TESTS_PROGRAM_H
#define TESTS_PROGRAM_H

#include "cpu.h"
#include "isa/x86/x86.h"

#define PROG_DATA CPU_DATA
#define PROG_HIGH CPU_HIGH
enum {
    PROG_PAGES = 12, /* linear */
    PROG_FRAMES = 7, /* physical */
    PROG_OWN = 9,
    PROG_OWN_READONLY = 10, /* linear pages of the generator's frame */
    PROG_OWN_TABLE = 512,
    PROG_TABLE_SIZE = 64, /* jump table, in the frame, and its entries */
    PROG_OWN_FX = 2048,
    PROG_MEMORY = PROG_FRAMES * 4096,
    PROG_MAX_INSNS = 200,
    PROG_MAX_CODE = 2048,
    PROG_BATCH = 16,
};
struct prog_page {
    int8_t frame; /* -1: not present */
    bool writable;
};
extern const struct prog_page prog_page[PROG_PAGES];

enum prog_fix { PROG_FIX_NONE, PROG_FIX_REL8, PROG_FIX_REL32, PROG_FIX_ABS32, PROG_FIX_ABS64, PROG_FIX_RIP /* to a linear address */ };
struct prog_insn {
    uint8_t bytes[15], length;
    uint8_t fix, fix_at;
    int16_t target;  /* an instruction's number; == count: the end */
    uint64_t linear; /* PROG_FIX_RIP */
};

struct program {
    uint64_t seed, index;
    uint8_t mode; /* enum x86_mode: 32 or 64 */
    uint16_t count;
    uint16_t code_offset, table_count;
    int16_t table[PROG_TABLE_SIZE]; /* instructions' numbers */
    struct cpu_regs in;
    uint8_t memory[PROG_MEMORY];
    struct prog_insn insn[PROG_MAX_INSNS];
};

/* What the two sides get. */
struct prog_image {
    uint8_t mode;
    uint32_t code_offset, code_size;
    uint8_t code[PROG_MAX_CODE];
    struct cpu_regs in;
    uint8_t memory[PROG_MEMORY];
};
struct prog_result {
    struct cpu_result r; /* its data is not used */
    uint8_t memory[PROG_MEMORY];
};

/* ---- program.c ---- */
/* at[i] is the offset of instruction i (at[count]: the end). False: a short branch does not reach or the code is too long. */
bool prog_assemble(const struct program *p, struct prog_image *image, uint16_t at[PROG_MAX_INSNS + 1]);
/* Flags that insn leaves undefined, and which of `before` stay undefined behind it. */
uint32_t prog_undefined_after(const struct x86_insn *i, uint32_t before);
/* Flags undefined before each instruction; false when one of them is read or lives over a branch. */
bool prog_check(const struct program *p, const struct prog_image *image, const uint16_t at[], uint32_t undefined[PROG_MAX_INSNS]);
/* Flags that somebody may read at or behind each instruction. */
void prog_live(const struct program *p, const struct prog_image *image, const uint16_t at[], uint32_t live[PROG_MAX_INSNS + 1]);
void prog_describe(const struct program *p, struct dp_buffer *out);

/* ---- program_gen.c ---- */
struct prog_forms;
int prog_forms_create(enum x86_mode mode, const struct x86_cpuid_model *model, struct prog_forms **out, struct dp_error *e) DP_MUST_CHECK;
void prog_forms_destroy(struct prog_forms *f);
void prog_generate(const struct prog_forms *f, enum x86_mode mode, uint64_t seed, uint64_t index, struct program *p);

/* ---- program_native.c ---- */
struct prog_native;
int prog_native_create(struct prog_native **out, struct dp_error *e) DP_MUST_CHECK;
void prog_native_destroy(struct prog_native *n);
int prog_native_run(struct prog_native *n, const struct prog_image *images, struct prog_result *results, unsigned count,
                    struct dp_error *e) DP_MUST_CHECK;

/* ---- program_guest.c ---- */
struct prog_guest;
int prog_guest_create(const char *engine, const struct x86_cpuid_model *model, struct prog_guest **out, struct dp_error *e) DP_MUST_CHECK;
void prog_guest_destroy(struct prog_guest *g);
/* How a run of the engine is made; the result must not depend on it. */
struct prog_how {
    bool again;      /* the code is in memory already: whatever the engine cached of it gets used */
    uint32_t budget; /* instructions per call of run(); 0: all at once */
    bool free;       /* no limit at all: engines that count for it do not, and blocks run on into each other */
    const atomic_bool *stop; /* kicks are expected: the run goes on until this is set; NULL: a kick ends it */
    bool roundtrip;  /* pull and push the state between calls */
};
void prog_guest_kick(struct prog_guest *g); /* from a signal handler: the run ends as an engine's error */
void prog_guest_run(struct prog_guest *g, const struct prog_image *image, const struct prog_how *how, struct prog_result *r);
/* Runs the program with a kick after a few host instructions, and so on from there to its end (with an even seed after 1, 2, 3 ... until an
 * instruction is done). Each time the processor must be in a state that the reference, which goes instruction by instruction, was in, too, and
 * no earlier one than the last. Only for the translator. Returns 1 and tells what is wrong. */
enum { PROG_STEPS = 3000 };
struct prog_step { uint64_t hash, r[X86_RIP + 1]; };
unsigned prog_guest_probe(struct prog_guest *g, struct prog_guest *reference, const struct prog_image *image, uint64_t seed, struct dp_buffer *out);

#endif
