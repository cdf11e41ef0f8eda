/* decode_zydis.h - cross-check of the x86 decoder with Zydis; see decode_zydis.c. */
#ifndef DP_TESTS_DECODE_ZYDIS_H
#define DP_TESTS_DECODE_ZYDIS_H

#include "isa/x86/insn.h"

struct decode_difference { char key[96], example[120]; unsigned count; };
struct decode_report {
    unsigned long compared, valid;
    unsigned kinds; /* differences, one of each kind */
    struct decode_difference kind[100];
};

void decode_compare_legacy(struct decode_report *r);
void decode_compare_vex(struct decode_report *r);
void decode_compare_random(struct decode_report *r, uint64_t seed, unsigned count);

#endif
