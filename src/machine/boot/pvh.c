/* machine/boot/pvh.c - PVH: an ELF kernel with the note XEN_ELFNOTE_PHYS32_ENTRY, entered in 32-bit protected mode without paging.
 *
 * Source: Xen docs/misc/pvh.pandoc (machine state), xen/include/public/arch-x86/hvm/start_info.h (structures), public/elfnote.h.
 */
#include "machine/boot/boot_internal.h"

#include <inttypes.h>

enum { XEN_ELFNOTE_PHYS32_ENTRY = 18 };

struct hvm_start_info {
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
    uint32_t memmap_entries, reserved;
};
struct hvm_modlist_entry {
    uint64_t paddr, size, cmdline_paddr, reserved;
};
struct hvm_memmap_entry {
    uint64_t addr, size;
    uint32_t type, reserved;
};
_Static_assert(sizeof(struct hvm_start_info) == 56 && sizeof(struct hvm_modlist_entry) == 32 && sizeof(struct hvm_memmap_entry) == 24,
               "fixed by Xen");
#define HVM_START_MAGIC 0x336ec578u

int boot_pvh(struct boot *b, struct x86_state *cpu, const char **protocol, struct dp_error *e)
{
    const struct dp_boot_request *r = b->r;
    struct boot_elf elf;
    const uint8_t *desc;
    uint32_t desc_size;
    int rc;
    if (!boot_is_elf(&r->kernel))
        return 0;
    if ((rc = boot_elf_parse(&r->kernel, &elf, e)))
        return rc;
    if (!boot_elf_note(&r->kernel, &elf, "Xen", XEN_ELFNOTE_PHYS32_ENTRY, &desc, &desc_size))
        return 0;
    if (desc_size != 4 && desc_size != 8)
        return dp_error_set(e, -ENOEXEC, "kernel %s: its PVH entry note has %u bytes, not 4 or 8: the file is damaged", r->kernel.name,
                            desc_size);
    uint64_t entry = desc_size == 8 ? dp_ld64(desc) : dp_ld32(desc);
    if (entry > UINT32_MAX || !boot_elf_loaded(&elf, entry))
        return dp_error_set(e, -ENOEXEC, "kernel %s: its PVH entry 0x%" PRIx64 " lies in no ELF segment below 4 GiB: the file is damaged",
                            r->kernel.name, entry);
    if ((rc = boot_elf_load(b, &elf, NULL, e)))
        return rc;

    struct hvm_start_info info = {
        .magic = HVM_START_MAGIC, .version = 1, .nr_modules = r->initrd_count, .rsdp_paddr = r->rsdp, .memmap_entries = r->map_count};
    if ((rc = boot_cmdline(b, r->cmdline ? r->cmdline : "console=ttyS0", BOOT_LOW_END, &info.cmdline_paddr, e)))
        return rc;
    if (r->initrd_count && (rc = boot_place(b, r->initrd_count * sizeof(struct hvm_modlist_entry), 8, 0, BOOT_LOW_END, false,
                                            "the module list", &info.modlist_paddr, e)))
        return rc;
    for (unsigned i = 0; i < r->initrd_count; i++) {
        struct hvm_modlist_entry m = {.size = r->initrd[i].size};
        /* An empty module still has an address, of a byte of its own. */
        if ((rc = boot_place(b, DP_MAX(m.size, 1), DP_PAGE_SIZE, BOOT_HIGH_START, BOOT_4G, true, "the initrd", &m.paddr, e)) ||
            (rc = boot_write(b, m.paddr, r->initrd[i].data, m.size, e)) ||
            (rc = boot_write(b, info.modlist_paddr + i * sizeof m, &m, sizeof m, e)))
            return rc;
    }
    if ((rc = boot_place(b, r->map_count * sizeof(struct hvm_memmap_entry), 8, 0, BOOT_LOW_END, false, "the memory map", &info.memmap_paddr,
                         e)))
        return rc;
    for (unsigned i = 0; i < r->map_count; i++) {
        struct hvm_memmap_entry m = {.addr = r->map[i].base, .size = r->map[i].size, .type = r->map[i].type};
        if ((rc = boot_write(b, info.memmap_paddr + i * sizeof m, &m, sizeof m, e)))
            return rc;
    }
    uint64_t at;
    if ((rc = boot_place(b, sizeof info, 8, 0, BOOT_LOW_END, false, "hvm_start_info", &at, e)) ||
        (rc = boot_write(b, at, &info, sizeof info, e)) || (rc = boot_enter_flat32(b, cpu, entry, e)))
        return rc;
    cpu->r[X86_RBX] = at;
    *protocol = "PVH";
    DP_TRACE(r->trace, DP_TRACE_BOOT, "%s: PVH, entry 0x%" PRIx64 ", start info at 0x%" PRIx64, r->kernel.name, entry, at);
    return 1;
}
