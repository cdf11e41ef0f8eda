/* engine/translate/analyse.h - what the translator finds out about a block before it writes code.
 *
 * Model: a superblock is a path through one guest page: it runs on past conditional branches and follows unconditional
 * ones, up to MAX_INSNS and MAX_BRANCHES. Three passes: decode and classify; arithmetic flags backward (which are still
 * wanted before each instruction); accesses forward, which are put into *groups* of the same base register with the
 * same contents, so that one page check serves all.
 */
#ifndef DP_TRANSLATE_ANALYSE_H
#define DP_TRANSLATE_ANALYSE_H

#include "engine/translate/translate_internal.h"

enum insn_kind {
    KIND_COPY,      /* the same instruction with other operands */
    KIND_NOTHING,
    KIND_HIGH_BYTE, /* names AH, CH, DH or BH */
    KIND_STRING,    /* direct spaces only */
    KIND_PUSH, KIND_POP, KIND_LEAVE, KIND_PUSHF,
    KIND_CLD, KIND_STD, KIND_CLI, KIND_STI, KIND_SWAPGS, KIND_RDTSC,
    KIND_JCC, KIND_JMP, KIND_JMP_INDIRECT, KIND_CALL, KIND_CALL_INDIRECT,
    KIND_HELPER,    /* system.c does it, in C; ends the block */
    KIND_RET,
    KIND_JCXZ,
    KIND_OP,        /* the interpreter's, but no branch: done in place; ends the block */
    KIND_INTERPRET, /* not ours: ends the block */
};

enum { NO_GROUP = 0xff, DELTA_RCX = 0xfe, DELTA_R15 = 0xfd };

struct access {
    bool used, write, simple; /* simple: base register in a host register, nothing else: can be grouped */
    uint8_t base;             /* guest */
    uint8_t group;
    uint16_t size;
    int32_t disp;             /* from the base as it is at this instruction */
};

struct group {
    uint8_t base, storage;    /* DELTA_..., or a number of tctx.delta */
    bool write, alone, crossing; /* the first access writes; only one access */
    uint16_t version;
    int32_t low, high;        /* relative to the base when the version began */
    uint8_t at;               /* instruction before which the check stands */
    uint8_t first, count;
    int32_t adjust_at;        /* base's constant offset at `at` */
};

struct insn_info {
    struct x86_insn i;
    uint8_t raw[16];
    uint16_t offset;          /* in the page */
    uint8_t kind;
    uint16_t live;            /* arithmetic flags wanted before it */
    struct access memory, stack;
    bool follows;             /* JMP: the path goes on at its target */
    bool x87;                 /* wants the guest's state in the host's x87 unit */
    bool checks;              /* there are groups whose check stands before it */
    bool points;              /* sets the x87 instruction (and data) pointer */
};

struct path {
    bool checked;             /* accesses are; no: it is for a direct space */
    unsigned word;            /* bytes of a stack slot, of an address: 8, or 4 in 32-bit code */
    struct insn_info insn[MAX_INSNS + 1];
    unsigned count;
    uint16_t end;             /* page offset after the last instruction */
    bool open;                /* ends by falling through to `end` */
    const struct tblock *then; /* open: what stands at `end` is this block already, NULL: nobody knows */
    bool interpret;           /* what stands at `end` is the interpreter's */
    bool before_crossing;     /* the instruction at `end` does */
    bool crosses;             /* the last instruction runs into the next page: `end` >= 4096 */
    uint16_t bytes;
    struct group group[2 * MAX_INSNS];
    unsigned groups;
};

/* Where in the encoding the register of an operand code (decode_table.h) is; PLACE_NONE: nowhere, it is implied. */
enum place { PLACE_NONE, PLACE_REG, PLACE_RM, PLACE_VVVV };
enum place place_of(unsigned operand_code);
bool implicit_rcx(const struct x86_insn *i);             /* shifts by CL, CMPXCHG8B and 16B: as it is, only read */
unsigned spilled_operands(const struct x86_insn *i);     /* how many of guest R13-R15 it names as register operands */

/* For the cache t. Reads code from `code`, the guest page's bytes, beginning at offset; next: bytes of the following page, NULL when not
 * to be used. In a direct space no access gets into a group. */
void analyse(struct path *p, const struct tcpu *t, const struct tpage *page, const uint8_t *code, unsigned offset, const uint8_t *next,
             uint32_t mode);

#endif
