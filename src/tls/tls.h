/* tls/tls.h - TLS and DTLS on descriptors, by OpenSSL: who we are, whom we believe, and sessions.
 *
 * Model: credentials (struct dp_tls) are read once and serve many sessions. They are a folder of certificates, with QEMU's and libvirt's
 * names: ca-cert.pem, whom we believe; server-cert.pem and server-key.pem or client-cert.pem and client-key.pem, who we are; ca-crl.pem,
 * whom we believe no more (may be missing). Or they are a file of keys that both ends have, lines of NAME:HEX as psktool writes them: a
 * client uses the first, a server all. Both ends always have to prove themselves.
 * A session is laid over a connected descriptor, which stays the caller's. It never waits by itself: with a descriptor that does not block,
 * calls say -EAGAIN and dp_tls_wants what to wait for; with one that blocks, they block.
 * A session over datagrams keeps records apart: what is written by one call is read by one. Datagrams that are not the peer's are dropped
 * without a word, as is what the network does not take. A server answers a first datagram with a cookie, and keeps nothing until it came
 * back (RFC 6347 4.2.1).
 * Invariants: TLS 1.3, or 1.2 where asked for, DTLS 1.2; ephemeral keys only; no renegotiation, compression, tickets. Text that errors
 * quote is OpenSSL's, never the peer's.
 * Threads: credentials are constant once made; a session is one thread's at a time.
 * Source: RFC 8446, 5246, 6347, 4279; OpenSSL's ssl(7).
 */
#ifndef DP_TLS_H
#define DP_TLS_H

#include <sys/types.h>

#include "base/base.h"

struct dp_tls;
struct dp_tls_session;

enum { DP_TLS_DATAGRAM_MAX = 16384 }; /* bytes of one datagram's content */

struct dp_tls_options {
    const char *folder, *psk; /* one of them */
    bool server, datagram;
    bool allow_12;    /* of a stream: TLS 1.2 does, for peers that are other programs */
    const char *peer; /* the name or IP address that the peer's certificate must be for; NULL: any that ca-cert.pem signed */
};

int dp_tls_create(const struct dp_tls_options *o, struct dp_tls **out, struct dp_error *e) DP_MUST_CHECK;
void dp_tls_destroy(struct dp_tls *t); /* after its sessions; NULL is fine */

int dp_tls_session_create(const struct dp_tls *t, int fd, struct dp_tls_session **out, struct dp_error *e) DP_MUST_CHECK;
void dp_tls_session_destroy(struct dp_tls_session *s); /* NULL is fine */
/* 0: the peer is whom we believe. -EAGAIN; or it failed, and e says why. */
int dp_tls_handshake(struct dp_tls_session *s, struct dp_error *e) DP_MUST_CHECK;
/* False: a server's peer has not yet said anything that costs memory. */
bool dp_tls_begun(const struct dp_tls_session *s);
/* After a handshake. Bytes; 0: the peer said that this is all; -EAGAIN; or it is over, and e says why. A read's n is > 0. */
ssize_t dp_tls_read(struct dp_tls_session *s, void *data, size_t n, struct dp_error *e) DP_MUST_CHECK;
ssize_t dp_tls_write(struct dp_tls_session *s, const void *data, size_t n, struct dp_error *e) DP_MUST_CHECK;
bool dp_tls_pending(const struct dp_tls_session *s); /* something is read that dp_tls_read has not given yet */
/* After -EAGAIN: POLLIN or POLLOUT. */
short dp_tls_wants(const struct dp_tls_session *s);
/* Of a handshake by datagrams: when dp_tls_handshake is to be called though nothing came, from now on; false: never. */
bool dp_tls_timeout(const struct dp_tls_session *s, uint64_t *ns);
/* Tells the peer that this is all, if it can be told now. */
void dp_tls_close(struct dp_tls_session *s);

#endif
