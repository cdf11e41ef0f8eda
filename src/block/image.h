/* block/image.h - images of every format, synchronously. What is built on it: the worker thread of a disk (worker.c), `doppel image`, the
 * NBD server.
 *
 * Model: an image is a node of a tree. A *format* (qcow2, vmdk...) finds the disk's bytes in `file`, the image below that holds its own
 * bytes; a *protocol* (a local file, NBD, HTTP) is where bytes come from and has no file. What a format does not have it takes from
 * `backing`. Calls are plain functions that return when the work is done. A driver embeds struct dp_image as the first member of its own
 * structure; `size` of a protocol is the exact length in bytes and grows with what is written behind it, where that is possible. Trust: an
 * image may come from anywhere. So the format is what the user said, never guessed for a disk that is written (dp_image_guess is for people
 * who ask what a file is); a backing file is opened only if it is in the folder of the topmost image or below (links followed) and its
 * format is declared, unless the user said `backing=any`; it is never written. Drivers check every field of a file before they use it, and
 * their memory is bounded. Threads: one at a time. Errors: 0 or negative errno.
 */
#ifndef DP_BLOCK_IMAGE_H
#define DP_BLOCK_IMAGE_H

#include <sys/uio.h>

#include "base/base.h"

struct dp_image;
struct dp_image_chain;
struct json_object;

enum { DP_IMAGE_DEPTH_MAX = 64, DP_IMAGE_HEAD = 4096, DP_IMAGE_NAME_MAX = 1023 };

/* ---- memory that bytes go to or come from: what is left of an array of iovecs ---- */

struct dp_cursor {
    const struct iovec *iov;
    unsigned count;
    size_t skip;
};

struct iovec dp_cursor_take(struct dp_cursor *c, uint64_t size); /* the next piece, at most size bytes, and past it */
void dp_cursor_skip(struct dp_cursor *c, uint64_t size);
void dp_cursor_zero(struct dp_cursor *c, uint64_t size);
void dp_cursor_put(struct dp_cursor *c, const uint8_t *from, uint64_t size); /* into the memory */
void dp_cursor_get(struct dp_cursor *c, uint8_t *to, uint64_t size);         /* out of it */

/* ---- opening ---- */

struct dp_image_options {
    const char *name;   /* a file, or an address (nbd://...) */
    const char *format; /* NULL: raw */
    bool readonly;
    bool backing_anywhere;
    bool alone;             /* what is below it is not opened: what it does not have reads as zeros */
    bool backing_later;     /* what is below it is open already: who opens it sets `backing` before anything else */
    bool repair;            /* an image that is marked as damaged may be opened for writing, to be checked */
    bool unlocked;          /* others may write it meanwhile: what is read may be of different moments */
    bool unsafe;            /* a flush does not wait for the disk: after a power cut the image may be damaged */
    const char *secret;     /* passphrase of an encrypted image; may be NULL */
    const char *copy;       /* what comes by HTTP is kept in this file, and comes from there the next time; NULL: it is not */
    bool fill;              /* and the rest of it is fetched meanwhile */
    const char *snapshot;   /* read-only: an internal snapshot, by name or id; NULL: the disk as it is */
    struct dp_trace *trace; /* may be NULL; outlives the image */
};

bool dp_image_is_file(const char *name); /* a file or device of this host, not an address, nor a member of an OVA */
/* The first line of a file: a passphrase, which its user wipes. */
enum { DP_IMAGE_SECRET_MAX = 512 };
int dp_image_read_secret(const char *file, char secret[DP_IMAGE_SECRET_MAX], struct dp_error *e) DP_MUST_CHECK;
int dp_image_open(const struct dp_image_options *o, struct dp_image **out, struct dp_error *e) DP_MUST_CHECK;
/* Flushes what can be; NULL is fine. Who must know whether that worked flushes first. */
void dp_image_close(struct dp_image *i);
/* The format that a file seems to have, "raw" if none; NULL: it cannot be opened. Only for images that are then read. */
const char *dp_image_guess(const char *name, struct dp_error *e);

