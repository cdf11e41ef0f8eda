/* volume/volume.c - see volume.h: names, opening, making, importing, cloning, renaming. Snapshots and removal: snapshot.c. */
#include "volume/volume.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "block/file.h"
#include "volume/volume_internal.h"

/* ---- names ---- */

int dp_volume_split(const char *text, struct dp_volume_name *n, struct dp_error *e)
{
    const char *slash = strchr(text, '/'), *name = slash ? slash + 1 : text, *at = strchr(name, '@');
    size_t lengths[3] = {slash ? (size_t)(slash - text) : 0, at ? (size_t)(at - name) : strlen(name), at ? strlen(at + 1) : 0};
    for (unsigned i = 0; i < 3; i++)
        if (lengths[i] > DP_VOLUME_NAME_MAX)
            return dp_error_set(e, -EINVAL, "'%.80s': names have at most %d letters", text, DP_VOLUME_NAME_MAX);
    *n = (struct dp_volume_name){.pool = DP_POOL_DEFAULT};
    if (slash)
        snprintf(n->pool, sizeof n->pool, "%.*s", (int)lengths[0], text);
    snprintf(n->name, sizeof n->name, "%.*s", (int)lengths[1], name);
    snprintf(n->snapshot, sizeof n->snapshot, "%s", at ? at + 1 : "");
    int rc = dp_volume_check_name("pool", n->pool, e);
    if (!rc)
        rc = dp_volume_check_name("volume", n->name, e);
    return rc || !at ? rc : dp_volume_check_name("snapshot", n->snapshot, e);
}

struct dp_volume *volume_named(const struct dp_pool *p, uint64_t owner, const char *name)
{
    for (unsigned i = 0; i < p->count; i++)
        if (p->volume[i]->owner == owner && !strcmp(p->volume[i]->name, name))
            return p->volume[i];
    return NULL;
}

struct dp_volume *dp_volume_find(const struct dp_pool *p, const struct dp_volume_name *n, struct dp_error *e)
{
    struct dp_volume *v = volume_named(p, 0, n->name), *s;
    if (!v)
        dp_error_set(e, -ENOENT, "there is no volume '%s' in pool %s: see `doppel volume ls %s`", n->name, p->name, p->name);
    if (!v || !*n->snapshot)
        return v;
    if (!(s = volume_named(p, v->id, n->snapshot)))
        dp_error_set(e, -ENOENT, "volume %s has no snapshot '%s': see `doppel volume ls --tree %s`", n->name, n->snapshot, p->name);
    return s;
}

const char *dp_volume_text(const struct dp_pool *p, const struct dp_volume *v, char text[DP_VOLUME_TEXT_MAX])
{
    const struct dp_volume *owner = v->owner ? dp_pool_by_id(p, v->owner) : NULL;
    snprintf(text, DP_VOLUME_TEXT_MAX, "%s%s%s", owner ? owner->name : v->name, owner ? "@" : "", owner ? v->name : "");
    return text;
}

/* A name that is free. */
int volume_check_new(const struct dp_pool *p, uint64_t owner, const char *name, struct dp_error *e)
{
    int rc = dp_volume_check_name(owner ? "snapshot" : "volume", name, e);
    if (!rc && volume_named(p, owner, name))
        rc = dp_error_set(e, -EEXIST, "there is a %s '%s' already", owner ? "snapshot" : "volume", name);
    return rc;
}

void volume_file_name(const struct dp_volume *v, char text[VOLUME_FILE_MAX])
{
    snprintf(text, VOLUME_FILE_MAX, "%06llu.%s", (unsigned long long)v->file, v->format->name);
}

char *dp_volume_path(const struct dp_pool *p, const struct dp_volume *v, struct dp_error *e)
{
    char name[VOLUME_FILE_MAX], *path;
    volume_file_name(v, name);
    if (asprintf(&path, "%s/%s", p->folder, name) >= 0)
        return path;
    dp_error_set(e, -ENOMEM, "out of memory");
    return NULL;
}

