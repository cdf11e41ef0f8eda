/* control/rundir.c - see rundir.h.
 *
 * A folder may be removed by its last owner while the next one enters it: whoever has locked `pid` checks that the file is still the one of
 * that name, and begins anew if not. Removal takes `pid` away while it is locked, and the folder only if nobody has put a new file there.
 */
#include "control/rundir.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int dp_rundir_check_name(const char *name, struct dp_error *e)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t length = strlen(name);
    if (!length || length > DP_RUNDIR_NAME_MAX || strspn(name, letters) != length || strchr("._-", *name))
        return dp_error_set(e, -EINVAL, "'%.60s' is no name for a VM or network: take up to %d letters, digits, '.', '_' and '-', the first a letter or digit",
                            name, DP_RUNDIR_NAME_MAX);
    return 0;
}

/* It must be a folder that nobody else can enter: its content is trusted. */
static int check_private(const char *path, struct dp_error *e)
{
    struct stat st;
    if (lstat(path, &st))
        return dp_error_set(e, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 077)
        return dp_error_set(e, -EPERM, "%s is not a folder of yours alone: remove it, or set XDG_RUNTIME_DIR to another place", path);
    return 0;
}

static int base_folder(char *path, size_t size, struct dp_error *e)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    char user[32];
    int n;
    snprintf(user, sizeof user, "/run/user/%u", (unsigned)geteuid());
    if (!runtime || *runtime != '/') /* the XDG specification: a path that is not absolute is ignored */
        runtime = access(user, W_OK | X_OK) ? NULL : user;
    if (runtime)
        n = snprintf(path, size, "%s/doppel", runtime);
    else
        n = snprintf(path, size, "/tmp/doppel-%u", (unsigned)geteuid());
    if (n < 0 || (size_t)n >= size)
        return dp_error_set(e, -ENAMETOOLONG, "XDG_RUNTIME_DIR is too long: set it to a shorter path");
    return 0;
}

static int folder_of(const char *name, char *path, size_t size, struct dp_error *e)
{
    int rc = dp_rundir_check_name(name + (*name == DP_RUNDIR_NETWORK), e);
    if (!rc)
        rc = base_folder(path, size, e);
    if (rc)
        return rc;
    size_t n = strlen(path);
    if ((size_t)snprintf(path + n, size - n, "/%s", name) >= size - n)
        return dp_error_set(e, -ENAMETOOLONG, "XDG_RUNTIME_DIR is too long: set it to a shorter path");
    return 0;
}

static int make_private(const char *path, struct dp_error *e)
{
    if (mkdir(path, 0700) && errno != EEXIST)
        return dp_error_set(e, -errno, "cannot make the folder %s: %s", path, strerror(errno));
    return check_private(path, e);
}

static void in_folder(char *out, size_t size, const char *folder, const char *file) { snprintf(out, size, "%s/%s", folder, file); }

/* The number in a locked `pid`, 0 if it cannot be read. */
static long read_pid(int fd)
{
    char text[24] = "";
    return pread(fd, text, sizeof text - 1, 0) > 0 ? strtol(text, NULL, 10) : 0;
}

/* Whoever looks whether a lock is held must not hold one meanwhile, or a claim at that moment would fail: F_OFD_GETLK only asks. */
static int lock_command(int fd, int command, struct flock *l)
{
    *l = (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, command, l);
}

/* The folder and the lock on its `pid`. -EAGAIN: the last owner removed them meanwhile, begin anew. */
static int enter(const char *folder, const char *file, int *out, struct dp_error *e)
{
    struct stat here, there;
    struct flock l;
    int rc = make_private(folder, e);
    if (rc)
        return rc == -ENOENT ? -EAGAIN : rc;
    int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return errno == ENOENT ? -EAGAIN : dp_error_set(e, -errno, "%s: %s", file, strerror(errno));
    if (lock_command(fd, F_OFD_SETLK, &l)) {
        rc = errno == EAGAIN || errno == EACCES
                 ? dp_error_set(e, -EBUSY, "one of this name is running (process %ld): take another name", read_pid(fd))
                 : dp_error_set(e, -errno, "cannot lock %s: %s", file, strerror(errno));
    } else if (fstat(fd, &here) || lstat(file, &there) || here.st_ino != there.st_ino || here.st_dev != there.st_dev) {
        rc = -EAGAIN;
    } else {
        *out = fd;
        return 0;
    }
    close(fd);
    return rc;
}

