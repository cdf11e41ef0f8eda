/* memory_internal.h - what memory.c needs of ram.c. */
#ifndef DP_MEMORY_INTERNAL_H
#define DP_MEMORY_INTERNAL_H

#include "memory/memory.h"

/* Starting again sets every bit. Client numbers were checked by the caller. */
int ram_dirty_start(struct dp_ram *r, unsigned client, struct dp_error *e);
void ram_dirty_stop(struct dp_ram *r, unsigned client);
/* See dp_space_discard; the range was checked. */
int ram_discard(struct dp_ram *r, uint64_t offset, uint64_t size);
uint64_t ram_dirty_harvest(struct dp_ram *r, unsigned client, uint64_t *bitmap);

#endif
