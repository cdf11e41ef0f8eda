/* cli/image_bitmap.c - `doppel image bitmap`: lists and changes the dirty bitmaps that an image keeps. Actions are carried out in the order
 * in which they stand on the command line, each stored before the next begins.
 */
#include "cli/image.h"

#include <inttypes.h>
#include <json.h>
#include <stdlib.h>

struct bitmap_options {
    struct image_common common;
    const char *file, *name, *source_file, *source_format;
    struct cli_list merge;
    uint64_t granularity;
    bool add, remove, clear, enable, disable;
};
#define FIELD(name) offsetof(struct bitmap_options, name)
static const struct cli_option bitmap_options[] = {
    IMAGE_OPTION_FORMAT,
    {"add", 0, NULL, CLI_FLAG, FIELD(add), .help = "makes it: enabled, nothing is dirty"},
    {"remove", 0, NULL, CLI_FLAG, FIELD(remove), .help = "removes it, even if it is inconsistent"},
    {"clear", 0, NULL, CLI_FLAG, FIELD(clear), .help = "nothing is dirty any more"},
    {"enable", 0, NULL, CLI_FLAG, FIELD(enable), .help = "from now on it records writes"},
    {"disable", 0, NULL, CLI_FLAG, FIELD(disable), .help = "from now on it stays as it is"},
    {"merge", 0, "SOURCE", CLI_LIST, FIELD(merge), .help = "what is dirty in bitmap SOURCE becomes dirty in it"},
    {"source-file", 'b', "FILE", CLI_STRING, FIELD(source_file), .help = "SOURCE is in this image"},
    {"source-format", 'F', "FORMAT", CLI_STRING, FIELD(source_format), .help = "of that"},
    {"granularity", 'g', "SIZE", CLI_SIZE, FIELD(granularity),
     .help = "of --add: bytes that a bit stands for, a power of two (the cluster's, at most 64K)"},
    IMAGE_OPTION_SECRET,
    IMAGE_OPTION_UNLOCKED,
    IMAGE_OPTION_JSON,
};
static const struct cli_operand bitmap_operands[] = {{"FILE", FIELD(file)}, {"NAME", FIELD(name), .optional = true}};

/* A stranger's image names them: nothing that a terminal would obey. */
static const char *shown(char *name)
{
    for (char *p = name; *p; p++)
        *p = (unsigned char)*p < ' ' || *p == 0x7f ? '?' : *p;
    return name;
}

static int list(const struct bitmap_options *o, struct dp_image *i, struct dp_error *e)
{
    struct dp_image_bitmap *b;
    unsigned count;
    char size[32], unit[32];
    bool json = image_wants_json(&o->common);
    int rc = dp_image_bitmap_list(i, &b, &count, e);
    if (rc)
        return rc;
    struct json_object *all = json_object_new_array();
    if (!json && count)
        printf("%-24s %-12s %12s %12s\n", "NAME", "STATE", "GRANULARITY", "DIRTY");
    for (unsigned n = 0; n < count; n++) {
        const char *state = b[n].inconsistent ? "inconsistent" : b[n].enabled ? "enabled" : "disabled";
        struct json_object *one = json_object_new_object();
        json_object_object_add(one, "name", json_object_new_string(b[n].name));
        json_object_object_add(one, "state", json_object_new_string(state));
        json_object_object_add(one, "granularity", json_object_new_uint64(b[n].granularity));
        json_object_object_add(one, "dirty", json_object_new_uint64(b[n].dirty));
        json_object_array_add(all, one);
        if (!json)
            printf("%-24s %-12s %12s %12s\n", shown(b[n].name), state, image_size_text(b[n].granularity, unit),
                   b[n].inconsistent ? "?" : image_size_text(b[n].dirty, size));
    }
    if (json)
        image_print_json(json_object_get(all));
    json_object_put(all);
    free(b);
    return 0;
}

