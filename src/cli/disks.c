/* cli/disks.c - `doppel disk`: what is done to the disks of a named VM that runs (block/live.h), through its control socket.
 *
 * Model: a verb that begins a job looks at it until it is over, or a mirror is ready, and shows how far it is; Ctrl-C leaves the job to
 * itself. Files are made by the VM's process; their names become absolute here, where the user is.
 */
#include <inttypes.h>
#include <json.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/image.h"

enum { POLL_NS = 100000000 };

struct disk_options {
    struct image_common common;
    const char *vm, *disk, *word; /* word: what follows them */
    const char *to, *format, *bitmap, *backing, *inside, *top, *base;
    struct cli_list more;
    const char *serial;
    uint64_t rate, timeout_ms;
    bool detach, reuse, pivot, ro, force;
};
#define FIELD(name) offsetof(struct disk_options, name)
#define OPTION_RATE                                                                                                                        \
    {                                                                                                                                      \
        "rate", 0, "SIZE", CLI_SIZE, FIELD(rate), .min = 1, .help = "bytes a second at most"                                               \
    }
#define OPTION_DETACH                                                                                                                      \
    {                                                                                                                                      \
        "detach", 'd', NULL, CLI_FLAG, FIELD(detach), .help = "begins the job and does not wait for it"                                    \
    }
#define OPTION_TO(text)                                                                                                                    \
    {                                                                                                                                      \
        "to", 0, "FILE", CLI_STRING, FIELD(to), .help = text                                                                               \
    }
#define OPTION_FORMAT                                                                                                                      \
    {                                                                                                                                      \
        "format", 'O', "FORMAT", CLI_STRING, FIELD(format), .help = "of FILE (raw)"                                                        \
    }
#define OPTION_REUSE                                                                                                                       \
    {                                                                                                                                      \
        "reuse", 0, NULL, CLI_FLAG, FIELD(reuse), .help = "FILE is there, as large as the disk, and is overwritten; an address always is"  \
    }

static const struct cli_operand vm_operand[] = {{"VM", FIELD(vm)}};
static const struct cli_operand disk_operands[] = {{"VM", FIELD(vm)}, {"DISK", FIELD(disk)}};

/* ---- asking ---- */

/* arguments as of cli_ask_list; NULL after telling why not. */
static struct json_object *ask(const struct disk_options *o, const char *command, const char *const *arguments, struct dp_error *e)
{
    struct json_object *result = NULL;
    int fd;
    if (!cli_connect(o->vm, &fd, e)) {
        result = cli_ask_list(fd, command, arguments, e);
        close(fd);
    }
    return result;
}

static int tell(const struct disk_options *o, const char *command, const char *const *arguments)
{
    struct dp_error e = {0};
    struct json_object *result = ask(o, command, arguments, &e);
    json_object_put(result);
    return result ? 0 : image_fail(&e);
}

static const char *text(struct json_object *o, const char *key)
{
    const char *s = json_object_get_string(json_object_object_get(o, key));
    return s ? s : "";
}
static uint64_t number(struct json_object *o, const char *key) { return json_object_get_uint64(json_object_object_get(o, key)); }

/* An address as it is, a file's name from the root; to be freed. */
static char *absolute(const char *name)
{
    char *folder = *name == '/' || strstr(name, "://") ? NULL : getcwd(NULL, 0), *whole = NULL;
    if (!folder)
        return strdup(name);
    if (asprintf(&whole, "%s/%s", folder, name) < 0)
        whole = NULL;
    free(folder);
    return whole;
}

/* ---- ls ---- */

