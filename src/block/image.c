/* image.c - the tree of images: the list of drivers, opening by name and format, who may be below whom, and what all drivers share.
 *
 * Model, invariants: image.h. An address ("nbd://...") chooses a protocol, anything else is a file. A format opens over it.
 */
#include <libgen.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "block/file.h"
#include "block/image_internal.h"
#include "block/ova.h"

static const struct dp_image_format *const formats[] = {
    &dp_image_raw,   &dp_image_qcow2, &dp_image_luks,   &dp_image_vdi,  &dp_image_vpc,
    &dp_image_vmdk,  &dp_image_vhdx,  &dp_image_mirror, &dp_image_file,
    &dp_image_ova,
#ifdef DP_HAVE_CURL
    &dp_image_http,
#endif
#ifdef DP_HAVE_NBD
    &dp_image_nbd,
#endif
#ifdef DP_HAVE_ISCSI
    &dp_image_iscsi,
#endif
#ifdef DP_HAVE_RBD
    &dp_image_rbd,
#endif
};

/* Protocols that need a library, which this doppel may have been built without. */
static const struct {
    const char *scheme, *library;
} optional[] = {{"http", "libcurl (Debian: libcurl4-openssl-dev)"},
                {"nbd", "libnbd (Debian: libnbd-dev)"},
                {"iscsi", "libiscsi (Debian: libiscsi-dev)"},
                {"rbd", "librbd (Debian: librbd-dev)"}};

const struct dp_image_format *dp_image_format(unsigned n) { return n < DP_ARRAY_LEN(formats) ? formats[n] : NULL; }

const struct dp_image_format *dp_image_format_named(const char *name)
{
    for (unsigned n = 0; n < DP_ARRAY_LEN(formats); n++)
        if (!strcmp(formats[n]->name, name))
            return formats[n];
    return NULL;
}

/* ---- cursors ---- */

struct iovec dp_cursor_take(struct dp_cursor *c, uint64_t size)
{
    struct iovec v = {(uint8_t *)c->iov->iov_base + c->skip, DP_MIN(c->iov->iov_len - c->skip, size)};
    c->skip += v.iov_len;
    if (c->skip == c->iov->iov_len) {
        c->iov++;
        c->count--;
        c->skip = 0;
    }
    return v;
}

void dp_cursor_skip(struct dp_cursor *c, uint64_t size)
{
    while (size)
        size -= dp_cursor_take(c, size).iov_len;
}

void dp_cursor_zero(struct dp_cursor *c, uint64_t size)
{
    while (size) {
        struct iovec v = dp_cursor_take(c, size);
        memset(v.iov_base, 0, v.iov_len);
        size -= v.iov_len;
    }
}

void dp_cursor_put(struct dp_cursor *c, const uint8_t *from, uint64_t size)
{
    while (size) {
        struct iovec v = dp_cursor_take(c, size);
        memcpy(v.iov_base, from, v.iov_len);
        from += v.iov_len;
        size -= v.iov_len;
    }
}

void dp_cursor_get(struct dp_cursor *c, uint8_t *to, uint64_t size)
{
    while (size) {
        struct iovec v = dp_cursor_take(c, size);
        memcpy(to, v.iov_base, v.iov_len);
        to += v.iov_len;
        size -= v.iov_len;
    }
}

/* ---- opening ---- */

/* "nbd" of "nbd://host"; a colon behind a slash is part of a file's name. Its length, 0: a file. */
static size_t scheme_length(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789+.-");
    return n > 1 && !strncmp(name + n, "://", 3) ? n : 0;
}

/* Is the address of that protocol, or of one of its kinds (https, nbd+unix)? n: the length of the address' scheme. */
static bool is_scheme(const char *name, size_t n, const char *scheme)
{
    size_t k = strlen(scheme);
    if (n < k || strncmp(name, scheme, k))
        return false;
    k += name[k] == 's';
    return n == k || name[k] == '+';
}

