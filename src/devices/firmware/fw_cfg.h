/* devices/firmware/fw_cfg.h - how firmware learns of its machine: QEMU's firmware configuration device.
 *
 * Model: items of bytes, each under a 16-bit key. Keys from 0x20 are files, which the directory (key 0x19) names; they are numbered in the
 * order of their names, anew with each that is added, so all are added before processors run. The guest selects a key and reads bytes in
 * order through the data port, or has pieces copied by the DMA interface, which is done when the port access returns. Past its end an item
 * reads as zeros. DMA reaches RAM only: a guest that points it elsewhere gets the error bit. Bit 14 of a key (once: write) is ignored.
 * Items are immutable, except writable files, which the guest may overwrite by DMA in whole writes within their size. Their bytes are
 * state: saved, and as they were added again after a reset. What a loaded state selects is an item of the machine it is loaded into.
 * The device itself has the signature ("QEMU", key 0), the features (key 1: traditional and DMA) and the directory; all others are its
 * owner's.
 * Source: QEMU's docs/specs/fw_cfg.rst; keys below 0x20 as SeaBIOS and OVMF read them.
 */
#ifndef DP_FW_CFG_H
#define DP_FW_CFG_H

#include "devices/device.h"

extern const struct dp_device_class dp_fw_cfg_class;    /* "fw-cfg" */
enum { DP_FW_CFG_WINDOW, DP_FW_CFG_WINDOW_DMA };        /* ports 0x510 (2: selector, data) and 0x514 (8: DMA address) */
#define DP_FW_CFG_PORT 0x510
#define DP_FW_CFG_PORT_DMA 0x514

enum { /* keys that owners use; numbers are little-endian */
    DP_FW_CFG_SIGNATURE = 0x00, DP_FW_CFG_ID = 0x01, DP_FW_CFG_UUID = 0x02, DP_FW_CFG_RAM_SIZE = 0x03 /* u64, below 4 GiB */,
    DP_FW_CFG_NOGRAPHIC = 0x04 /* u16 */, DP_FW_CFG_NB_CPUS = 0x05 /* u16 */, DP_FW_CFG_KERNEL_ADDR = 0x07, DP_FW_CFG_KERNEL_SIZE = 0x08,
    DP_FW_CFG_INITRD_ADDR = 0x0a, DP_FW_CFG_INITRD_SIZE = 0x0b, DP_FW_CFG_NUMA = 0x0d, DP_FW_CFG_BOOT_MENU = 0x0e /* u16 */,
    DP_FW_CFG_MAX_CPUS = 0x0f /* u16 */, DP_FW_CFG_KERNEL_DATA = 0x11, DP_FW_CFG_INITRD_DATA = 0x12, DP_FW_CFG_CMDLINE_ADDR = 0x13,
    DP_FW_CFG_CMDLINE_SIZE = 0x14, DP_FW_CFG_CMDLINE_DATA = 0x15, DP_FW_CFG_SETUP_ADDR = 0x16, DP_FW_CFG_SETUP_SIZE = 0x17,
    DP_FW_CFG_SETUP_DATA = 0x18, DP_FW_CFG_FILE_DIR = 0x19, DP_FW_CFG_FILE_FIRST = 0x20,
    DP_FW_CFG_IRQ0_OVERRIDE = 0x8002 /* u32 */,
};
#define DP_FW_CFG_NAME_MAX 55           /* characters */
#define DP_FW_CFG_FILES_MAX 256
#define DP_FW_CFG_ITEM_MAX (1u << 30)   /* bytes of an item */
#define DP_FW_CFG_WRITABLE_MAX 4096     /* bytes of all writable files together */

/* All copy (NULL: zeros); an item or file added again is replaced. After dp_device_init; before processors run, or while all are stopped
 * (at a reset). -EINVAL: a key or name that cannot be; -E2BIG: too large; -ENOSPC: too many; -ENOMEM. */
int dp_fw_cfg_add_bytes(struct dp_device *d, uint16_t key, const void *data, size_t size, struct dp_error *e) DP_MUST_CHECK;
/* A little-endian number of 1, 2, 4 or 8 bytes. */
int dp_fw_cfg_add_number(struct dp_device *d, uint16_t key, uint64_t value, unsigned size, struct dp_error *e) DP_MUST_CHECK;
int dp_fw_cfg_add_file(struct dp_device *d, const char *name, const void *data, size_t size, struct dp_error *e) DP_MUST_CHECK;
int dp_fw_cfg_add_writable(struct dp_device *d, const char *name, const void *data, size_t size, struct dp_error *e) DP_MUST_CHECK;
/* A file as the guest would read it now, NULL when there is none. Valid until it is added again; a
 * writable file's bytes are the guest's. */
const void *dp_fw_cfg_file(struct dp_device *d, const char *name, size_t *size);

#endif
