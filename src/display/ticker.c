/* ticker.c - see ticker.h. Source: timerfd_create(2). */
#include "display/ticker.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

static void due(void *opaque, int fd, uint32_t events)
{
    struct dp_ticker *t = opaque;
    uint64_t count;
    if (read(fd, &count, sizeof count) == sizeof count && t->period_ms)
        t->fn(t->opaque);
}

int dp_ticker_init(struct dp_ticker *t, struct dp_loop *loop, void (*fn)(void *opaque), void *opaque, struct dp_error *e)
{
    *t = (struct dp_ticker){.loop = loop, .fn = fn, .opaque = opaque};
    t->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (t->fd < 0)
        return dp_error_set(e, -errno, "cannot make a timer: %s (see ulimit -n)", strerror(errno));
    int rc = dp_loop_watch(loop, t->fd, EPOLLIN, due, t);
    if (rc) {
        close(t->fd);
        t->fd = -1;
        return dp_error_set(e, rc, "cannot watch a timer: %s", strerror(-rc));
    }
    return 0;
}

void dp_ticker_period(struct dp_ticker *t, unsigned ms)
{
    if (ms == t->period_ms)
        return;
    const struct timespec period = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    t->period_ms = ms;
    timerfd_settime(t->fd, 0, &(struct itimerspec){period, period}, NULL);
}

void dp_ticker_fini(struct dp_ticker *t)
{
    if (t->fd < 0)
        return;
    dp_loop_unwatch(t->loop, t->fd);
    close(t->fd);
    t->fd = -1;
}
