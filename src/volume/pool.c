/* volume/pool.c - see pool.h: names and folders of pools, the lock, pool.json. */
#include "volume/pool.h"

#include <dirent.h>
#include <fcntl.h>
#include <json.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/file.h"

#define METADATA "pool.json"
#define METADATA_NEW "pool.json.new"
#define LOCK "lock"

int dp_volume_check_name(const char *what, const char *name, struct dp_error *e)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t length = strlen(name);
    if (!length || length > DP_VOLUME_NAME_MAX || strspn(name, letters) != length || strchr("._-", *name))
        return dp_error_set(e, -EINVAL,
                            "'%.70s' is no name for a %s: take up to %d letters, digits, '.', '_' and '-', the first a letter or digit",
                            name, what, DP_VOLUME_NAME_MAX);
    return 0;
}

/* ---- records ---- */

struct dp_volume *dp_pool_by_id(const struct dp_pool *p, uint64_t id)
{
    unsigned low = 0, high = p->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (p->volume[middle]->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < p->count && p->volume[low]->id == id ? p->volume[low] : NULL;
}

/* At the end: ids grow. */
static struct dp_volume *append(struct dp_pool *p, struct dp_error *e)
{
    if (p->count == DP_POOL_RECORDS_MAX) {
        dp_error_set(e, -ENOSPC, "pool %s has %d volumes and snapshots: remove some, or make another pool", p->name, DP_POOL_RECORDS_MAX);
        return NULL;
    }
    struct dp_volume *v = calloc(1, sizeof *v), **all = v ? realloc(p->volume, (p->count + 1) * sizeof *all) : NULL;
    if (!all) {
        free(v);
        dp_error_set(e, -ENOMEM, "out of memory");
        return NULL;
    }
    p->volume = all;
    return all[p->count++] = v;
}

struct dp_volume *dp_pool_add(struct dp_pool *p, struct dp_error *e)
{
    struct dp_volume *v = append(p, e);
    if (v)
        v->id = p->next++;
    return v;
}

void dp_pool_forget(struct dp_pool *p, struct dp_volume *v)
{
    unsigned n = 0;
    for (unsigned i = 0; i < p->count; i++)
        if (p->volume[i] != v)
            p->volume[n++] = p->volume[i];
    p->count = n;
    free(v);
}

unsigned dp_pool_children(const struct dp_pool *p, const struct dp_volume *v, struct dp_volume **first)
{
    unsigned n = 0;
    for (unsigned i = 0; i < p->count; i++)
        if (p->volume[i]->parent == v->id && !n++ && first)
            *first = p->volume[i];
    return n;
}

bool dp_volume_protected(const struct dp_pool *p, const struct dp_volume *v) { return v->owner || dp_pool_children(p, v, NULL); }

void dp_pool_clear(struct dp_pool *p)
{
    for (unsigned i = 0; i < p->count; i++)
        free(p->volume[i]);
    free(p->volume);
    p->volume = NULL;
    p->count = 0;
}

/* ---- pool.json ---- */

static bool number(struct json_object *o, const char *key, uint64_t *out)
{
    struct json_object *v;
    if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_int) || json_object_get_int64(v) < 0)
        return false;
    *out = (uint64_t)json_object_get_int64(v);
    return true;
}

static const char *word(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;
}

static bool is_true(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) && json_object_get_boolean(v);
}

static int damaged(const struct dp_pool *p, const char *what, struct dp_error *e)
{
    return dp_error_set(e, -EINVAL, "pool %s: " METADATA " is damaged (%s): mend it by hand, or import the images of %s elsewhere", p->name,
                        what, p->folder ? p->folder : "its folder");
}