static const struct dp_image_format *protocol_of(const char *name, struct dp_error *e)
{
    size_t n = scheme_length(name);
    if (!n)
        return dp_ova_file_length(name) ? &dp_image_ova : &dp_image_file;
    for (unsigned i = 0; i < DP_ARRAY_LEN(formats); i++)
        if (formats[i]->scheme && formats[i] != &dp_image_file && is_scheme(name, n, formats[i]->scheme))
            return formats[i];
    for (unsigned i = 0; i < DP_ARRAY_LEN(optional); i++)
        if (is_scheme(name, n, optional[i].scheme)) {
            dp_error_set(e, -ENOTSUP, "disk %.200s: this doppel was built without %s, and cannot reach it", name, optional[i].library);
            return NULL;
        }
    dp_error_set(e, -EINVAL, "disk %s: no disk can be reached by '%.*s' here", name, (int)n, name);
    return NULL;
}

bool dp_image_is_file(const char *name) { return protocol_of(name, NULL) == &dp_image_file; }

int dp_image_chain_add(struct dp_image *i, struct dp_error *e)
{
    struct dp_image_chain *c = i->chain;
    struct stat st;
    if (!c || stat(i->name, &st)) /* why it cannot be examined will be told when it is opened */
        return 0;
    for (unsigned n = 0; n < c->files; n++)
        if (c->seen[n].device == st.st_dev && c->seen[n].inode == st.st_ino)
            return dp_error_set(e, -EINVAL, "backing file %s is an image of its own chain: the chain has no end", i->name);
    if (c->files == DP_ARRAY_LEN(c->seen))
        return dp_error_set(e, -EINVAL, "disk %s: too many files belong to it", i->name);
    c->seen[c->files].device = st.st_dev;
    c->seen[c->files++].inode = st.st_ino;
    return 0;
}

/* One image: its protocol, or its format over the protocol. */
static int open_one(const struct dp_image_format *f, const struct dp_image_options *o, struct dp_image_chain *c, struct dp_image **out,
                    struct dp_error *e)
{
    struct dp_image *i = calloc(1, f->instance_size);
    if (!i || !(i->name = strdup(o->name))) {
        free(i);
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", o->name);
    }
    i->format = f;
    i->readonly = o->readonly;
    i->trace = o->trace;
    i->chain = c;
    int rc = 0;
    const struct dp_image_format *protocol = f->scheme ? NULL : protocol_of(o->name, e);
    if (!f->scheme)
        rc = protocol ? open_one(protocol, o, c, &i->file, e) : -ENOTSUP;
    if (!rc)
        rc = f->open(i, o, e);
    i->chain = NULL;
    if (rc)
        dp_image_close(i);
    else
        *out = i;
    return rc;
}

int dp_image_open_below(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    const struct dp_image_format *protocol = scheme_length(o->name) ? protocol_of(o->name, e) : &dp_image_file;
    if (protocol == &dp_image_ova)
        return dp_error_set(e, -EINVAL, "disk %s: an OVA in an OVA cannot be opened", i->name);
    return protocol ? open_one(protocol, o, i->chain, &i->file, e) : -ENOTSUP;
}

static const struct dp_image_format *driver_of(const char *name, const char *format, struct dp_error *e)
{
    if (!format)
        return &dp_image_raw;
    const struct dp_image_format *f = dp_image_format_named(format);
    if (!f || f->scheme) {
        dp_error_set(e, -EINVAL, "disk %s: format '%s' is not known; `doppel image --help` lists what is", name, format);
        return NULL;
    }
    return f;
}

int dp_image_read_secret(const char *file, char secret[DP_IMAGE_SECRET_MAX], struct dp_error *e)
{
    FILE *f = fopen(file, "re");
    *secret = 0;
    if (!f)
        return dp_error_set(e, -errno, "the file of a passphrase, %s, cannot be opened: %s", file, strerror(errno));
    setvbuf(f, NULL, _IONBF, 0); /* no copy is left in a buffer */
    bool line = fgets(secret, DP_IMAGE_SECRET_MAX, f);
    bool whole = line && (strchr(secret, '\n') || strlen(secret) < DP_IMAGE_SECRET_MAX - 1);
    fclose(f);
    secret[strcspn(secret, "\n")] = 0;
    if (whole && *secret)
        return 0;
    explicit_bzero(secret, DP_IMAGE_SECRET_MAX);
    return dp_error_set(e, -EINVAL, "the file of a passphrase, %s, has no first line of 1 to %d bytes", file, DP_IMAGE_SECRET_MAX - 2);
}

