/* devices/char/uart.h - the 16550A serial port.
 *
 * Model: eight byte registers, two 16-byte FIFOs, one interrupt line. Characters take no time on the wire: what is written to
 * THR goes to the console at once, and if the console is full it stays in the FIFO (THRE clear) until there is room. Input waits
 * in the console until a driver listens and while the receive FIFO is full, so nothing overruns except breaks and loopback. Only
 * the receive timeout (4 characters) follows the divisor. The line is gated by OUT2 as on PCs, which disconnects it in loopback
 * mode too. Word length and parity do not alter data.
 * Source: National Semiconductor PC16550D data sheet (1995), section 8.
 */
#ifndef DP_UART_H
#define DP_UART_H

#include "console/console.h"
#include "devices/device.h"

extern const struct dp_device_class dp_uart_class; /* "uart-16550a" */
enum { DP_UART_WINDOW };                           /* 8 ports */

/* Before dp_device_init. console is not owned and outlives the device; NULL: output vanishes, no input. */
void dp_uart_wire(struct dp_device *d, struct dp_irq irq, struct dp_console *console);

#endif
