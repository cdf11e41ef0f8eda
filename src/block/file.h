/* block/file.h - files and block devices of the host: opening them under the right lock.
 *
 * Locks are QEMU's, so that its tools and doppel see each other: of byte 100 + n a process holds a read lock while it uses permission n
 * (0: reads, 1: writes, 3: resizes), of byte 200 + n while others may not use it. Open file description locks, fcntl(2). Who finds that
 * somebody uses what he does not share, or does not share what he uses, is refused.
 * Source: QEMU's docs/interop and file locks as seen by fcntl; fcntl(2).
 */
#ifndef DP_BLOCK_FILE_H
#define DP_BLOCK_FILE_H

#include "base/base.h"

struct dp_file_options {
    const char *name;
    bool readonly, create, unlocked;
    struct dp_trace *trace;
};
struct dp_file {
    int fd; /* -1: closed */
    bool regular;
    uint64_t length;
};

/* f->fd is -1 after an error. create: makes it, empties it (under the lock). */
int dp_file_open(const struct dp_file_options *o, struct dp_file *f, struct dp_error *e) DP_MUST_CHECK;

struct dp_image;
/* The descriptor of an image of the protocol `file`; -1: it is another. */
int dp_image_file_descriptor(const struct dp_image *i);
/* Two pieces of such a file that hold the same become one, by the file system. 1: they differ; -EOPNOTSUPP: it cannot. */
int dp_image_file_share(struct dp_image *i, uint64_t keep, uint64_t drop, uint64_t size) DP_MUST_CHECK;

#endif
