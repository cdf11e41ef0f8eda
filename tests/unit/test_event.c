/* test_event.c - the loop with its watches and posts from several threads; timers on the manual and on the VM clock. */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "event/event.h"
#include "tests/unit/test.h"

/* ---- loop ---- */

static struct dp_loop *new_loop(void)
{
    struct dp_loop *l = NULL;
    struct dp_error e = {0};
    assert_ok(dp_loop_create(&l, &e), e);
    return l;
}

struct counter { int calls; uint32_t events; struct dp_loop *unwatch; };

static void count_fd(void *opaque, int fd, uint32_t events)
{
    struct counter *c = opaque;
    c->calls++;
    c->events = events;
    if (c->unwatch)
        dp_loop_unwatch(c->unwatch, fd);
}

static void watches(void **state)
{
    struct dp_loop *l = new_loop();
    int p[2], q[2];
    assert_int_equal(pipe2(p, O_CLOEXEC) | pipe2(q, O_CLOEXEC), 0);
    struct counter c = {0}, d = {.unwatch = l};
    assert_int_equal(dp_loop_watch(l, -1, EPOLLIN, count_fd, &c), -EBADF);
    assert_int_equal(dp_loop_watch(l, p[0], EPOLLIN, count_fd, &c), 0);
    assert_int_equal(dp_loop_watch(l, p[0], EPOLLIN, count_fd, &c), -EEXIST);
    assert_int_equal(dp_loop_watch(l, q[0], EPOLLIN, count_fd, &d), 0);
    dp_loop_poll(l, 0);
    assert_int_equal(c.calls, 0);
    assert_int_equal(write(p[1], "x", 1), 1);
    dp_loop_poll(l, 100);
    dp_loop_poll(l, 100); /* level-triggered */
    assert_int_equal(c.calls, 2);
    assert_int_equal(c.events, EPOLLIN);

    /* Silent means silent, hang-up included. */
    assert_int_equal(dp_loop_rewatch(l, p[0], 0), 0);
    close(p[1]);
    dp_loop_poll(l, 0);
    assert_int_equal(c.calls, 2);
    assert_int_equal(dp_loop_rewatch(l, p[0], EPOLLIN), 0);
    dp_loop_poll(l, 100);
    assert_int_equal(c.calls, 3);
    assert_true(c.events & EPOLLHUP);
    dp_loop_unwatch(l, p[0]);
    dp_loop_poll(l, 0);
    assert_int_equal(c.calls, 3);
    assert_int_equal(dp_loop_rewatch(l, p[0], EPOLLIN), -ENOENT);

    /* A callback may remove its own watch. */
    assert_int_equal(write(q[1], "x", 1), 1);
    dp_loop_poll(l, 100);
    dp_loop_poll(l, 0);
    assert_int_equal(d.calls, 1);
    close(p[0]);
    close(q[0]);
    close(q[1]);
    dp_loop_destroy(l);
}

static void regular_file(void **state)
{
    struct dp_loop *l = new_loop();
    FILE *f = tmpfile();
    struct counter c = {0};
    assert_int_equal(dp_loop_watch(l, fileno(f), EPOLLIN, count_fd, &c), 0);
    dp_loop_poll(l, -1); /* must not wait */
    dp_loop_poll(l, -1);
    assert_int_equal(c.calls, 2);
    assert_int_equal(c.events, EPOLLIN);
    assert_int_equal(dp_loop_rewatch(l, fileno(f), 0), 0);
    dp_loop_poll(l, 0);
    assert_int_equal(c.calls, 2);
    assert_int_equal(dp_loop_rewatch(l, fileno(f), EPOLLOUT), 0);
    dp_loop_poll(l, -1);
    assert_int_equal(c.calls, 3);
    dp_loop_unwatch(l, fileno(f));
    dp_loop_poll(l, 0);
    assert_int_equal(c.calls, 3);
    fclose(f);
    dp_loop_destroy(l);
}

enum { POSTERS = 4, POSTS = 5000 };
struct poster { struct dp_loop *l; unsigned last; unsigned seen; bool disorder; };
struct posted { struct poster *from; unsigned n; };

static void posted(void *opaque)
{
    struct posted *p = opaque;
    p->from->disorder |= p->n != p->from->last + 1;
    p->from->last = p->n;
    p->from->seen++;
    free(p);
}

