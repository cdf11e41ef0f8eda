/* devices/edge_line.h - an ISA interrupt line: the level that a device wants is followed, and every fall of it is seen.
 *
 * Model: a device computes its level from its registers under its lock; the line is set without it. The PIC counts edges: a driver that
 * has seen that nothing is pending waits for the next. So a fall is kept (fell) until it was driven, however soon the level rises again.
 * One thread at a time drives (busy); it looks again after each call, and whoever finds it at work only leaves its change for it.
 * Use: dp_edge_line_note after each change of registers, with the lock held; then
 *     while (d->running && dp_edge_line_drive(&d->line, &d->device.lock, level(d)))
 *         ;
 * Invariants: the lock is held on entry and on return, and never while the line is set. Between a fall and the next rise the line is low.
 */
#ifndef DP_EDGE_LINE_H
#define DP_EDGE_LINE_H

#include "devices/device.h"

struct dp_edge_line {
    struct dp_irq irq;
    int driven; /* level last given to the line; -1: unknown */
    bool fell;  /* the level was low since; to be driven so before the next rise */
    bool busy;  /* some thread is calling out */
};

/* At the beginning, and when registers were replaced: who listens has levels of its own, which may be others. */
static inline void dp_edge_line_forget(struct dp_edge_line *l)
{
    l->driven = -1;
    l->fell = false;
}

static inline void dp_edge_line_note(struct dp_edge_line *l, bool level) { l->fell |= !level; }

/* One step towards the level of now. False: there is nothing to do, or another thread does it. */
static inline bool dp_edge_line_drive(struct dp_edge_line *l, pthread_mutex_t *lock, bool level)
{
    bool next = level && !(l->fell && l->driven);
    if (l->busy || next == l->driven)
        return false;
    l->fell = false;
    l->driven = next;
    l->busy = true;
    pthread_mutex_unlock(lock);
    dp_irq_set(&l->irq, next);
    pthread_mutex_lock(lock);
    l->busy = false;
    return true;
}

#endif
