/* block/table.h - what formats share that have tables of blocks in their file (vdi, vpc, vmdk, vhdx).
 *
 * Model: a format's `extent` is its only lookup; reading, writing and zeroing go through it piece by piece. Table entries are cached in
 * pages of 4 KiB, at most DP_TABLE_PAGES of them. A changed entry stays in the cache until dp_table_commit, which flushes the file first:
 * data is on the disk before the entry that points to it, and after a power cut a block may be lost space but is never another's bytes.
 * Only sectors with changed entries are written, so a page may share its 4 KiB with data.
 */
#ifndef DP_BLOCK_TABLE_H
#define DP_BLOCK_TABLE_H

#include "block/image_internal.h"

enum { DP_TABLE_PAGES = 256, DP_TABLE_PAGE = 4096 };

/* Bytes that stand for those of the file, a page at a time (a log that is not written back). */
struct dp_table_patch {
    uint64_t at;
    const uint8_t *data;
};

struct dp_table_page;
struct dp_table {
    struct dp_image *file;
    bool dirty;
    const struct dp_table_patch *patch; /* sorted by at */
    size_t patches;
    struct dp_table_page *page[DP_TABLE_PAGES];
};

/* An entry of width bytes (4 or 8) at a multiple of width, as the file has it (little-endian). Behind the end of the file are zeros. */
int dp_table_get(struct dp_table *t, uint64_t at, unsigned width, uint64_t *value) DP_MUST_CHECK;
int dp_table_set(struct dp_table *t, uint64_t at, unsigned width, uint64_t value) DP_MUST_CHECK;
int dp_table_commit(struct dp_table *t) DP_MUST_CHECK; /* what it wrote is on the disk after another flush of the file */
void dp_table_forget(struct dp_table *t);              /* all pages, after a commit: somebody wrote the file where they are */
void dp_table_fini(struct dp_table *t);

/* ---- all of a table (table_check.c) ---- */

#define DP_TABLE_NOWHERE UINT64_MAX
#define DP_TABLE_NO_GROUP (UINT64_MAX - 1)

struct dp_table_map {
    struct dp_table *table; /* its file has the blocks */
    void *owner;
    const char *name;     /* what a block is called */
    uint64_t count;       /* entries */
    uint64_t disk, bytes; /* of the disk: where the first is, and how much each is */
    uint64_t size, align; /* of a block in the file; new ones lie at base plus multiples of align */
    uint64_t base, unit;  /* no block is before base; each is at base plus a multiple of unit */
    uint64_t limit;       /* none begins behind it; 0: the file's end */
    bool crowded;         /* something else may lie between blocks: room is not looked for */
    bool dense;           /* room before the first block is lost, too; else writers leave it for their tables */
    uint64_t group;       /* entries that may be missing together; 0: none are */
    /* 0: there is none; DP_TABLE_NO_GROUP: nor is one of the whole group; DP_TABLE_NOWHERE: it points where none can be */
    int (*get)(void *owner, uint64_t n, uint64_t *at);
    int (*set)(void *owner, uint64_t n, uint64_t at);
    bool (*room)(const void *owner, uint64_t at); /* nothing else but blocks can be there; NULL: nowhere */
    void (*refresh)(struct dp_table_map *m);      /* limit, after blocks were added; NULL: it is 0 */
};
/* Behind the last block; -EIO: an entry points behind the end of the file, and new blocks would be in that one's place. */
int dp_table_end(const struct dp_table_map *m, uint64_t *end) DP_MUST_CHECK;
/* Looks, and mends, if c and the image allow that. What is behind end is of no use afterwards, if nothing is left to mend. */
int dp_table_check(struct dp_image *i, struct dp_table_map *m, struct dp_image_check *c, uint64_t *end) DP_MUST_CHECK;

int dp_extent_read(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) DP_MUST_CHECK;
/* place: finds room for the block that offset is in; its bytes there are what the disk reads now. */
int dp_extent_write(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size,
                    int (*place)(struct dp_image *i, uint64_t offset)) DP_MUST_CHECK;
/* Blocks keep their places; what is not there and reads as zeros stays so. -ENOTSUP if a backing image shows through. */
int dp_extent_zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags) DP_MUST_CHECK;

/* What i does not have of a piece of the disk, and the parent has: written to `to` of the file. */
int dp_extent_fill(struct dp_image *i, uint64_t offset, uint64_t size, uint64_t to) DP_MUST_CHECK;

/* Names of Windows. UTF-16 to bytes, backslashes to slashes; of an absolute name the last part. False: it is no name. */
bool dp_name_from_utf16(const uint8_t *utf16, size_t units, bool big, char *out, size_t room);
/* UTF-8 to UTF-16, slashes to backslashes; the bytes of it, 0: it is no name, or too long. */
uint32_t dp_name_to_utf16(const char *name, bool big, uint8_t *out, size_t room);
uint32_t dp_crc32c(uint32_t crc, const void *data, size_t size); /* Castagnoli, RFC 3720 section 12.1; begins with 0 */
void dp_random_uuid(uint8_t uuid[16]);                           /* version 4 */
/* The value of an on/off create option; fallback if it is not there. -EINVAL: it is neither. */
int dp_image_create_flag(const struct dp_image_create *o, const char *key, bool fallback, bool *value, struct dp_error *e) DP_MUST_CHECK;

#endif
