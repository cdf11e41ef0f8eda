/* devices/timer/rtc.h - MC146818 real-time clock and CMOS memory.
 *
 * Model: the time is the clock's wall base plus VM time plus what the guest set; nothing ticks. Flags (update, alarm, periodic) are found
 * when somebody looks, and a host timer runs only for interrupts that are enabled. The update cycle ends exactly at the second: UIP is set
 * in the 2228 us before, in which the registers still read the old second. A device reset is a power cycle with a fresh battery: host time,
 * machine's NVRAM. The NMI mask (port 0x70 bit 7) means nothing. Source: Motorola MC146818 datasheet; century byte at 0x32 as in ACPI's
 * FADT.
 */
#ifndef DP_RTC_H
#define DP_RTC_H

#include "devices/device.h"

#define DP_RTC_CENTURY 0x32

extern const struct dp_device_class dp_rtc_class;
enum { DP_RTC_WINDOW }; /* ports 0x70 (2) */

void dp_rtc_wire(struct dp_device *rtc, struct dp_irq irq8); /* before dp_device_init */
/* NVRAM after reset; before dp_device_init. index 0x0e-0x7f but the century. */
void dp_rtc_set_nvram(struct dp_device *rtc, uint8_t index, uint8_t value);
/* The bytes that tell firmware the sizes of memory: below 4 GiB (the first megabyte included) and above. */
void dp_rtc_set_memory(struct dp_device *rtc, uint64_t below_4g, uint64_t above_4g);

#endif