/* ---- opening ---- */

/* Why v must not be written. */
static int refuse_protected(const struct dp_pool *p, const struct dp_volume *v, struct dp_error *e)
{
    char text[DP_VOLUME_TEXT_MAX], other[DP_VOLUME_TEXT_MAX];
    struct dp_volume *child;
    dp_volume_text(p, v, text);
    if (v->owner)
        return dp_error_set(e, -EROFS, "%s is a snapshot, which only can be read: clone it with: doppel volume clone %s/%s NAME", text,
                            p->name, text);
    dp_pool_children(p, v, &child);
    return dp_error_set(e, -EROFS, "volume %s only can be read, for %s stands on it: make a snapshot of %s, then it can be written again",
                        text, dp_volume_text(p, child, other), text);
}

static int refuse_merging(const struct dp_pool *p, const struct dp_volume *v, struct dp_error *e)
{
    char text[DP_VOLUME_TEXT_MAX];
    return v->merging ? dp_error_set(e, -EIO, "%s was half removed when that was interrupted: do the rest with: doppel volume rm %s/%s",
                                     dp_volume_text(p, v, text), p->name, text)
                      : 0;
}

/* In the words of volumes. */
int volume_busy(const struct dp_pool *p, const struct dp_volume *v, int rc, struct dp_error *e)
{
    char text[DP_VOLUME_TEXT_MAX];
    return rc == -EBUSY ? dp_error_set(e, rc, "volume %s is in use by a virtual machine or another program: stop that first",
                                       dp_volume_text(p, v, text))
                        : rc;
}

int volume_open(const struct dp_pool *p, const struct dp_volume *v, struct dp_image_options o, struct dp_image **out, struct dp_error *e)
{
    char *path = dp_volume_path(p, v, e);
    o.name = path;
    o.format = v->format->name;
    int rc = path ? dp_image_open(&o, out, e) : -ENOMEM;
    free(path);
    return volume_busy(p, v, rc, e);
}

int dp_volume_open(const struct dp_pool *p, const struct dp_volume *v, bool write, bool unlocked, struct dp_image **out, struct dp_error *e)
{
    int rc = write && dp_volume_protected(p, v) ? refuse_protected(p, v, e) : refuse_merging(p, v, e);
    return rc ? rc : volume_open(p, v, (struct dp_image_options){.readonly = !write, .unlocked = unlocked}, out, e);
}

int dp_volume_resolve(const char *text, bool write, char **path, const char **format, struct dp_error *e)
{
    struct dp_volume_name n;
    struct dp_pool p;
    int rc = dp_volume_split(text, &n, e);
    if (!rc)
        rc = dp_pool_open(n.pool, false, &p, e);
    if (rc)
        return rc;
    struct dp_volume *v = dp_volume_find(&p, &n, e);
    rc = !v ? -ENOENT : write && dp_volume_protected(&p, v) ? refuse_protected(&p, v, e) : refuse_merging(&p, v, e);
    if (!rc && !(*path = dp_volume_path(&p, v, e)))
        rc = -ENOMEM;
    if (!rc)
        *format = v->format->name;
    dp_pool_close(&p);
    return rc;
}

bool dp_volume_in_use(const struct dp_pool *p, const struct dp_volume *v)
{
    static const unsigned used = 100, writes = 1; /* bytes of the image lock: block/file.h */
    char name[VOLUME_FILE_MAX];
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = used, .l_len = writes + 1};
    volume_file_name(v, name);
    int fd = openat(p->folder_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool busy = fd >= 0 && !fcntl(fd, F_OFD_GETLK, &l) && l.l_type != F_UNLCK;
    if (fd >= 0)
        close(fd);
    return busy;
}

/* ---- making ---- */

