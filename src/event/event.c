/* event.c - the epoll loop, VM and manual clocks, timers.
 *
 * Model: see event.h. Watches live in an array indexed by fd; epoll's user data is fd plus a serial number, so an event that was
 * fetched before its watch was removed finds nothing. A VM clock keeps its timers in a binary heap and one timerfd in the loop,
 * programmed for the earliest deadline (or earlier: a wake-up too many is cheaper than a system call per re-arm).
 * Invariants: no lock is held while a callback runs. clock->running names the timer whose callback runs; only one thread runs callbacks
 * of a clock. Posting cannot fail, so it waits for memory when the host has none.
 */
#include "event/event.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/* ---- the loop ---- */

struct watch {
    dp_fd_fn *fn;
    void *opaque;
    int fd;
    uint32_t serial, events;
    unsigned running;   /* callbacks in progress (polls nest when a callback drains) */
    bool dead;          /* unwatched; the last running callback frees it */
    bool always_ready;  /* epoll refuses regular files */
    bool in_epoll;
};

struct post {
    struct post *next;
    void (*fn)(void *opaque);
    void *opaque;
};

struct dp_loop {
    int epoll, wake;
    atomic_bool stop;
    pthread_mutex_t lock; /* all below */
    pthread_cond_t idle;  /* some watch's callback returned */
    struct watch **watches;
    size_t watch_count;
    uint32_t serial;
    unsigned always_ready; /* watches of that kind with events wanted */
    struct post *posts, **posts_tail;
    unsigned polling; /* depth */
    pthread_t thread; /* valid while polling */
};

enum { EVENT_BATCH = 32, WAKE_SERIAL = 0 };

static uint64_t event_key(int fd, uint32_t serial) { return (uint64_t)serial << 32 | (uint32_t)fd; }

static void wake(struct dp_loop *l)
{
    int saved = errno; /* called from signal handlers too */
    uint64_t one = 1;
    ssize_t n = write(l->wake, &one, sizeof(one));
    (void)n; /* full counter: the loop is awake already */
    errno = saved;
}

int dp_loop_create(struct dp_loop **out, struct dp_error *e)
{
    struct dp_loop *l = calloc(1, sizeof(*l));
    if (!l)
        return dp_error_set(e, -ENOMEM, "no memory for an event loop");
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = event_key(l->wake, WAKE_SERIAL)};
    if (l->epoll < 0 || l->wake < 0 || epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->wake, &ev)) {
        int r = dp_error_set(e, -errno, "cannot make an event loop: %s (see ulimit -n)", strerror(errno));
        if (l->epoll >= 0)
            close(l->epoll);
        if (l->wake >= 0)
            close(l->wake);
        free(l);
        return r;
    }
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->idle, NULL);
    l->posts_tail = &l->posts;
    *out = l;
    return 0;
}

void dp_loop_destroy(struct dp_loop *l)
{
    if (!l)
        return;
    for (size_t i = 0; i < l->watch_count; i++)
        free(l->watches[i]);
    free(l->watches);
    while (l->posts) {
        struct post *p = l->posts;
        l->posts = p->next;
        free(p);
    }
    close(l->epoll);
    close(l->wake);
    pthread_cond_destroy(&l->idle);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

static bool in_loop_thread(const struct dp_loop *l) { return l->polling && pthread_equal(l->thread, pthread_self()); }

static struct watch *watch_of(const struct dp_loop *l, int fd)
{
    return fd >= 0 && (size_t)fd < l->watch_count ? l->watches[fd] : NULL;
}

/* Brings epoll in line with w->events = events. With no events the fd leaves epoll, which would report hang-ups otherwise. */
static int watch_apply(struct dp_loop *l, struct watch *w, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.u64 = event_key(w->fd, w->serial)};
    if (w->always_ready) {
        l->always_ready += !!events;
        l->always_ready -= !!w->events;
    } else if (!events) {
        if (w->in_epoll)
            epoll_ctl(l->epoll, EPOLL_CTL_DEL, w->fd, NULL);
        w->in_epoll = false;
    } else if (epoll_ctl(l->epoll, w->in_epoll ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, w->fd, &ev)) {
        if (errno != EPERM)
            return -errno;
        w->always_ready = true;
        l->always_ready++;
    } else {
        w->in_epoll = true;
    }
    w->events = events;
    return 0;
}

