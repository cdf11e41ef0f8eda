/* block/ova.h - disks in OVA files (ova.c): names that mean one, and where in the archive a disk is. */
#ifndef DP_BLOCK_OVA_H
#define DP_BLOCK_OVA_H

#include "block/image.h"

/* How long the file's name is at the front of `x.ova` or `x.ova/member`; 0: it is no such name. */
size_t dp_ova_file_length(const char *name);
/* The member of that name; NULL: the archive's only disk. */
int dp_ova_find(struct dp_image *archive, const char *member, uint64_t *offset, uint64_t *size, struct dp_error *e) DP_MUST_CHECK;

#endif
