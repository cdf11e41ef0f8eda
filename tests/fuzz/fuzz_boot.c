/* fuzz_boot.c - kernel loaders on hostile files. The input: one byte of choices, then the kernel; with bit 0 the second half is an initrd
 * too. Whatever is loaded must leave a processor that starts inside memory. */
#include <stdlib.h>

#include "machine/boot/boot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RAM_SIZE = 32 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct dp_ram *ram; /* one for all inputs: what one leaves behind is what a guest before a reset leaves */
    static struct dp_space *memory;
    static const struct dp_e820 map[] = {{0, 0x9fc00, DP_E820_RAM},
                                         {0x9fc00, 0x400, DP_E820_RESERVED},
                                         {0xe0000, 0x20000, DP_E820_RESERVED},
                                         {0x100000, RAM_SIZE - 0x100000, DP_E820_RAM}};
    struct dp_error e = {0};
    if (!memory) {
        if (dp_ram_create("ram", RAM_SIZE, &ram, &e) || dp_space_create("memory", 1ull << 40, NULL, &memory, &e) ||
            dp_space_map_ram(memory, 0, ram, 0, RAM_SIZE, false, 0, NULL, &e))
            abort();
    }
    if (!size)
        return 0;
    uint8_t choice = data[0];
    struct dp_boot_blob kernel = {"kernel", data + 1, size - 1}, initrd[2] = {{"one", data + size / 2, size - size / 2}, {"two", data, 0}};
    struct dp_boot_request r = {
        .memory = memory,
        .map = map,
        .map_count = DP_ARRAY_LEN(map),
        .memory_size = RAM_SIZE,
        .kernel = kernel,
        .initrd = initrd,
        .initrd_count = choice & 1 ? 2 : 0,
        .cmdline = choice & 2 ? "console=ttyS0 a=b" : NULL,
        .rsdp = 0xe0000,
    };
    struct x86_state cpu;
    memset(&cpu, 0, sizeof cpu);
    if (!dp_boot_load(&r, &cpu, NULL, &e)) {
        if (cpu.r[X86_RIP] >= RAM_SIZE || cpu.gdtr.base + cpu.gdtr.limit >= RAM_SIZE || !(cpu.cr0 & X86_CR0_PE))
            abort();
    } else if (!e.code || !*e.text || strchr(e.text, '\n')) {
        abort(); /* a refusal says why, in one line */
    }
    return 0;
}