/* realpath; of a member of an OVA: of that file, with the member's name behind it. */
static char *real_name(const char *name)
{
    size_t n = dp_ova_file_length(name);
    if (!n || name[n] != '/')
        return realpath(name, NULL);
    char *file = strndup(name, n), *real = file ? realpath(file, NULL) : NULL, *whole = NULL;
    if (real && asprintf(&whole, "%s%s", real, name + n) < 0)
        whole = NULL;
    free(real);
    free(file);
    return whole;
}

int dp_image_open(const struct dp_image_options *o, struct dp_image **out, struct dp_error *e)
{
    const struct dp_image_format *f = driver_of(o->name, o->format, e);
    if (!f)
        return -EINVAL;
    if (!f->write && !o->readonly)
        return dp_error_set(e, -EROFS, "disk %s: %s images can only be read: add ,ro, or convert it to qcow2", o->name, f->name);
    struct dp_image_chain chain = {.anywhere = o->backing_anywhere};
    char *real = scheme_length(o->name) ? NULL : real_name(o->name); /* NULL: a descriptor of something without a name */
    chain.folder = real ? dirname(real) : NULL;
    int rc = open_one(f, o, &chain, out, e);
    if (!rc && o->copy && !chain.copied) {
        dp_image_close(*out);
        *out = NULL;
        rc = dp_error_set(e, -EINVAL, "disk %s: copy= is for what comes by HTTP, and nothing of this disk does", o->name);
    }
    free(real);
    return rc;
}

static bool is_below(const char *path, const char *folder)
{
    size_t n = strlen(folder);
    return !strncmp(path, folder, n) && (path[n] == '/' || (n == 1 && *folder == '/'));
}

char *dp_image_beside(const char *file, const char *name)
{
    char *copy = strdup(file), *path = NULL;
    if (copy && (*name == '/' || scheme_length(name)))
        path = strdup(name);
    else if (copy && asprintf(&path, "%s/%s", dirname(copy), name) < 0)
        path = NULL;
    free(copy);
    return path;
}

/* The real name of a file that i names (what: "backing file", "data file"), if it may be opened. */
static int find_named(struct dp_image *i, const char *name, const char *what, char **real, struct dp_error *e)
{
    struct dp_image_chain *c = i->chain;
    if (scheme_length(name)) {
        if (!c->anywhere)
            return dp_error_set(e, -EACCES, "disk %s wants to read from the address %.200s; if you trust the image, add ,backing=any",
                                i->name, name);
        return (*real = strdup(name)) ? 0 : dp_error_set(e, -ENOMEM, "disk %s: out of memory", i->name);
    }
    const char *colon = strchr(name, ':'), *slash = strchr(name, '/');
    if (colon && (!slash || colon < slash))
        return dp_error_set(e, -EINVAL, "disk %s has a %s with a protocol that doppel does not know; give it a file", i->name, what);
    char *joined = dp_image_beside(i->name, name);
    int rc = 0;
    if (!joined)
        rc = dp_error_set(e, -ENOMEM, "disk %s: out of memory", i->name);
    else if (!(*real = real_name(joined)))
        rc = dp_error_set(e, -errno, "disk %s: its %s cannot be found: %s; is it where `doppel image info` says?", i->name, what,
                          strerror(errno));
    else if (!c->anywhere && !(c->folder && is_below(*real, c->folder)))
        rc = dp_error_set(e, -EACCES, "disk %s wants to %s %.200s, outside its folder; if you trust the image, add ,backing=any", i->name,
                          strcmp(what, "data file") ? "read" : "use", *real);
    free(joined);
    return rc;
}

static int check_name(const struct dp_image *i, const char *name, const char *what, struct dp_error *e)
{
    for (const char *p = name; *p; p++)
        if ((uint8_t)*p < ' ')
            return dp_error_set(e, -EINVAL, "disk %s is damaged: the name of its %s has control characters", i->name, what);
    return 0;
}

int dp_image_open_data(struct dp_image *i, const char *name, const struct dp_image_options *o, struct dp_error *e)
{
    char *real = NULL;
    int rc = check_name(i, name, "data file", e);
    if (!rc)
        rc = find_named(i, name, "data file", &real, e);
    const struct dp_image_format *protocol = rc ? NULL : protocol_of(real, e);
    struct dp_image_options data = {
        .name = real, .readonly = i->readonly, .unlocked = o->unlocked, .unsafe = o->unsafe, .secret = o->secret, .trace = i->trace};
    if (!rc)
        rc = protocol ? open_one(protocol, &data, i->chain, &i->data, e) : -EINVAL;
    free(real);
    return rc;
}

