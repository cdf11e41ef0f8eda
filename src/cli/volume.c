/* cli/volume.c - `doppel volume`: the family, pools, and what volumes are there. Those that change: volume_change.c. */
#include "cli/volume.h"

#include <inttypes.h>
#include <json.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

int volume_fail(const struct dp_error *e)
{
    fprintf(stderr, "doppel: %s\n", e->text);
    return e->code == -EINTR ? IMAGE_STATUS_INTERRUPTED : EXIT_STATUS_ERROR;
}

int volume_enter(const char *text, bool change, struct dp_pool *p, struct dp_volume **v, struct dp_error *e)
{
    struct dp_volume_name n;
    int rc = dp_volume_split(text, &n, e);
    if (!rc)
        rc = dp_pool_open(n.pool, change, p, e);
    if (rc)
        return rc;
    if ((*v = dp_volume_find(p, &n, e)))
        return 0;
    dp_pool_close(p);
    return -ENOENT;
}

/* ---- pools ---- */

struct pool_options {
    const char *name, *folder;
    bool forget, json;
};
#define FIELD(name) offsetof(struct pool_options, name)
static const struct cli_operand pool_operand[] = {{"NAME", FIELD(name)}};
static const struct cli_option json_option[] = {{"json", 0, NULL, CLI_FLAG, FIELD(json), .help = "JSON on stdout"}};
static const struct cli_option pool_create_options[] = {
    {"dir", 0, "DIR", CLI_STRING, FIELD(folder),
     .help = "its folder, empty or a pool already; else one of the user's data (XDG_DATA_HOME)"}};
static const struct cli_option pool_rm_options[] = {
    {"forget", 0, NULL, CLI_FLAG, FIELD(forget), .help = "of a pool made with --dir: only its name, all stays in the folder"}};

static const struct cli_verb pool_create_verb, pool_ls_verb, pool_inspect_verb, pool_rm_verb;

static int pool_create(int argc, char **argv)
{
    struct pool_options o = {0};
    struct dp_error e = {0};
    int status = cli_begin(&pool_create_verb, argc, argv, &o);
    return status >= 0 ? status : dp_pool_create(o.name, o.folder, &e) ? volume_fail(&e) : 0;
}

static const struct cli_verb pool_create_verb = {
    .name = "volume pool create",
    .summary = "makes a pool",
    .usage = "[--dir DIR] NAME",
    .examples = "  doppel volume pool create work\n  doppel volume pool create fast --dir /mnt/nvme/doppel\n",
    .options = pool_create_options,
    .option_count = DP_ARRAY_LEN(pool_create_options),
    .operands = pool_operand,
    .operand_count = DP_ARRAY_LEN(pool_operand),
    .run = pool_create,
};

static int pool_rm(int argc, char **argv)
{
    struct pool_options o = {0};
    struct dp_error e = {0};
    int status = cli_begin(&pool_rm_verb, argc, argv, &o);
    return status >= 0 ? status : dp_pool_remove(o.name, o.forget, &e) ? volume_fail(&e) : 0;
}

static const struct cli_verb pool_rm_verb = {
    .name = "volume pool rm",
    .summary = "removes an empty pool, or forgets one",
    .usage = "[--forget] NAME",
    .examples = "  doppel volume pool rm work\n  doppel volume pool rm --forget usb-stick\n",
    .options = pool_rm_options,
    .option_count = DP_ARRAY_LEN(pool_rm_options),
    .operands = pool_operand,
    .operand_count = DP_ARRAY_LEN(pool_operand),
    .run = pool_rm,
};

static struct json_object *about_pool(const char *name, struct dp_error *e)
{
    struct dp_pool p;
    struct statvfs fs;
    unsigned volumes = 0;
    uint64_t used = 0;
    if (dp_pool_open(name, false, &p, e))
        return NULL;
    struct json_object *o = json_object_new_object();
    for (unsigned i = 0; i < p.count; i++) {
        char *path = dp_volume_path(&p, p.volume[i], NULL);
        used += path ? image_file_size(path) : 0;
        volumes += !p.volume[i]->owner;
        free(path);
    }
    json_object_object_add(o, "name", json_object_new_string(name));
    json_object_object_add(o, "folder", json_object_new_string(p.folder));
    json_object_object_add(o, "volumes", json_object_new_int64(volumes));
    json_object_object_add(o, "snapshots", json_object_new_int64(p.count - volumes));
    json_object_object_add(o, "used", json_object_new_uint64(used));
    if (!fstatvfs(p.folder_fd, &fs))
        json_object_object_add(o, "available", json_object_new_uint64((uint64_t)fs.f_bavail * fs.f_frsize));
    dp_pool_close(&p);
    return o;
}

