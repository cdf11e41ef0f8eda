/* block/image_ops.h - what is done with whole images: copied, compared, merged, moved to another backing file, shrunk to what they hold.
 *
 * Model: an operation walks the disk in pieces of DP_IMAGE_PIECE bytes, asks for extents first and reads only what has data. It tells
 * how far it is after each piece and looks whether it is to stop; then it ends with -EINTR, and what it did so far is whole: images
 * are as valid as before, and the same operation begun again does the rest. Nothing here opens or closes an image. Threads: one image
 * is used by one thread at a time; dp_image_copy reads `from` in a thread of its own, and `to` in the caller's; more compress.
 * Errors: 0 or negative errno, and one line in e.
 */
#ifndef DP_BLOCK_IMAGE_OPS_H
#define DP_BLOCK_IMAGE_OPS_H

#include "block/image.h"

enum { DP_IMAGE_PIECE = 2 << 20 };

struct dp_image_job {
    void (*progress)(void *opaque, uint64_t done, uint64_t all); /* may be NULL */
    void *opaque;
    const atomic_bool *stop; /* may be NULL; a signal handler may set it */
};

struct dp_image_copy {
    struct dp_image *from, *to; /* to is at least as large */
    uint64_t start;             /* what is before is there already */
    uint32_t sparse;            /* so many zeros in a row are not stored; 0: all is */
    bool packed;                /* compressed */
    unsigned threads;           /* that compress and decompress; 0: two for each processor */
    bool zeroed;                /* to reads as zeros where nothing is written: it is new, without a backing image */
    bool same_as_backing;       /* what to has already (in its backing image) is compared, and not written again */
    bool range;                 /* files may be copied by the kernel (dp_image_copy_range), zeros are not looked for */
    uint64_t done;              /* set: what is before is written */
};
int dp_image_copy(struct dp_image_copy *c, const struct dp_image_job *job, struct dp_error *e) DP_MUST_CHECK;

enum dp_image_difference { DP_IMAGE_SAME, DP_IMAGE_OTHER_SIZE, DP_IMAGE_OTHER_KIND, DP_IMAGE_OTHER_BYTES };
/* The first difference, at *at. Without strict, a longer disk that ends with zeros is the same, and so are zeros however stored. */
int dp_image_compare(struct dp_image *a, struct dp_image *b, bool strict, const struct dp_image_job *job, enum dp_image_difference *d,
                     uint64_t *at, struct dp_error *e) DP_MUST_CHECK;

/* What top has (opened alone) into base, which is below it, and flushes that. Emptying top is the caller's. */
int dp_image_merge(struct dp_image *top, struct dp_image *base, const struct dp_image_job *job, struct dp_error *e) DP_MUST_CHECK;

/* Makes top independent of where its backing image and below (NULL: zeros) differ; flushes. Changing the name is the caller's. */
int dp_image_detach(struct dp_image *top, struct dp_image *below, const struct dp_image_job *job, struct dp_error *e) DP_MUST_CHECK;

/* Gives back what holds only zeros. *freed: bytes of the disk that are no data any more. */
int dp_image_compact(struct dp_image *i, const struct dp_image_job *job, uint64_t *freed, struct dp_error *e) DP_MUST_CHECK;

/* The piece that begins at offset, as long as it goes on alike: up to the end of the disk, through all images of the tree. */
int dp_image_map(struct dp_image *i, uint64_t offset, struct dp_extent *x, const struct dp_image **owner) DP_MUST_CHECK;

/* How large a file of that format would be with from's data, and with a full disk. 0 of from: an empty disk of size bytes.
 * -ENOTSUP: of that format nobody knows. cluster_size 0: the format's usual one. */
int dp_image_measure(struct dp_image *from, uint64_t size, const char *format, uint32_t cluster_size, uint64_t *required, uint64_t *full,
                     struct dp_error *e) DP_MUST_CHECK;

/* Zeros there, without writing where it reads as zeros already. */
int dp_image_clear(struct dp_image *i, uint64_t offset, uint64_t size) DP_MUST_CHECK;
bool dp_is_zero(const void *data, size_t size);

#endif
