/* cli/image_convert.c - `doppel image convert`: copies an image, to another format if wanted.
 *
 * Model: the copy is TARGET.part, which is renamed when all of it is there and flushed: TARGET is always whole, the old one or the new.
 * When the copy ends early (Ctrl-C, a full disk, an error of the source), TARGET.part.json says what it was made of and how far it is;
 * `--resume` checks that source and options are the same and goes on from there (docs/decisions/0008). Targets that exist
 * (-n), devices, and formats of several files are written in place, and not resumed.
 */
#include "cli/image.h"

#include <fcntl.h>
#include <inttypes.h>
#include <json.h>
#include <libgen.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct convert_options {
    struct image_common common;
    const char *source, *target, *target_format, *backing, *backing_format, *snapshot;
    uint64_t sparse, threads;
    struct cli_list option;
    bool packed, no_create, resume, range, no_sync;
};
#define FIELD(name) offsetof(struct convert_options, name)
static const struct cli_option options[] = {
    IMAGE_OPTION_FORMAT,
    {"target-format", 'O', "FORMAT", CLI_STRING, FIELD(target_format), .help = "of TARGET; raw when not said"},
    {"option", 'o', "KEY=VALUE[,...]", CLI_LIST, FIELD(option), .help = "how TARGET is made; `-O FORMAT -o help` lists what there is"},
    {"compress", 'c', NULL, CLI_FLAG, FIELD(packed), .help = "TARGET is compressed"},
    {"backing", 'B', "FILE", CLI_STRING, FIELD(backing), .help = "TARGET has this backing file, and only what differs from it"},
    {"backing-format", 'F', "FORMAT", CLI_STRING, FIELD(backing_format), .help = "of that"},
    {"sparse", 'S', "SIZE", CLI_SIZE, FIELD(sparse), .max = DP_IMAGE_PIECE,
     .help = "so many zeros in a row are not stored (4K when not said); 0: all are"},
    {"snapshot", 'l', "NAME", CLI_STRING, FIELD(snapshot), .help = "what the internal snapshot of FILE has"},
    {"copy-range", 'C', NULL, CLI_FLAG, FIELD(range), .help = "raw files: the kernel or its file server copies, zeros are not looked for"},
    {"no-create", 'n', NULL, CLI_FLAG, FIELD(no_create), .help = "TARGET is there, and is written in place"},
    {"resume", 0, NULL, CLI_FLAG, FIELD(resume), .help = "goes on with what was interrupted; begins anew if there is nothing"},
    {"no-sync", 0, NULL, CLI_FLAG, FIELD(no_sync),
     .help = "does not wait until TARGET is on the disk: after a power cut it may be damaged"},
    {"threads", 'm', "N", CLI_UINT, FIELD(threads), .min = 1, .max = 64,
     .help = "that compress and decompress (two for each processor, at most 16)"},
    IMAGE_OPTION_BACKING,
    IMAGE_OPTION_SECRET,
    IMAGE_OPTION_UNLOCKED,
    IMAGE_OPTION_PROGRESS,
    IMAGE_OPTION_QUIET,
};
static const struct cli_operand operands[] = {{"FILE", FIELD(source)}, {"TARGET", FIELD(target)}};

struct conversion {
    const struct convert_options *o;
    const char *format;
    struct dp_image *from, *to, *guard; /* guard: holds the lock of the file that is replaced */
    char *target, *part, *state, *options;
    struct json_object *identity; /* of source and options */
    uint64_t start;
    bool in_place;
};

/* ---- who is who ---- */

static int refuse_same(const struct dp_image *i, const struct stat *st, const struct convert_options *o, struct dp_error *e)
{
    for (struct stat other; i; i = i->backing) {
        if (i->file && refuse_same(i->file, st, o, e))
            return e->code;
        if (!stat(i->name, &other) && other.st_dev == st->st_dev && other.st_ino == st->st_ino)
            return dp_error_set(e, -EINVAL, "%s belongs to what is copied: name another target, and rename it afterwards", o->target);
    }
    return 0;
}

static bool several_files(const struct convert_options *o)
{
    for (unsigned i = 0; i < o->option.count; i++)
        if (strstr(o->option.value[i], "Flat") || strstr(o->option.value[i], "MaxExtent") || strstr(o->option.value[i], "data_file"))
            return true;
    return false;
}

