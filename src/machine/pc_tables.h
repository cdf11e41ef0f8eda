/* machine/pc_tables.h - what a PC with firmware tells of itself beside its hardware: SMBIOS tables, the generation id, the user's own files.
 *
 * Model: files of fw_cfg, made anew with each reset. SMBIOS: firmware takes "etc/smbios/..." and places it. Generation id: 16 bytes in a page that
 * firmware allocates by the table loader's script ("etc/vmgenid_guid"); the DSDT's device tells systems where they are, firmware writes the address
 * back to "etc/vmgenid_addr".
 * Source: DSP0134 (smbios.h); Microsoft "Virtual Machine Generation ID" (2012); QEMU docs/specs/vmgenid.rst, fw_cfg.rst (names of files).
 */
#ifndef DP_MACHINE_PC_TABLES_H
#define DP_MACHINE_PC_TABLES_H

#include "machine/pc.h"

#define PC_VMGENID_GUID "etc/vmgenid_guid"
#define PC_VMGENID_ADDRESS "etc/vmgenid_addr"

/* Adds all of them to fw_cfg. low, high: RAM below and from 4 GiB. */
int pc_tables_add(const struct dp_pc_config *c, uint64_t low, uint64_t high, struct dp_device *fw_cfg, struct dp_error *e) DP_MUST_CHECK;

#endif