static int merge(const struct bitmap_options *o, struct dp_image *i, const char *source, struct dp_error *e)
{
    struct dp_image *from = i;
    if (o->source_file &&
        image_open(&o->common, o->source_file, false, (struct dp_image_options){.format = o->source_format, .alone = true}, &from, e))
        return e->code;
    int rc = dp_image_bitmap_merge(i, o->name, from, source, e);
    if (from != i)
        dp_image_close(from);
    return rc;
}

/* The actions, in the order of argv. */
static int change(const struct bitmap_options *o, struct dp_image *i, int argc, char **argv, struct dp_error *e)
{
    static const char *const words[] = {[DP_IMAGE_BITMAP_ADD] = "--add",
                                        [DP_IMAGE_BITMAP_REMOVE] = "--remove",
                                        [DP_IMAGE_BITMAP_CLEAR] = "--clear",
                                        [DP_IMAGE_BITMAP_ENABLE] = "--enable",
                                        [DP_IMAGE_BITMAP_DISABLE] = "--disable"};
    int rc = 0;
    unsigned merged = 0;
    for (int n = 0; !rc && n < argc && strcmp(argv[n], "--") != 0; n++) {
        if (!strcmp(argv[n], "--merge") || !strncmp(argv[n], "--merge=", 8)) {
            if (!argv[n][7] && ++n >= argc)
                break;
            if (merged < o->merge.count)
                rc = merge(o, i, o->merge.value[merged++], e);
            continue;
        }
        for (unsigned k = 0; !rc && k < DP_ARRAY_LEN(words); k++)
            if (!strcmp(argv[n], words[k]))
                rc = dp_image_bitmap_change(i, (enum dp_image_bitmap_op)k, o->name, o->granularity, e);
    }
    if (!rc && (rc = dp_image_flush(i)))
        dp_error_set(e, rc, "%s cannot be written: %s", o->file, strerror(-rc));
    return rc;
}

static int bitmap(int argc, char **argv)
{
    struct bitmap_options o = {0};
    struct dp_error e = {0};
    struct dp_image *i = NULL;
    int status = cli_begin(&image_bitmap_verb, argc, argv, &o), rc = 0;
    if (status >= 0)
        return status;
    bool any = o.add || o.remove || o.clear || o.enable || o.disable || o.merge.count;
    if (any && !o.name) {
        fprintf(stderr, "doppel: image bitmap: which bitmap? its name stands behind %s\n", o.file);
        return EXIT_STATUS_USAGE;
    }
    if (!any && o.name) {
        fprintf(stderr, "doppel: image bitmap: what is to be done with '%.100s'? see `doppel image bitmap --help`\n", o.name);
        return EXIT_STATUS_USAGE;
    }
    rc = image_open(&o.common, o.file, any, (struct dp_image_options){.format = o.common.format, .alone = true}, &i, &e);
    if (!rc)
        rc = any ? change(&o, i, argc, argv, &e) : list(&o, i, &e);
    dp_image_close(i);
    return rc ? image_fail(&e) : 0;
}

const struct cli_verb image_bitmap_verb = {
    .name = "image bitmap",
    .summary = "lists and changes the bitmaps that say what was written",
    .usage = "[-f FORMAT] [ACTION]... FILE [NAME]",
    .examples = "  doppel image bitmap disk.qcow2\n"
                "  doppel image bitmap -f qcow2 --add disk.qcow2 monday\n"
                "  doppel image bitmap -f qcow2 --disable disk.qcow2 monday\n"
                "  doppel image bitmap -f qcow2 --merge monday --merge tuesday disk.qcow2 week\n"
                "  doppel image bitmap -f qcow2 --remove disk.qcow2 monday\n",
    .options = bitmap_options,
    .option_count = DP_ARRAY_LEN(bitmap_options),
    .operands = bitmap_operands,
    .operand_count = DP_ARRAY_LEN(bitmap_operands),
    .run = bitmap,
};
