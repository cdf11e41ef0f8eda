/* rbd.c - disks of Ceph (rbd://POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][:conf=FILE][:id=NAME]), as a protocol of images, by librbd.
 *
 * Model: one command at a time; librbd looks after connections, and goes on when the cluster is back. What is written is in the cluster
 * (librbd's own cache is off). Who writes holds the image's exclusive lock, if it has that feature: a second writer is refused; the lock
 * of one who died is broken after some time by librbd. An image grows with what is written behind its end. librbd is loaded when the first
 * such disk is opened: programs that are linked with it start 25 ms later.
 * Invariants: no command takes longer than PATIENCE seconds, so that a VM can be ended while the cluster is away; no other settings can be
 * made by an address, which an image may name, than where the configuration is and who we are. librbd's threads get no signals.
 * Source: librbd.h, librados.h (Ceph 16).
 */
#include <dlfcn.h>
#include <rados/librados.h>
#include <rbd/features.h>
#include <rbd/librbd.h>
#include <signal.h>
#include <stdlib.h>

#include "block/image_internal.h"

enum { COMMAND_MAX = 4 << 20, DISCARD_MAX = 1 << 30, LOOK_MAX = 256 << 20, STOP = -9000 };
#define PATIENCE "30"
#define HURRY "4" /* for each of some steps of closing: nothing can be lost by them */

#define FUNCTIONS(F)                                                                                                                       \
    F(rados_create) F(rados_conf_read_file) F(rados_conf_set) F(rados_connect) F(rados_shutdown) F(rados_ioctx_create)                     \
    F(rados_ioctx_destroy) F(rados_ioctx_set_namespace) F(rbd_create) F(rbd_open) F(rbd_open_read_only) F(rbd_close) F(rbd_stat)           \
    F(rbd_get_features) F(rbd_lock_acquire) F(rbd_resize2) F(rbd_read) F(rbd_write) F(rbd_discard) F(rbd_write_zeroes) F(rbd_flush)        \
    F(rbd_diff_iterate2)

struct functions {
#define MEMBER(name) __typeof__(&name) name;
    FUNCTIONS(MEMBER)
};

struct rbd_disk {
    struct dp_image image;
    void *library, *rados_library;
    struct functions call;
    rados_t cluster;
    rados_ioctx_t pool;
    rbd_image_t rbd;
    uint64_t object; /* bytes of one */
};

static struct rbd_disk *of(struct dp_image *i) { return (struct rbd_disk *)i; }
static int no_progress(uint64_t done, uint64_t all, void *opaque) { return 0; } /* librbd calls it unasked */

/* ---- opening ---- */

