/* cli/image_change.c - the verbs of `doppel image` that make or change an image: create, resize, commit, rebase, snapshot, compact.
 *
 * What another program writes must not be changed meanwhile: all are opened under the lock (block/file.h). Each can be interrupted, and
 * begun again.
 */
#include "cli/image.h"

#include <inttypes.h>
#include <json.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { WORDS_MAX = 100 }; /* on the command line: more are one too many anyway */

/* The message where an operation was interrupted. */
static int go_on(int rc, struct dp_error *e)
{
    return rc == -EINTR ? dp_error_set(e, -EINTR, "interrupted; the image is as valid as before, the same command does the rest") : rc;
}

/* ---- create ---- */

struct create_options {
    struct image_common common;
    const char *file, *size, *backing, *backing_format;
    struct cli_list option;
    bool unchecked;
};
static const struct cli_option create_options[] = {
    {"format", 'f', "FORMAT", CLI_STRING, IMAGE_FIELD(format), .help = "raw when not said"},
    {"option", 'o', "KEY=VALUE[,...]", CLI_LIST, offsetof(struct create_options, option),
     .help = "how; `-f FORMAT -o help` lists what there is"},
    {"backing", 'b', "FILE", CLI_STRING, offsetof(struct create_options, backing),
     .help = "what the image does not have is there; relative to it"},
    {"backing-format", 'F', "FORMAT", CLI_STRING, offsetof(struct create_options, backing_format), .help = "of that"},
    {"unchecked", 'u', NULL, CLI_FLAG, offsetof(struct create_options, unchecked), .help = "the backing file need not be there"},
    IMAGE_OPTION_SECRET,
    IMAGE_OPTION_QUIET,
};
static const struct cli_operand create_operands[] = {{"FILE", offsetof(struct create_options, file)},
                                                     {"SIZE", offsetof(struct create_options, size), .optional = true}};

static int open_backing(const struct image_common *c, const char *file, const char *name, const char *format, struct dp_image **out,
                        struct dp_error *e)
{
    char *path = dp_image_beside(file, name), secret[IMAGE_SECRET_MAX];
    int rc = path ? image_secret(c, secret, e) : dp_error_set(e, -ENOMEM, "out of memory");
    struct dp_image_options o = {.name = path, .format = format, .readonly = true, .backing_anywhere = true, .unlocked = c->unlocked};
    if (!rc) {
        o.secret = *secret ? secret : NULL;
        rc = dp_image_open(&o, out, e);
    }
    free(path);
    return rc;
}

static int find_size(struct create_options *o, uint64_t *size, struct dp_error *e)
{
    struct dp_image *i = NULL;
    int rc = 0;
    *size = 0;
    if (o->backing && !o->backing_format)
        return dp_error_set(e, -EINVAL, "-b needs -F FORMAT, the format of %s", o->backing);
    if (o->size && (rc = dp_parse_size(o->size, size, e)))
        return rc;
    if (o->backing && !o->unchecked)
        rc = open_backing(&o->common, o->file, o->backing, o->backing_format, &i, e);
    if (!rc && !o->size)
        rc = i ? 0 : dp_error_set(e, -EINVAL, "how large? doppel image create -f %s %s 20G", o->common.format, o->file);
    if (!rc && !o->size)
        *size = i->size;
    dp_image_close(i);
    return rc;
}

