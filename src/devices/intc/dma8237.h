/* devices/intc/dma8237.h - the two DMA controllers of a PC (8237A) and their page registers.
 *
 * Model: channels 0-3 move bytes within 64 KiB, channels 5-7 words within 128 KiB, both below 16 MiB; channel 4 only joins the two
 * chips, and its mask is not looked at (kernels that are booted without firmware never open it). The bus belongs to whoever asks: a
 * device that has data calls dp_dma_transfer, which moves as many as the channel will, whatever its mode (single, demand or block) at
 * memory speed. A channel that is masked moves nothing; its device is told when that changes. Memory to memory transfers, which no PC
 * uses, are not modelled.
 * Invariants: registers change only after the bytes they count were moved; if the guest reprograms the channel meanwhile, its
 * registers stay as the guest wrote them.
 * Source: Intel 8237A data sheet (1993), "Functional description" and "Register description"; the ports of a PC and the page
 * registers: IBM Personal Computer AT Technical Reference, "System Board: DMA"; 82371FB (PIIX) data sheet, 2.2.
 */
#ifndef DP_DMA8237_H
#define DP_DMA8237_H

#include "devices/device.h"

extern const struct dp_device_class dp_dma_class; /* "dma-8237" */
enum {
    DP_DMA_WINDOW_FIRST,  /* port 0x00, 16 ports: channels 0-3 */
    DP_DMA_WINDOW_SECOND, /* port 0xc0, 32 ports: channels 4-7 */
    DP_DMA_WINDOW_PAGES,  /* port 0x80, 16 ports; 0x80 itself only keeps what is written (POST codes) */
};

/* A device's end of a channel, before the DMA controller's dp_device_init or that of the device: ready is set (true) when the channel
 * may be able to move something again, in the guest's thread that wrote the register. */
void dp_dma_listen(struct dp_device *d, unsigned channel, struct dp_irq ready);
/* DREQ: only shows in the status register. */
void dp_dma_request(struct dp_device *d, unsigned channel, bool level);
/* Moves up to size bytes between buffer and guest memory, in the direction the device has; with no lock held by the caller. Returns how
 * many: 0 while the channel is masked. *terminal_count: the channel's count ran out with the last of these bytes (TC), not to be
 * forgotten then. A channel that is programmed to verify, or for the other direction, counts and moves nothing (a device's buffer gets
 * 0xff). Channels 5-7 move even numbers of bytes. */
uint32_t dp_dma_transfer(struct dp_device *d, unsigned channel, void *buffer, uint32_t size, bool write_to_memory, bool *terminal_count);

#endif