static void print_disk(struct json_object *d)
{
    struct json_object *layers = json_object_object_get(d, "layers"), *bitmaps = json_object_object_get(d, "bitmaps"), *job;
    char size[32], done[32];
    for (size_t i = 0; i < json_object_array_length(layers); i++) {
        struct json_object *l = json_object_array_get_idx(layers, i);
        printf("%-8s %10s  %-6s %s%s\n", i ? "" : text(d, "disk"), i ? "" : image_size_text(number(d, "size"), size), text(l, "format"),
               text(l, "file"), !i && json_object_get_boolean(json_object_object_get(d, "readonly")) ? " (read-only)" : "");
    }
    if ((job = json_object_object_get(d, "job")))
        printf("%20s %s %s, %s of %s%s%s%s%s\n", "", text(job, "kind"), text(job, "state"), image_size_text(number(job, "done"), done),
               image_size_text(number(job, "all"), size), *text(job, "target") ? ", " : "", text(job, "target"),
               *text(job, "error") ? ": " : "", text(job, "error"));
    for (size_t i = 0; i < json_object_array_length(bitmaps); i++) {
        struct json_object *b = json_object_array_get_idx(bitmaps, i);
        printf("%20s bitmap %s: %s written\n", "", text(b, "name"), image_size_text(number(b, "bytes"), size));
    }
}

static int ls(int argc, char **argv);
static const struct cli_option ls_options[] = {IMAGE_OPTION_JSON};
static const struct cli_verb verb_ls = {.name = "disk ls",
                                        .summary = "a VM's disks, their layers from the top, jobs and bitmaps",
                                        .usage = "[--json] VM",
                                        .examples = "  doppel disk ls web\n",
                                        .options = ls_options,
                                        .option_count = DP_ARRAY_LEN(ls_options),
                                        .operands = vm_operand,
                                        .operand_count = DP_ARRAY_LEN(vm_operand),
                                        .run = ls};

static int ls(int argc, char **argv)
{
    struct disk_options o = {0};
    struct dp_error e = {0};
    int status = cli_begin(&verb_ls, argc, argv, &o);
    if (status >= 0)
        return status;
    struct json_object *result = ask(&o, "disks", (const char *[]){NULL}, &e);
    if (!result)
        return image_fail(&e);
    if (image_wants_json(&o.common)) {
        image_print_json(result);
        return 0;
    }
    struct json_object *disks = json_object_object_get(result, "disks");
    for (size_t i = 0; i < json_object_array_length(disks); i++)
        print_disk(json_object_array_get_idx(disks, i));
    json_object_put(result);
    return 0;
}

/* ---- snapshot ---- */

static int snapshot(int argc, char **argv);
static const struct cli_option snapshot_options[] = {
    OPTION_TO("the new layer, a qcow2 image that is made; what it lies on stays as it is now"),
    {"and", 0, "DISK=FILE", CLI_LIST, FIELD(more), .help = "one more disk, of the same moment; may be repeated"},
    {"inside", 0, "NAME", CLI_STRING, FIELD(inside), .help = "a snapshot inside the disk's qcow2 image, as `doppel image snapshot` makes"},
};
static const struct cli_verb verb_snapshot = {.name = "disk snapshot",
                                              .summary = "keeps a disk as it is; what is written goes into a new layer",
                                              .usage = "VM DISK (--to FILE [--and DISK=FILE]... | --inside NAME)",
                                              .examples = "  doppel disk snapshot web disk0 --to monday.qcow2\n"
                                                          "  doppel disk snapshot db disk0 --to a1.qcow2 --and disk1=b1.qcow2\n"
                                                          "  doppel disk snapshot web disk0 --inside before-upgrade\n",
                                              .options = snapshot_options,
                                              .option_count = DP_ARRAY_LEN(snapshot_options),
                                              .operands = disk_operands,
                                              .operand_count = DP_ARRAY_LEN(disk_operands),
                                              .run = snapshot};

static bool add_line(struct dp_buffer *lines, const char *disk, size_t length, const char *file)
{
    char *name = absolute(file);
    if (name)
        dp_buffer_printf(lines, "%s%.*s=%s", lines->size ? "\n" : "", (int)length, disk, name);
    free(name);
    return name;
}

