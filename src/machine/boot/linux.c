/* machine/boot/linux.c - Linux: bzImage by the 64-bit (or, for 32-bit kernels, the 32-bit) boot protocol, and uncompressed vmlinux.
 *
 * Model: the file's setup header is copied into a zeroed boot_params page and completed as a boot loader has to; the protected-mode part
 * goes to the address the kernel prefers, with init_size bytes claimed for it to unpack itself in place. Source: Linux
 * Documentation/arch/x86/boot.rst (protocol 2.06 to 2.15), zero-page.rst.
 */
#include "machine/boot/boot_internal.h"

#include <inttypes.h>

/* Offsets in boot_params, which are also those in the file for the setup header (0x1f1 up). */
enum {
    BP_ACPI_RSDP = 0x070,
    BP_E820_ENTRIES = 0x1e8,
    BP_SENTINEL = 0x1ef,
    BP_SETUP_SECTS = 0x1f1,
    BP_SYSSIZE = 0x1f4,
    BP_VID_MODE = 0x1fa,
    BP_BOOT_FLAG = 0x1fe,
    BP_JUMP_LENGTH = 0x201,
    BP_MAGIC = 0x202,
    BP_VERSION = 0x206,
    BP_TYPE_OF_LOADER = 0x210,
    BP_LOADFLAGS = 0x211,
    BP_CODE32_START = 0x214,
    BP_RAMDISK_IMAGE = 0x218,
    BP_RAMDISK_SIZE = 0x21c,
    BP_CMD_LINE_PTR = 0x228,
    BP_INITRD_ADDR_MAX = 0x22c,
    BP_KERNEL_ALIGNMENT = 0x230,
    BP_XLOADFLAGS = 0x236,
    BP_CMDLINE_SIZE = 0x238,
    BP_SETUP_DATA = 0x250,
    BP_PREF_ADDRESS = 0x258,
    BP_INIT_SIZE = 0x260,
    BP_E820_TABLE = 0x2d0,
    BP_SIZE = 4096,
};
enum { LOADED_HIGH = 1 << 0, QUIET_FLAG = 1 << 5, KEEP_SEGMENTS = 1 << 6, CAN_USE_HEAP = 1 << 7 };
enum { XLF_KERNEL_64 = 1 << 0 };
enum { E820_MAX = 128, LOADER_UNKNOWN = 0xff };
#define DEFAULT_CMDLINE "console=ttyS0"

/* What both kinds of kernel need around them: memory map, command line, initrd, ACPI; then the page itself. */
static int finish_params(struct boot *b, uint8_t params[BP_SIZE], uint64_t cmdline_max, uint64_t initrd_max, uint64_t *at,
                         struct dp_error *e)
{
    const struct dp_boot_request *r = b->r;
    const char *cmdline = r->cmdline ? r->cmdline : DEFAULT_CMDLINE;
    uint64_t cmdline_at, initrd_at = 0, initrd_size = boot_initrd_size(r);
    int rc;

