/* devices/display/vga.h - the VGA adapter: a standard VGA with the Bochs display interface (DISPI), on PCI.
 *
 * Model: 16 MiB of video memory, real RAM that a guest maps by BAR 0 (the linear frame buffer). A VGA's four planes lie in it
 * interleaved: byte 4 * n + p is byte n of plane p. Addresses are "packed": what chain-4 calls address a is byte a, and what odd/even
 * calls address a is byte a / 2 of plane a & 1, so each step of the CRTC's address counter is one group of four bytes in every mode, and
 * the legacy window in chain-4 shows the same bytes in the same order as the frame buffer.
 * With DISPI enabled the picture comes from its registers alone; VGA registers then matter for the palette and for blanking.
 * Pictures have the dots that go to the monitor: modes with doubled dots or lines (40 columns, 320 x 200) are 640 x 400.
 * The cursor and blinking text are shown steadily. Lines are drawn as the registers are at that moment, the whole frame at once.
 * Source: IBM PS/2 Hardware Interface Technical Reference, Video Subsystems (1992), section 2 (VGA); Bochs VBE display API
 * (vbe_display_api.txt); QEMU docs/specs/standard-vga.rst (PCI ids, BAR 2).
 * Invariants: nothing a guest or a loaded state puts into registers makes an access outside video memory: addresses are masked where
 * they are used.
 * Video memory is RAM, not device state: who saves a machine saves dp_vga_ram() as it does the main memory. A reset leaves it as it is.
 */
#ifndef DP_VGA_H
#define DP_VGA_H

#include "devices/device.h"
#include "devices/pci/pci.h"
#include "display/display.h"

#define DP_VGA_MEMORY_SIZE (16u << 20)

extern const struct dp_device_class dp_vga_class; /* "vga"; properties xres, yres */
enum {
    DP_VGA_WINDOW_MEMORY,    /* 0xa0000, 128 KiB of memory */
    DP_VGA_WINDOW_MONO,      /* ports 0x3b0-0x3bb (0x3bc is a printer's) */
    DP_VGA_WINDOW_PORTS,     /* ports 0x3c0-0x3df */
    DP_VGA_WINDOW_DISPI,     /* ports 0x1ce-0x1d1 */
};
enum { DP_VGA_MEMORY_BASE = 0xa0000, DP_VGA_PORT_MONO = 0x3b0, DP_VGA_PORT_VGA = 0x3c0, DP_VGA_PORT_DISPI = 0x1ce };

/* Before dp_device_init. The VGA BIOS that the expansion ROM holds: copied at init; NULL: no ROM. At most 256 KiB. */
void dp_vga_wire(struct dp_device *d, const void *rom, size_t rom_size);
/* To be plugged into a slot after dp_device_init. No interrupts. */
struct dp_pci_function *dp_vga_function(struct dp_device *d);
struct dp_ram *dp_vga_ram(struct dp_device *d);
struct dp_display_source dp_vga_source(struct dp_device *d);

#endif
