/* engine/translate/translate.h - the binary translator. */
#ifndef DP_TRANSLATE_H
#define DP_TRANSLATE_H

#include "engine/engine.h"

extern const struct dp_engine dp_engine_translate;

/* How often a place is interpreted before it is translated. For tests: 0 has everything translated at once. */
void translate_set_warm(struct dp_engine_state *s, unsigned times);
/* When user programs get a process of their own (direct.h): never, when they run long, or (for tests) at once. */
enum translate_direct { TRANSLATE_DIRECT_AUTO, TRANSLATE_DIRECT_NEVER, TRANSLATE_DIRECT_ALWAYS };
void translate_set_direct(struct dp_engine_state *s, enum translate_direct when);
/* For tests: kicks come at all places of translated code (shake.c). */
void translate_set_shaken(struct dp_engine_state *s);

#endif
