/* cli/options.c - see options.h. */
#include "cli/options.h"

#include <stdlib.h>

enum { NAME_MAX_LENGTH = 48 };

/* Levenshtein distance, of which only small values interest. */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[NAME_MAX_LENGTH + 1];
    size_t la = strlen(a), lb = strlen(b);
    if (la > NAME_MAX_LENGTH || lb > NAME_MAX_LENGTH)
        return NAME_MAX_LENGTH;
    for (size_t j = 0; j <= lb; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; i <= la; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            unsigned change = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = DP_MIN(change, DP_MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[lb];
}

const char *cli_nearest(const char *text, const char *const *names, unsigned count)
{
    const char *best = NULL;
    unsigned least = (unsigned)strlen(text) / 3 + 2; /* farther is no likeness */
    for (unsigned i = 0; i < count; i++) {
        /* The beginning of a longer name counts as near. */
        unsigned d = strlen(text) >= 2 && !strncmp(names[i], text, strlen(text)) ? 1 : distance(text, names[i]);
        if (d < least) {
            least = d;
            best = names[i];
        }
    }
    return best;
}

static int unknown(const struct cli_verb *verb, const char *given, size_t length, struct dp_error *e)
{
    const char *names[64];
    char text[NAME_MAX_LENGTH + 1];
    unsigned count = DP_MIN(verb->option_count, (unsigned)DP_ARRAY_LEN(names));
    snprintf(text, sizeof text, "%.*s", (int)DP_MIN(length, (size_t)NAME_MAX_LENGTH), given);
    for (unsigned i = 0; i < count; i++)
        names[i] = verb->options[i].name;
    const char *near = cli_nearest(text, names, count);
    if (near)
        dp_error_set(e, -EINVAL, "unknown option --%s: did you mean --%s?", text, near);
    else
        dp_error_set(e, -EINVAL, "unknown option --%s: see `doppel %s --help`", text, verb->name);
    return CLI_USAGE;
}

static bool is_choice(const char *choices, const char *value)
{
    size_t length = strlen(value);
    for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (strcspn(p, "|") == length && !strncmp(p, value, length))
            return true;
    return false;
}

int cli_store(const struct cli_option *o, const char *value, void *values, struct dp_error *e)
{
    void *at = (char *)values + o->offset;
    uint64_t number = 0;
    char *end;
    switch (o->kind) {
    case CLI_FLAG:
        *(bool *)at = true;
        return CLI_OK;
    case CLI_STRING:
    case CLI_OPTIONAL:
        if (o->choices && !is_choice(o->choices, value)) {
            dp_error_set(e, -EINVAL, "--%s %s: choose one of %s", o->name, value, o->choices);
            return CLI_USAGE;
        }
        *(const char **)at = value;
        return CLI_OK;
    case CLI_LIST: {
        struct cli_list *l = at;
        if (l->count == (o->max ? o->max : CLI_LIST_MAX)) {
            dp_error_set(e, -EINVAL, "--%s is given more than %u times", o->name, l->count);
            return CLI_USAGE;
        }
        l->value[l->count++] = value;
        return CLI_OK;
    }
    case CLI_SIZE:
        if (dp_parse_size(value, &number, e)) {
            dp_error_prefix(e, -EINVAL, "--%s", o->name);
            return CLI_USAGE;
        }
        if (number < o->min && number) {
            dp_error_set(e, -EINVAL, "--%s %s is only %s bytes: did you mean %sM?", o->name, value, value, value);
            if (strspn(value, "0123456789") != strlen(value))
                dp_error_set(e, -EINVAL, "--%s %s is too small: give at least %lluM", o->name, value, (unsigned long long)o->min >> 20);
            return CLI_USAGE;
        }
        break;
    case CLI_UINT:
        errno = 0;
        number = strtoull(value, &end, 10);
        if (!*value || strspn(value, "0123456789") != strlen(value) || errno) {
            dp_error_set(e, -EINVAL, "--%s %s: give a number", o->name, value);
            return CLI_USAGE;
        }
        break;
    case CLI_SECONDS: {
        double seconds = strtod(value, &end);
        if (!*value || strspn(value, "0123456789.") != strlen(value) || *end || !(seconds > 0 && seconds < 1e9)) {
            dp_error_set(e, -EINVAL, "--%s %s: give a number of seconds greater than 0, such as 30 or 0.5", o->name, value);
            return CLI_USAGE;
        }
        number = (uint64_t)(seconds * 1000);
        *(uint64_t *)at = number ? number : 1;
        return CLI_OK;
    }
    }
    if (number < o->min || (o->max && number > o->max)) {
        if (o->max)
            dp_error_set(e, -EINVAL, "--%s %s: possible are %llu to %llu", o->name, value, (unsigned long long)o->min,
                         (unsigned long long)o->max);
        else
            dp_error_set(e, -EINVAL, "--%s %s is too small: give at least %lluM", o->name, value, (unsigned long long)o->min >> 20);
        return CLI_USAGE;
    }
    *(uint64_t *)at = number;
    return CLI_OK;
}

static const struct cli_option *by_letter(const struct cli_verb *verb, char letter)
{
    for (unsigned i = 0; i < verb->option_count; i++)
        if (letter && verb->options[i].letter == letter)
            return &verb->options[i];
    return NULL;
}

static const struct cli_option *by_name(const struct cli_verb *verb, const char *name, size_t length)
{
    for (unsigned i = 0; i < verb->option_count; i++)
        if (strlen(verb->options[i].name) == length && !strncmp(verb->options[i].name, name, length))
            return &verb->options[i];
    return NULL;
}

int cli_parse(const struct cli_verb *verb, int argc, char **argv, void *values, struct dp_error *e)
{
    unsigned operands = 0;
    bool only_operands = false;
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i], *value = NULL;
        const struct cli_option *o;
        if (!only_operands && !strcmp(a, "--")) {
            only_operands = true;
            continue;
        }
        if (!only_operands && (!strcmp(a, "--help") || !strcmp(a, "-h")))
            return CLI_HELP;
        if (!only_operands && a[0] == '-' && a[1] == '-' && a[2]) {
            size_t length = strcspn(a + 2, "=");
            if (!(o = by_name(verb, a + 2, length)))
                return unknown(verb, a + 2, length, e);
            value = a[2 + length] ? a + 3 + length : NULL;
        } else if (!only_operands && a[0] == '-' && a[1]) {
            /* -kernel and the like, as other programs write them, is no -k with the value "ernel". */
            if ((o = by_name(verb, a + 1, strlen(a + 1)))) {
                dp_error_set(e, -EINVAL, "unknown option %s: did you mean --%s?", a, o->name);
                return CLI_USAGE;
            }
            if (!(o = by_letter(verb, a[1]))) {
                dp_error_set(e, -EINVAL, "unknown option %s: see `doppel %s --help`", a, verb->name);
                return CLI_USAGE;
            }
            value = a[2] ? a + 2 : NULL;
        } else if (operands < verb->operand_count) {
            *(const char **)((char *)values + verb->operands[operands++].offset) = a;
            continue;
        } else {
            dp_error_set(e, -EINVAL, "what is '%s'? %s: see `doppel %s --help`", a,
                         operands ? "That is one word too many" : "Everything is given by options", verb->name);
            return CLI_USAGE;
        }
        if (o->kind == CLI_FLAG && value) {
            dp_error_set(e, -EINVAL, "--%s takes no value", o->name);
            return CLI_USAGE;
        }
        if (o->kind == CLI_OPTIONAL && !value)
            value = "";
        else if (o->kind != CLI_FLAG && !value) {
            if (i + 1 == argc) {
                dp_error_set(e, -EINVAL, "--%s needs a value: --%s %s", o->name, o->name, o->argument);
                return CLI_USAGE;
            }
            value = argv[++i];
        }
        int rc = cli_store(o, value, values, e);
        if (rc)
            return rc;
    }
    if (operands < verb->operand_count && !verb->operands[operands].optional) {
        dp_error_set(e, -EINVAL, "%s is missing: doppel %s %s", verb->operands[operands].name, verb->name, verb->usage);
        return CLI_USAGE;
    }
    return CLI_OK;
}