static void *post_many(void *opaque)
{
    struct poster *me = opaque;
    for (unsigned i = 1; i <= POSTS; i++) {
        struct posted *p = malloc(sizeof(*p));
        *p = (struct posted){me, i};
        dp_loop_post(me->l, posted, p);
    }
    return NULL;
}

static void stop_loop(void *opaque) { dp_loop_stop(opaque); }

static void *run_loop(void *opaque)
{
    dp_loop_run(opaque);
    return NULL;
}

static void posts_from_threads(void **state)
{
    struct dp_loop *l = new_loop();
    pthread_t runner, t[POSTERS];
    struct poster p[POSTERS];
    pthread_create(&runner, NULL, run_loop, l);
    for (unsigned i = 0; i < POSTERS; i++) {
        p[i] = (struct poster){.l = l};
        pthread_create(&t[i], NULL, post_many, &p[i]);
    }
    for (unsigned i = 0; i < POSTERS; i++)
        pthread_join(t[i], NULL);
    dp_loop_post(l, stop_loop, l);
    pthread_join(runner, NULL);
    for (unsigned i = 0; i < POSTERS; i++) {
        assert_int_equal(p[i].seen, POSTS);
        assert_false(p[i].disorder);
    }
    dp_loop_stop(l); /* a stop before the run holds */
    dp_loop_run(l);
    dp_loop_destroy(l);
}

struct slow { atomic_bool entered, left; };

static void slow_fd(void *opaque, int fd, uint32_t events)
{
    struct slow *s = opaque;
    atomic_store(&s->entered, true);
    usleep(50000);
    atomic_store(&s->left, true);
}

/* Unwatch from another thread waits for the callback in progress. */
static void unwatch_waits(void **state)
{
    struct dp_loop *l = new_loop();
    int p[2];
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    struct slow s = {0};
    assert_int_equal(dp_loop_watch(l, p[1], EPOLLOUT, slow_fd, &s), 0);
    pthread_t runner;
    pthread_create(&runner, NULL, run_loop, l);
    while (!atomic_load(&s.entered))
        usleep(100);
    dp_loop_unwatch(l, p[1]);
    assert_true(atomic_load(&s.left));
    dp_loop_stop(l);
    pthread_join(runner, NULL);
    close(p[0]);
    close(p[1]);
    dp_loop_destroy(l);
}

/* ---- manual clock ---- */

struct tick { struct dp_timer timer; struct dp_clock *clock; uint64_t period, times[100]; unsigned n, id; char *order; };

static void tick(void *opaque)
{
    struct tick *t = opaque;
    if (t->n < DP_ARRAY_LEN(t->times))
        t->times[t->n] = dp_clock_now(t->clock);
    t->n++;
    if (t->order)
        sprintf(t->order + strlen(t->order), "%u", t->id);
    if (t->period)
        dp_timer_arm(&t->timer, t->timer.deadline + t->period);
}

static void manual_clock(void **state)
{
    struct dp_clock *c;
    struct dp_error e = {0};
    assert_ok(dp_clock_create_manual(&c, &e), e);
    assert_int_equal(dp_clock_now(c), 0);
    assert_true(dp_clock_wall_base(c) == 946684800000000000ull);
    struct tick t = {.clock = c, .period = 10};
    dp_timer_init(&t.timer, c, tick, &t);
    dp_timer_arm(&t.timer, 5);
    dp_clock_advance(c, 4);
    assert_int_equal(t.n, 0);
    dp_clock_advance(c, 31); /* now 35: 5, 15, 25, 35, each seen at its own time */
    assert_int_equal(t.n, 4);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(t.times[i], 5 + 10 * i);
    assert_int_equal(dp_clock_now(c), 35);
    dp_timer_disarm(&t.timer);
    dp_timer_disarm(&t.timer);
    dp_clock_advance(c, 100);
    assert_int_equal(t.n, 4);
    t.period = 0;
    dp_timer_arm(&t.timer, 7); /* in the past: at the next chance, without turning time back */
    dp_clock_advance(c, 0);
    assert_int_equal(t.n, 5);
    assert_int_equal(t.times[4], 135);
    dp_timer_fini(&t.timer);
    dp_clock_set(c, 9);
    assert_int_equal(dp_clock_now(c), 9);
    dp_clock_advance(c, UINT64_MAX);
    assert_true(dp_clock_now(c) == UINT64_MAX);
    dp_clock_destroy(c);
}

