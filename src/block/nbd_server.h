/* block/nbd_server.h - an image for others, by the NBD protocol.
 *
 * Model: each client has a thread (the caller's) that reads its requests, does them in order and answers. An image is one thread's at a
 * time, so a mutex is held for each request. What a client has asked for by one packet is answered by one: requests and small replies are
 * gathered. Requests are answered in their order, which the protocol allows; a flush covers what any client has written before it, so
 * several connections of one client are one (NBD_FLAG_CAN_MULTI_CONN). What is written is flushed when a client says so, when its
 * connection ends, and after a pause of some seconds. Clients are hostile: options and requests are bounded, lengths and offsets checked,
 * nothing is kept for who is gone. A client that does not read is waited for by its own thread only; one that does not say
 * within some seconds which export it wants is sent away. With TLS nothing is told or done before it, and what was said before it is
 * forgotten. Source: the NBD protocol (doc/proto.md of the nbd project): fixed newstyle negotiation, simple and structured replies,
 * base:allocation.
 */
#ifndef DP_BLOCK_NBD_SERVER_H
#define DP_BLOCK_NBD_SERVER_H

#include "block/image.h"

enum { DP_NBD_PORT = 10809, DP_NBD_REQUEST_MAX = 32 << 20, DP_NBD_NAME_MAX = 4096 };

struct dp_nbd_server;
struct dp_tls;

struct dp_nbd_options {
    struct dp_image *image;   /* stays the caller's */
    const char *name;         /* of the export; NULL: "" */
    const char *description;  /* may be NULL */
    const struct dp_tls *tls; /* a server's (tls/tls.h): clients must use TLS, and be whom it believes; stays the caller's; NULL: no TLS */
};

int dp_nbd_server_create(const struct dp_nbd_options *o, struct dp_nbd_server **out, struct dp_error *e) DP_MUST_CHECK;
void dp_nbd_server_destroy(struct dp_nbd_server *s); /* no client is served any more; NULL is fine */
/* Serves a connected socket until it ends, or is shut down by another thread; closes it. Any thread. */
void dp_nbd_serve(struct dp_nbd_server *s, int fd);

#endif
