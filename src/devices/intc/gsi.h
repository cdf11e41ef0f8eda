/* devices/intc/gsi.h - where an interrupt line of the PC goes: GSIs 0-15 to the 8259 pair and the I/O APIC, 16 and up to the I/O APIC
 * alone.
 *
 * Model: ISA interrupt 0 (the timer) is pin 2 of the I/O APIC, which the MADT tells by a source override; all others are pin n. ISA
 * interrupt 2 is the cascade and leads nowhere. Stateless; lines shared by several devices are joined before they come here.
 */
#ifndef DP_GSI_H
#define DP_GSI_H

#include "devices/device.h"

#define DP_GSI_COUNT 24
#define DP_GSI_TIMER_PIN 2
#define DP_GSI_SCI 9

struct dp_gsi_router {
    struct dp_device *ioapic, *pic; /* pic may be NULL */
};
/* As dp_irq.set with the router as opaque; n: ISA interrupt or GSI. */
void dp_gsi_input(void *router, unsigned n, bool level);
static inline struct dp_irq dp_gsi_irq(struct dp_gsi_router *r, unsigned n) { return (struct dp_irq){dp_gsi_input, r, n}; }

#endif
