/* cli/config.h - doppel.yaml: virtual machines and networks, as the command lines that make them.
 *
 * Model: there is one schema, the option tables of the verbs (options.h). A key of `vms: NAME:` is an option of `doppel run`, a key of
 * `networks: NAME:` one of `doppel network create`; operands are keys, too (`file`). An option that may be repeated is a list, and may have
 * an s at its end: `disks`. A value is the option's text, or a mapping of its parts, which is joined by commas: {file: a.raw, ro: true} is
 * a.raw,ro. An option whose text is NAME=... is a mapping of names.
 * What comes out are arguments as somebody would have typed them, each with the line that it came from. They are checked as far as this is
 * possible without making anything; the rest is the verbs' own business.
 * Invariants: the file is hostile: it is bounded, and so is what comes of it. Keys are known and given once. An error says where:
 * FILE:LINE: vms.web.disks[0].cache: ...
 * Source: YAML 1.1, by libyaml.
 */
#ifndef DP_CLI_CONFIG_H
#define DP_CLI_CONFIG_H

#include "cli/options.h"

enum { CLI_CONFIG_THINGS = 64, CLI_CONFIG_ARGUMENTS = 256, CLI_CONFIG_SIZE = 1 << 20 };

struct cli_config_argument {
    char *text; /* "--memory=1G"; what begins with no dash is an operand */
    unsigned line;
};
struct cli_config_thing { /* a VM or a network */
    char *name;
    unsigned line, count;
    struct cli_config_argument argument[CLI_CONFIG_ARGUMENTS];
};
struct cli_config {
    char *file;
    struct cli_config_thing *vm[CLI_CONFIG_THINGS], *network[CLI_CONFIG_THINGS];
    unsigned vms, networks;
};

/* vm and network: the verbs whose options there are. file: its name, for errors. */
int cli_config_parse(const char *file, const char *text, size_t size, const struct cli_verb *vm, const struct cli_verb *network,
                     struct cli_config **out, struct dp_error *e) DP_MUST_CHECK;
int cli_config_read(const char *file, const struct cli_verb *vm, const struct cli_verb *network, struct cli_config **out,
                    struct dp_error *e) DP_MUST_CHECK;
void cli_config_destroy(struct cli_config *c); /* NULL is fine */

#endif
