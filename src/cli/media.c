/* cli/media.c - see media.h. Source: ISO 9660 (ECMA-119) 8.1 for the volume descriptor at sector 16. */
#include "cli/media.h"

#include <fcntl.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define K 1024ull
/* The formats that the floppy controller has (devices/storage/fdc_medium.c). */
static const uint64_t floppy_sizes[] = {160 * K,  180 * K,  320 * K,  360 * K,  640 * K,  720 * K,  800 * K,  820 * K,  1200 * K, 1440 * K,
                                        1476 * K, 1600 * K, 1680 * K, 1722 * K, 1743 * K, 1760 * K, 1840 * K, 1920 * K, 2880 * K, 3120 * K,
                                        3200 * K};

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
    const char *dot = strrchr(path, '.');
    bool read_only = !(st.st_mode & 0222) || (dot && !strcasecmp(dot, ".iso"));
    *kind = CLI_MEDIA_DISK;
    if (read_only && pread(fd, id, sizeof id, DESCRIPTOR) == sizeof id && !memcmp(id + 1, "CD001", 5))
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

const char *cli_firmware(const char *name, const char **variables, struct dp_error *e)
{
    static const char *const bios[] = {"/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin", "/usr/share/seabios/bios.bin",
                                       NULL};
    static const char *const code[] = {"/usr/share/OVMF/OVMF_CODE_4M.fd", NULL}, *const vars[] = {"/usr/share/OVMF/OVMF_VARS_4M.fd", NULL};
    bool uefi = !strcmp(name, "uefi");
    *variables = uefi ? first(vars) : NULL;
    if (!uefi && strcmp(name, "bios"))
        return name;
    const char *path = first(uefi ? code : bios);
    if (!path || (uefi && !*variables)) {
        dp_error_set(e, -ENOENT, "no %s on this host: install the package %s, or give --firmware FILE", uefi ? "OVMF" : "SeaBIOS",
                     uefi ? "ovmf" : "seabios");
        return NULL;
    }
    return path;
}

const char *cli_nic_rom(const char *model, bool uefi)
{
    static const struct {
        const char *model, *bios[2], *uefi[2];
    } roms[] = {
        {"virtio", {"/usr/lib/ipxe/qemu/pxe-virtio.rom", NULL}, {"/usr/lib/ipxe/qemu/efi-virtio.rom", NULL}},
        {"e1000", {"/usr/lib/ipxe/qemu/pxe-e1000.rom", NULL}, {"/usr/lib/ipxe/qemu/efi-e1000.rom", NULL}},
        {"rtl8139", {"/usr/lib/ipxe/qemu/pxe-rtl8139.rom", NULL}, {"/usr/lib/ipxe/qemu/efi-rtl8139.rom", NULL}},
        {"ne2k", {"/usr/lib/ipxe/qemu/pxe-ne2k_pci.rom", NULL}, {"/usr/lib/ipxe/qemu/efi-ne2k_pci.rom", NULL}},
    };
    for (size_t i = 0; i < DP_ARRAY_LEN(roms); i++)
        if (!strcmp(roms[i].model, *model ? model : "virtio"))
            return first(uefi ? roms[i].uefi : roms[i].bios);
    return NULL;
}

int cli_make_variables(const char *path, const char *variables, struct dp_error *e)
{
    if (!access(path, F_OK))
        return 0;
    uint8_t data[65536];
    int from = open(variables, O_RDONLY | O_CLOEXEC), to = from < 0 ? -1 : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600),
        rc = 0;
    ssize_t n = -1;
    while (to >= 0 && (n = read(from, data, sizeof data)) > 0)
        if (write(to, data, (size_t)n) != n) {
            n = -1;
            break;
        }
    if (to < 0 || n)
        rc = dp_error_set(e, -errno, "cannot make %s from %s: %s", path, variables, strerror(errno));
    if (rc && to >= 0)
        unlink(path);
    if (from >= 0)
        close(from);
    if (to >= 0)
        close(to);
    return rc;
}

const char *cli_vga_bios(void)
{
    static const char *const paths[] = {"/usr/share/seabios/vgabios-stdvga.bin", "/usr/share/qemu/vgabios-stdvga.bin", NULL};
    return first(paths);
}
