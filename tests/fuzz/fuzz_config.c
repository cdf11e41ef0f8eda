/* fuzz_config.c - hostile doppel.yaml (cli/config.h), against a small table of options of every kind.
 *
 * Input: the file. What comes out are options of the table, in bounds, each from a line that there is; an error is one line with a place.
 */
#include <stdlib.h>

#include "cli/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                                                                                                                            \
    do {                                                                                                                                   \
        if (x)                                                                                                                             \
            abort();                                                                                                                       \
    } while (0)

struct values {
    const char *kernel, *model, *console, *file;
    struct cli_list disk, port, nic;
    uint64_t memory, cpus, ms;
    bool flag;
};

static int check(const char *value, struct dp_error *e)
{
    return strstr(value, "bad") ? dp_error_set(e, -EINVAL, "--disk %.80s: bad", value) : 0;
}

#define AT(m) offsetof(struct values, m)
static const struct cli_option options[] = {
    {"kernel", 'k', "FILE", CLI_STRING, AT(kernel)},
    {"model", 0, "MODEL", CLI_STRING, AT(model), .choices = "a|b"},
    {"console", 0, "[=WHERE]", CLI_OPTIONAL, AT(console)},
    {"memory", 'm', "SIZE", CLI_SIZE, AT(memory), .min = 1 << 20},
    {"cpus", 'c', "N", CLI_UINT, AT(cpus), .min = 1, .max = 8},
    {"timeout", 't', "SECONDS", CLI_SECONDS, AT(ms)},
    {"flag", 0, NULL, CLI_FLAG, AT(flag)},
    {"disk", 'd', "FILE[,...]", CLI_LIST, AT(disk), .max = 3, .check = check, .first = "=file"},
    {"nic", 0, "user|network=", CLI_LIST, AT(nic), .first = "user|network"},
    {"port", 'p', "NAME=OPTIONS", CLI_LIST, AT(port)},
    {"name", 'n', "NAME", CLI_STRING, AT(kernel)},
};
static const struct cli_operand operands[] = {{"FILE", AT(file), true}};
static const struct cli_verb verb = {
    .name = "run", .usage = "", .options = options, .option_count = DP_ARRAY_LEN(options), .operands = operands, .operand_count = 1};

static void look(const struct cli_config_thing *t, unsigned lines)
{
    char *argv[CLI_CONFIG_ARGUMENTS];
    struct values v = {0};
    struct dp_error e = {0};
    unsigned operand = 0;
    MUST(!*t->name || t->count > CLI_CONFIG_ARGUMENTS || !t->line || t->line > lines);
    for (unsigned i = 0; i < t->count; i++) {
        argv[i] = t->argument[i].text;
        MUST(!t->argument[i].line || t->argument[i].line > lines);
        operand += argv[i][0] != '-';
    }
    /* What was checked is what the verb takes. */
    MUST(operand > 1 || cli_parse(&verb, (int)t->count, argv, &v, &e) != CLI_OK);
    MUST(v.disk.count > 3 || v.cpus > 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cli_config *c = NULL;
    struct dp_error e = {0};
    unsigned lines = 2; /* YAML knows more ends of lines than \n */
    for (size_t i = 0; i < size; i++)
        lines += data[i] == '\n' || data[i] == '\r' || data[i] == 0x85 || data[i] >= 0xa8;
    if (size > 65536)
        return 0;
    if (cli_config_parse("f", (const char *)data, size, &verb, &verb, &c, &e)) {
        MUST(strncmp(e.text, "f:", 2) || !e.code);
        return 0;
    }
    MUST(c->vms > CLI_CONFIG_THINGS || c->networks > CLI_CONFIG_THINGS);
    for (unsigned i = 0; i < c->vms; i++)
        look(c->vm[i], lines);
    for (unsigned i = 0; i < c->networks; i++)
        look(c->network[i], lines);
    cli_config_destroy(c);
    return 0;
}
