/* block/image_internal.h - between image.c and the drivers that are part of it. */
#ifndef DP_BLOCK_IMAGE_INTERNAL_H
#define DP_BLOCK_IMAGE_INTERNAL_H

#include "block/image.h"

/* What the images of one tree know of each other while they are opened. */
struct dp_image_chain {
    bool anywhere, create;
    bool copied;    /* an image has the options' copy */
    char *folder;   /* else backing files must be in it or below; NULL: the topmost image has none */
    unsigned depth; /* backing images above this one */
    unsigned files;
    struct {
        uint64_t device, inode;
    } seen[2 * DP_IMAGE_DEPTH_MAX];
    uint64_t memory; /* bytes of tables that drivers hold for the whole tree */
};

/* A file of the tree is about to be opened (and locked): -EINVAL if it is there already. */
int dp_image_chain_add(struct dp_image *i, struct dp_error *e) DP_MUST_CHECK;

/* Another image that i is made of, where a backing file may be, and as i is for reading or writing. Not in i's structure: out is closed by
 * its driver. */
int dp_image_open_part(struct dp_image *i, const char *name, const struct dp_image_format *f, const struct dp_image_options *o,
                       struct dp_image **out, struct dp_error *e) DP_MUST_CHECK;

/* For a protocol over another: o->name, by its protocol, becomes i->file. */
int dp_image_open_below(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e) DP_MUST_CHECK;

extern const struct dp_image_format dp_image_file, dp_image_ova, dp_image_raw, dp_image_qcow2, dp_image_luks, dp_image_vdi, dp_image_vpc,
    dp_image_vmdk, dp_image_vhdx, dp_image_mirror;
extern const struct dp_image_format dp_image_http, dp_image_nbd, dp_image_iscsi, dp_image_rbd; /* if this doppel was built with what it needs */

#endif
