/* engine/translate/translate.h - the binary translator; its only public name. */
#ifndef DP_TRANSLATE_H
#define DP_TRANSLATE_H

#include "engine/engine.h"

extern const struct dp_engine dp_engine_translate;

#endif
