/* cli/config.c - see config.h. */
#include "cli/config.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>

#include "control/rundir.h"

enum { PATH_MAX_LENGTH = 300, NAMES_MAX = 80 };

struct reader {
    const char *file;
    yaml_document_t doc;
    struct dp_error *e;
};

static unsigned line_of(const yaml_node_t *n) { return (unsigned)n->start_mark.line + 1; }

static int wrong(struct reader *r, const yaml_node_t *n, const char *path, const char *format, ...) DP_PRINTF(4, 5);
static int wrong(struct reader *r, const yaml_node_t *n, const char *path, const char *format, ...)
{
    char text[400];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return dp_error_set(r->e, -EINVAL, "%s:%u: %s%s%s", r->file, line_of(n), path, *path ? ": " : "", text);
}

static yaml_node_t *node(struct reader *r, int index) { return yaml_document_get_node(&r->doc, index); }

/* A scalar's text; NULL: it is none, or has a NUL in it. */
static const char *scalar(const yaml_node_t *n)
{
    const char *text = (const char *)n->data.scalar.value;
    return n->type == YAML_SCALAR_NODE && strlen(text) == n->data.scalar.length ? text : NULL;
}

static bool is_null(const yaml_node_t *n)
{
    const char *text = scalar(n);
    return text && n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && (!*text || !strcmp(text, "~") || !strcmp(text, "null"));
}

/* YAML's words for yes and no; -1: another. */
static int truth(const yaml_node_t *n)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
    const char *text = n->data.scalar.style == YAML_PLAIN_SCALAR_STYLE ? scalar(n) : NULL;
    for (unsigned i = 0; text && i < DP_ARRAY_LEN(words); i++)
        if (!strcasecmp(text, words[i]))
            return i & 1;
    return -1;
}

static void below(char to[PATH_MAX_LENGTH], const char *path, const char *key)
{
    snprintf(to, PATH_MAX_LENGTH, "%.200s%s%.60s", path, *path ? "." : "", key);
}

/* What an option's own check says begins with the option, which the place says better. */
static const char *without_option(const struct cli_option *o, const char *value, const char *text)
{
    size_t name = strlen(o->name), size = strlen(value);
    if (strncmp(text, "--", 2) || strncmp(text + 2, o->name, name))
        return text;
    const char *rest = text + 2 + name;
    if (*rest == ' ' && !strncmp(rest + 1, value, size) && rest[1 + size] == ':')
        rest += 1 + size;
    return rest + strspn(rest, ": ");
}

/* ---- one value ---- */

union any {
    struct cli_list list;
    bool flag;
    const char *text;
    uint64_t number;
};

/* Is it a value of the option? */
static int check(const struct cli_option *o, const char *value, struct dp_error *e)
{
    union any to = {0};
    struct cli_option here = *o;
    here.offset = 0;
    int rc = cli_store(&here, value, &to, e) == CLI_OK ? 0 : -EINVAL;
    return !rc && o->check ? o->check(value, e) : rc;
}

static int add(struct reader *r, struct cli_config_thing *t, const yaml_node_t *n, const char *path, const struct cli_option *o,
               const char *value)
{
    char *text = NULL;
    int size = !o                    ? asprintf(&text, "%s", value)
               : o->kind == CLI_FLAG ? asprintf(&text, "--%s", o->name)
                                     : asprintf(&text, "--%s=%s", o->name, value);
    if (size < 0)
        return dp_error_set(r->e, -ENOMEM, "no memory");
    if (t->count == CLI_CONFIG_ARGUMENTS) {
        free(text);
        return wrong(r, n, path, "more than %d options", CLI_CONFIG_ARGUMENTS);
    }
    t->argument[t->count++] = (struct cli_config_argument){text, line_of(n)};
    return 0;
}

static int add_checked(struct reader *r, struct cli_config_thing *t, const yaml_node_t *n, const char *path, const struct cli_option *o,
                       const char *value)
{
    struct dp_error why = {0};
    unsigned same = 0;
    size_t name = strlen(o->name);
    if (check(o, value, &why))
        return wrong(r, n, path, "%s", without_option(o, value, why.text));
    for (unsigned i = 0; i < t->count; i++)
        same += !strncmp(t->argument[i].text, "--", 2) && !strncmp(t->argument[i].text + 2, o->name, name) &&
                t->argument[i].text[2 + name] == '=';
    if (o->kind == CLI_LIST && same == (o->max ? o->max : CLI_LIST_MAX))
        return wrong(r, n, path, "more than %u of them", same);
    return add(r, t, n, path, o, value);
}