/* Random arming, re-arming and disarming of many timers against a plain list. */
static void heap(void **state)
{
    enum { N = 50 };
    struct dp_clock *c;
    struct dp_error e = {0};
    struct dp_random r;
    dp_random_seed(&r, 3);
    assert_ok(dp_clock_create_manual(&c, &e), e);
    struct tick t[N] = {0};
    uint64_t due[N];
    for (unsigned i = 0; i < N; i++) {
        t[i].clock = c;
        due[i] = UINT64_MAX;
        dp_timer_init(&t[i].timer, c, tick, &t[i]);
    }
    for (unsigned round = 0; round < 20000; round++) {
        unsigned i = dp_random_next(&r) % N;
        switch (dp_random_next(&r) % 4) {
        case 0: case 1:
            due[i] = dp_clock_now(c) + dp_random_next(&r) % 1000;
            dp_timer_arm(&t[i].timer, due[i]);
            break;
        case 2:
            due[i] = UINT64_MAX;
            dp_timer_disarm(&t[i].timer);
            break;
        case 3: {
            unsigned before[N];
            for (unsigned k = 0; k < N; k++)
                before[k] = t[k].n;
            dp_clock_advance(c, dp_random_next(&r) % 100);
            for (unsigned k = 0; k < N; k++) {
                bool fires = due[k] <= dp_clock_now(c);
                assert_int_equal(t[k].n - before[k], fires);
                if (fires && t[k].n <= DP_ARRAY_LEN(t[k].times))
                    assert_true(t[k].times[t[k].n - 1] == due[k]);
                due[k] = fires ? UINT64_MAX : due[k];
            }
        }
        }
    }
    for (unsigned i = 0; i < N; i++)
        dp_timer_fini(&t[i].timer);
    dp_clock_destroy(c);
}

static void order_of_deadlines(void **state)
{
    struct dp_clock *c;
    struct dp_error e = {0};
    assert_ok(dp_clock_create_manual(&c, &e), e);
    char order[20] = "";
    struct tick t[4] = {0};
    for (unsigned i = 0; i < 4; i++) {
        t[i] = (struct tick){.clock = c, .id = i, .order = order};
        dp_timer_init(&t[i].timer, c, tick, &t[i]);
        dp_timer_arm(&t[i].timer, 40 - i * 10);
    }
    dp_clock_advance(c, 1000);
    assert_string_equal(order, "3210");
    for (unsigned i = 0; i < 4; i++)
        dp_timer_fini(&t[i].timer);
    dp_clock_destroy(c);
}

/* ---- VM clock ---- */

static uint64_t host_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void vm_clock(void **state)
{
    struct dp_loop *l = new_loop();
    struct dp_clock *c;
    struct dp_error e = {0};
    assert_ok(dp_clock_create_vm(l, &c, &e), e);
    struct tick t = {.clock = c};
    dp_timer_init(&t.timer, c, tick, &t);
    dp_timer_arm(&t.timer, 5000000);
    dp_loop_poll(l, 20);
    assert_int_equal(dp_clock_now(c), 0); /* created paused */
    assert_int_equal(t.n, 0);
    dp_clock_resume(c);
    uint64_t start = host_ms();
    while (!t.n && host_ms() - start < 5000)
        dp_loop_poll(l, 1000);
    assert_int_equal(t.n, 1);
    assert_true(t.times[0] >= 5000000);

    /* A later timer first, then an earlier one; and one in the past. */
    dp_timer_arm(&t.timer, dp_clock_now(c) + 60000000000);
    dp_timer_arm(&t.timer, 1);
    while (t.n < 2 && host_ms() - start < 5000)
        dp_loop_poll(l, 1000);
    assert_int_equal(t.n, 2);

    /* Paused time stands still, and what would have been due waits. */
    dp_timer_arm(&t.timer, dp_clock_now(c) + 5000000);
    dp_clock_pause(c);
    uint64_t now = dp_clock_now(c);
    dp_loop_poll(l, 20);
    assert_true(dp_clock_now(c) == now);
    assert_int_equal(t.n, 2);
    dp_clock_resume(c);
    while (t.n < 3 && host_ms() - start < 5000)
        dp_loop_poll(l, 1000);
    assert_int_equal(t.n, 3);

    /* Restore. */
    dp_clock_pause(c);
    dp_clock_set(c, 123456789);
    assert_int_equal(dp_clock_now(c), 123456789);
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    int64_t off = (int64_t)((uint64_t)wall.tv_sec * 1000000000 + wall.tv_nsec - dp_clock_wall_base(c) - 123456789);
    assert_true(off >= 0 && off < 1000000000);
    dp_timer_fini(&t.timer);
    dp_clock_destroy(c);
    dp_loop_destroy(l);
}

