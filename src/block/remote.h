/* block/remote.h - what drivers of disks on servers share that speak over a connection (nbd.c, iscsi.c): whole blocks, connections that
 * break.
 *
 * Model: a driver runs one command at a time; this cuts transfers into commands, and where the server takes only whole blocks it reads,
 * changes and writes them. A connection that breaks is made anew, for RETRY seconds, and the command repeated (all of them may be), if
 * the server still has the same disk. A server that cannot be reached then, or does not answer, is *away*: commands fail at once, but
 * that after REST seconds one looks whether it is back. So a guest waits a short absence out, sees I/O errors in a long one, and can be
 * switched off at any time. A server may have died with what was written and not flushed: then the next flush says -EIO, once, for
 * whoever wrote must know.
 * Invariants: sizes that the server says are checked; memory is one block. Source: as of the drivers.
 */
#ifndef DP_BLOCK_REMOTE_H
#define DP_BLOCK_REMOTE_H

#include "block/image.h"

enum { DP_REMOTE_PATIENCE = 30 /* seconds for an answer */, DP_REMOTE_BLOCK_MAX = 1 << 20 };

enum dp_remote_op { DP_REMOTE_READ, DP_REMOTE_WRITE, DP_REMOTE_ZERO, DP_REMOTE_DISCARD, DP_REMOTE_FLUSH, DP_REMOTE_EXTENT };
struct dp_remote_command {
    enum dp_remote_op op;
    void *data;
    uint64_t offset, size; /* whole blocks inside the disk */
    unsigned flags;        /* of ZERO: DP_ZERO_... */
    struct dp_extent *extent;
};

struct dp_remote;
struct dp_remote_driver {
    /* Makes the connection, in so many seconds at most; sets image.size, block and most. After an error there is none. */
    int (*connect)(struct dp_remote *r, unsigned seconds, struct dp_error *e);
    void (*disconnect)(struct dp_remote *r); /* at once, without a word to the server */
    /* -ENOTCONN: the connection broke; -ETIMEDOUT: no answer. After both the command's memory must not be used after disconnect. */
    int (*run)(struct dp_remote *r, const struct dp_remote_command *c);
};

struct dp_remote { /* the first member of a driver's own structure */
    struct dp_image image;
    const struct dp_remote_driver *driver;
    uint32_t block, most; /* sizes of commands: a multiple of, at most */
    bool connected, away;
    bool unflushed, lost; /* something is written; and the server may have lost it */
    int64_t again_ms;     /* away: when somebody looks again, CLOCK_MONOTONIC */
    uint8_t *bounce;      /* one block, if those are larger than a byte */
};

int64_t dp_remote_now_ms(void);
/* A driver's open: connects, once, and looks at what the server says. */
int dp_remote_open(struct dp_remote *r, const struct dp_remote_driver *driver, struct dp_error *e) DP_MUST_CHECK;
void dp_remote_close(struct dp_remote *r);
int dp_remote_run(struct dp_remote *r, const struct dp_remote_command *c) DP_MUST_CHECK;
/* The whole blocks of a range are given up; at most `most` bytes by one command. */
int dp_remote_discard(struct dp_remote *r, uint64_t offset, uint64_t size, uint64_t most) DP_MUST_CHECK;
/* Members of drivers' tables. */
int dp_remote_read(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) DP_MUST_CHECK;
int dp_remote_write(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) DP_MUST_CHECK;
int dp_remote_flush(struct dp_image *i) DP_MUST_CHECK;
int dp_remote_resize(struct dp_image *i, uint64_t size, struct dp_error *e) DP_MUST_CHECK; /* it has the size, or cannot */

#endif
