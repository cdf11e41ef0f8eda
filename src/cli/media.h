/* cli/media.h - what a file is that the user wants to boot, and where the firmware files are. */
#ifndef DP_CLI_MEDIA_H
#define DP_CLI_MEDIA_H

#include "base/base.h"

enum cli_media { CLI_MEDIA_DISK, CLI_MEDIA_CDROM, CLI_MEDIA_FLOPPY };
/* A file that nobody may write to, or that is called .iso, is a CD if it holds an ISO 9660 file system (hybrid ones, too). What a guest can
 * write to is never told by what it wrote: a size that only floppies have is a floppy, all else is a disk. */
int cli_media_kind(const char *path, enum cli_media *kind, struct dp_error *e) DP_MUST_CHECK;

/* The file of a firmware: "bios", "uefi", or a path. NULL: not found, e says what to install. *variables: the
 * template of its variables, NULL: it has none. */
const char *cli_firmware(const char *name, const char **variables, struct dp_error *e);
/* A file with variables is there, or is made from the template. */
int cli_make_variables(const char *path, const char *variables, struct dp_error *e) DP_MUST_CHECK;
const char *cli_vga_bios(void); /* NULL: none on this host */

/* What firmware boots from a network card with (package ipxe-qemu); NULL: there is none. */
const char *cli_nic_rom(const char *model, bool uefi);

#endif
