/* vm/control_disk.c - commands for disks in use: words of the control socket into calls of block/live.h. */
#include <json.h>
#include <stdlib.h>

#include "block/live.h"
#include "vm/control_internal.h"
#include "vm/vm.h"

static struct dp_block *find(struct dp_vm *vm, const char *name, struct dp_error *e)
{
    char known[DP_VM_DISK_NAME];
    struct dp_buffer all = {0};
    struct dp_block *b;
    for (unsigned n = 0; (b = dp_vm_disk(vm, n, known)); n++) {
        if (!strcmp(known, name))
            break;
        dp_buffer_printf(&all, "%s%s", n ? ", " : ": it has ", known);
    }
    if (!b)
        dp_error_set(e, -ENODEV, "this VM has no disk '%.20s'%s", name, all.data ? (char *)all.data : ", nor any other");
    dp_buffer_fini(&all);
    return b;
}

/* Relative to the VM's working directory it would be a surprise. */
static int check_file(const char *file, struct dp_error *e)
{
    return *file == '/' || strstr(file, "://") ? 0 : dp_error_set(e, -EINVAL, "\"file\" must be an absolute path: %.200s", file);
}

static struct json_object *job_json(const struct dp_job_status *s)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "kind", json_object_new_string(dp_job_kind_name[s->kind]));
    json_object_object_add(o, "state", json_object_new_string(dp_job_state_name[s->state]));
    json_object_object_add(o, "done", json_object_new_uint64(s->done));
    json_object_object_add(o, "all", json_object_new_uint64(s->all));
    if (*s->target)
        json_object_object_add(o, "target", json_object_new_string(s->target));
    if (s->state == DP_JOB_FAILED)
        json_object_object_add(o, "error", json_object_new_string(s->error.text));
    return o;
}

static struct json_object *disk_json(struct dp_block *b, const char *name)
{
    struct json_object *o = json_object_new_object(), *layers = json_object_new_array(), *bitmaps = json_object_new_array();
    struct dp_block_layer *layer = malloc(DP_IMAGE_DEPTH_MAX * sizeof *layer);
    struct dp_job_status *status = malloc(sizeof *status);
    const char *bitmap;
    uint64_t bytes;
    for (unsigned i = 0, n = layer ? dp_block_layers(b, layer) : 0; i < n; i++) {
        struct json_object *one = json_object_new_object();
        json_object_object_add(one, "file", json_object_new_string(layer[i].file));
        json_object_object_add(one, "format", json_object_new_string(layer[i].format));
        json_object_array_add(layers, one);
    }
    for (unsigned i = 0; (bitmap = dp_block_bitmap(b, i, &bytes)); i++) {
        struct json_object *one = json_object_new_object();
        json_object_object_add(one, "name", json_object_new_string(bitmap));
        json_object_object_add(one, "bytes", json_object_new_uint64(bytes));
        json_object_array_add(bitmaps, one);
    }
    json_object_object_add(o, "disk", json_object_new_string(name));
    json_object_object_add(o, "size", json_object_new_uint64(dp_block_size(b)));
    json_object_object_add(o, "readonly", json_object_new_boolean(dp_block_readonly(b)));
    json_object_object_add(o, "io", json_object_new_string(dp_block_io_name(b)));
    json_object_object_add(o, "layers", layers);
    json_object_object_add(o, "bitmaps", bitmaps);
    if (status && dp_block_job_status(b, status))
        json_object_object_add(o, "job", job_json(status));
    free(layer);
    free(status);
    return o;
}

struct json_object *dp_control_disks(struct dp_vm *vm, const char *const *argument, struct dp_error *e)
{
    struct json_object *o = json_object_new_object(), *disks = json_object_new_array();
    struct dp_block *b;
    char name[DP_VM_DISK_NAME];
    for (unsigned n = 0; (b = dp_vm_disk(vm, n, name)); n++)
        json_object_array_add(disks, disk_json(b, name));
    json_object_object_add(o, "disks", disks);
    return o;
}

struct json_object *dp_control_disk_snapshot(struct dp_vm *vm, const char *const *argument, struct dp_error *e)
{
    struct dp_live_snapshot s[DP_SNAPSHOT_DISKS_MAX];
    unsigned count = 0;
    char *text = strdup(argument[0]), *rest = text;
    int rc = text ? 0 : dp_error_set(e, -ENOMEM, "no memory");
    for (char *line; !rc && (line = strsep(&rest, "\n"));) {
        char *file = strchr(line, '=');
        if (!file || count == DP_SNAPSHOT_DISKS_MAX) {
            rc = dp_error_set(e, -EINVAL, "\"disks\" is DISK=FILE, a line for each of %d disks at most", DP_SNAPSHOT_DISKS_MAX);
            break;
        }
        *file++ = 0;
        s[count] = (struct dp_live_snapshot){find(vm, line, e), file};
        if (!s[count].block || check_file(file, e))
            rc = -EINVAL;
        for (unsigned n = 0; !rc && n < count; n++)
            if (s[n].block == s[count].block)
                rc = dp_error_set(e, -EINVAL, "%s is named twice", line);
        count++;
    }
    if (!rc)
        rc = dp_block_snapshot(s, count, e);
    free(text);
    return rc ? NULL : json_object_new_object();
}

