/* file.c - files and block devices of the host: opening, locking (file.h), and as a protocol of images.
 *
 * Model: byte n of the disk is byte n of the file. A file grows with what is written behind its end, a device does not.
 * Source: file.h; fallocate(2), lseek(2) SEEK_DATA, ioctl_list BLKGETSIZE64.
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/file.h"
#include "block/image_internal.h"

enum { LOCK_USED = 100, LOCK_UNSHARED = 200, TRIES = 25, PAUSE_US = 20000 };
enum { READS = 1, WRITES = 2, RESIZES = 8, PERMISSIONS = 4 }; /* bits */
enum { PIECES = 64, TRANSFER_MAX = 1 << 30 };

/* ---- locks ---- */

static int lock_byte(int fd, int command, int type, unsigned byte)
{
    struct flock range = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(fd, command, &range))
        return -errno;
    return command == F_OFD_GETLK && range.l_type != F_UNLCK ? -EAGAIN : 0;
}

static int look_for_others(int fd, unsigned used, unsigned unshared)
{
    int rc = 0;
    for (unsigned i = 0; !rc && i < PERMISSIONS; i++) {
        if (used & 1u << i)
            rc = lock_byte(fd, F_OFD_GETLK, F_WRLCK, LOCK_UNSHARED + i);
        if (!rc && unshared & 1u << i)
            rc = lock_byte(fd, F_OFD_GETLK, F_WRLCK, LOCK_USED + i);
    }
    return rc;
}

/* A program that was killed while io_uring worked for it keeps its files for some milliseconds after its end. */
static int lock_file(const struct dp_file_options *o, int fd, struct dp_error *e)
{
    unsigned used = o->readonly ? READS : READS | WRITES | RESIZES, unshared = WRITES | RESIZES;
    int rc = 0;
    for (unsigned i = 0; !rc && i < PERMISSIONS; i++) {
        if (used & 1u << i)
            rc = lock_byte(fd, F_OFD_SETLK, F_RDLCK, LOCK_USED + i);
        if (!rc && unshared & 1u << i)
            rc = lock_byte(fd, F_OFD_SETLK, F_RDLCK, LOCK_UNSHARED + i);
    }
    for (unsigned n = 0; !rc && (rc = look_for_others(fd, used, unshared)) == -EAGAIN && n < TRIES; n++, rc = 0)
        usleep(PAUSE_US);
    if (rc == -EAGAIN || rc == -EACCES)
        return dp_error_set(e, -EBUSY,
                            "disk %s is in use by another virtual machine or program%s; stop that one first, or give each its own copy",
                            o->name, o->readonly ? ", which writes to it" : "");
    /* A file system without locks (some network ones): usable, but the user should know that nothing guards the image. */
    if (rc && o->trace)
        dp_trace_emit(o->trace, DP_TRACE_BLOCK, "disk %s: cannot be locked (%s); make sure nobody else uses it", o->name, strerror(-rc));
    return 0;
}

/* ---- opening ---- */

static int explain(const struct dp_file_options *o, int code, struct dp_error *e)
{
    const char *name = o->name;
    if (!o->readonly && (code == -EACCES || code == -EROFS || code == -EPERM))
        return dp_error_set(e, code, "disk %s cannot be written: %s; change its permissions, or add ,ro to open it read-only", name,
                            strerror(-code));
    if (code == -ENOENT && !o->create)
        return dp_error_set(e, code, "disk %s does not exist; make an empty one with: doppel image create %s 4G", name, name);
    if (code == -EISDIR)
        return dp_error_set(e, code, "disk %s is a directory; name an image file or a block device", name);
    return dp_error_set(e, code, "disk %s cannot be opened: %s", name, strerror(-code));
}

