/* vm/control.c - see control.h. */
#include "vm/control.h"

#include <json.h>
#include <stdlib.h>
#include <unistd.h>

#include "devices/virtio/virtio_balloon.h"
#include "display/typist.h"
#include "event/event.h"
#include "vm/control_internal.h"
#include "vm/vm.h"

struct dp_control {
    struct dp_loop *loop;
    struct dp_vm *vm;
    char *name;
    struct dp_control_server *server;
    bool typing; /* there is a typist */
    struct dp_typist typist;
};

/* ---- commands ---- */

/* Each returns the result; NULL: e tells why not. Arguments have no NUL in them. */

static struct json_object *counters_json(const struct dp_engine_counters *c)
{
    struct json_object *o = json_object_new_object();
    for (unsigned i = 0; i < DP_ENGINE_COUNTER_COUNT; i++)
        json_object_object_add(o, dp_engine_counter_list[i].name, json_object_new_uint64(dp_engine_counter_value(c, i)));
    return o;
}

static struct json_object *identity(const struct dp_control *c)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "name", json_object_new_string(c->name));
    json_object_object_add(o, "pid", json_object_new_int(getpid()));
    json_object_object_add(o, "engine", json_object_new_string(dp_vm_engine_name(c->vm)));
    json_object_object_add(o, "seconds", json_object_new_double((double)dp_vm_uptime_ns(c->vm) / 1e9));
    return o;
}

static struct json_object *query_status(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    struct json_object *o = identity(c);
    json_object_object_add(o, "phase", json_object_new_string(dp_vm_phase_name(dp_vm_phase(c->vm))));
    json_object_object_add(o, "protocol", json_object_new_string(dp_vm_boot_protocol(c->vm)));
    json_object_object_add(o, "cpus", json_object_new_int((int)dp_vm_cpu_count(c->vm)));
    json_object_object_add(o, "memory", json_object_new_uint64(dp_vm_memory_size(c->vm)));
    return o;
}

static struct json_object *cpu_json(uint64_t cpu_ns, const struct dp_engine_counters *counters)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "cpu_seconds", json_object_new_double((double)cpu_ns / 1e9));
    json_object_object_add(o, "counters", counters_json(counters));
    return o;
}

static struct json_object *stats(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    struct dp_vm_cpu_stats cpu[DP_VM_CPUS_MAX];
    struct dp_engine_counters sum = {0};
    uint64_t sum_ns = 0;
    dp_vm_stats(c->vm, cpu);
    struct json_object *o = identity(c), *cpus = json_object_new_array();
    for (unsigned i = 0; i < dp_vm_cpu_count(c->vm); i++) {
        struct json_object *one = cpu_json(cpu[i].cpu_ns, &cpu[i].counters);
        json_object_object_add(one, "halted", json_object_new_boolean(cpu[i].halted));
        json_object_array_add(cpus, one);
        dp_engine_counters_add(&sum, &cpu[i].counters);
        sum_ns += cpu[i].cpu_ns;
    }
    json_object_object_add(o, "cpus", cpus);
    json_object_object_add(o, "total", cpu_json(sum_ns, &sum));
    return o;
}

static struct json_object *powerdown(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    dp_vm_power_button(c->vm);
    return json_object_new_object();
}

static struct json_object *quit(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    dp_vm_stop(c->vm, 0, "ended by the control socket (quit)");
    return json_object_new_object();
}

/* ---- the screen ---- */

static const struct dp_vm_screen *need_screen(struct dp_control *c, struct dp_error *e)
{
    const struct dp_vm_screen *screen = dp_vm_screen(c->vm);
    if (!screen->present)
        dp_error_set(e, -ENODEV, "this VM has no screen (start it with --machine pc, or --video virtio)");
    return screen->present ? screen : NULL;
}

static struct json_object *screenshot(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    const char *file = argument[0];
    const struct dp_vm_screen *screen = need_screen(c, e);
    struct dp_display_picture picture = {0};
    struct json_object *o = NULL;
    if (!screen)
        return NULL;
    if (*file != '/') { /* relative to the VM's working directory it would be a surprise */
        dp_error_set(e, -EINVAL, "\"file\" must be an absolute path");
        return NULL;
    }
    int rc = screen->source.picture(screen->source.opaque, &picture, e);
    if (!rc)
        rc = dp_display_write_png(&picture, file, e);
    if (!rc && (o = json_object_new_object())) {
        json_object_object_add(o, "file", json_object_new_string(file));
        json_object_object_add(o, "width", json_object_new_int((int)picture.width));
        json_object_object_add(o, "height", json_object_new_int((int)picture.height));
    }
    dp_display_picture_fini(&picture);
    return o;
}

/* The typist of this socket, made when it is needed first. */
static struct dp_typist *need_typist(struct dp_control *c, struct dp_error *e)
{
    const struct dp_vm_screen *screen = need_screen(c, e);
    if (!screen)
        return NULL;
    if (!c->typing && dp_typist_init(&c->typist, c->loop, &screen->sink, e)) {
        dp_typist_fini(&c->typist);
        return NULL;
    }
    c->typing = true;
    return &c->typist;
}

