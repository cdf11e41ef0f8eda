/* block/throttle.h - holds requests back so that a disk does no more than so many of them, or so many bytes, in a second.
 *
 * Model: a limit is a bucket: it is empty at first, each request pours its share in, and it runs out at the limit's rate. A request goes on
 * when there is room for its share in all buckets that are its: they hold a burst's worth; one larger than that goes when they are empty,
 * and those after it wait the longer. Requests wait in two queues, in order, one for reads and one for what writes, so that neither waits
 * for the other's limit. A bucket's level is the time at which it will be empty, so nothing need be done while nothing comes. Flushes are
 * never held back. A disk that is drained holds nothing back: dp_throttle_release lets all go that wait, and their shares count. Time is
 * the clock's: a VM's, or a manual one. Invariants: `go` is called with no lock held, each request once, in the order of its queue.
 */
#ifndef DP_BLOCK_THROTTLE_H
#define DP_BLOCK_THROTTLE_H

#include "block/block.h"

struct dp_throttle;
/* go hands a request on; opaque is its first argument. */
int dp_throttle_create(struct dp_clock *clock, const struct dp_throttle_limits *l, void (*go)(void *opaque, struct dp_block_request *r),
                       void *opaque, struct dp_throttle **out, struct dp_error *e) DP_MUST_CHECK;
void dp_throttle_destroy(struct dp_throttle *t);                            /* nothing waits; NULL is fine */
void dp_throttle_submit(struct dp_throttle *t, struct dp_block_request *r); /* any thread */
void dp_throttle_release(struct dp_throttle *t);

#endif