int cli_begin(const struct cli_verb *verb, int argc, char **argv, void *values)
{
    struct dp_error e = {0};
    switch (cli_parse(verb, argc, argv, values, &e)) {
    case CLI_HELP:
        cli_help(verb, stdout);
        return 0;
    case CLI_USAGE:
        fprintf(stderr, "doppel: %s\n", e.text);
        return EXIT_STATUS_USAGE;
    }
    return -1;
}

/* Two columns; what is too long for the left one has a line of its own, what is too long for the right one goes on below. */
static void help_line(FILE *to, const char *left, const char *text)
{
    enum { LEFT = 34, RIGHT = 80 };
    if (strlen(left) > LEFT)
        fprintf(to, "  %s\n%*s", left, LEFT + 3, "");
    else
        fprintf(to, "  %-*s ", LEFT, left);
    while (strlen(text) > RIGHT) {
        int n = RIGHT;
        while (n && text[n] != ' ')
            n--;
        n = n ? n : RIGHT;
        fprintf(to, "%.*s\n%*s", n, text, LEFT + 3, "");
        text += n + (text[n] == ' ');
    }
    fprintf(to, "%s\n", text);
}

void cli_help(const struct cli_verb *verb, FILE *to)
{
    fprintf(to, "doppel %s - %s\n\nExamples:\n%s\nUsage: doppel %s %s\n\nOptions:\n", verb->name, verb->summary, verb->examples, verb->name,
            verb->usage);
    for (unsigned i = 0; i < verb->option_count; i++) {
        const struct cli_option *o = &verb->options[i];
        char left[160], letter[8] = "    ";
        if (o->letter)
            snprintf(letter, sizeof letter, "-%c, ", o->letter);
        snprintf(left, sizeof left, "%s--%s%s%s", letter, o->name, o->argument && o->kind != CLI_OPTIONAL ? " " : "",
                 o->argument ? o->argument : "");
        help_line(to, left, o->help);
    }
    help_line(to, "-h, --help", "this text");
    if (verb->more_help)
        verb->more_help(to);
}

