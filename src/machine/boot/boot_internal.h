/* machine/boot/boot_internal.h - what the loaders share: claimed ranges, ELF files, entry states. */
#ifndef DP_MACHINE_BOOT_INTERNAL_H
#define DP_MACHINE_BOOT_INTERNAL_H

#include "machine/boot/boot.h"

#define BOOT_SEGMENTS 64
#define BOOT_LOW_END 0x9fc00ull /* conventional memory below the EBDA */
#define BOOT_HIGH_START 0x100000ull
#define BOOT_4G 0x100000000ull

struct boot {
    const struct dp_boot_request *r;
    struct {
        uint64_t start, end;
    } used[BOOT_SEGMENTS + 32];
    unsigned used_count;
};

/* Takes [start, start+size) for `what`: it must be RAM and free. An error names the kernel and advises. */
int boot_claim(struct boot *b, uint64_t start, uint64_t size, const char *what, struct dp_error *e);
/* Finds and claims size bytes in [low, high), the highest place (or the lowest) with that alignment. */
int boot_place(struct boot *b, uint64_t size, uint64_t align, uint64_t low, uint64_t high, bool highest, const char *what, uint64_t *at,
               struct dp_error *e);
/* Into claimed memory only. */
int boot_write(struct boot *b, uint64_t at, const void *data, uint64_t size, struct dp_error *e);
int boot_zero(struct boot *b, uint64_t at, uint64_t size, struct dp_error *e);
/* The command line, NUL included; *at is where it stands. */
int boot_cmdline(struct boot *b, const char *text, uint64_t high, uint64_t *at, struct dp_error *e);
uint64_t boot_initrd_size(const struct dp_boot_request *r); /* all of them, each padded to 4 bytes */

/* ---- elf.c ---- */

struct boot_segment {
    uint32_t type;
    uint64_t offset, vaddr, paddr, filesz, memsz, align;
};
struct boot_elf {
    bool is64;
    uint16_t type, machine;
    uint64_t entry;
    unsigned count;
    struct boot_segment segment[BOOT_SEGMENTS];
};
enum { BOOT_ET_EXEC = 2, BOOT_ET_DYN = 3, BOOT_EM_386 = 3, BOOT_EM_X86_64 = 62, BOOT_PT_LOAD = 1, BOOT_PT_INTERP = 3, BOOT_PT_NOTE = 4 };

bool boot_is_elf(const struct dp_boot_blob *f);
int boot_elf_parse(const struct dp_boot_blob *f, struct boot_elf *elf, struct dp_error *e);
/* Claims and fills all PT_LOAD segments at their physical addresses. *end (may be NULL): the end of the highest one. */
int boot_elf_load(struct boot *b, const struct boot_elf *elf, uint64_t *end, struct dp_error *e);
/* Physical address of a virtual one by the segment that holds it. */
bool boot_elf_physical(const struct boot_elf *elf, uint64_t virtual, uint64_t *physical);
bool boot_elf_loaded(const struct boot_elf *elf, uint64_t physical); /* lies in a PT_LOAD's file part */
/* Finds the note (owner name, type): its descriptor within the file. */
bool boot_elf_note(const struct dp_boot_blob *f, const struct boot_elf *elf, const char *name, uint32_t type, const uint8_t **desc,
                   uint32_t *size);

/* ---- entry states: a GDT with 0x10 code, 0x18 data, 0x20 TSS is written to memory and loaded ---- */

int boot_enter_flat32(struct boot *b, struct x86_state *s, uint64_t rip, struct dp_error *e);
int boot_enter_long(struct boot *b, struct x86_state *s, uint64_t rip, struct dp_error *e); /* identity map of the low 4 GiB */

/* ---- protocols: 1 it is this kind (loaded), 0 it is not, negative: it is, but broken or does not fit ---- */

int boot_linux_bzimage(struct boot *b, struct x86_state *cpu, const char **protocol, struct dp_error *e);
int boot_multiboot(struct boot *b, struct x86_state *cpu, const char **protocol, struct dp_error *e);
int boot_pvh(struct boot *b, struct x86_state *cpu, const char **protocol, struct dp_error *e);
int boot_linux_elf(struct boot *b, struct x86_state *cpu, const char **protocol, struct dp_error *e);

#endif