static int create(int argc, char **argv)
{
    struct create_options o = {0};
    struct dp_error e = {0};
    const char *option[IMAGE_OPTIONS_MAX + 1];
    char *copy = NULL, text[32], secret[IMAGE_SECRET_MAX];
    uint64_t size;
    /* `-o help` needs no file. */
    bool wants_help = false;
    for (int i = 0; i < argc; i++)
        wants_help = wants_help || (!strcmp(argv[i], "-o") && i + 1 < argc && !strcmp(argv[i + 1], "help"));
    char any[] = "-", *words[WORDS_MAX + 1];
    argc = DP_MIN(argc, WORDS_MAX);
    for (int i = 0; i < argc; i++)
        words[i] = argv[i];
    words[argc] = any;
    int status = cli_begin(&image_create_verb, argc + wants_help, words, &o);
    if (status >= 0)
        return status;
    o.common.format = o.common.format ? o.common.format : "raw";
    if (image_option_help(&o.option, o.common.format))
        return 0;
    int rc = find_size(&o, &size, &e);
    if (!rc)
        rc = image_secret(&o.common, secret, &e);
    if (!rc)
        rc = image_split_options(&o.option, option, &copy, &e);
    struct dp_image_create make = {.name = o.file,
                                   .format = o.common.format,
                                   .size = DP_ALIGN_UP(rc ? 0 : size, (uint64_t)512),
                                   .backing = o.backing,
                                   .backing_format = o.backing_format,
                                   .option = option,
                                   .secret = !rc && *secret ? secret : NULL};
    if (!rc)
        rc = dp_image_create(&make, &e);
    explicit_bzero(secret, sizeof secret);
    free(copy);
    if (rc)
        return image_fail(&e);
    image_say(&o.common, "%s: %s, %s%s%s\n", o.file, o.common.format, image_size_text(make.size, text), o.backing ? " over " : "",
              o.backing ? o.backing : "");
    return 0;
}

const struct cli_verb image_create_verb = {
    .name = "image create",
    .summary = "makes an empty image",
    .usage = "[-f FORMAT] [-b FILE -F FORMAT] [-o KEY=VALUE,...] FILE [SIZE]",
    .examples = "  doppel image create disk.raw 4G\n"
                "  doppel image create -f qcow2 disk.qcow2 20G\n"
                "  doppel image create -f qcow2 -b base.qcow2 -F qcow2 web.qcow2     what base has, until web is written\n",
    .options = create_options,
    .option_count = DP_ARRAY_LEN(create_options),
    .operands = create_operands,
    .operand_count = DP_ARRAY_LEN(create_operands),
    .run = create,
};

/* ---- resize ---- */

struct resize_options {
    struct image_common common;
    const char *file, *size;
    bool shrink;
};
static const struct cli_option resize_options[] = {
    IMAGE_OPTION_FORMAT,
    {"shrink", 0, NULL, CLI_FLAG, offsetof(struct resize_options, shrink), .help = "what is behind the new end may get lost"},
    IMAGE_OPTION_BACKING,
    IMAGE_OPTION_SECRET,
    IMAGE_OPTION_QUIET,
};
static const struct cli_operand resize_operands[] = {{"FILE", offsetof(struct resize_options, file)},
                                                     {"[+|-]SIZE", offsetof(struct resize_options, size)}};

static int resize_image(const struct resize_options *o, struct dp_image *i, struct dp_error *e)
{
    uint64_t n;
    char sign = *o->size == '+' || *o->size == '-' ? *o->size : 0, text[32];
    int rc = dp_parse_size(o->size + (sign != 0), &n, e);
    if (rc)
        return rc;
    if (sign == '-' && n >= i->size)
        return dp_error_set(e, -EINVAL, "%s has only %" PRIu64 " bytes", o->file, i->size);
    if ((sign == '+' && n > INT64_MAX - i->size) || n > INT64_MAX - 512)
        return dp_error_set(e, -EINVAL, "%s is too large", o->size);
    n = DP_ALIGN_UP(sign == '+' ? i->size + n : sign == '-' ? i->size - n : n, (uint64_t)512);
    if (n < i->size && !o->shrink)
        return dp_error_set(e, -EINVAL, "what is behind the new end would be lost: shrink the file system first, then add --shrink");
    if (!i->format->resize)
        return dp_error_set(e, -ENOTSUP, "%s images cannot be resized here; convert it to qcow2 or raw", i->format->name);
    rc = i->format->resize(i, n, e);
    if (!rc && (rc = dp_image_flush(i)))
        dp_error_set(e, rc, "%s cannot be written: %s", o->file, strerror(-rc));
    if (!rc)
        image_say(&o->common, "%s: now %s\n", o->file, image_size_text(i->size, text));
    return rc;
}