static int parse_record(struct dp_pool *p, struct json_object *o, struct dp_error *e)
{
    struct dp_volume r = {0}, *v;
    const char *name = word(o, "name"), *format = word(o, "format");
    if (!name || !format || !number(o, "id", &r.id) || !number(o, "owner", &r.owner) || !number(o, "parent", &r.parent) ||
        !number(o, "file", &r.file) || !number(o, "made", &r.made))
        return damaged(p, "a record lacks something", e);
    if (dp_volume_check_name("volume", name, NULL))
        return damaged(p, "a name", e);
    r.format = dp_image_format_named(format);
    if (!r.format || r.format->scheme)
        return damaged(p, "a format that is not known", e);
    if (!r.id || r.id >= p->next || !r.file || r.file >= p->next || (p->count && r.id <= p->volume[p->count - 1]->id))
        return damaged(p, "numbers of records", e);
    snprintf(r.name, sizeof r.name, "%s", name);
    r.merging = is_true(o, "merging");
    if (!(v = append(p, e)))
        return e ? e->code : -ENOMEM;
    *v = r;
    return 0;
}

static int by_file(const void *a, const void *b)
{
    const struct dp_volume *x = *(struct dp_volume *const *)a, *y = *(struct dp_volume *const *)b;
    return x->file < y->file ? -1 : x->file > y->file;
}

static int by_owner_and_name(const void *a, const void *b)
{
    const struct dp_volume *x = *(struct dp_volume *const *)a, *y = *(struct dp_volume *const *)b;
    return x->owner != y->owner ? (x->owner < y->owner ? -1 : 1) : strcmp(x->name, y->name);
}

/* Owners are volumes, parents are there and their lines end, files and names are each one's own. */
static int check_records(struct dp_pool *p, struct dp_error *e)
{
    struct dp_volume **sorted = malloc((p->count + 1) * sizeof *sorted);
    bool twice = false;
    if (!sorted)
        return dp_error_set(e, -ENOMEM, "out of memory");
    memcpy(sorted, p->volume ? p->volume : sorted, p->count * sizeof *sorted);
    qsort(sorted, p->count, sizeof *sorted, by_file);
    for (unsigned i = 1; i < p->count; i++)
        twice = twice || sorted[i]->file == sorted[i - 1]->file;
    qsort(sorted, p->count, sizeof *sorted, by_owner_and_name);
    for (unsigned i = 1; i < p->count; i++)
        twice = twice || !by_owner_and_name(&sorted[i], &sorted[i - 1]);
    free(sorted);
    if (twice)
        return damaged(p, "a file or a name twice", e);
    for (unsigned i = 0; i < p->count; i++) {
        const struct dp_volume *v = p->volume[i], *owner = v->owner ? dp_pool_by_id(p, v->owner) : NULL;
        if (v->owner && (!owner || owner->owner))
            return damaged(p, "a snapshot of no volume", e);
        unsigned depth = 0;
        for (const struct dp_volume *up = v; up->parent; depth++)
            if (depth == DP_IMAGE_DEPTH_MAX || !(up = dp_pool_by_id(p, up->parent)))
                return damaged(p, "a parent that is not there, or a line of parents without end", e);
    }
    return 0;
}

int dp_pool_parse(struct dp_pool *p, const char *text, size_t size, struct dp_error *e)
{
    struct json_tokener *t = size <= DP_POOL_BYTES_MAX ? json_tokener_new_ex(8) : NULL;
    struct json_object *all = t ? json_tokener_parse_ex(t, text, (int)size) : NULL, *list;
    uint64_t version;
    int rc = 0;
    if (!all || !json_object_is_type(all, json_type_object) || !number(all, "version", &version) || !number(all, "next", &p->next) ||
        !json_object_object_get_ex(all, "volumes", &list) || !json_object_is_type(list, json_type_array))
        rc = damaged(p, "no pool's", e);
    else if (version != 1)
        rc = dp_error_set(e, -EINVAL, "pool %s was made by a newer doppel: use that one", p->name);
    else if (!p->next || p->next > INT64_MAX / 2)
        rc = damaged(p, "numbers of records", e);
    for (size_t i = 0; !rc && i < json_object_array_length(list); i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        rc = json_object_is_type(o, json_type_object) ? parse_record(p, o, e) : damaged(p, "a record that is none", e);
    }
    if (!rc)
        rc = check_records(p, e);
    if (rc)
        dp_pool_clear(p);
    json_object_put(all);
    if (t)
        json_tokener_free(t);
    return rc;
}

