/* display/vnc.h - shows a display source to VNC clients and gives a sink what they type and point at.
 *
 * Model: RFB 3.8 (3.3 and 3.7 are understood) on a unix socket or on TCP, up to DP_VNC_CLIENTS_MAX clients, all at the same screen. While a
 * client waits for news the source is asked 30 times a second, if its generation moved; the new picture is compared with the last one tile
 * by tile, and each changed tile gets the next serial number. A client keeps the serial it has seen, so what it is owed needs no lists.
 * Encodings: raw, ZRLE. A screen that changes its size is told to clients that understand (Extended)DesktopSize; others see it cut off
 * or with a black margin. A client that asks for a size (SetDesktopSize) passes its wish on to the source. Keys come as keysyms (a US
 * keyboard is assumed, shift is added or taken away as a character needs it), or as key codes where the client has QEMU's extension.
 * What a client holds down is let go when it leaves.
 * Access: a unix socket is open to its user alone. TCP without a password only listens on loopback addresses. The password is VNC
 * authentication's (eight characters count), and nothing is encrypted: across a network use an ssh tunnel to the unix socket.
 * Invariants: clients are hostile. A message is used when it is whole; of a client that does not read, at most one frame is kept;
 * rectangles never come from it. All in the loop's thread. No threads, no globals. Why not a library: docs/decisions/0005-vnc.md.
 * Source: RFC 6143; the rfbproto community document (pseudo-encodings, SetDesktopSize, QEMU extended key event).
 */
#ifndef DP_DISPLAY_VNC_H
#define DP_DISPLAY_VNC_H

#include "display/display.h"
#include "display/input.h"
#include "event/event.h"

struct dp_vnc;
enum { DP_VNC_CLIENTS_MAX = 8 };

struct dp_vnc_options {  /* strings are copied */
    const char *path;     /* of a unix socket; or */
    const char *address;  /* "HOST:PORT", "[IPV6]:PORT"; port 0: any. Both NULL: nobody can connect (dp_vnc_adopt) */
    const char *password; /* NULL: none */
    const char *name;     /* the desktop's; NULL: "doppel" */
};

/* The source and the sink are copied; what they point to outlives the server. */
int dp_vnc_open(struct dp_loop *loop, const struct dp_vnc_options *o, const struct dp_display_source *source,
                const struct dp_input_sink *sink, struct dp_vnc **out, struct dp_error *e) DP_MUST_CHECK;
void dp_vnc_close(struct dp_vnc *v); /* NULL is fine; the unix socket is removed */
const char *dp_vnc_address(const struct dp_vnc *v); /* where it listens: a path, or "127.0.0.1:5900" */
/* Serves a connected socket, which becomes the server's in any case. */
int dp_vnc_adopt(struct dp_vnc *v, int fd, struct dp_error *e) DP_MUST_CHECK;
unsigned dp_vnc_clients(const struct dp_vnc *v); /* connected now */

#endif
