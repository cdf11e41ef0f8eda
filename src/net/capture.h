/* net/capture.h - frames to a pcapng file or pipe, for Wireshark.
 *
 * Model: a capture is a writer: frames become blocks in a bounded buffer, which a thread of its own writes out as soon as it can, so a slow
 * disk or a reader that stands still never holds up a sender; what does not fit is not recorded, and the next frame that is says how many
 * were missed (epb_dropcount). A capture is a port that takes all (what a switch's mirror port is connected to); a tap is a pair of ports
 * put into a cable, that passes everything on - frames, back-pressure, readiness, carrier, offload work - and records what went.
 * Offloaded checksums are filled in in the record; segments to be cut are recorded whole.
 * Times are the clock's: its wall base plus its now, so that a VM's captures fit its own logs.
 * Invariants: blocks are whole: the file can be read at every moment up to the last whole block; a tap changes no frame, and what it tells
 * it accepts is what the far end accepts (who was told of more a moment ago has the work done here, and may lose a piece if the far end is
 * full). Guests cannot make the host wait or grow.
 * Threads: any may record. Create and destroy while the connected owners are quiet.
 * Source: draft-ietf-opsawg-pcapng 3.5, 4.1 (SHB), 4.2 (IDB), 4.3 (EPB).
 */
#ifndef DP_NET_CAPTURE_H
#define DP_NET_CAPTURE_H

#include "event/event.h"
#include "net/net.h"

struct dp_capture;
struct dp_capture_tap;

struct dp_capture_options {
    const char *interface; /* its name in the file; NULL: none */
    const char *comment;   /* of the file; NULL: none */
    uint32_t snap;         /* bytes of a frame that are recorded; 0: all */
    uint64_t limit;        /* bytes of the file; nothing is recorded behind it; 0: no limit */
};
enum dp_capture_direction { DP_CAPTURE_UNKNOWN, DP_CAPTURE_INBOUND, DP_CAPTURE_OUTBOUND };
struct dp_capture_stats {
    uint64_t frames, missed, bytes /* of the file, written or waiting */;
    int error; /* negative errno: writing failed, nothing more is recorded; 0: fine */
};

/* Writes to fd, which is closed with the capture, but not when this fails. */
int dp_capture_create(struct dp_clock *c, int fd, const struct dp_capture_options *o, struct dp_capture **out,
                      struct dp_error *e) DP_MUST_CHECK;
/* Waits until all is written; on a pipe that nobody reads no longer than a second. NULL is fine. */
void dp_capture_destroy(struct dp_capture *c);
struct dp_net_port *dp_capture_port(struct dp_capture *c);
/* Records one frame; the comment may be NULL. */
void dp_capture_record(struct dp_capture *c, const struct dp_net_frame *f, enum dp_capture_direction d, const char *comment);
void dp_capture_stats(struct dp_capture *c, struct dp_capture_stats *out);

/* A tap's port 0 goes to the card, whose view the directions are, port 1 to the rest of the world. It is destroyed before its capture. */
int dp_capture_tap_create(struct dp_capture *c, struct dp_capture_tap **out, struct dp_error *e) DP_MUST_CHECK;
void dp_capture_tap_destroy(struct dp_capture_tap *t); /* disconnects; NULL is fine */
struct dp_net_port *dp_capture_tap_port(struct dp_capture_tap *t, unsigned side);

#endif
