/* devices/char/test_device.h - what test kernels want to find: plain registers behind every kind of access, and interrupt lines to pull.
 *
 * Four windows: "port" holds 4 bytes, read and written as any size; "flush" takes writes and does nothing (on other hypervisors it drops a
 * cached translation); "lines" has a port for each of the 24 interrupt lines, whose written bit 0 is the line's level; "memory" is 64 KiB
 * of registers that hold what was written, so that an instruction's access to MMIO can be compared with its access to RAM.
 */
#ifndef DP_TEST_DEVICE_H
#define DP_TEST_DEVICE_H

#include "devices/device.h"

/* customarily 0xe0, 0xe4, 0x2000; 0xff000000 */
enum { DP_TEST_DEVICE_PORT, DP_TEST_DEVICE_FLUSH, DP_TEST_DEVICE_LINES, DP_TEST_DEVICE_MEMORY };
#define DP_TEST_DEVICE_IRQS 24

extern const struct dp_device_class dp_test_device_class; /* "test-device" */
void dp_test_device_wire(struct dp_device *d, unsigned line, struct dp_irq irq);

#endif
