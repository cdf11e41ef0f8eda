/* machine/smbios.h - SMBIOS 2.8 tables: what inventories, installers and dmidecode read of a machine.
 *
 * Model: one pure function makes the structures and the entry point, which firmware places in memory and completes (address and checksums).
 * One BIOS, system, enclosure and processor (a socket with all cores, as CPUID has it), one memory array with devices of 16 GiB and more.
 * Source: DMTF DSP0134 2.8.0, chapter 5 (entry point), 6.1 (structures), 7.1 (BIOS), 7.2 (system), 7.4 (enclosure), 7.5 (processor),
 * 7.17-7.20 (memory), 7.33 (boot status), 7.45 (end of table).
 */
#ifndef DP_MACHINE_SMBIOS_H
#define DP_MACHINE_SMBIOS_H

#include "isa/x86/x86.h"

enum { DP_SMBIOS_ANCHOR = 31 };

struct dp_smbios_config {
    const struct x86_cpuid_model *model; /* its cpu_count is the number of cores */
    uint8_t uuid[16];         /* in the order of its text; all zeros: not set */
    const char *name;         /* of the machine, its asset tag; NULL: none */
    uint64_t low, high;       /* RAM from 0 and from 4 GiB, bytes; whole MiB but for the last one */
    bool uefi;                /* which kind of firmware */
};

/* tables is filled anew and the caller's to release. */
int dp_smbios_build(const struct dp_smbios_config *c, uint8_t anchor[DP_SMBIOS_ANCHOR], struct dp_buffer *tables, struct dp_error *e) DP_MUST_CHECK;

#endif
