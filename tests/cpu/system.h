/* system.h - what the tests of privileged semantics share (test_system.c, test_system_memory.c, test_legacy.c); see bare.h for the bench.
 * argv of each: engine, mode of running (see bare.h), a pattern of names.
 */
#ifndef TESTS_CPU_SYSTEM_H
#define TESTS_CPU_SYSTEM_H

#include "bare.h"

#define D BARE_DATA
static inline uint64_t label(const uint8_t *name, const uint8_t *at) { return BARE_CODE + (uint64_t)(at - name); }
#define AT(name, mark) label(name, name##_##mark)
#define MARK(name, mark) extern const uint8_t name##_##mark[]

/* What the translator translates it does not count. */
static inline bool exact_counts(void) { return strncmp(bare_engine, "translate", 9) != 0; }

static inline void stop_at_80(struct bare *b, struct bare_frame *f)
{
    if (f->vector == 0x80)
        b->mem[BARE_MAILBOX + BARE_TR + 8] = 1;
    if (f->vector == X86_DB && b->traps == 2)
        f->rflags &= ~(uint64_t)X86_TF;
}

static inline void system_arguments(int argc, char **argv)
{
    if (argc > 1)
        bare_engine = argv[1];
    if (argc > 2)
        bare_mode = argv[2];
    if (argc > 3)
        cmocka_set_test_filter(argv[3]);
}
#define T(f) cmocka_unit_test_setup_teardown(f, bare_setup, bare_teardown)

#endif