static struct json_object *pending(const struct dp_typist *t)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "pending", json_object_new_int((int)dp_typist_pending(t)));
    return o;
}

static struct json_object *type(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    struct dp_typist *t = need_typist(c, e);
    return !t || dp_typist_text(t, argument[0], strlen(argument[0]), e) ? NULL : pending(t);
}

static struct json_object *key(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    const char *names = argument[0];
    unsigned code[DP_TYPIST_KEYS_MAX];
    struct dp_typist *t = need_typist(c, e);
    if (!t)
        return NULL;
    unsigned count = dp_input_keys_by_names(names, code, DP_ARRAY_LEN(code));
    if (!count) {
        dp_error_set(e, -EINVAL, "'%.60s': give up to %d names of keys, joined by -, such as ctrl-alt-del, shift-f10, ret or a", names,
                     DP_TYPIST_KEYS_MAX);
        return NULL;
    }
    if (!dp_typist_stroke(t, code, count)) {
        dp_error_set(e, -EAGAIN, "what is being typed leaves no room: try again later");
        return NULL;
    }
    return pending(t);
}

/* ---- media ---- */

static struct json_object *media(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    struct json_object *o = json_object_new_object(), *drives = json_object_new_array();
    struct dp_vm_drive drive;
    for (unsigned i = 0; dp_vm_drive(c->vm, i, &drive); i++) {
        struct json_object *one = json_object_new_object();
        json_object_object_add(one, "drive", json_object_new_string(drive.name));
        json_object_object_add(one, "file", drive.file ? json_object_new_string(drive.file) : NULL);
        if (drive.file)
            json_object_object_add(one, "readonly", json_object_new_boolean(drive.readonly));
        json_object_array_add(drives, one);
    }
    json_object_object_add(o, "drives", drives);
    return o;
}

static struct json_object *insert(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    const char *drive = argument[0], *file = argument[1], *mode = argument[2] ? argument[2] : "rw";
    bool readonly = !strcmp(mode, "ro");
    if (!readonly && strcmp(mode, "rw")) {
        dp_error_set(e, -EINVAL, "\"mode\" is '%.20s': give ro or rw", mode);
        return NULL;
    }
    if (*file != '/') {
        dp_error_set(e, -EINVAL, "\"file\" must be an absolute path");
        return NULL;
    }
    return dp_vm_change_medium(c->vm, drive, file, readonly, e) ? NULL : json_object_new_object();
}

static struct json_object *eject(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    return dp_vm_change_medium(c->vm, argument[0], NULL, false, e) ? NULL : json_object_new_object();
}

/* ---- disks and network cards ---- */

#define VM_COMMAND(name)                                                                                                                 \
    static struct json_object *name(struct dp_control *c, const char *const *argument, struct dp_error *e)                                 \
    {                                                                                                                                      \
        return dp_control_##name(c->vm, argument, e);                                                                                      \
    }
VM_COMMAND(disks)
VM_COMMAND(disk_snapshot)
VM_COMMAND(disk_snapshot_inside)
VM_COMMAND(disk_job)
VM_COMMAND(disk_complete)
VM_COMMAND(disk_cancel)
VM_COMMAND(disk_resize)
VM_COMMAND(disk_bitmap_remove)
VM_COMMAND(disk_attach)
VM_COMMAND(disk_detach)
VM_COMMAND(nics)
VM_COMMAND(nic_add)
VM_COMMAND(nic_remove)

/* ---- memory ---- */

static struct json_object *balloon(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    struct dp_balloon_status s;
    uint64_t size, all = dp_vm_memory_size(c->vm);
    if (argument[0] && (dp_parse_size(argument[0], &size, e) || dp_vm_set_balloon(c->vm, size, e)))
        return NULL;
    if (dp_vm_balloon(c->vm, &s, e))
        return NULL;
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "memory", json_object_new_uint64(all));
    json_object_object_add(o, "target", json_object_new_uint64(all - DP_MIN(s.target, all)));
    json_object_object_add(o, "actual", json_object_new_uint64(all - DP_MIN(s.actual, all)));
    json_object_object_add(o, "driver", json_object_new_boolean(s.driver));
    json_object_object_add(o, "reporting", json_object_new_boolean(s.reporting));
    json_object_object_add(o, "inflated", json_object_new_uint64(s.inflated));
    json_object_object_add(o, "reported", json_object_new_uint64(s.reported));
    json_object_object_add(o, "refused_pages", json_object_new_uint64(s.refused));
    if (s.stat_known) {
        struct json_object *stats = json_object_new_object();
        json_object_object_add(stats, "age", json_object_new_double((double)s.stat_age_ns / 1e9));
        for (unsigned i = 0; i < DP_BALLOON_STATS; i++)
            if (s.stat_known >> i & 1)
                json_object_object_add(stats, dp_balloon_stat_names[i], json_object_new_uint64(s.stat[i]));
        json_object_object_add(o, "statistics", stats);
    }
    return o;
}