static int snapshot(int argc, char **argv)
{
    struct disk_options o = {0};
    struct dp_buffer lines = {0};
    int status = cli_begin(&verb_snapshot, argc, argv, &o);
    if (status >= 0)
        return status;
    if (!o.to == !o.inside || (o.inside && o.more.count)) {
        fprintf(stderr, "doppel: disk snapshot: give either --to FILE or --inside NAME\n");
        return EXIT_STATUS_USAGE;
    }
    if (o.inside)
        return tell(&o, "disk-snapshot-inside", (const char *[]){"disk", o.disk, "name", o.inside, NULL});
    bool ok = add_line(&lines, o.disk, strlen(o.disk), o.to);
    for (unsigned i = 0; ok && i < o.more.count; i++) {
        const char *file = strchr(o.more.value[i], '=');
        if (!file || !file[1]) {
            fprintf(stderr, "doppel: --and %s: give DISK=FILE\n", o.more.value[i]);
            dp_buffer_fini(&lines);
            return EXIT_STATUS_USAGE;
        }
        ok = add_line(&lines, o.more.value[i], (size_t)(file - o.more.value[i]), file + 1);
    }
    status = ok ? tell(&o, "disk-snapshot", (const char *[]){"disks", (char *)lines.data, NULL})
                : image_fail(&(struct dp_error){.text = "no memory"});
    dp_buffer_fini(&lines);
    return status;
}

/* ---- jobs ---- */

/* The disk's job as it is now; NULL: e. */
static struct json_object *look(const struct disk_options *o, struct json_object **all, struct dp_error *e)
{
    *all = ask(o, "disks", (const char *[]){NULL}, e);
    struct json_object *disks = json_object_object_get(*all, "disks"), *job;
    for (size_t i = 0; *all && i < json_object_array_length(disks); i++) {
        struct json_object *d = json_object_array_get_idx(disks, i);
        if (!strcmp(text(d, "disk"), o->disk) && (job = json_object_object_get(d, "job")))
            return job;
    }
    if (*all)
        dp_error_set(e, -ENOENT, "%s has no job", o->disk);
    json_object_put(*all);
    *all = NULL;
    return NULL;
}

/* Until it is over, or a mirror is ready: the exit status. */
static int see_through(const struct disk_options *o, const char *kind)
{
    struct image_task t;
    struct dp_error e = {0};
    struct json_object *all, *job;
    int status = -1;
    image_task_begin(&t, &o->common, kind);
    while (status < 0 && (job = look(o, &all, &e))) {
        const char *state = text(job, "state");
        t.job.progress(t.job.opaque, number(job, "done"), number(job, "all"));
        if (!strcmp(state, "done") || !strcmp(state, "ready"))
            status = 0;
        else if (strcmp(state, "running"))
            status = EXIT_STATUS_ERROR;
        if (status == EXIT_STATUS_ERROR)
            dp_error_set(&e, -EIO, "%s of %s %s%s%s", kind, o->disk, state, *text(job, "error") ? ": " : "", text(job, "error"));
        json_object_put(all);
        if (status < 0 && atomic_load(&t.stop)) {
            dp_error_set(&e, -EINTR, "the job goes on; end it with: doppel disk cancel %s %s", o->vm, o->disk);
            status = IMAGE_STATUS_INTERRUPTED;
        }
        if (status < 0)
            nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
    }
    image_task_end(&t);
    if (status)
        fprintf(stderr, "doppel: %s\n", e.text);
    return status < 0 ? EXIT_STATUS_ERROR : status;
}

