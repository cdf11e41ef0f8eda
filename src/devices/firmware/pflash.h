/* devices/firmware/pflash.h - a NOR flash chip with Intel's command set, as firmware sees it: its code, or its variable store.
 *
 * Model: one chip, 8 bits wide, of 4 KiB blocks (CFI). In array mode reads come from RAM mapped directly, so code executes from it at full
 * speed; a command, which is a write, goes to the device, and while the chip answers with status, identity or CFI data, a register window
 * hides the RAM.
 * Operations take no time. They differ from silicon where QEMU's chip does, on which OVMF relies: cleared status reads as 0 (READY comes
 * with the next operation) and clearing it returns to array mode; programming sets bits too. After an erase or program the chip stays in
 * status mode until 0xff. Erasing needs its confirmation. Wider accesses are those of their bytes, in order.
 * The contents are kept like a disk's, not in the device's state: with a path in the file, where each operation writes its bytes before it
 * is visible and status READY; what the host cannot write fails with a status bit and, the first time, a trace line. A read-only chip
 * answers all commands, and fails erasing and programming as if locked. A reset leaves the contents alone.
 * Source: JEDEC JESD68.01 (CFI); Intel StrataFlash 28F128J3 data sheet (commands, status); QEMU's cfi.pflash01 and OVMF's
 * QemuFlashFvbServicesRuntimeDxe for what differs.
 */
#ifndef DP_PFLASH_H
#define DP_PFLASH_H

#include "devices/device.h"

extern const struct dp_device_class dp_pflash_class; /* "pflash"; no windows: see dp_pflash_map */
#define DP_PFLASH_BLOCK 4096
#define DP_PFLASH_MAX (64u << 20)

struct dp_pflash_options {
    const char *path;   /* the contents; NULL: a copy of data, of which changes are lost */
    const void *data;
    uint64_t size;      /* of data; with a path the file's size counts */
    bool readonly;      /* the file is opened for reading only and locked for sharing */
};
/* Before dp_device_init, which copies what it needs; the path must last until fini. */
void dp_pflash_wire(struct dp_device *d, const struct dp_pflash_options *o);
/* After dp_device_init: bytes, a multiple of DP_PFLASH_BLOCK. */
uint64_t dp_pflash_size(const struct dp_device *d);
/* Once, after dp_device_init: at base, a multiple of the page size. */
int dp_pflash_map(struct dp_device *d, uint64_t base, struct dp_error *e) DP_MUST_CHECK;
/* The contents, to map its end read-only below 1 MiB, too. Lives as long as the device. */
struct dp_ram *dp_pflash_ram(struct dp_device *d);

#endif