int volume_make_file(struct dp_pool *p, struct dp_volume *v, const struct dp_image_format *f, uint64_t size, const struct dp_volume *parent,
                     struct dp_error *e)
{
    char below[VOLUME_FILE_MAX] = "";
    struct dp_image *i = NULL;
    v->file = p->next++;
    v->format = f;
    v->parent = parent ? parent->id : 0;
    if (parent)
        volume_file_name(parent, below);
    char *path = dp_volume_path(p, v, e);
    struct dp_image_create make = {.name = path,
                                   .format = f->name,
                                   .size = DP_ALIGN_UP(size, (uint64_t)512),
                                   .backing = parent ? below : NULL,
                                   .backing_format = parent ? parent->format->name : NULL};
    int rc = path ? dp_image_create(&make, e) : -ENOMEM;
    if (!rc && !(rc = volume_open(p, v, (struct dp_image_options){.alone = true}, &i, e)) && (rc = dp_image_flush(i)))
        dp_error_set(e, rc, "%s cannot be written: %s", path, strerror(-rc));
    dp_image_close(i);
    if (rc && path)
        unlink(path);
    free(path);
    return rc;
}

void volume_unlink(struct dp_pool *p, const struct dp_volume *v)
{
    char name[VOLUME_FILE_MAX];
    volume_file_name(v, name);
    unlinkat(p->folder_fd, name, 0);
}

static const struct dp_image_format *format_of(const char *name, struct dp_error *e)
{
    const struct dp_image_format *f = dp_image_format_named(name ? name : "qcow2");
    if (f && !f->scheme && f->create && f->write && (!strcmp(f->name, "qcow2") || !strcmp(f->name, "raw")))
        return f;
    dp_error_set(e, -EINVAL, "volumes are qcow2 or raw, not '%s'; images of other formats are converted by --from", name);
    return NULL;
}

static struct dp_volume *new_record(struct dp_pool *p, const char *name, uint64_t owner, struct dp_error *e)
{
    struct dp_volume *v = dp_pool_add(p, e);
    if (v) {
        snprintf(v->name, sizeof v->name, "%s", name);
        v->owner = owner;
        v->made = (uint64_t)time(NULL);
    }
    return v;
}

/* A record whose file is there now becomes the pool's, or both go. */
int volume_add(struct dp_pool *p, struct dp_volume *v, struct dp_error *e)
{
    int rc = dp_pool_commit(p, e);
    if (rc) {
        volume_unlink(p, v);
        dp_pool_forget(p, v);
    }
    return rc;
}

int dp_volume_create(struct dp_pool *p, const char *name, const char *format, uint64_t size, struct dp_error *e)
{
    const struct dp_image_format *f = format_of(format, e);
    int rc = f ? volume_check_new(p, 0, name, e) : -EINVAL;
    struct dp_volume *v = rc ? NULL : new_record(p, name, 0, e);
    if (!v)
        return rc ? rc : -ENOMEM;
    if ((rc = volume_make_file(p, v, f, size, NULL, e))) {
        dp_pool_forget(p, v);
        return rc;
    }
    return volume_add(p, v, e);
}

int dp_volume_import(struct dp_pool *p, const char *name, const char *format, struct dp_image *from, const struct dp_image_job *job,
                     struct dp_error *e)
{
    const struct dp_image_format *f = format_of(format, e);
    struct dp_image *to = NULL;
    struct dp_volume made = {0}, *v;
    int rc = f ? volume_check_new(p, 0, name, e) : -EINVAL;
    if (!rc)
        rc = volume_make_file(p, &made, f, from->size, NULL, e);
    if (rc)
        return rc;
    /* The number is taken, and the file held by its image lock, before others may look at the pool. */
    if (!(rc = dp_pool_commit(p, e)))
        rc = volume_open(p, &made, (struct dp_image_options){0}, &to, e);
    if (!rc) {
        dp_pool_unlock(p);
        struct dp_image_copy c = {.from = from, .to = to, .sparse = 4096, .zeroed = true};
        if (!(rc = dp_image_copy(&c, job, e)) && (rc = dp_image_flush(to)))
            dp_error_set(e, rc, "%s cannot be written: %s", to->name, strerror(-rc));
        int locked = dp_pool_relock(p, rc ? NULL : e);
        rc = rc ? rc : locked;
        if (!rc)
            rc = volume_check_new(p, 0, name, e);
        v = rc ? NULL : new_record(p, name, 0, e);
        if (v) {
            v->file = made.file;
            v->format = made.format;
            rc = dp_pool_commit(p, e);
        } else if (!rc) {
            rc = -ENOMEM;
        }
    }
    dp_image_close(to);
    if (rc)
        volume_unlink(p, &made);
    return rc;
}

