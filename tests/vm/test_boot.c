/* test_boot.c - the kernel loaders: what lands where, the state at entry, and refusals of everything that does not fit. */
#include "machine/boot/boot.h"
#include "tests/unit/test.h"
#include "tests/vm/images.h"

#define MiB (1ull << 20)
enum { RAM_SIZE = 64 << 20 };

struct world {
    struct dp_ram *ram;
    struct dp_space *memory;
    struct dp_error e;
    struct x86_state cpu;
    const char *protocol;
    struct dp_boot_request r;
};
static const struct dp_e820 map[] = {{0, 0x9fc00, DP_E820_RAM},
                                     {0x9fc00, 0x400, DP_E820_RESERVED},
                                     {0xe0000, 0x20000, DP_E820_RESERVED},
                                     {0x100000, RAM_SIZE - 0x100000, DP_E820_RAM}};

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    assert_ok(dp_ram_create("ram", RAM_SIZE, &w->ram, &w->e), w->e);
    assert_ok(dp_space_create("memory", 1ull << 40, NULL, &w->memory, &w->e), w->e);
    assert_ok(dp_space_map_ram(w->memory, 0, w->ram, 0, RAM_SIZE, false, 0, NULL, &w->e), w->e);
    memset(w->ram->host, 0xaa, RAM_SIZE); /* what a former guest left */
    w->r =
        (struct dp_boot_request){.memory = w->memory, .map = map, .map_count = DP_ARRAY_LEN(map), .memory_size = RAM_SIZE, .rsdp = 0xe0000};
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    dp_space_destroy(w->memory);
    dp_ram_destroy(w->ram);
    free(w);
    return 0;
}

static int load(struct world *w, const struct image *i)
{
    w->r.kernel = (struct dp_boot_blob){"test-kernel", i->data, i->size};
    w->e = (struct dp_error){0};
    memset(&w->cpu, 0, sizeof w->cpu);
    return dp_boot_load(&w->r, &w->cpu, &w->protocol, &w->e);
}

static uint32_t rd32(struct world *w, uint64_t at)
{
    uint32_t v;
    assert_int_equal(dp_space_read(w->memory, at, &v, 4), 0);
    return v;
}

static void assert_text(struct world *w, uint64_t at, const char *text)
{
    char got[200] = {0};
    assert_int_equal(dp_space_read(w->memory, at, got, DP_MIN(strlen(text) + 1, sizeof got)), 0);
    assert_string_equal(got, text);
}

static void assert_code(struct world *w, uint64_t at) { assert_memory_equal(w->ram->host + at, image_code, sizeof image_code); }

/* One line that says what is wrong; nothing else. */
static void assert_refused(struct world *w, const struct image *i, const char *words)
{
    if (load(w, i) >= 0)
        fail_msg("loaded, expected: %s", words);
    if (!strstr(w->e.text, words))
        fail_msg("'%s' does not say '%s'", w->e.text, words);
    assert_null(strchr(w->e.text, '\n'));
}

static void assert_flat32(struct world *w, uint64_t rip)
{
    const struct x86_state *s = &w->cpu;
    assert_int_equal(s->r[X86_RIP], rip);
    assert_int_equal(s->rflags, 2);
    assert_true(s->cr0 & X86_CR0_PE);
    assert_false(s->cr0 & X86_CR0_PG);
    assert_int_equal(s->cr4, 0);
    assert_int_equal(s->efer, 0);
    assert_int_equal(s->seg[X86_CS].attr, 0xc09b);
    for (unsigned n = 0; n < X86_SEGS; n++) {
        assert_int_equal(s->seg[n].base, 0);
        assert_int_equal(s->seg[n].limit, 0xffffffff);
    }
    assert_int_equal(s->tr.limit, 0x67);
    /* The GDT in memory says the same. */
    assert_int_equal(rd32(w, s->gdtr.base + s->seg[X86_CS].sel + 4), 0x00cf9b00);
    assert_int_equal(rd32(w, s->gdtr.base + s->seg[X86_DS].sel + 4), 0x00cf9300);
}

