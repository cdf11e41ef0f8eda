/* devices/virtio/virtio_balloon.h - memory that the guest does not need goes back to the host: virtio-balloon.
 *
 * Model: two ways. The host sets a target, and the driver puts that many pages into the balloon (inflate) or takes them out (deflate); the
 * pages of the balloon are the host's. And a driver that can report free pages does so by itself, in large blocks, some seconds after they
 * became free. In both the pages are discarded (dp_space_discard): they read as zeros when the guest uses them again, for which it need
 * not ask. The target outlives resets of the driver and of the machine.
 * Statistics: the driver's buffer stays in the ring until somebody asks; then it goes back, and the driver fills it anew.
 * Invariants: a request costs at most as much as PFNS_MAX pages one by one, or REPORT_MAX bytes; what is beyond, twice in one request, or
 * not wholly RAM that can be written, is refused and counted. Reports discard nothing while a page poison is agreed on and is
 * not 0.
 * Source: Virtio 1.2 section 5.5.
 */
#ifndef DP_VIRTIO_BALLOON_H
#define DP_VIRTIO_BALLOON_H

#include "devices/virtio/virtio.h"

extern const struct dp_device_class dp_virtio_balloon_class; /* "virtio-balloon" */

/* Section 5.5.6.4, in the order of their tags. */
enum dp_balloon_stat { DP_BALLOON_SWAP_IN, DP_BALLOON_SWAP_OUT, DP_BALLOON_MAJOR_FAULTS, DP_BALLOON_MINOR_FAULTS, DP_BALLOON_FREE,
                       DP_BALLOON_TOTAL, DP_BALLOON_AVAILABLE, DP_BALLOON_CACHES, DP_BALLOON_HUGETLB_ALLOCATED,
                       DP_BALLOON_HUGETLB_FAILED, DP_BALLOON_STATS };
extern const char *const dp_balloon_stat_names[DP_BALLOON_STATS];

struct dp_balloon_status {
    bool driver;              /* is up */
    bool reporting;           /* and reports free pages */
    uint64_t target, actual;  /* bytes in the balloon: wanted, and as the driver says */
    uint64_t inflated, reported; /* bytes given back to the host by now, by either way */
    uint64_t refused;         /* pages */
    uint64_t stat[DP_BALLOON_STATS];
    uint32_t stat_known;      /* bit per statistic */
    uint64_t stat_age_ns;     /* of the VM's clock */
};

/* Any thread. The size is rounded down to pages; the driver is told. */
void dp_virtio_balloon_set(struct dp_device *d, uint64_t bytes);
/* Asks the driver for fresh statistics, too, which the next status may have. */
void dp_virtio_balloon_status(struct dp_device *d, struct dp_balloon_status *s);

#endif