int dp_loop_watch(struct dp_loop *l, int fd, uint32_t events, dp_fd_fn *fn, void *opaque)
{
    if (fd < 0)
        return -EBADF;
    struct watch *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    int r = 0;
    pthread_mutex_lock(&l->lock);
    if (watch_of(l, fd)) {
        r = -EEXIST;
    } else if ((size_t)fd >= l->watch_count) {
        size_t count = DP_MAX((size_t)fd + 1, l->watch_count * 2);
        struct watch **grown = realloc(l->watches, count * sizeof(*grown));
        if (grown) {
            memset(grown + l->watch_count, 0, (count - l->watch_count) * sizeof(*grown));
            l->watches = grown;
            l->watch_count = count;
        } else {
            r = -ENOMEM;
        }
    }
    if (!r) {
        if (++l->serial == WAKE_SERIAL)
            l->serial++;
        *w = (struct watch){.fn = fn, .opaque = opaque, .fd = fd, .serial = l->serial};
        r = watch_apply(l, w, events);
    }
    if (!r)
        l->watches[fd] = w;
    else
        free(w);
    pthread_mutex_unlock(&l->lock);
    if (!r)
        wake(l); /* for regular files, which do not wake epoll */
    return r;
}

int dp_loop_rewatch(struct dp_loop *l, int fd, uint32_t events)
{
    pthread_mutex_lock(&l->lock);
    struct watch *w = watch_of(l, fd);
    int r = w ? 0 : -ENOENT;
    bool need_wake = false;
    if (w && w->events != events) {
        r = watch_apply(l, w, events);
        need_wake = w->always_ready && events;
    }
    pthread_mutex_unlock(&l->lock);
    if (need_wake)
        wake(l);
    return r;
}

void dp_loop_unwatch(struct dp_loop *l, int fd)
{
    pthread_mutex_lock(&l->lock);
    struct watch *w = watch_of(l, fd);
    if (w) {
        watch_apply(l, w, 0);
        l->watches[fd] = NULL;
        w->dead = true;
        if (!w->running) {
            free(w);
        } else if (!in_loop_thread(l)) {
            w->running++; /* a reference: keeps it until we have seen the end of its callback */
            while (w->running > 1)
                pthread_cond_wait(&l->idle, &l->lock);
            free(w);
        } /* else: the dispatcher below us frees it */
    }
    pthread_mutex_unlock(&l->lock);
}

void dp_loop_post(struct dp_loop *l, void (*fn)(void *opaque), void *opaque)
{
    struct post *p;
    while (!(p = malloc(sizeof(*p))))
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    *p = (struct post){.fn = fn, .opaque = opaque};
    pthread_mutex_lock(&l->lock);
    bool first = !l->posts;
    *l->posts_tail = p;
    l->posts_tail = &p->next;
    pthread_mutex_unlock(&l->lock);
    if (first)
        wake(l);
}

void dp_loop_stop(struct dp_loop *l)
{
    atomic_store(&l->stop, true);
    wake(l);
}

void dp_loop_run(struct dp_loop *l)
{
    while (!atomic_exchange(&l->stop, false))
        dp_loop_poll(l, -1);
}

/* Calls one watch with the lock held on entry and exit, released in between. */
static void dispatch(struct dp_loop *l, struct watch *w, uint32_t events)
{
    w->running++;
    pthread_mutex_unlock(&l->lock);
    w->fn(w->opaque, w->fd, events);
    pthread_mutex_lock(&l->lock);
    w->running--;
    if (w->dead) {
        if (!w->running)
            free(w);
        pthread_cond_broadcast(&l->idle);
    }
}

