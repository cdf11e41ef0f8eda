/* block/live.h - what is done to a disk while it is used: snapshots, growth, and jobs that merge, pull up, move or back up its contents.
 *
 * Model: all of it happens in the thread of the disk's worker, between two requests (worker.c), so nothing here waits for a lock of the
 * guest's and no request sees half of it. A raw disk that has no worker gets one when it is needed first, and keeps it. A job walks a map
 * of chunks that it has still to do, a piece after every few requests:
 *   COMMIT: what a layer (the topmost one) has, and those between it and the base (the next one below), goes into the base. Of the topmost
 *     one, what the guest writes meanwhile is to be done again; when nothing is left, it is emptied and the disk goes on with the base.
 *     Of one further down, the layer above it gets the base as its backing image.
 *   STREAM: what the layers between the topmost one and the base (none) have goes into the topmost one; then the base is all that it has
 *     below.
 *   MIRROR: all goes into a copy, again and again what is written; when nothing is left the job is READY and goes on keeping the copy the
 *     same, until it is completed (the disk goes on with the copy) or cancelled (the copy stays as it is at that moment).
 *   BACKUP: a copy of the disk as it was when the job began: what is about to be overwritten is copied first. With a bitmap that exists,
 *     only what was written since it was last used; with a new one all, and it records from that moment on.
 * Bitmaps live as long as the disk is open. Invariants: at any moment, also after kill -9, the image that the disk was opened with and the
 * layers below it make the disk, but for what was written after a MIRROR was completed. What goes wrong in a job ends the job, not a
 * request of the guest's. Threads: the loop's, all of it; calls wait for the worker's current step. One job at a time.
 */
#ifndef DP_BLOCK_LIVE_H
#define DP_BLOCK_LIVE_H

#include "block/block.h"
#include "block/image.h"

enum dp_job_kind { DP_JOB_COMMIT, DP_JOB_STREAM, DP_JOB_MIRROR, DP_JOB_BACKUP };
enum dp_job_state { DP_JOB_RUNNING, DP_JOB_READY, DP_JOB_DONE, DP_JOB_CANCELLED, DP_JOB_FAILED };
extern const char *const dp_job_kind_name[], *const dp_job_state_name[];

struct dp_job_options {
    enum dp_job_kind kind;
    uint64_t rate; /* bytes a second at most; 0: as fast as it goes */
    const char *top, *base; /* COMMIT: which layer, into which; STREAM: base: what stays below; names of files; NULL: as above */
    /* MIRROR, BACKUP */
    const char *target, *format;          /* format NULL: raw */
    bool reuse;                           /* the target is there, as large as the disk; else it is made */
    const char *bitmap;                   /* BACKUP; may be NULL */
    const char *backing, *backing_format; /* BACKUP: of the target that is made; may be NULL */
};
struct dp_job_status {
    enum dp_job_kind kind;
    enum dp_job_state state;
    uint64_t done, all;                 /* bytes */
    char target[DP_IMAGE_NAME_MAX + 1]; /* "": none */
    struct dp_error error;              /* FAILED */
};
int dp_block_job_start(struct dp_block *b, const struct dp_job_options *o, struct dp_error *e) DP_MUST_CHECK;
/* Of the last one; false: there was none. */
bool dp_block_job_status(struct dp_block *b, struct dp_job_status *s);
int dp_block_job_complete(struct dp_block *b, struct dp_error *e) DP_MUST_CHECK;
int dp_block_job_cancel(struct dp_block *b, struct dp_error *e) DP_MUST_CHECK;

/* New layers, all of the same moment: each file, which is made, becomes the topmost one of its disk. All or none. */
enum { DP_SNAPSHOT_DISKS_MAX = 64 };
struct dp_live_snapshot {
    struct dp_block *block;
    const char *file; /* an absolute path */
};
int dp_block_snapshot(const struct dp_live_snapshot *s, unsigned count, struct dp_error *e) DP_MUST_CHECK;
/* One inside the image, if its format has such. */
int dp_block_snapshot_inside(struct dp_block *b, const char *name, struct dp_error *e) DP_MUST_CHECK;

/* Grows it, and tells the device (dp_block_on_resize). */
int dp_block_resize(struct dp_block *b, uint64_t size, struct dp_error *e) DP_MUST_CHECK;

enum { DP_BITMAPS_MAX = 16, DP_BITMAP_NAME_MAX = 63 };
int dp_block_bitmap_remove(struct dp_block *b, const char *name, struct dp_error *e) DP_MUST_CHECK;
/* The n-th: its name and how many bytes were written since it was last used; NULL: there are no more. */
const char *dp_block_bitmap(struct dp_block *b, unsigned n, uint64_t *bytes);

/* The disk's images from the topmost one on; gives how many there are. */
struct dp_block_layer {
    char file[DP_IMAGE_NAME_MAX + 1];
    const char *format;
};
unsigned dp_block_layers(struct dp_block *b, struct dp_block_layer layer[DP_IMAGE_DEPTH_MAX]);

#endif
