/* devices/char/debugcon.h - the debug console port of Bochs and QEMU, where SeaBIOS and OVMF write their log.
 *
 * Model: a byte written goes to a console at once, or, without one, to a trace category line by line (control characters but tab left out;
 * a line longer than 200 characters is broken). Reading gives 0xe9, by which firmware finds the port. There is no flow control: what a
 * full console does not take is lost.
 * Source: QEMU's isa-debugcon as SeaBIOS (src/fw/paravirt.c, qemu_debug_preinit) and OVMF (DebugLibIoPort) use it.
 */
#ifndef DP_DEBUGCON_H
#define DP_DEBUGCON_H

#include "console/console.h"
#include "devices/device.h"

extern const struct dp_device_class dp_debugcon_class; /* "debugcon" */
enum { DP_DEBUGCON_WINDOW };                           /* 1 port: 0x402, or 0xe9 for Bochs's */
#define DP_DEBUGCON_PORT 0x402

/* Before dp_device_init. The console is not owned and outlives the device; NULL: lines go to the trace category. */
void dp_debugcon_wire(struct dp_device *d, struct dp_console *console, enum dp_trace_category category);

#endif
