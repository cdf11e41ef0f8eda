/* cli/control.c - `doppel control`: one command to the control socket of a named VM, the result as JSON. */
#include "cli/options.h"

#include <json.h>
#include <unistd.h>

#include "cli/client.h"
#include "vm/control.h"

struct control_options {
    const char *name, *command;
};
static const struct cli_operand operands[] = {
    {"NAME", offsetof(struct control_options, name)},
    {"COMMAND", offsetof(struct control_options, command)},
};

static void more_help(FILE *to)
{
    const struct dp_control_command *c;
    fprintf(to, "\nCommands:\n");
    for (unsigned i = 0; (c = dp_control_command(i)); i++)
        fprintf(to, "  %-34s %s\n", c->name, c->help);
    fprintf(to, "\nCommands that need an argument are verbs of their own: doppel screenshot, type, key, media.\n");
}

static int control(int argc, char **argv)
{
    struct control_options o = {0};
    struct dp_error e = {0};
    struct json_object *result = NULL;
    int fd, status = cli_begin(&cli_control, argc, argv, &o);
    if (status >= 0)
        return status;
    if (!cli_connect(o.name, &fd, &e)) {
        result = cli_ask(fd, o.command, &e);
        close(fd);
    }
    if (!result) {
        fprintf(stderr, "doppel: %s\n", e.text);
        return EXIT_STATUS_ERROR;
    }
    printf("%s\n", json_object_to_json_string_ext(result, JSON_C_TO_STRING_PLAIN));
    json_object_put(result);
    return 0;
}

const struct cli_verb cli_control = {
    .name = "control",
    .summary = "gives a command to a named VM that runs",
    .usage = "NAME COMMAND",
    .examples = "  doppel control web query-status\n  doppel control web quit\n",
    .operands = operands,
    .operand_count = DP_ARRAY_LEN(operands),
    .more_help = more_help,
    .run = control,
};
