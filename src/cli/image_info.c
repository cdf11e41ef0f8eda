/* cli/image_info.c - the verbs of `doppel image` that only look: info, map, check, compare, measure. (check -r and repair mend.)
 *
 * JSON members and exit statuses are qemu-img's, so that what reads those reads ours (qemu-img(1)).
 */
#include "cli/image.h"

#include <inttypes.h>
#include <json.h>
#include <libgen.h>
#include <stdlib.h>
#include <unistd.h>

static void add_number(struct json_object *o, const char *key, uint64_t n) { json_object_object_add(o, key, json_object_new_uint64(n)); }
static void add_text(struct json_object *o, const char *key, const char *text)
{
    json_object_object_add(o, key, json_object_new_string(text));
}
static void add_bool(struct json_object *o, const char *key, bool b) { json_object_object_add(o, key, json_object_new_boolean(b)); }

/* ---- info ---- */

struct info_options {
    struct image_common common;
    const char *file;
    bool chain;
};
static const struct cli_option info_options[] = {
    IMAGE_OPTION_FORMAT,   {"backing-chain", 0, NULL, CLI_FLAG, offsetof(struct info_options, chain), .help = "the backing files, too"},
    IMAGE_OPTION_BACKING,  IMAGE_OPTION_SECRET,
    IMAGE_OPTION_UNLOCKED, IMAGE_OPTION_JSON,
};
static const struct cli_operand info_operands[] = {{"FILE", offsetof(struct info_options, file)}};

static struct json_object *snapshots_of(struct dp_image *i)
{
    struct dp_image_snapshot *s = NULL;
    unsigned count = 0;
    struct json_object *all = NULL;
    if (!i->format->snapshot_list || i->format->snapshot_list(i, &s, &count, NULL))
        return NULL;
    for (unsigned n = 0; n < count; n++) {
        struct json_object *o = json_object_new_object();
        add_text(o, "id", s[n].id);
        add_text(o, "name", s[n].name);
        add_number(o, "vm-state-size", s[n].vm_state_size);
        add_number(o, "date-sec", s[n].date_seconds);
        add_number(o, "date-nsec", s[n].date_nanoseconds);
        add_number(o, "vm-clock-sec", s[n].vm_clock_ns / 1000000000);
        add_number(o, "vm-clock-nsec", s[n].vm_clock_ns % 1000000000);
        if (!all)
            all = json_object_new_array();
        json_object_array_add(all, o);
    }
    free(s);
    return all;
}

/* What an image names as below it, seen from here: names are relative to the image's folder. */
static void add_full_name(struct json_object *o, const struct dp_image *i)
{
    char *copy = strdup(i->name), *path = NULL;
    const char *folder = copy ? dirname(copy) : ".";
    if (*i->backing_name == '/' || strstr(i->backing_name, "://") || !strchr(i->name, '/'))
        add_text(o, "full-backing-filename", i->backing_name);
    else if (asprintf(&path, "%s/%s", folder, i->backing_name) >= 0)
        add_text(o, "full-backing-filename", path);
    free(path);
    free(copy);
}

static struct json_object *describe(struct dp_image *i, const char *name)
{
    struct json_object *o = json_object_new_object(), *special = json_object_new_object(), *snapshots = snapshots_of(i);
    uint32_t cluster = i->format->cluster_size ? i->format->cluster_size(i) : 0;
    add_text(o, "filename", name);
    add_text(o, "format", i->format->name);
    add_number(o, "virtual-size", i->size);
    add_number(o, "actual-size", image_file_size(i->name));
    if (cluster)
        add_number(o, "cluster-size", cluster);
    if (i->backing_name) {
        add_text(o, "backing-filename", i->backing_name);
        if (i->backing_format)
            add_text(o, "backing-filename-format", i->backing_format);
        add_full_name(o, i);
    }
    if (snapshots)
        json_object_object_add(o, "snapshots", snapshots);
    int known = i->format->info ? i->format->info(i, special) : -ENOTSUP;
    if (json_object_object_get_ex(special, "encrypt", NULL) || !strcmp(i->format->name, "luks"))
        add_bool(o, "encrypted", true);
    struct json_object *dirty = NULL;
    if (json_object_object_get_ex(special, "dirty-flag", &dirty)) { /* a format that has one tells it beside the rest */
        json_object_object_add(o, "dirty-flag", json_object_get(dirty));
        json_object_object_del(special, "dirty-flag");
    } else {
        add_bool(o, "dirty-flag", false);
    }
    if (!known && json_object_object_length(special)) {
        struct json_object *of = json_object_new_object();
        add_text(of, "type", i->format->name);
        json_object_object_add(of, "data", special);
        json_object_object_add(o, "format-specific", of);
    } else {
        json_object_put(special);
    }
    return o;
}

