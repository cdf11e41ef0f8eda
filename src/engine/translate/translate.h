/* engine/translate/translate.h - the binary translator. */
#ifndef DP_TRANSLATE_H
#define DP_TRANSLATE_H

#include "engine/engine.h"

extern const struct dp_engine dp_engine_translate;

/* How often a place is interpreted before it is translated. For tests: 0 has everything translated at once. */
void translate_set_warm(struct dp_engine_state *s, unsigned times);

#endif
