/* volume/pool.h - pools of volumes: a folder of disk images and pool.json, which says what each is.
 *
 * Model: a pool's name leads to its folder: $XDG_DATA_HOME/doppel/pools/NAME (else ~/.local/share/...), which is the folder itself or a
 * symbolic link to one that was made elsewhere. A *record* is a volume or a snapshot of one. Its file has a number for a name that is
 * never used again, so that names change by changing pool.json alone; `parent` is the record whose file is this one's backing file.
 * Who changes a pool holds the lock on `lock`; who only reads it does not, since pool.json is replaced as a whole: written, flushed,
 * renamed, the folder flushed.
 * Invariants: a file is flushed before pool.json names it, and unlinked after pool.json has forgotten it. So after a crash there may be
 * files too many, never one too few; the next who changes the pool removes those that no program holds open. The file of a snapshot, or
 * of a volume that is another's parent, is not written: it is made read-only, too. pool.json may come from anywhere: all of it is checked.
 * Source: XDG Base Directory Specification 0.8; rename(2), fsync(2). Errors: 0 or negative errno, and one line in e.
 */
#ifndef DP_VOLUME_POOL_H
#define DP_VOLUME_POOL_H

#include "block/image.h"

enum { DP_VOLUME_NAME_MAX = 63, DP_POOL_RECORDS_MAX = 16384, DP_POOL_BYTES_MAX = 8 << 20, DP_POOL_PATH_MAX = 4096 };
#define DP_POOL_DEFAULT "default"

struct dp_volume {
    uint64_t id;                       /* never used again */
    char name[DP_VOLUME_NAME_MAX + 1]; /* of a snapshot: the part behind '@' */
    uint64_t owner;                    /* a snapshot's volume; 0: it is a volume */
    uint64_t parent;                   /* 0: no backing file */
    uint64_t file;                     /* FILE.FORMAT, six digits at least */
    const struct dp_image_format *format;
    uint64_t made; /* seconds since 1970 */
    bool merging;  /* a snapshot that is being removed: its contents are of two moments */
};

struct dp_pool {
    char name[DP_VOLUME_NAME_MAX + 1], *folder;
    int folder_fd, lock_fd;    /* lock_fd -1: only read */
    uint64_t next;             /* the next id or file */
    struct dp_volume **volume; /* by id; each stays where it is until it is removed */
    unsigned count;
};

/* Letters, digits, '.', '_' and '-', the first no sign. what: "volume", for the message. */
int dp_volume_check_name(const char *what, const char *name, struct dp_error *e) DP_MUST_CHECK;

/* folder NULL: one of its own. A folder that is a pool already is taken as it is. */
int dp_pool_create(const char *name, const char *folder, struct dp_error *e) DP_MUST_CHECK;
/* Refused while it has volumes, unless only its name is to be forgotten (of a folder made elsewhere). */
int dp_pool_remove(const char *name, bool forget, struct dp_error *e) DP_MUST_CHECK;
/* Names, in alphabetical order. */
int dp_pool_each(void (*fn)(void *opaque, const char *name), void *opaque, struct dp_error *e) DP_MUST_CHECK;

/* change: waits for the lock. The default pool is there without being made. */
int dp_pool_open(const char *name, bool change, struct dp_pool *p, struct dp_error *e) DP_MUST_CHECK;
void dp_pool_close(struct dp_pool *p);
int dp_pool_commit(struct dp_pool *p, struct dp_error *e) DP_MUST_CHECK;
/* Between these two others may change the pool: what pointed to a record points nowhere afterwards. */
void dp_pool_unlock(struct dp_pool *p);
int dp_pool_relock(struct dp_pool *p, struct dp_error *e) DP_MUST_CHECK;

struct dp_volume *dp_pool_by_id(const struct dp_pool *p, uint64_t id); /* NULL: none */
struct dp_volume *dp_pool_add(struct dp_pool *p, struct dp_error *e);  /* with a new id; NULL: no memory, or too many */
void dp_pool_forget(struct dp_pool *p, struct dp_volume *v);           /* frees it */
/* Records whose parent is v; the first. */
unsigned dp_pool_children(const struct dp_pool *p, const struct dp_volume *v, struct dp_volume **first);
/* A snapshot, or some record's parent: its file must not change. */
bool dp_volume_protected(const struct dp_pool *p, const struct dp_volume *v);

/* pool.json: into an empty pool; out of one, to be freed. For dp_pool_open, and tests. */
int dp_pool_parse(struct dp_pool *p, const char *text, size_t size, struct dp_error *e) DP_MUST_CHECK;
char *dp_pool_text(const struct dp_pool *p);
void dp_pool_clear(struct dp_pool *p);

#endif
