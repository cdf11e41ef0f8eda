/* machine/pc_timers.h - ISA interrupts 0 and 8 have two masters: the PIT and the RTC, or, after LEG_RT_CNF, the HPET.
 *
 * Model: a switch between the devices and the lines. What the PIT and the RTC drive is remembered; it reaches the line while the HPET does not have it.
 * Stateless for saves: the HPET tells again after a load, as do the others.
 * Source: IA-PC HPET Specification 1.0a, 2.3.5 (LEG_RT_CNF).
 */
#ifndef DP_MACHINE_PC_TIMERS_H
#define DP_MACHINE_PC_TIMERS_H

#include <stdatomic.h>

#include "devices/device.h"

struct pc_timers {
    struct dp_irq line[2];      /* ISA interrupts 0 and 8 */
    atomic_bool level[2];       /* what the PIT and the RTC drive */
    atomic_bool legacy;         /* the HPET has both */
};

void pc_timers_init(struct pc_timers *t, struct dp_irq irq0, struct dp_irq irq8);
/* The PIT's (0) and the RTC's (1) way to their interrupt. */
struct dp_irq pc_timers_input(struct pc_timers *t, unsigned n);
/* LEG_RT_CNF, for struct dp_hpet_wires. */
struct dp_irq pc_timers_legacy(struct pc_timers *t);

#endif