static int resize(int argc, char **argv)
{
    struct resize_options o = {0};
    struct dp_error e = {0};
    struct dp_image *i = NULL;
    /* -1G is a size, no option. */
    char *words[WORDS_MAX + 1];
    argc = DP_MIN(argc, WORDS_MAX);
    int n = 0, size = argc && argv[argc - 1][0] == '-' && argv[argc - 1][1] >= '0' && argv[argc - 1][1] <= '9' ? argc - 1 : -1;
    char dashes[] = "--";
    for (int k = 0; k < argc; k++) {
        if (k == size)
            words[n++] = dashes;
        words[n++] = argv[k];
    }
    int status = cli_begin(&image_resize_verb, n, words, &o);
    if (status >= 0)
        return status;
    int rc = image_open(&o.common, o.file, true, (struct dp_image_options){.format = o.common.format}, &i, &e);
    if (!rc)
        rc = resize_image(&o, i, &e);
    dp_image_close(i);
    return rc ? image_fail(&e) : 0;
}

const struct cli_verb image_resize_verb = {
    .name = "image resize",
    .summary = "makes a disk larger or smaller",
    .usage = "[-f FORMAT] [--shrink] FILE [+|-]SIZE",
    .examples = "  doppel image resize -f qcow2 disk.qcow2 +10G\n  doppel image resize -f qcow2 --shrink disk.qcow2 5G\n",
    .options = resize_options,
    .option_count = DP_ARRAY_LEN(resize_options),
    .operands = resize_operands,
    .operand_count = DP_ARRAY_LEN(resize_operands),
    .run = resize,
};

/* ---- commit ---- */

struct commit_options {
    struct image_common common;
    const char *file;
    bool keep;
};
static const struct cli_option commit_options[] = {
    IMAGE_OPTION_FORMAT,
    {"keep", 'd', NULL, CLI_FLAG, offsetof(struct commit_options, keep), .help = "FILE is not emptied: for when it is then deleted"},
    IMAGE_OPTION_BACKING,
    IMAGE_OPTION_SECRET,
    IMAGE_OPTION_PROGRESS,
    IMAGE_OPTION_QUIET,
};
static const struct cli_operand commit_operands[] = {{"FILE", offsetof(struct commit_options, file)}};

static int commit_image(const struct commit_options *o, struct dp_image *top, const char *base_name, struct dp_error *e)
{
    struct dp_image *base = NULL;
    struct image_common below = o->common;
    struct image_task t;
    below.format = top->backing_format;
    int rc = image_open(&below, base_name, true, (struct dp_image_options){.format = top->backing_format}, &base, e);
    if (rc)
        return rc;
    image_task_begin(&t, &o->common, "commit");
    rc = go_on(dp_image_merge(top, base, &t.job, e), e);
    image_task_end(&t);
    dp_image_close(base);
    if (rc || o->keep)
        return rc;
    if (!top->format->empty)
        return dp_error_set(e, -ENOTSUP, "all is in %s now; %s images cannot be emptied here: delete %s", base_name, top->format->name,
                            o->file);
    rc = top->format->empty(top, e);
    if (!rc && (rc = dp_image_flush(top)))
        dp_error_set(e, rc, "%s cannot be written: %s", o->file, strerror(-rc));
    return rc;
}

