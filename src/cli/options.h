/* cli/options.h - command-line options as one table per verb: parsing, help, suggestions and completion all read it.
 *
 * Model: a row says name, letter, argument, kind and where in the verb's struct the value goes. Strings point into argv.
 * Operands (words that belong to no option) are const char *, must all be given unless they are optional, and may stand among
 * the options. After "--" all words are operands.
 */
#ifndef DP_CLI_OPTIONS_H
#define DP_CLI_OPTIONS_H

#include "base/base.h"

enum cli_kind {
    CLI_FLAG,     /* bool */
    CLI_STRING,   /* const char * */
    CLI_OPTIONAL, /* const char *: "--name" gives "", "--name=VALUE" gives VALUE */
    CLI_SIZE,     /* uint64_t bytes, within min..max */
    CLI_UINT,     /* uint64_t within min..max */
    CLI_SECONDS,  /* uint64_t milliseconds, from a decimal number of seconds */
    CLI_LIST,     /* struct cli_list: may be repeated */
};

enum { CLI_LIST_MAX = 32 };
struct cli_list {
    const char *value[CLI_LIST_MAX];
    unsigned count;
};

struct cli_option {
    const char *name;     /* without the dashes */
    char letter;          /* 0: none */
    const char *argument; /* for the help: "SIZE"; NULL for flags */
    enum cli_kind kind;
    uint32_t offset;
    uint64_t min, max;   /* max 0: any */
    const char *choices; /* "a|b|c": CLI_STRING takes only these; NULL: anything */
    const char *help;
    /* For doppel.yaml (config.h), all may be NULL. check: is the text good? Nothing is opened. first: names of parts, joined by |, which come
     * before others; "=file": one that stands there without its name. */
    int (*check)(const char *value, struct dp_error *e);
    const char *first;
};

struct cli_operand {
    const char *name; /* "NAME" */
    uint32_t offset;
    bool optional;
};

struct cli_verb {
    const char *name, *summary, *usage, *examples;
    const struct cli_option *options;
    unsigned option_count;
    const struct cli_operand *operands;
    unsigned operand_count;
    void (*more_help)(FILE *to); /* may be NULL */
    int (*run)(int argc, char **argv);
};

enum { CLI_OK = 0, CLI_HELP = 1, CLI_USAGE = 2 };
/* Fills values. CLI_HELP: help was asked for; CLI_USAGE: e->text says what is wrong. */
int cli_parse(const struct cli_verb *verb, int argc, char **argv, void *values, struct dp_error *e);
/* Puts one value where it belongs in values: CLI_OK or CLI_USAGE. */
int cli_store(const struct cli_option *o, const char *value, void *values, struct dp_error *e);
void cli_help(const struct cli_verb *verb, FILE *to);
/* The same, and what verbs do about it: >= 0 is the exit status, for help was shown or an error told; negative: go on. */
int cli_begin(const struct cli_verb *verb, int argc, char **argv, void *values);
/* A verb that is a family of verbs, `doppel network create`: runs the one that argv names, or tells which there are. */
int cli_family(const struct cli_verb *family, const struct cli_verb *const *verbs, unsigned count, int argc, char **argv);
/* The name among count that is nearest to text, or NULL when none is near. */
const char *cli_nearest(const char *text, const char *const *names, unsigned count);

extern const struct cli_verb cli_run, cli_list, cli_stats, cli_control, cli_screenshot, cli_type, cli_key, cli_media_verb, cli_image, cli_balloon,
    cli_disk, cli_volume,
    cli_network, cli_network_create, cli_nic, cli_up, cli_down, cli_config_verb, cli_doctor, cli_lockstep;

enum { EXIT_STATUS_ERROR = 125, EXIT_STATUS_USAGE = 2 };

#endif
