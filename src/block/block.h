/* block/block.h - disk images, always asynchronous.
 *
 * Model: a request is embedded in its owner and completes exactly once, by its callback, in the loop's thread (or in a thread that
 * drains, which does the loop's work for that time). Drain waits for all of a block's requests. Raw files and devices are driven
 * directly (io_uring or threads); any other image (image.h) by a worker thread of its own.
 * Size: a file whose length is no multiple of 512 gets its last sector padded with zeros, as in QEMU: it reads as zeros, and the first
 * write to it makes the file whole. What is past the end of a file that shrank under us is gone: reading it fails with -EIO, as a bad
 * sector does.
 * Invariants: the format is what the user said or raw, never guessed from guest-written bytes. Requests outside the image fail with -EIO.
 * A writable image is locked, a readonly one is locked for sharing (file.h): nobody else's doppel or qemu writes it.
 */
#ifndef DP_BLOCK_H
#define DP_BLOCK_H

#include <sys/uio.h>

#include "event/event.h"

enum dp_block_op { DP_BLOCK_READ, DP_BLOCK_WRITE, DP_BLOCK_FLUSH, DP_BLOCK_DISCARD, DP_BLOCK_WRITE_ZEROES };
/* How requests reach the host's kernel. AUTO: io_uring where the kernel and the container's seccomp filter allow it, else worker threads.
 * */
enum dp_block_io { DP_BLOCK_IO_AUTO, DP_BLOCK_IO_URING, DP_BLOCK_IO_THREADS };

struct dp_block;
struct dp_block_request {
    enum dp_block_op op;
    bool unmap;                    /* WRITE_ZEROES may give the space back */
    uint64_t offset, size;         /* bytes; a flush needs neither */
    struct iovec *iov; unsigned iov_count; /* lives until done; no piece is empty, the lengths add up to size */
    void (*done)(struct dp_block_request *r, int result); /* 0 or negative errno; loop's thread */
    void *opaque;
    /* private to block/ */
    struct dp_block_request *next;
    struct dp_block *block;
    uint64_t progress;             /* bytes done */
    uint64_t iov_skip;             /* bytes done of iov[iov_at] */
    unsigned iov_at;
    int result;
    uint8_t attempt, retries;      /* which way of zeroing; interrupted system calls */
    bool syncing;                  /* written; on its way to the disk */
    uint8_t asked;                 /* op as it was submitted */
    uint8_t *bounce;               /* memory that O_DIRECT takes; NULL: the pieces' own */
};

/* Who keeps what was written until it is on the disk: the host's page cache (WRITEBACK: until a flush; WRITETHROUGH: a write is on the disk
 * when it is done), nobody but the disk (NONE, DIRECTSYNC: O_DIRECT, the latter with writes on the disk when they are done; raw images
 * only), or the page cache for good (UNSAFE: a flush does nothing). */
enum dp_block_cache { DP_BLOCK_WRITEBACK, DP_BLOCK_NONE, DP_BLOCK_WRITETHROUGH, DP_BLOCK_DIRECTSYNC, DP_BLOCK_UNSAFE };
/* Writes of zeros become WRITE_ZEROES, which may give the space back (UNMAP). */
enum dp_block_detect { DP_BLOCK_DETECT_OFF, DP_BLOCK_DETECT_ON, DP_BLOCK_DETECT_UNMAP };
/* In a second: requests, bytes; of both kinds together and of each; 0: no limit. Bursts: how many may come at once; 0: a tenth of a
 * second's. */
struct dp_throttle_limits {
    uint64_t iops, iops_read, iops_write, bps, bps_read, bps_write, iops_burst, bps_burst;
};

struct dp_block_options {
    const char *path;              /* or an address */
    bool readonly;
    const char *format;            /* a name of image.h's formats; NULL is raw */
    const char *copy;              /* of what comes by HTTP, on this host (image.h); NULL: none */
    bool fill;                     /* it is filled meanwhile */
    bool backing_anywhere;         /* backing files may lie outside the folder of the image: its maker chose their names */
    const char *secret;            /* passphrase of an encrypted image; may be NULL */
    bool of_volume;                /* a pool (volume/) knows its layers: they stay as they are */
    enum dp_block_io io;
    enum dp_block_cache cache;
    bool discard_ignored;          /* the space of what guests discard is kept */
    enum dp_block_detect detect_zeroes;
    struct dp_throttle_limits limits;
    struct dp_clock *clock;        /* the limits'; outlives the block */
    struct dp_trace *trace;        /* may be NULL; outlives the block */
};

/* l may be NULL (tests, tools): then only dp_block_drain completes requests. */
int dp_block_open(struct dp_loop *l, const struct dp_block_options *o, struct dp_block **out, struct dp_error *e) DP_MUST_CHECK;
void dp_block_close(struct dp_block *b);   /* drains; NULL is fine */
uint64_t dp_block_size(const struct dp_block *b); /* multiple of 512; it may grow (live.h) */
/* Who wants to know, in the loop's thread, when it grew; one at a time. */
void dp_block_on_resize(struct dp_block *b, void (*resized)(void *opaque, struct dp_block *b), void *opaque);
bool dp_block_readonly(const struct dp_block *b);
const char *dp_block_io_name(const struct dp_block *b); /* "io_uring", "threads" or "worker" */
void dp_block_submit(struct dp_block *b, struct dp_block_request *r); /* any thread; a full host disk is -ENOSPC, reported once by trace */
/* Any thread, with no lock held that a done callback takes; returns with nothing in flight and no callback running. */
void dp_block_drain(struct dp_block *b);

#endif
