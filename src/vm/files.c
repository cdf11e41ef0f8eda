/* vm/files.c - see files.h. */
#include "vm/files.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRMWARE_FILE_MAX (16ull << 20)

int vm_file_open(const char *what, const char *path, struct vm_file *f, struct dp_error *e)
{
    struct stat st;
    /* O_NONBLOCK: opening a FIFO must not wait for a writer before it is refused. */
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (f->fd < 0)
        return dp_error_set(e, -errno, "%s %s: %s", what, path, strerror(errno));
    if (fstat(f->fd, &st))
        return dp_error_set(e, -errno, "%s %s: %s", what, path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return dp_error_set(e, -EINVAL, "%s %s is %s: give a regular file", what, path,
                            S_ISDIR(st.st_mode) ? "a directory" : "a device or a pipe");
    f->name = strdup(path);
    return f->name ? 0 : dp_error_set(e, -ENOMEM, "no memory");
}

void vm_file_close(struct vm_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    free(f->name);
}

int vm_file_read(const char *what, const struct vm_file *f, uint64_t limit, struct dp_boot_blob *blob, struct dp_error *e)
{
    struct stat st;
    if (fstat(f->fd, &st))
        return dp_error_set(e, -errno, "%s %s: %s", what, f->name, strerror(errno));
    uint64_t size = (uint64_t)st.st_size, done = 0;
    if (size > limit)
        return dp_error_set(e, -EFBIG, "%s %s has %" PRIu64 "M, more than the %" PRIu64 "M that this machine can load: try a larger -m",
                            what, f->name, size >> 20, limit >> 20);
    uint8_t *data = malloc(size ? size : 1);
    if (!data)
        return dp_error_set(e, -ENOMEM, "%s %s: no memory for %" PRIu64 " bytes", what, f->name, size);
    while (done < size) {
        ssize_t n = pread(f->fd, data + done, size - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int rc = dp_error_set(e, -errno, "%s %s: %s", what, f->name, strerror(errno));
            free(data);
            return rc;
        }
        if (!n)
            break; /* it became shorter */
        done += (uint64_t)n;
    }
    *blob = (struct dp_boot_blob){f->name, data, done};
    return 0;
}

int vm_read_whole(const char *what, const char *path, struct dp_boot_blob *out, struct dp_error *e)
{
    struct vm_file f = {.fd = -1};
    int rc = vm_file_open(what, path, &f, e);
    if (!rc)
        rc = vm_file_read(what, &f, FIRMWARE_FILE_MAX, out, e);
    out->name = what;
    vm_file_close(&f);
    return rc;
}