char *dp_pool_text(const struct dp_pool *p)
{
    struct json_object *all = json_object_new_object(), *list = json_object_new_array();
    json_object_object_add(all, "version", json_object_new_int(1));
    json_object_object_add(all, "next", json_object_new_int64((int64_t)p->next));
    for (unsigned i = 0; i < p->count; i++) {
        const struct dp_volume *v = p->volume[i];
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "id", json_object_new_int64((int64_t)v->id));
        json_object_object_add(o, "name", json_object_new_string(v->name));
        json_object_object_add(o, "owner", json_object_new_int64((int64_t)v->owner));
        json_object_object_add(o, "parent", json_object_new_int64((int64_t)v->parent));
        json_object_object_add(o, "file", json_object_new_int64((int64_t)v->file));
        json_object_object_add(o, "format", json_object_new_string(v->format->name));
        json_object_object_add(o, "made", json_object_new_int64((int64_t)v->made));
        if (v->merging)
            json_object_object_add(o, "merging", json_object_new_boolean(true));
        json_object_array_add(list, o);
    }
    json_object_object_add(all, "volumes", list);
    char *text = strdup(json_object_to_json_string_ext(all, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED));
    json_object_put(all);
    return text;
}

/* ---- files ---- */

static void file_name(const struct dp_volume *v, char text[64])
{
    snprintf(text, 64, "%06llu.%s", (unsigned long long)v->file, v->format->name);
}

/* A name like 000012.qcow2? */
static bool is_file_name(const char *name)
{
    size_t n = strspn(name, "0123456789");
    if (n < 6 || n > 18 || name[n] != '.')
        return false;
    const struct dp_image_format *f = dp_image_format_named(name + n + 1);
    return f && !f->scheme;
}

