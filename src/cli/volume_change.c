/* cli/volume_change.c - the verbs of `doppel volume` that make or change volumes. The work is volume/volume.h's, and for one image that of
 * a verb of `doppel image`, which is given the volume's file while the pool is locked.
 */
#include "cli/volume.h"

#include <json.h>
#include <stdlib.h>

#include "block/mirror.h"

struct change_options {
    struct image_common common;
    const char *name, *to, *from, *from_format, *size_text;
    uint64_t size;
    bool full, reflink, backing, all, shrink, dedup, state;
};
#define FIELD(name) offsetof(struct change_options, name)
#define OPERAND_NAME                                                                                                                       \
    {                                                                                                                                      \
        "[POOL/]NAME", FIELD(name)                                                                                                         \
    }

static int closed(struct dp_pool *p, int rc, const struct dp_error *e)
{
    dp_pool_close(p);
    return rc ? volume_fail(e) : 0;
}

/* A verb of `doppel image` on a volume. write: refused when something stands on it. after: operands that follow. */
static int delegate(const struct cli_verb *verb, const char *name, bool write, const char *const *before, const char *after)
{
    struct dp_error e = {0};
    struct dp_pool p;
    struct dp_volume *v;
    char *words[16], *path = NULL;
    const char *format;
    int n = 0;
    if (volume_enter(name, write, &p, &v, &e))
        return volume_fail(&e);
    if (dp_volume_resolve(name, write, &path, &format, &e))
        return closed(&p, e.code, &e);
    char f[] = "-f";
    words[n++] = f;
    words[n++] = (char *)format;
    for (; before && *before && n < 12; before++)
        words[n++] = (char *)*before;
    words[n++] = path;
    if (after)
        words[n++] = (char *)after;
    int status = verb->run(n, words);
    free(path);
    dp_pool_close(&p);
    return status;
}

/* ---- create ---- */

static const struct cli_option create_options[] = {
    {"size", 's', "SIZE", CLI_SIZE, FIELD(size), .min = 512, .max = (uint64_t)1 << 62,
     .help = "of the disk; with --from: at least the image's"},
    {"format", 'f', "qcow2|raw", CLI_STRING, FIELD(common.format), .choices = "qcow2|raw", .help = "qcow2 when not said"},
    {"from", 0, "IMAGE", CLI_STRING, FIELD(from), .help = "a copy of this image, of any format"},
    {"from-format", 0, "FORMAT", CLI_STRING, FIELD(from_format), .help = "of IMAGE; guessed when not said"},
    IMAGE_OPTION_BACKING,
    IMAGE_OPTION_PROGRESS,
    IMAGE_OPTION_QUIET,
};
static const struct cli_operand name_operand[] = {OPERAND_NAME};

static int grow(struct dp_pool *p, const struct dp_volume_name *n, uint64_t size, struct dp_error *e)
{
    struct dp_image *i = NULL;
    struct dp_volume *v = dp_volume_find(p, n, e);
    int rc = v ? dp_volume_open(p, v, true, false, &i, e) : -ENOENT;
    if (!rc && i->size < size)
        rc = i->format->resize(i, DP_ALIGN_UP(size, (uint64_t)512), e);
    if (!rc && (rc = dp_image_flush(i)))
        dp_error_set(e, rc, "%s cannot be written: %s", i->name, strerror(-rc));
    dp_image_close(i);
    return rc;
}

static int import(const struct change_options *o, struct dp_pool *p, const struct dp_volume_name *n, struct dp_image *from,
                  const char *format, struct dp_error *e)
{
    struct image_task t;
    image_task_begin(&t, &o->common, "copy");
    int rc = dp_volume_import(p, n->name, format, from, &t.job, e);
    image_task_end(&t);
    return rc;
}

static int new_name(const char *text, struct dp_volume_name *n, struct dp_error *e)
{
    int rc = dp_volume_split(text, n, e);
    return rc ? rc
           : *n->snapshot
               ? dp_error_set(e, -EINVAL, "'%s' names a snapshot: make it with: doppel volume snapshot %s %s", text, n->name, n->snapshot)
               : 0;
}

