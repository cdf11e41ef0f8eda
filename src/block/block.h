/* block/block.h - disk images, always asynchronous.
 *
 * Model: a request is embedded in its owner and completes exactly once, by its callback, in the loop's thread. Drain waits for all of a
 * block's requests. raw on a file or block device now; formats and the image graph come in front of the same interface.
 * Invariants: the format is what the user said or raw, never guessed from guest-written bytes. Requests outside the image fail with -EIO.
 */
#ifndef DP_BLOCK_H
#define DP_BLOCK_H

#include <sys/uio.h>

#include "event/event.h"

enum dp_block_op { DP_BLOCK_READ, DP_BLOCK_WRITE, DP_BLOCK_FLUSH, DP_BLOCK_DISCARD, DP_BLOCK_WRITE_ZEROES };
struct dp_block;
struct dp_block_request {
    enum dp_block_op op;
    uint64_t offset, size;         /* bytes */
    struct iovec *iov; unsigned iov_count; /* lives until done */
    void (*done)(struct dp_block_request *r, int result); /* 0 or negative errno; loop's thread */
    void *opaque;
    struct dp_block_request *next; /* private */
    struct dp_block *block;        /* private */
};
struct dp_block_options { const char *path; bool readonly; const char *format; /* "raw" or NULL */ };
int dp_block_open(struct dp_loop *l, const struct dp_block_options *o, struct dp_block **out, struct dp_error *e) DP_MUST_CHECK;
void dp_block_close(struct dp_block *b);   /* drains */
uint64_t dp_block_size(const struct dp_block *b);
bool dp_block_readonly(const struct dp_block *b);
void dp_block_submit(struct dp_block *b, struct dp_block_request *r); /* any thread; a full host disk is -ENOSPC, reported once by trace */
void dp_block_drain(struct dp_block *b);   /* any thread but the loop's own while it runs elsewhere; returns with nothing in flight */

#endif