static int measure(const struct dp_file_options *o, struct dp_file *f, struct dp_error *e)
{
    struct stat st;
    /* O_NONBLOCK goes away because io_uring takes it to mean "fail rather than wait". */
    if (fstat(f->fd, &st) || fcntl(f->fd, F_SETFL, fcntl(f->fd, F_GETFL) & ~O_NONBLOCK))
        return dp_error_set(e, -errno, "disk %s cannot be examined: %s", o->name, strerror(errno));
    f->regular = S_ISREG(st.st_mode);
    f->length = st.st_size;
    if (!f->regular && !S_ISBLK(st.st_mode))
        return dp_error_set(e, -EINVAL, "disk %s is neither a regular file nor a block device; name an image file", o->name);
    if (!f->regular && ioctl(f->fd, BLKGETSIZE64, &f->length))
        return dp_error_set(e, -errno, "disk %s: cannot find out its size: %s", o->name, strerror(errno));
    return 0;
}

int dp_file_open(const struct dp_file_options *o, struct dp_file *f, struct dp_error *e)
{
    /* O_NONBLOCK: opening a FIFO must not hang. */
    int flags = (o->readonly ? O_RDONLY : O_RDWR) | (o->create ? O_CREAT : 0) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    if ((f->fd = open(o->name, flags, 0666)) < 0)
        return explain(o, -errno, e);
    int rc = measure(o, f, e);
    if (!rc && !o->unlocked)
        rc = lock_file(o, f->fd, e);
    if (!rc && o->create && f->regular) {
        f->length = 0;
        if (ftruncate(f->fd, 0))
            rc = dp_error_set(e, -errno, "disk %s cannot be emptied: %s", o->name, strerror(errno));
    }
    if (rc) {
        close(f->fd);
        f->fd = -1;
    }
    return rc;
}

/* ---- as an image ---- */

struct file_image {
    struct dp_image image;
    struct dp_file file;
    bool unsafe;
    uint64_t data_from, data_to; /* no hole is there, or it was made meanwhile: on a tmpfs finding the end of data looks at each page */
};

static struct file_image *of(struct dp_image *i) { return (struct file_image *)i; }

int dp_image_file_descriptor(const struct dp_image *i)
{
    return i->format == &dp_image_file ? ((const struct file_image *)i)->file.fd : -1;
}

static int open_(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    struct dp_file_options file = {
        .name = i->name, .readonly = i->readonly, .create = i->chain && i->chain->create, .unlocked = o->unlocked, .trace = i->trace};
    of(i)->file.fd = -1;
    of(i)->unsafe = o->unsafe;
    int rc = dp_image_chain_add(i, e);
    if (!rc)
        rc = dp_file_open(&file, &of(i)->file, e);
    i->size = of(i)->file.length;
    return rc;
}

static void close_(struct dp_image *i)
{
    if (of(i)->file.fd >= 0)
        close(of(i)->file.fd); /* gives up the locks */
}

static int transfer(struct dp_image *i, struct dp_cursor *c, bool write, uint64_t at, uint64_t size)
{
    while (size) {
        struct dp_cursor ahead = *c;
        struct iovec v[PIECES];
        uint64_t bytes = 0;
        int n = 0;
        while (n < PIECES && bytes < DP_MIN(size, (uint64_t)TRANSFER_MAX)) {
            v[n] = dp_cursor_take(&ahead, DP_MIN(size, (uint64_t)TRANSFER_MAX) - bytes);
            bytes += v[n++].iov_len;
        }
        int fd = of(i)->file.fd;
        ssize_t done = write ? pwritev(fd, v, n, at) : preadv(fd, v, n, at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return -errno;
        if (!done) /* a write that writes nothing and says no reason; or the file is shorter than it was */
            return -EIO;
        dp_cursor_skip(c, done);
        at += done;
        size -= done;
        if (write && at > i->size)
            i->size = at;
    }
    return 0;
}

static int read_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) { return transfer(i, c, false, offset, size); }
static int write_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) { return transfer(i, c, true, offset, size); }

