/* devices/intc/coprocessor.h - how a PC tells of x87 exceptions while CR0.NE is 0: FERR# sets a
 * latch that is interrupt 13, port 0xf0 clears it.
 *
 * Model: one latch. The processor's FERR# (bus.ferr of the engines) sets it; any write to port 0xf0 clears it. IGNNE#, which on
 * a board lets a handler use the x87 between that write and FNCLEX, is not followed: engines drop an exception that no
 * interrupt can tell of, which is what it is for.
 * The line is an ISA one: a fall is driven even if the level rises again soon (edge_line.h). Port 0xf1
 * (reset of a 80287) is ignored; both read as all ones.
 * Source: Intel 82371AB (PIIX4) datasheet 4.3.4 (coprocessor error register); Intel SDM vol. 1 D.2 (FERR#, IGNNE#).
 */
#ifndef DP_COPROCESSOR_H
#define DP_COPROCESSOR_H

#include "devices/device.h"

extern const struct dp_device_class dp_coprocessor_class; /* "coprocessor" */
enum { DP_COPROCESSOR_WINDOW };                           /* 2 ports: 0xf0, 0xf1 */

void dp_coprocessor_wire(struct dp_device *d, struct dp_irq irq13); /* before dp_device_init */
void dp_coprocessor_ferr(struct dp_device *d);                      /* any thread, no lock held */

#endif