int dp_image_open_part(struct dp_image *i, const char *name, const struct dp_image_format *f, const struct dp_image_options *o,
                       struct dp_image **out, struct dp_error *e)
{
    char *real = NULL;
    int rc = check_name(i, name, "part", e);
    if (!rc)
        rc = find_named(i, name, "part", &real, e);
    struct dp_image_options part = {.name = real,
                                    .format = f->name,
                                    .readonly = i->readonly,
                                    .unlocked = o->unlocked,
                                    .unsafe = o->unsafe,
                                    .secret = o->secret,
                                    .trace = i->trace};
    if (!rc)
        rc = open_one(f, &part, i->chain, out, e);
    free(real);
    return rc;
}

int dp_image_open_backing(struct dp_image *i, const char *name, const char *format, const struct dp_image_options *o, struct dp_error *e)
{
    if (check_name(i, name, "backing file", e))
        return -EINVAL;
    if (!(i->backing_name = strdup(name)) || (format && *format && !(i->backing_format = strdup(format))))
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", i->name);
    if (o->alone || o->backing_later)
        return 0;
    if (!i->backing_format)
        return dp_error_set(
            e, -EINVAL, "disk %s does not say which format its backing file has; add it with: doppel image rebase -u -F FORMAT -b FILE %s",
            i->name, i->name);
    const struct dp_image_format *f = dp_image_format_named(format);
    if (!f || f->scheme)
        return dp_error_set(e, -EINVAL, "disk %s: its backing file's format is not known to doppel; convert that file", i->name);
    if (i->chain->depth >= DP_IMAGE_DEPTH_MAX - 1) /* backing images above this one */
        return dp_error_set(e, -EINVAL, "disk %s: more than %d images above one another; merge some with: doppel image commit", i->name,
                            DP_IMAGE_DEPTH_MAX);
    char *real = NULL;
    int rc = find_named(i, name, "backing file", &real, e);
    if (!rc) {
        struct dp_image_options below = {.name = real,
                                         .format = format,
                                         .readonly = true,
                                         .unlocked = o->unlocked,
                                         .copy = o->copy,
                                         .fill = o->fill,
                                         .secret = o->secret,
                                         .trace = i->trace};
        i->chain->depth++;
        rc = open_one(f, &below, i->chain, &i->backing, e);
        i->chain->depth--;
    }
    free(real);
    return rc;
}

void dp_image_close(struct dp_image *i)
{
    while (i) {
        struct dp_image *below = i->backing;
        int rc = 0;
        for (unsigned n = 0; !rc && n < 2 && dp_image_dirty(i); n++) /* the second writes what became free by the first */
            rc = dp_image_flush(i);
        if (rc && i->trace)
            dp_trace_emit(i->trace, DP_TRACE_BLOCK,
                          "disk %s: not everything could be written at the end: %s; look with: doppel image check %s", i->name,
                          strerror(-rc), i->name);
        if (i->format->close)
            i->format->close(i);
        dp_image_close(i->data);
        dp_image_close(i->file);
        free(i->name);
        free(i->backing_name);
        free(i->backing_format);
        free(i);
        i = below;
    }
}

const char *dp_image_guess(const char *name, struct dp_error *e)
{
    struct dp_image *i;
    uint8_t head[DP_IMAGE_HEAD] = {0}, tail[512] = {0};
    if (dp_image_open(&(struct dp_image_options){.name = name, .readonly = true, .unlocked = true}, &i, e))
        return NULL;
    const char *found = "raw";
    int rc = dp_image_pread(i, head, sizeof head, 0);
    if (!rc && i->size >= sizeof tail)
        rc = dp_image_pread(i, tail, sizeof tail, i->size - sizeof tail);
    for (unsigned n = 0; !rc && n < DP_ARRAY_LEN(formats); n++)
        if (formats[n]->probe && formats[n]->probe(head, tail, i->size)) {
            found = formats[n]->name;
            break;
        }
    dp_image_close(i);
    if (!rc)
        return found;
    dp_error_set(e, rc, "disk %s cannot be read: %s", name, strerror(-rc));
    return NULL;
}