static int begin(const struct disk_options *o, const char *kind)
{
    char rate[24], *file = o->to ? absolute(o->to) : NULL, *backing = o->backing ? absolute(o->backing) : NULL;
    char *top = o->top ? absolute(o->top) : NULL, *base = o->base ? absolute(o->base) : NULL;
    snprintf(rate, sizeof rate, "%" PRIu64, o->rate);
    bool reuse = o->reuse || (o->to && strstr(o->to, "://"));
    int status = tell(o, "disk-job",
                      (const char *[]){"kind", kind, "disk", o->disk, "rate", o->rate ? rate : NULL, "file", file, "format", o->format,
                                       "mode", reuse ? "reuse" : NULL, "bitmap", o->bitmap, "backing", backing, "top", top, "base", base, NULL});
    free(top);
    free(base);
    free(file);
    free(backing);
    return status || o->detach ? status : see_through(o, kind);
}

static int commit(int argc, char **argv);
static const struct cli_option commit_options[] = {
    {"top", 0, "FILE", CLI_STRING, FIELD(top), .help = "the layer that is merged (the topmost one)"},
    {"base", 0, "FILE", CLI_STRING, FIELD(base), .help = "into which, with all between them (the one just below)"},
    OPTION_DETACH,
    IMAGE_OPTION_QUIET,
    IMAGE_OPTION_PROGRESS,
};
static const struct cli_verb verb_commit = {.name = "disk commit",
                                            .summary = "merges the topmost layer, or others, into one below",
                                            .usage = "[OPTION]... VM DISK",
                                            .examples = "  doppel disk commit web disk0\n"
                                                        "  doppel disk commit web disk0 --top tuesday.qcow2 --base disk.qcow2\n",
                                            .options = commit_options,
                                            .option_count = DP_ARRAY_LEN(commit_options),
                                            .operands = disk_operands,
                                            .operand_count = DP_ARRAY_LEN(disk_operands),
                                            .run = commit};
static int commit(int argc, char **argv)
{
    struct disk_options o = {0};
    int status = cli_begin(&verb_commit, argc, argv, &o);
    return status >= 0 ? status : begin(&o, "commit");
}

static int stream(int argc, char **argv);
static const struct cli_option stream_options[] = {
    {"base", 0, "FILE", CLI_STRING, FIELD(base), .help = "the layer that stays below; only what lies between is pulled up (none stays)"},
    OPTION_RATE,
    OPTION_DETACH,
    IMAGE_OPTION_QUIET,
    IMAGE_OPTION_PROGRESS,
};
static const struct cli_verb verb_stream = {.name = "disk stream",
                                            .summary = "pulls all that lies below into the topmost layer, which then stands alone",
                                            .usage = "[OPTION]... VM DISK",
                                            .examples = "  doppel disk stream web disk0 --rate 50M\n"
                                                        "  doppel disk stream web disk0 --base golden.qcow2\n",
                                            .options = stream_options,
                                            .option_count = DP_ARRAY_LEN(stream_options),
                                            .operands = disk_operands,
                                            .operand_count = DP_ARRAY_LEN(disk_operands),
                                            .run = stream};
static int stream(int argc, char **argv)
{
    struct disk_options o = {0};
    int status = cli_begin(&verb_stream, argc, argv, &o);
    return status >= 0 ? status : begin(&o, "stream");
}

static int mirror(int argc, char **argv);
static const struct cli_option mirror_options[] = {
    OPTION_TO("where to: a file, or an address such as nbd://HOST"),
    OPTION_FORMAT,
    OPTION_REUSE,
    {"pivot", 0, NULL, CLI_FLAG, FIELD(pivot), .help = "goes on with the copy as soon as it is ready, as `disk complete` does"},
    OPTION_RATE,
    OPTION_DETACH,
    IMAGE_OPTION_QUIET,
    IMAGE_OPTION_PROGRESS,
};
static const struct cli_verb verb_mirror = {.name = "disk mirror",
                                            .summary = "copies a disk and keeps the copy the same: to move it elsewhere",
                                            .usage = "[OPTION]... VM DISK --to FILE",
                                            .examples = "  doppel disk mirror web disk0 --to /new/place/disk.qcow2 -O qcow2 --pivot\n"
                                                        "  doppel disk mirror web disk0 --to copy.raw; doppel disk cancel web disk0\n",
                                            .options = mirror_options,
                                            .option_count = DP_ARRAY_LEN(mirror_options),
                                            .operands = disk_operands,
                                            .operand_count = DP_ARRAY_LEN(disk_operands),
                                            .run = mirror};