/* ---- using ---- */

/* What a piece of the disk is. PACKED: compressed or encrypted, there but not as bytes of the file. UNALLOCATED: it is the backing
 * image's, or zeros. */
enum dp_extent_kind { DP_EXTENT_DATA, DP_EXTENT_PACKED, DP_EXTENT_ZEROS, DP_EXTENT_UNALLOCATED };
struct dp_extent {
    enum dp_extent_kind kind;
    unsigned depth; /* 0: this image has it, 1: its backing image... (dp_image_extent_all) */
    uint64_t size;
    uint64_t offset; /* DATA: in `file` (or `data`), if has_offset */
    bool has_offset;
};

int dp_image_read(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) DP_MUST_CHECK; /* past the end are zeros */
int dp_image_write(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) DP_MUST_CHECK;
int dp_image_pread(struct dp_image *i, void *data, uint64_t size, uint64_t offset) DP_MUST_CHECK;
int dp_image_pwrite(struct dp_image *i, const void *data, uint64_t size, uint64_t offset) DP_MUST_CHECK;
enum { DP_ZERO_UNMAP = 1, /* the space may be given back */ DP_ZERO_DISCARD = 2 /* what is read afterwards does not matter */ };
int dp_image_zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags) DP_MUST_CHECK;
int dp_image_flush(struct dp_image *i) DP_MUST_CHECK;
/* The piece that begins at offset, at most size bytes: of this image only, or of it and what is below. */
int dp_image_extent(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x) DP_MUST_CHECK;
int dp_image_extent_all(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x) DP_MUST_CHECK;
/* Writes nothing yet, or waits for a flush: the worker flushes after a pause. */
bool dp_image_dirty(const struct dp_image *i);
/* For who does not want to wait in here. The one range of one local file where these bytes are as they are (else false), until clusters may be
 * freed: by zeros, a discard, a change of layers or snapshots. offset: of the disk, and then of the file. */
bool dp_image_place(const struct dp_image *i, uint64_t *offset, uint64_t size, int *fd);
int dp_image_flushed_by(const struct dp_image *i); /* the one file whose fdatasync would be all of a flush now; -1: it is more */

struct dp_image_check {
    bool repair_leaks, repair_all;
    void (*report)(void *opaque, const char *line);              /* each thing found; may be NULL */
    void (*progress)(void *opaque, uint64_t done, uint64_t all); /* may be NULL */
    void *opaque;
    /* found and left; found and mended; and what else there is */
    uint64_t corruptions, leaks, corruptions_fixed, leaks_fixed;
    uint64_t clusters, allocated, compressed, fragmented, end; /* end: of the last one in use, bytes */
};

struct dp_image_snapshot {
    char id[32], name[256];
    uint64_t vm_state_size, date_seconds, date_nanoseconds, vm_clock_ns, disk_size;
};

/* Dirty bitmaps that an image keeps: which parts of its disk were written while a bitmap was enabled. */
struct dp_image_bitmap {
    char name[DP_IMAGE_NAME_MAX + 1];
    uint64_t granularity, dirty; /* bytes of a bit; bytes of the disk that are dirty */
    bool enabled, inconsistent;  /* inconsistent: its writer did not end well; it can only be removed */
};
/* ADD: enabled, nothing dirty. CLEAR: nothing is dirty. STORE: what was set is written now, not at the end (name is not looked at). */
enum dp_image_bitmap_op {
    DP_IMAGE_BITMAP_ADD,
    DP_IMAGE_BITMAP_REMOVE,
    DP_IMAGE_BITMAP_CLEAR,
    DP_IMAGE_BITMAP_ENABLE,
    DP_IMAGE_BITMAP_DISABLE,
    DP_IMAGE_BITMAP_STORE
};
int dp_image_bitmap_list(struct dp_image *i, struct dp_image_bitmap **out, unsigned *count, struct dp_error *e) DP_MUST_CHECK; /* to free */
int dp_image_bitmap_change(struct dp_image *i, enum dp_image_bitmap_op op, const char *name, uint64_t granularity /* of ADD; 0: usual */,
                           struct dp_error *e) DP_MUST_CHECK;