/* ---- values with parts ---- */

/* Puts one more part behind text. */
static int join(struct reader *r, struct dp_buffer *text, const struct cli_option *o, const char *key, const yaml_node_t *v,
                const char *path)
{
    const char *value = scalar(v);
    bool bare = o->first && *o->first == '=' && !strcmp(o->first + 1, key);
    if (!value)
        return wrong(r, v, path, "give text, or a list of texts");
    int yes = bare || strspn(value, "oO") ? -1 : truth(v); /* on and off are values of some parts */
    const char *comma = text->size && text->data[text->size - 1] != '=' ? "," : "";
    if (bare) {
        for (; *value; value++)
            dp_buffer_printf(text, *value == ',' ? ",," : "%c", *value);
    } else if (strchr(value, ',')) {
        return wrong(r, v, path, "no comma can be in it");
    } else if (yes == 1) {
        dp_buffer_printf(text, "%s%s", comma, key);
    } else if (yes < 0) {
        dp_buffer_printf(text, "%s%s=%s", comma, key, value);
    }
    return 0;
}

static bool comes_first(const struct cli_option *o, const char *key)
{
    size_t n = strlen(key);
    for (const char *p = o->first ? o->first + (*o->first == '=') : ""; *p; p += strcspn(p, "|"), p += *p == '|')
        if (strcspn(p, "|") == n && !strncmp(p, key, n))
            return true;
    return false;
}

static int check_so_far(struct reader *r, const struct cli_option *o, struct dp_buffer *text, const yaml_node_t *n, const char *path)
{
    struct dp_error why = {0};
    dp_buffer_append(text, "", 1);
    if (text->failed)
        return dp_error_set(r->e, -ENOMEM, "no memory");
    text->size--;
    return check(o, (char *)text->data, &why) ? wrong(r, n, path, "%s", without_option(o, (char *)text->data, why.text)) : 0;
}

/* A mapping's parts, behind what is in text: first those that have to be the first. The key that makes it wrong is the one that is told. */
static int join_all(struct reader *r, const struct cli_option *o, struct dp_buffer *text, const yaml_node_t *map, const char *path)
{
    char here[PATH_MAX_LENGTH], item[PATH_MAX_LENGTH + 16];
    size_t before = text->size;
    int rc = 0;
    for (unsigned round = 0; round < 2; round++) {
        if (round && !rc && o->first && text->size == before)
            return wrong(r, map, path, "%s is missing", o->first + (*o->first == '='));
        for (yaml_node_pair_t *p = map->data.mapping.pairs.start; !rc && p < map->data.mapping.pairs.top; p++) {
            const yaml_node_t *k = node(r, p->key), *v = node(r, p->value);
            const char *key = scalar(k);
            if (!key || !*key || strpbrk(key, ",= \n"))
                return wrong(r, k, path, "a key is a word");
            if (comes_first(o, key) == round)
                continue;
            below(here, path, key);
            if (v->type == YAML_SEQUENCE_NODE) {
                unsigned n = 0;
                for (yaml_node_item_t *i = v->data.sequence.items.start; !rc && i < v->data.sequence.items.top; i++) {
                    snprintf(item, sizeof item, "%s[%u]", here, n++);
                    rc = join(r, text, o, key, node(r, *i), item);
                }
            } else {
                rc = join(r, text, o, key, v, here);
            }
            if (!rc && text->size > 16384)
                rc = wrong(r, v, here, "too long");
            if (!rc && text->size)
                rc = check_so_far(r, o, text, v, here);
        }
    }
    return rc;
}