    if (strlen(cmdline) > cmdline_max)
        return dp_error_set(e, -E2BIG, "the command line (--append) has %zu characters, this kernel takes %" PRIu64, strlen(cmdline),
                            cmdline_max);
    if ((rc = boot_cmdline(b, cmdline, BOOT_LOW_END, &cmdline_at, e)))
        return rc;
    if (initrd_size) {
        if (initrd_size > UINT32_MAX)
            return dp_error_set(e, -E2BIG, "the initrd has %" PRIu64 "M: Linux takes less than 4096M", initrd_size >> 20);
        if ((rc = boot_place(b, initrd_size, DP_PAGE_SIZE, BOOT_HIGH_START, DP_MIN(initrd_max + 1, BOOT_4G), true, "the initrd", &initrd_at,
                             e)))
            return rc;
        uint64_t pos = initrd_at;
        for (unsigned i = 0; i < r->initrd_count; i++) {
            uint64_t padded = DP_ALIGN_UP(r->initrd[i].size, (uint64_t)4);
            if ((rc = boot_write(b, pos, r->initrd[i].data, r->initrd[i].size, e)) ||
                (rc = boot_zero(b, pos + r->initrd[i].size, padded - r->initrd[i].size, e)))
                return rc;
            pos += padded;
        }
        /* With one file the size is exact; the padding is between files only. */
        if (r->initrd_count == 1)
            initrd_size = r->initrd[0].size;
    }
    params[BP_TYPE_OF_LOADER] = LOADER_UNKNOWN;
    dp_st16(params + BP_VID_MODE, 0xffff); /* "normal": no VGA here anyway */
    dp_st32(params + BP_CMD_LINE_PTR, (uint32_t)cmdline_at);
    dp_st32(params + BP_RAMDISK_IMAGE, (uint32_t)initrd_at);
    dp_st32(params + BP_RAMDISK_SIZE, (uint32_t)initrd_size);
    dp_st64(params + BP_SETUP_DATA, 0);
    dp_st64(params + BP_ACPI_RSDP, r->rsdp);
    unsigned entries = DP_MIN(r->map_count, (unsigned)E820_MAX);
    params[BP_E820_ENTRIES] = (uint8_t)entries;
    for (unsigned i = 0; i < entries; i++) {
        uint8_t *p = params + BP_E820_TABLE + 20 * i;
        dp_st64(p, r->map[i].base);
        dp_st64(p + 8, r->map[i].size);
        dp_st32(p + 16, r->map[i].type);
    }
    if ((rc = boot_place(b, BP_SIZE, DP_PAGE_SIZE, 0, BOOT_LOW_END, false, "boot_params", at, e)))
        return rc;
    return boot_write(b, *at, params, BP_SIZE, e);
}

int boot_linux_bzimage(struct boot *b, struct x86_state *cpu, const char **protocol, struct dp_error *e)
{
    const struct dp_boot_blob *f = &b->r->kernel;
    if (f->size < 0x206 || memcmp(f->data + BP_MAGIC, "HdrS", 4) || dp_ld16(f->data + BP_BOOT_FLAG) != 0xaa55)
        return 0;

    if (f->size < BP_E820_TABLE)
        return dp_error_set(e, -ENOEXEC, "kernel %s is truncated: %" PRIu64 " bytes hold no whole Linux header", f->name, f->size);
    uint8_t params[BP_SIZE] = {0};
    /* The header ends where the jump at its start leads to. */
    uint64_t header_end = DP_MIN(BP_MAGIC + (uint64_t)f->data[BP_JUMP_LENGTH], (uint64_t)BP_E820_TABLE);
    memcpy(params + BP_SETUP_SECTS, f->data + BP_SETUP_SECTS, header_end - BP_SETUP_SECTS);

    unsigned version = dp_ld16(params + BP_VERSION);
    if (version < 0x0206)
        return dp_error_set(e, -ENOEXEC, "kernel %s: boot protocol %u.%02u, need 2.06 (Linux 2.6.22) or newer", f->name, version >> 8,
                            version & 0xff);
    if (!(params[BP_LOADFLAGS] & LOADED_HIGH))
        return dp_error_set(e, -ENOEXEC, "kernel %s is a zImage: give a bzImage", f->name);
    uint64_t setup = 512 * (1 + (params[BP_SETUP_SECTS] ? params[BP_SETUP_SECTS] : 4ull));
    uint64_t size = (uint64_t)dp_ld32(params + BP_SYSSIZE) * 16;
    /* syssize is rounded up to 16 bytes. */
    if (f->size <= setup || f->size - setup + 15 < size)
        return dp_error_set(e, -ENOEXEC, "kernel %s is truncated: %" PRIu64 " bytes, its header says %" PRIu64, f->name, f->size,
                            setup + size);
    if (!size)
        return dp_error_set(e, -ENOEXEC, "kernel %s: its header says the kernel has 0 bytes: the file is damaged", f->name);
    size = DP_MIN(size, f->size - setup);

    bool newer = version >= 0x020a;
    uint64_t load = newer ? dp_ld64(params + BP_PREF_ADDRESS) : BOOT_HIGH_START;
    uint64_t room = newer ? DP_MAX((uint64_t)dp_ld32(params + BP_INIT_SIZE), size) : size;
    bool entry64 = version >= 0x020c && (dp_ld16(params + BP_XLOADFLAGS) & XLF_KERNEL_64);
    if (load < BOOT_HIGH_START || load >= BOOT_4G)
        return dp_error_set(e, -ENOEXEC, "kernel %s wants to be loaded at 0x%" PRIx64 ": need an address from 1 MiB to 4 GiB", f->name,
                            load);
    if (entry64 && size <= 0x200)
        return dp_error_set(e, -ENOEXEC, "kernel %s is too short (%" PRIu64 " bytes) to hold its 64-bit entry: the file is damaged",
                            f->name, size);
    int rc = boot_claim(b, load, room, "Linux", e);
    if (rc || (rc = boot_write(b, load, f->data + setup, size, e)))
        return rc;

    params[BP_LOADFLAGS] &= (uint8_t) ~(QUIET_FLAG | KEEP_SEGMENTS | CAN_USE_HEAP);
    dp_st32(params + BP_CODE32_START, (uint32_t)load);
    uint32_t initrd_max = dp_ld32(params + BP_INITRD_ADDR_MAX);
    uint64_t at;
    rc = finish_params(b, params, dp_ld32(params + BP_CMDLINE_SIZE), initrd_max ? initrd_max : 0x37ffffff, &at, e);
    if (rc || (rc = entry64 ? boot_enter_long(b, cpu, load + 0x200, e) : boot_enter_flat32(b, cpu, load, e)))
        return rc;
    cpu->r[X86_RSI] = at;
    *protocol = entry64 ? "Linux bzImage, 64-bit boot protocol" : "Linux bzImage, 32-bit boot protocol";
    DP_TRACE(b->r->trace, DP_TRACE_BOOT,
             "%s: %s %u.%02u, %" PRIu64 " bytes at 0x%" PRIx64 " (room 0x%" PRIx64 "), boot_params at 0x%" PRIx64, f->name, *protocol,
             version >> 8, version & 0xff, size, load, room, at);
    return 1;
}