/* The piece that begins at offset, at most *size bytes, all of it dirty or not: its size (0 only at the end of the disk). */
int dp_image_bitmap_query(struct dp_image *i, const char *name, uint64_t offset, uint64_t *size, bool *dirty,
                          struct dp_error *e) DP_MUST_CHECK;
/* A range becomes dirty, or clean (only bits that are wholly in it). */
int dp_image_bitmap_set(struct dp_image *i, const char *name, uint64_t offset, uint64_t size, bool dirty, struct dp_error *e) DP_MUST_CHECK;
/* What is dirty in from's becomes dirty in to's, and is stored. May be the same image. */
int dp_image_bitmap_merge(struct dp_image *to, const char *name, struct dp_image *from, const char *source,
                          struct dp_error *e) DP_MUST_CHECK;

/* ---- making ---- */

struct dp_image_create {
    const char *name, *format;
    uint64_t size;                        /* bytes of the disk */
    const char *backing, *backing_format; /* NULL: none */
    const char *const *option;            /* "key=value", NULL after the last; may be NULL. Unknown ones are errors */
    const char *secret;                   /* passphrase, if it is to be encrypted */
    struct dp_trace *trace;
};
/* The file must not be in use; what it had is lost. */
int dp_image_create(const struct dp_image_create *o, struct dp_error *e) DP_MUST_CHECK;

/* ---- drivers: what does not stand in a driver's table is answered by -ENOTSUP ---- */

struct dp_image_option {
    const char *key, *help;
};

