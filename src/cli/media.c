/* cli/media.c - see media.h. Source: ISO 9660 (ECMA-119) 8.1 for the volume descriptor at sector 16. */
#include "cli/media.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define K 1024ull
static const uint64_t floppy_sizes[] = {160 * K, 180 * K, 320 * K, 360 * K, 720 * K, 1200 * K, 1440 * K, 1680 * K, 1722 * K, 2880 * K};

int cli_media_kind(const char *path, enum cli_media *kind, struct dp_error *e)
{
    enum { DESCRIPTOR = 16 * 2048 };
    struct stat st;
    char id[6] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        int rc = dp_error_set(e, -errno, "%s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    *kind = CLI_MEDIA_DISK;
    if (pread(fd, id, sizeof id, DESCRIPTOR) == sizeof id && !memcmp(id + 1, "CD001", 5))
        *kind = CLI_MEDIA_CDROM;
    for (size_t i = 0; S_ISREG(st.st_mode) && *kind == CLI_MEDIA_DISK && i < DP_ARRAY_LEN(floppy_sizes); i++)
        if ((uint64_t)st.st_size == floppy_sizes[i])
            *kind = CLI_MEDIA_FLOPPY;
    close(fd);
    return 0;
}

static const char *first(const char *const *paths)
{
    while (*paths && access(*paths, R_OK))
        paths++;
    return *paths;
}

const char *cli_firmware(const char *name, struct dp_error *e)
{
    static const char *const bios[] = {"/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin", "/usr/share/seabios/bios.bin", NULL};
    if (strcmp(name, "bios"))
        return name;
    const char *path = first(bios);
    if (!path)
        dp_error_set(e, -ENOENT, "no SeaBIOS on this host: install the package seabios, or give --firmware FILE");
    return path;
}

const char *cli_vga_bios(void)
{
    static const char *const paths[] = {"/usr/share/seabios/vgabios-stdvga.bin", "/usr/share/qemu/vgabios-stdvga.bin", NULL};
    return first(paths);
}