static int one(struct reader *r, struct cli_config_thing *t, const struct cli_option *o, const yaml_node_t *v, const char *path)
{
    if (v->type != YAML_MAPPING_NODE) {
        const char *text = scalar(v);
        return text ? add_checked(r, t, v, path, o, text) : wrong(r, v, path, "give %s", o->argument);
    }
    struct dp_buffer text = {0};
    int rc = join_all(r, o, &text, v, path);
    dp_buffer_append(&text, "", 1);
    if (!rc)
        rc = text.failed ? dp_error_set(r->e, -ENOMEM, "no memory") : add_checked(r, t, v, path, o, (char *)text.data);
    dp_buffer_fini(&text);
    return rc;
}

/* "NAME=..." options: a mapping of names to texts, to lists of them (rules, joined by semicolons) or to mappings of parts. */
static int named(struct reader *r, struct cli_config_thing *t, const struct cli_option *o, const yaml_node_t *map, const char *path)
{
    char here[PATH_MAX_LENGTH];
    int rc = 0;
    for (yaml_node_pair_t *p = map->data.mapping.pairs.start; !rc && p < map->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = node(r, p->key), *v = node(r, p->value);
        const char *name = scalar(k), *value = scalar(v);
        struct dp_buffer text = {0};
        if (!name || !*name || strchr(name, '='))
            return wrong(r, k, path, "a name has no = in it");
        below(here, path, name);
        dp_buffer_printf(&text, "%s=", name);
        if (v->type == YAML_MAPPING_NODE)
            rc = join_all(r, o, &text, v, here);
        else if (v->type == YAML_SEQUENCE_NODE)
            for (yaml_node_item_t *i = v->data.sequence.items.start; !rc && i < v->data.sequence.items.top; i++) {
                const char *rule = scalar(node(r, *i));
                rc = rule && text.size < 16384 ? 0 : wrong(r, node(r, *i), here, "give texts");
                if (!rc)
                    dp_buffer_printf(&text, "%s%s", i > v->data.sequence.items.start ? "; " : "", rule);
            }
        else if (!value)
            rc = wrong(r, v, here, "give text without NULs");
        else if (!is_null(v))
            dp_buffer_append(&text, value, strlen(value));
        dp_buffer_append(&text, "", 1);
        if (!rc)
            rc = text.failed ? dp_error_set(r->e, -ENOMEM, "no memory") : add_checked(r, t, v, here, o, (char *)text.data);
        dp_buffer_fini(&text);
    }
    return rc;
}

/* ---- keys ---- */

static bool is_named(const struct cli_option *o) { return o->argument && !strncmp(o->argument, "NAME=", 5); }

/* Some options are a terminal's, or are said by the file's own structure. */
static bool is_here(const struct cli_option *o)
{
    static const char *const others[] = {"name", "json", "json-fd", "foreground"};
    for (unsigned i = 0; i < DP_ARRAY_LEN(others); i++)
        if (!strcmp(o->name, others[i]))
            return false;
    return true;
}

static bool is_key(const struct cli_option *o, const char *key)
{
    size_t n = strlen(o->name);
    return !strcmp(o->name, key) || (o->kind == CLI_LIST && !strncmp(o->name, key, n) && !strcmp(key + n, "s"));
}

static bool is_operand(const struct cli_verb *verb, const char *key)
{
    for (unsigned i = 0; i < verb->operand_count; i++)
        if (verb->operands[i].optional && !strcasecmp(verb->operands[i].name, key) && *key >= 'a')
            return true;
    return false;
}

static int unknown(struct reader *r, const struct cli_verb *verb, const yaml_node_t *k, const char *key, const char *path)
{
    const char *names[NAMES_MAX];
    char plural[NAMES_MAX][32];
    unsigned count = 0;
    for (unsigned i = 0; i < verb->option_count && count < NAMES_MAX; i++)
        if (is_here(&verb->options[i])) {
            snprintf(plural[count], sizeof plural[0], "%.29s%s", verb->options[i].name, verb->options[i].kind == CLI_LIST ? "s" : "");
            names[count] = plural[count];
            count++;
        }
    const char *near = cli_nearest(key, names, count);
    if (near)
        return wrong(r, k, path, "unknown key: did you mean %s?", near);
    return wrong(r, k, path, "unknown key: possible are the options of `doppel %s --help`", verb->name);
}