/* ---- using ---- */

int dp_image_read(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    uint64_t inside = offset < i->size ? DP_MIN(size, i->size - offset) : 0;
    int rc = inside ? i->format->read(i, c, offset, inside) : 0;
    if (!rc)
        dp_cursor_zero(c, size - inside);
    return rc;
}

/* May the range be changed? */
static int check_change(const struct dp_image *i, uint64_t offset, uint64_t size)
{
    if (i->readonly)
        return -EROFS;
    if (!i->format->write || (i->backing_name && !i->backing)) /* opened alone: the rest of a cluster would get lost */
        return -ENOTSUP;
    return !i->format->scheme && (offset > i->size || size > i->size - offset) ? -EIO : 0;
}

int dp_image_write(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size)
{
    int rc = check_change(i, offset, size);
    if (rc)
        return rc;
    return size ? i->format->write(i, c, offset, size) : 0;
}

int dp_image_pread(struct dp_image *i, void *data, uint64_t size, uint64_t offset)
{
    struct iovec v = {data, size};
    return dp_image_read(i, &(struct dp_cursor){&v, 1, 0}, offset, size);
}

int dp_image_pwrite(struct dp_image *i, const void *data, uint64_t size, uint64_t offset)
{
    struct iovec v = {(void *)data, size};
    return dp_image_write(i, &(struct dp_cursor){&v, 1, 0}, offset, size);
}

static int write_zeros(struct dp_image *i, uint64_t offset, uint64_t size)
{
    static const uint8_t zeros[65536];
    int rc = 0;
    while (!rc && size) {
        uint64_t n = DP_MIN(size, sizeof zeros);
        rc = dp_image_pwrite(i, zeros, n, offset);
        offset += n;
        size -= n;
    }
    return rc;
}

int dp_image_zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags)
{
    int rc = check_change(i, offset, size);
    if (rc)
        return rc;
    rc = !size ? 0 : i->format->zero ? i->format->zero(i, offset, size, flags) : -ENOTSUP;
    return rc != -ENOTSUP ? rc : flags & DP_ZERO_DISCARD ? 0 : write_zeros(i, offset, size);
}

int dp_image_flush(struct dp_image *i) { return i->readonly || !i->format->flush ? 0 : i->format->flush(i); }
bool dp_image_dirty(const struct dp_image *i) { return !i->readonly && i->format->dirty && i->format->dirty(i); }

int dp_image_extent(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x)
{
    *x = (struct dp_extent){.kind = DP_EXTENT_DATA, .size = size};
    if (offset >= i->size) {
        x->kind = DP_EXTENT_ZEROS;
        return 0;
    }
    size = DP_MIN(size, i->size - offset);
    x->size = size;
    return i->format->extent ? i->format->extent(i, offset, size, x) : 0;
}

int dp_image_extent_all(struct dp_image *i, uint64_t offset, uint64_t size, struct dp_extent *x)
{
    for (unsigned depth = 0;; depth++) {
        int rc = dp_image_extent(i, offset, size, x);
        if (rc || x->kind != DP_EXTENT_UNALLOCATED || !i->backing) {
            x->depth = depth;
            return rc;
        }
        size = x->size;
        i = i->backing;
    }
}

bool dp_image_place(const struct dp_image *top, uint64_t *offset, uint64_t size, int *fd)
{
    enum { LAYERS_MAX = 4 * DP_IMAGE_DEPTH_MAX };
    struct dp_image *i = (struct dp_image *)top;
    for (unsigned n = 0; i && n < LAYERS_MAX; n++) {
        struct dp_extent x;
        if (*offset > i->size || size > i->size - *offset)
            return false;
        if ((*fd = dp_image_file_descriptor(i)) >= 0)
            return true;
        if (i->format == &dp_image_raw) { /* its extents would ask the file system for holes */
            i = i->file;
            continue;
        }
        if (dp_image_extent(i, *offset, size, &x) || x.size < size)
            return false;
        if (x.kind == DP_EXTENT_DATA && x.has_offset) {
            *offset = x.offset;
            i = i->data ? i->data : i->file;
        } else {
            i = x.kind == DP_EXTENT_UNALLOCATED ? i->backing : NULL;
        }
    }
    return false;
}