/* ---- clone ---- */

static int reflink(struct dp_pool *p, struct dp_volume *to, const struct dp_volume *v, const struct dp_image *from, struct dp_error *e)
{
    char name[VOLUME_FILE_MAX];
    to->file = p->next++;
    to->format = v->format;
    to->parent = v->parent;
    volume_file_name(to, name);
    int source = from->file ? dp_image_file_descriptor(from->file) : -1, rc = 0;
    int fd = source < 0 ? -1 : openat(p->folder_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (source < 0)
        rc = -EOPNOTSUPP;
    else if (fd < 0 || ioctl(fd, FICLONE, source) || fsync(fd))
        rc = -errno;
    if (fd >= 0)
        close(fd);
    if (rc && fd >= 0)
        unlinkat(p->folder_fd, name, 0);
    bool cannot = rc == -EOPNOTSUPP || rc == -EXDEV || rc == -EINVAL || rc == -ENOTTY || rc == -ENOSYS;
    return !rc      ? 0
           : cannot ? dp_error_set(e, -EOPNOTSUPP, "the file system of %s cannot share blocks between files (XFS and btrfs can)", p->folder)
                    : dp_error_set(e, rc, "%s/%s cannot be made: %s", p->folder, name, strerror(-rc));
}

int volume_check_depth(const struct dp_pool *p, const struct dp_volume *v, struct dp_error *e)
{
    char text[DP_VOLUME_TEXT_MAX];
    int depth = 1;
    for (const struct dp_volume *up = v; up && up->parent; up = dp_pool_by_id(p, up->parent))
        depth++;
    return depth < DP_IMAGE_DEPTH_MAX - 1
               ? 0
               : dp_error_set(e, -EMLINK, "%s stands on %d files already: remove some of its snapshots, or copy it with clone --full",
                              dp_volume_text(p, v, text), depth - 1);
}

int dp_volume_clone(struct dp_pool *p, struct dp_volume *v, const char *name, enum dp_volume_clone *how, struct dp_error *e)
{
    struct dp_image *from = NULL;
    int rc = volume_check_new(p, 0, name, e);
    if (!rc) /* nobody writes it now, nor until the clone is in pool.json */
        rc = dp_volume_open(p, v, false, false, &from, e);
    if (rc)
        return rc;
    struct dp_volume *to = new_record(p, name, 0, e);
    if (!to)
        rc = -ENOMEM;
    if (!rc && *how != DP_CLONE_BACKING && !(rc = reflink(p, to, v, from, e)))
        *how = DP_CLONE_REFLINK;
    if (to && (*how == DP_CLONE_BACKING || (rc == -EOPNOTSUPP && *how == DP_CLONE_AUTO))) {
        *how = DP_CLONE_BACKING;
        if (!(rc = volume_check_depth(p, v, e)))
            rc = volume_make_file(p, to, dp_image_format_named("qcow2"), from->size, v, e);
    }
    if (rc && to)
        dp_pool_forget(p, to);
    if (!rc)
        rc = volume_add(p, to, e);
    dp_image_close(from);
    return rc;
}

int dp_volume_rename(struct dp_pool *p, struct dp_volume *v, const char *name, struct dp_error *e)
{
    char before[DP_VOLUME_NAME_MAX + 1];
    int rc = volume_check_new(p, v->owner, name, e);
    if (rc)
        return rc;
    memcpy(before, v->name, sizeof before);
    snprintf(v->name, sizeof v->name, "%s", name);
    if ((rc = dp_pool_commit(p, e)))
        memcpy(v->name, before, sizeof before);
    return rc;
}
