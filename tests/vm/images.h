/* images.h - tiny kernel files of every kind doppel boots, made for tests: small enough to change byte by byte.
 *
 * Their code (32-bit, position-independent) writes "ok\n" to the first serial port and 21 to isa-debug-exit, which is status 43.
 */
#ifndef DP_TESTS_VM_IMAGES_H
#define DP_TESTS_VM_IMAGES_H

#include <stdlib.h>

#include "base/base.h"

struct image {
    uint8_t *data;
    size_t size;
};

static inline struct image image_new(size_t size)
{
    struct image i = {calloc(1, size ? size : 1), size};
    return i;
}

enum { IMAGE_STATUS = 43 };
static const uint8_t image_code[] = {
    0x66, 0xba, 0xf8, 0x03,                              /* mov dx, 0x3f8 */
    0xb0, 'o',  0xee, 0xb0, 'k', 0xee, 0xb0, '\n', 0xee, /* mov al, c; out dx, al */
    0xb0, 21,   0xe6, 0xf4,                              /* mov al, 21; out 0xf4, al */
    0xf4, 0xeb, 0xfd,                                    /* hlt; jmp -3 */
};

/* ---- Linux ---- */

enum { IMAGE_BZ_SETUP = 5 * 512, IMAGE_BZ_BODY = 4096 };

/* A bzImage of protocol 2.15 whose protected-mode part has image_code at its 32-bit entry and at its 64-bit one (0x200). */
static inline struct image image_bzimage(uint32_t init_size)
{
    struct image i = image_new(IMAGE_BZ_SETUP + IMAGE_BZ_BODY);
    uint8_t *p = i.data;
    p[0x1f1] = IMAGE_BZ_SETUP / 512 - 1;
    dp_st32(p + 0x1f4, IMAGE_BZ_BODY / 16);
    dp_st16(p + 0x1fe, 0xaa55);
    p[0x200] = 0xeb;
    p[0x201] = 0x6a;
    memcpy(p + 0x202, "HdrS", 4);
    dp_st16(p + 0x206, 0x020f);
    p[0x211] = 1;
    dp_st32(p + 0x214, 0x100000);
    dp_st32(p + 0x22c, 0x7fffffff);
    dp_st32(p + 0x230, 0x200000);
    p[0x234] = 1;
    dp_st16(p + 0x236, 0x3f);
    dp_st32(p + 0x238, 2047);
    dp_st64(p + 0x258, 0x1000000);
    dp_st32(p + 0x260, init_size);
    memcpy(p + IMAGE_BZ_SETUP, image_code, sizeof image_code);
    memcpy(p + IMAGE_BZ_SETUP + 0x200, image_code, sizeof image_code);
    return i;
}

/* ---- ELF ---- */

enum { IMAGE_ELF_CODE = 0x1000, IMAGE_ELF_FILESZ = 0x100, IMAGE_ELF_MEMSZ = 0x3000, IMAGE_ELF_NOTE = 0x200, IMAGE_ELF_PHYS = 0x200000 };
#define IMAGE_ELF_VIRT 0xc0200000ull

/* One PT_LOAD (file offset 0x1000, physical 2 MiB, virtual 3 GiB + 2 MiB) with image_code at its start, and a PT_NOTE at 0x200, empty at
 * first. */
