/* devices/timer/pit.h - the 8254 programmable interval timer and port 0x61.
 *
 * Model: three counters, none of which ticks: each is the tick at which its count was loaded, and reads follow from the VM clock. Counter 0
 * drives IRQ 0, counter 1 (memory refresh) is only readable, counter 2 has its gate and output in port 0x61.
 * OUT of counter 0 as an interrupt: in the periodic modes the line is lowered only just before it rises, so that a slow guest does not lose
 * a request to the second half of a square wave. Edges nearer than 20 us to each other fall together. Source: Intel 8254 datasheet
 * (231164); port 0x61: PIIX3 datasheet 2.5.1.
 * The speaker's cone follows counter 2's OUT while bit 1 of port 0x61 lets it through. Who listens gets samples, each
 * the mean of OUT over its time, of what is not silence. They are made late, whenever something changes or 50 ms went
 * by, so a listener costs nothing while nothing sounds.
 */
#ifndef DP_PIT_H
#define DP_PIT_H

#include "console/wav.h"
#include "devices/device.h"

#define DP_PIT_HZ 1193182

extern const struct dp_device_class dp_pit_class;
enum { DP_PIT_WINDOW_COUNTERS, DP_PIT_WINDOW_SPEAKER }; /* ports 0x40 (4) and 0x61 (1) */

void dp_pit_wire(struct dp_device *pit, struct dp_irq irq0); /* before dp_device_init */
void dp_pit_wire_speaker(struct dp_device *pit, struct dp_sound speaker); /* likewise, or not at all */

#endif