static int zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags)
{
    int fd = of(i)->file.fd;
    uint64_t inside = offset < i->size ? DP_MIN(size, i->size - offset) : 0;
    bool unsupported = false;
    of(i)->data_to = 0;
    if (inside && (flags || of(i)->file.regular)) {
        int mode = flags ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
        if (fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, offset, inside)) {
            unsupported = errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL || errno == ENODEV;
            if (!unsupported)
                return -errno;
        }
    } else {
        unsupported = inside;
    }
    if (unsupported)
        return flags & DP_ZERO_DISCARD ? 0 : -ENOTSUP;
    if (inside == size || flags & DP_ZERO_DISCARD)
        return 0;
    if (ftruncate(fd, offset + size)) /* what is new is zeros */
        return -errno;
    i->size = offset + size;
    return 0;
}

static bool flush_is_plain(const struct dp_image *i) { return !((const struct file_image *)i)->unsafe; }
static int flush(struct dp_image *i) { return !of(i)->unsafe && fdatasync(of(i)->file.fd) ? -errno : 0; }

static int extent(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x)
{
    int fd = of(i)->file.fd;
    *x = (struct dp_extent){.kind = DP_EXTENT_DATA, .size = size, .offset = offset, .has_offset = true};
    if (offset >= of(i)->data_from && offset < of(i)->data_to) {
        x->size = DP_MIN(size, of(i)->data_to - offset);
        return 0;
    }
    off_t data = of(i)->file.regular ? lseek(fd, offset, SEEK_DATA) : (off_t)offset;
    if (data < 0 && errno != ENXIO) /* a file system that cannot tell: all is data */
        return 0;
    if (data != (off_t)offset) {
        x->kind = DP_EXTENT_ZEROS;
        x->size = data < 0 ? size : DP_MIN(size, (uint64_t)data - offset);
        return 0;
    }
    off_t hole = of(i)->file.regular ? lseek(fd, offset, SEEK_HOLE) : -1;
    if (hole > (off_t)offset) {
        x->size = DP_MIN(size, (uint64_t)hole - offset);
        of(i)->data_from = offset;
        of(i)->data_to = hole;
    }
    return 0;
}

int dp_image_file_share(struct dp_image *i, uint64_t keep, uint64_t drop, uint64_t size)
{
    int fd = dp_image_file_descriptor(i);
    union {
        struct file_dedupe_range range;
        uint8_t space[sizeof(struct file_dedupe_range) + sizeof(struct file_dedupe_range_info)];
    } u = {.range = {.src_offset = keep, .src_length = size, .dest_count = 1}};
    if (fd < 0)
        return -EOPNOTSUPP;
    u.range.info[0] = (struct file_dedupe_range_info){.dest_fd = fd, .dest_offset = drop};
    if (ioctl(fd, FIDEDUPERANGE, &u))
        return errno == ENOTTY || errno == EINVAL || errno == ENOSYS ? -EOPNOTSUPP : -errno;
    int status = u.range.info[0].status;
    return status == -EINVAL || status == -ENOTTY ? -EOPNOTSUPP : status; /* FILE_DEDUPE_RANGE_DIFFERS is 1 */
}

static int resize(struct dp_image *i, uint64_t size, struct dp_error *e)
{
    if (!of(i)->file.regular)
        return size <= i->size ? 0 : dp_error_set(e, -ENOSPC, "%s is a device: its size cannot be changed here", i->name);
    if (ftruncate(of(i)->file.fd, size))
        return dp_error_set(e, -errno, "%s cannot be resized: %s", i->name, strerror(errno));
    i->size = size;
    of(i)->data_to = 0;
    return 0;
}

const struct dp_image_format dp_image_file = {
    .name = "file",
    .summary = "a file or block device of this host",
    .instance_size = sizeof(struct file_image),
    .scheme = "file",
    .open = open_,
    .close = close_,
    .read = read_,
    .write = write_,
    .zero = zero,
    .flush = flush,
    .flush_is_plain = flush_is_plain,
    .extent = extent,
    .resize = resize,
};
