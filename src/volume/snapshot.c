/* volume/snapshot.c - snapshots of volumes: made, gone back to, merged with what stands on them; and removal. Model: volume.h. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "volume/volume_internal.h"

static void move_children(struct dp_pool *p, uint64_t from, uint64_t to, const struct dp_volume *except)
{
    for (unsigned i = 0; i < p->count; i++)
        if (p->volume[i]->parent == from && p->volume[i] != except)
            p->volume[i]->parent = to;
}

int dp_volume_snapshot(struct dp_pool *p, struct dp_volume *v, const char *name, struct dp_error *e)
{
    struct dp_volume before = *v, *s;
    struct dp_image *i = NULL;
    char text[DP_VOLUME_TEXT_MAX];
    if (v->owner)
        return dp_error_set(e, -EINVAL, "%s is a snapshot: clone it, and make snapshots of the clone", dp_volume_text(p, v, text));
    int rc = volume_check_new(p, v->id, name, e);
    if (!rc)
        rc = volume_check_depth(p, v, e);
    if (!rc) /* open until the end: nobody writes it meanwhile */
        rc = volume_open(p, v, (struct dp_image_options){.readonly = true, .alone = true}, &i, e);
    if (rc)
        return rc;
    if (!(s = dp_pool_add(p, e))) {
        dp_image_close(i);
        return -ENOMEM;
    }
    uint64_t id = s->id;
    *s = before;
    s->id = id;
    s->owner = v->id;
    s->made = (uint64_t)time(NULL);
    snprintf(s->name, sizeof s->name, "%s", name);
    move_children(p, v->id, s->id, NULL);
    bool made = !(rc = volume_make_file(p, v, dp_image_format_named("qcow2"), i->size, s, e));
    if (made && (rc = dp_pool_commit(p, e)))
        volume_unlink(p, v);
    if (rc) {
        *v = before;
        move_children(p, s->id, v->id, NULL);
        dp_pool_forget(p, s);
    }
    dp_image_close(i);
    return rc;
}

int dp_volume_revert(struct dp_pool *p, struct dp_volume *v, struct dp_volume *s, struct dp_error *e)
{
    struct dp_volume before = *v, *child;
    struct dp_image *now = NULL, *then = NULL;
    char text[DP_VOLUME_TEXT_MAX], other[DP_VOLUME_TEXT_MAX];
    dp_volume_text(p, v, text);
    if (s->owner != v->id)
        return dp_error_set(e, -EINVAL, "%s is no snapshot of %s", dp_volume_text(p, s, other), text);
    if (dp_pool_children(p, v, &child))
        return dp_error_set(e, -EBUSY, "%s stands on what %s is now: keep that with a snapshot first", dp_volume_text(p, child, other),
                            text);
    int rc = volume_check_depth(p, s, e);
    if (!rc)
        rc = dp_volume_open(p, s, false, false, &then, e);
    if (!rc)
        rc = volume_open(p, v, (struct dp_image_options){.alone = true}, &now, e);
    bool made = !rc && !(rc = volume_make_file(p, v, dp_image_format_named("qcow2"), then->size, s, e));
    if (made && (rc = dp_pool_commit(p, e)))
        volume_unlink(p, v);
    if (rc)
        *v = before;
    else
        volume_unlink(p, &before);
    dp_image_close(now);
    dp_image_close(then);
    return rc;
}

/* ---- removal ---- */

static uint64_t space(const struct dp_pool *p, const struct dp_volume *v)
{
    char name[VOLUME_FILE_MAX];
    struct stat st;
    volume_file_name(v, name);
    return fstatat(p->folder_fd, name, &st, 0) ? 0 : (uint64_t)st.st_blocks * 512;
}

/* What child has goes into s's file, which becomes child's. Until that is in pool.json child is what it was: it has all that was
 * written. */
static int merge_down(struct dp_pool *p, struct dp_volume *s, struct dp_volume *child, struct dp_image *top, const struct dp_image_job *job,
                      struct dp_error *e)
{
    char name[VOLUME_FILE_MAX];
    struct dp_image *base = NULL;
    struct dp_volume before = *child;
    s->merging = true;
    int rc = dp_pool_commit(p, e);
    volume_file_name(s, name);
    if (!rc && fchmodat(p->folder_fd, name, 0600, 0))
        rc = dp_error_set(e, -errno, "%s/%s: %s", p->folder, name, strerror(errno));
    if (!rc)
        rc = volume_open(p, s, (struct dp_image_options){0}, &base, e);
    if (!rc)
        rc = dp_image_merge(top, base, job, e);
    dp_image_close(base);
    if (rc)
        return rc;
    child->file = s->file;
    child->format = s->format;
    child->parent = s->parent;
    dp_pool_forget(p, s);
    if (!(rc = dp_pool_commit(p, e))) /* else pool.json is as before, and right */
        volume_unlink(p, &before);
    return rc;
}

