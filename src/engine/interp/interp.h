/* engine/interp/interp.h - the interpreter engine; see interp_internal.h for its model. */
#ifndef DP_INTERP_H
#define DP_INTERP_H

#include "engine/engine.h"

extern const struct dp_engine dp_engine_interp;

#endif
