/* devices/timer/hpet.h - the high precision event timer: a 64-bit counter of 100 MHz and three comparators.
 *
 * Model: nothing ticks: the counter is its value at one VM time, and reads follow from the clock. A comparator matches when the counter
 * has its value (in 32-bit mode: its low half has), also the one written last while it is there; a value written too late matches after
 * the counter wrapped, as in hardware. Matches are found when somebody looks; a host timer runs for those that interrupt. A periodic
 * comparator then moves on by its period, the value last written to it; VAL_SET lets one write set the comparator itself. Matches missed
 * meanwhile (a slow host, or periods below 20 us, nearer than which a comparator does not interrupt by itself) fall together.
 * Interrupts: level (status bit until it is cleared), edge (the line falls just before it rises, and rests high, as the PIT's does), or a
 * message (FSB delivery, property msi). ENABLE_CNF = 0 holds the counter and all interrupts. LEG_RT sends comparators 0 and 1 to ISA
 * interrupts 0 and 8. A route that is not wired is not accepted: the field keeps its value.
 * Source: IA-PC HPET Specification 1.0a, chapter 2; Linux arch/x86/kernel/hpet.c for how it is set up.
 */
#ifndef DP_HPET_H
#define DP_HPET_H

#include "devices/device.h"

#define DP_HPET_BASE 0xfed00000ull
#define DP_HPET_PERIOD_FS 10000000u /* of the counter */
#define DP_HPET_BLOCK_ID 0x8086a201u /* low half of the capabilities; ACPI's HPET table repeats it */
enum { DP_HPET_PINS = 24, DP_HPET_TIMERS = 3 };

extern const struct dp_device_class dp_hpet_class; /* "hpet"; property msi (bool, off): FSB delivery through env->msi */
enum { DP_HPET_WINDOW };                           /* memory, 1 KiB at DP_HPET_BASE */

struct dp_hpet_wires {
    struct dp_irq pin[DP_HPET_PINS]; /* inputs of the I/O APIC; those with a function are offered as routes */
    struct dp_irq irq0, irq8;        /* driven only while legacy is on; low when that ends */
    /* On: the PIT and the RTC no longer reach interrupts 0 and 8, irq0 and irq8 do. Called before the lines it opens rise. Off after init
     * and reset, told only when it changes (after a reset: by resume) and after a load. */
    struct dp_irq legacy;
};
void dp_hpet_wire(struct dp_device *hpet, const struct dp_hpet_wires *w); /* before dp_device_init; copied */

#endif