static int commit(int argc, char **argv)
{
    struct commit_options o = {0};
    struct dp_error e = {0};
    struct dp_image *tree = NULL, *top = NULL;
    char *base = NULL;
    int status = cli_begin(&image_commit_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    /* The tree is opened to see what may be below; then top alone, for its backing image is to be written. */
    int rc = image_open(&o.common, o.file, false, (struct dp_image_options){.format = o.common.format}, &tree, &e);
    if (!rc && !tree->backing)
        rc = dp_error_set(&e, -EINVAL, "%s has no backing file", o.file);
    if (!rc && !(base = strdup(tree->backing->name)))
        rc = dp_error_set(&e, -ENOMEM, "out of memory");
    dp_image_close(tree);
    if (!rc)
        rc = image_open(&o.common, o.file, true, (struct dp_image_options){.format = o.common.format, .alone = true}, &top, &e);
    if (!rc)
        rc = commit_image(&o, top, base, &e);
    if (!rc)
        image_say(&o.common, "%s: all it had is in %s now\n", o.file, base);
    dp_image_close(top);
    free(base);
    return rc ? image_fail(&e) : 0;
}

const struct cli_verb image_commit_verb = {
    .name = "image commit",
    .summary = "writes what an image has into its backing file",
    .usage = "-f FORMAT [-d] FILE",
    .examples = "  doppel image commit -f qcow2 web.qcow2\n",
    .options = commit_options,
    .option_count = DP_ARRAY_LEN(commit_options),
    .operands = commit_operands,
    .operand_count = DP_ARRAY_LEN(commit_operands),
    .run = commit,
};

/* ---- rebase ---- */

struct rebase_options {
    struct image_common common;
    const char *file, *backing, *backing_format;
    bool unsafe;
};
static const struct cli_option rebase_options[] = {
    IMAGE_OPTION_FORMAT,
    {"backing", 'b', "FILE", CLI_STRING, offsetof(struct rebase_options, backing),
     .help = "the new backing file; \"\": none, FILE gets all it needs"},
    {"backing-format", 'F', "FORMAT", CLI_STRING, offsetof(struct rebase_options, backing_format), .help = "of that"},
    {"unsafe", 'u', NULL, CLI_FLAG, offsetof(struct rebase_options, unsafe),
     .help = "only the name is changed: the file was moved, not its contents"},
    IMAGE_OPTION_BACKING,
    IMAGE_OPTION_SECRET,
    IMAGE_OPTION_PROGRESS,
    IMAGE_OPTION_QUIET,
};
static const struct cli_operand rebase_operands[] = {{"FILE", offsetof(struct rebase_options, file)}};

static int rebase_image(const struct rebase_options *o, struct dp_image *top, struct dp_error *e)
{
    struct dp_image *below = NULL;
    struct image_task t;
    bool none = !*o->backing;
    int rc = 0;
    if (!top->format->set_backing)
        return dp_error_set(e, -ENOTSUP, "the backing file of %s images cannot be changed here", top->format->name);
    if (!o->unsafe) {
        if (!none)
            rc = open_backing(&o->common, o->file, o->backing, o->backing_format, &below, e);
        for (const struct dp_image *i = below; i && !rc; i = i->backing)
            if (!strcmp(i->name, top->name))
                rc = dp_error_set(e, -EINVAL, "%s would be its own backing file", o->file);
        if (!rc) {
            image_task_begin(&t, &o->common, "rebase");
            rc = go_on(dp_image_detach(top, below, &t.job, e), e);
            image_task_end(&t);
        }
        dp_image_close(below);
    }
    if (!rc)
        rc = top->format->set_backing(top, none ? NULL : o->backing, none ? NULL : o->backing_format, e);
    if (!rc && (rc = dp_image_flush(top)))
        dp_error_set(e, rc, "%s cannot be written: %s", o->file, strerror(-rc));
    return rc;
}

static int rebase(int argc, char **argv)
{
    struct rebase_options o = {0};
    struct dp_error e = {0};
    struct dp_image *top = NULL;
    int status = cli_begin(&image_rebase_verb, argc, argv, &o), rc = 0;
    if (status >= 0)
        return status;
    if (!o.backing || (*o.backing && !o.backing_format))
        rc = dp_error_set(&e, -EINVAL, "give -b FILE -F FORMAT, or -b \"\" for no backing file");
    if (!rc)
        rc = image_open(&o.common, o.file, true, (struct dp_image_options){.format = o.common.format, .alone = o.unsafe}, &top, &e);
    if (!rc)
        rc = rebase_image(&o, top, &e);
    dp_image_close(top);
    if (!rc)
        image_say(&o.common, "%s: %s%s\n", o.file, *o.backing ? "over " : "has no backing file now", o.backing);
    return rc ? image_fail(&e) : 0;
}

const struct cli_verb image_rebase_verb = {
    .name = "image rebase",
    .summary = "gives an image another backing file",
    .usage = "-f FORMAT [-u] -b FILE -F FORMAT FILE",
    .examples = "  doppel image rebase -f qcow2 -b new.qcow2 -F qcow2 web.qcow2     web has the same contents as before\n"
                "  doppel image rebase -f qcow2 -b \"\" web.qcow2                     it needs no other file any more\n"
                "  doppel image rebase -f qcow2 -u -b moved.raw -F raw web.qcow2    only the name\n",
    .options = rebase_options,
    .option_count = DP_ARRAY_LEN(rebase_options),
    .operands = rebase_operands,
    .operand_count = DP_ARRAY_LEN(rebase_operands),
    .run = rebase,
};

/* ---- snapshot ---- */

struct snapshot_options {
    struct image_common common;
    const char *file, *create, *apply, *delete;
    bool list;
};
static const struct cli_option snapshot_options[] = {
    IMAGE_OPTION_FORMAT,
    {"list", 'l', NULL, CLI_FLAG, offsetof(struct snapshot_options, list), .help = "which there are; also without any of these"},
    {"create", 'c', "NAME", CLI_STRING, offsetof(struct snapshot_options, create), .help = "keeps what the disk has now"},
    {"apply", 'a', "NAME", CLI_STRING, offsetof(struct snapshot_options, apply),
     .help = "the disk is again what it was then; what it is gets lost"},
    {"delete", 'd', "NAME", CLI_STRING, offsetof(struct snapshot_options, delete), .help = "forgets it"},
    IMAGE_OPTION_BACKING,
    IMAGE_OPTION_SECRET,
    IMAGE_OPTION_UNLOCKED,
    IMAGE_OPTION_QUIET,
    IMAGE_OPTION_JSON,
};
static const struct cli_operand snapshot_operands[] = {{"FILE", offsetof(struct snapshot_options, file)}};

static int list_snapshots(const struct snapshot_options *o, struct dp_image *i, struct dp_error *e)
{
    struct dp_image_snapshot *s = NULL;
    unsigned count = 0;
    if (!i->format->snapshot_list)
        return dp_error_set(e, -ENOTSUP, "%s images have no snapshots", i->format->name);
    int rc = i->format->snapshot_list(i, &s, &count, e);
    struct json_object *all = json_object_new_array();
    bool json = image_wants_json(&o->common);
    if (!rc && !json && count)
        printf("%-9s %-20s %10s %20s\n", "ID", "TAG", "VM SIZE", "DATE");
    for (unsigned n = 0; !rc && n < count; n++) {
        char size[32], date[32] = "";
        time_t when = (time_t)s[n].date_seconds;
        struct tm tm;
        struct json_object *j = json_object_new_object();
        if (localtime_r(&when, &tm))
            strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &tm);
        if (!json)
            printf("%-9s %-20s %10s %20s\n", s[n].id, s[n].name, image_size_text(s[n].vm_state_size, size), date);
        json_object_object_add(j, "id", json_object_new_string(s[n].id));
        json_object_object_add(j, "name", json_object_new_string(s[n].name));
        json_object_object_add(j, "vm-state-size", json_object_new_uint64(s[n].vm_state_size));
        json_object_object_add(j, "date-sec", json_object_new_uint64(s[n].date_seconds));
        json_object_object_add(j, "disk-size", json_object_new_uint64(s[n].disk_size));
        json_object_array_add(all, j);
    }
    if (!rc && json)
        image_print_json(json_object_get(all));
    json_object_put(all);
    free(s);
    return rc;
}

