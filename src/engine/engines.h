/* engines.h - the engines there are; only engines.c and the engines themselves include it. */
#ifndef DP_ENGINES_H
#define DP_ENGINES_H

#include "engine/engine.h"

extern const struct dp_engine dp_engine_null;

/* For the vm_init of engines that generate no host code: -ENOTSUP when something about such code is asked for. */
static inline int dp_engine_refuse_code(const char *engine, const struct dp_engine_vm *vm, struct dp_error *e)
{
    if (!vm->perf_map && !vm->dump_path)
        return 0;
    return dp_error_set(e, -ENOTSUP, "%s: engine %s generates no code that could be shown: take one that translates",
                        vm->perf_map ? "--perf-map" : "--dump-blocks", engine);
}

#endif