static inline struct image image_elf(bool is64)
{
    struct image i = image_new(IMAGE_ELF_CODE + IMAGE_ELF_FILESZ);
    uint8_t *p = i.data;
    memcpy(p, "\177ELF", 4);
    p[4] = is64 ? 2 : 1;
    p[5] = p[6] = 1;
    dp_st16(p + 16, 2);
    dp_st16(p + 18, is64 ? 62 : 3);
    dp_st32(p + 20, 1);
    if (is64) {
        dp_st64(p + 24, IMAGE_ELF_VIRT);
        dp_st64(p + 32, 64);
        dp_st16(p + 52, 64);
        dp_st16(p + 54, 56);
        dp_st16(p + 56, 2);
        const uint64_t load[] = {0x500000001, IMAGE_ELF_CODE, IMAGE_ELF_VIRT, IMAGE_ELF_PHYS, IMAGE_ELF_FILESZ, IMAGE_ELF_MEMSZ, 0x1000};
        const uint64_t note[] = {4, IMAGE_ELF_NOTE, 0, 0, 0, 0, 4};
        memcpy(p + 64, load, 56);
        memcpy(p + 120, note, 56);
    } else {
        dp_st32(p + 24, IMAGE_ELF_VIRT);
        dp_st32(p + 28, 64);
        dp_st16(p + 40, 52);
        dp_st16(p + 42, 32);
        dp_st16(p + 44, 2);
        const uint32_t load[] = {1, IMAGE_ELF_CODE, IMAGE_ELF_VIRT, IMAGE_ELF_PHYS, IMAGE_ELF_FILESZ, IMAGE_ELF_MEMSZ, 5, 0x1000};
        const uint32_t note[] = {4, IMAGE_ELF_NOTE, 0, 0, 0, 0, 0, 4};
        memcpy(p + 64, load, 32);
        memcpy(p + 96, note, 32);
    }
    memcpy(p + IMAGE_ELF_CODE, image_code, sizeof image_code);
    return i;
}

static inline void image_set_note_size(struct image *i, uint32_t size)
{
    if (i->data[4] == 2)
        dp_st64(i->data + 120 + 32, size);
    else
        dp_st32(i->data + 96 + 16, size);
}

static inline struct image image_pvh(bool is64)
{
    struct image i = image_elf(is64);
    uint8_t *n = i.data + IMAGE_ELF_NOTE;
    /* Another owner's note first. */
    dp_st32(n, 4);
    dp_st32(n + 4, 3);
    dp_st32(n + 8, 1);
    memcpy(n + 12, "GNU", 4);
    n += 20;
    dp_st32(n, 4);
    dp_st32(n + 4, is64 ? 8 : 4);
    dp_st32(n + 8, 18);
    memcpy(n + 12, "Xen", 4);
    dp_st32(n + 16, IMAGE_ELF_PHYS);
    image_set_note_size(&i, 20 + 16 + (is64 ? 8 : 4));
    return i;
}

/* ---- Multiboot ---- */

static inline void image_put_multiboot(uint8_t *at, uint32_t flags)
{
    dp_st32(at, 0x1badb002);
    dp_st32(at + 4, flags);
    dp_st32(at + 8, -(0x1badb002 + flags));
}

static inline struct image image_multiboot_elf(bool is64)
{
    struct image i = image_elf(is64);
    image_put_multiboot(i.data + IMAGE_ELF_CODE + 0x40, 3);
    return i;
}

enum { IMAGE_FLAT_HEADER = 0x30, IMAGE_FLAT_LOAD = 0x100000, IMAGE_FLAT_SIZE = 0x200 };

/* Header at 0x30 of the file, code at 0x60, loaded at 1 MiB, 4 KiB of bss. */
static inline struct image image_multiboot_flat(void)
{
    struct image i = image_new(IMAGE_FLAT_SIZE);
    uint8_t *h = i.data + IMAGE_FLAT_HEADER;
    image_put_multiboot(h, 1 << 16 | 2);
    dp_st32(h + 12, IMAGE_FLAT_LOAD + IMAGE_FLAT_HEADER);
    dp_st32(h + 16, IMAGE_FLAT_LOAD);
    dp_st32(h + 20, IMAGE_FLAT_LOAD + IMAGE_FLAT_SIZE);
    dp_st32(h + 24, IMAGE_FLAT_LOAD + IMAGE_FLAT_SIZE + 4096);
    dp_st32(h + 28, IMAGE_FLAT_LOAD + 0x60);
    memcpy(i.data + 0x60, image_code, sizeof image_code);
    return i;
}

#endif