/* ---- Linux ---- */

static void test_bzimage(void **state)
{
    struct world *w = *state;
    struct image i = image_bzimage(0x100000);
    uint8_t one[1001], two[6];
    memset(one, 0x11, sizeof one);
    memset(two, 0x22, sizeof two);
    struct dp_boot_blob initrd[] = {{"a", one, sizeof one}, {"b", two, sizeof two}};
    w->r.initrd = initrd;
    w->r.initrd_count = 2;
    w->r.cmdline = "console=ttyS0 quiet";
    assert_ok(load(w, &i), w->e);
    const struct x86_state *s = &w->cpu;
    assert_int_equal(s->r[X86_RIP], 0x1000200);
    assert_code(w, 0x1000200);
    assert_int_equal(s->seg[X86_CS].attr, 0xa09b);
    assert_int_equal(s->efer, X86_EFER_LME | X86_EFER_LMA);
    assert_int_equal(s->cr4, X86_CR4_PAE);
    assert_true((s->cr0 & X86_CR0_PG) && (s->cr0 & X86_CR0_PE));
    assert_false(s->rflags & X86_IF);

    uint64_t bp = s->r[X86_RSI];
    assert_int_equal(rd32(w, bp + 0x202), 0x53726448);
    assert_int_equal(rd32(w, bp + 0x214), 0x1000000);
    assert_int_equal(rd32(w, bp + 0x70), 0xe0000);
    assert_text(w, rd32(w, bp + 0x228), "console=ttyS0 quiet");
    assert_int_equal(w->ram->host[bp + 0x210], 0xff);
    assert_int_equal(w->ram->host[bp + 0x1ef], 0);
    assert_int_equal(w->ram->host[bp + 0x1e8], DP_ARRAY_LEN(map));
    assert_int_equal(rd32(w, bp + 0x2d0 + 20 * 3), 0x100000);
    uint32_t image = rd32(w, bp + 0x218), size = rd32(w, bp + 0x21c);
    assert_int_equal(image % 4096, 0);
    assert_int_equal(size, 1004 + 8);
    assert_true(image + size <= RAM_SIZE && image > RAM_SIZE - 8192);
    assert_memory_equal(w->ram->host + image, one, sizeof one);
    assert_int_equal(w->ram->host[image + 1001], 0); /* padding, not the former guest's bytes */
    assert_memory_equal(w->ram->host + image + 1004, two, sizeof two);

    /* The page tables map the low 4 GiB to themselves. */
    uint64_t pml4e, pdpte, pde;
    assert_int_equal(dp_space_read(w->memory, s->cr3, &pml4e, 8), 0);
    for (uint64_t at = 0; at < 4096 * MiB; at += 514 * MiB) {
        assert_int_equal(dp_space_read(w->memory, (pml4e & ~0xfffull) + (at >> 30) * 8, &pdpte, 8), 0);
        assert_int_equal(dp_space_read(w->memory, (pdpte & ~0xfffull) + (at >> 21 & 511) * 8, &pde, 8), 0);
        assert_int_equal(pde, (at & ~(2 * MiB - 1)) | 0x83);
    }
    free(i.data);
}

static void test_bzimage_one_initrd_exact(void **state)
{
    struct world *w = *state;
    struct image i = image_bzimage(0x100000);
    uint8_t data[1001] = {0};
    struct dp_boot_blob initrd = {"a", data, sizeof data};
    w->r.initrd = &initrd;
    w->r.initrd_count = 1;
    assert_ok(load(w, &i), w->e);
    assert_int_equal(rd32(w, w->cpu.r[X86_RSI] + 0x21c), 1001);
    assert_text(w, rd32(w, w->cpu.r[X86_RSI] + 0x228), "console=ttyS0"); /* default */
    /* Linux's own limit for the initrd is kept. */
    dp_st32(i.data + 0x22c, 0x1ffffff);
    assert_ok(load(w, &i), w->e);
    assert_true(rd32(w, w->cpu.r[X86_RSI] + 0x218) + 1001 <= 0x2000000);
    free(i.data);
}