/* Runs what was posted before the call; posts made meanwhile wait for the next round, so that posting cannot starve fds. */
static int run_posts(struct dp_loop *l)
{
    struct post *last = l->posts ? DP_CONTAINER_OF(l->posts_tail, struct post, next) : NULL;
    int n = 0;
    while (last) {
        struct post *p = l->posts;
        if (!p) /* a nested poll ran them */
            break;
        l->posts = p->next;
        if (!l->posts)
            l->posts_tail = &l->posts;
        pthread_mutex_unlock(&l->lock);
        bool end = p == last;
        p->fn(p->opaque);
        free(p);
        n++;
        pthread_mutex_lock(&l->lock);
        if (end)
            break;
    }
    if (l->posts)
        wake(l);
    return n;
}

int dp_loop_poll(struct dp_loop *l, int timeout_ms)
{
    pthread_mutex_lock(&l->lock);
    l->thread = pthread_self();
    l->polling++;
    if (l->always_ready || l->posts)
        timeout_ms = 0;
    pthread_mutex_unlock(&l->lock);

    struct epoll_event events[EVENT_BATCH];
    int n = epoll_wait(l->epoll, events, EVENT_BATCH, timeout_ms), done = 0;

    pthread_mutex_lock(&l->lock);
    for (int i = 0; i < n; i++) {
        int fd = (int)(uint32_t)events[i].data.u64;
        uint32_t serial = events[i].data.u64 >> 32;
        if (serial == WAKE_SERIAL) {
            uint64_t count;
            ssize_t got = read(l->wake, &count, sizeof(count));
            (void)got; /* nothing to read: a nested poll did it */
            continue;
        }
        struct watch *w = watch_of(l, fd);
        uint32_t want = w ? w->events | EPOLLERR | EPOLLHUP : 0;
        if (w && w->serial == serial && w->events && (events[i].events & want)) {
            dispatch(l, w, events[i].events & want);
            done++;
        }
    }
    for (size_t i = 0; l->always_ready && i < l->watch_count; i++) {
        struct watch *w = l->watches[i];
        if (w && w->always_ready && w->events) {
            dispatch(l, w, w->events & (EPOLLIN | EPOLLOUT));
            done++;
        }
    }
    done += run_posts(l);
    l->polling--;
    pthread_mutex_unlock(&l->lock);
    return done;
}

/* ---- clocks ---- */

struct dp_clock {
    struct dp_loop *loop; /* NULL: manual */
    int timerfd;
    /* Time, under a sequence lock: readers are many (every RDTSC), writers rare. now = base + (monotonic - start) while ticking. */
    atomic_uint sequence;
    atomic_bool ticking;
    _Atomic uint64_t base, start, wall_base;
    pthread_mutex_t lock; /* writers, and all below */
    pthread_cond_t idle;
    struct dp_timer **heap; /* by deadline, earliest first */
    uint32_t count, capacity;
    uint64_t programmed;    /* deadline the timerfd is set for; UINT64_MAX: none */
    struct dp_timer *running;
    pthread_t runner;       /* valid while running is set */
};

enum { TIMERS_PER_WAKE = 64 };
#define WALL_2000 (946684800ull * 1000000000)

static uint64_t host_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

uint64_t dp_clock_now(struct dp_clock *c)
{
    for (;;) {
        unsigned before = atomic_load_explicit(&c->sequence, memory_order_acquire);
        uint64_t now = atomic_load_explicit(&c->base, memory_order_relaxed);
        uint64_t start = atomic_load_explicit(&c->start, memory_order_relaxed);
        if (atomic_load_explicit(&c->ticking, memory_order_relaxed))
            now += host_ns(CLOCK_MONOTONIC) - start;
        atomic_thread_fence(memory_order_acquire);
        if (!(before & 1) && atomic_load_explicit(&c->sequence, memory_order_relaxed) == before)
            return now;
    }
}

static void set_time(struct dp_clock *c, uint64_t base, bool ticking)
{
    atomic_fetch_add_explicit(&c->sequence, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&c->base, base, memory_order_relaxed);
    atomic_store_explicit(&c->start, ticking ? host_ns(CLOCK_MONOTONIC) : 0, memory_order_relaxed);
    atomic_store_explicit(&c->ticking, ticking, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->sequence, 1, memory_order_release);
}