static void print_snapshots(struct json_object *list)
{
    printf("%-9s %-20s %10s %20s %15s\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK");
    for (size_t n = 0; n < json_object_array_length(list); n++) {
        struct json_object *s = json_object_array_get_idx(list, n);
        char size[32], date[32] = "";
        time_t when = (time_t)json_object_get_int64(json_object_object_get(s, "date-sec"));
        uint64_t clock = json_object_get_uint64(json_object_object_get(s, "vm-clock-sec"));
        struct tm tm;
        if (localtime_r(&when, &tm))
            strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &tm);
        printf("%-9s %-20s %10s %20s %02" PRIu64 ":%02u:%02u.%03u\n", json_object_get_string(json_object_object_get(s, "id")),
               json_object_get_string(json_object_object_get(s, "name")),
               image_size_text(json_object_get_uint64(json_object_object_get(s, "vm-state-size")), size), date, clock / 3600,
               (unsigned)(clock / 60 % 60), (unsigned)(clock % 60),
               (unsigned)(json_object_get_uint64(json_object_object_get(s, "vm-clock-nsec")) / 1000000));
    }
}

static void print_special(struct json_object *o, int indent)
{
    json_object_object_foreach(o, key, value)
    {
        printf("%*s", indent, "");
        for (const char *p = key; *p; p++)
            putchar(*p == '-' ? ' ' : *p);
        if (json_object_is_type(value, json_type_object)) {
            printf(":\n");
            print_special(value, indent + 4);
        } else {
            printf(": %s\n", json_object_get_string(value));
        }
    }
}

static void print_info(struct json_object *o)
{
    char a[32];
    struct json_object *v, *data;
    uint64_t size = json_object_get_uint64(json_object_object_get(o, "virtual-size"));
    printf("image: %s\nfile format: %s\n", json_object_get_string(json_object_object_get(o, "filename")),
           json_object_get_string(json_object_object_get(o, "format")));
    printf("virtual size: %s (%" PRIu64 " bytes)\n", image_size_text(size, a), size);
    printf("disk size: %s\n", image_size_text(json_object_get_uint64(json_object_object_get(o, "actual-size")), a));
    if (json_object_object_get_ex(o, "encrypted", &v))
        printf("encrypted: yes\n");
    if (json_object_object_get_ex(o, "cluster-size", &v))
        printf("cluster_size: %s\n", json_object_get_string(v));
    if (json_object_object_get_ex(o, "backing-filename", &v)) {
        const char *name = json_object_get_string(v), *full = NULL;
        if (json_object_object_get_ex(o, "full-backing-filename", &data))
            full = json_object_get_string(data);
        printf("backing file: %s%s%s%s\n", name, full && strcmp(full, name) ? " (actual path: " : "",
               full && strcmp(full, name) ? full : "", full && strcmp(full, name) ? ")" : "");
    }
    if (json_object_object_get_ex(o, "backing-filename-format", &v))
        printf("backing file format: %s\n", json_object_get_string(v));
    if (json_object_object_get_ex(o, "snapshots", &v)) {
        printf("Snapshot list:\n");
        print_snapshots(v);
    }
    if (json_object_object_get_ex(o, "format-specific", &v) && json_object_object_get_ex(v, "data", &data)) {
        printf("Format specific information:\n");
        print_special(data, 4);
    }
}

