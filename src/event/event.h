/* event.h - the loop, clocks and timers.
 *
 * Model: one thread runs a loop (epoll). Devices never ask the host's clock: they hang timers on a VM clock, whose time stands
 * still while the VM is paused, or on a manual clock in tests. Timer callbacks run in the loop's thread (manual clock: in the
 * thread that calls dp_clock_advance), with no lock of this module held.
 * Invariants: a disarmed timer's callback may be about to run in another thread, so an owner checks its own state under its own
 * lock; dp_timer_fini waits until no callback of that timer runs (and may not be called from it or under a lock it takes).
 */
#ifndef DP_EVENT_H
#define DP_EVENT_H

#include "base/base.h"

struct dp_loop;
struct dp_clock;

int dp_loop_create(struct dp_loop **out, struct dp_error *e) DP_MUST_CHECK;
void dp_loop_destroy(struct dp_loop *l);
/* events: EPOLLIN | EPOLLOUT ...; callback in the loop's thread. One watch per fd. 0 events keeps the watch silent.
 * Any thread. A regular file, which epoll refuses, counts as always ready. */
typedef void dp_fd_fn(void *opaque, int fd, uint32_t events);
int dp_loop_watch(struct dp_loop *l, int fd, uint32_t events, dp_fd_fn *fn, void *opaque) DP_MUST_CHECK;
int dp_loop_rewatch(struct dp_loop *l, int fd, uint32_t events) DP_MUST_CHECK;
/* After it returns no callback for fd runs or will run (waits for one in progress unless called by the loop's thread). */
void dp_loop_unwatch(struct dp_loop *l, int fd);
/* Runs fn(opaque) once in the loop's thread, in order of posting. Any thread. */
void dp_loop_post(struct dp_loop *l, void (*fn)(void *opaque), void *opaque);
/* Runs until dp_loop_stop (any thread, signal-safe). dp_loop_poll does what is ready now, waiting up to timeout_ms (-1: for ever). */
void dp_loop_run(struct dp_loop *l);
void dp_loop_stop(struct dp_loop *l);
int dp_loop_poll(struct dp_loop *l, int timeout_ms);

/* A VM clock follows CLOCK_MONOTONIC while running; created paused at 0. */
int dp_clock_create_vm(struct dp_loop *l, struct dp_clock **out, struct dp_error *e) DP_MUST_CHECK;
int dp_clock_create_manual(struct dp_clock **out, struct dp_error *e) DP_MUST_CHECK; /* at 0 */
void dp_clock_destroy(struct dp_clock *c);
bool dp_clock_follows_host(const struct dp_clock *c); /* a VM clock: its time passes by itself */
uint64_t dp_clock_now(struct dp_clock *c); /* ns; any thread; lock-free for a VM clock */
void dp_clock_set(struct dp_clock *c, uint64_t now_ns); /* restore; only while paused or manual */
void dp_clock_pause(struct dp_clock *c);
void dp_clock_resume(struct dp_clock *c);
void dp_clock_advance(struct dp_clock *c, uint64_t ns); /* manual only: runs due timers in order of deadline, each at its own time */
bool dp_clock_next(struct dp_clock *c, uint64_t *deadline_ns); /* of the timer that is due first; false when none is armed */
/* Wall-clock at VM time 0, ns since the epoch: the RTC and the pv clock read it. A manual clock says 2000-01-01 00:00 UTC. */
uint64_t dp_clock_wall_base(struct dp_clock *c);

struct dp_timer { /* embedded in its owner; fields are private to event.c */
    struct dp_clock *clock;
    void (*fn)(void *opaque);
    void *opaque;
    uint64_t deadline;
    uint32_t slot; /* heap position + 1, 0 when disarmed */
};
void dp_timer_init(struct dp_timer *t, struct dp_clock *c, void (*fn)(void *opaque), void *opaque);
void dp_timer_arm(struct dp_timer *t, uint64_t deadline_ns); /* re-arms; a past deadline fires at once (asynchronously) */
void dp_timer_disarm(struct dp_timer *t);
void dp_timer_fini(struct dp_timer *t);

#endif
