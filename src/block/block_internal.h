/* block_internal.h - between the block core, the raw file and the io engines.
 *
 * A request is carried out in steps, each one system call. raw.c says which step is next and digests its result; an engine (io_uring.c,
 * io_threads.c) only carries steps out. So short transfers, end of file and fall-backs are dealt with in one place.
 */
#ifndef DP_BLOCK_INTERNAL_H
#define DP_BLOCK_INTERNAL_H

#include <pthread.h>

#include "block/block.h"

struct dp_image;
struct dp_image_options;
struct dp_live;

#define DP_BLOCK_SECTOR 512u

enum dp_block_call { DP_CALL_READ, DP_CALL_WRITE, DP_CALL_READV, DP_CALL_WRITEV, DP_CALL_DATASYNC, DP_CALL_FALLOCATE };
struct dp_block_step {
    enum dp_block_call call;
    void *data;                /* READ, WRITE */
    const struct iovec *iov;   /* READV, WRITEV: inside the request's own array */
    unsigned iov_count;
    int mode;                  /* FALLOCATE */
    uint64_t offset, size;
};

struct dp_block_engine {
    const char *name;
    int (*open)(struct dp_block *b, struct dp_error *e);
    void (*close)(struct dp_block *b);                              /* nothing is in flight */
    void (*submit)(struct dp_block *b, struct dp_block_request *r); /* any thread */
    void (*reap)(struct dp_block *b);                               /* moves what the kernel finished to the finished list; may be NULL */
};
extern const struct dp_block_engine dp_block_uring, dp_block_threads; /* of raw images */
extern const struct dp_block_engine dp_block_worker; /* of all others: opens b->image, sets size; NULL: no image yet */

/* worker.c, for live.c. A job of the worker's thread: step does a piece of it and gives when the next is due (CLOCK_MONOTONIC, ns; 0: soon,
 * UINT64_MAX: when something was written, which `after` is told of). before and after (each may be NULL) see what changes the disk, and may
 * do something about it there and then. */
struct dp_worker_job {
    uint64_t (*step)(void *opaque, struct dp_image **image);
    void (*before)(void *opaque, struct dp_image **image, uint64_t offset, uint64_t size);
    void (*after)(void *opaque, struct dp_image **image, uint64_t offset, uint64_t size);
    void *opaque;
};
/* Runs it in the worker's thread, between two requests. Not from there, and not from two threads that wait for each other. */
int dp_worker_call(struct dp_block *b, int (*run)(void *opaque, struct dp_image **image), void *opaque);
void dp_worker_set_job(struct dp_block *b, const struct dp_worker_job *job); /* worker's thread; NULL: none any more */

/* aside.c, for worker.c: what need not be done one after another. `again` gets, in any thread, a request that the worker must do. */
struct dp_aside;
struct dp_aside *dp_aside_open(struct dp_block *b, void (*again)(struct dp_block *b, struct dp_block_request *r)); /* NULL: not here */
void dp_aside_close(struct dp_aside *a);                                                                           /* nothing is under way */
/* The worker's thread; a read or a flush. True: done or under way; false: the worker has to do it. */
bool dp_aside_take(struct dp_aside *a, const struct dp_image *i, struct dp_block_request *r);
void dp_aside_reap(struct dp_aside *a, bool signal); /* any thread; signal as for dp_block_finish */
void dp_aside_wait(struct dp_aside *a);              /* the worker's thread: none is under way afterwards */

struct dp_block {
    struct dp_loop *loop;
    struct dp_trace *trace;
    char *path;
    int fd;                         /* raw; -1: the worker's image has it */
    const struct dp_image_options *image; /* while it is being opened */
    bool readonly;
    enum dp_block_cache cache;
    bool discard_ignored;
    enum dp_block_detect detect_zeroes;
    unsigned align;                 /* of memory for O_DIRECT; 0: not that */
    struct dp_throttle *throttle;   /* NULL: no limits */
    _Atomic uint64_t size;
    const struct dp_block_engine *engine;
    void *engine_data;
    int event_fd;                   /* readable when something finished */
    atomic_uint in_flight;          /* submitted, callback not returned */
    atomic_bool told_full, told_error;
    pthread_mutex_t lock;           /* the finished list */
    struct dp_block_request *finished, **finished_tail;
    atomic_bool holding;            /* it ends under the lock: requests wait in `held`, while the engine is changed */
    struct dp_block_request *held, **held_tail;
    unsigned held_count;
    void (*resized)(void *opaque, struct dp_block *b); /* the device's; may be NULL */
    void *resized_opaque;
    struct dp_live *live;           /* live.c; NULL: nothing was done with the disk in use */
    /* how it was opened */
    char *format;                   /* NULL: raw */
    char *secret;                   /* for layers that are opened again; NULL: none. Wiped at the end */
    bool backing_anywhere;
    enum dp_block_io io;
    const char *fixed;              /* why its layers cannot be changed in use; NULL: they can */
};

/* block.c: the request is over, with r->result. Any thread; signal is false within reap, whose caller looks at the list anyway. */
void dp_block_finish(struct dp_block *b, struct dp_block_request *r, bool signal);
/* Loop's thread: what comes from now on waits, what was there before is finished; until it goes on. */
void dp_block_hold(struct dp_block *b);
void dp_block_go_on(struct dp_block *b);
/* Loop's thread: a raw disk becomes one that a worker has, as all others are; requests wait meanwhile. After an error it is as it was. */
int dp_block_use_worker(struct dp_block *b, struct dp_error *e) DP_MUST_CHECK;

/* live.c: no job is left, whatever came of it; the engine is closed next. */
void dp_live_stop(struct dp_block *b);
void dp_live_fini(struct dp_block *b);

/* The format is never guessed, but who forgot to say it should hear why the guest finds no system: the first and last bytes of a raw disk. */
void dp_block_suspect(const struct dp_block *b, const uint8_t head[4096], const uint8_t tail[512]);

/* raw.c */
#define DP_BLOCK_BOUNCE (128u << 10) /* bytes of a bounce buffer, at most */
/* Has the file go around the page cache, as b->cache says. */
int dp_raw_direct(struct dp_block *b, struct dp_error *e) DP_MUST_CHECK;
/* A bounce buffer, if the request needs one: 0 or -ENOMEM. */
int dp_raw_bounce(struct dp_block *b, struct dp_block_request *r) DP_MUST_CHECK;
void dp_raw_step(struct dp_block *b, const struct dp_block_request *r, struct dp_block_step *s);
/* Takes the result of a step (count or negative errno). True: the request is over; false: it has another step. */
bool dp_raw_result(struct dp_block *b, struct dp_block_request *r, const struct dp_block_step *s, int64_t result);
/* Carries a step out here and now; gives what dp_raw_result takes. */
int64_t dp_raw_call(struct dp_block *b, const struct dp_block_step *s);

#endif