static int change_snapshots(const struct snapshot_options *o, struct dp_image *i, struct dp_error *e)
{
    const struct dp_image_format *f = i->format;
    struct timespec now;
    struct dp_image_snapshot s = {.disk_size = i->size};
    int rc;
    if (!f->snapshot_create || !f->snapshot_apply || !f->snapshot_delete)
        return dp_error_set(e, -ENOTSUP, "%s images have no snapshots; qcow2 ones have", f->name);
    clock_gettime(CLOCK_REALTIME, &now);
    s.date_seconds = (uint64_t)now.tv_sec;
    s.date_nanoseconds = (uint64_t)now.tv_nsec;
    if (o->create && strlen(o->create) >= sizeof s.name)
        return dp_error_set(e, -EINVAL, "the name of a snapshot has at most %zu bytes", sizeof s.name - 1);
    snprintf(s.name, sizeof s.name, "%s", o->create ? o->create : "");
    rc = o->create ? f->snapshot_create(i, &s, e) : o->apply ? f->snapshot_apply(i, o->apply, e) : f->snapshot_delete(i, o->delete, e);
    if (!rc && (rc = dp_image_flush(i)))
        dp_error_set(e, rc, "%s cannot be written: %s", o->file, strerror(-rc));
    return rc;
}

static int snapshot(int argc, char **argv)
{
    struct snapshot_options o = {0};
    struct dp_error e = {0};
    struct dp_image *i = NULL;
    int status = cli_begin(&image_snapshot_verb, argc, argv, &o), rc = 0;
    if (status >= 0)
        return status;
    bool change = o.create || o.apply || o.delete;
    if (o.list + !!o.create + !!o.apply + !!o.delete > 1)
        rc = dp_error_set(&e, -EINVAL, "one of -l, -c, -a and -d at a time");
    if (!rc)
        rc = image_open(&o.common, o.file, change, (struct dp_image_options){.format = o.common.format, .alone = !change}, &i, &e);
    if (!rc)
        rc = change ? change_snapshots(&o, i, &e) : list_snapshots(&o, i, &e);
    dp_image_close(i);
    return rc ? image_fail(&e) : 0;
}

