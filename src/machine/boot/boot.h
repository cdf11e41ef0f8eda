/* machine/boot/boot.h - direct boot: puts a kernel file into guest memory and says in which state the first processor enters it.
 *
 * Model: dp_boot_load looks at the kernel's content (never its name) and follows the first protocol that fits, in this order: Linux
 * bzImage, Multiboot 1, PVH (Xen's direct boot note), Linux ELF (vmlinux). Everything a protocol puts into memory is claimed first in one
 * list of ranges, so nothing overlaps anything else or leaves RAM; only then are bytes written. Invariants: files are hostile. Every offset
 * and size is checked against the file and against RAM, in 64-bit arithmetic that cannot wrap. On an error the guest's memory may hold
 * parts of a kernel, and nothing else happened. Source: Linux Documentation/arch/x86/boot.rst and zero-page.rst; Multiboot Specification
 * 0.6.96; Xen docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h; System V ABI, ch. 4-5 (ELF).
 */
#ifndef DP_MACHINE_BOOT_H
#define DP_MACHINE_BOOT_H

#include "isa/x86/state.h"
#include "memory/memory.h"

struct dp_boot_blob {
    const char *name;
    const uint8_t *data;
    uint64_t size;
};

/* Memory map entries with the type numbers of ACPI's E820 (ACPI 6.4 table 15.4), which Multiboot and PVH share. */
enum { DP_E820_RAM = 1, DP_E820_RESERVED = 2, DP_E820_ACPI = 3 };
struct dp_e820 {
    uint64_t base, size;
    uint32_t type;
};

struct dp_boot_request {
    struct dp_space *memory;
    const struct dp_e820 *map; /* sorted by base; kernels go into DP_E820_RAM entries only */
    unsigned map_count;
    uint64_t memory_size; /* what the user asked for: for messages */
    struct dp_boot_blob kernel;
    const struct dp_boot_blob *initrd; /* Linux: concatenated; Multiboot: modules; PVH: modules */
    unsigned initrd_count;
    const char *cmdline; /* NULL: "console=ttyS0" for Linux and PVH, empty for Multiboot */
    uint64_t rsdp;
    struct dp_trace *trace;
};

/* Fills *cpu with the state at the kernel's entry and *protocol (may be NULL) with its name for people. */
int dp_boot_load(const struct dp_boot_request *r, struct x86_state *cpu, const char **protocol, struct dp_error *e) DP_MUST_CHECK;

#endif