static void test_bzimage_32(void **state)
{
    struct world *w = *state;
    struct image i = image_bzimage(0x100000);
    dp_st16(i.data + 0x236, 0); /* no 64-bit entry */
    assert_ok(load(w, &i), w->e);
    assert_flat32(w, 0x1000000);
    assert_code(w, 0x1000000);
    assert_int_equal(rd32(w, w->cpu.r[X86_RSI] + 0x202), 0x53726448);
    dp_st16(i.data + 0x206, 0x0206); /* before pref_address and init_size */
    assert_ok(load(w, &i), w->e);
    assert_flat32(w, 0x100000);
    free(i.data);
}

static void test_bzimage_bad(void **state)
{
    struct world *w = *state;
    struct image i = image_bzimage(0x100000), c;
#define CASE(words, ...)                                                                                                                   \
    do {                                                                                                                                   \
        c = image_bzimage(0x100000);                                                                                                       \
        __VA_ARGS__;                                                                                                                       \
        assert_refused(w, &c, words);                                                                                                      \
        free(c.data);                                                                                                                      \
    } while (0)
    CASE("2.05", dp_st16(c.data + 0x206, 0x0205));
    CASE("zImage", c.data[0x211] = 0);
    CASE("truncated", c.size -= 17);
    CASE("truncated", c.size = 0x210);
    CASE("truncated", dp_st32(c.data + 0x1f4, 0xffffffff));
    CASE("0 bytes", dp_st32(c.data + 0x1f4, 0));
    CASE("truncated", c.data[0x1f1] = 255);
    CASE("0x0", dp_st64(c.data + 0x258, 0));
    CASE("1 MiB to 4 GiB", dp_st64(c.data + 0x258, ~0ull));
    CASE("no free memory", dp_st64(c.data + 0x258, 0xffffff00));
    CASE("try -m 128M", dp_st32(c.data + 0x260, 80 << 20));
    CASE("--append", dp_st32(c.data + 0x238, 5));
    CASE("too short", {
        dp_st32(c.data + 0x1f4, 0x20);
        c.size = IMAGE_BZ_SETUP + 0x200;
    });
#undef CASE
    /* An initrd that memory cannot hold beside the kernel. */
    struct dp_boot_blob initrd = {"big", calloc(1, RAM_SIZE - 16 * MiB), RAM_SIZE - 16 * MiB};
    w->r.initrd = &initrd;
    w->r.initrd_count = 1;
    assert_refused(w, &i, "initrd of");
    assert_non_null(strstr(w->e.text, "try -m 128M"));
    initrd.size = 1 * MiB;
    dp_st32(i.data + 0x22c, 0x1ffff); /* its limit lies below all free memory */
    assert_refused(w, &i, "initrd");
    free((void *)initrd.data);
    free(i.data);
}

static void test_vmlinux(void **state)
{
    struct world *w = *state;
    struct image i = image_elf(true);
    assert_refused(w, &i, "ELF file without");
    memcpy(i.data + IMAGE_ELF_CODE + 0x80, "Linux version 6.1", 17);
    assert_ok(load(w, &i), w->e);
    assert_int_equal(w->cpu.r[X86_RIP], IMAGE_ELF_PHYS);
    assert_true(w->cpu.efer & X86_EFER_LMA);
    assert_code(w, IMAGE_ELF_PHYS);
    assert_int_equal(rd32(w, w->cpu.r[X86_RSI] + 0x202), 0x53726448);
    dp_st64(i.data + 24, IMAGE_ELF_PHYS + 4); /* a physical entry, as vmlinux has it */
    assert_ok(load(w, &i), w->e);
    assert_int_equal(w->cpu.r[X86_RIP], IMAGE_ELF_PHYS + 4);
    dp_st64(i.data + 24, 0x12345);
    assert_refused(w, &i, "entry 0x12345");
    free(i.data);
}

/* ---- PVH ---- */

