/* make_images.c - writes the kernels of images.h, and broken ones, into a folder for the command's tests. */
#include "tests/vm/images.h"

static void save(const char *folder, const char *name, struct image i, size_t size)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(i.data, 1, size, f) != size || fclose(f)) {
        perror(path);
        exit(1);
    }
    free(i.data);
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : ".";
    struct image i;
    i = image_bzimage(0x10000);
    save(folder, "bzimage", i, i.size);
    i = image_bzimage(0x10000);
    save(folder, "bzimage-truncated", i, i.size - 1024);
    i = image_bzimage(0x10000);
    save(folder, "bzimage-header", i, 0x240);
    i = image_bzimage(1u << 30);
    save(folder, "bzimage-large", i, i.size);
    i = image_pvh(true);
    save(folder, "pvh", i, i.size);
    i = image_multiboot_flat();
    save(folder, "multiboot", i, i.size);
    i = image_multiboot_elf(true);
    save(folder, "multiboot-elf64", i, i.size);
    i = image_multiboot_elf(false);
    save(folder, "multiboot-elf32-truncated", i, 0x1080);
    i = image_new(4096);
    for (size_t n = 0; n < i.size; n++)
        i.data[n] = (uint8_t)(n * 167 + (n >> 3));
    save(folder, "garbage", i, i.size);
    save(folder, "empty", image_new(0), 0);
    return 0;
}