static void remove_sockets(const char *folder)
{
    static const char *const names[] = {"control", "vnc", "ports"};
    char file[DP_RUNDIR_PATH_MAX + 16];
    for (unsigned i = 0; i < DP_ARRAY_LEN(names); i++) {
        in_folder(file, sizeof file, folder, names[i]);
        unlink(file);
    }
}

int dp_rundir_claim(const char *name, struct dp_rundir *out, struct dp_error *e)
{
    char base[DP_RUNDIR_PATH_MAX], file[DP_RUNDIR_PATH_MAX + 16] = "", text[24];
    int rc = folder_of(name, out->path, sizeof out->path, e);
    if (!rc)
        rc = base_folder(base, sizeof base, e);
    if (!rc)
        rc = make_private(base, e);
    if (!rc) {
        int tries = 100;
        in_folder(file, sizeof file, out->path, "pid");
        do
            rc = enter(out->path, file, &out->lock_fd, e);
        while (rc == -EAGAIN && --tries);
        if (rc == -EAGAIN)
            rc = dp_error_set(e, -EBUSY, "%s comes and goes: take another name", out->path);
    }
    if (rc) {
        out->path[0] = 0;
        return dp_error_prefix(e, rc, "name %s", name + (*name == DP_RUNDIR_NETWORK));
    }
    int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(out->lock_fd, 0) || pwrite(out->lock_fd, text, (size_t)n, 0) != n) {
        rc = dp_error_set(e, -errno, "name %s: cannot write %s: %s", name, file, strerror(errno));
        dp_rundir_release(out);
        return rc;
    }
    remove_sockets(out->path); /* of an owner that died */
    return 0;
}

void dp_rundir_release(struct dp_rundir *d)
{
    char file[DP_RUNDIR_PATH_MAX + 16];
    if (!d->path[0])
        return;
    remove_sockets(d->path);
    in_folder(file, sizeof file, d->path, "pid");
    unlink(file);
    rmdir(d->path);
    close(d->lock_fd);
    d->path[0] = 0;
}

int dp_rundir_socket(const char *name, char *path, size_t size, struct dp_error *e)
{
    char folder[DP_RUNDIR_PATH_MAX];
    int rc = folder_of(name, folder, sizeof folder, e);
    if (!rc && (size_t)snprintf(path, size, "%s/control", folder) >= size)
        rc = dp_error_set(e, -ENAMETOOLONG, "%s/control is too long for a socket's name: set XDG_RUNTIME_DIR to a shorter path", folder);
    return rc;
}

static bool is_alive(const char *name)
{
    char folder[DP_RUNDIR_PATH_MAX], file[DP_RUNDIR_PATH_MAX + 16];
    if (folder_of(name, folder, sizeof folder, NULL))
        return false;
    in_folder(file, sizeof file, folder, "pid");
    int fd = open(file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return false;
    struct flock l;
    bool alive = !lock_command(fd, F_OFD_GETLK, &l) && l.l_type != F_UNLCK;
    close(fd);
    return alive;
}

int dp_rundir_each(bool networks, void (*fn)(void *opaque, const char *name), void *opaque, struct dp_error *e)
{
    char base[DP_RUNDIR_PATH_MAX];
    struct dirent **entry;
    int rc = base_folder(base, sizeof base, e);
    if (rc)
        return rc;
    if (access(base, F_OK))
        return 0;
    if ((rc = check_private(base, e)))
        return rc;
    int count = scandir(base, &entry, NULL, alphasort);
    if (count < 0)
        return dp_error_set(e, -errno, "%s: %s", base, strerror(errno));
    for (int i = 0; i < count; i++) {
        bool network = entry[i]->d_name[0] == DP_RUNDIR_NETWORK;
        if (network == networks && is_alive(entry[i]->d_name))
            fn(opaque, entry[i]->d_name + network);
        free(entry[i]);
    }
    free(entry);
    return 0;
}
