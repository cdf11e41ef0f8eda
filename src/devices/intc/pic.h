/* devices/intc/pic.h - the PC's pair of 8259A interrupt controllers, with the edge/level registers of PCI chipsets.
 *
 * Model: 16 inputs, the second chip on input 2 of the first. One output, INTR, which the machine leads to LINT0 of the first local APIC. An
 * edge input must stay asserted until the acknowledge, or the request is withdrawn and the acknowledge yields IRQ 7 (15), as in hardware.
 * ICW1's LTIM bit means nothing: ELCR decides, as in Intel's chipsets.
 * Source: Intel 8259A datasheet (231468), 82371SB (PIIX3) datasheet 4.2 for ELCR.
 */
#ifndef DP_PIC_H
#define DP_PIC_H

#include "devices/device.h"

extern const struct dp_device_class dp_pic_class;
enum { DP_PIC_WINDOW_MASTER, DP_PIC_WINDOW_SLAVE, DP_PIC_WINDOW_ELCR }; /* ports 0x20, 0xa0, 0x4d0 */

void dp_pic_wire(struct dp_device *pic, struct dp_irq intr); /* before dp_device_init */
/* Input, as dp_irq.set; n: IRQ 0-15 but 2. Any thread. */
void dp_pic_input(void *pic, unsigned n, bool level);
/* The processor's INTA cycles: the vector, that of IRQ 7 or 15 when the request is gone. Lowers INTR unless more is pending. */
int dp_pic_ack(void *pic);

#endif