static bool has_images(struct dp_pool *p)
{
    DIR *d = fdopendir(openat(p->folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    bool found = false;
    for (struct dirent *entry; d && (entry = readdir(d));)
        found = found || is_file_name(entry->d_name);
    if (d)
        closedir(d);
    return found;
}

static int load(struct dp_pool *p, struct dp_error *e)
{
    struct stat st;
    dp_pool_clear(p);
    p->next = 1;
    int fd = openat(p->folder_fd, METADATA, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return has_images(p) ? damaged(p, "missing, but images are there", e) : 0;
    if (fd < 0)
        return dp_error_set(e, -errno, "pool %s: %s/" METADATA ": %s", p->name, p->folder, strerror(errno));
    int rc = 0;
    char *text = NULL;
    if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size > DP_POOL_BYTES_MAX || !(text = malloc((size_t)st.st_size + 1)))
        rc = damaged(p, "no file, or too large", e);
    for (off_t n = 0; !rc && n < st.st_size;) {
        ssize_t got = pread(fd, text + n, (size_t)(st.st_size - n), n);
        if (got <= 0)
            rc = dp_error_set(e, got ? -errno : -EIO, "pool %s: %s/" METADATA " cannot be read", p->name, p->folder);
        else
            n += got;
    }
    if (!rc)
        rc = dp_pool_parse(p, text, (size_t)st.st_size, e);
    free(text);
    close(fd);
    return rc;
}

/* Who must not be written is read-only, too: for programs that know nothing of pools. */
static void set_modes(struct dp_pool *p)
{
    char name[64];
    struct stat st;
    for (unsigned i = 0; i < p->count; i++) {
        bool protect = dp_volume_protected(p, p->volume[i]);
        file_name(p->volume[i], name);
        if (fstatat(p->folder_fd, name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode))
            continue;
        mode_t mode = protect ? st.st_mode & 07777 & ~0222u : (st.st_mode & 07777) | 0200u;
        if (mode != (st.st_mode & 07777) && fchmodat(p->folder_fd, name, mode, 0))
            break; /* somebody else's file: pool.json protects it */
    }
}

int dp_pool_commit(struct dp_pool *p, struct dp_error *e)
{
    char *text = dp_pool_text(p);
    size_t size = text ? strlen(text) : 0;
    int fd = text ? openat(p->folder_fd, METADATA_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666) : -1, rc = 0;
    if (fd < 0)
        rc = -errno;
    for (size_t n = 0; !rc && n < size;) {
        ssize_t put = write(fd, text + n, size - n);
        if (put < 0 && errno != EINTR)
            rc = -errno;
        else if (put > 0)
            n += (size_t)put;
    }
    if (!rc && (fsync(fd) || renameat(p->folder_fd, METADATA_NEW, p->folder_fd, METADATA) || fsync(p->folder_fd)))
        rc = -errno;
    if (fd >= 0)
        close(fd);
    free(text);
    if (rc)
        return dp_error_set(e, rc, "pool %s: %s/" METADATA " cannot be written: %s", p->name, p->folder, strerror(-rc));
    set_modes(p);
    return 0;
}

/* Files that pool.json does not name are what a crash left, or what a program that is still there is about to add: that one holds it. */
static void remove_leftovers(struct dp_pool *p)
{
    DIR *d = fdopendir(openat(p->folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!d)
        return;
    for (struct dirent *entry; (entry = readdir(d));) {
        bool known = !is_file_name(entry->d_name);
        for (unsigned i = 0; !known && i < p->count; i++) {
            char name[64];
            file_name(p->volume[i], name);
            known = !strcmp(name, entry->d_name);
        }
        char path[DP_POOL_PATH_MAX];
        if (known || snprintf(path, sizeof path, "%s/%s", p->folder, entry->d_name) >= (int)sizeof path)
            continue;
        struct dp_file f;
        struct stat st;
        bool mine = !fstatat(p->folder_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st.st_mode) &&
                    !fchmodat(p->folder_fd, entry->d_name, 0600, 0) && !dp_file_open(&(struct dp_file_options){.name = path}, &f, NULL);
        if (mine) {
            unlinkat(p->folder_fd, entry->d_name, 0);
            close(f.fd);
        }
    }
    closedir(d);
}

/* ---- folders ---- */

static int base_folder(char *path, struct dp_error *e)
{
    const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    int n = -1;
    if (data && *data == '/') /* the XDG specification: a path that is not absolute is ignored */
        n = snprintf(path, DP_POOL_PATH_MAX, "%s/doppel/pools", data);
    else if (home && *home == '/')
        n = snprintf(path, DP_POOL_PATH_MAX, "%s/.local/share/doppel/pools", home);
    if (n < 0)
        return dp_error_set(e, -ENOENT, "there is no place for pools: set HOME or XDG_DATA_HOME to a folder of yours");
    if (n >= DP_POOL_PATH_MAX - 2 * DP_VOLUME_NAME_MAX)
        return dp_error_set(e, -ENAMETOOLONG, "XDG_DATA_HOME is too long: set it to a shorter path");
    return 0;
}

static int make_folders(const char *path, struct dp_error *e)
{
    char part[DP_POOL_PATH_MAX];
    for (size_t n = 1; n <= strlen(path) && n < sizeof part; n++) {
        if (path[n] && path[n] != '/')
            continue;
        memcpy(part, path, n);
        part[n] = 0;
        if (mkdir(part, 0700) && errno != EEXIST && !(errno == EROFS && !access(part, F_OK)))
            return dp_error_set(e, -errno, "cannot make the folder %s: %s", part, strerror(errno));
    }
    return 0;
}

static int place_of(const char *name, char *path, struct dp_error *e)
{
    int rc = dp_volume_check_name("pool", name, e);
    if (!rc)
        rc = base_folder(path, e);
    if (!rc) {
        size_t n = strlen(path);
        snprintf(path + n, DP_POOL_PATH_MAX - n, "/%s", name);
    }
    return rc;
}

static int lock(struct dp_pool *p, struct dp_error *e)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct stat here, there;
    p->lock_fd = openat(p->folder_fd, LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    int rc = 0;
    if (p->lock_fd < 0)
        return dp_error_set(e, -errno, "pool %s: %s/" LOCK ": %s", p->name, p->folder, strerror(errno));
    while (fcntl(p->lock_fd, F_OFD_SETLKW, &l))
        if (errno != EINTR)
            return dp_error_set(e, -errno, "pool %s: cannot lock %s/" LOCK ": %s", p->name, p->folder, strerror(errno));
    if (fstat(p->lock_fd, &here) || fstatat(p->folder_fd, LOCK, &there, 0) || here.st_ino != there.st_ino || here.st_dev != there.st_dev)
        rc = dp_error_set(e, -ENOENT, "pool %s was removed meanwhile: make it again with: doppel volume pool create %s", p->name, p->name);
    return rc;
}

static int enter(struct dp_pool *p, bool change, struct dp_error *e)
{
    p->folder_fd = open(p->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->folder_fd < 0)
        return dp_error_set(e, -errno, "pool %s: its folder %s cannot be opened: %s", p->name, p->folder, strerror(errno));
    int rc = change ? lock(p, e) : 0;
    if (!rc)
        rc = load(p, e);
    if (!rc && change) {
        /* From here on a file that pool.json does not name is known to be a leftover. */
        if (faccessat(p->folder_fd, METADATA, F_OK, 0))
            return dp_pool_commit(p, e);
        remove_leftovers(p);
        set_modes(p);
    }
    return rc;
}

int dp_pool_open(const char *name, bool change, struct dp_pool *p, struct dp_error *e)
{
    char path[DP_POOL_PATH_MAX];
    struct stat st;
    *p = (struct dp_pool){.folder_fd = -1, .lock_fd = -1};
    int rc = place_of(name, path, e);
    if (rc)
        return rc;
    snprintf(p->name, sizeof p->name, "%s", name);
    bool there = !lstat(path, &st);
    if (!there && strcmp(name, DP_POOL_DEFAULT) != 0)
        return dp_error_set(e, -ENOENT, "there is no pool '%s': see `doppel volume pool ls`, or make it: doppel volume pool create %s",
                            name, name);
    if (!there && (rc = make_folders(path, e)))
        return rc;
    if (!(p->folder = realpath(path, NULL)))
        return dp_error_set(e, -errno, "pool %s: its folder cannot be found: %s; is it mounted? (%s)", name, strerror(errno), path);
    if (strlen(p->folder) > DP_POOL_PATH_MAX - 100)
        rc = dp_error_set(e, -ENAMETOOLONG, "pool %s: the path of its folder is too long", name);
    if (!rc)
        rc = enter(p, change, e);
    if (rc)
        dp_pool_close(p);
    return rc;
}

void dp_pool_close(struct dp_pool *p)
{
    dp_pool_clear(p);
    if (p->lock_fd >= 0)
        close(p->lock_fd);
    if (p->folder_fd >= 0)
        close(p->folder_fd);
    free(p->folder);
    p->folder = NULL;
    p->folder_fd = p->lock_fd = -1;
}

void dp_pool_unlock(struct dp_pool *p)
{
    close(p->lock_fd);
    p->lock_fd = -1;
}

int dp_pool_relock(struct dp_pool *p, struct dp_error *e)
{
    int rc = lock(p, e);
    return rc ? rc : load(p, e);
}

/* May a folder become a pool: is it empty, or one already? */
static int check_empty(const char *name, const char *folder, struct dp_error *e)
{
    char path[DP_POOL_PATH_MAX + 16];
    DIR *d = opendir(folder);
    bool other = false;
    if (!d)
        return dp_error_set(e, -errno, "pool %s: %s: %s", name, folder, strerror(errno));
    for (struct dirent *entry; (entry = readdir(d));)
        other = other || (entry->d_name[0] != '.' && strcmp(entry->d_name, "lost+found") && strcmp(entry->d_name, LOCK));
    closedir(d);
    snprintf(path, sizeof path, "%s/" METADATA, folder);
    return other && access(path, F_OK) ? dp_error_set(e, -ENOTEMPTY,
                                                      "pool %s: %s has other files: name an empty folder, and import images afterwards "
                                                      "with: doppel volume create %s/NAME --from FILE",
                                                      name, folder, name)
                                       : 0;
}

int dp_pool_create(const char *name, const char *folder, struct dp_error *e)
{
    char path[DP_POOL_PATH_MAX], base[DP_POOL_PATH_MAX];
    struct stat st;
    struct dp_pool p;
    int rc = place_of(name, path, e);
    if (!rc)
        rc = base_folder(base, e);
    if (!rc)
        rc = make_folders(base, e);
    if (!rc && !lstat(path, &st))
        rc = dp_error_set(e, -EEXIST, "there is a pool '%s' already", name);
    if (rc)
        return rc;
    if (!folder) {
        if ((rc = make_folders(path, e)))
            return rc;
    } else {
        if (mkdir(folder, 0700) && errno != EEXIST)
            return dp_error_set(e, -errno, "cannot make the folder %s: %s", folder, strerror(errno));
        char *real = realpath(folder, NULL);
        rc = real ? check_empty(name, real, e) : dp_error_set(e, -errno, "%s: %s", folder, strerror(errno));
        if (!rc && symlink(real, path))
            rc = dp_error_set(e, -errno, "cannot make %s: %s", path, strerror(errno));
        free(real);
        if (rc)
            return rc;
    }
    if ((rc = dp_pool_open(name, true, &p, e)))
        return rc;
    dp_pool_close(&p);
    return 0;
}

int dp_pool_remove(const char *name, bool forget, struct dp_error *e)
{
    char path[DP_POOL_PATH_MAX];
    struct stat st;
    struct dp_pool p;
    int rc = place_of(name, path, e);
    if (rc)
        return rc;
    if (lstat(path, &st))
        return dp_error_set(e, -ENOENT, "there is no pool '%s': see `doppel volume pool ls`", name);
    bool link = S_ISLNK(st.st_mode);
    if (forget) {
        if (!link)
            return dp_error_set(e, -EINVAL, "pool %s has its folder in %s: move that away yourself, or remove its volumes", name, path);
        return unlink(path) ? dp_error_set(e, -errno, "%s cannot be removed: %s", path, strerror(errno)) : 0;
    }
    if ((rc = dp_pool_open(name, true, &p, e)))
        return rc;
    if (p.count) {
        rc = dp_error_set(e, -ENOTEMPTY, "pool %s has %u volumes and snapshots: remove them first%s", name, p.count,
                          link ? ", or leave them where they are with --forget" : "");
    } else {
        unlinkat(p.folder_fd, METADATA, 0);
        unlinkat(p.folder_fd, METADATA_NEW, 0);
        unlinkat(p.folder_fd, LOCK, 0);
        if (link ? unlink(path) : rmdir(path))
            rc = dp_error_set(e, -errno, "%s cannot be removed: %s", path, strerror(errno));
    }
    dp_pool_close(&p);
    return rc;
}

int dp_pool_each(void (*fn)(void *opaque, const char *name), void *opaque, struct dp_error *e)
{
    char base[DP_POOL_PATH_MAX];
    struct dirent **entry;
    int rc = base_folder(base, e);
    if (rc || access(base, F_OK))
        return rc;
    int count = scandir(base, &entry, NULL, alphasort);
    if (count < 0)
        return dp_error_set(e, -errno, "%s: %s", base, strerror(errno));
    for (int i = 0; i < count; i++) {
        if (!dp_volume_check_name("pool", entry[i]->d_name, NULL))
            fn(opaque, entry[i]->d_name);
        free(entry[i]);
    }
    free(entry);
    return 0;
}
