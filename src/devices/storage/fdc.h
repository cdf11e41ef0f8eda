/* devices/storage/fdc.h - the floppy disk controller of a PC (Intel 82077AA, AT mode) with two drives.
 *
 * Model: commands are collected byte by byte, executed, and answered byte by byte. Execution starts a little after the last byte of the
 * command (VM time), works sector by sector on the image, always asynchronously, and moves data by DMA channel 2 or, without DMA,
 * through the FIFO port. Seeks take a few microseconds a step, whatever SPECIFY says; motors need no time and are not looked at.
 * Disks rotate only in READ ID, which meets one sector after the other.
 * The rate must fit the medium (that is how drivers tell formats apart), else no address mark is found; so it is without a medium, where
 * a real drive would never finish. READ and WRITE go to the cylinder that the command names, wherever the head is. A 40-track disk in a
 * 1.2M drive is two steps a track.
 * After reset of the machine the controller runs with interrupts and DMA on: SeaBIOS takes it for the firmware of a board, which starts
 * it, and would wait for an interrupt that DOR gates.
 * Invariants: a sector is moved whole; what DMA did not give of the last one is written as zeros. One request at most is in the block
 * layer; pause and a change of medium wait for it, a reset forgets what it brings.
 * Source: Intel 82077AA data sheet (1994), sections 2-6; the ports of a PC and disk change: IBM Personal Computer AT Technical
 * Reference, "Diskette drive adapter".
 */
#ifndef DP_FDC_H
#define DP_FDC_H

#include "block/block.h"
#include "devices/device.h"

extern const struct dp_device_class dp_fdc_class; /* "fdc"; properties drive0 and drive1: auto, none, 360K, 1.2M, 720K, 1.44M, 2.88M */
enum {
    DP_FDC_WINDOW,     /* port 0x3f0, 6 ports */
    DP_FDC_WINDOW_DIR, /* port 0x3f7, 1 port; 0x3f6 is the IDE controller's */
};
enum { DP_FDC_DRIVES = 2 };

/* Before dp_device_init. irq is ISA line 6. dma is an initialised or uninitialised dp_dma_class device that outlives this one; NULL:
 * no DMA. */
void dp_fdc_wire(struct dp_device *d, struct dp_irq irq, struct dp_device *dma, unsigned channel);
/* Before dp_device_init: the medium of drive n, NULL for none. Not owned, outlives the device or is changed before it goes. The property
 * "auto" makes the drive one that the medium fits, and no drive where there is none. */
void dp_fdc_attach(struct dp_device *d, unsigned n, struct dp_block *medium);
/* Any time, from one thread at a time but never a block callback: another medium, or NULL to eject. The old one is not used any more
 * when this returns 0. -EINVAL: there is no such drive, or it does not take disks of this size; nothing has changed then. */
int dp_fdc_change_medium(struct dp_device *d, unsigned n, struct dp_block *medium, struct dp_error *e) DP_MUST_CHECK;
/* As CMOS byte 0x10 has it: 0 none, 1 360K, 2 1.2M, 3 720K, 4 1.44M, 5 2.88M. After dp_device_init. */
unsigned dp_fdc_drive_type(struct dp_device *d, unsigned n);

/* ---- fdc_medium.c: sizes of images, private to the controller ---- */

enum dp_fdc_type { DP_FDC_NONE, DP_FDC_360K, DP_FDC_1200K, DP_FDC_720K, DP_FDC_1440K, DP_FDC_2880K };
struct dp_fdc_geometry {
    uint8_t tracks, heads, sectors;
    uint8_t rate;        /* as in DSR: 0 500, 1 300, 2 250, 3 1000 kbit/s */
    uint8_t steps;       /* of the drive to a track: 1 or 2 */
    uint32_t drives;     /* bit per enum dp_fdc_type that takes it */
    enum dp_fdc_type drive; /* the usual one */
};
/* The geometry of an image of that many bytes in a drive of a type (DP_FDC_NONE: the usual one). */
int dp_fdc_geometry(uint64_t size, enum dp_fdc_type drive, struct dp_fdc_geometry *g, struct dp_error *e) DP_MUST_CHECK;

#endif