static void test_pvh(void **state)
{
    struct world *w = *state;
    uint8_t data[5000];
    memset(data, 0x33, sizeof data);
    struct dp_boot_blob initrd = {"a", data, sizeof data};
    w->r.initrd = &initrd;
    w->r.initrd_count = 1;
    w->r.cmdline = "x y";
    for (int is64 = 0; is64 < 2; is64++) {
        struct image i = image_pvh(is64);
        assert_ok(load(w, &i), w->e);
        assert_flat32(w, IMAGE_ELF_PHYS);
        assert_code(w, IMAGE_ELF_PHYS);
        for (unsigned n = IMAGE_ELF_FILESZ; n < IMAGE_ELF_MEMSZ; n++)
            assert_int_equal(w->ram->host[IMAGE_ELF_PHYS + n], 0);
        uint64_t info = w->cpu.r[X86_RBX];
        assert_int_equal(rd32(w, info), 0x336ec578);
        assert_int_equal(rd32(w, info + 4), 1);
        assert_int_equal(rd32(w, info + 12), 1);
        uint32_t modules = rd32(w, info + 16);
        assert_text(w, rd32(w, info + 24), "x y");
        assert_int_equal(rd32(w, info + 32), 0xe0000);
        assert_int_equal(rd32(w, info + 48), DP_ARRAY_LEN(map));
        assert_int_equal(rd32(w, rd32(w, info + 40) + 24 * 3), 0x100000);
        assert_int_equal(rd32(w, modules + 8), sizeof data);
        assert_memory_equal(w->ram->host + rd32(w, modules), data, sizeof data);
        free(i.data);
    }
}

static void test_pvh_bad(void **state)
{
    struct world *w = *state;
    struct image c;
#define CASE(words, ...)                                                                                                                   \
    do {                                                                                                                                   \
        c = image_pvh(true);                                                                                                               \
        __VA_ARGS__;                                                                                                                       \
        assert_refused(w, &c, words);                                                                                                      \
        free(c.data);                                                                                                                      \
    } while (0)
    uint8_t *n;
    CASE("PVH entry 0x100", n = c.data + IMAGE_ELF_NOTE + 20 + 16; dp_st32(n, 0x100));
    CASE("PVH entry", n = c.data + IMAGE_ELF_NOTE + 20 + 16; dp_st64(n, ~0ull));
    CASE("not 4 or 8", dp_st32(c.data + IMAGE_ELF_NOTE + 24, 3));
    CASE("without", dp_st32(c.data + IMAGE_ELF_NOTE, 0xffffffff));     /* note name that runs off */
    CASE("without", dp_st32(c.data + IMAGE_ELF_NOTE + 4, 0xffffffff)); /* descriptor likewise */
    CASE("without", dp_st32(c.data + IMAGE_ELF_NOTE + 24, 0x7fffffff));
    CASE("ends past the file", image_set_note_size(&c, 0x80000000));
#undef CASE
}

/* ---- ELF as such ---- */

static void test_elf_bad(void **state)
{
    struct world *w = *state;
    struct image c;
#define CASE(words, ...)                                                                                                                   \
    do {                                                                                                                                   \
        c = image_pvh(true);                                                                                                               \
        __VA_ARGS__;                                                                                                                       \
        assert_refused(w, &c, words);                                                                                                      \
        free(c.data);                                                                                                                      \
    } while (0)
    CASE("class 3", c.data[4] = 3);
    CASE("encoding 2", c.data[5] = 2);
    CASE("machine 183", dp_st16(c.data + 18, 183));
    CASE("header is incomplete", c.size = 40);
    CASE("0 program headers", dp_st16(c.data + 56, 0));
    CASE("65535 program headers", dp_st16(c.data + 56, 0xffff));
    CASE("of 8 bytes", dp_st16(c.data + 54, 8));
    CASE("program headers are missing", dp_st64(c.data + 32, ~0ull - 8));
    CASE("ends past the file", c.size -= 1);
    CASE("ends past the file", dp_st64(c.data + 64 + 8, ~0ull - 4)); /* offset */
    CASE("ends past the file", dp_st64(c.data + 64 + 32, ~0ull));    /* filesz */
    CASE("larger in the file", dp_st64(c.data + 64 + 40, 1));        /* memsz */
    CASE("end of the address space", dp_st64(c.data + 64 + 40, ~0ull));
    CASE("no free memory", {
        dp_st64(c.data + 64 + 24, 0xa0000);
        dp_st32(c.data + IMAGE_ELF_NOTE + 36, 0xa0000);
    });
    CASE("try -m", {
        dp_st64(c.data + 64 + 24, 0x8000000);
        dp_st32(c.data + IMAGE_ELF_NOTE + 36, 0x8000000);
    });
    CASE("overlaps", {
        dp_st16(c.data + 56, 3);
        memcpy(c.data + 176, c.data + 64, 56);
    });
#undef CASE
    c = image_new(0);
    assert_refused(w, &c, "empty");
    free(c.data);
    c = image_new(3000);
    assert_refused(w, &c, "none of what doppel boots");
    free(c.data);
}

