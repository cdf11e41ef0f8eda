/* machine/boot/multiboot.c - Multiboot 1: ELF32 and ELF64 kernels, and flat ones that carry their addresses in the header.
 *
 * Model: as GRUB 2 does it: an ELF's entry is translated from virtual to physical by the segment that holds it, ELF64 kernels are entered
 * in 32-bit protected mode all the same, the command line does not repeat the file's name. Source: Multiboot Specification 0.6.96,
 * sections 3.1 (header), 3.2 (machine state), 3.3 (information).
 */
#include "machine/boot/boot_internal.h"

#include <inttypes.h>

enum { HEADER_MAGIC = 0x1badb002, LOADER_MAGIC = 0x2badb002, SEARCH = 8192 };
enum { REQUIRE_PAGE_ALIGN = 1 << 0, REQUIRE_MEMORY = 1 << 1, REQUIRE_VIDEO = 1 << 2, HAS_ADDRESSES = 1 << 16 };
enum { INFO_MEMORY = 1 << 0, INFO_CMDLINE = 1 << 2, INFO_MODULES = 1 << 3, INFO_MMAP = 1 << 6, INFO_LOADER_NAME = 1 << 9 };
static const char loader_name[] = "doppel";

struct info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4], mmap_length, mmap_addr, drives_length,
        drives_addr, config_table, boot_loader_name, apm_table, vbe[4], framebuffer[7];
};
struct module {
    uint32_t start, end, string, reserved;
};
struct mmap_entry {
    uint32_t size;
    uint64_t base, length;
    uint32_t type;
} __attribute__((packed));
_Static_assert(sizeof(struct module) == 16 && sizeof(struct mmap_entry) == 24 && offsetof(struct info, boot_loader_name) == 64,
               "fixed by Multiboot");

/* The header is 4-byte aligned in the first 8 KiB and lies wholly in them. */
static bool find_header(const struct dp_boot_blob *f, uint64_t *at)
{
    uint64_t end = DP_MIN(f->size, (uint64_t)SEARCH);
    for (uint64_t i = 0; i + 12 <= end; i += 4)
        if (dp_ld32(f->data + i) == HEADER_MAGIC && dp_ld32(f->data + i) + dp_ld32(f->data + i + 4) + dp_ld32(f->data + i + 8) == 0) {
            *at = i;
            return true;
        }
    return false;
}

/* The "a.out kludge": five physical addresses in the header say what is where. */
static int load_flat(struct boot *b, uint64_t header, uint64_t *entry, uint64_t *end, struct dp_error *e)
{
    const struct dp_boot_blob *f = &b->r->kernel;
    if (header + 32 > f->size)
        return dp_error_set(e, -ENOEXEC, "kernel %s is truncated: its Multiboot header is incomplete", f->name);
    const uint8_t *h = f->data + header;
    uint64_t header_addr = dp_ld32(h + 12), load = dp_ld32(h + 16), load_end = dp_ld32(h + 20), bss_end = dp_ld32(h + 24);
    *entry = dp_ld32(h + 28);
    if (header_addr < load || header_addr - load > header)
        return dp_error_set(e, -ENOEXEC,
                            "kernel %s: Multiboot header address 0x%" PRIx64 " and load address 0x%" PRIx64 " contradict each other",
                            f->name, header_addr, load);
    uint64_t offset = header - (header_addr - load);
    uint64_t size = load_end ? load_end - load : f->size - offset;
    if (load_end && (load_end < load || size > f->size - offset))
        return dp_error_set(e, -ENOEXEC, "kernel %s is truncated: its Multiboot header says 0x%" PRIx64 " bytes are to load", f->name,
                            size);
    if (bss_end && bss_end < load + size)
        return dp_error_set(e, -ENOEXEC, "kernel %s: its Multiboot bss ends before its data does", f->name);
    *end = bss_end ? bss_end : load + size;
    if (*entry < load || *entry >= load + size)
        return dp_error_set(e, -ENOEXEC, "kernel %s: its Multiboot entry 0x%" PRIx64 " lies outside of what is loaded", f->name, *entry);
    int rc = boot_claim(b, load, *end - load, "the Multiboot image", e);
    if (rc || (rc = boot_write(b, load, f->data + offset, size, e)))
        return rc;
    return boot_zero(b, load + size, *end - load - size, e);
}

static int load_elf(struct boot *b, uint64_t *entry, uint64_t *end, struct dp_error *e)
{
    struct boot_elf elf;
    int rc = boot_elf_parse(&b->r->kernel, &elf, e);
    if (rc)
        return rc;
    if (!boot_elf_physical(&elf, elf.entry, entry) || !boot_elf_loaded(&elf, *entry) || *entry > UINT32_MAX)
        return dp_error_set(e, -ENOEXEC, "kernel %s: its entry 0x%" PRIx64 " lies in no ELF segment below 4 GiB: the file is damaged",
                            b->r->kernel.name, elf.entry);
    return boot_elf_load(b, &elf, end, e);
}