static int option(struct reader *r, struct cli_config_thing *t, const struct cli_option *o, const yaml_node_t *v, const char *path)
{
    char here[PATH_MAX_LENGTH + 16];
    int rc = 0, yes = truth(v);
    if (o->kind == CLI_FLAG || (o->kind == CLI_OPTIONAL && yes >= 0)) {
        if (yes < 0)
            return wrong(r, v, path, "give true or false");
        return !yes ? 0 : o->kind == CLI_FLAG ? add(r, t, v, path, o, "") : add_checked(r, t, v, path, o, "");
    }
    if (is_null(v))
        return wrong(r, v, path, "there is no value: give %s", o->argument);
    if (o->kind != CLI_LIST)
        return v->type == YAML_SCALAR_NODE ? one(r, t, o, v, path) : wrong(r, v, path, "give one value: %s", o->argument);
    if (is_named(o) && v->type == YAML_MAPPING_NODE)
        return named(r, t, o, v, path);
    if (v->type != YAML_SEQUENCE_NODE)
        return one(r, t, o, v, path);
    unsigned n = 0;
    for (yaml_node_item_t *i = v->data.sequence.items.start; !rc && i < v->data.sequence.items.top; i++) {
        snprintf(here, sizeof here, "%s[%u]", path, n++);
        rc = one(r, t, o, node(r, *i), here);
    }
    return rc;
}

/* A VM or a network: the options of its verb. */
static int thing(struct reader *r, struct cli_config_thing *t, const struct cli_verb *verb, const yaml_node_t *map, const char *path)
{
    char here[PATH_MAX_LENGTH];
    bool seen[NAMES_MAX] = {false}, operand = false;
    int rc = 0;
    if (is_null(map))
        return 0;
    if (map->type != YAML_MAPPING_NODE)
        return wrong(r, map, path, "give keys and values: the options of `doppel %s`", verb->name);
    for (yaml_node_pair_t *p = map->data.mapping.pairs.start; !rc && p < map->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = node(r, p->key), *v = node(r, p->value);
        const char *key = scalar(k);
        const struct cli_option *o = NULL;
        if (!key)
            return wrong(r, k, path, "a key is a word");
        below(here, path, key);
        for (unsigned i = 0; i < verb->option_count && i < NAMES_MAX; i++)
            if (is_here(&verb->options[i]) && is_key(&verb->options[i], key)) {
                o = &verb->options[i];
                if (seen[i])
                    return wrong(r, k, here, "it is given twice");
                seen[i] = true;
            }
        if (o) {
            rc = option(r, t, o, v, here);
        } else if (is_operand(verb, key)) {
            const char *value = scalar(v);
            if (operand || !value || !*value || *value == '-')
                return wrong(r, v, here, operand ? "it is given twice" : "give a file's name");
            operand = true;
            rc = add(r, t, v, here, NULL, value);
        } else {
            rc = unknown(r, verb, k, key, here);
        }
    }
    return rc;
}

static int things(struct reader *r, const struct cli_verb *verb, const yaml_node_t *map, const char *path, struct cli_config_thing **to,
                  unsigned *count)
{
    char here[PATH_MAX_LENGTH];
    struct dp_error why = {0};
    int rc = 0;
    if (*count)
        return wrong(r, map, path, "it is given twice");
    if (is_null(map))
        return 0;
    if (map->type != YAML_MAPPING_NODE)
        return wrong(r, map, path, "give names, and what they are called belongs below each");
    for (yaml_node_pair_t *p = map->data.mapping.pairs.start; !rc && p < map->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = node(r, p->key);
        const char *name = scalar(k);
        if (!name || dp_rundir_check_name(name, &why))
            return wrong(r, k, path, "%s", name ? why.text : "a name is a word");
        below(here, path, name);
        for (unsigned i = 0; i < *count; i++)
            if (!strcmp(to[i]->name, name))
                return wrong(r, k, here, "there is one of this name already, in line %u", to[i]->line);
        if (*count == CLI_CONFIG_THINGS)
            return wrong(r, k, here, "more than %d", CLI_CONFIG_THINGS);
        struct cli_config_thing *t = calloc(1, sizeof *t);
        if (!t || !(t->name = strdup(name))) {
            free(t);
            return dp_error_set(r->e, -ENOMEM, "no memory");
        }
        to[(*count)++] = t;
        t->line = line_of(k);
        rc = thing(r, t, verb, node(r, p->value), here);
    }
    return rc;
}

