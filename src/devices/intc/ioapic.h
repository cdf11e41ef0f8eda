/* devices/intc/ioapic.h - the I/O APIC: 24 pins, redirection table, EOI register.
 *
 * Model: a pin's input says "asserted"; the polarity bit of its entry is kept for the guest but inverts nothing, because dp_irq has no
 * electrical level. Edge pins send when the input rises; level pins send while asserted, unmasked and not in service (remote IRR), and
 * again after the EOI. The EOI comes from the processors' broadcast or from the EOI register (version 0x20).
 * Source: Intel 82093AA datasheet (290566), ICH datasheets for the EOI register.
 */
#ifndef DP_IOAPIC_H
#define DP_IOAPIC_H

#include "devices/intc/lapic.h"

#define DP_IOAPIC_PINS 24
#define DP_IOAPIC_DEFAULT_BASE 0xfec00000u

extern const struct dp_device_class dp_ioapic_class;
enum { DP_IOAPIC_WINDOW }; /* 4 KiB at DP_IOAPIC_DEFAULT_BASE */

/* Before dp_device_init; takes the bus's EOI callback. id: 0-15, what the MADT says. */
void dp_ioapic_wire(struct dp_device *ioapic, struct dp_apic_bus *bus, uint8_t id);
/* Input, as dp_irq.set; n: pin. Any thread. */
void dp_ioapic_input(void *ioapic, unsigned n, bool level);

#endif