static int load(struct rbd_disk *d, struct dp_error *e)
{
    d->rados_library = dlopen("librados.so.2", RTLD_NOW | RTLD_LOCAL);
    d->library = d->rados_library ? dlopen("librbd.so.1", RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!d->library)
        return dp_error_set(e, -ENOTSUP, "disk %.200s: librbd (Debian: librbd1) is needed: %.200s", d->image.name, dlerror());
#define LOOK_UP(f)                                                                                                                         \
    if (!(d->call.f = (__typeof__(d->call.f))dlsym(strncmp(#f, "rados_", 6) ? d->library : d->rados_library, #f)))                         \
        return dp_error_set(e, -ENOTSUP, "disk %.200s: this librbd is too old: it has no " #f, d->image.name);
    FUNCTIONS(LOOK_UP)
    return 0;
}

/* The parts of an address: text is cut up. */
struct parts {
    char *pool, *space, *image, *snapshot, *conf, *id;
};

static int cut(char *text, const char *name, struct parts *p, struct dp_error *e)
{
    char *rest = strchr(text, ':'), *at, *last;
    if (rest)
        *rest++ = 0;
    if ((at = strchr(text, '@'))) {
        *at++ = 0;
        p->snapshot = at;
    }
    if ((last = strrchr(text, '/'))) {
        *last = 0;
        p->pool = text;
        p->image = last + 1;
        if ((p->space = strchr(text, '/')))
            *p->space++ = 0;
    }
    if (!last || !*p->pool || !*p->image || (p->space && (!*p->space || strchr(p->space, '/'))) || (at && !*at))
        return dp_error_set(e, -EINVAL, "disk %s: an address is rbd://POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][:conf=FILE][:id=NAME]", name);
    while (rest) {
        char *one = rest;
        if ((rest = strchr(rest, ':')))
            *rest++ = 0;
        if (!strncmp(one, "conf=", 5))
            p->conf = one + 5;
        else if (!strncmp(one, "id=", 3))
            p->id = one + 3;
        else
            return dp_error_set(e, -EINVAL, "disk %s: '%s' cannot be said in an address; conf=FILE and id=NAME can", name, one);
    }
    return 0;
}

static int connect_(struct rbd_disk *d, const struct parts *p, struct dp_error *e)
{
    static const char *const settings[][2] = {{"client_mount_timeout", PATIENCE}, {"rados_mon_op_timeout", PATIENCE},
                                              {"rados_osd_op_timeout", PATIENCE}, {"rbd_cache", "false"},
                                              {"log_to_stderr", "false"},         {"err_to_stderr", "false"}};
    const char *name = d->image.name, *id = p->id ? p->id : "admin";
    int rc = d->call.rados_create(&d->cluster, id);
    if (rc) {
        d->cluster = NULL;
        return dp_error_set(e, rc, "disk %s: %s", name, strerror(-rc));
    }
    if ((rc = d->call.rados_conf_read_file(d->cluster, p->conf)))
        return dp_error_set(e, rc, "disk %s: %s cannot be read: %s", name, p->conf ? p->conf : "Ceph's configuration (/etc/ceph/ceph.conf)",
                            strerror(-rc));
    for (unsigned n = 0; n < DP_ARRAY_LEN(settings); n++)
        if ((rc = d->call.rados_conf_set(d->cluster, settings[n][0], settings[n][1])))
            return dp_error_set(e, rc, "disk %s: librados does not know %s", name, settings[n][0]);
    if ((rc = d->call.rados_connect(d->cluster)))
        return dp_error_set(e, rc, "disk %s: no connection to the cluster as client.%s: %s", name, id, strerror(-rc));
    if ((rc = d->call.rados_ioctx_create(d->cluster, p->pool, &d->pool))) {
        d->pool = NULL;
        return dp_error_set(e, rc, "disk %s: pool %s cannot be opened: %s", name, p->pool, strerror(-rc));
    }
    if (p->space)
        d->call.rados_ioctx_set_namespace(d->pool, p->space);
    return 0;
}

/* Makes sure that nobody else writes. */
static int lock(struct rbd_disk *d, struct dp_error *e)
{
    uint64_t features = 0;
    int rc = d->call.rbd_get_features(d->rbd, &features);
    if (rc || !(features & RBD_FEATURE_EXCLUSIVE_LOCK))
        return 0;
    rc = d->call.rbd_lock_acquire(d->rbd, RBD_LOCK_MODE_EXCLUSIVE);
    if (rc == -EROFS || rc == -EBUSY)
        return dp_error_set(e, -EBUSY, "disk %s is in use by another virtual machine or program; stop that one first, or add ,ro",
                            d->image.name);
    return rc ? dp_error_set(e, rc, "disk %s cannot be locked: %s", d->image.name, strerror(-rc)) : 0;
}

static int open_rbd(struct rbd_disk *d, const struct parts *p, struct dp_error *e)
{
    struct dp_image *i = &d->image;
    bool create = i->chain && i->chain->create;
    rbd_image_info_t info;
    int order = 0, rc;
    if (p->snapshot && !i->readonly)
        return dp_error_set(e, -EROFS, "disk %s: a snapshot is only read: add ,ro", i->name);
    if (create && (rc = d->call.rbd_create(d->pool, p->image, 0, &order)) && rc != -EEXIST)
        return dp_error_set(e, rc, "%s cannot be made: %s", i->name, strerror(-rc));
    if (i->readonly)
        rc = d->call.rbd_open_read_only(d->pool, p->image, &d->rbd, p->snapshot);
    else
        rc = d->call.rbd_open(d->pool, p->image, &d->rbd, p->snapshot);
    if (rc) {
        d->rbd = NULL;
        return dp_error_set(e, rc, "disk %s cannot be opened: %s", i->name, strerror(-rc));
    }
    if (!i->readonly && (rc = lock(d, e)))
        return rc;
    if (create && (rc = d->call.rbd_resize2(d->rbd, 0, true, no_progress, NULL)))
        return dp_error_set(e, rc, "%s cannot be emptied: %s", i->name, strerror(-rc));
    if ((rc = d->call.rbd_stat(d->rbd, &info, sizeof info)))
        return dp_error_set(e, rc, "disk %s: its size cannot be found out: %s", i->name, strerror(-rc));
    if (info.size > INT64_MAX || !info.obj_size || info.obj_size & (info.obj_size - 1) || info.obj_size > LOOK_MAX)
        return dp_error_set(e, -EINVAL, "disk %s: its sizes cannot be used", i->name);
    i->size = info.size;
    d->object = info.obj_size;
    return 0;
}

static int open_(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    struct rbd_disk *d = of(i);
    struct parts p = {0};
    sigset_t all, before;
    char *text = strdup(i->name + strlen("rbd://"));
    int rc = text ? cut(text, i->name, &p, e) : dp_error_set(e, -ENOMEM, "disk %s: out of memory", i->name);
    if (!rc)
        rc = load(d, e);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!rc)
        rc = connect_(d, &p, e);
    if (!rc)
        rc = open_rbd(d, &p, e);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    free(text);
    return rc;
}

static void close_(struct dp_image *i)
{
    struct rbd_disk *d = of(i);
    if (d->cluster) {
        d->call.rados_conf_set(d->cluster, "rados_osd_op_timeout", HURRY);
        d->call.rados_conf_set(d->cluster, "rados_mon_op_timeout", HURRY);
    }
    if (d->rbd)
        d->call.rbd_close(d->rbd); /* gives up the lock */
    if (d->pool)
        d->call.rados_ioctx_destroy(d->pool);
    if (d->cluster)
        d->call.rados_shutdown(d->cluster);
    /* The libraries stay: they have threads' data that they do not give back. */
}

/* ---- using ---- */

static int grow(struct dp_image *i, uint64_t size)
{
    int rc = size > i->size ? of(i)->call.rbd_resize2(of(i)->rbd, size, false, no_progress, NULL) : 0;
    if (!rc && size > i->size)
        i->size = size;
    return rc;
}

static int transfer(struct dp_image *i, struct dp_cursor *c, bool write, uint64_t offset, uint64_t size)
{
    struct rbd_disk *d = of(i);
    int rc = write ? grow(i, offset + size) : 0;
    while (!rc && size) {
        struct iovec v = dp_cursor_take(c, DP_MIN(size, (uint64_t)COMMAND_MAX));
        ssize_t n = write ? d->call.rbd_write(d->rbd, offset, v.iov_len, v.iov_base)
                          : d->call.rbd_read(d->rbd, offset, v.iov_len, v.iov_base);
        rc = n < 0 ? (int)n : (size_t)n != v.iov_len ? -EIO : 0;
        offset += v.iov_len;
        size -= v.iov_len;
    }
    return rc;
}

static int read_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) { return transfer(i, c, false, offset, size); }
static int write_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) { return transfer(i, c, true, offset, size); }

static int zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags)
{
    struct rbd_disk *d = of(i);
    int rc = flags & DP_ZERO_DISCARD ? 0 : grow(i, offset + size);
    uint64_t end = DP_MIN(offset + size, i->size);
    for (uint64_t k; !rc && offset < end; offset += k) {
        k = DP_MIN(end - offset, (uint64_t)DISCARD_MAX);
        ssize_t n = flags & DP_ZERO_DISCARD
                        ? d->call.rbd_discard(d->rbd, offset, k)
                        : d->call.rbd_write_zeroes(d->rbd, offset, k, flags & DP_ZERO_UNMAP ? 0 : RBD_WRITE_ZEROES_FLAG_THICK_PROVISION, 0);
        rc = n < 0 ? (int)n : 0;
    }
    return rc;
}

static int flush(struct dp_image *i) { return of(i)->call.rbd_flush(of(i)->rbd); }

/* What there is of objects: pieces in order; the rest is zeros. */
struct looking {
    uint64_t offset, end;
    bool data; /* offset to end is */
};

static int see(uint64_t at, size_t size, int exists, void *opaque)
{
    struct looking *l = opaque;
    if (!exists || at + size <= l->offset)
        return 0;
    if (at > (l->data ? l->end : l->offset)) { /* a hole before it */
        l->end = l->data ? l->end : at;
        return STOP;
    }
    l->data = true;
    l->end = at + size;
    return 0;
}

static int extent(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x)
{
    struct rbd_disk *d = of(i);
    size = DP_MIN(size, (uint64_t)LOOK_MAX);
    struct looking l = {.offset = offset, .end = offset + size};
    uint64_t from = DP_ALIGN_DOWN(offset, d->object); /* librbd before 17.2 answers wrongly if it begins within an object */
    uint64_t to = DP_MIN(DP_ALIGN_UP(offset + size, d->object), i->size);
    int rc = d->call.rbd_diff_iterate2(d->rbd, NULL, from, to - from, 1, 1, see, &l);
    if (rc && rc != STOP)
        return rc;
    *x = (struct dp_extent){.kind = l.data ? DP_EXTENT_DATA : DP_EXTENT_ZEROS, .size = DP_MIN(l.end - offset, size), .offset = offset};
    x->has_offset = l.data;
    return 0;
}

static int resize(struct dp_image *i, uint64_t size, struct dp_error *e)
{
    int rc = of(i)->call.rbd_resize2(of(i)->rbd, size, true, no_progress, NULL);
    if (rc)
        return dp_error_set(e, rc, "%s cannot be resized: %s", i->name, strerror(-rc));
    i->size = size;
    return 0;
}

const struct dp_image_format dp_image_rbd = {
    .name = "rbd",
    .summary = "a disk of a Ceph cluster",
    .instance_size = sizeof(struct rbd_disk),
    .scheme = "rbd",
    .open = open_,
    .close = close_,
    .read = read_,
    .write = write_,
    .zero = zero,
    .flush = flush,
    .extent = extent,
    .resize = resize,
};
