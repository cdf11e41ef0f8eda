/* cli/disk.h - what follows --disk, --cdrom, --floppy and --usb storage=: "FILE[,OPTION]..." or "volume=[POOL/]NAME[,OPTION]...". */
#ifndef DP_CLI_DISK_H
#define DP_CLI_DISK_H

#include "vm/vm.h"

/* option: the option's name, for messages. bus: where it is when the text does not say. d->path is the caller's to free, and what other
 * members point to goes with it. */
int cli_disk_parse(const char *option, const char *text, enum dp_vm_bus bus, struct dp_vm_disk *d, struct dp_error *e) DP_MUST_CHECK;
/* The VM has the disk's lock now. Is the volume that text named still in that file, and may it be written? (volume/volume.h) */
int cli_disk_recheck(const char *text, const struct dp_vm_disk *d, struct dp_error *e) DP_MUST_CHECK;

#endif
