/* engine/translate/dump.h - shows generated code: --perf-map and --dump-blocks. Any processor's thread. */
#ifndef DP_TRANSLATE_DUMP_H
#define DP_TRANSLATE_DUMP_H

#include "engine/translate/translate_internal.h"

struct dump;
struct path;

/* *out stays NULL when the VM's configuration asks for nothing; the other functions then do nothing. */
int dump_open(const struct dp_engine_vm *vm, struct dump **out, struct dp_error *e);
void dump_close(struct dump *d);
void dump_stubs(struct tcpu *t);
void dump_block(struct tcpu *t, const struct tblock *block, const struct path *p, uint64_t linear);
/* "64-cpl0", with "-ungrouped". */
void dump_mode(uint32_t mode, char *text, size_t size);

#endif