static const char *string(struct json_object *o, const char *key)
{
    const char *s = json_object_get_string(json_object_object_get(o, key));
    return s ? s : "";
}
static uint64_t number(struct json_object *o, const char *key) { return json_object_get_uint64(json_object_object_get(o, key)); }

static void print_pool(struct json_object *o)
{
    char a[32], b[32];
    printf("%-20s %7s %9s %10s %10s  %s\n", string(o, "name"), string(o, "volumes"), string(o, "snapshots"),
           image_size_text(number(o, "used"), a), image_size_text(number(o, "available"), b), string(o, "folder"));
}

static void add_pool(void *opaque, const char *name)
{
    struct dp_error e = {0};
    struct json_object *o = about_pool(name, &e);
    if (!o)
        fprintf(stderr, "doppel: %s\n", e.text); /* the others are there all the same */
    else
        json_object_array_add(opaque, o);
}

static int show_pools(struct json_object *all, bool json)
{
    size_t count = json_object_array_length(all);
    if (json) {
        image_print_json(all);
        return 0;
    }
    if (count)
        printf("%-20s %7s %9s %10s %10s  %s\n", "POOL", "VOLUMES", "SNAPSHOTS", "USED", "AVAILABLE", "FOLDER");
    for (size_t i = 0; i < count; i++)
        print_pool(json_object_array_get_idx(all, i));
    json_object_put(all);
    return 0;
}

