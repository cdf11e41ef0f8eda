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
/* For tests: after so many host instructions of translated code a kick comes, once in each run(); 0: none. That finds what a kick at just
 * this place does, which otherwise is a matter of luck. */
void translate_set_kick_after(struct dp_engine_state *s, unsigned host_instructions);

#endif
