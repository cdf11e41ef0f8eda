/* engines.h - the engines there are; only engines.c and the engines themselves include it. */
#ifndef DP_ENGINES_H
#define DP_ENGINES_H

#include "engine/engine.h"

extern const struct dp_engine dp_engine_null;

#endif
