/* block/live_internal.h - between live.c (jobs, bitmaps) and live_layers.c (which images a disk is made of, and how that changes).
 *
 * Model: struct dp_live is the loop's but for `job` and `bitmap`, which the worker's thread changes: the loop's thread looks at them within
 * calls only, and at `status` under the lock. A job's map has a bit for each chunk that is still to do; `left` counts them. Layers are
 * numbered from the topmost one on, which is 0; they do not change while a job is under way, but for being opened again.
 */
#ifndef DP_BLOCK_LIVE_INTERNAL_H
#define DP_BLOCK_LIVE_INTERNAL_H

#include "block/block_internal.h"
#include "block/live.h"

struct dp_live_bitmap {
    char name[DP_BITMAP_NAME_MAX + 1];
    uint8_t *bits;
};

struct dp_live_job {
    bool active;
    enum dp_job_kind kind;
    unsigned first, base; /* COMMIT, STREAM: what layers first to base - 1 have is merged. STREAM: base may be their count, nothing */
    struct dp_image *to;  /* COMMIT: layer base, which the tree closes */
    char *to_format;      /* MIRROR, for when it is completed */
    bool fresh;           /* nothing is in it where the walk has not been yet */
    uint8_t *map, *was;   /* was: of the bitmap, as it was when the job began */
    uint64_t left, at;    /* chunks */
    uint64_t rate;
    char *bitmap;
    uint8_t *buffer;
};

struct dp_live {
    struct dp_block *block;
    struct dp_worker_job hooks;
    struct dp_image **image; /* the worker's, while it is in one of our functions */
    uint64_t size, chunk, chunks;
    struct dp_live_job job;
    struct dp_live_bitmap bitmap[DP_BITMAPS_MAX];
    /* the topmost layer */
    char *path, *format;
    bool anywhere;
    pthread_mutex_t lock;
    bool has_status;
    struct dp_job_status status;
};

/* live.c. The loop's thread: */
int dp_live_get(struct dp_block *b, struct dp_error *e) DP_MUST_CHECK; /* makes b->live */
int dp_live_need_no_job(struct dp_live *l, struct dp_error *e) DP_MUST_CHECK;
int dp_live_need_free_layers(const struct dp_block *b, struct dp_error *e) DP_MUST_CHECK; /* they come, go or are opened again */
int dp_live_must_be_new(const char *name, struct dp_error *e) DP_MUST_CHECK;
/* Either: */
int dp_live_need_image(const struct dp_live *l, const struct dp_image *i, struct dp_error *e) DP_MUST_CHECK;
int dp_live_flush(struct dp_image *i, struct dp_error *e) DP_MUST_CHECK;

/* live_layers.c, in the worker's thread, with l->image. If an image cannot be opened again even as it was, the disk is lost: *l->image is
 * NULL then. */
struct dp_image *dp_live_layer(const struct dp_live *l, unsigned n);
/* Sets the job's first and base, as the options say. */
int dp_live_find_range(struct dp_live *l, const struct dp_job_options *o, struct dp_error *e) DP_MUST_CHECK;
/* COMMIT: the base, until now only read, for writing, as large as the disk; sets job.to. */
int dp_live_open_base(struct dp_live *l, struct dp_error *e) DP_MUST_CHECK;
void dp_live_close_base(struct dp_live *l); /* it is only read again */
/* As dp_image_extent, of layers i to the one above base; UNALLOCATED: none of them has it. */
int dp_live_extent(struct dp_image *i, const struct dp_image *base, uint64_t offset, uint64_t size, struct dp_extent *x) DP_MUST_CHECK;
/* All is copied: the layers that are not needed any more go. */
int dp_live_finish_commit(struct dp_live *l, struct dp_error *e) DP_MUST_CHECK;
int dp_live_finish_stream(struct dp_live *l, struct dp_error *e) DP_MUST_CHECK;
/* The disk goes on with this one as its topmost layer. */
void dp_live_now_on(struct dp_live *l, const char *path, const char *format);

#endif