struct dp_image_format {
    const char *name, *summary;
    size_t instance_size;
    const char *scheme;                           /* a protocol: of its addresses ("nbd"); NULL: a format */
    const struct dp_image_option *create_options; /* ends with a NULL key; may be NULL */
    bool noise;                                   /* what was never written reads as anything, not as zeros */
    /* Does a file with these first bytes (DP_IMAGE_HEAD, or all it has; the rest zeros) seem to be one? tail: its last 512, for formats
     * that have a footer. */
    bool (*probe)(const uint8_t *head, const uint8_t *tail, uint64_t length);
    /* name, trace, readonly are set, and file of a format: sets size, and backing by dp_image_open_backing. After an error, close is
     * called. */
    int (*open)(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e);
    void (*close)(struct dp_image *i); /* what it has beside file and backing; has been flushed */
    /* Ranges are inside the disk (a protocol's writes may go past its end). */
    int (*read)(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size);
    int (*write)(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size);
    int (*zero)(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags); /* without it, or at -ENOTSUP, zeros are written */
    int (*flush)(struct dp_image *i);
    bool (*dirty)(const struct dp_image *i);
    bool (*flush_is_plain)(const struct dp_image *i); /* now a flush would only flush `file` (a file: it would sync); without it: who knows */
    int (*extent)(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x); /* without it all is DATA */
    int (*resize)(struct dp_image *i, uint64_t size, struct dp_error *e);
    /* Exactly one cluster (or the disk's last piece) at a multiple of its size, compressed, where nothing is; then what cannot be
     * compressed is written plainly. */
    int (*write_packed)(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size);
    /* Compression by several threads, if all of this is there. A packer is what one thread has of its own; NULL: out of memory. */
    void *(*packer)(const struct dp_image *i);
    void (*packer_free)(void *packer);
    size_t (*pack)(void *packer, const uint8_t *plain, uint8_t *packed); /* a cluster; the result's size, 0: it is not smaller */
    /* What pack made, as write_packed would have; -EEXIST: something is there. */
    int (*write_prepacked)(struct dp_image *i, const uint8_t *packed, size_t size, uint64_t offset);
    /* The bytes of a whole cluster that is compressed; -ENOTSUP: it is not, or there is no room. */
    int (*read_packed)(struct dp_image *i, uint64_t offset, uint8_t *packed, size_t room, size_t *size);
    bool (*unpack)(void *packer, const uint8_t *packed, size_t size, uint8_t *plain);
    uint32_t (*cluster_size)(const struct dp_image *i);     /* 0 or not there: it has none */
    int (*info)(struct dp_image *i, struct json_object *o); /* adds what is special to it, by the names that qemu-img uses */
    int (*check)(struct dp_image *i, struct dp_image_check *c, struct dp_error *e);
    /* Two whole clusters (raw: pieces of 64 KiB) that hold the same become one. 1: these cannot, nothing was done. */
    int (*share)(struct dp_image *i, uint64_t keep, uint64_t drop);
    int (*set_backing)(struct dp_image *i, const char *name, const char *format, struct dp_error *e); /* names only; NULL: none */
    int (*empty)(struct dp_image *i, struct dp_error *e); /* after a commit: all is the backing image's again */
    int (*snapshot_list)(struct dp_image *i, struct dp_image_snapshot **out, unsigned *count, struct dp_error *e); /* the caller frees */
    int (*snapshot_create)(struct dp_image *i, const struct dp_image_snapshot *s, struct dp_error *e);             /* id "": the next one */
    int (*snapshot_apply)(struct dp_image *i, const char *name_or_id, struct dp_error *e);
    int (*snapshot_delete)(struct dp_image *i, const char *name_or_id, struct dp_error *e);
    int (*create)(const struct dp_image_create *o, struct dp_error *e);
    /* all or none of: */
    int (*bitmap_list)(struct dp_image *i, struct dp_image_bitmap **out, unsigned *count, struct dp_error *e);
    int (*bitmap_query)(struct dp_image *i, const char *name, uint64_t offset, uint64_t *size, bool *dirty, struct dp_error *e);
    int (*bitmap_set)(struct dp_image *i, const char *name, uint64_t offset, uint64_t size, bool dirty, struct dp_error *e);
    int (*bitmap_change)(struct dp_image *i, enum dp_image_bitmap_op op, const char *name, uint64_t granularity, struct dp_error *e);
};

struct dp_image {
    const struct dp_image_format *format;
    char *name;
    struct dp_trace *trace;
    bool readonly;
    uint64_t size; /* bytes of the disk */
    struct dp_image *file, *backing;
    struct dp_image *data;               /* NULL, or another file where what extents tell of is, instead of `file` */
    char *backing_name, *backing_format; /* as the image says; NULL: none */
    struct dp_image_chain *chain;        /* while it is being opened */
};

/* The n-th driver; NULL after the last. */
const struct dp_image_format *dp_image_format(unsigned n);
const struct dp_image_format *dp_image_format_named(const char *name); /* NULL: none */

/* For drivers, while they open: what the image says is below it. Checks that it may be opened, takes copies of the names. */
int dp_image_open_backing(struct dp_image *i, const char *name, const char *format, const struct dp_image_options *o,
                          struct dp_error *e) DP_MUST_CHECK;
/* Another file that has data of i (as qcow2's data files), by its name in i: opened, locked and written as i is, where a backing file might
 * be. It becomes i->data. */
int dp_image_open_data(struct dp_image *i, const char *name, const struct dp_image_options *o, struct dp_error *e) DP_MUST_CHECK;
/* name as an image in file names it: relative to file's folder. The caller frees; NULL: no memory. */
char *dp_image_beside(const char *file, const char *name);
/* For drivers that create: an empty file (or a device, as it is) opened for writing. */
int dp_image_create_file(const struct dp_image_create *o, struct dp_image **out, struct dp_error *e) DP_MUST_CHECK;
/* The value of a create option; NULL: it is not there. */
const char *dp_image_create_option(const struct dp_image_create *o, const char *key);

#endif