/* Sets the timerfd for the earliest timer; lock held. A setting that is already early enough stays. */
static void program(struct dp_clock *c)
{
    if (!c->loop)
        return;
    uint64_t deadline = c->count && c->ticking ? c->heap[0]->deadline : UINT64_MAX;
    if (deadline >= c->programmed)
        return;
    c->programmed = deadline;
    uint64_t now = dp_clock_now(c), wait = deadline > now ? deadline - now : 1;
    struct itimerspec at = {.it_value = {.tv_sec = (time_t)(wait / 1000000000), .tv_nsec = (long)(wait % 1000000000)}};
    timerfd_settime(c->timerfd, 0, &at, NULL);
}

static void heap_put(struct dp_clock *c, uint32_t i, struct dp_timer *t)
{
    c->heap[i] = t;
    t->slot = i + 1;
}

static void heap_sift(struct dp_clock *c, uint32_t i, struct dp_timer *t)
{
    while (i && c->heap[(i - 1) / 2]->deadline > t->deadline) {
        heap_put(c, i, c->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child + 1 < c->count && c->heap[child + 1]->deadline < c->heap[child]->deadline)
            child++;
        if (child >= c->count || c->heap[child]->deadline >= t->deadline)
            break;
        heap_put(c, i, c->heap[child]);
        i = child;
    }
    heap_put(c, i, t);
}

static void heap_remove(struct dp_clock *c, struct dp_timer *t)
{
    uint32_t i = t->slot - 1;
    struct dp_timer *last = c->heap[--c->count];
    t->slot = 0;
    if (last != t)
        heap_sift(c, i, last);
}

/* Runs timers due at limit, at most max of them; a manual clock's time moves along with their deadlines. Lock held, released for
 * callbacks. */
static void run_due(struct dp_clock *c, uint64_t limit, unsigned max)
{
    while (max-- && c->count && c->heap[0]->deadline <= limit && (c->ticking || !c->loop)) {
        struct dp_timer *t = c->heap[0];
        heap_remove(c, t);
        if (!c->loop && t->deadline > c->base)
            set_time(c, t->deadline, false);
        c->running = t;
        c->runner = pthread_self();
        void (*fn)(void *) = t->fn;
        void *opaque = t->opaque;
        pthread_mutex_unlock(&c->lock);
        fn(opaque);
        pthread_mutex_lock(&c->lock);
        c->running = NULL;
        pthread_cond_broadcast(&c->idle);
    }
}

static void timerfd_ready(void *opaque, int fd, uint32_t events)
{
    struct dp_clock *c = opaque;
    uint64_t expirations;
    ssize_t n = read(fd, &expirations, sizeof(expirations));
    (void)n; /* re-armed between epoll and here: nothing to read, nothing lost */
    pthread_mutex_lock(&c->lock);
    c->programmed = UINT64_MAX;
    /* Time is sampled once and the number bounded, so that a guest's timer with a tiny period cannot hold the loop. A callback that
     * polls the loop gets no timers of this clock: they follow when it returns. */
    if (!c->running) {
        run_due(c, dp_clock_now(c), TIMERS_PER_WAKE);
        program(c);
    }
    pthread_mutex_unlock(&c->lock);
}

static int clock_create(struct dp_loop *l, struct dp_clock **out, struct dp_error *e)
{
    struct dp_clock *c = calloc(1, sizeof(*c));
    if (!c)
        return dp_error_set(e, -ENOMEM, "no memory for a clock");
    c->loop = l;
    c->timerfd = -1;
    c->programmed = UINT64_MAX;
    c->wall_base = WALL_2000;
    int r = 0;
    if (l) {
        c->wall_base = host_ns(CLOCK_REALTIME);
        c->timerfd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        r = c->timerfd < 0 ? -errno : dp_loop_watch(l, c->timerfd, EPOLLIN, timerfd_ready, c);
    }
    if (r) {
        if (c->timerfd >= 0)
            close(c->timerfd);
        free(c);
        return dp_error_set(e, r, "cannot make a timer: %s (see ulimit -n)", strerror(-r));
    }
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->idle, NULL);
    *out = c;
    return 0;
}

