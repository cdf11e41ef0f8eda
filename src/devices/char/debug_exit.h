/* devices/char/debug_exit.h - two ways for a guest to give an exit status.
 *
 * isa-debug-exit: a write of v (1 to 4 bytes) ends the VM at once with status (v << 1) | 1, as in QEMU; test kernels know it.
 * exit-status: a 16-bit latch that only remembers; when the guest powers off, the machine takes its low 8 bits for the status.
 */
#ifndef DP_DEBUG_EXIT_H
#define DP_DEBUG_EXIT_H

#include "devices/device.h"

extern const struct dp_device_class dp_debug_exit_class;  /* "isa-debug-exit", no state */
enum { DP_DEBUG_EXIT_WINDOW };                            /* 4 ports, customarily at 0xf4 */

extern const struct dp_device_class dp_exit_status_class; /* "exit-status" */
enum { DP_EXIT_STATUS_WINDOW };                           /* 2 ports, customarily at 0x520 */
uint16_t dp_exit_status_get(struct dp_device *d);         /* 0 after reset */

#endif
