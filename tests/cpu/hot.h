/* hot.h - engines by the names the CPU tests take: those there are, "translate-hot", the translator that interprets nothing first to see whether it is
 * worth translating, and "translate-direct", which besides runs all code of user mode in a process of its own, and
 * "translate-shaken", which is kicked at all places of its code. */
#ifndef TESTS_CPU_HOT_H
#define TESTS_CPU_HOT_H

#include "engine/engines.h"
#include "engine/translate/translate.h"

static inline bool hot_is_direct(const char *name) { return !strcmp(name, "translate-direct"); }
static inline bool hot_is_shaken(const char *name) { return !strcmp(name, "translate-shaken"); }
static inline bool hot_is(const char *name) { return !strcmp(name, "translate-hot") || hot_is_direct(name) || hot_is_shaken(name); }
static inline const struct dp_engine *hot_find(const char *name) { return dp_engine_find(hot_is(name) ? "translate" : name); }
/* After vm_init. */
static inline void hot_set(const char *name, struct dp_engine_state *s)
{
    if (hot_is(name))
        translate_set_warm(s, 0);
    if (hot_is_shaken(name))
        translate_set_shaken(s);
    if (!strncmp(name, "translate", 9)) /* what is measured decides for users; a test wants the one or the other */
        translate_set_direct(s, hot_is_direct(name) ? TRANSLATE_DIRECT_ALWAYS : TRANSLATE_DIRECT_NEVER);
}

#endif