int dp_image_flushed_by(const struct dp_image *i)
{
    for (const struct dp_image *n = i; n; n = n->file)
        if (!n->format->flush_is_plain || !n->format->flush_is_plain(n))
            return -1;
    return i->file ? dp_image_file_descriptor(i->file) : -1;
}

/* ---- bitmaps ---- */

static int no_bitmaps(const struct dp_image *i, struct dp_error *e)
{
    return dp_error_set(e, -ENOTSUP, "%s images have no bitmaps; qcow2 ones have", i->format->name);
}

int dp_image_bitmap_list(struct dp_image *i, struct dp_image_bitmap **out, unsigned *count, struct dp_error *e)
{
    *out = NULL;
    *count = 0;
    return i->format->bitmap_list ? i->format->bitmap_list(i, out, count, e) : no_bitmaps(i, e);
}

int dp_image_bitmap_change(struct dp_image *i, enum dp_image_bitmap_op op, const char *name, uint64_t granularity, struct dp_error *e)
{
    return i->format->bitmap_change ? i->format->bitmap_change(i, op, name, granularity, e) : no_bitmaps(i, e);
}

int dp_image_bitmap_query(struct dp_image *i, const char *name, uint64_t offset, uint64_t *size, bool *dirty, struct dp_error *e)
{
    return i->format->bitmap_query ? i->format->bitmap_query(i, name, offset, size, dirty, e) : no_bitmaps(i, e);
}

int dp_image_bitmap_set(struct dp_image *i, const char *name, uint64_t offset, uint64_t size, bool dirty, struct dp_error *e)
{
    return i->format->bitmap_set ? i->format->bitmap_set(i, name, offset, size, dirty, e) : no_bitmaps(i, e);
}

int dp_image_bitmap_merge(struct dp_image *to, const char *name, struct dp_image *from, const char *source, struct dp_error *e)
{
    int rc = 0;
    for (uint64_t at = 0, size = 1; !rc && size; at += size) {
        bool dirty;
        size = UINT64_MAX - at;
        if (!(rc = dp_image_bitmap_query(from, source, at, &size, &dirty, e)) && dirty)
            rc = dp_image_bitmap_set(to, name, at, size, true, e);
    }
    if (!rc) /* it may be that nothing is dirty: is there such a bitmap? */
        rc = dp_image_bitmap_set(to, name, 0, 0, true, e);
    return rc ? rc : dp_image_bitmap_change(to, DP_IMAGE_BITMAP_STORE, name, 0, e);
}

/* ---- making ---- */

const char *dp_image_create_option(const struct dp_image_create *o, const char *key)
{
    size_t n = strlen(key);
    for (const char *const *p = o->option; p && *p; p++)
        if (!strncmp(*p, key, n) && (*p)[n] == '=')
            return *p + n + 1;
    return NULL;
}

int dp_image_create_file(const struct dp_image_create *o, struct dp_image **out, struct dp_error *e)
{
    const struct dp_image_format *protocol = protocol_of(o->name, e);
    struct dp_image_chain chain = {.create = true};
    return protocol ? open_one(protocol, &(struct dp_image_options){.name = o->name, .trace = o->trace}, &chain, out, e) : -EINVAL;
}

static int check_options(const struct dp_image_create *o, const struct dp_image_format *f, struct dp_error *e)
{
    for (const char *const *p = o->option; p && *p; p++) {
        size_t n = strcspn(*p, "=");
        const struct dp_image_option *known = f->create_options;
        while (known && known->key && (strlen(known->key) != n || strncmp(known->key, *p, n)))
            known++;
        if (!known || !known->key)
            return dp_error_set(e, -EINVAL, "%s images have no option '%.*s'; see: doppel image create -f %s -o help", f->name, (int)n, *p,
                                f->name);
        if (!(*p)[n])
            return dp_error_set(e, -EINVAL, "option '%s' needs a value: %s=...", *p, *p);
    }
    return 0;
}

int dp_image_create(const struct dp_image_create *o, struct dp_error *e)
{
    const struct dp_image_format *f = driver_of(o->name, o->format, e);
    if (!f)
        return -EINVAL;
    if (!f->create)
        return dp_error_set(e, -ENOTSUP, "%s images can only be read", f->name);
    int rc = check_options(o, f, e);
    return rc ? rc : f->create(o, e);
}