static int info(int argc, char **argv)
{
    struct info_options o = {0};
    struct dp_error e = {0};
    struct dp_image *i;
    int status = cli_begin(&image_info_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    /* One image alone needs nothing below it: that may be missing, or not to be read. */
    if (image_open(&o.common, o.file, false, (struct dp_image_options){.format = o.common.format, .alone = !o.chain}, &i, &e))
        return image_fail(&e);
    struct json_object *all = json_object_new_array();
    for (struct dp_image *at = i; at && (at == i || o.chain); at = at->backing)
        json_object_array_add(all, describe(at, at == i ? o.file : at->name));
    if (!image_wants_json(&o.common)) {
        for (size_t n = 0; n < json_object_array_length(all); n++) {
            printf("%s", n ? "\n" : "");
            print_info(json_object_array_get_idx(all, n));
        }
        json_object_put(all);
    } else if (o.chain) {
        image_print_json(all);
    } else {
        image_print_json(json_object_get(json_object_array_get_idx(all, 0)));
        json_object_put(all);
    }
    dp_image_close(i);
    return 0;
}

const struct cli_verb image_info_verb = {
    .name = "image info",
    .summary = "tells what an image is",
    .usage = "[-f FORMAT] [--backing-chain] [--json] FILE",
    .examples = "  doppel image info disk.qcow2\n  doppel image info --backing-chain --json disk.qcow2\n",
    .options = info_options,
    .option_count = DP_ARRAY_LEN(info_options),
    .operands = info_operands,
    .operand_count = DP_ARRAY_LEN(info_operands),
    .run = info,
};

/* ---- map ---- */

struct map_options {
    struct image_common common;
    const char *file;
    uint64_t start, length;
};
static const struct cli_option map_options[] = {
    IMAGE_OPTION_FORMAT,
    {"start-offset", 's', "BYTE", CLI_SIZE, offsetof(struct map_options, start), .help = "begins there"},
    {"max-length", 'l', "SIZE", CLI_SIZE, offsetof(struct map_options, length), .help = "of so many bytes only"},
    IMAGE_OPTION_BACKING,
    IMAGE_OPTION_SECRET,
    IMAGE_OPTION_UNLOCKED,
    IMAGE_OPTION_JSON,
};
static const struct cli_operand map_operands[] = {{"FILE", offsetof(struct map_options, file)}};

static void print_piece(const struct dp_extent *x, const struct dp_image *owner, uint64_t at, bool json, bool first)
{
    bool data = x->kind == DP_EXTENT_DATA || x->kind == DP_EXTENT_PACKED;
    if (!json) {
        if (x->kind == DP_EXTENT_DATA && x->has_offset)
            printf("%#-15" PRIx64 " %#-15" PRIx64 " %#-15" PRIx64 " %s\n", at, x->size, x->offset,
                   owner->data ? owner->data->name : owner->name);
        else if (data)
            printf("%#-15" PRIx64 " %#-15" PRIx64 " %-15s %s\n", at, x->size, x->kind == DP_EXTENT_PACKED ? "compressed" : "?",
                   owner->name);
        return;
    }
    printf("%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %u, \"present\": %s, \"zero\": %s, \"data\": %s",
           first ? "[" : ",\n", at, x->size, x->depth, x->kind != DP_EXTENT_UNALLOCATED ? "true" : "false", data ? "false" : "true",
           data ? "true" : "false");
    if (x->has_offset)
        printf(", \"offset\": %" PRIu64, x->offset);
    printf("}");
}

static int map(int argc, char **argv)
{
    struct map_options o = {0};
    struct dp_error e = {0};
    struct dp_image *i;
    int status = cli_begin(&image_map_verb, argc, argv, &o), rc = 0;
    if (status >= 0)
        return status;
    if (image_open(&o.common, o.file, false, (struct dp_image_options){.format = o.common.format}, &i, &e))
        return image_fail(&e);
    bool json = image_wants_json(&o.common);
    uint64_t end = o.length && o.length < i->size - DP_MIN(o.start, i->size) ? o.start + o.length : i->size, at;
    if (!json)
        printf("%-15s %-15s %-15s %s\n", "Offset", "Length", "Mapped to", "File");
    for (at = o.start; !rc && at < end;) {
        struct dp_extent x;
        const struct dp_image *owner;
        if ((rc = dp_image_map(i, at, &x, &owner))) {
            dp_error_set(&e, rc, "%s cannot be read at offset %" PRIu64 ": %s", o.file, at, strerror(-rc));
            break;
        }
        x.size = DP_MIN(x.size, end - at);
        print_piece(&x, owner, at, json, at == o.start);
        at += x.size;
    }
    if (json && !rc)
        printf("%s]\n", at == o.start ? "[" : "");
    dp_image_close(i);
    return rc ? image_fail(&e) : 0;
}

const struct cli_verb image_map_verb = {
    .name = "image map",
    .summary = "tells which parts of a disk are where",
    .usage = "[-f FORMAT] [--json] FILE",
    .examples = "  doppel image map disk.qcow2\n  doppel image map --json disk.qcow2\n",
    .options = map_options,
    .option_count = DP_ARRAY_LEN(map_options),
    .operands = map_operands,
    .operand_count = DP_ARRAY_LEN(map_operands),
    .run = map,
};

/* ---- check ---- */

enum { CHECK_CORRUPT = 2, CHECK_LEAKS = 3, CHECK_UNSUPPORTED = 63 };

struct check_options {
    struct image_common common;
    const char *file, *repair;
};
static const struct cli_option check_options[] = {
    IMAGE_OPTION_FORMAT,
    {"repair", 'r', "leaks|all", CLI_STRING, offsetof(struct check_options, repair), .choices = "leaks|all",
     .help = "lost space is given back; all: what is damaged is mended, too"},
    IMAGE_OPTION_BACKING,
    IMAGE_OPTION_SECRET,
    IMAGE_OPTION_UNLOCKED,
    IMAGE_OPTION_PROGRESS,
    IMAGE_OPTION_QUIET,
    IMAGE_OPTION_JSON,
};
static const struct cli_option repair_options[] = {
    IMAGE_OPTION_FORMAT, IMAGE_OPTION_BACKING, IMAGE_OPTION_SECRET, IMAGE_OPTION_PROGRESS, IMAGE_OPTION_QUIET, IMAGE_OPTION_JSON,
};
static const struct cli_operand check_operands[] = {{"FILE", offsetof(struct check_options, file)}};

struct check_run {
    const struct check_options *o;
    struct image_task task;
};

static void report(void *opaque, const char *line)
{
    const struct check_run *r = opaque;
    if (!r->o->common.quiet && !image_wants_json(&r->o->common))
        printf("%s\n", line);
}

static void check_progress(void *opaque, uint64_t done, uint64_t all)
{
    struct check_run *r = opaque;
    if (r->task.job.progress)
        r->task.job.progress(r->task.job.opaque, done, all);
}

static void print_check(const struct check_options *o, const struct dp_image *i, const struct dp_image_check *c)
{
    if (image_wants_json(&o->common)) {
        struct json_object *j = json_object_new_object();
        const struct {
            const char *key;
            uint64_t n;
        } some[] = {{"image-end-offset", c->end},
                    {"total-clusters", c->clusters},
                    {"allocated-clusters", c->allocated},
                    {"fragmented-clusters", c->fragmented},
                    {"compressed-clusters", c->compressed},
                    {"corruptions", c->corruptions},
                    {"leaks", c->leaks},
                    {"corruptions-fixed", c->corruptions_fixed},
                    {"leaks-fixed", c->leaks_fixed}};
        for (unsigned n = 0; n < DP_ARRAY_LEN(some); n++)
            if (some[n].n)
                add_number(j, some[n].key, some[n].n);
        add_number(j, "check-errors", 0);
        add_text(j, "filename", o->file);
        add_text(j, "format", i->format->name);
        image_print_json(j);
        return;
    }
    if (c->corruptions_fixed || c->leaks_fixed)
        image_say(&o->common, "Repaired: %" PRIu64 " leaked clusters, %" PRIu64 " corruptions.\n", c->leaks_fixed, c->corruptions_fixed);
    if (!c->corruptions && !c->leaks)
        image_say(&o->common, "No errors were found on the image.\n");
    if (c->corruptions)
        image_say(&o->common, "%" PRIu64 " errors were found on the image. Data may be damaged, and is while it is written: see -r all.\n",
                  c->corruptions);
    if (c->leaks)
        image_say(&o->common, "%" PRIu64 " clusters are lost: they waste space, but no data is damaged. See -r leaks.\n", c->leaks);
    if (c->clusters)
        image_say(&o->common, "%" PRIu64 "/%" PRIu64 " = %.2f%% allocated, %.2f%% fragmented, %.2f%% compressed clusters\n", c->allocated,
                  c->clusters, 100.0 * (double)c->allocated / (double)c->clusters,
                  c->allocated ? 100.0 * (double)c->fragmented / (double)c->allocated : 0,
                  c->allocated ? 100.0 * (double)c->compressed / (double)c->allocated : 0);
    if (c->end)
        image_say(&o->common, "Image end offset: %" PRIu64 "\n", c->end);
}

static int check_image(const struct check_options *o, struct dp_image *i, struct dp_error *e)
{
    struct check_run r = {.o = o};
    struct dp_image_check c = {
        .repair_leaks = o->repair, .repair_all = o->repair && !strcmp(o->repair, "all"), .report = report, .opaque = &r};
    if (o->repair) { /* Ctrl-C in the middle of a repair waits; a check just ends */
        image_task_begin(&r.task, &o->common, "check");
        c.progress = check_progress;
    }
    int rc = i->format->check(i, &c, e);
    if (o->repair)
        image_task_end(&r.task);
    if (rc)
        return image_fail(e);
    print_check(o, i, &c);
    return c.corruptions ? CHECK_CORRUPT : c.leaks ? CHECK_LEAKS : 0;
}

static int run_check(const struct cli_verb *verb, struct check_options o, int argc, char **argv)
{
    struct dp_error e = {0};
    struct dp_image *i;
    int status = cli_begin(verb, argc, argv, &o);
    if (status >= 0)
        return status ? EXIT_STATUS_ERROR : 0; /* 2 says that the image is damaged */
    struct dp_image_options open = {.format = o.common.format, .alone = true, .repair = true};
    if (image_open(&o.common, o.file, o.repair != NULL, open, &i, &e))
        return image_fail(&e);
    if (!i->format->check) {
        dp_error_set(&e, -ENOTSUP, "%s images cannot be checked: the format has nothing to check, or doppel does not know how",
                     i->format->name);
        fprintf(stderr, "doppel: %s\n", e.text);
        status = CHECK_UNSUPPORTED;
    } else {
        status = check_image(&o, i, &e);
    }
    dp_image_close(i);
    return status;
}

static int check(int argc, char **argv) { return run_check(&image_check_verb, (struct check_options){0}, argc, argv); }
static int repair(int argc, char **argv) { return run_check(&image_repair_verb, (struct check_options){.repair = "all"}, argc, argv); }

static void check_more(FILE *to)
{
    fprintf(to,
            "\nExit status: 0 nothing found (any more), 2 damaged, 3 space is lost, 63 this format cannot be checked, 125 other errors.\n");
}

const struct cli_verb image_check_verb = {
    .name = "image check",
    .summary = "looks whether an image is damaged, and repairs it",
    .usage = "[-f FORMAT] [-r leaks|all] [--json] FILE",
    .examples = "  doppel image check disk.qcow2\n  doppel image check -f qcow2 -r all disk.qcow2\n",
    .options = check_options,
    .option_count = DP_ARRAY_LEN(check_options),
    .operands = check_operands,
    .operand_count = DP_ARRAY_LEN(check_operands),
    .more_help = check_more,
    .run = check,
};

const struct cli_verb image_repair_verb = {
    .name = "image repair",
    .summary = "mends a damaged image: check -r all",
    .usage = "[-f FORMAT] [--json] FILE",
    .examples = "  doppel image repair -f qcow2 disk.qcow2\n",
    .options = repair_options,
    .option_count = DP_ARRAY_LEN(repair_options),
    .operands = check_operands,
    .operand_count = DP_ARRAY_LEN(check_operands),
    .more_help = check_more,
    .run = repair,
};

/* ---- compare ---- */

struct compare_options {
    struct image_common common;
    const char *a, *b, *second_format;
    bool strict;
};
static const struct cli_option compare_options[] = {
    IMAGE_OPTION_FORMAT,
    {"second-format", 'F', "FORMAT", CLI_STRING, offsetof(struct compare_options, second_format), .help = "of OTHER"},
    {"strict", 's', NULL, CLI_FLAG, offsetof(struct compare_options, strict), .help = "sizes and what is allocated must be equal, too"},
    IMAGE_OPTION_BACKING,
    IMAGE_OPTION_SECRET,
    IMAGE_OPTION_UNLOCKED,
    IMAGE_OPTION_PROGRESS,
    IMAGE_OPTION_QUIET,
    IMAGE_OPTION_JSON,
};
static const struct cli_operand compare_operands[] = {{"FILE", offsetof(struct compare_options, a)},
                                                      {"OTHER", offsetof(struct compare_options, b)}};

static int tell_difference(const struct compare_options *o, bool longer, enum dp_image_difference d, uint64_t at)
{
    static const char *const words[] = {
        [DP_IMAGE_SAME] = "same", [DP_IMAGE_OTHER_SIZE] = "size", [DP_IMAGE_OTHER_KIND] = "allocation", [DP_IMAGE_OTHER_BYTES] = "content"};
    if (image_wants_json(&o->common)) {
        struct json_object *j = json_object_new_object();
        add_bool(j, "identical", d == DP_IMAGE_SAME);
        if (d != DP_IMAGE_SAME) {
            add_text(j, "difference", words[d]);
            add_number(j, "offset", at);
        }
        image_print_json(j);
        return d != DP_IMAGE_SAME;
    }
    if (longer && d != DP_IMAGE_OTHER_SIZE)
        image_say(&o->common, "Warning: Image size mismatch!\n");
    if (d == DP_IMAGE_SAME)
        image_say(&o->common, "Images are identical.\n");
    else if (d == DP_IMAGE_OTHER_SIZE)
        image_say(&o->common, "Strict mode: Image size mismatch!\n");
    else if (d == DP_IMAGE_OTHER_KIND)
        image_say(&o->common, "Strict mode: Offset %" PRIu64 " block status mismatch!\n", at);
    else
        image_say(&o->common, "Content mismatch at offset %" PRIu64 "!\n", at);
    return d != DP_IMAGE_SAME;
}

static int compare(int argc, char **argv)
{
    struct compare_options o = {0};
    struct dp_error e = {0};
    struct dp_image *a = NULL, *b = NULL;
    enum dp_image_difference d;
    uint64_t at;
    int status = cli_begin(&image_compare_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    int rc = image_open(&o.common, o.a, false, (struct dp_image_options){.format = o.common.format}, &a, &e);
    if (!rc)
        rc = image_open(&o.common, o.b, false, (struct dp_image_options){.format = o.second_format}, &b, &e);
    if (!rc) {
        struct image_task t;
        image_task_begin(&t, &o.common, "compare");
        rc = dp_image_compare(a, b, o.strict, &t.job, &d, &at, &e);
        image_task_end(&t);
    }
    status = rc ? image_fail(&e) : tell_difference(&o, a->size != b->size && (d == DP_IMAGE_SAME || at >= DP_MIN(a->size, b->size)), d, at);
    dp_image_close(a);
    dp_image_close(b);
    return status;
}

static void compare_more(FILE *to) { fprintf(to, "\nExit status: 0 the same, 1 different, 2 or more: errors.\n"); }

const struct cli_verb image_compare_verb = {
    .name = "image compare",
    .summary = "looks whether two disks hold the same",
    .usage = "[-f FORMAT] [-F FORMAT] [-s] FILE OTHER",
    .examples = "  doppel image compare disk.raw disk.qcow2\n",
    .options = compare_options,
    .option_count = DP_ARRAY_LEN(compare_options),
    .operands = compare_operands,
    .operand_count = DP_ARRAY_LEN(compare_operands),
    .more_help = compare_more,
    .run = compare,
};

/* ---- measure ---- */

struct measure_options {
    struct image_common common;
    const char *file, *target_format, *snapshot;
    uint64_t size;
    struct cli_list option;
};
static const struct cli_option measure_options[] = {
    IMAGE_OPTION_FORMAT,
    {"target-format", 'O', "FORMAT", CLI_STRING, offsetof(struct measure_options, target_format),
     .help = "of the file to be made; raw when not said"},
    {"option", 'o', "KEY=VALUE[,...]", CLI_LIST, offsetof(struct measure_options, option),
     .help = "how it would be made: cluster_size=SIZE"},
    {"size", 0, "SIZE", CLI_SIZE, offsetof(struct measure_options, size), .help = "an empty disk of that size instead of FILE"},
    {"snapshot", 'l', "NAME", CLI_STRING, offsetof(struct measure_options, snapshot), .help = "what the internal snapshot of FILE has"},
    IMAGE_OPTION_BACKING,
    IMAGE_OPTION_SECRET,
    IMAGE_OPTION_UNLOCKED,
    IMAGE_OPTION_JSON,
};
static const struct cli_operand measure_operands[] = {{"FILE", offsetof(struct measure_options, file), .optional = true}};

static int measure_cluster(const struct measure_options *o, uint64_t *cluster, struct dp_error *e)
{
    const char *option[IMAGE_OPTIONS_MAX + 1];
    char *copy = NULL;
    *cluster = 0;
    int rc = image_split_options(&o->option, option, &copy, e);
    for (unsigned n = 0; !rc && option[n]; n++)
        if (!strncmp(option[n], "cluster_size=", 13))
            rc = dp_parse_size(option[n] + 13, cluster, e);
    free(copy);
    return !rc && *cluster > 2 << 20 ? dp_error_set(e, -EINVAL, "cluster_size is at most 2M") : rc;
}

static int measure(int argc, char **argv)
{
    struct measure_options o = {0};
    struct dp_error e = {0};
    struct dp_image *i = NULL;
    uint64_t required, full, cluster;
    int status = cli_begin(&image_measure_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    int rc = !o.file == !o.size ? dp_error_set(&e, -EINVAL, "give a FILE, or --size SIZE") : measure_cluster(&o, &cluster, &e);
    if (!rc && o.file)
        rc = image_open(&o.common, o.file, false, (struct dp_image_options){.format = o.common.format, .snapshot = o.snapshot}, &i, &e);
    if (!rc)
        rc = dp_image_measure(i, o.size, o.target_format ? o.target_format : "raw", (uint32_t)cluster, &required, &full, &e);
    dp_image_close(i);
    if (rc)
        return image_fail(&e);
    if (image_wants_json(&o.common)) {
        struct json_object *j = json_object_new_object();
        add_number(j, "required", required);
        add_number(j, "fully-allocated", full);
        image_print_json(j);
    } else {
        printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n", required, full);
    }
    return 0;
}

const struct cli_verb image_measure_verb = {
    .name = "image measure",
    .summary = "tells how large a converted image would be",
    .usage = "[-O FORMAT] [--json] FILE | --size SIZE",
    .examples = "  doppel image measure -O qcow2 disk.raw\n  doppel image measure -O qcow2 --size 20G --json\n",
    .options = measure_options,
    .option_count = DP_ARRAY_LEN(measure_options),
    .operands = measure_operands,
    .operand_count = DP_ARRAY_LEN(measure_operands),
    .run = measure,
};