static struct json_object *help(struct dp_control *c, const char *const *argument, struct dp_error *e)
{
    struct json_object *o = json_object_new_object();
    const struct dp_control_command *command;
    for (unsigned i = 0; (command = dp_control_command(i)); i++)
        json_object_object_add(o, command->name, json_object_new_string(command->help));
    return o;
}

static const struct command {
    struct dp_control_command about;
    struct json_object *(*run)(struct dp_control *c, const char *const *argument, struct dp_error *e); /* NULL: not given */
} commands[] = {
    {{"help", "all commands and what they do"}, help},
    {{"query-status", "phase, engine, time, process, size of the machine"}, query_status},
    {{"stats", "what the engine counted, of each processor and in all"}, stats},
    {{"screenshot", "writes the screen as a PNG to file, an absolute path", {"file"}}, screenshot},
    {{"type", "types text on a US keyboard; pending: key events still to come", {"text"}}, type},
    {{"key", "strikes keys, held together: ctrl-alt-del, shift-f10, ret", {"keys"}}, key},
    {{"media", "drives whose media can be changed, and what is in them"}, media},
    {{"insert", "puts file, an absolute path, into drive: cdrom0, floppy1; mode ro: for reading only", {"drive", "file", "mode"}, 1},
     insert},
    {{"eject", "takes out what is in drive", {"drive"}}, eject},
    {{"disks", "disks, their layers from the top, jobs and bitmaps"}, disks},
    {{"disk-snapshot", "a new layer for each line DISK=FILE of disks, all of one moment; files are absolute paths", {"disks"}}, disk_snapshot},
    {{"disk-snapshot-inside", "a snapshot inside the disk's qcow2 image", {"disk", "name"}}, disk_snapshot_inside},
    {{"disk-job", "begins a job: kind commit, stream, mirror or backup; rate: bytes a second; mode: new or reuse; backing: qcow2; "
      "top, base: layers",
      {"kind", "disk", "rate", "file", "format", "mode", "bitmap", "backing", "top", "base"}, 8}, disk_job},
    {{"disk-complete", "the disk goes on with the copy of its mirror that is ready", {"disk"}}, disk_complete},
    {{"disk-cancel", "ends a disk's job; the copy of a mirror that is ready stays as of now", {"disk"}}, disk_cancel},
    {{"disk-resize", "grows a disk to size", {"disk", "size"}}, disk_resize},
    {{"disk-bitmap-remove", "stops recording for backups", {"disk", "bitmap"}}, disk_bitmap_remove},
    {{"disk-attach", "plugs a virtio disk: file, an absolute path or an address; disk: its name; mode ro: for reading only",
      {"file", "disk", "format", "serial", "mode"}, 4}, disk_attach},
    {{"disk-detach", "asks the guest to let go of a virtio disk, which is then gone; mode force: takes it out at once", {"disk", "mode"}, 1}, disk_detach},
    {{"nics", "network cards, and what their cables lead to"}, nics},
    {{"nic-add", "plugs a network card: options as of --nic; nic: its name", {"options", "nic"}, 1}, nic_add},
    {{"nic-remove", "asks the guest to let go of a network card, which is then gone; mode force: takes it out at once", {"nic", "mode"}, 1}, nic_remove},
    {{"balloon", "memory of the guest: what it has, what it gave back; size: what it shall have", {"size"}, 1}, balloon},
    {{"powerdown", "presses the power button: the guest, if it listens, ends by itself"}, powerdown},
    {{"quit", "ends the VM at once, with status 0, without asking the guest"}, quit},
};

const struct dp_control_command *dp_control_command(unsigned i) { return i < DP_ARRAY_LEN(commands) ? &commands[i].about : NULL; }

static struct json_object *run(void *opaque, unsigned i, const char *const *argument, struct dp_error *e)
{
    return commands[i].run(opaque, argument, e);
}

static const struct dp_control_service service = {dp_control_command, run};

/* ---- making ---- */

int dp_control_create(struct dp_loop *loop, struct dp_vm *vm, const char *name, struct dp_control **out, struct dp_error *e)
{
    struct dp_control *c = calloc(1, sizeof *c);
    if (!c || !(c->name = strdup(name))) {
        free(c);
        return dp_error_set(e, -ENOMEM, "no memory");
    }
    c->loop = loop;
    c->vm = vm;
    int rc = dp_control_server_create(loop, &service, c, &c->server, e);
    if (rc)
        dp_control_destroy(c);
    else
        *out = c;
    return rc;
}

int dp_control_listen(struct dp_control *c, const char *path, struct dp_error *e) { return dp_control_server_listen(c->server, path, e); }
int dp_control_adopt(struct dp_control *c, int fd, struct dp_error *e) { return dp_control_server_adopt(c->server, fd, e); }

void dp_control_destroy(struct dp_control *c)
{
    if (!c)
        return;
    dp_control_server_destroy(c->server);
    if (c->typing)
        dp_typist_fini(&c->typist);
    free(c->name);
    free(c);
}