/* Does the file hold Linux's banner? An ELF file without any boot header could be any program at all. */
static bool has_banner(const struct dp_boot_blob *f) { return memmem(f->data, f->size, "Linux version ", 14); }

int boot_linux_elf(struct boot *b, struct x86_state *cpu, const char **protocol, struct dp_error *e)
{
    const struct dp_boot_blob *f = &b->r->kernel;
    struct boot_elf elf;
    if (!boot_is_elf(f))
        return 0;
    int rc = boot_elf_parse(f, &elf, e);
    if (rc)
        return rc;
    if (!elf.is64 || elf.machine != BOOT_EM_X86_64 || elf.type != BOOT_ET_EXEC || !has_banner(f))
        return 0;
    /* vmlinux's entry is a physical address; other tools write the virtual one. */
    uint64_t entry = elf.entry, at;
    if (!boot_elf_loaded(&elf, entry) && (!boot_elf_physical(&elf, entry, &entry) || !boot_elf_loaded(&elf, entry)))
        return dp_error_set(e, -ENOEXEC, "kernel %s: its entry 0x%" PRIx64 " lies in no ELF segment: the file is damaged", f->name,
                            elf.entry);
    if (entry >= BOOT_4G)
        return dp_error_set(e, -ENOEXEC, "kernel %s: its entry 0x%" PRIx64 " lies above 4 GiB", f->name, entry);
    if ((rc = boot_elf_load(b, &elf, NULL, e)))
        return rc;
    uint8_t params[BP_SIZE] = {0};
    dp_st16(params + BP_BOOT_FLAG, 0xaa55);
    memcpy(params + BP_MAGIC, "HdrS", 4);
    dp_st16(params + BP_VERSION, 0x020f);
    params[BP_LOADFLAGS] = LOADED_HIGH;
    dp_st32(params + BP_KERNEL_ALIGNMENT, 0x1000000);
    rc = finish_params(b, params, 2047, 0x7fffffff, &at, e);
    if (rc || (rc = boot_enter_long(b, cpu, entry, e)))
        return rc;
    cpu->r[X86_RSI] = at;
    *protocol = "Linux ELF, 64-bit boot protocol";
    DP_TRACE(b->r->trace, DP_TRACE_BOOT, "%s: %s, entry 0x%" PRIx64 ", boot_params at 0x%" PRIx64, f->name, *protocol, entry, at);
    return 1;
}
