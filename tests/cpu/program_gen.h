/* tests/cpu/program_gen.h - between the generator's two files: program_asm.c (encodings and operands) and program_gen.c (what to write).
 *
 * Model: registers have roles, so that most programs run for long: *pointers* hold addresses the generator believes to know, *indexes* hold
 * small numbers, *locked* ones are somebody's loop counter; all others are scratch. RSP is always a pointer. Addresses are drawn around a
 * few *hot spots*, mostly borders of pages.
 */
#ifndef TESTS_PROGRAM_GEN_H
#define TESTS_PROGRAM_GEN_H

#include "program.h"

enum prog_class { PROG_INT, PROG_SSE, PROG_X87, PROG_MMX, PROG_VEX, PROG_CLASSES };
enum { PROG_HOT = 4, PROG_LABELS = 160, PROG_FUNCTIONS = 4, PROG_GPRS = 16 };

struct prog_gen {
    const struct prog_forms *forms;
    struct dp_random r;
    struct program *p;
    bool code64;
    uint32_t undefined;                 /* flags, here */
    uint16_t pointers, indexes, locked; /* masks of registers */
    uint64_t at[PROG_GPRS];             /* what pointers and indexes hold, we believe */
    uint64_t hot[PROG_HOT];
    unsigned wild; /* one memory operand in so many is meant to fault; 0: none */
    bool high;     /* addresses above 4 GiB are used, too */
    int16_t label[PROG_LABELS];
    unsigned labels, counters;
    unsigned target; /* instructions wanted */
    int16_t function[PROG_FUNCTIONS];
    unsigned functions, function_now;
};

struct prog_mem {
    int base, index; /* -1: none */
    unsigned scale;
    int64_t disp;
    uint64_t linear; /* the target */
    uint8_t seg;     /* prefix byte or 0 */
    bool a32, rip;
};
struct prog_enc {
    bool p66, lock, w, rex;
    bool digit;    /* reg belongs to the opcode */
    bool high_reg; /* AH..BH where no REX gets in the way */
    uint8_t rep, map, op;
    uint8_t reg, rm;
    const struct prog_mem *mem;
    uint8_t imm_size;
    uint64_t imm;
    uint8_t fix; /* of the immediate */
    int16_t label;
    bool vex, l;
    uint8_t vvvv;
    bool no_modrm;
};

/* ---- program_asm.c ---- */
static inline uint64_t prog_pick(struct prog_gen *g, uint64_t n) { return cpu_below(&g->r, n); }
static inline bool prog_one_in(struct prog_gen *g, unsigned n) { return cpu_one_in(&g->r, n); }
/* From here on no flag is undefined. */
void prog_settle(struct prog_gen *g);
int16_t prog_label(struct prog_gen *g);
void prog_place(struct prog_gen *g, int16_t label);
/* Appends one instruction; one that defines all flags goes before it where it must. False: it does not decode. */
bool prog_put(struct prog_gen *g, const uint8_t *bytes, unsigned size, enum prog_fix fix, unsigned fix_at, int16_t label, uint64_t linear);
bool prog_emit(struct prog_gen *g, const struct prog_enc *e);
#define EMIT(g, ...) prog_emit(g, &(const struct prog_enc){.label = -1, __VA_ARGS__})
/* An instruction of the class, any operation and operands. */
void prog_any(struct prog_gen *g, enum prog_class c);
bool prog_has(const struct prog_gen *g, enum prog_class c);
bool prog_feature(const struct prog_gen *g, enum x86_feature f);

/* A scratch register; any register; a pointer that is not RSP (-1: none). */
unsigned prog_scratch(struct prog_gen *g);
unsigned prog_source(struct prog_gen *g);
int prog_pointer(struct prog_gen *g);
/* Is the access possible without a fault, RSP and other roles aside? */
bool prog_reachable(uint64_t linear, unsigned size, bool write);
uint64_t prog_target(struct prog_gen *g, unsigned size, bool write);
struct prog_mem prog_memory(struct prog_gen *g, unsigned size, bool write, bool aligned);
struct prog_mem prog_absolute(uint64_t linear);
void prog_load_constant(struct prog_gen *g, unsigned reg, uint64_t value);
/* reg = the address of label, by LEA or MOV. */
void prog_load_label(struct prog_gen *g, unsigned reg, int16_t label);

#endif
