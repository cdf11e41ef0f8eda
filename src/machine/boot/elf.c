/* machine/boot/elf.c - ELF files of both classes, read as data from a stranger.
 *
 * Source: System V ABI gABI 4.1, chapters 4 (object files, notes) and 5 (program loading).
 * Invariants: after boot_elf_parse every segment's file part lies inside the file, and filesz <= memsz for PT_LOAD.
 */
#include "machine/boot/boot_internal.h"

#include <inttypes.h>

bool boot_is_elf(const struct dp_boot_blob *f) { return f->size >= 20 && !memcmp(f->data, "\177ELF", 4); }

int boot_elf_parse(const struct dp_boot_blob *f, struct boot_elf *elf, struct dp_error *e)
{
    const uint8_t *d = f->data;
    memset(elf, 0, sizeof *elf);
    if (!boot_is_elf(f))
        return dp_error_set(e, -ENOEXEC, "kernel %s is not an ELF file", f->name);
    if ((d[4] != 1 && d[4] != 2) || d[5] != 1)
        return dp_error_set(e, -ENOEXEC, "kernel %s: an ELF file of class %u, data encoding %u: need 32 or 64 bits, little-endian", f->name,
                            d[4], d[5]);
    elf->is64 = d[4] == 2;
    uint64_t header = elf->is64 ? 64 : 52, entry_size = elf->is64 ? 56 : 32;
    if (f->size < header)
        return dp_error_set(e, -ENOEXEC, "kernel %s is truncated: its ELF header is incomplete", f->name);
    elf->type = dp_ld16(d + 16);
    elf->machine = dp_ld16(d + 18);
    elf->entry = elf->is64 ? dp_ld64(d + 24) : dp_ld32(d + 24);
    uint64_t phoff = elf->is64 ? dp_ld64(d + 32) : dp_ld32(d + 28);
    unsigned phentsize = dp_ld16(d + (elf->is64 ? 54 : 42)), phnum = dp_ld16(d + (elf->is64 ? 56 : 44));
    if (elf->machine != BOOT_EM_386 && elf->machine != BOOT_EM_X86_64)
        return dp_error_set(e, -ENOEXEC, "kernel %s is for another processor (ELF machine %u): need x86", f->name, elf->machine);
    if (!phnum || phnum > BOOT_SEGMENTS || phentsize < entry_size)
        return dp_error_set(e, -ENOEXEC, "kernel %s: %u program headers of %u bytes: need 1 to %u of at least %" PRIu64, f->name, phnum,
                            phentsize, BOOT_SEGMENTS, entry_size);
    if (phoff > f->size || (uint64_t)phnum * phentsize > f->size - phoff)
        return dp_error_set(e, -ENOEXEC, "kernel %s is truncated: its ELF program headers are missing", f->name);
    for (unsigned i = 0; i < phnum; i++) {
        const uint8_t *p = d + phoff + (uint64_t)i * phentsize;
        struct boot_segment *s = &elf->segment[elf->count++];
        s->type = dp_ld32(p);
        if (elf->is64) {
            s->offset = dp_ld64(p + 8);
            s->vaddr = dp_ld64(p + 16);
            s->paddr = dp_ld64(p + 24);
            s->filesz = dp_ld64(p + 32);
            s->memsz = dp_ld64(p + 40);
            s->align = dp_ld64(p + 48);
        } else {
            s->offset = dp_ld32(p + 4);
            s->vaddr = dp_ld32(p + 8);
            s->paddr = dp_ld32(p + 12);
            s->filesz = dp_ld32(p + 16);
            s->memsz = dp_ld32(p + 20);
            s->align = dp_ld32(p + 28);
        }
        if (s->type != BOOT_PT_LOAD && s->type != BOOT_PT_NOTE)
            continue;
        if (s->offset > f->size || s->filesz > f->size - s->offset)
            return dp_error_set(e, -ENOEXEC, "kernel %s is truncated: its ELF segment %u ends past the file", f->name, i);
        if (s->type == BOOT_PT_LOAD && s->filesz > s->memsz)
            return dp_error_set(e, -ENOEXEC, "kernel %s: ELF segment %u is larger in the file than in memory: the file is damaged", f->name,
                                i);
    }
    return 0;
}

int boot_elf_load(struct boot *b, const struct boot_elf *elf, uint64_t *end, struct dp_error *e)
{
    uint64_t top = 0;
    bool any = false;
    for (unsigned i = 0; i < elf->count; i++) {
        const struct boot_segment *s = &elf->segment[i];
        if (s->type != BOOT_PT_LOAD || !s->memsz)
            continue;
        char what[40];
        snprintf(what, sizeof what, "ELF segment %u", i);
        int rc = boot_claim(b, s->paddr, s->memsz, what, e);
        if (rc)
            return rc;
        top = DP_MAX(top, s->paddr + s->memsz);
        any = true;
    }
    if (!any)
        return dp_error_set(e, -ENOEXEC, "kernel %s has no ELF segment to load", b->r->kernel.name);
    for (unsigned i = 0; i < elf->count; i++) {
        const struct boot_segment *s = &elf->segment[i];
        if (s->type != BOOT_PT_LOAD || !s->memsz)
            continue;
        int rc = boot_write(b, s->paddr, b->r->kernel.data + s->offset, s->filesz, e);
        if (rc || (rc = boot_zero(b, s->paddr + s->filesz, s->memsz - s->filesz, e)))
            return rc;
    }
    if (end)
        *end = top;
    return 0;
}

bool boot_elf_physical(const struct boot_elf *elf, uint64_t virtual, uint64_t *physical)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct boot_segment *s = &elf->segment[i];
        if (s->type == BOOT_PT_LOAD && virtual >= s->vaddr && virtual - s->vaddr < s->memsz) {
            *physical = s->paddr + (virtual - s->vaddr);
            return true;
        }
    }
    return false;
}

bool boot_elf_loaded(const struct boot_elf *elf, uint64_t physical)
{
    for (unsigned i = 0; i < elf->count; i++) {
        const struct boot_segment *s = &elf->segment[i];
        if (s->type == BOOT_PT_LOAD && physical >= s->paddr && physical - s->paddr < s->filesz)
            return true;
    }
    return false;
}

bool boot_elf_note(const struct dp_boot_blob *f, const struct boot_elf *elf, const char *name, uint32_t type, const uint8_t **desc,
                   uint32_t *size)
{
    uint64_t name_size = strlen(name) + 1;
    for (unsigned i = 0; i < elf->count; i++) {
        const struct boot_segment *s = &elf->segment[i];
        if (s->type != BOOT_PT_NOTE)
            continue;
        /* Entries are padded to 4 bytes; some linkers pad to 8 in segments that say so. */
        uint64_t align = s->align == 8 ? 8 : 4, pos = 0;
        const uint8_t *p = f->data + s->offset;
        while (pos <= s->filesz && s->filesz - pos >= 12) {
            uint64_t namesz = dp_ld32(p + pos), descsz = dp_ld32(p + pos + 4);
            uint64_t desc_at = DP_ALIGN_UP(pos + 12 + namesz, align), next = DP_ALIGN_UP(desc_at + descsz, align);
            if (desc_at > s->filesz || descsz > s->filesz - desc_at)
                break;
            if (namesz == name_size && dp_ld32(p + pos + 8) == type && !memcmp(p + pos + 12, name, name_size)) {
                *desc = p + desc_at;
                *size = (uint32_t)descsz;
                return true;
            }
            pos = next;
        }
    }
    return false;
}