static int needs_to(const struct disk_options *o, const char *verb)
{
    if (o->to)
        return -1;
    fprintf(stderr, "doppel: disk %s: where to? give --to FILE\n", verb);
    return EXIT_STATUS_USAGE;
}

static int mirror(int argc, char **argv)
{
    struct disk_options o = {0};
    int status = cli_begin(&verb_mirror, argc, argv, &o);
    if (status < 0 && o.pivot && o.detach) {
        fprintf(stderr, "doppel: disk mirror: --pivot waits until the copy is ready, --detach does not\n");
        return EXIT_STATUS_USAGE;
    }
    if (status >= 0 || (status = needs_to(&o, "mirror")) >= 0)
        return status;
    status = begin(&o, "mirror");
    if (!status && o.pivot)
        return tell(&o, "disk-complete", (const char *[]){"disk", o.disk, NULL});
    if (!status && !o.detach)
        image_say(&o.common,
                  "the copy is ready and kept the same; doppel disk complete %s %s goes on with it, cancel leaves it as it is then\n", o.vm,
                  o.disk);
    return status;
}

static int backup(int argc, char **argv);
static const struct cli_option backup_options[] = {
    OPTION_TO("where to"),
    OPTION_FORMAT,
    OPTION_REUSE,
    {"bitmap", 0, "NAME", CLI_STRING, FIELD(bitmap),
     .help = "when there is none of this name: all, and from then on what is written is recorded; else only that"},
    {"backing", 0, "FILE", CLI_STRING, FIELD(backing), .help = "the backup before, a qcow2 image, which the new one lies on (-O qcow2)"},
    OPTION_RATE,
    OPTION_DETACH,
    IMAGE_OPTION_QUIET,
    IMAGE_OPTION_PROGRESS,
};
static const struct cli_verb verb_backup = {.name = "disk backup",
                                            .summary = "copies a disk as it is at this moment, while it is written",
                                            .usage = "[OPTION]... VM DISK --to FILE",
                                            .examples = "  doppel disk backup web disk0 --to sunday.qcow2 -O qcow2 --bitmap week\n"
                                                        "  doppel disk backup web disk0 --to monday.qcow2 -O qcow2 --bitmap week"
                                                        " --backing sunday.qcow2\n",
                                            .options = backup_options,
                                            .option_count = DP_ARRAY_LEN(backup_options),
                                            .operands = disk_operands,
                                            .operand_count = DP_ARRAY_LEN(disk_operands),
                                            .run = backup};
static int backup(int argc, char **argv)
{
    struct disk_options o = {0};
    int status = cli_begin(&verb_backup, argc, argv, &o);
    return status >= 0 || (status = needs_to(&o, "backup")) >= 0 ? status : begin(&o, "backup");
}

/* ---- one word ---- */

static int complete(int argc, char **argv);
static const struct cli_verb verb_complete = {.name = "disk complete",
                                              .summary = "the disk goes on with the copy of its mirror that is ready",
                                              .usage = "VM DISK",
                                              .examples = "  doppel disk complete web disk0\n",
                                              .operands = disk_operands,
                                              .operand_count = DP_ARRAY_LEN(disk_operands),
                                              .run = complete};
static int complete(int argc, char **argv)
{
    struct disk_options o = {0};
    int status = cli_begin(&verb_complete, argc, argv, &o);
    return status >= 0 ? status : tell(&o, "disk-complete", (const char *[]){"disk", o.disk, NULL});
}

static int cancel(int argc, char **argv);
static const struct cli_verb verb_cancel = {.name = "disk cancel",
                                            .summary = "ends a disk's job; the copy of a mirror that is ready stays as it is now",
                                            .usage = "VM DISK",
                                            .examples = "  doppel disk cancel web disk0\n",
                                            .operands = disk_operands,
                                            .operand_count = DP_ARRAY_LEN(disk_operands),
                                            .run = cancel};
