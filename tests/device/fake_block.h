/* fake_block.h - disk images in memory that fail where a test says, instead of block/.
 *
 * Use: include it in one file of a program; the functions of block/block.h that devices call are these then. Nothing completes before
 * a drain. A fake keeps its requests in order and completes them one at a time; a callback may submit more.
 */
#ifndef DP_TESTS_FAKE_BLOCK_H
#define DP_TESTS_FAKE_BLOCK_H

#include <stdlib.h>

#include "block/block.h"

struct dp_block {
    uint8_t *data;
    uint64_t size;
    bool readonly;
    uint64_t bad_from, bad_to; /* bytes that can be neither read nor written */
    bool flush_fails;
    unsigned reads, writes, flushes;
    struct dp_block_request *first, **last;
};

static inline void fake_block_init(struct dp_block *b, uint64_t size)
{
    *b = (struct dp_block){ .data = calloc(1, size), .size = size };
    b->last = &b->first;
}

static inline void fake_block_fini(struct dp_block *b) { free(b->data); }

uint64_t dp_block_size(const struct dp_block *b) { return b->size; }
bool dp_block_readonly(const struct dp_block *b) { return b->readonly; }

void dp_block_submit(struct dp_block *b, struct dp_block_request *r)
{
    r->next = NULL;
    *b->last = r;
    b->last = &r->next;
}

static inline int fake_block_do(struct dp_block *b, struct dp_block_request *r)
{
    b->reads += r->op == DP_BLOCK_READ;
    b->writes += r->op == DP_BLOCK_WRITE;
    b->flushes += r->op == DP_BLOCK_FLUSH;
    if (r->op == DP_BLOCK_FLUSH)
        return b->flush_fails ? -EIO : 0;
    if (!r->size || r->offset > b->size || r->size > b->size - r->offset || (r->op == DP_BLOCK_WRITE && b->readonly))
        abort(); /* the device was to check that */
    if (r->offset < b->bad_to && r->offset + r->size > b->bad_from)
        return -EIO;
    uint64_t at = r->offset, left = r->size;
    for (unsigned i = 0; i < r->iov_count; i++) {
        if (!r->iov[i].iov_len || r->iov[i].iov_len > left)
            abort();
        if (r->op == DP_BLOCK_READ)
            memcpy(r->iov[i].iov_base, b->data + at, r->iov[i].iov_len);
        else
            memcpy(b->data + at, r->iov[i].iov_base, r->iov[i].iov_len);
        at += r->iov[i].iov_len;
        left -= r->iov[i].iov_len;
    }
    if (left)
        abort();
    return 0;
}

/* Completes the oldest request; false when there is none. */
static inline bool fake_block_one(struct dp_block *b)
{
    struct dp_block_request *r = b->first;
    if (!r)
        return false;
    b->first = r->next;
    if (!b->first)
        b->last = &b->first;
    r->done(r, fake_block_do(b, r));
    return true;
}

void dp_block_drain(struct dp_block *b)
{
    while (fake_block_one(b))
        ;
}

#endif
