/* devices/char/parallel.h - a parallel port with a printer that writes to a console (a spool file).
 *
 * Model: the standard port: data, status, control, with the direction bit of the PS/2 (reversed, data reads as ones). The printer is
 * always on line, has paper and takes a character at the rise of STROBE while it is selected (SLCT IN); what the console does not take
 * keeps BUSY on until there is room. When a character was taken, nACK is low for one reading of the status, so that software that polls
 * for the pulse sees it, and the interrupt (enabled by control bit 4) is requested until the status is read; each character makes an edge
 * of its own. INIT drops what the printer has not yet taken. Status bits 2-0 read as zeros: BIOSes hand them on as they are.
 * Source: IBM PC/AT Technical Reference, Parallel Adapter; IEEE 1284-1994, compatibility mode.
 */
#ifndef DP_PARALLEL_H
#define DP_PARALLEL_H

#include "console/console.h"
#include "devices/device.h"

extern const struct dp_device_class dp_parallel_class; /* "parallel" */
enum { DP_PARALLEL_WINDOW };                           /* 3 ports: 0x378 and IRQ 7, or 0x278 and IRQ 5 */

/* Before dp_device_init. The console is not owned, outlives the device and has no other client; NULL: the paper basket. */
void dp_parallel_wire(struct dp_device *d, struct dp_irq irq, struct dp_console *console);

#endif