int dp_clock_create_vm(struct dp_loop *l, struct dp_clock **out, struct dp_error *e) { return clock_create(l, out, e); }
bool dp_clock_follows_host(const struct dp_clock *c) { return c->loop; }
int dp_clock_create_manual(struct dp_clock **out, struct dp_error *e) { return clock_create(NULL, out, e); }

void dp_clock_destroy(struct dp_clock *c)
{
    if (!c)
        return;
    if (c->loop) {
        dp_loop_unwatch(c->loop, c->timerfd);
        close(c->timerfd);
    }
    free(c->heap);
    pthread_cond_destroy(&c->idle);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

void dp_clock_set(struct dp_clock *c, uint64_t now_ns)
{
    pthread_mutex_lock(&c->lock);
    if (!c->ticking) {
        set_time(c, now_ns, false);
        if (c->loop)
            c->wall_base = host_ns(CLOCK_REALTIME) - now_ns;
    }
    pthread_mutex_unlock(&c->lock);
}

void dp_clock_pause(struct dp_clock *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->ticking)
        set_time(c, dp_clock_now(c), false);
    pthread_mutex_unlock(&c->lock); /* the timerfd may still wake the loop, which then finds the clock standing */
}

void dp_clock_resume(struct dp_clock *c)
{
    pthread_mutex_lock(&c->lock);
    if (c->loop && !c->ticking) {
        uint64_t now = dp_clock_now(c);
        c->wall_base = host_ns(CLOCK_REALTIME) - now; /* the world went on while we stood still */
        set_time(c, now, true);
        c->programmed = UINT64_MAX;
        program(c);
    }
    pthread_mutex_unlock(&c->lock);
}

void dp_clock_advance(struct dp_clock *c, uint64_t ns)
{
    pthread_mutex_lock(&c->lock);
    uint64_t target;
    if (__builtin_add_overflow(c->base, ns, &target))
        target = UINT64_MAX;
    run_due(c, target, UINT32_MAX);
    if (target > c->base)
        set_time(c, target, false);
    pthread_mutex_unlock(&c->lock);
}

bool dp_clock_next(struct dp_clock *c, uint64_t *deadline_ns)
{
    pthread_mutex_lock(&c->lock);
    bool armed = c->count;
    if (armed)
        *deadline_ns = c->heap[0]->deadline;
    pthread_mutex_unlock(&c->lock);
    return armed;
}

uint64_t dp_clock_wall_base(struct dp_clock *c) { return c->wall_base; }

/* ---- timers ---- */

void dp_timer_init(struct dp_timer *t, struct dp_clock *c, void (*fn)(void *opaque), void *opaque)
{
    *t = (struct dp_timer){.clock = c, .fn = fn, .opaque = opaque};
    /* Room in the heap is made here, once per timer, so that arming cannot fail. Timers are few: the array never shrinks. */
    pthread_mutex_lock(&c->lock);
    c->capacity++;
    struct dp_timer **heap;
    while (!(heap = realloc(c->heap, c->capacity * sizeof(*heap))))
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    c->heap = heap;
    pthread_mutex_unlock(&c->lock);
}

void dp_timer_arm(struct dp_timer *t, uint64_t deadline_ns)
{
    struct dp_clock *c = t->clock;
    pthread_mutex_lock(&c->lock);
    t->deadline = deadline_ns;
    heap_sift(c, t->slot ? t->slot - 1 : c->count++, t);
    program(c);
    pthread_mutex_unlock(&c->lock);
}

void dp_timer_disarm(struct dp_timer *t)
{
    struct dp_clock *c = t->clock;
    pthread_mutex_lock(&c->lock);
    if (t->slot)
        heap_remove(c, t);
    pthread_mutex_unlock(&c->lock);
}

void dp_timer_fini(struct dp_timer *t)
{
    struct dp_clock *c = t->clock;
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    if (t->slot)
        heap_remove(c, t);
    while (c->running == t && !pthread_equal(c->runner, pthread_self()))
        pthread_cond_wait(&c->idle, &c->lock);
    if (t->slot) /* re-armed by the callback we waited for */
        heap_remove(c, t);
    c->capacity--;
    pthread_mutex_unlock(&c->lock);
    t->clock = NULL;
}