static int pool_ls(int argc, char **argv)
{
    struct pool_options o = {0};
    struct dp_error e = {0};
    int status = cli_begin(&pool_ls_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    struct json_object *all = json_object_new_array();
    if (dp_pool_each(add_pool, all, &e)) {
        json_object_put(all);
        return volume_fail(&e);
    }
    return show_pools(all, o.json);
}

static const struct cli_verb pool_ls_verb = {
    .name = "volume pool ls",
    .summary = "pools of this user",
    .usage = "[--json]",
    .examples = "  doppel volume pool ls\n",
    .options = json_option,
    .option_count = DP_ARRAY_LEN(json_option),
    .run = pool_ls,
};

static int pool_inspect(int argc, char **argv)
{
    struct pool_options o = {0};
    struct dp_error e = {0};
    int status = cli_begin(&pool_inspect_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    struct json_object *about = about_pool(o.name, &e);
    if (!about)
        return volume_fail(&e);
    if (o.json) {
        image_print_json(about);
        return 0;
    }
    struct json_object *all = json_object_new_array();
    json_object_array_add(all, about);
    return show_pools(all, false);
}

static const struct cli_verb pool_inspect_verb = {
    .name = "volume pool inspect",
    .summary = "a pool's folder, how many volumes it has, the space they take",
    .usage = "[--json] NAME",
    .examples = "  doppel volume pool inspect default\n",
    .options = json_option,
    .option_count = DP_ARRAY_LEN(json_option),
    .operands = pool_operand,
    .operand_count = DP_ARRAY_LEN(pool_operand),
    .run = pool_inspect,
};

static int pool(int argc, char **argv);
static const struct cli_verb pool_verb = {
    .name = "volume pool",
    .summary = "pools: folders that volumes are in (create, ls, inspect, rm)",
    .usage = "VERB [OPTION]...",
    .examples = "  doppel volume pool create fast --dir /mnt/nvme/doppel\n  doppel volume pool ls\n",
    .run = pool,
};

static int pool(int argc, char **argv)
{
    static const struct cli_verb *const verbs[] = {&pool_create_verb, &pool_ls_verb, &pool_inspect_verb, &pool_rm_verb};
    return cli_family(&pool_verb, verbs, DP_ARRAY_LEN(verbs), argc, argv);
}

/* ---- volumes ---- */

static struct json_object *text_of(const struct dp_pool *p, const struct dp_volume *v)
{
    char text[DP_VOLUME_TEXT_MAX];
    return v ? json_object_new_string(dp_volume_text(p, v, text)) : NULL;
}

static struct json_object *about(const struct dp_pool *p, const struct dp_volume *v)
{
    struct json_object *o = json_object_new_object();
    struct dp_image *i = NULL;
    struct dp_error e = {0};
    char *path = dp_volume_path(p, v, NULL);
    json_object_object_add(o, "name", text_of(p, v));
    json_object_object_add(o, "pool", json_object_new_string(p->name));
    json_object_object_add(o, "format", json_object_new_string(v->format->name));
    if (path &&
        !dp_image_open(
            &(struct dp_image_options){.name = path, .format = v->format->name, .readonly = true, .unlocked = true, .alone = true}, &i, &e))
        json_object_object_add(o, "size", json_object_new_uint64(i->size));
    else
        json_object_object_add(o, "error", json_object_new_string(e.text));
    dp_image_close(i);
    json_object_object_add(o, "used", json_object_new_uint64(path ? image_file_size(path) : 0));
    json_object_object_add(o, "path", json_object_new_string(path ? path : ""));
    json_object_object_add(o, "created", json_object_new_uint64(v->made));
    json_object_object_add(o, "snapshot", json_object_new_boolean(v->owner != 0));
    json_object_object_add(o, "parent", text_of(p, v->parent ? dp_pool_by_id(p, v->parent) : NULL));
    json_object_object_add(o, "protected", json_object_new_boolean(dp_volume_protected(p, v)));
    json_object_object_add(o, "in-use", json_object_new_boolean(dp_volume_in_use(p, v)));
    if (v->merging)
        json_object_object_add(o, "half-removed", json_object_new_boolean(true));
    free(path);
    return o;
}

static void print_head(void) { printf("%-40s %-7s %10s %10s  %s\n", "VOLUME", "FORMAT", "SIZE", "USED", "STATE"); }

/* indent: what a tree has before the name; of its bytes only every third, or a single one, is a column. */
static void print_volume(const struct dp_pool *p, const struct dp_volume *v, const char *indent, bool full)
{
    struct json_object *o = about(p, v);
    char name[512], size[32], used[32];
    int columns = 0;
    snprintf(name, sizeof name, "%s%s%s%s", indent, full ? p->name : "", full ? "/" : "", string(o, "name"));
    for (const char *c = name; *c; c++)
        columns += (*c & 0xc0) != 0x80;
    printf("%s%*s %-7s %10s %10s  %s%s%s\n", name, columns < 40 ? 40 - columns : 0, "", v->format->name,
           json_object_object_get(o, "size") ? image_size_text(number(o, "size"), size) : "?", image_size_text(number(o, "used"), used),
           v->merging                  ? "half removed"
           : v->owner                  ? "snapshot"
           : dp_volume_protected(p, v) ? "read-only: others stand on it"
                                       : "",
           json_object_get_boolean(json_object_object_get(o, "in-use")) ? (dp_volume_protected(p, v) ? ", in use" : "in use") : "",
           json_object_object_get(o, "error") ? "cannot be read" : "");
    json_object_put(o);
}

/* The children of `parent`, each with all that stands on it: the pool was checked, so lines end. */
static void print_tree(const struct dp_pool *p, uint64_t parent, const char *indent)
{
    unsigned left = 0;
    for (unsigned i = 0; i < p->count; i++)
        left += p->volume[i]->parent == parent;
    for (unsigned i = 0; i < p->count; i++) {
        const struct dp_volume *v = p->volume[i];
        char own[400], below[400];
        if (v->parent != parent)
            continue;
        left--;
        snprintf(own, sizeof own, "%s%s", indent, !parent ? "" : left ? "├─ " : "└─ ");
        snprintf(below, sizeof below, "%s%s", indent, !parent ? "" : left ? "│  " : "   ");
        print_volume(p, v, own, false);
        print_tree(p, v->id, below);
    }
}

struct list_options {
    const char *pool;
    bool json, tree, snapshots;
};
#undef FIELD
#define FIELD(name) offsetof(struct list_options, name)
static const struct cli_option ls_options[] = {
    {"tree", 0, NULL, CLI_FLAG, FIELD(tree), .help = "with snapshots, each below what it stands on"},
    {"snapshots", 0, NULL, CLI_FLAG, FIELD(snapshots), .help = "with snapshots; --json always has them"},
    {"json", 0, NULL, CLI_FLAG, FIELD(json), .help = "JSON on stdout"},
};
static const struct cli_operand ls_operands[] = {{"POOL", FIELD(pool), .optional = true}};

struct listing {
    const struct list_options *o;
    struct json_object *all;
    bool head;
    int status;
};

static void list_pool(void *opaque, const char *name)
{
    struct listing *l = opaque;
    struct dp_error e = {0};
    struct dp_pool p;
    if (dp_pool_open(name, false, &p, &e)) {
        l->status = volume_fail(&e);
        return;
    }
    if (!l->o->json && p.count && !l->head) {
        print_head();
        l->head = true;
    }
    if (l->o->tree && !l->o->json && p.count) {
        printf("%s:\n", p.name);
        print_tree(&p, 0, "  ");
    }
    for (unsigned i = 0; i < p.count; i++) {
        if (l->o->json)
            json_object_array_add(l->all, about(&p, p.volume[i]));
        else if (!l->o->tree && (l->o->snapshots || !p.volume[i]->owner))
            print_volume(&p, p.volume[i], "", true);
    }
    dp_pool_close(&p);
}

static const struct cli_verb ls_verb;
static int ls(int argc, char **argv)
{
    struct list_options o = {0};
    struct dp_error e = {0};
    int status = cli_begin(&ls_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    struct listing l = {.o = &o, .all = json_object_new_array()};
    if (o.pool)
        list_pool(&l, o.pool);
    else if (dp_pool_each(list_pool, &l, &e))
        l.status = volume_fail(&e);
    if (o.json && !l.status)
        image_print_json(json_object_get(l.all));
    json_object_put(l.all);
    return l.status;
}

static const struct cli_verb ls_verb = {
    .name = "volume ls",
    .summary = "volumes of a pool, or of all; as a tree with their snapshots",
    .usage = "[--tree] [--snapshots] [--json] [POOL]",
    .examples = "  doppel volume ls\n  doppel volume ls --tree work\n",
    .options = ls_options,
    .option_count = DP_ARRAY_LEN(ls_options),
    .operands = ls_operands,
    .operand_count = DP_ARRAY_LEN(ls_operands),
    .run = ls,
};

/* ---- inspect ---- */

struct inspect_options {
    const char *name;
    bool json;
};
static const struct cli_option inspect_options[] = {
    {"json", 0, NULL, CLI_FLAG, offsetof(struct inspect_options, json), .help = "JSON on stdout"}};
static const struct cli_operand inspect_operands[] = {{"[POOL/]NAME[@SNAPSHOT]", offsetof(struct inspect_options, name)}};

static void print_names(const char *what, struct json_object *names)
{
    size_t count = json_object_array_length(names);
    if (count)
        printf("%s:", what);
    for (size_t i = 0; i < count; i++)
        printf("%s %s", i ? "," : "", json_object_get_string(json_object_array_get_idx(names, i)));
    if (count)
        printf("\n");
}

static const struct cli_verb inspect_verb;
static int inspect(int argc, char **argv)
{
    struct inspect_options o = {0};
    struct dp_error e = {0};
    struct dp_pool p;
    struct dp_volume *v;
    char a[32], b[32];
    int status = cli_begin(&inspect_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    if (volume_enter(o.name, false, &p, &v, &e))
        return volume_fail(&e);
    struct json_object *j = about(&p, v), *snapshots = json_object_new_array(), *children = json_object_new_array();
    for (unsigned i = 0; i < p.count; i++) {
        if (p.volume[i]->owner == v->id)
            json_object_array_add(snapshots, json_object_new_string(p.volume[i]->name));
        if (p.volume[i]->parent == v->id)
            json_object_array_add(children, text_of(&p, p.volume[i]));
    }
    json_object_object_add(j, "snapshots", snapshots);
    json_object_object_add(j, "children", children);
    if (!o.json) {
        printf("%s: %s, %s, which takes %s\nfile: %s\n", string(j, "name"), v->format->name,
               json_object_object_get(j, "size") ? image_size_text(number(j, "size"), a) : string(j, "error"),
               image_size_text(number(j, "used"), b), string(j, "path"));
        if (*string(j, "parent"))
            printf("stands on: %s\n", string(j, "parent"));
        print_names("snapshots", snapshots);
        print_names("read-only, since these stand on it", children);
        if (json_object_get_boolean(json_object_object_get(j, "in-use")))
            printf("in use by a program\n");
        if (v->merging)
            printf("half removed: do the rest with: doppel volume rm %s\n", o.name);
        json_object_put(j);
    } else {
        image_print_json(j);
    }
    dp_pool_close(&p);
    return 0;
}

static const struct cli_verb inspect_verb = {
    .name = "volume inspect",
    .summary = "all about one volume or snapshot",
    .usage = "[--json] [POOL/]NAME[@SNAPSHOT]",
    .examples = "  doppel volume inspect web\n  doppel volume inspect work/db@before\n",
    .options = inspect_options,
    .option_count = DP_ARRAY_LEN(inspect_options),
    .operands = inspect_operands,
    .operand_count = DP_ARRAY_LEN(inspect_operands),
    .run = inspect,
};

/* ---- the family ---- */

static int volume(int argc, char **argv)
{
    static const struct cli_verb *const verbs[] = {
        &pool_verb,           &volume_create_verb, &ls_verb,           &inspect_verb,         &volume_rm_verb,
        &volume_resize_verb,  &volume_rename_verb, &volume_clone_verb, &volume_snapshot_verb, &volume_revert_verb,
        &volume_compact_verb, &volume_export_verb, &volume_resync_verb};
    return cli_family(&cli_volume, verbs, DP_ARRAY_LEN(verbs), argc, argv);
}

const struct cli_verb cli_volume = {
    .name = "volume",
    .summary = "keeps disks in pools: thin volumes, clones, snapshots",
    .usage = "VERB [OPTION]... [POOL/]NAME[@SNAPSHOT]...",
    .examples = "  doppel volume create debian --from debian-12.qcow2\n"
                "  doppel volume clone debian web\n"
                "  doppel run --disk volume=web\n"
                "  doppel volume snapshot web before-upgrade\n"
                "  doppel volume revert web before-upgrade\n"
                "  doppel volume ls --tree\n",
    .run = volume,
};
