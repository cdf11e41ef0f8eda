/* volume/volume.h - what is done with volumes: made, imported, cloned, kept as snapshots, gone back to, resized, renamed, removed.
 *
 * Model: the pool (pool.h) is open for change; each function ends with the pool committed, or as it was. Volumes are thin. A snapshot is
 * instant: the volume's file becomes the snapshot's, and the volume goes on in an empty qcow2 file over it. So snapshots of a volume are a
 * tree, whose lines are backing files; going back begins another branch. A clone shares blocks with its origin where the file system can
 * (FICLONE), and else has it for its backing file. What is another's backing file is *protected*: not written, not removed.
 * Removing a snapshot that one other record stands on merges both: the lesser one's data is written to the other; whoever reads meanwhile
 * (or after a crash) sees no difference, but the snapshot is no moment any more (`merging`), and can only be removed. One that several
 * stand on stays.
 * Invariants: who changes or moves a file holds its image lock (block/file.h), so a volume that a VM uses stays as it is. That VM looks up
 * its volume again once it has the lock (dp_volume_resolve): the file may have become a snapshot's in between.
 * Source: ioctl_ficlone(2). Errors: 0 or negative errno, and one line in e; -EBUSY: somebody uses the volume.
 */
#ifndef DP_VOLUME_VOLUME_H
#define DP_VOLUME_VOLUME_H

#include "block/image_ops.h"
#include "volume/pool.h"

/* "[POOL/]NAME[@SNAPSHOT]". */
struct dp_volume_name {
    char pool[DP_VOLUME_NAME_MAX + 1], name[DP_VOLUME_NAME_MAX + 1], snapshot[DP_VOLUME_NAME_MAX + 1]; /* "": none */
};
int dp_volume_split(const char *text, struct dp_volume_name *n, struct dp_error *e) DP_MUST_CHECK;
struct dp_volume *dp_volume_find(const struct dp_pool *p, const struct dp_volume_name *n, struct dp_error *e); /* NULL: there is none */
/* "NAME" or "NAME@SNAPSHOT". */
enum { DP_VOLUME_TEXT_MAX = 2 * DP_VOLUME_NAME_MAX + 2 };
const char *dp_volume_text(const struct dp_pool *p, const struct dp_volume *v, char text[DP_VOLUME_TEXT_MAX]);
char *dp_volume_path(const struct dp_pool *p, const struct dp_volume *v, struct dp_error *e); /* to be freed; NULL: no memory */
/* Under the image lock; write: not when it is protected. unlocked: as in struct dp_image_options, only for reading. */
int dp_volume_open(const struct dp_pool *p, const struct dp_volume *v, bool write, bool unlocked, struct dp_image **out,
                   struct dp_error *e) DP_MUST_CHECK;
/* File (to be freed) and format of a volume that is to be used: for writing it must not be protected. */
int dp_volume_resolve(const char *text, bool write, char **path, const char **format, struct dp_error *e) DP_MUST_CHECK;
bool dp_volume_in_use(const struct dp_pool *p, const struct dp_volume *v); /* written, or read, by a program, at this moment */

/* format NULL: qcow2. */
int dp_volume_create(struct dp_pool *p, const char *name, const char *format, uint64_t size, struct dp_error *e) DP_MUST_CHECK;
/* A copy of an image, which may be another pool's volume. Others may change the pool meanwhile: records' pointers end. */
int dp_volume_import(struct dp_pool *p, const char *name, const char *format, struct dp_image *from, const struct dp_image_job *job,
                     struct dp_error *e) DP_MUST_CHECK;
enum dp_volume_clone { DP_CLONE_AUTO, DP_CLONE_REFLINK, DP_CLONE_BACKING };
/* *how: REFLINK or BACKING. A copy in full is dp_volume_import. */
int dp_volume_clone(struct dp_pool *p, struct dp_volume *v, const char *name, enum dp_volume_clone *how, struct dp_error *e) DP_MUST_CHECK;
int dp_volume_snapshot(struct dp_pool *p, struct dp_volume *v, const char *name, struct dp_error *e) DP_MUST_CHECK;
/* The volume is again what the snapshot is; what it was since its last snapshot gets lost. */
int dp_volume_revert(struct dp_pool *p, struct dp_volume *v, struct dp_volume *snapshot, struct dp_error *e) DP_MUST_CHECK;
/* all: with the volume's snapshots. */
int dp_volume_remove(struct dp_pool *p, struct dp_volume *v, bool all, const struct dp_image_job *job, struct dp_error *e) DP_MUST_CHECK;
int dp_volume_rename(struct dp_pool *p, struct dp_volume *v, const char *name, struct dp_error *e) DP_MUST_CHECK;

#endif
