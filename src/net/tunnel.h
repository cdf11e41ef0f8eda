/* net/tunnel.h - a port that leads to another host: frames over TCP, or protected by TLS over TCP or by DTLS over UDP.
 *
 * Model: one end listens, the other one connects, and again when the connection ends or nobody is there: after BACKOFF_MIN_MS, then twice
 * as long each time up to BACKOFF_MAX_MS. Both are one connection's ends: who listens takes one, and others only when that one has ended.
 * Over UDP both ends know each other's address; the one that listens is the server of DTLS. While there is no connection frames are lost,
 * and counted. Frames over TCP have a length in front (stream.h); over UDP each is a record of its own, so what is larger than
 * DP_TLS_DATAGRAM_MAX is lost.
 * Who connects wants the other end's certificate to be for the address that it connects to, or for the name given; who listens takes
 * anyone whom its ca-cert.pem signed, or only the name given.
 * That the peer died is noticed by TCP's keep-alive; over UDP each end says something at least every KEEPALIVE_MS (a record of one byte),
 * and one that was silent for DEAD_MS is gone.
 * Back-pressure: a connection that is full makes the sender wait, and a sender's peer that is full lets the connection wait.
 * Invariants: nothing blocks the loop. Who has not proved himself keeps one of SESSIONS places at most for PATIENCE_MS, the oldest of them
 * makes room; nothing of his reaches the port. What is kept of a peer is bounded. A stream that makes no sense is cut, a datagram that
 * does not is dropped, both counted.
 * Threads: created, destroyed and read in the loop's thread; the peer may send from any.
 * Source: RFC 8446, 6347; tcp(7).
 */
#ifndef DP_NET_TUNNEL_H
#define DP_NET_TUNNEL_H

#include "event/event.h"
#include "net/net.h"

struct dp_net_tunnel;

struct dp_net_tunnel_options {
    struct dp_clock *clock;
    bool udp, listen;
    char local[80], remote[80]; /* "ADDRESS:PORT": udp: both; TCP: local to listen, remote to connect */
    char tls[512];              /* a folder of certificates (tls/tls.h); "": none */
    char psk[512];              /* a file of keys; "": none */
    char tls_name[128];         /* what the peer's certificate must be for; "": see above */
};
struct dp_net_tunnel_stats {
    bool up;
    uint64_t in, out;
    uint64_t lost;                                /* there was no connection, or they were too large for it */
    uint64_t malformed;                           /* datagrams dropped, streams cut */
    uint64_t connections, failed, refused;        /* that came to be; did not; were turned away for one was there, or too many waited */
    char why[sizeof((struct dp_error *)0)->text]; /* the last one's end, or why there is none; "": nothing happened yet */
};

/* Takes a tunnel's text out of a list of options: "tcp=ADDRESS:PORT[,listen][,tls=FOLDER|psk=FILE][,tls-name=NAME]" and
 * "udp=LOCAL/REMOTE,dtls=FOLDER|psk=FILE[,listen][,tls-name=NAME]". 1: it was one; 0: it is something else (udp without protection:
 * uplink.h). */
int dp_net_tunnel_parse(char *text, struct dp_net_tunnel_options *o, struct dp_error *e) DP_MUST_CHECK;
int dp_net_tunnel_create(struct dp_loop *l, const struct dp_net_tunnel_options *o, struct dp_net_tunnel **out,
                         struct dp_error *e) DP_MUST_CHECK;
void dp_net_tunnel_destroy(struct dp_net_tunnel *t); /* disconnects; NULL is fine */
struct dp_net_port *dp_net_tunnel_port(struct dp_net_tunnel *t);
void dp_net_tunnel_stats(struct dp_net_tunnel *t, struct dp_net_tunnel_stats *out);

#endif