/* The last word of a verb's name. */
static const char *last_word(const struct cli_verb *verb)
{
    const char *space = strrchr(verb->name, ' ');
    return space ? space + 1 : verb->name;
}

static void family_help(const struct cli_verb *family, const struct cli_verb *const *verbs, unsigned count)
{
    printf("doppel %s - %s\n\nExamples:\n%s\nUsage: doppel %s %s\n\nVerbs:\n", family->name, family->summary, family->examples, family->name,
           family->usage);
    for (unsigned i = 0; i < count; i++)
        help_line(stdout, last_word(verbs[i]), verbs[i]->summary);
    printf("\n`doppel %s VERB --help` tells about one.\n", family->name);
}

int cli_family(const struct cli_verb *family, const struct cli_verb *const *verbs, unsigned count, int argc, char **argv)
{
    enum { MAX = 32 };
    const char *names[MAX], *name = argc ? argv[0] : "";
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
        family_help(family, verbs, count);
        return 0;
    }
    for (unsigned i = 0; i < count && i < MAX; i++) {
        names[i] = last_word(verbs[i]);
        if (!strcmp(name, names[i]))
            return verbs[i]->run(argc - 1, argv + 1);
    }
    const char *near = argc ? cli_nearest(name, names, DP_MIN(count, (unsigned)MAX)) : NULL;
    if (argc)
        fprintf(stderr, "doppel %s: unknown verb '%s'%s%s%s; see `doppel %s --help`\n", family->name, name, near ? ": did you mean '" : "",
                near ? near : "", near ? "'?" : "", family->name);
    else
        fprintf(stderr, "doppel %s: say what to do; see `doppel %s --help`\n", family->name, family->name);
    return EXIT_STATUS_USAGE;
}