static int create(int argc, char **argv)
{
    struct change_options o = {0};
    struct dp_error e = {0};
    struct dp_volume_name n;
    struct dp_pool p;
    struct dp_image *from = NULL;
    int status = cli_begin(&volume_create_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    if (!o.size && !o.from) {
        fprintf(stderr, "doppel: how large? doppel volume create --size 20G %s\n", o.name);
        return EXIT_STATUS_USAGE;
    }
    struct image_common reading = o.common;
    reading.format = o.from_format;
    int rc = new_name(o.name, &n, &e);
    if (!rc && o.from)
        rc = image_open(&reading, o.from, false, (struct dp_image_options){.format = o.from_format}, &from, &e);
    if (!rc && !(rc = dp_pool_open(n.pool, true, &p, &e))) {
        rc = from ? import(&o, &p, &n, from, o.common.format, &e) : dp_volume_create(&p, n.name, o.common.format, o.size, &e);
        if (!rc && from && o.size)
            rc = grow(&p, &n, o.size, &e);
        dp_pool_close(&p);
    }
    dp_image_close(from);
    return rc ? volume_fail(&e) : 0;
}

const struct cli_verb volume_create_verb = {
    .name = "volume create",
    .summary = "makes a volume, empty or from an image",
    .usage = "[--size SIZE] [--format qcow2|raw] [--from IMAGE] [POOL/]NAME",
    .examples = "  doppel volume create --size 20G data\n"
                "  doppel volume create --from debian-12.qcow2 --size 40G debian\n"
                "  doppel volume create --size 8G --format raw work/swap\n",
    .options = create_options,
    .option_count = DP_ARRAY_LEN(create_options),
    .operands = name_operand,
    .operand_count = DP_ARRAY_LEN(name_operand),
    .run = create,
};

/* ---- clone ---- */

static const struct cli_option clone_options[] = {
    {"full", 0, NULL, CLI_FLAG, FIELD(full), .help = "a copy that shares nothing; also into another pool"},
    {"reflink", 0, NULL, CLI_FLAG, FIELD(reflink), .help = "shares blocks by the file system, or fails"},
    {"backing", 0, NULL, CLI_FLAG, FIELD(backing), .help = "stands on NAME, which then only can be read"},
    {"format", 'f', "qcow2|raw", CLI_STRING, FIELD(common.format), .choices = "qcow2|raw", .help = "with --full; qcow2 when not said"},
    IMAGE_OPTION_PROGRESS,
    IMAGE_OPTION_QUIET,
};
static const struct cli_operand clone_operands[] = {{"[POOL/]NAME[@SNAPSHOT]", FIELD(name)}, {"NEW", FIELD(to)}};

/* Within one pool: how the clone shares. */
static int clone_here(const struct change_options *o, const struct dp_volume_name *to, struct dp_error *e)
{
    struct dp_pool p;
    struct dp_volume *v;
    int rc = volume_enter(o->name, true, &p, &v, e);
    if (rc)
        return rc;
    enum dp_volume_clone how = o->reflink ? DP_CLONE_REFLINK : o->backing ? DP_CLONE_BACKING : DP_CLONE_AUTO;
    rc = strcmp(p.name, to->pool) ? dp_error_set(e, -EXDEV, "%s is in pool %s: a clone in another pool needs --full", o->name, p.name)
                                  : dp_volume_clone(&p, v, to->name, &how, e);
    if (!rc)
        image_say(&o->common, "%s: %s %s\n", to->name, how == DP_CLONE_REFLINK ? "shares blocks with" : "stands on", o->name);
    dp_pool_close(&p);
    return rc;
}

static int clone_full(const struct change_options *o, const struct dp_volume_name *to, struct dp_error *e)
{
    struct dp_pool p;
    struct dp_volume *v;
    struct dp_image *from = NULL;
    int rc = volume_enter(o->name, true, &p, &v, e);
    if (rc)
        return rc;
    rc = dp_volume_open(&p, v, false, false, &from, e);
    dp_pool_close(&p); /* from now on its image lock keeps it as it is */
    if (!rc)
        rc = dp_pool_open(to->pool, true, &p, e);
    if (!rc) {
        rc = import(o, &p, to, from, o->common.format, e);
        dp_pool_close(&p);
    }
    dp_image_close(from);
    return rc;
}

static int clone(int argc, char **argv)
{
    struct change_options o = {0};
    struct dp_error e = {0};
    struct dp_volume_name from, to;
    char full[256];
    int status = cli_begin(&volume_clone_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    if (o.full + o.reflink + o.backing > 1) {
        fprintf(stderr, "doppel: volume clone: one of --full, --reflink and --backing at a time\n");
        return EXIT_STATUS_USAGE;
    }
    int rc = dp_volume_split(o.name, &from, &e);
    if (!rc && !strchr(o.to, '/')) { /* beside its origin */
        snprintf(full, sizeof full, "%s/%.100s", from.pool, o.to);
        o.to = full;
    }
    if (!rc)
        rc = new_name(o.to, &to, &e);
    if (!rc)
        rc = o.full ? clone_full(&o, &to, &e) : clone_here(&o, &to, &e);
    return rc ? volume_fail(&e) : 0;
}

const struct cli_verb volume_clone_verb = {
    .name = "volume clone",
    .summary = "makes a volume with the contents of another, or of a snapshot",
    .usage = "[--full | --reflink | --backing] [POOL/]NAME[@SNAPSHOT] NEW",
    .examples = "  doppel volume clone debian web               at once: shares what is not written\n"
                "  doppel volume clone web@before web-test\n"
                "  doppel volume clone --full web backup/web    a copy in another pool\n",
    .options = clone_options,
    .option_count = DP_ARRAY_LEN(clone_options),
    .operands = clone_operands,
    .operand_count = DP_ARRAY_LEN(clone_operands),
    .run = clone,
};

/* ---- snapshot and revert ---- */

static const struct cli_operand snapshot_operands[] = {OPERAND_NAME, {"SNAPSHOT", FIELD(to), .optional = true}};
static const struct cli_operand revert_operands[] = {OPERAND_NAME, {"SNAPSHOT", FIELD(to)}};
static const struct cli_option quiet_options[] = {IMAGE_OPTION_QUIET};

/* s1, s2...: the first that is free. */
static void free_name(const struct dp_pool *p, const struct dp_volume *v, char text[DP_VOLUME_NAME_MAX + 1])
{
    bool taken = true;
    for (unsigned n = 1; taken; n++) {
        snprintf(text, DP_VOLUME_NAME_MAX + 1, "s%u", n);
        taken = false;
        for (unsigned i = 0; i < p->count; i++)
            taken = taken || (p->volume[i]->owner == v->id && !strcmp(p->volume[i]->name, text));
    }
}

static int snapshot(int argc, char **argv)
{
    struct change_options o = {0};
    struct dp_error e = {0};
    struct dp_pool p;
    struct dp_volume *v;
    char name[DP_VOLUME_NAME_MAX + 1];
    int status = cli_begin(&volume_snapshot_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    if (volume_enter(o.name, true, &p, &v, &e))
        return volume_fail(&e);
    if (!o.to) {
        free_name(&p, v, name);
        o.to = name;
    }
    int rc = dp_volume_snapshot(&p, v, o.to, &e);
    if (!rc)
        image_say(&o.common, "%s@%s\n", v->name, o.to);
    return closed(&p, rc, &e);
}

const struct cli_verb volume_snapshot_verb = {
    .name = "volume snapshot",
    .summary = "keeps what a volume has now",
    .usage = "[POOL/]NAME [SNAPSHOT]",
    .examples = "  doppel volume snapshot web before-upgrade\n  doppel volume snapshot web                   named s1, s2...\n",
    .options = quiet_options,
    .option_count = DP_ARRAY_LEN(quiet_options),
    .operands = snapshot_operands,
    .operand_count = DP_ARRAY_LEN(snapshot_operands),
    .run = snapshot,
};

static int revert(int argc, char **argv)
{
    struct change_options o = {0};
    struct dp_error e = {0};
    struct dp_volume_name n;
    struct dp_pool p;
    struct dp_volume *v, *s;
    int status = cli_begin(&volume_revert_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    int rc = dp_volume_split(o.name, &n, &e);
    if (!rc && *n.snapshot)
        rc = dp_error_set(&e, -EINVAL, "two words: doppel volume revert %s/%s %s", n.pool, n.name, n.snapshot);
    if (!rc)
        rc = dp_volume_check_name("snapshot", o.to, &e);
    if (rc || volume_enter(o.name, true, &p, &v, &e))
        return volume_fail(&e);
    snprintf(n.snapshot, sizeof n.snapshot, "%s", o.to);
    rc = (s = dp_volume_find(&p, &n, &e)) ? dp_volume_revert(&p, v, s, &e) : -ENOENT;
    return closed(&p, rc, &e);
}

const struct cli_verb volume_revert_verb = {
    .name = "volume revert",
    .summary = "a volume is again what it was at a snapshot; what it is now gets lost",
    .usage = "[POOL/]NAME SNAPSHOT",
    .examples = "  doppel volume revert web before-upgrade\n",
    .options = quiet_options,
    .option_count = DP_ARRAY_LEN(quiet_options),
    .operands = revert_operands,
    .operand_count = DP_ARRAY_LEN(revert_operands),
    .run = revert,
};

/* ---- rm and rename ---- */

static const struct cli_option rm_options[] = {
    {"snapshots", 0, NULL, CLI_FLAG, FIELD(all), .help = "a volume with its snapshots"},
    IMAGE_OPTION_PROGRESS,
    IMAGE_OPTION_QUIET,
};
static const struct cli_operand any_operand[] = {{"[POOL/]NAME[@SNAPSHOT]", FIELD(name)}};

static int rm(int argc, char **argv)
{
    struct change_options o = {0};
    struct dp_error e = {0};
    struct dp_pool p;
    struct dp_volume *v;
    struct image_task t;
    int status = cli_begin(&volume_rm_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    if (volume_enter(o.name, true, &p, &v, &e))
        return volume_fail(&e);
    image_task_begin(&t, &o.common, "merge");
    int rc = dp_volume_remove(&p, v, o.all, &t.job, &e);
    image_task_end(&t);
    if (rc == -EINTR)
        dp_error_set(&e, rc, "interrupted; what stands on %s is as before, the same command does the rest", o.name);
    return closed(&p, rc, &e);
}

const struct cli_verb volume_rm_verb = {
    .name = "volume rm",
    .summary = "removes a volume, or a snapshot, which is merged with the one that stands on it",
    .usage = "[--snapshots] [POOL/]NAME[@SNAPSHOT]",
    .examples = "  doppel volume rm web@before-upgrade\n  doppel volume rm --snapshots web\n",
    .options = rm_options,
    .option_count = DP_ARRAY_LEN(rm_options),
    .operands = any_operand,
    .operand_count = DP_ARRAY_LEN(any_operand),
    .run = rm,
};

static const struct cli_operand rename_operands[] = {{"[POOL/]NAME[@SNAPSHOT]", FIELD(name)}, {"NEW", FIELD(to)}};

static int rename_(int argc, char **argv)
{
    struct change_options o = {0};
    struct dp_error e = {0};
    struct dp_pool p;
    struct dp_volume *v;
    int status = cli_begin(&volume_rename_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    if (volume_enter(o.name, true, &p, &v, &e))
        return volume_fail(&e);
    return closed(&p, dp_volume_rename(&p, v, o.to, &e), &e);
}

const struct cli_verb volume_rename_verb = {
    .name = "volume rename",
    .summary = "gives a volume or a snapshot another name",
    .usage = "[POOL/]NAME[@SNAPSHOT] NEW",
    .examples = "  doppel volume rename web www\n  doppel volume rename www@s1 installed\n",
    .options = quiet_options,
    .option_count = DP_ARRAY_LEN(quiet_options),
    .operands = rename_operands,
    .operand_count = DP_ARRAY_LEN(rename_operands),
    .run = rename_,
};

/* ---- by verbs of `doppel image` ---- */

static const struct cli_option resize_options[] = {
    {"shrink", 0, NULL, CLI_FLAG, FIELD(shrink), .help = "what is behind the new end may get lost"},
    IMAGE_OPTION_QUIET,
};
static const struct cli_operand resize_operands[] = {OPERAND_NAME, {"[+]SIZE", FIELD(size_text)}};

static int resize(int argc, char **argv)
{
    struct change_options o = {0};
    int status = cli_begin(&volume_resize_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    const char *words[3] = {0};
    unsigned n = 0;
    if (o.shrink)
        words[n++] = "--shrink";
    if (o.common.quiet)
        words[n++] = "-q";
    return delegate(&image_resize_verb, o.name, true, words, o.size_text);
}

const struct cli_verb volume_resize_verb = {
    .name = "volume resize",
    .summary = "makes a volume larger or smaller",
    .usage = "[--shrink] [POOL/]NAME [+]SIZE",
    .examples = "  doppel volume resize data +10G\n  doppel volume resize --shrink data 5G\n",
    .options = resize_options,
    .option_count = DP_ARRAY_LEN(resize_options),
    .operands = resize_operands,
    .operand_count = DP_ARRAY_LEN(resize_operands),
    .run = resize,
};

static const struct cli_option compact_options[] = {
    {"dedup", 0, NULL, CLI_FLAG, FIELD(dedup), .help = "and equal clusters are stored once (raw: by the file system, XFS or btrfs)"},
    IMAGE_OPTION_PROGRESS,
    IMAGE_OPTION_QUIET,
};

static int compact(int argc, char **argv)
{
    struct change_options o = {0};
    int status = cli_begin(&volume_compact_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    const char *words[4] = {0};
    unsigned n = 0;
    if (o.common.quiet)
        words[n++] = "-q";
    if (o.common.progress)
        words[n++] = "-p";
    if (o.dedup)
        words[n++] = "--dedup";
    return delegate(&image_compact_verb, o.name, true, words, NULL);
}

const struct cli_verb volume_compact_verb = {
    .name = "volume compact",
    .summary = "gives back what holds only zeros, or what is there twice",
    .usage = "[--dedup] [POOL/]NAME",
    .examples = "  doppel volume compact web\n  doppel volume compact --dedup web\n",
    .options = compact_options,
    .option_count = DP_ARRAY_LEN(compact_options),
    .operands = name_operand,
    .operand_count = DP_ARRAY_LEN(name_operand),
    .run = compact,
};

static const struct cli_option export_options[] = {
    {"format", 'f', "FORMAT", CLI_STRING, FIELD(common.format), .help = "of FILE; raw when not said"},
    IMAGE_OPTION_PROGRESS,
    IMAGE_OPTION_QUIET,
};
static const struct cli_operand export_operands[] = {{"[POOL/]NAME[@SNAPSHOT]", FIELD(name)}, {"FILE", FIELD(to)}};

static int export(int argc, char **argv)
{
    struct change_options o = {0};
    int status = cli_begin(&volume_export_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    const char *words[6] = {"-O", o.common.format ? o.common.format : "raw"};
    unsigned n = 2;
    if (o.common.quiet)
        words[n++] = "-q";
    if (o.common.progress)
        words[n++] = "-p";
    return delegate(&image_convert_verb, o.name, false, words, o.to);
}

const struct cli_verb volume_export_verb = {
    .name = "volume export",
    .summary = "copies a volume or a snapshot to an image file",
    .usage = "[--format FORMAT] [POOL/]NAME[@SNAPSHOT] FILE",
    .examples = "  doppel volume export --format qcow2 web@before web.qcow2\n",
    .options = export_options,
    .option_count = DP_ARRAY_LEN(export_options),
    .operands = export_operands,
    .operand_count = DP_ARRAY_LEN(export_operands),
    .run = export,
};

/* ---- resync ---- */

static const struct cli_option resync_options[] = {
    {"all", 0, NULL, CLI_FLAG, FIELD(all), .help = "all of it: a half was replaced, or is to be made anew"},
    {"state", 0, NULL, CLI_FLAG, FIELD(state), .help = "only says what is in date"},
    IMAGE_OPTION_BACKING,
    IMAGE_OPTION_PROGRESS,
    IMAGE_OPTION_QUIET,
    {"json", 0, NULL, CLI_FLAG, FIELD(common.json), .help = "JSON on stdout"},
};
static const struct cli_operand resync_operands[] = {{"MIRROR", FIELD(name)}};

static void show_mirror(const struct change_options *o, const struct dp_image *i, uint64_t copied)
{
    struct dp_mirror_state s = {0};
    char text[32];
    dp_mirror_state(i, &s);
    if (o->common.json) {
        struct json_object *j = json_object_new_object(), *halves = json_object_new_array();
        for (unsigned h = 0; h < 2; h++) {
            struct json_object *half = json_object_new_object();
            json_object_object_add(half, "filename", json_object_new_string(s.name[h]));
            json_object_object_add(half, "format", json_object_new_string(s.format[h]));
            json_object_object_add(half, "in-date", json_object_new_boolean(s.in_date[h]));
            json_object_array_add(halves, half);
        }
        json_object_object_add(j, "halves", halves);
        json_object_object_add(j, "may-differ", json_object_new_uint64(s.dirty * s.region));
        json_object_object_add(j, "copied", json_object_new_uint64(copied));
        image_print_json(j);
        return;
    }
    for (unsigned h = 0; h < 2; h++)
        image_say(&o->common, "%s: %s\n", s.name[h], s.in_date[h] ? "in date" : "not in date");
    if (o->state)
        image_say(&o->common, "%s may differ\n", image_size_text(s.dirty * s.region, text));
    else
        image_say(&o->common, "%s copied\n", image_size_text(copied, text));
}

static int resync(int argc, char **argv)
{
    struct change_options o = {0};
    struct dp_error e = {0};
    struct dp_image *i = NULL;
    struct image_task t;
    struct dp_mirror_state s;
    uint64_t copied = 0;
    int status = cli_begin(&volume_resync_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    /* --state needs neither the halves nor the lock. */
    struct dp_image_options how = {.name = o.name,
                                   .format = "mirror",
                                   .readonly = o.state,
                                   .alone = o.state,
                                   .unlocked = o.state,
                                   .backing_anywhere = o.common.backing_any};
    int rc = dp_image_open(&how, &i, &e);
    if (!rc && !dp_mirror_state(i, &s))
        rc = dp_error_set(&e, -EINVAL, "%s is no mirror", o.name);
    if (!rc && !o.state) {
        image_task_begin(&t, &o.common, "resync");
        rc = dp_mirror_resync(i, o.all, &t.job, &copied, &e);
        image_task_end(&t);
    }
    if (!rc)
        show_mirror(&o, i, copied);
    dp_image_close(i);
    return rc ? volume_fail(&e) : 0;
}

const struct cli_verb volume_resync_verb = {
    .name = "volume resync",
    .summary = "brings the half of a mirror that failed in date again",
    .usage = "[--all] [--state] [--json] MIRROR",
    .examples = "  doppel image create -f mirror -o first=a.raw,second=b.raw disk.mirror 20G\n"
                "  doppel run --disk disk.mirror,format=mirror\n"
                "  doppel volume resync disk.mirror            what was written since b.raw failed\n"
                "  doppel volume resync --all disk.mirror      after b.raw was replaced\n",
    .options = resync_options,
    .option_count = DP_ARRAY_LEN(resync_options),
    .operands = resync_operands,
    .operand_count = DP_ARRAY_LEN(resync_operands),
    .run = resync,
};