struct json_object *dp_control_disk_snapshot_inside(struct dp_vm *vm, const char *const *argument, struct dp_error *e)
{
    struct dp_block *b = find(vm, argument[0], e);
    return !b || dp_block_snapshot_inside(b, argument[1], e) ? NULL : json_object_new_object();
}

struct json_object *dp_control_disk_job(struct dp_vm *vm, const char *const *argument, struct dp_error *e)
{
    enum { KIND, DISK, RATE, FILE_, FORMAT, MODE, BITMAP, BACKING, TOP, BASE };
    struct dp_block *b = find(vm, argument[DISK], e);
    struct dp_job_options o = {.target = argument[FILE_],
                               .format = argument[FORMAT],
                               .bitmap = argument[BITMAP],
                               .top = argument[TOP],
                               .base = argument[BASE],
                               .backing = argument[BACKING],
                               .backing_format = argument[BACKING] ? "qcow2" : NULL};
    unsigned kind = 0;
    while (kind < 4 && strcmp(dp_job_kind_name[kind], argument[KIND]))
        kind++;
    o.kind = (enum dp_job_kind)kind;
    bool copies = kind == DP_JOB_MIRROR || kind == DP_JOB_BACKUP;
    int rc = b ? 0 : -ENODEV;
    if (!rc && kind == 4)
        rc = dp_error_set(e, -EINVAL, "\"kind\" is '%.20s': give commit, stream, mirror or backup", argument[KIND]);
    if (!rc && copies != !!o.target)
        rc = dp_error_set(e, -EINVAL, copies ? "%s needs \"file\"" : "%s has no \"file\"", argument[KIND]);
    if (!rc && (o.bitmap || o.backing) && kind != DP_JOB_BACKUP)
        rc = dp_error_set(e, -EINVAL, "\"bitmap\" and \"backing\" are a backup's");
    if (!rc && (o.top || o.base) && copies)
        rc = dp_error_set(e, -EINVAL, "\"top\" and \"base\" are a commit's or a stream's");
    if (!rc && o.top)
        rc = check_file(o.top, e);
    if (!rc && o.base)
        rc = check_file(o.base, e);
    if (!rc && argument[MODE] && strcmp(argument[MODE], "new")) {
        o.reuse = true;
        if (strcmp(argument[MODE], "reuse"))
            rc = dp_error_set(e, -EINVAL, "\"mode\" is '%.20s': give new or reuse", argument[MODE]);
    }
    if (!rc && o.target)
        rc = check_file(o.target, e);
    if (!rc && argument[RATE])
        rc = dp_parse_size(argument[RATE], &o.rate, e);
    if (!rc)
        rc = dp_block_job_start(b, &o, e);
    return rc ? NULL : json_object_new_object();
}

struct json_object *dp_control_disk_complete(struct dp_vm *vm, const char *const *argument, struct dp_error *e)
{
    struct dp_block *b = find(vm, argument[0], e);
    return !b || dp_block_job_complete(b, e) ? NULL : json_object_new_object();
}

struct json_object *dp_control_disk_cancel(struct dp_vm *vm, const char *const *argument, struct dp_error *e)
{
    struct dp_block *b = find(vm, argument[0], e);
    return !b || dp_block_job_cancel(b, e) ? NULL : json_object_new_object();
}

struct json_object *dp_control_disk_resize(struct dp_vm *vm, const char *const *argument, struct dp_error *e)
{
    struct dp_block *b = find(vm, argument[0], e);
    uint64_t size;
    return !b || dp_parse_size(argument[1], &size, e) || dp_block_resize(b, size, e) ? NULL : json_object_new_object();
}

struct json_object *dp_control_disk_bitmap_remove(struct dp_vm *vm, const char *const *argument, struct dp_error *e)
{
    struct dp_block *b = find(vm, argument[0], e);
    return !b || dp_block_bitmap_remove(b, argument[1], e) ? NULL : json_object_new_object();
}

struct json_object *dp_control_disk_attach(struct dp_vm *vm, const char *const *argument, struct dp_error *e)
{
    const char *file = argument[0], *format = argument[2], *mode = argument[4] ? argument[4] : "rw";
    char name[DP_VM_DISK_NAME];
    struct dp_vm_disk d = {.path = file, .format = format, .serial = argument[3], .readonly = !strcmp(mode, "ro")};
    if (!d.readonly && strcmp(mode, "rw")) {
        dp_error_set(e, -EINVAL, "\"mode\" is '%.20s': give ro or rw", mode);
        return NULL;
    }
    if (check_file(file, e) || dp_vm_attach_disk(vm, &d, argument[1], name, e))
        return NULL;
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "disk", json_object_new_string(name));
    return o;
}

struct json_object *dp_control_disk_detach(struct dp_vm *vm, const char *const *argument, struct dp_error *e)
{
    bool force = argument[1] && !strcmp(argument[1], "force");
    if (argument[1] && !force) {
        dp_error_set(e, -EINVAL, "\"mode\" is '%.20s': give force, or leave it out", argument[1]);
        return NULL;
    }
    return dp_vm_detach_disk(vm, argument[0], force, e) ? NULL : json_object_new_object();
}