/* child gets what it took from s, and stands on what s stood on. */
static int merge_up(struct dp_pool *p, struct dp_volume *s, struct dp_volume *child, struct dp_image *top, const struct dp_image_job *job,
                    struct dp_error *e)
{
    const struct dp_volume *parent = dp_pool_by_id(p, s->parent);
    char name[VOLUME_FILE_MAX];
    struct dp_image *below = NULL;
    int rc = parent ? volume_open(p, parent, (struct dp_image_options){.readonly = true}, &below, e) : 0;
    if (!rc)
        rc = dp_image_detach(top, below, job, e);
    dp_image_close(below);
    if (parent)
        volume_file_name(parent, name);
    if (!rc)
        rc = top->format->set_backing(top, parent ? name : NULL, parent ? parent->format->name : NULL, e);
    if (!rc && (rc = dp_image_flush(top)))
        dp_error_set(e, rc, "%s cannot be written: %s", top->name, strerror(-rc));
    if (rc)
        return rc;
    struct dp_volume gone = *s;
    child->parent = s->parent;
    dp_pool_forget(p, s);
    if (!(rc = dp_pool_commit(p, e)))
        volume_unlink(p, &gone);
    return rc;
}

static int merge(struct dp_pool *p, struct dp_volume *s, struct dp_volume *child, const struct dp_image_job *job, struct dp_error *e)
{
    struct dp_image *top = NULL, *below = NULL;
    char name[VOLUME_FILE_MAX], text[DP_VOLUME_TEXT_MAX];
    volume_file_name(child, name);
    bool leaf = !dp_pool_children(p, child, NULL);
    if (strcmp(child->format->name, "qcow2") != 0)
        return dp_error_set(e, -EINVAL, "%s has no file over another: pool.json is damaged", dp_volume_text(p, child, text));
    int rc = volume_open(p, s, (struct dp_image_options){.readonly = true, .alone = true}, &below, e);
    uint64_t size = rc ? 0 : below->size;
    dp_image_close(below);
    if (rc)
        return rc;
    /* A snapshot's file is read-only; set_modes makes it so again. */
    if (fchmodat(p->folder_fd, name, 0600, 0))
        return dp_error_set(e, -errno, "%s/%s: %s", p->folder, name, strerror(errno));
    if ((rc = volume_open(p, child, (struct dp_image_options){.alone = leaf}, &top, e)))
        return rc;
    bool down = leaf && top->size >= size && space(p, child) <= space(p, s);
    if (leaf && !down) {
        dp_image_close(top);
        if ((rc = volume_open(p, child, (struct dp_image_options){0}, &top, e)))
            return rc;
    }
    rc = down ? merge_down(p, s, child, top, job, e) : merge_up(p, s, child, top, job, e);
    dp_image_close(top);
    return rc;
}

static int remove_snapshot(struct dp_pool *p, struct dp_volume *s, const struct dp_image_job *job, struct dp_error *e)
{
    struct dp_volume *child;
    char text[DP_VOLUME_TEXT_MAX], other[DP_VOLUME_TEXT_MAX];
    unsigned children = dp_pool_children(p, s, &child);
    if (children > 1)
        return dp_error_set(e, -EBUSY, "%s stays: %u others stand on it, %s the first; remove all but one of them",
                            dp_volume_text(p, s, text), children, dp_volume_text(p, child, other));
    if (children)
        return merge(p, s, child, job, e);
    if (dp_volume_in_use(p, s))
        return volume_busy(p, s, -EBUSY, e);
    struct dp_volume gone = *s;
    dp_pool_forget(p, s);
    int rc = dp_pool_commit(p, e);
    if (!rc)
        volume_unlink(p, &gone);
    return rc;
}

static bool belongs(const struct dp_volume *r, uint64_t id) { return r->id == id || r->owner == id; }

int dp_volume_remove(struct dp_pool *p, struct dp_volume *v, bool all, const struct dp_image_job *job, struct dp_error *e)
{
    char text[DP_VOLUME_TEXT_MAX], other[DP_VOLUME_TEXT_MAX];
    uint64_t id = v->id;
    unsigned own = 0;
    if (v->owner)
        return remove_snapshot(p, v, job, e);
    dp_volume_text(p, v, text);
    for (unsigned i = 0; i < p->count; i++) {
        struct dp_volume *r = p->volume[i];
        const struct dp_volume *parent = dp_pool_by_id(p, r->parent);
        if (!belongs(r, id) && parent && belongs(parent, id))
            return dp_error_set(e, -EBUSY, "volume %s stays: %s stands on it; remove that first, or copy it with clone --full", text,
                                dp_volume_text(p, r, other));
        if (belongs(r, id) && dp_volume_in_use(p, r))
            return volume_busy(p, r, -EBUSY, e);
        own += r->owner == id;
    }
    if (own && !all)
        return dp_error_set(e, -ENOTEMPTY, "volume %s has %u snapshot%s: remove %s too with --snapshots", text, own, own == 1 ? "" : "s",
                            own == 1 ? "it" : "them");
    struct dp_volume *gone = malloc((own + 1) * sizeof *gone);
    if (!gone)
        return dp_error_set(e, -ENOMEM, "out of memory");
    unsigned n = 0;
    for (unsigned i = 0; i < p->count;) {
        if (belongs(p->volume[i], id)) {
            gone[n++] = *p->volume[i];
            dp_pool_forget(p, p->volume[i]);
        } else {
            i++;
        }
    }
    int rc = dp_pool_commit(p, e);
    for (unsigned i = 0; !rc && i < n; i++)
        volume_unlink(p, &gone[i]);
    free(gone);
    return rc;
}