static int cancel(int argc, char **argv)
{
    struct disk_options o = {0};
    int status = cli_begin(&verb_cancel, argc, argv, &o);
    return status >= 0 ? status : tell(&o, "disk-cancel", (const char *[]){"disk", o.disk, NULL});
}

static int resize(int argc, char **argv);
static const struct cli_operand size_operands[] = {{"VM", FIELD(vm)}, {"DISK", FIELD(disk)}, {"SIZE", FIELD(word)}};
static const struct cli_verb verb_resize = {.name = "disk resize",
                                            .summary = "grows a disk; virtio and SCSI guests see it at once",
                                            .usage = "VM DISK SIZE",
                                            .examples = "  doppel disk resize web disk0 20G\n",
                                            .operands = size_operands,
                                            .operand_count = DP_ARRAY_LEN(size_operands),
                                            .run = resize};
static int resize(int argc, char **argv)
{
    struct disk_options o = {0};
    int status = cli_begin(&verb_resize, argc, argv, &o);
    return status >= 0 ? status : tell(&o, "disk-resize", (const char *[]){"disk", o.disk, "size", o.word, NULL});
}

static int forget(int argc, char **argv);
static const struct cli_operand bitmap_operands[] = {{"VM", FIELD(vm)}, {"DISK", FIELD(disk)}, {"BITMAP", FIELD(word)}};
static const struct cli_verb verb_forget = {.name = "disk forget",
                                            .summary = "stops recording what is written for backups with this bitmap",
                                            .usage = "VM DISK BITMAP",
                                            .examples = "  doppel disk forget web disk0 week\n",
                                            .operands = bitmap_operands,
                                            .operand_count = DP_ARRAY_LEN(bitmap_operands),
                                            .run = forget};
static int forget(int argc, char **argv)
{
    struct disk_options o = {0};
    int status = cli_begin(&verb_forget, argc, argv, &o);
    return status >= 0 ? status : tell(&o, "disk-bitmap-remove", (const char *[]){"disk", o.disk, "bitmap", o.word, NULL});
}

/* ---- disks that come and go ---- */

static int attach(int argc, char **argv);
static const struct cli_option attach_options[] = {
    {"format", 'f', "FORMAT", CLI_STRING, FIELD(format), .help = "of FILE (raw)"},
    {"ro", 0, NULL, CLI_FLAG, FIELD(ro), .help = "for reading only"},
    {"serial", 0, "TEXT", CLI_STRING, FIELD(serial), .help = "what the disk says is its serial number; up to 20 characters"},
    {"id", 0, "NAME", CLI_STRING, FIELD(disk), .help = "what the disk is called (the first of disk0, disk1... that is free)"},
};
static const struct cli_operand attach_operands[] = {{"VM", FIELD(vm)}, {"FILE", FIELD(word)}};
static const struct cli_verb verb_attach = {.name = "disk attach",
                                            .summary = "plugs a virtio disk into a VM that runs, and says what it is called",
                                            .usage = "[OPTION]... VM FILE",
                                            .examples = "  doppel disk attach web data.raw\n"
                                                        "  doppel disk attach web data.qcow2 -f qcow2 --serial DATA --id data\n",
                                            .options = attach_options,
                                            .option_count = DP_ARRAY_LEN(attach_options),
                                            .operands = attach_operands,
                                            .operand_count = DP_ARRAY_LEN(attach_operands),
                                            .run = attach};
static int attach(int argc, char **argv)
{
    struct disk_options o = {0};
    struct dp_error e = {0};
    int status = cli_begin(&verb_attach, argc, argv, &o);
    if (status >= 0)
        return status;
    char *file = absolute(o.word);
    struct json_object *result = ask(&o, "disk-attach", (const char *[]){"file", file, "disk", o.disk, "format", o.format, "serial", o.serial, "mode", o.ro ? "ro" : NULL, NULL}, &e);
    free(file);
    if (!result)
        return image_fail(&e);
    printf("%s\n", text(result, "disk"));
    json_object_put(result);
    return 0;
}