const struct cli_verb image_snapshot_verb = {
    .name = "image snapshot",
    .summary = "lists, makes, applies and deletes the snapshots inside an image",
    .usage = "[-f FORMAT] [-l | -c NAME | -a NAME | -d NAME] FILE",
    .examples = "  doppel image snapshot -l disk.qcow2\n  doppel image snapshot -f qcow2 -c before disk.qcow2\n"
                "  doppel image snapshot -f qcow2 -a before disk.qcow2\n",
    .options = snapshot_options,
    .option_count = DP_ARRAY_LEN(snapshot_options),
    .operands = snapshot_operands,
    .operand_count = DP_ARRAY_LEN(snapshot_operands),
    .run = snapshot,
};

/* ---- compact ---- */

struct compact_options {
    struct image_common common;
    const char *file;
    bool dedup;
};
static const struct cli_option compact_options[] = {
    IMAGE_OPTION_FORMAT,
    {"dedup", 0, NULL, CLI_FLAG, offsetof(struct compact_options, dedup),
     .help = "and equal clusters are stored once (raw: by the file system, XFS or btrfs)"},
    IMAGE_OPTION_BACKING,
    IMAGE_OPTION_SECRET,
    IMAGE_OPTION_PROGRESS,
    IMAGE_OPTION_QUIET,
};
static const struct cli_operand compact_operands[] = {{"FILE", offsetof(struct compact_options, file)}};

static int compact(int argc, char **argv)
{
    struct compact_options o = {0};
    struct dp_error e = {0};
    struct dp_image *i = NULL;
    struct image_task t;
    uint64_t freed, shared, before, after;
    char a[32], b[32], c[32];
    int status = cli_begin(&image_compact_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    int rc = image_open(&o.common, o.file, true, (struct dp_image_options){.format = o.common.format}, &i, &e);
    before = image_file_size(o.file);
    if (!rc) {
        image_task_begin(&t, &o.common, "compact");
        rc = go_on(dp_image_compact(i, &t.job, &freed, &e), &e);
        image_task_end(&t);
    }
    if (!rc && o.dedup) {
        image_task_begin(&t, &o.common, "dedup");
        rc = go_on(dp_image_dedup(i, 0, &t.job, &shared, &e), &e);
        image_task_end(&t);
    }
    dp_image_close(i);
    if (rc)
        return image_fail(&e);
    if (o.dedup)
        image_say(&o.common, "%s: %s share their place with others\n", o.file, image_size_text(shared, a));
    after = image_file_size(o.file);
    image_say(&o.common, "%s: %s of zeros given back; the file took %s, and takes %s\n", o.file, image_size_text(freed, a),
              image_size_text(before, b), image_size_text(after, c));
    return 0;
}

const struct cli_verb image_compact_verb = {
    .name = "image compact",
    .summary = "gives back, in place, what holds only zeros, or what is there twice",
    .usage = "[-f FORMAT] [--dedup] FILE",
    .examples = "  doppel image compact disk.raw\n  doppel image compact -f qcow2 --dedup disk.qcow2\n",
    .options = compact_options,
    .option_count = DP_ARRAY_LEN(compact_options),
    .operands = compact_operands,
    .operand_count = DP_ARRAY_LEN(compact_operands),
    .run = compact,
};