/* ---- Multiboot ---- */

static void test_multiboot_elf(void **state)
{
    struct world *w = *state;
    for (int is64 = 0; is64 < 2; is64++) {
        struct image i = image_multiboot_elf(is64);
        w->r.cmdline = "a b c";
        assert_ok(load(w, &i), w->e);
        assert_flat32(w, IMAGE_ELF_PHYS); /* the virtual entry translated */
        assert_code(w, IMAGE_ELF_PHYS);
        assert_int_equal(w->cpu.r[X86_RAX], 0x2badb002);
        uint64_t info = w->cpu.r[X86_RBX];
        assert_int_equal(rd32(w, info), 1 << 0 | 1 << 2 | 1 << 6 | 1 << 9);
        assert_int_equal(rd32(w, info + 4), 639);
        assert_int_equal(rd32(w, info + 8), (RAM_SIZE >> 10) - 1024);
        assert_text(w, rd32(w, info + 16), "a b c");
        assert_text(w, rd32(w, info + 64), "doppel");
        assert_int_equal(rd32(w, info + 44), DP_ARRAY_LEN(map) * 24);
        uint32_t entries = rd32(w, info + 48);
        for (unsigned n = 0; n < DP_ARRAY_LEN(map); n++) {
            assert_int_equal(rd32(w, entries + 24 * n), 20);
            assert_int_equal(rd32(w, entries + 24 * n + 4), map[n].base);
            assert_int_equal(rd32(w, entries + 24 * n + 12), map[n].size);
            assert_int_equal(rd32(w, entries + 24 * n + 20), map[n].type);
        }
        free(i.data);
    }
}

static void test_multiboot_flat(void **state)
{
    struct world *w = *state;
    struct image i = image_multiboot_flat();
    uint8_t data[5000];
    memset(data, 0x44, sizeof data);
    struct dp_boot_blob modules[] = {{"first", data, sizeof data}, {"empty", data, 0}, {"third", data, 1}};
    w->r.initrd = modules;
    w->r.initrd_count = 3;
    assert_ok(load(w, &i), w->e);
    assert_flat32(w, IMAGE_FLAT_LOAD + 0x60);
    assert_code(w, IMAGE_FLAT_LOAD + 0x60);
    assert_int_equal(w->ram->host[IMAGE_FLAT_LOAD + IMAGE_FLAT_SIZE], 0);
    assert_int_equal(w->ram->host[IMAGE_FLAT_LOAD + IMAGE_FLAT_SIZE + 4095], 0);
    uint64_t info = w->cpu.r[X86_RBX];
    assert_int_equal(rd32(w, info + 20), 3);
    uint32_t list = rd32(w, info + 24), last = IMAGE_FLAT_LOAD + IMAGE_FLAT_SIZE + 4096;
    for (unsigned n = 0; n < 3; n++) {
        uint32_t start = rd32(w, list + 16 * n), end = rd32(w, list + 16 * n + 4);
        assert_int_equal(start % 4096, 0);
        assert_true(start >= last);
        assert_int_equal(end - start, modules[n].size);
        assert_memory_equal(w->ram->host + start, data, modules[n].size);
        assert_text(w, rd32(w, list + 16 * n + 8), modules[n].name);
        last = end;
    }
    /* Without load_end: to the end of the file; without bss_end: no bss. */
    dp_st32(i.data + IMAGE_FLAT_HEADER + 20, 0);
    dp_st32(i.data + IMAGE_FLAT_HEADER + 24, 0);
    assert_ok(load(w, &i), w->e);
    /* A kernel in conventional memory shares it with what the loader puts there. */
    for (unsigned n = 12; n <= 28; n += 4)
        if (n != 20 && n != 24)
            dp_st32(i.data + IMAGE_FLAT_HEADER + n, dp_ld32(i.data + IMAGE_FLAT_HEADER + n) - IMAGE_FLAT_LOAD + 0x1000);
    assert_ok(load(w, &i), w->e);
    assert_flat32(w, 0x1060);
    assert_code(w, 0x1060);
    assert_true(w->cpu.r[X86_RBX] >= 0x1000 + IMAGE_FLAT_SIZE);
    free(i.data);
}