/* What must be the same for going on. */
static struct json_object *identify(const struct conversion *c)
{
    const struct convert_options *o = c->o;
    struct json_object *j = json_object_new_object();
    struct stat st = {0};
    char *path = realpath(o->source, NULL);
    struct dp_buffer b = {0};
    stat(o->source, &st);
    for (unsigned i = 0; i < o->option.count; i++)
        dp_buffer_printf(&b, "-o %s ", o->option.value[i]);
    dp_buffer_printf(&b, "-O %s -f %s -B %s -l %s -S %" PRIu64 "%s", c->format, c->from->format->name, o->backing ? o->backing : "",
                     o->snapshot ? o->snapshot : "", o->sparse, o->packed ? " -c" : "");
    dp_buffer_append(&b, "", 1);
    json_object_object_add(j, "source", json_object_new_string(path ? path : o->source));
    json_object_object_add(j, "size", json_object_new_uint64(c->from->size));
    json_object_object_add(j, "inode", json_object_new_uint64(st.st_ino));
    json_object_object_add(j, "modified", json_object_new_int64((int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec));
    json_object_object_add(j, "options", json_object_new_string(b.failed ? "" : (char *)b.data));
    dp_buffer_fini(&b);
    free(path);
    return j;
}

/* One block from the beginning on, rewritten in place: it must have room on a disk that is full. */
static bool write_state(struct conversion *c, uint64_t done)
{
    enum { BLOCK = 8192 };
    char text[BLOCK];
    json_object_object_add(c->identity, "done", json_object_new_uint64(DP_ALIGN_DOWN(done, (uint64_t)DP_IMAGE_PIECE)));
    int n = snprintf(text, sizeof text, "%s", json_object_to_json_string_ext(c->identity, JSON_C_TO_STRING_PRETTY));
    json_object_object_del(c->identity, "done");
    int fd = n < BLOCK ? open(c->state, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666) : -1;
    if (fd < 0)
        return false;
    memset(text + n, ' ', (size_t)(BLOCK - n));
    text[BLOCK - 1] = '\n';
    bool good = pwrite(fd, text, BLOCK, 0) == BLOCK && !fdatasync(fd);
    return !close(fd) && good;
}

/* How far an earlier run came; 0: there was none. */
static int read_state(struct conversion *c, struct dp_error *e)
{
    struct json_object *old = json_object_from_file(c->state), *a, *b;
    c->start = 0;
    if (!old || access(c->part, F_OK)) {
        json_object_put(old);
        return 0;
    }
    int rc = 0;
    json_object_object_foreach(c->identity, key, value)
    {
        a = value;
        if (!json_object_object_get_ex(old, key, &b) || !json_object_equal(a, b))
            rc = dp_error_set(e, -EINVAL, "%s was begun with another %s: remove it, or leave --resume away to begin anew", c->part, key);
    }
    if (!rc && json_object_object_get_ex(old, "done", &a))
        c->start = json_object_get_uint64(a);
    if (!rc && (c->start > c->from->size || c->start % DP_IMAGE_PIECE))
        rc = dp_error_set(e, -EINVAL, "%s is damaged: remove it, and begin anew", c->state);
    json_object_put(old);
    return rc;
}

/* ---- steps ---- */

static int name_target(struct conversion *c, struct dp_error *e)
{
    const struct convert_options *o = c->o;
    struct stat st;
    bool there = !stat(o->target, &st);
    c->in_place = o->no_create || (there && !S_ISREG(st.st_mode)) || several_files(o) || strstr(o->target, "://");
    char *real = there ? realpath(o->target, NULL) : NULL; /* a link stays, what it leads to is replaced */
    c->target = real ? real : strdup(o->target);
    if (!c->target || asprintf(&c->part, "%s%s", c->target, c->in_place ? "" : ".part") < 0 ||
        asprintf(&c->state, "%s.part.json", c->target) < 0)
        return dp_error_set(e, -ENOMEM, "out of memory");
    if (there && refuse_same(c->from, &st, o, e))
        return e->code;
    if (there && o->backing) {
        struct stat below;
        if (!stat(o->backing, &below) && below.st_dev == st.st_dev && below.st_ino == st.st_ino)
            return dp_error_set(e, -EINVAL, "%s cannot be its own backing file", o->target);
    }
    /* Somebody may use what is replaced. */
    if (there && !c->in_place)
        return dp_image_open(&(struct dp_image_options){.name = c->target, .format = "raw"}, &c->guard, e);
    return 0;
}

static int make_target(struct conversion *c, struct dp_error *e)
{
    const struct convert_options *o = c->o;
    const char *option[IMAGE_OPTIONS_MAX + 1];
    char secret[IMAGE_SECRET_MAX];
    int rc = image_split_options(&o->option, option, &c->options, e);
    if (!rc)
        rc = image_secret(&o->common, secret, e);
    struct dp_image_create make = {.name = c->part,
                                   .format = c->format,
                                   .size = c->from->size,
                                   .backing = o->backing,
                                   .backing_format = o->backing_format,
                                   .option = option,
                                   .secret = !rc && *secret ? secret : NULL};
    if (!rc && !o->no_create && !c->start) {
        /* What an earlier state says is not true any more, whatever happens next. */
        if (!c->in_place && !access(c->state, F_OK) && !write_state(c, 0))
            unlink(c->state);
        rc = dp_image_create(&make, e);
        if (!rc && !c->in_place && !write_state(c, 0)) /* a disk that is full tells so soon */
            unlink(c->state);
        /* What it left is no copy of anything; a device, or what another copy is making, stays as it is. */
        if (rc && !c->in_place && rc != -EBUSY) {
            unlink(c->part);
            unlink(c->state);
        }
    }
    struct dp_image_options open = {
        .name = c->part, .format = c->format, .secret = make.secret, .backing_anywhere = true, .unsafe = o->no_sync};
    return rc ? rc : dp_image_open(&open, &c->to, e);
}

static int sync_folder(const char *path)
{
    char *copy = strdup(path);
    int fd = copy ? open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1, rc = fd < 0 || fsync(fd) ? -errno : 0;
    if (fd >= 0)
        close(fd);
    free(copy);
    return rc;
}

static int finish(struct conversion *c, struct dp_error *e)
{
    int rc = 0;
    for (unsigned n = 0; !rc && n < 2 && (!n || dp_image_dirty(c->to)); n++)
        rc = dp_image_flush(c->to);
    if (rc)
        return dp_error_set(e, rc, "%s cannot be written: %s", c->part, strerror(-rc));
    dp_image_close(c->to);
    c->to = NULL;
    if (c->in_place)
        return 0;
    if (rename(c->part, c->target))
        return dp_error_set(e, -errno, "%s is complete, but cannot be renamed to %s: %s", c->part, c->target, strerror(errno));
    unlink(c->state);
    if (!c->o->no_sync)
        rc = sync_folder(c->target);
    return rc ? dp_error_set(e, rc, "the folder of %s cannot be written: %s", c->target, strerror(-rc)) : 0;
}

/* After the copy ended early: what there is stays, if it can be gone on with. */
static void leave(struct conversion *c, uint64_t done, struct dp_error *e)
{
    char text[sizeof e->text];
    int rc = dp_image_flush(c->to), code = e->code;
    bool keep = !c->in_place && done >= DP_IMAGE_PIECE && (!rc || rc == -ENOSPC);
    /* What could not be flushed is not there: it is copied again. */
    if (keep && rc)
        done = c->start;
    dp_image_close(c->to);
    c->to = NULL;
    snprintf(text, sizeof text, "%s", e->text);
    keep = keep && done >= DP_IMAGE_PIECE && write_state(c, done);
    if (keep) {
        dp_error_set(e, code, "%.300s; what is done is in %s: the same command with --resume goes on", text, c->part);
    } else if (!c->in_place) {
        unlink(c->part);
        unlink(c->state);
    } else {
        dp_error_set(e, code, "%.300s; %s is incomplete", text, c->part);
    }
}

static int copy(struct conversion *c, struct dp_error *e)
{
    const struct convert_options *o = c->o;
    struct image_task t;
    struct dp_image_copy job = {.from = c->from,
                                .to = c->to,
                                .start = c->start,
                                .sparse = (uint32_t)o->sparse,
                                .packed = o->packed,
                                .threads = (unsigned)o->threads,
                                .zeroed = !o->no_create && !c->to->backing && !c->in_place,
                                .same_as_backing = c->to->backing != NULL,
                                .range = o->range};
    image_task_begin(&t, &o->common, "convert");
    t.first = c->start;
    int rc = dp_image_copy(&job, &t.job, e);
    image_task_end(&t);
    if (rc)
        leave(c, job.done, e);
    return rc ? rc : finish(c, e);
}

static int convert_to(struct conversion *c, struct dp_error *e)
{
    int rc = name_target(c, e);
    if (rc)
        return rc;
    c->identity = identify(c);
    if (c->o->resume && !c->in_place && (rc = read_state(c, e)))
        return rc;
    rc = make_target(c, e);
    return rc ? rc : copy(c, e);
}

static int convert(int argc, char **argv)
{
    struct convert_options o = {.sparse = 4096};
    struct dp_error e = {0};
    int status = cli_begin(&image_convert_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    struct conversion c = {.o = &o, .format = o.target_format ? o.target_format : "raw"};
    if (image_option_help(&o.option, c.format))
        return 0;
    int rc = 0;
    if (o.backing && !o.backing_format)
        rc = dp_error_set(&e, -EINVAL, "-B needs -F FORMAT, the format of %s", o.backing);
    if (!rc)
        rc = image_open(&o.common, o.source, false, (struct dp_image_options){.format = o.common.format, .snapshot = o.snapshot}, &c.from,
                        &e);
    if (!rc)
        rc = convert_to(&c, &e);
    dp_image_close(c.to);
    dp_image_close(c.from);
    dp_image_close(c.guard);
    json_object_put(c.identity);
    free(c.target);
    free(c.part);
    free(c.state);
    free(c.options);
    return rc ? image_fail(&e) : 0;
}

const struct cli_verb image_convert_verb = {
    .name = "image convert",
    .summary = "copies an image, to another format if wanted",
    .usage = "[-f FORMAT] [-O FORMAT] [OPTION]... FILE TARGET",
    .examples = "  doppel image convert -O qcow2 disk.raw disk.qcow2\n"
                "  doppel image convert -O qcow2 -c disk.raw small.qcow2             compressed\n"
                "  doppel image convert -f vmdk -O raw other.vmdk disk.raw\n"
                "  doppel image convert -O qcow2 -B base.qcow2 -F qcow2 a.raw a.qcow2   only what differs\n"
                "  doppel image convert --resume -O qcow2 disk.raw disk.qcow2        goes on after Ctrl-C\n",
    .options = options,
    .option_count = DP_ARRAY_LEN(options),
    .operands = operands,
    .operand_count = DP_ARRAY_LEN(operands),
    .run = convert,
};
