/* block/http.h - between the parts of the HTTP driver: connections (http_fetch.c), local copies (http_copy.c), the image (http.c).
 *
 * Model: a disk is a file of a web server, which must give ranges of it (206). Which file that is, its *identity*, is what the server said
 * first: length, ETag, Last-Modified. Each answer is compared with that before a byte of it is used; a file that changed is not read any
 * more, for what was read before is of another. Source: RFC 9110 (8.8 validators, 14 ranges, 15.3.7 206).
 */
#ifndef DP_BLOCK_HTTP_H
#define DP_BLOCK_HTTP_H

#include "base/base.h"

enum { DP_HTTP_ETAG_MAX = 512, DP_HTTP_DATE_MAX = 64 };

struct dp_http_identity {
    uint64_t size;
    char etag[DP_HTTP_ETAG_MAX], modified[DP_HTTP_DATE_MAX]; /* "": the server does not say */
};

/* ---- connections ---- */

struct dp_http;

/* Asks what there is at an address (http:// or https://). */
int dp_http_open(const char *url, struct dp_http **out, struct dp_error *e) DP_MUST_CHECK;
/* Another connection to the same file. */
int dp_http_clone(const struct dp_http *h, struct dp_http **out, struct dp_error *e) DP_MUST_CHECK;
void dp_http_close(struct dp_http *h); /* NULL is fine */
const struct dp_http_identity *dp_http_identity(const struct dp_http *h);
/* Reads a range inside the file. What breaks off is gone on with, for some time; -ESTALE: the file has changed (and stays so). */
int dp_http_get(struct dp_http *h, uint64_t offset, uint64_t size, void *data, struct dp_error *e) DP_MUST_CHECK;
/* Any thread: a get that is under way ends with -ECANCELED, later ones too. */
void dp_http_stop(struct dp_http *h);

/* What the head of an answer says. Lines come one by one, with or without the CR LF; a status line begins anew. */
struct dp_http_reply {
    unsigned status;
    bool ranged, encoded, odd;   /* has a Content-Range that can be used; is compressed; something is too long */
    uint64_t first, last, total; /* of the range */
    struct dp_http_identity id;
};
void dp_http_reply_line(struct dp_http_reply *r, const char *line, size_t size);

/* ---- local copies: see http_copy.c for the file ---- */

struct dp_http_copy;
struct dp_trace;

/* Bytes of a block of a copy: of a very large one more, so that its map stays small. The last may be shorter. */
enum { DP_HTTP_BLOCK = 64 << 10, DP_HTTP_BLOCK_MAX = 2 << 20 };

/* Opens or begins the copy of that file. id NULL: the server cannot be asked; then the copy must be there, and whole. */
int dp_http_copy_open(const char *path, const struct dp_http_identity *id, struct dp_trace *trace, struct dp_http_copy **out,
                      struct dp_error *e) DP_MUST_CHECK;
int dp_http_copy_close(struct dp_http_copy *c); /* commits; NULL is fine */
uint64_t dp_http_copy_size(const struct dp_http_copy *c);
/* How many bytes from offset on are there (*there), or are not; at most size. Any thread, as all below. */
uint64_t dp_http_copy_run(struct dp_http_copy *c, uint64_t offset, uint64_t size, bool *there);
uint32_t dp_http_copy_block(const struct dp_http_copy *c);
int dp_http_copy_descriptor(const struct dp_http_copy *c); /* byte n of it is byte n of the disk */
/* Whole blocks, or to the end. */
int dp_http_copy_put(struct dp_http_copy *c, uint64_t offset, const void *data, uint64_t size) DP_MUST_CHECK;
bool dp_http_copy_whole(struct dp_http_copy *c);
/* What was put so far is there for later runs, even if the power fails now. */
int dp_http_copy_commit(struct dp_http_copy *c) DP_MUST_CHECK;

#endif