/* A timer that is always late does not keep the loop from its other work. */
static void rearm_past(void *opaque)
{
    struct tick *t = opaque;
    t->n++;
    dp_timer_arm(&t->timer, 0);
}

static void hot_timer_lets_others_run(void **state)
{
    struct dp_loop *l = new_loop();
    struct dp_clock *c;
    struct dp_error e = {0};
    assert_ok(dp_clock_create_vm(l, &c, &e), e);
    struct tick t = {.clock = c};
    dp_timer_init(&t.timer, c, rearm_past, &t);
    dp_clock_resume(c);
    dp_timer_arm(&t.timer, 0);
    dp_loop_poll(l, 100);
    struct counter k = {0};
    FILE *f = tmpfile();
    assert_int_equal(dp_loop_watch(l, fileno(f), EPOLLIN, count_fd, &k), 0);
    for (unsigned i = 0; i < 10; i++)
        dp_loop_poll(l, 100);
    assert_true(t.n > 1 && k.calls == 10);
    dp_loop_unwatch(l, fileno(f));
    fclose(f);
    dp_timer_fini(&t.timer);
    dp_clock_destroy(c);
    dp_loop_destroy(l);
}

/* Threads arm and disarm while the loop fires; fini then guarantees silence. */
struct churn { struct dp_timer timer; struct dp_clock *c; atomic_uint fired; atomic_bool gone, after; };

static void churn_fired(void *opaque)
{
    struct churn *k = opaque;
    if (atomic_load(&k->gone))
        atomic_store(&k->after, true);
    atomic_fetch_add(&k->fired, 1);
}

static void *churn_arm(void *opaque)
{
    struct churn *k = opaque;
    struct dp_random r;
    dp_random_seed(&r, (uintptr_t)k);
    for (unsigned i = 0; i < 20000; i++) {
        if (dp_random_next(&r) % 4)
            dp_timer_arm(&k->timer, dp_clock_now(k->c) + dp_random_next(&r) % 20000);
        else
            dp_timer_disarm(&k->timer);
    }
    dp_timer_arm(&k->timer, 0);
    return NULL;
}

static void timers_from_threads(void **state)
{
    struct dp_loop *l = new_loop();
    struct dp_clock *c;
    struct dp_error e = {0};
    assert_ok(dp_clock_create_vm(l, &c, &e), e);
    dp_clock_resume(c);
    pthread_t runner, t[3];
    pthread_create(&runner, NULL, run_loop, l);
    struct churn k[3] = {0};
    for (unsigned i = 0; i < 3; i++) {
        k[i].c = c;
        dp_timer_init(&k[i].timer, c, churn_fired, &k[i]);
        pthread_create(&t[i], NULL, churn_arm, &k[i]);
    }
    for (unsigned i = 0; i < 3; i++) {
        pthread_join(t[i], NULL);
        dp_timer_fini(&k[i].timer);
        atomic_store(&k[i].gone, true);
    }
    usleep(20000);
    for (unsigned i = 0; i < 3; i++)
        assert_false(atomic_load(&k[i].after));
    dp_loop_stop(l);
    pthread_join(runner, NULL);
    dp_clock_destroy(c);
    dp_loop_destroy(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(watches),      cmocka_unit_test(regular_file), cmocka_unit_test(posts_from_threads),
        cmocka_unit_test(unwatch_waits), cmocka_unit_test(manual_clock), cmocka_unit_test(heap),
        cmocka_unit_test(order_of_deadlines), cmocka_unit_test(vm_clock), cmocka_unit_test(hot_timer_lets_others_run),
        cmocka_unit_test(timers_from_threads),
    };
    return cmocka_run_group_tests_name("event", tests, NULL, NULL);
}