/* A NUL-terminated string somewhere in low memory. */
static int put_string(struct boot *b, const char *text, const char *what, uint32_t *at, struct dp_error *e)
{
    uint64_t a, size = strlen(text) + 1;
    int rc = boot_place(b, size, 4, 0, BOOT_LOW_END, false, what, &a, e);
    *at = rc ? 0 : (uint32_t)a;
    return rc ? rc : boot_write(b, a, text, size, e);
}

static int put_modules(struct boot *b, struct info *info, uint64_t kernel_end, struct dp_error *e)
{
    const struct dp_boot_request *r = b->r;
    uint64_t list;
    int rc = boot_place(b, r->initrd_count * sizeof(struct module), 16, 0, BOOT_LOW_END, false, "the module list", &list, e);
    if (rc)
        return rc;
    info->flags |= INFO_MODULES;
    info->mods_count = r->initrd_count;
    info->mods_addr = (uint32_t)list;
    for (unsigned i = 0; i < r->initrd_count; i++) {
        uint64_t at, size = r->initrd[i].size;
        struct module m = {0};
        /* Right behind the kernel, page-aligned: small kernels count on finding them low. */
        if ((rc =
                 boot_place(b, DP_MAX(size, 1), DP_PAGE_SIZE, DP_MAX(kernel_end, BOOT_HIGH_START), BOOT_4G, false, "the module", &at, e)) ||
            (rc = boot_write(b, at, r->initrd[i].data, size, e)) ||
            (rc = put_string(b, r->initrd[i].name, "the module's name", &m.string, e)))
            return rc;
        m.start = (uint32_t)at;
        m.end = (uint32_t)(at + size);
        if ((rc = boot_write(b, list + i * sizeof m, &m, sizeof m, e)))
            return rc;
    }
    return 0;
}

static int put_memory_map(struct boot *b, struct info *info, struct dp_error *e)
{
    const struct dp_boot_request *r = b->r;
    uint64_t at;
    int rc = boot_place(b, r->map_count * sizeof(struct mmap_entry), 16, 0, BOOT_LOW_END, false, "the memory map", &at, e);
    for (unsigned i = 0; !rc && i < r->map_count; i++) {
        struct mmap_entry m = {sizeof m - sizeof m.size, r->map[i].base, r->map[i].size, r->map[i].type};
        rc = boot_write(b, at + i * sizeof m, &m, sizeof m, e);
        if (m.type == DP_E820_RAM && m.base == 0)
            info->mem_lower = (uint32_t)(DP_MIN(m.length, 640ull << 10) >> 10);
        if (m.type == DP_E820_RAM && m.base == BOOT_HIGH_START)
            info->mem_upper = (uint32_t)(m.length >> 10);
    }
    info->flags |= INFO_MEMORY | INFO_MMAP;
    info->mmap_addr = rc ? 0 : (uint32_t)at;
    info->mmap_length = r->map_count * (uint32_t)sizeof(struct mmap_entry);
    return rc;
}

int boot_multiboot(struct boot *b, struct x86_state *cpu, const char **protocol, struct dp_error *e)
{
    const struct dp_boot_request *r = b->r;
    uint64_t header, entry, end, at;
    int rc;
    if (!find_header(&r->kernel, &header))
        return 0;
    uint32_t flags = dp_ld32(r->kernel.data + header + 4);
    /* Bits 0-15 are requirements: one that is not understood must be refused. A video mode cannot be given (there is no display), but
     * kernels that ask for one look at the answer, which says "none". */
    if (flags & 0xffff & ~(REQUIRE_PAGE_ALIGN | REQUIRE_MEMORY | REQUIRE_VIDEO))
        return dp_error_set(e, -ENOTSUP, "kernel %s: its Multiboot header requires features (flags 0x%x) that doppel does not know",
                            r->kernel.name, flags);
    bool flat = flags & HAS_ADDRESSES;
    if (!flat && !boot_is_elf(&r->kernel))
        return dp_error_set(e, -ENOEXEC, "kernel %s: a Multiboot header without addresses in a file that is not ELF: the file is damaged",
                            r->kernel.name);
    if ((rc = flat ? load_flat(b, header, &entry, &end, e) : load_elf(b, &entry, &end, e)))
        return rc;

    struct info info = {.flags = INFO_CMDLINE | INFO_LOADER_NAME};
    if ((rc = put_string(b, r->cmdline ? r->cmdline : "", "the command line (--append)", &info.cmdline, e)) ||
        (rc = put_string(b, loader_name, "the loader's name", &info.boot_loader_name, e)) || (rc = put_memory_map(b, &info, e)) ||
        (r->initrd_count && (rc = put_modules(b, &info, end, e))) ||
        (rc = boot_place(b, sizeof info, 16, 0, BOOT_LOW_END, false, "the Multiboot information", &at, e)) ||
        (rc = boot_write(b, at, &info, sizeof info, e)) || (rc = boot_enter_flat32(b, cpu, entry, e)))
        return rc;
    cpu->r[X86_RAX] = LOADER_MAGIC;
    cpu->r[X86_RBX] = at;
    *protocol = flat ? "Multiboot" : "Multiboot ELF";
    DP_TRACE(r->trace, DP_TRACE_BOOT, "%s: %s, entry 0x%" PRIx64 ", information at 0x%" PRIx64, r->kernel.name, *protocol, entry, at);
    return 1;
}
