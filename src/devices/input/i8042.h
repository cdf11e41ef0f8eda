/* devices/input/i8042.h - the keyboard controller of a PC (8042) with a PS/2 keyboard and mouse, and port 0x92.
 *
 * Model: one output buffer for what the guest reads, whoever it comes from: the controller, the keyboard (OBF, IRQ 1) or the mouse
 * (OBF and AUXDATA, IRQ 12). The controller answers at once, in place of a device's byte that nobody has read (that one comes again
 * afterwards): a driver that asks for the command byte gets the command byte. Bytes of devices take BYTE_NS (i8042.c) of VM time each
 * after the buffer was read, because handlers of DOS read one twice. Input is taken at once, so IBF is never seen. A20 is one latch,
 * whether written through the output port or port 0x92. After reset the command byte is as firmware leaves it (both interrupts,
 * translated scan codes), since kernels are also booted without firmware.
 * Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller"; port 0x92: the same, "System
 * Control Port A"; pulsing the output port: Intel UPI-41AH/42AH data sheet as used by IBM.
 */
#ifndef DP_I8042_H
#define DP_I8042_H

#include "devices/device.h"
#include "display/input.h"

extern const struct dp_device_class dp_i8042_class; /* "i8042" */
enum { DP_I8042_WINDOW_DATA, DP_I8042_WINDOW_COMMAND, DP_I8042_WINDOW_PORT92 }; /* one port each: 0x60, 0x64, 0x92 */

/* Before dp_device_init. keyboard and mouse are ISA lines (1 and 12). a20 follows the gate: its level says whether address bit 20 goes
 * through, and is set within the guest's write and on resume, true after reset; any of them may be unset. */
void dp_i8042_wire(struct dp_device *d, struct dp_irq keyboard, struct dp_irq mouse, struct dp_irq a20);
/* Where keys and movements go in. Lives as long as the device; any thread. Movements right and down are positive, as is the wheel away
 * from the user. */
struct dp_input_sink dp_i8042_sink(struct dp_device *d);

#endif