static int detach(int argc, char **argv);
static const struct cli_option detach_options[] = {
    {"force", 'F', NULL, CLI_FLAG, FIELD(force), .help = "at once, without asking the guest, which loses what it had not written"},
    {"timeout", 't', "SECONDS", CLI_SECONDS, FIELD(timeout_ms), .help = "how long to wait for the guest (30)"},
};
static const struct cli_verb verb_detach = {.name = "disk detach",
                                            .summary = "takes a virtio disk out of a VM that runs: asks the guest to let go of it, and waits",
                                            .usage = "[--force] [--timeout SECONDS] VM DISK",
                                            .examples = "  doppel disk detach web disk1\n",
                                            .options = detach_options,
                                            .option_count = DP_ARRAY_LEN(detach_options),
                                            .operands = disk_operands,
                                            .operand_count = DP_ARRAY_LEN(disk_operands),
                                            .run = detach};

/* Whether the VM has the disk; negative: it does not answer. */
static int has(const struct disk_options *o, struct dp_error *e)
{
    struct json_object *result = ask(o, "disks", (const char *[]){NULL}, e), *disks = json_object_object_get(result, "disks");
    int found = result ? 0 : e->code;
    for (size_t i = 0; result && !found && i < json_object_array_length(disks); i++)
        found = !strcmp(text(json_object_array_get_idx(disks, i), "disk"), o->disk);
    json_object_put(result);
    return found;
}

static int detach(int argc, char **argv)
{
    enum { PATIENCE_MS = 30000, WAIT_MS = 20 };
    struct disk_options o = {.timeout_ms = PATIENCE_MS};
    struct dp_error e = {0};
    int status = cli_begin(&verb_detach, argc, argv, &o), found = 1;
    if (status >= 0)
        return status;
    struct json_object *result = ask(&o, "disk-detach", (const char *[]){"disk", o.disk, "mode", o.force ? "force" : NULL, NULL}, &e);
    if (!result)
        return image_fail(&e);
    json_object_put(result);
    for (uint64_t waited = 0; (found = has(&o, &e)) > 0 && waited < o.timeout_ms; waited += WAIT_MS)
        nanosleep(&(struct timespec){.tv_nsec = WAIT_MS * 1000000}, NULL);
    if (found > 0)
        dp_error_set(&e, -ETIMEDOUT,
                     "%s: the guest has not let go of %s within %g s: it is still starting, or has no ACPI PCI hotplug. It stays asked, and a "
                     "reset takes the disk out, too; --force does so at once, whatever the guest does with it",
                     o.vm, o.disk, (double)o.timeout_ms / 1000);
    return found ? image_fail(&e) : 0;
}

/* ---- the family ---- */

static const struct cli_verb *const verbs[] = {&verb_ls,     &verb_snapshot, &verb_commit, &verb_stream, &verb_mirror,
                                               &verb_backup, &verb_complete, &verb_cancel, &verb_resize, &verb_forget, &verb_attach, &verb_detach};

static int disk(int argc, char **argv) { return cli_family(&cli_disk, verbs, DP_ARRAY_LEN(verbs), argc, argv); }

const struct cli_verb cli_disk = {
    .name = "disk",
    .summary = "snapshots, merges, moves, backs up, grows, plugs and unplugs disks of a VM that runs",
    .usage = "VERB [OPTION]... VM [DISK]",
    .examples = "  doppel disk ls web\n"
                "  doppel disk snapshot web disk0 --to monday.qcow2\n"
                "  doppel disk mirror web disk0 --to /new/disk.qcow2 -O qcow2 --pivot\n"
                "  doppel disk attach web data.raw\n",
    .run = disk,
};