static void test_multiboot_bad(void **state)
{
    struct world *w = *state;
    struct image c;
    uint8_t *h;
#define CASE(words, ...)                                                                                                                   \
    do {                                                                                                                                   \
        c = image_multiboot_flat();                                                                                                        \
        h = c.data + IMAGE_FLAT_HEADER;                                                                                                    \
        __VA_ARGS__;                                                                                                                       \
        assert_refused(w, &c, words);                                                                                                      \
        free(c.data);                                                                                                                      \
    } while (0)
    CASE("flags 0x10008", image_put_multiboot(h, 1 << 16 | 8));
    CASE("contradict", dp_st32(h + 12, 0));
    CASE("contradict", dp_st32(h + 16, 0));
    CASE("truncated", dp_st32(h + 20, 0xffffffff));
    CASE("truncated", dp_st32(h + 20, IMAGE_FLAT_LOAD - 1));
    CASE("bss ends before", dp_st32(h + 24, IMAGE_FLAT_LOAD + 1));
    CASE("no free memory", dp_st32(h + 24, 0xffffffff));
    CASE("outside of what is loaded", dp_st32(h + 28, 0));
    CASE("incomplete", c.size = IMAGE_FLAT_HEADER + 20);
    CASE("not ELF", image_put_multiboot(h, 3));
    CASE("none of what", h[8]++); /* checksum: no header at all */
#undef CASE
    /* The header counts only in the first 8 KiB and aligned. */
    c = image_new(16384);
    image_put_multiboot(c.data + 8192 - 8, 1 << 16);
    image_put_multiboot(c.data + 102, 1 << 16);
    assert_refused(w, &c, "none of what");
    free(c.data);
}

/* Whatever single byte is changed: no crash, and no success with an entry outside memory. */
static void test_mutations(void **state)
{
    struct world *w = *state;
    struct image base[] = {image_bzimage(0x10000),     image_pvh(true),       image_pvh(false), image_multiboot_elf(true),
                           image_multiboot_elf(false), image_multiboot_flat()};
    static const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff};
    for (size_t k = 0; k < DP_ARRAY_LEN(base); k++) {
        struct image *i = &base[k];
        for (size_t at = 0; at < DP_MIN(i->size, (size_t)0x280); at++)
            for (size_t n = 0; n < DP_ARRAY_LEN(values); n++) {
                uint8_t old = i->data[at];
                i->data[at] = values[n];
                if (!load(w, i))
                    assert_true(w->cpu.r[X86_RIP] < RAM_SIZE);
                i->data[at] = old;
            }
        for (size_t size = 0; size < i->size; size += 1 + size / 16) {
            struct image cut = {i->data, size};
            (void)!load(w, &cut);
        }
        free(i->data);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_bzimage),       TEST(test_bzimage_one_initrd_exact),
        TEST(test_bzimage_32),    TEST(test_bzimage_bad),
        TEST(test_vmlinux),       TEST(test_pvh),
        TEST(test_pvh_bad),       TEST(test_elf_bad),
        TEST(test_multiboot_elf), TEST(test_multiboot_flat),
        TEST(test_multiboot_bad), TEST(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