/* ---- the file ---- */

static int document(struct reader *r, const struct cli_verb *vm, const struct cli_verb *network, struct cli_config *c)
{
    yaml_node_t *root = yaml_document_get_root_node(&r->doc);
    int rc = 0;
    if (!root)
        return dp_error_set(r->e, -EINVAL, "%s: it is empty: say what there is below vms: and networks:", r->file);
    if (root->type != YAML_MAPPING_NODE)
        return wrong(r, root, "", "it has the keys vms and networks");
    for (yaml_node_pair_t *p = root->data.mapping.pairs.start; !rc && p < root->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = node(r, p->key), *v = node(r, p->value);
        const char *key = scalar(k);
        if (key && !strcmp(key, "vms"))
            rc = things(r, vm, v, key, c->vm, &c->vms);
        else if (key && !strcmp(key, "networks"))
            rc = things(r, network, v, key, c->network, &c->networks);
        else
            rc = wrong(r, k, key ? key : "", "unknown key: possible are vms and networks");
    }
    return rc;
}

int cli_config_parse(const char *file, const char *text, size_t size, const struct cli_verb *vm, const struct cli_verb *network,
                     struct cli_config **out, struct dp_error *e)
{
    struct reader r = {.file = file, .e = e};
    struct cli_config *c = calloc(1, sizeof *c);
    yaml_parser_t parser;
    int rc = 0;
    if (!c || !(c->file = strdup(file)) || !yaml_parser_initialize(&parser)) {
        cli_config_destroy(c);
        return dp_error_set(e, -ENOMEM, "no memory");
    }
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
    for (unsigned documents = 0; !rc; documents++) {
        if (!yaml_parser_load(&parser, &r.doc)) {
            rc = dp_error_set(e, -EINVAL, "%s:%zu: %s%s%s", file, parser.problem_mark.line + 1,
                              parser.problem ? parser.problem : "this is no YAML", parser.context ? ", " : "",
                              parser.context ? parser.context : "");
            break;
        }
        bool more = yaml_document_get_root_node(&r.doc);
        if (!documents)
            rc = document(&r, vm, network, c);
        else if (more)
            rc = wrong(&r, yaml_document_get_root_node(&r.doc), "", "one document is enough (---)");
        yaml_document_delete(&r.doc);
        if (!more)
            break;
    }
    yaml_parser_delete(&parser);
    if (rc)
        cli_config_destroy(c);
    else
        *out = c;
    return rc;
}

int cli_config_read(const char *file, const struct cli_verb *vm, const struct cli_verb *network, struct cli_config **out,
                    struct dp_error *e)
{
    struct stat st;
    int fd = open(file, O_RDONLY | O_CLOEXEC), rc;
    char *text = malloc(CLI_CONFIG_SIZE + 1);
    size_t size = 0;
    ssize_t n = 1;
    if (!text)
        rc = dp_error_set(e, -ENOMEM, "no memory");
    else if (fd < 0 || fstat(fd, &st))
        rc = dp_error_set(e, -errno, "%s: %s", file, strerror(errno));
    else {
        while (size <= CLI_CONFIG_SIZE && (n = read(fd, text + size, CLI_CONFIG_SIZE + 1 - size)) > 0)
            size += (size_t)n;
        rc = n < 0                    ? dp_error_set(e, -errno, "%s: %s", file, strerror(errno))
             : size > CLI_CONFIG_SIZE ? dp_error_set(e, -EFBIG, "%s: more than %d bytes", file, CLI_CONFIG_SIZE)
                                      : cli_config_parse(file, text, size, vm, network, out, e);
    }
    if (fd >= 0)
        close(fd);
    free(text);
    return rc;
}

static void thing_destroy(struct cli_config_thing *t)
{
    for (unsigned i = 0; i < t->count; i++)
        free(t->argument[i].text);
    free(t->name);
    free(t);
}

void cli_config_destroy(struct cli_config *c)
{
    if (!c)
        return;
    for (unsigned i = 0; i < c->vms; i++)
        thing_destroy(c->vm[i]);
    for (unsigned i = 0; i < c->networks; i++)
        thing_destroy(c->network[i]);
    free(c->file);
    free(c);
}
